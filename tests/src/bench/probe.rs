//! A client that asks again and again, each time on a connection of its own, and notes when it was answered.
//!
//! The interruption a client sees is the longest time between two answers. Requests overlap: one that hangs holds up
//! none of the later ones.

use crate::lab::ns;
use crate::ledger::NewEntry;
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// From one request to the next: also the precision of every interruption.
pub const EVERY: Duration = Duration::from_millis(20);
/// On a network that loses frames, where a write waits for TCP to send again: more would be more than the ledger can
/// take, and a queue of requests looks like an interruption.
pub const SELDOM: Duration = Duration::from_millis(250);
/// A request without an answer is given up after this long.
const REQUEST_BOUND: Duration = Duration::from_secs(1);
/// The service counts as steady when it has answered without a longer pause …
const STEADY_PAUSE_MAX: Duration = Duration::from_millis(150);
/// … for this long.
const STEADY_FOR: Duration = Duration::from_secs(1);

/// A time without an answer.
#[derive(Debug, Clone, Copy)]
pub struct Interruption {
    /// The last answer before.
    pub from: Instant,
    /// The first answer after.
    pub to: Instant,
}

impl Interruption {
    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64()
    }
}

/// A client under way; ends when dropped.
pub struct Probe {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Writes an entry to the ledger at `to`, one after every `every`, from the namespace `net`.
    pub fn start(net: &OwnedFd, to: SocketAddr, every: Duration) -> Result<Probe> {
        let net = net.try_clone()?;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (seen, into) = (stop.clone(), answered.clone());
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || {
            if let Err(error) = run(&net, to, every, &seen, &into) {
                eprintln!("tsugi-lab: the client ended: {error:#}");
            }
        })?;
        Ok(Probe { stop, answered, thread: Some(thread) })
    }

    fn times(&self) -> Vec<Instant> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answered since `since`, with no pause worth mentioning, until now.
    pub fn is_steady(&self) -> bool {
        let begin = Instant::now() - STEADY_FOR;
        let mut last = begin;
        let recent = self.times().into_iter().filter(|at| *at > begin).chain([Instant::now()]);
        recent.into_iter().all(|at| at.duration_since(std::mem::replace(&mut last, at)) <= STEADY_PAUSE_MAX)
    }

    /// Waits until the service answers steadily.
    pub fn wait_steady(&self, bound: Duration) -> Result<()> {
        let begin = Instant::now();
        while !self.is_steady() {
            if begin.elapsed() > bound {
                let last = self.times().last().map_or("never".to_owned(), |at| format!("{:.1} s ago", at.elapsed().as_secs_f64()));
                bail!("the application does not answer steadily within {bound:?}; last answer: {last}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The longest time without an answer that ended after `since`.
    pub fn interruption_since(&self, since: Instant) -> Option<Interruption> {
        let times = self.times();
        let pairs = times.windows(2).map(|pair| Interruption { from: pair[0], to: pair[1] });
        pairs.filter(|gap| gap.to >= since).max_by(|a, b| a.seconds().total_cmp(&b.seconds()))
    }

    /// Answers so far.
    fn count(&self) -> usize {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for some more answers: an interruption that has ended is one that can be measured.
    pub fn wait_answers(&self, bound: Duration) -> Result<()> {
        const MORE: usize = 10;
        let (begin, goal) = (Instant::now(), self.count() + MORE);
        while self.count() < goal {
            if begin.elapsed() > bound {
                bail!("the application does not answer any more: {} of {goal} answers after {bound:?}", self.count());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A moment of this process's clock as the wall clock had it, in milliseconds: hosts of a lab share that clock.
pub fn unix_ms(at: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(at.elapsed()).as_millis() as u64
}

fn run(net: &OwnedFd, to: SocketAddr, every: Duration, stop: &AtomicBool, answered: &Arc<Mutex<Vec<Instant>>>) -> Result<()> {
    ns::enter(net)?;
    let client = format!("probe-{:016x}", rand::random::<u64>());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut seq = 0;
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            seq += 1;
            let entry = NewEntry { client: client.clone(), seq, text: "probe".into() };
            let answered = answered.clone();
            tokio::spawn(async move {
                if let Ok(Ok(true)) = tokio::time::timeout(REQUEST_BOUND, ask(to, entry)).await {
                    let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
                    answered.push(Instant::now()); // one thread, one lock: in order
                }
            });
        }
        anyhow::Ok(())
    })
}

/// The entry was confirmed.
async fn ask(to: SocketAddr, entry: NewEntry) -> Result<bool> {
    let body = serde_json::to_string(&entry)?;
    let mut stream = tokio::net::TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "POST /entries HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    let mut answer = [0u8; 12];
    stream.read_exact(&mut answer).await?;
    Ok(&answer == b"HTTP/1.1 201")
}
