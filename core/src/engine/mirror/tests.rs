//! Statements about single nodes. What two of them do together is explored in `tests/model.rs`.

use super::*;
use crate::command::{Command, Verb};
use crate::engine::{Outcome, VipPlan};
use crate::ids::{Lsn, NodeName};
use crate::replica::{ReplicaAnswer, ReplicaOrder};
use crate::wire::arbiter::{ArbiterAnswer, Record};
use std::collections::BTreeSet;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn set(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|n| node(n)).collect()
}

fn saved(flag: Flag, epoch: u64, in_sync: &[&str]) -> Saved {
    Saved {
        arbiter: LifeIdOf::STORE,
        flag,
        epoch: Epoch(epoch),
        gen_id: Gen(1),
        in_sync: set(in_sync),
        session: Session(3),
        ..Saved::default()
    }
}

struct LifeIdOf;
impl LifeIdOf {
    const STORE: crate::ids::LifeId = crate::ids::LifeId(9);
}

fn record(version: u64, owner: &str, in_sync: &[&str]) -> Record {
    Record { instance: LifeIdOf::STORE, version: Epoch(version), owner: Some(node(owner)), in_sync: set(in_sync), gen_id: Gen(1) }
}

/// The engine of node `b` with its peer `a`; scripts, addresses and the data process succeed at once.
struct Bench {
    engine: Mirror,
    log: Vec<String>,
    asked: Option<(JobId, ArbiterRequest)>,
}

impl Bench {
    fn new(saved: Saved, is_failover_on: bool) -> Bench {
        let cfg = MirrorConfig { is_failover_on, ..MirrorConfig::new(node("b"), node("a")) };
        let mut bench = Bench { engine: Mirror::new(cfg, saved, 5), log: Vec::new(), asked: None };
        bench.feed(Input::Boot);
        bench
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let mut effects = Vec::new();
            self.engine.step(inputs.remove(0), &mut effects);
            for effect in effects {
                self.log.extend(word(&effect));
                match effect {
                    Effect::Run(job, _) => inputs.push(Input::Done(job, Outcome::Script { code: Some(0), millis: 0 })),
                    Effect::Vip(job, _) => inputs.push(Input::Done(job, Outcome::Vip(Ok(())))),
                    Effect::Kill(job) => inputs.push(Input::Done(job, Outcome::Killed(Ok(())))),
                    Effect::Replica(job, _) => {
                        inputs.push(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })));
                    }
                    Effect::Ask(job, request) => self.asked = Some((job, request)),
                    _ => {}
                }
            }
        }
    }

    fn order(&mut self, verb: Verb) {
        self.feed(Input::Command(Command { id: "1".into(), verb, by: "root".into(), reason: None, is_automatic: false }));
    }

    fn heard(&mut self, status: Status) {
        self.feed(Input::Heard { status: Box::new(status), answers: Some(Ticket(1)) });
    }

    /// The arbiter's answer to what was asked last.
    fn answer(&mut self, record: Record) {
        let (job, _) = self.asked.take().expect("something was asked");
        self.feed(Input::Done(job, Outcome::Arbiter(Some(ArbiterAnswer { is_accepted: true, record }))));
    }

    fn asked(&self) -> Option<&ArbiterRequest> {
        self.asked.as_ref().map(|(_, request)| request)
    }

    fn shown(&self) -> (State, Readiness, Option<&Reason>) {
        (self.engine.state(), self.engine.readiness(), self.engine.reason())
    }
}

fn word(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Save(s) => format!("save {:?} e{}{}", s.flag, s.epoch, if s.intent.is_some() { " intent" } else { "" }),
        Effect::Run(_, run) => format!("run {}{}", run.script.file(), if run.is_forced { " force" } else { "" }),
        Effect::Vip(_, VipPlan::Raise) => "raise".into(),
        Effect::Vip(_, VipPlan::Drop) => "drop".into(),
        Effect::Replica(_, ReplicaOrder::Serve { .. }) => "serve".into(),
        Effect::Replica(_, ReplicaOrder::CloseSession { .. }) => "close session".into(),
        Effect::Replica(_, ReplicaOrder::Release { .. }) => "release".into(),
        Effect::Replica(_, order) => format!("{order:?}").split(' ').next().unwrap_or_default().to_lowercase(),
        Effect::Ask(_, request) => format!("ask {}", format!("{request:?}").split(' ').next().unwrap_or_default().to_lowercase()),
        Effect::EntitleAlone => "entitle alone".into(),
        Effect::Disentitle => "disentitle".into(),
        _ => return None,
    })
}

fn primary(session: u64) -> Status {
    Status {
        state: State::Prim,
        readiness: Readiness::Ready,
        is_started: true,
        is_serving: true,
        flag: Flag::UpToDate,
        epoch: Epoch(2),
        gen_id: Gen(1),
        lineage: Vec::new(),
        in_sync: set(&["a", "b"]),
        is_owner: true,
        arbiter: LifeIdOf::STORE,
        has_intent: false,
        session: Session(session),
        offer: None,
        requires: Some(Session(session)),
        is_session_lost: false,
        level: None,
        is_promise: false,
        released: None,
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

/// Node `b` as the ready secondary of a serving `a`.
fn secondary() -> Bench {
    let mut bench = Bench::new(saved(Flag::Stale, 1, &["a"]), true);
    bench.feed(Input::Timer(Timer::Quarantine));
    bench.order(Verb::Start);
    let offering =
        Status { state: State::Alone, in_sync: set(&["a"]), offer: Some(Session(4)), requires: None, epoch: Epoch(1), ..primary(4) };
    bench.heard(offering.clone());
    bench.feed(Input::Replica(ReplicaNote::Level { session: Session(4) }));
    bench.heard(primary(4));
    assert_eq!(bench.shown(), (State::Second, Readiness::Ready, None));
    bench.log.clear();
    bench
}

#[test]
fn a_secondary_that_loses_its_primary_closes_saves_claims_and_only_then_serves() {
    let mut b = secondary();

    b.feed(Input::Timer(Timer::PeerSilent));
    assert!(b.asked().is_none(), "claimed while its promise binds it");
    b.feed(Input::Timer(Timer::PromiseGiven));
    let ArbiterRequest::Claim { gen_id, .. } = b.asked().cloned().unwrap() else { panic!("{:?}", b.asked()) };
    b.answer(Record { gen_id, ..record(3, "b", &["b"]) });

    assert_eq!(
        b.log,
        [
            "close session",
            "run stop_second",
            "save UpToDate e2 intent",
            "ask claim",
            "save UpToDate e3",
            "entitle alone",
            "serve",
            "raise",
            "run transition",
            "run start_prim",
        ]
    );
    assert_eq!(b.shown(), (State::Alone, Readiness::Ready, None));
}

#[test]
fn a_secondary_whose_primary_gave_up_its_epoch_claims_at_once() {
    let mut b = secondary();

    b.heard(Status { state: State::Wait, is_serving: false, requires: None, released: Some(Epoch(2)), ..primary(4) });

    assert!(matches!(b.asked(), Some(ArbiterRequest::Claim { expected: Epoch(2), .. })), "{:?}", b.asked());
}

#[test]
fn a_secondary_that_is_stopped_is_stale_on_disk_before_it_says_so() {
    let mut b = secondary();

    b.order(Verb::Stop);
    assert_eq!(b.engine.saved().flag, Flag::UpToDate, "the primary has not heard of it");
    b.heard(Status { is_session_lost: true, ..primary(4) });

    assert_eq!(b.engine.saved().flag, Flag::Stale);
    assert_eq!(b.log.iter().rfind(|line| line.starts_with("save")).map(String::as_str), Some("save Stale e2"));
    assert_eq!(b.engine.state(), State::Stop);
}

#[test]
fn with_failover_off_a_lost_primary_is_not_replaced_until_a_person_says_so() {
    let mut b = secondary();
    b.engine.cfg.is_failover_on = false;
    b.feed(Input::Timer(Timer::PeerSilent));
    b.feed(Input::Timer(Timer::PromiseGiven));
    assert_eq!(b.shown(), (State::Wait, Readiness::NotReady, Some(&Reason::FailoverOff)));

    assert_eq!(b.engine.refusal(&Verb::Prim { accept_loss: false }), None);
    b.order(Verb::Prim { accept_loss: false });
    b.answer(record(2, "a", &["a", "b"]));

    assert!(matches!(b.asked(), Some(ArbiterRequest::Claim { .. })), "{:?}", b.asked());
}

#[test]
fn an_order_that_begins_the_count_of_automatic_actions_afresh_has_that_written_down() {
    let mut b = secondary();
    b.engine.saved.loop_count = 2;
    let mut effects = Vec::new();
    let order = Command { id: "1".into(), verb: Verb::Maintenance { minutes: 5 }, by: "root".into(), reason: None, is_automatic: false };
    b.engine.step(Input::Command(order), &mut effects);

    let written = effects.iter().rev().find_map(|e| if let Effect::Save(saved) = e { Some(saved.as_ref()) } else { None });
    assert_eq!((written, b.engine.saved.loop_count), (Some(&b.engine.saved), 0));
}

/// An engine as another life of its driver takes it up, before it has been told so.
fn kept_and_taken_up(engine: &Mirror) -> Mirror {
    let kept = serde_json::to_string(&engine.kept().expect("at rest")).unwrap();
    Mirror::of_kept(engine.cfg.clone(), serde_json::from_str(&kept).unwrap())
}

#[test]
fn what_is_kept_of_an_engine_at_rest_is_all_of_it() {
    let mut b = secondary();
    let but_for_beats = Mirror { last_sent: None, is_bound: false, goal: Goal::Idle, ..b.engine.clone() };
    assert_eq!(kept_and_taken_up(&b.engine), but_for_beats);

    b.feed(Input::Timer(Timer::PeerSilent));
    b.feed(Input::Timer(Timer::PromiseGiven));
    assert!(b.engine.kept().is_none(), "a claim is under way");
    let ArbiterRequest::Claim { gen_id, .. } = b.asked().cloned().unwrap() else { panic!("{:?}", b.asked()) };
    b.answer(Record { gen_id, ..record(3, "b", &["b"]) });
    assert_eq!(b.shown(), (State::Alone, Readiness::Ready, None));
    let but_for_beats = Mirror { last_sent: None, is_bound: false, goal: Goal::Idle, ..b.engine.clone() };
    assert_eq!(kept_and_taken_up(&b.engine), but_for_beats);

    b.order(Verb::Stop);
    assert!(b.engine.kept().is_none(), "what is stopped begins anew");
}

#[test]
fn a_secondary_that_goes_on_is_bound_by_what_it_may_have_promised_and_waits_for_its_primary_anew() {
    let mut b = secondary();
    b.engine = kept_and_taken_up(&b.engine);
    let mut effects = Vec::new();
    b.engine.step(Input::GoneOn, &mut effects);

    let keep = b.engine.cfg.timing.keep;
    for timer in [Timer::PromiseGiven, Timer::PeerSilent] {
        assert!(effects.contains(&Effect::SetTimer(timer, keep)), "{timer:?} in {effects:?}");
    }
    assert!(effects.iter().any(|e| matches!(e, Effect::Send(_))), "the primary hears of it at once");
    assert!(effects.iter().all(Effect::is_light), "{effects:?}");
    b.feed(Input::Timer(Timer::PeerSilent));
    assert!(b.asked().is_none(), "claimed while its promise may bind it");
}

#[test]
fn prim_without_consent_never_overrides_a_record_that_names_another_node() {
    let mut b = Bench::new(saved(Flag::UpToDate, 2, &["a", "b"]), true);
    b.order(Verb::Prim { accept_loss: false });
    b.feed(Input::Timer(Timer::Quarantine));

    b.answer(record(3, "a", &["a"]));

    assert_eq!(b.asked(), None);
    assert_eq!(b.shown(), (State::Wait, Readiness::NotReady, Some(&Reason::DataOlder { newer: Some(node("a")), since_unix_ms: None })));
    assert_eq!(b.engine.saved().flag, Flag::Stale);
    assert_eq!(b.engine.refusal(&Verb::Prim { accept_loss: false }), Some(crate::command::Refusal::NeedsAcceptLoss));
    assert_eq!(b.engine.refusal(&Verb::Prim { accept_loss: true }), None);
}

#[test]
fn without_an_arbiter_a_lone_node_waits_and_says_why() {
    let mut b = Bench::new(saved(Flag::UpToDate, 2, &["a", "b"]), true);
    b.order(Verb::Start);
    b.feed(Input::Timer(Timer::Quarantine));
    let (job, _) = b.asked.take().expect("the record is read");
    b.feed(Input::Done(job, Outcome::Arbiter(None)));

    assert_eq!(b.shown(), (State::Wait, Readiness::NotReady, Some(&Reason::NoArbiter)));
    b.feed(Input::Timer(Timer::ArbiterRetry));
    assert_eq!(b.asked(), Some(&ArbiterRequest::Read), "it asks again by itself");
}

#[test]
fn states_follow_one_another_only_as_the_protocol_says() {
    use State::*;
    let columns = [Stop, Wait, Alone, Prim, Second];
    let printed = include_str!("../../../../docs/PROTOCOL.md");
    for from in columns {
        let row =
            printed.lines().find(|l| l.starts_with(&format!("| {} | ", from.word())) && l.contains("stays")).expect("a row of the table");
        let cells: Vec<&str> = row.split('|').skip(2).map(str::trim).collect();
        for (to, cell) in columns.into_iter().zip(cells) {
            let expected = match cell {
                "stays" => from == to,
                "yes" => from != to && view::may_follow(from, to),
                _ => !view::may_follow(from, to),
            };
            assert!(expected, "{} to {}: the document says `{cell}`", from.word(), to.word());
        }
    }
}
