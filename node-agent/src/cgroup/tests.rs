//! Real groups of both versions, as far as this machine has them.

use super::*;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    dir: TempDir,
    group: Group,
}

impl Bench {
    fn new(mounts: Mounts, limits: &Limits) -> Option<Bench> {
        let dir = tempfile::tempdir().unwrap();
        let groups = Cgroups::within(mounts, &NodeName::new("n1").unwrap(), dir.path());
        let group = groups.group(&ModuleName::new("m").unwrap(), limits).unwrap()?;
        Some(Bench { dir, group })
    }

    /// A bench for each version; both are mounted where these tests are made.
    fn each() -> Vec<Bench> {
        let limits = Limits::default();
        let found: Vec<Bench> = [Mounts::find(), Mounts::find_v1()].into_iter().filter_map(|m| Bench::new(m, &limits)).collect();
        assert!(!found.is_empty(), "these tests need root and mounted control groups");
        found
    }

    /// Runs a shell line in a group of its own; its working directory is the bench's.
    fn run(&self, script: &str, line: &str) -> (Group, std::process::Child) {
        let run = self.group.run(script).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(self.dir.path()).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
        // SAFETY: only writes to descriptors between fork and exec.
        unsafe { command.pre_exec(run.way_in()) };
        (run.group().clone(), command.spawn().unwrap())
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir.path().join(file)).ok()?.trim().parse().ok()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.group.kill();
        wait("the group is empty", || !self.group.is_populated());
        self.group.remove();
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon by the book: forked twice, in a session of its own, under a new parent, with an empty environment.
const DAEMON: &str =
    "setsid env -i /bin/bash -c 'cd \"$0\"; (trap \"\" TERM; echo $BASHPID > daemon; exec -a other /bin/sleep 1000) & exit' \"$PWD\" &";

#[tokio::test]
async fn a_daemon_that_hides_from_parents_and_environment_is_ended() {
    for bench in Bench::each() {
        let (run, mut child) = bench.run("start_prim", DAEMON);
        child.wait().unwrap();
        wait("the daemon runs", || bench.number("daemon").is_some());
        let pid = i32::try_from(bench.number("daemon").unwrap()).unwrap();
        wait("its environment is empty", || {
            procfs::command_line(pid).starts_with("other") && !procfs::environment_has(pid, &["PWD=".into()])
        });
        assert!(run.is_populated() && bench.group.is_populated() && run.processes().contains(&pid));
        assert_eq!(bench.group.runs_of(&["start_prim"]).len(), 1);
        assert!(bench.group.runs_of(&["start_both"]).is_empty());

        let ended = bench.group.end(Duration::from_millis(100)).await;
        assert!(ended.killed >= 1 && ended.proof().is_ok(), "{ended:?}");
        assert!(!bench.group.is_populated() && bench.group.processes().is_empty());
        assert!(procfs::read(pid).is_none_or(|p| p.is_zombie), "{:?}", bench.group.version());
        assert_eq!(bench.group.end(Duration::ZERO).await, Ended::default());
        assert!(!run.dir().exists(), "the group of the run is swept away");
    }
}

#[tokio::test]
async fn what_ends_by_itself_gets_its_grace() {
    for bench in Bench::each() {
        let (run, mut child) = bench.run("start_prim", "trap 'echo 1 > bye; exit' TERM; echo 1 > ready; while :; do sleep 0.01; done");
        wait("it is ready", || bench.number("ready").is_some());
        let begin = Instant::now();
        assert!(run.end(PATIENCE).await.proof().is_ok());
        child.wait().unwrap();
        assert!(bench.number("bye").is_some() && begin.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn a_frozen_counter_stands_still_and_goes_on() {
    for bench in Bench::each() {
        let counter = "n=0; while :; do n=$((n+1)); echo $n > new; mv new count; done";
        let (_, mut child) = bench.run("start_prim", counter);
        wait("it counts", || bench.number("count") > Some(3));
        bench.group.freeze().unwrap();
        wait("it is frozen", || bench.group.is_frozen());
        let before = bench.number("count");
        std::thread::sleep(Duration::from_millis(200)); // time in which it would count on
        assert_eq!(bench.number("count"), before);
        assert!(bench.group.is_freezing());
        bench.group.thaw().unwrap();
        wait("it counts on", || bench.number("count") > before);
        assert!(!bench.group.is_freezing() && !bench.group.is_frozen());

        // And what is frozen is ended without being woken up first.
        bench.group.freeze().unwrap();
        wait("it is frozen again", || bench.group.is_frozen());
        assert!(bench.group.end(PATIENCE).await.proof().is_ok());
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_bound_and_is_ended() {
    const BOUND: u32 = 40;
    let limits = Limits { pids_max: Some(BOUND), ..Limits::default() };
    for mounts in [Mounts::find(), Mounts::find_v1()] {
        let Some(bench) = Bench::new(mounts, &limits) else { continue };
        let (run, mut child) = bench.run("start_prim", "b() { b | b & }; b; b; b; exec sleep 1000");
        wait("it fills its bound", || run.processes().len() >= BOUND as usize / 2);
        for _ in 0..50 {
            assert!(run.processes().len() <= BOUND as usize);
        }
        let ended = bench.group.end(Duration::ZERO).await;
        assert!(ended.proof().is_ok() && !bench.group.is_populated(), "{ended:?}");
        child.wait().unwrap();
    }
}

#[test]
fn limits_arrive_in_the_kernel_and_go_again() {
    let limits = Limits { memory_bytes_max: Some(64 << 20), pids_max: Some(50), cpu_weight: Some(50) };
    let bench = Bench::new(Mounts::find_v1(), &limits).expect("version 1 is mounted");
    let read = |controller: &str, file: &str| {
        let place = bench.group.joined.iter().find(|p| p.to_string_lossy().contains(&format!("/{controller}")))?;
        fs::read_to_string(place.join(file)).ok().map(|t| t.trim().to_owned())
    };
    assert_eq!(read("pids", "pids.max").as_deref(), Some("50"));
    assert_eq!(read("memory", "memory.limit_in_bytes"), Some((64 << 20).to_string()));
    assert_eq!(read("cpu", "cpu.shares").as_deref(), Some("512"));

    // One process that takes more memory than all may have: it is ended, not the machine's.
    let (_, mut child) = bench.run("start_prim", "exec tail /dev/zero");
    let status = child.wait().unwrap();
    assert!(!status.success(), "{status}");

    let groups = Cgroups::within(Mounts::find_v1(), &NodeName::new("n1").unwrap(), bench.dir.path());
    groups.group(&ModuleName::new("m").unwrap(), &Limits::default()).unwrap();
    assert_eq!(read("pids", "pids.max"), Some(pids_default().to_string()));
    assert_eq!(read("cpu", "cpu.shares").as_deref(), Some("1024"));
    assert!(read("memory", "memory.limit_in_bytes").unwrap().len() > 15, "no limit");
}

#[test]
fn agents_on_one_kernel_do_not_meet() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let of = |node: &str, dir: &TempDir| Cgroups::within(Mounts::default(), &NodeName::new(node).unwrap(), dir.path()).agent;
    assert_eq!(of("n1", &a), of("n1", &a));
    assert!(of("n1", &a) != of("n1", &b) && of("n1", &a) != of("n2", &a));
    let none = Cgroups::within(Mounts::default(), &NodeName::new("n1").unwrap(), a.path());
    assert!(none.group(&ModuleName::new("m").unwrap(), &Limits::default()).unwrap().is_none());
}

#[test]
fn a_survivor_is_named() {
    let survivor = Survivor { pid: 12, comm: "postgres".into(), is_uninterruptible: true };
    let ended = Ended { killed: 0, survivors: vec![survivor.clone()] };
    let text = ended.clone().and(ended).proof().unwrap_err();
    assert_eq!(text, "12 (postgres, state D) cannot be killed, they hang in the kernel: restart this machine");
}
