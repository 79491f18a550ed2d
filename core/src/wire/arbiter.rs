//! The arbiter: a clockless compare-and-set record per module (`docs/PROTOCOL.md`, "The record").
//!
//! `POST /arbiter/v1/{module}` on the agents' port with the node's own certificate: the sender named by the
//! certificate is the `X` of every request. [`Record::apply`] is the whole rule; an arbiter makes the result
//! durable before it answers.

use crate::ids::{Epoch, Gen, LifeId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the arbiter keeps for a module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Life of the arbiter's store: new after a restore.
    pub instance: LifeId,
    /// Version; 0 = never written.
    pub version: Epoch,
    /// Last node that claimed.
    pub owner: Option<NodeName>,
    /// Nodes that hold every acknowledged write.
    pub in_sync: BTreeSet<NodeName>,
    /// History reserved by the last claim.
    pub gen_id: Gen,
}

/// Life of the store behind an authority that needs no third machine: the node's own record (`authority="none"`,
/// `ping`, `manual`, `fence`).
pub const OWN_STORE: LifeId = LifeId(1);

/// A request; `X` is the sender.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ArbiterRequest {
    /// Linearizable read.
    Read,
    /// Accepted iff `version = expected` and `X` is in sync: `X` becomes owner and the only one in sync.
    Claim { expected: Epoch, gen_id: Gen },
    /// Accepted iff `version = expected` and `X` is owner: `with` joins the in-sync set.
    Grow { expected: Epoch, with: NodeName },
    /// Operator only; accepted iff `version = expected`: as a claim without the in-sync condition.
    Force { expected: Epoch, gen_id: Gen, by: String },
}

/// Answer to any request: whether it was accepted, and the record as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArbiterAnswer {
    /// The request changed the record (`Read`: always true).
    pub is_accepted: bool,
    /// The record after it.
    pub record: Record,
}

impl Record {
    /// A record that was never written.
    pub fn empty(instance: LifeId) -> Record {
        Record { instance, version: Epoch(0), owner: None, in_sync: BTreeSet::new(), gen_id: Gen(0) }
    }

    /// The whole rule of the arbiter: no timers, no leases, no failure detector.
    /// Returns the record to store, or `None` if the request is refused (or changes nothing).
    pub fn apply(&self, sender: &NodeName, request: &ArbiterRequest) -> Option<Record> {
        let next = |owner: &NodeName, in_sync: BTreeSet<NodeName>, gen_id: Gen| Record {
            instance: self.instance,
            version: self.version.next(),
            owner: Some(owner.clone()),
            in_sync,
            gen_id,
        };
        let only = || BTreeSet::from([sender.clone()]);
        match request {
            ArbiterRequest::Read => None,
            ArbiterRequest::Claim { expected, gen_id } => {
                (self.version == *expected && self.in_sync.contains(sender)).then(|| next(sender, only(), *gen_id))
            }
            ArbiterRequest::Grow { expected, with } => (self.version == *expected && self.owner.as_ref() == Some(sender)).then(|| {
                let mut both = self.in_sync.clone();
                both.insert(with.clone());
                next(sender, both, self.gen_id)
            }),
            ArbiterRequest::Force { expected, gen_id, by: _ } => (self.version == *expected).then(|| next(sender, only(), *gen_id)),
        }
    }
}
