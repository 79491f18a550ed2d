//! A host's disk: an ext4 image on a loop device, and the plug that is pulled out of it.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// Stop at once; what is in the log but not written is lost, as when the power goes.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;
/// Another program may take the free device between our question and our use of it.
const LOOP_TRIES_MAX: u32 = 50;
/// A device is released by the kernel some time after its last user; far longer means that it is still in use.
const DETACH_BOUND: Duration = Duration::from_secs(20);

/// Makes a sparse image with an empty ext4.
pub fn format(image: &Path, size_bytes: u64) -> Result<()> {
    let args = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
    make(image, size_bytes, "mkfs.ext4", &args, "e2fsprogs")
}

/// Makes a sparse image with an empty btrfs: the file system whose quotas every kernel has, and which bind root too.
pub fn format_with_quotas(image: &Path, size_bytes: u64) -> Result<()> {
    make(image, size_bytes, "mkfs.btrfs", &["--quiet", "--metadata", "single", "--data", "single"], "btrfs-progs")
}

fn make(image: &Path, size_bytes: u64, program: &str, args: &[&str], package: &str) -> Result<()> {
    File::create(image)?.set_len(size_bytes)?;
    let output = Command::new(program)
        .args(args)
        .arg(image)
        .output()
        .with_context(|| format!("{program} cannot be run; Debian has it in {package}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", image.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A loop device over an image. It is released when the last of this value and its mounts is gone.
#[derive(Debug)]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub path: PathBuf,
    number: u32,
    _open: OwnedFd,
}

/// Attaches `image` to a free loop device.
pub fn attach(image: &Path) -> Result<LoopDevice> {
    let backing = OpenOptions::new().read(true).write(true).open(image).with_context(|| format!("{}", image.display()))?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .context("/dev/loop-control: the kernel needs loop devices (`modprobe loop`)")?;
    for _ in 0..LOOP_TRIES_MAX {
        // SAFETY: the ioctl takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(std::io::Error::last_os_error()).context("no free loop device");
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        if !path.exists() {
            make_node(&path, number as u32)?;
        }
        let device = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(device) => device,
            Err(_) => continue,
        };
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = backing.as_raw_fd() as u32;
        config.info.flags = LO_FLAGS_AUTOCLEAR;
        let name = image.as_os_str().as_encoded_bytes();
        let shown = &name[..name.len().min(63)];
        config.info.file_name[..shown.len()].copy_from_slice(shown);
        // SAFETY: `config` is a valid structure of the kernel's layout and outlives the call.
        let rc = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) };
        if rc == 0 {
            return Ok(LoopDevice { path, number: number as u32, _open: OwnedFd::from(device) });
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error).with_context(|| format!("{} cannot take {}", path.display(), image.display()));
        }
    }
    bail!("no loop device could be had in {LOOP_TRIES_MAX} tries: others take them as fast (`losetup -a` shows them)")
}

fn make_node(path: &Path, number: u32) -> Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    match mknod(path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), makedev(7, u64::from(number))) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("mknod {}", path.display())),
    }
}

impl LoopDevice {
    /// Number to wait for with [`wait_detached`] after this value is dropped.
    pub fn number(&self) -> u32 {
        self.number
    }
}

/// Waits until loop device `number` no longer holds `image`.
pub fn wait_detached(number: u32, image: &Path) -> Result<()> {
    let shown = PathBuf::from(format!("/sys/block/loop{number}/loop/backing_file"));
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let backing = std::fs::read_to_string(&shown).unwrap_or_default();
        if Path::new(backing.trim_end_matches(" (deleted)\n").trim_end()) != image {
            return Ok(());
        }
        if begin.elapsed() > DETACH_BOUND {
            bail!("/dev/loop{number} still holds {} after {DETACH_BOUND:?}: something outside the host uses its disk", image.display());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Pulls the plug of the file system mounted at `dir`: nothing more reaches its device, neither data nor log.
pub fn power_off(dir: &Path) -> Result<()> {
    let open = File::open(dir).with_context(|| format!("{}", dir.display()))?;
    let flags: u32 = EXT4_GOING_FLAGS_NOLOGFLUSH;
    // SAFETY: the ioctl reads one 32-bit number, which outlives the call.
    let rc = unsafe { libc::ioctl(open.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &flags) };
    if rc != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("EXT4_IOC_SHUTDOWN on {}", dir.display()));
    }
    Ok(())
}

/// Runs a shell line in the root of an image that nobody uses: what a person with the disk in another machine might do.
pub fn edit(image: &Path, line: &str) -> Result<()> {
    let device = attach(image)?;
    let place = tempfile::tempdir()?;
    // Mounts of its own: whatever becomes of the line, nothing stays mounted.
    let script = "mount -t ext4 \"$1\" \"$2\" && cd \"$2\" && eval \"$3\" && sync -f .";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(&device.path)
        .arg(place.path())
        .arg(line)
        .output()
        .context("unshare (Debian: util-linux) cannot be run")?;
    if !output.status.success() {
        bail!("in {}: `{line}`: {}", image.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let number = device.number();
    drop(device);
    wait_detached(number, image)
}

/// Copies an image that nobody uses; only what is written in it takes room.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp").arg("--sparse=always").args([from, to]).output().context("cp cannot be run")?;
    if !output.status.success() {
        bail!("{} cannot be copied: {}", from.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
