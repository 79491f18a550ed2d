//! The process itself: `tsugi-agent guard`, started by the agent only.

use super::errand;
use super::keeper::{Keeper, Next};
use super::table::Table;
use crate::clock::boottime_ns;
use crate::watchdog::{Device, Watchdog};
use anyhow::{Context, bail};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

/// Environment variable with the number of the inherited table.
pub const TABLE_FD: &str = "TSUGI_GUARD_TABLE_FD";
/// … with the file for its notes.
pub const NOTES: &str = "TSUGI_GUARD_NOTES";
/// … with the watchdog's device, if there is to be one.
pub const WATCHDOG: &str = "TSUGI_GUARD_WATCHDOG";
/// … and its time-out in seconds.
pub const WATCHDOG_SECONDS: &str = "TSUGI_GUARD_WATCHDOG_SECONDS";
/// Errands that may wait: a few of each of the modules.
const ERRANDS_MAX: usize = 256;
/// The other threads format lines and read small files.
const STACK_BYTES: usize = 256 * 1024;
/// Above everything that is not real-time; low among what is.
const PRIORITY: libc::c_int = 10;

/// Entry of `tsugi-agent guard`.
pub fn guard_main() -> anyhow::Result<()> {
    let number = std::env::var(TABLE_FD).with_context(|| format!("{TABLE_FD} is not set: only the agent starts the guard"))?;
    let fd: i32 = number.parse().with_context(|| format!("{TABLE_FD} is not a number"))?;
    // SAFETY: the agent left this descriptor open for us and nobody else in this process knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: plain call on a descriptor we own.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        bail!("{TABLE_FD} names no open descriptor");
    }
    let table = Table::map(fd).context("the agent's table cannot be used")?;
    let notes = PathBuf::from(std::env::var_os(NOTES).with_context(|| format!("{NOTES} is not set"))?);
    // SAFETY: plain call; a log nobody reads any more must not end the guard.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    crate::procfs::protect_from_oom();
    let (errands, todo) = mpsc::sync_channel(ERRANDS_MAX);
    let (to_disk, for_disk) = mpsc::sync_channel(ERRANDS_MAX);
    let shared = table.clone();
    let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    thread("notes").spawn(move || errand::write_notes(&for_disk, &notes)).context("the guard's thread for notes cannot be started")?;
    thread("errands").spawn(move || errand::run(&todo, &shared, &to_disk)).context("the guard's second thread cannot be started")?;
    let watchdog = armed()?;
    let mut keeper = Keeper::new(table, errands, watchdog, boottime_ns());
    // Once without effect on anybody's time: what the loop needs is in memory before it is locked.
    let first = keeper.round(boottime_ns());
    lock_memory();
    take_priority();
    tracing::info!("guard started");
    let mut next = first;
    while let Next::At(at) = next {
        sleep_until(at);
        next = keeper.round(boottime_ns());
    }
    tracing::info!("guard ends: there is nothing to keep any more");
    Ok(())
}

fn armed() -> anyhow::Result<Option<Box<dyn Watchdog>>> {
    let Some(path) = std::env::var_os(WATCHDOG).map(PathBuf::from) else { return Ok(None) };
    let seconds: u64 = std::env::var(WATCHDOG_SECONDS).ok().and_then(|s| s.parse().ok()).context("the watchdog's time-out is missing")?;
    match Device::arm(&path, Duration::from_secs(seconds)) {
        Ok((device, set)) => {
            tracing::warn!(device = %path.display(), timeout = ?set, "the watchdog is armed: this machine restarts if a module that may not serve cannot be stopped");
            Ok(Some(Box::new(device)))
        }
        Err(error) => {
            // The service goes on: the watchdog is one more protection, not a condition.
            tracing::error!(device = %path.display(), %error, "the watchdog cannot be armed; remedy: name a device that exists (modprobe softdog), or leave it out");
            Ok(None)
        }
    }
}

fn lock_memory() {
    // SAFETY: plain call on constants.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "the guard's memory cannot be locked: on a machine without free memory it may act late; remedy: LimitMEMLOCK=infinity");
    }
}

fn take_priority() {
    let parameter = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the structure lives for the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameter) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "the guard gets no real-time priority: on an overloaded machine it may act late");
    }
}

/// By the clock that counts suspend; a signal only makes it look earlier.
fn sleep_until(at_ns: u64) {
    let at = libc::timespec {
        tv_sec: libc::time_t::try_from(at_ns / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::try_from(at_ns % 1_000_000_000).unwrap_or(0),
    };
    // SAFETY: the structure lives for the call; no remainder is asked for.
    unsafe { libc::clock_nanosleep(libc::CLOCK_BOOTTIME, libc::TIMER_ABSTIME, &raw const at, std::ptr::null_mut()) };
}
