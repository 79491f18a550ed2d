//! The serving role: mounts, and the peer's session.

use super::control::Agent;
use super::deadline::Deadline;
use super::frame::{Msg, SyncMsg, VERSION};
use super::fs::Volume;
use super::fuse::Fuse;
use super::handle::DataConfig;
use super::link::{Inbox, Link};
use super::mounts;
use super::ship::{Ship, TestSwitches};
use super::sync::{Progress, Source};
use super::tls::Identity;
use super::volume;
use anyhow::{Context, bail};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tsugi_core::ids::Session;
use tsugi_core::replica::ReplicaNote;

/// Measured: 4 serve an eight-job load as well as 8; the two more keep reads going while others wait a moment.
const FUSE_THREADS: usize = 6;
/// Files known at the same time at most: the memory of a descriptor and a table entry is about 1 KB.
const KNOWN_FILES_MAX: usize = 400_000;
/// How often their number is looked at.
const TRIM_EVERY: Duration = Duration::from_millis(100);
/// How often a waiting listener looks whether its offer is withdrawn.
const ACCEPT_POLL: Duration = Duration::from_millis(50);
/// Binding again while the last listener's port is being freed.
const BIND_TRIES: u32 = 40;
/// Answers of the peer that may wait for the resynchronisation: its window is far smaller.
const ANSWERS_MAX: usize = 1024;

/// One node serving.
pub struct Serving {
    config: Arc<DataConfig>,
    agent: Agent,
    ship: Arc<Ship>,
    volumes: Arc<Vec<Arc<Volume>>>,
    mounts: Vec<(String, JoinHandle<()>)>,
    offer: Mutex<Option<Offer>>,
    progress: Progress,
    /// Set before an unmount of our own, so that the end of a mount is no news.
    ending: Arc<AtomicBool>,
}

struct Offer {
    cancel: Arc<AtomicBool>,
    link: Arc<Mutex<Option<Arc<Link>>>>,
    thread: JoinHandle<()>,
}

impl Serving {
    /// Mounts over every directory.
    pub fn start(config: Arc<DataConfig>, agent: Agent, deadline: Deadline, switches: TestSwitches) -> anyhow::Result<Arc<Self>> {
        let ship = Ship::new(deadline, switches);
        let ending = Arc::new(AtomicBool::new(false));
        let mut volumes = Vec::new();
        let mut mounted: Vec<(String, JoinHandle<()>)> = Vec::new();
        for (index, replicated) in config.dirs.iter().enumerate() {
            let one = Self::mount_one(&config, index, &ship, &agent, &ending);
            match one {
                Ok((volume, thread)) => {
                    volumes.push(volume);
                    mounted.push((replicated.dir.clone(), thread));
                }
                Err(e) => {
                    ending.store(true, Ordering::Release);
                    ship.end();
                    for (path, _) in &mounted {
                        let _ = mounts::unmount_fuse(path);
                    }
                    return Err(e);
                }
            }
        }
        Ok(Arc::new(Self {
            config,
            agent,
            ship,
            volumes: Arc::new(volumes),
            mounts: mounted,
            offer: Mutex::new(None),
            progress: Arc::new(Mutex::new(None)),
            ending,
        }))
    }

    fn mount_one(
        config: &DataConfig,
        index: usize,
        ship: &Arc<Ship>,
        agent: &Agent,
        ending: &Arc<AtomicBool>,
    ) -> anyhow::Result<(Arc<Volume>, JoinHandle<()>)> {
        let replicated = &config.dirs[index];
        let path = replicated.dir.clone();
        let root = mounts::open_dir(&path)?;
        for relative in &replicated.to_check {
            let checked = std::path::Path::new(&path).join(relative.trim_start_matches('/'));
            if !checked.exists() {
                bail!("{} does not exist; is the file system of {path} mounted? Mount it and start the module again", checked.display());
            }
        }
        let notes = agent.clone();
        let on_failure = Box::new(move |detail: &str| notes.note(ReplicaNote::DiskFailed { detail: detail.to_owned() }));
        let number = u16::try_from(index).context("more than 65535 replicated directories")?;
        let volume = Volume::new(number, &path, root, &replicated.not_replicated, ship.clone(), on_failure)
            .with_context(|| format!("cannot read the replicated directory {path}"))?;
        let volume = Arc::new(volume);
        let device = mounts::mount_fuse(&path, config.module.as_str())?;
        let mut options = fuser::Config::default();
        options.n_threads = Some(FUSE_THREADS);
        options.acl = fuser::SessionACL::All;
        let session = fuser::Session::from_fd(Fuse::new(volume.clone()), device, fuser::SessionACL::All, options);
        let session = match session {
            Ok(session) => session,
            Err(e) => {
                let _ = mounts::unmount_fuse(&path);
                return Err(e).with_context(|| format!("the kernel refused the mount over {path}"));
            }
        };
        trim_in_background(&volume, session.notifier(), ending.clone())?;
        let (notes, ending) = (agent.clone(), ending.clone());
        let thread = std::thread::Builder::new().name(format!("fuse-{index}")).spawn(move || {
            let ended = session.run();
            if !ending.load(Ordering::Acquire) {
                notes.note(ReplicaNote::DiskFailed { detail: format!("the mount over {path} was removed from outside ({ended:?})") });
            }
        })?;
        Ok((volume, thread))
    }

    /// Whether it was released or abandoned.
    pub fn ended(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// The relation to the peer.
    pub fn ship(&self) -> &Arc<Ship> {
        &self.ship
    }

    /// Progress of a resynchronisation.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The link of the session, live or being brought level.
    pub fn link(&self) -> Option<Arc<Link>> {
        let offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner);
        offer.as_ref().and_then(|o| o.link.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Lets the peer connect for a session.
    pub fn offer(self: &Arc<Self>, epoch: u64, session: u64) -> anyhow::Result<()> {
        self.withdraw();
        let identity = Identity::load(&self.config.identity_dir, self.config.peer.as_str(), &self.config.cluster)?;
        let cancel = Arc::new(AtomicBool::new(false));
        let slot = Arc::new(Mutex::new(None));
        let listener = listen(self.config.listen, &cancel)?;
        let (me, cancelled, link) = (self.clone(), cancel.clone(), slot.clone());
        let thread = std::thread::Builder::new().name("offer".into()).spawn(move || {
            let ended = me.session(&listener, &identity, epoch, session, &cancelled, &link);
            if let Some(link) = link.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                link.close();
            }
            me.ship.lost(session);
            *me.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if !cancelled.load(Ordering::Acquire) {
                let detail = ended.err().map_or_else(|| "the session ended".to_owned(), |e| format!("{e:#}"));
                me.agent.note(ReplicaNote::SessionLost { session: Session(session), detail });
            }
        })?;
        *self.offer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Offer { cancel, link: slot, thread });
        Ok(())
    }

    /// The peer is excluded: whatever waits for it goes on. The last number sent.
    pub fn go_alone(&self) -> u64 {
        let last = self.link().map_or(0, |l| l.last_lsn());
        if let Some(offer) = self.offer.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            offer.cancel.store(true, Ordering::Release);
            // First: the end of a resynchronisation holds the gate while it waits for the peer.
            if let Some(link) = offer.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                link.close();
            }
        }
        self.ship.go_alone();
        self.withdraw();
        last
    }

    /// Ends the session, without a note.
    pub fn withdraw(&self) {
        let offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(offer) = offer else { return };
        offer.cancel.store(true, Ordering::Release);
        if let Some(link) = offer.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            link.close();
        }
        let _ = offer.thread.join();
    }

    fn session(
        &self,
        listener: &TcpListener,
        identity: &Identity,
        epoch: u64,
        session: u64,
        cancel: &AtomicBool,
        slot: &Mutex<Option<Arc<Link>>>,
    ) -> anyhow::Result<()> {
        let Some((link, inbox)) = self.accept(listener, identity, epoch, session, cancel)? else { return Ok(()) };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
        if cancel.load(Ordering::Acquire) {
            return Ok(());
        }
        tracing::info!(session, "the peer is connected; resynchronisation begins");
        let (tx, rx) = sync_channel(ANSWERS_MAX);
        let ship = self.ship.clone();
        let reader = {
            let link = link.clone();
            std::thread::Builder::new().name("acks".into()).spawn(move || {
                let ended = receive(inbox, &link, &ship, &tx);
                link.close();
                ended
            })?
        };
        let rate = self.config.resync_kb_per_s_max.map(|kb| kb * 1024);
        let level = Source::new(&self.volumes, &self.ship, &link, rx, self.progress.clone(), rate).run();
        if let Err(e) = level {
            // A connection that was still whole did not end the resynchronisation: its own error is the cause.
            let own = !link.is_broken();
            link.close();
            let ended = reader.join().unwrap_or_else(|_| bail!("the receiving thread panicked"));
            return Err(if own { e } else { ended.err().unwrap_or(e) });
        }
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.agent.note(ReplicaNote::Armed { session: Session(session) });
        reader.join().unwrap_or_else(|_| bail!("the receiving thread panicked"))
    }

    fn accept(
        &self,
        listener: &TcpListener,
        identity: &Identity,
        epoch: u64,
        session: u64,
        cancel: &AtomicBool,
    ) -> anyhow::Result<Option<(Arc<Link>, Inbox)>> {
        loop {
            if cancel.load(Ordering::Acquire) {
                return Ok(None);
            }
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(ACCEPT_POLL);
                    continue;
                }
                Err(e) => return Err(e).context("cannot accept the peer's connection"),
            };
            match self.welcome(socket, identity, epoch, session) {
                Ok(pair) => return Ok(Some(pair)),
                // Strangers and the peer's late tries of an earlier session do not end an offer.
                Err(e) => tracing::warn!(error = format!("{e:#}"), "a connection was refused"),
            }
        }
    }

    fn welcome(&self, socket: TcpStream, identity: &Identity, epoch: u64, session: u64) -> anyhow::Result<(Arc<Link>, Inbox)> {
        socket.set_nonblocking(false)?;
        let link = Link::accept(socket, identity, epoch, session)?;
        let mut inbox = Inbox::new(link.clone());
        let (their_epoch, their_session, msg) = inbox.expect()?;
        let Msg::Hello(hello) = msg else { bail!("the peer did not introduce itself") };
        let refusal = if hello.version != VERSION {
            Some(format!("this node speaks version {VERSION} of the replication protocol, the peer version {}", hello.version))
        } else if hello.module != self.config.module.as_str() || usize::from(hello.dirs) != self.config.dirs.len() {
            Some("the two nodes have different configurations of this module".to_owned())
        } else if (their_epoch, their_session) != (epoch, session) {
            Some(format!("this node offers session {session} of epoch {epoch}, the peer wants {their_session} of {their_epoch}"))
        } else {
            None
        };
        if let Some(detail) = refusal {
            link.send(0, &Msg::Refuse { detail: detail.clone() }, &[])?;
            bail!("{detail}");
        }
        link.send(0, &Msg::Welcome, &[])?;
        Ok((link, inbox))
    }

    /// Orderly end: everything acknowledged, flushed, unmounted. The last number sent.
    pub fn release(&self) -> anyhow::Result<u64> {
        for (path, _) in &self.mounts {
            // Pages changed through mappings, while writes still pass. Opened before the hold, closed after.
            if let Ok(dir) = std::fs::File::open(path) {
                let _ = volume_sync(&dir);
            }
        }
        let Some(last) = self.ship.hold_and_drain() else { bail!("the module was abandoned while it was being released") };
        for volume in self.volumes.iter() {
            volume.sync_all().with_context(|| format!("cannot flush {}", volume.name()))?;
        }
        if let Some(offer) = self.offer.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // The end of the session is ours from here: no news for the agent.
            offer.cancel.store(true, Ordering::Release);
        }
        // Without the lock: a full connection must not hold up whoever abandons meanwhile.
        if let Some(link) = self.link() {
            let _ = link.send(last, &Msg::Bye, &[]);
        }
        self.unmount();
        Ok(last)
    }

    /// Ends at once; whatever waits gets EIO. The last number sent.
    pub fn abandon(&self) -> u64 {
        let last = self.link().map_or(0, |l| l.last_lsn());
        self.unmount();
        last
    }

    fn unmount(&self) {
        self.ending.store(true, Ordering::Release);
        self.ship.end();
        for (path, _) in &self.mounts {
            if let Err(e) = mounts::unmount_fuse(path) {
                tracing::warn!(path, error = %e, "the mount could not be removed");
            }
        }
        self.withdraw();
    }
}

/// Keeps the number of known files, each of which costs a descriptor here and at the peer, below a share of what
/// this process may open: the kernel is asked to forget files that nobody uses.
fn trim_in_background(served: &Arc<Volume>, notifier: fuser::Notifier, ending: Arc<AtomicBool>) -> anyhow::Result<()> {
    // Half of a half: until the kernel has forgotten, a burst of new files adds to it.
    let known_max = usize::try_from(volume::descriptors_max() / 4).unwrap_or(KNOWN_FILES_MAX).min(KNOWN_FILES_MAX);
    let served = Arc::downgrade(served);
    std::thread::Builder::new().name("trim".into()).spawn(move || {
        loop {
            std::thread::sleep(TRIM_EVERY);
            let Some(volume) = served.upgrade().filter(|_| !ending.load(Ordering::Acquire)) else { return };
            let known = volume.table().len();
            if known <= known_max {
                continue;
            }
            for (parent, name) in volume.idle_names(known - known_max * 3 / 4) {
                // Not known to the kernel any more: then it forgets it by itself.
                let _ = notifier.inval_entry(fuser::INodeNo(parent), std::ffi::OsStr::from_bytes(&name));
            }
        }
    })?;
    Ok(())
}

fn volume_sync(dir: &std::fs::File) -> std::io::Result<()> {
    volume::syncfs(dir.as_raw_fd())
}

fn listen(at: std::net::SocketAddr, cancel: &AtomicBool) -> anyhow::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(at) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(listener);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && tries < BIND_TRIES && !cancel.load(Ordering::Acquire) => {
                tries += 1;
                std::thread::sleep(ACCEPT_POLL);
            }
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("cannot listen on {at} for the peer; is the address of this node, and is the port free?"));
            }
        }
    }
}

/// The receiving side of a session: acknowledgements, and answers to the resynchronisation.
fn receive(mut inbox: Inbox, link: &Arc<Link>, ship: &Ship, answers: &SyncSender<SyncMsg>) -> anyhow::Result<()> {
    let mut applied = 0;
    let mut durable = Vec::new();
    loop {
        let frame = match inbox.receive()? {
            Some(frame) => frame,
            None => {
                link.check_silence()?;
                continue;
            }
        };
        match frame.msg {
            Msg::Applied => applied = applied.max(frame.lsn),
            Msg::Durable => durable.push(frame.lsn),
            Msg::Ping => link.send(0, &Msg::Pong, &[])?,
            Msg::Pong => {}
            // A resynchronisation that has ended does not care.
            Msg::Sync(answer) => drop(answers.try_send(answer)),
            Msg::Failed { detail } => bail!("the peer could not apply an operation: {detail}"),
            Msg::Bye => bail!("the peer closed the session"),
            other => bail!("an unexpected message from the peer: {other:?}"),
        }
        if !inbox.has_more() && (applied > 0 || !durable.is_empty()) {
            ship.acknowledged(link.session(), applied, &durable);
            durable.clear();
        }
    }
}
