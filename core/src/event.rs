//! What happened to a module, typed. Worded only in `tsugi-web`.

use crate::command::{Refusal, Verb, checker_of};
use crate::copies::{Difference, VerifyEnd, Verifying};
use crate::ids::{Epoch, ModuleName, NodeName, Session};
use crate::module::ScriptName;
use crate::state::{Health, Readiness, Reason, State};
use serde::{Deserialize, Serialize};

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For those who look closely.
    Info,
    /// A change of state or role.
    Notice,
    /// Something is amiss; the service goes on.
    Warning,
    /// The service or its protection is gone.
    Critical,
}

/// Something that happened to a module on a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The agent started and took the module up.
    AgentStarted,
    /// The agent was started again and goes on with the module as it was: nothing was stopped for it.
    AgentWentOn,
    /// State, readiness or reason changed.
    Entered { from: State, to: State, readiness: Readiness, reason: Option<Reason> },
    /// An order was accepted.
    Ordered { verb: Verb, by: String, reason: Option<String> },
    /// An order was refused.
    Refused { verb: Verb, by: String, refusal: Refusal },
    /// The other node is in contact again.
    PeerSeen { peer: NodeName },
    /// The other node is silent on every network.
    PeerLost { peer: NodeName },
    /// The other node stopped in order.
    PeerLeft { peer: NodeName },
    /// The replication connection broke.
    SessionLost { session: Session, detail: String },
    /// The arbiter was asked for the right to serve alone.
    ClaimAsked { expected: Epoch },
    /// … and gave it.
    ClaimAccepted { epoch: Epoch },
    /// … and refused it.
    ClaimRejected { epoch: Epoch, owner: Option<NodeName> },
    /// Both nodes are in sync by the record.
    Grown { epoch: Epoch },
    /// An operator's decision created or overrode the record.
    Forced { epoch: Epoch, by: String },
    /// The record was written anew after the arbiter's store had been lost.
    Reseeded { epoch: Epoch },
    /// This node's disk was set back to an earlier time: its record ends at version `known`, and the arbiter's, which
    /// names it, is at `record`. Its copy counts as older.
    SetBack { known: Epoch, record: Epoch },
    /// What is in the replicated directories was replaced, by the word of a person: it counts as an older copy.
    CopyReplaced { by: String },
    /// Maintenance began (`minutes` at most), or ended (0).
    Maintenance { minutes: u32 },
    /// The application does not start here; its data is brought to the other node, which takes the role.
    Hosting { peer: NodeName },
    /// Processes of the application cannot be ended.
    Unkillable { detail: String },
    /// The arbiter does not answer.
    ArbiterLost,
    /// The arbiter answers again.
    ArbiterSeen,
    /// The right to serve ran out: writes wait.
    Frozen,
    /// The right to serve was renewed.
    Thawed,
    /// A script ended. `code` absent = killed at its time-out.
    ScriptDone { script: ScriptName, code: Option<i32>, millis: u64 },
    /// Output line a script asked to be logged, or the last line of a failed one.
    ScriptSaid { script: ScriptName, text: String },
    /// The directories are mounted for the application: what was replicated is served from here.
    DataServed { millis: u64 },
    /// A virtual address was raised and announced.
    VipRaised { addr: std::net::IpAddr },
    /// A virtual address was removed.
    VipDropped { addr: std::net::IpAddr },
    /// A virtual address could not be raised.
    VipFailed { detail: String },
    /// Resynchronisation began.
    ResyncStarted { session: Session },
    /// Resynchronisation ended.
    ResyncDone { session: Session, bytes_copied: u64, files: u64, millis: u64 },
    /// The two copies were compared. `first`: of what differs, in order of the comparison.
    Verified { done: Verifying, millis: u64, first: Vec<Difference>, end: VerifyEnd },
    /// Somebody may write to the replicated directories of the stopped module until it is started.
    Opened { by: String },
    /// A resource changed.
    Resource { name: String, health: Health, detail: String },
    /// A rule's action begins that no single checker stands for.
    RuleFired { label: String, action: crate::rules::RuleAction },
    /// A checker's action begins.
    CheckAction { resource: String, action: crate::module::Action },
    /// The data process failed or its disk did.
    DataFailed { detail: String },
    /// The limit of automatic actions was reached.
    LoopLimit { count: u32 },
    /// A new configuration is in force.
    Configured { generation: u64 },
    /// The node's guard had to act, at this time of the node's wall clock: it is told when the agent is back.
    Guard { act: GuardAct, acted_unix_ms: u64 },
    /// A script, or somebody in its place, asked for a line in the log. `script` absent = it did not say which.
    Printed { script: Option<ScriptName>, text: String, is_error: bool },
    /// Something the engine did not expect; harmless, but worth knowing. English.
    Unexpected { what: String },
}

/// What a guard does when a module's right to serve has ended and the agent has not reacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum GuardAct {
    /// Froze the application and removed the addresses, so many milliseconds after the deadline.
    Froze { late_ms: u64 },
    /// Let it go on: the right was renewed.
    Thawed,
    /// Ended what it had frozen, so many processes.
    Killed { count: u64 },
    /// Could not freeze it, end it, or remove an address.
    Failed,
    /// Left the watchdog to starve, which restarts the machine.
    Starves,
}

impl Event {
    /// How loud it is.
    pub fn level(&self) -> Level {
        match self {
            Event::Entered { readiness: Readiness::NotReady, to: State::Stop, reason: Some(Reason::StoppedBy { by }), .. }
                if checker_of(by).is_some() =>
            {
                Level::Critical
            }
            Event::Entered { readiness: Readiness::NotReady, to: State::Stop, .. } => Level::Notice,
            Event::Entered { readiness: Readiness::NotReady, .. } => Level::Critical,
            Event::Entered { to: State::Alone, .. } => Level::Warning,
            Event::Entered { .. } | Event::Ordered { .. } | Event::Configured { .. } => Level::Notice,
            Event::PeerLost { .. } | Event::SessionLost { .. } | Event::ArbiterLost | Event::Refused { .. } | Event::PeerLeft { .. } => {
                Level::Warning
            }
            Event::Frozen | Event::DataFailed { .. } | Event::LoopLimit { .. } | Event::VipFailed { .. } | Event::ClaimRejected { .. } => {
                Level::Critical
            }
            Event::Guard { act: GuardAct::Failed | GuardAct::Starves, .. } => Level::Critical,
            Event::Guard { .. } | Event::Printed { is_error: true, .. } => Level::Warning,
            Event::CopyReplaced { .. }
            | Event::Forced { .. }
            | Event::Reseeded { .. }
            | Event::Maintenance { .. }
            | Event::Hosting { .. } => Level::Warning,
            Event::Unkillable { .. } | Event::SetBack { .. } => Level::Critical,
            Event::Verified { done, .. } if done.differences > 0 => Level::Critical,
            Event::Verified { end: VerifyEnd::Failed { .. }, .. } | Event::Opened { .. } => Level::Warning,
            Event::Verified { .. } => Level::Notice,
            Event::ScriptDone { code: Some(0), .. } => Level::Info,
            Event::ScriptDone { .. } => Level::Warning,
            Event::Resource { health: Health::Down, .. } | Event::CheckAction { .. } => Level::Warning,
            Event::Unexpected { .. } => Level::Warning,
            _ => Level::Info,
        }
    }
}

/// An event with where and when. `seq` counts per node and never repeats, also across agent restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counter of the node's event log.
    pub seq: u64,
    /// Wall clock of the node; for people only.
    pub at_unix_ms: u64,
    /// Node.
    pub node: NodeName,
    /// Module.
    pub module: ModuleName,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
