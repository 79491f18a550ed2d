//! The node's own record in the arbiter's place: `authority="none"`, `ping`, `manual`, `fence`.
//!
//! The engine asks for the right to serve in the same words whoever grants it. Without a third machine the answer is
//! made of what the node has on its disk and, before the other node is left out, of a proof that depends on the
//! authority. There is no second copy of the record that could contradict it, so this is as safe as the proof is: with
//! `fence` and `manual` only one node goes on; with `ping` and `none` both may (`docs/PROTOCOL.md`, "Arbiters").

use super::Saved;
use crate::ids::{Epoch, NodeName};
use crate::module::Authority;
use crate::state::{Flag, State};
use crate::wire::arbiter::{ArbiterAnswer, ArbiterRequest, OWN_STORE, Record};
use crate::wire::peer::Status;

/// What the node knows of the other one beside its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerWord {
    /// It was heard in this life of the module: this node did not just start.
    pub is_heard: bool,
    /// It will not serve by itself, by its own last word: the role given up in order; a copy that is not current; or, in
    /// contact now, neither serving nor following, from where a node without an arbiter never claims out of contact.
    pub is_out: bool,
}

impl PeerWord {
    /// Reads the last status of the peer; `is_in_contact`: it is not older than a beat may be.
    pub fn of(status: Option<&Status>, is_in_contact: bool, saved: &Saved) -> PeerWord {
        let Some(status) = status else { return PeerWord::default() };
        let is_idle = is_in_contact && matches!(status.state, State::Wait | State::Stop);
        let is_released = status.released == Some(saved.epoch) && saved.epoch > Epoch(0);
        let is_not_current = matches!(status.flag, Flag::Stale | Flag::Inconsistent | Flag::Unknown);
        let is_out = !status.is_serving && !status.has_intent && (is_released || is_not_current || is_idle);
        PeerWord { is_heard: true, is_out }
    }
}

/// What must be shown before the request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A reference address answers.
    Witness,
    /// The other node has no power.
    Fenced,
    /// There is none: only a person's `Force` helps. No answer is the answer.
    Person,
}

/// The record as this node's own record has it.
pub fn local_record(saved: &Saved, me: &NodeName, peer: &NodeName) -> Record {
    let owner = match (saved.is_owner, saved.epoch) {
        (true, _) => Some(me.clone()),
        (false, Epoch(0)) => None,
        (false, _) => Some(peer.clone()),
    };
    Record { instance: OWN_STORE, version: saved.epoch, owner, in_sync: saved.in_sync.clone(), gen_id: saved.gen_id }
}

/// The answer to `request`, all proofs given: [`Record::apply`] on the own record. Nothing has to be stored for it, the
/// engine saves what it makes of the answer.
pub fn answer(saved: &Saved, me: &NodeName, peer: &NodeName, request: &ArbiterRequest) -> ArbiterAnswer {
    let record = local_record(saved, me, peer);
    match record.apply(me, request) {
        Some(record) => ArbiterAnswer { is_accepted: true, record },
        None => ArbiterAnswer { is_accepted: matches!(request, ArbiterRequest::Read), record },
    }
}

/// What must be shown before `request` may be answered with [`answer`]; `None` = nothing.
///
/// Only a claim that leaves out a node which may hold the role or take it needs a proof. A person's `Force` needs none,
/// nor does a claim with `manual`: there the engine claims out of contact only as the owner or on a person's order.
/// A node that did not hear the other one since it started does not fence: two nodes that start without seeing each
/// other would shoot each other for ever.
pub fn proof_needed(
    authority: Authority,
    saved: &Saved,
    me: &NodeName,
    peer: &NodeName,
    word: PeerWord,
    request: &ArbiterRequest,
) -> Option<Proof> {
    let is_claim = matches!(request, ArbiterRequest::Claim { .. });
    let record = local_record(saved, me, peer);
    // What is refused anyway needs no proof.
    if !is_claim || !record.in_sync.contains(peer) || word.is_out || record.apply(me, request).is_none() {
        return None;
    }
    match authority {
        Authority::None | Authority::Manual | Authority::Arbiter => None,
        Authority::Ping => Some(Proof::Witness),
        Authority::Fence if !word.is_heard => Some(Proof::Person),
        Authority::Fence => Some(Proof::Fenced),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Gen, LifeId, Session};
    use crate::state::Readiness;
    use std::collections::BTreeSet;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }
    fn saved(epoch: u64, is_owner: bool, in_sync: &[&str]) -> Saved {
        Saved {
            arbiter: OWN_STORE,
            flag: Flag::UpToDate,
            epoch: Epoch(epoch),
            gen_id: Gen(4),
            in_sync: in_sync.iter().map(|n| node(n)).collect(),
            is_owner,
            ..Saved::default()
        }
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
    fn status(flag: Flag, released: Option<Epoch>) -> Status {
        Status {
            state: State::Wait,
            readiness: Readiness::NotReady,
            is_started: true,
            is_serving: false,
            flag,
            epoch: Epoch(3),
            gen_id: Gen(4),
            lineage: vec![],
            in_sync: BTreeSet::new(),
            is_owner: false,
            arbiter: LifeId(1),
            has_intent: false,
            session: Session(1),
            offer: None,
            requires: None,
            is_session_lost: false,
            level: None,
            is_promise: false,
            released,
            hands_over: false,
            keep_ms: 5055,
            strange_store: LifeId(0),
            heard_strange_store: LifeId(0),
            is_arbiter_silent: false,
            is_fit: true,
            wants_role: false,
            is_taken: false,
            resources: Default::default(),
        }
    }
    const HEARD: PeerWord = PeerWord { is_heard: true, is_out: false };

    #[test]
    fn a_node_that_never_served_has_no_record_and_a_person_makes_it() {
        let fresh = Saved::default();
        let (n1, n2) = (node("n1"), node("n2"));
        assert_eq!(local_record(&fresh, &n1, &n2), Record::empty(OWN_STORE));
        assert!(!answer(&fresh, &n1, &n2, &claim(0)).is_accepted);
        let made = answer(&fresh, &n1, &n2, &force(0));
        assert!(made.is_accepted);
        assert_eq!((made.record.version, made.record.owner, made.record.in_sync), (Epoch(1), Some(n1.clone()), BTreeSet::from([n1])));
    }

    #[test]
    fn the_follower_knows_the_owner_and_may_claim_what_its_record_lets_it() {
        let (n1, n2) = (node("n1"), node("n2"));
        let follower = saved(3, false, &["n1", "n2"]);
        assert_eq!(answer(&follower, &n2, &n1, &ArbiterRequest::Read).record.owner, Some(n1.clone()));
        let won = answer(&follower, &n2, &n1, &claim(3));
        assert_eq!((won.is_accepted, won.record.version, won.record.owner), (true, Epoch(4), Some(n2.clone())));
        assert!(!answer(&follower, &n2, &n1, &claim(2)).is_accepted, "another version");
        assert!(!answer(&saved(3, false, &["n1"]), &n2, &n1, &claim(3)).is_accepted, "left out");
        let grown = answer(&saved(4, true, &["n2"]), &n2, &n1, &grow(4, "n1"));
        assert_eq!((grown.is_accepted, grown.record.in_sync), (true, BTreeSet::from([n1, n2])));
    }

    #[test]
    fn each_authority_asks_for_its_own_proof_before_the_other_node_is_left_out() {
        let (n1, n2) = (node("n1"), node("n2"));
        let both = saved(3, true, &["n1", "n2"]);
        let proof = |authority, saved: &Saved, word, request: &ArbiterRequest| proof_needed(authority, saved, &n1, &n2, word, request);
        for (authority, wanted) in [
            (Authority::None, None),
            (Authority::Manual, None),
            (Authority::Ping, Some(Proof::Witness)),
            (Authority::Fence, Some(Proof::Fenced)),
        ] {
            assert_eq!(proof(authority, &both, HEARD, &claim(3)), wanted, "{authority:?}");
            for request in [ArbiterRequest::Read, grow(3, "n2"), force(3), claim(2)] {
                assert_eq!(proof(authority, &both, HEARD, &request), None, "{authority:?} {request:?}");
            }
            let out = PeerWord { is_heard: true, is_out: true };
            assert_eq!(proof(authority, &both, out, &claim(3)), None, "{authority:?}: the other node said so itself");
            assert_eq!(proof(authority, &saved(3, true, &["n1"]), HEARD, &claim(3)), None, "{authority:?}: left out already");
        }
    }

    #[test]
    fn a_node_that_just_started_fences_nobody() {
        let (n1, n2) = (node("n1"), node("n2"));
        let both = saved(3, true, &["n1", "n2"]);
        assert_eq!(proof_needed(Authority::Fence, &both, &n1, &n2, PeerWord::default(), &claim(3)), Some(Proof::Person));
    }

    #[test]
    fn only_a_peer_that_gave_up_or_is_not_current_counts_as_out() {
        let mine = saved(3, false, &["n1", "n2"]);
        let is_out = |status: &Status| PeerWord::of(Some(status), false, &mine).is_out;
        assert_eq!(PeerWord::of(None, true, &mine), PeerWord::default());
        assert!(!is_out(&status(Flag::UpToDate, None)) && !is_out(&status(Flag::Volatile, None)));
        assert!(is_out(&status(Flag::Stale, None)) && is_out(&status(Flag::Inconsistent, None)));
        assert!(is_out(&status(Flag::UpToDate, Some(Epoch(3)))));
        assert!(!is_out(&status(Flag::UpToDate, Some(Epoch(2)))), "an earlier epoch");
        assert!(!is_out(&Status { is_serving: true, ..status(Flag::UpToDate, Some(Epoch(3))) }));
        assert!(!is_out(&Status { has_intent: true, ..status(Flag::Stale, None) }));
        let is_out_here = |state| PeerWord::of(Some(&Status { state, ..status(Flag::UpToDate, None) }), true, &mine).is_out;
        assert!(is_out_here(State::Wait) && is_out_here(State::Stop), "idle, and here");
        assert!(!is_out_here(State::Second), "a follower may take over as soon as it is out of contact");
    }
}
