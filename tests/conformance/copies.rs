//! A copy that is not served: nobody writes to it, and what is done to it on purpose is put right.

use crate::{DISK_BYTES, alone};
use tsugi_tests::files::{DIR, Files, MODULE};
use tsugi_tests::setup::CLUSTER;

/// What writing there says.
fn written(pair: &Files, host: &str) -> String {
    pair.lab.sh(host, &format!("( echo stray >{DIR}/stray && echo written ) 2>&1 || true")).unwrap_or_else(|e| e.to_string())
}

fn is_refused(pair: &Files, host: &str) -> bool {
    written(pair, host).contains("Read-only file system")
}

/// How much the next session of `host`, which serves, compares.
fn reaches(pair: &Files, host: &str) -> Vec<String> {
    let log = std::fs::read_to_string(pair.lab.places().host(host).join("agent.log")).unwrap();
    let words = log.lines().filter(|line| line.contains("resynchronisation begins"));
    words.filter_map(|line| ["Whole", "Noted", "Logged"].into_iter().find(|word| line.contains(word))).map(str::to_owned).collect()
}

#[test]
fn nobody_writes_to_a_copy_that_is_not_served_unless_it_was_opened() {
    let _alone = alone();
    let pair = Files::start("t-hold", DISK_BYTES, |c| c).unwrap();
    pair.lab.sh("n1", &format!("for n in $(seq 200); do head -c 100000 /dev/urandom >{DIR}/file$n; done; sync")).unwrap();
    assert!(is_refused(&pair, "n2"), "the secondary's");
    pair.lab.sh("n2", &format!("tsugi stop {MODULE}")).unwrap();
    pair.wait_alone("n1").unwrap();
    assert!(is_refused(&pair, "n2"), "a stopped one's");
    // What changed meanwhile is what is compared.
    pair.lab.sh("n1", &format!("echo changed >{DIR}/file7; rm {DIR}/file8")).unwrap();
    pair.lab.sh("n2", &format!("tsugi start {MODULE} --no-wait")).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    pair.wait_equal("n1", "n2").unwrap();
    assert_eq!(reaches(&pair, "n1").last().map(String::as_str), Some("Noted"));

    // Somebody has something to do in there.
    let refused = pair.lab.sh("n2", &format!("tsugi rfs open -m {MODULE} 2>&1")).unwrap_err().to_string();
    assert!(refused.contains("stop it on this node first"), "{refused}");
    pair.lab.sh("n2", &format!("tsugi stop {MODULE} && tsugi rfs open -m {MODULE}")).unwrap();
    assert_eq!(written(&pair, "n2"), "written");
    pair.lab.sh("n2", &format!("echo other >{DIR}/file9")).unwrap();
    pair.lab.sh("n2", &format!("tsugi start {MODULE} --no-wait")).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    assert_eq!(reaches(&pair, "n1").last().map(String::as_str), Some("Whole"));
    pair.wait_equal("n1", "n2").unwrap();
    assert!(is_refused(&pair, "n2"));

    // From early boot on, before an agent runs.
    pair.lab.set_service("n2", "agent", false).unwrap();
    pair.lab.kill("n2").unwrap();
    pair.wait_alone("n1").unwrap();
    pair.lab.boot("n2").unwrap();
    assert!(is_refused(&pair, "n2"), "after a power failure");
    pair.lab.set_service("n2", "agent", true).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    assert_eq!(reaches(&pair, "n1").last().map(String::as_str), Some("Noted"));
    pair.wait_equal("n1", "n2").unwrap();
}

#[test]
fn after_a_swap_and_after_a_power_failure_of_the_primary_little_is_compared() {
    let _alone = alone();
    let pair = Files::start("t-swap", DISK_BYTES, |c| c).unwrap();
    pair.lab.sh("n1", &format!("for n in $(seq 100); do head -c 100000 /dev/urandom >{DIR}/file$n; done; sync")).unwrap();
    for (from, to) in [("n1", "n2"), ("n2", "n1")] {
        pair.api.action(CLUSTER, MODULE, "swap", None).unwrap();
        pair.wait_roles(to, from).unwrap();
        assert_eq!(reaches(&pair, to).last().map(String::as_str), Some("Noted"), "{from} to {to}");
        pair.lab.sh(to, &format!("date >{DIR}/after-{from}")).unwrap();
        pair.wait_equal(to, from).unwrap();
    }
    // Not flushed by anybody: the secondary has it, the disk of the primary does not.
    pair.lab.sh("n1", &format!("echo changed >{DIR}/file7; rm {DIR}/file8; mkdir {DIR}/new; date >{DIR}/new/file")).unwrap();
    pair.lab.kill("n1").unwrap();
    pair.wait_alone("n2").unwrap();
    pair.lab.sh("n2", &format!("date >{DIR}/alone")).unwrap();
    pair.lab.boot("n1").unwrap();
    pair.wait_roles("n2", "n1").unwrap();
    assert_eq!(reaches(&pair, "n2").last().map(String::as_str), Some("Logged"));
    pair.wait_equal("n2", "n1").unwrap();
    // The same again the other way round, and back.
    for (from, to) in [("n2", "n1"), ("n1", "n2")] {
        pair.lab.sh(from, &format!("date >{DIR}/file9")).unwrap();
        pair.lab.kill(from).unwrap();
        pair.wait_alone(to).unwrap();
        pair.lab.boot(from).unwrap();
        pair.wait_roles(to, from).unwrap();
        assert_eq!(reaches(&pair, to).last().map(String::as_str), Some("Logged"), "{from} to {to}");
        pair.wait_equal(to, from).unwrap();
    }
}
