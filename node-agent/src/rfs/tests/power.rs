//! A serving node that loses its power and comes back is compared in what its activity log has, and is equal afterwards,
//! whatever was done before, at that moment and while it was away.

use super::level::{CHECKPOINTS, Deeds};
use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::process::Command;

/// `_IOR('X', 125, __u32)`: stops an ext4 at once.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// What is in its log but not written is lost, as when the power goes.
const NO_LOG_FLUSH: u32 = 2;

/// A disk of its own for a node's directory.
struct Disk {
    image: PathBuf,
    dir: PathBuf,
    root: Option<fs::File>,
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> bool {
    Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}")).status.success()
}

impl Disk {
    fn new(dir: &Path) -> Self {
        let image = dir.with_extension("img");
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        assert!(run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()]));
        let mut disk = Self { image, dir: dir.to_owned(), root: None };
        disk.mount();
        disk
    }

    fn mount(&mut self) {
        let args = ["-o".as_ref(), "loop,noatime".as_ref(), self.image.as_os_str(), self.dir.as_os_str()];
        assert!(run("mount", &args), "mount {}", self.dir.display());
        self.root = Some(fs::File::open(&self.dir).unwrap());
    }

    /// Nothing more reaches the disk.
    fn power_off(&self) {
        let (root, flags) = (self.root.as_ref().unwrap(), NO_LOG_FLUSH);
        // SAFETY: the ioctl reads one number, which outlives the call.
        assert_eq!(unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flags) }, 0);
    }

    fn covers(&self) -> Vec<bool> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = mounts.lines().filter(|l| l.split(' ').nth(4) == self.dir.to_str());
        here.map(|l| l.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("ext4 ")) && !l.contains(" ro,")).collect()
    }

    /// And is there again, as it was left.
    fn unmount(&mut self) {
        self.root = None;
        while !self.covers().is_empty() {
            // Whatever was mounted over it goes at once; the disk itself only when nobody uses it any more.
            let is_disk = self.covers().len() == 1;
            let lazily: &[&std::ffi::OsStr] = if is_disk { &[] } else { &["-l".as_ref()] };
            let begun = Instant::now();
            while !run("umount", &[lazily, &[self.dir.as_os_str()]].concat()) {
                assert!(begun.elapsed() < LONG, "{} stays in use", self.dir.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.root = None;
        while !self.covers().is_empty() && run("umount", &["-l".as_ref(), self.dir.as_os_str()]) {}
    }
}

fn reach(pair: &Pair) -> String {
    let node = pair.a.process.config.node.clone();
    let log = fs::read_to_string(pair.tmp.path().join(format!("{node}.log"))).unwrap();
    let last = log.lines().rfind(|line| line.contains("resynchronisation begins")).unwrap().to_owned();
    last.rsplit_once("reach=").unwrap().1.trim().to_owned()
}

/// The serving node loses its power, the peer takes over and goes on; the former one follows. `a` is who serves.
/// `breaks_after`: the comparison with it is broken off so soon, and begun anew.
fn fail_over(pair: &mut Pair, disks: &mut [Disk; 2], epoch: u64, env: &str, meanwhile: impl FnOnce(&Pair), breaks_after: Option<Duration>) {
    disks[0].power_off();
    pair.restart(Who::A, env);
    disks[0].unmount();
    disks[0].mount();
    pair.note(Who::B, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(epoch) });
    pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(epoch) });
    std::mem::swap(&mut pair.a, &mut pair.b);
    disks.swap(0, 1);
    meanwhile(pair);
    let mut number = epoch;
    if let Some(after) = breaks_after {
        let (epoch, session) = (Epoch(epoch), Session(epoch));
        pair.ok(Who::A, ReplicaOrder::Offer { epoch, session });
        pair.ok(Who::B, ReplicaOrder::Follow { epoch, session });
        std::thread::sleep(after);
        pair.restart(Who::B, env);
        // It may not have got as far as a connection.
        pair.ok(Who::A, ReplicaOrder::GoAlone { epoch });
        pair.a.held.clear();
        number += 1;
    }
    pair.arm(number, number);
}

#[test]
fn whatever_is_done_before_and_after_a_power_failure_of_the_source_it_is_equal_when_it_is_back() {
    let rounds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    // In a tree this small, groups would hide what was not noted.
    let env = format!("{CHECKPOINTS} TSUGI_TEST_LOG_GROUP=1");
    let mut pair = Pair::over(&env, &Replicated::default(), None, Duration::from_millis(100), |to| to);
    let mut disks = [Disk::new(&pair.a.dir), Disk::new(&pair.b.dir)];
    let mut deeds = Deeds { dir: pair.a.dir.clone(), random: StdRng::seed_from_u64(seed.into()), done: 0 };
    pair.serve_and_arm(1, 1);
    deeds.some(200);
    for epoch in 2..2 + rounds {
        // Checkpoints end in between, some of what they were for is done again.
        for _ in 0..deeds.random.random_range(1..4) {
            let most = [3, 30, 150][deeds.random.random_range(0..3)];
            let many = deeds.random.random_range(0..most);
            deeds.some(many);
            std::thread::sleep(Duration::from_millis(deeds.random.random_range(0..60)));
        }
        let many = deeds.random.random_range(0..60);
        let mut at_the_end = Deeds { dir: deeds.dir.clone(), random: StdRng::seed_from_u64(deeds.random.random()), done: deeds.done };
        // Until the disk takes nothing any more.
        let worker = std::thread::spawn(move || {
            for _ in 0..at_the_end.random.random_range(1..200) {
                at_the_end.next();
            }
        });
        std::thread::sleep(Duration::from_millis(deeds.random.random_range(0..40)));
        deeds.dir = pair.b.dir.clone();
        let broken = deeds.random.random_range(0..3) == 0;
        let breaks_after = broken.then(|| Duration::from_micros(deeds.random.random_range(0..60_000)));
        fail_over(
            &mut pair,
            &mut disks,
            2 * epoch,
            &env,
            |_| {
                worker.join().unwrap();
                deeds.some(many);
            },
            breaks_after,
        );
        // One that was broken off has perhaps made something anew, which the next would take for what it was, or was done.
        let reach = reach(&pair);
        assert!(reach == "Logged" || broken, "seed {seed}, epoch {epoch}: {reach}");
        deeds.some(5);
        println!("seed {seed}, epoch {epoch}");
        pair.assert_equal();
    }
}

#[test]
fn after_a_power_failure_of_the_source_what_nobody_touched_is_not_compared() {
    let mut pair = Pair::over("", &Replicated::default(), None, Duration::from_millis(100), |to| to);
    let mut disks = [Disk::new(&pair.a.dir), Disk::new(&pair.b.dir)];
    let (a, b) = (pair.a.dir.clone(), pair.b.dir.clone());
    fs::create_dir(a.join("deep")).unwrap();
    for n in 0..100 {
        fs::write(a.join(format!("deep/file{n}")), vec![n as u8; 100_000]).unwrap();
    }
    let large = fs::File::create(a.join("large")).unwrap();
    large.write_all_at(&[1; 1 << 20], 60 << 20).unwrap();
    pair.serve_and_arm(1, 1);
    // Without a flush: this disk does not have it, the peer has.
    fs::OpenOptions::new().write(true).open(a.join("large")).unwrap().write_all_at(b"changed", 30 << 20).unwrap();
    fs::write(a.join("new"), "new").unwrap();
    drop(large);
    fail_over(
        &mut pair,
        &mut disks,
        2,
        "",
        |_| {
            assert_eq!(fs::read(b.join("new")).unwrap(), b"new");
            fs::remove_file(b.join("deep/file7")).unwrap();
        },
        None,
    );
    assert_eq!(reach(&pair), "Logged");
    pair.assert_equal();
    let log = fs::read_to_string(pair.tmp.path().join("n2.log")).unwrap();
    let compared = log.lines().rfind(|line| line.contains("the peer is level")).unwrap();
    let number = |name: &str| -> u64 {
        let rest = compared.split_once(&format!("{name}=")).unwrap().1;
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number("compared") <= 4 << 20, "{compared}");
    assert!(number("copied") <= 2 * 65_536, "{compared}");
}

#[test]
fn a_file_that_stays_open_over_a_checkpoint_has_one_time() {
    let mut pair = Pair::over(CHECKPOINTS, &Replicated::default(), None, Duration::from_millis(100), |to| to);
    let mut disks = [Disk::new(&pair.a.dir), Disk::new(&pair.b.dir)];
    pair.serve_and_arm(1, 1);
    let open = fs::File::create(pair.a.dir.join("open")).unwrap();
    open.write_all_at(b"text", 0).unwrap();
    // Nothing of it is noted any more, and it is neither closed nor flushed by who wrote it.
    pair.await_checkpoints();
    fail_over(&mut pair, &mut disks, 2, CHECKPOINTS, |_| {}, None);
    assert_eq!(reach(&pair), "Logged");
    let time = |pair: &Pair, who: Who| {
        fs::metadata(if who == Who::A { &pair.a.dir } else { &pair.b.dir }.join("open")).unwrap().modified().unwrap()
    };
    assert_eq!(time(&pair, Who::A), time(&pair, Who::B));
    drop(open);
}

#[test]
fn a_log_or_a_disk_that_was_set_back_is_not_believed() {
    for what in ["log", "disk"] {
        let mut pair = Pair::over("", &Replicated::default(), None, Duration::from_millis(100), |to| to);
        let mut disks = [Disk::new(&pair.a.dir), Disk::new(&pair.b.dir)];
        let a = pair.a.dir.clone();
        fs::write(a.join("one"), "1").unwrap();
        fs::create_dir(a.join("dir")).unwrap();
        fs::write(a.join("dir/two"), "2").unwrap();
        pair.serve_and_arm(1, 1);
        fs::write(a.join("one"), "one").unwrap();
        let home = pair.tmp.path().join("n1");
        let logs = [0, 1].map(|n| home.join(format!("activity.{n}")));
        let earlier = logs.clone().map(|log| fs::read(log).unwrap_or_default());
        // In the log for the first time, and at the peer.
        fs::OpenOptions::new().write(true).open(a.join("dir/two")).unwrap().write_all_at(b"two", 0).unwrap();
        fail_over_with(&mut pair, &mut disks, what, &logs, &earlier);
        assert_eq!(reach(&pair), "Whole", "{what}");
        pair.assert_equal();
    }
}

fn fail_over_with(pair: &mut Pair, disks: &mut [Disk; 2], what: &str, logs: &[PathBuf; 2], earlier: &[Vec<u8>; 2]) {
    disks[0].power_off();
    pair.restart(Who::A, "");
    disks[0].unmount();
    disks[0].mount();
    if what == "log" {
        logs.iter().zip(earlier).for_each(|(log, text)| fs::write(log, text).unwrap());
    } else {
        // Another number on the copy: that of an earlier checkpoint.
        let root: std::os::fd::OwnedFd = fs::File::open(&disks[0].dir).unwrap().into();
        let (base, seq) = super::super::level::read_log(std::slice::from_ref(&root)).unwrap();
        super::super::level::write_log(&[root], base, seq - 1).unwrap();
    }
    pair.note(Who::B, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(2) });
    pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(2) });
    std::mem::swap(&mut pair.a, &mut pair.b);
    disks.swap(0, 1);
    pair.arm(2, 2);
}

#[test]
fn a_copy_that_loses_its_power_while_it_is_made_is_equal_when_it_is_back() {
    let rounds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    // Slow enough to be interrupted in the middle.
    let mut pair = Pair::over(CHECKPOINTS, &Replicated::default(), Some(8000), Duration::from_millis(100), |to| to);
    let mut disks = [Disk::new(&pair.a.dir), Disk::new(&pair.b.dir)];
    let mut deeds = Deeds { dir: pair.a.dir.clone(), random: StdRng::seed_from_u64(seed.into()), done: 0 };
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    for n in 0..100 {
        fs::write(pair.a.dir.join(format!("file{n}")), vec![n as u8 + 1; 60_000]).unwrap();
    }
    deeds.some(200);
    let mut number = 1;
    for round in 0..rounds {
        let roots = pair.uncover();
        super::super::level::clear(&roots).unwrap();
        for entry in fs::read_dir(&pair.b.dir).unwrap().map(|e| e.unwrap().path()) {
            let is_file = entry.symlink_metadata().is_ok_and(|st| st.is_file());
            let _ = if entry.is_dir() {
                fs::remove_dir_all(entry)
            } else if is_file && deeds.random.random_range(0..3) > 0 {
                // What is written over it is not there until it is flushed; until then this is.
                fs::read(&entry)
                    .and_then(|bytes| fs::write(&entry, vec![0xee; bytes.len()]))
                    .and_then(|()| fs::File::open(&entry)?.sync_all())
            } else {
                fs::remove_file(entry)
            };
        }
        drop(roots);
        for _ in 0..deeds.random.random_range(1..4) {
            let mut meanwhile = Deeds { dir: deeds.dir.clone(), random: StdRng::seed_from_u64(deeds.random.random()), done: deeds.done };
            let many = [0, 0, 30][deeds.random.random_range(0..3)];
            let worker = std::thread::spawn(move || meanwhile.some(many));
            number += 1;
            pair.begin_copy_up_to(number, deeds.random.random_range(0..6_000_000));
            disks[1].power_off();
            pair.restart(Who::B, CHECKPOINTS);
            disks[1].unmount();
            // Nor does what was noted of the view over it outlive a power failure: the disk may have its number now.
            let _ = fs::remove_file(pair.tmp.path().join("n2/run/data-m-0.hidden"));
            disks[1].mount();
            pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(number) });
            worker.join().unwrap();
            pair.a.held.clear();
            let many = [0, 5][deeds.random.random_range(0..2)];
            deeds.some(many);
        }
        number += 1;
        pair.arm(number, number);
        println!("seed {seed}, round {round}: {}", reach(&pair));
        pair.assert_equal();
        pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(number) });
        pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(number) });
        pair.a.held.clear();
        pair.b.held.clear();
    }
    assert!(pair.said("n1.log", "reach=Rest") > 0, "nothing of this went on");
}
