//! Statements about two nodes together, one course each. All courses at once are explored in `tests/model.rs`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, calls, name};
use tsugi_core::command::{Command, Refusal, Verb};
use tsugi_core::engine::{Input, Timer};
use tsugi_core::event::Event;
use tsugi_core::ids::LifeId;
use tsugi_core::module::{Action, Authority, DefaultPrim, ScriptName};
use tsugi_core::rehearsal::Rehearsed;
use tsugi_core::replica::ReplicaNote;
use tsugi_core::state::{Flag, Health, Readiness, Reason, State};
use tsugi_core::wire::arbiter::{ArbiterRequest, Record};

// ---- authorities ----

#[test]
fn with_a_person_as_authority_the_secondary_waits_and_needs_a_named_consent() {
    let mut pair = Pair::formed(Authority::Manual);
    pair.silence(1);
    pair.settle();
    assert_eq!(pair.shown(1), (State::Wait, Readiness::NotReady, Some(&Reason::ManualTakeover { peer: name("a") })));

    assert_eq!(pair.order(1, Verb::Prim { accept_loss: false }), Some(Refusal::NeedsAcceptLoss));
    assert_eq!(pair.order(1, Verb::Prim { accept_loss: true }), None);
    pair.settle();
    assert_eq!(pair.states()[1], State::Alone, "{}", pair.describe());
}

#[test]
fn with_a_person_as_authority_a_swap_and_a_stop_still_hand_over_by_themselves() {
    let mut pair = Pair::formed(Authority::Manual);
    assert_eq!(pair.order(0, Verb::Swap), None);
    pair.settle();
    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());
}

#[test]
fn with_no_authority_both_go_on_and_after_the_cut_the_one_that_took_the_role_leaves_it() {
    let mut pair = Pair::formed(Authority::None);
    pair.silence(1);
    pair.maybe_fire(0, Timer::PeerSilent);
    pair.settle();
    assert_eq!(pair.states(), [State::Alone, State::Alone], "{}", pair.describe());

    pair.is_cut = false;
    pair.settle();
    assert_eq!(pair.states(), [State::Alone, State::Wait], "{}", pair.describe());
    assert_eq!(pair.shown(1).2, Some(&Reason::SplitBrain { peer: name("a") }), "neither history is written over");

    assert_eq!(pair.order(1, Verb::Resolve { keep: name("a") }), None);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
}

#[test]
fn without_an_arbiter_a_node_that_boots_alone_waits_for_the_other_unless_it_was_alone() {
    for authority in [Authority::None, Authority::Ping, Authority::Fence, Authority::Manual] {
        let mut pair = Pair::formed(authority);
        pair.is_cut = true;
        pair.reboot(1);
        pair.settle();
        assert_eq!(pair.shown(1).2, Some(&Reason::WaitingForPeer { peer: name("a") }), "{authority:?}");

        // The other one went on alone: it knows that nobody else has what it acknowledged.
        pair.maybe_fire(0, Timer::PeerSilent);
        pair.settle();
        pair.reboot(0);
        pair.settle();
        assert_eq!(pair.states()[0], State::Alone, "{authority:?} {}", pair.describe());
    }
}

// ---- the arbiter's store is lost ----

#[test]
fn a_pair_writes_a_lost_record_anew_without_losing_its_secondary() {
    let mut pair = Pair::formed(Authority::Arbiter);
    let epoch = pair.record.version;
    pair.record = Record::empty(LifeId(77));
    // Something makes the primary ask: its peer leaves and comes back.
    assert_eq!(pair.order(1, Verb::Stop), None);
    pair.settle();
    assert_eq!(pair.states()[0], State::Alone);
    assert_eq!(pair.record.instance, LifeId(77));
    assert!(pair.record.version > epoch, "epochs never go back: {:?}", pair.record);

    pair.order(1, Verb::Start);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    assert!(pair.has_event(0, |e| matches!(e, Event::Reseeded { .. })));
}

#[test]
fn a_secondary_does_not_take_over_by_a_record_that_was_lost() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.record = Record::empty(LifeId(77));
    pair.silence(1);
    pair.settle();

    assert_eq!(pair.shown(1), (State::Wait, Readiness::NotReady, Some(&Reason::ArbiterReplaced)));
    assert_eq!(pair.record.version.0, 0);
}

#[test]
fn a_request_meant_for_a_lost_store_changes_nothing_in_its_successor() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.silence(0);
    let late = pair.nodes[0].asked.iter().find(|r| matches!(r, ArbiterRequest::Claim { .. })).unwrap().clone();
    let successor = Record { instance: LifeId(77), ..pair.record.clone() };

    assert_eq!(successor.apply(&name("a"), &late), None);
}

/// Found by the simulator: a person had given the role to the other node, which only the lost store knew.
#[test]
fn the_only_node_of_a_lost_record_serves_by_the_other_nodes_word_and_not_without() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    pair.is_cut = true;
    pair.record = Record::empty(LifeId(77));
    pair.reboot(0);
    pair.settle();
    assert_eq!(pair.shown(0), (State::Wait, Readiness::NotReady, Some(&Reason::ArbiterReplaced)));
    pair.order(0, Verb::Prim { accept_loss: false });
    pair.settle();
    assert_eq!(pair.record.version.0, 0, "without a consent to a loss it is the same");

    // The other one is there, idle, and has heard of the new store.
    pair.is_cut = false;
    pair.order(1, Verb::Start);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    assert!(pair.has_event(0, |e| matches!(e, Event::Reseeded { .. })));
}

/// What the other node said before this one had read the new store proves nothing: it may have got the role since.
#[test]
fn a_word_from_before_the_store_was_replaced_does_not_count() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    pair.is_arbiter_down = true;
    pair.reboot(0);
    pair.order(1, Verb::Start);
    // The other one is heard, idle; then nothing more arrives.
    pair.beat(1);
    pair.record = Record::empty(LifeId(77));
    pair.is_arbiter_down = false;
    for _ in 0..3 {
        for timer in [Timer::ArbiterRetry, Timer::Quarantine, Timer::Backoff] {
            pair.maybe_fire(0, timer);
        }
    }
    assert_eq!(pair.shown(0), (State::Wait, Readiness::NotReady, Some(&Reason::ArbiterReplaced)));
    assert_eq!(pair.record.version.0, 0, "{}", pair.describe());
}

/// Found by the simulator: an order without a consent was carried out because the record was empty.
#[test]
fn an_order_without_consent_does_not_serve_an_old_copy_because_the_record_was_lost() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_cut = true;
    pair.fire(0, Timer::PeerSilent);
    pair.settle();
    assert_eq!(pair.states()[0], State::Alone);
    pair.reboot(1);
    pair.record = Record::empty(LifeId(77));
    pair.settle();
    pair.order(1, Verb::Prim { accept_loss: false });
    pair.settle();
    assert_eq!(pair.shown(1), (State::Wait, Readiness::NotReady, Some(&Reason::ArbiterReplaced)));

    pair.order(1, Verb::Prim { accept_loss: true });
    pair.settle();
    assert_eq!(pair.states()[1], State::Alone, "with the consent it does");
}

/// Found by the simulator: a node that may not start was passed over though its copy was the newer one.
#[test]
fn a_lost_record_is_not_written_anew_by_the_older_copy_because_the_newer_node_may_not_start() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_cut = true;
    pair.reboot(1);
    pair.order(1, Verb::Stop);
    pair.fire(0, Timer::PeerSilent);
    pair.settle();
    pair.nodes[0].failing.insert(ScriptName::StartPrim);
    pair.order(0, Verb::Restart);
    pair.settle();
    assert!(matches!(pair.shown(0).2, Some(Reason::ScriptFailed { .. })), "{}", pair.describe());
    pair.record = Record::empty(LifeId(77));
    pair.is_cut = false;
    pair.order(1, Verb::Start);
    pair.settle();

    assert_eq!(pair.states(), [State::Wait, State::Wait], "{}", pair.describe());
    assert_eq!(pair.record.version.0, 0);
}

/// Found by the simulator: `decide` compared the nodes by a record that was older than an unresolved request.
#[test]
fn an_unresolved_request_is_settled_before_nodes_are_compared() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_arbiter_down = true;
    pair.silence(1);
    let late = pair.nodes[1].asked.iter().find(|r| matches!(r, ArbiterRequest::Claim { .. })).unwrap().clone();
    pair.record = pair.record.apply(&name("b"), &late).unwrap();
    // The answer is lost; the former primary hands over meanwhile, an operator restarts this node.
    pair.order(1, Verb::StopStart);
    pair.order(0, Verb::Stop);
    pair.is_arbiter_down = false;
    pair.is_cut = false;
    pair.settle();

    assert_eq!(pair.states()[1], State::Alone, "{}", pair.describe());
}

/// Found by the simulator: the session broke between level and the record's naming the node.
#[test]
fn a_level_follower_that_is_never_named_leaves_and_comes_back() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    pair.is_arbiter_down = true;
    pair.order(1, Verb::Start);
    for _ in 0..3 {
        pair.settle();
    }
    let session = pair.nodes[1].disk.session;
    pair.feed(0, Input::Replica(ReplicaNote::SessionLost { session, detail: String::new() }));
    pair.feed(1, Input::Replica(ReplicaNote::SessionLost { session, detail: String::new() }));
    pair.is_arbiter_down = false;
    pair.settle();

    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    assert!(pair.nodes[1].disk.session > session, "in a new session");
}

#[test]
fn both_idle_nodes_write_a_lost_record_anew_when_they_see_one_another() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_cut = true;
    pair.record = Record::empty(LifeId(77));
    pair.reboot(0);
    pair.reboot(1);
    pair.settle();
    assert_eq!(pair.shown(0).2, Some(&Reason::ArbiterReplaced));

    pair.is_cut = false;
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
}

// ---- roles ----

#[test]
fn a_role_whose_application_does_not_start_goes_back_with_its_data() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.nodes[1].failing.insert(ScriptName::StartPrim);

    assert_eq!(pair.order(0, Verb::Swap), None);
    pair.settle();

    assert_eq!(pair.states()[0], State::Alone, "{}", pair.describe());
    let why = Reason::ScriptFailed { script: ScriptName::StartPrim, code: Some(1) };
    assert_eq!(pair.shown(1), (State::Wait, Readiness::NotReady, Some(&why)));
    assert!(pair.has_event(1, |e| matches!(e, Event::Hosting { .. })));
    assert!(pair.record.in_sync.contains(&name("a")) && pair.nodes[0].disk.flag == Flag::UpToDate);
}

#[test]
fn when_the_application_starts_nowhere_the_role_does_not_wander() {
    let mut pair = Pair::formed(Authority::Arbiter);
    for node in &mut pair.nodes {
        node.failing.insert(ScriptName::StartPrim);
    }

    pair.order(0, Verb::Restart);
    pair.settle();

    assert_eq!(pair.states(), [State::Wait, State::Wait], "{}", pair.describe());
    assert!(pair.count(0, ScriptName::StartPrim) <= 2 && pair.count(1, ScriptName::StartPrim) <= 2);
}

#[test]
fn the_role_is_not_given_away_while_something_of_the_application_lives() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.nodes[0].is_unkillable = true;

    pair.order(0, Verb::Swap);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second]);
    assert_eq!(pair.shown(0).2, Some(&Reason::Unkillable { detail: "pid 7".into() }));

    pair.nodes[0].is_unkillable = false;
    pair.fire(0, Timer::StepRetry);
    pair.settle();
    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());
}

#[test]
fn a_primary_whose_agent_comes_back_without_its_role_is_replaced_at_once() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.reboot(0);
    for _ in 0..3 {
        for node in 0..2 {
            pair.beat(node);
        }
    }

    assert_eq!(pair.states()[1], State::Prim, "without waiting for its promise: {}", pair.describe());
}

#[test]
fn the_last_primary_takes_its_role_back_where_that_is_wanted() {
    let mut pair = Pair::with(Authority::Arbiter, |cfg| cfg.default_prim = DefaultPrim::LastPrim);
    pair.order(0, Verb::Stop);
    pair.settle();
    assert_eq!(pair.states(), [State::Stop, State::Alone]);
    pair.order(0, Verb::Start);
    pair.settle();
    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());

    pair.fire(1, Timer::Failback);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
}

#[test]
fn a_role_given_away_by_an_order_is_not_taken_back() {
    let mut pair = Pair::with(Authority::Arbiter, |cfg| cfg.default_prim = DefaultPrim::LastPrim);
    pair.order(0, Verb::Swap);
    pair.settle();
    assert_eq!(pair.states(), [State::Second, State::Prim]);
    assert!(!pair.nodes[1].timers.contains(&Timer::Failback));
}

// ---- checkers, maxloop, maintenance ----

#[test]
fn under_maintenance_nothing_is_restarted_or_taken_over_and_afterwards_it_is() {
    let mut pair = Pair::formed(Authority::Arbiter);
    for node in 0..2 {
        assert_eq!(pair.order(node, Verb::Maintenance { minutes: 10 }), None);
    }
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    assert_eq!(pair.count(0, ScriptName::StopPrim), 0);
    pair.silence(1);
    assert_eq!(pair.shown(1), (State::Second, Readiness::NotReady, Some(&Reason::Maintenance)));

    pair.fire(1, Timer::Maintenance);
    pair.settle();
    assert_eq!(pair.states()[1], State::Alone, "{}", pair.describe());
}

#[test]
fn a_resource_that_goes_down_while_scripts_run_is_acted_upon_when_they_are_done() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(0, Verb::Maintenance { minutes: 10 });
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    pair.order(0, Verb::Maintenance { minutes: 0 });
    assert_eq!(pair.count(0, ScriptName::StartPrim), 1, "restarted once, when it was allowed");
    pair.settle();
    assert_eq!(pair.count(0, ScriptName::StartPrim), 1, "and only once");
}

#[test]
fn the_fourth_automatic_action_in_the_interval_stops_the_module_with_the_reason() {
    let mut pair = Pair::formed(Authority::Arbiter);
    for round in 1..=3 {
        pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
        assert_eq!(pair.count(0, ScriptName::StartPrim), round);
        pair.health(0, "tcp.web", Health::Up, Action::Restart, false);
    }
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    pair.settle();

    assert_eq!(pair.shown(0), (State::Stop, Readiness::NotReady, Some(&Reason::LoopLimit { count: 3 })));
    assert_eq!(pair.states()[1], State::Alone, "the other node has taken over");
}

#[test]
fn the_copies_are_compared_where_the_module_serves_and_that_forgets_no_action() {
    let mut pair = Pair::formed(Authority::Arbiter);
    for _ in 0..3 {
        pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
        pair.health(0, "tcp.web", Health::Up, Action::Restart, false);
    }
    assert_eq!(pair.order(1, Verb::Verify), Some(Refusal::NotServing));
    assert_eq!(pair.order(0, Verb::Verify), None);
    assert_eq!((pair.nodes[0].verified, pair.nodes[1].verified), (1, 0));
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    pair.settle();
    assert_eq!(pair.states(), [State::Stop, State::Alone], "the fourth automatic action, as without the comparison");
    assert_eq!(pair.order(1, Verb::Verify), Some(Refusal::NotProtected), "there is nothing to compare with");
}

#[test]
fn an_action_older_than_the_interval_counts_no_more() {
    let mut pair = Pair::formed(Authority::Arbiter);
    for _ in 0..3 {
        pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
        pair.health(0, "tcp.web", Health::Up, Action::Restart, false);
    }
    pair.fire(0, Timer::LoopExpire(1));
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    assert_eq!(pair.states()[0], State::Prim);
    pair.health(0, "tcp.web", Health::Up, Action::Restart, false);
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    pair.settle();
    assert_eq!(pair.states()[0], State::Stop);
}

#[test]
fn a_role_is_not_moved_to_a_node_that_is_not_fit() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.health(1, "intf.eth1", Health::Down, Action::NoAction, true);
    pair.health(1, "ping.gateway", Health::Down, Action::Wait, true);
    pair.settle();
    assert_eq!(pair.states(), [State::Alone, State::Wait], "{}", pair.describe());

    pair.health(0, "tcp.move", Health::Down, Action::StopStart, false);
    pair.settle();
    assert_eq!(pair.states()[0], State::Alone, "restarted where it is");
    assert_eq!(pair.count(0, ScriptName::StartPrim), 1);
}

#[test]
fn an_action_that_is_no_hard_fact_is_done_when_it_has_been_asked_for_long_enough() {
    let mut pair = Pair::with(Authority::Arbiter, |cfg| cfg.rules.handle_time = std::time::Duration::from_secs(15));
    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    assert_eq!(pair.count(0, ScriptName::StartPrim), 0);
    pair.health(0, "tcp.web", Health::Up, Action::Restart, false);
    assert!(!pair.nodes[0].timers.contains(&Timer::Confirm), "it was up again meanwhile");

    pair.health(0, "tcp.web", Health::Down, Action::Restart, false);
    pair.fire(0, Timer::Confirm);
    assert_eq!(pair.count(0, ScriptName::StartPrim), 1);
}

#[test]
fn a_rule_may_look_at_the_other_node_and_exchange_the_roles() {
    let mut pair = Pair::with(Authority::Arbiter, |cfg| {
        let text = "better: if (tcp.lan == down && remote.tcp.lan == up) then swap();";
        cfg.rules.rules = tsugi_core::rules::parse(text).0;
    });
    pair.health(1, "tcp.lan", Health::Down, Action::NoAction, true);
    pair.health(0, "tcp.lan", Health::Down, Action::NoAction, true);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "the other one is no better");

    pair.health(1, "tcp.lan", Health::Up, Action::NoAction, true);
    pair.settle();
    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());
    assert!(pair.has_event(0, |e| matches!(e, Event::RuleFired { .. })));
}

// ---- scripts ----

#[test]
fn scripts_are_called_in_the_order_of_the_table() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(0, Verb::Swap);
    pair.settle();

    let stops = ["stop_prim", "stop_prim force", "stop_both", "stop_both force", "transition"];
    assert_eq!(calls(&pair.nodes[0])[..5], stops, "{:?}", calls(&pair.nodes[0]));
    let rest = &calls(&pair.nodes[0])[5..];
    assert_eq!(rest, ["transition", "start_both", "start_second", "start_sec"], "and into SECOND");
    let took = ["stop_second", "transition", "start_prim", "stop_sec", "transition"];
    assert_eq!(calls(&pair.nodes[1]), took, "SECOND to ALONE to PRIM");
}

// ---- what an order would do ----

#[test]
fn a_dry_run_tells_the_steps_of_the_order_and_changes_nothing() {
    let mut pair = Pair::formed(Authority::Arbiter);
    let before = pair.nodes[0].engine.clone();
    let order = |verb| Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false };

    let told = pair.nodes[0].engine.rehearse(order(Verb::Swap));

    assert_eq!(pair.nodes[0].engine, before);
    let script = |script, forced| Rehearsed::Script { script, forced };
    let wanted = [
        script(ScriptName::StopPrim, false),
        script(ScriptName::StopPrim, true),
        script(ScriptName::StopBoth, false),
        script(ScriptName::StopBoth, true),
        Rehearsed::Kill,
        Rehearsed::DropVips,
        Rehearsed::Release,
    ];
    let done: Vec<_> = told.steps.iter().filter(|s| !matches!(s, Rehearsed::Enter { .. })).cloned().collect();
    assert_eq!(done[..wanted.len()], wanted, "{told:?}");
    // What really happens is what was told.
    pair.order(0, Verb::Swap);
    assert_eq!(calls(&pair.nodes[0])[..4], ["stop_prim", "stop_prim force", "stop_both", "stop_both force"]);
}

#[test]
fn a_dry_run_of_a_refused_order_says_why() {
    let pair = Pair::formed(Authority::Arbiter);
    let told = pair.nodes[1].engine.rehearse(Command {
        id: String::new(),
        verb: Verb::Swap,
        by: "root".into(),
        reason: None,
        is_automatic: false,
    });
    assert_eq!((told.refusal, told.steps.len()), (Some(Refusal::NotServing), 0));
}
