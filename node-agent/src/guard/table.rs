//! The table that agent and guard share: one slot per module, atomics only.
//!
//! The agent writes what holds; the guard reads it every few milliseconds, whether or not the agent still lives. What
//! must not change while the guard acts on it is changed so: unpublish, [`Slot::is_busy`] until it is not, write,
//! publish. The guard says that it is busy *before* it reads, so one of the two always sees the other.

use crate::clock::boottime_ns;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Modules of one node that the guard can keep.
pub const SLOTS: usize = 64;
/// Addresses of one module that it can keep.
pub const ADDRESSES: usize = 32;
/// Longest path of a control group, with the NUL at its end.
pub const PATH_BYTES: usize = 512;
/// Longest name of a module.
pub const NAME_BYTES: usize = 64;
/// Changes with the layout: a guard of another version must not read it.
const LAYOUT: u64 = 0x7473_7567_6900_0001;

/// No promise is needed: this node alone is in sync.
const NONE: u64 = u64::MAX;
/// This node may not serve, and the agent knows it.
const SHUT: u64 = 0;

/// What a module is entitled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To nothing; the agent has said so and does what follows from it.
    Shut,
    /// To serve until this instant of `CLOCK_BOOTTIME`, in nanoseconds.
    Until(u64),
    /// To serve, with no end: nobody else may.
    Alone,
}

impl Right {
    fn of(word: u64) -> Right {
        match word {
            SHUT => Right::Shut,
            NONE => Right::Alone,
            until => Right::Until(until),
        }
    }

    fn word(self) -> u64 {
        match self {
            Right::Shut => SHUT,
            Right::Until(until) => until.clamp(SHUT + 1, NONE - 1),
            Right::Alone => NONE,
        }
    }

    /// The same from the form the data process knows: absent = alone, 0 = nothing.
    pub fn of_deadline(until: Option<u64>) -> Right {
        until.map_or(Right::Alone, |until| Right::of(until.min(NONE - 1)))
    }

    /// It holds at `now_ns`.
    pub fn holds(self, now_ns: u64) -> bool {
        match self {
            Right::Shut => false,
            Right::Until(until) => now_ns < until,
            Right::Alone => true,
        }
    }
}

/// A virtual address where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Number of the interface.
    pub index: u32,
}

/// What the agent says of all modules together.
#[repr(C, align(4096))]
pub struct Head {
    layout: AtomicU64,
    agent_ns: AtomicU64,
    guard_ns: AtomicU64,
    is_ending: AtomicU32,
}

/// An address in the table.
#[repr(C)]
struct Entry {
    index: AtomicU32,
    prefix: AtomicU8,
    is_v6: AtomicU8,
    bytes: [AtomicU8; 16],
}

/// One module.
#[repr(C, align(2048))]
pub struct Slot {
    is_busy: AtomicU32,
    is_published: AtomicU32,
    right: AtomicU64,
    /// Frozen by the guard for this deadline; 0 = not.
    acted: AtomicU64,
    grace_ns: AtomicU64,
    freeze_max_ns: AtomicU64,
    lifetime_s: AtomicU32,
    addresses: AtomicU32,
    is_v2: AtomicU8,
    name: [AtomicU8; NAME_BYTES],
    path: [AtomicU8; PATH_BYTES],
    entries: [Entry; ADDRESSES],
}

/// The table as it lies in memory.
#[repr(C)]
pub struct Layout {
    /// All together.
    pub head: Head,
    /// Each module.
    pub slots: [Slot; SLOTS],
}

/// A mapped table; clones share it.
#[derive(Clone)]
pub struct Table(Arc<Mapping>);

struct Mapping {
    at: *mut libc::c_void,
    fd: OwnedFd,
}

// SAFETY: the memory is only ever touched through atomics, and stays mapped until the last clone is gone.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; nobody else has the address.
        unsafe { libc::munmap(self.at, size_of::<Layout>()) };
    }
}

impl std::ops::Deref for Table {
    type Target = Layout;
    fn deref(&self) -> &Layout {
        // SAFETY: the mapping has this size and alignment (pages), lives as long as `self`, consists of atomics only,
        // for which every pattern of bits is a value.
        unsafe { &*self.0.at.cast::<Layout>() }
    }
}

impl Table {
    /// A new one: nobody is entitled to anything.
    pub fn create() -> io::Result<Table> {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(c"tsugi-guard".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain call on a descriptor of ours.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size_of::<Layout>() as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let table = Table::map_any(fd)?;
        table.head.layout.store(LAYOUT, Ordering::SeqCst);
        table.head.beat();
        Ok(table)
    }

    /// The table behind a descriptor that was inherited. Refused when it is of another layout.
    pub fn map(fd: OwnedFd) -> io::Result<Table> {
        let table = Table::map_any(fd)?;
        if table.head.layout.load(Ordering::SeqCst) != LAYOUT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the table is of another version of this program"));
        }
        Ok(table)
    }

    fn map_any(fd: OwnedFd) -> io::Result<Table> {
        let size = size_of::<Layout>();
        // SAFETY: an empty structure of integers, filled by the next call, whose descriptor is open.
        let length = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd.as_raw_fd(), &raw mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat.st_size
        };
        if u64::try_from(length).unwrap_or(0) < size as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the table is too short"));
        }
        // SAFETY: a fresh shared mapping of a file of at least this length.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Table(Arc::new(Mapping { at, fd })))
    }

    /// The descriptor, for handing it on.
    pub fn fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

impl Head {
    /// The agent lives.
    pub fn beat(&self) {
        self.agent_ns.store(boottime_ns(), Ordering::Release);
    }
    /// When the agent last said so.
    pub fn agent_ns(&self) -> u64 {
        self.agent_ns.load(Ordering::Acquire)
    }
    /// The guard has gone round.
    pub fn went_round(&self, now_ns: u64) {
        self.guard_ns.store(now_ns, Ordering::Release);
    }
    /// When it last did; 0 = never.
    pub fn guard_ns(&self) -> u64 {
        self.guard_ns.load(Ordering::Acquire)
    }
    /// The agent ends in order: the guard has nothing to keep any more.
    pub fn end(&self) {
        self.is_ending.store(1, Ordering::SeqCst);
    }
    /// Whether it does.
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst) != 0
    }
}

/// Fixed description of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Name, cut at 64 bytes.
    pub name: String,
    /// Directory of its control group; absent = there is none to freeze.
    pub group: Option<(Version, String)>,
    /// `F`: an address must be gone this long after the deadline.
    pub grace: Duration,
    /// What is frozen longer is ended.
    pub freeze_max: Duration,
    /// Longest life of an address without renewal.
    pub lifetime: Duration,
}

pub use crate::cgroup::Version;

impl Slot {
    /// The guard is acting on this slot right now.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::SeqCst) != 0
    }
    /// Called by the guard before it reads, and after it acted.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(u32::from(is_busy), Ordering::SeqCst);
    }
    /// Whether it stands for a module.
    pub fn is_published(&self) -> bool {
        self.is_published.load(Ordering::SeqCst) != 0
    }

    /// Makes it stand for nothing; the guard may still be busy with it.
    pub fn unpublish(&self) {
        self.right.store(SHUT, Ordering::SeqCst);
        self.addresses.store(0, Ordering::SeqCst);
        self.is_published.store(0, Ordering::SeqCst);
    }

    /// Describes a module in an unpublished slot with which nobody is busy. A path that is too long counts as none.
    pub fn publish(&self, what: &Described) {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(NONE);
        put(&self.name, what.name.as_bytes());
        let path = what.group.as_ref().map(|(_, path)| path.as_bytes()).filter(|p| p.len() < PATH_BYTES).unwrap_or_default();
        put(&self.path, path);
        self.is_v2.store(u8::from(what.group.as_ref().is_some_and(|(v, _)| *v == Version::V2)), Ordering::Relaxed);
        self.grace_ns.store(nanos(what.grace), Ordering::Relaxed);
        self.freeze_max_ns.store(nanos(what.freeze_max), Ordering::Relaxed);
        self.lifetime_s.store(u32::try_from(what.lifetime.as_secs()).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
        self.acted.store(0, Ordering::Relaxed);
        self.is_published.store(1, Ordering::SeqCst);
    }

    /// What holds from now on.
    pub fn set_right(&self, right: Right) {
        self.right.store(right.word(), Ordering::SeqCst);
    }
    /// What holds.
    pub fn right(&self) -> Right {
        Right::of(self.right.load(Ordering::SeqCst))
    }

    /// No address is to be kept; the guard may still be busy with the former ones.
    pub fn forget_addresses(&self) {
        self.addresses.store(0, Ordering::SeqCst);
    }
    /// These are to be kept. Only after [`Slot::forget_addresses`], with nobody busy. Returns how many there was room for.
    pub fn keep_addresses(&self, all: &[Address]) -> usize {
        let count = all.len().min(ADDRESSES);
        for (entry, address) in self.entries.iter().zip(all) {
            entry.index.store(address.index, Ordering::Relaxed);
            entry.prefix.store(address.prefix, Ordering::Relaxed);
            entry.is_v6.store(u8::from(address.addr.is_ipv6()), Ordering::Relaxed);
            match address.addr {
                IpAddr::V4(v4) => put(&entry.bytes, &v4.octets()),
                IpAddr::V6(v6) => v6.octets().iter().zip(&entry.bytes).for_each(|(from, to)| to.store(*from, Ordering::Relaxed)),
            }
        }
        self.addresses.store(u32::try_from(count).unwrap_or(0), Ordering::SeqCst);
        count
    }
    /// Number of addresses to be kept.
    pub fn address_count(&self) -> usize {
        (self.addresses.load(Ordering::SeqCst) as usize).min(ADDRESSES)
    }
    /// One of them.
    pub fn address(&self, number: usize) -> Option<Address> {
        let entry = self.entries.get(number).filter(|_| number < self.address_count())?;
        let bytes: [u8; 16] = std::array::from_fn(|at| entry.bytes[at].load(Ordering::Relaxed));
        let addr = if entry.is_v6.load(Ordering::Relaxed) != 0 {
            IpAddr::V6(Ipv6Addr::from(bytes))
        } else {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        };
        Some(Address { addr, prefix: entry.prefix.load(Ordering::Relaxed), index: entry.index.load(Ordering::Relaxed) })
    }

    /// `F`.
    pub fn grace_ns(&self) -> u64 {
        self.grace_ns.load(Ordering::Relaxed)
    }
    /// How long frozen.
    pub fn freeze_max_ns(&self) -> u64 {
        self.freeze_max_ns.load(Ordering::Relaxed)
    }
    /// Longest life of an address.
    pub fn lifetime_s(&self) -> u32 {
        self.lifetime_s.load(Ordering::Relaxed)
    }
    /// Version of the control group.
    pub fn version(&self) -> Version {
        if self.is_v2.load(Ordering::Relaxed) != 0 { Version::V2 } else { Version::V1 }
    }
    /// Copies the group's directory into `into`, returning its length; 0 = none.
    pub fn path(&self, into: &mut [u8; PATH_BYTES]) -> usize {
        get(&self.path, into)
    }
    /// Copies the name into `into`, returning its length.
    pub fn name(&self, into: &mut [u8; NAME_BYTES]) -> usize {
        get(&self.name, into)
    }

    /// The guard has acted for this deadline; `None` = it has undone it.
    pub fn set_acted(&self, deadline: Option<u64>) {
        self.acted.store(deadline.unwrap_or(0), Ordering::SeqCst);
    }
    /// The deadline for which the guard has frozen the module.
    pub fn acted(&self) -> Option<u64> {
        Some(self.acted.load(Ordering::SeqCst)).filter(|d| *d != 0)
    }
}

/// Stores text and a NUL behind it.
fn put(into: &[AtomicU8], text: &[u8]) {
    let text = &text[..text.len().min(into.len() - 1)];
    for (at, byte) in into.iter().enumerate() {
        byte.store(text.get(at).copied().unwrap_or(0), Ordering::Relaxed);
    }
}

fn get<const N: usize>(from: &[AtomicU8; N], into: &mut [u8; N]) -> usize {
    for (byte, to) in from.iter().zip(into.iter_mut()) {
        *to = byte.load(Ordering::Relaxed);
    }
    into.iter().position(|b| *b == 0).unwrap_or(N - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_mapping_sees_what_the_first_says() {
        let one = Table::create().unwrap();
        // SAFETY: a duplicate of a live descriptor.
        let two = Table::map(unsafe { OwnedFd::from_raw_fd(libc::dup(one.fd())) }).unwrap();
        let (ours, theirs) = (&one.slots[63], &two.slots[63]);
        assert!(!theirs.is_published() && theirs.right() == Right::Shut);
        let all = [
            Address { addr: "10.0.0.9".parse().unwrap(), prefix: 24, index: 7 },
            Address { addr: "fd00::9".parse().unwrap(), prefix: 64, index: 8 },
        ];
        let group = Some((Version::V2, "/sys/fs/cgroup/tsugi/n1/m".to_owned()));
        let second = Duration::from_secs(1);
        ours.publish(&Described { name: "m".into(), group, grace: second, freeze_max: second * 30, lifetime: second * 4 });
        ours.set_right(Right::Until(5));
        assert_eq!(ours.keep_addresses(&all), 2);
        assert!(theirs.is_published() && theirs.right() == Right::Until(5) && theirs.version() == Version::V2);
        assert_eq!([theirs.address(0), theirs.address(1), theirs.address(2)], [Some(all[0]), Some(all[1]), None]);
        assert_eq!((theirs.grace_ns(), theirs.freeze_max_ns(), theirs.lifetime_s()), (1_000_000_000, 30_000_000_000, 4));
        let (mut name, mut path) = ([0; NAME_BYTES], [0; PATH_BYTES]);
        assert_eq!((theirs.name(&mut name), theirs.path(&mut path)), (1, 25));
        assert_eq!(&path[..25], b"/sys/fs/cgroup/tsugi/n1/m");
        ours.unpublish();
        assert!(!theirs.is_published() && theirs.address_count() == 0 && theirs.right() == Right::Shut);
    }

    #[test]
    fn rights_are_what_the_data_process_is_told() {
        assert_eq!(Right::of_deadline(None), Right::Alone);
        assert_eq!(Right::of_deadline(Some(0)), Right::Shut);
        assert_eq!(Right::of_deadline(Some(7)), Right::Until(7));
        assert!(Right::of_deadline(Some(u64::MAX)) != Right::Alone);
        assert!(Right::Until(7).holds(6) && !Right::Until(7).holds(7) && Right::Alone.holds(u64::MAX) && !Right::Shut.holds(0));
    }

    #[test]
    fn a_table_of_another_layout_is_refused() {
        let one = Table::create().unwrap();
        one.head.layout.store(1, Ordering::SeqCst);
        // SAFETY: a duplicate of a live descriptor.
        assert!(Table::map(unsafe { OwnedFd::from_raw_fd(libc::dup(one.fd())) }).is_err());
    }
}
