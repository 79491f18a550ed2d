//! The time before the loop: what an earlier life of the module left is cleared away. When that fails it is tried again
//! and again, and until then the module is shown, with the reason, and takes no orders.

use super::{Inbox, Reports, Runner, RunnerHandle, unix_ms};
use crate::arbiter::Arbiter;
use crate::hands::{Former, Hands, Setting};
use crate::store::RecordFile;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::engine::Engine;
use tsugi_core::event::Event;
use tsugi_core::state::{Allowed, PeerView, Readiness, Reason, Snapshot, State};
use tsugi_core::wire::local::Reply;

/// Between two tries: at first as long as a process that hangs for a moment needs, then seldom.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// The loop's ends of what connects it with the others.
pub(super) struct Ends {
    pub to_inbox: mpsc::Sender<Inbox>,
    pub inbox: mpsc::Receiver<Inbox>,
    pub snapshot: watch::Sender<Option<Snapshot>>,
}

impl Ends {
    /// And the handle, for the others.
    pub fn new() -> (Ends, RunnerHandle) {
        let ((to_inbox, inbox), (snapshot, seen)) = (mpsc::channel(super::INBOX_MAX), watch::channel(None));
        let handle = RunnerHandle { inbox: to_inbox.clone(), snapshot: seen, printed: Arc::default() };
        (Ends { to_inbox, inbox, snapshot }, handle)
    }
}

/// A module that is about to be taken up.
pub struct Candidate {
    /// Its rules, as the record left them.
    pub engine: Engine,
    /// What is fixed.
    pub setting: Setting,
    /// The record.
    pub record: RecordFile,
    /// Absent where nobody has to be asked.
    pub arbiter: Option<Arbiter>,
    /// Where to report to.
    pub reports: Reports,
    /// Version of the configuration.
    pub generation: u64,
    /// The boot policy's order, carried out after the delay.
    pub start: Option<Duration>,
    /// What a former life left running: it goes on. Absent: what is left is cleared away.
    pub former: Option<Former>,
}

impl Candidate {
    /// The handle, what is to be run (to its end, which is that of the module's loop), and how the first try to take it up
    /// went.
    pub fn begin(self) -> (RunnerHandle, impl Future<Output = ()>, oneshot::Receiver<Result<(), String>>) {
        let (ends, handle) = Ends::new();
        let (tx, first) = oneshot::channel();
        (handle, self.run(ends, tx), first)
    }

    async fn run(mut self, mut ends: Ends, first: oneshot::Sender<Result<(), String>>) {
        let mut first = Some(first);
        let mut pause = AGAIN_AFTER;
        let cleared = loop {
            let is_going_on = self.former.is_some();
            let taken = if is_going_on { Hands::go_on(&self.setting).await } else { Hands::clear(&self.setting).await };
            let reason = match taken {
                Ok(cleared) => break cleared,
                Err(reason) => reason,
            };
            let module = &self.setting.module;
            let why = match &reason {
                Reason::Unkillable { detail } | Reason::DataUnusable { detail } | Reason::CheckFailed { detail, .. } => detail.clone(),
                other => format!("{other:?}"),
            };
            tracing::error!(module.name = %module, error = why, "module {module} cannot be taken up, which is tried again in {pause:?}: {why}");
            if let Some(first) = first.take() {
                let event = Event::Entered {
                    from: self.engine.state(),
                    to: State::Wait,
                    readiness: Readiness::NotReady,
                    reason: Some(reason.clone()),
                };
                self.reports.events.add(&self.setting.node, module, event);
                self.reports.console.event_added();
                let _ = first.send(Err(why));
            }
            self.show(&ends, State::Wait, reason);
            if !self.wait(&mut ends, Instant::now() + pause).await {
                return;
            }
            pause = (pause * 2).min(AGAIN_AFTER_MAX);
        };
        if let Some(first) = first {
            let _ = first.send(Ok(()));
        }
        let kept = self.former.as_ref().map(|former| (former.kept.clone(), former.deadline_ns()));
        let hands = Hands::new(self.setting, cleared, self.former, ends.to_inbox.clone(), self.record, self.arbiter);
        Runner::new(self.engine, hands, self.reports, ends, self.generation, kept).run(self.start).await;
    }

    /// Answers whoever asks until then. `false`: the module is not to be taken up any more.
    async fn wait(&mut self, ends: &mut Ends, until: Instant) -> bool {
        while let Ok(message) = tokio::time::timeout_at(until, ends.inbox.recv()).await {
            match message {
                None | Some(Inbox::End { .. }) => return false,
                Some(Inbox::Order(command, answer)) => {
                    let is_stop = command.verb == Verb::Stop;
                    let _ = answer.send((!is_stop).then_some(Refusal::Busy));
                    if is_stop {
                        // So that another configuration can be applied, or the module removed.
                        self.start = None;
                        self.show(ends, State::Stop, Reason::StoppedBy { by: command.by });
                    }
                }
                Some(Inbox::Rehearse(command, answer)) => {
                    let _ = answer.send(self.engine.rehearse(command));
                }
                Some(Inbox::Ask(_, answer)) => {
                    let _ = answer.send(Reply::Error { message: "the module is not taken up yet; its state says why".to_owned() });
                }
                // Nothing runs that could send these.
                Some(
                    Inbox::Input(_)
                    | Inbox::Heard(_)
                    | Inbox::ScriptSaid { .. }
                    | Inbox::Usable(_)
                    | Inbox::Verified(_)
                    | Inbox::Checked(_)
                    | Inbox::Print { .. },
                ) => {}
            }
        }
        true
    }

    fn show(&self, ends: &Ends, state: State, reason: Reason) {
        let refused = |a: Allowed| Allowed { refusal: (a.verb != Verb::Stop).then_some(Refusal::Busy), ..a };
        let snapshot = Snapshot {
            config_generation: self.generation,
            state,
            readiness: Readiness::NotReady,
            reason: Some(reason),
            is_up_to_date: false,
            authority: self.arbiter.as_ref().map(|a| a.view().clone()).unwrap_or_default(),
            allowed: self.engine.allowed().into_iter().map(refused).collect(),
            ..as_left(&self.engine, &self.setting)
        };
        // Shown as it was, it is since then.
        let is_same = |shown: &Snapshot| shown.state == snapshot.state && shown.reason == snapshot.reason;
        if !ends.snapshot.borrow().as_ref().is_some_and(is_same) {
            self.reports.board.put(&snapshot);
            self.reports.console.snapshot(snapshot.clone());
            ends.snapshot.send_replace(Some(snapshot));
        }
    }
}

/// How a module stands by its engine alone, before its loop runs.
pub fn as_left(engine: &Engine, setting: &Setting) -> Snapshot {
    let saved = engine.saved();
    let (peer, in_contact) = engine.peer();
    Snapshot {
        module: setting.module.clone(),
        node: setting.node.clone(),
        config_generation: 0,
        state: engine.state(),
        readiness: engine.readiness(),
        reason: engine.reason().cloned(),
        since_unix_ms: unix_ms(),
        maintenance_until_unix_ms: None,
        traffic: None,
        verification: Default::default(),
        flag: saved.flag,
        is_up_to_date: engine.is_up_to_date(),
        epoch: saved.epoch,
        gen_id: saved.gen_id,
        session: saved.session,
        in_sync: saved.in_sync.clone(),
        vips_held: Vec::new(),
        replication: engine.replication(),
        resync: None,
        peer: PeerView { node: setting.peer.clone(), in_contact, state: peer.map(|p| p.state), networks: Vec::new() },
        arbiter: engine.arbiter(),
        authority: Default::default(),
        resources: Vec::new(),
        allowed: engine.allowed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Cgroups, Mounts};
    use crate::checker::Board;
    use crate::console::ConsoleLink;
    use crate::rfs::handle::DataConfig;
    use crate::store::Store;
    use std::path::Path;
    use tsugi_core::command::Command;
    use tsugi_core::engine::{Light, LightConfig, Saved};
    use tsugi_core::ids::{ModuleName, NodeName};
    use tsugi_core::module::xml::{self, ParseContext};
    use tsugi_core::wire::console::Deployment;

    /// Bound of every wait.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A light module whose clean-up works in `run_dir`.
    fn candidate(dir: &Path, run_dir: &Path) -> Candidate {
        let (node, module) = (NodeName::new("n1").unwrap(), ModuleName::new("m").unwrap());
        let text = "<safe><service mode=\"light\"></service></safe>";
        let parsed = xml::parse(text, &ParseContext { cluster: None, nodes: std::slice::from_ref(&node) });
        let def = parsed.def.unwrap_or_else(|| panic!("{:?}", parsed.problems));
        let store = Store::open(dir).unwrap();
        let deployment = Deployment {
            module: module.clone(),
            module_id: 1,
            generation: 3,
            nodes: vec![node.clone()],
            userconfig: text.into(),
            scripts: Default::default(),
        };
        store.put_deployment(&deployment).unwrap();
        let record = store.record(&module).unwrap().0;
        let data = DataConfig {
            module: module.clone(),
            node: node.clone(),
            peer: node.clone(),
            cluster: "c".into(),
            dirs: vec![],
            ack: Default::default(),
            listen: "127.0.0.1:0".parse().unwrap(),
            connect: "127.0.0.1:0".parse().unwrap(),
            identity_dir: dir.into(),
            run_dir: run_dir.into(),
            marks: dir.join("copies.json"),
            resync_kb_per_s_max: None,
            compress: Default::default(),
            transport: Default::default(),
            patience: Duration::from_secs(1),
        };
        let engine = LightConfig { me: node.clone(), maxloop: def.maxloop, loop_interval: def.loop_interval, rules: def.rules.clone() };
        let setting = Setting {
            active_dir: store.active_dir(&module),
            log_dir: store.log_dir(&module),
            state_dir: dir.into(),
            run_dir: run_dir.into(),
            exe: "/bin/false".into(),
            cgroups: Cgroups::within(Mounts::default(), &node, dir),
            guard: None,
            module,
            node,
            peer: None,
            cluster: "c".into(),
            def,
            link: None,
            data: Some(data),
        };
        let reports = Reports { events: store.events().clone(), console: ConsoleLink::unconnected(), board: Board::default() };
        let engine = Engine::Light(Box::new(Light::new(engine, Saved::default())));
        Candidate { engine, setting, record, arbiter: None, reports, generation: 3, start: None, former: None }
    }

    fn order(verb: Verb) -> Command {
        Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false }
    }

    async fn shown(handle: &RunnerHandle, what: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut changes = handle.changes();
        let seen = changes.wait_for(|s| s.as_ref().is_some_and(&what));
        tokio::time::timeout(PATIENCE, seen).await.expect("shown within the bound").unwrap().clone().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_module_whose_former_life_cannot_be_cleared_away_is_shown_and_taken_up_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        // Where the run directory should be is a file.
        let run_dir = dir.path().join("run");
        std::fs::write(&run_dir, "").unwrap();
        let (handle, task, first) = candidate(&dir.path().join("state"), &run_dir).begin();
        let task = tokio::spawn(task);
        let why = first.await.unwrap().unwrap_err();
        assert!(why.contains(&run_dir.display().to_string()), "{why}");
        let seen = shown(&handle, |_| true).await;
        assert_eq!((seen.state, seen.readiness), (State::Wait, Readiness::NotReady));
        assert!(matches!(seen.reason, Some(Reason::Unkillable { .. })), "{seen:?}");
        assert_eq!(handle.order(order(Verb::Start)).await, Some(Refusal::Busy));
        // It can be stopped, so that another configuration can be applied.
        assert_eq!(handle.order(order(Verb::Stop)).await, None);
        shown(&handle, |s| s.state == State::Stop).await;
        std::fs::remove_file(&run_dir).unwrap();
        shown(&handle, |s| s.allowed.iter().any(|a| a.verb == Verb::Start && a.refusal.is_none())).await;
        assert_eq!(handle.order(order(Verb::Start)).await, None);
        handle.end(false).await;
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
}
