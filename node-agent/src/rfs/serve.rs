//! The serving role: mounts, and the sessions with the peer.

use super::control::Agent;
use super::deadline::Deadline;
use super::dirty::{Base, Dirty};
use super::excluded::Excluded;
use super::follow::Left;
use super::fs::Volume;
use super::fuse::Fuse;
use super::handle::DataConfig;
use super::hold;
use super::level::{self, Level};
use super::mounts;
use super::ring;
use super::session::Sessions;
use super::ship::{Ship, TestSwitches};
use super::volume;
use crate::config::Transport;
use anyhow::{Context, bail, ensure};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tsugi_core::ids::LifeId;
use tsugi_core::replica::ReplicaNote;
use tsugi_core::state::FuseTransport;

/// Threads that take requests from the device: many flushes may be waited for at a time, and some have to be left for reads.
const DEVICE_THREADS: usize = 16;
/// The same where requests come over the ring and only what the kernel may forget comes over the device.
const DEVICE_THREADS_BESIDE_RING: usize = 2;
/// Files known at the same time at most: the memory of a descriptor and a table entry is about 1 KB.
const KNOWN_FILES_MAX: usize = 400_000;
/// Paths of changed files that are told at most, about: they are looked up by the thread that takes orders.
const NOTED_PATHS_MAX: usize = 10_000;
/// How often their number is looked at.
const TRIM_EVERY: Duration = Duration::from_millis(100);
/// What the peer is told.
const GONE_ALONE: &str = "the serving node goes on alone";

/// One node serving.
pub struct Serving {
    ship: Arc<Ship>,
    volumes: Arc<Vec<Arc<Volume>>>,
    mounts: Vec<(String, JoinHandle<()>)>,
    transport: FuseTransport,
    /// Their roots: a mount whose connection is aborted stays for as long as these are open.
    _held: Vec<OwnedFd>,
    /// A release was ordered: the application has been ended before that.
    released: AtomicBool,
    sessions: Arc<Sessions>,
    config: Arc<DataConfig>,
    /// Set before an unmount of our own, so that the end of a mount is no news.
    ending: Arc<AtomicBool>,
}

impl Serving {
    /// Mounts over every directory. `left`: where this node followed the peer until now.
    pub fn start(
        config: Arc<DataConfig>,
        agent: Agent,
        deadline: Deadline,
        (life, switches): (LifeId, TestSwitches),
        left: Option<Left>,
    ) -> anyhow::Result<Arc<Self>> {
        let ship = Ship::new(deadline, switches, Dirty::logged_beside(&config.marks));
        // The peer's copy is this very one, or will say where it may not be: from the first operation on it is known what
        // will be different.
        if let Some(Left { base, last, logged }) = left {
            ship.dirty.begin(Some(Base { id: base, flushed: last, sent: last, logged }));
        }
        let ending = Arc::new(AtomicBool::new(false));
        let mut volumes = Vec::new();
        let mut mounted: Vec<(String, JoinHandle<()>)> = Vec::new();
        let mut transport = FuseTransport::IoUring;
        for (index, replicated) in config.dirs.iter().enumerate() {
            let one = Self::mount_one(&config, index, &ship, &agent, &ending);
            match one {
                Ok((volume, thread, over)) => {
                    volumes.push(volume);
                    if over == FuseTransport::Device {
                        transport = over;
                    }
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
        let held = mounted.iter().filter_map(|(path, _)| mounts::hold(path).ok()).collect();
        let volumes = Arc::new(volumes);
        let sessions = Sessions::new(config.clone(), agent, ship.clone(), volumes.clone(), life);
        let released = AtomicBool::new(false);
        Ok(Arc::new(Self { ship, volumes, mounts: mounted, transport, _held: held, released, sessions, config, ending }))
    }

    fn mount_one(
        config: &DataConfig,
        index: usize,
        ship: &Arc<Ship>,
        agent: &Agent,
        ending: &Arc<AtomicBool>,
    ) -> anyhow::Result<(Arc<Volume>, JoinHandle<()>, FuseTransport)> {
        let replicated = &config.dirs[index];
        let path = replicated.dir.clone();
        let root = mounts::open_dir(&path)?;
        let notes = agent.clone();
        let on_failure = Box::new(move |detail: &str| notes.note(ReplicaNote::DiskFailed { detail: detail.to_owned() }));
        let number = u16::try_from(index).context("more than 65535 replicated directories")?;
        let excluded = Excluded::judged(replicated)?;
        let volume = Volume::new(number, &path, root, excluded, ship.clone(), on_failure)
            .with_context(|| format!("cannot read the replicated directory {path}"))?;
        let volume = Arc::new(volume);
        let (session, transport) = mount(config, &path, &volume)?;
        let trimmed = trim_in_background(&volume, session.notifier(), ending.clone());
        let (notes, ending, served) = (agent.clone(), ending.clone(), path.clone());
        let thread = trimmed.and_then(|()| {
            let thread = std::thread::Builder::new().name(format!("fuse-{index}")).spawn(move || {
                let ended = session.run();
                if !ending.load(Ordering::Acquire) {
                    let detail = format!(
                        "the mount over {served} has ended ({ended:?}): it was unmounted from outside, or the agent's log says why"
                    );
                    notes.note(ReplicaNote::DiskFailed { detail });
                }
            });
            Ok(thread?)
        });
        if thread.is_err() {
            // It may be served already.
            let _ = mounts::unmount_fuse(&path);
        }
        Ok((volume, thread?, transport))
    }

    /// Whether it was released or abandoned.
    pub fn ended(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// How requests for the files arrive.
    pub fn transport(&self) -> FuseTransport {
        self.transport
    }

    /// The relation to the peer.
    pub fn ship(&self) -> &Arc<Ship> {
        &self.ship
    }

    /// The sessions with the peer.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Paths of what is noted as changed since the peer was level, as far as they are known, and no more than some thousand;
    /// `None`: everything counts as changed.
    pub fn noted(&self) -> Option<Vec<String>> {
        let mut paths = Vec::new();
        for (dir, inode, names) in self.ship.dirty.noted()? {
            let Some(volume) = self.volumes.get(usize::from(dir)) else { continue };
            // Without a name it is gone, and noted in its directory.
            let Ok(path) = inode.path(volume.table().root()) else { continue };
            let at = |path: &[u8]| format!("{}/{}", volume.name().trim_end_matches('/'), String::from_utf8_lossy(path));
            paths.extend(names.iter().map(|name| at(&volume::join(&path, name))));
            if names.is_empty() {
                paths.push(at(&path));
            }
            if paths.len() >= NOTED_PATHS_MAX {
                break;
            }
        }
        paths.sort();
        paths.dedup();
        Some(paths)
    }

    /// The peer is excluded: whatever waits for it goes on. The last number sent.
    pub fn go_alone(&self) -> u64 {
        let (last, _) = self.sessions.traffic();
        // First: the end of a resynchronisation holds the gate while it waits for the peer.
        self.sessions.cancel(GONE_ALONE);
        self.ship.go_alone();
        self.sessions.withdraw(GONE_ALONE);
        last
    }

    /// Orderly end: everything acknowledged, flushed, unmounted. The last number sent.
    pub fn release(&self) -> anyhow::Result<u64> {
        self.released.store(true, Ordering::Release);
        for (path, _) in &self.mounts {
            // Pages changed through mappings, while writes still pass. Opened before the hold, closed after.
            if let Ok(dir) = std::fs::File::open(path) {
                let _ = volume_sync(&dir);
            }
        }
        // What nobody would be told any more once operations are held.
        self.volumes.iter().for_each(|volume| volume.send_times());
        let Some(last) = self.ship.hold_and_drain() else { bail!("the module was abandoned while it was being released") };
        for volume in self.volumes.iter() {
            volume.sync_all().with_context(|| format!("cannot flush {}", volume.name()))?;
        }
        // What the peer goes on from.
        if let Some(base) = self.ship.dirty.base().filter(|_| self.ship.is_armed()) {
            level::write(&self.roots()?, Level { base: base.id, flushed: last })
                .context("cannot write down what this copy is level with")?;
        }
        // The end of the session is ours from here: no news for the agent.
        self.sessions.hush();
        self.sessions.say_bye(last);
        self.unmount();
        Ok(last)
    }

    /// The directories below the mounts.
    fn roots(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.volumes.iter().map(|v| v.open_root()).collect()
    }

    /// Ends at once; whatever waits gets an error. The last number sent. The application may still run, and must not get
    /// at the directory below, where it would write for itself only: the mount stays, dead, until somebody who knows that
    /// it has ended takes it away.
    pub fn abandon(&self) -> u64 {
        let (last, _) = self.sessions.traffic();
        if self.released.load(Ordering::Acquire) {
            self.unmount();
            return last;
        }
        self.end_with(mounts::abort_fuse);
        last
    }

    fn unmount(&self) {
        self.end_with(mounts::unmount_fuse);
    }

    fn end_with(&self, end: fn(&str) -> std::io::Result<()>) {
        self.ending.store(true, Ordering::Release);
        self.ship.end();
        for (path, _) in &self.mounts {
            if let Err(e) = end(path) {
                tracing::warn!(path, error = %e, "the mount could not be ended");
            }
        }
        // At once, and again where a mount that is dead has to be taken away first. Nothing covers one that is not ours.
        if self.released.load(Ordering::Acquire) {
            hold::hold(&self.config);
        }
        self.sessions.withdraw("the serving node has ended");
    }
}

type Mounted = (fuser::Session<Fuse>, FuseTransport);

/// Mounts over a directory; requests come over the ring where the kernel offers it, and otherwise over the device.
fn mount(config: &DataConfig, path: &str, volume: &Arc<Volume>) -> anyhow::Result<Mounted> {
    let offered = match config.transport {
        Transport::Auto if TestSwitches::is_over_device(config.module.as_str()) => Err("a test switch says so".into()),
        Transport::Auto => ring::offered(),
        Transport::Device => Err("the agent was told so".into()),
    };
    match offered {
        Ok(()) => match mount_over(FuseTransport::IoUring, config, path, volume) {
            Ok(mounted) => return Ok(mounted),
            Err(e) => tracing::warn!(path, error = format!("{e:#}"), "requests cannot come over io_uring"),
        },
        Err(why) => tracing::info!(path, why, "requests are not to come over io_uring"),
    }
    mount_over(FuseTransport::Device, config, path, volume)
}

fn mount_over(wanted: FuseTransport, config: &DataConfig, path: &str, volume: &Arc<Volume>) -> anyhow::Result<Mounted> {
    let device = mounts::mount_fuse(path, config.module.as_str())?;
    let mut options = fuser::Config::default();
    options.acl = fuser::SessionACL::All;
    options.n_threads = Some(match wanted {
        FuseTransport::IoUring => DEVICE_THREADS_BESIDE_RING,
        FuseTransport::Device => DEVICE_THREADS,
    });
    let agreed = (wanted == FuseTransport::IoUring).then(|| Arc::new(AtomicBool::new(false)));
    let session = fuser::Session::from_fd(Fuse::new(volume.clone(), agreed.clone()), device, fuser::SessionACL::All, options)
        .with_context(|| format!("the kernel refused the mount over {path}"))
        .and_then(|session| {
            let notifier = session.notifier();
            // A negative offset: attributes alone, no contents. One it does not know it has nothing to forget of.
            volume.set_forget_attributes(Box::new(move |id| drop(notifier.inval_inode(fuser::INodeNo(id), -1, 0))));
            if let Some(agreed) = agreed {
                ensure!(agreed.load(Ordering::Acquire), "the kernel does not offer it to this mount");
                ring::serve(volume, session.as_fd()).context("its threads cannot begin")?;
            }
            Ok(session)
        });
    match session {
        Ok(session) => {
            tracing::info!(path, transport = ?wanted, "mounted");
            Ok((session, wanted))
        }
        Err(e) => {
            let _ = mounts::unmount_fuse(path);
            Err(e)
        }
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
