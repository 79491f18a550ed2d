//! Ending a group, with proof: not "a signal was sent" but "nobody is in it any more".

use super::Group;
use crate::procfs::{self, Process};
use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

/// After SIGKILL a process is gone within milliseconds, unless it hangs in the kernel; then waiting longer is useless.
pub const KILL_BOUND: Duration = Duration::from_secs(5);
/// Time between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A process that even SIGKILL did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its number.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
    /// It waits in the kernel and takes no signal (state D).
    pub is_uninterruptible: bool,
}

impl Survivor {
    /// What a person needs to know of a process.
    pub fn of(process: &Process) -> Survivor {
        Survivor { pid: process.pid, comm: process.comm.clone(), is_uninterruptible: procfs::is_uninterruptible(process.pid) }
    }
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_uninterruptible { ", state D" } else { "" };
        write!(f, "{} ({}{state})", self.pid, self.comm)
    }
}

/// What became of the processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// Processes that were seen and are gone.
    pub killed: usize,
    /// Those that are still there. Empty = proof that all are gone.
    pub survivors: Vec<Survivor>,
}

impl Ended {
    /// Both together.
    pub fn and(mut self, other: Ended) -> Ended {
        self.killed += other.killed;
        self.survivors.extend(other.survivors.into_iter().filter(|o| self.survivors.iter().all(|s| s.pid != o.pid)).collect::<Vec<_>>());
        self
    }

    /// `Ok` = nothing is left; else who is, and what helps.
    pub fn proof(&self) -> Result<(), String> {
        if self.survivors.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = self.survivors.iter().map(ToString::to_string).collect();
        Err(format!("{} cannot be killed, they hang in the kernel: restart this machine", all.join(", ")))
    }
}

impl Group {
    /// Ends everything in the group: SIGTERM, `grace`, SIGKILL, then at most 5 s until nobody is left. A group that is
    /// frozen gets no grace: whoever was frozen has lost the right to go on, even for a clean-up.
    pub async fn end(&self, grace: Duration) -> Ended {
        let begin = Instant::now();
        let grace = if self.is_freezing() { Duration::ZERO } else { grace };
        let mut seen: HashSet<(i32, u64)> = HashSet::new();
        let mut asked: HashSet<(i32, u64)> = HashSet::new();
        while self.is_populated() {
            let group = self.clone();
            let alive = tokio::task::spawn_blocking(move || {
                group.processes().into_iter().filter_map(procfs::read).filter(|p| !p.is_zombie).collect::<Vec<_>>()
            });
            let alive = alive.await.unwrap_or_default();
            seen.extend(alive.iter().map(|p| (p.pid, p.start)));
            if begin.elapsed() > grace + KILL_BOUND {
                let survivors: Vec<Survivor> = alive.iter().map(Survivor::of).collect();
                tracing::error!(?survivors, group = %self.dir().display(), "processes survive SIGKILL: they hang in the kernel, and only a restart of the machine ends them");
                return Ended { killed: seen.len().saturating_sub(survivors.len()), survivors };
            }
            if begin.elapsed() >= grace {
                let group = self.clone();
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || group.kill()).await {
                    tracing::warn!(group = %self.dir().display(), %error, "a control group could not be killed at one stroke");
                }
            } else {
                for process in alive.iter().filter(|p| asked.insert((p.pid, p.start))) {
                    // A stopped process notices SIGTERM only when it goes on.
                    let sent = procfs::signal(process, libc::SIGTERM).and_then(|_| procfs::signal(process, libc::SIGCONT));
                    if let Err(error) = sent {
                        tracing::warn!(pid = process.pid, comm = process.comm, %error, "a process could not be signalled");
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.sweep();
        Ended { killed: seen.len(), survivors: Vec::new() }
    }
}
