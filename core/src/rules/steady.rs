//! When what fires is done: at once if it is a hard fact, else when the same action has been asked for all the time.
//!
//! No clock: whoever holds a [`Steady`] sets one timer when told to ([`Decision::Hold`]) and calls [`Steady::due`]
//! when it runs out.

use super::{Firing, ResourceTable, RuleAction, Ruleset};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What to do about the rules that fire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Nothing fires: stop the timer.
    Nothing,
    /// An action has just begun to be asked for, or another than before: (re)start the timer with this time.
    Hold {
        /// What will be done if it stays so.
        firing: Firing,
        /// How long it must stay so.
        wait: Duration,
    },
    /// The same as at the last look: the timer runs on.
    Keep,
    /// Do it now, and stop the timer.
    Act(Firing),
}

/// The action that is being asked for. Small and hashable: part of an engine's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Steady {
    asked: Option<RuleAction>,
}

impl Steady {
    /// To be called after each change of a resource, while the module is in a state in which rules act.
    pub fn look(&mut self, rules: &Ruleset, table: &ResourceTable) -> Decision {
        let firing = rules.firing(table);
        // A hard fact is acted on though something graver may be on its way: that goes on being asked for.
        let now = firing.iter().find(|f| f.is_hard || rules.handle_time.is_zero());
        if let Some(now) = now {
            self.asked = None;
            return Decision::Act(now.clone());
        }
        let Some(first) = firing.into_iter().next() else {
            self.asked = None;
            return Decision::Nothing;
        };
        if self.asked.replace(first.action) == Some(first.action) {
            return Decision::Keep;
        }
        Decision::Hold { firing: first, wait: rules.handle_time }
    }

    /// The timer ran out: what is to be done now, if it is still asked for.
    pub fn due(&mut self, rules: &Ruleset, table: &ResourceTable) -> Option<Firing> {
        let asked = self.asked.take()?;
        rules.firing(table).into_iter().next().filter(|f| f.action == asked)
    }

    /// An action was carried out, or the module left the states in which rules act: begin anew.
    pub fn forget(&mut self) {
        self.asked = None;
    }
}
