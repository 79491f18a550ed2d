//! The loop of one module: next input → step → carry out, in order. Nothing else.

mod checks;
mod facts;
mod pace;
mod take_up;
mod verify;

use crate::checker::{Board, CheckerEvent};
use crate::clock::boottime_ns;
use crate::console::ConsoleLink;
use crate::hands::Hands;
use crate::kept::{Keeper, Kept};
use crate::link::Heard;
use crate::store::EventLog;
use checks::Watching;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use take_up::Ends;
use tokio::sync::{mpsc, oneshot, watch};
use tsugi_core::command::{BY_SHUTDOWN, Command, Refusal, Verb};
use tsugi_core::copies::Verified;
use tsugi_core::engine::{Effect, Engine, Input, Outcome, Saved, Ticket, Timer, VipPlan};
use tsugi_core::event::Event;
use tsugi_core::ids::JobId;
use tsugi_core::module::ScriptName;
use tsugi_core::rehearsal::Rehearsal;
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::ReplicaFigures;
use tsugi_core::state::{Health, NetworkView, PeerView, Readiness, Reason, Replication, Snapshot, State, Traffic, Verification};
use tsugi_core::wire::local::{Reply, Request};
use verify::Verifications;

pub use take_up::{Candidate, as_left};

/// Inputs that may wait; the senders are the module's own doers, so a full queue only slows them down.
const INBOX_MAX: usize = 512;
/// Addresses are renewed and figures read this often. Well below the shortest lifetime of an address (2 s).
const TICK: Duration = Duration::from_millis(500);
/// Longest wait for the data process's figures.
const FIGURES_MAX: Duration = Duration::from_millis(20);
/// Ids of orders remembered, so that a repeated one is answered and not carried out again.
const ORDERS_REMEMBERED: usize = 64;

/// Lines that the scripts of a module may print within a minute.
const LINES_PER_MINUTE: u32 = 60;
/// Longest line.
const LINE_CHARS_MAX: usize = 500;

/// What reaches the loop.
pub enum Inbox {
    /// For the engine.
    Input(Input),
    /// A beat; the link must learn that it was taken into account.
    Heard(Box<Heard>),
    /// An order, and where the answer goes.
    Order(Command, oneshot::Sender<Option<Refusal>>),
    /// What an order would do, and where the answer goes.
    Rehearse(Command, oneshot::Sender<Rehearsal>),
    /// Last output line of a script.
    ScriptSaid {
        /// Which.
        script: ScriptName,
        /// How it ended.
        code: Option<i32>,
        /// The line.
        text: String,
    },
    /// A comparison of the two copies ended.
    Verified(Verified),
    /// Whether the replicated directories can be used, and why not.
    Usable(Result<(), String>),
    /// A checker's result.
    Checked(CheckerEvent),
    /// A question or switch of the command line about what is watched.
    Ask(Request, oneshot::Sender<Reply>),
    /// A line that a script wants in the event log.
    Print {
        /// Which, if it said so.
        script: Option<ScriptName>,
        /// The line.
        text: String,
        /// A warning.
        is_error: bool,
    },
    /// Stop the module (if asked so), then end the loop.
    End {
        /// Stop in order first: the host shuts down.
        is_stopping: bool,
    },
}

/// A running module, from outside.
#[derive(Clone)]
pub struct RunnerHandle {
    inbox: mpsc::Sender<Inbox>,
    snapshot: watch::Receiver<Option<Snapshot>>,
    /// Minute of the clock, and lines printed in it.
    printed: Arc<Mutex<(u64, u32)>>,
}

impl RunnerHandle {
    /// Hand an order over; the answer is the refusal, if any. "Accepted" is not "done".
    pub async fn order(&self, command: Command) -> Option<Refusal> {
        let (tx, rx) = oneshot::channel();
        if self.inbox.send(Inbox::Order(command, tx)).await.is_err() {
            return Some(Refusal::NotConfigured);
        }
        rx.await.unwrap_or(Some(Refusal::NotConfigured))
    }
    /// Ask about what is watched, or switch it.
    pub async fn ask(&self, request: Request) -> Reply {
        let gone = || Reply::Error { message: "the module is being taken down".to_owned() };
        let (tx, rx) = oneshot::channel();
        if self.inbox.send(Inbox::Ask(request, tx)).await.is_err() {
            return gone();
        }
        rx.await.unwrap_or_else(|_| gone())
    }
    /// A line for the event log. `false` = there were too many within a minute, or the module is gone: a script in a
    /// loop must not push everything else out of the log.
    pub async fn print(&self, script: Option<ScriptName>, text: &str, is_error: bool) -> bool {
        {
            let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            let minute = boottime_ns() / 60_000_000_000;
            *printed = if printed.0 == minute { (minute, printed.1 + 1) } else { (minute, 1) };
            if printed.1 > LINES_PER_MINUTE {
                return false;
            }
        }
        let text = text.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect();
        self.inbox.send(Inbox::Print { script, text, is_error }).await.is_ok()
    }
    /// What an order would do; `None` when the module is being taken down.
    pub async fn rehearse(&self, command: Command) -> Option<Rehearsal> {
        let (tx, rx) = oneshot::channel();
        self.inbox.send(Inbox::Rehearse(command, tx)).await.ok()?;
        rx.await.ok()
    }
    /// The newest snapshot.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot.borrow().clone()
    }
    /// The newest snapshot; of a module that is being taken up, the one after the first try. Absent: it is gone.
    pub async fn first_snapshot(&self) -> Option<Snapshot> {
        self.snapshot.clone().wait_for(Option::is_some).await.ok()?.clone()
    }
    /// Changes with each snapshot.
    pub fn changes(&self) -> watch::Receiver<Option<Snapshot>> {
        self.snapshot.clone()
    }
    /// The guard ended the application of the module.
    pub fn app_ended(&self) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move { inbox.send(Inbox::Input(Input::AppEnded)).await });
    }
    /// End the loop; with `is_stopping` the module is stopped in order before.
    pub async fn end(&self, is_stopping: bool) {
        let _ = self.inbox.send(Inbox::End { is_stopping }).await;
    }
    /// The loop has ended.
    pub fn is_ended(&self) -> bool {
        self.inbox.is_closed()
    }
    /// One whose loop is played by a test.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (RunnerHandle, mpsc::Receiver<Inbox>) {
        let (ends, handle) = Ends::new();
        (handle, ends.inbox)
    }
    /// Returns when the loop has ended.
    pub async fn ended(&self) {
        self.inbox.closed().await;
    }
}

/// Where the loop reports to.
pub struct Reports {
    /// Event log of the node.
    pub events: EventLog,
    /// Console.
    pub console: ConsoleLink,
    /// The other modules of this node.
    pub board: Board,
}

/// The loop.
pub struct Runner {
    /// First, so that it is void before anything else ends.
    keeper: Keeper,
    /// The record as it is on the disk.
    recorded: Saved,
    engine: Engine,
    hands: Hands,
    reports: Reports,
    inbox: mpsc::Receiver<Inbox>,
    to_inbox: mpsc::Sender<Inbox>,
    timers: BTreeMap<Timer, u64>,
    watching: Watching,
    orders: VecDeque<(String, Option<Refusal>)>,
    figures: Option<ReplicaFigures>,
    generation: u64,
    since_unix_ms: u64,
    /// End of the maintenance, by the wall clock as it was when it began.
    maintenance_until_unix_ms: Option<u64>,
    shown: Option<(State, Readiness, Option<Reason>)>,
    vips_held: Vec<std::net::IpAddr>,
    snapshot: watch::Sender<Option<Snapshot>>,
    /// The record cannot be written: the module has left service.
    failure: Option<String>,
    is_ending: bool,
    /// The order to serve that is under way, and since when.
    serving: Option<(JobId, Instant)>,
    /// What rules look at and no checker tests, as last told.
    facts: BTreeMap<String, (Health, String)>,
    usable: facts::Usable,
    verifications: Verifications,
    pace: pace::Pace,
    traffic: Option<Traffic>,
    /// Orders of the data process that are not answered.
    ordered: BTreeSet<JobId>,
    is_going_on: bool,
    /// What rules look at and no checker tests is looked at from then on: a module that goes on has heard nobody yet.
    facts_from: Instant,
}

impl Runner {
    /// A loop ready to [`Runner::run`].
    fn new(engine: Engine, hands: Hands, reports: Reports, ends: Ends, generation: u64, kept: Option<(Kept, Option<u64>)>) -> Runner {
        let Ends { to_inbox, inbox, snapshot } = ends;
        let around = Runner::surroundings(&hands, reports.board.clone());
        let switches = hands.setting().log_dir.with_file_name("switches.json");
        let verifications = Verifications::load(hands.setting().log_dir.with_file_name("verified.json"));
        let mut watching = Watching::new(hands.setting().def.checks.clone(), around, switches, to_inbox.clone());
        let setting = hands.setting();
        let keeper = Keeper::new(&setting.run_dir, &setting.module, kept.as_ref().map(|(kept, _)| kept.clone()));
        let mut timers: BTreeMap<Timer, u64> = kept.iter().flat_map(|(kept, _)| kept.timers.clone()).collect();
        if let Some((kept, Some(deadline))) = &kept
            && kept.engine.is_held()
        {
            timers.insert(Timer::PromiseHeld, *deadline);
        }
        let mut facts_from = Instant::now();
        let mut orders = VecDeque::new();
        if let Some((kept, _)) = &kept {
            watching.set_classes(kept.classes.clone());
            orders.extend(kept.orders.clone());
            facts_from += setting.def.heart.timing.silence;
        }
        Runner {
            keeper,
            recorded: engine.saved().clone(),
            is_going_on: kept.is_some(),
            ordered: BTreeSet::new(),
            engine,
            hands,
            reports,
            inbox,
            to_inbox,
            timers,
            watching,
            orders,
            facts_from,
            figures: None,
            generation,
            since_unix_ms: kept.as_ref().map_or_else(unix_ms, |(kept, _)| kept.since_unix_ms),
            maintenance_until_unix_ms: kept.as_ref().and_then(|(kept, _)| kept.maintenance_until_unix_ms),
            shown: None,
            vips_held: Vec::new(),
            snapshot,
            failure: None,
            is_ending: false,
            serving: None,
            facts: BTreeMap::new(),
            usable: Default::default(),
            verifications,
            pace: Default::default(),
            traffic: None,
        }
    }

    /// Runs until ended. `start` is the boot policy's order, carried out after the delay.
    async fn run(mut self, start: Option<Duration>) {
        if self.is_going_on {
            self.shown = Some((self.engine.state(), self.engine.readiness(), self.engine.reason().cloned()));
            self.vips_held = self.hands.vips_held().await;
            self.hands.keep_addresses().await;
            self.step(Input::GoneOn).await;
        } else {
            self.step(Input::Boot).await;
            self.expect_checks().await;
            self.expect_directories().await;
        }
        let mut boot_start = start.map(|delay| boottime_ns() + delay.as_nanos() as u64);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // `poststop` and `transition` come after the stop that the other node waits for.
            let is_stopped = self.engine.state() == State::Stop && !self.engine.is_planning();
            if self.is_ending && (is_stopped && !self.engine.is_excluding() || self.failure.is_some()) {
                break;
            }
            let next = self.timers.iter().min_by_key(|(_, at)| **at).map(|(timer, at)| (*timer, *at));
            let wake_ns = [next.map(|(_, at)| at), boot_start].into_iter().flatten().min();
            tokio::select! {
                biased;
                // What has arrived goes before what is due: after a stall a beat in the queue is proof that the peer was
                // there, and a promise that is kept longer harms nobody.
                message = self.inbox.recv() => match message {
                    None => break,
                    Some(Inbox::End { is_stopping: false }) => break,
                    Some(Inbox::End { is_stopping: true }) => {
                        self.is_ending = true;
                        self.order_myself(Verb::Stop, BY_SHUTDOWN).await;
                    }
                    Some(message) => {
                        if matches!(message, Inbox::Order(..)) {
                            // Somebody decides: what the boot policy had in mind for later is void.
                            boot_start = None;
                        }
                        self.take(message).await;
                    }
                },
                () = sleep_until(wake_ns) => {
                    let now = boottime_ns();
                    if boot_start.is_some_and(|at| at <= now) {
                        boot_start = None;
                        self.order_myself(Verb::Start, tsugi_core::command::BY_BOOT).await;
                    }
                    if let Some((timer, at)) = next && at <= now {
                        self.timers.remove(&timer);
                        self.step(Input::Timer(timer)).await;
                    }
                }
                _ = tick.tick() => self.on_tick().await,
            }
        }
        self.watching.stop();
        if let Err(error) = self.keeper.void() {
            tracing::error!(%error, "what is kept of a module that ends cannot be taken away");
        }
        self.hands.give_up().await;
    }

    async fn take(&mut self, message: Inbox) {
        match message {
            Inbox::Input(input) => {
                match &input {
                    Input::Replica(ReplicaNote::Died { .. }) => self.ordered.clear(),
                    Input::Replica(_) => self.hands.heard(),
                    Input::Done(job, Outcome::Replica(_)) => drop(self.ordered.remove(job)),
                    _ => {}
                }
                if let Input::Replica(ReplicaNote::Died { .. }) = &input {
                    self.hands.forget_data();
                    self.verification_died();
                }
                if let Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { .. })) = &input
                    && let Some((_, since)) = self.serving.take_if(|(serving, _)| serving == job)
                {
                    self.report(Event::DataServed { millis: since.elapsed().as_millis() as u64 });
                }
                self.step(input).await;
            }
            Inbox::Heard(heard) => {
                let answers = heard.answers.map(Ticket);
                let was_contact = self.engine.peer().1;
                let mut effects = Vec::new();
                if self.failure.is_some() {
                    return;
                }
                self.engine.step(Input::Heard { status: Box::new(heard.status.clone()), answers }, &mut effects);
                // From here on every beat of ours answers this one: the engine has taken it into account.
                self.hands.processed(&heard);
                self.carry_out(effects).await;
                if !was_contact {
                    self.hands.announce();
                }
            }
            Inbox::Order(command, answer) => {
                let refusal = self.order(command).await;
                let _ = answer.send(refusal);
            }
            Inbox::Rehearse(command, answer) => {
                let _ = answer.send(self.engine.rehearse(command));
            }
            Inbox::ScriptSaid { script, code, text } => {
                if code != Some(0) && !text.is_empty() {
                    self.report(Event::ScriptSaid { script, text });
                }
            }
            Inbox::Verified(what) => {
                self.hands.heard();
                self.on_verified(what);
                self.keep();
            }
            Inbox::Usable(found) => self.on_usable(found).await,
            Inbox::Checked(event) => self.on_checked(event).await,
            Inbox::Ask(Request::Rfs { .. }, answer) => self.rfs_view(answer),
            Inbox::Ask(Request::Noted { .. }, answer) => self.noted(answer),
            Inbox::Ask(request, answer) => {
                let reply = self.on_ask(request).await;
                let _ = answer.send(reply);
            }
            Inbox::Print { script, text, is_error } => self.report(Event::Printed { script, text, is_error }),
            Inbox::End { .. } => {}
        }
    }

    async fn order(&mut self, command: Command) -> Option<Refusal> {
        if let Some((_, refusal)) = self.orders.iter().find(|(id, _)| *id == command.id && !id.is_empty()) {
            return refusal.clone();
        }
        if self.failure.is_some() {
            return Some(Refusal::Busy);
        }
        let refusal = self.engine.refusal_of(&command);
        if self.orders.len() == ORDERS_REMEMBERED {
            self.orders.pop_front();
        }
        self.orders.push_back((command.id.clone(), refusal.clone()));
        self.step(Input::Command(command)).await;
        refusal
    }

    async fn order_myself(&mut self, verb: Verb, by: &str) {
        if self.engine.refusal(&verb).is_none() {
            let command = Command { id: String::new(), verb, by: by.to_owned(), reason: None, is_automatic: false };
            self.step(Input::Command(command)).await;
        }
    }

    async fn step(&mut self, input: Input) {
        if self.failure.is_some() {
            return;
        }
        let mut effects = Vec::new();
        self.engine.step(input, &mut effects);
        self.carry_out(effects).await;
    }

    /// Effects one after another; what an effect needs before the next one begins is waited for.
    async fn carry_out(&mut self, effects: Vec<Effect>) {
        if !effects.iter().all(Effect::is_light)
            && let Err(e) = self.keeper.void()
        {
            return self.fail(format!("what is kept of it cannot be taken away: {e}")).await;
        }
        for effect in effects {
            match effect {
                Effect::Save(saved) => {
                    if let Err(e) = self.hands.save(&saved) {
                        return self.fail(format!("{e:#}")).await;
                    }
                    self.recorded = *saved;
                }
                Effect::Send(status) => {
                    self.hands.send(*status);
                }
                Effect::SetTimer(timer, after) => {
                    self.timers.insert(timer, boottime_ns() + nanos(after));
                    if timer == Timer::Maintenance {
                        self.maintenance_until_unix_ms = Some(unix_ms() + u64::try_from(after.as_millis()).unwrap_or(0));
                    }
                }
                Effect::SetTimerSince(timer, ticket, after) => {
                    // A beat too old to be known is one whose time is over.
                    let at = self.hands.sent_ns(ticket.0).map_or(0, |sent| sent + nanos(after));
                    self.timers.insert(timer, at);
                }
                Effect::StopTimer(timer) => {
                    self.timers.remove(&timer);
                    if timer == Timer::Maintenance {
                        self.maintenance_until_unix_ms = None;
                    }
                }
                Effect::Entitle(ticket, after) => {
                    if let Some(sent) = self.hands.sent_ns(ticket.0) {
                        self.hands.set_deadline(Some(sent + nanos(after)));
                    }
                }
                Effect::EntitleAlone => self.hands.set_deadline(None),
                Effect::Disentitle => self.hands.set_deadline(Some(0)),
                Effect::Run(job, run) => self.hands.run(job, run),
                Effect::Cancel(job) => self.hands.cancel(job),
                Effect::Kill(job) => self.hands.kill_application(job),
                Effect::Freeze => self.hands.freeze(true).await,
                Effect::Thaw => self.hands.freeze(false).await,
                Effect::Vip(job, plan) => {
                    let result = self.hands.vip(plan).await;
                    let addrs = result.clone().unwrap_or_default();
                    for addr in addrs {
                        self.report(match plan {
                            VipPlan::Raise => Event::VipRaised { addr },
                            VipPlan::Drop => Event::VipDropped { addr },
                        });
                    }
                    self.vips_held = self.hands.vips_held().await;
                    let outcome = Outcome::Vip(result.map(|_| ()));
                    let inbox = self.to_inbox.clone();
                    tokio::spawn(async move { inbox.send(Inbox::Input(Input::Done(job, outcome))).await });
                }
                Effect::Replica(job, order) => {
                    if matches!(order, ReplicaOrder::Serve { .. }) {
                        self.serving = Some((job, Instant::now()));
                    }
                    self.ordered.insert(job);
                    self.hands.replica(job, order).await;
                }
                Effect::Verify => self.verify(),
                Effect::Ask(job, request) => self.hands.ask(job, request),
                Effect::Report(event) => self.report(event),
            }
        }
        self.choose_checks().await;
        self.publish();
        self.keep();
    }

    /// How the module stands, for the next life of this agent, if it is at rest.
    fn keep(&mut self) {
        // What is not on the disk a next life would miss there, and not go on.
        let is_recorded = *self.engine.saved() == self.recorded;
        let is_free = self.failure.is_none() && !self.is_ending && self.ordered.is_empty() && is_recorded;
        let engine = if is_free { self.engine.kept() } else { None };
        let kept = engine.and_then(|engine| self.hands.kept(self.generation, engine));
        let is_anew =
            |timer: &Timer| matches!(timer, Timer::Beat | Timer::PeerSilent | Timer::PromiseGiven | Timer::PromiseHeld | Timer::Confirm);
        self.keeper.keep(kept.map(|kept| Kept {
            timers: self.timers.iter().filter(|(timer, _)| !is_anew(timer)).map(|(timer, at)| (*timer, *at)).collect(),
            orders: self.orders.iter().cloned().collect(),
            classes: self.watching.classes().clone(),
            since_unix_ms: self.since_unix_ms,
            maintenance_until_unix_ms: self.maintenance_until_unix_ms,
            ..kept
        }));
    }

    /// The record cannot be written: a node that cannot remember must not serve.
    async fn fail(&mut self, detail: String) {
        tracing::error!(module.name = %self.hands.setting().module, error = %detail, "the record cannot be written; the module leaves service");
        self.timers.clear();
        self.watching.stop();
        self.hands.give_up().await;
        self.vips_held.clear();
        self.failure = Some(detail.clone());
        let reason = Reason::RecordUnusable { detail };
        let from = self.engine.state();
        self.report(Event::Entered { from, to: State::Wait, readiness: Readiness::NotReady, reason: Some(reason) });
        self.publish();
    }

    fn report(&mut self, event: Event) {
        // A script the module does not have is no news.
        if let Event::ScriptDone { script, code: Some(0), .. } = &event
            && !self.hands.has_script(*script)
        {
            return;
        }
        let setting = self.hands.setting();
        if let Event::Entered { from, to, readiness, .. } = &event {
            tracing::info!(module.name = %setting.module, "module {} goes from {} to {} ({readiness:?})", setting.module, from.word(), to.word());
        } else {
            tracing::debug!(module.name = %setting.module, ?event, "event");
        }
        self.reports.events.add(&setting.node, &setting.module, event);
        self.reports.console.event_added();
    }

    // ---- what others see ----

    async fn on_tick(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if self.engine.is_serving() && self.engine.reason() != Some(&Reason::Frozen) {
            self.hands.renew_vips().await;
        }
        self.vips_held = self.hands.vips_held().await;
        if Instant::now() >= self.facts_from {
            self.tell_facts().await;
        }
        // The last answer will do: nothing may wait for figures.
        if let Ok(figures) = tokio::time::timeout(FIGURES_MAX, self.hands.figures()).await {
            self.figures = figures;
        }
        self.traffic = self.pace.look(self.figures.as_ref(), self.engine.replication(), Instant::now());
        self.verify_if_due().await;
        self.publish();
        self.repair_if_possible();
        self.keep();
    }

    fn publish(&mut self) {
        let shown = match &self.failure {
            Some(detail) => (State::Wait, Readiness::NotReady, Some(Reason::RecordUnusable { detail: detail.clone() })),
            None => (self.engine.state(), self.engine.readiness(), self.engine.reason().cloned()),
        };
        if self.shown.as_ref() != Some(&shown) {
            self.since_unix_ms = unix_ms();
            self.shown = Some(shown.clone());
        }
        let (state, readiness, reason) = shown;
        let setting = self.hands.setting();
        let saved = self.engine.saved();
        let (peer, is_contact) = self.engine.peer();
        let networks = self.hands.networks().into_iter().map(coarse).collect();
        let figures = self.figures.as_ref();
        let snapshot = Snapshot {
            module: setting.module.clone(),
            node: setting.node.clone(),
            config_generation: self.generation,
            state,
            readiness,
            reason,
            since_unix_ms: self.since_unix_ms,
            maintenance_until_unix_ms: self.maintenance_until_unix_ms,
            flag: saved.flag,
            is_up_to_date: self.engine.is_up_to_date(),
            epoch: saved.epoch,
            gen_id: saved.gen_id,
            session: saved.session,
            in_sync: saved.in_sync.clone(),
            vips_held: self.vips_held.clone(),
            replication: if setting.data.is_some() { self.engine.replication() } else { Replication::None },
            // Figures are polled: of one that has ended they may still speak for a moment.
            resync: figures.filter(|_| self.engine.replication() == Replication::Resync).and_then(|f| f.resync.clone()),
            traffic: self.traffic,
            verification: Verification {
                running: figures.and_then(|f| f.verifying.clone()),
                last: self.verifications.last.clone(),
                unrepaired: figures.map_or(0, |f| f.unrepaired),
            },
            peer: PeerView { node: setting.peer.clone(), in_contact: is_contact, state: peer.map(|p| p.state), networks },
            arbiter: self.hands.arbiter_view(self.engine.arbiter()),
            authority: self.hands.authority(),
            resources: self.engine.resources(),
            allowed: self.engine.allowed(),
        };
        let is_new = self.snapshot.borrow().as_ref() != Some(&snapshot);
        if is_new {
            self.reports.board.put(&snapshot);
            self.reports.console.snapshot(snapshot.clone());
            self.snapshot.send_replace(Some(snapshot));
        }
    }
}

/// Round trips jitter with every beat; a person needs their order of magnitude, and the console no news of jitter.
fn coarse(network: NetworkView) -> NetworkView {
    let round = |us: u64| match us {
        0..=1_000 => 1_000,
        1_001..=10_000 => us.div_ceil(5_000) * 5_000,
        _ => us.div_ceil(50_000) * 50_000,
    };
    NetworkView { rtt_us: network.rtt_us.map(round), ..network }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

fn unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

async fn sleep_until(at_ns: Option<u64>) {
    match at_ns {
        None => std::future::pending().await,
        Some(at) => {
            let left = at.saturating_sub(boottime_ns());
            if left > 0 {
                tokio::time::sleep(Duration::from_nanos(left)).await;
            }
        }
    }
}
