//! Lines that are cut, in one direction or both, and lines that are merely bad.

use crate::bench::{Bench, other};
use std::time::{Duration, Instant};
use tsugi_core::state::{ArbiterView, State};
use tsugi_tests::api::{ALONE, PRIM, SECOND};
use tsugi_tests::lab::{CONSOLE, Quality};
use tsugi_tests::rough::{self, RoughPlan};

/// Longer than every time-out of the profile together.
const LONG_CUT: Duration = Duration::from_secs(12);
/// How long the lines are bad.
const BAD_TIME: Duration = Duration::from_secs(20);

impl Bench {
    /// Cuts the line between two hosts on every network.
    fn cut(&self, a: &str, b: &str) {
        self.lab().cut(a, b, false, None).unwrap();
    }
    fn cut_one_way(&self, from: &str, to: &str) {
        self.lab().cut(from, to, true, None).unwrap();
    }
    fn heal(&self) {
        self.lab().heal().unwrap();
    }
}

#[test]
fn nodes_that_do_not_see_each_other_serve_on_one_of_them() {
    let bench = Bench::start("t-f-cutpeer");
    bench.cut("n1", "n2");
    // Both reach the arbiter; it says yes once. The primary asks first.
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    let begin = Instant::now();
    while begin.elapsed() < LONG_CUT {
        bench.goes_on();
        let there = bench.snapshot("n2").unwrap();
        assert!(!there.state.is_serving() && there.vips_held.is_empty(), "{there:?}");
    }
    bench.heal();
    bench.wait_roles("n1", "n2");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_primary_cut_off_from_peer_and_arbiter_leaves_the_service_to_the_other_node() {
    let bench = Bench::start("t-f-cutboth1");
    let mut prim = "n1";
    // Clients still reach it: it must stop by itself.
    for _ in 0..2 {
        let next = other(prim);
        bench.cut(prim, CONSOLE);
        bench.cut(prim, next);
        bench.wait("the other node alone", |v| v.state(next) == ALONE);
        bench.goes_on();
        let here = bench.wait_said(prim, "the node cut off to be out of service", |s| s.vips_held.is_empty() && s.reason.is_some());
        assert!(here.state != State::Alone, "{here:?}");
        bench.heal();
        bench.wait_roles(next, prim);
        bench.goes_on();
        prim = next;
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn without_the_arbiter_a_pair_stays_and_losing_each_other_too_stops_the_service_until_it_heals() {
    let mut bench = Bench::start("t-f-cutarb");
    for host in ["n1", "n2"] {
        bench.cut(host, CONSOLE);
    }
    for host in ["n1", "n2"] {
        bench.wait_said(host, "the arbiter's loss to be said", |s| s.arbiter == ArbiterView::Unreachable);
    }
    let begin = Instant::now();
    while begin.elapsed() < LONG_CUT {
        bench.goes_on();
    }
    for (host, state) in [("n1", PRIM), ("n2", SECOND)] {
        let now = bench.snapshot(host).unwrap();
        assert_eq!(Some((now.state, now.readiness)), state, "{now:?}");
    }
    assert!(bench.gap_since(begin) < 2.0, "the client waited {:.1} s", bench.gap_since(begin));

    // Nobody can know: nobody serves.
    bench.cut("n1", "n2");
    for host in ["n1", "n2"] {
        bench.wait_said(host, "nobody to serve", |s| s.vips_held.is_empty() && s.reason.is_some());
    }
    bench.end_load();
    let begin = Instant::now();
    while begin.elapsed() < LONG_CUT {
        for host in ["n1", "n2"] {
            let now = bench.snapshot(host).unwrap();
            assert!(now.vips_held.is_empty() && now.state != State::Alone, "{now:?}");
        }
    }
    bench.heal();
    bench.begin_load();
    bench.wait_pair();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_line_that_carries_one_way_only_is_a_cut_line() {
    let bench = Bench::start("t-f-oneway");
    for (from, to) in [("n1", "n2"), ("n2", "n1")] {
        let prim = bench.wait_pair();
        bench.cut_one_way(from, to);
        let view = bench.wait("one node alone", |v| ["n1", "n2"].iter().any(|n| v.state(n) == ALONE));
        println!("n1 PRIM before: {}; cut {from} → {to}: {}", prim == "n1", view.line());
        bench.goes_on();
        bench.heal();
        bench.wait_pair();
        bench.goes_on();
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn loss_delay_reordering_doubles_and_wrong_bytes_change_no_role() {
    let quality = Quality {
        loss_percent: 10.0,
        delay_ms: 500.0,
        reorder_percent: 10.0,
        dup_percent: 5.0,
        corrupt_percent: 1.0,
        ..Quality::default()
    };
    let report = rough::run(&RoughPlan { lab: "t-f-bad".into(), quality, time: BAD_TIME }).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}; {} entries, longest pause {:.1} s; {:?}", report.vips.line(), report.written, report.longest_gap, report.troubles);
    assert_eq!(report.role_changes, Vec::<String>::new(), "{:?}", report.troubles);
    assert_eq!(report.alarms, Vec::<String>::new(), "{:?}", report.troubles);
    assert_eq!(report.lost, Vec::<String>::new());
    assert!(report.vips.is_clean(), "{}", report.vips.line());
}
