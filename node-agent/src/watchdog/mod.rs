//! The machine's own way out: a timer that restarts it unless it is petted.
//!
//! Last step of the fencing ladder, for the case that a module which may not serve any more can neither be frozen nor
//! ended. Off unless an administrator names a device. Tried with the pretended one only, never on hardware.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// From linux/watchdog.h: `_IOWR('W', 6, int)`.
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
/// The letter that disarms a device when it is closed after it, where the driver allows it.
const MAGIC_CLOSE: u8 = b'V';

/// A timer that ends the machine.
pub trait Watchdog: Send {
    /// Not yet. Must neither allocate nor wait.
    fn pet(&mut self);
    /// Never, from now on.
    fn disarm(&mut self);
}

/// `/dev/watchdog`.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opening it arms it. Returns it with the timeout that the driver has really set, which may differ from the wish.
    pub fn arm(path: &Path, timeout: Duration) -> io::Result<(Device, Duration)> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path ends with NUL.
        let fd = unsafe { libc::open(name.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        let mut device = Device { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX).max(1);
        // SAFETY: the driver reads and writes one integer, which lives for the call.
        if unsafe { libc::ioctl(device.fd.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut seconds) } < 0 {
            let error = io::Error::last_os_error();
            device.disarm();
            return Err(error);
        }
        Ok((device, Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
    }

    fn write(&mut self, byte: u8) {
        // SAFETY: one byte on the stack.
        let _ = unsafe { libc::write(self.fd.as_raw_fd(), (&raw const byte).cast(), 1) };
    }
}

impl Watchdog for Device {
    fn pet(&mut self) {
        self.write(0);
    }
    fn disarm(&mut self) {
        self.write(MAGIC_CLOSE);
    }
}

/// Counts, for tests.
#[derive(Debug, Clone, Default)]
pub struct Pretended {
    /// How often it was petted.
    pub pets: Arc<AtomicU32>,
    /// Whether it was disarmed.
    pub disarmed: Arc<AtomicU32>,
}

impl Watchdog for Pretended {
    fn pet(&mut self) {
        self.pets.fetch_add(1, Ordering::Relaxed);
    }
    fn disarm(&mut self) {
        self.disarmed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused() {
        assert!(Device::arm(Path::new("/no/such/device"), Duration::from_secs(5)).is_err());
        // A device, but no timer: the order to set its time-out is refused.
        assert!(Device::arm(Path::new("/dev/null"), Duration::from_secs(5)).is_err());
    }
}
