//! Command line ↔ agent over a UNIX socket: one JSON line with a [`Request`], one JSON line with a [`Reply`]
//! (for `Watch`: a reply per change until either side closes). The agent checks the caller's user id
//! (`SO_PEERCRED`): root, or a member of group `tsugi`.

use crate::command::{Command, Refusal};
use crate::engine::Rehearsal;
use crate::event::EventRecord;
use crate::ids::{ModuleName, NodeName};
use crate::state::Snapshot;
use serde::{Deserialize, Serialize};

/// Asked by the command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Every module's snapshot, or one module's.
    State { module: Option<ModuleName> },
    /// As `State`, then again after each change.
    Watch { module: Option<ModuleName> },
    /// An order.
    Command { module: ModuleName, command: Command },
    /// What an order would do.
    Rehearse { module: ModuleName, command: Command },
    /// The last `count` events.
    Events { module: Option<ModuleName>, count: u32 },
    /// Who this agent is.
    About,
}

/// Answered by the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `State`, `Watch`.
    State { snapshots: Vec<Snapshot> },
    /// To `Command`; absent = accepted. "Accepted" is not "done": that is only said by a snapshot.
    Command { refusal: Option<Refusal> },
    /// To `Rehearse`.
    Rehearsal { rehearsal: Rehearsal },
    /// To `Events`, oldest first.
    Events { events: Vec<EventRecord> },
    /// To `About`.
    About { node: NodeName, version: String, console: Option<String>, is_console_connected: bool, cluster: Option<String> },
    /// The request cannot be answered. English.
    Error { message: String },
}
