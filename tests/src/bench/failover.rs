//! `./dev bench failover`: how long clients go without an answer, beside Pacemaker and keepalived in the same run.

use super::load::CpuLoad;
use super::ours::{Fault, Ours, Run};
use super::peer::{PeerRuns, row};
use super::{Row, keepalived, median, pacemaker, say};
use crate::lab::{Network, Quality};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const BENCH: &str = "failover";
/// `fast` answers again within this time after a power-off.
const FAST_MAX: f64 = 3.0;
/// What administrators of the field's reference are used to: no profile measured here may take longer.
const KNOWN_MAX: f64 = 30.0;
/// A killed application serves again.
const RESTART_MAX: f64 = 0.3;
/// A handover, beyond what the application's own stop and start take.
const HANDOVER_MAX: f64 = 0.5;
/// Load of every processor while false failovers are counted.
const LOAD_SHARE: f64 = 0.5;
/// Loss on both networks meanwhile.
const LOSS_PERCENT: f64 = 1.0;

/// Heartbeat times between the profiles and what the configuration accepts at the least.
const EXPLICIT: [(&str, &str); 2] = [
    ("timeout 1100 ms, pulse 100 ms", "<heart profile=\"fast\" timeout=\"1100ms\" pulse=\"100ms\"/>"),
    ("timeout 750 ms, pulse 50 ms", "<heart profile=\"fast\" timeout=\"750ms\" pulse=\"50ms\"/>"),
];

/// Faults whose interruption these times decide.
const EXPLICIT_FAULTS: [Fault; 2] = [Fault::PowerOff, Fault::AgentKilled];

/// Which parts, how often. Any part may be run by itself.
#[derive(Debug, Clone, clap::Args)]
pub struct Choice {
    /// Five takeovers in place of twenty, three in place of seven for the peers.
    #[arg(long)]
    pub quick: bool,
    /// Only these faults.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Fault>,
    /// Settings of our own side: fast, normal, explicit, none.
    #[arg(long, value_delimiter = ',', default_value = "fast,normal,explicit")]
    pub settings: Vec<String>,
    /// Peers: pacemaker, keepalived, none.
    #[arg(long, value_delimiter = ',', default_value = "keepalived,pacemaker")]
    pub peers: Vec<String>,
    /// Takeovers of each kind, in place of twenty or five.
    #[arg(long)]
    pub times: Option<usize>,
}

impl Choice {
    fn faults(&self) -> Vec<Fault> {
        Fault::ALL.into_iter().filter(|f| self.only.is_empty() || self.only.contains(f)).collect()
    }
    fn times(&self) -> usize {
        self.times.unwrap_or(if self.quick { 5 } else { 20 })
    }
    fn peer_times(&self) -> usize {
        self.times.map_or(if self.quick { 3 } else { 7 }, |t| t.min(7))
    }
    fn has(list: &[String], word: &str) -> bool {
        list.iter().any(|w| w == word)
    }
}

/// Runs the chosen parts; `put` gets each row as soon as it is there.
pub fn run(choice: &Choice, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let lab = std::env::var("TSUGI_LAB_NAME").unwrap_or_else(|_| "bench".to_owned());
    let begin = Instant::now();
    let peers = peers(choice, &lab);
    for (profile, heart) in [("fast", "<heart profile=\"fast\"/>"), ("normal", "<heart profile=\"normal\"/>")] {
        if Choice::has(&choice.settings, profile) {
            say(&format!("profile {profile}: a pair is set up ({:.0} s since the start)", begin.elapsed().as_secs_f64()));
            profile_rows(choice, &lab, profile, heart, &peers, put)?;
        }
    }
    if Choice::has(&choice.settings, "explicit") {
        for (name, heart) in EXPLICIT {
            explicit_rows(choice, &lab, name, heart, &peers, put)?;
        }
    }
    say(&format!("done after {:.0} s", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// A peer that cannot run is left out, with the reason.
fn peers(choice: &Choice, lab: &str) -> PeerRuns {
    let wanted: Vec<&'static str> = choice.faults().into_iter().filter_map(kind_of).collect();
    let mut runs = PeerRuns::new();
    let times = choice.peer_times();
    type Measure = fn(&str, &[&str], usize, &mut PeerRuns) -> Result<()>;
    let all: [(&str, Measure); 2] = [("keepalived", keepalived::measure), ("pacemaker", pacemaker::measure)];
    for (name, measure) in all.into_iter().filter(|(name, _)| !wanted.is_empty() && Choice::has(&choice.peers, name)) {
        if let Err(error) = measure(lab, &wanted, times, &mut runs) {
            say(&format!("{name} is left out from here on: {error:#}"));
        }
    }
    runs
}

fn kind_of(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::PowerOff => Some(row::POWER_OFF),
        Fault::AppKilled => Some(row::APP_KILLED),
        Fault::Stop => Some(row::STOP),
        Fault::Swap => Some(row::MOVE),
        Fault::AgentKilled | Fault::Cut | Fault::SecondaryOff => None,
    }
}

fn profile_rows(
    choice: &Choice,
    lab: &str,
    profile: &str,
    heart: &str,
    peers: &PeerRuns,
    put: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut ours = Ours::start(lab, heart)?;
    let faults = choice.faults();
    let mut own = 0.0;
    if faults.contains(&Fault::Swap) || faults.contains(&Fault::Stop) {
        let alone = ours.scripts_alone(7)?;
        own = median(&alone);
        put(Row::plain(&format!("application's own stop and start, {profile}"), "s", alone))?;
    }
    let none = BTreeMap::new();
    for fault in faults {
        let runs = takeovers(&mut ours, fault, choice.times(), profile)?;
        let beside = kind_of(fault).and_then(|kind| peers.get(kind)).unwrap_or(&none);
        let default = beside.get(pacemaker::DEFAULT_NAME).map(|runs| median(runs));
        let bar = match fault {
            Fault::PowerOff if profile == "fast" => FAST_MAX,
            Fault::PowerOff => KNOWN_MAX,
            Fault::AppKilled => RESTART_MAX,
            Fault::Stop | Fault::Swap => HANDOVER_MAX + own,
            Fault::AgentKilled | Fault::Cut | Fault::SecondaryOff => KNOWN_MAX,
        };
        let mut made = row_of(&format!("{}, {profile}", fault.words()), bar, &runs).beside(beside);
        if let Some(default) = default.filter(|_| fault == Fault::PowerOff) {
            made.holds &= made.ours < default;
        }
        put(made)?;
    }
    doubles(ours, profile, put)
}

/// Zero, whatever happened to the pair.
fn doubles(ours: Ours, settings: &str, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let seen = ours.vips.stop();
    say(&seen.line());
    for double in seen.doubles.iter().chain(&seen.double_answered).take(5) {
        say(&format!("two holders after {:.2} s: {}", double.at, double.holders.join(" and ")));
    }
    let count = (seen.double_instants + seen.double_answers) as f64;
    put(Row::at_most(BENCH, &format!("instants with two holders of the address, {settings}"), "", 0.0, vec![count]))
}

fn takeovers(ours: &mut Ours, fault: Fault, times: usize, settings: &str) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for turn in 1..=times {
        let run = ours.run(fault)?;
        let mut parts: Vec<_> = run.parts.iter().collect();
        parts.sort_by_key(|(name, _)| super::split::order(name));
        let words: Vec<String> = parts.into_iter().map(|(name, ms)| format!("{name} {ms:.0}")).collect();
        say(&format!("{}, {settings}, {turn}/{times}: {:.3} s ({})", fault.words(), run.seconds, words.join(", ")));
        runs.push(run);
    }
    Ok(runs)
}

fn row_of(name: &str, bar: f64, runs: &[Run]) -> Row {
    let mut made = Row::at_most(BENCH, name, "s", bar, runs.iter().map(|r| r.seconds).collect());
    let names: std::collections::BTreeSet<&String> = runs.iter().flat_map(|r| r.parts.keys()).collect();
    for name in names {
        let values: Vec<f64> = runs.iter().filter_map(|r| r.parts.get(name).copied()).collect();
        made.parts_ms.insert(name.clone(), median(&values));
    }
    made
}

impl Row {
    /// A figure that is only told.
    fn plain(name: &str, unit: &'static str, runs: Vec<f64>) -> Row {
        Row { bar: None, holds: !runs.is_empty(), ..Row::at_most(BENCH, name, unit, f64::MAX, runs) }
    }
}

/// Times of one's own choice: faster, and what that costs in false failovers.
fn explicit_rows(
    choice: &Choice,
    lab: &str,
    name: &str,
    heart: &str,
    peers: &PeerRuns,
    put: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    say(&format!("{name}: a pair is set up"));
    let mut ours = Ours::start(lab, heart)?;
    let none = BTreeMap::new();
    for fault in choice.faults().into_iter().filter(|f| EXPLICIT_FAULTS.contains(f)) {
        let runs = takeovers(&mut ours, fault, choice.times(), name)?;
        let beside = kind_of(fault).and_then(|kind| peers.get(kind)).unwrap_or(&none);
        put(row_of(&format!("{}, {name}", fault.words()), KNOWN_MAX, &runs).beside(beside))?;
    }
    let minutes = if choice.quick { 1.0 } else { 10.0 };
    say(&format!("{name}: {minutes} minutes with {LOSS_PERCENT} % loss and half of every processor taken"));
    ours.ask_seldom()?;
    for network in Network::ALL {
        ours.pair.lab.net("n1", "n2", network, Quality { loss_percent: LOSS_PERCENT, ..Quality::default() })?;
    }
    let load = CpuLoad::start(LOAD_SHARE);
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(minutes * 60.0));
    drop(load);
    let changes = ours.changes(begin)?;
    if !changes.is_empty() {
        ours.pair.keep_logs();
    }
    for change in &changes {
        say(&format!("{name}: after {:.1} s {} {} → {}", change.at, change.host, change.from.word(), change.to.word()));
    }
    say(&format!("{name}: longest time without an answer {:.2} s", ours.longest_since(begin)));
    ours.pair.lab.heal()?;
    let an_hour = |count: usize| vec![count as f64 * 60.0 / minutes];
    let moved = changes.iter().filter(|c| c.is_failover()).count();
    put(Row::plain(&format!("false failovers, {name}, 1 % loss, load"), "1/h", an_hour(moved)))?;
    let lost = changes.iter().filter(|c| c.is_secondary_lost()).count();
    put(Row::plain(&format!("secondaries given up for nothing, {name}, same"), "1/h", an_hour(lost)))?;
    doubles(ours, name, put)
}
