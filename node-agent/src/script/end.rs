//! Ending processes, with proof: not "a signal was sent" but "none of them is there any more".
//!
//! What a module started is in its control group and ended there. Looking for processes by their environment and
//! their parents is for machines without control groups, and for what moved itself out of its group.

use crate::cgroup::{Ended, Group, Survivor};
use crate::procfs::{self, Process};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use tsugi_core::ids::{ModuleName, NodeName};

/// After SIGKILL a process is gone within milliseconds, unless it hangs in the kernel; then waiting longer is useless.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time a module's processes get between SIGTERM and SIGKILL.
const MODULE_GRACE: Duration = Duration::from_secs(3);
/// The stop script has asked already, twice: this is for what ends at this very moment.
const RUN_GRACE: Duration = Duration::from_secs(1);

/// When processes are looked for by the environment they were started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// Besides the control group: a former life of the agent may have had none, or another one.
    Too,
    /// Only where there is no control group: the module's checkers bear the marks, too, and are to go on.
    WithoutGroup,
}

/// Ends every process that scripts of `module` on `node` started and left behind: SIGTERM, 3 s, SIGKILL. What is in
/// its `group` is ended there, with nothing left to hide. What is frozen gets no SIGTERM.
///
/// Others are found by the environment they were started with (`TSUGI_MODULE`, `TSUGI_NODE`), and with them everything
/// below them. A process that overwrote its environment (some do, to show a title) *and* left its parents is not
/// found so. Processes of this very program (the data process) are never touched.
pub async fn kill_module(module: &ModuleName, node: &NodeName, group: Option<&Group>, by_marks: Marks) -> Ended {
    let mut ended = match group {
        Some(group) => group.end(MODULE_GRACE).await,
        None => Ended::default(),
    };
    if let Some(group) = group.filter(|g| g.is_freezing())
        && let Err(error) = group.thaw()
    {
        tracing::error!(module.name = %module, %error, "the control group of module {module} cannot be thawed: {error}");
    }
    if group.is_some() && by_marks == Marks::WithoutGroup {
        return told(module, ended);
    }
    let marks = [format!("TSUGI_MODULE={module}"), format!("TSUGI_NODE={node}")];
    ended = ended.and(
        end(MODULE_GRACE, move |all, known| {
            let own = own_program();
            let roots = all.iter().filter(|p| known.contains(&(p.pid, p.start)) || procfs::environment_has(p.pid, &marks));
            let mut found = procfs::with_descendants(all, &roots.map(|p| p.pid).collect());
            for pid in ancestors_of_self(all) {
                found.remove(&pid);
            }
            found.retain(|pid| own.is_none() || program(*pid) != own);
            found
        })
        .await,
    );
    told(module, ended)
}

fn told(module: &ModuleName, ended: Ended) -> Ended {
    if ended.killed > 0 || !ended.survivors.is_empty() {
        tracing::info!(module.name = %module, killed = ended.killed, survivors = ?ended.survivors, "processes left behind by scripts were ended");
    }
    ended
}

/// Ends what start scripts left running: SIGTERM, 1 s, SIGKILL. `scripts` are file names.
pub async fn end_runs(group: &Group, scripts: &[&str]) -> Ended {
    let mut ended = Ended::default();
    for run in group.runs_of(scripts) {
        ended = ended.and(run.end(RUN_GRACE).await);
    }
    group.sweep();
    ended
}

/// Ends a script whose time ran out where there is no control group: its process group, its session, and everything
/// below it.
pub(super) async fn end_script(pid: i32, grace: Duration) -> Ended {
    end(grace, move |all, known| {
        let roots = all.iter().filter(|p| p.pid == pid || p.pgrp == pid || p.session == pid || known.contains(&(p.pid, p.start)));
        procfs::with_descendants(all, &roots.map(|p| p.pid).collect())
    })
    .await
}

/// Number and start of a process: a number alone may be used again.
type Known = HashSet<(i32, u64)>;

/// Ends what `select` names, looking again until nothing is left: a process that forks meanwhile is found at the
/// next look. `select` gets everything that is there, and all it named before (whose parents may be gone by now).
async fn end(grace: Duration, select: impl Fn(&[Process], &Known) -> HashSet<i32> + Send + Sync + Clone + 'static) -> Ended {
    let begin = Instant::now();
    let mut known = Known::new();
    let mut asked = Known::new();
    loop {
        let (look, so_far) = (select.clone(), known.clone());
        let alive = tokio::task::spawn_blocking(move || {
            let all = procfs::all();
            let chosen = look(&all, &so_far);
            all.into_iter().filter(|p| chosen.contains(&p.pid) && !p.is_zombie).collect::<Vec<_>>()
        })
        .await
        .unwrap_or_default();
        known.extend(alive.iter().map(|p| (p.pid, p.start)));
        if alive.is_empty() {
            return Ended { killed: known.len(), survivors: Vec::new() };
        }
        if begin.elapsed() > grace + KILL_BOUND {
            let survivors: Vec<Survivor> = alive.iter().map(Survivor::of).collect();
            tracing::error!(?survivors, "processes survive SIGKILL: they hang in the kernel, and only a restart of the machine ends them");
            return Ended { killed: known.len() - survivors.len(), survivors };
        }
        let is_grace_over = begin.elapsed() >= grace;
        for process in &alive {
            let result = if is_grace_over {
                procfs::signal(process, libc::SIGKILL)
            } else if asked.insert((process.pid, process.start)) {
                // A stopped process notices SIGTERM only when it goes on.
                procfs::signal(process, libc::SIGTERM).and_then(|_| procfs::signal(process, libc::SIGCONT))
            } else {
                continue;
            };
            if let Err(error) = result {
                tracing::warn!(pid = process.pid, comm = process.comm, %error, "a process could not be signalled");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Device and inode of the program a process runs.
fn program(pid: i32) -> Option<(u64, u64)> {
    std::fs::metadata(format!("/proc/{pid}/exe")).ok().map(|m| (m.dev(), m.ino()))
}

fn own_program() -> Option<(u64, u64)> {
    program(i32::try_from(std::process::id()).ok()?)
}

/// This process and everything above it.
fn ancestors_of_self(all: &[Process]) -> HashSet<i32> {
    let mut found = HashSet::new();
    let mut at = i32::try_from(std::process::id()).ok();
    while let Some(pid) = at.filter(|pid| found.insert(*pid)) {
        at = all.iter().find(|p| p.pid == pid).map(|p| p.ppid);
    }
    found
}
