//! `<errd>`: processes and services.

use super::checks::{action, allowed_action, when};
use super::{Names, Problem, ProblemKind};
use crate::markup::Expected;
use crate::markup::schema::{At, near};
use crate::markup::value;
use crate::module::{Action, Check, Probe, When};
use std::time::Duration;

/// Time between two looks at the processes.
const POLL: Duration = Duration::from_secs(30);
/// The kernel keeps 15 bytes of a command's name.
const COMMAND_BYTES_MAX: usize = 15;
/// systemd's own limit is 255; longer names are slips.
const UNIT_BYTES_MAX: usize = 255;

pub(super) fn read(service: &At<'_>, has_user: bool, names: &mut Names, problems: &mut Vec<Problem>) -> Vec<Check> {
    let mut found = Vec::new();
    for errd in service.all("errd") {
        if !has_user {
            problems.push(service.wrong_here(ProblemKind::MissingElement { name: "user".to_owned() }));
        }
        let interval = errd.time("polltimer").unwrap_or(POLL);
        for proc in errd.all("proc") {
            found.extend(process(&proc, interval, names, problems));
        }
    }
    found
}

fn process(proc: &At<'_>, interval: Duration, names: &mut Names, problems: &mut Vec<Problem>) -> Option<Check> {
    let class = match proc.text("class").unwrap_or("prim") {
        "sec" => "second",
        class => class,
    };
    let when = when(class).unwrap_or(When::Switched);
    // Before the application starts there is nothing to restart in place.
    let allowed: &[&str] =
        if when == When::Pre { &["stopstart", "stop", "noaction"] } else { &["restart", "stopstart", "stop", "noaction"] };
    let handler = handler(proc, problems);
    let action = if handler.is_some() { Action::StopStart } else { allowed_action(proc, Action::StopStart, class, allowed, problems) };
    let name = proc.text("name")?;
    let is_new = names.is_new(proc, "name", &format!("proc.{name}"), problems);
    let probe = if proc.text("service") == Some("yes") { unit(proc, name, problems) } else { processes(proc, name, problems) };
    let cycles = proc.number::<u32>("start_after").unwrap_or(0);
    let start_after = interval * cycles.saturating_sub(1);
    let check =
        Check { start_after, class: Some(class.to_owned()), handler, ..Check::new(format!("proc.{name}"), when, interval, probe, action) };
    is_new.then_some(check)
}

/// A script in place of an action.
fn handler(proc: &At<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    const WORDS: [&str; 5] = ["restart", "stopstart", "stop", "noaction", "wait"];
    let text = proc.text("action").filter(|text| action(text).is_none())?;
    // A slip in a word is no name of a script.
    if near(text, WORDS).is_some() {
        let words = WORDS[..4].iter().map(|w| (*w).to_owned()).collect();
        problems.push(proc.wrong("action", value::bad(text, Expected::OneOf(words))));
        return None;
    }
    if !value::is_script_name(text) {
        problems.push(proc.wrong("action", value::bad(text, Expected::ScriptName)));
        return None;
    }
    Some(text.to_owned())
}

fn unit(proc: &At<'_>, name: &str, problems: &mut Vec<Problem>) -> Probe {
    let is_unit = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    if name.len() > UNIT_BYTES_MAX || !name.chars().all(is_unit) || name.starts_with('-') {
        problems.push(proc.wrong("name", value::bad(name, Expected::UnitName)));
    }
    for other in ["nameregex", "argregex", "atleast", "atmax"] {
        if proc.text(other).is_some() {
            let what = format!("{other} with service=\"yes\"");
            problems.push(proc.wrong(other, ProblemKind::NotSupported { what, instead: None }));
        }
    }
    let unit = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    Probe::Service { unit }
}

fn processes(proc: &At<'_>, name: &str, problems: &mut Vec<Problem>) -> Probe {
    let at_least = proc.number::<i64>("atleast").unwrap_or(1);
    let at_most = proc.number::<i64>("atmax").unwrap_or(-1);
    // "Never more than none" asks for none: the default of one at least does not stand against it.
    let at_least = if proc.text("atleast").is_none() && at_most == 0 { 0 } else { at_least };
    if at_most >= 0 && at_least > at_most {
        let kind = ProblemKind::TooLarge { value: at_least.to_string(), most: format!("{at_most}, the value of `atmax`") };
        problems.push(proc.wrong("atleast", kind));
    }
    let name_regex = proc.text("nameregex").map(str::to_owned);
    if name_regex.is_none() && (name.len() > COMMAND_BYTES_MAX || name.contains('/')) {
        problems.push(proc.wrong("name", value::bad(name, Expected::CommandName)));
    }
    Probe::Proc {
        command: name_regex.is_none().then(|| name.to_owned()),
        name_regex,
        arg_regex: proc.text("argregex").map(str::to_owned),
        at_least: u32::try_from(at_least).unwrap_or(0),
        at_most: u32::try_from(at_most).ok(),
    }
}
