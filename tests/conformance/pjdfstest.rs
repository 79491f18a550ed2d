//! The field's test suite for POSIX file systems: the same result on the mount as on the disk below it.

use crate::{DISK_BYTES, alone, tool};
use std::collections::BTreeMap;
use tsugi_tests::files::{DIR, Files, NATIVE};

/// Tests that may have another result on the mount, and why.
const DIFFERS: &[(&str, &str)] =
    &[("link::link_count_max", "the kernel does not say how many links a file on a FUSE mount may have: skipped, not failed")];

/// Outcome of each test by its name.
fn run(pair: &Files, dir: &str) -> BTreeMap<String, String> {
    let program = tool("pjdfstest");
    let config = "/srv/host/pjdfstest.toml";
    let text = "[features]\\nposix_fallocate = {}\\n[settings]\\nnaptime = 0.01\\nallow_remount = false\\n\
                [dummy_auth]\\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\\n";
    let sub = format!("{dir}/pjdfstest");
    let line = format!(
        "printf '{text}' >{config} && mkdir -p {sub} && chmod 755 {sub} && cd {sub} && {} -c {config} -p {sub} 2>&1; rm -rf {sub}",
        program.display()
    );
    let output = pair.lab.sh("n1", &line).unwrap();
    let mut outcomes = BTreeMap::new();
    for line in output.lines() {
        // A line is: name, blanks or tabs, outcome; what a failure says follows on lines of its own.
        let mut words = line.split_whitespace();
        let (Some(name), Some(outcome)) = (words.next(), words.next()) else { continue };
        if name.contains("::") && ["ok", "FAILED", "skipped"].contains(&outcome.trim_end_matches(':')) {
            outcomes.insert(name.to_owned(), outcome.trim_end_matches(':').to_owned());
        }
    }
    assert!(outcomes.len() > 350, "only {} outcomes in:\n{output}", outcomes.len());
    let failed = outcomes.values().filter(|o| *o == "FAILED").count();
    let skipped = outcomes.values().filter(|o| *o == "skipped").count();
    println!("{dir}: {} tests, {failed} failed, {skipped} skipped", outcomes.len());
    if failed > 0 {
        println!("{}", output.lines().skip_while(|l| !l.contains("FAILED")).take(60).collect::<Vec<_>>().join("\n"));
    }
    outcomes
}

#[test]
fn pjdfstest_says_the_same_of_the_mount_as_of_the_disk() {
    let _alone = alone();
    same_outcomes(&Files::start("t-pjd", DISK_BYTES, |c| c).unwrap());
}

#[test]
fn pjdfstest_says_the_same_when_requests_come_over_the_device() {
    let _alone = alone();
    let pair = Files::start_over_device("t-pjd-dev", DISK_BYTES).unwrap();
    assert!(!pair.is_over_io_uring("n1").unwrap());
    same_outcomes(&pair);
}

fn same_outcomes(pair: &Files) {
    let (disk, mount) = (run(pair, NATIVE), run(pair, DIR));
    let differs: Vec<_> = disk
        .iter()
        .filter(|(name, outcome)| mount.get(*name) != Some(outcome) && !DIFFERS.iter().any(|(d, _)| d == name))
        .map(|(name, outcome)| format!("{name}: {outcome} on the disk, {} on the mount", mount.get(name).map_or("nothing", |o| o)))
        .collect();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
    pair.wait_equal("n1", "n2").unwrap();
}
