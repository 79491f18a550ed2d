//! Arbiters that speak `POST /arbiter/v1/{module}`: the console and witnesses.

use super::pool::{Dialer, Pool};
use super::{ASK_TIME_MAX, ArbiterError, not_reachable, said};
use crate::config::{ConsoleAddr, Identity};
use crate::tls::{self, TlsError};
use hyper::StatusCode;
use std::net::SocketAddr;
use tokio::time::timeout;
use tsugi_core::ids::{ArbiterName, ModuleName, NodeName};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};

/// Asks the arbiter in the name of this node. Clones share the idle connections.
#[derive(Clone)]
pub struct ArbiterClient {
    pool: Pool,
}

impl ArbiterClient {
    /// A client of the console as arbiter.
    pub fn new(identity: &Identity) -> Result<ArbiterClient, TlsError> {
        let dialer = Dialer::Pinned { addr: identity.console.clone(), tls: tls::console_client(identity)? };
        Ok(ArbiterClient { pool: Pool::new(dialer) })
    }

    /// A client of the witness `name`, which is what its certificate must say.
    pub fn witness(identity: &Identity, name: &ArbiterName, addr: SocketAddr) -> Result<ArbiterClient, TlsError> {
        let node = NodeName::new(name.as_str()).map_err(|e| TlsError::Identity(e.to_string()))?;
        let addr = ConsoleAddr { host: addr.ip().to_string(), port: addr.port() };
        let dialer = Dialer::Pinned { addr, tls: tls::peer_client(identity, &node)? };
        Ok(ArbiterClient { pool: Pool::new(dialer) })
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
        let (status, body) = self.pool.post(&format!("/arbiter/v1/{module}"), &body).await.map_err(|e| not_reachable(e.0))?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|e| not_reachable(format!("the answer is not understood: {e}"))),
            // It could not do its part: it may have written the record before it failed.
            status if status.is_server_error() => Err(not_reachable(format!("{status}: {}", said(&body)))),
            status => Err(ArbiterError::Refused { status: status.as_u16(), text: said(&body) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::{Pki, https};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};
    use tsugi_core::ids::{Epoch, LifeId};
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
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let (url, _) = https(pki.console_server(), move |_, path, _| {
            if path.ends_with("/hangs") {
                // It must not hold up the tasks that wait for this worker.
                let _ = tokio::task::block_in_place(|| wait.lock().unwrap().recv_timeout(ASK_TIME_MAX));
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
        assert!(quick.is_ok() && !hanging.is_finished(), "{quick:?}");
        go.send(()).unwrap();
        assert!(hanging.await.unwrap().is_ok());
    }

    /// What a test does to a line, and sees of it.
    #[derive(Default)]
    struct Line {
        /// What is sent goes nowhere, and the connection it was sent on never works again.
        is_broken: AtomicBool,
        /// Something was sent in vain.
        has_lost: AtomicBool,
    }

    /// A line to `to` on which everything takes `delay` each way.
    async fn slow_line(to: &str, delay: Duration) -> (String, Arc<Line>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let to = to.trim_start_matches("https://").to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let line = Arc::<Line>::default();
        let shared = line.clone();
        async fn pass<R: AsyncReadExt + Unpin, W: AsyncWriteExt + Unpin + Send + 'static>(
            mut from: R,
            mut to: W,
            delay: Duration,
            line: Arc<Line>,
        ) {
            let (late, mut due) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
            tokio::spawn(async move {
                while let Some((at, bytes)) = due.recv().await {
                    tokio::time::sleep_until(at).await;
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
            let (mut buffer, mut is_dead) = (vec![0; 16_384], false);
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                is_dead |= line.is_broken.load(Ordering::SeqCst);
                line.has_lost.fetch_or(is_dead, Ordering::SeqCst);
                if !is_dead {
                    let _ = late.send((tokio::time::Instant::now() + delay, buffer[..n].to_vec()));
                }
            }
            // The end is as silent as everything else on a dead line.
            if is_dead {
                std::future::pending::<()>().await;
            }
        }
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = tokio::net::TcpStream::connect(&to).await.unwrap();
                // TCP's own round trip.
                tokio::time::sleep(2 * delay).await;
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, delay, shared.clone()));
                tokio::spawn(pass(far_in, near_out, delay, shared.clone()));
            }
        });
        (url, line)
    }

    #[tokio::test]
    async fn with_a_round_trip_of_a_second_a_claim_is_answered_and_on_a_warm_connection_in_one() {
        let pki = Pki::new();
        let (url, connections) = https(pki.console_server(), |_, _, _| answer()).await;
        let (url, _) = slow_line(&url, Duration::from_millis(500)).await;
        let client = client(&pki, &url);
        let begin = Instant::now();
        client.ask(&module(), &ArbiterRequest::Read).await.unwrap();
        assert!(begin.elapsed() < ASK_TIME_MAX / 2, "TCP, TLS and the request took {:?}", begin.elapsed());
        let begin = Instant::now();
        client.ask(&module(), &ArbiterRequest::Read).await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(1400), "one round trip took {:?}", begin.elapsed());
        assert_eq!(connections.load(Ordering::SeqCst), 1, "a slow answer is no reason for a second connection");
    }

    #[tokio::test]
    async fn a_connection_that_died_in_silence_costs_a_moment_and_not_the_whole_time() {
        let pki = Pki::new();
        let (url, connections) = https(pki.console_server(), |_, _, _| answer()).await;
        let (url, line) = slow_line(&url, Duration::ZERO).await;
        let client = client(&pki, &url);
        client.ask(&module(), &ArbiterRequest::Read).await.unwrap();
        line.is_broken.store(true, Ordering::SeqCst);
        let begin = Instant::now();
        let asking = {
            let client = client.clone();
            tokio::spawn(async move { (client.ask(&module(), &ArbiterRequest::Read).await, Instant::now()) })
        };
        let sent = async {
            while !line.has_lost.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), sent).await.unwrap();
        line.is_broken.store(false, Ordering::SeqCst);
        let (answer, at) = asking.await.unwrap();
        assert!(answer.is_ok() && at - begin < Duration::from_secs(3), "{answer:?} after {:?}", at - begin);
        assert_eq!(connections.load(Ordering::SeqCst), 2);
        assert_eq!(client.pool.idle.lock().unwrap().len(), 1, "the dead one is gone");
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
                while client.pool.idle.lock().unwrap().iter().any(|(_, c)| !c.is_closed()) {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(5), closed).await.unwrap();
        }
    }
}
