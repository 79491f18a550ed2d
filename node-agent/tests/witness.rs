//! A real `tsugi-agent witness` over TLS: the same rule for everybody, and nothing answered that is not on disk.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pki, Process, claim, force, grow, node, until};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use tsugi_agent::arbiter::{ArbiterClient, ArbiterError};
use tsugi_core::ids::{ArbiterName, Epoch, ModuleName};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};

struct Bench {
    pki: Pki,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
        pki.enrolled(dir.path(), "w1", "tokyo");
        Bench { pki, dir }
    }
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tsugi-agent"));
        command.args(["witness", "--state"]).arg(self.dir.path()).env("NO_COLOR", "1");
        command
    }
    fn start(&self, env: &[(&str, &str)]) -> (Process, SocketAddr) {
        let mut command = self.command();
        command.args(["--listen", "127.0.0.1:0"]).envs(env.iter().copied());
        let (process, line) = Process::start(&mut command, "listens on ");
        let addr = line.split("listens on ").nth(1).unwrap().split(' ').next().unwrap();
        (process, addr.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
    }
    fn client(&self, name: &str, addr: SocketAddr) -> ArbiterClient {
        client(&self.pki, name, "tokyo", addr)
    }
    fn file(&self) -> serde_json::Value {
        let bytes = std::fs::read(self.dir.path().join("witness/modules/db.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
    fn audit(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("witness/audit.jsonl")).unwrap_or_default()
    }
}

fn client(pki: &Pki, name: &str, cluster: &str, addr: SocketAddr) -> ArbiterClient {
    ArbiterClient::witness(&pki.identity(name, cluster), &ArbiterName::new("w1").unwrap(), addr).unwrap()
}
fn module() -> ModuleName {
    ModuleName::new("db").unwrap()
}
async fn ask(client: &ArbiterClient, request: &ArbiterRequest) -> ArbiterAnswer {
    client.ask(&module(), request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_claim_at_once_exactly_one_is_accepted() {
    let bench = Bench::new();
    let (_witness, addr) = bench.start(&[]);
    let (n1, n2) = (bench.client("n1", addr), bench.client("n2", addr));
    let mut now = ask(&n1, &force(Epoch(0))).await.record;
    for round in 0..100 {
        let owner = now.owner.clone().unwrap();
        let (holder, other) = if owner == node("n1") { (&n1, "n2") } else { (&n2, "n1") };
        now = ask(holder, &grow(now.version, other)).await.record;
        let (one, two) = (claim(now.version, 2 * round + 10), claim(now.version, 2 * round + 11));
        let (a, b) = tokio::join!(ask(&n1, &one), ask(&n2, &two));
        assert!(a.is_accepted != b.is_accepted, "round {round}: {a:?} {b:?}");
        assert_eq!(a.record, b.record, "both are told the outcome");
        now = a.record;
    }
    assert_eq!(now.version, Epoch(201));
    assert_eq!(bench.audit().lines().count(), 201, "a line for each change");
}

#[tokio::test]
async fn what_was_stored_before_a_kill_counts_although_nobody_was_told() {
    let bench = Bench::new();
    let (mut witness, addr) = bench.start(&[]);
    let first = ask(&bench.client("n1", addr), &force(Epoch(0))).await.record;
    witness.kill();

    // Stores, and is killed before it answers.
    let (mut witness, addr) = bench.start(&[("TSUGI_TEST_WITNESS_MUTE", "1")]);
    let n1 = bench.client("n1", addr);
    let asking = tokio::spawn(async move { n1.ask(&module(), &grow(Epoch(1), "n2")).await });
    until("the record is on disk", async || bench.file()["record"]["version"] == 2).await;
    witness.kill();
    let lost = asking.await.unwrap();
    assert!(matches!(lost, Err(ArbiterError::NotReachable { .. })), "the outcome is unknown: {lost:?}");

    let (_witness, addr) = bench.start(&[]);
    let seen = ask(&bench.client("n2", addr), &ArbiterRequest::Read).await.record;
    assert_eq!((seen.version, seen.owner, seen.in_sync.len()), (Epoch(2), Some(node("n1")), 2));
    assert_eq!(seen.instance, first.instance, "the same store");
    assert_eq!(bench.audit().lines().count(), 2, "{}", bench.audit());
    // Asking again is harmless, and the answer tells how it stands.
    let again = ask(&bench.client("n1", addr), &grow(Epoch(1), "n2")).await;
    assert_eq!((again.is_accepted, again.record.version), (false, Epoch(2)));
}

#[tokio::test]
async fn a_directory_made_anew_is_another_store() {
    let bench = Bench::new();
    let (mut witness, addr) = bench.start(&[]);
    let before = ask(&bench.client("n1", addr), &force(Epoch(0))).await.record;
    witness.kill();
    std::fs::remove_dir_all(bench.dir.path().join("witness")).unwrap();
    let (_witness, addr) = bench.start(&[]);
    let after = ask(&bench.client("n1", addr), &ArbiterRequest::Read).await.record;
    assert_eq!(after.version, Epoch(0));
    assert_ne!(after.instance, before.instance);
}

#[tokio::test]
async fn strangers_are_refused_and_say_why() {
    let bench = Bench::new();
    let (_witness, addr) = bench.start(&[]);
    let n1 = bench.client("n1", addr);
    ask(&n1, &force(Epoch(0))).await;
    ask(&n1, &grow(Epoch(1), "n2")).await;
    // A node of the cluster, but not of the module.
    let n3 = bench.client("n3", addr);
    assert_eq!(ask(&n3, &ArbiterRequest::Read).await.record.version, Epoch(2));
    match n3.ask(&module(), &force(Epoch(2))).await {
        Err(ArbiterError::Refused { status: 403, text }) => assert!(text.contains("n1 and n2") && text.contains("--forget"), "{text}"),
        other => panic!("{other:?}"),
    }
    // Of another cluster, of another CA; and a witness that is not the one that is meant.
    for stranger in [client(&bench.pki, "n1", "osaka", addr), client(&Pki::new(), "n1", "tokyo", addr)] {
        assert!(matches!(stranger.ask(&module(), &ArbiterRequest::Read).await, Err(ArbiterError::NotReachable { .. })));
    }
    let other = ArbiterClient::witness(&bench.pki.identity("n1", "tokyo"), &ArbiterName::new("w2").unwrap(), addr).unwrap();
    let error = other.ask(&module(), &ArbiterRequest::Read).await.unwrap_err().to_string();
    assert!(error.contains("`w1`, not of `w2`"), "{error}");
    assert_eq!(ask(&n1, &ArbiterRequest::Read).await.record.version, Epoch(2), "nothing changed");
}

#[tokio::test]
async fn a_request_has_a_size_and_a_shape() {
    let bench = Bench::new();
    let (_witness, addr) = bench.start(&[]);
    let n1 = bench.client("n1", addr);
    let by = "x".repeat(70 * 1024);
    let ArbiterRequest::Force { store, expected, floor, gen_id, .. } = force(Epoch(0)) else { unreachable!() };
    let large = ArbiterRequest::Force { store, expected, floor, gen_id, by };
    match n1.ask(&module(), &large).await {
        Err(ArbiterError::Refused { status: 413, .. } | ArbiterError::NotReachable { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(&n1, &ArbiterRequest::Read).await.record.version, Epoch(0));
}

fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn an_administrator_lists_and_forgets_modules_while_the_witness_stands() {
    let bench = Bench::new();
    let (mut witness, addr) = bench.start(&[]);
    ask(&bench.client("n1", addr), &force(Epoch(0))).await;
    let (is_done, text) = said(bench.command().arg("--list"));
    assert!(!is_done && text.contains("another witness runs"), "{text}");
    witness.kill();
    let (is_done, text) = said(bench.command().arg("--list"));
    assert!(is_done && text.contains("db version=1 owner=n1 in_sync=n1 nodes=n1"), "{text}");
    let (is_done, text) = said(bench.command().args(["--forget", "db"]));
    assert!(is_done && text.contains("tsugi prim db"), "{text}");
    let (_witness, addr) = bench.start(&[]);
    assert!(ask(&bench.client("n3", addr), &force(Epoch(0))).await.is_accepted);
}

#[test]
fn without_an_identity_the_remedy_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = |state: &Path| {
        said(Command::new(env!("CARGO_BIN_EXE_tsugi-agent")).args(["witness", "--listen", "127.0.0.1:0", "--state"]).arg(state))
    };
    let (is_done, text) = run(dir.path());
    assert!(!is_done && text.contains("tsugi-agent enroll --state"), "{text}");
}
