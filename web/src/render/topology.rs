//! The picture of a module: clients, virtual address, nodes, heartbeats, replication. 860 × 300, drawn by the server;
//! its text alternative is the headline and the table of nodes.

use crate::fleet::{Contact, ModuleView, NodeCell};
use crate::say::{self, Mark};
use crate::text::{self as p, Lang};
use crate::view::Chrome;
use crate::{both, fmt};
use tsugi_core::module::Mode;
use tsugi_core::state::{Readiness, Replication, Snapshot, State};

/// Left and right box of a mirror.
const MIRROR_X: [i32; 2] = [24, 536];
const NODE_WIDTH: i32 = 300;
/// Nodes drawn for a farm; more do not fit, the table has them all.
const FARM_NODES_MAX: usize = 6;

pub(crate) struct Topology {
    pub label: String,
    pub vip: Option<VipBox>,
    pub lines: Vec<Line>,
    pub path_text: Option<TextAt>,
    pub nodes: Vec<NodeBox>,
    pub beats: Vec<Beat>,
    pub beat_text: Option<TextAt>,
    pub replication: Option<Arrow>,
}

pub(crate) struct VipBox {
    pub addr: String,
    pub note: String,
    pub tone: &'static str,
    pub is_held: bool,
}

pub(crate) struct Line {
    pub class: String,
    pub d: String,
    pub marker: Option<&'static str>,
}

pub(crate) struct TextAt {
    pub x: i32,
    pub y: i32,
    /// Width of the text's background, or the height of the disc beside it.
    pub width: i32,
    pub text: String,
    pub mark: Mark,
}

pub(crate) struct NodeBox {
    pub x: i32,
    pub width: i32,
    pub name: String,
    pub name_short: String,
    pub addr: String,
    pub tone: &'static str,
    pub is_dashed: bool,
    pub mark: Mark,
    pub word: String,
    pub role: String,
    pub title: String,
    pub rows: Vec<RowAt>,
}

pub(crate) struct RowAt {
    pub y: i32,
    pub mark: Mark,
    pub tone: &'static str,
    pub name: String,
    pub note: String,
}

pub(crate) struct Beat {
    pub y: i32,
    pub mark: Mark,
    pub title: String,
}

pub(crate) struct Arrow {
    pub d: String,
    pub tone: &'static str,
    pub is_dashed: bool,
    pub marker: Option<&'static str>,
    pub text: String,
    pub width: i32,
    pub note: Option<String>,
}

/// Shortens a text to what fits, by its width in half-width characters.
fn short(text: &str, width_max: usize) -> String {
    let width = |c: char| if c.is_ascii() { 1 } else { 2 };
    if text.chars().map(width).sum::<usize>() <= width_max {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += width(c);
        if used > width_max {
            break;
        }
        out.push(c);
    }
    out + "…"
}

/// Pixels a caption of 11.5 px takes, roughly; for the boxes behind texts.
fn pixels(text: &str) -> i32 {
    text.chars().map(|c| if c.is_ascii() { 7 } else { 12 }).sum::<i32>() + 20
}

impl Topology {
    pub(crate) fn of(c: &Chrome, m: &ModuleView) -> Topology {
        match (m.mode(), m.cells.len()) {
            (Mode::Mirror, 2) => mirror(c, m),
            _ => row_of_nodes(c, m),
        }
    }
}

fn vip(c: &Chrome, m: &ModuleView) -> Option<VipBox> {
    let addr = m.vips().into_iter().next()?;
    let holder = m.cells.iter().find(|cell| cell.now().is_some_and(|s| s.vips_held.contains(&addr)));
    let note = match (m.mode(), holder) {
        (Mode::Farm, Some(_)) => c.t(p::VIP_SHARED).to_owned(),
        (_, Some(cell)) => {
            let node = short(cell.node.as_str(), 14);
            both!(c.lang, "virtual IP → {node}", "仮想 IP → {node}")
        }
        (_, None) => c.t(p::VIP_NOT_HELD).to_owned(),
    };
    Some(VipBox { addr: addr.to_string(), note, tone: if holder.is_some() { "c-ready" } else { "c-unk" }, is_held: holder.is_some() })
}

fn node_box(c: &Chrome, m: &ModuleView, cell: &NodeCell, x: i32, width: i32) -> NodeBox {
    let pill = say::pill(c.lang, cell);
    let mut rows = Vec::new();
    let mut push = |mark: Mark, tone: &'static str, name: &str, note: String| {
        let y = 180 + 44 * rows.len() as i32;
        // Pixels between the shape and the right edge; a half-width character takes 7.
        let chars = ((width - 80) / 7) as usize;
        let note = if width > 200 { short(&note, chars * 2 / 3) } else { String::new() };
        let left = chars.saturating_sub(note.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum());
        rows.push(RowAt { y, mark, tone, name: short(name, left.max(4)), note });
    };
    let now = cell.now();
    let (mark, tone, note) = application(c, now);
    push(mark, tone, c.t(p::APPLICATION), note);
    if let Some(dir) = m.dirs().first() {
        let extra = m.dirs().len() - 1;
        let name = if extra > 0 { format!("{dir} +{extra}") } else { (*dir).to_owned() };
        let (mark, note) = data(c, now);
        push(mark, mark.tone(), &name, note);
    }
    NodeBox {
        x,
        width,
        name: cell.node.to_string(),
        name_short: short(cell.node.as_str(), if width > 200 { 18 } else { 12 }),
        addr: cell.addr.map(|a| a.to_string()).unwrap_or_default(),
        tone: pill.mark.tone(),
        is_dashed: matches!(pill.mark, Mark::Transient | Mark::Unknown),
        mark: pill.mark,
        word: pill.word.clone(),
        role: short(&role(c, cell, &pill.gloss), 24),
        title: format!("{}: {} ({})", cell.node, pill.word, pill.gloss),
        rows,
    }
}

fn role(c: &Chrome, cell: &NodeCell, gloss: &str) -> String {
    match (cell.contact, &cell.snapshot) {
        (Contact::Connected, Some(s)) => format!("{gloss} · {}", fmt::ago(c.lang, s.since_unix_ms, c.now_unix_ms)),
        _ => gloss.to_owned(),
    }
}

fn application(c: &Chrome, now: Option<&Snapshot>) -> (Mark, &'static str, String) {
    let (mark, tone, text) = match now.map(|s| (s.state, s.readiness)) {
        None => (Mark::Unknown, "c-unk", p::APP_UNKNOWN),
        Some((state, Readiness::Ready)) if state.is_serving() => (Mark::Ready, "c-ready", p::APP_RUNNING),
        Some((state, Readiness::Transient)) if state.is_serving() => (Mark::Transient, "c-trans", p::APP_CHANGING),
        Some((state, Readiness::NotReady)) if state.is_serving() => (Mark::NotReady, "c-notready", p::APP_DOWN),
        Some((State::Second, _)) => (Mark::Stopped, "c-unk", p::APP_STOPPED_OK),
        Some(_) => (Mark::Stopped, "c-unk", p::APP_STOPPED),
    };
    (mark, tone, c.t(text).to_owned())
}

fn data(c: &Chrome, now: Option<&Snapshot>) -> (Mark, String) {
    match now {
        None => (Mark::Unknown, c.t(p::APP_UNKNOWN).to_owned()),
        Some(s) => match &s.resync {
            Some(r) => {
                let percent = fmt::percent(r.bytes_done, r.bytes_total);
                (Mark::Transient, both!(c.lang, "outdated · {percent}%", "再同期 {percent}%"))
            }
            None => {
                let mark = if s.is_up_to_date { Mark::Ready } else { Mark::Warning };
                (mark, say::flag(c.lang, s.flag).to_owned())
            }
        },
    }
}

fn mirror(c: &Chrome, m: &ModuleView) -> Topology {
    let lang = c.lang;
    let boxes: Vec<NodeBox> = m.cells.iter().zip(MIRROR_X).map(|(cell, x)| node_box(c, m, cell, x, NODE_WIDTH)).collect();
    let vip = vip(c, m);
    let holder = vip
        .as_ref()
        .and_then(|v| m.cells.iter().position(|cell| cell.now().is_some_and(|s| s.vips_held.iter().any(|a| a.to_string() == v.addr))));
    let mut lines = Vec::new();
    let mut path_text = None;
    if let Some(at) = holder {
        let (to, other) = (MIRROR_X[at] + 150, MIRROR_X[1 - at] + 150);
        lines.push(Line { class: "t-line c-ready".to_owned(), d: elbow(270, to, 90), marker: Some("arrow-ready") });
        lines.push(Line { class: "t-path".to_owned(), d: elbow(312, other, 90), marker: None });
        let can = m.cells[1 - at].now().is_some_and(|s| s.state == State::Second && s.readiness == Readiness::Ready && s.is_up_to_date);
        let resyncs = m.cells[1 - at].now().is_some_and(|s| s.resync.is_some());
        let text = c.t(if can && m.maintenance_until().is_some() {
            p::PATH_MAINTAINED
        } else if can {
            p::PATH_READY
        } else if resyncs {
            p::PATH_AFTER_RESYNC
        } else {
            p::PATH_NONE
        });
        path_text = Some(TextAt { x: 470, y: 86, width: pixels(text), text: text.to_owned(), mark: Mark::Info });
    }
    let (beats, beat_text) = beats(lang, m);
    Topology {
        label: say::headline(lang, m).text,
        vip,
        lines,
        path_text,
        nodes: boxes,
        beats,
        beat_text,
        replication: if m.dirs().is_empty() { None } else { replication(c, m) },
    }
}

/// Down from the address box, along, down to the node.
fn elbow(from: i32, to: i32, y: i32) -> String {
    if from == to {
        return format!("M{from} 68V108");
    }
    let (bend, sign) = (8, if to > from { 1 } else { -1 });
    format!(
        "M{from} 68V{a}Q{from} {y} {b} {y}H{e}Q{to} {y} {to} {d}V108",
        a = y - bend,
        b = from + sign * bend,
        e = to - sign * bend,
        d = y + bend
    )
}

fn beats(lang: Lang, m: &ModuleView) -> (Vec<Beat>, Option<TextAt>) {
    let seen: Vec<&Snapshot> = m.cells.iter().filter_map(NodeCell::now).collect();
    let Some(longest) = seen.iter().max_by_key(|s| s.peer.networks.len()) else { return (Vec::new(), None) };
    if longest.peer.networks.is_empty() {
        return (Vec::new(), None);
    }
    let mut beats = Vec::new();
    let mut rtt_us: Option<u64> = None;
    for (i, network) in longest.peer.networks.iter().take(4).enumerate() {
        let is_up = seen.iter().all(|s| s.peer.networks.iter().find(|n| n.lan == network.lan).is_none_or(|n| n.is_up));
        let mark = if is_up { Mark::Ready } else { Mark::NotReady };
        rtt_us = rtt_us.max(network.rtt_us);
        beats.push(Beat { y: 152 + 8 * i as i32, mark, title: network.lan.clone() });
    }
    let (up, all) = (beats.iter().filter(|b| b.mark == Mark::Ready).count(), beats.len());
    // The agent reports bounds, not measurements: exact times would change with every beat.
    let delay = rtt_us.map(|us| format!(" · ≤ {} ms", us.div_ceil(1000))).unwrap_or_default();
    let mark = match up {
        0 => Mark::NotReady,
        n if n == all => Mark::Ready,
        _ => Mark::Warning,
    };
    let middle = 152 + 4 * (all as i32 - 1);
    let text = both!(lang, "heartbeats {up}/{all}{delay}", "ハートビート {up}/{all}{delay}");
    (beats, Some(TextAt { x: 430, y: 134, width: middle, text, mark }))
}

fn replication(c: &Chrome, m: &ModuleView) -> Option<Arrow> {
    let source = m.cells.iter().position(NodeCell::is_serving)?;
    let d = if source == 0 { "M326 256H530" } else { "M534 256H330" };
    let s = m.cells[source].now();
    let resync = m.cells.iter().filter_map(NodeCell::now).find_map(|s| s.resync.as_ref());
    let kind = s.map_or(Replication::Off, |s| s.replication);
    let (tone, is_dashed, marker, text, note) = match (kind, resync) {
        (_, Some(r)) => {
            let rate = fmt::rate(r.rate);
            ("c-trans", true, Some("arrow-trans"), both!(c.lang, "resync {rate}", "再同期 {rate}"), None)
        }
        (Replication::Resync, None) => {
            ("c-trans", true, Some("arrow-trans"), say::replication(c.lang, Replication::Resync).to_owned(), None)
        }
        (Replication::Synchronous, None) => {
            ("c-ready", false, Some("arrow-ready"), c.t(p::REPL_SYNC).to_owned(), Some(c.t(p::REPL_SYNC_WHAT).to_owned()))
        }
        (Replication::Stalled, None) => ("c-notready", true, None, say::replication(c.lang, Replication::Stalled).to_owned(), None),
        (Replication::Off | Replication::None, None) => ("c-unk", true, None, c.t(p::REPL_OFF).to_owned(), None),
    };
    let width = pixels(&text).max(60);
    Some(Arrow { d: d.to_owned(), tone, is_dashed, marker, text, width, note })
}

fn row_of_nodes(c: &Chrome, m: &ModuleView) -> Topology {
    let count = m.cells.len().clamp(1, FARM_NODES_MAX) as i32;
    let gap = 20;
    let width = ((812 - gap * (count - 1)) / count).min(NODE_WIDTH);
    let vip = vip(c, m);
    let mut lines = Vec::new();
    let mut nodes = Vec::new();
    for (i, cell) in m.cells.iter().take(FARM_NODES_MAX).enumerate() {
        let x = 24 + i as i32 * (width + gap);
        let serves =
            cell.is(State::Up, Readiness::Ready) || cell.is(State::Alone, Readiness::Ready) || cell.is(State::Prim, Readiness::Ready);
        let class = if serves { "t-line c-ready" } else { "t-path" };
        lines.push(Line { class: class.to_owned(), d: elbow(291, x + width / 2, 90), marker: serves.then_some("arrow-ready") });
        nodes.push(node_box(c, m, cell, x, width));
    }
    Topology {
        label: say::headline(c.lang, m).text,
        vip,
        lines,
        path_text: None,
        nodes,
        beats: Vec::new(),
        beat_text: None,
        replication: None,
    }
}
