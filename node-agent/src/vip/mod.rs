//! Virtual addresses of a module: raised while this node may serve, and gone before it may not.
//!
//! An address is added beside the interface's own ones (no route, no preference as source), with a lifetime in the
//! kernel if wanted: when everything above is dead, nobody renews it and the kernel itself removes it. After raising,
//! the neighbours are told, again and again for five seconds, because a message of that kind is never acknowledged.

mod net;
mod packet;
mod reset;

pub use net::PROTOCOL as ADDRESS_MARK;
use net::{Interface, Netlink, World, is_same_subnet};
use packet::mac_text;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tsugi_core::module::Vip;

/// When the neighbours are told, after raising and after each [`Vips::announce`].
const ANNOUNCE_AT: [Duration; 5] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];
/// An address may be on several interfaces, and removing one may uncover another: looks before giving up.
const REMOVE_ROUNDS: u32 = 3;

/// Why addresses could not be raised or dropped.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// No interface is in its subnet.
    #[error(
        "{addr} is in no subnet of this node (found: {found}): correct the address, or name the interface in <real_interface>'s <interface name=…>"
    )]
    NoSubnet { addr: IpAddr, found: String },
    /// The configured interface is not there.
    #[error("{addr} is configured for the interface `{name}`, which does not exist (found: {found}): correct the name")]
    NoInterface { addr: IpAddr, name: String, found: String },
    /// Another machine answers for it.
    #[error("{addr} is in use by another machine on {interface} (Ethernet address {mac}): stop it there, or choose another address")]
    InUse { addr: IpAddr, mac: String, interface: String },
    /// It was put on this machine by somebody else.
    #[error("{addr} is configured on {interface} by other means: remove it there, a virtual address must belong to the module alone")]
    Foreign { addr: IpAddr, interface: String },
    /// It does not go away.
    #[error("{addr} is still on {interface} after it was removed: something else puts it back, find and stop it")]
    StillThere { addr: IpAddr, interface: String },
    /// The kernel refused.
    #[error("the kernel refused to {what}: {source}")]
    Netlink { what: &'static str, source: rtnetlink::Error },
    /// The kernel did not answer.
    #[error("the kernel did not answer a request to {what}")]
    Silent { what: &'static str },
    /// A socket could not be used.
    #[error("a socket for network administration cannot be used (is this process root?): {0}")]
    Socket(#[source] io::Error),
}

/// Whether to ask the network first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// Ask (200 ms); refuse if another machine answers.
    Refuse,
    /// Do not ask: the right to serve is held, and the neighbours are told who has the address now.
    Override,
}

/// How to raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raise {
    /// After this the kernel removes the address unless [`Vips::renew`] comes (whole seconds, rounded down, at least
    /// 1). `None` = it stays until dropped.
    pub lifetime: Option<Duration>,
    /// Whether to ask the network first.
    pub conflicts: Conflicts,
}

/// The virtual addresses of one module on this node.
pub struct Vips {
    vips: Vec<Vip>,
    announcer: Mutex<Option<JoinHandle<()>>>,
}

/// Where an address belongs.
struct Place {
    interface: Interface,
    prefix: u8,
}

impl Vips {
    /// Nothing happens yet.
    pub fn new(vips: Vec<Vip>) -> Self {
        Vips { vips, announcer: Mutex::new(None) }
    }

    /// Raises all addresses, or none: when one fails, those already raised by this call are removed again. An address
    /// that is up already gets the new lifetime. Returns all of them; the announcements run in the background.
    pub async fn raise(&mut self, how: Raise) -> Result<Vec<IpAddr>, VipError> {
        let netlink = Netlink::open()?;
        let world = netlink.look().await?;
        let mut places = Vec::new();
        for vip in &self.vips {
            places.push((vip.addr, self.place(vip, &world)?));
        }
        if how.conflicts == Conflicts::Refuse {
            let new = places.iter().filter(|(addr, _)| world.holders(*addr).next().is_none());
            for checked in futures_util::future::join_all(new.map(|(addr, place)| free(*addr, place))).await {
                checked?;
            }
        }
        let mut added: Vec<net::Configured> = Vec::new();
        for (addr, place) in &places {
            if let Err(error) = put(&netlink, &world, *addr, place, how.lifetime).await {
                for address in &added {
                    if let Err(error) = netlink.remove(address).await {
                        tracing::error!(address = %address.addr, %error, "an address raised in vain could not be removed again");
                    }
                }
                return Err(error);
            }
            if world.holders(*addr).next().is_none() {
                added.push(net::Configured { addr: *addr, prefix: place.prefix, index: place.interface.index, is_ours: true });
            }
        }
        self.announce();
        Ok(places.iter().map(|(addr, _)| *addr).collect())
    }

    /// Removes all addresses, wherever they are and whoever left them (an earlier life of this agent too), and makes
    /// sure that they are gone. Returns those that were there. Connections to them are cut first, as far as the
    /// kernel can.
    pub async fn drop_all(&mut self) -> Result<Vec<IpAddr>, VipError> {
        // First of all nobody is to be told any more that the addresses are here.
        self.stop_announcing();
        let netlink = Netlink::open()?;
        let mut removed = BTreeSet::new();
        let mut failed = None;
        for _ in 0..REMOVE_ROUNDS {
            let world = netlink.look().await?;
            let (ours, foreign): (Vec<_>, Vec<_>) = self.vips.iter().flat_map(|vip| world.holders(vip.addr)).partition(|a| a.is_ours);
            if ours.is_empty() {
                return match foreign.first() {
                    Some(left) => Err(VipError::Foreign { addr: left.addr, interface: world.name(left.index) }),
                    None => Ok(removed.into_iter().collect()),
                };
            }
            if removed.is_empty() {
                cut(ours.iter().map(|a| a.addr).collect()).await;
            }
            // One that cannot be removed must not keep the others.
            for address in ours {
                match netlink.remove(address).await {
                    Ok(()) => drop(removed.insert(address.addr)),
                    Err(error) => failed = Some(error),
                }
            }
        }
        let world = netlink.look().await?;
        match self.vips.iter().flat_map(|vip| world.holders(vip.addr)).next() {
            Some(left) => Err(failed.unwrap_or_else(|| VipError::StillThere { addr: left.addr, interface: world.name(left.index) })),
            None => Ok(removed.into_iter().collect()),
        }
    }

    /// The addresses that are on an interface now. Empty also when the kernel cannot be asked, which is logged.
    pub async fn held(&self) -> Vec<IpAddr> {
        let look = async { Netlink::open()?.look().await };
        match look.await {
            Ok(world) => self.vips.iter().map(|v| v.addr).filter(|a| world.holders(*a).next().is_some()).collect(),
            Err(error) => {
                tracing::error!(%error, "the virtual addresses held cannot be read");
                Vec::new()
            }
        }
    }

    /// Where the addresses that are ours stand now: address, prefix length, number of the interface.
    pub async fn standing(&self) -> Result<Vec<(IpAddr, u8, u32)>, VipError> {
        let world = Netlink::open()?.look().await?;
        let ours = self.vips.iter().flat_map(|v| world.holders(v.addr)).filter(|a| a.is_ours);
        Ok(ours.map(|a| (a.addr, a.prefix, a.index)).collect())
    }

    /// Tells the neighbours where the addresses are: at once, then after 0.5, 1, 2 and 5 s. To be called too when a
    /// network heals. Addresses that are not held (any more) are not announced. Must be called inside a tokio runtime.
    pub fn announce(&self) {
        let addrs: Vec<IpAddr> = self.vips.iter().map(|v| v.addr).collect();
        let task = tokio::spawn(async move {
            let begin = tokio::time::Instant::now();
            for at in ANNOUNCE_AT {
                tokio::time::sleep_until(begin + at).await;
                if let Err(error) = announce_once(&addrs).await {
                    tracing::warn!(%error, "the neighbours could not be told where the virtual addresses are");
                }
            }
        });
        if let Some(former) = self.announcer.lock().unwrap_or_else(PoisonError::into_inner).replace(task) {
            former.abort();
        }
    }

    /// Gives every address that is still held a new lifetime, counted from now. One that the kernel has removed
    /// already is *not* raised again, because its time was over; those are returned.
    pub async fn renew(&self, lifetime: Duration) -> Result<Vec<IpAddr>, VipError> {
        let netlink = Netlink::open()?;
        let world = netlink.look().await?;
        let mut lost = Vec::new();
        for vip in &self.vips {
            match world.holders(vip.addr).find(|a| a.is_ours) {
                Some(held) => netlink.put(held.index, held.addr, held.prefix, Some(lifetime)).await?,
                None => lost.push(vip.addr),
            }
        }
        Ok(lost)
    }

    fn stop_announcing(&self) {
        if let Some(task) = self.announcer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    /// Finds interface and prefix length of an address.
    fn place(&self, vip: &Vip, world: &World) -> Result<Place, VipError> {
        // A virtual address shows nothing about where another one belongs.
        let own = world.addresses.iter().filter(|a| self.vips.iter().all(|v| v.addr != a.addr));
        let fitting = own.filter(|a| is_same_subnet(a.addr, vip.addr, a.prefix));
        let host_prefix = if vip.addr.is_ipv4() { 32 } else { 128 };
        let (index, prefix) = match &vip.interface {
            Some(name) => {
                let interface = world.interfaces.values().find(|i| i.name == *name).ok_or_else(|| VipError::NoInterface {
                    addr: vip.addr,
                    name: name.clone(),
                    found: world.interfaces.values().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", "),
                })?;
                // Without an own address beside it, it stands alone: a wider prefix would make it the first of its
                // subnet, and removing the first one takes the others with it.
                let prefix = fitting.filter(|a| a.index == interface.index).map(|a| a.prefix).max();
                (interface.index, prefix.unwrap_or(host_prefix))
            }
            None => {
                let best = fitting.max_by_key(|a| a.prefix);
                let best = best.ok_or_else(|| VipError::NoSubnet { addr: vip.addr, found: world.subnets() })?;
                (best.index, best.prefix)
            }
        };
        let interface = world.interfaces.get(&index).cloned();
        let interface = interface.ok_or_else(|| VipError::NoSubnet { addr: vip.addr, found: world.subnets() })?;
        Ok(Place { interface, prefix: vip.prefix.unwrap_or(prefix) })
    }
}

impl Drop for Vips {
    fn drop(&mut self) {
        self.stop_announcing();
    }
}

/// Nobody else on the network has the address.
async fn free(addr: IpAddr, place: &Place) -> Result<(), VipError> {
    let Some(own) = place.interface.mac else { return Ok(()) };
    match packet::probe(place.interface.index, own, addr).await {
        Ok(None) => Ok(()),
        Ok(Some(mac)) => Err(VipError::InUse { addr, mac: mac_text(&mac), interface: place.interface.name.clone() }),
        Err(error) => {
            // An interface without a cable cannot be asked; that alone does not make the address somebody else's.
            tracing::warn!(address = %addr, interface = place.interface.name, %error, "the network could not be asked whether an address is in use");
            Ok(())
        }
    }
}

/// Puts one address in its place, taking leftovers of ours away from other places.
async fn put(netlink: &Netlink, world: &World, addr: IpAddr, place: &Place, lifetime: Option<Duration>) -> Result<(), VipError> {
    for there in world.holders(addr) {
        if !there.is_ours {
            return Err(VipError::Foreign { addr, interface: world.name(there.index) });
        }
        if there.index != place.interface.index || there.prefix != place.prefix {
            netlink.remove(there).await?;
        }
    }
    netlink.put(place.interface.index, addr, place.prefix, lifetime).await
}

/// Cuts connections to the addresses, as far as the kernel can; that it cannot is no reason to keep an address.
async fn cut(addrs: Vec<IpAddr>) {
    match tokio::task::spawn_blocking(move || reset::cut(&addrs)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => tracing::info!(count, "connections to the virtual addresses were cut"),
        Ok(Err(error)) => tracing::warn!(%error, "connections to the virtual addresses could not be cut; clients will notice later"),
        Err(error) => tracing::error!(%error, "cutting connections failed"),
    }
}

async fn announce_once(addrs: &[IpAddr]) -> Result<(), VipError> {
    let world = Netlink::open()?.look().await?;
    for held in addrs.iter().flat_map(|addr| world.holders(*addr)) {
        let Some(mac) = world.interfaces.get(&held.index).and_then(|i| i.mac) else { continue };
        packet::announce(held.index, mac, held.addr).map_err(VipError::Socket)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
