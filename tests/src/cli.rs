//! Command line of `tsugi-lab`.

use crate::check::{self, App, CheckPlan, ENTRIES_MIN, Scenario, Without};
use crate::lab::names::{Places, number_of};
use crate::lab::{self, Lab, Network, Plan, Quality};
use crate::load::Load;
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Hosts on this machine, with switches to pull.
#[derive(Debug, Parser)]
#[command(name = "tsugi-lab", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a lab: hosts n1 … nN, with --console also the console, enrolled and approved.
    Up {
        #[arg(long, default_value_t = 2)]
        hosts: u8,
        #[arg(long)]
        console: bool,
        /// Size of every host's disk in MiB.
        #[arg(long, default_value_t = 1024)]
        disk_mib: u64,
        /// NAME=VALUE in the environment of the services.
        #[arg(long)]
        env: Vec<String>,
    },
    /// Run a command inside a host, or in the clients' namespace (`client`).
    Exec {
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Power off: what was never synced is lost.
    Kill { host: String },
    /// Power on.
    Boot { host: String },
    /// Orderly shut-down.
    Stop { host: String },
    /// Stop every process of a host where it is.
    Pause { host: String },
    /// Let them go on.
    Resume { host: String },
    /// Start or stop a service of a host (agent, server), as systemctl would.
    Service { host: String, service: String, action: ServiceAction },
    /// Cut the line between two hosts.
    Cut {
        a: String,
        b: String,
        /// Only from A to B.
        #[arg(long)]
        one_way: bool,
        /// client or private; both unless given.
        #[arg(long)]
        network: Option<Network>,
    },
    /// Make the line between two hosts bad.
    Net {
        a: String,
        b: String,
        /// Frames lost, per cent.
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// Delay in milliseconds, each way.
        #[arg(long, default_value_t = 0.0)]
        delay: f64,
        /// Kilobits per second.
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// Frames overtaken, per cent.
        #[arg(long, default_value_t = 0.0)]
        reorder: f64,
        /// Frames that arrive twice, per cent.
        #[arg(long, default_value_t = 0.0)]
        dup: f64,
        /// Frames with a wrong byte, per cent.
        #[arg(long, default_value_t = 0.0)]
        corrupt: f64,
        /// client or private; both unless given.
        #[arg(long)]
        network: Option<Network>,
    },
    /// Mend every line.
    Heal,
    /// Reach an address of the lab at a port of this machine's loopback.
    Forward { port: u16, to: std::net::SocketAddr },
    /// Write to a ledger from the clients' namespace at full speed and count what it acknowledges.
    Load {
        /// http://ADDRESS:PORT of the ledger.
        #[arg(long)]
        url: String,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        #[arg(long, default_value_t = 4)]
        connections: usize,
    },
    /// Run seeds of the simulator: the engines in virtual time under every fault. Needs no lab.
    Sim(crate::sim::run::SimArgs),
    /// Run the main job unattended; exit status 0 when nothing confirmed was lost and the interruption is in its bar.
    Check {
        #[arg(long, value_enum, default_value = "ledger")]
        app: App,
        #[arg(long, value_enum, default_value = "primary-killed")]
        scenario: Scenario,
        /// Take a safety away on purpose: the check must then find lost entries.
        #[arg(long, value_enum)]
        without: Option<Without>,
        /// In a row; ends at the first that is not good.
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// Confirmed entries before the event.
        #[arg(long, default_value_t = ENTRIES_MIN)]
        entries: usize,
    },
    /// Figures; exit status 1 when one does not hold.
    Bench {
        name: String,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        failover: crate::bench::failover::Choice,
        #[command(flatten)]
        replication: crate::bench::replication::Choice,
    },
    /// Work inside a host, for a bench.
    #[command(hide = true)]
    Work {
        #[command(subcommand)]
        what: crate::bench::work::Work,
    },
    /// Set the main job up and keep it running until Ctrl-C.
    Demo {
        #[arg(long, value_enum, default_value = "ledger")]
        app: App,
    },
    /// What the lab is.
    Info {
        #[arg(long)]
        json: bool,
    },
    /// Take everything away.
    Down,
    #[command(hide = true)]
    Keeper {
        #[arg(long)]
        name: String,
        #[arg(long)]
        owned: bool,
    },
    #[command(hide = true)]
    HostInit { config: PathBuf },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ServiceAction {
    Start,
    Stop,
}

/// Entry of the program.
pub fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tsugi-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Keeper { name, owned } => lab::keeper::main(&name, owned)?,
        Verb::HostInit { config } => lab::init::main(&config)?,
        Verb::Up { hosts, console, disk_mib, env } => up(hosts, console, disk_mib, &env)?,
        Verb::Down => down()?,
        Verb::Info { json } => info(json)?,
        Verb::Exec { host, command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let status = open()?.exec_here(&host, &words)?;
            use std::os::unix::process::ExitStatusExt;
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(ExitCode::from(code as u8));
        }
        Verb::Kill { host } => open()?.kill(&host)?,
        Verb::Boot { host } => open()?.boot(&host)?,
        Verb::Stop { host } => open()?.stop(&host)?,
        Verb::Pause { host } => open()?.pause(&host)?,
        Verb::Resume { host } => open()?.resume(&host)?,
        Verb::Service { host, service, action } => open()?.set_service(&host, &service, matches!(action, ServiceAction::Start))?,
        Verb::Cut { a, b, one_way, network } => open()?.cut(&a, &b, one_way, network)?,
        Verb::Net { a, b, loss, delay, rate, reorder, dup, corrupt, network } => {
            let quality = Quality {
                loss_percent: loss,
                delay_ms: delay,
                rate_kbit: rate,
                reorder_percent: reorder,
                dup_percent: dup,
                corrupt_percent: corrupt,
            };
            for host in [&a, &b] {
                number_of(host)?;
            }
            let lab = open()?;
            for network in Network::ALL.into_iter().filter(|n| network.is_none_or(|only| only == *n)) {
                lab.net(&a, &b, network, quality)?;
            }
        }
        Verb::Heal => open()?.heal()?,
        Verb::Sim(args) => crate::sim::run::main(&args)?,
        Verb::Check { app, scenario, without, times, entries } => {
            for turn in 1..=times {
                if times > 1 {
                    println!("run {turn} of {times}");
                }
                let lab = std::env::var("TSUGI_LAB_NAME").unwrap_or_else(|_| "check".to_owned());
                let figures = check::run(&CheckPlan { app, scenario, without, lab, entries, quiet: false })?;
                let verdict = if figures.is_good() { "good" } else { "NOT GOOD" };
                println!(
                    "{verdict}: {} entries acknowledged, {} lost, {:.2} s of interruption (bar {:.1} s)",
                    figures.acknowledged,
                    figures.lost.len(),
                    figures.interruption_seconds,
                    figures.interruption_bar_seconds
                );
                if !figures.is_good() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Verb::Work { what } => crate::bench::work::run(&what)?,
        Verb::Bench { name, json, failover, replication } => {
            if !crate::bench::run(&crate::bench::BenchPlan { name, json, failover, replication })? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Demo { app } => demo(app)?,
        Verb::Load { url, seconds, connections } => load(&url, seconds, connections)?,
        Verb::Forward { port, to } => println!("127.0.0.1:{} → {to}", open()?.forward(port, to)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn open() -> Result<Lab> {
    Lab::open(Places::from_env()?)
}

fn up(hosts: u8, console: bool, disk_mib: u64, env: &[String]) -> Result<()> {
    let mut pairs = BTreeMap::new();
    for text in env {
        let (name, value) = text.split_once('=').with_context(|| format!("--env {text}: NAME=VALUE is expected"))?;
        pairs.insert(name.to_owned(), value.to_owned());
    }
    let plan = Plan { hosts, console, disk_bytes: disk_mib << 20, env: pairs, in_memory: false };
    let lab = Lab::start_detached(Places::from_env()?, &plan)?;
    if console && let Err(error) = crate::setup::set_up(&lab) {
        return Err(error.context("the hosts are up, but the console is not set up; `lab down` takes them away"));
    }
    print!("{}", describe(&lab.info()?));
    Ok(())
}

fn down() -> Result<()> {
    let places = Places::from_env()?;
    match Lab::open(places.clone()) {
        Ok(lab) => lab.down(),
        Err(_) => lab::remove_remains(&places),
    }
}

fn load(url: &str, seconds: u64, connections: usize) -> Result<()> {
    let place = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let to = place.parse().with_context(|| format!("--url {url}: http://ADDRESS:PORT is expected"))?;
    let net = open()?.client_net()?;
    let begin = Instant::now();
    let load = Load::start(&net, to, connections)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let gap = load.longest_gap_since(begin);
    let acked = load.stop()?;
    let found = crate::load::read_all(&net, to)?;
    let lost = crate::load::lost(&acked, &found);
    println!(
        "acknowledged {} ({:.0}/s), lost {}, longest gap {:.3} s from {:.3} s on",
        acked.len(),
        acked.len() as f64 / seconds.max(1) as f64,
        lost.len(),
        gap.seconds,
        gap.from
    );
    for line in lost.iter().take(10) {
        println!("lost: {line}");
    }
    if !lost.is_empty() {
        bail!("{} acknowledged entries are lost", lost.len());
    }
    Ok(())
}

/// Blocks until Ctrl-C or SIGTERM; the lab goes with the value that holds it.
fn demo(app: App) -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    // Blocked before any thread is made, so that every thread leaves these to the wait below.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let name = std::env::var("TSUGI_LAB_NAME").unwrap_or_else(|_| "demo".to_owned());
    let places = Places::of(&name)?;
    let (done, ended) = std::sync::mpsc::channel();
    let making = std::thread::spawn(move || {
        let pair = check::Pair::start(&name, app, BTreeMap::new(), false);
        let _ = done.send(());
        pair
    });
    // Set-up may be interrupted too: the lab is taken away under it.
    let mut pair = loop {
        if ended.recv_timeout(Duration::from_millis(100)).is_ok() {
            break making.join().unwrap_or_else(|_| bail!("set-up panicked"))?;
        }
        if is_pending(&signals) {
            println!("stopped during set-up; the lab is taken down");
            return Lab::open(places).map_or(Ok(()), |lab| lab.down());
        }
    };
    // Whoever plays with it may do what no test does.
    drop(pair.take_watch()?);
    let port = pair.lab.forward(pair.address().port(), pair.address())?;
    let info = pair.lab.info()?;
    let note = |key: &str| info.notes.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    println!();
    println!("console    {}", note("console_url"));
    println!("sign in    {}  one-time code (password of this demo only): {}", note("user"), note("password"));
    println!("           the browser warns of the certificate: the console signs its own; its CA is {}", note("ca_file"));
    match app {
        App::Ledger | App::LedgerJournal | App::LedgerRaw => {
            println!("ledger     http://127.0.0.1:{port}/   (virtual address {})", pair.address())
        }
        App::Postgresql => println!("PostgreSQL psql -h 127.0.0.1 -p {port} -U postgres   (virtual address {})", pair.address()),
    }
    println!("switch     TSUGI_LAB_NAME={} ./dev lab kill n1   (and boot, pause, cut, …: ./dev lab --help)", info.name);
    println!("end        Ctrl-C; nothing is left behind");
    signals.wait()?;
    println!();
    pair.lab.down()
}

fn is_pending(signals: &nix::sys::signal::SigSet) -> bool {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: set and time are valid; no information is asked for.
    unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &zero) > 0 }
}

fn info(json: bool) -> Result<()> {
    let info = open()?.info()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&info)?);
    } else {
        print!("{}", describe(&info));
    }
    Ok(())
}

fn describe(info: &lab::Info) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (name, host) in &info.hosts {
        let addr = |network: &str| host.addresses.get(network).cloned().unwrap_or_default();
        let _ =
            writeln!(text, "{name:<8} {:<8} client {:<14} private {:<14} logs {}", host.power, addr("client"), addr("private"), host.logs);
    }
    for cut in &info.cuts {
        let _ = writeln!(text, "cut      {} → {} on {}", cut.from, cut.to, cut.network.word());
    }
    for (line, quality) in &info.bad_lines {
        let _ = writeln!(text, "bad      {} → {} on {}: {quality:?}", line.from, line.to, line.network.word());
    }
    for (key, value) in &info.notes {
        let _ = writeln!(text, "{key:<14} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    text
}
