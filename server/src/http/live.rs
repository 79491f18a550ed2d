//! The live stream: what changed since a page was rendered, as blocks of that page or as JSON.
//!
//! A client holds a cursor into the fleet's ring of changes. When something in its scope changed, the page's own
//! blocks are rendered as they are *now* (values are absolute, so anything between may be skipped), and those that
//! differ from what this client has are sent. No queue per client: a slow one skips, one that is too far behind
//! is told to read everything again, one that takes nothing is closed.

use super::error::{Error, Failure, Result};
use super::extract::Query;
use super::guard::{Caller, SameOrigin, caller};
use super::page::Ctx;
use super::{api_actions, pages, pages_module, state};
use crate::app::App;
use crate::auth::sha256;
use crate::fleet::{Change, Since, Topic};
use crate::rendered::Rendered;
use crate::store::events::EventFilter;
use axum::Json;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tsugi_core::ids::ModuleName;
use tsugi_web::live_ids::{Block, Scope};
use tsugi_web::render;

/// At most ten frames a second for one client.
const FRAME_EVERY: Duration = Duration::from_millis(100);
/// A sign of life even when nothing in scope changes.
const MARK_EVERY: Duration = Duration::from_secs(10);
/// The session is looked at again.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is closed.
const SEND_MAX: Duration = Duration::from_secs(5);
/// Largest frame from a client; it only ever says which scope it wants.
const IN_BYTES_MAX: usize = 64 * 1024;
/// Connections of one user: every tab of several people behind one account.
const USER_SOCKETS_MAX: u32 = 20;
/// Longest wait of a poll.
const POLL_SECONDS_MAX: u64 = 25;
/// Rendering may take at most a fifth of the time of one client's task.
const REST_FACTOR: u32 = 4;
/// Subprotocol with JSON values; anything else gets blocks of HTML.
const JSON_PROTOCOL: &str = "tsugi.live.v1+json";
const HTML_PROTOCOL: &str = "tsugi.live.v1+html";

/// Where a client stands.
#[derive(Debug, Deserialize)]
pub struct LiveQuery {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    since: u64,
    #[serde(default)]
    wait: u64,
    #[serde(default)]
    format: String,
}

/// How changes are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
}

/// Who watches what.
struct Viewer {
    app: Arc<App>,
    ctx: Ctx,
    scope: Scope,
    form: Form,
    /// Hash of each block as this client has it.
    has: BTreeMap<String, [u8; 32]>,
}

fn scope_of(text: &str) -> Result<Scope> {
    let text = if text.is_empty() { "all" } else { text };
    text.parse()
        .map_err(|_| Failure::bad_request("There is no such scope; see the live stream's description.", "そのようなスコープはありません。"))
}

/// Whether `topic` can show on a page of that scope.
fn concerns(scope: &Scope, topic: &Topic) -> bool {
    let (cluster, module) = match topic {
        Topic::Inventory { cluster } | Topic::Node { cluster, .. } => (cluster, None),
        Topic::Module { cluster, module, .. } | Topic::Work { cluster, module } | Topic::Events { cluster, module } => {
            (cluster, Some(module))
        }
        Topic::Operation { id } => return matches!(scope, Scope::Operation(wanted) if wanted == id),
    };
    let is_events = matches!(topic, Topic::Events { .. });
    match scope {
        Scope::All | Scope::Clusters => !is_events,
        Scope::Cluster(c) => c == cluster,
        Scope::Module(c, m) => c == cluster && module.is_none_or(|of| of == m),
        Scope::Events => is_events,
        Scope::Operation(_) => false,
    }
}

impl Viewer {
    /// What the changes mean for this client; empty = nothing it does not have already.
    async fn items(&mut self, changes: &[Arc<Change>]) -> Result<Vec<Value>> {
        let topics: BTreeSet<&Topic> = changes.iter().map(|c| &c.topic).filter(|t| concerns(&self.scope, t)).collect();
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        match self.form {
            Form::Html => {
                let mut items = Vec::new();
                for block in self.shared_blocks().await?.iter() {
                    if self.has.insert(block.id.clone(), block.hash) != Some(block.hash) {
                        items.push(json!({ "id": block.id, "html": block.html }));
                    }
                }
                Ok(items)
            }
            Form::Json => self.values(topics).await,
        }
    }

    /// The page's blocks as they are now, rendered once for everybody who sees the same.
    async fn shared_blocks(&self) -> Result<Arc<Vec<Rendered>>> {
        let look = (self.scope.to_string(), self.ctx.lang.code(), self.ctx.caller.as_ref().map_or("", |c| c.role.word()));
        let seq = self.app.fleet.seq();
        let cell = self.app.rendered.cell(look, seq);
        let blocks = cell
            .get_or_try_init(|| async {
                let blocks = self.blocks().await?.into_iter();
                let rendered = |b: Block| Rendered { hash: sha256(b.html.as_bytes()), id: b.id, html: b.html };
                Ok::<_, Error>(Arc::new(blocks.map(rendered).collect::<Vec<_>>()))
            })
            .await?;
        Ok(blocks.clone())
    }

    async fn blocks(&self) -> Result<Vec<Block>> {
        let (app, ctx) = (&self.app, &self.ctx);
        Ok(match &self.scope {
            Scope::All => render::dashboard_blocks(&pages::dashboard_view(app, ctx, None).await?),
            Scope::Clusters => render::clusters_blocks(&pages::clusters_view(app, ctx, String::new()).await?),
            Scope::Cluster(c) => render::cluster_blocks(&pages::cluster_view(app, ctx, c, None).await?),
            Scope::Module(c, m) => render::module_blocks(&pages_module::module_view(app, ctx, c, m).await?),
            Scope::Events => render::events_blocks(&pages::events_view(app, ctx, &pages::EventsQuery::default()).await?),
            Scope::Operation(id) => render::operation_blocks(&pages::operation_view(app, ctx, id).await?),
        })
    }

    /// The things that changed, whole, as in the API; `null` = gone.
    async fn values(&self, topics: BTreeSet<&Topic>) -> Result<Vec<Value>> {
        let mut items: BTreeMap<(&'static str, String), Value> = BTreeMap::new();
        for topic in topics {
            match topic {
                Topic::Module { cluster, module, .. } | Topic::Work { cluster, module } => {
                    let key = ("module", format!("{cluster}/{module}"));
                    if let std::collections::btree_map::Entry::Vacant(free) = items.entry(key) {
                        let value = found(state::module(&self.app, cluster, module).await)?.map(|m| m.json(&self.app, self.ctx.lang));
                        free.insert(json!(value));
                    }
                }
                Topic::Node { cluster, node } => {
                    let contact = self.app.fleet.contact(cluster, node);
                    let value = json!({ "connected": contact.is_connected, "heard_unix_ms": contact.heard_ms });
                    items.insert(("node", format!("{cluster}/{node}")), value);
                    // The health of its modules may have changed with it.
                    for module in state::modules(&self.app, cluster).await?.iter().filter(|m| m.module.nodes.contains(node)) {
                        if matches!(&self.scope, Scope::Module(_, wanted) if *wanted != module.module.name) {
                            continue;
                        }
                        items.insert(("module", format!("{cluster}/{}", module.module.name)), module.json(&self.app, self.ctx.lang));
                    }
                }
                Topic::Inventory { cluster } => {
                    let modules: Vec<ModuleName> = self.app.store.modules(cluster).await?.into_iter().map(|m| m.name).collect();
                    items.insert(("cluster", cluster.to_string()), json!({ "modules": modules }));
                }
                Topic::Operation { id } => {
                    let operation = self.app.store.operation(id).await?;
                    items.insert(("operation", id.clone()), json!(operation.map(|o| api_actions::operation_json(&o, self.ctx.lang))));
                }
                Topic::Events { cluster, module } => {
                    let filter = EventFilter {
                        cluster: Some(cluster.as_str()),
                        module: Some(module.as_str()),
                        limit: pages::EVENTS_SHOWN,
                        ..Default::default()
                    };
                    let newest = self.app.store.events(&filter).await?;
                    let records: Vec<Value> = newest.into_iter().map(|e| json!({ "id": e.id, "event": e.record })).collect();
                    items.insert(("events", format!("{cluster}/{module}")), json!(records));
                }
            }
        }
        Ok(items.into_iter().map(|((k, id), v)| json!({ "k": k, "id": id, "v": v })).collect())
    }
}

/// A thing that is gone is a value, not an error.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// `GET /live/snapshot`: everything, with the number from which to go on.
pub async fn snapshot(State(app): State<Arc<App>>, ctx: Ctx) -> Result<Json<Value>> {
    // Taken first: a change that comes while reading is sent again, which does no harm.
    let seq = app.fleet.seq();
    let mut clusters = Vec::new();
    for cluster in app.store.clusters().await? {
        let modules: Vec<Value> = state::modules(&app, &cluster.name).await?.iter().map(|m| m.json(&app, ctx.lang)).collect();
        let nodes: Vec<Value> = state::nodes(&app, &cluster.name)
            .await?
            .iter()
            .map(|n| json!({ "node": n.name, "connected": n.contact.is_connected, "heard_unix_ms": n.contact.heard_ms }))
            .collect();
        clusters.push(json!({ "name": cluster.name, "generation": cluster.generation, "nodes": nodes, "modules": modules }));
    }
    Ok(Json(json!({ "epoch": app.fleet.epoch, "seq": seq, "state": { "clusters": clusters } })))
}

/// `GET /live/deltas`: the same by polling; 410 = read everything again.
pub async fn deltas(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<LiveQuery>) -> Result<Response> {
    let gone = || {
        Failure::new(
            StatusCode::GONE,
            "too_old",
            "The console no longer has these changes; read the snapshot again.",
            "この位置からの変更は残っていません。スナップショットを取り直してください。",
        )
    };
    if query.epoch != app.fleet.epoch {
        return Err(gone());
    }
    let form = if query.format == "json" { Form::Json } else { Form::Html };
    let mut viewer = Viewer { app: app.clone(), ctx, scope: scope_of(&query.scope)?, form, has: BTreeMap::new() };
    let until = Instant::now() + Duration::from_secs(query.wait.min(POLL_SECONDS_MAX));
    let mut cursor = query.since;
    let mut watch = app.fleet.watch();
    loop {
        watch.mark_unchanged();
        let Since::Changes(changes) = app.fleet.since(cursor) else { return Err(gone()) };
        cursor = changes.last().map_or(cursor, |c| c.seq);
        let items = viewer.items(&changes).await?;
        if !items.is_empty() || Instant::now() >= until {
            return Ok(Json(json!({ "t": "delta", "seq": cursor, "at": now(), "items": items })).into_response());
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return Err(gone()),
            _ = watch.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// What a browser's session or a program's token allows, to be looked at again while the socket is open.
#[derive(Debug, Clone)]
pub struct Credentials(HeaderMap);

impl<S: Send + Sync> FromRequestParts<S> for Credentials {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Self::Rejection> {
        Ok(Credentials(parts.headers.clone()))
    }
}

/// A place among a user's sockets, given back when dropped.
struct Place {
    app: Arc<App>,
    user: String,
}

impl Place {
    fn take(app: &Arc<App>, user: &str) -> Option<Place> {
        let mut users = app.live_users.lock().expect("nobody panics while holding this lock");
        let count = users.entry(user.to_owned()).or_default();
        if *count >= USER_SOCKETS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { app: app.clone(), user: user.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.app.live_users.lock().expect("nobody panics while holding this lock");
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// `GET /ws/live`.
pub async fn socket(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    _same: SameOrigin,
    Query(query): Query<LiveQuery>,
    Credentials(headers): Credentials,
    upgrade: std::result::Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade =
        upgrade.map_err(|_| Failure::bad_request("This address takes WebSocket connections only.", "この URL は WebSocket 専用です。"))?;
    let scope = scope_of(&query.scope)?;
    let who = ctx.caller()?.clone();
    let place = Place::take(&app, &who.name).ok_or_else(|| {
        Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_sockets",
            format!("You have {USER_SOCKETS_MAX} live connections open; close some pages."),
            format!("ライブ接続が {USER_SOCKETS_MAX} 本開いています。不要なページを閉じてください。"),
        )
    })?;
    let asked = headers.get("sec-websocket-protocol").and_then(|p| p.to_str().ok()).unwrap_or_default();
    let form = if asked.split(',').any(|p| p.trim() == JSON_PROTOCOL) { Form::Json } else { Form::Html };
    let upgrade = upgrade.protocols([HTML_PROTOCOL, JSON_PROTOCOL]).max_message_size(IN_BYTES_MAX).max_frame_size(IN_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _place = place;
        let is_current = query.epoch == app.fleet.epoch;
        let cursor = if query.epoch.is_empty() { Some(app.fleet.seq()) } else { is_current.then_some(query.since) };
        let viewer = Viewer { app, ctx, scope, form, has: BTreeMap::new() };
        let mut client = Client { socket, viewer, who, headers, cursor: cursor.unwrap_or(0), is_lost: cursor.is_none() };
        // How it ends is the client's matter; nothing here is worth more than a trace.
        let end = client.run().await;
        tracing::debug!(user.name = client.who.name, ?end, "A live connection ended.");
    }))
}

/// How a live connection ends.
#[derive(Debug)]
enum End {
    Closed,
    Slow,
    SignedOut,
    RoleChanged,
    Shutdown,
    Failed(#[allow(dead_code)] Error),
}

struct Client {
    socket: WebSocket,
    viewer: Viewer,
    who: Caller,
    headers: HeaderMap,
    cursor: u64,
    /// The cursor is of another life of the console.
    is_lost: bool,
}

impl Client {
    async fn run(&mut self) -> End {
        match self.talk().await {
            Ok(never) => match never {},
            Err(end) => {
                let close = match &end {
                    End::SignedOut => Some((4401, "signed out")),
                    End::RoleChanged => Some((4403, "role changed")),
                    End::Shutdown => Some((1012, "restart")),
                    End::Failed(_) => Some((1011, "the console failed")),
                    End::Closed | End::Slow => None,
                };
                if let Some((code, why)) = close {
                    if matches!(end, End::Shutdown) {
                        let _ = self.say(json!({ "t": "bye", "why": "restart", "retry_ms": 3000 })).await;
                    }
                    let frame = Message::Close(Some(CloseFrame { code, reason: why.into() }));
                    let _ = tokio::time::timeout(SEND_MAX, self.socket.send(frame)).await;
                }
                end
            }
        }
    }

    async fn talk(&mut self) -> std::result::Result<std::convert::Infallible, End> {
        let app = self.viewer.app.clone();
        let mut changes = app.fleet.watch();
        let mut mark = interval_at(Instant::now() + MARK_EVERY, MARK_EVERY);
        let mut check = interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.is_lost {
            self.reset("epoch").await?;
        }
        // What came between the page and this connection.
        changes.mark_changed();
        let mut quiet_until = Instant::now();
        loop {
            tokio::select! {
                () = app.shutdown.cancelled() => return Err(End::Shutdown),
                changed = async {
                    tokio::time::sleep_until(quiet_until).await;
                    changes.changed().await
                } => {
                    if changed.is_err() {
                        return Err(End::Shutdown);
                    }
                    let began = Instant::now();
                    if self.catch_up().await? {
                        mark.reset();
                    }
                    quiet_until = Instant::now() + FRAME_EVERY.max(began.elapsed() * REST_FACTOR);
                }
                _ = mark.tick() => self.say(json!({ "t": "mark", "seq": self.cursor })).await?,
                _ = check.tick() => self.check_session().await?,
                frame = self.socket.recv() => self.take(frame).await?,
            }
        }
    }

    /// Sends what is new in scope; whether anything was.
    async fn catch_up(&mut self) -> std::result::Result<bool, End> {
        let changes = match self.viewer.app.fleet.since(self.cursor) {
            Since::Changes(changes) => changes,
            Since::Gap => {
                self.reset("gap").await?;
                return Ok(true);
            }
        };
        let Some(last) = changes.last().map(|c| c.seq) else { return Ok(false) };
        let items = match self.viewer.items(&changes).await {
            Ok(items) => items,
            // The page's subject is gone: the page itself will say so.
            Err(error) if error.status == StatusCode::NOT_FOUND => {
                self.reset("gone").await?;
                return Ok(true);
            }
            Err(error) => return Err(End::Failed(error)),
        };
        self.cursor = last;
        if items.is_empty() {
            return Ok(false);
        }
        self.say(json!({ "t": "delta", "seq": last, "at": now(), "items": items })).await?;
        Ok(true)
    }

    async fn reset(&mut self, why: &str) -> std::result::Result<(), End> {
        self.cursor = self.viewer.app.fleet.seq();
        self.viewer.has.clear();
        self.say(json!({ "t": "reset", "why": why })).await
    }

    async fn check_session(&mut self) -> std::result::Result<(), End> {
        // Read without touching: a page left open does not keep its session alive.
        match caller(&self.viewer.app, &self.headers, self.who.address, false).await {
            Ok(Some(now)) if now.role == self.who.role => Ok(()),
            Ok(Some(_)) => Err(End::RoleChanged),
            Ok(None) => Err(End::SignedOut),
            Err(error) => Err(End::Failed(error)),
        }
    }

    async fn take(&mut self, frame: Option<std::result::Result<Message, axum::Error>>) -> std::result::Result<(), End> {
        #[derive(Deserialize)]
        struct Wish {
            t: String,
            v: String,
        }
        match frame {
            None | Some(Err(_) | Ok(Message::Close(_))) => Err(End::Closed),
            Some(Ok(Message::Text(text))) => {
                let wish: Option<Wish> = serde_json::from_str(&text).ok();
                if let Some(scope) = wish.filter(|w| w.t == "scope").and_then(|w| w.v.parse().ok()) {
                    self.viewer.scope = scope;
                    self.viewer.has.clear();
                }
                Ok(())
            }
            Some(Ok(_)) => Ok(()),
        }
    }

    async fn say(&mut self, frame: Value) -> std::result::Result<(), End> {
        match tokio::time::timeout(SEND_MAX, self.socket.send(Message::Text(frame.to_string().into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => Err(End::Slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::{ClusterName, NodeName};

    #[test]
    fn a_change_concerns_the_pages_that_show_it() {
        let (c1, m, n) = (ClusterName::new("c1").unwrap(), ModuleName::new("m").unwrap(), NodeName::new("n").unwrap());
        let module = Topic::Module { cluster: c1.clone(), module: m.clone(), node: n.clone() };
        let of = |text: &str| text.parse::<Scope>().unwrap();
        for (scope, expected) in
            [("all", true), ("cluster:c1", true), ("module:c1/m", true), ("module:c1/x", false), ("cluster:c2", false), ("events", false)]
        {
            assert_eq!(concerns(&of(scope), &module), expected, "{scope}");
        }
        let node = Topic::Node { cluster: c1.clone(), node: n };
        assert!(concerns(&of("module:c1/m"), &node), "contact is part of a module's page");
        let events = Topic::Events { cluster: c1, module: m };
        for (scope, expected) in [("all", false), ("events", true), ("module:c1/m", true)] {
            assert_eq!(concerns(&of(scope), &events), expected, "{scope}");
        }
        assert!(concerns(&of("op:1"), &Topic::Operation { id: "1".into() }));
    }
}
