//! A cluster: which nodes, on which networks. Read from `cluster.xml` (see [`xml`]).

use crate::ids::{ClusterName, NodeName};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub mod xml;

/// Nodes that know each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterDef {
    /// Name in the console.
    pub name: ClusterName,
    /// Networks, in the order of the file. The first one with `is_command` (else the first) carries orders.
    pub lans: Vec<Lan>,
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
