//! Verification: both copies compared, object by object, while the application goes on and the peer stays required.
//!
//! Both nodes are asked what a part looks like ([`super::look`]), each when it comes to it. What is equal then is equal.
//! What is not may only be under way: it is looked at once more with the gate held alone and everything under way
//! applied at the peer, which takes some milliseconds, and then it is a difference. The agent decides when they are
//! repaired: then the session is ended, and the next one compares and copies exactly these, as if they had changed here.
//!
//! Invariants:
//! * nothing is called a difference that was not looked at with the gate held and all operations applied;
//! * differences go into the map when the next session begins: a checkpoint of this one cannot take them out.

use super::control::{Agent, ToAgent};
use super::dirty::{BLOCK, Dirty};
use super::frame::Msg;
use super::fs::Volume;
use super::link::Link;
use super::look::{self, Found, Look, Seen, What};
use super::ship::Ship;
use super::stream::Stream;
use super::sync::suspects::suspect_name;
use super::volume;
use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tsugi_core::copies::{DIFFERENCES_LISTED_MAX, Difference, DifferenceKind, Verified, VerifyEnd, Verifying};

/// Names asked for at once, at least; each time both nodes list the directory.
const NAMES_PER_LOOK: usize = 500;
/// So large directories are asked for in about so many parts.
const PARTS_OF_DIRECTORY: usize = 64;
/// Names that are looked at with the application held, at once.
const NAMES_PER_HELD: usize = 64;
/// Blocks asked for at once: 16 MiB of file.
const BLOCKS_PER_LOOK: u64 = 256;
/// And with the application held: 1 MiB.
const BLOCKS_PER_HELD: u64 = 16;
/// The peer answers within this, however slow its disk.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// With the application held: longer is not worth it, it is tried again.
const ANSWER_MAX_HELD: Duration = Duration::from_secs(1);
/// So often.
const HELD_TRIES: u32 = 5;
/// The application goes on for so many times as long as it was held.
const HELD_SHARE: u32 = 9;
/// How often it is looked whether the session still goes on.
const POLL: Duration = Duration::from_millis(100);
/// Longest pause after a part for the sake of the application, which gets the disks for as long as the part took.
const GIVE_WAY_MAX: Duration = Duration::from_secs(1);
/// A copy that is known to differ is repaired by then, whatever is left to be compared: it is not to be served meanwhile.
const REPAIR_AFTER: Duration = Duration::from_secs(30);
/// Or when so many objects are known to differ.
const DIFFERENCES_MAX: u64 = 10_000;

/// What is known of a verification, and where its answers come in.
#[derive(Default)]
pub struct Verification {
    progress: Mutex<Option<Verifying>>,
    answers: Mutex<Option<SyncSender<Seen>>>,
    is_unwanted: AtomicBool,
    /// Index of directory, and path, of what differs and is not repaired.
    found: Mutex<BTreeSet<(u16, Vec<u8>)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process (see `process`), so poison carries no news.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Verification {
    /// How far it is; `None`: there is none.
    pub fn progress(&self) -> Option<Verifying> {
        lock(&self.progress).clone()
    }

    /// An answer of the peer.
    pub fn seen(&self, seen: Seen) {
        if let Some(answers) = &*lock(&self.answers) {
            // One is waited for at a time: others are late, of a connection that broke.
            let _ = answers.try_send(seen);
        }
    }

    /// Begins one in the live session that this stream carries; its end is said to the agent.
    ///
    /// # Errors
    /// One is under way, or no thread can be started.
    pub fn start(&self, ship: &Arc<Ship>, volumes: &Arc<Vec<Arc<Volume>>>, stream: Arc<Stream>, agent: Agent) -> anyhow::Result<()> {
        let mut thread = lock(&self.thread);
        if lock(&self.progress).is_some() {
            bail!("a verification is under way");
        }
        *lock(&self.progress) = Some(Verifying::default());
        self.is_unwanted.store(false, Ordering::Release);
        let (tell, answers) = sync_channel(2);
        *lock(&self.answers) = Some(tell);
        let (ship, volumes) = (ship.clone(), volumes.clone());
        let started = std::thread::Builder::new().name("verify".into()).spawn(move || {
            let walk = Walk::new(&ship, &volumes, &stream, answers);
            let of = &ship.verification;
            let (what, longest_hold) = walk.run();
            *lock(&of.answers) = None;
            *lock(&of.progress) = None;
            tracing::info!(?what, longest_hold_us = longest_hold.as_micros(), "verification ended");
            agent.say(&ToAgent::Verified { what });
        });
        match started {
            Ok(started) => *thread = Some(started),
            Err(e) => {
                *lock(&self.progress) = None;
                return Err(e).context("cannot start the thread of the verification");
            }
        }
        Ok(())
    }

    /// Ends one that is under way, if there is any.
    pub fn end(&self) {
        self.is_unwanted.store(true, Ordering::Release);
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Number of objects that differ and are not repaired yet.
    pub fn unrepaired(&self) -> u64 {
        lock(&self.found).len() as u64
    }

    /// Notes what was found to differ, for the resynchronisation that begins.
    ///
    /// # Errors
    /// An object cannot be looked at.
    pub fn note_found(&self, volumes: &[Arc<Volume>], dirty: &Dirty) -> anyhow::Result<()> {
        for (dir, path) in std::mem::take(&mut *lock(&self.found)) {
            if let Some(volume) = volumes.get(usize::from(dir)) {
                suspect_name(volume, dirty, &path)?;
            }
        }
        Ok(())
    }
}

/// A question under way.
struct Asked {
    look: Look,
    /// The connection it went over.
    over: Option<Arc<Link>>,
}

struct Walk<'a> {
    ship: &'a Ship,
    volumes: &'a [Arc<Volume>],
    stream: &'a Stream,
    answers: Receiver<Seen>,
    begun: Instant,
    number: u64,
    done: Verifying,
    listed: Vec<Difference>,
    /// Objects that differ, and whether the peer has nothing of what is below them.
    differ: HashMap<(u16, Vec<u8>), bool>,
    first_difference: Option<Instant>,
    longest_hold: Duration,
    operations: u64,
}

/// It ends before everything is compared.
#[derive(Debug, thiserror::Error)]
#[error("differences are repaired first")]
struct Early;

impl<'a> Walk<'a> {
    fn new(ship: &'a Ship, volumes: &'a [Arc<Volume>], stream: &'a Stream, answers: Receiver<Seen>) -> Self {
        Self {
            ship,
            volumes,
            stream,
            answers,
            begun: Instant::now(),
            number: 0,
            done: Verifying::default(),
            listed: Vec::new(),
            differ: HashMap::new(),
            first_difference: None,
            longest_hold: Duration::ZERO,
            operations: ship.operations(),
        }
    }

    /// How it ended, and the longest time the application was held.
    fn run(mut self) -> (Verified, Duration) {
        let volumes = self.volumes;
        let end = match volumes.iter().try_for_each(|volume| self.tree(volume)) {
            Ok(()) => VerifyEnd::Whole,
            Err(e) if e.is::<Early>() => VerifyEnd::Early,
            Err(e) => VerifyEnd::Failed { detail: format!("{e:#}") },
        };
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (Verified { done: self.done, millis, listed: self.listed, end }, self.longest_hold)
    }

    fn tree(&mut self, volume: &Volume) -> anyhow::Result<()> {
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let root = volume.table().root().fd();
            let open = match volume::open_beneath(root.as_raw_fd(), &path, libc::O_RDONLY | libc::O_DIRECTORY) {
                Ok(open) => open,
                Err(e) if volume::is_gone(&e) => continue,
                Err(e) => return Err(e).with_context(|| format!("cannot read {}", shown(volume, &path))),
            };
            let names = look::in_range(open.as_raw_fd(), b"", None).with_context(|| format!("cannot read {}", shown(volume, &path)))?;
            let device = volume::fstat(open.as_raw_fd())?.st_dev;
            let (mut at, part) = (0, NAMES_PER_LOOK.max(names.len() / PARTS_OF_DIRECTORY));
            loop {
                let end = (at + part).min(names.len());
                let from = if at == 0 { Vec::new() } else { names[at].clone() };
                self.names(volume, &path, from, names.get(end).cloned())?;
                if self.is_other(volume, &path) {
                    // It is not there at all, with everything below.
                    break;
                }
                for name in &names[at..end] {
                    let full = volume::join(&path, name);
                    let Ok(st) = volume::stat_at(open.as_raw_fd(), &volume::cstr(name)?) else { continue };
                    let kind = volume::kind(&st);
                    let is_excluded = volume.excluded().is_excluded_entry(|| Ok(&path), name, || Ok(kind == libc::S_IFDIR))?;
                    if st.st_dev != device || is_excluded || self.is_other(volume, &full) {
                        continue;
                    }
                    match kind {
                        libc::S_IFDIR => todo.push(full),
                        libc::S_IFREG => self.file(volume, &full, st.st_size.unsigned_abs())?,
                        _ => {}
                    }
                }
                at = end;
                if at >= names.len() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The peer is known to have nothing of what is here.
    fn is_other(&self, volume: &Volume, path: &[u8]) -> bool {
        self.differ.get(&(volume.index(), path.to_vec())).is_some_and(|below| *below)
    }

    fn own(&self, volume: &Volume, path: &[u8], what: &What) -> anyhow::Result<Found> {
        match look::look(volume.table().root().fd().as_raw_fd(), volume.excluded(), path, what) {
            Found::Unreadable { detail } => bail!("cannot read {} on the node that serves: {detail}", shown(volume, path)),
            found => Ok(found),
        }
    }

    /// What both nodes see.
    fn both(&mut self, volume: &Volume, path: &[u8], what: &What, patience: Duration) -> anyhow::Result<(Found, Found)> {
        self.number += 1;
        let look = Look { number: self.number, dir: volume.index(), path: path.to_vec(), what: what.clone() };
        let mut asked = Asked { look, over: None };
        self.ask(&mut asked);
        let own = self.own(volume, path, what)?;
        Ok((own, self.answer(asked, patience)?))
    }

    fn ask(&self, asked: &mut Asked) {
        if let Some(link) = self.stream.link()
            && asked.over.as_ref().is_none_or(|over| !Arc::ptr_eq(over, &link))
            && link.send(0, &Msg::Look(asked.look.clone()), &[]).is_ok()
        {
            asked.over = Some(link);
        }
    }

    fn answer(&self, mut asked: Asked, patience: Duration) -> anyhow::Result<Found> {
        let begun = Instant::now();
        loop {
            match self.answers.recv_timeout(POLL.min(patience)) {
                Ok(seen) if seen.number == asked.look.number => return Ok(seen.found),
                Ok(_) => continue,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("nobody takes the peer's answers"),
            }
            self.goes_on()?;
            if begun.elapsed() > patience {
                bail!("the peer did not answer within {} s", patience.as_secs());
            }
            // A connection that broke took the question along.
            self.ask(&mut asked);
        }
    }

    fn goes_on(&self) -> anyhow::Result<()> {
        if let Some(why) = self.stream.over() {
            bail!("the session with the peer ended: {why}");
        }
        if self.ship.verification.is_unwanted.load(Ordering::Acquire) {
            bail!("it was stopped");
        }
        Ok(())
    }

    /// Looks at something with the application held and everything applied at the peer.
    fn held(&mut self, volume: &Volume, path: &[u8], what: &What) -> anyhow::Result<(Found, Found)> {
        let mut tries = 0;
        loop {
            self.goes_on()?;
            let begun = Instant::now();
            let held_since;
            let seen = {
                let _gate = self.ship.close_gate();
                held_since = Instant::now();
                if self.ship.wait_applied(self.stream, ANSWER_MAX_HELD) {
                    self.both(volume, path, what, ANSWER_MAX_HELD)
                } else {
                    Err(anyhow::anyhow!("the peer did not apply what is under way within {} s", ANSWER_MAX_HELD.as_secs()))
                }
            };
            self.longest_hold = self.longest_hold.max(held_since.elapsed());
            self.done.held += 1;
            let pause = begun.elapsed() * (HELD_SHARE + 1);
            while begun.elapsed() < pause {
                self.goes_on()?;
                std::thread::sleep(POLL.min(pause.saturating_sub(begun.elapsed())));
            }
            tries += 1;
            match seen {
                Err(_) if tries < HELD_TRIES => {}
                seen => return seen,
            }
        }
    }

    /// Compares a range of the names in a directory, and the attributes of what they lead to.
    fn names(&mut self, volume: &Volume, path: &[u8], from: Vec<u8>, to: Option<Vec<u8>>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let of = |each| What::Names { from: from.clone(), to: to.clone(), each };
        let (own, theirs) = self.both(volume, path, &of(false), ANSWER_MAX)?;
        self.give_way(begun)?;
        if own == theirs {
            return Ok(());
        }
        // Which of them: that takes a list of the directory, and nobody is held for it.
        let (own, theirs) = self.both(volume, path, &of(true), ANSWER_MAX)?;
        let Found::Names(own) = own else { return Ok(()) };
        let suspected: Vec<Vec<u8>> = match theirs {
            Found::Names(theirs) => {
                let (own, theirs): (BTreeMap<_, _>, BTreeMap<_, _>) = (own.into_iter().collect(), theirs.into_iter().collect());
                let all: BTreeSet<_> = own.keys().chain(theirs.keys()).collect();
                all.into_iter().filter(|name| own.get(*name) != theirs.get(*name)).cloned().collect()
            }
            // All of it, or it is not there at all.
            Found::Gone | Found::Sums(_) | Found::Unreadable { .. } => vec![Vec::new()],
        };
        suspected.chunks(NAMES_PER_HELD).try_for_each(|names| self.named(volume, path, names))
    }

    /// Looks again at names that were not equal when each node came to them; an empty one is the directory itself.
    fn named(&mut self, volume: &Volume, path: &[u8], names: &[Vec<u8>]) -> anyhow::Result<()> {
        let (own, theirs) = self.held(volume, path, &What::Named { names: names.to_vec() })?;
        let Found::Names(own) = own else { return Ok(()) };
        let own: BTreeMap<_, _> = own.into_iter().collect();
        let theirs: BTreeMap<_, _> = match theirs {
            Found::Names(theirs) => theirs.into_iter().collect(),
            Found::Unreadable { detail } => return self.differs(volume, path, DifferenceKind::Unreadable { detail }),
            Found::Gone | Found::Sums(_) => return self.differs(volume, path, DifferenceKind::Missing),
        };
        for name in names {
            let full = if name.is_empty() { path.to_vec() } else { volume::join(path, name) };
            let kind = match (own.get(name), theirs.get(name)) {
                (Some(_), None) => DifferenceKind::Missing,
                (None, Some(_)) => DifferenceKind::Extra,
                (Some(one), Some(other)) if one != other => DifferenceKind::Attributes,
                _ => continue,
            };
            self.differs(volume, &full, kind)?;
        }
        Ok(())
    }

    /// Compares the contents of a file.
    fn file(&mut self, volume: &Volume, path: &[u8], size: u64) -> anyhow::Result<()> {
        let blocks = size.div_ceil(BLOCK);
        let mut first = 0;
        while first < blocks {
            let begun = Instant::now();
            let count = BLOCKS_PER_LOOK.min(blocks - first);
            let (own, theirs) = self.both(volume, path, &blocks_of(first, count), ANSWER_MAX)?;
            self.done.bytes += (count * BLOCK).min(size - first * BLOCK);
            self.give_way(begun)?;
            if own == Found::Gone {
                return Ok(());
            }
            if own != theirs {
                self.contents(volume, path, first, differing(&own, &theirs, count))?;
            }
            first += count;
        }
        self.done.files += 1;
        self.report();
        Ok(())
    }

    /// Looks again at blocks that were not equal when each node came to them.
    fn contents(&mut self, volume: &Volume, path: &[u8], first: u64, suspected: Vec<u64>) -> anyhow::Result<()> {
        let mut bytes = 0;
        let mut left = suspected.as_slice();
        while let Some(begin) = left.first().copied() {
            let run = left.iter().take_while(|at| **at < begin + BLOCKS_PER_HELD).count();
            let count = left[run - 1] - begin + 1;
            left = &left[run..];
            let (own, theirs) = self.held(volume, path, &blocks_of(first + begin, count))?;
            match (own, theirs) {
                (Found::Gone, _) => return Ok(()),
                (_, Found::Gone) => return self.differs(volume, path, DifferenceKind::Missing),
                (_, Found::Unreadable { detail }) => return self.differs(volume, path, DifferenceKind::Unreadable { detail }),
                (own, theirs) => bytes += differing(&own, &theirs, count).len() as u64 * BLOCK,
            }
        }
        if bytes == 0 { Ok(()) } else { self.differs(volume, path, DifferenceKind::Contents { bytes }) }
    }

    fn differs(&mut self, volume: &Volume, path: &[u8], kind: DifferenceKind) -> anyhow::Result<()> {
        tracing::error!(path = shown(volume, path), ?kind, "the two nodes' copies differ");
        let below = matches!(kind, DifferenceKind::Missing | DifferenceKind::Unreadable { .. }) && !path.is_empty();
        let key = (volume.index(), path.to_vec());
        let before = self.differ.get(&key).copied();
        self.differ.insert(key.clone(), below || before == Some(true));
        if before.is_none() {
            self.done.differences += 1;
            lock(&self.ship.verification.found).insert(key);
        }
        if self.listed.len() < DIFFERENCES_LISTED_MAX {
            self.listed.push(Difference { path: shown(volume, path), kind });
        }
        self.report();
        let since = *self.first_difference.get_or_insert_with(Instant::now);
        if since.elapsed() > REPAIR_AFTER || self.done.differences >= DIFFERENCES_MAX {
            return Err(Early.into());
        }
        Ok(())
    }

    fn report(&self) {
        *lock(&self.ship.verification.progress) = Some(self.done.clone());
    }

    /// An application that has written meanwhile gets both disks for as long as this had them; and a copy that is known
    /// to differ is not left so for long.
    fn give_way(&mut self, begun: Instant) -> anyhow::Result<()> {
        self.report();
        let operations = self.ship.operations();
        if std::mem::replace(&mut self.operations, operations) != operations {
            std::thread::sleep(begun.elapsed().min(GIVE_WAY_MAX));
        }
        if self.first_difference.is_some_and(|since| since.elapsed() > REPAIR_AFTER) {
            return Err(Early.into());
        }
        self.goes_on()
    }
}

fn blocks_of(first: u64, count: u64) -> What {
    What::Blocks { first, count: u32::try_from(count).unwrap_or(u32::MAX) }
}

/// Positions of sums that are not the same; all of them where there are none to compare with.
fn differing(own: &Found, theirs: &Found, count: u64) -> Vec<u64> {
    let (Found::Sums(own), Found::Sums(theirs)) = (own, theirs) else { return (0..count).collect() };
    let longest = own.len().max(theirs.len());
    (0..longest).filter(|at| own.get(*at) != theirs.get(*at)).map(|at| at as u64).collect()
}

fn shown(volume: &Volume, path: &[u8]) -> String {
    let name = volume.name().trim_end_matches('/');
    if path.is_empty() { name.to_owned() } else { format!("{name}/{}", String::from_utf8_lossy(path)) }
}
