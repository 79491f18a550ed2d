//! Orders to modules as operations: a click makes a resource that is watched until its end.
//!
//! "Done" is never what an agent answered to the order but what its snapshots show afterwards. One operation at a
//! time per module. [`choose`] holds the pure part: which nodes, whether possible, when it is over.

pub mod choose;
mod rehearse;
mod run;

pub use rehearse::{NodeRehearsal, rehearse};
pub use run::{ActionRequest, NotOrdered, RequestKey, apply, close_open, late_deploy_answer, remove, submit, to_the_end};

use serde::{Deserialize, Serialize};
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::state::Reason;

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// An order.
    Action {
        /// Which.
        order: Verb,
    },
    /// A version is brought to the nodes.
    Apply {
        /// Which.
        version: u64,
        /// Generation it got.
        generation: u64,
    },
    /// The module is taken from the nodes.
    Remove,
}

impl What {
    /// Word in the API: `swap`, `apply`, `remove`.
    pub fn word(&self) -> &'static str {
        match self {
            What::Action { order } => order.word(),
            What::Apply { .. } => "apply",
            What::Remove => "remove",
        }
    }
}

/// How far an operation, or one node's part in it, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not sent yet.
    Queued,
    /// Sent; its end is taken from the observed state.
    Running,
    /// Observed.
    Succeeded,
    /// Refused, or ended otherwise.
    Failed,
    /// Contact was lost before the end could be observed.
    Unknown,
}

impl Progress {
    /// Word in API and database.
    pub fn word(self) -> &'static str {
        match self {
            Progress::Queued => "queued",
            Progress::Running => "running",
            Progress::Succeeded => "succeeded",
            Progress::Failed => "failed",
            Progress::Unknown => "unknown",
        }
    }
    /// Nothing more will come.
    pub fn is_over(self) -> bool {
        !matches!(self, Progress::Queued | Progress::Running)
    }
}

/// Why a node's part ended as it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// The node refused.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The node waits for a person or for something outside.
    Blocked {
        /// Why.
        reason: Option<Reason>,
    },
    /// The node is not in contact.
    NoContact,
    /// The node is not in contact; it gets the configuration when it returns.
    Later,
    /// The end was not observed in time.
    TooLong,
    /// The console ended meanwhile.
    ConsoleRestarted,
    /// Not begun, because an earlier step failed or the console ended before it.
    NotBegun,
    /// Nothing changed here, because another node would not take the configuration.
    NotEverywhere,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePart {
    /// Which node.
    pub node: NodeName,
    /// How far.
    pub state: Progress,
    /// Why it ended so.
    #[serde(default)]
    pub why: Option<Note>,
    /// Problems of a deployment in the agent's words (English).
    #[serde(default)]
    pub problems: Vec<String>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// UUID v7.
    pub id: String,
    /// Cluster.
    pub cluster: ClusterName,
    /// Module.
    pub module: ModuleName,
    /// What it does, as a word.
    pub verb: String,
    /// What it does.
    pub what: What,
    /// Who ordered it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// When it was ordered.
    pub created_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// How far.
    pub state: Progress,
    /// How long no node served while it went on, as observed; absent where nothing served before.
    #[serde(default)]
    pub interrupted_ms: Option<u64>,
    /// The nodes' parts, in the order they are done.
    pub nodes: Vec<NodePart>,
}

impl Operation {
    /// A new one, queued.
    pub fn new(cluster: &ClusterName, module: &ModuleName, what: What, nodes: &[NodeName], by: &str, reason: Option<String>) -> Operation {
        Operation {
            id: uuid::Uuid::now_v7().to_string(),
            cluster: cluster.clone(),
            module: module.clone(),
            verb: what.word().to_owned(),
            what,
            by: by.to_owned(),
            reason,
            created_unix_ms: crate::store::now_ms() as u64,
            ended_unix_ms: None,
            state: Progress::Queued,
            interrupted_ms: None,
            nodes: nodes.iter().map(|n| NodePart { node: n.clone(), state: Progress::Queued, why: None, problems: Vec::new() }).collect(),
        }
    }

    /// No node gets its order.
    pub fn not_begun(&mut self) {
        for part in &mut self.nodes {
            (part.state, part.why) = (Progress::Failed, Some(Note::NotBegun));
        }
    }

    /// The whole from its parts, once all of them are over.
    pub fn conclude(&mut self) {
        let any = |p: Progress| self.nodes.iter().any(|n| n.state == p);
        self.state = if any(Progress::Failed) {
            Progress::Failed
        } else if any(Progress::Unknown) {
            Progress::Unknown
        } else {
            Progress::Succeeded
        };
        self.ended_unix_ms = Some(crate::store::now_ms() as u64);
    }
}
