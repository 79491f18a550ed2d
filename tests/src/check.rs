//! The main job, from bare hosts to the last verification: the application survives the death of its server.
//!
//! One line per step, a closing line with the figures. What is switched off, and what must then be there, is the
//! [`Scenario`]; with a safety taken away on purpose ([`Without`]) the same check must find lost entries.

use crate::api::{ALONE, Api, ModuleView, PRIM, SECOND};
use crate::lab::names::{LEDGER_PORT, VIP};
use crate::lab::{Lab, Network, Plan, Quality};
use crate::ledger::{self, Entry};
use crate::load::{self, Acked, Gap, Load};
use crate::setup::{self, CLUSTER};
use crate::sql;
use crate::vips::VipWatch;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tsugi_core::module::{Profile, Timing};

/// Acknowledged entries before something is switched off.
pub const ENTRIES_MIN: usize = 2000;
/// Of these in the five seconds before: the client must be at work when it happens.
pub const BUSY_MIN: usize = 300;
const BUSY_WINDOW: Duration = Duration::from_secs(5);
/// Connections of the client.
const CONNECTIONS: usize = 4;
/// Entries that must be acknowledged after an event before it counts as survived.
const AFTERWARDS: usize = 200;
/// Start of the module on both nodes: first resynchronisation and the application's own first start.
const START_BOUND: Duration = Duration::from_secs(120);
/// Promise, claim, mount, application.
const TAKEOVER_BOUND: Duration = Duration::from_secs(60);
/// A returning node boots, waits its quarantine and is brought level under load.
const REJOIN_BOUND: Duration = Duration::from_secs(180);
const LOAD_BOUND: Duration = Duration::from_secs(180);
/// What the interruption may be beyond the promise: claim, replay, start of the application.
const BEYOND_PROMISE: Duration = Duration::from_secs(3);
/// A database's own crash recovery: 1.9 s on two idle cores, 3.6 s measured on two busy ones.
const DATABASE_RECOVERY: Duration = Duration::from_secs(5);
/// Delay of the private line when peer acknowledgements are off: what is in flight is what is lost.
const NEGATIVE_DELAY_MS: f64 = 300.0;

/// What the module protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum App {
    /// The built-in ledger: SQLite with a write-ahead log.
    Ledger,
    /// The same with a rollback journal.
    LedgerJournal,
    /// The same as a plain file with an fsync per entry.
    LedgerRaw,
    /// A real PostgreSQL.
    Postgresql,
}

impl App {
    /// The shipped module.
    pub fn module(self) -> &'static str {
        match self {
            App::Ledger | App::LedgerJournal | App::LedgerRaw => "ledger",
            App::Postgresql => "postgresql",
        }
    }

    /// `LEDGER_STORE` of the module `ledger`.
    fn store(self) -> Option<&'static str> {
        match self {
            App::Ledger => Some("wal"),
            App::LedgerJournal => Some("journal"),
            App::LedgerRaw => Some("raw"),
            App::Postgresql => None,
        }
    }
}

/// What is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// The serving host, then it returns and takes its role back by a swap.
    PrimaryKilled,
    /// The following host.
    SecondaryKilled,
    /// Both; the former primary returns first.
    BothKilledPrimaryFirst,
    /// Both; the former secondary returns first.
    BothKilledSecondaryFirst,
}

/// A safety taken away, by switches that only tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Without {
    /// The primary answers before the secondary has the data.
    PeerAck,
    /// fsync does nothing.
    Fsync,
}

impl Without {
    fn env(self) -> BTreeMap<String, String> {
        let name = match self {
            Without::PeerAck => "TSUGI_TEST_NO_PEER_ACK",
            Without::Fsync => "TSUGI_TEST_NO_FSYNC",
        };
        BTreeMap::from([(name.to_owned(), "1".to_owned())])
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct CheckPlan {
    /// What the module protects.
    pub app: App,
    /// What is switched off.
    pub scenario: Scenario,
    /// Which safety is taken away.
    pub without: Option<Without>,
    /// Name of the lab.
    pub lab: String,
    /// Acknowledged entries before the event.
    pub entries: usize,
    /// Print no steps.
    pub quiet: bool,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figures {
    /// Entries the client has an acknowledgement of.
    pub acknowledged: usize,
    /// Of these, not found again; in words.
    pub lost: Vec<String>,
    /// Longest time without an acknowledgement around the event, in seconds.
    pub interruption_seconds: f64,
    /// What it may be.
    pub interruption_bar_seconds: f64,
    /// Acknowledged in the five seconds before the event.
    pub busy: usize,
    /// Longest time without an acknowledgement around the swap (0 where there is none).
    pub swap_seconds: f64,
    /// From switch-on to PRIM and SECOND again, under load.
    pub rejoin_seconds: f64,
}

impl Figures {
    /// Nothing lost, and the interruption within its bar.
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.interruption_seconds <= self.interruption_bar_seconds
    }
}

/// A pair with its module running, ready for events.
pub struct Pair {
    /// Hosts and switches.
    pub lab: Lab,
    /// The console.
    pub api: Api,
    /// Name of the module.
    pub module: String,
    app: App,
    net: OwnedFd,
    begin: Instant,
    quiet: bool,
    /// Sampler of the virtual address, from before it is raised for the first time.
    watch: Option<VipWatch>,
    /// It serves: from here on the address is somewhere.
    is_up: bool,
}

/// Folder of the shipped modules.
pub fn modules_dir() -> PathBuf {
    std::env::var_os("TSUGI_MODULES").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules"), PathBuf::from)
}

/// The promise of the profile that the shipped modules have, plus what may come on top.
pub fn interruption_bar(app: App) -> Duration {
    let recovery = match app {
        App::Ledger | App::LedgerJournal | App::LedgerRaw => Duration::ZERO,
        App::Postgresql => DATABASE_RECOVERY,
    };
    Timing::of(Profile::Normal).keep + BEYOND_PROMISE + recovery
}

impl Pair {
    /// Three hosts and the console, the module on n1 and n2, n1 PRIM and n2 SECOND.
    pub fn start(lab: &str, app: App, env: BTreeMap<String, String>, quiet: bool) -> Result<Pair> {
        Pair::start_with(lab, app, env, quiet, |_, _, _| Ok(()))
    }

    /// The same with a configuration that `edit` makes of the shipped one.
    pub fn start_edited(lab: &str, app: App, env: BTreeMap<String, String>, quiet: bool, edit: impl Fn(&str) -> String) -> Result<Pair> {
        Pair::start_with(lab, app, env, quiet, |_, _, files| {
            files.userconfig = edit(&files.userconfig);
            Ok(())
        })
    }

    /// The same; `prepare` does what is wanted before the module is applied, and may change its files.
    pub fn start_with(
        lab: &str,
        app: App,
        env: BTreeMap<String, String>,
        quiet: bool,
        prepare: impl FnOnce(&Lab, &Api, &mut setup::ModuleFiles) -> Result<()>,
    ) -> Result<Pair> {
        let begin = Instant::now();
        let say = |text: &str| step(begin, quiet, text);
        let lab = Lab::start(lab, &Plan { hosts: 3, console: true, env, ..Plan::default() })?;
        say("three hosts and the console's host are up, each with a disk and two networks of its own");
        let api = setup::set_up(&lab)?;
        say("console set up; three agents enrolled and approved");
        let module = app.module();
        let (net, watch) = (lab.client_net()?, Some(VipWatch::start(&lab)?));
        let mut pair = Pair { net, lab, api, module: module.to_owned(), app, begin, quiet, watch, is_up: false };
        for host in ["n1", "n2"] {
            pair.lab.sh(host, &format!("mkdir -p {0} && sync {0}", pair.data_dir()))?;
        }
        let vip = VIP.to_string();
        let mut macros = vec![("VIP", vip.as_str()), ("DIR", pair.data_dir())];
        if app == App::Postgresql {
            // Nobody but the lab's own client can reach it.
            macros.push(("AUTH", "trust"));
        }
        let mut files = setup::read_module(&modules_dir().join(module), &macros)?;
        if let Some(store) = app.store() {
            let var = |value: &str| format!("name=\"LEDGER_STORE\" value=\"{value}\"");
            ensure!(files.userconfig.contains(&var("wal")), "the module ledger has no LEDGER_STORE");
            files.userconfig = files.userconfig.replace(&var("wal"), &var(store));
        }
        prepare(&pair.lab, &pair.api, &mut files)?;
        setup::apply_module(&pair.api, module, &["n1", "n2"], &files)?;
        pair.say(&format!("module {module} uploaded and applied on n1 and n2"));
        pair.api.action(CLUSTER, module, "prim", Some("n1"))?;
        pair.wait("n1 serves", START_BOUND, |v| v.state("n1") == ALONE || v.state("n1") == PRIM)?;
        pair.api.action(CLUSTER, module, "start", Some("n2"))?;
        pair.wait_pair("n1", "n2", START_BOUND)?;
        pair.say("n1 is PRIM, n2 is SECOND: every write is on both disks before it is confirmed");
        if app == App::Postgresql {
            sql::prepare(&pair.lab, VIP)?;
        }
        pair.is_up = true;
        Ok(pair)
    }

    /// The watch over the virtual address, for whoever judges what it saw. Otherwise the pair does, at its end.
    pub fn take_watch(&mut self) -> Result<VipWatch> {
        self.watch.take().context("somebody has the watch already")
    }

    /// The replicated directory.
    pub fn data_dir(&self) -> &'static str {
        match self.app {
            App::Ledger | App::LedgerJournal | App::LedgerRaw => "/srv/data/ledger",
            App::Postgresql => "/srv/data/postgresql",
        }
    }

    /// Where the application listens.
    pub fn address(&self) -> SocketAddr {
        match self.app {
            App::Ledger | App::LedgerJournal | App::LedgerRaw => SocketAddr::from((VIP, LEDGER_PORT)),
            App::Postgresql => SocketAddr::from((VIP, sql::PORT)),
        }
    }

    /// Where the clients are.
    pub fn client_net(&self) -> &OwnedFd {
        &self.net
    }

    /// Prints a step.
    pub fn say(&self, text: &str) {
        step(self.begin, self.quiet, text);
    }

    /// Starts a client.
    pub fn load(&self) -> Result<Load> {
        match self.app {
            App::Ledger | App::LedgerJournal | App::LedgerRaw => Load::start(&self.net, self.address(), CONNECTIONS),
            App::Postgresql => sql::start_load(&self.net, VIP, CONNECTIONS),
        }
    }

    /// Every entry, read through the virtual address.
    pub fn read_all(&self) -> Result<Vec<Entry>> {
        match self.app {
            App::Ledger | App::LedgerJournal | App::LedgerRaw => load::read_all(&self.net, self.address()),
            App::Postgresql => sql::read_all(&self.lab, VIP),
        }
    }

    /// Keeps the logs of all hosts in the system's temporary directory.
    pub fn keep_logs(&self) {
        keep_logs(&self.lab);
    }

    /// Waits for something of the module.
    pub fn wait(&self, what: &str, bound: Duration, is_so: impl Fn(&ModuleView) -> bool) -> Result<ModuleView> {
        self.api.wait_module(CLUSTER, &self.module, what, bound, is_so)
    }

    /// Waits until one is PRIM and the other SECOND.
    pub fn wait_pair(&self, prim: &str, second: &str, bound: Duration) -> Result<ModuleView> {
        let what = format!("{prim} PRIM and {second} SECOND");
        self.wait(&what, bound, |v| v.state(prim) == PRIM && v.state(second) == SECOND)
    }

    /// Entries in a copy of the file on `host`'s own disk, beside whatever is mounted over it. Nobody may write.
    pub fn read_file(&self, host: &str) -> Result<Vec<Entry>> {
        let below = self.data_dir().strip_prefix("/srv/data").unwrap_or_default();
        let source = self.lab.path_in(host, &format!("/srv/host/data{below}"))?;
        let copy = tempfile::tempdir()?;
        for entry in std::fs::read_dir(&source).with_context(|| format!("{}", source.display()))? {
            let entry = entry?;
            // The index of the log is made anew by who opens it.
            let is_wanted = entry.file_type()?.is_file() && !entry.file_name().to_string_lossy().ends_with("-shm");
            if is_wanted {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(ledger::read_copy(copy.path())).with_context(|| format!("the file on {host}"))
    }

    /// Looks for every acknowledged entry through the virtual address and in the files of `hosts`. One line per
    /// entry that is missing or changed in any of these places, the first place named.
    pub fn verify(&self, acked: &[Acked], hosts: &[&str]) -> Vec<String> {
        let mut places = vec![(format!("over {VIP}"), self.read_all())];
        if self.app.module() == "ledger" {
            places.extend(hosts.iter().map(|host| (format!("in the file on {host}"), self.read_file(host))));
        }
        let mut lost = BTreeMap::new();
        for (place, found) in places {
            // A place that cannot be read holds nothing.
            let (found, why) = match found {
                Ok(found) => (found, String::new()),
                Err(error) => (Vec::new(), format!(" ({error:#})")),
            };
            for line in load::lost(acked, &found) {
                lost.entry(line).or_insert_with(|| format!("{place}{why}"));
            }
        }
        lost.into_iter().map(|(line, place)| format!("{place}: {line}")).collect()
    }

    /// Waits until the client is in full work; acknowledged in the last five seconds.
    fn wait_busy(&self, load: &Load, entries: usize) -> Result<usize> {
        load.wait_for_more(entries.saturating_sub(load.count()), LOAD_BOUND)?;
        let begin = Instant::now();
        let busy = loop {
            let now = Instant::now();
            let busy = load.count_between(now - BUSY_WINDOW, now);
            if begin.elapsed() >= BUSY_WINDOW && busy >= BUSY_MIN {
                break busy;
            }
            if begin.elapsed() > LOAD_BOUND {
                bail!("only {busy} entries in the last {BUSY_WINDOW:?}: the client is not at work (at least {BUSY_MIN})");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(busy)
    }
}

/// Every test with a pair ends with this: the address was never in two places, and somebody looked.
impl Drop for Pair {
    fn drop(&mut self) {
        let Some(seen) = self.watch.take().map(VipWatch::stop) else { return };
        if self.is_up && !std::thread::panicking() {
            println!("{}", seen.line());
            if !seen.is_clean() {
                self.keep_logs();
                panic!("{}: {seen:?}", seen.line());
            }
        }
    }
}

fn step(begin: Instant, quiet: bool, text: &str) {
    if !quiet {
        println!("[{:6.1} s] {text}", begin.elapsed().as_secs_f64());
    }
}

/// Runs a check; the figures whatever they say. An error: a step could not be carried out.
pub fn run(plan: &CheckPlan) -> Result<Figures> {
    let env = plan.without.map(Without::env).unwrap_or_default();
    let mut pair = Pair::start(&plan.lab, plan.app, env, plan.quiet)?;
    let watch = pair.take_watch()?;
    let result = match plan.scenario {
        Scenario::PrimaryKilled => primary_killed(&pair, plan),
        Scenario::SecondaryKilled => secondary_killed(&pair, plan),
        Scenario::BothKilledPrimaryFirst => both_killed(&pair, plan, ["n1", "n2"]),
        Scenario::BothKilledSecondaryFirst => both_killed(&pair, plan, ["n2", "n1"]),
    };
    let seen = watch.stop();
    if !seen.is_clean() || result.as_ref().map_or(true, |f| !f.is_good()) {
        keep_logs(&pair.lab);
    }
    let figures = result?;
    pair.say(&seen.line());
    ensure!(seen.is_clean(), "{}: {:?} {:?}", seen.line(), seen.doubles, seen.double_answered);
    Ok(figures)
}

/// Logs of a failed run are worth more than the room they take.
pub fn keep_logs(lab: &Lab) {
    let target = std::env::temp_dir().join(format!("tsugi-failed-{}", lab.places().name));
    let _ = std::fs::remove_dir_all(&target);
    let Ok(info) = lab.info() else { return };
    for host in info.hosts.keys() {
        let (from, to) = (lab.places().host(host), target.join(host));
        let _ = std::fs::create_dir_all(&to);
        for file in ["agent.log", "server.log", "init.log"] {
            let _ = std::fs::copy(from.join(file), to.join(file));
        }
        if let Ok(output) =
            lab.exec(host, &["sh", "-c", "tsugi state --json; cat /var/lib/tsugi/events.jsonl; cat /var/lib/tsugi/modules/*/log/*"])
        {
            let _ = std::fs::write(to.join("state-events-scripts.txt"), output.stdout);
        }
    }
    eprintln!("tsugi-lab: logs of the hosts are kept in {}", target.display());
}

fn gap_line(gap: Gap) -> String {
    format!("longest gap between two confirmations {:.2} s", gap.seconds)
}

fn primary_killed(pair: &Pair, plan: &CheckPlan) -> Result<Figures> {
    let mut load = pair.load()?;
    if plan.without == Some(Without::PeerAck) {
        pair.lab.net("n1", "n2", Network::Private, Quality { delay_ms: NEGATIVE_DELAY_MS, ..Quality::default() })?;
    }
    let busy = pair.wait_busy(&load, plan.entries)?;
    pair.say(&format!("client at full speed: {} entries confirmed, {busy} of them in the last 5 s", load.count()));
    let killed = Instant::now();
    pair.lab.kill("n1")?;
    pair.say("n1 switched off: lines down, disk stopped, every process killed");
    pair.lab.heal()?;
    pair.wait("n2 to serve alone", TAKEOVER_BOUND, |v| v.state("n2") == ALONE)?;
    load.wait_for_more(AFTERWARDS, TAKEOVER_BOUND)?;
    let gap = load.longest_gap_since(killed);
    let mut acked = load.stop()?;
    pair.say(&format!("n2 took over and serves ALONE at the same address; {}", gap_line(gap)));
    let mut lost = pair.verify(&acked, &["n2"]);
    pair.say(&verified(&acked, &lost, "n2"));

    load = pair.load()?;
    load.wait_for_more(AFTERWARDS, LOAD_BOUND)?;
    let booted = Instant::now();
    pair.lab.boot("n1")?;
    pair.wait_pair("n2", "n1", REJOIN_BOUND)?;
    let rejoin = booted.elapsed();
    pair.say(&format!("n1 switched on and brought level in {:.1} s while the client wrote", rejoin.as_secs_f64()));
    load.wait_for_more(AFTERWARDS, LOAD_BOUND)?;
    let swapped = Instant::now();
    pair.api.action(CLUSTER, &pair.module, "swap", None)?;
    pair.wait_pair("n1", "n2", TAKEOVER_BOUND)?;
    load.wait_for_more(AFTERWARDS, LOAD_BOUND)?;
    let swap = load.longest_gap_since(swapped);
    acked.extend(load.stop()?);
    pair.say(&format!("swapped: n1 is PRIM, n2 is SECOND; {}", gap_line(swap)));
    if lost.is_empty() {
        lost = pair.verify(&acked, &["n1", "n2"]);
        pair.say(&verified(&acked, &lost, "n1 and n2"));
    }
    Ok(figures(pair.app, acked.len(), lost, gap, busy, swap.seconds, rejoin))
}

fn secondary_killed(pair: &Pair, plan: &CheckPlan) -> Result<Figures> {
    let load = pair.load()?;
    let busy = pair.wait_busy(&load, plan.entries)?;
    pair.say(&format!("client at full speed: {} entries confirmed, {busy} of them in the last 5 s", load.count()));
    let killed = Instant::now();
    pair.lab.kill("n2")?;
    pair.say("n2, the follower, switched off");
    pair.wait("n1 to serve alone", TAKEOVER_BOUND, |v| v.state("n1") == ALONE)?;
    load.wait_for_more(AFTERWARDS, TAKEOVER_BOUND)?;
    let gap = load.longest_gap_since(killed);
    pair.say(&format!("n1 goes on ALONE; {}", gap_line(gap)));
    let booted = Instant::now();
    pair.lab.boot("n2")?;
    pair.wait_pair("n1", "n2", REJOIN_BOUND)?;
    let rejoin = booted.elapsed();
    pair.say(&format!("n2 switched on and brought level in {:.1} s while the client wrote", rejoin.as_secs_f64()));
    load.wait_for_more(AFTERWARDS, LOAD_BOUND)?;
    let acked = load.stop()?;
    let lost = pair.verify(&acked, &["n1", "n2"]);
    pair.say(&verified(&acked, &lost, "n1 and n2"));
    Ok(figures(pair.app, acked.len(), lost, gap, busy, 0.0, rejoin))
}

fn both_killed(pair: &Pair, plan: &CheckPlan, order: [&str; 2]) -> Result<Figures> {
    let load = pair.load()?;
    let busy = pair.wait_busy(&load, plan.entries)?;
    pair.say(&format!("client at full speed: {} entries confirmed, {busy} of them in the last 5 s", load.count()));
    for host in ["n1", "n2"] {
        pair.lab.kill(host)?;
    }
    let mut acked = load.stop()?;
    pair.say("n1 and n2 switched off");
    let [first, second] = order;
    pair.lab.boot(first)?;
    pair.wait(&format!("{first} to serve alone"), TAKEOVER_BOUND, |v| v.state(first) == ALONE)?;
    let mut lost = pair.verify(&acked, &[first]);
    pair.say(&format!("{first} alone switched on and serves; {}", verified(&acked, &lost, first)));
    let load = pair.load()?;
    load.wait_for_more(AFTERWARDS, LOAD_BOUND)?;
    let booted = Instant::now();
    pair.lab.boot(second)?;
    pair.wait_pair(first, second, REJOIN_BOUND)?;
    let rejoin = booted.elapsed();
    load.wait_for_more(AFTERWARDS, LOAD_BOUND)?;
    acked.extend(load.stop()?);
    pair.say(&format!("{second} switched on and brought level in {:.1} s while the client wrote", rejoin.as_secs_f64()));
    if lost.is_empty() {
        lost = pair.verify(&acked, &["n1", "n2"]);
        pair.say(&verified(&acked, &lost, "n1 and n2"));
    }
    // Nobody was on: there is no interruption to be held against a bar.
    Ok(figures(pair.app, acked.len(), lost, Gap { seconds: 0.0, from: 0.0 }, busy, 0.0, rejoin))
}

fn verified(acked: &[Acked], lost: &[String], hosts: &str) -> String {
    match lost.first() {
        None => format!("all {} confirmed entries found, over {VIP} and on {hosts}", acked.len()),
        Some(first) => format!("{} of {} confirmed entries LOST, the first: {first}", lost.len(), acked.len()),
    }
}

fn figures(app: App, acknowledged: usize, lost: Vec<String>, gap: Gap, busy: usize, swap_seconds: f64, rejoin: Duration) -> Figures {
    Figures {
        acknowledged,
        lost,
        interruption_seconds: gap.seconds,
        interruption_bar_seconds: interruption_bar(app).as_secs_f64(),
        busy,
        swap_seconds,
        rejoin_seconds: rejoin.as_secs_f64(),
    }
}
