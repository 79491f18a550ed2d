//! The replication connection: an ordered stream that stalls in a cut and breaks after a silence, the
//! resynchronisation in steps while the application writes, and the follower.

use super::data::{Carrier, DataEvent, Stage, Sync};
use super::disk::{BLOCKS, Blocks, WriteId};
use super::net::{MS, S};
use super::{Event, World};
use std::collections::VecDeque;
use tsugi_core::engine::Input;
use tsugi_core::ids::{Epoch, Session};
use tsugi_core::module::Async;
use tsugi_core::replica::ReplicaNote;

/// A side that hears nothing for this long ends the session.
const SILENCE_MAX: u64 = 8 * S;
/// A peer whose acknowledgement is overdue this long is stuck.
const STALL_MAX: u64 = 10 * S;
/// How often a connection is looked at.
const TICK: u64 = S;
/// After an orderly end by the source.
const GRACE: u64 = 2 * S;

/// What travels.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Msg {
    Write { lsn: u64, block: usize, value: WriteId },
    Fsync { lsn: u64 },
    SyncBlock { block: usize, value: WriteId },
    SyncFlush { number: u32 },
    SyncLive,
    Bye,
    Applied { lsn: u64 },
    Durable { lsn: u64 },
    Flushed { number: u32 },
    Eof,
}

/// A connection: end 0 serves, end 1 follows.
#[derive(Debug)]
pub struct Conn {
    /// Module.
    pub m: usize,
    /// Sides of the ends.
    pub sides: [usize; 2],
    /// Processes of the ends.
    pub processes: [u64; 2],
    /// Of both ends.
    pub epoch: Epoch,
    /// Of both ends.
    pub session: Session,
    /// To each end, with the earliest time of arrival.
    queues: [VecDeque<(u64, Msg)>; 2],
    is_broken: [bool; 2],
    heard: [u64; 2],
}

impl World {
    /// A follower tries to reach its source.
    pub(super) fn connect(&mut self, m: usize, s: usize, id: u64, session: Session) {
        let Some(following) = self.process(m, s, id).following() else { return };
        if following.session != session || following.conn.is_some() || following.is_over {
            return;
        }
        let epoch = following.epoch;
        let (here, there) = (self.modules[m].units[s].host, self.modules[m].units[1 - s].host);
        let is_reachable = self.net.is_connected(here, there) && self.hosts[there].is_on && self.hosts[there].host_stops == 0;
        let is_stopped = self.is_data_stopped(there);
        let unit = &mut self.modules[m].units[1 - s];
        let source = unit.data.iter_mut().chain(&mut unit.orphans).find_map(|p| {
            let id = p.id;
            p.serving().filter(|x| x.offer == Some((epoch, session)) && x.conn.is_none()).map(|x| (id, x))
        });
        match source {
            Some((source, serving)) if is_reachable && !is_stopped => {
                self.next_id += 1;
                let conn = self.next_id;
                serving.conn = Some(conn);
                serving.carrier = Carrier::Sync(Sync { dirty: [false; BLOCKS], stage: Stage::Walk(0), held_since: 0 });
                self.process(m, s, id).following().expect("it follows").conn = Some(conn);
                let of = Conn {
                    m,
                    sides: [1 - s, s],
                    processes: [source, id],
                    epoch,
                    session,
                    queues: [VecDeque::new(), VecDeque::new()],
                    is_broken: [false; 2],
                    heard: [self.now; 2],
                };
                self.conns.insert(conn, of);
                self.note(m, 20, |_| format!("n{} connects to n{} in session {session}", here + 1, there + 1));
                self.after(TICK, Event::ConnTick { conn });
                self.next_sync_step(m, 1 - s, source, conn);
            }
            _ => {
                let wait = if is_reachable { self.rng.range(50 * MS, 150 * MS) } else { self.rng.range(500 * MS, 3 * S) };
                self.after(wait, Event::Data { m, s, process: id, what: DataEvent::Connect { session } });
            }
        }
    }

    /// Sends to an end. Nothing leaves a broken end.
    pub(super) fn send(&mut self, conn: Option<u64>, to: usize, msg: Msg) {
        let Some(id) = conn else { return };
        let Some(of) = self.conns.get_mut(&id) else { return };
        if of.is_broken[1 - to] {
            return;
        }
        let (from_host, to_host) = (self.modules[of.m].units[of.sides[1 - to]].host, self.modules[of.m].units[of.sides[to]].host);
        let time = self.now + self.net.replication(from_host, to_host).stream(&mut self.rng);
        // One stream: nothing overtakes.
        let at = of.queues[to].back().map_or(time, |(last, _)| time.max(*last));
        of.queues[to].push_back((at, msg));
        self.at(at, Event::Pump { conn: id, to });
    }

    /// What has arrived at an end is read, unless the way is cut or the reader stands still.
    pub(super) fn pump_conn(&mut self, id: u64, to: usize) {
        loop {
            let Some(of) = self.conns.get_mut(&id) else { return };
            let Some((at, _)) = of.queues[to].front() else { return };
            if *at > self.now {
                return;
            }
            if of.is_broken[to] {
                of.queues[to].clear();
                return;
            }
            let (m, side, process) = (of.m, of.sides[to], of.processes[to]);
            let (from_host, to_host) = (self.modules[m].units[of.sides[1 - to]].host, self.modules[m].units[side].host);
            if !self.net.replication(from_host, to_host).is_open() {
                if !self.hosts[from_host].is_on {
                    // Nobody sends it again.
                    of.queues[to].clear();
                    return;
                }
                let again = self.rng.range(200 * MS, 800 * MS);
                return self.after(again, Event::Pump { conn: id, to });
            }
            if self.is_data_stopped(to_host) {
                return self.after(20 * MS, Event::Pump { conn: id, to });
            }
            let Some((_, msg)) = self.conns.get_mut(&id).and_then(|c| c.queues[to].pop_front()) else { return };
            if self.modules[m].units[side].process(process).is_none() {
                return;
            }
            if matches!(msg, Msg::Eof) {
                return self.broken(id, to, "the other side closed the connection");
            }
            if to == 1 { self.follower_gets(id, m, side, process, msg) } else { self.source_gets(id, m, side, process, msg) }
        }
    }

    /// An end closes the connection. The other end learns of it, unless this host has no power.
    pub(super) fn break_conn(&mut self, id: u64, end: usize, is_told: bool) {
        let Some(of) = self.conns.get_mut(&id) else { return };
        if of.is_broken[end] {
            return;
        }
        if is_told && !of.is_broken[1 - end] {
            if self.rng.chance(300) {
                // A reset throws away what was under way.
                self.conns.get_mut(&id).expect("it is there").queues[1 - end].clear();
            }
            self.send(Some(id), 1 - end, Msg::Eof);
        }
        let Some(of) = self.conns.get_mut(&id) else { return };
        of.is_broken[end] = true;
        of.queues[end].clear();
        if of.is_broken[1 - end] {
            self.conns.remove(&id);
        }
    }

    /// An end finds the connection broken, and its agent is told.
    fn broken(&mut self, id: u64, end: usize, why: &str) {
        let Some(of) = self.conns.get(&id) else { return };
        let (m, side, process, session) = (of.m, of.sides[end], of.processes[end], of.session);
        self.break_conn(id, end, true);
        self.note(m, 21, |w| format!("n{}: session {session} is broken: {why}", w.modules[m].units[side].host + 1));
        let Some(of) = self.modules[m].units[side].process(process) else { return };
        if end == 0 {
            let Some(serving) = of.serving().filter(|s| s.conn == Some(id)) else { return };
            (serving.conn, serving.offer, serving.carrier) = (None, None, Carrier::Idle);
            self.open_gate(m, side, process);
        } else {
            let Some(following) = of.following().filter(|f| f.conn == Some(id)) else { return };
            following.is_over = true;
        }
        let note = ReplicaNote::SessionLost { session, detail: why.into() };
        self.tell_agent(m, side, process, Input::Replica(note));
    }

    /// Silence, a stuck peer, a process that is gone.
    pub(super) fn conn_tick(&mut self, id: u64) {
        for end in 0..2 {
            let Some(of) = self.conns.get_mut(&id) else { return };
            let (m, side, process) = (of.m, of.sides[end], of.processes[end]);
            let (other_side, other_process) = (of.sides[1 - end], of.processes[1 - end]);
            let (here, there) = (self.modules[m].units[side].host, self.modules[m].units[other_side].host);
            if of.is_broken[end] {
                continue;
            }
            let is_other_broken = of.is_broken[1 - end];
            let is_other_gone = self.modules[m].units[other_side].process(other_process).is_none();
            if self.modules[m].units[side].process(process).is_none() {
                self.break_conn(id, end, true);
                continue;
            }
            if self.is_data_stopped(here) {
                continue;
            }
            let is_other_well = self.hosts[there].is_on && self.hosts[there].host_stops == 0;
            if is_other_well && self.net.is_connected(here, there) && is_other_gone && is_other_broken {
                self.broken(id, end, "connection reset");
                continue;
            }
            let is_heard = is_other_well && !is_other_gone && !self.is_data_stopped(there) && self.net.replication(there, here).is_open();
            let of = self.conns.get_mut(&id).expect("it is there");
            if is_heard {
                of.heard[end] = self.now;
            } else if self.now - of.heard[end] > SILENCE_MAX {
                self.broken(id, end, "the peer said nothing for 8 s");
                continue;
            }
            if end == 0 {
                self.source_tick(id, m, side, process);
            }
        }
        if self.conns.contains_key(&id) {
            self.after(TICK, Event::ConnTick { conn: id });
        }
    }

    fn source_tick(&mut self, id: u64, m: usize, s: usize, process: u64) {
        let now = self.now;
        let local = self.local(self.modules[m].units[s].host);
        let Some(of) = self.modules[m].units[s].process(process) else { return };
        let is_stuck = of.oldest().is_some_and(|since| now - since > STALL_MAX) && of.is_entitled(local);
        let Some(serving) = of.serving() else { return };
        if is_stuck && serving.needs_peer && matches!(serving.carrier, Carrier::Live) {
            return self.broken(id, 0, "the peer has not acknowledged for too long");
        }
        if let Carrier::Sync(sync) = &serving.carrier
            && sync.stage == Stage::Held
            && now - sync.held_since > Self::HELD_MAX
        {
            self.broken(id, 0, "the resynchronisation does not end");
        }
    }

    // ---- resynchronisation, serving side ----

    fn next_sync_step(&mut self, m: usize, s: usize, process: u64, conn: u64) {
        let (low, high) = self.modules[m].sync_pace;
        let time = self.rng.range(low, high);
        self.after(time, Event::Data { m, s, process, what: DataEvent::SyncStep { conn } });
    }

    pub(super) fn sync_step(&mut self, m: usize, s: usize, id: u64, conn: u64) {
        let tree = self.modules[m].units[s].tree.mem;
        let Some(serving) = self.process(m, s, id).serving().filter(|x| x.conn == Some(conn)) else { return };
        let Carrier::Sync(sync) = &mut serving.carrier else { return };
        let Stage::Walk(block) = sync.stage else { return };
        if block < BLOCKS {
            // The mark is taken before the block is read: a change from here on is in the next pass.
            sync.dirty[block] = false;
            sync.stage = Stage::Walk(block + 1);
            self.send(Some(conn), 1, Msg::SyncBlock { block, value: tree[block] });
            self.next_sync_step(m, s, id, conn);
            return;
        }
        sync.stage = Stage::Flush;
        let changed = std::mem::take(&mut sync.dirty);
        self.send_blocks(conn, &tree, &changed);
        self.send(Some(conn), 1, Msg::SyncFlush { number: 1 });
    }

    fn send_blocks(&mut self, conn: u64, tree: &Blocks, which: &[bool; BLOCKS]) {
        for block in (0..BLOCKS).filter(|b| which[*b]) {
            self.send(Some(conn), 1, Msg::SyncBlock { block, value: tree[block] });
        }
    }

    fn source_gets(&mut self, conn: u64, m: usize, s: usize, id: u64, msg: Msg) {
        let now = self.now;
        let tree = self.modules[m].units[s].tree.mem;
        let session = self.conns[&conn].session;
        let Some(serving) = self.process(m, s, id).serving().filter(|x| x.conn == Some(conn)) else { return };
        match msg {
            Msg::Applied { lsn } => {
                serving.acknowledged(session, Some(lsn), None);
                self.acks(m, s, id);
            }
            Msg::Durable { lsn } => {
                serving.acknowledged(session, None, Some(lsn));
                self.acks(m, s, id);
            }
            Msg::Flushed { number: 1 } => {
                let Carrier::Sync(sync) = &mut serving.carrier else { return };
                // The last pass: nothing changes any more until the live stream.
                sync.stage = Stage::Held;
                sync.held_since = now;
                let changed = std::mem::take(&mut sync.dirty);
                self.send_blocks(conn, &tree, &changed);
                self.send(Some(conn), 1, Msg::SyncFlush { number: 2 });
            }
            Msg::Flushed { .. } => {
                if !matches!(serving.carrier, Carrier::Sync(_)) {
                    return;
                }
                serving.arm(session);
                self.send(Some(conn), 1, Msg::SyncLive);
                self.note(m, 22, |w| format!("n{}: armed in session {session}", w.modules[m].units[s].host + 1));
                self.tell_agent(m, s, id, Input::Replica(ReplicaNote::Armed { session }));
                self.acks(m, s, id);
                self.open_gate(m, s, id);
            }
            _ => {}
        }
    }

    // ---- the follower ----

    fn follower_gets(&mut self, conn: u64, m: usize, s: usize, id: u64, msg: Msg) {
        let h = self.modules[m].units[s].host;
        let cannot_write = self.hosts[h].is_full || self.hosts[h].has_data_errors;
        let (low, high) = self.hosts[h].flush;
        let flush = self.rng.range(low, high);
        let is_in_memory = self.modules[m].units[s].config().ack == Async::Second;
        let session = self.conns[&conn].session;
        let mem = self.modules[m].units[s].tree.mem;
        let Some(following) = self.process(m, s, id).following().filter(|f| f.conn == Some(conn) && !f.is_over) else { return };
        match msg {
            Msg::Write { lsn, block, value } => {
                if cannot_write {
                    return self.apply_failed(conn, m, s, id);
                }
                following.last = lsn;
                self.modules[m].units[s].tree.write(block, value);
                self.send(Some(conn), 0, Msg::Applied { lsn });
            }
            Msg::Fsync { lsn } => {
                following.last = lsn;
                let seen = self.modules[m].units[s].tree.mem;
                self.send(Some(conn), 0, Msg::Applied { lsn });
                if is_in_memory {
                    self.send(Some(conn), 0, Msg::Durable { lsn });
                } else {
                    self.after(flush, Event::Data { m, s, process: id, what: DataEvent::FollowerFlushed { conn, lsn, seen } });
                }
            }
            Msg::SyncBlock { block, value } if mem[block] != value => {
                if cannot_write {
                    return self.apply_failed(conn, m, s, id);
                }
                self.modules[m].units[s].tree.write(block, value);
                self.check_copies(m, "a block is brought level");
            }
            Msg::SyncFlush { number } => {
                let seen = self.modules[m].units[s].tree.mem;
                self.after(flush, Event::Data { m, s, process: id, what: DataEvent::AllFlushed { conn, number, seen } });
            }
            Msg::SyncLive => {
                following.is_live = true;
                self.note(m, 23, |_| format!("n{}: level in session {session}", h + 1));
                self.check_level(m, s, session);
                self.tell_agent(m, s, id, Input::Replica(ReplicaNote::Level { session }));
            }
            Msg::Bye => {
                following.is_over = true;
                self.break_conn(conn, 1, true);
                self.after(GRACE, Event::Data { m, s, process: id, what: DataEvent::Grace { session } });
            }
            _ => {}
        }
    }

    fn apply_failed(&mut self, conn: u64, m: usize, s: usize, id: u64) {
        let Some(following) = self.process(m, s, id).following() else { return };
        following.is_over = true;
        let session = following.session;
        self.break_conn(conn, 1, true);
        let note = ReplicaNote::ApplyFailed { session, detail: "simulated I/O error".into() };
        self.tell_agent(m, s, id, Input::Replica(note));
    }

    pub(super) fn follower_flushed(&mut self, m: usize, s: usize, id: u64, conn: u64, lsn: u64, seen: &Blocks) {
        if self.hosts[self.modules[m].units[s].host].has_data_errors {
            if self.process(m, s, id).following().is_some_and(|f| f.conn == Some(conn)) {
                self.apply_failed(conn, m, s, id);
            }
            return;
        }
        self.modules[m].units[s].tree.flushed(seen);
        if self.process(m, s, id).following().is_some_and(|f| f.conn == Some(conn)) {
            self.send(Some(conn), 0, Msg::Durable { lsn });
        }
    }

    pub(super) fn all_flushed(&mut self, m: usize, s: usize, id: u64, conn: u64, number: u32, seen: &Blocks) {
        let is_same = self.process(m, s, id).following().is_some_and(|f| f.conn == Some(conn) && !f.is_over);
        if !is_same {
            return;
        }
        if self.hosts[self.modules[m].units[s].host].has_data_errors {
            return self.apply_failed(conn, m, s, id);
        }
        self.modules[m].units[s].tree.flushed(seen);
        self.send(Some(conn), 0, Msg::Flushed { number });
    }
}
