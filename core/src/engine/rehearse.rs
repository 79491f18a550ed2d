//! What an order would do, found by giving it to a copy of the engine (`--dry-run`).
//!
//! The copy lives in a friendly world: scripts succeed, the data process and the arbiter do as asked, by the record
//! as this node knows it. Nothing of it reaches the machine.

use super::{Effect, Input, Light, Mirror, Outcome, VipPlan};
use crate::command::Command;
use crate::event::Event;
use crate::ids::{Epoch, LifeId, Lsn, NodeName};
use crate::rehearsal::{Rehearsal, Rehearsed};
use crate::replica::{ReplicaAnswer, ReplicaOrder};
use crate::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};
use std::collections::VecDeque;

/// Inputs a rehearsal goes through at most: an order that does not come to rest by then waits for something.
const INPUTS_MAX: usize = 200;

impl Mirror {
    /// What `command` would do, if nothing fails. This engine stays as it is.
    pub fn rehearse(&self, command: Command) -> Rehearsal {
        if let Some(refusal) = self.refusal_of(&command) {
            return Rehearsal { refusal: Some(refusal), steps: Vec::new() };
        }
        let mut copy = self.clone();
        copy.watched.assume_up();
        play(command, self.me(), self.known_record(), |input, out| copy.step(input, out))
    }

    /// The arbiter's record as far as this node knows it.
    fn known_record(&self) -> Record {
        let saved = self.saved();
        let peer = self.peer().0.filter(|p| p.epoch > saved.epoch && p.arbiter == saved.arbiter);
        let (version, in_sync, gen_id) = match peer {
            Some(p) => (p.epoch, p.in_sync.clone(), p.gen_id),
            None => (saved.epoch, saved.in_sync.clone(), saved.gen_id),
        };
        let owner = match peer {
            None if saved.is_owner => Some(self.me().clone()),
            _ if version == Epoch(0) => None,
            _ => Some(self.peer_name().clone()),
        };
        Record { instance: saved.arbiter, version, owner, in_sync, gen_id }
    }
}

impl Light {
    /// What `command` would do, if nothing fails. This engine stays as it is.
    pub fn rehearse(&self, command: Command) -> Rehearsal {
        if let Some(refusal) = self.refusal_of(&command) {
            return Rehearsal { refusal: Some(refusal), steps: Vec::new() };
        }
        let mut copy = self.clone();
        copy.watched.assume_up();
        play(command, self.me(), Record::empty(LifeId(0)), |input, out| copy.step(input, out))
    }
}

/// Gives the order to the copy, and answers until it comes to rest.
fn play(command: Command, me: &NodeName, mut record: Record, mut step: impl FnMut(Input, &mut Vec<Effect>)) -> Rehearsal {
    let mut steps = Vec::new();
    let mut inputs = VecDeque::from([Input::Command(command)]);
    for _ in 0..INPUTS_MAX {
        let Some(input) = inputs.pop_front() else { break };
        let mut effects = Vec::new();
        step(input, &mut effects);
        for effect in effects {
            inputs.extend(pretend(effect, me, &mut record, &mut steps));
        }
    }
    Rehearsal { refusal: None, steps }
}

/// Notes what an effect would do, and answers it as if it had been done.
fn pretend(effect: Effect, me: &NodeName, record: &mut Record, steps: &mut Vec<Rehearsed>) -> Option<Input> {
    match effect {
        Effect::Run(job, run) => {
            steps.push(Rehearsed::Script { script: run.script, forced: run.is_forced });
            Some(Input::Done(job, Outcome::Script { code: Some(0), millis: 0 }))
        }
        Effect::Kill(job) => {
            steps.push(Rehearsed::Kill);
            Some(Input::Done(job, Outcome::Killed(Ok(()))))
        }
        Effect::Vip(job, plan) => {
            steps.push(if plan == VipPlan::Raise { Rehearsed::RaiseVips } else { Rehearsed::DropVips });
            Some(Input::Done(job, Outcome::Vip(Ok(()))))
        }
        Effect::Replica(job, order) => {
            steps.extend(match order {
                ReplicaOrder::Serve { .. } => Some(Rehearsed::Serve),
                ReplicaOrder::Release { .. } => Some(Rehearsed::Release),
                ReplicaOrder::Abandon { .. } => Some(Rehearsed::Abandon),
                ReplicaOrder::CloseSession { .. } => Some(Rehearsed::CloseSession),
                ReplicaOrder::Follow { .. } => Some(Rehearsed::Follow),
                ReplicaOrder::Offer { .. } | ReplicaOrder::GoAlone { .. } => None,
            });
            Some(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })))
        }
        Effect::Ask(job, request) => {
            steps.extend(match request {
                ArbiterRequest::Claim { .. } => Some(Rehearsed::Claim),
                ArbiterRequest::Force { .. } | ArbiterRequest::Seed { .. } => Some(Rehearsed::Force),
                ArbiterRequest::Read | ArbiterRequest::Grow { .. } => None,
            });
            let changed = record.apply(me, &request);
            let is_accepted = changed.is_some() || request == ArbiterRequest::Read;
            if let Some(next) = changed {
                *record = next;
            }
            Some(Input::Done(job, Outcome::Arbiter(Some(ArbiterAnswer { is_accepted, record: record.clone() }))))
        }
        Effect::Report(Event::Entered { to, readiness, reason, .. }) => {
            steps.push(Rehearsed::Enter { state: to, readiness, reason });
            None
        }
        _ => None,
    }
}
