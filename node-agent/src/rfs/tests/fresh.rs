//! A copy that has nothing, or some, is made whole: nothing is hashed that the peer has nothing of, and whatever it has it is equal
//! afterwards.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

impl Pair {
    /// A number of the last resynchronisation, as the serving node says it.
    pub(super) fn figure(&self, name: &str) -> u64 {
        let log = fs::read_to_string(self.tmp.path().join("n1.log")).unwrap();
        let last = log.lines().rfind(|line| line.contains("the peer is level")).unwrap().to_owned();
        let (_, rest) = last.split_once(&format!("{name}=")).unwrap();
        rest.split(' ').next().unwrap().trim().parse().unwrap()
    }
}

#[test]
fn of_a_copy_that_has_nothing_nothing_is_hashed_and_holes_stay_holes() {
    let mut pair = Pair::new();
    let d = pair.a.dir.clone();
    for dir in ["x", "y"] {
        fs::create_dir(d.join(dir)).unwrap();
        for n in 0..40 {
            fs::write(d.join(dir).join(format!("small{n}")), vec![n as u8 + 1; 100 * n]).unwrap();
        }
    }
    fs::write(d.join("large"), (0..5_000_000u32).map(|n| (n >> 8) as u8 | 1).collect::<Vec<_>>()).unwrap();
    let sparse = fs::File::create(d.join("sparse")).unwrap();
    sparse.write_all_at(&[7; 102_400], 20 << 20).unwrap();
    sparse.set_len(40 << 20).unwrap();
    let bytes = 5_000_000 + 102_400 + 2 * 100 * (39 * 40 / 2);
    pair.serve_and_arm(1, 1);
    pair.assert_equal();
    assert_eq!((pair.figure("compared"), pair.figure("copied")), (0, bytes));
    let there = fs::metadata(pair.b.dir.join("sparse")).unwrap();
    assert!(there.blocks() * 512 < 1 << 20, "{} blocks of a file that is a hole", there.blocks());
}

#[test]
fn whatever_the_peer_has_of_a_file_it_is_equal_afterwards() {
    const FILES: u64 = 120;
    let seed = std::env::var("TSUGI_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u32>);
    println!("TSUGI_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed.into());
    let mut pair = Pair::new();
    let (a, b) = (pair.a.dir.clone(), pair.b.dir.clone());
    // Runs of files that are new there, so that the last word about one is right for the next, and wrong where a run ends.
    let mut is_run_of_new = true;
    let mut same = 0;
    for n in 0..FILES {
        let name = format!("f{n}");
        let size = [0, 1, 5000, 70_000, 300_000, 3_000_000][random.random_range(0..6)];
        let extents: Vec<(u64, Vec<u8>)> = (0..random.random_range(0..4u64))
            .map(|_| (random.random_range(0..=size), vec![random.random_range(0..3u8); random.random_range(1..400_000)]))
            .collect();
        let make = |dir: &Path, size: u64, extents: &[(u64, Vec<u8>)]| {
            let file = fs::File::create(dir.join(&name)).unwrap();
            extents.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
            file.set_len(size).unwrap();
            file
        };
        make(&a, size, &extents);
        if random.random_range(0..8) == 0 {
            is_run_of_new = !is_run_of_new;
        }
        match random.random_range(0..7) {
            _ if is_run_of_new => {}
            0 => drop(make(&b, random.random_range(0..2 * size + 1), &[])),
            1 => drop(make(&b, size, &extents[..extents.len() / 2])),
            // A hole where there are data, and data where there is a hole.
            2 => {
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let there = make(&b, size, &extents);
                volume::fallocate(there.as_raw_fd(), punch, size / 3, size / 3 + 1).unwrap();
            }
            3 => drop(make(&b, size, &[(0, vec![9; size as usize])])),
            4 => drop(make(&b, size, &[(size / 2, vec![9; 100_000])])),
            5 => drop(make(&b, size * 2, &[(0, vec![9; size as usize * 2])])),
            _ => {
                make(&b, size, &extents);
                same += size;
            }
        }
    }
    pair.serve_and_arm(1, 1);
    println!("{same} bytes of the same, {} compared, {} copied", pair.figure("compared"), pair.figure("copied"));
    pair.assert_equal();
    for n in 0..FILES {
        let blocks = |dir: &Path| fs::metadata(dir.join(format!("f{n}"))).unwrap().blocks() * 512;
        let (here, there) = (blocks(&a), blocks(&b));
        assert!(there <= here + (128 << 10), "f{n} takes {there} bytes at the peer, {here} here");
    }
}

#[test]
fn a_copy_that_has_most_of_it_gets_the_rest_alone() {
    let mut pair = Pair::new();
    let (a, b) = (pair.a.dir.clone(), pair.b.dir.clone());
    for n in 0..30u8 {
        let bytes = vec![n + 1; 400_000];
        fs::write(a.join(format!("f{n}")), &bytes).unwrap();
        // As a copy that was broken off in the middle of a file leaves it.
        match n {
            0..20 => fs::write(b.join(format!("f{n}")), &bytes).unwrap(),
            20 => fs::write(b.join("f20"), &bytes[..200_000]).unwrap(),
            _ => {}
        }
    }
    pair.serve_and_arm(1, 1);
    pair.assert_equal();
    // In whatever order they come: where one is new and the next one is not, at most that one travels without need.
    let copied = pair.figure("copied");
    let least = 9 * 400_000 + 200_000 - 65_536;
    assert!((least..20 * 400_000).contains(&copied), "{copied} bytes");
}

#[test]
fn a_capped_copy_of_new_files_keeps_its_cap_and_says_how_far_it_is() {
    const BYTES: u64 = 3_000_000;
    let mut pair = Pair::over("", &Replicated::default(), Some(2000), PATIENCE, |to| to);
    let d = pair.a.dir.clone();
    for n in 0..30u8 {
        fs::write(d.join(format!("f{n}")), vec![n + 1; BYTES as usize / 30]).unwrap();
    }
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let (epoch, session) = (Epoch(1), Session(1));
    let begun = Instant::now();
    pair.ok(Who::A, ReplicaOrder::Offer { epoch, session });
    pair.ok(Who::B, ReplicaOrder::Follow { epoch, session });
    let mut seen: Vec<tsugi_core::state::Resync> = Vec::new();
    while seen.last().is_none_or(|p| p.bytes_done < BYTES * 9 / 10) {
        assert!(begun.elapsed() < LONG, "{seen:?}\n{}", pair.logs());
        seen.extend(pair.runtime.block_on(pair.a.process.figures()).and_then(|f| f.resync));
    }
    pair.note(Who::A, "Armed", |n| *n == ReplicaNote::Armed { session });
    let took = begun.elapsed();
    assert!(took > Duration::from_secs_f64(BYTES as f64 / (2000.0 * 1024.0) * 0.9), "the cap was not kept: {took:?}");
    for (one, next) in seen.iter().zip(&seen[1..]) {
        assert!(one.bytes_done <= next.bytes_done && one.files_done <= next.files_done, "{one:?} {next:?}");
    }
    let last = seen.last().unwrap();
    assert_eq!((last.bytes_total, last.files_total), (BYTES, 30));
    assert!(last.bytes_done <= BYTES && last.bytes_copied.abs_diff(last.bytes_done) <= 128 << 10, "{last:?}");
    // How slow a busy machine is proves nothing.
    assert!((1..2_500_000).contains(&last.rate), "{last:?}");
    pair.assert_equal();
}

#[test]
fn how_far_a_comparison_of_what_changed_is_counts_what_changed() {
    const BYTES: u64 = 2_000_000;
    let env = super::level::CHECKPOINTS;
    let mut pair = Pair::over(env, &Replicated::default(), Some(2000), PATIENCE, |to| to);
    let file = pair.a.dir.join("file");
    fs::write(&file, vec![1; BYTES as usize]).unwrap();
    pair.serve_and_arm(1, 1);
    pair.await_checkpoints();
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(2) });
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&vec![2; BYTES as usize], 0).unwrap();
    pair.a.held.clear();
    let (epoch, session) = (Epoch(2), Session(2));
    pair.ok(Who::A, ReplicaOrder::Offer { epoch, session });
    pair.ok(Who::B, ReplicaOrder::Follow { epoch, session });
    let begun = Instant::now();
    let seen = loop {
        assert!(begun.elapsed() < LONG, "{}", pair.logs());
        let progress = pair.runtime.block_on(pair.a.process.figures()).and_then(|f| f.resync);
        if let Some(p) = progress.filter(|p| p.bytes_copied > BYTES / 2) {
            break p;
        }
    };
    pair.note(Who::A, "Armed", |n| *n == ReplicaNote::Armed { session });
    assert!((BYTES..BYTES + 100_000).contains(&seen.bytes_total) && seen.bytes_done <= seen.bytes_total, "{seen:?}");
    assert!(seen.files_done <= seen.files_total, "{seen:?}");
    pair.assert_equal();
}
