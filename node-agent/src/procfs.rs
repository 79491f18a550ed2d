//! Processes as `/proc` shows them, and signals that cannot hit a process number used again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One process, as read from `/proc/<pid>/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process number.
    pub pid: i32,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// Command name, at most 15 bytes.
    pub comm: String,
    /// Ended, and only waiting for its parent to notice.
    pub is_zombie: bool,
    /// When it started, in clock ticks since boot: with `pid` it names a process for good.
    pub start: u64,
}

/// Reads one process; `None` when it is gone.
pub fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &String::from_utf8_lossy(&stat))
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    // The name may hold spaces and brackets: it ends at the last one.
    let (begin, end) = (stat.find('(')?, stat.rfind(')')?);
    let comm = stat.get(begin + 1..end)?.to_owned();
    let fields: Vec<&str> = stat.get(end + 1..)?.split_whitespace().collect();
    Some(Process {
        pid,
        ppid: fields.get(1)?.parse().ok()?,
        pgrp: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        comm,
        is_zombie: matches!(*fields.first()?, "Z" | "X" | "x"),
        start: fields.get(19)?.parse().ok()?,
    })
}

/// It waits in the kernel and takes no signal, not even SIGKILL (state D).
pub fn is_uninterruptible(pid: i32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    String::from_utf8_lossy(&stat).rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
}

/// Every process that is there now, zombies included.
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(read).collect()
}

/// The command line, words separated by spaces; empty for kernel threads and processes that are gone.
pub fn command_line(pid: i32) -> String {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " ")
}

/// The environment the process was started with holds each of `wanted` (`NAME=value`).
pub fn environment_has(pid: i32, wanted: &[String]) -> bool {
    let Ok(raw) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    let entries: HashSet<&[u8]> = raw.split(|b| *b == 0).collect();
    wanted.iter().all(|w| entries.contains(w.as_bytes()))
}

/// `roots` and everything below them in `among`.
pub fn with_descendants(among: &[Process], roots: &HashSet<i32>) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in among {
        children.entry(process.ppid).or_default().push(process.pid);
    }
    let mut found = roots.clone();
    let mut open: Vec<i32> = roots.iter().copied().collect();
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// A descriptor that stands for this very process, and becomes readable when it ends. `None` when it is gone.
pub fn open_pidfd(process: &Process) -> io::Result<Option<OwnedFd>> {
    // SAFETY: the call takes two integers and returns a new descriptor or an error.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, process.pid, 0) };
    if raw < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(raw).map_err(io::Error::other)?) };
    // Between reading the process and opening it the number may have been used again.
    Ok(read(process.pid).is_some_and(|now| now.start == process.start && !now.is_zombie).then_some(fd))
}

/// Sends `signal` to this very process. `false` when it is gone already.
pub fn signal(process: &Process, signal: i32) -> io::Result<bool> {
    let Some(fd) = open_pidfd(process)? else { return Ok(false) };
    // SAFETY: a valid descriptor, a signal number, no info block, no flags.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    if answer == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(error) }
}

/// The kernel's choice when memory runs out: this program after nearly everything else.
const OOM_SCORE: &str = "-900";

/// Asks the kernel to end nearly everything else before this process. Refused, that is logged.
pub fn protect_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::warn!(%error, "this process is not protected from the kernel's choice when memory runs out; it needs CAP_SYS_RESOURCE (root outside of containers)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 40 39 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 1 18446744073709551615";
        let process = parse(42, stat).unwrap();
        assert_eq!((process.comm.as_str(), process.ppid, process.pgrp, process.session, process.start), ("a) b (c)", 1, 40, 39, 777));
    }

    #[test]
    fn a_process_is_found_and_a_signal_reaches_only_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = read(pid).unwrap();
        assert!(all().iter().any(|p| p.pid == pid));
        let impostor = Process { start: process.start + 1, ..process.clone() };
        assert!(!signal(&impostor, libc::SIGKILL).unwrap());
        assert!(signal(&process, libc::SIGKILL).unwrap());
        child.wait().unwrap();
        assert!(!signal(&process, libc::SIGKILL).unwrap());
    }
}
