//! A checked tree → [`ModuleDef`]: values of sense, names that exist, nothing twice.
//!
//! Reads what is right and stays silent about what the table already reported.

use super::{ParseContext, Problem, ProblemKind};
use crate::ids::NodeName;
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::markup::value::is_variable_name;
use crate::markup::{Expected, Place};
use crate::module::{Boot, DefaultPrim, Heart, Limits, Mode, ModuleDef, Profile, Rfs, Timing, User, Vip};
use std::collections::BTreeMap;
use std::time::Duration;

mod authority;
mod checks;
mod errd;
mod failover;
mod heart;
mod light;
mod rfs;
mod vip;

/// Automatic actions allowed per interval.
const MAXLOOP: u32 = 3;
/// That interval.
const LOOP_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Time-out of start scripts: recovery of a database included, yet short enough to give up on a hanging one.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Time-out of stop scripts, gentle and forced.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

/// Reads `<safe>`. None only when `service` is missing, which the table reported, or an error is added here.
pub(super) fn module(safe: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Option<ModuleDef> {
    let service = safe.one("service")?;
    let mode = service.text("mode").and_then(|text| match text {
        "mirror" => Some(Mode::Mirror),
        "farm" => Some(Mode::Farm),
        "light" => Some(Mode::Light),
        _ => None,
    });
    if mode == Some(Mode::Farm) {
        let instead = Some("mode=\"mirror\"".to_owned());
        problems.push(service.wrong("mode", ProblemKind::NotSupported { what: "mode=\"farm\"".to_owned(), instead }));
    }
    let pair = if mode == Some(Mode::Light) {
        light::refuse(&service, problems);
        Pair::none()
    } else {
        pair(&service, ctx, problems)
    };
    let user = service.one("user").map(|u| self::user(&u, problems));
    // Where the lack of `user` is an error, that is enough.
    if user.is_none() && service.one("errd").is_none() {
        problems.push(service.wrong_here(ProblemKind::NoScripts).into_warning());
    }
    let mut names = Names::default();
    let mut checks = errd::read(&service, user.is_some(), &mut names, problems);
    checks.extend(checks::read(&service, &pair.vips, &mut names, ctx, problems));
    let depends = checks::depends(&service, &mut names, &mut checks, problems);
    let rules = failover::read(&service, mode, &checks, problems);
    Some(ModuleDef {
        mode: mode?,
        boot: match service.text("boot") {
            Some("on") => Boot::On,
            Some("off") => Boot::Off,
            _ => Boot::Auto,
        },
        boot_delay: service.time("boot_delay").unwrap_or_default(),
        is_failover_on: service.switch("failover").unwrap_or(true),
        default_prim: pair.default_prim,
        maxloop: service.number("maxloop").unwrap_or(MAXLOOP),
        loop_interval: service.time("loop_interval").unwrap_or(LOOP_INTERVAL),
        authority: pair.right.authority,
        arbiter: pair.right.arbiter,
        witnesses: pair.right.witnesses,
        fence: pair.right.fence,
        heart: pair.heart,
        vips: pair.vips,
        rfs: pair.rfs,
        user,
        checks,
        rules,
        depends,
    })
}

/// What there is because there are two nodes.
struct Pair {
    heart: Heart,
    vips: Vec<Vip>,
    rfs: Option<Rfs>,
    right: authority::Right,
    default_prim: DefaultPrim,
}

impl Pair {
    /// Of a module without a second node: nothing of it is used.
    fn none() -> Pair {
        let heart = Heart { port: None, timing: Timing::of(Profile::default()), heartbeats: Vec::new() };
        Pair { heart, vips: Vec::new(), rfs: None, right: authority::Right::none(), default_prim: DefaultPrim::Alone }
    }
}

fn pair(service: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Pair {
    node_count(service, ctx, problems);
    let heart = heart::read(service, ctx, problems);
    let vips = vip::read(service, ctx, problems);
    let (rfs, heart) = rfs::read(service, heart, ctx, problems);
    let right = authority::read(service, ctx, problems);
    Pair { heart, vips, rfs, right, default_prim: default_prim(service, ctx, problems) }
}

/// A mirror has two nodes. One is accepted, with a warning: the second may join later.
fn node_count(service: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) {
    const NEEDED: usize = 2;
    let found = ctx.nodes.len();
    if found == 0 || found == NEEDED {
        return;
    }
    let problem = service.wrong("mode", ProblemKind::NodeCount { found, needed: NEEDED });
    problems.push(if found < NEEDED { problem.into_warning() } else { problem });
}

fn default_prim(service: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> DefaultPrim {
    match service.text("defaultprim") {
        None | Some("alone") => DefaultPrim::Alone,
        Some("lastprim") => DefaultPrim::LastPrim,
        Some(name) => {
            let Ok(node) = NodeName::new(name) else { return DefaultPrim::Alone };
            if !ctx.nodes.is_empty() && !ctx.nodes.contains(&node) {
                let known = ctx.nodes.iter().map(|n| n.as_str().to_owned()).collect();
                problems.push(service.wrong("defaultprim", ProblemKind::UnknownNode { name: shorten(name), known }));
            }
            DefaultPrim::Node(node)
        }
    }
}

/// Variables the agent sets for every script; a module's own would be overwritten.
fn is_reserved(name: &str) -> bool {
    const SAFE: [&str; 7] = ["SAFE", "SAFEVAR", "SAFEBIN", "SAFEMODULE", "SAFEUSERBIN", "SAFEUSERCONF", "SAFEUSERVAR"];
    name.starts_with("TSUGI_") || SAFE.contains(&name)
}

fn user(user: &At<'_>, problems: &mut Vec<Problem>) -> User {
    let mut vars = BTreeMap::new();
    let mut names = Names::default();
    for var in user.all("var") {
        let (Some(name), Some(value)) = (var.text("name"), var.raw("value")) else { continue };
        if !is_variable_name(name) {
            let kind = ProblemKind::BadValue { value: shorten(name), expected: Expected::VariableName };
            problems.push(var.wrong("name", kind));
        } else if is_reserved(name) {
            problems.push(var.wrong("name", ProblemKind::ReservedName { name: shorten(name) }));
        } else if names.is_new(&var, "name", name, problems) {
            if value.contains('\0') {
                problems.push(var.wrong("value", ProblemKind::BadValue { value: shorten(value), expected: Expected::NotEmpty }));
            }
            vars.insert(name.to_owned(), value.to_owned());
        }
    }
    User {
        start_timeout: user.time("starttimeout").unwrap_or(START_TIMEOUT),
        stop_timeout: user.time("nicestoptimeout").unwrap_or(STOP_TIMEOUT),
        force_timeout: user.time("forcestoptimeout").unwrap_or(STOP_TIMEOUT),
        vars,
        limits: Limits {
            memory_bytes_max: user.number::<u64>("memory_max").map(|mb| mb * 1024 * 1024),
            pids_max: user.number("pids_max"),
            cpu_weight: user.number("cpu_weight"),
        },
    }
}

/// Names that must differ, with the place of each.
#[derive(Default)]
struct Names(BTreeMap<String, Place>);

impl Names {
    /// Whether `name` is used for the first time; if not, says so.
    fn is_new(&mut self, at: &At<'_>, attribute: &str, name: &str, problems: &mut Vec<Problem>) -> bool {
        let place = at.place_of(attribute);
        match self.0.get(name) {
            Some(first) => {
                problems.push(at.wrong(attribute, ProblemKind::DuplicateName { name: shorten(name), first: *first }));
                false
            }
            None => {
                self.0.insert(name.to_owned(), place);
                true
            }
        }
    }
}
