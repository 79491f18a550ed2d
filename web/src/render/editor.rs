//! Text of a configuration with numbered lines, and the list of its problems; page of a module's configuration.

use super::parts::module_href;
use super::{out, ui};
use crate::both;
use crate::say::Mark;
use crate::text::{self as p, Text};
use crate::view::{Chrome, ModuleConfigView, ProblemView};
use askama::Template;

/// Lines an empty editor shows.
const ROWS_MIN: usize = 12;

/// Id of the field with cluster.xml.
pub(crate) const CLUSTER_FIELD: &str = "xml";

/// Numbers beside a text.
pub(crate) struct Gutter {
    pub rows: usize,
    pub lines: Vec<LineNumber>,
}

pub(crate) struct LineNumber {
    pub number: usize,
    pub is_bad: bool,
}

impl Gutter {
    pub(crate) fn of(text: &str, problems: &[ProblemView]) -> Gutter {
        let rows = (text.lines().count() + 1).max(ROWS_MIN);
        let is_bad = |number: usize| problems.iter().any(|p| p.line as usize == number && p.file.ends_with(".xml"));
        Gutter { rows, lines: (1..=rows).map(|number| LineNumber { number, is_bad: is_bad(number) }).collect() }
    }
}

/// The list beside the editor.
pub(crate) struct Problems {
    pub is_checked: bool,
    pub errors: usize,
    pub warnings: usize,
    pub errors_word: String,
    pub warnings_word: String,
    pub rows: Vec<ProblemRow>,
    /// What has happened so far: nothing.
    pub note: (Text, Text),
}

pub(crate) struct ProblemRow {
    pub mark: Mark,
    pub place: String,
    /// Id of the text field with the place.
    pub field: String,
    pub line: u32,
    pub column: u32,
    pub element: String,
    pub message: String,
    pub remedy: Option<String>,
}

impl Problems {
    /// `None` = not checked yet. `xml_field` is the id of the editor.
    pub(crate) fn of(c: &Chrome, problems: Option<&[ProblemView]>, xml_field: &str) -> Problems {
        let all = problems.unwrap_or_default();
        let warnings = all.iter().filter(|p| p.is_warning).count();
        let errors = all.len() - warnings;
        let row = |v: &ProblemView| {
            let (file, line, column) = (&v.file, v.line, v.column);
            ProblemRow {
                mark: if v.is_warning { Mark::Warning } else { Mark::NotReady },
                place: if line == 0 { file.clone() } else { both!(c.lang, "{file} {line}:{column}", "{file} {line} 行 {column} 桁") },
                field: file.strip_prefix("bin/").map_or(xml_field.to_owned(), |script| format!("text-{script}")),
                line,
                column,
                element: v.element.clone(),
                message: v.message.clone(),
                remedy: v.remedy.clone(),
            }
        };
        Problems {
            is_checked: problems.is_some(),
            errors,
            warnings,
            errors_word: both!(c.lang, "{errors} to correct", "要修正 {errors}"),
            warnings_word: both!(c.lang, "{warnings} to note", "注意 {warnings}"),
            rows: all.iter().map(row).collect(),
            note: match xml_field {
                CLUSTER_FIELD => (p::CHECKED_ON_SAVE, p::CHECKED_ON_SAVE_WHAT),
                _ => (p::NOTHING_CHANGED, p::NOTHING_CHANGED_WHAT),
            },
        }
    }
}

#[derive(Template)]
#[template(path = "pages/module_config.html", blocks = ["problems"])]
struct Page<'a> {
    c: &'a Chrome,
    v: &'a ModuleConfigView,
    title: String,
    action: String,
    cancel: String,
    based_on: String,
    gutter: Gutter,
    problems: Problems,
    scripts: Vec<ScriptM>,
}

struct ScriptM {
    file: String,
    text: String,
    what: &'static str,
    rows: usize,
    is_bad: bool,
}

impl Page<'_> {
    fn is_template(&self, id: &str) -> bool {
        self.v.template.as_deref() == Some(id)
    }
}

/// Scripts that are offered although the module has none of that name: the two every application needs.
const OFFERED: [&str; 2] = ["start_prim", "stop_prim"];

/// When a script runs, in a few words; other files are helpers.
fn script_what(c: &Chrome, file: &str) -> &'static str {
    let text = match file {
        "prestart" => Text {
            en: "before the module starts: make sure the application is down",
            ja: "モジュール起動前：アプリケーションを確実に停止",
        },
        "start_prim" => Text { en: "starts the application on the primary", ja: "プライマリでアプリケーションを起動" },
        "stop_prim" => Text { en: "stops the application on the primary", ja: "プライマリでアプリケーションを停止" },
        "start_both" => Text { en: "on every running node: start", ja: "稼働する全ノードで実行：起動" },
        "stop_both" => Text { en: "on every running node: stop", ja: "稼働する全ノードで実行：停止" },
        "start_second" => Text { en: "on becoming secondary", ja: "セカンダリになるときに実行" },
        "stop_second" => Text { en: "on leaving the secondary role", ja: "セカンダリを終えるときに実行" },
        "poststop" => Text { en: "after the module stopped", ja: "モジュール停止後に実行" },
        "transition" => Text { en: "on each change of state", ja: "状態が変わるたびに実行" },
        _ => Text { en: "helper file", ja: "補助ファイル" },
    };
    c.t(text)
}

fn page(v: &ModuleConfigView) -> Page<'_> {
    let c = &v.chrome;
    let problems = v.problems.as_deref();
    let cluster = &v.cluster;
    let base = v.module.as_ref().map(|m| module_href(cluster, m.as_str()));
    let version = v.version;
    let mut files: Vec<(String, String)> = v.scripts.clone();
    for file in OFFERED {
        if !files.iter().any(|(name, _)| name == file) {
            files.push((file.to_owned(), String::new()));
        }
    }
    let scripts = files
        .into_iter()
        .map(|(file, text)| ScriptM {
            what: script_what(c, &file),
            rows: (text.lines().count() + 1).clamp(6, 30),
            is_bad: problems.unwrap_or_default().iter().any(|p| p.file == format!("bin/{file}")),
            file,
            text,
        })
        .collect();
    Page {
        c,
        v,
        title: match &v.module {
            Some(m) => both!(c.lang, "Configuration of {m}", "{m} の設定"),
            None => c.t(p::ADD_MODULE).to_owned(),
        },
        action: base.as_ref().map_or_else(|| format!("/clusters/{cluster}/modules"), |b| format!("{b}/config")),
        cancel: base.unwrap_or_else(|| format!("/clusters/{cluster}")),
        based_on: both!(c.lang, "from version {version}", "第 {version} 版から編集"),
        gutter: Gutter::of(&v.userconfig, problems.unwrap_or_default()),
        problems: Problems::of(c, problems, "userconfig"),
        scripts,
    }
}

/// `/clusters/{c}/modules/new` and `/clusters/{c}/modules/{m}/config`.
pub fn module_config(v: &ModuleConfigView) -> String {
    out(&page(v))
}

/// The problems alone: the answer to "check" with `HX-Request`.
pub fn module_config_problems(v: &ModuleConfigView) -> String {
    out(&page(v).as_problems())
}
