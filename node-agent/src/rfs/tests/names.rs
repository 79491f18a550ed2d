//! What is known of files by name goes with the names.

use super::*;

/// As `git clone` of a repository on the same disk does, again and again: files that stay get names in directories that go.
#[test]
fn a_file_that_gets_and_loses_names_keeps_nothing_of_them() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    fs::write(d.join("kept"), "kept").unwrap();
    let (kept, moved) = (fs::File::open(d.join("kept")).unwrap(), d.join("moved"));
    for n in 0..100 {
        let dir = d.join(format!("dir{n}"));
        fs::create_dir(&dir).unwrap();
        fs::hard_link(d.join("kept"), dir.join("link")).unwrap();
        fs::rename(dir.join("link"), dir.join("other")).unwrap();
        fs::remove_file(dir.join("other")).unwrap();
        // And away and back through it.
        fs::rename(d.join("kept"), dir.join("kept")).unwrap();
        fs::rename(dir.join("kept"), &moved).unwrap();
        fs::rename(&moved, d.join("kept")).unwrap();
        fs::remove_dir(&dir).unwrap();
    }
    for process in [&pair.a.process, &pair.b.process] {
        let (fds, begun) = (format!("/proc/{}/fd", process.pid()), Instant::now());
        let deleted = || {
            let all = fs::read_dir(&fds).unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
            all.filter(|to| to.to_string_lossy().contains("/dir") && to.to_string_lossy().ends_with(" (deleted)")).count()
        };
        // The kernel says a little later that it has forgotten them.
        while deleted() > 5 {
            assert!(begun.elapsed() < LONG, "{} directories that are gone are held", deleted());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(fs::read_to_string(d.join("kept")).unwrap(), "kept");
    drop(kept);
    pair.assert_equal();
}
