//! Does a web service answer, with the right status and text, soon enough? One GET on a connection of its own.

use super::tcp::{self, Target};
use crate::config::certificates_of;
use crate::tls::provider;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use regex::Regex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tsugi_core::module::HttpProbe;

/// Of a longer body only the beginning is read; a page that says how it is does so early.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Where systems keep the certificates they trust: Debian, Red Hat, SUSE.
const SYSTEM_CERTIFICATES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// A probe made ready.
pub struct Http {
    probe: HttpProbe,
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
    body: Option<Regex>,
    /// Made at the first test, so that a file that is missing is a result and no failure to start.
    tls: Option<Arc<ClientConfig>>,
}

impl Http {
    /// An error says what in the probe cannot be used.
    pub fn new(probe: HttpProbe) -> Result<Http, String> {
        let uri: Uri = probe.url.parse().map_err(|error| format!("{}: {error}", probe.url))?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| format!("{}: no host", probe.url))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let body = probe.body.as_deref().map(Regex::new).transpose().map_err(|e| format!("the pattern of `match` cannot be used: {e}"))?;
        Ok(Http { probe, uri, host, port, is_tls, body, tls: None })
    }

    /// One test.
    pub async fn test(&mut self) -> Result<String, String> {
        let begin = Instant::now();
        let timeout = self.probe.timeout;
        let result = match tokio::time::timeout(timeout, self.get(begin)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no whole answer within {timeout:?}")),
        };
        let (status, took) = result.map_err(|why| format!("GET {}: {why}", self.probe.url))?;
        let said = format!("GET {}: {status} in {} ms", self.probe.url, took.as_millis());
        match self.probe.slow.filter(|limit| took > *limit) {
            Some(limit) => Err(format!("{said}, more than {} ms", limit.as_millis())),
            None => Ok(said),
        }
    }

    /// A good status, and how long everything took.
    async fn get(&mut self, begin: Instant) -> Result<(u16, Duration), String> {
        let target = Target { host: self.host.clone(), port: self.port, timeout: self.probe.timeout };
        let (stream, _) = tcp::connect(&target).await?;
        let response = if self.is_tls {
            let config = match &self.tls {
                Some(config) => config.clone(),
                None => self.tls.insert(client(self.probe.ca.as_deref())?).clone(),
            };
            let name = ServerName::try_from(self.host.clone()).map_err(|_| format!("{} is no name of a server", self.host))?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
            self.ask(stream).await?
        } else {
            self.ask(stream).await?
        };
        let status = response.status().as_u16();
        if !self.probe.status.iter().any(|range| (range.first..=range.last).contains(&status)) {
            return Err(format!("status {status}, not {}", self.statuses()));
        }
        let body = read(response).await?;
        if let Some(pattern) = self.body.as_ref().filter(|p| !p.is_match(&body)) {
            return Err(format!("status {status}, but `{}` is not in the answer", pattern.as_str()));
        }
        Ok((status, begin.elapsed()))
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Response<Incoming>, String> {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends with the sender and the body.
        tokio::spawn(connection);
        let authority = self.uri.authority().map_or("", |a| a.as_str());
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::get(path)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("tsugi/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        sender.send_request(request).await.map_err(|e| format!("no answer in HTTP: {e}"))
    }

    fn statuses(&self) -> String {
        let range = |r: &tsugi_core::module::StatusRange| {
            if r.first == r.last { r.first.to_string() } else { format!("{}-{}", r.first, r.last) }
        };
        self.probe.status.iter().map(range).collect::<Vec<_>>().join(", ")
    }
}

async fn read(response: Response<Incoming>) -> Result<String, String> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|e| format!("the answer breaks off: {e}"))?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - bytes.len())]);
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn client(ca: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let path = match ca {
        Some(path) => path,
        None => SYSTEM_CERTIFICATES
            .into_iter()
            .find(|p| std::path::Path::new(p).exists())
            .ok_or("this system has no list of trusted certificates: name one with `ca`")?,
    };
    let pem = std::fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    let certificates = certificates_of(&pem).map_err(|error| format!("{path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|e| format!("{path}: {e}"))?;
    // The certificate of the server itself is trusted when it was named, not when it merely comes with the system.
    let own = if ca.is_some() { certificates } else { Vec::new() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OwnOrChain { own, chain }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The very certificate that was named, or one that chains to what is trusted.
#[derive(Debug)]
struct OwnOrChain {
    own: Vec<CertificateDer<'static>>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OwnOrChain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.own.iter().any(|c| c.as_ref() == end_entity.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
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
