//! The replication connection breaks and the pair does not: no role changes, no claim, nothing lost, and the client
//! hardly notices. A line that stays away is decided about as ever.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tsugi_tests::api::ALONE;
use tsugi_tests::check::{App, Pair};
use tsugi_tests::lab::{Network, Quality};
use tsugi_tests::load::Load;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const BOUND: Duration = Duration::from_secs(120);
/// A client that waits longer than this noticed something: a second, and half of one for a busy machine.
const UNNOTICED: Duration = Duration::from_millis(1500);
/// Shorter than the patience of the profile (2 s) and than any silence that is taken for a death.
const SHORT_CUT: Duration = Duration::from_millis(700);
/// Breaks in a row.
const TIMES: usize = 5;
/// How long the bad line is worked over.
const BAD_LINE: Duration = Duration::from_secs(60);
/// Appends a line to a file and flushes it, for so many seconds; prints how many.
const WRITER: &str = r#"
import os, sys, time
f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
end, n = time.monotonic() + int(sys.argv[2]), 0
while time.monotonic() < end:
    n += 1
    os.write(f, b"line %d\n" % n)
    os.fsync(f)
print(n)
"#;
/// Port of the first module's replication.
const PORT: u16 = 5600;

fn pair() -> (MutexGuard<'static, ()>, Pair) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (guard, Pair::start("t-rejoin", App::Ledger, BTreeMap::new(), false).unwrap())
}

/// Events of the module after `after`, and the last one's id.
fn events(pair: &Pair, after: i64) -> (Vec<Value>, i64) {
    let path = format!("/api/v1/events?module={}&limit=1000&after={after}", pair.module);
    let all = pair.api.must(reqwest::Method::GET, &path, None).unwrap();
    let rows = all["events"].as_array().unwrap().clone();
    (rows, all["next"].as_i64().unwrap_or(after))
}

/// Nothing an operator would hear of.
fn assert_quiet(pair: &Pair, since: i64) {
    let loud = ["entered", "session_lost", "claim_asked", "peer_lost", "frozen", "resync_started", "grown"];
    let (rows, _) = events(pair, since);
    let heard: Vec<_> = rows.iter().filter(|row| loud.iter().any(|word| row.to_string().contains(&format!("\"{word}\"")))).collect();
    assert!(heard.is_empty(), "{heard:#?}");
}

/// How often the source's data process said that the connection goes on.
fn resumed(pair: &Pair) -> usize {
    let log = pair.lab.places().host("n1").join("agent.log");
    std::fs::read_to_string(log).unwrap().matches("the replication connection is resumed").count()
}

fn settled(pair: &Pair, load: &Load) -> i64 {
    load.wait_for_more(200, BOUND).unwrap();
    events(pair, 0).1
}

#[test]
fn resets_and_short_cuts_of_the_replication_line_go_unnoticed() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    let beside = Load::beside(&pair.lab.path_in("n1", "/srv/host").unwrap()).unwrap();
    let since = settled(&pair, &load);
    let begun = Instant::now();
    for n in 1..=TIMES {
        // On one side or the other, as a firewall does that has forgotten the connection.
        let host = if n % 2 == 0 { "n1" } else { "n2" };
        let killed = pair.lab.sh(host, &format!("ss -K '( sport = :{PORT} or dport = :{PORT} )'")).unwrap();
        assert!(killed.contains(&PORT.to_string()), "there was no connection to reset: {killed}");
        load.wait_for_more(50, BOUND).unwrap();
        assert!(resumed(&pair) >= n, "the connection was not resumed");
    }
    let gap = load.unnoticed(begun, UNNOTICED, beside).unwrap();
    println!("{TIMES} resets: the client waited {:.0} ms at most", gap.seconds * 1000.0);
    assert_quiet(&pair, since);

    let beside = Load::beside(&pair.lab.path_in("n1", "/srv/host").unwrap()).unwrap();
    let begun = Instant::now();
    for _ in 0..TIMES {
        pair.lab.cut("n1", "n2", false, Some(Network::Private)).unwrap();
        std::thread::sleep(SHORT_CUT); // the length of the fault, not a wait for something
        pair.lab.heal().unwrap();
        load.wait_for_more(50, BOUND).unwrap();
    }
    let gap = load.unnoticed(begun, SHORT_CUT + UNNOTICED, beside).unwrap();
    println!("{TIMES} cuts of {SHORT_CUT:?}: the client waited {:.0} ms at most", gap.seconds * 1000.0);
    assert_quiet(&pair, since);
    let acked = load.stop().unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
}

#[test]
fn a_line_that_loses_a_tenth_and_takes_a_second_there_and_back_costs_no_role() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    let since = settled(&pair, &load);
    // An entry of the ledger is dozens of operations, each of them a second now: the bare directory says more.
    let acked = load.stop().unwrap();
    let bad = Quality { loss_percent: 10.0, delay_ms: 500.0, ..Quality::default() };
    pair.lab.net("n1", "n2", Network::Private, bad).unwrap();
    let before = resumed(&pair);
    let lines = pair.lab.sh("n1", &format!("python3 -c '{WRITER}' {}/lines {}", pair.data_dir(), BAD_LINE.as_secs())).unwrap();
    println!("{BAD_LINE:?}: {lines} lines flushed on both nodes, {} breaks bridged", resumed(&pair) - before);
    assert_quiet(&pair, since);
    assert!(lines.parse::<u64>().unwrap() > 5, "hardly anything got through: {lines}");
    // What was flushed is on the other node's disk, while the line is as it is.
    let there = std::fs::read_to_string(pair.lab.path_in("n2", "/srv/host/data/ledger/lines").unwrap()).unwrap();
    assert_eq!(there.lines().count().to_string(), lines);
    pair.lab.heal().unwrap();
    let load = pair.load().unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    assert_quiet(&pair, since);
    let more = load.stop().unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
    assert_eq!(pair.verify(&more, &["n1", "n2"]), Vec::<String>::new());
}

#[test]
fn a_line_that_stays_away_ends_the_session_and_the_pair_forms_again() {
    let (_guard, pair) = pair();
    let load = pair.load().unwrap();
    let since = settled(&pair, &load);
    let cut = Instant::now();
    // Heartbeats still arrive over the other network.
    pair.lab.cut("n1", "n2", false, Some(Network::Private)).unwrap();
    pair.wait("n1 alone", BOUND, |v| v.state("n1") == ALONE).unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    let gap = load.longest_gap_since(cut);
    println!("the client waited {:.1} s", gap.seconds);
    let (rows, _) = events(&pair, since);
    let has = |word: &str| rows.iter().any(|row| row.to_string().contains(word));
    assert!(has("session_lost") && has("claim_accepted"), "{rows:#?}");
    pair.lab.heal().unwrap();
    pair.wait_pair("n1", "n2", BOUND).unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    let acked = load.stop().unwrap();
    assert_eq!(pair.verify(&acked, &["n1", "n2"]), Vec::<String>::new());
}
