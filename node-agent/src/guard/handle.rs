//! The agent's side of the guard: start it, keep it running, say what holds.

use super::errand::{self, Note};
use super::process::{NOTES, TABLE_FD, WATCHDOG, WATCHDOG_SECONDS};
use super::table::{Address, Described, Right, Slot, Table};
use crate::clock::boottime_ns;
use crate::kept::ProcessName;
use crate::procfs::{self, Process};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often the agent says that it lives, and looks for notes.
const BEAT: Duration = Duration::from_millis(250);
/// A guard that has not gone round for this long is of no use.
const ROUND_MAX: Duration = Duration::from_secs(1);
/// The guard's work on one slot takes microseconds; longer, and it is stopped or stuck.
const BUSY_MAX: Duration = Duration::from_millis(300);
/// A killed process is gone by then, unless it hangs in the kernel.
const DEATH_MAX: Duration = Duration::from_secs(5);
/// Before a guard that ended is started again: at once, then not in a tight loop.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

/// The watchdog an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogWish {
    /// Device.
    pub device: PathBuf,
    /// Time without petting after which the machine restarts.
    pub timeout: Duration,
}

/// The guard of this node.
pub struct Guard {
    table: Table,
    taken: Mutex<[bool; super::table::SLOTS]>,
    /// 0 = none runs.
    pid: AtomicI32,
    start: AtomicU64,
    is_ending: AtomicBool,
    exe: PathBuf,
    notes: PathBuf,
    note_file: PathBuf,
    watchdog: Option<WatchdogWish>,
}

impl Guard {
    /// Ends the guard of an earlier agent, whose notes come first, and starts one. When none can be started, that is
    /// logged and tried again; [`Guard::is_running`] tells.
    pub async fn start(
        exe: &Path,
        state_dir: &Path,
        run_dir: &Path,
        watchdog: Option<WatchdogWish>,
        to_agent: mpsc::Sender<Note>,
    ) -> anyhow::Result<Arc<Guard>> {
        let note_file = run_dir.join("guard.pid");
        let former = note_file.clone();
        tokio::task::spawn_blocking(move || end_former(&former)).await.context("the clean-up panicked")??;
        let guard = Arc::new(Guard {
            table: Table::create().context("cannot make the table that agent and guard share")?,
            taken: Mutex::new([false; super::table::SLOTS]),
            pid: AtomicI32::new(0),
            start: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
            exe: exe.to_owned(),
            notes: state_dir.join("guard.notes"),
            note_file,
            watchdog,
        });
        tokio::spawn(supervise(guard.clone()));
        tokio::spawn(beat(guard.clone(), to_agent));
        Ok(guard)
    }

    /// It goes its rounds.
    pub fn is_running(&self) -> bool {
        let age = boottime_ns().saturating_sub(self.table.head.guard_ns());
        self.pid.load(Ordering::SeqCst) != 0 && u128::from(age) < ROUND_MAX.as_nanos()
    }

    /// Number of its process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|pid| *pid != 0)
    }

    /// The same, named for good.
    pub fn name(&self) -> Option<ProcessName> {
        self.pid().map(|pid| ProcessName { pid, start: self.start.load(Ordering::SeqCst) })
    }

    /// A place for a module; `None` when all are taken.
    pub async fn keep(self: &Arc<Self>, what: Described) -> Option<Kept> {
        let number = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let number = taken.iter().position(|t| !t)?;
            taken[number] = true;
            number
        };
        let kept = Kept(Arc::new(Place { guard: self.clone(), number }));
        kept.slot().unpublish();
        kept.settle().await;
        kept.slot().publish(&what);
        Some(kept)
    }

    /// The agent ends in order: the guard ends, too.
    pub async fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.table.head.end();
        let begin = Instant::now();
        while self.pid().is_some() && begin.elapsed() < ROUND_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.kill();
        let _ = std::fs::remove_file(&self.note_file);
    }

    fn kill(&self) {
        if let Some(process) = self.pid().and_then(procfs::read) {
            let _ = procfs::signal(&process, libc::SIGKILL);
        }
    }

    fn spawn(&self) -> std::io::Result<tokio::process::Child> {
        let table = self.table.fd();
        let mut command = tokio::process::Command::new(&self.exe);
        command.arg("guard").env(TABLE_FD, table.to_string()).env(NOTES, &self.notes);
        if let Some(watchdog) = &self.watchdog {
            command.env(WATCHDOG, &watchdog.device).env(WATCHDOG_SECONDS, watchdog.timeout.as_secs().to_string());
        }
        command.stdin(std::process::Stdio::null()).kill_on_drop(false);
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // A session of its own: what ends the agent's must not end the guard.
                if libc::setsid() < 0 || libc::fcntl(table, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn()
    }
}

/// Keeps a guard running for as long as the agent does.
async fn supervise(guard: Arc<Guard>) {
    let mut pause = AGAIN_AFTER;
    while !guard.is_ending.load(Ordering::SeqCst) {
        // What a former one was doing it does no more.
        guard.table.slots.iter().for_each(|slot| slot.set_busy(false));
        let begin = Instant::now();
        match guard.spawn() {
            Ok(mut child) => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
                let start = procfs::read(pid).map_or(0, |p| p.start);
                guard.start.store(start, Ordering::SeqCst);
                guard.pid.store(pid, Ordering::SeqCst);
                if let Err(error) = std::fs::write(&guard.note_file, format!("{pid} {start}")) {
                    tracing::warn!(file = %guard.note_file.display(), %error, "the guard's number cannot be written down");
                }
                let status = loop {
                    tokio::select! {
                        status = child.wait() => break status,
                        () = tokio::time::sleep(ROUND_MAX) => {
                            if begin.elapsed() > ROUND_MAX * 2 && !guard.is_running() {
                                tracing::error!("the guard does not go its rounds; another one is started");
                                guard.kill();
                            }
                        }
                    }
                };
                guard.pid.store(0, Ordering::SeqCst);
                if !guard.is_ending.load(Ordering::SeqCst) {
                    tracing::error!(?status, "the guard ended; another one is started");
                }
            }
            Err(error) => {
                tracing::error!(program = %guard.exe.display(), %error, "the guard cannot be started: the agent keeps the addresses itself, and nobody freezes modules should it die");
            }
        }
        // One that ran for a while did not fail at its start.
        pause = if begin.elapsed() > AGAIN_AFTER_MAX { AGAIN_AFTER } else { (pause * 2).min(AGAIN_AFTER_MAX) };
        if !guard.is_ending.load(Ordering::SeqCst) {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Says that the agent lives, and hears what the guard has to say.
async fn beat(guard: Arc<Guard>, to_agent: mpsc::Sender<Note>) {
    loop {
        guard.table.head.beat();
        match errand::take_notes(&guard.notes) {
            Ok(notes) => {
                for note in notes {
                    if to_agent.send(note).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(file = %guard.notes.display(), %error, "the guard's notes cannot be read"),
        }
        if guard.is_ending.load(Ordering::SeqCst) {
            return;
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// A guard that outlived its agent has done its work when a new agent is there.
fn end_former(note_file: &Path) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(note_file) else { return Ok(()) };
    let mut numbers = text.split_whitespace();
    let pid = numbers.next().and_then(|n| n.parse::<i32>().ok());
    let start = numbers.next().and_then(|n| n.parse::<u64>().ok());
    let is_it = |p: &Process| Some(p.start) == start && !p.is_zombie;
    if let Some(process) = pid.and_then(procfs::read).filter(is_it) {
        tracing::info!(pid = process.pid, "ending the guard of an earlier agent");
        procfs::signal(&process, libc::SIGKILL).context("the guard of an earlier agent cannot be ended")?;
        let begin = Instant::now();
        // It is this process's child if that has put a new program in its own place.
        // SAFETY: a plain call; that it is none is no error.
        while unsafe { libc::waitpid(process.pid, std::ptr::null_mut(), libc::WNOHANG) } <= 0
            && procfs::read(process.pid).is_some_and(|p| is_it(&p))
        {
            if begin.elapsed() > DEATH_MAX {
                bail!("the guard {} of an earlier agent does not end; restart this node", process.pid);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let _ = std::fs::remove_file(note_file);
    Ok(())
}

struct Place {
    guard: Arc<Guard>,
    number: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guard.table.slots[self.number].unpublish();
        self.guard.taken.lock().unwrap_or_else(PoisonError::into_inner)[self.number] = false;
    }
}

/// The guard's care for one module; clones are the same. Ends with the last one.
#[derive(Clone)]
pub struct Kept(Arc<Place>);

impl Kept {
    fn slot(&self) -> &Slot {
        &self.0.guard.table.slots[self.0.number]
    }

    /// Somebody else than this process acts when it cannot.
    pub fn is_guarded(&self) -> bool {
        self.0.guard.is_running()
    }

    /// What the module is entitled to from now on. One store.
    pub fn set_right(&self, right: Right) {
        self.slot().set_right(right);
    }

    /// When it returns, the guard has seen everything that was said before, and is doing nothing that rests on what
    /// held earlier. A guard that does not come to that is ended; a new one starts by itself.
    pub async fn settle(&self) {
        let begin = Instant::now();
        while self.slot().is_busy() {
            if begin.elapsed() > BUSY_MAX {
                tracing::error!("the guard is stuck; it is ended and another one started");
                self.0.guard.kill();
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// These addresses are up and are to be kept alive. Returns whether there was room for all.
    pub async fn keep_addresses(&self, all: &[Address]) -> bool {
        self.forget_addresses().await;
        self.slot().keep_addresses(all) == all.len()
    }

    /// None is to be kept; when it returns, none will be renewed again.
    pub async fn forget_addresses(&self) {
        self.slot().forget_addresses();
        self.settle().await;
    }

    /// The guard froze the module, and neither it nor the agent has undone that.
    pub fn is_frozen_by_guard(&self) -> bool {
        self.slot().acted().is_some()
    }

    /// The agent has undone it.
    pub fn thawed(&self) {
        self.slot().set_acted(None);
    }
}
