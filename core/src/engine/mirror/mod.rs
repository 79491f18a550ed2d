//! A mirror: one node serves, one follows.
//!
//! Read in this order: this file (the parts of the machine and its one door), `wait` (who may start, and the
//! arbiter), `serve` (primary), `follow` (secondary), `order` (administrator and checkers), `view` (what is said
//! to the outside).
//!
//! Two locks keep a node from serving old data: the arbiter's record (is it in the in-sync set?) and its own
//! flag (is this copy up to date?). Neither is ever trusted alone.

mod act;
mod follow;
mod kept;
mod order;
mod plan;
mod serve;
#[cfg(test)]
mod tests;
mod view;
mod wait;

use super::watched::{Loops, Resource, Watched};
use super::{Effect, Input, MirrorConfig, Mutant, Outcome, Saved, Ticket, Timer};
use crate::command::BY_MAXLOOP;
use crate::event::Event;
use crate::ids::{Epoch, Gen, JobId, LifeId, Session};
use crate::replica::ReplicaNote;
use crate::state::{ArbiterView, Flag, Readiness, Reason, State};
use crate::wire::arbiter::{ArbiterRequest, Record};
use crate::wire::peer::Status;
use plan::{Goal, Step};
use std::collections::VecDeque;
use std::time::Duration;

pub use kept::Kept;

/// What a node is about, apart from the state it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    /// STOP.
    Stopped,
    /// WAIT: no role; may take one.
    Idle,
    /// ALONE or PRIM, or on the way there: the right to serve is held.
    Serving,
    /// SECOND.
    Following,
    /// A follower that lost its primary and goes for the role, or a node that asks for it from WAIT.
    Claiming,
    /// On the way out of a role.
    Leaving,
}

/// What keeps the next arbiter request back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Asking {
    /// A request is under way.
    Out { job: JobId, request: ArbiterRequest },
    /// The retry timer runs.
    Later,
}

/// An operator's decision to start as primary whatever the record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Force {
    by: String,
    /// `--accept-loss`: this copy may be older than another.
    accepts_loss: bool,
    /// `primforce`: this copy, whatever its own flag says.
    overrides_flag: bool,
    /// `resolve`: the other node serves until it has heard the same decision, and is waited for. Any other order is
    /// void once the other node serves: it was given for the case that nobody does.
    is_resolving: bool,
}

/// The engine of a mirror module on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mirror {
    cfg: MirrorConfig,
    saved: Saved,
    /// Random number of this life, from which data histories get their ids.
    entropy: u128,
    jobs_made: u64,

    state: State,
    readiness: Readiness,
    reason: Option<Reason>,
    phase: Phase,

    plan: VecDeque<Step>,
    running: Option<(JobId, Step)>,
    goal: Goal,
    asking: Option<Asking>,
    arbiter: ArbiterView,

    /// The newest status of the peer; kept when contact is lost.
    peer: Option<Box<Status>>,
    is_contact: bool,
    /// The peer's promise to us is in force.
    is_held: bool,
    /// Our promise to the peer may still bind us.
    is_bound: bool,
    is_quarantined: bool,
    /// No answer from the peer in time: nothing is acknowledged, the address is gone.
    is_frozen: bool,
    /// The application's processes are stopped where they are.
    is_app_frozen: bool,
    /// Maintenance: no automatic action.
    is_maintained: bool,
    /// The arbiter's store is this one and not the one this node agreed with, and what to write there is not settled: asked
    /// again; zero = it is the same.
    strange_store: LifeId,
    /// Attempts to remove the addresses in the present step.
    drop_tries: u8,
    /// The application does not start here: its data is brought to the peer, without it.
    hosting: Option<Reason>,

    /// Serving: session offered to the peer.
    offer: Option<Session>,
    /// Serving: session whose acknowledgements are required.
    requires: Option<Session>,
    /// Serving: the required session's connection is gone, or the peer left it.
    is_session_lost: bool,
    /// Following: session, and whether its barrier is passed.
    following: Option<Session>,
    is_level: bool,
    /// Left in order: this copy is given up as soon as the primary says that it goes on without it.
    excluding: Option<Session>,
    /// `Volatile` written in this life: memory still holds what the disk may lack.
    is_volatile_mine: bool,

    force: Option<Force>,
    /// The role was given up because a person ordered it.
    is_handed_over: bool,
    /// The application was ended from outside while the right to serve was not in force: it is started again when it is.
    is_app_gone: bool,
    /// A failure of this node's own making: stays in WAIT until the back-off ends (`true`) or an order comes.
    blocked: Option<(Reason, bool)>,
    is_waiting_for_handover: bool,
    /// An offer could not be made, or the scripts of a secondary failed: not again before the back-off ends.
    is_paused: bool,
    /// `start_both` has run and `stop_both` has not.
    is_both_up: bool,
    /// `start_sec` has run and `stop_sec` has not.
    is_sec_up: bool,
    pub(super) watched: Watched,
    loops: Loops,
    last_sent: Option<Box<Status>>,
}

impl Mirror {
    /// An engine with the record as found on disk. `entropy` is random and new in each life.
    pub fn new(cfg: MirrorConfig, saved: Saved, entropy: u128) -> Mirror {
        let reason = match (&saved.stopped_by, saved.is_started, saved.epoch) {
            (Some(by), _, _) if by == BY_MAXLOOP => Reason::LoopLimit { count: cfg.maxloop },
            (Some(by), _, _) => Reason::StoppedBy { by: by.clone() },
            (None, false, Epoch(0)) => Reason::NeverStarted,
            _ => Reason::StoppedBy { by: "agent".into() },
        };
        Mirror {
            cfg,
            saved,
            entropy,
            jobs_made: 0,
            state: State::Stop,
            readiness: Readiness::NotReady,
            reason: Some(reason),
            phase: Phase::Stopped,
            plan: VecDeque::new(),
            running: None,
            goal: Goal::Idle,
            asking: None,
            arbiter: ArbiterView::Unknown,
            peer: None,
            is_contact: false,
            is_held: false,
            is_bound: false,
            is_quarantined: false,
            is_frozen: false,
            is_app_frozen: false,
            is_maintained: false,
            strange_store: LifeId(0),
            drop_tries: 0,
            hosting: None,
            offer: None,
            requires: None,
            is_session_lost: false,
            following: None,
            is_level: false,
            excluding: None,
            is_volatile_mine: false,
            force: None,
            is_handed_over: false,
            is_app_gone: false,
            blocked: None,
            is_waiting_for_handover: false,
            is_paused: false,
            is_both_up: false,
            is_sec_up: false,
            watched: Watched::default(),
            loops: Loops::default(),
            last_sent: None,
        }
    }

    /// One input, applied at once; what must be done is appended to `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Boot => self.on_boot(out),
            Input::GoneOn => self.go_on(out),
            Input::Command(command) => self.on_command(command, out),
            Input::Loops(change) => self.on_loops(change, out),
            Input::Heard { status, answers } => self.on_heard(status, answers, out),
            Input::Timer(timer) => self.on_timer(timer, out),
            Input::Health { name, health, detail, action, is_pre } => {
                self.watched.hear(name, Resource { health, detail, action, is_pre, is_acted: false }, out);
            }
            Input::Replica(note) => self.on_note(note, out),
            Input::AppEnded => self.on_app_ended(out),
            Input::Done(job, outcome) => self.on_done(job, outcome, out),
        }
        self.consider(out);
        self.say_if_changed(out);
        self.check_invariants();
    }

    fn on_boot(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Report(Event::AgentStarted));
        if self.is_mutant(Mutant::IntentInMemory) {
            self.saved.intent = None;
        }
        // Nothing of a former life serves any more, so the role it had is free: the peer need not wait for it. With a
        // person as authority it stays that person's decision.
        let had_role = self.saved.is_owner && self.saved.epoch > Epoch(0) && self.saved.released != Some(self.saved.epoch);
        // The same with `failover="off"`.
        if had_role && self.cfg.authority != crate::module::Authority::Manual && self.cfg.is_failover_on {
            self.saved.released = Some(self.saved.epoch);
            self.save(out);
        }
        // A former life may have promised something that this one does not remember.
        let must_wait = (self.saved.epoch > Epoch(0) || self.saved.session > Session(0)) && !self.is_mutant(Mutant::NoQuarantine);
        if must_wait {
            self.is_quarantined = true;
            out.push(Effect::SetTimer(Timer::Quarantine, self.cfg.timing.keep));
        }
        self.loops.resume(self.saved.loop_count, self.cfg.loop_interval, out);
        out.push(Effect::SetTimer(Timer::Beat, self.cfg.timing.beat));
    }

    fn on_timer(&mut self, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::Beat => {
                self.last_sent = None;
            }
            Timer::PeerSilent => self.on_silence(out),
            Timer::PromiseHeld => {
                self.is_held = false;
                self.on_promise_over(out);
            }
            Timer::PromiseGiven => self.is_bound = false,
            Timer::Quarantine => self.is_quarantined = false,
            Timer::ArbiterRetry => self.on_arbiter_retry(out),
            Timer::FreezeMax => self.on_frozen_too_long(out),
            Timer::SwapBack => self.on_swap_back(out),
            Timer::Backoff => {
                self.is_paused = false;
                if matches!(self.blocked, Some((_, true))) {
                    self.blocked = None;
                }
            }
            Timer::LoopExpire(slot) => {
                self.loops.expire(slot);
                self.saved.loop_count = self.loops.count();
                self.save(out);
            }
            Timer::Confirm => self.on_confirmed(out),
            Timer::StepRetry => self.on_step_retry(out),
            Timer::Maintenance => self.end_maintenance(out),
            Timer::Failback => self.on_failback(out),
        }
    }

    fn on_heard(&mut self, status: Box<Status>, answers: Option<Ticket>, out: &mut Vec<Effect>) {
        if !self.is_contact {
            self.is_contact = true;
            out.push(Effect::Report(Event::PeerSeen { peer: self.cfg.peer.clone() }));
        }
        out.push(Effect::SetTimer(Timer::PeerSilent, self.silence()));
        let promise = if status.is_promise { answers } else { None };
        self.peer = Some(status);
        self.exclude_if_asked(out);
        match self.phase {
            Phase::Serving | Phase::Leaving => self.on_heard_serving(promise, out),
            Phase::Following => self.on_heard_following(out),
            Phase::Claiming if self.is_mutant(Mutant::PromiseWithIntent) => self.on_heard_following(out),
            Phase::Stopped | Phase::Idle | Phase::Claiming => {}
        }
    }

    /// The follower waits for its whole promise, the others only for the usual silence.
    fn silence(&self) -> Duration {
        if self.phase == Phase::Following { self.cfg.timing.keep } else { self.cfg.timing.silence }
    }

    fn on_silence(&mut self, out: &mut Vec<Effect>) {
        if !self.is_contact {
            return;
        }
        self.is_contact = false;
        // A primary that did not live to hear of it goes on with nothing: who has what is for the record.
        self.excluding = None;
        out.push(Effect::Report(Event::PeerLost { peer: self.cfg.peer.clone() }));
        if self.is_requiring() {
            self.is_session_lost = true;
        }
    }

    fn on_note(&mut self, note: ReplicaNote, out: &mut Vec<Effect>) {
        match note {
            ReplicaNote::Armed { session } => self.on_armed(session, out),
            ReplicaNote::Level { session } => self.on_level(session, out),
            ReplicaNote::SessionLost { session, detail } => self.on_session_lost(session, detail, out),
            ReplicaNote::ApplyFailed { session, detail } => self.on_apply_failed(session, detail, out),
            ReplicaNote::DiskFailed { detail } => self.on_data_failed(detail, false, out),
            ReplicaNote::Replaced { by } => self.on_replaced(by, out),
            ReplicaNote::Died { detail } => self.on_data_failed(detail, true, out),
        }
    }

    fn on_done(&mut self, job: JobId, outcome: Outcome, out: &mut Vec<Effect>) {
        if let Some(Asking::Out { job: asked, request }) = &self.asking
            && *asked == job
        {
            let request = request.clone();
            if let Outcome::Arbiter(answer) = outcome {
                self.on_arbiter(request, answer, out);
            }
            return;
        }
        if self.running.as_ref().is_some_and(|(running, _)| *running == job) {
            self.on_step_done(outcome, out);
            return;
        }
        // An order that was not part of a plan (offer, follow, go alone) and failed.
        if let Outcome::Replica(crate::replica::ReplicaAnswer::Failed { detail }) = outcome {
            self.on_order_failed(detail, out);
        }
    }

    /// Level-triggered part: whatever happened, is there something to be done now?
    fn consider(&mut self, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped => {}
            Phase::Idle => self.decide(out),
            Phase::Claiming => self.pursue_claim(out),
            Phase::Serving => self.tend(out),
            Phase::Following => self.watch(out),
            Phase::Leaving => self.tend(out),
        }
        self.act_on_rules(out);
    }

    /// The one door through which the visible state changes.
    fn enter(&mut self, state: State, readiness: Readiness, reason: Option<Reason>, out: &mut Vec<Effect>) {
        if (self.state, self.readiness) == (state, readiness) && self.reason == reason {
            return;
        }
        assert!(view::may_follow(self.state, state), "state {:?} may not become {:?}", self.state, state);
        let from = self.state;
        self.state = state;
        self.readiness = readiness;
        self.reason = reason.clone();
        out.push(Effect::Report(Event::Entered { from, to: state, readiness, reason }));
    }

    fn save(&mut self, out: &mut Vec<Effect>) {
        if self.is_mutant(Mutant::StopKeepsFlag) && self.saved.flag == Flag::Stale {
            let kept = Saved { flag: Flag::UpToDate, ..self.saved.clone() };
            return out.push(Effect::Save(Box::new(kept)));
        }
        out.push(Effect::Save(Box::new(self.saved.clone())));
    }

    fn new_job(&mut self) -> JobId {
        self.jobs_made += 1;
        JobId(self.jobs_made)
    }

    /// Id for the next data history: random by the life's entropy, different at each version of the record.
    fn new_gen(&self, version: Epoch) -> Gen {
        // SplitMix64 finaliser over both halves: spreads the counter without needing a hash crate.
        let mix = |mut x: u64| {
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        let high = mix((self.entropy >> 64) as u64 ^ version.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let low = mix(self.entropy as u64 ^ version.0.rotate_left(17));
        Gen((u128::from(high) << 64) | u128::from(low) | 1)
    }

    /// Adopt the record after this node became its owner, or the owner's copy after becoming level.
    fn push_gen(&mut self, gen_id: Gen) {
        if gen_id == self.saved.gen_id {
            return;
        }
        if self.saved.gen_id != Gen(0) {
            self.saved.lineage.insert(0, self.saved.gen_id);
            self.saved.lineage.truncate(super::LINEAGE_MAX);
        }
        self.saved.gen_id = gen_id;
        self.saved.is_shared = false;
    }

    /// Nothing in the peer's copy is unknown to the history of this one.
    fn is_ancestor_of(&self, peer: &Status) -> bool {
        let theirs = peer.gen_id;
        peer.flag == Flag::Unknown
            || theirs == Gen(0)
            || theirs == self.saved.gen_id
            || self.saved.lineage.contains(&theirs)
            || peer.lineage.contains(&self.saved.gen_id)
    }

    fn is_me_in(&self, record: &Record) -> bool {
        record.in_sync.contains(&self.cfg.me)
    }

    /// Acknowledgements of the peer are needed (or a grow that may make them needed is unresolved).
    fn is_requiring(&self) -> bool {
        self.requires.is_some()
    }

    /// The copy may be served if the record agrees.
    fn is_flag_good(&self) -> bool {
        match self.saved.flag {
            Flag::UpToDate => true,
            Flag::Volatile => self.is_volatile_mine,
            Flag::Unknown | Flag::Inconsistent | Flag::Stale => false,
        }
    }

    /// A rule is left out on purpose (model checker only).
    #[cfg(feature = "mutants")]
    fn is_mutant(&self, mutant: Mutant) -> bool {
        self.cfg.mutant == Some(mutant)
    }
    #[cfg(not(feature = "mutants"))]
    fn is_mutant(&self, _: Mutant) -> bool {
        false
    }

    fn is_store_lost(&self) -> bool {
        self.strange_store != LifeId(0)
    }

    /// Only with a rule left out: a session that was lost may go on.
    fn takes_back_sessions(&self) -> bool {
        self.is_mutant(Mutant::RejoinIgnoresEpoch) || self.is_mutant(Mutant::PromiseWithIntent)
    }

    fn check_invariants(&self) {
        assert!(self.requires.is_none() || matches!(self.phase, Phase::Serving | Phase::Leaving), "requires a peer without serving");
        let is_following = self.phase == Phase::Following || self.is_mutant(Mutant::PromiseWithIntent);
        assert!(self.following.is_none() || is_following, "follows without being a follower");
        assert!(self.running.is_some() || self.plan.is_empty(), "a plan stands still");
        assert!(
            !self.state.is_serving() || matches!(self.phase, Phase::Serving | Phase::Leaving),
            "shows a serving state without the right"
        );
    }
}
