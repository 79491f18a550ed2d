//! Two network namespaces with a cable between them; each test makes its own pair, which vanishes with its threads.

use super::*;
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(15);
const NO_LIMIT: Raise = Raise { lifetime: None, conflicts: Conflicts::Refuse };

/// Compiles only if the work may be done in any task.
#[allow(dead_code)]
fn everything_is_send(vips: &'static mut Vips) {
    fn is_send<T: Send>(_: T) {}
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Vips>();
    is_shared::<crate::link::Link>();
    is_shared::<crate::checker::Checkers>();
    is_send(async {
        let _ = vips.raise(NO_LIMIT).await;
        let _ = vips.renew(Duration::ZERO).await;
        vips.held().await;
        vips.drop_all().await
    });
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own: whatever it starts is in there too.
struct Host {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    tid: i32,
}

impl Host {
    fn new() -> Host {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tid_out, tid_in) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: affects this thread only, which was made for it.
            let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(answer, 0, "these tests need root: {}", io::Error::last_os_error());
            // SAFETY: no arguments, cannot fail.
            tid_out.send(unsafe { libc::gettid() }).unwrap();
            for job in todo {
                job();
            }
        });
        Host { tid: tid_in.recv().unwrap(), jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `work` in the namespace and returns what it returns.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (out, result) = mpsc::channel();
        self.jobs.as_ref().unwrap().send(Box::new(move || out.send(work()).unwrap())).unwrap();
        result.recv().expect("the work in the namespace panicked, see above")
    }

    /// Runs async `work` in the namespace.
    fn block_on<T: Send + 'static, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send + 'static) -> T {
        self.run(move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work()))
    }

    /// Runs a command in the namespace and returns its output.
    fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        self.run(move || ip(&arguments))
    }
}

fn ip(arguments: &[String]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `node` 10.9.0.1 and `other` 10.9.0.2 (fd09::1, fd09::2) on one cable.
fn pair() -> (Host, Host) {
    let (node, other) = (Host::new(), Host::new());
    node.ip(&format!("link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns {}", other.tid));
    for (host, number) in [(&node, 1), (&other, 2)] {
        host.ip("link set lo up");
        host.ip(&format!("address add 10.9.0.{number}/24 dev eth0"));
        host.ip(&format!("address add fd09::{number}/64 dev eth0 nodad"));
        host.ip("link set eth0 up");
    }
    // The kernel brings a new cable's IPv6 addresses into service a moment later.
    let begin = Instant::now();
    while [&node, &other].iter().any(|h| {
        h.ip("-6 -o address show dev eth0 to fd09::/64").contains("tentative")
            || !h.ip("-6 maddress show dev eth0").contains("ff02::1:ff00:")
    }) {
        assert!(begin.elapsed() < PATIENCE, "IPv6 never came up");
        std::thread::sleep(Duration::from_millis(10));
    }
    (node, other)
}

fn vip(addr: &str) -> Vip {
    Vip { addr: addr.parse().unwrap(), prefix: None, interface: None, is_checked: false }
}

#[test]
fn raised_addresses_answer_without_disturbing_the_own_one_and_go_away() {
    let (node, _other) = pair();
    let (held, dropped, again) = node.block_on(|| async {
        let mut vips = Vips::new(vec![vip("10.9.0.50"), vip("fd09::50")]);
        assert_eq!(vips.held().await, Vec::<IpAddr>::new());
        let raised = vips.raise(NO_LIMIT).await.unwrap();
        assert_eq!(raised, vips.held().await);
        // The interface's own address stays the source, and the subnet has one route.
        let shown = ip(&["-o".into(), "address".into(), "show".into(), "dev".into(), "eth0".into()]);
        assert!(shown.contains("10.9.0.50/24") && shown.contains("secondary"), "{shown}");
        let route = ip(&["route".into(), "get".into(), "10.9.0.51".into()]);
        assert!(route.contains("src 10.9.0.1"), "{route}");
        let route = ip(&["-6".into(), "route".into(), "get".into(), "fd09::51".into()]);
        assert!(route.contains("src fd09::1"), "{route}");
        // Raising twice is the same as once.
        assert_eq!(vips.raise(NO_LIMIT).await.unwrap(), raised);
        std::mem::forget(vips); // as a killed agent would
        // A new life drops what the old one left.
        let mut vips = Vips::new(vec![vip("10.9.0.50"), vip("fd09::50")]);
        let held = vips.held().await;
        let dropped = vips.drop_all().await.unwrap();
        assert_eq!(vips.held().await, Vec::<IpAddr>::new());
        (held, dropped, vips.drop_all().await.unwrap())
    });
    assert_eq!(held.len(), 2);
    assert_eq!(dropped, held);
    assert_eq!(again, Vec::<IpAddr>::new());
    assert!(node.ip("-o address show dev eth0").contains("10.9.0.1/24"), "the own address stays");
}

#[test]
fn the_neighbours_learn_where_an_address_went() {
    let (node, other) = pair();
    // The other side believes that the addresses are at a machine that died.
    other.ip("neigh add 10.9.0.50 lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
    other.ip("neigh add fd09::50 lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
    node.block_on(move || async move {
        let mut vips = Vips::new(vec![vip("10.9.0.50"), vip("fd09::50")]);
        vips.raise(Raise { lifetime: None, conflicts: Conflicts::Override }).await.unwrap();
        let begin = Instant::now();
        loop {
            let known = other.ip("neigh show");
            if known.matches("lladdr 02:00:00:00:00:01").count() >= 2 && !known.contains("02:00:00:00:00:99") {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{known}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn announcing_again_corrects_a_neighbour() {
    let (node, other) = pair();
    node.block_on(move || async move {
        let mut vips = Vips::new(vec![vip("10.9.0.50")]);
        vips.raise(NO_LIMIT).await.unwrap();
        vips.stop_announcing();
        other.ip("neigh replace 10.9.0.50 lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
        vips.announce();
        let begin = Instant::now();
        while !other.ip("neigh show 10.9.0.50").contains("02:00:00:00:00:01") {
            assert!(begin.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn the_kernel_drops_an_address_nobody_renews() {
    let (node, _other) = pair();
    node.block_on(|| async {
        let mut vips = Vips::new(vec![vip("10.9.0.50"), vip("fd09::50")]);
        let lifetime = Some(Duration::from_secs(2));
        vips.raise(Raise { lifetime, conflicts: Conflicts::Override }).await.unwrap();
        // Renewed, it outlives its first lifetime.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(4) {
            assert_eq!(vips.renew(Duration::from_secs(2)).await.unwrap(), Vec::<IpAddr>::new());
            assert_eq!(vips.held().await.len(), 2);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        // Not renewed, it ends.
        let begin = Instant::now();
        while !vips.held().await.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "the kernel never dropped it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        // And a late renewal does not bring it back.
        assert_eq!(vips.renew(Duration::from_secs(2)).await.unwrap().len(), 2);
        assert_eq!(vips.held().await, Vec::<IpAddr>::new());
    });
}

#[test]
fn an_address_in_use_elsewhere_is_refused_unless_overridden() {
    let (node, other) = pair();
    for addr in ["10.9.0.2", "fd09::2"] {
        node.block_on(move || async move {
            let mut vips = Vips::new(vec![vip("10.9.0.60"), vip(addr)]);
            match vips.raise(NO_LIMIT).await {
                Err(VipError::InUse { addr: found, mac, interface }) => {
                    assert_eq!((found.to_string().as_str(), mac.as_str(), interface.as_str()), (addr, "02:00:00:00:00:02", "eth0"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(vips.held().await, Vec::<IpAddr>::new(), "all or nothing");
            let how = Raise { lifetime: None, conflicts: Conflicts::Override };
            assert_eq!(vips.raise(how).await.unwrap().len(), 2);
            vips.drop_all().await.unwrap();
        });
    }
    drop(other);
}

#[test]
fn mistakes_are_named_with_what_was_found() {
    let (node, _other) = pair();
    node.block_on(|| async {
        let error = Vips::new(vec![vip("10.8.0.50")]).raise(NO_LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("10.8.0.50") && error.contains("eth0 10.9.0.1/24"), "{error}");
        let wrong = Vip { interface: Some("eth7".into()), ..vip("10.9.0.50") };
        let error = Vips::new(vec![wrong]).raise(NO_LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("eth7") && error.contains("eth0"), "{error}");
        // The machine's own address is not taken from it, neither by raising nor by dropping.
        let mut own = Vips::new(vec![vip("10.9.0.1")]);
        let elsewhere = Vip { interface: Some("eth0".into()), ..vip("10.9.0.1") };
        let raised = Vips::new(vec![elsewhere]).raise(NO_LIMIT).await;
        assert!(matches!(raised, Err(VipError::Foreign { .. })), "{raised:?}");
        assert!(matches!(own.drop_all().await, Err(VipError::Foreign { .. })));
        assert_eq!(own.held().await.len(), 1);
        // Nor one that came with an end, from DHCP for example.
        ip(&"address add 10.9.0.70/24 dev eth0 valid_lft 1000 preferred_lft 1000".split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(matches!(Vips::new(vec![vip("10.9.0.70")]).drop_all().await, Err(VipError::Foreign { .. })));
        // What is ours goes all the same.
        Vips::new(vec![vip("10.9.0.71")]).raise(NO_LIMIT).await.unwrap();
        let mut both = Vips::new(vec![vip("10.9.0.70"), vip("10.9.0.71")]);
        assert!(matches!(both.drop_all().await, Err(VipError::Foreign { .. })));
        assert_eq!(both.held().await, vec!["10.9.0.70".parse::<IpAddr>().unwrap()]);
    });
    // A named interface takes an address of another subnet, standing alone.
    node.block_on(|| async {
        let alone = Vip { interface: Some("eth0".into()), ..vip("10.8.0.50") };
        let mut vips = Vips::new(vec![alone]);
        vips.raise(NO_LIMIT).await.unwrap();
        let shown = ip(&["-o".into(), "address".into(), "show".into(), "dev".into(), "eth0".into()]);
        assert!(shown.contains("10.8.0.50/32"), "{shown}");
    });
}

#[test]
fn connections_are_cut_before_their_address_goes() {
    let (node, other) = pair();
    node.block_on(move || async move {
        let mut vips = Vips::new(vec![vip("10.9.0.50"), vip("fd09::50")]);
        vips.raise(NO_LIMIT).await.unwrap();
        // One listener for both families: its IPv4 connections are IPv6 sockets in the kernel's eyes.
        let listener = std::net::TcpListener::bind("[::]:7000").unwrap();
        let connect = |to: &'static str| other.run(move || std::net::TcpStream::connect(to).unwrap());
        let mut clients = [connect("10.9.0.50:7000"), connect("[fd09::50]:7000")];
        let mut own = connect("10.9.0.1:7000");
        let served: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
        vips.drop_all().await.unwrap();
        for client in &mut clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let error = std::io::Read::read(client, &mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        // A connection to the machine's own address goes on.
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Write::write_all(&mut &served[2].0, b"x").unwrap();
        assert_eq!(std::io::Read::read(&mut own, &mut [0]).unwrap(), 1);
    });
}
