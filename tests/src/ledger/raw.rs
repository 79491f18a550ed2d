//! The ledger without a database: one file, a line per entry, each appended and flushed before it is confirmed. What
//! a database would hide is seen here as it is on the disk.

use super::{Entry, NewEntry};
use anyhow::{Context, Result, bail};
use ring::digest::{SHA256, digest};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// The file's name in the directory of the ledger.
pub const FILE: &str = "ledger.log";
/// Characters of a line's checksum.
const SUM: usize = 16;

/// The file and what is in it.
pub struct Raw {
    file: File,
    entries: Vec<Entry>,
    /// (client, count of the client) → place in `entries`.
    places: HashMap<(String, i64), usize>,
}

fn sum(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(SUM / 2).map(|b| format!("{b:02x}")).collect()
}

fn line_of(entry: &Entry) -> Result<String> {
    let text = serde_json::to_string(entry)?;
    Ok(format!("{} {text}\n", sum(&text)))
}

fn entry_of(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line).ok()?;
    let (head, text) = (line.get(..SUM)?, line.get(SUM + 1..)?);
    (head == sum(text)).then(|| serde_json::from_str(text).ok()).flatten()
}

/// The entries of a file, and how long it is without a last line that was not written to its end.
///
/// # Errors
/// A line that is damaged and has a good one behind it: that one was flushed, so this one was confirmed.
fn parse(text: &[u8]) -> Result<(Vec<Entry>, u64)> {
    let (mut entries, mut good, mut at, mut bad) = (Vec::new(), 0, 0, None);
    for (number, line) in text.split_inclusive(|b| *b == b'\n').enumerate() {
        at += line.len();
        match line.strip_suffix(b"\n").and_then(entry_of) {
            Some(_) if let Some(bad) = bad => bail!("line {bad} is damaged, and line {} behind it is not", number + 1),
            Some(entry) => {
                entries.push(entry);
                good = at;
            }
            None => bad = bad.or(Some(number + 1)),
        }
    }
    Ok((entries, good as u64))
}

impl Raw {
    /// Opens the file in `dir`, or makes it. What was cut off in the middle of a line is taken away: it was not confirmed.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged (the line is named).
    pub fn open(dir: &Path) -> Result<Raw> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("{}", path.display()))?;
        let text = std::fs::read(&path)?;
        let (entries, good) = parse(&text).with_context(|| format!("{}", path.display()))?;
        if good < text.len() as u64 {
            file.set_len(good)?;
        }
        // The name as well: a file nobody finds confirms nothing.
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        let places = entries.iter().enumerate().map(|(at, e)| ((e.client.clone(), e.seq), at)).collect();
        Ok(Raw { file, entries, places })
    }

    /// Appends and flushes; the number it has. The same entry again has the number it had.
    ///
    /// # Errors
    /// The entry exists with another text. The disk: then nothing is known of what is in the file, and the process ends.
    pub fn write(&mut self, entry: &NewEntry) -> Result<i64> {
        if let Some(kept) = self.places.get(&(entry.client.clone(), entry.seq)).and_then(|at| self.entries.get(*at)) {
            if kept.text != entry.text {
                bail!("entry {} of {} exists with another text", entry.seq, entry.client);
            }
            return Ok(kept.id);
        }
        let id = self.entries.last().map_or(0, |e| e.id) + 1;
        let new = Entry { id, client: entry.client.clone(), seq: entry.seq, text: entry.text.clone() };
        let written = line_of(&new).and_then(|line| Ok(self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data())?));
        if let Err(error) = written {
            eprintln!("tsugi-ledger: {FILE}: {error:#}");
            std::process::exit(1);
        }
        self.places.insert((new.client.clone(), new.seq), self.entries.len());
        self.entries.push(new);
        Ok(id)
    }

    /// All of them, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Every entry of a copy of a ledger's directory.
///
/// # Errors
/// It cannot be read, or is damaged (the line is named).
pub fn read_copy(dir: &Path) -> Result<Vec<Entry>> {
    let path = dir.join(FILE);
    let text = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
    parse(&text).map(|(entries, _)| entries).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: i64) -> NewEntry {
        NewEntry { client: "t".into(), seq, text: format!("entry {seq}") }
    }

    #[test]
    fn a_torn_last_line_is_taken_away_and_a_damaged_one_before_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = Raw::open(dir.path()).unwrap();
        for seq in 1..=3 {
            assert_eq!(raw.write(&entry(seq)).unwrap(), seq);
        }
        assert_eq!(raw.write(&entry(2)).unwrap(), 2, "the same again");
        drop(raw);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(read_copy(dir.path()).unwrap().len(), 2);
        let mut raw = Raw::open(dir.path()).unwrap();
        assert_eq!(raw.write(&entry(3)).unwrap(), 3);
        drop(raw);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let mut damaged = whole;
        damaged[SUM + 3] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = format!("{:#}", Raw::open(dir.path()).err().unwrap());
        assert!(error.contains("line 1 is damaged"), "{error}");
    }
}
