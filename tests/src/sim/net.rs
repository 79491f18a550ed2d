//! Lines between the hosts and to the arbiter, each direction by itself.

use super::rng::Rng;

/// A millisecond of virtual time.
pub const MS: u64 = 1_000_000;
/// A second of virtual time.
pub const S: u64 = 1_000_000_000;
/// Hosts at most.
pub const HOSTS_MAX: usize = 5;
/// Networks for heartbeats at most; the first one carries the replication, too.
pub const LANS_MAX: usize = 2;

/// One direction of one line.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Nothing passes while above zero: cuts may overlap.
    pub cuts: u32,
    /// Per mille lost.
    pub loss: u64,
    /// Per mille that arrive twice.
    pub twice: u64,
    /// Shortest time under way.
    pub delay_min: u64,
    /// Longest; what is between reorders.
    pub delay_max: u64,
}

/// A good local network.
pub const GOOD: Line = Line { cuts: 0, loss: 0, twice: 0, delay_min: MS / 10, delay_max: MS };

impl Line {
    /// Something can pass.
    pub fn is_open(&self) -> bool {
        self.cuts == 0
    }
    /// Time under way of a datagram, `None` if it is lost.
    pub fn datagram(&self, rng: &mut Rng) -> Option<u64> {
        if self.cuts > 0 || self.loss > 0 && rng.chance(self.loss) {
            return None;
        }
        Some(self.delay(rng))
    }
    /// Time under way without loss.
    pub fn delay(&self, rng: &mut Rng) -> u64 {
        rng.range(self.delay_min, self.delay_max)
    }
    /// Time until a part of a stream arrives: lost pieces are sent again, later each time.
    pub fn stream(&self, rng: &mut Rng) -> u64 {
        let mut time = self.delay(rng);
        let mut again = 200 * MS;
        while self.loss > 0 && rng.chance(self.loss) && again < 5 * S {
            time += again;
            again *= 2;
        }
        time
    }
}

/// All lines.
#[derive(Debug, Clone)]
pub struct Net {
    /// `lans[lan][from][to]`.
    pub lans: [[[Line; HOSTS_MAX]; HOSTS_MAX]; LANS_MAX],
    /// From a host to the arbiter.
    pub to_arbiter: [Line; HOSTS_MAX],
    /// And back.
    pub from_arbiter: [Line; HOSTS_MAX],
}

impl Net {
    /// Everything whole.
    pub fn new() -> Net {
        let lan = [[GOOD; HOSTS_MAX]; HOSTS_MAX];
        Net { lans: [lan; LANS_MAX], to_arbiter: [GOOD; HOSTS_MAX], from_arbiter: [GOOD; HOSTS_MAX] }
    }
    /// The direction of the replication's network.
    pub fn replication(&self, from: usize, to: usize) -> &Line {
        &self.lans[0][from][to]
    }
    /// A connection between two hosts can be made.
    pub fn is_connected(&self, a: usize, b: usize) -> bool {
        self.replication(a, b).is_open() && self.replication(b, a).is_open()
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}
