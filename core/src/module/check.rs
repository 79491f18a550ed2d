//! What is watched, how, and when it counts as down.

use super::Action;
use crate::ids::{ModuleName, NodeName};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// In which phase a checker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// From start to stop of the module, in every state.
    Pre,
    /// While the application runs as primary.
    Prim,
    /// While it follows.
    Second,
    /// In both.
    Both,
    /// While its class is switched on (`tsugi errd enable CLASS`), in every state but STOP.
    Switched,
}

/// How another module must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Green in any role: PRIM, ALONE, SECOND or UP.
    #[default]
    Up,
    /// Its application runs: PRIM, ALONE or UP, green.
    Prim,
    /// SECOND, green.
    Second,
}

impl Standing {
    /// As written in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Prim => "prim",
            Standing::Second => "second",
        }
    }
}

/// Which interface of this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// The one of this name.
    Name(String),
    /// The one with this address.
    Local(IpAddr),
    /// The one with an address in the subnet of this one.
    Near(IpAddr),
}

/// What the load is measured by, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadOf {
    /// Load average of one minute for each processor: 100 = as many runnable tasks as processors.
    #[default]
    Load,
    /// Busy time of all processors since the last test.
    Cpu,
    /// Share of the last 10 s in which some task waited for a processor (pressure stall information).
    Pressure,
}

impl LoadOf {
    /// As written in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            LoadOf::Load => "load",
            LoadOf::Cpu => "cpu",
            LoadOf::Pressure => "pressure",
        }
    }
}

/// HTTP status codes `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StatusRange {
    /// 100 to 599.
    pub first: u16,
    /// 100 to 599, not below `first`.
    pub last: u16,
}

/// `<check><http>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// `http://…` or `https://…`, checked when it was read.
    pub url: String,
    /// Whole request, from looking the name up to the last byte of the answer.
    pub timeout: Duration,
    /// Answers that are good; never empty.
    pub status: Vec<StatusRange>,
    /// Regular expression to be found in the body (its first MiB).
    pub body: Option<String>,
    /// A good answer that took longer is down: overload.
    pub slow: Option<Duration>,
    /// PEM file with what to trust for `https` in place of the system's certificates: CAs, or the server's own.
    pub ca: Option<String>,
}

/// How a resource is tested.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Probe {
    /// `<check><tcp>`: connect.
    Tcp { addr: String, port: u16, timeout: Duration },
    /// `<check><ping>`: ICMP echo, IPv4 or IPv6.
    Ping { addr: String, timeout: Duration },
    /// `<check><intf>`: the interface is up and has a carrier.
    Intf { interface: Interface },
    /// `<errd><proc>`: number of processes of that command name (and argument pattern).
    Proc { command: Option<String>, name_regex: Option<String>, arg_regex: Option<String>, at_least: u32, at_most: Option<u32> },
    /// `<errd><proc service="yes">`: the systemd unit is active.
    Service { unit: String },
    /// A virtual address is on an interface.
    Ip { addr: IpAddr },
    /// `<check><custom>`: an endless program that sets the resource itself; without one, scripts do.
    Custom { exec: Option<String>, args: Vec<String> },
    /// `<check><module>`, `<depends>`: how another module stands. `node`: on the other node of that module.
    Module { module: ModuleName, node: Option<NodeName>, wanted: Standing },
    /// `<check><http>`.
    Http(HttpProbe),
    /// `<check><load>`: at most so many per cent.
    Load { of: LoadOf, percent_max: u32 },
    /// `<check><memory>`: at least so much is available, and at most so much of the last 10 s was spent waiting for it.
    Memory { percent_min: Option<u32>, mb_min: Option<u64>, pressure_max: Option<u32> },
    /// `<check><disk>`: at least so much of the file system that holds `path` is free, for files and for names.
    Disk { path: String, percent_min: Option<u32>, mb_min: Option<u64>, inodes_percent_min: Option<u32>, timeout: Duration },
    /// `<check><exec>`: a program that ends with 0.
    Exec { exec: String, args: Vec<String>, timeout: Duration },
}

impl Probe {
    /// What it sees is a fact the moment it is seen: its action does not wait until it has stayed so.
    pub fn is_hard(&self) -> bool {
        matches!(self, Probe::Proc { .. } | Probe::Service { .. } | Probe::Ip { .. } | Probe::Module { .. })
    }

    /// Bad results in a row that make a resource down, where nothing is written: facts count at once, a connection that
    /// fails may be chance, and load comes and goes.
    pub fn default_fall(&self) -> u32 {
        match self {
            Probe::Tcp { .. } | Probe::Ping { .. } | Probe::Http(_) | Probe::Exec { .. } => 2,
            Probe::Load { .. } | Probe::Memory { .. } => 3,
            Probe::Intf { .. }
            | Probe::Proc { .. }
            | Probe::Service { .. }
            | Probe::Ip { .. }
            | Probe::Custom { .. }
            | Probe::Module { .. }
            | Probe::Disk { .. } => 1,
        }
    }
}

/// A checker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Check {
    /// Resource `class.ident`: `tcp.web`, `proc.nginx`.
    pub name: String,
    /// Phase.
    pub when: When,
    /// Time between two tests.
    pub interval: Duration,
    /// Test.
    pub probe: Probe,
    /// What happens on down.
    pub action: Action,
    /// Good results in a row that make it up again after it was down; at least 1. The first result of all counts at once.
    #[serde(default = "one")]
    pub rise: u32,
    /// Bad results in a row that make it down; at least 1.
    #[serde(default = "one")]
    pub fall: u32,
    /// Time to the next test while a result contradicts what is shown.
    #[serde(default)]
    pub retry: Duration,
    /// Time between the beginning of the phase and the first test.
    #[serde(default)]
    pub start_after: Duration,
    /// `proc class=`: what `tsugi errd enable` and `disable` switch.
    #[serde(default)]
    pub class: Option<String>,
    /// Script in `bin/` that is run on down in place of `action`; if it fails, the module does a stopstart.
    #[serde(default)]
    pub handler: Option<String>,
}

fn one() -> u32 {
    1
}

/// Time to the next test of a network probe while a result contradicts what is shown: a full backlog or a lost packet
/// is over by then.
pub const RETRY: Duration = Duration::from_millis(200);

impl Check {
    /// A checker with the defaults of its probe.
    pub fn new(name: impl Into<String>, when: When, interval: Duration, probe: Probe, action: Action) -> Check {
        let retry = match probe {
            Probe::Load { .. } | Probe::Memory { .. } | Probe::Disk { .. } => interval,
            _ => RETRY.min(interval),
        };
        let fall = probe.default_fall();
        Check {
            name: name.into(),
            when,
            interval,
            probe,
            action,
            rise: 1,
            fall,
            retry,
            start_after: Duration::ZERO,
            class: None,
            handler: None,
        }
    }

    /// Class and ident of the resource.
    pub fn class_and_ident(&self) -> (&str, &str) {
        self.name.split_once('.').unwrap_or((&self.name, ""))
    }

    /// Resource that is down when the handler of a process failed: `handler.IDENT`.
    pub fn handler_resource(&self) -> String {
        format!("handler.{}", self.class_and_ident().1)
    }
}
