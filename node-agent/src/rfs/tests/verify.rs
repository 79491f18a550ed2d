//! The two copies are compared while the application goes on, and what differs is named and repaired.

use super::*;
use tsugi_core::copies::{DifferenceKind, Verified, VerifyEnd};

/// Verifications of a tree that changes: a moment at which one looks twice has to be met.
const TRIES_MAX: u32 = 50;

impl Pair {
    pub(super) fn verify(&mut self) -> Verified {
        self.a.process.verify();
        let event = self.wait(Who::A, "the end of the verification", |e| matches!(e, DataEvent::Verified(_)));
        let DataEvent::Verified(what) = event else { unreachable!() };
        what
    }
}

/// What differs, by name below the directory.
fn by_name(what: &Verified, dir: &Path) -> BTreeMap<String, DifferenceKind> {
    let prefix = format!("{}/", dir.display());
    what.listed.iter().map(|d| (d.path.strip_prefix(&prefix).unwrap_or(&d.path).to_owned(), d.kind.clone())).collect()
}

#[test]
fn each_kind_of_difference_is_named_and_repaired_and_nothing_else_is_compared() {
    let mut pair = Pair::new();
    // Beside the view that covers it: what a disk does to a copy asks nobody.
    let raw = fs::File::open(&pair.b.dir).unwrap();
    let at_b = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", raw.as_raw_fd()));
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let at_a = |pair: &Pair, name: &str| pair.a.dir.join(name);
    let long: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 7) as u8).collect();
    fs::write(at_a(&pair, "long"), &long).unwrap();
    for name in ["mode", "gone", "same"] {
        fs::write(at_a(&pair, name), name).unwrap();
    }
    fs::create_dir_all(at_a(&pair, "tree/below")).unwrap();
    fs::write(at_a(&pair, "tree/below/file"), "in a directory that will be gone").unwrap();
    fs::create_dir(at_a(&pair, "kept")).unwrap();
    fs::create_dir_all(at_a(&pair, "kind/below")).unwrap();
    fs::write(at_a(&pair, "kind/below/file"), "in a directory that will be a file").unwrap();
    fs::write(at_a(&pair, "late"), "gone after it was looked at").unwrap();
    fs::write(at_a(&pair, "kept/short"), "short").unwrap();
    symlink("here", at_a(&pair, "link")).unwrap();
    pair.arm(1, 1);
    let equal = pair.verify();
    assert_eq!((equal.end, equal.done.differences, equal.done.files), (VerifyEnd::Whole, 0, 8));

    let file = fs::OpenOptions::new().write(true).open(at_b("long")).unwrap();
    let modified = fs::metadata(at_b("long")).unwrap().modified().unwrap();
    // Two blocks, at the end of one look and in the next: neither length nor times tell.
    file.write_all_at(b"x", 65_536 * 3 + 1).unwrap();
    file.write_all_at(b"x", 65_536 * 70).unwrap();
    file.set_modified(modified).unwrap();
    fs::set_permissions(at_b("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(at_b("gone")).unwrap();
    fs::remove_dir_all(at_b("tree")).unwrap();
    fs::remove_dir_all(at_b("kind")).unwrap();
    fs::write(at_b("kind"), "a file").unwrap();
    fs::write(at_b("kept/short"), "shor").unwrap();
    fs::write(at_b("kept/extra"), "not here").unwrap();
    fs::remove_file(at_b("link")).unwrap();
    symlink("there", at_b("link")).unwrap();
    let what = pair.verify();
    assert_eq!(what.end, VerifyEnd::Whole);
    let found = by_name(&what, &pair.a.dir);
    let wanted = BTreeMap::from(
        [
            ("long", DifferenceKind::Contents { bytes: 131_072 }),
            ("mode", DifferenceKind::Attributes),
            ("gone", DifferenceKind::Missing),
            ("tree", DifferenceKind::Missing),
            ("kept/extra", DifferenceKind::Extra),
            ("link", DifferenceKind::Attributes),
        ]
        .map(|(name, kind)| (name.to_owned(), kind)),
    );
    let mut rest = found.clone();
    rest.retain(|name, kind| wanted.get(name) != Some(kind));
    // They are told of twice: by length and contents, as another kind and as one that is not there.
    assert_eq!(rest.keys().collect::<Vec<_>>(), ["kept/short", "kind"], "{found:#?}");
    assert!(wanted.keys().all(|name| found.contains_key(name)), "{found:#?}");
    assert_eq!(what.done.differences, 8);

    // Only told, until the agent has it repaired. What is lost meanwhile in the same directory is not made anew empty.
    let figures = pair.runtime.block_on(pair.a.process.figures()).unwrap();
    assert_eq!(figures.unrepaired, 8);
    fs::remove_file(at_b("late")).unwrap();
    fs::write(at_a(&pair, "same"), "still in session").unwrap();
    assert_eq!(fs::read_to_string(at_b("same")).unwrap(), "still in session");
    pair.a.process.repair();
    let lost = pair.note(Who::A, "the end of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    assert!(format!("{lost:?}").contains("what differs between the two copies is copied again"), "{lost:?}");
    pair.note(Who::B, "the end of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    // The names are found by the map, without looking for them.
    let noted = pair.runtime.block_on(async { pair.a.process.noted().unwrap().await.unwrap() });
    assert!(noted.is_some());
    pair.arm(2, 2);
    let figures = pair.runtime.block_on(pair.a.process.figures()).unwrap();
    assert_eq!((figures.reach, figures.unrepaired), (Some(Reach::Noted), 0), "everything was compared");
    assert!(!at_b("late").exists(), "a name was made anew that nobody knew to be missing");
    let again = pair.verify();
    assert_eq!(by_name(&again, &pair.a.dir), BTreeMap::from([("late".to_owned(), DifferenceKind::Missing)]));
    pair.a.process.repair();
    pair.note(Who::A, "the end of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.note(Who::B, "the end of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(3) });
    pair.arm(3, 3);
    pair.assert_equal();
    assert_eq!(fs::read(at_b("long")).unwrap(), long);
    let last = pair.verify();
    assert_eq!((last.end, last.done.differences), (VerifyEnd::Whole, 0), "{:?}", last.listed);
    // Nothing is left to be repaired, and nothing happens.
    pair.a.process.repair();
    fs::write(at_a(&pair, "same"), "and goes on").unwrap();
    assert_eq!(fs::read_to_string(at_b("same")).unwrap(), "and goes on");
}

#[test]
fn what_the_application_changes_meanwhile_is_no_difference() {
    // Operations lie for a while before they are sent: whoever looks without waiting for them finds a difference.
    let mut pair = Pair::with("TSUGI_TEST_NO_PEER_ACK=1");
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    fs::write(pair.a.dir.join("hot"), vec![1; 3_000_000]).unwrap();
    pair.arm(1, 1);
    let over = Arc::new(AtomicBool::new(false));
    let (dir, is_over) = (pair.a.dir.clone(), over.clone());
    let writer = std::thread::spawn(move || {
        let hot = fs::OpenOptions::new().write(true).open(dir.join("hot")).unwrap();
        let mut done = 0_u64;
        while !is_over.load(Ordering::Acquire) {
            done += 1;
            for block in 0..10 {
                hot.write_all_at(&done.to_le_bytes(), block * 65_536).unwrap();
            }
            let name = dir.join((done % 7).to_string());
            if done.is_multiple_of(2) { fs::write(name, done.to_string()).unwrap() } else { drop(fs::remove_file(name)) }
        }
        done
    });
    let mut held = 0;
    for _ in 0..TRIES_MAX {
        let what = pair.verify();
        assert_eq!((&what.end, what.done.differences), (&VerifyEnd::Whole, 0), "{:?}\n{}", what.listed, pair.logs());
        held += what.done.held;
        if held > 0 {
            break;
        }
    }
    over.store(true, Ordering::Release);
    assert!(writer.join().unwrap() > 0);
    assert!(held > 0, "nothing was ever looked at twice");
}

#[test]
fn without_a_level_peer_nothing_is_compared_and_it_is_said() {
    let mut pair = Pair::new();
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let what = pair.verify();
    assert!(matches!(&what.end, VerifyEnd::Failed { detail } if detail.contains("not level")), "{what:?}");
    pair.arm(1, 1);
    // A peer that dies on the way ends it.
    fs::write(pair.a.dir.join("file"), vec![1; 1_000_000]).unwrap();
    // SAFETY: plain call on a process this test started.
    unsafe { libc::kill(pair.b.process.pid(), libc::SIGSTOP) };
    pair.a.process.verify();
    pair.restart(Who::B, "");
    let event = pair.wait(Who::A, "the end of the verification", |e| matches!(e, DataEvent::Verified(_)));
    let DataEvent::Verified(what) = event else { unreachable!() };
    assert!(matches!(&what.end, VerifyEnd::Failed { detail } if detail.contains("session with the peer ended")), "{what:?}");
    pair.note(Who::A, "the loss of the session", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    pair.arm(2, 2);
    // Nothing of the one that failed is left behind.
    let what = pair.verify();
    assert_eq!((what.end, what.done.differences), (VerifyEnd::Whole, 0));
}
