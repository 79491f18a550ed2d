//! What the kernel knows: interfaces and addresses, read and changed by netlink.

use super::VipError;
use super::packet::Mac;
use futures_util::{Stream, StreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo};
use rtnetlink::packet_route::link::LinkAttribute;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// The kernel answers at once; a netlink request that takes this long will not be answered at all.
const NETLINK_BOUND: Duration = Duration::from_secs(2);
/// Marks addresses of ours in the kernel (`proto` in `ip address`), since 5.18; older kernels ignore it.
pub const PROTOCOL: u8 = 0x75;
/// "For ever" in an address's lifetime.
const FOREVER: u32 = u32::MAX;
/// In place of "for ever" (ten years): on kernels without marks, having an end at all shows that an address is ours.
const VERY_LONG_SECONDS: u32 = 10 * 365 * 24 * 3600;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Kernel's number.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; absent on interfaces that have none, where nothing can be asked or announced.
    pub mac: Option<Mac>,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Interface.
    pub index: u32,
    /// It was put there by this software: it bears our mark; on kernels without marks, it has an end.
    pub is_ours: bool,
}

/// One look at the kernel's tables.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// By number.
    pub interfaces: BTreeMap<u32, Interface>,
    /// All of them.
    pub addresses: Vec<Configured>,
}

impl World {
    /// Name of an interface.
    pub fn name(&self, index: u32) -> String {
        self.interfaces.get(&index).map_or_else(|| format!("#{index}"), |i| i.name.clone())
    }

    /// Where `addr` is configured now.
    pub fn holders(&self, addr: IpAddr) -> impl Iterator<Item = &Configured> {
        self.addresses.iter().filter(move |a| a.addr == addr)
    }

    /// `eth0 10.0.0.1/24, …`: what a person needs to see when no subnet fits.
    pub fn subnets(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(|a| format!("{} {}/{}", self.name(a.index), a.addr, a.prefix)).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

/// Both addresses lie in the same subnet of that prefix length.
pub fn is_same_subnet(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            u32::from(a) & mask == u32::from(b) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            u128::from(a) & mask == u128::from(b) & mask
        }
        _ => false,
    }
}

/// A netlink connection for a few requests; it closes when dropped.
pub struct Netlink {
    handle: rtnetlink::Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Netlink {
    /// Opens one, in the network namespace of the calling thread.
    pub fn open() -> Result<Netlink, VipError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(VipError::Socket)?;
        Ok(Netlink { handle, driver: tokio::spawn(connection) })
    }

    /// Reads interfaces and addresses.
    pub async fn look(&self) -> Result<World, VipError> {
        let mut world = World::default();
        for link in collect("read the interfaces", self.handle.link().get().execute()).await? {
            let mut interface = Interface { index: link.header.index, name: String::new(), mac: None };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => interface.name = name,
                    LinkAttribute::Address(bytes) => interface.mac = bytes.try_into().ok().filter(|mac| *mac != [0; 6]),
                    _ => {}
                }
            }
            world.interfaces.insert(interface.index, interface);
        }
        let messages = collect("read the addresses", self.handle.address().get().execute()).await?;
        // The kernel marks its own addresses, such as 127.0.0.1: if none has a mark, it knows no marks.
        let has_marks = messages.iter().flat_map(|m| &m.attributes).any(|a| matches!(a, AddressAttribute::Protocol(_)));
        world.addresses = messages.iter().filter_map(|message| configured(message, has_marks)).collect();
        Ok(world)
    }

    /// Adds the address, or refreshes its lifetime if it is there.
    pub async fn put(&self, index: u32, addr: IpAddr, prefix: u8, lifetime: Option<Duration>) -> Result<(), VipError> {
        let mut request = self.handle.address().add(index, addr, prefix).replace();
        let message = request.message_mut();
        // No route of its own: routes, and with them source addresses, stay those of the interface's own address.
        let mut flags = AddressFlags::Noprefixroute;
        if addr.is_ipv6() {
            // Asked already, or deliberately not: the address has to work at once.
            flags |= AddressFlags::Nodad;
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        let mut cache = CacheInfo::default();
        cache.ifa_valid = lifetime.map_or(VERY_LONG_SECONDS, whole_seconds);
        // Not preferred in IPv6: outgoing connections keep to the machine's own address.
        cache.ifa_preferred = if addr.is_ipv6() { 0 } else { cache.ifa_valid };
        message.attributes.push(AddressAttribute::CacheInfo(cache));
        bounded("add an address", request.execute()).await
    }

    /// Removes the address; one that is gone already is no error.
    pub async fn remove(&self, address: &Configured) -> Result<(), VipError> {
        let mut message = AddressMessage::default();
        message.header.family = if address.addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = address.prefix;
        message.header.index = address.index;
        message.attributes.push(AddressAttribute::Local(address.addr));
        message.attributes.push(AddressAttribute::Address(address.addr));
        match bounded("remove an address", self.handle.address().del(message).execute()).await {
            Err(VipError::Netlink { source: rtnetlink::Error::NetlinkError(error), .. })
                if matches!(error.raw_code().unsigned_abs().cast_signed(), libc::EADDRNOTAVAIL | libc::ENODEV) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

/// The kernel counts whole seconds: rounded down, so that the address never outlives what was asked for; at least 1,
/// because 0 is refused.
fn whole_seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(VERY_LONG_SECONDS).clamp(1, VERY_LONG_SECONDS)
}

fn configured(message: &AddressMessage, has_marks: bool) -> Option<Configured> {
    let mut found =
        Configured { addr: IpAddr::from([0; 4]), prefix: message.header.prefix_len, index: message.header.index, is_ours: false };
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface `Address` is the other end.
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => address = Some(*addr),
            AddressAttribute::CacheInfo(cache) => found.is_ours |= !has_marks && cache.ifa_valid != FOREVER,
            AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)) => found.is_ours = true,
            _ => {}
        }
    }
    found.addr = local.or(address)?;
    Some(found)
}

async fn collect<T>(what: &'static str, stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, VipError> {
    bounded(what, async {
        let mut all = Vec::new();
        let mut stream = std::pin::pin!(stream);
        while let Some(item) = stream.next().await {
            all.push(item?);
        }
        Ok(all)
    })
    .await
}

async fn bounded<T>(what: &'static str, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, VipError> {
    match tokio::time::timeout(NETLINK_BOUND, request).await {
        Ok(answer) => answer.map_err(|source| VipError::Netlink { what, source }),
        Err(_) => Err(VipError::Silent { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_compared_by_prefix() {
        let same = |a: &str, b: &str, prefix| is_same_subnet(a.parse().unwrap(), b.parse().unwrap(), prefix);
        assert!(same("10.0.0.1", "10.0.0.254", 24) && !same("10.0.0.1", "10.0.1.1", 24));
        assert!(same("10.0.0.1", "99.0.0.1", 0) && !same("10.0.0.1", "10.0.0.2", 32));
        assert!(same("fd00::1", "fd00::ffff", 64) && !same("fd00::1", "fd01::1", 64));
        assert!(!same("10.0.0.1", "fd00::1", 0));
    }

    #[test]
    fn a_lifetime_is_never_longer_than_asked() {
        assert_eq!(whole_seconds(Duration::from_millis(4900)), 4);
        assert_eq!(whole_seconds(Duration::from_millis(100)), 1);
    }
}
