//! Accepting TLS connections and handing their requests to a router.
//!
//! A handshake runs in a task of its own under a time-out, so that a client that opens a connection and says
//! nothing holds up nobody; connections are counted, so that a flood of them costs bounded memory.

use crate::pki::Identity;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections of one port at once: a thousand agents with room, or a few hundred browsers.
const CONNECTIONS_MAX: usize = 4096;
/// Longest TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the head of a request, also between two requests of a connection.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// Pause after a failed accept (out of descriptors), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests under way may go on for this long after the console was told to end.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// Who is at the other end; a request extension.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address.
    pub addr: SocketAddr,
    /// What the client certificate says, if there is one.
    pub identity: Option<Identity>,
}

/// Serves `router` on `listener` until `shutdown`.
pub async fn serve(listener: TcpListener, tls: rustls::ServerConfig, router: Router, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let (stream, addr) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "A connection could not be accepted.");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            let _slot = slot;
            connection(stream, addr, acceptor, router, shutdown).await;
        });
    }
    connections.close();
    let _ = tokio::time::timeout(GOODBYE_MAX, connections.wait()).await;
}

async fn connection(stream: TcpStream, addr: SocketAddr, acceptor: TlsAcceptor, router: Router, shutdown: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(peer.addr = %addr, %error, "A TLS handshake failed.");
            return;
        }
        Err(_) => {
            tracing::debug!(peer.addr = %addr, "A TLS handshake took too long.");
            return;
        }
    };
    let identity = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(Identity::of);
    let peer = Peer { addr, identity };
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let serving = http.serve_connection(TokioIo::new(tls), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer.addr = %addr, %error, "A connection ended early.");
    }
}
