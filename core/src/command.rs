//! What an administrator may order, and the typed answer when it cannot be done now.

use crate::ids::NodeName;
use serde::{Deserialize, Serialize};

/// An order to one module on one node. `swap`, `restart` go to the node that serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// Run; the protocol chooses the role.
    Start,
    /// Orderly stop; a ready secondary takes over at once.
    Stop,
    /// Stop and start scripts in place; the role is kept.
    Restart,
    /// Exchange the roles.
    Swap,
    /// Full stop, then start by itself.
    StopStart,
    /// Start as primary although the protocol would not choose so. `accept_loss`: this copy may be older.
    Prim { accept_loss: bool },
    /// Start as primary on a half-resynchronised copy. Data may be inconsistent.
    PrimForce,
    /// Start as secondary. `full_sync`: give this copy up and take the source's whole.
    Second { full_sync: bool },
    /// After a split brain: `keep`'s data goes on, the other node gives its copy up. Given to both nodes.
    Resolve { keep: NodeName },
    /// No automatic action for so many minutes; 0 ends it. Ends by itself, and with the agent.
    Maintenance { minutes: u32 },
    /// Compare the two copies while the application goes on; what differs is copied again from the serving node.
    Verify,
}

impl Verb {
    /// Word on the command line and in URLs.
    pub fn word(&self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Swap => "swap",
            Verb::StopStart => "stopstart",
            Verb::Prim { .. } => "prim",
            Verb::PrimForce => "primforce",
            Verb::Second { .. } => "second",
            Verb::Resolve { .. } => "resolve",
            Verb::Maintenance { .. } => "maintenance",
            Verb::Verify => "verify",
        }
    }
    /// Runs the application anew: given by a checker or script, it counts in `maxloop`.
    pub fn is_repair(&self) -> bool {
        matches!(self, Verb::Restart | Verb::StopStart)
    }
    /// One of each, for tables of what is possible.
    pub fn each() -> [Verb; 9] {
        [
            Verb::Start,
            Verb::Stop,
            Verb::Restart,
            Verb::Swap,
            Verb::StopStart,
            Verb::Prim { accept_loss: false },
            Verb::PrimForce,
            Verb::Second { full_sync: false },
            Verb::Verify,
        ]
    }
}

/// Longest maintenance: a day.
pub const MAINTENANCE_MINUTES_MAX: u32 = 24 * 60;

/// `by` of a stop after too many automatic actions.
pub const BY_MAXLOOP: &str = "maxloop";
/// `by` of the order an agent gives itself when its host shuts down: the module counts as running, so that it
/// starts again at the next boot.
pub const BY_SHUTDOWN: &str = "shutdown";
/// `by` of the order an agent gives itself when it starts.
pub const BY_BOOT: &str = "boot";

/// A person gave the order, not the product itself.
pub fn is_person(by: &str) -> bool {
    ![BY_MAXLOOP, BY_SHUTDOWN, BY_BOOT, BY_AGENT].contains(&by) && !by.starts_with(BY_CHECKER)
}

/// `by` of a module that its agent has taken up and not started: `boot="off"`, or it did not run before.
pub const BY_AGENT: &str = "agent";
/// What `by` begins with when a checker or a rule stopped the module; its name follows.
pub const BY_CHECKER: &str = "checker: ";

/// The checker or rule that stopped a module, if it was one: an outage that nobody ordered.
pub fn checker_of(by: &str) -> Option<&str> {
    by.strip_prefix(BY_CHECKER)
}

/// An order with who gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Command {
    /// Unique; the same id again is answered but not carried out again.
    pub id: String,
    /// What to do.
    #[serde(flatten)]
    pub verb: Verb,
    /// Who: `root` on the command line, a user name from the console, a checker's name.
    pub by: String,
    /// Why, in that person's words.
    #[serde(default)]
    pub reason: Option<String>,
    /// A checker or script decided so, no person: it counts in `maxloop` instead of beginning the count afresh.
    #[serde(default)]
    pub is_automatic: bool,
}

/// What a script does to the count of automatic actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopChange {
    /// One more: the script has acted, or is about to.
    Add,
    /// Begin afresh.
    Forget,
}

/// Why an order is not carried out. Nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// It runs already.
    AlreadyStarted,
    /// It is stopped already.
    AlreadyStopped,
    /// Something is under way that must end first.
    Busy,
    /// The application does not run here.
    NotServing,
    /// The order needs a primary with a ready secondary.
    NotProtected,
    /// The other node serves.
    PeerServes { peer: NodeName },
    /// The other node does not serve, so there is no source.
    PeerDoesNotServe,
    /// This copy is not known to be the newest: `--accept-loss` is needed.
    NeedsAcceptLoss,
    /// This copy is half resynchronised: only `primforce` opens it.
    HalfSynced,
    /// The module has no such role (farm, light).
    NoSuchRole,
    /// The module is not configured on this node.
    NotConfigured,
    /// The module must be stopped first.
    MustBeStopped,
    /// There is no split brain here.
    NoSplitBrain,
    /// The named node is not one of the module's.
    NoSuchNode { node: NodeName },
    /// Maintenance lasts 1 to [`MAINTENANCE_MINUTES_MAX`] minutes.
    BadDuration { minutes: u32 },
    /// No automatic action under maintenance, and a checker or script ordered this.
    Maintained,
    /// The node is not connected to the console (said by the console).
    NoContact,
}
