//! Real ports, processes and addresses.

use super::*;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Instant;
use tokio::sync::mpsc::Receiver;
use tsugi_core::module::{Action, When};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(15);
/// An interval that never comes: what is seen, is seen by itself.
const NEVER: Duration = Duration::from_secs(3600);

fn start(interval: Duration, probe: Probe) -> (Checkers, Receiver<CheckerEvent>) {
    let (tx, rx) = mpsc::channel(8);
    let check = Check { name: "class.ident".into(), when: When::Prim, interval, probe, action: Action::Restart };
    (Checkers::start(vec![check], tx), rx)
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

#[test]
fn an_address_is_seen_coming_and_going_at_once() {
    let in_namespace = std::thread::spawn(|| {
        // SAFETY: affects this thread only, which was made for it.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
        let ip = |arguments: &str| assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
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
    });
    in_namespace.join().unwrap();
}
