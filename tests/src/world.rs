//! A small world around two real engines, for exhaustive exploration.
//!
//! Everything outside the engines is here and is as hostile as the protocol allows: beats that are late, lost or
//! overtaken, arbiter requests that arrive after their sender's death, crashes at any instant, a cut between the
//! nodes, writes in flight. There is no clock: "the promise lasts longer than the belief in it" is an order
//! between events (see [`World::may_fire`]), which is all the protocol assumes of time.
//!
//! Simplified on purpose (and covered elsewhere): scripts, addresses and orders to the data process succeed at
//! once; a write is durable where it is applied; a resynchronisation copies everything in one step, and its
//! target holds nothing until then.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use tsugi_core::command::{Command, Verb};
use tsugi_core::engine::{Effect, Input, Mirror, MirrorConfig, Mutant, Outcome, Saved, Ticket, Timer};
use tsugi_core::ids::{JobId, LifeId, Lsn, NodeName, Session};
use tsugi_core::module::{Async, DefaultPrim, Profile, Timing};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::{Flag, Readiness, State};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};
use tsugi_core::wire::peer::Status;

/// What an exploration may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Crashes of either node.
    pub crashes: u8,
    /// Cuts of the link between the nodes.
    pub cuts: u8,
    /// Writes by the application.
    pub writes: u8,
    /// Arbiter answers that do not arrive in time although the request may still take effect later.
    pub late: u8,
    /// Orders `stop` (each followed by a `start` whenever the explorer likes).
    pub stops: u8,
    /// Orders `swap`.
    pub swaps: u8,
    /// Highest record version explored.
    pub version_max: u64,
    /// Highest session explored.
    pub session_max: u64,
}

/// What the data process of a node may acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Right {
    No,
    Alone,
    /// Until the belief in the promise that answered this beat ends.
    Until(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Data {
    is_mounted: bool,
    offer: Option<Session>,
    armed: Option<Session>,
    following: Option<Session>,
    right: Right,
    /// Writes applied here, one bit each.
    held: u8,
    /// Writes the application has made and that are not acknowledged yet.
    pending: u8,
    /// A `Release` that waits for its last acknowledgements.
    release: Option<JobId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    engine: Option<Mirror>,
    disk: Saved,
    lives: u8,
    /// Running timers; for those that count from a beat, which one.
    timers: BTreeMap<Timer, u32>,
    data: Data,
    /// Notes of the data process on their way to the engine.
    notes: Vec<ReplicaNote>,
    /// Newest beat of the other node (of its present life) this engine has processed.
    heard: u32,
    /// Beats sent in this life.
    sent: u32,
    /// Beats up to this one are so old that a promise answering them is over.
    expired: u32,
    /// The other node's newest beat when this life began.
    boundary: u32,
}

/// A beat on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flying {
    status: Box<Status>,
    ticket: u32,
    answers: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    from: usize,
    /// The engine still waits for this one.
    is_current: bool,
    request: ArbiterRequest,
}

/// The two nodes, what lies between them, and the arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    nodes: [Node; 2],
    net: [Option<Flying>; 2],
    asked: Vec<Asked>,
    record: Record,
    mutant: Option<Mutant>,
    is_cut: bool,
    acked: u8,
    written: u8,
    left: Budget,
}

/// Something that may happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Action {
    Deliver { to: usize },
    Fire { node: usize, timer: Timer },
    Arbiter { index: usize },
    ArbiterLate { node: usize },
    Note { node: usize },
    Sync { source: usize },
    Write { node: usize },
    Apply { source: usize },
    Acknowledge { node: usize },
    Crash { node: usize },
    Restart { node: usize },
    Cut,
    Heal,
    Order { node: usize, verb: Verb },
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// I1: two nodes may acknowledge.
    TwoServe,
    /// I3: a node that record and flag call current lacks an acknowledged write.
    AckedWriteLost { node: usize },
}

fn names() -> [NodeName; 2] {
    [NodeName::new("a").expect("a name"), NodeName::new("b").expect("a name")]
}

impl World {
    /// Both nodes installed and running, the operator's first decision (`prim` on the first node) given.
    pub fn new(budget: Budget, mutant: Option<Mutant>) -> World {
        let node = |i: usize| {
            let cfg = config(i, mutant);
            Node {
                engine: Some(Mirror::new(cfg, Saved::default(), entropy(i, 1))),
                disk: Saved::default(),
                lives: 1,
                timers: BTreeMap::new(),
                data: Data {
                    is_mounted: false,
                    offer: None,
                    armed: None,
                    following: None,
                    right: Right::No,
                    held: 0,
                    pending: 0,
                    release: None,
                },
                notes: Vec::new(),
                heard: 0,
                sent: 0,
                expired: 0,
                boundary: 0,
            }
        };
        let mut world = World {
            nodes: [node(0), node(1)],
            net: [None, None],
            asked: Vec::new(),
            record: Record::empty(LifeId(7)),
            mutant,
            is_cut: false,
            acked: 0,
            written: 0,
            left: budget,
        };
        for i in 0..2 {
            world.feed(i, Input::Boot);
        }
        world.feed(0, order(Verb::Prim { accept_loss: false }));
        world.feed(1, order(Verb::Start));
        world.normalise();
        world
    }

    /// What happens when nothing goes wrong: messages arrive, the arbiter answers, data is copied; timers that
    /// mean loss run out only when nothing else can happen. `None` when the world rests.
    pub fn friendly(&self) -> Option<Action> {
        let rank = |action: &Action| match action {
            Action::Note { .. } => 0,
            Action::Sync { .. } => 1,
            Action::Apply { .. } | Action::Acknowledge { .. } => 2,
            Action::Arbiter { .. } => 3,
            Action::Deliver { .. } => 4,
            Action::Fire { timer: Timer::Beat, .. } => 5,
            Action::Fire { timer: Timer::Quarantine | Timer::Backoff | Timer::ArbiterRetry, .. } => 6,
            Action::Fire { timer: Timer::PeerSilent, node } if self.nodes[1 - node].engine.is_none() => 7,
            Action::Fire { timer: Timer::PromiseHeld, node } if self.nodes[1 - node].engine.is_none() => 8,
            Action::Fire { timer: Timer::PromiseGiven, node } if self.nodes[1 - node].engine.is_none() => 9,
            _ => u8::MAX,
        };
        self.actions().into_iter().min_by_key(rank).filter(|a| rank(a) < u8::MAX)
    }

    /// Follow the friendly course until `is_reached`, at most `steps_max` events.
    pub fn run_friendly(&mut self, steps_max: usize, is_reached: fn(&World) -> bool) -> bool {
        for _ in 0..steps_max {
            if is_reached(self) {
                return true;
            }
            // Beats go on for ever, so quiet timers get their turn after a few rounds of them.
            let Some(action) = self.friendly() else { return false };
            let action = self.patience(action);
            match self.after(&action) {
                Some(next) => *self = next,
                None => return false,
            }
        }
        is_reached(self)
    }

    /// Instead of yet another beat that changes nothing: the oldest waiting timer, if one may run out.
    fn patience(&self, action: Action) -> Action {
        let is_beat = |a: &Action| matches!(a, Action::Deliver { .. } | Action::Fire { timer: Timer::Beat, .. });
        if !is_beat(&action) {
            return action;
        }
        let waits = |a: &Action| match a {
            Action::Fire { timer: Timer::Quarantine | Timer::Backoff | Timer::ArbiterRetry, .. } => true,
            Action::Fire { timer: Timer::PeerSilent | Timer::PromiseGiven | Timer::PromiseHeld, node } => {
                self.nodes[1 - node].engine.is_none()
            }
            _ => false,
        };
        self.actions().into_iter().find(waits).unwrap_or(action)
    }

    /// Everything that may happen now.
    pub fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        for i in 0..2 {
            let node = &self.nodes[i];
            if self.net[1 - i].is_some() && node.engine.is_some() && !self.is_cut {
                all.push(Action::Deliver { to: i });
            }
            let Some(engine) = &node.engine else {
                all.push(Action::Restart { node: i });
                continue;
            };
            for timer in node.timers.keys() {
                if self.may_fire(i, *timer) {
                    all.push(Action::Fire { node: i, timer: *timer });
                }
            }
            if !node.notes.is_empty() {
                all.push(Action::Note { node: i });
            }
            if self.can_sync(i) {
                all.push(Action::Sync { source: i });
            }
            if self.left.writes > 0 && node.data.is_mounted && node.data.release.is_none() && self.is_entitled(i) {
                all.push(Action::Write { node: i });
            }
            if node.data.pending != 0 && self.is_streaming(i) && self.nodes[1 - i].data.held & node.data.pending != node.data.pending {
                all.push(Action::Apply { source: i });
            }
            if self.ackable(i) != 0 {
                all.push(Action::Acknowledge { node: i });
            }
            if self.left.crashes > 0 {
                all.push(Action::Crash { node: i });
            }
            if self.left.late > 0 && self.asked.iter().any(|a| a.from == i && a.is_current) {
                all.push(Action::ArbiterLate { node: i });
            }
            if self.left.stops > 0 && matches!(engine.state(), State::Second | State::Prim) && engine.refusal(&Verb::Stop).is_none() {
                all.push(Action::Order { node: i, verb: Verb::Stop });
            }
            if engine.state() == State::Stop && engine.refusal(&Verb::Start).is_none() {
                all.push(Action::Order { node: i, verb: Verb::Start });
            }
            if self.left.swaps > 0 && engine.refusal(&Verb::Swap).is_none() {
                all.push(Action::Order { node: i, verb: Verb::Swap });
            }
        }
        all.extend((0..self.asked.len()).map(|index| Action::Arbiter { index }));
        match self.is_cut {
            false if self.left.cuts > 0 => all.push(Action::Cut),
            true => all.push(Action::Heal),
            false => {}
        }
        all
    }

    /// The state after `action`, or `None` beyond the bounds of the exploration.
    pub fn after(&self, action: &Action) -> Option<World> {
        let mut next = self.clone();
        next.act(action);
        let is_inside =
            next.record.version.0 <= next.left.version_max && next.nodes.iter().all(|n| n.disk.session.0 <= next.left.session_max);
        next.normalise();
        is_inside.then_some(next)
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Deliver { to } => {
                let Some(flying) = self.net[1 - to].take() else { return };
                let is_of_this_life = flying.answers > 0;
                self.nodes[to].heard = flying.ticket;
                self.feed(to, Input::Heard { status: flying.status, answers: is_of_this_life.then_some(Ticket(flying.answers.into())) });
            }
            Action::Fire { node, timer } => {
                self.fire(node, timer);
            }
            Action::Arbiter { index } => self.arbitrate(index),
            Action::ArbiterLate { node } => {
                self.left.late -= 1;
                if let Some(asked) = self.asked.iter_mut().find(|a| a.from == node && a.is_current) {
                    asked.is_current = false;
                }
                self.feed(node, Input::Done(JobId(1), Outcome::Arbiter(None)));
            }
            Action::Note { node } => {
                let note = self.nodes[node].notes.remove(0);
                self.feed(node, Input::Replica(note));
            }
            Action::Sync { source } => self.sync(source),
            Action::Write { node } => {
                self.left.writes -= 1;
                let bit = 1 << self.written;
                self.written += 1;
                self.nodes[node].data.pending |= bit;
                self.nodes[node].data.held |= bit;
            }
            Action::Apply { source } => {
                let pending = self.nodes[source].data.pending;
                self.nodes[1 - source].data.held |= pending;
            }
            Action::Acknowledge { node } => {
                let bits = self.ackable(node);
                self.acked |= bits;
                self.nodes[node].data.pending &= !bits;
                if let Some(input) = self.finish_release(node) {
                    self.feed(node, input);
                }
            }
            Action::Crash { node } => self.crash(node),
            Action::Restart { node } => self.restart(node),
            Action::Cut => {
                self.left.cuts -= 1;
                self.is_cut = true;
                self.net = [None, None];
                self.break_session("cut");
            }
            Action::Heal => self.is_cut = false,
            Action::Order { node, ref verb } => {
                match verb {
                    Verb::Stop => self.left.stops -= 1,
                    Verb::Swap => self.left.swaps -= 1,
                    _ => {}
                }
                self.feed(node, order(verb.clone()));
            }
        }
    }

    // ---- time ----

    /// The one assumption about clocks: a promise outlives the belief in it. The giver's timers may run out only
    /// when the belief in whatever they cover is over.
    fn may_fire(&self, node: usize, timer: Timer) -> bool {
        let other = &self.nodes[1 - node];
        let covered = match timer {
            Timer::PromiseGiven => self.nodes[node].timers[&timer],
            Timer::Quarantine => self.nodes[node].boundary,
            // Beats go on for ever; only one that could change something is worth exploring.
            Timer::Beat => return self.net[node].is_none() && !self.is_cut && other.engine.is_some(),
            Timer::LoopExpire(_) | Timer::Maintenance | Timer::Failback => return false,
            _ => return true,
        };
        let is_believed = other.engine.is_some() && other.timers.get(&Timer::PromiseHeld).is_some_and(|held| *held <= covered);
        let is_acting = other.engine.is_some() && matches!(other.data.right, Right::Until(t) if t <= covered && t > other.expired);
        !is_believed && !is_acting
    }

    fn fire(&mut self, node: usize, timer: Timer) {
        let since = self.nodes[node].timers.remove(&timer).unwrap_or(0);
        match timer {
            Timer::PromiseHeld => self.nodes[node].expired = self.nodes[node].expired.max(since),
            Timer::PromiseGiven => self.nodes[1 - node].expired = self.nodes[1 - node].expired.max(since),
            Timer::Quarantine => {
                let boundary = self.nodes[node].boundary;
                self.nodes[1 - node].expired = self.nodes[1 - node].expired.max(boundary);
            }
            _ => {}
        }
        self.feed(node, Input::Timer(timer));
    }

    fn is_entitled(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        match node.data.right {
            Right::No => false,
            Right::Alone => true,
            Right::Until(ticket) => ticket > node.expired,
        }
    }

    // ---- data ----

    fn is_streaming(&self, source: usize) -> bool {
        let (from, to) = (&self.nodes[source].data, &self.nodes[1 - source].data);
        !self.is_cut && from.armed.is_some() && from.armed == to.following && self.nodes[1 - source].engine.is_some()
    }

    /// Writes that may be acknowledged to the application now.
    fn ackable(&self, node: usize) -> u8 {
        let data = &self.nodes[node].data;
        if !data.is_mounted || !self.is_entitled(node) || self.nodes[node].engine.is_none() {
            return 0;
        }
        match data.armed {
            None => data.pending,
            Some(_) if self.is_streaming(node) => data.pending & self.nodes[1 - node].data.held,
            Some(_) => 0,
        }
    }

    fn can_sync(&self, source: usize) -> bool {
        let (from, to) = (&self.nodes[source].data, &self.nodes[1 - source].data);
        !self.is_cut && from.is_mounted && from.offer.is_some() && from.armed.is_none() && from.offer == to.following
    }

    fn sync(&mut self, source: usize) {
        let Some(session) = self.nodes[source].data.offer else { return };
        self.nodes[1 - source].data.held = self.nodes[source].data.held;
        self.nodes[source].data.armed = Some(session);
        self.nodes[source].notes.push(ReplicaNote::Armed { session });
        self.nodes[1 - source].notes.push(ReplicaNote::Level { session });
    }

    /// The replication connection, if there is one: (source, session).
    fn connection(&self) -> Option<(usize, Session)> {
        (0..2).find_map(|source| {
            let data = &self.nodes[source].data;
            let session = data.armed.or(data.offer)?;
            (self.nodes[1 - source].data.following == Some(session)).then_some((source, session))
        })
    }

    fn break_session(&mut self, why: &str) {
        let Some((source, session)) = self.connection() else { return };
        for node in &mut self.nodes {
            if node.engine.is_some() {
                node.notes.push(ReplicaNote::SessionLost { session, detail: why.into() });
            }
        }
        if self.nodes[source].data.armed.is_none() {
            self.nodes[source].data.offer = None;
        }
        self.nodes[1 - source].data.following = None;
    }

    /// A `Release` ends when nothing is left to acknowledge.
    fn finish_release(&mut self, node: usize) -> Option<Input> {
        let data = &mut self.nodes[node].data;
        let job = if data.pending == 0 { data.release.take() } else { None }?;
        self.unmount(node);
        Some(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })))
    }

    fn unmount(&mut self, node: usize) {
        self.break_session("released");
        let data = &mut self.nodes[node].data;
        (data.is_mounted, data.armed, data.offer, data.pending) = (false, None, None, 0);
    }

    fn carry_out(&mut self, node: usize, job: JobId, request: &ReplicaOrder, inputs: &mut Vec<Input>) -> Option<Outcome> {
        match *request {
            ReplicaOrder::Serve { .. } => {
                let data = &mut self.nodes[node].data;
                (data.is_mounted, data.armed, data.offer, data.following, data.pending) = (true, None, None, None, 0);
            }
            ReplicaOrder::Offer { session, .. } => self.nodes[node].data.offer = Some(session),
            ReplicaOrder::GoAlone { .. } => {
                self.break_session("alone");
                let data = &mut self.nodes[node].data;
                (data.armed, data.offer) = (None, None);
                if data.release.is_some() {
                    self.acked |= data.pending;
                    data.pending = 0;
                }
                inputs.extend(self.finish_release(node));
            }
            ReplicaOrder::Follow { session, .. } => {
                let data = &mut self.nodes[node].data;
                (data.following, data.held) = (Some(session), 0);
            }
            ReplicaOrder::CloseSession { .. } => {
                self.break_session("closed");
                self.nodes[node].data.following = None;
            }
            ReplicaOrder::Release { .. } => {
                if self.nodes[node].data.pending != 0 {
                    self.nodes[node].data.release = Some(job);
                    return None;
                }
                self.unmount(node);
            }
            ReplicaOrder::Abandon { .. } => {
                self.nodes[node].data.release = None;
                self.unmount(node);
            }
        }
        Some(Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) }))
    }

    // ---- nodes ----

    fn crash(&mut self, node: usize) {
        self.left.crashes -= 1;
        self.nodes[node].engine = None;
        self.break_session("crash");
        let dead = &mut self.nodes[node];
        dead.timers.clear();
        dead.notes.clear();
        let held = dead.data.held;
        dead.data =
            Data { is_mounted: false, offer: None, armed: None, following: None, right: Right::No, held, pending: 0, release: None };
        (dead.sent, dead.expired, dead.heard) = (0, 0, 0);
        // What it had sent may still arrive; what was on its way to it is lost. Its requests live on.
        self.net[1 - node] = None;
        for asked in self.asked.iter_mut().filter(|a| a.from == node) {
            asked.is_current = false;
        }
        if let Some(flying) = &mut self.net[node] {
            flying.ticket = 0;
        }
        self.nodes[1 - node].heard = 0;
        // Tickets of the dead life mean nothing any more.
        self.nodes[1 - node].boundary = 0;
        if let Some(since) = self.nodes[1 - node].timers.get_mut(&Timer::PromiseGiven) {
            *since = 0;
        }
    }

    fn restart(&mut self, index: usize) {
        let boundary = self.nodes[1 - index].sent;
        let cfg = config(index, self.mutant);
        let node = &mut self.nodes[index];
        node.lives += 1;
        node.engine = Some(Mirror::new(cfg, node.disk.clone(), entropy(index, node.lives)));
        node.boundary = boundary;
        let must_start = node.disk.is_started;
        self.feed(index, Input::Boot);
        if must_start {
            self.feed(index, order(Verb::Start));
        }
    }

    fn arbitrate(&mut self, index: usize) {
        let asked = self.asked.remove(index);
        let sender = names()[asked.from].clone();
        let changed = self.record.apply(&sender, &asked.request);
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
    fn feed(&mut self, node: usize, input: Input) {
        let mut inputs = vec![input];
        let mut bound = 0;
        while !inputs.is_empty() {
            bound += 1;
            assert!(bound < 200, "the engine of node {node} never comes to rest");
            let input = inputs.remove(0);
            let mut effects = Vec::new();
            let Some(engine) = self.nodes[node].engine.as_mut() else { return };
            engine.step(input, &mut effects);
            for effect in effects {
                self.effect(node, effect, &mut inputs);
            }
        }
        self.renumber(node);
    }

    fn effect(&mut self, node: usize, effect: Effect, inputs: &mut Vec<Input>) {
        match effect {
            Effect::Save(saved) => self.nodes[node].disk = *saved,
            Effect::Send(status) => {
                self.nodes[node].sent += 1;
                if !self.is_cut {
                    let answers = self.nodes[node].heard;
                    self.net[node] = Some(Flying { status, ticket: self.nodes[node].sent, answers });
                }
            }
            Effect::SetTimer(timer, _) => {
                let since = if timer == Timer::PromiseGiven { self.nodes[node].heard } else { 0 };
                self.nodes[node].timers.insert(timer, since);
            }
            Effect::SetTimerSince(timer, ticket, _) => {
                let since = ticket.0 as u32;
                if since <= self.nodes[node].expired {
                    inputs.push(Input::Timer(timer));
                } else {
                    self.nodes[node].timers.insert(timer, since);
                }
            }
            Effect::StopTimer(timer) => {
                self.nodes[node].timers.remove(&timer);
            }
            Effect::Entitle(ticket, _) => self.nodes[node].data.right = Right::Until(ticket.0 as u32),
            Effect::EntitleAlone => self.nodes[node].data.right = Right::Alone,
            Effect::Disentitle => self.nodes[node].data.right = Right::No,
            Effect::Run(job, _) => inputs.push(Input::Done(job, Outcome::Script { code: Some(0), millis: 0 })),
            Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
            Effect::Kill(job) => inputs.push(Input::Done(job, Outcome::Killed(Ok(())))),
            Effect::Cancel(_) | Effect::Freeze | Effect::Thaw => {}
            Effect::Replica(job, request) => {
                if let Some(outcome) = self.carry_out(node, job, &request, inputs) {
                    inputs.push(Input::Done(job, outcome));
                }
            }
            Effect::Ask(_, request) => {
                for asked in self.asked.iter_mut().filter(|a| a.from == node) {
                    asked.is_current = false;
                }
                // A read nobody waits for changes nothing.
                self.asked.retain(|a| a.is_current || a.request != ArbiterRequest::Read);
                self.asked.push(Asked { from: node, is_current: true, request });
            }
            Effect::Report(_) => {}
        }
    }

    fn renumber(&mut self, node: usize) {
        let Some(engine) = self.nodes[node].engine.as_mut() else { return };
        let (_, running) = engine.renumber_jobs();
        let release = &mut self.nodes[node].data.release;
        if release.is_some() {
            assert_eq!(*release, running, "a release is the step under way");
            *release = Some(JobId(2));
        }
    }

    // ---- the checkers ----

    /// The first invariant that does not hold here.
    pub fn broken(&self) -> Option<Broken> {
        let may_acknowledge = |i: usize| self.nodes[i].data.is_mounted && self.is_entitled(i) && self.nodes[i].engine.is_some();
        if may_acknowledge(0) && may_acknowledge(1) {
            return Some(Broken::TwoServe);
        }
        for (i, name) in names().iter().enumerate() {
            let is_current = self.record.in_sync.contains(name) && self.nodes[i].disk.flag == Flag::UpToDate;
            if is_current && self.acked & !self.nodes[i].data.held != 0 {
                return Some(Broken::AckedWriteLost { node: i });
            }
        }
        None
    }

    /// Primary and ready secondary by the record and by both nodes.
    pub fn is_pair(&self) -> bool {
        let is = |i: usize, state| self.nodes[i].engine.as_ref().is_some_and(|e| e.state() == state && e.readiness() == Readiness::Ready);
        self.record.in_sync.len() == 2 && (is(0, State::Prim) && is(1, State::Second) || is(1, State::Prim) && is(0, State::Second))
    }

    /// A grow is on its way to the arbiter.
    pub fn is_growing(&self) -> bool {
        self.asked.iter().any(|a| matches!(a.request, ArbiterRequest::Grow { .. }))
    }

    /// The second node serves: the role has moved.
    pub fn is_taken_over(&self) -> bool {
        self.nodes[1].engine.as_ref().is_some_and(|e| e.state().is_serving() && e.readiness() == Readiness::Ready)
    }

    /// The node would carry this order out now.
    pub fn accepts(&self, node: usize, verb: &Verb) -> bool {
        self.nodes[node].engine.as_ref().is_some_and(|e| e.refusal(verb).is_none())
    }

    /// State and readiness of both nodes, for a trace.
    pub fn describe(&self) -> String {
        let one = |i: usize| match &self.nodes[i].engine {
            None => "down".to_owned(),
            Some(e) => {
                format!(
                    "{}({:?}) {:?} e{} s{} held {:b} right {:?}",
                    e.state().word(),
                    e.readiness(),
                    e.saved().flag,
                    e.saved().epoch,
                    e.saved().session,
                    self.nodes[i].data.held,
                    self.nodes[i].data.right
                )
            }
        };
        format!(
            "a: {} | b: {} | record v{} {:?} {:?} | acked {:b} | {}",
            one(0),
            one(1),
            self.record.version,
            self.record.owner,
            self.record.in_sync,
            self.acked,
            if self.is_cut { "cut" } else { "linked" }
        )
    }

    // ---- equal situations are equal values ----

    fn normalise(&mut self) {
        for i in 0..2 {
            let o = 1 - i;
            // Numbers of node i's beats, wherever they stand, become their ranks.
            let mut all = vec![0, self.nodes[i].expired, self.nodes[i].sent, self.nodes[o].heard, self.nodes[o].boundary];
            all.extend(self.net[i].as_ref().map(|f| f.ticket));
            all.extend(self.net[o].as_ref().map(|f| f.answers));
            all.extend(self.nodes[i].timers.get(&Timer::PromiseHeld));
            all.extend(self.nodes[o].timers.get(&Timer::PromiseGiven));
            if let Right::Until(ticket) = self.nodes[i].data.right {
                all.push(ticket);
            }
            all.sort_unstable();
            all.dedup();
            let rank = |n: u32| all.iter().position(|x| *x == n).unwrap_or(0) as u32;
            self.nodes[i].expired = rank(self.nodes[i].expired);
            self.nodes[i].sent = rank(self.nodes[i].sent);
            self.nodes[o].heard = rank(self.nodes[o].heard);
            self.nodes[o].boundary = rank(self.nodes[o].boundary);
            if let Some(flying) = &mut self.net[i] {
                flying.ticket = rank(flying.ticket);
            }
            if let Some(flying) = &mut self.net[o] {
                flying.answers = rank(flying.answers);
            }
            if let Some(since) = self.nodes[i].timers.get_mut(&Timer::PromiseHeld) {
                *since = rank(*since);
            }
            if let Some(since) = self.nodes[o].timers.get_mut(&Timer::PromiseGiven) {
                *since = rank(*since);
            }
            if let Right::Until(ticket) = self.nodes[i].data.right {
                self.nodes[i].data.right = Right::Until(rank(ticket));
            }
            if !self.nodes[o].timers.contains_key(&Timer::Quarantine) {
                self.nodes[o].boundary = 0;
            }
        }
    }

    /// A 128-bit fingerprint.
    pub fn fingerprint(&self) -> u128 {
        let half = |salt: u64| {
            let mut hasher = std::hash::DefaultHasher::new();
            salt.hash(&mut hasher);
            self.hash(&mut hasher);
            hasher.finish()
        };
        (u128::from(half(1)) << 64) | u128::from(half(2))
    }
}

fn config(node: usize, mutant: Option<Mutant>) -> MirrorConfig {
    let [a, b] = names();
    let (me, peer) = if node == 0 { (a, b) } else { (b, a) };
    MirrorConfig {
        me,
        peer,
        timing: Timing::of(Profile::Normal),
        is_failover_on: true,
        authority: tsugi_core::module::Authority::Arbiter,
        default_prim: DefaultPrim::Alone,
        maxloop: 3,
        loop_interval: std::time::Duration::ZERO,
        ack: Async::None,
        mutant,
    }
}

fn entropy(node: usize, life: u8) -> u128 {
    (node as u128 + 1) << 100 | u128::from(life)
}

fn order(verb: Verb) -> Input {
    Input::Command(Command { id: String::new(), verb, by: "root".into(), reason: None })
}
