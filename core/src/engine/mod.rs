//! The state machine of a module: `step(input, effects)`.
//!
//! The contract, on which half of the safety argument rests:
//!
//! * **Deterministic.** Same state and input, same effects. No clock: timers have names and are kept outside.
//! * **Order is meaning.** Effects are carried out one after another; none begins before a preceding
//!   [`Effect::Save`] is on disk.
//! * **Long work comes back** as [`Input::Done`] with its [`JobId`]; ids are never reused and an answer nobody
//!   waits for any more is dropped.
//! * **Total.** Every input has an answer in every state. A broken invariant of the engine itself panics: a node
//!   that is wrong about itself must stop, its peer takes over.
//! * **Hashable.** `Clone + Eq + Hash` and ordered collections only, so that a model checker can hold it.
//!
//! Drivers: the agent's runner, the simulator, the model checker. The rules are explained in `docs/PROTOCOL.md`.

use crate::command::{Command, LoopChange};
use crate::event::Event;
use crate::ids::{Epoch, Gen, JobId, LifeId, NodeName, Session};
use crate::module::{Action, Async, Authority, DefaultPrim, ScriptName, Timing};
use crate::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use crate::state::{Flag, Health};
use crate::wire::arbiter::{ArbiterAnswer, ArbiterRequest};
use crate::wire::peer::Status;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

pub mod authority;
mod by_mode;
mod light;
mod mirror;
mod rehearse;
mod watched;

pub use by_mode::Engine;
pub use light::{Light, LightConfig};
pub use mirror::{Kept, Mirror};

/// Ancestors kept in the record.
pub const LINEAGE_MAX: usize = 32;

/// Between two attempts after a failure of this node's own making (disk, address).
const BACKOFF: Duration = Duration::from_secs(3);
/// Between two attempts to end what is left of the application.
const STEP_RETRY: Duration = Duration::from_secs(1);

/// What a mirror's engine must know; fixed for the life of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MirrorConfig {
    /// This node.
    pub me: NodeName,
    /// The other one.
    pub peer: NodeName,
    /// Times.
    pub timing: Timing,
    /// `failover="on"`.
    pub is_failover_on: bool,
    /// The third thing that lets a node go on without its peer.
    pub authority: Authority,
    /// Who is primary once both run.
    pub default_prim: DefaultPrim,
    /// Automatic actions allowed per interval.
    pub maxloop: u32,
    /// That interval; zero = not counted.
    pub loop_interval: Duration,
    /// What is done when resources go down.
    pub rules: crate::rules::Ruleset,
    /// Durability on the secondary; decides the flag a follower may set.
    pub ack: Async,
    /// Rules left out on purpose, to prove that the model checker sees it.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

impl MirrorConfig {
    /// Defaults for a pair: profile `normal`, everything on.
    pub fn new(me: NodeName, peer: NodeName) -> MirrorConfig {
        MirrorConfig {
            me,
            peer,
            timing: Timing::of(crate::module::Profile::Normal),
            is_failover_on: true,
            authority: Authority::Arbiter,
            default_prim: DefaultPrim::Alone,
            maxloop: 3,
            loop_interval: Duration::from_secs(24 * 3600),
            rules: crate::rules::Ruleset::default(),
            ack: Async::None,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// A safety rule to leave out. The switch ([`MirrorConfig::mutant`]) is only compiled for the model checker's own
/// tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// The primary stops requiring its peer as soon as the session is lost, before the claim is accepted.
    AloneBeforeClaim,
    /// A restarted node claims at once, though it may be bound by a promise of its former life.
    NoQuarantine,
    /// A secondary that leaves says that it is stale, but its record keeps `UpToDate`.
    StopKeepsFlag,
    /// The secondary claims without waiting for its promise to end.
    NoPromise,
    /// The unresolved arbiter request is not kept over a restart.
    IntentInMemory,
    /// A node promises while its own claim is unresolved, and its primary believes it.
    PromiseWithIntent,
    /// The target of a resynchronisation counts as current from its start.
    UpToDateEarly,
    /// With `async="second"` a level secondary writes `UpToDate` though its disk may lack what its memory has.
    VolatileAsUpToDate,
    /// A restarted secondary joins the session it remembers: only what is under way is sent again.
    RejoinRestarted,
    /// A lost session may be joined again, and by a node whose record is newer.
    RejoinIgnoresEpoch,
    /// The secondary claims without having had its replication session closed.
    ClaimUnclosed,
    /// The record on the own disk names the other node only when the arbiter is known to name it.
    NameAfterGrow,
    /// An engine that goes on forgets that it may have given a promise after it was kept.
    GoOnUnbound,
    /// An idle node writes a lost record anew whatever its own record says of the other node.
    SeedBlindly,
}

/// The persistent record of a module on a node ("M"). Written before whatever depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Life of the arbiter's store this node last agreed with; zero = none yet.
    pub arbiter: LifeId,
    /// This copy.
    pub flag: Flag,
    /// Record version under which this node last served or last acknowledged writes.
    pub epoch: Epoch,
    /// Data history.
    pub gen_id: Gen,
    /// Ancestors of `gen_id`, newest first, at most [`LINEAGE_MAX`].
    pub lineage: Vec<Gen>,
    /// A session was offered under `gen_id`: another copy may be of the same history.
    pub is_shared: bool,
    /// Last known in-sync set; written with both nodes *before* a grow leaves.
    pub in_sync: BTreeSet<NodeName>,
    /// This node owned the record at `epoch`.
    pub is_owner: bool,
    /// At most one arbiter request whose outcome is not known.
    pub intent: Option<ArbiterRequest>,
    /// Newest replication session.
    pub session: Session,
    /// Epoch given up in order (swap, stop).
    pub released: Option<Epoch>,
    /// Set by an orderly stop, cleared before serving or following.
    pub is_clean: bool,
    /// Started and not stopped by an administrator.
    pub is_started: bool,
    /// Who stopped it.
    pub stopped_by: Option<String>,
    /// Automatic actions that happened less than `loop_interval` ago (after a restart: each counts from there).
    pub loop_count: u32,
    /// This node had the role last, other than by handing it over on an administrator's order (`lastprim`).
    pub wants_role: bool,
    /// It took the role from the other node instead of keeping its own: where two serve without an arbiter, this one
    /// leaves.
    pub is_taken: bool,
}

/// One of our own beats, known to the link layer: stands for the instant before it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names of timers. Setting a running timer moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// Time for the next beat.
    Beat,
    /// No beat of the peer for `P_S` (serving) or `P_B` (else): it is out of contact.
    PeerSilent,
    /// The peer's promise ends (our belief, from the send time of the answered beat).
    PromiseHeld,
    /// Our own promise to the peer ends (from receipt of the answered beat).
    PromiseGiven,
    /// After a restart: no claim before this.
    Quarantine,
    /// Ask the arbiter again.
    ArbiterRetry,
    /// Frozen for too long: stop the application.
    FreezeMax,
    /// The peer did not take a role that was handed to it.
    SwapBack,
    /// Try again after a failure of this node's own making.
    Backoff,
    /// An automatic action is `loop_interval` old and counts no more.
    LoopExpire(u32),
    /// The action that rules ask for has been asked for long enough.
    Confirm,
    /// Try the step again that must succeed before the next one.
    StepRetry,
    /// Maintenance is over.
    Maintenance,
    /// Give the role back to the configured default primary.
    Failback,
}

/// A script to run. The runner adds environment, time-outs and paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScriptRun {
    /// Which.
    pub script: ScriptName,
    /// Argument 1 (2 if forced): state left.
    pub from: crate::state::State,
    /// Argument 2: state entered.
    pub to: crate::state::State,
    /// Argument 3: `start`, `stop`, `stopstart`, `stopwait`, `restart`, `swap`.
    pub action: &'static str,
    /// The second, forced call of a stop script: `force` comes first.
    pub is_forced: bool,
}

/// Virtual addresses of the module, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipPlan {
    /// Put them on the interface and announce them.
    Raise,
    /// Remove them.
    Drop,
}

/// What can happen to a module. Closed: what is not here cannot happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// First input of an engine's life.
    Boot,
    /// First input of an engine that was kept ([`Kept`]) and goes on in another life of its driver.
    GoneOn,
    /// An administrator's (or the boot policy's) order.
    Command(Command),
    /// A script counts an action of its own, or begins the count afresh.
    Loops(LoopChange),
    /// A newer status of the peer. `answers`: our newest beat the peer had processed when it made it.
    Heard {
        /// How the peer stands.
        status: Box<Status>,
        /// Which of our beats it answers.
        answers: Option<Ticket>,
    },
    /// A named timer ran out.
    Timer(Timer),
    /// A resource changed; `action` is what its checker does on down.
    Health {
        /// `class.ident`.
        name: String,
        /// New health.
        health: Health,
        /// Words of the checker.
        detail: String,
        /// What to do on down.
        action: Action,
        /// A pre-checker: holds the module in WAIT while down.
        is_pre: bool,
    },
    /// The data process says something unasked.
    Replica(ReplicaNote),
    /// The guard ended the application, because the right to serve had been over for too long.
    AppEnded,
    /// Long work ended.
    Done(JobId, Outcome),
}

/// How long work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A script. `code` absent = killed at its time-out.
    Script {
        /// Exit code.
        code: Option<i32>,
        /// How long it took.
        millis: u64,
    },
    /// Addresses are as ordered, or why not.
    Vip(Result<(), String>),
    /// Nothing of the application runs any more, or what does.
    Killed(Result<(), String>),
    /// The data process answered.
    Replica(ReplicaAnswer),
    /// The arbiter answered; absent = no answer, outcome unknown.
    Arbiter(Option<ArbiterAnswer>),
}

/// What the engine asks for. Carried out one after another, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// On disk before the next effect begins.
    Save(Box<Saved>),
    /// A beat now, with this status.
    Send(Box<Status>),
    /// (Re)start a timer from now.
    SetTimer(Timer, Duration),
    /// (Re)start a timer that counts from the instant `Ticket` was sent.
    SetTimerSince(Timer, Ticket, Duration),
    /// Stop a timer.
    StopTimer(Timer),
    /// The data process may acknowledge writes that need the peer until `Duration` after `Ticket` was sent.
    Entitle(Ticket, Duration),
    /// The data process needs no promise of the peer: this node alone is in sync.
    EntitleAlone,
    /// The data process may not acknowledge anything (frozen, or not serving).
    Disentitle,
    /// Start a script.
    Run(JobId, ScriptRun),
    /// End a script and what it has started: another one takes its place. Its `Done` may be left out.
    Cancel(JobId),
    /// End every process of the application that is left; the answer is the proof.
    Kill(JobId),
    /// Stop the application's processes where they are. Best effort; the proof is that nothing is acknowledged.
    Freeze,
    /// Let them run again.
    Thaw,
    /// Raise or drop the addresses.
    Vip(JobId, VipPlan),
    /// Order the data process.
    Replica(JobId, ReplicaOrder),
    /// Have the data process compare the two copies; how that ended is told to the world, and nothing follows here.
    Verify,
    /// Ask the arbiter.
    Ask(JobId, ArbiterRequest),
    /// Tell the world.
    Report(Event),
}

impl Effect {
    /// Leads to nothing but a beat, a timer, a line in the log, or a right that lasts a little longer: a driver that dies
    /// after it may go on from what it had kept before ([`Kept`]). Before any other effect what is kept is to be void.
    pub fn is_light(&self) -> bool {
        matches!(
            self,
            Effect::Send(_)
                | Effect::SetTimer(..)
                | Effect::SetTimerSince(..)
                | Effect::StopTimer(_)
                | Effect::Entitle(..)
                | Effect::Report(_)
        )
    }
}
