//! Real ports, processes and addresses.

use super::*;
use crate::cgroup::Cgroups;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::Instant;
use tokio::sync::mpsc::Receiver;
use tsugi_core::ids::{Epoch, Gen, NodeName, Session};
use tsugi_core::module::{Action, HttpProbe, Interface, Limits, Standing, StatusRange, When};
use tsugi_core::state::{ArbiterView, Flag, PeerView, Readiness, Replication, Snapshot, State};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(15);
/// An interval that never comes: what is seen, is seen by itself.
const NEVER: Duration = Duration::from_secs(3600);

/// A directory that is a module's `bin`, and where checkers are.
struct Place {
    dir: tempfile::TempDir,
    board: Board,
    group: Option<Group>,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap(), board: Board::default(), group: None }
    }
    fn script(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn start(&self, check: &Check) -> (Checkers, Receiver<CheckerEvent>) {
        let (tx, rx) = mpsc::channel(64);
        let env = [("PATH", "/usr/bin:/bin"), ("TSUGI_MODULE", "m"), ("TSUGI_NODE", "n1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let around = Surroundings {
            module: ModuleName::new("m").unwrap(),
            bin_dir: self.dir.path().to_owned(),
            env: env.into(),
            handler_timeout: Duration::from_secs(10),
            systemctl: self.file("systemctl"),
            board: self.board.clone(),
            group: self.group.clone(),
        };
        let mut checkers = Checkers::new(around, tx);
        checkers.keep(&[check]);
        (checkers, rx)
    }
}

fn check(interval: Duration, probe: Probe) -> Check {
    Check::new("class.ident", When::Prim, interval, probe, Action::Restart)
}

fn start(interval: Duration, probe: Probe) -> (Checkers, Receiver<CheckerEvent>) {
    Place::new().start(&check(interval, probe))
}

async fn next(rx: &mut Receiver<CheckerEvent>) -> CheckerEvent {
    tokio::time::timeout(PATIENCE, rx.recv()).await.expect("an event within the bound").expect("the check runs")
}

fn tcp(port: u16) -> Probe {
    Probe::Tcp { addr: "127.0.0.1".into(), port, timeout: Duration::from_secs(2) }
}

fn proc(arg_regex: &str, at_least: u32, at_most: Option<u32>) -> Probe {
    Probe::Proc { command: Some("sleep".into()), name_regex: None, arg_regex: Some(arg_regex.into()), at_least, at_most }
}

/// A process whose command line holds `mark`.
fn sleeper(mark: &str) -> Child {
    Command::new("sleep").arg(mark).spawn().unwrap()
}

#[tokio::test]
async fn a_port_is_up_then_refused_then_up_and_only_changes_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (_checkers, mut rx) = start(Duration::from_millis(100), tcp(at.port()));
    let event = next(&mut rx).await;
    assert_eq!((event.name.as_str(), event.health), ("class.ident", Health::Up));
    // Several tests come, which the listener sees, and no further event.
    let listener = tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            listener.accept().unwrap();
        }
        listener
    })
    .await
    .unwrap();
    assert!(rx.try_recv().is_err());
    drop(listener);
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail), (Health::Down, format!("connect {at}: refused")));
    let _listener = TcpListener::bind(at).unwrap();
    assert_eq!(next(&mut rx).await.health, Health::Up);
}

#[tokio::test]
async fn one_refused_connection_is_not_down() {
    // Closed at the first test, open at the second one 200 ms later.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let begin = Instant::now();
    let (_checkers, mut rx) = start(NEVER, tcp(at.port()));
    tokio::time::sleep(Duration::from_millis(100)).await; // between the two tests
    let _listener = TcpListener::bind(at).unwrap();
    let event = next(&mut rx).await;
    assert!(event.health == Health::Up || begin.elapsed() > Duration::from_millis(400), "{event:?}");
}

#[tokio::test]
async fn a_silent_port_is_down_after_the_time_out() {
    // A full backlog: the kernel does not answer any more.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    let _full: Vec<_> = (0..4).map(|_| std::net::TcpStream::connect_timeout(&at, Duration::from_millis(100))).collect();
    let (_checkers, mut rx) = start(NEVER, Probe::Tcp { addr: at.ip().to_string(), port: at.port(), timeout: Duration::from_millis(150) });
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail), (Health::Down, format!("connect {at}: no answer within 150ms")));
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_down_with_the_reason() {
    let probe = Probe::Tcp { addr: "no-such-host.invalid".into(), port: 1, timeout: Duration::from_secs(3) };
    let (_checkers, mut rx) = start(NEVER, probe);
    let event = next(&mut rx).await;
    assert!(event.health == Health::Down && event.detail.contains("resolved"), "{event:?}");
}

#[tokio::test]
async fn the_end_of_a_process_is_seen_at_once() {
    let mark = format!("1000{}1", std::process::id());
    let mut child = sleeper(&mark);
    let (_checkers, mut rx) = start(NEVER, proc(&mark, 1, None));
    assert_eq!(next(&mut rx).await.health, Health::Up);
    let begin = Instant::now();
    child.kill().unwrap();
    let event = next(&mut rx).await;
    // Far below any interval; the usual time is a few milliseconds.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(event.health, Health::Down);
    assert!(event.detail.starts_with("0 running: sleep"), "{}", event.detail);
    child.wait().unwrap();
}

#[tokio::test]
async fn one_of_two_may_end_and_a_new_one_is_found() {
    let mark = format!("1000{}2", std::process::id());
    let (mut one, mut two) = (sleeper(&mark), sleeper(&mark));
    let (_checkers, mut rx) = start(Duration::from_millis(100), proc(&mark, 1, None));
    assert_eq!(next(&mut rx).await.health, Health::Up);
    one.kill().unwrap();
    one.wait().unwrap();
    two.kill().unwrap();
    two.wait().unwrap();
    assert_eq!(next(&mut rx).await.health, Health::Down, "only the end of the last one counts");
    let mut three = sleeper(&mark);
    assert_eq!(next(&mut rx).await.health, Health::Up);
    three.kill().unwrap();
    three.wait().unwrap();
}

#[tokio::test]
async fn too_many_processes_are_down() {
    let mark = format!("1000{}3", std::process::id());
    let (_checkers, mut rx) = start(Duration::from_millis(100), proc(&mark, 0, Some(0)));
    assert_eq!(next(&mut rx).await.health, Health::Up);
    let mut child = sleeper(&mark);
    assert_eq!(next(&mut rx).await.health, Health::Down);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(next(&mut rx).await.health, Health::Up);
}

#[tokio::test]
async fn dropping_the_checkers_stops_them() {
    let (checkers, mut rx) = start(NEVER, tcp(1));
    drop(checkers);
    let rest = tokio::time::timeout(PATIENCE, async { while rx.recv().await.is_some() {} }).await;
    assert!(rest.is_ok(), "no task holds the channel any more");
}

/// Runs `test` in a network of its own, which has only a loopback interface that is up. Needs root.
fn in_a_network_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let in_namespace = std::thread::spawn(move || {
        // SAFETY: affects this thread only, which was made for it.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    in_namespace.join().unwrap();
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// An interface whose other end is this value: it has a carrier as long as we say so.
struct Cable(std::fs::File);

impl Cable {
    /// `TUNSETIFF` and `TUNSETCARRIER` of <linux/if_tun.h>.
    const SET_INTERFACE: libc::c_ulong = 0x4004_54ca;
    const SET_CARRIER: libc::c_ulong = 0x4004_54e2;

    fn new(name: &str) -> Cable {
        use std::os::fd::AsRawFd;
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("tun");
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&0x1002_u16.to_ne_bytes()); // IFF_TAP | IFF_NO_PI
        // SAFETY: an open descriptor, and a request of the size the kernel reads.
        assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), Cable::SET_INTERFACE, request.as_mut_ptr()) }, 0, "an interface {name}");
        Cable(file)
    }

    fn plug(&self, is_in: bool) {
        use std::os::fd::AsRawFd;
        let value = libc::c_int::from(is_in);
        // SAFETY: an open descriptor, and a pointer to an int the kernel reads.
        assert_eq!(unsafe { libc::ioctl(self.0.as_raw_fd(), Cable::SET_CARRIER, &raw const value) }, 0, "the carrier");
    }
}

#[test]
fn an_address_is_seen_coming_and_going_at_once() {
    in_a_network_of_its_own(async || {
        for (addr, prefix) in [("10.9.0.50", "24"), ("fd09::50", "64")] {
            let (_checkers, mut rx) = start(NEVER, Probe::Ip { addr: addr.parse().unwrap() });
            assert_eq!(next(&mut rx).await.health, Health::Down);
            ip(&format!("address add {addr}/{prefix} dev lo"));
            let event = next(&mut rx).await;
            assert_eq!((event.health, event.detail), (Health::Up, format!("{addr} is on lo")));
            ip(&format!("address del {addr}/{prefix} dev lo"));
            assert_eq!(next(&mut rx).await.health, Health::Down);
        }
    });
}

#[test]
fn a_pulled_cable_is_seen_at_once_and_the_interface_is_still_known_without_its_address() {
    in_a_network_of_its_own(async || {
        let cable = Cable::new("cab0");
        ip("address add 10.9.1.1/24 dev cab0");
        ip("link set cab0 up");
        for (interface, which) in [
            (Interface::Name("cab0".into()), "by name"),
            (Interface::Local("10.9.1.1".parse().unwrap()), "by address"),
            (Interface::Near("10.9.1.77".parse().unwrap()), "by network"),
        ] {
            cable.plug(true);
            let (_checkers, mut rx) = start(NEVER, Probe::Intf { interface });
            let mut first = next(&mut rx).await;
            if first.health == Health::Down {
                first = next(&mut rx).await; // the carrier takes a moment
            }
            assert_eq!((first.health, first.detail.as_str()), (Health::Up, "cab0 is up"), "{which}");
            let begin = Instant::now();
            cable.plug(false);
            let event = next(&mut rx).await;
            assert!(begin.elapsed() < Duration::from_secs(2), "{which}: {:?}", begin.elapsed());
            assert_eq!((event.health, event.detail.as_str()), (Health::Down, "cab0 has no carrier: cable or switch"), "{which}");
            ip("address del 10.9.1.1/24 dev cab0");
            cable.plug(true);
            assert_eq!(next(&mut rx).await.health, Health::Up, "{which}");
            ip("link set cab0 down");
            assert_eq!(next(&mut rx).await.detail, "cab0 is switched off", "{which}");
            ip("link set cab0 up");
            ip("address add 10.9.1.1/24 dev cab0");
        }
        drop(cable);
        let (_checkers, mut rx) = start(NEVER, Probe::Intf { interface: Interface::Local("10.9.1.1".parse().unwrap()) });
        assert_eq!(next(&mut rx).await.detail, "no interface of this node has the address 10.9.1.1");
    });
}

#[test]
fn a_host_answers_a_ping_and_one_that_is_gone_does_not() {
    in_a_network_of_its_own(async || {
        let fast = Duration::from_millis(100);
        let probe = |addr: &str| Probe::Ping { addr: addr.into(), timeout: Duration::from_millis(300) };
        for (addr, prefix) in [("10.9.2.1", "32"), ("fd09:2::1", "128")] {
            ip(&format!("address add {addr}/{prefix} dev lo"));
            let (_checkers, mut rx) = start(fast, probe(addr));
            let event = next(&mut rx).await;
            assert!(event.health == Health::Up && event.detail.starts_with(&format!("ping {addr}: answer in ")), "{event:?}");
            ip(&format!("address del {addr}/{prefix} dev lo"));
            let event = next(&mut rx).await;
            assert_eq!(event.health, Health::Down, "{}", event.detail);
            ip(&format!("address add {addr}/{prefix} dev lo"));
            assert_eq!(next(&mut rx).await.health, Health::Up);
        }
        // A host that says nothing: the packets go into a link nobody reads.
        let _cable = Cable::new("c");
        ip("address add 10.9.3.1/24 dev c");
        ip("link set c up");
        ip("neigh add 10.9.3.9 lladdr 02:00:00:00:00:09 dev c");
        let (_checkers, mut rx) = start(fast, probe("10.9.3.9"));
        assert_eq!(next(&mut rx).await.detail, "ping 10.9.3.9: no answer within 300ms");
    });
}

/// What a server answers to one connection after another.
fn web(answers: Vec<(&'static str, Duration)>) -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (answer, after) in answers.into_iter().cycle() {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.read(&mut [0; 2000]);
            std::thread::sleep(after);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    at
}

fn http(url: String) -> HttpProbe {
    let status = vec![StatusRange { first: 200, last: 399 }];
    HttpProbe { url, timeout: Duration::from_secs(2), status, body: None, slow: None, ca: None }
}

#[tokio::test]
async fn a_web_service_is_judged_by_status_text_and_time() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"up\"}";
    let now = Duration::ZERO;
    let wanted = |at: std::net::SocketAddr| http(format!("http://{at}/health?deep=1"));
    let said = async |probe: HttpProbe| {
        let (_checkers, mut rx) = start(NEVER, Probe::Http(probe));
        let event = next(&mut rx).await;
        (event.health, event.detail)
    };
    let at = web(vec![(OK, now)]);
    let (health, detail) = said(HttpProbe { body: Some("\"up\"".into()), ..wanted(at) }).await;
    assert!(health == Health::Up && detail.starts_with(&format!("GET http://{at}/health?deep=1: 200 in ")), "{detail}");
    let (health, detail) = said(HttpProbe { body: Some("down$".into()), ..wanted(at) }).await;
    assert!(health == Health::Down && detail.ends_with("status 200, but `down$` is not in the answer"), "{detail}");
    let (health, detail) = said(HttpProbe { status: vec![StatusRange { first: 204, last: 204 }], ..wanted(at) }).await;
    assert!(health == Health::Down && detail.ends_with("status 200, not 204"), "{detail}");
    let (health, detail) =
        said(HttpProbe { slow: Some(Duration::from_millis(50)), ..wanted(web(vec![(OK, Duration::from_millis(120))])) }).await;
    assert!(health == Health::Down && detail.ends_with("ms, more than 50 ms"), "{detail}");
    let (health, detail) = said(wanted(web(vec![("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", now)]))).await;
    assert!(health == Health::Down && detail.ends_with("status 503, not 200-399"), "{detail}");
    let (health, detail) = said(wanted(web(vec![("SSH-2.0-nonsense\r\n", now)]))).await;
    assert!(health == Health::Down && detail.contains("no answer in HTTP"), "{detail}");
    let silent = HttpProbe { timeout: Duration::from_millis(100), ..wanted(web(vec![(OK, Duration::from_secs(2))])) };
    let (health, detail) = said(silent).await;
    assert!(health == Health::Down && detail.ends_with("no whole answer within 100ms"), "{detail}");
    // One bad answer of two is no failure.
    let flaky = web(vec![("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", now), (OK, now)]);
    assert_eq!(said(wanted(flaky)).await.0, Health::Up);
}

#[tokio::test]
async fn https_is_trusted_by_the_named_certificate_and_by_no_other() {
    let place = Place::new();
    let made = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        // What `openssl req -x509` makes: its own CA.
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(place.file(name), cert.pem()).unwrap();
        (cert.der().clone(), key.serialize_der())
    };
    let (cert, key) = made("own.pem");
    made("other.pem");
    let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], rustls::pki_types::PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 2000]).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }
    });
    let said = async |ca: &str| {
        let ca = Some(place.file(ca).to_string_lossy().into_owned());
        let (_checkers, mut rx) = start(NEVER, Probe::Http(HttpProbe { ca, ..http(format!("https://{at}/")) }));
        let event = next(&mut rx).await;
        (event.health, event.detail)
    };
    let (health, detail) = said("own.pem").await;
    assert_eq!(health, Health::Up, "{detail}");
    let (health, detail) = said("other.pem").await;
    assert!(health == Health::Down && detail.contains("TLS:"), "{detail}");
    let (health, detail) = said("missing.pem").await;
    assert!(health == Health::Down && detail.contains("missing.pem cannot be read"), "{detail}");
}

#[tokio::test]
async fn results_count_when_there_are_enough_of_them() {
    let place = Place::new();
    // Good, then as many bad ones as there are lines in `bad`.
    place.script(
        "probe",
        "echo x >>runs; read -r n <bad || n=0; [ \"$n\" -gt 0 ] || { echo fine; exit 0; }; echo $((n - 1)) >bad; echo broken; exit 3",
    );
    let exec = Probe::Exec { exec: "probe".into(), args: vec![], timeout: Duration::from_secs(5) };
    let fast = Duration::from_millis(100);
    let check = Check { fall: 3, rise: 2, retry: Duration::from_millis(20), ..check(fast, exec) };
    std::fs::write(place.file("bad"), "0\n").unwrap();
    let (_checkers, mut rx) = place.start(&check);
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail.as_str()), (Health::Up, "probe: fine"), "the first good result counts at once");
    // Two bad ones are not three.
    std::fs::write(place.file("bad"), "2\n").unwrap();
    let runs = || std::fs::read_to_string(place.file("runs")).unwrap().len() / 2;
    let before = runs();
    until(|| runs() >= before + 5).await;
    assert!(rx.try_recv().is_err());
    std::fs::write(place.file("bad"), "1000\n").unwrap();
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail.as_str()), (Health::Down, "probe ended with 3: broken"));
    std::fs::write(place.file("bad"), "0\n").unwrap();
    assert_eq!(next(&mut rx).await.health, Health::Up);
}

/// Waits for a level, within the bound.
async fn until(mut is_reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_reached() {
        assert!(begin.elapsed() < PATIENCE, "not reached within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes whose command line holds `mark`.
fn running(mark: &str) -> usize {
    crate::procfs::all().iter().filter(|p| !p.is_zombie && crate::procfs::command_line(p.pid).contains(mark)).count()
}

#[tokio::test]
async fn a_probe_that_hangs_is_killed_with_all_it_started() {
    let place = Place::new();
    let mark = format!("2000{}1", std::process::id());
    place.script("hang", &format!("sleep {mark} & sleep {mark}"));
    let probe = Probe::Exec { exec: "hang".into(), args: vec![], timeout: Duration::from_millis(200) };
    let (_checkers, mut rx) = place.start(&Check { fall: 1, ..check(NEVER, probe) });
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail.as_str()), (Health::Down, "hang: not ended within 200ms"));
    until(|| running(&mark) == 0).await;
    for (exec, wanted) in [("nowhere", "there is no program"), ("data", "is not executable")] {
        std::fs::write(place.file("data"), "x").unwrap();
        let probe = Probe::Exec { exec: exec.into(), args: vec![], timeout: Duration::from_secs(2) };
        let (_checkers, mut rx) = place.start(&check(NEVER, probe));
        let event = next(&mut rx).await;
        assert!(event.health == Health::Down && event.detail.contains(wanted), "{event:?}");
    }
}

#[tokio::test]
async fn a_custom_checker_gets_its_words_is_started_again_and_ends_with_its_watch() {
    let place = Place::new();
    let mark = format!("2000{}2", std::process::id());
    place.script("watch", &format!("echo \"$@\" \"$TSUGI_MODULE\" \"${{TSUGI_NODE:-none}}\" >>calls; [ $(wc -l <calls) = 1 ] && {{ echo oops; exit 7; }}; exec sleep {mark}"));
    let probe = Probe::Custom { exec: Some("watch".into()), args: vec!["a".into(), "b".into()] };
    let (checkers, mut rx) = place.start(&check(NEVER, probe));
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail.as_str()), (Health::Init, "watch ended with 7: oops; started again in 1s"));
    until(|| running(&mark) == 1).await;
    let calls = std::fs::read_to_string(place.file("calls")).unwrap();
    assert_eq!(calls, "m class.ident a b m none\n".repeat(2), "the application's mark is not on it");
    drop(checkers);
    until(|| running(&mark) == 0).await;
}

#[tokio::test]
async fn a_handler_is_run_in_place_of_an_action_and_its_failure_is_told() {
    let place = Place::new();
    let mark = format!("2000{}3", std::process::id());
    place.script(
        "repair",
        &format!(
            "echo \"$@\" >>calls; [ $(wc -l <calls) = 1 ] || {{ echo cannot; exit 1; }}; sleep {mark} >/dev/null 2>&1 & echo repaired"
        ),
    );
    let probe = proc(&mark, 1, None);
    let handled = Check {
        handler: Some("repair".into()),
        ..Check::new("proc.sleep", When::Prim, Duration::from_millis(300), probe, Action::StopStart)
    };
    let (_checkers, mut rx) = place.start(&handled);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = next(&mut rx).await;
        seen.push((event.name, event.health));
    }
    let wanted = [("proc.sleep", Health::Down), ("handler.sleep", Health::Up), ("proc.sleep", Health::Up)];
    assert_eq!(seen, wanted.map(|(n, h)| (n.to_owned(), h)), "it was down, the handler helped, it is up");
    assert_eq!(std::fs::read_to_string(place.file("calls")).unwrap(), "m proc.sleep\n");
    for process in crate::procfs::all().iter().filter(|p| crate::procfs::command_line(p.pid) == format!("sleep {mark}")) {
        crate::procfs::signal(process, libc::SIGKILL).unwrap();
    }
    assert_eq!(next(&mut rx).await.health, Health::Down);
    let event = next(&mut rx).await;
    assert_eq!((event.name.as_str(), event.health, event.detail.as_str()), ("handler.sleep", Health::Down, "repair ended with 1: cannot"));
}

#[tokio::test]
async fn what_a_handler_starts_is_in_the_modules_group_and_ended_with_its_script() {
    let mut place = Place::new();
    let groups = Cgroups::open(&NodeName::new("n1").unwrap(), place.dir.path());
    let group = groups.group(&ModuleName::new("m").unwrap(), &Limits::default()).unwrap().expect("this test needs control groups");
    place.group = Some(group.clone());
    let mark = format!("2000{}6", std::process::id());
    place.script("repair", &format!("setsid env -i /bin/sleep {mark} >/dev/null 2>&1 & exit 0"));
    let handled = Check { handler: Some("repair".into()), ..check(Duration::from_millis(300), proc(&mark, 1, None)) };
    // A handler that begins while the module is frozen holds up nothing else.
    group.freeze().unwrap();
    let (checkers, mut rx) = place.start(&handled);
    assert_eq!(next(&mut rx).await.health, Health::Down);
    until(|| group.is_populated()).await;
    group.thaw().unwrap();
    while next(&mut rx).await.health != Health::Up || running(&mark) == 0 {}
    drop(checkers);
    assert!(group.is_populated());
    let ended = crate::script::end_runs(&group, &["start_prim"]).await;
    assert!(ended.killed >= 1 && ended.proof().is_ok(), "{ended:?}");
    assert_eq!((group.is_populated(), running(&mark)), (false, 0));
    group.remove();
}

#[tokio::test]
async fn a_process_is_left_alone_while_it_starts() {
    let mark = format!("2000{}4", std::process::id());
    let late = Check { start_after: Duration::from_millis(400), ..check(Duration::from_millis(100), proc(&mark, 1, None)) };
    let begin = Instant::now();
    let (_checkers, mut rx) = Place::new().start(&late);
    assert_eq!(next(&mut rx).await.health, Health::Down);
    assert!(begin.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_unit_is_asked_for_and_the_end_of_its_main_process_is_seen_at_once() {
    // systemctl as a script: what the real one prints, with the number of a process of ours.
    let place = Place::new();
    let mut child = sleeper("1000");
    let say =
        |state: &str, pid: u32| std::fs::write(place.file("state"), format!("ActiveState={state}\nSubState=x\nMainPID={pid}\n")).unwrap();
    place.script("systemctl", "echo \"$@\" >args; cat state");
    say("active", child.id());
    let (_checkers, mut rx) = place.start(&check(NEVER, Probe::Service { unit: "app.service".into() }));
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail.as_str()), (Health::Up, "app.service is active (x)"));
    assert_eq!(std::fs::read_to_string(place.file("args")).unwrap(), "show --property=ActiveState,SubState,MainPID -- app.service\n");
    say("failed", 0);
    let begin = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    let event = next(&mut rx).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!((event.health, event.detail.as_str()), (Health::Down, "app.service is failed (x)"));
    // Where nobody answers, nothing is said.
    place.script("systemctl", "echo System has not been booted with systemd >&2; exit 1");
    let (_checkers, mut rx) = place.start(&check(NEVER, Probe::Service { unit: "app.service".into() }));
    assert!(tokio::time::timeout(Duration::from_millis(300), rx.recv()).await.is_err());
}

fn snapshot(state: State, readiness: Readiness) -> Snapshot {
    Snapshot {
        module: ModuleName::new("db").unwrap(),
        node: NodeName::new("n1").unwrap(),
        config_generation: 1,
        state,
        readiness,
        reason: None,
        since_unix_ms: 0,
        maintenance_until_unix_ms: None,
        traffic: None,
        verification: Default::default(),
        flag: Flag::UpToDate,
        is_up_to_date: true,
        epoch: Epoch(1),
        gen_id: Gen(1),
        session: Session(1),
        in_sync: Default::default(),
        vips_held: vec![],
        replication: Replication::None,
        resync: None,
        peer: PeerView { node: Some(NodeName::new("n2").unwrap()), in_contact: true, state: Some(State::Second), networks: vec![] },
        authority: Default::default(),
        arbiter: ArbiterView::NotNeeded,
        resources: vec![],
        allowed: vec![],
    }
}

fn module(node: Option<&str>, wanted: Standing) -> Check {
    let node = node.map(|n| NodeName::new(n).unwrap());
    check(NEVER, Probe::Module { module: ModuleName::new("db").unwrap(), node, wanted })
}

#[tokio::test]
async fn another_module_is_watched_and_no_restart_of_it_is_missed() {
    let place = Place::new();
    let (_checkers, mut rx) = place.start(&module(None, Standing::Prim));
    assert_eq!(next(&mut rx).await.detail, "module db is not on this node");
    place.board.put(&snapshot(State::Second, Readiness::Ready));
    place.board.put(&snapshot(State::Alone, Readiness::Transient));
    place.board.put(&snapshot(State::Alone, Readiness::Ready));
    let event = next(&mut rx).await;
    assert_eq!((event.health, event.detail.as_str()), (Health::Up, "module db is ALONE"));
    // Gone and back before anybody looked.
    place.board.put(&snapshot(State::Alone, Readiness::Transient));
    place.board.put(&snapshot(State::Alone, Readiness::Ready));
    let events = [next(&mut rx).await, next(&mut rx).await].map(|e| (e.health, e.detail));
    let wanted = [(Health::Down, "module db was restarted"), (Health::Up, "module db is ALONE")];
    assert_eq!(events, wanted.map(|(h, d)| (h, d.to_owned())));
    place.board.put(&snapshot(State::Stop, Readiness::NotReady));
    assert_eq!(next(&mut rx).await.detail, "module db is STOP, not ready");
}

#[tokio::test]
async fn a_module_of_the_other_node_is_known_by_what_that_node_tells() {
    let place = Place::new();
    place.board.put(&snapshot(State::Prim, Readiness::Ready));
    for (node, wanted, said) in [
        ("n2", Standing::Second, (Health::Up, "module db is SECOND on n2")),
        ("n2", Standing::Prim, (Health::Down, "module db is SECOND on n2")),
        ("n1", Standing::Prim, (Health::Up, "module db is PRIM")),
        ("n3", Standing::Up, (Health::Down, "module db is not on n3, as far as this node knows")),
    ] {
        let (_checkers, mut rx) = place.start(&module(Some(node), wanted));
        let event = next(&mut rx).await;
        assert_eq!((event.health, event.detail.as_str()), said);
    }
}

#[tokio::test]
async fn only_what_changes_is_stopped_and_started_and_late_results_are_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let named = |name: &str, port| Check { name: name.into(), ..check(NEVER, tcp(port)) };
    let (one, two, other_two) = (named("tcp.one", port), named("tcp.two", port), named("tcp.two", 1));
    let (mut checkers, mut rx) = Place::new().start(&one);
    let first = next(&mut rx).await;
    assert_eq!(checkers.of_event(&first), Some(&one));
    assert_eq!(checkers.keep(&[&one, &two]), []);
    let second = next(&mut rx).await;
    assert_eq!(second.name, "tcp.two", "the first is not started again");
    assert_eq!(checkers.keep(&[&one, &other_two]), std::slice::from_ref(&two));
    assert_eq!(checkers.of_event(&second), None, "what the former check saw does not count for the new one");
    assert_eq!(next(&mut rx).await.health, Health::Down);
    assert_eq!(checkers.keep(&[]).len(), 2);
    assert_eq!(checkers.of_event(&first), None);
}

#[test]
fn what_only_a_node_can_tell_is_told_before_the_configuration_is_taken() {
    let text = "<safe><service mode=\"mirror\"><user/><errd><proc name=\"a\" argregex=\"(\" action=\"repair\"/><proc name=\"cron\" service=\"yes\"/></errd><check>\
        <custom ident=\"c\" exec=\"watch\"/><exec ident=\"e\" exec=\"/no/such\"/><http ident=\"h\"><to url=\"http://10.0.0.1/\" match=\"[\"/></http>\
        <exec ident=\"f\" exec=\"there\"/></check></service></safe>";
    let parsed = tsugi_core::module::xml::parse(text, &Default::default());
    let found = problems(&parsed.def.unwrap(), &["there"]);
    let has = |wanted: &str| assert!(found.iter().any(|p| p.contains(wanted)), "{wanted}: {found:#?}");
    has("there is no program repair; add it to the module's bin");
    has("custom.c: there is no program watch");
    has("exec.e: there is no program /no/such");
    has("proc.a: the pattern `(` cannot be used");
    has("http.h: the pattern `[` cannot be used");
    if !std::path::Path::new("/run/systemd/system").exists() {
        has("systemd does not run on this node");
    }
    assert!(!found.iter().any(|p| p.contains("exec.f")));
}
