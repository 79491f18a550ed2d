//! Following: being brought level, promising, and taking over.

use super::plan::{Goal, Step};
use super::{Mirror, Mutant, Phase};
use crate::engine::{Effect, Timer};
use crate::event::Event;
use crate::ids::Session;
use crate::module::{Async, Authority};
use crate::replica::ReplicaOrder;
use crate::state::{Flag, Readiness, Reason, State};
use crate::wire::peer::Status;

impl Mirror {
    /// Accept the offered session. The flag goes down before the first byte changes.
    pub(super) fn follow(&mut self, session: Session, peer: &Status, out: &mut Vec<Effect>) {
        self.saved.session = session;
        self.saved.flag = if self.is_mutant(Mutant::UpToDateEarly) { Flag::UpToDate } else { Flag::Inconsistent };
        // The newest version this node knows of; the flag says what the copy is worth.
        self.saved.epoch = self.saved.epoch.max(peer.epoch);
        self.saved.is_owner = false;
        self.saved.is_clean = false;
        self.saved.released = None;
        self.save(out);
        self.phase = Phase::Following;
        self.following = Some(session);
        self.is_level = self.is_mutant(Mutant::UpToDateEarly);
        self.is_session_lost = false;
        self.is_volatile_mine = false;
        self.blocked = None;
        (self.is_paused, self.excluding) = (false, None);
        self.enter(State::Second, Readiness::Transient, Some(Reason::Resyncing), out);
        let job = self.new_job();
        out.push(Effect::Replica(job, ReplicaOrder::Follow { epoch: peer.epoch, session }));
    }

    /// Everything up to the barrier is on this disk. The flag goes up after the fact.
    pub(super) fn on_level(&mut self, session: Session, out: &mut Vec<Effect>) {
        if self.following != Some(session) || self.is_session_lost || self.is_planning() {
            return;
        }
        let Some(peer) = self.peer.clone() else { return };
        self.saved.flag = match self.cfg.ack {
            Async::None => Flag::UpToDate,
            Async::Second if self.is_mutant(Mutant::VolatileAsUpToDate) => Flag::UpToDate,
            Async::Second => Flag::Volatile,
        };
        self.is_volatile_mine = true;
        // A promise of an earlier session says nothing of this one.
        self.is_bound = false;
        out.push(Effect::StopTimer(Timer::PromiseGiven));
        self.saved.arbiter = peer.arbiter;
        self.saved.epoch = peer.epoch;
        self.saved.gen_id = peer.gen_id;
        self.saved.lineage = peer.lineage.clone();
        self.saved.in_sync = peer.in_sync.clone();
        self.save(out);
        self.is_level = true;
        out.push(Effect::Report(Event::ResyncDone { session, bytes_copied: 0, files: 0, millis: 0 }));
    }

    /// A promise may be given now: the peer serves and requires this very session, and nothing is unresolved.
    pub(super) fn can_promise(&self) -> bool {
        let is_lax = self.is_mutant(Mutant::PromiseWithIntent);
        let is_resolved = self.saved.intent.is_none() || is_lax;
        let is_following = self.phase == Phase::Following || is_lax && self.phase == Phase::Claiming;
        let is_staying = !self.is_planning() || self.goal == Goal::Following;
        let is_required = self.peer.as_ref().is_some_and(|p| p.is_serving && p.requires.is_some() && p.requires == self.following);
        is_following && self.is_level && !self.is_session_lost && is_resolved && is_staying && is_required
    }

    pub(super) fn on_heard_following(&mut self, out: &mut Vec<Effect>) {
        if self.can_promise() {
            self.is_bound = true;
            out.push(Effect::SetTimer(Timer::PromiseGiven, self.cfg.timing.keep));
        }
    }

    /// SECOND, level-triggered.
    pub(super) fn watch(&mut self, out: &mut Vec<Effect>) {
        if self.is_planning() && self.goal != Goal::Following {
            return;
        }
        let peer = self.peer.clone().filter(|_| self.is_contact);
        if let Some(peer) = peer.as_deref() {
            if peer.is_serving && self.is_dropped_by(peer) {
                return self.unfollow(Reason::WaitingForSource { source: self.cfg.peer.clone() }, out);
            }
            if peer.is_serving && self.is_level && peer.in_sync.contains(&self.cfg.me) && peer.requires == self.following {
                self.adopt(peer, out);
            }
            let is_given_up = peer.released == Some(peer.epoch) && peer.epoch >= self.saved.epoch;
            if self.is_level && !peer.is_serving && is_given_up {
                // Given up in order: the promise has no one left to protect.
                self.is_bound = false;
                out.push(Effect::StopTimer(Timer::PromiseGiven));
                if peer.hands_over || !self.is_maintained {
                    return self.take_over(out);
                }
            }
        }
        let is_primary_gone = peer.as_ref().is_none_or(|p| !p.is_serving);
        let may_claim = !self.is_bound || self.is_mutant(Mutant::NoPromise);
        if self.is_level && is_primary_gone && may_claim {
            if self.is_maintained {
                return self.enter(State::Second, Readiness::NotReady, Some(Reason::Maintenance), out);
            }
            return self.take_over(out);
        }
        if self.reason == Some(Reason::Maintenance) && !self.is_planning() {
            self.enter(State::Second, Readiness::Ready, None, out);
        }
        if !self.is_level && (self.is_session_lost || is_primary_gone) {
            self.unfollow(Reason::HalfSynced, out);
        }
    }

    /// The serving peer went on without this node, or ended the session before it was level.
    fn is_dropped_by(&self, peer: &Status) -> bool {
        let is_session_over = peer.offer != self.following && peer.requires != self.following;
        let is_over = is_session_over && peer.session >= self.saved.session;
        if !self.is_level {
            return is_over;
        }
        // Level and not named: either it is about to be named, in this session, or never will be.
        let is_newer = peer.epoch > self.saved.epoch;
        !peer.in_sync.contains(&self.cfg.me) && (is_newer || is_over)
    }

    fn unfollow(&mut self, reason: Reason, out: &mut Vec<Effect>) {
        if matches!(self.saved.flag, Flag::UpToDate | Flag::Volatile) {
            self.saved.flag = Flag::Stale;
            self.save(out);
        }
        let steps = self.steps_unfollow("stopwait", State::Wait);
        self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: true }, out);
    }

    /// The primary's record names both: this node is the ready secondary.
    fn adopt(&mut self, peer: &Status, out: &mut Vec<Effect>) {
        if self.saved.epoch != peer.epoch || self.saved.in_sync != peer.in_sync {
            self.saved.arbiter = peer.arbiter;
            self.saved.epoch = peer.epoch;
            self.saved.in_sync = peer.in_sync.clone();
            self.saved.is_owner = false;
            self.save(out);
        }
        let is_ready = self.readiness == Readiness::Ready;
        if !is_ready && !self.is_planning() && !self.is_paused {
            let steps = self.steps_second();
            self.start_plan(steps, Goal::Following, out);
        }
    }

    /// The primary is gone and the promise is over: close the session, then claim.
    fn take_over(&mut self, out: &mut Vec<Effect>) {
        let is_given = self.peer.as_ref().is_some_and(|p| p.hands_over && p.released.is_some() && p.released == Some(p.epoch));
        let is_manual = self.cfg.authority == Authority::Manual;
        if !is_given && (!self.cfg.is_failover_on || is_manual) {
            let steps = self.steps_unfollow("stopwait", State::Wait);
            let reason = if is_manual { Reason::ManualTakeover { peer: self.cfg.peer.clone() } } else { Reason::FailoverOff };
            return self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: false }, out);
        }
        self.enter(State::Second, Readiness::Transient, Some(Reason::Starting), out);
        if self.is_mutant(Mutant::ClaimUnclosed) {
            return self.on_session_closed(out);
        }
        let stop_second = self.script_stop_second();
        self.start_plan([Step::CloseSession, stop_second], Goal::Claim, out);
    }

    /// Nothing can be applied any more and everything applied is on disk: the claim may leave.
    pub(super) fn on_session_closed(&mut self, out: &mut Vec<Effect>) {
        if !self.is_mutant(Mutant::PromiseWithIntent) {
            self.following = None;
            self.is_level = false;
        }
        self.is_session_lost = false;
        if self.saved.flag == Flag::Volatile {
            self.saved.flag = Flag::UpToDate;
            self.save(out);
        }
        self.phase = Phase::Claiming;
        self.ask_claim(self.saved.epoch, out);
    }

    pub(super) fn on_apply_failed(&mut self, session: Session, detail: String, out: &mut Vec<Effect>) {
        if self.following != Some(session) || (self.is_planning() && self.goal != Goal::Following) {
            return;
        }
        out.push(Effect::Report(Event::DataFailed { detail: detail.clone() }));
        self.unfollow(Reason::DataUnusable { detail }, out);
    }
}
