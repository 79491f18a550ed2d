//! The following role: the directories hidden, the stream applied.
//!
//! When the connection breaks after this side was brought level, it connects again and says what it has applied; the
//! stream goes on from there. The agent hears of it only when that is not possible.

use super::activity;
use super::apply::{Applier, Flush};
use super::control::Agent;
use super::excluded::Excluded;
use super::frame::{Again, Hello, Msg, Op, SyncMsg, VERSION};
use super::handle::DataConfig;
use super::level::{self, Level};
use super::link::{Busy, HANDSHAKE_MAX, Inbox, Link, TICK};
use super::look::{self, Found, Look, Seen};
use super::ship::TestSwitches;
use super::sync_target::{Reply, SyncTarget};
use super::tls::Identity;
use super::volume;
use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tsugi_core::ids::{LifeId, Session};
use tsugi_core::module::Async;
use tsugi_core::replica::ReplicaNote;

/// Between two tries to connect: the source may not have its offer yet.
const RETRY: Duration = Duration::from_millis(100);
/// A connection that is not made by then is tried again.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection that is to continue a session is given up sooner, on a short line, and tried again: what was lost
/// on the way is not sent again by itself for a second.
const RECONNECT_MAX: Duration = Duration::from_millis(300);
/// The same for each answer of its handshake: a busy machine takes its time for the cipher.
const REJOIN_ANSWER_MAX: Duration = Duration::from_secs(1);
/// Round trips of the line that both get in addition: one, one packet lost and sent again after three, and one to spare.
const REJOIN_TRIPS: u32 = 5;
/// After an orderly end by the source, how long the agent has to order what comes next before it is told.
const RELEASED_GRACE: Duration = Duration::from_secs(2);
/// Operations applied before the source hears of it while more are here already.
const ACK_EVERY: u64 = 32;
/// Questions of a verification that wait: the source has one answered before it asks the next, but for a new connection.
const LOOKS_MAX: usize = 16;
/// Threads that take turns: all but one may be flushing. The kernel merges flushes in its journal.
const APPLY_THREADS: usize = 8;

/// Where this node followed a source until.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Where both were level.
    pub base: u128,
    /// The last operation applied since.
    pub last: u64,
    /// The source did not end in order: its activity log was so long, at least.
    pub logged: Option<u64>,
}

/// One session followed.
pub struct Following {
    stop: Arc<AtomicBool>,
    link: Arc<Mutex<Option<Arc<Link>>>>,
    last: Arc<AtomicU64>,
    left: Arc<Mutex<Option<Left>>>,
    thread: Option<JoinHandle<()>>,
    roots: Arc<Vec<OwnedFd>>,
    session: u64,
    no_fsync: bool,
}

struct Follower {
    config: Arc<DataConfig>,
    agent: Agent,
    identity: Identity,
    epoch: u64,
    session: u64,
    life: LifeId,
    stop: Arc<AtomicBool>,
    slot: Arc<Mutex<Option<Arc<Link>>>>,
    last: Arc<AtomicU64>,
    left: Arc<Mutex<Option<Left>>>,
    roots: Arc<Vec<OwnedFd>>,
    /// What is not replicated, of each directory.
    excluded: Arc<Vec<Excluded>>,
    switches: TestSwitches,
    /// Questions of a verification; the thread that looks ends with this.
    looks: Mutex<Option<SyncSender<ToLook>>>,
}

enum End {
    Stopped,
    Released,
}

/// A question, and where its answer goes.
type ToLook = (Arc<Link>, Look);

/// What the threads that apply have in turn.
struct Turn {
    joined: Option<Joined>,
    target: SyncTarget,
    applier: Applier,
    /// Operations applied that the source has to hear of.
    unacked: u64,
    /// Tries to continue the session so far.
    attempt: u64,
    ended: Option<Result<End, Failure>>,
}

/// Flushes that nobody does yet, and how many are being done.
struct Flushes<T> {
    waiting: Mutex<VecDeque<T>>,
    under_way: AtomicUsize,
    /// Threads beside the first.
    threads: AtomicUsize,
}

impl<T> Flushes<T> {
    fn new() -> Self {
        Self { waiting: Mutex::default(), under_way: AtomicUsize::new(0), threads: AtomicUsize::new(0) }
    }

    fn add(&self, flush: T) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(flush);
    }

    /// One to do now, unless nobody would be left to receive. Whoever has done one asks again, so none is forgotten.
    fn next(&self) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.under_way.load(Ordering::SeqCst) >= self.threads.load(Ordering::SeqCst).max(1) {
            return None;
        }
        let next = waiting.pop_front()?;
        self.under_way.fetch_add(1, Ordering::SeqCst);
        Some(next)
    }

    /// One that was taken is done.
    fn done(&self) {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a turn ends with.
enum Next {
    Flush(Flush),
    End(End),
}

/// A connection that is agreed on.
struct Joined {
    link: Arc<Link>,
    inbox: Inbox,
    since: Instant,
    /// Life of the source's data process.
    source: LifeId,
    /// Fsyncs whose answers are asked for again.
    unflushed: Vec<u64>,
    /// The source wants to know what this log speaks of.
    suspects: Option<activity::Found>,
}

/// How a connection is tried.
struct Try {
    connect: Duration,
    answer: Duration,
    again: Option<Again>,
}

/// Why a try failed.
enum NotJoined {
    /// By the source.
    Refused(String),
    /// By something that may change.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for NotJoined {
    fn from(e: E) -> Self {
        Self::Other(e.into())
    }
}

impl Following {
    /// Connects in the background and follows.
    pub fn start(
        config: Arc<DataConfig>,
        agent: Agent,
        roots: Arc<Vec<OwnedFd>>,
        (life, switches): (LifeId, TestSwitches),
        epoch: u64,
        session: u64,
    ) -> anyhow::Result<Self> {
        let identity = Identity::load(&config.identity_dir, config.peer.as_str(), &config.cluster)?
            .without_cipher(TestSwitches::is_open(config.module.as_str()));
        let excluded = Arc::new(config.dirs.iter().map(Excluded::judged).collect::<anyhow::Result<_>>()?);
        let stop = Arc::new(AtomicBool::new(false));
        let slot = Arc::new(Mutex::new(None));
        let last = Arc::new(AtomicU64::new(0));
        let left = Arc::default();
        let follower = Follower {
            config,
            agent,
            identity,
            epoch,
            session,
            life,
            stop: stop.clone(),
            slot: slot.clone(),
            last: last.clone(),
            left: Arc::clone(&left),
            roots: roots.clone(),
            excluded,
            switches,
            looks: Mutex::default(),
        };
        let thread = std::thread::Builder::new().name("apply".into()).spawn(move || follower.run())?;
        Ok(Self { stop, link: slot, last, left, thread: Some(thread), roots, session, no_fsync: switches.no_fsync })
    }

    /// Number of the session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Last operation applied.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Bytes sent and received; 0 while it is not connected.
    pub fn bytes(&self) -> u64 {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |l| l.bytes())
    }

    /// Ends the session: nothing is applied afterwards, and what was is flushed. The last number applied; and, if this copy
    /// was level with the source's, where it stands to that.
    pub fn close(mut self) -> anyhow::Result<(u64, Option<Left>)> {
        let connected = {
            // Under the lock the connecting thread takes: not connected now means never, or never again.
            let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            self.stop.store(true, Ordering::Release);
            link.as_ref().inspect(|l| l.close_saying(&Msg::Bye)).is_some()
        };
        if let Some(thread) = self.thread.take().filter(|_| connected) {
            // It may be waiting for this very order after a release; the takeover waits for it.
            thread.thread().unpark();
            // A thread still connecting is left to its time-out: a claim must not wait for a dead host.
            let _ = thread.join();
        }
        if !self.no_fsync {
            for root in self.roots.iter() {
                volume::syncfs(root.as_raw_fd()).context("cannot flush what was applied")?;
            }
        }
        let left = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last();
        Ok((last, left.map(|left| Left { last, ..left })))
    }
}

impl Follower {
    fn run(self) {
        let session = Session(self.session);
        match self.follow() {
            Ok(End::Stopped) => {}
            Ok(End::Released) => {
                let begun = Instant::now();
                while begun.elapsed() < RELEASED_GRACE && !self.stop.load(Ordering::Acquire) {
                    std::thread::park_timeout(RELEASED_GRACE.saturating_sub(begun.elapsed()));
                }
                if !self.stop.load(Ordering::Acquire) {
                    self.agent.note(ReplicaNote::SessionLost { session, detail: "the serving node released the directories".into() });
                }
            }
            Err(Failure::Session(e) | Failure::Line(e)) => {
                if !self.stop.load(Ordering::Acquire) {
                    self.agent.note(ReplicaNote::SessionLost { session, detail: format!("{e:#}") });
                }
            }
            Err(Failure::Apply(e)) => {
                *self.left() = None;
                // Of a copy that could not be written nothing is taken for granted.
                if let Err(e) = level::clear(&self.roots) {
                    tracing::warn!(error = %e, "what this copy was level with is still written on it");
                }
                self.agent.note(ReplicaNote::ApplyFailed { session, detail: format!("{e:#}") });
            }
        }
    }

    fn follow(&self) -> Result<End, Failure> {
        let Some(mut joined) = self.connect() else { return Ok(End::Stopped) };
        tracing::info!(session = self.session, "connected to the serving node; being brought level");
        let mut target = SyncTarget::new(self.roots.clone(), self.excluded.clone());
        let in_memory = self.config.ack == Async::Second;
        let (roots, excluded) = (self.roots.clone(), self.excluded.clone());
        let applier = Applier::new(roots, excluded, joined.link.clone(), in_memory, self.switches.no_fsync);
        let live = Arc::new(AtomicBool::new(false));
        self.keep_talking(&joined.link, &live)?;
        if let Some(log) = joined.suspects.take() {
            target.say_what_is_new();
            if let Err(e) = self.say_suspects(&joined.link, &log) {
                if !joined.link.is_broken() {
                    // It would fail again: the next session compares everything.
                    level::clear(&self.roots).context("cannot give up what this copy was level with")?;
                }
                live.store(true, Ordering::Release);
                joined.link.close();
                return Err(e.into());
            }
        }
        let turn = Turn { joined: Some(joined), target, applier, unacked: 0, attempt: 0, ended: None };
        let Turn { mut applier, ended, .. } = self.work_all(turn, &live);
        let ended = ended.unwrap_or_else(|| Err(anyhow::anyhow!("the threads that apply have ended").into()));
        live.store(true, Ordering::Release);
        let ended = applier.settle().map_err(Failure::Apply).and(ended);
        let ended = match (ended, applier.failure()) {
            (_, Some(detail)) => Err(Failure::Apply(anyhow::anyhow!(detail))),
            (ended, None) => ended,
        };
        let link = self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(link) = link {
            if let Err(Failure::Apply(e)) = &ended {
                let _ = link.send(self.last.load(Ordering::Acquire), &Msg::Failed { detail: format!("{e:#}") }, &[]);
            }
            link.close();
        }
        ended
    }

    /// Answers a question of a verification, on a thread of its own: what it reads may take the disk for a while.
    fn look(&self, link: &Arc<Link>, look: Look) -> io::Result<()> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.is_none() {
            let (ask, asked) = sync_channel::<ToLook>(LOOKS_MAX);
            let (roots, excluded) = (self.roots.clone(), self.excluded.clone());
            std::thread::Builder::new().name("look".into()).spawn(move || {
                for (link, Look { number, dir, path, what }) in asked {
                    let at = usize::from(dir);
                    let found = match (roots.get(at), excluded.get(at)) {
                        (Some(root), Some(excluded)) => look::look(root.as_raw_fd(), excluded, &path, &what),
                        _ => Found::Gone,
                    };
                    // A connection that broke is asked over again.
                    let _ = link.send(0, &Msg::Seen(Seen { number, found }), &[]);
                }
            })?;
            *looks = Some(ask);
        }
        // More than it asks at once is not asked by an honest source.
        let _ = looks.as_ref().map(|ask| ask.try_send((link.clone(), look)));
        Ok(())
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Option<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the source what may be different here, by this node's own activity log.
    fn say_suspects(&self, link: &Arc<Link>, log: &activity::Found) -> anyhow::Result<()> {
        let mut count = 0;
        for (index, root) in self.roots.iter().enumerate() {
            let dir = u16::try_from(index)?;
            log.resolve(dir, root, |objects| {
                count += objects.len();
                Ok(link.send(0, &Msg::Sync(SyncMsg::Suspects { dir, objects }), &[])?)
            })
            .context("cannot look up what the activity log speaks of")?;
        }
        tracing::info!(count, "objects may have changed here without the serving node's knowing; they are compared");
        Ok(link.send(0, &Msg::Sync(SyncMsg::AllSuspects), &[])?)
    }

    /// While the trees are compared this side may be busy for long between two messages; the source should not take
    /// that for a dead peer. In the live stream the applier itself answers, so that a stuck disk is noticed.
    fn keep_talking(&self, link: &Arc<Link>, live: &Arc<AtomicBool>) -> anyhow::Result<()> {
        let (link, live, stop) = (Arc::downgrade(link), live.clone(), self.stop.clone());
        std::thread::Builder::new().name("keep-alive".into()).spawn(move || {
            while !live.load(Ordering::Acquire) && !stop.load(Ordering::Acquire) {
                std::thread::sleep(TICK);
                let Some(link) = link.upgrade() else { return };
                if link.send(0, &Msg::Ping, &[]).is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Receives and applies until the session ends, and every flush begun has ended.
    fn work_all(&self, turn: Turn, live: &AtomicBool) -> Turn {
        let (turn, flushes) = (Mutex::new(turn), Flushes::new());
        std::thread::scope(|scope| {
            for n in 1..APPLY_THREADS {
                let thread = std::thread::Builder::new().name(format!("apply-{n}"));
                match thread.spawn_scoped(scope, || self.work(&turn, &flushes, live)) {
                    Ok(_) => drop(flushes.threads.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => tracing::warn!(%error, "fewer flushes at a time: a thread could not be started"),
                }
            }
            self.work(&turn, &flushes, live);
        });
        turn.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the threads. The one that comes upon a flush does it itself, at once, and leaves the turn to another: nobody
    /// is woken for it who would be waited for. One is left to receive, whatever the disk does.
    fn work(&self, turn: &Mutex<Turn>, flushes: &Flushes<Flush>, live: &AtomicBool) {
        loop {
            while let Some(flush) = flushes.next() {
                flush.run();
                flushes.done();
            }
            let mut mine = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if mine.ended.is_some() {
                return;
            }
            match self.receive(&mut mine, live) {
                Ok(Next::Flush(flush)) => flushes.add(flush),
                Ok(Next::End(end)) => mine.ended = Some(Ok(end)),
                Err(failure) => {
                    if let Err(failure) = self.go_on(&mut mine, failure, live) {
                        mine.ended = Some(failure);
                    }
                }
            }
        }
    }

    /// After a failure: over another connection, if that is possible. Flushes go on meanwhile.
    fn go_on(&self, turn: &mut Turn, failure: Failure, live: &AtomicBool) -> Result<(), Result<End, Failure>> {
        // Nothing that was applied is left to be done while nobody knows whose these directories will be.
        turn.applier.settle().map_err(|e| Err(Failure::Apply(e)))?;
        let cause = match failure {
            // A flush that failed ends the session, whatever it did to the connection.
            Failure::Line(cause) if live.load(Ordering::Acquire) && turn.applier.failure().is_none() => cause,
            other => return Err(Err(other)),
        };
        let Some(broken) = turn.joined.take() else { return Err(Err(Failure::Line(cause))) };
        match self.rejoin(broken, cause, &mut turn.attempt) {
            Ok(Some(again)) => {
                if let Err(e) = turn.applier.go_on_over(&again.link, &again.unflushed) {
                    tracing::debug!(error = %e, "the new connection broke at once");
                }
                turn.joined = Some(again);
                Ok(())
            }
            Ok(None) => Err(Ok(End::Stopped)),
            Err(e) => Err(Err(Failure::Session(e))),
        }
    }

    /// Receives and applies until there is something to flush.
    fn receive(&self, turn: &mut Turn, live: &AtomicBool) -> Result<Next, Failure> {
        let Turn { joined: Some(Joined { link, inbox, .. }), target, applier, unacked, .. } = turn else {
            return Err(anyhow::anyhow!("there is no connection").into());
        };
        loop {
            if self.stop.load(Ordering::Acquire) {
                return Ok(Next::End(End::Stopped));
            }
            if let Some(detail) = applier.failure() {
                return Err(Failure::Apply(anyhow::anyhow!(detail)));
            }
            if !inbox.has_more() {
                applier.settle().map_err(Failure::Apply)?;
                let flushes = applier.flushes();
                if !inbox.wait(TICK, Busy { under_way: flushes, is_flushing: flushes > 0 }) {
                    link.check_silence().map_err(Failure::Line)?;
                    continue;
                }
            }
            // A part of one may be all that came.
            let Some(frame) = inbox.receive_now()? else { continue };
            if frame.epoch != self.epoch {
                return Err(anyhow::anyhow!("a frame of epoch {} in a session of epoch {}", frame.epoch, self.epoch).into());
            }
            let lsn = frame.lsn;
            let mut to_flush = None;
            match frame.msg {
                Msg::Op(op) => {
                    let last = self.last.load(Ordering::Acquire);
                    if !live.load(Ordering::Acquire) || lsn != last + 1 {
                        return Err(anyhow::anyhow!("operation {lsn} came after {last}").into());
                    }
                    if let Op::Logged { count } = op {
                        if let Some(left) = &mut *self.left() {
                            left.logged = left.logged.max(Some(count));
                        }
                    } else {
                        to_flush = applier.apply(lsn, op, frame.data).map_err(Failure::Apply)?;
                    }
                    self.last.store(lsn, Ordering::Release);
                    if self.switches.stops {
                        // SAFETY: plain call.
                        unsafe { libc::raise(libc::SIGSTOP) };
                    }
                    // That it is flushed will say that it was applied.
                    *unacked += u64::from(to_flush.is_none());
                }
                Msg::Sync(msg) => match target.handle(msg, frame.data).map_err(Failure::Apply)? {
                    Reply::None => {}
                    Reply::Send(all) => all.into_iter().try_for_each(|msg| link.send(0, &Msg::Sync(msg), &[]))?,
                    Reply::Flush(number) => {
                        if !self.switches.no_fsync {
                            self.flush_all().map_err(Failure::Apply)?;
                        }
                        link.send(0, &Msg::Sync(super::frame::SyncMsg::Flushed { number }), &[])?;
                    }
                    Reply::Checkpoint(at) => {
                        if !self.switches.no_fsync {
                            self.flush_all().map_err(Failure::Apply)?;
                        }
                        level::write_copying(&self.roots, at)
                            .context("cannot write down what this copy has of the other one")
                            .map_err(Failure::Apply)?;
                        link.send(0, &Msg::Sync(SyncMsg::Checkpointed { number: at.flushed }), &[])?;
                    }
                    Reply::Live { base } => {
                        // Everything is flushed since the last word before this.
                        level::write(&self.roots, Level { base, flushed: 0 })
                            .context("cannot write down what this copy is level with")
                            .map_err(Failure::Apply)?;
                        applier.begin(base);
                        *self.left() = Some(Left { base, last: 0, logged: Some(0) });
                        live.store(true, Ordering::Release);
                        self.agent.note(ReplicaNote::Level { session: Session(self.session) });
                    }
                },
                Msg::Look(look) => self.look(link, look)?,
                Msg::Ping => link.send(0, &Msg::Pong, &[])?,
                Msg::Pong => {}
                Msg::Bye => {
                    let all = live.load(Ordering::Acquire) && lsn == self.last.load(Ordering::Acquire);
                    if let Some(left) = self.left().as_mut().filter(|_| all) {
                        // The two copies are one.
                        left.logged = None;
                    }
                    return Ok(Next::End(End::Released));
                }
                Msg::Refuse { detail } => return Err(anyhow::anyhow!("the serving node ended the session: {detail}").into()),
                other => return Err(anyhow::anyhow!("an unexpected message from the serving node: {other:?}").into()),
            }
            if *unacked > 0 && (*unacked >= ACK_EVERY || !inbox.has_more()) {
                *unacked = 0;
                let told = link.send(self.last.load(Ordering::Acquire), &Msg::Applied, &[]);
                if to_flush.is_none() {
                    told?;
                }
            }
            if let Some(flush) = to_flush {
                // Whatever became of the connection: it is asked for again over the next one.
                return Ok(Next::Flush(flush));
            }
        }
    }

    fn flush_all(&self) -> anyhow::Result<()> {
        for root in self.roots.iter() {
            volume::syncfs(root.as_raw_fd()).context("cannot flush the file system")?;
        }
        Ok(())
    }

    /// The first connection: tried until it is there or not wanted any more.
    fn connect(&self) -> Option<Joined> {
        let mut last_reason = String::new();
        while !self.stop.load(Ordering::Acquire) {
            match self.try_connect(&Try { connect: CONNECT_MAX, answer: HANDSHAKE_MAX, again: None }) {
                Ok(joined) => return self.take_up(joined),
                // The offer may be on its way.
                Err(e) => {
                    let reason = match e {
                        NotJoined::Refused(detail) => format!("the serving node refused: {detail}"),
                        NotJoined::Other(e) => format!("{e:#}"),
                    };
                    if reason != last_reason {
                        tracing::info!(reason, "not connected to the serving node yet");
                        last_reason = reason;
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
        None
    }

    /// The stream goes on over this connection; `None`: it is not wanted any more.
    fn take_up(&self, joined: Joined) -> Option<Joined> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.load(Ordering::Acquire) {
            return None;
        }
        *slot = Some(joined.link.clone());
        Some(joined)
    }

    /// A connection that goes on where a broken one stopped; `None`: it is not wanted any more. An error when the
    /// patience is over, or the source does not go on. Nothing is applied meanwhile.
    fn rejoin(&self, broken: Joined, cause: anyhow::Error, attempt: &mut u64) -> anyhow::Result<Option<Joined>> {
        let Joined { link: earlier, source, since, .. } = broken;
        {
            // Whoever closes the session from here on need not wait for this thread.
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            earlier.close();
            *slot = None;
        }
        let begun = Instant::now();
        let patience = earlier.patience(self.config.patience);
        let trips = earlier.round_trip() * REJOIN_TRIPS;
        let applied = self.last.load(Ordering::Acquire);
        tracing::warn!(
            session = self.session,
            applied,
            cause = format!("{cause:#}"),
            patience_ms = patience.as_millis(),
            "the replication connection broke; connecting again"
        );
        let mut last_reason = cause;
        if since.elapsed() < RETRY {
            // Somebody cuts each one at once: not as fast as the machine can.
            std::thread::sleep(RETRY);
        }
        while !self.stop.load(Ordering::Acquire) {
            if begun.elapsed() >= patience {
                return Err(last_reason.context(format!("the connection could not be resumed within {} ms", patience.as_millis())));
            }
            *attempt += 1;
            let again = Some(Again { source, attempt: *attempt, applied });
            match self.try_connect(&Try { connect: RECONNECT_MAX + trips, answer: REJOIN_ANSWER_MAX + trips, again }) {
                Ok(joined) => {
                    joined.link.carry_on(&earlier);
                    tracing::info!(session = self.session, took_ms = begun.elapsed().as_millis(), "the replication connection is resumed");
                    return Ok(self.take_up(joined));
                }
                Err(NotJoined::Refused(detail)) => bail!("the serving node does not resume the session: {detail}"),
                Err(NotJoined::Other(e)) => {
                    last_reason = e;
                    std::thread::sleep(RETRY);
                }
            }
        }
        Ok(None)
    }

    fn try_connect(&self, how: &Try) -> Result<Joined, NotJoined> {
        let socket = TcpStream::connect_timeout(&self.config.connect, how.connect)
            .with_context(|| format!("cannot connect to the serving node at {}", self.config.connect))?;
        let link = Link::connect(socket, &self.identity, how.answer, self.epoch, self.session)?;
        let mut inbox = Inbox::new(link.clone());
        let dirs = u16::try_from(self.config.dirs.len()).context("more than 65535 replicated directories")?;
        let module = self.config.module.as_str().to_owned();
        let level = level::read(&self.roots);
        // What it speaks of is asked for at the beginning of a session.
        let found = if how.again.is_none() { activity::find(&self.config.marks, &self.roots) } else { None };
        let log = found.as_ref().map(|log| (log.base, log.count));
        let copying = level::read_copying(&self.roots);
        let hello = Hello { version: VERSION, module, dirs, life: self.life, again: how.again.clone(), level, log, copying };
        link.send(0, &Msg::Hello(hello), &[])?;
        match inbox.expect(how.answer)?.2 {
            Msg::Welcome { life, unflushed, whole, rest, suspects } => {
                if whole {
                    let clear = if rest { level::clear_but_copying } else { level::clear };
                    clear(&self.roots).context("cannot give up what this copy was level with")?;
                }
                Ok(Joined { link, inbox, since: Instant::now(), source: life, unflushed, suspects: found.filter(|_| suspects) })
            }
            Msg::Refuse { detail } => Err(NotJoined::Refused(detail)),
            other => Err(anyhow::anyhow!("an unexpected message from the serving node: {other:?}").into()),
        }
    }
}

enum Failure {
    /// The connection.
    Line(anyhow::Error),
    /// The other side, or what it said.
    Session(anyhow::Error),
    /// This side's copy.
    Apply(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::Session(e)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Line(e.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::*;

    #[test]
    fn one_thread_is_left_to_receive_and_no_flush_is_forgotten() {
        let flushes = Flushes::new();
        flushes.threads.store(2, Ordering::SeqCst);
        (1..=4).for_each(|n| flushes.add(n));
        assert_eq!((flushes.next(), flushes.next(), flushes.next()), (Some(1), Some(2), None));
        flushes.done();
        assert_eq!((flushes.next(), flushes.next()), (Some(3), None));
        flushes.done();
        flushes.done();
        assert_eq!((flushes.next(), flushes.next()), (Some(4), None));
        // Without any other thread the one that receives has to do it.
        let alone = Flushes::new();
        alone.add(1);
        assert_eq!(alone.next(), Some(1));
    }
}
