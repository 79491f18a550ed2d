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

/// A request; `X` is the sender. `store` names the life of the store it is meant for, 0 = any: a request that
/// arrives late at a store that replaced it must not take effect there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ArbiterRequest {
    /// Linearizable read.
    Read,
    /// Accepted iff `version = expected` and `X` is in sync: `X` becomes owner and the only one in sync.
    Claim {
        /// Life of the store.
        store: LifeId,
        /// Version it is based on.
        expected: Epoch,
        /// History reserved by it.
        gen_id: Gen,
    },
    /// Accepted iff `version = expected` and `X` is owner: `with` joins the in-sync set.
    Grow {
        /// Life of the store.
        store: LifeId,
        /// Version it is based on.
        expected: Epoch,
        /// The other node.
        with: NodeName,
    },
    /// Only where no record exists: `X` writes down what it knows to be so after a store was lost. The version goes
    /// on after `floor`, so that epochs never go back.
    Seed {
        /// Life of the store.
        store: LifeId,
        /// Newest version of the lost store known to `X`.
        floor: Epoch,
        /// History that goes on.
        gen_id: Gen,
        /// Nodes that hold every acknowledged write; `X` among them.
        in_sync: BTreeSet<NodeName>,
    },
    /// Operator only; accepted iff `version = expected`: as a claim without the in-sync condition. The version goes
    /// on after `floor`.
    Force {
        /// Life of the store.
        store: LifeId,
        /// Version it is based on.
        expected: Epoch,
        /// Newest version of any store known to `X`.
        floor: Epoch,
        /// History reserved by it.
        gen_id: Gen,
        /// Who decided.
        by: String,
    },
}

impl ArbiterRequest {
    /// The history it reserves and the version it makes, if it is accepted; `None` for reads and grows.
    pub fn makes(&self) -> Option<(Epoch, Gen)> {
        match self {
            ArbiterRequest::Read | ArbiterRequest::Grow { .. } => None,
            ArbiterRequest::Claim { expected, gen_id, .. } => Some((expected.next(), *gen_id)),
            ArbiterRequest::Seed { floor, gen_id, .. } => Some((floor.next(), *gen_id)),
            ArbiterRequest::Force { expected, floor, gen_id, .. } => Some(((*expected).max(*floor).next(), *gen_id)),
        }
    }
    /// Life of the store it is meant for; 0 = any.
    pub fn store(&self) -> LifeId {
        match self {
            ArbiterRequest::Read => LifeId(0),
            ArbiterRequest::Claim { store, .. }
            | ArbiterRequest::Grow { store, .. }
            | ArbiterRequest::Seed { store, .. }
            | ArbiterRequest::Force { store, .. } => *store,
        }
    }
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
        let is_meant = request.store() == LifeId(0) || request.store() == self.instance;
        if !is_meant {
            return None;
        }
        let make = |version: Epoch, in_sync: BTreeSet<NodeName>, gen_id: Gen| Record {
            instance: self.instance,
            version,
            owner: Some(sender.clone()),
            in_sync,
            gen_id,
        };
        let only = || BTreeSet::from([sender.clone()]);
        let made = request.makes().map(|(version, _)| version).unwrap_or_default();
        match request {
            ArbiterRequest::Read => None,
            ArbiterRequest::Claim { expected, gen_id, .. } => {
                (self.version == *expected && self.in_sync.contains(sender)).then(|| make(made, only(), *gen_id))
            }
            ArbiterRequest::Grow { expected, with, .. } => (self.version == *expected && self.owner.as_ref() == Some(sender)).then(|| {
                let mut both = self.in_sync.clone();
                both.insert(with.clone());
                make(self.version.next(), both, self.gen_id)
            }),
            ArbiterRequest::Seed { gen_id, in_sync, .. } => {
                (self.version == Epoch(0) && in_sync.contains(sender)).then(|| make(made, in_sync.clone(), *gen_id))
            }
            ArbiterRequest::Force { expected, gen_id, .. } => (self.version == *expected).then(|| make(made, only(), *gen_id)),
        }
    }
}
