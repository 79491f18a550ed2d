//! The console's REST API as a program of an administrator uses it: blocking, one call each.

use anyhow::{Context, Result, bail};
use reqwest::{Certificate, Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tsugi_core::state::{Readiness, Snapshot, State};

/// A call that takes longer has failed.
const CALL_BOUND: Duration = Duration::from_secs(20);
/// Another operation on the same module is waited for this long.
const OPERATION_BOUND: Duration = Duration::from_secs(120);
/// Between looks at something awaited.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A console and who speaks to it.
#[derive(Clone)]
pub struct Api {
    url: String,
    token: Option<String>,
    language: Option<String>,
    ca: Certificate,
    client: reqwest::Client,
    runtime: std::sync::Arc<tokio::runtime::Runtime>,
}

/// What the console says of a module.
#[derive(Debug, Clone)]
pub struct ModuleView {
    /// The whole answer.
    pub raw: Value,
    /// By node: what it last said, and whether the console hears it.
    pub nodes: BTreeMap<String, NodeView>,
}

/// A node's row of it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// What it last said.
    pub snapshot: Option<Snapshot>,
    /// The console hears it now.
    pub connected: bool,
}

/// A signed-in browser without a window.
pub struct Session {
    api: Api,
}

impl Session {
    /// Status and text of a page.
    pub fn page(&self, path: &str) -> Result<(u16, String)> {
        self.api.runtime.block_on(async {
            let answer = self.api.client.get(format!("{}{path}", self.api.url)).send().await.with_context(|| format!("GET {path}"))?;
            Ok((answer.status().as_u16(), answer.text().await?))
        })
    }
}

fn builder(ca: &Certificate) -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_certs_only([ca.clone()]).timeout(CALL_BOUND).no_proxy()
}

impl ModuleView {
    /// State and readiness of a node that is in contact.
    pub fn state(&self, node: &str) -> Option<(State, Readiness)> {
        let view = self.nodes.get(node)?;
        view.snapshot.as_ref().filter(|_| view.connected).map(|s| (s.state, s.readiness))
    }
    /// `n1 PRIM ready, n2 no contact`: for messages.
    pub fn line(&self) -> String {
        let one = |(name, view): (&String, &NodeView)| match (&view.snapshot, view.connected) {
            (Some(s), true) => {
                let reason = s.reason.as_ref().map(|r| format!(" ({r:?})")).unwrap_or_default();
                format!("{name} {} {:?}{reason}", s.state.word(), s.readiness)
            }
            (Some(s), false) => format!("{name} no contact (was {})", s.state.word()),
            (None, _) => format!("{name} unknown"),
        };
        self.nodes.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Api {
    /// `url` such as `https://127.0.0.1:9453`; trusts exactly `ca_pem`.
    pub fn new(url: &str, ca_pem: &[u8]) -> Result<Api> {
        // A second call finds the provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = Certificate::from_pem(ca_pem).context("the console's CA file is not PEM")?;
        let client = builder(&ca).build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Api {
            url: url.trim_end_matches('/').to_owned(),
            token: None,
            language: None,
            ca,
            client,
            runtime: std::sync::Arc::new(runtime),
        })
    }

    /// Speaks with this token from now on.
    pub fn with_token(mut self, token: &str) -> Api {
        self.token = Some(token.to_owned());
        self
    }

    /// Asks for answers in this language (`ja`) from now on.
    pub fn in_language(mut self, tag: &str) -> Api {
        self.language = Some(tag.to_owned());
        self
    }

    /// Status and body of a call; `Null` for a body that is not JSON.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(language) = &self.language {
            request = request.header(reqwest::header::ACCEPT_LANGUAGE, language);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
            let status = answer.status();
            let text = answer.text().await?;
            Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
        })
    }

    /// Body of a call that must succeed.
    pub fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.call(method.clone(), path, body)?;
        if !status.is_success() {
            bail!("{method} {path}: {status}: {answer}");
        }
        Ok(answer)
    }

    /// The console answers.
    pub fn is_ready(&self) -> bool {
        self.call(Method::GET, "/readyz", None).is_ok_and(|(status, _)| status.is_success())
    }

    /// First set-up with the one-time code; the administrator's token.
    pub fn set_up(&self, code: &str, user: &str, password: &str) -> Result<String> {
        let answer = self.must(Method::POST, "/api/v1/setup", Some(&json!({"code": code, "user": user, "password": password})))?;
        Ok(answer["token"].as_str().context("the answer to set-up has no token")?.to_owned())
    }

    /// A browser's session: cookie instead of token.
    pub fn sign_in(&self, user: &str, password: &str) -> Result<Session> {
        let client = builder(&self.ca).cookie_store(true).redirect(reqwest::redirect::Policy::none()).build()?;
        let api = Api { token: None, client, ..self.clone() };
        api.must(Method::POST, "/api/v1/login", Some(&json!({"user": user, "password": password})))?;
        Ok(Session { api })
    }

    /// A module as the console sees it now.
    pub fn module(&self, cluster: &str, module: &str) -> Result<ModuleView> {
        let raw = self.must(Method::GET, &format!("/api/v1/clusters/{cluster}/modules/{module}"), None)?;
        let mut nodes = BTreeMap::new();
        let mut put = |name: &str, row: &Value| {
            let snapshot = serde_json::from_value(row["snapshot"].clone()).ok();
            let connected = row["connected"].as_bool().or_else(|| row["is_connected"].as_bool()).unwrap_or(false);
            nodes.insert(name.to_owned(), NodeView { snapshot, connected });
        };
        match &raw["nodes"] {
            Value::Array(rows) => {
                for row in rows {
                    put(row["node"].as_str().or_else(|| row["name"].as_str()).unwrap_or_default(), row);
                }
            }
            Value::Object(rows) => {
                for (name, row) in rows {
                    put(name, row);
                }
            }
            _ => bail!("the module's answer has no nodes: {raw}"),
        }
        Ok(ModuleView { raw, nodes })
    }

    /// Waits until `is_so` holds of the module.
    pub fn wait_module(
        &self,
        cluster: &str,
        module: &str,
        what: &str,
        bound: Duration,
        is_so: impl Fn(&ModuleView) -> bool,
    ) -> Result<ModuleView> {
        let begin = Instant::now();
        loop {
            let seen = self.module(cluster, module);
            if let Ok(view) = &seen
                && is_so(view)
            {
                return seen;
            }
            if begin.elapsed() > bound {
                let now = seen.map_or_else(|error| format!("{error:#}"), |view| view.line());
                bail!("waited {bound:?} for {what}; now: {now}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Orders `verb`; the operation's id. While another operation runs on the module the order is repeated, as a
    /// person would; a refusal is an error with its words.
    pub fn action(&self, cluster: &str, module: &str, verb: &str, node: Option<&str>) -> Result<String> {
        let body = json!({"node": node, "reason": "lab"});
        let path = format!("/api/v1/clusters/{cluster}/modules/{module}/actions/{verb}");
        let begin = Instant::now();
        loop {
            let (status, answer) = self.call(Method::POST, &path, Some(&body))?;
            if status.is_success() {
                let id = &answer["operation"]["id"];
                return Ok(id.as_str().map_or_else(|| id.to_string(), str::to_owned));
            }
            if answer["error"] != "operation_running" || begin.elapsed() > OPERATION_BOUND {
                bail!("POST {path}: {status}: {answer}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// `PRIM` and green.
pub const PRIM: Option<(State, Readiness)> = Some((State::Prim, Readiness::Ready));
/// `SECOND` and green.
pub const SECOND: Option<(State, Readiness)> = Some((State::Second, Readiness::Ready));
/// `ALONE` and green.
pub const ALONE: Option<(State, Readiness)> = Some((State::Alone, Readiness::Ready));
