//! The set of modules of a node: keep, stop, start; and the two who may order, console and command line.

use crate::arbiter::{Arbiter, Arbiters, Place};
use crate::cgroup::Cgroups;
use crate::checker::{self, Board};
use crate::commands;
use crate::config::{AgentConfig, Identity};
use crate::console::{ConsoleLink, FromConsole, HelloInfo};
use crate::guard::{Act, Guard, Note, WatchdogWish};
use crate::hands::{self, Former, Setting};
use crate::kept::{self, Kept};
use crate::link::{LinkConfig, LinkNetwork};
use crate::local::{LocalServer, Responder};
use crate::rfs::excluded;
use crate::rfs::handle::DataConfig;
use crate::runner::{Candidate, Reports, RunnerHandle, as_left};
use crate::store::{ClusterFile, RecordLoad, Store};
use anyhow::Context;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tsugi_core::command::{BY_AGENT, Command, Refusal};
use tsugi_core::engine::{Engine, Light, LightConfig, Mirror, MirrorConfig, Saved};
use tsugi_core::event::{Event, GuardAct};
use tsugi_core::ids::{LifeId, ModuleName, NodeName};
use tsugi_core::module::depends::{self, Dependencies};
use tsugi_core::module::xml::{self, ParseContext, Problem};
use tsugi_core::module::{Boot, Mode, ModuleDef, ScriptName};
use tsugi_core::rehearsal::Rehearsal;
use tsugi_core::state::{Flag, Readiness, Snapshot, State};
use tsugi_core::wire::console::Deployment;
use tsugi_core::wire::local::{Reply, Request};

/// Orders of the console and requests of the command line that may wait.
const QUEUE_MAX: usize = 256;
/// A module that has been taken up says how it stands within this time.
const FIRST_STATE_MAX: Duration = Duration::from_secs(2);
/// The orderly stop of all modules. With what follows it is less than systemd's default patience of 90 s.
const SHUTDOWN_MAX: Duration = Duration::from_secs(72);
/// Then modules that are not out leave service by force: SIGTERM, 3 s, SIGKILL, and at most 5 s for the proof.
const FORCED_MAX: Duration = Duration::from_secs(12);
/// A module that is to come to rest, so that this program can be replaced, does within this time; looked at this often.
const REST_MAX: Duration = Duration::from_secs(30);
const REST_EVERY: Duration = Duration::from_millis(100);
/// First heartbeat port; each module has the next one.
const HEARTBEAT_PORT: u16 = 8888;
/// First replication port; each module has the next four.
const REPLICATION_PORT: u16 = 5600;
/// Replies of a `Watch` are sent at most this often.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// The agent of a node.
pub struct Agent {
    /// Where this program was started from.
    exe: PathBuf,
    config: AgentConfig,
    identity: Identity,
    store: Store,
    life: LifeId,
    console: ConsoleLink,
    arbiters: Arc<Arbiters>,
    runners: BTreeMap<ModuleName, RunnerHandle>,
    cluster: Option<ClusterFile>,
    /// How the modules stand, for one another's checkers.
    board: Board,
    /// Which of them depends on which.
    depends: Dependencies,
    cgroups: Cgroups,
    guard: Option<Arc<Guard>>,
    /// Modules that go on as the former life left them.
    formers: BTreeMap<ModuleName, Former>,
}

/// Runs the agent until SIGTERM or SIGINT, then stops the modules in order.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    // First: a signal that comes while modules are taken over must not end this process as if it were killed.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    // And while the program is still where it was started from: an upgrade takes it away.
    let exe = std::env::current_exe().context("find this program's own file")?;
    let identity = Identity::load(&config.state_dir)?;
    let store = Store::open(&config.state_dir)?;
    let life = LifeId(rand::random());
    let (console_tx, mut console_rx) = mpsc::channel(QUEUE_MAX);
    let hello = HelloInfo { agent_version: env!("CARGO_PKG_VERSION").to_owned(), boot: life, os: os_name() };
    let console = ConsoleLink::start(&identity, hello, store.events().clone(), console_tx)?;
    let (local_tx, mut local_rx) = mpsc::channel(QUEUE_MAX);
    let _local = LocalServer::start(&config.socket(), local_tx)?;
    if let Err(e) = commands::offer(&config.run_dir, &exe) {
        tracing::error!(error = %e, "the commands for scripts could not be put into {}: {e}", config.run_dir.display());
    }
    let arbiters = Arc::new(Arbiters::new(&identity)?);
    let cluster = store.cluster()?;
    if let Some(cluster) = &cluster {
        arbiters.set_cluster(&cluster.cluster);
    }
    crate::procfs::protect_from_oom();
    let cgroups = Cgroups::open(&identity.node, &config.state_dir);
    let (notes_tx, mut notes_rx) = mpsc::channel(QUEUE_MAX);
    tracing::info!(node.name = %identity.node, cluster.name = %identity.cluster, "agent of node {} starts", identity.node);
    let mut agent = Agent {
        exe,
        config,
        identity,
        store,
        life,
        console,
        arbiters,
        runners: BTreeMap::new(),
        cluster,
        board: Board::default(),
        depends: Dependencies::new(),
        cgroups,
        guard: None,
        formers: BTreeMap::new(),
    };
    let deployments = agent.store.deployments()?;
    // At the same time: one that hangs must not cost the others their right.
    let found = futures_util::future::join_all(deployments.iter().map(|d| agent.former(d))).await;
    let found = deployments.iter().zip(found).filter_map(|(d, former)| Some((d.module.clone(), former?)));
    agent.formers = found.collect();
    // They look at one another before each of them has said how it stands.
    agent
        .formers
        .iter()
        .filter_map(|(module, former)| agent.as_left(deployments.iter().find(|d| d.module == *module)?, former))
        .for_each(|row| agent.board.put(&row));
    // All of them first, because the guard of the former life ends now, and taking a module up takes time.
    let begins_anew = deployments.iter().filter(|d| !agent.formers.contains_key(&d.module));
    let leftover: Vec<Setting> = begins_anew.filter_map(|d| agent.setting(d, agent.definition(d).ok()?).ok()).collect();
    leftover.iter().for_each(hands::hold);
    agent.guard = start_guard(&agent.config, &agent.exe, notes_tx).await;
    if agent.guard.is_none() {
        // Nobody would see the end of their right.
        agent.give_formers_up();
    }
    // Those that go on first: the guard of this life has them from then on.
    let (go_on, begin): (Vec<_>, Vec<_>) = deployments.into_iter().partition(|d| agent.formers.contains_key(&d.module));
    agent.start_modules(&go_on);
    futures_util::future::join_all(leftover.iter().map(hands::drop_addresses)).await;
    agent.start_modules(&begin);
    agent.give_formers_up();
    agent.tell_versions();
    // Whether the modules have come to rest is looked at until then; absent = nobody has asked for it.
    let mut replaced_by: Option<Instant> = None;
    let mut look = tokio::time::interval(REST_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(order) = console_rx.recv() => agent.on_console(order).await,
            Some((request, responder)) = local_rx.recv() => agent.on_local(request, responder),
            Some(note) = notes_rx.recv() => agent.on_guard(note),
            _ = hangup.recv() => {
                tracing::info!("this program is to be replaced by the one that is installed");
                replaced_by = Some(Instant::now() + REST_MAX);
            }
            _ = look.tick(), if replaced_by.is_some() => {
                // What takes time comes before the look.
                agent.store.events().flush();
                let busy = agent.busy();
                if busy.is_empty() {
                    let error = agent.replace();
                    tracing::error!(program = %agent.exe.display(), %error, "the installed program cannot be started; this one goes on: {error}");
                    replaced_by = None;
                } else if replaced_by.is_some_and(|until| until < Instant::now()) {
                    tracing::error!("this program is not replaced, and goes on: {} would be stopped for it (something is under way there, or it is a light module, or has no guard). Reload again when all is green; a module that is green and still named has to be stopped first, or restart the agent", list(&busy));
                    replaced_by = None;
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    agent.shut_down().await;
    Ok(())
}

impl Agent {
    fn start_modules(&mut self, deployments: &[Deployment]) {
        for deployment in deployments {
            if let Err(e) = self.start_module(deployment) {
                tracing::error!(module.name = %deployment.module, error = %format!("{e:#}"), "module {} cannot be taken up: {e:#}", deployment.module);
            }
        }
    }

    /// What goes on and could not be taken up after all is not waited for.
    fn give_formers_up(&mut self) {
        for (module, _) in std::mem::take(&mut self.formers) {
            if let Err(e) = kept::remove(&self.config.run_dir, &module) {
                tracing::error!(module.name = %module, error = %e, "what was kept of module {module} cannot be taken away: {e}");
            }
        }
    }

    /// How a module that goes on was left.
    fn as_left(&self, deployment: &Deployment, former: &Former) -> Option<Snapshot> {
        let setting = self.setting(deployment, self.definition(deployment).ok()?).ok()?;
        Some(as_left(&gone_on(&setting, former), &setting))
    }

    async fn on_console(&mut self, order: FromConsole) {
        match order {
            FromConsole::Cluster(cluster) => self.on_cluster(cluster).await,
            FromConsole::Deploy(deployment) => {
                let (module, generation) = (deployment.module.clone(), deployment.generation);
                let problems = self.deploy(deployment).await;
                self.tell_versions();
                if let Some(runner) = self.runners.get(&module).filter(|_| problems.is_empty()) {
                    // The console refuses orders to a module without a state: an order may follow this answer at once.
                    let _ = tokio::time::timeout(FIRST_STATE_MAX, runner.first_snapshot()).await;
                }
                self.console.deploy_done(module, generation, problems);
            }
            FromConsole::Try { id, deployment } => {
                let problems = self.judge(&deployment);
                self.console.try_done(id, problems);
            }
            FromConsole::Remove(module) => {
                let problems = self.remove(&module).await;
                self.tell_versions();
                self.console.deploy_done(module, 0, problems);
            }
            FromConsole::Rehearse { module, command } => {
                let (runner, console) = (self.runners.get(&module).cloned(), self.console.clone());
                tokio::spawn(async move {
                    let id = command.id.clone();
                    console.rehearse_done(id, rehearse(runner, command).await);
                });
            }
            FromConsole::Command { module, command } => {
                let Some(runner) = self.runners.get(&module).cloned() else {
                    return self.console.command_done(command.id, Some(Refusal::NotConfigured));
                };
                let console = self.console.clone();
                tokio::spawn(async move {
                    let id = command.id.clone();
                    let refusal = runner.order(command).await;
                    console.command_done(id, refusal);
                });
            }
        }
    }

    async fn on_cluster(&mut self, cluster: ClusterFile) {
        if self.cluster.as_ref() == Some(&cluster) {
            return;
        }
        if let Err(e) = self.store.put_cluster(&cluster) {
            tracing::error!(error = %e, "the cluster definition could not be stored: {e}");
            return;
        }
        let is_other = self.cluster.as_ref().is_none_or(|c| c.cluster != cluster.cluster || c.heartbeat_key != cluster.heartbeat_key);
        self.arbiters.set_cluster(&cluster.cluster);
        self.cluster = Some(cluster);
        self.tell_versions();
        if is_other {
            self.retry_modules();
        }
    }

    /// Modules that could not be taken up for want of the cluster's definition.
    fn retry_modules(&mut self) {
        let Ok(deployments) = self.store.deployments() else { return };
        for deployment in deployments.into_iter().filter(|d| !self.runners.contains_key(&d.module)).collect::<Vec<_>>() {
            if let Err(e) = self.start_module(&deployment) {
                tracing::error!(module.name = %deployment.module, error = %format!("{e:#}"), "module cannot be taken up");
            }
        }
    }

    /// Every reason against a configuration; changes nothing.
    fn judge(&self, deployment: &Deployment) -> Vec<String> {
        let former = self.store.deployment(&deployment.module).ok().flatten();
        if let Some(former) = &former {
            if former == deployment {
                return Vec::new();
            }
            if former.generation > deployment.generation {
                return vec![format!(
                    "version {} of module {} is in force on {} already; version {} is older and is refused",
                    former.generation, deployment.module, self.identity.node, deployment.generation
                )];
            }
        }
        let mut problems = match self.definition(deployment) {
            Ok(def) => {
                let mut problems = self.problems_here(deployment, &def);
                problems.extend(self.cycle(deployment, &def));
                if problems.is_empty() {
                    problems.extend(self.setting(deployment, def).err().map(|e| format!("{e:#}")));
                }
                problems
            }
            Err(problems) => problems,
        };
        let state = self.runners.get(&deployment.module).map(|r| r.snapshot().map_or(State::Stop, |s| s.state));
        if let Some(state) = state.filter(|s| *s != State::Stop) {
            problems.push(format!(
                "module {} is {} on {}: stop it (`tsugi stop {}`), then apply the configuration",
                deployment.module,
                state.word(),
                self.identity.node,
                deployment.module
            ));
        }
        problems
    }

    /// Takes a configuration, or says every reason against it and changes nothing.
    async fn deploy(&mut self, deployment: Deployment) -> Vec<String> {
        let problems = self.judge(&deployment);
        if !problems.is_empty() || self.store.deployment(&deployment.module).is_ok_and(|d| d.as_ref() == Some(&deployment)) {
            return problems;
        }
        if let Err(e) = self.store.put_deployment(&deployment) {
            return vec![format!("the configuration could not be stored on {}: {e}", self.identity.node)];
        }
        if let Some(runner) = self.runners.remove(&deployment.module) {
            runner.end(false).await;
            runner.ended().await;
        }
        let first = match self.start_module(&deployment) {
            // The loop is gone: the agent ends.
            Ok(first) => first.await.unwrap_or(Ok(())),
            Err(e) => Err(format!("{e:#}")),
        };
        match first {
            Ok(()) => {
                self.store.events().add(&self.identity.node, &deployment.module, Event::Configured { generation: deployment.generation });
                self.console.event_added();
                Vec::new()
            }
            Err(why) => vec![why],
        }
    }

    async fn remove(&mut self, module: &ModuleName) -> Vec<String> {
        if let Some(runner) = self.runners.get(module) {
            let state = runner.snapshot().map_or(State::Stop, |s| s.state);
            if state != State::Stop {
                return vec![format!(
                    "module {module} is {} on {}: stop it first (`tsugi stop {module}`)",
                    state.word(),
                    self.identity.node
                )];
            }
            // Nobody has a reason any more to keep anybody from the directories. A module that replicates nothing says so.
            let _ = runner.ask(Request::Open { module: module.clone(), by: BY_AGENT.to_owned() }).await;
            runner.end(false).await;
            runner.ended().await;
            self.runners.remove(module);
        }
        self.depends.remove(module);
        self.board.remove(module);
        self.console.module_gone(module);
        match self.store.remove_module(module) {
            Ok(()) => Vec::new(),
            Err(e) => vec![format!("module {module} could not be removed on {}: {e}", self.identity.node)],
        }
    }

    fn definition(&self, deployment: &Deployment) -> Result<ModuleDef, Vec<String>> {
        let ctx = ParseContext { cluster: self.cluster.as_ref().map(|c| &c.cluster), nodes: &deployment.nodes };
        let parsed = xml::parse(&deployment.userconfig, &ctx);
        parsed.def.ok_or_else(|| parsed.problems.iter().map(of_userconfig).collect())
    }

    /// What only this node can know.
    fn problems_here(&self, deployment: &Deployment, def: &ModuleDef) -> Vec<String> {
        let mut problems = Vec::new();
        let node = &self.identity.node;
        if def.mode == Mode::Farm || def.mode == Mode::Mirror && deployment.nodes.len() != 2 {
            problems.push(format!(
                "module {}: this release runs mirror modules on exactly two nodes and light modules; choose service mode=\"mirror\" and two nodes, or mode=\"light\"",
                deployment.module
            ));
        }
        let scripts: Vec<&str> = deployment.scripts.keys().map(String::as_str).collect();
        problems.extend(checker::problems(def, &scripts).into_iter().map(|p| format!("{node}: {p}")));
        problems.extend(excluded::problems(def).iter().map(of_userconfig));
        for tree in def.rfs.iter().flat_map(|r| &r.replicated) {
            let path = std::path::Path::new(&tree.dir);
            if !path.is_dir() {
                problems.push(format!(
                    "safe/service/rfs/replicated dir=\"{}\": there is no such directory on {node}; create it there (mkdir -p '{}') and apply again",
                    tree.dir, tree.dir
                ));
                continue;
            }
            for check in &tree.to_check {
                if !path.join(check).exists() {
                    problems.push(format!(
                        "safe/service/rfs/replicated/tocheck path=\"{check}\": not found in {} on {node}; is the file system mounted?",
                        tree.dir
                    ));
                }
            }
        }
        problems
    }

    /// A chain of dependencies that the definition would close.
    fn cycle(&self, deployment: &Deployment, def: &ModuleDef) -> Option<String> {
        let mut all = self.depends.clone();
        all.insert(deployment.module.clone(), def.depends.iter().map(|d| d.module.clone()).collect());
        let chain = depends::cycle(&all)?.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → ");
        Some(format!(
            "safe/service/depends: the modules depend on one another ({chain}), so none of them could start; remove one of the dependencies"
        ))
    }

    /// What a former life of this agent left running of a module, if it may go on. Else nothing of it is kept.
    async fn former(&self, deployment: &Deployment) -> Option<Former> {
        let module = &deployment.module;
        let taken = match Kept::load(&self.config.run_dir, module) {
            Ok(None) => return None,
            Ok(Some(kept)) => self.take_over(deployment, kept).await,
            Err(why) => Err(why),
        };
        match taken {
            Ok(former) => {
                tracing::info!(module.name = %module, "module {module} goes on as the former life of this agent left it");
                Some(former)
            }
            Err(why) => {
                tracing::warn!(module.name = %module, why, "module {module} was running and begins anew: {why}");
                if let Err(e) = kept::remove(&self.config.run_dir, module) {
                    tracing::error!(module.name = %module, error = %e, "what was kept of module {module} cannot be taken away: {e}");
                }
                None
            }
        }
    }

    async fn take_over(&self, deployment: &Deployment, kept: Kept) -> Result<Former, String> {
        if kept.generation != deployment.generation {
            return Err(format!("version {} of its configuration was in force", kept.generation));
        }
        let def = self.definition(deployment).map_err(|problems| problems.join("; "))?;
        let setting = self.setting(deployment, def).map_err(|e| format!("{e:#}"))?;
        let (_, load) = self.store.record(&deployment.module).map_err(|e| e.to_string())?;
        let RecordLoad::Saved(bytes) = load else { return Err("its record cannot be read".to_owned()) };
        if postcard::from_bytes::<Saved>(&bytes).ok().as_ref() != Some(kept.engine.saved()) {
            return Err("its record is another one".to_owned());
        }
        Former::take_over(&setting, kept).await
    }

    /// Begins to take a module up; the answer tells how the first try went. `Err`: it cannot be.
    fn start_module(&mut self, deployment: &Deployment) -> anyhow::Result<oneshot::Receiver<Result<(), String>>> {
        let def = self.definition(deployment).map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
        let mut setting = self.setting(deployment, def)?;
        let former = self.formers.remove(&deployment.module);
        if let (Some(link), Some(former)) = (&mut setting.link, &former) {
            link.life = former.kept.life;
        }
        let (record, load) = self.store.record(&deployment.module)?;
        let saved = match load {
            RecordLoad::Fresh => Saved::default(),
            RecordLoad::Saved(bytes) => postcard::from_bytes(&bytes).unwrap_or_else(|e| {
                tracing::error!(module.name = %deployment.module, error = %e, "the record of module {} has an unknown format: this copy counts as unknown", deployment.module);
                unknown_record()
            }),
            RecordLoad::Damaged { detail } => {
                tracing::error!(module.name = %deployment.module, %detail, "the record of module {} is damaged ({detail}): this copy counts as unknown", deployment.module);
                unknown_record()
            }
        };
        self.depends.insert(deployment.module.clone(), setting.def.depends.iter().map(|d| d.module.clone()).collect());
        let must_start = match setting.def.boot {
            Boot::On => true,
            Boot::Off => false,
            Boot::Auto => saved.is_started,
        };
        let start = (must_start && former.is_none()).then_some(setting.def.boot_delay);
        let arbiter = self.arbiter(&setting, &saved);
        let engine = match &former {
            Some(former) => gone_on(&setting, former),
            None => engine(&setting, saved),
        };
        let reports = Reports { events: self.store.events().clone(), console: self.console.clone(), board: self.board.clone() };
        let candidate = Candidate { engine, setting, record, arbiter, reports, generation: deployment.generation, start, former };
        let (handle, task, first) = candidate.begin();
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            if task.await.is_err() {
                // A node that is wrong about itself must stop: the data processes end with the agent, the addresses run
                // out, the peers take over, and the next life starts clean.
                tracing::error!("a module's engine found itself wrong; the agent ends");
                std::process::abort();
            }
        });
        self.runners.insert(deployment.module.clone(), handle);
        Ok(first)
    }

    /// Who lets this node go on without the peer; none where there is no peer.
    fn arbiter(&self, setting: &Setting, saved: &Saved) -> Option<Arbiter> {
        let place = Place {
            module: setting.module.clone(),
            me: setting.node.clone(),
            peer: setting.peer.clone()?,
            bin_dir: setting.active_dir.join("bin"),
            log_dir: setting.log_dir.clone(),
        };
        Some(Arbiter::new(&self.arbiters, &setting.def, place, saved.clone()))
    }

    fn setting(&self, deployment: &Deployment, def: ModuleDef) -> anyhow::Result<Setting> {
        let module = deployment.module.clone();
        let pair = match def.mode {
            Mode::Light => None,
            Mode::Mirror | Mode::Farm => Some(self.pair(deployment, &def)?),
        };
        // Without a right to serve there is nothing for the guard to see the end of.
        let guard = self.guard.clone().filter(|_| pair.is_some());
        let (peer, link, data) = pair.map_or((None, None, None), |p| (Some(p.peer), Some(p.link), p.data));
        Ok(Setting {
            active_dir: self.store.active_dir(&module),
            log_dir: self.store.log_dir(&module),
            state_dir: self.config.state_dir.clone(),
            run_dir: self.config.run_dir.clone(),
            exe: self.exe.clone(),
            cgroups: self.cgroups.clone(),
            guard,
            module,
            node: self.identity.node.clone(),
            peer,
            cluster: self.identity.cluster.to_string(),
            def,
            link,
            data,
        })
    }

    /// What ties a module to its other node.
    fn pair(&self, deployment: &Deployment, def: &ModuleDef) -> anyhow::Result<Pair> {
        let me = self.identity.node.clone();
        let module = deployment.module.clone();
        let peer = deployment
            .nodes
            .iter()
            .find(|n| **n != me)
            .cloned()
            .with_context(|| format!("module {module} has no second node: choose two nodes for it in the console"))?;
        let cluster =
            self.cluster.as_ref().context("the console has not sent the cluster definition yet; the module is taken up when it does")?;
        let lans: Vec<String> = if def.heart.heartbeats.is_empty() {
            cluster.cluster.lans.iter().map(|l| l.name.clone()).collect()
        } else {
            def.heart.heartbeats.iter().map(|h| h.lan.clone()).collect()
        };
        let index = deployment.module_id.saturating_sub(1);
        let port = def.heart.port.unwrap_or(HEARTBEAT_PORT + index);
        let pairs: Vec<(String, IpAddr, IpAddr)> = lans.iter().filter_map(|name| pair_on(cluster, name, &me, &peer)).collect();
        if pairs.is_empty() {
            anyhow::bail!("no network of the cluster has both {me} and {peer}: add them to a lan in the cluster's configuration");
        }
        let networks = pairs
            .iter()
            .map(|(lan, local, other)| LinkNetwork {
                lan: lan.clone(),
                local: SocketAddr::new(*local, port),
                peer: SocketAddr::new(*other, port),
            })
            .collect();
        let flow = def.heart.heartbeats.iter().find(|h| h.is_flow).map(|h| h.lan.clone());
        let (_, local, other) = flow.and_then(|name| pairs.iter().find(|p| p.0 == name)).unwrap_or(&pairs[0]);
        let replication_port = REPLICATION_PORT + index * 4;
        let data = def.rfs.as_ref().map(|rfs| DataConfig {
            module: module.clone(),
            node: me.clone(),
            peer: peer.clone(),
            cluster: self.identity.cluster.to_string(),
            dirs: rfs.replicated.clone(),
            ack: rfs.ack,
            listen: SocketAddr::new(*local, replication_port),
            connect: SocketAddr::new(*other, replication_port),
            identity_dir: self.config.state_dir.join("identity"),
            run_dir: self.config.run_dir.clone(),
            marks: self.store.log_dir(&module).with_file_name("copies.json"),
            resync_kb_per_s_max: rfs.resync_kb_per_s_max,
            compress: rfs.compress,
            transport: self.config.fuse_transport,
            patience: def.heart.timing.silence,
        });
        let link = LinkConfig {
            module,
            node: me,
            peer: peer.clone(),
            life: self.life,
            key: cluster.heartbeat_key.0,
            networks,
            lost_after: def.heart.timing.silence,
        };
        Ok(Pair { peer, link, data })
    }

    fn tell_versions(&self) {
        let modules = self.store.deployments().unwrap_or_default().into_iter().map(|d| (d.module, d.generation)).collect();
        self.console.set_versions(self.cluster.as_ref().map_or(0, |c| c.generation), modules);
    }

    /// What the guard did, here or in an earlier life of this agent.
    fn on_guard(&self, note: Note) {
        tracing::warn!(module.name = note.module, value = note.value, "the guard: {:?} {}", note.act, note.module);
        let Ok(module) = ModuleName::new(&*note.module) else { return };
        let act = match note.act {
            Act::Froze => GuardAct::Froze { late_ms: u64::try_from(note.value).unwrap_or(0) },
            Act::Thawed => GuardAct::Thawed,
            Act::Killed => GuardAct::Killed { count: u64::try_from(note.value).unwrap_or(0) },
            Act::KillFailed | Act::CannotFreeze | Act::CannotDrop => GuardAct::Failed,
            Act::Starves => GuardAct::Starves,
            Act::CannotRenew | Act::AgentSilent | Act::AgentBack => return,
        };
        if matches!(act, GuardAct::Killed { .. })
            && let Some(runner) = self.runners.get(&module)
        {
            runner.app_ended();
        }
        self.store.events().add(&self.identity.node, &module, Event::Guard { act, acted_unix_ms: note.at_unix_ms });
        self.console.event_added();
    }

    /// Modules that could not go on in another life of this agent: something runs there, and is not at rest.
    fn busy(&self) -> Vec<String> {
        // Out of every role, and not about to take one or to end a script.
        let is_out = |s: &Snapshot| matches!(s.state, State::Stop | State::Wait) && s.readiness != Readiness::Transient;
        let is_busy = |(module, runner): &(&ModuleName, &RunnerHandle)| {
            !runner.snapshot().as_ref().is_some_and(is_out) && !kept::path(&self.config.run_dir, module).exists()
        };
        self.runners.iter().filter(is_busy).map(|(module, _)| module.to_string()).collect()
    }

    /// Puts the installed program in the place of this one. Returns only if that fails.
    fn replace(&self) -> std::io::Error {
        use std::os::unix::process::CommandExt;
        let error = std::process::Command::new(&self.exe).args(std::env::args_os().skip(1)).exec();
        // For the program that did not come it was set back.
        // SAFETY: a plain call.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        error
    }

    // ---- command line ----

    fn on_local(&self, request: Request, responder: Responder) {
        match request {
            Request::State { module } => {
                let asked: Vec<RunnerHandle> =
                    self.runners.iter().filter(|(name, _)| module.as_ref().is_none_or(|m| m == *name)).map(|(_, r)| r.clone()).collect();
                let unknown = module.as_ref().filter(|_| asked.is_empty()).map(|name| self.no_module(name));
                tokio::spawn(async move {
                    let mut snapshots = Vec::new();
                    for runner in asked {
                        snapshots.extend(runner.first_snapshot().await);
                    }
                    responder.send(unknown.unwrap_or(Reply::State { snapshots })).await
                });
            }
            Request::Watch { module } => self.watch(module, responder),
            Request::Command { module, command } => {
                let runner = self.runners.get(&module).cloned();
                tokio::spawn(async move {
                    let refusal = match runner {
                        Some(runner) => runner.order(command).await,
                        None => Some(Refusal::NotConfigured),
                    };
                    responder.send(Reply::Command { refusal }).await
                });
            }
            Request::Set { ref module, .. }
            | Request::Errd { ref module, .. }
            | Request::Checkers { ref module, .. }
            | Request::Loops { ref module, .. }
            | Request::Watched { ref module }
            | Request::Adopt { ref module, .. }
            | Request::Open { ref module, .. }
            | Request::Rfs { ref module }
            | Request::Noted { ref module }
            | Request::Rules { ref module } => {
                let Some(runner) = self.runners.get(module).cloned() else {
                    let reply = self.no_module(module);
                    tokio::spawn(async move { responder.send(reply).await });
                    return;
                };
                tokio::spawn(async move {
                    let reply = runner.ask(request).await;
                    responder.send(reply).await
                });
            }
            Request::Print { module, script, text, is_error } => {
                let runner = self.runners.get(&module).cloned();
                tokio::spawn(async move {
                    let script = script.as_deref().and_then(ScriptName::of_file);
                    let reply = match runner {
                        None => Reply::Command { refusal: Some(Refusal::NotConfigured) },
                        Some(runner) if runner.print(script, &text, is_error).await => Reply::Command { refusal: None },
                        Some(_) => Reply::Error { message: format!("module {module} prints too much: the line is left out") },
                    };
                    responder.send(reply).await
                });
            }
            Request::Rehearse { module, command } => {
                let runner = self.runners.get(&module).cloned();
                tokio::spawn(async move {
                    let rehearsal = rehearse(runner, command).await;
                    responder.send(Reply::Rehearsal { rehearsal }).await
                });
            }
            Request::Events { module, count } => {
                let events = self.store.events().last(module.as_ref(), count as usize);
                tokio::spawn(async move { responder.send(Reply::Events { events }).await });
            }
            Request::ScriptLog { module, script } => {
                let known = self.runners.contains_key(&module);
                let (dir, nowhere) = (self.store.log_dir(&module), self.no_module(&module));
                tokio::task::spawn_blocking(move || {
                    let reply = match crate::script::newest_log(&dir, script.as_deref()) {
                        _ if !known => nowhere,
                        Ok((files, text)) => Reply::ScriptLog { files, text },
                        Err(message) => Reply::Error { message },
                    };
                    responder.try_send(reply)
                });
            }
            Request::About => {
                let reply = Reply::About {
                    node: self.identity.node.clone(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    console: Some(self.identity.console.to_string()),
                    is_console_connected: self.console.is_connected(),
                    cluster: Some(self.identity.cluster.to_string()),
                };
                tokio::spawn(async move { responder.send(reply).await });
            }
        }
    }

    fn no_module(&self, name: &ModuleName) -> Reply {
        let known: Vec<String> = self.runners.keys().map(ToString::to_string).collect();
        Reply::Error { message: format!("there is no module {name} on {}; modules here: {}", self.identity.node, list(&known)) }
    }

    fn watch(&self, module: Option<ModuleName>, responder: Responder) {
        let mut watched: Vec<_> =
            self.runners.iter().filter(|(name, _)| module.as_ref().is_none_or(|m| m == *name)).map(|(_, r)| r.changes()).collect();
        tokio::spawn(async move {
            loop {
                let snapshots = watched.iter_mut().filter_map(|w| w.borrow_and_update().clone()).collect();
                if !responder.send(Reply::State { snapshots }).await {
                    return;
                }
                tokio::time::sleep(WATCH_PERIOD).await;
                let waits: Vec<_> = watched.iter_mut().map(|w| Box::pin(w.changed())).collect();
                if waits.is_empty() {
                    return responder.closed().await;
                }
                tokio::select! {
                    _ = futures_util::future::select_all(waits) => {}
                    () = responder.closed() => return,
                }
            }
        });
    }

    async fn shut_down(&mut self) {
        tracing::info!("the agent stops its modules in order");
        // A module stops after all that depend on it.
        let groups = depends::stop_order(&self.depends);
        let all_ended = async {
            for group in groups {
                let group: Vec<_> = group.iter().filter_map(|module| self.runners.get(module)).collect();
                for runner in &group {
                    runner.end(true).await;
                }
                for runner in &group {
                    runner.ended().await;
                }
            }
        };
        let is_out = tokio::time::timeout(SHUTDOWN_MAX, all_ended).await.is_ok() || leave(&self.runners, FORCED_MAX).await;
        match &self.guard {
            Some(guard) if is_out => guard.end().await,
            // It freezes at the deadline what this agent could not stop.
            Some(_) => tracing::error!("the guard goes on without the agent: a module is not out of service"),
            None => {}
        }
        self.store.events().flush();
    }
}

/// Modules whose orderly stop takes too long leave service by force, all at the same time: no right, no address, no
/// process. Returns whether all of them have.
async fn leave(runners: &BTreeMap<ModuleName, RunnerHandle>, patience: Duration) -> bool {
    let each = runners.iter().map(|(module, runner)| async move {
        if runner.is_ended() {
            return true;
        }
        tracing::error!(module.name = %module, "module {module} did not stop in time: it leaves service by force");
        let left = async {
            runner.end(false).await;
            runner.ended().await;
        };
        let is_out = tokio::time::timeout(patience, left).await.is_ok();
        if !is_out {
            tracing::error!(module.name = %module, "module {module} is not out of service after {} s more", patience.as_secs());
        }
        is_out
    });
    futures_util::future::join_all(each).await.into_iter().all(|is_out| is_out)
}

/// What ties a module to its other node.
struct Pair {
    peer: NodeName,
    link: LinkConfig,
    data: Option<DataConfig>,
}

/// The state machine of a module of this type.
fn engine(setting: &Setting, saved: Saved) -> Engine {
    let (me, def) = (setting.node.clone(), &setting.def);
    let Some(peer) = setting.peer.clone() else {
        let cfg = LightConfig { me, maxloop: def.maxloop, loop_interval: def.loop_interval, rules: def.rules.clone() };
        return Engine::Light(Box::new(Light::new(cfg, saved)));
    };
    Engine::Mirror(Box::new(Mirror::new(mirror_config(me, peer, def), saved, rand::random())))
}

/// The state machine of a module that goes on.
fn gone_on(setting: &Setting, former: &Former) -> Engine {
    let peer = setting.peer.clone().unwrap_or_else(|| setting.node.clone());
    let cfg = mirror_config(setting.node.clone(), peer, &setting.def);
    Engine::Mirror(Box::new(Mirror::of_kept(cfg, former.kept.engine.clone())))
}

fn mirror_config(me: NodeName, peer: NodeName, def: &ModuleDef) -> MirrorConfig {
    MirrorConfig {
        timing: def.heart.timing,
        is_failover_on: def.is_failover_on,
        authority: def.authority,
        rules: def.rules.clone(),
        default_prim: def.default_prim.clone(),
        maxloop: def.maxloop,
        loop_interval: def.loop_interval,
        ack: def.rfs.as_ref().map(|r| r.ack).unwrap_or_default(),
        ..MirrorConfig::new(me, peer)
    }
}

/// The agent runs without a guard rather than not at all: it then does itself what it can.
async fn start_guard(config: &AgentConfig, exe: &Path, notes: mpsc::Sender<Note>) -> Option<Arc<Guard>> {
    let watchdog = config.watchdog.clone().map(|device| WatchdogWish { device, timeout: Duration::from_secs(config.watchdog_timeout) });
    match Guard::start(exe, &config.state_dir, &config.run_dir, watchdog, notes).await {
        Ok(guard) => Some(guard),
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "this node has no guard: nobody freezes modules should the agent die ({error:#})");
            None
        }
    }
}

/// What an order would do to the module of `runner`; without one it is not here.
async fn rehearse(runner: Option<RunnerHandle>, command: Command) -> Rehearsal {
    let not_here = Rehearsal { refusal: Some(Refusal::NotConfigured), steps: Vec::new() };
    match runner {
        Some(runner) => runner.rehearse(command).await.unwrap_or(not_here),
        None => not_here,
    }
}

fn of_userconfig(problem: &Problem) -> String {
    format!("conf/userconfig.xml:{problem}")
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A record that cannot be read says nothing of the copy; its epoch is set so that the node waits before it claims. It is
/// started: as a follower it is brought level, and alone it says in WAIT why it does not serve.
fn unknown_record() -> Saved {
    Saved { flag: Flag::Unknown, epoch: tsugi_core::ids::Epoch(1), is_started: true, ..Saved::default() }
}

fn pair_on(cluster: &ClusterFile, lan: &str, me: &NodeName, peer: &NodeName) -> Option<(String, IpAddr, IpAddr)> {
    let lan = cluster.cluster.lan(lan)?;
    let mine = lan.nodes.iter().find(|n| &n.name == me)?;
    Some((lan.name.clone(), mine.local.unwrap_or(mine.addr), lan.addr(peer)?))
}

fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"').to_owned());
    name.unwrap_or_else(|| "Linux".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Inbox;

    #[tokio::test]
    async fn what_does_not_stop_in_time_leaves_by_force_and_the_guard_outlives_what_does_not_leave() {
        let name = |text: &str| ModuleName::new(text).unwrap();
        let ((slow, mut at_slow), (out, at_out), (stuck, _at_stuck)) =
            (RunnerHandle::by_hand(), RunnerHandle::by_hand(), RunnerHandle::by_hand());
        drop(at_out);
        let mut runners: BTreeMap<ModuleName, RunnerHandle> = [(name("slow"), slow), (name("out"), out)].into();
        let loop_of_slow = tokio::spawn(async move {
            // Its stop scripts run for ever.
            while !matches!(at_slow.recv().await, Some(Inbox::End { is_stopping: false })) {}
        });
        runners[&name("slow")].end(true).await;
        assert!(leave(&runners, Duration::from_secs(20)).await);
        loop_of_slow.await.unwrap();
        runners.insert(name("stuck"), stuck);
        assert!(!leave(&runners, Duration::from_millis(50)).await);
    }
}
