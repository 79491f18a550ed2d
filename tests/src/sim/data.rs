//! The data process of a module on a host, with the rules of `node-agent/src/rfs`: one order at a time, an older
//! epoch refused; serving with or without a required peer; no answer while the deadline is shut, or passed while
//! the peer is required.

use super::disk::{BLOCKS, Blocks, WriteId};
use super::net::{MS, S};
use super::stream::Msg;
use super::unit::{OPEN, SHUT};
use super::{Event, World};
use std::collections::{BTreeSet, VecDeque};
use tsugi_core::engine::{Input, Outcome};
use tsugi_core::ids::{Epoch, JobId, Lsn, Session};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};

/// Operations of the application under way at the same time.
const OPS_MAX: usize = 6;

/// Something inside a data process that takes time.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum DataEvent {
    /// The order under way has ended.
    OrderEnds { answer: Box<Ending> },
    /// Its agent is gone.
    Orphaned,
    /// Its agent is gone, and may come back.
    Lonely,
    /// Waiting answers may be free.
    Acks,
    /// A local flush for an operation has ended.
    Flushed { op: u64, seen: Blocks },
    /// A release has drained and flushed.
    ReleaseFlushed { seen: Blocks },
    /// Following: try to connect.
    Connect { session: Session },
    /// Following: a flush for the stream has ended.
    FollowerFlushed { conn: u64, lsn: u64, seen: Blocks },
    /// Following: everything is flushed, for the resynchronisation.
    AllFlushed { conn: u64, number: u32, seen: Blocks },
    /// Following: the grace after the source's orderly end is over.
    Grace { session: Session },
    /// Serving: next step of a resynchronisation.
    SyncStep { conn: u64 },
}

/// How an order ends.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Ending {
    Serve { job: JobId },
    Close { job: JobId, seen: Blocks, is_following_on: Option<(Epoch, Session)> },
    Unmounted { job: JobId },
}

/// What an operation waits for.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    arms: u64,
    session: Session,
    lsn: u64,
    is_durable: bool,
}

/// What the application asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// A write of a block.
    Write(usize, WriteId),
    /// An fsync; these writes had been acknowledged before.
    Fsync(Blocks),
}

#[derive(Debug, Clone)]
struct Op {
    id: u64,
    kind: OpKind,
    ticket: Ticket,
    since: u64,
}

/// Stage of a resynchronisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Everything once; the next block.
    Walk(usize),
    /// Waits for the first flush.
    Flush,
    /// The application is held.
    Held,
}

/// A resynchronisation, serving side.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Changed since it was sent.
    pub dirty: [bool; BLOCKS],
    /// How far.
    pub stage: Stage,
    /// The gate is closed since.
    pub held_since: u64,
}

/// What carries the operations.
#[derive(Debug)]
pub enum Carrier {
    /// No session.
    Idle,
    /// Changes are noted.
    Sync(Sync),
    /// Operations are sent.
    Live,
}

/// The serving role.
#[derive(Debug)]
pub struct Serving {
    /// Acknowledgements need the peer.
    pub needs_peer: bool,
    /// What carries the operations.
    pub carrier: Carrier,
    arms: u64,
    /// The session whose acknowledgements count; 0 = none.
    pub session: Session,
    applied: u64,
    durable: BTreeSet<u64>,
    /// New operations wait: a release is under way.
    is_held: bool,
    is_flushing_out: bool,
    next_lsn: u64,
    /// The session offered and, once the peer has come, its connection.
    pub offer: Option<(Epoch, Session)>,
    /// See `offer`.
    pub conn: Option<u64>,
    waiting: Vec<Op>,
    flushing: Vec<Op>,
    blocked: Vec<OpKind>,
    releasing: Vec<JobId>,
}

/// The following role.
#[derive(Debug)]
pub struct Following {
    /// Of the order.
    pub epoch: Epoch,
    /// The session followed.
    pub session: Session,
    /// The connection, once made.
    pub conn: Option<u64>,
    /// Last operation applied.
    pub last: u64,
    /// The live stream has begun.
    pub is_live: bool,
    /// Its thread has ended: nothing is applied any more.
    pub is_over: bool,
}

/// What the process does.
#[derive(Debug)]
pub enum Role {
    /// Nothing.
    Idle,
    /// Mounted.
    Serving(Box<Serving>),
    /// Hidden, applying.
    Following(Following),
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub id: u64,
    /// End of the right to acknowledge by the host's clock: the page shared with the agent.
    pub deadline: u64,
    /// Newest epoch seen.
    epoch: Epoch,
    /// What it does.
    pub role: Role,
    orders: VecDeque<(JobId, ReplicaOrder)>,
    is_busy: bool,
    is_orphan: bool,
}

impl Process {
    /// A process just started.
    pub fn new(id: u64, deadline: u64) -> Process {
        Process { id, deadline, epoch: Epoch(0), role: Role::Idle, orders: VecDeque::new(), is_busy: false, is_orphan: false }
    }
    /// The serving role.
    pub fn serving(&mut self) -> Option<&mut Serving> {
        if let Role::Serving(serving) = &mut self.role { Some(serving) } else { None }
    }
    /// The following role.
    pub fn following(&mut self) -> Option<&mut Following> {
        if let Role::Following(following) = &mut self.role { Some(following) } else { None }
    }
    /// Its connection and which end of it this is.
    pub fn connection(&self) -> Option<(u64, usize)> {
        match &self.role {
            Role::Serving(serving) => serving.conn.map(|c| (c, 0)),
            Role::Following(following) => following.conn.map(|c| (c, 1)),
            Role::Idle => None,
        }
    }
    /// Answers wait, or a release does.
    pub fn is_waiting(&self) -> bool {
        matches!(&self.role, Role::Serving(s) if !s.waiting.is_empty() || s.is_held)
    }
    /// An acknowledgement might leave now, as far as the deadline goes.
    pub fn is_entitled(&self, now: u64) -> bool {
        match &self.role {
            Role::Serving(s) => self.deadline != SHUT && (!s.needs_peer || self.deadline == OPEN || now < self.deadline),
            _ => false,
        }
    }
    /// Age of the oldest operation that waits for the peer.
    pub fn oldest(&self) -> Option<u64> {
        if let Role::Serving(s) = &self.role { s.waiting.first().map(|op| op.since) } else { None }
    }
}

impl Serving {
    fn new() -> Serving {
        Serving {
            needs_peer: false,
            carrier: Carrier::Idle,
            arms: 0,
            session: Session(0),
            applied: 0,
            durable: BTreeSet::new(),
            is_held: false,
            is_flushing_out: false,
            next_lsn: 1,
            offer: None,
            conn: None,
            waiting: Vec::new(),
            flushing: Vec::new(),
            blocked: Vec::new(),
            releasing: Vec::new(),
        }
    }
    /// The last pass of a resynchronisation holds the application.
    fn is_gate_closed(&self) -> bool {
        matches!(&self.carrier, Carrier::Sync(sync) if sync.stage == Stage::Held)
    }
    fn is_good(&self, t: Ticket, deadline: u64, now: u64) -> bool {
        if deadline == SHUT {
            return false;
        }
        if !self.needs_peer {
            return true;
        }
        let is_sent = t.lsn != 0 && t.session == self.session && t.arms == self.arms;
        let is_acked = self.arms > t.arms || is_sent && if t.is_durable { self.durable.contains(&t.lsn) } else { self.applied >= t.lsn };
        is_acked && (deadline == OPEN || now < deadline)
    }
    /// The peer is level: from here its acknowledgement is needed.
    pub fn arm(&mut self, session: Session) {
        self.arms += 1;
        self.needs_peer = true;
        self.carrier = Carrier::Live;
        self.session = session;
        self.applied = 0;
        self.durable.clear();
        self.next_lsn = 1;
    }
    /// The peer has applied up to `applied`, or flushed `durable`.
    pub fn acknowledged(&mut self, session: Session, applied: Option<u64>, durable: Option<u64>) {
        if self.session == session {
            self.applied = self.applied.max(applied.unwrap_or(0));
            self.durable.extend(durable);
        }
    }
}

impl World {
    pub(super) fn process(&mut self, m: usize, s: usize, id: u64) -> &mut Process {
        self.modules[m].units[s].process(id).expect("dispatched to a living process")
    }

    /// To the agent, if this is still its process.
    pub(super) fn tell_agent(&mut self, m: usize, s: usize, id: u64, input: Input) {
        let unit = &mut self.modules[m].units[s];
        if unit.data.as_ref().is_some_and(|p| p.id == id) {
            if let Input::Replica(note) = &input {
                unit.told.push(note.clone());
            }
            let life = self.hosts[unit.host].life;
            let soon = self.rng.range(MS / 20, MS);
            self.after(soon, Event::Inbox { m, s, life, input: Box::new(input) });
        }
    }

    fn answer(&mut self, m: usize, s: usize, id: u64, job: JobId, result: Result<u64, String>) {
        let answer = match result {
            Ok(last) => ReplicaAnswer::Done { last: Lsn(last) },
            Err(detail) => ReplicaAnswer::Failed { detail },
        };
        self.note(m, 10, |w| format!("n{} data: {job:?} ends: {answer:?}", w.modules[m].units[s].host + 1));
        self.tell_agent(m, s, id, Input::Done(job, Outcome::Replica(answer)));
    }

    // ---- orders ----

    pub(super) fn data_order(&mut self, m: usize, s: usize, job: JobId, order: ReplicaOrder) {
        self.note(m, 11, |w| format!("n{} data: {job:?} {order:?}", w.modules[m].units[s].host + 1));
        let Some(process) = self.modules[m].units[s].data.as_mut() else { return };
        process.orders.push_back((job, order));
        let id = process.id;
        self.next_order(m, s, id);
    }

    fn next_order(&mut self, m: usize, s: usize, id: u64) {
        loop {
            let h = self.modules[m].units[s].host;
            if self.is_data_stopped(h) {
                // The socket holds what was ordered; the process reads on when it goes on.
                return self.after(MS, Event::Data { m, s, process: id, what: DataEvent::Acks });
            }
            let Some(process) = self.modules[m].units[s].process(id) else { return };
            if process.is_busy {
                return;
            }
            let Some((job, order)) = process.orders.pop_front() else {
                if process.is_orphan {
                    self.end_process(m, s, id);
                }
                return;
            };
            if let Err(detail) = self.carry_out_order(m, s, id, job, &order) {
                self.answer(m, s, id, job, Err(detail));
            }
        }
    }

    fn carry_out_order(&mut self, m: usize, s: usize, id: u64, job: JobId, order: &ReplicaOrder) -> Result<(), String> {
        let process = self.process(m, s, id);
        let (ReplicaOrder::Serve { epoch }
        | ReplicaOrder::Offer { epoch, .. }
        | ReplicaOrder::GoAlone { epoch }
        | ReplicaOrder::Follow { epoch, .. }
        | ReplicaOrder::CloseSession { epoch }
        | ReplicaOrder::Release { epoch }
        | ReplicaOrder::Abandon { epoch }) = *order;
        let is_end = matches!(order, ReplicaOrder::CloseSession { .. } | ReplicaOrder::Abandon { .. });
        let is_begin = matches!((&process.role, order), (Role::Idle, ReplicaOrder::Serve { .. } | ReplicaOrder::Follow { .. }));
        if epoch < process.epoch && !is_end && !is_begin {
            return Err(format!("the order is of epoch {epoch}, this process has seen epoch {}", process.epoch));
        }
        process.epoch = if is_begin { epoch } else { process.epoch.max(epoch) };
        match (&mut process.role, order) {
            (Role::Idle, ReplicaOrder::Serve { .. }) => {
                process.is_busy = true;
                let time = self.rng.range(2 * MS, 50 * MS);
                self.after(time, Event::Data { m, s, process: id, what: DataEvent::OrderEnds { answer: Box::new(Ending::Serve { job }) } });
            }
            (Role::Serving(serving), ReplicaOrder::Serve { .. }) => {
                if serving.is_held {
                    return Err("a release is under way".into());
                }
                self.answer(m, s, id, job, Ok(0));
            }
            (Role::Following(_), ReplicaOrder::Serve { .. }) => return Err("this node follows a session; it has to be closed first".into()),
            (Role::Serving(serving), ReplicaOrder::Offer { epoch, session }) => {
                let old = serving.conn.take();
                serving.offer = Some((*epoch, *session));
                self.withdraw(m, s, id, old);
                self.answer(m, s, id, job, Ok(0));
            }
            (Role::Serving(serving), ReplicaOrder::GoAlone { .. }) => {
                let old = serving.conn.take();
                serving.offer = None;
                serving.needs_peer = false;
                self.withdraw(m, s, id, old);
                self.acks(m, s, id);
                self.check_serving(m);
                self.answer(m, s, id, job, Ok(0));
            }
            (Role::Serving(serving), ReplicaOrder::Release { .. }) => {
                serving.releasing.push(job);
                serving.is_held = true;
                self.acks(m, s, id);
            }
            (_, ReplicaOrder::Offer { .. } | ReplicaOrder::GoAlone { .. } | ReplicaOrder::Release { .. }) => {
                return Err("this node does not serve the module's directories".into());
            }
            (Role::Serving(_), ReplicaOrder::Follow { .. }) => return Err("this node serves; it cannot follow".into()),
            (Role::Serving(_), ReplicaOrder::CloseSession { .. }) => return Err("this node serves; there is no session to close".into()),
            (Role::Idle, ReplicaOrder::Follow { epoch, session }) => {
                let (epoch, session) = (*epoch, *session);
                self.follow(m, s, id, epoch, session);
                self.answer(m, s, id, job, Ok(0));
            }
            (Role::Following(_), ReplicaOrder::Follow { epoch, session }) => {
                let next = Some((*epoch, *session));
                self.close_session(m, s, id, job, next);
            }
            (Role::Following(_), ReplicaOrder::CloseSession { .. }) => self.close_session(m, s, id, job, None),
            (Role::Idle, ReplicaOrder::CloseSession { .. }) => self.answer(m, s, id, job, Ok(0)),
            (Role::Serving(_), ReplicaOrder::Abandon { .. }) => {
                self.unmount(m, s, id, Err("the module was abandoned while it was being released"));
                self.answer(m, s, id, job, Ok(0));
            }
            (_, ReplicaOrder::Abandon { .. }) => self.answer(m, s, id, job, Ok(0)),
        }
        Ok(())
    }

    /// Nothing is applied any more from here; what was is flushed before the answer.
    fn close_session(&mut self, m: usize, s: usize, id: u64, job: JobId, is_following_on: Option<(Epoch, Session)>) {
        let process = self.process(m, s, id);
        process.is_busy = true;
        if let Role::Following(following) = std::mem::replace(&mut process.role, Role::Idle)
            && let Some(conn) = following.conn
        {
            self.break_conn(conn, 1, true);
        }
        let h = self.modules[m].units[s].host;
        let (low, high) = self.hosts[h].flush;
        let time = self.rng.range(low, high);
        let seen = self.modules[m].units[s].tree.mem;
        let answer = Box::new(Ending::Close { job, seen, is_following_on });
        self.after(time, Event::Data { m, s, process: id, what: DataEvent::OrderEnds { answer } });
    }

    fn order_ends(&mut self, m: usize, s: usize, id: u64, ending: Ending) {
        self.process(m, s, id).is_busy = false;
        let h = self.modules[m].units[s].host;
        match ending {
            Ending::Serve { job } => {
                self.process(m, s, id).role = Role::Serving(Box::new(Serving::new()));
                self.check_mounted(m, s);
                self.check_serving(m);
                self.answer(m, s, id, job, Ok(0));
            }
            Ending::Close { job, seen, is_following_on } => {
                if self.hosts[h].has_data_errors {
                    self.answer(m, s, id, job, Err("cannot flush what was applied: simulated EIO".into()));
                } else {
                    self.modules[m].units[s].tree.flushed(&seen);
                    if let Some((epoch, session)) = is_following_on {
                        self.follow(m, s, id, epoch, session);
                    }
                    self.answer(m, s, id, job, Ok(0));
                }
            }
            Ending::Unmounted { job } => self.answer(m, s, id, job, Ok(0)),
        }
        self.next_order(m, s, id);
    }

    fn follow(&mut self, m: usize, s: usize, id: u64, epoch: Epoch, session: Session) {
        self.check_follow(m, s);
        self.process(m, s, id).role = Role::Following(Following { epoch, session, conn: None, last: 0, is_live: false, is_over: false });
        let soon = self.rng.range(MS, 20 * MS);
        self.after(soon, Event::Data { m, s, process: id, what: DataEvent::Connect { session } });
    }

    /// Ends a session on the serving side, without a note.
    fn withdraw(&mut self, m: usize, s: usize, id: u64, conn: Option<u64>) {
        if let Some(conn) = conn {
            self.break_conn(conn, 0, true);
        }
        if let Some(serving) = self.process(m, s, id).serving() {
            serving.carrier = Carrier::Idle;
        }
        self.open_gate(m, s, id);
    }

    fn unmount(&mut self, m: usize, s: usize, id: u64, release: Result<u64, &str>) {
        let process = self.process(m, s, id);
        let Role::Serving(serving) = std::mem::replace(&mut process.role, Role::Idle) else { return };
        if let Some(conn) = serving.conn {
            self.break_conn(conn, 0, true);
        }
        for job in serving.releasing {
            self.answer(m, s, id, job, release.map_err(str::to_owned));
        }
    }

    /// The agent is gone: unmount or close, and end.
    fn end_process(&mut self, m: usize, s: usize, id: u64) {
        if let Some((conn, end)) = self.process(m, s, id).connection() {
            self.break_conn(conn, end, true);
        }
        self.modules[m].units[s].orphans.retain(|p| p.id != id);
        self.note(m, 12, |w| format!("n{} data process ends", w.modules[m].units[s].host + 1));
    }

    /// Killed: its connections end, what is in the page cache stays.
    fn kill(&mut self, process: &Process) {
        if let Some((conn, end)) = process.connection() {
            self.break_conn(conn, end, true);
        }
    }

    /// The agent kills its data process (`Hands::forget_data`).
    pub(super) fn forget_data(&mut self, m: usize, s: usize) {
        if let Some(process) = self.modules[m].units[s].data.take() {
            self.kill(&process);
        }
    }

    /// Before a new process starts, those of dead agents are killed.
    pub(super) fn kill_orphans(&mut self, m: usize, s: usize) {
        for process in std::mem::take(&mut self.modules[m].units[s].orphans) {
            self.kill(&process);
        }
    }

    /// A fault: the process dies by itself, and its agent is told.
    pub(super) fn data_dies(&mut self, m: usize, s: usize) {
        let Some(process) = self.modules[m].units[s].data.take() else { return };
        self.note(m, 13, |w| format!("n{} data process dies", w.modules[m].units[s].host + 1));
        let life = self.hosts[self.modules[m].units[s].host].life;
        self.kill(&process);
        self.modules[m].units[s].is_death_untold = self.modules[m].units[s].engine.is_some();
        let input = Box::new(Input::Replica(ReplicaNote::Died { detail: "simulated".into() }));
        self.after(MS, Event::Inbox { m, s, life, input });
    }

    pub(super) fn data_event(&mut self, m: usize, s: usize, id: u64, what: DataEvent) {
        match what {
            DataEvent::OrderEnds { answer } => self.order_ends(m, s, id, *answer),
            DataEvent::Orphaned => {
                self.process(m, s, id).is_orphan = true;
                self.next_order(m, s, id);
            }
            DataEvent::Lonely => self.lonely(m, s, id),
            DataEvent::Acks => {
                self.acks(m, s, id);
                self.next_order(m, s, id);
            }
            DataEvent::Flushed { op, seen } => self.local_flushed(m, s, id, op, &seen),
            DataEvent::ReleaseFlushed { seen } => self.release_flushed(m, s, id, &seen),
            DataEvent::Connect { session } => self.connect(m, s, id, session),
            DataEvent::FollowerFlushed { conn, lsn, seen } => self.follower_flushed(m, s, id, conn, lsn, &seen),
            DataEvent::AllFlushed { conn, number, seen } => self.all_flushed(m, s, id, conn, number, &seen),
            DataEvent::Grace { session } => {
                let is_same = self.process(m, s, id).following().is_some_and(|f| f.session == session);
                if is_same {
                    let note = ReplicaNote::SessionLost { session, detail: "the serving node released the directories".into() };
                    self.tell_agent(m, s, id, Input::Replica(note));
                }
            }
            DataEvent::SyncStep { conn } => self.sync_step(m, s, id, conn),
        }
    }

    // ---- the application ----

    /// The application's next operation, on whichever node runs it.
    pub(super) fn app(&mut self, m: usize) {
        self.check_vips(m);
        for s in 0..2 {
            let h = self.modules[m].units[s].host;
            if !self.modules[m].units[s].is_app_up || self.hosts[h].host_stops > 0 || !self.hosts[h].is_on {
                continue;
            }
            // The mount of an orphan is still there.
            let mounted = self.modules[m].units[s].processes().find(|p| matches!(p.role, Role::Serving(_))).map(|p| p.id);
            let Some(id) = mounted else { continue };
            let kind =
                if self.rng.chance(250) { OpKind::Fsync(self.modules[m].floor.acked) } else { OpKind::Write(self.rng.below(BLOCKS), 0) };
            if !self.is_data_stopped(h) {
                self.operation(m, s, id, kind);
            }
        }
        let mean = self.modules[m].pace;
        let next = self.rng.around(mean).max(MS);
        self.after(next, Event::App { m });
    }

    fn operation(&mut self, m: usize, s: usize, id: u64, kind: OpKind) {
        let now = self.now;
        let op_id = self.new_id();
        let h = self.modules[m].units[s].host;
        let is_full = self.hosts[h].is_full;
        let has_errors = self.hosts[h].has_data_errors;
        let Some(serving) = self.process(m, s, id).serving() else { return };
        if serving.waiting.len() + serving.flushing.len() + serving.blocked.len() >= OPS_MAX {
            return;
        }
        if serving.is_held || serving.is_gate_closed() {
            return serving.blocked.push(kind);
        }
        let is_live = matches!(serving.carrier, Carrier::Live);
        let mut lsn = 0;
        if is_live {
            lsn = serving.next_lsn;
            serving.next_lsn += 1;
        }
        let ticket = Ticket { arms: serving.arms, session: serving.session, lsn, is_durable: is_live && matches!(kind, OpKind::Fsync(_)) };
        let conn = serving.conn;
        match kind {
            OpKind::Write(block, _) => {
                let module = &mut self.modules[m];
                let parent = module.units[s].tree.mem[block];
                let value = module.writes.len() as WriteId;
                module.writes.push((parent, module.writes[parent as usize].1 + 1));
                if is_live {
                    self.send(conn, 1, Msg::Write { lsn, block, value });
                }
                if is_full || has_errors {
                    // The peer is told what is here in fact, and the application gets the error.
                    let serving = self.process(m, s, id).serving().expect("it serves");
                    if is_live {
                        let lsn = serving.next_lsn;
                        serving.next_lsn += 1;
                        self.send(conn, 1, Msg::Write { lsn, block, value: parent });
                    }
                    if has_errors {
                        self.disk_failed(m, s, id);
                    }
                    return;
                }
                self.modules[m].units[s].tree.write(block, value);
                let serving = self.process(m, s, id).serving().expect("it serves");
                if let Carrier::Sync(sync) = &mut serving.carrier {
                    sync.dirty[block] = true;
                }
                serving.waiting.push(Op { id: op_id, kind: OpKind::Write(block, value), ticket, since: now });
                self.acks(m, s, id);
            }
            OpKind::Fsync(_) => {
                if is_live {
                    self.send(conn, 1, Msg::Fsync { lsn });
                }
                let seen = self.modules[m].units[s].tree.mem;
                let serving = self.process(m, s, id).serving().expect("it serves");
                serving.flushing.push(Op { id: op_id, kind, ticket, since: now });
                let (low, high) = self.hosts[h].flush;
                let time = self.rng.range(low, high);
                self.after(time, Event::Data { m, s, process: id, what: DataEvent::Flushed { op: op_id, seen } });
            }
        }
    }

    fn disk_failed(&mut self, m: usize, s: usize, id: u64) {
        let note = ReplicaNote::DiskFailed { detail: "simulated EIO".into() };
        self.tell_agent(m, s, id, Input::Replica(note));
    }

    fn local_flushed(&mut self, m: usize, s: usize, id: u64, op: u64, seen: &Blocks) {
        let h = self.modules[m].units[s].host;
        let has_errors = self.hosts[h].has_data_errors;
        let now = self.now;
        let Some(serving) = self.process(m, s, id).serving() else { return };
        let Some(at) = serving.flushing.iter().position(|o| o.id == op) else { return };
        let mut op = serving.flushing.remove(at);
        if has_errors {
            return self.disk_failed(m, s, id);
        }
        op.since = now;
        serving.waiting.push(op);
        self.modules[m].units[s].tree.flushed(seen);
        self.acks(m, s, id);
    }

    /// Answers everything that may be answered now.
    pub(super) fn acks(&mut self, m: usize, s: usize, id: u64) {
        let h = self.modules[m].units[s].host;
        if self.is_data_stopped(h) {
            return self.after(MS, Event::Data { m, s, process: id, what: DataEvent::Acks });
        }
        let now = self.local(h);
        let process = self.process(m, s, id);
        let deadline = process.deadline;
        let Some(serving) = process.serving() else { return };
        let mut answered = Vec::new();
        let mut index = 0;
        while index < serving.waiting.len() {
            if serving.is_good(serving.waiting[index].ticket, deadline, now) {
                let op = serving.waiting.remove(index);
                if op.ticket.is_durable {
                    serving.durable.remove(&op.ticket.lsn);
                }
                answered.push(op.kind);
            } else {
                index += 1;
            }
        }
        let has_peer = serving.needs_peer;
        let session = serving.session;
        for kind in answered {
            self.acknowledged(m, s, kind, has_peer.then_some(session));
        }
        self.drain(m, s, id);
    }

    /// A release goes on when nothing waits and the peer has everything.
    fn drain(&mut self, m: usize, s: usize, id: u64) {
        let h = self.modules[m].units[s].host;
        let Some(serving) = self.process(m, s, id).serving() else { return };
        if !serving.is_held || serving.is_flushing_out || !serving.waiting.is_empty() || serving.is_gate_closed() {
            return;
        }
        let last = if matches!(serving.carrier, Carrier::Live) { serving.next_lsn - 1 } else { 0 };
        if serving.needs_peer && serving.session != Session(0) && serving.applied < last {
            return;
        }
        serving.is_flushing_out = true;
        let (low, high) = self.hosts[h].flush;
        let time = self.rng.range(low, high);
        let seen = self.modules[m].units[s].tree.mem;
        self.after(time, Event::Data { m, s, process: id, what: DataEvent::ReleaseFlushed { seen } });
    }

    fn release_flushed(&mut self, m: usize, s: usize, id: u64, seen: &Blocks) {
        let h = self.modules[m].units[s].host;
        let has_errors = self.hosts[h].has_data_errors;
        let Some(serving) = self.process(m, s, id).serving() else { return };
        if has_errors {
            serving.is_flushing_out = false;
            let jobs = std::mem::take(&mut serving.releasing);
            for job in jobs {
                self.answer(m, s, id, job, Err("cannot flush: simulated EIO".into()));
            }
            return;
        }
        let conn = serving.conn;
        self.modules[m].units[s].tree.flushed(seen);
        self.send(conn, 1, Msg::Bye);
        self.unmount(m, s, id, Ok(0));
    }

    /// Operations that waited at the gate run now.
    pub(super) fn open_gate(&mut self, m: usize, s: usize, id: u64) {
        let Some(serving) = self.process(m, s, id).serving() else { return };
        if serving.is_gate_closed() {
            return;
        }
        if serving.is_held {
            // A release has waited for the gate.
            return self.drain(m, s, id);
        }
        for kind in std::mem::take(&mut serving.blocked) {
            self.operation(m, s, id, kind);
        }
    }

    /// A resynchronisation that holds the application for longer than this is given up.
    pub(super) const HELD_MAX: u64 = 5 * S;
}
