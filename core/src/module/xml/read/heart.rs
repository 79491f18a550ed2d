//! `<heart>`: times, and the networks the nodes hear each other on.

use super::{Heart, Names, ParseContext, Problem, ProblemKind, Profile, Timing};
use crate::cluster::Lan;
use crate::markup::Unit;
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::module::Heartbeat;
use std::time::Duration;

/// Longest `timeout`: a dead primary is not missed for an hour on purpose, and sums of times stay small.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

pub(super) fn read(service: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Heart {
    let Some(heart) = service.one("heart") else {
        return Heart { port: None, timing: Timing::of(Profile::default()), heartbeats: Vec::new() };
    };
    let timing = timing(&heart, problems);
    let heartbeats = heartbeats(&heart, service.one("rfs").is_some(), ctx, problems);
    Heart { port: heart.number("port"), timing, heartbeats }
}

fn timing(heart: &At<'_>, problems: &mut Vec<Problem>) -> Timing {
    let profile = match heart.text("profile") {
        Some("fast") => Profile::Fast,
        Some("tolerant") => Profile::Tolerant,
        _ => Profile::Normal,
    };
    let base = Timing::of(profile);
    let (timeout, pulse) = (heart.time("timeout"), heart.time("pulse"));
    if timeout.is_none() && pulse.is_none() {
        return base;
    }
    if let Some(text) = heart.text("timeout").filter(|_| timeout.is_some_and(|t| t > TIMEOUT_MAX)) {
        problems.push(heart.wrong("timeout", ProblemKind::TooLarge { value: shorten(text), most: Unit::Ms.write_short(TIMEOUT_MAX) }));
        return base;
    }
    // Three beats must fit into the time the primary believes a promise; without a timeout of its own that is the
    // profile's, and the pulse is what has to give way.
    let pulse_max = base.believe / 3;
    if let Some(text) = heart.text("pulse").filter(|_| timeout.is_none() && pulse.is_some_and(|p| p > pulse_max)) {
        let most = format!("{}ms (or a larger `timeout`)", pulse_max.as_millis());
        problems.push(heart.wrong("pulse", ProblemKind::TooLarge { value: shorten(text), most }));
        return base;
    }
    let timeout = timeout.unwrap_or(base.keep);
    Timing::with_timeout(profile, timeout, pulse).unwrap_or_else(|least| {
        let least = acceptable(profile, least, pulse);
        let value = shorten(heart.text("timeout").unwrap_or_default());
        problems.push(heart.wrong("timeout", ProblemKind::TooSmall { value, least: Unit::Ms.write_short(least) }));
        base
    })
}

/// The least time-out that is accepted. A longer time-out may mean longer beats, which need a longer time-out: the
/// first answer is not yet one. Each step adds three eighths of the one before.
fn acceptable(profile: Profile, mut least: Duration, pulse: Option<Duration>) -> Duration {
    const STEPS_MAX: u32 = 64;
    for _ in 0..STEPS_MAX {
        match Timing::with_timeout(profile, least, pulse) {
            Ok(_) => break,
            Err(more) => least = more.max(least + Duration::from_micros(1)),
        }
    }
    least
}

fn heartbeats(heart: &At<'_>, has_rfs: bool, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Vec<Heartbeat> {
    let (mut lans, mut idents) = (Names::default(), Names::default());
    let mut found = Vec::new();
    for beat in heart.all("heartbeat") {
        let Some(lan) = beat.text("name") else { continue };
        on_lan(&beat, lan, ctx, problems);
        let ident = beat.text("ident").unwrap_or(lan);
        let is_new = lans.is_new(&beat, "name", lan, problems);
        let is_new = is_new && (beat.text("ident").is_none() || idents.is_new(&beat, "ident", ident, problems));
        let is_flow = ident == "flow";
        if is_flow && !has_rfs {
            problems.push(beat.wrong("ident", ProblemKind::FlowWithoutRfs).into_warning());
        }
        if is_new {
            found.push(Heartbeat { lan: lan.to_owned(), is_flow });
        }
    }
    found
}

/// Checks that a network exists and holds the module's nodes.
pub(super) fn on_lan(at: &At<'_>, lan: &str, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) {
    let Some(cluster) = ctx.cluster else { return };
    match cluster.lan(lan) {
        None => {
            let known = cluster.lans.iter().map(|l| l.name.clone()).collect();
            problems.push(at.wrong("name", ProblemKind::UnknownLan { name: shorten(lan), known }));
        }
        Some(lan) => {
            for node in ctx.nodes.iter().filter(|n| lan.addr(n).is_none()) {
                problems.push(at.wrong("name", ProblemKind::NodeNotOnLan { lan: lan.name.clone(), node: node.clone() }));
            }
        }
    }
}

/// Networks of the cluster that hold every node of the module.
pub(super) fn common_lans<'c>(ctx: &ParseContext<'c>) -> Vec<&'c Lan> {
    let lans = ctx.cluster.map(|c| c.lans.as_slice()).unwrap_or_default();
    lans.iter().filter(|l| ctx.nodes.iter().all(|n| l.addr(n).is_some())).collect()
}
