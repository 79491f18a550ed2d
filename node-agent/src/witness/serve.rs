//! The witness's port: TLS with the node's certificate, one request a time on each connection, everything bounded.

use super::store::{StoreError, WitnessStore};
use crate::config::Identity;
use crate::tls;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::wire::arbiter::ArbiterRequest;

/// Connections at once: a few for each node of a large cluster.
const CONNECTIONS_MAX: usize = 512;
/// Longest TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the head of a request, also between two of a connection.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a body.
const BODY_MAX: Duration = Duration::from_secs(5);
/// Largest body: a line.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Pause after a failed accept (out of descriptors), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For tests only: carries requests out and never answers, so that a test can kill the witness in between.
const TEST_MUTE: &str = "TSUGI_TEST_WITNESS_MUTE";

struct Witness {
    store: Arc<WitnessStore>,
    /// The disk does not say whether it keeps what it was given: the program ends.
    unsure: mpsc::Sender<()>,
    is_mute: bool,
}

/// Serves until the disk fails in a way that leaves open what it holds.
pub(super) fn serve(
    listener: TcpListener,
    identity: &Identity,
    store: Arc<WitnessStore>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let acceptor = TlsAcceptor::from(tls::peer_server(identity, None)?);
    let (unsure, mut is_unsure) = mpsc::channel(1);
    let is_mute = std::env::var_os(TEST_MUTE).is_some();
    if is_mute {
        tracing::error!("{TEST_MUTE} is set: this witness never answers. For tests only.");
    }
    let witness = Arc::new(Witness { store, unsure, is_mute });
    let accept = async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, addr)) => {
                    let (acceptor, witness) = (acceptor.clone(), witness.clone());
                    tokio::spawn(async move {
                        let _slot = slot;
                        connection(stream, addr, acceptor, witness).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    Ok(async move {
        tokio::select! {
            () = accept => Ok(()),
            _ = is_unsure.recv() => anyhow::bail!("the disk failed; the witness ends, because it cannot say what is stored"),
        }
    })
}

async fn connection(stream: TcpStream, addr: SocketAddr, acceptor: TlsAcceptor, witness: Arc<Witness>) {
    let _ = stream.set_nodelay(true);
    let tls = match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::info!(peer.addr = %addr, %error, "a connection from {addr} was refused: {error}"),
        Err(_) => return tracing::info!(peer.addr = %addr, "a connection from {addr} said nothing"),
    };
    // TLS has checked CA and cluster; what remains is the name.
    let subject = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(tls::subject_of);
    let Some(sender) = subject.and_then(|s| NodeName::new(s.common_name).ok()) else { return };
    let service = service_fn(move |request| {
        let (witness, sender) = (witness.clone(), sender.clone());
        async move {
            let answer = answer(&witness, sender, request).await;
            if witness.is_mute {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    if let Err(error) = http.serve_connection(TokioIo::new(tls), service).await {
        tracing::debug!(peer.addr = %addr, %error, "a connection ended early");
    }
}

async fn answer(witness: &Witness, sender: NodeName, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let module = request.uri().path().strip_prefix("/arbiter/v1/").map(ModuleName::new);
    let Some(module) = module else { return refusal(StatusCode::NOT_FOUND, "not_found", "A witness has /arbiter/v1/MODULE only.") };
    let module = match module {
        Ok(module) => module,
        Err(e) => return refusal(StatusCode::BAD_REQUEST, "bad_request", &e.to_string()),
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "bad_method", "Requests to an arbiter are POST.");
    }
    let body = match timeout(BODY_MAX, Limited::new(request.into_body(), BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large or broke off."),
        Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, "too_slow", "The request did not arrive in time."),
    };
    let request: ArbiterRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return refusal(StatusCode::BAD_REQUEST, "bad_request", &format!("The request is not understood: {e}")),
    };
    let decided = {
        let (store, module, sender, request) = (witness.store.clone(), module.clone(), sender.clone(), request.clone());
        tokio::task::spawn_blocking(move || store.decide(&module, &sender, &request)).await
    };
    let Ok(decided) = decided else { return refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The witness failed; see its log.") };
    match decided {
        Ok(answer) => {
            if request != ArbiterRequest::Read {
                tracing::info!(
                    module.name = %module, node.name = %sender, arbiter.accepted = answer.is_accepted,
                    arbiter.version = answer.record.version.0, ?request, "the witness decided"
                );
            }
            match serde_json::to_vec(&answer) {
                Ok(body) => response(StatusCode::OK, body),
                Err(e) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", &e.to_string()),
            }
        }
        Err(error) => {
            tracing::warn!(module.name = %module, node.name = %sender, "node {sender} was refused for module {module}: {error}");
            if matches!(error, StoreError::Unsure(_)) {
                let _ = witness.unsure.try_send(());
            }
            let (status, code) = match &error {
                StoreError::Stranger { .. } => (StatusCode::FORBIDDEN, "forbidden"),
                StoreError::TooMany => (StatusCode::FORBIDDEN, "too_many"),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            };
            refusal(status, code, &error.to_string())
        }
    }
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    response(status, serde_json::json!({ "error": code, "message": message }).to_string().into_bytes())
}

fn response(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
