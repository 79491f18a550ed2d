//! Programs of a module that are no scripts: probes, custom checkers, handlers of processes.
//!
//! Each has a process group of its own, which ends with it: when its time is over or nobody waits for it any more.
//! What a handler starts is the application's, and lives in the module's control group like what a start script
//! started.

use super::Surroundings;
use super::report::Reporter;
use crate::cgroup::Run;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tsugi_core::module::ScriptName;
use tsugi_core::state::Health;

/// Of its output the end is kept, for people.
const TAIL_BYTES_MAX: usize = 4096;
/// Longest line shown.
const LINE_CHARS_MAX: usize = 300;
/// A program that has ended may have left others that hold its output open.
const DRAIN_MAX: Duration = Duration::from_millis(100);
/// A program just written may still be open in a child that another thread is starting.
const BUSY_TRIES: u32 = 25;
const BUSY_WAIT: Duration = Duration::from_millis(20);
/// Programs that wait to be started: a few of each of the modules. Starting one takes a millisecond.
const STARTS_MAX: usize = 256;
/// A custom checker that ends is started again: after 1 s, 2 s … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What is run.
#[derive(Debug, Clone)]
pub struct Program {
    /// A name in `bin`, or an absolute path.
    pub exec: String,
    /// Words behind it.
    pub args: Vec<String>,
    /// What it starts belongs to the application, and is ended with what this script starts: a handler. Absent: it ends
    /// with the agent.
    pub stands_for: Option<ScriptName>,
}

type Start = Box<dyn FnOnce() + Send>;

/// The thread that starts what is to end with the agent; it lives as long as the agent. The kernel sends the signal of
/// [`die_with_the_agent`] at the end of the *thread* that started a program, and threads of the runtime come and go.
fn starter() -> io::Result<&'static SyncSender<Start>> {
    static STARTER: OnceLock<SyncSender<Start>> = OnceLock::new();
    if let Some(starter) = STARTER.get() {
        return Ok(starter);
    }
    let (starts, todo) = sync_channel::<Start>(STARTS_MAX);
    // Of two that are made at the same time one has nobody to listen to, and ends before it has started anything.
    std::thread::Builder::new().name("checkers".into()).spawn(move || todo.iter().for_each(|start| start()))?;
    Ok(STARTER.get_or_init(|| starts))
}

/// In the child: an agent that is killed leaves no checkers behind that would speak to the next one.
fn die_with_the_agent() -> io::Result<()> {
    // SAFETY: a plain system call on constants.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A program that runs; dropping it kills its group.
struct Running {
    child: Child,
    output: Option<Receiver>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // As long as it is not collected its number, and with it the group's, cannot be used again.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: a plain system call on numbers.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
    }
}

impl Program {
    fn file(&self, bin: &Path) -> PathBuf {
        if self.exec.starts_with('/') { PathBuf::from(&self.exec) } else { bin.join(&self.exec) }
    }

    async fn start(&self, around: &Surroundings) -> Result<Running, String> {
        let file = self.file(&around.bin_dir);
        let refused = |error: &io::Error| match error.raw_os_error() {
            Some(libc::ENOENT) if !file.exists() => format!("there is no program {}", file.display()),
            Some(libc::ENOENT) => format!("{}: the interpreter in its first line does not exist", file.display()),
            Some(libc::EACCES) => format!("{} is not executable", file.display()),
            Some(libc::ENOEXEC) => format!("{}: its first line must name an interpreter, such as #!/bin/sh", file.display()),
            _ => format!("{} cannot be started: {error}", file.display()),
        };
        for attempt in 0.. {
            match self.spawn(&file, around).await {
                Ok(running) => return Ok(running),
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_TRIES => {
                    tokio::time::sleep(BUSY_WAIT).await;
                }
                Err(error) => return Err(refused(&error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn spawn(&self, file: &Path, around: &Surroundings) -> io::Result<Running> {
        let (read, write) = io::pipe()?;
        let mut command = Command::new(file);
        command.args(&self.args).env_clear().envs(&around.env).current_dir(&around.bin_dir);
        command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write).process_group(0).kill_on_drop(true);
        let run = self.stands_for.and_then(|script| self.run_of(script, around));
        if let Some(run) = &run {
            // SAFETY: only writes to descriptors that `run` keeps open until the child has started.
            unsafe { command.pre_exec(run.way_in()) };
        }
        if self.stands_for.is_none() {
            // Marks of the application would have it ended with the application.
            command.env_remove("TSUGI_NODE").env("TSUGI_CHECKER", "1");
            // SAFETY: one async-signal-safe system call on constants.
            unsafe { command.pre_exec(die_with_the_agent) };
        }
        let start = move || {
            let child = command.spawn();
            drop(run);
            Ok(Running { child: child?, output: Some(Receiver::from_owned_fd(OwnedFd::from(read))?) })
        };
        if self.stands_for.is_some() {
            // Returns only when the child has called exec, which takes as long as its group is frozen.
            return tokio::task::spawn_blocking(start).await.map_err(io::Error::other)?;
        }
        let (tx, started) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let start = Box::new(move || {
            let _inside = runtime.enter();
            if !tx.is_closed() {
                // Nobody waits any more: dropped, it is killed.
                let _ = tx.send(start());
            }
        });
        starter()?.try_send(start).map_err(|_| io::Error::other("too many programs wait to be started: one of them hangs in its start"))?;
        started.await.map_err(io::Error::other)?
    }

    /// A control group in the module's, as the script it stands for would get one.
    fn run_of(&self, script: ScriptName, around: &Surroundings) -> Option<Run> {
        match around.group.as_ref()?.run(script.file()) {
            Ok(run) => Some(run),
            Err(error) => {
                tracing::error!(module.name = %around.module, handler = self.exec, %error, "no control group can be made for a handler; what it starts is found by its environment only");
                None
            }
        }
    }

    /// Runs it to its end: exit code (`None`: by a signal) and last line of its output.
    pub async fn run(&self, around: &Surroundings, timeout: Duration) -> Result<(Option<i32>, String), String> {
        let (code, text) = self.output(around, timeout).await?;
        Ok((code, last_line(&text)))
    }

    /// As [`Program::run`], with the end of the output in whole lines.
    pub async fn output(&self, around: &Surroundings, timeout: Duration) -> Result<(Option<i32>, String), String> {
        // The start counts, too: a group that is frozen this very moment holds it up.
        let work = async { Ok::<_, String>(self.start(around).await?.wait_whole().await) };
        match tokio::time::timeout(timeout, work).await {
            Ok(end) => end?.map_err(|error| format!("{}: its end could not be observed: {error}", self.exec)),
            Err(_) => Err(format!("{}: not ended within {timeout:?}", self.exec)),
        }
    }

    /// `<exec>`: one test.
    pub async fn test(&self, around: &Surroundings, timeout: Duration) -> Result<String, String> {
        let (code, line) = self.run(around, timeout).await?;
        let said = if line.is_empty() { String::new() } else { format!(": {line}") };
        match code {
            Some(0) => Ok(format!("{}{said}", self.exec)),
            Some(code) => Err(format!("{} ended with {code}{said}", self.exec)),
            None => Err(format!("{} was killed{said}", self.exec)),
        }
    }

    /// `<custom>`: keeps it running for ever. It sets its resource itself.
    pub async fn keep(&self, reporter: Reporter, around: &Surroundings) {
        let mut pause = PAUSE_MIN;
        loop {
            let begin = Instant::now();
            let why = match self.start(around).await {
                Ok(mut running) => match running.wait_whole().await {
                    Ok((code, text)) => {
                        let line = last_line(&text);
                        let code = code.map_or("a signal".to_owned(), |c| c.to_string());
                        format!("{} ended with {code}{}{line}", self.exec, if line.is_empty() { "" } else { ": " })
                    }
                    Err(error) => format!("{}: its end could not be observed: {error}", self.exec),
                },
                Err(why) => why,
            };
            if begin.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            tracing::warn!(resource = reporter.name, "the custom checker {why}; it is started again in {pause:?}");
            // What nobody tests any more is not known.
            let detail = format!("{why}; started again in {pause:?}");
            if reporter.tell(reporter.name.clone(), Health::Init, detail).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Running {
    async fn wait_whole(&mut self) -> io::Result<(Option<i32>, String)> {
        let mut tail = Vec::new();
        let mut output = self.output.take();
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status?,
                is_open = read_some(&mut output, &mut tail) => if !is_open { output = None },
            }
        };
        if output.is_some() {
            // Whoever still holds the output is not waited for.
            let rest = async { while read_some(&mut output, &mut tail).await {} };
            let _ = tokio::time::timeout(DRAIN_MAX, rest).await;
        }
        Ok((status.code(), String::from_utf8_lossy(&tail).into_owned()))
    }
}

fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().trim();
    line.chars().take(LINE_CHARS_MAX).collect()
}

/// Reads a piece, keeping the end of everything. `false`: there is no more. Without output it never returns.
async fn read_some(output: &mut Option<Receiver>, tail: &mut Vec<u8>) -> bool {
    let Some(receiver) = output else { return std::future::pending().await };
    let mut buffer = [0; 4096];
    match receiver.read(&mut buffer).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            tail.extend_from_slice(&buffer[..n]);
            tail.drain(..tail.len().saturating_sub(TAIL_BYTES_MAX));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Board;
    use super::*;
    use tsugi_core::ids::ModuleName;

    #[test]
    fn a_checker_outlives_the_thread_that_asked_for_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let around = Surroundings {
            module: ModuleName::new("m").unwrap(),
            bin_dir: "/".into(),
            env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            handler_timeout: Duration::from_secs(10),
            systemctl: "/bin/false".into(),
            board: Board::default(),
            group: None,
        };
        let program = Program { exec: "/bin/sleep".into(), args: vec!["1000".into()], stands_for: None };
        let handle = runtime.handle().clone();
        let asking = std::thread::spawn(move || {
            // SAFETY: a plain system call.
            (handle.block_on(program.start(&around)).unwrap(), unsafe { libc::gettid() })
        });
        let (mut running, thread) = asking.join().unwrap();
        let begin = Instant::now();
        while Path::new(&format!("/proc/self/task/{thread}")).exists() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the thread ends");
            std::thread::yield_now();
        }
        let end = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(300), running.wait_whole()).await });
        assert!(end.is_err(), "it was ended with the thread: {end:?}");
    }
}
