//! What a light module cannot have: whatever needs a second node.

use super::{Problem, ProblemKind};
use crate::markup::schema::At;

/// Sections of `service` that need another node.
const SECTIONS: [&str; 4] = ["heart", "rfs", "vip", "fence"];
/// Attributes of `service` that do.
const ATTRIBUTES: [&str; 5] = ["failover", "defaultprim", "authority", "arbiter", "allow_split_brain"];
/// Checkers with a phase.
const PHASED: [&str; 8] = ["tcp", "ping", "custom", "http", "load", "memory", "disk", "exec"];

pub(super) fn refuse(service: &At<'_>, problems: &mut Vec<Problem>) {
    let of_others = |what: String| ProblemKind::WrongMode { what, mode: "light".to_owned() };
    for name in ATTRIBUTES.into_iter().filter(|name| service.element.attribute(name).is_some()) {
        problems.push(service.wrong(name, of_others(name.to_owned())));
    }
    for name in SECTIONS {
        problems.extend(service.all(name).into_iter().map(|at| at.wrong_here(of_others(name.to_owned()))));
    }
    let checks = service.all("check");
    for at in checks.iter().flat_map(|c| c.all("splitbrain")) {
        problems.push(at.wrong_here(of_others("splitbrain".to_owned())));
    }
    // There is no SECOND in which these would run.
    let phased = checks.iter().flat_map(|c| PHASED.into_iter().flat_map(|name| c.all(name))).map(|at| (at, "when"));
    let classed = service.all("errd").into_iter().flat_map(|e| e.all("proc")).map(|at| (at, "class"));
    for (at, name) in phased.chain(classed) {
        if let Some(text @ ("second" | "sec")) = at.text(name) {
            problems.push(at.wrong(name, of_others(format!("{name}=\"{text}\""))));
        }
    }
}
