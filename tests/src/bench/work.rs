//! Work that no common tool does as a bench needs it, run inside a host.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Directories of the tree, files in each.
const TREE: (usize, usize) = (60, 30);

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Work {
    /// Make files of 4 KiB in a new directory.
    Create {
        /// The directory.
        dir: PathBuf,
        /// How many.
        count: usize,
        /// Flush each before it is closed.
        #[arg(long)]
        fsync: bool,
    },
    /// Make a tree as a small project's source has it: 1,831 entries of up to 32 KiB.
    Tree {
        /// Its root.
        dir: PathBuf,
    },
}

/// Does it.
pub fn run(work: &Work) -> Result<()> {
    match work {
        Work::Create { dir, count, fsync } => {
            std::fs::create_dir(dir).with_context(|| format!("{}", dir.display()))?;
            for n in 0..*count {
                let mut file = File::create(dir.join(format!("file{n}")))?;
                file.write_all(&[n.to_le_bytes()[0]; 4096])?;
                if *fsync {
                    file.sync_all()?;
                }
            }
        }
        Work::Tree { dir } => {
            let (dirs, files) = TREE;
            for d in 0..dirs {
                let below = dir.join(format!("dir{d}"));
                std::fs::create_dir_all(&below)?;
                // With the directories and the root that is 1,831 when 30 files are left out.
                for n in 0..files - usize::from(d % 2 == 0) {
                    let length = (d * 7919 + n * 104_729) % 16 + 1;
                    let line = format!("file {n} of directory {d}, a line of text as it may stand in a program's source\n");
                    std::fs::write(below.join(format!("file{n}.txt")), line.repeat(length * length / 2 + 1))?;
                }
            }
        }
    }
    Ok(())
}
