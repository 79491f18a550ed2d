//! Turns the world into [`Health`]: is a port open, do processes run, is an address there.
//!
//! Every check reports once as soon as it knows, and from then on only changes. Where the kernel tells of a change by
//! itself (the end of a process, an address removed), the check does not wait for its interval.

mod address;
mod process;
mod tcp;

use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tsugi_core::module::{Check, Probe};
use tsugi_core::state::Health;

/// Shortest interval between two tests: a typing error in a configuration must not become a busy loop.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The health of a resource, when first known and when changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckerEvent {
    /// Resource, `class.ident`.
    pub name: String,
    /// `Up` or `Down`.
    pub health: Health,
    /// What was seen, for logs and for people: `connect 10.0.0.1:80: refused`.
    pub detail: String,
}

/// Running checks; dropping it stops all of them.
#[derive(Debug)]
pub struct Checkers {
    _tasks: JoinSet<()>,
}

impl Checkers {
    /// Starts `checks`, each in a task of its own, which ends when nobody listens to `tx` any more. Must be called
    /// inside a tokio runtime.
    pub fn start(checks: Vec<Check>, tx: mpsc::Sender<CheckerEvent>) -> Checkers {
        let mut tasks = JoinSet::new();
        for check in checks {
            let reporter = Reporter { name: check.name, last: None, tx: tx.clone() };
            let interval = check.interval.max(INTERVAL_MIN);
            match check.probe {
                Probe::Tcp { addr, port, timeout } => {
                    tasks.spawn(tcp::watch(reporter, interval, tcp::Target { host: addr, port, timeout }));
                }
                Probe::Proc { command, name_regex, arg_regex, at_least, at_most } => {
                    let wanted = process::Wanted::new(command.as_deref(), name_regex.as_deref(), arg_regex.as_deref(), at_least, at_most);
                    tasks.spawn(process::watch(reporter, interval, wanted));
                }
                Probe::Ip { addr } => {
                    tasks.spawn(address::watch(reporter, interval, addr));
                }
            }
        }
        Checkers { _tasks: tasks }
    }
}

/// Passes on what is new.
struct Reporter {
    name: String,
    last: Option<Health>,
    tx: mpsc::Sender<CheckerEvent>,
}

/// Nobody listens any more.
struct Unheard;

impl Reporter {
    async fn report(&mut self, health: Health, detail: String) -> Result<(), Unheard> {
        if self.last.replace(health) == Some(health) {
            return Ok(());
        }
        let event = CheckerEvent { name: self.name.clone(), health, detail };
        self.tx.send(event).await.map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests;
