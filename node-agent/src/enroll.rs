//! Enrolment: a new node gets its certificate, with nothing but a join token from the console.
//!
//! The token holds the fingerprint of the console's CA, so the node trusts nobody else from the first byte on, and
//! a secret that the console takes once. The private key is made here and never leaves the node. What is stored
//! becomes an identity with its last step, the writing of `agent.json`; before it there is none.

use crate::config::{AgentFile, ConsoleAddr, IdentityFiles, certificates_of};
use crate::disk::{PRIVATE, sync_dir, write_atomically, write_new};
use crate::tls;
use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;
use tsugi_core::ids::{ClusterName, NodeName};
use tsugi_core::wire::console::{EnrollAnswer, EnrollRequest, JoinToken};

/// TCP and TLS.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// The console's answer; it signs a certificate and writes its database.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// Largest answer: two certificates.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What to do when the node has an identity already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and say so.
    Keep,
    /// Replace it (`--force`). Modules and their records stay.
    Replace,
}

/// Enrols this node as `name` with the console at `console` (its port for agents) and stores the identity in
/// `state_dir`. An administrator must then approve the node; the answer's fingerprint is what they compare.
pub async fn enroll(
    console: &str,
    token: &JoinToken,
    name: &NodeName,
    state_dir: &Path,
    existing: Existing,
) -> anyhow::Result<EnrollAnswer> {
    let addr: ConsoleAddr = console.parse()?;
    let files = IdentityFiles::in_state(state_dir);
    if existing == Existing::Keep && files.agent.exists() {
        bail!(
            "this node is enrolled already ({}). Remedy: nothing to do; to give it a new identity, stop the agent and add --force",
            files.agent.display()
        );
    }
    // Before the token is used up: a directory that cannot be written would waste it.
    let staged = Staged::prepare(state_dir)?;
    let key = KeyPair::generate().context("no key could be made")?;
    let request = EnrollRequest { token: token.secret.clone(), node: name.clone(), csr_pem: signing_request(&key, name)? };
    let answer = ask(&addr, token, &request).await?;
    let cluster = check(&answer, token, name, &key)?;
    let agent = AgentFile { node: name.clone(), console: addr.to_string(), cluster };
    staged.store(&files, &answer, &key, &agent)?;
    Ok(answer)
}

fn signing_request(key: &KeyPair, name: &NodeName) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.serialize_request(key).and_then(|csr| csr.pem()).context("the certificate request could not be made")
}

async fn ask(addr: &ConsoleAddr, token: &JoinToken, request: &EnrollRequest) -> anyhow::Result<EnrollAnswer> {
    let config = tls::enroll_client(&token.ca_sha256)?;
    let stream = match timeout(CONNECT_TIME_MAX, tls::dial(addr, config)).await {
        Err(_) => bail!(
            "no connection to {addr} within {} s. Remedy: check the address, and that a firewall lets this node reach that port",
            CONNECT_TIME_MAX.as_secs()
        ),
        Ok(Err(error @ tls::DialError::Unreachable { .. })) => bail!(
            "{error}. Remedy: check that tsugi-server runs there, that this is its port for agents (9454 by default) and that no firewall \
             is in between"
        ),
        Ok(Err(error @ tls::DialError::Untrusted { .. })) => bail!(
            "{error}. Whoever answers at {addr} is not the console that made this token. Remedy: compare the address with the one on the \
             console's page \"Add a node\", and copy a new token from there; check this machine's clock (`date`)"
        ),
        Ok(Ok(stream)) => stream,
    };
    let exchange = async {
        let (mut connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(driver);
        let http = Request::post("/agent/v1/enroll")
            .header(HOST, addr.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(request)?)))?;
        let response = connection.send_request(http).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| anyhow::anyhow!(e))?.to_bytes();
        driver.abort();
        anyhow::Ok((status, body))
    };
    let (status, body) = timeout(ANSWER_TIME_MAX, exchange)
        .await
        .with_context(|| format!("{addr} did not answer within {} s. Remedy: try again with a new token", ANSWER_TIME_MAX.as_secs()))?
        .with_context(|| format!("the connection to {addr} broke. Remedy: try again; if the token is refused then, make a new one"))?;
    if !status.is_success() {
        let said = crate::arbiter::said(&body);
        bail!("the console refused ({status}): {said}\nRemedy: {}", remedy(status.as_u16()));
    }
    serde_json::from_slice(&body)
        .context("the console's answer is not understood. Remedy: install the same version of Tsugi on both machines")
}

/// What to do about a refusal, by its HTTP status.
fn remedy(status: u16) -> &'static str {
    match status {
        401 | 403 | 410 => "the token is used, expired or wrong: make a new one on the console's page \"Add a node\" and use it once",
        409 => "the cluster has a node of that name: choose another --name, or remove the old node from the console first",
        404 => "this is not the console's port for agents (9454 by default): correct --console",
        400 | 422 => "check --name and copy the token whole",
        429 | 503 => "the console is busy: try again in a minute",
        _ => "look at the console's log (`journalctl -u tsugi-server`) and try again",
    }
}

/// The answer must fit what was asked, before it replaces anything.
fn check(answer: &EnrollAnswer, token: &JoinToken, name: &NodeName, key: &KeyPair) -> anyhow::Result<ClusterName> {
    const REMEDY: &str = "Remedy: report this; nothing was stored";
    let read =
        |pem: &str| certificates_of(pem).map_err(|e| anyhow::anyhow!("the console's answer has a certificate that cannot be read: {e}"));
    let (ca, cert) = (read(&answer.ca_pem)?, read(&answer.certificate_pem)?);
    ensure!(tls::fingerprint(&ca[0]) == token.ca_sha256, "the console sent another CA than the token's. {REMEDY}");
    tls::check_issued(&cert[0], &ca[0]).map_err(|e| {
        anyhow::anyhow!("the console sent a certificate that its CA did not sign ({e}). Remedy: check this machine's clock")
    })?;
    let cluster = ClusterName::new(&answer.cluster).context("the console's answer names no cluster")?;
    let subject = tls::subject_of(&cert[0]);
    let is_ours = subject.is_some_and(|s| s.common_name == name.as_str() && s.organization.as_deref() == Some(cluster.as_str()));
    ensure!(is_ours, "the console sent a certificate for another node or cluster. {REMEDY}");
    let (_, parsed) = x509_parser::parse_x509_certificate(&cert[0]).context("the console's certificate cannot be read")?;
    ensure!(parsed.public_key().raw == key.subject_public_key_info(), "the console sent a certificate for another key. {REMEDY}");
    Ok(cluster)
}

/// Directory in which the new identity is put together.
struct Staged<'a> {
    state_dir: &'a Path,
    dir: std::path::PathBuf,
}

impl<'a> Staged<'a> {
    fn prepare(state_dir: &'a Path) -> anyhow::Result<Staged<'a>> {
        let failed = |what: &Path| format!("cannot write in {}. Remedy: run as root, or choose another --state", what.display());
        std::fs::create_dir_all(state_dir).with_context(|| failed(state_dir))?;
        let dir = state_dir.join("identity.new");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| failed(&dir))?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| failed(&dir))?;
        Ok(Staged { state_dir, dir })
    }

    /// Order: new directory complete → old identity void (no `agent.json`) → directories exchanged → `agent.json`.
    fn store(&self, files: &IdentityFiles, answer: &EnrollAnswer, key: &KeyPair, agent: &AgentFile) -> anyhow::Result<()> {
        let put = |name: &str, text: &str, mode| {
            let path = self.dir.join(name);
            write_new(&path, text.as_bytes(), mode).with_context(|| format!("cannot write {}", path.display()))
        };
        put("node.key", &key.serialize_pem(), PRIVATE)?;
        put("node.crt", &answer.certificate_pem, 0o644)?;
        put("ca.crt", &answer.ca_pem, 0o644)?;
        let exchange = || -> std::io::Result<()> {
            sync_dir(&self.dir)?;
            for stale in [&files.agent] {
                match std::fs::remove_file(stale) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            if files.dir.exists() {
                std::fs::remove_dir_all(&files.dir)?;
            }
            sync_dir(self.state_dir)?;
            std::fs::rename(&self.dir, &files.dir)?;
            sync_dir(self.state_dir)?;
            write_atomically(&files.agent, &serde_json::to_vec_pretty(agent)?, 0o644)
        };
        exchange()
            .with_context(|| format!("cannot store the identity in {}. Remedy: enrol again with a new token", self.state_dir.display()))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Gone already after success.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;
    use crate::tls::pki::{Pki, https};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    fn name() -> NodeName {
        NodeName::new("n1").unwrap()
    }
    fn token(pki: &Pki) -> JoinToken {
        JoinToken { ca_sha256: tls::fingerprint(&pki.ca_der()), secret: "s3cret".into() }
    }
    /// Signs as the console does: key from the request, names by its own decision.
    fn signed(pki: &Pki, body: &[u8], cn: &str, cluster: &str) -> (u16, String) {
        let request: EnrollRequest = serde_json::from_slice(body).unwrap();
        if request.token != "s3cret" {
            return (403, r#"{"error":"token_used","message":"This token was used already."}"#.into());
        }
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(&request.csr_pem).unwrap();
        csr.params.distinguished_name.push(DnType::CommonName, cn);
        csr.params.distinguished_name.push(DnType::OrganizationName, cluster);
        let certificate = csr.signed_by(&pki.ca).unwrap();
        let answer = EnrollAnswer {
            certificate_pem: certificate.pem(),
            ca_pem: pki.ca.as_ref().pem(),
            cluster: "tokyo".into(),
            fingerprint: tls::fingerprint(certificate.der()),
        };
        (200, serde_json::to_string(&answer).unwrap())
    }
    async fn console(pki: &Arc<Pki>, cn: &'static str, cluster: &'static str) -> String {
        let signer = pki.clone();
        https(pki.console_server(), move |client, path, body| {
            assert_eq!((client, path.as_str()), (None, "/agent/v1/enroll"));
            signed(&signer, &body, cn, cluster)
        })
        .await
        .0
    }

    #[tokio::test]
    async fn an_enrolled_node_has_an_identity_with_a_private_key_of_its_own() {
        let (pki, dir) = (Arc::new(Pki::new()), tempfile::tempdir().unwrap());
        let state = dir.path().join("tsugi");
        let url = console(&pki, "n1", "tokyo").await;
        let answer = enroll(&url, &token(&pki), &name(), &state, Existing::Keep).await.unwrap();
        let identity = Identity::load(&state).unwrap();
        assert_eq!((identity.node.as_str(), identity.cluster.as_str(), identity.console.to_string()), ("n1", "tokyo", url.clone()));
        assert_eq!(tls::fingerprint(&identity.certificates().unwrap()[0]), answer.fingerprint);
        assert!(tls::console_client(&identity).is_ok());
        let mode = |file: &str| std::fs::metadata(state.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("identity"), mode("identity/node.key")), (0o700, 0o600));

        let error = enroll(&url, &token(&pki), &name(), &state, Existing::Keep).await.unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        enroll(&url, &token(&pki), &name(), &state, Existing::Replace).await.unwrap();
        assert_ne!(Identity::load(&state).unwrap().key_pem, identity.key_pem);
    }

    #[tokio::test]
    async fn a_console_of_another_ca_learns_neither_token_nor_name() {
        let (pki, other, dir) = (Arc::new(Pki::new()), Pki::new(), tempfile::tempdir().unwrap());
        let (url, requests) = https(other.console_server(), |_, _, _| panic!("a request arrived")).await;
        let error = enroll(&url, &token(&pki), &name(), dir.path(), Existing::Keep).await.unwrap_err().to_string();
        assert!(error.contains("not the console that made this token"), "{error}");
        assert!(Identity::load(dir.path()).is_err());
        drop(requests);
    }

    #[tokio::test]
    async fn refusals_and_silence_come_with_their_remedy() {
        let (pki, dir) = (Arc::new(Pki::new()), tempfile::tempdir().unwrap());
        let url = console(&pki, "n1", "tokyo").await;
        let used = JoinToken { secret: "old".into(), ..token(&pki) };
        let error = enroll(&url, &used, &name(), dir.path(), Existing::Keep).await.unwrap_err().to_string();
        assert!(error.contains("used already") && error.contains("make a new one"), "{error}");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = enroll(&format!("https://{closed}"), &used, &name(), dir.path(), Existing::Keep).await.unwrap_err().to_string();
        assert!(error.contains("cannot be reached") && error.contains("firewall"), "{error}");
        assert!(!dir.path().join("identity").exists() && !dir.path().join("identity.new").exists());
    }

    #[tokio::test]
    async fn a_certificate_for_another_node_or_cluster_is_not_stored() {
        for (cn, cluster) in [("n2", "tokyo"), ("n1", "osaka")] {
            let (pki, dir) = (Arc::new(Pki::new()), tempfile::tempdir().unwrap());
            let url = console(&pki, cn, cluster).await;
            let error = enroll(&url, &token(&pki), &name(), dir.path(), Existing::Keep).await.unwrap_err().to_string();
            assert!(error.contains("another node or cluster"), "{error}");
            assert!(Identity::load(dir.path()).is_err());
        }
    }
}
