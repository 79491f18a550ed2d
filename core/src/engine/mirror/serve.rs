//! Serving: alone, or with a follower whose acknowledgements are required.
//!
//! Order of growing: require first, then make the peer eligible. Order of shrinking: exclude first, then stop
//! requiring. While a request's outcome is unknown, the stricter case holds.

use super::plan::{Goal, Step};
use super::{Mirror, Mutant, Phase};
use crate::engine::{Effect, Outcome, Ticket, Timer, VipPlan};
use crate::event::Event;
use crate::ids::{Gen, Lsn, Session};
use crate::module::{Authority, DefaultPrim};
use crate::replica::{ReplicaAnswer, ReplicaOrder};
use crate::state::{ArbiterView, Flag, Readiness, Reason, State};
use crate::wire::arbiter::{ArbiterAnswer, ArbiterRequest};
use crate::wire::peer::Status;
use std::time::Duration;

/// A frozen primary gives up after this long and stops the application; a release that waits for a peer that is gone
/// is broken off.
pub(super) const FREEZE_MAX: Duration = Duration::from_secs(30);
/// A handed-over role that the peer does not take in this time is taken back.
pub(super) const SWAP_BACK: Duration = Duration::from_secs(15);
/// A configured default primary gets its role back after being in sync for this long.
const FAILBACK_DELAY: Duration = Duration::from_secs(10);

impl Mirror {
    /// A newer status of the peer while the right to serve is held.
    pub(super) fn on_heard_serving(&mut self, promise: Option<Ticket>, out: &mut Vec<Effect>) {
        // A promise kept for another time than it is believed for is none.
        let promise = promise.filter(|_| self.peer.as_deref().is_some_and(|p| self.times_differ(p).is_none()));
        if let (Some(ticket), true, false) = (promise, self.is_requiring(), self.is_session_lost) {
            self.is_held = true;
            out.push(Effect::SetTimerSince(Timer::PromiseHeld, ticket, self.cfg.timing.believe));
            out.push(Effect::Entitle(ticket, self.cfg.timing.believe));
        }
    }

    /// Level-triggered care of the pair.
    pub(super) fn tend(&mut self, out: &mut Vec<Effect>) {
        let peer = self.peer.clone().filter(|_| self.is_contact);
        let peer = peer.as_deref();
        let is_superseded = |p: &Status| p.epoch > self.saved.epoch && p.arbiter == self.saved.arbiter && p.is_owner;
        if self.phase == Phase::Serving && peer.is_some_and(|p| is_superseded(p) || self.is_second_server(p)) {
            return self.step_down(out);
        }
        // On the way out a claim has one use only: to let a release end that waits for a peer that is gone. And a node
        // that has stepped down has no right to ask for anything.
        if !self.saved.is_owner || self.phase == Phase::Leaving && !self.is_releasing() {
            return;
        }
        if self.is_store_lost() && self.phase == Phase::Serving && self.is_free_to_ask() {
            self.ask(ArbiterRequest::Read, out);
        }
        if let Some(session) = self.requires {
            if self.has_left(session, peer) && !self.is_session_lost && !self.takes_back_sessions() {
                self.is_session_lost = true;
                if peer.is_some_and(|p| !p.is_started) {
                    out.push(Effect::Report(Event::PeerLeft { peer: self.cfg.peer.clone() }));
                }
            }
            if self.is_session_lost {
                return self.shrink(session, peer, out);
            }
            return self.grow_if_ready(session, peer, out);
        }
        if self.is_peer_recorded() {
            // Alone by the peer's own exclusion: the record must follow.
            if self.is_free_to_ask() {
                self.ask_claim(self.saved.epoch, out);
            }
            return;
        }
        if self.hosting.is_some() && !self.is_peer_willing() && !self.is_planning() {
            return self.end_hosting(out);
        }
        if self.phase == Phase::Serving && !self.is_planning() {
            self.offer_if_wanted(peer, out);
        }
    }

    /// Both serve, which only an authority without a record outside of the two allows: the one that took the role
    /// from the other leaves it.
    fn is_second_server(&self, peer: &Status) -> bool {
        let is_both = self.cfg.authority.is_own_record() && peer.is_serving && peer.is_owner && self.saved.is_owner;
        let mine = (self.saved.is_taken, &self.cfg.me);
        is_both && !self.is_requiring() && mine > (peer.is_taken, &self.cfg.peer)
    }

    /// The record names the peer, or may name it after an unresolved grow.
    pub(super) fn is_peer_recorded(&self) -> bool {
        self.saved.in_sync.contains(&self.cfg.peer)
    }

    /// The peer itself says that it is not the acknowledging follower of `session` any more.
    fn has_left(&self, session: Session, peer: Option<&Status>) -> bool {
        let Some(peer) = peer else { return false };
        // A requirement never waits for a node that does not follow. While it follows, its word may be older than the
        // barrier that made us require it, until the record names it.
        let is_following = peer.state == State::Second;
        peer.session >= session && (!is_following || self.is_peer_recorded() && peer.level != Some(session))
    }

    /// The follower is gone: exclude it, then stop requiring it.
    fn shrink(&mut self, session: Session, peer: Option<&Status>, out: &mut Vec<Effect>) {
        if !self.is_peer_recorded() {
            // Never eligible: no one can take over, so nothing has to be asked.
            self.begin_history(out);
            return self.go_alone(out);
        }
        if self.is_mutant(Mutant::AloneBeforeClaim) {
            return self.go_alone(out);
        }
        let is_excluded_by_itself = peer
            .is_some_and(|p| p.session >= session && matches!(p.flag, Flag::Stale | Flag::Inconsistent | Flag::Unknown) && !p.has_intent);
        if is_excluded_by_itself {
            self.begin_history(out);
            return self.go_alone(out);
        }
        if self.is_free_to_ask() {
            self.ask_claim(self.saved.epoch, out);
        }
        if self.phase == Phase::Serving && !self.is_planning() && !self.is_frozen {
            let reason = if self.arbiter == ArbiterView::Unreachable { self.reason_no_answer() } else { Reason::Starting };
            self.enter(self.state, Readiness::Transient, Some(reason), out);
        }
    }

    /// What is acknowledged from here the peer does not have: a copy that goes on from its state is another history.
    fn begin_history(&mut self, out: &mut Vec<Effect>) {
        self.push_gen(self.new_gen(self.saved.epoch));
        self.save(out);
    }

    /// Stop requiring the peer. Only from here are writes acknowledged by this node alone.
    fn go_alone(&mut self, out: &mut Vec<Effect>) {
        self.requires = None;
        self.offer = None;
        self.is_session_lost = false;
        self.is_held = false;
        out.push(Effect::StopTimer(Timer::PromiseHeld));
        out.push(Effect::StopTimer(Timer::Failback));
        let job = self.new_job();
        out.push(Effect::Replica(job, ReplicaOrder::GoAlone { epoch: self.saved.epoch }));
        out.push(Effect::EntitleAlone);
        if self.phase != Phase::Serving {
            return;
        }
        if self.is_frozen {
            self.is_frozen = false;
            out.push(Effect::StopTimer(Timer::FreezeMax));
            out.push(Effect::Report(Event::Thawed));
            self.thaw(out);
            let was_prim = self.state == State::Prim;
            self.enter(State::Alone, Readiness::Transient, Some(Reason::Starting), out);
            if self.is_planning() {
                // The address was dropped in the middle of a plan: begin the plan's end again.
                self.plan.push_front(Step::RaiseVips);
            } else {
                let mut steps = vec![Step::RaiseVips];
                if was_prim {
                    steps.extend(self.steps_shrunk());
                }
                self.start_plan(steps, Goal::Serving, out);
            }
        } else if self.hosting.is_some() {
            self.enter(State::Alone, Readiness::Transient, self.hosting.clone(), out);
        } else if !self.is_planning() {
            let was_prim = self.state == State::Prim;
            self.enter(State::Alone, Readiness::Ready, None, out);
            if was_prim {
                let steps = self.steps_shrunk();
                self.start_plan(steps, Goal::Serving, out);
            }
        } else if self.goal == Goal::Serving && self.readiness == Readiness::Ready {
            // What is being run tells of a change of state; another one comes.
            self.enter(State::Alone, Readiness::Ready, None, out);
            let shrunk = self.steps_shrunk();
            self.plan.extend(shrunk);
        } else {
            self.enter(State::Alone, Readiness::Transient, self.reason.clone(), out);
        }
    }

    fn grow_if_ready(&mut self, session: Session, peer: Option<&Status>, out: &mut Vec<Effect>) {
        if !self.is_free_to_ask() || self.phase != Phase::Serving || self.is_planning() {
            return;
        }
        let is_grown = self.is_peer_recorded() && self.saved.intent.is_none();
        if is_grown {
            // Also when the outcome of the request was only read off a later answer.
            if self.state == State::Alone && !self.is_frozen && !self.is_store_lost() {
                self.on_grown(out);
            }
            return;
        }
        let is_peer_level = peer.is_some_and(|p| p.level == Some(session) && matches!(p.flag, Flag::UpToDate | Flag::Volatile));
        if is_peer_level && self.is_held {
            let with = self.cfg.peer.clone();
            self.ask(ArbiterRequest::Grow { store: self.saved.arbiter, expected: self.saved.epoch, with }, out);
        }
    }

    fn offer_if_wanted(&mut self, peer: Option<&Status>, out: &mut Vec<Effect>) {
        let is_steady = self.readiness == Readiness::Ready || self.hosting.is_some();
        if self.state != State::Alone || !is_steady || self.is_paused {
            return;
        }
        let differ = peer.and_then(|p| self.times_differ(p));
        if self.hosting.is_none() && matches!(self.reason, None | Some(Reason::TimesDiffer { .. })) {
            self.enter(State::Alone, Readiness::Ready, differ.clone(), out);
        }
        if differ.is_some() {
            return;
        }
        let Some(peer) = peer.filter(|p| p.state == State::Wait && p.is_started && !p.is_serving && !p.has_intent) else { return };
        // An offer the peer has used up without ever connecting is replaced.
        let is_used_up = self.offer.is_some_and(|s| peer.session >= s);
        if self.offer.is_some() && !is_used_up {
            return;
        }
        let session = self.saved.session.max(peer.session).next();
        self.saved.session = session;
        self.saved.is_shared = true;
        self.save(out);
        self.offer = Some(session);
        let job = self.new_job();
        out.push(Effect::Replica(job, ReplicaOrder::Offer { epoch: self.saved.epoch, session }));
        out.push(Effect::Report(Event::ResyncStarted { session }));
    }

    /// The final barrier of the resynchronisation is passed: from here the peer is required.
    pub(super) fn on_armed(&mut self, session: Session, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Serving | Phase::Leaving) && self.offer == Some(session) {
            self.requires = Some(session);
            self.is_session_lost = false;
        } else if matches!(self.phase, Phase::Serving | Phase::Leaving) {
            // The process requires a session this engine has given up: set its writers free. A newer offer goes with
            // it, and another one is made.
            self.offer = None;
            let job = self.new_job();
            out.push(Effect::Replica(job, ReplicaOrder::GoAlone { epoch: self.saved.epoch }));
        }
    }

    pub(super) fn on_session_lost(&mut self, session: Session, detail: String, out: &mut Vec<Effect>) {
        let is_ours = [self.offer, self.requires, self.following].contains(&Some(session));
        if !is_ours {
            return;
        }
        out.push(Effect::Report(Event::SessionLost { session, detail }));
        if self.requires == Some(session) || self.following == Some(session) {
            self.is_session_lost = true;
        } else {
            self.offer = None;
        }
    }

    /// The arbiter's answer to a serving node.
    pub(super) fn on_record_serving(&mut self, request: &ArbiterRequest, answer: ArbiterAnswer, out: &mut Vec<Effect>) {
        let record = answer.record;
        let is_owner = record.owner.as_ref() == Some(&self.cfg.me);
        if !is_owner || !self.is_me_in(&record) {
            out.push(Effect::Report(Event::ClaimRejected { epoch: record.version, owner: record.owner.clone() }));
            self.saved.intent = None;
            return self.step_down(out);
        }
        if self.reason == Some(Reason::ArbiterReplaced) {
            self.enter(self.state, self.readiness, None, out);
        }
        let had_version = self.saved.epoch;
        // An earlier request whose answer was lost: its outcome is read off this one.
        let settled = self.saved.intent.clone().filter(|i| self.is_claim_ours(i, &record));
        let request = settled.as_ref().unwrap_or(request);
        self.saved.epoch = record.version;
        self.saved.in_sync = record.in_sync.clone();
        match request {
            ArbiterRequest::Claim { .. } if self.is_claim_ours(request, &record) => {
                self.saved.intent = None;
                self.push_gen(record.gen_id);
                self.save(out);
                out.push(Effect::Report(Event::ClaimAccepted { epoch: record.version }));
                self.go_alone(out);
            }
            ArbiterRequest::Grow { expected, .. } if record.version > *expected => {
                self.saved.intent = None;
                self.save(out);
                if self.is_peer_recorded() {
                    out.push(Effect::Report(Event::Grown { epoch: record.version }));
                    self.on_grown(out);
                }
            }
            ArbiterRequest::Seed { .. } if self.is_claim_ours(request, &record) => {
                self.saved.intent = None;
                self.saved.arbiter = record.instance;
                self.save(out);
                out.push(Effect::Report(Event::Reseeded { epoch: record.version }));
                self.on_grown(out);
            }
            // A request of ours that lost against another of ours: the record moved on, ask again at its version.
            _ => {
                if record.version > had_version {
                    self.saved.intent = None;
                }
                self.save(out);
            }
        }
    }

    /// The record names both.
    fn on_grown(&mut self, out: &mut Vec<Effect>) {
        if self.phase != Phase::Serving || self.is_planning() || self.requires.is_none() || !self.is_peer_recorded() {
            return;
        }
        if let Some(reason) = self.hosting.take() {
            let goal = Goal::Blocked { reason, is_retried: false };
            return self.leave([Step::Release], "swap", goal, out);
        }
        let was_alone = self.state == State::Alone;
        self.enter(State::Prim, Readiness::Ready, None, out);
        let is_theirs = match &self.cfg.default_prim {
            DefaultPrim::Alone => false,
            DefaultPrim::Node(node) => *node == self.cfg.peer,
            DefaultPrim::LastPrim => self.peer.as_ref().is_some_and(|p| p.wants_role),
        };
        if is_theirs {
            out.push(Effect::SetTimer(Timer::Failback, FAILBACK_DELAY));
        }
        if was_alone {
            let steps = self.steps_grown();
            self.start_plan(steps, Goal::Serving, out);
        }
    }

    /// The peer that was to take the role does not: nothing is served from here.
    fn end_hosting(&mut self, out: &mut Vec<Effect>) {
        let Some(reason) = self.hosting.take() else { return };
        self.leave([Step::Release], "stopwait", Goal::Blocked { reason, is_retried: false }, out);
    }

    /// The peer's promise ran out before the arbiter excluded it: nothing may be acknowledged.
    pub(super) fn on_promise_over(&mut self, out: &mut Vec<Effect>) {
        if !self.is_requiring() {
            return;
        }
        self.is_session_lost = !self.takes_back_sessions();
        if self.phase == Phase::Leaving && self.is_releasing() {
            // The release has this long to be set free by the arbiter; then it is broken off.
            out.push(Effect::SetTimer(Timer::FreezeMax, FREEZE_MAX));
        }
        if self.phase == Phase::Leaving && self.is_peer_recorded() {
            // The peer may take the address from now on, whatever the scripts on the way out still take.
            let job = self.new_job();
            out.push(Effect::Vip(job, VipPlan::Drop));
        }
        if !self.is_peer_recorded() || self.is_frozen || self.phase != Phase::Serving {
            return;
        }
        self.is_frozen = true;
        out.push(Effect::Report(Event::Frozen));
        out.push(Effect::Disentitle);
        let job = self.new_job();
        out.push(Effect::Vip(job, VipPlan::Drop));
        self.freeze_app(out);
        out.push(Effect::SetTimer(Timer::FreezeMax, FREEZE_MAX));
        self.enter(self.state, Readiness::NotReady, Some(Reason::Frozen), out);
    }

    pub(super) fn on_frozen_too_long(&mut self, out: &mut Vec<Effect>) {
        if self.phase == Phase::Leaving && self.is_releasing() && self.is_held && !self.is_session_lost {
            // The peer is there and acknowledges: it only takes long.
            return out.push(Effect::SetTimer(Timer::FreezeMax, FREEZE_MAX));
        }
        if self.phase == Phase::Leaving && self.is_releasing() {
            // Nothing unacknowledged is acknowledged by this; the application has stopped already or never will.
            let goal = self.goal.clone();
            let steps = self.steps_abandon("stopwait");
            return self.start_plan(steps, goal, out);
        }
        if self.is_frozen && self.phase == Phase::Serving {
            let steps = self.steps_abandon("stopwait");
            let reason = self.reason_no_answer();
            self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: true }, out);
        }
    }

    /// Another node owns the record: stop at once, keep the data, never serve it as current.
    pub(super) fn step_down(&mut self, out: &mut Vec<Effect>) {
        self.saved.flag = Flag::Stale;
        self.saved.is_owner = false;
        self.save(out);
        if self.phase == Phase::Leaving {
            if self.is_releasing() {
                // The release would wait for ever for a peer that owns the record now.
                let goal = self.goal.clone();
                let steps = self.steps_abandon("stopwait");
                self.start_plan(steps, goal, out);
            }
            return;
        }
        let steps = self.steps_abandon("stopwait");
        let reason = Reason::DataOlder { newer: Some(self.cfg.peer.clone()), since_unix_ms: None };
        self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: true }, out);
    }

    /// The copy is another one than it was: nothing is known of what it holds.
    pub(super) fn on_replaced(&mut self, by: String, out: &mut Vec<Effect>) {
        if self.phase != Phase::Stopped || self.saved.intent.is_some() {
            return;
        }
        if self.saved.flag != Flag::Unknown {
            self.saved.flag = Flag::Stale;
        }
        self.saved.gen_id = Gen(0);
        self.save(out);
        out.push(Effect::Report(Event::CopyReplaced { by }));
    }

    /// This node's disk or data process failed.
    pub(super) fn on_data_failed(&mut self, detail: String, is_dead: bool, out: &mut Vec<Effect>) {
        out.push(Effect::Report(Event::DataFailed { detail: detail.clone() }));
        let is_flushed = self.saved.flag != Flag::Volatile;
        let is_closing = matches!(self.running, Some((_, Step::CloseSession))) || self.plan.contains(&Step::CloseSession);
        let is_open = !self.is_planning() || self.goal == Goal::Following || is_closing;
        if is_dead && self.phase == Phase::Following && !is_flushed && is_open {
            // What it confirmed from memory went with it.
            self.saved.flag = Flag::Stale;
            self.save(out);
        }
        let reason = Reason::DataUnusable { detail };
        match self.phase {
            Phase::Serving if self.is_handing_over_allowed() && !self.is_session_lost && self.is_peer_recorded() => {
                let steps = self.steps_abandon("swap");
                self.leave(steps, "swap", Goal::HandedOver, out);
            }
            Phase::Serving => {
                if self.count_loop(out) {
                    let steps = self.steps_abandon("stopwait");
                    self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: true }, out);
                }
            }
            // Already on its way out for another reason, which stays the reason.
            Phase::Following if self.is_planning() && self.goal != Goal::Following => {
                if is_dead && matches!(self.running, Some((_, Step::CloseSession))) {
                    // What it confirmed from memory it has not flushed.
                    let failed =
                        || Outcome::Replica(ReplicaAnswer::Failed { detail: "the data process ended before it had flushed".into() });
                    self.on_step_done(if is_flushed { closed_by_death() } else { failed() }, out);
                }
            }
            Phase::Following => {
                let steps = self.steps_unfollow("stopwait", State::Wait);
                self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: true }, out);
            }
            Phase::Leaving if is_dead && matches!(self.running, Some((_, Step::Release | Step::Abandon))) => {
                // Its answer never comes; with the process the mount is gone, which is what was asked for.
                self.running = None;
                self.next_step(out);
            }
            Phase::Stopped | Phase::Idle | Phase::Claiming | Phase::Leaving => {}
        }
    }

    /// A follower is required, and takes the role over by itself.
    pub(super) fn is_handing_over_allowed(&self) -> bool {
        self.is_requiring() && self.cfg.is_failover_on && self.cfg.authority != Authority::Manual
    }

    pub(super) fn on_order_failed(&mut self, detail: String, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Serving if self.offer.is_some() && self.requires.is_none() => {
                out.push(Effect::Report(Event::DataFailed { detail }));
                self.offer = None;
                self.is_paused = true;
                out.push(Effect::SetTimer(Timer::Backoff, crate::engine::BACKOFF));
            }
            Phase::Serving | Phase::Following => self.on_data_failed(detail, false, out),
            _ => {}
        }
    }

    /// Give the role back to the configured default primary.
    pub(super) fn on_failback(&mut self, out: &mut Vec<Effect>) {
        if self.is_swappable() && !self.is_maintained {
            self.swap(out);
            // It is what the configuration orders.
            self.is_handed_over = true;
        } else if self.state == State::Prim {
            out.push(Effect::SetTimer(Timer::Failback, FAILBACK_DELAY));
        }
    }

    pub(super) fn is_swappable(&self) -> bool {
        let is_pair = self.state == State::Prim && self.readiness == Readiness::Ready && !self.is_session_lost;
        is_pair
            && self.is_contact
            && self.peer.as_ref().is_some_and(|p| p.state == State::Second && p.readiness == Readiness::Ready && p.is_fit)
    }

    /// The peer had its time to take the role. As long as it is about to, it gets more; then the role is taken back.
    pub(super) fn on_swap_back(&mut self, out: &mut Vec<Effect>) {
        let is_coming = self.is_contact
            && self.peer.as_ref().is_some_and(|p| p.has_intent || p.state == State::Second && p.readiness == Readiness::Transient);
        if self.is_waiting_for_handover && is_coming {
            out.push(Effect::SetTimer(Timer::SwapBack, SWAP_BACK));
        } else {
            self.is_waiting_for_handover = false;
        }
    }

    pub(super) fn swap(&mut self, out: &mut Vec<Effect>) {
        let steps = self.steps_out("swap", State::Second, true);
        self.leave(steps, "swap", Goal::HandedOver, out);
    }
}

/// A process that is gone applies nothing any more.
fn closed_by_death() -> Outcome {
    Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })
}
