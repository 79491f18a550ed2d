//! The data processes of the two nodes.

use super::{Action, Broken, World};
use tsugi_core::engine::{Input, Mutant, Outcome};
use tsugi_core::ids::{JobId, Lsn, Session};
use tsugi_core::module::Async;
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};

/// What the data process of a node may acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Right {
    #[default]
    No,
    Alone,
    /// Until the belief in the promise that answered this beat ends.
    Until(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Data {
    pub is_mounted: bool,
    pub offer: Option<Session>,
    /// Acknowledgements need the peer, of this session and this life.
    pub armed: Option<(Session, u8)>,
    /// The armed session is over: nobody can join it again.
    pub is_over: bool,
    pub following: Option<Session>,
    /// The barrier has passed; its end is not flushed yet.
    pub is_at_barrier: bool,
    pub right: Right,
    /// Writes applied here, one bit each.
    pub memory: u8,
    /// Those that a crash leaves.
    pub disk: u8,
    /// Writes the application has made and that are not acknowledged yet.
    pub pending: u8,
    /// An fsync under way, with the writes it covers.
    pub fsync: Option<u8>,
    /// A `Release` that waits for its last acknowledgements.
    pub release: Option<JobId>,
}

impl World {
    pub(super) fn data_actions(&self, i: usize, all: &mut Vec<Action>) {
        let data = &self.nodes[i].data;
        let is_open = data.is_mounted && data.release.is_none() && self.is_entitled(i);
        if self.can_sync(i) {
            all.push(Action::Sync { source: i });
        }
        if data.is_at_barrier {
            all.push(Action::Level { node: i });
        }
        if self.left.writes > 0 && is_open {
            all.push(Action::Write { node: i });
        }
        if data.pending & !self.nodes[1 - i].data.memory != 0 && self.is_streaming(i) {
            all.push(Action::Apply { source: i });
        }
        if self.ackable(i) != 0 {
            all.push(Action::Acknowledge { node: i });
        }
        if is_open && data.fsync.is_none() && self.acked & data.memory & !self.durable != 0 {
            all.push(Action::Fsync { node: i });
        }
        if self.is_fsync_ackable(i) {
            all.push(Action::AcknowledgeFsync { node: i });
        }
        if self.can_rejoin(i) {
            all.push(Action::Rejoin { source: i });
        }
        if self.is_broken_for(i) {
            all.push(Action::GiveUp { node: i });
        }
    }

    pub(super) fn act_on_data(&mut self, action: &Action) {
        match *action {
            Action::Sync { source } => self.sync(source),
            Action::Level { node } => {
                let Some(session) = self.nodes[node].data.following else { return };
                let data = &mut self.node_mut(node).data;
                data.is_at_barrier = false;
                data.disk |= data.memory;
                self.node_mut(node).notes.push(ReplicaNote::Level { session });
            }
            Action::Write { node } => {
                self.left.writes -= 1;
                let bit = 1 << self.written;
                self.written += 1;
                self.node_mut(node).data.pending |= bit;
                self.node_mut(node).data.memory |= bit;
            }
            Action::Apply { source } => {
                let pending = self.nodes[source].data.pending;
                self.node_mut(1 - source).data.memory |= pending;
            }
            Action::Acknowledge { node } => {
                let bits = self.ackable(node);
                self.acked |= bits;
                self.node_mut(node).data.pending &= !bits;
                self.end_release(node);
            }
            Action::Fsync { node } => {
                let acked = self.acked;
                let data = &mut self.node_mut(node).data;
                data.disk |= data.memory;
                data.fsync = Some(acked & data.memory);
            }
            Action::AcknowledgeFsync { node } => {
                let is_armed = self.nodes[node].data.armed.is_some();
                if is_armed && self.setting().ack == Async::None {
                    let peer = &mut self.node_mut(1 - node).data;
                    peer.disk |= peer.memory;
                }
                if let Some(bits) = self.node_mut(node).data.fsync.take() {
                    self.durable |= bits;
                }
                self.end_release(node);
            }
            Action::Rejoin { .. } => self.is_connected = true,
            Action::GiveUp { node } => self.give_up(node),
            _ => unreachable!("an action of the data processes"),
        }
    }

    fn end_release(&mut self, node: usize) {
        if let Some(input) = self.finish_release(node) {
            self.feed(node, input);
        }
    }

    pub(super) fn is_entitled(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        match node.data.right {
            Right::No => false,
            Right::Alone => true,
            Right::Until(ticket) => ticket > node.expired,
        }
    }

    /// The follower's process is the one the session was armed with, and follows it still.
    fn is_same_follower(&self, source: usize) -> bool {
        let (from, to) = (&self.nodes[source].data, &self.nodes[1 - source]);
        let Some((session, life)) = from.armed else { return false };
        let is_lax = matches!(self.setting().mutant, Some(Mutant::RejoinRestarted | Mutant::RejoinIgnoresEpoch));
        to.engine.is_some() && to.data.following == Some(session) && (life == to.lives || is_lax) && !from.is_over
    }

    pub(super) fn is_streaming(&self, source: usize) -> bool {
        self.is_connected && self.is_same_follower(source)
    }

    fn can_rejoin(&self, source: usize) -> bool {
        !self.is_cut && !self.is_connected && self.nodes[source].data.armed.is_some() && self.is_same_follower(source)
    }

    /// Writes that may be acknowledged to the application now.
    fn ackable(&self, node: usize) -> u8 {
        let data = &self.nodes[node].data;
        if !data.is_mounted || !self.is_entitled(node) || self.nodes[node].engine.is_none() {
            return 0;
        }
        match data.armed {
            None => data.pending,
            Some(_) if self.is_streaming(node) => data.pending & self.nodes[1 - node].data.memory,
            Some(_) => 0,
        }
    }

    fn is_fsync_ackable(&self, node: usize) -> bool {
        let data = &self.nodes[node].data;
        let is_open = data.is_mounted && self.is_entitled(node) && self.nodes[node].engine.is_some();
        is_open && data.fsync.is_some() && (data.armed.is_none() || self.is_streaming(node))
    }

    fn can_sync(&self, source: usize) -> bool {
        let (from, to) = (&self.nodes[source].data, &self.nodes[1 - source]);
        let is_wanted = from.is_mounted && from.offer.is_some() && from.armed.is_none() && from.offer == to.data.following;
        !self.is_cut && is_wanted && to.engine.is_some()
    }

    fn sync(&mut self, source: usize) {
        let Some(session) = self.nodes[source].data.offer else { return };
        let (memory, life) = (self.nodes[source].data.memory, self.nodes[1 - source].lives);
        let to = &mut self.node_mut(1 - source).data;
        (to.memory, to.disk, to.is_at_barrier) = (memory, 0, true);
        let from = &mut self.node_mut(source).data;
        (from.armed, from.is_over) = (Some((session, life)), false);
        self.is_connected = true;
        self.node_mut(source).notes.push(ReplicaNote::Armed { session });
    }

    /// A node that waits for its connection to come back.
    fn is_broken_for(&self, node: usize) -> bool {
        let data = &self.nodes[node].data;
        let is_part = data.following.is_some() && self.session_of(1 - node).is_none_or(|s| Some(s) != data.following || !self.is_connected);
        let is_source = data.armed.is_some() && !data.is_over && !self.is_streaming(node);
        let is_offering = self.is_cut && data.offer.is_some() && data.armed.is_none() && self.nodes[1 - node].data.following == data.offer;
        let is_syncing = data.following.is_some() && !self.is_cut && self.can_sync(1 - node);
        (is_part && !is_syncing) || is_source || is_offering
    }

    /// Patience is over, or the other end says that there is nothing to come back to.
    fn give_up(&mut self, node: usize) {
        let Some(session) = self.nodes[node].data.following.or(self.session_of(node)) else { return };
        let data = &mut self.node_mut(node).data;
        data.following = None;
        data.is_at_barrier = false;
        if data.armed.is_some() {
            data.is_over = true;
        } else {
            data.offer = None;
        }
        self.is_connected = false;
        self.node_mut(node).notes.push(ReplicaNote::SessionLost { session, detail: String::new() });
    }

    /// A `Release` ends when nothing is left to acknowledge.
    fn finish_release(&mut self, node: usize) -> Option<Input> {
        let data = &mut self.node_mut(node).data;
        let job = if data.pending == 0 && data.fsync.is_none() { data.release.take() } else { None }?;
        self.release(node);
        Some(Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })))
    }

    /// Flushed here and, through the stream, there.
    fn release(&mut self, node: usize) {
        let data = &mut self.node_mut(node).data;
        data.disk |= data.memory;
        self.unmount(node);
    }

    fn unmount(&mut self, node: usize) {
        self.is_connected = false;
        let data = &mut self.node_mut(node).data;
        (data.is_mounted, data.armed, data.offer, data.pending, data.fsync) = (false, None, None, 0, None);
    }

    /// An order of the engine; absent = it ends later.
    pub(super) fn carry_out(&mut self, node: usize, job: JobId, request: &ReplicaOrder, inputs: &mut Vec<Input>) -> Option<Outcome> {
        match *request {
            ReplicaOrder::Serve { .. } => {
                if self.nodes[node].data.following.is_some() {
                    self.caught = Some(Broken::ServesUnclosed { node });
                }
                let data = &mut self.node_mut(node).data;
                (data.is_mounted, data.armed, data.offer, data.following) = (true, None, None, None);
                (data.pending, data.fsync, data.is_at_barrier) = (0, None, false);
                self.check_serve(node);
            }
            ReplicaOrder::Offer { session, .. } => self.node_mut(node).data.offer = Some(session),
            ReplicaOrder::GoAlone { .. } => {
                self.is_connected = false;
                let data = &mut self.node_mut(node).data;
                (data.armed, data.offer) = (None, None);
                if data.release.is_some() {
                    let (pending, fsync) = (std::mem::take(&mut data.pending), data.fsync.take().unwrap_or(0));
                    self.acked |= pending;
                    self.durable |= fsync;
                }
                inputs.extend(self.finish_release(node));
            }
            ReplicaOrder::Follow { session, .. } => {
                self.check_overwrite(node);
                let data = &mut self.node_mut(node).data;
                (data.following, data.memory, data.disk, data.is_at_barrier) = (Some(session), 0, 0, false);
                self.node_mut(node).lost = 0;
            }
            ReplicaOrder::CloseSession { .. } => {
                let data = &mut self.node_mut(node).data;
                if data.following.take().is_some() {
                    self.is_connected = false;
                }
                let data = &mut self.node_mut(node).data;
                data.is_at_barrier = false;
                data.disk |= data.memory;
            }
            ReplicaOrder::Release { .. } => {
                let data = &mut self.node_mut(node).data;
                if data.pending != 0 || data.fsync.is_some() {
                    data.release = Some(job);
                    return None;
                }
                self.release(node);
            }
            ReplicaOrder::Abandon { .. } => {
                self.node_mut(node).data.release = None;
                self.unmount(node);
            }
        }
        Some(Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) }))
    }

    /// Data that a promise to the application still covers must not be written over by a copy that lacks it.
    fn check_overwrite(&mut self, node: usize) {
        let lost = self.nodes[node].data.disk & self.durable & !self.nodes[1 - node].data.memory;
        if lost != 0 && self.nodes[1 - node].data.is_mounted {
            self.caught = Some(Broken::Overwritten { node });
        }
    }
}
