//! The agent's state directory: everything that must survive a reboot, and nothing else.
//!
//! | path | what |
//! | --- | --- |
//! | `lock` | held by the running agent |
//! | `cluster.json` | the cluster, the key of its heartbeats, the modules' numbers; 0600 |
//! | `modules/M/versions/G/` | a configuration: `deployment.json`, `conf/userconfig.xml`, `bin/*` |
//! | `modules/M/active` | link to the one in force |
//! | `modules/M/deployment.json` | link to the one in `active` |
//! | `modules/M/record.{a,b}` | the persistent record, see [`RecordFile`] |
//! | `modules/M/run.json` | whether it runs, who stopped it |
//! | `modules/M/log/` | output of its scripts |
//! | `events.jsonl` | see [`EventLog`] |
//!
//! All calls block on the disk: from async code they go through a blocking thread.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tsugi_core::cluster::ClusterDef;
use tsugi_core::ids::ModuleName;
use tsugi_core::wire::console::{Deployment, Secret};

mod events;
mod record;
mod switches;

pub use events::{EVENTS_KEPT_MAX, EventLog};
pub use record::{RECORD_BYTES_MAX, RecordFile, RecordLoad};
pub use switches::Switches;

use crate::disk::{PRIVATE, read_if_there, switch_link, sync_dir, write_atomically, write_new};

/// Others may pass through to what they are told of (scripts), but not list it.
const DIR_MODE: u32 = 0o711;
/// Scripts may run other programs under other users, which must be able to reach them.
const MODULE_DIR_MODE: u32 = 0o755;
/// Mode of scripts.
const SCRIPT_MODE: u32 = 0o755;
/// Mode of other files of a module.
const FILE_MODE: u32 = 0o644;
/// Configurations kept besides the one in force: a script of the last one may still be running.
const OLD_VERSIONS_KEPT: usize = 1;

/// Why the state directory cannot be used. Texts name the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An operation of the file system failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// Verb.
        what: &'static str,
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file makes no sense.
    #[error("{} is damaged: {detail}. Remedy: {remedy}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another agent uses the directory.
    #[error("another tsugi-agent uses {}. Remedy: stop it (`systemctl stop tsugi-agent`), or give this one another --state", path.display())]
    InUse {
        /// Directory.
        path: PathBuf,
    },
    /// A newer configuration is in force.
    #[error("module {module} already has configuration {active}, which is newer than {offered}")]
    Older {
        /// Module.
        module: ModuleName,
        /// In force.
        active: u64,
        /// Offered.
        offered: u64,
    },
    /// A script's name would leave the module's directory.
    #[error("`{name}` cannot be the name of a script: a file name without `/`, not beginning with `.`, of at most 255 bytes")]
    ScriptName {
        /// The name.
        name: String,
    },
    /// The module is not on this node.
    #[error("module {module} is not configured on this node")]
    NoModule {
        /// Module.
        module: ModuleName,
    },
}

impl StoreError {
    pub(crate) fn at(what: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { what, path: path.to_owned(), source }
    }
}

/// Shorthand for "this operation on this path".
trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, StoreError>;
}
impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|e| StoreError::at(what, path, e))
    }
}

/// What the console said of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// Grows with each change.
    pub generation: u64,
    /// Nodes and networks.
    pub cluster: ClusterDef,
    /// Key of the heartbeats.
    pub heartbeat_key: Secret,
    /// Number of each module, which fixes its ports.
    pub module_ids: BTreeMap<ModuleName, u16>,
}

/// Whether a module runs, as it was last stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunState {
    /// It was started and not stopped since: with `boot="auto"` it starts again after a reboot.
    pub was_running: bool,
    /// Who stopped it last; absent before the first stop.
    pub last_stop: Option<LastStop>,
}

/// Who stopped a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastStop {
    /// User name, `root`, or a checker.
    pub by: String,
    /// By this node's wall clock. For people only.
    pub at_unix_ms: u64,
}

/// The state directory, open. Clones share it.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    events: EventLog,
    /// Keeps other agents out as long as it is open.
    _lock: Arc<File>,
}

impl Store {
    /// Opens or creates the state directory and keeps other agents out of it.
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        make_dir(state_dir, DIR_MODE)?;
        let modules = state_dir.join("modules");
        make_dir(&modules, MODULE_DIR_MODE)?;
        let lock_path = state_dir.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(&lock_path).at("open", &lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: state_dir.to_owned() }),
            Err(std::fs::TryLockError::Error(e)) => return Err(StoreError::at("lock", &lock_path, e)),
        }
        let store = Store { root: state_dir.to_owned(), events: EventLog::open(state_dir)?, _lock: Arc::new(lock) };
        // A module that was removed is not looked at again in this life; the next one tries again.
        if let Err(error) = store.finish_removals() {
            tracing::warn!(%error, "what is left of a removed module stays on the disk");
        }
        Ok(store)
    }

    /// The event log.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Directory of a module.
    pub fn module_dir(&self, module: &ModuleName) -> PathBuf {
        self.root.join("modules").join(module.as_str())
    }
    /// The configuration in force: `conf/` and `bin/` are in it.
    pub fn active_dir(&self, module: &ModuleName) -> PathBuf {
        self.module_dir(module).join("active")
    }
    /// Output of the module's scripts.
    pub fn log_dir(&self, module: &ModuleName) -> PathBuf {
        self.module_dir(module).join("log")
    }

    /// The cluster as last stored; `None` before the console sent it.
    pub fn cluster(&self) -> Result<Option<ClusterFile>, StoreError> {
        read_json(&self.root.join("cluster.json"), "remove it; the console sends it again")
    }
    /// Stores the cluster.
    pub fn put_cluster(&self, cluster: &ClusterFile) -> Result<(), StoreError> {
        write_json(&self.root.join("cluster.json"), cluster, PRIVATE)
    }

    /// Every configuration in force. One that cannot be read is logged and left out: the agent does not report it
    /// to the console, which sends it again.
    pub fn deployments(&self) -> Result<Vec<Deployment>, StoreError> {
        let dir = self.root.join("modules");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).at("read", &dir)? {
            let entry = entry.at("read", &dir)?;
            let Some(module) = entry.file_name().to_str().and_then(|n| ModuleName::new(n).ok()) else { continue };
            match self.deployment(&module) {
                Ok(Some(deployment)) => found.push(deployment),
                // Created, but no configuration was ever in force.
                Ok(None) => {}
                Err(error) => tracing::error!(module.name = %module, %error, "a module cannot be taken up"),
            }
        }
        found.sort_by(|a, b| a.module.cmp(&b.module));
        Ok(found)
    }

    /// The configuration in force of one module.
    pub fn deployment(&self, module: &ModuleName) -> Result<Option<Deployment>, StoreError> {
        read_json(&self.active_dir(module).join("deployment.json"), "apply the module's configuration again from the console")
    }

    /// Puts a configuration in force, all or nothing: whatever happens in between, `active` is the old or the new
    /// one, whole. The same one again changes nothing; an older one is refused.
    pub fn put_deployment(&self, deployment: &Deployment) -> Result<(), StoreError> {
        if let Some(name) = deployment.scripts.keys().find(|n| !is_script_name(n)) {
            return Err(StoreError::ScriptName { name: name.clone() });
        }
        // A damaged one is replaced.
        if let Ok(Some(active)) = self.deployment(&deployment.module) {
            if active == *deployment {
                return Ok(());
            }
            if active.generation > deployment.generation {
                let (active, offered) = (active.generation, deployment.generation);
                return Err(StoreError::Older { module: deployment.module.clone(), active, offered });
            }
        }
        let dir = self.module_dir(&deployment.module);
        let versions = dir.join("versions");
        for d in [&dir, &versions, &self.log_dir(&deployment.module)] {
            make_dir(d, MODULE_DIR_MODE)?;
        }
        let version = self.new_version_dir(&dir, deployment.generation)?;
        write_version(&version, deployment)?;
        sync_dir(&versions).at("sync", &versions)?;
        let Some(name) = version.file_name() else { return Err(StoreError::at("name", &version, io::ErrorKind::InvalidInput.into())) };
        let active = dir.join("active");
        switch_link(&active, &Path::new("versions").join(name)).at("switch", &active)?;
        let link = dir.join("deployment.json");
        if std::fs::read_link(&link).is_err() {
            switch_link(&link, Path::new("active/deployment.json")).at("link", &link)?;
        }
        self.drop_old_versions(&dir);
        Ok(())
    }

    /// `versions/<generation>`; with a suffix if that one is in force with other contents.
    fn new_version_dir(&self, dir: &Path, generation: u64) -> Result<PathBuf, StoreError> {
        let active = std::fs::read_link(dir.join("active")).ok();
        let mut name = generation.to_string();
        if active.as_deref() == Some(&Path::new("versions").join(&name)) {
            name.push_str("-again");
        }
        let version = dir.join("versions").join(name);
        // Left by a crash before the switch.
        remove_tree(&version)?;
        Ok(version)
    }

    fn drop_old_versions(&self, dir: &Path) {
        let active = std::fs::read_link(dir.join("active")).ok().and_then(|p| p.file_name().map(|n| n.to_owned()));
        let Ok(entries) = std::fs::read_dir(dir.join("versions")) else { return };
        let mut old: Vec<_> = entries.flatten().filter(|e| Some(e.file_name()) != active).collect();
        old.sort_by_key(|e| std::cmp::Reverse(e.metadata().and_then(|m| m.modified()).ok()));
        for entry in old.into_iter().skip(OLD_VERSIONS_KEPT) {
            if let Err(error) = remove_tree(&entry.path()) {
                tracing::warn!(%error, "an old configuration stays on the disk");
            }
        }
    }

    /// Forgets a module with everything known of it, its record too. It is gone from the first step on.
    pub fn remove_module(&self, module: &ModuleName) -> Result<(), StoreError> {
        let modules = self.root.join("modules");
        let dir = self.module_dir(module);
        // No module's name begins with a dot.
        let doomed = modules.join(format!(".removed-{module}"));
        remove_tree(&doomed)?;
        match std::fs::rename(&dir, &doomed) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.at("remove", &dir)?,
        }
        sync_dir(&modules).at("sync", &modules)?;
        remove_tree(&doomed)
    }

    fn finish_removals(&self) -> Result<(), StoreError> {
        let modules = self.root.join("modules");
        for entry in std::fs::read_dir(&modules).at("read", &modules)? {
            let entry = entry.at("read", &modules)?;
            if entry.file_name().to_string_lossy().starts_with(".removed-") {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The module's record: a handle for saving, and what was saved last. One that cannot be read counts as damaged,
    /// and nothing can be saved over it in this life of the agent: the module is shown, with the reason, and not served.
    pub fn record(&self, module: &ModuleName) -> Result<(RecordFile, RecordLoad), StoreError> {
        let dir = self.module_dir(module);
        if !dir.is_dir() {
            return Err(StoreError::NoModule { module: module.clone() });
        }
        Ok(RecordFile::open(&dir).unwrap_or_else(|error| RecordFile::unreadable(&dir, &error)))
    }

    /// Whether the module ran; the default if nothing was stored.
    pub fn run_state(&self, module: &ModuleName) -> Result<RunState, StoreError> {
        Ok(read_json(&self.module_dir(module).join("run.json"), "remove it; the module is then taken as not running")?.unwrap_or_default())
    }
    /// Stores whether the module runs.
    pub fn put_run_state(&self, module: &ModuleName, run: &RunState) -> Result<(), StoreError> {
        write_json(&self.module_dir(module).join("run.json"), run, FILE_MODE)
    }
}

fn write_version(version: &Path, deployment: &Deployment) -> Result<(), StoreError> {
    let (conf, bin) = (version.join("conf"), version.join("bin"));
    for dir in [version, &conf, &bin] {
        DirBuilder::new().mode(MODULE_DIR_MODE).create(dir).at("create", dir)?;
    }
    let put = |path: PathBuf, bytes: &[u8], mode| {
        write_new(&path, bytes, mode).at("write", &path)?;
        // The mode of creation is cut by the umask.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, permissions).at("set the mode of", &path)
    };
    put(conf.join("userconfig.xml"), deployment.userconfig.as_bytes(), FILE_MODE)?;
    for (name, text) in &deployment.scripts {
        put(bin.join(name), text.as_bytes(), SCRIPT_MODE)?;
    }
    let json = serde_json::to_vec_pretty(deployment).map_err(io::Error::other).at("encode", version)?;
    // It may hold passwords in variables of its scripts.
    put(version.join("deployment.json"), &json, PRIVATE)?;
    for dir in [&conf, &bin, version] {
        sync_dir(dir).at("sync", dir)?;
    }
    Ok(())
}

fn is_script_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), StoreError> {
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => match dir.parent() {
            Some(parent) => sync_dir(parent).at("sync", parent),
            None => Ok(()),
        },
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => DirBuilder::new().mode(mode).recursive(true).create(dir).at("create", dir),
        Err(e) => Err(StoreError::at("create", dir, e)),
    }
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path, remedy: &'static str) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read_if_there(path).at("read", path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| StoreError::Damaged { path: path.to_owned(), detail: e.to_string(), remedy })
}

fn write_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other).at("encode", path)?;
    write_atomically(path, &bytes, mode).at("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tsugi_core::ids::{ClusterName, NodeName};

    fn name(text: &str) -> ModuleName {
        ModuleName::new(text).unwrap()
    }
    fn deployment(generation: u64, script: &str) -> Deployment {
        Deployment {
            module: name("db"),
            module_id: 1,
            generation,
            nodes: vec![NodeName::new("n1").unwrap(), NodeName::new("n2").unwrap()],
            userconfig: format!("<safe><!-- {generation} --></safe>"),
            scripts: BTreeMap::from([("start_prim".to_owned(), script.to_owned())]),
        }
    }
    fn open() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_configuration_is_read_back_after_a_restart_and_its_scripts_can_run() {
        let (dir, store) = open();
        store.put_deployment(&deployment(1, "#!/bin/sh\nexit 7\n")).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.deployments().unwrap(), [deployment(1, "#!/bin/sh\nexit 7\n")]);
        let bin = store.active_dir(&name("db")).join("bin");
        let status = std::process::Command::new("./start_prim").current_dir(&bin).status().unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(std::fs::metadata(bin.join("start_prim")).unwrap().permissions().mode() & 0o777, 0o755);
        let through_link = std::fs::read(dir.path().join("modules/db/deployment.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Deployment>(&through_link).unwrap(), deployment(1, "#!/bin/sh\nexit 7\n"));
    }

    #[test]
    fn a_crash_before_the_switch_leaves_the_old_configuration() {
        let (dir, store) = open();
        store.put_deployment(&deployment(1, "old")).unwrap();
        let half = dir.path().join("modules/db/versions/2");
        std::fs::create_dir_all(half.join("bin")).unwrap();
        std::fs::write(half.join("bin/start_prim"), "ha").unwrap();
        std::os::unix::fs::symlink("versions/2", dir.path().join("modules/db/.active.new")).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.deployments().unwrap(), [deployment(1, "old")]);
        store.put_deployment(&deployment(2, "new")).unwrap();
        assert_eq!(store.deployments().unwrap(), [deployment(2, "new")]);
    }

    #[test]
    fn older_configurations_are_refused_and_repeated_ones_change_nothing() {
        let (dir, store) = open();
        store.put_deployment(&deployment(5, "a")).unwrap();
        assert!(matches!(store.put_deployment(&deployment(4, "b")), Err(StoreError::Older { active: 5, offered: 4, .. })));
        store.put_deployment(&deployment(5, "a")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("modules/db/versions")).unwrap().count(), 1);
        store.put_deployment(&deployment(5, "corrected")).unwrap();
        assert_eq!(store.deployments().unwrap(), [deployment(5, "corrected")]);
        store.put_deployment(&deployment(5, "again")).unwrap();
        assert_eq!(store.deployments().unwrap(), [deployment(5, "again")]);
    }

    #[test]
    fn old_configurations_do_not_pile_up() {
        let (dir, store) = open();
        for generation in 1..=6 {
            store.put_deployment(&deployment(generation, "x")).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path().join("modules/db/versions")).unwrap().count(), 1 + OLD_VERSIONS_KEPT);
    }

    #[test]
    fn script_names_cannot_leave_the_directory() {
        let (dir, store) = open();
        for bad in ["../x", "a/b", "", ".", "..", ".hidden", "a\0b"] {
            let mut d = deployment(1, "x");
            d.scripts.insert(bad.to_owned(), "evil".to_owned());
            assert!(matches!(store.put_deployment(&d), Err(StoreError::ScriptName { .. })), "{bad:?}");
        }
        assert!(!dir.path().join("modules/db").exists());
    }

    #[test]
    fn a_damaged_configuration_hides_no_other_and_is_replaced_by_the_next() {
        let (dir, store) = open();
        store.put_deployment(&deployment(3, "x")).unwrap();
        let other = Deployment { module: name("web"), ..deployment(1, "y") };
        store.put_deployment(&other).unwrap();
        std::fs::write(dir.path().join("modules/db/versions/3/deployment.json"), "{").unwrap();
        assert_eq!(store.deployments().unwrap(), std::slice::from_ref(&other));
        store.put_deployment(&deployment(3, "x")).unwrap();
        assert_eq!(store.deployments().unwrap(), [deployment(3, "x"), other]);
    }

    #[test]
    fn a_removed_module_is_gone_with_its_record_also_when_the_removal_was_cut_short() {
        let (dir, store) = open();
        store.put_deployment(&deployment(1, "x")).unwrap();
        store.record(&name("db")).unwrap().0.save(b"r").unwrap();
        store.remove_module(&name("db")).unwrap();
        store.remove_module(&name("db")).unwrap();
        assert!(store.deployments().unwrap().is_empty());
        assert!(matches!(store.record(&name("db")), Err(StoreError::NoModule { .. })));
        store.put_deployment(&deployment(1, "x")).unwrap();
        assert_eq!(store.record(&name("db")).unwrap().1, RecordLoad::Fresh);
        std::fs::rename(dir.path().join("modules/db"), dir.path().join("modules/.removed-db")).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert!(store.deployments().unwrap().is_empty());
        assert!(!dir.path().join("modules/.removed-db").exists());
    }

    #[test]
    fn cluster_and_run_state_are_kept_and_the_key_is_private() {
        let (dir, store) = open();
        assert_eq!(store.cluster().unwrap(), None);
        let cluster = ClusterFile {
            generation: 4,
            cluster: ClusterDef { name: ClusterName::new("tokyo").unwrap(), lans: vec![], arbiters: vec![] },
            heartbeat_key: Secret([7; 32]),
            module_ids: BTreeMap::from([(name("db"), 1)]),
        };
        store.put_cluster(&cluster).unwrap();
        store.put_deployment(&deployment(1, "x")).unwrap();
        assert_eq!(store.run_state(&name("db")).unwrap(), RunState::default());
        let run = RunState { was_running: true, last_stop: Some(LastStop { by: "root".into(), at_unix_ms: 5 }) };
        store.put_run_state(&name("db"), &run).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.cluster().unwrap(), Some(cluster));
        assert_eq!(store.run_state(&name("db")).unwrap(), run);
        let mode = std::fs::metadata(dir.path().join("cluster.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn two_agents_cannot_share_a_state_directory() {
        let (dir, _store) = open();
        let error = Store::open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }
}
