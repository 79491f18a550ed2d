//! Pure: what one configuration alone cannot show: nodes that do not exist, addresses and directories taken twice.

use super::{ConfigProblem, Draft, Neighbour, USERCONFIG, distinct, node_count};
use crate::store::clusters::Cluster;
use crate::words::Words;
use std::path::Path;
use tsugi_core::module::depends::{self, Dependencies};
use tsugi_core::module::{Mode, ModuleDef};

/// The nodes exist in the cluster, and each is named once.
pub(super) fn nodes(cluster: &Cluster, draft: Draft<'_>) -> Vec<ConfigProblem> {
    let known = cluster.def.nodes();
    let names = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut problems = Vec::new();
    for node in draft.nodes.iter().filter(|n| !known.contains(n)) {
        problems.push(ConfigProblem::whole(
            "",
            "nodes",
            Words::new(
                format!("Node {node} is not in cluster {}.", cluster.name),
                format!("ノード {node} はクラスター {} にありません。", cluster.name),
            ),
            Words::new(
                format!("Choose among {names}, or add the node to the cluster's configuration first."),
                format!("{names} から選ぶか、先にクラスターの設定へノードを追加してください。"),
            ),
        ));
    }
    if distinct(draft.nodes).len() != draft.nodes.len() {
        problems.push(ConfigProblem::whole(
            "",
            "nodes",
            Words::new("A node is named twice.", "同じノードが 2 回指定されています。"),
            Words::new("Name each node once.", "各ノードを 1 回だけ指定してください。"),
        ));
    }
    problems
}

/// As many nodes as the type of module needs.
pub(super) fn count(mode: Mode, draft: Draft<'_>) -> Option<ConfigProblem> {
    let (least, most) = node_count(mode);
    let given = draft.nodes.len();
    if (least..=most).contains(&given) {
        return None;
    }
    let (en, ja) = match mode {
        Mode::Mirror => ("A mirror module lives on exactly 2 nodes", "ミラーモジュールは 2 台のノードで動きます"),
        Mode::Light => ("A light module lives on 1 to 32 nodes", "ライトモジュールは 1～32 台のノードで動きます"),
        Mode::Farm => ("A farm module lives on 2 to 32 nodes", "ファームモジュールは 2～32 台のノードで動きます"),
    };
    Some(ConfigProblem::whole(
        "",
        "nodes",
        Words::new(format!("{en}; {given} are named."), format!("{ja}。指定は {given} 台です。")),
        Words::new("Choose the nodes anew.", "ノードを選び直してください。"),
    ))
}

/// Virtual addresses are unique in the cluster, also against the nodes' own; replicated directories do not overlap
/// on a node that has both modules.
pub(super) fn neighbours(def: &ModuleDef, neighbours: &[Neighbour], draft: Draft<'_>) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for (other, other_def) in neighbours {
        for vip in def.vips.iter().filter(|v| other_def.vips.iter().any(|o| o.addr == v.addr)) {
            problems.push(at(
                draft,
                &vip.addr.to_string(),
                "vip",
                Words::new(
                    format!("Virtual address {} belongs to module {} already.", vip.addr, other.name),
                    format!("仮想 IP アドレス {} はモジュール {} がすでに使っています。", vip.addr, other.name),
                ),
                Words::new("Use an address of its own for each module.", "モジュールごとに別のアドレスを使ってください。"),
            ));
        }
        if !other.nodes.iter().any(|n| draft.nodes.contains(n)) {
            continue;
        }
        let dirs = |d: &ModuleDef| d.rfs.iter().flat_map(|r| r.replicated.iter().map(|r| r.dir.clone())).collect::<Vec<_>>();
        for mine in dirs(def) {
            for theirs in dirs(other_def) {
                let (a, b) = (Path::new(&mine), Path::new(&theirs));
                if a.starts_with(b) || b.starts_with(a) {
                    problems.push(at(
                        draft,
                        &mine,
                        "rfs",
                        Words::new(
                            format!("Replicated directory {mine} overlaps {theirs} of module {}.", other.name),
                            format!("複製するディレクトリ {mine} が、モジュール {} の {theirs} と重なっています。", other.name),
                        ),
                        Words::new(
                            "Two modules may not replicate the same files: choose directories that do not contain each other.",
                            "同じファイルを 2 つのモジュールで複製できません。互いに含まないディレクトリを選んでください。",
                        ),
                    ));
                }
            }
        }
    }
    problems
}

/// Modules that depend on one another could never start; one that is not there (a warning) never lets this one start.
pub(super) fn dependencies(def: &ModuleDef, neighbours: &[Neighbour], draft: Draft<'_>) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let on = |def: &ModuleDef| def.depends.iter().map(|d| d.module.clone()).collect();
    let others = neighbours.iter().map(|(other, def)| (other.name.clone(), on(def)));
    let all: Dependencies = others.chain([(draft.module.clone(), on(def))]).collect();
    if let Some(chain) = depends::cycle(&all).filter(|chain| chain.contains(draft.module)) {
        let chain = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → ");
        problems.push(ConfigProblem::whole(
            USERCONFIG,
            "depends",
            Words::new(
                format!("The modules depend on one another: {chain}. None of them could ever start."),
                format!("モジュールが互いに依存しています（{chain}）。どれも起動できません。"),
            ),
            Words::new("Remove one of these dependencies.", "この依存関係のどれか 1 つを削除してください。"),
        ));
    }
    for depend in &def.depends {
        let is_there =
            neighbours.iter().any(|(other, _)| other.name == depend.module && draft.nodes.iter().all(|n| other.nodes.contains(n)));
        if !is_there && depend.module != *draft.module {
            let problem = at(
                draft,
                depend.module.as_str(),
                "depends",
                Words::new(
                    format!("Module {} is not on every node of this module.", depend.module),
                    format!("モジュール {} が、このモジュールのすべてのノードにあるわけではありません。", depend.module),
                ),
                Words::new(
                    "On a node without it this module never starts: add it there, or remove the dependency.",
                    "それがないノードでは、このモジュールは起動しません。追加するか、依存関係を削除してください。",
                ),
            );
            problems.push(ConfigProblem { is_warning: true, ..problem });
        }
    }
    problems
}

/// A problem at the place where `value` stands in the text, if it stands there once as it is.
fn at(draft: Draft<'_>, value: &str, element: &str, message: Words, remedy: Words) -> ConfigProblem {
    let quoted = [format!("\"{value}\""), format!("'{value}'")];
    let found = draft.userconfig.lines().enumerate().find_map(|(n, line)| {
        let byte = quoted.iter().find_map(|q| line.find(q.as_str()))? + 1;
        Some((n as u32 + 1, line[..byte].chars().count() as u32 + 1))
    });
    let (line, column) = found.unwrap_or((0, 0));
    ConfigProblem { file: USERCONFIG.into(), line, column, element: element.into(), message, remedy, is_warning: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::modules::Module;
    use std::collections::BTreeMap;
    use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
    use tsugi_core::module::xml::{ParseContext, parse};

    fn config(on: &[&str]) -> String {
        let on: String = on.iter().map(|m| format!("<on module=\"{m}\"/>")).collect();
        let depends = if on.is_empty() { String::new() } else { format!("<depends>{on}</depends>") };
        format!("<safe><service mode=\"mirror\"><user/>{depends}</service></safe>")
    }

    fn def(text: &str) -> ModuleDef {
        parse(text, &ParseContext::default()).def.unwrap()
    }

    fn neighbour(name: &str, nodes: &[&str], on: &[&str]) -> Neighbour {
        let module = Module {
            cluster: ClusterName::new("c").unwrap(),
            name: ModuleName::new(name).unwrap(),
            module_id: 1,
            nodes: nodes.iter().map(|n| NodeName::new(*n).unwrap()).collect(),
            applied_version: None,
            generation: 0,
        };
        (module, def(&config(on)))
    }

    /// What is said in English of module `web` on n1 and n2, which depends on `on`.
    fn said(on: &[&str], neighbours: &[Neighbour]) -> Vec<(String, bool)> {
        let (module, nodes) = (ModuleName::new("web").unwrap(), ["n1", "n2"].map(|n| NodeName::new(n).unwrap()));
        let (text, scripts) = (config(on), BTreeMap::new());
        let draft = Draft { module: &module, nodes: &nodes, userconfig: &text, scripts: &scripts };
        let found = dependencies(&def(&text), neighbours, draft);
        found.into_iter().map(|p| (p.message.en, p.is_warning)).collect()
    }

    #[test]
    fn modules_that_depend_on_one_another_are_refused_with_the_chain() {
        let others = [neighbour("app", &["n1", "n2"], &["db"]), neighbour("db", &["n1", "n2"], &[])];
        assert_eq!(said(&["app"], &others), []);
        let circle = [neighbour("app", &["n1", "n2"], &["db"]), neighbour("db", &["n1", "n2"], &["web"])];
        let chain = "The modules depend on one another: app → db → web → app. None of them could ever start.";
        assert_eq!(said(&["app"], &circle), [(chain.to_owned(), false)]);
        assert!(said(&["web"], &[]).iter().any(|(text, is_warning)| text.contains("web → web") && !is_warning));
        // A circle of others is theirs.
        assert_eq!(said(&[], &[neighbour("a", &["n1"], &["b"]), neighbour("b", &["n1"], &["a"])]), []);
    }

    #[test]
    fn a_module_that_is_missing_on_a_node_is_a_warning() {
        let text = "Module db is not on every node of this module.".to_owned();
        assert_eq!(said(&["db"], &[neighbour("db", &["n1", "n3"], &[])]), [(text.clone(), true)]);
        assert_eq!(said(&["db"], &[]), [(text, true)]);
    }

    #[test]
    fn a_light_module_is_on_one_node_or_more_and_has_no_scripts_of_roles() {
        let module = ModuleName::new("web").unwrap();
        let nodes: Vec<NodeName> = (0..33).map(|n| NodeName::new(format!("n{n}")).unwrap()).collect();
        let scripts: BTreeMap<String, String> =
            ["start_prim", "start_both", "stop_sec", "common.sh"].map(|name| (name.to_owned(), String::new())).into();
        let draft = |count: usize| Draft { module: &module, nodes: &nodes[..count], userconfig: "", scripts: &scripts };
        let counted = |mode, count| self::count(mode, draft(count)).map(|p| p.message.en);
        assert_eq!((counted(Mode::Light, 1), counted(Mode::Light, 32)), (None, None));
        assert_eq!(counted(Mode::Light, 33).as_deref(), Some("A light module lives on 1 to 32 nodes; 33 are named."));
        assert!(counted(Mode::Mirror, 1).is_some());
        let found = super::super::scripts_of_roles(Mode::Light, draft(1));
        let said: Vec<_> = found.iter().map(|p| (p.file.as_str(), p.remedy.en.as_str())).collect();
        let ours = [("bin/start_prim", "Name it `start_both`, or remove it."), ("bin/stop_sec", "Name it `stop_both`, or remove it.")];
        assert_eq!(said, ours);
        assert_eq!(super::super::scripts_of_roles(Mode::Mirror, draft(2)), []);
    }

    #[test]
    fn a_script_that_is_known_elsewhere_and_not_run_here_is_named_with_what_to_do() {
        let (module, nodes) = (ModuleName::new("db").unwrap(), [NodeName::new("n1").unwrap()]);
        let names = ["_rfs_flush", "common.sh", "confcheck", "config", "deconfig", "level", "postconfig", "prestart", "state", "update"];
        let scripts: BTreeMap<String, String> = names.into_iter().map(|name| (name.to_owned(), String::new())).collect();
        let found = super::super::scripts_not_run(Draft { module: &module, nodes: &nodes, userconfig: "", scripts: &scripts });
        let files: Vec<&str> = found.iter().map(|p| p.file.trim_start_matches("bin/")).collect();
        assert_eq!(files, ["_rfs_flush", "confcheck", "config", "deconfig", "level", "postconfig", "state", "update"]);
        for problem in &found {
            assert!(problem.is_warning && problem.message.en.contains("is not run") && problem.remedy.ja.ends_with('。'), "{problem:?}");
        }
    }
}
