//! What is not replicated stays on its node, whatever happens around it, and keeps nobody from being level.

use super::*;
use tsugi_core::copies::VerifyEnd;
use tsugi_core::module::NamePattern;
use tsugi_core::module::xml::Place;

/// All but what lies at these paths, and what has a name that one of these expressions fits.
fn without(paths: &[&str], names: &[&str]) -> Replicated {
    let pattern = |text: &&str| NamePattern { text: (*text).to_owned(), place: Place::START };
    Replicated {
        not_replicated: paths.iter().map(|path| (*path).to_owned()).collect(),
        not_replicated_names: names.iter().map(pattern).collect(),
        ..Replicated::default()
    }
}

fn pair(paths: &[&str], names: &[&str]) -> Pair {
    Pair::over("", &without(paths, names), None, PATIENCE, |to| to)
}

/// Names of everything below, sorted.
fn names(dir: &Path) -> Vec<String> {
    tree(dir).keys().map(|p| p.to_str().unwrap().to_owned()).collect()
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A directory and a file in it.
fn put(root: &Path, path: &str, contents: &str) {
    fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
    fs::write(root.join(path), contents).unwrap();
}

fn exchange(from: &Path, to: &Path) -> std::io::Result<()> {
    let [from, to] = [from, to].map(|path| volume::cstr(path.as_os_str().as_encoded_bytes()).unwrap());
    volume::rename(libc::AT_FDCWD, &from, libc::AT_FDCWD, &to, libc::RENAME_EXCHANGE)
}

fn assert_crosses(done: std::io::Result<()>) {
    assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EXDEV));
}

impl Pair {
    /// The peer goes, and the one that serves goes on alone.
    fn lose_peer(&mut self, epoch: u64) {
        self.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(epoch) });
        self.note(Who::A, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
        self.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(epoch + 1) });
    }

    /// So many files were compared, and nothing differs.
    fn assert_verified(&mut self, files: u64) {
        let what = self.verify();
        assert_eq!((what.end, what.done.differences, what.done.files), (VerifyEnd::Whole, 0, files), "{:?}", what.listed);
    }
}

#[test]
fn excluded_paths_stay_on_each_node() {
    let mut pair = pair(&["cache"], &[]);
    put(&pair.a.dir, "cache/a", "of a");
    put(&pair.b.dir, "cache/b", "of b");
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    fs::write(d.join("cache/a2"), "of a").unwrap();
    fs::write(d.join("shared"), "x").unwrap();
    assert_crosses(fs::rename(d.join("shared"), d.join("cache/shared")));
    assert_eq!(names(&pair.b.dir), ["cache", "cache/b", "shared"]);
    pair.assert_verified(1);
}

#[test]
fn what_has_an_excluded_name_stays_on_each_node() {
    let mut pair = pair(&["cache"], &[r"\.tmp$", "^private$"]);
    for (dir, of) in [(&pair.a.dir, "of a"), (&pair.b.dir, "of b")] {
        put(dir, "d/both.tmp", of);
        put(dir, "cache/both", of);
        put(dir, "d/private/both", of);
    }
    put(&pair.a.dir, "d/a.tmp", "of a");
    put(&pair.a.dir, "d/a.tmp.swap", "of a");
    put(&pair.b.dir, "d/b.tmp", "of b");
    put(&pair.b.dir, "d/b.TMP", "of b");
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.join("d");
    let kept = ["cache", "cache/both", "d", "d/a.tmp.swap", "d/b.tmp", "d/both.tmp", "d/private", "d/private/both"];
    assert_eq!(names(&pair.b.dir), kept);

    put(&d, "new.tmp", "of a");
    put(&d, "both.tmp", "of a, again");
    put(&d, "private/deep/er", "of a");
    put(&d, "x.tmp/deep/er", "of a");
    put(&d, "er/x.tmp", "of a");
    put(&d, "new", "of both");
    // Across the border nothing moves, in either direction; on each side of it everything does.
    assert_crosses(fs::rename(d.join("new"), d.join("new2.tmp")));
    assert_crosses(fs::rename(d.join("new.tmp"), d.join("new2")));
    assert_crosses(fs::rename(d.join("new"), d.join("private/new")));
    assert_crosses(fs::rename(d.join("er"), d.join("er.tmp")));
    assert_crosses(exchange(&d.join("new"), &d.join("new.tmp")));
    assert_crosses(fs::hard_link(d.join("new"), d.join("new2.tmp")));
    assert_crosses(fs::hard_link(d.join("new.tmp"), d.join("new2")));
    fs::rename(d.join("new.tmp"), d.join("private/any")).unwrap();
    fs::hard_link(d.join("private/any"), d.join("any.tmp")).unwrap();
    fs::set_permissions(d.join("any.tmp"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(d.join("a.tmp")).unwrap();
    fs::rename(d.join("new"), d.join("moved")).unwrap();
    // With the directory goes what each node has in it.
    fs::rename(&d, pair.a.dir.join("e")).unwrap();
    let kept = ["cache", "cache/both", "e", "e/a.tmp.swap", "e/b.tmp", "e/both.tmp", "e/er", "e/moved", "e/private", "e/private/both"];
    assert_eq!(names(&pair.b.dir), kept);
    assert_eq!(text(pair.b.dir.join("e/both.tmp")), "of b");
    pair.assert_verified(2);
}

#[test]
fn a_peer_that_was_away_gets_nothing_excluded_and_keeps_its_own() {
    let mut pair = pair(&[], &[r"\.tmp$"]);
    put(&pair.a.dir, "d/f", "one");
    put(&pair.b.dir, "d/b.tmp", "of b");
    put(&pair.b.dir, "b.tmp/below", "of b");
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    pair.lose_peer(1);
    put(&d, "d/a.tmp", "of a");
    put(&d, "d/b.tmp", "of a");
    put(&d, "a.tmp/below", "of a");
    put(&d, "new/a.tmp", "of a");
    let noted = |pair: &Pair| pair.runtime.block_on(async { pair.a.process.noted().unwrap().await.unwrap() }).unwrap();
    assert_eq!(noted(&pair), [d.join("new").to_str().unwrap()], "only what is replicated is noted");
    put(&d, "d/f", "two");
    put(&d, "d/g", "new");
    pair.arm(2, 2);
    let figures = pair.runtime.block_on(pair.a.process.figures()).unwrap();
    assert_eq!(figures.reach, Some(Reach::Noted));
    let kept = ["b.tmp", "b.tmp/below", "d", "d/b.tmp", "d/f", "d/g", "new"];
    assert_eq!(names(&pair.b.dir), kept);
    assert_eq!((text(pair.b.dir.join("d/b.tmp")), text(pair.b.dir.join("d/f"))), ("of b".into(), "two".into()));
    pair.assert_verified(2);

    // The other one serves: it has its own, and what comes back keeps its own.
    pair.ok(Who::A, ReplicaOrder::Release { epoch: Epoch(2) });
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(2) });
    pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(3) });
    let b = pair.b.dir.clone();
    put(&b, "d/b2.tmp", "of b");
    put(&b, "d/f", "three");
    let (epoch, session) = (Epoch(3), Session(3));
    pair.ok(Who::B, ReplicaOrder::Offer { epoch, session });
    pair.ok(Who::A, ReplicaOrder::Follow { epoch, session });
    pair.note(Who::B, "Armed", |n| *n == ReplicaNote::Armed { session });
    pair.note(Who::A, "Level", |n| *n == ReplicaNote::Level { session });
    let kept = ["a.tmp", "a.tmp/below", "d", "d/a.tmp", "d/b.tmp", "d/f", "d/g", "new", "new/a.tmp"];
    assert_eq!(names(&d), kept);
    assert_eq!((text(d.join("d/b.tmp")), text(d.join("d/f"))), ("of a".into(), "three".into()));
}

#[test]
fn what_a_lost_primary_had_touched_is_compared_without_what_is_excluded() {
    // With one new file all are noted: what is not replicated is among them.
    let env = "TSUGI_TEST_LOG_GROUP=1000000000";
    for name in [r"\.tmp$", "!^f$"] {
        let mut pair = Pair::over(env, &without(&[], &[name]), None, PATIENCE, |to| to);
        put(&pair.a.dir, "d/f", "");
        put(&pair.b.dir, "d/both.tmp", "of b");
        pair.serve_and_arm(1, 1);
        put(&pair.a.dir, "new/f", "one");
        put(&pair.a.dir, "d/both.tmp", "of a");
        put(&pair.a.dir, "d/a.tmp", "of a");
        pair.restart(Who::A, env);
        pair.note(Who::B, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
        pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
        pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(2) });
        std::mem::swap(&mut pair.a, &mut pair.b);
        put(&pair.a.dir, "d/f", "two");
        pair.arm(2, 2);
        let figures = pair.runtime.block_on(pair.a.process.figures()).unwrap();
        assert_eq!(figures.reach, Some(Reach::Logged));
        assert_eq!(names(&pair.b.dir), ["d", "d/a.tmp", "d/both.tmp", "d/f", "new", "new/f"]);
        assert_eq!((text(pair.b.dir.join("d/both.tmp")), text(pair.b.dir.join("d/f"))), ("of a".into(), "two".into()));
        pair.assert_verified(2);
    }
}

#[test]
fn a_directory_that_goes_takes_along_what_only_the_peer_has_in_it() {
    let mut pair = pair(&["p/cache"], &[r"\.tmp$"]);
    for dir in ["gone", "under", "p"] {
        put(&pair.a.dir, &format!("{dir}/f"), "of both");
        put(&pair.b.dir, &format!("{dir}/b.tmp"), "of b");
        put(&pair.b.dir, &format!("{dir}/c.tmp/below"), "of b");
    }
    put(&pair.b.dir, "p/cache/below", "of b");
    put(&pair.a.dir, "over/f", "of both");
    // Beside the view that will cover it.
    let raw = fs::File::open(&pair.b.dir).unwrap();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    assert!(pair.b.dir.join("gone/b.tmp").exists() && pair.b.dir.join("p/cache/below").exists());
    put(&d, "gone/a.tmp", "of a");
    fs::remove_dir_all(d.join("gone")).unwrap();
    fs::remove_dir_all(d.join("p")).unwrap();
    fs::remove_file(d.join("under/f")).unwrap();
    fs::rename(d.join("over"), d.join("under")).unwrap();
    put(&d, "last", "still in session");
    assert_eq!(names(&pair.b.dir), ["last", "under", "under/f"]);
    pair.assert_verified(2);

    // So it does where the peer comes back.
    pair.lose_peer(1);
    fs::write(format!("/proc/self/fd/{}/under/b.tmp", raw.as_raw_fd()), "of b").unwrap();
    fs::remove_dir_all(d.join("under")).unwrap();
    pair.arm(2, 2);
    assert_eq!(names(&pair.b.dir), ["last"]);
}

#[test]
fn what_is_not_excluded_in_a_directory_of_the_peer_keeps_it() {
    let mut pair = pair(&[], &[r"\.tmp$"]);
    put(&pair.a.dir, "d/f", "of both");
    put(&pair.b.dir, "d/b.tmp", "of b");
    let raw = fs::File::open(&pair.b.dir).unwrap();
    pair.serve_and_arm(1, 1);
    let at_b = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", raw.as_raw_fd()));
    fs::write(at_b("d/extra"), "nobody knows of it").unwrap();
    fs::remove_file(pair.a.dir.join("d/f")).unwrap();
    let to = pair.a.dir.join("d");
    let removed = aside(move || fs::remove_dir(to).map_err(|e| e.raw_os_error()));
    pair.note(Who::B, "ApplyFailed", |n| matches!(n, ReplicaNote::ApplyFailed { .. }));
    assert!(at_b("d/b.tmp").exists() && at_b("d/extra").exists());
    pair.ok(Who::A, ReplicaOrder::Abandon { epoch: Epoch(1) });
    let _ = removed.recv_timeout(LONG).unwrap();
}

#[test]
fn with_an_exclamation_mark_directories_and_what_fits_are_replicated_and_nothing_else() {
    let mut pair = pair(&[], &[r"!\.mdf$", r"!\.ldf$"]);
    put(&pair.a.dir, "db/one.mdf", "of both");
    put(&pair.a.dir, "db/one.txt", "of a");
    put(&pair.b.dir, "db/one.txt", "of b");
    put(&pair.b.dir, "db/two.txt", "of b");
    put(&pair.b.dir, "db/name", "of b");
    put(&pair.b.dir, "only/here/is.txt", "of b");
    put(&pair.b.dir, "db/old.ldf", "of b");
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    assert_eq!(names(&pair.b.dir), ["db", "db/name", "db/one.mdf", "db/one.txt", "db/two.txt"]);
    assert_eq!(text(pair.b.dir.join("db/one.txt")), "of b");

    put(&d, "new/deep/one.ldf", "of both");
    put(&d, "new/deep/note", "of a");
    symlink("one.ldf", d.join("new/deep/link")).unwrap();
    symlink("one.ldf", d.join("new/deep/link.ldf")).unwrap();
    fs::rename(d.join("new/deep"), d.join("new/any.txt")).unwrap();
    assert_crosses(fs::rename(d.join("db/one.txt"), d.join("db/two.mdf")));
    assert_crosses(fs::rename(d.join("db/one.mdf"), d.join("db/one.bak")));
    // A directory is replicated under any name; the file that comes back in its place is not.
    assert_crosses(exchange(&d.join("new/any.txt"), &d.join("db/one.mdf")));
    fs::rename(d.join("new/any.txt"), d.join("new/dir.ldf")).unwrap();
    exchange(&d.join("new/dir.ldf"), &d.join("db/one.mdf")).unwrap();
    let in_new = ["new", "new/dir.ldf"];
    let in_db = ["db", "db/name", "db/one.mdf", "db/one.mdf/link.ldf", "db/one.mdf/one.ldf", "db/one.txt", "db/two.txt"];
    assert_eq!(names(&pair.b.dir), [&in_db[..], &in_new].concat());
    pair.assert_verified(2);

    // A directory takes the place of a file that only the peer has.
    put(&d, "db/two.txt/x.mdf", "of both");
    fs::rename(d.join("db/one.mdf"), d.join("db/name")).unwrap();
    let in_db = ["db", "db/name", "db/name/link.ldf", "db/name/one.ldf", "db/one.txt", "db/two.txt", "db/two.txt/x.mdf"];
    assert_eq!(names(&pair.b.dir), [&in_db[..], &in_new].concat());
    pair.assert_verified(3);

    // While the peer is away: a file of this node alone comes where the peer has a directory.
    pair.lose_peer(1);
    fs::remove_dir_all(d.join("db/two.txt")).unwrap();
    put(&d, "db/two.txt", "of a");
    put(&d, "db/three/x.mdf", "of both");
    put(&d, "db/more.txt", "of a");
    put(&d, "db/more.mdf", "of both");
    pair.arm(2, 2);
    let in_db = ["db", "db/more.mdf", "db/name", "db/name/link.ldf", "db/name/one.ldf", "db/one.txt", "db/three", "db/three/x.mdf"];
    assert_eq!(names(&pair.b.dir), [&in_db[..], &in_new].concat());
    assert_eq!(text(pair.b.dir.join("db/one.txt")), "of b");
    pair.assert_verified(4);
}

#[test]
fn a_file_that_had_a_name_of_each_sort_is_replicated_by_the_one_until_that_goes() {
    let mut pair = pair(&[], &[r"\.tmp$"]);
    let d = pair.a.dir.clone();
    for name in ["kept", "gone"] {
        put(&d, name, "before");
        fs::hard_link(d.join(name), d.join(format!("{name}.tmp"))).unwrap();
    }
    pair.serve_and_arm(1, 1);
    assert_eq!(names(&pair.b.dir), ["gone", "kept"]);
    // The kernel meets the name first that is not replicated.
    let beside = fs::File::open(d.join("kept.tmp")).unwrap();
    fs::File::options().append(true).open(d.join("kept")).unwrap().write_all(b", and now").unwrap();
    assert_eq!(text(pair.b.dir.join("kept")), "before, and now");
    drop(beside);

    // In another session nothing of it is told; whoever has it open goes on. All names of one that moved are looked for.
    let mut open = fs::File::options().append(true).open(d.join("gone")).unwrap();
    fs::remove_file(d.join("gone")).unwrap();
    pair.lose_peer(1);
    fs::rename(d.join("kept"), d.join("moved")).unwrap();
    pair.arm(2, 2);
    open.write_all(b", still open").unwrap();
    open.sync_all().unwrap();
    put(&d, "last", "still in session");
    assert_eq!(text(d.join("gone.tmp")), "before, still open");
    assert_crosses(fs::hard_link(d.join("gone.tmp"), d.join("gone")));
    assert_eq!(names(&pair.b.dir), ["last", "moved"]);
    pair.assert_verified(2);
}
