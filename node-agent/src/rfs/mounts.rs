//! Mounting, hiding and unmounting the replicated directories.

use super::volume;
use anyhow::{Context, bail};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use tsugi_core::module::Replicated;

/// File system type of our mounts in `/proc/self/mountinfo`.
const FUSE_TYPE: &str = "fuse.tsugi";
/// Layers removed from one path at most: more were not put there by us.
const LAYERS_MAX: usize = 16;

fn c(path: &str) -> anyhow::Result<CString> {
    CString::new(path).with_context(|| format!("the path {path:?} contains a NUL"))
}

/// The path the mount table knows. The last component is never looked into: behind a dead mount that fails.
fn real(path: &str) -> PathBuf {
    let mut path = PathBuf::from(path);
    // As many links in a row as the kernel itself follows.
    for _ in 0..40 {
        match (std::fs::read_link(&path), path.parent()) {
            (Ok(target), Some(parent)) => path = parent.join(target),
            _ => break,
        }
    }
    match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn real_c(path: &str) -> anyhow::Result<CString> {
    Ok(volume::cstr(real(path).as_os_str().as_encoded_bytes())?)
}

/// Opens a replicated directory, before anything covers it.
pub fn open_dir(path: &str) -> anyhow::Result<OwnedFd> {
    volume::openat(libc::AT_FDCWD, c(path)?.as_c_str(), libc::O_RDONLY | libc::O_DIRECTORY, 0).with_context(|| {
        format!("cannot open the replicated directory {path}; create it (or mount its file system) on this node and start the module again")
    })
}

/// Nothing can be served or followed where nothing can be written.
pub fn check_writable(dirs: &[Replicated], roots: &[OwnedFd]) -> anyhow::Result<()> {
    for (replicated, root) in dirs.iter().zip(roots) {
        if volume::statvfs(root.as_raw_fd())?.f_flag & libc::ST_RDONLY != 0 {
            let dir = &replicated.dir;
            bail!(
                "{dir} is read-only on this node: either its file system was remounted so after an error (`dmesg`), which has to be repaired, \
                 or a read-only view was left over it (`grep {dir} /proc/self/mountinfo`): `umount {dir}`"
            );
        }
    }
    Ok(())
}

/// Mounts FUSE over a directory; the descriptor is the connection.
pub fn mount_fuse(path: &str, name: &str) -> anyhow::Result<OwnedFd> {
    let device = volume::openat(libc::AT_FDCWD, c"/dev/fuse", libc::O_RDWR, 0)
        .context("cannot open /dev/fuse; load the kernel module with `modprobe fuse`")?;
    let options = c(&format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd()))?;
    let (source, target) = (c(&format!("tsugi:{name}"))?, real_c(path)?);
    // SAFETY: all strings are NUL-terminated and outlive the call.
    let rc = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            c"fuse.tsugi".as_ptr(),
            // Set-user-id programs and device nodes keep working as on the directory itself.
            libc::MS_NOATIME,
            options.as_ptr().cast(),
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot mount over {path}"));
    }
    Ok(device)
}

/// Aborts the connection (pending requests get an error) and takes the mount away, even if it is in use.
pub fn unmount_fuse(path: &str) -> io::Result<()> {
    unmount(path, libc::MNT_FORCE | libc::MNT_DETACH)
}

/// Aborts the connection and leaves the mount, dead: whoever uses it gets errors. Somebody must hold its root open
/// ([`hold`]), or it is gone.
pub fn abort_fuse(path: &str) -> io::Result<()> {
    match unmount(path, libc::MNT_FORCE) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other,
    }
}

/// A mount of ours lies over the directory, dead or alive.
pub fn is_ours_on_top(path: &str) -> anyhow::Result<bool> {
    Ok(top_mount(path)?.is_some_and(|m| m.kind == FUSE_TYPE))
}

/// Keeps a mount from being removed other than by [`unmount_fuse`].
pub fn hold(path: &str) -> io::Result<OwnedFd> {
    volume::open_path_at(libc::AT_FDCWD, volume::cstr(path.as_bytes())?.as_c_str())
}

/// Removes dead mounts of ours from a directory that nobody serves.
pub fn clear_dead(path: &str) -> anyhow::Result<()> {
    for _ in 0..LAYERS_MAX {
        if top_mount(path)?.is_none_or(|m| m.kind != FUSE_TYPE) {
            return Ok(());
        }
        unmount_fuse(path).with_context(|| format!("cannot remove the dead mount over {path}"))?;
    }
    bail!("{path} is covered by more than {LAYERS_MAX} mounts; unmount them by hand")
}

fn unmount(path: &str, flags: i32) -> io::Result<()> {
    let target = real_c(path).map_err(|_| volume::errno(libc::EINVAL))?;
    // SAFETY: the string is valid for the call.
    if unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn marker(run_dir: &Path, module: &str, index: usize) -> PathBuf {
    run_dir.join(format!("data-{module}-{index}.hidden"))
}

/// The view that [`hide`] put over a directory is what is seen there.
pub fn is_hidden(path: &str, run_dir: &Path, module: &str, index: usize) -> anyhow::Result<bool> {
    let id = std::fs::read_to_string(marker(run_dir, module, index)).ok().and_then(|t| t.trim().parse::<u64>().ok());
    Ok(id.is_some() && top_mount(path)?.map(|m| m.id) == id)
}

/// Puts a read-only view over a directory, so that nobody but the applier, which holds a descriptor, writes to it. One that
/// is there already is enough.
pub fn hide(path: &str, run_dir: &Path, module: &str, index: usize) -> anyhow::Result<()> {
    if is_hidden(path, run_dir, module, index)? {
        return Ok(());
    }
    let target = real_c(path)?;
    let mount = |flags: libc::c_ulong| {
        // SAFETY: the strings are valid for the call, the other arguments may be null for a bind mount.
        let rc = unsafe { libc::mount(target.as_ptr(), target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    mount(libc::MS_BIND).with_context(|| format!("cannot cover {path}"))?;
    let read_only = mount(libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY);
    if let Err(e) = read_only {
        let _ = unmount(path, libc::MNT_DETACH);
        return Err(e).with_context(|| format!("cannot make the view of {path} read-only"));
    }
    let noted = top_mount(path).and_then(|top| {
        let id = top.map_or(0, |m| m.id);
        std::fs::write(marker(run_dir, module, index), id.to_string()).context("cannot note the cover in the run directory")
    });
    if noted.is_err() {
        // One that nobody knows would never be taken away.
        let _ = unmount(path, libc::MNT_DETACH);
    }
    noted
}

/// Takes the read-only view away.
pub fn unhide(path: &str, run_dir: &Path, module: &str, index: usize) -> anyhow::Result<()> {
    let marker = marker(run_dir, module, index);
    let Some(id) = std::fs::read_to_string(&marker).ok().and_then(|t| t.trim().parse::<u64>().ok()) else { return Ok(()) };
    if top_mount(path)?.is_some_and(|m| m.id == id) {
        unmount(path, libc::MNT_DETACH).with_context(|| format!("cannot uncover {path}"))?;
    }
    let _ = std::fs::remove_file(&marker);
    Ok(())
}

/// Removes what an earlier life of the data process left over a directory.
pub fn clear(path: &str, run_dir: &Path, module: &str, index: usize) -> anyhow::Result<()> {
    if top_mount(path)?.is_some_and(|m| m.kind == FUSE_TYPE) {
        tracing::warn!(path, "removing a mount that an earlier data process left");
        clear_dead(path)?;
    }
    unhide(path, run_dir, module, index)
}

#[derive(Debug)]
struct Mounted {
    id: u64,
    kind: String,
}

/// The mount that is visible at exactly this path, if it is a mount point.
fn top_mount(path: &str) -> anyhow::Result<Option<Mounted>> {
    let table = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let wanted = real(path);
    let wanted = wanted.as_os_str().as_encoded_bytes();
    let mut top = None;
    for line in table.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b' ');
        let (Some(id), Some(point)) = (fields.next(), fields.nth(3)) else { continue };
        if unescape(point) != wanted {
            continue;
        }
        let kind = fields.skip_while(|f| *f != b"-").nth(1).unwrap_or(b"");
        // Later lines are mounted over earlier ones.
        top = Some(Mounted { id: String::from_utf8_lossy(id).parse().unwrap_or(0), kind: String::from_utf8_lossy(kind).into_owned() });
    }
    Ok(top)
}

/// Space, tab, newline and backslash are octal escapes in mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        match octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_named_through_a_link_is_covered_and_uncovered() {
        let run = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real/", &link).unwrap();
        hide(link.to_str().unwrap(), run.path(), "m", 0).unwrap();
        assert!(std::fs::write(link.join("x"), "x").is_err());
        unhide(link.to_str().unwrap(), run.path(), "m", 0).unwrap();
        std::fs::write(link.join("x"), "x").unwrap();
    }

    #[test]
    fn a_view_that_nobody_knows_is_said_to_be_one() {
        let run = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let dirs = [Replicated { dir: path.to_owned(), ..Replicated::default() }];
        check_writable(&dirs, &[open_dir(path).unwrap()]).unwrap();
        hide(path, run.path(), "m", 0).unwrap();
        std::fs::remove_file(marker(run.path(), "m", 0)).unwrap();
        unhide(path, run.path(), "m", 0).unwrap();
        let said = check_writable(&dirs, &[open_dir(path).unwrap()]).unwrap_err().to_string();
        assert!(said.contains(&format!("umount {path}")), "{said}");
        unmount(path, libc::MNT_DETACH).unwrap();
    }

    #[test]
    fn a_hidden_directory_is_read_only_until_uncovered() {
        let run = tempfile::tempdir().unwrap();
        let dir = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let fd = open_dir(path).unwrap();
        hide(path, run.path(), "m", 0).unwrap();
        let refused = std::fs::write(dir.path().join("x"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        volume::mkdirat(fd.as_raw_fd(), c"by-descriptor", 0o755).unwrap();
        clear(path, run.path(), "m", 0).unwrap();
        std::fs::write(dir.path().join("x"), "x").unwrap();
        assert!(dir.path().join("by-descriptor").is_dir());
    }
}
