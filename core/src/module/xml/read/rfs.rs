//! `<rfs>`: replicated trees, none inside another, and the network they travel on.

use super::{Heart, ParseContext, Problem, ProblemKind, heart};
use crate::markup::Place;
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::markup::value;
use crate::module::{Async, Compress, Heartbeat, NamePattern, Replicated, Rfs};

/// Directories of the system as a whole: replicating one would overwrite the other machine's system.
const SYSTEM: [&str; 14] =
    ["/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var", "/var/lib"];
/// Nothing below these is data.
const NO_DATA: [&str; 6] = ["/boot", "/dev", "/proc", "/run", "/sys", "/var/lib/tsugi"];

/// Reads `<rfs>`; its `flow` may mark, or add, a heartbeat network.
pub(super) fn read(service: &At<'_>, heart: Heart, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> (Option<Rfs>, Heart) {
    let Some(rfs) = service.one("rfs") else { return (None, heart) };
    let heart = match rfs.one("flow") {
        Some(flow) => self::flow(&flow, heart, ctx, problems),
        None => heart,
    };
    let read = Rfs {
        ack: if rfs.text("async") == Some("second") { Async::Second } else { Async::None },
        resync_kb_per_s_max: rfs.number("reiallowedbw").filter(|kb: &u64| *kb > 0),
        compress: if rfs.text("compress") == Some("lz4") { Compress::Lz4 } else { Compress::Off },
        verify_every: rfs.time("verify").filter(|every| !every.is_zero()),
        replicated: trees(&rfs, problems),
    };
    (Some(read), heart)
}

fn flow(flow: &At<'_>, mut heart: Heart, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Heart {
    let Some(lan) = flow.text("name") else { return heart };
    heart::on_lan(flow, lan, ctx, problems);
    if let Some(marked) = heart.heartbeats.iter().find(|h| h.is_flow).filter(|h| h.lan != lan) {
        let kind = ProblemKind::BadValue { value: shorten(lan), expected: crate::markup::Expected::OneOf(vec![marked.lan.clone()]) };
        problems.push(flow.wrong("name", kind));
        return heart;
    }
    if heart.heartbeats.is_empty() {
        let others = heart::common_lans(ctx).into_iter().map(|l| Heartbeat { lan: l.name.clone(), is_flow: false });
        heart.heartbeats = others.collect();
    }
    match heart.heartbeats.iter_mut().find(|h| h.lan == lan) {
        Some(beat) => beat.is_flow = true,
        // A network that carries data can carry heartbeats: one more way to hear the peer.
        None => heart.heartbeats.push(Heartbeat { lan: lan.to_owned(), is_flow: true }),
    }
    heart
}

fn trees(rfs: &At<'_>, problems: &mut Vec<Problem>) -> Vec<Replicated> {
    let mut found: Vec<(Replicated, Place)> = Vec::new();
    for tree in rfs.all("replicated") {
        let not_replicated = excluded(&tree, problems);
        let not_replicated_names = patterns(tree.all("notreplicated"));
        let to_check = paths(tree.all("tocheck"));
        let Some(dir) = tree.raw("dir").and_then(|dir| directory(&tree, dir, problems)) else { continue };
        let other = found.iter().find(|(r, _)| is_inside(&dir, &r.dir) || is_inside(&r.dir, &dir));
        match other {
            Some((other, first)) => {
                let kind = ProblemKind::NestedDirectories { dir: shorten(&dir), other: shorten(&other.dir), first: *first };
                problems.push(tree.wrong("dir", kind));
            }
            None => found.push((Replicated { dir, not_replicated, not_replicated_names, to_check }, tree.place_of("dir"))),
        }
    }
    found.into_iter().map(|(tree, _)| tree).collect()
}

fn excluded(tree: &At<'_>, problems: &mut Vec<Problem>) -> Vec<String> {
    for bare in tree.all("notreplicated").iter().filter(|n| n.element.attributes.is_empty()) {
        let names = ["path", "regexpath"].map(str::to_owned).to_vec();
        problems.push(bare.wrong_here(ProblemKind::NeedsOneOf { names }));
    }
    paths(tree.all("notreplicated"))
}

/// As written: blanks at either end may be meant.
fn patterns(elements: Vec<At<'_>>) -> Vec<NamePattern> {
    let pattern = |e: &At<'_>| Some(NamePattern { text: e.raw("regexpath")?.to_owned(), place: e.place_of("regexpath") });
    elements.iter().filter_map(pattern).collect()
}

fn paths(elements: Vec<At<'_>>) -> Vec<String> {
    elements.iter().filter_map(|e| value::relative_path(e.raw("path")?).ok()).collect()
}

/// A plain absolute path, without its final slash.
fn directory(tree: &At<'_>, dir: &str, problems: &mut Vec<Problem>) -> Option<String> {
    if !dir.starts_with('/') {
        problems.push(tree.wrong("dir", ProblemKind::DirNotAbsolute { dir: shorten(dir) }));
        return None;
    }
    let trimmed = if dir.len() > 1 { dir.strip_suffix('/').unwrap_or(dir) } else { dir };
    let is_plain = value::relative_path(&trimmed[1..]).is_ok();
    if !is_plain || SYSTEM.contains(&trimmed) || NO_DATA.iter().any(|no| is_inside(trimmed, no)) {
        problems.push(tree.wrong("dir", ProblemKind::BadDirectory { dir: shorten(dir) }));
        return None;
    }
    Some(trimmed.to_owned())
}

/// `dir` is `outer` or lies in it.
fn is_inside(dir: &str, outer: &str) -> bool {
    dir.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
