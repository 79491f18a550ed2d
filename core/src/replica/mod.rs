//! Replication seen from the engine: orders to the data process of a module, and its notes.
//!
//! One data process per module runs on both nodes. It holds the mount (primary), the applier (secondary) and
//! the stream between them, and it checks the deadline before each acknowledgement by itself, so that an agent
//! that is dead, stopped or slow cannot make it acknowledge what it may not.
//!
//! Every order carries the epoch; a process refuses orders of an older epoch than the newest it has seen.

pub mod rejoin;

use crate::ids::{Epoch, Lsn, Session};
use serde::{Deserialize, Serialize};

/// From the agent to the data process. Each is answered by one [`ReplicaAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum ReplicaOrder {
    /// Mount over the directories and serve; acknowledge after the local step alone.
    Serve { epoch: Epoch },
    /// Serving: let the peer connect for this session, bring it level while the application runs, hold writes
    /// for the final barrier, and from then on require its acknowledgement. Ends in [`ReplicaNote::Armed`].
    Offer { epoch: Epoch, session: Session },
    /// Serving: the peer is out of the in-sync set; stop requiring it, release waiting writers, drop the session.
    GoAlone { epoch: Epoch },
    /// Hide the directories from writers, connect to the source and be brought level. Ends in [`ReplicaNote::Level`].
    Follow { epoch: Epoch, session: Session },
    /// Following or idle: end the session; nothing is applied afterwards; flush what was applied. The answer
    /// carries the last sequence applied. Only then may a claim leave.
    CloseSession { epoch: Epoch },
    /// Serving: hold new operations, flush, wait until the peer has acknowledged all (if required), unmount;
    /// stragglers get EIO. The answer carries the last sequence.
    Release { epoch: Epoch },
    /// Serving: answer every pending and later request with EIO and unmount at once.
    Abandon { epoch: Epoch },
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ReplicaAnswer {
    /// Carried out.
    Done { last: Lsn },
    /// Not possible; English, names path and cause.
    Failed { detail: String },
}

/// From the data process, unasked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum ReplicaNote {
    /// Serving: the barrier is passed; from now on every acknowledgement needs the peer's.
    Armed { session: Session },
    /// Following: everything up to the barrier is applied and flushed to this disk.
    Level { session: Session },
    /// The session is over: its connection broke while the peer was brought level, or broke later and could not be
    /// resumed (see [`rejoin`]), or the other side ended it.
    SessionLost { session: Session, detail: String },
    /// Following: an operation could not be applied or flushed here (full disk, I/O error): this copy is stale.
    ApplyFailed { session: Session, detail: String },
    /// Serving: this node's disk failed (I/O error, not a full disk).
    DiskFailed { detail: String },
    /// Not used, and a person says that what is in the directories is another copy than it was: it counts as older.
    Replaced {
        /// Who.
        by: String,
    },
    /// The process ended or cannot be reached any more.
    Died { detail: String },
}
