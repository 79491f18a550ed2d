//! Real processes.

use super::*;
use crate::cgroup::Cgroups;
use crate::procfs;
use std::fs;
use std::os::unix::fs::MetadataExt;
use tempfile::TempDir;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::Limits;

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
    dir: TempDir,
    module: String,
    group: Option<Group>,
}

impl Bench {
    fn new(module: &str) -> Bench {
        Bench { dir: tempfile::tempdir().unwrap(), module: format!("{module}-{}", std::process::id()), group: None }
    }
    /// With a control group, as this machine has them.
    fn grouped(module: &str, limits: Limits) -> Bench {
        let mut bench = Bench::new(module);
        let groups = Cgroups::open(&NodeName::new("n1").unwrap(), bench.dir.path());
        let group = groups.group(&ModuleName::new(&*bench.module).unwrap(), &limits).unwrap();
        bench.group = Some(group.expect("these tests need mounted control groups"));
        bench
    }
    fn call(&self, text: &str) -> ScriptCall {
        let file = self.dir.path().join("start_prim");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let env = [("TSUGI_MODULE", self.module.as_str()), ("TSUGI_NODE", "n1"), ("DIR", self.dir.path().to_str().unwrap())];
        ScriptCall {
            script: ScriptName::StartPrim,
            file,
            args: vec!["WAIT".into(), "ALONE".into(), "start".into()],
            env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            cwd: self.dir.path().to_owned(),
            timeout: PATIENCE,
            log_dir: self.dir.path().join("log"),
            group: self.group.clone(),
        }
    }
    fn pid(&self, file: &str) -> i32 {
        let text = fs::read_to_string(self.dir.path().join(file)).unwrap();
        text.trim().parse().unwrap()
    }
    async fn kill(&self) -> Ended {
        kill_module(&ModuleName::new(&*self.module).unwrap(), &NodeName::new("n1").unwrap(), self.group.as_ref(), Marks::Too).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            group.remove();
        }
    }
}

fn is_alive(pid: i32) -> bool {
    procfs::read(pid).is_some_and(|p| !p.is_zombie)
}

#[tokio::test]
async fn code_output_arguments_and_environment_arrive() {
    let bench = Bench::new("args");
    let end = run(bench
        .call("#!/bin/sh\necho \"$1 $2 $3 $TSUGI_MODULE $(pwd) $(ps -o sid= -p $$ | tr -d ' ')=$$\"\ncat\necho bad >&2; echo; exit 3\n"))
    .await;
    assert_eq!((end.code, end.timed_out, end.last_line.as_str()), (Some(3), false, "bad"));
    let log = fs::read_dir(bench.dir.path().join("log")).unwrap().next().unwrap().unwrap();
    assert!(log.file_name().to_str().unwrap().ends_with("_start_prim.ulog"));
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(text.starts_with(&format!("WAIT ALONE start {} {} ", bench.module, bench.dir.path().display())), "{text}");
    let (session, own) = text.lines().next().unwrap().rsplit(' ').next().unwrap().split_once('=').unwrap();
    assert_eq!(session, own, "a session of its own");
}

#[tokio::test]
async fn a_missing_script_is_done_and_a_broken_one_says_why() {
    let bench = Bench::new("missing");
    let call = bench.call("#!/bin/sh\n");
    fs::remove_file(&call.file).unwrap();
    let end = run(call).await;
    assert_eq!((end.code, end.last_line.as_str()), (Some(0), ""));

    let call = bench.call("#!/bin/sh\n");
    fs::set_permissions(&call.file, fs::Permissions::from_mode(0o644)).unwrap();
    let end = run(call).await;
    assert!(end.code == Some(126) && end.last_line.contains("chmod +x"), "{end:?}");

    let end = run(bench.call("#!/no/such/shell\n")).await;
    assert!(end.code == Some(126) && end.last_line.contains("interpreter"), "{end:?}");
    let end = run(ScriptCall { cwd: "/no/such/dir".into(), ..bench.call("#!/bin/sh\n") }).await;
    assert!(end.code == Some(126) && end.last_line.contains("working directory"), "{end:?}");
}

#[tokio::test]
async fn a_time_out_ends_the_whole_tree() {
    let bench = Bench::new("tree");
    // A grandchild that ignores SIGTERM, an orphan in a group of its own, and one in a session of its own.
    let text = "#!/bin/bash\n\
        (trap '' TERM; echo $BASHPID > grandchild; while :; do sleep 1000; done) &\n\
        (set -m; sleep 1000 & echo $! > other_group)\n\
        setsid --fork bash -c 'echo $$ > other_session; sleep 1000' &\n\
        while [ ! -s grandchild ] || [ ! -s other_group ]; do sleep 0.01; done\n\
        echo waiting\nsleep 1000\n";
    let end = run(ScriptCall { timeout: Duration::from_millis(700), ..bench.call(text) }).await;
    assert_eq!((end.code, end.timed_out, end.last_line.as_str()), (None, true, "waiting"));
    assert_eq!(end.survivors, vec![]);
    assert!(!is_alive(bench.pid("grandchild")) && !is_alive(bench.pid("other_group")));
    assert!(end.millis >= 700 + 2000, "the grandchild ignores SIGTERM and gets its 2 s");
    // What left the tree by itself is a daemon, and found by its mark.
    bench.kill().await;
    assert!(!is_alive(bench.pid("other_session")));
}

#[tokio::test]
async fn a_script_that_obeys_is_not_killed_hard() {
    let bench = Bench::new("obeys");
    let end = run(ScriptCall {
        timeout: Duration::from_millis(300),
        ..bench.call("#!/bin/bash\ntrap 'echo bye; exit 0' TERM\nsleep 1000 & wait\n")
    })
    .await;
    assert!(end.timed_out && end.code.is_none() && end.last_line == "bye" && end.millis < 2000, "{end:?}");
}

#[tokio::test]
async fn a_daemon_outlives_its_script_until_the_module_is_killed() {
    let bench = Bench::new("daemon");
    let text = "#!/bin/bash\n\
        setsid bash -c 'trap \"\" TERM; echo $$ > daemon; (sleep 1000 & echo $! > child; wait); sleep 1000' &\n\
        sleep 1000 & echo $! > plain\n\
        while [ ! -s daemon ] || [ ! -s child ]; do sleep 0.01; done\necho started\n";
    let end = run(bench.call(text)).await;
    assert_eq!((end.code, end.last_line.as_str()), (Some(0), "started"));
    let pids = ["daemon", "child", "plain"].map(|f| bench.pid(f));
    assert!(pids.iter().all(|p| is_alive(*p)), "the script ended, its daemons did not");

    let other = kill_module(&ModuleName::new(&*bench.module).unwrap(), &NodeName::new("n2").unwrap(), None, Marks::Too).await;
    assert_eq!(other, Ended::default(), "another node's processes");
    assert!(pids.iter().all(|p| is_alive(*p)));
    let ended = bench.kill().await;
    assert!(ended.killed >= 3 && ended.survivors.is_empty(), "{ended:?}");
    assert!(!pids.iter().any(|p| is_alive(*p)));
    assert_eq!(bench.kill().await, Ended::default());
}

#[tokio::test]
async fn endless_output_stays_within_bounds_also_after_the_script() {
    let bench = Bench::new("output");
    let end = run(bench
        .call("#!/bin/bash\nhead -c 5000000 /dev/zero | tr '\\0' '\\n'\necho end of script\n(while :; do echo chatter chatter; done) &\n"))
    .await;
    assert_eq!(end.code, Some(0));
    let log = fs::read_dir(bench.dir.path().join("log")).unwrap().next().unwrap().unwrap().path();
    // The daemon writes without pause: it is cut again and again by the keeper.
    let begin = Instant::now();
    let mut cuts = 0;
    let mut last = 0;
    while cuts < 2 {
        assert!(begin.elapsed() < PATIENCE, "the file of a chattering daemon was never cut");
        let size = fs::metadata(&log).unwrap().len();
        cuts += u32::from(size < last);
        last = size;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    bench.kill().await;
    assert!(!log::is_in_use(&log));
    log::shrink(&log).unwrap();
    assert!(fs::metadata(&log).unwrap().len() <= LOG_BYTES_MAX);
}

#[tokio::test]
async fn a_signalled_script_has_no_code() {
    let bench = Bench::new("signal");
    let end = run(bench.call("#!/bin/sh\nkill -9 $$\n")).await;
    assert_eq!((end.code, end.timed_out), (None, false));
}

/// What no look at parents, sessions and environments finds: forked twice, in a session of its own, its environment
/// cleared, deaf to SIGTERM.
const HIDDEN: &str = "setsid env -i DIR=\"$DIR\" /bin/bash -c '(trap \"\" TERM; echo $BASHPID > $DIR/hidden; exec env -i /bin/sleep 1000) & exit'\n\
     while [ ! -s hidden ]; do sleep 0.01; done\n";

#[tokio::test]
async fn a_time_out_ends_even_what_hides() {
    let bench = Bench::grouped("hides", Limits::default());
    let before = run(bench.call("#!/bin/bash\nsleep 1000 & echo $! > earlier\n")).await;
    assert_eq!(before.code, Some(0));
    let call = bench.call(&format!("#!/bin/bash\n{HIDDEN}echo waiting\nsleep 1000\n"));
    let end = run(ScriptCall { timeout: Duration::from_millis(500), ..call }).await;
    assert_eq!((end.timed_out, end.last_line.as_str(), end.survivors), (true, "waiting", vec![]));
    assert!(!is_alive(bench.pid("hidden")));
    // The daemon of an earlier run is no part of this one.
    assert!(is_alive(bench.pid("earlier")));
    assert!(bench.kill().await.killed >= 1);
    assert!(!is_alive(bench.pid("earlier")) && !bench.group.as_ref().unwrap().is_populated());
}

#[tokio::test]
async fn a_hidden_daemon_survives_a_good_start_and_nothing_survives_the_stop() {
    let bench = Bench::grouped("good", Limits::default());
    let group = bench.group.clone().unwrap();
    let end = run(bench.call(&format!("#!/bin/bash\n{HIDDEN}exit 0\n"))).await;
    assert_eq!(end.code, Some(0));
    let pid = bench.pid("hidden");
    assert!(is_alive(pid) && group.is_populated());
    assert_eq!(end_runs(&group, &["start_both"]).await, Ended::default());
    assert!(is_alive(pid), "another script's daemons");
    let ended = end_runs(&group, &["start_prim"]).await;
    assert!(ended.killed >= 1 && ended.proof().is_ok() && !is_alive(pid) && !group.is_populated(), "{ended:?}");
}

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_ended_with_its_time() {
    let bench = Bench::grouped("bomb", Limits { pids_max: Some(60), ..Limits::default() });
    let call = bench.call("#!/bin/bash\nb() { b | b & }; b 2>/dev/null; sleep 1000\n");
    let end = run(ScriptCall { timeout: Duration::from_millis(700), ..call }).await;
    assert!(end.timed_out && end.survivors.is_empty(), "{end:?}");
    assert!(!bench.group.as_ref().unwrap().is_populated());
}

#[tokio::test]
async fn a_frozen_group_holds_a_script_up_but_not_the_agent() {
    let bench = Bench::grouped("frozen", Limits::default());
    let group = bench.group.clone().unwrap();
    group.freeze().unwrap();
    let end = run(ScriptCall { timeout: Duration::from_millis(300), ..bench.call("#!/bin/sh\necho never > ran\n") }).await;
    assert!(end.timed_out && end.code.is_none() && end.survivors.is_empty(), "{end:?}");
    bench.kill().await;
    assert!(!bench.dir.path().join("ran").exists() && !group.is_freezing(), "the next life is not frozen");
}

#[tokio::test]
async fn a_script_that_writes_without_end_does_not_fill_the_disk() {
    let bench = Bench::grouped("flood", Limits::default());
    let call = bench.call("#!/bin/sh\nexec cat /dev/zero\n");
    let log = call.log_dir.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let (mut largest, mut last, mut written) = (0, 0, 0);
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let size =
                fs::read_dir(&log).into_iter().flatten().flatten().filter_map(|e| e.metadata().ok()).map(|m| m.blocks()).sum::<u64>() * 512;
            largest = largest.max(size);
            // It was cut meanwhile, or not.
            written += if size < last { size } else { size - last };
            last = size;
            std::thread::sleep(Duration::from_millis(1));
        }
        (largest, written)
    });
    let end = run(ScriptCall { timeout: Duration::from_secs(2), ..call }).await;
    drop(stop);
    let (largest, written) = watcher.join().unwrap();
    assert!(end.timed_out && end.survivors.is_empty());
    // On a busy machine whoever takes it away may come late.
    assert!(largest < (500 << 20).max(written / 2), "{} of {} MiB", largest >> 20, written >> 20);
    eprintln!("largest size of the log: {} of {} MiB", largest >> 20, written >> 20);
}

#[test]
fn the_newest_output_of_a_script_is_found_among_those_of_others() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("t1_start_prim", "old"), ("t2_start_prim", "new"), ("t3_stop_prim", "other")] {
        fs::write(dir.path().join(format!("{name}.ulog")), text).unwrap();
    }
    let all = ["t1_start_prim.ulog", "t2_start_prim.ulog", "t3_stop_prim.ulog"];
    assert_eq!(newest_log(dir.path(), None).unwrap(), (all.map(String::from).to_vec(), None));
    assert_eq!(newest_log(dir.path(), Some("start_prim")).unwrap().1.as_deref(), Some("new"));
    assert!(newest_log(dir.path(), Some("prim")).unwrap_err().contains("no output of prim"));
}
