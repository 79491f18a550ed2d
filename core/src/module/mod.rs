//! What a module *is*: definition, checked once at the border.
//!
//! `userconfig.xml` becomes a [`ModuleDef`] by [`xml::parse`], which reports every problem at once. A
//! `ModuleDef` that exists is right; nobody checks it again, but for what only a node can know (a missing
//! directory, an address in use).

use crate::markup::tree::shorten;
use crate::markup::{Place, Problem, ProblemKind};
use crate::rules::Ruleset;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

mod check;
mod defaults;
pub mod depends;
pub mod xml;

pub use check::*;
pub use defaults::default_rules;
pub use depends::Depend;

/// Type of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One serves, one follows.
    Mirror,
    /// All serve, traffic is shared.
    Farm,
    /// One node, restart and checkers only.
    Light,
}

/// `service boot=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// Start when the agent starts.
    On,
    /// Do not.
    Off,
    /// Only if it was running before (our default: what an administrator left running runs again).
    Auto,
}

/// Timing profile of a mirror's failure detection (`docs/PROTOCOL.md`, "Time").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Takeover after about 2.6 s.
    Fast,
    /// Takeover after about 5.1 s.
    #[default]
    Normal,
    /// Takeover after about 22 s: slow links, snapshotted virtual machines.
    Tolerant,
}

/// The third thing that lets a node go on without its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// The arbiter's record (default).
    #[default]
    Arbiter,
    /// The other node's power, cut and confirmed.
    Fence,
    /// A person: no automatic failover.
    Manual,
    /// Whoever still reaches a reference address goes on (`<splitbrain>`). Two may.
    Ping,
    /// Both go on.
    None,
}

impl Authority {
    /// Without a record outside of the two nodes: what one of them knows is in its own record only. A node that
    /// starts therefore never claims by itself as long as the other one may know better.
    pub fn is_own_record(self) -> bool {
        self != Authority::Arbiter
    }
    /// Two nodes may serve at once: never chosen without the configuration saying that this is accepted.
    pub fn may_split(self) -> bool {
        matches!(self, Authority::Ping | Authority::None)
    }
    /// As written in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Authority::Arbiter => "arbiter",
            Authority::Fence => "fence",
            Authority::Manual => "manual",
            Authority::Ping => "ping",
            Authority::None => "none",
        }
    }
}

/// How the power of the other node is cut (`<fence>`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// What is run.
    pub driver: FenceDriver,
    /// What a secondary waits before it fences, so that two nodes that lost each other do not shoot each other.
    pub delay: Duration,
    /// Longest run of the driver, the read-back included.
    pub timeout: Duration,
    /// What a fence agent reads; in the order of the text.
    pub options: Vec<FenceOption>,
}

/// What cuts the power.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceDriver {
    /// A script, called `off NODE`: exit code 0 is the confirmation. An absolute path; absent = `bin/fence` of the module.
    Script(Option<String>),
    /// A program with the convention of the package `fence-agents`: the file name (looked for where that package puts
    /// it) or an absolute path.
    Agent(String),
}

/// `name=value` for a fence agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FenceOption {
    /// Given only when this node is fenced; absent = always.
    pub node: Option<crate::ids::NodeName>,
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Times of a mirror, all derived from profile or `heart timeout` (rule: `docs/PROTOCOL.md`, "Time").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    /// Heartbeat period on every configured network.
    pub beat: Duration,
    /// `P_S`: silence of the secondary after which the primary starts its claim.
    pub silence: Duration,
    /// `P_A`: how long the primary believes a promise, from the *send* time of the beat that was answered.
    pub believe: Duration,
    /// `F`: budget to stop acknowledging, drop the address and freeze.
    pub freeze: Duration,
    /// `P_B`: how long the secondary keeps its promise, from *receipt* of the beat it answered.
    pub keep: Duration,
}

/// Assumed bound on the relative rate error of two clocks: 500 ppm, the kernel's own slew limit.
const DRIFT_PPM: u64 = 500;
/// Scheduling slack added to the secondary's bound.
const SLACK: Duration = Duration::from_millis(50);

impl Timing {
    /// Times of a profile without a watchdog.
    pub fn of(profile: Profile) -> Timing {
        let ms = Duration::from_millis;
        let (beat, silence, believe, freeze) = match profile {
            Profile::Fast => (ms(250), ms(800), ms(2000), ms(500)),
            Profile::Normal => (ms(500), ms(2000), ms(4000), ms(1000)),
            Profile::Tolerant => (ms(1000), ms(8000), ms(20000), ms(2000)),
        };
        Timing { beat, silence, believe, freeze, keep: Self::keep_for(believe, freeze) }
    }

    /// `P_B = (P_A + F)·(1 + 2ρ) + 50 ms`.
    fn keep_for(believe: Duration, freeze: Duration) -> Duration {
        let sum = (believe + freeze).as_micros() as u64;
        Duration::from_micros(sum + sum * 2 * DRIFT_PPM / 1_000_000) + SLACK
    }

    /// Times for an explicit `heart timeout` (= `P_B`). Errors with the least acceptable value when the
    /// profile's freeze budget and two beats do not fit.
    pub fn with_timeout(profile: Profile, timeout: Duration, pulse: Option<Duration>) -> Result<Timing, Duration> {
        let base = Timing::of(profile);
        let beat = pulse.unwrap_or_else(|| base.beat.min(timeout / 8));
        let least = Self::keep_for(beat * 3, base.freeze);
        if timeout < least {
            return Err(least);
        }
        let inner = (timeout - SLACK).as_micros() as u64 * 1_000_000 / (1_000_000 + 2 * DRIFT_PPM);
        let believe = Duration::from_micros(inner) - base.freeze;
        // Fewer than four beats are lost too easily: the second copy would go with them.
        let silence = base.silence.min(believe / 2).max(beat * 4).min(believe - beat / 2);
        Ok(Timing { beat, silence, believe, freeze: base.freeze, keep: timeout })
    }
}

/// Who is primary once both nodes run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultPrim {
    /// Whoever is ALONE stays primary.
    #[default]
    Alone,
    /// This node takes the role back once it is in sync.
    Node(crate::ids::NodeName),
    /// The restarted node takes the role back if it had it before its last stop.
    LastPrim,
}

/// When the secondary answers an fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Async {
    /// `async="none"`, our default: when its disk has the data.
    #[default]
    None,
    /// `async="second"`: when it is in its memory.
    Second,
}

/// How the contents of files travel to the secondary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// `compress="off"`, our default: as they are.
    #[default]
    Off,
    /// `compress="lz4"`: compressed, where that makes them shorter.
    Lz4,
}

/// One replicated tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Replicated {
    /// Absolute path, the same on both nodes; any characters but NUL.
    pub dir: String,
    /// Relative paths excluded from replication.
    pub not_replicated: Vec<String>,
    /// What the names of objects excluded from replication look like.
    #[serde(default)]
    pub not_replicated_names: Vec<NamePattern>,
    /// Relative paths that must exist before replication starts (guards against an unmounted file system).
    pub to_check: Vec<String>,
}

/// `notreplicated regexpath=`: a POSIX extended regular expression for names, or `!` and one.
///
/// Whether it can be used is said where it is compiled, which is not in this crate: hence its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamePattern {
    /// As it is written.
    pub text: String,
    /// Where in `userconfig.xml`.
    pub place: Place,
}

impl NamePattern {
    /// Says that it cannot be used, and why (English, a half sentence).
    pub fn cannot_be_used(&self, why: &str) -> Problem {
        let kind = ProblemKind::BadPattern { pattern: shorten(&self.text), why: why.to_owned() };
        let element = "safe/service/rfs/replicated/notreplicated".to_owned();
        Problem::error(self.place, element, Some("regexpath".to_owned()), kind)
    }
}

/// `<rfs>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rfs {
    /// Durability of fsync on the secondary.
    pub ack: Async,
    /// Cap on resynchronisation in KB/s.
    pub resync_kb_per_s_max: Option<u64>,
    /// How contents travel.
    #[serde(default)]
    pub compress: Compress,
    /// The copies are compared by themselves so long after the last time; absent = only when somebody orders it.
    #[serde(default)]
    pub verify_every: Option<Duration>,
    /// Trees.
    pub replicated: Vec<Replicated>,
}

/// A virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length; absent = that of the interface's own address in the same subnet.
    pub prefix: Option<u8>,
    /// Interface; absent = the one with an address in the same subnet.
    pub interface: Option<String>,
    /// Generates the checker `ip.<addr>`.
    pub is_checked: bool,
}

/// A heartbeat network of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heartbeat {
    /// LAN name of `cluster.xml`.
    pub lan: String,
    /// `ident="flow"` marks the replication network (default: the first heartbeat).
    pub is_flow: bool,
}

/// `<heart>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heart {
    /// UDP port of the heartbeats; absent = 8888 + (module id − 1).
    pub port: Option<u16>,
    /// Times.
    pub timing: Timing,
    /// Networks; empty = every LAN of the cluster that holds both nodes.
    pub heartbeats: Vec<Heartbeat>,
}

/// `<user>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct User {
    /// Time-out of start scripts.
    pub start_timeout: Duration,
    /// Time-out of a stop script.
    pub stop_timeout: Duration,
    /// Time-out of a stop script with `force`.
    pub force_timeout: Duration,
    /// Environment variables.
    pub vars: BTreeMap<String, String>,
    /// What everything its scripts start may use, all together.
    pub limits: Limits,
}

/// What the processes of a module may use, all together. Absent = no limit of the module's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes; beyond it the kernel ends processes of the module, and of nobody else.
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads; absent = the agent's own bound, so that no module can fill the machine's table.
    pub pids_max: Option<u32>,
    /// Share of the processors when they are short, 1 to 10,000; everybody else has 100.
    pub cpu_weight: Option<u32>,
}

/// What a checker does when its resource goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing; the resource is shown only.
    NoAction,
    /// The module waits until it is up again.
    Wait,
    /// Stop and start scripts in place.
    Restart,
    /// Full stop and start: the secondary takes over.
    StopStart,
    /// Stop.
    Stop,
}

/// Scripts of a module (`bin/<name>`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptName {
    /// Module start: the application must be down afterwards.
    Prestart,
    /// Entering PRIM or ALONE.
    StartPrim,
    /// Leaving PRIM or ALONE.
    StopPrim,
    /// Entering any running state (UP in a farm).
    StartBoth,
    /// Leaving it.
    StopBoth,
    /// Entering SECOND.
    StartSecond,
    /// Leaving it.
    StopSecond,
    /// Entering SECOND or ALONE.
    StartSec,
    /// Leaving them for another state than the two.
    StopSec,
    /// Module stop.
    Poststop,
    /// Each major state change.
    Transition,
    /// A new configuration was taken up while the module runs.
    Update,
}

impl ScriptName {
    /// File name under `bin/`.
    pub fn file(self) -> &'static str {
        match self {
            ScriptName::Prestart => "prestart",
            ScriptName::StartPrim => "start_prim",
            ScriptName::StopPrim => "stop_prim",
            ScriptName::StartBoth => "start_both",
            ScriptName::StopBoth => "stop_both",
            ScriptName::StartSecond => "start_second",
            ScriptName::StopSecond => "stop_second",
            ScriptName::StartSec => "start_sec",
            ScriptName::StopSec => "stop_sec",
            ScriptName::Poststop => "poststop",
            ScriptName::Transition => "transition",
            ScriptName::Update => "update",
        }
    }

    /// Every script.
    pub const ALL: [ScriptName; 12] = [
        ScriptName::Prestart,
        ScriptName::StartPrim,
        ScriptName::StopPrim,
        ScriptName::StartBoth,
        ScriptName::StopBoth,
        ScriptName::StartSecond,
        ScriptName::StopSecond,
        ScriptName::StartSec,
        ScriptName::StopSec,
        ScriptName::Poststop,
        ScriptName::Transition,
        ScriptName::Update,
    ];

    /// The script whose file has this name.
    pub fn of_file(file: &str) -> Option<ScriptName> {
        Self::ALL.into_iter().find(|s| s.file() == file)
    }

    /// It ends something: the time-outs of stop scripts hold, gentle and with `force`.
    pub fn is_stop(self) -> bool {
        self.stops().is_some() || self == ScriptName::Poststop
    }

    /// The start script whose work this one undoes.
    pub fn stops(self) -> Option<ScriptName> {
        match self {
            ScriptName::StopPrim => Some(ScriptName::StartPrim),
            ScriptName::StopBoth => Some(ScriptName::StartBoth),
            ScriptName::StopSecond => Some(ScriptName::StartSecond),
            ScriptName::StopSec => Some(ScriptName::StartSec),
            _ => None,
        }
    }
}

/// A module, checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModuleDef {
    /// Type.
    pub mode: Mode,
    /// Start at boot.
    pub boot: Boot,
    /// Delay before a boot start.
    pub boot_delay: Duration,
    /// `failover="off"` = false.
    pub is_failover_on: bool,
    /// Who is primary once both run.
    pub default_prim: DefaultPrim,
    /// Automatic actions allowed per interval.
    pub maxloop: u32,
    /// That interval; zero switches the counter off.
    pub loop_interval: Duration,
    /// Right to go on without the peer.
    pub authority: Authority,
    /// Keeper of the record, where the authority is an arbiter.
    pub arbiter: crate::ids::ArbiterName,
    /// Reference addresses of `<splitbrain>`, where the authority is `ping`.
    pub witnesses: Vec<IpAddr>,
    /// How the peer is fenced, where the authority is `fence`.
    pub fence: Option<Fence>,
    /// Heartbeats (mirror).
    pub heart: Heart,
    /// Virtual addresses.
    pub vips: Vec<Vip>,
    /// Replication (mirror).
    pub rfs: Option<Rfs>,
    /// Scripts; absent = no script runs.
    pub user: Option<User>,
    /// Checkers, `<check>`, `<errd>` and `<depends>` alike, with the generated ones.
    pub checks: Vec<Check>,
    /// What is done when they go up and down: the rules of the checkers, then those of `<failover>`.
    #[serde(default)]
    pub rules: Ruleset,
    /// Modules of this node that must be there first; each is also a checker `module.NAME`.
    #[serde(default)]
    pub depends: Vec<Depend>,
}
