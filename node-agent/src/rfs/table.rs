//! The files the kernel knows of: inode number ↔ an `O_PATH` descriptor that keeps the inode from being reused.
//!
//! Node ids are the backing inode numbers (1 = the root), so `st_ino` is stable. A descriptor also knows where its
//! file is: the kernel follows renames of it and of its ancestors for us.

use super::excluded::Excluded;
use super::volume::{self, Stat};
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Id of a directory's root, fixed by FUSE.
pub const ROOT: u64 = 1;

/// An object of the tree.
pub struct Inode {
    /// Node id.
    pub id: u64,
    /// Type bits of the mode.
    pub kind: u32,
    /// Not replicated: below what is not, or without a name that is.
    local: AtomicBool,
    fd: RwLock<Arc<OwnedFd>>,
    /// Other names it was given, for when the one behind `fd` is removed.
    names: Mutex<Vec<(Arc<Inode>, Vec<u8>)>>,
    lookups: AtomicU64,
    /// Session in which the peer knows this id.
    bound: AtomicU64,
    /// No name left: nothing about it needs replication.
    gone: AtomicBool,
    /// Contents changed since the peer was told the modification time.
    touched: AtomicBool,
    /// Open handles.
    opens: AtomicU64,
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inode {}", self.id)
    }
}

impl Inode {
    fn new(id: u64, kind: u32, local: bool, fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind,
            local: AtomicBool::new(local),
            fd: RwLock::new(Arc::new(fd)),
            names: Mutex::new(Vec::new()),
            lookups: AtomicU64::new(0),
            bound: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            opens: AtomicU64::new(0),
        })
    }

    /// An object the kernel may not know of, for looking at it.
    pub fn unlisted(st: &Stat, fd: OwnedFd) -> Arc<Self> {
        Self::new(st.st_ino, volume::kind(st), false, fd)
    }

    /// The `O_PATH` descriptor. The inode must stay alive while the number is used and no other thread may be
    /// replacing it; `fd` is the safe form.
    pub fn raw(&self) -> RawFd {
        self.fd.read().unwrap_or_else(PoisonError::into_inner).as_raw_fd()
    }

    /// The `O_PATH` descriptor.
    pub fn fd(&self) -> Arc<OwnedFd> {
        self.fd.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// Whether the peer knows this id in a session.
    pub fn bound_in(&self, session: u64) -> bool {
        self.bound.load(Ordering::Acquire) == session
    }

    /// The peer was told this id in a session.
    pub fn set_bound(&self, session: u64) {
        self.bound.store(session, Ordering::Release);
    }

    /// Whether it is not replicated, by its names.
    pub fn is_local(&self) -> bool {
        self.local.load(Ordering::Acquire)
    }

    /// Names were found that say otherwise.
    pub fn set_local(&self, local: bool) {
        self.local.store(local, Ordering::Release);
    }

    /// Whether changes of it concern the peer.
    pub fn replicated(&self) -> bool {
        !self.is_local() && !self.gone.load(Ordering::Acquire)
    }

    /// Notes that contents changed (true) or that the peer was told the time (false); returns what it was.
    pub fn set_touched(&self, touched: bool) -> bool {
        self.touched.swap(touched, Ordering::AcqRel)
    }

    /// A handle was opened.
    pub fn opened(&self) {
        self.opens.fetch_add(1, Ordering::AcqRel);
    }

    /// A handle was closed.
    pub fn closed(&self) {
        self.opens.fetch_sub(1, Ordering::AcqRel);
    }

    /// It got a further name.
    pub fn add_name(&self, parent: &Arc<Inode>, name: &[u8]) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.iter().any(|(p, n)| p.id == parent.id && n == name) {
            names.push((parent.clone(), name.to_vec()));
        }
    }

    /// It lost this one. What is kept of a name holds its directory, whatever becomes of that.
    pub fn lose_name(&self, parent: &Inode, name: &[u8]) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|(p, n)| p.id != parent.id || n != name);
    }

    /// One of its names was removed: finds out whether another is left, and moves the descriptor to it.
    pub fn name_removed(&self, root: &Inode) {
        let Ok(st) = volume::fstat(self.fd().as_raw_fd()) else { return };
        if st.st_nlink == 0 || (self.is_dir() && self.path(root).is_err()) {
            self.gone.store(true, Ordering::Release);
        } else if !self.is_dir() && self.path(root).is_err() {
            self.find_other_name(st.st_ino);
        }
    }

    fn find_other_name(&self, ino: u64) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|(parent, name)| {
            let found = volume::cstr(name).and_then(|n| volume::open_path_at(parent.fd().as_raw_fd(), &n));
            match found {
                Ok(fd) if volume::fstat(fd.as_raw_fd()).is_ok_and(|st| st.st_ino == ino) => {
                    *self.fd.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fd);
                    true
                }
                _ => false,
            }
        });
    }

    /// Where it is now, relative to the root. An error if the name behind the descriptor is gone.
    pub fn path(&self, root: &Inode) -> io::Result<Vec<u8>> {
        if self.id == ROOT {
            return Ok(Vec::new());
        }
        let fd = self.fd();
        let below = volume::path_below(root.fd().as_raw_fd(), fd.as_raw_fd())?;
        // Believed only if the path leads to this very object: a name may itself end in " (deleted)".
        let there = volume::open_beneath(root.fd().as_raw_fd(), &below, libc::O_PATH | libc::O_NOFOLLOW)?;
        let (a, b) = (volume::fstat(there.as_raw_fd())?, volume::fstat(fd.as_raw_fd())?);
        if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) { Ok(below) } else { Err(volume::errno(libc::ENOENT)) }
    }

    /// Like `path`, but searches the tree if the known names are gone: a file that was opened by a name since
    /// removed and has others the kernel was never asked for. Names that are not replicated are none.
    pub fn path_searched(&self, root: &Inode, excluded: &Excluded) -> io::Result<Vec<u8>> {
        match self.path(root) {
            Ok(path) => return Ok(path),
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
            Err(_) => {}
        }
        let st = volume::fstat(self.fd().as_raw_fd())?;
        if st.st_nlink == 0 {
            return Err(volume::errno(libc::ENOENT));
        }
        self.find_other_name(st.st_ino);
        if let Ok(path) = self.path(root) {
            return Ok(path);
        }
        let (path, fd) = search(root.fd().as_raw_fd(), &[], excluded, st.st_ino)?.ok_or_else(|| volume::errno(libc::ENOENT))?;
        *self.fd.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fd);
        Ok(path)
    }
}

fn search(dir: RawFd, path: &[u8], excluded: &Excluded, ino: u64) -> io::Result<Option<(Vec<u8>, OwnedFd)>> {
    for entry in volume::list_dir(dir)? {
        let name = volume::cstr(&entry.name)?;
        if excluded.is_excluded_entry(|| Ok(path), &entry.name, || volume::is_dir_at(dir, &name))? {
            continue;
        }
        let below = volume::join(path, &entry.name);
        let fd = volume::open_path_at(dir, &name)?;
        if entry.ino == ino {
            return Ok(Some((below, fd)));
        }
        if entry.kind == libc::DT_DIR
            && let Some(found) = search(fd.as_raw_fd(), &below, excluded, ino)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// All known inodes of one directory.
pub struct Table {
    root: Arc<Inode>,
    device: u64,
    map: RwLock<HashMap<u64, Arc<Inode>>>,
}

impl Table {
    /// A table whose root is an open directory.
    pub fn new(root: OwnedFd) -> io::Result<Self> {
        let st = volume::fstat(root.as_raw_fd())?;
        let root = Inode::new(ROOT, libc::S_IFDIR, false, root);
        root.lookups.store(1, Ordering::Relaxed);
        Ok(Self { root: root.clone(), device: st.st_dev, map: RwLock::new(HashMap::from([(ROOT, root)])) })
    }

    /// The root.
    pub fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// An inode the kernel knows.
    pub fn get(&self, id: u64) -> io::Result<Arc<Inode>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&id).cloned().ok_or_else(|| volume::errno(libc::ESTALE))
    }

    /// Looks a name up and counts it as known to the kernel. `local`: by this name it is not replicated.
    pub fn lookup(&self, parent: &Inode, name: &CStr, local: bool) -> io::Result<(Arc<Inode>, Stat)> {
        let fd = volume::open_path_at(parent.fd().as_raw_fd(), name)?;
        self.enter(fd, local)
    }

    /// Counts an object as known to the kernel.
    pub fn enter(&self, fd: OwnedFd, local: bool) -> io::Result<(Arc<Inode>, Stat)> {
        let st = volume::fstat(fd.as_raw_fd())?;
        if st.st_dev != self.device {
            // Another file system mounted inside is not part of the replicated tree and must not look like it.
            return Err(volume::errno(libc::EXDEV));
        }
        let id = st.st_ino;
        {
            let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(inode) = map.get(&id) {
                inode.lookups.fetch_add(1, Ordering::AcqRel);
                let inode = inode.clone();
                drop(map);
                // A file may have had names of both sorts before it was served. With one that is replicated it is, and is known
                // by it.
                let is_found = !inode.is_dir() && inode.is_local() && !local;
                if is_found {
                    inode.set_local(false);
                }
                let is_lost = || inode.is_local() == local && st.st_nlink > 1 && inode.path(&self.root).is_err();
                if is_found || !inode.is_dir() && is_lost() {
                    *inode.fd.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fd);
                }
                return Ok((inode, st));
            }
        }
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let inode = map.entry(id).or_insert_with(|| Inode::new(id, volume::kind(&st), local, fd)).clone();
        inode.lookups.fetch_add(1, Ordering::AcqRel);
        Ok((inode, st))
    }

    /// Number of objects known.
    pub fn len(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether only the root is known.
    pub fn is_empty(&self) -> bool {
        self.len() <= 1
    }

    /// Up to so many objects the kernel may be asked to forget: nothing open, no directories, since somebody may
    /// stand in them.
    pub fn idle(&self, count: usize) -> Vec<Arc<Inode>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.values().filter(|i| !i.is_dir() && i.opens.load(Ordering::Acquire) == 0).take(count).cloned().collect()
    }

    /// An object known already, without counting.
    pub fn peek(&self, id: u64) -> Option<Arc<Inode>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The kernel forgot so many lookups; returns the inode if it forgot it altogether.
    pub fn forget(&self, id: u64, count: u64) -> Option<Arc<Inode>> {
        if id == ROOT {
            return None;
        }
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let inode = map.get(&id)?;
        let before = inode.lookups.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| Some(n.saturating_sub(count))).unwrap_or(0);
        if before > count { None } else { map.remove(&id) }
    }
}
