//! What a person gets wrong is refused at its place, with a remedy, in their language, and leaves nothing behind:
//! neither in the console nor on any node.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tsugi_core::state::Snapshot;
use tsugi_tests::api::{ALONE, Api};
use tsugi_tests::check::modules_dir;
use tsugi_tests::lab::{Lab, Plan};
use tsugi_tests::setup::{self, CLUSTER, ModuleFiles, read_module, wait_for};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Nodes that answer are waited for 10 s at most; the rest is a slow machine.
const BOUND: Duration = Duration::from_secs(40);
const VIP: &str = "198.18.0.100";
const MODULES: &str = "/api/v1/clusters/lab/modules";

struct Bench {
    lab: Lab,
    api: Api,
    _guard: MutexGuard<'static, ()>,
}

fn bench() -> Bench {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(MODULES, format!("/api/v1/clusters/{CLUSTER}/modules"));
    let lab = Lab::start("t-bad", &Plan { hosts: 2, console: true, env: BTreeMap::new(), ..Plan::default() }).unwrap();
    let api = setup::set_up(&lab).unwrap();
    Bench { lab, api, _guard: guard }
}

fn ledger(vip: &str, dir: &str) -> ModuleFiles {
    read_module(&modules_dir().join("ledger"), &[("VIP", vip), ("DIR", dir)]).unwrap()
}

fn body(name: &str, files: &ModuleFiles) -> Value {
    json!({"name": name, "nodes": ["n1", "n2"], "userconfig": files.userconfig, "scripts": files.scripts})
}

fn is_japanese(text: &str) -> bool {
    text.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c))
}

impl Bench {
    fn get(&self, path: &str) -> Value {
        self.api.must(Method::GET, path, None).unwrap()
    }

    /// Posts what must be refused for one problem; that problem in English and in Japanese.
    fn refused(&self, path: &str, body: &Value) -> [Value; 2] {
        ["en", "ja"].map(|lang| {
            let (status, answer) = self.api.clone().in_language(lang).call(Method::POST, path, Some(body)).unwrap();
            assert_eq!((status, &answer["error"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("config_problems")), "{answer}");
            let problems = answer["problems"].as_array().unwrap();
            assert_eq!(problems.len(), 1, "one slip, one problem: {answer}");
            problems[0].clone()
        })
    }

    /// Applies the newest version of `ledger`; the operation at its end.
    fn apply(&self) -> Value {
        let answer = self.api.must(Method::POST, &format!("{MODULES}/ledger/apply"), Some(&json!({}))).unwrap();
        let path = format!("/api/v1/operations/{}", answer["operation"]["id"].as_str().unwrap());
        wait_for("the end of the operation", BOUND, || {
            let now = self.api.must(Method::GET, &path, None).ok()?;
            (!["queued", "running"].contains(&now["state"].as_str()?)).then_some(now)
        })
        .unwrap()
    }

    /// What the node's own command line says of `ledger`: its state, or that there is no such module.
    fn on(&self, host: &str) -> Result<Snapshot, String> {
        let output = self.lab.exec(host, &["tsugi", "state", "ledger", "--json"]).unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
        }
        let mut all: Vec<Snapshot> = serde_json::from_slice(&output.stdout).unwrap();
        Ok(all.remove(0))
    }

    fn generation_on(&self, host: &str) -> u64 {
        self.on(host).unwrap().config_generation
    }

    /// Apply must fail because `dir` is missing on n2, and only because of that.
    fn apply_misses(&self, dir: &str) {
        let failed = self.apply();
        assert_eq!(failed["state"], "failed", "{failed}");
        let part = |node: &str| failed["nodes"].as_array().unwrap().iter().find(|p| p["node"] == node).unwrap().clone();
        let problems = part("n2")["problems"].as_array().unwrap().clone();
        assert_eq!(problems.len(), 1, "{failed}");
        let problem = problems[0].as_str().unwrap();
        let expected = [&format!("safe/service/rfs/replicated dir=\"{dir}\""), "on n2", &format!("mkdir -p '{dir}'")];
        assert!(expected.iter().all(|e| problem.contains(*e)), "element, node and remedy: {problem}");
        assert_eq!((&part("n1")["problems"], &part("n1")["why"]["note"]), (&json!([]), &json!("not_everywhere")), "{failed}");
        assert!(failed["message"].as_str().unwrap().contains(&format!("n2: safe/service/rfs/replicated dir=\"{dir}\"")), "{failed}");
    }
}

#[test]
fn a_wrong_configuration_is_shown_at_its_place_in_both_languages_and_not_stored() {
    let bench = bench();
    bench.api.must(Method::POST, MODULES, Some(&body("ledger", &ledger(VIP, "/srv/data/ledger")))).unwrap();
    let before = bench.get(MODULES);
    let versions = bench.get(&format!("{MODULES}/ledger/versions"));

    let good = ledger("198.18.0.101", "/srv/data/other");
    let with = |from: &str, to: &str| {
        assert_eq!(good.userconfig.matches(from).count(), 1, "{from}");
        ModuleFiles { userconfig: good.userconfig.replace(from, to), scripts: good.scripts.clone() }
    };
    // The slip, what the place points at, the element, and a word of the message in either language.
    let slips = [
        ("malformed", with("</rfs>", "</rf>"), "</rf>", "rfs", "</rf>"),
        ("unknown element", with("<heart profile", "<hart profile"), "<hart ", "hart", "`hart`"),
        ("bad unit", with("starttimeout=\"30s\"", "starttimeout=\"30parsec\""), "30parsec", "user starttimeout", "`30parsec`"),
        ("duplicate address", ledger(VIP, "/srv/data/other"), VIP, "vip", VIP),
    ];
    for (what, files, points_at, element, word) in &slips {
        let [en, ja] = bench.refused(MODULES, &body("other", files));
        for (lang, problem) in [("en", &en), ("ja", &ja)] {
            let said = format!("{what} in {lang}: {problem}");
            assert_eq!(problem["file"], "conf/userconfig.xml", "{said}");
            let (line, column) = (problem["line"].as_u64().unwrap() as usize, problem["column"].as_u64().unwrap() as usize);
            assert!(line >= 1 && column >= 1, "{said}");
            let rest: String = files.userconfig.lines().nth(line - 1).unwrap().chars().skip(column - 1).collect();
            assert!(rest.starts_with(points_at), "{said} points at {rest}");
            assert!(problem["element"].as_str().unwrap().ends_with(element), "{said}");
            let (message, remedy) = (problem["message"].as_str().unwrap(), problem["remedy"].as_str().unwrap());
            assert!(message.contains(word) && !remedy.is_empty(), "{said}");
            assert_eq!((is_japanese(message), is_japanese(remedy)), (lang == "ja", lang == "ja"), "{said}");
        }
        // The same slip in a new version of a module that is there.
        if *what != "duplicate address" {
            let version = json!({"userconfig": files.userconfig, "scripts": files.scripts});
            let [again, _] = bench.refused(&format!("{MODULES}/ledger/versions"), &version);
            assert_eq!(again, en);
        }
        let (status, _) = bench.api.call(Method::GET, &format!("{MODULES}/other"), None).unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND, "{what}");
    }
    assert_eq!(bench.get(MODULES)["modules"].as_array().unwrap().len(), before["modules"].as_array().unwrap().len());
    assert_eq!(bench.get(&format!("{MODULES}/ledger/versions")), versions, "nothing was stored");
    // The right one goes in: it was the slips.
    bench.api.must(Method::POST, MODULES, Some(&body("other", &good))).unwrap();
}

#[test]
fn a_directory_missing_on_one_node_keeps_the_version_from_both() {
    let bench = bench();
    bench.lab.sh("n1", "mkdir -p /srv/data/ledger /srv/data/second").unwrap();
    bench.api.must(Method::POST, MODULES, Some(&body("ledger", &ledger(VIP, "/srv/data/ledger")))).unwrap();
    bench.apply_misses("/srv/data/ledger");
    assert_eq!(bench.get(&format!("{MODULES}/ledger"))["applied_version"], Value::Null);
    for host in ["n1", "n2"] {
        let said = bench.on(host).unwrap_err();
        assert!(said.contains("no module ledger"), "{host}: {said}");
    }
    // The remedy helps.
    bench.lab.sh("n2", "mkdir -p '/srv/data/ledger'").unwrap();
    assert_eq!(bench.apply()["state"], "succeeded");
    let first = bench.generation_on("n1");
    assert_eq!(bench.generation_on("n2"), first);

    // The same with a version that is in force already: it stays in force on both.
    let second = ledger(VIP, "/srv/data/second");
    let version = json!({"userconfig": second.userconfig, "scripts": second.scripts});
    bench.api.must(Method::POST, &format!("{MODULES}/ledger/versions"), Some(&version)).unwrap();
    bench.apply_misses("/srv/data/second");
    assert_eq!(bench.get(&format!("{MODULES}/ledger"))["applied_version"], 1);
    assert_eq!((bench.generation_on("n1"), bench.generation_on("n2")), (first, first));
    bench.lab.sh("n2", "mkdir -p '/srv/data/second'").unwrap();
    assert_eq!(bench.apply()["state"], "succeeded");
    assert_eq!(bench.get(&format!("{MODULES}/ledger"))["applied_version"], 2);
    let after = bench.generation_on("n1");
    assert!(after > first && bench.generation_on("n2") == after);

    // What runs is not changed under way, also not on the node where it does not run.
    bench.api.action(CLUSTER, "ledger", "prim", Some("n1")).unwrap();
    bench.api.wait_module(CLUSTER, "ledger", "n1 to serve", BOUND, |v| v.state("n1") == ALONE).unwrap();
    let failed =
        wait_for("apply to be possible", BOUND, || (bench.get(&format!("{MODULES}/ledger"))["operation"].is_null()).then(|| bench.apply()))
            .unwrap();
    let why = failed["nodes"][0]["problems"][0].as_str().unwrap();
    assert!(failed["state"] == "failed" && why.contains("on n1") && why.contains("tsugi stop ledger"), "{failed}");
    assert_eq!((bench.generation_on("n1"), bench.generation_on("n2")), (after, after));
}
