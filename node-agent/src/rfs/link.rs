//! One connection between the two data processes: TLS over TCP, sent to by many threads, received from by one.
//!
//! Sending locks the order (`out`), and inside it the cipher (`tls`) only for as long as it encrypts; the socket
//! is written with `out` alone held. So the receiver, which needs `tls` only to decrypt, can always go on, and
//! two ends that both wait for room in the other's buffer cannot stop each other.

use super::frame::{self, Address, Frame, Msg};
use super::tls::Identity;
use super::volume::boottime_ns;
use anyhow::{Context, bail};
use rustls::{ClientConnection, Connection, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Unacknowledged bytes for this long break the connection, on a network without delay: see [`Link::patience`].
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(4);
/// Nothing is taken for lost for good before this many round trips: of these, frames of a network that loses every
/// tenth get through ten times over. A network that is merely bad must not cost the session, because that costs a role.
const ROUND_TRIPS_MIN: u32 = 20;
/// … but not for longer than this.
const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// Round trips change, and with them the patience: looked at this often.
const TUNE_EVERY: Duration = Duration::from_millis(500);
/// Longest time until TCP sends a lost frame again (milliseconds). Its own rule doubles the time with each loss, which
/// is for networks that are overloaded; this connection mostly carries one small operation at a time.
const RESEND_MS_MAX: libc::c_int = 2000;
/// `TCP_RTO_MAX_MS` of Linux 6.15; older kernels refuse it, and `TCP_THIN_LINEAR_TIMEOUTS` has to do.
const TCP_RTO_MAX_MS: libc::c_int = 44;
/// A handshake is two round trips.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long a receiver sleeps before it looks at silence and pings.
pub const TICK: Duration = Duration::from_millis(500);
/// A peer that says nothing for this long, pinged every tick, is gone or stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(8);
/// Test only: how long frames lie unsent when acknowledgements are not waited for.
const TEST_DELAY: Duration = Duration::from_millis(300);

/// A connection with its session's numbers.
pub struct Link {
    socket: TcpStream,
    tls: Mutex<Connection>,
    out: Mutex<Out>,
    /// Number of the last operation; outside `out`, which a sender holds while the connection is full.
    last: AtomicU64,
    epoch: u64,
    session: u64,
    bytes: AtomicU64,
    heard_ns: AtomicU64,
    tuned_ns: AtomicU64,
    broken: AtomicBool,
}

struct Out {
    next_lsn: u64,
    plain: Vec<u8>,
    cipher: Vec<u8>,
    /// Test only: bytes are left here and sent later by `flush_late`.
    late: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these ends the process (see `process`), so poison carries no news.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// The handshake of the listening end, the peer's identity checked.
    pub fn accept(socket: TcpStream, identity: &Identity, epoch: u64, session: u64) -> anyhow::Result<Arc<Self>> {
        let tls = ServerConnection::new(identity.server()?)?;
        Self::handshake(socket, Connection::Server(tls), identity, epoch, session)
    }

    /// The handshake of the connecting end, the peer's identity checked.
    pub fn connect(socket: TcpStream, identity: &Identity, epoch: u64, session: u64) -> anyhow::Result<Arc<Self>> {
        let name = rustls::pki_types::ServerName::try_from("tsugi.invalid").expect("a valid DNS name");
        let tls = ClientConnection::new(identity.client()?, name)?;
        Self::handshake(socket, Connection::Client(tls), identity, epoch, session)
    }

    fn handshake(mut socket: TcpStream, mut tls: Connection, identity: &Identity, epoch: u64, session: u64) -> anyhow::Result<Arc<Self>> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(HANDSHAKE_MAX))?;
        socket.set_write_timeout(Some(HANDSHAKE_MAX))?;
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
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).context("the TLS handshake failed")?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        identity.check_peer(tls.peer_certificates())?;
        socket.set_write_timeout(None)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Arc::new(Self {
            socket,
            tls: Mutex::new(tls),
            out: Mutex::new(Out { next_lsn: 1, plain: Vec::new(), cipher: Vec::new(), late: false }),
            last: AtomicU64::new(0),
            epoch,
            session,
            bytes: AtomicU64::new(0),
            heard_ns: AtomicU64::new(boottime_ns()),
            tuned_ns: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        }))
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

    /// The number the last operation was sent with. Never waits for a sender.
    pub fn last_lsn(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Whether it was ended or broke.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Ends the connection; both directions fail from now on.
    pub fn close(&self) {
        self.broken.store(true, Ordering::Release);
        // An error means it is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// How long to wait for the peer where `least` would do on a network without delay.
    pub fn patience(&self, least: Duration) -> Duration {
        least.max((round_trip(&self.socket) * ROUND_TRIPS_MIN).min(PATIENCE_MAX))
    }

    /// Keeps TCP's own patience in step with the network.
    fn tune(&self) {
        let now = boottime_ns();
        if now.saturating_sub(self.tuned_ns.load(Ordering::Relaxed)) < TUNE_EVERY.as_nanos() as u64 {
            return;
        }
        self.tuned_ns.store(now, Ordering::Relaxed);
        let patience = self.patience(TCP_USER_TIMEOUT);
        if let Err(error) = socket2::SockRef::from(&self.socket).set_tcp_user_timeout(Some(patience)) {
            tracing::debug!(%error, "TCP's time-out cannot be changed");
        }
    }

    /// Sends a message that is no operation of the live stream; `lsn` is what it is about.
    pub fn send(&self, lsn: u64, msg: &Msg, data: &[u8]) -> io::Result<()> {
        self.send_locked(&mut lock(&self.out), lsn, msg, data)
    }

    /// Sends the next operation of the live stream and returns its number.
    pub fn send_op(&self, msg: &Msg, data: &[u8]) -> io::Result<u64> {
        let mut out = lock(&self.out);
        let lsn = out.next_lsn;
        out.next_lsn += 1;
        self.last.store(lsn, Ordering::Release);
        self.send_locked(&mut out, lsn, msg, data)?;
        Ok(lsn)
    }

    fn send_locked(&self, out: &mut Out, lsn: u64, msg: &Msg, data: &[u8]) -> io::Result<()> {
        if self.broken.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the session has ended"));
        }
        let Out { plain, cipher, late, .. } = out;
        plain.clear();
        frame::encode(Address { epoch: self.epoch, session: self.session, lsn }, msg, data, plain)?;
        self.bytes.fetch_add((plain.len() + data.len()) as u64, Ordering::Relaxed);
        {
            let mut tls = lock(&self.tls);
            let mut writer = tls.writer();
            writer.write_all(plain)?;
            writer.write_all(data)?;
            while tls.wants_write() {
                tls.write_tls(cipher)?;
            }
        }
        if *late {
            return Ok(());
        }
        self.flush_cipher(cipher)
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

    /// Called when nothing came for a tick: asks the peer whether it is there, and fails after a long silence.
    pub fn check_silence(&self) -> anyhow::Result<()> {
        let silent = Duration::from_nanos(boottime_ns().saturating_sub(self.heard_ns.load(Ordering::Relaxed)));
        self.tune();
        if silent > self.patience(SILENCE_MAX) {
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

/// The kernel's smoothed round-trip time; zero when it has none.
fn round_trip(socket: &TcpStream) -> Duration {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointer and length describe `info`, which outlives the call.
    let rc = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut size) };
    if rc == 0 { Duration::from_micros(u64::from(info.tcpi_rtt)) } else { Duration::ZERO }
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
}

impl Inbox {
    /// Receives from a link.
    pub fn new(link: Arc<Link>) -> Self {
        // One TLS record is 16 KiB; a write of 1 MiB comes in a few calls.
        Self { link, raw: vec![0; 256 * 1024], plain: Vec::new(), read: 0, end: 0 }
    }

    /// Whether a whole frame is here already.
    pub fn has_more(&self) -> bool {
        matches!(frame::complete(&self.plain[self.read..self.end]), Ok(Some(_)) | Err(_))
    }

    /// The next frame; `None` if nothing came for a tick.
    pub fn receive(&mut self) -> io::Result<Option<Frame<'_>>> {
        if self.end == 0 {
            // The first frame may have come with the end of the handshake and wait inside the TLS connection.
            let link = self.link.clone();
            self.decrypt(&mut lock(&link.tls))?;
        }
        let length = loop {
            if let Some(length) = frame::complete(&self.plain[self.read..self.end])? {
                break length;
            }
            if !self.fill()? {
                return Ok(None);
            }
        };
        let start = self.read;
        self.read += length;
        let frame = frame::decode(&self.plain[start..start + length])?;
        if frame.session != self.link.session && !matches!(frame.msg, Msg::Hello(_) | Msg::Refuse { .. }) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of session {}", frame.session)));
        }
        Ok(Some(frame))
    }

    /// The next frame's message, skipping pings, failing after a silence: for the opening of a session.
    pub fn expect(&mut self) -> anyhow::Result<(u64, u64, Msg)> {
        let link = self.link.clone();
        let begun = std::time::Instant::now();
        loop {
            if begun.elapsed() > HANDSHAKE_MAX {
                bail!("the peer did not answer within {} s", HANDSHAKE_MAX.as_secs());
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

    fn fill(&mut self) -> io::Result<bool> {
        if self.read > 0 {
            self.plain.copy_within(self.read..self.end, 0);
            self.end -= self.read;
            self.read = 0;
        }
        let got = match (&self.link.socket).read(&mut self.raw) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e),
        };
        self.link.bytes.fetch_add(got as u64, Ordering::Relaxed);
        self.link.heard_ns.store(boottime_ns(), Ordering::Relaxed);
        self.link.tune();
        let link = self.link.clone();
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
