//! `userconfig.xml` → [`super::ModuleDef`], with every problem at its line and column.
//!
//! Reading never stops at the first problem: the text is read into a tree, macros are expanded, the tree is held
//! against the table of what may stand where (`rules`), and what is right of it is read and checked for sense
//! (`read`). A [`Parsed::def`] exists only if no problem is an error.
//!
//! # Defaults
//!
//! | what | default | why |
//! | --- | --- | --- |
//! | `service boot` | `auto` (`ignore` means the same) | what an administrator left running runs again after a power cut |
//! | `service authority` | `arbiter`; `ping` with a `splitbrain` checker | two nodes alone cannot tell a dead peer from a cut cable |
//! | `service arbiter` | `console` | any of `arbiters` in `cluster.xml` |
//! | `fence delay`, `timeout` | `5s`, `20s` | a secondary fences later than the primary, so that one of the two lives |
//! | `service maxloop`, `loop_interval` | 3, `24h` | |
//! | `heart profile` | `normal` | takeover after about 5 s; `timeout` overrides it and is the time a node keeps its promise |
//! | `heartbeat` | every network of the cluster that holds the module's nodes | |
//! | replication network | the heartbeat with `ident="flow"`, else the first | |
//! | `rfs async` | `none`: fsync returns when both disks have the data | a takeover loses nothing that was confirmed |
//! | `interface check` | `on`: the checker `intf.NAME`, `wait` | a pulled cable is noticed where the service is reached |
//! | `virtual_addr check` | `on`: the checker `ip.ADDRESS`, `stopstart` | |
//! | `user starttimeout` | `120s` | |
//! | `user nicestoptimeout`, `forcestoptimeout` | `300s` each | |
//! | `errd polltimer`, `proc class`, `proc action` | `30s`, `prim`, `stopstart` | |
//! | `tcp`, `http`, `exec`: `when`, `interval`, `timeout`, `action` | `prim`, `10s`, `5s`, `restart` (`wait` with `when="pre"`) | |
//! | `ping` | `pre`, `10s`, `5s`, `wait` | |
//! | `load`, `memory`, `disk`, `custom`: `when`, `action` | `prim`, `noaction` | what to do about overload is for a person to choose |
//! | `rise`; `fall` | 1; 2 for `tcp`, `ping`, `http`, `exec`, 3 for `load`, `memory`, 1 for the rest | facts count at once, a failed connection may be chance |
//! | `retry` | `200ms`; the interval for `load`, `memory`, `disk` | |
//! | `failover extends`, `handle_time` | `yes`, `15s` | |
//! | `depends on state` | `up`: green in any role | |

use super::ModuleDef;
use crate::cluster::ClusterDef;
use crate::ids::NodeName;
use crate::markup::schema::{self, At};
use crate::markup::tree;
pub use crate::markup::{
    Expected, Fault, NAME_PATTERN_BYTES_MAX, Place, Problem, ProblemKind, RESOURCE_CLASSES, RuleFault, Severity, Unit, UnusedReason,
};

mod macros;
mod read;
mod rules;

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
    let mut problems = Vec::new();
    let document = tree::read(text, &mut problems);
    let mut def = None;
    if let Some(mut root) = document.root {
        macros::expand(&mut root, &mut problems);
        schema::check(&mut root, &rules::SAFE, document.is_whole, &mut problems);
        let mut found = Vec::new();
        def = read::module(&At::root(&root, &rules::SAFE), ctx, &mut found);
        // What a text that is no XML does not hold may only have been misread.
        found.retain(|p| document.is_whole || !p.kind.is_about_absence());
        problems.append(&mut found);
    }
    problems.sort_by_key(|p| (p.place, p.severity));
    problems.dedup();
    // Without a definition and without an error nobody could tell why.
    if problems.iter().any(Problem::is_error) {
        def = None;
    }
    Parsed { def, problems }
}

#[cfg(test)]
mod tests;
