//! Every order of events in a small world around the real engine, and what must hold in all of them.
//!
//! The engine explored here is the very code the agent runs. In the ordinary run each search visits a slice;
//! `./dev test --long model` visits everything inside the bounds of [`NAMED`], and more of the slices.
//! `TSUGI_MODEL_STATES` overrides how many states a search visits at most; `TSUGI_MODEL_ONLY` names one of [`NAMED`].

use tsugi_core::command::Verb;
use tsugi_core::engine::{Mutant, Timer};
use tsugi_core::module::Async;
use tsugi_core::state::Readiness::{NotReady, Ready, Transient};
use tsugi_core::state::State::{Alone, Prim, Second, Stop, Wait};
use tsugi_tests::world::{Action, ArbiterKind, Broken, Budget, Row, Seen, Setting, Situations, World, dead_ends, explore};

/// The bounds of the main searches: far more than can be visited, so that each is a slice, nearest events first.
const SMALL: Budget = Budget {
    crashes: 2,
    cuts: 1,
    writes: 1,
    late: 1,
    twice: 0,
    stops: 1,
    swaps: 1,
    fails: 0,
    bounces: 0,
    losses: 0,
    version_max: 5,
    session_max: 3,
};
/// Nothing but what goes on by itself.
const CALM: Budget = Budget { crashes: 0, cuts: 0, writes: 0, late: 0, stops: 0, swaps: 0, ..SMALL };

fn is_long() -> bool {
    std::env::var("TSUGI_LONG").is_ok_and(|name| name == "model")
}

/// States a search that is a slice visits in the long run.
const LONG_SLICE: usize = 500_000;
/// States that are too many for a search which is to be exhausted: some 3 kB each at its widest.
const STATES_MAX: usize = 25_000_000;

fn states_asked() -> Option<usize> {
    std::env::var("TSUGI_MODEL_STATES").ok().and_then(|text| text.parse().ok())
}

/// States a search may visit.
fn states_max(slice: usize) -> usize {
    states_asked().unwrap_or(if is_long() { LONG_SLICE.max(slice) } else { slice })
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

/// Explores at most `states` states, and says how many they were. Panics at the first invariant that does not hold.
#[track_caller]
fn unbroken(what: &str, start: &World, states: usize) -> Seen {
    let begin = std::time::Instant::now();
    let seen = explore(start, states);
    if let Some((broken, trace)) = &seen.broken {
        panic!("{what}: {broken:?}\n{}", trace.join("\n"));
    }
    println!(
        "{what}: {} states, {} of the protocol, {} new steps, exhausted: {}; {} s",
        seen.states,
        seen.situations.len(),
        seen.steps,
        seen.is_exhausted,
        begin.elapsed().as_secs()
    );
    seen
}

#[track_caller]
fn must_hold(what: &str, start: &World, slice: usize) -> Seen {
    let seen = unbroken(what, start, states_max(slice));
    assert!(states_asked().is_some() || seen.states >= slice || seen.is_exhausted, "only {} states", seen.states);
    seen
}

/// How a search begins.
type Begin = fn(Setting) -> World;

const fn named(budget: Budget) -> Setting {
    Setting { budget, mutant: None, arbiter: ArbiterKind::Record, ack: Async::None, is_clock_free: false, is_slow: false, is_calm: false }
}

/// As far as a take-over and the pair after it.
const NEAR: Budget = Budget { version_max: 4, session_max: 2, ..CALM };

/// As far as a take-over.
const TAKEN: Budget = Budget { version_max: 3, session_max: 1, ..CALM };

/// Searches small enough to be exhausted, each with its bounds: everything that can happen inside them happens.
const NAMED: &[(&str, Begin, Setting)] = &[
    ("first start", World::new, named(Budget { version_max: 2, session_max: 1, ..CALM })),
    ("a swap", paired, named(Budget { swaps: 1, ..NEAR })),
    ("a crash", paired, named(Budget { crashes: 1, ..NEAR })),
    ("a stop and a start", paired, named(Budget { stops: 1, ..NEAR })),
    ("a cut", paired, named(Budget { cuts: 1, ..NEAR })),
    ("a write, a cut", paired, named(Budget { writes: 1, cuts: 1, ..TAKEN })),
    ("a write, a crash", paired, named(Budget { writes: 1, crashes: 1, ..TAKEN })),
    ("an agent that goes on, a crash", paired, named(Budget { bounces: 1, crashes: 1, ..TAKEN })),
    ("an agent that goes on, a cut, a write", paired, named(Budget { bounces: 1, cuts: 1, writes: 1, ..TAKEN })),
    ("async=second: a crash", paired, Setting { ack: Async::Second, ..named(Budget { crashes: 1, ..NEAR }) }),
    ("async=second: a write, a crash", paired, Setting { ack: Async::Second, ..named(Budget { writes: 1, crashes: 1, ..TAKEN }) }),
];

/// Distinct states of engines, records and network that they must have together.
const PROTOCOL_STATES_MIN: usize = 5_000_000;

#[test]
fn what_is_named_is_exhausted() {
    if !is_long() {
        // The same world, the same engine: one of them in the ordinary run too.
        exhausted(&NAMED[0]);
        return;
    }
    // A situation that several searches meet counts once.
    let only = std::env::var("TSUGI_MODEL_ONLY").ok();
    let mut all = Situations::default();
    for search in NAMED.iter().filter(|(name, ..)| only.as_deref().is_none_or(|wanted| *name == wanted)) {
        all.extend(exhausted(search));
        println!("together: {} states of the protocol", all.len());
    }
    let is_whole = only.is_none() && states_asked().is_none();
    assert!(!is_whole || all.len() >= PROTOCOL_STATES_MIN, "together they have {} states of the protocol", all.len());
}

/// States of the protocol.
#[track_caller]
fn exhausted((name, begin, setting): &(&str, Begin, Setting)) -> Situations {
    let seen = unbroken(name, &begin(*setting), states_asked().unwrap_or(STATES_MAX));
    assert!(seen.is_exhausted || states_asked().is_some(), "{name}: more than {} states", seen.states);
    seen.situations
}

/// A request of the arbiter's is carried out once more, whenever that may be.
#[test]
fn requests_that_are_carried_out_twice_change_nothing() {
    let budget = Budget { twice: 2, cuts: 0, stops: 0, ..SMALL };
    must_hold("requests twice", &paired(Setting { budget, ..Setting::default() }), 60_000);
}

/// An agent dies and goes on with what was kept of its engine, whenever that may be.
#[test]
fn an_agent_that_goes_on_breaks_no_invariant() {
    let budget = Budget { bounces: 2, stops: 0, ..SMALL };
    must_hold("agents that go on", &paired(Setting { budget, ..Setting::default() }), 60_000);
}

/// … and the pair is what it was, though the engines' next lives know less than the former ones.
#[test]
fn a_pair_whose_agents_go_on_stays_a_pair() {
    let mut world = paired(Setting { budget: Budget { bounces: 2, ..CALM }, ..Setting::default() });
    for node in 0..2 {
        let action = Action::GoOn { node, is_older: false };
        // As soon as nothing is under way.
        let mut left = 50;
        while !world.actions().contains(&action) {
            left -= 1;
            assert!(left > 0, "{}", world.describe());
            world.run_friendly(1, |_| false);
        }
        world = world.after(&action).expect("inside the bounds");
        assert!(world.is_pair(), "{}", world.describe());
    }
    world.run_friendly(50, |_| false);
    assert!(world.is_pair() && world.accepts(0, &Verb::Swap), "{}", world.describe());
}

/// The arbiter comes back without its record, whenever that may be.
#[test]
fn a_store_that_is_lost_gives_no_right_to_an_older_copy() {
    let budget = Budget { losses: 1, stops: 0, ..SMALL };
    must_hold("a lost store", &paired(Setting { budget, ..Setting::default() }), 60_000);
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
            twice: 0,
            stops: 2,
            swaps: 1,
            fails: u8::from(is_slow),
            bounces: 0,
            losses: 0,
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
    let none = Budget { version_max: 7, session_max: 4, ..CALM };
    let small = [
        ("a crash", Budget { crashes: 1, ..none }),
        ("a cut", Budget { cuts: 1, ..none }),
        ("a swap", Budget { swaps: 1, ..none }),
        ("a stop and a start", Budget { stops: 1, ..none }),
        ("an answer of the arbiter that is lost", Budget { late: 1, crashes: 1, ..none }),
    ];
    let from_memory = small.into_iter().take(if is_long() { small.len() } else { 2 }).map(|(name, budget)| (name, budget, Async::Second));
    let all = small.into_iter().map(|(name, budget)| (name, budget, Async::None));
    for (name, budget, ack) in all.chain(from_memory) {
        let start = paired(Setting { budget, ack, is_calm: true, ..Setting::default() });
        let goals: [fn(&World) -> bool; 2] = [World::is_served, World::is_pair];
        let (states, is_exhausted, ways) = dead_ends(&start, states_asked().unwrap_or(STATES_MAX), &goals);
        println!("after {name} ({ack:?}): {states} states, exhausted: {is_exhausted}; dead ends: {}", ways.iter().flatten().count());
        assert!(is_exhausted || states_asked().is_some(), "after {name} ({ack:?}): more than {states} states");
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
const FEW: Budget = Budget { crashes: 1, cuts: 1, writes: 1, version_max: 4, session_max: 2, ..CALM };
/// States that the same search without the mutant visits at least; and at most, but for the long run.
const CONTROL_MIN: usize = 20_000;
const CONTROL_MAX: usize = 60_000;

#[track_caller]
fn must_find(what: &str, setting: Setting, begin: Begin, wanted: &[fn(&Broken) -> bool]) {
    let seen = explore(&begin(setting), 1_500_000);
    let Some((broken, trace)) = seen.broken else {
        panic!("{what} was not found in {} states (exhausted: {})", seen.states, seen.is_exhausted)
    };
    println!("{what}: {broken:?} after {} more events, {} states", trace.len() - 1, seen.states);
    assert!(wanted.iter().any(|fits| fits(&broken)), "{what}: another invariant than expected, {broken:?}\n{}", trace.join("\n"));
    // It is the rule left out that was found, and not the world: with it, over as many states, everything holds.
    let sound = Setting { mutant: None, arbiter: ArbiterKind::Record, ..setting };
    let wanted = if is_long() { seen.states } else { seen.states.min(CONTROL_MAX) };
    let control = unbroken(&format!("{what}, with the rule in force"), &begin(sound), wanted.max(CONTROL_MIN));
    assert!(control.is_exhausted || control.states >= wanted, "{what}: the control visited {} states", control.states);
}

fn growing(setting: Setting) -> World {
    let mut world = World::new(setting);
    assert!(world.run_friendly(200, World::is_growing), "{}", world.describe());
    world
}

/// The first node is cut off and frozen; the second has taken over and has one more write on its disk, has restarted, and
/// they hear each other again.
fn outrun(setting: Setting) -> World {
    let mut world = paired(setting);
    world = world.after(&Action::Cut).expect("inside the bounds");
    let silence = [(0, Timer::PromiseHeld), (1, Timer::PeerSilent), (1, Timer::PromiseGiven)];
    for action in silence.map(|(node, timer)| Action::Fire { node, timer }) {
        if world.actions().contains(&action) {
            world = world.after(&action).expect("inside the bounds");
        }
    }
    // Of two claims the second node's, asked later, is there first.
    for _ in 0..10 {
        let newest = world.actions().into_iter().rfind(|a| matches!(a, Action::Arbiter { .. }));
        let Some(next) = newest.filter(|_| !world.is_taken_over()) else { break };
        world = world.after(&next).expect("inside the bounds");
    }
    assert!(world.is_taken_over(), "{}", world.describe());
    let node = 1;
    let writes = [Action::Write { node }, Action::Acknowledge { node }, Action::Fsync { node }, Action::AcknowledgeFsync { node }];
    for action in writes.into_iter().chain([Action::Crash { node }, Action::Restart { node }, Action::Heal]) {
        assert!(world.actions().contains(&action), "{action:?} in {}", world.describe());
        world = world.after(&action).expect("inside the bounds");
    }
    world
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
    must_find("alone before the claim", without(Mutant::AloneBeforeClaim, FEW), paired, &[lost]);
}

#[test]
fn claiming_in_spite_of_a_promise_is_found() {
    must_find("no promise", without(Mutant::NoPromise, FEW), paired, &[two_serve]);
}

#[test]
fn forgetting_a_promise_over_the_life_of_an_agent_is_found() {
    let budget = Budget { bounces: 1, crashes: 0, ..FEW };
    must_find("an engine that goes on unbound", without(Mutant::GoOnUnbound, budget), paired, &[two_serve]);
}

#[test]
fn claiming_right_after_a_restart_is_found() {
    must_find("no quarantine", without(Mutant::NoQuarantine, FEW), paired, &[two_serve]);
}

#[test]
fn a_secondary_that_leaves_without_making_its_exclusion_durable_is_found() {
    must_find("stop keeps the flag", without(Mutant::StopKeepsFlag, Budget { cuts: 0, stops: 1, ..FEW }), paired, &[lost]);
}

#[test]
fn forgetting_an_unresolved_request_over_a_restart_is_found() {
    let budget = Budget { crashes: 2, cuts: 0, version_max: 3, ..FEW };
    must_find("intent in memory", without(Mutant::IntentInMemory, budget), growing, &[lost]);
}

#[test]
fn promising_with_an_unresolved_claim_is_found() {
    must_find("promise with an intent", without(Mutant::PromiseWithIntent, Budget { crashes: 0, ..FEW }), paired, &[two_serve, lost]);
}

#[test]
fn a_target_that_counts_as_current_from_the_start_is_found() {
    must_find("up to date early", without(Mutant::UpToDateEarly, FEW), World::new, &[lost]);
}

#[test]
fn memory_that_counts_as_disk_is_found() {
    let setting = Setting { ack: Async::Second, ..without(Mutant::VolatileAsUpToDate, FEW) };
    must_find("volatile as up to date", setting, paired, &[lost]);
}

#[test]
fn a_restarted_secondary_that_goes_on_where_it_was_is_found() {
    must_find("restarted secondary rejoins", without(Mutant::RejoinRestarted, FEW), paired, &[lost]);
}

#[test]
fn a_rejoin_that_does_not_look_at_the_epoch_is_found() {
    must_find("rejoin ignores the epoch", without(Mutant::RejoinIgnoresEpoch, Budget { late: 1, ..FEW }), outrun, &[lost]);
}

#[test]
fn claiming_with_an_open_session_is_found() {
    must_find("claim unclosed", without(Mutant::ClaimUnclosed, FEW), paired, &[|b| matches!(b, Broken::ServesUnclosed { .. })]);
}

#[test]
fn naming_the_other_node_after_the_arbiter_is_found() {
    let budget = Budget { crashes: 1, cuts: 0, losses: 1, ..FEW };
    must_find("name after grow", without(Mutant::NameAfterGrow, budget), growing, &[two_serve, lost]);
}

#[test]
fn writing_a_lost_record_anew_without_asking_the_other_node_is_found() {
    must_find("seed blindly", without(Mutant::SeedBlindly, Budget { cuts: 0, losses: 1, ..FEW }), paired, &[two_serve, lost]);
}

#[test]
fn an_arbiter_that_says_yes_to_everyone_is_found() {
    let setting = Setting { budget: FEW, arbiter: ArbiterKind::Anyone, ..Setting::default() };
    must_find("anyone may", setting, paired, &[two_serve, lost]);
}

#[test]
fn an_arbiter_that_does_not_know_who_is_in_sync_is_found() {
    let setting = Setting { budget: FEW, arbiter: ArbiterKind::Lock, ..Setting::default() };
    must_find("a lock without the in-sync set", setting, paired, &[two_serve, lost]);
}
