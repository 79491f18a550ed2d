//! The console's own certificate authority and what it signs.
//!
//! | certificate | made | lives | for |
//! | --- | --- | --- | --- |
//! | CA | once, `ca.crt`, `ca.key` (0600) | 30 years | agents pin it |
//! | browser port | `server.crt`, `server.key`; again when the names change or it runs out | 800 days | people and API |
//! | agents' port | at every start, in memory, CN `tsugi-console` | 10 years | agents |
//! | node | at enrolment, CN = node, O = cluster | 10 years | agent to console, agent to agent |
//!
//! Node certificates live long because an expired one would end an unattended pair's replication; what a node
//! may do is decided by its approval at every connection, so that removing the node is enough to revoke it.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use tsugi_core::ids::{ClusterName, NodeName};

/// Common name of the certificate on the agents' port; agents refuse any other.
pub const CONSOLE_CN: &str = "tsugi-console";
const CA_DAYS: i64 = 30 * 365;
const LONG_DAYS: i64 = 10 * 365;
/// Some systems refuse server certificates of more than 825 days even from an own CA.
const BROWSER_DAYS: i64 = 800;
/// Renewed at a start within this time of its end.
const BROWSER_RENEW_DAYS: i64 = 120;
/// Clocks of freshly installed machines are often somewhat behind.
const BACKDATE: Duration = Duration::days(1);

/// The certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    der: CertificateDer<'static>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("sha256", &self.sha256()).finish_non_exhaustive()
    }
}

impl Ca {
    /// Reads the CA of `dir`, or makes it.
    pub fn open(dir: &Path) -> Result<Ca> {
        let (certificate_file, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !key_file.exists() && !certificate_file.exists() {
            let key = KeyPair::generate().context("cannot make a key for the certificate authority")?;
            let mut params = params(CA_DAYS, &format!("Tsugi CA {}", &crate::auth::hex(&rand::random::<[u8; 4]>())), None);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key).context("cannot make the certificate authority")?;
            write_secret(&key_file, &key.serialize_pem())?;
            write_file(&certificate_file, &certificate.pem(), 0o644)?;
        }
        let read = |file: &Path| {
            fs::read_to_string(file).with_context(|| {
                format!("cannot read {}; ca.crt and ca.key belong together: restore both from the backup of the console", file.display())
            })
        };
        let (certificate_pem, key_pem) = (read(&certificate_file)?, read(&key_file)?);
        let key = KeyPair::from_pem(&key_pem).with_context(|| format!("{} holds no usable private key", key_file.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .with_context(|| format!("{} holds no usable certificate", certificate_file.display()))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).context("ca.crt is not PEM")?;
        Ok(Ca { issuer, certificate_pem, der })
    }

    /// SHA-256 of the certificate (DER), hexadecimal: what join tokens pin.
    pub fn sha256(&self) -> String {
        crate::auth::hex(&crate::auth::sha256(&self.der))
    }

    /// Signs a node's request. Only its public key is taken from it; names are the console's decision.
    /// The certificate (PEM) and its fingerprint.
    pub fn sign_node(&self, csr_pem: &str, node: &NodeName, cluster: &ClusterName) -> Result<(String, String)> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).context("the certificate signing request cannot be read")?;
        csr.params = params(LONG_DAYS, node.as_str(), Some(cluster.as_str()));
        csr.params.subject_alt_names = vec![dns(node.as_str())?];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = csr.signed_by(&self.issuer).context("cannot sign the node's certificate")?;
        let fingerprint = fingerprint(certificate.der());
        Ok((certificate.pem(), fingerprint))
    }

    fn sign_server(&self, days: i64, cn: &str, names: Vec<SanType>) -> Result<(Certificate, KeyPair)> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = params(days, cn, None);
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign the server's certificate")?;
        Ok((certificate, key))
    }

    /// TLS of the agents' port: TLS 1.3, client certificates of this CA, optional (only enrolment does without).
    pub fn agents_tls(&self) -> Result<ServerConfig> {
        let (certificate, key) = self.sign_server(LONG_DAYS, CONSOLE_CN, vec![dns(CONSOLE_CN)?])?;
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).context("the CA is not usable as a trust anchor")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .context("cannot verify client certificates")?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow::anyhow!("cannot use the agents' port's key: {e}"))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            // The CA goes along: an enrolling agent has only its hash, from the join token.
            .with_single_cert(vec![certificate.der().clone(), self.der.clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS of the browser port, with a certificate for `names` that is kept in `dir` as long as it fits.
    pub fn browser_tls(&self, dir: &Path, names: &BTreeSet<String>) -> Result<ServerConfig> {
        let (certificate_file, key_file, names_file) = (dir.join("server.crt"), dir.join("server.key"), dir.join("server.names"));
        let wanted = names.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let is_kept = fs::read_to_string(&names_file).is_ok_and(|kept| kept == wanted)
            && key_file.exists()
            && CertificateDer::from_pem_file(&certificate_file).is_ok_and(|der| days_left(&der) > BROWSER_RENEW_DAYS);
        if !is_kept {
            let sans = names
                .iter()
                .map(|n| n.parse::<IpAddr>().map_or_else(|_| dns(n), |ip| Ok(SanType::IpAddress(ip))))
                .collect::<Result<_>>()?;
            let (certificate, key) = self.sign_server(BROWSER_DAYS, "Tsugi console", sans)?;
            write_secret(&key_file, &key.serialize_pem())?;
            write_file(&certificate_file, &format!("{}{}", certificate.pem(), self.certificate_pem), 0o644)?;
            write_file(&names_file, &wanted, 0o644)?;
        }
        let chain = CertificateDer::pem_file_iter(&certificate_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| anyhow::anyhow!("cannot read {}: {e}; delete it and a new one is made", certificate_file.display()))?;
        let key = PrivateKeyDer::from_pem_file(&key_file)
            .map_err(|e| anyhow::anyhow!("cannot read {}: {e}; delete it with server.names and a new one is made", key_file.display()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Who a client certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// O.
    pub cluster: ClusterName,
    /// CN.
    pub node: NodeName,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
}

impl Identity {
    /// Reads a certificate that TLS has already verified; `None` if it names no node.
    pub fn of(der: &CertificateDer<'_>) -> Option<Identity> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let node = NodeName::new(subject.iter_common_name().next()?.as_str().ok()?).ok()?;
        let cluster = ClusterName::new(subject.iter_organization().next()?.as_str().ok()?).ok()?;
        Some(Identity { cluster, node, fingerprint: fingerprint(der) })
    }
}

fn fingerprint(der: &[u8]) -> String {
    crate::auth::hex(&crate::auth::sha256(der))
}

fn days_left(der: &CertificateDer<'_>) -> i64 {
    x509_parser::parse_x509_certificate(der)
        .map_or(0, |(_, c)| (c.validity().not_after.timestamp() - OffsetDateTime::now_utc().unix_timestamp()) / 86_400)
}

fn params(days: i64, cn: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cn);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params
}

fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into().with_context(|| format!("`{name}` cannot stand in a certificate"))?))
}

fn write_secret(file: &Path, text: &str) -> Result<()> {
    write_file(file, text, 0o600)
}

/// Whole or not at all, also across a power loss.
pub(crate) fn write_file(file: &Path, text: &str, mode: u32) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(new);
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(new, file)?;
        file.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Names and addresses under which browsers may reach this machine: those given, and what the machine has.
pub fn server_names(given: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = given.iter().filter(|n| !n.is_empty()).cloned().collect();
    names.insert("localhost".into());
    names.insert("127.0.0.1".into());
    names.insert("::1".into());
    if let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname") {
        let host = host.trim();
        if !host.is_empty() && host != "(none)" && host.is_ascii() && !host.contains('_') {
            names.insert(host.to_ascii_lowercase());
        }
    }
    names.extend(local_addresses().iter().map(IpAddr::to_string));
    names
}

/// Addresses of this machine, from the kernel's own tables.
fn local_addresses() -> BTreeSet<IpAddr> {
    let mut out = BTreeSet::new();
    // Lines: "   |-- 10.0.0.5" and below it "   /32 host LOCAL" for an own address.
    let trie = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut last = None;
    for line in trie.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address.parse::<std::net::Ipv4Addr>().ok();
        } else if line.trim() == "/32 host LOCAL" {
            out.extend(last.map(IpAddr::V4));
        }
    }
    // Lines: 32 hexadecimal digits, …, scope (20 = link-local, of no use without an interface).
    for line in fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let (Some(digits), Some(&scope)) = (fields.first(), fields.get(3))
            && scope != "20"
            && let Ok(number) = u128::from_str_radix(digits, 16)
        {
            out.insert(IpAddr::V6(number.into()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_ca_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::open(dir.path()).unwrap().sha256();
        assert_eq!(Ca::open(dir.path()).unwrap().sha256(), first);
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_node_gets_the_names_the_console_decided_whatever_its_request_says() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = params(1, "admin", Some("other")).serialize_request(&key).unwrap().pem().unwrap();
        let (pem, fingerprint) = ca.sign_node(&csr, &NodeName::new("n1").unwrap(), &ClusterName::new("c1").unwrap()).unwrap();
        let identity = Identity::of(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        assert_eq!(identity, Identity { cluster: ClusterName::new("c1").unwrap(), node: NodeName::new("n1").unwrap(), fingerprint });
    }

    #[test]
    fn the_browser_certificate_is_kept_until_the_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path()).unwrap();
        let read = || fs::read_to_string(dir.path().join("server.crt")).unwrap();
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        ca.browser_tls(dir.path(), &names(&["localhost", "127.0.0.1"])).unwrap();
        let first = read();
        ca.browser_tls(dir.path(), &names(&["localhost", "127.0.0.1"])).unwrap();
        assert_eq!(read(), first);
        ca.browser_tls(dir.path(), &names(&["localhost", "127.0.0.1", "console.example.com"])).unwrap();
        assert_ne!(read(), first);
    }
}
