//! HTTP connections to an arbiter.
//!
//! Every request has a connection to itself while it is under way. A connection is kept warm by the looks at the arbiter
//! (`Arbiter::is_ready`), so that a claim costs one round trip even where a round trip takes a second.
//!
//! What is sent here may arrive twice: requests name the version they are based on, so a repetition changes nothing, and its
//! answer tells how the record stands.

use crate::config::ConsoleAddr;
use crate::tls;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tsugi_core::cluster::EtcdDef;

/// TCP and TLS take at most this long: two round trips of a second, each with a packet lost.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is not used: a firewall may have forgotten it. More than twice
/// [`super::WARM_EVERY`], so that the warm one outlives a look whose answer came late.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);
/// A kept connection on which no answer comes for this long may be dead (the arbiter lost its power, a firewall forgot it):
/// a new one is opened beside it. A round trip of a second still needs no second connection.
const SUSPECT_AFTER: Duration = Duration::from_millis(1500);
/// Connections kept: modules of one node that ask at the same time.
const IDLE_MAX: usize = 16;
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

type Connection = SendRequest<Full<Bytes>>;

/// How a connection is made.
pub(super) enum Dialer {
    /// TLS with certificates of the cluster's CA, known by their names.
    Pinned {
        /// Where to.
        addr: ConsoleAddr,
        /// Whom to accept.
        tls: Arc<ClientConfig>,
    },
    /// A member of an etcd cluster.
    Etcd {
        /// Where to.
        addr: SocketAddr,
        /// Its certificates are read for each connection: they may be renewed.
        def: EtcdDef,
    },
}

impl Dialer {
    fn authority(&self) -> String {
        match self {
            Dialer::Pinned { addr, .. } => addr.authority(),
            Dialer::Etcd { addr, .. } => addr.to_string(),
        }
    }
}

/// Why there is no answer; English. The request may have been carried out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct PostError(pub(super) String);

/// Connections to one place. Clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    dialer: Arc<Dialer>,
    pub(super) idle: Arc<Mutex<Vec<(Instant, Connection)>>>,
}

impl Pool {
    pub(super) fn new(dialer: Dialer) -> Pool {
        Pool { dialer: Arc::new(dialer), idle: Arc::default() }
    }

    /// Sends a JSON body, maybe twice; the first answer counts. No time-out of its own but for connecting.
    pub(super) async fn post(&self, path: &str, body: &[u8]) -> Result<(StatusCode, Bytes), PostError> {
        while let Some(connection) = self.take_idle() {
            let mut kept = pin!(self.post_on(connection, path, body));
            match timeout(SUSPECT_AFTER, &mut kept).await {
                Ok(Ok(answer)) => return Ok(answer),
                // Closed meanwhile, or it broke.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a kept connection to the arbiter is of no use");
                    continue;
                }
                Err(_) => {}
            }
            // The others are as old and no better.
            self.forget_idle();
            let mut anew = pin!(self.post_anew(path, body));
            return tokio::select! {
                answer = &mut kept => if answer.is_ok() { answer } else { anew.await },
                answer = &mut anew => if answer.is_ok() { answer } else { kept.await },
            };
        }
        self.post_anew(path, body).await
    }

    async fn post_anew(&self, path: &str, body: &[u8]) -> Result<(StatusCode, Bytes), PostError> {
        let connection = timeout(CONNECT_TIME_MAX, self.connect())
            .await
            .unwrap_or_else(|_| Err(format!("no connection to {} within {} s", self.dialer.authority(), CONNECT_TIME_MAX.as_secs())))
            .map_err(PostError)?;
        self.post_on(connection, path, body).await
    }

    async fn post_on(&self, mut connection: Connection, path: &str, body: &[u8]) -> Result<(StatusCode, Bytes), PostError> {
        let request = Request::post(path)
            .header(HOST, self.dialer.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|e| PostError(format!("the request cannot be made: {e}")))?;
        let response = connection.send_request(request).await.map_err(|e| PostError(format!("the connection broke: {e}")))?;
        self.finish(connection, response).await
    }

    async fn connect(&self) -> Result<Connection, String> {
        match &*self.dialer {
            Dialer::Pinned { addr, tls } => speak(tls::dial(addr, tls.clone()).await.map_err(|e| e.to_string())?).await,
            Dialer::Etcd { addr, def } => {
                let tcp = TcpStream::connect(addr).await.map_err(|e| format!("{addr} cannot be reached: {e}"))?;
                tcp.set_nodelay(true).map_err(|e| e.to_string())?;
                if !def.is_tls {
                    return speak(tcp).await;
                }
                let files = tls::Files { ca: def.ca.as_deref(), cert: def.cert.as_ref().map(|(c, k)| (c.as_str(), k.as_str())) };
                let tls = tls::connect_with_files(tcp, files, def.tls_name.as_deref(), addr.ip()).await;
                speak(tls.map_err(|e| format!("{addr} answers, but no trust could be established: {e}"))?).await
            }
        }
    }

    async fn finish(&self, connection: Connection, response: Response<hyper::body::Incoming>) -> Result<(StatusCode, Bytes), PostError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| PostError(format!("the answer broke off: {e}")))?
            .to_bytes();
        self.keep(connection);
        Ok((status, body))
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, connection)| since.elapsed() < IDLE_TIME_MAX && !connection.is_closed());
        idle.pop().map(|(_, connection)| connection)
    }

    fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push((Instant::now(), connection));
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connection, String> {
    let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a connection to the arbiter ended");
        }
    });
    Ok(connection)
}
