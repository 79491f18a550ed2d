//! Nothing that was confirmed is lost: databases and a plain file under one power failure of the primary after another.
//!
//! Each round cuts the power of whichever node serves while clients write at full speed, looks for every confirmed entry
//! on the node that took over, has the application check itself, and brings the other node back while the clients go on.
//! `./dev test --long losses` makes it fifty rounds each. Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tsugi_core::state::{Readiness, State};
use tsugi_tests::api::{ALONE, PRIM};
use tsugi_tests::check::{App, Pair};
use tsugi_tests::lab::names::VIP;
use tsugi_tests::load::Acked;
use tsugi_tests::sql;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// For whatever a node or its application begins.
const BOUND: Duration = Duration::from_secs(180);
/// Entries confirmed before the power goes; and up to as many more, so that it goes at another moment each time.
const BEFORE: usize = 100;
/// And after a take-over.
const AFTERWARDS: usize = 50;

/// When a write is confirmed; `async` of the configuration.
#[derive(Debug, Clone, Copy)]
enum Level {
    /// On both disks.
    None,
    /// On the primary's disk and in the secondary's memory.
    Second,
}

fn rounds() -> usize {
    if std::env::var("TSUGI_LONG").is_ok_and(|suite| suite == "losses") { 50 } else { 2 }
}

fn start(app: App, level: Level) -> (MutexGuard<'static, ()>, Pair) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let pair = Pair::start_edited("t-losses", app, BTreeMap::new(), true, |text| {
        // Sooner noticed, sooner the next round.
        let change = |text: &str, from: &str, to: &str| {
            assert!(text.contains(from), "the module has no {from}");
            text.replace(from, to)
        };
        let text = change(text, "<heart profile=\"normal\"/>", "<heart profile=\"fast\"/>");
        match level {
            Level::None => text,
            Level::Second => change(&text, "<rfs async=\"none\">", "<rfs async=\"second\">"),
        }
    });
    (guard, pair.unwrap())
}

/// What the application itself says of its data, and every confirmed entry.
fn assert_whole(pair: &Pair, app: App, acked: &[Acked], hosts: &[&str], when: &str) {
    let lost = pair.verify(acked, hosts);
    if !lost.is_empty() {
        pair.keep_logs();
    }
    assert_eq!(lost, Vec::<String>::new(), "{when}");
    if app == App::Postgresql {
        sql::check(&pair.lab, VIP).unwrap_or_else(|e| panic!("{when}: {e:#}"));
    }
}

fn power_failures(app: App, level: Level) {
    let (_guard, pair) = start(app, level);
    let mut nodes = ["n1", "n2"];
    let mut acked = Vec::new();
    let mut load = pair.load().unwrap();
    for round in 1..=rounds() {
        let [primary, secondary] = nodes;
        load.wait_for_more(BEFORE + rand::random_range(0..BEFORE), BOUND).unwrap();
        pair.lab.kill(primary).unwrap();
        pair.wait(&format!("{secondary} to serve alone"), BOUND, |v| v.state(secondary) == ALONE).unwrap();
        load.wait_for_more(AFTERWARDS, BOUND).unwrap();
        acked.extend(load.stop().unwrap());
        assert_whole(&pair, app, &acked, &[secondary], &format!("round {round}, {secondary} took over"));
        load = pair.load().unwrap();
        load.wait_for_more(AFTERWARDS, BOUND).unwrap();
        pair.lab.boot(primary).unwrap();
        pair.wait_pair(secondary, primary, BOUND).unwrap();
        println!("{app:?} {level:?} round {round}: {} confirmed entries, all found on {secondary}", acked.len());
        nodes = [secondary, primary];
    }
    load.wait_for_more(AFTERWARDS, BOUND).unwrap();
    acked.extend(load.stop().unwrap());
    assert_whole(&pair, app, &acked, &nodes, "at the end");
}

#[test]
fn a_postgresql_loses_nothing() {
    power_failures(App::Postgresql, Level::None);
}

#[test]
fn sqlite_with_a_write_ahead_log_loses_nothing() {
    power_failures(App::Ledger, Level::None);
}

#[test]
fn sqlite_with_a_rollback_journal_loses_nothing() {
    power_failures(App::LedgerJournal, Level::None);
}

#[test]
fn a_plain_file_with_an_fsync_per_entry_loses_nothing() {
    power_failures(App::LedgerRaw, Level::None);
}

#[test]
fn a_postgresql_whose_secondary_confirms_from_memory_loses_nothing() {
    power_failures(App::Postgresql, Level::Second);
}

#[test]
fn sqlite_with_a_write_ahead_log_whose_secondary_confirms_from_memory_loses_nothing() {
    power_failures(App::Ledger, Level::Second);
}

#[test]
fn sqlite_with_a_rollback_journal_whose_secondary_confirms_from_memory_loses_nothing() {
    power_failures(App::LedgerJournal, Level::Second);
}

#[test]
fn a_plain_file_whose_secondary_confirms_from_memory_loses_nothing() {
    power_failures(App::LedgerRaw, Level::Second);
}

/// What the secondary confirmed from memory may be gone with its power: it must not serve without the primary.
#[test]
fn after_both_lost_their_power_a_secondary_that_confirmed_from_memory_waits_for_the_primary() {
    let (_guard, pair) = start(App::LedgerRaw, Level::Second);
    let load = pair.load().unwrap();
    load.wait_for_more(BEFORE, BOUND).unwrap();
    for host in ["n1", "n2"] {
        pair.lab.kill(host).unwrap();
    }
    let acked = load.stop().unwrap();
    pair.lab.boot("n2").unwrap();
    let waits = |(state, _): (State, Readiness)| state == State::Wait;
    pair.wait("n2 to wait", BOUND, |v| v.state("n2").is_some_and(waits)).unwrap();
    // Longer than it takes a node that may serve.
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(8) {
        let view = pair.api.module(tsugi_tests::setup::CLUSTER, &pair.module).unwrap();
        assert!(view.state("n2").is_some_and(waits), "{}", view.line());
    }
    let said = pair.lab.sh("n2", "tsugi state ledger").unwrap();
    println!("{said}");
    pair.lab.boot("n1").unwrap();
    pair.wait("n1 to serve", BOUND, |v| v.state("n1") == ALONE || v.state("n1") == PRIM).unwrap();
    pair.wait_pair("n1", "n2", BOUND).unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
}
