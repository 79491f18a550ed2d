//! Namespaces: making network namespaces, working in them, and finding the processes of a PID namespace.

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// A new network namespace that lives as long as the descriptor.
pub fn new_net() -> Result<OwnedFd> {
    // `unshare` changes the calling thread only, so it is given a thread of its own.
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("no network namespace can be made: this needs root and a kernel with network namespaces")?;
        Ok(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
    })
}

/// The network namespace of a process.
pub fn net_of(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/net");
    Ok(OwnedFd::from(File::open(&path).with_context(|| format!("{path}: the process is gone"))?))
}

/// Runs `work` on a thread that is in `net`.
pub fn within<T: Send + 'static>(net: &OwnedFd, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let net = net.try_clone()?;
    in_thread(move || {
        enter(&net)?;
        work()
    })
}

/// Moves the calling thread into `net`.
pub fn enter(net: &OwnedFd) -> Result<()> {
    setns(net, CloneFlags::CLONE_NEWNET).context("the network namespace cannot be entered (root is needed)")
}

fn in_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match std::thread::spawn(work).join() {
        Ok(result) => result,
        Err(_) => bail!("a helper thread panicked"),
    }
}

/// Runs a program in `net`, with `input`; its output, or an error that carries what it complained of.
pub fn run_in(net: &OwnedFd, program: &str, args: &[&str], input: &str) -> Result<String> {
    let raw = net.as_raw_fd();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only `setns` is called, on a descriptor that `net` keeps open.
    unsafe {
        command.pre_exec(move || {
            let fd = BorrowedFd::borrow_raw(raw);
            setns(fd, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
        });
    }
    let mut child =
        command.spawn().with_context(|| format!("`{program}` cannot be run; Debian has it in iproute2 (ip) or nftables (nft)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{program} {}` failed: {}{}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim(), {
            if input.is_empty() { String::new() } else { format!("\ninput was:\n{input}") }
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `ip -batch` in `net`.
pub fn ip_batch(net: &OwnedFd, lines: &str) -> Result<()> {
    run_in(net, "ip", &["-batch", "-"], lines).map(drop)
}

/// A program started by one that waits for signals itself must not inherit that.
pub fn with_no_signal_blocked(command: &mut Command) {
    // SAFETY: between fork and exec only `sigprocmask` is called.
    unsafe {
        command.pre_exec(|| nix::sys::signal::SigSet::empty().thread_set_mask().map_err(std::io::Error::from));
    }
}

/// Every process of the PID namespace that `init` is the first process of, `init` first. Threads not listed.
pub fn processes_of(init: i32) -> Result<Vec<i32>> {
    let own = std::fs::read_link(format!("/proc/{init}/ns/pid")).context("the host's init is gone")?;
    let mut pids = vec![init];
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process may end while we look: then it is not one of those that run.
        if pid != init && std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == own) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The letter of a process's state (`R`, `S`, `T`, …); `None` if it is gone.
pub fn process_state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
