//! The connection of an armed session breaks: nothing is lost, nothing is answered too early, and the agent does not
//! hear of it unless the session cannot go on.

use super::super::frame::{Again, Hello, VERSION};
use super::super::tls::Identity;
use super::*;
use rand::RngExt;
use std::io::Read;
use std::net::Shutdown;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Far more than any step of a test takes: what comes sooner did not come because of it.
const ENDLESS: Duration = Duration::from_secs(600);
/// Writers of the test under random cuts, and the rounds of each.
const WRITERS: u64 = 4;
/// See `WRITERS`.
const ROUNDS: u64 = 40;

/// A line between the two nodes that can be cut.
#[derive(Clone)]
pub(super) struct Line(Arc<Inner>);

struct Inner {
    at: SocketAddr,
    to: Mutex<Option<SocketAddr>>,
    /// Both ends of each connection: the follower's, the source's.
    sockets: Mutex<Vec<(TcpStream, TcpStream)>>,
    /// New connections are dropped at once.
    is_down: AtomicBool,
    /// What the follower says does not arrive.
    is_deaf: AtomicBool,
    /// Bytes until the line cuts itself; 0 = never.
    fuse: AtomicU64,
    cuts: AtomicU64,
}

impl Line {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self(Arc::new(Inner {
            at: listener.local_addr().unwrap(),
            to: Mutex::default(),
            sockets: Mutex::default(),
            is_down: AtomicBool::new(false),
            is_deaf: AtomicBool::new(false),
            fuse: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        }));
        let inside = line.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let to = inside.0.to.lock().unwrap_or_else(PoisonError::into_inner).unwrap();
                if inside.0.is_down.load(Ordering::Acquire) {
                    continue;
                }
                let (near, Ok(far)) = (near.unwrap(), TcpStream::connect(to)) else { continue };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let twice = |s: &TcpStream| s.try_clone().unwrap();
                inside.0.sockets.lock().unwrap().push((twice(&near), twice(&far)));
                let (one, other) = (inside.clone(), inside.clone());
                let (near2, far2) = (twice(&near), twice(&far));
                std::thread::spawn(move || one.carry(near, far, true));
                std::thread::spawn(move || other.carry(far2, near2, false));
            }
        });
        line
    }

    /// In front of this node.
    pub(super) fn before(&self, to: SocketAddr) -> SocketAddr {
        // Both nodes name where they connect to; only the follower ever does.
        *self.0.to.lock().unwrap() = Some(to);
        self.0.at
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_from_follower: bool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n) = from.read(&mut bytes)
            && n > 0
        {
            if is_from_follower && self.0.is_deaf.load(Ordering::Acquire) {
                continue;
            }
            let left = self.0.fuse.load(Ordering::Acquire);
            if left > 0 && left <= n as u64 {
                // Half of what was on its way arrives.
                let _ = to.write_all(&bytes[..n / 2]);
                self.0.fuse.store(rand::rng().random_range(2_000..2_000_000), Ordering::Release);
                self.cut();
                return;
            }
            if left > 0 {
                self.0.fuse.store(left - n as u64, Ordering::Release);
            }
            if to.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Every connection ends, for both sides.
    fn cut(&self) {
        self.0.cuts.fetch_add(1, Ordering::AcqRel);
        for (near, far) in self.0.sockets.lock().unwrap().drain(..) {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }

    /// Cuts itself when so many bytes more have passed, and so on.
    pub(super) fn cut_after(&self, bytes: u64) {
        self.0.fuse.store(bytes, Ordering::Release);
    }

    /// How often it was cut.
    pub(super) fn cuts(&self) -> u64 {
        self.0.cuts.load(Ordering::Acquire)
    }

    /// Cut, and down until it is up again.
    fn down(&self) {
        self.0.is_down.store(true, Ordering::Release);
        self.cut();
    }

    fn up(&self) {
        self.0.is_down.store(false, Ordering::Release);
    }
}

fn pair_over_line(patience: Duration) -> (Pair, Line) {
    let line = Line::new();
    let named = AtomicBool::new(false);
    let pair = Pair::over("", &Replicated::default(), None, patience, |to| {
        // The first node asked is the one that serves: it never connects.
        if named.swap(true, Ordering::AcqRel) { line.before(to) } else { to }
    });
    (pair, line)
}

impl Pair {
    /// Takes what the nodes have said so far; fails if the loss of a session is among it.
    pub(super) fn assert_not_lost(&mut self) {
        for who in [Who::A, Who::B] {
            let node = self.node(who);
            while let Ok(event) = node.events.try_recv() {
                node.held.push(event);
            }
            let lost = |e: &&DataEvent| matches!(e, DataEvent::Note(ReplicaNote::SessionLost { .. } | ReplicaNote::ApplyFailed { .. }));
            if let Some(lost) = node.held.iter().find(lost).cloned() {
                panic!("{who:?}: {lost:?}\n{}", self.logs());
            }
        }
    }

    fn lost(&mut self, who: Who) -> String {
        match self.note(who, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. })) {
            ReplicaNote::SessionLost { detail, .. } => detail,
            other => panic!("{other:?}"),
        }
    }

    /// How often a text is in a node's log.
    pub(super) fn said(&self, log: &str, text: &str) -> usize {
        fs::read_to_string(self.tmp.path().join(log)).unwrap_or_default().matches(text).count()
    }

    /// A connection to the serving node with the identity of the other one.
    fn introduce(&self, line: &Line, epoch: u64, session: u64, hello: Hello) -> Msg {
        let identity = Identity::load(&self.tmp.path().join("n2/identity"), "n1", "lab").unwrap();
        let to = line.0.to.lock().unwrap().unwrap();
        let link = Link::connect(TcpStream::connect(to).unwrap(), &identity, LONG, epoch, session).unwrap();
        link.send(0, &Msg::Hello(hello), &[]).unwrap();
        Inbox::new(link).expect(LONG).unwrap().2
    }
}

fn hello(again: Option<Again>) -> Hello {
    Hello { version: VERSION, module: "m".into(), dirs: 1, life: LifeId(7), again, level: None, log: None, copying: None }
}

#[test]
fn a_line_cut_again_and_again_costs_nothing() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    // What `churn` expects.
    for n in 0..20 * (WRITERS + 2) {
        let dir = pair.a.dir.join(format!("d{}", n % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), "x").unwrap();
    }
    let begun = Instant::now();
    line.0.fuse.store(10_000, Ordering::Release);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (a, b) = (pair.a.dir.clone(), pair.b.dir.clone());
            aside(move || {
                let name = format!("log{writer}");
                let file = fs::File::create(a.join(&name)).unwrap();
                for round in 0..ROUNDS {
                    // Answered means that the other node has it, however many connections that took.
                    let entry = [u8::try_from(writer * ROUNDS + round).unwrap(); 700];
                    file.write_all_at(&entry, round * 700).unwrap();
                    assert_eq!(fs::read(b.join(&name)).unwrap()[usize::try_from(round * 700).unwrap()..], entry);
                    if round % 3 == 0 {
                        file.sync_all().unwrap();
                    }
                    churn(&a, writer, round);
                    if round % 10 == 9 {
                        fs::write(a.join(format!("large{writer}")), vec![u8::try_from(round).unwrap(); 900_000]).unwrap();
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.recv_timeout(LONG).unwrap();
    }
    line.0.fuse.store(0, Ordering::Release);
    let cuts = line.0.cuts.load(Ordering::Acquire);
    println!("{cuts} cuts in {:?}", begun.elapsed());
    assert!(cuts >= 10, "the line was cut {cuts} times only");
    pair.assert_not_lost();
    pair.assert_equal();
    pair.assert_not_lost();
    // Told apart from a session that broke unnoticed: both ends say so.
    assert!(pair.said("n1.log", "the replication connection is resumed") >= 5, "{}", pair.logs());
    // The stream is whole in the end, and an orderly end finds nothing left.
    pair.ok(Who::A, ReplicaOrder::Release { epoch: Epoch(1) });
}

#[test]
fn answers_lost_with_the_connection_are_given_over_the_next_one() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let file = fs::File::create(pair.a.dir.join("f")).unwrap();
    let other = fs::File::create(pair.a.dir.join("g")).unwrap();
    // The peer does everything, and its answers get lost.
    line.0.is_deaf.store(true, Ordering::Release);
    let fsync = aside(move || {
        file.write_all_at(b"acknowledged late", 0).unwrap();
        file.sync_all().map_err(|e| e.raw_os_error())
    });
    let write = aside(move || other.write_all_at(b"x", 0).map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err(), "a write was answered without the peer's word");
    assert!(fsync.recv_timeout(Duration::ZERO).is_err());
    line.down();
    line.0.is_deaf.store(false, Ordering::Release);
    assert!(write.recv_timeout(QUIET).is_err(), "a broken connection answered a write");
    line.up();
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    assert_eq!(fsync.recv_timeout(LONG).unwrap(), Ok(()));
    pair.assert_not_lost();
    pair.assert_equal();
}

#[test]
fn an_fsync_under_way_when_the_line_breaks_is_answered_once_it_is_back() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let file = fs::File::create(pair.a.dir.join("f")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    for round in 0..30 {
        let file = file.try_clone().unwrap();
        line.0.is_deaf.store(round % 2 == 0, Ordering::Release);
        let fsync = aside(move || {
            file.write_all_at(&[round; 4096], 0).unwrap();
            file.sync_data().map_err(|e| e.raw_os_error())
        });
        line.cut();
        line.0.is_deaf.store(false, Ordering::Release);
        // What was said into the void before the cut is made up for, too.
        line.cut();
        assert_eq!(fsync.recv_timeout(LONG).unwrap(), Ok(()), "{}", pair.logs());
    }
    pair.assert_not_lost();
    pair.assert_equal();
}

#[test]
fn while_the_line_is_down_operations_are_kept_in_order_and_reads_go_on() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    fs::write(d.join("old"), "old").unwrap();
    let files: Vec<_> = (0..20).map(|n| fs::File::create(d.join(format!("f{n}"))).unwrap()).collect();
    line.down();
    let writes: Vec<_> = files.into_iter().map(|f| aside(move || f.write_all_at(b"during", 0).map_err(|e| e.raw_os_error()))).collect();
    assert!(writes[0].recv_timeout(QUIET).is_err(), "a write was answered without the peer");
    assert_eq!(fs::read_to_string(d.join("old")).unwrap(), "old");
    assert_eq!(fs::read_to_string(pair.b.dir.join("f0")).unwrap(), "");
    line.up();
    let begun = Instant::now();
    for write in writes {
        assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    }
    println!("answered {:?} after the line came back", begun.elapsed());
    pair.assert_not_lost();
    pair.assert_equal();
}

#[test]
fn a_break_that_only_the_follower_notices_is_bridged_too() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    fs::write(d.join("before"), "x").unwrap();
    // The serving node's end stays as it was: a firewall that forgot, and answers one side only.
    let halves: Vec<_> = line.0.sockets.lock().unwrap().iter().map(|(near, _)| near.try_clone().unwrap()).collect();
    line.0.is_deaf.store(true, Ordering::Release);
    let far: Vec<_> = std::mem::take(&mut *line.0.sockets.lock().unwrap());
    let write = aside(move || fs::write(d.join("during"), "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    line.0.is_deaf.store(false, Ordering::Release);
    for near in halves {
        near.shutdown(Shutdown::Both).unwrap();
    }
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    drop(far);
    pair.assert_not_lost();
    pair.assert_equal();
}

#[test]
fn when_the_patience_is_over_the_session_is_lost_on_both_sides() {
    let (mut pair, line) = pair_over_line(PATIENCE);
    pair.serve_and_arm(1, 1);
    let to = pair.a.dir.join("f");
    let begun = Instant::now();
    line.down();
    let write = aside(move || fs::write(to, "waited").map_err(|e| e.raw_os_error()));
    assert!(pair.lost(Who::A).contains("did not come back"));
    assert!(begun.elapsed() >= PATIENCE, "lost after {:?}", begun.elapsed());
    assert!(pair.lost(Who::B).contains("could not be resumed"));
    assert!(write.recv_timeout(Duration::ZERO).is_err(), "the loss of the session answered a write");
    line.up();
    // Too late: what was applied by then is compared, not continued.
    assert!(write.recv_timeout(QUIET).is_err());
    pair.arm(1, 2);
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    pair.assert_equal();
}

#[test]
fn a_follower_that_was_restarted_is_refused_and_the_session_is_lost_at_once() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let to = pair.a.dir.join("f");
    pair.b.process.kill();
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    let again = Again { source: LifeId(0), attempt: 1, applied: 0 };
    let Msg::Refuse { detail } = pair.introduce(&line, 1, 1, hello(Some(again))) else { panic!("the session was resumed") };
    assert!(detail.contains("restarted"), "{detail}");
    assert!(pair.lost(Who::A).contains("restarted"));
    assert!(write.recv_timeout(Duration::ZERO).is_err(), "the loss of the session answered a write");
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
}

#[test]
fn a_follower_that_begins_anew_in_the_middle_of_a_session_is_refused() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    pair.b.process.kill();
    assert!(matches!(pair.introduce(&line, 1, 1, hello(None)), Msg::Refuse { .. }));
    assert!(pair.lost(Who::A).contains("restarted"));
}

#[test]
fn a_node_of_another_version_is_refused_and_both_say_what_to_do() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.ok(Who::A, ReplicaOrder::Serve { epoch: Epoch(1) });
    pair.ok(Who::A, ReplicaOrder::Offer { epoch: Epoch(1), session: Session(1) });
    let other = Hello { version: VERSION + 1, ..hello(None) };
    let Msg::Refuse { detail } = pair.introduce(&line, 1, 1, other) else { panic!("it was let in") };
    assert!(detail.contains(&format!("version {}: install the same version", VERSION + 1)), "{detail}");
    let begun = Instant::now();
    while pair.said("n1.log", "install the same version") == 0 {
        assert!(begun.elapsed() < LONG, "{}", pair.logs());
    }
    // A stranger does not end an offer.
    pair.ok(Who::B, ReplicaOrder::Follow { epoch: Epoch(1), session: Session(1) });
    pair.note(Who::A, "Armed", |n| *n == ReplicaNote::Armed { session: Session(1) });
}

#[test]
fn another_epoch_or_session_is_refused_and_only_a_newer_one_ends_this() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(4, 7);
    let again = Again { source: LifeId(0), attempt: 1, applied: 0 };
    for (epoch, session) in [(3, 7), (4, 6), (3, 8)] {
        let said = pair.introduce(&line, epoch, session, hello(Some(again.clone())));
        assert!(matches!(said, Msg::Refuse { .. }), "{said:?}");
        fs::write(pair.a.dir.join(format!("f{session}")), "x").unwrap();
    }
    pair.assert_not_lost();
    assert!(matches!(pair.introduce(&line, 4, 8, hello(Some(again))), Msg::Refuse { .. }));
    assert!(pair.lost(Who::A).contains("session 8"));
    assert!(pair.lost(Who::B).contains("session 8"), "the follower was not told");
}

#[test]
fn a_session_ended_by_order_while_the_line_is_down_is_over() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let to = pair.a.dir.join("f");
    line.down();
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    let begun = Instant::now();
    pair.ok(Who::B, ReplicaOrder::CloseSession { epoch: Epoch(1) });
    assert!(begun.elapsed() < PATIENCE, "closing a session waited for its line: {:?}", begun.elapsed());
    line.up();
    assert!(write.recv_timeout(QUIET).is_err(), "a follower that had closed the session went on with it");
    assert!(!pair.b.dir.join("f").exists(), "something was applied after the session was closed");
    let begun = Instant::now();
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    assert!(begun.elapsed() < PATIENCE, "going alone waited for the line: {:?}", begun.elapsed());
    assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    pair.assert_not_lost();
}

#[test]
fn a_follower_hears_at_once_that_the_other_side_went_on_alone() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    fs::write(pair.a.dir.join("f"), "x").unwrap();
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    assert!(pair.lost(Who::B).contains("alone"));
    drop(line);
}

#[test]
fn a_release_waits_for_a_line_that_is_down_and_loses_nothing() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let to = pair.a.dir.join("f");
    line.down();
    let write = aside(move || fs::write(to, "x").map_err(|e| e.raw_os_error()));
    assert!(write.recv_timeout(QUIET).is_err());
    let release = pair.begin(Who::A, ReplicaOrder::Release { epoch: Epoch(1) });
    assert!(write.recv_timeout(QUIET).is_err());
    line.up();
    let answer = pair.answer(Who::A, release);
    assert!(matches!(answer, ReplicaAnswer::Done { .. }), "{answer:?}");
    // What was begun is finished or fails; what was answered is there.
    let _ = write.recv_timeout(LONG).unwrap();
    assert!(pair.b.dir.join("f").exists());
}

#[test]
fn strangers_and_silent_connections_do_not_keep_the_peer_out() {
    let (mut pair, line) = pair_over_line(ENDLESS);
    pair.serve_and_arm(1, 1);
    let to = line.0.to.lock().unwrap().unwrap();
    let mut noisy = TcpStream::connect(to).unwrap();
    noisy.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(to).unwrap()).collect();
    let begun = Instant::now();
    line.cut();
    fs::write(pair.a.dir.join("f"), "x").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "the peer was let in after {:?}", begun.elapsed());
    drop(silent);
    pair.assert_not_lost();
    pair.assert_equal();
}
