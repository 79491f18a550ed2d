//! Which checkers run, what of them the engine hears, and what the command line may ask and switch.

use super::Runner;
use crate::checker::{CheckerEvent, Checkers, Surroundings};
use crate::store::Switches;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tsugi_core::engine::Input;
use tsugi_core::module::{Action, Check, Probe, When};
use tsugi_core::rules::ResourceTable;
use tsugi_core::state::{Health, Readiness, ResourceView, State};
use tsugi_core::wire::local::{Reply, Request, RuleView, WatchedView};

use super::{INBOX_MAX, Inbox};

/// Longest run of a handler in a module without `<user>`.
const HANDLER_MAX: Duration = Duration::from_secs(120);

/// What is watched now, and what an administrator has switched.
pub(super) struct Watching {
    checks: Vec<Check>,
    checkers: Checkers,
    switches: Switches,
    /// `modules/M/switches.json`.
    switches_path: PathBuf,
    /// Classes of processes switched by `tsugi errd enable` and `disable`; forgotten at STOP.
    classes: BTreeMap<String, bool>,
}

impl Watching {
    /// Nothing runs yet. Results go to the runner's inbox.
    pub fn new(checks: Vec<Check>, around: Surroundings, switches_path: PathBuf, inbox: mpsc::Sender<Inbox>) -> Watching {
        let (tx, mut rx) = mpsc::channel(INBOX_MAX);
        tokio::spawn(async move {
            while let Some(event) = rx.recv().await {
                if inbox.send(Inbox::Checked(event)).await.is_err() {
                    return;
                }
            }
        });
        let switches = Switches::load(&switches_path);
        Watching { checks, checkers: Checkers::new(around, tx), switches, switches_path, classes: BTreeMap::new() }
    }

    /// Classes of processes that are switched.
    pub fn classes(&self) -> &BTreeMap<String, bool> {
        &self.classes
    }

    /// As a former life had them.
    pub fn set_classes(&mut self, classes: BTreeMap<String, bool>) {
        self.classes = classes;
    }

    /// Ends every check.
    pub fn stop(&mut self) {
        self.checkers.keep(&[]);
    }

    fn is_on(&self, check: &Check, state: State, readiness: Readiness) -> bool {
        let is_ready = readiness == Readiness::Ready;
        let is_phase = match check.when {
            When::Pre => state != State::Stop,
            When::Prim => state.is_serving() && is_ready,
            When::Second => state == State::Second && is_ready,
            When::Both => (state.is_serving() || state == State::Second) && is_ready,
            When::Switched => state != State::Stop,
        };
        is_phase && self.is_switched(check)
    }

    fn is_switched(&self, check: &Check) -> bool {
        match &check.class {
            Some(class) => self.switches.is_errd_on && self.classes.get(class).copied().unwrap_or(check.when != When::Switched),
            None => self.switches.is_checker_on,
        }
    }

    /// It begins with the module, which waits for what it says if a rule wants that.
    fn is_expected(&self, check: &Check) -> bool {
        check.when == When::Pre && self.is_switched(check)
    }
}

impl Runner {
    /// The engine hears which checkers will run before anything else does: their results are waited for.
    pub(super) async fn expect_checks(&mut self) {
        let expected: Vec<Check> = self.watching.checks.iter().filter(|c| self.watching.is_expected(c)).cloned().collect();
        for check in expected {
            self.hear(health_input(&check, Health::Init, String::new())).await;
        }
    }

    /// Starts and stops checkers as the state asks for it. The engine hears which resources nobody tests any more.
    pub(super) async fn choose_checks(&mut self) {
        let (state, readiness) = (self.engine.state(), self.engine.readiness());
        if state == State::Stop {
            self.watching.classes.clear();
        }
        // In a module that goes on: what was known holds until its checker says otherwise.
        let is_known = |r: &ResourceView| matches!(r.health, Health::Up | Health::Down);
        let before: BTreeSet<String> = self.engine.resources().into_iter().filter(is_known).map(|r| r.name).collect();
        let watching = &mut self.watching;
        let checks = std::mem::take(&mut watching.checks);
        let wanted: Vec<&Check> = checks.iter().filter(|c| watching.is_on(c, state, readiness)).collect();
        let new = wanted.iter().filter(|c| watching.checkers.running(&c.name) != Some(**c));
        let first = |c: &Check| {
            let is_waited_for = watching.is_expected(c) && !before.contains(&c.name);
            let expected = is_waited_for.then(|| (Health::Init, String::new()));
            Some((c.clone(), watching.checkers.known_at_once(c).or(expected)?))
        };
        let known: Vec<(Check, (Health, String))> = new.filter_map(|c| first(c)).collect();
        let gone = watching.checkers.keep(&wanted);
        watching.checks = checks;
        for check in gone {
            let health = if self.watching.is_expected(&check) { Health::Init } else { Health::Off };
            self.hear(health_input(&check, health, String::new())).await;
            if check.handler.is_some() {
                self.hear(handler_input(&check, Health::Off, String::new())).await;
            }
        }
        for (check, (health, detail)) in known {
            self.hear(health_input(&check, health, detail)).await;
        }
    }

    async fn hear(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.engine.step(input, &mut effects);
        Box::pin(self.carry_out(effects)).await;
    }

    /// A result; what comes of a check that was stopped meanwhile is dropped.
    pub(super) async fn on_checked(&mut self, event: CheckerEvent) {
        let Some(check) = self.watching.checkers.of_event(&event) else { return };
        let input = if event.name == check.name {
            health_input(check, event.health, event.detail)
        } else {
            handler_input(check, event.health, event.detail)
        };
        self.step(input).await;
    }

    /// A question or a switch of the command line.
    pub(super) async fn on_ask(&mut self, request: Request) -> Reply {
        let done = || Reply::Done;
        match request {
            Request::Set { resource, value, by, .. } => match self.set(&resource, value, by).await {
                Ok(()) => done(),
                Err(message) => Reply::Error { message },
            },
            Request::Errd { class: None, is_on, .. } => {
                self.watching.switches.is_errd_on = is_on;
                self.switched().await
            }
            Request::Errd { class: Some(class), is_on, .. } => {
                let known: Vec<&str> = self.watching.checks.iter().filter_map(|c| c.class.as_deref()).collect();
                if !known.contains(&class.as_str()) {
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    return Reply::Error { message: format!("there is no class {class} of processes; classes of this module: {known}") };
                }
                self.watching.classes.insert(class, is_on);
                self.choose_checks().await;
                self.publish();
                done()
            }
            Request::Checkers { is_on, .. } => {
                self.watching.switches.is_checker_on = is_on;
                self.switched().await
            }
            Request::Loops { change, .. } => {
                if let Some(change) = change {
                    self.step(Input::Loops(change)).await;
                }
                let (count, max) = self.engine.loops();
                Reply::Loops { count, max }
            }
            Request::Watched { .. } => self.watched(),
            Request::Adopt { by, .. } => self.adopt(by).await,
            Request::Open { by, .. } => self.open(by).await,
            Request::Rules { .. } => self.rules(),
            _ => Reply::Error { message: "this is not asked of a module".to_owned() },
        }
    }

    /// Switches that hold over restarts of the agent.
    async fn switched(&mut self) -> Reply {
        let saved = self.watching.switches.save(&self.watching.switches_path);
        self.choose_checks().await;
        self.publish();
        match saved {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Error { message: format!("switched until the agent ends; it could not be kept for longer: {error}") },
        }
    }

    /// What a custom checker or a script says of a resource.
    async fn set(&mut self, resource: &str, health: Health, by: Option<String>) -> Result<(), String> {
        if !matches!(health, Health::Up | Health::Down) {
            return Err("a resource is set to up or down".to_owned());
        }
        let is_custom = |c: &&Check| matches!(c.probe, Probe::Custom { .. });
        let Some(check) = self.watching.checks.iter().filter(is_custom).find(|c| c.name == resource) else {
            let known: Vec<&str> = self.watching.checks.iter().filter(is_custom).map(|c| c.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("there is no custom checker {resource} in this module; resources that may be set: {known}"));
        };
        if self.watching.checkers.running(resource).is_none() {
            return Err(format!("{resource} is not watched in state {}: the value is not taken", self.engine.state().word()));
        }
        let word = if health == Health::Up { "up" } else { "down" };
        let detail = by.map_or_else(|| format!("set to {word}"), |who| format!("set to {word} by {who}"));
        let input = health_input(check, health, detail);
        self.step(input).await;
        Ok(())
    }

    fn watched(&self) -> Reply {
        let resources = self.engine.resources();
        let view = |check: &Check| {
            let now = resources.iter().find(|r| r.name == check.name);
            WatchedView {
                name: check.name.clone(),
                class: check.class.clone(),
                when: check.when,
                is_running: self.watching.checkers.running(&check.name).is_some(),
                health: now.map_or(Health::Off, |r| r.health),
                detail: now.map(|r| r.detail.clone()).unwrap_or_default(),
            }
        };
        Reply::Watched {
            is_errd_on: self.watching.switches.is_errd_on,
            is_checker_on: self.watching.switches.is_checker_on,
            classes: self.watching.classes.clone(),
            checks: self.watching.checks.iter().map(view).collect(),
        }
    }

    /// How the resources stand now, as rules see them.
    fn table(&self) -> ResourceTable {
        let local = self.engine.resources().into_iter().map(|r| (r.name, r.health.value())).collect();
        let remote = match self.engine.peer() {
            (Some(peer), true) => peer.resources.clone(),
            _ => BTreeMap::new(),
        };
        ResourceTable { local, remote }
    }

    fn rules(&self) -> Reply {
        let table = self.table();
        let rules = &self.hands.setting().def.rules;
        let view = |rule: &tsugi_core::rules::Rule| RuleView {
            rule: rule.clone(),
            text: rule.to_string(),
            is_firing: rule.condition.holds(&table),
            resources: rule
                .condition
                .resources()
                .into_iter()
                .flat_map(|r| {
                    let prefix = if r.side == tsugi_core::rules::Side::Remote { "remote." } else { "" };
                    table.look_up(r).into_iter().map(move |(name, value)| (format!("{prefix}{name}"), value))
                })
                .collect(),
        };
        let handle_time_ms = u64::try_from(rules.handle_time.as_millis()).unwrap_or(u64::MAX);
        Reply::Rules { handle_time_ms, rules: rules.rules.iter().map(view).collect() }
    }
}

impl Runner {
    /// Where the checkers of this module are.
    pub(super) fn surroundings(hands: &crate::hands::Hands, board: crate::checker::Board) -> Surroundings {
        let setting = hands.setting();
        Surroundings {
            module: setting.module.clone(),
            bin_dir: setting.active_dir.join("bin"),
            env: hands.environment(),
            handler_timeout: setting.def.user.as_ref().map_or(HANDLER_MAX, |u| u.start_timeout),
            systemctl: PathBuf::from("/usr/bin/systemctl"),
            board,
            group: hands.group().cloned(),
        }
    }
}

/// A handler stands for the action: what the engine hears of the process then asks for nothing.
fn health_input(check: &Check, health: Health, detail: String) -> Input {
    let action = if check.handler.is_some() { Action::NoAction } else { check.action };
    Input::Health { name: check.name.clone(), health, detail, action, is_pre: check.when == When::Pre }
}

/// How a handler ended; one that failed is followed by a stopstart.
fn handler_input(check: &Check, health: Health, detail: String) -> Input {
    Input::Health { name: check.handler_resource(), health, detail, action: Action::StopStart, is_pre: false }
}
