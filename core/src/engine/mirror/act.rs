//! What resources that go down lead to: the module's rules, evaluated on how the resources of both nodes stand.

use super::plan::Goal;
use super::{Mirror, Phase};
use crate::command::{BY_CHECKER, BY_MAXLOOP, LoopChange};
use crate::engine::Effect;
use crate::engine::watched::{Remote, event_of};
use crate::event::Event;
use crate::rules::{Firing, RuleAction};
use crate::state::{Readiness, Reason, State};

impl Mirror {
    /// The other node's resources, as far as it is in contact.
    fn remote(&self) -> Remote {
        let peer = self.peer.as_deref().filter(|_| self.is_contact);
        peer.map(|p| p.resources.clone()).unwrap_or_default()
    }

    /// A rule holds the module in WAIT: which resource, and what its checker says.
    pub(super) fn unfit(&self) -> Option<Reason> {
        self.watched.unfit(&self.cfg.rules, self.remote())
    }

    /// Level-triggered: a role is held and nothing is under way, so what fires is done, at once or when it has been
    /// asked for long enough.
    pub(super) fn act_on_rules(&mut self, out: &mut Vec<Effect>) {
        let is_steady = self.readiness == Readiness::Ready && !self.is_planning();
        if !matches!(self.phase, Phase::Serving | Phase::Following) || !is_steady || self.is_maintained {
            return self.watched.rest(out);
        }
        let remote = self.remote();
        if let Some(firing) = self.watched.look(&self.cfg.rules, remote, out) {
            self.act(&firing, out);
        }
    }

    /// The action has been asked for all the time that it must be.
    pub(super) fn on_confirmed(&mut self, out: &mut Vec<Effect>) {
        let remote = self.remote();
        if let Some(firing) = self.watched.due(&self.cfg.rules, remote) {
            self.act(&firing, out);
        }
    }

    fn act(&mut self, firing: &Firing, out: &mut Vec<Effect>) {
        // What cannot be done is not done later by surprise, and not forgotten: it is asked for as long as it fires.
        if firing.action == RuleAction::Swap && !(self.is_swappable() && self.is_handing_over_allowed()) {
            return;
        }
        // A role is not left for a node that would not do better.
        let is_peer_worse = self.is_contact && self.peer.as_ref().is_some_and(|p| p.is_started && !p.is_fit);
        // … nor for one that would not have the data: as long as the other node is there and cannot take the role, the
        // service goes on, and the resource is shown.
        let has_no_heir = self.is_contact && self.peer.as_ref().is_some_and(|p| p.is_started) && !self.is_swappable();
        let waits_for_module = firing.because.iter().any(|name| name.starts_with("module."));
        if firing.action == RuleAction::Wait && self.phase == Phase::Serving && has_no_heir && !waits_for_module {
            return;
        }
        let reason = self.watched.acted(firing, out);
        if firing.action == RuleAction::Swap {
            // A role that moves to and fro is a loop like any other.
            if self.count_loop(out) {
                out.push(Effect::Report(Event::RuleFired { label: firing.label.clone(), action: firing.action }));
                self.swap(out);
            }
            return;
        }
        let is_moving = matches!(firing.action, RuleAction::StopStart | RuleAction::Stop) && self.phase == Phase::Serving;
        let action = if is_moving && is_peer_worse { RuleAction::Restart } else { firing.action };
        if !self.count_loop(out) {
            return;
        }
        let Reason::CheckFailed { resource, .. } = &reason else { return };
        out.push(Effect::Report(event_of(firing, action, resource)));
        let resource = resource.clone();
        match action {
            RuleAction::Swap => {}
            RuleAction::Restart if self.phase == Phase::Serving => self.restart(out),
            RuleAction::Restart | RuleAction::StopStart => self.stop_start(out),
            RuleAction::Stop => self.stop(format!("{BY_CHECKER}{resource}"), out),
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
        self.loops.add(self.cfg.loop_interval, out);
        self.saved.loop_count = self.loops.count();
        self.save(out);
        if self.saved.loop_count <= self.cfg.maxloop {
            return true;
        }
        out.push(Effect::Report(Event::LoopLimit { count: self.cfg.maxloop }));
        self.stop(BY_MAXLOOP.into(), out);
        false
    }

    pub(super) fn on_loops(&mut self, change: LoopChange, out: &mut Vec<Effect>) {
        self.loops.change(change, self.cfg.maxloop, self.cfg.loop_interval, out);
        if self.saved.loop_count != self.loops.count() {
            self.saved.loop_count = self.loops.count();
            self.save(out);
        }
    }

    /// Automatic actions that count now, and how many may.
    pub fn loops(&self) -> (u32, u32) {
        (self.loops.count(), self.cfg.maxloop)
    }

    pub(super) fn forget_loops(&mut self, out: &mut Vec<Effect>) {
        self.loops.forget(out);
        if self.saved.loop_count != 0 {
            self.saved.loop_count = 0;
            self.save(out);
        }
    }
}
