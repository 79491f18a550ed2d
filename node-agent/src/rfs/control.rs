//! What the agent and its data process say to one another: a line of JSON each, over a socket pair; the next life of an
//! agent that died comes in by a socket of its own.

use super::handle::DataConfig;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tsugi_core::copies::Verified;
use tsugi_core::ids::{JobId, ModuleName};
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

/// What an agent says first to a data process that runs already, on [`socket`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// Of the module as this agent knows it. With another one the process is of no use.
    pub config: DataConfig,
    /// Messages of the process that were taken into account by the life of the agent this one continues.
    pub heard: u64,
}

/// … and the answer, if it may take over. What it has not heard follows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Greeted {
    /// Number of the process.
    pub pid: i32,
    /// Number of its descriptor of the deadline's page.
    pub deadline_fd: i32,
}

/// Where a data process waits for the next life of its agent.
pub fn socket(run_dir: &Path, module: &ModuleName) -> PathBuf {
    run_dir.join(format!("data-{module}.sock"))
}

/// Messages kept for an agent that has not heard them. They are rare: the ends of sessions and comparisons.
const TOLD_MAX: usize = 64;

/// The way to the agent; clones share it.
#[derive(Clone, Default)]
pub struct Agent(Arc<Mutex<Way>>);

#[derive(Default)]
struct Way {
    /// Absent while there is no agent.
    socket: Option<UnixStream>,
    /// What must not be lost with an agent that dies before it has heard it, newest last.
    told: VecDeque<String>,
    /// Messages of that kind before these.
    forgotten: u64,
}

impl Agent {
    /// Speaks over this socket.
    pub fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(Way { socket: Some(socket), ..Way::default() })))
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something. An agent that is gone is noticed by the reader of orders.
    pub fn say(&self, what: &ToAgent) {
        let Ok(mut line) = serde_json::to_string(what) else { return };
        line.push('\n');
        let mut way = self.way();
        way.write(&line);
        if matches!(what, ToAgent::Note { .. } | ToAgent::Verified { .. }) {
            if way.told.len() == TOLD_MAX {
                way.told.pop_front();
                way.forgotten += 1;
            }
            way.told.push_back(line);
        }
    }

    /// Says something unasked.
    pub fn note(&self, what: ReplicaNote) {
        tracing::info!(note = ?what, "note to the agent");
        self.say(&ToAgent::Note { what });
    }

    /// The agent is gone.
    pub fn lose(&self) {
        self.way().socket = None;
    }

    /// Another one is there, which has heard the first `heard` messages of those that must not be lost: it hears the
    /// others. Refused if they are not kept any more, or were never said.
    pub fn found(&self, socket: UnixStream, heard: u64, greeted: &Greeted) -> io::Result<()> {
        let mut way = self.way();
        let known = heard.checked_sub(way.forgotten).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= way.told.len());
        let Some(known) = known else { return Err(io::Error::other("it has heard other messages than were kept")) };
        let mut text = serde_json::to_string(greeted).map_err(io::Error::other)?;
        text.push('\n');
        way.told.iter().skip(known).for_each(|line| text.push_str(line));
        (&socket).write_all(text.as_bytes())?;
        way.socket = Some(socket);
        Ok(())
    }
}

impl Way {
    fn write(&mut self, line: &str) {
        if let Some(socket) = &mut self.socket
            && let Err(e) = socket.write_all(line.as_bytes())
        {
            tracing::debug!(error = %e, "the agent cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use tsugi_core::ids::Session;

    fn lost(session: u64) -> ReplicaNote {
        ReplicaNote::SessionLost { session: Session(session), detail: String::new() }
    }

    /// The sessions whose loss is read from there, after the greeting.
    fn heard(socket: UnixStream, count: usize) -> Vec<u64> {
        let lines = BufReader::new(socket).lines().skip(1).take(count);
        lines
            .map(|line| match serde_json::from_str(&line.unwrap()).unwrap() {
                ToAgent::Note { what: ReplicaNote::SessionLost { session, .. } } => session.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn the_next_agent_hears_what_the_former_one_has_not() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours);
        agent.note(lost(1));
        agent.say(&ToAgent::Figures { what: ReplicaFigures::default() });
        agent.note(lost(2));
        drop(theirs);
        agent.note(lost(3));
        agent.lose();
        agent.note(lost(4));
        let greeted = Greeted { pid: 1, deadline_fd: 2 };
        let (ours, theirs) = UnixStream::pair().unwrap();
        agent.found(ours, 1, &greeted).unwrap();
        agent.note(lost(5));
        assert_eq!(heard(theirs, 4), [2, 3, 4, 5]);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(agent.found(ours, 6, &greeted).is_err(), "it cannot have heard what was not said");
    }

    #[test]
    fn an_agent_that_has_missed_too_much_is_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let agent = Agent::default();
        (0..=TOLD_MAX as u64).for_each(|n| agent.note(lost(n)));
        assert!(agent.found(ours.try_clone().unwrap(), 0, &Greeted { pid: 1, deadline_fd: 2 }).is_err());
        assert!(agent.found(ours, 1, &Greeted { pid: 1, deadline_fd: 2 }).is_ok());
    }
}
