//! What an order would do (`--dry-run`), typed. Found by the engine, worded in `tsugi-web`.

use crate::command::Refusal;
use crate::module::ScriptName;
use crate::state::{Readiness, Reason, State};
use serde::{Deserialize, Serialize};

/// One thing that would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Rehearsed {
    /// A script would run; `forced` = the second call of a stop script.
    Script {
        /// Which.
        script: ScriptName,
        /// Its second, forced call.
        forced: bool,
    },
    /// What is left of the application would be ended.
    Kill,
    /// The addresses would be raised.
    RaiseVips,
    /// The addresses would be removed.
    DropVips,
    /// The directories would be mounted for writing.
    Serve,
    /// Everything would be flushed and the directories given away.
    Release,
    /// The directories would be given away without flushing what is not acknowledged.
    Abandon,
    /// The replication session would end.
    CloseSession,
    /// This copy would be brought level from the other node: what is only here is discarded.
    Follow,
    /// The arbiter would be asked for the right to serve alone.
    Claim,
    /// The arbiter's record would be overridden by the decision of a person.
    Force,
    /// The module would be in this state.
    Enter {
        /// State.
        state: State,
        /// Second axis.
        readiness: Readiness,
        /// Why it is not green.
        reason: Option<Reason>,
    },
}

/// What an order would do on this node, or why it would be refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// It would be refused; then there are no steps.
    pub refusal: Option<Refusal>,
    /// In order.
    pub steps: Vec<Rehearsed>,
}
