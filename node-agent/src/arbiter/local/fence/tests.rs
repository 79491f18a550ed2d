use super::*;
use std::os::unix::fs::PermissionsExt;
use tsugi_core::module::FenceOption;

struct Bench {
    dir: tempfile::TempDir,
    n2: NodeName,
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap(), n2: NodeName::new("n2").unwrap() }
    }
    fn program(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn fencer(&self, driver: FenceDriver, timeout: Duration, options: &[(Option<&str>, &str, &str)]) -> Fencer {
        let options = options
            .iter()
            .map(|(node, name, value)| FenceOption {
                node: node.map(|n| NodeName::new(n).unwrap()),
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        Fencer {
            module: ModuleName::new("db").unwrap(),
            me: NodeName::new("n1").unwrap(),
            fence: Fence { driver, delay: Duration::ZERO, timeout, options },
            bin_dir: self.dir.path().to_owned(),
            log_dir: self.dir.path().join("log"),
        }
    }
    fn script(&self, text: &str) -> Fencer {
        self.program("fence", text);
        self.fencer(FenceDriver::Script(None), Duration::from_secs(10), &[])
    }
    fn agent(&self, text: &str, options: &[(Option<&str>, &str, &str)]) -> Fencer {
        let path = self.program("fence_fake", text);
        self.fencer(FenceDriver::Agent(path), Duration::from_secs(4), options)
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log/fence.ulog")).unwrap_or_default()
    }
}

/// Reads `name=value` lines into variables; what fence agents do.
const READ_OPTIONS: &str = "while read -r line; do eval \"${line%%=*}='${line#*=}'\"; done";

#[tokio::test]
async fn a_script_confirms_by_its_exit_code_and_its_words_are_kept() {
    let bench = Bench::new();
    let fencer = bench.script("echo \"cutting $1 $2 for $TSUGI_MODULE\"; [ \"$1 $2\" = 'off n2' ]");
    assert_eq!(fencer.off(&bench.n2).await, Ok(()));
    assert!(bench.log().contains("cutting off n2 for db"), "{}", bench.log());
    let why = bench.script("echo 'the outlet does not answer' >&2; exit 1").off(&bench.n2).await.unwrap_err();
    assert!(why.contains("the outlet does not answer"), "{why}");
}

#[tokio::test]
async fn what_does_not_end_is_killed_with_all_it_started_and_confirms_nothing() {
    let bench = Bench::new();
    let pid_file = bench.dir.path().join("pid");
    bench.program("fence", &format!("sleep 1000 & echo $! >{}; wait", pid_file.display()));
    let fencer = bench.fencer(FenceDriver::Script(None), Duration::from_secs(1), &[]);
    let why = fencer.off(&bench.n2).await.unwrap_err();
    assert!(why.contains("did not end within 1 s"), "{why}");
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    let is_gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
    let gone = async {
        while !is_gone() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
}

#[tokio::test]
async fn a_driver_that_is_not_there_confirms_nothing_and_is_named() {
    let bench = Bench::new();
    let script = bench.fencer(FenceDriver::Script(None), Duration::from_secs(1), &[]);
    assert!(script.off(&bench.n2).await.unwrap_err().contains("does not exist on n1"));
    let agent = bench.fencer(FenceDriver::Agent("fence_no_such".into()), Duration::from_secs(1), &[]);
    assert!(agent.off(&bench.n2).await.unwrap_err().contains("not installed on n1"));
    assert!(!agent.is_ready(&bench.n2).await);
}

#[tokio::test]
async fn an_agent_cuts_a_real_process_and_the_device_says_so() {
    let bench = Bench::new();
    // The "machine" is a process; the "device" knows whether it lives.
    let mut machine = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = machine.id().to_string();
    let device = format!(
        "{READ_OPTIONS}
         case $action in
           off) kill -9 \"$plug\";;
           status) if [ -e /proc/$plug/exe ]; then echo 'Status: ON'; exit 0; else echo 'Status: OFF'; exit 2; fi;;
         esac"
    );
    let fencer = bench.agent(&device, &[(None, "plug", "1"), (Some("n2"), "plug", &pid), (Some("n1"), "plug", "1")]);
    assert!(fencer.is_ready(&bench.n2).await);
    assert_eq!(fencer.off(&bench.n2).await, Ok(()));
    assert!(!machine.wait().unwrap().success());
    assert!(bench.log().contains("Status: OFF"), "{}", bench.log());
}

#[tokio::test]
async fn an_agent_is_not_believed_without_the_word_of_the_device() {
    let bench = Bench::new();
    let with_status = |status: &str| format!("{READ_OPTIONS}\n[ $action = off ] && exit 0\n{status}");
    for (case, status, needle) in [
        ("the device says on", "echo 'Status: ON'; exit 0", "does not say that n2 is off"),
        ("status fails", "echo 'connection lost' >&2; exit 1", "connection lost"),
        ("bad arguments have the same code as OFF", "echo 'Unknown option' >&2; exit 2", "Unknown option"),
        ("contradiction", "echo 'Status: ON'; exit 2", "does not say"),
    ] {
        let why = bench.agent(&with_status(status), &[]).off(&bench.n2).await.unwrap_err();
        assert!(why.contains(needle), "{case}: {why}");
    }
    assert_eq!(bench.agent(&with_status("exit 2"), &[]).off(&bench.n2).await, Ok(()), "the code alone, by the convention");
    assert_eq!(bench.agent(&with_status("echo 'n2: off'"), &[]).off(&bench.n2).await, Ok(()), "the word alone");
    let why = bench.agent("echo 'login denied' >&2; exit 3", &[]).off(&bench.n2).await.unwrap_err();
    assert!(why.contains("login denied"), "{why}");
}

#[tokio::test]
async fn a_device_that_needs_a_moment_is_asked_again() {
    let bench = Bench::new();
    let count = bench.dir.path().join("count");
    let device = format!(
        "{READ_OPTIONS}
         [ $action = off ] && exit 0
         echo x >>{0}
         if [ $(wc -l <{0}) -lt 3 ]; then echo 'Status: ON'; else echo 'Status: OFF'; exit 2; fi",
        count.display()
    );
    assert_eq!(bench.agent(&device, &[]).off(&bench.n2).await, Ok(()));
}

#[test]
fn options_of_the_node_go_before_those_of_all() {
    let bench = Bench::new();
    let driver = || FenceDriver::Agent("fence_ipmilan".into());
    let options = [(Some("n2"), "ip", "10.9.0.2"), (None, "ip", "10.9.0.9"), (None, "username", "tsugi"), (Some("n1"), "lanplus", "1")];
    let fencer = bench.fencer(driver(), Duration::from_secs(1), &options);
    assert_eq!(fencer.lines("off", &bench.n2), "ip=10.9.0.2\nusername=tsugi\naction=off\n");
}
