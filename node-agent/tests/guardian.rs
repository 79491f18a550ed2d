//! The guard as a process, with an agent that is killed or stopped, in a network namespace of its own.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tsugi_agent::cgroup::{Cgroups, Group};
use tsugi_agent::clock::boottime_ns;
use tsugi_agent::guard::{Act, Address, Described, Guard, Right};
use tsugi_agent::procfs;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::Limits;

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the pretended agent is entitled to serve, from the moment it says so.
const RIGHT: Duration = Duration::from_millis(2500);
const VIP: &str = "10.9.9.9";
const DIR: &str = "TSUGI_TEST_AGENT_DIR";
const WHAT: &str = "TSUGI_TEST_AGENT_RIGHT";

fn group_of(dir: &Path) -> Group {
    let groups = Cgroups::open(&NodeName::new("n1").unwrap(), dir);
    groups.group(&ModuleName::new("m").unwrap(), &Limits::default()).unwrap().expect("this test needs mounted control groups")
}

async fn guard_in(dir: &Path) -> (Arc<Guard>, mpsc::Receiver<tsugi_agent::guard::Note>) {
    let (to, notes) = mpsc::channel(64);
    let guard = Guard::start(Path::new(env!("CARGO_BIN_EXE_tsugi-agent")), dir, dir, None, to).await.unwrap();
    let begin = Instant::now();
    while !guard.is_running() {
        assert!(begin.elapsed() < PATIENCE, "the guard does not go its rounds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (guard, notes)
}

/// Not a test by itself: the agent of the tests below, run as a process of its own.
#[test]
fn plays_the_agent() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (guard, _notes) = guard_in(&dir).await;
        let group = group_of(&dir);
        let kept = guard
            .keep(Described {
                name: "m".into(),
                group: Some((group.version(), group.dir().display().to_string())),
                grace: Duration::from_secs(1),
                freeze_max: Duration::from_secs(30),
                lifetime: Duration::from_secs(4),
            })
            .await
            .unwrap();
        let until = boottime_ns() + u64::try_from(RIGHT.as_nanos()).unwrap();
        let is_alone = std::env::var(WHAT).unwrap() == "alone";
        kept.set_right(if is_alone { Right::Alone } else { Right::Until(until) });
        assert!(kept.keep_addresses(&[Address { addr: VIP.parse().unwrap(), prefix: 32, index: 1 }]).await);
        println!("\nguard {}\nuntil {until}", guard.pid().unwrap());
        std::future::pending::<()>().await;
    });
}

struct Bench {
    dir: tempfile::TempDir,
    group: Group,
    counter: Child,
    agent: Child,
    guard: i32,
    until_ns: u64,
}

impl Bench {
    /// In the network namespace of the calling thread.
    fn new(right: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let group = group_of(dir.path());
        let run = group.run("start_prim").unwrap();
        let mut counter = Command::new("bash");
        counter.args(["-c", "n=0; while :; do n=$((n+1)); echo $n > new; mv new count; done"]).current_dir(dir.path());
        // SAFETY: only writes to descriptors between fork and exec.
        unsafe { counter.pre_exec(run.way_in()) };
        let counter = counter.spawn().unwrap();
        let mut agent = Command::new(std::env::current_exe().unwrap());
        agent.args(["--exact", "plays_the_agent", "--nocapture"]).env(DIR, dir.path()).env(WHAT, right);
        let mut agent = agent.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
        let mut said = |word: &str| loop {
            let line = lines.next().expect("the agent says what it does").unwrap();
            if let Some(rest) = line.strip_prefix(word) {
                break rest.trim().parse::<u64>().unwrap();
            }
        };
        let guard = i32::try_from(said("guard")).unwrap();
        let until_ns = said("until");
        Bench { dir, group, counter, agent, guard, until_ns }
    }

    fn signal_agent(&self, signal: i32) {
        procfs::signal(&procfs::read(i32::try_from(self.agent.id()).unwrap()).unwrap(), signal).unwrap();
    }

    fn count(&self) -> u64 {
        std::fs::read_to_string(self.dir.path().join("count")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    fn counts_on(&self) -> bool {
        let before = self.count();
        let begin = Instant::now();
        while self.count() == before {
            if begin.elapsed() > Duration::from_millis(500) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits until both have happened; milliseconds after the deadline of the later one.
    fn wait_until_stopped(&self) -> i64 {
        let begin = Instant::now();
        while has_vip() || !self.group.is_frozen() {
            assert!(begin.elapsed() < PATIENCE, "vip {}, frozen {}", has_vip(), self.group.is_frozen());
            std::thread::sleep(Duration::from_millis(1));
        }
        (i64::try_from(boottime_ns()).unwrap() - i64::try_from(self.until_ns).unwrap()) / 1_000_000
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        if let Some(guard) = procfs::read(self.guard) {
            let _ = procfs::signal(&guard, libc::SIGKILL);
        }
        let _ = self.group.kill();
        let _ = self.counter.wait();
        let begin = Instant::now();
        while self.group.is_populated() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.group.remove();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn has_vip() -> bool {
    ip("-o address show dev lo").contains(VIP)
}

/// Runs in a thread with a network namespace of its own; what it starts is in there, too.
fn in_a_namespace(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: affects this thread only, which was made for it.
        let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(answer, 0, "these tests need root");
        ip("link set lo up");
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The agent ends or stops at once; the service goes on to the deadline, and not beyond.
fn acts_at_the_deadline(signal: i32) {
    in_a_namespace(move || {
        let bench = Bench::new("until");
        // The guard itself raises what the agent told it to keep.
        let begin = Instant::now();
        while !has_vip() {
            assert!(begin.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
        bench.signal_agent(signal);
        let left = || bench.until_ns.saturating_sub(boottime_ns());
        assert!(left() > 1_000_000_000, "the machine is too slow for this test");
        while left() > 300_000_000 {
            let is_there = has_vip() && bench.counts_on();
            assert!(is_there || left() < 300_000_000, "the service stopped {} ms before the deadline", left() / 1_000_000);
        }
        let late_ms = bench.wait_until_stopped();
        eprintln!("signal {signal}: address gone and group frozen {late_ms} ms after the deadline");
        assert!((0..500).contains(&late_ms), "{late_ms} ms after the deadline");
        assert!(!bench.counts_on());
        assert!(procfs::read(bench.guard).is_some_and(|p| !p.is_zombie));

        // The next agent ends this guard and is told what it did.
        bench.signal_agent(libc::SIGKILL);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (guard, mut notes) = guard_in(bench.dir.path()).await;
            assert!(procfs::read(bench.guard).is_none_or(|p| p.is_zombie));
            let note = tokio::time::timeout(PATIENCE, notes.recv()).await.unwrap().unwrap();
            assert_eq!((note.act, note.module.as_str()), (Act::Froze, "m"));
            assert!((0..500).contains(&note.value));
            let pid = guard.pid().unwrap();
            guard.end().await;
            assert!(procfs::read(pid).is_none_or(|p| p.is_zombie), "a guard ends with its agent's orderly end");
        });
    });
}

#[test]
fn a_killed_agent() {
    acts_at_the_deadline(libc::SIGKILL);
}

#[test]
fn a_stopped_agent() {
    acts_at_the_deadline(libc::SIGSTOP);
}

#[test]
fn alone_the_service_goes_on_without_its_agent() {
    in_a_namespace(|| {
        let bench = Bench::new("alone");
        bench.signal_agent(libc::SIGKILL);
        // Longer than the address lives without being renewed.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(6) {
            assert!(bench.counts_on() && !bench.group.is_freezing());
            assert!(begin.elapsed() < Duration::from_secs(1) || has_vip());
        }
        // With the guard gone as well, the kernel drops it.
        procfs::signal(&procfs::read(bench.guard).unwrap(), libc::SIGKILL).unwrap();
        let begin = Instant::now();
        while has_vip() {
            assert!(begin.elapsed() < PATIENCE, "an address that nobody renews is dropped by the kernel");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_guard_that_dies_or_stops_is_replaced() {
    in_a_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (guard, _notes) = guard_in(dir.path()).await;
            for signal in [libc::SIGKILL, libc::SIGSTOP] {
                let first = guard.pid().unwrap();
                procfs::signal(&procfs::read(first).unwrap(), signal).unwrap();
                let begin = Instant::now();
                while guard.pid() == Some(first) || !guard.is_running() {
                    assert!(begin.elapsed() < PATIENCE, "no other guard after signal {signal}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                eprintln!("after signal {signal}: another guard after {} ms", begin.elapsed().as_millis());
            }
            guard.end().await;
            assert!(guard.pid().is_none());
        });
    });
}
