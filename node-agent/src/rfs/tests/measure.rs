//! For people: figures, and a script of one's own on an armed pair.

use super::*;
use rand::RngExt;

/// Figures by hand: `cargo test -p tsugi-agent --lib rfs::tests::measure::figures -- --ignored --nocapture`.
#[test]
#[ignore = "measures, asserts nothing"]
fn figures() {
    let mut pair = Pair::new();
    let measure = |what: &str, d: &Path| {
        let file = fs::File::create(d.join("bench")).unwrap();
        let data = vec![1u8; 1 << 20];
        let rate = |n: u64, work: &dyn Fn(u64)| {
            let begun = Instant::now();
            (0..n).for_each(work);
            n as f64 / begun.elapsed().as_secs_f64()
        };
        let plain = rate(5000, &|n| file.write_all_at(&data[..4096], (n * 7919 % 4096) * 4096).unwrap());
        let synced = rate(300, &|n| {
            file.write_all_at(&data[..4096], n * 4096).unwrap();
            file.sync_data().unwrap();
        });
        let large =
            rate(std::env::var("TSUGI_TEST_LARGE").map_or(200, |n| n.parse().unwrap()), &|n| file.write_all_at(&data, n << 20).unwrap());
        let create = rate(1000, &|n| fs::write(d.join(format!("{what}{n}")), "x").unwrap());
        println!("{what}: 4k write {plain:.0}/s, 4k write+fdatasync {synced:.0}/s, 1M write {large:.0} MB/s, create {create:.0}/s");
    };
    let native = pair.a.dir.clone();
    measure("native", &native);
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    measure("alone", &native);
    pair.arm(1, 1);
    measure("armed", &native);
}

/// What compression is good for, over a line of 100 Mbit/s; contents of a file of your own with `TSUGI_TEST_CONTENTS=/path`:
/// `unshare -n sh -c 'ip link set lo up; tc qdisc add dev lo root tbf rate 100mbit burst 128k latency 50ms;
/// cargo test --release -p tsugi-agent --lib rfs::tests::measure::thin_line -- --ignored --nocapture'`.
#[test]
#[ignore = "measures, asserts nothing"]
fn thin_line() {
    const WRITE: usize = 1 << 20;
    const SMALL: usize = 4096;
    let mut random = vec![0; 48 * WRITE];
    rand::rng().fill(&mut random[..]);
    let log: Vec<u8> = random
        .chunks(8)
        .flat_map(|n| {
            let n = u64::from_le_bytes(n.try_into().unwrap());
            let (id, ms) = (n >> 32, n % 1000);
            format!("2025-01-01T00:00:{:02} web{} request {id:08x} of user {} done in {ms} ms, status 200\n", n % 60, n % 9, n % 5000)
                .into_bytes()
        })
        .take(random.len())
        .collect();
    let own = std::env::var("TSUGI_TEST_CONTENTS").ok().map(|path| fs::read(path).unwrap());
    for (what, contents) in [("random bytes", Some(random)), ("a log", Some(log)), ("own contents", own)] {
        let Some(contents) = contents else { continue };
        for compress in [Compress::Off, Compress::Lz4] {
            let mut pair = Pair::compressing(compress, None, |to| to);
            fs::write(pair.a.dir.join("copied"), &contents).unwrap();
            pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
            let rate = |bytes: usize, work: &mut dyn FnMut()| {
                let begun = Instant::now();
                work();
                bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
            };
            let copy = rate(contents.len(), &mut || pair.arm(1, 1));
            let file = fs::File::create(pair.a.dir.join("written")).unwrap();
            let write = |size: usize, count: usize| {
                let pieces = contents.chunks_exact(size).cycle().take(count).enumerate();
                rate(size * count, &mut || pieces.clone().for_each(|(n, piece)| file.write_all_at(piece, (n * size) as u64).unwrap()))
            };
            let (large, small) = (write(WRITE, 64), write(SMALL, 4000) * 1e6 / SMALL as f64);
            let figures = pair.figures();
            let percent = (figures.travelled * 100).checked_div(figures.contents).unwrap_or(100);
            println!("{what}, {compress:?}: copied {copy:.1} MB/s, 1M writes {large:.1} MB/s, 4k writes {small:.0}/s, to {percent} %");
        }
    }
}

/// A shell script of your own on the armed mount, both trees compared afterwards:
/// `TSUGI_TEST_SCRIPT=/path cargo test -p tsugi-agent --lib rfs::tests::measure::own_script -- --ignored --nocapture`.
#[test]
#[ignore = "needs a script"]
fn own_script() {
    let script = std::env::var("TSUGI_TEST_SCRIPT").unwrap();
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    fs::set_permissions(pair.tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let status = std::process::Command::new("sh").arg(script).current_dir(&pair.a.dir).status().unwrap();
    assert!(status.success());
    pair.assert_equal();
}
