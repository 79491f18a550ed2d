//! The data process of a mirror module: one per module on both nodes, its threads without any runtime.
//!
//! It does what the agent orders and decides nothing: it never drops a peer, never takes a role. When its agent
//! is gone it waits for the next one, if that can go on where the former one ended ([`Process::await_agent`]); else it
//! unmounts and ends, and a new agent starts a new one.

use super::control::{self, Agent, CONTROL_FD, DEADLINE_FD, Greeted, Greeting, LINE_BYTES_MAX, ToAgent, ToData};
use super::deadline::Deadline;
use super::follow::{Following, Left};
use super::handle::DataConfig;
use super::identity;
use super::level;
use super::mounts;
use super::serve::Serving;
use super::ship::TestSwitches;
use crate::kept;
use anyhow::{Context, anyhow, bail};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tsugi_core::copies::{Verified, VerifyEnd, Verifying};
use tsugi_core::ids::{Epoch, JobId, LifeId, Lsn};
use tsugi_core::replica::{ReplicaAnswer, ReplicaOrder};
use tsugi_core::state::ReplicaFigures;

/// Descriptors: one per file the kernel remembers. The hard limit of Linux by default.
const OPEN_FILES: u64 = 1 << 20;
/// The kernel ends this process after nearly everything else: it carries the mount.
const OOM_SCORE: &str = "-900";

/// Memory arenas. Each keeps the largest amount its threads ever used, and every thread of the kernel's requests would
/// get one of its own: measured, 60 MB more after ten minutes of mixed load
/// and twenty lost peers, with nothing in them.
const ARENAS_MAX: libc::c_int = 2;

/// A follower without an agent promises nothing, so its primary goes on without it after some seconds. Then it waits for
/// nothing any more; and its guard, without which nobody goes on, ends after this time, too.
const LONE_FOLLOWER_MAX: Duration = Duration::from_secs(30);
/// How often a process without an agent looks whether it still has something to wait for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An agent that is there says what it wants at once.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// From linux/prctl.h; the libc crate does not have it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Entry of `tsugi-agent data`.
pub fn data_main() -> anyhow::Result<()> {
    let control = UnixStream::from(inherited(CONTROL_FD)?);
    let deadline = Deadline::map(inherited(DEADLINE_FD)?).context("cannot map the deadline's page")?;
    prepare();
    let agent = Agent::new(control.try_clone()?);
    let mut lines = BufReader::new(control);
    let first = next_line(&mut lines)?.ok_or_else(|| anyhow!("the agent ended before it said what to do"))?;
    let config: DataConfig = serde_json::from_str(&first).context("the agent's configuration cannot be understood")?;
    tracing::info!(module.name = %config.module, node.name = %config.node, "data process started");
    let mut process = Process {
        config: Arc::new(config),
        agent,
        deadline,
        switches: TestSwitches::from_env(),
        life: LifeId(rand::random()),
        epoch: Epoch(0),
        role: Role::Idle,
        left: None,
        releasing: Arc::new(Mutex::new(Vec::new())),
    };
    let door = process.open_door();
    loop {
        while let Some(line) = next_line(&mut lines)? {
            match serde_json::from_str(&line) {
                Ok(ToData::Order { job, what }) => process.order(job, &what),
                Ok(ToData::Figures) => process.agent.say(&ToAgent::Figures { what: process.figures() }),
                Ok(ToData::Verify) => process.verify(),
                Ok(ToData::Repair) => process.repair(),
                Ok(ToData::Noted) => process.agent.say(&ToAgent::Noted { what: process.noted() }),
                Err(e) => tracing::error!(error = %e, "the agent said something that cannot be understood"),
            }
        }
        process.agent.lose();
        match door.as_ref().and_then(|door| process.await_agent(door)) {
            Some(next) => lines = next,
            None => break,
        }
    }
    tracing::warn!("the agent is gone; ending");
    process.end();
    Ok(())
}

fn inherited(variable: &str) -> anyhow::Result<OwnedFd> {
    let number = std::env::var(variable).with_context(|| format!("{variable} is not set: only the agent starts this process"))?;
    let fd: i32 = number.parse().with_context(|| format!("{variable} is not a number"))?;
    // SAFETY: the agent left this descriptor open for us and nobody else in this process knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: plain call on a descriptor we own.
    if unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        bail!("{variable} names no open descriptor");
    }
    Ok(fd)
}

fn next_line(lines: &mut BufReader<UnixStream>) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    match lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line)),
        // A reset is the agent's death, too.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        Err(e) => Err(e).context("cannot read the agent's orders"),
    }
}

/// What the process asks of the kernel for itself; each is a wish, and refused ones are logged.
fn prepare() {
    // SAFETY: plain calls; the limit structure lives for the call.
    unsafe {
        libc::umask(0);
        #[cfg(target_env = "gnu")]
        if libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) == 0 {
            tracing::info!("the number of memory arenas cannot be limited");
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let wanted = libc::rlimit { rlim_cur: OPEN_FILES, rlim_max: OPEN_FILES };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) != 0 {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            tracing::warn!(files = limit.rlim_max, "fewer open files are permitted than wanted; large trees may fail");
        }
        // Writing mapped pages back must not wait for memory that only we can free.
        if libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0 {
            tracing::info!("the kernel does not grant the I/O-flusher state");
        }
    }
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::info!(error = %e, "the out-of-memory score could not be lowered");
    }
    // A panic in one thread leaves an unknown state: better no mount than a wrong one.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::abort();
    }));
}

enum Role {
    Idle,
    Serving(Arc<Serving>),
    Following(Following),
}

struct Process {
    config: Arc<DataConfig>,
    agent: Agent,
    deadline: Deadline,
    switches: TestSwitches,
    /// Both ends of a connection that is to continue a session must be the processes that began it.
    life: LifeId,
    epoch: Epoch,
    role: Role,
    /// Where this node followed until, if nothing has begun since.
    left: Option<Left>,
    /// Who asked for the release that runs on its own thread; it may wait for the peer for ever.
    releasing: Arc<Mutex<Vec<JobId>>>,
}

/// Who is at the other end.
fn peer_uid(socket: &UnixStream) -> std::io::Result<u32> {
    let mut who = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: a structure of that size, which lives for the call.
    let answer = unsafe {
        let into = (&raw mut who).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, into, &raw mut size)
    };
    if answer == 0 { Ok(who.uid) } else { Err(std::io::Error::last_os_error()) }
}

fn epoch_of(order: &ReplicaOrder) -> Epoch {
    match order {
        ReplicaOrder::Serve { epoch }
        | ReplicaOrder::Offer { epoch, .. }
        | ReplicaOrder::GoAlone { epoch }
        | ReplicaOrder::Follow { epoch, .. }
        | ReplicaOrder::CloseSession { epoch }
        | ReplicaOrder::Release { epoch }
        | ReplicaOrder::Abandon { epoch } => *epoch,
    }
}

impl Process {
    /// Where the next life of the agent comes in. Without it this process ends with its agent.
    fn open_door(&self) -> Option<UnixListener> {
        let path = control::socket(&self.config.run_dir, &self.config.module);
        let _ = std::fs::remove_file(&path);
        let open = || {
            let door = UnixListener::bind(&path)?;
            // This process has no mask: others could fill the queue of who wants to come in.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            door.set_nonblocking(true)?;
            Ok(door)
        };
        let door: std::io::Result<UnixListener> = open();
        door.inspect_err(|e| tracing::warn!(path = %path.display(), error = %e, "this process cannot outlive its agent")).ok()
    }

    /// There is something to wait for without an agent: it is known from where the next one is to go on, and until the end
    /// of the right to serve nobody else does.
    fn may_wait(&self, since: Instant) -> bool {
        let has_use = match &self.role {
            Role::Idle => false,
            Role::Serving(serving) => !serving.ended() && self.deadline.open(),
            Role::Following(_) => since.elapsed() < LONE_FOLLOWER_MAX,
        };
        has_use && kept::path(&self.config.run_dir, &self.config.module).exists()
    }

    /// The agent is gone. What is served goes on, and what is followed; there are no orders until another agent comes.
    fn await_agent(&self, door: &UnixListener) -> Option<BufReader<UnixStream>> {
        let since = Instant::now();
        while self.may_wait(since) {
            let mut ready = libc::pollfd { fd: door.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, which lives for the call.
            unsafe { libc::poll(&raw mut ready, 1, libc::c_int::try_from(LOOK_EVERY.as_millis()).unwrap_or(50)) };
            match door.accept().map_err(anyhow::Error::from).and_then(|(socket, _)| self.welcome(socket)) {
                Ok(lines) => {
                    tracing::info!(after = ?since.elapsed(), "the next life of the agent is here; going on");
                    return Some(lines);
                }
                Err(e) if e.downcast_ref().is_some_and(|e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock) => {}
                Err(e) => tracing::warn!(error = format!("{e:#}"), "somebody came in who is not the next agent"),
            }
        }
        None
    }

    fn welcome(&self, socket: UnixStream) -> anyhow::Result<BufReader<UnixStream>> {
        let uid = peer_uid(&socket).context("it is not known who it is")?;
        // SAFETY: a plain call.
        if uid != unsafe { libc::geteuid() } {
            bail!("it is user {uid}");
        }
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(GREETING_MAX))?;
        let mut lines = BufReader::new(socket.try_clone()?);
        let line = next_line(&mut lines)?.ok_or_else(|| anyhow!("it said nothing"))?;
        let greeting: Greeting = serde_json::from_str(&line).context("its greeting cannot be understood")?;
        if serde_json::to_value(&greeting.config)? != serde_json::to_value(&*self.config)? {
            bail!("it has another configuration");
        }
        socket.set_read_timeout(None)?;
        let pid = i32::try_from(std::process::id())?;
        self.agent.found(socket, greeting.heard, &Greeted { pid, deadline_fd: self.deadline.fd() })?;
        Ok(lines)
    }

    fn order(&mut self, job: JobId, order: &ReplicaOrder) {
        tracing::info!(?job, ?order, "order");
        let done = match self.carry_out(job, order) {
            Ok(Some(last)) => ReplicaAnswer::Done { last: Lsn(last) },
            Ok(None) => return,
            Err(e) => ReplicaAnswer::Failed { detail: format!("{e:#}") },
        };
        tracing::info!(?job, answer = ?done, "order ended");
        self.agent.say(&ToAgent::Answer { job, what: done });
    }

    fn carry_out(&mut self, job: JobId, order: &ReplicaOrder) -> anyhow::Result<Option<u64>> {
        let epoch = epoch_of(order);
        self.settle();
        // Ending needs no authority: whoever may not serve or follow any more must be able to stop.
        let ends = matches!(order, ReplicaOrder::CloseSession { .. } | ReplicaOrder::Abandon { .. });
        // What begins from nothing has no earlier epoch to defend: the count starts anew with a new arbiter, and the
        // agent's orders cannot overtake one another.
        let begins = matches!((&self.role, order), (Role::Idle, ReplicaOrder::Serve { .. } | ReplicaOrder::Follow { .. }));
        if epoch < self.epoch && !ends && !begins {
            bail!("the order is of epoch {epoch}, this process has seen epoch {}", self.epoch);
        }
        self.epoch = if begins { epoch } else { self.epoch.max(epoch) };
        match order {
            ReplicaOrder::Serve { .. } => self.serve().map(Some),
            ReplicaOrder::Offer { session, .. } => {
                self.serving()?.sessions().offer(epoch.0, session.0)?;
                Ok(Some(0))
            }
            ReplicaOrder::GoAlone { .. } => Ok(Some(self.serving()?.go_alone())),
            ReplicaOrder::Follow { session, .. } => self.follow(epoch.0, session.0).map(Some),
            ReplicaOrder::CloseSession { .. } => match std::mem::replace(&mut self.role, Role::Idle) {
                Role::Serving(serving) => {
                    self.role = Role::Serving(serving);
                    bail!("this node serves; there is no session to close")
                }
                Role::Following(following) => {
                    let (last, left) = following.close()?;
                    self.left = left;
                    Ok(Some(last))
                }
                Role::Idle => Ok(Some(0)),
            },
            ReplicaOrder::Release { .. } => {
                let serving = self.serving()?.clone();
                let mut releasing = self.releasing.lock().unwrap_or_else(PoisonError::into_inner);
                releasing.push(job);
                if releasing.len() > 1 {
                    // One release, one outcome: its end answers whoever asked.
                    return Ok(None);
                }
                let (agent, done) = (self.agent.clone(), self.releasing.clone());
                let started = std::thread::Builder::new().name("release".into()).spawn(move || {
                    let what = match serving.release() {
                        Ok(last) => ReplicaAnswer::Done { last: Lsn(last) },
                        Err(e) => ReplicaAnswer::Failed { detail: format!("{e:#}") },
                    };
                    let jobs = std::mem::take(&mut *done.lock().unwrap_or_else(PoisonError::into_inner));
                    for job in jobs {
                        agent.say(&ToAgent::Answer { job, what: what.clone() });
                    }
                });
                if let Err(e) = started {
                    releasing.clear();
                    return Err(e).context("cannot start the thread of the release");
                }
                Ok(None)
            }
            ReplicaOrder::Abandon { .. } => match std::mem::replace(&mut self.role, Role::Idle) {
                Role::Serving(serving) => Ok(Some(serving.abandon())),
                other => {
                    self.role = other;
                    Ok(Some(0))
                }
            },
        }
    }

    /// A serving role that has ended by itself (released) is idle.
    fn settle(&mut self) {
        if let Role::Serving(serving) = &self.role
            && serving.ended()
            && !self.is_releasing()
        {
            self.role = Role::Idle;
        }
    }

    fn is_releasing(&self) -> bool {
        !self.releasing.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn serving(&self) -> anyhow::Result<&Arc<Serving>> {
        match &self.role {
            Role::Serving(serving) => Ok(serving),
            _ => bail!("this node does not serve the module's directories"),
        }
    }

    fn serve(&mut self) -> anyhow::Result<u64> {
        match &self.role {
            Role::Serving(_) if self.is_releasing() => bail!("a release is under way"),
            Role::Serving(_) => return Ok(0),
            Role::Following(_) => bail!("this node follows a session; it has to be closed first"),
            Role::Idle => {}
        }
        self.clear_dead()?;
        self.uncover()?;
        let roots = self.open_roots()?;
        mounts::check_writable(&self.config.dirs, &roots)?;
        identity::adopt(&self.config.dirs, &roots, &self.config.marks)?;
        level::clear(&roots).context("cannot give up what this copy was level with")?;
        drop(roots);
        let (own, left) = ((self.life, self.switches), self.left.take());
        let serving = Serving::start(self.config.clone(), self.agent.clone(), self.deadline.clone(), own, left)?;
        self.role = Role::Serving(serving);
        Ok(0)
    }

    fn follow(&mut self, epoch: u64, session: u64) -> anyhow::Result<u64> {
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Serving(serving) => {
                self.role = Role::Serving(serving);
                bail!("this node serves; it cannot follow");
            }
            Role::Following(earlier) => {
                tracing::info!(session = earlier.session(), "an earlier session is closed");
                earlier.close()?;
            }
            Role::Idle => {}
        }
        self.left = None;
        // Covered since before or not: what is at the path now is what will be served one day, so that is looked at.
        self.uncover()?;
        let roots = self.cover()?;
        let following = Following::start(self.config.clone(), self.agent.clone(), roots, (self.life, self.switches), epoch, session)?;
        self.role = Role::Following(following);
        Ok(0)
    }

    /// What an abandoned serving role left: the application has ended since, or nothing would begin.
    fn clear_dead(&self) -> anyhow::Result<()> {
        self.config.dirs.iter().try_for_each(|d| mounts::clear_dead(&d.dir))
    }

    fn cover(&self) -> anyhow::Result<Arc<Vec<OwnedFd>>> {
        self.clear_dead()?;
        let roots = Arc::new(self.open_roots()?);
        mounts::check_writable(&self.config.dirs, &roots)?;
        identity::adopt(&self.config.dirs, &roots, &self.config.marks)?;
        for (index, replicated) in self.config.dirs.iter().enumerate() {
            if let Err(e) = mounts::hide(&replicated.dir, &self.config.run_dir, self.config.module.as_str(), index) {
                self.uncover()?;
                return Err(e);
            }
        }
        Ok(roots)
    }

    fn open_roots(&self) -> anyhow::Result<Vec<OwnedFd>> {
        self.config.dirs.iter().map(|d| mounts::open_dir(&d.dir)).collect()
    }

    fn uncover(&self) -> anyhow::Result<()> {
        for (index, replicated) in self.config.dirs.iter().enumerate() {
            mounts::unhide(&replicated.dir, &self.config.run_dir, self.config.module.as_str(), index)?;
        }
        Ok(())
    }

    fn verify(&self) {
        if matches!(&self.role, Role::Serving(serving) if serving.ship().verification.progress().is_some()) {
            // The end of the one under way answers both.
            return;
        }
        let begun = self.serving().and_then(|serving| serving.sessions().verify());
        if let Err(e) = begun {
            let end = VerifyEnd::Failed { detail: format!("{e:#}") };
            let what = Verified { done: Verifying::default(), millis: 0, listed: Vec::new(), end };
            self.agent.say(&ToAgent::Verified { what });
        }
    }

    fn repair(&self) {
        if let Role::Serving(serving) = &self.role {
            serving.sessions().repair();
        }
    }

    fn noted(&self) -> Option<Vec<String>> {
        match &self.role {
            Role::Serving(serving) => serving.noted(),
            Role::Idle | Role::Following(_) => None,
        }
    }

    fn figures(&self) -> ReplicaFigures {
        match &self.role {
            Role::Idle => ReplicaFigures::default(),
            Role::Serving(serving) => {
                let (waiting, oldest) = serving.ship().waiting();
                let (last, bytes) = serving.sessions().traffic();
                let (confirmed, confirmed_us) = serving.ship().confirmed();
                let (contents, travelled) = serving.sessions().compression();
                ReplicaFigures {
                    resync: serving.sessions().progress().lock().unwrap_or_else(PoisonError::into_inner).clone(),
                    last: Lsn(last),
                    bytes,
                    waiting,
                    waiting_ms: u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
                    confirmed,
                    confirmed_us,
                    contents,
                    travelled,
                    reach: serving.sessions().reach(),
                    verifying: serving.ship().verification.progress(),
                    unrepaired: serving.ship().verification.unrepaired(),
                    transport: Some(serving.transport()),
                }
            }
            Role::Following(following) => {
                ReplicaFigures { last: Lsn(following.last()), bytes: following.bytes(), ..ReplicaFigures::default() }
            }
        }
    }

    fn end(&mut self) {
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Serving(serving) => drop(serving.abandon()),
            Role::Following(following) => {
                if let Err(e) = following.close() {
                    tracing::warn!(error = format!("{e:#}"), "the last operations could not be flushed");
                }
            }
            Role::Idle => {}
        }
    }
}
