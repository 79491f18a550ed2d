//! The live stream of one session on the serving side: numbers the operations, keeps each one until the peer has
//! it, and carries them over as many connections as it takes.
//!
//! Invariants:
//! * operations are numbered, kept and sent in one order, the order of their numbers;
//! * an operation leaves the queue only when the peer has acknowledged it, or the session is over;
//! * the queue is bounded: whoever would exceed it waits, nothing is dropped and nothing is answered by that.
//!
//! Locks, in this order: `out` (held while a frame is written, so possibly as long as the connection is full), then
//! `kept` and `link` (never held while anything is waited for). Acknowledgements need `kept` only, so they arrive
//! while senders wait.

use super::compress::Compressor;
use super::frame::{self, Address, Data, Msg, Op};
use super::link::Link;
use anyhow::bail;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tsugi_core::ids::{Epoch, LifeId, Lsn, Session};
use tsugi_core::module::Compress;
use tsugi_core::replica::rejoin::{self, Asks, Refusal, Resend};

/// Bytes kept for the peer at most: a second of a fast line. An application rarely comes near it, because each of
/// its threads waits for its own operation.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Operations kept at most: their own cost in memory is that of small ones.
const IN_FLIGHT_OPS_MAX: usize = 65_536;
/// What an operation without contents takes, about.
const OP_BYTES: usize = 256;
/// Frames from this size on are kept in buffers that are used again: fresh memory of that size comes from the kernel
/// page by page, which costs more than the copy.
const POOLED_BYTES_MIN: usize = 64 << 10;
/// Buffers that wait for their next use at most; each holds one write, at most 1 MiB.
const POOL_MAX: usize = 16;
/// Operations nobody waits for are sent with the next one; so many are not kept back.
const LATER_MAX: usize = 64;

/// What an acknowledgement has to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Applied by the peer.
    Memory,
    /// On the peer's disk.
    Disk,
}

/// The lives of the two processes that speak in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// This data process.
    pub source: LifeId,
    /// The peer's.
    pub target: LifeId,
}

/// See the module.
pub struct Stream {
    epoch: u64,
    session: u64,
    lives: Lives,
    bytes_max: usize,
    compressor: Compressor,
    out: Mutex<Out>,
    kept: Mutex<Kept>,
    room: Condvar,
    link: Mutex<Option<Attached>>,
    /// Number of the last operation; outside `out`, which a sender holds while the connection is full.
    last: AtomicU64,
    /// Bytes of connections that are gone.
    carried: AtomicU64,
    /// Length of the activity log the peer was told last.
    logged: AtomicU64,
    is_armed: AtomicBool,
    /// Test only: see `Link::send_late`.
    is_late: AtomicBool,
}

struct Attached {
    link: Arc<Link>,
    since: Instant,
}

struct Out {
    next: u64,
    /// Frames that are kept and numbered, and go out before the next one.
    later: Vec<Arc<Vec<u8>>>,
}

struct Kept {
    queue: VecDeque<InFlight>,
    /// Of the queue, and of operations that are being encoded.
    bytes: usize,
    acked: u64,
    unflushed: BTreeSet<Lsn>,
    attempt: u64,
    pool: Vec<Vec<u8>>,
    over: Option<String>,
}

struct InFlight {
    lsn: u64,
    bytes: usize,
    frame: Arc<Vec<u8>>,
}

/// Why a new connection does not carry the session on.
#[derive(Debug, thiserror::Error)]
pub enum NotRejoined {
    /// By the rule.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// It broke, too.
    #[error("the new connection broke: {0}")]
    Broke(#[from] io::Error),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process (see `process`), so poison carries no news.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// The stream of a session, carried by its first connection. Not armed yet.
    pub fn new(link: &Arc<Link>, lives: Lives, compress: Compress) -> Arc<Self> {
        let stream = Self::unattached(link.epoch(), link.session(), lives, compress, IN_FLIGHT_BYTES_MAX);
        *lock(&stream.link) = Some(Attached { link: link.clone(), since: Instant::now() });
        Arc::new(stream)
    }

    fn unattached(epoch: u64, session: u64, lives: Lives, compress: Compress, bytes_max: usize) -> Self {
        let kept =
            Kept { queue: VecDeque::new(), bytes: 0, acked: 0, unflushed: BTreeSet::new(), attempt: 0, pool: Vec::new(), over: None };
        Self {
            epoch,
            session,
            lives,
            bytes_max,
            compressor: Compressor::new(compress),
            out: Mutex::new(Out { next: 1, later: Vec::new() }),
            kept: Mutex::new(kept),
            room: Condvar::new(),
            link: Mutex::new(None),
            last: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            is_armed: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
        }
    }

    /// Number of the session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The number the last operation was given. Never waits for a sender.
    pub fn last_lsn(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The peer was told that the activity log is so long.
    pub fn told_log(&self, count: u64) {
        self.logged.fetch_max(count, Ordering::AcqRel);
    }

    /// Whether the peer has yet to be told that. Two that ask at once both tell it before they go on.
    pub fn must_tell_log(&self, count: u64) -> bool {
        self.logged.load(Ordering::Acquire) < count
    }

    /// Bytes sent and received over all connections.
    pub fn bytes(&self) -> u64 {
        self.carried.load(Ordering::Relaxed) + self.link().map_or(0, |l| l.bytes())
    }

    /// What shortens contents, those of the resynchronisation as well.
    pub fn compressor(&self) -> &Compressor {
        &self.compressor
    }

    /// The connection that carries it now; none while it is broken.
    pub fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).as_ref().map(|a| a.link.clone())
    }

    /// How long the present connection has carried it.
    pub fn carried_for(&self) -> Option<Duration> {
        lock(&self.link).as_ref().map(|a| a.since.elapsed())
    }

    /// Whether the session was ended: it is never resumed.
    pub fn over(&self) -> Option<String> {
        lock(&self.kept).over.clone()
    }

    /// The barrier is passed: from now on a broken connection may be replaced.
    pub fn arm(&self) {
        self.is_armed.store(true, Ordering::Release);
    }

    /// Test only: from now on frames lie for a while before they are sent.
    pub fn send_late(&self) {
        self.is_late.store(true, Ordering::Release);
        if let Some(link) = self.link() {
            link.send_late();
        }
    }

    /// An operation that is to be flushed was not said to be.
    pub fn is_unflushed(&self, lsn: u64) -> bool {
        lock(&self.kept).unflushed.contains(&Lsn(lsn))
    }

    /// Ends the session, and tells the peer why if that can be done without waiting: nothing more is sent, whoever
    /// waits for room goes on without a number.
    pub fn end(&self, why: &str) {
        lock(&self.kept).over.get_or_insert_with(|| why.to_owned());
        self.room.notify_all();
        if let Some(link) = self.take(None) {
            link.close_saying(&Msg::Refuse { detail: why.to_owned() });
        }
    }

    /// The connection broke. `only`: not if another one carries the stream by now.
    pub fn detach(&self, only: Option<&Arc<Link>>) {
        if let Some(link) = self.take(only) {
            link.close();
        }
    }

    fn take(&self, only: Option<&Arc<Link>>) -> Option<Arc<Link>> {
        let mut slot = lock(&self.link);
        let is_meant = slot.as_ref().is_some_and(|a| only.is_none_or(|link| Arc::ptr_eq(link, &a.link)));
        let gone = if is_meant { slot.take() } else { None }?;
        self.carried.fetch_add(gone.link.bytes(), Ordering::Relaxed);
        Some(gone.link)
    }

    /// Sends the next operation and returns its number; while the connection is broken the operation is kept and
    /// sent later. Waits while too much is kept. `None`: the session is over.
    pub fn send(&self, op: Op, data: &[u8], durability: Durability) -> Option<u64> {
        // Before it has a number: others may compress meanwhile, and what is kept for the peer is the shorter form.
        let (mut out, lsn, frame) = self.compressor.shorten(data, |data| self.number(op, data, durability))?;
        self.put(&mut out, Some(&frame));
        Some(lsn)
    }

    /// The same for an operation that nobody waits for: it goes out with the next one, or by [`Stream::flush`].
    pub fn send_later(&self, op: Op) -> Option<u64> {
        let (mut out, lsn, frame) = self.number(op, Data::plain(&[]), Durability::Memory)?;
        out.later.push(frame);
        if out.later.len() >= LATER_MAX {
            self.put(&mut out, None);
        }
        Some(lsn)
    }

    /// Sends what waits for a next operation.
    pub fn flush(&self) {
        let mut out = lock(&self.out);
        if !out.later.is_empty() {
            self.put(&mut out, None);
        }
    }

    /// The same if that cannot have to wait: the peer has everything that was sent before, so there is room in the
    /// connection, and nobody is sending.
    pub fn flush_idle(&self) {
        if let Ok(mut out) = self.out.try_lock()
            && !out.later.is_empty()
            && lock(&self.kept).queue.len() == out.later.len()
        {
            self.put(&mut out, None);
        }
    }

    fn put(&self, out: &mut Out, next: Option<&Arc<Vec<u8>>>) {
        let Some(link) = self.link() else {
            out.later.clear();
            return;
        };
        let sent = match next {
            Some(frame) if out.later.is_empty() => link.send_frame(frame),
            _ => {
                let frames: Vec<&[u8]> = out.later.iter().chain(next).map(|frame| frame.as_slice()).collect();
                link.send_frames(&frames)
            }
        };
        out.later.clear();
        if let Err(e) = sent {
            // Its receiver notices; the operations are kept.
            tracing::debug!(error = %e, "the connection broke while an operation was sent");
        }
    }

    /// Gives the next operation its number and keeps it.
    fn number(&self, op: Op, data: Data<'_>, durability: Durability) -> Option<(MutexGuard<'_, Out>, u64, Arc<Vec<u8>>)> {
        let reserved = data.bytes.len() + OP_BYTES;
        let mut buffer = self.reserve(reserved)?;
        let mut out = lock(&self.out);
        let lsn = out.next;
        let to = Address { epoch: self.epoch, session: self.session, lsn };
        if let Err(e) = frame::encode(to, &Msg::Op(op), data, &mut buffer) {
            // It happens here all the same: the peer cannot be level any more.
            drop(out);
            self.end(&format!("an operation cannot be sent: {e}"));
            return None;
        }
        buffer.extend_from_slice(data.bytes);
        let frame = Arc::new(buffer);
        {
            let mut kept = lock(&self.kept);
            if kept.over.is_some() {
                return None;
            }
            kept.bytes = kept.bytes - reserved + frame.len();
            kept.queue.push_back(InFlight { lsn, bytes: frame.len(), frame: frame.clone() });
            if durability == Durability::Disk {
                kept.unflushed.insert(Lsn(lsn));
            }
        }
        out.next += 1;
        self.last.store(lsn, Ordering::Release);
        Some((out, lsn, frame))
    }

    /// Waits for room; a buffer for the frame.
    fn reserve(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut kept = lock(&self.kept);
        while kept.over.is_none() && !kept.has_room(bytes, self.bytes_max) {
            kept = self.room.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
        if kept.over.is_some() {
            return None;
        }
        kept.bytes += bytes;
        let pooled = if bytes >= POOLED_BYTES_MIN { kept.pool.pop() } else { None };
        Some(pooled.unwrap_or_else(|| Vec::with_capacity(bytes)))
    }

    /// The peer has applied everything up to `applied`, and flushed for the fsyncs in `durable`; of those the ones
    /// that were not known yet are left in it.
    pub fn acknowledged(&self, applied: u64, durable: &mut Vec<u64>) -> anyhow::Result<()> {
        let last = self.last_lsn();
        if applied > last {
            bail!("the peer acknowledges operation {applied}, the last one sent is {last}");
        }
        let mut kept = lock(&self.kept);
        while kept.queue.front().is_some_and(|op| op.lsn <= applied) {
            let Some(op) = kept.queue.pop_front() else { break };
            kept.bytes -= op.bytes;
            if op.bytes >= POOLED_BYTES_MIN
                && kept.pool.len() < POOL_MAX
                && let Ok(mut buffer) = Arc::try_unwrap(op.frame)
            {
                buffer.clear();
                kept.pool.push(buffer);
            }
        }
        kept.acked = kept.acked.max(applied);
        durable.retain(|lsn| kept.unflushed.remove(&Lsn(*lsn)));
        drop(kept);
        self.room.notify_all();
        Ok(())
    }

    /// Whether a connection with these words continues the session.
    pub fn may_rejoin(&self, asks: &Asks) -> Result<Resend, Refusal> {
        let kept = lock(&self.kept);
        rejoin::rejoin(
            &rejoin::Kept {
                epoch: Epoch(self.epoch),
                session: Session(self.session),
                source: self.lives.source,
                target: self.lives.target,
                is_armed: self.is_armed.load(Ordering::Acquire),
                is_over: kept.over.is_some(),
                acked: Lsn(kept.acked),
                sent: Lsn(self.last_lsn()),
                unflushed: kept.unflushed.clone(),
                attempt: kept.attempt,
            },
            asks,
        )
    }

    /// Carries the stream on over a new connection, if the rule permits it: says welcome, sends everything again that
    /// the peer does not have, and lets new operations follow. `receive` begins to receive from it, before anything
    /// of the queue is sent, so that the two ends cannot wait for one another.
    pub fn rejoin(&self, asks: &Asks, link: &Arc<Link>, receive: impl FnOnce() -> io::Result<()>) -> Result<Resend, NotRejoined> {
        // Before the old connection is touched: a late try from the past must not cost it.
        self.may_rejoin(asks)?;
        // And it has to go before `out` is waited for: a sender may hold that until there is room in it.
        self.detach(None);
        let mut order = lock(&self.out);
        // They are among those that are sent again.
        order.later.clear();
        let resend = self.may_rejoin(asks)?;
        lock(&self.kept).attempt = asks.attempt;
        // From here an end of the session closes the new connection.
        *lock(&self.link) = Some(Attached { link: link.clone(), since: Instant::now() });
        if self.over().is_some() {
            self.detach(None);
            return Err(Refusal::Over.into());
        }
        receive()?;
        let unflushed = resend.unflushed.iter().map(|lsn| lsn.0).collect();
        link.send(0, &Msg::Welcome { life: self.lives.source, unflushed, whole: false, rest: false, suspects: false }, &[])?;
        if self.is_late.load(Ordering::Acquire) {
            link.send_late();
        }
        let frames: Vec<_> = lock(&self.kept).queue.iter().filter(|op| op.lsn >= resend.first.0).map(|op| op.frame.clone()).collect();
        for frame in frames {
            link.send_frame(&frame)?;
        }
        Ok(resend)
    }

    /// Bytes kept, for tests.
    #[cfg(test)]
    fn kept_bytes(&self) -> usize {
        lock(&self.kept).bytes
    }
}

impl Kept {
    /// A single operation larger than everything permitted passes when it is alone.
    fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes == 0 || (self.bytes + bytes <= bytes_max && self.queue.len() < IN_FLIGHT_OPS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Fid;
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(30);
    const LIVES: Lives = Lives { source: LifeId(1), target: LifeId(2) };

    fn stream(bytes_max: usize) -> Arc<Stream> {
        let stream = Stream::unattached(1, 1, LIVES, Compress::Off, bytes_max);
        stream.arm();
        Arc::new(stream)
    }

    fn write() -> Op {
        Op::Write { fid: Fid { dir: 0, id: 5 }, offset: 0 }
    }

    fn asks(applied: u64) -> Asks {
        Asks { epoch: Epoch(1), session: Session(1), source: LIVES.source, target: LIVES.target, attempt: 1, applied: Lsn(applied) }
    }

    #[test]
    fn what_nobody_waits_for_goes_out_by_itself_only_when_nothing_is_under_way() {
        let stream = stream(100_000);
        let unsent = || lock(&stream.out).later.len();
        assert_eq!(stream.send(write(), &[], Durability::Memory), Some(1));
        assert_eq!(stream.send_later(Op::Unbind { fid: Fid { dir: 0, id: 5 } }), Some(2));
        stream.flush_idle();
        assert_eq!(unsent(), 1, "a connection that may be full was written to");
        stream.acknowledged(1, &mut Vec::new()).unwrap();
        stream.flush_idle();
        assert_eq!((unsent(), stream.last_lsn()), (0, 2));
        for lsn in 3..=3 + LATER_MAX as u64 {
            assert_eq!(stream.send_later(Op::Unbind { fid: Fid { dir: 0, id: lsn } }), Some(lsn));
        }
        assert_eq!(unsent(), 1, "so many are not kept back");
        stream.send(write(), &[], Durability::Memory).unwrap();
        assert_eq!(unsent(), 0, "they go out before the next one");
    }

    #[test]
    fn whoever_exceeds_the_bound_waits_and_nothing_is_dropped() {
        let stream = stream(100_000);
        let (tell, told) = mpsc::channel();
        let sender = {
            let stream = stream.clone();
            std::thread::spawn(move || {
                for _ in 0..10 {
                    tell.send(stream.send(write(), &[7; 30_000], Durability::Memory)).unwrap();
                }
            })
        };
        for lsn in 1..=3 {
            assert_eq!(told.recv_timeout(LONG), Ok(Some(lsn)));
        }
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "a fourth operation passed the bound");
        for applied in 1..=10 {
            assert!(stream.kept_bytes() <= 100_000);
            while stream.last_lsn() < applied {
                std::thread::yield_now();
            }
            stream.acknowledged(applied, &mut Vec::new()).unwrap();
        }
        sender.join().unwrap();
        assert_eq!(told.try_iter().flatten().collect::<Vec<_>>(), (4..=10).collect::<Vec<_>>());
        assert_eq!((stream.kept_bytes(), stream.last_lsn()), (0, 10));
    }

    #[test]
    fn whoever_waits_for_room_goes_on_when_the_session_ends() {
        let stream = stream(1000);
        // Larger than everything permitted, alone: it passes.
        assert_eq!(stream.send(write(), &[0; 5000], Durability::Memory), Some(1));
        let waiting = {
            let stream = stream.clone();
            std::thread::spawn(move || stream.send(write(), &[0; 5000], Durability::Memory))
        };
        stream.end("for the test");
        assert_eq!(waiting.join().unwrap(), None);
        assert_eq!(stream.may_rejoin(&asks(0)), Err(Refusal::Over));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_or_never_asked_changes_nothing() {
        let stream = stream(1000);
        stream.send(write(), b"x", Durability::Memory).unwrap();
        let fsync = stream.send(write(), b"", Durability::Disk).unwrap();
        assert!(stream.acknowledged(3, &mut Vec::new()).is_err());
        let mut durable = vec![1, fsync, 7];
        stream.acknowledged(1, &mut durable).unwrap();
        assert_eq!(durable, [fsync]);
        stream.acknowledged(2, &mut durable).unwrap();
        assert!(durable.is_empty(), "an fsync was answered twice");
    }

    #[test]
    fn an_fsync_that_was_applied_and_not_flushed_is_asked_again() {
        let stream = stream(1000);
        stream.send(write(), b"x", Durability::Memory).unwrap();
        stream.send(write(), b"", Durability::Disk).unwrap();
        stream.send(write(), b"y", Durability::Memory).unwrap();
        let resend = stream.may_rejoin(&asks(2)).unwrap();
        assert_eq!(resend, Resend { acked: Lsn(2), unflushed: [Lsn(2)].into(), first: Lsn(3), last: Lsn(3) });
        stream.acknowledged(2, &mut vec![2]).unwrap();
        assert!(stream.may_rejoin(&asks(2)).unwrap().unflushed.is_empty());
    }
}
