//! A whole copy that is interrupted goes on where it was, and is equal in the end: whenever it is interrupted, whatever is done
//! meanwhile, and whatever becomes of the copy.

use super::level::{CHECKPOINTS, Deeds};
use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::os::fd::OwnedFd;

/// Files that are copied, and bytes of each.
const FILES: u64 = 100;
/// See `FILES`.
const BYTES: u64 = 100_000;
/// Slow enough to be interrupted in the middle.
const KB_PER_S: u64 = 4000;

impl Pair {
    /// Files whose copy takes some seconds.
    fn slow(env: &str) -> Self {
        let env = format!("{env} {CHECKPOINTS}");
        let mut pair = Pair::over(&env, &Replicated::default(), Some(KB_PER_S), Duration::from_millis(100), |to| to);
        for n in 0..FILES {
            fs::write(pair.a.dir.join(format!("f{n}")), vec![n as u8 + 1; BYTES as usize]).unwrap();
        }
        pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
        pair
    }

    pub(super) fn begin_copy(&mut self, number: u64) {
        let (epoch, session) = (Epoch(number), Session(number));
        self.ok(Who::A, ReplicaOrder::Offer { epoch, session });
        self.ok(Who::B, ReplicaOrder::Follow { epoch, session });
    }

    /// The whole copy that B's disk speaks of.
    fn checkpoint(&self) -> Option<super::super::level::Level> {
        let root = fs::File::open(&self.b.dir).unwrap();
        super::super::level::read_copying(&[root.into()])
    }

    /// So many bytes were sent.
    fn await_copied(&self, bytes: u64) {
        let begun = Instant::now();
        let is_so = |f: tsugi_core::state::ReplicaFigures| f.resync.is_some_and(|p| p.bytes_copied >= bytes);
        while !self.runtime.block_on(self.a.process.figures()).is_some_and(is_so) {
            assert!(begun.elapsed() < LONG, "the copy did not get that far\n{}", self.logs());
        }
    }

    /// A copy is begun, and so many bytes are sent, or it is level with less.
    pub(super) fn begin_copy_up_to(&mut self, number: u64, bytes: u64) {
        const LEVEL: &str = "the peer is level";
        let levels = self.said("n1.log", LEVEL);
        self.begin_copy(number);
        let begun = Instant::now();
        let is_so = |f: tsugi_core::state::ReplicaFigures| f.resync.is_some_and(|p| p.bytes_copied >= bytes);
        while self.said("n1.log", LEVEL) == levels && !self.runtime.block_on(self.a.process.figures()).is_some_and(is_so) {
            assert!(begun.elapsed() < LONG, "the copy did not get that far\n{}", self.logs());
        }
    }

    /// B is lost when most of it is there.
    fn interrupt(&mut self, number: u64) {
        self.begin_copy(number);
        self.await_copied(FILES * BYTES * 3 / 4);
        self.restart(Who::B, CHECKPOINTS);
        self.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
        assert!(self.checkpoint().is_some(), "no checkpoint was made\n{}", self.logs());
    }

    /// B's directory can be written to by the test.
    pub(super) fn uncover(&self) -> Vec<OwnedFd> {
        let (dir, run) = (self.b.dir.to_str().unwrap(), self.tmp.path().join("n2/run"));
        if super::super::mounts::is_hidden(dir, &run, "m", 0).unwrap() {
            super::super::mounts::unhide(dir, &run, "m", 0).unwrap();
        }
        vec![fs::File::open(dir).unwrap().into()]
    }

    pub(super) fn reached(&self) -> tsugi_core::copies::Reach {
        self.runtime.block_on(self.a.process.figures()).unwrap().reach.unwrap()
    }
}

#[test]
fn an_interrupted_copy_goes_on_where_it_was() {
    let mut pair = Pair::slow("");
    let d = pair.a.dir.clone();
    pair.interrupt(1);
    fs::write(d.join("f3"), "changed").unwrap();
    fs::remove_file(d.join("f4")).unwrap();
    fs::rename(d.join("f5"), d.join("f6")).unwrap();
    fs::write(d.join("new"), "new").unwrap();
    pair.begin_copy(2);
    let (begun, session) = (Instant::now(), Session(2));
    let first = loop {
        assert!(begun.elapsed() < LONG, "{}", pair.logs());
        let figures = pair.runtime.block_on(pair.a.process.figures());
        if let Some(p) = figures.and_then(|f| f.resync).filter(|p| p.bytes_total > 0) {
            break p;
        }
    };
    pair.note(Who::A, "Armed", |n| *n == ReplicaNote::Armed { session });
    pair.note(Who::B, "Level", |n| *n == ReplicaNote::Level { session });
    assert_eq!(pair.reached(), Reach::Rest);
    pair.assert_equal();
    // It neither begins at nothing, nor is what was there before counted as fast.
    assert!(first.bytes_done >= 10 * BYTES && first.bytes_done <= first.bytes_total, "{first:?}");
    assert!(first.rate < KB_PER_S * 4096, "{first:?}");
    let (compared, copied) = (pair.figure("compared"), pair.figure("copied"));
    assert!(compared + copied <= (FILES - 10 + 3) * BYTES, "{compared} bytes compared, {copied} copied");
    assert_eq!(pair.checkpoint(), None, "a copy that is level is not on its way");
}

#[test]
fn what_had_been_noted_and_was_under_way_when_it_is_interrupted_is_looked_at_again() {
    let mut pair = Pair::slow("");
    let d = pair.a.dir.clone();
    pair.begin_copy(1);
    pair.await_copied(FILES * BYTES * 3 / 4);
    // Most of it counts as there by now, and will be under way a second time.
    for n in 0..FILES {
        fs::write(d.join(format!("f{n}")), vec![n as u8 + 101; BYTES as usize]).unwrap();
    }
    pair.await_copied((FILES + 10) * BYTES);
    pair.restart(Who::B, CHECKPOINTS);
    pair.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.arm(2, 2);
    assert_eq!(pair.reached(), Reach::Rest);
    pair.assert_equal();
}

#[test]
fn a_name_of_several_that_is_left_alone_is_not_taken_for_what_was_copied_under_the_other() {
    let mut pair = Pair::slow("");
    let (a, b) = (pair.a.dir.clone(), pair.b.dir.clone());
    for dir in [&a, &b] {
        fs::create_dir(dir.join("other")).unwrap();
    }
    for n in 0..FILES {
        fs::hard_link(a.join(format!("f{n}")), a.join(format!("other/f{n}"))).unwrap();
        // Something else has that name there.
        fs::write(b.join(format!("other/f{n}")), vec![0xee; BYTES as usize]).unwrap();
    }
    pair.begin_copy(1);
    pair.await_copied(FILES * BYTES / 2);
    pair.restart(Who::B, CHECKPOINTS);
    pair.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    (0..FILES).for_each(|n| fs::remove_file(a.join(format!("f{n}"))).unwrap());
    pair.arm(2, 2);
    pair.assert_equal();
}

#[test]
fn what_should_be_there_and_has_nothing_is_copied() {
    let mut pair = Pair::slow("");
    pair.interrupt(1);
    let roots = pair.uncover();
    for n in 0..FILES {
        let file = pair.b.dir.join(format!("f{n}"));
        match n % 3 {
            0 if file.exists() => fs::remove_file(file).unwrap(),
            1 if file.exists() => fs::File::create(file).unwrap().set_len(BYTES).unwrap(),
            _ => {}
        }
    }
    drop(roots);
    pair.arm(2, 2);
    assert_eq!(pair.reached(), Reach::Rest);
    pair.assert_equal();
}

#[test]
fn a_copy_that_is_not_the_one_that_was_interrupted_is_compared_as_a_whole() {
    type Way = (&'static str, fn(&Pair));
    let ways: &[Way] = &[
        ("set back to an earlier checkpoint", |pair| {
            let at = pair.checkpoint().unwrap();
            let roots = pair.uncover();
            super::super::level::write_copying(&roots, super::super::level::Level { flushed: at.flushed / 2, ..at }).unwrap();
        }),
        ("of another whole copy", |pair| {
            let at = pair.checkpoint().unwrap();
            let roots = pair.uncover();
            super::super::level::write_copying(&roots, super::super::level::Level { base: at.base ^ 1, ..at }).unwrap();
        }),
        ("opened for somebody else", |pair| {
            super::super::hold::open(&pair.b.process.config).unwrap();
        }),
    ];
    for (what, way) in ways {
        let mut pair = Pair::slow("");
        pair.interrupt(1);
        way(&pair);
        pair.uncover();
        for n in 0..FILES {
            let file = pair.b.dir.join(format!("f{n}"));
            if file.exists() {
                fs::write(file, "not what it was").unwrap();
            }
        }
        pair.arm(2, 2);
        assert_eq!(pair.reached(), Reach::Whole, "{what}");
        println!("{what}");
        pair.assert_equal();
    }
}

#[test]
fn a_copy_that_served_meanwhile_is_compared_as_a_whole() {
    let mut pair = Pair::slow("");
    pair.interrupt(1);
    // By force: it is half a copy.
    pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(2) });
    for entry in fs::read_dir(&pair.b.dir).unwrap() {
        fs::write(entry.unwrap().path(), "not what it was").unwrap();
    }
    pair.ok(Who::B, ReplicaOrder::Abandon { epoch: Epoch(2) });
    pair.restart(Who::B, CHECKPOINTS);
    pair.arm(3, 3);
    assert_eq!(pair.reached(), Reach::Whole);
    pair.assert_equal();
}

#[test]
fn after_more_changes_than_can_be_named_everything_is_compared() {
    let mut pair = Pair::slow("ulimit -n 2000;");
    let d = pair.a.dir.clone();
    pair.interrupt(1);
    for n in 0..600 {
        fs::write(d.join(format!("new{n}")), "new").unwrap();
    }
    for n in 0..FILES {
        fs::write(d.join(format!("f{n}")), "changed").unwrap();
    }
    pair.arm(2, 2);
    assert_eq!(pair.reached(), Reach::Whole);
    pair.assert_equal();
}

#[test]
fn a_number_that_is_another_files_by_now_is_not_what_was_copied_under_it() {
    let mut pair = Pair::slow("");
    let d = pair.a.dir.clone();
    pair.interrupt(1);
    let numbers = || -> HashMap<u64, PathBuf> {
        fs::read_dir(&d).unwrap().map(|e| e.unwrap()).map(|e| (e.metadata().unwrap().ino(), e.path())).collect()
    };
    let before = numbers();
    (0..FILES).for_each(|n| fs::remove_file(d.join(format!("f{n}"))).unwrap());
    // In another order, so that a number comes to another name, and with contents of the same length.
    for n in (0..FILES).rev() {
        fs::write(d.join(format!("f{n}")), vec![n as u8 + 101; BYTES as usize]).unwrap();
    }
    let after = numbers();
    assert!(after.iter().any(|(n, path)| before.get(n).is_some_and(|b| b != path)), "this file system does not use numbers again");
    pair.arm(2, 2);
    assert_eq!(pair.reached(), Reach::Rest);
    pair.assert_equal();
}

#[test]
fn however_often_and_whenever_a_whole_copy_is_interrupted_it_is_equal_in_the_end() {
    let rounds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    let mut pair = Pair::over(CHECKPOINTS, &Replicated::default(), Some(KB_PER_S), Duration::from_millis(100), |to| to);
    let mut deeds = Deeds { dir: pair.a.dir.clone(), random: StdRng::seed_from_u64(seed.into()), done: 0 };
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    deeds.some(300);
    for n in 0..150 {
        fs::write(deeds.dir.join(format!("file{n}")), vec![n as u8 + 1; 20_000]).unwrap();
    }
    let mut number = 1;
    for round in 0..rounds {
        // What is on the copy is of no known state any more, and some of it is not there.
        let roots = pair.uncover();
        super::super::level::clear(&roots).unwrap();
        for entry in fs::read_dir(&pair.b.dir).unwrap().map(|e| e.unwrap().path()) {
            match deeds.random.random_range(0..4) {
                0 => {}
                _ if entry.is_dir() => fs::remove_dir_all(entry).unwrap(),
                1 if entry.is_file() => fs::write(entry, "something else").unwrap(),
                _ => fs::remove_file(entry).unwrap(),
            }
        }
        drop(roots);
        let breaks = deeds.random.random_range(1..5);
        for _ in 0..breaks {
            let stop = Arc::new(AtomicBool::new(deeds.random.random_range(0..3) == 0));
            let over = stop.clone();
            let mut meanwhile = Deeds { dir: deeds.dir.clone(), random: StdRng::seed_from_u64(deeds.random.random()), done: deeds.done };
            let worker = std::thread::spawn(move || {
                while !over.load(Ordering::Acquire) {
                    meanwhile.next();
                    std::thread::sleep(Duration::from_millis(3));
                }
                meanwhile.done
            });
            number += 1;
            pair.begin_copy_up_to(number, deeds.random.random_range(0..3_000_000));
            if deeds.random.random_range(0..2) == 0 {
                pair.restart(Who::B, CHECKPOINTS);
            } else {
                pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(number) });
            }
            // It may not have got as far as a connection, or be level already.
            pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(number) });
            stop.store(true, Ordering::Release);
            deeds.done = worker.join().unwrap();
            pair.a.held.clear();
            pair.b.held.clear();
            let many = [0, 3, 40][deeds.random.random_range(0..3)];
            deeds.some(many);
        }
        number += 1;
        pair.arm(number, number);
        println!("seed {seed}, round {round}: {:?}", pair.reached());
        pair.assert_equal();
        pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(number) });
        pair.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
        pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(number) });
        deeds.some(20);
    }
    assert!(pair.said("n1.log", "reach=Rest") > 0, "nothing of this went on");
}
