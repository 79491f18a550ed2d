//! What resources that go down lead to: the module's rules, evaluated on how the resources of both nodes stand.

use super::plan::Goal;
use super::{Mirror, Phase};
use crate::command::BY_MAXLOOP;
use crate::engine::{Effect, Timer};
use crate::event::Event;
use crate::module::Action;
use crate::rules::{Decision, Firing, ResourceTable, RuleAction, Steady, Value};
use crate::state::{Health, Readiness, Reason, State};

impl Mirror {
    /// How the resources stand. `is_for_action`: one that has been acted upon does not count again before its
    /// checker says something new.
    fn table(&self, is_for_action: bool) -> ResourceTable {
        let value = |r: &super::Resource| if is_for_action && r.is_acted { Value::Init } else { r.health.value() };
        let local = self.resources.iter().map(|(name, r)| (name.clone(), value(r))).collect();
        let peer = self.peer.as_deref().filter(|_| self.is_contact);
        ResourceTable { local, remote: peer.map(|p| p.resources.clone()).unwrap_or_default() }
    }

    /// A rule holds the module in WAIT: which resource, and what its checker says.
    pub(super) fn unfit(&self) -> Option<Reason> {
        if self.cfg.rules.rules.is_empty() {
            return None;
        }
        let firing = self.cfg.rules.firing(&self.table(false)).into_iter().find(|f| f.action == RuleAction::Wait)?;
        Some(self.reason_of(&firing))
    }

    fn reason_of(&self, firing: &Firing) -> Reason {
        let resource = firing.because.first().cloned().unwrap_or_else(|| firing.label.clone());
        let detail = self.resources.get(&resource).map(|r| r.detail.clone()).unwrap_or_default();
        Reason::CheckFailed { resource, detail }
    }

    /// Resources of this node that rules of the other one look at: they travel in each beat.
    pub(super) fn resources_told(&self) -> std::collections::BTreeMap<String, Value> {
        let told = self.resources.iter().filter(|(name, _)| self.cfg.rules.is_remote_wanted(name));
        told.take(crate::wire::peer::RESOURCES_SENT_MAX).map(|(name, r)| (name.clone(), r.health.value())).collect()
    }

    /// Level-triggered: a role is held and nothing is under way, so what fires is done, at once or when it has been
    /// asked for long enough.
    pub(super) fn act_on_rules(&mut self, out: &mut Vec<Effect>) {
        let is_steady = self.readiness == Readiness::Ready && !self.is_planning();
        if !matches!(self.phase, Phase::Serving | Phase::Following) || !is_steady || self.is_maintained {
            if std::mem::take(&mut self.steady) != Steady::default() {
                out.push(Effect::StopTimer(Timer::Confirm));
            }
            return;
        }
        if self.cfg.rules.rules.is_empty() {
            return;
        }
        let table = self.table(true);
        match self.steady.look(&self.cfg.rules, &table) {
            Decision::Nothing => out.push(Effect::StopTimer(Timer::Confirm)),
            Decision::Hold { wait, .. } => out.push(Effect::SetTimer(Timer::Confirm, wait)),
            Decision::Keep => {}
            Decision::Act(firing) => self.act(&firing, out),
        }
    }

    /// The action has been asked for all the time that it must be.
    pub(super) fn on_confirmed(&mut self, out: &mut Vec<Effect>) {
        let table = self.table(true);
        if let Some(firing) = self.steady.due(&self.cfg.rules, &table) {
            self.act(&firing, out);
        }
    }

    fn act(&mut self, firing: &Firing, out: &mut Vec<Effect>) {
        self.steady.forget();
        out.push(Effect::StopTimer(Timer::Confirm));
        let reason = self.reason_of(firing);
        for resource in self.resources.values_mut().filter(|r| r.health == Health::Down) {
            resource.is_acted = true;
        }
        if firing.action == RuleAction::Swap {
            // Nothing is restarted: it does not count.
            if self.is_swappable() {
                out.push(Effect::Report(Event::RuleFired { label: firing.label.clone(), action: firing.action }));
                self.swap(out);
            }
            return;
        }
        // A role is not left for a node that would not do better.
        let is_peer_worse = self.is_contact && self.peer.as_ref().is_some_and(|p| p.is_started && !p.is_fit);
        let is_moving = matches!(firing.action, RuleAction::StopStart | RuleAction::Stop) && self.phase == Phase::Serving;
        let action = if is_moving && is_peer_worse { RuleAction::Restart } else { firing.action };
        if !self.count_loop(out) {
            return;
        }
        let Reason::CheckFailed { resource, .. } = &reason else { return };
        out.push(Effect::Report(match of_rule(action) {
            Some(action) => Event::CheckAction { resource: resource.clone(), action },
            None => Event::RuleFired { label: firing.label.clone(), action },
        }));
        let resource = resource.clone();
        match action {
            RuleAction::Swap => {}
            RuleAction::Restart if self.phase == Phase::Serving => self.restart(out),
            RuleAction::Restart | RuleAction::StopStart => self.stop_start(out),
            RuleAction::Stop => self.stop(format!("checker: {resource}"), out),
            RuleAction::Wait => {
                let goal = Goal::Blocked { reason, is_retried: true };
                let steps = match self.phase {
                    Phase::Following => self.steps_unfollow("stopwait", State::Wait),
                    _ => self.steps_out("stopwait", State::Wait, true),
                };
                self.leave(steps, "stopwait", goal, out);
            }
        }
    }

    /// One more automatic action: is it allowed? Over the limit the module stops.
    pub(super) fn count_loop(&mut self, out: &mut Vec<Effect>) -> bool {
        if self.cfg.loop_interval.is_zero() {
            return true;
        }
        let slot = (1..).find(|slot| !self.loop_slots.contains(slot)).unwrap_or(1);
        self.loop_slots.insert(slot);
        self.saved.loop_count = self.loop_slots.len() as u32;
        out.push(Effect::SetTimer(Timer::LoopExpire(slot), self.cfg.loop_interval));
        self.save(out);
        if self.saved.loop_count <= self.cfg.maxloop {
            return true;
        }
        out.push(Effect::Report(Event::LoopLimit { count: self.cfg.maxloop }));
        self.stop(BY_MAXLOOP.into(), out);
        false
    }

    pub(super) fn forget_loops(&mut self, out: &mut Vec<Effect>) {
        out.extend(std::mem::take(&mut self.loop_slots).into_iter().map(|slot| Effect::StopTimer(Timer::LoopExpire(slot))));
        self.saved.loop_count = 0;
    }
}

/// The action as checkers have it.
fn of_rule(action: RuleAction) -> Option<Action> {
    [Action::Wait, Action::Restart, Action::StopStart, Action::Stop].into_iter().find(|a| a.of_rule() == Some(action))
}
