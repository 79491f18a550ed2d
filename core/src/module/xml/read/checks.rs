//! `<check>`, `<errd>` and the checkers that virtual addresses bring along.

use super::{Names, Problem, ProblemKind};
use crate::markup::Expected;
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::markup::value;
use crate::module::{Action, Check, Probe, Vip, When};
use std::time::Duration;

/// Time between two tests of a checker.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks at the processes.
const POLL: Duration = Duration::from_secs(30);
/// The kernel keeps 15 bytes of a command's name.
const COMMAND_BYTES_MAX: usize = 15;

pub(super) fn read(service: &At<'_>, vips: &[Vip], has_user: bool, problems: &mut Vec<Problem>) -> Vec<Check> {
    let mut names = Names::default();
    let mut found = Vec::new();
    for errd in service.all("errd") {
        if !has_user {
            problems.push(service.wrong_here(ProblemKind::MissingElement { name: "user".to_owned() }));
        }
        let interval = errd.time("polltimer").unwrap_or(POLL);
        for proc in errd.all("proc") {
            found.extend(process(&proc, interval, &mut names, problems));
        }
    }
    for check in service.all("check") {
        for tcp in check.all("tcp") {
            found.extend(self::tcp(&tcp, &mut names, problems));
        }
        for ip in check.all("ip") {
            found.extend(self::ip(&ip, &mut names, problems));
        }
    }
    for vip in vips.iter().filter(|v| v.is_checked) {
        let name = format!("ip.{}", vip.addr);
        // A checker written out for the same address stands for the generated one.
        if !found.iter().any(|c| c.name == name || c.probe == Probe::Ip { addr: vip.addr }) {
            found.push(Check {
                name,
                when: When::Prim,
                interval: INTERVAL,
                probe: Probe::Ip { addr: vip.addr },
                action: Action::StopStart,
            });
        }
    }
    found
}

fn action(text: &str) -> Option<Action> {
    Some(match text {
        "noaction" => Action::NoAction,
        "wait" => Action::Wait,
        "restart" => Action::Restart,
        "stopstart" => Action::StopStart,
        "stop" => Action::Stop,
        _ => return None,
    })
}

fn when(text: &str) -> Option<When> {
    Some(match text {
        "pre" => When::Pre,
        "prim" => When::Prim,
        "second" => When::Second,
        "both" => When::Both,
        _ => return None,
    })
}

/// The written action, if it can follow in that phase.
fn allowed_action(at: &At<'_>, default: Action, phase: &str, allowed: &[&str], problems: &mut Vec<Problem>) -> Action {
    let Some((text, action)) = at.text("action").and_then(|t| action(t).map(|a| (t, a))) else { return default };
    if !allowed.contains(&text) {
        let allowed = allowed.iter().map(|a| (*a).to_owned()).collect();
        problems.push(at.wrong("action", ProblemKind::BadAction { action: text.to_owned(), when: phase.to_owned(), allowed }));
    }
    action
}

fn tcp(tcp: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let when = tcp.text("when").and_then(when).unwrap_or(When::Prim);
    let action = match when {
        When::Pre => allowed_action(tcp, Action::Wait, "pre", &["wait", "noaction"], problems),
        When::Prim | When::Second | When::Both => {
            let phase = tcp.text("when").unwrap_or("prim");
            allowed_action(tcp, Action::Restart, phase, &["restart", "stopstart", "stop", "noaction"], problems)
        }
    };
    let ident = tcp.text("ident")?;
    let is_new = names.is_new(tcp, "ident", &format!("tcp.{ident}"), problems);
    let to = tcp.one("to")?;
    let probe =
        Probe::Tcp { addr: value::host(to.text("addr")?).ok()?, port: to.number("port")?, timeout: to.time("timeout").unwrap_or(TIMEOUT) };
    let interval = to.time("interval").unwrap_or(INTERVAL);
    is_new.then(|| Check { name: format!("tcp.{ident}"), when, interval, probe, action })
}

fn ip(ip: &At<'_>, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let ident = ip.text("ident")?;
    let is_new = names.is_new(ip, "ident", &format!("ip.{ident}"), problems);
    let to = ip.one("to")?;
    let probe = Probe::Ip { addr: to.address("addr")? };
    let interval = to.time("interval").unwrap_or(INTERVAL);
    is_new.then(|| Check { name: format!("ip.{ident}"), when: When::Prim, interval, probe, action: Action::StopStart })
}

fn process(proc: &At<'_>, interval: Duration, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let when = class(proc, problems);
    let phase = proc.text("class").unwrap_or("prim");
    // Before the application starts there is nothing to restart in place.
    let allowed: &[&str] =
        if when == When::Pre { &["stopstart", "stop", "noaction"] } else { &["restart", "stopstart", "stop", "noaction"] };
    if let Some(script) = proc.text("action").filter(|a| action(a).is_none()) {
        let what = format!("action=\"{}\"", shorten(script));
        let instead = Some("`restart`, `stopstart`, `stop` or `noaction`".to_owned());
        problems.push(proc.wrong("action", ProblemKind::NotSupported { what, instead }));
    }
    let action = allowed_action(proc, Action::StopStart, phase, allowed, problems);
    let at_least = proc.number::<i64>("atleast").unwrap_or(1);
    let at_most = proc.number::<i64>("atmax").unwrap_or(-1);
    // "Never more than none" asks for none: the default of one at least does not stand against it.
    let at_least = if proc.text("atleast").is_none() && at_most == 0 { 0 } else { at_least };
    if at_most >= 0 && at_least > at_most {
        let kind = ProblemKind::TooLarge { value: at_least.to_string(), most: format!("{at_most}, the value of `atmax`") };
        problems.push(proc.wrong("atleast", kind));
    }
    let name = proc.text("name")?;
    let is_new = names.is_new(proc, "name", &format!("proc.{name}"), problems);
    let name_regex = proc.text("nameregex").map(str::to_owned);
    if name_regex.is_none() && (name.len() > COMMAND_BYTES_MAX || name.contains('/')) {
        problems.push(proc.wrong("name", value::bad(name, Expected::CommandName)));
    }
    let probe = Probe::Proc {
        command: name_regex.is_none().then(|| name.to_owned()),
        name_regex,
        arg_regex: proc.text("argregex").map(str::to_owned),
        at_least: u32::try_from(at_least).unwrap_or(0),
        at_most: u32::try_from(at_most).ok(),
    };
    is_new.then(|| Check { name: format!("proc.{name}"), when, interval, probe, action })
}

fn class(proc: &At<'_>, problems: &mut Vec<Problem>) -> When {
    let Some(text) = proc.text("class") else { return When::Prim };
    when(text).unwrap_or_else(|| {
        let what = format!("class=\"{}\"", shorten(text));
        let instead = Some("`prim`, `second`, `both` or `pre`".to_owned());
        problems.push(proc.wrong("class", ProblemKind::NotSupported { what, instead }));
        When::Prim
    })
}
