//! What the console knows of clusters, nodes and modules, as it is handed to the pages: facts, not words.
//!
//! The server fills these from its store and the last snapshots; everything shown (pills, sentences, plans,
//! pictures) is derived from them in this crate, so that page, live update, API and command line say the same.

use std::net::IpAddr;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::module::{Mode, ModuleDef};
use tsugi_core::state::{Readiness, Reason, Snapshot, State};

/// Health of a module, worst first: the order of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HealthView {
    /// Two nodes serve, or two histories of the data have parted.
    Conflict,
    /// Nobody serves, and not by order.
    NotReady,
    /// No node of the module answers.
    NoContact,
    /// Served, but the loss of a server now would be an outage.
    AtRisk,
    /// Something ends by itself.
    InProgress,
    /// Stopped by an administrator.
    Stopped,
    /// Served and protected.
    Protected,
}

impl HealthView {
    /// Worst first.
    pub const ALL: [HealthView; 7] = [
        HealthView::Conflict,
        HealthView::NotReady,
        HealthView::NoContact,
        HealthView::AtRisk,
        HealthView::InProgress,
        HealthView::Stopped,
        HealthView::Protected,
    ];

    /// Word in URLs (`/?health=at_risk`) and in the API.
    pub fn word(self) -> &'static str {
        match self {
            HealthView::Conflict => "conflict",
            HealthView::NotReady => "not_ready",
            HealthView::NoContact => "no_contact",
            HealthView::AtRisk => "at_risk",
            HealthView::InProgress => "in_progress",
            HealthView::Stopped => "stopped",
            HealthView::Protected => "protected",
        }
    }

    /// The health of that word.
    pub fn from_word(word: &str) -> Option<HealthView> {
        HealthView::ALL.into_iter().find(|h| h.word() == word)
    }
}

/// Whether the console hears a node's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contact {
    /// Its connection is open and it spoke lately.
    Connected,
    /// Last heard then.
    Lost {
        /// Wall clock of the console.
        since_unix_ms: u64,
    },
    /// Never connected since it was approved.
    Never,
}

impl Contact {
    /// It can be given orders now.
    pub fn is_connected(self) -> bool {
        self == Contact::Connected
    }
}

/// One module on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeCell {
    /// The node.
    pub node: NodeName,
    /// Its address, of the network that carries orders.
    pub addr: Option<IpAddr>,
    /// Whether it is heard.
    pub contact: Contact,
    /// What it last said of the module, however long ago; `None` = the module is not set up there yet.
    pub snapshot: Option<Snapshot>,
    /// Its resynchronisation has not moved for this long; `None` = it moves, or there is none.
    pub resync_still_ms: Option<u64>,
}

impl NodeCell {
    /// What it says now; `None` when it is not heard.
    pub fn now(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().filter(|_| self.contact.is_connected())
    }
    /// It serves, or last said so.
    pub fn is_serving(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|s| s.state.is_serving())
    }
    /// It takes no action by itself now.
    pub fn is_maintained(&self) -> bool {
        self.now().is_some_and(|s| s.maintenance_until_unix_ms.is_some())
    }
    /// It is in `state` and `readiness` now.
    pub fn is(&self, state: State, readiness: Readiness) -> bool {
        self.now().is_some_and(|s| s.state == state && s.readiness == readiness)
    }
}

/// A module with everything known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleView {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub module: ModuleName,
    /// Definition in force (the newest applied version); `None` = no version was applied yet.
    pub def: Option<ModuleDef>,
    /// Number of that version; 0 = none.
    pub version: u64,
    /// Health, decided by the domain.
    pub health: HealthView,
    /// Its nodes in configured order.
    pub cells: Vec<NodeCell>,
}

impl ModuleView {
    /// A node says that there are two histories of the data.
    pub fn is_split(&self) -> bool {
        self.cells.iter().filter_map(NodeCell::now).any(|s| matches!(s.reason, Some(Reason::SplitBrain { .. })))
    }
    /// Nobody has said yet which node holds the good data.
    pub fn is_undecided(&self) -> bool {
        self.cells.iter().filter_map(NodeCell::now).any(|s| s.reason == Some(Reason::FirstStart))
    }
    /// End of the maintenance, of the node where it lasts longest; `None` = no node is under maintenance now.
    pub fn maintenance_until(&self) -> Option<u64> {
        self.cells.iter().filter_map(NodeCell::now).filter_map(|s| s.maintenance_until_unix_ms).max()
    }
    /// Mirror, farm or light; a module without a version in force counts as a mirror.
    pub fn mode(&self) -> Mode {
        self.def.as_ref().map_or(Mode::Mirror, |d| d.mode)
    }
    /// The cell of `node`.
    pub fn cell(&self, node: &NodeName) -> Option<&NodeCell> {
        self.cells.iter().find(|c| &c.node == node)
    }
    /// The node that serves, by what the nodes in contact say; else by what a lost one last said.
    pub fn serving(&self) -> Option<&NodeCell> {
        let in_contact = self.cells.iter().find(|c| c.now().is_some_and(|s| s.state.is_serving()));
        in_contact.or_else(|| self.cells.iter().find(|c| c.is_serving()))
    }
    /// The other node of a mirror.
    pub fn other_than(&self, node: &NodeName) -> Option<&NodeCell> {
        self.cells.iter().find(|c| &c.node != node)
    }
    /// Virtual addresses of the definition.
    pub fn vips(&self) -> Vec<IpAddr> {
        self.def.iter().flat_map(|d| d.vips.iter().map(|v| v.addr)).collect()
    }
    /// Replicated directories of the definition.
    pub fn dirs(&self) -> Vec<&str> {
        let rfs = self.def.as_ref().and_then(|d| d.rfs.as_ref());
        rfs.iter().flat_map(|r| r.replicated.iter().map(|r| r.dir.as_str())).collect()
    }
    /// The cell with a resynchronisation in progress.
    pub fn resyncing(&self) -> Option<&NodeCell> {
        self.cells.iter().find(|c| c.now().is_some_and(|s| s.resync.is_some()))
    }
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub node: NodeName,
    /// Its address on each network, in the order of the cluster's file.
    pub addresses: Vec<(String, IpAddr)>,
    /// Whether it is heard.
    pub contact: Contact,
    /// Whether it may take part.
    pub approval: Approval,
    /// Version of its agent, once it connected.
    pub agent_version: Option<String>,
    /// Name of its operating system, once it connected.
    pub os: Option<String>,
}

/// Whether an administrator let a node in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approval {
    /// Named in the cluster's file, but no agent has enrolled under that name.
    NotEnrolled,
    /// Enrolled; an administrator must compare the fingerprint and approve.
    Pending {
        /// SHA-256 of the node's certificate, hexadecimal.
        fingerprint: String,
        /// When it enrolled.
        since_unix_ms: u64,
    },
    /// It takes part.
    Approved {
        /// SHA-256 of the node's certificate, hexadecimal.
        fingerprint: String,
    },
}

/// A cluster: nodes and modules.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Its name.
    pub cluster: ClusterName,
    /// Its nodes, in the order of the file.
    pub nodes: Vec<NodeView>,
    /// Its modules, by name.
    pub modules: Vec<ModuleView>,
}

impl ClusterView {
    /// The worst health of its modules; `None` without modules.
    pub fn worst(&self) -> Option<HealthView> {
        self.modules.iter().map(|m| m.health).min()
    }
}
