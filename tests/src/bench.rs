//! Figures as rows: what it is, what it may be, whether that holds. `./dev bench NAME --json` prints one object a
//! line.

pub mod failover;
mod keepalived;
mod load;
mod ours;
mod pacemaker;
mod peer;
mod probe;
pub mod replication;
pub mod resync;
mod split;
pub mod work;

use crate::check::{self, App, CheckPlan, Scenario};
use crate::lab::{CONSOLE, Lab, ns};
use crate::setup::CLUSTER;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Power failures in the demo's bench; the row is their median, the bar holds for the worst.
const FAILURES: usize = 3;
/// Time over which idle processes are watched.
const IDLE_WINDOW: Duration = Duration::from_secs(20);
/// Requests per page.
const REQUESTS: usize = 50;

/// A figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the bench.
    pub bench: &'static str,
    /// What is measured.
    pub row: String,
    /// Of `ours`, `peers` and `bar`.
    pub unit: &'static str,
    /// `higher` or `lower`.
    pub better: &'static str,
    /// Median of the runs.
    pub ours: f64,
    /// The worst of the runs.
    pub worst: f64,
    /// The same of others, measured in the same session.
    pub peers: BTreeMap<String, f64>,
    /// Ours to the best peer's.
    pub ratio: Option<f64>,
    /// What it may be.
    pub bar: Option<f64>,
    /// What ours may be to a peer's, by peer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bars: BTreeMap<String, f64>,
    /// It is.
    pub holds: bool,
    /// Every run.
    pub runs: Vec<f64>,
    /// Least and greatest of each peer's runs, and how many there were.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub peers_range: BTreeMap<String, Range>,
    /// Where the time goes: medians in milliseconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts_ms: BTreeMap<String, f64>,
    /// The same: the longest of each part, whichever run it was in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts_worst_ms: BTreeMap<String, f64>,
}

/// Extent of a peer's runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Range {
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// How many.
    pub runs: usize,
}

impl Row {
    /// A row where less is better, against a fixed bar that every run must keep.
    fn at_most(bench: &'static str, row: &str, unit: &'static str, bar: f64, runs: Vec<f64>) -> Row {
        let holds = !runs.is_empty() && runs.iter().all(|v| *v <= bar);
        Row {
            bench,
            row: row.to_owned(),
            unit,
            better: "lower",
            ours: median(&runs),
            worst: runs.iter().copied().fold(f64::NAN, f64::max),
            peers: BTreeMap::new(),
            ratio: None,
            bar: Some(bar),
            bars: BTreeMap::new(),
            holds,
            runs,
            peers_range: BTreeMap::new(),
            parts_ms: BTreeMap::new(),
            parts_worst_ms: BTreeMap::new(),
        }
    }

    /// Puts the peers' runs beside ours.
    fn beside(mut self, peers: &BTreeMap<String, Vec<f64>>) -> Row {
        for (name, runs) in peers.iter().filter(|(_, runs)| !runs.is_empty()) {
            let (min, max) = runs.iter().fold((f64::MAX, f64::MIN), |(min, max), v| (min.min(*v), max.max(*v)));
            self.peers.insert(name.clone(), median(runs));
            self.peers_range.insert(name.clone(), Range { min, max, runs: runs.len() });
        }
        self.ratio = self.peers.values().copied().min_by(f64::total_cmp).map(|best| self.ours / best);
        self
    }

    /// A line of the table, and lines below it for parts and peers.
    fn print(&self) {
        let bar = self.bar.map(|b| format!(" (bar {b:.2})")).unwrap_or_default();
        let verdict = if self.holds { "holds" } else { "DOES NOT HOLD" };
        let spread = if self.runs.len() > 1 { format!(", worst of {} {:.2}", self.runs.len(), self.worst) } else { String::new() };
        println!("{:<58} {:>8.2} {:<4}{spread}{bar} {verdict}", self.row, self.ours, self.unit);
        if !self.parts_ms.is_empty() {
            let mut parts: Vec<_> = self.parts_ms.iter().collect();
            parts.sort_by_key(|(name, _)| split::order(name));
            let words: Vec<String> = parts.into_iter().map(|(name, ms)| format!("{name} {ms:.0}")).collect();
            println!("    ms: {}", words.join(" · "));
        }
        for (name, median) in &self.peers {
            let range = self.peers_range.get(name).map(|r| format!(" ({:.2} to {:.2}, {} runs)", r.min, r.max, r.runs)).unwrap_or_default();
            let bar = self.bars.get(name).map(|bar| format!(" (bar {bar:.2})")).unwrap_or_default();
            println!("    {name}: {median:.2}{range}, ours is {:.2} of it{bar}", self.ours / median);
        }
    }
}

/// The middle value; of an even number the higher of the two, so that nothing looks better than it is.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What to run.
#[derive(Debug, Clone)]
pub struct BenchPlan {
    /// `demo`, `failover`, `replication`, `resync`.
    pub name: String,
    /// One object a line.
    pub json: bool,
    /// The choices of `failover`.
    pub failover: failover::Choice,
    /// The choices of `replication`, and of `resync`.
    pub replication: replication::Choice,
}

/// Runs a bench; every row is printed when it is there. True if every row holds.
pub fn run(plan: &BenchPlan) -> Result<bool> {
    let mut is_good = true;
    let mut put = |row: Row| -> Result<()> {
        is_good &= row.holds;
        if plan.json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            row.print();
        }
        Ok(())
    };
    match plan.name.as_str() {
        "demo" => demo(plan.json)?.into_iter().try_for_each(&mut put)?,
        "failover" => failover::run(&plan.failover, &mut put)?,
        "replication" => replication::run(&plan.replication, plan.failover.quick, &mut put)?,
        "resync" => resync::run(&plan.replication.rows, plan.failover.quick, &mut put)?,
        other => bail!("there is no bench `{other}`: demo, failover, replication, resync"),
    }
    Ok(is_good)
}

/// Progress, for people who wait.
fn say(text: &str) {
    eprintln!("bench: {text}");
}

fn demo(quiet: bool) -> Result<Vec<Row>> {
    const BENCH: &str = "demo";
    let lab = std::env::var("TSUGI_LAB_NAME").unwrap_or_else(|_| "bench".to_owned());
    let mut rows = idle(BENCH, &lab, quiet)?;
    let (mut gaps, mut lost, mut swaps) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..FAILURES {
        let plan = CheckPlan {
            app: App::Ledger,
            scenario: Scenario::PrimaryKilled,
            without: None,
            lab: lab.clone(),
            entries: check::ENTRIES_MIN,
            quiet,
        };
        let figures = check::run(&plan)?;
        gaps.push(figures.interruption_seconds);
        lost.push(figures.lost.len() as f64);
        swaps.push(figures.swap_seconds);
    }
    let bar = check::interruption_bar(App::Ledger).as_secs_f64();
    rows.push(Row::at_most(BENCH, "interruption by a power failure of the primary", "s", bar, gaps));
    rows.push(Row::at_most(BENCH, "interruption by a swap", "s", bar, swaps));
    rows.push(Row::at_most(BENCH, "confirmed entries lost", "", 0.0, lost));
    Ok(rows)
}

/// What the parts cost while nothing happens.
fn idle(bench: &'static str, lab: &str, quiet: bool) -> Result<Vec<Row>> {
    let pair = check::Pair::start(lab, App::Ledger, BTreeMap::new(), quiet)?;
    let before: Vec<_> = ["n1", "n2"].iter().map(|h| usage(&pair.lab, h, "tsugi-agent")).collect::<Result<_>>()?;
    std::thread::sleep(IDLE_WINDOW);
    let after: Vec<_> = ["n1", "n2"].iter().map(|h| usage(&pair.lab, h, "tsugi-agent")).collect::<Result<_>>()?;
    let cpu = before.iter().zip(&after).map(|(b, a)| (a.cpu_seconds - b.cpu_seconds) / IDLE_WINDOW.as_secs_f64() * 100.0).collect();
    let rss = after.iter().map(|a| a.rss_mib).collect();
    let console = usage(&pair.lab, CONSOLE, "tsugi-server")?;
    let mut rows = vec![
        Row::at_most(bench, "agent with one module, idle: memory of all its processes", "MiB", 50.0, rss),
        Row::at_most(bench, "agent with one module, idle: share of a core", "%", 1.0, cpu),
        Row::at_most(bench, "console, idle: memory", "MiB", 150.0, vec![console.rss_mib]),
    ];
    let info = pair.lab.info()?;
    let note = |key: &str| info.notes.get(key).and_then(|v| v.as_str()).map(str::to_owned).with_context(|| format!("no note {key}"));
    let session = pair.api.sign_in(&note("user")?, &note("password")?)?;
    for (row, path) in [("dashboard", "/".to_owned()), ("module page", format!("/clusters/{CLUSTER}/modules/{}", pair.module))] {
        let mut times = Vec::new();
        for _ in 0..REQUESTS {
            let begin = Instant::now();
            let (status, _) = session.page(&path)?;
            if status != 200 {
                // A row without runs does not hold; the other rows are still worth having.
                eprintln!("tsugi-lab: {path} answers {status}");
                times.clear();
                break;
            }
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        // One row per page: the slowest of fifty says more of the machine than of the page.
        let mut row = Row::at_most(bench, &format!("{row}, request to last byte"), "ms", 100.0, times);
        row.holds = row.ours <= 100.0; // false for a page that was not measured: its median is no number
        rows.push(row);
    }
    Ok(rows)
}

struct Usage {
    rss_mib: f64,
    cpu_seconds: f64,
}

/// Memory and processor time of every process of a host that runs `program`.
fn usage(lab: &Lab, host: &str, program: &str) -> Result<Usage> {
    let init = lab.info()?.hosts.get(host).and_then(|h| h.init).with_context(|| format!("{host} is off"))?;
    let mut sum = Usage { rss_mib: 0.0, cpu_seconds: 0.0 };
    let mut found = 0;
    // SAFETY: plain library call.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    for pid in ns::processes_of(init)? {
        let name = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        if name.rsplit('/').next() != Some(program) {
            continue;
        }
        found += 1;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.trim().split(' ').next()?.parse::<f64>().ok());
        sum.rss_mib += kib.unwrap_or_default() / 1024.0;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let time = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
        sum.cpu_seconds += (time(11) + time(12)) / ticks;
    }
    if found == 0 {
        bail!("no {program} runs on {host}");
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_only_if_every_run_keeps_the_bar() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(Row::at_most("b", "r", "s", 2.0, vec![1.0, 2.0]).holds);
        assert!(!Row::at_most("b", "r", "s", 2.0, vec![1.0, 2.1, 1.0]).holds);
        assert!(!Row::at_most("b", "r", "s", 2.0, vec![]).holds, "nothing measured is nothing shown");
        assert_eq!(Row::at_most("b", "r", "s", 2.0, vec![1.0, 2.1, 1.0]).worst, 2.1);
    }
}
