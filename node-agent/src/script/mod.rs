//! Runs a module's scripts, and ends what they leave behind.
//!
//! A script gets a session, a control group and an environment of its own, nothing to read, and a file to write to.
//! Its end is the end of its own process: a daemon it leaves in the background goes on ([`kill_module`] and
//! [`end_runs`] end those). When its time runs out, everything it started is ended, and that nothing of it is left is
//! checked, not assumed.

mod end;
mod log;

pub use end::{Marks, end_runs, kill_module};
pub use log::{LOG_BYTES_MAX, LOGS_KEPT, keep as keep_logs, newest as newest_log};

use crate::cgroup::{Ended, Group, Run, Survivor};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tsugi_core::module::ScriptName;

/// Time a script gets between SIGTERM and SIGKILL when its time ran out.
const GRACE: Duration = Duration::from_secs(2);
/// A script just written may still be open in a child that another thread is starting; that takes microseconds.
const BUSY_TRIES: u32 = 25;
const BUSY_WAIT: Duration = Duration::from_millis(20);
/// After the tree is proved gone, its first process only has to be collected.
const COLLECT_BOUND: Duration = Duration::from_secs(1);
/// Exit code of a script that cannot be started, as shells have it.
const CANNOT_START: i32 = 126;
/// Search path of scripts: theirs must not depend on how the agent was started.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A script to run.
#[derive(Debug, Clone)]
pub struct ScriptCall {
    /// Which one; names the output file.
    pub script: ScriptName,
    /// Program. Absent = nothing to do, which is success.
    pub file: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment, besides `PATH`, `HOME` and `LANG`. `TSUGI_MODULE` and `TSUGI_NODE` mark what [`kill_module`] finds.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Longest run.
    pub timeout: Duration,
    /// Where the output file goes; made when absent.
    pub log_dir: PathBuf,
    /// Control group of the module; the run gets one of its own in it. Absent = the machine has none.
    pub group: Option<Group>,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptEnd {
    /// Exit code; `None` = killed, by time-out or by a signal. 126 = it could not be started.
    pub code: Option<i32>,
    /// How long it took.
    pub millis: u64,
    /// Last non-empty line of its output; or, in place of output, why it could not be run or ended.
    pub last_line: String,
    /// Its time ran out.
    pub timed_out: bool,
    /// Processes of a timed-out script that could not be killed. Empty = none of it is left.
    pub survivors: Vec<Survivor>,
}

/// Runs a script to its end. If the future is dropped, the script goes on by itself.
pub async fn run(call: ScriptCall) -> ScriptEnd {
    run_until(call, std::future::pending()).await
}

/// The same; when `cancelled` comes, its whole tree is ended as if its time had run out.
pub async fn run_until(call: ScriptCall, cancelled: impl Future<Output = ()>) -> ScriptEnd {
    let begin = Instant::now();
    let end = |code, last_line: String, timed_out, survivors| ScriptEnd {
        code,
        millis: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
        last_line,
        timed_out,
        survivors,
    };
    match check(&call.file) {
        Ok(true) => {}
        Ok(false) => return end(Some(0), String::new(), false, Vec::new()),
        Err(why) => {
            tracing::error!(script = call.script.file(), reason = why, "a script cannot be run");
            return end(Some(CANNOT_START), why, false, Vec::new());
        }
    }
    let group = call.group.as_ref().and_then(|group| match group.run(call.script.file()) {
        Ok(run) => Some(run),
        Err(error) => {
            tracing::error!(script = call.script.file(), %error, "no control group can be made for a script; what it starts is found by its environment only");
            None
        }
    });
    // A full disk must not keep an application from being stopped: without a file it runs all the same.
    let (log_path, output) = match log::create(&call.log_dir, call.script.file()) {
        Ok((path, file)) => (Some(path), Some(file)),
        Err(error) => {
            tracing::error!(dir = %call.log_dir.display(), %error, "no output file can be made for a script; its output is lost");
            (None, None)
        }
    };
    let mut child = None;
    // The start counts, too: a group that is frozen this very moment holds it up.
    let work = tokio::time::timeout(call.timeout, async {
        let child = child.insert(start(&call, output, group.as_ref()).await?);
        Ok::<_, String>(wait_measuring(child, log_path.as_deref()).await)
    });
    let finished = tokio::select! {
        finished = work => finished.ok(),
        () = cancelled => None,
    };
    let (code, timed_out, survivors) = match finished {
        Some(Ok(Ok(status))) => (status.code(), false, Vec::new()),
        Some(Ok(Err(error))) => {
            tracing::error!(script = call.script.file(), %error, "the end of a script could not be observed");
            (None, false, Vec::new())
        }
        Some(Err(why)) => {
            tracing::error!(script = call.script.file(), reason = why, "a script cannot be run");
            return end(Some(CANNOT_START), why, false, Vec::new());
        }
        None => {
            let pid = child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
            let ended = match (&group, pid) {
                (Some(run), _) => run.group().end(GRACE).await,
                (None, Some(pid)) => end::end_script(pid, GRACE).await,
                (None, None) => Ended::default(),
            };
            if let Some(child) = &mut child {
                let _ = tokio::time::timeout(COLLECT_BOUND, child.wait()).await;
            }
            (None, true, ended.survivors)
        }
    };
    let mut last_line = String::new();
    if let Some(path) = &log_path {
        let _ = log::shrink(path);
        last_line = log::last_line(path);
        log::keep(&call.log_dir);
    }
    if timed_out {
        tracing::warn!(script = call.script.file(), timeout = ?call.timeout, ?survivors, "a script ran out of time and was killed");
    }
    if let Err(why) = (Ended { killed: 0, survivors: survivors.clone() }).proof() {
        last_line = why;
    }
    if let Some(group) = &call.group {
        group.sweep();
    }
    end(code, last_line, timed_out, survivors)
}

/// Whether there is something to run; an error says what is wrong with it.
fn check(file: &Path) -> Result<bool, String> {
    let found = match std::fs::metadata(file) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
    };
    if !found.is_file() {
        return Err(format!("{} is not a file: put a script there, or remove it", file.display()));
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(format!("{} is not executable: `chmod +x` it, or deploy the module again", file.display()));
    }
    Ok(true)
}

async fn start(call: &ScriptCall, output: Option<std::fs::File>, group: Option<&Run>) -> Result<Child, String> {
    let stdio = || match output.as_ref().map(std::fs::File::try_clone) {
        Some(Ok(file)) => Stdio::from(file),
        Some(Err(_)) | None => Stdio::null(),
    };
    let mut command = Command::new(&call.file);
    command.args(&call.args).env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
    command.envs(&call.env).current_dir(&call.cwd).stdin(Stdio::null()).stdout(stdio()).stderr(stdio()).kill_on_drop(false);
    // SAFETY: `detach` makes only async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(detach) };
    if let Some(run) = group {
        // SAFETY: only writes to descriptors that `run` keeps open until the child has started.
        unsafe { command.pre_exec(run.way_in()) };
    }
    for attempt in 0.. {
        // Returns only when the child has called exec, which takes as long as its group is frozen.
        let started = tokio::task::spawn_blocking(move || (command.spawn(), command)).await;
        let (result, again) = started.map_err(|e| format!("{} cannot be started: {e}", call.file.display()))?;
        command = again;
        match result {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_TRIES => {
                tokio::time::sleep(BUSY_WAIT).await;
            }
            Err(error) => return Err(cannot_start(call, &error)),
        }
    }
    unreachable!("the last attempt returns")
}

fn cannot_start(call: &ScriptCall, error: &io::Error) -> String {
    let file = call.file.display();
    if !call.cwd.is_dir() {
        return format!("{file} cannot be started: its working directory {} is missing", call.cwd.display());
    }
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => format!("{file} cannot be started: its first line must name an interpreter, such as #!/bin/sh"),
        Some(libc::ENOENT) => format!("{file} cannot be started: the interpreter in its first line does not exist (line ends of Windows?)"),
        _ => format!("{file} cannot be started: {error}"),
    }
}

/// In the child, before the script: a session of its own, and none of the agent's protection from the kernel's
/// out-of-memory choice.
fn detach() -> io::Result<()> {
    // SAFETY: plain system calls on constants; the descriptor is closed where it was opened.
    unsafe {
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::umask(0o022);
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
    Ok(())
}

/// Waits for the end of the script's own process, keeping its output within bounds meanwhile.
async fn wait_measuring(child: &mut Child, log_path: Option<&Path>) -> io::Result<ExitStatus> {
    let mut pause = log::LOOK_SOON;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            () = tokio::time::sleep(pause) => {
                if let Some(path) = log_path {
                    pause = log::bound(path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
