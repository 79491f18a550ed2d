//! What tests of arbiters share: a CA, identities, child processes that end with the test.
#![allow(dead_code, clippy::unwrap_used)]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tsugi_agent::config::Identity;
use tsugi_core::ids::{ClusterName, Epoch, Gen, LifeId, NodeName};
use tsugi_core::wire::arbiter::ArbiterRequest;

/// Longest wait for anything a child process does.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A CA like the console's.
pub struct Pki(CertifiedIssuer<'static, KeyPair>);

impl Pki {
    pub fn new() -> Pki {
        // The programs set it themselves; here the client under test lives in the test.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = named("Tsugi test CA", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Pki(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
    pub fn ca_pem(&self) -> String {
        self.0.as_ref().pem()
    }
    /// Certificate and key, PEM, good for both directions and for 127.0.0.1.
    pub fn issue(&self, cn: &str, organization: Option<&str>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = named(cn, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
    pub fn identity(&self, node: &str, cluster: &str) -> Identity {
        let (cert_pem, key_pem) = self.issue(node, Some(cluster));
        Identity {
            node: NodeName::new(node).unwrap(),
            cluster: ClusterName::new(cluster).unwrap(),
            console: "https://127.0.0.1:1".parse().unwrap(),
            cert_pem,
            key_pem,
            ca_pem: self.ca_pem(),
        }
    }
    /// What `enroll` leaves in a state directory.
    pub fn enrolled(&self, state_dir: &Path, node: &str, cluster: &str) {
        let identity = self.identity(node, cluster);
        let dir = state_dir.join("identity");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("node.crt"), identity.cert_pem).unwrap();
        std::fs::write(dir.join("node.key"), identity.key_pem).unwrap();
        std::fs::write(dir.join("ca.crt"), identity.ca_pem).unwrap();
        let agent = serde_json::json!({ "node": node, "cluster": cluster, "console": "https://127.0.0.1:1" });
        std::fs::write(state_dir.join("agent.json"), agent.to_string()).unwrap();
    }
}

fn named(cn: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cn);
    if let Some(o) = organization {
        params.distinguished_name.push(DnType::OrganizationName, o);
    }
    params
}

/// A child that does not outlive the test.
pub struct Process(pub Child);

impl Process {
    /// Starts `command` and reads what it writes to standard error until a line has `needle`; gives that line. The rest is
    /// read and forgotten.
    pub fn start(command: &mut Command, needle: &str) -> (Process, String) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let process = Process(child);
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tx.send(line))));
        let mut all = String::new();
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = rx.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(needle) {
                return (process, line);
            }
            all.push_str(&line);
            all.push('\n');
        }
        panic!("{command:?} never said `{needle}`:\n{all}")
    }
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `is_so`, looking again and again.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::task::yield_now().await;
    }
}

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}
pub fn claim(expected: Epoch, history: u128) -> ArbiterRequest {
    ArbiterRequest::Claim { store: LifeId(0), expected, gen_id: Gen(history) }
}
pub fn grow(expected: Epoch, with: &str) -> ArbiterRequest {
    ArbiterRequest::Grow { store: LifeId(0), expected, with: node(with) }
}
pub fn force(expected: Epoch) -> ArbiterRequest {
    ArbiterRequest::Force { store: LifeId(0), expected, floor: Epoch(0), gen_id: Gen(1), by: "root".into() }
}
