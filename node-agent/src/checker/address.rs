//! Is an address on an interface? Looks, and is woken by the kernel when any address comes or goes.

use super::{Reporter, Unheard};
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tsugi_core::state::Health;

/// Ends the netlink connection with the check.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tests for ever.
pub async fn watch(mut reporter: Reporter, interval: Duration, addr: IpAddr) {
    // Listening begins before the first look, so that no change falls between them.
    let (_driver, mut changes) = match rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr]) {
        Ok((connection, _handle, changes)) => (Some(Driver(tokio::spawn(connection))), Some(changes)),
        Err(error) => {
            tracing::warn!(resource = reporter.name, %error, "changes of addresses are seen at the check's interval only");
            (None, None)
        }
    };
    loop {
        let (health, detail) = match interface_of(addr) {
            Ok(Some(interface)) => (Health::Up, format!("{addr} is on {interface}")),
            Ok(None) => (Health::Down, format!("{addr} is on no interface of this node")),
            // Not knowing is not "down": what was known stays, and the next look decides.
            Err(error) => {
                tracing::warn!(resource = reporter.name, %error, "the addresses of this node cannot be read");
                tokio::time::sleep(interval).await;
                continue;
            }
        };
        if let Err(Unheard) = reporter.report(health, detail).await {
            return;
        }
        let change = async {
            match changes.as_mut() {
                Some(stream) => stream.next().await.is_some(),
                None => std::future::pending().await,
            }
        };
        let is_stream_over = tokio::select! {
            () = tokio::time::sleep(interval) => false,
            is_alive = change => !is_alive,
        };
        if is_stream_over {
            changes = None;
        }
    }
}

fn interface_of(addr: IpAddr) -> nix::Result<Option<String>> {
    let mut all = nix::ifaddrs::getifaddrs()?;
    let found = all.find(|entry| {
        let Some(storage) = &entry.address else { return false };
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        v4.or(v6) == Some(addr)
    });
    Ok(found.map(|entry| entry.interface_name))
}
