//! Two real data processes on one host: real mounts, a real connection, a throwaway CA. Needs root.

use super::frame::{Msg, SyncMsg};
use super::handle::{DataConfig, DataEvent, DataProcess};
use super::link::{Inbox, Link};
use super::ship::{Ship, TestSwitches};
use super::stream::{Lives, Stream};
use super::sync::{How, Source};
use super::volume;
use crate::config::Transport;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tsugi_core::copies::Reach;
use tsugi_core::ids::{Epoch, JobId, LifeId, Lsn, Session};
use tsugi_core::module::{Async, Compress, Replicated};
use tsugi_core::replica::{ReplicaAnswer, ReplicaNote, ReplicaOrder};

mod compress;
mod copying;
mod excluded;
mod fresh;
mod level;
mod line;
mod measure;
mod names;
mod power;
mod prefix;
mod rejoin;
mod transport;
mod users;
mod verify;

/// No step of a test takes longer, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// As in the profile `normal`.
const PATIENCE: Duration = Duration::from_secs(2);
/// Resynchronisations under a load of names: each begins at another moment of it.
const LINK_SESSIONS: u64 = 4;
/// Something that must not happen has had time to happen.
const QUIET: Duration = Duration::from_millis(700);

/// Not a test: the body of the child processes the tests start (see `script`).
#[test]
fn data_process_entry() {
    if std::env::var(super::control::CONTROL_FD).is_err() {
        return;
    }
    let _ = tracing_subscriber::fmt().with_env_filter("info").with_ansi(false).with_writer(std::io::stderr).try_init();
    let code = match super::process::data_main() {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("data process: {e:#}");
            1
        }
    };
    std::process::exit(code);
}

struct Node {
    process: DataProcess,
    events: mpsc::Receiver<DataEvent>,
    held: Vec<DataEvent>,
    dir: PathBuf,
    job: u64,
}

struct Pair {
    runtime: tokio::runtime::Runtime,
    tmp: tempfile::TempDir,
    done: Arc<AtomicBool>,
    a: Node,
    b: Node,
}

fn script(dir: &Path, name: &str, env: &str) -> PathBuf {
    let path = dir.join(format!("data-{name}.sh"));
    let exe = std::env::current_exe().unwrap();
    let log = dir.join(format!("{name}.log"));
    let text = format!(
        "#!/bin/sh\n{env} exec {} rfs::tests::data_process_entry --exact --nocapture >/dev/null 2>>{}\n",
        exe.display(),
        log.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn identities(dir: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test ca");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    for node in ["n1", "n2"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![node.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, node);
        params.distinguished_name.push(DnType::OrganizationName, "lab");
        let cert = params.signed_by(&key, &issuer).unwrap();
        let to = dir.join(node).join("identity");
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join("node.crt"), cert.pem()).unwrap();
        fs::write(to.join("node.key"), key.serialize_pem()).unwrap();
        fs::write(to.join("ca.crt"), ca_cert.pem()).unwrap();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Pair {
    fn new() -> Self {
        Self::with("")
    }

    fn with(env: &str) -> Self {
        Self::over(env, &Replicated::default(), None, PATIENCE, |to| to)
    }

    /// `line` names where to connect to instead of a node's own address.
    fn over(
        env: &str,
        tree: &Replicated,
        resync_kb_per_s_max: Option<u64>,
        patience: Duration,
        line: impl Fn(SocketAddr) -> SocketAddr,
    ) -> Self {
        Self::set_up(env, tree, line, |config| DataConfig { resync_kb_per_s_max, patience, ..config })
    }

    fn set_up(env: &str, tree: &Replicated, line: impl Fn(SocketAddr) -> SocketAddr, change: impl Fn(DataConfig) -> DataConfig) -> Self {
        let base = std::env::var("TSUGI_TEST_DIR").unwrap_or_else(|_| "/var/tmp".into());
        let tmp = tempfile::Builder::new().prefix("tsugi-rfs-").tempdir_in(base).unwrap();
        identities(tmp.path());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (one, two) = (free_port(), free_port());
        let start = |me: &str, peer: &str, listen, connect| {
            let dir = tmp.path().join(me).join("data");
            fs::create_dir_all(&dir).unwrap();
            let config = DataConfig {
                module: "m".parse().unwrap(),
                node: me.parse().unwrap(),
                peer: peer.parse().unwrap(),
                cluster: "lab".into(),
                dirs: vec![Replicated { dir: dir.to_str().unwrap().into(), ..tree.clone() }],
                ack: Async::None,
                listen,
                connect: line(connect),
                identity_dir: tmp.path().join(me).join("identity"),
                run_dir: tmp.path().join(me).join("run"),
                marks: tmp.path().join(me).join("copies.json"),
                resync_kb_per_s_max: None,
                compress: Compress::Off,
                transport: Transport::Auto,
                patience: PATIENCE,
            };
            let (tx, events) = mpsc::channel(100);
            let exe = script(tmp.path(), me, env);
            let process = runtime.block_on(DataProcess::spawn(&exe, change(config), tx)).unwrap();
            process.set_deadline(None);
            Node { process, events, held: vec![], dir, job: 0 }
        };
        let a = start("n1", "n2", one, two);
        let b = start("n2", "n1", two, one);
        // A test that hangs in a system call on the mount could not even be killed: let the call fail instead.
        let (pids, done) = ([a.process.pid(), b.process.pid()], Arc::new(AtomicBool::new(false)));
        let over = done.clone();
        std::thread::spawn(move || {
            let end = Instant::now() + LONG * 3;
            while Instant::now() < end {
                if over.load(Ordering::Acquire) {
                    return;
                }
                std::thread::sleep(QUIET);
            }
            for pid in pids {
                // SAFETY: plain call on processes this test started.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        Self { runtime, a, b, tmp, done }
    }

    fn ok(&mut self, who: Who, order: ReplicaOrder) -> Lsn {
        match self.order(who, order.clone()) {
            ReplicaAnswer::Done { last } => last,
            ReplicaAnswer::Failed { detail } => panic!("{order:?}: {detail}"),
        }
    }

    fn order(&mut self, who: Who, order: ReplicaOrder) -> ReplicaAnswer {
        let job = self.begin(who, order);
        self.answer(who, job)
    }

    fn begin(&mut self, who: Who, order: ReplicaOrder) -> JobId {
        let node = self.node(who);
        node.job += 1;
        let job = JobId(node.job);
        node.process.order(job, order);
        job
    }

    fn answer(&mut self, who: Who, job: JobId) -> ReplicaAnswer {
        let event = self.wait(who, &format!("answer to {job:?}"), |e| matches!(e, DataEvent::Answer(j, _) if *j == job));
        let DataEvent::Answer(_, answer) = event else { unreachable!() };
        answer
    }

    fn note(&mut self, who: Who, what: &str, wanted: impl Fn(&ReplicaNote) -> bool) -> ReplicaNote {
        let event = self.wait(who, what, |e| matches!(e, DataEvent::Note(n) if wanted(n)));
        let DataEvent::Note(note) = event else { unreachable!() };
        note
    }

    fn node(&mut self, who: Who) -> &mut Node {
        match who {
            Who::A => &mut self.a,
            Who::B => &mut self.b,
        }
    }

    fn wait(&mut self, who: Who, what: &str, wanted: impl Fn(&DataEvent) -> bool) -> DataEvent {
        let handle = self.runtime.handle().clone();
        let node = self.node(who);
        if let Some(at) = node.held.iter().position(&wanted) {
            return node.held.remove(at);
        }
        let end = Instant::now() + LONG;
        loop {
            if let Some(lost) =
                node.held.iter().find(|e| matches!(e, DataEvent::Note(ReplicaNote::SessionLost { .. } | ReplicaNote::ApplyFailed { .. })))
                && (what == "Armed" || what == "Level")
            {
                let lost = lost.clone();
                // Only on the way to a failure: the other side's last words are worth having.
                std::thread::sleep(QUIET);
                panic!("{who:?}: no {what}: {lost:?}\n{}", self.logs());
            }
            let left = end.saturating_duration_since(Instant::now());
            let event = handle.block_on(async { tokio::time::timeout(left, node.events.recv()).await });
            match event {
                Ok(Some(event)) if wanted(&event) => return event,
                Ok(Some(event)) => node.held.push(event),
                _ => {
                    let seen = std::mem::take(&mut node.held);
                    panic!("{who:?}: no {what}; seen: {seen:?}\n{}", self.logs());
                }
            }
        }
    }

    /// A node's process dies, unless it has, and begins anew; its files stay.
    fn restart(&mut self, who: Who, env: &str) {
        self.node(who).process.end();
        self.note(who, "its end", |n| matches!(n, ReplicaNote::Died { .. }));
        let config = self.node(who).process.config.clone();
        let exe = script(self.tmp.path(), config.node.as_str(), env);
        let (tx, events) = mpsc::channel(100);
        let process = self.runtime.block_on(DataProcess::spawn(&exe, config, tx)).unwrap();
        process.set_deadline(None);
        let node = self.node(who);
        (node.process, node.events) = (process, events);
        node.held.clear();
    }

    fn logs(&self) -> String {
        ["n1.log", "n2.log"].map(|l| fs::read_to_string(self.tmp.path().join(l)).unwrap_or_default()).join("\n----\n")
    }

    fn serve_and_arm(&mut self, epoch: u64, session: u64) {
        self.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(epoch) });
        self.arm(epoch, session);
    }

    fn arm(&mut self, epoch: u64, session: u64) {
        let (epoch, session) = (Epoch(epoch), Session(session));
        self.ok(Who::A, ReplicaOrder::Offer { epoch, session });
        self.ok(Who::B, ReplicaOrder::Follow { epoch, session });
        self.note(Who::A, "Armed", |n| *n == ReplicaNote::Armed { session });
        self.note(Who::B, "Level", |n| *n == ReplicaNote::Level { session });
    }

    /// Everything but what nobody waits for, the last modification times: those within a bound.
    fn assert_equal(&self) {
        let end = Instant::now() + LONG;
        let differs = loop {
            let (a, b) = (tree(&self.a.dir), tree(&self.b.dir));
            let differs = a.iter().find(|(path, object)| b.get(*path) != Some(*object)).map(|(path, object)| {
                let only_mtime = b.get(path).is_some_and(|there| Seen { mtime: object.mtime, ..there.clone() } == *object);
                (only_mtime, format!("{} differs at the peer:\n{object:?}\n{:?}", path.display(), b.get(path)))
            });
            match differs {
                Some((true, _)) if Instant::now() < end => std::thread::yield_now(),
                Some((_, text)) => break Some(text),
                None => break b.keys().find(|p| !a.contains_key(*p)).map(|p| format!("only at the peer: {}", p.display())),
            }
        };
        if let Some(text) = differs {
            panic!("{text}\n{}", self.logs());
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.a.process.kill();
        self.b.process.kill();
        if std::env::var("TSUGI_TEST_KEEP_LOG").is_ok() {
            eprintln!("{}", self.logs());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    A,
    B,
}

/// What a user can see of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    /// Of files only: directories' times depend on when names were made.
    mtime: Option<(i64, i64)>,
    rdev: u64,
    size: u64,
    contents: Option<blake3::Hash>,
    target: Vec<u8>,
    xattrs: Vec<volume::Xattr>,
    first_name: PathBuf,
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut names: HashMap<u64, PathBuf> = HashMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let st = fs::symlink_metadata(&path).unwrap();
            let file = st.file_type().is_file();
            let below = path.strip_prefix(root).unwrap().to_owned();
            if st.is_dir() {
                todo.push(path.clone());
            }
            let c = volume::cstr(path.as_os_str().as_encoded_bytes()).unwrap();
            let fd = volume::open_path_at(libc::AT_FDCWD, &c).unwrap();
            let first_name = if st.is_dir() { below.clone() } else { names.entry(st.ino()).or_insert_with(|| below.clone()).clone() };
            let seen = Seen {
                mode: st.mode(),
                owner: (st.uid(), st.gid()),
                mtime: file.then(|| (st.mtime(), st.mtime_nsec())),
                rdev: st.rdev(),
                size: if file { st.size() } else { 0 },
                contents: file.then(|| blake3::hash(&fs::read(&path).unwrap())),
                target: if st.is_symlink() { volume::readlink_fd(fd.as_raw_fd()).unwrap() } else { vec![] },
                xattrs: volume::xattrs(fd.as_raw_fd()).unwrap(),
                first_name,
            };
            all.insert(below, seen);
        }
    }
    all
}

fn set_xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    let c = volume::cstr(path.as_os_str().as_encoded_bytes()).unwrap();
    let fd = volume::open_path_at(libc::AT_FDCWD, &c).unwrap();
    volume::set_xattr(fd.as_raw_fd(), name, value, 0).unwrap();
}

fn mounted(dir: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|l| l.split(' ').nth(4) == dir.to_str() && l.contains(" fuse.tsugi "))
}

/// Runs something that may block; the receiver gets its result.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std_mpsc::Receiver<T> {
    let (tx, rx) = std_mpsc::channel();
    std::thread::spawn(move || {
        let _ = tx.send(work());
    });
    rx
}

#[test]
fn what_the_application_does_is_at_the_peer_when_it_is_done() {
    let mut pair = Pair::new();
    fs::write(pair.a.dir.join("before"), "kept").unwrap();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    assert!(mounted(&d));
    assert_eq!(fs::read_to_string(d.join("before")).unwrap(), "kept");

    fs::create_dir_all(d.join("x/y/z")).unwrap();
    fs::write(d.join("x/y/file"), vec![7u8; 3_000_000]).unwrap();
    let mut log = fs::OpenOptions::new().append(true).create(true).open(d.join("log")).unwrap();
    for n in 0..50 {
        writeln!(log, "line {n}").unwrap();
        log.sync_data().unwrap();
    }
    fs::rename(d.join("x/y/file"), d.join("x/moved")).unwrap();
    fs::rename(d.join("x/y"), d.join("w")).unwrap();
    fs::write(d.join("w/z/deep"), "after the rename of its ancestor").unwrap();
    symlink("../moved", d.join("x/link")).unwrap();
    fs::hard_link(d.join("x/moved"), d.join("x/second")).unwrap();
    fs::OpenOptions::new().write(true).open(d.join("x/second")).unwrap().set_len(12_345).unwrap();
    set_xattr(&d.join("x/moved"), c"user.colour", b"green");
    std::os::unix::fs::chown(d.join("x/moved"), Some(1), Some(2)).unwrap();
    fs::set_permissions(d.join("x/moved"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::write(d.join("gone"), "x").unwrap();
    fs::remove_file(d.join("gone")).unwrap();
    fs::create_dir(d.join("empty")).unwrap();
    fs::remove_dir(d.join("empty")).unwrap();
    let sparse = fs::File::create(d.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 5_000_000).unwrap();
    volume::fallocate(sparse.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE, 4_999_000, 1001).unwrap();
    volume::mknodat(libc::AT_FDCWD, &volume::cstr(d.join("fifo").as_os_str().as_encoded_bytes()).unwrap(), libc::S_IFIFO | 0o640, 0)
        .unwrap();
    // A file removed while open goes on for its owner, and does not disturb the peer.
    let mut open = fs::File::create(d.join("temporary")).unwrap();
    fs::remove_file(d.join("temporary")).unwrap();
    open.write_all(b"nobody sees this").unwrap();
    open.sync_all().unwrap();
    // A file opened by a name that is removed while another is left.
    fs::write(d.join("first"), "1").unwrap();
    fs::hard_link(d.join("first"), d.join("other")).unwrap();
    let mut two = fs::OpenOptions::new().append(true).open(d.join("first")).unwrap();
    fs::remove_file(d.join("first")).unwrap();
    two.write_all(b"2").unwrap();
    assert_eq!(fs::read_to_string(d.join("other")).unwrap(), "12");
    drop((log, sparse, open, two));
    let mapped = map_write(&d.join("mapped"));
    assert_eq!(fs::read(d.join("mapped")).unwrap(), mapped);
    // The peer heard the last modification times with the closing of the files, which nobody waits for.
    fs::write(d.join("last"), "").unwrap();
    pair.assert_equal();
}

/// Writes through a shared mapping and flushes it.
fn map_write(path: &Path) -> Vec<u8> {
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(8192).unwrap();
    // SAFETY: a fresh mapping of 8192 bytes, written within its bounds and unmapped once.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED);
        std::ptr::write_bytes(at.cast::<u8>().add(100), 0x5a, 5000);
        assert_eq!(libc::msync(at, 8192, libc::MS_SYNC), 0);
        libc::munmap(at, 8192);
    }
    let mut expected = vec![0; 8192];
    expected[100..5100].fill(0x5a);
    expected
}

#[test]
fn the_peer_can_take_over_and_the_old_one_comes_back() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let (a, b) = (pair.a.dir.clone(), pair.b.dir.clone());
    fs::write(a.join("f"), "one").unwrap();
    let refused = fs::write(b.join("f"), "by hand").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "the follower's directory must not be writable");

    let released = pair.ok(Who::A, ReplicaOrder::Release { epoch: Epoch(1) });
    assert!(!mounted(&a), "released, so unmounted");
    let closed = pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
    assert_eq!(released, closed, "everything sent was applied");
    pair.ok(Who::B, ReplicaOrder::Serve { epoch: Epoch(2) });
    assert!(mounted(&b));
    assert_eq!(fs::read_to_string(b.join("f")).unwrap(), "one");
    fs::write(b.join("f"), "two").unwrap();
    fs::write(b.join("new"), "two").unwrap();
    let refused = fs::create_dir_all(a.join("stale/dir")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "nor that of who has released it");

    let (epoch, session) = (Epoch(2), Session(2));
    pair.ok(Who::B, ReplicaOrder::Offer { epoch, session });
    pair.ok(Who::A, ReplicaOrder::Follow { epoch, session });
    pair.note(Who::B, "Armed", |n| *n == ReplicaNote::Armed { session });
    pair.note(Who::A, "Level", |n| *n == ReplicaNote::Level { session });
    fs::write(b.join("third"), "three").unwrap();
    pair.assert_equal();
}

#[test]
fn a_tree_is_brought_level_while_it_changes() {
    let mut pair = Pair::new();
    let d = pair.a.dir.clone();
    for n in 0..300 {
        let dir = d.join(format!("d{}", n % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), vec![n as u8; 1000 * n]).unwrap();
    }
    fs::hard_link(d.join("d1/f1"), d.join("d2/same")).unwrap();
    symlink("d1", d.join("to-d1")).unwrap();
    set_xattr(&d.join("d3"), c"user.a", b"b");
    // The other side has an older, different tree.
    let o = pair.b.dir.clone();
    fs::create_dir_all(o.join("d1")).unwrap();
    fs::write(o.join("d1/f1"), "old").unwrap();
    fs::write(o.join("d1/f21"), vec![21u8; 21_000]).unwrap();
    fs::hard_link(o.join("d1/f1"), o.join("d1/f41")).unwrap();
    fs::create_dir_all(o.join("extra/deep/er")).unwrap();
    fs::write(o.join("to-d1"), "a file here").unwrap();
    fs::create_dir(o.join("d2")).unwrap();
    fs::create_dir(o.join("d2/f2")).unwrap();

    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|w| {
            let (d, stop) = (d.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    churn(&d, w, n);
                    n += 1;
                }
                n
            })
        })
        .collect();
    pair.arm(1, 1);
    stop.store(true, Ordering::Relaxed);
    let rounds: u64 = workers.into_iter().map(|w| w.join().unwrap()).sum();
    assert!(rounds > 3, "the load did not run");
    fs::write(d.join("last"), "").unwrap();
    pair.assert_equal();
}

/// Three names of one file over two directories, the second one open for writing all the time.
fn linked_group(d: &Path, group: usize) -> fs::File {
    let (first, second) = (d.join(format!("g{group}/x")), d.join(format!("g{group}/y")));
    fs::create_dir_all(&first).unwrap();
    fs::create_dir_all(&second).unwrap();
    fs::write(first.join("one"), vec![group as u8; 40_000 + group]).unwrap();
    fs::hard_link(first.join("one"), second.join("two")).unwrap();
    fs::hard_link(first.join("one"), d.join(format!("three{group}"))).unwrap();
    fs::OpenOptions::new().write(true).open(second.join("two")).unwrap()
}

/// Moves first names, the directories that hold them, and the file's contents through another name.
fn churn_links(d: &Path, open: &fs::File, group: usize, n: u64) {
    let dir = d.join(format!("g{group}"));
    let third = d.join(format!("three{group}"));
    match n % 6 {
        0 => fs::rename(dir.join("x/one"), dir.join("y/moved")).unwrap(),
        1 => fs::rename(dir.join("x"), dir.join("z")).unwrap(),
        2 => {
            fs::remove_file(dir.join("y/moved")).unwrap();
            fs::hard_link(dir.join("y/two"), dir.join("z/one")).unwrap();
        }
        3 => fs::rename(&third, dir.join("z/three")).unwrap(),
        4 => fs::rename(dir.join("z"), dir.join("x")).unwrap(),
        _ => fs::rename(dir.join("x/three"), &third).unwrap(),
    }
    if n.is_multiple_of(2) {
        open.write_all_at(&n.to_le_bytes(), (n % 3) * 8).unwrap();
    }
}

#[test]
fn names_of_one_file_stay_one_file_while_the_tree_is_copied() {
    let mut pair = Pair::new();
    let d = pair.a.dir.clone();
    for group in 0..90 {
        drop(linked_group(&d, group));
    }
    // The peer has some of it, taken apart.
    fs::create_dir_all(pair.b.dir.join("g1/x")).unwrap();
    fs::write(pair.b.dir.join("g1/x/one"), "old").unwrap();
    fs::write(pair.b.dir.join("three1"), "older").unwrap();
    fs::hard_link(pair.b.dir.join("three1"), pair.b.dir.join("three2")).unwrap();
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|w| {
            let (d, stop) = (d.clone(), stop.clone());
            std::thread::spawn(move || {
                let groups = w * 30..w * 30 + 30;
                let open: Vec<_> =
                    groups.clone().map(|g| fs::OpenOptions::new().write(true).open(d.join(format!("g{g}/y/two"))).unwrap()).collect();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    for (group, open) in groups.clone().zip(&open) {
                        // Each group at another step of its round.
                        if n >= (group as u64 % 6) {
                            churn_links(&d, open, group, n - (group as u64 % 6));
                        }
                    }
                    n += 1;
                }
                n
            })
        })
        .collect();
    for session in 1..=LINK_SESSIONS {
        pair.arm(1, session);
        if session == LINK_SESSIONS {
            break;
        }
        pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
        pair.note(Who::A, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    }
    stop.store(true, Ordering::Relaxed);
    let rounds: u64 = workers.into_iter().map(|w| w.join().unwrap()).sum();
    assert!(rounds > 3, "the load did not run");
    fs::write(d.join("last"), "").unwrap();
    pair.assert_equal();
}

#[test]
fn a_name_moved_once_while_the_tree_is_copied_leaves_no_stale_name() {
    const GROUPS: usize = 48;
    // In whatever order a file system lists names: some of the names that move are told before those that stay.
    let first = |g: usize| format!("g{g}/{}", if (g / 3).is_multiple_of(2) { "x" } else { "y" });
    let second = |g: usize| format!("g{g}/{}", if (g / 3).is_multiple_of(2) { "y" } else { "x" });
    // Two seconds of copying, in the middle of which about half of the names have been told.
    let mut pair = Pair::over("", &Replicated::default(), Some(2400), PATIENCE, |to| to);
    let d = pair.a.dir.clone();
    fs::create_dir_all(d.join("far")).unwrap();
    for g in 0..GROUPS {
        let (first, second) = (d.join(first(g)), d.join(second(g)));
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        fs::write(first.join("one"), vec![g as u8 + 1; 100_000]).unwrap();
        fs::hard_link(first.join("one"), second.join("two")).unwrap();
    }
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    // Opened through the mount, by the name that stays.
    let open: Vec<_> = (0..GROUPS).map(|g| fs::File::options().write(true).open(d.join(second(g)).join("two")).unwrap()).collect();
    let (epoch, session) = (Epoch(1), Session(1));
    pair.ok(Who::A, ReplicaOrder::Offer { epoch, session });
    pair.ok(Who::B, ReplicaOrder::Follow { epoch, session });
    let end = Instant::now() + LONG;
    while pair.runtime.block_on(pair.a.process.figures()).is_none_or(|f| f.resync.is_none_or(|r| r.bytes_copied <= 2_400_000)) {
        assert!(Instant::now() < end, "the copy did not begin\n{}", pair.logs());
    }
    for (g, open) in open.iter().enumerate() {
        let x = d.join(first(g));
        match g % 3 {
            0 => fs::rename(x.join("one"), d.join(format!("far/{g}"))).unwrap(),
            1 => fs::rename(&x, d.join(format!("far/dir{g}"))).unwrap(),
            _ => {
                fs::remove_file(x.join("one")).unwrap();
                fs::hard_link(d.join(second(g)).join("two"), d.join(format!("far/{g}"))).unwrap();
            }
        }
        open.write_all_at(b"written through the other name", 50_000).unwrap();
    }
    pair.note(Who::A, "Armed", |n| *n == ReplicaNote::Armed { session });
    pair.note(Who::B, "Level", |n| *n == ReplicaNote::Level { session });
    drop(open);
    pair.assert_equal();
}

/// One round of everything an application may do while its tree is being copied.
fn churn(d: &Path, worker: u64, n: u64) {
    let own = d.join(format!("w{worker}-{}", n % 7));
    fs::create_dir_all(own.join("sub")).unwrap();
    fs::write(own.join("sub/a"), vec![n as u8; 200_000]).unwrap();
    let file = fs::OpenOptions::new().write(true).open(d.join(format!("d{}/f{}", (n % 20), (n % 20) + 20 * (worker + 2)))).unwrap();
    file.write_all_at(&n.to_le_bytes(), (n % 5) * 17_000).unwrap();
    // Names in several directories, the contents written through one of the others.
    let far = d.join(format!("d{}/far{worker}-{}", n % 20, n % 9));
    let _ = fs::remove_file(&far);
    let linked = fs::hard_link(own.join("sub/a"), &far).and_then(|()| fs::OpenOptions::new().write(true).open(&far));
    let _ = fs::rename(own.join("sub/a"), own.join(format!("sub/first{}", n % 2)));
    if let Ok(linked) = &linked {
        linked.write_all_at(&n.to_le_bytes(), 150_000).unwrap();
    }
    let _ = fs::rename(own.join("sub"), own.join(format!("sub{}", n % 3)));
    let _ = fs::hard_link(own.join(format!("sub{}/a", n % 3)), own.join(format!("hard{n}")));
    let _ = fs::remove_file(own.join(format!("hard{}", n.saturating_sub(14))));
    let _ = fs::rename(&own, d.join(format!("moved{worker}-{}", n % 4)));
    let _ = fs::remove_dir_all(d.join(format!("moved{worker}-{}", (n + 2) % 4)));
    file.set_len(30_000 + (n % 10) * 1000).unwrap();
    fs::set_permissions(d.join(format!("d{}", n % 20)), fs::Permissions::from_mode(0o700 + (n % 8) as u32)).unwrap();
}

#[test]
fn a_dead_peer_stops_writes_until_it_is_excluded() {
    /// More than are free of the threads for their requests, and not more than there are, whichever processor they run on.
    const WRITERS: u64 = 24;
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    fs::write(d.join("f"), "before").unwrap();
    let files: Vec<_> = (0..WRITERS).map(|n| fs::File::create(d.join(format!("f{n}"))).unwrap()).collect();
    pair.b.process.kill();
    pair.note(Who::A, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    let writes: Vec<_> = files.into_iter().map(|f| aside(move || f.write_all_at(b"during", 0).map_err(|e| e.raw_os_error()))).collect();
    assert!(writes[0].recv_timeout(QUIET).is_err(), "a write was acknowledged without the peer");
    // Reads go on, whatever number of writers wait.
    let read = aside({
        let d = d.clone();
        move || fs::read_to_string(d.join("f")).unwrap()
    });
    assert_eq!(read.recv_timeout(LONG).unwrap(), "before");
    let begun = Instant::now();
    loop {
        let figures = pair.runtime.block_on(pair.a.process.figures()).unwrap();
        if figures.waiting >= WRITERS && figures.waiting_ms > 100 {
            break;
        }
        assert!(begun.elapsed() < LONG, "not all of them are heard: {figures:?}");
        std::thread::sleep(QUIET);
    }
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    for write in writes {
        assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    }
    fs::write(d.join("f"), "alone").unwrap();
}

#[test]
fn writes_that_waited_for_a_lost_peer_are_answered_when_it_is_level_again() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let to = pair.a.dir.join("f");
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
    pair.note(Who::A, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    let write = aside(move || fs::write(to, "waited").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    pair.arm(1, 2);
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    pair.assert_equal();
    assert_eq!(fs::read_to_string(pair.b.dir.join("f")).unwrap(), "waited");
}

#[test]
fn nothing_is_acknowledged_after_the_deadline() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    pair.a.process.set_deadline(Some(volume::boottime_ns() + 3_600_000_000_000));
    fs::write(d.join("in-time"), "x").unwrap();
    pair.a.process.set_deadline(Some(1));
    let to = d.join("late");
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err(), "acknowledged after the deadline");
    pair.a.process.set_deadline(Some(volume::boottime_ns() + 3_600_000_000_000));
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));

    pair.a.process.set_deadline(Some(1));
    let to = d.join("never");
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    pair.ok(Who::A, ReplicaOrder::Abandon { epoch: Epoch(1) });
    let failed = write.recv_timeout(LONG).unwrap().unwrap_err();
    assert!(matches!(failed, Some(libc::EIO | libc::ENOTCONN | libc::ECONNABORTED)), "{failed:?}");
    // The application may still run: what lies below is out of its reach.
    assert!(mounted(&d) && fs::write(d.join("beside"), "x").is_err());
}

#[test]
fn a_node_alone_acknowledges_nothing_once_it_is_not_entitled() {
    let mut pair = Pair::new();
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let d = pair.a.dir.clone();
    fs::write(d.join("alone"), "x").unwrap();
    pair.a.process.set_deadline(Some(0));
    let to = d.join("late");
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err(), "acknowledged by a node that is not entitled to");
    assert_eq!(fs::read_to_string(d.join("alone")).unwrap(), "x");
    pair.a.process.set_deadline(None);
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    pair.a.process.set_deadline(Some(0));
    let to = d.join("never");
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    pair.ok(Who::A, ReplicaOrder::Abandon { epoch: Epoch(1) });
    assert!(write.recv_timeout(LONG).unwrap().is_err());
}

#[test]
fn going_alone_does_not_wait_behind_a_full_connection() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let files: Vec<_> = (0..24).map(|n| fs::File::create(pair.a.dir.join(format!("f{n}"))).unwrap()).collect();
    let peer = pair.b.process.pid();
    // SAFETY: plain calls on a process this test started.
    unsafe { libc::kill(peer, libc::SIGSTOP) };
    let writes: Vec<_> = files
        .into_iter()
        .map(|f| aside(move || (0..8).try_for_each(|n| f.write_all_at(&vec![1; 1 << 20], n << 20)).map_err(|e| e.raw_os_error())))
        .collect();
    // The connection fills up with what nobody reads.
    assert!(writes[0].recv_timeout(QUIET).is_err());
    let begun = Instant::now();
    let figures = pair.runtime.block_on(pair.a.process.figures());
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    let took = begun.elapsed();
    // SAFETY: as above.
    unsafe { libc::kill(peer, libc::SIGCONT) };
    assert!(took < Duration::from_secs(2), "it took {took:?}, as long as the connection needs to break by itself");
    assert!(figures.is_some_and(|f| f.waiting > 0), "the figures waited behind the connection");
    for write in writes {
        assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    }
}

#[test]
fn whoever_asks_for_a_release_under_way_gets_its_answer() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    fs::write(pair.a.dir.join("f"), "x").unwrap();
    pair.a.process.set_deadline(Some(1));
    let to = pair.a.dir.join("g");
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    let first = pair.begin(Who::A, ReplicaOrder::Release { epoch: Epoch(1) });
    let second = pair.begin(Who::A, ReplicaOrder::Release { epoch: Epoch(1) });
    let early = pair.order(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    assert!(matches!(early, ReplicaAnswer::Failed { .. }), "served again while it is released: {early:?}");
    pair.a.process.set_deadline(None);
    let first = pair.answer(Who::A, first);
    assert!(matches!(first, ReplicaAnswer::Done { .. }), "{first:?}");
    assert_eq!(pair.answer(Who::A, second), first);
    // The first write of the file passed, what came after the hold did not.
    let _ = write.recv_timeout(LONG).unwrap();
    assert!(!mounted(&pair.a.dir));
}

#[test]
fn a_peer_stuck_at_the_end_of_a_resynchronisation_lets_the_application_go() {
    let tmp = tempfile::tempdir().unwrap();
    identities(tmp.path());
    let identity = |me: &str, peer| super::tls::Identity::load(&tmp.path().join(me).join("identity"), peer, "lab").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let other = identity("n2", "n1");
    let there = aside(move || Link::connect(TcpStream::connect(at).unwrap(), &other, LONG, 1, 1).unwrap());
    let link = Link::accept(listener.accept().unwrap().0, &identity("n1", "n2"), 1, 1).unwrap();
    let there = there.recv_timeout(LONG).unwrap();
    let deadline = super::deadline::Deadline::create().unwrap();
    let ship = Ship::new(deadline, TestSwitches::default(), super::dirty::Dirty::default());
    let (answers, from_peer) = std_mpsc::sync_channel(8);
    let kept = answers.clone();
    // It flushes while nobody waits, and then hangs.
    let peer = aside(move || {
        let mut inbox = Inbox::new(there.clone());
        while let Ok(frame) = inbox.receive() {
            if matches!(frame.map(|f| f.msg), Some(Msg::Sync(SyncMsg::Flush { number: 1 }))) {
                answers.send(SyncMsg::Flushed { number: 1 }).unwrap();
            }
        }
    });
    let begun = Instant::now();
    let stream = Stream::new(&link, Lives { source: LifeId(1), target: LifeId(2) }, Compress::Off);
    let how = How { reach: Reach::Whole, bytes_per_s_max: None, progress: Arc::default() };
    let ended = Source::new(&[], &ship, &link, &stream, from_peer, how).run();
    let why = format!("{:#}", ended.unwrap_err());
    assert!(why.contains("did not flush"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(20), "the application was held for {:?}", begun.elapsed());
    assert!(ship.enter().is_ok(), "the application is still held");
    ship.end();
    link.close();
    peer.recv_timeout(LONG).unwrap();
    drop(kept);
}

#[test]
fn a_killed_agent_takes_the_mount_with_it_and_a_new_life_starts_clean() {
    let mut pair = Pair::new();
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    let d = pair.a.dir.clone();
    fs::write(d.join("f"), "x").unwrap();
    pair.a.process.kill();
    assert!(!mounted(&d));
    assert_eq!(fs::read_to_string(d.join("f")).unwrap(), "x");
}

#[test]
fn orders_that_cannot_be_carried_out_say_why() {
    let mut pair = Pair::new();
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(5) });
    let ReplicaAnswer::Failed { detail } = pair.order(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(4) }) else { panic!("an old epoch") };
    assert!(detail.contains("epoch 4") && detail.contains("epoch 5"), "{detail}");
    let again = pair.order(Who::A, ReplicaOrder::Serve { epoch: Epoch(4) });
    assert!(matches!(again, ReplicaAnswer::Failed { .. }), "an old epoch while it serves");
    fs::remove_dir(&pair.b.dir).unwrap();
    let ReplicaAnswer::Failed { detail } = pair.order(Who::B, ReplicaOrder::Serve { epoch: Epoch(1) }) else { panic!("no directory") };
    assert!(detail.contains(pair.b.dir.to_str().unwrap()) && detail.contains("create it"), "{detail}");
    fs::create_dir(&pair.b.dir).unwrap();
    // Ending needs no authority, and what begins afterwards may belong to a new arbiter, which counts from 1.
    pair.ok(Who::A, ReplicaOrder::Abandon { epoch: Epoch(2) });
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    pair.ok(Who::B, ReplicaOrder::Follow { epoch: Epoch(7), session: Session(1) });
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
    pair.ok(Who::B, ReplicaOrder::Follow { epoch: Epoch(1), session: Session(1) });
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
}

#[test]
fn an_operation_the_peer_cannot_apply_is_never_acknowledged() {
    let mut pair = Pair::new();
    fs::create_dir(pair.a.dir.join("d")).unwrap();
    pair.serve_and_arm(1, 1);
    // Behind the peer's back, through its cover's other side: the name the next operation makes.
    let c = volume::cstr(pair.b.dir.parent().unwrap().as_os_str().as_encoded_bytes()).unwrap();
    let _ = c;
    let cover = std::process::Command::new("umount").arg(&pair.b.dir).status().unwrap();
    assert!(cover.success());
    fs::write(pair.b.dir.join("d/in-the-way"), "x").unwrap();
    let to = pair.a.dir.join("d/in-the-way");
    let write = aside(move || fs::create_dir(to).map_err(|e| e.raw_os_error()));
    pair.note(Who::B, "ApplyFailed", |n| matches!(n, ReplicaNote::ApplyFailed { .. }));
    pair.note(Who::A, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    assert!(write.recv_timeout(QUIET).is_err(), "acknowledged although the peer failed");
    pair.ok(Who::A, ReplicaOrder::Abandon { epoch: Epoch(1) });
}

#[test]
fn more_files_than_descriptors_are_no_problem() {
    // The child's limit is what this process has; the shell lowers it.
    let mut pair = Pair::with("ulimit -n 4000;");
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    for n in 0..9000 {
        fs::write(d.join(format!("f{n}")), "x").unwrap();
    }
    assert_eq!(fs::read_dir(&d).unwrap().count(), 9000);
    fs::write(d.join("f0"), "again").unwrap();
    pair.assert_equal();
}

#[test]
fn everyday_programs_work_on_the_mount() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    let script = r#"
set -e
mkdir src && for i in $(seq 60); do mkdir -p src/d$i; seq $i 500 > src/d$i/file; ln -s file src/d$i/link; done
tar cf all.tar src && mkdir out && tar xf all.tar -C out && diff -r src out/src
rm -rf src
if command -v git > /dev/null; then
    git init -q repo && cd repo && cp -a ../out/src . && git add -A
    git -c user.name=t -c user.email=t@example.org commit -qm one && git gc -q && git fsck && cd .. && git clone -q repo clone && rm -rf repo
fi
if command -v sqlite3 > /dev/null; then
    for mode in wal delete; do
        { echo "pragma journal_mode=$mode; create table t$mode(a);"; for i in $(seq 100); do echo "insert into t$mode values($i);"; done; } | sqlite3 db$mode > /dev/null
        test "$(sqlite3 db$mode "select count(*) from t$mode; pragma integrity_check;" | tr '\n' ' ')" = "100 ok "
    done
fi
"#;
    let out = std::process::Command::new("sh").arg("-c").arg(script).current_dir(&d).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    pair.assert_equal();
}

#[test]
fn without_waiting_for_the_peer_acknowledged_data_is_lost() {
    // The negative control: with the switch, the same steps as in `a_dead_peer…` must lose data, or the other
    // tests prove nothing.
    let mut pair = Pair::with("TSUGI_TEST_NO_PEER_ACK=1");
    pair.serve_and_arm(1, 1);
    let mut acknowledged = 0;
    let file = fs::File::create(pair.a.dir.join("log")).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        file.write_all_at(b"record\n", acknowledged * 7).unwrap();
        acknowledged += 1;
    }
    pair.a.process.kill();
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
    let there = fs::metadata(pair.b.dir.join("log")).map_or(0, |m| m.len()) / 7;
    assert!(there < acknowledged, "{there} of {acknowledged} records at the peer: the switch had no effect");
}
