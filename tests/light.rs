//! A light module on real hosts: an application that is started, watched and restarted where it is, without a second
//! node; and one that follows a mirror.
//!
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tsugi_core::state::{Readiness, State};
use tsugi_tests::api::Api;
use tsugi_tests::lab::{Lab, Plan};
use tsugi_tests::setup::{self, CLUSTER, ModuleFiles, wait_for};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const BOUND: Duration = Duration::from_secs(60);
const UP: (State, Readiness) = (State::Up, Readiness::Ready);
const WAITS: (State, Readiness) = (State::Wait, Readiness::NotReady);
const STOPPED: (State, Readiness) = (State::Stop, Readiness::NotReady);

fn files(service: &str, inside: &str, scripts: &[(&str, &str)]) -> ModuleFiles {
    let userconfig = format!("<safe><service {service}><user/>{inside}</service></safe>");
    let script = |(name, text): &(&str, &str)| ((*name).to_owned(), format!("#!/bin/sh\n{text}\n"));
    ModuleFiles { userconfig, scripts: scripts.iter().map(script).collect::<BTreeMap<_, _>>() }
}

/// Runs a process of its own and notes each start.
fn app() -> ModuleFiles {
    let start = "setsid sleep 100002 >/dev/null 2>&1 &\necho $! >\"$TSUGI_STATE_DIR/app.pid\"\n\
                 until [ \"$(cat /proc/$!/comm)\" = sleep ]; do sleep 0.01; done\necho \"$1 $2 $3\" >>\"$TSUGI_STATE_DIR/app.calls\"";
    let stop = "kill -9 $(cat \"$TSUGI_STATE_DIR/app.pid\") 2>/dev/null || true";
    files(
        "mode=\"light\" boot=\"on\" maxloop=\"2\" loop_interval=\"1h\"",
        "<errd polltimer=\"30s\"><proc name=\"sleep\" argregex=\"100002\" action=\"restart\"/></errd>",
        &[("prestart", stop), ("start_both", start), ("stop_both", stop)],
    )
}

/// How often `app` was started on a host, over all its lives.
fn starts(lab: &Lab, host: &str) -> usize {
    lab.sh(host, "cat /var/lib/tsugi/app.calls 2>/dev/null || true").unwrap().lines().count()
}

fn kill_app(lab: &Lab, host: &str) {
    let before = starts(lab, host);
    lab.sh(host, "kill -9 $(cat /var/lib/tsugi/app.pid)").unwrap();
    wait_for("the application to be started again", BOUND, || (starts(lab, host) > before).then_some(())).unwrap();
    wait_said(lab, host, "tsugi state app", "UP (Ready)");
}

fn wait_said(lab: &Lab, host: &str, line: &str, wanted: &str) {
    let said = || lab.sh(host, line).unwrap_or_else(|e| format!("{e:#}"));
    wait_for(wanted, BOUND, || said().contains(wanted).then_some(())).unwrap_or_else(|e| panic!("{e:#}\n{host}: {line}:\n{}", said()));
}

fn wait_states(api: &Api, module: &str, wanted: [(State, Readiness); 2]) {
    let what = format!("{module} to be {wanted:?}");
    let is_so = |v: &tsugi_tests::api::ModuleView| ["n1", "n2"].map(|n| v.state(n)) == wanted.map(Some);
    api.wait_module(CLUSTER, module, &what, BOUND, is_so).unwrap();
}

#[test]
fn a_light_module_keeps_its_application_running_where_it_is() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::start("t-light", &Plan { console: true, disk_bytes: 256 << 20, ..Plan::default() }).unwrap();
    let api = setup::set_up(&lab).unwrap();
    setup::apply_module(&api, "app", &["n1", "n2"], &app()).unwrap();

    // boot="on": each node starts it by itself.
    wait_states(&api, "app", [UP, UP]);
    lab.sh("n2", "tsugi stop app").unwrap();
    wait_states(&api, "app", [UP, STOPPED]);
    assert_eq!((starts(&lab, "n1"), starts(&lab, "n2")), (1, 1), "what happens on one node is nothing to the other");
    let note = |key: &str| lab.info().unwrap().notes[key].as_str().unwrap().to_owned();
    let session = api.sign_in(&note("user"), &note("password")).unwrap();
    let (_, page) = session.page(&format!("/clusters/{CLUSTER}/modules/app")).unwrap();
    assert!(page.contains("app runs on n1.") && page.contains("/restart") && !page.contains("/swap"), "{page}");

    // What it has no role for is refused, in words.
    for verb in ["swap", "prim", "second"] {
        let line = format!("tsugi {verb} app 2>&1; echo \"exit $?\"");
        let said = lab.sh("n1", &line).unwrap();
        assert!(said.contains("has no primary or secondary") && !said.contains("exit 0"), "{said}");
    }
    let rehearsed = lab.sh("n1", "tsugi stop app --dry-run").unwrap();
    assert!(rehearsed.contains("stop_both") && !rehearsed.contains("stop_prim"), "{rehearsed}");

    // A process that dies is started again; so is everything after the agent was killed.
    kill_app(&lab, "n1");
    let (pid, before) = (lab.sh("n1", "cat /var/lib/tsugi/app.pid").unwrap(), starts(&lab, "n1"));
    lab.sh("n1", "kill -9 $(pgrep -f 'tsugi-agent ru[n]')").unwrap();
    assert!(lab.sh("n1", &format!("kill -0 {pid}")).is_ok(), "without its agent it goes on");
    wait_for("the next agent to start it", BOUND, || (starts(&lab, "n1") > before).then_some(())).unwrap();
    wait_said(&lab, "n1", "tsugi state app", "UP (Ready)");
    assert_eq!(lab.sh("n1", "pgrep -fc 'sleep 10000[2]'").unwrap().trim(), "1", "nothing of the former life is left");

    // The next life counts on: one automatic action more is allowed, the one after it stops the module.
    kill_app(&lab, "n1");
    lab.sh("n1", "kill -9 $(cat /var/lib/tsugi/app.pid)").unwrap();
    wait_states(&api, "app", [STOPPED, STOPPED]);
    wait_said(&lab, "n1", "tsugi state app", "automatically 2 times");
    lab.sh("n1", "tsugi start app").unwrap();
    wait_states(&api, "app", [UP, STOPPED]);

    // A power failure of the machine.
    let before = starts(&lab, "n1");
    lab.sh("n1", "sync").unwrap();
    lab.kill("n1").unwrap();
    lab.boot("n1").unwrap();
    wait_for("the application to start with the machine", BOUND, || (starts(&lab, "n1") > before).then_some(())).unwrap();
    wait_said(&lab, "n1", "tsugi state app", "UP (Ready)");
}

#[test]
fn a_light_module_follows_the_mirror_it_depends_on() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::start("t-light", &Plan { console: true, disk_bytes: 256 << 20, ..Plan::default() }).unwrap();
    let api = setup::set_up(&lab).unwrap();
    let nodes = ["n1", "n2"];
    setup::apply_module(&api, "db", &nodes, &files("mode=\"mirror\"", "", &[("start_prim", ":")])).unwrap();
    let depends = "<depends><on module=\"db\" state=\"prim\"/></depends>";
    setup::apply_module(&api, "web", &nodes, &files("mode=\"light\"", depends, &[("start_both", ":")])).unwrap();

    api.action(CLUSTER, "web", "start", None).unwrap();
    wait_states(&api, "web", [WAITS, WAITS]);
    lab.sh("n1", "tsugi prim db").unwrap();
    lab.sh("n2", "tsugi start db").unwrap();
    wait_states(&api, "web", [UP, WAITS]);
    lab.sh("n1", "tsugi swap db").unwrap();
    wait_states(&api, "web", [WAITS, UP]);
    wait_said(&lab, "n1", "tsugi state web", "module db is SECOND");
    lab.kill("n2").unwrap();
    wait_said(&lab, "n1", "tsugi state web", "UP (Ready)");
}
