//! `tsugi` as a user meets it: the program itself against an agent that answers what the test says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Output;
use tokio::process::Command as Process;
use tokio::sync::mpsc;
use tsugi_agent::local::{LocalServer, Responder};
use tsugi_core::command::{LoopChange, Refusal, Verb};
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::ids::{Epoch, Gen, ModuleName, NodeName, Session};
use tsugi_core::module::ScriptName;
use tsugi_core::rehearsal::{Rehearsal, Rehearsed};
use tsugi_core::state::{Allowed, ArbiterView, Flag, Health, PeerView, Readiness, Reason, Replication, Resync, Snapshot, State};
use tsugi_core::wire::local::{Reply, Request, RuleView, WatchedView};
use tsugi_web::say;
use tsugi_web::text::Lang;

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}
fn module() -> ModuleName {
    ModuleName::new("ledger").expect("a name")
}

fn snapshot(state: State, readiness: Readiness, reason: Option<Reason>, since: u64) -> Snapshot {
    Snapshot {
        module: module(),
        node: node("n1"),
        config_generation: 3,
        state,
        readiness,
        reason,
        since_unix_ms: since,
        maintenance_until_unix_ms: None,
        traffic: None,
        verification: Default::default(),
        flag: Flag::UpToDate,
        is_up_to_date: true,
        epoch: Epoch(4),
        gen_id: Gen(7),
        session: Session(2),
        in_sync: BTreeSet::from([node("n1"), node("n2")]),
        vips_held: vec!["10.0.0.50".parse().expect("an address")],
        replication: Replication::Synchronous,
        resync: None,
        peer: PeerView { node: Some(node("n2")), in_contact: true, state: Some(State::Second), networks: vec![] },
        arbiter: ArbiterView::Unreachable,
        authority: Default::default(),
        resources: vec![],
        allowed: vec![Allowed { verb: Verb::Stop, refusal: None }, Allowed { verb: Verb::Start, refusal: Some(Refusal::AlreadyStarted) }],
    }
}
fn prim(since: u64) -> Snapshot {
    snapshot(State::Prim, Readiness::Ready, None, since)
}

/// An agent of which `answer` decides everything, and where its socket is.
struct World {
    dir: tempfile::TempDir,
    _server: LocalServer,
}

impl World {
    fn new(answer: impl Fn(Request) -> Vec<Reply> + Send + 'static) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let (tx, mut rx) = mpsc::channel::<(Request, Responder)>(8);
        let server = LocalServer::start(&dir.path().join("agent.sock"), tx).expect("a socket");
        tokio::spawn(async move {
            while let Some((request, responder)) = rx.recv().await {
                let is_watch = matches!(request, Request::Watch { .. });
                let replies = answer(request);
                tokio::spawn(async move {
                    for reply in replies {
                        responder.send(reply).await;
                    }
                    if is_watch {
                        responder.closed().await;
                    }
                });
            }
        });
        World { dir, _server: server }
    }
    async fn tsugi(&self, args: &[&str]) -> (i32, String, String) {
        tsugi(self.dir.path().to_owned(), args).await
    }
}

async fn tsugi(run: PathBuf, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Process::new(env!("CARGO_BIN_EXE_tsugi"))
        .arg("--run")
        .arg(run)
        .args(args)
        .env_remove("LC_ALL")
        .env("LANG", "C")
        .output()
        .await
        .expect("tsugi runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// Answers `State` with `before`, accepts orders, and shows `after` to a watcher.
fn obeying(before: Snapshot, after: Vec<Snapshot>) -> World {
    World::new(move |request| match request {
        Request::State { .. } => vec![Reply::State { snapshots: vec![before.clone()] }],
        Request::Command { .. } => vec![Reply::Command { refusal: None }],
        Request::Watch { .. } => after.iter().map(|s| Reply::State { snapshots: vec![s.clone()] }).collect(),
        _ => vec![],
    })
}

#[tokio::test]
async fn state_says_everything_that_matters() {
    let world = obeying(prim(1), vec![]);
    let (code, out, _) = world.tsugi(&["state"]).await;
    assert_eq!(code, 0);
    for wanted in ["ledger", "PRIM (Ready)", "up to date", "n2: SECOND, in contact", "10.0.0.50", "automatic failover is off"] {
        assert!(out.contains(wanted), "{wanted} is missing in:\n{out}");
    }
    let (_, out, _) = world.tsugi(&["state", "-v", "ledger"]).await;
    assert!(out.contains("epoch 4, in sync {n1 n2}") && out.contains("stop"), "{out}");
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as u64 + 20 * 60_000;
    let kept = Snapshot { maintenance_until_unix_ms: Some(until), ..prim(1) };
    let (_, out, _) = obeying(kept, vec![]).tsugi(&["state"]).await;
    assert!(out.contains("maintenance to") && out.contains("about 20 min left"), "{out}");
    let (_, out, _) = world.tsugi(&["--lang", "ja", "state"]).await;
    assert!(out.contains("最新") && out.contains("PRIM"), "{out}");
}

#[tokio::test]
async fn a_red_module_comes_with_its_remedy() {
    let mut red = snapshot(State::Wait, Readiness::NotReady, Some(Reason::FirstStart), 1);
    red.resync = Some(Resync { bytes_done: 62, bytes_total: 100, ..Resync::default() });
    let (_, out, _) = obeying(red, vec![]).tsugi(&["state"]).await;
    assert!(out.contains("tsugi prim ledger") && out.contains("62 %"), "{out}");
}

/// The exit codes that scripts of the field count on: STOP 0, WAIT 1, ALONE and UP 2, PRIM 3, SECOND 4, in every readiness;
/// by our own words, by the field's, and by the command that scripts find.
#[tokio::test]
async fn quiet_state_is_an_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    tsugi_agent::commands::offer(dir.path(), env!("CARGO_BIN_EXE_tsugi-agent").as_ref()).expect("commands");
    let safekit = tsugi_agent::commands::dir(dir.path()).join("safekit");
    for (state, wanted) in [(State::Stop, 0), (State::Wait, 1), (State::Alone, 2), (State::Up, 2), (State::Prim, 3), (State::Second, 4)] {
        for readiness in [Readiness::Ready, Readiness::Transient, Readiness::NotReady] {
            let world = obeying(snapshot(state, readiness, None, 1), vec![]);
            for args in [&["state", "-q", "ledger"][..], &["state", "-lq", "-m", "ledger"], &["state", "-m", "ledger", "-lq"]] {
                let (code, out, err) = world.tsugi(args).await;
                assert_eq!((code, out.as_str(), err.as_str()), (wanted, "", ""), "{state:?} {args:?}");
            }
            let mut process = Process::new(&safekit);
            process.args(["state", "-m", "ledger", "-lq"]).env("TSUGI_RUN", world.dir.path());
            process.env("PATH", tsugi_agent::commands::path(dir.path()));
            let output = process.output().await.expect("safekit runs");
            assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(wanted), &b""[..]), "{state:?} by safekit");
        }
    }
    // What is not known is none of these, and says nothing either.
    let without_agent = tsugi("/nonexistent".into(), &["state", "-q", "ledger"]).await;
    let not_here = World::new(|_| vec![Reply::State { snapshots: vec![] }]).tsugi(&["state", "-q", "ledger"]).await;
    for (code, out, err) in [without_agent, not_here] {
        assert_eq!((code, out.as_str(), err.as_str()), (100, "", ""));
    }
}

/// The exit codes of everything else, each by what leads to it.
#[tokio::test]
async fn exit_codes_are_those_of_the_manual() {
    let red = snapshot(State::Prim, Readiness::Transient, Some(Reason::Stopping), 2);
    let refusing = || {
        World::new(|request| match request {
            Request::State { .. } => vec![Reply::State { snapshots: vec![prim(1)] }],
            Request::Rehearse { .. } => vec![Reply::Rehearsal { rehearsal: Rehearsal { refusal: Some(Refusal::Busy), steps: vec![] } }],
            _ => vec![Reply::Command { refusal: Some(Refusal::Busy) }],
        })
    };
    let obeys = || obeying(prim(1), vec![prim(1), prim(5)]);
    let stays = || obeying(prim(1), vec![prim(1), red.clone()]);
    let gone = || {
        let mut world = World::new(|_| vec![]);
        world.dir = tempfile::tempdir().expect("a directory");
        world
    };
    let table: Vec<(i32, World, &[&str])> = vec![
        (0, obeys(), &["state"]),
        (0, obeys(), &["restart", "ledger"]),
        (0, obeys(), &["stop", "ledger", "--no-wait"]),
        (0, obeys(), &["maintenance", "ledger", "on", "--minutes", "5"]),
        (0, obeys(), &["maintenance", "ledger", "off"]),
        (1, refusing(), &["swap", "ledger"]),
        (1, refusing(), &["swap", "ledger", "--dry-run"]),
        (1, refusing(), &["resolve", "ledger", "--keep", "n1"]),
        (1, refusing(), &["maintenance", "ledger", "on"]),
        (2, obeys(), &["state", "-q"]),
        (2, obeys(), &["start"]),
        (2, obeys(), &["resolve", "ledger"]),
        (2, obeys(), &["maintenance", "ledger", "on", "--minutes", "1441"]),
        (2, obeys(), &["maintenance", "ledger", "on", "--minutes", "0"]),
        (2, obeys(), &["fly", "ledger"]),
        (3, stays(), &["restart", "ledger", "--wait=1"]),
        (4, gone(), &["state"]),
        (4, gone(), &["start", "ledger"]),
        (4, gone(), &["swap", "ledger", "--dry-run"]),
    ];
    for (wanted, world, args) in table {
        let (code, out, err) = world.tsugi(args).await;
        assert_eq!(code, wanted, "{args:?}: {out}{err}");
        assert!(code == 0 || !err.is_empty(), "{args:?} ends with {code} and says nothing");
    }
}

/// A dry run is a numbered list in either language, and orders nothing.
#[tokio::test]
async fn a_dry_run_is_a_numbered_list() {
    let steps = vec![
        Rehearsed::Script { script: ScriptName::StopPrim, forced: true },
        Rehearsed::Release,
        Rehearsed::Enter { state: State::Second, readiness: Readiness::Transient, reason: None },
    ];
    let said = steps.clone();
    let world = World::new(move |request| match request {
        Request::State { .. } => vec![Reply::State { snapshots: vec![prim(1)] }],
        Request::Rehearse { .. } => vec![Reply::Rehearsal { rehearsal: Rehearsal { refusal: None, steps: said.clone() } }],
        other => panic!("a dry run asks for {other:?}"),
    });
    for (code, lang) in [("en", Lang::En), ("ja", Lang::Ja)] {
        let (exit, out, err) = world.tsugi(&["--lang", code, "swap", "ledger", "--dry-run"]).await;
        let wanted: String = (1..).zip(&steps).map(|(n, step): (u32, _)| format!("{n:>3}. {}\n", say::rehearsed(lang, step))).collect();
        assert_eq!((exit, out, err), (0, wanted, String::new()));
    }
}

#[tokio::test]
async fn json_is_what_the_agent_said() {
    let (_, out, _) = obeying(prim(1), vec![]).tsugi(&["state", "--json"]).await;
    assert_eq!(serde_json::from_str::<Vec<Snapshot>>(&out).expect("JSON"), [prim(1)]);
}

#[tokio::test]
async fn without_an_agent_the_remedy_is_named() {
    for args in [&["state"][..], &["start", "ledger"], &["events"], &["about"], &["watch"]] {
        let (code, _, err) = tsugi("/nonexistent".into(), args).await;
        assert_eq!(code, 4, "{args:?}");
        assert!(err.contains("systemctl start tsugi-agent"), "{args:?}: {err}");
    }
}

#[tokio::test]
async fn wrong_usage_has_its_own_code() {
    assert_eq!(tsugi("/nonexistent".into(), &["start"]).await.0, 2);
    assert_eq!(tsugi("/nonexistent".into(), &["start", "a/b"]).await.0, 2);
    assert_eq!(tsugi("/nonexistent".into(), &["state", "-q"]).await.0, 2);
}

#[tokio::test]
async fn an_order_waits_for_its_target() {
    let stopped = snapshot(State::Stop, Readiness::NotReady, Some(Reason::NeverStarted), 1);
    let starting = snapshot(State::Wait, Readiness::Transient, Some(Reason::Starting), 2);
    let world = obeying(stopped.clone(), vec![stopped, starting, prim(3)]);
    let (code, out, err) = world.tsugi(&["start", "ledger"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("PRIM (Ready)"), "{out}");
}

#[tokio::test]
async fn a_restart_is_not_done_before_it_began() {
    let restarting = snapshot(State::Prim, Readiness::Transient, Some(Reason::Stopping), 2);
    let world = obeying(prim(1), vec![prim(1), restarting]);
    assert_eq!(world.tsugi(&["restart", "ledger", "--wait=1"]).await.0, 3);
    let world = obeying(prim(1), vec![prim(1), prim(5)]);
    assert_eq!(world.tsugi(&["restart", "ledger"]).await.0, 0);
}

#[tokio::test]
async fn an_order_that_ends_red_says_why_long_before_the_bound() {
    let red = snapshot(State::Wait, Readiness::NotReady, Some(Reason::FirstStart), 2);
    let world = obeying(snapshot(State::Stop, Readiness::NotReady, None, 1), vec![red]);
    let begin = std::time::Instant::now();
    let (code, _, err) = world.tsugi(&["start", "ledger"]).await;
    assert_eq!(code, 3);
    assert!(begin.elapsed().as_secs() < 60, "waited for the whole bound");
    assert!(err.contains("tsugi prim ledger"), "{err}");
}

#[tokio::test]
async fn without_a_wait_acceptance_is_enough() {
    let world = obeying(prim(1), vec![]);
    assert_eq!(world.tsugi(&["stop", "ledger", "--no-wait"]).await.0, 0);
}

#[tokio::test]
async fn a_refusal_is_worded_with_its_remedy() {
    let world = World::new(|request| match request {
        Request::State { .. } => vec![Reply::State { snapshots: vec![prim(1)] }],
        _ => vec![Reply::Command { refusal: Some(Refusal::NeedsAcceptLoss) }],
    });
    let (code, out, err) = world.tsugi(&["prim", "ledger"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("tsugi prim ledger --accept-loss"), "{err}");
}

#[tokio::test]
async fn a_module_that_is_not_here_is_refused() {
    let world = World::new(|_| vec![Reply::State { snapshots: vec![] }]);
    let (code, _, err) = world.tsugi(&["start", "ledger"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("not configured on this node"), "{err}");
    let (code, out, _) = world.tsugi(&["state"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("No module"), "{out}");
}

#[tokio::test]
async fn options_and_reason_reach_the_agent() {
    let (tx, mut orders) = mpsc::channel(4);
    let world = World::new(move |request| match request {
        Request::State { .. } => vec![Reply::State { snapshots: vec![prim(1)] }],
        Request::Command { command, .. } => {
            tx.try_send(command).expect("room");
            vec![Reply::Command { refusal: None }]
        }
        _ => vec![],
    });
    for (args, verb) in [
        (&["prim", "--accept-loss", "ledger"][..], Verb::Prim { accept_loss: true }),
        (&["second", "ledger", "--full-sync"], Verb::Second { full_sync: true }),
        (&["primforce", "ledger"], Verb::PrimForce),
        (&["stopstart", "ledger"], Verb::StopStart),
    ] {
        let (code, _, err) = world.tsugi(&[args, &["--no-wait", "--reason", "drill 保守"]].concat()).await;
        assert_eq!(code, 0, "{err}");
        let command = orders.recv().await.expect("an order");
        assert_eq!((command.verb, command.reason.as_deref()), (verb, Some("drill 保守")));
        assert!(!command.by.is_empty());
    }
}

#[tokio::test]
async fn a_checker_or_script_says_that_it_is_one_and_counts() {
    let (tx, mut orders) = mpsc::channel(4);
    let world = World::new(move |request| match request {
        Request::State { .. } => vec![Reply::State { snapshots: vec![prim(1)] }],
        Request::Command { command, .. } => {
            tx.try_send(command).expect("room");
            vec![Reply::Command { refusal: None }]
        }
        Request::Loops { change, .. } => vec![Reply::Loops { count: if change == Some(LoopChange::Add) { 4 } else { 3 }, max: 3 }],
        _ => vec![],
    });
    for (args, is_automatic) in [(&["restart", "ledger", "--no-wait"][..], false), (&["restart", "ledger", "--no-wait", "-i", "chk"], true)]
    {
        let (code, _, err) = world.tsugi(args).await;
        assert_eq!(code, 0, "{err}");
        let command = orders.recv().await.expect("an order");
        assert_eq!((command.is_automatic, command.by.starts_with("chk (")), (is_automatic, is_automatic));
    }
    assert_eq!(world.tsugi(&["loop", "check", "-m", "ledger"]).await, (0, "3/3\n".into(), String::new()));
    assert_eq!(world.tsugi(&["loop", "inc", "-m", "ledger", "-i", "chk"]).await, (1, "4/3\n".into(), String::new()));
    assert_eq!(world.tsugi(&["loop", "reset", "-m", "ledger"]).await.0, 0);
}

#[tokio::test]
async fn a_state_is_waited_for_and_the_wait_is_bounded() {
    let moving = Snapshot { readiness: Readiness::Transient, ..prim(1) };
    let world = obeying(prim(1), vec![moving.clone(), prim(2)]);
    let (code, out, _) = world.tsugi(&["wait-state", "ledger", "ALONE", "prim"]).await;
    assert!(code == 0 && out.contains("PRIM"), "{out}");
    let (code, _, err) = obeying(prim(1), vec![moving]).tsugi(&["wait-state", "ledger", "PRIM", "--seconds", "1"]).await;
    assert!(code == 3 && err.contains("Not reached after 1 s"), "{err}");
    assert_eq!(world.tsugi(&["wait-state", "ledger", "GREEN"]).await.0, 2);
}

#[tokio::test]
async fn a_configuration_is_checked_without_an_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("userconfig.xml");
    let path = file.to_str().expect("UTF-8");
    std::fs::write(&file, "<safe>\n <service mode=\"light\" maxloop=\"many\"/>\n</safe>").expect("a file");
    let (code, out, _) = tsugi("/nowhere".into(), &["confcheck", path]).await;
    assert_eq!((code, out.starts_with(&format!("{path}:2:")), out.contains("service maxloop")), (1, true, true), "{out}");
    let (_, ja, _) = tsugi("/nowhere".into(), &["--lang", "ja", "confcheck", path]).await;
    assert!(ja.contains("maxloop") && !ja.is_ascii(), "{ja}");
    std::fs::write(&file, "<safe><service mode=\"light\"><user/></service></safe>").expect("a file");
    assert_eq!(tsugi("/nowhere".into(), &["confcheck", path]).await, (0, String::new(), String::new()));
    assert_eq!(tsugi("/nowhere".into(), &["confcheck", "/nowhere/userconfig.xml"]).await.0, 2);
}

#[tokio::test]
async fn a_regular_expression_that_cannot_be_used_is_refused_with_place_reason_and_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("userconfig.xml");
    let path = file.to_str().expect("UTF-8");
    let with = |expression: &str| {
        let tree = format!("<replicated dir=\"/srv/a\">\n  <notreplicated regexpath=\"{expression}\"/></replicated>");
        format!("<safe><service mode=\"mirror\"><user/>\n <rfs>{tree}</rfs></service></safe>")
    };
    std::fs::write(&file, with("*.tmp")).expect("a file");
    let (code, out, _) = tsugi("/nowhere".into(), &["confcheck", path]).await;
    let wanted = format!(
        "{path}:3:29 safe/service/rfs/replicated/notreplicated regexpath: The regular expression `*.tmp` cannot be used: \
         repetition operator missing expression. Correct the expression; a character that stands for itself gets a `\\` before it: \
         `\\.`, `\\*`, `\\{{`.\n"
    );
    assert_eq!((code, out), (1, wanted));
    let (code, ja, _) = tsugi("/nowhere".into(), &["--lang", "ja", "confcheck", path]).await;
    assert!(code == 1 && ja.contains("正規表現 `*.tmp` は使えません") && ja.contains("正規表現を直してください"), "{ja}");
    std::fs::write(&file, with(r"\.tmp$")).expect("a file");
    assert_eq!(tsugi("/nowhere".into(), &["confcheck", path]).await, (0, String::new(), String::new()));
}

#[tokio::test]
async fn what_a_script_printed_is_shown() {
    let world = World::new(|request| match request {
        Request::ScriptLog { script, .. } => {
            vec![Reply::ScriptLog { files: vec!["t_prestart.ulog".into()], text: script.map(|s| s + "\n") }]
        }
        _ => vec![],
    });
    assert_eq!(world.tsugi(&["log", "ledger"]).await, (0, "t_prestart.ulog\n".into(), String::new()));
    assert_eq!(world.tsugi(&["log", "ledger", "prestart"]).await, (0, "prestart\n".into(), String::new()));
}

#[tokio::test]
async fn events_are_sentences_or_json_lines() {
    let record = EventRecord {
        seq: 1,
        at_unix_ms: 1_700_000_000_000,
        node: node("n1"),
        module: module(),
        event: Event::PeerLost { peer: node("n2") },
    };
    let answer = record.clone();
    let world = World::new(move |_| vec![Reply::Events { events: vec![answer.clone()] }]);
    let (_, out, _) = world.tsugi(&["events", "-n", "5"]).await;
    assert!(out.contains("ledger") && out.contains("n2"), "{out}");
    let (_, out, _) = world.tsugi(&["events", "--json"]).await;
    assert_eq!(serde_json::from_str::<EventRecord>(out.trim()).expect("JSON"), record);
}

#[tokio::test]
async fn about_says_who_this_is() {
    let world = World::new(|_| {
        let (version, console) = ("9.9".to_owned(), Some("https://console:9454".to_owned()));
        vec![Reply::About { node: node("n1"), version, console, is_console_connected: false, cluster: Some("tokyo".to_owned()) }]
    });
    let (_, out, _) = world.tsugi(&["about"]).await;
    assert!(["n1", "tokyo", "9.9", "https://console:9454, not connected"].iter().all(|w| out.contains(w)), "{out}");
}

#[tokio::test]
async fn a_custom_checker_sets_its_resource_as_it_is_used_to() {
    let (tx, mut asked) = mpsc::channel(4);
    let world = World::new(move |request| {
        tx.try_send(request).expect("room");
        vec![Reply::Done]
    });
    let (code, out, err) = world.tsugi(&["set", "-r", "custom.db", "-v", "down", "-n", "-l", "-i", "dbcheck", "-m", "ledger"]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let Some(Request::Set { module: m, resource, value, by }) = asked.recv().await else { panic!("no value") };
    assert_eq!((m, resource.as_str(), value, by.as_deref()), (module(), "custom.db", Health::Down, Some("dbcheck")));
    assert_eq!(world.tsugi(&["errd", "disable", "nightly", "-m", "ledger"]).await.0, 0);
    let Some(Request::Errd { class, is_on, .. }) = asked.recv().await else { panic!("no switch") };
    assert_eq!((class.as_deref(), is_on), (Some("nightly"), false));
    assert_eq!(world.tsugi(&["checker", "off", "-m", "ledger"]).await.0, 0);
    assert!(matches!(asked.recv().await, Some(Request::Checkers { is_on: false, .. })));
    // Of which module, must be said where no script says it.
    assert_eq!(world.tsugi(&["set", "-r", "custom.db", "-v", "up"]).await.0, 2);
}

#[tokio::test]
async fn what_is_watched_and_what_fires_is_listed() {
    let world = World::new(|request| match request {
        Request::Watched { .. } => vec![Reply::Watched {
            is_errd_on: true,
            is_checker_on: false,
            classes: [("nightly".to_owned(), true)].into(),
            checks: vec![
                WatchedView {
                    name: "proc.batch".into(),
                    class: Some("nightly".into()),
                    when: tsugi_core::module::When::Switched,
                    is_running: true,
                    health: Health::Down,
                    detail: "0 running: batch".into(),
                },
                WatchedView {
                    name: "tcp.web".into(),
                    class: None,
                    when: tsugi_core::module::When::Prim,
                    is_running: false,
                    health: Health::Off,
                    detail: String::new(),
                },
            ],
        }],
        Request::Rules { .. } => {
            let rule = tsugi_core::rules::parse("t_web: if (tcp.web == down) then restart();").0.remove(0);
            let text = rule.to_string();
            let resources = vec![("tcp.web".to_owned(), tsugi_core::rules::Value::Down)];
            vec![Reply::Rules { handle_time_ms: 15_000, rules: vec![RuleView { rule, text, is_firing: true, resources }] }]
        }
        _ => vec![],
    });
    let (code, out, _) = world.tsugi(&["errd", "list", "-m", "ledger"]).await;
    assert!(code == 0 && out.contains("proc.batch") && out.contains("[nightly enabled]") && !out.contains("tcp.web"), "{out}");
    let (_, out, _) = world.tsugi(&["checker", "list", "-m", "ledger"]).await;
    assert!(out.contains("nothing of this is watched") && out.contains("tcp.web"), "{out}");
    let (_, out, _) = world.tsugi(&["get", "-r", "proc.batch", "-m", "ledger"]).await;
    assert_eq!(out, "down\n");
    let (code, _, err) = world.tsugi(&["get", "-r", "proc.x", "-m", "ledger"]).await;
    assert!(code == 1 && err.contains("proc.batch tcp.web"), "{err}");
    let (_, out, _) = world.tsugi(&["rules", "-m", "ledger"]).await;
    assert!(out.contains("▲ t_web: if (tcp.web == down) then restart();") && out.contains("tcp.web down; done after 15.000 s"), "{out}");
    let (_, out, _) = world.tsugi(&["rules", "-m", "ledger", "--json"]).await;
    assert_eq!(serde_json::from_str::<Vec<RuleView>>(&out).expect("JSON").len(), 1);
}

/// What the three surfaces show is what `tsugi_web::say` says: `server/tests/reasons.rs` holds API and page to it, this the
/// command line.
#[tokio::test]
async fn every_reason_and_its_remedy_is_shown_in_both_languages() {
    for reason in Reason::each(&node("n2")) {
        let shown = snapshot(State::Wait, Readiness::NotReady, Some(reason.clone()), 1);
        let world = obeying(shown.clone(), vec![]);
        for (code, lang) in [("en", Lang::En), ("ja", Lang::Ja)] {
            let (exit, out, err) = world.tsugi(&["--lang", code, "state", "ledger"]).await;
            assert_eq!(exit, 0, "{reason:?}: {err}");
            let said = say::reason_of(lang, &shown).expect("a reason");
            let lines: Vec<&str> = out.lines().map(str::trim).collect();
            assert_eq!(lines[1], said.text, "{reason:?}");
            let rest = said.rest();
            assert!(rest.is_empty() || lines[2] == rest, "{reason:?}: {rest} is missing in:\n{out}");
            if let Some(command) = &said.command {
                let wanted = format!("{} {command}", said.command_label(lang));
                assert!(lines.iter().any(|l| l.ends_with(wanted.trim_start())), "{reason:?}: {wanted} is missing in:\n{out}");
            }
        }
    }
}
