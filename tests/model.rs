//! Every order of events in a small world around the real engine, and what must hold in all of them.
//!
//! The engine explored here is the very code the agent runs. In the ordinary run each search visits a slice;
//! `./dev test --long model` visits everything inside the bounds named here. `TSUGI_MODEL_STATES` overrides both.

use tsugi_core::command::Verb;
use tsugi_core::engine::Mutant;
use tsugi_core::module::Async;
use tsugi_core::state::Readiness::{NotReady, Ready, Transient};
use tsugi_core::state::State::{Alone, Prim, Second, Stop, Wait};
use tsugi_tests::world::{Action, ArbiterKind, Broken, Budget, Row, Seen, Setting, World, dead_ends, explore};

/// The bounds of the main searches.
const SMALL: Budget = Budget { crashes: 2, cuts: 1, writes: 1, late: 1, stops: 1, swaps: 1, fails: 0, version_max: 5, session_max: 3 };

fn is_long() -> bool {
    std::env::var("TSUGI_LONG").is_ok_and(|name| name == "model")
}

/// States a search may visit: `slice` in the ordinary run, all in the long one.
fn states_max(slice: usize) -> usize {
    let asked = std::env::var("TSUGI_MODEL_STATES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if is_long() { 60_000_000 } else { slice })
}

fn small() -> Setting {
    Setting { budget: SMALL, ..Setting::default() }
}

/// The same, begun with a pair that has formed: deeper faults at the same cost.
fn paired(setting: Setting) -> World {
    let mut world = World::new(setting);
    assert!(world.run_friendly(400, World::is_pair), "no pair forms: {}", world.describe());
    world
}

#[track_caller]
fn must_hold(what: &str, start: &World, slice: usize) -> Seen {
    let seen = explore(start, states_max(slice));
    if let Some((broken, trace)) = &seen.broken {
        panic!("{what}: {broken:?}\n{}", trace.join("\n"));
    }
    println!("{what}: {} states, {} new steps, exhausted: {}", seen.states, seen.steps, seen.is_exhausted);
    assert!(seen.states >= slice || seen.is_exhausted, "only {} states", seen.states);
    seen
}

#[test]
fn from_the_first_start_no_invariant_breaks() {
    let budget = Budget { crashes: 1, late: 0, stops: 0, swaps: 0, ..SMALL };
    let seen = must_hold("first start", &World::new(Setting { budget, ..Setting::default() }), 120_000);

    assert!(seen.has_pair, "no pair ever forms: an engine that does nothing would pass");
}

#[test]
fn whatever_befalls_a_pair_no_invariant_breaks() {
    let seen = must_hold("pair", &paired(small()), 120_000);

    assert!(seen.has_takeover, "no take-over ever happens");
}

#[test]
fn with_acknowledgements_from_memory_no_invariant_breaks() {
    let seen = must_hold("pair, async=second", &paired(Setting { ack: Async::Second, ..small() }), 60_000);

    assert!(seen.has_takeover, "no take-over ever happens");
}

/// Scripts and orders to the data process take time, and one of them fails.
#[test]
fn with_slow_and_failing_work_no_invariant_breaks() {
    let budget = Budget { crashes: 1, cuts: 1, late: 0, fails: 1, ..SMALL };
    must_hold("slow work", &paired(Setting { budget, is_slow: true, ..Setting::default() }), 100_000);
}

/// Nothing is assumed of clocks: two may serve for a moment, but no acknowledged write is lost.
#[test]
fn without_an_assumption_about_clocks_the_data_is_safe() {
    must_hold("clock-free", &paired(Setting { is_clock_free: true, ..small() }), 60_000);
}

/// States that the table of the protocol names, each entered.
#[test]
fn every_row_of_the_state_machine_is_entered() {
    let mut rows = std::collections::BTreeSet::new();
    let mut world = World::new(small());
    while !world.is_pair() {
        rows.extend(world.rows());
        assert!(world.run_friendly(1, |_| false) || world.friendly().is_some(), "{}", world.describe());
    }
    rows.extend(world.rows());
    for is_slow in [false, true] {
        let budget = Budget {
            crashes: 1,
            cuts: 1,
            writes: 0,
            late: 1,
            stops: 2,
            swaps: 1,
            fails: u8::from(is_slow),
            version_max: 5,
            session_max: 3,
        };
        let setting = Setting { budget, is_slow, ..Setting::default() };
        rows.extend(explore(&World::new(setting), states_max(60_000)).rows);
        rows.extend(explore(&paired(setting), states_max(120_000)).rows);
    }
    let wanted: &[Row] = &[
        (Stop, Wait, Transient),
        (Wait, Alone, Transient),
        (Alone, Alone, Ready),
        (Wait, Second, Transient),
        (Second, Second, Ready),
        (Alone, Prim, Ready),
        (Prim, Alone, Ready),
        (Second, Alone, Transient),
        (Second, Wait, NotReady),
        (Second, Stop, NotReady),
        (Prim, Prim, Transient),
        (Prim, Prim, NotReady),
        (Prim, Wait, Transient),
        (Prim, Stop, NotReady),
        (Alone, Stop, NotReady),
        (Alone, Wait, NotReady),
        (Wait, Wait, NotReady),
        (Wait, Stop, NotReady),
    ];
    let missing: Vec<_> = wanted.iter().filter(|row| !rows.contains(row)).collect();
    assert!(missing.is_empty(), "never entered: {missing:?}\nentered: {rows:?}");
}

/// From wherever faults and their end have led: a way to a serving node, and to a pair, without a person.
///
/// Beats of linked nodes arrive in time here: what is asked is that nothing more has to happen, not even a silence.
#[test]
fn from_everywhere_the_service_and_the_pair_come_back_by_themselves() {
    let none = Budget { crashes: 0, cuts: 0, writes: 0, late: 0, stops: 0, swaps: 0, fails: 0, version_max: 7, session_max: 4 };
    let small = [
        ("a crash", Budget { crashes: 1, ..none }),
        ("a cut", Budget { cuts: 1, ..none }),
        ("a swap", Budget { swaps: 1, ..none }),
        ("a stop and a start", Budget { stops: 1, ..none }),
        ("an answer of the arbiter that is lost", Budget { late: 1, crashes: 1, ..none }),
    ];
    let large = [
        ("two crashes", Budget { crashes: 2, version_max: 8, ..none }),
        ("a crash and a cut", Budget { crashes: 1, cuts: 1, late: 1, version_max: 8, ..none }),
    ];
    for (name, budget) in small.into_iter().chain(large.into_iter().filter(|_| is_long())) {
        let start = paired(Setting { budget, is_calm: true, ..Setting::default() });
        let goals: [fn(&World) -> bool; 2] = [World::is_served, World::is_pair];
        let (states, is_exhausted, ways) = dead_ends(&start, states_max(400_000), &goals);
        println!("after {name}: {states} states, exhausted: {is_exhausted}; dead ends: {}", ways.iter().flatten().count());
        for (goal, way) in ["a serving node", "a pair"].iter().zip(ways) {
            assert!(way.is_none(), "after {name} no way to {goal}:\n{}", way.unwrap_or_default().join("\n"));
        }
    }
}

#[test]
fn a_pair_forms_a_takeover_happens_and_the_pair_forms_again() {
    let mut world = paired(small());

    world = world.after(&Action::Crash { node: 0 }).expect("inside the bounds");
    assert!(world.run_friendly(200, World::is_taken_over), "no take-over: {}", world.describe());
    world = world.after(&Action::Restart { node: 0 }).expect("inside the bounds");

    assert!(world.run_friendly(400, |w| w.is_pair() && w.is_taken_over()), "no pair again: {}", world.describe());
}

#[test]
fn a_swap_exchanges_the_roles() {
    let mut world = paired(small());
    assert!(world.run_friendly(50, |w| w.accepts(0, &Verb::Swap)), "{}", world.describe());

    world = world.after(&Action::Order { node: 0, verb: Verb::Swap }).expect("inside the bounds");

    assert!(world.run_friendly(400, |w| w.is_pair() && w.is_taken_over()), "{}", world.describe());
}

#[test]
fn a_primary_stopped_in_order_hands_over_and_a_secondary_stopped_in_order_leaves_its_peer_alone() {
    let mut world = paired(small());
    world = world.after(&Action::Order { node: 0, verb: Verb::Stop }).expect("inside the bounds");
    assert!(world.run_friendly(200, World::is_taken_over), "{}", world.describe());

    let mut world = paired(small());
    world = world.after(&Action::Order { node: 1, verb: Verb::Stop }).expect("inside the bounds");
    assert!(world.run_friendly(200, |w| w.describe().starts_with("a: ALONE(Ready)")), "{}", world.describe());
}

/// A cut shorter than the patience of the data processes: the session goes on, nothing is asked of the arbiter.
#[test]
fn a_short_cut_is_outlived_by_the_session() {
    let mut world = paired(small());
    let before = world.describe();
    for action in [Action::Cut, Action::Heal, Action::Rejoin { source: 0 }] {
        assert!(world.actions().contains(&action), "{action:?} in {}", world.describe());
        world = world.after(&action).expect("inside the bounds");
    }

    assert!(world.is_pair() && world.describe() == before, "{before}\n{}", world.describe());
}

/// Both lose power and come back, in either order: the pair forms again.
#[test]
fn after_both_lost_power_the_pair_forms_again_in_either_order() {
    for first in 0..2 {
        let mut world = paired(small());
        for action in
            [Action::Crash { node: 0 }, Action::Crash { node: 1 }, Action::Restart { node: first }, Action::Restart { node: 1 - first }]
        {
            world = world.after(&action).expect("inside the bounds");
        }
        assert!(world.run_friendly(400, World::is_pair), "{first} first: {}", world.describe());
    }
}

// ---- rules left out: each must be found ----

/// Few faults, so that the shortest trace is found soon.
const FEW: Budget = Budget { crashes: 1, cuts: 1, writes: 1, late: 0, stops: 0, swaps: 0, fails: 0, version_max: 4, session_max: 2 };

#[track_caller]
fn must_find(what: &str, start: &World, wanted: &[fn(&Broken) -> bool]) {
    let seen = explore(start, 1_500_000);
    let Some((broken, trace)) = seen.broken else {
        panic!("{what} was not found in {} states (exhausted: {})", seen.states, seen.is_exhausted)
    };
    println!("{what}: {broken:?} after {} more events, {} states", trace.len() - 1, seen.states);
    assert!(wanted.iter().any(|fits| fits(&broken)), "{what}: another invariant than expected, {broken:?}\n{}", trace.join("\n"));
}

fn two_serve(broken: &Broken) -> bool {
    *broken == Broken::TwoServe
}

fn lost(broken: &Broken) -> bool {
    matches!(broken, Broken::AckedWriteLost { .. } | Broken::ServesOld { .. } | Broken::SecondaryLacks { .. })
}

fn without(mutant: Mutant, budget: Budget) -> Setting {
    Setting { budget, mutant: Some(mutant), ..Setting::default() }
}

#[test]
fn acknowledging_alone_before_the_claim_is_found() {
    must_find("alone before the claim", &paired(without(Mutant::AloneBeforeClaim, FEW)), &[lost]);
}

#[test]
fn claiming_in_spite_of_a_promise_is_found() {
    must_find("no promise", &paired(without(Mutant::NoPromise, FEW)), &[two_serve]);
}

#[test]
fn claiming_right_after_a_restart_is_found() {
    must_find("no quarantine", &paired(without(Mutant::NoQuarantine, FEW)), &[two_serve]);
}

#[test]
fn a_secondary_that_leaves_without_making_its_exclusion_durable_is_found() {
    must_find("stop keeps the flag", &paired(without(Mutant::StopKeepsFlag, Budget { cuts: 0, stops: 1, ..FEW })), &[lost]);
}

#[test]
fn forgetting_an_unresolved_request_over_a_restart_is_found() {
    let budget = Budget { crashes: 2, cuts: 0, version_max: 3, ..FEW };
    let mut world = World::new(without(Mutant::IntentInMemory, budget));
    assert!(world.run_friendly(200, World::is_growing), "{}", world.describe());

    must_find("intent in memory", &world, &[lost]);
}

#[test]
fn promising_with_an_unresolved_claim_is_found() {
    must_find(
        "promise with an intent",
        &paired(without(Mutant::PromiseWithIntent, Budget { crashes: 2, late: 1, session_max: 3, ..FEW })),
        &[two_serve, lost],
    );
}

#[test]
fn a_target_that_counts_as_current_from_the_start_is_found() {
    must_find("up to date early", &World::new(without(Mutant::UpToDateEarly, FEW)), &[lost]);
}

#[test]
fn memory_that_counts_as_disk_is_found() {
    let setting = Setting { ack: Async::Second, ..without(Mutant::VolatileAsUpToDate, FEW) };
    must_find("volatile as up to date", &paired(setting), &[lost]);
}

#[test]
fn a_restarted_secondary_that_goes_on_where_it_was_is_found() {
    must_find("restarted secondary rejoins", &paired(without(Mutant::RejoinRestarted, FEW)), &[lost]);
}

#[test]
fn a_rejoin_that_does_not_look_at_the_epoch_is_found() {
    must_find("rejoin ignores the epoch", &paired(without(Mutant::RejoinIgnoresEpoch, FEW)), &[lost]);
}

#[test]
fn an_arbiter_that_says_yes_to_everyone_is_found() {
    let setting = Setting { budget: FEW, arbiter: ArbiterKind::Anyone, ..Setting::default() };
    must_find("anyone may", &paired(setting), &[two_serve, lost]);
}

#[test]
fn an_arbiter_that_does_not_know_who_is_in_sync_is_found() {
    let setting = Setting { budget: Budget { crashes: 2, ..FEW }, arbiter: ArbiterKind::Lock, ..Setting::default() };
    must_find("a lock without the in-sync set", &paired(setting), &[two_serve, lost]);
}
