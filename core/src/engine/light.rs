//! A light module: an application on one node, restarted and watched there. Nothing is replicated, no address moves,
//! nobody is asked for a right. Where several nodes have it, each runs it by itself.
//!
//! STOP → WAIT → UP and back. UP is magenta while scripts run, WAIT is red while a rule or a failure holds the module.

use super::watched::{Loops, Remote, Resource, Watched, event_of, unfit_readiness};
use super::{BACKOFF, Effect, Input, Outcome, STEP_RETRY, Saved, ScriptRun, Timer};
use crate::command::{BY_BOOT, BY_MAXLOOP, BY_SHUTDOWN, Command, MAINTENANCE_MINUTES_MAX, Refusal, Verb};
use crate::event::Event;
use crate::ids::{JobId, NodeName};
use crate::module::ScriptName;
use crate::rules::{Firing, RuleAction, Ruleset};
use crate::state::{Allowed, Readiness, Reason, ResourceView, State};
use std::collections::VecDeque;
use std::time::Duration;

/// What a light module's engine must know; fixed for the life of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LightConfig {
    /// This node.
    pub me: NodeName,
    /// Automatic actions allowed per interval.
    pub maxloop: u32,
    /// That interval; zero = not counted.
    pub loop_interval: Duration,
    /// What is done when resources go down.
    pub rules: Ruleset,
}

/// One step of a plan; each is answered by `Done`, [`Step::Pause`] by its timer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Script(ScriptRun),
    /// Nothing of the application may be left. Tried until it is so.
    Kill,
    /// Wait for [`Timer::StepRetry`].
    Pause,
}

/// What holds when the plan is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Goal {
    /// Nothing changes.
    Resting,
    /// In WAIT, free to start.
    Idle,
    /// In UP, ready.
    Up,
    /// In STOP.
    Stopped { by: String },
    /// In WAIT, with the reason (and whether it is tried again).
    Blocked { reason: Reason, is_retried: bool },
}

/// The engine of a light module on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Light {
    cfg: LightConfig,
    saved: Saved,
    jobs_made: u64,
    state: State,
    readiness: Readiness,
    reason: Option<Reason>,
    plan: VecDeque<Step>,
    running: Option<(JobId, Step)>,
    goal: Goal,
    /// Maintenance: no automatic action.
    is_maintained: bool,
    /// A person asked for the start that is to come: maintenance does not hold it back.
    is_ordered: bool,
    /// Stays in WAIT until the back-off ends (`true`) or an order comes.
    blocked: Option<(Reason, bool)>,
    pub(super) watched: Watched,
    loops: Loops,
}

impl Light {
    /// An engine with the record as found on disk.
    pub fn new(cfg: LightConfig, saved: Saved) -> Light {
        let reason = match (&saved.stopped_by, saved.is_started) {
            (Some(by), _) => reason_of_stop(by, &cfg),
            (None, false) => Reason::NeverStarted,
            (None, true) => Reason::StoppedBy { by: "agent".into() },
        };
        Light {
            cfg,
            saved,
            jobs_made: 0,
            state: State::Stop,
            readiness: Readiness::NotReady,
            reason: Some(reason),
            plan: VecDeque::new(),
            running: None,
            goal: Goal::Resting,
            is_maintained: false,
            is_ordered: false,
            blocked: None,
            watched: Watched::default(),
            loops: Loops::default(),
        }
    }

    /// One input, applied at once; what must be done is appended to `out`. Inputs of other types of modules are ignored.
    pub fn step(&mut self, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Boot => {
                out.push(Effect::Report(Event::AgentStarted));
                self.loops.resume(self.saved.loop_count, self.cfg.loop_interval, out);
            }
            Input::Command(command) => self.on_command(command, out),
            Input::Loops(change) => {
                self.loops.change(change, self.cfg.maxloop, self.cfg.loop_interval, out);
                self.count(out);
            }
            Input::Timer(timer) => self.on_timer(timer, out),
            Input::Health { name, health, detail, action, is_pre } => {
                self.watched.hear(name, Resource { health, detail, action, is_pre, is_acted: false }, out);
            }
            Input::Done(job, outcome) => {
                if self.running.as_ref().is_some_and(|(running, _)| *running == job) {
                    self.on_step_done(outcome, out);
                }
            }
            Input::GoneOn | Input::Heard { .. } | Input::Replica(_) | Input::AppEnded => {}
        }
        if self.state == State::Wait && !self.is_planning() {
            self.decide(out);
        }
        self.act_on_rules(out);
        assert!(self.is_planning() || self.plan.is_empty(), "a plan stands still");
    }

    // ---- orders ----

    /// Why `command` would be refused now; `None` = it would be carried out.
    pub fn refusal_of(&self, command: &Command) -> Option<Refusal> {
        let is_held = self.is_maintained && command.is_automatic && command.verb.is_repair();
        if is_held { Some(Refusal::Maintained) } else { self.refusal(&command.verb) }
    }

    /// Why `verb` would be refused now; `None` = it would be carried out.
    pub fn refusal(&self, verb: &Verb) -> Option<Refusal> {
        let is_busy = self.is_planning();
        match verb {
            Verb::Start if self.state == State::Stop || matches!(self.blocked, Some((_, false))) => None,
            Verb::Start => Some(Refusal::AlreadyStarted),
            Verb::Stop | Verb::StopStart if self.state == State::Stop => Some(Refusal::AlreadyStopped),
            Verb::Stop => None,
            Verb::StopStart => is_busy.then_some(Refusal::Busy),
            Verb::Restart if self.state != State::Up => Some(Refusal::NotServing),
            Verb::Restart => (is_busy || self.readiness != Readiness::Ready).then_some(Refusal::Busy),
            Verb::Swap | Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. } | Verb::Resolve { .. } | Verb::Verify => {
                Some(Refusal::NoSuchRole)
            }
            Verb::Maintenance { minutes } => (*minutes > MAINTENANCE_MINUTES_MAX).then_some(Refusal::BadDuration { minutes: *minutes }),
        }
    }

    fn on_command(&mut self, command: Command, out: &mut Vec<Effect>) {
        let refusal = self.refusal_of(&command);
        let Command { verb, by, reason, is_automatic, .. } = command;
        if let Some(refusal) = refusal {
            out.push(Effect::Report(Event::Refused { verb, by, refusal }));
            return;
        }
        out.push(Effect::Report(Event::Ordered { verb: verb.clone(), by: by.clone(), reason }));
        // A person's order starts the count of automatic actions afresh; that of a checker or script counts.
        if is_automatic {
            if verb.is_repair() && !self.count_loop(out) {
                return;
            }
        } else if !matches!(&*by, BY_BOOT | BY_SHUTDOWN) {
            self.loops.forget(out);
            self.count(out);
        }
        match verb {
            Verb::Start => {
                self.is_ordered = true;
                self.start(out);
            }
            Verb::Stop => self.stop(by, out),
            Verb::Restart => self.restart(out),
            Verb::StopStart => {
                self.is_ordered = true;
                self.stop_start(out);
            }
            Verb::Maintenance { minutes: 0 } => self.end_maintenance(out),
            Verb::Maintenance { minutes } => {
                (self.is_maintained, self.is_ordered) = (true, false);
                out.push(Effect::Report(Event::Maintenance { minutes }));
                out.push(Effect::SetTimer(Timer::Maintenance, Duration::from_secs(u64::from(minutes) * 60)));
            }
            // Refused above.
            Verb::Swap | Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. } | Verb::Resolve { .. } | Verb::Verify => {}
        }
    }

    fn end_maintenance(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.is_maintained) {
            out.push(Effect::StopTimer(Timer::Maintenance));
            out.push(Effect::Report(Event::Maintenance { minutes: 0 }));
        }
    }

    fn start(&mut self, out: &mut Vec<Effect>) {
        self.blocked = None;
        self.saved.is_started = true;
        self.saved.is_clean = false;
        self.saved.stopped_by = None;
        self.save(out);
        let script = |script| self.script(script, State::Wait, "start", false);
        let steps = [script(ScriptName::Transition), script(ScriptName::Prestart), Step::Kill];
        self.enter(State::Wait, Readiness::Transient, Some(Reason::Starting), out);
        self.start_plan(steps, Goal::Idle, out);
    }

    fn stop(&mut self, by: String, out: &mut Vec<Effect>) {
        self.blocked = None;
        let mut steps = match self.state {
            State::Up => self.steps_stop_app("stop", State::Stop),
            _ => vec![self.script(ScriptName::StopBoth, State::Stop, "stop", true), Step::Kill],
        };
        steps.push(self.script(ScriptName::Poststop, State::Stop, "stop", false));
        self.leave(steps, Goal::Stopped { by }, out);
    }

    fn restart(&mut self, out: &mut Vec<Effect>) {
        self.enter(State::Up, Readiness::Transient, Some(Reason::Starting), out);
        let mut steps = self.steps_stop_app("restart", State::Up);
        steps.push(self.script(ScriptName::StartBoth, State::Up, "restart", false));
        self.start_plan(steps, Goal::Up, out);
    }

    fn stop_start(&mut self, out: &mut Vec<Effect>) {
        if self.state != State::Up {
            return self.start(out);
        }
        let steps = self.steps_stop_app("stopstart", State::Wait);
        self.leave(steps, Goal::Idle, out);
    }

    // ---- without an order ----

    /// WAIT, and nothing is under way: may the application start?
    fn decide(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.blocked, Some((_, false))) {
            return;
        }
        if let Some(reason) = self.watched.unfit(&self.cfg.rules, Remote::new()) {
            return self.enter(State::Wait, unfit_readiness(&reason), Some(reason), out);
        }
        if self.blocked.is_some() {
            return;
        }
        if self.is_maintained && !self.is_ordered {
            return self.enter(State::Wait, Readiness::NotReady, Some(Reason::Maintenance), out);
        }
        self.is_ordered = false;
        let script = |script| self.script(script, State::Up, "start", false);
        let steps = [script(ScriptName::Transition), script(ScriptName::StartBoth)];
        self.enter(State::Up, Readiness::Transient, Some(Reason::Starting), out);
        self.start_plan(steps, Goal::Up, out);
    }

    fn act_on_rules(&mut self, out: &mut Vec<Effect>) {
        if self.state != State::Up || self.readiness != Readiness::Ready || self.is_maintained {
            return self.watched.rest(out);
        }
        if let Some(firing) = self.watched.look(&self.cfg.rules, Remote::new(), out) {
            self.act(&firing, out);
        }
    }

    fn act(&mut self, firing: &Firing, out: &mut Vec<Effect>) {
        let reason = self.watched.acted(firing, out);
        if firing.action == RuleAction::Swap || !self.count_loop(out) {
            return;
        }
        let Reason::CheckFailed { resource, .. } = &reason else { return };
        out.push(Effect::Report(event_of(firing, firing.action, resource)));
        match firing.action {
            RuleAction::Swap => {}
            RuleAction::Restart => self.restart(out),
            RuleAction::StopStart => self.stop_start(out),
            RuleAction::Stop => self.stop(format!("checker: {resource}"), out),
            RuleAction::Wait => self.block(reason, true, out),
        }
    }

    /// One more automatic action: is it allowed? Over the limit the module stops.
    fn count_loop(&mut self, out: &mut Vec<Effect>) -> bool {
        if self.cfg.loop_interval.is_zero() {
            return true;
        }
        self.loops.add(self.cfg.loop_interval, out);
        self.count(out);
        if self.saved.loop_count <= self.cfg.maxloop {
            return true;
        }
        out.push(Effect::Report(Event::LoopLimit { count: self.cfg.maxloop }));
        self.stop(BY_MAXLOOP.into(), out);
        false
    }

    fn on_timer(&mut self, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::Backoff => {
                self.blocked.take_if(|(_, is_retried)| *is_retried);
            }
            Timer::LoopExpire(slot) => {
                self.loops.expire(slot);
                self.count(out);
            }
            Timer::Confirm => {
                if let Some(firing) = self.watched.due(&self.cfg.rules, Remote::new()) {
                    self.act(&firing, out);
                }
            }
            Timer::StepRetry => {
                if matches!(self.running, Some((_, Step::Pause))) {
                    self.next_step(out);
                }
            }
            Timer::Maintenance => self.end_maintenance(out),
            _ => {}
        }
    }

    // ---- plans ----

    pub(super) fn is_planning(&self) -> bool {
        self.running.is_some()
    }

    /// Begin a plan; a plan under way is replaced (its running step's answer is dropped).
    fn start_plan(&mut self, steps: impl IntoIterator<Item = Step>, goal: Goal, out: &mut Vec<Effect>) {
        self.plan = steps.into_iter().collect();
        self.goal = goal;
        // Two scripts of a module never run side by side.
        if let Some((job, Step::Script(_))) = self.running.take() {
            out.push(Effect::Cancel(job));
        }
        self.next_step(out);
    }

    fn next_step(&mut self, out: &mut Vec<Effect>) {
        self.running = None;
        let Some(step) = self.plan.pop_front() else { return self.on_plan_done(out) };
        self.jobs_made += 1;
        let job = JobId(self.jobs_made);
        out.push(match &step {
            Step::Script(run) => Effect::Run(job, run.clone()),
            Step::Kill => Effect::Kill(job),
            Step::Pause => Effect::SetTimer(Timer::StepRetry, STEP_RETRY),
        });
        self.running = Some((job, step));
    }

    fn on_step_done(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let Some((_, step)) = self.running.take() else { return };
        match (step, outcome) {
            (Step::Script(run), Outcome::Script { code, millis }) => {
                out.push(Effect::Report(Event::ScriptDone { script: run.script, code, millis }));
                // A stop is judged by what is left of the application, which the step `Kill` proves.
                let counts = matches!(run.script, ScriptName::Prestart | ScriptName::StartBoth);
                if counts && code != Some(0) {
                    return self.block(Reason::ScriptFailed { script: run.script, code }, false, out);
                }
            }
            (Step::Kill, Outcome::Killed(Err(detail))) => {
                out.push(Effect::Report(Event::Unkillable { detail: detail.clone() }));
                self.enter(self.state, Readiness::NotReady, Some(Reason::Unkillable { detail }), out);
                self.plan.push_front(Step::Kill);
                self.plan.push_front(Step::Pause);
            }
            (Step::Kill, _) if matches!(self.reason, Some(Reason::Unkillable { .. })) => {
                self.enter(self.state, Readiness::Transient, Some(Reason::Stopping), out);
            }
            _ => {}
        }
        self.next_step(out);
    }

    fn on_plan_done(&mut self, out: &mut Vec<Effect>) {
        let from = self.state;
        match std::mem::replace(&mut self.goal, Goal::Resting) {
            Goal::Resting => {}
            Goal::Idle => self.enter(State::Wait, Readiness::Transient, Some(Reason::Starting), out),
            Goal::Up => self.enter(State::Up, Readiness::Ready, None, out),
            Goal::Stopped { by } => {
                self.saved.is_started = by == BY_SHUTDOWN;
                self.saved.is_clean = true;
                self.saved.stopped_by = Some(by.clone());
                self.save(out);
                self.enter(State::Stop, Readiness::NotReady, Some(reason_of_stop(&by, &self.cfg)), out);
            }
            Goal::Blocked { reason, is_retried } => {
                if is_retried {
                    out.push(Effect::SetTimer(Timer::Backoff, BACKOFF));
                }
                self.blocked = Some((reason.clone(), is_retried));
                self.enter(State::Wait, Readiness::NotReady, Some(reason), out);
            }
        }
        if from != self.state && self.state != State::Up {
            let action = if self.state == State::Stop { "stop" } else { "stopwait" };
            let run = ScriptRun { script: ScriptName::Transition, from, to: self.state, action, is_forced: false };
            self.start_plan([Step::Script(run)], Goal::Resting, out);
        }
    }

    /// To WAIT, the application ended, and stay there until the back-off ends (`is_retried`) or an order comes.
    fn block(&mut self, reason: Reason, is_retried: bool, out: &mut Vec<Effect>) {
        let steps = if self.state == State::Up { self.steps_stop_app("stopwait", State::Wait) } else { vec![Step::Kill] };
        self.leave(steps, Goal::Blocked { reason, is_retried }, out);
    }

    /// The state stays, magenta, until the goal is reached.
    fn leave(&mut self, steps: Vec<Step>, goal: Goal, out: &mut Vec<Effect>) {
        self.enter(self.state, Readiness::Transient, Some(Reason::Stopping), out);
        self.start_plan(steps, goal, out);
    }

    /// Steps that end the application, with proof.
    fn steps_stop_app(&self, action: &'static str, to: State) -> Vec<Step> {
        let stop = |is_forced| self.script(ScriptName::StopBoth, to, action, is_forced);
        vec![stop(false), stop(true), Step::Kill]
    }

    fn script(&self, script: ScriptName, to: State, action: &'static str, is_forced: bool) -> Step {
        Step::Script(ScriptRun { script, from: self.state, to, action, is_forced })
    }

    // ---- state ----

    /// The one door through which the visible state changes.
    fn enter(&mut self, state: State, readiness: Readiness, reason: Option<Reason>, out: &mut Vec<Effect>) {
        if (self.state, self.readiness) == (state, readiness) && self.reason == reason {
            return;
        }
        assert!(may_follow(self.state, state), "state {:?} may not become {:?}", self.state, state);
        let from = std::mem::replace(&mut self.state, state);
        self.readiness = readiness;
        self.reason = reason.clone();
        out.push(Effect::Report(Event::Entered { from, to: state, readiness, reason }));
    }

    fn save(&self, out: &mut Vec<Effect>) {
        out.push(Effect::Save(Box::new(self.saved.clone())));
    }

    /// The number of automatic actions that count, on disk.
    fn count(&mut self, out: &mut Vec<Effect>) {
        if self.saved.loop_count != self.loops.count() {
            self.saved.loop_count = self.loops.count();
            self.save(out);
        }
    }

    /// This node.
    pub fn me(&self) -> &NodeName {
        &self.cfg.me
    }
    /// State shown.
    pub fn state(&self) -> State {
        self.state
    }
    /// Second axis.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }
    /// Why it is not green.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }
    /// The record as last saved; what is about data and the other node stays empty.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }
    /// Automatic actions that count now, and how many may.
    pub fn loops(&self) -> (u32, u32) {
        (self.loops.count(), self.cfg.maxloop)
    }
    /// Checked resources.
    pub fn resources(&self) -> Vec<ResourceView> {
        self.watched.views()
    }
    /// Every order and whether it would be accepted now.
    pub fn allowed(&self) -> Vec<Allowed> {
        Verb::each().into_iter().map(|verb| Allowed { refusal: self.refusal(&verb), verb }).collect()
    }
}

fn reason_of_stop(by: &str, cfg: &LightConfig) -> Reason {
    if by == BY_MAXLOOP { Reason::LoopLimit { count: cfg.maxloop } } else { Reason::StoppedBy { by: by.to_owned() } }
}

/// States that may follow one another.
fn may_follow(from: State, to: State) -> bool {
    use State::{Stop, Up, Wait};
    from == to || matches!((from, to), (Stop, Wait) | (Wait, Stop | Up) | (Up, Wait | Stop))
}
