//! Cuts TCP connections to an address that is about to go away, so that clients notice at once and come again to the
//! new place, instead of waiting for minutes for an answer nobody will give.
//!
//! `SOCK_DESTROY` of the kernel's socket diagnosis (`CONFIG_INET_DIAG_DESTROY`): the connection is reset towards the
//! client, and the application here sees it end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const HEADER_BYTES: usize = 16;
/// Identity of a connection: ports, addresses, interface, cookie.
const ID_BYTES: usize = 48;
/// Every state of TCP but LISTEN (10), TIME_WAIT (6) and CLOSE (7).
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12;
/// The kernel answers at once, and lists ten thousand connections in some milliseconds.
const ANSWER_BOUND: Duration = Duration::from_secs(1);
/// All of it together: an address must not stay because of its connections.
const WORK_BOUND: Duration = Duration::from_secs(2);
const BUFFER_BYTES: usize = 64 * 1024;

/// A connection as the kernel names it.
struct Connection {
    family: u8,
    id: [u8; ID_BYTES],
}

/// Cuts every connection whose local address is one of `addrs`; returns how many. Blocks for at most two seconds or so.
pub fn cut(addrs: &[IpAddr]) -> io::Result<usize> {
    let begin = Instant::now();
    let socket = open()?;
    let mut connections = Vec::new();
    // Connections to an IPv4 address through a socket for both families are listed under IPv6.
    for family in [libc::AF_INET, libc::AF_INET6] {
        list(&socket, family as u8, addrs, &mut connections)?;
    }
    let mut count = 0;
    for connection in &connections {
        if begin.elapsed() > WORK_BOUND {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{count} of {} connections cut", connections.len())));
        }
        send(&socket, &request(SOCK_DESTROY, libc::NLM_F_ACK, connection.family, &connection.id))?;
        match acknowledged(&socket)? {
            0 => count += 1,
            libc::ENOENT => {} // ended by itself meanwhile
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
    Ok(count)
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: integers in, a new descriptor or an error out.
    let raw = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just returned by the kernel, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    socket2::SockRef::from(&socket).set_read_timeout(Some(ANSWER_BOUND))?;
    Ok(socket)
}

fn request(kind: u16, flags: i32, family: u8, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let length = HEADER_BYTES + 8 + ID_BYTES;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&u32::try_from(length).expect("72 bytes").to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&u16::try_from(libc::NLM_F_REQUEST | flags).expect("16 bits of flags").to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]); // sequence and port: one request at a time needs neither
    bytes.extend_from_slice(&[family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend_from_slice(&STATES.to_ne_bytes());
    bytes.extend_from_slice(id);
    bytes
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is valid for its stated length during the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives messages and gives each as `(type, content)`, until `take` says that it was the last.
fn receive(socket: &OwnedFd, mut take: impl FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
    let begin = Instant::now();
    let mut buffer = vec![0; BUFFER_BYTES];
    while begin.elapsed() < WORK_BOUND {
        // SAFETY: the buffer is valid and writable for its stated length during the call.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let mut rest = &buffer[..got];
        while rest.len() >= HEADER_BYTES {
            let length = u32::from_ne_bytes(rest[0..4].try_into().expect("4 bytes")) as usize;
            let kind = u16::from_ne_bytes(rest[4..6].try_into().expect("2 bytes"));
            let Some(content) = rest.get(HEADER_BYTES..length) else { break };
            if take(kind, content) {
                return Ok(());
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn list(socket: &OwnedFd, family: u8, addrs: &[IpAddr], found: &mut Vec<Connection>) -> io::Result<()> {
    send(socket, &request(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, family, &[0; ID_BYTES]))?;
    let mut error = 0;
    receive(socket, |kind, content| match i32::from(kind) {
        libc::NLMSG_DONE => true,
        libc::NLMSG_ERROR => {
            error = error_of(content);
            true
        }
        _ => {
            let id: Option<[u8; ID_BYTES]> = content.get(4..4 + ID_BYTES).and_then(|id| id.try_into().ok());
            if let Some(id) = id.filter(|id| addrs.contains(&local_address(family, id))) {
                found.push(Connection { family, id });
            }
            false
        }
    })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn acknowledged(socket: &OwnedFd) -> io::Result<i32> {
    let mut error = 0;
    receive(socket, |kind, content| {
        error = error_of(content);
        i32::from(kind) == libc::NLMSG_ERROR
    })?;
    Ok(error)
}

/// Error number of an `NLMSG_ERROR`; 0 is the acknowledgement.
fn error_of(content: &[u8]) -> i32 {
    content.get(0..4).and_then(|b| b.try_into().ok()).map_or(libc::EBADMSG, |b| i32::from_ne_bytes(b).saturating_neg())
}

fn local_address(family: u8, id: &[u8; ID_BYTES]) -> IpAddr {
    if i32::from(family) == libc::AF_INET {
        let octets: [u8; 4] = id[4..8].try_into().expect("4 bytes");
        return Ipv4Addr::from(octets).into();
    }
    let octets: [u8; 16] = id[4..20].try_into().expect("16 bytes");
    Ipv6Addr::from(octets).to_canonical()
}
