//! Agent ↔ console: JSON text frames over one WebSocket that the agent dials with its certificate
//! (`wss://CONSOLE:AGENT_PORT/agent/v1/ws`).
//!
//! Order: `Hello` → `Welcome` (+ `Cluster`, `Deploy` for what differs) → every `Snapshot` → deltas. Snapshots are
//! absolute; events carry a sequence and are acknowledged, so that none is lost while the console is away
//! (bounded by the agent's buffer).

use crate::cluster::ClusterDef;
use crate::command::{Command, Refusal};
use crate::event::EventRecord;
use crate::ids::{LifeId, ModuleName, NodeName};
use crate::rehearsal::Rehearsal;
use crate::state::Snapshot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version log. 1: first.
pub const PROTOCOL: u32 = 1;
/// Largest frame either side accepts.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The agent sends `Alive` when it sent nothing else for this long (seconds); the console gives a node up after three.
pub const ALIVE_SECONDS: u64 = 5;

/// From the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum AgentMsg {
    /// First frame.
    Hello {
        protocol: u32,
        agent_version: String,
        node: NodeName,
        /// This life of the agent.
        boot: LifeId,
        /// `PRETTY_NAME` of the system.
        os: String,
        /// Generation of the cluster definition in force; 0 = none.
        cluster_generation: u64,
        /// Modules on this node and their generation in force.
        modules: BTreeMap<ModuleName, u64>,
    },
    /// A module's state; absolute.
    Snapshot { snapshot: Box<Snapshot> },
    /// Something happened.
    Event { record: EventRecord },
    /// Answer to [`ConsoleMsg::Command`].
    CommandDone { id: String, refusal: Option<Refusal> },
    /// Answer to [`ConsoleMsg::Rehearse`].
    RehearseDone { id: String, rehearsal: Rehearsal },
    /// Answer to [`ConsoleMsg::Deploy`] and [`ConsoleMsg::Remove`]: problems, empty = in force.
    DeployDone { module: ModuleName, generation: u64, problems: Vec<String> },
    /// Answer to [`ConsoleMsg::Try`]: problems, empty = it would be taken.
    TryDone { id: String, problems: Vec<String> },
    /// Nothing new.
    Alive,
}

/// From the console.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ConsoleMsg {
    /// Answer to `Hello`. `is_approved` false: an administrator must approve the node first; nothing else is sent.
    Welcome { protocol: u32, console_version: String, is_approved: bool },
    /// The cluster and the key of its heartbeats.
    Cluster { generation: u64, cluster: ClusterDef, heartbeat_key: Secret, module_ids: BTreeMap<ModuleName, u16> },
    /// Take this configuration; older generations are refused.
    Deploy(Deployment),
    /// Judge this configuration as [`ConsoleMsg::Deploy`] would, and change nothing.
    Try { id: String, deployment: Deployment },
    /// Stop and forget a module.
    Remove { module: ModuleName },
    /// An order.
    Command { module: ModuleName, command: Command },
    /// Say what an order would do, and do nothing. The answer carries the command's id.
    Rehearse { module: ModuleName, command: Command },
    /// Events up to this sequence are stored.
    EventsStored { up_to: u64 },
}

/// A configuration of a module for a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Module.
    pub module: ModuleName,
    /// Number that fixes the module's ports; the same on every node, 1…
    pub module_id: u16,
    /// Grows with each change.
    pub generation: u64,
    /// Nodes the module lives on, in configured order.
    pub nodes: Vec<NodeName>,
    /// `conf/userconfig.xml`.
    pub userconfig: String,
    /// Scripts under `bin/`: file name → contents. All are made executable.
    pub scripts: BTreeMap<String, String>,
}

/// 32 bytes that are never printed. Hexadecimal in JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }
}
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bad = || serde::de::Error::custom("a secret is 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut out = [0u8; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Secret(out))
    }
}

/// Body of `POST /agent/v1/enroll` (TLS without client certificate; the agent has pinned the CA by the token).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The single-use secret part of the token.
    pub token: String,
    /// Name the node wants.
    pub node: NodeName,
    /// Certificate signing request, PEM.
    pub csr_pem: String,
}

/// Answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollAnswer {
    /// The node's certificate, PEM.
    pub certificate_pem: String,
    /// The console's CA, PEM.
    pub ca_pem: String,
    /// Name of the cluster the token was made for.
    pub cluster: String,
    /// SHA-256 of the certificate, hexadecimal: what the administrator compares when approving.
    pub fingerprint: String,
}

/// A join token as text: `tsugi1.<sha256 of the CA certificate, hex>.<secret>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA certificate in DER, lower-case hexadecimal.
    pub ca_sha256: String,
    /// Single-use secret.
    pub secret: String,
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tsugi1.{}.{}", self.ca_sha256, self.secret)
    }
}

impl std::str::FromStr for JoinToken {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("tsugi1"), Some(ca), Some(secret), None) if ca.len() == 64 && !secret.is_empty() => {
                Ok(JoinToken { ca_sha256: ca.to_ascii_lowercase(), secret: secret.to_owned() })
            }
            _ => {
                Err("a join token looks like tsugi1.<64 hexadecimal digits>.<secret>; copy it whole from the console's page \"Add a node\"")
            }
        }
    }
}
