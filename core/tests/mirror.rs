//! Statements about a node whose scripts take time and whose orders fail: what the explored world takes for granted.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;
use std::time::Duration;
use tsugi_core::command::{Command, Verb};
use tsugi_core::engine::{Effect, Input, Mirror, MirrorConfig, Outcome, Saved, Ticket, Timer};
use tsugi_core::ids::{Epoch, JobId, LifeId, Lsn, NodeName, Session};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::{Flag, Readiness, State};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};
use tsugi_core::wire::peer::Status;

fn name(n: &str) -> NodeName {
    NodeName::new(n).unwrap()
}

struct Node {
    engine: Mirror,
    record: Record,
    me: NodeName,
    /// Scripts are not answered.
    holds_scripts: bool,
    /// The arbiter is not answered.
    holds_arbiter: bool,
    fails: fn(&ReplicaOrder) -> bool,
    asked: Vec<ArbiterRequest>,
    orders: Vec<ReplicaOrder>,
    steps: u32,
}

impl Node {
    fn new(me: &str, peer: &str, instance: u128) -> Node {
        let mut cfg = MirrorConfig::new(name(me), name(peer));
        cfg.loop_interval = Duration::ZERO;
        let engine = Mirror::new(cfg, Saved::default(), 12345);
        Node {
            engine,
            record: Record::empty(LifeId(instance)),
            me: name(me),
            holds_scripts: false,
            holds_arbiter: false,
            fails: |_| false,
            asked: Vec::new(),
            orders: Vec::new(),
            steps: 0,
        }
    }
    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        let mut rounds = 0;
        while !inputs.is_empty() {
            rounds += 1;
            if rounds > 40 {
                return;
            }
            self.steps += 1;
            let mut out = Vec::new();
            self.engine.step(inputs.remove(0), &mut out);
            for e in out {
                match e {
                    Effect::Run(job, _) if !self.holds_scripts => {
                        inputs.push(Input::Done(job, Outcome::Script { code: Some(0), millis: 0 }))
                    }
                    Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
                    Effect::Kill(job) => inputs.push(Input::Done(job, Outcome::Killed(Ok(())))),
                    Effect::Replica(job, order) => {
                        let answer = if (self.fails)(&order) {
                            ReplicaAnswer::Failed { detail: "EIO".into() }
                        } else {
                            ReplicaAnswer::Done { last: Lsn(0) }
                        };
                        self.orders.push(order);
                        inputs.push(Input::Done(job, Outcome::Replica(answer)));
                    }
                    Effect::Ask(job, request) => {
                        self.asked.push(request.clone());
                        if !self.holds_arbiter {
                            inputs.push(self.answer(job, &request));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    fn answer(&mut self, job: JobId, request: &ArbiterRequest) -> Input {
        let changed = self.record.apply(&self.me, request);
        let is_accepted = changed.is_some();
        if let Some(r) = changed {
            self.record = r;
        }
        Input::Done(job, Outcome::Arbiter(Some(ArbiterAnswer { is_accepted, record: self.record.clone() })))
    }
    fn order(&mut self, verb: Verb) {
        self.feed(Input::Command(Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false }));
    }
    fn hear(&mut self, status: &Status, answers: Option<u64>) {
        self.feed(Input::Heard { status: Box::new(status.clone()), answers: answers.map(Ticket) });
    }
}

fn waiting(me: &str) -> Status {
    let mut n = Node::new(me, "x", 7);
    n.feed(Input::Boot);
    n.order(Verb::Start);
    n.engine.status()
}

/// `a` is PRIM with `b` in sync; the newest status of `b` beside it.
fn prim() -> (Node, Status) {
    let mut a = Node::new("a", "b", 7);
    a.feed(Input::Boot);
    a.order(Verb::Prim { accept_loss: false });
    assert_eq!((a.engine.state(), a.engine.readiness()), (State::Alone, Readiness::Ready));
    let mut b = waiting("b");
    a.hear(&b, None);
    b.state = State::Second;
    b.readiness = Readiness::Transient;
    b.session = Session(1);
    b.flag = Flag::Inconsistent;
    a.hear(&b, Some(1));
    a.feed(Input::Replica(ReplicaNote::Armed { session: Session(1) }));
    b.level = Some(Session(1));
    b.flag = Flag::UpToDate;
    b.readiness = Readiness::Ready;
    b.is_promise = true;
    b.epoch = Epoch(1);
    b.gen_id = a.engine.saved().gen_id;
    a.hear(&b, Some(2));
    assert_eq!((a.engine.state(), a.engine.readiness()), (State::Prim, Readiness::Ready));
    assert_eq!(a.record.in_sync, BTreeSet::from([name("a"), name("b")]));
    a.asked.clear();
    a.orders.clear();
    (a, b)
}

#[test]
fn a_primary_whose_disk_failed_does_not_exclude_the_good_secondary_while_its_stop_scripts_run() {
    let (mut a, mut b) = prim();
    a.holds_scripts = true;
    a.feed(Input::Replica(ReplicaNote::DiskFailed { detail: "EIO".into() }));
    assert!(matches!(a.orders.last(), Some(ReplicaOrder::Abandon { .. })));
    // The link went with the mount: b promises no more; its last promise runs out while the script runs.
    b.is_promise = false;
    a.hear(&b, Some(3));
    a.feed(Input::Timer(Timer::PromiseHeld));
    assert!(a.record.in_sync.contains(&name("b")), "the only good copy was excluded: {:?} {:?}", a.asked, a.record);
}

#[test]
fn a_primary_that_lost_the_record_does_not_go_on_asking_for_it() {
    let (mut a, mut b) = prim();
    a.holds_arbiter = true;
    a.feed(Input::Timer(Timer::PeerSilent));
    a.feed(Input::Timer(Timer::PromiseHeld));
    assert_eq!(a.asked.len(), 1);
    a.record.version = Epoch(3);
    a.record.owner = Some(name("b"));
    a.record.in_sync = BTreeSet::from([name("b")]);
    b.is_serving = true;
    b.epoch = Epoch(3);
    b.state = State::Alone;
    a.holds_arbiter = false;
    a.holds_scripts = true;
    // Its request is answered late (no answer, then the retry).
    let out_job = a.asked.len();
    a.feed(Input::Done(last_job(&a), Outcome::Arbiter(None)));
    a.feed(Input::Timer(Timer::ArbiterRetry));
    assert!(a.asked.len() <= out_job + 1, "{} requests while the stop scripts run", a.asked.len());
}

/// Jobs are numbered from 1; the engine drops answers to any other, so all of them may be tried.
fn last_job(a: &Node) -> JobId {
    for n in (1..200).rev() {
        let mut probe = a.engine.clone();
        let mut out = Vec::new();
        probe.step(Input::Done(JobId(n), Outcome::Arbiter(None)), &mut out);
        if out.iter().any(|e| matches!(e, Effect::SetTimer(Timer::ArbiterRetry, _))) {
            return JobId(n);
        }
    }
    panic!("no request is under way");
}

#[test]
fn a_stop_whose_release_fails_still_ends_in_stop() {
    let (mut a, _) = prim();
    a.fails = |o| matches!(o, ReplicaOrder::Release { .. });
    a.order(Verb::Stop);
    assert_eq!(a.engine.state(), State::Stop);
}

#[test]
fn the_death_of_the_data_process_ends_a_release() {
    let (mut a, _) = prim();
    // The release is never answered: the process died in it.
    let mut out = Vec::new();
    a.holds_scripts = true;
    let mut inputs =
        vec![Input::Command(Command { id: String::new(), verb: Verb::Stop, by: "root".into(), reason: None, is_automatic: false })];
    while let Some(i) = inputs.pop() {
        out.clear();
        a.engine.step(i, &mut out);
        for e in &out {
            match e {
                Effect::Run(j, _) => inputs.push(Input::Done(*j, Outcome::Script { code: Some(0), millis: 0 })),
                Effect::Vip(j, _) => inputs.push(Input::Done(*j, Outcome::Vip(Ok(())))),
                Effect::Kill(j) => inputs.push(Input::Done(*j, Outcome::Killed(Ok(())))),
                _ => {}
            }
        }
    }
    a.holds_scripts = false;
    a.feed(Input::Replica(ReplicaNote::Died { detail: "killed".into() }));
    assert!(!a.engine.is_serving(), "still {:?} {:?}", a.engine.state(), a.engine.readiness());
}

fn serving_a(epoch: u64) -> Status {
    let mut s = waiting("a");
    s.state = State::Alone;
    s.readiness = Readiness::Ready;
    s.is_serving = true;
    s.flag = Flag::UpToDate;
    s.epoch = Epoch(epoch);
    s.is_owner = true;
    s.in_sync = BTreeSet::from([name("a")]);
    s.session = Session(1);
    s.offer = Some(Session(1));
    s.gen_id = tsugi_core::ids::Gen(9);
    s
}

/// `b` is the level, promising secondary of `a`.
fn second(instance: u128) -> (Node, Status) {
    let mut b = Node::new("b", "a", instance);
    b.feed(Input::Boot);
    b.order(Verb::Start);
    let mut a = serving_a(1);
    b.hear(&a, None);
    assert_eq!(b.engine.state(), State::Second);
    b.feed(Input::Replica(ReplicaNote::Level { session: Session(1) }));
    a.requires = Some(Session(1));
    b.hear(&a, None);
    a.epoch = Epoch(2);
    a.in_sync = BTreeSet::from([name("a"), name("b")]);
    a.state = State::Prim;
    b.hear(&a, None);
    assert_eq!(b.engine.readiness(), Readiness::Ready);
    b.record.version = Epoch(2);
    b.record.owner = Some(name("a"));
    b.record.in_sync = a.in_sync.clone();
    b.asked.clear();
    (b, a)
}

#[test]
fn no_claim_leaves_when_what_was_applied_could_not_be_flushed() {
    let (mut b, _) = second(7);
    b.fails = |o| matches!(o, ReplicaOrder::CloseSession { .. });
    b.feed(Input::Timer(Timer::PromiseGiven));
    b.feed(Input::Timer(Timer::PeerSilent));
    assert!(b.asked.is_empty(), "asked {:?}", b.asked);
}

#[test]
fn a_session_left_before_it_was_level_is_closed_under_an_epoch_the_data_process_accepts() {
    let mut b = Node::new("b", "a", 7);
    b.feed(Input::Boot);
    b.order(Verb::Start);
    b.hear(&serving_a(5), None);
    b.order(Verb::Stop);
    let epochs: Vec<Epoch> = b
        .orders
        .iter()
        .map(|o| match o {
            ReplicaOrder::Follow { epoch, .. } | ReplicaOrder::CloseSession { epoch } => *epoch,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(epochs.windows(2).all(|w| w[0] <= w[1]), "{:?}", b.orders);
}

#[test]
fn a_good_node_does_not_wait_for_ever_for_one_that_is_not_fit() {
    let (mut b, mut a) = second(7);
    b.feed(Input::Timer(Timer::PromiseGiven));
    // a's machine restarted; one of its pre-checkers is down.
    a.is_serving = false;
    a.state = State::Wait;
    a.offer = None;
    a.requires = None;
    a.is_fit = false;
    // b restarted as well.
    let cfg = MirrorConfig::new(name("b"), name("a"));
    b.engine = Mirror::new(cfg, b.engine.saved().clone(), 99);
    b.feed(Input::Boot);
    b.order(Verb::Start);
    b.hear(&a, None);
    b.feed(Input::Timer(Timer::Quarantine));
    b.hear(&a, None);
    assert_eq!(b.engine.state(), State::Alone, "{:?}", b.engine.reason());
}

/// An old session arms after the engine has offered another one: what frees its writers ends the newer offer too, so
/// that a follower of it must not wait for ever. Simulator, seed 157.
#[test]
fn an_old_session_that_arms_late_leaves_no_dead_offer_behind() {
    let (mut a, mut b) = prim();
    // b leaves, and a goes on alone and offers again, twice.
    b.level = None;
    b.flag = Flag::Stale;
    b.state = State::Wait;
    a.hear(&b, Some(3));
    let first = a.engine.status().offer.unwrap();
    b.session = first;
    a.hear(&b, Some(4));
    let second = a.engine.status().offer.unwrap();
    assert!(second > first);

    a.feed(Input::Replica(ReplicaNote::Armed { session: first }));

    let [.., go_alone, offer] = &a.orders[..] else { panic!("{:?}", a.orders) };
    assert!(matches!(go_alone, ReplicaOrder::GoAlone { .. }), "{:?}", a.orders);
    assert!(matches!(offer, ReplicaOrder::Offer { session, .. } if *session > second), "{:?}", a.orders);
}

/// A node whose disk, record and all, was set back: the arbiter's record has moved on further than a node that is
/// named in it can have missed.
#[test]
fn a_node_set_back_to_an_earlier_time_does_not_serve_although_the_record_names_it() {
    let both = BTreeSet::from([name("a"), name("b")]);
    let saved =
        Saved { flag: Flag::UpToDate, epoch: Epoch(3), arbiter: LifeId(7), in_sync: both.clone(), is_started: true, ..Saved::default() };
    let serves = |version: u64, owner: &str, in_sync: &BTreeSet<NodeName>| {
        let mut node = Node::new("a", "b", 7);
        node.engine = Mirror::new(MirrorConfig::new(name("a"), name("b")), saved.clone(), 5);
        node.record = Record { version: Epoch(version), owner: Some(name(owner)), in_sync: in_sync.clone(), ..Record::empty(LifeId(7)) };
        node.feed(Input::Boot);
        node.order(Verb::Start);
        node.feed(Input::Timer(Timer::Quarantine));
        (node.engine.state(), node.engine.saved().flag)
    };

    // Named by the other owner: by the grow that followed the version it knows, never later.
    assert_eq!(serves(3, "b", &both), (State::Alone, Flag::UpToDate));
    assert_eq!(serves(4, "b", &both), (State::Alone, Flag::UpToDate));
    assert_eq!(serves(5, "b", &both), (State::Wait, Flag::Stale));
    // As the owner it had written down every version before it could be made.
    let alone = BTreeSet::from([name("a")]);
    assert_eq!(serves(3, "a", &alone), (State::Alone, Flag::UpToDate));
    assert_eq!(serves(4, "a", &alone), (State::Wait, Flag::Stale));
}

/// The limit of automatic actions holds over restarts of the agent: only a person starts the count afresh.
#[test]
fn a_start_at_boot_does_not_forget_automatic_actions_and_a_persons_does() {
    let start = |by: &str| {
        let mut node = Node::new("a", "b", 7);
        let mut cfg = MirrorConfig::new(name("a"), name("b"));
        cfg.loop_interval = Duration::from_secs(3600);
        node.engine = Mirror::new(cfg, Saved { loop_count: 2, is_started: true, ..Saved::default() }, 5);
        node.feed(Input::Boot);
        node.feed(Input::Command(Command { id: String::new(), verb: Verb::Start, by: by.into(), reason: None, is_automatic: false }));
        node.engine.saved().loop_count
    };

    assert_eq!(start(tsugi_core::command::BY_BOOT), 2);
    assert_eq!(start("root"), 0);
}

#[test]
fn a_checker_that_restarts_for_ever_is_stopped_by_the_limit() {
    let mut node = Node::new("a", "b", 7);
    let mut cfg = MirrorConfig::new(name("a"), name("b"));
    cfg.loop_interval = Duration::from_secs(3600);
    node.engine = Mirror::new(cfg, Saved::default(), 5);
    node.feed(Input::Boot);
    node.order(Verb::Prim { accept_loss: false });
    let restart = Command { id: String::new(), verb: Verb::Restart, by: "chk (root)".into(), reason: None, is_automatic: true };
    node.order(Verb::Maintenance { minutes: 10 });
    node.feed(Input::Command(restart.clone()));
    assert_eq!(node.engine.loops(), (0, 3), "under maintenance nothing is restarted by itself");
    node.order(Verb::Maintenance { minutes: 0 });
    for count in 1..=3 {
        node.feed(Input::Command(restart.clone()));
        assert_eq!((node.engine.state(), node.engine.saved().loop_count), (State::Alone, count));
    }
    node.feed(Input::Command(restart));
    assert_eq!((node.engine.state(), node.engine.loops()), (State::Stop, (4, 3)));
    node.feed(Input::Loops(tsugi_core::command::LoopChange::Forget));
    assert_eq!((node.engine.loops(), node.engine.saved().loop_count), ((0, 3), 0));
}

/// Scripts, orders to the data process and states, one after another, as a stop leads to them.
fn done_on_stop(node: &mut Node) -> Vec<String> {
    let command = Command { id: String::new(), verb: Verb::Stop, by: "root".into(), reason: None, is_automatic: false };
    let (mut inputs, mut done) = (vec![Input::Command(command)], Vec::new());
    while !inputs.is_empty() {
        let mut out = Vec::new();
        node.engine.step(inputs.remove(0), &mut out);
        // A script runs on by itself: what is said in the same step is said at its begin.
        let is_said = out.iter().any(|e| matches!(e, Effect::Send(status) if status.state == State::Stop));
        for effect in out {
            match effect {
                Effect::Run(job, run) => {
                    done.push(format!("{}{}", run.script.file(), if run.is_forced { " force" } else { "" }));
                    done.extend(is_said.then(|| "stop is said".to_owned()));
                    inputs.push(Input::Done(job, Outcome::Script { code: Some(0), millis: 0 }));
                }
                Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
                Effect::Kill(job) => inputs.push(Input::Done(job, Outcome::Killed(Ok(())))),
                Effect::Replica(job, order) => {
                    done.push(if matches!(order, ReplicaOrder::Release { .. }) { "release".into() } else { "close".into() });
                    inputs.push(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })));
                }
                _ => {}
            }
        }
    }
    done
}

#[test]
fn poststop_is_run_at_every_stop_and_only_after_the_other_node_was_let_go_on() {
    let (mut a, _) = prim();
    let stop = ["stop_prim", "stop_prim force", "stop_both", "stop_both force", "release", "poststop", "stop is said", "transition"];
    assert_eq!(done_on_stop(&mut a), stop);

    let (mut b, _) = second(7);
    let done = done_on_stop(&mut b);
    assert_eq!(done.last_chunk(), Some(&["poststop", "stop is said", "transition"].map(String::from)), "{done:?}");

    // From WAIT it is part of the stop, and run once.
    let mut c = Node::new("c", "b", 7);
    c.feed(Input::Boot);
    c.order(Verb::Start);
    assert_eq!(done_on_stop(&mut c).iter().filter(|d| *d == "poststop").count(), 1);
}

#[test]
fn a_start_during_poststop_waits_for_its_end() {
    let (mut a, _) = prim();
    a.holds_scripts = true;
    let run = |a: &mut Node, input: Input| {
        let mut out = Vec::new();
        a.engine.step(input, &mut out);
        let mut inputs = Vec::new();
        let mut runs = Vec::new();
        for effect in out {
            match effect {
                Effect::Run(job, run) => runs.push((job, run.script.file())),
                Effect::Cancel(_) => panic!("a script was cut off"),
                Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
                Effect::Kill(job) => inputs.push(Input::Done(job, Outcome::Killed(Ok(())))),
                Effect::Replica(job, _) => inputs.push(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) }))),
                _ => {}
            }
        }
        (runs, inputs)
    };
    let command = |verb| Input::Command(Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false });
    let ended = |job| Input::Done(job, Outcome::Script { code: Some(0), millis: 0 });
    let (mut inputs, mut seen) = (vec![command(Verb::Stop)], Vec::new());
    let poststop = loop {
        let (runs, more) = run(&mut a, inputs.remove(0));
        inputs.extend(more);
        match runs.first() {
            Some((job, "poststop")) => break *job,
            Some((job, _)) => inputs.push(ended(*job)),
            None => {}
        }
    };
    assert_eq!(a.engine.state(), State::Stop);
    inputs.extend([command(Verb::Start), ended(poststop)]);
    while !inputs.is_empty() && !seen.contains(&"prestart") {
        let (runs, more) = run(&mut a, inputs.remove(0));
        inputs.extend(more);
        inputs.extend(runs.iter().map(|(job, _)| ended(*job)));
        seen.extend(runs.iter().map(|(_, script)| *script));
    }
    assert_eq!((a.engine.state(), seen), (State::Wait, vec!["transition", "prestart"]));
}
