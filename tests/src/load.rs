//! A client that writes to the ledger at full speed and remembers every acknowledged entry and when.
//!
//! It stands outside of the hosts. What was acknowledged must be there afterwards, whatever was switched off;
//! what was not acknowledged is asked again under the same number until it is.

use crate::lab::ns;
use crate::ledger::{Entry, NewEntry};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// When a client gives up.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A connection attempt: while nobody has the address, nobody answers at all.
    pub connect: Duration,
    /// An answer, and the connection with it.
    pub answer: Duration,
}

impl Patience {
    /// On a good network.
    pub const USUAL: Patience = Patience { connect: Duration::from_millis(500), answer: Duration::from_secs(2) };
    /// Where a round trip takes a second and every tenth frame is lost.
    pub const GREAT: Patience = Patience { connect: Duration::from_secs(20), answer: Duration::from_secs(60) };
}

/// Between two flushes of the file beside a load: it is there to look, not to take the disk.
const BESIDE_PAUSE: Duration = Duration::from_millis(20);
/// Between attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Entries asked for at the end are asked for this long.
const READ_BOUND: Duration = Duration::from_secs(30);

/// What was acknowledged, and when (of this process's clock).
#[derive(Debug, Clone)]
pub struct Acked {
    /// The entry as it was sent.
    pub entry: NewEntry,
    /// When its 201 was read.
    pub at: Instant,
}

/// A time without service, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap {
    /// Seconds between two acknowledgements.
    pub seconds: f64,
    /// Seconds from the start of the load to its begin.
    pub from: f64,
}

/// The load, under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<Acked>>>,
    failed: Arc<AtomicUsize>,
    begin: Instant,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Writes from the namespace `net` to the ledger at `to` with `connections` at once.
    pub fn start(net: &OwnedFd, to: SocketAddr, connections: usize) -> Result<Load> {
        Load::start_patient(net, to, connections, Patience::USUAL)
    }

    /// The same, giving up when it is said.
    pub fn start_patient(net: &OwnedFd, to: SocketAddr, connections: usize, patience: Patience) -> Result<Load> {
        let net = net.try_clone()?;
        let failed = Arc::new(AtomicUsize::new(0));
        let seen = failed.clone();
        let mut load = Load::start_with(move |stop, acked| {
            ns::enter(&net)?;
            let run: u64 = rand::random();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut tasks = Vec::new();
                for number in 0..connections {
                    let name = format!("load-{run:016x}-{number}");
                    tasks.push(tokio::spawn(write_on(to, name, patience, stop.clone(), acked.clone(), seen.clone())));
                }
                for task in tasks {
                    task.await?;
                }
                Ok(())
            })
        })?;
        load.failed = failed;
        Ok(load)
    }

    /// Runs `work` on a thread of its own until the flag it is given is set; it notes what is acknowledged.
    pub fn start_with(work: impl FnOnce(Arc<AtomicBool>, Arc<Mutex<Vec<Acked>>>) -> Result<()> + Send + 'static) -> Result<Load> {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (seen, kept) = (stop.clone(), acked.clone());
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || work(seen, kept))?;
        Ok(Load { stop, acked, failed: Arc::default(), begin: Instant::now(), thread: Some(thread) })
    }

    /// Writes and flushes a small file of its own in `dir`, every few milliseconds: what the disk there and this
    /// machine's processors have to spare, whoever else uses them. A pause of a client can be told from one of the
    /// machine by it.
    pub fn beside(dir: &Path) -> Result<Load> {
        let path = dir.join("beside");
        Load::start_with(move |stop, acked| {
            let mut file = File::create(&path).with_context(|| format!("{}", path.display()))?;
            let mut seq = 0;
            while !stop.load(Ordering::Relaxed) {
                seq += 1;
                file.write_all(b"written and flushed beside the load\n")?;
                file.sync_all()?;
                let entry = NewEntry { text: String::new(), client: "beside".into(), seq };
                acked.lock().map_err(|_| anyhow!("the list of what is flushed"))?.push(Acked { entry, at: Instant::now() });
                std::thread::sleep(BESIDE_PAUSE);
            }
            Ok(())
        })
    }

    /// Acknowledged so far.
    pub fn count(&self) -> usize {
        self.acked.lock().map_or(0, |a| a.len())
    }

    /// Requests that were answered otherwise than with an acknowledgement, or not in time, or whose connection broke.
    pub fn failures(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Acknowledged between two moments.
    pub fn count_between(&self, from: Instant, to: Instant) -> usize {
        self.acked.lock().map_or(0, |a| a.iter().filter(|a| a.at > from && a.at <= to).count())
    }

    /// Longest time without an acknowledgement that ends after `since`. A time that has not ended yet counts.
    pub fn longest_gap_since(&self, since: Instant) -> Gap {
        let mut times: Vec<Instant> = self.acked.lock().map(|a| a.iter().map(|a| a.at).collect()).unwrap_or_default();
        times.push(Instant::now());
        times.sort();
        let mut last = self.begin;
        let mut longest = Gap { seconds: 0.0, from: 0.0 };
        for at in times {
            let seconds = at.duration_since(last).as_secs_f64();
            if at >= since && seconds > longest.seconds {
                longest = Gap { seconds, from: last.duration_since(self.begin).as_secs_f64() };
            }
            last = at;
        }
        longest
    }

    /// That no client noticed anything since `since`: none waited longer than `allowed` and what a plain file of this
    /// machine waited meanwhile, which ends with this ([`Load::beside`]). Says the pause.
    pub fn unnoticed(&self, since: Instant, allowed: Duration, beside: Load) -> Result<Gap> {
        let (gap, machine) = (self.longest_gap_since(since), beside.longest_gap_since(since));
        beside.stop()?;
        if gap.seconds > allowed.as_secs_f64() + machine.seconds {
            bail!("the client waited {gap:?}, more than {allowed:?}; a plain file on this machine's disk {machine:?}");
        }
        Ok(gap)
    }

    /// Waits until `count` entries more than now are acknowledged.
    pub fn wait_for_more(&self, count: usize, bound: Duration) -> Result<()> {
        let goal = self.count() + count;
        let begin = Instant::now();
        while self.count() < goal {
            if begin.elapsed() > bound {
                bail!("{} of {goal} entries were acknowledged within {bound:?}", self.count());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the load; everything acknowledged.
    pub fn stop(mut self) -> Result<Vec<Acked>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(result) => result.context("the load client failed")?,
                Err(_) => bail!("the load client panicked"),
            }
        }
        let mut all = self.acked.lock().map(|a| a.clone()).unwrap_or_default();
        all.sort_by_key(|a| a.at);
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn write_on(
    to: SocketAddr,
    client: String,
    patience: Patience,
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<Acked>>>,
    failed: Arc<AtomicUsize>,
) {
    let mut seq = 1;
    let mut sender = None;
    while !stop.load(Ordering::Relaxed) {
        let entry = NewEntry { text: format!("entry {seq} of {client}"), client: client.clone(), seq };
        let Ok(body) = serde_json::to_vec(&entry) else { return };
        match post(&mut sender, to, body, patience).await {
            Ok(()) => {
                let at = Instant::now();
                if let Ok(mut acked) = acked.lock() {
                    acked.push(Acked { entry, at });
                }
                seq += 1;
            }
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
                sender = None;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

async fn connect(to: SocketAddr, bound: Duration) -> Result<Sender> {
    let stream = tokio::time::timeout(bound, tokio::net::TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn post(kept: &mut Option<Sender>, to: SocketAddr, body: Vec<u8>, patience: Patience) -> Result<()> {
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None => connect(to, patience.connect).await?,
    };
    let request = hyper::Request::post("/entries")
        .header("host", to.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::time::timeout(patience.answer, exchange).await??;
    if status != hyper::StatusCode::CREATED {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    *kept = Some(sender);
    Ok(())
}

/// Every entry of the ledger at `to`, read page by page over the virtual address.
pub fn read_all(net: &OwnedFd, to: SocketAddr) -> Result<Vec<Entry>> {
    ns::within(net, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut all: Vec<Entry> = Vec::new();
            let mut sender = None;
            let until = Instant::now() + READ_BOUND;
            loop {
                let after = all.last().map_or(0, |e| e.id);
                let page: Vec<Entry> = match get(&mut sender, to, &format!("/entries?after={after}")).await {
                    Ok(page) => page,
                    Err(error) if Instant::now() > until => return Err(error.context(format!("the ledger at {to} does not answer"))),
                    Err(_) => {
                        sender = None;
                        tokio::time::sleep(RETRY_PAUSE).await;
                        continue;
                    }
                };
                if page.is_empty() {
                    return Ok(all);
                }
                all.extend(page);
            }
        })
    })
}

async fn get(kept: &mut Option<Sender>, to: SocketAddr, path: &str) -> Result<Vec<Entry>> {
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None => connect(to, Patience::USUAL.connect).await?,
    };
    let request = hyper::Request::get(path).header("host", to.to_string()).body(Full::new(Bytes::new()))?;
    let exchange = async {
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(READ_BOUND, exchange).await??;
    if status != hyper::StatusCode::OK {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    *kept = Some(sender);
    Ok(serde_json::from_slice(&body)?)
}

/// What of `acked` is missing in, or differs from, `found`; in words.
pub fn lost(acked: &[Acked], found: &[Entry]) -> Vec<String> {
    let by_key: BTreeMap<(&str, i64), &str> = found.iter().map(|e| ((e.client.as_str(), e.seq), e.text.as_str())).collect();
    let mut lost = Vec::new();
    for Acked { entry, .. } in acked {
        match by_key.get(&(entry.client.as_str(), entry.seq)) {
            None => lost.push(format!("entry {} of {} is missing", entry.seq, entry.client)),
            Some(text) if *text != entry.text => lost.push(format!("entry {} of {} is changed", entry.seq, entry.client)),
            Some(_) => {}
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_and_a_changed_entry_are_both_lost() {
        let sent = |seq, text: &str| Acked { entry: NewEntry { client: "c".into(), seq, text: text.into() }, at: Instant::now() };
        let kept = |seq, text: &str| Entry { id: seq, client: "c".into(), seq, text: text.into() };
        let acked = [sent(1, "a"), sent(2, "b"), sent(3, "c")];
        assert!(lost(&acked, &[kept(1, "a"), kept(2, "b"), kept(3, "c"), kept(4, "not acknowledged")]).is_empty());
        assert_eq!(lost(&acked, &[kept(1, "a"), kept(3, "x")]).len(), 2);
    }
}
