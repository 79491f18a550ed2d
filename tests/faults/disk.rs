//! Disks that are full, and disks that fail.

use crate::bench::{BOUND, Bench, other};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tsugi_core::state::{Reason, State};
use tsugi_tests::api::{ALONE, ModuleView};
use tsugi_tests::events;
use tsugi_tests::lab::{Lab, Network, ns};
use tsugi_tests::setup::{CLUSTER, wait_for};

/// A small disk. The ledger needs a few of these.
const SMALL: u64 = 48 << 20;
/// A quota below what any directory takes.
const ALL_TAKEN: &str = "16K";
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(2);
const DATA: &str = "/srv/host/own";
const STORE: &str = "/srv/host/store";

fn reason(view: &ModuleView, node: &str) -> Option<Reason> {
    view.nodes[node].snapshot.as_ref().and_then(|s| s.reason.clone())
}

fn waits_for_its_disk(view: &ModuleView, node: &str) -> bool {
    matches!(reason(view, node), Some(Reason::DataUnusable { .. }))
}

/// First line of the ledger's answer to one more entry.
fn post(bench: &Bench) -> Option<String> {
    let to = bench.pair.address();
    let answer = ns::within(bench.pair.client_net(), move || {
        let mut line = TcpStream::connect_timeout(&to, PATIENCE)?;
        line.set_read_timeout(Some(PATIENCE))?;
        let body = format!(r#"{{"client":"one more","seq":{},"text":"is there room?"}}"#, events::unix_ms_now());
        write!(
            line,
            "POST /entries HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = [0; 200];
        let length = line.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned())
    });
    answer.ok()
}

/// How a node's data gets no more room: what gives it little, what takes the last of it, what gives it back, and what is
/// said then.
struct Shortage {
    prepare: fn(&Lab, &str) -> anyhow::Result<()>,
    take: fn(&Bench, &str),
    give_back: fn(&Bench, &str),
    said: &'static str,
}

const FULL_DISK: Shortage = Shortage {
    prepare: |lab, host| Bench::own_data(lab, host, SMALL),
    take: |bench, host| bench.fill(host, DATA),
    give_back: |bench, host| bench.empty(host, DATA),
    said: "No space left",
};

const QUOTA: Shortage = Shortage {
    prepare: Bench::own_data_with_quota,
    take: |bench, host| bench.set_quota(host, ALL_TAKEN),
    give_back: |bench, host| bench.set_quota(host, "none"),
    said: "quota exceeded",
};

fn costs_the_second_copy(name: &str, of: &Shortage) {
    let bench = Bench::start_with(name, |lab, _, _| (of.prepare)(lab, "n2"));
    let begin = Instant::now();
    (of.take)(&bench, "n2");
    let view = bench.wait("n2 to leave for its disk", |v| waits_for_its_disk(v, "n2"));
    println!("{}", view.line());
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    println!("the client waited {:.1} s", bench.gap_since(begin));
    // It is said on the node, with what is amiss.
    bench.wait_sh("n2", "tsugi events ledger -n 100", of.said);
    (of.give_back)(&bench, "n2");
    bench.wait_roles("n1", "n2");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

fn is_told_to_the_application(name: &str, of: &Shortage) {
    let mut bench = Bench::start_with(name, |lab, _, _| (of.prepare)(lab, "n1"));
    (of.take)(&bench, "n1");
    // No entry is acknowledged that is not there: the application gets the error and says so.
    let answer = wait_for("the application to say that it has no room", BOUND, || post(&bench).filter(|line| line.contains(" 5"))).unwrap();
    println!("{answer}");
    bench.end_load();
    // The other node has room; an administrator's word moves the service there.
    bench.pair.api.action(CLUSTER, "ledger", "swap", None).unwrap();
    bench.wait("n2 to serve", |v| v.state("n2").is_some_and(|(state, _)| state.is_serving()));
    bench.begin_load();
    assert_eq!(bench.missing_on("n2"), Vec::<String>::new());
    (of.give_back)(&bench, "n1");
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_full_disk_on_the_secondary_costs_the_second_copy_and_not_the_service() {
    costs_the_second_copy("t-f-full2", &FULL_DISK);
}

#[test]
fn a_full_disk_on_the_primary_is_told_to_the_application_and_a_swap_helps() {
    is_told_to_the_application("t-f-full1", &FULL_DISK);
}

#[test]
fn a_quota_reached_on_the_secondary_costs_the_second_copy_and_not_the_service() {
    costs_the_second_copy("t-f-quota2", &QUOTA);
}

#[test]
fn a_quota_reached_on_the_primary_is_told_to_the_application_and_a_swap_helps() {
    is_told_to_the_application("t-f-quota1", &QUOTA);
}

#[test]
fn a_full_disk_under_the_agents_own_files_stops_nothing() {
    let bench = Bench::start_with("t-f-fullm", |lab, _, _| {
        Bench::own_store(lab, "n1", SMALL)?;
        Bench::own_store(lab, "n2", SMALL)
    });
    // Records are written in place, events stay in memory, output of scripts is let go.
    for host in ["n1", "n2"] {
        bench.fill(host, STORE);
    }
    bench.goes_on();
    bench.pair.api.action(CLUSTER, "ledger", "swap", None).unwrap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    bench.lab().cut("n1", "n2", false, Some(Network::Private)).unwrap();
    bench.wait("n2 alone", |v| v.state("n2") == ALONE);
    bench.goes_on();
    bench.lab().heal().unwrap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    for host in ["n1", "n2"] {
        bench.empty(host, STORE);
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_failing_disk_under_the_secondarys_data_costs_the_second_copy_and_not_the_service() {
    let bench = Bench::start_with("t-f-eio2", |lab, _, _| Bench::own_data(lab, "n2", SMALL));
    let begin = Instant::now();
    bench.break_disk("n2", DATA);
    bench.wait("n2 to leave for its disk", |v| waits_for_its_disk(v, "n2"));
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    println!("the client waited {:.1} s", bench.gap_since(begin));
    bench.finish(&["n1"]);
}

#[test]
fn a_failing_disk_under_the_primarys_data_moves_the_service_to_the_other_node() {
    let bench = Bench::start_with("t-f-eio1", |lab, _, _| Bench::own_data(lab, "n1", SMALL));
    let (begin, since) = (Instant::now(), events::unix_ms_now());
    bench.break_disk("n1", DATA);
    bench.wait("n2 alone", |v| v.state("n2") == ALONE);
    bench.goes_on();
    println!("the client waited {:.1} s", bench.gap_since(begin));
    let view = bench.wait("n1 out of service", |v| v.state("n1").is_some_and(|(state, _)| !state.is_serving()));
    println!("{}", view.line());
    let said = bench.events("n1", since);
    assert!(said.iter().any(|r| matches!(r.event, tsugi_core::event::Event::DataFailed { .. })), "{said:?}");
    bench.finish(&["n2"]);
}

#[test]
fn a_node_whose_record_cannot_be_written_leaves_service_and_the_other_goes_on() {
    for (lab, broken) in [("t-f-eiom1", "n1"), ("t-f-eiom2", "n2")] {
        let bench = Bench::start_with(lab, |lab, _, _| Bench::own_store(lab, broken, SMALL));
        bench.break_disk(broken, STORE);
        // Nothing needs to be remembered yet. Now it does: the session ends, and who goes on must be written down.
        bench.goes_on();
        bench.lab().cut("n1", "n2", false, Some(Network::Private)).unwrap();
        bench.wait("the other node alone", |v| v.state(other(broken)) == ALONE);
        bench.goes_on();
        bench.lab().heal().unwrap();
        let said = bench.wait_said(broken, "the node to be out of service", |s| s.state == State::Wait && s.reason.is_some());
        println!("{broken}: {:?}", said.reason);
        assert!(said.vips_held.is_empty(), "{said:?}");
        bench.goes_on();
        bench.finish(&[other(broken)]);
    }
}
