//! A pair on networks that are all bad at once: nothing is broken, so nothing may change.

use crate::api::{ModuleView, PRIM, SECOND};
use crate::check::{App, Pair};
use crate::events;
use crate::lab::{CLIENT, CONSOLE, Lab, Network, Quality};
use crate::load::{Load, Patience};
use crate::vips::VipReport;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tsugi_core::event::Event;

/// Connections of the client: one, because a second would wait for the first one's dozen round trips.
const CONNECTIONS: usize = 1;
/// After the lines are good again everything is green within this time.
const CALM_BOUND: Duration = Duration::from_secs(120);

/// How bad, and for how long.
#[derive(Debug, Clone)]
pub struct RoughPlan {
    /// Name of the lab.
    pub lab: String,
    /// Every line of every network, both ways.
    pub quality: Quality,
    /// How long.
    pub time: Duration,
}

/// What happened meanwhile.
#[derive(Debug, Clone, Serialize)]
pub struct RoughReport {
    /// Changes of state of either node, in words, with the seconds since the lines went bad.
    pub role_changes: Vec<String>,
    /// Broken replication sessions, and what else is worth knowing, likewise.
    pub troubles: Vec<String>,
    /// Freezes and claims: nothing was broken, so nobody may have needed one.
    pub alarms: Vec<String>,
    /// Entries confirmed on the bad lines.
    pub written: usize,
    /// Longest time without a confirmation, in seconds.
    pub longest_gap: f64,
    /// Confirmed entries that were not found again.
    pub lost: Vec<String>,
    /// The virtual address.
    pub vips: VipReport,
}

/// Gives every line of every network this quality, both ways.
pub fn every_line(lab: &Lab, quality: Quality) -> Result<()> {
    let hosts = ["n1", "n2", "n3", CONSOLE, CLIENT];
    for (index, a) in hosts.iter().enumerate() {
        for b in &hosts[index + 1..] {
            // The client has one network only.
            for network in Network::ALL.into_iter().filter(|n| *n == Network::Client || *b != CLIENT) {
                // ARP has no checksum: with wrong bytes on the clients' network one machine would look like two.
                let corrupt_percent = if network == Network::Private { quality.corrupt_percent } else { 0.0 };
                lab.net(a, b, network, Quality { corrupt_percent, ..quality }).with_context(|| format!("the line from {a} to {b}"))?;
            }
        }
    }
    Ok(())
}

/// Sets a pair up (profile `normal`, as shipped), makes every line bad, lets a client write, and looks what changed.
pub fn run(plan: &RoughPlan) -> Result<RoughReport> {
    let mut pair = Pair::start(&plan.lab, App::Ledger, BTreeMap::new(), false)?;
    let watch = pair.take_watch()?;
    let report = watched(&pair, plan)?;
    Ok(RoughReport { vips: watch.stop(), ..report })
}

fn watched(pair: &Pair, plan: &RoughPlan) -> Result<RoughReport> {
    every_line(&pair.lab, plan.quality)?;
    let (begin, since) = (Instant::now(), events::unix_ms_now());
    pair.say(&format!("every line is bad: {:?}", plan.quality));
    // Not before: at full speed the ledger's log would fill up, and to empty it costs a round trip for each page.
    let load = Load::start_patient(pair.client_net(), pair.address(), CONNECTIONS, Patience::GREAT)?;
    while begin.elapsed() < plan.time {
        std::thread::sleep(plan.time.saturating_sub(begin.elapsed()).min(Duration::from_secs(60)));
        pair.say(&format!("{} entries confirmed since", load.count()));
    }
    let (written, gap) = (load.count(), load.longest_gap_since(begin));
    let (mut role_changes, mut troubles, mut alarms) = (Vec::new(), Vec::new(), Vec::new());
    for host in ["n1", "n2"] {
        for record in events::of(&pair.lab, host, since)? {
            let at = record.at_unix_ms.saturating_sub(since) as f64 / 1000.0;
            match &record.event {
                Event::Entered { from, to, .. } if from != to => {
                    role_changes.push(format!("{at:.1} s: {host} {} → {}", from.word(), to.word()));
                }
                Event::Frozen | Event::ClaimAsked { .. } => alarms.push(format!("{at:.1} s: {host} {:?}", record.event)),
                Event::SessionLost { .. }
                | Event::PeerLost { .. }
                | Event::ArbiterLost
                | Event::CheckAction { .. }
                | Event::DataFailed { .. } => troubles.push(format!("{at:.1} s: {host} {:?}", record.event)),
                _ => {}
            }
        }
    }
    if !role_changes.is_empty() || !alarms.is_empty() {
        pair.keep_logs();
    }
    pair.lab.heal()?;
    pair.say("every line is good again");
    let is_green = |v: &ModuleView| [("n1", "n2"), ("n2", "n1")].iter().any(|(p, s)| v.state(p) == PRIM && v.state(s) == SECOND);
    pair.wait("both nodes green", CALM_BOUND, is_green)?;
    let acked = load.stop()?;
    // Once more: when the lines become good, a session may still end by what was lost on them before.
    pair.wait("both nodes green", CALM_BOUND, is_green)?;
    let lost = pair.verify(&acked, &["n1", "n2"]);
    if !lost.is_empty() {
        pair.keep_logs();
    }
    Ok(RoughReport { role_changes, troubles, alarms, written, longest_gap: gap.seconds, lost, vips: VipReport::default() })
}
