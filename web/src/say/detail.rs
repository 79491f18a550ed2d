//! What a checker saw, which the agent writes in English, in the reader's language.
//!
//! Only the agent's own sentences are known here; what an operating system or an application said stays as it was said.

use crate::text::Lang;

/// The detail of a checker's result.
pub fn detail(lang: Lang, text: &str) -> String {
    match lang {
        Lang::En => text.to_owned(),
        Lang::Ja => japanese(text).unwrap_or_else(|| text.to_owned()),
    }
}

fn japanese(text: &str) -> Option<String> {
    if let Some(addr) = text.strip_suffix(" is on no interface of this node") {
        return Some(format!("{addr} はこのノードのどのインターフェイスにもありません"));
    }
    if let Some((addr, interface)) = text.split_once(" is on ")
        && addr.parse::<std::net::IpAddr>().is_ok()
    {
        return Some(format!("{addr} は {interface} に設定されています"));
    }
    if let Some((count, what)) = text.split_once(" running: ") {
        return Some(running(count, what));
    }
    if let Some(to) = text.strip_prefix("connect ") {
        if let Some(at) = to.strip_suffix(": open") {
            return Some(format!("{at} に接続できます"));
        }
        let (at, why) = to.split_once(": ")?;
        return Some(format!("{at} に接続できません（{}）", not_connected(why)));
    }
    None
}

fn running(count: &str, what: &str) -> String {
    let (what, expected) = match what.strip_suffix(" expected)").and_then(|w| w.rsplit_once(" (at ")) {
        Some((what, bound)) => (what, bound.split_once(' ')),
        None => (what, None),
    };
    let what = match what.split_once(" with arguments like ") {
        Some((name, pattern)) => format!("{name}（引数 {pattern}）"),
        None if what == "any process" => "任意のプロセス".to_owned(),
        None => what.to_owned(),
    };
    match expected {
        Some(("least", n)) => format!("動作中 {count} 個（{n} 個以上必要）：{what}"),
        Some((_, n)) => format!("動作中 {count} 個（{n} 個まで）：{what}"),
        None => format!("動作中 {count} 個：{what}"),
    }
}

fn not_connected(why: &str) -> String {
    if let Some(bound) = why.strip_prefix("no answer within ") {
        return format!("{bound} 以内に応答なし");
    }
    if let Some(bound) = why.strip_prefix("the name was not resolved within ") {
        return format!("{bound} 以内に名前を解決できず");
    }
    if let Some(error) = why.strip_prefix("the name cannot be resolved: ") {
        return format!("名前を解決できません：{error}");
    }
    match why {
        "refused" => "拒否されました".to_owned(),
        "the name has no address" => "名前にアドレスがありません".to_owned(),
        other => other.to_owned(),
    }
}

/// Why a replication connection ended, as the data process says it.
pub fn lost_session(lang: Lang, text: &str) -> String {
    // That it broke is said by the sentence around it.
    let text = text.strip_prefix("the connection broke: ").unwrap_or(text);
    if lang == Lang::En {
        return text.to_owned();
    }
    if let Some(silence) = text.strip_prefix("the peer said nothing for ") {
        return format!("相手ノードから {silence} 応答がありません");
    }
    let ja = match text {
        "the serving node released the directories" => "稼働側のノードがディレクトリを解放しました",
        "the session ended" => "接続が終了しました",
        "the peer closed the session" => "相手ノードが接続を閉じました",
        "the connection broke during the resynchronisation" => "再同期の途中で切れました",
        other => other,
    };
    ja.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_checkers_say_is_said_in_japanese() {
        for (en, ja) in [
            ("198.18.0.100 is on eth0", "198.18.0.100 は eth0 に設定されています"),
            ("198.18.0.100 is on no interface of this node", "198.18.0.100 はこのノードのどのインターフェイスにもありません"),
            ("1 running: nginx", "動作中 1 個：nginx"),
            ("0 running: db with arguments like `-D /x` (at least 1 expected)", "動作中 0 個（1 個以上必要）：db（引数 `-D /x`）"),
            ("9 running: any process (at most 2 expected)", "動作中 9 個（2 個まで）：任意のプロセス"),
            ("connect 10.0.0.1:80: open", "10.0.0.1:80 に接続できます"),
            ("connect web:80: refused", "web:80 に接続できません（拒否されました）"),
            ("connect web:80: no answer within 2s", "web:80 に接続できません（2s 以内に応答なし）"),
            ("the disk is on fire", "the disk is on fire"),
        ] {
            assert_eq!(detail(Lang::En, en), en);
            assert_eq!(detail(Lang::Ja, en), ja);
        }
    }

    #[test]
    fn why_a_session_was_lost_is_said_once_and_in_japanese() {
        let broken = "the connection broke: Broken pipe (os error 32)";
        assert_eq!(lost_session(Lang::En, broken), "Broken pipe (os error 32)");
        assert_eq!(lost_session(Lang::Ja, broken), "Broken pipe (os error 32)");
        assert_eq!(lost_session(Lang::Ja, "the peer said nothing for 2000 ms"), "相手ノードから 2000 ms 応答がありません");
    }
}
