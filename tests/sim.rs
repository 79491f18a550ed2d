//! Seeded runs of the simulator: the engines the agents run, in virtual time, under every fault, with an operator
//! who clicks anything. `./dev sim` runs more of them; `TSUGI_LONG=sim` runs 1,000 seeds of an hour, and 300 of each of the
//! other profiles. `TSUGI_SIM_FIRST` is the first seed: another one, other courses of events.

use std::time::Duration;
use tsugi_core::engine::{Mutant, Timer};
use tsugi_core::state::Readiness::{NotReady, Ready, Transient};
use tsugi_core::state::State::{Alone, Prim, Second, Stop, Wait};
use tsugi_tests::sim::Plan;
use tsugi_tests::sim::Profile;
use tsugi_tests::sim::run::{Summary, many, report, run};
use tsugi_tests::sim::turns::{Cause, Turn};

/// Virtual minutes with faults of a seed, in the ordinary run.
const MINUTES: u64 = 10;
/// Seeds of a profile other than the normal one.
const SEEDS_OTHER: u64 = 80;
/// The same in the long run, each of an hour.
const SEEDS_OTHER_LONG: u64 = 300;

fn is_long() -> bool {
    std::env::var("TSUGI_LONG").is_ok_and(|name| name == "sim")
}

/// The first seed.
fn first() -> u64 {
    std::env::var("TSUGI_SIM_FIRST").map_or(1, |text| text.parse().expect("TSUGI_SIM_FIRST is a number"))
}

#[track_caller]
fn must_hold(profile: Profile, seeds: u64, minutes: u64) -> Summary {
    let summary = many(first(), seeds, minutes, profile, None, 3, Duration::MAX);
    println!("{profile:?}: {}", summary.line());
    let reports: Vec<String> =
        summary.failed.iter().map(|(plan, ended)| format!("seed {}:\n{}", plan.seed, report(*plan, ended))).collect();
    assert!(reports.is_empty(), "{}", reports.join("\n\n"));
    // An engine that does nothing would break no rule but one, and a world in which nothing happens none at all.
    let f = &summary.figures;
    assert!(f.takeovers > seeds && f.resyncs > seeds, "hardly anything happened: {}", summary.line());
    assert!(f.crashes > seeds && f.cuts > seeds && f.pauses > seeds, "hardly anything went wrong: {}", summary.line());
    assert!(f.went_on > seeds / 20, "hardly an agent went on: {}", summary.line());
    assert!(f.acked_writes > 100 * seeds && f.acked_fsyncs > 10 * seeds, "hardly anything was written: {}", summary.line());
    assert!(f.asked_twice > seeds / 2, "hardly a request came twice: {}", summary.line());
    summary
}

fn other(profile: Profile) -> Summary {
    let (seeds, minutes) = if is_long() { (SEEDS_OTHER_LONG, 60) } else { (SEEDS_OTHER, MINUTES) };
    must_hold(profile, seeds, minutes)
}

#[test]
fn nothing_is_served_twice_nothing_confirmed_is_lost_and_all_becomes_green_again() {
    let (seeds, minutes) = if is_long() { (1000, 60) } else { (300, MINUTES) };

    must_hold(Profile::Normal, seeds, minutes);
}

#[test]
fn clocks_that_are_off_by_five_per_cent_cost_no_confirmed_write() {
    other(Profile::Drift);
}

#[test]
fn an_operator_who_accepts_losses_loses_what_was_accepted_and_nothing_else() {
    let summary = other(Profile::Consent);

    assert!(summary.figures.forced > summary.figures.seeds / 2, "hardly a loss was accepted: {}", summary.line());
}

#[test]
fn a_host_set_back_to_a_snapshot_never_serves_without_the_consent_of_the_record() {
    let summary = other(Profile::Rollback);

    assert!(summary.figures.rollbacks > summary.figures.seeds / 2, "hardly a host was set back: {}", summary.line());
}

/// A row of the protocol's states and orders, and how it is known when it is entered.
type Row = (&'static str, fn(&Turn) -> bool);

/// The model enters the changes of state by themselves (`every_row_of_the_state_machine_is_entered`); these name what
/// caused them as well, and what a small world has not: every order, failing disks, configurations, consents. Checkers'
/// actions come by the module's rules, which neither world has: `core/tests` enters them.
const TABLE: &[Row] = &[
    ("prim, from STOP", |t| t.cause == Cause::Order("prim") && (t.from, t.to) == (Stop, Wait)),
    ("prim, from WAIT", |t| t.cause == Cause::Order("prim") && t.from == Wait),
    ("primforce", |t| t.cause == Cause::Order("primforce") && t.to == Wait),
    ("second", |t| t.cause == Cause::Order("second") && t.to == Wait),
    ("start", |t| t.cause == Cause::Order("start") && (t.from, t.to) == (Stop, Wait)),
    ("swap", |t| t.cause == Cause::Order("swap") && t.from == Prim && t.readiness == Transient),
    ("swap: the former primary waits for the other one", |t| (t.from, t.to, &*t.reason) == (Prim, Wait, "HandOver")),
    ("swap: nobody takes the role, so it is taken back", |t| t.cause == Cause::Timer(Timer::SwapBack)),
    ("stop of a primary", |t| t.cause == Cause::Order("stop") && t.from == Prim),
    ("stop of a node that serves alone", |t| t.cause == Cause::Order("stop") && t.from == Alone),
    ("stop of a secondary", |t| t.cause == Cause::Order("stop") && t.from == Second),
    ("stop of a node that waits", |t| t.cause == Cause::Order("stop") && t.from == Wait),
    ("stopstart", |t| t.cause == Cause::Order("stopstart") && t.from.is_serving()),
    ("restart", |t| t.cause == Cause::Order("restart") && t.from == t.to && t.readiness == Transient),
    ("too many automatic actions", |t| t.reason == "LoopLimit"),
    ("the data fails on a node that serves", |t| t.cause == Cause::DataFailed && t.from.is_serving()),
    ("the data fails on a secondary", |t| t.cause == Cause::DataFailed && t.from == Second),
    ("a script fails", |t| t.cause == Cause::Script { is_good: false }),
    ("an address cannot be raised", |t| t.cause == Cause::Address { is_good: false }),
    ("the primary is lost: the secondary takes over", |t| t.cause == Cause::Timer(Timer::PromiseGiven) && t.from == Second),
    ("the primary is lost, failover off", |t| t.reason == "FailoverOff" && t.readiness == NotReady),
    ("the primary is lost, maintenance", |t| t.reason == "Maintenance" && t.readiness == NotReady),
    ("the secondary is lost: the primary goes on", |t| (t.from, t.to, t.readiness) == (Prim, Alone, Ready)),
    ("the pair forms", |t| (t.from, t.to, t.readiness) == (Alone, Prim, Ready)),
    ("the right to serve runs out", |t| t.reason == "Frozen" && t.from.is_serving() && t.readiness == NotReady),
    ("… for too long", |t| t.cause == Cause::Timer(Timer::FreezeMax) && t.from.is_serving()),
    ("another node serves by force or by a claim: it steps down", |t| {
        t.cause == Cause::Heard && t.from.is_serving() && t.reason == "Stopping"
    }),
    ("the arbiter names another owner", |t| matches!(t.cause, Cause::Arbiter(Some(_))) && t.reason == "DataOlder"),
    ("the arbiter does not answer", |t| t.cause == Cause::Arbiter(None) && t.reason == "NoArbiter"),
    ("two histories", |t| t.reason == "SplitBrain"),
    ("a restart waits for its quarantine", |t| t.reason == "Quarantine"),
    ("a record that was lost", |t| t.reason == "RecordLost"),
];

#[test]
fn every_row_of_the_table_is_entered() {
    let mut turns = std::collections::BTreeSet::new();
    for profile in [Profile::Normal, Profile::Consent] {
        turns.extend(many(first(), 120, MINUTES, profile, None, 1, Duration::MAX).turns);
    }
    let missing: Vec<_> = TABLE.iter().filter(|(_, fits)| !turns.iter().any(fits)).map(|(name, _)| name).collect();
    println!("{} rows, {} changes of state by cause and reason", TABLE.len(), turns.len());
    assert!(missing.is_empty(), "never entered: {missing:#?}\n{}", turns.iter().map(|t| format!("{t:?}\n")).collect::<String>());
}

#[test]
fn a_seed_says_everything() {
    for (seed, profile) in [(3, Profile::Normal), (4, Profile::Drift), (5, Profile::Consent), (6, Profile::Rollback)] {
        let plan = Plan { seed, profile, minutes: MINUTES, mutant: None, is_traced: false };

        let (one, two) = (run(plan), run(plan));
        let traced = run(Plan { is_traced: true, ..plan });
        let other = run(Plan { seed: seed + 100, ..plan });

        assert_eq!((one.hash, one.figures), (two.hash, two.figures), "{plan:?}");
        assert_eq!(one.hash, traced.hash, "looking at it changes it: {plan:?}");
        assert_ne!(one.hash, other.hash, "{plan:?}");
    }
}

/// Rules that must be missed, and in how many seeds at most.
const MUST_BE_FOUND: &[Mutant] = &[Mutant::AloneBeforeClaim, Mutant::StopKeepsFlag, Mutant::VolatileAsUpToDate];
const SEEDS_FOR_MUTANTS: u64 = 60;

#[test]
fn rules_left_out_of_the_engine_are_found() {
    // The others need a rarer course of events: `./dev sim --mutant NAME --seeds 2000`. The model finds all of them.
    for mutant in MUST_BE_FOUND {
        // Only what goes well with the rule in force counts.
        let seen = (1..=SEEDS_FOR_MUTANTS).find_map(|seed| {
            let plan = Plan { seed, profile: Profile::Normal, minutes: MINUTES, mutant: Some(*mutant), is_traced: false };
            let violation = run(plan).violation?;
            run(Plan { mutant: None, ..plan }).violation.is_none().then_some((seed, violation))
        });
        let Some((seed, violation)) = seen else { panic!("{mutant:?} was not found in {SEEDS_FOR_MUTANTS} seeds") };
        println!("{mutant:?}: {} in seed {seed} ({})", violation.rule, violation.detail);
        assert!(matches!(violation.rule, "I1" | "I2" | "I3" | "I4" | "I5"), "{mutant:?}: {violation:?}");
    }
}
