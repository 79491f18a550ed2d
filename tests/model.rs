//! Every order of events in a small world around the real engine, and what must hold in all of them.
//!
//! The engine explored here is the very code the agent runs. `TSUGI_MODEL_STATES` sets how far the main run goes
//! (default: a slice that fits the ordinary test run).

use std::collections::{HashMap, VecDeque};
use tsugi_core::engine::Mutant;
use tsugi_tests::world::{Action, Broken, Budget, World};

/// What an exploration saw.
struct Seen {
    states: usize,
    is_exhausted: bool,
    has_pair: bool,
    has_takeover: bool,
    has_pair_after_takeover: bool,
    broken: Option<(Broken, Vec<String>)>,
}

/// Breadth first, so that the first trace found is a shortest one.
fn explore(budget: Budget, mutant: Option<Mutant>, states_max: usize) -> Seen {
    let start = World::new(budget, mutant);
    let mut parents: HashMap<u128, (u128, Option<Action>)> = HashMap::new();
    let mut queue = VecDeque::new();
    let mut seen =
        Seen { states: 0, is_exhausted: true, has_pair: false, has_takeover: false, has_pair_after_takeover: false, broken: None };
    parents.insert(start.fingerprint(), (0, None));
    queue.push_back(start);
    while let Some(world) = queue.pop_front() {
        seen.states += 1;
        seen.has_pair |= world.is_pair();
        seen.has_takeover |= world.is_taken_over();
        seen.has_pair_after_takeover |= world.is_pair() && world.is_taken_over();
        if let Some(broken) = world.broken() {
            seen.broken = Some((broken, trace(&parents, &world, budget, mutant)));
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

fn trace(parents: &HashMap<u128, (u128, Option<Action>)>, end: &World, budget: Budget, mutant: Option<Mutant>) -> Vec<String> {
    let mut actions = Vec::new();
    let mut at = end.fingerprint();
    while let Some((before, Some(action))) = parents.get(&at) {
        actions.push(action.clone());
        at = *before;
    }
    actions.reverse();
    let mut world = World::new(budget, mutant);
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

#[test]
fn two_nodes_never_serve_at_once_and_no_acknowledged_write_is_lost() {
    let seen = explore(SMALL, None, states_max(300_000));

    if let Some((broken, trace)) = &seen.broken {
        panic!("{broken:?}\n{}", trace.join("\n"));
    }
    println!("explored {} states, exhausted: {}", seen.states, seen.is_exhausted);
    assert!(seen.states >= 200_000 || seen.is_exhausted, "only {} states", seen.states);
    assert!(seen.has_pair, "no pair ever forms: an engine that does nothing would pass");
    assert!(seen.has_takeover, "no take-over ever happens");
}

#[test]
fn after_a_takeover_the_pair_forms_again() {
    let budget = Budget { crashes: 1, cuts: 0, writes: 0, late: 0, stops: 0, swaps: 0, version_max: 6, session_max: 4 };

    let seen = explore(budget, None, states_max(200_000));

    assert!(seen.broken.is_none(), "{:?}", seen.broken);
    assert!(seen.has_pair_after_takeover, "{} states, exhausted {}", seen.states, seen.is_exhausted);
}

#[test]
fn a_swap_exchanges_the_roles_without_a_crash() {
    let budget = Budget { crashes: 0, cuts: 0, writes: 1, late: 0, stops: 0, swaps: 1, version_max: 6, session_max: 4 };

    let seen = explore(budget, None, states_max(200_000));

    assert!(seen.broken.is_none(), "{:?}", seen.broken);
    assert!(seen.has_pair_after_takeover, "{} states, exhausted {}", seen.states, seen.is_exhausted);
}

fn must_find(mutant: Mutant, budget: Budget, wanted: fn(&Broken) -> bool) {
    let seen = explore(budget, Some(mutant), 600_000);

    let Some((broken, trace)) = seen.broken else {
        panic!("{mutant:?} was not found in {} states (exhausted: {})", seen.states, seen.is_exhausted)
    };
    println!("{mutant:?}: {broken:?} after {} events", trace.len() - 1);
    assert!(wanted(&broken), "{mutant:?} broke something else: {broken:?}\n{}", trace.join("\n"));
}

const FOR_MUTANTS: Budget = Budget { crashes: 1, cuts: 1, writes: 1, late: 0, stops: 0, swaps: 0, version_max: 4, session_max: 2 };

#[test]
fn acknowledging_alone_before_the_claim_is_found() {
    must_find(Mutant::AloneBeforeClaim, FOR_MUTANTS, |b| matches!(b, Broken::AckedWriteLost { .. }));
}

#[test]
fn claiming_in_spite_of_a_promise_is_found() {
    must_find(Mutant::NoPromise, FOR_MUTANTS, |b| *b == Broken::TwoServe);
}

#[test]
fn claiming_right_after_a_restart_is_found() {
    must_find(Mutant::NoQuarantine, FOR_MUTANTS, |b| *b == Broken::TwoServe);
}

#[test]
fn a_stopped_secondary_that_keeps_its_flag_is_found() {
    let budget = Budget { crashes: 1, cuts: 0, writes: 1, late: 0, stops: 1, swaps: 0, version_max: 4, session_max: 2 };
    must_find(Mutant::StopKeepsFlag, budget, |b| matches!(b, Broken::AckedWriteLost { .. }));
}

#[test]
fn a_target_that_calls_itself_level_at_the_start_is_found() {
    must_find(Mutant::LevelAtStart, FOR_MUTANTS, |b| matches!(b, Broken::AckedWriteLost { .. }));
}
