//! Random operations on one file, each read checked; then the peer's file is the same.

use crate::{DISK_BYTES, alone, is_long, tool};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tsugi_tests::files::{DIR, Files};

/// Operations of one mix; the long run has more than 100,000 in all.
fn operations() -> u64 {
    if is_long() { 30_000 } else { 4_000 }
}

/// Name → configuration. The least size is one: fsx 0.3.2 takes a `posix_fallocate` of no bytes, which it would choose once in
/// 65,537, for a file system that cannot do it.
const MIXES: &[(&str, &str)] = &[
    (
        "everything",
        "flen = 1048576\n[opsize]\nmin = 1\nmax = 65536\n[weights]\nclose_open = 0.3\ninvalidate = 0.3\nmapread = 1\nmapwrite = 1\nread = 1\nwrite = 2\n\
         truncate = 0.5\nfsync = 0.3\nfdatasync = 0.3\nposix_fallocate = 0.3\npunch_hole = 0.5\nsendfile = 0.3\nposix_fadvise = 0.2\ncopy_file_range = 0.3\n",
    ),
    (
        "mapped",
        "flen = 262144\n[opsize]\nmax = 16384\n[weights]\nclose_open = 0.2\ninvalidate = 0.5\nmapread = 1\nmapwrite = 3\nread = 1\nwrite = 1\n\
         truncate = 0.5\nfsync = 0.5\npunch_hole = 0.5\n",
    ),
    (
        "large",
        "flen = 16777216\n[opsize]\nmin = 1\nmax = 1048576\n[weights]\nclose_open = 0.2\nmapread = 0.2\nmapwrite = 0.2\nread = 1\nwrite = 2\ntruncate = 0.2\n\
         fdatasync = 0.2\nposix_fallocate = 0.3\npunch_hole = 0.5\ncopy_file_range = 0.5\n",
    ),
    (
        "blocks",
        "flen = 1048576\n[opsize]\nmin = 512\nmax = 8192\nalign = 512\n[weights]\nclose_open = 0.5\nmapread = 0\nmapwrite = 0\nread = 1\nwrite = 4\n\
         truncate = 0.5\nfsync = 1\npunch_hole = 0.5\n",
    ),
];

/// Begins so many operations on `DIR/name`.
fn begin(pair: &Files, name: &str, config: &str, count: u64, seed: u64) -> Child {
    let place = pair.lab.path_in("n1", "/srv/host").unwrap();
    std::fs::write(place.join(format!("{name}.toml")), config).unwrap();
    let program = tool("fsx").display().to_string();
    let (file, config, count, seed) = (format!("{DIR}/{name}"), format!("/srv/host/{name}.toml"), count.to_string(), seed.to_string());
    let argv = [program.as_str(), "-f", &config, "-N", &count, "-S", &seed, "-P", "/srv/host", &file];
    let mut command = pair.lab.command("n1", &argv).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A line that does so many operations of every kind on a file.
pub fn everything(pair: &Files, name: &str, count: &str, seed: &str) -> String {
    let place = pair.lab.path_in("n1", "/srv/host").unwrap();
    std::fs::write(place.join(format!("{name}.toml")), MIXES[0].1).unwrap();
    format!("{} -f /srv/host/{name}.toml -N {count} -S {seed} -P /srv/host {DIR}/{name}", tool("fsx").display())
}

fn end(name: &str, child: Child) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned()).join("\n");
    let last = said.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(output.status.success(), "{name}: {}\n{last}", output.status);
}

#[test]
fn fsx_finds_nothing_and_the_peer_has_the_same_file() {
    let _alone = alone();
    let pair = Files::start("t-fsx", DISK_BYTES, |c| c).unwrap();
    for (seed, (name, config)) in MIXES.iter().enumerate() {
        let begun = Instant::now();
        end(name, begin(&pair, name, config, operations(), seed as u64 + 1));
        pair.wait_equal("n1", "n2").unwrap();
        println!("{name}: {} operations in {:.1} s", operations(), begun.elapsed().as_secs_f64());
    }
}

fn is_over(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

#[test]
fn fsx_goes_on_while_the_peer_dies_returns_and_is_brought_level() {
    let _alone = alone();
    let pair = Files::start("t-fsx-peer", DISK_BYTES, |c| c).unwrap();
    let count = operations() * 4;
    let mut all: Vec<_> =
        MIXES.iter().enumerate().map(|(seed, (name, config))| (name, begin(&pair, name, config, count, seed as u64 + 11))).collect();
    let mut deaths = 0;
    while deaths < 2 && all.iter_mut().any(|(_, child)| !is_over(child)) {
        pair.lab.kill("n2").unwrap();
        pair.wait_alone("n1").unwrap();
        pair.lab.boot("n2").unwrap();
        pair.wait_roles("n1", "n2").unwrap();
        deaths += 1;
    }
    assert!(deaths > 0, "it was over before the peer died");
    for (name, child) in all {
        end(name, child);
    }
    pair.wait_equal("n1", "n2").unwrap();
}

/// The primary loses its power at some operation; what the secondary goes on with, and what the old primary becomes, is
/// one tree.
#[test]
fn after_the_primary_died_at_any_operation_both_have_the_survivors_files() {
    let _alone = alone();
    let pair = Files::start("t-fsx-prim", DISK_BYTES, |c| c).unwrap();
    let rounds = if is_long() { 6 } else { 2 };
    for round in 0..rounds {
        let all: Vec<_> = MIXES.iter().map(|(name, config)| begin(&pair, name, config, 1_000_000, 100 + round)).collect();
        // Some way into it: a level that depends on nothing but the work itself.
        let file = pair.raw("n2").unwrap().join(MIXES[0].0);
        wait_for_changes(&file, 20 + 17 * usize::try_from(round).unwrap());
        pair.lab.kill("n1").unwrap();
        for child in all {
            let _ = child.wait_with_output();
        }
        pair.wait_alone("n2").unwrap();
        let survivor = tsugi_tests::trees::read(&pair.raw("n2").unwrap()).unwrap();
        pair.lab.boot("n1").unwrap();
        pair.wait_roles("n2", "n1").unwrap();
        pair.wait_equal("n2", "n1").unwrap();
        let now = tsugi_tests::trees::read(&pair.raw("n2").unwrap()).unwrap();
        assert_eq!(tsugi_tests::trees::differences(&survivor, &now), Vec::<String>::new(), "the survivor's files were changed");
        pair.api.action(tsugi_tests::setup::CLUSTER, tsugi_tests::files::MODULE, "swap", None).unwrap();
        pair.wait_roles("n1", "n2").unwrap();
    }
}

/// Waits until a file was seen changed so many times.
fn wait_for_changes(file: &Path, count: usize) {
    use std::os::unix::fs::MetadataExt;
    let begun = Instant::now();
    let (mut last, mut seen) = (None, 0);
    while seen < count {
        let now = std::fs::metadata(file).ok().map(|m| (m.ctime(), m.ctime_nsec()));
        if now != last {
            (last, seen) = (now, seen + 1);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{} changed {seen} times", file.display());
        std::thread::yield_now();
    }
}
