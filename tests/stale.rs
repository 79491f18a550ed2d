//! A copy that is not up to date is never served, whoever else is missing; and it is said why, and what helps.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tsugi_core::state::{Flag, Reason, Snapshot, State};
use tsugi_tests::api::{ALONE, PRIM};
use tsugi_tests::check::{App, Pair};
use tsugi_tests::lab::{Network, Quality, ns};
use tsugi_tests::setup::CLUSTER;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const BOUND: Duration = Duration::from_secs(120);
/// Restart quarantine, promise and claim together are far shorter.
const LONG_ENOUGH: Duration = Duration::from_secs(25);

fn pair() -> (MutexGuard<'static, ()>, Pair) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (guard, Pair::start("t-stale", App::Ledger, BTreeMap::new(), false).unwrap())
}

fn is_served(pair: &Pair) -> bool {
    let to = pair.address();
    ns::within(&pair.lab.client_net().unwrap(), move || Ok(TcpStream::connect_timeout(&to, Duration::from_millis(500))?)).is_ok()
}

/// What the node itself says.
fn snapshot(pair: &Pair, host: &str) -> Snapshot {
    let text = pair.lab.sh(host, "tsugi state ledger --json").unwrap();
    let mut all: Vec<Snapshot> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    all.remove(0)
}

#[test]
fn a_node_that_missed_writes_waits_and_says_what_helps() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    pair.lab.kill("n2").unwrap();
    pair.wait("n1 alone", BOUND, |v| v.state("n1") == ALONE).unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    pair.lab.kill("n1").unwrap();
    let acked = load.stop().unwrap();
    pair.lab.boot("n2").unwrap();

    let view = pair.wait("n2 to wait with a reason", BOUND, |v| {
        let reason = v.nodes["n2"].snapshot.as_ref().and_then(|s| s.reason.clone());
        v.state("n2").is_some_and(|(state, _)| state == State::Wait) && matches!(reason, Some(Reason::DataOlder { .. }))
    });
    // The API says it …
    println!("{}", view.unwrap().line());
    // … and it stays so.
    let begin = Instant::now();
    while begin.elapsed() < LONG_ENOUGH {
        assert!(!is_served(&pair), "a copy that misses confirmed entries is served");
        let now = snapshot(&pair, "n2");
        assert_eq!(now.state, State::Wait, "{now:?}");
        assert!(now.vips_held.is_empty() && !now.is_up_to_date, "{now:?}");
    }
    // The command line says it, with the command that helps.
    for lang in ["en", "ja"] {
        let said = pair.lab.sh("n2", &format!("tsugi --lang {lang} state ledger")).unwrap();
        assert!(said.contains("WAIT") && said.contains("n1") && said.contains("--accept-loss"), "{said}");
    }
    // Ordering it without that word changes nothing.
    assert!(pair.lab.sh("n2", "tsugi prim ledger").is_err());
    assert!(!is_served(&pair));
    // The page says it.
    let info = pair.lab.info().unwrap();
    let note = |key: &str| info.notes[key].as_str().unwrap().to_owned();
    let session = pair.api.sign_in(&note("user"), &note("password")).unwrap();
    let (status, page) = session.page(&format!("/clusters/{CLUSTER}/modules/ledger")).unwrap();
    assert_eq!(status, 200);
    assert!(page.contains("WAIT") && page.contains("--accept-loss"), "{page}");

    // What helps: the node with the newer copy. Both are then level again and nothing is lost.
    pair.lab.boot("n1").unwrap();
    pair.wait_pair("n1", "n2", BOUND).unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
}

#[test]
fn a_half_level_copy_is_not_served_when_its_source_dies() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    pair.lab.kill("n2").unwrap();
    pair.wait("n1 alone", BOUND, |v| v.state("n1") == ALONE).unwrap();
    // Enough that bringing n2 level takes a while on a slow line.
    pair.lab.sh("n1", "head -c 20000000 /dev/urandom >/srv/data/ledger/ballast").unwrap();
    pair.lab.net("n1", "n2", Network::Private, Quality { rate_kbit: 8_000, ..Quality::default() }).unwrap_err();
    pair.lab.boot("n2").unwrap();
    pair.lab.net("n1", "n2", Network::Private, Quality { rate_kbit: 8_000, ..Quality::default() }).unwrap();
    pair.wait("n2 to be brought level", BOUND, |v| {
        v.nodes["n2"].snapshot.as_ref().is_some_and(|s| s.resync.is_some() || s.flag == Flag::Inconsistent)
    })
    .unwrap();
    pair.lab.kill("n1").unwrap();
    let acked = load.stop().unwrap();
    pair.lab.heal().unwrap();
    let begin = Instant::now();
    while begin.elapsed() < LONG_ENOUGH {
        assert!(!is_served(&pair), "a half-written copy is served");
        assert!(!snapshot(&pair, "n2").is_up_to_date);
    }
    assert_eq!(snapshot(&pair, "n2").state, State::Wait);
    pair.lab.boot("n1").unwrap();
    pair.wait("n1 to serve again", BOUND, |v| v.state("n1") == ALONE || v.state("n1") == PRIM).unwrap();
    pair.wait_pair("n1", "n2", BOUND).unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
}
