//! `<failover>`: rules, beside those of the checkers.

use super::{Problem, ProblemKind};
use crate::markup::RuleFault;
use crate::markup::schema::{At, near};
use crate::markup::tree::shorten;
use crate::module::{Check, Mode, default_rules};
use crate::rules::{self, HANDLE_TIME, Ident, Rule, RuleAction, Ruleset, Side};
use std::collections::BTreeSet;

/// Resources of every mirror that no checker sets.
const OF_MIRRORS: &[&str] = &["rfs.uptodate", "rfs.degraded", "rfs.usable"];

pub(super) fn read(service: &At<'_>, mode: Option<Mode>, checks: &[Check], problems: &mut Vec<Problem>) -> Ruleset {
    let mut all = default_rules(checks);
    let Some(failover) = service.one("failover") else { return Ruleset { handle_time: HANDLE_TIME, rules: all } };
    if failover.text("extends") == Some("no") {
        problems.push(failover.wrong("extends", ProblemKind::Rule(RuleFault::WithoutDefaults)).into_warning());
        all.clear();
    }
    let content = &failover.element.content;
    let place = |offset: usize| content.place_at(offset).unwrap_or(failover.element.place);
    let wrong = |offset: usize, fault: RuleFault| Problem { place: place(offset), ..failover.wrong_here(ProblemKind::Rule(fault)) };
    let (written, faults) = rules::parse_placed(&content.text);
    problems.extend(faults.into_iter().map(|p| wrong(p.offset, p.fault)));
    for (offset, rule) in &written {
        for fault in senses(rule, mode, checks) {
            let is_warning = matches!(fault, RuleFault::UnknownResource { .. });
            let problem = wrong(*offset, fault);
            problems.push(if is_warning { problem.into_warning() } else { problem });
        }
    }
    // A rule under the label of a generated one takes its place.
    all.retain(|rule| !written.iter().any(|(_, w)| w.label == rule.label));
    all.extend(written.into_iter().map(|(_, rule)| rule));
    Ruleset { handle_time: failover.time("handle_time").unwrap_or(HANDLE_TIME), rules: all }
}

/// What in a well-formed rule cannot be meant so.
fn senses(rule: &Rule, mode: Option<Mode>, checks: &[Check]) -> BTreeSet<RuleFault> {
    let mut found = BTreeSet::new();
    let handlers: Vec<String> = checks.iter().filter(|c| c.handler.is_some()).map(Check::handler_resource).collect();
    let is_single = mode.is_some_and(|m| m != Mode::Mirror);
    let of_mode = if is_single { &[] } else { OF_MIRRORS };
    let known: Vec<&str> =
        checks.iter().map(|c| c.name.as_str()).chain(handlers.iter().map(String::as_str)).chain(of_mode.iter().copied()).collect();
    if is_single && rule.action == RuleAction::Swap {
        found.insert(RuleFault::NoSwap);
    }
    for resource in rule.condition.resources() {
        if resource.side == Side::Remote && is_single {
            found.insert(RuleFault::NoRemote);
        }
        // Networks are the cluster's, and scripts may set any `custom` resource.
        let is_free = matches!(resource.class.as_str(), "heartbeat" | "custom" | "splitbrain");
        let name = resource.name();
        if let Ident::Name(_) = resource.ident
            && !is_free
            && !known.contains(&name.as_str())
        {
            let near = near(&name, known.iter().copied()).map(str::to_owned);
            found.insert(RuleFault::UnknownResource { name: shorten(&name), near });
        }
    }
    found
}
