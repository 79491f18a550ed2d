//! A pair with the built-in ledger, and one fault after another: what a client sees, and where the time goes.

use super::probe::{self, Interruption, Probe, unix_ms};
use super::split::{self, Milestone};
use crate::api::Api;
use crate::api::{PRIM, SECOND};
use crate::check::{App, Pair};
use crate::events;
use crate::lab::{CLIENT, CONSOLE, Lab, Network, names::number_of};
use crate::setup::{self, CLUSTER, wait_for};
use crate::vips::VipWatch;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::state::{Readiness, State};

/// Everything is as it was again after a fault within this time.
const RECOVERY_BOUND: Duration = Duration::from_secs(180);
/// The service is back within this time, or the run has failed.
const TAKEOVER_BOUND: Duration = Duration::from_secs(60);
/// A random wait before each fault is at most this long: two beats of the slowest profile measured.
const RANDOM_WAIT_MS: u64 = 1000;

/// The host of the etcd, and its arbiter's name.
const ETCD_HOST: &str = "n3";
const ETCD_NAME: &str = "store";
/// A member that has just started elects itself.
const ETCD_BOUND: Duration = Duration::from_secs(60);

/// Who keeps the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arbiter {
    /// The console.
    Console,
    /// An etcd with one member, on the third host.
    Etcd,
}

/// What happens to the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Fault {
    /// The serving host loses its power.
    PowerOff,
    /// SIGKILL for the application.
    AppKilled,
    /// SIGKILL for the agent of the serving host, which its supervisor starts again.
    AgentKilled,
    /// The serving host is cut from everything.
    Cut,
    /// The module is stopped on the serving host.
    Stop,
    /// The roles are exchanged.
    Swap,
    /// The following host loses its power: the longest time a write waits.
    SecondaryOff,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 7] =
        [Fault::PowerOff, Fault::AppKilled, Fault::AgentKilled, Fault::Cut, Fault::Stop, Fault::Swap, Fault::SecondaryOff];

    /// What a row is called.
    pub fn words(self) -> &'static str {
        match self {
            Fault::PowerOff => "power-off of the primary",
            Fault::AppKilled => "application killed",
            Fault::AgentKilled => "agent of the primary killed",
            Fault::Cut => "primary cut from everything",
            Fault::Stop => "clean stop of the primary",
            Fault::Swap => "swap",
            Fault::SecondaryOff => "power-off of the secondary, longest write",
        }
    }

    fn milestones(self) -> &'static [Milestone] {
        match self {
            Fault::PowerOff | Fault::Cut => split::TAKEOVER,
            Fault::Stop | Fault::Swap => split::HANDOVER,
            Fault::AppKilled => split::RESTART,
            Fault::AgentKilled | Fault::SecondaryOff => &[],
        }
    }

    /// The other node serves afterwards.
    fn moves(self) -> bool {
        !matches!(self, Fault::AppKilled | Fault::AgentKilled | Fault::SecondaryOff)
    }
}

/// One takeover.
#[derive(Debug, Clone)]
pub struct Run {
    /// What the client saw, in seconds.
    pub seconds: f64,
    /// Milliseconds by part.
    pub parts: BTreeMap<String, f64>,
}

/// A node went from one state to another.
#[derive(Debug, Clone)]
pub struct Change {
    /// Seconds.
    pub at: f64,
    /// Node.
    pub host: &'static str,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
}

impl Change {
    /// The service moved to this node.
    pub fn is_failover(&self) -> bool {
        self.to == State::Alone && self.from != State::Prim
    }
    /// This node goes on without the other.
    pub fn is_secondary_lost(&self) -> bool {
        self.to == State::Alone && self.from == State::Prim
    }
}

/// A pair under a client.
pub struct Ours {
    /// Hosts, console, module.
    pub pair: Pair,
    probe: Probe,
    /// Sampler of the virtual address, from the start.
    pub vips: VipWatch,
    primary: &'static str,
}

impl Ours {
    /// A new lab whose module has `heart` in place of the shipped `<heart …/>`.
    pub fn start(lab: &str, heart: &str, arbiter: Arbiter) -> Result<Ours> {
        let prepare = |lab: &Lab, api: &Api, files: &mut setup::ModuleFiles| {
            // Twenty restarts in a row are what the limit of automatic actions is there to prevent.
            let mut service = "<service mode=\"mirror\" maxloop=\"100000\"".to_owned();
            if arbiter == Arbiter::Etcd {
                start_etcd(lab, api)?;
                service += &format!(" arbiter=\"{ETCD_NAME}\"");
            }
            let text = &files.userconfig;
            files.userconfig = text.replace("<heart profile=\"normal\"/>", heart).replace("<service mode=\"mirror\"", &service);
            Ok(())
        };
        let mut pair = Pair::start_with(lab, App::Ledger, BTreeMap::new(), true, prepare)?;
        let vips = pair.take_watch()?;
        let probe = Probe::start(pair.client_net(), pair.address(), probe::EVERY)?;
        probe.wait_steady(TAKEOVER_BOUND)?;
        Ok(Ours { pair, probe, vips, primary: "n1" })
    }

    fn secondary(&self) -> &'static str {
        if self.primary == "n1" { "n2" } else { "n1" }
    }

    /// One fault, measured; the pair is whole again afterwards.
    pub fn run(&mut self, fault: Fault) -> Result<Run> {
        let (former, other) = (self.primary, self.secondary());
        self.pair.wait_pair(former, other, RECOVERY_BOUND)?;
        self.probe.wait_steady(RECOVERY_BOUND)?;
        std::thread::sleep(Duration::from_millis(rand::random::<u64>() % RANDOM_WAIT_MS));
        let begin = Instant::now();
        self.strike(fault)?;
        let next = if fault.moves() { other } else { former };
        self.wait_served(fault, next, unix_ms(begin))?;
        self.probe.wait_answers(TAKEOVER_BOUND)?;
        self.probe.wait_steady(TAKEOVER_BOUND)?;
        let gap = self.probe.interruption_since(begin).context("the client was not answered again")?;
        let parts = self.parts(fault, next, gap)?;
        if fault.moves() {
            self.primary = next;
        }
        self.repair(fault, former)?;
        Ok(Run { seconds: gap.seconds(), parts })
    }

    fn strike(&self, fault: Fault) -> Result<()> {
        let (lab, primary) = (&self.pair.lab, self.primary);
        match fault {
            Fault::PowerOff => lab.kill(primary),
            Fault::SecondaryOff => lab.kill(self.secondary()),
            Fault::AppKilled => lab.sh(primary, "kill -9 $(pgrep -x tsugi-ledger)").map(drop),
            // The oldest is the agent itself; it has data processes of the same name.
            Fault::AgentKilled => lab.sh(primary, "kill -9 $(pgrep -o -x tsugi-agent)").map(drop),
            Fault::Cut => cut_off(lab, primary),
            Fault::Stop => self.pair.api.action(CLUSTER, &self.pair.module, "stop", Some(primary)).map(drop),
            Fault::Swap => self.pair.api.action(CLUSTER, &self.pair.module, "swap", None).map(drop),
        }
    }

    /// Waits for the node's own word that it serves; no question to the console, which would cost time on the machine.
    fn wait_served(&self, fault: Fault, node: &str, since: u64) -> Result<()> {
        let is_served = |r: &EventRecord| match fault {
            Fault::AppKilled => matches!(r.event, Event::ScriptDone { script: tsugi_core::module::ScriptName::StartPrim, .. }),
            Fault::AgentKilled => r.event == Event::AgentWentOn,
            _ => matches!(r.event, Event::Entered { to, readiness: Readiness::Ready, .. } if to.is_serving()),
        };
        let seen = || events::of(&self.pair.lab, node, since).ok()?.iter().any(is_served).then_some(());
        if let Err(error) = wait_for(&format!("{node} to serve"), TAKEOVER_BOUND, seen) {
            let now = self.pair.api.module(CLUSTER, &self.pair.module).map_or_else(|e| format!("{e:#}"), |v| v.line());
            self.pair.keep_logs();
            bail!("{error:#} after {fault:?}; now: {now}");
        }
        Ok(())
    }

    fn parts(&self, fault: Fault, next: &str, gap: Interruption) -> Result<BTreeMap<String, f64>> {
        let (from, to) = (unix_ms(gap.from), unix_ms(gap.to));
        let former_log = events::of(&self.pair.lab, self.primary, from)?;
        let next_log = events::of(&self.pair.lab, next, from)?;
        Ok(if fault.milestones().is_empty() { BTreeMap::new() } else { split::split(fault.milestones(), &former_log, &next_log, from, to) })
    }

    fn repair(&mut self, fault: Fault, former: &str) -> Result<()> {
        match fault {
            Fault::PowerOff => self.pair.lab.boot(former)?,
            Fault::SecondaryOff => self.pair.lab.boot(self.secondary())?,
            Fault::Cut => self.pair.lab.heal()?,
            Fault::Stop => drop(self.pair.api.action(CLUSTER, &self.pair.module, "start", Some(former))?),
            Fault::AppKilled | Fault::AgentKilled | Fault::Swap => {}
        }
        let (primary, second) = (self.primary, self.secondary());
        let what = format!("{primary} PRIM and {second} SECOND after {fault:?}");
        let seen = self.pair.wait(&what, RECOVERY_BOUND, |v| v.state(primary) == PRIM && v.state(second) == SECOND);
        if seen.is_err() {
            self.pair.keep_logs();
        }
        seen.map(drop)
    }

    /// Seconds that the module's own scripts take for a stop and a start of the application, with nothing around it.
    pub fn scripts_alone(&self, times: usize) -> Result<Vec<f64>> {
        let host = self.secondary();
        let bin = format!("/var/lib/tsugi/modules/{}/active/bin", self.pair.module);
        let env = "LEDGER_DIR=/srv/data/alone LEDGER_LISTEN=127.0.0.1:18080 TSUGI_STATE_DIR=/run TSUGI_MODULE=alone";
        self.pair.lab.sh(host, &format!("mkdir -p /srv/data/alone && cd {bin} && {env} ./start_prim"))?;
        let mut seconds = Vec::new();
        for _ in 0..times {
            // Timed inside: entering the host costs time that no takeover spends.
            let line = format!("cd {bin} && a=$(date +%s%N) && {env} ./stop_prim && {env} ./start_prim && echo ns $(($(date +%s%N) - a))");
            let said = self.pair.lab.sh(host, &line)?;
            let nanos = said.lines().find_map(|l| l.strip_prefix("ns ")?.trim().parse::<f64>().ok()).context("no time was printed")?;
            seconds.push(nanos / 1e9);
        }
        self.pair.lab.sh(host, &format!("cd {bin} && {env} ./stop_prim && rm -rf /srv/data/alone"))?;
        Ok(seconds)
    }

    /// Changes of state since a moment.
    pub fn changes(&self, since: Instant) -> Result<Vec<Change>> {
        let (begin, mut changes) = (unix_ms(since), Vec::new());
        for host in ["n1", "n2"] {
            for record in events::of(&self.pair.lab, host, begin)? {
                if let Event::Entered { from, to, .. } = record.event
                    && from != to
                {
                    changes.push(Change { at: record.at_unix_ms.saturating_sub(begin) as f64 / 1000.0, host, from, to });
                }
            }
        }
        Ok(changes)
    }

    /// From now on the client asks four times a second only.
    pub fn ask_seldom(&mut self) -> Result<()> {
        self.probe = Probe::start(self.pair.client_net(), self.pair.address(), probe::SELDOM)?;
        self.probe.wait_answers(TAKEOVER_BOUND)
    }

    /// The client's longest time without an answer since a moment.
    pub fn longest_since(&self, since: Instant) -> f64 {
        self.probe.interruption_since(since).map_or(0.0, |gap| gap.seconds())
    }
}

/// An etcd on a host of its own, named in the cluster's configuration.
fn start_etcd(lab: &Lab, api: &Api) -> Result<()> {
    super::peer::need(&["etcd"])?;
    let addr = Network::Private.addr(number_of(ETCD_HOST)?);
    let (client, peer) = (format!("http://{addr}:2379"), format!("http://{addr}:2380"));
    lab.sh(
        ETCD_HOST,
        &format!(
            "setsid etcd --data-dir /srv/data/etcd --name m1 --logger zap --listen-client-urls {client} --advertise-client-urls {client} \
             --listen-peer-urls {peer} --initial-advertise-peer-urls {peer} --initial-cluster m1={peer} >/var/log/etcd.log 2>&1 </dev/null & exit 0"
        ),
    )?;
    let is_ready = || lab.sh(ETCD_HOST, "grep -c 'serving.*client' /var/log/etcd.log").ok();
    wait_for("etcd", ETCD_BOUND, is_ready).with_context(|| lab.sh(ETCD_HOST, "tail -3 /var/log/etcd.log").unwrap_or_default())?;
    let nodes = ["n1", "n2", "n3"].map(str::to_owned);
    let arbiters = format!("<arbiters><etcd name=\"{ETCD_NAME}\" endpoints=\"{client}\"/></arbiters></cluster>");
    let xml = setup::cluster_xml(&nodes).replace("</cluster>", &arbiters);
    let path = format!("/api/v1/clusters/{CLUSTER}/config");
    api.must(reqwest::Method::PUT, &path, Some(&serde_json::json!({ "xml": xml }))).map(drop)
}

/// Cuts every line of a host.
pub fn cut_off(lab: &Lab, host: &str) -> Result<()> {
    for other in ["n1", "n2", "n3", CONSOLE, CLIENT] {
        if other != host {
            lab.cut(host, other, false, None)?;
        }
    }
    Ok(())
}
