//! House rules that neither the compiler nor clippy can keep.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every text file of the repository, as (path from the root, text).
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() {
                let is_left_out = ["target", ".git", "node_modules"].contains(&name.as_str());
                if !is_left_out {
                    folders.push(path);
                }
            } else if name == ".git" {
                // A worktree's pointer to its repository.
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.push((path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "the walk found {} files only", found.len());
    found
}

/// Rust code of a crate without comments and without what only tests compile, as (path in `src`, lines).
fn code(folder: &str) -> Vec<(String, Vec<String>)> {
    let prefix = format!("{folder}/src/");
    let mut out = Vec::new();
    for (path, text) in files() {
        let Some(inside) = path.strip_prefix(&prefix) else { continue };
        let is_test = inside.ends_with("tests.rs") || inside.contains("/tests/");
        if !inside.ends_with(".rs") || is_test {
            continue;
        }
        out.push((inside.to_owned(), product_lines(&text)));
    }
    assert!(!out.is_empty(), "{folder} has no code");
    out
}

fn product_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut is_next_for_tests = false;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        if line.trim_start().starts_with("#[cfg(test)]") {
            is_next_for_tests = true;
            continue;
        }
        if is_next_for_tests {
            is_next_for_tests = false;
            // By custom the tests are the last of a file.
            if line.starts_with("mod ") && line.contains('{') {
                break;
            }
            continue;
        }
        lines.push(code.to_owned());
    }
    lines
}

/// First-level modules of its own crate that a line names: `crate::a::b`, `crate::{a, b::c}`.
fn named_modules(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let before = line[..at].chars().last();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            found.push(word);
        } else {
            found.push(rest.to_owned());
        }
    }
    let first = |text: String| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    found.into_iter().map(first).filter(|name| !name.is_empty()).collect()
}

/// Layers of a crate from top to bottom. A module may name modules of lower layers; those of its own layer only
/// where `sideways` allows it.
struct Layers {
    folder: &'static str,
    layers: &'static [&'static [&'static str]],
    sideways: &'static [(&'static str, &'static str)],
}

const LAYERS: &[Layers] = &[
    Layers {
        folder: "core",
        layers: &[
            &["engine", "replica", "share", "health"],
            &["command", "event", "rehearsal", "state", "wire"],
            &["module", "cluster"],
            &["rules"],
            &["markup"],
            &["copies", "ids"],
        ],
        // One vocabulary in several files: an event speaks of states, a state of refusals, the wire of all of them.
        sideways: &[
            ("rehearsal", "command"),
            ("rehearsal", "state"),
            ("wire", "rehearsal"),
            ("event", "command"),
            ("event", "state"),
            ("state", "command"),
            ("wire", "command"),
            ("wire", "event"),
            ("wire", "state"),
            ("engine", "replica"),
            ("module", "cluster"),
        ],
    },
    Layers {
        folder: "node-agent",
        layers: &[
            &["main", "bin"],
            &["agent"],
            &["local", "enroll", "witness"],
            &["runner"],
            &["hands"],
            // The runner hands snapshots and events to the link to the console, which keeps the latter by the store. The
            // guard keeps alive what `vip` raised.
            &["console", "guard"],
            &["script", "checker", "vip", "farm", "rfs", "link", "store", "arbiter", "watchdog"],
            &["tls", "cgroup", "kept"],
            &["config", "clock", "procfs", "commands", "disk"],
        ],
        // What the hands did comes back into the runner's inbox.
        sideways: &[("hands", "runner")],
    },
    Layers {
        folder: "server",
        layers: &[
            &["main"],
            &["http", "agents"],
            &["actions"],
            &["deploy"],
            &["app"],
            &["fleet", "arbiter"],
            &["store"],
            &["net"],
            &["pki"],
            &["auth"],
            &["config", "words", "rendered"],
        ],
        // An operation is a type of `actions` that is also kept and held.
        sideways: &[("app", "actions"), ("store", "actions")],
    },
];

#[test]
fn modules_name_only_what_lies_below_them() {
    let mut wrong = BTreeSet::new();
    for table in LAYERS {
        let level: BTreeMap<&str, usize> =
            table.layers.iter().enumerate().flat_map(|(level, names)| names.iter().map(move |name| (*name, level))).collect();
        for (path, lines) in code(table.folder) {
            let own = path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
            if own == "lib" {
                continue;
            }
            let Some(own_level) = level.get(own.as_str()) else {
                wrong.insert(format!("{}/src/{path}: module `{own}` is in no layer; tests/tidy.rs has the table", table.folder));
                continue;
            };
            for name in lines.iter().flat_map(|line| named_modules(line)) {
                let Some(level) = level.get(name.as_str()) else { continue };
                let is_allowed = name == own || level > own_level || table.sideways.contains(&(own.as_str(), name.as_str()));
                if !is_allowed {
                    wrong.insert(format!("{}/src/{path} names `{name}`, which lies not below `{own}`", table.folder));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Words that must not be in the code of a folder, and why.
fn forbid(folder: &str, within: impl Fn(&str) -> bool, words: &[&str], why: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, lines) in code(folder) {
        for (number, line) in lines.iter().enumerate() {
            for word in words {
                if within(&path) && line.contains(word) {
                    wrong.push(format!("{folder}/src/{path}:{} has `{word}`: {why}", number + 1));
                }
            }
        }
    }
    wrong
}

#[test]
fn every_crate_keeps_to_its_trade() {
    let mut wrong = forbid(
        "core",
        |_| true,
        &["std::fs", "std::thread", "std::net::Tcp", "std::net::Udp", "std::process::Command", "tokio", "Instant", "SystemTime"],
        "core decides and does nothing",
    );
    wrong.extend(forbid("server", |p| p.starts_with("store"), &["axum", "http::"], "the store knows no HTTP"));
    wrong.extend(forbid("server", |p| p.starts_with("http"), &["sqlx"], "queries are in store"));
    wrong.extend(forbid("server", |p| !p.starts_with("http") && !p.starts_with("words"), &["tsugi_web"], "only http shows pages"));
    wrong.extend(forbid(
        "web",
        |_| true,
        &["tsugi_core::engine", "tsugi_core::replica", "tsugi_core::wire", "sqlx", "axum", "tokio"],
        "web words what it is given",
    ));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn manifests_tie_no_crate_to_one_above_it() {
    let allowed: &[(&str, &[&str])] =
        &[("core", &[]), ("web", &["tsugi-core"]), ("node-agent", &["tsugi-core", "tsugi-web"]), ("server", &["tsugi-core", "tsugi-web"])];
    for (folder, names) in allowed {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let product = text.split("[dev-dependencies]").next().unwrap();
        for line in product.lines().filter(|l| l.starts_with("tsugi-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            assert!(names.contains(&name), "{folder}/Cargo.toml depends on {name}");
        }
    }
}

/// What the installation manual builds has no switch that leaves a rule of the engine out.
#[test]
fn the_plain_build_leaves_the_tests_and_their_switches_out() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let manifest = text("Cargo.toml");
    let default = manifest.lines().find(|line| line.starts_with("default-members = ")).unwrap();
    assert_eq!(default, r#"default-members = ["core", "node-agent", "server", "web"]"#);
    let with_switches: Vec<_> =
        ["core", "node-agent", "server", "web"].into_iter().filter(|c| text(&format!("{c}/Cargo.toml")).contains("\"mutants\"")).collect();
    assert!(with_switches.is_empty(), "{with_switches:?}");
    for lang in ["en", "ja"] {
        assert!(text(&format!("docs/manual/{lang}/install.md")).contains("\ncargo build --release --locked\n"));
    }
    let script = text("dev");
    let bare: Vec<_> =
        script.lines().filter(|l| l.contains("cargo build") || l.contains("cargo test")).filter(|l| !l.contains("--workspace")).collect();
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let long: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| [".rs", ".html", ".css", ".js", ".md", ".sql", "dev"].iter().any(|end| path.ends_with(end)))
        .filter(|(path, _)| !path.contains(".min."))
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines: {long:?}");
}

#[test]
fn nothing_is_left_to_do_and_nothing_speaks_of_what_readers_do_not_have() {
    // Put together here, so that this file does not find itself.
    let words: Vec<String> = [
        ["todo", "!("],
        ["unimplemented", "!("],
        ["FIX", "ME"],
        ["XX", "X "],
        ["../sha", "red"],
        ["/wo", "rk/"],
        ["/root", "/wt"],
        ["shared/", "design"],
        ["CONTRACT", ".md"],
        ["safekit", "-spec"],
        ["failover-", "protocol.md"],
        ["replication", ".md §"],
        ["00-", "decisions"],
        ["BEGIN ", "PRIVATE KEY"],
        ["BEGIN EC ", "PRIVATE KEY"],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect();
    let mut wrong = Vec::new();
    for (path, text) in files() {
        if path.contains(".min.") || path == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                // A header that is only looked for is no key.
                if !(word.starts_with("BEGIN") && path.ends_with(".rs")) {
                    wrong.push(format!("{path}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn code_of_others_is_unchanged() {
    for (path, text) in files().into_iter().filter(|(path, _)| path.ends_with("VENDORED.md")) {
        let folder = root().join(&path).parent().unwrap().to_owned();
        let mut rows = 0;
        for line in text.lines().filter(|l| l.starts_with('|')) {
            let cells: Vec<_> = line.split('|').map(str::trim).filter(|c| !c.is_empty()).collect();
            let (Some(name), Some(sum)) = (cells.first(), cells.last()) else { continue };
            if sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
                continue;
            }
            rows += 1;
            let bytes = std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{path} names {name}: {e}"));
            let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(&hex, sum, "{name} differs from what {path} says");
        }
        assert!(rows > 0, "{path} has no sums");
    }
}

/// `## A heading, here` → `a-heading-here`, as the usual viewers make anchors.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().replace('`', "").to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_').map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let all = files();
    let headings = |path: &Path| -> BTreeSet<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter(|l| l.starts_with('#')).map(anchor).collect()
    };
    let mut wrong = Vec::new();
    for (path, text) in all.iter().filter(|(path, _)| path.ends_with(".md")) {
        let here = root().join(path);
        let mut is_in_block = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_in_block = !is_in_block;
            }
            if is_in_block {
                continue;
            }
            for part in line.split("](").skip(1) {
                let Some(target) = part.split(')').next() else { continue };
                let target = target.split(' ').next().unwrap_or_default();
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
                let place = if file.is_empty() { here.clone() } else { here.parent().unwrap().join(file) };
                if !place.exists() {
                    wrong.push(format!("{path}: {target} is not there"));
                } else if !fragment.is_empty() && place.extension().is_some_and(|e| e == "md") && !headings(&place).contains(fragment) {
                    wrong.push(format!("{path}: {target}: there is no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let mut names: Vec<_> = files()
        .into_iter()
        .filter_map(|(path, _)| path.strip_prefix("migrations/").map(str::to_owned))
        .filter(|n| n.ends_with(".sql"))
        .collect();
    names.sort();
    for (at, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", at + 1)), "migrations/{name} should have number {:04}", at + 1);
    }
}

#[test]
fn the_rules_above_find_what_they_look_for() {
    assert_eq!(named_modules("use crate::{a, b::{c, d}, e::f};"), ["a", "b", "e"]);
    assert_eq!(named_modules("    let x = crate::store::open(); other_crate::y()"), ["store"]);
    let text = "use crate::a; // crate::b\n#[cfg(test)]\nuse crate::c;\nfn f() {}\n#[cfg(test)]\nmod tests {\n  use crate::d;\n}\n";
    let found: Vec<_> = product_lines(text).iter().flat_map(|l| named_modules(l)).collect();
    assert_eq!(found, ["a"]);
    assert_eq!(anchor("## Set-up, step `by` step"), "set-up-step-by-step");
}
