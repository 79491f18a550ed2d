//! A day in ten minutes: a database, archives, a repository and random operations on one file at the same time, while the
//! secondary is lost again and again. The ordinary run is a morning of it.

use crate::{DISK_BYTES, alone, fsx, is_long};
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tsugi_tests::files::{DIR, Files, MODULE};
use tsugi_tests::setup::wait_for;

/// How often the secondary loses its power.
fn losses() -> usize {
    if is_long() { 20 } else { 2 }
}

/// From one loss to the next.
const EVERY: Duration = Duration::from_secs(30);
/// Time alone.
const ALONE_FOR: Duration = Duration::from_secs(5);
/// The loads end by themselves this long after they are told to.
const END_BOUND: Duration = Duration::from_secs(60);

/// Prepared once; then repeated until the file of its end is there.
const LOADS: &[(&str, &str, &str)] = &[
    (
        "database",
        "install -d -o postgres -g postgres -m 700 $D/pg; PATH=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1):$PATH; export PATH; cd /; \
         as() { runuser -u postgres -- \"$@\"; }; as initdb -D $D/pg --no-sync >/dev/null; \
         as pg_ctl -w -s -D $D/pg -l /tmp/day.log -o '-c listen_addresses= -c unix_socket_directories=/run/postgresql' start; \
         as pgbench -h /run/postgresql -i -q -s 2 postgres 2>/dev/null; trap 'as pg_ctl -s -D $D/pg -m fast stop' EXIT",
        "as pgbench -h /run/postgresql -c 2 -T 3 postgres",
    ),
    (
        "archive",
        "mkdir -p /run/day $D/tar; tsugi-lab work tree /run/day/tree; tar -C /run/day -cf /run/day/tree.tar tree",
        "tar -xf /run/day/tree.tar -C $D/tar && diff -r /run/day/tree $D/tar/tree && rm -rf $D/tar/tree",
    ),
    (
        "repository",
        "mkdir -p $D/git; cd $D/git; tsugi-lab work tree $D/git/origin; cd origin; G='git -c user.name=d -c user.email=d@d'; git init -q; git add .; $G commit -qm one; cd ..",
        "git clone -q origin clone && ( cd clone && date +%s%N >now && git add now && $G commit -qm now && git fsck --no-progress ) && rm -rf clone",
    ),
];

/// Memory in KiB, and open descriptors, of the data process of a host.
fn of_data_process(pair: &Files, host: &str) -> (u64, u64) {
    let line = "P=$(pgrep -f '[t]sugi-agent data$'); awk '/VmRSS/ {print $2}' /proc/$P/status; ls /proc/$P/fd | wc -l";
    let text = pair.lab.sh(host, line).unwrap();
    let mut numbers = text.lines().map(|l| l.trim().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn begin(pair: &Files, (name, before, again): &(&str, &str, &str)) -> Child {
    let script = format!(
        "set -e; D={DIR}; {before}; touch /run/begun-{name}; while [ ! -e /run/evening ]; do {again} >/run/said-{name} 2>&1 || {{ cat /run/said-{name}; exit 1; }}; done"
    );
    let mut command = pair.lab.command("n1", &["sh", "-c", &script]).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// States of n1 as the console's history has them, each with what followed.
fn history(pair: &Files) -> Vec<(String, String)> {
    let path = format!("/api/v1/events?module={MODULE}&limit=1000&after=0");
    let events = pair.api.must(reqwest::Method::GET, &path, None).unwrap();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let of_n1 = events["events"].as_array().unwrap().iter().filter(|e| e["node"] == "n1" && e["event"] == "entered");
    of_n1.map(|e| (text(&e["from"]), text(&e["to"]))).collect()
}

#[test]
fn a_mixed_load_goes_on_while_the_secondary_is_lost_again_and_again() {
    let _alone = alone();
    let pair = Files::start("t-day", DISK_BYTES, |c| c.replace("maxloop=\"3\"", "maxloop=\"100000\"")).unwrap();
    let mut loads: Vec<_> = LOADS.iter().map(|load| (load.0, begin(&pair, load))).collect();
    // Anew every some thousand operations: it keeps what it has mapped until its end, and so the file open.
    let again = fsx::everything(&pair, "random", "3000", "$(date +%s)");
    loads.push(("random", begin(&pair, &("random", "true", &again))));
    wait_for("the loads to begin", Duration::from_secs(120), || {
        let all = LOADS
            .iter()
            .chain([&("random", "", "")])
            .map(|(name, ..)| format!("test -e /run/begun-{name}"))
            .collect::<Vec<_>>()
            .join(" && ");
        pair.lab.sh("n1", &all).ok()
    })
    .unwrap();
    let mut used = Vec::new();
    for n in 0..losses() {
        let begun = Instant::now();
        pair.lab.kill("n2").unwrap();
        pair.wait_alone("n1").unwrap();
        std::thread::sleep(ALONE_FOR); // the length of the fault, not a wait for something
        pair.lab.boot("n2").unwrap();
        pair.wait_roles("n1", "n2").unwrap();
        used.push(of_data_process(&pair, "n1"));
        println!("{n}: level again after {:.1} s; KiB and descriptors {:?}", begun.elapsed().as_secs_f64(), used[n]);
        for (name, load) in &mut loads {
            let ended = load.try_wait().unwrap();
            let said = pair.lab.sh("n1", &format!("head -n 3 /run/said-{name}; tail -n 20 /run/said-{name}")).unwrap_or_default();
            assert!(ended.is_none(), "{name} has ended: {said}");
        }
        if n + 1 < losses() {
            std::thread::sleep(EVERY.saturating_sub(begun.elapsed())); // the day's pace
        }
    }
    pair.lab.sh("n1", "touch /run/evening").unwrap();
    let begun = Instant::now();
    for (name, load) in loads {
        let output = load.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        assert!(begun.elapsed() < END_BOUND, "{name} took {:?} to end", begun.elapsed());
    }
    let objects = pair.wait_equal("n1", "n2").unwrap();
    assert!(objects > 1_000, "{objects} objects");
    // Each time without protection is in the history, and its end.
    let history = history(&pair);
    let alone = history.iter().filter(|(from, to)| from == "prim" && to == "alone").count();
    let protected = history.iter().filter(|(from, to)| from == "alone" && to == "prim").count();
    assert_eq!((alone, protected), (losses(), losses() + 1), "{history:?}");
    // Nothing grows from one loss to the next.
    let (first, last) = (used[0], used[used.len() - 1]);
    assert!(last.0 < first.0 * 3 / 2 + 30_000, "memory in KiB: {used:?}");
    assert!(last.1 < first.1 * 3 / 2 + 3_000, "descriptors: {used:?}");
}
