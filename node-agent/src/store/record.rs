//! The persistent record of a module: bytes that survive a crash at any instant.
//!
//! Two files of fixed size, `record.a` and `record.b`, are written in turn: the one that is not being written
//! holds the last record that was promised to be on disk. [`RecordFile::save`] returns only after `fdatasync`.
//! At start both are read and the newer valid one counts. When files exist and that rule finds nothing to rely
//! on, the answer is [`RecordLoad::Damaged`]: the caller then knows nothing of its data and must not guess.
//!
//! A slot begins with a header of 32 bytes, little endian:
//!
//! | offset | bytes | meaning |
//! | --- | --- | --- |
//! | 0 | 8 | `TSUGIREC` |
//! | 8 | 4 | version of this format, 1 |
//! | 12 | 4 | length of the contents |
//! | 16 | 8 | sequence of the write, 1… |
//! | 24 | 4 | crc32c of bytes 8–23 and the contents |
//! | 28 | 4 | zero |

use super::StoreError;
use crate::disk::{PRIVATE, read_if_there, sync_dir};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"TSUGIREC";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 32;
/// Size of a slot. A record with its full lineage needs about 2 KiB; the rest is room for later versions.
const SLOT_BYTES: usize = 16 * 1024;
/// Largest contents of a record.
pub const RECORD_BYTES_MAX: usize = SLOT_BYTES - HEADER_BYTES;

/// What the disk says of a module's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordLoad {
    /// There was never one: the module is new on this node.
    Fresh,
    /// The last record saved.
    Saved(Vec<u8>),
    /// There was one and it cannot be read. Nothing is known of this copy of the data.
    Damaged {
        /// What was found; English, names the files.
        detail: String,
    },
}

/// Handle for saving. After a failed save it refuses all others: the kernel may have marked the pages clean, so a
/// second attempt would report success without writing. Open the record again after the disk was repaired.
#[derive(Debug)]
pub struct RecordFile {
    paths: [PathBuf; 2],
    files: [Option<File>; 2],
    seq: u64,
    next: usize,
    failure: Option<String>,
}

impl RecordFile {
    /// Reads the record of the module whose directory is `dir`. What is returned as `Saved` is on the disk, also
    /// if an earlier agent was killed between writing and syncing it.
    pub fn open(dir: &Path) -> Result<(RecordFile, RecordLoad), StoreError> {
        let paths = [dir.join("record.a"), dir.join("record.b")];
        let mut slots = Vec::with_capacity(2);
        for path in &paths {
            slots.push(Slot::read(path).map_err(|e| StoreError::at("read", path, e))?);
        }
        let mut record = RecordFile { paths, files: [None, None], seq: 0, next: 0, failure: None };
        let load = match newest(&slots) {
            Newest::None => RecordLoad::Fresh,
            Newest::At(index, seq, contents) => {
                record.seq = seq;
                record.next = 1 - index;
                record.settle(index, &contents)?;
                RecordLoad::Saved(contents)
            }
            Newest::Unknown(why) => {
                // Later saves must win over whatever is still readable.
                record.seq = slots.iter().map(Slot::seq).max().unwrap_or(0);
                record.next = slots.iter().position(|s| matches!(s, Slot::Absent)).unwrap_or(usize::from(!slots[1].is_valid()));
                RecordLoad::Damaged { detail: format!("{} and {}: {why}", record.paths[0].display(), record.paths[1].display()) }
            }
        };
        Ok((record, load))
    }

    /// Stands for a record that could not be read: what is in it stays as it is.
    pub fn unreadable(dir: &Path, error: &StoreError) -> (RecordFile, RecordLoad) {
        let paths = [dir.join("record.a"), dir.join("record.b")];
        let detail = error.to_string();
        let record = RecordFile { paths, files: [None, None], seq: 0, next: 0, failure: Some(detail.clone()) };
        (record, RecordLoad::Damaged { detail })
    }

    /// Writes the record and waits until it is on the disk. An error means that nothing is known of what is on the
    /// disk: the caller leaves service.
    pub fn save(&mut self, contents: &[u8]) -> Result<(), StoreError> {
        let path = self.paths[self.next].clone();
        if let Some(failure) = &self.failure {
            return Err(StoreError::at("write", &path, io::Error::other(format!("the record failed before: {failure}"))));
        }
        let result = self.write_next(&path, contents);
        if let Err(error) = &result {
            self.failure = Some(error.to_string());
        }
        result.map_err(|e| StoreError::at("write", &path, e))
    }

    fn write_next(&mut self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let seq = self.seq + 1;
        let bytes = encode(seq, contents)?;
        match &self.files[self.next] {
            Some(file) => {
                file.write_all_at(&bytes, 0)?;
                file.sync_data()?;
            }
            None => self.files[self.next] = Some(create_or_write(path, &bytes)?),
        }
        self.seq = seq;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Makes what was read at `index` certain. The slot may be only in memory yet; once it is on the disk the
    /// other slot takes a copy, so that a write error the kernel has already forgotten shows up now.
    fn settle(&mut self, index: usize, contents: &[u8]) -> Result<(), StoreError> {
        let path = &self.paths[index];
        let file = OpenOptions::new().write(true).open(path).map_err(|e| StoreError::at("open", path, e))?;
        file.sync_all().map_err(|e| StoreError::at("write", path, e))?;
        self.files[index] = Some(file);
        self.save(contents)
    }
}

/// An existing slot is overwritten in place. A new one appears under its name only when it is complete, so that
/// "there is a file" always means "something was saved".
fn create_or_write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            Ok(file)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let temp = path.with_extension("new");
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&temp)?;
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            std::fs::rename(&temp, path)?;
            sync_dir(path.parent().unwrap_or(Path::new("/")))?;
            Ok(file)
        }
        Err(e) => Err(e),
    }
}

#[derive(Debug)]
enum Slot {
    Absent,
    Invalid(&'static str),
    /// Whole, but of a format this agent does not know: it may be the newer one.
    Foreign(u32),
    Valid {
        seq: u64,
        contents: Vec<u8>,
    },
}

impl Slot {
    fn read(path: &Path) -> io::Result<Slot> {
        Ok(match read_if_there(path)? {
            None => Slot::Absent,
            Some(bytes) => decode(&bytes),
        })
    }
    fn seq(&self) -> u64 {
        if let Slot::Valid { seq, .. } = self { *seq } else { 0 }
    }
    fn is_valid(&self) -> bool {
        matches!(self, Slot::Valid { .. })
    }
}

enum Newest {
    None,
    At(usize, u64, Vec<u8>),
    Unknown(String),
}

fn newest(slots: &[Slot]) -> Newest {
    let valid = |i: usize| match &slots[i] {
        Slot::Valid { seq, contents } => Newest::At(i, *seq, contents.clone()),
        _ => Newest::None,
    };
    match (&slots[0], &slots[1]) {
        (Slot::Absent, Slot::Absent) => Newest::None,
        (Slot::Foreign(format), _) | (_, Slot::Foreign(format)) => {
            Newest::Unknown(format!("written in format {format} by another version of the agent, which must be installed again"))
        }
        (Slot::Valid { seq: a, .. }, Slot::Valid { seq: b, .. }) => valid(if a > b { 0 } else { 1 }),
        // The write in progress when the machine stopped: the other slot is the last one promised.
        (Slot::Valid { .. }, Slot::Invalid(_)) => valid(0),
        (Slot::Invalid(_), Slot::Valid { .. }) => valid(1),
        // Only the very first record has no second slot. Otherwise a file was removed, perhaps the newer one.
        (Slot::Valid { seq: 1, .. }, Slot::Absent) => valid(0),
        (Slot::Valid { seq, .. }, Slot::Absent) | (Slot::Absent, Slot::Valid { seq, .. }) => {
            Newest::Unknown(format!("one of the two is missing although {seq} records were written"))
        }
        (Slot::Invalid(why), _) | (_, Slot::Invalid(why)) => Newest::Unknown(format!("no valid record ({why})")),
    }
}

fn checksum(bytes: &[u8], length: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[8..24]), &bytes[HEADER_BYTES..HEADER_BYTES + length])
}

fn encode(seq: u64, contents: &[u8]) -> io::Result<Vec<u8>> {
    if contents.len() > RECORD_BYTES_MAX {
        return Err(io::Error::other(format!("a record of {} bytes does not fit into {RECORD_BYTES_MAX}", contents.len())));
    }
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(contents.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&seq.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(contents);
    let crc = checksum(&bytes, contents.len());
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    // Always the whole slot: its blocks are allocated once, so that a later save cannot fail for want of space.
    bytes.resize(SLOT_BYTES, 0);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Slot {
    if bytes.len() < HEADER_BYTES {
        return Slot::Invalid("shorter than its header");
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if &bytes[..8] != MAGIC {
        return Slot::Invalid("does not begin as a record does");
    }
    let length = word(12) as usize;
    if length > RECORD_BYTES_MAX || HEADER_BYTES + length > bytes.len() {
        return Slot::Invalid("cut short");
    }
    if word(24) != checksum(bytes, length) {
        return Slot::Invalid("wrong checksum");
    }
    if word(8) != FORMAT {
        return Slot::Foreign(word(8));
    }
    let seq = u64::from(word(16)) | u64::from(word(20)) << 32;
    Slot::Valid { seq, contents: bytes[HEADER_BYTES..HEADER_BYTES + length].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path) -> RecordLoad {
        RecordFile::open(dir).unwrap().1
    }
    fn saved(text: &str) -> RecordLoad {
        RecordLoad::Saved(text.as_bytes().to_vec())
    }
    /// Directory with records `r1`…`rN` saved by one agent; returns which slot holds the last one.
    fn with_records(count: u64) -> (tempfile::TempDir, &'static str, &'static str) {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, load) = RecordFile::open(dir.path()).unwrap();
        assert_eq!(load, RecordLoad::Fresh);
        for i in 1..=count {
            record.save(format!("r{i}").as_bytes()).unwrap();
        }
        let (last, other) = if count % 2 == 1 { ("record.a", "record.b") } else { ("record.b", "record.a") };
        (dir, last, other)
    }

    #[test]
    fn the_last_saved_record_is_read_back_whatever_the_count() {
        for count in 1..=5 {
            let (dir, ..) = with_records(count);
            assert_eq!(load(dir.path()), saved(&format!("r{count}")));
            assert_eq!(load(dir.path()), saved(&format!("r{count}")), "reading changes nothing");
            let (mut record, _) = RecordFile::open(dir.path()).unwrap();
            record.save(b"later").unwrap();
            assert_eq!(load(dir.path()), saved("later"));
        }
    }

    #[test]
    fn a_torn_write_of_a_slot_leaves_the_record_before_it() {
        type Tear = fn(&Path);
        let tears: [(&str, Tear); 5] = [
            ("emptied", |p| drop(File::create(p).unwrap())),
            ("cut in the header", |p| OpenOptions::new().write(true).open(p).unwrap().set_len(20).unwrap()),
            ("cut in the contents", |p| OpenOptions::new().write(true).open(p).unwrap().set_len(HEADER_BYTES as u64 + 1).unwrap()),
            ("zeroed", |p| std::fs::write(p, vec![0; SLOT_BYTES]).unwrap()),
            ("one bit", |p| {
                let mut bytes = std::fs::read(p).unwrap();
                bytes[HEADER_BYTES] ^= 1;
                std::fs::write(p, bytes).unwrap();
            }),
        ];
        for (name, tear) in tears {
            let (dir, last, _) = with_records(4);
            tear(&dir.path().join(last));
            assert_eq!(load(dir.path()), saved("r3"), "{name}: the slot being written");
            let (dir, _, other) = with_records(4);
            tear(&dir.path().join(other));
            assert_eq!(load(dir.path()), saved("r4"), "{name}: the older slot");
            let (dir, last, other) = with_records(4);
            tear(&dir.path().join(last));
            tear(&dir.path().join(other));
            assert!(matches!(load(dir.path()), RecordLoad::Damaged { .. }), "{name}: both");
        }
    }

    #[test]
    fn a_sequence_that_was_changed_by_hand_does_not_count() {
        let (dir, _, other) = with_records(2);
        let path = dir.path().join(other);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[16] = 200;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(load(dir.path()), saved("r2"));
    }

    #[test]
    fn a_removed_slot_is_damage_because_it_may_have_been_the_newer_one() {
        for name in ["record.a", "record.b"] {
            let (dir, ..) = with_records(4);
            std::fs::remove_file(dir.path().join(name)).unwrap();
            assert!(matches!(load(dir.path()), RecordLoad::Damaged { .. }), "{name}");
        }
    }

    #[test]
    fn after_damage_the_next_record_wins() {
        type Harm = fn(&Path);
        let harms: [Harm; 4] = [
            |d| std::fs::remove_file(d.join("record.a")).unwrap(),
            |d| std::fs::remove_file(d.join("record.b")).unwrap(),
            |d| ["record.a", "record.b"].iter().for_each(|n| std::fs::write(d.join(n), b"?").unwrap()),
            |d| {
                std::fs::remove_file(d.join("record.a")).unwrap();
                std::fs::write(d.join("record.b"), b"?").unwrap();
            },
        ];
        for (i, harm) in harms.iter().enumerate() {
            let (dir, ..) = with_records(4);
            harm(dir.path());
            let (mut record, found) = RecordFile::open(dir.path()).unwrap();
            assert!(matches!(found, RecordLoad::Damaged { .. }), "harm {i}");
            record.save(b"known again").unwrap();
            assert_eq!(load(dir.path()), saved("known again"), "harm {i}");
        }
    }

    #[test]
    fn a_record_of_a_newer_agent_is_not_mistaken_for_a_torn_one() {
        let (dir, last, _) = with_records(4);
        let path = dir.path().join(last);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 2;
        let crc = checksum(&bytes, 2);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(load(dir.path()), RecordLoad::Damaged { .. }));
    }

    #[test]
    fn a_crash_before_the_first_record_was_complete_leaves_the_module_fresh() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("record.new"), b"TSUGIREC half").unwrap();
        assert_eq!(load(dir.path()), RecordLoad::Fresh);
    }

    #[test]
    fn a_failed_save_is_reported_and_all_later_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, _) = RecordFile::open(dir.path()).unwrap();
        record.save(b"good").unwrap();
        assert!(record.save(&vec![0; RECORD_BYTES_MAX + 1]).is_err());
        let error = record.save(b"small").unwrap_err().to_string();
        assert!(error.contains("record.b") && error.contains("failed before"), "{error}");
        assert_eq!(load(dir.path()), saved("good"));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_neither_taken_for_a_fresh_one_nor_written_over() {
        let dir = tempfile::tempdir().unwrap();
        // What cannot be read as a file, whoever asks.
        std::fs::create_dir(dir.path().join("record.a")).unwrap();
        let error = RecordFile::open(dir.path()).err().unwrap();

        let (mut record, load) = RecordFile::unreadable(dir.path(), &error);

        assert!(matches!(&load, RecordLoad::Damaged { detail } if detail.contains("record.a")), "{load:?}");
        assert!(record.save(b"new").is_err());
        assert!(!dir.path().join("record.b").exists());
    }

    #[test]
    fn slots_have_their_full_size_from_the_start() {
        let (dir, ..) = with_records(2);
        for name in ["record.a", "record.b"] {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(meta.len(), SLOT_BYTES as u64);
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
        }
    }
}
