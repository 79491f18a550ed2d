//! Addresses by netlink without allocating: messages are built in a buffer on the stack.

use super::table::Address;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// From linux/if_addr.h and linux/rtnetlink.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// The kernel answers at once; longer, and the guard has other things to do.
const ANSWER_MS_MAX: libc::suseconds_t = 200;
/// Longest message: headers and six attributes.
const BYTES: usize = 160;

/// A socket for addresses.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message under construction.
struct Message {
    bytes: [u8; BYTES],
    length: usize,
}

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32, address: &Address) -> Message {
        let mut message = Message { bytes: [0; BYTES], length: 0 };
        message.push(&[0; 4]); // the length, set at the end
        message.push(&kind.to_ne_bytes());
        message.push(&flags.to_ne_bytes());
        message.push(&sequence.to_ne_bytes());
        message.push(&[0; 4]); // port: the kernel's
        let (family, host) = if address.addr.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
        let flags = if address.addr.is_ipv6() && kind == libc::RTM_NEWADDR { IFA_F_NODAD as u8 } else { 0 };
        message.push(&[u8::try_from(family).unwrap_or(0), address.prefix.min(host), flags, libc::RT_SCOPE_UNIVERSE]);
        message.push(&address.index.to_ne_bytes());
        match address.addr {
            IpAddr::V4(v4) => {
                message.attribute(IFA_LOCAL, &v4.octets());
                message.attribute(IFA_ADDRESS, &v4.octets());
            }
            IpAddr::V6(v6) => {
                message.attribute(IFA_LOCAL, &v6.octets());
                message.attribute(IFA_ADDRESS, &v6.octets());
            }
        }
        message
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(4);
        self.push(&length.to_ne_bytes());
        self.push(&kind.to_ne_bytes());
        self.push(value);
        while !self.length.is_multiple_of(4) {
            self.push(&[0]);
        }
    }

    fn finished(&mut self) -> &[u8] {
        let length = u32::try_from(self.length).unwrap_or(0);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        &self.bytes[..self.length]
    }
}

impl Netlink {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> io::Result<Netlink> {
        // SAFETY: plain call on constants.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let patience = libc::timeval { tv_sec: 0, tv_usec: ANSWER_MS_MAX * 1000 };
        // SAFETY: the structure lives for the call and has the length that is given.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Adds the address, or gives it a new lifetime in seconds if it is there. `mark` is that of the agent's own ones.
    pub fn put(&mut self, address: &Address, seconds: u32, mark: u8) -> io::Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Message::new(libc::RTM_NEWADDR, flags as u16, self.sequence, address);
        // As the agent raises them: no route of its own, working at once, and in IPv6 not preferred as a source.
        let (nodad, preferred) = if address.addr.is_ipv6() { (IFA_F_NODAD, 0) } else { (0, seconds) };
        message.attribute(IFA_FLAGS, &(IFA_F_NOPREFIXROUTE | nodad).to_ne_bytes());
        message.attribute(IFA_PROTO, &[mark]);
        let mut cache = [0u8; 16];
        cache[..4].copy_from_slice(&preferred.to_ne_bytes());
        cache[4..8].copy_from_slice(&seconds.to_ne_bytes());
        message.attribute(IFA_CACHEINFO, &cache);
        self.ask(&mut message)
    }

    /// Removes the address; one that is gone already is no error.
    pub fn remove(&mut self, address: &Address) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Message::new(libc::RTM_DELADDR, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, self.sequence, address);
        match self.ask(&mut message) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            other => other,
        }
    }

    fn ask(&mut self, message: &mut Message) -> io::Result<()> {
        let bytes = message.finished();
        // SAFETY: the buffer is valid for the length given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut answer = [0u8; 512];
            // SAFETY: the buffer is valid for the length given.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
            if got < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            let word = |at: usize| i32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
            // An answer to an earlier question that came too late is passed over.
            if got >= 20 && word(8).cast_unsigned() == self.sequence {
                let error = word(16);
                return if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) };
            }
        }
    }
}
