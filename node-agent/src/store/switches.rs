//! What an administrator has switched off and on for a module, over restarts of the agent.

use crate::disk;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// `modules/M/switches.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// `tsugi errd on|off`: processes are watched.
    pub is_errd_on: bool,
    /// `tsugi checker on|off`: everything else is.
    pub is_checker_on: bool,
}

impl Default for Switches {
    fn default() -> Switches {
        Switches { is_errd_on: true, is_checker_on: true }
    }
}

impl Switches {
    /// What was saved. A file that is not there or makes no sense switches nothing off.
    pub fn load(path: &Path) -> Switches {
        let read = disk::read_if_there(path).and_then(|bytes| match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            None => Ok(None),
        });
        match read {
            Ok(found) => found.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the switches cannot be read; everything is on");
                Switches::default()
            }
        }
    }

    /// Keeps them; on disk when this returns.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        disk::write_atomically(path, &bytes, disk::PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_outlive_the_agent_and_nonsense_switches_nothing_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switches.json");
        assert_eq!(Switches::load(&path), Switches::default());
        let off = Switches { is_errd_on: false, is_checker_on: true };
        off.save(&path).unwrap();
        assert_eq!(Switches::load(&path), off);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Switches::load(&path), Switches::default());
    }
}
