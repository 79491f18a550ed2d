//! Asking on the client network who has an address.

use super::{Double, LISTED_MAX, VipReport, socket};
use crate::lab::names::{CLIENT, Network, number_of};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From one question on the network to the next.
const PROBE: Duration = Duration::from_millis(25);
/// Answers are told apart by who seems to ask: one of this many addresses in turn, so an answer may be
/// [`PROBE`] × [`ASKERS`] late (1.2 s).
const ASKERS: usize = 48;
/// First of these: no host of a lab has it (hosts are .11 to .99).
const ASKER_FIRST: u8 = 180;

/// Asks on the client network who has the address.
pub(super) struct Asker {
    raw: OwnedFd,
    index: i32,
    mac: [u8; 6],
}

impl Asker {
    /// In the clients' namespace.
    pub(super) fn open() -> Result<Asker> {
        let protocol = (libc::ETH_P_ARP as u16).to_be();
        let raw = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol))?;
        let name = std::ffi::CString::new(Network::Client.interface())?;
        // SAFETY: the name is a valid string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        let mut mac = [0u8; 6];
        for (byte, text) in mac.iter_mut().zip(Network::Client.mac(number_of(CLIENT)?).split(':')) {
            *byte = u8::from_str_radix(text, 16)?;
        }
        let asker = Asker { raw, index, mac };
        let address = asker.address();
        // SAFETY: `address` is a valid sockaddr_ll.
        if unsafe { libc::bind(asker.raw.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) } != 0 {
            return Err(std::io::Error::last_os_error()).context("bind to the client's network card");
        }
        Ok(asker)
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
        address.sll_ifindex = self.index;
        address
    }

    pub(super) fn run(&self, vip: Ipv4Addr, begin: Instant, report: &Mutex<VipReport>, stop: &AtomicBool) {
        // Who answered the question that was asked last in this name.
        let mut answers: Vec<BTreeSet<[u8; 6]>> = vec![BTreeSet::new(); ASKERS];
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let slot = number % ASKERS;
            answers[slot].clear();
            let is_sent = self.send(&request(self.mac, Network::Client.addr(ASKER_FIRST + slot as u8), vip));
            number += 1;
            let until = Instant::now() + PROBE;
            let mut seen = Vec::new();
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
                seen.extend(self.receive(left).as_deref().and_then(|frame| answer(frame, vip)));
            }
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.probes += u64::from(is_sent);
            for (asker, mac) in seen {
                let Some(answers) = asker.octets()[3].checked_sub(ASKER_FIRST).and_then(|slot| answers.get_mut(usize::from(slot))) else {
                    continue;
                };
                if !answers.insert(mac) {
                    continue;
                }
                match answers.len() {
                    1 => report.answered += 1,
                    2 => {
                        report.double_answers += 1;
                        if report.double_answered.len() < LISTED_MAX {
                            let holders = answers.iter().map(|m| m.map(|b| format!("{b:02x}")).join(":")).collect();
                            report.double_answered.push(Double { at: begin.elapsed().as_secs_f64(), holders });
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: buffer and length agree.
        unsafe { libc::send(self.raw.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) == frame.len() as isize }
    }

    fn receive(&self, bound: Duration) -> Option<Vec<u8>> {
        let mut fd = libc::pollfd { fd: self.raw.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let bound = libc::timespec { tv_sec: bound.as_secs() as _, tv_nsec: bound.subsec_nanos() as _ };
        let mut frame = vec![0u8; 128];
        // SAFETY: one valid descriptor and a valid time; buffer and length agree.
        let length = unsafe {
            if libc::ppoll(&mut fd, 1, &bound, std::ptr::null()) <= 0 {
                return None;
            }
            libc::recv(self.raw.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0)
        };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }
}

/// "Who has `vip`? Tell `asker`."
fn request(mac: [u8; 6], asker: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(asker.octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}

/// Who is told, and the hardware address that has `vip`, if the frame is such an answer.
fn answer(frame: &[u8], vip: Ipv4Addr) -> Option<(Ipv4Addr, [u8; 6])> {
    let arp = frame.get(14..42)?;
    let is_reply = arp[0..8] == [0, 1, 0x08, 0, 6, 4, 0, 2] && arp[14..18] == vip.octets();
    is_reply.then(|| Some((Ipv4Addr::from(<[u8; 4]>::try_from(&arp[24..28]).ok()?), arp[8..14].try_into().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::names::VIP;

    #[test]
    fn an_answer_is_told_from_a_question() {
        let asker = Ipv4Addr::new(198, 18, 0, 180);
        let mut frame = request([2; 6], asker, VIP);
        assert_eq!(answer(&frame, VIP), None);
        frame[21] = 2;
        frame[22..28].copy_from_slice(&[7; 6]);
        frame[28..32].copy_from_slice(&VIP.octets());
        frame[38..42].copy_from_slice(&asker.octets());
        assert_eq!(answer(&frame, VIP), Some((asker, [7; 6])));
        assert_eq!(answer(&frame[..20], VIP), None);
        assert_eq!(answer(&frame, Ipv4Addr::LOCALHOST), None);
    }
}
