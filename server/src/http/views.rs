//! Facts of the console as `tsugi-web` wants them.

use super::error::Result;
use super::state::{ModuleState, NodeState};
use super::{clusters, state};
use crate::actions::{NodePart, Note, Operation, Progress, What};
use crate::app::App;
use crate::auth::sha256;
use crate::store::clusters::Cluster;
use crate::store::events::StoredEvent;
use tsugi_core::command::Verb;
use tsugi_core::health::ModuleHealth;
use tsugi_core::ids::{ClusterName, NodeName};
use tsugi_web::fleet::{Approval, ClusterView, Contact, HealthView, ModuleView, NodeCell, NodeView};
use tsugi_web::say::{Interruption, Target};
use tsugi_web::view::{EventView, NodeOutcome, OperationKind, OperationState, OperationView, VersionView};

/// Health, word for word.
pub fn health(health: ModuleHealth) -> HealthView {
    match health {
        ModuleHealth::Conflict => HealthView::Conflict,
        ModuleHealth::NotReady => HealthView::NotReady,
        ModuleHealth::NoContact => HealthView::NoContact,
        ModuleHealth::AtRisk => HealthView::AtRisk,
        ModuleHealth::InProgress => HealthView::InProgress,
        ModuleHealth::Stopped => HealthView::Stopped,
        ModuleHealth::Protected => HealthView::Protected,
    }
}

fn contact(contact: crate::fleet::Contact, seen_ms: Option<i64>) -> Contact {
    match (contact.is_connected, contact.heard_ms.or(seen_ms)) {
        (true, _) => Contact::Connected,
        (false, Some(since)) => Contact::Lost { since_unix_ms: since.max(0) as u64 },
        (false, None) => Contact::Never,
    }
}

/// Address of a node on the network that carries orders.
fn command_addr(cluster: &Cluster, node: &NodeName) -> Option<std::net::IpAddr> {
    let lans = &cluster.def.lans;
    lans.iter().find(|l| l.is_command).or(lans.first()).and_then(|l| l.addr(node))
}

/// A module on a node; without the node's address, which only its cluster knows.
pub fn cell(report: &crate::fleet::Report) -> NodeCell {
    NodeCell {
        node: report.node.clone(),
        addr: None,
        contact: contact(report.contact, None),
        snapshot: report.snapshot().cloned(),
        resync_still_ms: report.seen.as_ref().and_then(|s| s.resync_still_since).map(|since| since.elapsed().as_millis() as u64),
    }
}

/// A module.
pub fn module(cluster: &Cluster, state: &ModuleState) -> ModuleView {
    let cell = |r: &crate::fleet::Report| NodeCell { addr: command_addr(cluster, &r.node), ..cell(r) };
    ModuleView {
        cluster: cluster.name.clone(),
        module: state.module.name.clone(),
        def: state.def.clone(),
        version: state.module.applied_version.unwrap_or(0),
        health: health(state.verdict.health),
        cells: state.reports.iter().map(cell).collect(),
    }
}

fn node(cluster: &Cluster, state: &NodeState) -> NodeView {
    let approval = match &state.enrolled {
        None => Approval::NotEnrolled,
        Some(n) if n.approved_ms.is_some() => Approval::Approved { fingerprint: n.fingerprint.clone() },
        Some(n) => Approval::Pending { fingerprint: n.fingerprint.clone(), since_unix_ms: n.enrolled_ms.max(0) as u64 },
    };
    NodeView {
        node: state.name.clone(),
        addresses: cluster.def.lans.iter().filter_map(|l| Some((l.name.clone(), l.addr(&state.name)?))).collect(),
        contact: contact(state.contact, state.enrolled.as_ref().and_then(|n| n.seen_ms)),
        approval,
        agent_version: state.enrolled.as_ref().and_then(|n| n.agent_version.clone()),
        os: state.enrolled.as_ref().and_then(|n| n.os.clone()),
    }
}

/// A cluster with its nodes and modules.
pub async fn cluster(app: &App, name: &ClusterName) -> Result<ClusterView> {
    let stored = clusters::cluster(app, name).await?;
    whole(app, &stored).await
}

async fn whole(app: &App, stored: &Cluster) -> Result<ClusterView> {
    let nodes = state::nodes(app, &stored.name).await?;
    let modules = state::modules(app, &stored.name).await?;
    Ok(ClusterView {
        cluster: stored.name.clone(),
        nodes: nodes.iter().map(|n| node(stored, n)).collect(),
        modules: modules.iter().map(|m| module(stored, m)).collect(),
    })
}

/// Every cluster.
pub async fn fleet(app: &App) -> Result<Vec<ClusterView>> {
    let mut out = Vec::new();
    for stored in app.store.clusters().await? {
        out.push(whole(app, &stored).await?);
    }
    Ok(out)
}

/// An event.
pub fn event(event: StoredEvent) -> EventView {
    EventView { cluster: event.cluster, record: event.record }
}

fn progress(progress: Progress) -> OperationState {
    match progress {
        Progress::Queued => OperationState::Queued,
        Progress::Running => OperationState::Running,
        Progress::Succeeded => OperationState::Succeeded,
        Progress::Failed => OperationState::Failed,
        Progress::Unknown => OperationState::Unknown,
    }
}

/// An operation, with what the nodes' parts say in `lang`.
pub fn operation(operation: &Operation, lang: crate::words::Lang) -> OperationView {
    let outcome = |part: &NodePart| {
        let mut problems = part.problems.clone();
        let refusal = match &part.why {
            Some(Note::Refused { refusal }) => Some(refusal.clone()),
            Some(note) => {
                problems.push(super::words::note(note, &operation.module, &part.node).of(lang).to_owned());
                None
            }
            None => None,
        };
        NodeOutcome { node: part.node.clone(), state: progress(part.state), refusal, problems }
    };
    OperationView {
        id: operation.id.clone(),
        cluster: operation.cluster.clone(),
        module: operation.module.clone(),
        what: match &operation.what {
            What::Action { order } => OperationKind::Action(order.clone()),
            What::Apply { version, .. } => OperationKind::Apply { version: *version },
            What::Remove => OperationKind::Remove,
        },
        by: operation.by.clone(),
        reason: operation.reason.clone(),
        started_unix_ms: operation.created_unix_ms,
        ended_unix_ms: operation.ended_unix_ms,
        state: progress(operation.state),
        nodes: operation.nodes.iter().map(outcome).collect(),
    }
}

/// A version; active when it is the applied one and no node reports another generation.
pub fn version(version: &crate::store::modules::ModuleVersion, state: &ModuleState) -> VersionView {
    VersionView {
        number: version.version,
        by: version.by.clone(),
        at_unix_ms: version.created_ms.max(0) as u64,
        reason: version.reason.clone(),
        is_active: state.module.applied_version == Some(version.version),
    }
}

/// Operations looked at for the expected interruption, and how many of the newest fitting ones count.
const HISTORY_MAX: u32 = 50;
const MEASURED_MAX: usize = 5;

/// Expected interruption of an order: as measured the last times, else by the configured time-outs.
pub async fn interruption(app: &App, verb: &Verb, state: &ModuleState) -> Result<Interruption> {
    match verb {
        Verb::Start
        | Verb::Prim { .. }
        | Verb::PrimForce
        | Verb::Second { .. }
        | Verb::Resolve { .. }
        | Verb::Maintenance { .. }
        | Verb::Verify => {
            return Ok(Interruption::None);
        }
        Verb::Stop => return Ok(Interruption::UntilStarted),
        Verb::Restart | Verb::Swap | Verb::StopStart => {}
    }
    let past = app.store.operations(Some((&state.module.cluster, &state.module.name)), HISTORY_MAX).await?;
    let is_alike = |o: &&Operation| o.verb == verb.word() && o.state == Progress::Succeeded;
    let mut measured: Vec<u64> = past.iter().filter(is_alike).filter_map(|o| o.interrupted_ms).take(MEASURED_MAX).collect();
    measured.sort_unstable();
    if let (Some(&least_ms), Some(&most_ms)) = (measured.first(), measured.last()) {
        let median_ms = measured[measured.len() / 2];
        return Ok(Interruption::Measured { median_ms, least_ms, most_ms, count: measured.len() as u32 });
    }
    Ok(match state.def.as_ref().and_then(|d| d.user.as_ref()) {
        Some(user) => Interruption::Configured { most_ms: (user.start_timeout + user.stop_timeout).as_millis() as u64 },
        None => Interruption::None,
    })
}

/// Target of an order.
pub fn target(node: Option<&NodeName>) -> Target {
    node.map_or(Target::Module, |n| Target::Node(n.clone()))
}

/// Fixes what a plan was made from: an order that carries it is refused when the state has changed since.
pub fn plan_hash(state: &ModuleState, verb: &Verb, node: Option<&NodeName>) -> String {
    let nodes: Vec<_> = state
        .reports
        .iter()
        .map(|r| {
            let s = r.now();
            (&r.node, s.map(|s| (s.state, s.readiness, s.is_up_to_date, s.config_generation)), s.and_then(|s| s.refusal(verb).cloned()))
        })
        .collect();
    // How long a maintenance lasts is typed after the plan was made, and changes nothing of it.
    let verb = match verb {
        Verb::Maintenance { minutes: 1.. } => &Verb::Maintenance { minutes: 1 },
        other => other,
    };
    let facts = serde_json::json!([verb, node, nodes, state.module.generation]);
    crate::auth::hex(&sha256(facts.to_string().as_bytes())[..16])
}
