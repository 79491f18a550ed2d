//! Configurations as they are shipped and as administrators get them wrong.
//!
//! Every shipped module is accepted without a remark; a shipped configuration with one slip in it is refused whole,
//! with the sentence the manual shows.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tsugi_core::cluster::ClusterDef;
use tsugi_core::cluster::xml::{parse_cluster, to_xml};
use tsugi_core::ids::{ClusterName, NodeName};
use tsugi_core::module::xml::{ParseContext, Parsed, Problem, parse};
use tsugi_core::module::{Action, Async, Authority, Mode, Probe, ScriptName};

fn modules() -> BTreeMap<String, PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules");
    let folders = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    folders.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), p)).collect()
}

fn userconfig(module: &str) -> String {
    std::fs::read_to_string(modules()[module].join("conf/userconfig.xml")).unwrap()
}

fn cluster() -> ClusterDef {
    let text = r#"<cluster>
  <lans>
    <lan name="default" command="on"><node name="n1" addr="192.0.2.11"/><node name="n2" addr="192.0.2.12"/></lan>
    <lan name="private"><node name="n1" addr="198.51.100.11"/><node name="n2" addr="198.51.100.12"/></lan>
  </lans>
</cluster>"#;
    parse_cluster(text, &ClusterName::new("office").unwrap()).def.unwrap()
}

fn read(text: &str) -> Parsed {
    let (cluster, nodes) = (cluster(), ["n1", "n2"].map(|n| NodeName::new(n).unwrap()));
    parse(text, &ParseContext { cluster: Some(&cluster), nodes: &nodes })
}

#[test]
fn every_shipped_module_is_accepted_without_a_remark() {
    assert_eq!(modules().into_keys().collect::<Vec<_>>(), ["ledger", "light", "mirror", "postgresql"]);
    for module in modules().keys() {
        let parsed = read(&userconfig(module));
        assert_eq!(parsed.problems, [], "{module}");
        let def = parsed.def.unwrap();
        if def.mode == Mode::Light {
            assert_eq!((def.rfs, def.vips.len()), (None, 0), "{module}");
            continue;
        }
        let rfs = def.rfs.unwrap();
        assert_eq!(
            (def.authority, rfs.ack, rfs.replicated.len()),
            (Authority::Arbiter, Async::None, 1),
            "{module}: the safe values are shipped"
        );
        assert_eq!(def.vips.len(), 1, "{module}");
    }
}

#[test]
fn the_shipped_applications_are_watched_and_restarted() {
    for (module, port) in [("ledger", 8080), ("postgresql", 5432)] {
        let checks = read(&userconfig(module)).def.unwrap().checks;
        let proc = checks.iter().find(|c| matches!(c.probe, Probe::Proc { .. })).unwrap();
        let tcp = checks.iter().find(|c| matches!(c.probe, Probe::Tcp { .. })).unwrap();
        assert_eq!((proc.action, tcp.action), (Action::Restart, Action::Restart), "{module}");
        assert!(matches!(&tcp.probe, Probe::Tcp { addr, port: p, .. } if addr == "192.0.2.100" && *p == port), "{module}: {tcp:?}");
        assert!(checks.iter().any(|c| c.name == "ip.192.0.2.100"), "{module}: the address is watched too");
    }
}

#[test]
fn shipped_modules_are_complete_and_their_scripts_are_sound() {
    for (module, dir) in modules() {
        for file in ["README.md", "README.ja.md"] {
            assert!(std::fs::read_to_string(dir.join(file)).unwrap().lines().count() > 20, "{module}/{file}");
        }
        let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["name"], module.as_str());
        for language in ["en", "ja"] {
            assert!(!manifest["description"][language].as_str().unwrap().is_empty(), "{module} {language}");
        }
        // Every value the manifest asks for is a macro of the configuration.
        let text = userconfig(&module);
        for asked in manifest["macros"].as_array().unwrap() {
            assert!(text.contains(&format!("<macro name={} value=", asked["name"])), "{module} has no macro {}", asked["name"]);
        }
        let is_light = manifest["mode"] == "light";
        let (start, stop) =
            if is_light { (ScriptName::StartBoth, ScriptName::StopBoth) } else { (ScriptName::StartPrim, ScriptName::StopPrim) };
        for script in [ScriptName::Prestart, start, stop] {
            assert!(dir.join("bin").join(script.file()).is_file(), "{module} lacks {}", script.file());
        }
        for entry in std::fs::read_dir(dir.join("bin")).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755, "{}", path.display());
            assert!(std::fs::read_to_string(&path).unwrap().starts_with("#!/bin/sh\n# "), "{} says what it is", path.display());
            assert!(Command::new("sh").arg("-n").arg(&path).status().unwrap().success(), "{}", path.display());
        }
    }
}

/// The shipped template with one slip in it: what is said about it. Nothing of it may be used.
fn refused(from: &str, to: &str) -> Vec<String> {
    let text = userconfig("mirror");
    assert_eq!(text.matches(from).count(), 1, "the slip is made in one place: {from}");
    let parsed = read(&text.replace(from, to));
    assert_eq!(parsed.def, None, "nothing is half applied");
    parsed.problems.iter().map(Problem::to_string).collect()
}

#[test]
fn malformed_xml_is_refused_where_it_breaks() {
    assert_eq!(
        refused("<heart profile=\"normal\"/>", "<heart profile=\"normal/>"),
        ["18:27 safe/service/heart: This does not end: `\"` was expected. Add `\"`."]
    );
}

#[test]
fn an_unknown_element_is_refused_with_the_one_that_was_meant() {
    assert_eq!(
        refused("<replicated dir=\"%DIR%\"/>", "<replicate dir=\"%DIR%\"/>"),
        ["22:7 safe/service/rfs/replicate: There is no element `replicate`. Did you mean `replicated`?",]
    );
}

#[test]
fn a_bad_unit_is_refused_with_the_units_there_are() {
    assert_eq!(
        refused("nicestoptimeout=\"300s\"", "nicestoptimeout=\"5min\""),
        [
            "37:48 safe/service/user nicestoptimeout: `5min` does not end with a unit of time. Write a whole number and one of `d`, `h`, `m`, `s`."
        ]
    );
}

#[test]
fn a_virtual_address_given_twice_is_refused_with_both_places() {
    let address = "<virtual_addr addr=\"%VIP%\" where=\"one_side_alias\"/>";
    assert_eq!(
        refused(address, &format!("{address}\n            {address}")),
        ["31:33 safe/service/vip/interface_list/interface/real_interface/virtual_addr addr: \
          The virtual address 192.0.2.100 is already given at 30:33. Remove one of the two."]
    );
}

#[test]
fn a_directory_that_is_no_absolute_path_is_refused() {
    assert_eq!(
        refused("name=\"DIR\" value=\"/srv/data\"", "name=\"DIR\" value=\"srv/data\""),
        ["22:24 safe/service/rfs/replicated dir: The directory `srv/data` is not an absolute path. Write the path from the root: /…"]
    );
}

#[test]
fn a_directory_that_is_missing_on_a_node_is_the_nodes_to_find() {
    let text = userconfig("mirror").replace("/srv/data", "/srv/nowhere");
    let parsed = read(&text);
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.def.unwrap().rfs.unwrap().replicated[0].dir, "/srv/nowhere");
}

/// The template with this text behind its heartbeats, in lines of its own from line 19.
fn refused_with(text: &str) -> Vec<String> {
    let heart = "<heart profile=\"normal\"/>";
    refused(heart, &format!("{heart}\n{text}"))
}

#[test]
fn a_rule_with_a_slip_is_refused_at_its_character() {
    assert_eq!(
        refused_with("<failover><![CDATA[\n a: if (tcp.web = down) then stop();\n]]></failover>"),
        ["20:17 safe/service/failover: Found `=` where `)` was expected. A rule looks like `label: if (tcp.web == down) then restart();`."]
    );
    assert_eq!(
        refused_with("<failover><![CDATA[--Lua Rules\nRules = Rules + {}]]></failover>"),
        ["19:20 safe/service/failover: The Lua form of the rules is not read: rules are checked before they are used, and what a program \
          will do cannot be. Write each rule as `label: if (…) then action();`."]
    );
}

#[test]
fn a_mirror_is_not_made_light_by_its_mode_alone() {
    let found = refused("mode=\"mirror\"", "mode=\"light\"");
    let wrong = |place: &str, what: &str| {
        format!(
            "{place} safe/service/{what}: `{what}` does not belong into a module with mode=\"light\". Remove it, or change the mode of the module."
        )
    };
    assert_eq!(found, [wrong("18:5", "heart"), wrong("21:5", "rfs"), wrong("26:5", "vip")]);
}

#[test]
fn an_action_that_cannot_follow_while_the_module_waits_is_refused_with_those_that_can() {
    let found = refused_with("<check><ping ident=\"r\" action=\"restart\"><to addr=\"192.0.2.1\"/></ping></check>");
    let ours = "19:32 safe/service/check/ping action: Action `restart` cannot be used with when=\"pre\". Write `wait` or `noaction`.";
    assert!(found.iter().any(|f| f == ours), "{found:#?}");
}

#[test]
fn several_slips_are_reported_at_once() {
    let text = userconfig("mirror")
        .replace("async=\"none\"", "async=\"never\"")
        .replace("<vip>", "<vip tcpreste=\"on\">")
        .replace("value=\"192.0.2.100\"", "value=\"192.0.2.11\"")
        .replace("starttimeout=\"120s\"", "starttimeout=\"500ms\"");
    let parsed = read(&text);
    assert_eq!(parsed.def, None);
    let places: Vec<String> = parsed.problems.iter().map(|p| p.place.to_string()).collect();
    assert_eq!(places, ["21:17", "26:10", "30:33", "37:25"], "{:#?}", parsed.problems);
}

#[test]
fn a_cluster_is_written_as_it_was_read() {
    let cluster = cluster();
    assert_eq!(parse_cluster(&to_xml(&cluster), &cluster.name).def, Some(cluster));
}
