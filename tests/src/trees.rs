//! Two trees are equal: everything a user can see of each object, and that a copy stays as sparse as its original.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Extended attributes that name a copy and belong to one node.
const OWN_PREFIX: &[u8] = b"trusted.tsugi.";
/// Blocks are compared and copied in pieces of this size; a hole may be lost at each end of a written piece.
const SPARSE_GRAIN: u64 = 128 << 10;
/// Of an extended attribute's value, and of the list of names: the kernel's own limits.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// What a user can see of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Type and permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Device number.
    pub rdev: u64,
    /// Length of a file in bytes.
    pub size: u64,
    /// Digest of a file's.
    pub contents: Option<u128>,
    /// Of a symbolic link.
    pub target: Option<PathBuf>,
    /// Extended attributes with their values, POSIX ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first, by order, of the names of the same file.
    pub first_name: PathBuf,
    /// Number of names.
    pub links: u64,
    /// Bytes it takes on the disk; no part of equality.
    pub allocated: NotCompared<u64>,
}

/// Equal to everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotCompared<T>(pub T);

impl<T> PartialEq for NotCompared<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for NotCompared<T> {}

/// A tree: path below its root → object. The root itself is the empty path.
pub type Tree = BTreeMap<PathBuf, Object>;

/// Reads a tree. Another file system mounted inside is not part of it.
pub fn read(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut names: HashMap<u64, PathBuf> = HashMap::new();
    let device = std::fs::symlink_metadata(root).with_context(|| format!("{}", root.display()))?.dev();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let path = root.join(&below);
        let object = object(&path, &below, &mut names)?;
        if std::fs::symlink_metadata(&path)?.dev() != device {
            continue;
        }
        if object.mode & libc::S_IFMT == libc::S_IFDIR {
            let list = std::fs::read_dir(&path).with_context(|| format!("{}", path.display()))?;
            let mut entries = list.map(|e| e.map(|e| below.join(e.file_name()))).collect::<Result<Vec<_>, _>>()?;
            // The last one is taken first: names are met in their order.
            entries.sort_by(|a, b| b.cmp(a));
            todo.extend(entries);
        }
        tree.insert(below, object);
    }
    // Directories are walked depth first, so that the first name met is not always the first by order.
    let mut first: HashMap<PathBuf, PathBuf> = HashMap::new();
    for (below, object) in &tree {
        first.entry(object.first_name.clone()).or_insert_with(|| below.clone());
    }
    for object in tree.values_mut() {
        object.first_name = first[&object.first_name].clone();
    }
    Ok(tree)
}

fn object(path: &Path, below: &Path, names: &mut HashMap<u64, PathBuf>) -> Result<Object> {
    let st = std::fs::symlink_metadata(path).with_context(|| format!("{}", path.display()))?;
    let kind = st.file_type();
    let first_name = names.entry(st.ino()).or_insert_with(|| below.to_owned()).clone();
    let contents = if kind.is_file() { Some(contents(path)?) } else { None };
    let is_device = kind.is_block_device() || kind.is_char_device();
    Ok(Object {
        mode: st.mode(),
        owner: (st.uid(), st.gid()),
        mtime: (st.mtime(), st.mtime_nsec()),
        rdev: if is_device { st.rdev() } else { 0 },
        size: if kind.is_file() { st.size() } else { 0 },
        contents,
        target: if kind.is_symlink() { Some(std::fs::read_link(path)?) } else { None },
        xattrs: xattrs(path)?,
        first_name,
        links: if kind.is_dir() { 0 } else { st.nlink() },
        allocated: NotCompared(if kind.is_file() { st.blocks() * 512 } else { 0 }),
    })
}

fn contents(path: &Path) -> Result<u128> {
    use std::io::Read;
    let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let mut digest = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("{}", path.display()))?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
    }
    let first: [u8; 16] = digest.finalize().as_bytes()[..16].try_into().context("a digest is longer")?;
    Ok(u128::from_le_bytes(first))
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let c = CString::new(path.as_os_str().as_bytes())?;
    let mut list = vec![0u8; XATTR_BYTES_MAX];
    // SAFETY: the buffer is as long as told.
    let n = unsafe { libc::llistxattr(c.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let Ok(n) = usize::try_from(n) else {
        let error = std::io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
            Ok(BTreeMap::new())
        } else {
            Err(error).with_context(|| format!("extended attributes of {}", path.display()))
        };
    };
    let mut all = BTreeMap::new();
    for name in list[..n].split(|b| *b == 0).filter(|name| !name.is_empty() && !name.starts_with(OWN_PREFIX)) {
        let mut value = vec![0u8; XATTR_BYTES_MAX];
        let key = CString::new(name)?;
        // SAFETY: as above.
        let n = unsafe { libc::lgetxattr(c.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let n = usize::try_from(n)
            .map_err(|_| std::io::Error::last_os_error())
            .with_context(|| format!("{} of {}", key.to_string_lossy(), path.display()))?;
        value.truncate(n);
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

/// What is not equal, one line each, in the order of the paths; empty if the trees are equal. `a` is the original.
pub fn differences(a: &Tree, b: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, one) in a {
        match b.get(path) {
            None => lines.push(format!("{}: missing in the copy", shown(path))),
            Some(other) => {
                let parts = parts(one, other);
                if !parts.is_empty() {
                    lines.push(format!("{}: {}", shown(path), parts.join("; ")));
                }
            }
        }
    }
    lines.extend(b.keys().filter(|path| !a.contains_key(*path)).map(|path| format!("{}: only in the copy", shown(path))));
    lines
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".into() } else { path.as_os_str().as_bytes().escape_ascii().to_string() }
}

fn parts(a: &Object, b: &Object) -> Vec<String> {
    let mut parts = Vec::new();
    let mut differs = |what: &str, is: bool, values: String| {
        if is {
            parts.push(format!("{what} {values}"));
        }
    };
    differs("mode", a.mode != b.mode, format!("{:o} / {:o}", a.mode, b.mode));
    differs("owner", a.owner != b.owner, format!("{:?} / {:?}", a.owner, b.owner));
    differs("mtime", a.mtime != b.mtime, format!("{:?} / {:?}", a.mtime, b.mtime));
    differs("device", a.rdev != b.rdev, format!("{} / {}", a.rdev, b.rdev));
    differs("size", a.size != b.size, format!("{} / {}", a.size, b.size));
    differs("contents", a.size == b.size && a.contents != b.contents, String::new());
    differs("target", a.target != b.target, format!("{:?} / {:?}", a.target, b.target));
    differs("attributes", a.xattrs != b.xattrs, format!("{} / {}", attributes(&a.xattrs), attributes(&b.xattrs)));
    differs("same file as", a.first_name != b.first_name, format!("{} / {}", shown(&a.first_name), shown(&b.first_name)));
    differs("names", a.links != b.links, format!("{} / {}", a.links, b.links));
    let (original, copy) = (a.allocated.0, b.allocated.0);
    differs("holes filled, bytes on the disk", copy > original + 2 * SPARSE_GRAIN + original / 4, format!("{original} / {copy}"));
    parts
}

fn attributes(all: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let one = |(name, value): (&Vec<u8>, &Vec<u8>)| format!("{}={}", name.escape_ascii(), value[..value.len().min(48)].escape_ascii());
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Waits until the trees are equal (a time that nobody waits for may come a little later), or says what differs.
pub fn wait_equal(a: &Path, b: &Path, bound: Duration) -> Result<usize> {
    let begin = Instant::now();
    loop {
        let (one, other) = (read(a)?, read(b)?);
        let lines = differences(&one, &other);
        if lines.is_empty() {
            return Ok(one.len());
        }
        if begin.elapsed() > bound {
            anyhow::bail!("{} of {} objects differ: {}", lines.len(), one.len(), lines[..lines.len().min(20)].join("\n  "));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::*;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;

    /// Each difference is found: a tool that says "equal" to everything would pass every other test.
    #[test]
    fn whatever_differs_is_said() {
        type Change = (&'static str, fn(&Path));
        let make = |root: &Path| {
            std::fs::create_dir(root.join("d")).unwrap();
            for name in ["one", "d/two"] {
                std::fs::write(root.join(name), "text").unwrap();
            }
            std::fs::hard_link(root.join("one"), root.join("d/three")).unwrap();
            std::os::unix::fs::symlink("one", root.join("link")).unwrap();
            let sparse = File::create(root.join("sparse")).unwrap();
            sparse.set_len(8 << 20).unwrap();
            for path in ["one", "d/two", "sparse", "d", ""] {
                File::open(root.join(path)).unwrap().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
            }
        };
        let changes: &[Change] = &[
            ("contents", |r| {
                let time = std::fs::metadata(r.join("one")).unwrap().modified().unwrap();
                std::fs::write(r.join("one"), "TEXT").unwrap();
                File::open(r.join("one")).unwrap().set_modified(time).unwrap();
            }),
            ("mtime", |r| File::open(r.join("d")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap()),
            ("mode", |r| std::fs::set_permissions(r.join("d/two"), std::fs::Permissions::from_mode(0o600)).unwrap()),
            ("missing in the copy", |r| std::fs::remove_file(r.join("link")).unwrap()),
            ("only in the copy", |r| std::fs::write(r.join("d/more"), "").unwrap()),
            ("same file as", |r| {
                std::fs::remove_file(r.join("d/three")).unwrap();
                std::fs::write(r.join("d/three"), "text").unwrap();
            }),
            ("holes filled", |r| std::fs::write(r.join("sparse"), vec![0; 8 << 20]).unwrap()),
            ("size", |r| File::options().write(true).open(r.join("d/two")).unwrap().set_len(2).unwrap()),
            ("target", |r| {
                std::fs::remove_file(r.join("link")).unwrap();
                std::os::unix::fs::symlink("two", r.join("link")).unwrap();
            }),
            ("attributes", |r| {
                let path = CString::new(r.join("one").into_os_string().into_vec()).unwrap();
                // SAFETY: all pointers are valid for the call.
                let rc = unsafe { libc::setxattr(path.as_ptr(), c"user.colour".as_ptr(), c"red".as_ptr().cast(), 3, 0) };
                assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
            }),
        ];
        for (wanted, change) in changes {
            let (a, b) = (tempfile::tempdir_in("/var/tmp").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap());
            make(a.path());
            make(b.path());
            let equal = differences(&read(a.path()).unwrap(), &read(b.path()).unwrap());
            let but_links: Vec<_> = equal.iter().filter(|line| !line.starts_with("link: mtime")).collect();
            assert_eq!(but_links, Vec::<&String>::new());
            change(b.path());
            let lines = differences(&read(a.path()).unwrap(), &read(b.path()).unwrap());
            assert!(lines.iter().any(|line| line.contains(wanted)), "{wanted}: {lines:?}");
        }
    }
}
