//! Changes of state with the input that caused them: what the table of the protocol must see entered.

use std::collections::BTreeSet;
use tsugi_core::engine::{Effect, Input, Outcome, Timer};
use tsugi_core::event::Event;
use tsugi_core::module::Action;
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote};
use tsugi_core::state::{Readiness, State};

/// Kind of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Cause {
    Boot,
    /// An agent goes on.
    GoneOn,
    /// By its word.
    Order(&'static str),
    Heard,
    Timer(Timer),
    /// A resource changed whose checker does this.
    Check(Action),
    /// The data process failed, or its disk did.
    DataFailed,
    /// Anything else it says.
    Data,
    Script {
        is_good: bool,
    },
    /// The application's processes are ended, or cannot be.
    Killed,
    Address {
        is_good: bool,
    },
    /// A script counts its restarts, or the guard ended the application.
    Told,
    /// Absent = no answer.
    Arbiter(Option<bool>),
}

impl Cause {
    /// Of an input.
    pub fn of(input: &Input) -> Cause {
        match input {
            Input::Boot => Cause::Boot,
            Input::GoneOn => Cause::GoneOn,
            Input::Command(command) => Cause::Order(command.verb.word()),
            Input::Heard { .. } => Cause::Heard,
            Input::Loops(_) | Input::AppEnded => Cause::Told,
            Input::Timer(Timer::LoopExpire(_)) => Cause::Timer(Timer::LoopExpire(0)),
            Input::Timer(timer) => Cause::Timer(*timer),
            Input::Health { action, .. } => Cause::Check(*action),
            Input::Replica(ReplicaNote::ApplyFailed { .. } | ReplicaNote::DiskFailed { .. } | ReplicaNote::Died { .. })
            | Input::Done(_, Outcome::Replica(ReplicaAnswer::Failed { .. })) => Cause::DataFailed,
            Input::Replica(_) | Input::Done(_, Outcome::Replica(_)) => Cause::Data,
            Input::Done(_, Outcome::Script { code, .. }) => Cause::Script { is_good: *code == Some(0) },
            Input::Done(_, Outcome::Killed(_)) => Cause::Killed,
            Input::Done(_, Outcome::Vip(result)) => Cause::Address { is_good: result.is_ok() },
            Input::Done(_, Outcome::Arbiter(answer)) => Cause::Arbiter(answer.as_ref().map(|a| a.is_accepted)),
        }
    }
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// After.
    pub readiness: Readiness,
    /// Name of the reason, or nothing.
    pub reason: String,
    /// What the engine was told.
    pub cause: Cause,
}

/// Takes up the changes among these effects.
pub fn note(turns: &mut BTreeSet<Turn>, cause: Cause, effects: &[Effect]) {
    for effect in effects {
        if let Effect::Report(Event::Entered { from, to, readiness, reason }) = effect {
            let reason = reason.as_ref().map(|r| format!("{r:?}")).unwrap_or_default();
            let reason = reason.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
            turns.insert(Turn { from: *from, to: *to, readiness: *readiness, reason, cause });
        }
    }
}
