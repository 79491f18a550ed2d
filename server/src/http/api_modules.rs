//! API: modules, their versions, checks, and bringing them to the nodes.

use super::api_auth::audit_with;
use super::clusters;
use super::error::{Result, not_ordered, problems};
use super::extract::{Body, MaybeBody, Names, NoQuery, Tongue};
use super::guard::Caller;
use super::{api_actions, state};
use crate::app::App;
use crate::deploy::{self, Author, Draft};
use crate::{actions, http::error::Failure};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::state::State as NodeRole;
use utoipa::ToSchema;

/// Modules.
#[derive(Debug, Serialize, ToSchema)]
pub struct Modules {
    /// By name, each as under `/modules/{m}`.
    #[schema(value_type = Vec<Object>)]
    modules: Vec<Value>,
}

/// Modules of a cluster with their health and each node's last word.
#[utoipa::path(get, path = "/api/v1/clusters/{c}/modules", params(("c" = String, Path)), tag = "modules",
    responses((status = 200, body = Modules), (status = 404)))]
pub async fn list(State(app): State<Arc<App>>, Tongue(lang): Tongue, Names(cluster): Names<ClusterName>) -> Result<Json<Modules>> {
    clusters::cluster(&app, &cluster).await?;
    let modules = state::modules(&app, &cluster).await?.iter().map(|m| m.json(&app, lang)).collect();
    Ok(Json(Modules { modules }))
}

/// Body of a new module.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModuleBody {
    /// Name.
    #[schema(value_type = String)]
    name: ModuleName,
    /// Nodes it lives on; the order is kept.
    #[schema(value_type = Vec<String>)]
    nodes: Vec<NodeName>,
    /// Text of `conf/userconfig.xml`.
    userconfig: String,
    /// File name under `bin/` → text.
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

/// A version just stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionAdded {
    /// Name of the module.
    name: String,
    /// Its number.
    version: u64,
    /// Warnings.
    #[schema(value_type = Vec<Object>)]
    problems: Value,
}

/// Stores a module's version 1. Nothing reaches the nodes before `apply`.
#[utoipa::path(post, path = "/api/v1/clusters/{c}/modules", params(("c" = String, Path)), request_body = ModuleBody, tag = "modules",
    responses((status = 201, body = VersionAdded), (status = 409), (status = 422, description = "problems with file, line and column; nothing stored")))]
pub async fn add(
    State(app): State<Arc<App>>,
    caller: Caller,
    Tongue(lang): Tongue,
    Names(cluster): Names<ClusterName>,
    Body(body): Body<ModuleBody>,
) -> Result<(StatusCode, Json<VersionAdded>)> {
    let draft = Draft { module: &body.name, nodes: &body.nodes, userconfig: &body.userconfig, scripts: &body.scripts };
    let warnings = deploy::add_module(&app, &cluster, draft, Author { by: &caller.name, reason: body.reason.as_deref() }).await?;
    let object = format!("{cluster}/{}", body.name);
    audit_with(&app, &caller, "module.add", &object, body.reason.as_deref(), json!({ "nodes": body.nodes })).await?;
    Ok((StatusCode::CREATED, Json(VersionAdded { name: body.name.to_string(), version: 1, problems: problems(&warnings, lang) })))
}

/// A module: health, and per node its last word, whether it is heard, the age of that word, and in the caller's language
/// why it is not green and what helps (`why`).
#[utoipa::path(get, path = "/api/v1/clusters/{c}/modules/{m}", params(("c" = String, Path), ("m" = String, Path)), tag = "modules",
    responses((status = 200, body = Object), (status = 404)))]
pub async fn one(
    State(app): State<Arc<App>>,
    Tongue(lang): Tongue,
    Names((cluster, module)): Names<(ClusterName, ModuleName)>,
) -> Result<Json<Value>> {
    Ok(Json(state::module(&app, &cluster, &module).await?.json(&app, lang)))
}

/// Body of a version or a check.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionBody {
    /// Text of `conf/userconfig.xml`.
    userconfig: String,
    /// File name under `bin/` → text.
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

/// Stores the next version.
#[utoipa::path(post, path = "/api/v1/clusters/{c}/modules/{m}/versions", params(("c" = String, Path), ("m" = String, Path)),
    request_body = VersionBody, tag = "modules", responses((status = 201, body = VersionAdded), (status = 404), (status = 422)))]
pub async fn add_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Tongue(lang): Tongue,
    Names((cluster, name)): Names<(ClusterName, ModuleName)>,
    Body(body): Body<VersionBody>,
) -> Result<(StatusCode, Json<VersionAdded>)> {
    let module = app.store.module(&cluster, &name).await?.ok_or_else(Failure::not_found)?;
    let author = Author { by: &caller.name, reason: body.reason.as_deref() };
    let (version, warnings) = deploy::add_version(&app, &module, &body.userconfig, &body.scripts, author).await?;
    audit_with(&app, &caller, "module.version", &format!("{cluster}/{name}"), body.reason.as_deref(), json!({ "version": version }))
        .await?;
    Ok((StatusCode::CREATED, Json(VersionAdded { name: name.to_string(), version, problems: problems(&warnings, lang) })))
}

/// Every version, newest first, with its texts.
#[utoipa::path(get, path = "/api/v1/clusters/{c}/modules/{m}/versions", params(("c" = String, Path), ("m" = String, Path)), tag = "modules",
    responses((status = 200, body = Object), (status = 404)))]
pub async fn versions(State(app): State<Arc<App>>, Names((cluster, name)): Names<(ClusterName, ModuleName)>) -> Result<Json<Value>> {
    let module = app.store.module(&cluster, &name).await?.ok_or_else(Failure::not_found)?;
    let versions: Vec<Value> = app
        .store
        .versions(&cluster, &name)
        .await?
        .into_iter()
        .map(|v| {
            json!({
                "version": v.version, "by": v.by, "reason": v.reason, "created_unix_ms": v.created_ms,
                "applied": module.applied_version == Some(v.version), "userconfig": v.userconfig, "scripts": v.scripts,
            })
        })
        .collect();
    Ok(Json(json!({ "versions": versions })))
}

/// Checks a configuration without storing it.
#[utoipa::path(post, path = "/api/v1/clusters/{c}/modules/{m}/check", params(("c" = String, Path), ("m" = String, Path)),
    request_body = VersionBody, tag = "modules", responses((status = 200, description = "`ok`, and the problems with file, line and column", body = Object), (status = 404)))]
pub async fn check(
    State(app): State<Arc<App>>,
    Tongue(lang): Tongue,
    Names((cluster, name)): Names<(ClusterName, ModuleName)>,
    Body(body): Body<VersionBody>,
) -> Result<Json<Value>> {
    let module = app.store.module(&cluster, &name).await?.ok_or_else(Failure::not_found)?;
    let draft = Draft { module: &name, nodes: &module.nodes, userconfig: &body.userconfig, scripts: &body.scripts };
    let checked = deploy::check_draft(&app, &cluster, draft).await?;
    Ok(Json(json!({ "ok": checked.def.is_some(), "problems": problems(&checked.problems, lang) })))
}

/// Body of an apply.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyBody {
    /// Which version; absent = the newest.
    #[serde(default)]
    version: Option<u64>,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

/// Brings a version to every node of the module, or to none: every node in contact is asked first, and the problems of
/// each are in the operation. A node out of contact gets it when it returns.
#[utoipa::path(post, path = "/api/v1/clusters/{c}/modules/{m}/apply", params(("c" = String, Path), ("m" = String, Path)),
    request_body = ApplyBody, tag = "modules", responses((status = 202, body = api_actions::Ordered), (status = 404), (status = 409)))]
pub async fn apply(
    State(app): State<Arc<App>>,
    caller: Caller,
    Tongue(lang): Tongue,
    Names((cluster, name)): Names<(ClusterName, ModuleName)>,
    _: NoQuery,
    MaybeBody(body): MaybeBody<ApplyBody>,
) -> Result<api_actions::Accepted> {
    let operation = do_apply(&app, &caller, &cluster, &name, body.version, body.reason).await?;
    Ok(api_actions::Accepted::new(&operation, lang))
}

/// Applies a version, for API and pages.
pub async fn do_apply(
    app: &Arc<App>,
    caller: &Caller,
    cluster: &ClusterName,
    name: &ModuleName,
    version: Option<u64>,
    reason: Option<String>,
) -> Result<actions::Operation> {
    let module = app.store.module(cluster, name).await?.ok_or_else(Failure::not_found)?;
    let found = app.store.version(cluster, name, version).await?.ok_or_else(Failure::not_found)?;
    let (task_app, caller) = (app.clone(), caller.clone());
    actions::to_the_end(app, async move {
        let (number, object) = (found.version, format!("{}/{}", module.cluster, module.name));
        let applied = actions::apply(&task_app, &module, found, &caller.name, reason.clone()).await;
        let operation = applied.map_err(|e| not_ordered(e, &module.name))?;
        audit_with(&task_app, &caller, "module.apply", &object, reason.as_deref(), json!({ "version": number })).await?;
        Ok(operation)
    })
    .await
}

/// Removes a stopped module from console and nodes.
#[utoipa::path(delete, path = "/api/v1/clusters/{c}/modules/{m}", params(("c" = String, Path), ("m" = String, Path)), tag = "modules",
    responses((status = 202, body = api_actions::Ordered), (status = 404), (status = 409, description = "it runs")))]
pub async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    Tongue(lang): Tongue,
    Names((cluster, name)): Names<(ClusterName, ModuleName)>,
    _: NoQuery,
) -> Result<api_actions::Accepted> {
    let state = state::module(&app, &cluster, &name).await?;
    if let Some(report) = state.reports.iter().find(|r| r.now().is_some_and(|s| s.state != NodeRole::Stop)) {
        return Err(Failure::conflict(
            "module_runs",
            format!("{name} runs on {}; stop it first.", report.node),
            format!("{name} は {} で動いています。先に停止してください。", report.node),
        ));
    }
    let task_app = app.clone();
    let removed = actions::to_the_end(&app, async move {
        let operation = actions::remove(&task_app, &state.module, &caller.name, None).await.map_err(|e| not_ordered(e, &name))?;
        audit_with(&task_app, &caller, "module.remove", &format!("{cluster}/{name}"), None, Value::Null).await?;
        Result::Ok(operation)
    });
    let operation = removed.await?;
    Ok(api_actions::Accepted::new(&operation, lang))
}
