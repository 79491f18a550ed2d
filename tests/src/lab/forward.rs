//! From this machine's loopback to the lab: a listener here, connections made in the client's namespace.

use super::ns;
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::TcpStream;

/// A host that is off does not answer at all: the browser is told so after this long.
const CONNECT_BOUND: Duration = Duration::from_secs(3);
/// Connections at once; a browser uses six.
const CONNECTIONS_MAX: usize = 256;

/// Forwards 127.0.0.1:`port` (or a free port if that one is taken, or 0) to `to`; the port in use.
pub fn start(client: &OwnedFd, port: u16, to: SocketAddr) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no port of the loopback can be had")?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let net = client.try_clone()?;
    std::thread::Builder::new().name("forward".into()).spawn(move || {
        let run = || -> Result<()> {
            ns::enter(&net)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(accept(listener, to))
        };
        if let Err(error) = run() {
            eprintln!("tsugi-lab: forwarding to {to}: {error:#}");
        }
    })?;
    Ok(port)
}

async fn accept(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned().await?;
        let Ok((mut near, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(async move {
            let _permit = permit;
            if let Ok(Ok(mut far)) = tokio::time::timeout(CONNECT_BOUND, TcpStream::connect(to)).await {
                let _ = near.set_nodelay(true);
                let _ = far.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
