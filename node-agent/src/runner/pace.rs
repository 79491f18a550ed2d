//! How fast replication goes, over some seconds: what a person reads, and no more often than is news.

use std::time::{Duration, Instant};
use tsugi_core::state::{ReplicaFigures, Replication, Traffic};

/// Over which rates are taken.
const WINDOW: Duration = Duration::from_secs(5);

/// The figures at the beginning of the window, and what the one before came to.
#[derive(Debug, Default)]
pub(super) struct Pace {
    begin: Option<(Instant, ReplicaFigures)>,
    now: Traffic,
}

impl Pace {
    /// Takes up the newest figures. `None`: nothing is replicated at this moment.
    pub fn look(&mut self, figures: Option<&ReplicaFigures>, replication: Replication, now: Instant) -> Option<Traffic> {
        let Some(figures) =
            figures.filter(|_| matches!(replication, Replication::Synchronous | Replication::Resync | Replication::Stalled))
        else {
            *self = Pace::default();
            return None;
        };
        let (at, before) = self.begin.get_or_insert_with(|| (now, figures.clone()));
        let over = now.saturating_duration_since(*at);
        // Counts begin anew with a session, and with a process.
        let is_anew = figures.bytes < before.bytes || figures.confirmed < before.confirmed;
        if is_anew {
            self.begin = Some((now, figures.clone()));
        } else if over >= WINDOW {
            // Two nodes that have nothing to say ask one another twice a second whether they are there.
            let is_idle = replication == Replication::Synchronous && figures.last == before.last;
            let bytes = if is_idle { 0 } else { figures.bytes - before.bytes };
            let confirmed = figures.confirmed - before.confirmed;
            let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
            self.now.bytes_per_s = coarse(bytes.saturating_mul(1000) / millis);
            self.now.confirm_us = figures.confirmed_us.saturating_sub(before.confirmed_us).checked_div(confirmed).map(coarse);
            let contents = figures.contents.saturating_sub(before.contents);
            let travelled = figures.travelled.saturating_sub(before.travelled);
            self.now.compressed_percent = (contents > 0).then(|| travelled.saturating_mul(100).div_ceil(contents));
            self.begin = Some((now, figures.clone()));
        }
        Some(Traffic { waiting_s: figures.waiting_ms / 1000, ..self.now })
    }
}

/// Two digits and zeros: what lies behind them is noise, and a change of it no news.
fn coarse(n: u64) -> u64 {
    let unit = 10_u64.pow(n.checked_ilog10().unwrap_or(0).saturating_sub(1));
    n / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::Lsn;

    fn figures(bytes: u64, confirmed: u64, confirmed_us: u64, waiting_ms: u64) -> ReplicaFigures {
        ReplicaFigures { last: Lsn(confirmed), bytes, confirmed, confirmed_us, waiting_ms, ..ReplicaFigures::default() }
    }

    #[test]
    fn rates_are_those_of_the_last_whole_window() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let mut look = |figures: &ReplicaFigures, s: u64| {
            pace.look(Some(figures), Replication::Synchronous, begin + Duration::from_secs(s)).expect("replicated")
        };
        assert_eq!(look(&figures(100, 0, 0, 0), 0), Traffic::default());
        assert_eq!(look(&figures(9_000_000, 100, 100, 0), 2), Traffic::default(), "the window is not over");
        let first = look(&figures(61_728_495, 1000, 1_234_567, 0), 5);
        assert_eq!(first, Traffic { bytes_per_s: 12_000_000, confirm_us: Some(1200), ..Traffic::default() });
        assert_eq!(look(&figures(61_728_495, 1000, 1_234_567, 7100), 9), Traffic { waiting_s: 7, ..first }, "a write waits: at once");
        let idle = look(&figures(61_730_000, 1000, 1_234_567, 0), 10);
        assert_eq!(idle, Traffic::default());
        // Another session.
        look(&figures(50, 1000, 1_234_567, 0), 12);
        let other = look(&figures(50 + 5000, 1001, 1_234_577, 0), 17);
        assert_eq!(other, Traffic { bytes_per_s: 1000, confirm_us: Some(10), ..Traffic::default() });
    }

    #[test]
    fn what_compression_saves_is_that_of_the_last_window() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let mut look = |contents, travelled, s: u64| {
            let figures = ReplicaFigures { contents, travelled, ..figures(travelled, 0, 0, 0) };
            let traffic = pace.look(Some(&figures), Replication::Resync, begin + Duration::from_secs(s));
            traffic.expect("replicated").compressed_percent
        };
        assert_eq!(look(0, 0, 0), None);
        assert_eq!(look(10_000_000, 3_200_000, 5), Some(32));
        assert_eq!(look(10_000_000, 3_200_000, 9), Some(32), "the window is not over");
        assert_eq!(look(11_000_000, 4_200_000, 10), Some(100));
        assert_eq!(look(11_000_000, 4_200_000, 15), None, "nothing was sent");
        assert_eq!(look(21_000_000, 4_201_000, 20), Some(1));
        // Another session.
        look(0, 0, 21);
        assert_eq!(look(1000, 500, 26), Some(50));
    }

    #[test]
    fn where_nothing_is_replicated_nothing_is_said() {
        let mut pace = Pace::default();
        assert_eq!(pace.look(Some(&figures(1, 0, 0, 0)), Replication::Off, Instant::now()), None);
        assert_eq!(pace.look(None, Replication::Synchronous, Instant::now()), None);
    }

    #[test]
    fn two_digits_are_kept() {
        assert_eq!([0, 7, 10, 99, 129, 98_765].map(coarse), [0, 7, 10, 99, 120, 98_000]);
    }
}
