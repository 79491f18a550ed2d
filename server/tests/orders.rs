//! Orders that are dropped, misspelt, repeated, or cut short by the console's end.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Console, PASSWORD, client, config};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::task::Poll;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::state::{Readiness, Reason, State};
use tsugi_server::Running;
use tsugi_server::actions::{self, ActionRequest, NotOrdered, Note, Operation, Progress, RequestKey, What};

const MODULE: &str = "/api/v1/clusters/c1/modules/files";

fn names() -> (ClusterName, ModuleName) {
    (ClusterName::new("c1").unwrap(), ModuleName::new("files").unwrap())
}

/// A console with module `files` served by n1 and followed by n2.
async fn pair() -> (Console, Agent, Agent) {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait(MODULE, |m| m["health"] == "protected").await;
    (console, n1, n2)
}

/// Begins `work` and drops it at its first wait, as a server does when its client goes away.
async fn drop_midway<T>(work: impl Future<Output = T>) {
    let mut work = Box::pin(work);
    let is_ready = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
    assert!(!is_ready, "it had to wait for something");
}

fn swap(key: Option<&str>) -> ActionRequest {
    let key = key.map(|key| RequestKey { key: key.to_owned(), hash: vec![1] });
    ActionRequest { verb: Verb::Swap, node: None, by: "root".into(), address: "::1".into(), via: "api", reason: None, key }
}

/// n1 takes the order to swap, and both do it.
async fn swapped(n1: &mut Agent, n2: &mut Agent) {
    assert_eq!(n1.take_order(None).await.verb, Verb::Swap);
    n1.show(State::Second, Readiness::Ready).await;
    n2.show(State::Prim, Readiness::Ready).await;
}

async fn operations(console: &Console) -> Vec<Value> {
    let all = console.get("/api/v1/operations?cluster=c1&module=files").await;
    all["operations"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_client_goes_away_is_carried_out_and_the_next_one_is_accepted() {
    let (console, mut n1, mut n2) = pair().await;
    let (cluster, name) = names();
    let module = console.running.app.store.module(&cluster, &name).await.unwrap().unwrap();
    drop_midway(actions::submit(&console.running.app, &module, swap(Some("k")))).await;
    swapped(&mut n1, &mut n2).await;
    console.wait("/api/v1/operations?cluster=c1&module=files", |all| all["operations"][0]["state"] == "succeeded").await;
    // The request that was cut off is remembered with its operation: sent again it makes no second swap.
    let again = actions::submit(&console.running.app, &module, swap(Some("k"))).await;
    assert!(matches!(again, Err(NotOrdered::Repeated)), "{again:?}");
    assert_eq!(operations(&console).await.iter().filter(|o| o["verb"] == "swap").count(), 1);
    // The module is free for other orders.
    let answer = console.must(Method::POST, &format!("{MODULE}/actions/swap"), json!({})).await;
    swapped(&mut n2, &mut n1).await;
    console.operation(&answer, "succeeded").await;
    let audit = console.get("/api/v1/audit").await;
    assert_eq!(audit["entries"].as_array().unwrap().iter().filter(|e| e["action"] == "swap").count(), 2, "{audit}");
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_option_is_refused_and_nothing_is_ordered() {
    let (console, _n1, _n2) = pair().await;
    let before = operations(&console).await.len();
    for (path, body, unknown, known) in [
        ("actions/stop?dry-run=true", json!({}), "dry-run", "dry_run"),
        ("actions/stop", json!({"nod": "n2"}), "nod", "`node`"),
        ("actions/stop", json!({"dry_run": true}), "dry_run", "`node`"),
        ("apply", json!({"versoin": 1}), "versoin", "`version`"),
        ("apply?dry_run=true", json!({}), "dry_run", "body"),
    ] {
        let (status, answer) = console.call(Method::POST, &format!("{MODULE}/{path}"), body).await;
        let message = answer["message"].as_str().unwrap().to_owned();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
        assert!(message.contains(unknown) && message.contains(known), "{path}: {message}");
    }
    let (status, _) = console.call(Method::DELETE, &format!("{MODULE}?dry_run=true"), Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // A key that cannot be kept would make a retry a second order.
    let request = console.client.post(console.url(&format!("{MODULE}/actions/stop"))).bearer_auth(&console.token);
    assert_eq!(request.header("idempotency-key", "k".repeat(300)).send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!(operations(&console).await.len(), before);
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_field_of_a_form_does_not_widen_the_order() {
    let (console, _n1, _n2) = pair().await;
    let browser = client(console.dir.path(), true);
    let form = |path: &str, body: &'static str| {
        let request = browser.post(console.url(path)).header("content-type", "application/x-www-form-urlencoded");
        request.header("origin", console.url("")).body(body)
    };
    let credentials = Box::leak(format!("user=root&password={}", PASSWORD.replace(' ', "+")).into_boxed_str());
    assert_eq!(form("/login", credentials).send().await.unwrap().status(), StatusCode::SEE_OTHER);
    let before = operations(&console).await.len();
    let page = |verb: &str| format!("/clusters/c1/modules/files/actions/{verb}");
    for (verb, body, named) in [
        ("stop", "node=n+2", "node"),
        ("stop", "nod=n2", "nod"),
        ("maintenance", "minutes=abc", "minutes"),
        ("resolve", "keep=n+1", "keep"),
    ] {
        let answer = form(&page(verb), body).header("accept", "application/json").send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, StatusCode::BAD_REQUEST, "{verb} {body}: {text}");
        assert!(text.contains(named), "{verb} {body}: {text}");
    }
    let answer = browser.get(console.url(&format!("{}?node=n+2", page("stop")))).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "nor does a link");
    assert_eq!(operations(&console).await.len(), before);
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_split_brain_the_keeper_is_ordered_first_and_only_then_the_other() {
    let (console, mut n1, mut n2) = pair().await;
    let split = |peer: &str| Some(Reason::SplitBrain { peer: NodeName::new(peer).unwrap() });
    n1.show_but(State::Wait, Readiness::NotReady, |s| s.reason = split("n2")).await;
    n2.show_but(State::Wait, Readiness::NotReady, |s| s.reason = split("n1")).await;
    console.wait(MODULE, |m| m["health"] == "conflict" && m["nodes"][0]["snapshot"]["state"] == "wait").await;
    let path = format!("{MODULE}/actions/resolve");
    // n2 is kept: the second in the module's order is asked first. It will not, and n1 keeps its copy.
    let answer = console.must(Method::POST, &path, json!({"keep": "n2"})).await;
    n2.take_order(Some(Refusal::Busy)).await;
    let ended = console.operation(&answer, "failed").await;
    assert_eq!((&ended["nodes"][0]["why"]["note"], &ended["nodes"][1]["why"]["note"]), (&json!("not_begun"), &json!("refused")), "{ended}");
    // It will: n1 gets the same order next, and the first it gets at all.
    let answer = console.must(Method::POST, &path, json!({"keep": "n2"})).await;
    let first = n2.take_order(None).await;
    let second = n1.take_order(None).await;
    let id = answer["operation"]["id"].as_str().unwrap();
    assert_eq!((first.id, second.id), (format!("{id}/n2"), format!("{id}/n1")));
    n2.show(State::Prim, Readiness::Ready).await;
    n1.show(State::Second, Readiness::Ready).await;
    console.operation(&answer, "succeeded").await;
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_sent_before_the_console_ended_is_not_begun() {
    let console = Console::start().await;
    let (cluster, name) = names();
    let nodes = ["n2", "n1"].map(|n| NodeName::new(n).unwrap());
    let mut cut = Operation::new(&cluster, &name, What::Action { order: Verb::Stop }, &nodes, "root", None);
    (cut.state, cut.nodes[0].state) = (Progress::Running, Progress::Running);
    console.running.app.store.put_operation(&cut).await.unwrap();
    console.running.stop().await;
    let again = Running::start(&config(console.dir.path(), "127.0.0.1:0".parse().unwrap())).await.unwrap();
    let ended = again.app.store.operation(&cut.id).await.unwrap().unwrap();
    let parts: Vec<_> = ended.nodes.into_iter().map(|n| (n.state, n.why)).collect();
    let expected = [(Progress::Unknown, Some(Note::ConsoleRestarted)), (Progress::Failed, Some(Note::NotBegun))];
    assert_eq!(parts, expected);
    again.stop().await;
}
