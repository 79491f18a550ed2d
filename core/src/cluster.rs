//! A cluster: which nodes, on which networks. Read from `cluster.xml` (see [`xml`]).

use crate::ids::{ArbiterName, ClusterName, NodeName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

pub mod xml;

/// Nodes that know each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterDef {
    /// Name in the console.
    pub name: ClusterName,
    /// Networks, in the order of the file. The first one with `is_command` (else the first) carries orders.
    pub lans: Vec<Lan>,
    /// Keepers of records besides the console, in the order of the file.
    #[serde(default)]
    pub arbiters: Vec<ArbiterDef>,
}

/// Who may keep the records of modules (`docs/PROTOCOL.md`, "Arbiters").
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArbiterDef {
    /// Modules refer to it by this name.
    pub name: ArbiterName,
    /// What it is.
    pub kind: ArbiterKind,
}

/// What an arbiter is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ArbiterKind {
    /// A `tsugi-agent witness`; its certificate bears the arbiter's name.
    Witness {
        /// Where it listens.
        addr: SocketAddr,
        /// It runs on one of the cluster's nodes, which was said on purpose.
        is_own: bool,
    },
    /// An etcd cluster.
    Etcd(EtcdDef),
}

/// How an etcd cluster is reached. Paths are those of files on the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EtcdDef {
    /// Members, tried in turn.
    pub endpoints: Vec<SocketAddr>,
    /// `https`; all of them or none.
    pub is_tls: bool,
    /// CA of the members' certificates, PEM.
    pub ca: Option<String>,
    /// Certificate of the client and its key, PEM.
    pub cert: Option<(String, String)>,
    /// Name in the members' certificates; absent = their addresses.
    pub tls_name: Option<String>,
}

/// A named network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lan {
    /// Modules refer to it by this name.
    pub name: String,
    /// `command="on"`.
    pub is_command: bool,
    /// Addresses on it.
    pub nodes: Vec<LanNode>,
}

/// A node's address on a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LanNode {
    /// Which node.
    pub name: NodeName,
    /// Address the others use.
    pub addr: IpAddr,
    /// Local address where it differs (NAT).
    pub local: Option<IpAddr>,
}

impl ClusterDef {
    /// Every node, sorted, each once.
    pub fn nodes(&self) -> Vec<NodeName> {
        let mut all: Vec<_> = self.lans.iter().flat_map(|l| l.nodes.iter().map(|n| n.name.clone())).collect();
        all.sort();
        all.dedup();
        all
    }
    /// The arbiter called `name`; the console is none of these.
    pub fn arbiter(&self, name: &ArbiterName) -> Option<&ArbiterDef> {
        self.arbiters.iter().find(|a| &a.name == name)
    }
    /// The node with this address.
    pub fn node_at(&self, addr: IpAddr) -> Option<&NodeName> {
        self.lans.iter().flat_map(|l| &l.nodes).find(|n| n.addr == addr || n.local == Some(addr)).map(|n| &n.name)
    }
    /// The network called `name`.
    pub fn lan(&self, name: &str) -> Option<&Lan> {
        self.lans.iter().find(|l| l.name == name)
    }
}

impl Lan {
    /// Address of `node` on this network.
    pub fn addr(&self, node: &NodeName) -> Option<IpAddr> {
        self.nodes.iter().find(|n| &n.name == node).map(|n| n.addr)
    }
}
