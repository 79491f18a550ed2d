//! A host's wall clock jumps; the clock that counts elapsed time does not.

use crate::bench::Bench;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};
use tsugi_core::event::Event;
use tsugi_tests::api::ALONE;
use tsugi_tests::events;

/// What makes the clock of a host's programs jump.
const SOURCE: &str = include_str!("clock.c");
/// On the host: it, and the seconds that the clock is off by, as eight bytes.
const LIBRARY: &str = "/srv/host/clock.so";
const OFFSET: &str = "/srv/host/clock-offset";
const DAY: i64 = 86_400;
/// Longer than every time-out between the nodes.
const A_WHILE: Duration = Duration::from_secs(8);

impl Bench {
    /// Environment in which the programs of `host` see the wall clock that [`Bench::set_clock`] sets.
    fn own_clock(&self, host: &str) -> BTreeMap<String, String> {
        let source = self.lab().places().dir.join("clock.c");
        std::fs::write(&source, SOURCE).unwrap();
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-o"])
            .args([&self.lab().path_in(host, LIBRARY).unwrap(), &source])
            .output()
            .expect("cc (Debian: gcc)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(self.lab().path_in(host, OFFSET).unwrap(), 0i64.to_ne_bytes()).unwrap();
        [("LD_PRELOAD", LIBRARY), ("WALL_CLOCK_OFFSET", OFFSET)].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn set_clock(&self, host: &str, seconds: i64) {
        let path = self.lab().path_in(host, OFFSET).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
        let there: i64 = self.sh(host, "date +%s").parse().unwrap();
        let ahead = there - (events::unix_ms_now() / 1000) as i64;
        assert!((ahead - seconds).abs() < 60, "the clock of {host} is {ahead} s ahead, not {seconds} s");
    }

    /// How often a node's state changed.
    fn changes(&self, host: &str) -> usize {
        self.events(host, 0).iter().filter(|r| matches!(r.event, Event::Entered { .. })).count()
    }
}

#[test]
fn a_wall_clock_that_jumps_changes_no_role_and_events_keep_their_order() {
    let bench = Bench::start("t-f-clock");
    let env = bench.own_clock("n1");
    bench.lab().stop("n1").unwrap();
    bench.wait("n2 alone", |v| v.state("n2") == ALONE);
    bench.lab().set_env("n1", env).unwrap();
    bench.lab().boot("n1").unwrap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    for prim in ["n2", "n1"] {
        if prim == "n1" {
            bench.sh("n2", "tsugi swap ledger");
            bench.wait_roles("n1", "n2");
            bench.goes_on();
        }
        let since = Instant::now();
        let (before, last) = (["n1", "n2"].map(|n| bench.changes(n)), bench.events("n1", 0).last().unwrap().seq);
        for seconds in [DAY, -DAY, -2 * DAY, 0] {
            bench.set_clock("n1", seconds);
            let begin = Instant::now();
            while begin.elapsed() < A_WHILE {
                bench.goes_on();
            }
            // Something of this time for the log.
            bench.sh("n1", &format!("tsugi printi -m ledger -- 'the clock is {seconds} s off'"));
        }
        assert_eq!(["n1", "n2"].map(|n| bench.changes(n)), before, "a state changed");
        println!("{prim} PRIM: n1's clock jumped four times; the client waited {:.2} s at most", bench.gap_since(since));
        assert!(bench.gap_since(since) < 2.0, "the client waited {:.1} s", bench.gap_since(since));
        println!("{} events since", bench.events("n1", 0).iter().filter(|r| r.seq > last).count());
    }
    // A day behind it is taken over from, and it comes back as at any other time.
    bench.set_clock("n1", -DAY);
    bench.lab().kill("n1").unwrap();
    bench.goes_on();
    bench.lab().boot("n1").unwrap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    // The times in the log go back; its numbers do not, and nothing is out of its place.
    let all = bench.events("n1", 0);
    assert!(all.windows(2).all(|two| two[0].seq < two[1].seq), "{all:#?}");
    assert!(all.windows(2).any(|two| two[0].at_unix_ms > two[1].at_unix_ms), "the clock of n1 did not reach its log");
    bench.finish(&["n1", "n2"]);
}
