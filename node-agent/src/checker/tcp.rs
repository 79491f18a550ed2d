//! Is a TCP port open? Connects and closes again.

use super::{Reporter, Unheard};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tsugi_core::state::Health;

/// A single failed connection may be chance (a full backlog): the second one, this much later, decides.
const CONFIRM_AFTER: Duration = Duration::from_millis(200);

/// What to connect to.
pub struct Target {
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// For looking the name up and connecting together.
    pub timeout: Duration,
}

/// Tests for ever.
pub async fn watch(mut reporter: Reporter, interval: Duration, target: Target) {
    loop {
        let mut result = connect(&target).await;
        if result.is_err() && reporter.last != Some(Health::Down) {
            tokio::time::sleep(CONFIRM_AFTER).await;
            result = connect(&target).await;
        }
        let name = &target.host;
        let (health, detail) = match result {
            Ok(at) => (Health::Up, format!("connect {at}: open")),
            Err(why) => (Health::Down, format!("connect {name}:{}: {why}", target.port)),
        };
        if let Err(Unheard) = reporter.report(health, detail).await {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

/// Connects to the first address that answers.
async fn connect(target: &Target) -> Result<SocketAddr, String> {
    let end = tokio::time::Instant::now() + target.timeout;
    let no_answer = || format!("no answer within {:?}", target.timeout);
    let addresses = match timeout_at(end, tokio::net::lookup_host((target.host.as_str(), target.port))).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(format!("the name cannot be resolved: {error}")),
        Err(_) => return Err(format!("the name was not resolved within {:?}", target.timeout)),
    };
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        match timeout_at(end, TcpStream::connect(address)).await {
            // Without a listener, the kernel may by chance choose the very port as the source: connected to itself.
            Ok(Ok(stream)) if stream.local_addr().ok() == Some(address) => why = "refused".to_owned(),
            Ok(Ok(_)) => return Ok(address),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => why = "refused".to_owned(),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => why = no_answer(),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => return Err(no_answer()),
        }
    }
    Err(why)
}
