//! Limits of a module's group.

use super::{Version, write};
use std::fs;
use std::io;
use std::path::Path;
use tsugi_core::module::Limits;

/// Share of the machine's table of processes that one module may fill, as systemd gives a service.
const PIDS_PERCENT: u64 = 15;
/// On a very small machine: enough for any application.
const PIDS_LEAST: u64 = 512;
/// `cpu.shares` of version 1 that corresponds to a weight of 100.
const SHARES_OF_100: u64 = 1024;
/// Least value the kernel takes.
const SHARES_LEAST: u64 = 2;
/// Weight of everybody who asks for nothing.
const WEIGHT_DEFAULT: u32 = 100;

/// What keeps a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Pids,
    Memory,
    Cpu,
}

impl Controller {
    pub const ALL: [Controller; 3] = [Controller::Pids, Controller::Memory, Controller::Cpu];

    pub fn name(self) -> &'static str {
        match self {
            Controller::Pids => "pids",
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
        }
    }

    /// For a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Controller::Pids => "processes",
            Controller::Memory => "memory",
            Controller::Cpu => "processor time",
        }
    }

    /// The module asks for it. A bound on processes everybody has.
    pub fn is_wanted(self, limits: &Limits) -> bool {
        match self {
            Controller::Pids => true,
            Controller::Memory => limits.memory_bytes_max.is_some(),
            Controller::Cpu => limits.cpu_weight.is_some(),
        }
    }

    /// Sets it in `dir`; what the module does not ask for is set back.
    pub fn set(self, version: Version, dir: &Path, limits: &Limits) -> io::Result<()> {
        let weight = limits.cpu_weight.unwrap_or(WEIGHT_DEFAULT);
        let memory = limits.memory_bytes_max.map(|bytes| bytes.to_string());
        let (file, text) = match (self, version) {
            (Controller::Pids, _) => ("pids.max", limits.pids_max.unwrap_or_else(pids_default).to_string()),
            (Controller::Memory, Version::V2) => ("memory.max", memory.unwrap_or_else(|| "max".to_owned())),
            (Controller::Memory, Version::V1) => ("memory.limit_in_bytes", memory.unwrap_or_else(|| "-1".to_owned())),
            (Controller::Cpu, Version::V2) => ("cpu.weight", weight.to_string()),
            (Controller::Cpu, Version::V1) => {
                ("cpu.shares", (u64::from(weight) * SHARES_OF_100 / u64::from(WEIGHT_DEFAULT)).max(SHARES_LEAST).to_string())
            }
        };
        let path = dir.join(file);
        write(&path, &text).map_err(|e| io::Error::new(e.kind(), format!("{} cannot be set to {text}: {e}", path.display())))
    }
}

/// Processes and threads of a module that sets no limit of its own: 15 % of what the machine can have, at least 512.
pub fn pids_default() -> u32 {
    let read = |file: &str| fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let table = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].iter().filter_map(|file| read(file)).min();
    let share = table.unwrap_or(32_768) * PIDS_PERCENT / 100;
    u32::try_from(share.max(PIDS_LEAST)).unwrap_or(u32::MAX)
}
