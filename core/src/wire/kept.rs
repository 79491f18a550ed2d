//! What a stand-alone arbiter keeps of a module, and which nodes it listens to.
//!
//! The console knows from its configuration on which nodes a module lives. A witness knows nothing but what it is
//! asked, so it remembers the *pair*: whoever creates the record, and whom the owner takes in. The pair only says who
//! may ask; what may be granted is [`Record::apply`]'s alone.

use super::arbiter::{ArbiterAnswer, ArbiterRequest, Record};
use crate::ids::{LifeId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Nodes of a pair.
const PAIR: usize = 2;

/// A module in the witness's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The record.
    pub record: Record,
    /// Nodes that may change it: at most two.
    pub pair: BTreeSet<NodeName>,
}

/// The sender is none of the module's nodes. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Nodes that may ask.
    pub pair: BTreeSet<NodeName>,
}

impl Kept {
    /// A module nobody asked for yet.
    pub fn new(instance: LifeId) -> Kept {
        Kept { record: Record::empty(instance), pair: BTreeSet::new() }
    }

    /// Decides. Returns the answer and, if something is to be stored before it is given, what.
    ///
    /// Anybody of the cluster may read. A record is created by any node of the cluster; from then on only the pair
    /// changes it. The second of the pair is whoever comes next, by a request of its own or because the owner takes it
    /// in; the owner may also take in another node than the second, which then is the second no more.
    pub fn decide(&self, sender: &NodeName, request: &ArbiterRequest) -> Result<(ArbiterAnswer, Option<Kept>), Stranger> {
        let mut pair = self.pair.clone();
        if *request != ArbiterRequest::Read {
            pair.insert(sender.clone());
            if pair.len() > PAIR {
                return Err(Stranger { pair: self.pair.clone() });
            }
        }
        let Some(record) = self.record.apply(sender, request) else {
            let is_accepted = *request == ArbiterRequest::Read;
            return Ok((ArbiterAnswer { is_accepted, record: self.record.clone() }, None));
        };
        if let ArbiterRequest::Grow { with, .. } = request {
            pair = BTreeSet::from([sender.clone(), with.clone()]);
        }
        // Nobody may be in sync who may not ask.
        pair.extend(record.in_sync.iter().cloned());
        if pair.len() > PAIR {
            return Err(Stranger { pair: self.pair.clone() });
        }
        Ok((ArbiterAnswer { is_accepted: true, record: record.clone() }, Some(Kept { record, pair })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Gen};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }
    fn claim(expected: u64) -> ArbiterRequest {
        ArbiterRequest::Claim { store: LifeId(0), expected: Epoch(expected), gen_id: Gen(9) }
    }
    fn grow(expected: u64, with: &str) -> ArbiterRequest {
        ArbiterRequest::Grow { store: LifeId(0), expected: Epoch(expected), with: node(with) }
    }
    fn force(expected: u64) -> ArbiterRequest {
        ArbiterRequest::Force { store: LifeId(0), expected: Epoch(expected), floor: Epoch(0), gen_id: Gen(7), by: "root".into() }
    }
    fn accepted(kept: &Kept, sender: &str, request: &ArbiterRequest) -> Kept {
        let (answer, next) = kept.decide(&node(sender), request).unwrap();
        assert!(answer.is_accepted);
        let next = next.unwrap();
        assert_eq!(next.record, answer.record);
        next
    }
    fn pair(kept: &Kept) -> Vec<&str> {
        kept.pair.iter().map(NodeName::as_str).collect()
    }

    #[test]
    fn the_pair_is_who_made_the_record_and_whom_the_owner_took_in() {
        let empty = Kept::new(LifeId(5));
        let one = accepted(&empty, "n1", &force(0));
        assert_eq!(pair(&one), ["n1"]);
        let two = accepted(&one, "n1", &grow(1, "n2"));
        assert_eq!(pair(&two), ["n1", "n2"]);
        let taken_over = accepted(&two, "n2", &claim(2));
        assert_eq!((pair(&taken_over), taken_over.record.owner.clone()), (vec!["n1", "n2"], Some(node("n2"))));
        // n1's machine is replaced by another one.
        let other = accepted(&taken_over, "n2", &grow(3, "n3"));
        assert_eq!(pair(&other), ["n2", "n3"]);
        assert_eq!(other.decide(&node("n1"), &force(4)), Err(Stranger { pair: other.pair.clone() }));
    }

    #[test]
    fn a_third_node_may_look_and_nothing_else() {
        let kept = accepted(&accepted(&Kept::new(LifeId(5)), "n1", &force(0)), "n1", &grow(1, "n2"));
        for request in [claim(2), grow(2, "n3"), force(2)] {
            assert_eq!(kept.decide(&node("n3"), &request), Err(Stranger { pair: kept.pair.clone() }), "{request:?}");
        }
        let (answer, next) = kept.decide(&node("n3"), &ArbiterRequest::Read).unwrap();
        assert_eq!((answer.is_accepted, answer.record, next), (true, kept.record.clone(), None));
    }

    #[test]
    fn before_the_second_node_ever_followed_a_person_may_still_choose_it() {
        let kept = accepted(&Kept::new(LifeId(5)), "n1", &force(0));
        let (refused, next) = kept.decide(&node("n2"), &claim(1)).unwrap();
        assert!(!refused.is_accepted && next.is_none(), "a claim needs to be in sync");
        assert_eq!(pair(&accepted(&kept, "n2", &force(1))), ["n1", "n2"]);
    }
}
