//! What is watched on real hosts, and what follows: a process that is killed, a checker of one's own that speaks by
//! `safekit`, modules that wait for one another and stop in order.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tsugi_tests::lab::{Lab, Plan};
use tsugi_tests::setup::{self, ModuleFiles, wait_for};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const BOUND: Duration = Duration::from_secs(60);
/// Of a process killed until its start script runs again. On an idle machine it is some tens of milliseconds.
const RESTART_MAX_MS: u64 = 5_000;

/// Writes what is called, and when, to a file of its own on the node.
fn noting(what: &str, then: &str) -> String {
    format!("#!/bin/sh\necho \"$(date +%s%N) {what}\" >>\"$TSUGI_STATE_DIR/calls\"\n{then}\n")
}

fn files(inside: &str, scripts: &[(&str, String)]) -> ModuleFiles {
    let userconfig = format!("<safe><service mode=\"mirror\" maxloop=\"10\"><user/>{inside}</service></safe>");
    ModuleFiles { userconfig, scripts: scripts.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect::<BTreeMap<_, _>>() }
}

fn database() -> ModuleFiles {
    let start = "setsid sleep 100001 >/dev/null 2>&1 &\necho $! >\"$TSUGI_STATE_DIR/db.pid\"\n\
                 until [ \"$(cat /proc/$!/comm)\" = sleep ]; do sleep 0.01; done";
    let stop = "kill -9 $(cat \"$TSUGI_STATE_DIR/db.pid\") 2>/dev/null || true";
    files(
        "<errd polltimer=\"30s\"><proc name=\"sleep\" argregex=\"100001\" action=\"restart\"/></errd>",
        &[("start_prim", noting("start db", start)), ("stop_prim", noting("stop db", stop))],
    )
}

fn web() -> ModuleFiles {
    let checker = "#!/bin/sh\nlast=\nwhile :; do\n  if [ -e \"$3\" ]; then now=down; else now=up; fi\n  \
                   [ \"$now\" = \"$last\" ] || safekit set -r \"$2\" -v \"$now\" -i flagcheck -m \"$1\" && last=$now\n  sleep 0.1\ndone\n";
    files(
        "<depends><on module=\"db\" state=\"prim\"/></depends>\
         <check><custom ident=\"flag\" exec=\"flagcheck\" arg=\"/var/lib/tsugi/flag\" action=\"restart\"/></check>\
         <failover><![CDATA[ odd: if (custom.flag == down && module.db == down) then stop(); ]]></failover>",
        &[
            ("start_prim", noting("start web", "rm -f /var/lib/tsugi/flag")),
            ("stop_prim", noting("stop web", "")),
            ("flagcheck", checker.to_owned()),
        ],
    )
}

/// Calls of scripts on a host, oldest first: nanoseconds and words.
fn calls(lab: &Lab, host: &str) -> Vec<(u64, String)> {
    let text = lab.sh(host, "cat /var/lib/tsugi/calls 2>/dev/null || true").unwrap();
    text.lines().filter_map(|l| l.split_once(' ')).map(|(at, what)| (at.parse().unwrap(), what.to_owned())).collect()
}

fn count(lab: &Lab, host: &str, what: &str) -> usize {
    calls(lab, host).iter().filter(|(_, w)| w == what).count()
}

fn wait_said(lab: &Lab, host: &str, line: &str, wanted: &str) {
    let said = || lab.sh(host, line).unwrap_or_else(|e| format!("{e:#}"));
    wait_for(wanted, BOUND, || said().contains(wanted).then_some(())).unwrap_or_else(|e| panic!("{e:#}\n{host}: {line}:\n{}", said()));
}

#[test]
fn processes_checkers_and_dependencies_on_real_hosts() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::start("t-watching", &Plan { console: true, disk_bytes: 256 << 20, ..Plan::default() }).unwrap();
    let api = setup::set_up(&lab).unwrap();
    setup::apply_module(&api, "db", &["n1", "n2"], &database()).unwrap();
    setup::apply_module(&api, "web", &["n1", "n2"], &web()).unwrap();

    // A module waits for the one it depends on, says so, and starts by itself when that one serves.
    lab.sh("n1", "tsugi prim web --no-wait").unwrap();
    wait_said(&lab, "n1", "tsugi state web", "waits on n1 for a module it depends on (module.db): module db is STOP, not ready");
    assert_eq!(count(&lab, "n1", "start web"), 0);
    lab.sh("n1", "tsugi prim db").unwrap();
    wait_said(&lab, "n1", "tsugi state web", "ALONE (Ready)");
    let order: Vec<String> = calls(&lab, "n1").into_iter().map(|(_, w)| w).filter(|w| w.starts_with("start")).collect();
    assert_eq!(order, ["start db", "start web"]);
    lab.sh("n2", "tsugi start db").unwrap();
    lab.sh("n2", "tsugi start web --no-wait").unwrap();
    wait_said(&lab, "n2", "tsugi state web", "module db is SECOND");

    // What is watched, and the rules, are there to be read.
    wait_said(&lab, "n1", "tsugi get -r custom.flag -m web", "up");
    let rules = lab.sh("n1", "tsugi rules -m web").unwrap();
    for wanted in
        ["· module_failure: if (module.? == down) then wait();", "module.db up; done after 0.000 s", "· c_flag:", "· odd:", "wakeup"]
    {
        assert!(rules.contains(wanted), "{wanted} is not in:\n{rules}");
    }

    // A killed process: the end is seen, and the application started again in place.
    let before = count(&lab, "n1", "start db");
    let killed: u64 = lab.sh("n1", "now=$(date +%s%N); kill -9 $(cat /var/lib/tsugi/db.pid); echo $now").unwrap().trim().parse().unwrap();
    wait_for("db to start again", BOUND, || (count(&lab, "n1", "start db") > before).then_some(())).unwrap();
    let again = calls(&lab, "n1").into_iter().rfind(|(_, w)| w == "start db").unwrap().0;
    let millis = (again - killed) / 1_000_000;
    println!("a killed process: its start script ran {millis} ms later");
    assert!(millis < RESTART_MAX_MS, "{millis} ms");
    wait_said(&lab, "n1", "tsugi state db", "PRIM (Ready)");
    // Its dependent was stopped and started with it.
    wait_for("web to start again", BOUND, || (count(&lab, "n1", "start web") == 2).then_some(())).unwrap();
    wait_said(&lab, "n1", "tsugi state web", "ALONE (Ready)");

    // A checker of one's own says that something is down; switched off, it is not heard.
    wait_said(&lab, "n1", "tsugi get -r custom.flag -m web", "up");
    lab.sh("n1", "touch /var/lib/tsugi/flag").unwrap();
    wait_for("web to be restarted", BOUND, || (count(&lab, "n1", "start web") == 3).then_some(())).unwrap();
    wait_said(&lab, "n1", "tsugi get -r custom.flag -m web", "up");
    lab.sh("n1", "tsugi checker off -m web; tsugi errd off -m db").unwrap();
    wait_said(&lab, "n1", "tsugi get -r custom.flag -m web", "off");
    assert!(lab.sh("n1", "tsugi set -r custom.flag -v down -m web").is_err(), "a value of what is not watched is not taken");
    lab.sh("n1", "tsugi checker on -m web; tsugi errd on -m db").unwrap();
    wait_said(&lab, "n1", "tsugi errd list -m db", "proc.sleep");

    // The agent stops who depends before whom it depends on.
    lab.set_service("n1", "agent", false).unwrap();
    wait_for("db to stop", BOUND, || calls(&lab, "n1").last().is_some_and(|(_, w)| w == "stop db").then_some(())).unwrap();
    let stops: Vec<String> = calls(&lab, "n1").into_iter().map(|(_, w)| w).collect();
    let web_stop = stops.iter().rposition(|w| w == "stop web").unwrap();
    let db_stops: Vec<usize> = (0..stops.len()).filter(|n| stops[*n] == "stop db").collect();
    assert!(db_stops.iter().rev().take(2).all(|n| *n > web_stop), "{stops:?}");
    wait_said(&lab, "n2", "tsugi state db", "ALONE (Ready)");
}
