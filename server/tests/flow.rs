//! From set-up to a finished swap, over real TLS, HTTP and WebSocket.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, BOUND, Console, USERCONFIG, agents_call, config};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::ScriptName;
use tsugi_core::rehearsal::{Rehearsal, Rehearsed};
use tsugi_core::state::{Allowed, Readiness, Reason, State};
use tsugi_core::wire::console::{AgentMsg, ConsoleMsg};
use tsugi_server::Running;

const MODULE: &str = "/api/v1/clusters/c1/modules/files";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_set_up_to_a_swap() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    assert!(n1.welcome().await && n2.welcome().await);
    let nodes = console.wait("/api/v1/clusters/c1/nodes", |n| n["nodes"].as_array().unwrap().iter().all(|n| n["connected"] == true)).await;
    assert_eq!(nodes["nodes"][0]["os"], "Test OS");

    console.module([&mut n1, &mut n2]).await;
    let module = console.wait(MODULE, |m| m["nodes"].as_array().unwrap().iter().all(|n| !n["snapshot"].is_null())).await;
    assert_eq!((&module["health"], &module["nodes"][0]["snapshot"]["state"]), (&json!("stopped"), &json!("stop")));

    // Start: both stopped nodes are ordered, and the end is what they show.
    let answer = console.must(Method::POST, &format!("{MODULE}/actions/start"), json!({"reason": "test"})).await;
    let order = n1.take_order(None).await;
    assert_eq!((order.verb, order.by.as_str(), order.reason.as_deref()), (Verb::Start, "root", Some("test")));
    n2.take_order(None).await;
    let (status, second) = console.call(Method::POST, &format!("{MODULE}/actions/stop"), json!({})).await;
    assert_eq!((status, &second["error"]), (StatusCode::CONFLICT, &json!("operation_running")), "one operation at a time: {second}");
    assert_eq!(second["operation"], answer["operation"]["id"]);
    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Transient).await;
    console.operation(&answer, "succeeded").await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["health"] == "protected").await;

    // The plan of a swap, and an order that holds only as long as the plan does.
    let plan = console.must(Method::POST, &format!("{MODULE}/actions/swap?dry_run=true"), json!({})).await;
    assert_eq!((&plan["targets"], &plan["possible"], &plan["cli"]), (&json!(["n1"]), &json!(true), &json!("tsugi swap files")));
    assert!(plan["effects"].as_array().is_some_and(|e| e.len() >= 3), "{plan}");
    n2.show(State::Second, Readiness::Transient).await;
    console.wait(MODULE, |m| m["health"] == "in_progress").await;
    let (status, stale) = console.call(Method::POST, &format!("{MODULE}/actions/swap"), json!({"plan_hash": plan["plan_hash"]})).await;
    assert_eq!((status, &stale["error"]), (StatusCode::CONFLICT, &json!("plan_stale")));
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["health"] == "protected").await;
    let answer = console.must(Method::POST, &format!("{MODULE}/actions/swap"), json!({"plan_hash": plan["plan_hash"]})).await;
    n1.take_order(None).await;
    n1.show(State::Second, Readiness::Transient).await;
    console.wait(MODULE, |m| m["nodes"][0]["snapshot"]["state"] == "second").await;
    n2.show(State::Prim, Readiness::Ready).await;
    let swap = console.operation(&answer, "succeeded").await;
    assert!(swap["interrupted_ms"].is_u64(), "the time without service is measured: {swap}");
    let plan = console.must(Method::POST, &format!("{MODULE}/actions/swap?dry_run=true"), json!({})).await;
    assert!(plan["interruption"]["detail"].as_str().unwrap().contains("Last time (swap)"), "… and foretells the next one: {plan}");

    let audit = console.get("/api/v1/audit").await;
    let swap = audit["entries"].as_array().unwrap().iter().find(|e| e["action"] == "swap").unwrap();
    assert_eq!(
        (&swap["who"], &swap["object"], &swap["result"], &swap["via"]),
        (&json!("root"), &json!("c1/files"), &json!("ordered"), &json!("api"))
    );
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_said_before_and_after_the_order() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    // The node's own table says no: nothing is sent.
    let no = vec![Allowed { verb: Verb::Prim { accept_loss: false }, refusal: Some(Refusal::NeedsAcceptLoss) }];
    n1.show_with(State::Stop, Readiness::NotReady, no).await;
    console.wait(MODULE, |m| m["nodes"][0]["snapshot"]["allowed"].as_array().is_some_and(|a| a.len() == 1)).await;
    let (status, answer) = console.call(Method::POST, &format!("{MODULE}/actions/prim"), json!({"node": "n1"})).await;
    assert_eq!((status, &answer["error"], &answer["refusal"]), (StatusCode::CONFLICT, &json!("refused"), &json!("needs_accept_loss")));
    assert!(answer["message"].as_str().unwrap().contains("n1"), "{answer}");
    // … and the consent lets it through; the node may still refuse.
    let answer = console.must(Method::POST, &format!("{MODULE}/actions/prim"), json!({"node": "n1", "accept_loss": true})).await;
    assert_eq!(n1.take_order(Some(Refusal::Busy)).await.verb, Verb::Prim { accept_loss: true });
    let ended = console.operation(&answer, "failed").await;
    assert_eq!(ended["nodes"][0]["why"]["refusal"]["refusal"], "busy", "{ended}");
    // A node must be named where guessing would decide which data counts.
    let (status, _) = console.call(Method::POST, &format!("{MODULE}/actions/prim"), json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_request_makes_one_operation() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let send = |node: &'static str| {
        let request = console.client.post(console.url(&format!("{MODULE}/actions/start"))).bearer_auth(&console.token);
        async move { request.header("idempotency-key", "k1").json(&json!({"node": node})).send().await.unwrap() }
    };
    console.wait(MODULE, |m| !m["nodes"][0]["snapshot"].is_null()).await;
    let first: Value = send("n1").await.json().await.unwrap();
    let again: Value = send("n1").await.json().await.unwrap();
    assert_eq!(first["operation"]["id"], again["operation"]["id"]);
    assert_eq!(send("n2").await.status(), StatusCode::UNPROCESSABLE_ENTITY, "another request under the same key");
    n1.take_order(None).await;
    n1.show(State::Alone, Readiness::Ready).await;
    console.operation(&first, "succeeded").await;
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_worth_nothing_until_approved_and_after_removal() {
    let console = Console::start().await;
    console.must(Method::POST, "/api/v1/clusters", json!({"name": "c1", "xml": common::CLUSTER_XML})).await;
    let token = console.must(Method::POST, "/api/v1/clusters/c1/join-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let certificate = console.enroll_with("n1", &token).await.unwrap();
    let Err((status, _)) = console.enroll_with("n2", &token).await else { panic!("a token is for one node") };
    assert_eq!(status, StatusCode::FORBIDDEN);

    let mut agent = Agent::connect(&console, "n1", certificate.clone()).await;
    assert!(!agent.welcome().await);
    let nodes = console.get("/api/v1/clusters/c1/nodes").await;
    assert_eq!((&nodes["nodes"][0]["status"], &nodes["nodes"][0]["connected"]), (&json!("pending"), &json!(false)));
    let read = json!({"op": "read"});
    let (status, _) = agents_call(console.running.agents, console.dir.path(), Some(&certificate), "/arbiter/v1/files", read.clone()).await;
    assert_eq!(status, 403, "the arbiter does not speak with a pending node");

    // Approval reaches the open connection.
    console.must(Method::POST, "/api/v1/clusters/c1/nodes/n1/approve", json!({})).await;
    assert!(agent.welcome().await);
    agent.hear("the cluster", |m| if let ConsoleMsg::Cluster { cluster, .. } = m { Some(cluster) } else { None }).await;

    // A second enrolment under an approved name is refused; after removal the certificate is worth nothing.
    let token = console.must(Method::POST, "/api/v1/clusters/c1/join-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let Err((status, _)) = console.enroll_with("n1", &token).await else { panic!("the name is taken") };
    assert_eq!(status, StatusCode::CONFLICT);
    console.must(Method::DELETE, "/api/v1/clusters/c1/nodes/n1", Value::Null).await;
    let refused = Agent::connect_with(&console, "n1", certificate, BTreeMap::new()).await;
    assert_eq!(refused.err(), Some(403));
    let (status, _) = agents_call(console.running.agents, console.dir.path(), None, "/arbiter/v1/files", read).await;
    assert_eq!(status, 403, "no certificate, no arbiter");
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_or_a_removal_while_the_node_connects_is_not_missed() {
    let console = Console::start().await;
    console.must(Method::POST, "/api/v1/clusters", json!({"name": "c1", "xml": common::CLUSTER_XML})).await;
    let token = console.must(Method::POST, "/api/v1/clusters/c1/join-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let certificate = console.enroll_with("n1", &token).await.unwrap();
    // The console has looked at its certificate; the node has not said hello.
    let mut agent = Agent::dial(&console, "n1", certificate.clone()).await.unwrap();
    console.must(Method::POST, "/api/v1/clusters/c1/nodes/n1/approve", json!({})).await;
    agent.say_hello(BTreeMap::new()).await;
    assert!(agent.welcome().await);
    assert_eq!(console.get("/api/v1/clusters/c1/nodes").await["nodes"][0]["connected"], json!(true));

    let mut late = Agent::dial(&console, "n1", certificate).await.unwrap();
    console.must(Method::DELETE, "/api/v1/clusters/c1/nodes/n1", Value::Null).await;
    late.say_hello(BTreeMap::new()).await;
    late.closed().await;
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_arbiter_answers_the_modules_own_nodes_only() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let ask = |agent: &Agent, module: &'static str, body: Value| {
        let (to, dir, certificate) = (console.running.agents, console.dir.path().to_owned(), agent.certificate.clone());
        async move { agents_call(to, &dir, Some(&certificate), &format!("/arbiter/v1/{module}"), body).await }
    };
    let (any, history) = ("00000000000000000000000000000000", "0000000000000000000000000000000a");
    let (status, answer) =
        ask(&n1, "files", json!({"op": "force", "store": any, "expected": 0, "floor": 0, "gen_id": history, "by": "root"})).await;
    assert_eq!((status, &answer["is_accepted"], &answer["record"]["owner"]), (200, &json!(true), &json!("n1")), "{answer}");
    let (_, answer) = ask(&n1, "files", json!({"op": "grow", "store": any, "expected": 1, "with": "n2"})).await;
    assert_eq!(answer["record"]["in_sync"], json!(["n1", "n2"]));
    let claim = json!({"op": "claim", "store": any, "expected": 2, "gen_id": history});
    let (a, b) = tokio::join!(ask(&n1, "files", claim.clone()), ask(&n2, "files", claim));
    let accepted = [&a, &b].iter().filter(|(_, answer)| answer["is_accepted"] == true).count();
    assert_eq!(accepted, 1, "{a:?} {b:?}");
    assert_eq!(a.1["record"], b.1["record"]);
    assert_eq!(ask(&n1, "other", json!({"op": "read"})).await.0, 403, "a module that does not live there");
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_stored_once_and_a_restarted_console_remembers() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let module = ModuleName::new("files").unwrap();
    let event = |seq: u64, agent: &Agent| AgentMsg::Event {
        record: EventRecord { seq, at_unix_ms: 1000 + seq, node: agent.node.clone(), module: module.clone(), event: Event::ArbiterSeen },
    };
    for seq in [1, 2, 3] {
        let message = event(seq, &n1);
        n1.say(&message).await;
    }
    let stored = |up_to: u64| move |m| if let ConsoleMsg::EventsStored { up_to: n } = m { (n == up_to).then_some(()) } else { None };
    n1.hear("events stored", stored(3)).await;
    // Again, as after a lost acknowledgement, with one more.
    for seq in [2, 3, 4] {
        let message = event(seq, &n1);
        n1.say(&message).await;
    }
    n1.hear("events stored", stored(4)).await;
    let events = console.get("/api/v1/events?cluster=c1&module=files").await;
    let seqs: Vec<u64> = events["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    let rest = console.get(&format!("/api/v1/events?after={}", events["events"][1]["id"])).await;
    assert_eq!(rest["events"].as_array().unwrap().len(), 2);

    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["health"] == "protected").await;

    // The console restarts on the same data.
    let Console { running, dir, token, .. } = console;
    let generation = n1.generation;
    running.stop().await;
    let running = Running::start(&config(dir.path(), "127.0.0.1:0".parse().unwrap())).await.unwrap();
    let client = common::client(dir.path(), false);
    let console = Console { running, dir, client, token };
    let seen = console.get(MODULE).await;
    assert_eq!(
        (&seen["health"], &seen["nodes"][0]["snapshot"]["state"]),
        (&json!("no_contact"), &json!("prim")),
        "last known, with its age"
    );
    // An agent that has everything is sent nothing, and its state appears again.
    let mut again =
        Agent::connect_with(&console, "n1", n1.certificate.clone(), BTreeMap::from([(module.clone(), generation)])).await.unwrap();
    again.generation = generation;
    assert!(again.welcome().await);
    again.show(State::Alone, Readiness::Ready).await;
    console.wait(MODULE, |m| m["nodes"][0]["connected"] == true && m["nodes"][0]["snapshot"]["state"] == "alone").await;
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_gets_the_version_when_it_returns() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let certificate = n2.certificate.clone();
    let generation = n2.generation;
    drop(n2);
    console.wait(MODULE, |m| m["nodes"][1]["connected"] == false).await;
    let version = json!({"userconfig": USERCONFIG, "scripts": {"start_prim": "#!/bin/sh\ntrue\n"}, "reason": "newer"});
    let added = console.must(Method::POST, &format!("{MODULE}/versions"), version).await;
    assert_eq!(added["version"], 2);
    let answer = console.must(Method::POST, &format!("{MODULE}/apply"), json!({})).await;
    n1.take_deployment().await;
    console.operation(&answer, "unknown").await;
    let modules = BTreeMap::from([(ModuleName::new("files").unwrap(), generation)]);
    let mut n2 = Agent::connect_with(&console, "n2", certificate, modules).await.unwrap();
    let deployment = n2.take_deployment().await;
    assert_eq!(deployment.scripts["start_prim"], "#!/bin/sh\ntrue\n");
    let path = format!("/api/v1/operations/{}", answer["operation"]["id"].as_str().unwrap());
    console.wait(&path, |o| o["state"] == "succeeded").await;
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_one_node_cannot_take_reaches_no_node() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let before = console.get(MODULE).await;
    let version = json!({"userconfig": USERCONFIG, "scripts": {"start_prim": "#!/bin/sh\ntrue\n"}, "reason": "newer"});
    console.must(Method::POST, &format!("{MODULE}/versions"), version).await;
    n2.objections = vec!["safe/service/rfs/replicated dir=\"/srv/files\": there is no such directory on n2".into()];
    let answer = console.must(Method::POST, &format!("{MODULE}/apply"), json!({})).await;
    let asked = |m| if let ConsoleMsg::Try { deployment, .. } = m { Some(deployment) } else { None };
    let (on_trial, _) = tokio::join!(n1.hear("a trial", asked), n2.hear("a trial", asked));
    assert_eq!(on_trial.scripts["start_prim"], "#!/bin/sh\ntrue\n");
    assert!(on_trial.generation > n1.generation, "an agent refuses what is older than what it has");
    let failed = console.operation(&answer, "failed").await;
    assert_eq!((&failed["nodes"][0]["node"], &failed["nodes"][0]["why"]["note"]), (&json!("n1"), &json!("not_everywhere")), "{failed}");
    assert_eq!((&failed["nodes"][1]["node"], &failed["nodes"][1]["problems"]), (&json!("n2"), &json!(n2.objections)), "{failed}");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("n2: safe/service/rfs/replicated dir=\"/srv/files\""), "{message}");
    let after = console.get(MODULE).await;
    assert_eq!((&after["applied_version"], &after["generation"]), (&before["applied_version"], &before["generation"]));

    // Once n2 has no objection, both get it; the first deployment since is that one, with the number n1 was not given before.
    n2.objections.clear();
    let answer = console.must(Method::POST, &format!("{MODULE}/apply"), json!({})).await;
    let mut heard = Vec::new();
    let first = async {
        n1.hear("an end of the trial", |m| match m {
            ConsoleMsg::Deploy(d) => Some(d),
            ConsoleMsg::Try { .. } => {
                heard.push("try");
                None
            }
            _ => None,
        })
        .await
    };
    let (deployment, other) = tokio::join!(first, n2.take_deployment());
    assert_eq!(deployment, other, "n2 got nothing before either");
    assert_eq!(heard, ["try"], "nothing was deployed before the second trial");
    n1.say(&AgentMsg::DeployDone { module: deployment.module.clone(), generation: deployment.generation, problems: vec![] }).await;
    let done = console.operation(&answer, "succeeded").await;
    let after = console.get(MODULE).await;
    assert_eq!((&after["applied_version"], &after["generation"]), (&json!(2), &json!(deployment.generation)), "{done}");
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_errors_is_not_stored_and_every_problem_has_its_place() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let wrong = USERCONFIG.replace("mode=\"mirror\"", "mode=\"miror\"");
    let body = json!({"name": "other", "nodes": ["n1", "n2"], "userconfig": wrong, "scripts": {}});
    let (status, answer) = console.call(Method::POST, "/api/v1/clusters/c1/modules", body).await;
    assert_eq!((status, &answer["error"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("config_problems")));
    let problem = &answer["problems"][0];
    assert_eq!((&problem["file"], &problem["line"]), (&json!("conf/userconfig.xml"), &json!(2)), "{answer}");
    // The same address and directory as module `files`, and a node that does not exist.
    let body = json!({"name": "other", "nodes": ["n1", "n9"], "userconfig": USERCONFIG, "scripts": {"../x": ""}});
    let (status, answer) = console.call(Method::POST, "/api/v1/clusters/c1/modules", body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let messages = answer["problems"].to_string();
    for expected in ["n9", "127.0.0.100 belongs to module files", "/srv/files overlaps /srv/files", "cannot be the name of a script"] {
        assert!(messages.contains(expected), "{expected} in {messages}");
    }
    assert_eq!(console.get("/api/v1/clusters/c1/modules").await["modules"].as_array().unwrap().len(), 1);
    let (status, _) = console.call(Method::GET, "/api/v1/clusters/c1/modules/other", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // A stopped module can be removed, and the nodes are told.
    let answer = console.must(Method::DELETE, MODULE, Value::Null).await;
    n1.hear("removal", |m| if let ConsoleMsg::Remove { module } = m { Some(module) } else { None }).await;
    console.operation(&answer, "succeeded").await;
    let _ = (n2, BOUND);
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_step_by_step_what_the_node_would_do_and_orders_nothing() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["health"] == "protected").await;
    let steps = vec![
        Rehearsed::Script { script: ScriptName::StopPrim, forced: false },
        Rehearsed::Release,
        Rehearsed::Enter { state: State::Second, readiness: Readiness::Transient, reason: None },
    ];
    let (path, rehearsal) = (format!("{MODULE}/actions/swap?dry_run=true"), Rehearsal { refusal: None, steps: steps.clone() });
    let (answer, asked) = tokio::join!(console.must(Method::POST, &path, json!({})), n1.rehearse(rehearsal));
    assert_eq!((asked.verb, asked.by.as_str()), (Verb::Swap, "root"));
    let said = &answer["rehearsal"][0];
    let words: Vec<&str> = said["steps"].as_array().unwrap().iter().map(|s| s["text"].as_str().unwrap()).collect();
    let wanted: Vec<String> = steps.iter().map(|s| tsugi_web::say::rehearsed(tsugi_web::text::Lang::En, s)).collect();
    assert_eq!((&said["node"], &said["steps"][1]["n"], words), (&json!("n1"), &json!(2), wanted.iter().map(String::as_str).collect()));
    // What the node would refuse, it refuses here.
    let no = Rehearsal { refusal: Some(Refusal::NotProtected), steps: vec![] };
    let (answer, _) = tokio::join!(console.must(Method::POST, &path, json!({})), n1.rehearse(no));
    assert_eq!(answer["rehearsal"][0]["refusal"]["refusal"], "not_protected", "{answer}");
    assert!(answer["rehearsal"][0]["message"].as_str().unwrap().contains("no secondary"), "{answer}");
    // A node that says nothing holds nobody up for long.
    let answer = console.must(Method::POST, &path, json!({})).await;
    assert!(answer["rehearsal"][0]["message"].as_str().unwrap().contains("did not say in time"), "{answer}");
    assert_eq!(
        console.get("/api/v1/operations?cluster=c1&module=files").await["operations"].as_array().unwrap().len(),
        1,
        "only the apply"
    );
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_goes_to_every_node_and_ends_by_zero() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["health"] == "protected").await;
    let path = format!("{MODULE}/actions/maintenance");
    for (body, minutes) in [(json!({"minutes": 45}), 45), (json!({}), 30), (json!({"minutes": 0}), 0)] {
        let answer = console.must(Method::POST, &path, body).await;
        for agent in [&mut n1, &mut n2] {
            assert_eq!(agent.take_order(None).await.verb, Verb::Maintenance { minutes });
        }
        console.operation(&answer, "succeeded").await;
    }
    let (status, answer) = console.call(Method::POST, &path, json!({"minutes": 100_000})).await;
    assert_eq!((status, &answer["refusal"]), (StatusCode::CONFLICT, &json!("bad_duration")), "{answer}");
    // Who only looks may not.
    let token = console.must(Method::POST, "/api/v1/tokens", json!({"name": "watcher", "role": "monitor"})).await;
    let (status, _) = console.call_as(token["token"].as_str().unwrap(), Method::POST, &path, json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_brain_is_resolved_by_naming_the_side_to_keep() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let path = format!("{MODULE}/actions/resolve");
    n1.show(State::Alone, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["nodes"][1]["snapshot"]["state"] == "second").await;
    let (status, answer) = console.call(Method::POST, &path, json!({"keep": "n1"})).await;
    assert_eq!((status, &answer["refusal"]), (StatusCode::CONFLICT, &json!("no_split_brain")), "{answer}");
    n2.show_but(State::Wait, Readiness::NotReady, |s| s.reason = Some(Reason::SplitBrain { peer: NodeName::new("n1").unwrap() })).await;
    console.wait(MODULE, |m| m["nodes"][1]["snapshot"]["state"] == "wait").await;
    let (status, answer) = console.call(Method::POST, &path, json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "whose data is kept must be said: {answer}");
    let (status, answer) = console.call(Method::POST, &path, json!({"keep": "n9"})).await;
    assert_eq!((status, &answer["refusal"]), (StatusCode::CONFLICT, &json!("no_such_node")), "{answer}");

    let answer = console.must(Method::POST, &path, json!({"keep": "n1", "reason": "n1 has the orders"})).await;
    for agent in [&mut n1, &mut n2] {
        let order = agent.take_order(None).await;
        assert_eq!(
            (order.verb, order.reason.as_deref()),
            (Verb::Resolve { keep: NodeName::new("n1").unwrap() }, Some("n1 has the orders"))
        );
    }
    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.operation(&answer, "succeeded").await;
    // The side that cannot be told would go on with its own copy.
    n2.show_but(State::Wait, Readiness::NotReady, |s| s.reason = Some(Reason::SplitBrain { peer: NodeName::new("n1").unwrap() })).await;
    console.wait(MODULE, |m| m["nodes"][1]["snapshot"]["state"] == "wait").await;
    drop(n1);
    console.wait(MODULE, |m| m["nodes"][0]["connected"] == false).await;
    let (status, answer) = console.call(Method::POST, &path, json!({"keep": "n1"})).await;
    assert_eq!((status, &answer["refusal"]), (StatusCode::CONFLICT, &json!("no_contact")), "{answer}");
    console.running.stop().await;
}
