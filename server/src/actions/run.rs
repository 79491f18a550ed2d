//! Carrying operations out: order, watch, conclude, and tell everyone on the way.

use super::choose::{self, Impossible, Seen};
use super::{Note, Operation, Progress, What};
use crate::app::App;
use crate::fleet::{Report, Topic};
use crate::store::StoreError;
use crate::store::audit::Audit;
use crate::store::modules::{Module, ModuleVersion};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tsugi_core::command::{Command, Verb};
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::state::Snapshot;
use tsugi_core::wire::console::Deployment;

/// Longest wait for an agent's answer to an order. It answers at once: it only decides, it does not wait.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Longest wait for a node's judgement of a configuration: it reads the configuration and looks at its directories.
const TRY_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a node to take a configuration: it may have to stop and start what the change concerns.
const DEPLOY_MAX: Duration = Duration::from_secs(180);

/// An order as it came in.
#[derive(Debug, Clone)]
pub struct ActionRequest {
    /// What.
    pub verb: Verb,
    /// Which node, if one was named.
    pub node: Option<NodeName>,
    /// Who.
    pub by: String,
    /// From where.
    pub address: String,
    /// `ui` or `api`.
    pub via: &'static str,
    /// Why.
    pub reason: Option<String>,
    /// Key of the request, if it brought one: the same request again finds this operation.
    pub key: Option<RequestKey>,
}

/// What a client calls its request by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// `Idempotency-Key`.
    pub key: String,
    /// Hash of the request.
    pub hash: Vec<u8>,
}

/// Why no operation was made.
#[derive(Debug, thiserror::Error)]
pub enum NotOrdered {
    /// Not possible now.
    #[error("the order is not possible now")]
    Impossible(Impossible),
    /// Another operation on this module is running.
    #[error("operation {0} is running on this module")]
    Running(String),
    /// An earlier request with that key made an operation.
    #[error("the request was made before")]
    Repeated,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Carries `work` through also when nobody waits for it any more: what a client began is not left half done because it
/// closed its connection or its time was over.
pub async fn to_the_end<T: Send + 'static>(app: &App, work: impl Future<Output = T> + Send + 'static) -> T {
    match app.tasks.spawn(work).await {
        Ok(done) => done,
        // Nobody aborts it: either it panicked, or the runtime is going down and this future with it.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// Orders an action: checked, recorded, then carried out by a task of its own.
pub async fn submit(app: &Arc<App>, module: &Module, request: ActionRequest) -> Result<Operation, NotOrdered> {
    let (task_app, module) = (app.clone(), module.clone());
    to_the_end(app, async move { submitted(&task_app, module, request).await }).await
}

async fn submitted(app: &Arc<App>, module: Module, request: ActionRequest) -> Result<Operation, NotOrdered> {
    // Said first: what a node would refuse while the other operation runs is only a consequence of it.
    let key = (module.cluster.clone(), module.name.clone());
    let running = app.running.lock().expect("nobody panics while holding this lock").get(&key).cloned();
    if let Some(id) = running {
        return Err(NotOrdered::Running(id));
    }
    let reports = app.fleet.reports(&module.cluster, &module.name, &module.nodes);
    let object = format!("{}/{}", module.cluster, module.name);
    let audit = |result: &'static str| Audit {
        who: &request.by,
        address: &request.address,
        via: request.via,
        action: request.verb.word(),
        object: &object,
        detail: serde_json::json!({ "node": request.node, "order": request.verb }),
        reason: request.reason.as_deref(),
        result,
    };
    let targets = match choose::targets(&request.verb, request.node.as_ref(), &reports) {
        Ok(targets) => targets,
        Err(impossible) => {
            app.store.audit(audit("refused")).await?;
            return Err(NotOrdered::Impossible(impossible));
        }
    };
    let def = app.store.version(&module.cluster, &module.name, module.applied_version).await?.map(|v| v.def);
    let what = What::Action { order: request.verb.clone() };
    let mut operation = Operation::new(&module.cluster, &module.name, what, &targets, &request.by, request.reason.clone());
    let place = begin(app, &operation, request.key.as_ref()).await?;
    if let Err(error) = app.store.audit(audit("ordered")).await {
        // What cannot be accounted for is not done.
        operation.not_begun();
        end(app, operation, place).await;
        return Err(error.into());
    }
    let (task_app, answer, verb) = (app.clone(), operation.clone(), request.verb);
    app.tasks.spawn(async move {
        carry_out(&task_app, &module, operation, verb, choose::watch_for(def.as_ref()), place).await;
    });
    Ok(answer)
}

/// A module's place among running operations, given back when dropped: however an operation ends, the next one can begin.
struct Place {
    app: Arc<App>,
    key: (ClusterName, ModuleName),
}

impl Place {
    fn take(app: &Arc<App>, operation: &Operation) -> Result<Place, NotOrdered> {
        let key = (operation.cluster.clone(), operation.module.clone());
        let mut running = app.running.lock().expect("nobody panics while holding this lock");
        if let Some(id) = running.get(&key) {
            return Err(NotOrdered::Running(id.clone()));
        }
        running.insert(key.clone(), operation.id.clone());
        Ok(Place { app: app.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.running.lock().expect("nobody panics while holding this lock").remove(&self.key);
    }
}

/// Takes the module's place among running operations and records the operation, together with the request that made it.
async fn begin(app: &Arc<App>, operation: &Operation, key: Option<&RequestKey>) -> Result<Place, NotOrdered> {
    let place = Place::take(app, operation)?;
    if !app.store.add_operation(operation, key).await? {
        return Err(NotOrdered::Repeated);
    }
    tell(app, operation);
    Ok(place)
}

fn tell(app: &App, operation: &Operation) {
    app.fleet.changed(Topic::Operation { id: operation.id.clone() });
    app.fleet.changed(Topic::Work { cluster: operation.cluster.clone(), module: operation.module.clone() });
}

/// Records how far an operation is; a failure to do so is logged, for the work itself must go on.
async fn record(app: &App, operation: &Operation) {
    if let Err(error) = app.store.put_operation(operation).await {
        tracing::error!(error = &error as &dyn std::error::Error, operation.id, "An operation's progress could not be recorded.");
    }
    tell(app, operation);
}

async fn end(app: &App, mut operation: Operation, place: Place) {
    operation.conclude();
    drop(place);
    tracing::info!(
        operation.id, operation.verb, operation.state = operation.state.word(),
        cluster.name = %operation.cluster, module.name = %operation.module, "An operation ended."
    );
    record(app, &operation).await;
}

/// Orders one node after the other where the order matters (stop), else all at once.
async fn carry_out(app: &Arc<App>, module: &Module, mut operation: Operation, verb: Verb, watch_for: Duration, place: Place) {
    operation.state = Progress::Running;
    let (watching, watched) = tokio::sync::oneshot::channel::<()>();
    let outage = matches!(verb, Verb::Swap | Verb::Restart | Verb::StopStart)
        .then(|| tokio::spawn(measure_outage(app.clone(), module.clone(), watched)));
    let is_in_turn = verb == Verb::Stop;
    let until = Instant::now() + watch_for;
    if is_in_turn {
        for at in 0..operation.nodes.len() {
            // Stopping the node that serves while its follower stays would be a takeover, not a stop.
            if operation.nodes[..at].iter().any(|p| p.state != Progress::Succeeded) {
                (operation.nodes[at].state, operation.nodes[at].why) = (Progress::Failed, Some(Note::NotBegun));
                continue;
            }
            operation.nodes[at].state = Progress::Running;
            record(app, &operation).await;
            let (state, why) = one_node(app, module, &operation.id, &verb, &operation.nodes[at].node.clone(), &operation, until).await;
            operation.nodes[at].state = state;
            operation.nodes[at].why = why;
        }
    } else if let Some(first) = ordered_first(app, module, &mut operation, &verb).await {
        for part in &mut operation.nodes {
            part.state = Progress::Running;
        }
        record(app, &operation).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (at, part) in operation.nodes.iter().enumerate() {
            let (app, module, verb, node, copy) = (app.clone(), module.clone(), verb.clone(), part.node.clone(), operation.clone());
            let sent = first.as_ref().filter(|(kept, _)| *kept == node).map(|(_, sent)| sent.clone());
            tasks.spawn(async move {
                let seen = match sent {
                    Some(sent) => watch(&app, &module, &verb, &node, sent, until).await,
                    None => one_node(&app, &module, &copy.id, &verb, &node, &copy, until).await,
                };
                (at, seen)
            });
        }
        while let Some(done) = tasks.join_next().await {
            let Ok((at, (state, why))) = done else { continue };
            operation.nodes[at].state = state;
            operation.nodes[at].why = why;
            record(app, &operation).await;
        }
    }
    drop(watching);
    if let Some(outage) = outage {
        operation.interrupted_ms = outage.await.ok().flatten();
    }
    end(app, operation, place).await;
}

/// The node that must have its order before the others get theirs, with what [`send`] gave for it: of a split brain, the
/// one whose data is kept. Once the other has given its copy up there is no split brain any more, and the keeper would
/// refuse to resolve one. `None`: it did not take the order, and nobody else gets it.
async fn ordered_first(app: &App, module: &Module, operation: &mut Operation, verb: &Verb) -> Option<Option<(NodeName, Sent)>> {
    let Verb::Resolve { keep } = verb else { return Some(None) };
    let Some(at) = operation.nodes.iter().position(|n| n.node == *keep) else { return Some(None) };
    operation.nodes[at].state = Progress::Running;
    record(app, operation).await;
    match send(app, module, &operation.id, verb, keep, operation).await {
        Ok(sent) => Some(Some((keep.clone(), sent))),
        Err((state, why)) => {
            operation.not_begun();
            (operation.nodes[at].state, operation.nodes[at].why) = (state, why);
            None
        }
    }
}

/// How long no node served, from now until `until` closes; `None` if none served to begin with.
async fn measure_outage(app: Arc<App>, module: Module, until: tokio::sync::oneshot::Receiver<()>) -> Option<u64> {
    let is_served = |fleet: &crate::fleet::Fleet| choose::is_served(&fleet.reports(&module.cluster, &module.name, &module.nodes));
    let mut changes = app.fleet.watch();
    if !is_served(&app.fleet) {
        return None;
    }
    let mut until = std::pin::pin!(until);
    let (mut since, mut total): (Option<Instant>, Duration) = (None, Duration::ZERO);
    loop {
        let is_over = tokio::select! {
            _ = &mut until => true,
            changed = changes.changed() => changed.is_err(),
        };
        match (is_served(&app.fleet), since) {
            (false, None) => since = Some(Instant::now()),
            (true, Some(began)) => {
                total += began.elapsed();
                since = None;
            }
            _ => {}
        }
        if is_over {
            return Some((total + since.map_or(Duration::ZERO, |s| s.elapsed())).as_millis() as u64);
        }
    }
}

/// One node's part: send, take the answer, watch.
async fn one_node(
    app: &App,
    module: &Module,
    id: &str,
    verb: &Verb,
    node: &NodeName,
    operation: &Operation,
    until: Instant,
) -> (Progress, Option<Note>) {
    match send(app, module, id, verb, node, operation).await {
        Ok(before) => watch(app, module, verb, node, before, until).await,
        Err(over) => over,
    }
}

/// What the node said before it got its order.
type Sent = Option<Snapshot>;

/// Sends a node its order and takes the answer.
async fn send(
    app: &App,
    module: &Module,
    id: &str,
    verb: &Verb,
    node: &NodeName,
    operation: &Operation,
) -> Result<Sent, (Progress, Option<Note>)> {
    let reports = app.fleet.reports(&module.cluster, &module.name, &module.nodes);
    let before: Sent = reports.iter().find(|r| r.node == *node).and_then(Report::snapshot).cloned();
    let command = Command {
        id: format!("{id}/{node}"),
        verb: verb.clone(),
        by: operation.by.clone(),
        reason: operation.reason.clone(),
        is_automatic: false,
    };
    let Some(answer) = app.fleet.order(&module.cluster, node, &module.name, command) else {
        return Err((Progress::Failed, Some(Note::NoContact)));
    };
    let answer = tokio::select! {
        () = app.shutdown.cancelled() => return Err((Progress::Unknown, Some(Note::ConsoleRestarted))),
        answer = tokio::time::timeout(ANSWER_MAX, answer) => answer,
    };
    // Without an answer the order may have arrived all the same: what is observed decides.
    match answer {
        Ok(Ok(Some(refusal))) => Err((Progress::Failed, Some(Note::Refused { refusal }))),
        _ => Ok(before),
    }
}

/// Watches a node until it is where its order leads, or rests elsewhere.
async fn watch(app: &App, module: &Module, verb: &Verb, node: &NodeName, before: Sent, until: Instant) -> (Progress, Option<Note>) {
    let reports = |app: &crate::fleet::Fleet| app.reports(&module.cluster, &module.name, &module.nodes);
    let mut stuck: Option<(Instant, Note)> = None;
    let mut changes = app.fleet.watch();
    loop {
        changes.mark_unchanged();
        let now = reports(&app.fleet);
        let pause = match choose::observe(verb, before.as_ref(), node, &now) {
            Seen::There => return (Progress::Succeeded, None),
            Seen::GoingOn => {
                stuck = None;
                until
            }
            Seen::Stuck(note) => {
                let since = match &stuck {
                    Some((since, before)) if *before == note => *since,
                    _ => Instant::now(),
                };
                if since.elapsed() >= choose::BLOCKED_AFTER {
                    return (Progress::Failed, Some(note));
                }
                stuck = Some((since, note));
                (since + choose::BLOCKED_AFTER).min(until)
            }
        };
        if Instant::now() >= until {
            let is_heard = now.iter().any(|r| r.node == *node && r.contact.is_connected);
            let (state, why) = if is_heard { (Progress::Failed, Note::TooLong) } else { (Progress::Unknown, Note::NoContact) };
            return (state, Some(why));
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return (Progress::Unknown, Some(Note::ConsoleRestarted)),
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(pause) => {}
        }
    }
}

/// Makes `version` the one every node must have, once every node in contact would take it, and watches them take it.
pub async fn apply(
    app: &Arc<App>,
    module: &Module,
    version: ModuleVersion,
    by: &str,
    reason: Option<String>,
) -> Result<Operation, NotOrdered> {
    let what = What::Apply { version: version.version, generation: 0 };
    let mut operation = Operation::new(&module.cluster, &module.name, what, &module.nodes, by, reason);
    operation.state = Progress::Running;
    for part in &mut operation.nodes {
        part.state = Progress::Running;
    }
    let place = begin(app, &operation, None).await?;
    let (task_app, task_module, answer) = (app.clone(), module.clone(), operation.clone());
    app.tasks.spawn(async move { carry_out_apply(&task_app, &task_module, operation, version, place).await });
    Ok(answer)
}

async fn carry_out_apply(app: &Arc<App>, module: &Module, mut operation: Operation, version: ModuleVersion, place: Place) {
    let number = version.version;
    let applied = async {
        if !try_everywhere(app, module, &mut operation, version).await? {
            return Ok(None);
        }
        app.store.apply_version(&module.cluster, &module.name, number).await.map(Some)
    };
    match applied.await {
        Ok(Some(generation)) => {
            operation.what = What::Apply { version: number, generation };
            record(app, &operation).await;
            app.fleet.sync(&module.cluster);
            watch_apply(app, operation, generation, place).await;
        }
        Ok(None) => end(app, operation, place).await,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, operation.id, "A version could not be applied: the database failed.");
            for part in &mut operation.nodes {
                part.state = Progress::Failed;
            }
            end(app, operation, place).await;
        }
    }
}

/// Asks every node in contact whether it would take the version. If one would not, the parts say why and nothing has
/// changed anywhere. Nodes out of contact are not asked: they take it, or say why not, when they return.
async fn try_everywhere(app: &App, module: &Module, operation: &mut Operation, version: ModuleVersion) -> Result<bool, StoreError> {
    let deployment = Deployment {
        module: module.name.clone(),
        module_id: module.module_id,
        // What it would get at the least; it is numbered only when it is applied.
        generation: app.store.newest_generation().await? + 1,
        nodes: module.nodes.clone(),
        userconfig: version.userconfig,
        scripts: version.scripts,
    };
    let asked = operation.nodes.iter().map(|part| {
        let id = format!("{}/{}", operation.id, part.node);
        app.fleet.try_on(&module.cluster, &part.node, id, deployment.clone())
    });
    // All are asked before the first answer is awaited, and all have the same time.
    let asked: Vec<_> = asked.collect();
    let until = Instant::now() + TRY_MAX;
    let mut is_taken = true;
    for (part, judged) in operation.nodes.iter_mut().zip(asked) {
        let Some(judged) = judged else { continue };
        let judged = tokio::select! {
            () = app.shutdown.cancelled() => {
                (part.state, part.why) = (Progress::Unknown, Some(Note::ConsoleRestarted));
                is_taken = false;
                continue;
            }
            judged = tokio::time::timeout_at(until, judged) => judged,
        };
        (part.why, part.problems) = match judged {
            Ok(Ok(problems)) if problems.is_empty() => continue,
            Ok(Ok(problems)) => (None, problems),
            Ok(Err(_)) => (Some(Note::NoContact), Vec::new()),
            Err(_) => (Some(Note::TooLong), Vec::new()),
        };
        part.state = Progress::Failed;
        is_taken = false;
    }
    if !is_taken {
        for part in operation.nodes.iter_mut().filter(|p| !p.state.is_over()) {
            (part.state, part.why) = (Progress::Failed, Some(Note::NotEverywhere));
        }
    }
    Ok(is_taken)
}

async fn watch_apply(app: &Arc<App>, mut operation: Operation, generation: u64, place: Place) {
    let (cluster, module) = (operation.cluster.clone(), operation.module.clone());
    let nodes: Vec<NodeName> = operation.nodes.iter().map(|n| n.node.clone()).collect();
    // Over when every node has answered or is out of contact.
    let all_said = app.fleet.wait(DEPLOY_MAX, |fleet| {
        let is_open = |node: &NodeName| {
            let has_answered = fleet.deploy_answer(&cluster, &module, node).is_some_and(|(g, _)| g == generation);
            !has_answered && fleet.contact(&cluster, node).is_connected
        };
        (!nodes.iter().any(is_open)).then_some(())
    });
    tokio::select! {
        () = app.shutdown.cancelled() => {}
        _ = all_said => {}
    }
    for part in &mut operation.nodes {
        (part.state, part.why) = match app.fleet.deploy_answer(&cluster, &module, &part.node) {
            Some((g, problems)) if g == generation => {
                part.problems = problems;
                (if part.problems.is_empty() { Progress::Succeeded } else { Progress::Failed }, None)
            }
            _ if app.fleet.contact(&cluster, &part.node).is_connected => (Progress::Failed, Some(Note::TooLong)),
            _ => (Progress::Unknown, Some(Note::Later)),
        };
    }
    end(app, operation, place).await;
}

/// A node answered a deployment after the operation had ended without it: the operation is decided now.
pub async fn late_deploy_answer(
    app: &App,
    cluster: &ClusterName,
    module: &ModuleName,
    node: &NodeName,
    generation: u64,
    problems: &[String],
) {
    let last = match app.store.operations(Some((cluster, module)), 1).await {
        Ok(operations) => operations.into_iter().next(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "The last operation could not be read.");
            return;
        }
    };
    let Some(mut operation) = last.filter(|o| o.state == Progress::Unknown) else { return };
    if !matches!(operation.what, What::Apply { generation: g, .. } if g == generation) {
        return;
    }
    for part in operation.nodes.iter_mut().filter(|p| p.node == *node && p.state == Progress::Unknown) {
        part.state = if problems.is_empty() { Progress::Succeeded } else { Progress::Failed };
        part.why = None;
        part.problems = problems.to_vec();
    }
    operation.conclude();
    record(app, &operation).await;
}

/// Forgets a module and takes it from its nodes; those out of contact lose it when they return.
pub async fn remove(app: &Arc<App>, module: &Module, by: &str, reason: Option<String>) -> Result<Operation, NotOrdered> {
    let mut operation = Operation::new(&module.cluster, &module.name, What::Remove, &module.nodes, by, reason);
    let place = begin(app, &operation, None).await?;
    if let Err(error) = app.store.remove_module(&module.cluster, &module.name).await {
        for part in &mut operation.nodes {
            part.state = Progress::Failed;
        }
        end(app, operation, place).await;
        return Err(error.into());
    }
    if let Err(error) = app.arbiter.forget(&module.cluster, &module.name, by).await {
        tracing::error!(error = &error as &dyn std::error::Error, module.name = %module.name, "The arbiter's record of a removed module could not be removed.");
    }
    for part in &mut operation.nodes {
        let is_heard = app.fleet.contact(&module.cluster, &part.node).is_connected;
        (part.state, part.why) = if is_heard { (Progress::Succeeded, None) } else { (Progress::Unknown, Some(Note::Later)) };
    }
    app.fleet.forget_module(&module.cluster, &module.name);
    app.fleet.sync(&module.cluster);
    app.fleet.changed(Topic::Inventory { cluster: module.cluster.clone() });
    let answer = operation.clone();
    end(app, operation, place).await;
    Ok(answer)
}

/// Operations of an earlier life of the console: nobody watches them any more.
pub async fn close_open(app: &App) -> Result<(), StoreError> {
    for mut operation in app.store.open_operations().await? {
        for part in operation.nodes.iter_mut().filter(|p| !p.state.is_over()) {
            // Orders only: what is sent is recorded as running before it is sent. A removal is done in one go and says no more.
            let is_unsent = part.state == Progress::Queued && matches!(operation.what, What::Action { .. });
            (part.state, part.why) =
                if is_unsent { (Progress::Failed, Some(Note::NotBegun)) } else { (Progress::Unknown, Some(Note::ConsoleRestarted)) };
        }
        operation.conclude();
        app.store.put_operation(&operation).await?;
    }
    Ok(())
}
