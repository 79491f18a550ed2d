//! Control groups of the hosts: each sees a part of the machine's that is its own.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};

/// Folder of all labs in each hierarchy.
const FOLDER: &str = "tsugi-lab";
/// Where they are mounted on every machine.
const PLACE: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that agents use.
const CONTROLLERS: [&str; 4] = ["freezer", "pids", "memory", "cpu"];

/// Mount points of this machine's control groups that are of use.
fn mounted() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(at), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        let is_useful = right.split([' ', ',']).any(|option| CONTROLLERS.contains(&option));
        if (kind == "cgroup2" || kind == "cgroup" && is_useful) && at.starts_with(PLACE) {
            found.push(PathBuf::from(at));
        }
    }
    found
}

/// The directory of a lab, or of a host in it, as one name.
fn name_of(dir: &Path) -> String {
    dir.to_string_lossy().trim_matches('/').replace('/', "-")
}

/// Puts the host's own part of each hierarchy into its root, where the machine has it. `dir` stands for the host.
pub fn bind(root: &Path, dir: &Path) -> Result<()> {
    let all = mounted();
    let inside = |at: &Path| root.join(at.strip_prefix("/").unwrap_or(at));
    if !all.is_empty() && !all.iter().any(|at| at == Path::new(PLACE)) {
        let place = inside(Path::new(PLACE));
        mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("a place for control groups")?;
    }
    for at in all {
        let part = at.join(FOLDER).join(name_of(dir));
        std::fs::create_dir_all(&part).with_context(|| format!("{}", part.display()))?;
        for above in [at.clone(), at.join(FOLDER)] {
            // Version 2 hands controllers on only where it is told to; not every machine has them there.
            for controller in CONTROLLERS {
                let _ = std::fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        let target = inside(&at);
        std::fs::create_dir_all(&target).with_context(|| format!("{}", target.display()))?;
        let none: Option<&str> = None;
        mount(Some(&part), &target, none, MsFlags::MS_BIND, none).with_context(|| format!("binding {}", part.display()))?;
    }
    Ok(())
}

/// Removes what the hosts of a lab made; their processes are gone.
pub fn remove(lab_dir: &Path) {
    let prefix = format!("{}-hosts-", name_of(lab_dir));
    for folder in mounted().into_iter().map(|at| at.join(FOLDER)) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove_tree(&entry.path());
            }
        }
    }
}

/// Files of a control group go with its directory; one with processes stays.
fn remove_tree(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}
