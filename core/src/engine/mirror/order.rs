//! Orders of an administrator.

use super::plan::Goal;
use super::{Force, Mirror, Phase};
use crate::command::{BY_BOOT, BY_SHUTDOWN, Command, MAINTENANCE_MINUTES_MAX, Refusal, Verb};
use crate::engine::{Effect, Timer};
use crate::event::Event;
use crate::ids::Epoch;
use crate::state::{Flag, Readiness, Reason, Replication, State};
use std::time::Duration;

impl Mirror {
    /// Why `command` would be refused now; `None` = it would be carried out.
    pub fn refusal_of(&self, command: &Command) -> Option<Refusal> {
        let is_held = self.is_maintained && command.is_automatic && command.verb.is_repair();
        if is_held { Some(Refusal::Maintained) } else { self.refusal(&command.verb) }
    }

    /// Why `verb` would be refused now; `None` = it would be carried out.
    pub fn refusal(&self, verb: &Verb) -> Option<Refusal> {
        let peer = self.peer.as_deref().filter(|_| self.is_contact);
        let is_peer_serving = peer.is_some_and(|p| p.is_serving);
        let is_blocked = self.state == State::Wait && self.readiness == Readiness::NotReady;
        let is_busy = self.is_planning() || self.phase == Phase::Leaving;
        match verb {
            Verb::Start if self.phase == Phase::Stopped => None,
            Verb::Start if matches!(self.blocked, Some((_, false))) => None,
            Verb::Start => Some(Refusal::AlreadyStarted),
            Verb::Stop | Verb::StopStart if self.phase == Phase::Stopped => Some(Refusal::AlreadyStopped),
            Verb::Stop => None,
            Verb::StopStart if is_busy => Some(Refusal::Busy),
            Verb::StopStart => None,
            Verb::Restart if !self.state.is_serving() => Some(Refusal::NotServing),
            Verb::Restart if is_busy || self.readiness != Readiness::Ready => Some(Refusal::Busy),
            Verb::Restart => None,
            Verb::Swap if !self.state.is_serving() => Some(Refusal::NotServing),
            Verb::Swap if self.is_swappable() => None,
            Verb::Swap if self.state == State::Prim => Some(Refusal::Busy),
            Verb::Swap => Some(Refusal::NotProtected),
            Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. } if self.phase != Phase::Stopped && !is_blocked => {
                Some(if self.state == State::Wait || is_busy { Refusal::Busy } else { Refusal::MustBeStopped })
            }
            Verb::Prim { .. } | Verb::PrimForce if is_peer_serving => Some(Refusal::PeerServes { peer: self.cfg.peer.clone() }),
            Verb::PrimForce => None,
            Verb::Prim { .. } if self.saved.flag == Flag::Inconsistent => Some(Refusal::HalfSynced),
            Verb::Prim { accept_loss: true } => None,
            Verb::Prim { accept_loss: false } => {
                let is_first = self.saved.epoch == Epoch(0) && peer.is_none_or(|p| p.flag == Flag::Unknown);
                // Its own record tells of the other node only as long as that one says nothing newer.
                let is_known_alone = !self.cfg.authority.is_own_record()
                    || self.is_alone_in_record()
                    || peer
                        .is_some_and(|p| (p.epoch, p.is_owner) <= (self.saved.epoch, self.saved.is_owner) || p.released == Some(p.epoch));
                let is_newest = self.is_flag_good() && self.saved.in_sync.contains(&self.cfg.me) && is_known_alone;
                (!is_first && !is_newest).then_some(Refusal::NeedsAcceptLoss)
            }
            Verb::Second { .. } => (!is_peer_serving).then_some(Refusal::PeerDoesNotServe),
            Verb::Resolve { keep } if *keep != self.cfg.me && *keep != self.cfg.peer => Some(Refusal::NoSuchNode { node: keep.clone() }),
            Verb::Resolve { .. } => (!self.is_split()).then_some(Refusal::NoSplitBrain),
            Verb::Maintenance { minutes } => (*minutes > MAINTENANCE_MINUTES_MAX).then_some(Refusal::BadDuration { minutes: *minutes }),
            Verb::Verify if !self.state.is_serving() => Some(Refusal::NotServing),
            Verb::Verify => (self.replication() != Replication::Synchronous).then_some(Refusal::NotProtected),
        }
    }

    pub(super) fn on_command(&mut self, command: Command, out: &mut Vec<Effect>) {
        let refusal = self.refusal_of(&command);
        let Command { verb, by, reason, is_automatic, .. } = command;
        if let Some(refusal) = refusal {
            out.push(Effect::Report(Event::Refused { verb, by, refusal }));
            return;
        }
        out.push(Effect::Report(Event::Ordered { verb: verb.clone(), by: by.clone(), reason }));
        // A person's order starts the count of automatic actions afresh; the agent's own at boot and at the end do not,
        // and that of a checker or script counts as what a rule does.
        if is_automatic {
            if verb.is_repair() && !self.count_loop(out) {
                return;
            }
        } else if !matches!(&*by, BY_BOOT | BY_SHUTDOWN) && verb != Verb::Verify {
            self.forget_loops(out);
        }
        match verb {
            Verb::Start => self.start(out),
            Verb::Stop => self.stop(by, out),
            Verb::Restart => self.restart(out),
            Verb::Swap => {
                self.swap(out);
                self.is_handed_over = true;
            }
            Verb::StopStart => self.stop_start(out),
            Verb::Verify => out.push(Effect::Verify),
            Verb::Prim { accept_loss } => {
                self.force = Some(Force { by, accepts_loss: accept_loss, overrides_flag: false, is_resolving: false });
                self.start(out);
            }
            Verb::PrimForce => {
                self.force = Some(Force { by, accepts_loss: true, overrides_flag: true, is_resolving: false });
                self.start(out);
            }
            Verb::Second { full_sync } => {
                if full_sync {
                    // This copy is given up whatever it holds.
                    self.saved.flag = Flag::Unknown;
                    self.save(out);
                }
                self.start(out);
            }
            Verb::Resolve { keep } => self.resolve(keep == self.cfg.me, by, out),
            Verb::Maintenance { minutes } => self.maintain(minutes, out),
        }
        // What a checker or script orders gives nothing away where only a person may.
        self.is_handed_over &= !is_automatic;
    }

    /// Two histories that exclude one another: this node waits because of it, or serves beside one that does.
    fn is_split(&self) -> bool {
        let is_waiting = matches!(self.reason, Some(Reason::SplitBrain { .. }));
        is_waiting || self.is_serving() && self.peer.as_deref().is_some_and(|p| self.is_contact && !self.is_ancestor_of(p))
    }

    /// A person has decided whose data goes on. The other copy is given up here and only here.
    fn resolve(&mut self, is_kept: bool, by: String, out: &mut Vec<Effect>) {
        match (is_kept, self.phase) {
            (true, Phase::Serving | Phase::Leaving) => {}
            (true, _) => {
                self.force = Some(Force { by, accepts_loss: true, overrides_flag: false, is_resolving: true });
                self.start(out);
            }
            (false, Phase::Serving | Phase::Leaving | Phase::Following) => {
                self.saved.flag = Flag::Unknown;
                self.save(out);
                let steps = self.steps_abandon("stopwait");
                self.leave(steps, "stopwait", Goal::Idle, out);
            }
            (false, _) => {
                self.saved.flag = Flag::Unknown;
                self.save(out);
                self.start(out);
            }
        }
    }

    fn maintain(&mut self, minutes: u32, out: &mut Vec<Effect>) {
        if minutes == 0 {
            return self.end_maintenance(out);
        }
        self.is_maintained = true;
        out.push(Effect::Report(Event::Maintenance { minutes }));
        out.push(Effect::SetTimer(Timer::Maintenance, Duration::from_secs(u64::from(minutes) * 60)));
    }

    pub(super) fn end_maintenance(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.is_maintained) {
            out.push(Effect::StopTimer(Timer::Maintenance));
            out.push(Effect::Report(Event::Maintenance { minutes: 0 }));
        }
    }

    fn start(&mut self, out: &mut Vec<Effect>) {
        self.blocked = None;
        self.is_handed_over = false;
        self.saved.is_started = true;
        self.saved.stopped_by = None;
        self.save(out);
        self.phase = Phase::Idle;
        let from = self.state;
        self.enter(State::Wait, Readiness::Transient, Some(Reason::Starting), out);
        let steps = self.steps_prestart(from);
        self.start_plan_after_poststop(steps, Goal::Idle, out);
    }

    pub(super) fn stop(&mut self, by: String, out: &mut Vec<Effect>) {
        self.force = None;
        self.blocked = None;
        self.is_waiting_for_handover = false;
        out.push(Effect::StopTimer(Timer::SwapBack));
        // An unresolved request stays in the record; its answer has no one to act on it.
        if !matches!(self.phase, Phase::Serving | Phase::Leaving) {
            self.asking = None;
            out.push(Effect::StopTimer(Timer::ArbiterRetry));
        }
        let is_ordered = crate::command::is_person(&by);
        let goal = Goal::Stopped { by };
        match self.phase {
            Phase::Stopped => {}
            Phase::Serving | Phase::Leaving => {
                let steps = self.steps_out("stop", State::Stop, true);
                self.leave(steps, "stop", goal, out);
                self.is_handed_over = is_ordered;
            }
            Phase::Following => {
                let steps = self.steps_unfollow("stop", State::Stop);
                self.leave(steps, "stop", goal, out);
            }
            Phase::Idle | Phase::Claiming => {
                self.phase = Phase::Idle;
                self.enter(State::Wait, Readiness::Transient, Some(Reason::Stopping), out);
                let steps = self.steps_poststop();
                self.start_plan(steps, goal, out);
            }
        }
    }

    pub(super) fn restart(&mut self, out: &mut Vec<Effect>) {
        self.enter(self.state, Readiness::Transient, Some(Reason::Starting), out);
        let steps = self.steps_restart();
        self.start_plan(steps, Goal::Serving, out);
    }

    pub(super) fn stop_start(&mut self, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Serving if self.is_swappable() && self.is_handing_over_allowed() => {
                let steps = self.steps_out("stopstart", State::Wait, true);
                self.leave(steps, "stopstart", Goal::HandedOver, out);
            }
            Phase::Serving => {
                let steps = self.steps_out("stopstart", State::Wait, true);
                self.leave(steps, "stopstart", Goal::Idle, out);
            }
            Phase::Following => {
                let steps = self.steps_unfollow("stopstart", State::Wait);
                self.leave(steps, "stopstart", Goal::Idle, out);
            }
            Phase::Idle | Phase::Claiming | Phase::Stopped | Phase::Leaving => self.start(out),
        }
    }
}
