//! The guard's second thread: does what may take long, so that the first one never waits.

use super::table::{NAME_BYTES, PATH_BYTES, SLOTS, Version};
use crate::cgroup::Group;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

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
    /// End everything in a control group.
    Kill {
        /// Slot.
        number: usize,
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

/// Carries errands out until nobody gives any.
pub fn run(errands: &Receiver<Errand>, notes: &Path) {
    for errand in errands {
        match errand {
            Errand::Note { act, name, length, value } => note(notes, act, &text(&name, length), value),
            Errand::Kill { number, version, path, path_length, name, length } => {
                let group = Group::at(version, PathBuf::from(text(&path, path_length)));
                let module = text(&name, length);
                let (seen, left) = end(&group);
                if let Some(stuck) = STUCK.get(number) {
                    stuck.store(left > 0, Ordering::Relaxed);
                }
                let (act, value) = if left == 0 { (Act::Killed, seen) } else { (Act::KillFailed, left) };
                note(notes, act, &module, i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}

fn text(bytes: &[u8], length: usize) -> String {
    String::from_utf8_lossy(&bytes[..length.min(bytes.len())]).into_owned()
}

/// How many there were, and how many are left.
fn end(group: &Group) -> (usize, usize) {
    let begin = Instant::now();
    let seen = group.processes().len();
    while group.is_populated() {
        if begin.elapsed() > KILL_BOUND {
            return (seen, group.survivors().len().max(1));
        }
        if let Err(error) = group.kill() {
            tracing::error!(group = %group.dir().display(), %error, "the guard cannot end a control group");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    (seen, 0)
}

fn note(notes: &Path, act: Act, module: &str, value: i64) {
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    tracing::warn!(module.name = module, value, "guard: {} {module}", act.word());
    let line = format!("{at}\t{}\t{module}\t{value}\n", act.word());
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

/// A note, read.
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
    use super::*;

    #[test]
    fn notes_are_read_once_and_torn_ones_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("guard.notes");
        assert_eq!(take_notes(&file).unwrap(), vec![]);
        note(&file, Act::Froze, "m", 12);
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"torn").unwrap();
        note(&file, Act::Killed, "other", 3);
        let notes = take_notes(&file).unwrap();
        assert_eq!(notes.iter().map(|n| (n.act, n.module.as_str(), n.value)).collect::<Vec<_>>(), [(Act::Froze, "m", 12)]);
        note(&file, Act::Starves, "m", 0);
        assert_eq!(take_notes(&file).unwrap()[0].act, Act::Starves);
        assert_eq!(take_notes(&file).unwrap(), vec![]);
    }
}
