//! Identity of the two ends of the replication stream: TLS 1.3 only, the cluster's CA pinned, and the peer's
//! certificate must name exactly the node and the cluster the configuration names.

use anyhow::{Context, anyhow, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Certificate, key and CA of this node, and whom to expect.
#[derive(Debug, Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
    peer: String,
    cluster: String,
    /// Test only: see [`Identity::without_cipher`].
    pub(super) is_open: bool,
}

impl Identity {
    /// Reads `node.crt`, `node.key` and `ca.crt` of a directory.
    pub fn load(dir: &Path, peer: &str, cluster: &str) -> anyhow::Result<Self> {
        let file = |name: &str| dir.join(name);
        let chain = CertificateDer::pem_file_iter(file("node.crt"))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot read the node certificate {}; enroll the node again", file("node.crt").display()))?;
        let key = PrivateKeyDer::from_pem_file(file("node.key"))
            .with_context(|| format!("cannot read the node key {}; enroll the node again", file("node.key").display()))?;
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::pem_file_iter(file("ca.crt"))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot read the cluster's CA {}; enroll the node again", file("ca.crt").display()))?;
        for cert in ca {
            roots.add(cert).context("the cluster's CA certificate is not usable")?;
        }
        if roots.is_empty() {
            bail!("{} holds no certificate", file("ca.crt").display());
        }
        Ok(Self { chain, key: Arc::new(key), roots: Arc::new(roots), peer: peer.to_owned(), cluster: cluster.to_owned(), is_open: false })
    }

    /// Test only, to measure what TLS costs: after the handshake nothing is enciphered. Both ends have to be told.
    pub fn without_cipher(mut self, is_open: bool) -> Self {
        self.is_open = is_open;
        self
    }

    /// For the end that listens.
    pub fn server(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        // A session is one connection: tickets would only cost time.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For the end that connects.
    pub fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(PinnedCa { roots: self.roots.clone(), provider: provider.clone() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        Ok(Arc::new(config))
    }

    /// After the handshake: is this certificate the expected peer's?
    pub fn check_peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> anyhow::Result<()> {
        let first = certificates.and_then(<[_]>::first).ok_or_else(|| anyhow!("the peer showed no certificate"))?;
        let (_, cert) =
            x509_parser::parse_x509_certificate(first.as_ref()).map_err(|e| anyhow!("the peer's certificate is not readable: {e}"))?;
        let name = cert.subject().iter_common_name().next().and_then(|a| a.as_str().ok()).unwrap_or("");
        let cluster = cert.subject().iter_organization().next().and_then(|a| a.as_str().ok()).unwrap_or("");
        if name != self.peer || cluster != self.cluster {
            bail!(
                "the peer's certificate names node `{name}` of cluster `{cluster}`, expected `{}` of `{}`; check the address in the cluster configuration",
                self.peer,
                self.cluster
            );
        }
        Ok(())
    }
}

/// Accepts every certificate the pinned CA signed; the name is compared afterwards, because nodes have no DNS names.
#[derive(Debug)]
struct PinnedCa {
    roots: Arc<RootCertStore>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let cert = rustls::server::ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&cert, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
