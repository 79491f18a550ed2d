//! `cluster.xml` ⇄ [`super::ClusterDef`], with every problem at its line and column.

use super::ClusterDef;
use crate::ids::ClusterName;
use crate::markup::{Fault, Place, Problem, ProblemKind, Severity};

/// What came of a `cluster.xml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedCluster {
    /// The definition; none if any problem is an error.
    pub def: Option<ClusterDef>,
    /// Every problem, in the order of the text.
    pub problems: Vec<Problem>,
}

/// Reads a `cluster.xml`. The name is the console's, the file has none.
pub fn parse_cluster(text: &str, name: &ClusterName) -> ParsedCluster {
    let _ = (text, name);
    let kind = ProblemKind::Malformed(Fault::NoRoot);
    let problem = Problem { place: Place::START, element: String::new(), attribute: None, kind, severity: Severity::Error };
    ParsedCluster { def: None, problems: vec![problem] }
}

/// Writes a definition as `cluster.xml`.
pub fn to_xml(def: &ClusterDef) -> String {
    let _ = def;
    String::new()
}
