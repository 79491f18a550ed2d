//! Equal situations are equal values, and values have short fingerprints.

use super::World;
use super::data::Right;
use std::hash::{Hash, Hasher};
use tsugi_core::engine::Timer;

impl World {
    pub(super) fn normalise(&mut self) {
        for i in 0..2 {
            let owed = self.acked & !self.durable;
            if self.nodes[i].lost & !owed != 0 {
                self.node_mut(i).lost &= owed;
            }
            let o = 1 - i;
            // Numbers of node i's beats, wherever they stand, become their ranks.
            let mut all = vec![0, self.nodes[i].expired, self.nodes[i].sent, self.nodes[o].heard, self.nodes[o].boundary];
            all.extend(self.net[i].as_ref().map(|f| f.ticket));
            all.extend(self.net[o].as_ref().map(|f| f.answers));
            all.extend(self.nodes[i].timers.get(&Timer::PromiseHeld));
            all.extend(self.nodes[o].timers.get(&Timer::PromiseGiven));
            if let Right::Until(ticket) = self.nodes[i].data.right {
                all.push(ticket);
            }
            all.sort_unstable();
            all.dedup();
            let is_ranked = all.iter().enumerate().all(|(i, n)| i as u32 == *n);
            let is_idle = self.nodes[o].boundary == 0 || self.nodes[o].timers.contains_key(&Timer::Quarantine);
            if is_ranked && is_idle {
                continue;
            }
            let rank = |n: u32| all.iter().position(|x| *x == n).unwrap_or(0) as u32;
            let mine = self.node_mut(i);
            (mine.expired, mine.sent) = (rank(mine.expired), rank(mine.sent));
            let other = self.node_mut(o);
            (other.heard, other.boundary) = (rank(other.heard), rank(other.boundary));
            if let Some(flying) = &mut self.net[i] {
                flying.ticket = rank(flying.ticket);
            }
            if let Some(flying) = &mut self.net[o] {
                flying.answers = rank(flying.answers);
            }
            if let Some(since) = self.node_mut(i).timers.get_mut(&Timer::PromiseHeld) {
                *since = rank(*since);
            }
            if let Some(since) = self.node_mut(o).timers.get_mut(&Timer::PromiseGiven) {
                *since = rank(*since);
            }
            if let Right::Until(ticket) = self.nodes[i].data.right {
                self.node_mut(i).data.right = Right::Until(rank(ticket));
            }
            if !self.nodes[o].timers.contains_key(&Timer::Quarantine) {
                self.node_mut(o).boundary = 0;
            }
        }
    }

    /// The same of what the protocol knows: engines, their running timers and rights with the beats these count from,
    /// records, requests and beats on their way. Not of what this search may still use up, and not of the data processes
    /// and who holds which write: worlds that differ in nothing else are one situation.
    pub fn fingerprint_of_protocol(&self) -> u64 {
        let mut hasher = Wide { low: 0x9e37_79b9_7f4a_7c15, high: 0xc2b2_ae3d_27d4_eb4f };
        for node in &self.nodes {
            (&node.engine, &node.disk).hash(&mut hasher);
            (&node.timers, node.heard, node.sent, node.expired, node.boundary, node.data.right).hash(&mut hasher);
        }
        (&self.record, &self.asked, &self.net, self.is_cut).hash(&mut hasher);
        mix(hasher.low ^ mix(hasher.high))
    }

    /// A 128-bit fingerprint.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = Wide { low: 0x9e37_79b9_7f4a_7c15, high: 0xc2b2_ae3d_27d4_eb4f };
        self.hash(&mut hasher);
        (u128::from(mix(hasher.high)) << 64) | u128::from(mix(hasher.low ^ hasher.high.rotate_left(32)))
    }
}

/// Two lanes of multiply and rotate: the worlds of one search are no adversary, and their number is far below 2^64.
struct Wide {
    low: u64,
    high: u64,
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        self.low
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.write_u64(u64::from_le_bytes(rest) ^ (bytes.len() as u64) << 56);
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value) | 0x0100);
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.low = (self.low.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.high = (self.high ^ value).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(29).wrapping_add(self.low);
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}
