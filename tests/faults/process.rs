//! Processes that die or stand still.

use crate::bench::{Bench, other};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tsugi_core::event::{Event, EventRecord, GuardAct};
use tsugi_core::state::{Readiness, State};
use tsugi_tests::api::ALONE;
use tsugi_tests::events;
use tsugi_tests::lab::CONSOLE;

/// Long enough to be taken over from, and far longer than that.
const PAUSES: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(30)];

const KILL_AGENT: &str = "kill -9 $(pgrep -f 'tsugi-agent ru[n]')";
const KILL_DATA: &str = "kill -9 $(pgrep -f 'tsugi-agent dat[a]')";
const KILL_GUARD: &str = "kill -9 $(pgrep -f 'tsugi-agent guar[d]')";

/// The rest of `time`, counted from `begin`: the length of a fault, not a wait for something.
fn rest_of(time: Duration, begin: Instant) {
    std::thread::sleep(time.saturating_sub(begin.elapsed()));
}

fn has_begun_anew(bench: &Bench, host: &str, since: u64) -> bool {
    bench.events(host, since).iter().any(|record| record.event == Event::AgentStarted)
}

/// A module is at rest on this host: the next life of its agent can go on with it.
const IS_KEPT: &str = "test -e /run/tsugi/kept-ledger.json && echo kept || echo begins anew";
/// Killed while something is under way: nothing is kept then.
const KILL_BUSY_AGENT: &str = "rm -f /run/tsugi/kept-ledger.json; kill -9 $(pgrep -f 'tsugi-agent ru[n]')";
/// Killed, and its supervisor does not start it again before it is told to.
const KILL_AGENT_FOR_NOW: &str = "kill -9 $(pgrep -f 'tsugi-agent ru[n]'); rm /srv/host/lab/agent.enabled";
/// The program that is installed takes the place of the running one.
const RELOAD_AGENT: &str = "kill -HUP $(pgrep -f 'tsugi-agent ru[n]')";

/// What happens to the agent of a host at rest, and that nobody but its own log notices.
fn unnoticed(bench: &Bench, host: &str, deed: &str) {
    for host in ["n1", "n2"] {
        bench.wait_sh(host, IS_KEPT, "kept");
    }
    let (since, begin, failures) = (events::unix_ms_now(), Instant::now(), bench.failures());
    let state = |host: &str| bench.snapshot(host).map(|s| (s.state, s.readiness, s.epoch, s.session));
    let before = ["n1", "n2"].map(state);
    let application = bench.sh("n1", "pgrep -f tsugi-ledge[r] || true");
    bench.sh(host, deed);
    let went_on = || bench.events(host, since).iter().any(|record| record.event == Event::AgentWentOn);
    bench.wait("the next life of the agent", |_| went_on() || has_begun_anew(bench, host, since));
    bench.wait_sh(host, IS_KEPT, "kept");
    bench.goes_on();
    assert!(went_on() && !has_begun_anew(bench, host, since), "{host}: {deed}: {:?}", bench.events(host, since));
    assert_eq!(["n1", "n2"].map(state), before, "{host}: {deed}");
    assert_eq!(bench.sh("n1", "pgrep -f tsugi-ledge[r] || true"), application, "the application is the same");
    for host in ["n1", "n2"] {
        let turns: Vec<_> = bench.events(host, since).into_iter().filter(|r| matches!(r.event, Event::Entered { .. })).collect();
        assert!(turns.is_empty(), "{host}: {turns:?}");
    }
    assert_eq!(bench.failures(), failures, "no request fails");
    println!("{host}: {deed}: the client waited {:.2} s", bench.gap_since(begin));
}

#[test]
fn an_agent_that_is_killed_or_replaced_goes_on_where_it_was_and_nobody_notices() {
    let bench = Bench::start("t-f-goeson");
    for host in ["n1", "n2"] {
        unnoticed(&bench, host, KILL_AGENT);
        unnoticed(&bench, host, RELOAD_AGENT);
    }
    // It is the engine it was: it swaps, it resynchronises, it takes over.
    bench.sh("n1", "tsugi swap ledger");
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    bench.lab().kill("n2").unwrap();
    bench.wait("n1 alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    // Alone it has no deadline: it is left in service for as long as its agent is away.
    bench.wait_sh("n1", IS_KEPT, "kept");
    let (since, begin, failures) = (events::unix_ms_now(), Instant::now(), bench.failures());
    bench.sh("n1", KILL_AGENT_FOR_NOW);
    rest_of(PAUSES[0], begin);
    bench.goes_on();
    bench.lab().set_service("n1", "agent", true).unwrap();
    bench.wait("the next life of the agent", |_| bench.events("n1", since).iter().any(|r| r.event == Event::AgentWentOn));
    assert_eq!(bench.failures(), failures, "no request fails");
    bench.lab().boot("n2").unwrap();
    bench.wait_roles("n1", "n2");
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_primary_whose_agent_stays_away_is_frozen_and_taken_over() {
    let bench = Bench::start("t-f-away");
    bench.wait_sh("n1", IS_KEPT, "kept");
    let since = events::unix_ms_now();
    bench.sh("n1", KILL_AGENT_FOR_NOW);
    bench.wait("n2 alone", |v| v.state("n2") == ALONE);
    bench.goes_on();
    // Too late to go on.
    bench.lab().set_service("n1", "agent", true).unwrap();
    bench.wait_roles("n2", "n1");
    assert!(has_begun_anew(&bench, "n1", since));
    let froze = |record: &EventRecord| matches!(record.event, Event::Guard { act: GuardAct::Froze { .. }, .. });
    assert!(bench.events("n1", since).iter().any(froze), "{:?}", bench.events("n1", since));
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn an_agent_killed_on_the_secondary_follows_again_and_the_service_goes_on() {
    let bench = Bench::start("t-f-kill2");
    let since = events::unix_ms_now();
    bench.sh("n2", KILL_BUSY_AGENT);
    bench.goes_on();
    bench.wait("a new life of the agent", |_| has_begun_anew(&bench, "n2", since));
    bench.wait_roles("n1", "n2");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn an_agent_killed_on_the_primary_leaves_one_node_serving_and_nothing_lost() {
    // Its supervisor starts it anew within a second, and a new life starts its modules clean: the service goes on here
    // or there.
    let bench = Bench::start("t-f-kill1");
    let mut prim = "n1";
    for _ in 0..2 {
        let since = events::unix_ms_now();
        bench.sh(prim, KILL_BUSY_AGENT);
        bench.wait("a new life of the agent", |_| has_begun_anew(&bench, prim, since));
        bench.goes_on();
        prim = bench.wait_pair();
    }
    bench.finish(&["n1", "n2"]);
}

/// Started by the module: appends numbered lines to a file that it opens anew for each, and notes outside of the
/// replicated directory what it was told is on the disk.
const OPENS_ANEW: &str = r#"
setsid python3 -c '
import os, sys
n = int(sys.argv[2])
noted = os.open(sys.argv[3], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
while True:
    n += 1
    try:
        file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(file, b"line %d\n" % n)
        os.fsync(file)
        os.close(file)
        os.write(noted, b"line %d\n" % n)
    except OSError:
        pass
' "$LEDGER_DIR/lines" "$(cat /run/first-line 2>/dev/null || echo 0)" /run/noted </dev/null >/dev/null 2>&1 &
"#;

fn opening_anew(lab: &str) -> Bench {
    let bench = Bench::start_with(lab, |lab, _, files| {
        lab.sh("n2", "echo 1000000 >/run/first-line")?;
        let text = files.scripts.get_mut("start_prim").expect("a start script");
        *text = text.replacen(". ./common.sh\n", &format!(". ./common.sh\n{OPENS_ANEW}"), 1);
        Ok(())
    });
    bench.sh("n1", "until [ $(wc -l </run/noted) -gt 20 ]; do :; done");
    bench
}

/// What the application was told on n1 is at the node that serves now.
fn assert_all_lines_at(bench: &Bench, prim: &str) {
    let noted = bench.sh("n1", "cat /run/noted");
    let there = bench.sh(prim, "cat /srv/host/data/ledger/lines");
    let there: BTreeSet<&str> = there.lines().collect();
    let missing: Vec<&str> = noted.lines().filter(|line| !there.contains(line)).collect();
    assert!(missing.is_empty(), "{} of {} lines are not at {prim}: {missing:?}", missing.len(), noted.lines().count());
}

#[test]
fn an_application_that_opens_files_while_the_replication_is_dead_writes_nothing_beside_it() {
    let bench = opening_anew("t-f-beside");
    let begin = Instant::now();
    bench.sh("n1", KILL_DATA);
    bench.goes_on();
    println!("the client waited {:.1} s", bench.gap_since(begin));
    let prim = bench.wait_pair();
    assert_all_lines_at(&bench, prim);
    bench.finish(&["n1", "n2"]);
}

#[test]
fn an_application_that_is_thawed_to_be_stopped_writes_nothing_beside_the_replication() {
    let bench = opening_anew("t-f-thawed");
    // Frozen first; after half a minute given up, with the scripts that stop it.
    for other in ["n2", CONSOLE] {
        bench.lab().cut("n1", other, false, None).unwrap();
    }
    bench.wait_said("n1", "n1 to have given up", |s| s.state == State::Wait);
    bench.wait_sh("n1", "pgrep -c -f first-lin[e] || true", "0");
    assert_all_lines_at(&bench, "n2");
    bench.lab().heal().unwrap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_data_process_or_a_guard_that_is_killed_leaves_one_node_serving_and_nothing_lost() {
    let bench = Bench::start("t-f-killdata");
    bench.sh("n2", KILL_DATA);
    bench.goes_on();
    let prim = bench.wait_pair();
    assert_eq!(prim, "n1", "a copy that is lost is no reason to move the service");

    // With the primary's data process the mount is gone: the other node takes over at once.
    bench.sh("n1", KILL_DATA);
    bench.goes_on();
    let prim = bench.wait_pair();
    bench.goes_on();

    // A guard holds nothing by itself.
    let since = Instant::now();
    bench.sh(prim, KILL_GUARD);
    bench.wait_sh(prim, "pgrep -c -f 'tsugi-agent guar[d]' || true", "1");
    bench.goes_on();
    println!("without its guard for a moment: the client waited {:.1} s at most", bench.gap_since(since));
    assert_eq!(bench.wait_pair(), prim, "a guard that is restarted is no reason to move the service");
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_data_process_that_stands_still_on_the_secondary_costs_the_second_copy_and_not_the_service() {
    let bench = Bench::start("t-f-stopdata");
    let begin = Instant::now();
    bench.sh("n2", "kill -STOP $(pgrep -f 'tsugi-agent dat[a]')");
    bench.wait("the primary alone", |v| v.state("n1") == ALONE);
    bench.goes_on();
    println!("the client waited {:.1} s", bench.gap_since(begin));
    rest_of(PAUSES[0], begin);
    bench.sh("n2", "kill -CONT $(pgrep -f 'tsugi-agent dat[a]') || true");
    bench.wait_roles("n1", "n2");
    // A guard that stands still costs nothing as long as nothing else is wrong.
    let begin = Instant::now();
    bench.sh("n1", "kill -STOP $(pgrep -f 'tsugi-agent guar[d]')");
    while begin.elapsed() < PAUSES[0] {
        bench.goes_on();
    }
    bench.sh("n1", "kill -CONT $(pgrep -f 'tsugi-agent guar[d]') || true");
    bench.goes_on();
    assert_eq!(bench.wait_pair(), "n1");
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_data_process_or_application_that_stands_still_on_the_primary_loses_nothing() {
    let bench = Bench::start("t-f-stopapp");
    for process in ["tsugi-agent dat[a]", "tsugi-ledge[r]"] {
        let prim = bench.wait_pair();
        let begin = Instant::now();
        bench.sh(prim, &format!("kill -STOP $(pgrep -f '{process}')"));
        rest_of(PAUSES[0], begin);
        // It may have been ended meanwhile, for good reason.
        bench.sh(prim, &format!("kill -CONT $(pgrep -f '{process}') || true"));
        bench.goes_on();
        println!("{process} on {prim}: the client waited {:.1} s", bench.gap_since(begin));
        bench.wait_pair();
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn an_arbiter_that_stands_still_delays_a_take_over_and_no_more() {
    let bench = Bench::start("t-f-stoparb");
    bench.lab().pause(CONSOLE).unwrap();
    let begin = Instant::now();
    while begin.elapsed() < PAUSES[0] {
        bench.goes_on();
    }
    bench.lab().kill("n1").unwrap();
    let begin = Instant::now();
    while begin.elapsed() < PAUSES[0] {
        let there = bench.snapshot("n2").unwrap();
        assert!(!there.state.is_serving() && there.vips_held.is_empty(), "{there:?}");
    }
    bench.lab().resume(CONSOLE).unwrap();
    bench.wait_said("n2", "n2 to take over", |s| s.state == State::Alone);
    bench.goes_on();
    bench.lab().boot("n1").unwrap();
    bench.wait_roles("n2", "n1");
    bench.goes_on();
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_primary_whose_processes_all_stand_still_is_taken_over_and_follows_when_they_go_on() {
    let bench = Bench::start("t-f-pause1");
    let mut prim = "n1";
    for time in PAUSES {
        let begin = Instant::now();
        bench.lab().pause(prim).unwrap();
        let next = other(prim);
        bench.wait("the other one alone", |v| v.state(next) == ALONE);
        println!("taken over {:.1} s after the primary stood still", begin.elapsed().as_secs_f64());
        bench.goes_on();
        rest_of(time, begin);
        bench.lab().resume(prim).unwrap();
        bench.wait_roles(next, prim);
        bench.goes_on();
        prim = next;
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn a_secondary_whose_processes_all_stand_still_is_done_without_and_follows_when_they_go_on() {
    let bench = Bench::start("t-f-pause2");
    for time in PAUSES {
        let begin = Instant::now();
        bench.lab().pause("n2").unwrap();
        bench.wait("the primary alone", |v| v.state("n1") == ALONE);
        bench.goes_on();
        println!("the client waited {:.1} s", bench.gap_since(begin));
        rest_of(time, begin);
        // It believes to be level until it hears otherwise, and must not act upon it.
        bench.lab().resume("n2").unwrap();
        bench.wait_roles("n1", "n2");
        bench.goes_on();
    }
    bench.finish(&["n1", "n2"]);
}

#[test]
fn both_hosts_that_stand_still_serve_on_one_node_when_they_go_on() {
    let bench = Bench::start("t-f-pause12");
    for first in ["n1", "n2"] {
        let begin = Instant::now();
        for host in ["n1", "n2"] {
            bench.lab().pause(host).unwrap();
        }
        rest_of(PAUSES[0], begin);
        for host in [first, other(first)] {
            bench.lab().resume(host).unwrap();
        }
        bench.goes_on();
        bench.wait_pair();
    }
    let view = bench.wait("no node out of service", |v| v.state("n1").is_some_and(|(s, r)| s != State::Wait && r == Readiness::Ready));
    println!("{}", view.line());
    bench.finish(&["n1", "n2"]);
}
