//! A peer that comes back is compared in what changed, and is equal afterwards, whatever was done and whenever it left.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Random things done with a few names, so that they meet.
pub(super) struct Deeds {
    pub(super) dir: PathBuf,
    pub(super) random: StdRng,
    pub(super) done: u64,
}

impl Deeds {
    fn path(&mut self) -> PathBuf {
        let mut path = self.dir.clone();
        for _ in 0..self.random.random_range(0..3) {
            path.push(format!("d{}", self.random.random_range(0..2)));
        }
        path.join(format!("n{}", self.random.random_range(0..4)))
    }

    fn subdir(&mut self) -> PathBuf {
        let mut path = self.path();
        path.set_file_name(format!("d{}", self.random.random_range(0..2)));
        path
    }

    /// One deed. Many cannot be done, and that is no matter.
    pub(super) fn next(&mut self) {
        self.done += 1;
        let (one, other) = (self.path(), self.path());
        let (text, at) = (vec![self.done as u8; self.random.random_range(1..90_000)], self.random.random_range(0..300_000));
        let open = |path: &Path| fs::OpenOptions::new().read(true).write(true).open(path);
        let _ = match self.random.random_range(0..24) {
            0..4 => open(&one).and_then(|f| f.write_all_at(&text, at)),
            4..7 => fs::write(&one, &text),
            7 => open(&one).and_then(|f| {
                let length = f.metadata()?.len();
                f.set_len(at)?;
                if at % 2 == 0 { f.set_len(length) } else { Ok(()) }
            }),
            8 => fs::OpenOptions::new().append(true).open(&one).and_then(|mut f| f.write_all(&text[..text.len().min(100)])),
            9..11 => fs::create_dir_all(self.subdir()),
            11 => fs::remove_dir_all(self.subdir()),
            12..14 => fs::remove_file(&one),
            14..16 => fs::rename(&one, &other),
            16 => {
                let to = self.subdir();
                fs::rename(self.subdir(), to)
            }
            17..19 => fs::hard_link(&one, &other),
            19 => symlink(text.len().to_string(), &one),
            20 => fs::set_permissions(&one, fs::Permissions::from_mode(0o600 + (self.done as u32 & 0o77))),
            21 => {
                let path = volume::cstr(one.as_os_str().as_encoded_bytes()).and_then(|c| volume::open_path_at(libc::AT_FDCWD, &c));
                path.and_then(|fd| volume::set_xattr(fd.as_raw_fd(), c"user.n", self.done.to_string().as_bytes(), 0))
            }
            22 => open(&one).and_then(|f| {
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                volume::fallocate(f.as_raw_fd(), punch, at / 2, 70_000)
            }),
            _ => open(&one).and_then(|f| {
                f.write_all_at(&text, 0)?;
                let _ = fs::remove_file(&one);
                f.write_all_at(&text, at)?;
                f.sync_all()
            }),
        };
    }

    pub(super) fn some(&mut self, count: u64) {
        (0..count).for_each(|_| self.next());
    }
}

impl Pair {
    /// What was done until now is flushed at the peer, and the source knows: two checkpoints have ended since, and a third
    /// one has begun.
    pub(super) fn await_checkpoints(&self) {
        let (mut flushed, mut seen, begun) = (self.b_flushed(), 0, Instant::now());
        while seen < 3 {
            fs::write(self.a.dir.join("tick"), begun.elapsed().as_nanos().to_string()).unwrap();
            let now = self.b_flushed();
            (flushed, seen) = (now, seen + u32::from(now > flushed));
            assert!(begun.elapsed() < LONG, "no checkpoint");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The peer is done without, and comes back in another session.
    fn lose_b_and_arm(&mut self, session: u64, env: &str, meanwhile: impl FnOnce(&Self)) {
        self.restart(Who::B, env);
        self.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
        self.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(session) });
        meanwhile(self);
        self.arm(session, session);
    }

    /// The last operation the peer has flushed for certain.
    fn b_flushed(&self) -> u64 {
        let root = fs::File::open(&self.b.dir).unwrap();
        super::super::level::read(&[root.into()]).map_or(0, |level| level.flushed)
    }

    fn copied(&self) -> u64 {
        let logs = fs::read_to_string(self.tmp.path().join("n1.log")).unwrap();
        let last = logs.lines().rfind(|line| line.contains("the peer is level")).unwrap().to_owned();
        last.rsplit_once("copied=").unwrap().1.trim().parse().unwrap()
    }

    fn reach(&self) -> String {
        format!("{:?}", self.reached())
    }
}

pub(super) const CHECKPOINTS: &str = "TSUGI_TEST_CHECKPOINTS=1";

#[test]
fn whatever_is_done_before_and_while_a_peer_is_away_it_is_equal_when_it_is_back() {
    let rounds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    let mut pair = Pair::over(CHECKPOINTS, &Replicated::default(), None, Duration::from_millis(100), |to| to);
    let mut deeds = Deeds { dir: pair.a.dir.clone(), random: StdRng::seed_from_u64(seed.into()), done: 0 };
    pair.serve_and_arm(1, 1);
    deeds.some(300);
    for round in 2..2 + rounds {
        // Few deeds show a mark that is missing, for others of the same file hide it; many show what they do together.
        let most = [4, 30, 250][deeds.random.random_range(0..3)];
        let (before, many) = (deeds.random.random_range(0..most), deeds.random.random_range(0..most));
        deeds.some(before);
        if deeds.random.random_range(0..4) == 0 {
            pair.restart(Who::B, CHECKPOINTS);
        } else {
            pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(round) });
        }
        pair.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
        pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(round) });
        deeds.some(many);
        // Some of it is done while the peer is being brought level.
        let stop = Arc::new(AtomicBool::new(deeds.random.random_range(0..3) > 0));
        let (over, seed_then) = (stop.clone(), u64::from(seed) << 8 | round);
        let mut meanwhile = Deeds { dir: deeds.dir.clone(), random: StdRng::seed_from_u64(seed_then), done: deeds.done };
        let worker = std::thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                meanwhile.next();
                std::thread::sleep(Duration::from_millis(1));
            }
            meanwhile.done
        });
        pair.arm(round, round);
        stop.store(true, Ordering::Release);
        deeds.done = worker.join().unwrap();
        assert_eq!(pair.reach(), "Noted", "seed {seed}, round {round}");
        deeds.some(before / 2);
        pair.assert_equal();
    }
}

#[test]
fn a_peer_that_returns_gets_what_changed_and_nothing_else() {
    let mut pair = Pair::with(CHECKPOINTS);
    let d = pair.a.dir.clone();
    for n in 0..200 {
        fs::write(d.join(format!("file{n}")), vec![n as u8; 200_000]).unwrap();
    }
    pair.serve_and_arm(1, 1);
    fs::write(d.join("before"), "x").unwrap();
    // What was flushed there is not compared again.
    pair.await_checkpoints();
    pair.lose_b_and_arm(2, CHECKPOINTS, |pair| {
        let file = fs::OpenOptions::new().write(true).open(pair.a.dir.join("file7")).unwrap();
        file.write_all_at(b"changed", 150_000).unwrap();
        fs::remove_file(pair.a.dir.join("file8")).unwrap();
        fs::write(pair.a.dir.join("new"), vec![1; 10_000]).unwrap();
    });
    assert_eq!(pair.reach(), "Noted");
    assert!(pair.copied() <= 2 * 65_536, "{} bytes", pair.copied());
    pair.assert_equal();
    // A file that nobody touched on the serving side was not looked at: the comparison would find this.
    fs::remove_file(d.join("file9")).unwrap();
    pair.assert_equal();
}

#[test]
fn a_copy_that_was_set_back_is_compared_as_a_whole() {
    let mut pair = Pair::with(CHECKPOINTS);
    // Opened before it is covered.
    let roots = [std::os::fd::OwnedFd::from(fs::File::open(&pair.b.dir).unwrap())];
    pair.serve_and_arm(1, 1);
    fs::write(pair.a.dir.join("file"), "one").unwrap();
    let level = |roots: &[std::os::fd::OwnedFd]| super::super::level::read(roots).unwrap();
    pair.await_checkpoints();
    let (dir, root, run) = (pair.b.dir.clone(), roots, pair.tmp.path().join("n2/run"));
    pair.lose_b_and_arm(2, CHECKPOINTS, |_| {
        // As if its disk were of an earlier time of the same session: an older file, an older word.
        if super::super::mounts::is_hidden(dir.to_str().unwrap(), &run, "m", 0).unwrap() {
            super::super::mounts::unhide(dir.to_str().unwrap(), &run, "m", 0).unwrap();
        }
        fs::write(dir.join("file"), "set back").unwrap();
        super::super::level::write(&root, super::super::level::Level { flushed: 0, ..level(&root) }).unwrap();
    });
    assert_eq!(pair.reach(), "Whole");
    pair.assert_equal();
}

#[test]
fn after_an_orderly_hand_over_nothing_is_compared_but_what_was_done_since() {
    let mut pair = Pair::with("");
    for n in 0..50 {
        fs::write(pair.a.dir.join(format!("file{n}")), vec![n as u8; 100_000]).unwrap();
    }
    pair.serve_and_arm(1, 1);
    fs::write(pair.a.dir.join("live"), "live").unwrap();
    pair.ok(Who::A, ReplicaOrder::Release { epoch: Epoch(1) });
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
    pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(2) });
    fs::write(pair.b.dir.join("since"), "since").unwrap();
    fs::remove_file(pair.b.dir.join("file3")).unwrap();
    let (epoch, session) = (Epoch(2), Session(2));
    pair.ok(Who::B, ReplicaOrder::Offer { epoch, session });
    pair.ok(Who::A, ReplicaOrder::Follow { epoch, session });
    pair.note(Who::B, "Armed", |n| *n == ReplicaNote::Armed { session });
    let logs = fs::read_to_string(pair.tmp.path().join("n2.log")).unwrap();
    assert!(logs.contains("reach=Noted") && !logs.contains("reach=Whole"), "{logs}");
    pair.assert_equal();
}

/// A file with several names, and each way in which one of them may come to lead to another file.
#[test]
fn a_name_that_comes_to_lead_to_another_file_takes_nothing_from_the_first() {
    type Way = (&'static str, fn(&Path));
    let ways: &[Way] = &[
        ("removed, and another one made that gets a second name too", |d| {
            fs::remove_file(d.join("c/x")).unwrap();
            fs::write(d.join("c/x"), "another").unwrap();
            fs::hard_link(d.join("c/x"), d.join("a/z")).unwrap();
        }),
        ("replaced by a rename", |d| {
            fs::write(d.join("a/new"), "another").unwrap();
            fs::hard_link(d.join("a/new"), d.join("a/z")).unwrap();
            fs::rename(d.join("a/new"), d.join("c/x")).unwrap();
        }),
        ("exchanged", |d| {
            let c = |p: PathBuf| volume::cstr(p.as_os_str().as_encoded_bytes()).unwrap();
            fs::write(d.join("a/z"), "another").unwrap();
            volume::rename(libc::AT_FDCWD, &c(d.join("c/x")), libc::AT_FDCWD, &c(d.join("a/z")), libc::RENAME_EXCHANGE).unwrap();
        }),
        ("moved with its directory, a new one in its place", |d| {
            fs::rename(d.join("c"), d.join("a/c")).unwrap();
            fs::create_dir(d.join("c")).unwrap();
            fs::write(d.join("c/x"), "another").unwrap();
            fs::hard_link(d.join("c/x"), d.join("a/z")).unwrap();
        }),
    ];
    let mut pair = Pair::over(CHECKPOINTS, &Replicated::default(), None, Duration::from_millis(100), |to| to);
    pair.serve_and_arm(1, 1);
    for (session, (what, way)) in (2..).zip(ways) {
        let d = pair.a.dir.join(session.to_string());
        for dir in ["a", "b", "c"] {
            fs::create_dir_all(d.join(dir)).unwrap();
        }
        fs::write(d.join("c/x"), "the first one").unwrap();
        fs::hard_link(d.join("c/x"), d.join("b/y")).unwrap();
        // All of it is flushed at the peer: only what happens now is noted.
        pair.await_checkpoints();
        pair.lose_b_and_arm(session, CHECKPOINTS, |_| way(&d));
        assert_eq!(pair.reach(), "Noted", "{what}");
        println!("{what}");
        pair.assert_equal();
    }
}

#[test]
fn a_change_of_a_range_too_large_to_be_noted_is_noted_all_the_same() {
    let mut pair = Pair::with(CHECKPOINTS);
    let file = pair.a.dir.join("file");
    fs::write(&file, vec![1; 300_000]).unwrap();
    pair.serve_and_arm(1, 1);
    pair.lose_b_and_arm(2, CHECKPOINTS, |_| {
        let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
        // More than any file system here takes; nobody waits for it to be written down block by block.
        let begun = Instant::now();
        let _ = open.set_len(1 << 60);
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let _ = volume::fallocate(open.as_raw_fd(), punch, 100_000, (1 << 60) - 1);
        open.set_len(10 << 40).unwrap();
        open.write_all_at(b"far", 9 << 40).unwrap();
        assert!(begun.elapsed() < LONG / 4);
    });
    assert_eq!(pair.reach(), "Noted");
    let b = fs::metadata(pair.b.dir.join("file")).unwrap();
    assert_eq!(b.len(), 10 << 40);
    assert!(b.blocks() * 512 < 1 << 20, "{} blocks", b.blocks());
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
    pair.assert_equal();
}

#[test]
fn a_name_removed_of_a_file_that_has_others_outside_the_tree_keeps_nobody_from_becoming_level() {
    let mut pair = Pair::with(CHECKPOINTS);
    let outside = pair.tmp.path().join("outside");
    for name in ["one", "two"] {
        fs::write(pair.a.dir.join(name), name).unwrap();
        fs::hard_link(pair.a.dir.join(name), outside.with_extension(name)).unwrap();
    }
    pair.serve_and_arm(1, 1);
    pair.lose_b_and_arm(2, CHECKPOINTS, |pair| {
        fs::remove_file(pair.a.dir.join("one")).unwrap();
        fs::write(pair.a.dir.join("new"), "new").unwrap();
        fs::rename(pair.a.dir.join("new"), pair.a.dir.join("two")).unwrap();
    });
    assert_eq!(pair.reach(), "Noted");
    assert_eq!(fs::read(outside.with_extension("two")).unwrap(), b"two");
    assert!(!pair.b.dir.join("one").exists());
    assert_eq!(fs::read(pair.b.dir.join("two")).unwrap(), b"new");
}

#[test]
fn the_peer_hears_soon_of_what_nobody_waits_for() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    // The last thing that is done is a close: no later operation takes its time along.
    fs::write(pair.a.dir.join("file"), "text").unwrap();
    let time = |dir: &Path| fs::metadata(dir.join("file")).unwrap().modified().unwrap();
    let (wanted, begun) = (time(&pair.a.dir), Instant::now());
    while time(&pair.b.dir) != wanted {
        // Well before the next checkpoint, which would send it too.
        assert!(begun.elapsed() < Duration::from_secs(5), "the peer was not told");
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_is_closed_in_another_session_than_it_was_written_in_keeps_its_time() {
    let mut pair = Pair::with(CHECKPOINTS);
    pair.serve_and_arm(1, 1);
    let file = fs::File::create(pair.a.dir.join("file")).unwrap();
    file.write_all_at(b"text", 0).unwrap();
    pair.await_checkpoints();
    pair.lose_b_and_arm(2, CHECKPOINTS, |_| ());
    drop(file);
    pair.assert_equal();
}

#[test]
fn a_directory_made_anew_under_an_old_name_has_nothing_of_the_old_one() {
    let mut pair = Pair::with(CHECKPOINTS);
    let dir = pair.a.dir.join("dir");
    fs::create_dir(&dir).unwrap();
    for name in ["one", "two"] {
        fs::write(dir.join(name), name).unwrap();
    }
    pair.serve_and_arm(1, 1);
    pair.lose_b_and_arm(2, CHECKPOINTS, |_| {
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("new"), "new").unwrap();
    });
    assert_eq!(pair.reach(), "Noted");
    pair.assert_equal();
}
