//! What the agent keeps of a running module for its own next life: `kept-MODULE.json` in the run directory.
//!
//! The file is there only while the module is at rest. It is taken away *before* anything is done that is not undone by
//! being done again, and written anew when the module has come to rest. So whoever finds it may go on from there; whoever
//! does not begins anew from the record. It says nothing that matters after a restart of the machine: what it speaks of
//! (data process, guard) is gone then.

use crate::disk::PRIVATE;
use crate::procfs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tsugi_core::command::Refusal;
use tsugi_core::engine::{self, Timer};
use tsugi_core::ids::{LifeId, ModuleName};

/// Changes with anything whose meaning changes: an agent of another format begins anew.
const FORMAT: u32 = 1;

/// Where it is.
pub fn path(run_dir: &Path, module: &ModuleName) -> PathBuf {
    run_dir.join(format!("kept-{module}.json"))
}

/// Of this start of the machine.
fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()).clone()
}

/// A process, named for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    /// Number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl ProcessName {
    /// It runs.
    pub fn is_there(self) -> bool {
        procfs::read(self.pid).is_some_and(|p| p.start == self.start && !p.is_zombie)
    }
}

/// A module at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Start of the machine it is of.
    pub boot: String,
    /// Version of the configuration in force.
    pub generation: u64,
    /// The life of the agent, as the other node knows it: its promises go on.
    pub life: LifeId,
    /// Its engine.
    pub engine: engine::Kept,
    /// Running timers and when they run out, in nanoseconds of the boot clock. Those that begin anew are left out.
    pub timers: Vec<(Timer, u64)>,
    /// Its data process; absent = nothing is replicated.
    pub data: Option<ProcessName>,
    /// Messages of the data process that are taken into account.
    pub heard: u64,
    /// How long promises were kept (`P_B`), in milliseconds: what was promised so holds for that time.
    pub keep_ms: u64,
    /// Who has looked after the module since.
    pub guard: ProcessName,
    /// End of the right to serve where no data process knows it; absent = none.
    pub deadline_ns: Option<u64>,
    /// Orders answered lately, by their ids: a repeated one is not carried out again.
    pub orders: Vec<(String, Option<Refusal>)>,
    /// Classes of processes that were switched.
    pub classes: BTreeMap<String, bool>,
    /// For people.
    pub since_unix_ms: u64,
    /// For people.
    pub maintenance_until_unix_ms: Option<u64>,
}

impl Kept {
    /// With nothing but what there is in every module.
    pub fn new(generation: u64, life: LifeId, engine: engine::Kept, guard: ProcessName, keep: Duration) -> Kept {
        Kept {
            format: FORMAT,
            boot: boot_id(),
            generation,
            life,
            engine,
            timers: Vec::new(),
            data: None,
            heard: 0,
            keep_ms: u64::try_from(keep.as_millis()).unwrap_or(u64::MAX),
            guard,
            deadline_ns: None,
            orders: Vec::new(),
            classes: BTreeMap::new(),
            since_unix_ms: 0,
            maintenance_until_unix_ms: None,
        }
    }

    /// Reads what a former life has kept; `None`: nothing. `Err`: nothing that can be used, and why.
    pub fn load(run_dir: &Path, module: &ModuleName) -> Result<Option<Kept>, String> {
        let text = match std::fs::read_to_string(path(run_dir, module)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let kept: Kept = serde_json::from_str(&text).map_err(|e| format!("it is of another version of the agent ({e})"))?;
        if kept.format != FORMAT {
            return Err(format!("it is of another version of the agent (format {})", kept.format));
        }
        if kept.boot != boot_id() {
            return Err("the machine was started again since".to_owned());
        }
        Ok(Some(kept))
    }
}

/// Takes away what a former life has kept, which is not used.
pub fn remove(run_dir: &Path, module: &ModuleName) -> io::Result<()> {
    take_away(&path(run_dir, module))
}

fn take_away(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Keeps one module up to date. Dropped, it takes the file away: a loop that has ended, or failed, is at no rest.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    /// What is in the file; absent = there is none.
    written: Option<Kept>,
    /// It could not be taken away: whoever carries on does not rely on it.
    is_stuck: bool,
}

impl Keeper {
    /// Of a module of which nothing is kept, or what a former life kept and this one goes on with.
    pub fn new(run_dir: &Path, module: &ModuleName, written: Option<Kept>) -> Keeper {
        Keeper { path: path(run_dir, module), written, is_stuck: false }
    }

    /// What is kept is void from here. `Err`: it could not be taken away, and what would make it wrong must not be done.
    pub fn void(&mut self) -> io::Result<()> {
        if self.written.is_none() && !self.is_stuck {
            return Ok(());
        }
        self.is_stuck = true;
        take_away(&self.path)?;
        (self.written, self.is_stuck) = (None, false);
        Ok(())
    }

    /// The module is at rest like this; absent = it is not.
    pub fn keep(&mut self, now: Option<Kept>) {
        let Some(now) = now else {
            if let Err(error) = self.void() {
                tracing::error!(path = %self.path.display(), %error, "what is kept of a module cannot be taken away");
            }
            return;
        };
        if self.written.as_ref() == Some(&now) || self.is_stuck {
            return;
        }
        match self.write(&now) {
            Ok(()) => self.written = Some(now),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "nothing can be kept of a module: it begins anew should the agent end");
                let _ = self.void();
            }
        }
    }

    /// One file or the other, never half of one. The disk need not have it: it is for this boot.
    fn write(&mut self, now: &Kept) -> io::Result<()> {
        let temp = self.path.with_extension("new");
        let text = serde_json::to_string(now).map_err(io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&temp)?;
        file.write_all(text.as_bytes())?;
        // From here there is one, whatever comes.
        self.written = Some(now.clone());
        std::fs::rename(&temp, &self.path)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.void();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::command::{Command, Verb};
    use tsugi_core::engine::{Effect, Input, Mirror, MirrorConfig, Outcome, Saved};
    use tsugi_core::ids::{Lsn, NodeName};
    use tsugi_core::replica::ReplicaAnswer;
    use tsugi_core::wire::arbiter::{ArbiterAnswer, Record};

    fn module() -> ModuleName {
        ModuleName::new("m").unwrap()
    }

    /// The engine of a node that serves alone.
    fn alone() -> engine::Kept {
        let (me, peer) = (NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        let mut engine = Mirror::new(MirrorConfig::new(me.clone(), peer), Saved::default(), 7);
        let mut record = Record::empty(LifeId(1));
        let order =
            Command { id: String::new(), verb: Verb::Prim { accept_loss: false }, by: "root".into(), reason: None, is_automatic: false };
        let mut inputs = vec![Input::Boot, Input::Command(order)];
        while !inputs.is_empty() {
            let mut effects = Vec::new();
            engine.step(inputs.remove(0), &mut effects);
            inputs.extend(effects.into_iter().filter_map(|effect| {
                Some(match effect {
                    Effect::Run(job, _) => Input::Done(job, Outcome::Script { code: Some(0), millis: 0 }),
                    Effect::Vip(job, _) => Input::Done(job, Outcome::Vip(Ok(()))),
                    Effect::Kill(job) => Input::Done(job, Outcome::Killed(Ok(()))),
                    Effect::Replica(job, _) => Input::Done(job, Outcome::Replica(ReplicaAnswer::Done { last: Lsn(0) })),
                    Effect::Ask(job, request) => {
                        let changed = record.apply(&me, &request);
                        let is_accepted = changed.is_some();
                        record = changed.unwrap_or_else(|| record.clone());
                        Input::Done(job, Outcome::Arbiter(Some(ArbiterAnswer { is_accepted, record: record.clone() })))
                    }
                    _ => return None,
                })
            }));
        }
        engine.kept().expect("at rest")
    }

    fn kept(generation: u64) -> Kept {
        let timers = vec![(Timer::LoopExpire(2), 9)];
        Kept { timers, ..Kept::new(generation, LifeId(3), alone(), ProcessName { pid: 1, start: 2 }, Duration::from_secs(5)) }
    }

    #[test]
    fn what_is_kept_is_found_again_and_void_before_anything_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(dir.path(), &module(), None);
        assert_eq!(Kept::load(dir.path(), &module()), Ok(None));
        keeper.keep(Some(kept(1)));
        assert_eq!(Kept::load(dir.path(), &module()), Ok(Some(kept(1))));
        keeper.keep(Some(kept(2)));
        assert_eq!(Kept::load(dir.path(), &module()), Ok(Some(kept(2))));
        keeper.void().unwrap();
        assert_eq!(Kept::load(dir.path(), &module()), Ok(None));
        keeper.keep(Some(kept(3)));
        // A loop that has failed, or ended.
        drop(keeper);
        assert_eq!(Kept::load(dir.path(), &module()), Ok(None));
        // What a former life kept and this one goes on with is void like the rest.
        let mut first = Keeper::new(dir.path(), &module(), None);
        first.keep(Some(kept(4)));
        std::mem::forget(first);
        Keeper::new(dir.path(), &module(), Some(kept(4))).void().unwrap();
        assert_eq!(Kept::load(dir.path(), &module()), Ok(None));
    }

    #[test]
    fn what_another_version_kept_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), &module());
        for text in ["{}".to_owned(), serde_json::to_string(&Kept { format: FORMAT + 1, ..kept(1) }).unwrap()] {
            std::fs::write(&file, text).unwrap();
            let why = Kept::load(dir.path(), &module()).unwrap_err();
            assert!(why.contains("another version"), "{why}");
        }
        remove(dir.path(), &module()).unwrap();
        remove(dir.path(), &module()).unwrap();
        assert!(!file.exists());
    }
}
