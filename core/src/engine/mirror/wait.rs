//! Without a role: who may start, and what the arbiter is asked.

use super::{Asking, Mirror, Mutant, Phase};
use crate::command::{Refusal, Verb};
use crate::engine::watched::unfit_readiness;
use crate::engine::{BACKOFF, Effect, Timer};
use crate::event::Event;
use crate::ids::{Epoch, Gen, LifeId};
use crate::module::Authority;
use crate::state::{ArbiterView, Flag, Readiness, Reason, State};
use crate::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};
use crate::wire::peer::Status;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two attempts to reach the arbiter: short, because a take-over waits for it.
const ARBITER_RETRY: Duration = Duration::from_millis(500);

/// Who should ask for the role.
enum Standing {
    Me,
    Peer,
    Nobody(Reason),
}

impl Mirror {
    /// WAIT, level-triggered: follow a serving peer, ask for the role, or say why neither.
    pub(super) fn decide(&mut self, out: &mut Vec<Effect>) {
        let is_peer_serving = self.is_peer_serving();
        if self.is_planning() {
            return;
        }
        match &self.blocked {
            // A person was to decide whether this node takes over. The other one serves: there is nothing to decide.
            Some((Reason::FailoverOff | Reason::ManualTakeover { .. }, false)) if is_peer_serving => self.blocked = None,
            Some((_, false)) => return,
            _ => {}
        }
        if let Some(reason) = self.unfit() {
            return self.enter(State::Wait, unfit_readiness(&reason), Some(reason), out);
        }
        let peer = self.peer.clone().filter(|_| self.is_contact);
        if let Some(peer) = peer.as_ref().filter(|p| p.is_serving) {
            self.is_waiting_for_handover = false;
            out.push(Effect::StopTimer(Timer::SwapBack));
            match self.force.take() {
                Some(force) if force.is_resolving => {
                    self.force = Some(force);
                    let reason = Reason::SplitBrain { peer: self.cfg.peer.clone() };
                    return self.enter(State::Wait, Readiness::Transient, Some(reason), out);
                }
                Some(force) => {
                    // The order was for the case that nobody serves; what the other node has acknowledged since counts.
                    let verb = if force.overrides_flag { Verb::PrimForce } else { Verb::Prim { accept_loss: force.accepts_loss } };
                    let refusal = Refusal::PeerServes { peer: self.cfg.peer.clone() };
                    out.push(Effect::Report(Event::Refused { verb, by: force.by, refusal }));
                }
                None => {}
            }
            return self.consider_following(peer, out);
        }
        // A handed-over role, or a promise of ours that the peer has set free by giving up its epoch.
        if peer.as_ref().is_some_and(|p| p.released == Some(p.epoch)) {
            self.is_bound = false;
        }
        if self.is_waiting_for_handover && peer.is_some() {
            return;
        }
        if self.blocked.is_some() && self.force.is_none() {
            return;
        }
        self.blocked = None;
        if self.saved.intent.is_some() && self.force.is_none() {
            // Its record may be newer than it knows: nothing is compared before that is settled.
            return self.begin_claiming(out);
        }
        let standing = if self.force.is_some() { Standing::Me } else { self.standing(peer.as_deref()) };
        match standing {
            // What it promised in a former life it promised as a follower, and before that it wrote down that it is no owner.
            Standing::Me if self.saved.is_owner && self.is_alone_in_record() && !self.is_bound && !self.is_maintained => {
                self.begin_claiming(out);
            }
            Standing::Me if self.is_quarantined || self.is_bound && !self.is_mutant(Mutant::NoPromise) => {
                self.enter(State::Wait, Readiness::Transient, Some(Reason::Quarantine), out);
            }
            Standing::Me if self.force.is_none() && !self.cfg.is_failover_on && peer.is_none() && self.saved.in_sync.len() > 1 => {
                self.enter(State::Wait, Readiness::NotReady, Some(Reason::FailoverOff), out);
            }
            Standing::Me if self.is_maintained && self.force.is_none() && peer.is_none() => {
                self.enter(State::Wait, Readiness::NotReady, Some(Reason::Maintenance), out);
            }
            Standing::Me => self.begin_claiming(out),
            Standing::Peer => {
                let reason = Reason::PeerFirst { peer: self.cfg.peer.clone() };
                self.enter(State::Wait, Readiness::Transient, Some(reason), out);
            }
            Standing::Nobody(reason) => self.enter(State::Wait, Readiness::NotReady, Some(reason), out),
        }
    }

    /// What the arbiter said last is what stands in the way until it says something else.
    fn begin_claiming(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Claiming;
        let is_retry = matches!(
            self.reason,
            Some(Reason::NoArbiter | Reason::NoWitness | Reason::NotFenced { .. } | Reason::ArbiterReplaced | Reason::DataOlder { .. })
        );
        if !is_retry || self.force.is_some() {
            self.enter(State::Wait, Readiness::Transient, Some(Reason::Starting), out);
        }
        self.pursue_claim(out);
    }

    /// The same line is computed on both nodes from the same two records.
    fn standing(&self, peer: Option<&Status>) -> Standing {
        let is_mine_good = self.is_flag_good();
        let is_own_record = self.cfg.authority.is_own_record();
        // A record of its own says what this node knew last: the other one may have gone on since.
        let Some(peer) = peer.filter(|p| p.is_started || is_own_record) else {
            let is_last = !is_own_record || self.is_alone_in_record();
            return match is_mine_good {
                true if is_last => Standing::Me,
                true => Standing::Nobody(Reason::WaitingForPeer { peer: self.cfg.peer.clone() }),
                false => Standing::Nobody(self.reason_not_good(peer)),
            };
        };
        let is_peer_good = peer.flag == Flag::UpToDate;
        match (is_mine_good, is_peer_good) {
            (true, false) => Standing::Me,
            (false, true) => Standing::Peer,
            (false, false) => Standing::Nobody(self.reason_not_good(Some(peer))),
            (true, true) => {
                let is_related = self.saved.gen_id == peer.gen_id
                    || peer.lineage.contains(&self.saved.gen_id)
                    || self.saved.lineage.contains(&peer.gen_id);
                if !is_related {
                    return Standing::Nobody(Reason::SplitBrain { peer: self.cfg.peer.clone() });
                }
                let mine = (self.saved.epoch, self.saved.is_owner);
                let theirs = (peer.epoch, peer.is_owner);
                let is_first = mine > theirs || mine == theirs && self.cfg.me < self.cfg.peer;
                if is_own_record && !is_first && theirs.0 > mine.0 {
                    return Standing::Nobody(Reason::WaitingForPeer { peer: self.cfg.peer.clone() });
                }
                // A peer that may not start is no reason to wait; the record lets only one of us in.
                if is_first || !peer.is_fit || !peer.is_started || peer.is_arbiter_silent { Standing::Me } else { Standing::Peer }
            }
        }
    }

    /// By its own record, nobody else holds what was acknowledged last.
    pub(super) fn is_alone_in_record(&self) -> bool {
        self.saved.intent.is_none() && self.is_only_in_record()
    }

    fn is_only_in_record(&self) -> bool {
        self.saved.in_sync.len() == 1 && self.saved.in_sync.contains(&self.cfg.me)
    }

    fn reason_not_good(&self, peer: Option<&Status>) -> Reason {
        match self.saved.flag {
            Flag::Inconsistent => Reason::HalfSynced,
            Flag::Unknown if self.saved.epoch == Epoch(0) && peer.is_none_or(|p| p.flag == Flag::Unknown) => Reason::FirstStart,
            Flag::Unknown if self.saved.epoch > Epoch(0) => Reason::RecordLost { peer: self.cfg.peer.clone() },
            _ => Reason::DataOlder { newer: Some(self.cfg.peer.clone()), since_unix_ms: None },
        }
    }

    /// A serving peer: is it the right one to follow, and does it offer?
    fn consider_following(&mut self, peer: &Status, out: &mut Vec<Effect>) {
        #[cfg(feature = "mutants")]
        if self.rejoin_wrongly(peer, out) {
            return;
        }
        if self.saved.intent.is_some() && !self.is_mutant(Mutant::PromiseWithIntent) {
            // An unresolved request could still make this node the owner: settle it first.
            self.phase = Phase::Claiming;
            return self.pursue_claim(out);
        }
        let is_same_store = peer.arbiter == self.saved.arbiter;
        if self.is_flag_good() && is_same_store && peer.epoch < self.saved.epoch {
            // The peer serves under an older record; it steps down when it hears of ours.
            return self.enter(State::Wait, Readiness::Transient, Some(Reason::PeerFirst { peer: self.cfg.peer.clone() }), out);
        }
        let mine = self.saved.gen_id;
        let is_ancestor = mine == Gen(0) || mine == peer.gen_id || peer.lineage.contains(&mine);
        if self.saved.flag != Flag::Unknown && !is_ancestor {
            return self.enter(State::Wait, Readiness::NotReady, Some(Reason::SplitBrain { peer: self.cfg.peer.clone() }), out);
        }
        if self.blocked.is_some() {
            return;
        }
        if let Some(reason) = self.times_differ(peer) {
            return self.enter(State::Wait, Readiness::NotReady, Some(reason), out);
        }
        match peer.offer {
            Some(session) if session > self.saved.session => self.follow(session, peer, out),
            _ => {
                let reason = Reason::WaitingForSource { source: self.cfg.peer.clone() };
                self.enter(State::Wait, Readiness::Transient, Some(reason), out);
            }
        }
    }

    // ---- the arbiter ----

    /// One request at a time. A newer one replaces an older one, whose answer is then dropped: the record's
    /// version makes that safe.
    pub(super) fn ask(&mut self, request: ArbiterRequest, out: &mut Vec<Effect>) {
        if !matches!(request, ArbiterRequest::Read) {
            self.saved.intent = Some(request.clone());
            if let ArbiterRequest::Grow { with, .. } = &request
                && !self.is_mutant(Mutant::NameAfterGrow)
            {
                // What the record may say from now on.
                self.saved.in_sync.insert(with.clone());
            }
            self.save(out);
        }
        let job = self.new_job();
        self.asking = Some(Asking::Out { job, request: request.clone() });
        out.push(Effect::Ask(job, request));
    }

    pub(super) fn is_free_to_ask(&self) -> bool {
        self.asking.is_none()
    }

    /// Ask for the right to serve alone, at the newest version known.
    pub(super) fn ask_claim(&mut self, expected: Epoch, out: &mut Vec<Effect>) {
        let gen_id = self.new_gen(expected);
        out.push(Effect::Report(Event::ClaimAsked { expected }));
        self.ask(ArbiterRequest::Claim { store: self.saved.arbiter, expected, gen_id }, out);
    }

    /// Phase `Claiming`, level-triggered: keep asking until the outcome is known.
    pub(super) fn pursue_claim(&mut self, out: &mut Vec<Effect>) {
        if !self.is_free_to_ask() || self.is_planning() {
            return;
        }
        if self.is_peer_serving() && self.saved.intent.is_none() {
            self.phase = Phase::Idle;
            return self.decide(out);
        }
        match self.saved.intent.clone() {
            // The same request again: the record's version decides, so a repetition is harmless.
            Some(request @ ArbiterRequest::Claim { .. }) if self.arbiter == ArbiterView::Reachable => self.ask(request, out),
            _ => self.ask(ArbiterRequest::Read, out),
        }
    }

    pub(super) fn is_peer_serving(&self) -> bool {
        self.is_contact && self.peer.as_ref().is_some_and(|p| p.is_serving)
    }

    pub(super) fn on_arbiter_retry(&mut self, _out: &mut Vec<Effect>) {
        if self.asking == Some(Asking::Later) {
            self.asking = None;
        }
    }

    /// The next request leaves after `pause`.
    fn ask_later(&mut self, pause: Duration, out: &mut Vec<Effect>) {
        self.asking = Some(Asking::Later);
        out.push(Effect::SetTimer(Timer::ArbiterRetry, pause));
    }

    /// What it means that nobody answers, by authority.
    pub(super) fn reason_no_answer(&self) -> Reason {
        match self.cfg.authority {
            Authority::Arbiter | Authority::Manual | Authority::None => Reason::NoArbiter,
            Authority::Ping => Reason::NoWitness,
            Authority::Fence => Reason::NotFenced { peer: self.cfg.peer.clone() },
        }
    }

    pub(super) fn on_arbiter(&mut self, request: ArbiterRequest, answer: Option<ArbiterAnswer>, out: &mut Vec<Effect>) {
        self.asking = None;
        let Some(answer) = answer else {
            if self.arbiter != ArbiterView::Unreachable {
                self.arbiter = ArbiterView::Unreachable;
                out.push(Effect::Report(Event::ArbiterLost));
            }
            self.ask_later(ARBITER_RETRY, out);
            if self.phase == Phase::Claiming {
                self.enter(State::Wait, Readiness::NotReady, Some(self.reason_no_answer()), out);
            }
            return;
        };
        if self.arbiter == ArbiterView::Unreachable {
            out.push(Effect::Report(Event::ArbiterSeen));
        }
        self.arbiter = ArbiterView::Reachable;
        let is_ours = self.saved.intent.as_ref().is_some_and(|i| self.is_claim_ours(i, &answer.record));
        if !self.is_own_store(&answer.record) && self.force.is_none() && !is_ours {
            return self.on_other_store(&answer.record, out);
        }
        self.strange_store = LifeId(0);
        match self.phase {
            Phase::Claiming => self.on_record(&request, answer, out),
            Phase::Serving | Phase::Leaving => self.on_record_serving(&request, answer, out),
            Phase::Stopped | Phase::Idle | Phase::Following => {}
        }
    }

    /// The store this node last agreed with, or the first it meets. One that has gone back is another one.
    fn is_own_store(&self, record: &Record) -> bool {
        self.saved.arbiter == LifeId(0) || self.saved.arbiter == record.instance && record.version >= self.saved.epoch
    }

    /// The store this node agreed with is gone. What this node knows for certain may be written down again: that it
    /// was the only one, or that the pair stands as it is. Anything else is for a person.
    fn on_other_store(&mut self, record: &Record, out: &mut Vec<Effect>) {
        // Requests name their store: one to the lost store can change nothing any more.
        let is_dead = self.saved.intent.as_ref().is_some_and(|i| i.store() != record.instance);
        if is_dead && self.saved.arbiter != record.instance {
            self.saved.intent = None;
            self.save(out);
        }
        self.strange_store = record.instance;
        let others_first = record.version > Epoch(0) && record.owner.as_ref() != Some(&self.cfg.me);
        match self.phase {
            Phase::Claiming if record.version == Epoch(0) && self.is_flag_good() && self.may_seed_idle(record) => self.seed(record, out),
            Phase::Claiming => self.block(Reason::ArbiterReplaced, true, out),
            // A person decided otherwise, elsewhere.
            Phase::Serving if others_first && self.requires.is_none() => self.step_down(out),
            Phase::Serving if record.version == Epoch(0) && self.may_seed_serving() => self.seed(record, out),
            // A serving node goes on as it is; what it wanted stays undone and writes that need it wait.
            _ => {
                self.ask_later(BACKOFF, out);
                if self.phase == Phase::Serving && !self.is_planning() && !self.is_frozen {
                    self.enter(self.state, self.readiness, Some(Reason::ArbiterReplaced), out);
                }
            }
        }
    }

    /// The other node is here, idle, and agrees (`standing`). That nobody else was in the last record this node knows is
    /// not enough: a person may have given the role to the other node since, which only the lost store knew.
    fn may_seed_idle(&self, record: &Record) -> bool {
        let is_free = self.saved.intent.is_none() || self.is_seeding();
        let is_known = self.is_agreed(record) || self.is_mutant(Mutant::SeedBlindly);
        is_free && is_known && !self.is_quarantined && !self.is_bound
    }

    /// A record was to be written anew, and whether it was is not known: the same may be asked again.
    fn is_seeding(&self) -> bool {
        matches!(self.saved.intent, Some(ArbiterRequest::Seed { .. }))
    }

    /// The other node is here, idle, and by its own word not ahead of this one. There is no record to keep a node
    /// out that is wrong about itself: histories decide, and epochs only where they are of the same store. What it says
    /// counts if it said it after this node had read the new store: it then serves by no right of the old one.
    fn is_agreed(&self, record: &Record) -> bool {
        let is_idle = |p: &&Status| self.is_contact && p.is_started && !p.is_serving && !p.has_intent;
        let Some(peer) = self.peer.as_deref().filter(is_idle).filter(|p| p.heard_strange_store == record.instance) else {
            return false;
        };
        if !matches!(peer.flag, Flag::UpToDate | Flag::Volatile) || self.saved.lineage.contains(&peer.gen_id) {
            return true;
        }
        let mine = (self.saved.epoch, self.saved.is_owner);
        let theirs = (peer.epoch, peer.is_owner);
        let is_first = mine > theirs || mine == theirs && self.cfg.me < self.cfg.peer;
        peer.gen_id == self.saved.gen_id && peer.arbiter == self.saved.arbiter && is_first
    }

    /// Alone by record and deed; or with a follower that is level, required and bound by its promise.
    fn may_seed_serving(&self) -> bool {
        let is_free = self.saved.intent.is_none() || self.is_seeding();
        match self.requires {
            // … or the other node has said that its copy is not current, which only this one can change.
            None => is_free && (self.is_only_in_record() || self.has_peer_excluded_itself()),
            Some(session) => {
                let is_level = self.peer.as_deref().is_some_and(|p| p.level == Some(session) && p.flag == Flag::UpToDate);
                self.is_contact && self.is_held && !self.is_session_lost && is_level && is_free
            }
        }
    }

    fn has_peer_excluded_itself(&self) -> bool {
        let is_out = |p: &Status| matches!(p.flag, Flag::Stale | Flag::Inconsistent | Flag::Unknown) && !p.has_intent && !p.is_serving;
        self.is_contact && self.peer.as_deref().is_some_and(is_out)
    }

    fn seed(&mut self, record: &Record, out: &mut Vec<Effect>) {
        let mut in_sync = BTreeSet::from([self.cfg.me.clone()]);
        if self.requires.is_some() {
            in_sync.insert(self.cfg.peer.clone());
        }
        let known = self.peer.as_deref().filter(|p| p.arbiter == self.saved.arbiter).map_or(Epoch(0), |p| p.epoch);
        let floor = self.saved.epoch.max(known);
        if let Some(ArbiterRequest::Seed { store, .. }) = &self.saved.intent {
            // The first one may still arrive, at any time: it is repeated as it is, also where another would be asked for now
            // (by a node that served then). It may have been lost, and nothing else could follow it.
            return match self.saved.intent.clone().filter(|_| *store == record.instance) {
                Some(request) => self.ask(request, out),
                None => self.ask_later(BACKOFF, out),
            };
        }
        // A pair's history goes on as it is; a node that starts alone begins a new one, as with a claim.
        let gen_id = if self.phase == Phase::Serving { self.saved.gen_id } else { self.new_gen(floor) };
        self.ask(ArbiterRequest::Seed { store: record.instance, floor, gen_id, in_sync }, out);
    }

    /// The outcome of our own claim can be read off the record, whoever's answer it is.
    pub(super) fn is_claim_ours(&self, request: &ArbiterRequest, record: &Record) -> bool {
        let Some((version, gen_id)) = request.makes() else { return false };
        let is_there = request.store() == LifeId(0) || request.store() == record.instance;
        is_there && record.version == version && record.owner.as_ref() == Some(&self.cfg.me) && record.gen_id == gen_id
    }

    /// The record names this node at a version it cannot have been named at without knowing: its disk was set back to
    /// an earlier time, and the copy with it. The owner writes down what it asks for before it asks. A follower writes
    /// down the owner's version when it is level, and naming it makes the next one.
    fn is_outrun(&self, record: &Record, intent: &Option<ArbiterRequest>) -> bool {
        let known = self.saved.epoch.max(known_by(intent));
        let is_mine = record.owner.as_ref() == Some(&self.cfg.me);
        let newest = if is_mine { known } else { known.next() };
        self.saved.epoch > Epoch(0) && self.is_me_in(record) && record.version > newest
    }

    /// `Claiming`: the record as it is now.
    fn on_record(&mut self, request: &ArbiterRequest, answer: ArbiterAnswer, out: &mut Vec<Effect>) {
        let record = answer.record;
        let intent = self.saved.intent.clone();
        if intent.as_ref().is_some_and(|i| self.is_claim_ours(i, &record)) || self.is_claim_ours(request, &record) {
            if record.in_sync.len() > 1 {
                return self.on_pair_seeded(&record, out);
            }
            let is_forced = matches!(intent.as_ref().unwrap_or(request), ArbiterRequest::Force { .. });
            return self.on_won(&record, is_forced, out);
        }
        let is_resolved = match &intent {
            None | Some(ArbiterRequest::Read) => true,
            // Meant for a store that is gone.
            Some(i) if i.store() != LifeId(0) && i.store() != record.instance => true,
            Some(ArbiterRequest::Seed { .. }) => record.version > Epoch(0) || intent.as_ref() == Some(request),
            Some(
                ArbiterRequest::Claim { expected, .. } | ArbiterRequest::Grow { expected, .. } | ArbiterRequest::Force { expected, .. },
            ) => {
                // Refused at the same version stays refused: only a change of version could make it good.
                record.version > *expected || intent.as_ref() == Some(request)
            }
        };
        let is_refused_claim =
            matches!(request, ArbiterRequest::Claim { expected, .. } if *expected == record.version) && !answer.is_accepted;
        if is_resolved && self.saved.intent.is_some() {
            if record.owner.as_ref() == Some(&self.cfg.me) && record.version <= known_by(&intent) {
                // This node's own doing, whichever of its requests it was.
                self.saved.epoch = self.saved.epoch.max(record.version);
            }
            self.saved.intent = None;
            self.save(out);
        }
        if self.is_outrun(&record, &intent) && self.saved.flag > Flag::Stale {
            self.saved.flag = Flag::Stale;
            // Nor does it hold all of its own history.
            self.saved.gen_id = Gen(0);
            self.save(out);
            out.push(Effect::Report(Event::SetBack { known: self.saved.epoch, record: record.version }));
        }
        // A person's decision overrides the record only where the record would refuse: a copy that it names as
        // current is claimed like any other.
        let is_known = self.is_me_in(&record) && self.is_flag_good() && self.is_own_store(&record);
        // Without consent to a loss only a record that does not exist yet may be written by force.
        // … and only by a node that cannot be behind: one that never knew another record, or agrees with the other node.
        let is_blank = self.saved.arbiter == LifeId(0) && self.saved.epoch == Epoch(0);
        let is_new = record.version == Epoch(0) && (is_blank || self.is_flag_good() && self.is_agreed(&record));
        // Where the record is this node's own, what it names proves nothing, and the proof may be what is missing.
        let is_unproven = self.cfg.authority.is_own_record();
        let is_forcing = |f: &super::Force| f.overrides_flag || f.accepts_loss && is_unproven || !is_known && (f.accepts_loss || is_new);
        if self.force.is_some() && self.is_peer_serving() && self.saved.intent.is_none() {
            // It began to serve while the arbiter was asked.
            self.phase = Phase::Idle;
            return;
        }
        if let Some(force) = self.force.clone().filter(is_forcing) {
            let floor = self.saved.epoch;
            let gen_id = self.new_gen(record.version.max(floor));
            let request = ArbiterRequest::Force { store: record.instance, expected: record.version, floor, gen_id, by: force.by };
            return self.ask(request, out);
        }
        if !self.is_own_store(&record) {
            (self.force, self.strange_store) = (None, record.instance);
            return self.block(Reason::ArbiterReplaced, true, out);
        }
        if record.version == Epoch(0) {
            return self.block(Reason::FirstStart, true, out);
        }
        if !self.is_me_in(&record) {
            if matches!(self.saved.flag, Flag::UpToDate | Flag::Volatile) {
                self.saved.flag = Flag::Stale;
                self.save(out);
            }
            self.force = None;
            return self.block(Reason::DataOlder { newer: record.owner, since_unix_ms: None }, true, out);
        }
        if !self.is_flag_good() {
            self.force = None;
            let newer = record.owner.clone().filter(|owner| *owner != self.cfg.me);
            let reason = match self.saved.flag {
                Flag::Stale => Reason::DataOlder { newer, since_unix_ms: None },
                _ => self.reason_not_good(None),
            };
            return self.block(reason, true, out);
        }
        let is_mine_alone = record.owner.as_ref() == Some(&self.cfg.me) && record.in_sync == BTreeSet::from([self.cfg.me.clone()]);
        if is_mine_alone && self.saved.intent.is_none() {
            return self.on_won(&record, false, out);
        }
        if self.is_quarantined || self.is_bound && !self.is_mutant(Mutant::NoPromise) {
            self.phase = Phase::Idle;
            return;
        }
        if is_refused_claim {
            // By the record it could have been accepted: something else is in the way, which takes time.
            self.ask_later(BACKOFF, out);
            return self.enter(State::Wait, Readiness::NotReady, Some(self.reason_no_answer()), out);
        }
        self.ask_claim(record.version, out);
    }

    /// A record written anew for the pair, whose outcome is known only now that this node serves no more: it names the
    /// other one as well, so it is claimed like any other.
    fn on_pair_seeded(&mut self, record: &Record, out: &mut Vec<Effect>) {
        self.saved.arbiter = record.instance;
        self.saved.epoch = record.version;
        self.saved.in_sync = record.in_sync.clone();
        self.saved.is_owner = true;
        self.saved.intent = None;
        self.save(out);
        out.push(Effect::Report(Event::Reseeded { epoch: record.version }));
        self.phase = Phase::Idle;
    }

    /// The record names this node alone: it may serve.
    fn on_won(&mut self, record: &Record, is_forced: bool, out: &mut Vec<Effect>) {
        let forced = self.force.take().filter(|_| is_forced);
        if self.saved.arbiter != LifeId(0) && self.saved.arbiter != record.instance && forced.is_none() {
            out.push(Effect::Report(Event::Reseeded { epoch: record.version }));
        }
        let is_other_owner = !self.saved.is_owner && self.saved.epoch > Epoch(0);
        self.saved.is_taken = is_other_owner;
        self.saved.wants_role = true;
        self.saved.arbiter = record.instance;
        self.saved.epoch = record.version;
        self.saved.in_sync = record.in_sync.clone();
        self.saved.is_owner = true;
        self.saved.intent = None;
        self.saved.released = None;
        self.saved.is_clean = false;
        if is_forced && !matches!(self.saved.flag, Flag::UpToDate | Flag::Stale) {
            // This copy may lack what another one of its own history holds: that one is not to be overwritten in silence.
            self.saved.gen_id = Gen(0);
        }
        self.saved.flag = Flag::UpToDate;
        if !self.saved.lineage.contains(&record.gen_id) {
            self.push_gen(record.gen_id);
        }
        if self.saved.is_shared {
            // Another copy may have been brought level under this history, and knows nothing of what comes now.
            self.push_gen(self.new_gen(self.saved.epoch));
        }
        self.save(out);
        out.push(Effect::Report(match forced {
            Some(force) => Event::Forced { epoch: record.version, by: force.by },
            None => Event::ClaimAccepted { epoch: record.version },
        }));
        self.phase = Phase::Serving;
        self.blocked = None;
        self.is_session_lost = false;
        self.is_waiting_for_handover = false;
        (self.is_handed_over, self.is_app_gone, self.excluding) = (false, false, None);
        let from = self.state;
        self.enter(State::Alone, Readiness::Transient, Some(Reason::Starting), out);
        out.push(Effect::EntitleAlone);
        let steps = self.steps_in(from);
        self.start_plan(steps, super::plan::Goal::Serving, out);
    }

    /// Only for the model checker: joins a session without being brought level.
    #[cfg(feature = "mutants")]
    fn rejoin_wrongly(&mut self, peer: &Status, out: &mut Vec<Effect>) -> bool {
        let is_wanted = match self.cfg.mutant {
            Some(Mutant::RejoinRestarted) => peer.epoch == self.saved.epoch,
            Some(Mutant::RejoinIgnoresEpoch) => peer.epoch != self.saved.epoch,
            _ => false,
        };
        let is_remembered = peer.requires.is_some() && self.saved.flag == Flag::UpToDate;
        if !is_wanted || !is_remembered || self.saved.intent.is_some() {
            return false;
        }
        self.phase = Phase::Following;
        (self.following, self.is_level, self.is_session_lost, self.is_bound) = (peer.requires, true, false, true);
        out.push(Effect::SetTimer(Timer::PromiseGiven, self.cfg.timing.keep));
        self.saved.is_owner = false;
        self.saved.epoch = peer.epoch;
        self.save(out);
        self.enter(State::Second, Readiness::Transient, Some(Reason::Resyncing), out);
        true
    }
}

/// The version an unresolved request would make.
fn known_by(intent: &Option<ArbiterRequest>) -> Epoch {
    intent.as_ref().map_or(Epoch(0), |i| match i {
        ArbiterRequest::Grow { expected, .. } => expected.next(),
        other => other.makes().map_or(Epoch(0), |(version, _)| version),
    })
}
