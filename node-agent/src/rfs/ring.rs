//! Requests of the kernel over io_uring (FUSE-over-io_uring, Linux 6.14): the second transport of a mount, for kernels that
//! offer it.
//!
//! Over the device a request waits in one queue for whichever thread reads it, and its answer is a call of its own. Here
//! every processor has a queue, a thread of that processor answers and takes the next request with the same call, and the
//! program that asked goes on where it was. Names the kernel may forget, and requests it gives up, still come over the
//! device.
//!
//! A worker is a thread with a ring of its own and room for one request. It serves what it took to the end, waiting for the
//! peer if need be. A request that comes while no worker of its queue is free waits until one has answered: the kernel
//! does not look at what waits when it is given room. So there are always more than are needed ([`Workers`]). (A request of
//! our own would make it look; a process that is killed while it waits for itself would never end.)
//!
//! Invariants:
//! * every possible processor has a worker before the mount is used: until then the kernel holds every request back;
//! * only a worker touches its room, and the kernel only between an answer and the next request.

pub mod abi;
mod requests;

use super::fs::Volume;
use super::fuse::{BACKGROUND_MAX, WRITE_BYTES_MAX};
use super::mounts;
use abi::{Command, Entry, ReplyHeader, RequestHeader};
use io_uring::{IoUring, cqueue, opcode::UringCmd80, squeue, types::Fd};
use requests::Request;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Whether the kernel offers it to anybody: a switch of its FUSE module, off when it is loaded.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// The kernel it was tried on; earlier ones of this line have faults in it that hang requests or damage memory. Of the lines
/// after it, those that have the same repairs.
const KERNEL_TRIED: (u32, u32, u32) = (6, 18, 44);
const KERNEL_NEXT: (u32, u32, u32) = (7, 1, 4);
/// Processors there may be at most: each costs a thread and a ring, whether it is there or not.
const PROCESSORS_MAX: usize = 256;
/// Workers of all queues, about, that there are from the beginning. Each costs a thread and as much memory as the largest
/// request it had.
const WORKERS_FIRST: usize = 64;
/// Of one queue at least, whatever the number of processors.
const WORKERS_OF_QUEUE_MIN: usize = 4;
/// Of one queue at most: one that waits for the peer or for a disk serves nobody else. Twice and more of what the kernel may
/// write back and read ahead at a time, all of which may come to one queue.
const WORKERS_OF_QUEUE_MAX: usize = 192;
const _: () = assert!(WORKERS_OF_QUEUE_MAX > 2 * BACKGROUND_MAX as usize);
/// After one more could not be had, so long none is asked for.
const FULL_FOR: Duration = Duration::from_secs(1);
/// Between two attempts to hand an answer over when the kernel is short of something.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// Room for the largest request, and one that begins at a page.
const PAYLOAD_BYTES: usize = WRITE_BYTES_MAX as usize;
/// Copies to and from a place that begins at a page are the fastest.
const PAGE: usize = 4096;
/// Parts of the room: header and payload.
const PARTS: u32 = 2;

/// Whether mounts may use it here, after having switched it on; why not, as a half sentence.
pub fn offered() -> Result<(), String> {
    let release = nix::sys::utsname::uname().map_err(|e| format!("the kernel does not tell its version: {e}"))?;
    let release = release.release().to_string_lossy().into_owned();
    if !kernel(&release).is_some_and(is_good) {
        return Err(format!("it is used on Linux 6.18 from 6.18.44 on, and from 7.1.4 on; this is {release}"));
    }
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    if processors(&possible).is_none_or(|count| count > PROCESSORS_MAX) {
        return Err(format!("there may be more than {PROCESSORS_MAX} processors, or their numbers have gaps ({})", possible.trim()));
    }
    Worker::ring().map_err(|e| format!("io_uring cannot be used: {e} (see `sysctl kernel.io_uring_disabled`)"))?;
    switch_on(Path::new(SWITCH))
}

fn switch_on(switch: &Path) -> Result<(), String> {
    let is_on = || std::fs::read_to_string(switch).map(|text| text.trim() == "Y");
    match is_on() {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(e) => return Err(format!("the kernel does not offer it ({}: {e})", switch.display())),
    }
    match std::fs::write(switch, "Y").and_then(|()| is_on()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("the kernel keeps {} off", switch.display())),
        Err(e) => {
            Err(format!("{} cannot be switched on ({e}); `options fuse enable_uring=1` in /etc/modprobe.d does it", switch.display()))
        }
    }
}

/// Version of a kernel's release: `6.18.3-generic` → 6, 18, 3.
fn kernel(release: &str) -> Option<(u32, u32, u32)> {
    let mut parts = release.split(['.', '-']).map(|part| part.parse().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    Some((major, minor, parts.next().flatten().unwrap_or(0)))
}

fn is_good(version: (u32, u32, u32)) -> bool {
    let is_tried_line = (version.0, version.1) == (KERNEL_TRIED.0, KERNEL_TRIED.1);
    (is_tried_line && version >= KERNEL_TRIED) || version >= KERNEL_NEXT
}

/// How many there may be, of a list as the kernel writes it: `0-3` → 4. The kernel has as many queues as there are
/// processors and chooses one by a processor's number: with gaps (`0-3,8-11`) that is no number of a queue.
fn processors(possible: &str) -> Option<usize> {
    let (first, last) = possible.trim().split_once('-').unwrap_or(("0", possible.trim()));
    last.parse::<usize>().ok().filter(|_| first == "0").map(|last| last + 1)
}

/// Serves a volume: when this returns, every queue has a worker. They end with the mount. Error: the mount is of no use any
/// more, for the kernel waits for them.
pub fn serve(volume: &Arc<Volume>, device: BorrowedFd<'_>) -> io::Result<()> {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let count = processors(&possible).ok_or_else(|| io::Error::other(format!("the kernel names the processors {possible:?}")))?;
    let mut queues = Vec::new();
    for number in 0..count {
        let number = u16::try_from(number).map_err(io::Error::other)?;
        queues.push(Queue { number, workers: AtomicUsize::new(0), idle: AtomicUsize::new(0), full_at: Mutex::new(None) });
    }
    // With gaps, as if all were there.
    let online = processors(&std::fs::read_to_string("/sys/devices/system/cpu/online")?).unwrap_or(count).min(count);
    let workers = Workers::of(online);
    let ring = Arc::new(Ring { volume: volume.clone(), device: device.try_clone_to_owned()?, queues, workers });
    let (ready, readies) = std::sync::mpsc::sync_channel(count);
    let mut started = 0;
    for queue in 0..count {
        // Nobody runs on a processor that is not there.
        for _ in 0..if queue < online { workers.first } else { 1 } {
            ring.clone().start(queue, Some(ready.clone()))?;
            started += 1;
        }
    }
    drop(ready);
    for _ in 0..started {
        readies.recv().map_err(|_| io::Error::other("a worker ended while it began"))??;
    }
    Ok(())
}

/// How many there are of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Workers {
    first: usize,
    /// As many shall be free.
    free: usize,
}

impl Workers {
    fn of(processors: usize) -> Self {
        let first = (WORKERS_FIRST / processors.max(1)).max(WORKERS_OF_QUEUE_MIN);
        Self { first, free: first / 2 }
    }
}

struct Ring {
    volume: Arc<Volume>,
    device: OwnedFd,
    queues: Vec<Queue>,
    workers: Workers,
}

/// Requests that come from one processor.
struct Queue {
    number: u16,
    workers: AtomicUsize,
    /// Of them, those that wait for a request.
    idle: AtomicUsize,
    /// When one more could not be had.
    full_at: Mutex<Option<Instant>>,
}

type Ready = SyncSender<io::Result<()>>;

impl Ring {
    /// One more worker. `ready`: who waits for its beginning.
    fn start(self: Arc<Self>, queue: usize, ready: Option<Ready>) -> io::Result<()> {
        self.queues[queue].workers.fetch_add(1, Ordering::Relaxed);
        let name = format!("ring-{queue}");
        let started = std::thread::Builder::new().name(name).spawn({
            let ring = self.clone();
            move || {
                match Worker::begin(&ring, &ring.queues[queue]) {
                    Ok(mut worker) => {
                        ring.queues[queue].idle.fetch_add(1, Ordering::Relaxed);
                        if let Some(ready) = ready {
                            let _ = ready.send(Ok(()));
                        }
                        worker.run();
                    }
                    Err(error) => match ready {
                        Some(ready) => drop(ready.send(Err(error))),
                        None => ring.queues[queue].set_full(&error),
                    },
                }
                ring.queues[queue].workers.fetch_sub(1, Ordering::Relaxed);
            }
        });
        if started.is_err() {
            self.queues[queue].workers.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    /// A worker of this queue has something to do: the next request shall not wait for it.
    fn busy(self: &Arc<Self>, queue: &Queue) {
        let free = queue.idle.fetch_sub(1, Ordering::Relaxed) - 1;
        if free >= self.workers.free || queue.workers.load(Ordering::Relaxed) >= WORKERS_OF_QUEUE_MAX || queue.is_full() {
            return;
        }
        if let Err(error) = self.clone().start(usize::from(queue.number), None) {
            queue.set_full(&error);
        }
    }
}

impl Queue {
    fn full_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self) -> bool {
        self.full_at().is_some_and(|at| at.elapsed() < FULL_FOR)
    }

    /// No more workers can be had now: those that are there go on.
    fn set_full(&self, error: &io::Error) {
        if !is_end(error) && !self.is_full() {
            *self.full_at() = Some(Instant::now());
            tracing::warn!(queue = self.number, %error, "no further threads for the requests of this processor");
        }
    }
}

/// See the module.
struct Worker<'a> {
    all: &'a Arc<Ring>,
    queue: &'a Queue,
    ring: IoUring<squeue::Entry128>,
    entry: Box<Entry>,
    /// A page longer than the payload.
    room: Vec<u8>,
    /// Where the payload begins in it.
    from: usize,
    /// What the kernel said and nobody has looked at.
    came: Option<i32>,
}

/// The mount is gone.
fn is_end(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV))
}

impl<'a> Worker<'a> {
    fn ring() -> io::Result<IoUring<squeue::Entry128>> {
        // Only this thread submits, and the kernel's work for it is done when it asks for what is there.
        IoUring::<squeue::Entry128, cqueue::Entry>::builder().setup_single_issuer().setup_defer_taskrun().build(2)
    }

    /// Gives the kernel room for a request.
    fn begin(all: &'a Arc<Ring>, queue: &'a Queue) -> io::Result<Self> {
        stay_on(usize::from(queue.number));
        let room = vec![0; PAYLOAD_BYTES + PAGE];
        let from = room.as_ptr().align_offset(PAGE).min(PAGE);
        let mut worker = Self { all, queue, ring: Self::ring()?, entry: Box::new(Entry::new_zeroed()), room, from, came: None };
        worker.register()?;
        // What is refused is so at once; a request may be here already.
        worker.came = worker.ring.completion().next().map(|done| done.result());
        match worker.came {
            Some(failed) if failed < 0 => Err(io::Error::from_raw_os_error(-failed)),
            _ => Ok(worker),
        }
    }

    fn register(&mut self) -> io::Result<()> {
        let payload = self.room[self.from..].as_mut_ptr();
        let parts = [
            libc::iovec { iov_base: (&raw mut *self.entry).cast(), iov_len: size_of::<Entry>() },
            libc::iovec { iov_base: payload.cast(), iov_len: PAYLOAD_BYTES },
        ];
        let command = Command { flags: 0, commit: 0, queue: self.queue.number, rest: [0; 62] };
        let bytes = zerocopy::transmute!(command);
        let mut entry =
            UringCmd80::new(Fd(self.all.device.as_raw_fd()), abi::REGISTER).cmd(bytes).addr(Some(parts.as_ptr() as u64)).build();
        // SAFETY: an entry begins with a `struct io_uring_sqe`, whose `len` is at byte 24; the builder does not set it.
        unsafe { (&raw mut entry).cast::<u8>().add(24).cast::<u32>().write_unaligned(PARTS) };
        self.push(&entry)?;
        // The parts are read with the call.
        self.ring.submit().map(drop)
    }

    fn push(&mut self, entry: &squeue::Entry128) -> io::Result<()> {
        // SAFETY: what the entry points to lives as long as this worker, whose ring ends before its room.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    fn run(&mut self) {
        let ended = loop {
            if let Err(error) = self.next() {
                break error;
            }
            self.all.busy(self.queue);
            self.serve();
            self.queue.idle.fetch_add(1, Ordering::Relaxed);
        };
        self.queue.idle.fetch_sub(1, Ordering::Relaxed);
        if !is_end(&ended) {
            // A request that nobody answers would be waited for for ever. So its mount ends, and with it this node's service.
            let path = self.all.volume.name();
            tracing::error!(path, queue = self.queue.number, error = %ended, "the kernel refused an answer: the mount is ended");
            if let Err(error) = mounts::abort_fuse(path) {
                tracing::error!(path, %error, "the mount could not be ended");
            }
        }
    }

    /// Hands over what is to be handed over and waits for a request.
    fn next(&mut self) -> io::Result<()> {
        let result = loop {
            if let Some(result) = self.came.take().or_else(|| self.ring.completion().next().map(|done| done.result())) {
                break result;
            }
            match self.ring.submit_and_wait(1).map_err(|e| (e.raw_os_error(), e)) {
                Ok(_) | Err((Some(libc::EINTR), _)) => {}
                // What was not taken is still there to be.
                Err((Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM), _)) => std::thread::sleep(SHORT_PAUSE),
                Err((_, e)) => return Err(e),
            }
        };
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }

    /// Serves what came, and puts the answer where the kernel takes it with the next call.
    fn serve(&mut self) {
        let entry = &mut *self.entry;
        let Ok((header, _)) = RequestHeader::read_from_prefix(&entry.in_out) else { unreachable!("128 bytes hold 40") };
        let (commit, len) = (entry.commit, entry.payload as usize);
        let payload = &mut self.room[self.from..self.from + PAYLOAD_BYTES];
        let request = Request { header: &header, op: &entry.op, payload, len };
        let (error, len) = match requests::serve(&self.all.volume, request) {
            Ok(len) => (0, len),
            Err(e) => (-e.raw_os_error().unwrap_or(libc::EIO), 0),
        };
        let len = u32::try_from(len).unwrap_or(0);
        let reply = ReplyHeader { len: len + size_of::<ReplyHeader>() as u32, error, unique: header.unique };
        entry.in_out[..size_of::<ReplyHeader>()].copy_from_slice(reply.as_bytes());
        entry.payload = len;
        let command = Command { flags: 0, commit, queue: self.queue.number, rest: [0; 62] };
        let bytes = zerocopy::transmute!(command);
        let entry = UringCmd80::new(Fd(self.all.device.as_raw_fd()), abi::COMMIT_AND_FETCH).cmd(bytes).build();
        if let Err(error) = self.push(&entry) {
            // There is one at a time.
            tracing::error!(%error, "no room for an answer");
        }
    }
}

/// A processor that is not there yet has a worker that runs anywhere.
fn stay_on(processor: usize) {
    let mut one = nix::sched::CpuSet::new();
    let stays = one.set(processor).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one));
    if let Err(error) = stays {
        tracing::debug!(processor, %error, "a thread for the requests of a processor runs anywhere");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_lists_of_the_kernel_are_read() {
        assert_eq!(kernel("6.18.44-fc-v657"), Some((6, 18, 44)));
        assert_eq!(kernel("7.0"), Some((7, 0, 0)));
        assert_eq!(kernel("6.18-rc1"), Some((6, 18, 0)));
        assert_eq!(kernel(""), None);
        assert_eq!(kernel("linux"), None);
        for good in [(6, 18, 44), (6, 18, 50), (7, 1, 4), (7, 2, 0), (10, 1, 0)] {
            assert!(is_good(good), "{good:?}");
        }
        for bad in [(6, 6, 99), (6, 14, 0), (6, 18, 43), (6, 19, 60), (7, 0, 9), (7, 1, 3)] {
            assert!(!is_good(bad), "{bad:?}");
        }
        assert_eq!(processors("0-1\n"), Some(2));
        assert_eq!(processors("0"), Some(1));
        assert_eq!(processors("0-3,8-11"), None);
        assert_eq!(processors(""), None);
    }

    #[test]
    fn few_processors_have_many_workers_each_and_many_have_few() {
        assert_eq!(Workers::of(1), Workers { first: 64, free: 32 });
        assert_eq!(Workers::of(2), Workers { first: 32, free: 16 });
        assert_eq!(Workers::of(16), Workers { first: 4, free: 2 });
        assert_eq!(Workers::of(200), Workers { first: 4, free: 2 });
    }

    #[test]
    fn the_switch_is_switched_on_or_it_is_said_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("enable_uring");
        assert!(switch_on(&switch).unwrap_err().contains("does not offer it"));
        for before in ["N\n", "Y\n"] {
            std::fs::write(&switch, before).unwrap();
            switch_on(&switch).unwrap();
            assert_eq!(std::fs::read_to_string(&switch).unwrap().trim(), "Y");
        }
    }
}
