//! Contents of files made shorter for a thin line: LZ4, each frame's contents by themselves, and only where that helps.
//!
//! What travels is `length before · block of LZ4`, the length little endian. The sender goes by the module's configuration,
//! a receiver understands both kinds of frames always.

use super::frame::Data;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tsugi_core::module::Compress;

/// Contents that are shorter travel as they are: a frame and its acknowledgement have some hundred bytes beside them.
const BYTES_MIN: usize = 512;
/// And no frame has longer ones: the largest is a write of 1 MiB. What a receiver makes room for at most.
const BYTES_MAX: usize = 4 << 20;
/// Contents that do not become shorter by this part of them travel as they are: the receiver has less to do.
const GAIN_MIN: usize = 16;
/// After so many frames in a row that did not, they are not all tried any more,
const FAILS_MAX: u32 = 8;
/// but one of so many: the load may have changed.
const TRY_EVERY: u32 = 32;
/// Tools that wait for their next use at most; each has up to 1 MiB.
const TOOLS_MAX: usize = 4;
/// The length before.
const PREFIX: usize = 4;

/// The sending side, for one session.
pub struct Compressor {
    how: Compress,
    fails: AtomicU32,
    untried: AtomicU32,
    contents: AtomicU64,
    travelled: AtomicU64,
    tools: Mutex<Vec<Tool>>,
}

/// What one compression needs: fresh memory of that size would cost as much as a small frame's compression.
struct Tool {
    table: CompressTable,
    out: Vec<u8>,
}

impl Tool {
    fn new() -> Self {
        Self { table: CompressTable::large(), out: Vec::new() }
    }

    /// Compresses; `None`: that would not be worth it.
    fn compress(&mut self, contents: &[u8]) -> Option<&[u8]> {
        let room = PREFIX + get_maximum_output_size(contents.len());
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        let (prefix, block) = self.out.split_at_mut(PREFIX);
        prefix.copy_from_slice(&u32::try_from(contents.len()).ok()?.to_le_bytes());
        let length = PREFIX + compress_into_with_table(contents, block, &mut self.table).ok()?;
        (length < contents.len() - contents.len() / GAIN_MIN).then(|| &self.out[..length])
    }
}

impl Compressor {
    /// As the configuration says.
    pub fn new(how: Compress) -> Self {
        Self {
            how,
            fails: AtomicU32::new(0),
            untried: AtomicU32::new(0),
            contents: AtomicU64::new(0),
            travelled: AtomicU64::new(0),
            tools: Mutex::default(),
        }
    }

    /// Bytes of the contents sent, and of what travelled in their place; nothing is counted while nothing is compressed.
    pub fn figures(&self) -> (u64, u64) {
        (self.contents.load(Ordering::Relaxed), self.travelled.load(Ordering::Relaxed))
    }

    /// Does something with contents in the form in which they are to travel.
    pub fn shorten<T>(&self, contents: &[u8], then: impl FnOnce(Data<'_>) -> T) -> T {
        if self.how == Compress::Off || contents.is_empty() {
            return then(Data::plain(contents));
        }
        self.contents.fetch_add(contents.len() as u64, Ordering::Relaxed);
        if !(BYTES_MIN..=BYTES_MAX).contains(&contents.len()) || !self.is_tried() {
            self.travelled.fetch_add(contents.len() as u64, Ordering::Relaxed);
            return then(Data::plain(contents));
        }
        let mut tool = self.tools().pop().unwrap_or_else(Tool::new);
        let done = match tool.compress(contents) {
            Some(shorter) => {
                self.fails.store(0, Ordering::Relaxed);
                self.travelled.fetch_add(shorter.len() as u64, Ordering::Relaxed);
                then(Data { bytes: shorter, is_compressed: true })
            }
            None => {
                let fails = self.fails.load(Ordering::Relaxed);
                self.fails.store(fails.saturating_add(1), Ordering::Relaxed);
                self.travelled.fetch_add(contents.len() as u64, Ordering::Relaxed);
                then(Data::plain(contents))
            }
        };
        let mut tools = self.tools();
        if tools.len() < TOOLS_MAX {
            tools.push(tool);
        }
        done
    }

    fn is_tried(&self) -> bool {
        self.fails.load(Ordering::Relaxed) < FAILS_MAX || self.untried.fetch_add(1, Ordering::Relaxed) % TRY_EVERY == TRY_EVERY - 1
    }

    fn tools(&self) -> std::sync::MutexGuard<'_, Vec<Tool>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Contents as they were before; `room` is used for them, and grows to the largest. An error says what is wrong.
pub fn expand<'a>(travelled: &[u8], room: &'a mut Vec<u8>) -> Result<&'a [u8], &'static str> {
    let (length, block) = travelled.split_first_chunk::<PREFIX>().ok_or("compressed contents without a length")?;
    let length = u32::from_le_bytes(*length) as usize;
    // Before anything is made room for.
    if length > BYTES_MAX {
        return Err("compressed contents that are too long");
    }
    if room.len() < length {
        room.resize(length, 0);
    }
    let into = &mut room[..length];
    match decompress_into(block, into) {
        Ok(done) if done == length => Ok(into),
        Ok(_) => Err("compressed contents of another length"),
        Err(_) => Err("compressed contents"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    fn random(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        rand::rng().fill(&mut bytes[..]);
        bytes
    }

    /// Whether contents travel compressed; they arrive in any case.
    fn is_compressed(compressor: &Compressor, contents: &[u8]) -> bool {
        compressor.shorten(contents, |data| {
            if data.is_compressed {
                assert!(data.bytes.len() < contents.len());
                assert_eq!(expand(data.bytes, &mut Vec::new()), Ok(contents));
            } else {
                assert_eq!(data.bytes, contents);
            }
            data.is_compressed
        })
    }

    #[test]
    fn contents_of_every_size_arrive_and_only_those_worth_it_are_compressed() {
        let compressor = Compressor::new(Compress::Lz4);
        let (mut contents, mut travelled) = (0, 0);
        for length in [0, 1, 511, 512, 4096, 65_534, 65_535, 65_536, 1 << 20, BYTES_MAX, BYTES_MAX + 1] {
            let text: Vec<u8> = b"a line of a log, much like the one before\n".iter().copied().cycle().take(length).collect();
            assert_eq!(is_compressed(&compressor, &text), (BYTES_MIN..=BYTES_MAX).contains(&length), "{length}");
            assert!(!is_compressed(&compressor, &random(length)), "{length} random bytes");
            contents += 2 * length as u64;
            travelled = compressor.figures().1;
        }
        assert_eq!(compressor.figures().0, contents);
        assert!(travelled > contents / 2 && travelled < contents * 3 / 4, "{travelled} of {contents}");
        let off = Compressor::new(Compress::Off);
        assert!(!is_compressed(&off, &[0; 4096]));
        assert_eq!(off.figures(), (0, 0));
    }

    #[test]
    fn contents_that_hardly_become_shorter_travel_as_they_are() {
        let compressor = Compressor::new(Compress::Lz4);
        let zeros_of = |part: usize| [random(64_000 - 64_000 / part), vec![0; 64_000 / part]].concat();
        assert!(!is_compressed(&compressor, &zeros_of(20)));
        assert!(is_compressed(&compressor, &zeros_of(10)));
    }

    #[test]
    fn a_load_that_cannot_be_compressed_is_seldom_tried_until_it_can() {
        let compressor = Compressor::new(Compress::Lz4);
        (0..FAILS_MAX).for_each(|_| assert!(!is_compressed(&compressor, &random(4096))));
        // What could be compressed is not even tried, but for one.
        let tried = |count: u32| (0..count).filter(|_| compressor.is_tried()).count();
        assert_eq!((tried(TRY_EVERY - 1), tried(1)), (0, 1));
        assert_eq!(tried(10 * TRY_EVERY), 10);
        (1..TRY_EVERY).for_each(|_| assert!(!is_compressed(&compressor, &[7; 4096])));
        assert!(is_compressed(&compressor, &[7; 4096]), "the load has changed");
        (0..FAILS_MAX).for_each(|_| assert!(is_compressed(&compressor, &[7; 4096])));
    }

    #[test]
    fn what_is_damaged_is_refused_and_makes_no_room() {
        let mut room = Vec::new();
        let compressor = Compressor::new(Compress::Lz4);
        let good = compressor.shorten(&[9; 5000], |data| data.bytes.to_vec());
        let with_length = |length: usize| [&u32::try_from(length).unwrap().to_le_bytes()[..], &good[PREFIX..]].concat();
        for hostile in [BYTES_MAX + 1, u32::MAX as usize] {
            assert_eq!(expand(&with_length(hostile), &mut room), Err("compressed contents that are too long"));
        }
        for short in 0..PREFIX {
            assert_eq!(expand(&good[..short], &mut room), Err("compressed contents without a length"));
        }
        assert_eq!(room.capacity(), 0, "room was made for it");
        for wrong in [0, 1, 4999, 5001, 1 << 20] {
            assert!(expand(&with_length(wrong), &mut room).is_err(), "{wrong} instead of 5000");
        }
        for end in PREFIX..good.len() {
            assert!(expand(&good[..end], &mut room).is_err(), "cut at {end}");
        }
        assert!(expand(&[&good[..], &[0]].concat(), &mut room).is_err(), "something is left over");
        // Whatever comes, it neither panics nor is longer than it says.
        for _ in 0..20_000 {
            let mut bytes = if rand::random() { good.clone() } else { [&good[..PREFIX], &random(40)].concat() };
            let at = rand::rng().random_range(PREFIX..bytes.len());
            bytes[at] = rand::random();
            if let Ok(contents) = expand(&bytes, &mut room) {
                assert_eq!(contents.len(), 5000);
            }
        }
        assert_eq!(expand(&good, &mut room), Ok(&[9; 5000][..]));
    }
}
