//! `userconfig.xml` → [`super::ModuleDef`], with every problem at its line and column.

use super::ModuleDef;
use crate::cluster::ClusterDef;
use crate::ids::NodeName;
pub use crate::markup::{Expected, Fault, Place, Problem, ProblemKind, Severity, Unit, UnusedReason};

/// What is known about the surroundings of a configuration. All of it may be absent: then what depends on it is
/// not checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct ParseContext<'a> {
    /// The cluster the module lives in.
    pub cluster: Option<&'a ClusterDef>,
    /// The module's nodes.
    pub nodes: &'a [NodeName],
}

/// What came of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The definition; none if any problem is an error.
    pub def: Option<ModuleDef>,
    /// Every problem, in the order of the text.
    pub problems: Vec<Problem>,
}

/// Reads a configuration. Total: any text gives a definition or at least one error.
pub fn parse(text: &str, ctx: &ParseContext<'_>) -> Parsed {
    let _ = (text, ctx);
    let kind = ProblemKind::Malformed(Fault::NoRoot);
    let problem = Problem { place: Place::START, element: String::new(), attribute: None, kind, severity: Severity::Error };
    Parsed { def: None, problems: vec![problem] }
}
