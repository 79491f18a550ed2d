//! The rules language of `<failover>`: what a module does when its resources go up and down.
//!
//! ```text
//! label: if ( tcp.web == down && remote.tcp.web != down ) then swap();
//! ```
//!
//! | part | what it is |
//! | --- | --- |
//! | `label` | name of the rule, for people and logs: letters, digits, `_`, `-`, `.` |
//! | resource | `class.id`, `local.class.id`, `remote.class.id`; `*` in place of the id: *all* of the class, `?`: *any one* of it |
//! | state | `init` (not known yet), `up`, `down`, `unknown` (only of the other node's resources) |
//! | operators | `!`, then `==` `!=`, then `&&`, then `\|\|`; brackets |
//! | action | `stop()` `stopstart()` `wait()` `restart()` `swap()` |
//!
//! A resource alone is true while it is `up`. `*` and `?` are false, in every comparison, while the class has no
//! resource: a rule never fires for want of something to look at. `//` and `/* */` begin comments.
//!
//! Reading ([`parse`]) reports every fault with its place; evaluating ([`Ruleset::firing`]) is pure and total. What
//! fires is not yet done: [`Steady`] says when it is. That a module comes out of WAIT again is no rule one writes: it
//! does when no rule with `wait()` fires any more.

mod eval;
mod parse;
mod steady;
#[cfg(test)]
mod tests;

pub use crate::markup::{RESOURCE_CLASSES, RuleFault};
pub use eval::{Firing, ResourceTable};
pub use parse::{BYTES_MAX, DEPTH_MAX, RULES_MAX, RuleProblem, parse, parse_placed};
pub use steady::{Decision, Steady};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Time an action must stay the same before it is carried out, without `handle_time`.
pub const HANDLE_TIME: Duration = Duration::from_secs(15);

/// State of a resource as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Not known yet, or its checker does not run in this state.
    Init,
    /// Good.
    Up,
    /// Bad.
    Down,
    /// Of the other node, and nothing has been heard of it.
    Unknown,
}

impl Value {
    /// Every state, as the manual lists them.
    pub const ALL: [Value; 4] = [Value::Init, Value::Up, Value::Down, Value::Unknown];

    /// As written in a rule.
    pub fn word(self) -> &'static str {
        match self {
            Value::Init => "init",
            Value::Up => "up",
            Value::Down => "down",
            Value::Unknown => "unknown",
        }
    }
}

/// What a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// Stop and start scripts in place; the role is kept.
    Restart,
    /// Exchange the roles.
    Swap,
    /// The module waits until no rule with this action fires.
    Wait,
    /// Full stop and start; a ready secondary takes over.
    StopStart,
    /// Stop.
    Stop,
}

impl RuleAction {
    /// Every action, the weakest first: where several fire, the greatest is done.
    pub const ALL: [RuleAction; 5] = [RuleAction::Restart, RuleAction::Swap, RuleAction::Wait, RuleAction::StopStart, RuleAction::Stop];

    /// As written in a rule, without the brackets.
    pub fn word(self) -> &'static str {
        match self {
            RuleAction::Restart => "restart",
            RuleAction::Swap => "swap",
            RuleAction::Wait => "wait",
            RuleAction::StopStart => "stopstart",
            RuleAction::Stop => "stop",
        }
    }
}

/// Whose resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// This node's.
    Local,
    /// The other node's (mirror modules only).
    Remote,
}

/// Which resources of a class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ident {
    /// The one of this name.
    Name(String),
    /// `*`: all of them.
    All,
    /// `?`: any one of them.
    Any,
}

/// A resource, or the resources, a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceRef {
    /// Whose.
    pub side: Side,
    /// `tcp`, `proc` …: one of [`RESOURCE_CLASSES`].
    pub class: String,
    /// Which of the class.
    pub ident: Ident,
}

impl ResourceRef {
    /// One resource of this node.
    pub fn local(class: &str, ident: &str) -> ResourceRef {
        ResourceRef { side: Side::Local, class: class.to_owned(), ident: Ident::Name(ident.to_owned()) }
    }
    /// Any one of a class on this node.
    pub fn any(class: &str) -> ResourceRef {
        ResourceRef { side: Side::Local, class: class.to_owned(), ident: Ident::Any }
    }
    /// `class.id` without the side: the name in a [`ResourceTable`], or a pattern ending in `*` or `?`.
    pub fn name(&self) -> String {
        match &self.ident {
            Ident::Name(name) => format!("{}.{name}", self.class),
            Ident::All => format!("{}.*", self.class),
            Ident::Any => format!("{}.?", self.class),
        }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Remote { "remote." } else { "" };
        write!(f, "{side}{}", self.name())
    }
}

/// One side of a comparison of states.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operand {
    /// A resource.
    Resource(ResourceRef),
    /// A state written out.
    Value(Value),
}

/// A condition. Depth is bounded by [`DEPTH_MAX`]; `And` and `Or` have at least two parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// A resource is up.
    IsUp(ResourceRef),
    /// Two states are the same (`==`), or not (`!=`).
    Compare {
        /// `==`.
        is_equal: bool,
        /// Left of it.
        left: Operand,
        /// Right of it.
        right: Operand,
    },
    /// Two conditions are both true or both false (`==`), or not (`!=`).
    Match {
        /// `==`.
        is_equal: bool,
        /// Left of it.
        left: Box<Expr>,
        /// Right of it.
        right: Box<Expr>,
    },
    /// `!`.
    Not(Box<Expr>),
    /// `&&`.
    And(Vec<Expr>),
    /// `||`.
    Or(Vec<Expr>),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Name; unique in its ruleset.
    pub label: String,
    /// When it fires.
    pub condition: Expr,
    /// What is done then.
    pub action: RuleAction,
    /// What it looks at is a fact when it is seen (a process ended, an address is gone): the action does not wait
    /// for [`Ruleset::handle_time`].
    pub is_hard: bool,
    /// Made by the product from a checker; false = written in the configuration.
    pub is_generated: bool,
}

/// Every rule of a module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ruleset {
    /// How long an action must stay the same before it is carried out; zero = at once.
    pub handle_time: Duration,
    /// Generated ones first, then as written.
    pub rules: Vec<Rule>,
}

impl Default for Ruleset {
    fn default() -> Ruleset {
        Ruleset { handle_time: HANDLE_TIME, rules: Vec::new() }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Resource(resource) => resource.fmt(f),
            Operand::Value(value) => f.write_str(value.word()),
        }
    }
}

/// Text that reads as the same condition again.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |is_equal: &bool| if *is_equal { "==" } else { "!=" };
        match self {
            Expr::IsUp(resource) => resource.fmt(f),
            Expr::Compare { is_equal, left, right } => write!(f, "{left} {} {right}", sign(is_equal)),
            Expr::Match { is_equal, left, right } => write!(f, "({left}) {} ({right})", sign(is_equal)),
            Expr::Not(inner) => write!(f, "!({inner})"),
            Expr::And(parts) => write_parts(f, parts, " && "),
            Expr::Or(parts) => write_parts(f, parts, " || "),
        }
    }
}

fn write_parts(f: &mut fmt::Formatter<'_>, parts: &[Expr], between: &str) -> fmt::Result {
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            f.write_str(between)?;
        }
        match part {
            Expr::IsUp(_) | Expr::Compare { .. } | Expr::Not(_) => write!(f, "{part}")?,
            Expr::Match { .. } | Expr::And(_) | Expr::Or(_) => write!(f, "({part})")?,
        }
    }
    Ok(())
}

/// `label: if (…) then action();`
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: if ({}) then {}();", self.label, self.condition, self.action.word())
    }
}
