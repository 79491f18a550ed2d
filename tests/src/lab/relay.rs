//! A bad line between two hosts: frames of the pair bypass the kernel's switch and go through here, where they
//! are lost, delayed, duplicated, reordered or slowed down. One thread per direction.

use super::ns;
use anyhow::{Context, Result, bail};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Frames waiting for their time; more are dropped, as a switch drops what does not fit its buffer.
const QUEUE_FRAMES_MAX: usize = 4096;
/// With a rate: at most this much time's worth may wait.
const QUEUE_TIME_MAX: Duration = Duration::from_secs(2);
/// A reordered frame is overtaken by those of this time when the line itself has no delay.
const REORDER_HOLD: Duration = Duration::from_millis(10);
/// The stop flag is looked at this often.
const STOP_LOOK: Duration = Duration::from_millis(100);
/// Largest frame: without segmentation offload (switched off for the pair) one MTU and its header.
const FRAME_BYTES_MAX: usize = 65_536;
const RECEIVE_BUFFER_BYTES: i32 = 8 << 20;

/// How bad a line is. Zero = not at all.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Quality {
    /// Lost, in per cent.
    pub loss_percent: f64,
    /// Delay of every frame in milliseconds, one way.
    pub delay_ms: f64,
    /// Rate in kilobits per second, 0 = unlimited.
    pub rate_kbit: u64,
    /// Frames overtaken by later ones, in per cent.
    pub reorder_percent: f64,
    /// Frames that arrive twice, in per cent.
    pub dup_percent: f64,
    /// Frames with a byte changed, in per cent.
    pub corrupt_percent: f64,
}

/// One direction of a line; stops when dropped.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries what comes in at switch port `from` and is for the host behind `to` (hardware address `to_mac`, or
/// everybody) to port `to`.
pub fn start(switch: &OwnedFd, from: &str, to: &str, to_mac: &str, quality: Quality) -> Result<Relay> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let mac = parse_mac(to_mac)?;
    let (input, output) = ns::within(switch, move || {
        let input = packet_socket(&from, libc::ETH_P_ALL as u16)?;
        Ok((input, packet_socket(&to, 0)?))
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let thread = std::thread::Builder::new()
        .name("relay".into())
        .spawn(move || Line { input, output, mac, quality, free_at: Instant::now(), queue: BinaryHeap::new(), count: 0 }.run(&seen))?;
    Ok(Relay { stop, thread: Some(thread) })
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0u8; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().unwrap_or_default(), 16).with_context(|| format!("`{text}` is no hardware address"))?;
    }
    Ok(mac)
}

fn packet_socket(interface: &str, protocol: u16) -> Result<OwnedFd> {
    let protocol_be = i32::from(protocol.to_be());
    // SAFETY: plain system calls on a descriptor owned from here on; `address` is a valid sockaddr_ll.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("AF_PACKET socket (root is needed)");
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let name = std::ffi::CString::new(interface)?;
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            bail!("the switch has no port {interface}: the host is off");
        }
        let size = RECEIVE_BUFFER_BYTES;
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const size).cast(), 4);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol_be as u16;
        address.sll_ifindex = index as i32;
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("bind to {interface}"));
        }
        Ok(fd)
    }
}

struct Line {
    input: OwnedFd,
    output: OwnedFd,
    mac: [u8; 6],
    quality: Quality,
    /// When the line has sent all it was given (with a rate).
    free_at: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
}

impl Line {
    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = vec![0u8; FRAME_BYTES_MAX];
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while self.queue.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                if let Some(Reverse((_, _, frame))) = self.queue.pop() {
                    self.send(&frame);
                }
            }
            let bound = self.queue.peek().map_or(STOP_LOOK, |Reverse((due, ..))| due.saturating_duration_since(now).min(STOP_LOOK));
            if !self.wait(bound) {
                continue;
            }
            while let Some(length) = self.receive(&mut buffer) {
                self.take(&buffer[..length]);
            }
        }
    }

    fn wait(&self, bound: Duration) -> bool {
        let mut fd = libc::pollfd { fd: self.input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let bound = libc::timespec { tv_sec: bound.as_secs() as _, tv_nsec: bound.subsec_nanos() as _ };
        // SAFETY: one valid descriptor and a valid time.
        let rc = unsafe { libc::ppoll(&mut fd, 1, &bound, std::ptr::null()) };
        if fd.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 && fd.revents & libc::POLLIN == 0 {
            // The port is gone (host switched off): the keeper makes a new relay when it boots.
            let mut error = 0i32;
            let mut size = 4u32;
            // SAFETY: reads one integer; this also clears the error.
            unsafe { libc::getsockopt(fd.fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut size) };
            std::thread::sleep(Duration::from_millis(5));
            return false;
        }
        rc > 0
    }

    /// Length of the next frame that is for the other host.
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            // SAFETY: buffer and address are valid for the lengths given.
            let (length, kind) = unsafe {
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                let mut size = size_of::<libc::sockaddr_ll>() as u32;
                let length = libc::recvfrom(
                    self.input.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut address).cast(),
                    &mut size,
                );
                (length, address.sll_pkttype)
            };
            if length < 14 {
                return None;
            }
            let is_for_it = buffer[..6] == self.mac || buffer[0] & 1 == 1;
            if kind != libc::PACKET_OUTGOING && is_for_it {
                return Some(length as usize);
            }
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let mut dice = rand::rng();
        let mut hit = |percent: f64| percent > 0.0 && dice.random_range(0.0..100.0) < percent;
        let quality = self.quality;
        if hit(quality.loss_percent) {
            return;
        }
        let copies = if hit(quality.dup_percent) { 2 } else { 1 };
        let is_overtaken = hit(quality.reorder_percent);
        let is_corrupt = hit(quality.corrupt_percent);
        let delay = Duration::from_secs_f64(quality.delay_ms.max(0.0) / 1000.0);
        for _ in 0..copies {
            let now = Instant::now();
            let mut due = now;
            if quality.rate_kbit > 0 {
                let start = self.free_at.max(now);
                if start.duration_since(now) > QUEUE_TIME_MAX {
                    return;
                }
                self.free_at = start + Duration::from_secs_f64(frame.len() as f64 * 8.0 / (quality.rate_kbit as f64 * 1000.0));
                due = self.free_at;
            }
            due += delay;
            if is_overtaken {
                due += delay / 2 + REORDER_HOLD;
            }
            if self.queue.len() >= QUEUE_FRAMES_MAX {
                return;
            }
            let mut frame = frame.to_vec();
            if is_corrupt && frame.len() > 14 {
                let at = rand::rng().random_range(14..frame.len());
                frame[at] ^= 0x55;
            }
            self.count += 1;
            if due <= now && self.queue.is_empty() {
                self.send(&frame);
            } else {
                self.queue.push(Reverse((due, self.count, frame)));
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        // A frame that the port does not take is lost, as on a real line.
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::send(self.output.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }
}

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Switches checksum and segmentation offload of an interface on or off. With them, frames on the switch are
/// unfinished (no checksum, up to 64 KiB), which a line of real frames cannot carry.
pub fn set_offload(net: &OwnedFd, interface: &'static str, on: bool) -> Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const ETHTOOL_SSG: u32 = 0x19;
    const ETHTOOL_STSO: u32 = 0x1f;
    const ETHTOOL_SGSO: u32 = 0x24;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    ns::within(net, move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        let mut commands = [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SSG, ETHTOOL_STXCSUM];
        if on {
            commands.reverse();
        }
        for command in commands {
            let mut value = EthtoolValue { command, data: u32::from(on) };
            // SAFETY: `ifreq` is zero-filled, its name is shorter than the field, its pointer is to a live value.
            let rc = unsafe {
                let mut request: libc::ifreq = std::mem::zeroed();
                for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
                    *place = byte as libc::c_char;
                }
                request.ifr_ifru.ifru_data = (&raw mut value).cast();
                libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &request)
            };
            if rc != 0 {
                let error = std::io::Error::last_os_error();
                // Some kernels tie one to another and refuse what is already so.
                if command == ETHTOOL_STXCSUM || command == ETHTOOL_STSO {
                    return Err(error).with_context(|| format!("offload {command:#x} of {interface}"));
                }
            }
        }
        Ok(())
    })
}
