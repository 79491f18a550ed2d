//! A real etcd as arbiter. Needs the program `etcd` (package etcd-server); `./dev test` installs it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pki, Process, claim, force, grow, node, until};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tsugi_agent::arbiter::{ArbiterError, EtcdClient};
use tsugi_core::cluster::EtcdDef;
use tsugi_core::ids::{ClusterName, Epoch, ModuleName};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};

struct Etcd {
    process: Process,
    addr: SocketAddr,
}

fn free_addr() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One member with its data in `dir`; with `tls` the paths of CA, certificate and key.
fn start(dir: &Path, addr: SocketAddr, tls: Option<[PathBuf; 3]>) -> Etcd {
    let is_there = Command::new("etcd").arg("--version").output().is_ok();
    assert!(is_there, "this test needs etcd: apt-get install etcd-server, and see that its service is not started");
    let scheme = if tls.is_some() { "https" } else { "http" };
    let peer = format!("http://{}", free_addr());
    let client = format!("{scheme}://{addr}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.join("data")).args(["--name", "m1", "--logger", "zap"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("m1={peer}")]);
    if let Some([ca, cert, key]) = tls {
        command.arg("--trusted-ca-file").arg(ca).arg("--cert-file").arg(cert).arg("--key-file").arg(key).arg("--client-cert-auth");
    }
    let (process, _) = Process::start(&mut command, "serving client traffic");
    Etcd { process, addr }
}

fn plain(endpoints: Vec<SocketAddr>) -> EtcdDef {
    EtcdDef { endpoints, is_tls: false, ca: None, cert: None, tls_name: None }
}
fn client(def: &EtcdDef, name: &str) -> EtcdClient {
    EtcdClient::new(def, &ClusterName::new("tokyo").unwrap(), &node(name))
}
fn module() -> ModuleName {
    ModuleName::new("db").unwrap()
}
async fn ask(client: &EtcdClient, request: &ArbiterRequest) -> ArbiterAnswer {
    client.ask(&module(), request).await.unwrap()
}
/// The first answer: a member that has just started may need a moment for its election.
async fn first(client: &EtcdClient) -> ArbiterAnswer {
    until("etcd answers", async || client.ask(&module(), &ArbiterRequest::Read).await.is_ok()).await;
    ask(client, &ArbiterRequest::Read).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_claim_at_once_exactly_one_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = start(dir.path(), free_addr(), None);
    let def = plain(vec![etcd.addr]);
    let (n1, n2) = (client(&def, "n1"), client(&def, "n2"));
    let empty = first(&n1).await;
    assert_eq!((empty.is_accepted, empty.record.version), (true, Epoch(0)));
    assert_eq!(first(&n2).await.record.instance, empty.record.instance, "one store for both");
    assert!(!n2.ask(&module(), &claim(Epoch(0), 5)).await.unwrap().is_accepted, "nobody is in sync yet");
    let mut now = ask(&n1, &force(Epoch(0))).await.record;
    for round in 0..300 {
        let owner = now.owner.clone().unwrap();
        let (holder, other) = if owner == node("n1") { (&n1, "n2") } else { (&n2, "n1") };
        now = ask(holder, &grow(now.version, other)).await.record;
        let (one, two) = (claim(now.version, 2 * round + 10), claim(now.version, 2 * round + 11));
        let (a, b) = tokio::join!(ask(&n1, &one), ask(&n2, &two));
        assert!(a.is_accepted != b.is_accepted, "round {round}: {a:?} {b:?}");
        assert_eq!(a.record, b.record, "both are told the outcome");
        now = a.record;
    }
    assert_eq!(now.version, Epoch(601));
    let other = n1.ask(&ModuleName::new("files").unwrap(), &ArbiterRequest::Read).await.unwrap();
    assert_eq!((other.record.version, other.record.instance), (Epoch(0), now.instance), "each module has a record of its own");
}

#[tokio::test]
async fn a_restart_keeps_the_record_and_an_emptied_etcd_is_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let mut etcd = start(dir.path(), addr, None);
    let n1 = client(&plain(vec![addr]), "n1");
    first(&n1).await;
    let kept = ask(&n1, &force(Epoch(0))).await.record;
    etcd.process.kill();
    assert!(matches!(n1.ask(&module(), &ArbiterRequest::Read).await, Err(ArbiterError::NotReachable { .. })));

    let mut etcd = start(dir.path(), addr, None);
    assert_eq!(first(&n1).await.record, kept);
    etcd.process.kill();

    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let _etcd = start(dir.path(), addr, None);
    let anew = first(&n1).await.record;
    assert_eq!(anew.version, Epoch(0));
    assert_ne!(anew.instance, kept.instance);
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = start(dir.path(), free_addr(), None);
    let direct = client(&plain(vec![etcd.addr]), "n1");
    first(&direct).await;
    let before = ask(&direct, &force(Epoch(0))).await.record;

    // Standing still, it may carry the request out later or never.
    etcd.process.signal(Signal::SIGSTOP);
    let lost = direct.ask(&module(), &grow(Epoch(1), "n2")).await;
    assert!(matches!(lost, Err(ArbiterError::NotReachable { .. })), "{lost:?}");
    etcd.process.signal(Signal::SIGCONT);
    let seen = first(&direct).await.record;
    assert!(seen.version <= Epoch(2), "{seen:?}");
    let settled = ask(&direct, &grow(Epoch(1), "n2")).await.record;
    assert_eq!((settled.version, settled.in_sync.len(), settled.instance), (Epoch(2), 2, before.instance));

    // A member that carries everything out and answers no change, then one that answers.
    let deaf = forward_without_answers(etcd.addr).await;
    let both = client(&plain(vec![deaf, etcd.addr]), "n1");
    let answer = ask(&both, &claim(Epoch(2), 77)).await;
    assert!(answer.is_accepted, "it was this request that was carried out: {answer:?}");
    assert_eq!(ask(&direct, &ArbiterRequest::Read).await.record, answer.record);
    assert_eq!(answer.record.version, Epoch(3), "once");
}

/// Forwards connections to `to`; the answer to a `request_put` never comes back.
async fn forward_without_answers(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let (mut from_near, mut from_far) = ([0; 16_384], [0; 16_384]);
                let mut is_deaf = false;
                loop {
                    tokio::select! {
                        n = near.read(&mut from_near) => {
                            let Ok(n @ 1..) = n else { return };
                            is_deaf |= String::from_utf8_lossy(&from_near[..n]).contains("request_put");
                            far.write_all(&from_near[..n]).await.unwrap();
                        }
                        n = far.read(&mut from_far) => {
                            let Ok(n @ 1..) = n else { return };
                            if !is_deaf && near.write_all(&from_far[..n]).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn members_are_tried_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = start(dir.path(), free_addr(), None);
    // Nobody there; somebody who accepts and says nothing; the one that lives.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let def = plain(vec![free_addr(), mute.local_addr().unwrap(), etcd.addr]);
    let n1 = client(&def, "n1");
    assert_eq!(first(&n1).await.record.version, Epoch(0));
    let begin = std::time::Instant::now();
    assert!(ask(&n1, &force(Epoch(0))).await.is_accepted);
    assert!(begin.elapsed() < std::time::Duration::from_millis(500), "the one that answered is asked first: {:?}", begin.elapsed());
}

#[tokio::test]
async fn over_tls_both_sides_show_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (server, client_pair, stranger) = (pki.issue("etcd", None), pki.issue("n1", None), Pki::new());
    let ca = file("ca.pem", &pki.ca_pem());
    let etcd = start(dir.path(), free_addr(), Some([ca.clone(), file("s.pem", &server.0), file("s.key", &server.1)]));
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let good = EtcdDef {
        endpoints: vec![etcd.addr],
        is_tls: true,
        ca: Some(text(ca)),
        cert: Some((text(file("c.pem", &client_pair.0)), text(file("c.key", &client_pair.1)))),
        tls_name: None,
    };
    let n1 = client(&good, "n1");
    first(&n1).await;
    assert!(ask(&n1, &force(Epoch(0))).await.is_accepted);
    let wrong = [
        ("no certificate of our own", EtcdDef { cert: None, ..good.clone() }),
        ("another CA", EtcdDef { ca: Some(text(file("other.pem", &stranger.ca_pem()))), ..good.clone() }),
        ("another name", EtcdDef { tls_name: Some("etcd.example".into()), ..good.clone() }),
        ("not encrypted", EtcdDef { is_tls: false, ..good.clone() }),
        ("a file that is not there", EtcdDef { ca: Some("/nowhere/ca.pem".into()), ..good.clone() }),
    ];
    for (case, def) in wrong {
        let error = client(&def, "n1").ask(&module(), &ArbiterRequest::Read).await.unwrap_err();
        assert!(matches!(error, ArbiterError::NotReachable { .. }), "{case}: {error}");
    }
}
