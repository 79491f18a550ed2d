//! What goes wrong, when, and how it ends.

use super::net::{GOOD, MS, S};
use super::rng::Rng;
use super::{Event, Profile, Snapshot, World};
use tsugi_core::command::{BY_SHUTDOWN, Command, Verb};
use tsugi_core::engine::Input;
use tsugi_core::ids::LifeId;
use tsugi_core::state::State;
use tsugi_core::wire::arbiter::Record;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    BadLine,
    CutOneWay,
    CutLan,
    CutPair,
    Isolate,
    CutArbiter,
    ArbiterDown,
    ArbiterSlow,
    Stop(Stopped),
    KillAgent,
    KillData,
    PowerOff,
    PowerOffBoth,
    Restart,
    SlowDisk,
    FullDisk,
    DataErrors,
    RecordErrors,
    RecordDamage,
    StoreLost,
    Scripts,
    VipErrors,
    Ill,
    Rollback,
}

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stopped {
    Agent,
    Data,
    Both,
    Host,
}

/// How a fault ends, or something that was put off.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Remedy {
    Quality { lan: usize, a: usize, b: usize },
    Uncut { lan: usize, a: usize, b: usize },
    ArbiterLine { h: usize, is_to: bool },
    ArbiterUp,
    ArbiterFast,
    Host { h: usize },
    Well { m: usize, s: usize },
    Order { m: usize, s: usize, verb: Verb },
    EndAgent { h: usize, life: u64, tries: u32 },
    SetBack { h: usize },
}

const ALL: &[(u64, Kind)] = &[
    (10, Kind::BadLine),
    (6, Kind::CutOneWay),
    (6, Kind::CutLan),
    (8, Kind::CutPair),
    (6, Kind::Isolate),
    (6, Kind::CutArbiter),
    (4, Kind::ArbiterDown),
    (3, Kind::ArbiterSlow),
    (4, Kind::Stop(Stopped::Agent)),
    (2, Kind::Stop(Stopped::Data)),
    (4, Kind::Stop(Stopped::Both)),
    (4, Kind::Stop(Stopped::Host)),
    (6, Kind::KillAgent),
    (4, Kind::KillData),
    (8, Kind::PowerOff),
    (4, Kind::PowerOffBoth),
    (3, Kind::Restart),
    (4, Kind::SlowDisk),
    (2, Kind::FullDisk),
    (2, Kind::DataErrors),
    (2, Kind::RecordErrors),
    (4, Kind::Scripts),
    (2, Kind::VipErrors),
    (4, Kind::Ill),
];

/// How bad a run is, and in which way.
#[derive(Debug)]
pub struct Weather {
    /// Mean time between faults.
    mean: u64,
    kinds: Vec<(u64, Kind)>,
    /// Mean time between an operator's orders.
    pub clicks: u64,
    /// Of 1000 requests to the arbiter, those that lie on the way for long.
    pub late: u64,
    /// Of 1000 requests to the arbiter, those that reach it twice.
    pub twice: u64,
}

impl Weather {
    /// Some runs know every fault, some only a few kinds, so that each is also seen alone.
    pub fn new(rng: &mut Rng, profile: Profile) -> Weather {
        let mut kinds = ALL.to_vec();
        if rng.chance(500) {
            let kept = 1 + rng.below(5);
            kinds = (0..kept).map(|_| ALL[rng.below(ALL.len())]).collect();
        }
        if rng.chance(60) {
            kinds.push((2, Kind::RecordDamage));
        }
        // Both at once are outside what is promised.
        if profile != Profile::Rollback && rng.chance(60) {
            kinds.push((2, Kind::StoreLost));
        }
        if profile == Profile::Rollback {
            kinds.push((12, Kind::Rollback));
        }
        Weather {
            mean: rng.spread(4 * S, 120 * S),
            kinds,
            clicks: rng.spread(10 * S, 600 * S),
            late: rng.pick(&[0, 10, 10, 200]),
            twice: rng.pick(&[0, 50, 300]),
        }
    }

    fn pick(&self, rng: &mut Rng) -> Kind {
        let all: u64 = self.kinds.iter().map(|(weight, _)| weight).sum();
        let mut left = rng.range(1, all);
        for (weight, kind) in &self.kinds {
            if left <= *weight {
                return *kind;
            }
            left -= weight;
        }
        Kind::CutPair
    }
}

impl World {
    /// The next fault.
    pub(super) fn fault(&mut self) {
        if self.is_healed {
            return;
        }
        let kind = self.weather.pick(&mut self.rng);
        let h = self.rng.below(self.hosts.len());
        let m = self.rng.below(self.modules.len());
        let hosts = self.modules[m].units.each_ref().map(|u| u.host);
        let turned = self.rng.below(2);
        let (a, b) = (hosts[turned], hosts[1 - turned]);
        let time = self.rng.spread(100 * MS, 120 * S);
        self.note(usize::MAX, 70, |_| format!("fault: {kind:?} (module {m}, n{} n{} n{}) {:.3} s", h + 1, a + 1, b + 1, time as f64 / 1e9));
        match kind {
            Kind::BadLine => self.bad_line(a, b, time),
            Kind::CutOneWay => self.cut(0..self.lans, &[(a, b)], time),
            Kind::CutLan => {
                let lan = self.rng.below(self.lans);
                self.cut(lan..lan + 1, &[(a, b), (b, a)], time);
            }
            Kind::CutPair => self.cut(0..self.lans, &[(a, b), (b, a)], time),
            Kind::Isolate => {
                let all: Vec<(usize, usize)> = (0..self.hosts.len()).filter(|o| *o != h).flat_map(|o| [(h, o), (o, h)]).collect();
                self.cut(0..self.lans, &all, time);
                if self.rng.chance(500) {
                    self.cut_arbiter(h, time);
                }
            }
            Kind::CutArbiter => self.cut_arbiter(h, time),
            Kind::ArbiterDown => {
                self.arbiter.downs += 1;
                self.figures.other_faults += 1;
                self.after(time, Event::Heal(Remedy::ArbiterUp));
            }
            Kind::ArbiterSlow => {
                let high = self.rng.spread(500 * MS, 8 * S);
                self.arbiter.time = (MS, high);
                self.figures.other_faults += 1;
                self.after(time, Event::Heal(Remedy::ArbiterFast));
            }
            Kind::Stop(what) => self.stop(h, what, time),
            Kind::KillAgent => {
                self.figures.crashes += 1;
                self.agent_dies(h);
                let back = if self.rng.chance(700) { self.rng.range(300 * MS, 3 * S) } else { time };
                let power = self.hosts[h].power;
                self.after(back, Event::AgentUp { h, power });
            }
            Kind::KillData => {
                self.figures.crashes += 1;
                let s = self.rng.below(2);
                self.data_dies(m, s);
            }
            Kind::PowerOff => self.power_off(h, time),
            Kind::PowerOffBoth => {
                self.power_off(a, time);
                let other = self.rng.spread(100 * MS, 120 * S);
                self.power_off(b, other);
            }
            Kind::Restart => self.restart_in_order(h),
            Kind::SlowDisk => {
                let high = self.rng.spread(100 * MS, 10 * S);
                self.hosts[h].flush = (high / 4, high);
                self.bad_host(h, time);
            }
            Kind::FullDisk => {
                self.hosts[h].is_full = true;
                self.bad_host(h, time);
            }
            Kind::DataErrors => {
                self.hosts[h].has_data_errors = true;
                self.bad_host(h, time);
            }
            Kind::RecordErrors => {
                self.hosts[h].has_record_errors = true;
                self.bad_host(h, time);
            }
            Kind::RecordDamage => {
                // Found at the agent's next start.
                let s = self.rng.below(2);
                let h = self.modules[m].units[s].host;
                self.agent_dies(h);
                self.modules[m].units[s].record.damage();
                self.modules[m].floor.is_record_lost = true;
                self.figures.other_faults += 1;
                let power = self.hosts[h].power;
                self.after(S, Event::AgentUp { h, power });
            }
            Kind::StoreLost => {
                let life = LifeId(u128::from(self.rng.next()) | 1 << 64);
                for record in &mut self.arbiter.records {
                    *record = Record::empty(life);
                }
                for module in &mut self.modules {
                    module.floor.is_store_lost = true;
                }
                self.figures.other_faults += 1;
            }
            Kind::Scripts => {
                let some = |rng: &mut Rng| if rng.chance(500) { rng.range(0, 400) } else { 0 };
                self.hosts[h].scripts = (some(&mut self.rng), some(&mut self.rng), some(&mut self.rng));
                self.bad_host(h, time);
            }
            Kind::VipErrors => {
                self.hosts[h].has_vip_errors = true;
                self.bad_host(h, time);
            }
            Kind::Ill => {
                let s = self.rng.below(2);
                self.modules[m].is_ill[s] = true;
                self.tell_health(m, s);
                self.figures.other_faults += 1;
                self.after(time, Event::Heal(Remedy::Well { m, s }));
            }
            Kind::Rollback => {
                self.figures.rollbacks += 1;
                self.roll_back(h, time);
            }
        }
        let mean = self.weather.mean;
        let wait = self.rng.around(mean).max(100 * MS);
        self.after(wait, Event::Fault);
    }

    fn bad_line(&mut self, a: usize, b: usize, time: u64) {
        self.figures.other_faults += 1;
        let lan = self.rng.below(self.lans);
        let high = self.rng.spread(MS, 2 * S);
        let line = &mut self.net.lans[lan][a][b];
        line.loss = self.rng.range(0, 300);
        line.twice = self.rng.range(0, 100);
        (line.delay_min, line.delay_max) = (self.rng.range(MS / 10, high / 2), high);
        if self.rng.chance(600) {
            let (line, other) = (self.net.lans[lan][a][b], &mut self.net.lans[lan][b][a]);
            *other = super::net::Line { cuts: other.cuts, ..line };
        }
        self.after(time, Event::Heal(Remedy::Quality { lan, a, b }));
    }

    fn cut(&mut self, lans: std::ops::Range<usize>, lines: &[(usize, usize)], time: u64) {
        self.figures.cuts += 1;
        for lan in lans {
            for (a, b) in lines {
                self.net.lans[lan][*a][*b].cuts += 1;
                self.after(time, Event::Heal(Remedy::Uncut { lan, a: *a, b: *b }));
            }
        }
    }

    fn cut_arbiter(&mut self, h: usize, time: u64) {
        self.figures.cuts += 1;
        let which = self.rng.below(3);
        if which != 1 {
            self.net.to_arbiter[h].cuts += 1;
            self.after(time, Event::Heal(Remedy::ArbiterLine { h, is_to: true }));
        }
        if which != 0 {
            self.net.from_arbiter[h].cuts += 1;
            self.after(time, Event::Heal(Remedy::ArbiterLine { h, is_to: false }));
        }
    }

    fn bad_host(&mut self, h: usize, time: u64) {
        self.figures.other_faults += 1;
        self.after(time, Event::Heal(Remedy::Host { h }));
    }

    // ---- standing still ----

    fn stop(&mut self, h: usize, what: Stopped, time: u64) {
        if !self.hosts[h].is_on {
            return;
        }
        self.figures.pauses += 1;
        let was = self.is_agent_stopped(h);
        let host = &mut self.hosts[h];
        match what {
            Stopped::Agent => host.agent_stops += 1,
            Stopped::Data => host.data_stops += 1,
            Stopped::Both => {
                host.agent_stops += 1;
                host.data_stops += 1;
            }
            Stopped::Host => host.host_stops += 1,
        }
        let (power, life) = (host.power, host.life);
        if !was && self.is_agent_stopped(h) {
            self.vips_after(h, true);
        }
        self.after(time, Event::Resume { h, what, power, life });
    }

    pub(super) fn resume(&mut self, h: usize, what: Stopped, power: u64, life: u64) {
        let host = &mut self.hosts[h];
        if host.power != power {
            return;
        }
        if host.life == life && matches!(what, Stopped::Agent | Stopped::Both) {
            host.agent_stops = host.agent_stops.saturating_sub(1);
        }
        if matches!(what, Stopped::Data | Stopped::Both) {
            host.data_stops = host.data_stops.saturating_sub(1);
        }
        if what == Stopped::Host {
            host.host_stops = host.host_stops.saturating_sub(1);
        }
        self.go_on_after_stop(h);
    }

    pub(super) fn resume_all(&mut self, h: usize) {
        let host = &mut self.hosts[h];
        (host.agent_stops, host.data_stops, host.host_stops) = (0, 0, 0);
        self.go_on_after_stop(h);
    }

    fn go_on_after_stop(&mut self, h: usize) {
        // What has waited comes in its order; what is due by the clock somewhere in between.
        let mut time = 0;
        for event in std::mem::take(&mut self.hosts[h].deferred) {
            time += self.rng.range(0, MS / 20);
            self.after(time, event);
        }
        if !self.is_agent_stopped(h) && self.hosts[h].is_on {
            self.vips_after(h, false);
            for (m, s) in self.units_of(h) {
                let life = self.hosts[h].life;
                let within = self.rng.range(0, time + MS);
                self.after(within, Event::Wake { m, s, life });
            }
        }
    }

    // ---- power ----

    pub(super) fn power_off(&mut self, h: usize, time: u64) {
        if !self.hosts[h].is_on {
            return;
        }
        self.figures.crashes += 1;
        self.hosts[h].is_on = false;
        self.hosts[h].power += 1;
        self.agent_dies(h);
        for (m, s) in self.units_of(h) {
            let ends = self.modules[m].units[s].lose_power(&mut self.rng);
            for (conn, end) in ends {
                self.break_conn(conn, end, false);
            }
            self.power_is_lost(m, s);
        }
        let host = &mut self.hosts[h];
        host.deferred.clear();
        (host.agent_stops, host.data_stops, host.host_stops) = (0, 0, 0);
        let power = host.power;
        self.after(time, Event::PowerOn { h, power });
    }

    pub(super) fn power_on(&mut self, h: usize, power: u64) {
        let host = &mut self.hosts[h];
        if host.is_on || host.power != power {
            return;
        }
        host.is_on = true;
        let boot = self.rng.range(500 * MS, 5 * S);
        self.note(usize::MAX, 71, |_| format!("n{} has power", h + 1));
        self.after(boot, Event::AgentUp { h, power });
    }

    /// `systemctl restart`: the modules stop in order, then the agent ends and starts again.
    fn restart_in_order(&mut self, h: usize) {
        let life = self.hosts[h].life;
        if life == 0 {
            return;
        }
        self.figures.orders += 1;
        for (m, s) in self.units_of(h) {
            let command = Command { id: String::new(), verb: Verb::Stop, by: BY_SHUTDOWN.into(), reason: None, is_automatic: false };
            self.after(MS, Event::Inbox { m, s, life, input: Box::new(Input::Command(command)) });
        }
        self.after(500 * MS, Event::Heal(Remedy::EndAgent { h, life, tries: 0 }));
    }

    fn end_agent(&mut self, h: usize, life: u64, tries: u32) {
        if self.hosts[h].life != life {
            return;
        }
        let is_stopped = |(m, s): (usize, usize)| {
            let unit = &self.modules[m].units[s];
            unit.is_failed || unit.engine.as_ref().is_none_or(|e| e.state() == State::Stop)
        };
        // A service manager has patience for 90 s.
        if tries < 180 && !self.units_of(h).into_iter().all(is_stopped) {
            return self.after(500 * MS, Event::Heal(Remedy::EndAgent { h, life, tries: tries + 1 }));
        }
        self.agent_dies(h);
        let back = self.rng.range(300 * MS, 5 * S);
        let power = self.hosts[h].power;
        self.after(back, Event::AgentUp { h, power });
    }

    /// An administrator restarts an agent whose record could not be written.
    pub(super) fn restart_failed(&mut self, h: usize) {
        let is_failed = self.units_of(h).into_iter().any(|(m, s)| self.modules[m].units[s].is_failed);
        if is_failed && !self.hosts[h].has_record_errors {
            self.agent_dies(h);
            let power = self.hosts[h].power;
            self.after(S, Event::AgentUp { h, power });
        }
    }

    /// A host loses its power and comes back with its disks as they were some time ago.
    fn roll_back(&mut self, h: usize, time: u64) {
        if self.hosts[h].snapshot.is_empty() || self.rng.chance(400) {
            // A snapshot is what a power failure now would have left.
            let mut all = Vec::new();
            for (module, side) in self.units_of(h) {
                let unit = &self.modules[module].units[side];
                let (mut record, mut tree) = (unit.record.clone(), unit.tree.clone());
                record.interrupt(&mut self.rng, true);
                tree.lose_power(&mut self.rng);
                all.push(Snapshot { module, side, record, tree });
            }
            self.hosts[h].snapshot = all;
            return;
        }
        self.power_off(h, time.max(S));
        self.after(MS, Event::Heal(Remedy::SetBack { h }));
    }

    fn set_back(&mut self, h: usize) {
        if self.hosts[h].is_on {
            return;
        }
        for old in self.hosts[h].snapshot.clone() {
            let name = self.hosts[h].name.clone();
            // By the record, or by a request under way that will make it so.
            let peer = self.modules[old.module].units[1 - old.side].record.newest();
            let is_named = self.arbiter.records[old.module].in_sync.contains(&name) || peer.is_some_and(|r| r.in_sync.contains(&name));
            // … or about to be named, by a peer that heard it was level.
            let counts_on_it = |p: &super::data::Process| matches!(&p.role, super::data::Role::Serving(x) if x.needs_peer);
            let is_named = is_named || self.modules[old.module].units[1 - old.side].processes().any(counts_on_it);
            // A record that has moved on by more than this copy can account for gives it away.
            let is_outrun = old.record.newest().is_some_and(|r| self.arbiter.records[old.module].version.0 > r.epoch.0 + 2);
            let module = &mut self.modules[old.module];
            module.floor.is_outrun[old.side] = is_outrun;
            module.units[old.side].record = old.record;
            module.units[old.side].tree = old.tree;
            module.floor.is_set_back[old.side] |= is_named;
            module.floor.is_record_lost = true;
            self.power_is_lost(old.module, old.side);
        }
        self.note(usize::MAX, 72, |_| format!("n{} is set back to its snapshot", h + 1));
    }

    // ---- remedies ----

    pub(super) fn mend_host(&mut self, h: usize) {
        let host = &mut self.hosts[h];
        host.flush = (MS / 2, 5 * MS);
        (host.is_full, host.has_data_errors, host.has_record_errors, host.has_vip_errors) = (false, false, false, false);
        host.scripts = (0, 0, 0);
    }

    pub(super) fn heal(&mut self, remedy: Remedy) {
        match remedy {
            Remedy::Order { .. } if self.is_healed => {}
            Remedy::Order { m, s, verb } => self.order(m, s, verb),
            Remedy::EndAgent { h, life, tries } => self.end_agent(h, life, tries),
            Remedy::SetBack { h } => self.set_back(h),
            _ if self.is_healed => {}
            Remedy::Quality { lan, a, b } => {
                for (a, b) in [(a, b), (b, a)] {
                    let line = &mut self.net.lans[lan][a][b];
                    *line = super::net::Line { cuts: line.cuts, ..GOOD };
                }
            }
            Remedy::Uncut { lan, a, b } => self.net.lans[lan][a][b].cuts = self.net.lans[lan][a][b].cuts.saturating_sub(1),
            Remedy::ArbiterLine { h, is_to: true } => self.net.to_arbiter[h].cuts = self.net.to_arbiter[h].cuts.saturating_sub(1),
            Remedy::ArbiterLine { h, is_to: false } => self.net.from_arbiter[h].cuts = self.net.from_arbiter[h].cuts.saturating_sub(1),
            Remedy::ArbiterUp => self.arbiter.downs = self.arbiter.downs.saturating_sub(1),
            Remedy::ArbiterFast => self.arbiter.time = (MS, 5 * MS),
            Remedy::Host { h } => {
                self.mend_host(h);
                self.restart_failed(h);
            }
            Remedy::Well { m, s } => {
                self.modules[m].is_ill[s] = false;
                self.tell_health(m, s);
            }
        }
    }
}
