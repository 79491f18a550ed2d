//! What the peers have in common: two hosts of a lab of their own, the same application, the same client.

use super::probe::{self, Probe};
use crate::lab::names::{LEDGER_PORT, VIP};
use crate::lab::{Lab, Plan};
use crate::setup::wait_for;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A peer forms its cluster (Pacemaker: 22 s of waiting for others at the very first start) within this time.
const FORM_BOUND: Duration = Duration::from_secs(120);
/// It serves again within this time after a fault.
const TAKEOVER_BOUND: Duration = Duration::from_secs(60);
/// A random wait before each fault is at most this long.
const RANDOM_WAIT_MS: u64 = 1500;
/// Hosts of a peer.
const HOSTS: [&str; 2] = ["n1", "n2"];

/// Runs of a peer in seconds, by what was done and then by the peer's name with its settings.
pub type PeerRuns = BTreeMap<&'static str, BTreeMap<String, Vec<f64>>>;

/// Kinds of rows that peers have figures for.
pub mod row {
    /// Host of the service switched off.
    pub const POWER_OFF: &str = "power-off";
    /// Application killed.
    pub const APP_KILLED: &str = "application killed";
    /// Node given up in order.
    pub const STOP: &str = "clean stop";
    /// Service moved by order.
    pub const MOVE: &str = "move";
}

/// How one peer is started on a host and asked.
pub trait Peer {
    /// Brings configuration and programs up on a host that has just been switched on.
    fn boot(&self, lab: &Lab, host: &str) -> Result<()>;
    /// Both nodes are in the cluster and nothing is under way.
    fn is_whole(&self, lab: &Lab) -> bool;
}

/// Two hosts under a peer, and a client.
pub struct PeerLab<P> {
    /// Hosts.
    pub lab: Lab,
    peer: P,
    probe: Probe,
}

/// Starts the ledger with its data on the host's own disk. `$1` is `start` or `stop`; returns when it listens, or is gone.
pub fn app_script() -> String {
    format!(
        r#"#!/bin/sh
pidfile=/run/peer-ledger.pid; out=/run/peer-ledger.out
alive() {{ [ -s $pidfile ] && kill -0 "$(cat $pidfile)" 2>/dev/null; }}
case "$1" in
start)
    alive && exit 0
    setsid tsugi-ledger --dir /srv/data/peer --listen {VIP}:{LEDGER_PORT} >$out 2>&1 </dev/null &
    echo $! >$pidfile
    until grep -q ' on {VIP}' $out; do alive || exit 1; sleep 0.01; done ;;
stop)
    if alive; then kill "$(cat $pidfile)"; while alive; do sleep 0.01; done; fi
    rm -f $pidfile ;;
monitor) alive || exit 7 ;;
esac
exit 0
"#
    )
}

/// The peer's programs are on this machine, and so in every host.
pub fn need(programs: &[&str]) -> Result<()> {
    for program in programs {
        let is_there = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| std::path::Path::new(dir).join(program).exists());
        anyhow::ensure!(is_there, "{program} is not installed: `./dev bench failover` installs Debian's packages");
    }
    Ok(())
}

/// Writes a file inside a host.
pub fn put(lab: &Lab, host: &str, path: &str, mode: &str, text: &str) -> Result<()> {
    let inside = lab.path_in(host, path)?;
    if let Some(dir) = inside.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&inside, text).with_context(|| format!("{}", inside.display()))?;
    lab.sh(host, &format!("chmod {mode} {path}")).map(drop)
}

impl<P: Peer> PeerLab<P> {
    /// Boots two hosts, starts the peer on them and waits until it serves.
    pub fn start(name: &str, peer: P) -> Result<PeerLab<P>> {
        let lab = Lab::start(name, &Plan { hosts: 2, ..Plan::default() })?;
        for host in HOSTS {
            lab.sh(host, "mkdir -p /srv/data/peer && sync /srv/data/peer")?;
            peer.boot(&lab, host)?;
        }
        let probe = Probe::start(&lab.client_net()?, SocketAddr::from((VIP, LEDGER_PORT)), probe::EVERY)?;
        Ok(PeerLab { lab, peer, probe })
    }

    /// The host that holds the virtual address.
    pub fn holder(&self) -> Result<&'static str> {
        let holds = |host: &&str| self.lab.sh(host, &format!("ip -o addr show to {VIP}")).is_ok_and(|said| !said.is_empty());
        HOSTS.into_iter().find(|h| holds(h)).context("no host holds the virtual address")
    }

    /// The other one.
    pub fn other(&self, host: &str) -> &'static str {
        if host == "n1" { "n2" } else { "n1" }
    }

    /// Waits until the peer is whole and the client is served steadily.
    pub fn wait_whole(&self) -> Result<()> {
        wait_for("both nodes of the peer", FORM_BOUND, || self.peer.is_whole(&self.lab).then_some(()))?;
        self.probe.wait_steady(FORM_BOUND)
    }

    /// Waits for the whole peer, strikes, and waits for steady service, if it `moves` on the other host: the
    /// interruption in seconds.
    pub fn measure(&self, moves: bool, strike: impl FnOnce(&Self, &'static str) -> Result<()>) -> Result<f64> {
        self.wait_whole()?;
        std::thread::sleep(Duration::from_millis(rand::random::<u64>() % RANDOM_WAIT_MS));
        let holder = self.holder()?;
        let begin = Instant::now();
        strike(self, holder)?;
        if moves {
            wait_for("the other host to hold the address", TAKEOVER_BOUND, || self.holder().ok().filter(|now| *now != holder))?;
        }
        // A fault that is noticed late (a monitor every ten seconds) interrupts at once all the same: the gap is on
        // when steadiness is asked for, because a pause counts while it lasts.
        std::thread::sleep(Duration::from_millis(300));
        self.probe.wait_steady(TAKEOVER_BOUND)?;
        self.probe.wait_answers(TAKEOVER_BOUND)?;
        Ok(self.probe.interruption_since(begin).context("the client was not answered again")?.seconds())
    }

    /// Power off for the serving host, and on again once the other serves.
    pub fn power_off(&self) -> Result<f64> {
        let mut killed = "";
        let seconds = self.measure(true, |this, holder| {
            killed = holder;
            this.lab.kill(holder)
        })?;
        self.lab.boot(killed)?;
        self.peer.boot(&self.lab, killed)?;
        Ok(seconds)
    }

    /// SIGKILL for the application.
    pub fn app_killed(&self) -> Result<f64> {
        self.measure(false, |this, holder| this.lab.sh(holder, "kill -9 $(cat /run/peer-ledger.pid)").map(drop))
    }
}
