//! What a part of a tree looks like, in sums: the same question asked of both copies.
//!
//! Times do not count, nor which names are one file; a hole and zeros are the same.

use super::dirty::BLOCK;
use super::excluded::Excluded;
use super::volume;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

/// A sum of contents or attributes.
pub type Sum = [u8; 32];

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Of this question; the answer has the same.
    pub number: u64,
    /// Index of the replicated directory.
    pub dir: u16,
    /// Relative to it.
    pub path: Vec<u8>,
    /// What of it.
    pub what: What,
}

/// What of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Names of a directory from this one on, to before that one (absent = to the end), with the attributes of what they
    /// lead to. `each`: one by one, otherwise one sum of all. The names of the topmost directory begin with an empty one,
    /// which is the directory itself.
    Names {
        /// The first.
        from: Vec<u8>,
        /// Behind the last.
        to: Option<Vec<u8>>,
        /// One by one.
        each: bool,
    },
    /// These names of a directory, one by one, those that are there; an empty one is the directory itself.
    Named {
        /// Which.
        names: Vec<Vec<u8>>,
    },
    /// Blocks of a file: fewer sums where it ends earlier.
    Blocks {
        /// The first.
        first: u64,
        /// How many.
        count: u32,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Of the question.
    pub number: u64,
    /// What is there.
    pub found: Found,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// No such directory or file.
    Gone,
    /// One per block, or one of all names.
    Sums(Vec<Sum>),
    /// Sorted.
    Names(Vec<(Vec<u8>, Sum)>),
    /// It is there and cannot be read.
    Unreadable {
        /// Why.
        detail: String,
    },
}

/// Looks.
pub fn look(root: RawFd, excluded: &Excluded, path: &[u8], what: &What) -> Found {
    let found = match what {
        What::Names { from, to, each } => names(root, excluded, path, (from, to.as_deref()), *each),
        What::Named { names } => named(root, excluded, path, names),
        What::Blocks { first, count } => blocks(root, path, *first, *count),
    };
    found.unwrap_or_else(|e| if volume::is_gone(&e) { Found::Gone } else { Found::Unreadable { detail: e.to_string() } })
}

/// A range that one node asks for has so many names at most on the other: beyond that a list of them would fit no frame.
const NAMES_MAX: usize = 50_000;

fn named(root: RawFd, excluded: &Excluded, path: &[u8], names: &[Vec<u8>]) -> io::Result<Found> {
    let open = volume::open_beneath(root, path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let device = volume::fstat(open.as_raw_fd())?.st_dev;
    let mut all = Vec::new();
    for name in names {
        let sum = if name.is_empty() {
            attributes(open.as_raw_fd(), device)?
        } else if is_excluded(open.as_raw_fd(), excluded, path, name)? {
            None
        } else {
            of_name(open.as_raw_fd(), name, device)?
        };
        all.extend(sum.map(|sum| (name.clone(), sum)));
    }
    Ok(Found::Names(all))
}

fn is_excluded(dir: RawFd, excluded: &Excluded, path: &[u8], name: &[u8]) -> io::Result<bool> {
    excluded.is_excluded_entry(|| Ok(path), name, || volume::is_dir_at(dir, &volume::cstr(name)?))
}

/// `None`: it is gone, or lies on another file system.
fn of_name(dir: RawFd, name: &[u8], device: u64) -> io::Result<Option<Sum>> {
    match volume::open_path_at(dir, &volume::cstr(name)?) {
        Ok(object) => attributes(object.as_raw_fd(), device),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn names(root: RawFd, excluded: &Excluded, path: &[u8], (from, to): (&[u8], Option<&[u8]>), each: bool) -> io::Result<Found> {
    let open = volume::open_beneath(root, path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let device = volume::fstat(open.as_raw_fd())?.st_dev;
    let mut all = Vec::new();
    if path.is_empty() && from.is_empty() {
        all.push((Vec::new(), attributes(open.as_raw_fd(), device)?.unwrap_or_default()));
    }
    let mut range = Vec::new();
    for name in in_range(open.as_raw_fd(), from, to)? {
        if !is_excluded(open.as_raw_fd(), excluded, path, &name)? {
            range.push(name);
        }
    }
    if range.len() > NAMES_MAX {
        return Ok(Found::Unreadable { detail: format!("it has {} names where the other node has few", range.len()) });
    }
    for name in range {
        all.extend(of_name(open.as_raw_fd(), &name, device)?.map(|sum| (name, sum)));
    }
    if each {
        return Ok(Found::Names(all));
    }
    let mut sum = blake3::Hasher::new();
    for (name, of) in &all {
        sum.update(&(name.len() as u64).to_le_bytes()).update(name).update(of);
    }
    Ok(Found::Sums(vec![*sum.finalize().as_bytes()]))
}

/// Names of an open directory in a range, sorted.
pub fn in_range(dir: RawFd, from: &[u8], to: Option<&[u8]>) -> io::Result<Vec<Vec<u8>>> {
    let all = volume::list_dir(dir)?.into_iter().map(|n| n.name);
    let mut names: Vec<_> = all.filter(|name| name.as_slice() >= from && to.is_none_or(|to| name.as_slice() < to)).collect();
    names.sort();
    Ok(names)
}

/// `None`: it lies on another file system, which is not replicated.
fn attributes(fd: RawFd, device: u64) -> io::Result<Option<Sum>> {
    let st = volume::fstat(fd)?;
    if st.st_dev != device {
        return Ok(None);
    }
    let kind = volume::kind(&st);
    let mut sum = blake3::Hasher::new();
    for number in [st.st_mode, st.st_uid, st.st_gid] {
        sum.update(&number.to_le_bytes());
    }
    match kind {
        libc::S_IFREG => drop(sum.update(&st.st_size.to_le_bytes())),
        libc::S_IFLNK => drop(sum.update(&volume::readlink_fd(fd)?)),
        libc::S_IFBLK | libc::S_IFCHR => drop(sum.update(&st.st_rdev.to_le_bytes())),
        _ => {}
    }
    for (name, value) in volume::xattrs(fd)? {
        for text in [name, value] {
            sum.update(&(text.len() as u64).to_le_bytes()).update(&text);
        }
    }
    Ok(Some(*sum.finalize().as_bytes()))
}

fn blocks(root: RawFd, path: &[u8], first: u64, count: u32) -> io::Result<Found> {
    let open = volume::open_beneath(root, path, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK)?;
    let fd = open.as_raw_fd();
    let st = volume::fstat(fd)?;
    if volume::kind(&st) != libc::S_IFREG {
        return Ok(Found::Gone);
    }
    let size = st.st_size.unsigned_abs();
    let (begin, end) = (first.saturating_mul(BLOCK), first.saturating_add(count.into()).saturating_mul(BLOCK).min(size));
    let mut buffer = vec![0; usize::try_from(BLOCK).unwrap_or_default()];
    let (mut sums, mut at, mut data_from) = (Vec::new(), begin, 0);
    while at < end {
        let length = BLOCK.min(size - at);
        if at >= data_from {
            data_from = volume::next_data(fd, at, size);
        }
        if data_from >= at + length {
            sums.push(zeros(length));
        } else {
            let n = volume::read_at(fd, &mut buffer, at)?;
            sums.push(*blake3::hash(&buffer[..n]).as_bytes());
        }
        at += length;
    }
    Ok(Found::Sums(sums))
}

/// The sum of so many zeros.
pub(super) fn zeros(length: u64) -> Sum {
    static WHOLE: OnceLock<Sum> = OnceLock::new();
    let of = |length: u64| *blake3::hash(&vec![0; usize::try_from(length).unwrap_or_default()]).as_bytes();
    if length == BLOCK { *WHOLE.get_or_init(|| of(BLOCK)) } else { of(length) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
    use tsugi_core::module::Replicated;

    fn without(path: &str) -> Excluded {
        Excluded::new(&Replicated { not_replicated: vec![path.to_owned()], ..Replicated::default() }).unwrap()
    }

    fn whole(dir: &File, path: &[u8]) -> Found {
        look(dir.as_raw_fd(), &without("not"), path, &What::Names { from: Vec::new(), to: None, each: false })
    }

    fn contents(dir: &File, path: &str) -> Vec<Sum> {
        match look(dir.as_raw_fd(), &Excluded::default(), path.as_bytes(), &What::Blocks { first: 0, count: 1000 }) {
            Found::Sums(sums) => sums,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_kind_of_difference_is_seen_and_what_does_not_count_is_not() {
        let homes = [0, 1].map(|_| tempfile::tempdir_in("/var/tmp").unwrap());
        let dirs = [0, 1].map(|n: usize| File::open(homes[n].path()).unwrap());
        for home in &homes {
            let path = |name: &str| home.path().join(name);
            fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
            fs::create_dir(path("d")).unwrap();
            fs::write(path("d/f"), "contents").unwrap();
            symlink("target", path("l")).unwrap();
        }
        fs::write(homes[0].path().join("not"), "excluded").unwrap();
        let is_equal = || [&b""[..], b"d"].iter().all(|path| whole(&dirs[0], path) == whole(&dirs[1], path));
        assert!(is_equal());
        let at = |name: &str| homes[1].path().join(name);
        let set = |name: &str, value: &str| {
            set_colour(&at(name), value);
        };
        type Step<'a> = &'a dyn Fn();
        let changes: [(&str, Step<'_>, Step<'_>); 7] = [
            ("a name more", &|| fs::write(at("d/g"), "").unwrap(), &|| fs::remove_file(at("d/g")).unwrap()),
            ("a name less", &|| fs::rename(at("l"), at("../l")).unwrap(), &|| fs::rename(at("../l"), at("l")).unwrap()),
            ("a length", &|| fs::write(at("d/f"), "contents!").unwrap(), &|| fs::write(at("d/f"), "contents").unwrap()),
            ("permissions", &|| fs::set_permissions(at("d/f"), PermissionsExt::from_mode(0o600)).unwrap(), &|| {
                fs::set_permissions(at("d/f"), PermissionsExt::from_mode(0o644)).unwrap()
            }),
            ("the topmost directory's own", &|| fs::set_permissions(at(""), PermissionsExt::from_mode(0o711)).unwrap(), &|| {
                fs::set_permissions(at(""), PermissionsExt::from_mode(0o755)).unwrap()
            }),
            (
                "a link's target",
                &|| {
                    fs::remove_file(at("l")).unwrap();
                    symlink("tarGet", at("l")).unwrap();
                },
                &|| {
                    fs::remove_file(at("l")).unwrap();
                    symlink("target", at("l")).unwrap();
                },
            ),
            ("an extended attribute", &|| set("d/f", "1"), &|| set("d/f", "")),
        ];
        for (what, change, back) in changes {
            change();
            assert!(!is_equal(), "{what}");
            back();
            assert!(is_equal(), "{what}, undone");
        }
        // By name, and in ranges.
        let each = |from: &str, to: Option<&str>| {
            let to = to.map(|to| to.as_bytes().to_vec());
            match look(dirs[0].as_raw_fd(), &Excluded::default(), b"", &What::Names { from: from.into(), to, each: true }) {
                Found::Names(names) => names.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(each("", None), ["", "d", "l", "not"]);
        assert_eq!(each("d", Some("l")), ["d"]);
        let named = What::Named { names: ["", "d", "none", "not"].map(|name| name.as_bytes().to_vec()).to_vec() };
        match look(dirs[0].as_raw_fd(), &without("not"), b"", &named) {
            Found::Names(names) => assert_eq!(names.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [&b""[..], b"d"]),
            other => panic!("{other:?}"),
        }
        assert_eq!(whole(&dirs[0], b"none"), Found::Gone);
        assert_eq!(whole(&dirs[0], b"d/f"), Found::Gone, "not a directory");
    }

    /// An extended attribute; an empty value takes it away.
    fn set_colour(path: &std::path::Path, value: &str) {
        let file = File::open(path).unwrap();
        if value.is_empty() {
            volume::remove_xattr(file.as_raw_fd(), c"user.colour").unwrap();
        } else {
            volume::set_xattr(file.as_raw_fd(), c"user.colour", value.as_bytes(), 0).unwrap();
        }
    }

    #[test]
    fn a_block_is_its_contents_and_a_hole_is_zeros() {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let dir = File::open(home.path()).unwrap();
        let long = BLOCK * 3 + 100;
        let hole = File::create(home.path().join("hole")).unwrap();
        hole.set_len(long).unwrap();
        fs::write(home.path().join("zeros"), vec![0; usize::try_from(long).unwrap()]).unwrap();
        assert_eq!(contents(&dir, "hole"), contents(&dir, "zeros"));
        assert_eq!(contents(&dir, "hole").len(), 4);
        hole.write_all_at(b"x", BLOCK * 2 + 5).unwrap();
        let (one, other) = (contents(&dir, "hole"), contents(&dir, "zeros"));
        let differ: Vec<_> = (0..4).filter(|n| one[*n] != other[*n]).collect();
        assert_eq!(differ, [2]);
        assert_eq!(look(dir.as_raw_fd(), &Excluded::default(), b"hole", &What::Blocks { first: 2, count: 1 }), Found::Sums(vec![one[2]]));
        assert_eq!(look(dir.as_raw_fd(), &Excluded::default(), b"hole", &What::Blocks { first: 4, count: 9 }), Found::Sums(Vec::new()));
        assert_eq!(look(dir.as_raw_fd(), &Excluded::default(), b"", &What::Blocks { first: 0, count: 1 }), Found::Gone);
    }
}
