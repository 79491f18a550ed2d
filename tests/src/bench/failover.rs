//! `./dev bench failover`: how long clients go without an answer, beside Pacemaker and keepalived in the same run.

use super::load::CpuLoad;
use super::ours::{Arbiter, Fault, Ours, Run};
use super::peer::{PeerRuns, row};
use super::{Row, keepalived, median, pacemaker, say};
use crate::lab::{Network, Quality};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tsugi_core::module::{Profile, Timing};

const BENCH: &str = "failover";
/// `fast` answers again within this time after a power-off.
const FAST_MAX: f64 = 3.0;
/// What administrators of the field's reference are used to: no profile measured here may take longer.
const KNOWN_MAX: f64 = 30.0;
/// A killed application serves again.
const RESTART_MAX: f64 = 0.3;
/// What the client is not to notice: a pause as the machine itself has them.
const UNNOTICED_MAX: f64 = 0.25;
/// A fault that the secondary's promise decides about, beyond that promise and the application's start.
const BEYOND_PROMISE: f64 = 2.0;
/// A secondary's loss, beyond the silence that is waited for.
const BEYOND_SILENCE: f64 = 1.0;
/// A handover, beyond what the application's own stop and start take.
const HANDOVER_MAX: f64 = 0.5;
/// Load of every processor while false failovers are counted.
const LOAD_SHARE: f64 = 0.5;
/// Loss on both networks meanwhile.
const LOSS_PERCENT: f64 = 1.0;

/// Heartbeat times between the profiles and what the configuration accepts at the least.
const EXPLICIT: [Setting; 2] = [
    Setting {
        name: "timeout 1100 ms, pulse 100 ms",
        heart: "<heart profile=\"fast\" timeout=\"1100ms\" pulse=\"100ms\"/>",
        keep: Duration::from_millis(1100),
    },
    Setting {
        name: "timeout 750 ms, pulse 50 ms",
        heart: "<heart profile=\"fast\" timeout=\"750ms\" pulse=\"50ms\"/>",
        keep: Duration::from_millis(750),
    },
];

/// Heartbeat times of one's own choice.
#[derive(Debug, Clone, Copy)]
struct Setting {
    name: &'static str,
    heart: &'static str,
    /// `P_B`.
    keep: Duration,
}

/// Which parts, how often. Any part may be run by itself.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "failover")]
pub struct Choice {
    /// Five takeovers in place of twenty, three in place of seven for the peers.
    #[arg(long)]
    pub quick: bool,
    /// Only these faults.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Fault>,
    /// Settings of our own side: fast, normal, explicit, etcd, none.
    #[arg(long, value_delimiter = ',', default_value = "fast,normal,explicit,etcd")]
    pub settings: Vec<String>,
    /// Peers: pacemaker, keepalived, none.
    #[arg(long, value_delimiter = ',', default_value = "keepalived,pacemaker")]
    pub peers: Vec<String>,
    /// Takeovers of each kind, in place of twenty or five; half as many minutes count false failovers, one to ten.
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
    /// How long false failovers are counted.
    fn minutes(&self) -> f64 {
        self.times.map_or(if self.quick { 1.0 } else { 10.0 }, |times| (times as f64 / 2.0).clamp(1.0, 10.0))
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
    let mut by_console = None;
    for (word, profile) in [("fast", Profile::Fast), ("normal", Profile::Normal)] {
        if Choice::has(&choice.settings, word) {
            say(&format!("profile {word}: a pair is set up ({:.0} s since the start)", begin.elapsed().as_secs_f64()));
            let power_off = profile_rows(choice, &lab, word, profile, &peers, put)?;
            by_console = by_console.or(power_off.filter(|_| profile == Profile::Fast));
        }
    }
    if Choice::has(&choice.settings, "etcd") && choice.faults().contains(&Fault::PowerOff) {
        say(&format!("etcd: a pair is set up ({:.0} s since the start)", begin.elapsed().as_secs_f64()));
        etcd_rows(choice, &lab, by_console, put)?;
    }
    if Choice::has(&choice.settings, "explicit") {
        let mut power_offs = Vec::new();
        for setting in EXPLICIT {
            power_offs.extend(explicit_rows(choice, &lab, setting, &peers, put)?);
        }
        if let Some(fastest) = power_offs.into_iter().min_by(|a, b| median(a).total_cmp(&median(b))) {
            let mut beside = peers.get(row::POWER_OFF).cloned().unwrap_or_default();
            beside.retain(|name, _| name == pacemaker::TUNED_NAME);
            let is_ahead = is_ahead(choice, median(&fastest), &beside, pacemaker::TUNED_NAME);
            let name = format!("{}, the faster explicit setting", Fault::PowerOff.words());
            let mut made = Row::at_most(BENCH, &name, "s", KNOWN_MAX, fastest).beside(&beside);
            made.holds &= is_ahead;
            put(made)?;
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

/// Whether we are faster than a row of Pacemaker's that was measured as often as asked. One that was asked for and is not
/// there is nobody to be ahead of; of one that nobody asked for nothing is demanded.
fn is_ahead(choice: &Choice, ours: f64, beside: &BTreeMap<String, Vec<f64>>, name: &str) -> bool {
    let is_asked = Choice::has(&choice.peers, "pacemaker");
    !is_asked || beside.get(name).is_some_and(|runs| runs.len() >= choice.peer_times() && ours < median(runs))
}

/// What a fault may cost. `own` is what the application's stop and start take by themselves.
fn bar_of(fault: Fault, word: &str, timing: Timing, own: f64) -> f64 {
    match fault {
        Fault::PowerOff if word == "fast" => FAST_MAX,
        Fault::PowerOff => KNOWN_MAX,
        Fault::AppKilled => RESTART_MAX,
        Fault::Stop | Fault::Swap => HANDOVER_MAX + own,
        Fault::AgentKilled => UNNOTICED_MAX,
        Fault::Cut => timing.keep.as_secs_f64() + BEYOND_PROMISE + own,
        Fault::SecondaryOff => timing.silence.as_secs_f64() + BEYOND_SILENCE,
    }
}

/// The runs of the power-off, if there were any.
fn profile_rows(
    choice: &Choice,
    lab: &str,
    word: &str,
    profile: Profile,
    peers: &PeerRuns,
    put: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Option<Vec<f64>>> {
    let mut ours = Ours::start(lab, &format!("<heart profile=\"{word}\"/>"), Arbiter::Console)?;
    let alone = ours.scripts_alone(7)?;
    let own = median(&alone);
    put(Row::plain(&format!("application's own stop and start, {word}"), "s", alone))?;
    let (none, mut power_off) = (BTreeMap::new(), None);
    for fault in choice.faults() {
        let runs = takeovers(&mut ours, fault, choice.times(), word)?;
        let beside = kind_of(fault).and_then(|kind| peers.get(kind)).unwrap_or(&none);
        let bar = bar_of(fault, word, Timing::of(profile), own);
        let mut made = row_of(&format!("{}, {word}", fault.words()), bar, &runs).beside(beside);
        if fault == Fault::PowerOff {
            made.holds &= is_ahead(choice, made.ours, beside, pacemaker::DEFAULT_NAME);
            power_off = Some(made.runs.clone());
        }
        put(made)?;
    }
    doubles(ours, word, put)?;
    Ok(power_off)
}

/// The power-off with an etcd in the console's place, beside that with the console.
fn etcd_rows(choice: &Choice, lab: &str, by_console: Option<Vec<f64>>, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let name = format!("{}, fast, etcd as arbiter", Fault::PowerOff.words());
    let mut ours = match Ours::start(lab, "<heart profile=\"fast\"/>", Arbiter::Etcd) {
        Ok(ours) => ours,
        Err(error) => {
            say(&format!("etcd is left out: {error:#}"));
            return put(Row::at_most(BENCH, &name, "s", FAST_MAX, Vec::new()));
        }
    };
    let runs = takeovers(&mut ours, Fault::PowerOff, choice.times(), "etcd")?;
    let beside: BTreeMap<_, _> = by_console.map(|runs| ("console as arbiter".to_owned(), runs)).into_iter().collect();
    put(row_of(&name, FAST_MAX, &runs).beside(&beside))?;
    doubles(ours, "etcd", put)
}

/// Zero, whatever happened to the pair.
fn doubles(ours: Ours, settings: &str, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let seen = ours.vips.stop();
    say(&seen.line());
    for double in seen.doubles.iter().chain(&seen.double_answered).take(5) {
        say(&format!("two holders after {:.2} s: {}", double.at, double.holders.join(" and ")));
    }
    let count = (seen.double_instants + seen.double_answers) as f64;
    let mut made = Row::at_most(BENCH, &format!("instants with two holders of the address, {settings}"), "", 0.0, vec![count]);
    // Nobody looked is not nothing seen.
    made.holds &= seen.is_sampled();
    put(made)
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
        made.parts_worst_ms.insert(name.clone(), values.iter().copied().fold(0.0, f64::max));
    }
    made
}

impl Row {
    /// A figure that is only told.
    fn plain(name: &str, unit: &'static str, runs: Vec<f64>) -> Row {
        Row { bar: None, holds: !runs.is_empty(), ..Row::at_most(BENCH, name, unit, f64::MAX, runs) }
    }
}

/// Times of one's own choice: faster, and what that costs in false failovers. The runs of the power-off, if there were any.
fn explicit_rows(
    choice: &Choice,
    lab: &str,
    setting: Setting,
    peers: &PeerRuns,
    put: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Option<Vec<f64>>> {
    let name = setting.name;
    say(&format!("{name}: a pair is set up"));
    let mut ours = Ours::start(lab, setting.heart, Arbiter::Console)?;
    let bar = setting.keep.as_secs_f64() + BEYOND_PROMISE + median(&ours.scripts_alone(3)?);
    let (none, mut power_off) = (BTreeMap::new(), None);
    for fault in choice.faults().into_iter().filter(|f| *f == Fault::PowerOff) {
        let runs = takeovers(&mut ours, fault, choice.times(), name)?;
        let beside = kind_of(fault).and_then(|kind| peers.get(kind)).unwrap_or(&none);
        let made = row_of(&format!("{}, {name}", fault.words()), bar, &runs).beside(beside);
        if fault == Fault::PowerOff {
            power_off = Some(made.runs.clone());
        }
        put(made)?;
    }
    let minutes = choice.minutes();
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
    doubles(ours, name, put)?;
    Ok(power_off)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(peers: &[&str]) -> Choice {
        let peers = peers.iter().map(|p| (*p).to_owned()).collect();
        Choice { quick: true, only: Vec::new(), settings: Vec::new(), peers, times: None }
    }

    #[test]
    fn nobody_is_ahead_of_a_peer_that_was_asked_for_and_not_measured() {
        let runs = |runs: &[f64]| BTreeMap::from([(pacemaker::DEFAULT_NAME.to_owned(), runs.to_vec())]);
        let ahead = |choice: &Choice, beside: &BTreeMap<String, Vec<f64>>| is_ahead(choice, 2.0, beside, pacemaker::DEFAULT_NAME);
        let asked = choice(&["pacemaker"]);
        assert!(ahead(&asked, &runs(&[3.0, 3.1, 2.9])));
        assert!(!ahead(&asked, &runs(&[1.9, 1.9, 3.0])), "slower");
        assert!(!ahead(&asked, &runs(&[3.0, 3.1])), "fewer runs than asked for");
        assert!(!ahead(&asked, &BTreeMap::new()), "absent");
        assert!(ahead(&choice(&["none"]), &BTreeMap::new()), "nobody asked");
    }

    #[test]
    fn bars_follow_from_the_times_of_the_profile() {
        let (fast, normal) = (Timing::of(Profile::Fast), Timing::of(Profile::Normal));
        assert_eq!(bar_of(Fault::SecondaryOff, "fast", fast, 0.1), 1.8);
        assert!((bar_of(Fault::Cut, "normal", normal, 0.1) - 7.155).abs() < 0.01);
        assert!(EXPLICIT.iter().all(|s| s.heart.contains(&format!("timeout=\"{}ms\"", s.keep.as_millis()))));
    }
}
