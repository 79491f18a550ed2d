//! What must hold. The checkers see everything and take no part in anything.
//!
//! | rule | what |
//! | --- | --- |
//! | I1 | two nodes may not acknowledge at once; nobody acknowledges without owning the record |
//! | I2 | what is served contains every acknowledged write |
//! | I3 | a node that record and flag call current has every acknowledged fsync on its disk |
//! | I4 | a level follower holds every acknowledged write |
//! | I5 | only a current copy becomes primary, or one a person named |
//! | I6 | a history with acknowledged writes is not overwritten in silence |
//! | I9 | an address is held only with the right to serve |
//! | L | after faults have ceased every module becomes PRIM/SECOND |

use super::data::{Carrier, OpKind, Role};
use super::disk::{BLOCKS, Blocks, WriteId};
use super::net::{MS, S};
use super::unit::{OPEN, SHUT};
use super::{Module, Profile, World};
use tsugi_core::ids::{Epoch, Gen, Session};
use tsugi_core::state::{Flag, State};

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Module.
    pub module: usize,
    /// Virtual nanoseconds.
    pub at: u64,
    /// Which rule.
    pub rule: &'static str,
    /// What was seen.
    pub detail: String,
}

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Figures {
    pub seeds: u64,
    pub virtual_ns: u64,
    pub events: u64,
    pub acked_writes: u64,
    pub acked_fsyncs: u64,
    pub takeovers: u64,
    pub orders: u64,
    pub crashes: u64,
    /// Agents that went on where they had died.
    pub went_on: u64,
    pub pauses: u64,
    pub cuts: u64,
    pub other_faults: u64,
    pub record_changes: u64,
    pub asked_twice: u64,
    pub rollbacks: u64,
    pub resyncs: u64,
    pub forced: u64,
    pub two_vips: u64,
    pub heal_worst: u64,
    /// Modules that wait for a person as they should.
    pub persons: u64,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, o: &Figures) {
        self.join(&Figures { seeds: 1, ..*o });
    }

    /// Adds the sums of other runs.
    pub fn join(&mut self, o: &Figures) {
        self.seeds += o.seeds;
        self.virtual_ns += o.virtual_ns;
        self.events += o.events;
        self.acked_writes += o.acked_writes;
        self.acked_fsyncs += o.acked_fsyncs;
        self.takeovers += o.takeovers;
        self.orders += o.orders;
        self.crashes += o.crashes;
        self.went_on += o.went_on;
        self.pauses += o.pauses;
        self.cuts += o.cuts;
        self.other_faults += o.other_faults;
        self.record_changes += o.record_changes;
        self.asked_twice += o.asked_twice;
        self.rollbacks += o.rollbacks;
        self.resyncs += o.resyncs;
        self.forced += o.forced;
        self.two_vips += o.two_vips;
        self.heal_worst = self.heal_worst.max(o.heal_worst);
        self.persons += o.persons;
    }
}

/// What may not be lost, per module.
#[derive(Debug, Clone, Default)]
pub struct Floor {
    /// Newest acknowledged write of each block.
    pub acked: Blocks,
    /// Newest one that a later acknowledged fsync covers.
    pub synced: Blocks,
    /// Sides that hold `acked` and have not lost power since, one bit each.
    holders: [u8; BLOCKS],
    /// Acknowledged in histories a person has given up.
    retired: Vec<Blocks>,
    /// History that a person's order began, and the sides that have taken it on.
    forced: Option<(Gen, [bool; 2])>,
    /// The newest order to become primary that was carried out accepts a loss.
    pub accepts_loss: [bool; 2],
    /// Requests by force that were sent with such a consent, by the history they make.
    pub consents: std::collections::BTreeSet<Gen>,
    /// A forced side that has not begun to serve yet.
    consent: [bool; 2],
    /// Flag of each side's copy before it began to follow.
    pub flag_before: [Flag; 2],
    /// Life in which the newest record was saved.
    pub saved_in: [u64; 2],
    last_server: Option<usize>,
    shut_since: [u64; 2],
    /// Both addresses were seen at once since.
    two_vips_since: Option<u64>,
    /// A record of this module was damaged on purpose.
    pub is_record_lost: bool,
    /// The arbiter's store was lost.
    pub is_store_lost: bool,
    /// The copy was set back to a snapshot while the record named it.
    pub is_set_back: [bool; 2],
    /// … and the record has changed too often since for this node not to see it.
    pub is_outrun: [bool; 2],
}

impl Module {
    /// Value `v` of a block is `floor` or was written over it.
    fn contains(&self, v: WriteId, floor: WriteId) -> bool {
        let depth = self.writes[floor as usize].1;
        let mut at = v;
        while self.writes[at as usize].1 > depth {
            at = self.writes[at as usize].0;
        }
        at == floor
    }
    fn lacking(&self, copy: &Blocks, floor: &Blocks) -> Option<usize> {
        (0..BLOCKS).find(|b| copy[*b] != floor[*b] && !self.contains(copy[*b], floor[*b]))
    }
}

impl World {
    pub(super) fn violate(&mut self, m: usize, rule: &'static str, detail: String) {
        if self.violation.is_none() {
            self.note(m, 99, |_| format!("VIOLATION {rule}: {detail}"));
            self.violation = Some(Violation { module: m, at: self.now, rule, detail });
        }
    }

    fn name(&self, m: usize, s: usize) -> String {
        format!("n{}", self.modules[m].units[s].host + 1)
    }

    /// Not on a line that a person's decision has ended.
    fn is_on_line(&self, m: usize, s: usize) -> bool {
        self.modules[m].floor.forced.is_none_or(|(_, sides)| sides[s])
    }

    /// A record was saved: does it take on the history that a person's order began?
    pub(super) fn joins_line(&mut self, m: usize, s: usize) {
        let module = &mut self.modules[m];
        if let (Some((gen_id, sides)), Some(saved)) = (&mut module.floor.forced, module.units[s].record.newest()) {
            sides[s] |= saved.gen_id == *gen_id || saved.lineage.contains(gen_id);
        }
    }

    /// By the record; a store that was just made anew knows nothing.
    fn is_owner(&self, m: usize, s: usize) -> bool {
        self.arbiter.records[m].version == Epoch(0)
            || self.arbiter.records[m].owner.as_ref() == Some(&self.hosts[self.modules[m].units[s].host].name)
    }

    /// An operation was answered to the application with success.
    pub(super) fn acknowledged(&mut self, m: usize, s: usize, kind: OpKind, peer: Option<Session>) {
        self.note(m, 40 + s as u64, |_| String::new());
        if self.plan.is_traced {
            self.trace.pop_back();
        }
        if !self.is_on_line(m, s) {
            return;
        }
        if self.plan.profile.has_good_clocks() && !self.is_owner(m, s) {
            if self.plan.profile == Profile::Rollback && self.modules[m].floor.is_record_lost {
                // Gone alone on the word of a peer that was set back; the record's refusal ends it, and nobody counts on it.
                return;
            }
            let owner = self.arbiter.records[m].owner.clone();
            return self.violate(m, "I1", format!("{} acknowledges, and the record's owner is {owner:?}", self.name(m, s)));
        }
        let there = self.modules[m].units[1 - s].host;
        let is_there = self.hosts[there].is_on;
        let is_level = is_there && peer.is_some_and(|session| self.follows(m, 1 - s, session));
        let peer_name = self.name(m, 1 - s);
        let module = &mut self.modules[m];
        match kind {
            OpKind::Write(block, value) => {
                self.figures.acked_writes += 1;
                let acked = module.floor.acked[block];
                if module.contains(acked, value) {
                    return;
                }
                if !module.contains(value, acked) {
                    let name = self.name(m, s);
                    return self.violate(
                        m,
                        "I2",
                        format!("{name} acknowledges write {value}, which was not made over acknowledged write {acked} of block {block}"),
                    );
                }
                module.floor.acked[block] = value;
                module.floor.holders[block] = 1 << s;
                if is_level {
                    if !module.contains(module.units[1 - s].tree.mem[block], value) {
                        return self.violate(m, "I4", format!("write {value} is acknowledged and follower {peer_name} does not hold it"));
                    }
                    module.floor.holders[block] |= 1 << (1 - s);
                }
            }
            OpKind::Fsync(seen) => {
                self.figures.acked_fsyncs += 1;
                for (block, value) in seen.into_iter().enumerate() {
                    if !module.contains(module.floor.synced[block], value) && module.contains(module.floor.acked[block], value) {
                        module.floor.synced[block] = value;
                    }
                }
                if let Some(block) = module.lacking(&module.units[s].tree.disk, &module.floor.synced) {
                    let name = self.name(m, s);
                    return self.violate(m, "I3", format!("{name} acknowledges an fsync and block {block} is not on its own disk"));
                }
                self.check_copies(m, "an fsync is acknowledged");
            }
        }
    }

    fn follows(&self, m: usize, s: usize, session: Session) -> bool {
        self.modules[m].units[s]
            .processes()
            .any(|p| matches!(&p.role, Role::Following(f) if f.session == session && f.is_live && !f.is_over))
    }

    /// I3.
    pub(super) fn check_copies(&mut self, m: usize, when: &str) {
        let module = &self.modules[m];
        let record = &self.arbiter.records[m];
        for s in 0..2 {
            let unit = &module.units[s];
            let is_named = record.in_sync.contains(&self.hosts[unit.host].name);
            let is_good = unit.record.newest().is_some_and(|r| r.flag == Flag::UpToDate);
            if is_named
                && is_good
                && !module.floor.is_set_back[s]
                && self.is_on_line(m, s)
                && let Some(block) = module.lacking(&unit.tree.disk, &module.floor.synced)
            {
                let (has, owed) = (unit.tree.disk[block], module.floor.synced[block]);
                let detail = format!(
                    "{when}: record and flag call {} current, and acknowledged fsync {owed} of block {block} is not on its disk (there: {has})",
                    self.name(m, s)
                );
                return self.violate(m, "I3", detail);
            }
        }
    }

    /// I2: a copy begins to be served.
    pub(super) fn check_mounted(&mut self, m: usize, s: usize) {
        if !self.is_on_line(m, s) {
            return;
        }
        let name = self.name(m, s);
        let module = &mut self.modules[m];
        let is_outrun = std::mem::take(&mut module.floor.is_outrun[s]);
        let is_missed = is_outrun && module.lacking(&module.units[s].tree.mem, &module.floor.synced).is_some();
        if std::mem::take(&mut module.floor.is_set_back[s]) && !is_missed {
            // The record named the copy that was set back: nothing could have known.
            let mem = module.units[s].tree.mem;
            (module.floor.acked, module.floor.synced, module.floor.holders) = (mem, mem, [1 << s; BLOCKS]);
            self.figures.forced += 1;
            return;
        }
        if let Some(block) = module.lacking(&module.units[s].tree.mem, &module.floor.synced) {
            let (has, owed) = (module.units[s].tree.mem[block], module.floor.synced[block]);
            return self.violate(
                m,
                "I2",
                format!("{name} serves a copy without acknowledged fsync {owed} of block {block} (there: {has})"),
            );
        }
        for block in 0..BLOCKS {
            let (has, owed) = (module.units[s].tree.mem[block], module.floor.acked[block]);
            if module.contains(has, owed) {
                continue;
            }
            if module.floor.holders[block] & 1 << s != 0 {
                return self.violate(m, "I2", format!("{name} held acknowledged write {owed} of block {block} and serves {has}"));
            }
            // Lost with the power of every node that had it only in memory.
            module.floor.acked[block] = has;
            module.floor.holders[block] = 1 << s;
        }
    }

    /// I4: a follower says that it is level.
    pub(super) fn check_level(&mut self, m: usize, s: usize, session: Session) {
        self.figures.resyncs += 1;
        // A source that has gone on alone meanwhile owes it nothing; nor does the record then name it.
        let is_required = |p: &super::data::Process| matches!(&p.role, Role::Serving(x) if x.needs_peer && x.session == session);
        if !self.is_on_line(m, 1 - s) || !self.modules[m].units[1 - s].processes().any(is_required) {
            return;
        }
        let name = self.name(m, s);
        let module = &mut self.modules[m];
        (module.floor.is_set_back[s], module.floor.is_outrun[s]) = (false, false);
        for block in 0..BLOCKS {
            let (has, owed) = (module.units[s].tree.mem[block], module.floor.acked[block]);
            if module.contains(has, owed) {
                module.floor.holders[block] |= 1 << s;
            } else if module.floor.holders[block] & 1 << (1 - s) != 0 {
                return self.violate(m, "I4", format!("{name} is level without acknowledged write {owed} of block {block} (there: {has})"));
            }
        }
    }

    /// I1.
    pub(super) fn check_serving(&mut self, m: usize) {
        let may = |s: usize| {
            let now = self.local(self.modules[m].units[s].host);
            self.is_on_line(m, s) && self.modules[m].units[s].processes().any(|p| p.is_entitled(now))
        };
        if self.plan.profile.has_good_clocks() && may(0) && may(1) {
            self.violate(m, "I1", "both nodes may acknowledge".into());
        }
        for s in 0..2 {
            let is_shut = self.modules[m].units[s].deadline == SHUT;
            let since = &mut self.modules[m].floor.shut_since[s];
            *since = if !is_shut {
                0
            } else if *since == 0 {
                self.now
            } else {
                *since
            };
        }
    }

    /// A node's state has changed; I5 where it begins to serve.
    pub(super) fn changed(&mut self, m: usize, s: usize, was_serving: bool, was: State) {
        let unit = &self.modules[m].units[s];
        let Some(engine) = &unit.engine else { return };
        if engine.is_serving() && !was_serving {
            let life = self.hosts[unit.host].life;
            let flag = unit.record.newest().map_or(Flag::Unknown, |r| r.flag);
            let is_own = flag == Flag::UpToDate || flag == Flag::Volatile && self.modules[m].floor.saved_in[s] == life;
            let is_named = self.is_owner(m, s);
            let name = self.name(m, s);
            let has_consent = std::mem::take(&mut self.modules[m].floor.consent[s]);
            if !is_own && !has_consent {
                return self.violate(m, "I5", format!("{name} becomes primary on a copy that is {flag:?}"));
            }
            if !is_named && self.is_on_line(m, s) {
                return self.violate(m, "I5", format!("{name} becomes primary and the record names {:?}", self.arbiter.records[m].owner));
            }
            if self.modules[m].floor.last_server.is_some_and(|last| last != s) {
                self.figures.takeovers += 1;
            }
            self.modules[m].floor.last_server = Some(s);
        }
        let _ = was;
    }

    /// The record was written by a person's order: what that node holds is the new beginning.
    pub(super) fn forced(&mut self, m: usize, s: usize) {
        self.figures.forced += 1;
        let gen_id = self.arbiter.records[m].gen_id;
        let name = self.name(m, s);
        let module = &mut self.modules[m];
        let lost = module.lacking(&module.units[s].tree.mem, &module.floor.synced);
        let is_accepted = module.floor.consents.contains(&gen_id);
        if let (Some(block), false, false) = (lost, is_accepted, module.floor.is_set_back[s]) {
            let owed = module.floor.synced[block];
            let detail =
                format!("`prim` without consent to a loss makes {name} primary, without acknowledged fsync {owed} of block {block}");
            return self.violate(m, "I5", detail);
        }
        module.floor.is_outrun[s] = false;
        // What was flushed goes on. A write that was not, and that this node lost with its own power, is what a claim of
        // the owner might cost as well.
        let goes_on = lost.is_none() && !is_accepted;
        if !goes_on {
            let held = &module.units[s].tree.mem;
            let owed =
                |b: usize| if module.contains(held[b], module.floor.acked[b]) { module.floor.acked[b] } else { module.floor.synced[b] };
            let old = std::array::from_fn(owed);
            module.floor.retired.push(old);
        }
        module.floor.acked = module.units[s].tree.mem;
        module.floor.synced = module.units[s].tree.disk;
        module.floor.holders = [1 << s; BLOCKS];
        module.floor.forced = Some((gen_id, [s == 0, s == 1]));
        module.floor.consent = [s == 0, s == 1];
    }

    /// I6: a copy is about to be overwritten.
    pub(super) fn check_follow(&mut self, m: usize, s: usize) {
        let module = &self.modules[m];
        if matches!(module.floor.flag_before[s], Flag::Unknown | Flag::Inconsistent) || module.floor.is_record_lost {
            return;
        }
        let (mine, theirs) = (&module.units[s].tree.mem, &module.units[1 - s].tree.mem);
        for old in &module.floor.retired {
            let lost = (0..BLOCKS).find(|b| module.contains(mine[*b], old[*b]) && !module.contains(theirs[*b], old[*b]));
            if let Some(block) = lost {
                let detail = format!(
                    "{} follows, which overwrites acknowledged write {} of block {block} without a word",
                    self.name(m, s),
                    old[block]
                );
                return self.violate(m, "I6", detail);
            }
        }
    }

    /// A host lost its power: what it held in memory only is gone.
    pub(super) fn power_is_lost(&mut self, m: usize, s: usize) {
        let module = &mut self.modules[m];
        for block in 0..BLOCKS {
            let owed = module.floor.acked[block];
            if !module.contains(module.units[s].tree.mem[block], owed) {
                module.floor.holders[block] &= !(1 << s);
            }
        }
        self.check_copies(m, "a host lost its power");
    }

    /// I9, sampled.
    pub(super) fn check_vips(&mut self, m: usize) {
        let now = self.now;
        let both = (0..2).all(|s| self.modules[m].units[s].has_vip(now));
        if both && self.modules[m].floor.two_vips_since.is_none() {
            self.figures.two_vips += 1;
            self.note(m, 50, |_| "both nodes hold the address".into());
        }
        let floor = &mut self.modules[m].floor;
        floor.two_vips_since = if both { floor.two_vips_since.or(Some(now)) } else { None };
        if !self.plan.profile.has_good_clocks() {
            return;
        }
        for s in 0..2 {
            let unit = &self.modules[m].units[s];
            let budget = unit.config().timing.freeze.as_nanos() as u64 + 100 * MS;
            let host = &self.hosts[unit.host];
            let is_excused = self.is_agent_stopped(unit.host) || host.has_vip_errors || host.flush.1 > S || !unit.is_vip_renewed();
            if is_excused {
                continue;
            }
            let since = self.modules[m].floor.shut_since[s];
            let is_shut = unit.deadline == SHUT && since > 0 && now - since > budget;
            let needs_peer = unit.processes().any(|p| matches!(&p.role, Role::Serving(x) if x.needs_peer));
            let is_over = needs_peer && unit.deadline != OPEN && unit.deadline != SHUT && self.local(unit.host) > unit.deadline + budget;
            if is_shut || is_over {
                let name = self.name(m, s);
                return self.violate(m, "I9", format!("{name} holds the address longer than F without the right to serve"));
            }
        }
    }

    /// At the end: the pair holds everything.
    pub(super) fn check_end(&mut self, m: usize) {
        for s in 0..2 {
            let module = &self.modules[m];
            let is_streaming =
                module.units[s].processes().any(|p| matches!(&p.role, Role::Serving(x) if !matches!(x.carrier, Carrier::Live)));
            if is_streaming {
                continue;
            }
            if let Some(block) = module.lacking(&module.units[s].tree.mem, &module.floor.acked) {
                let detail =
                    format!("at the end {} lacks acknowledged write {} of block {block}", self.name(m, s), module.floor.acked[block]);
                return self.violate(m, "I2", detail);
            }
        }
    }

    /// A person is needed, and may be.
    pub(super) fn may_need_a_person(&self, m: usize) -> bool {
        matches!(self.plan.profile, Profile::Consent | Profile::Rollback)
            || self.modules[m].floor.is_record_lost
            || self.modules[m].floor.is_store_lost
            // The first decision is a person's, and a crash may have swallowed it.
            || self.arbiter.records[m].version.0 == 0
    }
}
