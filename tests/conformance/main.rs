//! What applications may do with files: the mount behaves as the disk below it, and the peer has the same.
//!
//! Needs root, and the programs `pjdfstest` and `fsx`, which `./dev test` installs from crates.io.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

mod copies;
mod day;
mod fsx;
mod pjdfstest;
mod posix;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lab keeps both processors busy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Disk of each host.
const DISK_BYTES: u64 = 2 << 30;

fn is_long() -> bool {
    std::env::var("TSUGI_LONG").is_ok_and(|name| name == "conformance")
}

/// A program of `target/tools/bin`.
fn tool(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().find(|dir| dir.file_name().is_some_and(|n| n == "target"));
    let path = target.map(|t| t.join("tools/bin").join(name)).filter(|p| p.exists());
    path.unwrap_or_else(|| panic!("{name} is not in target/tools/bin; `./dev test conformance` puts it there"))
}
