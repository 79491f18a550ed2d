//! One thing after another that applications do with files, each done on the disk and on the mount: what comes of it is
//! the same, and the peer has it.

use crate::{DISK_BYTES, alone};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use tsugi_tests::files::{DIR, Files, NATIVE};
use tsugi_tests::trees;

/// Name, what is done in an empty directory, and what is said about it there.
type Deed = (&'static str, fn(&Path) -> Vec<String>);
/// Name and shell lines run in an empty directory inside the host; what they print counts, too.
type Script = (&'static str, &'static str);

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn check(rc: i32) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A result in words that do not depend on the place.
fn said<T>(what: &str, result: io::Result<T>) -> String {
    format!("{what}: {}", result.map_or_else(|e| format!("error {:?}", e.raw_os_error()), |_| "done".into()))
}

fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings are valid for the call.
    check(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
}

fn allocate(file: &File, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: a plain system call.
    check(unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, length) })
}

fn make_node(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = c(path);
    // SAFETY: the string is valid for the call.
    check(unsafe { libc::mknod(path.as_ptr(), mode, device) })
}

fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: all pointers are valid for the call.
    check(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) })
}

fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: both strings are valid for the call.
    check(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

/// Bytes that depend on their place, so that a piece in the wrong place is seen.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i / 512) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect()
}

fn names(d: &Path) -> Vec<String> {
    let odd: &[&[u8]] =
        &[b"a b", b"\xff\xfe\x80", b"line\nbreak", b"gone (deleted)", b"-rf", b"'\"\\$`*?", "日本語".as_bytes(), b"\x01\x7f", b"..."];
    for name in odd {
        fs::write(d.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let long = "n".repeat(255);
    fs::write(d.join(&long), "long").unwrap();
    let mut out = vec![said("one byte too long", fs::write(d.join("n".repeat(256)), "x"))];
    let mut deep = d.to_owned();
    for level in 0..30 {
        deep.push(format!("{level:0>50}"));
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("bottom"), "deep").unwrap();
    fs::rename(d.join("gone (deleted)"), d.join("gone (deleted) (deleted)")).unwrap();
    let mut list: Vec<_> = fs::read_dir(d).unwrap().map(|e| e.unwrap().file_name()).collect();
    list.sort();
    out.push(format!("{list:?}"));
    out
}

fn renames(d: &Path) -> Vec<String> {
    let p = |name: &str| d.join(name);
    fs::create_dir_all(p("one/inner")).unwrap();
    fs::create_dir(p("two")).unwrap();
    for name in ["one/a", "one/inner/b", "two/c", "free"] {
        fs::write(p(name), name).unwrap();
    }
    let out = vec![
        said("no replacement over a name", rename(&p("free"), &p("two/c"), libc::RENAME_NOREPLACE)),
        said("no replacement, free name", rename(&p("free"), &p("taken"), libc::RENAME_NOREPLACE)),
        said("exchange of a directory and a file", rename(&p("one/inner"), &p("two/c"), libc::RENAME_EXCHANGE)),
        said("exchange without the other", rename(&p("two"), &p("nobody"), libc::RENAME_EXCHANGE)),
        said("over a directory that is not empty", fs::rename(p("one"), p("two"))),
        said("into itself", fs::rename(p("two"), p("two/c/below"))),
        said("a directory over a file", fs::rename(p("two"), p("taken"))),
        said("over a file", fs::rename(p("one/a"), p("taken"))),
    ];
    // A file that is written while its directory moves.
    let mut file = OpenOptions::new().append(true).open(p("two/c/b")).unwrap();
    fs::rename(p("two/c"), p("moved")).unwrap();
    file.write_all(b" and more").unwrap();
    fs::rename(p("moved/b"), p("moved/b2")).unwrap();
    file.write_all(b" and yet more").unwrap();
    out
}

fn hard_links(d: &Path) -> Vec<String> {
    fs::create_dir(d.join("sub")).unwrap();
    fs::write(d.join("first"), "x").unwrap();
    for name in ["second", "sub/third"] {
        fs::hard_link(d.join("first"), d.join(name)).unwrap();
    }
    symlink("nowhere", d.join("symbolic")).unwrap();
    fs::hard_link(d.join("symbolic"), d.join("symbolic2")).unwrap();
    let mut open = OpenOptions::new().append(true).open(d.join("second")).unwrap();
    fs::remove_file(d.join("first")).unwrap();
    fs::remove_file(d.join("second")).unwrap();
    // Through a descriptor whose own name is gone, to a file that has another one.
    open.write_all(b"after").unwrap();
    fs::hard_link(d.join("sub/third"), d.join("fourth")).unwrap();
    fs::rename(d.join("sub/third"), d.join("sub/again")).unwrap();
    open.write_all(b" and after").unwrap();
    vec![
        format!("{}", fs::metadata(d.join("fourth")).unwrap().nlink()),
        said("of a directory", fs::hard_link(d.join("sub"), d.join("sub2"))),
        // The same file under both names: nothing happens.
        said("over itself", fs::rename(d.join("sub/again"), d.join("fourth"))),
        format!("{}", fs::metadata(d.join("fourth")).unwrap().nlink()),
    ]
}

fn removed_while_open(d: &Path) -> Vec<String> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(d.join("file")).unwrap();
    file.write_all(&pattern(100_000, 1)).unwrap();
    fs::remove_file(d.join("file")).unwrap();
    file.write_all_at(&pattern(50_000, 2), 80_000).unwrap();
    file.sync_all().unwrap();
    file.set_len(120_000).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    let out = vec![format!("{} bytes, {} names", read.len(), file.metadata().unwrap().nlink())];
    // The name goes on with another file.
    fs::write(d.join("file"), "another").unwrap();
    file.write_all_at(b"no more of this", 0).unwrap();
    fs::create_dir(d.join("dir")).unwrap();
    let dir = File::open(d.join("dir")).unwrap();
    fs::remove_dir(d.join("dir")).unwrap();
    drop(dir);
    out
}

fn ranges(d: &Path) -> Vec<String> {
    let file = |name: &str| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(d.join(name)).unwrap();
        file.write_all_at(&pattern(1 << 20, 7), 0).unwrap();
        file
    };
    let (punch, zero, keep) = (libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE, libc::FALLOC_FL_KEEP_SIZE);
    let out = vec![
        said("punch", allocate(&file("punch"), punch | keep, 3000, 400_000)),
        said("punch beyond the end", allocate(&file("beyond"), punch | keep, 1 << 20, 1 << 20)),
        said("zero", allocate(&file("zero"), zero, 5000, 500_000)),
        said("zero beyond the end", allocate(&file("zero2"), zero, 1_000_000, 500_000)),
        said("zero, length kept", allocate(&file("zero3"), zero | keep, 1_000_000, 500_000)),
        said("more", allocate(&file("more"), 0, 1 << 20, 1 << 20)),
        said("more, length kept", allocate(&file("more2"), keep, 1 << 20, 1 << 20)),
    ];
    let sparse = File::create(d.join("sparse")).unwrap();
    sparse.write_all_at(b"far", 3 << 30).unwrap();
    sparse.write_all_at(&pattern(70_000, 3), 1 << 20).unwrap();
    File::create(d.join("only a hole")).unwrap().set_len(1 << 30).unwrap();
    let grown = file("grown");
    grown.set_len(100).unwrap();
    grown.set_len(200_000).unwrap();
    out
}

/// What the kernel does not hand to any file system of this kind, and how it says so: applications that use these have
/// another way for the many file systems without them.
fn limits(d: &Path) -> Vec<String> {
    let file = File::create(d.join("file")).unwrap();
    file.write_all_at(&pattern(1 << 20, 7), 0).unwrap();
    let (collapse, insert) = (libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE);
    let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(d);
    vec![
        said("collapse", allocate(&file, collapse, 4 * 4096, 8 * 4096)),
        said("insert", allocate(&file, insert, 4 * 4096, 8 * 4096)),
        said("a file without a name", unnamed),
    ]
}

fn seek_to(file: &File, at: i64, whence: i32) -> Result<i64, Option<i32>> {
    // SAFETY: a plain system call.
    let found = unsafe { libc::lseek64(file.as_raw_fd(), at, whence) };
    if found < 0 { Err(io::Error::last_os_error().raw_os_error()) } else { Ok(found) }
}

fn holes_are_found(d: &Path) -> Vec<String> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(d.join("file")).unwrap();
    file.write_all_at(&[1; 8192], 1 << 20).unwrap();
    file.set_len(2 << 20).unwrap();
    file.sync_all().unwrap();
    [
        (0, libc::SEEK_DATA),
        (0, libc::SEEK_HOLE),
        (1 << 20, libc::SEEK_HOLE),
        ((1 << 20) + 8192, libc::SEEK_DATA),
        (3 << 20, libc::SEEK_DATA),
    ]
    .map(|(at, whence)| format!("{:?}", seek_to(&file, at, whence)))
    .to_vec()
}

fn special_files(d: &Path) -> Vec<String> {
    let out = vec![
        said("pipe", make_node(&d.join("pipe"), libc::S_IFIFO | 0o640, 0)),
        said("socket", make_node(&d.join("socket"), libc::S_IFSOCK | 0o600, 0)),
        said("character device", make_node(&d.join("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3))),
        said("block device", make_node(&d.join("block"), libc::S_IFBLK | 0o600, libc::makedev(7, 250))),
    ];
    symlink("x".repeat(4000), d.join("long link")).unwrap();
    symlink("/an/absolute/one", d.join("absolute")).unwrap();
    fs::write(d.join("null"), "nothing").unwrap();
    fs::rename(d.join("pipe"), d.join("pipe2")).unwrap();
    fs::hard_link(d.join("socket"), d.join("socket2")).unwrap();
    std::os::unix::fs::chown(d.join("block"), Some(1), Some(2)).unwrap();
    std::os::unix::fs::lchown(d.join("absolute"), Some(3), Some(4)).unwrap();
    out
}

fn extended_attributes(d: &Path) -> Vec<String> {
    fs::write(d.join("file"), "").unwrap();
    fs::create_dir(d.join("dir")).unwrap();
    symlink("file", d.join("link")).unwrap();
    let (create, replace) = (libc::XATTR_CREATE, libc::XATTR_REPLACE);
    let mut out = vec![
        said("user", set_xattr(&d.join("file"), "user.one", b"1", create)),
        said("twice", set_xattr(&d.join("file"), "user.one", b"2", create)),
        said("replaced", set_xattr(&d.join("file"), "user.one", b"\x00\xffbytes", replace)),
        said("nothing to replace", set_xattr(&d.join("file"), "user.none", b"2", replace)),
        said("empty", set_xattr(&d.join("file"), "user.empty", b"", 0)),
        said("directory", set_xattr(&d.join("dir"), "user.of a directory", &[7; 3000], 0)),
        said("trusted", set_xattr(&d.join("dir"), "trusted.own", b"t", 0)),
        said("security", set_xattr(&d.join("file"), "security.other", b"s", 0)),
        said("of a link, user", set_xattr(&d.join("link"), "user.l", b"s", 0)),
        said("of a link, trusted", set_xattr(&d.join("link"), "trusted.l", b"s", 0)),
        said("too large", set_xattr(&d.join("file"), "user.huge", &vec![1; 70_000], 0)),
        said("unknown kind", set_xattr(&d.join("file"), "nonsense.x", b"", 0)),
        said("no such", remove_xattr(&d.join("file"), "user.none")),
    ];
    set_xattr(&d.join("file"), "user.gone", b"1", 0).unwrap();
    out.push(said("removed", remove_xattr(&d.join("file"), "user.gone")));
    out
}

fn times(d: &Path) -> Vec<String> {
    let set = |path: &Path, times: [(i64, i64); 2]| {
        let times = times.map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
        let path = c(path);
        // SAFETY: string and array are valid for the call.
        check(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
    };
    fs::write(d.join("file"), "x").unwrap();
    fs::create_dir(d.join("dir")).unwrap();
    symlink("file", d.join("link")).unwrap();
    let mut out = Vec::new();
    for (name, at) in [("file", (1_000_000_000, 123_456_789)), ("dir", (1, 1)), ("link", (2_000_000_000, 0)), ("file", (-86_400, 5))] {
        out.push(said(name, set(&d.join(name), [at, at])));
        let st = fs::symlink_metadata(d.join(name)).unwrap();
        out.push(format!("{}.{:09} {}.{:09}", st.mtime(), st.mtime_nsec(), st.atime(), st.atime_nsec()));
    }
    out
}

fn ways_to_write(d: &Path) -> Vec<String> {
    // Appended from several threads: no piece is torn or lost.
    std::thread::scope(|scope| {
        for worker in 0..4u8 {
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(d.join("appended")).unwrap();
                for _ in 0..100 {
                    file.write_all(&[worker; 700]).unwrap();
                }
            });
        }
    });
    let appended = fs::read(d.join("appended")).unwrap();
    let whole = appended.chunks(700).all(|piece| piece.iter().all(|b| *b == piece[0]));
    let mut out = vec![format!("appended {} bytes, whole pieces: {whole}", appended.len())];
    // The order of the pieces is chance.
    fs::write(d.join("appended"), "").unwrap();
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flag).open(d.join(name)).unwrap();
        for piece in pattern(50_000, 9).chunks(999) {
            file.write_all(piece).unwrap();
        }
    }
    let direct = OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(d.join("direct"));
    let direct = direct.unwrap();
    let mut buffer = vec![0u8; 3 * 4096];
    let begin = buffer.as_ptr().align_offset(4096);
    buffer[begin..begin + 4096].copy_from_slice(&pattern(4096, 5));
    for block in [0, 7, 3, 100] {
        direct.write_all_at(&buffer[begin..begin + 4096], block * 4096).unwrap();
    }
    // What is mapped and what is written is one file.
    let mapped = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(d.join("mapped")).unwrap();
    mapped.set_len(1 << 20).unwrap();
    out.push(format!("{:?}", write_mapped(mapped.as_raw_fd())));
    mapped.write_all_at(b"written", 8190).unwrap();
    mapped.sync_all().unwrap();
    out
}

fn write_mapped(fd: RawFd) -> Vec<u8> {
    // SAFETY: the mapping is as long as the file, and nobody truncates it meanwhile.
    unsafe {
        let length = 1 << 20;
        let at = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let bytes = std::slice::from_raw_parts_mut(at.cast::<u8>(), length);
        for place in (0..length).step_by(70_001) {
            bytes[place..place + 100.min(length - place)].fill(place as u8);
        }
        assert_eq!(libc::msync(at, length, libc::MS_SYNC), 0);
        let seen = bytes[70_001..70_011].to_vec();
        assert_eq!(libc::munmap(at, length), 0);
        seen
    }
}

fn a_big_directory(d: &Path) -> Vec<String> {
    const COUNT: usize = 10_000;
    let dir = d.join("big");
    fs::create_dir(&dir).unwrap();
    for n in 0..COUNT {
        fs::write(dir.join(format!("a rather long name of file number {n:06}")), "").unwrap();
    }
    let counted = fs::read_dir(&dir).unwrap().count();
    // Removed while it is read: each name is met at most once, those that stay exactly once.
    let mut met = std::collections::BTreeSet::new();
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        if n % 2 == 0 {
            fs::remove_file(dir.join(&name)).unwrap();
        }
        assert!(met.insert(name), "a name twice");
    }
    let left = fs::read_dir(&dir).unwrap().count();
    // Which ones went depends on the order of the directory.
    fs::remove_dir_all(&dir).unwrap();
    vec![format!("{counted} {} {left}", met.len())]
}

fn modes(d: &Path) -> Vec<String> {
    for (name, mode) in [("plain", 0o644), ("suid", 0o4755), ("sgid", 0o2755), ("sgid without x", 0o2644), ("all", 0o7777), ("none", 0)] {
        fs::write(d.join(name), "x").unwrap();
        fs::set_permissions(d.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let bits = |name: &str| format!("{name} {:o}", fs::metadata(d.join(name)).unwrap().mode());
    std::os::unix::fs::chown(d.join("suid"), Some(1), Some(1)).unwrap();
    std::os::unix::fs::chown(d.join("all"), Some(1), None).unwrap();
    fs::create_dir(d.join("inherits")).unwrap();
    std::os::unix::fs::chown(d.join("inherits"), None, Some(5)).unwrap();
    fs::set_permissions(d.join("inherits"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(d.join("inherits/below")).unwrap();
    fs::write(d.join("inherits/file"), "").unwrap();
    fs::create_dir(d.join("inherits/below/deeper")).unwrap();
    ["suid", "sgid", "sgid without x", "all", "none", "inherits/below", "inherits/file", "inherits/below/deeper"].map(bits).to_vec()
}

const DEEDS: &[Deed] = &[
    ("names", names),
    ("renames", renames),
    ("hard links", hard_links),
    ("removed while open", removed_while_open),
    ("ranges", ranges),
    ("holes are found", holes_are_found),
    ("special files", special_files),
    ("extended attributes", extended_attributes),
    ("times", times),
    ("ways to write", ways_to_write),
    ("a big directory", a_big_directory),
    ("modes", modes),
];

/// As other users, and with umask: in processes of their own.
const SCRIPTS: &[Script] = &[
    (
        "umask",
        "umask 027; touch a; mkdir b; mkfifo p; ln -s x l; umask 000; touch c; mkdir d; umask 777; touch e; mkdir f; stat -c '%n %a %u:%g' *",
    ),
    (
        "other users",
        "chmod 1777 .; as='setpriv --reuid 1 --regid 1 --init-groups'; $as touch mine; $as mkdir dir; $as ln -s mine link; stat -c '%n %U:%G %a' *
         touch root; chmod 600 root; $as sh -c 'echo no >root' 2>&1; $as rm -f root 2>&1; $as cat root 2>&1; $as chmod 644 root 2>&1
         chmod 4777 mine; $as sh -c 'echo x >>mine'; stat -c '%n %a' mine
         cp mine other; chown 2:2 other; chmod 6777 other; $as sh -c 'echo x >>other'; stat -c '%n %a' other
         chmod 6777 other; $as truncate -s 1 other; stat -c '%n %a' other
         chown 1:2 other; chmod 755 other; $as chmod 2755 other; stat -c '%n %a' other
         $as chown 2 mine 2>&1; $as chgrp 1 mine; stat -c '%n %U:%G' mine",
    ),
    (
        "supplementary groups",
        "mkdir g; chgrp 2 g; chmod 2770 g; with='setpriv --reuid 1 --regid 1 --groups 2'; $with touch g/file; $with mkdir g/dir; $with chmod 2775 g/dir
         stat -c '%n %u:%g %a' g/*; setpriv --reuid 1 --regid 1 --clear-groups touch g/no 2>&1; $with chgrp 2 g/file 2>&1; stat -c '%g' g/file",
    ),
    (
        "access lists",
        "mkdir d; setfacl -m u:1:rwx,g:2:r-x,m::rwx d 2>&1; getfacl -n --omit-header d
         setfacl -d -m u:1:rw-,g:3:r--,o::--- d; umask 022; touch d/file; mkdir d/dir; umask 077; touch d/file2; mkdir d/dir/deeper; ln -s x d/link
         for f in d/*; do echo $f; getfacl -n --omit-header -P $f 2>/dev/null; done
         cp -a d e; setfacl -b e/file; setfacl -x u:1 e/dir; chmod 640 e/file2; getfacl -n --omit-header e/*
         chmod 755 .; echo secret >f; chmod 600 f; setpriv --reuid 1 --regid 1 --clear-groups cat f 2>&1
         setfacl -m u:1:r f; setpriv --reuid 1 --regid 1 --clear-groups cat f 2>&1; setpriv --reuid 2 --regid 1 --clear-groups cat f 2>&1
         setfacl -m m::--- f; setpriv --reuid 1 --regid 1 --clear-groups cat f 2>&1; true",
    ),
    (
        "programs",
        "cp /bin/true tool; ./tool; echo $?; printf '#!/bin/sh\\necho script $0\\n' >script; chmod +x script; ./script; cp script other; echo running >>script; ./other
         tar cf x.tar --mtime=@0 tool script; mkdir out; tar xf x.tar -C out; cmp tool out/tool; cp --sparse=always tool sparse; cmp tool sparse; cp --reflink=auto tool again
         sed -i s/script/changed/ script; cat script; truncate -s 5 other; cat other; dd if=tool of=part bs=1000 count=7 skip=2 seek=3 conv=sparse 2>/dev/null; stat -c '%n %s' *",
    ),
    (
        "locks",
        "exec 9>lock; flock 9; flock -n lock true; echo $?; exec 9>&-; flock -n lock true; echo $?",
    ),
];

/// Ours, that of the disk: times that depend on when something was done are not compared between the two.
fn but_times(mut tree: trees::Tree) -> trees::Tree {
    for (path, object) in &mut tree {
        if !path.starts_with("times") || path.as_os_str() == "times" {
            object.mtime = (0, 0);
        }
    }
    tree
}

#[test]
fn what_is_done_with_files_has_the_same_outcome_on_the_mount_and_at_the_peer() {
    let _alone = alone();
    same_outcome(&Files::start("t-posix", DISK_BYTES, |c| c).unwrap());
}

#[test]
fn what_is_done_with_files_has_the_same_outcome_when_requests_come_over_the_device() {
    let _alone = alone();
    let pair = Files::start_over_device("t-posix-dev", DISK_BYTES).unwrap();
    assert!(!pair.is_over_io_uring("n1").unwrap());
    same_outcome(&pair);
}

fn same_outcome(pair: &Files) {
    let (disk, mount) = (pair.native("n1").unwrap(), pair.seen("n1").unwrap());
    let mut amiss = Vec::new();
    let mut compare = |name: &str, on_disk: &str, on_mount: &str| {
        for (a, b) in on_disk.lines().zip(on_mount.lines()).filter(|(a, b)| a != b) {
            amiss.push(format!("{name}: `{a}` on the disk, `{b}` on the mount"));
        }
        if on_disk.lines().count() != on_mount.lines().count() {
            amiss.push(format!("{name}: on the disk\n{on_disk}\non the mount\n{on_mount}"));
        }
    };
    for (name, deed) in DEEDS {
        let words = [&disk, &mount].map(|place| {
            fs::create_dir(place.join(name)).unwrap();
            deed(&place.join(name)).join("\n")
        });
        compare(name, &words[0], &words[1]);
    }
    for (name, lines) in SCRIPTS {
        let words = [NATIVE, DIR].map(|place| {
            let line = format!("mkdir '{place}/{name}' && cd '{place}/{name}' && ( {lines} ) 2>&1; true");
            pair.lab.sh("n1", &line).unwrap()
        });
        compare(name, &words[0], &words[1]);
    }
    fs::create_dir(mount.join("limits")).unwrap();
    let limits = limits(&mount.join("limits"));
    assert_eq!(limits, ["collapse: error Some(95)", "insert: error Some(95)", "a file without a name: error Some(95)"]);
    fs::remove_dir_all(mount.join("limits")).unwrap();
    let trees = [&disk, &mount].map(|place| but_times(trees::read(place).unwrap()));
    amiss.extend(trees::differences(&trees[0], &trees[1]).into_iter().filter(|line| !line.starts_with(".: ")));
    if let Err(e) = pair.wait_equal("n1", "n2") {
        amiss.push(format!("{e:#}"));
    }
    assert!(amiss.is_empty(), "{}", amiss.join("\n"));
    // And the same from scratch: everything of it survives a comparison and a copy.
    pair.lab.kill("n2").unwrap();
    pair.wait_alone("n1").unwrap();
    fs::rename(mount.join("names"), mount.join("other names")).unwrap();
    fs::remove_dir_all(mount.join("renames")).unwrap();
    pair.lab.boot("n2").unwrap();
    pair.wait_roles("n1", "n2").unwrap();
    let objects = pair.wait_equal("n1", "n2").unwrap();
    println!("{objects} objects equal");
}
