//! API: clusters and nodes.

use super::clusters;
use super::error::Result;
use super::extract::{Body, MaybeBody, Names, Tongue};
use super::guard::Caller;
use super::state;
use crate::app::App;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use tsugi_core::ids::{ClusterName, NodeName};
use utoipa::ToSchema;

/// A cluster in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterRow {
    /// Name.
    name: String,
    /// Generation of its definition.
    generation: u64,
    /// Nodes of its definition.
    nodes: Vec<String>,
    /// Its modules.
    modules: Vec<String>,
    /// Worst health of its modules; absent without modules.
    health: Option<String>,
}

/// Clusters.
#[derive(Debug, Serialize, ToSchema)]
pub struct Clusters {
    /// By name.
    clusters: Vec<ClusterRow>,
}

/// Every cluster.
#[utoipa::path(get, path = "/api/v1/clusters", tag = "clusters", responses((status = 200, body = Clusters)))]
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Clusters>> {
    let mut rows = Vec::new();
    for cluster in app.store.clusters().await? {
        let modules = state::modules(&app, &cluster.name).await?;
        rows.push(ClusterRow {
            name: cluster.name.to_string(),
            generation: cluster.generation,
            nodes: cluster.def.nodes().iter().map(ToString::to_string).collect(),
            health: modules.iter().map(|m| m.verdict.health).min().map(|h| h.word().to_owned()),
            modules: modules.iter().map(|m| m.module.name.to_string()).collect(),
        });
    }
    Ok(Json(Clusters { clusters: rows }))
}

/// Body of a new cluster.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterBody {
    /// Name.
    #[schema(value_type = String)]
    name: ClusterName,
    /// Text of `cluster.xml`.
    xml: String,
}

/// Adds a cluster.
#[utoipa::path(post, path = "/api/v1/clusters", request_body = ClusterBody, tag = "clusters",
    responses((status = 201), (status = 409, description = "name taken"), (status = 422, description = "problems with line and column")))]
pub async fn add(State(app): State<Arc<App>>, caller: Caller, Body(body): Body<ClusterBody>) -> Result<(StatusCode, Json<Value>)> {
    clusters::add(&app, &caller, &body.name, &body.xml).await?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "name": body.name }))))
}

/// A cluster.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterOut {
    /// Name.
    name: String,
    /// Generation of its definition.
    generation: u64,
    /// Text of `cluster.xml`.
    xml: String,
    /// … and as read.
    #[schema(value_type = Object)]
    def: tsugi_core::cluster::ClusterDef,
    /// Nodes, as under `/nodes`.
    nodes: Vec<NodeOut>,
    /// Modules, as under `/modules`.
    #[schema(value_type = Vec<Object>)]
    modules: Vec<Value>,
}

/// One cluster.
#[utoipa::path(get, path = "/api/v1/clusters/{c}", params(("c" = String, Path)), tag = "clusters",
    responses((status = 200, body = ClusterOut), (status = 404)))]
pub async fn one(State(app): State<Arc<App>>, Tongue(lang): Tongue, Names(name): Names<ClusterName>) -> Result<Json<ClusterOut>> {
    let cluster = clusters::cluster(&app, &name).await?;
    let nodes = node_rows(&app, &name).await?;
    let modules = state::modules(&app, &name).await?.iter().map(|m| m.json(&app, lang)).collect();
    Ok(Json(ClusterOut { name: name.to_string(), generation: cluster.generation, xml: cluster.xml, def: cluster.def, nodes, modules }))
}

/// Body of a changed definition.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigBody {
    /// Text of `cluster.xml`.
    xml: String,
}

/// Changes a cluster's definition; the nodes get it at once.
#[utoipa::path(put, path = "/api/v1/clusters/{c}/config", params(("c" = String, Path)), request_body = ConfigBody, tag = "clusters",
    responses((status = 204), (status = 404), (status = 422)))]
pub async fn configure(
    State(app): State<Arc<App>>,
    caller: Caller,
    Names(name): Names<ClusterName>,
    Body(body): Body<ConfigBody>,
) -> Result<StatusCode> {
    clusters::configure(&app, &caller, &name, &body.xml).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Body of a new join token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinBody {
    /// Name of the node, for the command; any node may use the token.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    node: Option<NodeName>,
}

/// A join token; shown once.
#[derive(Debug, Serialize, ToSchema)]
pub struct JoinOut {
    /// The token: for one node, for an hour.
    token: String,
    /// What to run as root on the new node.
    command: String,
    /// When it lapses.
    expires_unix_ms: i64,
}

/// Makes a join token for one node.
#[utoipa::path(post, path = "/api/v1/clusters/{c}/join-tokens", params(("c" = String, Path)), request_body = JoinBody, tag = "clusters",
    responses((status = 201, body = JoinOut), (status = 404)))]
pub async fn join(
    State(app): State<Arc<App>>,
    caller: Caller,
    Names(name): Names<ClusterName>,
    headers: HeaderMap,
    MaybeBody(body): MaybeBody<JoinBody>,
) -> Result<(StatusCode, Json<JoinOut>)> {
    let join = clusters::join(&app, &caller, &name, body.node.as_ref(), &headers).await?;
    Ok((StatusCode::CREATED, Json(JoinOut { token: join.token, command: join.command, expires_unix_ms: join.expires_unix_ms })))
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeOut {
    /// Name.
    node: String,
    /// `not_enrolled`, `pending` or `approved`.
    status: &'static str,
    /// The console hears it now.
    connected: bool,
    /// When it was last heard.
    heard_unix_ms: Option<i64>,
    /// SHA-256 of its certificate, to be compared before approving.
    fingerprint: Option<String>,
    /// Address it enrolled from.
    enrolled_from: Option<String>,
    /// Version of its agent.
    agent_version: Option<String>,
    /// Its operating system.
    os: Option<String>,
}

/// Nodes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Nodes {
    /// By name: those of the definition, and those that enrolled.
    nodes: Vec<NodeOut>,
}

async fn node_rows(app: &App, name: &ClusterName) -> Result<Vec<NodeOut>> {
    let rows = state::nodes(app, name).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let status = match &row.enrolled {
                None => "not_enrolled",
                Some(n) if n.approved_ms.is_some() => "approved",
                Some(_) => "pending",
            };
            let enrolled = row.enrolled;
            NodeOut {
                node: row.name.to_string(),
                status,
                connected: row.contact.is_connected,
                heard_unix_ms: row.contact.heard_ms.or(enrolled.as_ref().and_then(|n| n.seen_ms)),
                fingerprint: enrolled.as_ref().map(|n| n.fingerprint.clone()),
                enrolled_from: enrolled.as_ref().map(|n| n.address.clone()),
                agent_version: enrolled.as_ref().and_then(|n| n.agent_version.clone()),
                os: enrolled.and_then(|n| n.os),
            }
        })
        .collect())
}

/// Nodes of a cluster.
#[utoipa::path(get, path = "/api/v1/clusters/{c}/nodes", params(("c" = String, Path)), tag = "clusters",
    responses((status = 200, body = Nodes), (status = 404)))]
pub async fn nodes(State(app): State<Arc<App>>, Names(name): Names<ClusterName>) -> Result<Json<Nodes>> {
    clusters::cluster(&app, &name).await?;
    Ok(Json(Nodes { nodes: node_rows(&app, &name).await? }))
}

/// Approves a pending node (approving it again changes nothing).
#[utoipa::path(post, path = "/api/v1/clusters/{c}/nodes/{n}/approve", params(("c" = String, Path), ("n" = String, Path)), tag = "clusters",
    responses((status = 204), (status = 404), (status = 409)))]
pub async fn approve(
    State(app): State<Arc<App>>,
    caller: Caller,
    Names((name, node)): Names<(ClusterName, NodeName)>,
) -> Result<StatusCode> {
    clusters::approve(&app, &caller, &name, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a node; its certificate is worth nothing from then on.
#[utoipa::path(delete, path = "/api/v1/clusters/{c}/nodes/{n}", params(("c" = String, Path), ("n" = String, Path)), tag = "clusters",
    responses((status = 204), (status = 404)))]
pub async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    Names((name, node)): Names<(ClusterName, NodeName)>,
) -> Result<StatusCode> {
    clusters::remove(&app, &caller, &name, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}
