//! Configuration text → tree with positions → every problem at once.
//!
//! What `userconfig.xml` and `cluster.xml` have in common: reading XML so that each element and attribute
//! knows its line and column ([`tree`]), holding it against a table of what may stand where ([`schema`]),
//! reading values with units ([`value`]), and saying what is wrong ([`Problem`]).
//!
//! Invariant: a place always lies inside the text (or just past its end), counted in characters, from 1.

mod problem;
mod rule_fault;
pub(crate) mod schema;
pub(crate) mod tree;
pub(crate) mod value;
mod words;

pub use problem::{Expected, Fault, Place, Problem, ProblemKind, Severity, UnusedReason};
pub use rule_fault::{RESOURCE_CLASSES, RuleFault};
pub use value::{NAME_PATTERN_BYTES_MAX, Unit};
