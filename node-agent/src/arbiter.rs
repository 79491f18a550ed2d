//! Asking the arbiter for the right to serve.
//!
//! Every request has a connection to itself while it is under way: a claim never waits behind anything else, not
//! even behind another module's claim. Connections are kept for a short while, so that the usual request costs
//! one round trip.
//!
//! A request that gets no answer has an *unknown* outcome: it may have been carried out, or may still be.

use crate::config::{ConsoleAddr, Identity};
use crate::tls::{self, TlsError};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tsugi_core::ids::ModuleName;
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};

/// A request has an answer within this time, or none.
pub const ASK_TIME_MAX: Duration = Duration::from_secs(2);
/// TCP and TLS take at most this part of it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is not used: a firewall may have forgotten it, which would cost the whole
/// time-out in the one moment that counts.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);
/// Connections kept: modules of one node that ask at the same time.
const IDLE_MAX: usize = 16;
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer to act upon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArbiterError {
    /// No answer. The outcome is unknown: the request may have been carried out.
    #[error("the arbiter does not answer ({detail})")]
    NotReachable {
        /// Where it ended; English.
        detail: String,
    },
    /// An answer, but not to the request: the node is not approved, the module does not live on it, …
    /// Nothing was carried out.
    #[error("the arbiter refuses the request ({status}): {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
}

type Connection = SendRequest<Full<Bytes>>;

/// Asks the arbiter in the name of this node. Clones share the idle connections.
#[derive(Clone)]
pub struct ArbiterClient {
    addr: ConsoleAddr,
    tls: Arc<ClientConfig>,
    idle: Arc<Mutex<Vec<(Instant, Connection)>>>,
}

impl ArbiterClient {
    /// A client of the console as arbiter.
    pub fn new(identity: &Identity) -> Result<ArbiterClient, TlsError> {
        Ok(ArbiterClient { addr: identity.console.clone(), tls: tls::console_client(identity)?, idle: Arc::default() })
    }

    /// Sends `request` and waits at most [`ASK_TIME_MAX`].
    pub async fn ask(&self, module: &ModuleName, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        match timeout(ASK_TIME_MAX, self.ask_untimed(module, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(not_reachable(format!("no answer within {} s", ASK_TIME_MAX.as_secs()))),
        }
    }

    async fn ask_untimed(&self, module: &ModuleName, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        let body = serde_json::to_vec(request).map_err(|e| not_reachable(format!("the request cannot be written: {e}")))?;
        let mut http = Request::post(format!("/arbiter/v1/{module}"))
            .header(HOST, self.addr.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| not_reachable(format!("the request cannot be made: {e}")))?;

        // A kept connection may turn out to be closed. Only a request that hyper hands back unsent is sent again.
        while let Some(mut connection) = self.take_idle() {
            match connection.try_send_request(http).await {
                Ok(response) => return self.finish(connection, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => http = unsent,
                    None => return Err(not_reachable(format!("the connection broke: {}", error.into_error()))),
                },
            }
        }
        let mut connection = timeout(CONNECT_TIME_MAX, self.connect())
            .await
            .map_err(|_| not_reachable(format!("no connection to {} within {} s", self.addr, CONNECT_TIME_MAX.as_secs())))??;
        let response = connection.send_request(http).await.map_err(|e| not_reachable(format!("the connection broke: {e}")))?;
        self.finish(connection, response).await
    }

    async fn connect(&self) -> Result<Connection, ArbiterError> {
        let stream = tls::dial(&self.addr, self.tls.clone()).await.map_err(|e| not_reachable(e.to_string()))?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| not_reachable(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to the arbiter ended");
            }
        });
        Ok(connection)
    }

    async fn finish(
        &self,
        connection: Connection,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<ArbiterAnswer, ArbiterError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| not_reachable(format!("the answer broke off: {e}")))?
            .to_bytes();
        self.keep(connection);
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|e| not_reachable(format!("the answer is not understood: {e}"))),
            // The console could not do its part: it may have written the record before it failed.
            status if status.is_server_error() => Err(not_reachable(format!("{status}: {}", said(&body)))),
            status => Err(ArbiterError::Refused { status: status.as_u16(), text: said(&body) }),
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, connection)| since.elapsed() < IDLE_TIME_MAX && !connection.is_closed());
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push((Instant::now(), connection));
        }
    }
}

fn not_reachable(detail: String) -> ArbiterError {
    ArbiterError::NotReachable { detail }
}

/// The sentence in an error body (`{"error", "message"}`), or the body as it is.
pub(crate) fn said(body: &[u8]) -> String {
    /// Enough for a sentence; a page of HTML from a proxy is of no use.
    const TEXT_CHARS_MAX: usize = 500;
    let message = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|v| v.get("message")?.as_str().map(str::to_owned));
    message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().chars().take(TEXT_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::{Pki, https};
    use std::sync::atomic::Ordering;
    use tsugi_core::ids::{Epoch, LifeId, NodeName};
    use tsugi_core::wire::arbiter::Record;

    fn module() -> ModuleName {
        ModuleName::new("db").unwrap()
    }
    fn client(pki: &Pki, url: &str) -> ArbiterClient {
        ArbiterClient::new(&pki.identity("n1", "tokyo", url)).unwrap()
    }
    fn record() -> Record {
        Record { version: Epoch(7), ..Record::empty(LifeId(9)) }
    }
    fn answer() -> (u16, String) {
        (200, serde_json::to_string(&ArbiterAnswer { is_accepted: true, record: record() }).unwrap())
    }

    #[tokio::test]
    async fn a_request_arrives_in_the_nodes_name_and_is_answered() {
        let pki = Pki::new();
        let (url, connections) = https(pki.console_server(), |cn, path, body| {
            assert_eq!((cn.as_deref(), path.as_str()), (Some("n1"), "/arbiter/v1/db"));
            let request = serde_json::from_slice::<ArbiterRequest>(&body).unwrap();
            assert_eq!(request, ArbiterRequest::Grow { store: LifeId(9), expected: Epoch(6), with: NodeName::new("n2").unwrap() });
            answer()
        })
        .await;
        let client = client(&pki, &url);
        let request = ArbiterRequest::Grow { store: LifeId(9), expected: Epoch(6), with: NodeName::new("n2").unwrap() };
        for _ in 0..3 {
            assert_eq!(client.ask(&module(), &request).await.unwrap(), ArbiterAnswer { is_accepted: true, record: record() });
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "the connection is kept");
    }

    #[tokio::test]
    async fn a_refusal_is_told_from_an_unknown_outcome() {
        let pki = Pki::new();
        let body = |m: &str| format!(r#"{{"error":"x","message":"{m}"}}"#);
        let (url, _) = https(pki.console_server(), move |_, path, _| match path.as_str() {
            "/arbiter/v1/db" => (403, body("The node is not approved.")),
            "/arbiter/v1/broken" => (503, body("The disk is full.")),
            _ => (200, "<html>".into()),
        })
        .await;
        let client = client(&pki, &url);
        let ask = async |name: &str| client.ask(&ModuleName::new(name).unwrap(), &ArbiterRequest::Read).await.unwrap_err();
        assert_eq!(ask("db").await, ArbiterError::Refused { status: 403, text: "The node is not approved.".into() });
        for unknown in ["broken", "proxy"] {
            assert!(matches!(ask(unknown).await, ArbiterError::NotReachable { .. }), "{unknown}");
        }
    }

    #[tokio::test]
    async fn silence_ends_within_the_bound() {
        let pki = Pki::new();
        // Accepts TCP (in the kernel) and says nothing.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = format!("https://{}", listener.local_addr().unwrap());
        let begin = Instant::now();
        let error = client(&pki, &mute).ask(&module(), &ArbiterRequest::Read).await.unwrap_err();
        assert!(matches!(error, ArbiterError::NotReachable { .. }), "{error}");
        assert!(begin.elapsed() < ASK_TIME_MAX, "connecting alone took {:?}", begin.elapsed());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_request_that_hangs_holds_up_no_other() {
        let pki = Pki::new();
        let (url, _) = https(pki.console_server(), |_, path, _| {
            if path.ends_with("/hangs") {
                std::thread::sleep(Duration::from_secs(3));
            }
            answer()
        })
        .await;
        let client = client(&pki, &url);
        let hanging = {
            let client = client.clone();
            tokio::spawn(async move { client.ask(&ModuleName::new("hangs").unwrap(), &ArbiterRequest::Read).await })
        };
        let quick = client.ask(&module(), &ArbiterRequest::Read).await;
        assert!(quick.is_ok(), "{quick:?}");
        assert!(matches!(hanging.await.unwrap(), Err(ArbiterError::NotReachable { .. })));
    }

    #[tokio::test]
    async fn a_foreign_arbiter_is_not_asked() {
        let (pki, other) = (Pki::new(), Pki::new());
        let (url, _) = https(other.console_server(), |_, _, _| panic!("a request arrived")).await;
        let error = client(&pki, &url).ask(&module(), &ArbiterRequest::Read).await.unwrap_err();
        assert!(matches!(&error, ArbiterError::NotReachable { detail } if detail.contains("no trust")), "{error}");
    }

    #[tokio::test]
    async fn a_kept_connection_that_was_closed_meanwhile_costs_nothing() {
        let pki = Pki::new();
        // Every connection answers once and is closed by the server without notice.
        let (tls, listener) = (pki.console_server(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let mut stream = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(tcp).await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let body = answer().1;
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
                let _ = stream.flush().await;
            }
        });
        let client = client(&pki, &url);
        for _ in 0..5 {
            let answer = client.ask(&module(), &ArbiterRequest::Read).await;
            assert!(answer.is_ok(), "{answer:?}");
            // Until the end of the connection has arrived here; the level that is waited for is the pool's.
            let closed = async {
                while client.idle.lock().unwrap().iter().any(|(_, c)| !c.is_closed()) {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(5), closed).await.unwrap();
        }
    }
}
