//! Two links, or a link and a raw socket with the codec, on loopback.

use super::codec::{Body, Codec, Echo, Envelope};
use super::*;
use std::collections::BTreeSet;
use std::time::Instant;
use tokio::sync::mpsc::Receiver;
use tsugi_core::ids::{Epoch, Gen, Session};
use tsugi_core::state::{Flag, Readiness, State};

const KEY: [u8; 32] = [7; 32];
/// Bound of every wait: loopback takes less than a millisecond, a loaded machine a second.
const PATIENCE: Duration = Duration::from_secs(10);

fn status(epoch: u64) -> Status {
    Status {
        state: State::Alone,
        readiness: Readiness::Ready,
        is_started: true,
        is_serving: true,
        flag: Flag::UpToDate,
        epoch: Epoch(epoch),
        gen_id: Gen(1),
        lineage: Vec::new(),
        in_sync: BTreeSet::new(),
        is_owner: true,
        arbiter: LifeId(1),
        has_intent: false,
        session: Session(0),
        offer: None,
        requires: None,
        level: None,
        is_promise: false,
        released: None,
        hands_over: false,
        keep_ms: 5055,
        strange_store: LifeId(0),
        heard_strange_store: LifeId(0),
        is_arbiter_silent: false,
        is_session_lost: false,
        is_fit: true,
        wants_role: false,
        is_taken: false,
        resources: Default::default(),
    }
}

/// Addresses nobody else uses: a free port of the kernel's choice per address.
fn free(host: &str) -> SocketAddr {
    UdpSocket::bind(format!("{host}:0")).unwrap().local_addr().unwrap()
}

fn config(node: &str, peer: &str, life: u128, networks: Vec<LinkNetwork>) -> LinkConfig {
    LinkConfig {
        module: ModuleName::new("m").unwrap(),
        node: NodeName::new(node).unwrap(),
        peer: NodeName::new(peer).unwrap(),
        life: LifeId(life),
        key: KEY,
        networks,
        lost_after: Duration::from_secs(5),
    }
}

fn network(lan: &str, local: SocketAddr, peer: SocketAddr) -> LinkNetwork {
    LinkNetwork { lan: lan.to_owned(), local, peer }
}

async fn next(rx: &mut Receiver<LinkEvent>) -> Heard {
    match tokio::time::timeout(PATIENCE, rx.recv()).await.expect("a beat within the bound") {
        Some(LinkEvent::Heard(heard)) => heard,
        None => panic!("the link ended"),
    }
}

/// Waits until `holds`, looking often; fails with `what` after [`PATIENCE`].
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The other side by hand: whatever the test wants on the wire.
struct Raw {
    socket: UdpSocket,
    to: SocketAddr,
    seal: Codec,
    open: Codec,
    life: LifeId,
}

impl Raw {
    fn new(local: SocketAddr, to: SocketAddr, key: [u8; 32], life: u128) -> Raw {
        let socket = UdpSocket::bind(local).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (module, a, b) = (ModuleName::new("m").unwrap(), NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        Raw { socket, to, seal: Codec::new(key, &module, &b, &a), open: Codec::new(key, &module, &a, &b), life: LifeId(life) }
    }
    fn beat(&self, seq: u64, answers: Option<(LifeId, u64)>) -> Body {
        let (module, node) = (ModuleName::new("m").unwrap(), NodeName::new("b").unwrap());
        Body::Beat(Box::new(Beat { protocol: PROTOCOL, module, node, life: self.life, seq, answers, status: status(seq) }))
    }
    fn seal(&mut self, counter: u64, echo: Option<Echo>, body: Body) -> Vec<u8> {
        self.seal_at(1, counter, echo, body)
    }
    /// Sent at this instant of the other side's clock.
    fn seal_at(&mut self, sent_ns: u64, counter: u64, echo: Option<Echo>, body: Body) -> Vec<u8> {
        self.seal.seal(self.life, counter, [0; 4], "lan", &Envelope { sent_ns, echo, body }).unwrap()
    }
    fn put(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).unwrap();
    }
    /// Waits for the next datagram of the link and names it.
    fn answer(&mut self) -> Echo {
        let mut buffer = [0; 2000];
        let length = self.socket.recv(&mut buffer).unwrap();
        let (header, envelope) = self.open.open("lan", &buffer[..length]).unwrap();
        Echo { life: header.life, counter: header.counter, sent_ns: envelope.sent_ns, held_ns: 0 }
    }
}

/// A link `a` and a raw other side that has proved life 50 and whose beats 1 was heard.
async fn link_and_raw() -> (Link, Receiver<LinkEvent>, Raw) {
    let (local, peer) = (free("127.0.0.1"), free("127.0.0.2"));
    let mut raw = Raw::new(peer, local, KEY, 50);
    let (tx, mut rx) = mpsc::channel(16);
    let link = Link::start(config("a", "b", 1, vec![network("lan", local, peer)]), tx).await.unwrap();
    link.send(status(0));
    let echo = raw.answer();
    let datagram = raw.seal(1, Some(echo), raw.beat(1, None));
    raw.put(&datagram);
    assert_eq!(next(&mut rx).await.seq, 1);
    (link, rx, raw)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_links_hear_each_other_on_two_networks_once() {
    let at = [free("127.0.0.1"), free("127.0.0.2"), free("127.0.0.3"), free("127.0.0.4")];
    let (tx_a, mut rx_a) = mpsc::channel(16);
    let (tx_b, mut rx_b) = mpsc::channel(16);
    let a = Link::start(config("a", "b", 1, vec![network("x", at[0], at[1]), network("y", at[2], at[3])]), tx_a).await.unwrap();
    let b = Link::start(config("b", "a", 2, vec![network("x", at[1], at[0]), network("y", at[3], at[2])]), tx_b).await.unwrap();
    let before = boottime_ns();
    let first = a.send(status(5));
    let heard = next(&mut rx_b).await;
    assert_eq!((heard.seq, heard.status.epoch, heard.peer_life, heard.answers), (first, Epoch(5), LifeId(1), None));
    assert!(a.sent_ns(first).unwrap() >= before && a.sent_ns(first).unwrap() <= heard.received_ns && heard.received_ns <= boottime_ns());
    assert_eq!(a.sent_ns(first + 1), None);

    // Handed on, and not processed: not answered.
    let unanswered = b.send(status(6));
    assert_eq!(next(&mut rx_a).await.answers, None);
    b.processed(&heard);
    b.send(status(7));
    assert_eq!(next(&mut rx_a).await.answers, Some(first));
    // A later beat that b has not processed changes nothing.
    a.send(status(8));
    let later = next(&mut rx_b).await;
    b.send(status(9));
    assert_eq!(next(&mut rx_a).await.answers, Some(first));
    // An earlier one declared late changes nothing either.
    b.processed(&later);
    b.processed(&heard);
    b.send(status(10));
    assert_eq!(next(&mut rx_a).await.answers, Some(later.seq));
    assert!(unanswered > 0);

    // Both networks are up and measured, though each beat came once.
    until("both networks up with a round trip on both sides", || {
        a.send(status(1));
        b.send(status(1));
        while rx_a.try_recv().is_ok() {}
        while rx_b.try_recv().is_ok() {}
        a.networks().iter().chain(&b.networks()).all(|n| n.is_up && n.rtt_us.is_some_and(|us| us < 1_000_000))
    })
    .await;
    assert_eq!(a.networks().iter().map(|n| n.lan.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(a.dropped().refused + b.dropped().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_or_overtaken_beat_is_not_heard() {
    let (link, mut rx, mut raw) = link_and_raw().await;
    let third = raw.seal(3, None, raw.beat(3, None));
    let second = raw.seal(2, None, raw.beat(2, None));
    raw.put(&third);
    assert_eq!(next(&mut rx).await.seq, 3);
    raw.put(&second);
    raw.put(&third);
    // An older beat in a newer datagram is not handed on either.
    let old_beat = raw.seal(4, None, raw.beat(2, None));
    raw.put(&old_beat);
    let fourth = raw.seal(5, None, raw.beat(4, None));
    raw.put(&fourth);
    assert_eq!(next(&mut rx).await.seq, 4);
    assert_eq!(link.dropped().stale, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_garbage_and_oversize_are_dropped() {
    let (link, mut rx, mut raw) = link_and_raw().await;
    let mut stranger = Raw::new(free("127.0.0.5"), raw.to, [8; 32], 50);
    let forged = stranger.seal(9, None, stranger.beat(9, None));
    stranger.put(&forged);
    stranger.put(b"hello");
    stranger.put(&[0; 3000]);
    let reflected = {
        link.send(status(0));
        let mut buffer = [0; 2000];
        let length = raw.socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    };
    raw.put(&reflected);
    let good = raw.seal(10, None, raw.beat(10, None));
    raw.put(&good);
    assert_eq!(next(&mut rx).await.seq, 10);
    assert_eq!(link.dropped().refused, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_life_replaces_the_old_one_for_good_and_must_prove_itself() {
    let (link, mut rx, mut old) = link_and_raw().await;
    let old_late = old.seal(7, None, old.beat(7, None));
    // A recording of a life nobody here knows: it echoes nothing of this life, and is asked instead of heard.
    let socket = old.socket.try_clone().unwrap();
    let mut new = Raw { socket, life: LifeId(51), ..Raw::new(free("127.0.0.6"), old.to, KEY, 51) };
    let unproven = new.seal(1, None, new.beat(3, None));
    new.put(&unproven);
    let asked = new.answer();
    assert_eq!(link.dropped().unproven, 1);
    assert!(rx.try_recv().is_err());
    // The proof: the beat that waited is heard, then nothing of the old life any more.
    let proof = new.seal(2, Some(asked), Body::Proof);
    new.put(&proof);
    let heard = next(&mut rx).await;
    assert_eq!((heard.peer_life, heard.seq), (LifeId(51), 3));
    new.put(&old_late);
    let next_beat = new.seal(3, None, new.beat(4, None));
    new.put(&next_beat);
    let heard = next(&mut rx).await;
    assert_eq!((heard.peer_life, heard.seq), (LifeId(51), 4));
    assert_eq!(link.dropped().stale, 1);
}

/// A link that is opened anew in a living pair: what was recorded before is of the very life that proves itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beat_from_before_this_link_is_not_heard_when_its_life_proves_itself() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let (local, peer) = (free("127.0.0.1"), free("127.0.0.7"));
    let mut raw = Raw::new(peer, local, KEY, 50);
    let (tx, mut rx) = mpsc::channel(16);
    let _link = Link::start(config("a", "b", 1, vec![network("lan", local, peer)]), tx).await.unwrap();
    let recorded = raw.seal_at(1, 1, None, raw.beat(7, None));
    raw.put(&recorded);
    let asked = raw.answer();
    let proof = raw.seal_at(HOUR_NS, 2, Some(asked), Body::Proof);
    raw.put(&proof);
    let beat = raw.seal_at(HOUR_NS + 1, 3, None, raw.beat(9, None));
    raw.put(&beat);
    assert_eq!(next(&mut rx).await.seq, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_an_earlier_life_is_no_answer() {
    let (_link, mut rx, mut raw) = link_and_raw().await;
    let other_life = raw.seal(5, None, raw.beat(5, Some((LifeId(99), 3))));
    raw.put(&other_life);
    assert_eq!(next(&mut rx).await.answers, None);
    let never_sent = raw.seal(6, None, raw.beat(6, Some((LifeId(1), u64::MAX))));
    raw.put(&never_sent);
    assert_eq!(next(&mut rx).await.answers, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_taken_as_soon_as_it_is_free() {
    let (local, peer) = (free("127.0.0.1"), free("127.0.0.2"));
    let occupied = UdpSocket::bind(local).unwrap();
    let (tx, mut rx) = mpsc::channel(16);
    let a = Link::start(config("a", "b", 1, vec![network("lan", local, peer)]), tx).await.unwrap();
    let (tx_b, _rx_b) = mpsc::channel(16);
    let b = Link::start(config("b", "a", 2, vec![network("lan", peer, local)]), tx_b).await.unwrap();
    a.send(status(1));
    assert!(!a.networks()[0].is_up);
    drop(occupied);
    until("heard after the port became free", || {
        b.send(status(2));
        rx.try_recv().is_ok()
    })
    .await;
    assert!(a.networks()[0].is_up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_opened_again_in_the_same_life_goes_on_above() {
    let (local, peer) = (free("127.0.0.1"), free("127.0.0.2"));
    let (tx_b, mut rx_b) = mpsc::channel(16);
    let _b = Link::start(config("b", "a", 2, vec![network("lan", peer, local)]), tx_b).await.unwrap();
    let mut last = 0;
    for _ in 0..2 {
        let (tx, _rx) = mpsc::channel(16);
        let a = Link::start(config("a", "b", 1, vec![network("lan", local, peer)]), tx).await.unwrap();
        let seq = a.send(status(1));
        let heard = next(&mut rx_b).await;
        assert!(heard.seq == seq && seq > last);
        last = seq;
        drop(a);
        until("the port is free again", || UdpSocket::bind(local).is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_consumer_loses_old_beats_not_the_newest() {
    let (local, peer) = (free("127.0.0.1"), free("127.0.0.2"));
    let mut raw = Raw::new(peer, local, KEY, 50);
    let (tx, mut rx) = mpsc::channel(1);
    let link = Link::start(config("a", "b", 1, vec![network("lan", local, peer)]), tx).await.unwrap();
    link.send(status(0));
    let echo = raw.answer();
    for seq in 1..=3 {
        let datagram = raw.seal(seq, Some(echo), raw.beat(seq, None));
        raw.put(&datagram);
    }
    until("two beats found no room", || link.dropped().unread == 2).await;
    assert_eq!(next(&mut rx).await.seq, 1);
    let datagram = raw.seal(4, None, raw.beat(4, None));
    raw.put(&datagram);
    assert_eq!(next(&mut rx).await.seq, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_status_fits_into_a_datagram() {
    let long = |c: char| c.to_string().repeat(63);
    let (module, node, peer) = (ModuleName::new(long('m')).unwrap(), NodeName::new(long('a')).unwrap(), NodeName::new(long('b')).unwrap());
    let (at_a, at_b) = (free("127.0.0.1"), free("127.0.0.2"));
    let side = |node: &NodeName, peer: &NodeName, life, local, to| LinkConfig {
        module: module.clone(),
        node: node.clone(),
        peer: peer.clone(),
        ..config("a", "b", life, vec![network("lan", local, to)])
    };
    let (tx_a, mut rx_a) = mpsc::channel(16);
    let (tx_b, mut rx_b) = mpsc::channel(16);
    let a = Link::start(side(&node, &peer, u128::MAX, at_a, at_b), tx_a).await.unwrap();
    let b = Link::start(side(&peer, &node, u128::MAX - 1, at_b, at_a), tx_b).await.unwrap();
    let all = Some(Session(u64::MAX));
    let largest = Status {
        epoch: Epoch(u64::MAX),
        gen_id: Gen(u128::MAX),
        lineage: vec![Gen(u128::MAX); tsugi_core::wire::peer::LINEAGE_SENT_MAX],
        in_sync: BTreeSet::from([node.clone(), peer.clone()]),
        session: Session(u64::MAX),
        offer: all,
        requires: all,
        level: all,
        released: Some(Epoch(u64::MAX)),
        keep_ms: u64::MAX,
        strange_store: LifeId(u128::MAX),
        heard_strange_store: LifeId(u128::MAX),
        ..status(0)
    };
    b.send(status(1));
    a.processed(&next(&mut rx_a).await);
    a.send(largest.clone());
    assert_eq!(next(&mut rx_b).await.status, largest);
}

#[test]
fn a_network_whose_addresses_come_late_is_used_as_soon_as_they_are_there() {
    let in_namespace = std::thread::spawn(|| {
        // SAFETY: affects this thread only, which was made for it.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
        let ip = |arguments: &str| assert!(std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let [x, y]: [SocketAddr; 2] = ["10.9.0.1:8888", "10.9.0.2:8888"].map(|at| at.parse().unwrap());
            let (tx_a, _rx_a) = mpsc::channel(16);
            let (tx_b, mut rx_b) = mpsc::channel(16);
            let a = Link::start(config("a", "b", 1, vec![network("lan", x, y)]), tx_a).await.unwrap();
            let b = Link::start(config("b", "a", 2, vec![network("lan", y, x)]), tx_b).await.unwrap();
            a.send(status(1));
            assert!(!a.networks()[0].is_up);
            ip("link set lo up");
            ip("address add 10.9.0.1/24 dev lo");
            ip("address add 10.9.0.2/24 dev lo");
            until("heard once the addresses are there", || {
                a.send(status(2));
                b.send(status(2));
                rx_b.try_recv().is_ok()
            })
            .await;
            until("up on both sides", || {
                a.send(status(3));
                b.send(status(3));
                a.networks()[0].is_up && b.networks()[0].is_up
            })
            .await;
        });
    });
    in_namespace.join().unwrap();
}
