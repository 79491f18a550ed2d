//! The lab itself: a bench that forgives what a real machine would not is worth nothing.
//!
//! Needs root. One lab after another, so that times can be measured.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tsugi_tests::lab::names::{Places, VIP};
use tsugi_tests::lab::{CLIENT, Lab, Network, Plan, Quality, ns};
use tsugi_tests::load::{self, Load};
use tsugi_tests::vips::VipWatch;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lab(name: &str) -> (MutexGuard<'static, ()>, Lab) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::start(name, &Plan { disk_bytes: 128 << 20, ..Plan::default() }).unwrap();
    (guard, lab)
}

/// Starts a program that answers every byte it gets, on TCP port 7000 of a host.
fn echo(lab: &Lab, host: &str) {
    lab.sh(
        host,
        r#"cat > /run/echo.py <<'P'
import socketserver
class H(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            data = self.request.recv(65536)
            if not data: return
            self.request.sendall(data)
class S(socketserver.ThreadingTCPServer): allow_reuse_address = True
S(('0.0.0.0', 7000), H).serve_forever()
P
setsid python3 /run/echo.py >/dev/null 2>&1 &"#,
    )
    .unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 7000));
    wait(|| dial(lab, host, to).is_some());
}

fn wait(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(10), "waited 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn net_of(lab: &Lab, host: &str) -> std::os::fd::OwnedFd {
    if host == CLIENT { lab.client_net().unwrap() } else { ns::net_of(lab.info().unwrap().hosts[host].init.unwrap()).unwrap() }
}

/// A connection from a host; none if it is not made in half a second.
fn dial(lab: &Lab, host: &str, to: SocketAddr) -> Option<TcpStream> {
    let net = net_of(lab, host);
    let stream = ns::within(&net, move || Ok(TcpStream::connect_timeout(&to, Duration::from_millis(500))?)).ok()?;
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    Some(stream)
}

fn on(network: Network, host: u8) -> SocketAddr {
    SocketAddr::from((network.addr(10 + host), 7000))
}

/// Time for `bytes` to go there and back.
fn round_trip(stream: &mut TcpStream, bytes: usize) -> Duration {
    let begin = Instant::now();
    let sent = vec![7u8; bytes];
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0u8; bytes];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back.iter().all(|b| *b == 7), "bytes arrived changed");
    begin.elapsed()
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_nothing_else() {
    let (_guard, lab) = lab("t-power");
    lab.sh(
        "n1",
        "python3 -c \"
import os
def put(name, sync):
    f = os.open('/srv/data/' + name, os.O_CREAT | os.O_WRONLY)
    os.write(f, b'x' * 100000)
    if sync:
        os.fsync(f)
        os.fsync(os.open('/srv/data', 0))
put('synced', True)
put('lost', False)
f = os.open('/srv/data/synced', os.O_WRONLY)
os.pwrite(f, b'y' * 100000, 0)
\"",
    )
    .unwrap();
    lab.kill("n1").unwrap();
    assert_eq!(lab.info().unwrap().hosts["n1"].power, "off");
    lab.boot("n1").unwrap();
    assert_eq!(lab.sh("n1", "ls /srv/data").unwrap(), "synced");
    // The overwriting was never synced: the old bytes are there, all of them.
    assert_eq!(lab.sh("n1", "tr -d x </srv/data/synced | wc -c; wc -c </srv/data/synced").unwrap(), "0\n100000");
}

#[test]
fn an_orderly_stop_loses_nothing() {
    let (_guard, lab) = lab("t-stop");
    lab.sh("n1", "echo kept >/srv/data/file; echo kept >/var/lib/tsugi/record").unwrap();
    lab.stop("n1").unwrap();
    lab.boot("n1").unwrap();
    assert_eq!(lab.sh("n1", "cat /srv/data/file /var/lib/tsugi/record").unwrap(), "kept\nkept");
}

#[test]
fn a_host_has_its_own_processes_name_addresses_and_root() {
    let (_guard, lab) = lab("t-host");
    assert_eq!(lab.sh("n2", "hostname").unwrap(), "n2");
    assert_eq!(lab.sh("n2", "cat /proc/1/comm").unwrap(), "exe");
    assert!(lab.sh("n2", "ip -br addr").unwrap().contains("198.18.1.12/24"));
    lab.sh("n2", "touch /etc/only-here /srv/host/only-here").unwrap();
    assert!(!std::path::Path::new("/etc/only-here").exists(), "a host wrote to the machine's root");
    assert!(lab.sh("n1", "ls /etc/only-here /srv/host/only-here").is_err());
    assert_eq!(lab.exec("n1", &["sh", "-c", "exit 7"]).unwrap().status.code(), Some(7));
    // No way out: the machine's own networks are not in there.
    assert!(lab.sh("n1", "ip route get 1.1.1.1").is_err());
}

#[test]
fn a_killed_service_comes_back_and_a_disabled_one_does_not() {
    let (_guard, lab) = lab("t-service");
    // Stands in for the agent under its own name, so that this suite needs nothing but the lab.
    lab.sh("n1", "mkdir -p /usr/local/sbin; umount /run/tsugi-lab/bin; printf '#!/bin/sh\\nexec sleep 1000\\n' >/usr/local/sbin/tsugi-agent; chmod +x /usr/local/sbin/tsugi-agent").unwrap();
    lab.set_service("n1", "agent", true).unwrap();
    let pid = || lab.sh("n1", "pgrep -x sleep").unwrap_or_default();
    wait(|| !pid().is_empty());
    let first = pid();
    let begin = Instant::now();
    lab.sh("n1", "pkill -9 -x sleep").unwrap();
    wait(|| !pid().is_empty() && pid() != first);
    assert!(begin.elapsed() >= Duration::from_millis(450), "back after {:?}: systemd would wait 500 ms", begin.elapsed());
    lab.set_service("n1", "agent", false).unwrap();
    wait(|| pid().is_empty());
}

#[test]
fn cuts_are_per_network_and_per_direction() {
    let (_guard, lab) = lab("t-cut");
    echo(&lab, "n2");
    assert!(dial(&lab, "n1", on(Network::Client, 2)).is_some());
    assert!(dial(&lab, "n1", on(Network::Private, 2)).is_some());
    lab.cut("n1", "n2", false, Some(Network::Private)).unwrap();
    assert!(dial(&lab, "n1", on(Network::Private, 2)).is_none());
    assert!(dial(&lab, "n1", on(Network::Client, 2)).is_some(), "the other network is not cut");
    assert!(dial(&lab, CLIENT, on(Network::Client, 2)).is_some(), "others are not cut");
    lab.heal().unwrap();
    assert!(dial(&lab, "n1", on(Network::Private, 2)).is_some());

    // Datagrams show the direction: from n1 to n2 nothing, from n2 to n1 everything.
    lab.cut("n1", "n2", true, None).unwrap();
    let [one, two] = ["n1", "n2"].map(|host| ns::within(&net_of(&lab, host), || Ok(std::net::UdpSocket::bind("0.0.0.0:7001")?)).unwrap());
    for socket in [&one, &two] {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    // Their cards know each other already; a one-way line could not resolve addresses.
    one.send_to(b"there", (Network::Private.addr(12), 7001)).unwrap();
    assert!(two.recv(&mut [0; 16]).is_err(), "a frame passed the cut direction");
    two.send_to(b"back", (Network::Private.addr(11), 7001)).unwrap();
    assert!(one.recv(&mut [0; 16]).is_ok(), "the other direction is not cut");
    lab.heal().unwrap();
}

#[test]
fn bad_lines_are_as_bad_as_asked() {
    let (_guard, lab) = lab("t-line");
    echo(&lab, "n2");
    let to = on(Network::Private, 2);
    let set = |quality| lab.net("n1", "n2", Network::Private, quality).unwrap();

    set(Quality { delay_ms: 40.0, ..Quality::default() });
    let mut stream = dial(&lab, "n1", to).unwrap();
    let there_and_back = round_trip(&mut stream, 1);
    assert!((80..200).contains(&there_and_back.as_millis()), "{there_and_back:?} with 40 ms each way");

    set(Quality { rate_kbit: 8_000, ..Quality::default() });
    let mut stream = dial(&lab, "n1", to).unwrap();
    let took = round_trip(&mut stream, 1_000_000);
    assert!((900..3_000).contains(&took.as_millis()), "1 MB at 8 Mbit/s took {took:?}");

    set(Quality { loss_percent: 3.0, reorder_percent: 5.0, dup_percent: 5.0, ..Quality::default() });
    // A first packet that is lost is sent again after a second, later than one dial waits.
    let mut dialled = None;
    wait(|| {
        dialled = dial(&lab, "n1", to);
        dialled.is_some()
    });
    let mut stream = dialled.unwrap();
    round_trip(&mut stream, 500_000);

    lab.heal().unwrap();
    let mut stream = dial(&lab, "n1", to).unwrap();
    let healed = round_trip(&mut stream, 1);
    assert!(healed < Duration::from_millis(40), "{healed:?} after healing");

    // Loss is measured on datagrams, which nobody repeats.
    set(Quality { loss_percent: 30.0, ..Quality::default() });
    let [one, two] = ["n1", "n2"].map(|host| ns::within(&net_of(&lab, host), || Ok(std::net::UdpSocket::bind("0.0.0.0:7002")?)).unwrap());
    two.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let counting = std::thread::spawn(move || {
        let mut got = 0;
        while two.recv(&mut [0; 16]).is_ok() {
            got += 1;
        }
        got
    });
    for _ in 0..20 {
        for _ in 0..50 {
            one.send_to(b"x", (Network::Private.addr(12), 7002)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let got = counting.join().unwrap();
    assert!((600..800).contains(&got), "{got} of 1000 arrived at 30 % loss");
}

#[test]
fn a_bad_line_stays_bad_over_a_reboot() {
    let (_guard, lab) = lab("t-reboot");
    lab.net("n1", "n2", Network::Private, Quality { delay_ms: 30.0, ..Quality::default() }).unwrap();
    lab.kill("n2").unwrap();
    lab.boot("n2").unwrap();
    echo(&lab, "n2");
    let mut stream = dial(&lab, "n1", on(Network::Private, 2)).unwrap();
    assert!(round_trip(&mut stream, 1) >= Duration::from_millis(60));
}

#[test]
fn a_paused_host_does_nothing_until_it_is_resumed() {
    let (_guard, lab) = lab("t-pause");
    echo(&lab, "n2");
    let mut stream = dial(&lab, "n1", on(Network::Client, 2)).unwrap();
    round_trip(&mut stream, 1);
    lab.pause("n2").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.write_all(b"x").unwrap();
    assert!(stream.read(&mut [0; 1]).is_err(), "a paused host answered");
    assert!(lab.stop("n2").is_err(), "a paused host cannot stop in order");
    lab.resume("n2").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 1);
}

#[test]
fn the_ledger_keeps_every_acknowledged_entry_over_a_power_cut() {
    let (_guard, lab) = lab("t-ledger");
    let to = SocketAddr::from((VIP, 8080));
    let start =
        "ip addr add 198.18.0.100/24 dev eth0; setsid tsugi-ledger --dir /srv/data/ledger --listen 198.18.0.100:8080 >/dev/null 2>&1 &";
    lab.sh("n1", "mkdir /srv/data/ledger; sync").unwrap();
    lab.sh("n1", start).unwrap();
    let net = lab.client_net().unwrap();
    let load = Load::start(&net, to, 4).unwrap();
    load.wait_for_more(300, Duration::from_secs(60)).unwrap();
    let killed = Instant::now();
    lab.kill("n1").unwrap();
    lab.boot("n1").unwrap();
    lab.sh("n1", start).unwrap();
    load.wait_for_more(50, Duration::from_secs(60)).unwrap();
    let gap = load.longest_gap_since(killed);
    let acked = load.stop().unwrap();
    assert!(acked.len() >= 350 && gap.seconds > 0.02, "{} acknowledged, gap {gap:?}", acked.len());
    let found = load::read_all(&net, to).unwrap();
    assert_eq!(load::lost(&acked, &found), Vec::<String>::new());
}

/// The control of the watch that every lab test has: what it is there to find, it finds, by either way.
#[test]
fn an_address_on_two_hosts_is_seen() {
    let (_guard, lab) = lab("t-double");
    let change = |host: &str, verb: &str| drop(lab.sh(host, &format!("ip addr {verb} {VIP}/24 dev eth0")).unwrap());
    let watch = VipWatch::start(&lab).unwrap();
    assert!(!watch.report().is_clean(), "nobody has the address: {}", watch.report().line());
    change("n1", "add");
    wait(|| watch.report().answered > 10 && watch.report().held.contains_key("n1"));
    let alone = watch.report();
    assert!(alone.double_instants == 0 && alone.double_answers == 0, "{}", alone.line());
    change("n2", "add");
    wait(|| watch.report().double_instants > 0 && watch.report().double_answers > 0);
    change("n2", "del");
    let seen = watch.stop();
    println!("{}", seen.line());
    assert!(seen.is_sampled() && !seen.is_clean(), "{}", seen.line());
    assert_eq!(seen.doubles[0].holders, ["n1", "n2"]);
    assert_eq!(seen.double_answered[0].holders.len(), 2, "{seen:?}");
}

#[test]
fn the_loopback_of_this_machine_reaches_the_lab() {
    let (_guard, lab) = lab("t-forward");
    echo(&lab, "n1");
    let port = lab.forward(0, on(Network::Client, 1)).unwrap();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    round_trip(&mut stream, 100_000);
}

#[test]
fn nothing_is_left_behind() {
    let (_guard, lab) = lab("t-clean");
    let places = lab.places().clone();
    let info = lab.info().unwrap();
    drop(lab);
    assert!(!places.dir.exists());
    gone(&places, &info);

    // The same when the keeper dies without a word, as the machine's memory killer would do it.
    let lab = Lab::start("t-clean", &Plan { disk_bytes: 128 << 20, ..Plan::default() }).unwrap();
    let info = lab.info().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(info.keeper as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait(|| info.hosts.values().all(|h| ns::process_state(h.init.unwrap()).is_none_or(|s| s == 'Z')));
    drop(lab);
    tsugi_tests::lab::remove_remains(&Places::of("t-clean").unwrap()).unwrap();
    gone(&places, &info);
}

fn gone(places: &Places, info: &tsugi_tests::lab::Info) {
    let marker = places.dir.display().to_string();
    wait(|| info.hosts.values().all(|h| ns::process_state(h.init.unwrap()).is_none_or(|s| s == 'Z')));
    wait(|| {
        std::fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .all(|device| !std::fs::read_to_string(device.path().join("loop/backing_file")).is_ok_and(|file| file.contains(&marker)))
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&marker), "a mount is left behind");
    assert!(!places.dir.exists(), "{marker} is left behind");
}
