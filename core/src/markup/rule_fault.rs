//! What can be wrong with a rule of `<failover>`, typed. The language itself is `crate::rules`' (a layer above).

use serde::{Deserialize, Serialize};

/// Classes of resources a rule may name.
pub const RESOURCE_CLASSES: &[&str] = &[
    "tcp",
    "ping",
    "intf",
    "ip",
    "custom",
    "module",
    "splitbrain",
    "http",
    "load",
    "memory",
    "disk",
    "exec",
    "proc",
    "handler",
    "heartbeat",
    "rfs",
];

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleFault {
    /// Something else should stand here.
    Unexpected {
        /// What stands there; empty = the text ends.
        found: String,
        /// What would be right: code (`if`, `;`) or one of `a label`, `a resource or a state`, `an action`, `a condition`.
        expected: String,
    },
    /// A class that does not exist.
    UnknownClass {
        /// The word.
        name: String,
        /// The class most like it.
        near: Option<String>,
    },
    /// A resource nothing sets (warning): the rule would never see it change.
    UnknownResource {
        /// `class.id`.
        name: String,
        /// The resource most like it.
        near: Option<String>,
    },
    /// An action that does not exist.
    UnknownAction {
        /// The word.
        name: String,
        /// The action most like it.
        near: Option<String>,
    },
    /// A state where a condition belongs: `if (up)`.
    StateAlone {
        /// The state.
        state: String,
    },
    /// A condition compared with a state: `(a && b) == up`.
    MixedComparison,
    /// `local` resource compared with `unknown`, which it never is.
    NeverUnknown {
        /// The resource.
        name: String,
    },
    /// `remote.` in a module without another node.
    NoRemote,
    /// `swap()` in a module without a second node to take the role.
    NoSwap,
    /// The Lua form of the rules.
    Lua,
    /// The same label twice.
    DuplicateLabel {
        /// The label.
        label: String,
    },
    /// Brackets and `!` nested too deeply.
    TooDeep {
        /// Greatest depth.
        most: usize,
    },
    /// The text is too long.
    TooLong {
        /// Greatest length in bytes.
        most: usize,
    },
    /// Too many rules.
    TooMany {
        /// Greatest number.
        most: usize,
    },
    /// `extends="no"`: the rules of the checkers do not hold (warning).
    WithoutDefaults,
}
