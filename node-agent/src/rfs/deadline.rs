//! The deadline of acknowledgements, in a page of memory that the agent and its data process share.
//!
//! Reading it costs one load: the data process does it before every answer, so an agent that is stopped, slow or
//! dead cannot let it acknowledge anything after the peer's promise ran out.

use super::volume::boottime_ns;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// No promise is needed.
const NONE: u64 = u64::MAX;
/// This node may acknowledge nothing, whether or not it needs a peer.
const SHUT: u64 = 0;
const PAGE: usize = 4096;

/// A mapped page with the deadline; clones share it.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Page>);

#[derive(Debug)]
struct Page {
    at: *mut libc::c_void,
    fd: OwnedFd,
}

// SAFETY: the page is only ever touched through one atomic, and stays mapped until the last clone is gone.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; nobody else has the address.
        unsafe { libc::munmap(self.at, PAGE) };
    }
}

impl Deadline {
    /// A new page, shut until its owner says what holds.
    pub fn create() -> io::Result<Self> {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(c"tsugi-deadline".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        super::volume::truncate(fd.as_raw_fd(), PAGE as u64)?;
        let page = Self::map(fd)?;
        page.set(Some(SHUT));
        Ok(page)
    }

    /// The page behind a descriptor that was inherited.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping of a file of at least this length.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Arc::new(Page { at, fd })))
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, at least eight bytes long, and lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.0.at.cast()) }
    }

    /// The descriptor, for handing it on.
    pub fn fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }

    /// Sets the end of the promise in nanoseconds of `CLOCK_BOOTTIME`. `None`: none is needed. `Some(0)`: this node
    /// is not entitled to acknowledge anything, even alone.
    pub fn set(&self, until_boottime_ns: Option<u64>) {
        self.word().store(until_boottime_ns.map_or(NONE, |until| until.min(NONE - 1)), Ordering::Release);
    }

    /// What was set last.
    pub fn get(&self) -> Option<u64> {
        Some(self.word().load(Ordering::Acquire)).filter(|until| *until != NONE)
    }

    /// Whether nothing at all may be acknowledged.
    pub fn is_shut(&self) -> bool {
        self.word().load(Ordering::Acquire) == SHUT
    }

    /// Whether an acknowledgement may leave now.
    pub fn open(&self) -> bool {
        let until = self.word().load(Ordering::Acquire);
        until == NONE || boottime_ns() < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_mapping_sees_the_deadline() {
        let one = Deadline::create().unwrap();
        // SAFETY: a duplicate of a live descriptor.
        let two = Deadline::map(unsafe { OwnedFd::from_raw_fd(libc::dup(one.fd())) }).unwrap();
        assert!(!two.open() && two.is_shut(), "nobody has said yet that anything may be acknowledged");
        one.set(None);
        assert!(two.open() && !two.is_shut());
        assert_eq!(two.get(), None);
        one.set(Some(1));
        assert_eq!(two.get(), Some(1));
        assert!(!two.open() && !two.is_shut());
        one.set(Some(0));
        assert!(!two.open() && two.is_shut());
        one.set(Some(boottime_ns() + 3_600_000_000_000));
        assert!(two.open());
    }
}
