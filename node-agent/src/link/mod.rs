//! Heartbeats between the two agents of a mirror: numbered, authenticated, on every network, never out of order.
//!
//! The link hands on what the other side last said ([`Heard`]) and sends what it is told to send. It decides
//! nothing: silence is no event here, the consumer owns the timers.
//!
//! Rules the consumer relies on:
//!
//! * beats of one life of the other side are handed on in order, each at most once; a life that was replaced is
//!   never heard again; a recorded datagram is never taken for a new one ([`order`]);
//! * [`Link::sent_ns`] is read before the first copy leaves, so a bound counted from it is on the safe side;
//! * an outgoing beat answers only what the consumer declared [`Link::processed`].

pub mod codec;
pub mod order;

use crate::clock::boottime_ns;
use codec::{Body, Codec, Echo, Envelope};
use order::{Ignored, Order, Verdict};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tsugi_core::ids::{LifeId, ModuleName, NodeName};
use tsugi_core::state::NetworkView;
use tsugi_core::wire::peer::{BEAT_BYTES_MAX, Beat, PROTOCOL, Status};

/// Beats whose sending time is remembered: at the fastest period of 250 ms a quarter of an hour, far beyond any bound.
const SENT_KEPT: usize = 4096;
/// First and last wait before a socket is opened again; short, because a network that comes back ends a degraded state.
const BIND_RETRY_FIRST: Duration = Duration::from_millis(200);
const BIND_RETRY_LAST: Duration = Duration::from_secs(2);
/// Questions and proofs leave at most this often per network, so that recorded datagrams cannot make this side talk.
const ASK_EVERY_NS: u64 = 20_000_000;
/// Complaints about dropped datagrams are logged at most this often per network.
const COMPLAIN_EVERY_NS: u64 = 60_000_000_000;
/// Expedited forwarding, for switches that look at it.
const TOS: u32 = 0xb8;
/// Highest queue priority without privilege.
const PRIORITY: u32 = 6;

/// One network between the two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkNetwork {
    /// Name in the cluster definition, the same on both nodes: it is part of what authenticates a datagram.
    pub lan: String,
    /// Address and port of this side.
    pub local: SocketAddr,
    /// Address and port of the other side.
    pub peer: SocketAddr,
}

/// What a link needs to know.
#[derive(Clone)]
pub struct LinkConfig {
    /// Module the beats speak of.
    pub module: ModuleName,
    /// This node.
    pub node: NodeName,
    /// The other node.
    pub peer: NodeName,
    /// Life of this agent: random, never used by an earlier process.
    pub life: LifeId,
    /// Key shared by the nodes of the cluster.
    pub key: [u8; 32],
    /// Networks, at least one.
    pub networks: Vec<LinkNetwork>,
    /// Silence after which [`NetworkView::is_up`] turns false.
    pub lost_after: Duration,
}

/// A beat of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// What it says.
    pub status: Status,
    /// Life of its agent.
    pub peer_life: LifeId,
    /// Number of the beat in that life.
    pub seq: u64,
    /// Newest beat of this side *and of this life* that the other side had processed when it made the status.
    pub answers: Option<u64>,
    /// Boot clock at receipt.
    pub received_ns: u64,
}

/// What the link tells its consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A beat newer than all before.
    Heard(Heard),
}

/// What was dropped, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Wrong size, key, module, version, or not a heartbeat at all.
    pub refused: u64,
    /// Authentic, but repeated, overtaken or of a replaced life.
    pub stale: u64,
    /// Authentic, but its life has not proved to be alive.
    pub unproven: u64,
    /// Newer beats the consumer had no room for; the next one makes up for it.
    pub unread: u64,
}

/// The heartbeats of one module. Dropping it closes the sockets.
pub struct Link {
    shared: Arc<Shared>,
    /// One receiver per network; aborted on drop.
    _receivers: JoinSet<()>,
}

struct Shared {
    config: LinkConfig,
    state: Mutex<LinkState>,
    tx: mpsc::Sender<LinkEvent>,
}

/// When a beat was sent, by the sender's boot clock, and received, by this node's.
struct Arrived {
    sent_ns: u64,
    received_ns: u64,
}

struct LinkState {
    outgoing: Codec,
    incoming: Codec,
    random: SystemRandom,
    /// Where both numbers began: what is not above it was sent by an earlier link of this life.
    begin: u64,
    /// Number of the datagram sent last.
    counter: u64,
    /// Number of the beat sent last.
    seq: u64,
    /// `(seq, sent_ns)` at `seq % SENT_KEPT`.
    sent: Vec<(u64, u64)>,
    /// Newest beat the consumer has processed.
    processed: Option<(LifeId, u64)>,
    order: Order,
    /// Newest beat of a life that is being asked for a proof.
    pending: Option<(LifeId, Box<Beat>, Arrived)>,
    networks: Vec<Network>,
    dropped: Dropped,
}

#[derive(Default)]
struct Network {
    socket: Option<UdpSocket>,
    heard_ns: Option<u64>,
    rtt_us: Option<u64>,
    /// `(life, counter, its sent_ns, received_ns)` of the newest datagram that counted.
    newest: Option<(LifeId, u64, u64, u64)>,
    asked_ns: u64,
    complained_ns: u64,
}

impl Link {
    /// Opens the sockets and begins to listen. A network that is absent does not fail the link: its socket is
    /// tried again in the background. Must be called inside a tokio runtime.
    ///
    /// `tx` needs little room (16 is plenty): when it is full, a beat is dropped in favour of the next one.
    pub async fn start(config: LinkConfig, tx: mpsc::Sender<LinkEvent>) -> io::Result<Link> {
        if config.networks.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "module {} has no heartbeat network between {} and {}: name one in cluster.xml",
                    config.module, config.node, config.peer
                ),
            ));
        }
        // Both numbers begin at the boot clock: a link opened again in the same life stays above all it has used.
        let begin = boottime_ns();
        let state = LinkState {
            outgoing: Codec::new(config.key, &config.module, &config.node, &config.peer),
            incoming: Codec::new(config.key, &config.module, &config.peer, &config.node),
            random: SystemRandom::new(),
            counter: begin,
            seq: begin,
            sent: vec![(0, 0); SENT_KEPT],
            processed: None,
            order: Order::new(config.life, begin),
            begin,
            pending: None,
            networks: config.networks.iter().map(|_| Network::default()).collect(),
            dropped: Dropped::default(),
        };
        let shared = Arc::new(Shared { config, state: Mutex::new(state), tx });
        let mut receivers = JoinSet::new();
        for index in 0..shared.config.networks.len() {
            let first = shared.open(index);
            receivers.spawn(receive_for_ever(Arc::clone(&shared), index, first));
        }
        Ok(Link { shared, _receivers: receivers })
    }

    /// Sends `status` on every network and returns the number of the beat.
    ///
    /// The beat answers the newest beat declared [`Link::processed`]; `status` must have been made after that.
    pub fn send(&self, status: Status) -> u64 {
        let shared = &self.shared;
        let mut state = shared.lock();
        state.seq += 1;
        let seq = state.seq;
        let at = slot(seq);
        state.sent[at] = (seq, boottime_ns());
        let beat = Beat {
            protocol: PROTOCOL,
            module: shared.config.module.clone(),
            node: shared.config.node.clone(),
            life: shared.config.life,
            seq,
            answers: state.processed,
            status,
        };
        let life = state.order.life();
        for index in 0..state.networks.len() {
            let echo = state.networks[index].newest.filter(|(of, ..)| Some(*of) == life);
            shared.transmit(&mut state, index, echo, Body::Beat(Box::new(beat.clone())));
        }
        seq
    }

    /// The consumer has taken `heard` into account: beats sent from now on answer it. Not calling this is always
    /// safe; calling it early would let the other side believe in a promise nobody remembers.
    pub fn processed(&self, heard: &Heard) {
        let mut state = self.shared.lock();
        let is_current = state.order.life() == Some(heard.peer_life);
        let is_newer = state.processed.is_none_or(|(life, seq)| life != heard.peer_life || heard.seq > seq);
        if is_current && is_newer {
            state.processed = Some((heard.peer_life, heard.seq));
        }
    }

    /// Boot clock just before the first copy of beat `seq` left; `None` for one that was never sent or is older than
    /// the last 4096.
    pub fn sent_ns(&self, seq: u64) -> Option<u64> {
        let state = self.shared.lock();
        let (of, sent_ns) = state.sent[slot(seq)];
        (of == seq && seq != 0).then_some(sent_ns)
    }

    /// One row per network, in the order of the configuration.
    pub fn networks(&self) -> Vec<NetworkView> {
        let now = boottime_ns();
        let lost_after = nanos(self.shared.config.lost_after);
        let state = self.shared.lock();
        let rows = self.shared.config.networks.iter().zip(&state.networks);
        rows.map(|(config, network)| {
            let is_up = network.heard_ns.is_some_and(|at| now.saturating_sub(at) <= lost_after);
            NetworkView { lan: config.lan.clone(), is_up, rtt_us: network.rtt_us.filter(|_| is_up) }
        })
        .collect()
    }

    /// What was dropped so far.
    pub fn dropped(&self) -> Dropped {
        self.shared.lock().dropped
    }
}

fn slot(seq: u64) -> usize {
    usize::try_from(seq % SENT_KEPT as u64).expect("less than 4096")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Shared {
    /// A panic elsewhere leaves nothing half done here that a later beat would not put right.
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the socket of a network: one handle to receive, and one kept in the state to send.
    fn open(&self, index: usize) -> io::Result<tokio::net::UdpSocket> {
        let config = &self.config.networks[index];
        let socket = Socket::new(Domain::for_address(config.local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // An address that is away for a moment must not cost the socket. Best effort, like all of these.
        let _ = if config.local.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) };
        let _ = if config.local.is_ipv4() { socket.set_tos_v4(TOS) } else { socket.set_tclass_v6(TOS) };
        let _ = socket.set_priority(PRIORITY); // after the type of service, which sets it too
        socket.bind(&SockAddr::from(config.local))?;
        let receiving: UdpSocket = socket.into();
        let sending = receiving.try_clone()?;
        let receiving = tokio::net::UdpSocket::from_std(receiving)?;
        self.lock().networks[index].socket = Some(sending);
        Ok(receiving)
    }

    /// Seals and sends; a network that cannot send now simply does not: the next beat tries again.
    fn transmit(&self, state: &mut LinkState, index: usize, echo: Option<(LifeId, u64, u64, u64)>, body: Body) {
        let config = &self.config.networks[index];
        if state.networks[index].socket.is_none() {
            return;
        }
        state.counter += 1;
        let counter = state.counter;
        let mut salt = [0; 4];
        let _ = state.random.fill(&mut salt); // the counter alone already keeps nonces apart
        let now = boottime_ns();
        let echo =
            echo.map(|(life, counter, sent_ns, received_ns)| Echo { life, counter, sent_ns, held_ns: now.saturating_sub(received_ns) });
        let envelope = Envelope { sent_ns: now, echo, body };
        let Some(datagram) = state.outgoing.seal(self.config.life, counter, salt, &config.lan, &envelope) else {
            tracing::error!(module.name = %self.config.module, limit = BEAT_BYTES_MAX, "a heartbeat is too large to be sent: shorten the lineage");
            return;
        };
        if let Some(socket) = &state.networks[index].socket
            && let Err(error) = socket.send_to(&datagram, config.peer)
        {
            tracing::debug!(module.name = %self.config.module, lan = config.lan, peer = %config.peer, %error, "a heartbeat could not be sent");
        }
    }

    /// Takes one datagram.
    fn take(&self, index: usize, datagram: &[u8]) {
        let now = boottime_ns();
        let config = &self.config.networks[index];
        let mut state = self.lock();
        let state = &mut *state;
        let (header, envelope) = match state.incoming.open(&config.lan, datagram) {
            Ok(opened) => opened,
            Err(refused) => return self.ignore(state, index, Ignored::Refused(refused)),
        };
        if let Body::Beat(beat) = &envelope.body {
            let is_ours =
                beat.protocol == PROTOCOL && beat.module == self.config.module && beat.node == self.config.peer && beat.life == header.life;
            if !is_ours {
                return self.ignore(state, index, Ignored::Foreign);
            }
        }
        let this = (header.life, header.counter, envelope.sent_ns, now);
        match state.order.judge(index, header.life, header.counter, envelope.echo.as_ref(), state.counter) {
            Verdict::Ignored(why) => return self.ignore(state, index, why),
            Verdict::Unproven => {
                state.dropped.unproven += 1;
                match envelope.body {
                    Body::Beat(beat) => {
                        let is_newest = state.pending.as_ref().is_none_or(|(life, other, _)| *life != header.life || other.seq < beat.seq);
                        if is_newest {
                            state.pending = Some((header.life, beat, Arrived { sent_ns: envelope.sent_ns, received_ns: now }));
                        }
                        self.speak(state, index, this, Body::Ask);
                    }
                    Body::Ask => self.speak(state, index, this, Body::Proof),
                    Body::Proof => {}
                }
                return;
            }
            Verdict::NewLife => {
                tracing::info!(module.name = %self.config.module, peer.name = %self.config.peer, peer.life = %header.life, lan = config.lan,
                    "the other node's agent is in contact");
                for network in &mut state.networks {
                    network.newest = None;
                }
                // One that was sent before this link began may be a recording: by the sender's clock it is older than the link.
                let age = now.saturating_sub(state.begin);
                let is_new = |at: &Arrived| envelope.sent_ns.saturating_sub(at.sent_ns) <= age;
                if let Some((life, beat, at)) = state.pending.take()
                    && life == header.life
                    && is_new(&at)
                {
                    self.hand_on(state, *beat, at.received_ns);
                }
            }
            Verdict::Counts => {}
        }
        let network = &mut state.networks[index];
        network.heard_ns = Some(now);
        network.newest = Some(this);
        if let Some(echo) = envelope.echo.filter(|e| e.life == self.config.life) {
            let away = now.checked_sub(echo.sent_ns).and_then(|all| all.checked_sub(echo.held_ns));
            network.rtt_us = away.map(|ns| ns / 1000).or(network.rtt_us);
        }
        match envelope.body {
            Body::Beat(beat) => self.hand_on(state, *beat, now),
            Body::Ask => self.speak(state, index, this, Body::Proof),
            Body::Proof => {}
        }
    }

    fn hand_on(&self, state: &mut LinkState, beat: Beat, received_ns: u64) {
        if !state.order.is_newer(beat.life, beat.seq) {
            return;
        }
        let (peer_life, seq) = (beat.life, beat.seq);
        let answers = beat.answers.filter(|(life, seq)| *life == self.config.life && *seq > state.begin && *seq <= state.seq);
        let answers = answers.map(|(_, seq)| seq);
        let heard = Heard { status: beat.status, peer_life, seq, answers, received_ns };
        match self.tx.try_send(LinkEvent::Heard(heard)) {
            Ok(()) => state.order.handed_on(peer_life, seq),
            Err(_) => state.dropped.unread += 1,
        }
    }

    /// Asks or proves, naming the datagram that was just received.
    fn speak(&self, state: &mut LinkState, index: usize, this: (LifeId, u64, u64, u64), body: Body) {
        let now = this.3;
        if now.saturating_sub(state.networks[index].asked_ns) < ASK_EVERY_NS {
            return;
        }
        state.networks[index].asked_ns = now;
        self.transmit(state, index, Some(this), body);
    }

    fn ignore(&self, state: &mut LinkState, index: usize, why: Ignored) {
        match why {
            Ignored::Refused(_) | Ignored::Foreign => state.dropped.refused += 1,
            // Repeated datagrams are ordinary on a network.
            Ignored::OldLife | Ignored::Repeated => {
                state.dropped.stale += 1;
                return;
            }
        }
        let now = boottime_ns();
        let network = &mut state.networks[index];
        if network.complained_ns == 0 || now.saturating_sub(network.complained_ns) > COMPLAIN_EVERY_NS {
            network.complained_ns = now;
            tracing::warn!(module.name = %self.config.module, lan = self.config.networks[index].lan, reason = %why, "a datagram on the heartbeat port was dropped");
        }
    }
}

/// Receives on one network for as long as the link lives, opening the socket again whenever it fails.
async fn receive_for_ever(shared: Arc<Shared>, index: usize, first: io::Result<tokio::net::UdpSocket>) {
    let mut opened = first;
    let mut wait = BIND_RETRY_FIRST;
    let mut is_first_complaint = true;
    loop {
        let error = match opened {
            Ok(socket) => {
                let error = receive(&shared, index, &socket, &mut wait).await;
                shared.lock().networks[index].socket = None;
                error
            }
            Err(error) => error,
        };
        if is_first_complaint || wait == BIND_RETRY_FIRST {
            let config = &shared.config.networks[index];
            tracing::warn!(module.name = %shared.config.module, lan = config.lan, address = %config.local, %error,
                "no heartbeats on this network: its socket cannot be used; trying again until it can");
            is_first_complaint = false;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BIND_RETRY_LAST);
        opened = shared.open(index);
    }
}

/// Receives until the socket fails.
async fn receive(shared: &Shared, index: usize, socket: &tokio::net::UdpSocket, wait: &mut Duration) -> io::Error {
    // One byte more than allowed, so that a longer datagram shows as too long instead of being cut to size.
    let mut buffer = [0; BEAT_BYTES_MAX + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => {
                *wait = BIND_RETRY_FIRST;
                shared.take(index, &buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests;
