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
}

impl Deed {
    fn random(random: &mut StdRng) -> Self {
        let mut name = || random.random_range(0..8);
        let (name, other) = (name(), name());
        // Within a page: of a longer write the kernel may make several requests, and a crash may come between them.
        let (at, byte) = (random.random_range(0..50) * 4096, random.random());
        match random.random_range(0..16) {
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

fn is_of_a_dead_mount(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO | libc::ENODEV))
}

#[test]
fn whenever_the_serving_process_is_killed_the_peer_has_what_was_acknowledged_and_nothing_after_it() {
    let rounds = std::env::var("TSUGI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(250);
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed.into());
    let mut pair = Pair::over("", &[], None, Duration::from_millis(100), |to| to);
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
