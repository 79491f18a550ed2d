//! The main job: the application survives the death of its server, and nothing confirmed is lost.
//!
//! Each test is one run of `./dev demo --check`. `./dev test --long main_job` runs the ordinary failure five times
//! in a row. Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::sync::{Mutex, PoisonError};
use tsugi_tests::check::{self, App, CheckPlan, ENTRIES_MIN, Figures, Scenario, Without};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn run(app: App, scenario: Scenario, without: Option<Without>) -> Figures {
    try_run(app, scenario, without).unwrap_or_else(|error| panic!("{app:?} {scenario:?}: {error}"))
}

fn try_run(app: App, scenario: Scenario, without: Option<Without>) -> Result<Figures, String> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = CheckPlan { app, scenario, without, lab: "t-main".into(), entries: ENTRIES_MIN, quiet: false };
    let figures = check::run(&plan).map_err(|error| format!("{error:#}"))?;
    println!("{app:?} {scenario:?} {without:?}: {figures:?}");
    assert!(figures.acknowledged >= ENTRIES_MIN && figures.busy >= check::BUSY_MIN, "the client was not at work: {figures:?}");
    Ok(figures)
}

fn good(figures: &Figures) {
    assert_eq!(figures.lost, Vec::<String>::new());
    assert!(figures.interruption_seconds <= figures.interruption_bar_seconds, "{figures:?}");
}

fn times() -> usize {
    if std::env::var("TSUGI_LONG").is_ok_and(|suite| suite == "main_job") { 5 } else { 1 }
}

#[test]
fn the_primary_loses_its_power() {
    for _ in 0..times() {
        let figures = run(App::Ledger, Scenario::PrimaryKilled, None);
        good(&figures);
        // Nobody may serve before the promise to the dead primary is over: a shorter time would be luck.
        assert!(figures.interruption_seconds > 1.0, "{figures:?}");
    }
}

#[test]
fn the_primary_of_a_postgresql_loses_its_power() {
    for _ in 0..times() {
        good(&run(App::Postgresql, Scenario::PrimaryKilled, None));
    }
}

#[test]
fn the_secondary_loses_its_power() {
    good(&run(App::Ledger, Scenario::SecondaryKilled, None));
}

#[test]
fn both_lose_their_power_and_the_primary_returns_first() {
    good(&run(App::Ledger, Scenario::BothKilledPrimaryFirst, None));
}

#[test]
fn both_lose_their_power_and_the_secondary_returns_first() {
    good(&run(App::Ledger, Scenario::BothKilledSecondaryFirst, None));
}

#[test]
fn without_the_peers_acknowledgement_the_check_finds_lost_entries() {
    let figures = run(App::Ledger, Scenario::PrimaryKilled, Some(Without::PeerAck));
    assert!(!figures.lost.is_empty(), "the check cannot see a loss: {figures:?}");
}

#[test]
fn without_fsync_the_check_finds_lost_entries() {
    match try_run(App::Ledger, Scenario::BothKilledPrimaryFirst, Some(Without::Fsync)) {
        Ok(figures) => assert!(!figures.lost.is_empty(), "the check cannot see a loss: {figures:?}"),
        // What was never flushed may also leave the ledger's database in pieces, and the ledger does not start on it.
        Err(error) => assert!(error.contains("ScriptFailed { script: StartPrim"), "{error}"),
    }
}
