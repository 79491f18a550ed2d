//! Two engines that talk to one another at once, without time: whatever they set timers for happens when a test says.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeSet;
use std::time::Duration;
use tsugi_core::command::{Command, Refusal, Verb};
use tsugi_core::engine::{Effect, Input, Mirror, MirrorConfig, Outcome, Saved, ScriptRun, Ticket, Timer};
use tsugi_core::event::Event;
use tsugi_core::ids::{Epoch, LifeId, Lsn, NodeName, Session};
use tsugi_core::module::{Action, Authority, ScriptName};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::rules::{Ruleset, parse};
use tsugi_core::state::{Health, Readiness, Reason, State};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, OWN_STORE, Record};

pub fn name(n: &str) -> NodeName {
    NodeName::new(n).unwrap()
}

/// A node.
pub struct Node {
    pub engine: Mirror,
    pub disk: Saved,
    pub timers: BTreeSet<Timer>,
    pub events: Vec<Event>,
    pub scripts: Vec<ScriptRun>,
    pub asked: Vec<ArbiterRequest>,
    /// Scripts that fail here.
    pub failing: BTreeSet<ScriptName>,
    /// Processes that cannot be ended.
    pub is_unkillable: bool,
    /// Its data process hangs: orders are not answered.
    pub is_data_mute: bool,
    /// Comparisons of the copies that were begun here.
    pub verified: u32,
    beats: u64,
    heard: Option<u64>,
    outbox: Option<Box<tsugi_core::wire::peer::Status>>,
    following: Option<Session>,
    offer: Option<Session>,
}

/// The pair `a` (0) and `b` (1) with its arbiter.
pub struct Pair {
    pub nodes: [Node; 2],
    pub record: Record,
    pub is_cut: bool,
    pub is_arbiter_down: bool,
    /// Whom the record named, each time a node was entitled to acknowledge alone.
    pub alone_with: Vec<BTreeSet<NodeName>>,
    /// The arbiter does not answer this one.
    pub is_arbiter_lost_by: Option<usize>,
    pub authority: Authority,
    change: fn(&mut MirrorConfig),
}

impl Pair {
    /// Both running, `a` chosen as the first primary, brought to PRIM and SECOND.
    pub fn formed(authority: Authority) -> Pair {
        Pair::with(authority, |_| {})
    }

    /// The same with another configuration.
    pub fn with(authority: Authority, change: fn(&mut MirrorConfig)) -> Pair {
        let mut pair = Pair::ordered(authority, change);
        assert_eq!(pair.states(), [State::Prim, State::Second], "{}", pair.describe());
        for node in &mut pair.nodes {
            node.events.clear();
            node.scripts.clear();
            node.asked.clear();
        }
        pair
    }

    /// The same orders, whatever comes of them.
    pub fn ordered(authority: Authority, change: fn(&mut MirrorConfig)) -> Pair {
        let node = |me: &str, peer: &str| {
            let mut cfg = MirrorConfig::new(name(me), name(peer));
            cfg.authority = authority;
            cfg.rules = rules();
            change(&mut cfg);
            Node {
                engine: Mirror::new(cfg, Saved::default(), u128::from(me.as_bytes()[0])),
                disk: Saved::default(),
                timers: BTreeSet::new(),
                events: Vec::new(),
                scripts: Vec::new(),
                asked: Vec::new(),
                failing: BTreeSet::new(),
                is_unkillable: false,
                is_data_mute: false,
                verified: 0,
                beats: 0,
                heard: None,
                outbox: None,
                following: None,
                offer: None,
            }
        };
        let mut pair = Pair {
            nodes: [node("a", "b"), node("b", "a")],
            record: Record::empty(LifeId(9)),
            is_cut: false,
            is_arbiter_down: false,
            alone_with: Vec::new(),
            is_arbiter_lost_by: None,
            authority,
            change,
        };
        for i in 0..2 {
            pair.feed(i, Input::Boot);
        }
        pair.order(0, Verb::Prim { accept_loss: false });
        pair.order(1, Verb::Start);
        pair.settle();
        pair
    }

    pub fn states(&self) -> [State; 2] {
        [self.nodes[0].engine.state(), self.nodes[1].engine.state()]
    }

    pub fn shown(&self, node: usize) -> (State, Readiness, Option<&Reason>) {
        let engine = &self.nodes[node].engine;
        (engine.state(), engine.readiness(), engine.reason())
    }

    pub fn describe(&self) -> String {
        format!("a {:?}\nb {:?}\n{:?}", self.shown(0), self.shown(1), self.record)
    }

    pub fn order(&mut self, node: usize, verb: Verb) -> Option<Refusal> {
        let refusal = self.nodes[node].engine.refusal(&verb);
        self.feed(node, Input::Command(Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false }));
        refusal
    }

    pub fn fire(&mut self, node: usize, timer: Timer) {
        assert!(self.nodes[node].timers.remove(&timer), "{timer:?} does not run on {node}: {:?}", self.nodes[node].timers);
        self.feed(node, Input::Timer(timer));
    }

    /// Fires it if it runs.
    pub fn maybe_fire(&mut self, node: usize, timer: Timer) {
        if self.nodes[node].timers.remove(&timer) {
            self.feed(node, Input::Timer(timer));
        }
    }

    pub fn health(&mut self, node: usize, resource: &str, health: Health, action: Action, is_pre: bool) {
        self.feed(node, Input::Health { name: resource.into(), health, detail: "as the test says".into(), action, is_pre });
    }

    /// The other node is gone from the network, and everything the silence makes run out.
    pub fn silence(&mut self, node: usize) {
        self.is_cut = true;
        for timer in [Timer::PeerSilent, Timer::PromiseGiven] {
            self.maybe_fire(node, timer);
        }
    }

    /// Power off and on: what was saved is left, everything else begins anew. `is_started` modules start by themselves.
    pub fn reboot(&mut self, node: usize) {
        let (me, peer) = if node == 0 { ("a", "b") } else { ("b", "a") };
        let mut cfg = MirrorConfig::new(name(me), name(peer));
        cfg.authority = self.authority;
        (self.change)(&mut cfg);
        let n = &mut self.nodes[node];
        n.engine = Mirror::new(cfg, n.disk.clone(), 99);
        n.timers.clear();
        (n.heard, n.outbox, n.following, n.offer) = (None, None, None, None);
        self.nodes[1 - node].heard = None;
        let must_start = self.nodes[node].disk.is_started;
        self.feed(node, Input::Boot);
        if must_start {
            self.order(node, Verb::Start);
        }
    }

    /// Messages go back and forth until nothing changes; retry timers run out meanwhile.
    pub fn settle(&mut self) {
        for _ in 0..30 {
            for node in 0..2 {
                self.maybe_fire(node, Timer::ArbiterRetry);
                self.maybe_fire(node, Timer::Backoff);
                self.maybe_fire(node, Timer::Quarantine);
                self.feed(node, Input::Timer(Timer::Beat));
                self.deliver(node);
            }
        }
    }

    /// A beat of `node` reaches the other one.
    pub fn beat(&mut self, node: usize) {
        self.feed(node, Input::Timer(Timer::Beat));
        self.deliver(node);
    }

    fn deliver(&mut self, from: usize) {
        if self.is_cut {
            return;
        }
        let Some(status) = self.nodes[from].outbox.take() else { return };
        let answers = self.nodes[from].heard.map(Ticket);
        self.nodes[1 - from].heard = Some(self.nodes[from].beats);
        self.feed(1 - from, Input::Heard { status, answers });
    }

    /// One input and all that follows from it at once on this node.
    pub fn feed(&mut self, node: usize, input: Input) {
        let mut inputs = vec![input];
        let mut bound = 0;
        while !inputs.is_empty() {
            bound += 1;
            if bound > 300 {
                return; // an endless retry of something that fails at once
            }
            let mut out = Vec::new();
            self.nodes[node].engine.step(inputs.remove(0), &mut out);
            for effect in out {
                self.effect(node, effect, &mut inputs);
            }
        }
    }

    fn effect(&mut self, i: usize, effect: Effect, inputs: &mut Vec<Input>) {
        let n = &mut self.nodes[i];
        match effect {
            Effect::Save(saved) => n.disk = *saved,
            Effect::Send(status) => {
                n.beats += 1;
                n.outbox = Some(status);
            }
            Effect::SetTimer(timer, _) | Effect::SetTimerSince(timer, _, _) => {
                n.timers.insert(timer);
            }
            Effect::StopTimer(timer) => {
                n.timers.remove(&timer);
            }
            Effect::Verify => n.verified += 1,
            Effect::Run(job, run) => {
                let code = i32::from(n.failing.contains(&run.script));
                n.scripts.push(run);
                inputs.push(Input::Done(job, Outcome::Script { code: Some(code), millis: 1 }));
            }
            Effect::Kill(job) => {
                let result = if n.is_unkillable { Err("pid 7".to_owned()) } else { Ok(()) };
                inputs.push(Input::Done(job, Outcome::Killed(result)));
            }
            Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
            Effect::Replica(..) if n.is_data_mute => {}
            Effect::Replica(job, order) => {
                inputs.push(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })));
                self.replicate(i, &order);
            }
            Effect::Ask(job, request) => {
                n.asked.push(request.clone());
                let answer = self.answer(i, &request);
                inputs.push(Input::Done(job, Outcome::Arbiter(answer)));
            }
            Effect::Report(event) => n.events.push(event),
            Effect::EntitleAlone => self.alone_with.push(self.record.in_sync.clone()),
            Effect::Entitle(..) | Effect::Disentitle | Effect::Cancel(_) | Effect::Freeze | Effect::Thaw => {}
        }
    }

    fn answer(&mut self, i: usize, request: &ArbiterRequest) -> Option<ArbiterAnswer> {
        if self.is_arbiter_down || self.is_arbiter_lost_by == Some(i) {
            return None;
        }
        let (me, other) = if i == 0 { (name("a"), name("b")) } else { (name("b"), name("a")) };
        let is_own = self.authority.is_own_record();
        let own = || {
            let disk = &self.nodes[i].disk;
            // What the node saved before it asked: the intent is in it, its result is not.
            let owner = (disk.epoch > Epoch(0)).then(|| if disk.is_owner { me.clone() } else { other });
            Record { instance: OWN_STORE, version: disk.epoch, owner, in_sync: disk.in_sync.clone(), gen_id: disk.gen_id }
        };
        let record = if is_own { own() } else { self.record.clone() };
        let changed = record.apply(&me, request);
        let is_accepted = changed.is_some() || *request == ArbiterRequest::Read;
        let record = changed.unwrap_or(record);
        if !is_own {
            self.record = record.clone();
        }
        Some(ArbiterAnswer { is_accepted, record })
    }

    fn replicate(&mut self, i: usize, order: &ReplicaOrder) {
        match order {
            ReplicaOrder::Offer { session, .. } => self.nodes[i].offer = Some(*session),
            ReplicaOrder::Follow { session, .. } => {
                self.nodes[i].following = Some(*session);
                if self.nodes[1 - i].offer == Some(*session) && !self.is_cut {
                    self.feed(1 - i, Input::Replica(ReplicaNote::Armed { session: *session }));
                    self.feed(i, Input::Replica(ReplicaNote::Level { session: *session }));
                }
            }
            ReplicaOrder::CloseSession { .. } | ReplicaOrder::Release { .. } | ReplicaOrder::Abandon { .. } => {
                let session = self.nodes[i].following.take().or(self.nodes[i].offer.take());
                let other = &self.nodes[1 - i];
                if let Some(session) = session
                    && !self.is_cut
                    && [other.following, other.offer].contains(&Some(session))
                {
                    self.feed(1 - i, Input::Replica(ReplicaNote::SessionLost { session, detail: String::new() }));
                }
            }
            ReplicaOrder::Serve { .. } | ReplicaOrder::GoAlone { .. } => {}
        }
    }

    pub fn has_event(&self, node: usize, wanted: fn(&Event) -> bool) -> bool {
        self.nodes[node].events.iter().any(wanted)
    }

    pub fn count(&self, node: usize, script: ScriptName) -> usize {
        self.nodes[node].scripts.iter().filter(|run| run.script == script).count()
    }
}

/// Resources by name: `tcp.web` restarts, `tcp.move` stops and starts, `ping.gateway` waits, `disk.data` swaps; all at once.
fn rules() -> Ruleset {
    let (rules, problems) = parse(
        "a: if (tcp.web == down) then restart();
         b: if (tcp.move == down) then stopstart();
         c: if (ping.gateway == down) then wait();
         d: if (disk.data == down) then swap();",
    );
    assert!(problems.is_empty());
    Ruleset { handle_time: Duration::ZERO, rules }
}

/// In order: what the scripts of a node were called with.
pub fn calls(node: &Node) -> Vec<String> {
    node.scripts.iter().map(|r| format!("{}{}", r.script.file(), if r.is_forced { " force" } else { "" })).collect()
}
