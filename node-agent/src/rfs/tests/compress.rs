//! Contents that travel compressed: both copies are equal, and the line has less to carry.

use super::rejoin::Line;
use super::*;
use rand::RngExt;
use tsugi_core::state::ReplicaFigures;

/// What is copied, and then as much again that is written.
const BYTES: usize = 8 << 20;
/// A cap at which a copy of so much would take longer than a test waits.
const KB_PER_S_MAX: u64 = 100;

impl Pair {
    pub(super) fn compressing(compress: Compress, resync_kb_per_s_max: Option<u64>, line: impl Fn(SocketAddr) -> SocketAddr) -> Self {
        Self::set_up("", &Replicated::default(), line, |config| DataConfig { compress, resync_kb_per_s_max, patience: LONG, ..config })
    }

    pub(super) fn figures(&self) -> ReplicaFigures {
        self.runtime.block_on(self.a.process.figures()).expect("the data process tells its figures")
    }

    /// A copy of `contents`, and the same written into a second file in pieces of all sizes; bytes on the line for either.
    fn copy_and_write(&mut self, contents: &[u8]) -> (u64, u64) {
        fs::write(self.a.dir.join("copied"), contents).unwrap();
        self.serve_and_arm(1, 1);
        let copied = self.figures().bytes;
        let file = fs::File::create(self.a.dir.join("written")).unwrap();
        let mut at = 0;
        for size in [1, 100, 511, 512, 513, 4096, 65_534, 65_535, 65_536, 1 << 20].iter().cycle() {
            let end = (at + size).min(contents.len());
            file.write_all_at(&contents[at..end], at as u64).unwrap();
            at = end;
            if at == contents.len() {
                break;
            }
        }
        file.sync_all().unwrap();
        self.assert_equal();
        (copied, self.figures().bytes - copied)
    }
}

fn text() -> Vec<u8> {
    b"2025-01-01 00:00:00 INFO a line of a log, much like the one before\n".iter().copied().cycle().take(BYTES).collect()
}

#[test]
fn contents_that_can_be_compressed_hardly_load_the_line_and_the_cap_counts_what_travels() {
    let mut pair = Pair::compressing(Compress::Lz4, Some(KB_PER_S_MAX), |to| to);
    let (copied, written) = pair.copy_and_write(&text());
    assert!(copied < BYTES as u64 / 20, "{copied} bytes for the copy");
    assert!(written < BYTES as u64 / 20, "{written} bytes for the writes");
    let figures = pair.figures();
    assert_eq!(figures.contents, 2 * BYTES as u64);
    assert!(figures.travelled > 0 && figures.travelled < figures.bytes, "{figures:?}");
}

#[test]
fn contents_that_cannot_be_compressed_travel_as_they_are() {
    let mut contents = vec![0; BYTES];
    rand::rng().fill(&mut contents[..]);
    let mut pair = Pair::compressing(Compress::Lz4, None, |to| to);
    let (copied, written) = pair.copy_and_write(&contents);
    for bytes in [copied, written] {
        assert!((BYTES as u64..BYTES as u64 * 11 / 10).contains(&bytes), "{bytes} bytes");
    }
    let figures = pair.figures();
    assert_eq!((figures.contents, figures.travelled), (2 * BYTES as u64, 2 * BYTES as u64));
}

#[test]
fn without_the_attribute_nothing_is_compressed() {
    let mut pair = Pair::compressing(Compress::Off, None, |to| to);
    let (copied, written) = pair.copy_and_write(&text());
    assert!(copied > BYTES as u64 && written > BYTES as u64, "{copied} and {written} bytes");
    assert_eq!((pair.figures().contents, pair.figures().travelled), (0, 0));
}

#[test]
fn compressed_operations_are_sent_again_over_the_next_connection() {
    let line = Line::new();
    let named = AtomicBool::new(false);
    // The first node asked is the one that serves: it never connects.
    let mut pair = Pair::compressing(Compress::Lz4, None, |to| if named.swap(true, Ordering::AcqRel) { line.before(to) } else { to });
    pair.serve_and_arm(1, 1);
    let file = fs::File::create(pair.a.dir.join("f")).unwrap();
    let contents = text();
    for (round, piece) in contents.chunks(100_000).take(30).enumerate() {
        if round % 10 == 5 {
            // In the middle of the next write.
            line.cut_after(700);
        }
        file.write_all_at(piece, round as u64 * 100_000).unwrap();
    }
    pair.assert_equal();
    pair.assert_not_lost();
    assert!(line.cuts() >= 3, "the line was cut {} times", line.cuts());
    assert!(pair.figures().travelled < 1_000_000, "nothing was compressed");
}
