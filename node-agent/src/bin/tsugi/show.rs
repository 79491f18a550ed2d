//! How snapshots and events look in a terminal. Colour never stands alone: a mark and a word are beside it.

use crate::words;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Write;
use tsugi_core::copies::Reach;
use tsugi_core::event::EventRecord;
use tsugi_core::ids::NodeName;
use tsugi_core::module::Authority;
use tsugi_core::state::{Flag, FuseTransport, Health, Readiness, Replication, Snapshot};
use tsugi_core::wire::local::RfsView;
use tsugi_web::say::{self, Mark};
use tsugi_web::text::{Lang, Text};
use tsugi_web::{both, fmt};

/// Column in which values begin, in cells.
const LABEL_CELLS: usize = 16;

/// Every module in a block of its own.
pub fn state(lang: Lang, snapshots: &[Snapshot], is_verbose: bool, is_terminal: bool) -> String {
    if snapshots.is_empty() {
        return format!("{}\n", words::NOTHING.in_(lang));
    }
    let is_coloured = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let blocks: Vec<String> = snapshots.iter().map(|s| block(lang, s, is_verbose, is_coloured)).collect();
    blocks.join("\n")
}

fn block(lang: Lang, s: &Snapshot, is_verbose: bool, is_coloured: bool) -> String {
    let mut out = String::new();
    let mark = say::mark(s.state, s.readiness);
    let head = format!("{} {} ({})", symbol(mark), s.state.word(), say::readiness(lang, s.readiness));
    let (on, off) = if is_coloured { (colour(s.readiness), "\x1b[0m") } else { ("", "") };
    let gloss = say::gloss(lang, s.state, s.readiness, s.reason.as_ref());
    let _ = writeln!(out, "{}  {on}{head}{off}  {gloss}", s.module);
    if let Some(said) = say::reason_of(lang, s) {
        let _ = writeln!(out, "  {}", said.text);
        let rest = said.rest();
        if !rest.is_empty() {
            let _ = writeln!(out, "  {rest}");
        }
        if let Some(command) = &said.command {
            row(&mut out, words::RUN.in_(lang), format!("{} {command}", said.command_label(lang)).trim_start());
        }
    }
    row(&mut out, words::SINCE.in_(lang), &format!("{} ({})", local(s.since_unix_ms), ago(lang, s.since_unix_ms)));
    if let Some(until) = s.maintenance_until_unix_ms {
        let now = Timestamp::now().as_millisecond().try_into().unwrap_or(0);
        let left = fmt::time_left(lang, until.saturating_sub(now) / 1000);
        row(&mut out, words::MAINTENANCE.in_(lang), &format!("{} ({left})", local(until)));
    }
    if s.replication != Replication::None || s.flag != Flag::Unknown {
        row(&mut out, words::DATA.in_(lang), say::flag(lang, s.flag));
    }
    if let Some(peer) = &s.peer.node {
        let contact = if s.peer.in_contact { words::IN_CONTACT } else { words::NO_CONTACT };
        let state = s.peer.state.map(|p| format!("{}, ", p.word())).unwrap_or_default();
        row(&mut out, words::PEER.in_(lang), &format!("{peer}: {state}{}", contact.in_(lang)));
    }
    if s.replication != Replication::None {
        row(&mut out, words::REPLICATION.in_(lang), say::replication(lang, s.replication));
    }
    if let Some(text) = resync(lang, s) {
        row(&mut out, words::RESYNC.in_(lang), &text);
    }
    if let Some(said) = say::unrepaired(lang, s) {
        row(&mut out, words::COMPARISON.in_(lang), &format!("{} {}", said.text, said.rest()));
        if let Some(command) = &said.command {
            row(&mut out, words::RUN.in_(lang), &format!("{} {command}", said.command_label(lang)));
        }
    }
    for addr in &s.vips_held {
        row(&mut out, words::VIP.in_(lang), &addr.to_string());
    }
    let warnings = say::authority_warnings(lang, &s.authority, &s.arbiter);
    if s.authority.kind != Authority::Arbiter {
        row(&mut out, words::GOES_ON_BY.in_(lang), &say::authority(lang, &s.authority));
    } else if let (Some(arbiter), true) = (say::arbiter(lang, &s.arbiter), warnings.is_empty()) {
        row(&mut out, words::ARBITER.in_(lang), &format!("{}: {arbiter}", say::authority(lang, &s.authority)));
    }
    for warning in warnings {
        row(&mut out, words::ARBITER.in_(lang), &warning);
    }
    if is_verbose {
        details(&mut out, lang, s);
    }
    out
}

fn details(out: &mut String, lang: Lang, s: &Snapshot) {
    for n in &s.peer.networks {
        let contact = if n.is_up { words::IN_CONTACT } else { words::NO_CONTACT };
        let rtt = n.rtt_us.map(|us| format!(", {}.{:03} ms", us / 1000, us % 1000)).unwrap_or_default();
        row(out, words::NETWORK.in_(lang), &format!("{}: {}{rtt}", n.lan, contact.in_(lang)));
    }
    for r in &s.resources {
        let action = format!(" ({})", say::action(lang, r.action));
        row(out, words::RESOURCE.in_(lang), &checked(lang, r.health, &r.name, &r.detail, &action));
    }
    let possible: Vec<_> = s.allowed.iter().filter(|a| a.refusal.is_none()).map(|a| a.verb.word()).collect();
    row(out, words::ORDERS.in_(lang), &possible.join(" "));
    let in_sync: Vec<_> = s.in_sync.iter().map(NodeName::as_str).collect();
    row(
        out,
        words::RECORD.in_(lang),
        &format!("epoch {}, in sync {{{}}}, session {}, gen {}", s.epoch, in_sync.join(" "), s.session, s.gen_id),
    );
    row(out, words::CONFIGURATION.in_(lang), &s.config_generation.to_string());
}

/// How replication stands.
pub fn rfs(lang: Lang, view: &RfsView) -> String {
    let (s, mut out) = (&view.snapshot, String::new());
    let _ = writeln!(out, "{}", line(lang, s));
    for dir in &view.dirs {
        row(&mut out, words::DIRECTORY.in_(lang), dir);
    }
    row(&mut out, words::DATA.in_(lang), say::flag(lang, s.flag));
    row(&mut out, words::REPLICATION.in_(lang), say::replication(lang, s.replication));
    if let Some(text) = resync(lang, s) {
        row(&mut out, words::RESYNC.in_(lang), &text);
    }
    if let Some(traffic) = &s.traffic {
        row(&mut out, words::TRAFFIC.in_(lang), &say::traffic(lang, traffic));
    }
    if let Some(figures) = &view.figures {
        let reach = figures.reach.map(|reach| match reach {
            Reach::Whole => words::REACH_WHOLE,
            Reach::Noted => words::REACH_NOTED,
            Reach::Logged => words::REACH_LOGGED,
            Reach::Rest => words::REACH_REST,
        });
        if let Some(reach) = reach {
            row(&mut out, words::REACH.in_(lang), reach.in_(lang));
        }
        if let Some(transport) = figures.transport {
            let how = match transport {
                FuseTransport::IoUring => words::OVER_IO_URING,
                FuseTransport::Device => words::OVER_DEVICE,
            };
            row(&mut out, words::TRANSPORT.in_(lang), how.in_(lang));
        }
        if s.replication != Replication::Off {
            let (last, bytes) = (fmt::count(figures.last.0), fmt::bytes(figures.bytes));
            row(&mut out, words::STREAM.in_(lang), &format!("{last} ({bytes})"));
            let (n, ms) = (fmt::count(figures.waiting), figures.waiting_ms);
            row(&mut out, words::WAITING.in_(lang), &both!(lang, "{n}, the oldest for {ms} ms", "{n} 件、最長 {ms} ミリ秒"));
        }
    }
    let comparison = match (&s.verification.running, &s.verification.last) {
        (Some(running), _) => {
            let compared = say::compared(lang, running);
            both!(lang, "under way: {compared}", "照合中：{compared}")
        }
        (None, Some(last)) => {
            let now = Timestamp::now().as_millisecond().try_into().unwrap_or(0);
            format!("{} ({})", say::last_verification(lang, last, now), say::compared(lang, &last.verified.done))
        }
        (None, None) => words::NEVER_COMPARED.in_(lang).to_owned(),
    };
    row(&mut out, words::COMPARISON.in_(lang), &comparison);
    if let Some(said) = say::unrepaired(lang, s) {
        row(&mut out, "", &format!("{} {}", said.text, said.rest()));
        if let Some(command) = &said.command {
            row(&mut out, words::RUN.in_(lang), &format!("{} {command}", said.command_label(lang)));
        }
    }
    for difference in s.verification.last.iter().flat_map(|last| &last.verified.listed) {
        row(&mut out, words::DIFFERS.in_(lang), &say::difference(lang, difference));
    }
    out
}

/// A resource in one line; `more` behind it.
pub fn checked(lang: Lang, health: Health, name: &str, detail: &str, more: &str) -> String {
    let (mark, health) = say::resource_health(lang, health);
    let detail = if detail.is_empty() { String::new() } else { format!(" — {detail}") };
    format!("{} {name}: {health}{detail}{more}", symbol(mark))
}

/// A module in one line: for `watch` and for progress.
pub fn line(lang: Lang, s: &Snapshot) -> String {
    let mut line =
        format!("{} {} {} ({})", s.module, symbol(say::mark(s.state, s.readiness)), s.state.word(), say::readiness(lang, s.readiness));
    match (resync(lang, s), &s.reason) {
        (Some(text), _) => {
            let _ = write!(line, ": {} {text}", words::RESYNC.in_(lang));
        }
        (None, Some(reason)) => {
            let _ = write!(line, ": {}", say::reason(lang, reason, &s.module, &s.node).text);
        }
        (None, None) => {}
    }
    line
}

fn resync(lang: Lang, s: &Snapshot) -> Option<String> {
    let r = s.resync.as_ref()?;
    let mut text =
        format!("{} %, {}, {}", fmt::percent(r.bytes_done, r.bytes_total), fmt::bytes_of(r.bytes_done, r.bytes_total), fmt::rate(r.rate));
    if let Some(left) = fmt::left(lang, r.bytes_total.saturating_sub(r.bytes_done), r.rate) {
        let _ = write!(text, ", {left}");
    }
    Some(text)
}

/// One event, one line, with what follows from it and what helps.
pub fn event(lang: Lang, record: &EventRecord) -> String {
    let said = say::event(lang, &record.event, &record.module, &record.node);
    let mark = symbol(say::event_mark(&record.event));
    let rest = said.rest();
    let gap = if rest.is_empty() || lang == Lang::Ja { "" } else { " " };
    format!("{} {} {mark} {}{gap}{rest}", local(record.at_unix_ms), record.module, said.text)
}

/// Answer to `about`.
pub fn about(lang: Lang, node: &NodeName, version: &str, console: Option<&str>, is_connected: bool, cluster: Option<&str>) -> String {
    let mut out = String::new();
    let none = words::NOT_ENROLLED.in_(lang);
    row(&mut out, words::NODE.in_(lang), node.as_str());
    row(&mut out, words::CLUSTER.in_(lang), cluster.unwrap_or(none));
    row(&mut out, words::VERSION.in_(lang), version);
    let contact = if is_connected { words::CONNECTED } else { words::NOT_CONNECTED };
    let console = console.map_or_else(|| none.to_owned(), |c| format!("{c}, {}", contact.in_(lang)));
    row(&mut out, words::CONSOLE.in_(lang), &console);
    out
}

/// What a refusal says, with its remedy.
pub fn refusal(lang: Lang, said: &say::Said) -> String {
    let mut out = said.text.clone();
    let rest = said.rest();
    if !rest.is_empty() {
        let _ = write!(out, "\n{rest}");
    }
    if let Some(command) = &said.command {
        let label: Text = words::RUN;
        let (label, place) = (label.in_(lang), said.command_label(lang));
        let _ = write!(out, "\n{label}: {place}{}{command}", if place.is_empty() { "" } else { " " });
    }
    out
}

/// The time now, as in a list of events.
pub fn now() -> String {
    local(Timestamp::now().as_millisecond().try_into().unwrap_or(0))
}

fn local(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn ago(lang: Lang, unix_ms: u64) -> String {
    let now = Timestamp::now().as_millisecond().try_into().unwrap_or(0);
    if unix_ms == 0 { both!(lang, "not known", "不明") } else { fmt::ago(lang, unix_ms, now) }
}

fn row(out: &mut String, label: &str, value: &str) {
    let cells: usize = label.chars().map(|c| if c < '\u{1100}' { 1 } else { 2 }).sum();
    let _ = writeln!(out, "  {label}{:pad$}{value}", "", pad = LABEL_CELLS.saturating_sub(cells).max(1));
}

fn symbol(mark: Mark) -> &'static str {
    match mark {
        Mark::Ready => "●",
        Mark::Standby => "○",
        Mark::Transient => "◆",
        Mark::NotReady => "✖",
        Mark::Stopped => "■",
        Mark::Warning => "▲",
        Mark::Unknown => "?",
        Mark::Info => "·",
    }
}

fn colour(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Ready => "\x1b[1;32m",
        Readiness::Transient => "\x1b[1;35m",
        Readiness::NotReady => "\x1b[1;31m",
    }
}
