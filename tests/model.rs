//! Every order of events in a small world around the real engine, and what must hold in all of them.
//!
//! The engine explored here is the very code the agent runs. `TSUGI_MODEL_STATES` sets how far the main run goes
//! (default: a slice that fits the ordinary test run).

use std::collections::{HashMap, VecDeque};
use tsugi_core::command::Verb;
use tsugi_core::engine::Mutant;
use tsugi_tests::world::{Action, Broken, Budget, World};

/// What an exploration saw.
struct Seen {
    states: usize,
    is_exhausted: bool,
    has_pair: bool,
    has_takeover: bool,
    broken: Option<(Broken, Vec<String>)>,
}

/// Breadth first, so that the first trace found is a shortest one.
fn explore(start: &World, states_max: usize) -> Seen {
    let start = start.clone();
    let mut parents: HashMap<u128, (u128, Option<Action>)> = HashMap::new();
    let mut queue = VecDeque::new();
    let mut seen = Seen { states: 0, is_exhausted: true, has_pair: false, has_takeover: false, broken: None };
    parents.insert(start.fingerprint(), (0, None));
    queue.push_back(start.clone());
    while let Some(world) = queue.pop_front() {
        seen.states += 1;
        seen.has_pair |= world.is_pair();
        seen.has_takeover |= world.is_taken_over();
        if let Some(broken) = world.broken() {
            seen.broken = Some((broken, trace(&parents, &start, &world)));
            return seen;
        }
        let from = world.fingerprint();
        for action in world.actions() {
            let Some(next) = world.after(&action) else { continue };
            let print = next.fingerprint();
            if parents.contains_key(&print) {
                continue;
            }
            if parents.len() >= states_max {
                seen.is_exhausted = false;
                continue;
            }
            parents.insert(print, (from, Some(action)));
            queue.push_back(next);
        }
    }
    seen
}

fn trace(parents: &HashMap<u128, (u128, Option<Action>)>, start: &World, end: &World) -> Vec<String> {
    let mut actions = Vec::new();
    let mut at = end.fingerprint();
    while let Some((before, Some(action))) = parents.get(&at) {
        actions.push(action.clone());
        at = *before;
    }
    actions.reverse();
    let mut world = start.clone();
    let mut lines = vec![format!("start: {}", world.describe())];
    for action in actions {
        world = world.after(&action).expect("the trace was inside the bounds");
        lines.push(format!("{action:?}: {}", world.describe()));
    }
    lines
}

const SMALL: Budget = Budget { crashes: 2, cuts: 1, writes: 2, late: 1, stops: 1, swaps: 1, version_max: 5, session_max: 3 };

fn states_max(default: usize) -> usize {
    std::env::var("TSUGI_MODEL_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The same, begun with a pair that has formed: deeper faults at the same cost.
fn paired(budget: Budget, mutant: Option<Mutant>) -> World {
    let mut world = World::new(budget, mutant);
    assert!(world.run_friendly(200, World::is_pair), "no pair forms: {}", world.describe());
    world
}

#[track_caller]
fn must_hold(start: &World, states_min: usize) -> Seen {
    let seen = explore(start, states_max(states_min));
    if let Some((broken, trace)) = &seen.broken {
        panic!("{broken:?}\n{}", trace.join("\n"));
    }
    println!("explored {} states, exhausted: {}", seen.states, seen.is_exhausted);
    assert!(seen.states >= states_min || seen.is_exhausted, "only {} states", seen.states);
    seen
}

#[test]
fn two_nodes_never_serve_at_once_and_no_acknowledged_write_is_lost() {
    let seen = must_hold(&World::new(SMALL, None), 200_000);

    assert!(seen.has_pair, "no pair ever forms: an engine that does nothing would pass");
}

#[test]
fn the_same_holds_in_all_that_can_befall_a_pair() {
    let seen = must_hold(&paired(SMALL, None), 200_000);

    assert!(seen.has_takeover, "no take-over ever happens");
}

#[test]
fn a_pair_forms_a_takeover_happens_and_the_pair_forms_again() {
    let mut world = paired(SMALL, None);

    world = world.after(&Action::Crash { node: 0 }).expect("inside the bounds");
    assert!(world.run_friendly(200, World::is_taken_over), "no take-over: {}", world.describe());
    world = world.after(&Action::Restart { node: 0 }).expect("inside the bounds");

    assert!(world.run_friendly(400, |w| w.is_pair() && w.is_taken_over()), "no pair again: {}", world.describe());
}

#[test]
fn a_swap_exchanges_the_roles() {
    let mut world = paired(SMALL, None);
    assert!(world.run_friendly(50, |w| w.accepts(0, &Verb::Swap)), "{}", world.describe());

    world = world.after(&Action::Order { node: 0, verb: Verb::Swap }).expect("inside the bounds");

    assert!(world.run_friendly(400, |w| w.is_pair() && w.is_taken_over()), "{}", world.describe());
}

#[test]
fn a_primary_stopped_in_order_hands_over_and_a_secondary_stopped_in_order_leaves_its_peer_alone() {
    let mut world = paired(SMALL, None);
    world = world.after(&Action::Order { node: 0, verb: Verb::Stop }).expect("inside the bounds");
    assert!(world.run_friendly(200, World::is_taken_over), "{}", world.describe());

    let mut world = paired(SMALL, None);
    world = world.after(&Action::Order { node: 1, verb: Verb::Stop }).expect("inside the bounds");
    assert!(world.run_friendly(200, |w| w.describe().starts_with("a: ALONE(Ready)")), "{}", world.describe());
}

/// Both lose power and come back, in either order: the pair forms again.
#[test]
fn after_both_lost_power_the_pair_forms_again_in_either_order() {
    for first in 0..2 {
        let mut world = paired(SMALL, None);
        for action in
            [Action::Crash { node: 0 }, Action::Crash { node: 1 }, Action::Restart { node: first }, Action::Restart { node: 1 - first }]
        {
            world = world.after(&action).expect("inside the bounds");
        }
        assert!(world.run_friendly(400, World::is_pair), "{first} first: {}", world.describe());
    }
}

fn must_find(mutant: Mutant, budget: Budget) {
    found(&mutant, explore(&paired(budget, Some(mutant)), 400_000));
}

#[track_caller]
fn found(mutant: &Mutant, seen: Seen) {
    let Some((broken, trace)) = seen.broken else {
        panic!("{mutant:?} was not found in {} states (exhausted: {})", seen.states, seen.is_exhausted)
    };
    println!("{mutant:?}: {broken:?} after {} more events", trace.len() - 1);
}

const FOR_MUTANTS: Budget = Budget { crashes: 1, cuts: 1, writes: 1, late: 0, stops: 0, swaps: 0, version_max: 4, session_max: 2 };

#[test]
fn acknowledging_alone_before_the_claim_is_found() {
    must_find(Mutant::AloneBeforeClaim, FOR_MUTANTS);
}

#[test]
fn claiming_in_spite_of_a_promise_is_found() {
    must_find(Mutant::NoPromise, FOR_MUTANTS);
}

#[test]
fn claiming_right_after_a_restart_is_found() {
    must_find(Mutant::NoQuarantine, FOR_MUTANTS);
}

#[test]
fn a_secondary_that_leaves_without_making_its_exclusion_durable_is_found() {
    must_find(Mutant::StopKeepsFlag, Budget { cuts: 0, stops: 1, ..FOR_MUTANTS });
}

#[test]
fn forgetting_an_unresolved_request_over_a_restart_is_found() {
    let budget = Budget { crashes: 2, cuts: 0, version_max: 3, ..FOR_MUTANTS };
    let mut world = World::new(budget, Some(Mutant::IntentInMemory));
    assert!(world.run_friendly(200, World::is_growing), "{}", world.describe());

    found(&Mutant::IntentInMemory, explore(&world, 400_000));
}
