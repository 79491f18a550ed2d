//! Which datagrams of the other side count: the pure part of the receiver.
//!
//! * One life of the other side is current. Of it, a datagram counts only if its number is newer than the newest
//!   of that network, and a beat is handed on only if it is newer than the newest handed on.
//! * A new life replaces the current one only after it has *proved* to be alive now, by naming a datagram this
//!   side sent in its own present life after the current life was taken on. A recorded datagram cannot do that,
//!   so a replay can neither speak for the other side nor push out its true life, even right after a restart here.
//! * A replaced life never comes back, though its process may still run for a moment.

use super::codec::{Echo, Refused};
use std::collections::{HashMap, VecDeque};
use tsugi_core::ids::LifeId;

/// Replaced lives remembered. The proof alone already shuts out recorded ones; this is for two live processes.
const RETIRED_MAX: usize = 64;

/// Why an authentic datagram does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Could not be opened.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A life that was replaced.
    #[error("of a life that was replaced")]
    OldLife,
    /// Not newer than what arrived on the same network.
    #[error("repeated or overtaken")]
    Repeated,
    /// The names inside are not those of the other side.
    #[error("of another node or module")]
    Foreign,
}

/// What to do with an authentic datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts for its network; a beat in it is handed on if [`Order::is_newer`].
    Counts,
    /// As `Counts`; and with it this life became the current one.
    NewLife,
    /// Of a life that has not proved to be alive: ask for a proof.
    Unproven,
    /// Drop it.
    Ignored(Ignored),
}

/// State of the receiver.
#[derive(Debug)]
pub struct Order {
    own_life: LifeId,
    /// Own counter before the first datagram of this receiver's link.
    own_begin: u64,
    current: Option<Current>,
    retired: VecDeque<LifeId>,
}

#[derive(Debug)]
struct Current {
    life: LifeId,
    /// Own counter when this life was taken on: a successor must name a later datagram.
    since_counter: u64,
    /// Newest beat handed on.
    handed_on: u64,
    /// Newest datagram per network.
    newest: HashMap<usize, u64>,
}

impl Order {
    /// A receiver in the life `own_life` that has heard nothing yet; this side's datagrams are numbered above
    /// `own_begin`.
    pub fn new(own_life: LifeId, own_begin: u64) -> Order {
        Order { own_life, own_begin, current: None, retired: VecDeque::new() }
    }

    /// The life of the other side that counts now.
    pub fn life(&self) -> Option<LifeId> {
        self.current.as_ref().map(|c| c.life)
    }

    /// Judges datagram `counter` of `life` that arrived on `network`. `own_counter` is the number of the datagram
    /// this side sent last.
    pub fn judge(&mut self, network: usize, life: LifeId, counter: u64, echo: Option<&Echo>, own_counter: u64) -> Verdict {
        if self.retired.contains(&life) {
            return Verdict::Ignored(Ignored::OldLife);
        }
        if let Some(current) = self.current.as_mut().filter(|c| c.life == life) {
            let newest = current.newest.entry(network).or_insert(0);
            if counter <= *newest {
                return Verdict::Ignored(Ignored::Repeated);
            }
            *newest = counter;
            return Verdict::Counts;
        }
        let since = self.current.as_ref().map_or(self.own_begin, |c| c.since_counter);
        let is_proven = echo.is_some_and(|e| e.life == self.own_life && e.counter > since && e.counter <= own_counter);
        if !is_proven {
            return Verdict::Unproven;
        }
        if let Some(old) = self.current.take() {
            if self.retired.len() == RETIRED_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back(old.life);
        }
        self.current = Some(Current { life, since_counter: own_counter, handed_on: 0, newest: HashMap::from([(network, counter)]) });
        Verdict::NewLife
    }

    /// Beat `seq` of `life` is newer than every beat handed on.
    pub fn is_newer(&self, life: LifeId, seq: u64) -> bool {
        self.current.as_ref().is_some_and(|c| c.life == life && seq > c.handed_on)
    }

    /// Beat `seq` of `life` was handed on.
    pub fn handed_on(&mut self, life: LifeId, seq: u64) {
        if let Some(current) = self.current.as_mut().filter(|c| c.life == life) {
            current.handed_on = current.handed_on.max(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: LifeId = LifeId(1);
    fn echo(counter: u64) -> Echo {
        Echo { life: OWN, counter, sent_ns: 0, held_ns: 0 }
    }

    #[test]
    fn a_life_counts_only_after_it_named_a_datagram_of_this_life() {
        let mut order = Order::new(OWN, 0);
        let life = LifeId(7);
        assert_eq!(order.judge(0, life, 10, None, 5), Verdict::Unproven);
        let of_older_life = Echo { life: LifeId(2), ..echo(5) };
        assert_eq!(order.judge(0, life, 11, Some(&of_older_life), 5), Verdict::Unproven);
        assert_eq!(order.judge(0, life, 12, Some(&echo(6)), 5), Verdict::Unproven, "named a datagram that was never sent");
        assert_eq!(order.judge(0, life, 13, Some(&echo(5)), 5), Verdict::NewLife);
        assert_eq!(order.judge(0, life, 14, None, 5), Verdict::Counts);
        assert_eq!(order.judge(0, life, 14, None, 5), Verdict::Ignored(Ignored::Repeated));
        assert_eq!(order.judge(1, life, 13, None, 5), Verdict::Counts, "another network counts by itself");
    }

    #[test]
    fn a_replaced_life_never_comes_back() {
        let mut order = Order::new(OWN, 0);
        assert_eq!(order.judge(0, LifeId(7), 1, Some(&echo(5)), 5), Verdict::NewLife);
        assert_eq!(order.judge(0, LifeId(8), 1, Some(&echo(5)), 9), Verdict::Unproven, "named nothing since the last change");
        assert_eq!(order.judge(0, LifeId(8), 2, Some(&echo(9)), 9), Verdict::NewLife);
        assert_eq!(order.judge(0, LifeId(7), 99, Some(&echo(10)), 10), Verdict::Ignored(Ignored::OldLife));
        assert_eq!(order.life(), Some(LifeId(8)));
    }

    #[test]
    fn a_recording_of_a_forgotten_life_proves_nothing() {
        let mut order = Order::new(OWN, 0);
        for life in 0..=(RETIRED_MAX as u64 + 5) {
            assert_eq!(order.judge(0, LifeId(100 + u128::from(life)), 1, Some(&echo(life + 1)), life + 1), Verdict::NewLife);
        }
        assert_eq!(order.judge(0, LifeId(100), 2, Some(&echo(1)), 90), Verdict::Unproven);
    }

    #[test]
    fn a_recording_from_an_earlier_link_of_the_same_life_proves_nothing() {
        let mut order = Order::new(OWN, 1000);
        assert_eq!(order.judge(0, LifeId(7), 1, Some(&echo(1000)), 1005), Verdict::Unproven);
        assert_eq!(order.judge(0, LifeId(7), 1, Some(&echo(1001)), 1005), Verdict::NewLife);
    }

    #[test]
    fn beats_are_handed_on_in_order_only() {
        let mut order = Order::new(OWN, 0);
        let life = LifeId(7);
        assert!(!order.is_newer(life, 1), "unknown life");
        order.judge(0, life, 1, Some(&echo(1)), 1);
        assert!(order.is_newer(life, 3));
        order.handed_on(life, 3);
        assert!(!order.is_newer(life, 2));
        assert!(!order.is_newer(life, 3));
        assert!(order.is_newer(life, 4));
    }
}
