//! Seeded runs of the simulator: the engines the agents run, in virtual time, under every fault, with an operator
//! who clicks anything. `./dev sim` runs more of them; `TSUGI_LONG=sim` runs 1,000 seeds of an hour.

use std::time::Duration;
use tsugi_core::engine::Mutant;
use tsugi_tests::sim::Plan;
use tsugi_tests::sim::Profile;
use tsugi_tests::sim::run::{Summary, many, report, run};

/// Virtual minutes with faults of a seed, in the ordinary run.
const MINUTES: u64 = 10;
/// Seeds of a profile other than the normal one.
const SEEDS_OTHER: u64 = 80;

fn is_long() -> bool {
    std::env::var("TSUGI_LONG").is_ok_and(|name| name == "sim")
}

#[track_caller]
fn must_hold(profile: Profile, seeds: u64, minutes: u64) -> Summary {
    let summary = many(1, seeds, minutes, profile, None, 3, Duration::MAX);
    println!("{profile:?}: {}", summary.line());
    let reports: Vec<String> =
        summary.failed.iter().map(|(plan, ended)| format!("seed {}:\n{}", plan.seed, report(*plan, ended))).collect();
    assert!(reports.is_empty(), "{}", reports.join("\n\n"));
    summary
}

#[test]
fn nothing_is_served_twice_nothing_confirmed_is_lost_and_all_becomes_green_again() {
    let (seeds, minutes) = if is_long() { (1000, 60) } else { (300, MINUTES) };

    let summary = must_hold(Profile::Normal, seeds, minutes);

    // An engine that does nothing would break no rule but one.
    let f = &summary.figures;
    assert!(f.takeovers > seeds && f.resyncs > seeds, "hardly anything happened: {}", summary.line());
    assert!(f.crashes > seeds && f.cuts > seeds && f.pauses > seeds, "hardly anything went wrong: {}", summary.line());
    assert!(f.acked_writes > 100 * seeds && f.acked_fsyncs > 10 * seeds, "hardly anything was written: {}", summary.line());
}

#[test]
fn clocks_that_are_off_by_five_per_cent_cost_no_confirmed_write() {
    must_hold(Profile::Drift, SEEDS_OTHER, MINUTES);
}

#[test]
fn an_operator_who_accepts_losses_loses_what_was_accepted_and_nothing_else() {
    must_hold(Profile::Consent, SEEDS_OTHER, MINUTES);
}

#[test]
fn a_host_set_back_to_a_snapshot_never_serves_without_the_consent_of_the_record() {
    must_hold(Profile::Rollback, SEEDS_OTHER, MINUTES);
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
