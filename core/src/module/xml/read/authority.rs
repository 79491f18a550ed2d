//! Who lets a node go on without its peer: `service authority=`, `arbiter=`, `<check><splitbrain>`, `<fence>`.

use super::{ParseContext, Problem, ProblemKind};
use crate::cluster::ArbiterKind;
use crate::ids::{ArbiterName, NodeName};
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::markup::value::{self, bad};
use crate::markup::{Expected, Unit, UnusedReason};
use crate::module::{Authority, Fence, FenceDriver, FenceOption};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What a secondary waits before it fences.
const FENCE_DELAY: Duration = Duration::from_secs(5);
/// Longest run of a fence driver: a primary that fences a lost secondary must be done before it gives its role up (30 s
/// after its writes began to wait).
const FENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest of either that may be asked for.
const FENCE_TIME_MAX: Duration = Duration::from_secs(600);
/// Reference addresses; each of them is asked at once.
const WITNESSES_MAX: usize = 16;

/// What was read.
pub(super) struct Right {
    pub authority: Authority,
    pub arbiter: ArbiterName,
    pub witnesses: Vec<IpAddr>,
    pub fence: Option<Fence>,
}

impl Right {
    /// Of a module that asks nobody.
    pub fn none() -> Right {
        Right { authority: Authority::default(), arbiter: ArbiterName::console(), witnesses: Vec::new(), fence: None }
    }
}

pub(super) fn read(service: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Right {
    let splitbrain = service.one("check").and_then(|c| c.one("splitbrain"));
    let written = service.text("authority").map(|text| match text {
        "fence" => Authority::Fence,
        "manual" => Authority::Manual,
        "ping" => Authority::Ping,
        "none" => Authority::None,
        _ => Authority::Arbiter,
    });
    let implied = if splitbrain.is_some() && service.text("arbiter").is_none() { Authority::Ping } else { Authority::Arbiter };
    let authority = written.unwrap_or(implied);
    if authority.may_split() {
        let kind = ProblemKind::SplitBrainPossible { authority: authority.word().to_owned() };
        let problem = match (&splitbrain, written) {
            (Some(at), None) => at.wrong_here(kind),
            _ => service.wrong("authority", kind),
        };
        let is_allowed = service.text("allow_split_brain") == Some("true");
        problems.push(if is_allowed { problem.into_warning() } else { problem });
    }
    Right {
        authority,
        arbiter: arbiter(service, authority, ctx, problems),
        witnesses: witnesses(service, splitbrain.as_ref(), authority, problems),
        fence: fence(service, authority, ctx, problems),
    }
}

fn of_other_authority(what: &str) -> ProblemKind {
    ProblemKind::NotUsed { what: what.to_owned(), why: UnusedReason::OtherAuthority }
}

fn arbiter(service: &At<'_>, authority: Authority, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> ArbiterName {
    let Some(name) = service.text("arbiter").and_then(|t| ArbiterName::new(t).ok()) else { return ArbiterName::console() };
    if authority != Authority::Arbiter {
        problems.push(service.wrong("arbiter", of_other_authority("arbiter")).into_warning());
        return ArbiterName::console();
    }
    let Some(cluster) = ctx.cluster.filter(|_| !name.is_console()) else { return name };
    match cluster.arbiter(&name).map(|a| &a.kind) {
        None => {
            let known = std::iter::once("console").chain(cluster.arbiters.iter().map(|a| a.name.as_str())).map(str::to_owned).collect();
            problems.push(service.wrong("arbiter", ProblemKind::UnknownArbiter { name: shorten(name.as_str()), known }));
        }
        Some(ArbiterKind::Witness { addr, .. }) => {
            if let Some(node) = cluster.node_at(addr.ip()).filter(|n| ctx.nodes.contains(n)) {
                let kind = ProblemKind::ArbiterOnNode { arbiter: name.to_string(), node: node.clone() };
                problems.push(service.wrong("arbiter", kind).into_warning());
            }
        }
        Some(ArbiterKind::Etcd(_)) => {}
    }
    name
}

fn witnesses(service: &At<'_>, splitbrain: Option<&At<'_>>, authority: Authority, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let Some(at) = splitbrain else {
        if authority == Authority::Ping {
            let parent = service.one("check").unwrap_or_else(|| service.clone());
            let name = if service.one("check").is_some() { "splitbrain" } else { "check" };
            problems.push(parent.wrong_here(ProblemKind::MissingElement { name: name.to_owned() }));
        }
        return Vec::new();
    };
    if authority != Authority::Ping {
        problems.push(at.wrong_here(of_other_authority("splitbrain")).into_warning());
        return Vec::new();
    }
    let Some(text) = at.text("arg") else { return Vec::new() };
    let words: Vec<&str> = text.split_whitespace().collect();
    let found: Option<Vec<IpAddr>> = words.iter().map(|w| value::address(w).ok()).collect();
    if found.is_none() {
        problems.push(at.wrong("arg", bad(text, Expected::Addresses)));
    }
    if words.len() > WITNESSES_MAX {
        let kind = ProblemKind::TooLarge { value: words.len().to_string(), most: WITNESSES_MAX.to_string() };
        problems.push(at.wrong("arg", kind));
    }
    found.unwrap_or_default()
}

fn fence(service: &At<'_>, authority: Authority, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Option<Fence> {
    let Some(at) = service.one("fence") else {
        if authority == Authority::Fence {
            problems.push(service.wrong_here(ProblemKind::MissingElement { name: "fence".to_owned() }));
        }
        return None;
    };
    if authority != Authority::Fence {
        problems.push(at.wrong_here(of_other_authority("fence")).into_warning());
        return None;
    }
    let mut time = |name: &str, default: Duration| {
        let time = at.time(name).unwrap_or(default);
        if time > FENCE_TIME_MAX {
            let kind =
                ProblemKind::TooLarge { value: shorten(at.text(name).unwrap_or_default()), most: Unit::S.write_short(FENCE_TIME_MAX) };
            problems.push(at.wrong(name, kind));
        }
        time
    };
    let (delay, timeout) = (time("delay", FENCE_DELAY), time("timeout", FENCE_TIMEOUT));
    let is_absolute = |text: &str| text.starts_with('/') && !text.contains('\0');
    let driver = match (at.text("agent"), at.text("script")) {
        (Some(agent), script) => {
            let is_program = agent.starts_with("fence_") && agent.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_program && !is_absolute(agent) {
                problems.push(at.wrong("agent", bad(agent, Expected::FenceAgent)));
            }
            if script.is_some() {
                let kind = ProblemKind::NotUsed { what: "script".to_owned(), why: UnusedReason::OtherDriver };
                problems.push(at.wrong("script", kind).into_warning());
            }
            FenceDriver::Agent(agent.to_owned())
        }
        (None, Some(script)) => {
            if !is_absolute(script) {
                problems.push(at.wrong("script", bad(script, Expected::AbsolutePath)));
            }
            FenceDriver::Script(Some(script.to_owned()))
        }
        (None, None) => FenceDriver::Script(None),
    };
    let options = options(&at, ctx, problems);
    Some(Fence { driver, delay, timeout, options })
}

fn options(fence: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Vec<FenceOption> {
    let mut firsts = BTreeMap::new();
    let mut found = Vec::new();
    for at in fence.all("option") {
        let (Some(name), Some(value)) = (at.text("name"), at.raw("value")) else { continue };
        let node = at.text("node").and_then(|n| NodeName::new(n).ok());
        if let Some(node) = node.as_ref().filter(|n| !ctx.nodes.is_empty() && !ctx.nodes.contains(n)) {
            let known = ctx.nodes.iter().map(|n| n.as_str().to_owned()).collect();
            problems.push(at.wrong("node", ProblemKind::UnknownNode { name: shorten(node.as_str()), known }));
        }
        // What is done is not the configuration's to say.
        if matches!(name, "action" | "option") {
            problems.push(at.wrong("name", ProblemKind::ReservedName { name: name.to_owned() }));
        } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            problems.push(at.wrong("name", bad(name, Expected::Name)));
        } else if let Some(first) = firsts.insert((name, node.clone()), at.place_of("name")) {
            problems.push(at.wrong("name", ProblemKind::DuplicateName { name: shorten(name), first }));
        }
        // A line each: a line break would begin another option.
        if value.contains(['\n', '\r', '\0']) {
            let first = value.split(['\n', '\r', '\0']).next().unwrap_or_default();
            problems.push(at.wrong("value", bad(&format!("{first}…"), Expected::OneLine)));
        }
        found.push(FenceOption { node, name: name.to_owned(), value: value.to_owned() });
    }
    found
}
