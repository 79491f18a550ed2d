//! Arbiters other than the console, in the lab: a witness on a third machine, and fencing.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tsugi_tests::api::Api;
use tsugi_tests::check::{App, Pair};
use tsugi_tests::lab::names::AGENTS_PORT;
use tsugi_tests::lab::{CONSOLE, Lab, Network, Quality};
use tsugi_tests::load;
use tsugi_tests::rough;
use tsugi_tests::setup::{CLUSTER, cluster_xml, wait_for};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const BOUND: Duration = Duration::from_secs(60);
const REJOIN_BOUND: Duration = Duration::from_secs(180);

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The module's state on `host`, asked there: no console needed.
fn state(pair: &Pair, host: &str) -> String {
    pair.lab.sh(host, "tsugi state ledger").unwrap_or_default()
}
fn agent_log(pair: &Pair, host: &str) -> String {
    let text = std::fs::read_to_string(pair.lab.places().host(host).join("agent.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
/// Waits until `host` is in the state, with its second axis green.
fn wait_state(pair: &Pair, host: &str, wanted: &str, bound: Duration) {
    wait(pair, host, wanted, bound, || {
        let text = pair.lab.sh(host, "tsugi state --json ledger").ok()?;
        let seen: serde_json::Value = serde_json::from_str(&text).ok()?;
        let is_ready = wanted == "wait" || seen[0]["readiness"] == "ready";
        (seen[0]["state"] == wanted && is_ready).then_some(())
    });
}
/// Waits until `tsugi state` says so.
fn wait_said(pair: &Pair, host: &str, wanted: &str, bound: Duration) {
    wait(pair, host, wanted, bound, || state(pair, host).contains(wanted).then_some(()));
}
fn wait(pair: &Pair, host: &str, what: &str, bound: Duration, is_so: impl Fn() -> Option<()>) {
    wait_for(&format!("{host} to say {what}"), bound, is_so)
        .unwrap_or_else(|e| panic!("{e:#}\nn1: {}\nn2: {}\n{}", state(pair, "n1"), state(pair, "n2"), agent_log(pair, host)));
}

/// A witness called w1 on the host n3, beside its agent; by the commands of the manual.
fn start_witness(lab: &Lab, api: &Api) {
    let third = Network::Private.addr(13);
    let arbiters = format!("  <arbiters>\n    <witness name=\"w1\" addr=\"{third}\"/>\n  </arbiters>\n</cluster>");
    // It runs on a host of the cluster for want of another one; it keeps no module's data there.
    let arbiters = arbiters.replace("/>", " own=\"true\"/>");
    let nodes: Vec<String> = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
    let xml = cluster_xml(&nodes).replace("</cluster>", &arbiters);
    api.must(reqwest::Method::PUT, &format!("/api/v1/clusters/{CLUSTER}/config"), Some(&serde_json::json!({ "xml": xml }))).unwrap();
    let answer = api.must(reqwest::Method::POST, &format!("/api/v1/clusters/{CLUSTER}/join-tokens"), Some(&serde_json::json!({}))).unwrap();
    let token = answer["token"].as_str().unwrap();
    let console = format!("https://{}:{AGENTS_PORT}", Network::Private.addr(10));
    let enroll = format!("tsugi-agent enroll --state /var/lib/tsugi-witness --console {console} --token {token} --name w1");
    lab.sh("n3", &enroll).unwrap();
    run_witness(lab);
}

fn run_witness(lab: &Lab) {
    lab.sh("n3", "setsid tsugi-agent witness >/var/log/witness.log 2>&1 </dev/null & sleep 0.1").unwrap();
    wait_for("the witness", BOUND, || {
        lab.sh("n3", "grep -q 'listens on' /var/log/witness.log && echo yes").ok().filter(|t| t.contains("yes"))
    })
    .unwrap();
}

#[test]
fn with_a_witness_the_pair_fails_over_while_the_console_is_gone() {
    let _guard = alone();
    let pair = Pair::start_with("t-witness", App::Ledger, BTreeMap::new(), false, |lab, api, files| {
        start_witness(lab, api);
        files.userconfig = files.userconfig.replace("<service mode=\"mirror\"", "<service mode=\"mirror\" arbiter=\"w1\"");
        Ok(())
    })
    .unwrap();
    let nodes = pair.api.must(reqwest::Method::GET, &format!("/api/v1/clusters/{CLUSTER}/nodes"), None).unwrap().to_string();
    assert!(!nodes.contains("w1"), "a witness is no node to approve: {nodes}");
    wait_said(&pair, "n1", "w1: arbiter reachable", BOUND);
    let load = pair.load().unwrap();
    load.wait_for_more(200, BOUND).unwrap();

    pair.lab.kill(CONSOLE).unwrap();
    pair.lab.kill("n1").unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    wait_state(&pair, "n2", "alone", BOUND);
    pair.say("console and primary without power: the secondary has taken over by the word of the witness");

    pair.lab.boot("n1").unwrap();
    wait_state(&pair, "n2", "prim", REJOIN_BOUND);
    wait_state(&pair, "n1", "second", REJOIN_BOUND);
    pair.say("the former primary follows, still without a console");

    // The witness is lost: said beforehand, and a take-over waits for it.
    pair.lab.sh("n3", "kill -9 $(pgrep -f 'tsugi-agent witnes[s]')").unwrap();
    for host in ["n1", "n2"] {
        wait_said(&pair, host, "arbiter w1 is not reachable: automatic failover is off", BOUND);
    }
    pair.lab.kill("n2").unwrap();
    wait_state(&pair, "n1", "wait", BOUND);
    run_witness(&pair.lab);
    wait_state(&pair, "n1", "alone", BOUND);
    load.wait_for_more(200, BOUND).unwrap();
    let acked = load.stop().unwrap();
    assert_eq!(load::lost(&acked, &pair.read_all().unwrap()), Vec::<String>::new());
    let audit = pair.lab.sh("n3", "cat /var/lib/tsugi-witness/witness/audit.jsonl").unwrap();
    assert!(audit.lines().count() >= 4 && audit.contains("\"by\":\"n2\""), "{audit}");
}

/// Half a second each way between all, console included: a claim takes a round trip of a second, on a connection that is
/// there already.
#[test]
fn with_a_second_of_round_trip_on_every_network_the_secondary_still_takes_over() {
    let _guard = alone();
    let pair = Pair::start("t-slow", App::Ledger, BTreeMap::new(), false).unwrap();
    rough::every_line(&pair.lab, Quality { delay_ms: 500.0, ..Quality::default() }).unwrap();
    // The arbiter answers about the module on the slow lines too.
    wait_said(&pair, "n2", "arbiter reachable", BOUND);
    let begin = Instant::now();
    pair.lab.kill("n1").unwrap();
    wait_state(&pair, "n2", "alone", BOUND);
    println!("with 500 ms delay each way: ALONE {:.1} s after the primary lost its power", begin.elapsed().as_secs_f64());
    pair.lab.heal().unwrap();
    pair.lab.boot("n1").unwrap();
    pair.wait_pair("n2", "n1", REJOIN_BOUND).unwrap();
}

/// A fence agent whose device is the test: it asks for the cut by a file, and believes another file.
const FENCE_LAB: &str = r#"#!/bin/sh
while read -r line; do case $line in action=*) action=${line#action=};; plug=*) plug=${line#plug=};; esac; done
case $action in
    off) echo "$plug" >/run/fence-wanted ;;
    status) if [ "$(cat /run/fence-done 2>/dev/null)" = "$plug" ]; then echo 'Status: OFF'; exit 2; else echo 'Status: ON'; fi ;;
esac
"#;

#[test]
fn a_primary_that_hangs_is_fenced_before_the_secondary_takes_over() {
    let _guard = alone();
    let pair = Pair::start_with("t-fence", App::Ledger, BTreeMap::new(), false, |_, _, files| {
        let fence = "<fence agent=\"/var/lib/tsugi/modules/ledger/active/bin/fence_lab\" delay=\"1s\" timeout=\"25s\">\
             <option node=\"n1\" name=\"plug\" value=\"n1\"/><option node=\"n2\" name=\"plug\" value=\"n2\"/></fence></service>";
        files.userconfig = files
            .userconfig
            .replace("<service mode=\"mirror\"", "<service mode=\"mirror\" authority=\"fence\"")
            .replace("</service>", fence);
        files.scripts.insert("fence_lab".to_owned(), FENCE_LAB.to_owned());
        Ok(())
    })
    .unwrap();
    let load = pair.load().unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    pair.lab.pause("n1").unwrap();
    pair.say("the primary stands still");
    wait_for("n2 to ask for the cut", BOUND, || pair.lab.sh("n2", "cat /run/fence-wanted").ok().filter(|t| t.trim() == "n1")).unwrap();
    assert!(!state(&pair, "n2").contains("ALONE"), "nothing is confirmed yet: {}", state(&pair, "n2"));
    pair.lab.kill("n1").unwrap();
    pair.lab.sh("n2", "echo n1 >/run/fence-done").unwrap();
    load.wait_for_more(200, BOUND).unwrap();
    wait_state(&pair, "n2", "alone", BOUND);
    let acked = load.stop().unwrap();
    assert_eq!(load::lost(&acked, &pair.read_all().unwrap()), Vec::<String>::new());

    // Back with power: it follows, and fences nobody.
    pair.lab.sh("n2", "rm -f /run/fence-done").unwrap();
    pair.lab.boot("n1").unwrap();
    pair.wait_pair("n2", "n1", REJOIN_BOUND).unwrap();
    assert_eq!(pair.lab.sh("n1", "cat /run/fence-wanted 2>/dev/null || echo none").unwrap().trim(), "none");

    // Nobody's power is cut for what differs either: a person restarts the secondary, and is told so.
    pair.lab.sh("n2", "rm -f /run/fence-wanted").unwrap();
    let stray = pair.lab.path_in("n1", "/srv/host/data/ledger/stray").unwrap();
    std::fs::write(&stray, "of a rescue system").unwrap();
    let found = pair.lab.sh("n2", "tsugi verify ledger; echo code $?").unwrap();
    assert!(found.contains("/ledger/stray (only on the secondary)") && found.contains("code 1"), "{found}");
    wait_for("what to do", BOUND, || Some(state(&pair, "n2")).filter(|said| said.contains("On n1: tsugi stopstart ledger"))).unwrap();
    assert!(stray.exists(), "it is repaired by itself, which asks for the cut");
    pair.lab.sh("n1", "tsugi stopstart ledger --no-wait").unwrap();
    wait_for("the repair", BOUND, || (!stray.exists()).then_some(())).unwrap();
    pair.wait_pair("n2", "n1", REJOIN_BOUND).unwrap();
    assert_eq!(pair.lab.sh("n2", "cat /run/fence-wanted 2>/dev/null || echo none").unwrap().trim(), "none");
    wait_for("nothing left to do", BOUND, || (!state(&pair, "n2").contains("not repaired yet")).then_some(())).unwrap();
}
