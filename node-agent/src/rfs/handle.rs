//! The agent's side of a data process: start it, order, hear, end it.

use super::control::{self, CONTROL_FD, DEADLINE_FD, Greeted, Greeting, ToAgent, ToData};
use super::deadline::Deadline;
use super::hold;
use super::mounts;
use crate::config::Transport;
use crate::kept::ProcessName;
use crate::procfs::{self, Process};
use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tsugi_core::copies::Verified;
use tsugi_core::ids::{JobId, ModuleName, NodeName};
use tsugi_core::module::{Async, Compress, Replicated};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};
use tsugi_core::state::ReplicaFigures;

/// Orders on their way: the engine has one or two outstanding at a time.
const ORDERS_MAX: usize = 64;
/// Figures that come later than this are not worth showing.
const FIGURES_MAX: Duration = Duration::from_millis(800);
/// A killed process is gone by then, unless it hangs in the kernel.
const DEATH_MAX: Duration = Duration::from_secs(5);

/// A process that waits for its agent answers at once.
const GREETING_MAX: Duration = Duration::from_millis(500);
/// Between two looks at whether a process that is no child of this one has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Everything a data process needs to know. Sent to it as its first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataConfig {
    /// Module.
    pub module: ModuleName,
    /// This node.
    pub node: NodeName,
    /// The other node.
    pub peer: NodeName,
    /// Name of the cluster: organisation of the certificates.
    pub cluster: String,
    /// Directories, the same on both nodes and in the same order.
    pub dirs: Vec<Replicated>,
    /// Durability of an fsync on the following side.
    pub ack: Async,
    /// Where the serving side listens.
    pub listen: SocketAddr,
    /// Where the following side connects to.
    pub connect: SocketAddr,
    /// Directory with `node.crt`, `node.key`, `ca.crt`.
    pub identity_dir: PathBuf,
    /// Directory for the process's own notes.
    pub run_dir: PathBuf,
    /// Which copies are this node's ([`super::identity`]).
    pub marks: PathBuf,
    /// Cap on resynchronisation.
    pub resync_kb_per_s_max: Option<u64>,
    /// How the serving side sends contents.
    #[serde(default)]
    pub compress: Compress,
    /// How requests of the kernel reach the serving side.
    #[serde(default)]
    pub transport: Transport,
    /// How long a session whose connection broke waits for a new one: as long as the peer may be silent before this
    /// node asks the arbiter for going on alone. A long line gets some round trips more.
    pub patience: Duration,
}

impl DataConfig {
    fn note_file(&self) -> PathBuf {
        self.run_dir.join(format!("data-{}.pid", self.module))
    }
}

/// What a data process reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataEvent {
    /// An order ended.
    Answer(JobId, ReplicaAnswer),
    /// Unasked.
    Note(ReplicaNote),
    /// A verification ended.
    Verified(Verified),
}

/// Who waits for figures.
#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<oneshot::Sender<ReplicaFigures>>,
    /// The process was asked and has not answered: it is not asked again. A process that hangs must not have the queue
    /// full of it when an order comes.
    is_asked: bool,
    /// Who waits for the paths of what is noted as changed.
    noted: Vec<oneshot::Sender<Option<Vec<String>>>>,
}

type Asked = Arc<Mutex<Waiting>>;

/// A running data process.
#[derive(Debug)]
pub struct DataProcess {
    pub(super) config: DataConfig,
    deadline: Deadline,
    orders: mpsc::Sender<ToData>,
    events: mpsc::Sender<DataEvent>,
    asked: Asked,
    pid: i32,
    /// Absent when it had ended before it could be looked at.
    process: Option<Process>,
    killed: bool,
}

impl DataProcess {
    /// Ends the process that an earlier life left. Its mounts stay, dead: an application that still runs gets errors, and
    /// cannot get at what lies below them. `Err` = it is still there.
    pub async fn end_earlier(config: &DataConfig) -> anyhow::Result<()> {
        let config = config.clone();
        tokio::task::spawn_blocking(move || end_earlier(&config)).await.context("the clean-up panicked")?
    }

    /// Takes away the mounts of a process that is dead, and lets nobody write to the copies below. To be called when nothing
    /// of the application runs any more: what it would write now, no peer would ever get.
    pub async fn hold(config: &DataConfig) -> anyhow::Result<()> {
        let config = config.clone();
        let held = tokio::task::spawn_blocking(move || {
            clear_dead(&config)?;
            hold::hold(&config);
            // At the next boot it is done before the agent runs; if this cannot be written, after.
            if let Err(e) = hold::remember(&config) {
                tracing::warn!(error = format!("{e:#}"), "the directories will not be protected before the agent runs");
            }
            Ok(())
        });
        held.await.context("the clean-up panicked")?
    }

    /// Takes away the mounts of a process that is dead, and what kept others from writing: for somebody who changes
    /// something in there, or for good. What these copies were level with is forgotten.
    pub async fn open(config: &DataConfig) -> anyhow::Result<()> {
        let config = config.clone();
        tokio::task::spawn_blocking(move || hold::open(&config)).await.context("the clean-up panicked")?
    }

    /// Clears what an earlier life left, then runs `exe data`.
    pub async fn spawn(exe: &Path, config: DataConfig, events: mpsc::Sender<DataEvent>) -> anyhow::Result<Self> {
        Self::end_earlier(&config).await?;
        let dead = config.clone();
        tokio::task::spawn_blocking(move || clear_dead(&dead)).await.context("the clean-up panicked")??;
        let deadline = Deadline::create().context("cannot make the shared page for the deadline")?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("cannot make a socket pair")?;
        ours.set_nonblocking(true)?;
        let (control, page) = (theirs.as_raw_fd(), deadline.fd());
        let mut command = tokio::process::Command::new(exe);
        command.arg("data").env(CONTROL_FD, control.to_string()).env(DEADLINE_FD, page.to_string());
        command.stdin(std::process::Stdio::null()).kill_on_drop(false);
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::setsid() < 0 || libc::fcntl(control, libc::F_SETFD, 0) < 0 || libc::fcntl(page, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut child = command.spawn().with_context(|| format!("cannot start the data process {}", exe.display()))?;
        drop(theirs);
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).ok_or_else(|| anyhow!("the data process ended at once"))?;
        std::fs::write(config.note_file(), format!("{pid} {}", start_ticks(pid).unwrap_or(0)))
            .with_context(|| format!("cannot write {}", config.note_file().display()))?;
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let asked: Asked = Arc::default();
        let (reader, writer) = tokio::net::UnixStream::from_std(ours)?.into_split();
        let mut first = serde_json::to_vec(&config)?;
        first.push(b'\n');
        tokio::spawn(write_orders(writer, first, queue));
        let (answers, unsent) = (asked.clone(), events.clone());
        tokio::spawn(async move {
            read_events(BufReader::new(reader), &events, &answers).await;
            let detail = match child.wait().await {
                Ok(status) => format!("the data process ended ({status}); see its log"),
                Err(e) => format!("the data process cannot be waited for: {e}"),
            };
            let _ = events.send(DataEvent::Note(ReplicaNote::Died { detail })).await;
        });
        Ok(Self { config, deadline, orders, events: unsent, asked, pid, process: procfs::read(pid), killed: false })
    }

    /// Takes over the process of a former life of this agent, which has taken its first `heard` messages into account; the
    /// others come as events. `Err`: why it is of no use, and nothing has changed.
    pub async fn attach(config: DataConfig, name: ProcessName, heard: u64, events: mpsc::Sender<DataEvent>) -> anyhow::Result<Self> {
        if !name.is_there() {
            bail!("the data process {} is not there any more", name.pid);
        }
        let greeted = tokio::time::timeout(GREETING_MAX, greet(&config, heard)).await.context("the data process does not answer")?;
        let (reader, writer, greeted) = greeted?;
        if greeted.pid != name.pid {
            bail!("another process than {} answers for it", name.pid);
        }
        let page = std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{}/fd/{}", name.pid, greeted.deadline_fd));
        let deadline = Deadline::map(OwnedFd::from(page.context("cannot open the page with its deadline")?))?;
        let process = procfs::read(name.pid).filter(|p| p.start == name.start);
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let asked: Asked = Arc::default();
        tokio::spawn(write_orders(writer, Vec::new(), queue));
        let (answers, unsent) = (asked.clone(), events.clone());
        tokio::spawn(async move {
            read_events(reader, &events, &answers).await;
            while start_ticks(name.pid) == Some(name.start) && !is_over(name.pid) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            // It is this process's child if that has put a new program in its own place.
            // SAFETY: a plain call; that it is none is no error.
            unsafe { libc::waitpid(name.pid, std::ptr::null_mut(), libc::WNOHANG) };
            let detail = "the data process ended; see its log".to_owned();
            let _ = events.send(DataEvent::Note(ReplicaNote::Died { detail })).await;
        });
        Ok(Self { config, deadline, orders, events: unsent, asked, pid: name.pid, process, killed: false })
    }

    /// Its name; absent when it had ended before it could be looked at.
    pub fn name(&self) -> Option<ProcessName> {
        self.process.as_ref().map(|p| ProcessName { pid: p.pid, start: p.start })
    }

    /// What [`DataProcess::set_deadline`] was told last, by whoever told it.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline.get()
    }

    /// Orders something; the answer comes as an event.
    pub fn order(&self, job: JobId, order: ReplicaOrder) {
        if let Err(e) = self.orders.try_send(ToData::Order { job, what: order }) {
            tracing::error!(module.name = %self.config.module, error = %e, "an order did not reach the data process");
            let detail = "the data process takes no orders: it is dead or hangs; see its log".to_owned();
            let (events, answer) = (self.events.clone(), DataEvent::Answer(job, ReplicaAnswer::Failed { detail }));
            // Never waits for the runner, which is who calls this.
            tokio::spawn(async move { events.send(answer).await });
        }
    }

    /// The end of the peer's promise; `None` where none is needed; `Some(0)`, the state a process starts in, where
    /// this node may not acknowledge anything, even alone. One store to shared memory.
    pub fn set_deadline(&self, until_boottime_ns: Option<u64>) {
        self.deadline.set(until_boottime_ns);
    }

    /// Process id, for the guard and for tests.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Figures for the snapshot; `None` if the process does not tell them in time.
    pub async fn figures(&self) -> Option<ReplicaFigures> {
        tokio::time::timeout(FIGURES_MAX, self.ask_figures()?).await.ok()?.ok()
    }

    /// Asks for them. `None`: the process takes no orders.
    pub fn ask_figures(&self) -> Option<oneshot::Receiver<ReplicaFigures>> {
        let (tx, rx) = oneshot::channel();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.answers.retain(|a| !a.is_closed());
        asked.answers.push(tx);
        if !asked.is_asked {
            self.orders.try_send(ToData::Figures).ok()?;
            asked.is_asked = true;
        }
        Some(rx)
    }

    /// Begins a verification; its end comes as an event. False: the process takes no orders.
    pub fn verify(&self) -> bool {
        self.orders.try_send(ToData::Verify).is_ok()
    }

    /// Has what a verification found repaired in a new session: this node goes on alone for that moment.
    pub fn repair(&self) {
        // One that takes no orders now is told so again soon.
        let _ = self.orders.try_send(ToData::Repair);
    }

    /// Asks for the paths of what is noted as changed since the peer was level; the answer `None`: everything counts as
    /// changed, or nothing is known. `None`: the process takes no orders.
    pub fn noted(&self) -> Option<oneshot::Receiver<Option<Vec<String>>>> {
        let (tx, rx) = oneshot::channel();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked once for all who wait: a process that is slow must not have the queue full of it when an order comes.
        if asked.noted.is_empty() {
            self.orders.try_send(ToData::Noted).ok()?;
        }
        asked.noted.push(tx);
        Some(rx)
    }

    /// Kills the process. Its mounts stay, dead, until [`DataProcess::hold`].
    pub fn end(&mut self) {
        if self.killed {
            return;
        }
        self.killed = true;
        // By its start, too: once it is collected its number may be another's.
        if let Some(process) = &self.process
            && let Err(e) = procfs::signal(process, libc::SIGKILL)
        {
            tracing::error!(module.name = %self.config.module, pid = self.pid, error = %e, "the data process cannot be ended");
        }
    }

    /// Kills the process and takes its mounts away, for tests.
    #[cfg(test)]
    pub fn kill(&mut self) {
        if self.killed {
            return;
        }
        self.end();
        if let Err(e) = clear_mounts(&self.config) {
            tracing::warn!(module.name = %self.config.module, error = format!("{e:#}"), "a mount of the killed data process is left");
        }
    }
}

/// Comes in at the door of a process that waits for its agent.
async fn greet(
    config: &DataConfig,
    heard: u64,
) -> anyhow::Result<(BufReader<tokio::net::unix::OwnedReadHalf>, tokio::net::unix::OwnedWriteHalf, Greeted)> {
    let path = control::socket(&config.run_dir, &config.module);
    let socket = tokio::net::UnixStream::connect(&path).await.context("the data process lets nobody in")?;
    let (reader, mut writer) = socket.into_split();
    let mut line = serde_json::to_vec(&Greeting { config: config.clone(), heard })?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut reader = BufReader::new(reader);
    let mut answer = String::new();
    if reader.read_line(&mut answer).await? == 0 {
        bail!("the data process has refused this agent; see its log");
    }
    Ok((reader, writer, serde_json::from_str(&answer).context("its answer cannot be understood")?))
}

async fn write_orders(mut writer: tokio::net::unix::OwnedWriteHalf, first: Vec<u8>, mut queue: mpsc::Receiver<ToData>) {
    if writer.write_all(&first).await.is_err() {
        return;
    }
    while let Some(order) = queue.recv().await {
        let Ok(mut line) = serde_json::to_vec(&order) else { continue };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn read_events(reader: BufReader<tokio::net::unix::OwnedReadHalf>, events: &mpsc::Sender<DataEvent>, asked: &Asked) {
    let mut lines = reader.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event = match serde_json::from_str::<ToAgent>(&line) {
            Ok(ToAgent::Answer { job, what }) => DataEvent::Answer(job, what),
            Ok(ToAgent::Note { what }) => DataEvent::Note(what),
            Ok(ToAgent::Verified { what }) => DataEvent::Verified(what),
            Ok(ToAgent::Noted { what }) => {
                let waiting = std::mem::take(&mut asked.lock().unwrap_or_else(PoisonError::into_inner).noted);
                for one in waiting {
                    let _ = one.send(what.clone());
                }
                continue;
            }
            Ok(ToAgent::Figures { what }) => {
                let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.is_asked = false;
                for waiting in asked.answers.drain(..) {
                    let _ = waiting.send(what.clone());
                }
                continue;
            }
            Err(e) => {
                tracing::error!(error = %e, "the data process said something that cannot be understood");
                continue;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// When a process was started, so that a reused number is not taken for it.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the 22nd field is the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn end_earlier(config: &DataConfig) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.run_dir).with_context(|| format!("cannot make {}", config.run_dir.display()))?;
    let file = config.note_file();
    if let Ok(text) = std::fs::read_to_string(&file) {
        let mut numbers = text.split_whitespace();
        let pid = numbers.next().and_then(|n| n.parse::<i32>().ok());
        let ticks = numbers.next().and_then(|n| n.parse::<u64>().ok());
        if let (Some(pid), Some(ticks)) = (pid, ticks)
            && start_ticks(pid) == Some(ticks)
        {
            tracing::warn!(module.name = %config.module, pid, "ending the data process of an earlier agent");
            // SAFETY: plain call on a process that was ours.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            let begun = Instant::now();
            while start_ticks(pid) == Some(ticks) && !is_over(pid) {
                if begun.elapsed() > DEATH_MAX {
                    return Err(anyhow!("the data process {pid} of an earlier agent does not end; restart this node"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = std::fs::remove_file(&file);
    }
    Ok(())
}

/// None of its threads does anything any more. The first one may be a zombie while another one still hangs in a write
/// to the disk.
fn is_over(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("stat"))
            .map_or(true, |s| s.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])))
    })
}

fn clear_dead(config: &DataConfig) -> anyhow::Result<()> {
    config.dirs.iter().try_for_each(|d| mounts::clear_dead(&d.dir))
}

#[cfg(test)]
fn clear_mounts(config: &DataConfig) -> anyhow::Result<()> {
    for (index, replicated) in config.dirs.iter().enumerate() {
        mounts::clear(&replicated.dir, &config.run_dir, config.module.as_str(), index)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::Epoch;

    /// A process that reads nothing.
    async fn hung(dir: &Path) -> (DataProcess, mpsc::Receiver<ToData>, mpsc::Receiver<DataEvent>) {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let (events, heard) = mpsc::channel(ORDERS_MAX);
        let config = DataConfig {
            module: ModuleName::new("m").unwrap(),
            node: NodeName::new("n1").unwrap(),
            peer: NodeName::new("n2").unwrap(),
            cluster: "c".into(),
            dirs: vec![],
            ack: Async::default(),
            listen: "127.0.0.1:0".parse().unwrap(),
            connect: "127.0.0.1:0".parse().unwrap(),
            identity_dir: dir.into(),
            run_dir: dir.into(),
            marks: dir.join("copies.json"),
            resync_kb_per_s_max: None,
            compress: Compress::Off,
            transport: Transport::Auto,
            patience: Duration::from_secs(1),
        };
        let deadline = Deadline::create().unwrap();
        let data = DataProcess { config, deadline, orders, events, asked: Asked::default(), pid: 0, process: None, killed: false };
        (data, queue, heard)
    }

    #[test]
    fn a_process_is_over_when_its_last_thread_is() {
        extern "C" fn for_ever(_: *mut libc::c_void) -> *mut libc::c_void {
            loop {
                // SAFETY: a plain system call.
                unsafe { libc::pause() };
            }
        }
        // SAFETY: the child makes a thread and ends its first one, and touches nothing of its parent's.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let mut thread: libc::pthread_t = 0;
                libc::pthread_create(&raw mut thread, std::ptr::null(), for_ever, std::ptr::null_mut());
                libc::syscall(libc::SYS_exit, 0);
            }
            pid
        };
        assert!(pid > 0);
        let wait = |what: &str, is_so: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !is_so() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
                std::thread::yield_now();
            }
        };
        wait("its first thread ends", &|| procfs::read(pid).is_some_and(|p| p.is_zombie));
        assert!(!is_over(pid));
        // SAFETY: plain calls on a child that is not collected.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        wait("all of it ends", &|| is_over(pid));
        // SAFETY: as above.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        assert!(is_over(pid));
    }

    #[tokio::test]
    async fn an_order_that_cannot_be_queued_is_answered_and_figures_do_not_fill_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        let (data, queue, mut heard) = hung(dir.path()).await;
        for _ in 0..ORDERS_MAX * 2 {
            assert!(tokio::time::timeout(Duration::from_millis(1), data.figures()).await.is_err());
        }
        assert_eq!(queue.len(), 1, "figures are asked for once");
        let abandon = |job| data.order(JobId(job), ReplicaOrder::GoAlone { epoch: Epoch(1) });
        let room = u64::try_from(ORDERS_MAX).unwrap() - 1;
        (0..room).for_each(abandon);
        assert!(heard.try_recv().is_err());
        abandon(room);
        assert!(matches!(heard.recv().await, Some(DataEvent::Answer(job, ReplicaAnswer::Failed { .. })) if job == JobId(room)));
    }
}
