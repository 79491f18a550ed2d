//! `<check>`, and the checkers that virtual addresses and dependencies bring along.

use super::{Names, ParseContext, Problem, ProblemKind};
use crate::ids::{ModuleName, NodeName};
use crate::markup::Expected;
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::markup::value;
use crate::module::{Action, Check, Depend, HttpProbe, Interface, LoadOf, Probe, Standing, StatusRange, Vip, When};
use std::time::Duration;

/// Time between two tests of a checker.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time a connection, a request or a program may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of what the kernel tells by itself: only in case it did not.
const SELDOM: Duration = Duration::from_secs(10);

const WHILE_WAITING: &[&str] = &["wait", "noaction"];
const WHILE_RUNNING: &[&str] = &["restart", "stopstart", "stop", "noaction"];

pub(super) fn read(service: &At<'_>, vips: &[Vip], names: &mut Names, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Vec<Check> {
    let mut found = Vec::new();
    for check in service.all("check") {
        for at in check.all("tcp") {
            found.extend(tcp(&at, names, problems));
        }
        for at in check.all("ping") {
            found.extend(ping(&at, names, problems));
        }
        for at in check.all("intf") {
            found.extend(intf(&at, names, problems));
        }
        for at in check.all("ip") {
            found.extend(ip(&at, names, problems));
        }
        for at in check.all("custom") {
            found.extend(custom(&at, names, problems));
        }
        for at in check.all("module") {
            found.extend(module(&at, names, ctx, problems));
        }
        for at in check.all("http") {
            found.extend(http(&at, names, problems));
        }
        for at in check.all("load") {
            found.extend(load(&at, names, problems));
        }
        for at in check.all("memory") {
            found.extend(memory(&at, names, problems));
        }
        for at in check.all("disk") {
            found.extend(disk(&at, names, problems));
        }
        for at in check.all("exec") {
            found.extend(exec(&at, names, problems));
        }
    }
    for vip in vips.iter().filter(|v| v.is_checked) {
        let (name, probe) = (format!("ip.{}", vip.addr), Probe::Ip { addr: vip.addr });
        // A checker written out for the same address stands for the generated one.
        if !found.iter().any(|c: &Check| c.name == name || c.probe == probe) {
            found.push(Check::new(name, When::Prim, INTERVAL, probe, Action::StopStart));
        }
    }
    interfaces(service, vips, &mut found);
    found
}

/// `interface check="on"`, the default: the interface of its virtual addresses.
fn interfaces(service: &At<'_>, vips: &[Vip], found: &mut Vec<Check>) {
    let lists = service.all("vip").into_iter().flat_map(|v| v.all("interface_list"));
    for interface in lists.flat_map(|l| l.all("interface")).filter(|i| i.switch("check").unwrap_or(true)) {
        let addresses = interface.all("real_interface").into_iter().flat_map(|r| r.all("virtual_addr")).filter_map(|a| a.address("addr"));
        let first = addresses.into_iter().find(|a| vips.iter().any(|v| v.addr == *a));
        let (ident, which) = match (interface.text("name"), first) {
            (Some(name), _) => (name.to_owned(), Interface::Name(name.to_owned())),
            (None, Some(addr)) => (addr.to_string(), Interface::Near(addr)),
            (None, None) => continue,
        };
        let name = format!("intf.{ident}");
        if !found.iter().any(|c| c.name == name) {
            found.push(Check::new(name, When::Pre, SELDOM, Probe::Intf { interface: which }, Action::Wait));
        }
    }
}

pub(super) fn action(text: &str) -> Option<Action> {
    Some(match text {
        "noaction" => Action::NoAction,
        "wait" => Action::Wait,
        "restart" => Action::Restart,
        "stopstart" => Action::StopStart,
        "stop" => Action::Stop,
        _ => return None,
    })
}

pub(super) fn when(text: &str) -> Option<When> {
    Some(match text {
        "pre" => When::Pre,
        "prim" => When::Prim,
        "second" => When::Second,
        "both" => When::Both,
        _ => return None,
    })
}

/// The written action, if it can follow in that phase.
pub(super) fn allowed_action(at: &At<'_>, default: Action, phase: &str, allowed: &[&str], problems: &mut Vec<Problem>) -> Action {
    let Some((text, action)) = at.text("action").and_then(|t| action(t).map(|a| (t, a))) else { return default };
    if !allowed.contains(&text) {
        let allowed = allowed.iter().map(|a| (*a).to_owned()).collect();
        problems.push(at.wrong("action", ProblemKind::BadAction { action: text.to_owned(), when: phase.to_owned(), allowed }));
    }
    action
}

/// Phase and action as written, or these defaults. While the module waits it can only go on waiting, so an action that
/// is not written is `wait` there, unless the default is `noaction`.
fn phase(at: &At<'_>, default_when: &'static str, default: Action, problems: &mut Vec<Problem>) -> (When, Action) {
    let text = at.text("when").unwrap_or(default_when);
    let when = when(text).unwrap_or(When::Prim);
    let allowed = if when == When::Pre { WHILE_WAITING } else { WHILE_RUNNING };
    let default = match (when, default) {
        (_, Action::NoAction) => Action::NoAction,
        (When::Pre, _) => Action::Wait,
        (_, Action::Wait) => Action::Restart,
        (_, other) => other,
    };
    (when, allowed_action(at, default, text, allowed, problems))
}

/// Interval, rise, fall and retry, where `at` has them.
fn paced(check: Check, at: &At<'_>) -> Check {
    let check = Check::new(check.name, check.when, at.time("interval").unwrap_or(INTERVAL), check.probe, check.action);
    Check {
        rise: at.number("rise").unwrap_or(check.rise),
        fall: at.number("fall").unwrap_or(check.fall),
        retry: at.time("retry").unwrap_or(check.retry),
        ..check
    }
}

/// `class.ident`, if it is new.
fn resource(at: &At<'_>, class: &str, names: &mut Names, problems: &mut Vec<Problem>) -> Option<(String, bool)> {
    let name = format!("{class}.{}", at.text("ident")?);
    let is_new = names.is_new(at, "ident", &name, problems);
    Some((name, is_new))
}

fn tcp(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::Restart, problems);
    let (name, is_new) = resource(at, "tcp", names, problems)?;
    let to = at.one("to")?;
    let timeout = to.time("timeout").unwrap_or(TIMEOUT);
    let probe = Probe::Tcp { addr: value::host(to.text("addr")?).ok()?, port: to.number("port")?, timeout };
    is_new.then(|| paced(Check::new(name, when, INTERVAL, probe, action), &to))
}

fn ping(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "pre", Action::Wait, problems);
    let (name, is_new) = resource(at, "ping", names, problems)?;
    let to = at.one("to")?;
    let probe = Probe::Ping { addr: value::host(to.text("addr")?).ok()?, timeout: to.time("timeout").unwrap_or(TIMEOUT) };
    is_new.then(|| paced(Check::new(name, when, INTERVAL, probe, action), &to))
}

fn intf(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (name, is_new) = resource(at, "intf", names, problems)?;
    let to = at.one("to")?;
    let interface = match (to.text("name"), to.address("local_addr")) {
        (Some(name), _) if !value::is_interface_name(name) => {
            problems.push(to.wrong("name", value::bad(name, Expected::InterfaceName)));
            return None;
        }
        (Some(name), _) => Interface::Name(name.to_owned()),
        (None, Some(addr)) => Interface::Local(addr),
        (None, None) => {
            if to.element.attribute("local_addr").is_none() {
                let names = ["local_addr", "name"].map(str::to_owned).to_vec();
                problems.push(to.wrong_here(ProblemKind::NeedsOneOf { names }));
            }
            return None;
        }
    };
    is_new.then(|| paced(Check::new(name, When::Pre, SELDOM, Probe::Intf { interface }, Action::Wait), &to))
}

fn ip(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (name, is_new) = resource(at, "ip", names, problems)?;
    let to = at.one("to")?;
    let probe = Probe::Ip { addr: to.address("addr")? };
    is_new.then(|| paced(Check::new(name, When::Prim, INTERVAL, probe, Action::StopStart), &to))
}

fn words(at: &At<'_>, name: &str) -> Vec<String> {
    at.text(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// A program in `bin`, or anywhere by its absolute path.
fn program(at: &At<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let text = at.text("exec")?;
    let is_path = text.starts_with('/') && value::relative_path(&text[1..]).is_ok();
    if !is_path && !value::is_script_name(text) {
        problems.push(at.wrong("exec", value::bad(text, Expected::Program)));
        return None;
    }
    Some(text.to_owned())
}

fn custom(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::NoAction, problems);
    let (name, is_new) = resource(at, "custom", names, problems)?;
    let probe = Probe::Custom { exec: program(at, problems), args: words(at, "arg") };
    is_new.then(|| Check::new(name, when, INTERVAL, probe, action))
}

fn standing(at: &At<'_>) -> Standing {
    match at.text("state") {
        Some("prim") => Standing::Prim,
        Some("second") => Standing::Second,
        _ => Standing::Up,
    }
}

fn module(at: &At<'_>, names: &mut Names, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Option<Check> {
    let name = at.text("name")?;
    let module = ModuleName::new(name).ok()?;
    let to = at.one("to");
    let addr = to.as_ref().and_then(|to| to.text("addr"));
    let node = match (&to, addr) {
        (Some(to), Some(addr)) => Some(node_of(to, addr, ctx, problems)?),
        _ => None,
    };
    let ident = match (at.text("ident"), addr) {
        (Some(ident), _) => ident.to_owned(),
        (None, Some(addr)) => format!("{name}_{addr}"),
        (None, None) => name.to_owned(),
    };
    let resource = format!("module.{ident}");
    let place = if at.text("ident").is_some() { "ident" } else { "name" };
    let is_new = names.is_new(at, place, &resource, problems);
    let probe = Probe::Module { module, node, wanted: standing(at) };
    is_new.then(|| Check::new(resource, When::Pre, SELDOM, probe, Action::Wait))
}

/// The node with this name or address.
fn node_of(to: &At<'_>, addr: &str, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Option<NodeName> {
    let Some(cluster) = ctx.cluster else { return NodeName::new(addr).ok() };
    let address = value::address(addr).ok();
    let mut all = cluster.lans.iter().flat_map(|l| &l.nodes);
    let found = all.find(|n| n.name.as_str() == addr || Some(n.addr) == address || n.local.is_some() && n.local == address);
    if found.is_none() {
        let known = cluster.nodes().iter().map(ToString::to_string).collect();
        problems.push(to.wrong("addr", ProblemKind::UnknownNode { name: shorten(addr), known }));
    }
    found.map(|n| n.name.clone())
}

fn http(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::Restart, problems);
    let (name, is_new) = resource(at, "http", names, problems)?;
    let to = at.one("to")?;
    let url = to.text("url")?;
    let is_url = value::is_http_url(url);
    if !is_url {
        problems.push(to.wrong("url", value::bad(url, Expected::Url)));
    }
    let status = match to.text("status") {
        None => Some(vec![StatusRange { first: 200, last: 399 }]),
        Some(text) => {
            let ranges = status_codes(text);
            if ranges.is_none() {
                problems.push(to.wrong("status", value::bad(text, Expected::StatusCodes)));
            }
            ranges
        }
    };
    if let Some(ca) = to.text("ca").filter(|ca| !ca.starts_with('/') || ca.contains('\0')) {
        problems.push(to.wrong("ca", value::bad(ca, Expected::AbsolutePath)));
    }
    let timeout = to.time("timeout").unwrap_or(TIMEOUT);
    let slow = to.time("slow");
    if let Some(slow) = slow.filter(|s| *s > timeout) {
        let value = crate::markup::Unit::Ms.write_short(slow);
        let most = format!("{}, the value of `timeout`", crate::markup::Unit::Ms.write_short(timeout));
        problems.push(to.wrong("slow", ProblemKind::TooLarge { value, most }));
    }
    let owned = |name: &str| to.text(name).map(str::to_owned);
    let probe = Probe::Http(HttpProbe { url: url.to_owned(), timeout, status: status?, body: owned("match"), slow, ca: owned("ca") });
    (is_new && is_url).then(|| paced(Check::new(name, when, INTERVAL, probe, action), &to))
}

/// `200`, `200-399`, `200,301-302`.
fn status_codes(text: &str) -> Option<Vec<StatusRange>> {
    let code = |text: &str| text.trim().parse::<u16>().ok().filter(|n| (100..=599).contains(n));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = StatusRange { first: code(first)?, last: code(last)? };
        (range.first <= range.last).then_some(range)
    };
    text.split(',').map(range).collect()
}

fn load(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::NoAction, problems);
    let (name, is_new) = resource(at, "load", names, problems)?;
    let of = match at.text("of") {
        Some("cpu") => LoadOf::Cpu,
        Some("pressure") => LoadOf::Pressure,
        _ => LoadOf::Load,
    };
    let percent_max: u32 = at.number("max")?;
    if of != LoadOf::Load && percent_max >= 100 {
        let most = format!("99, as `of` is `{}`", of.word());
        problems.push(at.wrong("max", ProblemKind::TooLarge { value: percent_max.to_string(), most }));
    }
    is_new.then(|| paced(Check::new(name, when, INTERVAL, Probe::Load { of, percent_max }, action), at))
}

/// Says so if none of these attributes is there.
fn needs_one_of(at: &At<'_>, attributes: &[&str], problems: &mut Vec<Problem>) {
    if !attributes.iter().any(|a| at.element.attribute(a).is_some()) {
        let names = attributes.iter().map(|a| (*a).to_owned()).collect();
        problems.push(at.wrong_here(ProblemKind::NeedsOneOf { names }));
    }
}

fn memory(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::NoAction, problems);
    let (name, is_new) = resource(at, "memory", names, problems)?;
    needs_one_of(at, &["min", "min_mb", "pressure"], problems);
    let probe = Probe::Memory { percent_min: at.number("min"), mb_min: at.number("min_mb"), pressure_max: at.number("pressure") };
    is_new.then(|| paced(Check::new(name, when, INTERVAL, probe, action), at))
}

fn disk(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::NoAction, problems);
    let (name, is_new) = resource(at, "disk", names, problems)?;
    needs_one_of(at, &["min", "min_mb", "min_inodes"], problems);
    let path = at.text("path")?;
    if !path.starts_with('/') || path.contains('\0') {
        problems.push(at.wrong("path", value::bad(path, Expected::AbsolutePath)));
    }
    let probe = Probe::Disk {
        path: path.to_owned(),
        percent_min: at.number("min"),
        mb_min: at.number("min_mb"),
        inodes_percent_min: at.number("min_inodes"),
        timeout: at.time("timeout").unwrap_or(TIMEOUT),
    };
    is_new.then(|| paced(Check::new(name, when, INTERVAL, probe, action), at))
}

fn exec(at: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let (when, action) = phase(at, "prim", Action::Restart, problems);
    let (name, is_new) = resource(at, "exec", names, problems)?;
    let probe = Probe::Exec { exec: program(at, problems)?, args: words(at, "arg"), timeout: at.time("timeout").unwrap_or(TIMEOUT) };
    is_new.then(|| paced(Check::new(name, when, INTERVAL, probe, action), at))
}

/// `<depends>`: the modules, and a checker for each that is not watched by a `<module>` in that very way already.
pub(super) fn depends(service: &At<'_>, names: &mut Names, checks: &mut Vec<Check>, problems: &mut Vec<Problem>) -> Vec<Depend> {
    let mut found: Vec<Depend> = Vec::new();
    for on in service.all("depends").iter().flat_map(|d| d.all("on")) {
        let Some(module) = on.text("module").and_then(|m| ModuleName::new(m).ok()) else { continue };
        let depend = Depend { module, wanted: standing(&on) };
        let name = format!("module.{}", depend.module);
        let probe = Probe::Module { module: depend.module.clone(), node: None, wanted: depend.wanted };
        let is_watched = !found.iter().any(|d| d.module == depend.module) && checks.iter().any(|c| c.name == name && c.probe == probe);
        if is_watched || names.is_new(&on, "module", &name, problems) {
            if !is_watched {
                checks.push(Check::new(name, When::Pre, SELDOM, probe, Action::Wait));
            }
            found.push(depend);
        }
    }
    found
}
