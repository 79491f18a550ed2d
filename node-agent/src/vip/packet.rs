//! Ethernet frames by hand: asking whether an address is in use, and telling the neighbours who has it now.
//!
//! IPv4 uses ARP, IPv6 neighbour discovery. Both leave through an `AF_PACKET` socket of one interface, so that it
//! works before the address is configured (asking) and needs no route (telling).

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Ethernet address.
pub type Mac = [u8; 6];

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const BROADCAST: Mac = [0xff; 6];
/// Questions about one address, and the time between them; neighbours answer within a millisecond or two.
const PROBES: u32 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(60);
/// Longest time spent on one address: it delays a start.
const PROBE_BOUND: Duration = Duration::from_millis(200);
/// Larger than every frame looked at here.
const FRAME_BYTES: usize = 256;

/// `02:00:5e:10:00:01`
pub fn mac_text(mac: &Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// A raw socket on one interface for one kind of frame.
struct Packets {
    fd: OwnedFd,
    to: libc::sockaddr_ll,
}

impl Packets {
    fn open(index: u32, kind: u16) -> io::Result<Packets> {
        // SAFETY: integers in, a new descriptor or an error out.
        let raw =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, i32::from(kind.to_be())) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just returned by the kernel, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: plain old data, for which all zeros is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = kind.to_be();
        to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let packets = Packets { fd, to };
        let (address, length) = packets.address();
        // SAFETY: the address is valid for its stated length during the call.
        if unsafe { libc::bind(packets.fd.as_raw_fd(), address, length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(packets)
    }

    fn address(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.to).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let (address, length) = self.address();
        // SAFETY: buffer and address are valid for their stated lengths during the call.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, length) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid and writable for its stated length during the call.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }
}

impl AsRawFd for Packets {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Asks the network for `address` and returns the foreign interface that has it, if one answers within 200 ms.
pub async fn probe(index: u32, own: Mac, address: IpAddr) -> io::Result<Option<Mac>> {
    let (kind, question) = match address {
        IpAddr::V4(v4) => (ARP, arp(own, BROADCAST, 1, [0; 4], [0; 6], v4.octets())),
        IpAddr::V6(v6) => (IPV6, solicitation(own, v6)),
    };
    // SAFETY: `Packets` owns its descriptor, always gives the same one, and closes it only when dropped.
    let packets = unsafe { AsyncFd::register(Packets::open(index, kind)?) }?;
    let end = Instant::now() + PROBE_BOUND;
    let mut buffer = [0; FRAME_BYTES];
    for number in 0..PROBES {
        packets.get_ref().send(&question)?;
        let until = if number + 1 == PROBES { end } else { Instant::now() + PROBE_EVERY };
        loop {
            let Ok(ready) = tokio::time::timeout_at(until, packets.readable()).await else { break };
            let mut ready = ready?;
            match ready.try_io(|p| p.get_ref().receive(&mut buffer)) {
                Ok(Ok(length)) => {
                    let mac = answer(&buffer[..length], address).filter(|mac| *mac != own);
                    if mac.is_some() {
                        return Ok(mac);
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
    Ok(None)
}

/// Tells everybody on the interface that `address` is at `own`: ARP as request and as reply (some systems heed only
/// one of them), or an unsolicited neighbour advertisement.
pub fn announce(index: u32, own: Mac, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(v4) => {
            let packets = Packets::open(index, ARP)?;
            packets.send(&arp(own, BROADCAST, 1, v4.octets(), [0; 6], v4.octets()))?;
            packets.send(&arp(own, BROADCAST, 2, v4.octets(), own, v4.octets()))
        }
        IpAddr::V6(v6) => Packets::open(index, IPV6)?.send(&advertisement(own, v6)),
    }
}

/// Who says in this frame that it has `address`.
fn answer(frame: &[u8], address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(v4) => {
            let body = frame.get(14..42)?;
            (body[14..18] == v4.octets()).then(|| body[8..14].try_into().expect("6 bytes"))
        }
        IpAddr::V6(v6) => {
            // Ethernet 14, IPv6 40, then type, code, checksum, flags, target. Extension headers do not occur here.
            let is_advertisement = frame.get(20)? == &58 && frame.get(54)? == &136;
            (is_advertisement && frame.get(62..78)? == v6.octets()).then(|| frame[6..12].try_into().expect("6 bytes"))
        }
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..]].concat()
}

fn arp(from: Mac, to: Mac, operation: u16, sender_ip: [u8; 4], target: Mac, target_ip: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet(to, from, ARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]); // Ethernet and IPv4, lengths 6 and 4
    frame.extend_from_slice(&operation.to_be_bytes());
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&sender_ip);
    frame.extend_from_slice(&target);
    frame.extend_from_slice(&target_ip);
    frame
}

/// "Who has `address`?", from the unspecified address, as duplicate address detection asks (RFC 4862).
fn solicitation(from: Mac, address: Ipv6Addr) -> Vec<u8> {
    let last = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(last[13]), u16::from_be_bytes([last[14], last[15]]));
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &last[..]].concat();
    icmp(from, [0x33, 0x33, 0xff, last[13], last[14], last[15]], Ipv6Addr::UNSPECIFIED, group, body)
}

/// "I have `address`", to all nodes, overriding what they remember (RFC 4861).
fn advertisement(from: Mac, address: Ipv6Addr) -> Vec<u8> {
    let body = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &address.octets()[..], &[2, 1][..], &from[..]].concat();
    icmp(from, [0x33, 0x33, 0, 0, 0, 1], address, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), body)
}

fn icmp(from: Mac, to: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a few dozen bytes");
    let pseudo = [&source.octets()[..], &destination.octets()[..], &u32::from(length).to_be_bytes()[..], &[0, 0, 0, 58][..], &body[..]];
    let sum = checksum(&pseudo.concat());
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(to, from, IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[58, 255]); // ICMPv6; 255 hops proves that it comes from this very network
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&destination.octets());
    frame.extend_from_slice(&body);
    frame
}

/// Internet checksum of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_for_the_very_address_counts() {
        let own = [2, 0, 0, 0, 0, 1];
        let claim = arp(own, BROADCAST, 2, [10, 0, 0, 5], own, [10, 0, 0, 5]);
        assert_eq!(answer(&claim, "10.0.0.5".parse().unwrap()), Some(own));
        assert_eq!(answer(&claim, "10.0.0.6".parse().unwrap()), None);
        let question = arp(own, BROADCAST, 1, [0; 4], [0; 6], [10, 0, 0, 5]);
        assert_eq!(answer(&question, "10.0.0.5".parse().unwrap()), None, "another one's question is no claim");
        let claim = advertisement(own, "fd00::5".parse().unwrap());
        assert_eq!(answer(&claim, "fd00::5".parse().unwrap()), Some(own));
        assert_eq!(answer(&claim, "fd00::6".parse().unwrap()), None);
        assert_eq!(answer(&claim[..60], "fd00::5".parse().unwrap()), None);
    }

    #[test]
    fn the_checksum_of_an_advertisement_adds_up() {
        let frame = advertisement([2, 0, 0, 0, 0, 1], "fd00::5".parse().unwrap());
        let (header, body) = (&frame[14..54], &frame[54..]);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        assert_eq!(checksum(&[&header[8..40], &length, &[0, 0, 0, 58], body].concat()), 0);
    }
}
