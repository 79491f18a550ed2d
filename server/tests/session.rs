//! Who may do what, and what other sites' pages may not.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Console, PASSWORD, client};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tsugi_server::http::guard::{Need, TABLE};

/// A path of the table with names filled in.
fn filled(path: &str) -> String {
    let names = [("{c}", "c1"), ("{m}", "files"), ("{n}", "n1"), ("{v}", "1"), ("{verb}", "start"), ("{id}", "x"), ("{name}", "x")];
    names.iter().fold(path.to_owned(), |path, (hole, name)| path.replace(hole, name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_keeps_to_its_role() {
    let console = Console::start().await;
    let roles = ["monitor", "control", "admin"];
    let mut tokens = Vec::new();
    for role in roles {
        let answer = console.must(Method::POST, "/api/v1/tokens", json!({"name": role, "role": role})).await;
        tokens.push(answer["token"].as_str().unwrap().to_owned());
    }
    for (method, path, need) in TABLE {
        let Need::Role(least) = need else { continue };
        if path.starts_with("/ws/") {
            continue;
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let (status, answer) = console.call_as("", method.clone(), &filled(path), Value::Null).await;
        let is_page = !path.starts_with("/api/") && !path.starts_with("/live/");
        let expected = if is_page { StatusCode::SEE_OTHER } else { StatusCode::UNAUTHORIZED };
        assert_eq!(status, expected, "{method} {path} for nobody: {answer}");
        for (role, token) in roles.iter().zip(&tokens) {
            let is_enough = tsugi_server::auth::Role::of_word(role) >= *least;
            let (status, answer) = console.call_as(token, method.clone(), &filled(path), Value::Null).await;
            assert_eq!(status == StatusCode::FORBIDDEN, !is_enough, "{method} {path} for {role}: {status} {answer}");
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path} is in the table and not routed");
            assert!(!status.is_server_error(), "{method} {path} for {role}: {status} {answer}");
        }
    }
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_names_every_api_route_and_no_other() {
    let console = Console::start().await;
    let document = console.get("/api/openapi.json").await;
    let mut documented: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|k| ["get", "post", "put", "delete"].contains(&k.as_str())) {
            documented.push((method.to_uppercase(), path.clone()));
        }
    }
    let mut routed: Vec<(String, String)> =
        TABLE.iter().filter(|(_, p, _)| p.starts_with("/api/v1/")).map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned())).collect();
    documented.sort();
    routed.sort();
    assert_eq!(documented, routed);
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sites_page_can_neither_post_nor_listen() {
    let console = Console::start().await;
    let browser = client(console.dir.path(), true);
    let signed_in = browser.post(console.url("/api/v1/login")).json(&json!({"user": "root", "password": PASSWORD})).send().await.unwrap();
    assert_eq!(signed_in.status(), StatusCode::NO_CONTENT);
    let cookie = signed_in.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["__Host-tsugi=", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let me: Value = browser.get(console.url("/api/v1/me")).send().await.unwrap().json().await.unwrap();
    assert_eq!(me, json!({"name": "root", "role": "admin"}));

    let body = json!({"name": "evil", "xml": common::CLUSTER_XML});
    let cross = browser.post(console.url("/api/v1/clusters")).header("sec-fetch-site", "cross-site").json(&body).send().await.unwrap();
    assert_eq!(cross.status(), StatusCode::FORBIDDEN);
    let foreign = browser.post(console.url("/api/v1/clusters")).header("origin", "https://evil.example").json(&body).send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let own = browser.post(console.url("/api/v1/clusters")).header("sec-fetch-site", "same-origin").json(&body).send().await.unwrap();
    assert_eq!(own.status(), StatusCode::CREATED);

    let upgrade = |origin: Option<String>| {
        let mut request = browser
            .get(console.url("/ws/live?scope=all"))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        async move { request.send().await.unwrap().status() }
    };
    assert_eq!(upgrade(Some("https://evil.example".into())).await, StatusCode::FORBIDDEN);
    assert_eq!(upgrade(None).await, StatusCode::FORBIDDEN, "a cookie without an origin is no browser page of ours");
    let own = console.url("");
    assert_eq!(upgrade(Some(own)).await, StatusCode::SWITCHING_PROTOCOLS);

    let answer = browser.post(console.url("/api/v1/logout")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let me = client(console.dir.path(), false)
        .get(console.url("/api/v1/me"))
        .header("cookie", cookie.split(';').next().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(me.status(), StatusCode::UNAUTHORIZED, "the session is gone on the server, whatever the browser keeps");
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_and_a_changed_user_are_out_at_once() {
    let console = Console::start().await;
    let token =
        console.must(Method::POST, "/api/v1/tokens", json!({"name": "ci", "role": "monitor"})).await["token"].as_str().unwrap().to_owned();
    assert_eq!(console.call_as(&token, Method::GET, "/api/v1/clusters", Value::Null).await.0, StatusCode::OK);
    let tokens = console.get("/api/v1/tokens").await;
    let id = tokens["tokens"].as_array().unwrap().iter().find(|t| t["name"] == "ci").unwrap()["id"].as_str().unwrap();
    console.must(Method::DELETE, &format!("/api/v1/tokens/{id}"), Value::Null).await;
    assert_eq!(console.call_as(&token, Method::GET, "/api/v1/clusters", Value::Null).await.0, StatusCode::UNAUTHORIZED);

    console.must(Method::POST, "/api/v1/users", json!({"name": "mori", "password": PASSWORD, "role": "control"})).await;
    let browser = client(console.dir.path(), true);
    browser.post(console.url("/api/v1/login")).json(&json!({"user": "mori", "password": PASSWORD})).send().await.unwrap();
    assert_eq!(browser.get(console.url("/api/v1/me")).send().await.unwrap().status(), StatusCode::OK);
    console.must(Method::PUT, "/api/v1/users/mori", json!({"disabled": true})).await;
    assert_eq!(browser.get(console.url("/api/v1/me")).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let (status, answer) = console.call(Method::PUT, "/api/v1/users/root", json!({"role": "monitor"})).await;
    assert_eq!((status, &answer["error"]), (StatusCode::CONFLICT, &json!("last_admin")));
    console.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_set_up_works_once_and_wrong_passwords_say_nothing() {
    let console = Console::start().await;
    assert!(!console.dir.path().join("setup-code").exists(), "a used code is gone");
    let (status, answer) =
        console.call_as("", Method::POST, "/api/v1/setup", json!({"code": "x", "user": "b", "password": PASSWORD})).await;
    assert_eq!((status, &answer["error"]), (StatusCode::FORBIDDEN, &json!("setup_done")));
    let mut answers = Vec::new();
    for user in ["root", "nobody"] {
        answers.push(console.call_as("", Method::POST, "/api/v1/login", json!({"user": user, "password": "wrong password"})).await);
    }
    assert_eq!(answers[0], answers[1], "the same answer for known and unknown users");
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    for _ in 0..8 {
        console.call_as("", Method::POST, "/api/v1/login", json!({"user": "root", "password": "wrong password"})).await;
    }
    let (status, _) = console.call_as("", Method::POST, "/api/v1/login", json!({"user": "root", "password": PASSWORD})).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "also for the right password");
    let request = console.client.get(console.url("/api/v1/clusters")).header("accept-language", "ja").send().await.unwrap();
    let answer: Value = request.json().await.unwrap();
    assert!(answer["message"].as_str().unwrap().contains("サインイン"), "{answer}");
    console.running.stop().await;
}
