//! Every word of the domain in both languages: nothing is missing, nothing is left in the other language.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::copies::{Difference, DifferenceKind, VerifyEnd, Verifying};
use tsugi_core::event::{Event, GuardAct, Level};
use tsugi_core::ids::{Epoch, ModuleName, NodeName, Session};
use tsugi_core::module::{Action, Mode, ScriptName};
use tsugi_core::rehearsal::Rehearsed;
use tsugi_core::state::{ArbiterView, Flag, Health, Readiness, Reason, Replication, State, Traffic};
use tsugi_web::fleet::HealthView;
use tsugi_web::say::{self, Said};
use tsugi_web::text::Lang;

fn module() -> ModuleName {
    ModuleName::new("ledger").unwrap()
}
fn n1() -> NodeName {
    NodeName::new("n1").unwrap()
}
fn n2() -> NodeName {
    NodeName::new("n2").unwrap()
}

/// A comparison of the two copies with so many differences, of every kind.
fn verified(differences: u64, end: VerifyEnd) -> Event {
    let kinds = [
        DifferenceKind::Contents { bytes: 65_536 },
        DifferenceKind::Attributes,
        DifferenceKind::Missing,
        DifferenceKind::Extra,
        DifferenceKind::Unreadable { detail: "Input/output error (os error 5)".to_owned() },
    ];
    let first = kinds.map(|kind| Difference { path: "/srv/ledger/file".to_owned(), kind });
    let first = if differences == 0 { Vec::new() } else { first.to_vec() };
    Event::Verified { done: Verifying { files: 12, bytes: 65_536, held: 1, differences }, millis: 1200, first, end }
}

fn is_japanese(text: &str) -> bool {
    text.chars().any(|c| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}'))
}

/// The pair must be two texts in two languages. `is_sentence`: with a full stop, so that sentences can follow each other.
fn check(what: &str, en: &str, ja: &str, is_sentence: bool) {
    assert!(!en.trim().is_empty() && !ja.trim().is_empty(), "{what}");
    assert!(!is_japanese(en), "{what}: {en}");
    assert!(is_japanese(ja), "{what}: {ja}");
    for text in [en, ja] {
        assert!(!text.contains(['!', '！']), "{what}: {text}");
        assert!(!text.contains("  ") && !text.contains("{"), "{what}: {text}");
    }
    assert!(!ja.contains("。 ") && !ja.contains("、 "), "{what}: {ja}");
    if is_sentence {
        assert!(en.ends_with('.') || en.ends_with("why"), "{what}: {en}");
        assert!(ja.ends_with('。') || ja.ends_with("why"), "{what}: {ja}");
        // Half-width words stand free in Japanese text; marks and brackets need no space.
        let chars: Vec<char> = ja.chars().collect();
        for pair in chars.windows(2) {
            let glued = |a: char, b: char| a.is_ascii_alphanumeric() && is_japanese(&b.to_string()) && b != '・';
            assert!(!glued(pair[0], pair[1]) && !glued(pair[1], pair[0]), "{what}: no space at {}{}: {ja}", pair[0], pair[1]);
        }
    }
}

fn check_said(what: &str, say: impl Fn(Lang) -> Said, ends_as_sentence: bool) {
    let (en, ja) = (say(Lang::En), say(Lang::Ja));
    check(what, &en.text, &ja.text, ends_as_sentence);
    assert_eq!((&en.command, &en.on), (&ja.command, &ja.on), "{what}: commands are not translated");
    for (e, j) in [(&en.next, &ja.next), (&en.remedy, &ja.remedy)] {
        match (e, j) {
            (Some(e), Some(j)) => check(what, e, j, ends_as_sentence),
            (None, None) => {}
            _ => panic!("{what}: one language says more"),
        }
    }
}

/// The list holds every variant: their debug names are counted against the source of the type.
fn is_whole<T: std::fmt::Debug>(list: &[T], source: &str, type_name: &str) {
    let start = source.find(&format!("pub enum {type_name} {{")).unwrap();
    let body = &source[start..start + source[start..].find("\n}").unwrap()];
    let declared: BTreeSet<&str> = body
        .lines()
        .skip(1)
        .filter(|l| l.starts_with("    ") && !l.starts_with("     "))
        .map(str::trim)
        .filter(|l| l.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|l| l.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap())
        .collect();
    let debug: Vec<String> = list.iter().map(|v| format!("{v:?}")).collect();
    let listed: BTreeSet<&str> = debug.iter().map(|d| d.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap()).collect();
    assert_eq!(listed, declared, "{type_name}");
}

const STATE_RS: &str = include_str!("../../core/src/state.rs");
const EVENT_RS: &str = include_str!("../../core/src/event.rs");
const COMMAND_RS: &str = include_str!("../../core/src/command.rs");

fn reasons() -> Vec<Reason> {
    let all = Reason::each(&n2());
    is_whole(&all, STATE_RS, "Reason");
    all
}

fn refusals() -> Vec<Refusal> {
    let all = vec![
        Refusal::AlreadyStarted,
        Refusal::AlreadyStopped,
        Refusal::Busy,
        Refusal::NotServing,
        Refusal::NotProtected,
        Refusal::PeerServes { peer: n2() },
        Refusal::PeerDoesNotServe,
        Refusal::NeedsAcceptLoss,
        Refusal::HalfSynced,
        Refusal::NoSuchRole,
        Refusal::NotConfigured,
        Refusal::MustBeStopped,
        Refusal::NoContact,
        Refusal::NoSplitBrain,
        Refusal::NoSuchNode { node: n2() },
        Refusal::BadDuration { minutes: 2000 },
        Refusal::Maintained,
    ];
    is_whole(&all, COMMAND_RS, "Refusal");
    all
}

fn events() -> Vec<Event> {
    let why = || "why".to_owned();
    let addr = "10.0.0.9".parse().unwrap();
    let verb = Verb::Swap;
    let all = vec![
        Event::AgentStarted,
        Event::AgentWentOn,
        Event::Entered { from: State::Stop, to: State::Wait, readiness: Readiness::NotReady, reason: Some(Reason::FirstStart) },
        Event::Ordered { verb: verb.clone(), by: "sato".to_owned(), reason: None },
        Event::Refused { verb, by: "sato".to_owned(), refusal: Refusal::NotProtected },
        Event::PeerSeen { peer: n2() },
        Event::PeerLost { peer: n2() },
        Event::PeerLeft { peer: n2() },
        Event::SessionLost { session: Session(3), detail: why() },
        Event::ClaimAsked { expected: Epoch(3) },
        Event::ClaimAccepted { epoch: Epoch(4) },
        Event::ClaimRejected { epoch: Epoch(4), owner: Some(n2()) },
        Event::ClaimRejected { epoch: Epoch(4), owner: None },
        Event::Grown { epoch: Epoch(5) },
        Event::Forced { epoch: Epoch(6), by: "sato".to_owned() },
        Event::ArbiterLost,
        Event::ArbiterSeen,
        Event::Frozen,
        Event::Thawed,
        Event::ScriptDone { script: ScriptName::StartPrim, code: Some(0), millis: 1200 },
        Event::ScriptDone { script: ScriptName::StartPrim, code: Some(2), millis: 1200 },
        Event::ScriptDone { script: ScriptName::StartPrim, code: None, millis: 120_000 },
        Event::ScriptSaid { script: ScriptName::StartPrim, text: why() },
        Event::DataServed { millis: 12 },
        Event::VipRaised { addr },
        Event::VipDropped { addr },
        Event::VipFailed { detail: why() },
        Event::ResyncStarted { session: Session(7) },
        Event::ResyncDone { session: Session(7), bytes_copied: 12_000_000, files: 12, millis: 65_000 },
        Event::Opened { by: "root".to_owned() },
        verified(0, VerifyEnd::Whole),
        verified(3, VerifyEnd::Whole),
        verified(3, VerifyEnd::Early),
        verified(0, VerifyEnd::Failed { detail: why() }),
        verified(3, VerifyEnd::Failed { detail: why() }),
        Event::Resource { name: "tcp.web".to_owned(), health: Health::Down, detail: String::new() },
        Event::CheckAction { resource: "tcp.web".to_owned(), action: Action::Restart },
        Event::DataFailed { detail: why() },
        Event::LoopLimit { count: 4 },
        Event::Configured { generation: 3 },
        Event::Guard { act: GuardAct::Froze { late_ms: 4 }, acted_unix_ms: 1_700_000_000_000 },
        Event::Guard { act: GuardAct::Thawed, acted_unix_ms: 1_700_000_000_000 },
        Event::Guard { act: GuardAct::Killed { count: 3 }, acted_unix_ms: 1_700_000_000_000 },
        Event::Guard { act: GuardAct::Failed, acted_unix_ms: 1_700_000_000_000 },
        Event::Guard { act: GuardAct::Starves, acted_unix_ms: 1_700_000_000_000 },
        Event::Printed { script: Some(ScriptName::StartPrim), text: why(), is_error: false },
        Event::Printed { script: None, text: why(), is_error: true },
        Event::Unexpected { what: why() },
        Event::RuleFired { label: "my_rule".to_owned(), action: tsugi_core::rules::RuleAction::Swap },
        Event::Reseeded { epoch: Epoch(7) },
        Event::CopyReplaced { by: "root".into() },
        Event::SetBack { known: Epoch(3), record: Epoch(7) },
        Event::Maintenance { minutes: 30 },
        Event::Maintenance { minutes: 0 },
        Event::Hosting { peer: n2() },
        Event::Unkillable { detail: why() },
    ];
    is_whole(&all, EVENT_RS, "Event");
    all
}

#[test]
fn reasons_are_worded() {
    for r in reasons() {
        check_said(&format!("{r:?}"), |lang| say::reason(lang, &r, &module(), &n1()), true);
        let short = |lang| say::reason_short(lang, &r);
        match (short(Lang::En), short(Lang::Ja)) {
            (Some(en), Some(ja)) => {
                check(&format!("{r:?} in short"), &en, &ja, false);
                assert!(en.chars().count() <= 26, "{en} does not fit a cell");
            }
            (None, None) => {}
            other => panic!("{r:?}: {other:?}"),
        }
    }
}

#[test]
fn a_reason_that_needs_a_person_says_what_to_do() {
    for r in reasons() {
        let said = say::reason(Lang::En, &r, &module(), &n1());
        assert!(said.next.is_some() || said.remedy.is_some(), "{r:?} leaves the reader alone");
    }
}

/// These end by themselves; all others are red and need a person or something from outside.
fn ends_by_itself(r: &Reason) -> bool {
    use Reason::{HandOver, PeerFirst, Quarantine, Resyncing, Starting, Stopping, WaitingForSource};
    matches!(r, Starting | Stopping | Quarantine | PeerFirst { .. } | Resyncing | WaitingForSource { .. } | HandOver { .. })
}

/// Red, and no order to the module helps: what is outside of it must be mended, and it goes on (or is tried again) by itself.
fn helps_no_command(r: &Reason) -> bool {
    use Reason::{CheckFailed, DataUnusable, Frozen, NoArbiter, NoWitness, RecordUnusable, TimesDiffer, Unkillable};
    matches!(
        r,
        NoArbiter
            | Frozen
            | CheckFailed { .. }
            | DataUnusable { .. }
            | RecordUnusable { .. }
            | NoWitness
            | TimesDiffer { .. }
            | Unkillable { .. }
    )
}

/// Who may have stopped a module, besides people.
fn stops() -> Vec<Reason> {
    ["checker: tcp.web", "agent", "shutdown"].map(|by| Reason::StoppedBy { by: by.to_owned() }).into()
}

/// Red states: what follows, what to do, and the command in full, unless none helps.
#[test]
fn a_blocked_state_says_what_follows_what_to_do_and_the_exact_command() {
    for r in reasons().into_iter().chain(stops()) {
        let said = say::reason(Lang::En, &r, &module(), &n1());
        if let Some(command) = &said.command {
            assert!(command.starts_with("tsugi ") && command.contains("ledger"), "{r:?}: {command}");
            assert!(!command.contains(['<', '…', '?']), "{r:?}: {command} cannot be typed as it is");
        }
        if ends_by_itself(&r) {
            continue;
        }
        assert!(said.next.is_some(), "{r:?}: and then");
        assert!(said.remedy.is_some(), "{r:?} leaves the reader alone");
        assert_eq!(said.command.is_none(), helps_no_command(&r), "{r:?}: {:?}", said.command);
    }
}

#[test]
fn what_the_agent_or_a_checker_stopped_is_not_said_to_be_a_persons_doing() {
    for r in stops() {
        check_said(&format!("{r:?}"), |lang| say::reason(lang, &r, &module(), &n1()), true);
        for lang in [Lang::En, Lang::Ja] {
            let said = say::reason(lang, &r, &module(), &n1());
            let short = say::reason_short(lang, &r).unwrap();
            for text in [&said.text, &short] {
                assert!(!text.contains("checker: ") && !text.contains("agent stopped") && !text.contains("shutdown"), "{text}");
            }
        }
    }
    let entered = |by: &str| {
        let reason = Some(Reason::StoppedBy { by: by.to_owned() });
        Event::Entered { from: State::Prim, to: State::Stop, readiness: Readiness::NotReady, reason }
    };
    assert_eq!((entered("checker: tcp.web").level(), entered("sato").level()), (Level::Critical, Level::Notice));
    assert_eq!(say::event_mark(&entered("checker: tcp.web")), say::Mark::NotReady);
}

#[test]
fn every_step_of_a_dry_run_is_worded() {
    let steps = [
        Rehearsed::Script { script: ScriptName::StopPrim, forced: true },
        Rehearsed::Script { script: ScriptName::StartPrim, forced: false },
        Rehearsed::Kill,
        Rehearsed::RaiseVips,
        Rehearsed::DropVips,
        Rehearsed::Serve,
        Rehearsed::Release,
        Rehearsed::Abandon,
        Rehearsed::CloseSession,
        Rehearsed::Follow,
        Rehearsed::Claim,
        Rehearsed::Force,
        Rehearsed::Enter { state: State::Alone, readiness: Readiness::Ready, reason: None },
    ];
    for step in steps {
        check(&format!("{step:?}"), &say::rehearsed(Lang::En, &step), &say::rehearsed(Lang::Ja, &step), false);
    }
}

#[test]
fn commands_name_the_module_and_the_node_to_run_them_on() {
    let said = say::reason(Lang::Ja, &Reason::DataOlder { newer: Some(n2()), since_unix_ms: None }, &module(), &n1());
    assert_eq!(said.command.as_deref(), Some("tsugi prim ledger --accept-loss"));
    assert_eq!(said.on.as_deref(), Some("n1"));
    assert!(said.is_last_resort());
    let said = say::reason(Lang::En, &Reason::PeerFirst { peer: n2() }, &module(), &n1());
    assert_eq!((said.command.as_deref(), said.on.as_deref()), (Some("tsugi start ledger"), Some("n2")));
    let said = say::reason(Lang::En, &Reason::SplitBrain { peer: n2() }, &module(), &n1());
    assert_eq!((said.command.as_deref(), said.on.as_deref()), (Some("tsugi resolve ledger --keep n1"), None));
    assert!(said.is_last_resort());
    assert_eq!(say::command_line(&Verb::PrimForce, &module()), "tsugi primforce ledger");
}

#[test]
fn refusals_are_worded() {
    for r in refusals() {
        check_said(&format!("{r:?}"), |lang| say::refusal(lang, &r, &module(), &n1()), true);
    }
    check_said("no contact", |lang| say::no_contact(lang, &n1()), true);
}

#[test]
fn events_are_worded() {
    for e in events() {
        check_said(&format!("{e:?}"), |lang| say::event(lang, &e, &module(), &n1()), true);
        let said = say::event(Lang::En, &e, &module(), &n1());
        let concerns_both = matches!(e, Event::Grown { .. });
        assert!(concerns_both || said.text.contains("n1") || said.text.contains("n2"), "{}: which node", said.text);
    }
}

#[test]
fn small_words_are_worded() {
    let pair = |what: &str, f: &dyn Fn(Lang) -> String| check(what, &f(Lang::En), &f(Lang::Ja), false);
    for state in [State::Stop, State::Wait, State::Prim, State::Second, State::Alone, State::Up] {
        for readiness in [Readiness::Ready, Readiness::Transient, Readiness::NotReady] {
            for why in [None, Some(Reason::Stopping), Some(Reason::HandOver { to: n2() })] {
                pair("gloss", &|lang| say::gloss(lang, state, readiness, why.as_ref()).to_owned());
            }
            pair("readiness", &|lang| say::readiness(lang, readiness).to_owned());
        }
    }
    for flag in [Flag::Unknown, Flag::Inconsistent, Flag::Stale, Flag::Volatile, Flag::UpToDate] {
        pair("flag", &|lang| say::flag(lang, flag).to_owned());
    }
    for r in [Replication::None, Replication::Off, Replication::Resync, Replication::Synchronous, Replication::Stalled] {
        pair("replication", &|lang| say::replication(lang, r).to_owned());
    }
    for a in [ArbiterView::Unknown, ArbiterView::Reachable, ArbiterView::Unreachable] {
        pair("arbiter", &|lang| say::arbiter(lang, &a).unwrap().to_owned());
    }
    assert_eq!(say::arbiter(Lang::En, &ArbiterView::NotNeeded), None);
    assert_eq!(say::arbiter(Lang::En, &ArbiterView::Unreachable), Some("no arbiter reachable: automatic failover is off"));
    for h in [Health::Init, Health::Up, Health::Down, Health::Off] {
        pair("health", &|lang| say::resource_health(lang, h).1.to_owned());
    }
    for a in [Action::NoAction, Action::Wait, Action::Restart, Action::StopStart, Action::Stop] {
        pair("action", &|lang| say::action(lang, a).to_owned());
    }
    for m in [Mode::Mirror, Mode::Farm, Mode::Light] {
        pair("mode", &|lang| say::mode(lang, m).to_owned());
    }
    for l in [Level::Info, Level::Notice, Level::Warning, Level::Critical] {
        pair("level", &|lang| say::level(lang, l).to_owned());
    }
    for h in HealthView::ALL {
        pair("health", &|lang| say::health_name(lang, h).to_owned());
        pair("health", &|lang| say::health_hint(lang, h).to_owned());
    }
    let verbs = Verb::each().into_iter().chain([Verb::Prim { accept_loss: true }, Verb::Second { full_sync: true }]);
    let verbs = verbs.chain([Verb::Resolve { keep: n2() }, Verb::Maintenance { minutes: 30 }, Verb::Maintenance { minutes: 0 }]);
    for verb in verbs {
        pair("verb", &|lang| say::verb_name(lang, &verb).to_owned());
    }
}

#[test]
fn how_fast_replication_goes_is_said_in_both_languages() {
    let said = |lang, bytes_per_s, confirm_us, waiting_s| {
        say::traffic(lang, &Traffic { bytes_per_s, confirm_us, waiting_s, compressed_percent: None })
    };
    assert_eq!(said(Lang::En, 0, None, 0), "nothing to send");
    assert_eq!(said(Lang::En, 12_000_000, Some(430), 0), "12.0 MB/s, confirmed after 0.4 ms");
    assert_eq!(said(Lang::En, 0, None, 7), "0 B/s, a write has been waiting for 7 s");
    assert_eq!(said(Lang::Ja, 0, None, 0), "送るデータなし");
    assert_eq!(said(Lang::Ja, 12_000_000, Some(43_000), 7), "12.0 MB/s、確認まで 43 ミリ秒、7 秒間、確認を待っている書き込みあり");
    let compressed = Traffic { bytes_per_s: 12_000_000, confirm_us: Some(430), waiting_s: 0, compressed_percent: Some(32) };
    assert_eq!(say::traffic(Lang::En, &compressed), "12.0 MB/s, compressed to 32 %, confirmed after 0.4 ms");
    assert_eq!(say::traffic(Lang::Ja, &compressed), "12.0 MB/s、32 % に圧縮、確認まで 0.4 ミリ秒");
}
