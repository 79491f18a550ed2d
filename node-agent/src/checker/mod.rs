//! Turns the world into [`Health`]: is a port open, do processes run, is an address there, is there memory left.
//!
//! Every check reports once as soon as it knows, and from then on only changes. Where the kernel tells of a change by
//! itself (the end of a process, an address removed, a cable pulled), the check does not wait for its interval.

mod board;
mod http;
mod machine;
mod netlink;
mod ping;
mod process;
mod program;
mod report;
mod service;
mod tcp;

pub use board::Board;

use crate::cgroup::Group;
use http::Http;
use process::Repair;
use program::Program;
use report::{Reporter, judged, poll};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tsugi_core::ids::ModuleName;
use tsugi_core::module::{Check, ModuleDef, Probe, ScriptName, When};
use tsugi_core::state::Health;

/// The health of a resource, when first known and when changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckerEvent {
    /// Resource, `class.ident`.
    pub name: String,
    /// `Up` or `Down`; `Init` when a checker that ran does not know any more.
    pub health: Health,
    /// What was seen, for logs and for people: `connect 10.0.0.1:80: refused`.
    pub detail: String,
    /// Which beginning of the check this is of; see [`Checkers::is_current`].
    pub run: u64,
}

/// What checkers need to know of where they are.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Module.
    pub module: ModuleName,
    /// Its `bin`: programs are looked up there, and run there.
    pub bin_dir: PathBuf,
    /// Whole environment of programs.
    pub env: BTreeMap<String, String>,
    /// Longest run of a handler.
    pub handler_timeout: Duration,
    /// `systemctl`.
    pub systemctl: PathBuf,
    /// The modules of this node.
    pub board: Board,
    /// Control group of the module, for handlers; absent = the machine has none.
    pub group: Option<Group>,
}

struct Task {
    run: u64,
    check: Check,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Running checks; dropping it stops all of them.
pub struct Checkers {
    around: Arc<Surroundings>,
    tx: mpsc::Sender<CheckerEvent>,
    runs: u64,
    tasks: BTreeMap<String, Task>,
}

impl Checkers {
    /// None runs yet. Each will be a task of its own, which ends when nobody listens to `tx` any more.
    pub fn new(around: Surroundings, tx: mpsc::Sender<CheckerEvent>) -> Checkers {
        Checkers { around: Arc::new(around), tx, runs: 0, tasks: BTreeMap::new() }
    }

    /// Exactly `wanted` run from here on: the others are stopped, and what runs already is left alone. Gives the checks
    /// that were stopped. Must be called inside a tokio runtime.
    pub fn keep(&mut self, wanted: &[&Check]) -> Vec<Check> {
        let is_wanted = |task: &Task| wanted.iter().any(|w| **w == task.check);
        let gone: Vec<Check> = self.tasks.values().filter(|t| !is_wanted(t)).map(|t| t.check.clone()).collect();
        self.tasks.retain(|_, task| is_wanted(task));
        for check in wanted {
            if !self.tasks.contains_key(&check.name) {
                self.runs += 1;
                let reporter = Reporter::new(check, self.runs, self.tx.clone());
                let handle = tokio::spawn(run((*check).clone(), reporter, self.around.clone()));
                self.tasks.insert(check.name.clone(), Task { run: self.runs, check: (*check).clone(), handle });
            }
        }
        gone
    }

    /// What is known of a check before it has begun: how another module stands. A module that depends on it must not get
    /// a role in the meantime.
    pub fn known_at_once(&self, check: &Check) -> Option<(Health, String)> {
        match &check.probe {
            Probe::Module { module, node, wanted } => Some(board::look(&self.around.board, module, node.as_ref(), *wanted)),
            _ => None,
        }
    }

    /// The check that runs under this name.
    pub fn running(&self, name: &str) -> Option<&Check> {
        self.tasks.get(name).map(|t| &t.check)
    }

    /// The check an event is of, unless it has been stopped since.
    pub fn of_event(&self, event: &CheckerEvent) -> Option<&Check> {
        self.tasks.values().find(|t| t.run == event.run).map(|t| &t.check)
    }
}

/// The script that starts what is watched in these states. A handler starts it again in its place.
fn started_by(when: When) -> ScriptName {
    match when {
        When::Prim => ScriptName::StartPrim,
        When::Second => ScriptName::StartSecond,
        When::Pre | When::Both | When::Switched => ScriptName::StartBoth,
    }
}

/// One check, for ever.
async fn run(check: Check, reporter: Reporter, around: Arc<Surroundings>) {
    tokio::time::sleep(check.start_after).await;
    let with = |words: &[String]| [around.module.to_string(), check.name.clone()].into_iter().chain(words.iter().cloned()).collect();
    let repair = check
        .handler
        .clone()
        .map(|exec| Repair::new(check.handler_resource(), Program { exec, args: with(&[]), stands_for: Some(started_by(check.when)) }));
    match check.probe {
        Probe::Tcp { addr, port, timeout } => {
            let target = tcp::Target { host: addr, port, timeout };
            poll(reporter, async || Some(judged(tcp::test(&target).await))).await;
        }
        Probe::Ping { addr, timeout } => poll(reporter, async || Some(judged(ping::test(&addr, timeout).await))).await,
        Probe::Intf { interface } => netlink::watch_interface(reporter, interface).await,
        Probe::Ip { addr } => netlink::watch_address(reporter, addr).await,
        Probe::Proc { command, name_regex, arg_regex, at_least, at_most } => {
            let wanted = process::Wanted::new(command.as_deref(), name_regex.as_deref(), arg_regex.as_deref(), at_least, at_most);
            process::watch(reporter, wanted, &around, repair).await;
        }
        Probe::Service { unit } => service::watch(reporter, unit, &around, repair).await,
        Probe::Custom { exec: Some(exec), args } => Program { exec, args: with(&args), stands_for: None }.keep(reporter, &around).await,
        // Scripts set it.
        Probe::Custom { exec: None, .. } => std::future::pending().await,
        Probe::Module { module, node, wanted } => board::watch(reporter, around.board.clone(), module, node, wanted).await,
        Probe::Http(probe) => match Http::new(probe) {
            Ok(http) => {
                let http = tokio::sync::Mutex::new(http);
                poll(reporter, async || Some(judged(http.lock().await.test().await))).await;
            }
            Err(why) => poll(reporter, async || Some((Health::Down, why.clone()))).await,
        },
        Probe::Load { of, percent_max } => {
            let last = std::sync::Mutex::new(None);
            let look = || match machine::load(of, percent_max, &mut last.lock().unwrap_or_else(|e| e.into_inner())) {
                Ok(None) => None,
                Ok(Some(detail)) => Some((Health::Up, detail)),
                Err(detail) => Some((Health::Down, detail)),
            };
            poll(reporter, async || look()).await;
        }
        Probe::Memory { percent_min, mb_min, pressure_max } => {
            poll(reporter, async || Some(judged(machine::memory(percent_min, mb_min, pressure_max)))).await;
        }
        Probe::Disk { path, percent_min, mb_min, inodes_percent_min, timeout } => {
            let wanted = machine::DiskWanted { path, percent_min, mb_min, inodes_percent_min };
            poll(reporter, async || Some(judged(machine::disk(wanted.clone(), timeout).await))).await;
        }
        Probe::Exec { exec, args, timeout } => {
            let program = Program { exec, args, stands_for: None };
            poll(reporter, async || Some(judged(program.test(&around, timeout).await))).await;
        }
    }
}

/// What only a node can tell of a definition: patterns that cannot be used, programs that are not there, no systemd.
/// `scripts`: the files of the module's `bin`. Each entry names element and remedy.
pub fn problems(def: &ModuleDef, scripts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut program = |at: String, exec: &str| {
        let is_there = if exec.starts_with('/') { std::path::Path::new(exec).exists() } else { scripts.contains(&exec) };
        if !is_there {
            found.push(format!("{at}: there is no program {exec}; add it to the module's bin, or install it on this node"));
        }
    };
    for check in &def.checks {
        match &check.probe {
            Probe::Custom { exec: Some(exec), .. } => program(format!("safe/service/check/custom {}", check.name), exec),
            Probe::Exec { exec, .. } => program(format!("safe/service/check/exec {}", check.name), exec),
            _ => {}
        }
        if let Some(handler) = &check.handler {
            program(format!("safe/service/errd/proc {} action", check.name), handler);
        }
    }
    for check in &def.checks {
        let patterns: [Option<&String>; 2] = match &check.probe {
            Probe::Proc { name_regex, arg_regex, .. } => [name_regex.as_ref(), arg_regex.as_ref()],
            Probe::Http(http) => [http.body.as_ref(), None],
            _ => [None, None],
        };
        for pattern in patterns.into_iter().flatten() {
            if let Err(error) = regex::Regex::new(pattern) {
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default().trim();
                found.push(format!("{}: the pattern `{pattern}` cannot be used: {why}; correct the regular expression", check.name));
            }
        }
        if matches!(check.probe, Probe::Service { .. }) && !std::path::Path::new("/run/systemd/system").exists() {
            found.push(format!(
                "safe/service/errd/proc {} service=\"yes\": systemd does not run on this node; watch the process by its name",
                check.name
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests;
