//! The connection to the console: one WebSocket that the agent dials, for ever.
//!
//! Nothing the agent does waits for it. What goes out is kept by its nature: of a module's snapshots only the
//! latest (it is absolute), events in the event log until the console has stored them, answers in a short queue.
//! Losing the console loses nothing but, after hours, the oldest events.

use crate::config::Identity;
use crate::store::{ClusterFile, EventLog};
use crate::tls::{self, TlsError};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tsugi_core::command::{Command, Refusal};
use tsugi_core::ids::{LifeId, ModuleName};
use tsugi_core::rehearsal::Rehearsal;
use tsugi_core::state::Snapshot;
use tsugi_core::wire::console::{ALIVE_SECONDS, AgentMsg, ConsoleMsg, Deployment, FRAME_BYTES_MAX, PROTOCOL};

#[cfg(test)]
mod tests;

/// A console from which nothing comes for this long (it answers our pings) is gone.
const SILENCE_MAX: Duration = Duration::from_secs(4 * ALIVE_SECONDS);
/// TCP, TLS and the upgrade to a WebSocket.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// A frame that cannot be sent within this time: the console does not read.
const SEND_TIME_MAX: Duration = SILENCE_MAX;
/// First and longest wait before another attempt; in between it doubles. The wait itself is a random part of it,
/// so that a thousand agents do not return to a restarted console in the same second.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// No attempt follows the last one faster.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// A connection that lasted this long was a good one: the next attempt follows at once. A console that takes a
/// connection and drops it again must not be stormed.
const LASTING: Duration = Duration::from_secs(10);
/// Events under way that the console has not stored yet.
const EVENTS_IN_FLIGHT_MAX: usize = 500;
/// Answers kept while the console is away. It asks again for what it still wants to know; the oldest go first.
const ANSWERS_MAX: usize = 256;

/// Times of a connection that tests shorten.
#[derive(Debug, Clone, Copy)]
struct Pace {
    alive: Duration,
    silence: Duration,
}

const PACE: Pace = Pace { alive: Duration::from_secs(ALIVE_SECONDS), silence: SILENCE_MAX };

/// What the console wants.
#[derive(Debug, Clone)]
pub enum FromConsole {
    /// The cluster changed.
    Cluster(ClusterFile),
    /// Take this configuration.
    Deploy(Deployment),
    /// Judge this configuration and change nothing.
    Try {
        /// Of the question, repeated in the answer.
        id: String,
        /// What would be deployed.
        deployment: Deployment,
    },
    /// Stop and forget a module.
    Remove(ModuleName),
    /// Say what an order would do.
    Rehearse {
        /// To which module.
        module: ModuleName,
        /// The order.
        command: Command,
    },
    /// An order. The same id may come twice.
    Command {
        /// To which module.
        module: ModuleName,
        /// The order.
        command: Command,
    },
}

/// What `Hello` says besides the identity.
#[derive(Debug, Clone)]
pub struct HelloInfo {
    /// Version of this program.
    pub agent_version: String,
    /// This life of the agent.
    pub boot: LifeId,
    /// `PRETTY_NAME` of the system.
    pub os: String,
}

impl HelloInfo {
    /// This program on this machine, in the life `boot`.
    pub fn of_this_machine(boot: LifeId) -> HelloInfo {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        HelloInfo { agent_version: env!("CARGO_PKG_VERSION").to_owned(), boot, os: pretty_name(&release).unwrap_or("Linux").to_owned() }
    }
}

/// `PRETTY_NAME` of an `os-release` file.
fn pretty_name(release: &str) -> Option<&str> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    Some(value.trim_matches(['"', '\'']))
}

/// Handle on the connection; clones share it. The connection ends with the last one.
#[derive(Debug, Clone)]
pub struct ConsoleLink {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);
impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug, Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// Something in the outbox or the event log changed.
    changed: Notify,
    is_connected: AtomicBool,
}

#[derive(Debug, Default)]
struct Outbox {
    /// Latest snapshot of each module with a number that grows with each change.
    snapshots: BTreeMap<ModuleName, (u64, Box<Snapshot>)>,
    changes: u64,
    answers: VecDeque<AgentMsg>,
    cluster_generation: u64,
    modules: BTreeMap<ModuleName, u64>,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsoleLink {
    /// Starts to connect. What the console wants goes to `tx`; while that is full, nothing more is read from the
    /// console. Must be called inside the runtime.
    pub fn start(identity: &Identity, hello: HelloInfo, events: EventLog, tx: mpsc::Sender<FromConsole>) -> Result<ConsoleLink, TlsError> {
        ConsoleLink::start_paced(identity, hello, events, tx, PACE)
    }

    fn start_paced(
        identity: &Identity,
        hello: HelloInfo,
        events: EventLog,
        tx: mpsc::Sender<FromConsole>,
        pace: Pace,
    ) -> Result<ConsoleLink, TlsError> {
        let shared = Arc::new(Shared::default());
        let dialer =
            Dialer { identity: identity.clone(), tls: tls::console_client(identity)?, hello, events, shared: shared.clone(), tx, pace };
        let task = tokio::spawn(dialer.run());
        Ok(ConsoleLink { shared, _task: Arc::new(AbortOnDrop(task)) })
    }

    /// One that never connects.
    #[cfg(test)]
    pub(crate) fn unconnected() -> ConsoleLink {
        ConsoleLink { shared: Arc::default(), _task: Arc::new(AbortOnDrop(tokio::spawn(std::future::pending()))) }
    }

    /// What `Hello` reports: configurations in force. Call it before anything is applied and after each change.
    pub fn set_versions(&self, cluster_generation: u64, modules: BTreeMap<ModuleName, u64>) {
        let mut outbox = self.shared.outbox();
        outbox.cluster_generation = cluster_generation;
        outbox.modules = modules;
    }

    /// The module's state now. Replaces what was not sent yet.
    pub fn snapshot(&self, snapshot: Snapshot) {
        {
            let mut outbox = self.shared.outbox();
            outbox.changes += 1;
            let change = outbox.changes;
            outbox.snapshots.insert(snapshot.module.clone(), (change, Box::new(snapshot)));
        }
        self.shared.changed.notify_one();
    }

    /// The module is not on this node any more: its state is not reported again.
    pub fn module_gone(&self, module: &ModuleName) {
        self.shared.outbox().snapshots.remove(module);
    }

    /// The event log has grown.
    pub fn event_added(&self) {
        self.shared.changed.notify_one();
    }

    /// Answer to an order.
    pub fn command_done(&self, id: String, refusal: Option<Refusal>) {
        self.answer(AgentMsg::CommandDone { id, refusal });
    }

    /// What an order would do.
    pub fn rehearse_done(&self, id: String, rehearsal: Rehearsal) {
        self.answer(AgentMsg::RehearseDone { id, rehearsal });
    }

    /// Answer to a configuration (or a removal): problems, empty = in force.
    pub fn deploy_done(&self, module: ModuleName, generation: u64, problems: Vec<String>) {
        self.answer(AgentMsg::DeployDone { module, generation, problems });
    }

    /// Answer to a configuration on trial: problems, empty = it would be taken.
    pub fn try_done(&self, id: String, problems: Vec<String>) {
        self.answer(AgentMsg::TryDone { id, problems });
    }

    /// The console is there and has approved this node.
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected.load(Ordering::Relaxed)
    }

    fn answer(&self, answer: AgentMsg) {
        {
            let mut outbox = self.shared.outbox();
            if outbox.answers.len() == ANSWERS_MAX {
                outbox.answers.pop_front();
            }
            outbox.answers.push_back(answer);
        }
        self.shared.changed.notify_one();
    }
}

/// Why a connection ended. For the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Dial(#[from] tls::DialError),
    #[error("no connection within {} s", CONNECT_TIME_MAX.as_secs())]
    ConnectTimeout,
    #[error("the console refused the connection ({status}): {said}")]
    Refused { status: u16, said: String },
    #[error("the connection broke: {0}")]
    Broken(#[source] Box<WsError>),
    #[error("the console closed the connection{0}")]
    Closed(String),
    #[error("nothing came from the console for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the console did not take a message within {} s", SEND_TIME_MAX.as_secs())]
    Stuck,
    #[error("a message could not be written: {0}")]
    Encode(#[from] serde_json::Error),
    /// Nobody listens to what the console wants: the agent ends.
    #[error("the agent ends")]
    AgentEnds,
}

impl From<WsError> for End {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Http(response) => {
                let said = crate::arbiter::said(response.body().as_deref().unwrap_or_default());
                End::Refused { status: response.status().as_u16(), said }
            }
            WsError::ConnectionClosed | WsError::AlreadyClosed => End::Closed(String::new()),
            other => End::Broken(Box::new(other)),
        }
    }
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

struct Dialer {
    identity: Identity,
    tls: Arc<ClientConfig>,
    hello: HelloInfo,
    events: EventLog,
    shared: Arc<Shared>,
    tx: mpsc::Sender<FromConsole>,
    pace: Pace,
}

impl Dialer {
    async fn run(self) {
        let mut failures: u32 = 0;
        let mut last_said = String::new();
        loop {
            let session = Session::default();
            let begin = Instant::now();
            let end = self.connect_and_talk(&session).await;
            self.shared.is_connected.store(false, Ordering::Relaxed);
            if matches!(end, End::AgentEnds) {
                return;
            }
            if session.is_welcomed.load(Ordering::Relaxed) && begin.elapsed() >= LASTING {
                failures = 0;
            }
            // Once for each new cause, not once for each attempt.
            let said = end.to_string();
            if said != last_said || failures == 0 {
                tracing::warn!(console = %self.identity.console, cause = %said, "no connection to the console; modules go on, the agent keeps trying");
                last_said = said;
            }
            sleep(retry_delay(failures)).await;
            failures = failures.saturating_add(1);
        }
    }

    async fn connect_and_talk(&self, session: &Session) -> End {
        let socket = match timeout(CONNECT_TIME_MAX, self.connect()).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(end)) => return end,
            Err(_) => return End::ConnectTimeout,
        };
        let (sink, stream) = socket.split();
        let result = tokio::select! {
            result = self.send_all(sink, session) => result,
            result = self.receive_all(stream, session) => result,
        };
        result.err().unwrap_or_else(|| End::Closed(String::new()))
    }

    async fn connect(&self) -> Result<Socket, End> {
        let stream = tls::dial(&self.identity.console, self.tls.clone()).await?;
        let url = format!("wss://{}/agent/v1/ws", self.identity.console.authority());
        let config = WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
        let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
        Ok(socket)
    }

    fn hello(&self) -> AgentMsg {
        let outbox = self.shared.outbox();
        AgentMsg::Hello {
            protocol: PROTOCOL,
            agent_version: self.hello.agent_version.clone(),
            node: self.identity.node.clone(),
            boot: self.hello.boot,
            os: self.hello.os.clone(),
            cluster_generation: outbox.cluster_generation,
            modules: outbox.modules.clone(),
        }
    }

    async fn send_all(&self, mut sink: SplitSink<Socket, Message>, session: &Session) -> Result<(), End> {
        send(&mut sink, &self.hello()).await?;
        let mut sent = Sent { events: self.events.acknowledged(), in_flight: VecDeque::new(), snapshots: BTreeMap::new() };
        let mut tick = interval(self.pace.alive);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            if session.is_approved.load(Ordering::Acquire) {
                self.send_pending(&mut sink, &mut sent).await?;
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                _ = tick.tick() => {
                    send(&mut sink, &AgentMsg::Alive).await?;
                    // Its pong is what an idle console says.
                    send_frame(&mut sink, Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    async fn send_pending(&self, sink: &mut SplitSink<Socket, Message>, sent: &mut Sent) -> Result<(), End> {
        let changed: Vec<_> = {
            let outbox = self.shared.outbox();
            sent.snapshots.retain(|module, _| outbox.snapshots.contains_key(module));
            let is_new = |module: &ModuleName, change: u64| sent.snapshots.get(module).is_none_or(|c| *c < change);
            outbox.snapshots.iter().filter(|(m, (c, _))| is_new(m, *c)).map(|(m, (c, s))| (m.clone(), *c, s.clone())).collect()
        };
        for (module, change, snapshot) in changed {
            send(sink, &AgentMsg::Snapshot { snapshot }).await?;
            sent.snapshots.insert(module, change);
        }
        loop {
            let Some(answer) = self.shared.outbox().answers.pop_front() else { break };
            if let Err(end) = send(sink, &answer).await {
                self.shared.outbox().answers.push_front(answer);
                return Err(end);
            }
        }
        let acknowledged = self.events.acknowledged();
        while sent.in_flight.front().is_some_and(|seq| *seq <= acknowledged) {
            sent.in_flight.pop_front();
        }
        sent.events = sent.events.max(acknowledged);
        for record in self.events.since(sent.events, EVENTS_IN_FLIGHT_MAX - sent.in_flight.len()) {
            sent.events = record.seq;
            sent.in_flight.push_back(record.seq);
            send(sink, &AgentMsg::Event { record }).await?;
        }
        Ok(())
    }

    async fn receive_all(&self, mut stream: SplitStream<Socket>, session: &Session) -> Result<(), End> {
        loop {
            let frame = match timeout(self.pace.silence, stream.next()).await {
                Err(_) => return Err(End::Silent),
                Ok(None) => return Err(End::Closed(String::new())),
                Ok(Some(frame)) => frame?,
            };
            match frame {
                Message::Text(text) => match serde_json::from_str::<ConsoleMsg>(text.as_str()) {
                    Ok(message) => self.take(message, session).await?,
                    Err(error) => tracing::warn!(%error, "a message of the console is not understood and left out; is the console newer?"),
                },
                Message::Close(close) => {
                    let reason = close.map(|c| format!(" ({}: {})", c.code, c.reason.as_str())).unwrap_or_default();
                    return Err(End::Closed(reason));
                }
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn take(&self, message: ConsoleMsg, session: &Session) -> Result<(), End> {
        let wanted = match message {
            ConsoleMsg::Welcome { protocol, console_version, is_approved } => {
                session.is_welcomed.store(true, Ordering::Relaxed);
                session.is_approved.store(is_approved, Ordering::Release);
                self.shared.is_connected.store(is_approved, Ordering::Relaxed);
                self.shared.changed.notify_one();
                if protocol != PROTOCOL {
                    tracing::warn!(protocol, ours = PROTOCOL, "console and agent speak different versions of the protocol");
                }
                if is_approved {
                    tracing::info!(console = %self.identity.console, version = console_version, "connected to the console");
                } else {
                    tracing::warn!(
                        console = %self.identity.console,
                        "this node waits for approval: an administrator approves it on the console's page of the cluster"
                    );
                }
                return Ok(());
            }
            // Not our console's order of things: nothing comes before the approval.
            _ if !session.is_approved.load(Ordering::Acquire) => return Ok(()),
            ConsoleMsg::EventsStored { up_to } => {
                self.events.acknowledge(up_to);
                self.shared.changed.notify_one();
                return Ok(());
            }
            ConsoleMsg::Cluster { generation, cluster, heartbeat_key, module_ids } => {
                FromConsole::Cluster(ClusterFile { generation, cluster, heartbeat_key, module_ids })
            }
            ConsoleMsg::Deploy(deployment) => FromConsole::Deploy(deployment),
            ConsoleMsg::Try { id, deployment } => FromConsole::Try { id, deployment },
            ConsoleMsg::Remove { module } => FromConsole::Remove(module),
            ConsoleMsg::Rehearse { module, command } => FromConsole::Rehearse { module, command },
            ConsoleMsg::Command { module, command } => FromConsole::Command { module, command },
        };
        self.tx.send(wanted).await.map_err(|_| End::AgentEnds)
    }
}

/// What one connection has learnt.
#[derive(Debug, Default)]
struct Session {
    is_welcomed: AtomicBool,
    is_approved: AtomicBool,
}

/// What one connection has sent.
struct Sent {
    /// Last event sent.
    events: u64,
    /// Events sent and not stored yet; at most [`EVENTS_IN_FLIGHT_MAX`].
    in_flight: VecDeque<u64>,
    /// The change of each module's snapshot that was sent.
    snapshots: BTreeMap<ModuleName, u64>,
}

async fn send(sink: &mut SplitSink<Socket, Message>, message: &AgentMsg) -> Result<(), End> {
    send_frame(sink, Message::text(serde_json::to_string(message)?)).await
}

async fn send_frame(sink: &mut SplitSink<Socket, Message>, frame: Message) -> Result<(), End> {
    match timeout(SEND_TIME_MAX, sink.send(frame)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(End::Stuck),
    }
}

/// Full jitter: anything between nothing and a bound that doubles with each failure.
fn retry_delay(failures: u32) -> Duration {
    let bound = RETRY_FIRST.saturating_mul(2u32.saturating_pow(failures)).min(RETRY_MAX);
    rand::random_range(RETRY_MIN..=bound)
}
