//! Long work as a list of steps, one after another: taking a role, leaving it, restarting in it.

use super::{Mirror, Phase};
use crate::command::BY_MAXLOOP;
use crate::engine::{Effect, Outcome, STEP_RETRY, ScriptRun, Timer, VipPlan};
use crate::event::Event;
use crate::ids::Epoch;
use crate::module::ScriptName;
use crate::replica::{ReplicaAnswer, ReplicaOrder};
use crate::state::{Flag, Readiness, Reason, State};
use std::time::Duration;

/// One step of a plan; each is answered by `Done`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Script(ScriptRun),
    RaiseVips,
    DropVips,
    Serve,
    Release,
    Abandon,
    CloseSession,
    /// Nothing of the application may be left. Tried until it is so.
    Kill,
    /// Wait for [`Timer::StepRetry`].
    Pause,
}

/// Attempts to remove the addresses, [`STEP_RETRY`] apart, before a plan goes on without.
const DROP_TRIES: u8 = 6;
/// Before a follower whose disk failed tries again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(30);
/// Between two calls of a secondary's scripts that fail.
const SCRIPTS_AGAIN: Duration = Duration::from_secs(30);

/// What holds when the plan is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// Nothing changes.
    Resting,
    /// In WAIT, free to take a role.
    Idle,
    /// Serving.
    Serving,
    /// Serving the data without the application, until the peer has it.
    Hosting,
    /// Following, second scripts done.
    Following,
    /// The session is closed: the claim may leave.
    Claim,
    /// In STOP.
    Stopped { by: String },
    /// Released for the peer, in WAIT until it serves.
    HandedOver,
    /// In WAIT, released or abandoned, with the reason this role was left (and whether it is tried again).
    Blocked { reason: Reason, is_retried: bool },
}

impl Mirror {
    /// Begin a plan; a plan under way is replaced (its running step's answer is dropped).
    pub(super) fn start_plan(&mut self, steps: impl IntoIterator<Item = Step>, goal: Goal, out: &mut Vec<Effect>) {
        self.plan = steps.into_iter().collect();
        self.goal = goal;
        self.drop_tries = 0;
        // Two scripts of a module never run side by side.
        if let Some((job, Step::Script(_))) = self.running.take() {
            out.push(Effect::Cancel(job));
        }
        self.next_step(out);
    }

    /// A release is under way or to come in this plan.
    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.running, Some((_, Step::Release))) || self.plan.contains(&Step::Release)
    }

    pub(in crate::engine) fn is_planning(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn next_step(&mut self, out: &mut Vec<Effect>) {
        let Some(step) = self.plan.pop_front() else {
            self.running = None;
            self.on_plan_done(out);
            return;
        };
        let job = self.new_job();
        self.running = Some((job, step.clone()));
        let epoch = self.saved.epoch;
        if step == Step::Abandon {
            out.push(Effect::Disentitle);
        }
        if step == Step::Release && self.requires.is_some() {
            out.push(Effect::SetTimer(Timer::FreezeMax, super::serve::FREEZE_MAX));
        }
        if self.is_app_frozen && matches!(step, Step::Script(_) | Step::Kill) {
            self.thaw(out);
        }
        out.push(match step {
            Step::Script(run) => Effect::Run(job, run),
            Step::Kill => Effect::Kill(job),
            Step::Pause => Effect::SetTimer(Timer::StepRetry, STEP_RETRY),
            Step::RaiseVips => Effect::Vip(job, VipPlan::Raise),
            Step::DropVips => Effect::Vip(job, VipPlan::Drop),
            Step::Serve => Effect::Replica(job, ReplicaOrder::Serve { epoch }),
            Step::Release => Effect::Replica(job, ReplicaOrder::Release { epoch }),
            Step::Abandon => Effect::Replica(job, ReplicaOrder::Abandon { epoch }),
            Step::CloseSession => Effect::Replica(job, ReplicaOrder::CloseSession { epoch }),
        });
    }

    pub(super) fn on_step_done(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let Some((_, step)) = self.running.take() else { return };
        let problem = match (&step, outcome) {
            (Step::Script(run), Outcome::Script { code, millis }) => {
                out.push(Effect::Report(Event::ScriptDone { script: run.script, code, millis }));
                match run.script {
                    ScriptName::StartBoth => self.is_both_up = code == Some(0),
                    ScriptName::StopBoth => self.is_both_up = false,
                    ScriptName::StartSec => self.is_sec_up = true,
                    ScriptName::StopSec => self.is_sec_up = false,
                    ScriptName::Prestart => (self.is_both_up, self.is_sec_up) = (false, false),
                    _ => {}
                }
                // A stop is judged by what is left of the application, which the step `Kill` proves.
                let counts = matches!(
                    run.script,
                    ScriptName::Prestart | ScriptName::StartBoth | ScriptName::StartPrim | ScriptName::StartSecond | ScriptName::StartSec
                );
                (code != Some(0) && counts).then_some(Reason::ScriptFailed { script: run.script, code })
            }
            (Step::Kill, Outcome::Killed(Err(detail))) => return self.on_unkillable(detail, out),
            (Step::Kill, _) => {
                if matches!(self.reason, Some(Reason::Unkillable { .. })) {
                    self.enter(self.state, Readiness::Transient, Some(Reason::Stopping), out);
                }
                // Whatever the scripts had started is gone.
                (self.is_both_up, self.is_sec_up, self.is_app_gone) = (false, false, false);
                None
            }
            (Step::RaiseVips, Outcome::Vip(Err(detail))) => {
                out.push(Effect::Report(Event::VipFailed { detail: detail.clone() }));
                Some(Reason::VipFailed { detail })
            }
            (Step::DropVips, Outcome::Vip(Err(detail))) => {
                // An address that cannot be removed would be held by two nodes. It is not renewed any more: after these
                // attempts its lifetime in the kernel has run out.
                out.push(Effect::Report(Event::VipFailed { detail }));
                self.drop_tries += 1;
                if self.drop_tries < DROP_TRIES {
                    self.plan.push_front(Step::DropVips);
                    self.plan.push_front(Step::Pause);
                }
                None
            }
            (Step::Serve | Step::Release | Step::CloseSession, Outcome::Replica(ReplicaAnswer::Failed { detail })) => {
                out.push(Effect::Report(Event::DataFailed { detail: detail.clone() }));
                Some(Reason::DataUnusable { detail })
            }
            (Step::CloseSession, _) if self.phase == Phase::Following && self.goal != Goal::Claim => {
                self.exclude_myself(out);
                None
            }
            _ => None,
        };
        match problem {
            None => self.next_step(out),
            Some(reason) => self.on_step_failed(&step, reason, out),
        }
    }

    fn on_step_failed(&mut self, step: &Step, reason: Reason, out: &mut Vec<Effect>) {
        match (self.phase, step) {
            // Leaving goes on whatever fails: what counts is the proof at its end (unmounted, address gone).
            (Phase::Leaving, Step::Release) => {
                self.plan.push_front(Step::Abandon);
                if !matches!(self.goal, Goal::Stopped { .. }) {
                    self.goal = Goal::Blocked { reason, is_retried: true };
                }
                self.next_step(out);
            }
            (Phase::Leaving, _) => self.next_step(out),
            (Phase::Serving, Step::Serve) => {
                if self.count_loop(out) {
                    self.leave([Step::DropVips, Step::Abandon], "stopwait", Goal::Blocked { reason, is_retried: true }, out);
                }
            }
            // What serves need not end because what accompanies it did not start.
            (Phase::Serving, Step::Script(run)) if run.script == ScriptName::StartSec => self.next_step(out),
            (Phase::Serving, _) => self.on_app_failed(reason, out),
            (Phase::Claiming, _) => self.block(reason, true, out),
            (Phase::Following, Step::CloseSession) if self.goal == Goal::Claim => {
                // Something may still be applied, or what was applied may not be on the disk: this copy is out.
                self.saved.flag = Flag::Stale;
                self.save(out);
                self.following = None;
                self.is_level = false;
                self.is_session_lost = false;
                self.block(reason, false, out);
            }
            (Phase::Following, Step::CloseSession) => {
                self.saved.flag = Flag::Stale;
                self.save(out);
                (self.following, self.is_level) = (None, false);
                self.next_step(out);
            }
            (Phase::Following, Step::Script(_)) if self.goal == Goal::Following => self.on_second_failed(reason, out),
            (Phase::Following, _) => self.next_step(out),
            (Phase::Stopped | Phase::Idle, _) => {
                self.plan.clear();
                self.block(reason, false, out);
            }
        }
    }

    fn on_plan_done(&mut self, out: &mut Vec<Effect>) {
        let from = self.state;
        match std::mem::replace(&mut self.goal, Goal::Idle) {
            Goal::Resting => return,
            Goal::Idle => {
                if self.state != State::Wait {
                    self.give_up_role(out);
                    self.save(out);
                    self.enter(State::Wait, Readiness::Transient, Some(Reason::Starting), out);
                }
                self.phase = Phase::Idle;
            }
            Goal::Serving if self.is_frozen => {
                let reason = Some(Reason::Frozen);
                self.enter(self.state, Readiness::NotReady, reason, out);
            }
            Goal::Serving if self.is_app_gone => self.restart(out),
            Goal::Hosting => self.enter(State::Alone, Readiness::Transient, self.hosting.clone(), out),
            Goal::Serving => {
                let is_pair = self.requires.is_some() && self.saved.intent.is_none() && self.is_peer_recorded();
                let state = if is_pair { State::Prim } else { State::Alone };
                self.enter(state, Readiness::Ready, None, out);
            }
            Goal::Following => self.enter(State::Second, Readiness::Ready, None, out),
            Goal::Claim => self.on_session_closed(out),
            Goal::Stopped { by } => {
                self.give_up_role(out);
                self.saved.is_started = by == crate::command::BY_SHUTDOWN;
                self.saved.is_clean = true;
                self.saved.stopped_by = Some(by.clone());
                self.save(out);
                self.phase = Phase::Stopped;
                let reason = if by == BY_MAXLOOP { Reason::LoopLimit { count: self.cfg.maxloop } } else { Reason::StoppedBy { by } };
                self.enter(State::Stop, Readiness::NotReady, Some(reason), out);
            }
            Goal::HandedOver => {
                self.saved.wants_role = false;
                self.give_up_role(out);
                self.saved.is_clean = true;
                self.save(out);
                self.phase = Phase::Idle;
                self.is_waiting_for_handover = true;
                out.push(Effect::SetTimer(Timer::SwapBack, super::serve::SWAP_BACK));
                self.enter(State::Wait, Readiness::Transient, Some(Reason::HandOver { to: self.cfg.peer.clone() }), out);
            }
            Goal::Blocked { reason, is_retried } => {
                self.blocked = Some((reason.clone(), is_retried));
                self.give_up_role(out);
                self.save(out);
                self.block(reason, is_retried, out);
            }
        }
        if matches!(self.phase, Phase::Stopped | Phase::Idle) {
            self.run_transition(from, out);
        }
    }

    /// After the data process has let go: what this node durably no longer claims to be.
    fn give_up_role(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Disentitle);
        let was_serving = self.state.is_serving();
        if was_serving {
            self.saved.released = Some(self.saved.epoch);
        }
        self.requires = None;
        self.offer = None;
        self.is_session_lost = false;
        self.is_frozen = false;
        self.hosting = None;
        self.following = None;
        self.is_level = false;
        out.push(Effect::StopTimer(Timer::FreezeMax));
        out.push(Effect::StopTimer(Timer::PromiseHeld));
        self.is_held = false;
    }

    /// A follower leaves in order. It is to be durably out before the primary may go on alone by its word; but not
    /// before the primary has heard of it: one that dies at this moment leaves nobody else who has what it confirmed.
    fn exclude_myself(&mut self, out: &mut Vec<Effect>) {
        let session = self.following.take();
        (self.is_level, self.is_session_lost) = (false, false);
        // With `failover="off"` the copy stays current: only a person may decide, and must be able to.
        let is_for_a_person = matches!(&self.goal, Goal::Blocked { reason: Reason::FailoverOff | Reason::ManualTakeover { .. }, .. });
        if !self.is_contact || is_for_a_person || !matches!(self.saved.flag, Flag::UpToDate | Flag::Volatile) {
            return;
        }
        let is_failed = matches!(&self.goal, Goal::Blocked { reason: Reason::DataUnusable { .. }, .. });
        if is_failed || self.saved.flag == Flag::Volatile {
            // What was confirmed may not be on this disk.
            self.saved.flag = Flag::Stale;
            return self.save(out);
        }
        self.excluding = session;
        self.exclude_if_asked(out);
    }

    /// The primary lives and goes on without this copy, or wants to.
    pub(super) fn exclude_if_asked(&mut self, out: &mut Vec<Effect>) {
        let (Some(session), Some(peer)) = (self.excluding, self.peer.as_deref()) else { return };
        if !peer.is_serving {
            self.excluding = None;
        } else if peer.is_session_lost || peer.requires != Some(session) {
            self.excluding = None;
            self.saved.flag = Flag::Stale;
            self.save(out);
        }
    }

    /// This copy is about to be given up: the end of this engine's life waits for it, as long as the primary is heard.
    pub fn is_excluding(&self) -> bool {
        self.excluding.is_some()
    }

    /// To WAIT, and stay there until the back-off ends (`is_retried`) or an order comes.
    pub(super) fn block(&mut self, reason: Reason, is_retried: bool, out: &mut Vec<Effect>) {
        self.phase = Phase::Idle;
        self.plan.clear();
        self.running = None;
        self.blocked = Some((reason.clone(), is_retried));
        if is_retried {
            // A follower whose disk fails would be compared from the start each time.
            let is_costly = self.state == State::Second && matches!(reason, Reason::DataUnusable { .. });
            out.push(Effect::SetTimer(Timer::Backoff, if is_costly { FOLLOW_AGAIN } else { crate::engine::BACKOFF }));
        }
        let left = self.steps_of_lost_second();
        self.enter(State::Wait, Readiness::NotReady, Some(reason), out);
        if !left.is_empty() {
            self.start_plan(left, Goal::Resting, out);
        }
    }

    /// Leave the role by `steps`; the state stays, magenta, until the goal is reached.
    pub(super) fn leave(&mut self, steps: impl IntoIterator<Item = Step>, action: &'static str, goal: Goal, out: &mut Vec<Effect>) {
        let reason = if action == "swap" { Reason::HandOver { to: self.cfg.peer.clone() } } else { Reason::Stopping };
        self.phase = if self.state == State::Second { Phase::Following } else { Phase::Leaving };
        let steps: Vec<Step> = steps.into_iter().collect();
        if steps.contains(&Step::Abandon) {
            // Nothing is acknowledged from here, whatever the next steps take.
            out.push(Effect::Disentitle);
        }
        self.enter(self.state, Readiness::Transient, Some(reason), out);
        self.start_plan(steps, goal, out);
    }

    fn script(&self, script: ScriptName, to: State, action: &'static str, is_forced: bool) -> Step {
        Step::Script(ScriptRun { script, from: self.state, to, action, is_forced })
    }

    /// A script of the way from `from` to the state that is shown already.
    fn script_from(&self, from: State, script: ScriptName) -> Step {
        Step::Script(ScriptRun { script, from, to: self.state, action: "start", is_forced: false })
    }

    /// Both calls of a stop script.
    fn stop_twice(&self, script: ScriptName, to: State, action: &'static str) -> [Step; 2] {
        [self.script(script, to, action, false), self.script(script, to, action, true)]
    }

    /// Steps from a serving role to none. `is_releasing`: flush and let the peer take over; else abandon.
    pub(super) fn steps_out(&self, action: &'static str, to: State, is_releasing: bool) -> Vec<Step> {
        let mut steps = self.steps_stop_app(action, to);
        steps.extend([Step::DropVips, if is_releasing { Step::Release } else { Step::Abandon }]);
        steps
    }

    /// Steps that end the application, with proof.
    pub(super) fn steps_stop_app(&self, action: &'static str, to: State) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.is_sec_up {
            steps.push(self.script(ScriptName::StopSec, to, action, false));
        }
        steps.extend(self.stop_twice(ScriptName::StopPrim, to, action));
        steps.extend(self.stop_twice(ScriptName::StopBoth, to, action));
        steps.push(Step::Kill);
        steps
    }

    /// Steps into ALONE after the right to serve was obtained.
    pub(super) fn steps_in(&self, from: State) -> Vec<Step> {
        let script = |script| self.script_from(from, script);
        let mut steps = vec![Step::Serve, Step::RaiseVips, script(ScriptName::Transition)];
        if !self.is_both_up {
            steps.push(script(ScriptName::StartBoth));
        }
        steps.push(script(ScriptName::StartPrim));
        if !self.is_sec_up {
            steps.push(script(ScriptName::StartSec));
        }
        steps
    }

    /// Steps of a restart in place.
    pub(super) fn steps_restart(&self) -> Vec<Step> {
        let to = self.state;
        let mut steps = self.steps_stop_app("restart", to);
        steps.push(self.script(ScriptName::StartBoth, to, "restart", false));
        steps.push(self.script(ScriptName::StartPrim, to, "restart", false));
        if self.is_sec_up {
            steps.push(self.script(ScriptName::StartSec, to, "restart", false));
        }
        steps
    }

    /// Steps from STOP to WAIT: nothing of the application may run, no address may be left over.
    pub(super) fn steps_prestart(&self, from: State) -> Vec<Step> {
        let script = |script| self.script_from(from, script);
        vec![Step::DropVips, script(ScriptName::Transition), script(ScriptName::Prestart), Step::Kill]
    }

    /// Steps into SECOND (Ready).
    pub(super) fn steps_second(&self) -> Vec<Step> {
        let script = |script| self.script_from(State::Wait, script);
        vec![script(ScriptName::Transition), script(ScriptName::StartBoth), script(ScriptName::StartSecond), script(ScriptName::StartSec)]
    }

    /// Steps out of SECOND. The session is closed first: nothing is applied afterwards.
    pub(super) fn steps_unfollow(&self, action: &'static str, to: State) -> Vec<Step> {
        let mut steps = vec![Step::CloseSession];
        if self.is_sec_up {
            steps.push(self.script(ScriptName::StopSec, to, action, false));
        }
        steps.push(self.script(ScriptName::StopSecond, to, action, false));
        if self.is_both_up {
            steps.extend(self.stop_twice(ScriptName::StopBoth, to, action));
        }
        steps.push(Step::Kill);
        steps
    }

    /// What a secondary had started for itself, when it goes to WAIT without having left in order: its claim was refused.
    fn steps_of_lost_second(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.is_sec_up {
            steps.push(self.script(ScriptName::StopSec, State::Wait, "stopwait", false));
        }
        if self.is_both_up {
            steps.extend(self.stop_twice(ScriptName::StopBoth, State::Wait, "stopwait"));
        }
        if !steps.is_empty() {
            steps.push(Step::Kill);
        }
        steps
    }

    /// Steps of a stop from WAIT.
    pub(super) fn steps_poststop(&self) -> Vec<Step> {
        let script = |script, is_forced| self.script(script, State::Stop, "stop", is_forced);
        vec![
            script(ScriptName::StopSec, true),
            script(ScriptName::StopPrim, true),
            script(ScriptName::StopSecond, true),
            script(ScriptName::StopBoth, true),
            Step::DropVips,
            Step::Kill,
            script(ScriptName::Poststop, false),
        ]
    }

    /// Steps out of a serving role without its leave: no acknowledgement any more, then the application.
    pub(super) fn steps_abandon(&self, action: &'static str) -> Vec<Step> {
        let to = State::Wait;
        vec![
            Step::DropVips,
            Step::Abandon,
            self.script(ScriptName::StopPrim, to, action, true),
            self.script(ScriptName::StopBoth, to, action, true),
            Step::Kill,
        ]
    }

    /// The peer must not wait for a script that only tells of the change: it is run in the state reached.
    fn run_transition(&mut self, from: State, out: &mut Vec<Effect>) {
        if from != self.state && !self.is_planning() {
            let is_stop = self.state == State::Stop;
            let action = if is_stop { "stop" } else { "stopwait" };
            let run = |script| Step::Script(ScriptRun { script, from, to: self.state, action, is_forced: false });
            // A stop from WAIT has run it already; one from a role lets the peer go on first.
            let poststop = (is_stop && from != State::Wait).then(|| run(ScriptName::Poststop));
            let steps: Vec<Step> = poststop.into_iter().chain([run(ScriptName::Transition)]).collect();
            self.start_plan(steps, Goal::Resting, out);
        }
    }

    /// As [`Mirror::start_plan`], but a `poststop` under way ends first: what it cleans up is the next start's ground.
    pub(super) fn start_plan_after_poststop(&mut self, steps: Vec<Step>, goal: Goal, out: &mut Vec<Effect>) {
        let is_poststop = matches!(&self.running, Some((_, Step::Script(run))) if run.script == ScriptName::Poststop);
        if is_poststop && self.state == State::Wait && self.goal == Goal::Resting {
            (self.plan, self.goal, self.drop_tries) = (steps.into(), goal, 0);
            return;
        }
        self.start_plan(steps, goal, out);
    }

    pub(super) fn script_stop_second(&self) -> Step {
        self.script(ScriptName::StopSecond, State::Alone, "start", false)
    }

    /// What is run while the service goes on: from ALONE to PRIM.
    pub(super) fn steps_grown(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.is_sec_up {
            steps.push(self.script_from(State::Alone, ScriptName::StopSec));
        }
        steps.push(self.script_from(State::Alone, ScriptName::Transition));
        steps
    }

    /// What is run while the service goes on: from PRIM to ALONE.
    pub(super) fn steps_shrunk(&self) -> Vec<Step> {
        let script = |script| self.script_from(State::Prim, script);
        vec![script(ScriptName::Transition), script(ScriptName::StartSec)]
    }

    /// The secondary's scripts failed: it goes on holding every write, is not green, and they are called again.
    fn on_second_failed(&mut self, reason: Reason, out: &mut Vec<Effect>) {
        self.plan.clear();
        self.goal = Goal::Idle;
        self.is_paused = true;
        out.push(Effect::SetTimer(Timer::Backoff, SCRIPTS_AGAIN));
        self.enter(State::Second, Readiness::NotReady, Some(reason), out);
    }

    /// The guard ended the application. It is started again as soon as this node may acknowledge.
    pub(super) fn on_app_ended(&mut self, out: &mut Vec<Effect>) {
        if self.phase != Phase::Serving || self.hosting.is_some() {
            return;
        }
        self.is_app_gone = true;
        if !self.is_frozen && !self.is_planning() && self.count_loop(out) {
            self.restart(out);
        }
    }

    /// Something of the application cannot be ended: nothing that needs its end may begin.
    fn on_unkillable(&mut self, detail: String, out: &mut Vec<Effect>) {
        out.push(Effect::Report(Event::Unkillable { detail: detail.clone() }));
        self.enter(self.state, Readiness::NotReady, Some(Reason::Unkillable { detail }), out);
        self.plan.push_front(Step::Kill);
        self.plan.push_front(Step::Pause);
        self.next_step(out);
    }

    pub(super) fn on_step_retry(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.running, Some((_, Step::Pause))) {
            self.running = None;
            self.next_step(out);
        }
    }

    pub(super) fn freeze_app(&mut self, out: &mut Vec<Effect>) {
        self.is_app_frozen = true;
        out.push(Effect::Freeze);
    }

    pub(super) fn thaw(&mut self, out: &mut Vec<Effect>) {
        if self.is_app_frozen {
            self.is_app_frozen = false;
            out.push(Effect::Thaw);
        }
    }

    /// A start script failed while the right to serve is held: the peer gets the role if it can take it, with the
    /// data as it is here.
    fn on_app_failed(&mut self, reason: Reason, out: &mut Vec<Effect>) {
        let is_pair = self.requires.is_some() && !self.is_session_lost && self.is_peer_recorded();
        if !is_pair && self.is_peer_willing() {
            out.push(Effect::Report(Event::Hosting { peer: self.cfg.peer.clone() }));
            self.hosting = Some(reason);
            let mut steps = self.steps_stop_app("stopwait", State::Wait);
            steps.push(Step::DropVips);
            self.enter(self.state, Readiness::Transient, self.hosting.clone(), out);
            return self.start_plan(steps, Goal::Hosting, out);
        }
        let steps = self.steps_out("stopwait", State::Wait, true);
        self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: false }, out);
    }

    /// The peer waits for a source and would start the application.
    pub(super) fn is_peer_willing(&self) -> bool {
        self.is_contact
            && self
                .peer
                .as_ref()
                .is_some_and(|p| p.is_started && p.is_fit && !p.is_serving && matches!(p.state, State::Wait | State::Second))
    }

    /// The epoch at which this node is the released owner, if it is.
    pub(super) fn released_epoch(&self) -> Option<Epoch> {
        self.saved.released
    }
}
