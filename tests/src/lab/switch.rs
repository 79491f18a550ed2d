//! The switch of a lab: two kernel bridges in a namespace of their own, the lines to every host, and what is
//! wrong with those lines.

use super::names::{CLIENT, Network, number_of};
use super::ns;
use super::relay::{self, Quality, Relay};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;

/// One direction between two hosts on one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Direction {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Where.
    pub network: Network,
}

impl Direction {
    fn back(&self) -> Direction {
        Direction { from: self.to.clone(), to: self.from.clone(), network: self.network }
    }
}

/// Bridges, lines and their faults.
pub struct Switch {
    /// Namespace of the bridges.
    pub net: OwnedFd,
    /// Namespace of the clients.
    pub client: OwnedFd,
    plugged: BTreeMap<String, OwnedFd>,
    cuts: BTreeSet<Direction>,
    bad: BTreeMap<Direction, Quality>,
    relays: BTreeMap<Direction, Relay>,
}

impl Switch {
    /// Both bridges and the client's namespace, plugged in.
    pub fn new() -> Result<Switch> {
        let net = ns::new_net()?;
        let client = ns::new_net()?;
        let mut lines = String::from("link set lo up\n");
        for network in Network::ALL {
            let bridge = network.word();
            // No spanning tree and no learning delay: a port forwards as soon as it is up.
            let _ = writeln!(lines, "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {bridge} up");
        }
        ns::ip_batch(&net, &lines)?;
        let mut switch =
            Switch { net, client, plugged: BTreeMap::new(), cuts: BTreeSet::new(), bad: BTreeMap::new(), relays: BTreeMap::new() };
        let client = switch.client.try_clone()?;
        switch.plug(CLIENT, &client, &[Network::Client])?;
        switch.apply_filter()?;
        Ok(switch)
    }

    /// Plugs the namespace of `host` into `networks` with its addresses.
    pub fn plug(&mut self, host: &str, host_net: &OwnedFd, networks: &[Network]) -> Result<()> {
        let number = number_of(host)?;
        self.unplug(host)?;
        // `ip` names another namespace by a process or by a path: a descriptor of ours is such a path.
        let place = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(host_net));
        let mut outside = String::new();
        let mut inside = String::from("link set lo up\n");
        for network in networks {
            let (port, name) = (network.port(host), network.interface());
            let _ = writeln!(
                outside,
                "link add {port} type veth peer name {name} address {} netns {place}\nlink set {port} master {} up",
                network.mac(number),
                network.word(),
            );
            // Router discovery and duplicate detection would only delay what starts right after a boot.
            let _ = writeln!(inside, "addr add {}/24 dev {name}\nlink set {name} up", network.addr(number));
        }
        ns::ip_batch(&self.net, &outside)?;
        ns::ip_batch(host_net, &inside)?;
        self.plugged.insert(host.to_owned(), host_net.try_clone()?);
        self.renew_relays(Some(host))
    }

    /// Takes every line of `host` down at once; it stays plugged in. What a bad line still held is lost with it.
    pub fn links_down(&mut self, host: &str) -> Result<()> {
        self.relays.retain(|direction, _| direction.from != host && direction.to != host);
        let mut lines = String::new();
        for port in self.ports(host)? {
            let _ = writeln!(lines, "link set {port} down");
        }
        ns::ip_batch(&self.net, &lines)
    }

    /// Removes every line of `host`.
    pub fn unplug(&mut self, host: &str) -> Result<()> {
        self.relays.retain(|direction, _| direction.from != host && direction.to != host);
        self.plugged.remove(host);
        for port in self.ports(host)? {
            // The kernel takes the lines of a dead host away too, some time after its end.
            if let Err(error) = ns::run_in(&self.net, "ip", &["link", "del", &port], "")
                && self.ports(host)?.contains(&port)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn ports(&self, host: &str) -> Result<Vec<String>> {
        let listing = ns::run_in(&self.net, "ip", &["-o", "link", "show"], "")?;
        let names: Vec<_> =
            listing.lines().filter_map(|l| l.split(": ").nth(1)).map(|n| n.split('@').next().unwrap_or(n).to_owned()).collect();
        Ok(Network::ALL.iter().map(|n| n.port(host)).filter(|p| names.contains(p)).collect())
    }

    /// Cuts lines.
    pub fn cut(&mut self, directions: impl IntoIterator<Item = Direction>) -> Result<()> {
        self.cuts.extend(directions);
        self.apply_filter()
    }

    /// Every line is whole and good again.
    pub fn heal(&mut self) -> Result<()> {
        let touched: Vec<_> = self.bad.keys().cloned().collect();
        self.cuts.clear();
        self.bad.clear();
        self.relays.clear();
        self.apply_filter()?;
        for direction in touched {
            self.offload(&direction, true);
        }
        Ok(())
    }

    /// Makes the lines of a pair bad, both ways.
    pub fn make_bad(&mut self, direction: Direction, quality: Quality) -> Result<()> {
        for one in [direction.back(), direction] {
            if !self.plugged.contains_key(&one.from) {
                bail!("{} is off or has no line on network {}", one.from, one.network.word());
            }
            self.relays.remove(&one);
            self.bad.insert(one, quality);
        }
        self.renew_relays(None)
    }

    /// Faults in force, for `lab info`.
    pub fn faults(&self) -> (Vec<Direction>, Vec<(Direction, Quality)>) {
        (self.cuts.iter().cloned().collect(), self.bad.iter().map(|(d, q)| (d.clone(), *q)).collect())
    }

    fn renew_relays(&mut self, host: Option<&str>) -> Result<()> {
        for (direction, quality) in self.bad.clone() {
            let is_on = self.plugged.contains_key(&direction.from) && self.plugged.contains_key(&direction.to);
            let is_asked = host.is_none_or(|h| direction.from == h || direction.to == h);
            if !is_on || !is_asked || self.relays.contains_key(&direction) || self.cuts.contains(&direction) {
                continue;
            }
            self.offload(&direction, false);
            let (from, to) = (direction.network.port(&direction.from), direction.network.port(&direction.to));
            let mac = direction.network.mac(number_of(&direction.to)?);
            self.relays.insert(direction, relay::start(&self.net, &from, &to, &mac, quality)?);
        }
        self.apply_filter()
    }

    fn offload(&self, direction: &Direction, on: bool) {
        if let Some(net) = self.plugged.get(&direction.from)
            && let Err(error) = relay::set_offload(net, direction.network.interface(), on)
        {
            eprintln!("tsugi-lab: {}: {error:#}", direction.from);
        }
    }

    /// The kernel's part: a cut line and a line that a relay carries forward nothing.
    fn apply_filter(&mut self) -> Result<()> {
        self.relays.retain(|direction, _| !self.cuts.contains(direction));
        let mut script = String::from("add table bridge lab\ndelete table bridge lab\nadd table bridge lab\n");
        script.push_str("add chain bridge lab lines { type filter hook forward priority 0; policy accept; }\n");
        for direction in self.cuts.iter().chain(self.bad.keys()) {
            let (from, to) = (direction.network.port(&direction.from), direction.network.port(&direction.to));
            let _ = writeln!(script, "add rule bridge lab lines iifname \"{from}\" oifname \"{to}\" drop");
        }
        ns::run_in(&self.net, "nft", &["-f", "-"], &script)
            .map(drop)
            .context("the switch cannot filter: the kernel needs nftables for bridges (CONFIG_NF_TABLES_BRIDGE)")
    }
}
