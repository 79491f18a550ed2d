//! Certificates for tests: a CA like the console's and what it issues.

use crate::config::Identity;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tsugi_core::ids::{ClusterName, NodeName};

/// A CA.
pub(crate) struct Pki {
    pub(crate) ca: CertifiedIssuer<'static, KeyPair>,
}

fn named(cn: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, cn);
    if let Some(o) = organization {
        name.push(DnType::OrganizationName, o);
    }
    params.distinguished_name = name;
    params
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let mut params = named("Tsugi test CA", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Pki { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }
    pub(crate) fn ca_der(&self) -> CertificateDer<'static> {
        self.ca.as_ref().der().clone()
    }
    /// PEM of a certificate and its key, valid for both directions.
    pub(crate) fn issue(&self, cn: &str, organization: Option<&str>) -> (String, String) {
        self.issue_with(cn, organization, |_| {})
    }
    pub(crate) fn issue_with(&self, cn: &str, organization: Option<&str>, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = named(cn, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }
    pub(crate) fn identity(&self, node: &str, cluster: &str, console: &str) -> Identity {
        let (cert_pem, key_pem) = self.issue(node, Some(cluster));
        Identity {
            node: NodeName::new(node).unwrap(),
            cluster: ClusterName::new(cluster).unwrap(),
            console: console.parse().unwrap(),
            cert_pem,
            key_pem,
            ca_pem: self.ca.as_ref().pem(),
        }
    }
    /// A console's TLS: CA in the chain, client certificates asked for but not demanded.
    pub(crate) fn console_server(&self) -> Arc<ServerConfig> {
        self.server("tsugi-console", |_| {})
    }
    pub(crate) fn server(&self, cn: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        use rustls_pki_types::pem::PemObject;
        let (cert, key) = self.issue_with(cn, None, change);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca_der()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), super::provider()).allow_unauthenticated().build().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap(), self.ca_der()];
        let config = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        Arc::new(config)
    }
}

/// Serves HTTP over TLS on a free port of the loopback; `answer` gets client certificate's CN, path and body.
/// Returns the address and counts connections.
pub(crate) async fn https(
    tls: Arc<ServerConfig>,
    answer: impl Fn(Option<String>, String, Vec<u8>) -> (u16, String) + Clone + Send + Sync + 'static,
) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    use http_body_util::{BodyExt, Full};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (tls, answer, counter) = (tls.clone(), answer.clone(), counter.clone());
            tokio::spawn(async move {
                let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await else { return };
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let cn = client_cn(&stream);
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (answer, cn) = (answer.clone(), cn.clone());
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await?.to_bytes().to_vec();
                        let (status, text) = answer(cn, path, body);
                        let response = hyper::Response::builder().status(status);
                        Ok::<_, hyper::Error>(response.body(Full::new(hyper::body::Bytes::from(text))).unwrap())
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    (url, count)
}

/// Common name the client showed.
pub(crate) fn client_cn(stream: &tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> Option<String> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().and_then(|c| super::subject_of(&c[0])).map(|s| s.common_name)
}
