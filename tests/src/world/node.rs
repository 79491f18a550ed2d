//! The engines and what carries them: timers, orders, crash and restart, the arbiter.

use super::data::{Data, Right};
use super::{ArbiterKind, Asked, Flying, Job, World, config, entropy, names, order};
use std::sync::Arc;
use tsugi_core::command::Verb;
use tsugi_core::engine::{Effect, Input, Mirror, Outcome, Timer};
use tsugi_core::ids::{JobId, NodeName};
use tsugi_core::replica::ReplicaAnswer;
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};

impl World {
    /// The one assumption about clocks: a promise outlives the belief in it. The giver's timers may run out only
    /// when the belief in whatever they cover is over.
    pub(super) fn may_fire(&self, node: usize, timer: Timer) -> bool {
        let other = &self.nodes[1 - node];
        let covered = match timer {
            // Beats go on for ever; only one that could change something is worth exploring.
            Timer::Beat => return self.net[node].is_none() && !self.is_cut && other.engine.is_some(),
            Timer::PeerSilent if self.setting().is_calm && !self.is_cut && other.engine.is_some() => return false,
            Timer::PromiseHeld if self.setting().is_calm && !self.is_cut && other.timers.contains_key(&Timer::PromiseGiven) => {
                return false;
            }
            Timer::LoopExpire(_) | Timer::Maintenance | Timer::Failback => return false,
            Timer::PromiseGiven => self.nodes[node].timers[&timer],
            Timer::Quarantine => self.nodes[node].boundary,
            _ => return true,
        };
        if self.setting().is_clock_free {
            return true;
        }
        let is_believed = other.engine.is_some() && other.timers.get(&Timer::PromiseHeld).is_some_and(|held| *held <= covered);
        let is_acting = other.engine.is_some() && matches!(other.data.right, Right::Until(t) if t <= covered && t > other.expired);
        !is_believed && !is_acting
    }

    pub(super) fn fire(&mut self, node: usize, timer: Timer) {
        let since = self.node_mut(node).timers.remove(&timer).unwrap_or(0);
        let is_bound = !self.setting().is_clock_free;
        match timer {
            Timer::PromiseHeld => self.node_mut(node).expired = self.nodes[node].expired.max(since),
            Timer::PromiseGiven if is_bound => self.node_mut(1 - node).expired = self.nodes[1 - node].expired.max(since),
            Timer::Quarantine if is_bound => {
                let boundary = self.nodes[node].boundary;
                self.node_mut(1 - node).expired = self.nodes[1 - node].expired.max(boundary);
            }
            _ => {}
        }
        self.feed(node, Input::Timer(timer));
    }

    /// The oldest work under way ends.
    pub(super) fn finish(&mut self, node: usize, is_good: bool) {
        let (id, job) = self.node_mut(node).jobs.remove(0);
        let mut inputs = Vec::new();
        let outcome = match job {
            Job::Script => Some(Outcome::Script { code: Some(if is_good { 0 } else { 1 }), millis: 0 }),
            Job::Kill => Some(Outcome::Killed(Ok(()))),
            Job::Order(_) if !is_good => Some(Outcome::Replica(ReplicaAnswer::Failed { detail: String::new() })),
            Job::Order(request) => self.carry_out(node, id, &request, &mut inputs),
        };
        inputs.extend(outcome.map(|o| Input::Done(id, o)));
        for input in inputs {
            self.feed(node, input);
        }
    }

    pub(super) fn crash(&mut self, node: usize) {
        self.left.crashes -= 1;
        self.node_mut(node).engine = None;
        self.is_connected = false;
        let disk = self.nodes[node].data.disk;
        // What was only in its memory is covered by the other node, if that one is a holder of it by its role, and not
        // just being excluded: a request of the dead node that is under way may still give the role to its disk alone.
        let is_excluding = matches!(self.nodes[node].disk.intent, Some(ArbiterRequest::Claim { .. }));
        let is_covered = self.is_holder(1 - node) && !is_excluding;
        self.acked &= self.durable | if is_covered { self.nodes[1 - node].data.memory } else { 0 };
        let dead = self.node_mut(node);
        dead.lost |= dead.data.memory & !disk;
        dead.timers.clear();
        dead.notes.clear();
        dead.before = None;
        dead.jobs.clear();
        dead.data = Data { memory: disk, disk, ..Data::default() };
        (dead.sent, dead.expired, dead.heard) = (0, 0, 0);
        // What it had sent may still arrive; what was on its way to it is lost. Its requests live on.
        self.net[1 - node] = None;
        for asked in self.asked.iter_mut().filter(|a| a.from == node) {
            asked.is_current = false;
        }
        if let Some(flying) = &mut self.net[node] {
            flying.ticket = 0;
        }
        self.node_mut(1 - node).heard = 0;
        // Tickets of the dead life mean nothing any more.
        self.node_mut(1 - node).boundary = 0;
        if let Some(since) = self.node_mut(1 - node).timers.get_mut(&Timer::PromiseGiven) {
            *since = 0;
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        let boundary = self.nodes[1 - index].sent;
        let cfg = config(index, self.setting());
        let node = self.node_mut(index);
        node.lives += 1;
        node.engine = Some(Mirror::new(cfg, node.disk.clone(), entropy(index, node.lives)));
        node.boundary = boundary;
        let must_start = node.disk.is_started;
        self.feed(index, Input::Boot);
        if must_start {
            self.feed(index, order(Verb::Start));
        }
    }

    /// The agent of a node dies and is there again before anybody does anything about it; its data process goes on
    /// meanwhile, and keeps its notes. Everything that came in between is lost.
    pub(super) fn go_on(&mut self, index: usize, is_older: bool) {
        self.left.bounces -= 1;
        let cfg = config(index, self.setting());
        let node = self.node_mut(index);
        let before = node.before.take().map(|kept| (*kept).clone());
        let now = node.engine.as_ref().and_then(Mirror::kept);
        let Some(kept) = (if is_older { before } else { now }) else { return };
        node.engine = Some(Mirror::of_kept(cfg, kept));
        for unkept in [Timer::Beat, Timer::PeerSilent, Timer::PromiseGiven, Timer::Confirm] {
            node.timers.remove(&unkept);
        }
        self.net[1 - index] = None;
        self.feed(index, Input::GoneOn);
        // A promise that begins now outlives the belief in every beat that was sent before.
        let sent = self.nodes[1 - index].sent;
        if let Some(since) = self.node_mut(index).timers.get_mut(&Timer::PromiseGiven) {
            *since = sent;
        }
        // It has heard nothing in this life that its beats could answer.
        self.node_mut(index).heard = 0;
        if let Some(flying) = &mut self.net[index] {
            flying.answers = 0;
        }
        self.node_mut(index).before = None;
    }

    /// What this arbiter makes of a request.
    fn decided(&self, sender: &NodeName, request: &ArbiterRequest) -> Option<Record> {
        let kind = self.setting().arbiter;
        let ArbiterRequest::Claim { expected, .. } = request else { return self.record.apply(sender, request) };
        // A record of theirs: as if the sender had always been in sync, or at the version it thinks.
        let mut lax = self.record.clone();
        match kind {
            ArbiterKind::Record => {}
            ArbiterKind::Lock => {
                lax.in_sync.insert(sender.clone());
            }
            ArbiterKind::Anyone => {
                lax.in_sync.insert(sender.clone());
                lax.version = *expected;
            }
        }
        lax.apply(sender, request)
    }

    pub(super) fn arbitrate(&mut self, index: usize) {
        let asked = self.asked.remove(index);
        let sender = names()[asked.from].clone();
        let changed = self.decided(&sender, &asked.request);
        let is_accepted = changed.is_some() || asked.request == ArbiterRequest::Read;
        if let Some(record) = changed {
            self.record = record;
        }
        if asked.is_current && self.nodes[asked.from].engine.is_some() {
            let answer = ArbiterAnswer { is_accepted, record: self.record.clone() };
            self.feed(asked.from, Input::Done(JobId(1), Outcome::Arbiter(Some(answer))));
        }
    }

    /// One input into one engine, and everything it asks for carried out, in order.
    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let mut inputs = vec![input];
        let mut bound = 0;
        let has_bounces = self.left.bounces > 0;
        let mut before = self.nodes[node].engine.as_ref().filter(|_| has_bounces).and_then(Mirror::kept);
        while !inputs.is_empty() {
            bound += 1;
            assert!(bound < 200, "the engine of node {node} never comes to rest");
            let input = inputs.remove(0);
            let mut effects = Vec::new();
            let Some(engine) = self.node_mut(node).engine.as_mut() else { return };
            engine.step(input, &mut effects);
            if !effects.iter().all(Effect::is_light) {
                before = None;
            }
            for effect in effects {
                self.effect(node, effect, &mut inputs);
            }
        }
        self.renumber(node);
        let now = self.nodes[node].engine.as_ref().filter(|_| before.is_some()).and_then(Mirror::kept);
        self.node_mut(node).before = before.filter(|before| now.as_ref() != Some(before)).map(Arc::new);
    }

    fn effect(&mut self, node: usize, effect: Effect, inputs: &mut Vec<Input>) {
        let is_slow = self.setting().is_slow;
        match effect {
            Effect::Save(saved) => {
                self.check_save(node, &saved);
                self.node_mut(node).disk = *saved;
            }
            Effect::Send(status) => {
                self.node_mut(node).sent += 1;
                if !self.is_cut {
                    let answers = self.nodes[node].heard;
                    self.net[node] = Some(Flying { status: Arc::from(status), ticket: self.nodes[node].sent, answers });
                }
            }
            Effect::SetTimer(timer, _) => {
                let since = if timer == Timer::PromiseGiven { self.nodes[node].heard } else { 0 };
                self.node_mut(node).timers.insert(timer, since);
            }
            Effect::SetTimerSince(timer, ticket, _) => {
                let since = ticket.0 as u32;
                if since <= self.nodes[node].expired {
                    inputs.push(Input::Timer(timer));
                } else {
                    self.node_mut(node).timers.insert(timer, since);
                }
            }
            Effect::StopTimer(timer) => {
                self.node_mut(node).timers.remove(&timer);
            }
            Effect::Entitle(ticket, _) => self.node_mut(node).data.right = Right::Until(ticket.0 as u32),
            Effect::EntitleAlone => self.node_mut(node).data.right = Right::Alone,
            Effect::Disentitle => self.node_mut(node).data.right = Right::No,
            Effect::Run(job, _) if is_slow => self.node_mut(node).jobs.push((job, Job::Script)),
            Effect::Kill(job) if is_slow => self.node_mut(node).jobs.push((job, Job::Kill)),
            Effect::Replica(job, request) if is_slow => self.node_mut(node).jobs.push((job, Job::Order(request))),
            Effect::Run(job, _) => inputs.push(Input::Done(job, Outcome::Script { code: Some(0), millis: 0 })),
            Effect::Kill(job) => inputs.push(Input::Done(job, Outcome::Killed(Ok(())))),
            Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
            Effect::Cancel(job) => self.node_mut(node).jobs.retain(|(id, _)| *id != job),
            Effect::Freeze | Effect::Thaw => {}
            Effect::Replica(job, request) => {
                if let Some(outcome) = self.carry_out(node, job, &request, inputs) {
                    inputs.push(Input::Done(job, outcome));
                }
            }
            // It changes nothing.
            Effect::Verify => {}
            Effect::Ask(_, request) => {
                for asked in self.asked.iter_mut().filter(|a| a.from == node) {
                    asked.is_current = false;
                }
                // A read nobody waits for changes nothing.
                self.asked.retain(|a| a.is_current || a.request != ArbiterRequest::Read);
                self.asked.push(Asked { from: node, is_current: true, request });
            }
            Effect::Report(event) => self.said.0.push(event),
        }
    }

    /// Job numbers as small as possible: 1 what was asked, 2 the step under way, 0 what nobody waits for.
    fn renumber(&mut self, node: usize) {
        let Some(engine) = self.node_mut(node).engine.as_mut() else { return };
        let (_, running) = engine.renumber_jobs();
        let small = |id: JobId| if Some(id) == running { JobId(2) } else { JobId(0) };
        let node = self.node_mut(node);
        for (id, _) in &mut node.jobs {
            *id = small(*id);
        }
        if let Some(release) = &mut node.data.release {
            *release = small(*release);
        }
    }
}
