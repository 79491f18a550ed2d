//! The only place that words the domain: states, reasons, refusals, events, health, plans of actions.
//!
//! Pages, the REST API, the command line and mails all take their sentences from here, so that they never differ.
//! The pattern of a sentence: what is true → what that means or what happens next by itself → what to do, with
//! the exact command line. No blame, no exclamation marks, never "error" alone. State words (PRIM, WAIT, …) stay as they are.

mod authority;
mod detail;
mod event;
mod health;
mod plan;
mod problem;
mod reason;
mod rehearsal;
mod state;
mod steps;
mod traffic;
mod verb;
mod verify;

pub use authority::{authority, authority_warnings};
pub use detail::{detail, lost_session};
pub use event::{event, event_mark, level};
pub use health::{attention, headline, health_hint, health_mark, health_name, module_health, never_connected, no_contact, why};
pub use plan::{Grade, Interruption, Plan, Step, StepMark, Target, Tick, plan};
pub use problem::{problem, problem_message, problem_remedy};
pub use reason::{reason, reason_of, reason_short};
pub use rehearsal::{not_rehearsed, rehearsed};
pub use state::{Pill, action, arbiter, flag, gloss, mark, mode, pill, readiness, replication, resource_health, script};
pub use traffic::{is_waiting, traffic};
pub use verb::{command_line, refusal, verb_done, verb_name};
pub use verify::{compared, difference, last as last_verification, unrepaired, verified};

use crate::both;
use crate::text::Lang;

/// What is true, what follows, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// What is true: one whole sentence.
    pub text: String,
    /// The consequence, or what happens next by itself.
    pub next: Option<String>,
    /// What a person can do.
    pub remedy: Option<String>,
    /// The remedy as an exact command line.
    pub command: Option<String>,
    /// Node to run it on; absent = a person must choose which.
    pub on: Option<String>,
}

impl Said {
    /// One sentence and nothing more.
    pub fn only(text: impl Into<String>) -> Said {
        Said { text: text.into(), ..Said::default() }
    }
    /// Adds the consequence or next step.
    #[must_use]
    pub fn then(mut self, next: impl Into<String>) -> Said {
        self.next = Some(next.into());
        self
    }
    /// Adds what a person can do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Said {
        self.remedy = Some(remedy.into());
        self
    }
    /// Adds the command line of the remedy.
    #[must_use]
    pub fn command(mut self, command: impl Into<String>) -> Said {
        self.command = Some(command.into());
        self
    }
    /// Adds the command line of the remedy with the node to run it on.
    #[must_use]
    pub fn command_on(mut self, node: &tsugi_core::ids::NodeName, command: impl Into<String>) -> Said {
        self.on = Some(node.to_string());
        self.command(command)
    }
    /// The command discards data: shown as the last resort, never as the first thing to copy.
    pub fn is_last_resort(&self) -> bool {
        let discards = |c: &String| ["--accept-loss", "primforce", "--full-sync", "resolve "].iter().any(|word| c.contains(word));
        self.command.as_ref().is_some_and(discards)
    }
    /// What stands before the command: where to run it, and what it costs. Empty where there is nothing to say.
    pub fn command_label(&self, lang: Lang) -> String {
        match (self.is_last_resort(), &self.on) {
            (true, Some(node)) => both!(lang, "Last resort (discards data), on {node}:", "最後の手段（データを破棄）、{node} 上で："),
            (true, None) => both!(lang, "Last resort (discards data):", "最後の手段（データを破棄）："),
            (false, Some(node)) => both!(lang, "On {node}:", "{node} 上で："),
            (false, None) => String::new(),
        }
    }
    /// Everything after the first sentence, as running text.
    pub fn rest(&self) -> String {
        let parts: Vec<&str> = [&self.next, &self.remedy].into_iter().flatten().map(String::as_str).collect();
        // Japanese sentences follow each other without a space; ours end in 。 there.
        let gap = if parts.first().is_some_and(|p| p.ends_with('。')) { "" } else { " " };
        parts.join(gap)
    }
}

/// Shape of the sprite that stands beside a word. The shape carries the meaning also without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Disc with a check: ready, and the application runs here.
    Ready,
    /// Ring with a check: ready, standing by.
    Standby,
    /// Diamond with two arrows: ends by itself.
    Transient,
    /// Square with a cross: needs a person or an event from outside.
    NotReady,
    /// Square with a hole: stopped by order.
    Stopped,
    /// Triangle: runs, but is not protected.
    Warning,
    /// Dashed ring with a question mark: not heard.
    Unknown,
    /// Ring with an i.
    Info,
}

impl Mark {
    /// All of them.
    pub const ALL: [Mark; 8] =
        [Mark::Ready, Mark::Standby, Mark::Transient, Mark::NotReady, Mark::Stopped, Mark::Warning, Mark::Unknown, Mark::Info];
    /// Id of the shape in the sprite (`#s-ready`).
    pub fn shape(self) -> &'static str {
        match self {
            Mark::Ready => "s-ready",
            Mark::Standby => "s-standby",
            Mark::Transient => "s-trans",
            Mark::NotReady => "s-notready",
            Mark::Stopped => "s-stopped",
            Mark::Warning => "s-warn",
            Mark::Unknown => "s-unk",
            Mark::Info => "s-info",
        }
    }
    /// Class that gives the colour (`c-ready`).
    pub fn tone(self) -> &'static str {
        match self {
            Mark::Ready | Mark::Standby => "c-ready",
            Mark::Transient => "c-trans",
            Mark::NotReady | Mark::Stopped => "c-notready",
            Mark::Warning => "c-warn",
            Mark::Unknown => "c-unk",
            Mark::Info => "c-info",
        }
    }
}
