//! The rules that checkers bring along, under the names administrators know: `t_IDENT`, `p_IDENT`, `interface_failure` …
//!
//! That a module comes out of WAIT when no rule with `wait()` fires any more is done by the engine; it is no rule.

use super::{Action, Check};
use crate::rules::{Expr, Operand, ResourceRef, Rule, RuleAction, Value};

/// Classes with one rule for all of their resources: class, label, action.
const OF_CLASS: &[(&str, &str, RuleAction)] = &[
    ("module", "module_failure", RuleAction::Wait),
    ("intf", "interface_failure", RuleAction::Wait),
    ("ip", "ip_failure", RuleAction::StopStart),
];

/// Classes with a rule for each resource: class, beginning of the label.
const OF_RESOURCE: &[(&str, &str)] = &[
    ("tcp", "t_"),
    ("ping", "p_"),
    ("custom", "c_"),
    ("http", "h_"),
    ("load", "l_"),
    ("memory", "m_"),
    ("disk", "d_"),
    ("exec", "e_"),
    ("proc", "errd_"),
];

impl Action {
    /// The action as rules have it; none for "shown only".
    pub fn of_rule(self) -> Option<RuleAction> {
        match self {
            Action::NoAction => None,
            Action::Wait => Some(RuleAction::Wait),
            Action::Restart => Some(RuleAction::Restart),
            Action::StopStart => Some(RuleAction::StopStart),
            Action::Stop => Some(RuleAction::Stop),
        }
    }
}

/// The rules of these checkers, those of whole classes first.
pub fn default_rules(checks: &[Check]) -> Vec<Rule> {
    let rule = |label: String, resource: ResourceRef, action: RuleAction, is_hard: bool| {
        let (left, right) = (Operand::Resource(resource), Operand::Value(Value::Down));
        Rule { label, condition: Expr::Compare { is_equal: true, left, right }, action, is_hard, is_generated: true }
    };
    let mut rules = Vec::new();
    for (class, label, action) in OF_CLASS {
        let mut members = checks.iter().filter(|c| c.class_and_ident().0 == *class).peekable();
        if members.peek().is_some() {
            let is_hard = members.all(|c| c.probe.is_hard());
            rules.push(rule((*label).to_owned(), ResourceRef::any(class), *action, is_hard));
        }
    }
    if checks.iter().any(|c| c.class_and_ident().0 == "splitbrain") {
        rules.push(rule("splitbrain_failure".to_owned(), ResourceRef::local("splitbrain", "uptodate"), RuleAction::Wait, true));
    }
    for check in checks {
        let (class, ident) = check.class_and_ident();
        let Some((_, prefix)) = OF_RESOURCE.iter().find(|(c, _)| *c == class) else { continue };
        if check.handler.is_some() {
            rules.push(rule(format!("handler_{ident}"), ResourceRef::local("handler", ident), RuleAction::StopStart, true));
        } else if let Some(action) = check.action.of_rule() {
            rules.push(rule(format!("{prefix}{ident}"), ResourceRef::local(class, ident), action, check.probe.is_hard()));
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::{Interface, Probe, When};
    use crate::rules::{ResourceTable, Ruleset};
    use std::time::Duration;

    fn check(name: &str, probe: Probe, action: Action) -> Check {
        Check::new(name, When::Prim, Duration::from_secs(10), probe, action)
    }

    #[test]
    fn checkers_bring_the_rules_administrators_know() {
        let (timeout, addr) = (Duration::from_secs(5), "10.0.0.9".to_owned());
        let proc = || Probe::Proc { command: Some("x".into()), name_regex: None, arg_regex: None, at_least: 1, at_most: None };
        let mut handled = check("proc.h", proc(), Action::StopStart);
        handled.handler = Some("repair".to_owned());
        let checks = [
            check("tcp.web", Probe::Tcp { addr: addr.clone(), port: 80, timeout }, Action::Restart),
            check("ping.r", Probe::Ping { addr, timeout }, Action::Wait),
            check("custom.c", Probe::Custom { exec: None, args: vec![] }, Action::NoAction),
            check("intf.a", Probe::Intf { interface: Interface::Name("eth0".into()) }, Action::Wait),
            check("intf.b", Probe::Intf { interface: Interface::Name("eth1".into()) }, Action::Wait),
            check("ip.10.0.0.9", Probe::Ip { addr: "10.0.0.9".parse().unwrap() }, Action::StopStart),
            check("proc.x", proc(), Action::Stop),
            handled,
        ];
        let rules = default_rules(&checks);
        let written: Vec<String> = rules.iter().map(|r| format!("{r}{}", if r.is_hard { " hard" } else { "" })).collect();
        assert_eq!(
            written,
            [
                "interface_failure: if (intf.? == down) then wait();",
                "ip_failure: if (ip.? == down) then stopstart(); hard",
                "t_web: if (tcp.web == down) then restart();",
                "p_r: if (ping.r == down) then wait();",
                "errd_x: if (proc.x == down) then stop(); hard",
                "handler_h: if (handler.h == down) then stopstart(); hard",
            ]
        );
        let set = Ruleset { rules, ..Ruleset::default() };
        let table =
            ResourceTable { local: [("intf.b".to_owned(), Value::Down), ("intf.a".to_owned(), Value::Up)].into(), ..Default::default() };
        let firing = set.firing(&table);
        assert_eq!((firing.len(), firing[0].because.as_slice()), (1, ["intf.b".to_owned()].as_slice()));
    }
}
