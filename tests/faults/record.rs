//! A node's own record damaged, taken from elsewhere, or of an earlier time: never served without knowing.

use crate::bench::Bench;
use std::time::{Duration, Instant};
use tsugi_core::state::{Flag, Reason, Snapshot};
use tsugi_tests::api::ALONE;
use tsugi_tests::lab::disk;
use tsugi_tests::setup::CLUSTER;

/// Restart quarantine, promise and claim together are far shorter.
const LONG_ENOUGH: Duration = Duration::from_secs(10);
/// The module's record on a host's disk, seen from its root.
const RECORD: &str = "tsugi/modules/ledger";

impl Bench {
    /// Changes the disk of a host that is off.
    fn edit_disk(&self, host: &str, line: &str) {
        disk::edit(&self.lab().places().host(host).join("disk.img"), line).unwrap();
    }

    /// The node is there, alone, and serves nothing for longer than anything it could wait for.
    fn assert_never_serves(&self, host: &str) -> Snapshot {
        let begin = Instant::now();
        loop {
            let now = self.wait_said(host, "an answer", |_| true);
            assert!(!now.state.is_serving() && now.vips_held.is_empty(), "{now:?}");
            if begin.elapsed() > LONG_ENOUGH {
                return now;
            }
        }
    }

    /// Both lose their power while they are a pair: by the arbiter's record either may serve.
    fn both_off(&mut self) {
        self.goes_on();
        for host in ["n1", "n2"] {
            self.lab().kill(host).unwrap();
        }
        self.end_load();
    }
}

#[test]
fn one_damaged_slot_costs_nothing() {
    let mut bench = Bench::start("t-f-slot");
    for (slot, harm) in [("a", "dd if=/dev/zero of=FILE bs=1 count=40 conv=notrunc"), ("b", "truncate -s 20 FILE")] {
        bench.both_off();
        // The slot that is damaged may be the newer one: the record then is the one before it.
        let file = format!("{RECORD}/record.{slot}");
        bench.edit_disk("n2", &harm.replace("FILE", &file));
        for host in ["n2", "n1"] {
            bench.lab().boot(host).unwrap();
        }
        bench.wait_pair();
        bench.begin_load();
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_node_without_a_record_to_rely_on_is_never_served_and_is_brought_level_by_the_other() {
    let mut bench = Bench::start("t-f-record");
    let harms = [
        ("zeroed", "for slot in a b; do dd if=/dev/zero of=DIR/record.$slot bs=16k count=1 conv=notrunc; done"),
        ("truncated", "truncate -s 0 DIR/record.a DIR/record.b"),
        ("removed, one of two", "rm DIR/record.a"),
    ];
    for (what, line) in harms {
        bench.both_off();
        bench.edit_disk("n2", &line.replace("DIR", RECORD));
        bench.lab().boot("n2").unwrap();
        let now = bench.assert_never_serves("n2");
        println!("{what}: n2 alone: {:?} {:?}", now.state, now.reason);
        assert!(now.reason.is_some() && now.flag == Flag::Unknown && !now.is_up_to_date, "{what}: {now:?}");
        // Nor by an order that accepts no loss.
        assert!(bench.lab().sh("n2", "tsugi prim ledger").is_err(), "{what}");
        bench.lab().boot("n1").unwrap();
        bench.wait_roles("n1", "n2");
        bench.begin_load();
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_record_copied_from_the_other_node_gives_no_right() {
    let mut bench = Bench::start("t-f-copied");
    // n2 misses what n1 acknowledges alone, and gets n1's record.
    bench.lab().kill("n2").unwrap();
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    bench.lab().kill("n1").unwrap();
    bench.end_load();
    let (from, to) = (bench.lab().places().host("n1").join("disk.img"), bench.lab().places().dir.join("records"));
    std::fs::create_dir_all(&to).unwrap();
    disk::edit(&from, &format!("cp {RECORD}/record.a {RECORD}/record.b {}", to.display())).unwrap();
    bench.edit_disk("n2", &format!("cp {0}/record.a {0}/record.b {RECORD}", to.display()));
    bench.lab().boot("n2").unwrap();
    let now = bench.assert_never_serves("n2");
    println!("{:?} {:?}", now.state, now.reason);
    assert!(now.reason.is_some(), "{now:?}");
    bench.lab().boot("n1").unwrap();
    bench.wait_roles("n1", "n2");
    bench.begin_load();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_node_of_an_earlier_time_is_compared_with_the_serving_one_and_brought_level() {
    let mut bench = Bench::start("t-f-rollback");
    let image = bench.lab().places().host("n2").join("disk.img");
    let earlier = image.with_extension("earlier");
    // A copy of a node that was current then.
    bench.lab().kill("n2").unwrap();
    disk::copy(&image, &earlier).unwrap();
    bench.goes_on();
    bench.lab().boot("n2").unwrap();
    bench.wait_roles("n1", "n2");
    bench.goes_on();
    // The node comes back as it was then, while the other one serves.
    bench.lab().kill("n2").unwrap();
    disk::copy(&earlier, &image).unwrap();
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    bench.lab().boot("n2").unwrap();
    bench.wait_roles("n1", "n2");
    bench.goes_on();
    bench.end_load();
    bench.pair.api.action(CLUSTER, "ledger", "swap", None).unwrap();
    bench.wait_roles("n2", "n1");
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_node_of_an_earlier_time_that_is_alone_does_not_serve_what_it_has() {
    let mut bench = Bench::start("t-f-rollback2");
    let image = bench.lab().places().host("n2").join("disk.img");
    let earlier = image.with_extension("earlier");
    bench.lab().kill("n2").unwrap();
    disk::copy(&image, &earlier).unwrap();
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    bench.lab().boot("n2").unwrap();
    bench.wait_roles("n1", "n2");
    // By the record n2 is current; the n2 that comes back is not, and its own record is older than that.
    bench.both_off();
    disk::copy(&earlier, &image).unwrap();
    bench.lab().boot("n2").unwrap();
    let now = bench.assert_never_serves("n2");
    println!("{:?} {:?}", now.state, now.reason);
    bench.lab().boot("n1").unwrap();
    bench.wait_roles("n1", "n2");
    bench.begin_load();
    bench.finish(&["n1", "n2"]);
}

/// A disk that is not mounted after a power failure leaves an empty directory. It is not the copy of the record: served,
/// it would go over the good one, and claimed for, it would lock that one out.
#[test]
fn a_directory_whose_disk_is_not_mounted_is_neither_served_nor_written_and_locks_nobody_out() {
    let mut bench = Bench::start("t-f-unmounted");
    bench.both_off();
    bench.edit_disk("n1", "mv data/ledger data/ledger.away && mkdir data/ledger");
    bench.lab().boot("n1").unwrap();
    let now = bench.assert_never_serves("n1");
    let Some(Reason::DataUnusable { detail }) = &now.reason else { panic!("{now:?}") };
    assert!(detail.contains("/srv/data/ledger") && detail.contains("mounted"), "{detail}");

    bench.lab().boot("n2").unwrap();
    bench.wait("n2 to serve", |v| v.state("n2") == ALONE);
    bench.begin_load();
    assert_eq!(bench.sh("n1", "ls -A /srv/data/ledger").trim(), "", "the empty directory was written to");
    // The disk is mounted after all: nothing else is needed.
    bench.sh("n1", "rmdir /srv/data/ledger && mv /srv/data/ledger.away /srv/data/ledger");
    bench.wait_roles("n2", "n1");

    // A new disk: it is taken when a person says so, and brought level.
    bench.lab().kill("n1").unwrap();
    bench.wait("n2 alone", |v| v.state("n2") == ALONE);
    bench.edit_disk("n1", "rm -r data/ledger && mkdir data/ledger");
    bench.lab().boot("n1").unwrap();
    bench.wait("n1 to say so", |v| {
        let said = v.nodes["n1"].snapshot.as_ref().and_then(|s| s.reason.as_ref());
        matches!(said, Some(Reason::DataUnusable { .. }))
    });
    let refused = bench.lab().sh("n1", "tsugi rfs adopt -m ledger 2>&1").unwrap_err().to_string();
    assert!(refused.contains("stop it on this node first"), "{refused}");
    bench.sh("n1", "tsugi stop ledger && tsugi rfs adopt -m ledger && tsugi start ledger --no-wait");
    bench.wait_roles("n2", "n1");
    // Also where the data process has not ended since: the copy it follows with is marked again.
    bench.sh("n1", "tsugi stop ledger && tsugi rfs adopt -m ledger && tsugi start ledger --no-wait");
    bench.wait_roles("n2", "n1");
    bench.sh("n1", "grep -q /srv/data/ledger /var/lib/tsugi/modules/ledger/copies.json");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}
