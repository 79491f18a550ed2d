//! Scripts that hang, fail, write without end, or leave behind more than they should.

use crate::bench::Bench;
use tsugi_core::state::{Reason, State};
use tsugi_tests::api::ModuleView;
use tsugi_tests::setup::CLUSTER;

/// Processes a module may have here; the ledger and a script need a handful.
const PIDS_MAX: u32 = 64;
/// Largest sum of a module's script logs: a few files of 2 MiB.
const LOGS_BYTES_MAX: u64 = 12 << 20;
/// What a script leaves; found by its argument.
const LEFT: &str = "100077";

/// What a script does on a host where the file `/run/fault` says so. Everything it starts sleeps for [`LEFT`] seconds.
const FAULTS: &str = r#"
case "$(cat /run/fault 2>/dev/null)/${0##*/}" in
    start-hangs/start_prim | stop-hangs/stop_prim) sleep 100077 ;;
    start-fails/start_prim) echo 'this is why' >&2; exit 1 ;;
    start-writes/start_prim) head -c 60000000 /dev/zero | tr '\0' 'x' | fold -w 99 ;;
    start-leaves/start_prim)
        # Another session, no environment to be known by, deaf to all that asks nicely, and no parent.
        (env -i setsid sh -c 'trap "" HUP INT TERM; /bin/sleep 100077; /bin/sleep 100077' &) ;;
    start-bombs/start_prim)
        bomb() { bomb & bomb & sleep 100077; }
        bomb 2>/dev/null ;;
esac
"#;

fn start(lab: &str) -> Bench {
    Bench::start_with(lab, |_, _, files| {
        let times = format!("<user pids_max=\"{PIDS_MAX}\" starttimeout=\"6s\" nicestoptimeout=\"3s\" forcestoptimeout=\"3s\">");
        let from = "<user starttimeout=\"30s\" nicestoptimeout=\"20s\" forcestoptimeout=\"10s\">";
        assert!(files.userconfig.contains(from));
        files.userconfig = files.userconfig.replace(from, &times);
        for name in ["start_prim", "stop_prim"] {
            let text = files.scripts.get_mut(name).unwrap();
            *text = text.replacen("\n", FAULTS, 1);
        }
        Ok(())
    })
}

impl Bench {
    fn set_fault(&self, host: &str, fault: &str) {
        self.sh(host, &format!("echo {fault} >/run/fault"));
    }

    fn swap(&self) {
        self.pair.api.action(CLUSTER, "ledger", "swap", None).unwrap();
    }

    /// Processes of the host with something like this in their command.
    fn left(&self, pattern: &str, host: &str) -> String {
        self.sh(host, &format!("pgrep -af '{pattern}' | grep -v pgrep || true"))
    }

    /// Nothing of the application and nothing of a script is left on the host.
    fn assert_nothing_left(&self, host: &str) {
        assert_eq!(self.left(&format!("{LEFT}|tsugi-ledge[r]"), host), "", "left on {host}");
    }
}

fn script_failed(view: &ModuleView, node: &str) -> bool {
    matches!(view.nodes[node].snapshot.as_ref().and_then(|s| s.reason.clone()), Some(Reason::ScriptFailed { .. }))
}

#[test]
fn a_start_script_that_hangs_fails_or_bombs_is_ended_and_the_service_returns_to_the_other_node() {
    let bench = start("t-f-start");
    for fault in ["start-hangs", "start-fails", "start-bombs"] {
        bench.set_fault("n2", fault);
        bench.swap();
        let view = bench.wait("n2 to wait for its script", |v| v.state("n2").is_some_and(|s| s.0 == State::Wait) && script_failed(v, "n2"));
        println!("{fault}: {}", view.line());
        bench.wait("n1 to serve again", |v| v.state("n1").is_some_and(|s| s.0.is_serving()));
        bench.goes_on();
        bench.assert_nothing_left("n2");
        bench.wait_sh("n2", "tsugi state ledger", "start_prim");
        // The remedy: what is wrong is put right, and the module started anew.
        bench.sh("n2", "rm /run/fault; tsugi stop ledger; tsugi start ledger");
        bench.wait_roles("n1", "n2");
        bench.goes_on();
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_stop_script_that_hangs_is_ended_with_everything_before_the_other_node_begins() {
    let bench = start("t-f-stop");
    bench.set_fault("n1", "stop-hangs");
    bench.swap();
    bench.wait("n2 to serve", |v| v.state("n2").is_some_and(|s| s.0.is_serving()));
    bench.assert_nothing_left("n1");
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn what_a_script_leaves_behind_ends_with_the_module() {
    let bench = start("t-f-left");
    bench.set_fault("n2", "start-leaves");
    bench.swap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    assert!(!bench.left(LEFT, "n2").is_empty(), "what should be left is not");
    bench.swap();
    bench.wait_roles("n1", "n2");
    bench.assert_nothing_left("n2");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_script_that_writes_without_end_fills_no_disk() {
    let bench = start("t-f-writes");
    bench.set_fault("n2", "start-writes");
    bench.swap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    let bytes: u64 = bench.sh("n2", "du -sb /var/lib/tsugi/modules/ledger/log | cut -f1").parse().unwrap();
    println!("60 MB written by a script; {bytes} bytes kept");
    assert!(bytes < LOGS_BYTES_MAX, "{bytes}");
    bench.finish(&["n1", "n2"]);
}
