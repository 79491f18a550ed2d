//! Is an address on an interface, has an interface a carrier? Looks, and is woken by the kernel when anything changes.

use super::report::{Reporter, judged};
use futures_util::StreamExt;
use nix::ifaddrs::InterfaceAddress;
use nix::net::if_::InterfaceFlags;
use rtnetlink::MulticastGroup;
use std::net::IpAddr;
use tokio::task::JoinHandle;
use tsugi_core::module::Interface;

/// Ends the netlink connection with the check.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tests for ever: at every change of addresses and interfaces, and at the interval in case one was not told.
async fn watch(mut reporter: Reporter, mut look: impl FnMut(&[InterfaceAddress]) -> Result<String, String>) {
    // Listening begins before the first look, so that no change falls between them.
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Link];
    let (_driver, mut changes) = match rtnetlink::new_multicast_connection(&groups) {
        Ok((connection, _handle, changes)) => (Some(Driver(tokio::spawn(connection))), Some(changes)),
        Err(error) => {
            tracing::warn!(resource = reporter.name, %error, "changes of addresses are seen at the check's interval only");
            (None, None)
        }
    };
    loop {
        let seen = nix::ifaddrs::getifaddrs().map(|all| judged(look(&all.collect::<Vec<_>>())));
        let wait = match seen {
            Ok((health, detail)) => match reporter.report(health, detail).await {
                Ok(wait) => wait,
                Err(_) => return,
            },
            // Not knowing is not "down": what was known stays, and the next look decides.
            Err(error) => {
                tracing::warn!(resource = reporter.name, %error, "the addresses of this node cannot be read");
                reporter.interval()
            }
        };
        let change = async {
            match changes.as_mut() {
                Some(stream) => stream.next().await.is_some(),
                None => std::future::pending().await,
            }
        };
        let is_stream_over = tokio::select! {
            () = tokio::time::sleep(wait) => false,
            is_alive = change => !is_alive,
        };
        if is_stream_over {
            changes = None;
        }
    }
}

fn ip_of(storage: Option<nix::sys::socket::SockaddrStorage>) -> Option<IpAddr> {
    let storage = storage?;
    let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or(storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// `<ip>`.
pub async fn watch_address(reporter: Reporter, addr: IpAddr) {
    watch(reporter, |all| match all.iter().find(|entry| ip_of(entry.address) == Some(addr)) {
        Some(entry) => Ok(format!("{addr} is on {}", entry.interface_name)),
        None => Err(format!("{addr} is on no interface of this node")),
    })
    .await;
}

/// `<intf>`.
pub async fn watch_interface(reporter: Reporter, interface: Interface) {
    // An interface that loses its cable may lose its address with it; it is still the same one.
    let mut known: Option<String> = None;
    watch(reporter, move |all| {
        let found = match &interface {
            Interface::Name(name) => Some(name.clone()),
            Interface::Local(addr) => all.iter().find(|e| ip_of(e.address) == Some(*addr)).map(|e| e.interface_name.clone()),
            Interface::Near(addr) => all.iter().find(|e| is_near(e, *addr)).map(|e| e.interface_name.clone()),
        };
        if found.is_some() {
            known = found;
        }
        let Some(name) = &known else {
            return Err(match &interface {
                Interface::Name(name) => format!("there is no interface {name}"),
                Interface::Local(addr) => format!("no interface of this node has the address {addr}"),
                Interface::Near(addr) => format!("no interface of this node has an address in the network of {addr}"),
            });
        };
        match all.iter().find(|e| e.interface_name == *name) {
            None => Err(format!("there is no interface {name}")),
            Some(entry) if !entry.flags.contains(InterfaceFlags::IFF_UP) => Err(format!("{name} is switched off")),
            Some(entry) if !entry.flags.contains(InterfaceFlags::IFF_RUNNING) => Err(format!("{name} has no carrier: cable or switch")),
            Some(_) => Ok(format!("{name} is up")),
        }
    })
    .await;
}

/// An address of its own in the subnet of `addr`.
fn is_near(entry: &InterfaceAddress, addr: IpAddr) -> bool {
    match (ip_of(entry.address), ip_of(entry.netmask), addr) {
        (Some(IpAddr::V4(own)), Some(IpAddr::V4(mask)), IpAddr::V4(addr)) => {
            let mask = u32::from(mask);
            mask != 0 && mask != u32::MAX && own != addr && u32::from(own) & mask == u32::from(addr) & mask
        }
        (Some(IpAddr::V6(own)), Some(IpAddr::V6(mask)), IpAddr::V6(addr)) => {
            let mask = u128::from(mask);
            mask != 0 && mask != u128::MAX && own != addr && u128::from(own) & mask == u128::from(addr) & mask
        }
        _ => false,
    }
}
