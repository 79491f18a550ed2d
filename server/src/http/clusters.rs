//! What clusters and nodes need done, shared by API and pages.

use super::api_auth::{audit, audit_with};
use super::error::{Failure, Result};
use super::guard::Caller;
use crate::app::App;
use crate::auth::{new_secret, sha256};
use crate::deploy::{ConfigProblem, NotKept, of_xml};
use crate::fleet::Topic;
use crate::store::clusters::Cluster;
use crate::store::tokens::JOIN_TOKEN_MS;
use axum::http::{HeaderMap, header};
use serde_json::json;
use std::sync::atomic::Ordering;
use tsugi_core::cluster::ClusterDef;
use tsugi_core::cluster::xml::parse_cluster;
use tsugi_core::ids::{ClusterName, NodeName};
use tsugi_core::wire::console::{JoinToken, Secret};

/// File of a cluster's definition, as named in problems.
pub const CLUSTER_XML: &str = "cluster.xml";

/// A cluster that must exist.
pub async fn cluster(app: &App, name: &ClusterName) -> Result<Cluster> {
    app.store.cluster(name).await?.ok_or_else(Failure::not_found)
}

/// Reads `cluster.xml`.
pub fn read(xml: &str, name: &ClusterName) -> std::result::Result<(ClusterDef, Vec<ConfigProblem>), NotKept> {
    let parsed = parse_cluster(xml, name);
    let problems: Vec<ConfigProblem> = parsed.problems.iter().map(|p| of_xml(CLUSTER_XML, p)).collect();
    parsed.def.map(|def| (def, problems.clone())).ok_or(NotKept::Problems(problems))
}

/// Adds a cluster.
pub async fn add(app: &App, caller: &Caller, name: &ClusterName, xml: &str) -> std::result::Result<(), NotKept> {
    let (def, _) = read(xml, name)?;
    if !app.store.add_cluster(&def, xml, &Secret(rand::random())).await? {
        return Err(NotKept::NameTaken);
    }
    log(app, caller, "cluster.add", name, json!({ "xml": xml })).await;
    app.fleet.changed(Topic::Inventory { cluster: name.clone() });
    Ok(())
}

/// Changes a cluster's definition; the nodes get it at once.
pub async fn configure(app: &App, caller: &Caller, name: &ClusterName, xml: &str) -> std::result::Result<(), NotKept> {
    app.store.cluster(name).await?.ok_or(NotKept::Missing)?;
    let (def, _) = read(xml, name)?;
    let nodes = def.nodes();
    let mut problems = Vec::new();
    for module in app.store.modules(name).await? {
        for node in module.nodes.iter().filter(|n| !nodes.contains(n)) {
            problems.push(ConfigProblem {
                file: CLUSTER_XML.into(),
                line: 0,
                column: 0,
                element: "node".into(),
                message: crate::words::Words::new(
                    format!("Module {} lives on node {node}, which is not in this definition.", module.name),
                    format!("モジュール {} が動くノード {node} が、この定義にありません。", module.name),
                ),
                remedy: crate::words::Words::new(
                    "Keep the node, or remove the module first.",
                    "ノードを残すか、先にモジュールを削除してください。",
                ),
                is_warning: false,
            });
        }
    }
    if !problems.is_empty() {
        return Err(NotKept::Problems(problems));
    }
    app.store.set_cluster(&def, xml).await?;
    log(app, caller, "cluster.configure", name, json!({ "xml": xml })).await;
    app.fleet.sync(name);
    app.fleet.changed(Topic::Inventory { cluster: name.clone() });
    Ok(())
}

/// A done change whose entry cannot be written is not undone, but it is said loudly.
async fn log(app: &App, caller: &Caller, action: &str, name: &ClusterName, detail: serde_json::Value) {
    if audit_with(app, caller, action, name.as_str(), None, detail).await.is_err() {
        tracing::error!(action, cluster.name = %name, user.name = caller.name, "An entry of the audit log could not be written.");
    }
}

/// A join token just made.
#[derive(Debug, Clone)]
pub struct Join {
    /// The token as text.
    pub token: String,
    /// What to run on the new node.
    pub command: String,
    /// When it lapses.
    pub expires_unix_ms: i64,
}

/// Makes a join token. `headers`: the request's, for the name under which this console was reached.
pub async fn join(app: &App, caller: &Caller, name: &ClusterName, node: Option<&NodeName>, headers: &HeaderMap) -> Result<Join> {
    cluster(app, name).await?;
    let secret = new_secret();
    app.store.add_join_token(&sha256(secret.as_bytes()), name, &caller.name).await?;
    audit(app, caller, "join_token.add", name.as_str()).await?;
    let token = JoinToken { ca_sha256: app.ca.sha256(), secret }.to_string();
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).map_or("CONSOLE", host_of);
    let port = app.agents_port.load(Ordering::Relaxed);
    let node = node.map_or("NODE", NodeName::as_str);
    let command = format!("tsugi-agent enroll --console https://{host}:{port} --token {token} --name {node}");
    Ok(Join { token, command, expires_unix_ms: crate::store::now_ms() + JOIN_TOKEN_MS })
}

/// Host without the port, brackets of an IPv6 address kept.
fn host_of(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    }
}

/// Approves a pending node.
pub async fn approve(app: &App, caller: &Caller, name: &ClusterName, node: &NodeName) -> Result<()> {
    let known = cluster(app, name).await?;
    let enrolled = app.store.node(name, node).await?.ok_or_else(Failure::not_found)?;
    if !known.def.nodes().contains(node) {
        return Err(Failure::conflict(
            "not_in_cluster",
            format!("Node {node} is not in the configuration of cluster {name}; add it there first, or remove the node."),
            format!("ノード {node} はクラスター {name} の設定にありません。先に設定へ追加するか、ノードを削除してください。"),
        ));
    }
    if app.store.approve_node(name, node, &caller.name).await? {
        audit_with(app, caller, "node.approve", &format!("{name}/{node}"), None, json!({ "fingerprint": enrolled.fingerprint })).await?;
        app.fleet.sync(name);
        app.fleet.changed(Topic::Node { cluster: name.clone(), node: node.clone() });
    }
    Ok(())
}

/// Forgets a node's enrolment. Its modules stay: a replacement machine may enrol under the same name.
pub async fn remove(app: &App, caller: &Caller, name: &ClusterName, node: &NodeName) -> Result<()> {
    cluster(app, name).await?;
    if !app.store.remove_node(name, node).await? {
        return Err(Failure::not_found());
    }
    audit(app, caller, "node.remove", &format!("{name}/{node}")).await?;
    app.fleet.drop_node(name, node);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_port_is_taken_off_a_host() {
        assert_eq!(host_of("console:9453"), "console");
        assert_eq!(host_of("10.0.0.1:9453"), "10.0.0.1");
        assert_eq!(host_of("[::1]:9453"), "[::1]");
        assert_eq!(host_of("[::1]"), "[::1]");
        assert_eq!(host_of("console"), "console");
    }
}
