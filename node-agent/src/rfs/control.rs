//! What the agent and its data process say to one another: a line of JSON each, over a socket pair.

use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use tsugi_core::copies::Verified;
use tsugi_core::ids::JobId;
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::ReplicaFigures;

/// Environment variable with the number of the inherited socket.
pub const CONTROL_FD: &str = "TSUGI_DATA_CONTROL_FD";
/// Environment variable with the number of the inherited page.
pub const DEADLINE_FD: &str = "TSUGI_DATA_DEADLINE_FD";
/// Longer lines are a broken sender.
pub const LINE_BYTES_MAX: u64 = 1 << 20;

/// From the agent. The first line is a `DataConfig`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToData {
    /// Carry out; answered.
    Order { job: JobId, what: ReplicaOrder },
    /// Tell the figures.
    Figures,
    /// Verify; the end is said.
    Verify,
    /// Have what differs repaired, in a new session.
    Repair,
    /// Tell what is noted as changed.
    Noted,
}

/// From the data process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToAgent {
    /// How an order ended.
    Answer { job: JobId, what: ReplicaAnswer },
    /// Unasked.
    Note { what: ReplicaNote },
    /// Asked for.
    Figures { what: ReplicaFigures },
    /// A verification ended, or could not begin.
    Verified { what: Verified },
    /// Asked for: paths of what is noted as changed since the peer was level, at most so many; `None`: everything counts as
    /// changed, or nothing is known.
    Noted { what: Option<Vec<String>> },
}

/// The way to the agent; clones share it.
#[derive(Clone)]
pub struct Agent(Arc<Mutex<UnixStream>>);

impl Agent {
    /// Writes to this socket.
    pub fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Says something. An agent that is gone is noticed by the reader of orders.
    pub fn say(&self, what: &ToAgent) {
        if let Err(e) = self.try_say(what) {
            tracing::debug!(error = %e, "the agent cannot be told");
        }
    }

    fn try_say(&self, what: &ToAgent) -> io::Result<()> {
        let mut line = serde_json::to_vec(what).map_err(io::Error::other)?;
        line.push(b'\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    /// Says something unasked.
    pub fn note(&self, what: ReplicaNote) {
        tracing::info!(note = ?what, "note to the agent");
        self.say(&ToAgent::Note { what });
    }
}
