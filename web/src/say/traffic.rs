//! How fast replication goes, worded.

use crate::both;
use crate::fmt;
use crate::text::{Lang, Text};
use tsugi_core::state::Traffic;

const IDLE: Text = Text { en: "nothing to send", ja: "送るデータなし" };
const JOINT: Text = Text { en: ", ", ja: "、" };

/// `12 MB/s, compressed to 32 %, confirmed after 1.2 ms`; a write that waits is named with its time.
pub fn traffic(lang: Lang, t: &Traffic) -> String {
    let mut parts = Vec::new();
    let is_idle = t.bytes_per_s == 0 && t.confirm_us.is_none() && t.waiting_s == 0;
    if is_idle {
        parts.push(IDLE.in_(lang).to_owned());
    } else {
        parts.push(fmt::rate(t.bytes_per_s));
        if let Some(percent) = t.compressed_percent {
            parts.push(both!(lang, "compressed to {percent} %", "{percent} % に圧縮"));
        }
    }
    if let Some(us) = t.confirm_us {
        let ms = fmt::millis_of(us);
        parts.push(both!(lang, "confirmed after {ms} ms", "確認まで {ms} ミリ秒"));
    }
    if is_waiting(t) {
        let s = t.waiting_s;
        parts.push(both!(lang, "a write has been waiting for {s} s", "{s} 秒間、確認を待っている書き込みあり"));
    }
    parts.join(JOINT.in_(lang))
}

/// Somebody waits who should not: longer than a connection that is resumed takes on a local network.
pub fn is_waiting(t: &Traffic) -> bool {
    t.waiting_s > 0
}
