//! What is said to the outside: the status in each beat, and the engine's part of the snapshot.

use super::{Mirror, Phase};
use crate::command::Verb;
use crate::engine::{Effect, Timer};
use crate::ids::{Gen, LifeId, NodeName};
use crate::state::{Allowed, ArbiterView, Flag, Readiness, Reason, Replication, ResourceView, State};
use crate::wire::peer::{LINEAGE_SENT_MAX, Status};
use std::collections::BTreeSet;

/// States that may follow one another. Printed in `docs/PROTOCOL.md`; a test compares.
pub(super) fn may_follow(from: State, to: State) -> bool {
    use State::*;
    match (from, to) {
        (a, b) if a == b => true,
        (Stop, Wait) => true,
        (Wait, Stop | Alone | Second) => true,
        (Second, Alone | Wait | Stop) => true,
        (Alone, Prim | Wait | Stop) => true,
        (Prim, Alone | Wait | Stop) => true,
        _ => false,
    }
}

impl Mirror {
    /// How this node stands, for the peer.
    pub fn status(&self) -> Status {
        let is_serving = matches!(self.phase, Phase::Serving | Phase::Leaving);
        Status {
            state: self.state,
            readiness: self.readiness,
            is_started: self.saved.is_started,
            is_serving,
            flag: self.saved.flag,
            epoch: self.saved.epoch,
            gen_id: self.saved.gen_id,
            lineage: self.saved.lineage.iter().copied().take(LINEAGE_SENT_MAX).collect(),
            in_sync: self.saved.in_sync.clone(),
            is_owner: self.saved.is_owner,
            arbiter: self.saved.arbiter,
            has_intent: self.saved.intent.is_some(),
            session: self.saved.session,
            offer: self.offer,
            requires: self.requires,
            is_session_lost: self.requires.is_some() && self.is_session_lost,
            level: if self.is_level { self.following } else { None },
            is_promise: self.is_bound && self.can_promise(),
            released: if is_serving { None } else { self.released_epoch() },
            hands_over: !is_serving && self.is_handed_over,
            keep_ms: self.keep_ms(),
            strange_store: self.strange_store,
            heard_strange_store: self.peer.as_ref().filter(|_| self.is_contact).map_or(LifeId(0), |p| p.strange_store),
            is_arbiter_silent: self.phase == Phase::Claiming
                && self.arbiter == ArbiterView::Unreachable
                && !self.cfg.authority.is_own_record(),
            is_fit: self.unfit().is_none() && !matches!(self.blocked, Some((_, false))) && self.hosting.is_none(),
            wants_role: self.saved.wants_role,
            is_taken: self.saved.is_taken,
            resources: self.watched.told(&self.cfg.rules),
        }
    }

    fn keep_ms(&self) -> u64 {
        u64::try_from(self.cfg.timing.keep.as_millis()).unwrap_or(u64::MAX)
    }

    /// The two nodes count with different times: what one promises is not what the other believes.
    pub(super) fn times_differ(&self, peer: &Status) -> Option<Reason> {
        let (here_ms, there_ms) = (self.keep_ms(), peer.keep_ms);
        (here_ms != there_ms).then(|| Reason::TimesDiffer { peer: self.cfg.peer.clone(), here_ms, there_ms })
    }

    /// A change of status goes out at once; otherwise the beat's period decides.
    pub(super) fn say_if_changed(&mut self, out: &mut Vec<Effect>) {
        let status = self.status();
        if self.last_sent.as_deref() == Some(&status) {
            return;
        }
        let status = Box::new(status);
        self.last_sent = Some(status.clone());
        out.push(Effect::Send(status));
        out.push(Effect::SetTimer(Timer::Beat, self.cfg.timing.beat));
    }

    /// This node.
    pub fn me(&self) -> &NodeName {
        &self.cfg.me
    }
    /// The other node.
    pub fn peer_name(&self) -> &NodeName {
        &self.cfg.peer
    }
    /// State shown.
    pub fn state(&self) -> State {
        self.state
    }
    /// Second axis.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }
    /// Why it is not green.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }
    /// The record as last saved.
    pub fn saved(&self) -> &super::Saved {
        &self.saved
    }
    /// The peer's newest status and whether it is in contact.
    pub fn peer(&self) -> (Option<&Status>, bool) {
        (self.peer.as_deref(), self.is_contact)
    }
    /// The arbiter as far as known.
    pub fn arbiter(&self) -> ArbiterView {
        self.arbiter.clone()
    }
    /// The right to acknowledge may be in force (the application may run).
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Leaving)
    }
    /// This copy is current by flag and record.
    pub fn is_up_to_date(&self) -> bool {
        matches!(self.saved.flag, Flag::UpToDate | Flag::Volatile) && self.saved.in_sync.contains(&self.cfg.me)
    }
    /// In-sync set.
    pub fn in_sync(&self) -> &BTreeSet<NodeName> {
        &self.saved.in_sync
    }
    /// Data history.
    pub fn gen_id(&self) -> Gen {
        self.saved.gen_id
    }
    /// Replication as this node sees it.
    pub fn replication(&self) -> Replication {
        match (self.state, self.requires, self.offer) {
            (State::Prim | State::Alone, Some(_), _) if self.is_session_lost => Replication::Stalled,
            (State::Prim | State::Alone, Some(_), _) => Replication::Synchronous,
            (State::Alone | State::Prim, None, Some(_)) if self.peer.as_ref().is_some_and(|p| p.state == State::Second) => {
                Replication::Resync
            }
            (State::Second, _, _) if self.is_level && !self.is_session_lost => Replication::Synchronous,
            (State::Second, _, _) if !self.is_session_lost => Replication::Resync,
            _ => Replication::Off,
        }
    }
    /// Checked resources.
    pub fn resources(&self) -> Vec<ResourceView> {
        self.watched.views()
    }
    /// Every order and whether it would be accepted now.
    pub fn allowed(&self) -> Vec<Allowed> {
        Verb::each().into_iter().map(|verb| Allowed { refusal: self.refusal(&verb), verb }).collect()
    }
}

#[cfg(feature = "mutants")]
impl Mirror {
    /// For explorers: the same engine with job numbers made small, so that equal situations are equal values.
    /// Returns what the outstanding arbiter request (1) and the running step (2) were called before.
    pub fn renumber_jobs(&mut self) -> (Option<crate::ids::JobId>, Option<crate::ids::JobId>) {
        use crate::ids::JobId;
        let asked = match &mut self.asking {
            Some(super::Asking::Out { job, .. }) => Some(std::mem::replace(job, JobId(1))),
            _ => None,
        };
        let running = self.running.as_mut().map(|(job, _)| std::mem::replace(job, JobId(2)));
        self.jobs_made = 2;
        (asked, running)
    }
}
