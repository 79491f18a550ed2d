//! API: actions on modules, operations, events.

use super::error::{Failure, Result, not_ordered};
use super::extract::{MaybeBody, Names, Query, Tongue};
use super::guard::Caller;
use super::{clusters, state, views, words};
use crate::actions::{self, ActionRequest, NodeRehearsal, Operation, RequestKey, choose};
use crate::app::App;
use crate::auth::sha256;
use crate::store::events::{EventFilter, level_word};
use crate::words::Lang;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tsugi_core::command::Verb;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::rehearsal::Rehearsed;
use tsugi_web::say;
use utoipa::ToSchema;

/// Body of an action.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// Which node. Absent: start → every stopped node; stop → all, secondary first; restart, swap → the node that
    /// serves; resolve, maintenance → all. `prim`, `primforce`, `second`, `stopstart` need it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    node: Option<NodeName>,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
    /// `resolve`: the node whose data goes on; the other one gives its copy up.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    keep: Option<NodeName>,
    /// `maintenance`: how long at most, 1 to 1440 (default 30); 0 ends it.
    #[serde(default)]
    minutes: Option<u32>,
    /// `prim`: this copy may be older.
    #[serde(default)]
    accept_loss: bool,
    /// `second`: give this copy up and take the source's whole.
    #[serde(default)]
    full_sync: bool,
    /// Hash of the plan a dry run gave: refused with 409 when the state has changed since.
    #[serde(default)]
    plan_hash: Option<String>,
}

/// Query of an action.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ActionQuery {
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// An operation was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ordered {
    /// The operation, as under `/operations/{id}`.
    #[schema(value_type = Object)]
    operation: Value,
}

/// 202 with the operation and where to watch it.
#[derive(Debug)]
pub struct Accepted {
    location: String,
    body: Ordered,
}

impl Accepted {
    /// … in `lang`.
    pub fn new(operation: &Operation, lang: Lang) -> Accepted {
        Accepted { location: format!("/api/v1/operations/{}", operation.id), body: Ordered { operation: operation_json(operation, lang) } }
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, [(header::LOCATION, self.location)], Json(self.body)).into_response()
    }
}

/// An operation as in the API.
pub fn operation_json(operation: &Operation, lang: Lang) -> Value {
    let nodes: Vec<Value> = operation
        .nodes
        .iter()
        .map(|part| {
            json!({
                "node": part.node, "state": part.state, "why": part.why, "problems": part.problems,
                "message": part.why.as_ref().map(|n| words::note(n, &operation.module, &part.node).of(lang).to_owned()),
            })
        })
        .collect();
    json!({
        "id": operation.id, "cluster": operation.cluster, "module": operation.module, "verb": operation.verb, "what": operation.what,
        "state": operation.state, "by": operation.by, "reason": operation.reason, "created_unix_ms": operation.created_unix_ms,
        "ended_unix_ms": operation.ended_unix_ms, "interrupted_ms": operation.interrupted_ms, "nodes": nodes, "message": words::operation(operation).of(lang),
    })
}

/// Orders an action, or says with `dry_run=true` what it would do.
#[utoipa::path(post, path = "/api/v1/clusters/{c}/modules/{m}/actions/{verb}",
    params(("c" = String, Path), ("m" = String, Path), ("verb" = String, Path, description = "start, stop, restart, swap, stopstart, prim, primforce, second, resolve, maintenance, verify"), ActionQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "the same key again gives the same operation")),
    request_body = ActionBody, tag = "actions",
    responses((status = 200, description = "dry run: the plan, and in `rehearsal` what each node says it would do, step by step", body = Object), (status = 202, body = Ordered),
        (status = 409, description = "refused, another operation runs, or the plan is stale")))]
pub async fn act(
    State(app): State<Arc<App>>,
    caller: Caller,
    Tongue(lang): Tongue,
    Names((cluster, name, verb)): Names<(ClusterName, ModuleName, String)>,
    Query(query): Query<ActionQuery>,
    headers: HeaderMap,
    MaybeBody(body): MaybeBody<ActionBody>,
) -> Result<Response> {
    let options =
        choose::Options { accept_loss: body.accept_loss, full_sync: body.full_sync, keep: body.keep.clone(), minutes: body.minutes };
    let verb = verb_of(&verb, options)?;
    if query.dry_run {
        return Ok(Json(dry_run(&app, &caller, lang, &cluster, &name, &verb, body.node.as_ref()).await?).into_response());
    }
    let hash = sha256(json!([cluster, name, verb, body]).to_string().as_bytes()).to_vec();
    let key = key(&headers)?.map(|key| RequestKey { key, hash });
    if let Some(key) = &key
        && let Some(operation) = made_before(&app, &caller, key).await?
    {
        return Ok(Accepted::new(&operation, lang).into_response());
    }
    let ordered = order(&app, &caller, &cluster, &name, verb, body.node, body.reason, body.plan_hash.as_deref(), key.clone()).await;
    let operation = match (ordered, key) {
        (Ok(operation), _) => operation,
        // The same request twice at once: the other one came first.
        (Err(failure), Some(key)) if failure.code == "operation_running" => made_before(&app, &caller, &key).await?.ok_or(failure)?,
        (Err(failure), _) => return Err(failure),
    };
    Ok(Accepted::new(&operation, lang).into_response())
}

/// Longest key of a request.
const KEY_BYTES_MAX: usize = 255;

/// The request's key. One that cannot be kept is refused: without it a retry would be a second order.
fn key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => Err(Failure::bad_request(
            format!("Idempotency-Key must be 1 to {KEY_BYTES_MAX} printable ASCII characters."),
            format!("Idempotency-Key は印字可能な ASCII 文字 1～{KEY_BYTES_MAX} 字で指定してください。"),
        )),
    }
}

/// The operation an earlier request with that key made.
async fn made_before(app: &App, caller: &Caller, key: &RequestKey) -> Result<Option<Operation>> {
    let Some((hash, id)) = app.store.idempotent(&caller.name, &key.key).await? else { return Ok(None) };
    if hash != key.hash {
        return Err(Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key_reused",
            "This Idempotency-Key was used for another request; take a new one.",
            "この Idempotency-Key は別のリクエストで使われています。新しいキーにしてください。",
        ));
    }
    Ok(Some(app.store.operation(&id).await?.ok_or_else(Failure::not_found)?))
}

/// The order of a word and its options, or what is missing.
pub fn verb_of(word: &str, options: choose::Options) -> Result<Verb> {
    choose::verb_of(word, options).map_err(|why| match why {
        choose::NoVerb::Unknown => Failure::not_found(),
        choose::NoVerb::KeepMissing => Failure::bad_request(
            "`resolve` needs the node whose data is kept: {\"keep\": \"…\"}.",
            "「resolve」にはデータを残すノードの指定が必要です（{\"keep\": \"…\"}）。",
        ),
    })
}

/// Orders an action, for API and pages.
#[allow(clippy::too_many_arguments)]
pub async fn order(
    app: &Arc<App>,
    caller: &Caller,
    cluster: &ClusterName,
    name: &ModuleName,
    verb: Verb,
    node: Option<NodeName>,
    reason: Option<String>,
    plan_hash: Option<&str>,
    key: Option<RequestKey>,
) -> Result<Operation> {
    let state = state::module(app, cluster, name).await?;
    if node.is_none() && choose::needs_node(&verb) {
        let word = verb.word();
        return Err(Failure::bad_request(
            format!("`{word}` needs the node it is for: {{\"node\": \"…\"}}."),
            format!("「{word}」には対象ノードの指定が必要です（{{\"node\": \"…\"}}）。"),
        ));
    }
    if plan_hash.is_some_and(|hash| hash != views::plan_hash(&state, &verb, node.as_ref())) {
        return Err(Failure::conflict(
            "plan_stale",
            "The module's state has changed since the plan was made; look at the new plan and order again.",
            "計画を作成した後にモジュールの状態が変わりました。新しい計画を確認して、もう一度実行してください。",
        ));
    }
    let request =
        ActionRequest { verb, node, by: caller.name.clone(), address: caller.address.to_string(), via: caller.via(), reason, key };
    actions::submit(app, &state.module, request).await.map_err(|e| not_ordered(e, name))
}

async fn dry_run(
    app: &App,
    caller: &Caller,
    lang: Lang,
    cluster: &ClusterName,
    name: &ModuleName,
    verb: &Verb,
    node: Option<&NodeName>,
) -> Result<Value> {
    let stored = clusters::cluster(app, cluster).await?;
    let state = state::module(app, cluster, name).await?;
    let view = views::module(&stored, &state);
    let interruption = views::interruption(app, verb, &state).await?;
    let plan = say::plan(lang, &view, verb, &views::target(node), &interruption);
    let targets = choose::targets(verb, node, &state.reports);
    let mut preconditions: Vec<Value> = plan.ticks.iter().map(|t| json!({ "ok": t.is_ok, "text": t.text })).collect();
    if let Err(why) = &targets {
        let text = words::refusal(&why.refusal, name, &why.node).of(lang).to_owned();
        preconditions.push(json!({ "ok": false, "text": text, "node": why.node, "refusal": why.refusal }));
    }
    let running = state::running(app, cluster, name);
    let asked = targets.as_deref().unwrap_or_default();
    let rehearsal = actions::rehearse(app, &state.module, verb, asked, &caller.name).await;
    let rehearsal: Vec<Value> = rehearsal.iter().map(|r| rehearsal_json(r, name, lang)).collect();
    Ok(json!({
        "verb": verb.word(),
        "question": plan.question,
        "effects": plan.steps.iter().enumerate().map(|(n, s)| json!({ "n": n + 1, "text": s.text })).collect::<Vec<_>>(),
        "interruption": plan.interruption.map(|(title, detail)| json!({ "title": title, "detail": detail })),
        "rehearsal": rehearsal,
        "preconditions": preconditions,
        "targets": targets.as_ref().unwrap_or(&Vec::new()),
        "possible": targets.is_ok() && running.is_none(),
        "operation": running,
        "grade": match plan.grade { say::Grade::Simple => 1, say::Grade::Impact => 2, say::Grade::Danger => 3 },
        "cli": plan.command,
        "plan_hash": views::plan_hash(&state, verb, node),
    }))
}

/// What a node says it would do: `steps` in words and typed; `message` when it would refuse, or said nothing.
fn rehearsal_json(of: &NodeRehearsal, module: &ModuleName, lang: Lang) -> Value {
    let Some(rehearsal) = &of.rehearsal else {
        let text = say::not_rehearsed(lang, &of.node);
        return json!({ "node": of.node, "refusal": null, "message": text, "steps": [] });
    };
    let message = rehearsal.refusal.as_ref().map(|r| words::refusal(r, module, &of.node).of(lang).to_owned());
    let step = |(at, step): (usize, &Rehearsed)| json!({ "n": at + 1, "text": say::rehearsed(lang, step), "step": step });
    let steps: Vec<Value> = rehearsal.steps.iter().enumerate().map(step).collect();
    json!({ "node": of.node, "refusal": rehearsal.refusal, "message": message, "steps": steps })
}

/// One operation.
#[utoipa::path(get, path = "/api/v1/operations/{id}", params(("id" = String, Path)), tag = "actions",
    responses((status = 200, body = Object), (status = 404)))]
pub async fn operation(State(app): State<Arc<App>>, Tongue(lang): Tongue, Names(id): Names<String>) -> Result<Json<Value>> {
    let operation = app.store.operation(&id).await?.ok_or_else(Failure::not_found)?;
    Ok(Json(operation_json(&operation, lang)))
}

/// Which operations.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct OperationsQuery {
    /// Only of this cluster; `module` is needed too.
    #[param(value_type = Option<String>)]
    cluster: Option<ClusterName>,
    /// Only of this module.
    #[param(value_type = Option<String>)]
    module: Option<ModuleName>,
    /// At most so many (1 to 500, default 50).
    limit: Option<u32>,
}

/// The newest operations.
#[utoipa::path(get, path = "/api/v1/operations", params(OperationsQuery), tag = "actions", responses((status = 200, body = Object)))]
pub async fn operations(State(app): State<Arc<App>>, Tongue(lang): Tongue, Query(query): Query<OperationsQuery>) -> Result<Json<Value>> {
    let of = query.cluster.as_ref().zip(query.module.as_ref());
    let operations = app.store.operations(of, query.limit.unwrap_or(50).clamp(1, 500)).await?;
    Ok(Json(json!({ "operations": operations.iter().map(|o| operation_json(o, lang)).collect::<Vec<_>>() })))
}

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only of this cluster.
    cluster: Option<String>,
    /// Only of this module.
    module: Option<String>,
    /// This level and louder: `info`, `notice`, `warning`, `critical`.
    level: Option<String>,
    /// Only after this `id`, oldest first; without it the newest ones.
    after: Option<i64>,
    /// At most so many (1 to 1000, default 200).
    limit: Option<u32>,
}

/// Events of the nodes, oldest first.
#[utoipa::path(get, path = "/api/v1/events", params(EventsQuery), tag = "events",
    responses((status = 200, description = "`events`, and `next`: the value for `after` to go on with", body = Object)))]
pub async fn events(State(app): State<Arc<App>>, Tongue(lang): Tongue, Query(query): Query<EventsQuery>) -> Result<Json<Value>> {
    let filter = EventFilter {
        cluster: query.cluster.as_deref(),
        module: query.module.as_deref(),
        level: query.level.as_deref(),
        after: query.after,
        before: None,
        limit: query.limit.unwrap_or(200).clamp(1, 1000),
    };
    let events = app.store.events(&filter).await?;
    let next = events.last().map(|e| e.id).or(query.after);
    let rows: Vec<Value> = events
        .iter()
        .map(|e| {
            let mut row = serde_json::to_value(&e.record).unwrap_or_default();
            row["id"] = json!(e.id);
            row["cluster"] = json!(e.cluster);
            row["level"] = json!(level_word(e.record.event.level()));
            let said = say::event(lang, &e.record.event, &e.record.module, &e.record.node);
            row["message"] = json!(said.text);
            // Why, and what helps; words of the same sentence as on the page.
            row["next"] = json!(said.next);
            row["remedy"] = json!(said.remedy);
            row["command"] = json!(said.command);
            row["on"] = json!(said.on);
            row
        })
        .collect();
    Ok(Json(json!({ "events": rows, "next": next })))
}
