//! The following role: the directories hidden, the stream applied.

use super::apply::Applier;
use super::control::Agent;
use super::frame::{Hello, Msg, VERSION};
use super::handle::DataConfig;
use super::link::{Inbox, Link, TICK};
use super::ship::TestSwitches;
use super::sync_target::{Reply, SyncTarget};
use super::tls::Identity;
use super::volume;
use anyhow::{Context, bail};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tsugi_core::ids::Session;
use tsugi_core::module::Async;
use tsugi_core::replica::ReplicaNote;

/// Between two tries to connect: the source may not have its offer yet.
const RETRY: Duration = Duration::from_millis(100);
/// A connection that is not made by then is tried again.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// After an orderly end by the source, how long the agent has to order what comes next before it is told.
const RELEASED_GRACE: Duration = Duration::from_secs(2);
/// Operations applied before the source hears of it while more are here already.
const ACK_EVERY: u64 = 32;

/// One session followed.
pub struct Following {
    stop: Arc<AtomicBool>,
    link: Arc<Mutex<Option<Arc<Link>>>>,
    last: Arc<AtomicU64>,
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
    stop: Arc<AtomicBool>,
    slot: Arc<Mutex<Option<Arc<Link>>>>,
    last: Arc<AtomicU64>,
    roots: Arc<Vec<OwnedFd>>,
    switches: TestSwitches,
}

enum End {
    Stopped,
    Released,
}

impl Following {
    /// Connects in the background and follows.
    pub fn start(
        config: Arc<DataConfig>,
        agent: Agent,
        roots: Arc<Vec<OwnedFd>>,
        epoch: u64,
        session: u64,
        switches: TestSwitches,
    ) -> anyhow::Result<Self> {
        let identity = Identity::load(&config.identity_dir, config.peer.as_str(), &config.cluster)?;
        let stop = Arc::new(AtomicBool::new(false));
        let slot = Arc::new(Mutex::new(None));
        let last = Arc::new(AtomicU64::new(0));
        let follower = Follower {
            config,
            agent,
            identity,
            epoch,
            session,
            stop: stop.clone(),
            slot: slot.clone(),
            last: last.clone(),
            roots: roots.clone(),
            switches,
        };
        let thread = std::thread::Builder::new().name("apply".into()).spawn(move || follower.run())?;
        Ok(Self { stop, link: slot, last, thread: Some(thread), roots, session, no_fsync: switches.no_fsync })
    }

    /// Number of the session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Last operation applied.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The connection.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the session: nothing is applied afterwards, and what was is flushed. The last number applied.
    pub fn close(mut self) -> anyhow::Result<u64> {
        let connected = {
            // Under the lock the connecting thread takes: not connected now means never.
            let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            self.stop.store(true, Ordering::Release);
            link.as_ref().inspect(|l| l.close()).is_some()
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
        Ok(self.last())
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
            Err(Failure::Session(e)) => {
                if !self.stop.load(Ordering::Acquire) {
                    self.agent.note(ReplicaNote::SessionLost { session, detail: format!("{e:#}") });
                }
            }
            Err(Failure::Apply(e)) => self.agent.note(ReplicaNote::ApplyFailed { session, detail: format!("{e:#}") }),
        }
    }

    fn follow(&self) -> Result<End, Failure> {
        let Some((link, mut inbox)) = self.connect() else { return Ok(End::Stopped) };
        tracing::info!(session = self.session, "connected to the serving node; being brought level");
        let excluded = self.config.dirs.iter();
        let excluded = excluded.map(|d| d.not_replicated.iter().map(|p| p.trim_matches('/').as_bytes().to_vec()).collect()).collect();
        let mut target = SyncTarget::new(self.roots.clone(), excluded);
        let in_memory = self.config.ack == Async::Second;
        let mut applier = Applier::new(self.roots.clone(), link.clone(), in_memory, self.switches.no_fsync).map_err(anyhow::Error::from)?;
        let live = Arc::new(AtomicBool::new(false));
        self.keep_talking(&link, &live)?;
        let ended = self.receive(&link, &mut inbox, &mut target, &mut applier, &live);
        live.store(true, Ordering::Release);
        let flush_failure = applier.finish();
        let ended = match (ended, flush_failure) {
            (_, Some(detail)) => Err(Failure::Apply(anyhow::anyhow!(detail))),
            (ended, None) => ended,
        };
        if let Err(Failure::Apply(e)) = &ended {
            let _ = link.send(self.last.load(Ordering::Acquire), &Msg::Failed { detail: format!("{e:#}") }, &[]);
        }
        link.close();
        ended
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

    fn receive(
        &self,
        link: &Arc<Link>,
        inbox: &mut Inbox,
        target: &mut SyncTarget,
        applier: &mut Applier,
        live: &AtomicBool,
    ) -> Result<End, Failure> {
        let mut unacked = 0;
        loop {
            if self.stop.load(Ordering::Acquire) {
                return Ok(End::Stopped);
            }
            let frame = match inbox.receive().map_err(anyhow::Error::from)? {
                Some(frame) => frame,
                None => {
                    link.check_silence()?;
                    continue;
                }
            };
            if frame.epoch != self.epoch {
                return Err(anyhow::anyhow!("a frame of epoch {} in a session of epoch {}", frame.epoch, self.epoch).into());
            }
            let lsn = frame.lsn;
            match frame.msg {
                Msg::Op(op) => {
                    let last = self.last.load(Ordering::Acquire);
                    if !live.load(Ordering::Acquire) || lsn != last + 1 {
                        return Err(anyhow::anyhow!("operation {lsn} came after {last}").into());
                    }
                    applier.apply(lsn, op, frame.data).map_err(Failure::Apply)?;
                    self.last.store(lsn, Ordering::Release);
                    unacked += 1;
                }
                Msg::Sync(msg) => match target.handle(msg, frame.data).map_err(Failure::Apply)? {
                    Reply::None => {}
                    Reply::Send(msg) => link.send(0, &Msg::Sync(msg), &[]).map_err(anyhow::Error::from)?,
                    Reply::Flush(number) => {
                        if !self.switches.no_fsync {
                            self.flush_all().map_err(Failure::Apply)?;
                        }
                        link.send(0, &Msg::Sync(super::frame::SyncMsg::Flushed { number }), &[]).map_err(anyhow::Error::from)?;
                    }
                    Reply::Live => {
                        live.store(true, Ordering::Release);
                        self.agent.note(ReplicaNote::Level { session: Session(self.session) });
                    }
                },
                Msg::Ping => link.send(0, &Msg::Pong, &[]).map_err(anyhow::Error::from)?,
                Msg::Pong => {}
                Msg::Bye => return Ok(End::Released),
                other => return Err(anyhow::anyhow!("an unexpected message from the serving node: {other:?}").into()),
            }
            if let Some(detail) = applier.failure() {
                return Err(Failure::Apply(anyhow::anyhow!(detail)));
            }
            if unacked > 0 && (unacked >= ACK_EVERY || !inbox.has_more()) {
                unacked = 0;
                link.send(self.last.load(Ordering::Acquire), &Msg::Applied, &[]).map_err(anyhow::Error::from)?;
            }
        }
    }

    fn flush_all(&self) -> anyhow::Result<()> {
        for root in self.roots.iter() {
            volume::syncfs(root.as_raw_fd()).context("cannot flush the file system")?;
        }
        Ok(())
    }

    fn connect(&self) -> Option<(Arc<Link>, Inbox)> {
        let mut last_reason = String::new();
        while !self.stop.load(Ordering::Acquire) {
            match self.try_connect() {
                Ok(pair) => {
                    let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.stop.load(Ordering::Acquire) {
                        return None;
                    }
                    *slot = Some(pair.0.clone());
                    return Some(pair);
                }
                Err(e) => {
                    let reason = format!("{e:#}");
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

    fn try_connect(&self) -> anyhow::Result<(Arc<Link>, Inbox)> {
        let socket = TcpStream::connect_timeout(&self.config.connect, CONNECT_MAX)
            .with_context(|| format!("cannot connect to the serving node at {}", self.config.connect))?;
        let link = Link::connect(socket, &self.identity, self.epoch, self.session)?;
        let mut inbox = Inbox::new(link.clone());
        let dirs = u16::try_from(self.config.dirs.len()).context("more than 65535 replicated directories")?;
        let hello = Hello { version: VERSION, module: self.config.module.as_str().to_owned(), dirs };
        link.send(0, &Msg::Hello(hello), &[])?;
        match inbox.expect()?.2 {
            Msg::Welcome => Ok((link, inbox)),
            Msg::Refuse { detail } => bail!("the serving node refused: {detail}"),
            other => bail!("an unexpected message from the serving node: {other:?}"),
        }
    }
}

enum Failure {
    /// The connection or the other side.
    Session(anyhow::Error),
    /// This side's copy.
    Apply(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::Session(e)
    }
}
