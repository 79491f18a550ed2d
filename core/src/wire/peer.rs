//! Agent ↔ agent: one level-triggered message, [`Status`], in each heartbeat.
//!
//! There is no other message: a node that says how it stands often enough needs no requests, and a lost or
//! repeated datagram changes nothing. The link layer wraps it in a [`Beat`], which it numbers, authenticates,
//! sends on every network, and never hands on out of order.

use crate::ids::{Epoch, Gen, LifeId, ModuleName, NodeName, Session};
use crate::rules::Value;
use crate::state::{Flag, Readiness, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version log. 1: first.
pub const PROTOCOL: u16 = 1;
/// Largest datagram: fits an Ethernet frame with IPv6 and UDP headers.
pub const BEAT_BYTES_MAX: usize = 1400;

/// A heartbeat as the link layer sends it (inside the AEAD).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Protocol version.
    pub protocol: u16,
    /// Module.
    pub module: ModuleName,
    /// Sender.
    pub node: NodeName,
    /// Life of the sending agent.
    pub life: LifeId,
    /// Counts up in that life, one number for all networks of one beat.
    pub seq: u64,
    /// The newest beat of the receiver that the sender had seen when this status was made.
    pub answers: Option<(LifeId, u64)>,
    /// How the sender stands.
    pub status: Status,
}

/// How a node stands with a module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Status {
    /// State and readiness, for people and for eligibility.
    pub state: State,
    /// Second axis.
    pub readiness: Readiness,
    /// The module was started and not stopped (it wants a role).
    pub is_started: bool,
    /// The application may be running with the right to acknowledge.
    pub is_serving: bool,
    /// This copy of the data.
    pub flag: Flag,
    /// Newest record version this node has stored.
    pub epoch: Epoch,
    /// Data history.
    pub gen_id: Gen,
    /// Ancestors of `gen_id`, newest first, at most [`LINEAGE_SENT_MAX`].
    pub lineage: Vec<Gen>,
    /// In-sync set this node has stored.
    pub in_sync: BTreeSet<NodeName>,
    /// This node owned the record at `epoch`.
    pub is_owner: bool,
    /// Life of the arbiter's store that `epoch` is a version of; epochs of different stores say nothing of each other.
    pub arbiter: LifeId,
    /// An arbiter request is unresolved.
    pub has_intent: bool,
    /// Newest session number stored.
    pub session: Session,
    /// Serving: the session in which the receiver may be brought level now.
    pub offer: Option<Session>,
    /// Serving: acknowledgements of the receiver are required in this session.
    pub requires: Option<Session>,
    /// Serving: the required session is over for the sender, which asks to have the receiver excluded.
    pub is_session_lost: bool,
    /// Following: every operation up to the session's barrier is on this disk.
    pub level: Option<Session>,
    /// Following: the sender will not claim until its bound after the answered beat has run out.
    pub is_promise: bool,
    /// The epoch this node gave up durably (swap, stop): the receiver may claim at once.
    pub released: Option<Epoch>,
    /// It was given up because a person ordered it (swap, stop): the receiver takes over also where nothing is taken
    /// over by itself.
    pub hands_over: bool,
    /// How long the sender keeps a promise, in milliseconds (`P_B`): a primary that believes for longer would still
    /// serve when the sender takes over.
    pub keep_ms: u64,
    /// Life of an arbiter's store that has replaced the one this node agreed with; zero = none.
    #[serde(default)]
    pub strange_store: LifeId,
    /// What the other node's newest message said there: whoever says this said the rest afterwards.
    #[serde(default)]
    pub heard_strange_store: LifeId,
    /// It asks for the role and no arbiter answers it: the receiver need not wait for it.
    pub is_arbiter_silent: bool,
    /// All pre-checkers are up here.
    pub is_fit: bool,
    /// `defaultprim="lastprim"`: the sender had the role before and takes it back.
    pub wants_role: bool,
    /// The sender took the role from the receiver (see [`crate::engine::Saved::is_taken`]).
    pub is_taken: bool,
    /// Resources of the sender that the receiver's rules look at, at most [`RESOURCES_SENT_MAX`].
    pub resources: BTreeMap<String, Value>,
}

/// Resources carried in a beat.
pub const RESOURCES_SENT_MAX: usize = 8;
/// Ancestors carried in a beat; the full lineage (32) stays in the record.
pub const LINEAGE_SENT_MAX: usize = 16;
