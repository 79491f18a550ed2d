//! For people: figures, and a script of one's own on an armed pair.

use super::*;

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
