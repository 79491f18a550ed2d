//! A module on a host: the runner's loop, and every effect of the engine carried out as the agent does.
//!
//! [`World::carry_out`] is the one place that knows effects.

use super::beat::{Body, Link, Packet};
use super::data::{DataEvent, Process};
use super::disk::{Load, RecordDisk, Tree};
use super::net::{MS, S};
use super::{Event, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use tsugi_core::command::{BY_BOOT, Command, Verb};
use tsugi_core::engine::{Effect, Input, Mirror, MirrorConfig, Outcome, Saved, ScriptRun, Ticket, Timer, VipPlan};
use tsugi_core::event::Event as Said;
use tsugi_core::ids::{Epoch, JobId, Lsn};
use tsugi_core::module::ScriptName;
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::{Flag, Health, Readiness, Reason, State};

/// Time-out of a start script, of a stop script, and of a forced one.
const SCRIPT_MAX: (u64, u64, u64) = (60 * S, 30 * S, 10 * S);
/// The agent's own time-out of a request to the arbiter.
pub const ASK_MAX: u64 = 8 * S;
/// No acknowledgement whatever.
pub const SHUT: u64 = 0;
/// No promise needed.
pub const OPEN: u64 = u64::MAX;

/// What the runner waits for before the next effect.
#[derive(Debug)]
enum Pending {
    Save,
    Vip(JobId, VipPlan),
    Spawn(JobId, ReplicaOrder),
}

/// See the module.
#[derive(Debug)]
pub struct Unit {
    /// Its host.
    pub host: usize,
    config: MirrorConfig,
    /// Survives agents.
    pub record: RecordDisk,
    /// The data on this host.
    pub tree: Tree,
    /// The engine of the present agent.
    pub engine: Option<Mirror>,
    /// The record could not be written: out of service until the next agent.
    pub is_failed: bool,
    effects: VecDeque<Effect>,
    pending: Option<Pending>,
    inbox: VecDeque<Input>,
    heard: VecDeque<(u64, u64)>,
    timers: BTreeMap<Timer, u64>,
    /// The instant of the wake-up in the queue.
    pub armed: u64,
    pub(super) link: Option<Link>,
    /// What its dead agent has left of it.
    pub(super) kept: Option<super::bounce::Kept>,
    /// What the data process has said unasked, and how much of it the engine knows.
    pub(super) told: Vec<ReplicaNote>,
    pub(super) heard_notes: usize,
    /// Orders of the data process that are not answered.
    pub(super) ordered: BTreeSet<JobId>,
    asks: BTreeSet<JobId>,
    scripts: BTreeSet<JobId>,
    checks: BTreeSet<&'static str>,
    /// Addresses are on the interface …
    is_vip_up: bool,
    /// … until then, unless renewed.
    vip_until: u64,
    is_vip_wanted: bool,
    /// The deadline of acknowledgements as last set, by this host's clock.
    pub deadline: u64,
    /// The application runs.
    pub is_app_up: bool,
    /// The data process that takes orders.
    pub data: Option<Process>,
    /// Those of dead agents that have not ended yet.
    pub orphans: Vec<Process>,
    /// The data process is dead and its agent has not noticed: orders go nowhere.
    pub is_death_untold: bool,
}

impl Unit {
    /// A module installed on a host, nothing running.
    pub fn new(host: usize, config: MirrorConfig) -> Unit {
        Unit {
            host,
            config,
            record: RecordDisk::default(),
            tree: Tree::default(),
            engine: None,
            is_failed: false,
            effects: VecDeque::new(),
            pending: None,
            inbox: VecDeque::new(),
            heard: VecDeque::new(),
            timers: BTreeMap::new(),
            armed: u64::MAX,
            link: None,
            kept: None,
            told: Vec::new(),
            heard_notes: 0,
            ordered: BTreeSet::new(),
            asks: BTreeSet::new(),
            scripts: BTreeSet::new(),
            checks: BTreeSet::new(),
            is_vip_up: false,
            vip_until: 0,
            is_vip_wanted: false,
            deadline: SHUT,
            is_app_up: false,
            data: None,
            orphans: Vec::new(),
            is_death_untold: false,
        }
    }
    /// The process of this number, if it still runs.
    pub fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.data.as_mut().into_iter().chain(&mut self.orphans).find(|p| p.id == id)
    }
    /// All that run.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.data.iter().chain(&self.orphans)
    }
    /// What its engine is configured with.
    pub fn config(&self) -> &MirrorConfig {
        &self.config
    }
    /// The addresses are on the interface at `now`.
    pub fn has_vip(&self, now: u64) -> bool {
        self.is_vip_up && now < self.vip_until
    }
    /// Every effect so far is carried out, and nothing is waited for.
    pub fn is_carried_out(&self) -> bool {
        self.effects.is_empty() && self.pending.is_none()
    }
    /// Running timers.
    pub fn timers(&self) -> &BTreeMap<Timer, u64> {
        &self.timers
    }
    /// The same, of an engine that goes on.
    pub fn set_timers(&mut self, timers: BTreeMap<Timer, u64>) {
        self.timers = timers;
    }
    /// The addresses are to be up, or not.
    pub fn want_vip(&mut self, is_wanted: bool) {
        self.is_vip_wanted = is_wanted;
    }
    /// Something for the engine, behind what is there already.
    pub fn push(&mut self, input: Input) {
        self.inbox.push_back(input);
    }
    /// Kept alive by the agent, not only by the kernel.
    pub fn is_vip_renewed(&self) -> bool {
        self.is_vip_up && self.vip_until == u64::MAX
    }
}

impl World {
    // ---- lives ----

    /// An agent starts on a host that has power and none.
    pub(super) fn agent_up(&mut self, h: usize, power: u64) {
        let host = &self.hosts[h];
        if host.life != 0 || !host.is_on || host.power != power {
            return;
        }
        let life = self.new_id();
        self.hosts[h].life = life;
        self.hosts[h].agent_stops = 0;
        for (m, s) in self.units_of(h) {
            self.kill_orphans(m, s);
            if self.takes_over(m, s) {
                continue;
            }
            // What did not end by itself is ended.
            self.kill_orphans(m, s);
            let now = self.local(h);
            let entropy = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
            let lans = self.lans;
            let unit = &mut self.modules[m].units[s];
            let saved = match unit.record.load() {
                Load::Fresh => Saved::default(),
                Load::Saved(saved) => *saved,
                Load::Damaged => Saved { flag: Flag::Unknown, epoch: Epoch(1), ..Saved::default() },
            };
            let must_start = saved.is_started;
            unit.engine = Some(Mirror::new(unit.config.clone(), saved, entropy));
            unit.link = Some(Link::new(life, now, lans));
            unit.is_failed = false;
            unit.deadline = SHUT;
            // What an earlier life left: processes of the application, addresses.
            (unit.is_app_up, unit.is_vip_up, unit.is_vip_wanted) = (false, false, false);
            self.note(m, 1, |w| format!("n{} agent starts, life {life}, {}", h + 1, w.describe_unit(m, s)));
            self.step(m, s, Input::Boot);
            if must_start {
                let command = Command { id: String::new(), verb: Verb::Start, by: BY_BOOT.into(), reason: None, is_automatic: false };
                self.modules[m].units[s].inbox.push_back(Input::Command(command));
            }
            self.pump(m, s);
        }
    }

    /// The agent of a host is gone; its data processes notice soon.
    pub(super) fn agent_dies(&mut self, h: usize) {
        if self.hosts[h].life == 0 {
            return;
        }
        self.hosts[h].life = 0;
        self.hosts[h].agent_stops = 0;
        for (m, s) in self.units_of(h) {
            let now = self.now;
            let vip_until = now + self.vip_lifetime(m, s);
            let is_power = !self.hosts[h].is_on;
            let kept = if is_power { None } else { self.leave(m, s) };
            let unit = &mut self.modules[m].units[s];
            unit.record.interrupt(&mut self.rng, is_power);
            unit.engine = None;
            unit.is_death_untold = false;
            unit.effects.clear();
            unit.inbox.clear();
            unit.heard.clear();
            unit.timers.clear();
            unit.asks.clear();
            unit.scripts.clear();
            unit.checks.clear();
            unit.pending = None;
            unit.link = None;
            unit.armed = u64::MAX;
            unit.ordered.clear();
            unit.vip_until = unit.vip_until.min(vip_until);
            unit.kept = kept;
            if unit.kept.is_some() {
                let id = unit.data.as_ref().map_or(0, |p| p.id);
                self.after(MS, Event::Data { m, s, process: id, what: DataEvent::Lonely });
            } else if let Some(process) = unit.data.take() {
                let id = process.id;
                unit.orphans.push(process);
                let soon = self.rng.range(MS / 10, 20 * MS);
                self.after(soon, Event::Data { m, s, process: id, what: DataEvent::Orphaned });
            }
            self.note(m, 2, |_| format!("n{} agent is dead", h + 1));
        }
    }

    /// Modules on a host: (module, side).
    pub(super) fn units_of(&self, h: usize) -> Vec<(usize, usize)> {
        let all = (0..self.modules.len()).flat_map(|m| [(m, 0), (m, 1)]);
        all.filter(|(m, s)| self.modules[*m].units[*s].host == h).collect()
    }

    /// Whole seconds, at least two, as the agent asks of the kernel.
    fn vip_lifetime(&self, m: usize, s: usize) -> u64 {
        self.modules[m].units[s].config.timing.keep.as_secs().max(2) * S
    }

    /// A stopped agent renews nothing; one that goes on does at its next tick, after what was due meanwhile.
    pub(super) fn vips_after(&mut self, h: usize, is_stopped: bool) {
        for (m, s) in self.units_of(h) {
            let lifetime = self.vip_lifetime(m, s);
            let (now, life) = (self.now, self.hosts[h].life);
            let time = self.rng.range(10 * MS, 500 * MS);
            let unit = &mut self.modules[m].units[s];
            if is_stopped && unit.is_vip_renewed() {
                unit.vip_until = now + lifetime.saturating_sub(time);
            } else if !is_stopped {
                self.after(time, Event::Renew { m, s, life });
            }
        }
    }

    fn is_renewing(&self, m: usize, s: usize) -> bool {
        let unit = &self.modules[m].units[s];
        let is_entitled = |e: &Mirror| e.is_serving() && e.reason() != Some(&Reason::Frozen);
        unit.is_vip_wanted && unit.engine.as_ref().is_some_and(is_entitled) && !unit.is_failed && !self.is_agent_stopped(unit.host)
    }

    /// The runner's tick: an address that is wanted is kept, and comes back if it ran out.
    pub(super) fn renew_vip(&mut self, m: usize, s: usize) {
        let now = self.local(self.modules[m].units[s].host);
        let unit = &self.modules[m].units[s];
        if unit.pending.is_some() || !unit.inbox.is_empty() || unit.timers.values().any(|at| *at <= now) {
            // The loop ticks when nothing else is to be done.
            let life = self.hosts[unit.host].life;
            self.after(10 * MS, Event::Renew { m, s, life });
        } else if self.is_renewing(m, s) {
            let unit = &mut self.modules[m].units[s];
            (unit.is_vip_up, unit.vip_until) = (true, u64::MAX);
        }
    }

    /// From here the kernel's lifetime runs.
    fn stop_renewing(&mut self, m: usize, s: usize) {
        if !self.is_renewing(m, s) && self.modules[m].units[s].is_vip_renewed() {
            self.modules[m].units[s].vip_until = self.now + self.vip_lifetime(m, s);
        }
    }

    // ---- the runner's loop ----

    /// Something for the engine, behind what is there already.
    pub(super) fn deliver(&mut self, m: usize, s: usize, input: Input) {
        let unit = &mut self.modules[m].units[s];
        let is_old = match &input {
            Input::Health { name, .. } => !unit.checks.contains(name.as_str()),
            Input::Done(job, Outcome::Script { .. }) => !unit.scripts.remove(job),
            _ => false,
        };
        if unit.engine.is_some() && !unit.is_failed && !is_old {
            unit.inbox.push_back(input);
            self.pump(m, s);
        }
    }

    /// Takes the next step as long as there is one and nothing is waited for.
    pub(super) fn pump(&mut self, m: usize, s: usize) {
        loop {
            let h = self.modules[m].units[s].host;
            if self.violation.is_some() || self.is_agent_stopped(h) {
                return;
            }
            let now = self.local(h);
            let unit = &mut self.modules[m].units[s];
            if unit.engine.is_none() || unit.is_failed || unit.pending.is_some() {
                return;
            }
            if let Some(effect) = unit.effects.pop_front() {
                self.carry_out(m, s, effect);
            } else if let Some(name) = self.check_to_end(m, s) {
                self.step(
                    m,
                    s,
                    Input::Health {
                        name: name.into(),
                        health: Health::Off,
                        detail: String::new(),
                        action: self.modules[m].check,
                        is_pre: false,
                    },
                );
            } else if let Some(input) = self.modules[m].units[s].inbox.pop_front() {
                self.step(m, s, input);
            } else {
                let unit = &mut self.modules[m].units[s];
                let Some((timer, at)) = unit.timers.iter().min_by_key(|(_, at)| **at).map(|(timer, at)| (*timer, *at)) else { return };
                if at <= now {
                    unit.timers.remove(&timer);
                    self.step(m, s, Input::Timer(timer));
                } else {
                    let wake = self.true_at(h, at);
                    let unit = &mut self.modules[m].units[s];
                    if wake < unit.armed {
                        unit.armed = wake;
                        let life = self.hosts[h].life;
                        // A sleep may last longer than asked.
                        let late = self.rng.range(0, MS);
                        self.at(wake + late, Event::Wake { m, s, life });
                    }
                    return;
                }
            }
        }
    }

    /// One input into the engine, by whoever is not the loop.
    pub(super) fn feed(&mut self, m: usize, s: usize, input: Input) {
        self.step(m, s, input);
    }

    /// One input into the engine.
    fn step(&mut self, m: usize, s: usize, input: Input) {
        let is_beat = matches!(input, Input::Heard { .. } | Input::Timer(Timer::Beat));
        if self.plan.is_traced && !is_beat {
            let text = format!("{input:?}");
            self.note(m, 0, |w| format!("n{} <- {}", w.modules[m].units[s].host + 1, &text[..text.len().min(300)]));
        } else {
            self.note(m, 0, |_| "beat".into());
            if self.plan.is_traced {
                self.trace.pop_back();
            }
        }
        let is_heard = matches!(input, Input::Heard { .. });
        match &input {
            Input::Replica(ReplicaNote::Died { .. }) => self.modules[m].units[s].ordered.clear(),
            Input::Replica(_) => self.modules[m].units[s].heard_notes += 1,
            Input::Done(job, Outcome::Replica(_)) => drop(self.modules[m].units[s].ordered.remove(job)),
            _ => {}
        }
        let cause = super::turns::Cause::of(&input);
        if let Input::Replica(ReplicaNote::Died { .. }) = &input {
            self.modules[m].units[s].is_death_untold = false;
            self.forget_data(m, s);
        }
        let unit = &mut self.modules[m].units[s];
        let Some(engine) = unit.engine.as_mut() else { return };
        let before = (engine.is_serving(), engine.state(), engine.readiness());
        let mut effects = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| engine.step(input, &mut effects)));
        if let Err(panic) = ended {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
            return self.violate(m, "engine panics", text.unwrap_or_default());
        }
        let after = (engine.is_serving(), engine.state(), engine.readiness());
        super::turns::note(&mut self.turns, cause, &effects);
        unit.effects.extend(effects);
        if is_heard
            && let Some((life, seq)) = unit.heard.pop_front()
            && let Some(link) = unit.link.as_mut()
        {
            link.processed(life, seq);
        }
        if before != after {
            self.note(m, 3 + after.1 as u64 * 16 + after.2 as u64, |w| {
                format!("n{}: {}", w.modules[m].units[s].host + 1, w.describe_unit(m, s))
            });
            self.stop_renewing(m, s);
            self.changed(m, s, before.0, before.1);
        }
    }

    /// What the runner waited for is done.
    pub(super) fn go_on(&mut self, m: usize, s: usize) {
        match self.modules[m].units[s].pending.take() {
            Some(Pending::Save) => {
                let h = self.modules[m].units[s].host;
                if self.hosts[h].has_record_errors {
                    return self.record_fails(m, s);
                }
                let life = self.hosts[h].life;
                let module = &mut self.modules[m];
                let before = module.units[s].record.newest().map_or(Flag::Unknown, |r| r.flag);
                module.units[s].record.commit();
                let is_first_step = module.units[s].record.newest().is_some_and(|r| r.flag == Flag::Inconsistent);
                if is_first_step {
                    module.floor.flag_before[s] = before;
                }
                module.floor.saved_in[s] = life;
                self.joins_line(m, s);
                self.check_copies(m, "a record is saved");
            }
            Some(Pending::Vip(job, plan)) => {
                let h = self.modules[m].units[s].host;
                let result = if self.hosts[h].has_vip_errors { Err("simulated: netlink refuses".to_owned()) } else { Ok(()) };
                let unit = &mut self.modules[m].units[s];
                unit.is_vip_wanted = plan == VipPlan::Raise;
                if result.is_ok() {
                    (unit.is_vip_up, unit.vip_until) = (plan == VipPlan::Raise, u64::MAX);
                }
                self.stop_renewing(m, s);
                self.modules[m].units[s].inbox.push_back(Input::Done(job, Outcome::Vip(result)));
            }
            Some(Pending::Spawn(job, order)) => {
                let id = self.new_id();
                let unit = &mut self.modules[m].units[s];
                unit.data = Some(Process::new(id, unit.deadline));
                (unit.heard_notes, unit.kept) = (0, None);
                unit.told.clear();
                self.data_order(m, s, job, order);
            }
            None => {}
        }
        self.pump(m, s);
    }

    /// A node that cannot remember must not serve (`Runner::fail`).
    fn record_fails(&mut self, m: usize, s: usize) {
        self.note(m, 4, |w| format!("n{}: the record cannot be written", w.modules[m].units[s].host + 1));
        let unit = &mut self.modules[m].units[s];
        unit.record.interrupt(&mut self.rng, false);
        unit.timers.clear();
        unit.effects.clear();
        unit.inbox.clear();
        unit.heard.clear();
        unit.pending = None;
        unit.is_failed = true;
        (unit.is_vip_up, unit.is_vip_wanted, unit.is_app_up) = (false, false, false);
        self.set_deadline(m, s, SHUT);
        self.forget_data(m, s);
    }

    // ---- effects ----

    /// One effect. What it needs before the next one begins is waited for by `pending`.
    fn carry_out(&mut self, m: usize, s: usize, effect: Effect) {
        let h = self.modules[m].units[s].host;
        let life = self.hosts[h].life;
        let now = self.local(h);
        match effect {
            Effect::Save(saved) => {
                let (low, high) = self.hosts[h].flush;
                let time = self.rng.range(low, high);
                let vip_until = self.now + self.vip_lifetime(m, s);
                let unit = &mut self.modules[m].units[s];
                unit.record.begin(saved);
                unit.pending = Some(Pending::Save);
                if time > 500 * MS && unit.is_vip_renewed() {
                    // The loop stands still, and nobody renews.
                    unit.vip_until = vip_until;
                    self.after(time, Event::Renew { m, s, life });
                }
                self.after(time, Event::Continue { m, s, life });
            }
            Effect::Send(status) => self.send_beat(m, s, Rc::new(*status)),
            Effect::SetTimer(timer, after) => {
                self.modules[m].units[s].timers.insert(timer, now + after.as_nanos() as u64);
            }
            Effect::SetTimerSince(timer, Ticket(seq), after) => {
                let unit = &mut self.modules[m].units[s];
                let sent = unit.link.as_ref().and_then(|l| l.sent_at(seq));
                unit.timers.insert(timer, sent.map_or(0, |sent| sent + after.as_nanos() as u64));
            }
            Effect::StopTimer(timer) => {
                self.modules[m].units[s].timers.remove(&timer);
            }
            Effect::Entitle(Ticket(seq), after) => {
                let sent = self.modules[m].units[s].link.as_ref().and_then(|l| l.sent_at(seq));
                if let Some(sent) = sent {
                    self.set_deadline(m, s, sent + after.as_nanos() as u64);
                }
            }
            Effect::EntitleAlone => self.set_deadline(m, s, OPEN),
            Effect::Disentitle => self.set_deadline(m, s, SHUT),
            Effect::Run(job, run) => self.run_script(m, s, job, &run),
            Effect::Cancel(job) => {
                // Ended with all it had begun; its end may or may not be told.
                if self.rng.chance(500) {
                    let input = Box::new(Input::Done(job, Outcome::Script { code: None, millis: 0 }));
                    self.after(5 * MS, Event::Inbox { m, s, life, input });
                } else {
                    self.modules[m].units[s].scripts.remove(&job);
                }
            }
            Effect::Kill(job) => {
                let is_stuck = self.hosts[h].scripts.2 > 0 && self.rng.chance(200);
                let result = if is_stuck { Err("simulated: a process hangs in the kernel".to_owned()) } else { Ok(()) };
                self.modules[m].units[s].is_app_up = is_stuck && self.modules[m].units[s].is_app_up;
                let time = self.rng.range(MS, 100 * MS);
                let input = Box::new(Input::Done(job, Outcome::Killed(result)));
                self.after(time, Event::Inbox { m, s, life, input });
            }
            // The agent does nothing here: what counts is that nothing is acknowledged.
            Effect::Freeze | Effect::Thaw => {}
            Effect::Vip(job, plan) => {
                self.modules[m].units[s].pending = Some(Pending::Vip(job, plan));
                let time = self.rng.range(MS, 5 * MS);
                self.after(time, Event::Continue { m, s, life });
            }
            Effect::Replica(job, order) => {
                self.modules[m].units[s].ordered.insert(job);
                self.order_data(m, s, job, order);
            }
            // What differs on a disk is no matter of the rules.
            Effect::Verify => {}
            Effect::Ask(job, request) => {
                self.modules[m].units[s].asks.insert(job);
                self.ask_arbiter(m, s, job, request);
            }
            Effect::Report(event) => {
                let consent = match &event {
                    Said::Ordered { verb: Verb::Prim { accept_loss }, .. } => Some(*accept_loss),
                    Said::Ordered { verb: Verb::PrimForce | Verb::Resolve { .. }, .. } => Some(true),
                    _ => None,
                };
                if let Some(consent) = consent {
                    self.modules[m].floor.accepts_loss[s] = consent;
                }
                if self.plan.is_traced {
                    self.note(m, 0, |_| format!("n{} reports {event:?}", h + 1));
                } else {
                    self.note(m, 0, |_| String::new());
                }
            }
        }
    }

    fn order_data(&mut self, m: usize, s: usize, job: JobId, order: ReplicaOrder) {
        let unit = &mut self.modules[m].units[s];
        if unit.data.is_some() {
            return self.data_order(m, s, job, order);
        }
        if unit.is_death_untold {
            return;
        }
        let is_nothing_to_end =
            matches!(order, ReplicaOrder::CloseSession { .. } | ReplicaOrder::Abandon { .. } | ReplicaOrder::GoAlone { .. });
        if is_nothing_to_end {
            unit.inbox.push_back(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })));
            return;
        }
        // A new process: what an earlier one left is ended first.
        unit.pending = Some(Pending::Spawn(job, order));
        self.kill_orphans(m, s);
        let life = self.hosts[self.modules[m].units[s].host].life;
        let time = self.rng.range(3 * MS, 40 * MS);
        self.after(time, Event::Continue { m, s, life });
    }

    fn set_deadline(&mut self, m: usize, s: usize, until: u64) {
        let unit = &mut self.modules[m].units[s];
        unit.deadline = until;
        if let Some(process) = unit.data.as_mut() {
            process.deadline = until;
            if process.is_waiting() {
                let id = process.id;
                let soon = self.rng.range(0, 5 * MS);
                self.after(soon, Event::Data { m, s, process: id, what: DataEvent::Acks });
            }
        }
        self.check_serving(m);
    }

    fn run_script(&mut self, m: usize, s: usize, job: JobId, run: &ScriptRun) {
        let h = self.modules[m].units[s].host;
        let life = self.hosts[h].life;
        let is_stop = matches!(run.script, ScriptName::StopPrim | ScriptName::StopBoth | ScriptName::StopSecond | ScriptName::Poststop);
        let max = match (is_stop, run.is_forced) {
            (false, _) => SCRIPT_MAX.0,
            (true, false) => SCRIPT_MAX.1,
            (true, true) => SCRIPT_MAX.2,
        };
        let (slow, failing, hanging) = self.hosts[h].scripts;
        let is_own = matches!(run.script, ScriptName::StartPrim | ScriptName::StopPrim) || self.rng.chance(200);
        let mut time = if is_own { self.rng.range(5 * MS, 300 * MS) } else { self.rng.range(MS, 5 * MS) };
        let mut code = Some(0);
        if self.rng.chance(slow) {
            time = self.rng.range(S, 20 * S);
        }
        if self.rng.chance(failing) {
            code = Some(1);
        }
        if self.rng.chance(hanging) || time >= max {
            (time, code) = (max, None);
        }
        // The forced call kills whatever is left, and a start that ran out of time is killed with all it began.
        match run.script {
            ScriptName::StartPrim if code == Some(0) => self.modules[m].units[s].is_app_up = true,
            ScriptName::StopPrim if code == Some(0) || run.is_forced => self.modules[m].units[s].is_app_up = false,
            _ => {}
        }
        self.modules[m].units[s].scripts.insert(job);
        let input = Box::new(Input::Done(job, Outcome::Script { code, millis: time / MS }));
        self.after(time, Event::Inbox { m, s, life, input });
    }

    // ---- heartbeats ----

    fn send_beat(&mut self, m: usize, s: usize, status: Rc<tsugi_core::wire::peer::Status>) {
        let h = self.modules[m].units[s].host;
        let now = self.local(h);
        let Some(link) = self.modules[m].units[s].link.as_mut() else { return };
        let beat = link.beat(status, now);
        for lan in 0..self.lans {
            let Some(link) = self.modules[m].units[s].link.as_mut() else { return };
            let packet = link.packet(lan, Body::Beat(beat.clone()));
            self.transmit(m, s, lan, packet);
        }
    }

    fn transmit(&mut self, m: usize, s: usize, lan: usize, packet: Packet) {
        let (from, to) = (self.modules[m].units[s].host, self.modules[m].units[1 - s].host);
        let line = self.net.lans[lan][from][to];
        let copies = if line.twice > 0 && self.rng.chance(line.twice) { 2 } else { 1 };
        for _ in 0..copies {
            if let Some(time) = line.datagram(&mut self.rng) {
                self.after(time, Event::Datagram { m, s: 1 - s, lan, packet: packet.clone() });
            }
        }
    }

    pub(super) fn datagram(&mut self, m: usize, s: usize, lan: usize, packet: &Packet) {
        let now = self.local(self.modules[m].units[s].host);
        let unit = &mut self.modules[m].units[s];
        let Some(link) = unit.link.as_mut() else { return };
        let taken = link.take(lan, packet, now);
        for (life, beat) in taken.heard {
            if unit.is_failed {
                continue;
            }
            let answers = link.answered(&beat).map(Ticket);
            unit.heard.push_back((life, beat.seq));
            unit.inbox.push_back(Input::Heard { status: Box::new((*beat.status).clone()), answers });
        }
        if let Some((body, this)) = taken.reply {
            let reply = link.numbered(body, Some(this));
            self.transmit(m, s, lan, reply);
        }
        self.pump(m, s);
    }

    // ---- the arbiter's answers ----

    /// The first of answer and time-out counts.
    pub(super) fn arbiter_answered(&mut self, m: usize, s: usize, job: JobId, answer: Option<tsugi_core::wire::arbiter::ArbiterAnswer>) {
        if self.modules[m].units[s].asks.remove(&job) {
            self.deliver(m, s, Input::Done(job, Outcome::Arbiter(answer)));
        }
    }

    // ---- checkers ----

    /// The name of a checker that must not run any more; begins those that must.
    fn check_to_end(&mut self, m: usize, s: usize) -> Option<&'static str> {
        const NAME: &str = "tcp.app";
        let h = self.modules[m].units[s].host;
        let life = self.hosts[h].life;
        let unit = &self.modules[m].units[s];
        let engine = unit.engine.as_ref()?;
        let is_on = matches!(engine.state(), State::Prim | State::Alone) && engine.readiness() == Readiness::Ready;
        match (is_on, unit.checks.contains(NAME)) {
            (true, false) => {
                self.modules[m].units[s].checks.insert(NAME);
                let time = self.rng.range(100 * MS, 5 * S);
                let input = Box::new(self.health(m, s));
                self.after(time, Event::Inbox { m, s, life, input });
                None
            }
            (false, true) => {
                self.modules[m].units[s].checks.remove(NAME);
                Some(NAME)
            }
            _ => None,
        }
    }

    fn health(&self, m: usize, s: usize) -> Input {
        let health = if self.modules[m].is_ill[s] { Health::Down } else { Health::Up };
        Input::Health { name: "tcp.app".into(), health, detail: "simulated".into(), action: self.modules[m].check, is_pre: false }
    }

    /// A checker that runs tells the engine how the application is.
    pub(super) fn tell_health(&mut self, m: usize, s: usize) {
        if self.modules[m].units[s].checks.contains("tcp.app") {
            let (life, input) = (self.hosts[self.modules[m].units[s].host].life, Box::new(self.health(m, s)));
            self.after(MS, Event::Inbox { m, s, life, input });
        }
    }

    // ---- words ----

    /// A line about a node.
    pub(super) fn describe_unit(&self, m: usize, s: usize) -> String {
        let unit = &self.modules[m].units[s];
        let saved = unit.record.newest();
        let disk = saved.map_or("no record".to_owned(), |r| {
            let names: Vec<&str> = r.in_sync.iter().map(|n| n.as_str()).collect();
            format!(
                "{:?} e{} s{} {{{}}} gen {:04x}{}",
                r.flag,
                r.epoch,
                r.session,
                names.join(","),
                r.gen_id.0 as u16,
                if r.intent.is_some() { " intent" } else { "" }
            )
        });
        let host = &self.hosts[unit.host];
        match &unit.engine {
            None => format!("no agent{}; {disk}", if host.is_on { "" } else { ", no power" }),
            Some(e) => format!(
                "{} {:?} {:?}; {disk}{}",
                e.state().word(),
                e.readiness(),
                e.reason(),
                if unit.is_failed { "; record failed" } else { "" }
            ),
        }
    }
}

impl Unit {
    /// Everything that was only in memory is gone. Returns the ends of connections that ended with it.
    pub(super) fn lose_power(&mut self, rng: &mut super::rng::Rng) -> Vec<(u64, usize)> {
        self.tree.lose_power(rng);
        self.kept = None;
        (self.is_vip_up, self.is_vip_wanted, self.is_app_up) = (false, false, false);
        let dead: Vec<Process> = std::mem::take(&mut self.orphans).into_iter().chain(self.data.take()).collect();
        dead.iter().filter_map(Process::connection).collect()
    }
}
