//! The serving side's relation to its peer: whether acknowledgements need the peer, which session carries the
//! operations, and who is waiting for what.
//!
//! Invariants:
//! * every mutating operation holds the gate (shared) from before it marks or sends until it is applied here, so
//!   whoever holds the gate alone sees no operation half done;
//! * while the peer is required, no operation is answered before the peer's acknowledgement of the session it was
//!   sent in, or before a later session has brought the peer level; neither a broken connection nor a lost session
//!   answers anybody;
//! * while the peer is required, nothing is answered after the deadline;
//! * while the deadline is shut, nothing is answered at all.

use super::acks::Acks;
use super::deadline::Deadline;
use super::dirty::{Dirty, Marks, Turn};
use super::frame::Op;
use super::link::Busy;
use super::stream::{Durability, Stream};
use super::verify::Verification;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// How long a FUSE thread itself waits for an acknowledgement before it leaves the answer to the receiving
/// thread: longer than a flush on a slow disk, short enough that reads are served while the peer is silent.
const INLINE_WAIT: Duration = Duration::from_millis(20);
/// How often a passed deadline is looked at while answers wait for a new one.
const DEADLINE_POLL: Duration = Duration::from_millis(5);
/// How often it is looked whether the peer has applied everything: nobody is woken for it.
const APPLIED_POLL: Duration = Duration::from_millis(1);
/// How often the figures' age and stalls are looked at otherwise.
const IDLE_POLL: Duration = Duration::from_millis(250);
/// A peer whose oldest acknowledgement is overdue this long, all of it over one connection, is stuck: its session is
/// ended, so that the failover protocol decides about it. Nothing is acknowledged by that. Longer than any connection
/// goes without a sign (`link::SILENCE_MAX`), so that a bad line is never taken for a stuck peer.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// The same over any number of connections: a line that carries the few bytes of a handshake, but not the operations,
/// would otherwise hold the application for ever.
pub const STALL_REJOINED_MAX: Duration = Duration::from_secs(30);

/// What an operation has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// How often the peer had been brought level when the operation ran.
    arms: u64,
    session: u64,
    /// 0 = never sent: the session was over.
    lsn: u64,
    durable: bool,
}

impl Ticket {
    /// What to wait for when both an operation and its consequence have to be answered for.
    pub fn and_then(self, later: Self) -> Self {
        // Within one arming, never sent is the longer wait; a later arming has brought the peer level with both.
        if self.arms == later.arms && self.lsn == 0 { self } else { later }
    }
}

/// What carries the operations now.
#[derive(Clone)]
pub enum Phase {
    /// No session.
    Idle,
    /// A resynchronisation of this session runs.
    Sync(u64),
    /// Operations are sent.
    Live(Arc<Stream>),
}

/// State behind the gate.
pub struct Mode {
    /// Acknowledgements need the peer.
    pub need_peer: bool,
    /// What carries the operations.
    pub phase: Phase,
    arms: u64,
}

/// One mutating operation inside the gate.
pub struct Entered<'a> {
    mode: RwLockReadGuard<'a, Mode>,
    dirty: &'a Dirty,
    turn: Turn<'a>,
}

impl Entered<'_> {
    /// Where it notes what it is about to change in the directory of this index.
    pub fn marks(&self, dir: u16) -> Marks<'_> {
        self.dirty.marks(&self.turn, dir)
    }
}

impl std::ops::Deref for Entered<'_> {
    type Target = Mode;
    fn deref(&self) -> &Mode {
        &self.mode
    }
}

/// A thread that waits itself for a moment.
struct Inline {
    id: u64,
    ticket: Ticket,
    wake: Arc<Condvar>,
}

thread_local! {
    /// Wakes this thread and no other: of those that wait, most wait for something else.
    static WAKE: Arc<Condvar> = Arc::default();
}

/// A reply that waits for the peer.
type Reply = Box<dyn FnOnce(Result<(), i32>) + Send>;

/// One that waited for a moment, with the lock: nothing may be learned between that and its being left to others.
struct Left<'a> {
    waits: MutexGuard<'a, Waits>,
    ticket: Ticket,
    id: u64,
}

struct Parked {
    ticket: Ticket,
    id: u64,
    reply: Reply,
}

struct Waits {
    need_peer: bool,
    arms: u64,
    session: u64,
    applied: u64,
    durable: HashSet<u64>,
    ended: bool,
    since: BTreeMap<u64, Instant>,
    /// Operations that waited and were confirmed, and for how long all together, in microseconds.
    confirmed: (u64, u64),
    next_id: u64,
    parked: Vec<Parked>,
    inline: Vec<Inline>,
    /// Where acknowledgements come from.
    acks: Option<Arc<Acks>>,
    /// Who of `inline` receives them now.
    leading: Option<u64>,
}

impl Waits {
    /// Where a thread that waits for this has to receive itself, because nobody does.
    fn to_receive(&self, ticket: Ticket) -> Option<Arc<Acks>> {
        let acks = self.acks.as_ref().filter(|acks| self.leading.is_none() && acks.session() == ticket.session)?;
        Some(acks.clone())
    }
}

enum Verdict {
    Wait,
    Answer(Result<(), i32>),
}

/// Test-only behaviour, switched on by the environment; each makes the product lose data on purpose so that the
/// checks that must notice can be checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct TestSwitches {
    /// `TSUGI_TEST_NO_PEER_ACK=1`: answer without the peer's acknowledgement, and send late.
    pub no_peer_ack: bool,
    /// `TSUGI_TEST_NO_FSYNC=1`: do not flush, on either disk.
    pub no_fsync: bool,
    /// `TSUGI_TEST_CHECKPOINTS=1`: checkpoints without a pause. This one and the next cost nothing but time.
    pub checkpoints: bool,
    /// `TSUGI_TEST_STOPS=1`: stop after each operation applied, until somebody lets this process go on.
    pub stops: bool,
}

impl TestSwitches {
    /// `TSUGI_TEST_NO_TLS=MODULE`: nothing this module sends to its peer is enciphered. For a bench that says what TLS costs.
    pub fn is_open(module: &str) -> bool {
        let is_open = std::env::var("TSUGI_TEST_NO_TLS").is_ok_and(|name| name == module);
        if is_open {
            tracing::error!("TEST SWITCH TSUGI_TEST_NO_TLS IS SET: what this data process sends can be read on the line");
        }
        is_open
    }

    /// `TSUGI_TEST_DEVICE=MODULE`: requests for this module's files come over the device whatever the kernel offers. For a
    /// bench that says what the other transport gives.
    pub fn is_over_device(module: &str) -> bool {
        std::env::var("TSUGI_TEST_DEVICE").is_ok_and(|name| name == module)
    }

    /// Reads the environment and says loudly what it found.
    pub fn from_env() -> Self {
        let on = |name: &str| {
            let set = std::env::var(name).is_ok_and(|v| v == "1");
            if set {
                tracing::error!(switch = name, "TEST SWITCH IS SET: this data process will lose acknowledged data");
            }
            set
        };
        let checkpoints = std::env::var("TSUGI_TEST_CHECKPOINTS").is_ok_and(|v| v == "1");
        let stops = std::env::var("TSUGI_TEST_STOPS").is_ok_and(|v| v == "1");
        Self { no_peer_ack: on("TSUGI_TEST_NO_PEER_ACK"), no_fsync: on("TSUGI_TEST_NO_FSYNC"), checkpoints, stops }
    }
}

/// See the module.
pub struct Ship {
    gate: RwLock<Mode>,
    waits: Mutex<Waits>,
    /// For those who wait for the end, or for everybody else's.
    wake: Condvar,
    /// For the thread that looks at the time.
    timer: Condvar,
    /// The live stream again, for those who must not wait for the gate: a sender holds it while there is no room.
    live: Mutex<Option<Arc<Stream>>>,
    deadline: Deadline,
    hold: AtomicBool,
    ended: AtomicBool,
    brake_us: AtomicU64,
    operations: AtomicU64,
    /// What changed and may not be at the peer.
    pub dirty: Dirty,
    /// Test-only behaviour.
    pub switches: TestSwitches,
    /// Whether the peer's copy is what it should be.
    pub verification: Verification,
}

impl Ship {
    /// Alone, until a peer is brought level.
    pub fn new(deadline: Deadline, switches: TestSwitches, dirty: Dirty) -> Arc<Self> {
        let waits = Waits {
            need_peer: false,
            arms: 0,
            session: 0,
            applied: 0,
            durable: HashSet::new(),
            ended: false,
            since: BTreeMap::new(),
            confirmed: (0, 0),
            next_id: 0,
            parked: Vec::new(),
            inline: Vec::new(),
            acks: None,
            leading: None,
        };
        let ship = Arc::new(Self {
            gate: RwLock::new(Mode { need_peer: false, phase: Phase::Idle, arms: 0 }),
            waits: Mutex::new(waits),
            wake: Condvar::new(),
            timer: Condvar::new(),
            live: Mutex::new(None),
            deadline,
            hold: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            brake_us: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            dirty,
            switches,
            verification: Verification::default(),
        });
        let weak = Arc::downgrade(&ship);
        std::thread::Builder::new()
            .name("ship-timer".into())
            .spawn(move || {
                while let Some(ship) = weak.upgrade() {
                    if ship.tick() {
                        return;
                    }
                }
            })
            .expect("a thread can be started while the process starts to serve");
        ship
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Option<Arc<Stream>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the gate for one mutating operation. EIO once serving has ended.
    pub fn enter(&self) -> io::Result<Entered<'_>> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let brake = self.brake_us.load(Ordering::Relaxed);
        if brake > 0 {
            std::thread::sleep(Duration::from_micros(brake));
        }
        loop {
            if self.hold.load(Ordering::Acquire) || self.ended.load(Ordering::Acquire) {
                let mut waits = self.waits();
                while self.hold.load(Ordering::Acquire) && !waits.ended {
                    waits = self.wake.wait(waits).unwrap_or_else(PoisonError::into_inner);
                }
                if waits.ended {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
            }
            let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            // Again, because the gate may have been shut for long: what begins now would be written by nobody who serves.
            if !self.hold.load(Ordering::Acquire) && !self.ended.load(Ordering::Acquire) {
                return Ok(Entered { mode: gate, dirty: &self.dirty, turn: self.dirty.enter() });
            }
        }
    }

    /// Number of mutating operations so far: for a resynchronisation that gives way to the application.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Slows every mutating operation down: for a resynchronisation that cannot catch up otherwise.
    pub fn brake(&self, per_operation: Duration) {
        self.brake_us.store(u64::try_from(per_operation.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Takes the gate alone: no mutating operation is between its mark or send and its local step.
    pub fn close_gate(&self) -> RwLockWriteGuard<'_, Mode> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an operation in the live session; one that is over gives a ticket that waits.
    pub fn send(&self, stream: &Stream, mode: &Mode, op: Op, data: &[u8], durability: Durability) -> Ticket {
        self.tell_log(stream);
        let lsn = stream.send(op, data, durability).unwrap_or(0);
        Ticket { arms: mode.arms, session: stream.session(), lsn, durable: durability == Durability::Disk }
    }

    /// Sends an operation that nobody waits for: with the next one, or soon.
    pub fn send_later(&self, stream: &Stream, op: Op) {
        self.tell_log(stream);
        // Not sent means that the session is over.
        let _ = stream.send_later(op);
    }

    /// The peer learns how long the activity log is before it gets what is in it.
    fn tell_log(&self, stream: &Stream) {
        let count = self.dirty.log.count();
        if stream.must_tell_log(count) {
            let _ = stream.send_later(Op::Logged { count });
            // Not before: whoever comes next must find it under way.
            stream.told_log(count);
        }
    }

    /// The ticket of an operation that was only carried out here: good at once while no peer is needed, unless this
    /// node may not acknowledge anything by then.
    pub fn unsent(&self, mode: &Mode) -> Ticket {
        Ticket { arms: mode.arms, session: 0, lsn: 0, durable: false }
    }

    fn verdict(&self, waits: &Waits, t: Ticket) -> Verdict {
        if waits.ended {
            return Verdict::Answer(Err(libc::EIO));
        }
        if self.deadline.is_shut() {
            return Verdict::Wait;
        }
        if !waits.need_peer {
            return Verdict::Answer(Ok(()));
        }
        let sent = t.lsn != 0 && t.session == waits.session && t.arms == waits.arms;
        let acked = waits.arms > t.arms
            || (sent && if t.durable { waits.durable.contains(&t.lsn) } else { waits.applied >= t.lsn })
            || (self.switches.no_peer_ack && sent);
        if acked && self.deadline.open() { Verdict::Answer(Ok(())) } else { Verdict::Wait }
    }

    /// Answers an operation as soon as it may be answered. The calling thread waits a moment itself, and receives
    /// acknowledgements if nobody else does; then the reply is left to whichever thread learns of its acknowledgement.
    pub fn finish(&self, ticket: Option<Ticket>, reply: impl FnOnce(Result<(), i32>) + Send + 'static) {
        match self.wait_a_moment(ticket) {
            Ok(result) => reply(result),
            Err(left) => self.park(left, reply),
        }
    }

    /// Waits until an operation may be answered, however long that takes. Error: the number of what it is answered with.
    pub fn settle(&self, ticket: Option<Ticket>) -> Result<(), i32> {
        match self.wait_a_moment(ticket) {
            Ok(result) => result,
            Err(left) => {
                let (tell, told) = std::sync::mpsc::sync_channel(1);
                // Whoever waits is here until it is told.
                self.park(left, move |result| {
                    let _ = tell.send(result);
                });
                told.recv().unwrap_or(Err(libc::EIO))
            }
        }
    }

    /// Error: it may not be answered yet.
    fn wait_a_moment(&self, ticket: Option<Ticket>) -> Result<Result<(), i32>, Left<'_>> {
        let Some(ticket) = ticket else { return Ok(Ok(())) };
        let mut waits = self.waits();
        if let Verdict::Answer(result) = self.verdict(&waits, ticket) {
            Self::forget(&mut waits, ticket, None);
            return Ok(result);
        }
        waits.next_id += 1;
        let (id, begun) = (waits.next_id, Instant::now());
        waits.since.insert(id, begun);
        let wake = WAKE.with(Arc::clone);
        waits.inline.push(Inline { id, ticket, wake: wake.clone() });
        let result = loop {
            if let Verdict::Answer(result) = self.verdict(&waits, ticket) {
                break Some(result);
            }
            let left = INLINE_WAIT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break None;
            }
            match waits.to_receive(ticket) {
                None => waits = wake.wait_timeout(waits, left).unwrap_or_else(PoisonError::into_inner).0,
                Some(acks) => {
                    waits.leading = Some(id);
                    let busy = Busy { under_way: waits.since.len(), is_flushing: ticket.durable };
                    drop(waits);
                    let still = || matches!(self.verdict(&self.waits(), ticket), Verdict::Wait);
                    let goes_on = acks.lead(self, left, busy, still);
                    waits = self.waits();
                    waits.leading = None;
                    if !goes_on {
                        waits.acks.take_if(|now| Arc::ptr_eq(now, &acks));
                    }
                }
            }
        };
        waits.inline.retain(|inline| inline.id != id);
        if waits.leading.is_none()
            && waits.acks.is_some()
            && let Some(next) = waits.inline.first()
        {
            // Somebody has to receive.
            next.wake.notify_one();
        }
        match result {
            Some(result) => {
                Self::forget(&mut waits, ticket, Some(id));
                Ok(result)
            }
            None => Err(Left { waits, ticket, id }),
        }
    }

    /// Leaves the reply to whichever thread learns that it may be given.
    fn park(&self, left: Left<'_>, reply: impl FnOnce(Result<(), i32>) + Send + 'static) {
        let Left { mut waits, ticket, id } = left;
        waits.parked.push(Parked { ticket, id, reply: Box::new(reply) });
        self.timer.notify_one();
    }

    /// From now on acknowledgements come from here.
    pub fn receive_by(&self, acks: &Arc<Acks>) {
        self.waits().acks = Some(acks.clone());
    }

    fn forget(waits: &mut Waits, ticket: Ticket, id: Option<u64>) {
        if let Some(id) = id {
            let waited = waits.since.remove(&id).map(|begun| u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
            if let Some(us) = waited.filter(|_| waits.need_peer) {
                waits.confirmed = (waits.confirmed.0 + 1, waits.confirmed.1.saturating_add(us));
            }
        }
        if ticket.durable {
            waits.durable.remove(&ticket.lsn);
        }
    }

    /// Answers everything that may be answered now and wakes the threads that wait themselves.
    fn release(&self, mut waits: MutexGuard<'_, Waits>) {
        let mut ready = Vec::new();
        if !waits.parked.is_empty() {
            let parked = std::mem::take(&mut waits.parked);
            for p in parked {
                match self.verdict(&waits, p.ticket) {
                    Verdict::Wait => waits.parked.push(p),
                    Verdict::Answer(result) => {
                        Self::forget(&mut waits, p.ticket, Some(p.id));
                        ready.push((p.reply, result));
                    }
                }
            }
        }
        for inline in waits.inline.iter().filter(|inline| waits.leading != Some(inline.id)) {
            if matches!(self.verdict(&waits, inline.ticket), Verdict::Answer(_)) {
                inline.wake.notify_one();
            }
        }
        let ended = waits.ended;
        drop(waits);
        if ended || self.hold.load(Ordering::Acquire) {
            self.wake.notify_all();
        }
        if ended {
            self.timer.notify_all();
        }
        for (reply, result) in ready {
            reply(result);
        }
    }

    /// The peer has applied everything up to `applied`, and flushed for the fsyncs in `durable`.
    pub fn acknowledged(&self, session: u64, applied: u64, durable: &[u64]) {
        let mut waits = self.waits();
        if waits.session != session {
            return;
        }
        waits.applied = waits.applied.max(applied);
        waits.durable.extend(durable);
        self.release(waits);
    }

    /// The peer is level: from now on its acknowledgement is needed. The caller holds the gate alone.
    pub fn arm(&self, mode: &mut Mode, stream: &Arc<Stream>) {
        if self.switches.no_peer_ack {
            stream.send_late();
        }
        stream.arm();
        *self.live() = Some(stream.clone());
        mode.arms += 1;
        mode.need_peer = true;
        mode.phase = Phase::Live(stream.clone());
        let mut waits = self.waits();
        waits.arms = mode.arms;
        waits.need_peer = true;
        waits.session = stream.session();
        waits.applied = 0;
        waits.durable.clear();
        self.release(waits);
    }

    /// The session is over: operations go on here, and wait if they need the peer.
    pub fn lost(&self, session: u64) {
        self.end_live("the session is lost", |stream| stream.session() == session);
        let mut mode = self.close_gate();
        let mine = match &mode.phase {
            Phase::Live(stream) => stream.session() == session,
            Phase::Sync(own) => *own == session,
            Phase::Idle => false,
        };
        if mine {
            mode.phase = Phase::Idle;
        }
        self.waits().acks.take_if(|acks| acks.session() == session);
    }

    /// First, wherever the gate is to be taken alone: no sender keeps it any more to wait for room.
    fn end_live(&self, why: &str, is_meant: impl Fn(&Stream) -> bool) {
        let ended = self.live().take_if(|stream| is_meant(stream));
        if let Some(stream) = ended {
            stream.end(why);
        }
    }

    /// The peer is not needed any more. Waiting operations are answered.
    pub fn go_alone(&self) {
        self.end_live("this node goes on alone", |_| true);
        let mut mode = self.close_gate();
        mode.need_peer = false;
        mode.phase = Phase::Idle;
        let mut waits = self.waits();
        waits.need_peer = false;
        self.release(waits);
    }

    /// Holds new operations and waits until all earlier ones are answered and, if the peer is needed, acknowledged.
    /// The last number sent; `None` if serving ended meanwhile.
    pub fn hold_and_drain(&self) -> Option<u64> {
        self.hold.store(true, Ordering::Release);
        let last = match &self.close_gate().phase {
            Phase::Live(stream) => {
                stream.flush();
                stream.last_lsn()
            }
            Phase::Idle | Phase::Sync(_) => 0,
        };
        let mut waits = self.waits();
        while !waits.ended && (!waits.since.is_empty() || (waits.need_peer && waits.session != 0 && waits.applied < last)) {
            waits = self.wake.wait_timeout(waits, DEADLINE_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        (!waits.ended).then_some(last)
    }

    /// Waits until the peer has applied everything that was sent in this session; the caller holds the gate alone. False: not
    /// within this time, or it is not the session any more.
    pub fn wait_applied(&self, stream: &Stream, patience: Duration) -> bool {
        stream.flush();
        let (last, begun) = (stream.last_lsn(), Instant::now());
        while stream.over().is_none() && begun.elapsed() < patience {
            let waits = self.waits();
            if waits.ended || waits.session != stream.session() {
                return false;
            }
            if waits.applied >= last {
                return true;
            }
            drop(self.wake.wait_timeout(waits, APPLIED_POLL));
        }
        false
    }

    /// Does something that no operation may come after which is not answered for, unless new operations are held.
    pub fn unless_held<T>(&self, what: impl FnOnce() -> T) -> Option<T> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        // Under the gate: whoever holds operations takes it alone before it looks at the last one.
        (!self.hold.load(Ordering::Acquire)).then(what)
    }

    /// A flush of the peer's that nobody waits for any more.
    pub fn forget_durable(&self, lsn: u64) {
        self.waits().durable.remove(&lsn);
    }

    /// The peer is level, and its session goes on.
    pub fn is_armed(&self) -> bool {
        let mode = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        mode.need_peer && matches!(&mode.phase, Phase::Live(stream) if stream.over().is_none())
    }

    /// EIO to everything that waits and everything that comes.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end_live("serving ends", |_| true);
        let mut waits = self.waits();
        waits.ended = true;
        self.release(waits);
    }

    /// Operations that waited for the peer and were confirmed, and how long they waited together, in microseconds.
    pub fn confirmed(&self) -> (u64, u64) {
        self.waits().confirmed
    }

    /// Number of waiting operations and the age of the oldest.
    pub fn waiting(&self) -> (u64, Duration) {
        let waits = self.waits();
        (waits.since.len() as u64, waits.since.values().next().map_or(Duration::ZERO, Instant::elapsed))
    }

    /// Answers by deadline; breaks the session of a stuck peer. True when serving has ended.
    fn tick(&self) -> bool {
        let waits = self.waits();
        let pause = if waits.parked.is_empty() { IDLE_POLL } else { DEADLINE_POLL };
        let (mut waits, _) = self.timer.wait_timeout(waits, pause).unwrap_or_else(PoisonError::into_inner);
        if waits.ended && waits.parked.is_empty() {
            return true;
        }
        drop(waits);
        let live = self.live().clone();
        if let Some(stream) = live {
            // Whoever looks at the time must not have to wait.
            stream.flush_idle();
        }
        waits = self.waits();
        let oldest = waits.since.values().next().map_or(Duration::ZERO, Instant::elapsed);
        if oldest > STALL_MAX && waits.need_peer && waits.session != 0 && self.deadline.open() {
            let session = waits.session;
            drop(waits);
            let live = self.live().clone();
            if let Some(stream) = live.filter(|s| s.session() == session && is_stuck(s, oldest)) {
                tracing::warn!(age_ms = oldest.as_millis(), "the peer has not acknowledged for too long; the session is ended");
                self.waits().session = 0;
                stream.end(&format!("the peer has not acknowledged for {} ms", oldest.as_millis()));
                return false;
            }
            waits = self.waits();
        }
        self.release(waits);
        false
    }
}

fn is_stuck(stream: &Stream, oldest: Duration) -> bool {
    // While the connection is broken its session's patience counts.
    stream.carried_for().is_some_and(|whole| whole > STALL_MAX) || oldest > STALL_REJOINED_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_waited_at_the_gate_does_not_begin_after_the_end() {
        let ship = Ship::new(Deadline::create().unwrap(), TestSwitches::default(), Dirty::default());
        let gate = ship.close_gate();
        let (entering, (tell, number)) = (ship.clone(), std::sync::mpsc::sync_channel(1));
        let entered = std::thread::spawn(move || {
            // SAFETY: a plain system call.
            tell.send(unsafe { libc::gettid() }).unwrap();
            entering.enter().map(drop)
        });
        let stat = format!("/proc/self/task/{}/stat", number.recv().unwrap());
        let begun = Instant::now();
        while !std::fs::read_to_string(&stat).unwrap().rsplit_once(')').unwrap().1.starts_with(" S") {
            assert!(begun.elapsed() < Duration::from_secs(20), "it waits at the gate");
            std::thread::yield_now();
        }
        ship.end();
        drop(gate);
        assert_eq!(entered.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn of_two_tickets_the_longer_wait_counts() {
        let ticket = |arms, session, lsn| Ticket { arms, session, lsn, durable: false };
        assert_eq!(ticket(1, 5, 10).and_then(ticket(1, 5, 11)), ticket(1, 5, 11));
        assert_eq!(ticket(1, 5, 0).and_then(ticket(1, 5, 11)), ticket(1, 5, 0), "the first was never sent");
        assert_eq!(ticket(1, 5, 10).and_then(ticket(1, 0, 0)), ticket(1, 0, 0), "the session broke in between");
        assert_eq!(ticket(1, 5, 0).and_then(ticket(2, 6, 3)), ticket(2, 6, 3), "the peer was brought level in between");
    }
}
