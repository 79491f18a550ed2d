//! The console may go at any time: the application does not notice, and the states are there again afterwards.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tsugi_tests::api::{PRIM, SECOND};
use tsugi_tests::check::{App, Pair};
use tsugi_tests::lab::CONSOLE;
use tsugi_tests::load::{self, Load};
use tsugi_tests::setup::{CLUSTER, wait_for};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A client that waits longer than this noticed something. Less than the time-outs of the protocol, more than a busy
/// machine takes to clear a host away.
const UNNOTICED: Duration = Duration::from_millis(2500);
const BACK_BOUND: Duration = Duration::from_secs(60);

fn pair() -> (MutexGuard<'static, ()>, Pair) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (guard, Pair::start("t-console", App::Ledger, BTreeMap::new(), false).unwrap())
}

fn states_are_back(pair: &Pair) {
    pair.wait_pair("n1", "n2", BACK_BOUND).unwrap();
    let seen = pair.api.must(reqwest::Method::GET, &format!("/api/v1/clusters/{CLUSTER}/nodes"), None).unwrap();
    assert!(seen.to_string().contains("n1"), "{seen}");
}

#[test]
fn the_consoles_host_loses_its_power_and_the_pair_goes_on() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    let beside = Load::beside(&pair.lab.path_in("n1", "/srv/host").unwrap()).unwrap();
    load.wait_for_more(200, BACK_BOUND).unwrap();
    let killed = Instant::now();
    pair.lab.kill(CONSOLE).unwrap();
    // Longer than every time-out between agents and console.
    while killed.elapsed() < Duration::from_secs(20) {
        load.wait_for_more(10, BACK_BOUND).unwrap();
    }
    // The command line of the nodes needs no console.
    for (host, state) in [("n1", "PRIM"), ("n2", "SECOND")] {
        let said = pair.lab.sh(host, "tsugi state ledger").unwrap();
        assert!(said.contains(state), "{host}: {said}");
    }
    pair.lab.boot(CONSOLE).unwrap();
    wait_for("the console", BACK_BOUND, || pair.api.is_ready().then_some(())).unwrap();
    states_are_back(&pair);
    let gap = load.unnoticed(killed, UNNOTICED, beside).unwrap();
    println!("the client waited {:.0} ms at most", gap.seconds * 1000.0);
    let acked = load.stop().unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
}

#[test]
fn the_console_restarts_and_the_pair_still_fails_over_afterwards() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    let beside = Load::beside(&pair.lab.path_in("n1", "/srv/host").unwrap()).unwrap();
    load.wait_for_more(200, BACK_BOUND).unwrap();
    let killed = Instant::now();
    pair.lab.sh(CONSOLE, "pkill -9 -x tsugi-server").unwrap();
    wait_for("the console", BACK_BOUND, || pair.api.is_ready().then_some(())).unwrap();
    states_are_back(&pair);
    let gap = load.unnoticed(killed, UNNOTICED, beside).unwrap();
    println!("the client waited {:.0} ms at most", gap.seconds * 1000.0);
    // It is the arbiter: its memory of who may serve survived too.
    pair.lab.kill("n1").unwrap();
    load.wait_for_more(200, BACK_BOUND).unwrap();
    let acked = load.stop().unwrap();
    assert_eq!(load::lost(&acked, &pair.read_all().unwrap()), Vec::<String>::new());
    let view = pair.wait("n2 alone", BACK_BOUND, |v| v.state("n2").is_some_and(|s| Some(s) != SECOND && Some(s) != PRIM)).unwrap();
    println!("{}", view.line());
}
