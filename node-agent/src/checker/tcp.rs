//! Is a TCP port open? Connects and closes again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

/// What to connect to.
pub struct Target {
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// For looking the name up and connecting together.
    pub timeout: Duration,
}

/// One test.
pub async fn test(target: &Target) -> Result<String, String> {
    match connect(target).await {
        Ok(stream) => Ok(format!("connect {}: open", stream.1)),
        Err(why) => Err(format!("connect {}:{}: {why}", target.host, target.port)),
    }
}

/// Connects to the first address that answers.
pub async fn connect(target: &Target) -> Result<(TcpStream, SocketAddr), String> {
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
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => why = "refused".to_owned(),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => why = no_answer(),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => return Err(no_answer()),
        }
    }
    Err(why)
}
