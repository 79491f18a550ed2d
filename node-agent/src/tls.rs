//! TLS of the agent: who may be talked to.
//!
//! One rule for every connection: TLS 1.3, and the other side's certificate is signed by the console's CA that
//! enrolment pinned. What differs is the name that must be in it. Host names and addresses are never compared:
//! they move, the names in the certificates do not.
//!
//! | connection | name that must be in the certificate |
//! | --- | --- |
//! | agent → console | CN `tsugi-console` |
//! | agent ↔ agent | CN = the expected node, O = this cluster |
//! | enrolment | the CA itself, by the fingerprint in the join token; then CN `tsugi-console` |

use crate::config::{ConsoleAddr, Identity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tsugi_core::ids::NodeName;

#[cfg(test)]
pub(crate) mod pki;

/// Common name of the console's certificate.
pub const CONSOLE_CN: &str = "tsugi-console";

/// Why a TLS configuration cannot be made from an identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the identity is not what it should be.
    #[error("the identity of this node cannot be used: {0}. Remedy: enrol it again with `tsugi-agent enroll --force …`")]
    Identity(String),
}

impl From<String> for TlsError {
    fn from(detail: String) -> Self {
        TlsError::Identity(detail)
    }
}
impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        TlsError::Identity(error.to_string())
    }
}

/// The one cryptography provider of the program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Names in a certificate's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// CN.
    pub common_name: String,
    /// O, if there is one.
    pub organization: Option<String>,
}

/// Reads CN and O; `None` unless there is exactly one CN and at most one O.
pub fn subject_of(cert: &CertificateDer<'_>) -> Option<Subject> {
    let (_, parsed) = x509_parser::parse_x509_certificate(cert).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let common_name = names.next()?.as_str().ok()?.to_owned();
    let mut organizations = parsed.subject().iter_organization();
    let organization = organizations.next().map(|o| o.as_str().map(str::to_owned)).transpose().ok()?;
    (names.next().is_none() && organizations.next().is_none()).then_some(Subject { common_name, organization })
}

/// Lower-case hexadecimal SHA-256 of a certificate in DER.
pub fn fingerprint(cert: &CertificateDer<'_>) -> String {
    ring::digest::digest(&ring::digest::SHA256, cert).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// For connections to the console: shows the node's certificate, accepts only `tsugi-console` of the pinned CA.
pub fn console_client(identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    with_own_certificate(identity, Expected::console())
}

/// For connections to another agent: accepts only `peer` of this cluster.
pub fn peer_client(identity: &Identity, peer: &NodeName) -> Result<Arc<ClientConfig>, TlsError> {
    with_own_certificate(identity, Expected::peer(identity, Some(peer)))
}

/// For connections from another agent: accepts only `peer` of this cluster. With `None` any node of the cluster;
/// the caller then reads its name with [`subject_of`].
pub fn peer_server(identity: &Identity, peer: Option<&NodeName>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&identity.ca()?)?), provider())
        .build()
        .map_err(|e| TlsError::Identity(e.to_string()))?;
    let verifier = PeerVerifier { chain, expected: Expected::peer(identity, peer) };
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.certificates()?, identity.key()?)?;
    Ok(Arc::new(config))
}

/// For enrolment: no certificate of our own yet, the CA is recognised by its fingerprint.
pub fn enroll_client(ca_sha256: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = PinVerifier { trust: Trust::Fingerprint(ca_sha256.to_owned()), expected: Expected::console(), algorithms: algorithms() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Checks a certificate that an agent received for itself against the CA. Text says what is wrong.
pub fn check_issued(cert: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<(), String> {
    let roots = roots(ca).map_err(|e| e.to_string())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|e| e.to_string())?;
    verifier.verify_client_cert(cert, &[], UnixTime::now()).map(|_| ()).map_err(|e| e.to_string())
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP: nobody there, no route, refused.
    #[error("{addr} cannot be reached: {source}")]
    Unreachable {
        /// Where to.
        addr: ConsoleAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// TLS: somebody is there, but not who was expected (or who does not accept this node's certificate).
    #[error("{addr} answers, but no trust could be established: {source}")]
    Untrusted {
        /// Where to.
        addr: ConsoleAddr,
        /// Cause, from rustls.
        source: std::io::Error,
    },
}

/// TCP and TLS to `addr`, without Nagle's delay. No time-out of its own: the caller knows how long it can wait.
pub async fn dial(addr: &ConsoleAddr, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialError> {
    let unreachable = |source| DialError::Unreachable { addr: addr.clone(), source };
    let untrusted = |source| DialError::Untrusted { addr: addr.clone(), source };
    let name = ServerName::try_from(addr.host.clone()).map_err(|e| unreachable(std::io::Error::other(e)))?;
    let tcp = TcpStream::connect((addr.host.as_str(), addr.port)).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(untrusted)
}

/// Files of somebody else's PKI, PEM.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// CA of the server's certificate.
    pub ca: Option<&'a str>,
    /// Our certificate and its key.
    pub cert: Option<(&'a str, &'a str)>,
}

/// TLS to a server that is no part of Tsugi, checked as usual: its certificate must be signed by the CA in `files`,
/// and be that of `name`, or of `addr` where no name is given. The text says what is wrong.
pub async fn connect_with_files(
    tcp: TcpStream,
    files: Files<'_>,
    name: Option<&str>,
    addr: std::net::IpAddr,
) -> Result<TlsStream<TcpStream>, String> {
    let read = async |path: &str| tokio::fs::read_to_string(path).await.map_err(|e| format!("cannot read {path}: {e}"));
    let mut roots = RootCertStore::empty();
    if let Some(path) = files.ca {
        for ca in crate::config::certificates_of(&read(path).await?).map_err(|e| format!("{path}: {e}"))? {
            roots.add(ca).map_err(|e| format!("{path}: {e}"))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let config = match files.cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = crate::config::certificates_of(&read(cert).await?).map_err(|e| format!("{cert}: {e}"))?;
            let key = PrivateKeyDer::from_pem_slice(read(key).await?.as_bytes()).map_err(|e| format!("{key}: {e}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("{cert}: {e}"))?
        }
    };
    let name = match name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|e| format!("`{name}`: {e}"))?,
        None => ServerName::IpAddress(addr.into()),
    };
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| e.to_string())
}

fn with_own_certificate(identity: &Identity, expected: Expected) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = PinVerifier { trust: Trust::Ca(roots(&identity.ca()?)?), expected, algorithms: algorithms() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.certificates()?, identity.key()?)?;
    Ok(Arc::new(config))
}

fn roots(ca: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(roots)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// Names that must be in the other side's certificate.
#[derive(Debug, Clone)]
struct Expected {
    common_name: Option<String>,
    organization: Option<String>,
}

impl Expected {
    fn console() -> Expected {
        Expected { common_name: Some(CONSOLE_CN.to_owned()), organization: None }
    }
    fn peer(identity: &Identity, peer: Option<&NodeName>) -> Expected {
        Expected { common_name: peer.map(|p| p.to_string()), organization: Some(identity.cluster.to_string()) }
    }
    /// The error names what was found, so that a log line tells a wrong address from an attack.
    fn check(&self, cert: &CertificateDer<'_>) -> Result<(), Error> {
        let Some(found) = subject_of(cert) else {
            return Err(Error::General("the certificate has no single common name".to_owned()));
        };
        if let Some(wanted) = &self.common_name
            && *wanted != found.common_name
        {
            return Err(Error::General(format!("the certificate is that of `{}`, not of `{wanted}`", found.common_name)));
        }
        if let Some(wanted) = &self.organization
            && Some(wanted) != found.organization.as_ref()
        {
            let of = found.organization.as_deref().unwrap_or("no cluster");
            return Err(Error::General(format!("the certificate belongs to `{of}`, not to cluster `{wanted}`")));
        }
        Ok(())
    }
}

enum Trust {
    /// Known since enrolment.
    Ca(RootCertStore),
    /// Known only by the join token: the server must send it in its chain.
    Fingerprint(String),
}

/// Chain, validity and signature as webpki checks them; then the names instead of the host name.
struct PinVerifier {
    trust: Trust,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for PinVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let found;
        let roots = match &self.trust {
            Trust::Ca(roots) => roots,
            Trust::Fingerprint(wanted) => {
                let ca = intermediates.iter().find(|c| fingerprint(c) == *wanted);
                found = roots(ca.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?)?;
                &found
            }
        };
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)?;
        self.expected.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The client side of a connection between agents: webpki's check of the chain, then the names.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    expected: Expected,
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.expected.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::pki::Pki;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// Connects both ends and says one byte each way; the text is the first failure, of whichever side.
    async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: ConsoleAddr = listener.local_addr().unwrap().to_string().parse().unwrap();
        let serve = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(server).accept(tcp).await.map_err(|e| e.to_string())?;
            stream.write_all(b"x").await.map_err(|e| e.to_string())?;
            // Until the client goes.
            let _ = stream.read(&mut [0]).await;
            Ok::<_, String>(())
        };
        let call = async {
            let mut stream = dial(&addr, client).await.map_err(|e| e.to_string())?;
            stream.read_exact(&mut [0]).await.map_err(|e| e.to_string())?;
            Ok::<_, String>(())
        };
        let (served, called) = tokio::join!(serve, call);
        match (served, called) {
            (Ok(()), Ok(())) => Ok(()),
            (a, b) => Err(format!("{} / {}", a.err().unwrap_or_default(), b.err().unwrap_or_default())),
        }
    }

    #[tokio::test]
    async fn the_console_is_known_by_its_ca_and_name_not_by_its_address() {
        let pki = Pki::new();
        let client = console_client(&pki.identity("n1", "tokyo", "https://c:1")).unwrap();
        assert_eq!(meet(pki.console_server(), client.clone()).await, Ok(()));
        let error = meet(Pki::new().console_server(), client.clone()).await.unwrap_err();
        assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
        let error = meet(pki.server("n2", |_| {}), client).await.unwrap_err();
        assert!(error.contains("`n2`, not of `tsugi-console`"), "{error}");
    }

    #[tokio::test]
    async fn an_expired_console_is_refused() {
        let pki = Pki::new();
        let client = console_client(&pki.identity("n1", "tokyo", "https://c:1")).unwrap();
        let expired = pki.server(CONSOLE_CN, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        let error = meet(expired, client).await.unwrap_err();
        assert!(error.contains("expired"), "{error}");
    }

    #[tokio::test]
    async fn a_certificate_for_clients_only_is_no_console() {
        let pki = Pki::new();
        let client = console_client(&pki.identity("n1", "tokyo", "https://c:1")).unwrap();
        let server = pki.server(CONSOLE_CN, |p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
        assert!(meet(server, client).await.is_err());
    }

    #[tokio::test]
    async fn enrolment_believes_the_fingerprint_of_the_token_only() {
        let pki = Pki::new();
        let right = enroll_client(&fingerprint(&pki.ca_der())).unwrap();
        assert_eq!(meet(pki.console_server(), right.clone()).await, Ok(()));
        let error = meet(Pki::new().console_server(), right).await.unwrap_err();
        assert!(error.contains("UnknownIssuer"), "{error}");
    }

    #[tokio::test]
    async fn agents_accept_only_the_expected_node_of_their_cluster() {
        let pki = Pki::new();
        let name = |text: &str| NodeName::new(text).unwrap();
        let n1 = pki.identity("n1", "tokyo", "https://c:1");
        let n2 = pki.identity("n2", "tokyo", "https://c:1");
        let stranger = pki.identity("n2", "osaka", "https://c:1");
        let foreign = Pki::new().identity("n2", "tokyo", "https://c:1");
        let serve = |id: &Identity, peer| peer_server(id, Some(&name(peer))).unwrap();
        let call = |id: &Identity, peer| peer_client(id, &name(peer)).unwrap();

        assert_eq!(meet(serve(&n1, "n2"), call(&n2, "n1")).await, Ok(()));
        assert_eq!(meet(peer_server(&n1, None).unwrap(), call(&n2, "n1")).await, Ok(()));
        for (case, server, client) in [
            ("caller is another node", serve(&n1, "n3"), call(&n2, "n1")),
            ("called is another node", serve(&n1, "n2"), call(&n2, "n3")),
            ("caller of another cluster", serve(&n1, "n2"), call(&stranger, "n1")),
            ("caller of another CA", serve(&n1, "n2"), call(&foreign, "n1")),
            ("called of another CA", serve(&foreign, "n1"), call(&n1, "n2")),
            ("any node, but of this cluster", peer_server(&n1, None).unwrap(), call(&stranger, "n1")),
        ] {
            assert!(meet(server, client).await.is_err(), "{case}");
        }
    }
}
