//! A copy that is not served: nobody writes to it, and what is done to it on purpose is put right.

use crate::{DISK_BYTES, alone};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tsugi_core::copies::{DifferenceKind, Reach, Verified, VerifyEnd};
use tsugi_core::event::Event;
use tsugi_core::wire::local::RfsView;
use tsugi_tests::api::ModuleView;
use tsugi_tests::events;
use tsugi_tests::files::{DIR, Files, MODULE};
use tsugi_tests::lab::CONSOLE;
use tsugi_tests::setup::CLUSTER;

/// What writing there says.
fn written(pair: &Files, host: &str) -> String {
    pair.lab.sh(host, &format!("( echo stray >{DIR}/stray && echo written ) 2>&1 || true")).unwrap_or_else(|e| e.to_string())
}

fn is_refused(pair: &Files, host: &str) -> bool {
    written(pair, host).contains("Read-only file system")
}

/// What the last resynchronisation from `host`, which serves, compared.
fn reach(pair: &Files, host: &str) -> Option<Reach> {
    let said = pair.lab.sh(host, &format!("tsugi rfs status -m {MODULE} --json")).unwrap();
    let view: RfsView = serde_json::from_str(&said).unwrap();
    view.figures.unwrap().reach
}

/// How the last comparison that was begun on `host` ended.
fn compared(view: &ModuleView, host: &str) -> Option<Verified> {
    let snapshot = view.nodes.get(host)?.snapshot.as_ref()?;
    snapshot.verification.last.as_ref().map(|last| last.verified.clone())
}

#[test]
fn nobody_writes_to_a_copy_that_is_not_served_unless_it_was_opened() {
    let _alone = alone();
    let pair = Files::start("t-hold", DISK_BYTES, |c| c).unwrap();
    pair.lab.sh("n1", &format!("for n in $(seq 200); do head -c 100000 /dev/urandom >{DIR}/file$n; done; sync")).unwrap();
    assert!(is_refused(&pair, "n2"), "the secondary's");
    pair.lab.sh("n2", &format!("tsugi stop {MODULE}")).unwrap();
    pair.wait_alone("n1").unwrap();
    assert!(is_refused(&pair, "n2"), "a stopped one's");
    // What changed meanwhile is what is compared.
    pair.lab.sh("n1", &format!("echo changed >{DIR}/file7; rm {DIR}/file8")).unwrap();
    pair.lab.sh("n2", &format!("tsugi start {MODULE} --no-wait")).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    pair.wait_equal("n1", "n2").unwrap();
    assert_eq!(reach(&pair, "n1"), Some(Reach::Noted));

    // Somebody has something to do in there.
    let refused = pair.lab.sh("n2", &format!("tsugi rfs open -m {MODULE} 2>&1")).unwrap_err().to_string();
    assert!(refused.contains("stop it on this node first"), "{refused}");
    pair.lab.sh("n2", &format!("tsugi stop {MODULE} && tsugi rfs open -m {MODULE}")).unwrap();
    assert_eq!(written(&pair, "n2"), "written");
    pair.lab.sh("n2", &format!("echo other >{DIR}/file9")).unwrap();
    pair.lab.sh("n2", &format!("tsugi start {MODULE} --no-wait")).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    assert_eq!(reach(&pair, "n1"), Some(Reach::Whole));
    pair.wait_equal("n1", "n2").unwrap();
    assert!(is_refused(&pair, "n2"));

    // From early boot on, before an agent runs.
    pair.lab.set_service("n2", "agent", false).unwrap();
    pair.lab.kill("n2").unwrap();
    pair.wait_alone("n1").unwrap();
    pair.lab.boot("n2").unwrap();
    assert!(is_refused(&pair, "n2"), "after a power failure");
    pair.lab.set_service("n2", "agent", true).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    assert_eq!(reach(&pair, "n1"), Some(Reach::Noted));
    pair.wait_equal("n1", "n2").unwrap();
}

#[test]
fn after_a_swap_and_after_a_power_failure_of_the_primary_little_is_compared() {
    let _alone = alone();
    let pair = Files::start("t-swap", DISK_BYTES, |c| c).unwrap();
    pair.lab.sh("n1", &format!("for n in $(seq 100); do head -c 100000 /dev/urandom >{DIR}/file$n; done; sync")).unwrap();
    for (from, to) in [("n1", "n2"), ("n2", "n1")] {
        pair.api.action(CLUSTER, MODULE, "swap", None).unwrap();
        pair.wait_roles(to, from).unwrap();
        assert_eq!(reach(&pair, to), Some(Reach::Noted), "{from} to {to}");
        pair.lab.sh(to, &format!("date >{DIR}/after-{from}")).unwrap();
        pair.wait_equal(to, from).unwrap();
    }
    // Not flushed by anybody: the secondary has it, the disk of the primary does not.
    pair.lab.sh("n1", &format!("echo changed >{DIR}/file7; rm {DIR}/file8; mkdir {DIR}/new; date >{DIR}/new/file")).unwrap();
    pair.lab.kill("n1").unwrap();
    pair.wait_alone("n2").unwrap();
    pair.lab.sh("n2", &format!("date >{DIR}/alone")).unwrap();
    pair.lab.boot("n1").unwrap();
    pair.wait_roles("n2", "n1").unwrap();
    assert_eq!(reach(&pair, "n2"), Some(Reach::Logged));
    pair.wait_equal("n2", "n1").unwrap();
    // The same again the other way round, and back.
    for (from, to) in [("n2", "n1"), ("n1", "n2")] {
        pair.lab.sh(from, &format!("date >{DIR}/file9")).unwrap();
        pair.lab.kill(from).unwrap();
        pair.wait_alone(to).unwrap();
        pair.lab.boot(from).unwrap();
        pair.wait_roles(to, from).unwrap();
        assert_eq!(reach(&pair, to), Some(Reach::Logged), "{from} to {to}");
        pair.wait_equal(to, from).unwrap();
    }
}

#[test]
fn a_damaged_copy_is_found_by_a_comparison_and_put_right_while_the_application_goes_on() {
    let _alone = alone();
    let every = |c: String| c.replace("<rfs async=\"none\">", "<rfs async=\"none\" verify=\"24h\">");
    let pair = Files::start("t-verify", DISK_BYTES, every).unwrap();
    // By itself, because the copies were never compared.
    let first = pair.wait("a comparison by itself", |v| compared(v, "n1").is_some()).unwrap();
    let first = compared(&first, "n1").unwrap();
    assert_eq!((&first.end, first.done.differences), (&VerifyEnd::Whole, 0), "{first:?}");

    let make = "for n in $(seq 50); do head -c 100000 /dev/urandom >file$n; done; head -c 20000000 /dev/urandom >big; mkdir d; date >d/f";
    pair.lab.sh("n1", &format!("cd {DIR} && {make} && sync")).unwrap();
    // It writes all the time, and a file of its own as often as it can.
    let writes = format!("cd {DIR} && for n in $(seq 3000); do echo $n >>log; echo $n >hot; sleep 0.005; done; echo over >over");
    pair.lab.sh("n1", &format!("({writes}) >/dev/null 2>&1 &")).unwrap();

    // Bits rot on the secondary's disk, and somebody was in there with a rescue system.
    let raw = pair.raw("n2").unwrap();
    let big = std::fs::OpenOptions::new().read(true).write(true).open(raw.join("big")).unwrap();
    let modified = big.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    big.read_exact_at(&mut byte, 7_000_000).unwrap();
    big.write_all_at(&[!byte[0]], 7_000_000).unwrap();
    big.set_modified(modified).unwrap();
    drop(big);
    std::fs::remove_file(raw.join("d/f")).unwrap();

    // Not there, where nothing is known of what the application does.
    let refused = pair.lab.sh("n2", &format!("tsugi rfs verify -m {MODULE} 2>&1")).unwrap_err().to_string();
    assert!(refused.contains("not serving on n2"), "{refused}");
    let begun = events::unix_ms_now();
    pair.api.action(CLUSTER, MODULE, "verify", None).unwrap();
    let found = pair.wait("the comparison", |v| compared(v, "n1").is_some_and(|last| last.done.differences > 0)).unwrap();
    let found = compared(&found, "n1").unwrap();
    let mut listed: Vec<_> = found.listed.iter().map(|d| (d.path.as_str(), d.kind.clone())).collect();
    listed.sort_by_key(|(path, _)| path.len());
    let (big, gone) = (format!("{DIR}/big"), format!("{DIR}/d/f"));
    let wanted = [(big.as_str(), DifferenceKind::Contents { bytes: 65_536 }), (gone.as_str(), DifferenceKind::Missing)];
    assert_eq!((&found.end, listed.as_slice()), (&VerifyEnd::Whole, &wanted[..]));
    // The next session puts it right, and compares no more than that.
    let second_session = |v: &ModuleView| v.nodes["n1"].snapshot.as_ref().is_some_and(|s| s.session.0 > 1);
    pair.wait("another session", second_session).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    assert_eq!(reach(&pair, "n1"), Some(Reach::Noted));
    let told = events::of(&pair.lab, "n1", begun).unwrap();
    assert!(told.iter().any(|r| matches!(&r.event, Event::Verified { done, .. } if done.differences == 2)), "{told:#?}");

    // What the page says of it: over the last seconds.
    let is_told = |v: &ModuleView| {
        let traffic = v.nodes["n1"].snapshot.as_ref().and_then(|s| s.traffic);
        traffic.is_some_and(|t| t.bytes_per_s > 0 && t.confirm_us.is_some_and(|us| us > 0) && t.waiting_s == 0)
    };
    pair.wait("how fast it goes", is_told).unwrap();
    // By the command line, while it still writes; and once more when it is over.
    let again = pair.lab.sh("n1", &format!("tsugi rfs verify -m {MODULE}; echo code $?")).unwrap();
    assert!(again.contains("the two copies are the same") && again.contains("code 0"), "{again}");
    let status = pair.lab.sh("n1", &format!("tsugi rfs status -m {MODULE}; tsugi --lang ja rfs status -m {MODULE}")).unwrap();
    println!("{status}");
    assert!(
        status.contains("confirmed after")
            && status.contains("確認まで")
            && status.contains("no differences")
            && status.contains("違いなし")
            && status.contains(DIR),
        "{status}"
    );
    let over = pair.seen("n1").unwrap().join("over");
    tsugi_tests::setup::wait_for("the writer", Duration::from_secs(120), || over.exists().then_some(())).unwrap();
    pair.wait_equal("n1", "n2").unwrap();

    // While the other node is away: what changed since.
    pair.lab.sh("n2", &format!("tsugi stop {MODULE}")).unwrap();
    pair.wait_alone("n1").unwrap();
    pair.lab.sh("n1", &format!("echo changed >{DIR}/file7; mkdir {DIR}/new")).unwrap();
    let differs = pair.lab.sh("n1", &format!("tsugi rfs diff -m {MODULE}; echo code $?")).unwrap();
    let [one, other] = [format!("{DIR}/file7\n"), format!("{DIR}/new\n")];
    assert!(differs.contains(&one) && differs.contains(&other) && differs.contains("code 1"), "{differs}");
    assert!(!differs.contains("file8"), "{differs}");
}

/// A session that ends asks the arbiter: without one the module would leave service over a flipped bit.
#[test]
fn without_an_arbiter_what_differs_is_told_and_is_repaired_once_it_answers() {
    let _alone = alone();
    let pair = Files::start("t-verify-late", DISK_BYTES, |c| c).unwrap();
    pair.lab.sh("n1", &format!("for n in $(seq 20); do head -c 100000 /dev/urandom >{DIR}/file$n; done; sync")).unwrap();
    pair.lab.kill(CONSOLE).unwrap();
    let says = |what: &str| {
        let said = pair.lab.sh("n1", &format!("tsugi state {MODULE} --json")).unwrap_or_default();
        said.contains(what).then_some(said)
    };
    tsugi_tests::setup::wait_for("n1 to miss the arbiter", Duration::from_secs(60), || says("\"unreachable\"")).unwrap();
    let file = pair.raw("n2").unwrap().join("file7");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, vec![b'x'; good.len()]).unwrap();
    let found = pair.lab.sh("n1", &format!("tsugi rfs verify -m {MODULE}; echo code $?")).unwrap();
    assert!(found.contains(&format!("{DIR}/file7")) && found.contains("code 1"), "{found}");
    // As often as the agent looks whether it may be repaired, and more.
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        assert!(says("\"synchronous\"").is_some(), "{:?}", says(""));
        let diff = pair.lab.sh("n1", &format!("tsugi rfs diff -m {MODULE}; echo code $?")).unwrap();
        assert!(diff.contains(&format!("{DIR}/file7")) && diff.contains("code 1"), "{diff}");
    }
    assert_ne!(std::fs::read(&file).unwrap(), good);
    pair.lab.boot(CONSOLE).unwrap();
    tsugi_tests::setup::wait_for("the repair", Duration::from_secs(60), || (std::fs::read(&file).ok()? == good).then_some(())).unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    pair.wait_equal("n1", "n2").unwrap();
    let again = pair.lab.sh("n1", &format!("tsugi rfs verify -m {MODULE}; echo code $?")).unwrap();
    assert!(again.contains("code 0"), "{again}");
}
