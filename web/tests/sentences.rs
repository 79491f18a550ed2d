//! Headlines, plans and problems: what is built from several facts, in both languages.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use tsugi_core::command::Verb;
use tsugi_core::ids::ArbiterName;
use tsugi_core::module::{Authority, xml};
use tsugi_core::state::{ArbiterView, Readiness, Reason, Replication, State};
use tsugi_web::fleet::{Contact, HealthView, ModuleView};
use tsugi_web::say::{self, Interruption, Target};
use tsugi_web::text::Lang;

fn is_japanese(text: &str) -> bool {
    text.chars().any(|c| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}'))
}

fn healthy() -> ModuleView {
    protected("hq-core", "postgres", "192.168.10.50", ("hq-db1", "192.168.10.11"), ("hq-db2", "192.168.10.12"))
}

/// A healthy pair, changed.
fn with(health: HealthView, change: impl FnOnce(&mut ModuleView)) -> ModuleView {
    let mut m = healthy();
    m.health = health;
    change(&mut m);
    m
}

fn snapshot_of(m: &mut ModuleView, i: usize) -> &mut tsugi_core::state::Snapshot {
    m.cells[i].snapshot.as_mut().unwrap()
}

#[test]
fn headlines_tell_the_truth_the_consequence_and_the_next_step() {
    let first = |m: &ModuleView| {
        let (en, ja) = (say::headline(Lang::En, m), say::headline(Lang::Ja, m));
        for said in [&en, &ja] {
            assert!(said.next.is_some() || said.remedy.is_some(), "{}: and then", said.text);
        }
        assert!(!is_japanese(&en.text) && is_japanese(&ja.text), "{} / {}", en.text, ja.text);
        (en.text, ja.text)
    };
    assert_eq!(first(&healthy()).0, "postgres runs on hq-db1, and hq-db2 holds the same data.");
    let (en, ja) = first(&alone_without_contact());
    assert_eq!(en, "files-osaka runs on one node only (osaka-1).");
    assert_eq!(ja, "files-osaka は 1 台だけで稼働しています（osaka-1）。");
    assert_eq!(say::headline(Lang::Ja, &alone_without_contact()).next.as_deref(), Some("今 osaka-1 が止まるとサービスも止まります。"));
    assert_eq!(first(&resyncing()).0, "mes-db runs on mes-1. Data is being copied to mes-2 (62%).");
    assert_eq!(first(&stopped()).1, "lab-app はすべてのノードで停止しています。");
    assert_eq!(first(&farm()).0, "nginx-farm runs on 3 of 4 nodes.");
    assert_eq!(first(&blocked()).0, "ledger is not serving on any node.");

    let no_arbiter = with(HealthView::AtRisk, |m| snapshot_of(m, 0).arbiter = ArbiterView::Unreachable);
    assert!(say::headline(Lang::En, &no_arbiter).next.unwrap().starts_with("Automatic failover is off"));
    let stalled = with(HealthView::AtRisk, |m| snapshot_of(m, 0).replication = Replication::Stalled);
    assert_eq!(first(&stalled).0, "Writes of postgres on hq-db1 are waiting.");
    let conflict = with(HealthView::Conflict, |m| snapshot_of(m, 1).state = State::Alone);
    assert_eq!(first(&conflict).1, "postgres のサービスが hq-db1 と hq-db2 で同時に動いています。");
    let (said, rest) = (say::headline(Lang::En, &split()), say::headline(Lang::Ja, &split()).rest());
    assert!(said.command.is_none() && said.rest().ends_with("choose the node whose data goes on."), "{}", said.rest());
    assert!(rest.ends_with("データを残すノードを選んでください。"), "{rest}");
    assert!(said.text.starts_with("The data of ledger has parted: hq-db1 and hq-db2 have each written"), "{}", said.text);
    let one_serves = with(HealthView::Conflict, |m| {
        let s = snapshot_of(m, 1);
        (s.state, s.readiness, s.reason) = (State::Wait, Readiness::NotReady, Some(Reason::SplitBrain { peer: node("hq-db1") }));
    });
    assert!(say::headline(Lang::En, &one_serves).next.unwrap().starts_with("hq-db1 serves its own copy"));
    let choice = say::headline(Lang::En, &undecided());
    assert!(choice.command.is_none() && choice.rest().ends_with("its data overwrites the other copy."), "{}", choice.rest());
    let manual = with(HealthView::AtRisk, |m| snapshot_of(m, 0).authority.kind = Authority::Manual);
    assert_eq!(
        say::headline(Lang::En, &manual).next.unwrap(),
        "If hq-db1 stops, nothing takes over until a person decides (authority manual)."
    );
    let may_split = with(HealthView::AtRisk, |m| snapshot_of(m, 0).authority.kind = Authority::Ping);
    assert!(say::headline(Lang::En, &may_split).next.unwrap().starts_with("Without an arbiter both nodes may serve at once"));
    // Maintenance is each node's own: that of the node that follows is what holds a takeover back.
    let kept = with(HealthView::AtRisk, |m| snapshot_of(m, 1).maintenance_until_unix_ms = Some(NOW + 60_000));
    assert!(say::headline(Lang::En, &kept).next.unwrap().starts_with("Under maintenance: if hq-db1 stops, hq-db2 does not take over"));
    let served = with(HealthView::AtRisk, |m| snapshot_of(m, 0).maintenance_until_unix_ms = Some(NOW + 60_000));
    assert!(say::headline(Lang::En, &served).next.unwrap().ends_with("if it stops, the other node still takes over."));
    let light = |until| {
        let mut m = light(HealthView::AtRisk, (State::Up, Readiness::Ready), Reason::Starting);
        m.cells.iter_mut().for_each(|c| c.snapshot.as_mut().unwrap().reason = None);
        snapshot_of(&mut m, 1).maintenance_until_unix_ms = until;
        m
    };
    assert!(say::headline(Lang::En, &light(Some(NOW))).next.unwrap().starts_with("Under maintenance on app-2:"));
    let witness = with(HealthView::AtRisk, |m| {
        snapshot_of(m, 0).arbiter = ArbiterView::Unreachable;
        snapshot_of(m, 0).authority.arbiter = ArbiterName::new("w1").unwrap();
    });
    assert!(say::headline(Lang::En, &witness).remedy.unwrap().starts_with("Check the arbiter w1,"));
    assert!(first(&kept).1.contains("hq-db1 で稼働し"));
    let silent = with(HealthView::NoContact, |m| m.cells.iter_mut().for_each(|c| c.contact = Contact::Lost { since_unix_ms: 1 }));
    assert_eq!(first(&silent).0, "The console has no contact with any node of postgres.");
    let half_silent = with(HealthView::NoContact, |m| m.cells[0].contact = Contact::Lost { since_unix_ms: 1 });
    assert_eq!(first(&half_silent).0, "Whether postgres is being served is not known: there is no contact with hq-db1.");
    let new = with(HealthView::NoContact, |m| m.cells.iter_mut().for_each(|c| c.contact = Contact::Never));
    assert_eq!(first(&new).0, "No node of postgres has connected yet.");
    let moving = with(HealthView::InProgress, |m| snapshot_of(m, 0).readiness = Readiness::Transient);
    first(&moving);
    let network = with(HealthView::AtRisk, |m| snapshot_of(m, 0).peer.networks[1].is_up = false);
    assert_eq!(say::headline(Lang::En, &network).next.as_deref(), Some("The heartbeat network replication is down."));
    let off = with(HealthView::AtRisk, |m| m.def.as_mut().unwrap().is_failover_on = false);
    assert_eq!(say::headline(Lang::Ja, &off).next.as_deref(), Some("設定で自動フェイルオーバーが無効になっています。"));
}

#[test]
fn the_plan_of_a_swap_lists_what_happens_in_order() {
    let plan = say::plan(Lang::En, &healthy(), &Verb::Swap, &Target::Module, &Interruption::Configured { most_ms: 60_000 });
    assert_eq!(plan.question, "Swap postgres to hq-db2?");
    let steps: Vec<_> = plan.steps.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(
        steps,
        [
            "Stop the application of postgres on hq-db1 (script stop_prim)",
            "Move 192.168.10.50 to hq-db2",
            "Start the application of postgres on hq-db2 (script start_prim)",
            "hq-db1 becomes secondary; protection continues",
        ]
    );
    assert!(plan.interruption.is_some_and(|(_, detail)| detail.contains("1 min 0 s")));
    assert!(plan.ticks.iter().all(|t| t.is_ok));
    assert_eq!((plan.blocked, plan.command.as_str(), plan.grade), (None, "tsugi swap postgres", say::Grade::Impact));
}

#[test]
fn a_plan_that_cannot_be_carried_out_says_why() {
    let plan = say::plan(Lang::Ja, &resyncing(), &Verb::Swap, &Target::Module, &Interruption::None);
    assert_eq!(
        plan.blocked.as_deref(),
        Some("mes-db には最新データを持つセカンダリがありません。セカンダリが動いていて再同期が終わると、実行できます。")
    );
    assert!(plan.ticks.iter().any(|t| !t.is_ok));
    let lost = Target::Node(alone_without_contact().cells[1].node.clone());
    let plan = say::plan(Lang::En, &alone_without_contact(), &Verb::Start, &lost, &Interruption::None);
    assert!(plan.blocked.unwrap().contains("no contact with osaka-2"));
    let plan = say::plan(Lang::En, &healthy(), &Verb::Start, &Target::Module, &Interruption::None);
    assert_eq!(plan.blocked.as_deref(), Some("postgres is already running."));
}

#[test]
fn stopping_the_module_waits_for_a_person_and_stopping_its_primary_fails_over() {
    let whole = say::plan(Lang::En, &healthy(), &Verb::Stop, &Target::Module, &Interruption::UntilStarted);
    assert_eq!(whole.steps[0].text, "hq-db2 stops following", "secondary first");
    assert_eq!(whole.interruption.unwrap().0, "The service is interrupted until it is started again");
    let primary = Target::Node(healthy().cells[0].node.clone());
    let one = say::plan(Lang::En, &healthy(), &Verb::Stop, &primary, &Interruption::Configured { most_ms: 10_000 });
    assert_eq!(one.steps.last().unwrap().text, "hq-db2 runs without a backup until hq-db1 is started");
    let one = say::plan(Lang::Ja, &healthy(), &Verb::Stop, &primary, &Interruption::UntilStarted);
    assert_eq!(one.interruption.unwrap().0, "サービスが一時的に中断することがあります", "the secondary takes over");
    let secondary = Target::Node(healthy().cells[1].node.clone());
    let one = say::plan(Lang::En, &healthy(), &Verb::Stop, &secondary, &Interruption::None);
    assert_eq!(one.interruption, None, "the service goes on");
}

#[test]
fn only_what_can_lose_data_is_dangerous() {
    let grade =
        |m: &ModuleView, verb: Verb| say::plan(Lang::En, m, &verb, &Target::Node(m.cells[0].node.clone()), &Interruption::None).grade;
    assert_eq!(grade(&stopped(), Verb::Prim { accept_loss: false }), say::Grade::Impact, "this copy is current");
    let mut unknown = stopped();
    snapshot_of(&mut unknown, 0).is_up_to_date = false;
    assert_eq!(grade(&unknown, Verb::Prim { accept_loss: false }), say::Grade::Danger);
    assert_eq!(grade(&stopped(), Verb::Prim { accept_loss: true }), say::Grade::Danger);
    assert_eq!(grade(&stopped(), Verb::PrimForce), say::Grade::Danger);
    assert_eq!(grade(&stopped(), Verb::Second { full_sync: true }), say::Grade::Danger);
    assert_eq!(grade(&stopped(), Verb::Second { full_sync: false }), say::Grade::Impact);
    assert_eq!(grade(&stopped(), Verb::Start), say::Grade::Simple);
}

#[test]
fn plans_are_worded_for_every_order_and_state() {
    let verbs = || Verb::each().into_iter().chain([Verb::Prim { accept_loss: true }, Verb::Second { full_sync: true }]);
    for m in [healthy(), resyncing(), alone_without_contact(), stopped(), blocked(), farm()] {
        for verb in verbs() {
            let targets = m.cells.iter().map(|c| Target::Node(c.node.clone())).chain([Target::Module]);
            for target in targets {
                let plan = |lang| say::plan(lang, &m, &verb, &target, &Interruption::Configured { most_ms: 5000 });
                let (en, ja) = (plan(Lang::En), plan(Lang::Ja));
                assert!(!is_japanese(&en.question) && is_japanese(&ja.question), "{}", ja.question);
                assert_eq!(en.steps.len(), ja.steps.len());
                for (e, j) in en.steps.iter().zip(&ja.steps) {
                    assert!(!is_japanese(&e.text) && is_japanese(&j.text), "{} / {}", e.text, j.text);
                }
                assert_eq!(en.blocked.is_some(), ja.blocked.is_some());
                assert!(!en.question.contains('—') || en.blocked.is_some(), "{}: nobody to order it to", en.question);
            }
        }
    }
}

/// The documents of the reader's own tests bring every kind of problem.
#[test]
fn problems_of_a_configuration_are_worded() {
    let cases = include_str!("../../core/src/module/xml/cases.txt");
    let mut count = 0;
    for case in cases.split("\n## ").skip(1) {
        let text = case.split_once('\n').unwrap().1.split("\n----").next().unwrap();
        for problem in xml::parse(text, &xml::ParseContext::default()).problems {
            count += 1;
            let view = say::problem(Lang::Ja, "conf/userconfig.xml", &problem);
            assert!(is_japanese(&view.message) && view.message.ends_with('。'), "{problem}: {}", view.message);
            let remedy = view.remedy.unwrap();
            assert!(is_japanese(&remedy), "{problem}: {remedy}");
            let words = remedy.split('`').step_by(2).flat_map(|part| part.split(['<', '>'])).collect::<String>();
            assert!(!words.contains(" the ") && !words.contains(" of "), "{problem}: not translated: {remedy}");
            assert_eq!((view.line, view.column), (problem.place.line, problem.place.column));
            let english = say::problem(Lang::En, "conf/userconfig.xml", &problem);
            assert_eq!(english.message, problem.message());
        }
    }
    assert!(count > 60, "only {count} problems were seen");
}

/// What the reader proposes instead is a half sentence in English; each has its Japanese.
#[test]
fn proposals_of_the_reader_are_translated() {
    use tsugi_core::module::xml::{Place, Problem, ProblemKind, Severity};
    let rules = concat!(include_str!("../../core/src/module/xml/rules.rs"), include_str!("../../core/src/module/xml/rules/check.rs"));
    let mut count = 0;
    for part in rules.split("Some(\"").skip(1) {
        let instead = part.split("\")").next().unwrap().replace("\\\"", "\"");
        count += 1;
        let kind = ProblemKind::NotSupported { what: "x".to_owned(), instead: Some(instead.clone()) };
        let problem = Problem { place: Place::START, element: String::new(), attribute: None, kind, severity: Severity::Error };
        let remedy = say::problem_remedy(Lang::Ja, &problem);
        let proposal = remedy.trim_start_matches("代わりに次を使ってください：");
        let outside_code = proposal.split('`').step_by(2).collect::<String>();
        let is_code_only = !outside_code.chars().any(|c| c.is_ascii_alphabetic());
        assert!(is_japanese(proposal) || is_code_only, "{instead}: {proposal}");
    }
    assert!(count > 5, "only {count} were found");
}

#[test]
fn what_differs_says_when_it_is_repaired_and_what_a_person_can_do() {
    use tsugi_core::state::RepairWait as Wait;
    let says = |authority, arbiter, maintained: bool, replication| {
        let mut m = healthy();
        let s = snapshot_of(&mut m, 0);
        s.verification.unrepaired = 3;
        s.authority.kind = authority;
        (s.arbiter, s.replication) = (arbiter, replication);
        s.maintenance_until_unix_ms = maintained.then_some(NOW + 60_000);
        s.peer.node = Some(node("hq-db2"));
        let (en, ja) = (say::unrepaired(Lang::En, s).unwrap(), say::unrepaired(Lang::Ja, s).unwrap());
        assert!(!is_japanese(&format!("{}{}", en.text, en.rest())) && is_japanese(&ja.text) && is_japanese(&ja.rest()), "{en:?} {ja:?}");
        assert!(en.text.ends_with("not repaired yet: 3."), "{}", en.text);
        (s.repair_wait(), en.rest(), en.command.zip(en.on))
    };
    use ArbiterView::{NotNeeded, Reachable, Unknown, Unreachable};
    let level = Replication::Synchronous;
    assert_eq!(says(Authority::Arbiter, Reachable, false, level).0, None);
    assert_eq!(says(Authority::None, NotNeeded, false, level).0, None);
    for (authority, arbiter) in [(Authority::Arbiter, Unreachable), (Authority::Arbiter, Unknown), (Authority::Ping, Unreachable)] {
        let (wait, rest, command) = says(authority, arbiter, false, level);
        assert_eq!((wait, command), (Some(Wait::Arbiter), None));
        assert!(rest.contains("once the arbiter answers"), "{rest}");
    }
    assert_eq!(says(Authority::Manual, NotNeeded, false, level).0, None);
    let (wait, _, command) = says(Authority::Fence, Reachable, false, level);
    let wanted = ("tsugi stopstart postgres".to_owned(), "hq-db2".to_owned());
    assert_eq!((wait, command), (Some(Wait::Person), Some(wanted)));
    assert_eq!(says(Authority::Arbiter, Reachable, true, level).0, Some(Wait::Maintenance));
    assert_eq!(says(Authority::Arbiter, Reachable, false, Replication::Resync).0, Some(Wait::Peer));
    // Nothing is said of a pair that is known to be equal.
    let mut equal = healthy();
    assert_eq!(say::unrepaired(Lang::En, snapshot_of(&mut equal, 0)), None);
}
