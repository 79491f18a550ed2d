//! `/operations/{id}`, and the line about a running operation on a module's page.

use super::{out, ui};
use crate::both;
use crate::live_ids::Block;
use crate::say::{self, Mark};
use crate::text as p;
use crate::view::{Chrome, OperationKind, OperationPageView, OperationState, OperationView};
use askama::Template;

#[derive(Template)]
#[template(path = "pages/operation.html", blocks = ["operation"])]
struct Page<'a> {
    c: &'a Chrome,
    op: OperationM,
}

pub(crate) struct OperationM {
    pub id: String,
    pub title: String,
    pub cluster: String,
    pub module: String,
    pub href: String,
    pub mark: Mark,
    pub state: &'static str,
    pub by: String,
    pub reason: Option<String>,
    pub started: u64,
    pub ended: Option<u64>,
    pub nodes: Vec<OutcomeM>,
}

pub(crate) struct OutcomeM {
    pub node: String,
    pub mark: Mark,
    pub state: &'static str,
    pub lines: Vec<String>,
}

fn state(c: &Chrome, state: OperationState) -> (Mark, &'static str) {
    let (mark, text) = match state {
        OperationState::Queued => (Mark::Transient, p::OP_QUEUED),
        OperationState::Running => (Mark::Transient, p::OP_RUNNING),
        OperationState::Succeeded => (Mark::Ready, p::OP_SUCCEEDED),
        OperationState::Failed => (Mark::NotReady, p::OP_FAILED),
        OperationState::Unknown => (Mark::Unknown, p::OP_UNKNOWN),
    };
    (mark, c.t(text))
}

impl OperationM {
    pub(crate) fn of(c: &Chrome, op: &OperationView) -> OperationM {
        let module = &op.module;
        let title = match &op.what {
            OperationKind::Action(verb) => {
                let verb = say::verb_name(c.lang, verb);
                both!(c.lang, "{verb} {module}", "{module} の{verb}")
            }
            OperationKind::Apply { version } => {
                both!(c.lang, "Apply version {version} of {module}", "{module} の第 {version} 版を適用")
            }
            OperationKind::Remove => both!(c.lang, "Remove {module}", "{module} の削除"),
        };
        let (mark, word) = state(c, op.state);
        let by = &op.by;
        OperationM {
            id: op.id.clone(),
            title,
            cluster: op.cluster.to_string(),
            module: module.to_string(),
            href: super::parts::module_href(&op.cluster, module.as_str()),
            mark,
            state: word,
            by: both!(c.lang, "by {by}", "{by} が指示"),
            reason: op.reason.clone(),
            started: op.started_unix_ms,
            ended: op.ended_unix_ms,
            nodes: op
                .nodes
                .iter()
                .map(|n| {
                    let (mark, state) = state(c, n.state);
                    let refusal = n.refusal.as_ref().map(|r| say::refusal(c.lang, r, module, &n.node));
                    let lines = refusal.iter().flat_map(|r| [r.text.clone(), r.rest()]).filter(|l| !l.is_empty());
                    OutcomeM { node: n.node.to_string(), mark, state, lines: lines.chain(n.problems.iter().cloned()).collect() }
                })
                .collect(),
        }
    }
}

/// The page.
pub fn operation(v: &OperationPageView) -> String {
    out(&Page { c: &v.chrome, op: OperationM::of(&v.chrome, &v.operation) })
}

/// Its live block.
pub fn operation_blocks(v: &OperationPageView) -> Vec<Block> {
    let page = Page { c: &v.chrome, op: OperationM::of(&v.chrome, &v.operation) };
    vec![v.chrome.badge_block(), Block { id: "operation".to_owned(), html: out(&page.as_operation()) }]
}
