//! Pages as a browser without scripts uses them, and the stream a browser with scripts listens to.

#![allow(clippy::unwrap_used)]

mod common;

use common::{BOUND, CLUSTER_XML, Console, PASSWORD, USERCONFIG, client, config, take_deployments};
use futures_util::StreamExt;
use reqwest::{Client, StatusCode, header};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tsugi_core::state::{Readiness, State};
use tsugi_server::Running;

struct Browser {
    client: Client,
    base: String,
}

impl Browser {
    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }
    /// A page that must be there.
    async fn page(&self, path: &str) -> String {
        let (status, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        assert!(text.contains("<!doctype html>") || text.contains("<!DOCTYPE html>"), "{path} is a whole page");
        text
    }
    /// Status, where it leads to, and the text.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String, String) {
        let answer =
            self.client.post(format!("{}{path}", self.base)).header("sec-fetch-site", "same-origin").form(form).send().await.unwrap();
        let to = answer.headers().get(header::LOCATION).map(|l| l.to_str().unwrap().to_owned()).unwrap_or_default();
        (answer.status(), to, answer.text().await.unwrap())
    }
    /// A form that must lead to `to`.
    async fn goes(&self, path: &str, form: &[(&str, &str)], to: &str) {
        let (status, location, text) = self.post(path, form).await;
        assert_eq!((status, location.as_str()), (StatusCode::SEE_OTHER, to), "{path}: {text}");
    }
    async fn fragment(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.base)).header("hx-request", "true").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.unwrap()
    }
}

/// Value of a hidden field.
fn hidden(page: &str, name: &str) -> String {
    let head = format!("name=\"{name}\" value=\"");
    let begin = page.find(&head).unwrap_or_else(|| panic!("no field {name} in {page}")) + head.len();
    page[begin..].split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_needed_works_without_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&config(dir.path(), "127.0.0.1:0".parse().unwrap())).await.unwrap();
    let browser = Browser { client: client(dir.path(), true), base: format!("https://localhost:{}", running.browser.port()) };

    // First run: every page leads to the set-up, which takes the code of the log only.
    let (status, _) = browser.get("/").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    browser.page("/setup").await;
    let set_up = |code: &str, again: &str| {
        vec![
            ("code".to_owned(), code.to_owned()),
            ("user".into(), "sato".into()),
            ("password".into(), PASSWORD.into()),
            ("password2".into(), again.to_owned()),
        ]
    };
    async fn submit(browser: &Browser, form: Vec<(String, String)>) -> (StatusCode, String, String) {
        let form: Vec<(&str, &str)> = form.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        browser.post("/setup", &form).await
    }
    assert_eq!(submit(&browser, set_up("WRONG", PASSWORD)).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let code = std::fs::read_to_string(dir.path().join("setup-code")).unwrap();
    assert_eq!(submit(&browser, set_up(code.trim(), "different")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, to, _) = submit(&browser, set_up(code.trim(), PASSWORD)).await;
    assert_eq!((status, to.as_str()), (StatusCode::SEE_OTHER, "/"));
    assert!(browser.page("/").await.contains("sato"));

    // Sign out and in; a foreign address is not followed.
    browser.goes("/logout", &[], "/login").await;
    let (status, _) = browser.get("/clusters").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, _, text) = browser.post("/login", &[("user", "sato"), ("password", "not the password"), ("next", "/")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    browser.goes("/login", &[("user", "sato"), ("password", PASSWORD), ("next", "https://evil.example")], "/").await;

    // Language and theme.
    browser.goes("/prefs", &[("lang", "ja"), ("theme", "dark"), ("back", "/clusters")], "/clusters").await;
    let page = browser.page("/clusters").await;
    assert!(page.contains("lang=\"ja\"") && page.contains("data-theme=\"dark\"") && page.contains("クラスター"));
    browser.goes("/prefs", &[("lang", "en"), ("back", "/")], "/").await;

    // A cluster, with a mistake first.
    browser.page("/clusters/new").await;
    let (status, _, text) = browser.post("/clusters", &[("name", "c1"), ("xml", "<cluster><lans>")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("cluster.xml"), "the problem is shown with its file: {text}");
    browser.goes("/clusters", &[("name", "c1"), ("xml", CLUSTER_XML)], "/clusters/c1").await;
    let (_, _, page) = browser.post("/clusters/c1/join", &[]).await;
    assert!(page.contains("tsugi-agent enroll --console https://localhost:"), "{page}");
    assert!(page.contains("--token tsugi1."));
    browser.page("/clusters/c1/config").await;

    // Nodes, through the API's helper with a token of this console.
    let token = tsugi_server::auth::new_secret();
    running
        .app
        .store
        .add_api_token(&tsugi_server::auth::sha256(token.as_bytes()), "test", tsugi_server::auth::Role::Admin, "sato")
        .await
        .unwrap();
    let api_client = client(dir.path(), false);
    let console = Console { running, dir, client: api_client, token };
    let (mut n1, mut n2) = {
        let n1 = console.enroll("n1").await;
        let n2 = console.enroll("n2").await;
        assert!(browser.page("/clusters/c1").await.contains("/clusters/c1/nodes/n1/approve"));
        browser.goes("/clusters/c1/nodes/n1/approve", &[], "/clusters/c1").await;
        browser.goes("/clusters/c1/nodes/n2/approve", &[], "/clusters/c1").await;
        (common::Agent::connect(&console, "n1", n1).await, common::Agent::connect(&console, "n2", n2).await)
    };

    // A module: template, check, mistake, apply.
    assert!(browser.page("/clusters/c1/modules/new").await.contains("%VIP%"));
    assert!(browser.page("/clusters/c1/modules/new?template=postgresql").await.contains("postgres"));
    let wrong = USERCONFIG.replace("one_side_alias", "everywhere").replace('\n', "\r\n");
    let form = |text: &'static str| {
        move |go: &'static str| {
            vec![
                ("name", "files"),
                ("node", "n1"),
                ("node", "n2"),
                ("userconfig", text),
                ("script_file", "start_prim"),
                ("script_text", "#!/bin/sh\r\ntrue\r\n"),
                ("script_file", "stop_prim"),
                ("script_text", ""),
                ("reason", "first"),
                ("do", go),
            ]
        }
    };
    let (status, _, text) = browser.post("/clusters/c1/modules", &form(Box::leak(wrong.into_boxed_str()))("apply")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("data-line=\"6\""), "the problem leads to its line: {text}");
    assert!(text.contains("everywhere"), "what was typed is kept");
    browser.goes("/clusters/c1/modules", &form(USERCONFIG)("apply"), "/clusters/c1/modules/files").await;
    let [deployment, _] = take_deployments([&mut n1, &mut n2]).await;
    assert_eq!(deployment.scripts.into_iter().collect::<Vec<_>>(), [("start_prim".to_owned(), "#!/bin/sh\ntrue\n".to_owned())]);
    // Both have said it: a plan made before the second word would not hold.
    let have_said = |m: &Value| m["nodes"].as_array().unwrap().iter().all(|n| n["snapshot"]["state"] == "stop");
    console.wait("/api/v1/clusters/c1/modules/files", |m| m["operation"].is_null() && m["health"] == "stopped" && have_said(m)).await;
    browser.page("/clusters/c1/modules/files").await;
    browser.page("/clusters/c1/modules/files/config").await;

    // Start by the action's page, and the same as a dialog for scripts.
    let path = "/clusters/c1/modules/files/actions/start";
    let plan = hidden(&browser.page(path).await, "plan");
    let dialog = browser.fragment(path).await;
    assert!(!dialog.contains("<html") && dialog.contains("<dialog"), "{dialog}");
    let (status, _, _) = browser.post(path, &[("plan", "0123")]).await;
    assert_eq!(status, StatusCode::CONFLICT, "a plan that no longer holds");
    browser.goes(path, &[("plan", &plan)], "/clusters/c1/modules/files").await;
    n1.take_order(None).await;
    n2.take_order(None).await;
    n1.show(State::Prim, Readiness::Ready).await;
    n2.show(State::Second, Readiness::Ready).await;
    console.wait("/api/v1/clusters/c1/modules/files", |m| m["operation"].is_null() && m["health"] == "protected").await;
    for path in ["/", "/?health=protected", "/clusters", "/clusters/c1", "/events", "/events?cluster=c1&level=warning"] {
        browser.page(path).await;
    }
    let operations = console.get("/api/v1/operations?cluster=c1&module=files").await;
    browser.page(&format!("/operations/{}", operations["operations"][0]["id"].as_str().unwrap())).await;

    // What can lose data needs the name and a reason.
    let path = "/clusters/c1/modules/files/actions/second";
    let plan = hidden(&browser.page(&format!("{path}?node=n2&full_sync=1")).await, "plan");
    let (status, _, _) =
        browser.post(path, &[("node", "n2"), ("full_sync", "1"), ("plan", &plan), ("reason", "broken disk"), ("name", "other")]).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _, _) = browser.post(path, &[("node", "n2"), ("full_sync", "1"), ("plan", &plan), ("name", "files")]).await;
    assert_eq!(status, StatusCode::CONFLICT);

    // Maintenance: the form asks for the minutes, and shows when it ends.
    let path = "/clusters/c1/modules/files/actions/maintenance";
    let form_at = format!("{path}?minutes=30");
    let (page, _) =
        tokio::join!(browser.page(&form_at), async { tokio::join!(n1.rehearse(Default::default()), n2.rehearse(Default::default())) });
    assert!(page.contains("name=\"minutes\"") && page.contains("Step by step on n2"), "{page}");
    let plan = hidden(&page, "plan");
    browser.goes(path, &[("plan", &plan), ("minutes", "45")], "/clusters/c1/modules/files").await;
    for agent in [&mut n1, &mut n2] {
        assert_eq!(agent.take_order(None).await.verb, tsugi_core::command::Verb::Maintenance { minutes: 45 });
    }
    console.wait("/api/v1/clusters/c1/modules/files", |m| m["operation"].is_null()).await;
    let until = tsugi_server::store::now_ms() as u64 + 45 * 60_000;
    n1.show_but(State::Prim, Readiness::Ready, |s| s.maintenance_until_unix_ms = Some(until)).await;
    console.wait("/api/v1/clusters/c1/modules/files", |m| m["nodes"][0]["snapshot"]["maintenance_until_unix_ms"] == until).await;
    let page = browser.page("/clusters/c1/modules/files").await;
    assert!(page.contains("about 45 min left") && page.contains("actions/maintenance?minutes=0"), "{page}");

    // A split brain: a button for each side, and what is lost before anything is ordered.
    let split = |peer: &str| tsugi_core::state::Reason::SplitBrain { peer: tsugi_core::ids::NodeName::new(peer).unwrap() };
    n1.show_but(State::Wait, Readiness::NotReady, |s| s.reason = Some(split("n2"))).await;
    n2.show_but(State::Wait, Readiness::NotReady, |s| s.reason = Some(split("n1"))).await;
    let is_split = |n: &Value| n["snapshot"]["reason"]["why"] == "split_brain";
    console.wait("/api/v1/clusters/c1/modules/files", |m| m["nodes"].as_array().unwrap().iter().all(is_split)).await;
    let page = browser.page("/clusters/c1/modules/files").await;
    assert!(page.contains("actions/resolve?keep=n1") && page.contains("actions/resolve?keep=n2"), "{page}");
    let path = "/clusters/c1/modules/files/actions/resolve";
    let form_at = format!("{path}?keep=n2");
    let (page, _) =
        tokio::join!(browser.page(&form_at), async { tokio::join!(n1.rehearse(Default::default()), n2.rehearse(Default::default())) });
    assert!(page.contains("Whatever was written only on n1") && !page.contains("id=\"blocked\""), "{page}");
    let plan = hidden(&page, "plan");
    let form = [("plan", plan.as_str()), ("keep", "n2"), ("reason", "n2 has the orders"), ("name", "files")];
    browser.goes(path, &form, "/clusters/c1/modules/files").await;
    // The one that is kept first.
    for agent in [&mut n2, &mut n1] {
        assert!(matches!(agent.take_order(None).await.verb, tsugi_core::command::Verb::Resolve { keep } if keep.as_str() == "n2"));
    }

    // Errors as pages and as fragments, with the headers every page has.
    let (status, page) = browser.get("/clusters/nowhere").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(page.contains("<html"));
    let answer = browser.client.get(format!("{}/clusters/nowhere", browser.base)).header("hx-request", "true").send().await.unwrap();
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert!(!answer.text().await.unwrap().contains("<html"));
    // Assets of the page are there under their hashed names.
    let page = browser.page("/").await;
    let css = page.split('"').find(|p| p.starts_with("/assets/console.") && p.ends_with(".css")).unwrap().to_owned();
    let answer = browser.client.get(format!("{}{css}", browser.base)).send().await.unwrap();
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
    console.running.stop().await;
}

/// The next frame of that kind.
async fn frame<S>(socket: &mut tokio_tungstenite::WebSocketStream<S>, kind: &str) -> Value
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let next = async {
        loop {
            let Message::Text(text) = socket.next().await.expect("open").expect("whole") else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["t"] == kind {
                return frame;
            }
        }
    };
    tokio::time::timeout(BOUND, next).await.unwrap_or_else(|_| panic!("waited for {kind}"))
}

async fn listen(
    console: &Console,
    query: &str,
    protocol: &str,
) -> tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(console.dir.path().join("ca.crt")).unwrap()).unwrap();
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(console.running.browser).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await.unwrap();
    let mut request = format!("wss://localhost:{}/ws/live?{query}", console.running.browser.port()).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", console.token).parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    tokio_tungstenite::client_async(request, tls).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_the_page_as_its_own_block() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    let snapshot = console.get("/live/snapshot").await;
    let (epoch, seq) = (snapshot["epoch"].as_str().unwrap().to_owned(), snapshot["seq"].as_u64().unwrap());
    let query = |scope: &str, epoch: &str| format!("scope={scope}&epoch={epoch}&since={seq}");

    let mut html = listen(&console, &query("module:c1/files", &epoch), "tsugi.live.v1+html").await;
    let mut values = listen(&console, &query("all", &epoch), "tsugi.live.v1+json").await;
    n1.show(State::Alone, Readiness::Ready).await;
    let id = |frame: &Value, id: &str| frame["items"].as_array().unwrap().iter().find(|i| i["id"] == id).cloned();
    let block = loop {
        if let Some(block) = id(&frame(&mut html, "delta").await, "module-headline")
            && block["html"].as_str().unwrap().contains("n1")
        {
            break block;
        }
    };
    assert!(block["html"].as_str().unwrap().contains("id=\"module-headline\""), "{block}");
    let value = loop {
        let frame = frame(&mut values, "delta").await;
        assert!(frame["seq"].as_u64().unwrap() > seq);
        if let Some(value) = id(&frame, "c1/files").filter(|v| v["v"]["nodes"][0]["snapshot"]["state"] == "alone") {
            break value;
        }
    };
    assert_eq!(value["k"], "module");

    // The same by polling; and a reader of another life is told to begin again.
    let (status, delta) =
        console.call(reqwest::Method::GET, &format!("/live/deltas?{}&format=json", query("all", &epoch)), Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert!(delta["seq"].as_u64().unwrap() > seq && !delta["items"].as_array().unwrap().is_empty(), "{delta}");
    let (status, _) = console.call(reqwest::Method::GET, &format!("/live/deltas?{}", query("all", "other")), Value::Null).await;
    assert_eq!(status, StatusCode::GONE);
    let mut stale = listen(&console, &query("all", "other"), "tsugi.live.v1+html").await;
    assert_eq!(frame(&mut stale, "reset").await["why"], "epoch");

    // The end of the console is announced.
    let stop = tokio::spawn(console.running.stop());
    assert_eq!(frame(&mut html, "bye").await["why"], "restart");
    stop.await.unwrap();
}
