//! Networks that are bad, and nothing that is broken: the pair must stay as it is.
//!
//! A minute in the ordinary run, half an hour with `./dev test --long false_failover`. Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::time::Duration;
use tsugi_tests::lab::Quality;
use tsugi_tests::rough::{self, RoughPlan};

/// An entry takes a dozen round trips between the nodes, each a second and more: a lost frame is sent again after
/// seconds, and when it is lost again, after twice as many.
const GAP_MAX: f64 = 120.0;

fn time() -> Duration {
    let is_long = std::env::var("TSUGI_LONG").is_ok_and(|suite| suite == "false_failover");
    Duration::from_secs(if is_long { 1800 } else { 60 })
}

#[test]
fn loss_and_delay_on_all_networks_change_no_role() {
    let quality = Quality { loss_percent: 10.0, delay_ms: 500.0, ..Quality::default() };
    let report = rough::run(&RoughPlan { lab: "t-rough".into(), quality, time: time() }).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", report.vips.line());
    println!("{} entries confirmed, longest pause {:.1} s; {:?}", report.written, report.longest_gap, report.troubles);
    assert_eq!(report.role_changes, Vec::<String>::new(), "{:?}", report.troubles);
    assert_eq!(report.alarms, Vec::<String>::new(), "{:?}", report.troubles);
    assert!(report.written > 0 && report.longest_gap < GAP_MAX, "the application did not go on: {report:?}");
    assert_eq!(report.lost, Vec::<String>::new());
    assert!(report.vips.is_clean(), "{}", report.vips.line());
}
