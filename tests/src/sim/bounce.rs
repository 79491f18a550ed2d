//! An agent that dies and is back: what the runner keeps of a module at rest, the data process that goes on without it,
//! and its next life, as `node-agent/src/kept.rs` and `rfs/process.rs` have it.

use super::beat::Link;
use super::data::{DataEvent, Role};
use super::disk::Load;
use super::net::{MS, S};
use super::unit::OPEN;
use super::{Event, World};
use std::collections::BTreeMap;
use tsugi_core::engine::{self, Input, Mirror, Timer};
use tsugi_core::replica::ReplicaNote;

/// How often a data process without an agent looks whether it still has something to wait for.
const LOOK_EVERY: u64 = 50 * MS;
/// A follower without an agent ends after this.
const LONE_FOLLOWER_MAX: u64 = 30 * S;

/// What is kept of a module.
#[derive(Debug, Clone)]
pub struct Kept {
    engine: engine::Kept,
    timers: BTreeMap<Timer, u64>,
    /// The agent's life, as the other node knows it.
    life: u64,
    /// Notes of the data process that are taken into account.
    heard: usize,
    /// When its agent died.
    since: u64,
}

impl World {
    /// What an agent that dies now leaves of this module; absent = it is not at rest, or its agent had no time.
    pub(super) fn leave(&mut self, m: usize, s: usize) -> Option<Kept> {
        if self.rng.chance(300) {
            return None;
        }
        let unit = &self.modules[m].units[s];
        let is_quiet = unit.is_carried_out() && unit.ordered.is_empty() && !unit.is_failed && !unit.is_death_untold;
        if !is_quiet || unit.data.is_none() {
            return None;
        }
        let is_anew =
            |timer: &Timer| matches!(timer, Timer::Beat | Timer::PeerSilent | Timer::PromiseGiven | Timer::PromiseHeld | Timer::Confirm);
        Some(Kept {
            engine: unit.engine.as_ref()?.kept()?,
            timers: unit.timers().iter().filter(|(timer, _)| !is_anew(timer)).map(|(timer, at)| (*timer, *at)).collect(),
            life: unit.link.as_ref()?.life(),
            heard: unit.heard_notes,
            since: self.now,
        })
    }

    /// The data process of a module whose agent died at rest goes on for now.
    pub(super) fn lonely(&mut self, m: usize, s: usize, id: u64) {
        let now = self.local(self.modules[m].units[s].host);
        let unit = &mut self.modules[m].units[s];
        let (Some(kept), Some(process)) = (&unit.kept, &unit.data) else { return };
        if process.id != id {
            return;
        }
        let may_wait = match &process.role {
            Role::Idle => false,
            Role::Serving(_) => process.deadline == OPEN || now < process.deadline,
            Role::Following(_) => self.now - kept.since < LONE_FOLLOWER_MAX,
        };
        if may_wait {
            return self.after(LOOK_EVERY, Event::Data { m, s, process: id, what: DataEvent::Lonely });
        }
        self.begin_anew(m, s);
        let soon = self.rng.range(MS / 10, 20 * MS);
        self.after(soon, Event::Data { m, s, process: id, what: DataEvent::Orphaned });
    }

    /// Nothing is kept of the module any more.
    pub(super) fn begin_anew(&mut self, m: usize, s: usize) {
        let unit = &mut self.modules[m].units[s];
        unit.kept = None;
        if let Some(process) = unit.data.take() {
            unit.orphans.push(process);
        }
    }

    /// The next life of an agent goes on where the former one ended. False: it begins anew.
    pub(super) fn takes_over(&mut self, m: usize, s: usize) -> bool {
        let h = self.modules[m].units[s].host;
        let (now, lans) = (self.local(h), self.lans);
        let unit = &mut self.modules[m].units[s];
        let Some(kept) = unit.kept.take() else { return false };
        let is_same = matches!(unit.record.load(), Load::Saved(saved) if *saved == *kept.engine.saved());
        let deadline = unit.data.as_ref().map(|p| p.deadline);
        let is_entitled = !kept.engine.is_serving() || deadline.is_some_and(|d| d == OPEN || now < d);
        if !is_same || !is_entitled || deadline.is_none() {
            self.begin_anew(m, s);
            return false;
        }
        let mut timers = kept.timers;
        if let Some(deadline) = deadline.filter(|d| kept.engine.is_held() && *d != OPEN) {
            timers.insert(Timer::PromiseHeld, deadline);
        }
        let is_serving = kept.engine.is_serving();
        unit.engine = Some(Mirror::of_kept(unit.config().clone(), kept.engine));
        unit.link = Some(Link::new(kept.life, now, lans));
        unit.set_timers(timers);
        unit.heard_notes = kept.heard;
        unit.want_vip(is_serving);
        let missed: Vec<ReplicaNote> = unit.told.iter().skip(kept.heard).cloned().collect();
        self.figures.went_on += 1;
        self.note(m, 5, |w| format!("n{} agent goes on, {}", h + 1, w.describe_unit(m, s)));
        self.feed(m, s, Input::GoneOn);
        for note in missed {
            self.modules[m].units[s].push(Input::Replica(note));
        }
        let life = self.hosts[h].life;
        let soon = self.rng.range(MS, 20 * MS);
        self.after(soon, Event::Renew { m, s, life });
        self.pump(m, s);
        true
    }
}
