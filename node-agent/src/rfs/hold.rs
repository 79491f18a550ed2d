//! Nobody writes to a copy that is not served: a change made there would be at the other node never, and undone or kept
//! by chance when the copy is compared. A read-only view covers each directory while the module is stopped or waits, from
//! early boot on; whoever has something to do in there says so (`tsugi rfs open`).
//!
//! A directory that no module has used yet is left alone: it may still be filled.

use super::handle::DataConfig;
use super::identity;
use super::level;
use super::mounts;
use crate::disk::{PRIVATE, write_atomically};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Beside the module's record: what [`at_boot`] has to cover, before the agent has read any configuration.
const NOTE: &str = "hold.json";

fn note(config: &DataConfig) -> PathBuf {
    config.marks.with_file_name(NOTE)
}

/// Writes down what is to be covered at the next boot.
pub fn remember(config: &DataConfig) -> anyhow::Result<()> {
    let text = serde_json::to_vec(config).context("the note cannot be written")?;
    if std::fs::read(note(config)).is_ok_and(|known| known == text) {
        return Ok(());
    }
    write_atomically(&note(config), &text, PRIVATE).with_context(|| format!("cannot write {}", note(config).display()))
}

/// `tsugi-agent hold`: covers the copies of all modules of this node, before anybody who might write to them is started.
/// Fails if one of the notes cannot be read; the others are used all the same.
pub fn at_boot(state_dir: &Path) -> anyhow::Result<()> {
    let modules = match std::fs::read_dir(state_dir.join("modules")) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        listed => listed.with_context(|| format!("cannot list {}", state_dir.join("modules").display()))?,
    };
    let mut result = Ok(());
    for module in modules {
        let path = module?.path().join(NOTE);
        let one = (|| {
            let text = match std::fs::read(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                read => read?,
            };
            let config: DataConfig = serde_json::from_slice(&text)?;
            std::fs::create_dir_all(&config.run_dir)?;
            hold(&config);
            anyhow::Ok(())
        })();
        if let Err(e) = one {
            result = Err(e.context(format!(
                "{}: its module's directories stay writable until the agent runs, which writes this file anew",
                path.display()
            )));
        }
    }
    result
}

/// Covers the directories that are this node's copies. What is not (an empty one, whose disk is not mounted) is no matter.
pub fn hold(config: &DataConfig) {
    for (index, replicated) in config.dirs.iter().enumerate() {
        let held = (|| {
            if !identity::is_known(replicated, &config.marks)? || mounts::is_ours_on_top(&replicated.dir)? {
                return Ok(());
            }
            mounts::hide(&replicated.dir, &config.run_dir, config.module.as_str(), index)
        })();
        if let Err(e) = held {
            let error: anyhow::Error = e;
            tracing::warn!(dir = replicated.dir, error = format!("{error:#}"), "this directory is not protected while it is not served");
        }
    }
}

/// Takes the views away for somebody who changes something in there: nothing is known of the copies from now on.
pub fn open(config: &DataConfig) -> anyhow::Result<()> {
    for (index, replicated) in config.dirs.iter().enumerate() {
        mounts::clear(&replicated.dir, &config.run_dir, config.module.as_str(), index)?;
    }
    let roots: Vec<_> = config.dirs.iter().filter_map(|d| mounts::open_dir(&d.dir).ok()).collect();
    Ok(level::clear(&roots)?)
}
