//! What the guard does, again and again: look at every slot, and do what its deadline says.
//!
//! Nothing here allocates, waits for a disk, or takes a lock: what does (notes, ending processes) is handed to the
//! other threads, which may hang without holding this one up.

use super::errand::{Act, Errand};
use super::netlink::Netlink;
use super::table::{Address, NAME_BYTES, PATH_BYTES, Right, SLOTS, Slot, Table, Version};
use crate::vip::ADDRESS_MARK;
use crate::watchdog::Watchdog;
use std::io;
use std::sync::mpsc::SyncSender;

/// Longest pause between two looks. Deadlines that are known already are met exactly; a new one lies further ahead
/// than this, because the shortest promise is longer.
const PAUSE_NS_MAX: u64 = 100_000_000;
/// Between two renewals of an address; the shortest lifetime is 1 s.
const RENEW_NS: u64 = 300_000_000;
/// Between two tries of what did not work.
const AGAIN_NS: u64 = 50_000_000;
/// An agent that says nothing for this long is worth a note.
const SILENT_NS: u64 = 3_000_000_000;
/// With nothing to keep and no agent, the guard itself is of no use any more.
const ORPHAN_NS: u64 = 30_000_000_000;
/// What was to be ended and is still there so long after the order hangs in the kernel.
const KILL_NS_MAX: u64 = 10_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// What the guard itself remembers of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    /// Deadline that was acted upon; 0 = none.
    acted: u64,
    is_frozen: bool,
    /// A freeze for an earlier deadline may still stand. Not to be relied on: the agent may have undone it.
    was_frozen: bool,
    are_addresses_gone: bool,
    is_freeze_noted: bool,
    is_trouble_noted: bool,
    kill_ordered_ns: u64,
    next_ns: u64,
}

/// Whether the watchdog may be petted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Fine,
    /// This module should serve no more, and it cannot be proved that it does not.
    Unproved(usize),
}

/// The loop's state.
pub struct Keeper {
    table: Table,
    memory: [Memory; SLOTS],
    netlink: Option<Netlink>,
    errands: SyncSender<Errand>,
    watchdog: Option<Box<dyn Watchdog>>,
    is_starving: bool,
    is_agent_silent: bool,
    begun_ns: u64,
}

/// What to do after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Look again then.
    At(u64),
    /// The agent ended in order, or there is nothing left to keep.
    End,
}

impl Keeper {
    /// Opens what it needs; `now_ns` is that of `CLOCK_BOOTTIME`.
    pub fn new(table: Table, errands: SyncSender<Errand>, watchdog: Option<Box<dyn Watchdog>>, now_ns: u64) -> Keeper {
        Keeper {
            table,
            memory: [Memory::default(); SLOTS],
            netlink: None,
            errands,
            watchdog,
            is_starving: false,
            is_agent_silent: false,
            begun_ns: now_ns,
        }
    }

    /// One look at everything.
    pub fn round(&mut self, now_ns: u64) -> Next {
        if self.table.head.is_ending() {
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.disarm();
            }
            return Next::End;
        }
        let table = self.table.clone();
        let mut next_ns = now_ns + PAUSE_NS_MAX;
        let mut health = Health::Fine;
        let mut is_needed = false;
        for (number, slot) in table.slots.iter().enumerate() {
            // Before anything is read: from here on the agent waits before it changes what matters.
            slot.set_busy(true);
            if slot.is_published() {
                let right = slot.right();
                is_needed |= right != Right::Shut;
                next_ns = next_ns.min(self.keep(number, slot, right, now_ns));
                if !self.is_proved(number, slot, right, now_ns) {
                    health = Health::Unproved(number);
                }
            } else {
                self.memory[number] = Memory::default();
            }
            slot.set_busy(false);
        }
        self.watch(health, &table);
        let silent_ns = now_ns.saturating_sub(table.head.agent_ns().max(self.begun_ns));
        self.note_agent(silent_ns);
        table.head.went_round(now_ns);
        if !is_needed && silent_ns > ORPHAN_NS && self.watchdog.is_none() {
            return Next::End;
        }
        Next::At(next_ns.max(now_ns))
    }

    /// One module. Returns when to look again at the latest.
    fn keep(&mut self, number: usize, slot: &Slot, right: Right, now_ns: u64) -> u64 {
        if right.holds(now_ns) {
            self.renew(number, slot, right, now_ns);
            let until = if let Right::Until(until) = right { until } else { u64::MAX };
            return until.min(self.memory[number].next_ns);
        }
        match right {
            Right::Until(deadline) => self.act(number, slot, deadline, now_ns),
            // The agent knows, and what is to be done, or undone, is its own to do.
            _ => {
                self.memory[number] = Memory::default();
                u64::MAX
            }
        }
    }

    /// It may serve: undo what was done when it might not, and keep its addresses alive.
    fn renew(&mut self, number: usize, slot: &Slot, right: Right, now_ns: u64) {
        let memory = self.memory[number];
        if memory.acted != 0 {
            if (memory.is_frozen || memory.was_frozen) && set_frozen(slot, false).is_err() {
                return;
            }
            self.memory[number] = Memory::default();
            slot.set_acted(None);
            self.note(Act::Thawed, number, 0);
        }
        if now_ns < self.memory[number].next_ns {
            return;
        }
        self.memory[number].next_ns = now_ns + RENEW_NS;
        let most = slot.lifetime_s();
        // Never later than the deadline and the time that was allowed for this; but the kernel knows no less than 1 s.
        let seconds = match right {
            Right::Until(until) => {
                let left = until.saturating_sub(now_ns).saturating_add(slot.grace_ns()) / SECOND_NS;
                u32::try_from(left).unwrap_or(most).clamp(1, most.max(1))
            }
            _ => most,
        };
        for at in 0..slot.address_count() {
            let Some(address) = slot.address(at) else { continue };
            let put = self.with_netlink(|netlink| netlink.put(&address, seconds, ADDRESS_MARK));
            if let Err(error) = put
                && !self.memory[number].is_trouble_noted
            {
                self.memory[number].is_trouble_noted = true;
                self.note(Act::CannotRenew, number, code(&error));
            }
        }
    }

    /// Its time is over and the agent has not said so: freeze, take the addresses away, later end it.
    fn act(&mut self, number: usize, slot: &Slot, deadline: u64, now_ns: u64) -> u64 {
        if self.memory[number].acted != deadline {
            let before = self.memory[number];
            self.memory[number] = Memory { acted: deadline, was_frozen: before.is_frozen || before.was_frozen, ..Memory::default() };
        }
        if now_ns < self.memory[number].next_ns {
            return self.memory[number].next_ns;
        }
        let mut trouble = None;
        if !self.memory[number].is_frozen {
            match set_frozen(slot, true) {
                Ok(()) => self.memory[number].is_frozen = true,
                Err(error) => trouble = Some((Act::CannotFreeze, code(&error))),
            }
        }
        if !self.memory[number].are_addresses_gone {
            match self.remove(slot) {
                Ok(()) => self.memory[number].are_addresses_gone = true,
                Err(error) => trouble = Some((Act::CannotDrop, code(&error))),
            }
        }
        let memory = &mut self.memory[number];
        let is_done = memory.is_frozen && memory.are_addresses_gone;
        memory.next_ns = now_ns + if is_done { PAUSE_NS_MAX } else { AGAIN_NS };
        let next = memory.next_ns;
        if !memory.is_freeze_noted {
            memory.is_freeze_noted = true;
            slot.set_acted(Some(deadline));
            let late = i64::try_from((now_ns - deadline) / 1_000_000).unwrap_or(i64::MAX);
            self.note(Act::Froze, number, late);
        }
        if let Some((act, value)) = trouble
            && !self.memory[number].is_trouble_noted
        {
            self.memory[number].is_trouble_noted = true;
            self.note(act, number, value);
        }
        if now_ns >= deadline.saturating_add(slot.freeze_max_ns()) && self.memory[number].kill_ordered_ns == 0 {
            self.memory[number].kill_ordered_ns = now_ns;
            self.order_kill(number, slot, deadline);
        }
        next
    }

    fn remove(&mut self, slot: &Slot) -> io::Result<()> {
        let mut result = Ok(());
        for at in 0..slot.address_count() {
            let Some(address) = slot.address(at) else { continue };
            // One that cannot be removed must not keep the others.
            if let Err(error) = self.remove_one(&address) {
                result = Err(error);
            }
        }
        result
    }

    fn remove_one(&mut self, address: &Address) -> io::Result<()> {
        self.with_netlink(|netlink| netlink.remove(address))
    }

    /// The socket is opened when it is first needed, and again after it failed.
    fn with_netlink(&mut self, work: impl FnOnce(&mut Netlink) -> io::Result<()>) -> io::Result<()> {
        if self.netlink.is_none() {
            self.netlink = Some(Netlink::open()?);
        }
        let result = self.netlink.as_mut().map_or(Ok(()), work);
        if result.as_ref().is_err_and(|e| matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EBADF))) {
            self.netlink = None;
        }
        result
    }

    /// A module that may not serve is proved harmless, or still has time for it.
    fn is_proved(&self, number: usize, slot: &Slot, right: Right, now_ns: u64) -> bool {
        let Right::Until(deadline) = right else { return true };
        let memory = &self.memory[number];
        if right.holds(now_ns) || now_ns < deadline.saturating_add(slot.grace_ns()) {
            return true;
        }
        let is_done = memory.is_frozen && memory.are_addresses_gone;
        let kill_max = memory.kill_ordered_ns.saturating_add(KILL_NS_MAX);
        is_done && (memory.kill_ordered_ns == 0 || now_ns < kill_max || !super::errand::is_stuck(number))
    }

    /// Pets the watchdog while all is proved. The reason is on disk before it starves.
    fn watch(&mut self, health: Health, table: &Table) {
        let Some(watchdog) = &mut self.watchdog else { return };
        match health {
            Health::Fine => {
                self.is_starving = false;
                watchdog.pet();
            }
            Health::Unproved(number) if !self.is_starving => {
                self.is_starving = true;
                // One more meal: the time it takes to write the reason down.
                watchdog.pet();
                let (name, length) = named(&table.slots[number]);
                let _ = self.errands.try_send(Errand::Note { act: Act::Starves, name, length, value: 0 });
            }
            Health::Unproved(_) => {}
        }
    }

    fn note_agent(&mut self, silent_ns: u64) {
        let is_silent = silent_ns > SILENT_NS;
        if is_silent != self.is_agent_silent {
            self.is_agent_silent = is_silent;
            let act = if is_silent { Act::AgentSilent } else { Act::AgentBack };
            let _ = self.errands.try_send(Errand::Note { act, name: [0; NAME_BYTES], length: 0, value: 0 });
        }
    }

    fn note(&self, act: Act, number: usize, value: i64) {
        let (name, length) = named(&self.table.slots[number]);
        // A full queue means that the errand thread hangs: what was done is done all the same.
        let _ = self.errands.try_send(Errand::Note { act, name, length, value });
    }

    fn order_kill(&self, number: usize, slot: &Slot, deadline: u64) {
        let mut path = [0; PATH_BYTES];
        let path_length = slot.path(&mut path);
        let (name, length) = named(slot);
        if path_length > 0 {
            let version = slot.version();
            let _ = self.errands.try_send(Errand::Kill { number, deadline, version, path, path_length, name, length });
        }
    }
}

fn named(slot: &Slot) -> ([u8; NAME_BYTES], usize) {
    let mut name = [0; NAME_BYTES];
    let length = slot.name(&mut name);
    (name, length)
}

fn code(error: &io::Error) -> i64 {
    error.raw_os_error().map_or(0, i64::from)
}

/// Writes to the control file of the slot's group. A slot without a group has nothing to freeze, a group that is gone
/// has nobody in it.
fn set_frozen(slot: &Slot, is_frozen: bool) -> io::Result<()> {
    let (file, text): (&[u8], &[u8]) = match (slot.version(), is_frozen) {
        (Version::V2, true) => (b"/cgroup.freeze\0", b"1"),
        (Version::V2, false) => (b"/cgroup.freeze\0", b"0"),
        (Version::V1, true) => (b"/freezer.state\0", b"FROZEN"),
        (Version::V1, false) => (b"/freezer.state\0", b"THAWED"),
    };
    let mut dir = [0u8; PATH_BYTES];
    let length = slot.path(&mut dir);
    if length == 0 {
        return Ok(());
    }
    let mut path = [0u8; PATH_BYTES + 16];
    path[..length].copy_from_slice(&dir[..length]);
    path[length..length + file.len()].copy_from_slice(file);
    // SAFETY: the path ends with NUL, the text has the length given, and the descriptor is closed where it was opened.
    let error = unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            io::Error::last_os_error()
        } else {
            let written = libc::write(fd, text.as_ptr().cast(), text.len());
            let error = io::Error::last_os_error();
            libc::close(fd);
            if written >= 0 {
                return Ok(());
            }
            error
        }
    };
    if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests;
