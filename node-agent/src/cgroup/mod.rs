//! Control groups: everything that a module's scripts start lives in one, whatever it does to its parents, its session
//! or its environment. So it can be frozen as a whole, bounded as a whole, and ended with proof.
//!
//! ```text
//! tsugi/NODE-1a2b3c4d/MODULE/start_prim.17        one group per run of a script, in which its daemons stay
//! ```
//!
//! Groups are those of version 2 wherever it is mounted (also beside version 1, as some systems have it), else the
//! freezer of version 1. Limits come from the controllers of whichever version has them. `NODE-1a2b3c4d` stands for
//! one state directory: agents that share a kernel do not meet.
//!
//! `frozen 0` after [`Group::freeze`] is no failure: a process that waits for an answer of the replicated file system
//! cannot be stopped there, and stops when it has its answer. It can do nothing meanwhile.

mod end;
mod limits;
mod mounts;

pub use end::{Ended, Survivor};
pub use limits::pids_default;
pub use mounts::Mounts;

use crate::procfs;
use limits::Controller;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::Limits;

/// Folder of ours in each hierarchy.
const FOLDER: &str = "tsugi";
/// The list of processes of a group, in both versions.
const PROCS: &str = "cgroup.procs";

/// How a group is frozen and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `cgroup.freeze`, `cgroup.kill`, `cgroup.events`.
    V2,
    /// `freezer.state`; processes are ended one by one while frozen.
    V1,
}

/// Where the groups of one agent are made.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mounts: Mounts,
    agent: String,
}

impl Cgroups {
    /// Looks at what this machine has mounted. Without any, [`Cgroups::group`] gives none, which is logged here once.
    pub fn open(node: &NodeName, state_dir: &Path) -> Cgroups {
        let mounts = Mounts::find();
        match &mounts.groups {
            Some((version, base)) => {
                tracing::info!(?version, base = %base.display(), "control groups of modules are made below {}", base.display())
            }
            None => tracing::warn!(
                "no control groups are mounted (neither version 2 nor the freezer of version 1): processes of modules are found by \
                 their environment only, are not frozen, and have no limits. Remedy: mount -t cgroup2 none /sys/fs/cgroup"
            ),
        }
        Cgroups::within(mounts, node, state_dir)
    }

    /// As `open`, with mounts known already.
    pub fn within(mounts: Mounts, node: &NodeName, state_dir: &Path) -> Cgroups {
        Cgroups { mounts, agent: format!("{node}-{}", state_mark(state_dir)) }
    }

    /// The group of a module, made when absent, with these limits. `None` where the machine has no groups.
    pub fn group(&self, module: &ModuleName, limits: &Limits) -> io::Result<Option<Group>> {
        let Some((version, base)) = &self.mounts.groups else { return Ok(None) };
        let below = [FOLDER, &self.agent, module.as_str()];
        let dir = make(base, &below)?;
        let mut joined = Vec::new();
        for controller in Controller::ALL {
            match self.limited(controller, base, &dir, &below) {
                Ok(place) => {
                    controller.set(place.version, &place.dir, limits)?;
                    // In its own hierarchy a process is in its run's group, and so below this one already.
                    if place.dir != dir {
                        joined.push(place.dir);
                    }
                }
                Err(why) if controller.is_wanted(limits) => {
                    tracing::warn!(module.name = %module, controller = controller.name(), %why,
                        "the limit of {} for module {module} cannot be set: {why}", controller.what());
                }
                Err(why) => tracing::debug!(module.name = %module, controller = controller.name(), %why, "no such limit here"),
            }
        }
        // Numbers of earlier lives are not met again: their groups may still hold processes.
        let next = Arc::new(AtomicU64::new(crate::clock::boottime_ns()));
        Ok(Some(Group { version: *version, dir, joined, next }))
    }

    /// Where a controller's limits of this module are set.
    fn limited(&self, controller: Controller, base: &Path, dir: &Path, below: &[&str]) -> io::Result<Place> {
        if let Some(mounted) = self.mounts.controllers.get(controller.name()) {
            return Ok(Place { version: Version::V1, dir: make(mounted, below)? });
        }
        if !matches!(self.mounts.groups, Some((Version::V2, _))) {
            return Err(io::Error::other("its controller is not mounted"));
        }
        let mut at = base.to_owned();
        for part in below {
            let available = fs::read_to_string(at.join("cgroup.controllers"))?;
            if !available.split_whitespace().any(|c| c == controller.name()) {
                return Err(io::Error::other(format!("{} does not offer its controller", at.display())));
            }
            let order = format!("+{}", controller.name());
            write(&at.join("cgroup.subtree_control"), &order)
                .map_err(|e| io::Error::new(e.kind(), format!("{} cannot hand its controller on ({e})", at.display())))?;
            at = at.join(part);
        }
        Ok(Place { version: Version::V2, dir: dir.to_owned() })
    }
}

/// A directory in which a limit is set.
struct Place {
    version: Version,
    dir: PathBuf,
}

/// Eight digits that stand for this very directory, wherever it is mounted.
fn state_mark(state_dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut hasher = blake3::Hasher::new();
    hasher.update(fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned()).as_os_str().as_encoded_bytes());
    if let Ok(found) = fs::metadata(state_dir) {
        hasher.update(&found.dev().to_le_bytes());
        hasher.update(&found.ino().to_le_bytes());
    }
    hasher.finalize().to_hex().chars().take(8).collect()
}

fn make(base: &Path, below: &[&str]) -> io::Result<PathBuf> {
    let dir = below.iter().fold(base.to_owned(), |at, part| at.join(part));
    fs::create_dir_all(&dir).map_err(|e| io::Error::new(e.kind(), format!("the control group {} cannot be made: {e}", dir.display())))?;
    Ok(dir)
}

/// Writes to a control file, which must exist.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// The group of a module; clones are the same group.
#[derive(Debug, Clone)]
pub struct Group {
    version: Version,
    dir: PathBuf,
    /// Groups of other hierarchies, for limits.
    joined: Vec<PathBuf>,
    next: Arc<AtomicU64>,
}

impl Group {
    /// A group for one run of a script (`start_prim`), and the way into it.
    pub fn run(&self, script: &str) -> io::Result<Run> {
        self.sweep();
        let dir = make(&self.dir, &[&format!("{script}.{}", self.next.fetch_add(1, Ordering::Relaxed))])?;
        let mut ways = Vec::new();
        for place in std::iter::once(&dir).chain(&self.joined) {
            ways.push(OpenOptions::new().write(true).open(place.join(PROCS))?.into());
        }
        Ok(Run { group: Group { dir, joined: Vec::new(), ..self.clone() }, ways })
    }

    /// Version of its files.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Groups of runs of these scripts that still have processes.
    pub fn runs_of(&self, scripts: &[&str]) -> Vec<Group> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let is_one = |name: &OsStr| name.to_str().and_then(|n| n.split_once('.')).is_some_and(|(script, _)| scripts.contains(&script));
        let found = entries.flatten().filter(|e| is_one(&e.file_name()));
        found.map(|e| Group { dir: e.path(), joined: Vec::new(), ..self.clone() }).filter(Group::is_populated).collect()
    }

    /// Somebody is in it, or below it. What cannot be read counts as populated: it is no proof.
    pub fn is_populated(&self) -> bool {
        match self.version {
            Version::V2 => self.event("populated").unwrap_or_else(|e| !is_gone(&e)),
            Version::V1 => !self.processes().is_empty(),
        }
    }

    /// Numbers of the processes in it and below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        collect(&self.dir, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Who is in it, for a person to read.
    pub fn survivors(&self) -> Vec<Survivor> {
        self.processes().into_iter().filter_map(procfs::read).filter(|p| !p.is_zombie).map(|p| Survivor::of(&p)).collect()
    }

    /// Stops every process in it, now and later, until [`Group::thaw`]. See the head of this file about `frozen 0`.
    pub fn freeze(&self) -> io::Result<()> {
        self.set_frozen(true)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, is_frozen: bool) -> io::Result<()> {
        let (file, text) = match (self.version, is_frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
        };
        let path = self.dir.join(file);
        write(&path, text).map_err(|e| io::Error::new(e.kind(), format!("{} cannot be written: {e}", path.display())))
    }

    /// It was ordered to be frozen, whether or not every process has stopped by now.
    pub fn is_freezing(&self) -> bool {
        let (file, is_on) = match self.version {
            Version::V2 => ("cgroup.freeze", "1"),
            Version::V1 => ("freezer.self_freezing", "1"),
        };
        fs::read_to_string(self.dir.join(file)).is_ok_and(|text| text.trim() == is_on)
    }

    /// Every process in it has stopped.
    pub fn is_frozen(&self) -> bool {
        match self.version {
            Version::V2 => self.event("frozen").unwrap_or(false),
            Version::V1 => fs::read_to_string(self.dir.join("freezer.state")).is_ok_and(|text| text.trim() == "FROZEN"),
        }
    }

    fn event(&self, name: &str) -> io::Result<bool> {
        let text = fs::read_to_string(self.dir.join("cgroup.events"))?;
        Ok(text.lines().any(|line| line.strip_prefix(name).is_some_and(|value| value.trim() == "1")))
    }

    /// A group that exists, by its directory: for ending and freezing it.
    pub fn at(version: Version, dir: PathBuf) -> Group {
        Group { version, dir, joined: Vec::new(), next: Arc::default() }
    }

    /// SIGKILL to all of them, at one stroke where the kernel can; a group that is frozen is ended all the same.
    pub fn kill(&self) -> io::Result<()> {
        if self.version == Version::V2 {
            match write(&self.dir.join("cgroup.kill"), "1") {
                // Before Linux 5.14.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        // Frozen, nobody forks while the list is gone through.
        self.freeze()?;
        for process in self.processes().into_iter().filter_map(procfs::read) {
            procfs::signal(&process, libc::SIGKILL)?;
        }
        // In version 1 even SIGKILL waits for the thaw.
        self.thaw()
    }

    /// Removes groups of runs that have ended with everything they left.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            // Refused by the kernel while somebody is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }

    /// Removes the group of a module that is no more. One that has processes stays.
    pub fn remove(&self) {
        self.sweep();
        for dir in std::iter::once(&self.dir).chain(&self.joined) {
            // Then that of the agent, if this was its last module.
            let _ = fs::remove_dir(dir).and_then(|()| dir.parent().map_or(Ok(()), fs::remove_dir));
        }
    }
}

/// The group was removed, before or while it was read.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn collect(dir: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    // 0 = a process this one cannot see from its namespace, and so neither name nor end.
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        collect(&entry.path(), found);
    }
}

/// The group of one run, open for a process to go in.
#[derive(Debug)]
pub struct Run {
    group: Group,
    ways: Vec<OwnedFd>,
}

impl Run {
    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// A closure for the child between fork and exec: it puts *itself* into the groups, so that nothing it starts is
    /// ever outside. Only async-signal-safe calls. Valid while this value lives in the parent.
    pub fn way_in(&self) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
        let fds: Vec<i32> = self.ways.iter().map(AsRawFd::as_raw_fd).collect();
        move || {
            for (number, fd) in fds.iter().enumerate() {
                // SAFETY: a descriptor inherited from the parent, and a constant of one byte.
                let written = unsafe { libc::write(*fd, c"0".as_ptr().cast(), 1) };
                // Without its limits a script runs all the same; without its group nobody could end it.
                if written != 1 && number == 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        }
    }

    /// Moves the calling process in.
    pub fn enter(&self) -> io::Result<()> {
        (self.way_in())()
    }
}

#[cfg(test)]
mod tests;
