//! The loop by hand, with a pretended group: its control file is an ordinary one.

use super::super::table::Described;
use super::*;
use crate::watchdog::Pretended;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const MS: u64 = 1_000_000;
const NOW: u64 = 100_000 * MS;

struct Bench {
    keeper: Keeper,
    table: Table,
    errands: Receiver<Errand>,
    dog: Pretended,
    group: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let table = Table::create().unwrap();
        let (to, errands) = sync_channel(64);
        let dog = Pretended::default();
        let keeper = Keeper::new(table.clone(), to, Some(Box::new(dog.clone())), NOW);
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join("cgroup.freeze"), "0").unwrap();
        table.slots[3].publish(&Bench::described(group.path()));
        Bench { keeper, table, errands, dog, group }
    }

    fn described(group: &Path) -> Described {
        Described {
            name: "m".into(),
            group: Some((Version::V2, group.display().to_string())),
            grace: Duration::from_millis(500),
            freeze_max: Duration::from_secs(30),
            lifetime: Duration::from_secs(2),
        }
    }

    fn slot(&self) -> &Slot {
        &self.table.slots[3]
    }

    fn round(&mut self, after_ms: u64) -> Next {
        self.keeper.round(NOW + after_ms * MS)
    }

    fn freeze_file(&self) -> String {
        std::fs::read_to_string(self.group.path().join("cgroup.freeze")).unwrap()
    }

    /// What was noted of the module since the last look, and whether its end was ordered.
    fn noted(&self) -> (Vec<Act>, bool) {
        let (mut acts, mut is_kill) = (Vec::new(), false);
        for errand in self.errands.try_iter() {
            match errand {
                Errand::Note { act, name, length, .. } if length > 0 => {
                    assert_eq!(&name[..length], b"m");
                    acts.push(act);
                }
                Errand::Note { .. } => {}
                Errand::Kill { number, .. } => is_kill = number == 3,
            }
        }
        (acts, is_kill)
    }
}

#[test]
fn nothing_happens_before_the_deadline_and_all_at_it() {
    let mut bench = Bench::new();
    bench.slot().set_right(Right::Until(NOW + 20 * MS));
    assert_eq!(bench.round(0), Next::At(NOW + 20 * MS), "it wakes up for the deadline");
    assert_eq!((bench.freeze_file().as_str(), bench.noted()), ("0", (vec![], false)));
    bench.round(20);
    assert_eq!((bench.freeze_file().as_str(), bench.noted()), ("1", (vec![Act::Froze], false)));
    assert_eq!(bench.slot().acted(), Some(NOW + 20 * MS));
    bench.round(29_000);
    assert_eq!(bench.noted(), (vec![], false), "frozen for less than 30 s");
    bench.round(30_020);
    bench.round(30_500);
    assert_eq!(bench.noted(), (vec![], true), "then ended, ordered once");
}

#[test]
fn a_renewed_right_thaws() {
    let mut bench = Bench::new();
    bench.slot().set_right(Right::Until(NOW + 10 * MS));
    bench.round(11);
    assert_eq!(bench.freeze_file(), "1");
    bench.slot().set_right(Right::Until(NOW + 900 * MS));
    bench.round(12);
    assert_eq!((bench.freeze_file().as_str(), bench.slot().acted()), ("0", None));
    assert_eq!(bench.noted(), (vec![Act::Froze, Act::Thawed], false));
    bench.round(900);
    assert_eq!(bench.freeze_file(), "1");
    bench.slot().set_right(Right::Alone);
    bench.round(950);
    assert_eq!(bench.freeze_file(), "0");
}

#[test]
fn a_later_deadline_is_frozen_for_anew_whatever_was_frozen_before() {
    let mut bench = Bench::new();
    bench.slot().set_right(Right::Until(NOW + 10 * MS));
    bench.round(11);
    assert_eq!(bench.freeze_file(), "1");
    // Renewed, thawed by the agent, and over again between two looks.
    std::fs::write(bench.group.path().join("cgroup.freeze"), "0").unwrap();
    bench.slot().set_acted(None);
    bench.slot().set_right(Right::Until(NOW + 60 * MS));
    bench.round(70);
    assert_eq!((bench.freeze_file().as_str(), bench.slot().acted()), ("1", Some(NOW + 60 * MS)));
    assert_eq!(bench.noted(), (vec![Act::Froze, Act::Froze], false));
    bench.slot().set_right(Right::Until(NOW + 900 * MS));
    bench.round(80);
    assert_eq!(bench.freeze_file(), "0");
}

#[test]
fn what_the_agent_shut_is_its_own_to_freeze_and_to_thaw() {
    let mut bench = Bench::new();
    bench.slot().set_right(Right::Shut);
    bench.round(0);
    bench.slot().set_right(Right::Until(NOW + 10 * MS));
    bench.round(11);
    assert_eq!(bench.freeze_file(), "1");
    bench.slot().set_right(Right::Shut);
    std::fs::write(bench.group.path().join("cgroup.freeze"), "0").unwrap(); // the agent, before a stop script
    for after in 12..200 {
        bench.round(after);
    }
    assert_eq!(bench.freeze_file(), "0");
    assert!(bench.slot().acted().is_some(), "the agent is told that it was frozen");
    assert!(!bench.slot().is_busy());
}

#[test]
fn alone_nothing_is_done_however_long_the_agent_is_gone() {
    let mut bench = Bench::new();
    bench.slot().set_right(Right::Alone);
    for hours in 1..48 {
        assert!(matches!(bench.round(hours * 3_600_000), Next::At(_)));
    }
    assert_eq!((bench.freeze_file().as_str(), bench.noted().1), ("0", false));
}

#[test]
fn the_watchdog_starves_only_when_a_module_cannot_be_stopped_and_the_reason_is_noted_first() {
    let mut bench = Bench::new();
    let pets = |bench: &Bench| bench.dog.pets.load(Ordering::Relaxed);
    bench.slot().set_right(Right::Until(NOW + 10 * MS));
    bench.round(0);
    bench.round(600);
    assert_eq!(pets(&bench), 2, "frozen in time: no reason to restart a machine");
    bench.noted();
    // A control file that cannot be written: the module cannot be frozen.
    let file = bench.group.path().join("cgroup.freeze");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    bench.slot().unpublish();
    bench.round(700);
    bench.slot().publish(&Bench::described(bench.group.path()));
    bench.slot().set_right(Right::Until(NOW + 800 * MS));
    for (after, expected) in [(810, 4), (1200, 5), (1310, 6), (1400, 6), (9000, 6)] {
        bench.round(after);
        assert_eq!(pets(&bench), expected, "after {after} ms");
    }
    assert_eq!(bench.noted().0, vec![Act::Froze, Act::CannotFreeze, Act::Starves]);
    // Entitled again before the machine restarted: it goes on.
    bench.slot().set_right(Right::Alone);
    std::fs::remove_dir(&file).unwrap();
    bench.round(9100);
    assert_eq!(pets(&bench), 7);
    bench.table.head.end();
    assert_eq!(bench.round(9200), Next::End);
    assert_eq!(bench.dog.disarmed.load(Ordering::Relaxed), 1);
}

#[test]
fn with_nothing_to_keep_and_no_agent_it_ends() {
    let mut bench = Bench::new();
    bench.keeper.watchdog = None;
    bench.slot().set_right(Right::Shut);
    assert!(matches!(bench.round(20_000), Next::At(_)));
    // The agent's last sign of life is that of the real clock, long before.
    assert_eq!(bench.round(200_000_000_000 / 1000), Next::End);
}
