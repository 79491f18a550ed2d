//! The engine of a module, whatever its type: what a driver that runs modules of every type holds.

use super::{Effect, Input, Kept, Light, Mirror, Saved};
use crate::command::{Command, Refusal, Verb};
use crate::rehearsal::Rehearsal;
use crate::state::{Allowed, ArbiterView, Readiness, Reason, Replication, ResourceView, State};
use crate::wire::peer::Status;

/// One of the engines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Engine {
    /// One serves, one follows.
    Mirror(Box<Mirror>),
    /// One node.
    Light(Box<Light>),
}

/// The same call to whichever engine it is.
macro_rules! each {
    ($engine:expr, $e:ident => $call:expr) => {
        match $engine {
            Engine::Mirror($e) => $call,
            Engine::Light($e) => $call,
        }
    };
}

impl Engine {
    /// One input, applied at once; what must be done is appended to `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Effect>) {
        each!(self, e => e.step(input, out));
    }
    /// What is to be kept for another life of the driver; `None`: nothing, it would begin anew.
    pub fn kept(&self) -> Option<Kept> {
        match self {
            Engine::Mirror(mirror) => mirror.kept(),
            Engine::Light(_) => None,
        }
    }
    /// Why `verb` would be refused now; `None` = it would be carried out.
    pub fn refusal(&self, verb: &Verb) -> Option<Refusal> {
        each!(self, e => e.refusal(verb))
    }
    /// Why `command` would be refused now; `None` = it would be carried out.
    pub fn refusal_of(&self, command: &Command) -> Option<Refusal> {
        each!(self, e => e.refusal_of(command))
    }
    /// What `command` would do, if nothing fails. This engine stays as it is.
    pub fn rehearse(&self, command: Command) -> Rehearsal {
        each!(self, e => e.rehearse(command))
    }
    /// State shown.
    pub fn state(&self) -> State {
        each!(self, e => e.state())
    }
    /// Second axis.
    pub fn readiness(&self) -> Readiness {
        each!(self, e => e.readiness())
    }
    /// Why it is not green.
    pub fn reason(&self) -> Option<&Reason> {
        each!(self, e => e.reason())
    }
    /// The record as last saved.
    pub fn saved(&self) -> &Saved {
        each!(self, e => e.saved())
    }
    /// A mirror's copy is about to be given up, as soon as its primary has said that it goes on without it.
    pub fn is_excluding(&self) -> bool {
        matches!(self, Engine::Mirror(mirror) if mirror.is_excluding())
    }
    /// A script or another step is under way.
    pub fn is_planning(&self) -> bool {
        each!(self, e => e.is_planning())
    }
    /// Automatic actions that count now, and how many may.
    pub fn loops(&self) -> (u32, u32) {
        each!(self, e => e.loops())
    }
    /// Checked resources.
    pub fn resources(&self) -> Vec<ResourceView> {
        each!(self, e => e.resources())
    }
    /// Every order and whether it would be accepted now.
    pub fn allowed(&self) -> Vec<Allowed> {
        each!(self, e => e.allowed())
    }
    /// The right to serve is held or being left: addresses are looked after.
    pub fn is_serving(&self) -> bool {
        match self {
            Engine::Mirror(mirror) => mirror.is_serving(),
            Engine::Light(light) => light.state().is_serving(),
        }
    }
    /// The peer's newest status and whether it is in contact; none where there is no peer.
    pub fn peer(&self) -> (Option<&Status>, bool) {
        match self {
            Engine::Mirror(mirror) => mirror.peer(),
            Engine::Light(_) => (None, false),
        }
    }
    /// This copy of the data is current by flag and record; no where there is none.
    pub fn is_up_to_date(&self) -> bool {
        match self {
            Engine::Mirror(mirror) => mirror.is_up_to_date(),
            Engine::Light(_) => false,
        }
    }
    /// The arbiter as far as known.
    pub fn arbiter(&self) -> ArbiterView {
        match self {
            Engine::Mirror(mirror) => mirror.arbiter(),
            Engine::Light(_) => ArbiterView::NotNeeded,
        }
    }
    /// Replication as this node sees it.
    pub fn replication(&self) -> Replication {
        match self {
            Engine::Mirror(mirror) => mirror.replication(),
            Engine::Light(_) => Replication::None,
        }
    }
}
