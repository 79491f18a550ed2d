//! What is stored and what is known now, put together: the facts behind API and pages.

use super::error::{Failure, Result};
use super::views;
use crate::app::App;
use crate::fleet::{Contact, Report};
use crate::store::modules::{DeployResult, Module};
use crate::store::nodes::Node;
use serde_json::{Value, json};
use tsugi_core::health::{Verdict, module_health};
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::module::{Mode, ModuleDef};
use tsugi_web::say;
use tsugi_web::text::Lang;

/// A module with everything known of it.
#[derive(Debug, Clone)]
pub struct ModuleState {
    /// As stored.
    pub module: Module,
    /// Definition in force; `None` = no version was applied yet.
    pub def: Option<ModuleDef>,
    /// Type: of the definition in force, else of the newest version.
    pub mode: Mode,
    /// Per node, in configured order.
    pub reports: Vec<Report>,
    /// Health.
    pub verdict: Verdict,
    /// What the nodes answered to the last deployment.
    pub deployed: Vec<DeployResult>,
}

impl ModuleState {
    /// As in the API, with its sentences in `lang`.
    pub fn json(&self, app: &App, lang: Lang) -> Value {
        let nodes: Vec<Value> = self
            .reports
            .iter()
            .map(|r| {
                let deployed = self.deployed.iter().find(|d| d.node == r.node && d.generation == self.module.generation);
                json!({
                    "node": r.node,
                    "connected": r.contact.is_connected,
                    "age_ms": r.age_ms(),
                    "snapshot": r.snapshot(),
                    "why": say::why(lang, &self.module.name, &views::cell(r)).map(|said| json!({
                        "text": said.text, "next": said.next, "remedy": said.remedy,
                        "command": said.command, "on": said.on, "is_last_resort": said.is_last_resort(),
                    })),
                    "warnings": r.now().map(|s| say::authority_warnings(lang, &s.authority, &s.arbiter)).unwrap_or_default(),
                    "deploy_problems": deployed.map(|d| &d.problems),
                })
            })
            .collect();
        json!({
            "name": self.module.name,
            "cluster": self.module.cluster,
            "module_id": self.module.module_id,
            "mode": self.mode,
            "health": self.verdict.health,
            "risks": self.verdict.risks,
            "applied_version": self.module.applied_version,
            "generation": self.module.generation,
            "vips": self.def.iter().flat_map(|d| d.vips.iter().map(|v| v.addr)).collect::<Vec<_>>(),
            "operation": running(app, &self.module.cluster, &self.module.name),
            "nodes": nodes,
        })
    }
}

/// Id of the operation that runs on a module.
pub fn running(app: &App, cluster: &ClusterName, module: &ModuleName) -> Option<String> {
    app.running.lock().expect("nobody panics while holding this lock").get(&(cluster.clone(), module.clone())).cloned()
}

async fn state_of(app: &App, module: Module) -> Result<ModuleState> {
    let version = app.store.version(&module.cluster, &module.name, module.applied_version).await?;
    let newest = version.map(|v| v.def);
    let mode = newest.as_ref().map_or(Mode::Mirror, |d| d.mode);
    let def = newest.filter(|_| module.applied_version.is_some());
    let reports = app.fleet.reports(&module.cluster, &module.name, &module.nodes);
    let for_health: Vec<_> = reports.iter().map(Report::for_health).collect();
    let is_failover_on = def.as_ref().is_none_or(|d| d.is_failover_on);
    let verdict = module_health(mode, is_failover_on, &for_health);
    let deployed = app.store.deploy_results(&module.cluster, &module.name).await?;
    Ok(ModuleState { module, def, mode, reports, verdict, deployed })
}

/// Modules of a cluster, by name.
pub async fn modules(app: &App, cluster: &ClusterName) -> Result<Vec<ModuleState>> {
    let mut out = Vec::new();
    for module in app.store.modules(cluster).await? {
        out.push(state_of(app, module).await?);
    }
    Ok(out)
}

/// A module that must exist.
pub async fn module(app: &App, cluster: &ClusterName, module: &ModuleName) -> Result<ModuleState> {
    let stored = app.store.module(cluster, module).await?.ok_or_else(Failure::not_found)?;
    state_of(app, stored).await
}

/// A node of a cluster: named in its definition, enrolled, or both.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// Name.
    pub name: NodeName,
    /// As enrolled.
    pub enrolled: Option<Node>,
    /// Whether it is heard.
    pub contact: Contact,
    /// It is named in the cluster's definition.
    pub is_defined: bool,
}

/// Nodes of a cluster, by name.
pub async fn nodes(app: &App, cluster: &ClusterName) -> Result<Vec<NodeState>> {
    let Some(stored) = app.store.cluster(cluster).await? else { return Ok(Vec::new()) };
    let defined = stored.def.nodes();
    let mut enrolled = app.store.nodes(cluster).await?;
    // A witness has a certificate of the cluster and is no node of it: it never connects, and nobody has to approve it.
    enrolled.retain(|n| defined.contains(&n.name) || !stored.def.arbiters.iter().any(|a| a.name.as_str() == n.name.as_str()));
    let mut names: Vec<NodeName> = defined.iter().cloned().chain(enrolled.iter().map(|n| n.name.clone())).collect();
    names.sort();
    names.dedup();
    Ok(names
        .into_iter()
        .map(|name| NodeState {
            enrolled: enrolled.iter().position(|n| n.name == name).map(|at| enrolled.remove(at)),
            contact: app.fleet.contact(cluster, &name),
            is_defined: defined.contains(&name),
            name,
        })
        .collect())
}
