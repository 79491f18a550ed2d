//! Hosts on this machine, with switches to pull.
//!
//! A host is a network, mount, PID, host-name and IPC namespace with two network cards and a disk of its own
//! (an ext4 image on a loop device): data, records and, on the console's host, the arbiter's file. `kill` loses
//! what was never synced, as a power cut does. Agents are the real programs, started by the documented commands.
//!
//! [`Lab::start`] gives a lab that is taken down when the value is dropped, and also when the test is killed.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub mod disk;
pub mod forward;
mod groups;
pub mod init;
pub mod keeper;
pub mod names;
pub mod ns;
pub mod relay;
pub mod switch;

pub use keeper::{HostInfo, Info};
pub use names::{CLIENT, CONSOLE, Network};
pub use relay::Quality;
pub use switch::Direction;

use keeper::{Answer, Order};
use names::Places;

/// Disk of a host unless told otherwise. Sparse: only what is written takes room.
pub const DISK_BYTES: u64 = 1 << 30;
/// Where labs with their disks in memory are.
const MEMORY: &str = "/dev/shm/tsugi-lab";
/// A keeper starts within this time or not at all.
const KEEPER_BOUND: Duration = Duration::from_secs(20);

/// What to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// n1 … nN.
    pub hosts: u8,
    /// And a host with the console.
    pub console: bool,
    /// Size of every disk.
    pub disk_bytes: u64,
    /// Environment of the services, for test-only switches.
    pub env: BTreeMap<String, String>,
    /// The disks are in this machine's memory: what is measured on them is the cost of the software.
    pub in_memory: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { hosts: 2, console: false, disk_bytes: DISK_BYTES, env: BTreeMap::new(), in_memory: false }
    }
}

/// A running lab.
pub struct Lab {
    places: Places,
    /// The keeper, if this value owns the lab.
    keeper: Mutex<Option<Child>>,
}

impl Lab {
    /// Makes a lab called `name` and boots its hosts. It goes away with the value, or with this process.
    pub fn start(name: &str, plan: &Plan) -> Result<Lab> {
        let mut places = Places::of(name)?;
        if plan.in_memory {
            places.dir = Path::new(MEMORY).join(name);
        }
        Self::create(places, plan, true)
    }

    /// Makes a lab that outlives this process, until [`Lab::down`].
    pub fn start_detached(places: Places, plan: &Plan) -> Result<Lab> {
        Self::create(places, plan, false)
    }

    fn create(places: Places, plan: &Plan, owned: bool) -> Result<Lab> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab needs root: it makes namespaces, mounts and addresses");
        }
        if UnixStream::connect(places.socket()).is_ok() {
            bail!("lab `{}` is up already: `lab down` first, or another TSUGI_LAB_NAME", places.name);
        }
        remove_remains(&places)?;
        std::fs::create_dir_all(&places.dir).with_context(|| format!("{}", places.dir.display()))?;
        let child = start_keeper(&places, owned)?;
        let lab = Lab { keeper: Mutex::new(owned.then_some(child)), places };
        let hosts = (1..=plan.hosts).map(|n| format!("n{n}")).chain(plan.console.then(|| CONSOLE.to_owned()));
        for host in hosts {
            let result = lab
                .order(Order::AddHost { host: host.clone(), disk_bytes: plan.disk_bytes, env: plan.env.clone() })
                .and_then(|_| lab.boot(&host));
            if let Err(error) = result {
                let _ = lab.down();
                return Err(error);
            }
        }
        Ok(lab)
    }

    /// A lab that is up.
    pub fn open(places: Places) -> Result<Lab> {
        UnixStream::connect(places.socket()).with_context(|| format!("lab `{}` is not up: `lab up --hosts N` makes it", places.name))?;
        Ok(Lab { places, keeper: Mutex::new(None) })
    }

    /// Where it keeps its files.
    pub fn places(&self) -> &Places {
        &self.places
    }

    fn order(&self, order: Order) -> Result<serde_json::Value> {
        let mut stream = UnixStream::connect(self.places.socket())
            .with_context(|| format!("the keeper of lab `{}` is gone: `lab down` clears what is left", self.places.name))?;
        let mut text = serde_json::to_string(&order)?;
        text.push('\n');
        stream.write_all(text.as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        match serde_json::from_str(&line).with_context(|| format!("the keeper ended during {order:?}: see keeper.log"))? {
            Answer::Done(value) => Ok(value),
            Answer::Failed(message) => bail!("{message}"),
        }
    }

    /// What it is, now.
    pub fn info(&self) -> Result<Info> {
        Ok(serde_json::from_value(self.order(Order::Info)?)?)
    }
    /// Switches a host on.
    pub fn boot(&self, host: &str) -> Result<()> {
        self.order(Order::Boot { host: host.into() }).map(drop)
    }
    /// Power off, at once.
    pub fn kill(&self, host: &str) -> Result<()> {
        self.order(Order::Kill { host: host.into() }).map(drop)
    }
    /// Orderly shut-down.
    pub fn stop(&self, host: &str) -> Result<()> {
        self.order(Order::Stop { host: host.into() }).map(drop)
    }
    /// Stops every process of a host where it is (SIGSTOP).
    pub fn pause(&self, host: &str) -> Result<()> {
        self.order(Order::Pause { host: host.into() }).map(drop)
    }
    /// And lets them go on.
    pub fn resume(&self, host: &str) -> Result<()> {
        self.order(Order::Resume { host: host.into() }).map(drop)
    }
    /// Starts or stops a service (`agent`, `server`) as `systemctl enable --now` and `disable --now` would.
    pub fn set_service(&self, host: &str, service: &str, enabled: bool) -> Result<()> {
        self.order(Order::Service { host: host.into(), service: service.into(), enabled }).map(drop)
    }
    /// Environment of a host's services from its next boot on.
    pub fn set_env(&self, host: &str, env: BTreeMap<String, String>) -> Result<()> {
        self.order(Order::SetEnv { host: host.into(), env }).map(drop)
    }
    /// Cuts the lines from `a` to `b`, and back unless `one_way`, on `network` or on both.
    pub fn cut(&self, a: &str, b: &str, one_way: bool, network: Option<Network>) -> Result<()> {
        let mut directions = Vec::new();
        for host in [a, b] {
            names::number_of(host)?;
        }
        for network in Network::ALL.into_iter().filter(|n| network.is_none_or(|only| only == *n)) {
            directions.push(Direction { from: a.into(), to: b.into(), network });
            if !one_way {
                directions.push(Direction { from: b.into(), to: a.into(), network });
            }
        }
        self.order(Order::Cut { directions }).map(drop)
    }
    /// Makes the lines between two hosts bad, both ways.
    pub fn net(&self, a: &str, b: &str, network: Network, quality: Quality) -> Result<()> {
        self.order(Order::Net { direction: Direction { from: a.into(), to: b.into(), network }, quality }).map(drop)
    }
    /// Every line is good again.
    pub fn heal(&self) -> Result<()> {
        self.order(Order::Heal).map(drop)
    }
    /// 127.0.0.1:`port` of this machine → `to`, from the client's place; the port really used.
    pub fn forward(&self, port: u16, to: std::net::SocketAddr) -> Result<u16> {
        Ok(serde_json::from_value(self.order(Order::Forward { port, to })?)?)
    }
    /// Keeps a fact for `lab info`.
    pub fn note(&self, key: &str, value: impl Into<serde_json::Value>) -> Result<()> {
        self.order(Order::Note { key: key.into(), value: value.into() }).map(drop)
    }

    /// The network namespace clients live in.
    pub fn client_net(&self) -> Result<OwnedFd> {
        let path = self.info()?.client_net;
        Ok(OwnedFd::from(std::fs::File::open(&path).with_context(|| path.clone())?))
    }

    /// Path on this machine of a path inside a running host. Its root lies on the host's memory and disk.
    pub fn path_in(&self, host: &str, path: &str) -> Result<PathBuf> {
        let init = self.init_of(host)?;
        Ok(PathBuf::from(format!("/proc/{init}/root/{}", path.trim_start_matches('/'))))
    }

    fn init_of(&self, host: &str) -> Result<i32> {
        let info = self.info()?;
        let known = info.hosts.get(host).with_context(|| format!("this lab has no host `{host}`"))?;
        known.init.with_context(|| format!("{host} is off: `lab boot {host}` starts it"))
    }

    /// A command inside a host (or the client's namespace), ready to be run.
    pub fn command(&self, host: &str, argv: &[&str]) -> Result<Command> {
        let info = self.info()?;
        let mut command = Command::new("nsenter");
        let mut extra = BTreeMap::new();
        if host == CLIENT {
            command.arg(format!("--net={}", info.client_net));
        } else {
            let known = info.hosts.get(host).with_context(|| format!("this lab has no host `{host}`"))?;
            let init = known.init.with_context(|| format!("{host} is off: `lab boot {host}` starts it"))?;
            let config: init::HostConfig = serde_json::from_slice(&std::fs::read(self.places.host(host).join("host.json"))?)?;
            extra = config.env;
            command.args(["-t", &init.to_string(), "-m", "-u", "-i", "-n", "-p"]);
            command.env_clear();
            if let Some(term) = std::env::var_os("TERM") {
                command.env("TERM", term);
            }
        }
        command.envs(init::host_env(&extra));
        if host == CLIENT {
            let mut path = names::bin_dir()?.into_os_string();
            path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            command.env("PATH", path);
        }
        command.arg("--").args(argv);
        ns::with_no_signal_blocked(&mut command);
        Ok(command)
    }

    /// Runs a command inside; its output whatever its status.
    pub fn exec(&self, host: &str, argv: &[&str]) -> Result<Output> {
        self.command(host, argv)?.stdin(Stdio::null()).output().context("nsenter (Debian: util-linux) cannot be run")
    }

    /// Runs a shell line inside; its output, or an error when its status is not 0.
    pub fn sh(&self, host: &str, line: &str) -> Result<String> {
        let output = self.exec(host, &["sh", "-c", line])?;
        if !output.status.success() {
            bail!(
                "on {host}: `{line}` ended with {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs a command inside on this process's terminal.
    pub fn exec_here(&self, host: &str, argv: &[&str]) -> Result<ExitStatus> {
        self.command(host, argv)?.status().context("nsenter (Debian: util-linux) cannot be run")
    }

    /// Takes everything away.
    pub fn down(&self) -> Result<()> {
        let said = self.order(Order::Down);
        if let Some(mut child) = self.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
        said.map(drop)?;
        remove_remains(&self.places)
    }

    /// Leaves the lab up when this value goes.
    pub fn is_owned(&self) -> bool {
        self.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_owned()
            && let Err(error) = self.down()
        {
            eprintln!("tsugi-lab: {error:#}");
        }
    }
}

fn start_keeper(places: &Places, owned: bool) -> Result<Child> {
    let program = names::binary("tsugi-lab")?;
    let log = std::fs::File::create(places.dir.join("keeper.log"))?;
    let mut command = Command::new(program);
    command.args(["keeper", "--name", &places.name]);
    if owned {
        command.arg("--owned");
    }
    command.env("TSUGI_LAB_DIR", places.dir.parent().context("a lab's directory has a parent")?);
    command.stdin(if owned { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(log);
    ns::with_no_signal_blocked(&mut command);
    let mut child = command.spawn().context("the keeper cannot be started")?;
    let out = child.stdout.take().context("no output of the keeper")?;
    let (say, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(out).read_line(&mut line);
        let _ = say.send(line);
    });
    match hear.recv_timeout(KEEPER_BOUND) {
        Ok(line) if line.trim() == "ready" => Ok(child),
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            let mut why = String::new();
            if let Ok(mut log) = std::fs::File::open(places.dir.join("keeper.log")) {
                let _ = log.read_to_string(&mut why);
            }
            bail!("the lab cannot be made: {}", why.trim())
        }
    }
}

/// Clears what a lab whose keeper is gone left behind. Its processes and namespaces went with the keeper; this
/// waits for that and removes the files.
pub fn remove_remains(places: &Places) -> Result<()> {
    let Ok(text) = std::fs::read(places.state()) else {
        return keeper::remove_dir(&places.dir);
    };
    let state: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let marker = places.dir.display().to_string();
    let is_ours = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains(&marker));
    for pid in state["inits"].as_object().into_iter().flatten().filter_map(|(_, pid)| pid.as_i64()) {
        let pid = pid as i32;
        let begin = Instant::now();
        while is_ours(pid) && begin.elapsed() < KEEPER_BOUND {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    keeper::remove_dir(&places.dir)
}
