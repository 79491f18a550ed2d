//! Cutting the other node's power, and believing it.
//!
//! | driver | called | confirmed by |
//! | --- | --- | --- |
//! | script | `SCRIPT off NODE` | exit code 0 |
//! | fence agent | `action=off`, then `action=status` until it says so, as lines on standard input with the options | `status` reads OFF (exit code 2) |
//!
//! An agent's own success is not believed: what counts is what the device says afterwards. Everything a driver writes
//! goes to `fence.ulog` beside the logs of the scripts.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::{Fence, FenceDriver};

/// Where the package `fence-agents` puts its programs.
const AGENT_DIRS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Pause between two looks at a device that still says ON.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Output kept of one run.
const OUTPUT_BYTES_MAX: u64 = 16 * 1024;
/// `fence.ulog` is begun anew at this size; the one before is kept.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// Exit code of `status` for a node without power, by the convention of fence agents.
const CODE_OFF: i32 = 2;

/// A way to cut the power of other nodes.
#[derive(Debug, Clone)]
pub(super) struct Fencer {
    pub(super) module: ModuleName,
    pub(super) me: NodeName,
    pub(super) fence: Fence,
    /// `bin/` of the module.
    pub(super) bin_dir: PathBuf,
    pub(super) log_dir: PathBuf,
}

/// How a program ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn last_line(&self) -> String {
        let line = self.err.lines().chain(self.out.lines()).rev().find(|l| !l.trim().is_empty());
        line.map_or_else(|| "it said nothing".to_owned(), |l| l.trim().to_owned())
    }
    /// What `status` said. The exit code of OFF is also that of arguments a program does not understand, so its words
    /// must not speak against it.
    fn is_off(&self) -> bool {
        let words = |word: &str| self.out.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w.eq_ignore_ascii_case(word));
        let (is_on, is_off) = (words("on"), words("off"));
        match self.code {
            Some(CODE_OFF) => is_off && !is_on || self.out.trim().is_empty() && self.err.trim().is_empty(),
            Some(0) => is_off && !is_on,
            _ => false,
        }
    }
}

impl Fencer {
    /// Cuts `node`'s power. `Ok` = confirmed; the text says why not.
    pub(super) async fn off(&self, node: &NodeName) -> Result<(), String> {
        let end = Instant::now() + self.fence.timeout;
        tracing::warn!(module.name = %self.module, node.name = %node, "fencing node {node} for module {}", self.module);
        let result = match &self.fence.driver {
            FenceDriver::Script(_) => match self.run("off", node, end).await? {
                Ran { code: Some(0), .. } => Ok(()),
                ran => Err(format!("the script did not confirm it (exit code {:?}): {}", ran.code, ran.last_line())),
            },
            FenceDriver::Agent(_) => self.off_by_agent(node, end).await,
        };
        match &result {
            Ok(()) => tracing::warn!(module.name = %self.module, node.name = %node, "node {node} has no power: confirmed"),
            Err(why) => tracing::error!(module.name = %self.module, node.name = %node, %why, "node {node} could not be fenced: {why}"),
        }
        result
    }

    async fn off_by_agent(&self, node: &NodeName, end: Instant) -> Result<(), String> {
        let ran = self.run("off", node, end).await?;
        if ran.code != Some(0) {
            return Err(format!("the agent failed (exit code {:?}): {}", ran.code, ran.last_line()));
        }
        loop {
            let status = self.run("status", node, end).await?;
            if status.is_off() {
                return Ok(());
            }
            if Instant::now() + LOOK_AGAIN >= end {
                return Err(format!("the device does not say that {node} is off: {}", status.last_line()));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether `node` could be fenced if need be: its device answers.
    pub(super) async fn is_ready(&self, node: &NodeName) -> bool {
        let end = Instant::now() + self.fence.timeout;
        match self.run("status", node, end).await {
            Ok(ran) if ran.code == Some(0) || ran.code == Some(CODE_OFF) => true,
            Ok(ran) => {
                tracing::warn!(module.name = %self.module, node.name = %node, "the fencing device of node {node} does not answer: {}", ran.last_line());
                false
            }
            Err(why) => {
                tracing::warn!(module.name = %self.module, node.name = %node, "the fencing device of node {node} does not answer: {why}");
                false
            }
        }
    }

    fn program(&self) -> Result<PathBuf, String> {
        let path = match &self.fence.driver {
            FenceDriver::Script(None) => self.bin_dir.join("fence"),
            FenceDriver::Script(Some(path)) => PathBuf::from(path),
            FenceDriver::Agent(name) if name.starts_with('/') => PathBuf::from(name),
            FenceDriver::Agent(name) => AGENT_DIRS
                .iter()
                .map(|dir| Path::new(dir).join(name))
                .find(|p| p.exists())
                .ok_or_else(|| format!("{name} is not installed on {} (package fence-agents)", self.me))?,
        };
        if path.exists() { Ok(path) } else { Err(format!("{} does not exist on {}", path.display(), self.me)) }
    }

    /// Lines for standard input: the options, for an agent also what is to be done.
    fn lines(&self, action: &str, node: &NodeName) -> String {
        let own = self.fence.options.iter().filter(|o| o.node.as_ref().is_none_or(|n| n == node));
        // What is said of this node goes before what is said of all.
        let mut options: BTreeMap<&str, (bool, &str)> = BTreeMap::new();
        for option in own {
            let slot = options.entry(&option.name).or_insert((option.node.is_some(), &option.value));
            if option.node.is_some() || !slot.0 {
                *slot = (option.node.is_some(), &option.value);
            }
        }
        let mut lines: String = options.iter().map(|(name, (_, value))| format!("{name}={value}\n")).collect();
        if matches!(self.fence.driver, FenceDriver::Agent(_)) {
            lines.push_str(&format!("action={action}\n"));
        }
        lines
    }

    async fn run(&self, action: &str, node: &NodeName, end: Instant) -> Result<Ran, String> {
        let program = self.program()?;
        let mut command = Command::new(&program);
        if let FenceDriver::Script(_) = self.fence.driver {
            command.args([action, node.as_str()]);
        }
        command
            .env_clear()
            .envs([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/root")])
            .envs([("TSUGI_MODULE", self.module.as_str()), ("TSUGI_NODE", self.me.as_str())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| format!("{} cannot be started: {e}", program.display()))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let lines = self.lines(action, node);
        let work = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A program that reads nothing is none of our business.
                    let _ = stdin.write_all(lines.as_bytes()).await;
                }
            };
            let ((), out, err, status) = tokio::join!(write, take(out), take(err), child.wait());
            (out, err, status)
        };
        let ran = match timeout_at(end, work).await {
            Ok((out, err, status)) => Ok(Ran { code: status.ok().and_then(|s| s.code()), out, err }),
            Err(_) => {
                if let Some(group) = group {
                    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                }
                Err(format!("{} {action} did not end within {} s", program.display(), self.fence.timeout.as_secs()))
            }
        };
        self.log(action, node, &ran).await;
        ran
    }

    async fn log(&self, action: &str, node: &NodeName, ran: &Result<Ran, String>) {
        let text = match ran {
            Ok(ran) => format!("exit code {:?}\n{}{}", ran.code, ran.out, ran.err),
            Err(why) => format!("{why}\n"),
        };
        // A device is asked every minute; only what is unusual is kept.
        if action == "status" && matches!(ran, Ok(Ran { code: Some(0), .. })) {
            return;
        }
        let entry = format!("{} {action} {node}: {text}", jiff::Timestamp::now());
        let path = self.log_dir.join("fence.ulog");
        let write = async {
            tokio::fs::create_dir_all(&self.log_dir).await?;
            if tokio::fs::metadata(&path).await.is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
                tokio::fs::rename(&path, self.log_dir.join("fence.ulog.old")).await?;
            }
            let mut file = tokio::fs::OpenOptions::new().append(true).create(true).open(&path).await?;
            file.write_all(entry.as_bytes()).await?;
            file.flush().await
        };
        if let Err(error) = write.await {
            tracing::warn!(module.name = %self.module, %error, "{} could not be written", path.display());
        }
    }
}

/// The beginning of what a program writes; the rest is read and forgotten, so that it never waits.
async fn take(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut stream).take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
