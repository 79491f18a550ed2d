//! One connection between the two data processes: TLS over TCP, sent to by many threads, received from by one.
//!
//! Sending locks the order (`out`), and inside it the cipher (`tls`) only for as long as it encrypts; the socket
//! is written with `out` alone held. So the receiver, which needs `tls` only to decrypt, can always go on, and
//! two ends that both wait for room in the other's buffer cannot stop each other.

use super::frame::{self, Address, Data, Frame, Msg};
use super::tls::Identity;
use super::volume::boottime_ns;
use anyhow::{Context, bail};
use rustls::{ClientConnection, Connection, ServerConnection};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Unacknowledged bytes for this long break the connection on a short line: long enough for five retransmissions,
/// each after twice the wait of the one before.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(4);
/// On a long line each retransmission waits for at least a round trip, so that fewer fit: this many round trips more.
const TCP_USER_TIMEOUT_TRIPS: u32 = 4;
/// Longest time until TCP sends a lost frame again (milliseconds). Its own rule doubles the time with each loss, which
/// is for networks that are overloaded; this connection mostly carries one small operation at a time.
const RESEND_MS_MAX: libc::c_int = 2000;
/// `TCP_RTO_MAX_MS` of Linux 6.15; older kernels refuse it, and `TCP_THIN_LINEAR_TIMEOUTS` has to do.
const TCP_RTO_MAX_MS: libc::c_int = 44;
/// A handshake is two round trips; a peer that does not take part in it for this long is not waited for.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// As a whole it may take this many times the wait for one answer: whoever drips bytes holds a place no longer.
const HANDSHAKE_ANSWERS: u32 = 2;
/// How long a receiver sleeps before it looks at silence and pings.
pub const TICK: Duration = Duration::from_millis(500);
/// A peer that says nothing for this long, pinged every tick, is gone or stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(8);
/// Round trips, beyond the module's patience, that a broken connection may take to come back: a new one needs three,
/// and a packet lost on a young connection is sent again after about three more. Three such losses fit.
const PATIENCE_TRIPS: u32 = 12;
/// Sending the reason of an end is tried this often, a millisecond apart, while somebody else is sending.
const LAST_WORD_TRIES: u32 = 10;
/// Bytes of a long frame that are enciphered and sent at a time: some records of TLS.
const PIECE: usize = 64 << 10;
/// A small operation is answered within this time if both ends stay awake: waking a processor that has gone to sleep takes as
/// long. Whoever waits looks again and again for so long, and lets others have the processor in between.
const SPIN_MAX: Duration = Duration::from_micros(80);
/// The same for one flush.
const SPIN_FLUSH_MAX: Duration = Duration::from_micros(400);
/// Somebody else had the processor for this long,
const AWAY: Duration = Duration::from_micros(10);
/// and again: there is work, and staying awake would only be in its way.
const AWAY_MAX: u32 = 8;
/// With more operations than these under way there is as well.
const BUSY_MIN: usize = 3;
/// So many times in a row more nothing came meanwhile than something, and it is not tried any more;
const SPIN_CREDIT_MAX: u32 = 16;
/// but now and then, because the load may have changed.
const SPIN_TRY_EVERY: u32 = 64;
/// Test only: how long frames lie unsent when acknowledgements are not waited for.
const TEST_DELAY: Duration = Duration::from_millis(300);

/// A connection with its session's numbers.
pub struct Link {
    socket: TcpStream,
    tls: Mutex<Connection>,
    /// Test only: see [`Identity::without_cipher`].
    is_open: bool,
    out: Mutex<Out>,
    epoch: u64,
    session: u64,
    bytes: AtomicU64,
    heard_ns: AtomicU64,
    looked_ns: AtomicU64,
    round_trip_us: AtomicU64,
    broken: AtomicBool,
}

struct Out {
    plain: Vec<u8>,
    cipher: Vec<u8>,
    /// Test only: bytes are left here and sent later by `flush_late`.
    late: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these ends the process (see `process`), so poison carries no news.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that is read from until then, however little comes at a time.
struct Bounded<'a> {
    socket: &'a TcpStream,
    until: Instant,
}

impl Read for Bounded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes too long"));
        }
        self.socket.read(into)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Link {
    /// The handshake of the listening end, the peer's identity checked.
    pub fn accept(socket: TcpStream, identity: &Identity, epoch: u64, session: u64) -> anyhow::Result<Arc<Self>> {
        let tls = ServerConnection::new(identity.server()?)?;
        Self::handshake(socket, Connection::Server(tls), identity, HANDSHAKE_MAX, epoch, session)
    }

    /// The handshake of the connecting end, the peer's identity checked. `wait`: for each answer.
    pub fn connect(socket: TcpStream, identity: &Identity, wait: Duration, epoch: u64, session: u64) -> anyhow::Result<Arc<Self>> {
        let name = rustls::pki_types::ServerName::try_from("tsugi.invalid").expect("a valid DNS name");
        let tls = ClientConnection::new(identity.client()?, name)?;
        Self::handshake(socket, Connection::Client(tls), identity, wait, epoch, session)
    }

    fn handshake(
        mut socket: TcpStream,
        mut tls: Connection,
        identity: &Identity,
        wait: Duration,
        epoch: u64,
        session: u64,
    ) -> anyhow::Result<Arc<Self>> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(wait))?;
        socket.set_write_timeout(Some(wait))?;
        let reference = socket2::SockRef::from(&socket);
        reference.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
        let alive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1)).with_retries(3);
        reference.set_tcp_keepalive(&alive)?;
        for (option, value) in [(libc::TCP_THIN_LINEAR_TIMEOUTS, 1), (TCP_RTO_MAX_MS, RESEND_MS_MAX)] {
            if let Err(error) = set_tcp(&socket, option, value) {
                tracing::debug!(option, %error, "the kernel does not take this option of TCP");
            }
        }
        tls.set_buffer_limit(None);
        let mut bounded = Bounded { socket: &socket, until: Instant::now() + wait * HANDSHAKE_ANSWERS };
        while tls.is_handshaking() {
            tls.complete_io(&mut bounded).context("the TLS handshake failed")?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        identity.check_peer(tls.peer_certificates())?;
        if identity.is_open {
            // What comes with the end of the handshake would be taken for a part of it: the one that ends it last is waited for.
            match &tls {
                Connection::Server(_) => socket.write_all(&[0])?,
                Connection::Client(_) => socket.read_exact(&mut [0])?,
            }
        }
        socket.set_write_timeout(None)?;
        socket.set_read_timeout(Some(TICK))?;
        let link = Self {
            socket,
            tls: Mutex::new(tls),
            is_open: identity.is_open,
            out: Mutex::new(Out { plain: Vec::new(), cipher: Vec::new(), late: false }),
            epoch,
            session,
            bytes: AtomicU64::new(0),
            heard_ns: AtomicU64::new(boottime_ns()),
            looked_ns: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        };
        link.look_at_line(boottime_ns());
        Ok(Arc::new(link))
    }

    /// Number of this connection's session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Epoch under which it was opened.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Bytes sent and received.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts what earlier connections of the session carried.
    pub fn carry_on(&self, earlier: &Self) {
        self.bytes.fetch_add(earlier.bytes(), Ordering::Relaxed);
    }

    /// Round trip of the line as the kernel last saw it; a connection that is broken remembers.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_us.load(Ordering::Relaxed))
    }

    /// How long a connection that broke may take to come back before its session is lost.
    pub fn patience(&self, of_module: Duration) -> Duration {
        of_module + self.round_trip() * PATIENCE_TRIPS
    }

    /// Learns the round trip of the line and allows a long one more time for retransmissions. At most once a tick.
    fn look_at_line(&self, now_ns: u64) {
        let since = now_ns.saturating_sub(self.looked_ns.load(Ordering::Relaxed));
        if since < u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX) {
            return;
        }
        self.looked_ns.store(now_ns, Ordering::Relaxed);
        let Some(trip) = round_trip(&self.socket) else { return };
        self.round_trip_us.store(u64::try_from(trip.as_micros()).unwrap_or(0), Ordering::Relaxed);
        let limit = (TCP_USER_TIMEOUT + trip * TCP_USER_TIMEOUT_TRIPS).min(SILENCE_MAX);
        if let Err(e) = socket2::SockRef::from(&self.socket).set_tcp_user_timeout(Some(limit)) {
            tracing::debug!(error = %e, "the connection keeps its limit for unacknowledged bytes");
        }
    }

    /// Whether it was ended or broke.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Ends the connection; both directions fail from now on. Whether the session goes on is not decided here.
    pub fn close(&self) {
        self.broken.store(true, Ordering::Release);
        // An error means it is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends a message that is no operation of the live stream; `lsn` is what it is about.
    pub fn send(&self, lsn: u64, msg: &Msg, data: &[u8]) -> io::Result<()> {
        self.send_data(lsn, msg, Data::plain(data))
    }

    /// The same with data that may be compressed.
    pub fn send_data(&self, lsn: u64, msg: &Msg, data: Data<'_>) -> io::Result<()> {
        self.send_locked(&mut lock(&self.out), lsn, msg, data)
    }

    /// Sends a frame of this session that is encoded already. The peer deciphers a long one while this end still enciphers.
    pub fn send_frame(&self, frame: &[u8]) -> io::Result<()> {
        let Out { cipher, late, .. } = &mut *lock(&self.out);
        for piece in frame.chunks(PIECE) {
            self.encrypt(&[piece], cipher)?;
            if !*late {
                self.flush_cipher(cipher)?;
            }
        }
        Ok(())
    }

    /// Sends short frames of this session, encoded already, at once.
    pub fn send_frames(&self, frames: &[&[u8]]) -> io::Result<()> {
        let Out { cipher, late, .. } = &mut *lock(&self.out);
        self.encrypt(frames, cipher)?;
        if *late { Ok(()) } else { self.flush_cipher(cipher) }
    }

    /// Ends the connection and says why first, if that can be done without waiting.
    pub fn close_saying(&self, why: &Msg) {
        for _ in 0..LAST_WORD_TRIES {
            let Ok(mut out) = self.out.try_lock() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            if self.encode(&mut out, 0, why, Data::plain(&[])).is_ok() {
                // All or nothing: a part of a record is the same as none.
                let _ = socket2::SockRef::from(&self.socket).send_with_flags(&out.cipher, libc::MSG_DONTWAIT);
            }
            break;
        }
        self.close();
    }

    fn send_locked(&self, out: &mut Out, lsn: u64, msg: &Msg, data: Data<'_>) -> io::Result<()> {
        self.encode(out, lsn, msg, data)?;
        if out.late { Ok(()) } else { self.flush_cipher(&mut out.cipher) }
    }

    fn encode(&self, out: &mut Out, lsn: u64, msg: &Msg, data: Data<'_>) -> io::Result<()> {
        let Out { plain, cipher, .. } = out;
        plain.clear();
        frame::encode(Address { epoch: self.epoch, session: self.session, lsn }, msg, data, plain)?;
        self.encrypt(&[plain, data.bytes], cipher)
    }

    fn encrypt(&self, parts: &[&[u8]], cipher: &mut Vec<u8>) -> io::Result<()> {
        if self.broken.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the connection has ended"));
        }
        if self.is_open {
            for part in parts {
                self.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
                cipher.extend_from_slice(part);
            }
            return Ok(());
        }
        let mut tls = lock(&self.tls);
        for part in parts {
            self.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
            tls.writer().write_all(part)?;
        }
        while tls.wants_write() {
            tls.write_tls(cipher)?;
        }
        Ok(())
    }

    fn flush_cipher(&self, cipher: &mut Vec<u8>) -> io::Result<()> {
        let sent = (&self.socket).write_all(cipher);
        cipher.clear();
        if let Err(e) = sent {
            // Half a record may be out: nothing sensible can follow it.
            self.close();
            return Err(e);
        }
        Ok(())
    }

    /// Test only: from now on frames lie for a while before they are sent.
    pub fn send_late(self: &Arc<Self>) {
        lock(&self.out).late = true;
        let link = Arc::downgrade(self);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TEST_DELAY);
                let Some(link) = link.upgrade() else { return };
                if link.flush_cipher(&mut lock(&link.out).cipher).is_err() {
                    return;
                }
            }
        });
    }

    /// Waits until something can be received, or the connection has ended.
    pub fn wait_readable(&self, wait: Duration) -> bool {
        let mut fd = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let wait = libc::timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        // SAFETY: one descriptor and one time, both live for the call; no signal mask.
        unsafe { libc::ppoll(&raw mut fd, 1, &raw const wait, std::ptr::null()) > 0 }
    }

    /// Called when nothing came for a tick: asks the peer whether it is there, and fails after a long silence.
    pub fn check_silence(&self) -> anyhow::Result<()> {
        let silent = Duration::from_nanos(boottime_ns().saturating_sub(self.heard_ns.load(Ordering::Relaxed)));
        if silent > SILENCE_MAX {
            bail!("the peer said nothing for {} ms", silent.as_millis());
        }
        self.send(0, &Msg::Ping, &[]).context("the connection broke")
    }
}

fn set_tcp(socket: &TcpStream, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length describe one integer, which outlives the call.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), size_of_val(&value) as libc::socklen_t)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn recv(socket: &TcpStream, into: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: the buffer is valid for the length told.
    let got = unsafe { libc::recv(socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The kernel's smoothed measurement; `None` where it has none.
fn round_trip(socket: &TcpStream) -> Option<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes into `info`, whose every bit pattern is a valid value.
    let info = unsafe {
        if libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) != 0 {
            return None;
        }
        info.assume_init()
    };
    Some(Duration::from_micros(u64::from(info.tcpi_rtt)))
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

/// The receiving side of a link; one per link.
pub struct Inbox {
    link: Arc<Link>,
    raw: Vec<u8>,
    /// Grows to the largest backlog and stays: filling fresh memory with zeros would cost more than decrypting.
    plain: Vec<u8>,
    read: usize,
    end: usize,
    /// What travelled compressed; the same.
    expanded: Vec<u8>,
    spin: Spin,
}

/// What else goes on while a message is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// Operations that wait, or flushes.
    pub under_way: usize,
    /// One of them, or the one waited for, is a flush.
    pub is_flushing: bool,
}

/// Whether it pays to stay awake until the next message comes.
struct Spin {
    credit: u32,
    waits: u32,
    /// With one processor nobody could send anything meanwhile.
    is_possible: bool,
}

impl Spin {
    fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { credit: 0, waits: 0, is_possible: processors > 1 }
    }

    /// Waits awake, if that has paid lately; true if something came.
    fn spin(&mut self, max: Duration, is_there: impl Fn() -> bool) -> bool {
        self.waits = self.waits.wrapping_add(1);
        if !self.is_possible || (self.credit == 0 && !self.waits.is_multiple_of(SPIN_TRY_EVERY)) {
            return false;
        }
        let begun = Instant::now();
        let (mut last, mut away) = (begun, 0);
        loop {
            if is_there() {
                self.credit = (self.credit + 2).min(SPIN_CREDIT_MAX);
                return true;
            }
            let now = Instant::now();
            away += u32::from(now - last > AWAY);
            if now - begun > max || away > AWAY_MAX {
                self.credit = self.credit.saturating_sub(1);
                return false;
            }
            last = now;
            std::thread::yield_now();
        }
    }
}

impl Inbox {
    /// The connection it receives from.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Receives from a link.
    pub fn new(link: Arc<Link>) -> Self {
        // One TLS record is 16 KiB; a write of 1 MiB comes in a few calls.
        Self { link, raw: vec![0; 256 * 1024], plain: Vec::new(), read: 0, end: 0, expanded: Vec::new(), spin: Spin::new() }
    }

    /// Waits until something can be received, or the connection has ended; awake at first if little is going on.
    pub fn wait(&mut self, wait: Duration, busy: Busy) -> bool {
        let link = &self.link;
        let max = if busy.is_flushing { SPIN_FLUSH_MAX } else { SPIN_MAX };
        (busy.under_way < BUSY_MIN && self.spin.spin(max, || link.wait_readable(Duration::ZERO))) || link.wait_readable(wait)
    }

    /// Whether a whole frame is here already.
    pub fn has_more(&self) -> bool {
        matches!(frame::complete(&self.plain[self.read..self.end]), Ok(Some(_)) | Err(_))
    }

    /// The next frame; `None` if nothing came for a tick.
    pub fn receive(&mut self) -> io::Result<Option<Frame<'_>>> {
        self.receive_with(0)
    }

    /// The next frame if it is here.
    pub fn receive_now(&mut self) -> io::Result<Option<Frame<'_>>> {
        self.receive_with(libc::MSG_DONTWAIT)
    }

    fn receive_with(&mut self, flags: libc::c_int) -> io::Result<Option<Frame<'_>>> {
        if self.end == 0 {
            // The first frame may have come with the end of the handshake and wait inside the TLS connection.
            let link = self.link.clone();
            self.decrypt(&mut lock(&link.tls))?;
        }
        let length = loop {
            if let Some(length) = frame::complete(&self.plain[self.read..self.end])? {
                break length;
            }
            if !self.fill(flags)? {
                return Ok(None);
            }
        };
        let start = self.read;
        self.read += length;
        let frame = frame::decode(&self.plain[start..start + length], &mut self.expanded)?;
        if frame.session != self.link.session && !matches!(frame.msg, Msg::Hello(_) | Msg::Refuse { .. }) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of session {}", frame.session)));
        }
        Ok(Some(frame))
    }

    /// The next frame's message, skipping pings, failing after a while: for the opening of a connection.
    pub fn expect(&mut self, wait: Duration) -> anyhow::Result<(u64, u64, Msg)> {
        let link = self.link.clone();
        let begun = Instant::now();
        loop {
            if begun.elapsed() > wait {
                bail!("the peer did not answer within {} ms", wait.as_millis());
            }
            match self.receive()? {
                None => {}
                Some(f) => match f.msg {
                    Msg::Ping => link.send(0, &Msg::Pong, &[])?,
                    Msg::Pong => {}
                    msg => return Ok((f.epoch, f.session, msg)),
                },
            }
        }
    }

    /// False: nothing came.
    fn fill(&mut self, flags: libc::c_int) -> io::Result<bool> {
        if self.read > 0 {
            self.plain.copy_within(self.read..self.end, 0);
            self.end -= self.read;
            self.read = 0;
        }
        let got = match recv(&self.link.socket, &mut self.raw, flags) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e),
        };
        self.link.bytes.fetch_add(got as u64, Ordering::Relaxed);
        let now = boottime_ns();
        self.link.heard_ns.store(now, Ordering::Relaxed);
        self.link.look_at_line(now);
        let link = self.link.clone();
        if link.is_open {
            let end = self.end + got;
            if self.plain.len() < end {
                self.plain.resize(end.next_power_of_two(), 0);
            }
            self.plain[self.end..end].copy_from_slice(&self.raw[..got]);
            self.end = end;
            return Ok(true);
        }
        let mut tls = lock(&link.tls);
        let mut at = 0;
        while at < got {
            let mut rest = &self.raw[at..got];
            at += tls.read_tls(&mut rest)?;
            self.decrypt(&mut tls)?;
        }
        Ok(true)
    }

    fn decrypt(&mut self, tls: &mut Connection) -> io::Result<()> {
        let state = tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let waiting = state.plaintext_bytes_to_read();
        if waiting > 0 {
            let end = self.end + waiting;
            if self.plain.len() < end {
                self.plain.resize(end.next_power_of_two(), 0);
            }
            tls.reader().read_exact(&mut self.plain[self.end..end])?;
            self.end = end;
        }
        if state.peer_has_closed() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_drips_bytes_is_not_listened_to_for_ever() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut guest = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let drips = std::thread::spawn(move || while guest.write_all(&[0]).is_ok() {});
        let mut bounded = Bounded { socket: &socket, until: Instant::now() + Duration::from_millis(200) };
        let error = loop {
            if let Err(error) = bounded.read(&mut [0]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let _ = socket.shutdown(Shutdown::Both);
        drips.join().unwrap();
    }
}
