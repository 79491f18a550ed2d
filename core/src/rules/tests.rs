use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn table(local: &[(&str, Value)], remote: &[(&str, Value)]) -> ResourceTable {
    let all = |rows: &[(&str, Value)]| rows.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    ResourceTable { local: all(local), remote: all(remote) }
}

/// The one rule of a text that has no fault.
fn rule(condition: &str) -> Rule {
    let (mut rules, faults) = parse(&format!("r: if ({condition}) then stop();"));
    assert_eq!(faults, [], "{condition}");
    assert_eq!(rules.len(), 1);
    rules.remove(0)
}

fn holds(condition: &str, table: &ResourceTable) -> bool {
    rule(condition).condition.holds(table)
}

/// What is wrong with a text, with line and column.
fn faults(text: &str) -> Vec<String> {
    let place = |offset: usize| {
        let before = &text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{line}:{column}")
    };
    parse(text).1.into_iter().map(|p| format!("{} {:?}", place(p.offset), p.fault)).collect()
}

use Value::{Down, Init, Unknown, Up};

#[test]
fn every_row_of_the_truth_tables() {
    for value in Value::ALL {
        let t = table(&[("tcp.a", value)], &[("tcp.a", value)]);
        assert_eq!(holds("tcp.a", &t), value == Up, "a resource alone is true while it is up");
        assert_eq!(holds("local.tcp.a", &t), value == Up);
        assert_eq!(holds("!tcp.a", &t), value != Up);
        for other in Value::ALL {
            // `unknown` is only of the other node.
            assert_eq!(holds(&format!("remote.tcp.a == {}", other.word()), &t), value == other);
            assert_eq!(holds(&format!("remote.tcp.a != {}", other.word()), &t), value != other);
            assert_eq!(holds(&format!("{} == remote.tcp.a", other.word()), &t), value == other);
            assert_eq!(holds(&format!("{} == {}", value.word(), other.word()), &t), value == other);
        }
    }
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let of = |is_up: bool| if is_up { Up } else { Down };
        let t = table(&[("tcp.a", of(a)), ("tcp.b", of(b))], &[]);
        assert_eq!(holds("tcp.a && tcp.b", &t), a && b);
        assert_eq!(holds("tcp.a || tcp.b", &t), a || b);
        assert_eq!(holds("tcp.a == tcp.b", &t), a == b);
        assert_eq!(holds("tcp.a != tcp.b", &t), a != b);
        assert_eq!(holds("(tcp.a && tcp.a) == (tcp.b || tcp.b)", &t), a == b);
        assert_eq!(holds("!tcp.a != !tcp.b", &t), a != b);
        assert_eq!(holds("!(tcp.a && !tcp.b) == tcp.b", &t), (a && !b) != b);
    }
}

#[test]
fn not_binds_before_equal_before_and_before_or() {
    assert_eq!(rule("!tcp.a && tcp.b == down || tcp.c").condition, rule("((!(tcp.a)) && (tcp.b == down)) || (tcp.c)").condition);
    assert_eq!(rule("tcp.a || tcp.b && tcp.c").condition, rule("tcp.a || (tcp.b && tcp.c)").condition);
}

#[test]
fn all_and_any_of_a_class_and_none_is_neither() {
    let rows: &[(&[Value], bool, bool, bool, bool)] = &[
        // resources             * == down  ? == down  * != up  ? != up
        (&[], false, false, false, false),
        (&[Up], false, false, false, false),
        (&[Down], true, true, true, true),
        (&[Up, Down], false, true, false, true),
        (&[Down, Down], true, true, true, true),
        (&[Init, Down], false, true, true, true),
        (&[Init, Init], false, false, true, true),
    ];
    for (values, all_down, any_down, all_not_up, any_not_up) in rows {
        let mut t = table(&[("tcpx.a", Down), ("tc.a", Down), ("http.a", Down)], &[]);
        t.local.extend(values.iter().enumerate().map(|(n, v)| (format!("tcp.{n}"), *v)));
        let found = ["tcp.* == down", "tcp.? == down", "tcp.* != up", "tcp.? != up"].map(|c| holds(c, &t));
        assert_eq!(found, [*all_down, *any_down, *all_not_up, *any_not_up], "{values:?}");
        t.remote = std::mem::take(&mut t.local);
        assert_eq!(holds("remote.tcp.? == down", &t), *any_down);
    }
}

#[test]
fn what_is_not_known_is_init_here_and_unknown_there() {
    let t = ResourceTable::default();
    assert!(holds("tcp.a == init && remote.tcp.a == unknown", &t));
    assert!(!holds("tcp.a == down || remote.tcp.a == down", &t));
}

#[test]
fn the_examples_of_the_trade_are_read() {
    let text = "
        // wait while no router answers
        all_routers: if ( ping.* == down ) then wait();
        /* the other node is better off */ better: if (tcp.web == down && remote.tcp.web != down) then swap();
        ip6: if (ip.fd00::9 == down || ip.::1 == down || ip.10.0.0.9==down) then stopstart();
        t_web.2: if(local.tcp.web-2==down)then restart ( ) ;";
    let (rules, found) = parse(text);
    assert_eq!(found, []);
    let written: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        written,
        [
            "all_routers: if (ping.* == down) then wait();",
            "better: if (tcp.web == down && remote.tcp.web != down) then swap();",
            "ip6: if (ip.fd00::9 == down || ip.::1 == down || ip.10.0.0.9 == down) then stopstart();",
            "t_web.2: if (tcp.web-2 == down) then restart();",
        ]
    );
}

#[test]
fn every_fault_is_named_at_its_place() {
    let unexpected = |at: &str, found: &str, expected: &str| format!("{at} Unexpected {{ found: {found:?}, expected: {expected:?} }}");
    for (text, wanted) in [
        ("a if (tcp.a) then stop();", unexpected("1:3", "if", "`:`")),
        ("a: (tcp.a) then stop();", unexpected("1:4", "(", "`if`")),
        ("a: if tcp.a then stop();", unexpected("1:7", "tcp.a", "`(`")),
        ("a: if (tcp.a then stop();", unexpected("1:14", "then", "`)`")),
        ("a: if (tcp.a)\n  stop();", unexpected("2:3", "stop", "`then`")),
        ("a: if (tcp.a) then stop;", unexpected("1:24", ";", "`(`")),
        ("a: if (tcp.a) then stop()", unexpected("1:26", "", "`;`")),
        ("a: if () then stop();", unexpected("1:8", ")", "a resource or a state")),
        ("a: if (tcp) then stop();", unexpected("1:8", "tcp", "a resource or a state")),
        ("a: if (tcp.web* == up) then stop();", unexpected("1:15", "*", "`)`")),
        ("a: if (tcp.a == up == up) then stop();", unexpected("1:20", "==", "`&&`, `||` or `)`")),
        ("a: if (tcp.a & tcp.b) then stop();", unexpected("1:14", "&", "`)`")),
        ("if (tcp.a) then stop();", unexpected("1:1", "if", "a label")),
        ("継: if (tcp.a) then stop();", unexpected("1:1", "継", "a label")),
        ("a: if (tcp.a) then ();", unexpected("1:20", "(", "an action")),
        ("/* 継ぎ */ a: if (tpc.a) then stop();", "1:17 UnknownClass { name: \"tpc\", near: Some(\"tcp\") }".to_owned()),
        ("a: if (remote.x.a) then stop();", "1:15 UnknownClass { name: \"x\", near: None }".to_owned()),
        ("a: if (tcp.a) then reboot();", "1:20 UnknownAction { name: \"reboot\", near: None }".to_owned()),
        ("a: if (tcp.a) then stopstrat();", "1:20 UnknownAction { name: \"stopstrat\", near: Some(\"stopstart\") }".to_owned()),
        ("a: if (up) then stop();", "1:7 StateAlone { state: \"up\" }".to_owned()),
        ("a: if (tcp.a || up) then stop();", "1:17 StateAlone { state: \"up\" }".to_owned()),
        ("a: if ((tcp.a && tcp.b) == up) then stop();", "1:25 MixedComparison".to_owned()),
        ("a: if (tcp.a == unknown) then stop();", "1:8 NeverUnknown { name: \"tcp.a\" }".to_owned()),
        ("a: if (tcp.a) then stop(); a: if (tcp.b) then wait();", "1:28 DuplicateLabel { label: \"a\" }".to_owned()),
        ("\n --Lua Rules\nRules = Rules + {}", "2:2 Lua".to_owned()),
        ("Rules.disable(\"x\")", "1:1 Lua".to_owned()),
    ] {
        assert_eq!(faults(text), [wanted], "{text}");
    }
    // One slip does not hide the next.
    assert_eq!(faults("a if (tcp.a) then stop();\nb: if (tcp.b) then stop();\nc: if (x.c) then stop();").len(), 2);
}

#[test]
fn hostile_texts_are_bounded() {
    let deep = format!("a: if {}tcp.a{} then stop();", "(".repeat(30_000), ")".repeat(30_000));
    assert_eq!(parse(&deep).1[0].fault, RuleFault::TooDeep { most: DEPTH_MAX });
    let nots = format!("a: if ({}tcp.a) then stop();", "!".repeat(60_000));
    assert_eq!(parse(&nots).1[0].fault, RuleFault::TooDeep { most: DEPTH_MAX });
    assert_eq!(parse(&"x".repeat(BYTES_MAX + 1)).1[0].fault, RuleFault::TooLong { most: BYTES_MAX });
    let wide = format!("a: if ({}tcp.a) then stop();", "tcp.a && ".repeat(6_000));
    let (rules, found) = parse(&wide);
    assert_eq!((rules.len(), found.len()), (1, 0), "a long chain is no deep one");
    assert!(!rules[0].condition.holds(&ResourceTable::default()));
    let many: String = (0..RULES_MAX + 1).map(|n| format!("r{n}: if (tcp.a) then stop();\n")).collect();
    assert_eq!(parse(&many).1[0].fault, RuleFault::TooMany { most: RULES_MAX });
    assert!(parse(&";".repeat(BYTES_MAX)).1.len() <= 51);
}

fn rules(text: &str) -> Ruleset {
    let (rules, found) = parse(text);
    assert_eq!(found, []);
    Ruleset { rules, ..Ruleset::default() }
}

#[test]
fn the_gravest_action_comes_first_and_says_why() {
    let set = rules(
        "r: if (tcp.? == down) then restart(); s: if (tcp.a == down) then swap(); w: if (tcp.a != up) then wait();
         ss: if (tcp.a == down && remote.tcp.a != up) then stopstart(); x: if (tcp.a == down) then stop(); n: if (tcp.a) then stop();",
    );
    let t = table(&[("tcp.a", Down), ("tcp.b", Init)], &[]);
    let found = set.firing(&t);
    let labels: Vec<&str> = found.iter().map(|f| f.label.as_str()).collect();
    assert_eq!(labels, ["x", "ss", "w", "s", "r"]);
    assert_eq!(found[1].because, ["tcp.a", "remote.tcp.a"], "what is down comes before what is only not up");
    assert_eq!(found[4].because, ["tcp.a", "tcp.b"]);
    assert_eq!(set.firing(&table(&[("tcp.a", Init)], &[])).iter().map(|f| f.action).collect::<Vec<_>>(), [RuleAction::Wait]);
}

#[test]
fn what_the_other_node_must_tell_is_known() {
    let set = rules("a: if (tcp.a == down && remote.tcp.a == up || remote.ping.? == down) then swap(); b: if (remote.tcp.b) then stop();");
    assert_eq!(set.remote_names_wanted(), BTreeSet::from(["ping.*", "tcp.a", "tcp.b"].map(str::to_owned)));
    assert!(set.is_remote_wanted("ping.router") && set.is_remote_wanted("tcp.b") && !set.is_remote_wanted("tcp.c"));
}

#[test]
fn resources_a_wait_depends_on_are_undecided_until_known() {
    let set = rules("a: if (ping.r == down) then wait(); b: if (tcp.a == down) then restart(); c: if (remote.tcp.x == down) then wait();");
    assert_eq!(set.undecided(&ResourceTable::default()), BTreeSet::from(["ping.r".to_owned()]));
    assert_eq!(set.undecided(&table(&[("ping.r", Up)], &[])), BTreeSet::new());
}

#[test]
fn a_soft_action_must_stay_the_same_and_a_hard_one_is_done_at_once() {
    let mut set = rules(
        "soft: if (tcp.a == down) then restart(); graver: if (tcp.b == down) then stopstart(); hard: if (proc.x == down) then restart();",
    );
    set.rules[2].is_hard = true;
    let (up, a, b) = (table(&[], &[]), table(&[("tcp.a", Down)], &[]), table(&[("tcp.a", Down), ("tcp.b", Down)], &[]));
    let mut steady = Steady::default();
    assert_eq!(steady.look(&set, &up), Decision::Nothing);
    let Decision::Hold { firing, wait } = steady.look(&set, &a) else { panic!() };
    assert_eq!((firing.label.as_str(), wait), ("soft", HANDLE_TIME));
    assert_eq!(steady.look(&set, &a), Decision::Keep);
    assert!(matches!(steady.look(&set, &b), Decision::Hold { firing, .. } if firing.label == "graver"), "another action begins anew");
    assert_eq!(steady.look(&set, &up), Decision::Nothing);
    assert_eq!(steady.due(&set, &a), None, "a timer that should have been stopped does nothing");
    assert!(matches!(steady.look(&set, &a), Decision::Hold { .. }));
    assert_eq!(steady.due(&set, &up), None);
    assert!(matches!(steady.look(&set, &a), Decision::Hold { .. }));
    assert_eq!(steady.due(&set, &a).map(|f| f.label), Some("soft".to_owned()));
    let both = table(&[("tcp.b", Down), ("proc.x", Down)], &[]);
    assert!(matches!(steady.look(&set, &both), Decision::Act(f) if f.label == "hard"));
    set.handle_time = Duration::ZERO;
    assert!(matches!(steady.look(&set, &b), Decision::Act(f) if f.label == "graver"));
}

fn resource() -> impl Strategy<Value = ResourceRef> {
    let ident = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "web-1", "10.0.0.9", "fd00::9", "x_y.z"]).prop_map(|n| Ident::Name(n.to_owned())),
        1 => Just(Ident::All),
        1 => Just(Ident::Any),
    ];
    (prop::bool::ANY, prop::sample::select(vec!["tcp", "ip", "proc"]), ident).prop_map(|(is_remote, class, ident)| ResourceRef {
        side: if is_remote { Side::Remote } else { Side::Local },
        class: class.to_owned(),
        ident,
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![Init, Up, Down, Unknown])
}

/// Conditions as the reader makes them: no `unknown` beside a local resource, chains flat or in brackets.
fn condition() -> impl Strategy<Value = Expr> {
    let known = prop::sample::select(vec![Init, Up, Down]);
    let compare = (prop::bool::ANY, resource(), prop_oneof![known.prop_map(Operand::Value), resource().prop_map(Operand::Resource)])
        .prop_map(|(is_equal, left, right)| Expr::Compare { is_equal, left: Operand::Resource(left), right });
    let leaf = prop_oneof![resource().prop_map(Expr::IsUp), compare];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let is_pair = |e: &Expr| !matches!(e, Expr::IsUp(_));
        let matched = (prop::bool::ANY, inner.clone(), inner.clone())
            .prop_filter("two resources are compared, not matched", move |(_, l, r)| is_pair(l) && is_pair(r))
            .prop_map(|(is_equal, left, right)| Expr::Match { is_equal, left: Box::new(left), right: Box::new(right) });
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
            matched,
        ]
    })
}

fn any_table() -> impl Strategy<Value = ResourceTable> {
    let names = prop::sample::select(vec!["tcp.a", "tcp.b", "tcp.web-1", "ip.10.0.0.9", "proc.a", "ip.fd00::9"]);
    let side = || prop::collection::btree_map(names.clone().prop_map(str::to_owned), value(), 0..6);
    (side(), side()).prop_map(|(local, remote)| ResourceTable { local, remote })
}

/// Pieces of rules, so that random texts get further than the first character.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        ":",
        " if ",
        "(",
        ")",
        "tcp.a",
        "remote.",
        "tcp.*",
        "ip.?",
        "==",
        "!=",
        "&&",
        "||",
        "!",
        "up",
        "down",
        "unknown",
        " then ",
        "stop",
        "()",
        ";",
        "\n",
        "/*",
        "*/",
        "//",
        "--",
        "継",
        "ip.fd00::",
        "x: if (tcp.a == down) then wait();",
    ]);
    let any = prop_oneof![6 => piece.prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(any, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_as_the_same_again(condition in condition(), action in prop::sample::select(RuleAction::ALL.to_vec())) {
        let rule = Rule { label: "r-1.x".to_owned(), condition, action, is_hard: false, is_generated: false };
        let (rules, found) = parse(&rule.to_string());
        prop_assert_eq!(found, vec![]);
        prop_assert_eq!(rules, vec![rule]);
    }

    #[test]
    fn no_text_makes_the_reader_panic_or_point_outside(text in pieces()) {
        let (rules, found) = parse(&text);
        for problem in found {
            prop_assert!(problem.offset <= text.len() && text.is_char_boundary(problem.offset));
        }
        for rule in rules {
            prop_assert_eq!(parse(&rule.to_string()).0, vec![rule]);
        }
    }

    #[test]
    fn firing_is_what_holds_gravest_first(conditions in prop::collection::vec((condition(), prop::sample::select(RuleAction::ALL.to_vec())), 0..6), table in any_table()) {
        let make = |(n, (condition, action)): (usize, (Expr, RuleAction))| Rule { label: format!("r{n}"), condition, action, is_hard: n % 2 == 0, is_generated: false };
        let set = Ruleset { rules: conditions.into_iter().enumerate().map(make).collect(), ..Ruleset::default() };
        let found = set.firing(&table);
        prop_assert!(found.windows(2).all(|w| w[0].action >= w[1].action));
        for rule in &set.rules {
            prop_assert_eq!(rule.condition.holds(&table), found.iter().any(|f| f.label == rule.label));
            let not = Expr::Not(Box::new(rule.condition.clone()));
            prop_assert_ne!(not.holds(&table), rule.condition.holds(&table));
        }
    }
}
