//! The guard's other threads: they do what may take long, so that the first one never waits. One ends processes, one
//! writes notes: a disk that hangs holds up the notes only.

use super::table::{NAME_BYTES, PATH_BYTES, Right, SLOTS, Table, Version};
use crate::cgroup::Group;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Notes nobody reads any more are not written for ever.
const NOTES_BYTES_MAX: u64 = 256 * 1024;
/// After SIGKILL a process is gone within milliseconds, unless it hangs in the kernel.
const KILL_BOUND: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Modules whose processes could not be ended, by slot.
static STUCK: [AtomicBool; SLOTS] = [const { AtomicBool::new(false) }; SLOTS];

/// The processes of this slot's module do not end.
pub fn is_stuck(number: usize) -> bool {
    STUCK.get(number).is_some_and(|s| s.load(Ordering::Relaxed))
}

/// What the guard did or met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Froze the module and removed its addresses; so many milliseconds after the deadline.
    Froze,
    /// Let it go on: its right was renewed.
    Thawed,
    /// Ended its processes, so many.
    Killed,
    /// They do not end; so many are left.
    KillFailed,
    /// The control group cannot be frozen; error number.
    CannotFreeze,
    /// An address cannot be removed; error number.
    CannotDrop,
    /// An address cannot be renewed; error number.
    CannotRenew,
    /// The agent says nothing any more.
    AgentSilent,
    /// It does again.
    AgentBack,
    /// The watchdog is left to starve: the machine restarts.
    Starves,
}

impl Act {
    const ALL: [(Act, &'static str); 10] = [
        (Act::Froze, "froze"),
        (Act::Thawed, "thawed"),
        (Act::Killed, "killed"),
        (Act::KillFailed, "kill-failed"),
        (Act::CannotFreeze, "cannot-freeze"),
        (Act::CannotDrop, "cannot-drop"),
        (Act::CannotRenew, "cannot-renew"),
        (Act::AgentSilent, "agent-silent"),
        (Act::AgentBack, "agent-back"),
        (Act::Starves, "starves"),
    ];

    fn word(self) -> &'static str {
        Act::ALL.iter().find(|(act, _)| *act == self).map_or("", |(_, word)| word)
    }

    fn of_word(word: &str) -> Option<Act> {
        Act::ALL.iter().find(|(_, w)| *w == word).map(|(act, _)| *act)
    }
}

/// Something to do. Plain bytes: handing it over allocates nothing.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant)] // boxing it would allocate, which the guard's loop must not
pub enum Errand {
    /// Write it down.
    Note {
        /// What.
        act: Act,
        /// Module.
        name: [u8; NAME_BYTES],
        /// Length of the name; 0 = no module in particular.
        length: usize,
        /// See [`Act`].
        value: i64,
    },
    /// End everything in a control group, as long as the guard's freeze for this deadline is what holds.
    Kill {
        /// Slot.
        number: usize,
        /// Deadline that the module was frozen for.
        deadline: u64,
        /// Of the group.
        version: Version,
        /// Directory of the group.
        path: [u8; PATH_BYTES],
        /// Its length.
        path_length: usize,
        /// Module.
        name: [u8; NAME_BYTES],
        /// Length of the name.
        length: usize,
    },
}

/// Carries errands out until nobody gives any. Notes go on to [`write_notes`]: none is waited for.
pub fn run(errands: &Receiver<Errand>, table: &Table, notes: &SyncSender<Note>) {
    let note = |act: Act, module: String, value| {
        let at_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        tracing::warn!(module.name = module, value, "guard: {} {module}", act.word());
        // A full queue means that the disk hangs: what was done is done all the same.
        let _ = notes.try_send(Note { at_unix_ms, act, module, value });
    };
    for errand in errands {
        match errand {
            Errand::Note { act, name, length, value } => note(act, text(&name, length), value),
            Errand::Kill { number, deadline, version, path, path_length, name, length } => {
                let group = Group::at(version, PathBuf::from(text(&path, path_length)));
                let ended = end(&group, || is_due(table, number, deadline));
                if let Some(stuck) = STUCK.get(number) {
                    stuck.store(ended.is_some_and(|(_, left)| left > 0), Ordering::Relaxed);
                }
                let Some((seen, left)) = ended else { continue };
                let (act, value) = if left == 0 { (Act::Killed, seen) } else { (Act::KillFailed, left) };
                note(act, text(&name, length), i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}

/// The module's right is still over, and nobody has undone the freeze: since the order was given the agent may have
/// come back.
fn is_due(table: &Table, number: usize, deadline: u64) -> bool {
    let slot = table.slots.get(number).filter(|slot| slot.is_published());
    slot.is_some_and(|slot| slot.right() == Right::Until(deadline) && slot.acted() == Some(deadline))
}

/// Writes notes down until nobody makes any.
pub fn write_notes(notes: &Receiver<Note>, file: &Path) {
    notes.iter().for_each(|note| write(file, &note));
}

fn text(bytes: &[u8], length: usize) -> String {
    String::from_utf8_lossy(&bytes[..length.min(bytes.len())]).into_owned()
}

/// How many there were, and how many are left. `None`: they are not to be ended any more.
fn end(group: &Group, is_due: impl Fn() -> bool) -> Option<(usize, usize)> {
    let begin = Instant::now();
    let seen = group.processes().len();
    while group.is_populated() {
        if begin.elapsed() > KILL_BOUND {
            return Some((seen, group.survivors().len().max(1)));
        }
        if !is_due() {
            tracing::info!(group = %group.dir().display(), "the guard does not end a control group: its module may serve again");
            return None;
        }
        if let Err(error) = group.kill() {
            tracing::error!(group = %group.dir().display(), %error, "the guard cannot end a control group");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Some((seen, 0))
}

fn write(notes: &Path, note: &Note) {
    let line = format!("{}\t{}\t{}\t{}\n", note.at_unix_ms, note.act.word(), note.module, note.value);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(notes)?;
        file.lock()?;
        if file.metadata()?.len() > NOTES_BYTES_MAX {
            return Ok(());
        }
        file.write_all(line.as_bytes())?;
        // On disk, because what comes next may be the end of the machine.
        file.sync_data()
    };
    if let Err(error) = write() {
        tracing::error!(file = %notes.display(), %error, "the guard's note could not be written");
    }
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Wall clock of the node.
    pub at_unix_ms: u64,
    /// What.
    pub act: Act,
    /// Module; empty = none in particular.
    pub module: String,
    /// See [`Act`].
    pub value: i64,
}

/// Takes the notes out of the file. Lines that make no sense (a torn one after a power failure) are left out.
pub fn take_notes(notes: &Path) -> io::Result<Vec<Note>> {
    let mut file = match OpenOptions::new().read(true).write(true).open(notes) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    if file.metadata()?.len() == 0 {
        return Ok(Vec::new());
    }
    file.lock()?;
    let text = read_all(&mut file)?;
    file.set_len(0)?;
    Ok(text.lines().filter_map(parse).collect())
}

fn read_all(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(NOTES_BYTES_MAX * 2).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(line: &str) -> Option<Note> {
    let mut parts = line.split('\t');
    let at_unix_ms = parts.next()?.parse().ok()?;
    let act = Act::of_word(parts.next()?)?;
    let module = parts.next()?.to_owned();
    let value = parts.next()?.parse().ok()?;
    Some(Note { at_unix_ms, act, module, value })
}

#[cfg(test)]
mod tests {
    use super::super::table::Described;
    use super::*;
    use crate::cgroup::{Cgroups, Mounts};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::sync::mpsc::sync_channel;
    use tsugi_core::ids::{ModuleName, NodeName};
    use tsugi_core::module::Limits;

    const DEADLINE: u64 = 1_000_000_000;
    /// Bound of every wait.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn notes_are_read_once_and_torn_ones_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("guard.notes");
        let note = |act, module: &str, value| write(&file, &Note { at_unix_ms: 5, act, module: module.into(), value });
        assert_eq!(take_notes(&file).unwrap(), vec![]);
        note(Act::Froze, "m", 12);
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"torn").unwrap();
        note(Act::Killed, "other", 3);
        let notes = take_notes(&file).unwrap();
        assert_eq!(notes.iter().map(|n| (n.act, n.module.as_str(), n.value)).collect::<Vec<_>>(), [(Act::Froze, "m", 12)]);
        note(Act::Starves, "m", 0);
        assert_eq!(take_notes(&file).unwrap()[0].act, Act::Starves);
        assert_eq!(take_notes(&file).unwrap(), vec![]);
    }

    /// A module that was frozen for a deadline, with a process in its group.
    struct Bench {
        dir: tempfile::TempDir,
        table: Table,
        group: Group,
        child: Child,
    }

    impl Bench {
        fn new() -> Bench {
            let dir = tempfile::tempdir().unwrap();
            let groups = Cgroups::within(Mounts::find(), &NodeName::new("n1").unwrap(), dir.path());
            let group = groups.group(&ModuleName::new("m").unwrap(), &Limits::default()).unwrap().expect("these tests need control groups");
            let run = group.run("start_prim").unwrap();
            let mut command = Command::new("sleep");
            // SAFETY: only writes to descriptors between fork and exec.
            unsafe { command.arg("1000").pre_exec(run.way_in()) };
            let child = command.spawn().unwrap();
            group.freeze().unwrap();
            let table = Table::create().unwrap();
            let second = Duration::from_secs(1);
            let place = Some((group.version(), group.dir().display().to_string()));
            table.slots[3].publish(&Described { name: "m".into(), group: place, grace: second, freeze_max: second, lifetime: second });
            table.slots[3].set_right(Right::Until(DEADLINE));
            table.slots[3].set_acted(Some(DEADLINE));
            Bench { dir, table, group, child }
        }

        fn errands(&self) -> [Errand; 2] {
            let (mut path, mut name) = ([0; PATH_BYTES], [0; NAME_BYTES]);
            let slot = &self.table.slots[3];
            let (path_length, length) = (slot.path(&mut path), slot.name(&mut name));
            let kill = Errand::Kill { number: 3, deadline: DEADLINE, version: slot.version(), path, path_length, name, length };
            [Errand::Note { act: Act::Froze, name, length, value: 0 }, kill]
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = self.group.kill();
            let _ = self.child.wait();
            self.group.remove();
        }
    }

    #[test]
    fn a_disk_that_hangs_holds_up_no_kill() {
        let mut bench = Bench::new();
        // Opening it waits for somebody who reads.
        let file = bench.dir.path().join("guard.notes");
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let (to, todo) = sync_channel(8);
        let (to_disk, for_disk) = sync_channel(8);
        let place = file.clone();
        let writer = std::thread::spawn(move || write_notes(&for_disk, &place));
        let table = bench.table.clone();
        let (errands, done) = (bench.errands(), sync_channel(1));
        let errand = std::thread::spawn(move || {
            run(&todo, &table, &to_disk);
            let _ = done.0.send(());
        });
        errands.into_iter().for_each(|errand| to.send(errand).unwrap());
        drop(to);
        done.1.recv_timeout(PATIENCE).expect("the errands are done while the note hangs");
        assert!(!bench.group.is_populated());
        bench.child.wait().unwrap();
        // A disk that answers again: fsync of a pipe fails, which is logged.
        let mut reader = File::open(&file).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        errand.join().unwrap();
        assert!(text.contains("froze\tm"), "{text:?}");
    }

    #[test]
    fn a_module_that_may_serve_again_is_not_ended_by_an_order_of_before() {
        let undone: [fn(&Table); 4] = [
            |table| table.slots[3].set_right(Right::Alone),
            |table| table.slots[3].set_right(Right::Until(u64::MAX - 5)),
            |table| table.slots[3].set_acted(None),
            |table| table.slots[3].unpublish(),
        ];
        for (number, undo) in undone.into_iter().enumerate() {
            let bench = Bench::new();
            let (to, todo) = sync_channel(8);
            let (to_disk, notes) = sync_channel(8);
            bench.errands().into_iter().for_each(|errand| to.send(errand).unwrap());
            drop(to);
            undo(&bench.table);
            run(&todo, &bench.table, &to_disk);
            assert!(bench.group.is_populated(), "{number}");
            assert_eq!(notes.try_iter().map(|n| n.act).collect::<Vec<_>>(), [Act::Froze], "{number}");
        }
    }
}
