//! Does an address answer? ICMP echo; where that is not permitted, a TCP connection, which a living machine accepts or
//! refuses.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A single echo may be lost on the way.
const TRIES: u32 = 3;
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Port of the TCP attempt (echo): hardly anybody listens there, and a refusal is an answer too.
const TCP_PORT: u16 = 7;
/// Large enough for an IPv4 header with options, and our echo.
const PACKET_BYTES_MAX: usize = 256;

/// Whether one of `addresses` answers; all are asked at once.
pub(super) async fn any_answers(addresses: &[IpAddr]) -> bool {
    let mut tasks = JoinSet::new();
    for addr in addresses {
        tasks.spawn(answers(*addr));
    }
    while let Some(result) = tasks.join_next().await {
        if result.unwrap_or(false) {
            return true;
        }
    }
    false
}

async fn answers(addr: IpAddr) -> bool {
    let echoes = move || -> io::Result<bool> {
        for _ in 0..TRIES {
            if echo(addr)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match tokio::task::spawn_blocking(echoes).await {
        Ok(Ok(is_answered)) => is_answered,
        Ok(Err(error)) => {
            tracing::debug!(%addr, %error, "no ICMP here; trying TCP");
            tcp(addr).await
        }
        Err(_) => false,
    }
}

async fn tcp(addr: IpAddr) -> bool {
    match timeout(ANSWER_MAX * TRIES, TcpStream::connect(SocketAddr::new(addr, TCP_PORT))).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

/// One echo. An error means that this program may not send any.
fn echo(addr: IpAddr) -> io::Result<bool> {
    let (domain, protocol, request, reply) = match addr {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8u8, 0u8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128u8, 129u8),
    };
    // Raw sockets need a privilege that the agent has; the others, a group that the system lists.
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).or_else(|_| Socket::new(domain, Type::DGRAM, Some(protocol)))?;
    let token: [u8; 16] = rand::random();
    let mut packet = vec![request, 0, 0, 0, token[0], token[1], 0, 1];
    packet.extend_from_slice(&token);
    if addr.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    if socket.send_to(&packet, &SockAddr::from(SocketAddr::new(addr, 0))).is_err() {
        // No route, or refused by a filter: an answer of this machine about that address.
        return Ok(false);
    }
    let end = Instant::now() + ANSWER_MAX;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); PACKET_BYTES_MAX];
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { return Ok(false) };
        // SAFETY: the kernel has written `length` bytes.
        let bytes: Vec<u8> = buffer.iter().take(length).map(|b| unsafe { b.assume_init() }).collect();
        if from.as_socket().is_some_and(|f| f.ip() == addr) && is_reply(&bytes, reply, &token) {
            return Ok(true);
        }
    }
}

/// Our token makes the answer ours; with raw sockets over IPv4 the header of IP comes first.
fn is_reply(bytes: &[u8], reply: u8, token: &[u8]) -> bool {
    let icmp = match bytes.first() {
        Some(first) if first >> 4 == 4 && bytes.len() > 20 => bytes.get(usize::from(first & 0xf) * 4..).unwrap_or_default(),
        _ => bytes,
    };
    icmp.first() == Some(&reply) && icmp.get(8..8 + token.len()) == Some(token)
}

/// The checksum of ICMPv4.
fn checksum(packet: &[u8]) -> u16 {
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_answers_and_an_address_nobody_has_does_not() {
        assert!(any_answers(&["127.0.0.1".parse().unwrap()]).await);
        let nobody: IpAddr = "192.0.2.77".parse().unwrap();
        assert!(any_answers(&[nobody, "127.0.0.1".parse().unwrap()]).await, "one is enough");
        let begin = Instant::now();
        assert!(!any_answers(&[nobody]).await);
        assert!(begin.elapsed() < Duration::from_secs(4));
        assert!(!any_answers(&[]).await);
    }

    #[tokio::test]
    async fn without_icmp_a_refusal_is_an_answer() {
        assert!(tcp("127.0.0.1".parse().unwrap()).await);
    }
}
