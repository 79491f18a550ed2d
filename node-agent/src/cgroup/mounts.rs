//! Which control groups this machine has mounted, and where ours may be made.

use super::Version;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Controllers of version 1 that are of use.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "cpu"];

/// What is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Where groups of processes are made.
    pub groups: Option<(Version, PathBuf)>,
    /// Controllers of version 1 by name.
    pub controllers: BTreeMap<String, PathBuf>,
}

/// One mount of control groups.
struct Mounted {
    root: PathBuf,
    at: PathBuf,
    is_v2: bool,
    options: String,
}

impl Mounts {
    /// Reads the tables of this process.
    pub fn find() -> Mounts {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Mounts::read(&table, &own, &|dir| is_delegated(dir))
    }

    /// The same without version 2: for a machine that has both.
    pub fn find_v1() -> Mounts {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let v1: Vec<&str> = table.lines().filter(|line| !line.contains(" - cgroup2 ")).collect();
        Mounts::read(&v1.join("\n"), "", &|_| false)
    }

    fn read(table: &str, own: &str, is_delegated: &dyn Fn(&Path) -> bool) -> Mounts {
        let all: Vec<Mounted> = table.lines().filter_map(mounted).collect();
        let mut found = Mounts::default();
        for name in CONTROLLERS {
            if let Some(mount) = all.iter().find(|m| !m.is_v2 && m.options.split(',').any(|o| o == name)) {
                found.controllers.insert(name.to_owned(), mount.at.clone());
            }
        }
        let v2 = all.iter().find(|m| m.is_v2).map(|m| (Version::V2, base_of(m, own, is_delegated)));
        let freezer = || all.iter().find(|m| !m.is_v2 && m.options.split(',').any(|o| o == "freezer"));
        found.groups = v2.or_else(|| freezer().map(|m| (Version::V1, m.at.clone())));
        found
    }
}

/// Where in version 2 the service manager lets us make groups: in the part it has handed over to us, if it has.
/// Otherwise beside its own, at the root, which it does not touch.
fn base_of(mount: &Mounted, own: &str, is_delegated: &dyn Fn(&Path) -> bool) -> PathBuf {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = Path::new("/").join(path);
    let Ok(inside) = own.strip_prefix(&mount.root) else { return mount.at.clone() };
    let mut at = inside;
    while !at.as_os_str().is_empty() {
        let dir = mount.at.join(at);
        if is_delegated(&dir) {
            return dir;
        }
        at = at.parent().unwrap_or(Path::new(""));
    }
    mount.at.clone()
}

/// systemd marks groups that belong to the service alone (`Delegate=yes`).
fn is_delegated(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    [c"trusted.delegate", c"user.delegate"].iter().any(|name| {
        let mut value = [0u8; 4];
        // SAFETY: both names end with NUL, and the buffer has the length that is given.
        let size = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        size == 1 && value[0] == b'1'
    })
}

/// `36 35 0:31 /root /at opts … - type source superoptions`
fn mounted(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, at) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or_default().to_owned();
    matches!(kind, "cgroup" | "cgroup2").then(|| Mounted { root, at, is_v2: kind == "cgroup2", options })
}

fn unescape(text: &str) -> PathBuf {
    PathBuf::from(text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const HYBRID: &str = "31 24 0:27 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
        32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 24 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    fn groups(table: &str, own: &str, delegated: &str) -> Option<(Version, PathBuf)> {
        Mounts::read(table, own, &|dir| dir == Path::new(delegated)).groups
    }

    #[test]
    fn version_two_goes_before_version_one() {
        let found = Mounts::read(HYBRID, "0::/", &|_| false);
        assert_eq!(found.groups, Some((Version::V2, "/sys/fs/cgroup/unified".into())));
        assert_eq!(found.controllers.keys().collect::<Vec<_>>(), ["cpu", "memory"]);
        assert_eq!(found.controllers["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let old = HYBRID.lines().next().unwrap();
        assert_eq!(groups(old, "4:freezer:/", ""), Some((Version::V1, "/sys/fs/cgroup/freezer".into())));
        assert_eq!(groups("1 0 8:1 / / rw - ext4 /dev/sda rw", "", ""), None);
    }

    #[test]
    fn groups_are_made_in_what_the_service_manager_handed_over() {
        let service = "/sys/fs/cgroup/system.slice/tsugi-agent.service";
        for own in ["0::/system.slice/tsugi-agent.service", "0::/system.slice/tsugi-agent.service/agent"] {
            assert_eq!(groups(UNIFIED, own, service), Some((Version::V2, service.into())), "{own}");
        }
        // Started by hand in a login session, whose groups belong to the service manager.
        let session = "0::/user.slice/user-0.slice/session-3.scope";
        assert_eq!(groups(UNIFIED, session, service), Some((Version::V2, "/sys/fs/cgroup".into())));
    }

    #[test]
    fn a_mount_of_a_part_is_a_world_of_its_own() {
        let part = "30 24 0:26 /lab/n1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(groups(part, "0::/", ""), Some((Version::V2, "/sys/fs/cgroup".into())));
        assert_eq!(groups(part, "0::/lab/n1/agent", "/sys/fs/cgroup/agent"), Some((Version::V2, "/sys/fs/cgroup/agent".into())));
    }
}
