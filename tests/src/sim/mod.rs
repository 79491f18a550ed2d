//! Seeded simulator: the engines the agents run, in a world that is as bad as the real one and repeats exactly.
//!
//! Virtual time and one source of chance ([`rng`]): a seed says everything, and a seed run twice gives the same
//! trace, bit by bit. Effects are carried out as `node-agent/src/runner.rs` and `hands.rs` do ([`unit`], the one
//! place that knows effects), the data process as `node-agent/src/rfs` does ([`data`], [`stream`]).
//!
//! | file | what |
//! | --- | --- |
//! | [`unit`] | a module on a host: the runner's loop, and every effect |
//! | [`bounce`] | an agent that dies and is back |
//! | [`beat`], [`net`] | heartbeats with the link's rules; lines with loss, delay, reorder, duplication, cuts |
//! | [`disk`] | record in two slots, data tree behind a page cache |
//! | [`data`], [`stream`] | data process; connection, resynchronisation, follower |
//! | [`arbiter`] | the record; requests that arrive late, answers that are lost |
//! | [`faults`], [`operator`] | what goes wrong, and who clicks |
//! | [`check`] | what must hold; stands outside the system |
//! | [`turns`] | changes of state with what caused them |
//! | [`run`] | seeds, reports, replay |

pub mod arbiter;
pub mod beat;
pub mod bounce;
pub mod check;
pub mod data;
pub mod disk;
pub mod faults;
pub mod net;
pub mod operator;
pub mod rng;
pub mod run;
pub mod stream;
pub mod turns;
pub mod unit;

use arbiter::Arbiter;
use beat::Packet;
use check::{Figures, Floor, Violation};
use disk::WriteId;
use net::{LANS_MAX, MS, Net, S};
use rng::{Rng, mix};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;
use stream::Conn;
use tsugi_core::engine::{Input, MirrorConfig, Mutant};
use tsugi_core::ids::{JobId, NodeName};
use tsugi_core::module::{Action, Async, DefaultPrim, Timing};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};
use unit::Unit;

/// Which faults, and what is then demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Profile {
    /// Everything within the assumptions; all invariants.
    Normal,
    /// Clock rates off by up to 5 %: only the invariants of the data.
    Drift,
    /// An operator who also gives copies up and accepts losses: each consent is a new beginning.
    Consent,
    /// Hosts set back to an old snapshot, record and data together.
    Rollback,
}

impl Profile {
    /// The assumption about clocks holds, so that serving is exclusive.
    pub fn has_good_clocks(self) -> bool {
        self != Profile::Drift
    }
}

/// What a run consists of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Says everything else.
    pub seed: u64,
    /// Faults and demands.
    pub profile: Profile,
    /// Virtual time with faults; healing comes on top.
    pub minutes: u64,
    /// A rule left out of the engine.
    pub mutant: Option<Mutant>,
    /// Keep the last events as text.
    pub is_traced: bool,
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// Name in the cluster.
    pub name: NodeName,
    /// How much faster its clock runs than true time, in parts per million.
    pub ppm: i64,
    /// Reading of its clock at the beginning.
    pub offset: u64,
    /// Has power.
    pub is_on: bool,
    /// Counts power cycles.
    pub power: u64,
    /// The agent's life; 0 = none runs.
    pub life: u64,
    /// Stops (signals) of the agent not yet ended.
    pub agent_stops: u32,
    /// Of the data processes.
    pub data_stops: u32,
    /// Of the whole machine.
    pub host_stops: u32,
    /// What waits for a stopped process.
    deferred: VecDeque<Event>,
    /// Time of a flush.
    pub flush: (u64, u64),
    /// No room for data.
    pub is_full: bool,
    /// Writing or flushing data fails.
    pub has_data_errors: bool,
    /// Writing the record fails.
    pub has_record_errors: bool,
    /// Addresses can be neither raised nor dropped.
    pub has_vip_errors: bool,
    /// Of 1000 scripts: (slow, failing, hanging).
    pub scripts: (u64, u64, u64),
    /// Goes on without an agent or power for a reason that a person knows of.
    pub snapshot: Vec<Snapshot>,
}

/// A host's disks at an earlier time, for one module.
#[derive(Debug, Clone)]
pub struct Snapshot {
    module: usize,
    side: usize,
    record: disk::RecordDisk,
    tree: disk::Tree,
}

/// A module and its two places.
#[derive(Debug)]
pub struct Module {
    /// On its two hosts.
    pub units: [Unit; 2],
    /// Parent and depth of each write.
    pub writes: Vec<(WriteId, u32)>,
    /// What may not be lost.
    pub floor: Floor,
    /// Mean time between operations of the application.
    pub pace: u64,
    /// Time of one step of a resynchronisation.
    pub sync_pace: (u64, u64),
    /// What its checker does when the application is ill.
    pub check: Action,
    /// The application is ill on this side.
    pub is_ill: [bool; 2],
}

/// Something that will happen.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Event {
    // For an agent; wait while it is stopped, are dropped when it is gone.
    Wake { m: usize, s: usize, life: u64 },
    Renew { m: usize, s: usize, life: u64 },
    Continue { m: usize, s: usize, life: u64 },
    Inbox { m: usize, s: usize, life: u64, input: Box<Input> },
    Answer { m: usize, s: usize, life: u64, job: JobId, answer: Option<Box<ArbiterAnswer>> },
    Datagram { m: usize, s: usize, lan: usize, packet: Packet },
    // For a data process.
    Data { m: usize, s: usize, process: u64, what: data::DataEvent },
    // Of the world.
    Pump { conn: u64, to: usize },
    ConnTick { conn: u64 },
    Request { m: usize, s: usize, life: u64, job: JobId, request: Box<ArbiterRequest> },
    App { m: usize },
    AgentUp { h: usize, power: u64 },
    PowerOn { h: usize, power: u64 },
    Resume { h: usize, what: faults::Stopped, power: u64, life: u64 },
    Fault,
    Heal(faults::Remedy),
    Operate { m: usize },
    HealAll,
    Watch,
}

struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Lines kept of a traced run, per module.
const TRACE_KEPT: usize = 4000;

/// Everything.
pub struct World {
    /// How it was made.
    pub plan: Plan,
    /// True time in nanoseconds.
    pub now: u64,
    order: u64,
    queue: BinaryHeap<Entry>,
    rng: Rng,
    hosts: Vec<Host>,
    modules: Vec<Module>,
    net: Net,
    lans: usize,
    arbiter: Arbiter,
    conns: BTreeMap<u64, Conn>,
    next_id: u64,
    weather: faults::Weather,
    /// Faults have ceased.
    is_healed: bool,
    healed_at: u64,
    is_over: bool,
    /// What was seen.
    pub figures: Figures,
    /// Changes of state.
    pub turns: BTreeSet<turns::Turn>,
    /// The first rule broken.
    pub violation: Option<Violation>,
    /// Fingerprint of everything that happened.
    pub hash: u64,
    trace: VecDeque<(usize, String)>,
}

impl World {
    /// The world of a seed.
    pub fn new(plan: Plan) -> World {
        let mut rng = Rng::new(plan.seed ^ mix(plan.profile as u64 + 1));
        let count = 2 + rng.below(4);
        let ppm_max = if plan.profile == Profile::Drift { 50_000 } else { 500 };
        let hosts: Vec<Host> = (0..count).map(|h| Host::new(h, &mut rng, ppm_max)).collect();
        let lans = 1 + rng.below(LANS_MAX);
        let modules_count = if count == 2 { 1 + rng.below(2) } else { 1 + rng.below(count - 1) };
        let mut modules = Vec::new();
        for index in 0..modules_count {
            let a = index % count;
            let b = (a + 1 + rng.below(count - 1)) % count;
            modules.push(Module::new([a, b], &hosts, &mut rng, plan.mutant));
        }
        let weather = faults::Weather::new(&mut rng, plan.profile);
        let arbiter = Arbiter::new(modules.len());
        let mut world = World {
            plan,
            now: S,
            order: 0,
            queue: BinaryHeap::new(),
            rng,
            hosts,
            modules,
            net: Net::new(),
            lans,
            arbiter,
            conns: BTreeMap::new(),
            next_id: 1,
            weather,
            is_healed: false,
            healed_at: 0,
            is_over: false,
            figures: Figures::default(),
            turns: BTreeSet::new(),
            violation: None,
            hash: plan.seed,
            trace: VecDeque::new(),
        };
        world.begin();
        world
    }

    /// Runs to the end or to the first violation.
    pub fn run(&mut self) {
        while !self.is_over && self.violation.is_none() {
            let Some(entry) = self.queue.pop() else { break };
            self.now = entry.at;
            self.figures.events += 1;
            self.dispatch(entry.event);
        }
        self.figures.virtual_ns = self.now;
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Wake { m, s, life }
            | Event::Renew { m, s, life }
            | Event::Continue { m, s, life }
            | Event::Inbox { m, s, life, .. }
            | Event::Answer { m, s, life, .. } => {
                let h = self.modules[m].units[s].host;
                if self.hosts[h].life != life {
                    return;
                }
                if self.is_agent_stopped(h) {
                    return self.hosts[h].deferred.push_back(event);
                }
                self.for_agent(event);
            }
            Event::Datagram { m, s, .. } => {
                let h = self.modules[m].units[s].host;
                if !self.hosts[h].is_on || self.hosts[h].life == 0 {
                    return;
                }
                if self.is_agent_stopped(h) {
                    // A socket's buffer is finite.
                    if self.hosts[h].deferred.len() < 400 {
                        self.hosts[h].deferred.push_back(event);
                    }
                    return;
                }
                self.for_agent(event);
            }
            Event::Data { m, s, process, what } => {
                let h = self.modules[m].units[s].host;
                if self.modules[m].units[s].process(process).is_none() {
                    return;
                }
                if self.is_data_stopped(h) {
                    return self.hosts[h].deferred.push_back(Event::Data { m, s, process, what });
                }
                self.data_event(m, s, process, what);
            }
            Event::Pump { conn, to } => self.pump_conn(conn, to),
            Event::ConnTick { conn } => self.conn_tick(conn),
            Event::Request { m, s, life, job, request } => self.arbiter_receives(m, s, life, job, request),
            Event::App { m } => self.app(m),
            Event::AgentUp { h, power } => self.agent_up(h, power),
            Event::PowerOn { h, power } => self.power_on(h, power),
            Event::Resume { h, what, power, life } => self.resume(h, what, power, life),
            Event::Fault => self.fault(),
            Event::Heal(remedy) => self.heal(remedy),
            Event::Operate { m } => self.operate(m),
            Event::HealAll => self.heal_all(),
            Event::Watch => self.watch(),
        }
    }

    fn for_agent(&mut self, event: Event) {
        match event {
            Event::Wake { m, s, .. } => {
                self.modules[m].units[s].armed = u64::MAX;
                self.pump(m, s);
            }
            Event::Renew { m, s, .. } => self.renew_vip(m, s),
            Event::Continue { m, s, .. } => self.go_on(m, s),
            Event::Inbox { m, s, input, .. } => self.deliver(m, s, *input),
            Event::Answer { m, s, job, answer, .. } => self.arbiter_answered(m, s, job, answer.map(|a| *a)),
            Event::Datagram { m, s, lan, packet } => self.datagram(m, s, lan, &packet),
            _ => {}
        }
    }

    // ---- time ----

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.push(Entry { at: at.max(self.now), order: self.order, event });
    }

    fn after(&mut self, after: u64, event: Event) {
        self.at(self.now.saturating_add(after), event);
    }

    /// Reading of a host's clock. It goes on while the host is stopped or without power.
    fn local(&self, h: usize) -> u64 {
        let host = &self.hosts[h];
        (host.offset as i64 + self.now as i64 + (i128::from(self.now) * i128::from(host.ppm) / 1_000_000) as i64) as u64
    }

    /// The first true instant at which a host's clock reads at least `local`.
    fn true_at(&self, h: usize, local: u64) -> u64 {
        let now = self.local(h);
        let left = local.saturating_sub(now) as i128;
        let left = left * 1_000_000 / i128::from(1_000_000 + self.hosts[h].ppm);
        self.now + left as u64 + if left > 0 { MS / 100 } else { 0 }
    }

    fn is_agent_stopped(&self, h: usize) -> bool {
        self.hosts[h].agent_stops > 0 || self.hosts[h].host_stops > 0
    }

    fn is_data_stopped(&self, h: usize) -> bool {
        self.hosts[h].data_stops > 0 || self.hosts[h].host_stops > 0
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    // ---- trace ----

    /// Everything that happens goes into the fingerprint; as text only where somebody will read it.
    fn note(&mut self, m: usize, code: u64, text: impl FnOnce(&World) -> String) {
        self.hash = mix(self.hash ^ self.now.rotate_left(17) ^ (m as u64) << 56 ^ code);
        if self.plan.is_traced {
            let line = format!("{:>12.6} {}", self.now as f64 / 1e9, text(self));
            self.trace.push_back((m, line));
            if self.trace.len() > TRACE_KEPT {
                self.trace.pop_front();
            }
        }
    }

    /// The last events of a module, oldest first, with what befell all of them.
    pub fn last_events(&self, m: usize, count: usize) -> Vec<String> {
        let of: Vec<&String> = self.trace.iter().filter(|(of, _)| *of == m || *of == usize::MAX).map(|(_, line)| line).collect();
        of[of.len().saturating_sub(count)..].iter().map(|line| (*line).clone()).collect()
    }
}

impl Host {
    fn new(index: usize, rng: &mut Rng, ppm_max: u64) -> Host {
        Host {
            name: NodeName::new(format!("n{}", index + 1)).expect("a name"),
            ppm: rng.range(0, 2 * ppm_max) as i64 - ppm_max as i64,
            offset: rng.range(0, 1000) * S,
            is_on: true,
            power: 1,
            life: 0,
            agent_stops: 0,
            data_stops: 0,
            host_stops: 0,
            deferred: VecDeque::new(),
            flush: (MS / 2, 5 * MS),
            is_full: false,
            has_data_errors: false,
            has_record_errors: false,
            has_vip_errors: false,
            scripts: (0, 0, 0),
            snapshot: Vec::new(),
        }
    }
}

impl Module {
    fn new(at: [usize; 2], hosts: &[Host], rng: &mut Rng, mutant: Option<Mutant>) -> Module {
        use tsugi_core::module::Profile::{Fast, Normal, Tolerant};
        let timing = Timing::of(rng.pick(&[Fast, Normal, Normal, Normal, Tolerant]));
        let is_failover_on = !rng.chance(80);
        let default_prim = if rng.chance(200) { DefaultPrim::Node(hosts[at[rng.below(2)]].name.clone()) } else { DefaultPrim::Alone };
        let ack = if rng.chance(250) { Async::Second } else { Async::None };
        let maxloop = rng.pick(&[3, 3, 20]);
        let loop_interval = Duration::from_secs(rng.pick(&[0, 600, 24 * 3600]));
        let unit = |side: usize| {
            let (me, peer) = (hosts[at[side]].name.clone(), hosts[at[1 - side]].name.clone());
            let config = MirrorConfig {
                timing,
                is_failover_on,
                default_prim: default_prim.clone(),
                maxloop,
                loop_interval,
                ack,
                mutant,
                ..MirrorConfig::new(me, peer)
            };
            Unit::new(at[side], config)
        };
        let pace = rng.spread(100 * MS, 4 * S);
        let step = rng.spread(MS, 200 * MS);
        Module {
            units: [unit(0), unit(1)],
            writes: vec![(0, 0)],
            floor: Floor::default(),
            pace,
            sync_pace: (step / 2, step * 2),
            check: rng.pick(&[Action::NoAction, Action::Restart, Action::StopStart, Action::Wait, Action::Stop]),
            is_ill: [false; 2],
        }
    }
}
