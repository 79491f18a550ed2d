//! What must hold, what must be reachable, and what was seen.

use super::{World, names, right_word};
use tsugi_core::command::Verb;
use tsugi_core::engine::Saved;
use tsugi_core::event::Event;
use tsugi_core::ids::Epoch;
use tsugi_core::state::{Flag, Readiness, State};
use tsugi_core::wire::arbiter::ArbiterRequest;

/// An invariant that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// I1: two nodes may acknowledge.
    TwoServe,
    /// I2: a node serves without an acknowledged write.
    ServesOld {
        /// Which.
        node: usize,
    },
    /// I3: a node that record and flag call current lacks a write that was acknowledged as durable.
    AckedWriteLost {
        /// Which.
        node: usize,
    },
    /// I4: a running secondary that the record names lacks an acknowledged write.
    SecondaryLacks {
        /// Which.
        node: usize,
    },
    /// I5: a copy that is not current became the primary's by itself.
    OldBecamePrimary {
        /// Which.
        node: usize,
    },
    /// I6: a copy with acknowledged data was written over by one that lacks it.
    Overwritten {
        /// Which.
        node: usize,
    },
    /// A node serves while its replication session is still open: something could be applied below the application.
    ServesUnclosed {
        /// Which.
        node: usize,
    },
}

/// A change of the visible state: from, to, readiness.
pub type Row = (State, State, Readiness);

impl World {
    /// The first invariant that does not hold here. Without an assumption about clocks only those of the data count.
    pub fn broken(&self) -> Option<Broken> {
        let is_bound = !self.setting().is_clock_free;
        let may_acknowledge = |i: usize| self.nodes[i].data.is_mounted && self.is_entitled(i) && self.nodes[i].engine.is_some();
        if is_bound && may_acknowledge(0) && may_acknowledge(1) {
            return Some(Broken::TwoServe);
        }
        for (i, name) in names().iter().enumerate() {
            let node = &self.nodes[i];
            if is_bound && may_acknowledge(i) && self.acked & !node.data.memory != 0 {
                return Some(Broken::ServesOld { node: i });
            }
            let is_named = self.record.in_sync.contains(name);
            if is_named && node.disk.flag == Flag::UpToDate && self.durable & !node.data.disk != 0 {
                return Some(Broken::AckedWriteLost { node: i });
            }
            let is_good = matches!(node.disk.flag, Flag::UpToDate | Flag::Volatile);
            if is_named && is_good && self.is_level(i) && self.acked & !node.data.memory != 0 {
                return Some(Broken::SecondaryLacks { node: i });
            }
        }
        self.caught
    }

    fn is_level(&self, node: usize) -> bool {
        self.nodes[node].engine.as_ref().is_some_and(|e| e.status().level.is_some())
    }

    /// By its role this node holds what is acknowledged.
    pub(super) fn is_holder(&self, node: usize) -> bool {
        let is_serving = self.nodes[node].data.is_mounted && self.nodes[node].engine.is_some();
        // A follower that is level but not named yet holds a copy nobody has been promised anything about.
        let is_named = self.record.in_sync.contains(&names()[node]);
        is_serving || is_named && self.is_level(node) && matches!(self.nodes[node].disk.flag, Flag::UpToDate | Flag::Volatile)
    }

    /// Seen when a record is written: nobody becomes the owner with a copy that is not current.
    pub(super) fn check_save(&mut self, node: usize, saved: &Saved) {
        let before = &self.nodes[node].disk;
        let becomes_owner = saved.is_owner && !before.is_owner;
        // The only order by which a person overrides it here is the first one.
        let is_decided = before.epoch == Epoch(0);
        if becomes_owner && !is_decided && !matches!(before.flag, Flag::UpToDate | Flag::Volatile) {
            self.caught = Some(Broken::OldBecamePrimary { node });
        }
    }

    /// Seen when a node begins to serve.
    pub(super) fn check_serve(&mut self, node: usize) {
        // What it lost with its own power and was not asked to flush is gone, as on any local file system, also if the
        // other node would have had it in memory. The simulator's rule is the same.
        let lost = std::mem::take(&mut self.node_mut(node).lost);
        self.acked &= !(lost & !self.durable);
        let is_named = self.record.in_sync.contains(&names()[node]);
        if !is_named && self.record.version > Epoch(0) && !self.setting().is_clock_free && !self.setting().is_slow {
            self.caught = Some(Broken::OldBecamePrimary { node });
        }
    }

    /// Changes of state in the step that led here.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.said.0.iter().filter_map(|event| match event {
            Event::Entered { from, to, readiness, .. } => Some((*from, *to, *readiness)),
            _ => None,
        })
    }

    /// Primary and ready secondary by the record and by both nodes.
    pub fn is_pair(&self) -> bool {
        let is = |i: usize, state| self.nodes[i].engine.as_ref().is_some_and(|e| e.state() == state && e.readiness() == Readiness::Ready);
        self.record.in_sync.len() == 2 && (is(0, State::Prim) && is(1, State::Second) || is(1, State::Prim) && is(0, State::Second))
    }

    /// Somebody serves, ready.
    pub fn is_served(&self) -> bool {
        (0..2).any(|i| self.nodes[i].engine.as_ref().is_some_and(|e| e.state().is_serving() && e.readiness() == Readiness::Ready))
    }

    /// So near to the bounds of the exploration that a way out may lie beyond them.
    pub fn is_at_bounds(&self) -> bool {
        let session = self.nodes.iter().map(|n| n.disk.session.0).max().unwrap_or(0);
        self.record.version.0 + 4 > self.left.version_max || session + 2 > self.left.session_max
    }

    /// A grow is on its way to the arbiter.
    pub fn is_growing(&self) -> bool {
        self.asked.iter().any(|a| matches!(a.request, ArbiterRequest::Grow { .. }))
    }

    /// The second node serves: the role has moved.
    pub fn is_taken_over(&self) -> bool {
        self.nodes[1].engine.as_ref().is_some_and(|e| e.state().is_serving() && e.readiness() == Readiness::Ready)
    }

    /// The node would carry this order out now.
    pub fn accepts(&self, node: usize, verb: &Verb) -> bool {
        self.nodes[node].engine.as_ref().is_some_and(|e| e.refusal(verb).is_none())
    }

    /// One line, for traces.
    pub fn describe(&self) -> String {
        let one = |i: usize| match &self.nodes[i].engine {
            None => {
                let (disk, data) = (&self.nodes[i].disk, &self.nodes[i].data);
                format!("down {:?} e{} s{} disk {:b}", disk.flag, disk.epoch, disk.session, data.disk)
            }
            Some(e) => {
                let data = &self.nodes[i].data;
                format!(
                    "{}({:?}) {:?} e{} s{} memory {:b} disk {:b} right {}",
                    e.state().word(),
                    e.readiness(),
                    e.saved().flag,
                    e.saved().epoch,
                    e.saved().session,
                    data.memory,
                    data.disk,
                    right_word(data.right)
                )
            }
        };
        format!(
            "a: {} | b: {} | record v{} {:?} {:?} | acked {:b} durable {:b} | {}{}",
            one(0),
            one(1),
            self.record.version,
            self.record.owner,
            self.record.in_sync,
            self.acked,
            self.durable,
            if self.is_cut { "cut" } else { "linked" },
            if self.is_connected { ", connected" } else { "" }
        )
    }
}
