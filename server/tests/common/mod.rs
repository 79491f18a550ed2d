//! A console on ephemeral ports, a client for its API, and a pretend agent over real TLS and WebSocket.

#![allow(clippy::unwrap_used)]
// Each test file uses its own part of this.
#![allow(dead_code)]

use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, Method, StatusCode};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tsugi_core::ids::{Epoch, Gen, LifeId, ModuleName, NodeName, Session};
use tsugi_core::rehearsal::Rehearsal;
use tsugi_core::state::{Allowed, ArbiterView, Flag, PeerView, Readiness, Replication, Snapshot, State};
use tsugi_core::wire::console::{AgentMsg, ConsoleMsg, EnrollAnswer, PROTOCOL};
use tsugi_server::{Config, Running};

/// Nothing here takes longer, unless it is broken.
pub const BOUND: Duration = Duration::from_secs(20);
pub const PASSWORD: &str = "a long enough password";

pub const CLUSTER_XML: &str = r#"<cluster><lans><lan name="default" command="on">
  <node name="n1" addr="127.0.0.11"/><node name="n2" addr="127.0.0.12"/></lan></lans></cluster>"#;

pub const USERCONFIG: &str = r#"<safe>
  <service mode="mirror">
    <heart profile="normal"/>
    <rfs async="none"><replicated dir="/srv/files"/></rfs>
    <vip><interface_list><interface><real_interface>
      <virtual_addr addr="127.0.0.100" where="one_side_alias"/>
    </real_interface></interface></interface_list></vip>
    <user/>
  </service>
</safe>"#;

/// A console under test.
pub struct Console {
    pub running: Running,
    pub dir: tempfile::TempDir,
    pub client: Client,
    pub token: String,
}

pub fn config(dir: &std::path::Path, agents: SocketAddr) -> Config {
    Config { data: dir.to_owned(), listen: "127.0.0.1:0".parse().unwrap(), agents, names: vec![] }
}

/// A client that trusts exactly this console's CA.
pub fn client(dir: &std::path::Path, cookies: bool) -> Client {
    let ca = std::fs::read(dir.join("ca.crt")).unwrap();
    Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .cookie_store(cookies)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(BOUND)
        .build()
        .unwrap()
}

impl Console {
    /// A fresh console, set up.
    pub async fn start() -> Console {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(&config(dir.path(), "127.0.0.1:0".parse().unwrap())).await.unwrap();
        let client = client(dir.path(), false);
        let mut console = Console { running, dir, client, token: String::new() };
        let code = std::fs::read_to_string(console.dir.path().join("setup-code")).unwrap();
        let (status, answer) =
            console.call(Method::POST, "/api/v1/setup", json!({"code": code.trim(), "user": "root", "password": PASSWORD})).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        console.token = answer["token"].as_str().unwrap().to_owned();
        console
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.running.browser.port())
    }

    /// With the administrator's token.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_as(&self.token, method, path, body).await
    }

    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = self.client.request(method, self.url(path));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    pub async fn must(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Asks until `is_so`.
    pub async fn wait(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let end = tokio::time::Instant::now() + BOUND;
        loop {
            let now = self.get(path).await;
            if is_so(&now) {
                return now;
            }
            assert!(tokio::time::Instant::now() < end, "{path} stays {now}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes the cluster and enrols, approves and connects both nodes.
    pub async fn cluster(&self) -> (Agent, Agent) {
        self.must(Method::POST, "/api/v1/clusters", json!({"name": "c1", "xml": CLUSTER_XML})).await;
        let mut agents = Vec::new();
        for node in ["n1", "n2"] {
            let certificate = self.enroll(node).await;
            self.must(Method::POST, &format!("/api/v1/clusters/c1/nodes/{node}/approve"), json!({})).await;
            agents.push(Agent::connect(self, node, certificate).await);
        }
        let second = agents.pop().unwrap();
        (agents.pop().unwrap(), second)
    }

    pub async fn enroll(&self, node: &str) -> NodeCertificate {
        let token = self.must(Method::POST, "/api/v1/clusters/c1/join-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
        self.enroll_with(node, &token).await.unwrap()
    }

    pub async fn enroll_with(&self, node: &str, token: &str) -> Result<NodeCertificate, (StatusCode, Value)> {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let secret = token.rsplit('.').next().unwrap();
        let (status, answer) = agents_call(
            self.running.agents,
            self.dir.path(),
            None,
            "/agent/v1/enroll",
            json!({"token": secret, "node": node, "csr_pem": csr}),
        )
        .await;
        if status != 200 {
            return Err((StatusCode::from_u16(status).unwrap(), answer));
        }
        let answer: EnrollAnswer = serde_json::from_value(answer).unwrap();
        Ok(NodeCertificate { pem: answer.certificate_pem, key: key.serialize_pem() })
    }

    /// Adds module `files` on both nodes and applies it.
    pub async fn module(&self, agents: [&mut Agent; 2]) {
        let body = json!({"name": "files", "nodes": ["n1", "n2"], "userconfig": USERCONFIG, "scripts": {"start_prim": "#!/bin/sh\n"}});
        self.must(Method::POST, "/api/v1/clusters/c1/modules", body).await;
        let answer = self.must(Method::POST, "/api/v1/clusters/c1/modules/files/apply", json!({})).await;
        take_deployments(agents).await;
        self.operation(&answer, "succeeded").await;
    }

    /// Waits until the operation of an answer is over, and how it ended.
    pub async fn operation(&self, answer: &Value, state: &str) -> Value {
        let id = answer["operation"]["id"].as_str().unwrap();
        let is_over = |o: &Value| !["queued", "running"].contains(&o["state"].as_str().unwrap());
        let operation = self.wait(&format!("/api/v1/operations/{id}"), is_over).await;
        assert_eq!(operation["state"], state, "{operation}");
        operation
    }
}

/// What enrolment gave.
#[derive(Clone)]
pub struct NodeCertificate {
    pub pem: String,
    pub key: String,
}

async fn connect(to: SocketAddr, dir: &std::path::Path, certificate: Option<&NodeCertificate>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.crt")).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(c) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(c.pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(c.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(to).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("tsugi-console").unwrap(), stream).await
}

/// A POST on the agents' port, with or without a client certificate.
pub async fn agents_call(
    to: SocketAddr,
    dir: &std::path::Path,
    certificate: Option<&NodeCertificate>,
    path: &str,
    body: Value,
) -> (u16, Value) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tls = connect(to, dir, certificate).await.unwrap();
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: tsugi-console\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A peer that ends without close_notify still has answered.
    let _ = tokio::time::timeout(BOUND, tls.read_to_string(&mut answer)).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A pretend agent.
pub struct Agent {
    pub node: NodeName,
    pub certificate: NodeCertificate,
    socket: WebSocketStream<TlsStream<TcpStream>>,
    pub generation: u64,
    pub since: u64,
    /// What it says against any configuration on trial; nothing = it would take it.
    pub objections: Vec<String>,
}

/// Both take the next deployment: each is asked before either gets it.
pub async fn take_deployments([one, other]: [&mut Agent; 2]) -> [tsugi_core::wire::console::Deployment; 2] {
    tokio::join!(one.take_deployment(), other.take_deployment()).into()
}

impl Agent {
    pub async fn connect(console: &Console, node: &str, certificate: NodeCertificate) -> Agent {
        Agent::connect_with(console, node, certificate, BTreeMap::new()).await.unwrap()
    }

    /// Connects and says hello; the error is the HTTP status of a refused upgrade.
    pub async fn connect_with(
        console: &Console,
        node: &str,
        certificate: NodeCertificate,
        modules: BTreeMap<ModuleName, u64>,
    ) -> Result<Agent, u16> {
        let mut agent = Agent::dial(console, node, certificate).await?;
        agent.say_hello(modules).await;
        Ok(agent)
    }

    /// Connects and says nothing yet.
    pub async fn dial(console: &Console, node: &str, certificate: NodeCertificate) -> Result<Agent, u16> {
        let tls = connect(console.running.agents, console.dir.path(), Some(&certificate)).await.unwrap();
        let socket = match tokio_tungstenite::client_async("wss://tsugi-console/agent/v1/ws", tls).await {
            Ok((socket, _)) => socket,
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => return Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        };
        let node = NodeName::new(node).unwrap();
        Ok(Agent { node, certificate, socket, generation: 0, since: 1, objections: vec![] })
    }

    pub async fn say_hello(&mut self, modules: BTreeMap<ModuleName, u64>) {
        let hello = AgentMsg::Hello {
            protocol: PROTOCOL,
            agent_version: "test".into(),
            node: self.node.clone(),
            boot: LifeId(1),
            os: "Test OS".into(),
            cluster_generation: 0,
            modules,
        };
        self.say(&hello).await;
    }

    pub async fn say(&mut self, message: &AgentMsg) {
        self.socket.send(Message::Text(serde_json::to_string(message).unwrap().into())).await.unwrap();
    }

    /// The next message that `pick` wants; others are dropped, but configurations on trial are judged.
    pub async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(ConsoleMsg) -> Option<T>) -> T {
        let hear = async {
            loop {
                let message = self.socket.next().await.expect("the console closed").expect("the connection broke");
                let Message::Text(text) = message else { continue };
                let message: ConsoleMsg = serde_json::from_str(&text).unwrap();
                if let ConsoleMsg::Try { id, .. } = &message {
                    let answer = AgentMsg::TryDone { id: id.clone(), problems: self.objections.clone() };
                    self.say(&answer).await;
                }
                if let Some(found) = pick(message) {
                    return found;
                }
            }
        };
        tokio::time::timeout(BOUND, hear).await.unwrap_or_else(|_| panic!("waited for {what}"))
    }

    /// The console ends the connection and has said nothing but that.
    pub async fn closed(&mut self) {
        let end = tokio::time::timeout(BOUND, self.socket.next()).await.expect("the console closes the connection");
        assert!(matches!(end, None | Some(Err(_) | Ok(Message::Close(_)))), "{end:?}");
    }

    /// Whether the console takes the node as approved.
    pub async fn welcome(&mut self) -> bool {
        self.hear("welcome", |m| if let ConsoleMsg::Welcome { is_approved, .. } = m { Some(is_approved) } else { None }).await
    }

    /// Takes the next deployment and says it is in force; then says STOP.
    pub async fn take_deployment(&mut self) -> tsugi_core::wire::console::Deployment {
        let deployment = self.hear("a deployment", |m| if let ConsoleMsg::Deploy(d) = m { Some(d) } else { None }).await;
        self.generation = deployment.generation;
        self.say(&AgentMsg::DeployDone { module: deployment.module.clone(), generation: deployment.generation, problems: vec![] }).await;
        self.show(State::Stop, Readiness::NotReady).await;
        deployment
    }

    /// Reports a state of module `files`, in which every order would be accepted.
    pub async fn show(&mut self, state: State, readiness: Readiness) {
        self.show_with(state, readiness, vec![]).await;
    }

    pub async fn show_with(&mut self, state: State, readiness: Readiness, allowed: Vec<Allowed>) {
        self.show_but(state, readiness, |s| s.allowed = allowed).await;
    }

    /// … with something else changed.
    pub async fn show_but(&mut self, state: State, readiness: Readiness, change: impl FnOnce(&mut Snapshot)) {
        self.since += 1;
        let peer = NodeName::new(if self.node.as_str() == "n1" { "n2" } else { "n1" }).unwrap();
        let mut snapshot = Snapshot {
            module: ModuleName::new("files").unwrap(),
            node: self.node.clone(),
            config_generation: self.generation,
            state,
            readiness,
            reason: None,
            since_unix_ms: self.since,
            maintenance_until_unix_ms: None,
            traffic: None,
            verification: Default::default(),
            flag: Flag::UpToDate,
            is_up_to_date: true,
            epoch: Epoch(1),
            gen_id: Gen(1),
            session: Session(1),
            in_sync: Default::default(),
            vips_held: vec![],
            replication: Replication::Synchronous,
            resync: None,
            peer: PeerView { node: Some(peer), in_contact: true, state: None, networks: vec![] },
            arbiter: ArbiterView::Reachable,
            authority: Default::default(),
            resources: vec![],
            allowed: vec![],
        };
        change(&mut snapshot);
        self.say(&AgentMsg::Snapshot { snapshot: Box::new(snapshot) }).await;
    }

    /// Says what the next order that is only tried would do; the order.
    pub async fn rehearse(&mut self, rehearsal: Rehearsal) -> tsugi_core::command::Command {
        let command = self.hear("a dry run", |m| if let ConsoleMsg::Rehearse { command, .. } = m { Some(command) } else { None }).await;
        self.say(&AgentMsg::RehearseDone { id: command.id.clone(), rehearsal }).await;
        command
    }

    /// Takes the next order and answers it.
    pub async fn take_order(&mut self, refusal: Option<tsugi_core::command::Refusal>) -> tsugi_core::command::Command {
        let command = self.hear("an order", |m| if let ConsoleMsg::Command { command, .. } = m { Some(command) } else { None }).await;
        self.say(&AgentMsg::CommandDone { id: command.id.clone(), refusal }).await;
        command
    }
}
