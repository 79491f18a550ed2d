//! What a node says of a module: its state, how ready it is, why it is not green, and what may be ordered now.
//!
//! A [`Snapshot`] is absolute: a reader who missed any number of them is right again after the next one.

use crate::command::{Refusal, Verb};
use crate::copies::{Reach, Verified, Verifying};
use crate::ids::{ArbiterName, Epoch, Gen, Lsn, ModuleName, NodeName, Session};
use crate::module::{Authority, ScriptName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

mod each;

/// State of a module on a node. Words of the field; `alone` = serving without a follower, `wait` = may not
/// serve yet, `up` = serving in a farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not running, by order.
    Stop,
    /// Running, but may not serve or follow yet.
    Wait,
    /// Serving, and a follower holds every acknowledged write.
    Prim,
    /// Following (`Ready`) or being brought level (`Transient`).
    Second,
    /// Serving without a follower.
    Alone,
    /// Serving in a farm, or a light module running.
    Up,
}

impl State {
    /// The application runs here (or is being started or stopped here).
    pub fn is_serving(self) -> bool {
        matches!(self, State::Prim | State::Alone | State::Up)
    }
    /// `STOP`, `WAIT`, …: the word as the field writes it.
    pub fn word(self) -> &'static str {
        match self {
            State::Stop => "STOP",
            State::Wait => "WAIT",
            State::Prim => "PRIM",
            State::Second => "SECOND",
            State::Alone => "ALONE",
            State::Up => "UP",
        }
    }
}

/// Second axis of the state; it gives the colour: green, magenta, red.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Green.
    Ready,
    /// Magenta: will end by itself.
    Transient,
    /// Red: stopped or blocked; needs a person or an event from outside.
    NotReady,
}

/// What this node knows about its own copy of the data (protocol, "persistent record").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Never synchronised: nothing is known of this copy.
    #[default]
    Unknown,
    /// Half resynchronised: must not be served.
    Inconsistent,
    /// Complete but older than another node's copy.
    Stale,
    /// In sync, but acknowledged data may be only in this node's memory (`async="second"`).
    Volatile,
    /// Holds every write acknowledged up to this record's epoch.
    UpToDate,
}

/// The replicated directories are there, and are the copies that the node's record speaks of. Without it a module takes
/// no role. It is told while none is held.
pub const USABLE: &str = "rfs.usable";

/// Why a module is not green on a node. Worded, with its remedy, by `tsugi-web`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// Installed and never started.
    NeverStarted,
    /// An administrator stopped it. `by` is a user name or `root`.
    StoppedBy { by: String },
    /// Scripts run or a role is being taken: ends by itself.
    Starting,
    /// Stop scripts run: ends by itself.
    Stopping,
    /// First start and no node has data that is known to be good. Remedy: `prim` on the node with the data.
    FirstStart,
    /// This copy is older than that of `newer` (or of a node not in contact). Remedy: start that node; or `prim --accept-loss`.
    DataOlder { newer: Option<NodeName>, since_unix_ms: Option<u64> },
    /// This copy was half resynchronised. Remedy: start the source again; or `primforce`.
    HalfSynced,
    /// After a restart a node waits before it may claim: ends by itself.
    Quarantine,
    /// Both nodes are idle and the other one has the better right to start.
    PeerFirst { peer: NodeName },
    /// No arbiter answers, so the right to serve cannot be obtained. Retried by itself.
    NoArbiter,
    /// The arbiter refused: another node owns the record.
    ClaimRejected { owner: Option<NodeName> },
    /// The arbiter's store is not the one this node knows (restored or replaced).
    ArbiterReplaced,
    /// Two data histories without a common future. Remedy: `resolve` on both nodes.
    SplitBrain { peer: NodeName },
    /// The right to serve ran out before the arbiter answered: writes wait.
    Frozen,
    /// Being brought level from the source.
    Resyncing,
    /// Waits for the primary to offer a session.
    WaitingForSource { source: NodeName },
    /// A script failed or ran out of time (`code` absent).
    ScriptFailed { script: ScriptName, code: Option<i32> },
    /// A checker holds the module in WAIT, or stopped it.
    CheckFailed { resource: String, detail: String },
    /// A checker that may hold the module in WAIT has not said anything yet.
    CheckPending { resource: String },
    /// Too many automatic restarts in the interval (`maxloop`).
    LoopLimit { count: u32 },
    /// The replicated directory or its disk cannot be used.
    DataUnusable { detail: String },
    /// The virtual address cannot be raised.
    VipFailed { detail: String },
    /// `failover="off"`: the primary is gone and this node may not take over by itself.
    FailoverOff,
    /// This node's record cannot be read or written.
    RecordUnusable { detail: String },
    /// This node's record was damaged: nothing is known of its copy. Remedy: start `peer`; or `prim --accept-loss`.
    RecordLost { peer: NodeName },
    /// The role is being handed over.
    HandOver { to: NodeName },
    /// Without an arbiter a node that starts waits for the other one, which may know better.
    /// Remedy: start `peer`; or `prim` here (with `--accept-loss` if `peer` may have gone on alone).
    WaitingForPeer { peer: NodeName },
    /// `authority="manual"`: `peer` is gone and a person decides. Remedy: start `peer`; or `prim --accept-loss` here.
    ManualTakeover { peer: NodeName },
    /// `authority="ping"`: no reference address answers, so this node does not go on without its peer.
    NoWitness,
    /// `authority="fence"`: nothing confirms that `peer` is off. Retried by itself.
    NotFenced { peer: NodeName },
    /// Maintenance: no automatic action until it ends. Remedy: `maintenance off`.
    Maintenance,
    /// The two nodes have different times in force (`heart`), in milliseconds: no pair may form, because one would
    /// still serve when the other takes over. Remedy: apply one configuration on both while they are stopped.
    TimesDiffer { peer: NodeName, here_ms: u64, there_ms: u64 },
    /// Processes of the application cannot be ended, so the role cannot be left. Retried by itself. Remedy: end
    /// what `detail` names, or reset the node.
    Unkillable { detail: String },
}

impl Reason {
    /// It waits for another module, which may well be where it should be: on another node.
    pub fn waits_for_module(&self) -> bool {
        matches!(self, Reason::CheckFailed { resource, .. } if resource.starts_with("module."))
    }
}

/// What one node reports of the peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct PeerView {
    /// Name of the other node, absent for farm and light modules.
    pub node: Option<NodeName>,
    /// A beat arrived within the time-out on at least one network.
    pub in_contact: bool,
    /// Its state as it last said, whatever its age.
    pub state: Option<State>,
    /// One row per heartbeat network.
    pub networks: Vec<NetworkView>,
}

/// A heartbeat network as seen from one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetworkView {
    /// LAN name of the cluster definition.
    pub lan: String,
    /// Beats arrive.
    pub is_up: bool,
    /// Last measured round trip in microseconds.
    pub rtt_us: Option<u64>,
}

/// State of the replication of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// The module replicates nothing (no `<rfs>`, farm, light).
    #[default]
    None,
    /// Writes go to this node only.
    Off,
    /// The other node is being brought level.
    Resync,
    /// Every write is on both nodes before it is acknowledged.
    Synchronous,
    /// Both nodes are required but the other does not answer: writes wait for the arbiter.
    Stalled,
}

/// Progress of a resynchronisation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Resync {
    /// Bytes compared or copied so far.
    pub bytes_done: u64,
    /// Bytes to compare, as far as known.
    pub bytes_total: u64,
    /// Bytes that had to be copied.
    pub bytes_copied: u64,
    /// Files compared so far.
    pub files_done: u64,
    /// Files to compare, as far as known.
    pub files_total: u64,
    /// Mean bytes per second since the start.
    pub rate: u64,
}

/// Figures of the data process, polled by the agent about once a second for the snapshot. Never input to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicaFigures {
    /// Resynchronisation in progress.
    pub resync: Option<Resync>,
    /// Last sequence sent or applied.
    pub last: Lsn,
    /// Bytes sent or received in the session.
    pub bytes: u64,
    /// Writes waiting for the peer now, and the age of the oldest in milliseconds.
    pub waiting: u64,
    /// See `waiting`.
    pub waiting_ms: u64,
    /// Serving: operations that waited for the peer and were confirmed, in this process's life.
    #[serde(default)]
    pub confirmed: u64,
    /// How long they waited, all together, in microseconds.
    #[serde(default)]
    pub confirmed_us: u64,
    /// Serving, with compression: contents sent in the session, in bytes.
    #[serde(default)]
    pub contents: u64,
    /// And what travelled in their place.
    #[serde(default)]
    pub travelled: u64,
    /// What the resynchronisation compares, or the last one of this process did.
    #[serde(default)]
    pub reach: Option<Reach>,
    /// A verification in progress.
    #[serde(default)]
    pub verifying: Option<Verifying>,
    /// Objects that a verification found to differ, and that are not repaired yet.
    #[serde(default)]
    pub unrepaired: u64,
    /// Serving: how the kernel hands requests for the files over.
    #[serde(default)]
    pub transport: Option<FuseTransport>,
}

/// How the kernel and the data process hand one another requests for the replicated files and their answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FuseTransport {
    /// Over io_uring, for every directory.
    IoUring,
    /// Over `/dev/fuse`.
    Device,
}

/// How fast replication goes, over the last seconds; coarse, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Sent and received for the module's data, in bytes a second; two significant digits.
    pub bytes_per_s: u64,
    /// Serving: how long an operation waited for the other node on average, in microseconds; two significant digits. Absent
    /// where none did.
    pub confirm_us: Option<u64>,
    /// Serving: how long the oldest operation that is not confirmed has been waiting, in whole seconds. In good days 0.
    pub waiting_s: u64,
    /// Serving, with compression: what travelled for contents of files, in percent of them. Absent where none did.
    #[serde(default)]
    pub compressed_percent: Option<u64>,
}

/// Comparison of the two copies while the application goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Verification {
    /// One in progress.
    pub running: Option<Verifying>,
    /// The last one of this node, as long as it serves or has served.
    pub last: Option<LastVerification>,
    /// Objects that differ and are not repaired yet.
    #[serde(default)]
    pub unrepaired: u64,
}

/// What the repair of a difference waits for. A session that ends asks whoever lets this node go on alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairWait {
    /// The other node is not level: it is repaired when it is brought level.
    Peer,
    /// The end of the maintenance.
    Maintenance,
    /// The arbiter, or reference address: without one that answers the module would leave service over it.
    Arbiter,
    /// A person who restarts the secondary: fencing would cut its power.
    Person,
}

/// See [`Verification`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LastVerification {
    /// When it ended, by this node's wall clock; for people, and for the next one that is due.
    pub at_unix_ms: u64,
    /// How.
    #[serde(flatten)]
    pub verified: Verified,
}

/// Health of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not known yet.
    Init,
    /// Good.
    Up,
    /// Bad.
    Down,
    /// Its checker does not run in this state.
    Off,
}

impl Health {
    /// As rules see it: a resource whose checker does not run is not known.
    pub fn value(self) -> crate::rules::Value {
        match self {
            Health::Init | Health::Off => crate::rules::Value::Init,
            Health::Up => crate::rules::Value::Up,
            Health::Down => crate::rules::Value::Down,
        }
    }
}

/// A named thing that is checked: `proc.postgres`, `tcp.web`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceView {
    /// `class.ident`.
    pub name: String,
    /// Last result.
    pub health: Health,
    /// Words of the checker ("connect 10.0.0.1:80: refused"); English, for logs.
    pub detail: String,
    /// What happens when it goes down.
    pub action: crate::module::Action,
}

/// The arbiter as seen from one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArbiterView {
    /// The module needs none (farm, light, other authority).
    NotNeeded,
    /// Not asked yet.
    Unknown,
    /// Its last answer came in time.
    Reachable,
    /// It does not answer: automatic failover is off until it does.
    Unreachable,
}

/// Who lets a node go on without its peer, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AuthorityView {
    /// What it is.
    pub kind: Authority,
    /// Which arbiter, where it is one.
    pub arbiter: ArbiterName,
}

impl Default for AuthorityView {
    fn default() -> Self {
        AuthorityView { kind: Authority::Arbiter, arbiter: ArbiterName::console() }
    }
}

/// Whether an order would be accepted now. The page's button and the command line read the same row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Allowed {
    /// The order.
    pub verb: Verb,
    /// Absent = it would be accepted.
    pub refusal: Option<Refusal>,
}

/// What one node says of one module, now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which module.
    pub module: ModuleName,
    /// Which node speaks.
    pub node: NodeName,
    /// Generation of the configuration in force; 0 = none applied.
    pub config_generation: u64,
    /// State.
    pub state: State,
    /// Second axis of the state.
    pub readiness: Readiness,
    /// Why it is not green, or what is amiss although it is; absent when all is well.
    pub reason: Option<Reason>,
    /// When `state`/`readiness`/`reason` last changed, by this node's wall clock. For people only.
    pub since_unix_ms: u64,
    /// Maintenance ends then, by this node's wall clock; absent = none. For people only.
    #[serde(default)]
    pub maintenance_until_unix_ms: Option<u64>,
    /// This copy of the data.
    pub flag: Flag,
    /// `flag` is up to date and this node is in the in-sync set.
    pub is_up_to_date: bool,
    /// Version of the arbiter's record this node knows.
    pub epoch: Epoch,
    /// Data history.
    pub gen_id: Gen,
    /// Replication session.
    pub session: Session,
    /// In-sync set this node knows.
    pub in_sync: BTreeSet<NodeName>,
    /// Addresses held by this node now.
    pub vips_held: Vec<std::net::IpAddr>,
    /// Replication.
    pub replication: Replication,
    /// How fast it goes; absent while there is no connection to the other node's copy.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// Resynchronisation in progress.
    pub resync: Option<Resync>,
    /// Comparison of the two copies.
    #[serde(default)]
    pub verification: Verification,
    /// The other node.
    pub peer: PeerView,
    /// Whether the arbiter (the reference address, the fencing device) answers.
    pub arbiter: ArbiterView,
    /// Who that is.
    #[serde(default)]
    pub authority: AuthorityView,
    /// Checked resources.
    pub resources: Vec<ResourceView>,
    /// Every order, and whether it would be accepted now.
    pub allowed: Vec<Allowed>,
}

impl Snapshot {
    /// What the repair of differences waits for; `None`: it is done now.
    pub fn repair_wait(&self) -> Option<RepairWait> {
        if self.replication != Replication::Synchronous {
            return Some(RepairWait::Peer);
        }
        if self.maintenance_until_unix_ms.is_some() {
            return Some(RepairWait::Maintenance);
        }
        match self.authority.kind {
            Authority::Arbiter | Authority::Ping => (self.arbiter != ArbiterView::Reachable).then_some(RepairWait::Arbiter),
            Authority::Fence => Some(RepairWait::Person),
            // A primary that loses its secondary goes on by itself.
            Authority::Manual | Authority::None => None,
        }
    }
    /// The refusal of `verb` now, `None` if it would be accepted.
    pub fn refusal(&self, verb: &Verb) -> Option<&Refusal> {
        self.allowed.iter().find(|a| std::mem::discriminant(&a.verb) == std::mem::discriminant(verb)).and_then(|a| a.refusal.as_ref())
    }
}
