//! A pair that replicates a directory and runs no application: what is done in the directory is the test's own.

use crate::api::{ALONE, Api, ModuleView, PRIM, SECOND};
use crate::check::{keep_logs, modules_dir};
use crate::lab::names::VIP;
use crate::lab::{Lab, Plan};
use crate::setup::{self, CLUSTER};
use crate::trees;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Name of the module.
pub const MODULE: &str = "mirror";
/// The replicated directory, as the application sees it.
pub const DIR: &str = "/srv/data/files";
/// The same beside whatever is mounted over it.
const RAW: &str = "/srv/host/data/files";
/// A directory of the same disk that is not replicated.
pub const NATIVE: &str = "/srv/host/native";
/// Start, take-over, and being brought level.
const BOUND: Duration = Duration::from_secs(180);

/// n1 and n2 with a console, the module on both.
pub struct Files {
    /// Hosts and switches.
    pub lab: Lab,
    /// The console.
    pub api: Api,
}

impl Files {
    /// n1 PRIM, n2 SECOND; disks of `disk_bytes`. `edit` may change the shipped configuration.
    pub fn start(lab: &str, disk_bytes: u64, edit: impl Fn(String) -> String) -> Result<Files> {
        Self::start_with(lab, Plan { disk_bytes, ..Plan::default() }, edit)
    }

    /// The same, the lab otherwise as in a plan.
    pub fn start_with(lab: &str, plan: Plan, edit: impl Fn(String) -> String) -> Result<Files> {
        let lab = Lab::start(lab, &Plan { hosts: 2, console: true, ..plan })?;
        let api = setup::set_up(&lab)?;
        for host in ["n1", "n2"] {
            lab.sh(host, &format!("mkdir -p {DIR} {NATIVE} && sync {DIR}"))?;
        }
        let mut files = setup::read_module(&modules_dir().join(MODULE), &[("DIR", DIR), ("VIP", &VIP.to_string())])?;
        files.userconfig = edit(files.userconfig);
        setup::apply_module(&api, MODULE, &["n1", "n2"], &files)?;
        let pair = Files { lab, api };
        pair.api.action(CLUSTER, MODULE, "prim", Some("n1"))?;
        pair.wait("n1 serves", |v| v.state("n1") == ALONE)?;
        pair.api.action(CLUSTER, MODULE, "start", Some("n2"))?;
        pair.wait_roles("n1", "n2")?;
        Ok(pair)
    }

    /// The same, with the kernel's requests over the device whatever it offers.
    pub fn start_over_device(lab: &str, disk_bytes: u64) -> Result<Files> {
        let env = [("TSUGI_FUSE_TRANSPORT".to_owned(), "device".to_owned())].into();
        Self::start_with(lab, Plan { disk_bytes, env, ..Plan::default() }, |c| c)
    }

    /// Whether `host`, which serves, gets the kernel's requests over io_uring.
    pub fn is_over_io_uring(&self, host: &str) -> Result<bool> {
        Ok(self.lab.sh(host, &format!("tsugi rfs status -m {MODULE} --json"))?.contains("\"io_uring\""))
    }

    /// Waits for something of the module.
    pub fn wait(&self, what: &str, is_so: impl Fn(&ModuleView) -> bool) -> Result<ModuleView> {
        self.api.wait_module(CLUSTER, MODULE, what, BOUND, is_so)
    }

    /// Waits until one is PRIM and the other SECOND.
    pub fn wait_roles(&self, prim: &str, second: &str) -> Result<()> {
        self.wait(&format!("{prim} PRIM and {second} SECOND"), |v| v.state(prim) == PRIM && v.state(second) == SECOND).map(drop)
    }

    /// Waits until `host` serves alone.
    pub fn wait_alone(&self, host: &str) -> Result<()> {
        self.wait(&format!("{host} ALONE"), |v| v.state(host) == ALONE).map(drop)
    }

    /// A path on this machine: the replicated directory as the application on `host` sees it.
    pub fn seen(&self, host: &str) -> Result<PathBuf> {
        self.lab.path_in(host, DIR)
    }

    /// The copy on `host`'s own disk.
    pub fn raw(&self, host: &str) -> Result<PathBuf> {
        self.lab.path_in(host, RAW)
    }

    /// A directory of `host`'s disk that is not replicated.
    pub fn native(&self, host: &str) -> Result<PathBuf> {
        self.lab.path_in(host, NATIVE)
    }

    /// Waits until the two copies are equal, or says what differs; number of objects.
    pub fn wait_equal(&self, prim: &str, second: &str) -> Result<usize> {
        let equal = trees::wait_equal(&self.raw(prim)?, &self.raw(second)?, Duration::from_secs(20));
        equal.with_context(|| format!("the copies on {prim} and {second}"))
    }

    /// Keeps the logs of all hosts in the system's temporary directory.
    pub fn keep_logs(&self) {
        keep_logs(&self.lab);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}
