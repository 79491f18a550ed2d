//! What a driver keeps of an engine outside of its own memory, so that its next life can go on where this one ended.
//!
//! Kept is only an engine at rest: in a role, ready, with nothing under way whose end would be lost. Whatever ends in
//! another situation begins anew from the record. What is kept may be older than the engine was, by inputs that led to
//! nothing but beats and timers; [`Mirror::go_on`] is the input that makes up for it: a promise that may have been
//! given meanwhile binds from now on for its whole time.

use super::{Mirror, Phase};
use crate::engine::Mutant;
use crate::engine::watched::{Loops, Watched};
use crate::engine::{Effect, MirrorConfig, Saved, Timer};
use crate::event::Event;
use crate::ids::{LifeId, Session};
use crate::state::{ArbiterView, Readiness, Reason, State};
use crate::wire::peer::Status;
use serde::{Deserialize, Serialize};

/// A mirror's engine at rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kept {
    saved: Saved,
    /// High and low half.
    entropy: (u64, u64),
    jobs_made: u64,
    state: State,
    reason: Option<Reason>,
    arbiter: ArbiterView,
    peer: Option<Box<Status>>,
    is_contact: bool,
    is_held: bool,
    is_quarantined: bool,
    is_maintained: bool,
    strange_store: LifeId,
    offer: Option<Session>,
    requires: Option<Session>,
    following: Option<Session>,
    is_level: bool,
    is_volatile_mine: bool,
    is_handed_over: bool,
    is_waiting_for_handover: bool,
    is_paused: bool,
    is_both_up: bool,
    is_sec_up: bool,
    watched: Watched,
    loops: Loops,
}

impl Kept {
    /// The record it goes with: it is of no use with another one.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }
    /// The peer's promise was believed in.
    pub fn is_held(&self) -> bool {
        self.is_held
    }
    /// The right to serve was held.
    pub fn is_serving(&self) -> bool {
        self.state.is_serving()
    }
}

impl Mirror {
    /// This engine, if it is at rest. `None`: it has something under way, or is in no role.
    pub fn kept(&self) -> Option<Kept> {
        // Taken apart, so that whoever adds a part decides here.
        let Mirror {
            cfg: _,
            saved,
            entropy,
            jobs_made,
            state,
            readiness,
            reason,
            phase,
            plan,
            running,
            goal: _,
            asking,
            arbiter,
            peer,
            is_contact,
            is_held,
            is_bound: _,
            is_quarantined,
            is_frozen,
            is_app_frozen,
            is_maintained,
            strange_store,
            drop_tries: _,
            hosting,
            offer,
            requires,
            is_session_lost,
            following,
            is_level,
            excluding,
            is_volatile_mine,
            force,
            is_handed_over,
            is_app_gone,
            blocked,
            is_waiting_for_handover,
            is_paused,
            is_both_up,
            is_sec_up,
            watched,
            loops,
            last_sent: _,
        } = self;
        let is_in_role = match phase {
            Phase::Serving => state.is_serving(),
            Phase::Following => *state == State::Second && *is_level,
            Phase::Stopped | Phase::Idle | Phase::Claiming | Phase::Leaving => false,
        };
        let is_busy = !plan.is_empty()
            || running.is_some()
            || asking.is_some()
            || saved.intent.is_some()
            || *is_frozen
            || *is_app_frozen
            || hosting.is_some()
            || *is_session_lost
            || excluding.is_some()
            || force.is_some()
            || *is_app_gone
            || blocked.is_some();
        if !is_in_role || *readiness != Readiness::Ready || is_busy {
            return None;
        }
        Some(Kept {
            saved: saved.clone(),
            entropy: ((*entropy >> 64) as u64, *entropy as u64),
            jobs_made: *jobs_made,
            state: *state,
            reason: reason.clone(),
            arbiter: arbiter.clone(),
            peer: peer.clone(),
            is_contact: *is_contact,
            is_held: *is_held,
            is_quarantined: *is_quarantined,
            is_maintained: *is_maintained,
            strange_store: *strange_store,
            offer: *offer,
            requires: *requires,
            following: *following,
            is_level: *is_level,
            is_volatile_mine: *is_volatile_mine,
            is_handed_over: *is_handed_over,
            is_waiting_for_handover: *is_waiting_for_handover,
            is_paused: *is_paused,
            is_both_up: *is_both_up,
            is_sec_up: *is_sec_up,
            watched: watched.clone(),
            loops: loops.clone(),
        })
    }

    /// The engine that was kept. Its first input is [`crate::engine::Input::GoneOn`].
    pub fn of_kept(cfg: MirrorConfig, kept: Kept) -> Mirror {
        Mirror {
            saved: kept.saved.clone(),
            jobs_made: kept.jobs_made,
            state: kept.state,
            readiness: Readiness::Ready,
            reason: kept.reason,
            phase: if kept.state.is_serving() { Phase::Serving } else { Phase::Following },
            arbiter: kept.arbiter,
            peer: kept.peer,
            is_contact: kept.is_contact,
            is_held: kept.is_held,
            is_quarantined: kept.is_quarantined,
            is_maintained: kept.is_maintained,
            strange_store: kept.strange_store,
            offer: kept.offer,
            requires: kept.requires,
            following: kept.following,
            is_level: kept.is_level,
            is_volatile_mine: kept.is_volatile_mine,
            is_handed_over: kept.is_handed_over,
            is_waiting_for_handover: kept.is_waiting_for_handover,
            is_paused: kept.is_paused,
            is_both_up: kept.is_both_up,
            is_sec_up: kept.is_sec_up,
            watched: kept.watched,
            loops: kept.loops,
            ..Mirror::new(cfg, kept.saved, u128::from(kept.entropy.0) << 64 | u128::from(kept.entropy.1))
        }
    }

    /// A new life of the driver took this engine up as it was kept.
    pub(super) fn go_on(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Report(Event::AgentWentOn));
        // A promise may have been given after this was kept. Nobody remembers when.
        self.is_bound = self.phase == Phase::Following && !self.is_mutant(Mutant::GoOnUnbound);
        if self.is_bound {
            out.push(Effect::SetTimer(Timer::PromiseGiven, self.cfg.timing.keep));
        }
        // Nobody listened meanwhile: the silence begins now.
        if self.is_contact {
            out.push(Effect::SetTimer(Timer::PeerSilent, self.silence()));
        }
        // Nobody has looked meanwhile whether what rules ask for was asked for all the time.
        self.watched.rest(out);
        out.push(Effect::SetTimer(Timer::Beat, self.cfg.timing.beat));
    }
}
