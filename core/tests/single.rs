//! Statements about a light module: an application on one node, without a peer.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tsugi_core::command::{BY_BOOT, BY_MAXLOOP, BY_SHUTDOWN, Command, LoopChange, Refusal, Verb};
use tsugi_core::engine::{Effect, Input, Light, LightConfig, Outcome, Saved, Timer};
use tsugi_core::event::Event;
use tsugi_core::ids::{JobId, NodeName};
use tsugi_core::module::{Action, ScriptName};
use tsugi_core::rehearsal::Rehearsed;
use tsugi_core::rules::{Ruleset, parse};
use tsugi_core::state::{Health, Readiness, Reason, State};

const RULES: &str = "t_web: if (tcp.web == down) then restart();\n\
                     s_web: if (tcp.gone == down) then stopstart();\n\
                     x_web: if (tcp.fatal == down) then stop();\n\
                     m_db: if (module.db == down) then wait();";

struct Node {
    engine: Light,
    disk: Saved,
    timers: BTreeSet<Timer>,
    events: Vec<Event>,
    /// Each call of a script, as its command line.
    calls: Vec<String>,
    failing: BTreeSet<ScriptName>,
    is_unkillable: bool,
    /// Scripts do not end.
    holds_scripts: bool,
    cancelled: Vec<JobId>,
}

impl Node {
    fn of(saved: Saved) -> Node {
        let rules = Ruleset { rules: parse(RULES).0, handle_time: Duration::ZERO };
        let me = NodeName::new("a").unwrap();
        let cfg = LightConfig { me, maxloop: 3, loop_interval: Duration::from_secs(3600), rules };
        let mut node = Node {
            engine: Light::new(cfg, saved.clone()),
            disk: saved,
            timers: BTreeSet::new(),
            events: Vec::new(),
            calls: Vec::new(),
            failing: BTreeSet::new(),
            is_unkillable: false,
            holds_scripts: false,
            cancelled: Vec::new(),
        };
        node.feed(Input::Boot);
        node
    }

    /// Started and green.
    fn up() -> Node {
        let mut node = Node::of(Saved::default());
        assert_eq!(node.order(Verb::Start), None);
        assert_eq!(node.shown(), (State::Up, Readiness::Ready, None));
        node.calls.clear();
        node.events.clear();
        node
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            self.engine.step(input, &mut out);
            for effect in out {
                match effect {
                    Effect::Save(saved) => self.disk = *saved,
                    Effect::SetTimer(timer, _) => {
                        self.timers.insert(timer);
                    }
                    Effect::StopTimer(timer) => {
                        self.timers.remove(&timer);
                    }
                    Effect::Run(job, run) => {
                        let force = if run.is_forced { "force " } else { "" };
                        self.calls.push(format!("{} {force}{} {} {}", run.script.file(), run.from.word(), run.to.word(), run.action));
                        let code = Some(i32::from(self.failing.contains(&run.script)));
                        if !self.holds_scripts {
                            inputs.push_back(Input::Done(job, Outcome::Script { code, millis: 0 }));
                        }
                    }
                    Effect::Cancel(job) => self.cancelled.push(job),
                    Effect::Kill(job) => {
                        let result = if self.is_unkillable { Err("pid 7 (stuck)".to_owned()) } else { Ok(()) };
                        inputs.push_back(Input::Done(job, Outcome::Killed(result)));
                    }
                    Effect::Report(event) => self.events.push(event),
                    other => panic!("a light module asks for {other:?}"),
                }
            }
        }
    }

    fn order_by(&mut self, verb: Verb, by: &str) -> Option<Refusal> {
        let refusal = self.engine.refusal(&verb);
        self.feed(Input::Command(Command { id: String::new(), verb, by: by.into(), reason: None, is_automatic: false }));
        refusal
    }
    fn order(&mut self, verb: Verb) -> Option<Refusal> {
        self.order_by(verb, "root")
    }
    fn fire(&mut self, timer: Timer) {
        assert!(self.timers.remove(&timer), "{timer:?} does not run: {:?}", self.timers);
        self.feed(Input::Timer(timer));
    }
    fn health(&mut self, name: &str, health: Health) {
        let detail = "as seen".to_owned();
        self.feed(Input::Health { name: name.into(), health, detail, action: Action::Restart, is_pre: false });
    }
    /// The resource fails, and works again after what is done about it.
    fn fail_once(&mut self, name: &str) {
        self.health(name, Health::Down);
        self.health(name, Health::Up);
    }
    fn shown(&self) -> (State, Readiness, Option<&Reason>) {
        (self.engine.state(), self.engine.readiness(), self.engine.reason())
    }
    fn is_green(&self) -> bool {
        self.shown() == (State::Up, Readiness::Ready, None)
    }
}

#[test]
fn it_starts_and_stops_by_the_scripts_of_a_module_without_roles() {
    let mut node = Node::of(Saved::default());
    assert_eq!(node.shown(), (State::Stop, Readiness::NotReady, Some(&Reason::NeverStarted)));
    assert_eq!(node.order(Verb::Start), None);
    assert!(node.is_green());
    let started = ["transition STOP WAIT start", "prestart STOP WAIT start", "transition WAIT UP start", "start_both WAIT UP start"];
    assert_eq!(node.calls, started);
    assert!(node.disk.is_started);
    node.calls.clear();
    assert_eq!(node.order(Verb::Stop), None);
    assert_eq!(node.shown(), (State::Stop, Readiness::NotReady, Some(&Reason::StoppedBy { by: "root".into() })));
    let stopped = ["stop_both UP STOP stop", "stop_both force UP STOP stop", "poststop UP STOP stop", "transition UP STOP stop"];
    assert_eq!(node.calls, stopped);
    assert!(!node.disk.is_started && node.disk.is_clean);
}

#[test]
fn a_restart_stays_in_its_state_and_a_stopstart_passes_through_wait() {
    let mut node = Node::up();
    assert_eq!(node.order(Verb::Restart), None);
    assert_eq!(node.calls, ["stop_both UP UP restart", "stop_both force UP UP restart", "start_both UP UP restart"]);
    assert!(node.is_green());
    node.calls.clear();
    assert_eq!(node.order(Verb::StopStart), None);
    let calls = [
        "stop_both UP WAIT stopstart",
        "stop_both force UP WAIT stopstart",
        "transition UP WAIT stopwait",
        "transition WAIT UP start",
        "start_both WAIT UP start",
    ];
    assert_eq!(node.calls, calls);
    assert!(node.is_green());
}

#[test]
fn orders_of_modules_with_roles_are_refused() {
    let mut node = Node::up();
    let verbs = [
        Verb::Swap,
        Verb::Prim { accept_loss: true },
        Verb::PrimForce,
        Verb::Second { full_sync: false },
        Verb::Resolve { keep: NodeName::new("a").unwrap() },
    ];
    for verb in verbs {
        assert_eq!(node.order(verb), Some(Refusal::NoSuchRole));
    }
    assert_eq!(node.order(Verb::Start), Some(Refusal::AlreadyStarted));
    assert!(node.is_green() && node.calls.is_empty());
    node.order(Verb::Stop);
    assert_eq!(node.order(Verb::Stop), Some(Refusal::AlreadyStopped));
    assert_eq!(node.order(Verb::Restart), Some(Refusal::NotServing));
    let swap = node.engine.allowed().into_iter().find(|a| a.verb == Verb::Swap).unwrap();
    assert_eq!(swap.refusal, Some(Refusal::NoSuchRole));
}

#[test]
fn a_resource_that_fails_restarts_the_application_and_once_too_often_stops_it() {
    let mut node = Node::up();
    for _ in 0..3 {
        node.fail_once("tcp.web");
        assert!(node.is_green());
    }
    assert_eq!(node.calls.iter().filter(|c| c.starts_with("start_both")).count(), 3);
    assert_eq!(node.disk.loop_count, 3);
    node.fail_once("tcp.web");
    assert_eq!(node.shown(), (State::Stop, Readiness::NotReady, Some(&Reason::LoopLimit { count: 3 })));
    assert_eq!(node.disk.stopped_by.as_deref(), Some(BY_MAXLOOP));
    assert!(node.events.contains(&Event::LoopLimit { count: 3 }));
    assert_eq!(node.order(Verb::Start), None);
    assert_eq!((node.is_green(), node.disk.loop_count), (true, 0), "a person's order begins anew");
}

#[test]
fn what_a_checker_or_script_orders_counts_and_once_too_often_it_stops_the_module() {
    let mut node = Node::up();
    let order = |node: &mut Node, verb| {
        let command = Command { id: String::new(), verb, by: "chk (root)".into(), reason: None, is_automatic: true };
        node.feed(Input::Command(command));
        node.disk.loop_count
    };
    node.order(Verb::Maintenance { minutes: 10 });
    assert_eq!((order(&mut node, Verb::Restart), node.calls.len()), (0, 0), "under maintenance nothing is restarted by itself");
    node.order(Verb::Maintenance { minutes: 0 });
    assert_eq!([Verb::Restart, Verb::StopStart, Verb::Restart].map(|v| order(&mut node, v)), [1, 2, 3]);
    assert!(node.is_green());
    assert_eq!(order(&mut node, Verb::Restart), 4);
    assert_eq!(node.shown(), (State::Stop, Readiness::NotReady, Some(&Reason::LoopLimit { count: 3 })));
    assert_eq!(order(&mut node, Verb::Start), 4, "a script that starts begins no new count");
}

#[test]
fn a_script_that_acts_by_itself_counts_learns_the_limit_and_begins_afresh() {
    let mut node = Node::up();
    for count in 1..=4 {
        node.feed(Input::Loops(LoopChange::Add));
        assert_eq!((node.engine.loops(), node.disk.loop_count), ((count, 3), count));
    }
    node.feed(Input::Loops(LoopChange::Add));
    assert_eq!((node.engine.loops(), node.is_green()), ((4, 3), true), "it is the script that acts; no more is kept than is needed");
    node.fire(Timer::LoopExpire(1));
    assert_eq!(node.disk.loop_count, 3);
    node.feed(Input::Loops(LoopChange::Forget));
    assert_eq!((node.disk.loop_count, node.timers.len()), (0, 0));
}

#[test]
fn automatic_actions_are_counted_across_lives_and_expire() {
    let mut node = Node::up();
    node.fail_once("tcp.web");
    node.fail_once("tcp.gone");
    assert_eq!(node.disk.loop_count, 2);
    let mut node = Node::of(node.disk);
    assert_eq!(node.order_by(Verb::Start, BY_BOOT), None);
    assert_eq!((node.is_green(), node.disk.loop_count), (true, 2), "the agent's own order is no person's");
    node.fire(Timer::LoopExpire(1));
    assert_eq!(node.disk.loop_count, 1);
    for _ in 0..2 {
        node.fail_once("tcp.web");
        assert!(node.is_green());
    }
    node.fail_once("tcp.web");
    assert_eq!(node.engine.reason(), Some(&Reason::LoopLimit { count: 3 }));
    let mut node = Node::of(node.disk);
    assert_eq!(node.engine.reason(), Some(&Reason::LoopLimit { count: 3 }), "and this is still known");
    assert_eq!(node.order(Verb::Start), None);
}

#[test]
fn rules_may_stop_it_or_hold_it_in_wait() {
    let mut node = Node::up();
    node.health("tcp.fatal", Health::Down);
    assert_eq!(node.shown(), (State::Stop, Readiness::NotReady, Some(&Reason::StoppedBy { by: "checker: tcp.fatal".into() })));

    let mut node = Node::up();
    node.health("module.db", Health::Down);
    let waits = Reason::CheckFailed { resource: "module.db".into(), detail: "as seen".into() };
    assert_eq!(node.shown(), (State::Wait, Readiness::NotReady, Some(&waits)));
    node.health("module.db", Health::Up);
    assert_eq!(node.engine.state(), State::Wait, "not before the back-off ends");
    node.fire(Timer::Backoff);
    assert!(node.is_green());
}

#[test]
fn it_does_not_start_before_what_it_waits_for() {
    let mut node = Node::of(Saved::default());
    node.health("module.db", Health::Down);
    node.order(Verb::Start);
    assert_eq!((node.engine.state(), node.engine.readiness()), (State::Wait, Readiness::NotReady));
    assert!(!node.calls.iter().any(|c| c.starts_with("start_both")));
    assert_eq!(node.order(Verb::Start), Some(Refusal::AlreadyStarted));
    node.health("module.db", Health::Up);
    assert!(node.is_green());
}

#[test]
fn an_application_that_does_not_start_is_ended_and_waits_for_a_person() {
    let mut node = Node::of(Saved::default());
    node.failing.insert(ScriptName::StartBoth);
    node.order(Verb::Start);
    let failed = Reason::ScriptFailed { script: ScriptName::StartBoth, code: Some(1) };
    assert_eq!(node.shown(), (State::Wait, Readiness::NotReady, Some(&failed)));
    assert_eq!(node.calls.iter().filter(|c| c.starts_with("stop_both")).count(), 2);
    node.failing.clear();
    assert_eq!(node.order(Verb::Start), None);
    assert!(node.is_green());

    let mut node = Node::of(Saved::default());
    node.failing.insert(ScriptName::Prestart);
    node.order(Verb::Start);
    assert_eq!(node.engine.reason(), Some(&Reason::ScriptFailed { script: ScriptName::Prestart, code: Some(1) }));
    assert_eq!(node.order(Verb::Stop), None);
    assert_eq!(node.engine.state(), State::Stop);
}

#[test]
fn what_cannot_be_ended_is_said_and_nothing_begins_before_it_is() {
    let mut node = Node::up();
    node.is_unkillable = true;
    node.order(Verb::Restart);
    assert_eq!(node.shown(), (State::Up, Readiness::NotReady, Some(&Reason::Unkillable { detail: "pid 7 (stuck)".into() })));
    assert!(!node.calls.iter().any(|c| c.starts_with("start_both")));
    node.fire(Timer::StepRetry);
    node.is_unkillable = false;
    node.fire(Timer::StepRetry);
    assert!(node.is_green());
}

#[test]
fn a_stop_does_not_wait_for_a_start_script_that_hangs() {
    let mut node = Node::of(Saved::default());
    node.holds_scripts = true;
    node.order(Verb::Start);
    assert_eq!(node.engine.readiness(), Readiness::Transient);
    assert_eq!(node.order(Verb::StopStart), Some(Refusal::Busy));
    node.holds_scripts = false;
    assert_eq!(node.order(Verb::Stop), None);
    assert_eq!((node.engine.state(), node.cancelled.len()), (State::Stop, 1));
}

#[test]
fn a_shut_down_is_no_stop() {
    let mut node = Node::up();
    node.order_by(Verb::Stop, BY_SHUTDOWN);
    assert_eq!(node.engine.state(), State::Stop);
    assert!(node.disk.is_started, "it starts again at the next boot");
}

#[test]
fn maintenance_holds_automatic_actions_back_and_no_order() {
    let mut node = Node::up();
    assert_eq!(node.order(Verb::Maintenance { minutes: 10 }), None);
    node.health("tcp.web", Health::Down);
    assert!(node.is_green() && node.calls.is_empty());
    assert_eq!(node.order(Verb::Restart), None);
    assert!(node.is_green());
    node.order(Verb::Stop);
    node.health("module.db", Health::Down);
    node.order(Verb::Start);
    node.health("module.db", Health::Up);
    assert!(node.is_green(), "a person asked for it");
    node.health("tcp.web", Health::Up);
    node.calls.clear();
    node.health("tcp.web", Health::Down);
    assert!(node.calls.is_empty());
    node.fire(Timer::Maintenance);
    assert_eq!(node.calls.len(), 3, "then what is down is acted upon: {:?}", node.calls);
    assert_eq!(node.order(Verb::Maintenance { minutes: 100_000 }), Some(Refusal::BadDuration { minutes: 100_000 }));
}

#[test]
fn maintenance_keeps_a_module_in_wait_that_nobody_asked_to_start() {
    let mut node = Node::up();
    node.health("module.db", Health::Down);
    node.order(Verb::Maintenance { minutes: 10 });
    node.health("module.db", Health::Up);
    node.fire(Timer::Backoff);
    assert_eq!(node.shown(), (State::Wait, Readiness::NotReady, Some(&Reason::Maintenance)));
    node.order(Verb::Maintenance { minutes: 0 });
    assert!(node.is_green());
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let node = Node::up();
    let rehearse = |verb| node.engine.rehearse(Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false });
    let script = |script, forced| Rehearsed::Script { script, forced };
    let enter = |state, readiness, reason| Rehearsed::Enter { state, readiness, reason };
    let steps = [
        enter(State::Up, Readiness::Transient, Some(Reason::Stopping)),
        script(ScriptName::StopBoth, false),
        script(ScriptName::StopBoth, true),
        Rehearsed::Kill,
        script(ScriptName::Poststop, false),
        enter(State::Stop, Readiness::NotReady, Some(Reason::StoppedBy { by: "root".into() })),
        script(ScriptName::Transition, false),
    ];
    assert_eq!(rehearse(Verb::Stop).steps, steps);
    assert_eq!(rehearse(Verb::Swap).refusal, Some(Refusal::NoSuchRole));
    assert!(node.is_green());
}
