//! What an order would do, asked of the nodes it would go to. Nothing is recorded and nothing changes.

use crate::app::App;
use crate::store::modules::Module;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tsugi_core::command::{Command, Verb};
use tsugi_core::ids::NodeName;
use tsugi_core::rehearsal::Rehearsal;

/// An agent finds it in its memory; a page waits no longer for it.
const REHEARSE_MAX: Duration = Duration::from_secs(2);

/// One node's word on an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRehearsal {
    /// Which node.
    pub node: NodeName,
    /// What it would do; absent = it did not say in time.
    pub rehearsal: Option<Rehearsal>,
}

/// Asks all of `targets` at once.
pub async fn rehearse(app: &App, module: &Module, verb: &Verb, targets: &[NodeName], by: &str) -> Vec<NodeRehearsal> {
    let until = Instant::now() + REHEARSE_MAX;
    let asked: Vec<_> = targets
        .iter()
        .map(|node| {
            let id = uuid::Uuid::now_v7().to_string();
            let command = Command { id, verb: verb.clone(), by: by.to_owned(), reason: None, is_automatic: false };
            (node, app.fleet.rehearse(&module.cluster, node, &module.name, command))
        })
        .collect();
    let mut out = Vec::new();
    for (node, answer) in asked {
        let rehearsal = match answer {
            Some(answer) => timeout_at(until, answer).await.ok().and_then(Result::ok),
            None => None,
        };
        out.push(NodeRehearsal { node: node.clone(), rehearsal });
    }
    out
}
