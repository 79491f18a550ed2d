//! Output files of scripts: `<timestamp>_<script>.ulog`, bounded in number and in size.
//!
//! A script writes straight into its file, not into a pipe: what it leaves in the background may go on writing after
//! the script and even after this agent has ended. Whether anybody still writes is asked of the kernel: the
//! descriptor handed to the script carries a shared `flock`, which ends with its last holder.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Largest output file. Beyond it the older part is dropped.
pub const LOG_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// What stays of a file that became too large: half, so that dropping happens seldom.
const LOG_BYTES_KEPT: u64 = LOG_BYTES_MAX / 2;
/// Newest files kept in a directory; those still written to are kept besides.
pub const LOGS_KEPT: usize = 20;
/// Room a new file has for certain: with none left on the disk, a script that checks its own `echo` would fail. Such a
/// disk gets no file, and the script runs without.
const ROOM: i64 = 32 * 1024;
/// How often a file is measured while something writes to it …
const LOOK_SELDOM: Duration = Duration::from_millis(250);
/// … and right after it had to be cut: whoever fills 2 MiB in no time will do so again. It grows for this long at most.
pub const LOOK_SOON: Duration = Duration::from_millis(10);
/// Where the last line is looked for, from the end.
const TAIL_BYTES: u64 = 8 * 1024;
/// Longest last line, for a status line on a screen.
const LAST_LINE_CHARS: usize = 300;
/// Names tried when another script began in the same microsecond.
const NAME_TRIES: u32 = 100;

/// Files with a keeper task.
static KEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Makes a new file in `dir` (made when absent), held by a shared lock, and drops files beyond [`LOGS_KEPT`].
pub fn create(dir: &Path, script: &str) -> io::Result<(PathBuf, File)> {
    std::fs::create_dir_all(dir)?;
    prune(dir, LOGS_KEPT - 1);
    for _ in 0..NAME_TRIES {
        // In order of time when sorted by name: microseconds, and a later instant if that name is taken.
        let stamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.6f");
        let path = dir.join(format!("{stamp}_{script}.ulog"));
        match OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path) {
            Ok(file) => {
                if let Err(error) = reserve(&file) {
                    let _ = std::fs::remove_file(&path);
                    return Err(error);
                }
                file.lock_shared()?;
                return Ok((path, file));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{NAME_TRIES} scripts began in the same microsecond")))
}

/// Takes [`ROOM`] on the disk for a file that stays empty.
fn reserve(file: &File) -> io::Result<()> {
    // SAFETY: plain system call on an open descriptor.
    if unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, ROOM) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Some file systems cannot promise room.
    if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) { Ok(()) } else { Err(error) }
}

/// Somebody still has the file open for writing.
pub fn is_in_use(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Drops the oldest files beyond `keep`, except those in use.
fn prune(dir: &Path, keep: usize) {
    let mut logs = list(dir);
    logs.sort(); // the names begin with the time
    let excess = logs.len().saturating_sub(keep);
    for path in logs.drain(..excess).filter(|p| !is_in_use(p)) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "an old script log could not be removed");
        }
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "ulog")).collect()
}

/// Names of the output files, the newest last; with `script`, of its runs, and what is in the newest.
pub fn newest(dir: &Path, script: Option<&str>) -> Result<(Vec<String>, Option<String>), String> {
    let names = list(dir).into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let mut files: Vec<String> = match script {
        Some(script) => {
            names.filter(|name| name.strip_suffix(".ulog").and_then(|n| n.split_once('_')).is_some_and(|(_, s)| s == script)).collect()
        }
        None => names.collect(),
    };
    files.sort();
    let Some(script) = script else { return Ok((files, None)) };
    let Some(last) = files.last() else {
        return Err(format!("there is no output of {script}: it has not been run, or not lately; without a script the files are listed"));
    };
    let bytes = std::fs::read(dir.join(last)).map_err(|e| format!("{last} cannot be read: {e}"))?;
    Ok((files, Some(String::from_utf8_lossy(&bytes).into_owned())))
}

/// Keeps a file within its size, and says when to look again.
pub fn bound(path: &Path) -> Duration {
    match shrink(path) {
        Ok(true) => LOOK_SOON,
        Ok(false) => LOOK_SELDOM,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "a script log could not be kept to its size");
            LOOK_SELDOM
        }
    }
}

/// Cuts a file that became too large down to its newest half; whether it had to. Lines written at this very moment may
/// be lost.
pub fn shrink(path: &Path) -> io::Result<bool> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let size = file.metadata()?.size();
    if size <= LOG_BYTES_MAX {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(size - LOG_BYTES_KEPT))?;
    let mut tail = Vec::new();
    (&file).take(LOG_BYTES_KEPT).read_to_end(&mut tail)?;
    let from = tail.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    file.set_len(0)?;
    file.write_all(b"[cut: older output was dropped here, this file is limited to 2 MiB]\n")?;
    file.write_all(&tail[from..])?;
    Ok(true)
}

/// Last line with something in it, without control characters; empty when there is none.
pub fn last_line(path: &Path) -> String {
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.size();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let text = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(LAST_LINE_CHARS).collect()
}

/// Watches over the size of every file in `dir` that something left in the background still writes to. One task per
/// file, which ends with the last writer. To be called at the agent's start, and after each script.
pub fn keep(dir: &Path) {
    for path in list(dir).into_iter().filter(|p| is_in_use(p)) {
        if !KEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            continue;
        }
        tokio::spawn(async move {
            while is_in_use(&path) {
                tokio::time::sleep(bound(&path)).await;
            }
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_files_are_kept_and_those_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (first, held) = create(dir.path(), "start_prim").unwrap();
        for _ in 0..LOGS_KEPT + 5 {
            create(dir.path(), "stop_prim").unwrap();
        }
        assert!(first.exists() && is_in_use(&first));
        assert_eq!(list(dir.path()).len(), LOGS_KEPT + 1);
        drop(held);
        // A process another test is just starting may hold a copy for an instant.
        let begin = std::time::Instant::now();
        while is_in_use(&first) {
            assert!(begin.elapsed() < Duration::from_secs(10), "nobody holds the file any more");
            std::thread::yield_now();
        }
        create(dir.path(), "stop_prim").unwrap();
        assert!(!first.exists());
    }

    #[test]
    fn a_large_file_keeps_its_newest_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut file) = create(dir.path(), "start_prim").unwrap();
        for number in 0..300_000 {
            file.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        shrink(&path).unwrap();
        file.write_all(b"and on\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!((text.len() as u64) < LOG_BYTES_MAX);
        assert!(text.starts_with("[cut: older output") && text.ends_with("line 299999\nand on\n"));
        assert!(text.lines().skip(1).all(|l| l.starts_with("line ") || l == "and on"));
    }

    #[test]
    fn the_last_line_is_what_a_person_would_call_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut file) = create(dir.path(), "start_prim").unwrap();
        assert_eq!(last_line(&path), "");
        file.write_all(b"one\n  \x1b[31mtwo\x1b[0m \n\n   \n").unwrap();
        assert_eq!(last_line(&path), "[31mtwo[0m");
    }
}
