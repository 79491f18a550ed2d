//! Carries the engine's effects out on this machine.
//!
//! One value per module; it owns the doers. Effects that take long only start something, whose end comes back to
//! the runner's inbox as `Done`; [`Hands::save`] is waited for.

mod application;

use crate::arbiter::Arbiter;
use crate::cgroup::{Cgroups, Group};
use crate::clock::boottime_ns;
use crate::guard::{Guard, Right};
use crate::kept::Kept;
use crate::link::{Link, LinkConfig, LinkEvent};
use crate::rfs::handle::{DataConfig, DataEvent, DataProcess};
use crate::runner::Inbox;
use crate::script::{self, ScriptCall};
use crate::store::RecordFile;
use crate::vip::{Conflicts, Raise, Vips};
use application::Application;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tsugi_core::engine::{self, Input, Outcome, Saved, ScriptRun, VipPlan};
use tsugi_core::ids::{JobId, Lsn, ModuleName, NodeName};
use tsugi_core::module::{Authority, ModuleDef, ScriptName, User};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::ReplicaFigures;
use tsugi_core::state::{ArbiterView, AuthorityView, NetworkView, Reason};
use tsugi_core::wire::arbiter::ArbiterRequest;
use tsugi_core::wire::peer::Status;

/// Everything that is fixed while a configuration is in force.
#[derive(Clone)]
pub struct Setting {
    /// Module.
    pub module: ModuleName,
    /// This node.
    pub node: NodeName,
    /// The other one; absent in a module of one node.
    pub peer: Option<NodeName>,
    /// Cluster name.
    pub cluster: String,
    /// Definition.
    pub def: ModuleDef,
    /// Heartbeats; absent where there is no other node.
    pub link: Option<LinkConfig>,
    /// Data process; absent = nothing is replicated.
    pub data: Option<DataConfig>,
    /// `modules/M/active`.
    pub active_dir: PathBuf,
    /// `modules/M/log`.
    pub log_dir: PathBuf,
    /// State directory of the agent, for scripts.
    pub state_dir: PathBuf,
    /// Run directory of the agent: its socket, and the commands that scripts find.
    pub run_dir: PathBuf,
    /// This program, to start the data process from.
    pub exe: PathBuf,
    /// Control groups of this agent.
    pub cgroups: Cgroups,
    /// Guard of this node; absent where none can be had, and for a module that needs no right to serve.
    pub guard: Option<Arc<Guard>>,
}

/// The doers of one module.
pub struct Hands {
    setting: Setting,
    inbox: mpsc::Sender<Inbox>,
    record: RecordFile,
    link: Option<Link>,
    /// Absent where nobody has to be asked.
    arbiter: Option<Arbiter>,
    /// Whether it answered when it was last asked.
    is_answering: watch::Sender<Option<bool>>,
    /// The look at the arbiter, and the request under way: both end with the module.
    looking: Option<AbortHandle>,
    asking: Option<AbortHandle>,
    vips: Vips,
    is_vip_wanted: bool,
    data: Option<DataProcess>,
    /// Dead mounts over the directories, of a data process that died or was told to abandon them: they go when nothing of
    /// the application runs any more.
    is_covered: Arc<AtomicBool>,
    data_events: mpsc::Sender<DataEvent>,
    /// Messages of this data process that the engine knows.
    heard: u64,
    /// Scripts that run, to be ended before their time.
    cancels: BTreeMap<JobId, oneshot::Sender<()>>,
    /// What the data process may do; repeated to a new process.
    deadline_ns: Option<u64>,
    application: Application,
}

/// What a former life of this agent left running, and the next one goes on with.
pub struct Former {
    /// How it stood.
    pub kept: Kept,
    /// Its data process; absent = nothing is replicated.
    data: Option<DataProcess>,
    data_events: (mpsc::Sender<DataEvent>, mpsc::Receiver<DataEvent>),
}

impl Former {
    /// Takes over what there is, if it is as it was kept and may go on. `Err`: why not; then it is to be cleared away.
    pub async fn take_over(setting: &Setting, kept: Kept) -> Result<Former, String> {
        if u128::from(kept.keep_ms) != setting.def.heart.timing.keep.as_millis() {
            return Err("its promises were of another length".to_owned());
        }
        if !kept.guard.is_there() {
            return Err("nobody has looked after it meanwhile: its guard is gone".to_owned());
        }
        let limits = setting.def.user.as_ref().map(|u| u.limits).unwrap_or_default();
        let group = setting.cgroups.group(&setting.module, &limits).map_err(|e| e.to_string())?;
        if group.is_some_and(|g| g.is_freezing()) {
            return Err("it is frozen: its right to serve has ended".to_owned());
        }
        let (events, heard) = mpsc::channel(QUEUE_MAX);
        let data = match (&setting.data, kept.data) {
            (Some(config), Some(name)) => {
                let attached = DataProcess::attach(config.clone(), name, kept.heard, events.clone()).await;
                Some(attached.map_err(|e| format!("{e:#}"))?)
            }
            (None, None) => None,
            _ => return Err("it has another configuration".to_owned()),
        };
        let former = Former { kept, data, data_events: (events, heard) };
        if former.kept.engine.is_serving() && !Right::of_deadline(former.deadline_ns()).holds(boottime_ns()) {
            return Err("its right to serve has ended".to_owned());
        }
        Ok(former)
    }

    /// Until when it may serve.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.data.as_ref().map_or(self.kept.deadline_ns, DataProcess::deadline)
    }
}

/// A module of whose former life nothing is left, with its heartbeats open.
pub struct Cleared {
    application: Application,
    vips: Vips,
    link: Option<(Link, mpsc::Receiver<LinkEvent>)>,
}

/// Stops what a former life of this module left where it stands. To be called while the guard of that life still looks
/// after it: from its end to [`Hands::clear`] nobody would see the end of the right to serve.
pub fn hold(setting: &Setting) {
    // A module without a peer needs no right, and gets time to end.
    if setting.peer.is_none() {
        return;
    }
    let limits = setting.def.user.as_ref().map(|u| u.limits).unwrap_or_default();
    let Ok(Some(group)) = setting.cgroups.group(&setting.module, &limits) else { return };
    if group.is_populated() {
        tracing::info!(module.name = %setting.module, "module {} was running when the former agent ended; it is frozen, then ended", setting.module);
        if let Err(error) = group.freeze() {
            tracing::error!(module.name = %setting.module, %error, "what an earlier life of module {} left cannot be frozen", setting.module);
        }
    }
}

/// Takes away the addresses that a former life of this module left, once nobody renews them any more.
pub async fn drop_addresses(setting: &Setting) {
    // What fails is tried again, and told, when the module is taken up.
    let _ = Vips::new(setting.def.vips.clone()).drop_all().await;
}

/// Events of the data process and beats wait here when the runner is busy; a full queue slows their senders down.
/// A script that only tells of a change holds a take-over up for no longer than this.
const TRANSITION_MAX: Duration = Duration::from_secs(10);
const QUEUE_MAX: usize = 256;

impl Hands {
    /// Clears what an earlier life left (processes, addresses) and opens the heartbeats. `Err`: what is in the way; it may
    /// be tried again.
    pub async fn clear(setting: &Setting) -> Result<Cleared, Reason> {
        // The engine begins by giving its former role up: nothing of that life may be left to acknowledge anything.
        if let Some(data) = &setting.data {
            DataProcess::end_earlier(data).await.map_err(|e| Reason::Unkillable { detail: format!("{e:#}") })?;
        }
        let application = Application::take_up(setting).await;
        if let Some(data) = &setting.data {
            DataProcess::hold(data).await.map_err(|e| Reason::DataUnusable { detail: format!("{e:#}") })?;
        }
        let mut vips = Vips::new(setting.def.vips.clone());
        if let Err(e) = vips.drop_all().await {
            tracing::warn!(module.name = %setting.module, error = %e, "an address left by an earlier life could not be removed");
        }
        Ok(Cleared { application, vips, link: Hands::listen(setting).await? })
    }

    /// Opens the heartbeats of a module that goes on, whose former life is left as it is.
    pub async fn go_on(setting: &Setting) -> Result<Cleared, Reason> {
        let link = Hands::listen(setting).await?;
        let application = Application::go_on(setting).await;
        Ok(Cleared { application, vips: Vips::new(setting.def.vips.clone()), link })
    }

    async fn listen(setting: &Setting) -> Result<Option<(Link, mpsc::Receiver<LinkEvent>)>, Reason> {
        Ok(match setting.link.clone() {
            Some(config) => {
                let (tx, heard) = mpsc::channel(QUEUE_MAX);
                let link = Link::start(config, tx).await;
                let in_the_way =
                    |e| Reason::CheckFailed { resource: "heartbeat".to_owned(), detail: format!("{:#}", anyhow::Error::from(e)) };
                Some((link.map_err(in_the_way)?, heard))
            }
            None => None,
        })
    }

    /// The hands of a module whose former life is cleared away, or goes on in this one.
    pub fn new(
        setting: Setting,
        cleared: Cleared,
        former: Option<Former>,
        inbox: mpsc::Sender<Inbox>,
        record: RecordFile,
        arbiter: Option<Arbiter>,
    ) -> Hands {
        let deadline_ns = former.as_ref().map_or(Some(0), Former::deadline_ns);
        let is_vip_wanted = former.as_ref().is_some_and(|f| f.kept.engine.is_serving());
        let heard = former.as_ref().map_or(0, |f| f.kept.heard);
        let (data, (data_events, mut data_rx)) = former.map_or_else(|| (None, mpsc::channel(QUEUE_MAX)), |f| (f.data, f.data_events));
        let to_runner = inbox.clone();
        tokio::spawn(async move {
            while let Some(event) = data_rx.recv().await {
                let message = match event {
                    DataEvent::Answer(job, answer) => Inbox::Input(Input::Done(job, Outcome::Replica(answer))),
                    DataEvent::Note(note) => Inbox::Input(Input::Replica(note)),
                    DataEvent::Verified(what) => Inbox::Verified(what),
                };
                if to_runner.send(message).await.is_err() {
                    return;
                }
            }
        });
        let link = cleared.link.map(|(link, mut heard)| {
            let to_runner = inbox.clone();
            tokio::spawn(async move {
                while let Some(LinkEvent::Heard(heard)) = heard.recv().await {
                    if to_runner.send(Inbox::Heard(Box::new(heard))).await.is_err() {
                        return;
                    }
                }
            });
            link
        });
        let mut hands = Hands {
            setting,
            inbox,
            record,
            link,
            arbiter,
            is_answering: watch::channel(None).0,
            looking: None,
            asking: None,
            vips: cleared.vips,
            is_vip_wanted,
            data,
            is_covered: Arc::default(),
            data_events,
            heard,
            cancels: BTreeMap::new(),
            deadline_ns,
            application: cleared.application,
        };
        hands.application.set_deadline(deadline_ns);
        hands.look_at_arbiter();
        hands
    }

    /// The addresses of a module that goes on are up: the guard of this life is to keep them alive.
    pub async fn keep_addresses(&self) {
        if self.is_vip_wanted {
            self.application.keep_addresses(&self.vips).await;
        }
    }

    /// What a next life needs to know of what is carried out here; `None`: it could not go on.
    pub fn kept(&self, generation: u64, engine: engine::Kept) -> Option<Kept> {
        let guard = self.setting.guard.as_ref().filter(|_| self.application.is_kept())?.name()?;
        let data = match (&self.setting.data, &self.data) {
            (Some(_), Some(data)) => Some(data.name()?),
            (None, None) => None,
            _ => return None,
        };
        let life = self.setting.link.as_ref()?.life;
        let kept = Kept { data, heard: self.heard, ..Kept::new(generation, life, engine, guard, self.setting.def.heart.timing.keep) };
        Some(if data.is_some() { kept } else { Kept { deadline_ns: self.deadline_ns, ..kept } })
    }

    /// A message of the data process has reached the engine, or whom it concerns.
    pub fn heard(&mut self) {
        self.heard += 1;
    }

    /// Its loss must be seen before it is needed.
    fn look_at_arbiter(&mut self) {
        let (Some(arbiter), is_answering) = (self.arbiter.clone(), self.is_answering.clone()) else { return };
        let look = tokio::spawn(async move {
            while let Some(is_ready) = arbiter.is_ready().await {
                is_answering.send_replace(Some(is_ready));
                tokio::time::sleep(arbiter.look_every()).await;
            }
        });
        self.looking = Some(look.abort_handle());
    }

    /// Who lets this node go on without its peer.
    pub fn authority(&self) -> AuthorityView {
        self.arbiter.as_ref().map(|a| a.view().clone()).unwrap_or_default()
    }

    /// Whether it answers. The engine asks only when it needs something; this also looks in between.
    pub fn arbiter_view(&self, engines: ArbiterView) -> ArbiterView {
        match (self.arbiter.as_ref().map(|a| a.view().kind), *self.is_answering.borrow()) {
            (None | Some(Authority::Manual | Authority::None), _) => ArbiterView::NotNeeded,
            (_, None) => engines,
            (_, Some(true)) => ArbiterView::Reachable,
            (_, Some(false)) => ArbiterView::Unreachable,
        }
    }

    /// What is fixed.
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The record, on disk when this returns `Ok`.
    pub fn save(&mut self, saved: &Saved) -> anyhow::Result<()> {
        let bytes = postcard::to_stdvec(saved)?;
        // A few milliseconds of disk: the runner has nothing else to do before it, and must not do anything else.
        tokio::task::block_in_place(|| self.record.save(&bytes))?;
        if let Some(arbiter) = &self.arbiter {
            arbiter.saved(saved);
        }
        Ok(())
    }

    /// A beat now; its number.
    pub fn send(&self, status: Status) -> Option<u64> {
        self.link.as_ref().map(|link| link.send(status))
    }

    /// The engine has taken this beat into account.
    pub fn processed(&self, heard: &crate::link::Heard) {
        if let Some(arbiter) = &self.arbiter {
            arbiter.heard(&heard.status);
        }
        if let Some(link) = &self.link {
            link.processed(heard);
        }
    }

    /// Boot clock just before beat `seq` was sent.
    pub fn sent_ns(&self, seq: u64) -> Option<u64> {
        self.link.as_ref().and_then(|link| link.sent_ns(seq))
    }

    /// Heartbeat networks.
    pub fn networks(&self) -> Vec<NetworkView> {
        self.link.as_ref().map(Link::networks).unwrap_or_default()
    }

    /// Until when the module may serve: the data process acknowledges nothing after it, and the guard freezes the
    /// application; `None` = no promise needed.
    pub fn set_deadline(&mut self, until_ns: Option<u64>) {
        self.deadline_ns = until_ns;
        self.application.set_deadline(until_ns);
        if let Some(data) = &self.data {
            data.set_deadline(until_ns);
        }
    }

    /// The module has this script.
    pub fn has_script(&self, script: ScriptName) -> bool {
        self.setting.def.user.is_some() && self.setting.active_dir.join("bin").join(script.file()).exists()
    }

    /// Starts a script; its end comes as `Done`.
    pub fn run(&mut self, job: JobId, run: ScriptRun) {
        let inbox = self.inbox.clone();
        let Some(user) = &self.setting.def.user else {
            // Without `<user>` no script runs.
            return done(inbox, job, Outcome::Script { code: Some(0), millis: 0 });
        };
        let call = self.call(&run, user);
        let module = self.setting.module.clone();
        let application = self.application.clone();
        self.cancels.retain(|_, cancel| !cancel.is_closed());
        let (cancel, cancelled) = oneshot::channel::<()>();
        self.cancels.insert(job, cancel);
        tokio::spawn(async move {
            let cancelled = async {
                if cancelled.await.is_err() {
                    std::future::pending().await
                }
            };
            application.prepare_script().await;
            let mut end = script::run_until(call, cancelled).await;
            if run.is_forced
                && let Err(why) = application.kill_started(run.script).await
            {
                // Whatever the script said: what it should have ended is still there.
                (end.code, end.last_line) = (None, why);
            }
            if end.code != Some(0) {
                tracing::warn!(module.name = %module, script = run.script.file(), code = ?end.code, last = %end.last_line, "script {} of module {module} failed: {}", run.script.file(), end.last_line);
            }
            let _ = inbox.send(Inbox::ScriptSaid { script: run.script, code: end.code, text: end.last_line }).await;
            let _ = inbox.send(Inbox::Input(Input::Done(job, Outcome::Script { code: end.code, millis: end.millis }))).await;
        });
    }

    /// Ends a script that another one replaces, with everything it started.
    pub fn cancel(&mut self, job: JobId) {
        // The receiver is gone when the script has ended by itself.
        if let Some(cancel) = self.cancels.remove(&job) {
            let _ = cancel.send(());
        }
    }

    /// Ends everything the module's scripts started and left; the answer is the proof, or who is left. What an init
    /// system runs for the module is not among it.
    pub fn kill_application(&self, job: JobId) {
        let (inbox, application) = (self.inbox.clone(), self.application.clone());
        let (data, is_covered) = (self.setting.data.clone(), self.is_covered.clone());
        tokio::spawn(async move {
            let result = application.kill().await.map(drop);
            if result.is_ok() {
                close_directories(data.as_ref(), &is_covered).await;
            }
            let _ = inbox.send(Inbox::Input(Input::Done(job, Outcome::Killed(result)))).await;
        });
    }

    /// Control group of the module.
    pub fn group(&self) -> Option<&Group> {
        self.application.group()
    }

    /// Environment of everything the module's files run in.
    pub fn environment(&self) -> BTreeMap<String, String> {
        application::environment(&self.setting)
    }

    fn call(&self, run: &ScriptRun, user: &User) -> ScriptCall {
        let s = &self.setting;
        let bin = s.active_dir.join("bin");
        let mut args: Vec<String> = Vec::new();
        if run.is_forced {
            args.push("force".into());
        }
        args.extend([run.from.word().to_owned(), run.to.word().to_owned(), run.action.to_owned()]);
        let timeout = match (run.script.is_stop(), run.is_forced) {
            _ if run.script == ScriptName::Transition => user.start_timeout.min(TRANSITION_MAX),
            (false, _) => user.start_timeout,
            (true, false) => user.stop_timeout,
            (true, true) => user.force_timeout,
        };
        ScriptCall {
            script: run.script,
            file: bin.join(run.script.file()),
            args,
            env: application::environment_of_script(s, run.script),
            cwd: bin,
            timeout,
            log_dir: s.log_dir.clone(),
            group: self.application.group().cloned(),
        }
    }

    /// Stops the application where it stands, or lets it go on. For a module without the right to serve, until it has
    /// it again or its stop scripts run, which let it go on by themselves.
    pub async fn freeze(&self, is_frozen: bool) {
        if let Err(why) = self.application.freeze(is_frozen).await {
            tracing::error!(module.name = %self.setting.module, is_frozen, "module {}: {why}", self.setting.module);
        }
    }

    /// How the addresses are raised now.
    fn raise(&self) -> Raise {
        Raise { lifetime: Some(self.application.lifetime(self.deadline_ns)), conflicts: Conflicts::Override }
    }

    /// Raises or drops the addresses. Done when it returns: the next effect must not begin before.
    pub async fn vip(&mut self, plan: VipPlan) -> Result<Vec<IpAddr>, String> {
        self.is_vip_wanted = plan == VipPlan::Raise;
        let result = match plan {
            VipPlan::Raise => self.vips.raise(self.raise()).await,
            VipPlan::Drop => {
                self.application.forget_addresses().await;
                self.vips.drop_all().await
            }
        };
        if plan == VipPlan::Raise && result.is_ok() {
            self.application.keep_addresses(&self.vips).await;
        }
        result.map_err(|e| e.to_string())
    }

    /// Looks after the addresses; called about twice a second while they are wanted. The guard keeps them alive; without
    /// a guard it is done here.
    pub async fn renew_vips(&mut self) {
        // A deadline that has passed is not noticed here first: nothing may come back that the guard has taken away.
        if !self.is_vip_wanted || !Right::of_deadline(self.deadline_ns).holds(boottime_ns()) {
            return;
        }
        let is_complete = if self.application.is_guarded() {
            let held = self.vips.held().await;
            self.setting.def.vips.iter().all(|v| held.contains(&v.addr))
        } else {
            match self.vips.renew(self.application.lifetime(self.deadline_ns)).await {
                Ok(lost) => lost.is_empty(),
                Err(e) => {
                    tracing::warn!(module.name = %self.setting.module, error = %e, "the addresses could not be renewed");
                    false
                }
            }
        };
        if is_complete {
            return;
        }
        // This node holds the right to serve, so an address that ran out (a stalled guard) comes back.
        match self.vips.raise(self.raise()).await {
            Ok(_) => self.application.keep_addresses(&self.vips).await,
            Err(e) => {
                tracing::error!(module.name = %self.setting.module, error = %e, "an address of module {} could not be raised: {e}", self.setting.module);
            }
        }
    }

    /// The peer may have been cut off from the announcements: say again who holds the addresses.
    pub fn announce(&self) {
        if self.is_vip_wanted {
            self.vips.announce();
        }
    }

    /// Addresses of the module on this node's interfaces.
    pub async fn vips_held(&self) -> Vec<IpAddr> {
        self.vips.held().await
    }

    /// Orders the data process, which is started when there is none.
    pub async fn replica(&mut self, job: JobId, order: ReplicaOrder) {
        let Some(config) = self.setting.data.clone() else {
            return self.replica_without_data(job, &order);
        };
        if self.data.is_none() {
            let is_nothing_to_end =
                matches!(order, ReplicaOrder::CloseSession { .. } | ReplicaOrder::Abandon { .. } | ReplicaOrder::GoAlone { .. });
            if is_nothing_to_end {
                return done(self.inbox.clone(), job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) }));
            }
            match DataProcess::spawn(&self.setting.exe, config, self.data_events.clone()).await {
                Ok(data) => {
                    data.set_deadline(self.deadline_ns);
                    (self.data, self.heard) = (Some(data), 0);
                }
                Err(e) => {
                    let answer = ReplicaAnswer::Failed { detail: format!("{e:#}") };
                    return done(self.inbox.clone(), job, Outcome::Replica(answer));
                }
            }
        }
        match order {
            // It leaves its mounts, dead.
            ReplicaOrder::Abandon { .. } => self.is_covered.store(true, Ordering::Release),
            // It takes them away itself.
            ReplicaOrder::Serve { .. } | ReplicaOrder::Follow { .. } => self.is_covered.store(false, Ordering::Release),
            _ => {}
        }
        if let Some(data) = &self.data {
            data.order(job, order);
        }
    }

    /// A module that replicates nothing is always level.
    fn replica_without_data(&self, job: JobId, order: &ReplicaOrder) {
        let inbox = self.inbox.clone();
        let note = match order {
            ReplicaOrder::Offer { session, .. } => Some(ReplicaNote::Armed { session: *session }),
            ReplicaOrder::Follow { session, .. } => Some(ReplicaNote::Level { session: *session }),
            _ => None,
        };
        done(inbox.clone(), job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) }));
        if let Some(note) = note {
            tokio::spawn(async move { inbox.send(Inbox::Input(Input::Replica(note))).await });
        }
    }

    /// The data process is gone: the next order starts a new one. The application gets errors from now on; what lies below
    /// the dead mount it gets never.
    pub fn forget_data(&mut self) {
        if let Some(mut data) = self.data.take() {
            data.end();
            self.is_covered.store(true, Ordering::Release);
        }
    }

    /// Lets others write to the directories of this module, which is stopped.
    pub async fn open_directories(&mut self) -> anyhow::Result<()> {
        self.forget_data();
        self.is_covered.store(false, Ordering::Release);
        match &self.setting.data {
            Some(data) => DataProcess::open(data).await,
            None => Ok(()),
        }
    }

    /// Has the data process compare the two copies. False: there is none.
    pub fn verify(&self) -> bool {
        self.data.as_ref().is_some_and(DataProcess::verify)
    }

    /// Has what it found repaired.
    pub fn repair(&self) {
        if let Some(data) = &self.data {
            data.repair();
        }
    }

    /// See [`DataProcess::noted`]; `None` as well where no data process runs.
    pub fn noted(&self) -> Option<oneshot::Receiver<Option<Vec<String>>>> {
        self.data.as_ref().and_then(DataProcess::noted)
    }

    /// Asks for the figures of the data process.
    pub fn ask_figures(&self) -> Option<oneshot::Receiver<ReplicaFigures>> {
        self.data.as_ref().and_then(DataProcess::ask_figures)
    }

    /// Figures of the data process.
    pub async fn figures(&self) -> Option<ReplicaFigures> {
        match &self.data {
            Some(data) => data.figures().await,
            None => None,
        }
    }

    /// Asks the arbiter; the answer comes as `Done`.
    pub fn ask(&mut self, job: JobId, request: ArbiterRequest) {
        let Some(arbiter) = self.arbiter.clone() else {
            return done(self.inbox.clone(), job, Outcome::Arbiter(None));
        };
        let (inbox, module) = (self.inbox.clone(), self.setting.module.clone());
        let is_answering = self.is_answering.clone();
        // The engine has one request at a time: of an earlier one nobody wants the answer any more, nor its fencing.
        if let Some(earlier) = self.asking.take() {
            earlier.abort();
        }
        let asking = tokio::spawn(async move {
            let answer = arbiter.ask(&request).await;
            if arbiter.view().kind == Authority::Arbiter {
                is_answering.send_replace(Some(answer.is_ok()));
            }
            let answer = match answer {
                Ok(answer) => Some(answer),
                Err(e) => {
                    tracing::warn!(module.name = %module, error = %e, "the arbiter gave no answer for module {module}: {e}");
                    None
                }
            };
            let _ = inbox.send(Inbox::Input(Input::Done(job, Outcome::Arbiter(answer)))).await;
        });
        self.asking = Some(asking.abort_handle());
    }

    /// Leaves service without asking anybody: no acknowledgement, no address, no process of the module.
    pub async fn give_up(&mut self) {
        self.set_deadline(Some(0));
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.forget_data();
        self.is_vip_wanted = false;
        self.application.forget_addresses().await;
        if let Err(e) = self.vips.drop_all().await {
            tracing::error!(module.name = %self.setting.module, error = %e, "an address could not be removed; the kernel drops it at the end of its lifetime");
        }
        if let Err(why) = self.application.kill().await {
            tracing::error!(module.name = %self.setting.module, "module {} is not wholly stopped: {why}", self.setting.module);
            // What cannot be ended is at least to do nothing.
            self.freeze(true).await;
            return;
        }
        close_directories(self.setting.data.as_ref(), &self.is_covered).await;
    }
}

/// Takes away the mounts of a dead data process, if there are any, and lets nobody write below. Nothing of the application
/// runs.
async fn close_directories(data: Option<&DataConfig>, is_covered: &AtomicBool) {
    if let Some(data) = data
        && is_covered.swap(false, Ordering::AcqRel)
        && let Err(error) = DataProcess::hold(data).await
    {
        tracing::warn!(module.name = %data.module, error = format!("{error:#}"), "a mount of a dead data process is left");
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        for task in [self.looking.take(), self.asking.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

fn done(inbox: mpsc::Sender<Inbox>, job: JobId, outcome: Outcome) {
    // Never blocks the runner on its own inbox.
    tokio::spawn(async move { inbox.send(Inbox::Input(Input::Done(job, outcome))).await });
}
