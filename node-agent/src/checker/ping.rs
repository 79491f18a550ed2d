//! Does a host answer an ICMP echo? Asks by a socket of its own, IPv4 or IPv6.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

/// Bytes that come back in an answer to *this* question: other pings of this machine are none.
const COOKIE_BYTES: usize = 16;
const HEADER_BYTES: usize = 8;
const ECHO_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const REPLY_V6: u8 = 129;

static SEQUENCE: AtomicU16 = AtomicU16::new(0);

/// One test.
pub async fn test(host: &str, timeout: Duration) -> Result<String, String> {
    match ask(host, timeout).await {
        Ok((address, took)) => Ok(format!("ping {address}: answer in {:.1} ms", took.as_secs_f64() * 1000.0)),
        Err(why) => Err(format!("ping {host}: {why}")),
    }
}

async fn ask(host: &str, timeout: Duration) -> Result<(IpAddr, Duration), String> {
    let end = tokio::time::Instant::now() + timeout;
    let address = match timeout_at(end, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(mut addresses)) => addresses.next().map(|a| a.ip()).ok_or("the name has no address")?,
        Ok(Err(error)) => return Err(format!("the name cannot be resolved: {error}")),
        Err(_) => return Err(format!("the name was not resolved within {timeout:?}")),
    };
    match timeout_at(end, echo(address)).await {
        Ok(Ok(took)) => Ok((address, took)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// A raw socket, or where that is not permitted the kind of it that needs no right.
fn open(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).or_else(|_| Socket::new(domain, Type::DGRAM, Some(protocol)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Asks once and waits for the answer, for ever.
async fn echo(address: IpAddr) -> io::Result<Duration> {
    let socket = open(address)?;
    let is_raw = socket.r#type()? == Type::RAW;
    // Only what comes from there is heard.
    socket.connect(&SockAddr::from(SocketAddr::new(address, 0)))?;
    // SAFETY: an owned socket, which stays the same and open as long as the registration holds it.
    let socket = unsafe { AsyncFd::register(socket) }?;
    let cookie: [u8; COOKIE_BYTES] = rand::random();
    let packet = question(address, &cookie);
    let asked = Instant::now();
    loop {
        let mut ready = socket.writable().await?;
        match ready.try_io(|s| s.get_ref().send(&packet)) {
            Ok(sent) => {
                sent?;
                break;
            }
            Err(_would_block) => continue,
        }
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); 1500];
    loop {
        let mut ready = socket.readable().await?;
        let Ok(received) = ready.try_io(|s| s.get_ref().recv(&mut buffer)) else { continue };
        let length = received?;
        // SAFETY: the kernel has just written the first `length` bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|b| unsafe { b.assume_init() }).collect();
        if is_answer(address, is_raw, &bytes, &cookie) {
            return Ok(asked.elapsed());
        }
    }
}

fn question(address: IpAddr, cookie: &[u8]) -> Vec<u8> {
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let mut packet = vec![if address.is_ipv4() { ECHO_V4 } else { ECHO_V6 }, 0, 0, 0];
    packet.extend_from_slice(&cookie[..2]);
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(cookie);
    if address.is_ipv4() {
        // For IPv6 the kernel does it.
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

fn is_answer(address: IpAddr, is_raw: bool, bytes: &[u8], cookie: &[u8]) -> bool {
    // A raw IPv4 socket gives the IP header too.
    let header = if is_raw && address.is_ipv4() { bytes.first().map_or(0, |b| usize::from(b & 0x0f) * 4) } else { 0 };
    let Some(icmp) = bytes.get(header..) else { return false };
    let wanted = if address.is_ipv4() { REPLY_V4 } else { REPLY_V6 };
    icmp.first() == Some(&wanted) && icmp.get(HEADER_BYTES..HEADER_BYTES + COOKIE_BYTES) == Some(cookie)
}

/// Checksum of the internet: ones' complement of the ones' complement sum.
fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_no_answer_and_neither_is_that_of_another() {
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let packet = question(v4, &[7; COOKIE_BYTES]);
        assert_eq!(checksum(&packet), 0, "a packet with its checksum sums up to nothing");
        assert!(!is_answer(v4, false, &packet, &[7; COOKIE_BYTES]));
        let mut reply = packet.clone();
        reply[0] = REPLY_V4;
        assert!(is_answer(v4, false, &reply, &[7; COOKIE_BYTES]) && !is_answer(v4, false, &reply, &[8; COOKIE_BYTES]));
        let with_header = [&[0x45; 20][..], &reply].concat();
        assert!(is_answer(v4, true, &with_header, &[7; COOKIE_BYTES]) && !is_answer(v4, false, &with_header, &[7; COOKIE_BYTES]));
        let mut v6_reply = question(v6, &[7; COOKIE_BYTES]);
        v6_reply[0] = REPLY_V6;
        assert!(is_answer(v6, true, &v6_reply, &[7; COOKIE_BYTES]));
        assert!(!is_answer(v4, true, &[], &[7; COOKIE_BYTES]) && !is_answer(v4, true, &[0x4f], &[7; COOKIE_BYTES]));
    }
}
