//! The connection against a console that the tests play.

use super::*;
use crate::store::Store;
use crate::tls::pki::{Pki, client_cn};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream as ServerStream;
use tsugi_core::cluster::ClusterDef;
use tsugi_core::command::Verb;
use tsugi_core::event::Event;
use tsugi_core::ids::{ClusterName, Epoch, Gen, NodeName, Session as SessionNo};
use tsugi_core::state::{ArbiterView, Flag, PeerView, Readiness, Replication, State};
use tsugi_core::wire::console::Secret;

/// Longest a test waits for what must happen.
const BOUND: Duration = Duration::from_secs(15);

struct World {
    pki: Pki,
    listener: TcpListener,
    store: Store,
    _dir: tempfile::TempDir,
    link: ConsoleLink,
    wanted: mpsc::Receiver<FromConsole>,
}

/// The console's end of one connection.
struct Conn(WebSocketStream<ServerStream<TcpStream>>);

fn module(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}
fn node() -> NodeName {
    NodeName::new("n1").unwrap()
}
fn snapshot(name: &str, state: State) -> Snapshot {
    Snapshot {
        module: module(name),
        node: node(),
        config_generation: 1,
        state,
        readiness: Readiness::Ready,
        reason: None,
        since_unix_ms: 0,
        maintenance_until_unix_ms: None,
        traffic: None,
        verification: Default::default(),
        flag: Flag::UpToDate,
        is_up_to_date: true,
        epoch: Epoch(1),
        gen_id: Gen(1),
        session: SessionNo(1),
        in_sync: Default::default(),
        vips_held: vec![],
        replication: Replication::None,
        resync: None,
        peer: PeerView::default(),
        arbiter: ArbiterView::NotNeeded,
        authority: Default::default(),
        resources: vec![],
        allowed: vec![],
    }
}

impl World {
    async fn new() -> World {
        World::made(Pki::new(), None, PACE).await
    }
    /// With times that let a test see their end.
    async fn quick() -> World {
        World::made(Pki::new(), None, Pace { alive: Duration::from_millis(100), silence: Duration::from_millis(800) }).await
    }
    /// With `other`, the agent was enrolled with that CA instead.
    async fn made(pki: Pki, other: Option<&Pki>, pace: Pace) -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let identity = other.unwrap_or(&pki).identity("n1", "tokyo", &url);
        let (tx, wanted) = mpsc::channel(8);
        let hello = HelloInfo { agent_version: "1".into(), boot: LifeId(5), os: "Test OS".into() };
        let link = ConsoleLink::start_paced(&identity, hello, store.events().clone(), tx, pace).unwrap();
        World { pki, listener, store, _dir: dir, link, wanted }
    }
    /// The agent's next connection, before `Welcome`.
    async fn accept(&self) -> (Conn, AgentMsg) {
        let (tcp, _) = timeout(BOUND, self.listener.accept()).await.unwrap().unwrap();
        let stream = TlsAcceptor::from(self.pki.console_server()).accept(tcp).await.unwrap();
        assert_eq!(client_cn(&stream).as_deref(), Some("n1"));
        let mut conn = Conn(tokio_tungstenite::accept_async(stream).await.unwrap());
        let hello = conn.next().await;
        assert!(matches!(hello, AgentMsg::Hello { .. }), "{hello:?}");
        (conn, hello)
    }
    async fn welcomed(&self) -> Conn {
        let (mut conn, _) = self.accept().await;
        conn.welcome(true).await;
        conn
    }
    fn add_event(&self) -> u64 {
        let seq = self.store.events().add(&node(), &module("db"), Event::AgentStarted).seq;
        self.link.event_added();
        seq
    }
    async fn want(&mut self) -> FromConsole {
        timeout(BOUND, self.wanted.recv()).await.unwrap().unwrap()
    }
    async fn until(&self, what: impl Fn(&World) -> bool) {
        let wait = async {
            while !what(self) {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, wait).await.unwrap();
    }
}

impl Conn {
    async fn next(&mut self) -> AgentMsg {
        loop {
            match timeout(BOUND, self.0.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                _ => continue,
            }
        }
    }
    async fn send(&mut self, message: ConsoleMsg) {
        self.0.send(Message::text(serde_json::to_string(&message).unwrap())).await.unwrap();
    }
    async fn welcome(&mut self, is_approved: bool) {
        self.send(ConsoleMsg::Welcome { protocol: PROTOCOL, console_version: "1".into(), is_approved }).await;
    }
    /// The first message that `pick` takes. Signs of life come for ever, so the whole wait has the bound.
    async fn find<T>(&mut self, pick: impl Fn(AgentMsg) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = pick(self.next().await) {
                    return found;
                }
            }
        };
        timeout(BOUND, wait).await.expect("the message comes within the bound")
    }
    async fn next_event(&mut self) -> u64 {
        self.find(|m| if let AgentMsg::Event { record } = m { Some(record.seq) } else { None }).await
    }
    async fn next_snapshot(&mut self) -> Snapshot {
        self.find(|m| if let AgentMsg::Snapshot { snapshot } = m { Some(*snapshot) } else { None }).await
    }
}

#[tokio::test]
async fn hello_says_who_and_which_configurations() {
    let world = World::new().await;
    world.link.set_versions(3, BTreeMap::from([(module("db"), 7)]));
    let (_conn, hello) = world.accept().await;
    let AgentMsg::Hello { protocol, node, boot, os, cluster_generation, modules, .. } = hello else { panic!("{hello:?}") };
    assert_eq!((protocol, node.as_str(), boot, os.as_str(), cluster_generation), (PROTOCOL, "n1", LifeId(5), "Test OS", 3));
    assert_eq!(modules, BTreeMap::from([(module("db"), 7)]));
}

#[tokio::test]
async fn everything_the_console_wants_is_handed_on() {
    let mut world = World::new().await;
    let mut conn = world.welcomed().await;
    let cluster = ClusterDef { name: ClusterName::new("tokyo").unwrap(), lans: vec![], arbiters: vec![] };
    let ids = BTreeMap::from([(module("db"), 1)]);
    conn.send(ConsoleMsg::Cluster { generation: 2, cluster, heartbeat_key: Secret([1; 32]), module_ids: ids.clone() }).await;
    let FromConsole::Cluster(file) = world.want().await else { panic!() };
    assert_eq!((file.generation, file.module_ids), (2, ids));
    conn.0.send(Message::text("{\"t\":\"from_the_future\"}")).await.unwrap();
    conn.send(ConsoleMsg::Remove { module: module("old") }).await;
    assert!(matches!(world.want().await, FromConsole::Remove(m) if m == module("old")));
    let command = Command { id: "c1".into(), verb: Verb::Swap, by: "sato".into(), reason: None, is_automatic: false };
    conn.send(ConsoleMsg::Command { module: module("db"), command: command.clone() }).await;
    assert!(matches!(world.want().await, FromConsole::Command { command: c, .. } if c == command));
    world.link.command_done("c1".into(), Some(Refusal::Busy));
    world.link.deploy_done(module("db"), 4, vec!["no disk".into()]);
    assert!(matches!(conn.next().await, AgentMsg::CommandDone { id, refusal: Some(Refusal::Busy) } if id == "c1"));
    assert!(matches!(conn.next().await, AgentMsg::DeployDone { generation: 4, problems, .. } if problems == ["no disk"]));
}

#[tokio::test]
async fn after_a_reconnect_the_latest_snapshots_come_again_and_only_those() {
    let world = World::new().await;
    let mut conn = world.welcomed().await;
    world.link.snapshot(snapshot("db", State::Wait));
    assert_eq!(conn.next_snapshot().await.state, State::Wait);
    drop(conn);
    world.until(|w| !w.link.is_connected()).await;
    for state in [State::Second, State::Alone, State::Prim] {
        world.link.snapshot(snapshot("db", state));
    }
    world.link.snapshot(snapshot("gone", State::Stop));
    world.link.module_gone(&module("gone"));
    let mut conn = world.welcomed().await;
    assert_eq!(conn.next_snapshot().await, snapshot("db", State::Prim));
    world.link.snapshot(snapshot("web", State::Up));
    assert_eq!(conn.next_snapshot().await, snapshot("web", State::Up));
}

#[tokio::test]
async fn events_come_again_until_the_console_has_stored_them() {
    let world = World::new().await;
    let seqs: Vec<u64> = (0..3).map(|_| world.add_event()).collect();
    let mut conn = world.welcomed().await;
    for seq in &seqs {
        assert_eq!(conn.next_event().await, *seq);
    }
    conn.send(ConsoleMsg::EventsStored { up_to: seqs[0] }).await;
    world.until(|w| w.store.events().acknowledged() == seqs[0]).await;
    drop(conn);
    let mut conn = world.welcomed().await;
    assert_eq!([conn.next_event().await, conn.next_event().await], [seqs[1], seqs[2]]);
    let fresh = world.add_event();
    assert_eq!(conn.next_event().await, fresh);
}

#[tokio::test]
async fn events_under_way_are_bounded_and_an_answer_opens_the_window() {
    let world = World::new().await;
    let seqs: Vec<u64> = (0..EVENTS_IN_FLIGHT_MAX + 5).map(|_| world.add_event()).collect();
    let mut conn = world.welcomed().await;
    for seq in &seqs[..EVENTS_IN_FLIGHT_MAX] {
        assert_eq!(conn.next_event().await, *seq);
    }
    world.link.snapshot(snapshot("db", State::Prim));
    assert!(matches!(conn.next().await, AgentMsg::Snapshot { .. }), "the window is full, but states pass");
    conn.send(ConsoleMsg::EventsStored { up_to: seqs[EVENTS_IN_FLIGHT_MAX - 1] }).await;
    for seq in &seqs[EVENTS_IN_FLIGHT_MAX..] {
        assert_eq!(conn.next_event().await, *seq);
    }
}

#[tokio::test]
async fn nothing_is_said_or_obeyed_before_the_approval() {
    let mut world = World::new().await;
    world.link.snapshot(snapshot("db", State::Prim));
    let (mut conn, _) = world.accept().await;
    conn.welcome(false).await;
    conn.send(ConsoleMsg::Remove { module: module("db") }).await;
    assert!(matches!(conn.next().await, AgentMsg::Alive), "only a sign of life");
    assert!(!world.link.is_connected());
    conn.welcome(true).await;
    assert_eq!(conn.next_snapshot().await.state, State::Prim);
    assert!(world.link.is_connected());
    assert!(world.wanted.try_recv().is_err());
}

#[tokio::test]
async fn a_console_of_another_ca_hears_nothing() {
    let ours = Pki::new();
    let world = World::made(Pki::new(), Some(&ours), PACE).await;
    let (tcp, _) = timeout(BOUND, world.listener.accept()).await.unwrap().unwrap();
    let mut accepted = TlsAcceptor::from(world.pki.console_server()).accept(tcp).await;
    if let Ok(stream) = &mut accepted {
        use tokio::io::AsyncReadExt;
        assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(n) if n > 0));
    }
    assert!(!world.link.is_connected());
}

#[tokio::test]
async fn a_console_that_falls_silent_is_left_and_dialled_again() {
    let world = World::quick().await;
    // Held open but never read: no pong, no close, as after a pulled cable.
    let silent = world.welcomed().await;
    let mut conn = world.welcomed().await;
    world.link.snapshot(snapshot("db", State::Up));
    assert_eq!(conn.next_snapshot().await.state, State::Up);
    drop(silent);
}

#[tokio::test]
async fn an_idle_console_is_kept_because_it_answers_pings() {
    let world = World::quick().await;
    let mut conn = world.welcomed().await;
    // Reading answers the pings; forty signs of life are five times the allowed silence.
    for _ in 0..40 {
        assert!(matches!(conn.next().await, AgentMsg::Alive));
    }
    assert!(world.link.is_connected());
}

#[tokio::test]
async fn the_agent_ends_its_connection_with_its_last_handle() {
    let world = World::new().await;
    let mut conn = world.welcomed().await;
    let World { link, .. } = world;
    let clone = link.clone();
    drop(link);
    clone.snapshot(snapshot("db", State::Up));
    assert_eq!(conn.next_snapshot().await.state, State::Up);
    drop(clone);
    let end = async { while let Some(Ok(_)) = conn.0.next().await {} };
    timeout(BOUND, end).await.unwrap();
}

#[test]
fn waits_between_attempts_grow_and_stay_within_their_bounds() {
    for failures in [0, 1, 5, 6, 100, u32::MAX] {
        let bound = RETRY_MAX.min(RETRY_FIRST.saturating_mul(2u32.saturating_pow(failures)));
        let delays: Vec<_> = (0..200).map(|_| retry_delay(failures)).collect();
        assert!(delays.iter().all(|d| *d >= RETRY_MIN && *d <= bound), "{failures}");
        assert!(*delays.iter().max().unwrap() > bound / 2, "{failures}: jitter uses its whole range");
        assert!(*delays.iter().min().unwrap() < bound / 2, "{failures}: jitter uses its whole range");
    }
}

#[test]
fn the_systems_name_is_read_with_and_without_quotes() {
    assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), Some("Debian GNU/Linux 12"));
    assert_eq!(pretty_name("PRETTY_NAME=Arch"), Some("Arch"));
    assert_eq!(pretty_name(""), None);
}
