//! Command line ↔ agent over a UNIX socket: one JSON line with a [`Request`], one JSON line with a [`Reply`]
//! (for `Watch`: a reply per change until either side closes). The agent checks the caller's user id
//! (`SO_PEERCRED`): root, or a member of group `tsugi`.

use crate::command::{Command, LoopChange, Refusal};
use crate::event::EventRecord;
use crate::ids::{ModuleName, NodeName};
use crate::module::When;
use crate::rehearsal::Rehearsal;
use crate::rules::{Rule, Value};
use crate::state::{Health, ReplicaFigures, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Asked by the command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Every module's snapshot, or one module's.
    State { module: Option<ModuleName> },
    /// As `State`, then again after each change.
    Watch { module: Option<ModuleName> },
    /// An order.
    Command { module: ModuleName, command: Command },
    /// What an order would do.
    Rehearse { module: ModuleName, command: Command },
    /// The last `count` events.
    Events { module: Option<ModuleName>, count: u32 },
    /// A custom resource is `Up` or `Down`. `by`: who found it out.
    Set { module: ModuleName, resource: String, value: Health, by: Option<String> },
    /// Watch processes, or do not; with `class`, those of one class.
    Errd { module: ModuleName, class: Option<String>, is_on: bool },
    /// Run the other checkers, or do not.
    Checkers { module: ModuleName, is_on: bool },
    /// What is in the replicated directories was replaced on purpose: take it as an older copy. `by`: who says so.
    Adopt { module: ModuleName, by: String },
    /// Let others write to the replicated directories of this stopped module, until it is started.
    Open { module: ModuleName, by: String },
    /// How replication stands.
    Rfs { module: ModuleName },
    /// Which files are noted as changed since the other copy was level.
    Noted { module: ModuleName },
    /// What is watched.
    Watched { module: ModuleName },
    /// How many automatic actions count; with `change`, after it.
    Loops { module: ModuleName, change: Option<LoopChange> },
    /// The rules, and which of them fire.
    Rules { module: ModuleName },
    /// Output files of the module's scripts; with `script`, the newest one of that script.
    ScriptLog { module: ModuleName, script: Option<String> },
    /// Who this agent is.
    About,
    /// A line for the module's event log, from one of its scripts (`script`: file name) or from a person.
    Print { module: ModuleName, script: Option<String>, text: String, is_error: bool },
}

/// Answered by the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `State`, `Watch`.
    State { snapshots: Vec<Snapshot> },
    /// To `Command` and `Print`; absent = accepted. "Accepted" is not "done": that is only said by a snapshot.
    Command { refusal: Option<Refusal> },
    /// To `Rehearse`.
    Rehearsal { rehearsal: Rehearsal },
    /// To `Events`, oldest first.
    Events { events: Vec<EventRecord> },
    /// To `About`.
    About { node: NodeName, version: String, console: Option<String>, is_console_connected: bool, cluster: Option<String> },
    /// To `Rfs`.
    Rfs { view: Box<RfsView> },
    /// To `Noted`: paths; absent = everything counts as changed, or nothing is known.
    Noted { paths: Option<Vec<String>> },
    /// To `Set`, `Errd`, `Checkers`: it is so now.
    Done,
    /// To `Watched`.
    Watched { is_errd_on: bool, is_checker_on: bool, classes: BTreeMap<String, bool>, checks: Vec<WatchedView> },
    /// To `Loops`: how many count, and how many may within the interval. More than that: the limit is reached.
    Loops { count: u32, max: u32 },
    /// To `Rules`: generated ones first.
    Rules { handle_time_ms: u64, rules: Vec<RuleView> },
    /// To `ScriptLog`: names, the newest last, and the contents if a script was named.
    ScriptLog { files: Vec<String>, text: Option<String> },
    /// The request cannot be answered. English.
    Error { message: String },
}

/// How the replication of a module stands on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RfsView {
    /// State, copy, progress, verification.
    pub snapshot: Snapshot,
    /// Replicated directories.
    pub dirs: Vec<String>,
    /// Figures of the data process; absent = it does not run, or does not answer.
    pub figures: Option<ReplicaFigures>,
}

/// A checker as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedView {
    /// Resource.
    pub name: String,
    /// Class of a process.
    pub class: Option<String>,
    /// Phase.
    pub when: When,
    /// It is tested now.
    pub is_running: bool,
    /// Last result; `Off` when it is not tested.
    pub health: Health,
    /// Words of the checker.
    pub detail: String,
}

/// A rule as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// The rule.
    pub rule: Rule,
    /// As written.
    pub text: String,
    /// Its condition is true now.
    pub is_firing: bool,
    /// Every resource it looks at, with its state.
    pub resources: Vec<(String, Value)>,
}
