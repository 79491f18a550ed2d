//! The witness's store: one small file for each module, on disk before the answer leaves.
//!
//! | path below the state directory | what |
//! | --- | --- |
//! | `witness/lock` | held by the running witness |
//! | `witness/instance` | life of this store, made with it |
//! | `witness/modules/M.json` | record, pair and last change of a module; replaced as a whole |
//! | `witness/audit.jsonl`, `audit.1.jsonl` | a line for each change |
//!
//! There is no journal and nothing to recover: a file is the old or the new one. **None of it belongs in a backup**: an
//! old record brought back would bring a dead in-sync set back to life.

use crate::disk::{PRIVATE, sync_dir, write_atomically, write_new};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tsugi_core::ids::{Epoch, LifeId, ModuleName, NodeName};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};
use tsugi_core::wire::kept::{Kept, Stranger};

/// Modules of one cluster with room; bounds what a node with a certificate can make this machine store.
const MODULES_MAX: usize = 1000;
/// `audit.jsonl` is begun anew at this size; the one before is kept.
const AUDIT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Largest file of a module that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be opened.
    #[error("cannot use {}: {detail}", path.display())]
    Unusable {
        /// File or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// The sender is none of the module's nodes.
    #[error(
        "module {module} belongs to {}: another node may not change its record. Remedy, if the module has moved: stop the witness and run \
         `tsugi-agent witness --forget {module}`",
        names(pair)
    )]
    Stranger {
        /// Module.
        module: ModuleName,
        /// Its nodes.
        pair: Vec<NodeName>,
    },
    /// No room for another module.
    #[error("this witness keeps {MODULES_MAX} modules already. Remedy: forget those that are gone (`tsugi-agent witness --forget MODULE`)")]
    TooMany,
    /// The module's file makes no sense.
    #[error(
        "the record of module {module} on this witness is damaged. Remedy: stop the witness and run `tsugi-agent witness --forget {module}`; a person then decides"
    )]
    Damaged {
        /// Module.
        module: ModuleName,
    },
    /// Nothing was changed.
    #[error("the record could not be written: {0}")]
    NotWritten(io::Error),
    /// The new record may or may not survive a loss of power: nothing may be answered any more.
    #[error("the record was written, but not surely to the disk: {0}")]
    Unsure(io::Error),
}

fn names(pair: &[NodeName]) -> String {
    pair.iter().map(NodeName::to_string).collect::<Vec<_>>().join(" and ")
}

/// A module's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFile {
    /// Record and pair.
    #[serde(flatten)]
    pub kept: Kept,
    /// How it came to be.
    pub change: Change,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// By this machine's wall clock. For people only.
    pub at_unix_ms: u64,
    /// Module.
    pub module: ModuleName,
    /// The node that asked, or `root` on this machine.
    pub by: String,
    /// What it asked; absent = the record was forgotten.
    pub request: Option<ArbiterRequest>,
    /// The record from then on.
    pub record: Option<Record>,
}

/// The open store.
pub struct WitnessStore {
    dir: PathBuf,
    instance: LifeId,
    /// One change at a time: they take milliseconds and are rare.
    modules: Mutex<BTreeMap<ModuleName, Option<ModuleFile>>>,
    /// Keeps other witnesses out as long as it is open.
    _lock: File,
}

impl WitnessStore {
    /// Opens or makes the store in `state_dir`.
    pub fn open(state_dir: &Path) -> Result<WitnessStore, StoreError> {
        let dir = state_dir.join("witness");
        let failed = |path: &Path, e: &dyn std::fmt::Display| StoreError::Unusable { path: path.to_owned(), detail: e.to_string() };
        let modules_dir = dir.join("modules");
        DirBuilder::new().recursive(true).mode(0o700).create(&modules_dir).map_err(|e| failed(&modules_dir, &e))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(&lock_path)
            .map_err(|e| failed(&lock_path, &e))?;
        lock.try_lock().map_err(|e| match e {
            std::fs::TryLockError::WouldBlock => {
                failed(&dir, &"another witness runs on it. Remedy: stop it (`systemctl stop tsugi-witness`)")
            }
            std::fs::TryLockError::Error(e) => failed(&lock_path, &e),
        })?;
        let files = module_files(&modules_dir).map_err(|e| failed(&modules_dir, &e))?;
        let instance = instance(&dir, files.is_empty())?;
        let mut modules = BTreeMap::new();
        for (module, path) in files {
            let file = read_module(&path, &module, instance);
            if let Err(why) = &file {
                tracing::error!(module.name = %module, %why, "{} cannot be used: {why}", path.display());
            }
            modules.insert(module, file.ok());
        }
        let store = WitnessStore { dir, instance, modules: Mutex::new(modules), _lock: lock };
        store.complete_audit().map_err(|e| failed(&store.dir.join("audit.jsonl"), &e))?;
        Ok(store)
    }

    /// Life of this store.
    pub fn instance(&self) -> LifeId {
        self.instance
    }

    /// Modules and their records, those that can be read.
    pub fn modules(&self) -> Vec<ModuleFile> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    /// Decides `request` of `sender`. A change is on disk when this returns. Blocks.
    pub fn decide(&self, module: &ModuleName, sender: &NodeName, request: &ArbiterRequest) -> Result<ArbiterAnswer, StoreError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match modules.get(module) {
            Some(None) => return Err(StoreError::Damaged { module: module.clone() }),
            Some(Some(file)) => file.kept.clone(),
            None => Kept::new(self.instance),
        };
        let (answer, next) = kept
            .decide(sender, request)
            .map_err(|Stranger { pair }| StoreError::Stranger { module: module.clone(), pair: pair.into_iter().collect() })?;
        let Some(kept) = next else { return Ok(answer) };
        if !modules.contains_key(module) && modules.len() >= MODULES_MAX {
            return Err(StoreError::TooMany);
        }
        let change = Change {
            at_unix_ms: unix_ms(),
            module: module.clone(),
            by: sender.to_string(),
            request: Some(request.clone()),
            record: Some(kept.record.clone()),
        };
        let file = ModuleFile { kept, change };
        self.write(module, &file)?;
        // It counts from here on; a line that cannot be written now is written at the next start.
        if let Err(error) = self.audit(&file.change) {
            tracing::error!(module.name = %module, %error, "a change could not be listed in {}", self.dir.join("audit.jsonl").display());
        }
        modules.insert(module.clone(), Some(file));
        Ok(answer)
    }

    /// Forgets a module, so that one of that name begins anew. `false`: there was none.
    pub fn forget(&self, module: &ModuleName, by: &str) -> Result<bool, StoreError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if !modules.contains_key(module) {
            return Ok(false);
        }
        std::fs::remove_file(self.file_of(module)).map_err(StoreError::NotWritten)?;
        sync_dir(&self.dir.join("modules")).map_err(StoreError::Unsure)?;
        modules.remove(module);
        let change = Change { at_unix_ms: unix_ms(), module: module.clone(), by: by.to_owned(), request: None, record: None };
        self.audit(&change).map_err(StoreError::NotWritten)?;
        Ok(true)
    }

    fn file_of(&self, module: &ModuleName) -> PathBuf {
        self.dir.join("modules").join(format!("{module}.json"))
    }

    /// Old or new, never between; tells apart what a failure leaves.
    fn write(&self, module: &ModuleName, file: &ModuleFile) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(file).map_err(|e| StoreError::NotWritten(io::Error::other(e)))?;
        let path = self.file_of(module);
        let temp = self.dir.join("modules").join(format!(".{module}.new"));
        match std::fs::remove_file(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::NotWritten(e)),
            _ => {}
        }
        write_new(&temp, &bytes, PRIVATE).map_err(StoreError::NotWritten)?;
        std::fs::rename(&temp, &path).map_err(StoreError::NotWritten)?;
        sync_dir(&self.dir.join("modules")).map_err(StoreError::Unsure)
    }

    fn audit(&self, change: &Change) -> io::Result<()> {
        let path = self.dir.join("audit.jsonl");
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > AUDIT_BYTES_MAX) {
            std::fs::rename(&path, self.dir.join("audit.1.jsonl"))?;
        }
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(PRIVATE).open(&path)?;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Lines that are missing because the witness ended between the record and its line.
    fn complete_audit(&self) -> io::Result<()> {
        let mut listed: BTreeMap<ModuleName, Epoch> = BTreeMap::new();
        for name in ["audit.1.jsonl", "audit.jsonl"] {
            let text = match std::fs::read(self.dir.join(name)) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            // A line cut off by a loss of power is no line.
            for change in text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Change>(line).ok()) {
                let version = change.record.map_or(Epoch(0), |r| r.version);
                listed.insert(change.module, version);
            }
            if name == "audit.jsonl" && text.last().is_some_and(|b| *b != b'\n') {
                OpenOptions::new().append(true).open(self.dir.join(name))?.write_all(b"\n")?;
            }
        }
        for file in self.modules() {
            if listed.get(&file.change.module).is_none_or(|v| *v < file.kept.record.version) {
                self.audit(&file.change)?;
            }
        }
        Ok(())
    }
}

/// Reads the life of the store, or makes one in a new store.
fn instance(dir: &Path, is_new: bool) -> Result<LifeId, StoreError> {
    let path = dir.join("instance");
    let failed = |detail: String| StoreError::Unusable { path: path.clone(), detail };
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_value(serde_json::Value::String(text.trim().to_owned())).map_err(|e| {
            failed(format!("it holds no id ({e}). Remedy: move {} away; a person then decides for each module", dir.display()))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_new => {
            let minted = LifeId(rand::random());
            write_atomically(&path, format!("{minted}\n").as_bytes(), PRIVATE).map_err(|e| failed(e.to_string()))?;
            Ok(minted)
        }
        // Records without their store's life are half of a copy.
        Err(e) => Err(failed(format!("{e}. Remedy: move {} away; a person then decides for each module", dir.display()))),
    }
}

fn module_files(dir: &Path) -> io::Result<Vec<(ModuleName, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json"));
        if let Some(module) = name.and_then(|n| ModuleName::new(n).ok()) {
            found.push((module, path));
        }
    }
    found.sort();
    Ok(found)
}

fn read_module(path: &Path, module: &ModuleName, instance: LifeId) -> Result<ModuleFile, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes are too many"));
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let file: ModuleFile = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if file.kept.record.instance != instance || file.change.module != *module {
        return Err("it is of another store or module".to_owned());
    }
    Ok(file)
}

fn unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::Gen;

    fn names() -> (ModuleName, NodeName, NodeName, NodeName) {
        let node = |n: &str| NodeName::new(n).unwrap();
        (ModuleName::new("files").unwrap(), node("n1"), node("n2"), node("n3"))
    }
    fn claim(expected: u64, history: u128) -> ArbiterRequest {
        ArbiterRequest::Claim { store: LifeId(0), expected: Epoch(expected), gen_id: Gen(history) }
    }
    fn grow(expected: u64, with: &NodeName) -> ArbiterRequest {
        ArbiterRequest::Grow { store: LifeId(0), expected: Epoch(expected), with: with.clone() }
    }
    fn force(expected: u64) -> ArbiterRequest {
        ArbiterRequest::Force { store: LifeId(0), expected: Epoch(expected), floor: Epoch(0), gen_id: Gen(1), by: "root".into() }
    }
    fn audit_lines(dir: &Path) -> Vec<Change> {
        let text = std::fs::read_to_string(dir.join("witness/audit.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn of_concurrent_claims_at_one_version_exactly_one_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let store = WitnessStore::open(dir.path()).unwrap();
        let (m, n1, n2, _) = names();
        let mut version = store.decide(&m, &n1, &force(0)).unwrap().record.version;
        for round in 0..50 {
            let owner = store.decide(&m, &n1, &ArbiterRequest::Read).unwrap().record.owner.unwrap();
            let other = if owner == n1 { n2.clone() } else { n1.clone() };
            version = store.decide(&m, &owner, &grow(version.0, &other)).unwrap().record.version;
            let answers: Vec<ArbiterAnswer> = std::thread::scope(|scope| {
                let tasks: Vec<_> = [&n1, &n2]
                    .into_iter()
                    .enumerate()
                    .map(|(i, sender)| {
                        let (store, m) = (&store, &m);
                        scope.spawn(move || store.decide(m, sender, &claim(version.0, round * 2 + i as u128)).unwrap())
                    })
                    .collect();
                tasks.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(answers.iter().filter(|a| a.is_accepted).count(), 1);
            assert_eq!(answers[0].record, answers[1].record, "both are told the outcome");
            version = answers[0].record.version;
        }
        assert_eq!(audit_lines(dir.path()).len(), 1 + 50 * 2, "a line for each change, none for a refusal");
    }

    #[test]
    fn record_and_instance_survive_and_a_new_directory_is_another_store() {
        let dir = tempfile::tempdir().unwrap();
        let (m, n1, n2, _) = names();
        let store = WitnessStore::open(dir.path()).unwrap();
        assert!(WitnessStore::open(dir.path()).is_err_and(|e| e.to_string().contains("another witness")));
        store.decide(&m, &n1, &force(0)).unwrap();
        let grown = store.decide(&m, &n1, &grow(1, &n2)).unwrap();
        let instance = store.instance();
        drop(store);
        let again = WitnessStore::open(dir.path()).unwrap();
        assert_eq!(again.instance(), instance);
        assert_eq!(again.decide(&m, &n2, &ArbiterRequest::Read).unwrap().record, grown.record);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(WitnessStore::open(other.path()).unwrap().instance(), instance);
    }

    #[test]
    fn a_node_that_is_not_of_the_pair_changes_nothing_until_the_module_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = WitnessStore::open(dir.path()).unwrap();
        let (m, n1, n2, n3) = names();
        store.decide(&m, &n1, &force(0)).unwrap();
        store.decide(&m, &n1, &grow(1, &n2)).unwrap();
        let error = store.decide(&m, &n3, &force(2)).unwrap_err().to_string();
        assert!(error.contains("n1 and n2") && error.contains("--forget files"), "{error}");
        assert!(store.forget(&m, "root").unwrap() && !store.forget(&m, "root").unwrap());
        assert!(store.decide(&m, &n3, &force(0)).unwrap().is_accepted);
        let by: Vec<_> = audit_lines(dir.path()).into_iter().map(|c| (c.by, c.record.map(|r| r.version.0))).collect();
        assert_eq!(by, [("n1".into(), Some(1)), ("n1".into(), Some(2)), ("root".into(), None), ("n3".into(), Some(1))]);
    }

    #[test]
    fn a_change_without_its_line_gets_it_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (m, n1, ..) = names();
        WitnessStore::open(dir.path()).unwrap().decide(&m, &n1, &force(0)).unwrap();
        let audit = dir.path().join("witness/audit.jsonl");
        std::fs::write(&audit, "{\"at_unix_ms\":1,\"mod").unwrap();
        WitnessStore::open(dir.path()).unwrap();
        let text = std::fs::read_to_string(&audit).unwrap();
        let last: Change = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((last.module, last.by, last.record.unwrap().version), (m, "n1".to_owned(), Epoch(1)));
        WitnessStore::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&audit).unwrap(), text, "and only once");
    }

    #[test]
    fn a_damaged_record_is_never_taken_for_none_and_holds_up_no_other_module() {
        let dir = tempfile::tempdir().unwrap();
        let (m, n1, ..) = names();
        let other = ModuleName::new("other").unwrap();
        {
            let store = WitnessStore::open(dir.path()).unwrap();
            store.decide(&m, &n1, &force(0)).unwrap();
            store.decide(&other, &n1, &force(0)).unwrap();
        }
        let file = dir.path().join("witness/modules/files.json");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let store = WitnessStore::open(dir.path()).unwrap();
        for request in [ArbiterRequest::Read, force(0)] {
            assert!(matches!(store.decide(&m, &n1, &request), Err(StoreError::Damaged { .. })));
        }
        assert_eq!(store.decide(&other, &n1, &ArbiterRequest::Read).unwrap().record.version, Epoch(1));
        drop(store);
        // Another store's record is no record of this one, and records without a life are half of a copy.
        let text = String::from_utf8(whole).unwrap();
        let (at, _) = text.match_indices("\"instance\":\"").next().unwrap();
        let begin = at + "\"instance\":\"".len();
        let flipped = if text.as_bytes()[begin] == b'0' { "1" } else { "0" };
        std::fs::write(&file, format!("{}{flipped}{}", &text[..begin], &text[begin + 1..])).unwrap();
        assert!(matches!(WitnessStore::open(dir.path()).unwrap().decide(&m, &n1, &force(0)), Err(StoreError::Damaged { .. })));
        std::fs::remove_file(dir.path().join("witness/instance")).unwrap();
        assert!(WitnessStore::open(dir.path()).is_err());
    }

    #[test]
    fn a_full_disk_changes_nothing_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (m, n1, ..) = names();
        let store = WitnessStore::open(dir.path()).unwrap();
        store.decide(&m, &n1, &force(0)).unwrap();
        // A directory in the way of the temporary file: as any other failure before the exchange.
        std::fs::create_dir(dir.path().join("witness/modules/.files.new")).unwrap();
        assert!(matches!(store.decide(&m, &n1, &claim(1, 2)), Err(StoreError::NotWritten(_))));
        assert_eq!(store.decide(&m, &n1, &ArbiterRequest::Read).unwrap().record.version, Epoch(1));
        std::fs::remove_dir(dir.path().join("witness/modules/.files.new")).unwrap();
        assert!(store.decide(&m, &n1, &claim(1, 2)).unwrap().is_accepted);
    }
}
