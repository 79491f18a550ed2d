//! One agent's WebSocket: what the node has is compared with what it should have, and what it says is kept.
//!
//! Level, not edge: a connection is told only "compare again" (`sync`), and then reads from the store what the
//! node should have. A message lost with a connection is found again by the next comparison.

use super::{Denied, node_of};
use crate::actions;
use crate::app::App;
use crate::fleet::{Attached, SILENCE_MAX, Topic};
use crate::net::Peer;
use crate::pki::Identity;
use crate::store::StoreError;
use crate::store::modules::DeployResult;
use crate::store::nodes::Node;
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tsugi_core::event::EventRecord;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::wire::console::{AgentMsg, ConsoleMsg, Deployment, FRAME_BYTES_MAX, PROTOCOL};

/// Longest wait for the first frame, and for a frame to leave: an agent that is slower is cut off and dials again.
const FRAME_MAX: Duration = Duration::from_secs(10);
/// Events stored in one transaction; more wait for the next.
const EVENTS_AT_ONCE: usize = 256;
/// A connection without any frame for this long is dead, whatever TCP believes.
const DEAD_AFTER: Duration = Duration::from_secs(SILENCE_MAX.as_secs() * 2);

pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Denied> {
    let (identity, node) = node_of(&app, &peer).await?;
    let identity = identity.clone();
    let upgrade = upgrade.max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let mut session =
            Session { app: app.clone(), identity, node, socket, have: BTreeMap::new(), sent: BTreeMap::new(), cluster_generation: 0 };
        if let Err(end) = session.run().await {
            tracing::info!(
                cluster.name = %session.identity.cluster, node.name = %session.identity.node, error = &end as &dyn std::error::Error,
                "An agent's connection ended."
            );
        }
    }))
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the connection broke")]
    Broken(#[from] axum::Error),
    #[error("the agent closed it")]
    Closed,
    #[error("the agent was too slow or silent")]
    Slow,
    #[error("the agent said what this console does not understand: {0}")]
    Protocol(String),
    #[error("the console's store failed")]
    Store(#[from] StoreError),
    #[error("the node has a newer connection or was removed")]
    Displaced,
    #[error("the console ends")]
    Shutdown,
}

struct Session {
    app: Arc<App>,
    identity: Identity,
    node: Node,
    socket: WebSocket,
    /// Generations in force on the node, as it says.
    have: BTreeMap<ModuleName, u64>,
    /// Generations sent on this connection.
    sent: BTreeMap<ModuleName, u64>,
    cluster_generation: u64,
}

impl Session {
    async fn run(&mut self) -> Result<(), End> {
        let first = tokio::time::timeout(FRAME_MAX, self.receive()).await.map_err(|_| End::Slow)??;
        let AgentMsg::Hello { protocol, agent_version, node, os, cluster_generation, modules, .. } = first else {
            return Err(self.close(1002, "the first frame must be a hello").await);
        };
        if protocol != PROTOCOL {
            return Err(self
                .close(1002, &format!("this console speaks protocol {PROTOCOL}, the agent {protocol}: upgrade the older one"))
                .await);
        }
        if node != self.identity.node {
            return Err(self.close(1008, "the hello names another node than the certificate").await);
        }
        self.app.store.node_said_hello(self.node.id, &agent_version, &os).await?;
        self.have = modules;
        self.cluster_generation = cluster_generation;
        let app = self.app.clone();
        let Ok(slot) = app.hellos.acquire().await else { return Err(End::Shutdown) };
        let mut attached = app.fleet.attach(&self.identity.cluster, &self.identity.node, self.is_approved());
        tracing::info!(
            cluster.name = %self.identity.cluster, node.name = %self.identity.node, agent.version = agent_version,
            node.approved = self.is_approved(), "An agent connected."
        );
        let outcome = async {
            // Approved or removed between the look at its certificate and its place here: that change reached nobody.
            self.read_again(attached.id).await?;
            self.welcome().await?;
            drop(slot);
            self.talk(&mut attached).await
        }
        .await;
        app.fleet.detach(&self.identity.cluster, &self.identity.node, attached.id);
        outcome
    }

    fn is_approved(&self) -> bool {
        self.node.approved_ms.is_some()
    }

    async fn welcome(&mut self) -> Result<(), End> {
        let is_approved = self.is_approved();
        self.send(&ConsoleMsg::Welcome { protocol: PROTOCOL, console_version: env!("CARGO_PKG_VERSION").into(), is_approved }).await?;
        if is_approved {
            self.never_older_than_the_node().await?;
            self.compare().await?;
        }
        Ok(())
    }

    async fn talk(&mut self, attached: &mut Attached) -> Result<(), End> {
        let mut dead_at = Instant::now() + DEAD_AFTER;
        loop {
            let app = self.app.clone();
            tokio::select! {
                () = app.shutdown.cancelled() => {
                    self.close(1012, "the console restarts").await;
                    return Err(End::Shutdown);
                }
                () = tokio::time::sleep_until(dead_at) => return Err(End::Slow),
                order = attached.outbox.recv() => match order {
                    Some(order) => {
                        // It is judged by the cluster as it is now.
                        if matches!(order, ConsoleMsg::Try { .. }) {
                            self.compare().await?;
                        }
                        self.send(&order).await?;
                    }
                    None => return Err(End::Displaced),
                },
                changed = attached.sync.changed() => {
                    if changed.is_err() {
                        return Err(End::Displaced);
                    }
                    self.look_again(attached.id).await?;
                }
                frame = self.receive() => {
                    let mut frame = Some(frame?);
                    dead_at = Instant::now() + DEAD_AFTER;
                    if !app.fleet.heard(&self.identity.cluster, &self.identity.node, attached.id, self.is_approved()) {
                        return Err(End::Displaced);
                    }
                    let mut events = Vec::new();
                    // What has already arrived is taken along, so that a backlog of events is stored together.
                    while let Some(message) = frame.take() {
                        self.take(message, &mut events).await?;
                        if !events.is_empty() && events.len() < EVENTS_AT_ONCE {
                            frame = self.receive().now_or_never().transpose()?;
                        }
                    }
                    if !events.is_empty() {
                        self.keep_events(events).await?;
                    }
                }
            }
        }
    }

    /// The node may have been approved, removed, or enrolled anew meanwhile.
    async fn look_again(&mut self, id: u64) -> Result<(), End> {
        let was_approved = self.is_approved();
        self.read_again(id).await?;
        if !was_approved && self.is_approved() {
            return self.welcome().await;
        }
        if self.is_approved() {
            self.compare().await?;
        }
        Ok(())
    }

    async fn read_again(&mut self, id: u64) -> Result<(), End> {
        let node = self.app.store.node(&self.identity.cluster, &self.identity.node).await?;
        let Some(node) = node.filter(|n| n.fingerprint == self.identity.fingerprint) else {
            self.close(1008, "the node was removed").await;
            return Err(End::Displaced);
        };
        self.node = node;
        self.app.fleet.heard(&self.identity.cluster, &self.identity.node, id, self.is_approved());
        Ok(())
    }

    async fn take(&mut self, message: AgentMsg, events: &mut Vec<EventRecord>) -> Result<(), End> {
        // Before approval nothing of what a node says is believed.
        if !self.is_approved() {
            return Ok(());
        }
        let (cluster, node) = (&self.identity.cluster, &self.identity.node);
        match message {
            AgentMsg::Hello { .. } => return Err(End::Protocol("a second hello".into())),
            AgentMsg::Snapshot { snapshot } => {
                if snapshot.node != *node {
                    return Err(End::Protocol(format!("a state of another node, {}", snapshot.node)));
                }
                if self.app.store.module(cluster, &snapshot.module).await?.is_some_and(|m| m.nodes.contains(node)) {
                    self.app.fleet.saw(cluster, *snapshot);
                }
            }
            AgentMsg::Event { record } => {
                if record.node != *node {
                    return Err(End::Protocol(format!("an event of another node, {}", record.node)));
                }
                events.push(record);
            }
            AgentMsg::CommandDone { id, refusal } => self.app.fleet.answered(&(cluster.clone(), node.clone()), &id, refusal),
            AgentMsg::RehearseDone { id, rehearsal } => self.app.fleet.rehearsed(&(cluster.clone(), node.clone()), &id, rehearsal),
            AgentMsg::DeployDone { module, generation, problems } => self.deploy_done(module, generation, problems).await?,
            AgentMsg::TryDone { id, problems } => self.app.fleet.judged(&(cluster.clone(), node.clone()), &id, problems),
            AgentMsg::Alive => {}
        }
        Ok(())
    }

    async fn deploy_done(&mut self, module: ModuleName, generation: u64, problems: Vec<String>) -> Result<(), End> {
        let (cluster, node) = (self.identity.cluster.clone(), self.identity.node.clone());
        let known = self.app.store.module(&cluster, &module).await?;
        if !known.is_some_and(|m| m.nodes.contains(&node)) {
            // The answer to a removal.
            if problems.is_empty() {
                self.have.remove(&module);
                self.sent.remove(&module);
            } else {
                tracing::warn!(module.name = %module, node.name = %node, ?problems, "A node could not remove a module.");
            }
            return Ok(());
        }
        if problems.is_empty() {
            self.have.insert(module.clone(), generation);
        }
        let result = DeployResult { node: node.clone(), generation, problems };
        self.app.store.set_deploy_result(&cluster, &module, &result).await?;
        self.app.fleet.deployed(&cluster, &module, &node, generation, result.problems.clone());
        actions::late_deploy_answer(&self.app, &cluster, &module, &node, generation, &result.problems).await;
        Ok(())
    }

    async fn keep_events(&mut self, events: Vec<EventRecord>) -> Result<(), End> {
        let up_to = events.iter().map(|e| e.seq).max().unwrap_or_default();
        let new = self.app.store.add_events(self.node.id, &self.identity.cluster, &events).await?;
        let modules: BTreeSet<ModuleName> = new.into_iter().map(|e| e.record.module).collect();
        for module in modules {
            self.app.fleet.changed(Topic::Events { cluster: self.identity.cluster.clone(), module });
        }
        self.send(&ConsoleMsg::EventsStored { up_to }).await
    }

    /// A console restored from an older copy would number its configurations below those of the nodes, which refuse
    /// older ones. So the counter is raised over what the node reports, and what concerns it is numbered anew.
    async fn never_older_than_the_node(&mut self) -> Result<(), End> {
        let store = &self.app.store;
        let cluster = &self.identity.cluster;
        let newest = self.have.values().copied().chain([self.cluster_generation]).max().unwrap_or_default();
        if store.cluster(cluster).await?.is_some_and(|c| c.generation < self.cluster_generation) {
            store.raise_generation(newest).await?;
            store.renew_cluster(cluster).await?;
            tracing::warn!(cluster.name = %cluster, "A node has a newer cluster definition than this console, which seems restored from an older copy; its own is given a newer number.");
        }
        for module in store.modules(cluster).await? {
            let is_ahead = self.have.get(&module.name).is_some_and(|have| *have > module.generation);
            if let Some(version) = module.applied_version.filter(|_| is_ahead) {
                store.raise_generation(newest).await?;
                store.apply_version(cluster, &module.name, version).await?;
                tracing::warn!(cluster.name = %cluster, module.name = %module.name, "A node has a newer configuration than this console, which seems restored from an older copy; version {version} is given a newer number.");
            }
        }
        Ok(())
    }

    /// Sends what the node should have and has not.
    async fn compare(&mut self) -> Result<(), End> {
        let (cluster, node) = (self.identity.cluster.clone(), self.identity.node.clone());
        let Some(stored) = self.app.store.cluster(&cluster).await? else { return Err(End::Displaced) };
        let modules = self.app.store.modules(&cluster).await?;
        if self.cluster_generation != stored.generation {
            let module_ids = modules.iter().map(|m| (m.name.clone(), m.module_id)).collect();
            let message =
                ConsoleMsg::Cluster { generation: stored.generation, cluster: stored.def, heartbeat_key: stored.heartbeat_key, module_ids };
            self.send(&message).await?;
            self.cluster_generation = stored.generation;
        }
        for module in modules.iter().filter(|m| m.nodes.contains(&node)) {
            let wanted = module.generation;
            let is_there = self.have.get(&module.name) == Some(&wanted) || self.sent.get(&module.name) == Some(&wanted);
            let Some(number) = module.applied_version.filter(|_| !is_there) else { continue };
            let Some(version) = self.app.store.version(&cluster, &module.name, Some(number)).await? else { continue };
            let deployment = Deployment {
                module: module.name.clone(),
                module_id: module.module_id,
                generation: wanted,
                nodes: module.nodes.clone(),
                userconfig: version.userconfig,
                scripts: version.scripts,
            };
            self.send(&ConsoleMsg::Deploy(deployment)).await?;
            self.sent.insert(module.name.clone(), wanted);
        }
        let lives_here = |name: &ModuleName, node: &NodeName| modules.iter().any(|m| m.name == *name && m.nodes.contains(node));
        let gone: BTreeSet<ModuleName> = self.have.keys().chain(self.sent.keys()).filter(|m| !lives_here(m, &node)).cloned().collect();
        for module in gone {
            self.send(&ConsoleMsg::Remove { module: module.clone() }).await?;
            self.app.fleet.forget_module_on(&cluster, &module, &node);
        }
        Ok(())
    }

    // --- frames -----------------------------------------------------------------------------------------------

    async fn receive(&mut self) -> Result<AgentMsg, End> {
        loop {
            match self.socket.recv().await {
                None | Some(Ok(Message::Close(_))) => return Err(End::Closed),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).map_err(|e| End::Protocol(e.to_string())),
                Some(Ok(Message::Binary(_))) => return Err(End::Protocol("a binary frame".into())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            }
        }
    }

    async fn send(&mut self, message: &ConsoleMsg) -> Result<(), End> {
        let text = serde_json::to_string(message).map_err(|e| End::Protocol(e.to_string()))?;
        tokio::time::timeout(FRAME_MAX, self.socket.send(Message::Text(text.into()))).await.map_err(|_| End::Slow)??;
        Ok(())
    }

    /// Says why, and ends.
    async fn close(&mut self, code: u16, why: &str) -> End {
        let frame = CloseFrame { code, reason: why.to_owned().into() };
        let _ = tokio::time::timeout(FRAME_MAX, self.socket.send(Message::Close(Some(frame)))).await;
        End::Protocol(why.to_owned())
    }
}
