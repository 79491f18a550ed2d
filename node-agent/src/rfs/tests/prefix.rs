//! The serving process is killed at any moment: the peer has every change that was acknowledged, at most the one that was
//! under way besides, and nothing else.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::os::unix::fs::OpenOptionsExt;

/// One change that is one operation of the stream, in a directory below which the same names are.
#[derive(Debug, Clone)]
enum Deed {
    Write { name: u8, at: u64, byte: u8, length: usize },
    Synced { name: u8, at: u64, byte: u8 },
    Truncate { name: u8, length: u64 },
    Create { name: u8 },
    MakeDir { name: u8 },
    RemoveDir { name: u8 },
    Rename { from: u8, to: u8 },
    Remove { name: u8 },
    Link { from: u8, to: u8 },
    Mode { name: u8, bits: u32 },
    Attribute { name: u8, value: u8 },
    Punch { name: u8, at: u64 },
    Exchange { from: u8, to: u8 },
    Symlink { name: u8, to: u8 },
    Owner { name: u8, group: u32 },
}

impl Deed {
    fn random(random: &mut StdRng) -> Self {
        let mut name = || random.random_range(0..8);
        let (name, other) = (name(), name());
        // Within a page: of a longer write the kernel may make several requests, and a crash may come between them.
        let (at, byte) = (random.random_range(0..50) * 4096, random.random());
        match random.random_range(0..20) {
            0..4 => Self::Write { name, at, byte, length: random.random_range(1..4096) },
            4..6 => Self::Synced { name, at, byte },
            6 => Self::Truncate { name, length: at + 77 },
            7..9 => Self::Create { name },
            9 => Self::MakeDir { name },
            10 => Self::RemoveDir { name },
            11 => Self::Rename { from: name, to: other },
            12 => Self::Remove { name },
            13 => Self::Link { from: name, to: other },
            14 => Self::Mode { name, bits: 0o600 + u32::from(byte & 0o77) },
            15 => Self::Punch { name, at },
            16 => Self::Exchange { from: name, to: other },
            17 => Self::Symlink { name, to: other },
            18 => Self::Owner { name, group: u32::from(byte) },
            _ => Self::Attribute { name, value: byte },
        }
    }

    /// An error of the file system is an outcome, too: nothing has changed.
    fn carry_out(&self, root: &Path) -> std::io::Result<()> {
        let path = |name: &u8| root.join(format!("n{name}"));
        let open = |name: &u8, flags| fs::OpenOptions::new().write(true).custom_flags(flags).open(path(name));
        match self {
            Self::Write { name, at, byte, length } => open(name, 0)?.write_all_at(&vec![*byte; *length], *at),
            Self::Synced { name, at, byte } => open(name, libc::O_DSYNC)?.write_all_at(&[*byte; 4096], *at),
            Self::Truncate { name, length } => {
                let path = volume::cstr(path(name).as_os_str().as_encoded_bytes())?;
                // SAFETY: the string is valid for the call.
                let rc = unsafe { libc::truncate64(path.as_ptr(), length.cast_signed()) };
                if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            }
            Self::Create { name } => fs::OpenOptions::new().write(true).create_new(true).open(path(name)).map(drop),
            Self::MakeDir { name } => fs::create_dir(path(name)),
            Self::RemoveDir { name } => fs::remove_dir(path(name)),
            Self::Rename { from, to } => fs::rename(path(from), path(to)),
            Self::Remove { name } => fs::remove_file(path(name)),
            Self::Link { from, to } => fs::hard_link(path(from), path(to)),
            Self::Mode { name, bits } => fs::set_permissions(path(name), fs::Permissions::from_mode(*bits)),
            Self::Punch { name, at } => {
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                volume::fallocate(open(name, libc::O_NOFOLLOW)?.as_raw_fd(), punch, *at, 4096)
            }
            Self::Exchange { from, to } => {
                let [from, to] = [from, to].map(|n| volume::cstr(path(n).as_os_str().as_encoded_bytes()));
                volume::rename(libc::AT_FDCWD, &from?, libc::AT_FDCWD, &to?, libc::RENAME_EXCHANGE)
            }
            Self::Symlink { name, to } => symlink(format!("n{to}"), path(name)),
            Self::Owner { name, group } => std::os::unix::fs::lchown(path(name), None, Some(*group)),
            Self::Attribute { name, value } => {
                if !fs::symlink_metadata(path(name))?.is_file() {
                    return Ok(());
                }
                let c = volume::cstr(path(name).as_os_str().as_encoded_bytes())?;
                let fd = volume::open_path_at(libc::AT_FDCWD, &c)?;
                volume::set_xattr(fd.as_raw_fd(), c"user.n", &[*value], 0)
            }
        }
    }
}

/// But for times, which are the place's own.
fn state(root: &Path) -> BTreeMap<PathBuf, Seen> {
    tree(root).into_iter().map(|(path, object)| (path, Seen { mtime: None, ..object })).collect()
}

/// `ECANCELED`, `EINTR`: over the ring, a request that was about to be handed over, or was being so.
fn is_of_a_dead_mount(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EIO | libc::ENODEV))
}

#[test]
fn whenever_the_serving_process_is_killed_the_peer_has_what_was_acknowledged_and_nothing_after_it() {
    let rounds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(250);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed.into());
    let mut pair = Pair::over("", &Replicated::default(), None, Duration::from_millis(100), |to| to);
    let model = pair.tmp.path().join("model");
    fs::create_dir(&model).unwrap();
    let (mut done, mut under_way) = (0, 0);
    for round in 1..=rounds {
        pair.serve_and_arm(round, 2 * round);
        let (dir, model_dir, seed) = (pair.a.dir.clone(), model.clone(), random.random::<u64>());
        let begun = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = begun.clone();
        let worker = std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(seed);
            loop {
                let deed = Deed::random(&mut random);
                counted.fetch_add(1, Ordering::AcqRel);
                match deed.carry_out(&dir) {
                    Err(e) if is_of_a_dead_mount(&e) => return deed,
                    outcome => {
                        let there = deed.carry_out(&model_dir);
                        assert_eq!(outcome.is_ok(), there.is_ok(), "{deed:?}: {outcome:?} on the mount, {there:?} on the disk");
                    }
                }
            }
        });
        // Killed when so many deeds have begun: which part of the next one is carried out is chance.
        let enough = random.random_range(1..150);
        let since = Instant::now();
        while begun.load(Ordering::Acquire) < enough {
            assert!(since.elapsed() < LONG, "the deeds do not go on");
            std::hint::spin_loop();
        }
        pair.a.process.end();
        let last = worker.join().unwrap();
        done += begun.load(Ordering::Acquire);
        pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(round) });
        let peer = state(&pair.b.dir);
        if peer != state(&model) {
            // Then it is the one under way.
            let _ = last.carry_out(&model);
            under_way += 1;
            let wanted = state(&model);
            let differs = wanted.iter().find(|(path, object)| peer.get(*path) != Some(*object));
            assert_eq!(peer, wanted, "seed {seed}, round {round}: {differs:?} after {last:?}");
        }
        pair.restart(Who::A, "");
        // The peer is the one that goes on; its files are what the other one gets.
        pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(round) });
        let (epoch, session) = (Epoch(round), Session(2 * round + 1));
        pair.ok(Who::B, ReplicaOrder::Offer { epoch, session });
        pair.ok(Who::A, ReplicaOrder::Follow { epoch, session });
        pair.note(Who::B, "Armed", |n| *n == ReplicaNote::Armed { session });
        pair.ok(Who::B, ReplicaOrder::Release { epoch });
        pair.ok(Who::A, ReplicaOrder::CloseSession { epoch });
        assert_eq!(state(&pair.a.dir), state(&model), "seed {seed}, round {round}: the old one is not as the survivor");
    }
    println!("{rounds} deaths, {done} deeds, {under_way} of those under way were at the peer");
}

/// Whether a process stands still.
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
}

/// Every sequence number: whatever the primary is lost after, the peer's tree is one that the primary's has been, none
/// goes back, and each change that was acknowledged is in it.
#[test]
fn after_each_single_operation_the_peer_is_as_the_primary_was_and_has_what_was_acknowledged() {
    look_at_each("");
}

/// The negative control.
#[test]
#[should_panic(expected = "are acknowledged, the peer has")]
fn a_primary_that_does_not_wait_for_the_peer_is_found_by_that() {
    look_at_each("TSUGI_TEST_NO_PEER_ACK=1");
}

fn look_at_each(env: &str) {
    let deeds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    let mut pair = Pair::over(env, &Replicated::default(), None, Duration::from_secs(20), |to| to);
    pair.restart(Who::B, "TSUGI_TEST_STOPS=1");
    pair.serve_and_arm(1, 1);
    // The same deeds on a plain directory beforehand: each state the primary's tree is going to have.
    let model = pair.tmp.path().join("model");
    fs::create_dir(&model).unwrap();
    let mut random = StdRng::seed_from_u64(seed.into());
    let deeds: Vec<_> = (0..deeds).map(|_| Deed::random(&mut random)).collect();
    let mut states = vec![state(&model)];
    for deed in &deeds {
        let _ = deed.carry_out(&model);
        states.push(state(&model));
    }
    let (dir, done) = (pair.a.dir.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let counted = done.clone();
    let count = deeds.len();
    let worker = std::thread::spawn(move || {
        for deed in deeds {
            let _ = deed.carry_out(&dir);
            counted.fetch_add(1, Ordering::AcqRel);
        }
    });
    // Follows the peer from stop to stop: which of the states it is in, at least.
    let (pid, mut at, mut stops, mut since) = (pair.b.process.pid(), 0, 0, Instant::now());
    loop {
        let is_over = worker.is_finished();
        if !is_stopped(pid) {
            // What nobody waits for comes a little later: it is over when nothing has come for a while.
            if is_over && since.elapsed() > QUIET {
                break;
            }
            assert!(since.elapsed() < LONG, "seed {seed}: the peer does not go on after {stops} operations");
            std::thread::yield_now();
            continue;
        }
        let acknowledged = done.load(Ordering::Acquire);
        let peer = state(&pair.b.dir);
        let found = (at..states.len()).find(|n| states[*n] == peer);
        let Some(found) = found else {
            panic!("seed {seed}: after operation {stops} the peer is as the primary never was, or not any more")
        };
        // A deed that changed nothing leaves one state after another equal: the last of them counts.
        let last = (found..states.len()).take_while(|n| states[*n] == peer).last().unwrap_or(found);
        assert!(last >= acknowledged, "seed {seed}: {acknowledged} deeds are acknowledged, the peer has {last} after operation {stops}");
        (at, stops, since) = (found, stops + 1, Instant::now());
        // SAFETY: plain call on a process this test started.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    }
    worker.join().unwrap();
    assert!(stops >= count / 4, "{stops} operations of {count} deeds");
    assert_eq!(state(&pair.b.dir), states[count], "seed {seed}");
    println!("{count} deeds, {stops} operations looked at one by one");
}
