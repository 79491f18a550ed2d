//! What engines of every type have in common: how the checked resources stand, what the module's rules make of it, and
//! how many automatic actions count.

use super::{Effect, Timer};
use crate::command::LoopChange;
use crate::event::Event;
use crate::module::Action;
use crate::rules::{Decision, Firing, ResourceTable, RuleAction, Ruleset, Steady, Value};
use crate::state::{Health, Readiness, Reason, ResourceView, USABLE};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a resource stands and what its checker does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Resource {
    pub health: Health,
    pub detail: String,
    pub action: Action,
    pub is_pre: bool,
    /// Its action has begun since it went down.
    pub is_acted: bool,
}

impl Resource {
    /// Nothing has been said yet.
    fn is_silent(&self) -> bool {
        self.health == Health::Init && self.detail.is_empty()
    }
}

/// The checked resources of this node, and the action that rules ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub(super) struct Watched {
    resources: BTreeMap<String, Resource>,
    /// What must be asked for a while longer.
    steady: Steady,
}

/// Resources of the other node, as it says; empty where there is none.
pub(super) type Remote = BTreeMap<String, Value>;

impl Watched {
    /// What a checker says. A change is told; what is not tested any more is forgotten.
    pub fn hear(&mut self, name: String, resource: Resource, out: &mut Vec<Effect>) {
        let before = self.resources.get(&name).map(|r| r.health);
        if resource.health == Health::Off {
            self.resources.remove(&name);
            return;
        }
        // That a checker is about to begin is no news.
        let is_first_word = name == USABLE && resource.health == Health::Up && before != Some(Health::Down);
        if before != Some(resource.health) && !resource.is_silent() && !is_first_word {
            let (health, detail) = (resource.health, resource.detail.clone());
            out.push(Effect::Report(Event::Resource { name: name.clone(), health, detail }));
        }
        let is_acted = before == Some(Health::Down) && self.resources.get(&name).is_some_and(|r| r.is_acted);
        self.resources.insert(name, Resource { is_acted, ..resource });
    }

    /// How the resources stand. `is_for_action`: one that has been acted upon does not count again before its
    /// checker says something new.
    fn table(&self, remote: Remote, is_for_action: bool) -> ResourceTable {
        let value = |r: &Resource| if is_for_action && r.is_acted { Value::Init } else { r.health.value() };
        ResourceTable { local: self.resources.iter().map(|(name, r)| (name.clone(), value(r))).collect(), remote }
    }

    /// A rule holds the module in WAIT: which resource, and what its checker says.
    pub fn unfit(&self, rules: &Ruleset, remote: Remote) -> Option<Reason> {
        // No rule is needed for what nobody could want otherwise.
        match self.resources.get(USABLE) {
            Some(r) if r.health == Health::Down => return Some(Reason::DataUnusable { detail: r.detail.clone() }),
            Some(r) if r.health == Health::Init => return Some(Reason::CheckPending { resource: USABLE.to_owned() }),
            _ => {}
        }
        if rules.rules.is_empty() {
            return None;
        }
        let table = self.table(remote, false);
        let firing = rules.firing(&table).into_iter().find(|f| f.action == RuleAction::Wait);
        firing.map(|f| self.reason_of(&f)).or_else(|| self.pending(rules, &table))
    }

    /// A checker that runs before the start and may hold the module has not said yet whether it does.
    fn pending(&self, rules: &Ruleset, table: &ResourceTable) -> Option<Reason> {
        let is_pre = |name: &String| self.resources.get(name).is_some_and(|r| r.is_pre);
        rules.undecided(table).into_iter().find(is_pre).map(|resource| Reason::CheckPending { resource })
    }

    /// For a rehearsal, in which nothing is checked: what is not known is as it should be.
    pub fn assume_up(&mut self) {
        for resource in self.resources.values_mut().filter(|r| r.health == Health::Init) {
            resource.health = Health::Up;
        }
    }

    fn reason_of(&self, firing: &Firing) -> Reason {
        let resource = firing.because.first().cloned().unwrap_or_else(|| firing.label.clone());
        let detail = self.resources.get(&resource).map(|r| r.detail.clone()).unwrap_or_default();
        Reason::CheckFailed { resource, detail }
    }

    /// Rules act in this state, and nothing is under way: what is to be done now, if anything is.
    pub fn look(&mut self, rules: &Ruleset, remote: Remote, out: &mut Vec<Effect>) -> Option<Firing> {
        if rules.rules.is_empty() {
            return None;
        }
        let table = self.table(remote, true);
        match self.steady.look(rules, &table) {
            Decision::Nothing => out.push(Effect::StopTimer(Timer::Confirm)),
            Decision::Hold { wait, .. } => out.push(Effect::SetTimer(Timer::Confirm, wait)),
            Decision::Keep => {}
            Decision::Act(firing) => return Some(firing),
        }
        None
    }

    /// Rules do not act in this state.
    pub fn rest(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.steady) != Steady::default() {
            out.push(Effect::StopTimer(Timer::Confirm));
        }
    }

    /// [`Timer::Confirm`] ran out: what has been asked for all the time that it must be.
    pub fn due(&mut self, rules: &Ruleset, remote: Remote) -> Option<Firing> {
        let table = self.table(remote, true);
        self.steady.due(rules, &table)
    }

    /// The action begins: what is down now is not acted upon again. Gives the reason to show.
    pub fn acted(&mut self, firing: &Firing, out: &mut Vec<Effect>) -> Reason {
        self.steady.forget();
        out.push(Effect::StopTimer(Timer::Confirm));
        for resource in self.resources.values_mut().filter(|r| r.health == Health::Down) {
            resource.is_acted = true;
        }
        self.reason_of(firing)
    }

    /// Resources of this node that rules of the other one look at.
    pub fn told(&self, rules: &Ruleset) -> Remote {
        let told = self.resources.iter().filter(|(name, _)| rules.is_remote_wanted(name));
        told.take(crate::wire::peer::RESOURCES_SENT_MAX).map(|(name, r)| (name.clone(), r.health.value())).collect()
    }

    /// For the snapshot.
    pub fn views(&self) -> Vec<ResourceView> {
        let view = |(name, r): (&String, &Resource)| ResourceView {
            name: name.clone(),
            health: r.health,
            detail: r.detail.clone(),
            action: r.action,
        };
        let is_shown = |name: &str, r: &Resource| !r.is_silent() && (name != USABLE || r.health == Health::Down);
        self.resources.iter().filter(|(name, r)| is_shown(name, r)).map(view).collect()
    }
}

/// What has not been checked yet will be, by itself; what is down is for somebody to correct.
pub(super) fn unfit_readiness(reason: &Reason) -> Readiness {
    if matches!(reason, Reason::CheckPending { .. }) { Readiness::Transient } else { Readiness::NotReady }
}

/// An automatic action begins because of `resource`.
pub(super) fn event_of(firing: &Firing, action: RuleAction, resource: &str) -> Event {
    // The action as checkers have it.
    let of_checker = [Action::Wait, Action::Restart, Action::StopStart, Action::Stop].into_iter().find(|a| a.of_rule() == Some(action));
    match of_checker {
        Some(action) => Event::CheckAction { resource: resource.to_owned(), action },
        None => Event::RuleFired { label: firing.label.clone(), action },
    }
}

/// Automatic actions that count: each for the module's `loop_interval`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub(super) struct Loops {
    /// Numbers of the running [`Timer::LoopExpire`].
    slots: BTreeSet<u32>,
}

impl Loops {
    /// After a restart: how old they are is not known, so each counts for a whole interval again.
    pub fn resume(&mut self, count: u32, interval: Duration, out: &mut Vec<Effect>) {
        if !interval.is_zero() {
            self.slots = (1..=count).collect();
            out.extend(self.slots.iter().map(|slot| Effect::SetTimer(Timer::LoopExpire(*slot), interval)));
        }
    }
    /// One more.
    pub fn add(&mut self, interval: Duration, out: &mut Vec<Effect>) {
        let slot = (1..).find(|slot| !self.slots.contains(slot)).unwrap_or(1);
        self.slots.insert(slot);
        out.push(Effect::SetTimer(Timer::LoopExpire(slot), interval));
    }
    /// As a script has it. One past the limit is enough to know that it is reached: more are not kept.
    pub fn change(&mut self, change: LoopChange, maxloop: u32, interval: Duration, out: &mut Vec<Effect>) {
        match change {
            LoopChange::Add if interval.is_zero() || self.count() > maxloop => {}
            LoopChange::Add => self.add(interval, out),
            LoopChange::Forget => self.forget(out),
        }
    }
    /// One of them is old enough.
    pub fn expire(&mut self, slot: u32) {
        self.slots.remove(&slot);
    }
    /// How many count now.
    pub fn count(&self) -> u32 {
        self.slots.len() as u32
    }
    /// None counts any more.
    pub fn forget(&mut self, out: &mut Vec<Effect>) {
        out.extend(std::mem::take(&mut self.slots).into_iter().map(|slot| Effect::StopTimer(Timer::LoopExpire(slot))));
    }
}
