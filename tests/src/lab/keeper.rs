//! The keeper: the one process that holds a lab. Switch, hosts and forwarders live and die with it, so nothing
//! stays behind whatever happens to it. Commands reach it over a UNIX socket, one JSON line each way.

use super::disk::{self, LoopDevice};
use super::forward;
use super::init::{HostConfig, ServiceConfig};
use super::names::{AGENTS_PORT, CLIENT, CONSOLE, CONSOLE_PORT, Network, Places, bin_dir, number_of};
use super::ns;
use super::relay::Quality;
use super::switch::{Direction, Switch};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A host that is not up after this long will not come up.
const BOOT_BOUND: Duration = Duration::from_secs(60);
/// An orderly stop: services get a minute, the disks a while.
const STOP_BOUND: Duration = Duration::from_secs(120);
/// Process 1 is dead this soon after SIGKILL, or something of the host hangs in the kernel.
const KILL_BOUND: Duration = Duration::from_secs(30);
/// Rounds in which every process of a host must be seen stopped.
const PAUSE_ROUNDS_MAX: u32 = 200;

/// To the keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Order {
    AddHost { host: String, disk_bytes: u64, env: BTreeMap<String, String> },
    SetEnv { host: String, env: BTreeMap<String, String> },
    Boot { host: String },
    Kill { host: String },
    Stop { host: String },
    Pause { host: String },
    Resume { host: String },
    Service { host: String, service: String, enabled: bool },
    Cut { directions: Vec<Direction> },
    Net { direction: Direction, quality: Quality },
    Heal,
    Forward { port: u16, to: SocketAddr },
    Note { key: String, value: serde_json::Value },
    Info,
    Down,
}

/// From the keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Answer {
    Done(serde_json::Value),
    Failed(String),
}

/// What a lab is, now. `lab info --json` prints it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Info {
    /// Name of the lab.
    pub name: String,
    /// Its directory.
    pub dir: String,
    /// Process of the keeper.
    pub keeper: u32,
    /// Namespace of the switch, as a path for `nsenter --net=`.
    pub switch_net: String,
    /// Namespace of the clients, likewise.
    pub client_net: String,
    /// Address of the client on the client network.
    pub client_addr: String,
    /// Hosts by name.
    pub hosts: BTreeMap<String, HostInfo>,
    /// Lines that carry nothing.
    pub cuts: Vec<Direction>,
    /// Lines that carry badly.
    pub bad_lines: Vec<(Direction, Quality)>,
    /// Port of this machine's loopback → address behind it.
    pub forwards: BTreeMap<u16, SocketAddr>,
    /// What set-up noted: `console_url`, `api_token`, `ca_file`, `setup_code`, `cluster`, …
    pub notes: BTreeMap<String, serde_json::Value>,
}

/// One host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HostInfo {
    /// `running`, `paused`, `off`.
    pub power: String,
    /// Process 1, as this machine numbers it.
    pub init: Option<i32>,
    /// Namespaces as paths for `nsenter`, by kind.
    pub namespaces: BTreeMap<String, String>,
    /// Addresses by network.
    pub addresses: BTreeMap<String, String>,
    /// Hardware addresses by network.
    pub macs: BTreeMap<String, String>,
    /// Its disk.
    pub image: String,
    /// Directory of the agent's state, inside.
    pub agent_dir: String,
    /// The same as seen from this machine (while it runs).
    pub agent_dir_outside: String,
    /// Logs of its services, on this machine.
    pub logs: String,
    /// Boots so far.
    pub boots: u32,
}

struct Running {
    shim: Child,
    init: i32,
    device: u32,
    is_paused: bool,
}

struct Host {
    env: BTreeMap<String, String>,
    running: Option<Running>,
    boots: u32,
}

struct World {
    places: Places,
    switch: Switch,
    hosts: BTreeMap<String, Host>,
    forwards: BTreeMap<u16, SocketAddr>,
    notes: BTreeMap<String, serde_json::Value>,
}

/// Entry of `tsugi-lab keeper`. Prints `ready` once it listens. With `owned`, the end of standard input (the
/// owner's death included) takes the lab down.
pub fn main(name: &str, owned: bool) -> Result<()> {
    let places = Places::of(name)?;
    let _ = nix::unistd::setsid();
    let socket = places.socket();
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).with_context(|| format!("{}", socket.display()))?;
    let world = World { switch: Switch::new()?, places, hosts: BTreeMap::new(), forwards: BTreeMap::new(), notes: BTreeMap::new() };
    world.save()?;
    let world = Arc::new(Mutex::new(world));
    println!("ready");
    if owned {
        let world = world.clone();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            world.down();
            std::process::exit(0);
        });
    }
    for stream in listener.incoming() {
        let world = world.clone();
        std::thread::spawn(move || {
            if let Ok(stream) = stream
                && let Err(error) = serve(stream, &world)
            {
                eprintln!("tsugi-lab keeper: {error:#}");
            }
        });
    }
    Ok(())
}

fn serve(stream: UnixStream, world: &Mutex<World>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    let order: Order = serde_json::from_str(&line)?;
    let is_down = matches!(order, Order::Down);
    let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let answer = match world.carry_out(order) {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    let sent = (&stream).write_all(text.as_bytes());
    if is_down {
        std::process::exit(0);
    }
    Ok(sent?)
}

impl World {
    fn carry_out(&mut self, order: Order) -> Result<serde_json::Value> {
        let is_question = matches!(order, Order::Info);
        let mut value = serde_json::Value::Null;
        match order {
            Order::AddHost { host, disk_bytes, env } => self.add_host(&host, disk_bytes, env)?,
            Order::SetEnv { host, env } => self.host(&host)?.env = env,
            Order::Boot { host } => self.boot(&host)?,
            Order::Kill { host } => self.kill(&host)?,
            Order::Stop { host } => self.stop(&host)?,
            Order::Pause { host } => self.pause(&host)?,
            Order::Resume { host } => self.resume(&host)?,
            Order::Service { host, service, enabled } => self.service(&host, &service, enabled)?,
            Order::Cut { directions } => self.switch.cut(directions)?,
            Order::Net { direction, quality } => self.switch.make_bad(direction, quality)?,
            Order::Heal => self.switch.heal()?,
            Order::Forward { port, to } => {
                let port = forward::start(&self.switch.client, port, to)?;
                self.forwards.insert(port, to);
                value = port.into();
            }
            Order::Note { key, value } => drop(self.notes.insert(key, value)),
            Order::Info => return Ok(serde_json::to_value(self.info())?),
            Order::Down => {
                self.down();
                return Ok(value);
            }
        }
        if !is_question {
            self.save()?;
        }
        Ok(value)
    }

    fn host(&mut self, host: &str) -> Result<&mut Host> {
        let known: Vec<_> = self.hosts.keys().cloned().collect();
        self.hosts.get_mut(host).with_context(|| format!("this lab has no host `{host}`; it has {}", known.join(", ")))
    }

    fn running(&mut self, host: &str) -> Result<&mut Running> {
        let running = self.host(host)?.running.as_mut();
        running.with_context(|| format!("{host} is off: `lab boot {host}` starts it"))
    }

    fn add_host(&mut self, host: &str, disk_bytes: u64, env: BTreeMap<String, String>) -> Result<()> {
        number_of(host)?;
        if host == CLIENT || self.hosts.contains_key(host) {
            bail!("`{host}` cannot be added: the lab has it already");
        }
        let dir = self.places.host(host);
        std::fs::create_dir_all(dir.join("root"))?;
        disk::format(&dir.join("disk.img"), disk_bytes)?;
        self.hosts.insert(host.to_owned(), Host { env, running: None, boots: 0 });
        Ok(())
    }

    fn boot(&mut self, host: &str) -> Result<()> {
        let dir = self.places.host(host);
        let env = {
            let known = self.host(host)?;
            // A host that ended by itself (its process 1 died) is off.
            if let Some(running) = &mut known.running
                && running.shim.try_wait()?.is_none()
            {
                bail!("{host} runs already");
            }
            known.running = None;
            known.env.clone()
        };
        let device = disk::attach(&dir.join("disk.img"))?;
        let config = HostConfig {
            host: host.to_owned(),
            device: device.path.clone(),
            dir: dir.clone(),
            bin_dir: bin_dir()?,
            env,
            services: services_of(host),
        };
        let path = dir.join("host.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        let running = self.start_init(host, &path, &device)?;
        let known = self.host(host)?;
        known.running = Some(running);
        known.boots += 1;
        Ok(())
    }

    fn start_init(&mut self, host: &str, config: &Path, device: &LoopDevice) -> Result<Running> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.places.host(host).join("init.log"))?;
        let mut shim = Command::new("/proc/self/exe")
            .arg("host-init")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("process 1 of the host cannot be started")?;
        let result = self.bring_up(host, &mut shim);
        match result {
            Ok(init) => Ok(Running { shim, init, device: device.number(), is_paused: false }),
            Err(error) => {
                let _ = shim.kill();
                let _ = shim.wait();
                let _ = self.switch.unplug(host);
                Err(error.context(format!("{host} does not boot")))
            }
        }
    }

    fn bring_up(&mut self, host: &str, shim: &mut Child) -> Result<i32> {
        let out = shim.stdout.take().context("no output of process 1")?;
        let (say, hear) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        let line = hear.recv_timeout(BOOT_BOUND).context("process 1 says nothing")?;
        let pid: i32 = line.strip_prefix("pid ").and_then(|p| p.parse().ok()).with_context(|| line.clone())?;
        self.switch.plug(host, &ns::net_of(pid)?, &Network::ALL)?;
        if let Some(stdin) = shim.stdin.as_mut() {
            stdin.write_all(b"1")?;
        }
        match hear.recv_timeout(BOOT_BOUND).context("process 1 does not come to an end with its set-up")?.as_str() {
            "ready" => Ok(pid),
            other => bail!("{other}"),
        }
    }

    /// Power off: in this order, so that nothing the host does on its way out reaches anybody or its disk.
    fn kill(&mut self, host: &str) -> Result<()> {
        self.running(host)?;
        self.switch.links_down(host)?;
        let image = self.places.host(host).join("disk.img");
        let running = self.running(host)?;
        let init = Pid::from_raw(running.init);
        if !disk_of(running.init).exists() {
            bail!("{host} has no disk any more: its process 1 ended by itself (see its init.log)");
        }
        disk::power_off(&disk_of(running.init))?;
        kill(init, Signal::SIGKILL)?;
        let (device, begin) = (running.device, Instant::now());
        while running.shim.try_wait()?.is_none() {
            if begin.elapsed() > KILL_BOUND {
                bail!(
                    "a process of {host} does not die within {KILL_BOUND:?} (state of process 1: {:?})",
                    ns::process_state(init.as_raw())
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.gone(host, device, &image)
    }

    fn stop(&mut self, host: &str) -> Result<()> {
        let image = self.places.host(host).join("disk.img");
        let running = self.running(host)?;
        if running.is_paused {
            bail!("{host} is paused: `lab resume {host}` first, or `lab kill {host}`");
        }
        kill(Pid::from_raw(running.init), Signal::SIGTERM)?;
        let (device, begin) = (running.device, Instant::now());
        while running.shim.try_wait()?.is_none() {
            if begin.elapsed() > STOP_BOUND {
                bail!("{host} does not stop within {STOP_BOUND:?}: `lab kill {host}` pulls its plug");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.gone(host, device, &image)
    }

    fn gone(&mut self, host: &str, device: u32, image: &Path) -> Result<()> {
        self.host(host)?.running = None;
        self.switch.unplug(host)?;
        disk::wait_detached(device, image)
    }

    fn pause(&mut self, host: &str) -> Result<()> {
        let running = self.running(host)?;
        // A process may start another between our look and its stop: until nobody runs.
        for _ in 0..PAUSE_ROUNDS_MAX {
            let pids = ns::processes_of(running.init)?;
            let mut is_quiet = true;
            for pid in pids {
                if !matches!(ns::process_state(pid), Some('T' | 'Z' | 'X') | None) {
                    is_quiet = false;
                    let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
                }
            }
            if is_quiet {
                running.is_paused = true;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("a process of {host} cannot be stopped: it hangs in the kernel")
    }

    fn resume(&mut self, host: &str) -> Result<()> {
        let running = self.running(host)?;
        for pid in ns::processes_of(running.init)? {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        running.is_paused = false;
        Ok(())
    }

    fn service(&mut self, host: &str, service: &str, enabled: bool) -> Result<()> {
        let running = self.running(host)?;
        let dir = disk_of(running.init).join("lab");
        let flag = dir.join(format!("{service}.enabled"));
        if enabled {
            std::fs::File::create(&flag)?.sync_all()?;
        } else if flag.exists() {
            std::fs::remove_file(&flag)?;
        }
        std::fs::File::open(&dir)?.sync_all()?;
        kill(Pid::from_raw(running.init), Signal::SIGHUP)?;
        Ok(())
    }

    fn down(&mut self) {
        for (name, host) in &mut self.hosts {
            if let Some(mut running) = host.running.take() {
                let _ = disk::power_off(&disk_of(running.init));
                let _ = kill(Pid::from_raw(running.init), Signal::SIGKILL);
                let _ = running.shim.wait();
                let _ = disk::wait_detached(running.device, &self.places.host(name).join("disk.img"));
            }
        }
        if let Err(error) = remove_dir(&self.places.dir) {
            eprintln!("tsugi-lab keeper: {}: {error:#}", self.places.dir.display());
        }
    }

    fn info(&mut self) -> Info {
        let own = std::process::id();
        let fd = |fd: &std::os::fd::OwnedFd| format!("/proc/{own}/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        let (cuts, bad_lines) = self.switch.faults();
        let mut info = Info {
            name: self.places.name.clone(),
            dir: self.places.dir.display().to_string(),
            keeper: own,
            switch_net: fd(&self.switch.net),
            client_net: fd(&self.switch.client),
            client_addr: Network::Client.addr(1).to_string(),
            cuts,
            bad_lines,
            forwards: self.forwards.clone(),
            notes: self.notes.clone(),
            ..Info::default()
        };
        for (name, host) in &mut self.hosts {
            let number = number_of(name).unwrap_or_default();
            let is_alive = host.running.as_mut().is_some_and(|r| r.shim.try_wait().is_ok_and(|s| s.is_none()));
            let running = host.running.as_ref().filter(|_| is_alive);
            let mut one = HostInfo {
                power: running.map_or("off", |r| if r.is_paused { "paused" } else { "running" }).to_owned(),
                init: running.map(|r| r.init),
                image: self.places.host(name).join("disk.img").display().to_string(),
                agent_dir: if name == CONSOLE { "/var/lib/tsugi-server" } else { "/var/lib/tsugi" }.to_owned(),
                logs: self.places.host(name).display().to_string(),
                boots: host.boots,
                ..HostInfo::default()
            };
            for network in Network::ALL {
                one.addresses.insert(network.word().to_owned(), network.addr(number).to_string());
                one.macs.insert(network.word().to_owned(), network.mac(number));
            }
            if let Some(init) = one.init {
                for kind in ["net", "mnt", "pid", "uts", "ipc"] {
                    one.namespaces.insert(kind.to_owned(), format!("/proc/{init}/ns/{kind}"));
                }
                one.agent_dir_outside = format!("/proc/{init}/root{}", one.agent_dir);
            }
            info.hosts.insert(name.clone(), one);
        }
        info
    }

    /// After a crash `lab info` and `lab down` find here what there was.
    fn save(&self) -> Result<()> {
        let mut hosts = BTreeMap::new();
        for (name, host) in &self.hosts {
            hosts.insert(name.clone(), host.running.as_ref().map(|r| r.init));
        }
        let state = serde_json::json!({"name": self.places.name, "keeper": std::process::id(), "inits": hosts, "notes": self.notes});
        let path = self.places.state();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(&state)?)?;
        std::fs::rename(&fresh, &path)?;
        Ok(())
    }
}

fn disk_of(init: i32) -> std::path::PathBuf {
    std::path::PathBuf::from(format!("/proc/{init}/root/srv/host"))
}

fn services_of(host: &str) -> Vec<ServiceConfig> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    if host == CONSOLE {
        let names = format!("127.0.0.1,localhost,{},{}", Network::Client.addr(10), Network::Private.addr(10));
        let argv = format!(
            "tsugi-server run --data /var/lib/tsugi-server --listen 0.0.0.0:{CONSOLE_PORT} --agents 0.0.0.0:{AGENTS_PORT} --name {names}"
        );
        return vec![ServiceConfig { name: "server".into(), argv: words(argv) }];
    }
    vec![ServiceConfig { name: "agent".into(), argv: words("tsugi-agent run".into()) }]
}

/// Removes a lab's directory, whatever a crash left in it.
pub fn remove_dir(dir: &Path) -> Result<()> {
    super::groups::remove(dir);
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("{}", dir.display())),
        _ => Ok(()),
    }
}
