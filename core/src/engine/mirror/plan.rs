//! Long work as a list of steps, one after another: taking a role, leaving it, restarting in it.

use super::{Mirror, Phase};
use crate::engine::{Effect, Outcome, ScriptRun, Timer, VipPlan};
use crate::event::Event;
use crate::ids::Epoch;
use crate::module::ScriptName;
use crate::replica::{ReplicaAnswer, ReplicaOrder};
use crate::state::{Flag, Readiness, Reason, State};

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
}

/// What holds when the plan is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// In WAIT, free to take a role.
    Idle,
    /// Serving.
    Serving,
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
        self.running = None;
        self.next_step(out);
    }

    /// A release is under way or to come in this plan.
    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.running, Some((_, Step::Release))) || self.plan.contains(&Step::Release)
    }

    pub(super) fn is_planning(&self) -> bool {
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
        out.push(match step {
            Step::Script(run) => Effect::Run(job, run),
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
                    ScriptName::StartBoth => self.is_both_up = true,
                    ScriptName::StopBoth | ScriptName::Prestart => self.is_both_up = false,
                    _ => {}
                }
                let is_stop_half =
                    matches!(run.script, ScriptName::StopPrim | ScriptName::StopBoth | ScriptName::StopSecond) && !run.is_forced;
                // The forced call that follows gives the verdict on a stop.
                (code != Some(0) && !is_stop_half).then_some(Reason::ScriptFailed { script: run.script, code })
            }
            (Step::RaiseVips, Outcome::Vip(Err(detail))) => {
                out.push(Effect::Report(Event::VipFailed { detail: detail.clone() }));
                Some(Reason::VipFailed { detail })
            }
            (Step::DropVips, Outcome::Vip(Err(detail))) => {
                // An address that cannot be removed would be held by two nodes: shown, and the plan goes on,
                // because its lifetime in the kernel runs out.
                out.push(Effect::Report(Event::VipFailed { detail }));
                None
            }
            (Step::Serve | Step::Release | Step::CloseSession, Outcome::Replica(ReplicaAnswer::Failed { detail })) => {
                out.push(Effect::Report(Event::DataFailed { detail: detail.clone() }));
                Some(Reason::DataUnusable { detail })
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
                self.leave([Step::DropVips, Step::Abandon], "stopwait", Goal::Blocked { reason, is_retried: true }, out)
            }
            (Phase::Serving, _) => {
                let steps = self.steps_out("stopwait", State::Wait, true);
                self.leave(steps, "stopwait", Goal::Blocked { reason, is_retried: false }, out);
            }
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
            (Phase::Following, _) => self.next_step(out),
            (Phase::Stopped | Phase::Idle, _) => {
                self.plan.clear();
                self.block(reason, false, out);
            }
        }
    }

    fn on_plan_done(&mut self, out: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.goal, Goal::Idle) {
            Goal::Idle => {
                if self.state != State::Wait {
                    self.give_up_role(out);
                    self.save(out);
                    self.enter(State::Wait, Readiness::Transient, Some(Reason::Starting), out);
                }
                self.phase = Phase::Idle;
            }
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
                self.enter(State::Stop, Readiness::NotReady, Some(Reason::StoppedBy { by }), out);
            }
            Goal::HandedOver => {
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
    }

    /// After the data process has let go: what this node durably no longer claims to be.
    fn give_up_role(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Disentitle);
        let was_serving = self.state.is_serving();
        if was_serving {
            self.saved.released = Some(self.saved.epoch);
        }
        // With `failover="off"` the copy stays current: only a person may decide, and must be able to.
        // And with the primary gone there is nobody who could go on alone by this node's word: the record decides.
        let is_last = !self.is_contact && self.saved.in_sync.contains(&self.cfg.me);
        let keeps_flag = was_serving || is_last || matches!(self.blocked_goal(), Some(Reason::FailoverOff));
        if !keeps_flag && matches!(self.saved.flag, Flag::UpToDate | Flag::Volatile) && self.state == State::Second {
            // Excludes itself before the primary may go on alone without the arbiter.
            self.saved.flag = Flag::Stale;
        }
        self.requires = None;
        self.offer = None;
        self.is_session_lost = false;
        self.is_frozen = false;
        self.following = None;
        self.is_level = false;
        out.push(Effect::StopTimer(Timer::FreezeMax));
        out.push(Effect::StopTimer(Timer::PromiseHeld));
        self.is_held = false;
    }

    fn blocked_goal(&self) -> Option<&Reason> {
        self.blocked.as_ref().map(|(reason, _)| reason)
    }

    /// To WAIT, and stay there until the back-off ends (`is_retried`) or an order comes.
    pub(super) fn block(&mut self, reason: Reason, is_retried: bool, out: &mut Vec<Effect>) {
        self.phase = Phase::Idle;
        self.plan.clear();
        self.running = None;
        self.blocked = Some((reason.clone(), is_retried));
        if is_retried {
            out.push(Effect::SetTimer(Timer::Backoff, super::wait::BACKOFF));
        }
        self.enter(State::Wait, Readiness::NotReady, Some(reason), out);
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

    /// Steps from a serving role to none. `is_releasing`: flush and let the peer take over; else abandon.
    pub(super) fn steps_out(&self, action: &'static str, to: State, is_releasing: bool) -> Vec<Step> {
        vec![
            self.script(ScriptName::StopPrim, to, action, false),
            self.script(ScriptName::StopPrim, to, action, true),
            self.script(ScriptName::StopBoth, to, action, false),
            self.script(ScriptName::StopBoth, to, action, true),
            Step::DropVips,
            if is_releasing { Step::Release } else { Step::Abandon },
        ]
    }

    /// Steps into ALONE after the right to serve was obtained.
    pub(super) fn steps_in(&self) -> Vec<Step> {
        let mut steps = vec![Step::Serve, Step::RaiseVips];
        if !self.is_both_up {
            steps.push(self.script(ScriptName::StartBoth, State::Alone, "start", false));
        }
        steps.push(self.script(ScriptName::StartPrim, State::Alone, "start", false));
        steps
    }

    /// Steps of a restart in place.
    pub(super) fn steps_restart(&self) -> Vec<Step> {
        let to = self.state;
        vec![
            self.script(ScriptName::StopPrim, to, "restart", false),
            self.script(ScriptName::StopPrim, to, "restart", true),
            self.script(ScriptName::StopBoth, to, "restart", false),
            self.script(ScriptName::StopBoth, to, "restart", true),
            self.script(ScriptName::StartBoth, to, "restart", false),
            self.script(ScriptName::StartPrim, to, "restart", false),
        ]
    }

    /// Steps from STOP to WAIT: nothing of the application may run, no address may be left over.
    pub(super) fn steps_prestart(&self) -> Vec<Step> {
        vec![Step::DropVips, self.script(ScriptName::Prestart, State::Wait, "start", false)]
    }

    /// Steps into SECOND (Ready).
    pub(super) fn steps_second(&self) -> Vec<Step> {
        vec![
            self.script(ScriptName::StartBoth, State::Second, "start", false),
            self.script(ScriptName::StartSecond, State::Second, "start", false),
        ]
    }

    /// Steps out of SECOND. The session is closed by the last one: nothing is applied afterwards.
    pub(super) fn steps_unfollow(&self, action: &'static str, to: State) -> Vec<Step> {
        vec![self.script(ScriptName::StopSecond, to, action, true), self.script(ScriptName::StopBoth, to, action, true), Step::CloseSession]
    }

    /// Steps of a stop from WAIT.
    pub(super) fn steps_poststop(&self) -> Vec<Step> {
        vec![
            self.script(ScriptName::StopPrim, State::Stop, "stop", true),
            Step::DropVips,
            self.script(ScriptName::Poststop, State::Stop, "stop", false),
        ]
    }

    /// Steps out of a serving role without its leave: no acknowledgement any more, then the application.
    pub(super) fn steps_abandon(&self, action: &'static str) -> Vec<Step> {
        vec![
            Step::DropVips,
            Step::Abandon,
            self.script(ScriptName::StopPrim, State::Wait, action, true),
            self.script(ScriptName::StopBoth, State::Wait, action, true),
        ]
    }

    pub(super) fn script_stop_second(&self) -> Step {
        self.script(ScriptName::StopSecond, State::Alone, "start", false)
    }

    /// The epoch at which this node is the released owner, if it is.
    pub(super) fn released_epoch(&self) -> Option<Epoch> {
        self.saved.released
    }
}
