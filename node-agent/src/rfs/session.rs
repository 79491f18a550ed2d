//! Sessions of the serving side: an offer waits for the peer, brings it level, and then carries the live stream over
//! as many connections as it takes.
//!
//! A connection that breaks while the peer is brought level ends the session. One that breaks later does not: for a
//! patience the peer may come back, and the stream goes on where it stopped (see [`tsugi_core::replica::rejoin`],
//! which decides, and [`Stream`], which keeps what was not acknowledged). The agent hears of it only when the session
//! is over: the patience ran out, the peer is not the one it was, or either side ended it.

use super::acks::{Acks, Over};
use super::control::Agent;
use super::dirty::Base;
use super::frame::{Hello, Msg, Op, SyncMsg, VERSION};
use super::fs::Volume;
use super::handle::DataConfig;
use super::level::Level;
use super::link::{HANDSHAKE_MAX, Inbox, Link};
use super::ship::{Ship, TestSwitches};
use super::stream::{Durability, Lives, NotRejoined, Stream};
use super::sync::{How, Progress, Source};
use super::tls::Identity;
use anyhow::{Context, anyhow, bail};
use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tsugi_core::copies::Reach;
use tsugi_core::ids::{Epoch, LifeId, Lsn, Session};
use tsugi_core::replica::ReplicaNote;
use tsugi_core::replica::rejoin::{Asks, Refusal};

/// Binding again while the last listener's port is being freed: this often, so far apart.
const BIND_TRIES: u32 = 40;
/// See `BIND_TRIES`; also the pause after a connection that could not be accepted.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Connections that introduce themselves, or wait to be looked at, at the same time: strangers that say nothing must
/// not keep the peer out while they are waited for.
const GUESTS_MAX: usize = 8;
/// What an unclean end of the peer can make it compare is what was written in about twice this time.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether a checkpoint is due before that.
const CHECKPOINT_POLL: Duration = Duration::from_millis(500);
/// And whether one that is under way can go on.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Answers of the peer that may wait for the resynchronisation: its window is far smaller.
const ANSWERS_MAX: usize = 1024;

/// Why a session ends for a repair. Worded in `tsugi-web`.
const REPAIRED: &str = "what differs between the two copies is copied again";

/// What sessions need of the node that serves.
pub struct Sessions {
    config: Arc<DataConfig>,
    agent: Agent,
    ship: Arc<Ship>,
    volumes: Arc<Vec<Arc<Volume>>>,
    progress: Progress,
    life: LifeId,
    offer: Mutex<Option<Offer>>,
    reach: Mutex<Option<Reach>>,
}

struct Offer {
    shared: Arc<Shared>,
    news: Sender<News>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    cancel: AtomicBool,
    /// The connection of a resynchronisation.
    link: Mutex<Option<Arc<Link>>>,
    stream: Mutex<Option<Arc<Stream>>>,
}

/// What a session waits for. At most `GUESTS_MAX` arrivals and one end per connection are under way.
enum News {
    /// A connection introduced itself.
    Arrived(Box<Guest>),
    /// A connection's receiver has ended.
    Ended(Arc<Link>),
    /// The session is not wanted any more.
    Cancelled,
}

struct Guest {
    inbox: Inbox,
    epoch: u64,
    session: u64,
    hello: Hello,
    _place: Place,
}

struct Reader {
    link: Arc<Link>,
    thread: JoinHandle<Over>,
}

struct Broken {
    since: Instant,
    patience: Duration,
    why: anyhow::Error,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process (see `process`), so poison carries no news.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    fn close(&self, why: &str) {
        if let Some(link) = lock(&self.link).take() {
            link.close_saying(&Msg::Refuse { detail: why.to_owned() });
        }
        let stream = lock(&self.stream).clone();
        if let Some(stream) = stream {
            stream.end(why);
        }
    }
}

impl Sessions {
    /// None yet.
    pub fn new(config: Arc<DataConfig>, agent: Agent, ship: Arc<Ship>, volumes: Arc<Vec<Arc<Volume>>>, life: LifeId) -> Arc<Self> {
        Arc::new(Self {
            config,
            agent,
            ship,
            volumes,
            progress: Progress::default(),
            life,
            offer: Mutex::default(),
            reach: Mutex::default(),
        })
    }

    /// Progress of a resynchronisation.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The last number sent, and the bytes sent and received in the session.
    pub fn traffic(&self) -> (u64, u64) {
        let Some(shared) = self.shared() else { return (0, 0) };
        if let Some(stream) = &*lock(&shared.stream) {
            return (stream.last_lsn(), stream.bytes());
        }
        (0, lock(&shared.link).as_ref().map_or(0, |l| l.bytes()))
    }

    /// Bytes of the contents sent in the session, and of what travelled in their place; 0 while nothing is compressed.
    pub fn compression(&self) -> (u64, u64) {
        self.shared().and_then(|shared| lock(&shared.stream).as_ref().map(|s| s.compressor().figures())).unwrap_or_default()
    }

    /// Begins a verification.
    ///
    /// # Errors
    /// The peer is not level, one is under way, or no thread can be started.
    pub fn verify(&self) -> anyhow::Result<()> {
        let stream = self.shared().and_then(|shared| lock(&shared.stream).clone()).filter(|_| self.ship.is_armed());
        let Some(stream) = stream else { bail!("the peer is not level") };
        self.ship.verification.start(&self.ship, &self.volumes, stream, self.agent.clone())
    }

    /// Ends the session if something is known to differ: the next one puts it right. The agent has seen to it that this node
    /// may go on alone for that moment.
    pub fn repair(&self) {
        let is_wanted = self.ship.verification.unrepaired() > 0 && self.ship.is_armed();
        if let Some(stream) = self.shared().and_then(|shared| lock(&shared.stream).clone()).filter(|_| is_wanted) {
            stream.end(REPAIRED);
        }
    }

    /// What the resynchronisation compares, or the last one did.
    pub fn reach(&self) -> Option<Reach> {
        *lock(&self.reach)
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        lock(&self.offer).as_ref().map(|o| o.shared.clone())
    }

    /// Lets the peer connect for a session; an earlier one ends.
    pub fn offer(self: &Arc<Self>, epoch: u64, session: u64) -> anyhow::Result<()> {
        self.withdraw("another session is offered");
        let identity = Identity::load(&self.config.identity_dir, self.config.peer.as_str(), &self.config.cluster)?
            .without_cipher(TestSwitches::is_open(self.config.module.as_str()));
        let (tell, news) = channel();
        let door = Door::open(listen(self.config.listen)?, Arc::new(identity), self.config.clone(), epoch, session, tell.clone())?;
        let shared = Arc::new(Shared::default());
        let one =
            One { all: self.clone(), checkpoints: Mutex::default(), epoch, session, shared: shared.clone(), tell: tell.clone(), news };
        let thread = thread::Builder::new().name("session".into()).spawn(move || {
            let ended = one.run();
            // Nobody is let in any more before the end is told.
            drop(door);
            one.settle(ended);
        })?;
        *lock(&self.offer) = Some(Offer { shared, news: tell, thread });
        Ok(())
    }

    /// From now on the end of the session is no news, and its connection is closed: the first step of going alone, so
    /// that nobody keeps the gate who waits for the peer.
    pub fn cancel(&self, why: &str) {
        self.hush();
        if let Some(shared) = self.shared() {
            shared.close(why);
        }
    }

    /// From now on the end of the session is no news for the agent.
    pub fn hush(&self) {
        if let Some(shared) = self.shared() {
            shared.cancel.store(true, Ordering::Release);
        }
    }

    /// Tells the peer that nothing more will come. Without any lock while it is sent: a full connection must not
    /// hold up whoever abandons meanwhile.
    pub fn say_bye(&self, last: u64) {
        let link = self.shared().and_then(|shared| lock(&shared.stream).as_ref().and_then(|s| s.link()));
        if let Some(link) = link {
            let _ = link.send(last, &Msg::Bye, &[]);
        }
    }

    /// Ends the session, without a note.
    pub fn withdraw(&self, why: &str) {
        let Some(offer) = lock(&self.offer).take() else { return };
        offer.shared.cancel.store(true, Ordering::Release);
        offer.shared.close(why);
        // The session's thread may have ended by itself.
        let _ = offer.news.send(News::Cancelled);
        let _ = offer.thread.join();
    }
}

/// How much has to be compared with a peer that says this of its copy, and of the activity log that speaks of it.
fn reach(base: Option<Base>, peer: Option<Level>, log: Option<(u128, u64)>) -> Reach {
    match (base, peer) {
        (Some(Base { id, logged: Some(told), .. }), _) if log.is_some_and(|(base, count)| base == id && count >= told) => Reach::Logged,
        (Some(base), Some(peer)) if base.id == peer.base && (base.flushed..=base.sent).contains(&peer.flushed) => Reach::Noted,
        (Some(base), Some(peer)) if base.id == peer.base => {
            tracing::warn!(
                told = base.flushed,
                sent = base.sent,
                found = peer.flushed,
                "the peer's copy is not what it was: a disk, of the peer or of this node, was set back; everything is compared"
            );
            Reach::Whole
        }
        _ => Reach::Whole,
    }
}

/// The thread of one session.
struct One {
    all: Arc<Sessions>,
    /// The base, and the thread of its checkpoints.
    checkpoints: Mutex<Option<(u128, JoinHandle<()>)>>,
    epoch: u64,
    session: u64,
    shared: Arc<Shared>,
    tell: Sender<News>,
    news: Receiver<News>,
}

impl One {
    fn settle(&self, ended: anyhow::Result<()>) {
        let detail = ended.err().map_or_else(|| "the session ended".to_owned(), |e| format!("{e:#}"));
        self.shared.close(&detail);
        self.all.ship.lost(self.session);
        *lock(&self.all.progress) = None;
        if !self.shared.is_cancelled() {
            self.all.agent.note(ReplicaNote::SessionLost { session: Session(self.session), detail });
        }
        self.all.ship.verification.end();
        // Before another session may begin: what it still does counts for this one. It may be in a flush of this node's disk.
        let checkpoints = lock(&self.checkpoints).take();
        if let Some((base, thread)) = checkpoints {
            let _ = thread.join();
            let last = lock(&self.shared.stream).as_ref().map_or(0, |stream| stream.last_lsn());
            self.all.ship.dirty.sent(base, last);
        }
    }

    fn run(&self) -> anyhow::Result<()> {
        let Some(Guest { inbox, hello, .. }) = self.first()? else { return Ok(()) };
        let link = inbox.link().clone();
        let lives = Lives { source: self.all.life, target: hello.life };
        let stream = Stream::new(&link, lives, self.all.config.compress);
        *lock(&self.shared.link) = Some(link.clone());
        *lock(&self.shared.stream) = Some(stream.clone());
        if self.shared.is_cancelled() {
            return Ok(());
        }
        let dirty = &self.all.ship.dirty;
        if let Err(error) = self.all.ship.verification.note_found(&self.all.volumes, dirty) {
            tracing::warn!(error = format!("{error:#}"), "what a comparison found cannot be noted; everything is compared");
            let _gate = self.all.ship.close_gate();
            dirty.stop();
        }
        let reach = match reach(dirty.base(), hello.level, hello.log) {
            Reach::Whole if dirty.copying(|copying| copying.goes_on(hello.copying)) == Some(true) => Reach::Rest,
            reach => reach,
        };
        *lock(&self.all.reach) = Some(reach);
        let (whole, suspects) = (matches!(reach, Reach::Whole | Reach::Rest), reach == Reach::Logged);
        let rest = reach == Reach::Rest;
        link.send(0, &Msg::Welcome { life: self.all.life, unflushed: Vec::new(), whole, rest, suspects }, &[])?;
        tracing::info!(session = self.session, ?reach, "the peer is connected; resynchronisation begins");
        let (answers, from_peer) = sync_channel(ANSWERS_MAX);
        let reader = self.receive_from(inbox, &stream, Some(answers))?;
        let rate = self.all.config.resync_kb_per_s_max.map(|kb| kb * 1024);
        let how = How { reach, bytes_per_s_max: rate, progress: self.all.progress.clone() };
        let level = Source::new(&self.all.volumes, &self.all.ship, &link, &stream, from_peer, how).run();
        if let Err(e) = level {
            // A connection that was still whole did not end the resynchronisation: its own error is the cause.
            let own = !link.is_broken();
            link.close();
            let (Over::Broken(cause) | Over::Ended(cause)) = reader.join();
            return Err(if own { e } else { cause });
        }
        *lock(&self.all.progress) = None;
        lock(&self.shared.link).take();
        self.all.agent.note(ReplicaNote::Armed { session: Session(self.session) });
        let over = self.checkpoints(&stream)?;
        let ended = self.live(&stream, reader);
        // Dropped: that thread ends.
        drop(over);
        ended
    }

    /// From time to time the peer flushes everything, so that little has to be compared when it comes back. Ends when what
    /// is returned is dropped.
    fn checkpoints(&self, stream: &Arc<Stream>) -> io::Result<Sender<()>> {
        let (over, is_over) = channel::<()>();
        let (ship, stream, volumes) = (self.all.ship.clone(), stream.clone(), self.all.volumes.clone());
        let Some(base) = ship.dirty.base() else { return Ok(over) };
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(move || {
            // Whether the session is over; otherwise a moment has passed.
            let wait = |pause| is_over.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) || stream.over().is_some();
            loop {
                let begun = Instant::now();
                while begun.elapsed() < CHECKPOINT_EVERY && !ship.dirty.is_filling() && !ship.switches.checkpoints {
                    if wait(CHECKPOINT_POLL) {
                        return;
                    }
                }
                if !ship.dirty.is_empty() {
                    // Of files that stay open: nothing will speak of them any more.
                    volumes.iter().for_each(|v| v.send_times());
                }
                let Some(generation) = ship.dirty.begin_checkpoint() else {
                    if wait(DRAIN_POLL) {
                        return;
                    }
                    continue;
                };
                while !ship.dirty.is_drained(generation) {
                    if wait(DRAIN_POLL) {
                        return;
                    }
                }
                let lsn = loop {
                    match ship.unless_held(|| stream.send(Op::Checkpoint, &[], Durability::Disk)) {
                        Some(Some(lsn)) => break lsn,
                        Some(None) => return,
                        // What is being released is flushed as a whole.
                        None if wait(DRAIN_POLL) => return,
                        None => {}
                    }
                };
                while stream.is_unflushed(lsn) {
                    if wait(DRAIN_POLL) {
                        return;
                    }
                }
                ship.forget_durable(lsn);
                // This node's own disk as well: the log is of what may be missing on it. A failure is told by `sync_all`.
                if volumes.iter().all(|v| v.sync_all().is_ok()) {
                    ship.dirty.end_checkpoint(generation, base.id, lsn);
                }
            }
        })?;
        *lock(&self.checkpoints) = Some((base.id, thread));
        Ok(over)
    }

    /// The first connection for this session.
    fn first(&self) -> anyhow::Result<Option<Guest>> {
        loop {
            match self.news.recv()? {
                News::Cancelled => return Ok(None),
                News::Ended(_) => {}
                News::Arrived(guest) => {
                    let theirs = (guest.epoch, guest.session);
                    if theirs == (self.epoch, self.session) && guest.hello.again.is_none() {
                        return Ok(Some(*guest));
                    }
                    // The peer's late tries of an earlier session do not end an offer.
                    let (epoch, session) = theirs;
                    let detail = match guest.hello.again {
                        None => format!(
                            "this node offers session {} of epoch {}, the peer wants {session} of {epoch}",
                            self.session, self.epoch
                        ),
                        Some(_) => Refusal::NotArmed.to_string(),
                    };
                    refuse(&guest, &detail);
                }
            }
        }
    }

    /// The peer is level: until the session is over.
    fn live(&self, stream: &Arc<Stream>, reader: Reader) -> anyhow::Result<()> {
        let mut reader = Some(reader);
        let mut broken: Option<Broken> = None;
        loop {
            if self.shared.is_cancelled() {
                return Ok(());
            }
            let next = match &broken {
                None => self.news.recv().ok(),
                Some(b) => self.news.recv_timeout(b.patience.saturating_sub(b.since.elapsed())).ok(),
            };
            match next {
                None => {
                    let Some(Broken { patience, why, .. }) = broken else { return Ok(()) };
                    return Err(why.context(format!("the peer did not come back within {} ms", patience.as_millis())));
                }
                Some(News::Cancelled) => return Ok(()),
                Some(News::Ended(link)) => {
                    let Some(ended) = reader.take_if(|r| Arc::ptr_eq(&r.link, &link)) else { continue };
                    broken = Some(self.broke(stream, ended)?);
                }
                Some(News::Arrived(guest)) => {
                    let asks = guest.asks(self.all.life);
                    if let Err(refusal) = stream.may_rejoin(&asks) {
                        refuse(&guest, &refusal.to_string());
                        if !refusal.is_final() {
                            continue;
                        }
                        // What ended it says more than that it is over.
                        return Err(stream.over().map_or_else(|| refusal.into(), |why| anyhow!(why)));
                    }
                    if let Some(earlier) = reader.take() {
                        // Broken at the other end only. What it had received is received first.
                        self.broke(stream, earlier)?;
                    }
                    (reader, broken) = self.resume(stream, *guest, &asks)?;
                }
            }
        }
    }

    /// A connection ended: how long its session is kept. An error if the session ended with it.
    fn broke(&self, stream: &Stream, reader: Reader) -> anyhow::Result<Broken> {
        stream.detach(Some(&reader.link));
        let patience = reader.link.patience(self.all.config.patience);
        match reader.join() {
            Over::Ended(why) => Err(why),
            Over::Broken(why) => match stream.over() {
                Some(detail) => Err(anyhow!(detail)),
                None => {
                    tracing::warn!(
                        session = self.session,
                        cause = format!("{why:#}"),
                        patience_ms = patience.as_millis(),
                        "the replication connection broke; writes wait for the peer to come back"
                    );
                    Ok(Broken { since: Instant::now(), patience, why })
                }
            },
        }
    }

    /// The stream goes on over a new connection.
    fn resume(&self, stream: &Arc<Stream>, guest: Guest, asks: &Asks) -> anyhow::Result<(Option<Reader>, Option<Broken>)> {
        let link = guest.inbox.link().clone();
        // What the peer has applied is acknowledged by that, whether or not it ever said so before.
        stream.acknowledged(asks.applied.0, &mut Vec::new())?;
        self.all.ship.acknowledged(self.session, asks.applied.0, &[]);
        let mut reader = None;
        let resumed = stream.rejoin(asks, &link, || {
            reader = Some(self.receive_from(guest.inbox, stream, None)?);
            Ok(())
        });
        match resumed {
            Ok(resend) => {
                let again = (resend.last.0 + 1).saturating_sub(resend.first.0);
                tracing::info!(session = self.session, again, fsyncs = resend.unflushed.len(), "the replication connection is resumed");
                Ok((reader, None))
            }
            Err(NotRejoined::Refused(refusal)) => {
                link.close_saying(&Msg::Refuse { detail: refusal.to_string() });
                Err(refusal.into())
            }
            Err(NotRejoined::Broke(e)) => match reader {
                Some(reader) => Ok((None, Some(self.broke(stream, reader)?))),
                None => {
                    stream.detach(Some(&link));
                    let patience = link.patience(self.all.config.patience);
                    Ok((None, Some(Broken { since: Instant::now(), patience, why: e.into() })))
                }
            },
        }
    }

    fn receive_from(&self, inbox: Inbox, stream: &Arc<Stream>, answers: Option<SyncSender<SyncMsg>>) -> io::Result<Reader> {
        let (link, ship, tell) = (inbox.link().clone(), self.all.ship.clone(), self.tell.clone());
        let acks = Acks::new(inbox, stream.clone(), answers);
        let of = link.clone();
        self.all.ship.receive_by(&acks);
        let thread = thread::Builder::new().name("acks".into()).spawn(move || {
            let over = acks.run(&ship);
            link.close();
            let _ = tell.send(News::Ended(link));
            over
        })?;
        Ok(Reader { link: of, thread })
    }
}

impl Reader {
    /// How it ended; the connection is closed, so it ends at once.
    fn join(self) -> Over {
        self.link.close();
        self.thread.join().unwrap_or_else(|_| Over::Ended(anyhow!("the receiving thread panicked")))
    }
}

impl Guest {
    /// One that wants to begin anew asks for what no rule grants in a session that has begun.
    fn asks(&self, life: LifeId) -> Asks {
        let again = self.hello.again.as_ref();
        Asks {
            epoch: Epoch(self.epoch),
            session: Session(self.session),
            source: again.map_or(life, |a| a.source),
            target: self.hello.life,
            attempt: again.map_or(0, |a| a.attempt),
            applied: Lsn(again.map_or(0, |a| a.applied)),
        }
    }
}

fn refuse(guest: &Guest, detail: &str) {
    tracing::warn!(detail, "a connection was refused");
    guest.inbox.link().close_saying(&Msg::Refuse { detail: detail.to_owned() });
}

/// Accepts connections while it is open; each introduces itself on a thread of its own.
struct Door {
    listener: Arc<TcpListener>,
    hall: Arc<Hall>,
    thread: Option<JoinHandle<()>>,
}

struct Hall {
    identity: Arc<Identity>,
    config: Arc<DataConfig>,
    epoch: u64,
    session: u64,
    tell: Sender<News>,
    closed: AtomicBool,
    places: Arc<AtomicUsize>,
    /// Connections that are introducing themselves, so that closing the door ends that.
    sockets: Mutex<HashMap<u64, TcpStream>>,
}

/// One of `GUESTS_MAX`.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(of: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = of.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < GUESTS_MAX).then_some(n + 1));
        taken.ok().map(|_| Self(of.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Door {
    fn open(
        listener: TcpListener,
        identity: Arc<Identity>,
        config: Arc<DataConfig>,
        epoch: u64,
        session: u64,
        tell: Sender<News>,
    ) -> io::Result<Self> {
        let (closed, places, sockets) = (AtomicBool::new(false), Arc::default(), Mutex::default());
        let hall = Arc::new(Hall { identity, config, epoch, session, tell, closed, places, sockets });
        let listener = Arc::new(listener);
        let (at, inside) = (listener.clone(), hall.clone());
        let thread = thread::Builder::new().name("accept".into()).spawn(move || inside.accept(&at))?;
        Ok(Self { listener, hall, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.hall.closed.store(true, Ordering::Release);
        // Wakes the thread that waits in accept.
        if let Err(e) = socket2::SockRef::from(&*self.listener).shutdown(Shutdown::Both) {
            tracing::warn!(error = %e, "the replication listener could not be closed");
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for socket in lock(&self.hall.sockets).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Hall {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut number = 0;
        loop {
            let accepted = listener.accept();
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            let admitted = accepted.and_then(|(socket, _)| {
                let Some(place) = Place::take(&self.places) else {
                    return Err(io::Error::other(format!("{GUESTS_MAX} connections are introducing themselves")));
                };
                number += 1;
                lock(&self.sockets).insert(number, socket.try_clone()?);
                let (hall, number) = (self.clone(), number);
                thread::Builder::new().name("welcome".into()).spawn(move || hall.greet(number, socket, place))
            });
            if let Err(e) = admitted {
                tracing::warn!(error = %e, "a replication connection could not be accepted");
                thread::sleep(BIND_PAUSE);
            }
        }
    }

    fn greet(&self, number: u64, socket: TcpStream, place: Place) {
        let introduced = self.introduce(socket, place);
        lock(&self.sockets).remove(&number);
        match introduced {
            // The session may have ended meanwhile.
            Ok(guest) => drop(self.tell.send(News::Arrived(Box::new(guest)))),
            // Strangers do not end an offer.
            Err(e) => tracing::warn!(error = format!("{e:#}"), "a connection was refused"),
        }
    }

    fn introduce(&self, socket: TcpStream, place: Place) -> anyhow::Result<Guest> {
        let link = Link::accept(socket, &self.identity, self.epoch, self.session)?;
        let mut inbox = Inbox::new(link.clone());
        let (epoch, session, msg) = inbox.expect(HANDSHAKE_MAX)?;
        let Msg::Hello(hello) = msg else { bail!("the peer did not introduce itself") };
        let refusal = if hello.version != VERSION {
            format!(
                "this node speaks version {VERSION} of the replication protocol, the peer version {}: install the same version of Tsugi on both nodes",
                hello.version
            )
        } else if hello.module != self.config.module.as_str() || usize::from(hello.dirs) != self.config.dirs.len() {
            "the two nodes have different configurations of this module".to_owned()
        } else {
            return Ok(Guest { inbox, epoch, session, hello, _place: place });
        };
        link.close_saying(&Msg::Refuse { detail: refusal.clone() });
        bail!("{refusal}");
    }
}

fn listen(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(at) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                tries += 1;
                thread::sleep(BIND_PAUSE);
            }
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("cannot listen on {at} for the peer; is the address of this node, and is the port free?"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_that_is_where_this_node_left_it_is_compared_in_part() {
        let base = |id| Some(Base { id, flushed: 10, sent: 20, logged: None });
        let peer = |base, flushed| Some(Level { base, flushed });
        for (known, told, wanted) in [
            (base(1), peer(1, 10), Reach::Noted),
            (base(1), peer(1, 20), Reach::Noted),
            // The peer was set back; this node was.
            (base(1), peer(1, 9), Reach::Whole),
            (base(1), peer(1, 21), Reach::Whole),
            (base(1), peer(2, 15), Reach::Whole),
            (None, peer(1, 15), Reach::Whole),
            (base(1), None, Reach::Whole),
            (None, None, Reach::Whole),
        ] {
            assert_eq!(reach(known, told, None), wanted, "{known:?} {told:?}");
        }
        // The peer was the source, and its log was 7 entries long when it was last heard of.
        let lost = Some(Base { id: 1, flushed: 20, sent: 20, logged: Some(7) });
        for (log, wanted) in [
            (Some((1, 7)), Reach::Logged),
            (Some((1, 9)), Reach::Logged),
            // Set back, or not whole; of another history; none.
            (Some((1, 6)), Reach::Whole),
            (Some((2, 9)), Reach::Whole),
            (None, Reach::Whole),
        ] {
            assert_eq!(reach(lost, None, log), wanted, "{log:?}");
        }
        assert_eq!(reach(base(1), None, Some((1, 9))), Reach::Whole, "this node handed over, or was level");
    }
}
