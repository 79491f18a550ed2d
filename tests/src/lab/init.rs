//! What runs as process 1 of a host: it builds the host's view of the machine, then keeps its services running
//! as systemd would.
//!
//! `tsugi-lab host-init CONFIG` is two processes. The outer one stays in the machine's namespaces, is the
//! keeper's child, and kills the host when the keeper goes away; the inner one is the host's process 1. They
//! tell the keeper on standard output: `pid N` when the namespaces exist (the keeper then plugs in the
//! networks and answers `go`), `ready` when services may run.

use super::names::BIN_IN_HOST;
use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, setsid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As `RestartSec=` of the agent's unit.
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// How long a service may take to end when the host is stopped in order.
const STOP_BOUND: Duration = Duration::from_secs(60);
/// How long what is left may take after the services have ended.
const LEFTOVER_BOUND: Duration = Duration::from_secs(2);
/// Enabled services are looked for this often; `SIGHUP` makes it at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Everything process 1 must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostConfig {
    /// Host name.
    pub host: String,
    /// Device of its disk.
    pub device: PathBuf,
    /// Directory outside of the disk for logs and the mount point of the root.
    pub dir: PathBuf,
    /// Binaries under test.
    pub bin_dir: PathBuf,
    /// Extra environment of the services and of `lab exec`.
    pub env: BTreeMap<String, String>,
    /// Services, in order of start.
    pub services: Vec<ServiceConfig>,
}

/// A program that is restarted when it ends, while `/srv/host/lab/NAME.enabled` exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// `agent`, `server`.
    pub name: String,
    /// The documented command.
    pub argv: Vec<String>,
}

/// Environment inside a host.
pub fn host_env(config_env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), format!("{BIN_IN_HOST}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        ("HOME".to_owned(), "/root".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.extend(config_env.clone());
    env
}

/// Entry of `tsugi-lab host-init`.
pub fn main(config: &Path) -> Result<()> {
    let text = std::fs::read(config).with_context(|| format!("{}", config.display()))?;
    let config: HostConfig = serde_json::from_slice(&text)?;
    // A group of its own: Ctrl-C at the terminal must not reach hosts; the keeper takes them down in order.
    let _ = setsid();
    unshare(CloneFlags::CLONE_NEWPID).context("no PID namespace can be made: this needs root")?;
    let (made_read, made_write) = pipe()?;
    let (go_read, go_write) = pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((made_read, go_write));
            let result = first_process(&config, made_write, go_read);
            if let Err(error) = &result {
                println!("error {}", format!("{error:#}").replace('\n', " "));
            }
            std::process::exit(i32::from(result.is_err()));
        }
        ForkResult::Parent { child } => {
            drop((made_write, go_read));
            watch(child, made_read, go_write)
        }
    }
}

/// The outer process.
fn watch(child: Pid, made: OwnedFd, go: OwnedFd) -> Result<()> {
    let mut byte = [0u8; 1];
    if File::from(made).read(&mut byte)? == 1 {
        println!("pid {child}");
        if std::io::stdin().read(&mut byte)? == 1 {
            File::from(go).write_all(&byte)?;
        }
    }
    // SAFETY: plain system call; the descriptor is owned from here on.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) as i32;
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("pidfd_open");
        }
        OwnedFd::from_raw_fd(fd)
    };
    loop {
        let mut fds = [
            libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: the array is valid for the length given.
        let rc = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        if rc < 0 {
            continue;
        }
        if fds[0].revents != 0 {
            let _ = waitpid(child, None);
            return Ok(());
        }
        // The keeper writes nothing after `go`: anything here is its end.
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
        return Ok(());
    }
}

/// The inner process: process 1 of the host.
fn first_process(config: &HostConfig, made: OwnedFd, go: OwnedFd) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let _ = setsid();
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .context("the host's namespaces cannot be made")?;
    File::from(made).write_all(b"1")?;
    let mut byte = [0u8; 1];
    if File::from(go).read(&mut byte)? == 0 {
        bail!("the keeper went away");
    }
    let mut services = Vec::new();
    for service in &config.services {
        let path = config.dir.join(format!("{}.log", service.name));
        let log = OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("{}", path.display()))?;
        services.push(Service { config: service.clone(), log, pid: None, start_at: Instant::now() });
    }
    build_root(config)?;
    // SAFETY: the pointer and length describe the same string.
    if unsafe { libc::sethostname(config.host.as_ptr().cast(), config.host.len()) } != 0 {
        return Err(std::io::Error::last_os_error()).context("sethostname");
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        signals.add(signal);
    }
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    early(config);
    println!("ready");
    supervise(config, &mut services, &signals)
}

/// What `tsugi-hold.service` does on a Debian server.
fn early(config: &HostConfig) {
    if Path::new("/var/lib/tsugi/modules").is_dir() {
        let log = OpenOptions::new().create(true).append(true).open("/srv/host/lab/hold.log");
        let mut command = Command::new(Path::new(BIN_IN_HOST).join("tsugi-agent"));
        command.arg("hold").env_clear().envs(host_env(&config.env)).stdin(Stdio::null()).stdout(Stdio::null());
        if let Ok(log) = log {
            command.stderr(log);
        }
        let _ = command.status();
    }
}

const NO_SOURCE: Option<&str> = None;

fn mount_at(source: Option<&str>, target: &Path, kind: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("{}", target.display()))?;
    mount(source, target, kind, flags, data)
        .with_context(|| format!("mounting {} ({})", target.display(), kind.or(source).unwrap_or_default()))
}

/// The host sees the machine's programs, its own disk, and nothing the machine does afterwards. What it writes
/// outside of its disk is in memory and gone at power off.
fn build_root(config: &HostConfig) -> Result<()> {
    let none = MsFlags::empty();
    mount(NO_SOURCE, "/", NO_SOURCE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NO_SOURCE).context("making mounts private")?;
    let others = other_file_systems()?;
    let base = config.dir.join("root");
    mount_at(Some("tmpfs"), &base, Some("tmpfs"), none, Some("mode=0755"))?;
    let (up, work, root) = (base.join("up"), base.join("work"), base.join("root"));
    for dir in [&up, &work] {
        std::fs::create_dir(dir)?;
    }
    let layers = format!("lowerdir=/,upperdir={},workdir={}", up.display(), work.display());
    mount_at(Some("overlay"), &root, Some("overlay"), none, Some(&layers))
        .context("the kernel needs overlay file systems (`modprobe overlay`)")?;
    for dir in others {
        let inside = root.join(dir.strip_prefix("/").unwrap_or(&dir));
        if inside.is_dir() {
            mount_at(Some(&dir.display().to_string()), &inside, NO_SOURCE, MsFlags::MS_BIND, NO_SOURCE)?;
        }
    }
    mount_at(Some("proc"), &root.join("proc"), Some("proc"), none, NO_SOURCE)?;
    mount_at(Some("sysfs"), &root.join("sys"), Some("sysfs"), none, NO_SOURCE)?;
    super::groups::bind(&root, &config.dir)?;
    for (dir, mode) in [("run", "mode=0755"), ("tmp", "mode=1777"), ("dev", "mode=0755")] {
        mount_at(Some("tmpfs"), &root.join(dir), Some("tmpfs"), none, Some(mode))?;
    }
    fill_dev(&root.join("dev"))?;
    let bin = root.join(BIN_IN_HOST.trim_start_matches('/'));
    mount_at(Some(&config.bin_dir.display().to_string()), &bin, NO_SOURCE, MsFlags::MS_BIND, NO_SOURCE)?;
    make_run(&root.join("run"));
    install(&config.bin_dir, &root.join("usr/bin"))?;

    let disk = root.join("srv/host");
    mount_at(Some(&config.device.display().to_string()), &disk, Some("ext4"), MsFlags::MS_NOATIME, NO_SOURCE)?;
    for (inside, place) in [("data", "srv/data"), ("tsugi", "var/lib/tsugi"), ("tsugi-server", "var/lib/tsugi-server")] {
        std::fs::create_dir_all(disk.join(inside))?;
        let source = disk.join(inside).display().to_string();
        mount_at(Some(&source), &root.join(place), NO_SOURCE, MsFlags::MS_BIND, NO_SOURCE)?;
    }
    std::fs::create_dir_all(disk.join("lab"))?;

    std::env::set_current_dir(&root)?;
    nix::unistd::pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leaving the machine's root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Mount points of the machine's other disk file systems (`/usr`, `/home` of their own, …): programs or this
/// repository may be on them. Not loop devices: those are others' tests, and holding them would disturb them.
fn other_file_systems() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(target), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        let source = right.split(' ').nth(1).unwrap_or_default();
        let is_disk = ["ext4", "ext3", "xfs", "btrfs", "zfs", "f2fs", "virtiofs", "9p", "overlay"].contains(&kind);
        let is_apart = ["/proc", "/sys", "/dev", "/run", "/tmp", "/srv", "/var/lib/tsugi", "/var/lib/docker", "/boot"]
            .iter()
            .any(|dir| Path::new(target).starts_with(dir));
        if is_disk && target != "/" && !is_apart && !source.starts_with("/dev/loop") && !target.contains('\\') {
            found.push(PathBuf::from(target));
        }
    }
    Ok(found)
}

fn fill_dev(dev: &Path) -> Result<()> {
    let mode = Mode::from_bits_truncate(0o666);
    let nodes = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0), ("fuse", 10, 229)];
    let old = nix::sys::stat::umask(Mode::empty());
    for (name, major, minor) in nodes {
        mknod(&dev.join(name), SFlag::S_IFCHR, mode, makedev(major, minor)).with_context(|| format!("mknod {name}"))?;
    }
    std::fs::create_dir(dev.join("net"))?;
    mknod(&dev.join("net/tun"), SFlag::S_IFCHR, mode, makedev(10, 200))?;
    nix::sys::stat::umask(old);
    mount_at(Some("devpts"), &dev.join("pts"), Some("devpts"), MsFlags::empty(), Some("newinstance,ptmxmode=0666,mode=0620"))?;
    mount_at(Some("tmpfs"), &dev.join("shm"), Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))?;
    for (link, target) in [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(target, dev.join(link))?;
    }
    Ok(())
}

/// Where the packages put them: scripts of modules find programs only on the usual path.
fn install(bin_dir: &Path, usr_bin: &Path) -> Result<()> {
    for name in ["tsugi-agent", "tsugi-server", "tsugi", "tsugi-ledger"] {
        if bin_dir.join(name).exists() {
            let link = usr_bin.join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(Path::new(BIN_IN_HOST).join(name), &link).with_context(|| format!("{}", link.display()))?;
        }
    }
    Ok(())
}

/// What systemd-tmpfiles makes at boot on a Debian server for the packages we use.
fn make_run(run: &Path) {
    let _ = std::fs::create_dir_all(run.join("lock"));
    if let Ok(Some(user)) = nix::unistd::User::from_name("postgres") {
        let dir = run.join("postgresql");
        if std::fs::create_dir(&dir).is_ok() {
            let _ = nix::unistd::chown(&dir, Some(user.uid), Some(user.gid));
        }
    }
}

struct Service {
    config: ServiceConfig,
    log: File,
    pid: Option<Pid>,
    start_at: Instant,
}

impl Service {
    fn is_enabled(&self) -> bool {
        Path::new("/srv/host/lab").join(format!("{}.enabled", self.config.name)).exists()
    }

    fn start(&mut self, env: &BTreeMap<String, String>) {
        let (Some(program), args) = (self.config.argv.first(), &self.config.argv[1..]) else { return };
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(env).current_dir("/").stdin(Stdio::null());
        if let (Ok(out), Ok(err)) = (self.log.try_clone(), self.log.try_clone()) {
            command.stdout(out).stderr(err);
        }
        // SAFETY: between fork and exec only `setsid` and `sigprocmask` are called.
        unsafe {
            command.pre_exec(|| {
                let _ = setsid();
                pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(std::io::Error::from)
            });
        }
        match command.spawn() {
            Ok(child) => self.pid = Some(Pid::from_raw(child.id() as i32)),
            Err(error) => {
                let _ = writeln!(self.log, "tsugi-lab: {program} cannot be started: {error}");
                self.start_at = Instant::now() + RESTART_AFTER;
            }
        }
    }
}

fn supervise(config: &HostConfig, services: &mut [Service], signals: &SigSet) -> Result<()> {
    let env = host_env(&config.env);
    loop {
        let now = Instant::now();
        for service in services.iter_mut() {
            match (service.pid, service.is_enabled()) {
                (None, true) if service.start_at <= now => service.start(&env),
                (Some(pid), false) => drop(kill(pid, Signal::SIGTERM)),
                _ => {}
            }
        }
        let due = services.iter().filter(|s| s.pid.is_none() && s.start_at > now).map(|s| s.start_at - now).min();
        let signal = wait_signal(signals, due.unwrap_or(LOOK_EVERY).min(LOOK_EVERY))?;
        reap(services);
        if matches!(signal, Some(libc::SIGTERM | libc::SIGINT)) {
            return stop(services, signals);
        }
    }
}

fn wait_signal(signals: &SigSet, bound: Duration) -> Result<Option<i32>> {
    let bound = libc::timespec { tv_sec: bound.as_secs() as _, tv_nsec: bound.subsec_nanos() as _ };
    // SAFETY: set and time are valid; no information is asked for.
    let rc = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &bound) };
    Ok((rc > 0).then_some(rc))
}

fn reap(services: &mut [Service]) {
    loop {
        let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("ended with status {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("was killed by {signal}")),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => continue,
        };
        if let Some(service) = services.iter_mut().find(|s| s.pid == Some(pid)) {
            service.pid = None;
            service.start_at = Instant::now() + RESTART_AFTER;
            let _ = writeln!(service.log, "tsugi-lab: {} {how}", service.config.name);
        }
    }
}

/// Orderly power down: services, then everybody else, then the disks.
fn stop(services: &mut [Service], signals: &SigSet) -> Result<()> {
    for service in services.iter() {
        if let Some(pid) = service.pid {
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
    let until = Instant::now() + STOP_BOUND;
    while services.iter().any(|s| s.pid.is_some()) && Instant::now() < until {
        wait_signal(signals, Duration::from_millis(200))?;
        reap(services);
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let until = Instant::now() + LEFTOVER_BOUND;
        let _ = kill(Pid::from_raw(-1), signal);
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok() && Instant::now() < until {
            wait_signal(signals, Duration::from_millis(20))?;
        }
    }
    nix::unistd::sync();
    Ok(())
}
