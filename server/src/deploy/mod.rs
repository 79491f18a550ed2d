//! Configurations of modules: checked against themselves, the cluster and the other modules before they are kept.
//!
//! A version that is stored can be applied; a text with an error is shown back with every problem at its place.

mod across;
pub mod templates;

use crate::app::App;
use crate::fleet::Topic;
use crate::store::StoreError;
use crate::store::clusters::Cluster;
use crate::store::modules::{Module, NewVersion};
use crate::words::{Words, problem_message, problem_remedy};
use std::collections::{BTreeMap, BTreeSet};
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::module::xml::{ParseContext, parse};
use tsugi_core::module::{Mode, ModuleDef, ScriptName};

/// File of the configuration, as named in problems.
pub const USERCONFIG: &str = "conf/userconfig.xml";
/// Most nodes of a module that may be on more than two.
const NODES_MAX: usize = 32;
/// Most scripts and other files of a module.
const SCRIPTS_MAX: usize = 200;
/// Most bytes of a configuration with its scripts: what fits the frame to the agent, escaped, with room.
const BYTES_MAX: usize = 3 * 1024 * 1024;

/// Something wrong with a configuration, in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// `conf/userconfig.xml`, `bin/start_prim`, or empty for the module as a whole.
    pub file: String,
    /// From 1; 0 = the whole file.
    pub line: u32,
    /// In characters, from 1; 0 = the whole line.
    pub column: u32,
    /// Element (and attribute) concerned.
    pub element: String,
    /// What is wrong.
    pub message: Words,
    /// What to do.
    pub remedy: Words,
    /// It may be applied all the same.
    pub is_warning: bool,
}

impl ConfigProblem {
    fn whole(file: &str, element: &str, message: Words, remedy: Words) -> ConfigProblem {
        ConfigProblem { file: file.into(), line: 0, column: 0, element: element.into(), message, remedy, is_warning: false }
    }
}

/// What came of a check.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The definition; none if any problem is an error.
    pub def: Option<ModuleDef>,
    /// Every problem.
    pub problems: Vec<ConfigProblem>,
}

/// A configuration as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Name of the module.
    pub module: &'a ModuleName,
    /// Its nodes.
    pub nodes: &'a [NodeName],
    /// `conf/userconfig.xml`.
    pub userconfig: &'a str,
    /// File name under `bin/` → text.
    pub scripts: &'a BTreeMap<String, String>,
}

/// Another module of the cluster, with the definition that counts: applied, else newest.
pub type Neighbour = (Module, ModuleDef);

/// Checks a draft. Pure: `neighbours` are the cluster's other modules.
pub fn check(cluster: &Cluster, neighbours: &[Neighbour], draft: Draft<'_>) -> Checked {
    let mut problems = across::nodes(cluster, draft);
    problems.extend(scripts(draft));
    let parsed = parse(draft.userconfig, &ParseContext { cluster: Some(&cluster.def), nodes: draft.nodes });
    for problem in &parsed.problems {
        problems.push(of_xml(USERCONFIG, problem));
    }
    if let Some(def) = &parsed.def {
        problems.extend(across::count(def.mode, draft));
        problems.extend(scripts_of_roles(def.mode, draft));
        problems.extend(scripts_not_run(draft));
        problems.extend(across::neighbours(def, neighbours, draft));
        problems.extend(across::dependencies(def, neighbours, draft));
    }
    let is_usable = problems.iter().all(|p| p.is_warning);
    Checked { def: parsed.def.filter(|_| is_usable), problems }
}

/// A problem of the reader, worded.
pub fn of_xml(file: &str, problem: &tsugi_core::module::xml::Problem) -> ConfigProblem {
    let element = match &problem.attribute {
        Some(attribute) => format!("{} {attribute}", problem.element),
        None => problem.element.clone(),
    };
    ConfigProblem {
        file: file.to_owned(),
        line: problem.place.line,
        column: problem.place.column,
        element,
        message: Words::both(|lang| problem_message(lang, problem)),
        remedy: Words::both(|lang| problem_remedy(lang, problem)),
        is_warning: !problem.is_error(),
    }
}

/// Names and sizes of the files under `bin/`.
fn scripts(draft: Draft<'_>) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for name in draft.scripts.keys() {
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if name.is_empty() || name.len() > 100 || !is_plain || name.starts_with('.') {
            problems.push(ConfigProblem::whole(
                &format!("bin/{name}"),
                "",
                Words::new(format!("`{name}` cannot be the name of a script."), format!("「{name}」はスクリプト名に使えません。")),
                Words::new(
                    "Use 1 to 100 of a-z, A-Z, 0-9, `-`, `_`, `.`, not beginning with a dot, and no folders.",
                    "a-z、A-Z、0-9、-、_、. だけを 1～100 文字で使い、先頭の . とフォルダーは避けてください。",
                ),
            ));
        }
    }
    let bytes = draft.userconfig.len() + draft.scripts.values().map(String::len).sum::<usize>();
    if draft.scripts.len() > SCRIPTS_MAX || bytes > BYTES_MAX {
        problems.push(ConfigProblem::whole(
            "",
            "",
            Words::new(
                format!(
                    "The module has {} files of {bytes} bytes together; at most {SCRIPTS_MAX} files and {BYTES_MAX} bytes are accepted.",
                    draft.scripts.len()
                ),
                format!(
                    "モジュールのファイルは {} 個、合計 {bytes} バイトです。上限は {SCRIPTS_MAX} 個、{BYTES_MAX} バイトです。",
                    draft.scripts.len()
                ),
            ),
            Words::new(
                "Install large files on the nodes and call them from the scripts.",
                "大きなファイルは各ノードに配置し、スクリプトから呼び出してください。",
            ),
        ));
    }
    problems
}

/// Scripts that a module without primary and secondary would never run.
fn scripts_of_roles(mode: Mode, draft: Draft<'_>) -> Vec<ConfigProblem> {
    use ScriptName::{StartBoth, StartPrim, StartSec, StartSecond, StopBoth, StopPrim, StopSec, StopSecond};
    let run_instead = |script| match script {
        StartPrim | StartSec | StartSecond => Some(StartBoth),
        StopPrim | StopSec | StopSecond => Some(StopBoth),
        _ => None,
    };
    let names = draft.scripts.keys().filter(|_| mode != Mode::Mirror);
    let wrong = names.filter_map(|name| Some((name, run_instead(ScriptName::of_file(name)?)?.file())));
    let problem = |(name, instead): (&String, &str)| {
        ConfigProblem::whole(
            &format!("bin/{name}"),
            "",
            Words::new(
                format!("`{name}` is never run: this module has no primary and no secondary."),
                format!("このモジュールにプライマリとセカンダリはないため、「{name}」は実行されません。"),
            ),
            Words::new(format!("Name it `{instead}`, or remove it."), format!("名前を「{instead}」にするか、削除してください。")),
        )
    };
    wrong.map(problem).collect()
}

/// Scripts that the field's usual product runs and this one does not: they would be missed without a word.
fn scripts_not_run(draft: Draft<'_>) -> Vec<ConfigProblem> {
    let remedy = |name: &str| match name {
        "config" | "postconfig" => Some((
            "Do its work in `prestart`, which runs at every start and must be harmless when repeated, or once on each node by hand.",
            "処理を「prestart」に移してください（起動のたびに実行されるため、繰り返しても問題のない内容にします）。または、各ノードで一度、手動で実行してください。",
        )),
        "deconfig" => Some((
            "Run it by hand on each node when the module is removed.",
            "モジュールを削除するときに、各ノードで手動で実行してください。",
        )),
        "confcheck" => Some((
            "A configuration is checked at upload, and by `tsugi confcheck FILE`. What else it looks at: a `custom` or `exec` checker.",
            "構成は保存時と「tsugi confcheck ファイル名」で検査されます。そのほかの検査には「custom」または「exec」チェッカーを使ってください。",
        )),
        "state" | "level" => Some((
            "`tsugi state -v` shows the module. What else it prints: `tsugi printi` from another script.",
            "モジュールの状態は「tsugi state -v」で表示します。そのほかの出力には、別のスクリプトから「tsugi printi」を使ってください。",
        )),
        "update" => Some((
            "Stop the module, apply the configuration, and start it: `start_prim` finds the new one.",
            "モジュールを停止し、構成を適用してから起動してください。「start_prim」が新しい構成を使います。",
        )),
        _ if name.starts_with("_rfs_") => Some((
            "Replication calls no scripts: use `start_prim`, `start_second` and `transition`, which tell of each change of role.",
            "複製からスクリプトは呼ばれません。役割が変わるたびに呼ばれる「start_prim」「start_second」「transition」を使ってください。",
        )),
        _ => None,
    };
    let problem = |(name, (en, ja)): (&String, (&str, &str))| ConfigProblem {
        is_warning: true,
        ..ConfigProblem::whole(
            &format!("bin/{name}"),
            "",
            Words::new(format!("`{name}` is not run in this version."), format!("「{name}」は、この版では実行されません。")),
            Words::new(en.to_owned(), ja.to_owned()),
        )
    };
    draft.scripts.keys().filter_map(|name| Some((name, remedy(name.as_str())?))).map(problem).collect()
}

/// Why a configuration was not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// It has errors.
    #[error("the configuration has errors")]
    Problems(Vec<ConfigProblem>),
    /// The name is taken.
    #[error("a module of that name exists")]
    NameTaken,
    /// There is no such cluster or module.
    #[error("there is no such cluster or module")]
    Missing,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who changes a configuration, and why.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// Who.
    pub by: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
}

/// The cluster's modules but `module`, each with the definition that counts.
async fn neighbours(app: &App, cluster: &ClusterName, module: &ModuleName) -> Result<Vec<Neighbour>, StoreError> {
    let mut out = Vec::new();
    for other in app.store.modules(cluster).await?.into_iter().filter(|m| m.name != *module) {
        if let Some(version) = app.store.version(cluster, &other.name, other.applied_version).await? {
            out.push((other, version.def));
        }
    }
    Ok(out)
}

/// Checks a draft against the cluster as stored.
pub async fn check_draft(app: &App, cluster: &ClusterName, draft: Draft<'_>) -> Result<Checked, NotKept> {
    let stored = app.store.cluster(cluster).await?.ok_or(NotKept::Missing)?;
    let neighbours = neighbours(app, cluster, draft.module).await?;
    Ok(check(&stored, &neighbours, draft))
}

/// Adds a module with its version 1. What is returned are warnings.
pub async fn add_module(app: &App, cluster: &ClusterName, draft: Draft<'_>, author: Author<'_>) -> Result<Vec<ConfigProblem>, NotKept> {
    let checked = check_draft(app, cluster, draft).await?;
    let Some(def) = checked.def else { return Err(NotKept::Problems(checked.problems)) };
    let version = NewVersion { userconfig: draft.userconfig, scripts: draft.scripts, def: &def, by: author.by, reason: author.reason };
    if !app.store.add_module(cluster, draft.module, draft.nodes, &version).await? {
        return Err(NotKept::NameTaken);
    }
    // The nodes learn the new module's number with the cluster.
    app.fleet.sync(cluster);
    app.fleet.changed(Topic::Inventory { cluster: cluster.clone() });
    Ok(checked.problems)
}

/// Adds a version to a module; its number and the warnings.
pub async fn add_version(
    app: &App,
    module: &Module,
    userconfig: &str,
    scripts: &BTreeMap<String, String>,
    author: Author<'_>,
) -> Result<(u64, Vec<ConfigProblem>), NotKept> {
    let draft = Draft { module: &module.name, nodes: &module.nodes, userconfig, scripts };
    let checked = check_draft(app, &module.cluster, draft).await?;
    let Some(def) = checked.def else { return Err(NotKept::Problems(checked.problems)) };
    let version = NewVersion { userconfig, scripts, def: &def, by: author.by, reason: author.reason };
    let number = app.store.add_version(&module.cluster, &module.name, &version).await?;
    app.fleet.changed(Topic::Work { cluster: module.cluster.clone(), module: module.name.clone() });
    Ok((number, checked.problems))
}

/// Nodes of a type of module: least and most.
pub(crate) fn node_count(mode: Mode) -> (usize, usize) {
    match mode {
        Mode::Mirror => (2, 2),
        Mode::Light => (1, NODES_MAX),
        Mode::Farm => (2, NODES_MAX),
    }
}

/// Nodes without repetition.
pub(crate) fn distinct(nodes: &[NodeName]) -> BTreeSet<&NodeName> {
    nodes.iter().collect()
}
