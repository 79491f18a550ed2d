//! Who holds the virtual address: asked of every host's kernel more than a hundred times a second, and of the network
//! from the clients' place.
//!
//! [`VipWatch::start`], then whatever a test does to the lab, then [`VipWatch::stop`]: a [`VipReport`] with every instant at which two
//! hosts held the address, and every question on the network that two machines answered.

mod arp;

use crate::lab::names::{CLIENT, CONSOLE, Places, VIP};
use crate::lab::{Lab, ns};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From one round of questions to the kernels to the next.
const ROUND: Duration = Duration::from_millis(4);
/// Hosts that come and go are looked for this often.
const LOOK: Duration = Duration::from_millis(100);
/// Rounds a second that a watch must have made, on average, to have seen anything.
const RATE_MIN: f64 = 100.0;
/// Questions a second on the network, likewise: a quarter of those that are tried.
const PROBES_MIN: f64 = 10.0;
/// Nobody looked for longer than this: an address could have been in two places meanwhile. A holder that lost its right
/// may keep it for a second (`F` of the profile `normal`).
const PAUSE_MAX: f64 = 1.0;
/// Double instants are listed up to here; they are counted beyond.
const LISTED_MAX: usize = 50;

/// An instant with two holders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Double {
    /// Seconds since the watch began.
    pub at: f64,
    /// Hosts, or hardware addresses of machines that answered.
    pub holders: Vec<String>,
}

/// What was seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VipReport {
    /// Length of the watch in seconds.
    pub seconds: f64,
    /// Rounds in which every host that was on was asked.
    pub rounds: u64,
    /// When the last of them was, in seconds since the watch began.
    pub last_round: f64,
    /// Hosts that were on and whose kernel did not say what it holds, summed over the rounds.
    pub unreadable: u64,
    /// Longest time between two rounds in seconds.
    pub longest_pause: f64,
    /// Rounds in which two hosts held the address.
    pub double_instants: u64,
    /// The first of them.
    pub doubles: Vec<Double>,
    /// Rounds in which each host held it.
    pub held: BTreeMap<String, u64>,
    /// Questions on the client network.
    pub probes: u64,
    /// … that somebody answered.
    pub answered: u64,
    /// … that two machines answered.
    pub double_answers: u64,
    /// The first of them.
    pub double_answered: Vec<Double>,
}

impl VipReport {
    /// Rounds a second, on average.
    pub fn rate(&self) -> f64 {
        self.rounds as f64 / self.seconds.max(0.001)
    }
    /// The address was never in two places, and somebody looked.
    pub fn is_clean(&self) -> bool {
        self.double_instants == 0 && self.double_answers == 0 && self.is_sampled()
    }
    /// Somebody looked: often enough, without a long pause, at every host, and found the address by both ways.
    pub fn is_sampled(&self) -> bool {
        let is_often = self.rate() >= RATE_MIN && self.probes as f64 >= PROBES_MIN * self.seconds && self.longest_pause <= PAUSE_MAX;
        is_often && self.unreadable == 0 && self.answered > 0 && !self.held.is_empty()
    }
    /// One line for logs.
    pub fn line(&self) -> String {
        format!(
            "virtual address asked for {:.0} times a second over {:.0} s (longest pause {:.0} ms, {} without an answer), held by {}: \
             two holders {} times; {} of {} questions on the network answered, by two machines {} times",
            self.rate(),
            self.seconds,
            self.longest_pause * 1000.0,
            self.unreadable,
            self.held.keys().cloned().collect::<Vec<_>>().join(" and "),
            self.double_instants,
            self.answered,
            self.probes,
            self.double_answers
        )
    }
}

/// A watch under way; ends when dropped.
pub struct VipWatch {
    stop: Arc<AtomicBool>,
    begin: Instant,
    report: Arc<Mutex<VipReport>>,
    threads: Vec<JoinHandle<()>>,
}

impl VipWatch {
    /// Watches the lab's virtual address on all hosts but the console's, also on those switched on later.
    pub fn start(lab: &Lab) -> Result<VipWatch> {
        Self::start_for(lab, VIP)
    }

    /// The same for another address of the client network.
    pub fn start_for(lab: &Lab, vip: Ipv4Addr) -> Result<VipWatch> {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(VipReport::default()));
        let hosts = Arc::new(Mutex::new(Hosts::default()));
        Hosts::update(&hosts, lab);
        let asker = ns::within(&lab.client_net()?, arp::Asker::open)?;
        let begin = Instant::now();
        let mut threads = Vec::new();
        let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| -> Result<()> {
            threads.push(std::thread::Builder::new().name(name.into()).spawn(work)?);
            Ok(())
        };
        let (places, seen, known) = (lab.places().clone(), stop.clone(), hosts.clone());
        spawn("vip-hosts", Box::new(move || follow_hosts(&places, &known, &seen)))?;
        let (seen, into) = (stop.clone(), report.clone());
        spawn("vip-kernel", Box::new(move || ask_kernels(&hosts, vip, begin, &into, &seen)))?;
        let (seen, into) = (stop.clone(), report.clone());
        spawn("vip-arp", Box::new(move || asker.run(vip, begin, &into, &seen)))?;
        Ok(VipWatch { stop, begin, report, threads })
    }

    /// What was seen so far.
    pub fn report(&self) -> VipReport {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report.seconds = self.begin.elapsed().as_secs_f64();
        // A round that never ended is a pause too.
        report.longest_pause = report.longest_pause.max(report.seconds - report.last_round);
        report
    }

    /// Ends the watch.
    pub fn stop(mut self) -> VipReport {
        let report = self.report();
        self.end();
        report
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for VipWatch {
    fn drop(&mut self) {
        self.end();
    }
}

/// A host that is on.
struct Host {
    init: i32,
    /// Readable when process 1 is dead: a host without power holds nothing, even while its namespace is still there.
    life: OwnedFd,
    route: OwnedFd,
}

#[derive(Default)]
struct Hosts {
    on: BTreeMap<String, Host>,
}

impl Hosts {
    /// Takes up hosts that have been switched on. The keeper may be busy for seconds: it is asked outside of the lock.
    fn update(known: &Mutex<Hosts>, lab: &Lab) {
        let Ok(info) = lab.info() else { return };
        let is_known =
            |name: &str, init| known.lock().unwrap_or_else(PoisonError::into_inner).on.get(name).is_some_and(|host| host.init == init);
        for (name, host) in info.hosts.into_iter().filter(|(name, _)| name != CONSOLE && name != CLIENT) {
            // It may be going down while we look: then it is not there.
            if let Some(init) = host.init
                && !is_known(&name, init)
                && let Ok(host) = Host::open(init)
            {
                known.lock().unwrap_or_else(PoisonError::into_inner).on.insert(name, host);
            }
        }
    }
}

impl Host {
    fn open(init: i32) -> Result<Host> {
        // SAFETY: plain system call; the descriptor is owned from here on.
        let life = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, init, 0) as i32;
            if fd < 0 {
                return Err(std::io::Error::last_os_error()).context("pidfd_open");
            }
            OwnedFd::from_raw_fd(fd)
        };
        let route = ns::within(&ns::net_of(init)?, || {
            let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
            let bound = libc::timeval { tv_sec: 1, tv_usec: 0 };
            // SAFETY: option and length describe `bound`.
            unsafe {
                libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const bound).cast(), size_of_val(&bound) as u32)
            };
            Ok(fd)
        })?;
        Ok(Host { init, life, route })
    }

    fn is_dead(&self) -> bool {
        let mut fd = libc::pollfd { fd: self.life.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid descriptor, no waiting.
        unsafe { libc::poll(&mut fd, 1, 0) > 0 }
    }

    /// The address is on one of its interfaces.
    fn holds(&self, vip: Ipv4Addr) -> Result<bool> {
        /// Message header and address header: a dump of all IPv4 addresses.
        const REQUEST: usize = 16 + 8;
        let mut request = [0u8; REQUEST];
        request[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&(libc::RTM_GETADDR).to_ne_bytes());
        request[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
        request[16] = libc::AF_INET as u8;
        // SAFETY: buffer and length agree.
        let sent = unsafe { libc::send(self.route.as_raw_fd(), request.as_ptr().cast(), REQUEST, 0) };
        if sent != REQUEST as isize {
            return Err(std::io::Error::last_os_error()).context("a host's kernel cannot be asked");
        }
        let mut holds = false;
        let mut buffer = vec![0u8; 16 * 1024];
        loop {
            // SAFETY: buffer and length agree.
            let length = unsafe { libc::recv(self.route.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(length) = usize::try_from(length) else {
                return Err(std::io::Error::last_os_error()).context("a host's kernel does not answer");
            };
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(holds),
                    libc::NLMSG_ERROR => bail!("a host's kernel refuses to list its addresses"),
                    _ => holds |= local_address(body) == Some(vip),
                }
                rest = next;
            }
        }
    }
}

/// Kind, body and rest of the first netlink message.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The address in an address message (attribute `IFA_LOCAL`).
fn local_address(body: &[u8]) -> Option<Ipv4Addr> {
    let mut rest = body.get(8..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(rest[0..2].try_into().ok()?));
        let kind = u16::from_ne_bytes(rest[2..4].try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == libc::IFA_LOCAL {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor is owned from here on.
    unsafe {
        let fd = libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("a socket cannot be had (root is needed)");
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn follow_hosts(places: &Places, hosts: &Mutex<Hosts>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        if let Ok(lab) = Lab::open(places.clone()) {
            Hosts::update(hosts, &lab);
        }
    }
}

fn ask_kernels(hosts: &Mutex<Hosts>, vip: Ipv4Addr, begin: Instant, report: &Mutex<VipReport>, stop: &AtomicBool) {
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let round = Instant::now();
        let mut unreadable = 0;
        let holders = {
            let mut hosts = hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.on.retain(|_, host| !host.is_dead());
            let mut holders = |hosts: &Hosts| -> BTreeSet<String> {
                let mut holders = BTreeSet::new();
                for (name, host) in &hosts.on {
                    let said = host.holds(vip);
                    // A host that dies under the question holds nothing; one that lives and does not say, who knows.
                    match said {
                        _ if host.is_dead() => {}
                        Ok(true) => drop(holders.insert(name.clone())),
                        Ok(false) => {}
                        Err(_) => unreadable += 1,
                    }
                }
                holders
            };
            let first = holders(&hosts);
            // The hosts are asked one after another, and the address may have moved in between. The one asked first
            // still has it after the second had it: both had it then.
            if first.len() > 1 { holders(&hosts).intersection(&first).cloned().collect() } else { first }
        };
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.rounds += 1;
        report.unreadable += unreadable;
        report.last_round = round.duration_since(begin).as_secs_f64();
        report.longest_pause = report.longest_pause.max(round.duration_since(last).as_secs_f64());
        last = round;
        for host in &holders {
            *report.held.entry(host.clone()).or_default() += 1;
        }
        if holders.len() > 1 {
            report.double_instants += 1;
            if report.doubles.len() < LISTED_MAX {
                report.doubles.push(Double { at: begin.elapsed().as_secs_f64(), holders: holders.into_iter().collect() });
            }
        }
        drop(report);
        std::thread::sleep(ROUND.saturating_sub(round.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_saw_nothing_is_not_clean() {
        let good = VipReport {
            seconds: 10.0,
            rounds: 2000,
            probes: 300,
            answered: 250,
            held: BTreeMap::from([("n1".to_owned(), 2000)]),
            ..VipReport::default()
        };
        assert!(good.is_clean());
        for bad in [
            VipReport { answered: 0, ..good.clone() },
            VipReport { held: BTreeMap::new(), ..good.clone() },
            VipReport { unreadable: 1, ..good.clone() },
            VipReport { longest_pause: 1.5, ..good.clone() },
            VipReport { rounds: 900, ..good.clone() },
            VipReport { probes: 50, ..good.clone() },
            VipReport { double_instants: 1, ..good.clone() },
            VipReport { double_answers: 1, ..good.clone() },
        ] {
            assert!(!bad.is_clean(), "{bad:?}");
        }
    }

    #[test]
    fn the_local_address_is_found_behind_other_attributes() {
        let mut body = vec![0u8; 8];
        body.extend(8u16.to_ne_bytes());
        body.extend(libc::IFA_ADDRESS.to_ne_bytes());
        body.extend([10, 0, 0, 1]);
        body.extend(8u16.to_ne_bytes());
        body.extend(libc::IFA_LOCAL.to_ne_bytes());
        body.extend([10, 0, 0, 2]);
        assert_eq!(local_address(&body), Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(local_address(&body[..10]), None);
    }
}
