//! Where automatic actions end: orders that have become void, failover that is off, maintenance, rules that cannot be
//! followed, scripts of a secondary, times that do not fit.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, calls, name};
use std::collections::BTreeSet;
use tsugi_core::command::{Command, Refusal, Verb};
use tsugi_core::engine::{Input, MirrorConfig, Timer};
use tsugi_core::event::Event;
use tsugi_core::ids::LifeId;
use tsugi_core::module::{Action, Async, Authority, DefaultPrim, Profile, ScriptName, Timing};
use tsugi_core::rehearsal::Rehearsed;
use tsugi_core::replica::ReplicaNote;
use tsugi_core::state::{Flag, Health, Readiness, Reason, State};
use tsugi_core::wire::arbiter::{ArbiterRequest, Record};

fn failover_off(cfg: &mut MirrorConfig) {
    cfg.is_failover_on = false;
}

fn is_claimed(event: &Event) -> bool {
    matches!(event, Event::ClaimAccepted { .. })
}

/// Each script of a node with the states it was told.
fn told(pair: &Pair, node: usize) -> Vec<String> {
    let scripts = pair.nodes[node].scripts.iter();
    scripts.map(|r| format!("{} {} {}", r.script.file(), r.from.word(), r.to.word())).collect()
}

#[test]
fn prim_that_waits_for_the_arbiter_is_void_once_the_other_node_serves() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    (pair.is_cut, pair.is_arbiter_down) = (true, true);
    pair.silence(1);
    assert_eq!(pair.order(1, Verb::Prim { accept_loss: true }), None);
    assert_eq!(pair.shown(1).2, Some(&Reason::NoArbiter));

    pair.is_cut = false;
    pair.beat(0);
    pair.is_arbiter_down = false;
    pair.settle();

    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    let is_told = |e: &Event| matches!(e, Event::Refused { refusal: Refusal::PeerServes { .. }, .. });
    assert!(pair.has_event(1, is_told), "the operator hears of it: {:?}", pair.nodes[1].events);
}

#[test]
fn a_secondary_without_failover_follows_again_when_the_line_is_mended() {
    for (authority, change) in [(Authority::Arbiter, failover_off as fn(&mut MirrorConfig)), (Authority::Manual, |_| {})] {
        let mut pair = Pair::with(authority, change);
        pair.silence(1);
        assert_eq!(pair.states()[1], State::Wait, "{authority:?}");
        pair.silence(0);
        if authority == Authority::Manual {
            continue; // its primary may not go on without a person
        }
        assert_eq!(pair.states()[0], State::Alone, "{}", pair.describe());

        pair.is_cut = false;
        pair.settle();

        assert_eq!(pair.states(), [State::Prim, State::Second], "{authority:?}: {}", pair.describe());
    }
}

#[test]
fn without_failover_the_death_of_an_agent_moves_nothing() {
    let mut pair = Pair::with(Authority::Arbiter, failover_off);

    pair.reboot(0);
    pair.beat(0);
    pair.maybe_fire(1, Timer::PromiseGiven);
    pair.settle();

    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    assert!(!pair.has_event(1, is_claimed), "{:?}", pair.nodes[1].events);
}

#[test]
fn without_failover_a_swap_still_moves_the_role() {
    let mut pair = Pair::with(Authority::Arbiter, failover_off);

    pair.order(0, Verb::Swap);
    pair.settle();

    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());
}

#[test]
fn under_maintenance_the_role_is_neither_given_back_nor_taken_over() {
    let mut pair = Pair::with(Authority::Arbiter, |cfg| cfg.default_prim = DefaultPrim::Node(name("b")));
    pair.order(0, Verb::Maintenance { minutes: 30 });
    pair.fire(0, Timer::Failback);
    assert_eq!(pair.states(), [State::Prim, State::Second]);
    pair.order(0, Verb::Maintenance { minutes: 0 });
    pair.fire(0, Timer::Failback);
    pair.settle();
    assert_eq!(pair.states(), [State::Second, State::Prim], "afterwards it is: {}", pair.describe());

    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Maintenance { minutes: 30 });
    pair.reboot(0);
    pair.beat(0);
    pair.beat(0);
    assert_eq!(pair.shown(1), (State::Second, Readiness::NotReady, Some(&Reason::Maintenance)));
    assert!(!pair.has_event(1, is_claimed), "{:?}", pair.nodes[1].events);
}

#[test]
fn nodes_with_different_times_form_no_pair_and_say_so() {
    let mut pair = Pair::ordered(Authority::Arbiter, |cfg| {
        if cfg.me == name("a") {
            cfg.timing = Timing::of(Profile::Tolerant);
        }
    });

    assert_eq!(pair.states(), [State::Alone, State::Wait], "{}", pair.describe());
    for node in 0..2 {
        assert!(matches!(pair.shown(node).2, Some(Reason::TimesDiffer { .. })), "{node}: {}", pair.describe());
    }

    pair.order(1, Verb::Stop);
    pair.settle();
    assert_eq!(
        pair.shown(0),
        (State::Alone, Readiness::Ready, Some(&Reason::TimesDiffer { peer: name("b"), here_ms: 22072, there_ms: 5055 })).clone()
    );
}

#[test]
fn an_application_that_the_guard_ended_is_started_again_when_this_node_may_serve() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_arbiter_down = true;
    pair.silence(0);
    pair.fire(0, Timer::PromiseHeld);
    assert_eq!(pair.shown(0).2, Some(&Reason::Frozen));

    pair.feed(0, Input::AppEnded);
    assert_eq!(pair.count(0, ScriptName::StartPrim), 0, "not while it is frozen");
    pair.is_arbiter_down = false;
    pair.fire(0, Timer::ArbiterRetry);

    assert_eq!(pair.shown(0), (State::Alone, Readiness::Ready, None), "{}", pair.describe());
    assert_eq!(pair.count(0, ScriptName::StartPrim), 1);
}

#[test]
fn scripts_are_told_the_state_that_is_left() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    assert_eq!(told(&pair, 0), ["transition PRIM ALONE", "start_sec PRIM ALONE"]);

    for node in &mut pair.nodes {
        node.scripts.clear();
    }
    pair.order(1, Verb::Start);
    pair.settle();
    assert_eq!(told(&pair, 0), ["stop_sec ALONE PRIM", "transition ALONE PRIM"]);
    let second = ["transition STOP WAIT", "prestart STOP WAIT", "transition WAIT SECOND", "start_both WAIT SECOND"];
    assert_eq!(told(&pair, 1)[..4], second);

    pair.nodes[1].scripts.clear();
    pair.silence(1);
    let over = ["stop_second SECOND ALONE", "transition SECOND ALONE", "start_prim SECOND ALONE"];
    assert_eq!(told(&pair, 1)[..3], over);
}

#[test]
fn a_secondary_whose_scripts_fail_keeps_the_data_is_not_green_and_tries_again() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    pair.nodes[1].failing.insert(ScriptName::StartBoth);
    pair.order(1, Verb::Start);
    pair.settle();
    let failed = Reason::ScriptFailed { script: ScriptName::StartBoth, code: Some(1) };
    assert_eq!(pair.shown(1), (State::Second, Readiness::NotReady, Some(&failed)));
    assert_eq!(pair.states()[0], State::Prim, "every write is on both all the same");

    pair.nodes[1].failing.clear();
    pair.settle();

    assert_eq!(pair.shown(1), (State::Second, Readiness::Ready, None), "{}", pair.describe());
}

#[test]
fn the_last_copy_goes_on_serving_when_only_start_sec_fails() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.nodes[0].failing.insert(ScriptName::StartSec);

    pair.order(1, Verb::Stop);
    pair.settle();

    assert_eq!(pair.shown(0), (State::Alone, Readiness::Ready, None));
}

#[test]
fn what_a_secondary_had_started_is_stopped_when_its_claim_is_refused() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.silence(0);

    pair.silence(1);

    assert_eq!(pair.states(), [State::Alone, State::Wait], "{}", pair.describe());
    let calls = calls(&pair.nodes[1]);
    assert!(calls.contains(&"stop_both".to_owned()) && calls.contains(&"stop_both force".to_owned()), "{calls:?}");
}

#[test]
fn a_swap_that_is_not_possible_yet_is_made_when_it_is() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();
    pair.health(0, "disk.data", Health::Down, Action::Wait, false);
    assert_eq!(pair.states()[0], State::Alone);

    pair.order(1, Verb::Start);
    pair.settle();

    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());
}

#[test]
fn a_role_is_not_left_as_long_as_the_other_node_cannot_take_it() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.health(1, "ping.gateway", Health::Down, Action::Wait, false);
    pair.settle();
    pair.health(0, "ping.gateway", Health::Down, Action::Wait, false);
    pair.settle();
    assert_eq!(pair.states(), [State::Alone, State::Wait], "the service goes on: {}", pair.describe());

    pair.health(1, "ping.gateway", Health::Up, Action::Wait, false);
    pair.settle();

    assert_eq!(pair.states()[1], State::Alone, "and moves when it can: {}", pair.describe());
}

#[test]
fn a_node_that_reaches_the_arbiter_does_not_wait_for_one_that_does_not() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_arbiter_lost_by = Some(0);
    pair.is_cut = true;
    pair.reboot(0);
    pair.reboot(1);
    pair.is_cut = false;

    pair.settle();

    assert_eq!(pair.states(), [State::Second, State::Prim], "{}", pair.describe());
}

#[test]
fn the_only_owner_of_the_record_need_not_wait_after_a_restart() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.settle();

    pair.reboot(0);

    assert_eq!(pair.states()[0], State::Alone, "{}", pair.describe());
    assert!(pair.nodes[0].timers.contains(&Timer::Quarantine));
}

/// Found by the simulator: a primary lost its power, and within the time that takes to be noticed its secondary was
/// stopped. The secondary called itself older, and the only copy of what had been confirmed was out.
#[test]
fn a_secondary_that_is_stopped_beside_a_dead_primary_keeps_its_right() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_cut = true; // it is dead, and nobody knows it yet

    pair.order(1, Verb::Stop);
    assert_eq!(pair.states()[1], State::Stop);
    pair.silence(1);

    assert_eq!(pair.nodes[1].disk.flag, Flag::UpToDate);
    pair.order(1, Verb::Start);
    assert_eq!(pair.states()[1], State::Alone, "{}", pair.describe());
}

#[test]
fn a_secondary_that_is_stopped_is_out_as_soon_as_the_primary_goes_on_without_it() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.is_arbiter_down = true;

    pair.order(1, Verb::Stop);
    pair.settle();

    assert_eq!(pair.nodes[1].disk.flag, Flag::Stale);
    assert_eq!(pair.shown(0), (State::Alone, Readiness::Ready, None), "no arbiter was needed: {}", pair.describe());
}

/// Found by the simulator: with `async="second"` a data process that died counted as one that had flushed.
#[test]
fn what_was_confirmed_from_memory_counts_only_if_it_was_flushed_before_the_take_over() {
    for (ack, state, flag) in [(Async::None, State::Alone, Flag::UpToDate), (Async::Second, State::Wait, Flag::Stale)] {
        let change: fn(&mut MirrorConfig) = if ack == Async::None { |_| {} } else { |cfg| cfg.ack = Async::Second };
        let mut pair = Pair::with(Authority::Arbiter, change);
        pair.nodes[1].is_data_mute = true;
        pair.silence(1);
        assert_eq!(pair.states()[1], State::Second, "it waits for the end of the session");

        pair.nodes[1].is_data_mute = false;
        pair.feed(1, Input::Replica(ReplicaNote::Died { detail: "killed".into() }));

        assert_eq!((pair.states()[1], pair.nodes[1].disk.flag), (state, flag), "{ack:?}: {}", pair.describe());
    }
}

/// Found by the simulator: the data process died while maintenance held the take-over back, and the copy stayed eligible.
#[test]
fn a_secondary_that_waits_loses_with_its_data_process_what_it_confirmed_from_memory() {
    let mut pair = Pair::with(Authority::Arbiter, |cfg| cfg.ack = Async::Second);
    assert_eq!(pair.nodes[1].disk.flag, Flag::Volatile);
    pair.order(1, Verb::Maintenance { minutes: 10 });
    pair.silence(1);
    assert_eq!(pair.states()[1], State::Second, "{}", pair.describe());

    pair.feed(1, Input::Replica(ReplicaNote::Died { detail: "killed".into() }));
    assert_eq!(pair.nodes[1].disk.flag, Flag::Stale);
    pair.order(1, Verb::Maintenance { minutes: 0 });
    pair.settle();
    assert!(!pair.states()[1].is_serving(), "{}", pair.describe());
}

/// Found by the simulator: a pair's record was written anew, and the node that had asked for it was stopped before it knew.
/// Starting again it took the record, which names both, for a right to serve alone.
#[test]
fn a_record_written_anew_for_the_pair_is_no_right_to_serve_alone() {
    let mut pair = Pair::formed(Authority::Arbiter);
    let both = BTreeSet::from([name("a"), name("b")]);
    let floor = pair.nodes[0].disk.epoch;
    let seed = ArbiterRequest::Seed { store: LifeId(10), floor, gen_id: pair.nodes[0].disk.gen_id, in_sync: both.clone() };
    pair.record = Record::empty(LifeId(10)).apply(&name("a"), &seed).unwrap();
    pair.nodes[0].disk.intent = Some(seed);
    pair.is_cut = true;
    pair.alone_with.clear();

    pair.reboot(0);
    pair.settle();

    assert_eq!(pair.states()[0], State::Alone, "{}", pair.describe());
    assert_eq!(pair.alone_with, [BTreeSet::from([name("a")])], "the other one is excluded first");
}

/// What a rule with `wait()` looks at is waited for, and nothing is claimed or followed before.
#[test]
fn a_module_does_not_start_before_the_checkers_it_waits_for_have_spoken() {
    let mut pair = Pair::formed(Authority::Arbiter);
    pair.order(1, Verb::Stop);
    pair.health(1, "ping.gateway", Health::Init, Action::Wait, true);
    // Of a check that only runs with the role nothing can be known before.
    pair.health(1, "tcp.web", Health::Init, Action::Restart, false);
    let start = Command { id: String::new(), verb: Verb::Start, by: "root".into(), reason: None, is_automatic: false };
    let rehearsed = pair.nodes[1].engine.rehearse(start);
    let is_waiting = |s: &Rehearsed| matches!(s, Rehearsed::Enter { reason: Some(Reason::CheckPending { .. }), .. });
    assert!(!rehearsed.steps.is_empty() && !rehearsed.steps.iter().any(is_waiting), "a dry run shows what follows: {rehearsed:?}");

    pair.order(1, Verb::Start);
    pair.settle();
    let pending = Reason::CheckPending { resource: "ping.gateway".into() };
    assert_eq!(pair.shown(1), (State::Wait, Readiness::Transient, Some(&pending)));
    assert!(!pair.nodes[1].engine.status().is_fit, "no role is given to it");
    pair.health(1, "ping.gateway", Health::Down, Action::Wait, true);
    pair.settle();
    assert!(matches!(pair.shown(1), (State::Wait, Readiness::NotReady, Some(Reason::CheckFailed { .. }))), "{}", pair.describe());
    pair.health(1, "ping.gateway", Health::Up, Action::Wait, true);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
    // One that begins anew while the role is held takes nothing away.
    pair.health(0, "ping.gateway", Health::Init, Action::Wait, true);
    pair.settle();
    assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
}
