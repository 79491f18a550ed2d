//! What a returning node costs: bytes and time in proportion to what changed, beside `rsync` on the same trees.
//!
//! A secondary loses its power; the application goes on and changes a hundredth of what there is; the secondary comes back.
//! Bytes are counted where they arrive, on its replication network. Then `rsync -a --delete`, by its daemon and over the same
//! line, brings a copy of the tree level that was made before the change.

use super::{Row, say};
use crate::files::{DIR, Files};
use crate::lab::names::number_of;
use crate::lab::{Lab, Network};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BENCH: &str = "resync";
/// What is compared at a time.
const BLOCK: u64 = 64 << 10;
/// Written at a time, at random places.
const WRITE: u64 = 4096;
/// Share of the bytes that is written while the secondary is away.
const CHANGED: u64 = 100;
/// What arrives, to the blocks that changed.
const BYTES_BAR: f64 = 1.2;
/// Rate of the application meanwhile, to its rate with both nodes.
const RATE_BAR: f64 = 0.6;
/// What is compared, and what is sent, after the loss of a primary that wrote to a twentieth of the files.
const CRASH_BAR: f64 = 0.1;
/// Rate at which everything is copied, to that of a plain copy between the two disks.
const COPY_BAR: f64 = 0.8;
/// Copies that are made anew; the row is their median.
const COPIES: usize = 5;
/// Everything is flushed at the secondary: two checkpoints.
const SETTLED: Duration = Duration::from_secs(25);
/// Over which the application's rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// How large.
struct Size {
    files: u64,
    file_bytes: u64,
    disk_bytes: u64,
    /// An inode for each 16 KiB: room for two trees of the small files.
    small_disk_bytes: u64,
    dirs: u64,
    files_per_dir: u64,
}

const FULL: Size =
    Size { files: 200, file_bytes: 50 << 20, disk_bytes: 30 << 30, small_disk_bytes: 44 << 30, dirs: 1000, files_per_dir: 1000 };
const QUICK: Size = Size { files: 200, file_bytes: 5 << 20, disk_bytes: 6 << 30, small_disk_bytes: 6 << 30, dirs: 200, files_per_dir: 250 };

/// What is done to the large files.
const RETURNED: &str = "large files";
/// See `RETURNED`.
const PRIMARY_LOST: &str = "after a power failure of the primary";
/// See `RETURNED`.
const COPY_LOST: &str = "a lost copy";
/// And to the small ones.
const SMALL: &str = "small files";

/// The parts of which one of `words` is in the name, without words all.
pub fn run(words: &[String], is_quick: bool, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let size = if is_quick { QUICK } else { FULL };
    let is_wanted = |part: &str| words.is_empty() || words.iter().any(|word| part.contains(word.as_str()));
    if [RETURNED, PRIMARY_LOST, COPY_LOST].into_iter().any(is_wanted) {
        large_files(&size, &is_wanted, put)?;
    }
    if is_wanted(SMALL) { small_files(&size, put) } else { Ok(()) }
}

/// Bytes that have arrived at a host on the replication network since it was switched on.
fn received(lab: &Lab, host: &str) -> Result<f64> {
    let text = lab.sh(host, "cat /sys/class/net/eth1/statistics/rx_bytes 2>/dev/null || awk '/eth1:/ {print $2}' /proc/net/dev")?;
    text.trim().parse().with_context(|| format!("bytes received by {host}: {text}"))
}

/// The last resynchronisation that `host` was the source of, in seconds, by its own log.
fn seconds_of_last(lab: &Lab, host: &str) -> Result<f64> {
    let log = std::fs::read_to_string(lab.places().host(host).join("agent.log"))?;
    let at = |what: &str| -> Option<f64> {
        let line = log.lines().rfind(|line| line.contains(what))?;
        let time = line.split_once('T')?.1.split_once('Z')?.0;
        let mut parts = time.split(':').map(|p| p.parse::<f64>().ok());
        Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
    };
    let (begin, end) = (at("resynchronisation begins"), at("the peer is level"));
    let (begin, end) = begin.zip(end).context("the log does not speak of a resynchronisation")?;
    Ok((end - begin).rem_euclid(86_400.0))
}

/// An application that writes 4 KiB and waits until that is on both disks, again and again.
struct Writer {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<()>>,
}

impl Writer {
    fn start(dir: &Path) -> Result<Writer> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("writer"))?;
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, over) = (count.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut n = 0u64;
            while !over.load(Ordering::Relaxed) {
                file.write_all_at(&n.to_le_bytes().repeat(512), (n % 256) * WRITE)?;
                file.sync_data()?;
                n = counted.fetch_add(1, Ordering::Relaxed) + 1;
            }
            Ok(())
        });
        Ok(Writer { count, stop, thread })
    }

    fn rate(&self, window: Duration) -> f64 {
        let (before, begin) = (self.count.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(window);
        (self.count.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64()
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the writer panicked")??;
        Ok(())
    }
}

/// A generator good enough for places and contents, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

/// `rsync -a --delete` of n1's copy to the copy on n2 that was made before: seconds, and bytes that arrived.
fn rsync(pair: &Files) -> Result<(f64, f64)> {
    let lab = &pair.lab;
    let to = Network::Private.addr(number_of("n2").context("n2 has no number")?);
    let conf = "uid=0\\ngid=0\\nuse chroot=no\\n[copy]\\npath=/srv/host/native/copy\\nread only=no\\n";
    lab.sh("n2", &format!("printf '{conf}' >/run/rsyncd.conf && rsync --daemon --config /run/rsyncd.conf --address {to}"))?;
    let before = received(lab, "n2")?;
    let begin = Instant::now();
    lab.sh("n1", &format!("rsync -a --delete /srv/host/data/files/ rsync://{to}/copy/"))?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok((seconds, received(lab, "n2")? - before))
}

fn keep_copy(pair: &Files) -> Result<()> {
    pair.lab.sh("n2", "mkdir -p /srv/host/native/copy && cp -a /srv/host/data/files/. /srv/host/native/copy/ && sync").map(drop)
}

/// A row without a bar.
fn only_said(row: &str, unit: &'static str, value: f64) -> Row {
    Row { bar: None, ..Row::at_most(BENCH, row, unit, f64::INFINITY, vec![value]) }
}

/// A row beside rsync's; without a bar it only says.
fn one(row: &str, unit: &'static str, bar: Option<f64>, value: f64, rsync: f64) -> Row {
    let peers = BTreeMap::from([("rsync".to_owned(), vec![rsync])]);
    Row { bar, ..Row::at_most(BENCH, row, unit, bar.unwrap_or(f64::INFINITY), vec![value]) }.beside(&peers)
}

fn large_files(size: &Size, is_wanted: &dyn Fn(&str) -> bool, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    say(&format!("{} files of {} MiB", size.files, size.file_bytes >> 20));
    let pair = Files::start("b-resync", size.disk_bytes, |c| c)?;
    let seen = pair.seen("n1")?;
    let names: Vec<PathBuf> = (0..size.files).map(|n| seen.join(format!("file{n}"))).collect();
    let mut random = Random(88_172_645_463_325_252);
    for name in &names {
        let file = std::fs::File::create(name)?;
        for at in (0..size.file_bytes).step_by(1 << 20) {
            file.write_all_at(&random.bytes(1 << 20), at)?;
        }
    }
    std::thread::sleep(SETTLED);
    if is_wanted(RETURNED) {
        returned(&pair, &names, size, &mut random, put)?;
    }
    let mut roles = ("n1", "n2");
    if is_wanted(PRIMARY_LOST) {
        primary_lost(&pair, &names, size, &mut random, put)?;
        roles = ("n2", "n1");
    }
    if is_wanted(COPY_LOST) { copy_lost(&pair, roles, put) } else { Ok(()) }
}

/// The secondary loses its power and comes back.
fn returned(pair: &Files, names: &[PathBuf], size: &Size, random: &mut Random, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    keep_copy(pair)?;
    let writer = Writer::start(&pair.seen("n1")?)?;
    let with_both = writer.rate(RATE_WINDOW);
    pair.lab.kill("n2")?;
    pair.wait_alone("n1")?;
    say("a hundredth is changed while the secondary is off");
    let mut blocks = BTreeSet::new();
    for _ in 0..size.files * size.file_bytes / CHANGED / WRITE {
        let (name, at) = (random.next() % size.files, random.next() % (size.file_bytes / WRITE) * WRITE);
        let file = OpenOptions::new().write(true).open(&names[usize::try_from(name)?])?;
        file.write_all_at(&random.bytes(WRITE), at)?;
        blocks.insert((name, at / BLOCK));
    }
    // What the application itself writes is part of what changed.
    let own = 256 * WRITE / BLOCK;
    let changed = (blocks.len() as u64 + own) as f64 * BLOCK as f64;
    // From here to level: the second half of it, at least, is the resynchronisation.
    pair.lab.boot("n2")?;
    let count = writer.count.clone();
    let log = pair.lab.places().host("n1").join("agent.log");
    let sessions = |what: &str| std::fs::read_to_string(&log).map_or(0, |text| text.matches(what).count());
    let (begins, levels) = ("resynchronisation begins", "the peer is level");
    let before = sessions(begins);
    let wait = |what: &str, more_than: usize| {
        crate::setup::wait_for(what, Duration::from_secs(600), || (sessions(what) > more_than).then_some(()))
    };
    wait(begins, before)?;
    let (from, at) = (count.load(Ordering::Relaxed), Instant::now());
    wait(levels, before)?;
    let meanwhile = (count.load(Ordering::Relaxed) - from) as f64 / at.elapsed().as_secs_f64();
    let arrived = received(&pair.lab, "n2")?;
    let seconds = seconds_of_last(&pair.lab, "n1")?;
    pair.wait_roles("n1", "n2")?;
    writer.end()?;
    pair.wait_equal("n1", "n2")?;
    let (rsync_seconds, rsync_bytes) = rsync(pair)?;
    put(one("large files: bytes that arrive, to changed 64 KiB blocks", "", Some(BYTES_BAR), arrived / changed, rsync_bytes / changed))?;
    put(one("large files: seconds to be level again", "s", None, seconds, rsync_seconds))?;
    let mut rate = Row::at_most(
        BENCH,
        "large files: rate of the application meanwhile, to that with both nodes",
        "",
        RATE_BAR,
        vec![meanwhile / with_both],
    );
    rate.better = "higher";
    rate.holds = meanwhile / with_both >= RATE_BAR;
    put(rate)
}

/// A number that the serving node's log says of its last resynchronisation.
fn said(lab: &Lab, host: &str, what: &str) -> Result<f64> {
    let log = std::fs::read_to_string(lab.places().host(host).join("agent.log"))?;
    let line = log.lines().rfind(|line| line.contains("the peer is level")).context("the log does not speak of a resynchronisation")?;
    // Written for a terminal: a colour begins with an escape and ends with an m.
    let plain: String = line
        .split('\x1b')
        .enumerate()
        .map(|(n, part)| if n == 0 { part } else { part.split_once('m').map_or("", |(_, rest)| rest) })
        .collect();
    let (_, rest) = plain.split_once(&format!("{what}=")).with_context(|| format!("it does not say {what}: {plain}"))?;
    rest.split(' ').next().and_then(|n| n.parse().ok()).with_context(|| format!("{what} is no number: {plain}"))
}

/// The primary loses its power under load; the other one takes over and goes on; the first one returns.
fn primary_lost(pair: &Files, names: &[PathBuf], size: &Size, random: &mut Random, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    say("the primary loses its power while a twentieth of the files is written to");
    let hot = (names.len() / 20).max(1) as u64;
    let mut dirty = |host: &str, seconds: u64| -> Result<()> {
        let seen = pair.seen(host)?;
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            let (name, at) = (random.next() % hot, random.next() % (size.file_bytes / WRITE) * WRITE);
            let file = OpenOptions::new().write(true).open(seen.join(format!("file{name}")))?;
            file.write_all_at(&random.bytes(WRITE), at)?;
        }
        Ok(())
    };
    dirty("n1", SETTLED.as_secs())?;
    pair.lab.kill("n1")?;
    pair.wait_alone("n2")?;
    dirty("n2", 5)?;
    pair.lab.boot("n1")?;
    pair.wait_roles("n2", "n1")?;
    let total = (size.files * size.file_bytes) as f64;
    let (compared, seconds) = (said(&pair.lab, "n2", "compared")?, seconds_of_last(&pair.lab, "n2")?);
    let arrived = received(&pair.lab, "n1")?;
    pair.wait_equal("n2", "n1")?;
    let row = "after a power failure of the primary: share of the data that is compared";
    put(Row::at_most(BENCH, row, "", CRASH_BAR, vec![compared / total]))?;
    let row = "after a power failure of the primary: share of the data that is sent";
    put(Row::at_most(BENCH, row, "", CRASH_BAR, vec![arrived / total]))?;
    put(only_said("after a power failure of the primary: seconds to be level again", "s", seconds))
}

/// A node gets everything: its copy was lost. Beside a plain copy from the one host's disk to the other's. In turns, because
/// a disk that others use as well is not twice as fast as the time before.
fn copy_lost(pair: &Files, (prim, second): (&str, &str), put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let module = crate::files::MODULE;
    let (from, to) = (pair.raw(prim)?, pair.native(second)?.join("plain"));
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    for _ in 0..COPIES {
        say("a copy is lost, and made anew");
        pair.lab.sh(second, &format!("tsugi stop {module} && tsugi rfs open -m {module} && rm -rf {DIR}/* && sync"))?;
        // Both read from the disk.
        std::fs::write("/proc/sys/vm/drop_caches", "3")?;
        pair.lab.sh(second, &format!("tsugi start {module} --no-wait"))?;
        pair.wait_roles(prim, second)?;
        let seconds = seconds_of_last(&pair.lab, prim)?;
        std::fs::create_dir_all(&to)?;
        pair.lab.sh(second, "sync")?;
        std::fs::write("/proc/sys/vm/drop_caches", "3")?;
        let begin = Instant::now();
        let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(&to).status()?;
        anyhow::ensure!(copied.success(), "the plain copy failed");
        std::fs::File::open(&to)?.sync_all()?;
        pair.lab.sh(second, "sync -f /srv/host/native/plain")?;
        let plain = begin.elapsed().as_secs_f64();
        std::fs::remove_dir_all(&to)?;
        say(&format!("level again after {seconds:.2} s, a plain copy takes {plain:.2} s"));
        ratios.push(plain / seconds);
        times.push(seconds);
    }
    pair.wait_equal(prim, second)?;
    let mut row = Row::at_most(BENCH, "a lost copy: rate, to that of a plain copy", "", COPY_BAR, ratios);
    row.better = "higher";
    row.worst = row.runs.iter().copied().fold(f64::NAN, f64::min);
    row.holds = row.ours >= COPY_BAR;
    put(row)?;
    put(Row { bar: None, ..Row::at_most(BENCH, "a lost copy: seconds to be level again", "s", f64::INFINITY, times) })
}

fn small_files(size: &Size, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let count = size.dirs * size.files_per_dir;
    say(&format!("{count} small files"));
    let pair = Files::start("b-small", size.small_disk_bytes, |c| c)?;
    let seen = pair.seen("n1")?;
    for dir in 0..size.dirs {
        let dir = seen.join(format!("dir{dir}"));
        std::fs::create_dir(&dir)?;
        for n in 0..size.files_per_dir {
            std::fs::write(dir.join(format!("file{n}")), n.to_le_bytes())?;
        }
    }
    std::thread::sleep(SETTLED);
    keep_copy(&pair)?;
    pair.lab.kill("n2")?;
    pair.wait_alone("n1")?;
    for n in 0..100 {
        let dir = seen.join(format!("dir{}", n * 7 % size.dirs));
        match n % 4 {
            0 | 1 => std::fs::write(dir.join(format!("file{n}")), "changed")?,
            2 => std::fs::remove_file(dir.join(format!("file{n}")))?,
            _ => std::fs::write(dir.join("new"), "new")?,
        }
    }
    pair.lab.boot("n2")?;
    pair.wait_roles("n1", "n2")?;
    let (arrived, seconds) = (received(&pair.lab, "n2")?, seconds_of_last(&pair.lab, "n1")?);
    pair.lab.sh("n1", &format!("ls {DIR} | wc -l"))?;
    let (rsync_seconds, rsync_bytes) = rsync(&pair)?;
    let (kib, rsync_kib) = (arrived / 1024.0, rsync_bytes / 1024.0);
    // A hundred changes of a few bytes each: heartbeats and handshake are most of it.
    put(one(&format!("{count} small files, 100 changed: KiB that arrive"), "KiB", Some(1024.0), kib, rsync_kib))?;
    put(one(&format!("{count} small files, 100 changed: seconds to be level again"), "s", Some(2.0), seconds, rsync_seconds))?;
    let memory: Result<Vec<f64>> = ["n1", "n2"].iter().map(|h| super::usage(&pair.lab, h, "tsugi-agent").map(|u| u.rss_mib)).collect();
    put(Row::at_most(BENCH, &format!("memory of an agent with all its processes, {count} files"), "MiB", 500.0, memory?))
}
