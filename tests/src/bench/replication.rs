//! What a write to two servers costs: the same work in a plain directory of the host's disk, in a directory of ours that no
//! peer follows, in a replicated one as it is shipped, and in a volume of `GlusterFS` with two replicas at its defaults.
//!
//! All four are there at the same time, on the same two hosts, and take turns within each repetition; a row is the median.
//! Two sets of hosts: with disks on this machine's disk, and with disks in its memory, where a flush costs next to nothing
//! and what is left is the cost of the software. The verdict of a row is its ratio to `GlusterFS`; the ratio to the plain
//! directory is shown beside what it should be.

use super::{Row, median, say};
use crate::check::modules_dir;
use crate::files::Files;
use crate::lab::names::{VIP, number_of};
use crate::lab::{Network, Plan};
use crate::setup::{self, CLUSTER, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

const BENCH: &str = "replication";
/// Repetitions of each work in each place.
const RUNS: usize = 5;
/// Every disk on this machine's disk,
const DISK_BYTES: u64 = 8 << 30;
/// and in its memory. All of it is written once before anything is measured: memory that is touched for the first time is
/// many times slower than a disk of memory should be, and whoever comes first would pay for the others.
const MEMORY_DISK_BYTES: u64 = 4 << 30;
/// What is left free then (MiB): the hosts write to it meanwhile.
const LEFT_FREE_MIB: u64 = 256;
/// What is left of this machine's memory (MiB) when all else of it is touched once; see there.
const LEFT_ALONE_MIB: u64 = 2048;
/// A module of ours on one node, or a volume of the peer's, is there within this time.
const START_BOUND: Duration = Duration::from_secs(120);
/// A file that is written and read in places.
const FILE: &str = "64m";
/// Seconds of a measurement that is ended by time.
const SECONDS: u32 = 3;

/// The module whose stream is not enciphered; see `TSUGI_TEST_NO_TLS`.
const PLAIN_MODULE: &str = "plain";
/// The module whose requests come over the device; see `TSUGI_TEST_DEVICE`.
const DEVICE_MODULE: &str = "device";

/// Replicated, as shipped.
const OURS: &str = "ours";
/// Plain directory.
const NATIVE: &str = "native";
/// A directory of ours without a peer.
const ALONE: &str = "ours without a peer";
/// Replicated, all but TLS as shipped.
const PLAIN: &str = "ours without TLS";
/// Replicated, all as shipped but how the kernel's requests arrive.
const DEVICE: &str = "ours over the device";
/// The peer.
const GLUSTER: &str = "GlusterFS";

/// What may be chosen.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "replication")]
pub struct Choice {
    /// Only the rows whose name contains one of these words.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Set up and wait for the end of the input instead of measuring, for whoever wants to look by hand.
    #[arg(long)]
    pub hold: bool,
}

/// A directory to work in.
struct Place {
    name: &'static str,
    dir: &'static str,
    /// Type of the file system, as the kernel says it.
    kind: &'static str,
}

const PLACES: [Place; 4] = [
    Place { name: NATIVE, dir: "/srv/host/native", kind: "ext4" },
    Place { name: ALONE, dir: "/srv/data/alone", kind: "fuse.tsugi" },
    Place { name: OURS, dir: crate::files::DIR, kind: "fuse.tsugi" },
    Place { name: GLUSTER, dir: "/srv/gluster", kind: "fuse.glusterfs" },
];

/// What TLS costs: the same with and without.
const TLS_PLACES: [Place; 2] =
    [Place { name: OURS, dir: crate::files::DIR, kind: "fuse.tsugi" }, Place { name: PLAIN, dir: "/srv/data/plain", kind: "fuse.tsugi" }];
/// What io_uring gives: the same with and without.
const RING_PLACES: [Place; 2] =
    [Place { name: OURS, dir: crate::files::DIR, kind: "fuse.tsugi" }, Place { name: DEVICE, dir: "/srv/data/device", kind: "fuse.tsugi" }];

/// Where the hosts have their disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Disk,
    Memory,
}

/// Work whose rate is measured.
struct Work {
    row: &'static str,
    unit: &'static str,
    store: Store,
    /// Ours to native, at least; shown.
    to_native: Option<f64>,
    /// Ours to the peer's, at least: the verdict.
    to_gluster: f64,
    how: How,
}

enum How {
    /// `fio` with these arguments; `ready` once before, in every place.
    Fio { file: &'static str, args: &'static str, is_cold: bool, is_fresh: bool, bytes: bool },
    /// A line of the shell in the directory `$D`, which is empty; the rate is `count` to its seconds.
    Line { before: &'static str, line: &'static str, count: f64 },
    /// PostgreSQL's own benchmark.
    Pgbench,
}

const WRITE_SYNC: How =
    How::Fio { file: "random", args: "--rw=randwrite --bs=4k --fdatasync=1", is_cold: false, is_fresh: false, bytes: false };

/// Makes small files, writes 4 KiB to each.
const CREATE: &str = "tsugi-lab work create $D/files 2000";

const WORKS: &[Work] = &[
    Work { row: "1 4k write + fdatasync", unit: "/s", store: Store::Disk, to_native: Some(0.5), to_gluster: 2.0, how: WRITE_SYNC },
    Work { row: "2 the same, 8 jobs", unit: "/s", store: Store::Disk, to_native: Some(0.28), to_gluster: 2.5, how: WRITE_SYNC_8 },
    Work {
        row: "3 16k append + fsync",
        unit: "/s",
        store: Store::Memory,
        to_native: Some(0.35),
        to_gluster: 2.0,
        how: How::Fio { file: "log", args: "--rw=write --bs=16k --fsync=1 --size=1g", is_cold: false, is_fresh: true, bytes: false },
    },
    Work {
        row: "4 PostgreSQL TPC-B, 4 clients",
        unit: "/s",
        store: Store::Disk,
        to_native: Some(0.55),
        to_gluster: 2.5,
        how: How::Pgbench,
    },
    Work {
        row: "5 4k write, no fsync",
        unit: "/s",
        store: Store::Memory,
        to_native: Some(0.10),
        to_gluster: 2.5,
        how: How::Fio { file: "random", args: "--rw=randwrite --bs=4k", is_cold: false, is_fresh: false, bytes: false },
    },
    Work {
        row: "6 1M write + fsync",
        unit: "MB/s",
        store: Store::Memory,
        to_native: Some(0.25),
        to_gluster: 1.3,
        how: How::Fio { file: "large", args: "--rw=write --bs=1m --end_fsync=1 --size=512m", is_cold: false, is_fresh: true, bytes: true },
    },
    Work {
        row: "7 small create, no fsync",
        unit: "/s",
        store: Store::Memory,
        to_native: Some(0.10),
        to_gluster: 6.0,
        how: How::Line { before: "", line: CREATE, count: 2000.0 },
    },
    Work { row: "8 small create + fsync", unit: "/s", store: Store::Memory, to_native: Some(0.30), to_gluster: 4.0, how: CREATE_SYNC },
    Work {
        row: "9 untar of 1,831 entries",
        unit: "/s",
        store: Store::Memory,
        to_native: Some(0.10),
        to_gluster: 4.5,
        how: How::Line { before: "", line: "tar -xf /run/bench/tree.tar -C $D", count: 1.0 },
    },
    Work { row: "9 rm -rf of that", unit: "/s", store: Store::Memory, to_native: Some(0.20), to_gluster: 7.0, how: REMOVE },
    Work {
        row: "10 git clone",
        unit: "/s",
        store: Store::Memory,
        to_native: Some(0.65),
        to_gluster: 3.5,
        how: How::Line { before: "", line: "git -c advice.detachedHead=false clone -q file:///run/bench/repo.git $D/clone", count: 1.0 },
    },
    Work {
        row: "11 SQLite, write-ahead log",
        unit: "/s",
        store: Store::Memory,
        to_native: None,
        to_gluster: 5.0,
        how: How::Line {
            before: "sqlite3 $D/db 'PRAGMA journal_mode=WAL; CREATE TABLE t (a, b)'",
            line: "sqlite3 $D/db </run/bench/wal.sql",
            count: 1000.0,
        },
    },
    Work {
        row: "11 SQLite, rollback journal",
        unit: "/s",
        store: Store::Memory,
        to_native: None,
        to_gluster: 4.5,
        how: How::Line { before: "sqlite3 $D/db 'CREATE TABLE t (a, b)'", line: "sqlite3 $D/db </run/bench/journal.sql", count: 200.0 },
    },
    Work {
        row: "12 4k random read, cached",
        unit: "/s",
        store: Store::Memory,
        to_native: Some(0.80),
        to_gluster: 0.85,
        how: How::Fio { file: "random", args: "--rw=randread --bs=4k", is_cold: false, is_fresh: false, bytes: false },
    },
    Work {
        row: "12 1M sequential read, cold",
        unit: "MB/s",
        store: Store::Disk,
        to_native: Some(0.90),
        to_gluster: 1.3,
        how: How::Fio { file: "read", args: "--rw=read --bs=1m --size=512m", is_cold: true, is_fresh: false, bytes: true },
    },
    Work {
        row: "12 4k random read, cold",
        unit: "/s",
        store: Store::Disk,
        to_native: Some(0.50),
        to_gluster: 2.0,
        how: How::Fio { file: "read", args: "--rw=randread --bs=4k --size=512m", is_cold: true, is_fresh: false, bytes: false },
    },
    Work {
        row: "13 1M read, cached",
        unit: "MB/s",
        store: Store::Memory,
        to_native: Some(0.35),
        to_gluster: 1.0,
        how: How::Fio { file: "random", args: "--rw=read --bs=1m", is_cold: false, is_fresh: false, bytes: true },
    },
];

const WRITE_SYNC_8: How = How::Fio {
    file: "random",
    args: "--rw=randwrite --overwrite=1 --bs=4k --fdatasync=1 --numjobs=8 --filename_format=of8.$jobnum",
    is_cold: false,
    is_fresh: false,
    bytes: false,
};
const CREATE_SYNC: How = How::Line { before: "", line: "tsugi-lab work create $D/files 1000 --fsync", count: 1000.0 };
const REMOVE: How = How::Line { before: "tar -xf /run/bench/tree.tar -C $D", line: "rm -rf $D/tree", count: 1.0 };
const WRITE: How = How::Fio { file: "random", args: "--rw=randwrite --bs=4k", is_cold: false, is_fresh: false, bytes: false };
const WRITE_LARGE: How =
    How::Fio { file: "large", args: "--rw=write --bs=1m --end_fsync=1 --size=512m", is_cold: false, is_fresh: true, bytes: true };

/// The rows of the cost of TLS: ours beside ours without it. A figure, not a verdict.
const TLS_WORKS: &[Work] = &[
    Work {
        row: "14 cost of TLS, 4k write + fdatasync",
        unit: "/s",
        store: Store::Memory,
        to_native: None,
        to_gluster: 0.0,
        how: WRITE_SYNC,
    },
    Work { row: "14 cost of TLS, 4k write, no fsync", unit: "/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: WRITE },
    Work {
        row: "14 cost of TLS, 1M write + fsync",
        unit: "MB/s",
        store: Store::Memory,
        to_native: None,
        to_gluster: 0.0,
        how: WRITE_LARGE,
    },
];

/// The rows of what io_uring gives: ours beside ours over the device. A figure, not a verdict.
const RING_WORKS: &[Work] = &[
    Work { row: "15 io_uring, 4k write + fdatasync", unit: "/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: WRITE_SYNC },
    Work { row: "15 io_uring, the same, 8 jobs", unit: "/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: WRITE_SYNC_8 },
    Work { row: "15 io_uring, 4k write, no fsync", unit: "/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: WRITE },
    Work { row: "15 io_uring, 1M write + fsync", unit: "MB/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: WRITE_LARGE },
    Work {
        row: "15 io_uring, 4k random read, direct",
        unit: "/s",
        store: Store::Memory,
        to_native: None,
        to_gluster: 0.0,
        how: How::Fio { file: "random", args: "--rw=randread --bs=4k --direct=1", is_cold: false, is_fresh: false, bytes: false },
    },
    Work { row: "15 io_uring, small create + fsync", unit: "/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: CREATE_SYNC },
    Work { row: "15 io_uring, rm -rf of 1,831 entries", unit: "/s", store: Store::Memory, to_native: None, to_gluster: 0.0, how: REMOVE },
];

/// Every row that is wanted; `is_quick`: one repetition, which shows that it works and proves nothing.
pub fn run(choice: &Choice, is_quick: bool, put: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    super::peer::need(&["fio", "glusterd", "gluster", "sqlite3", "git", "tar"])?;
    for store in [Store::Memory, Store::Disk] {
        let is_wanted =
            |w: &&Work| w.store == store && (choice.rows.is_empty() || choice.rows.iter().any(|word| w.row.contains(word.as_str())));
        let of = |works: &'static [Work], places: &'static [Place]| works.iter().filter(is_wanted).map(move |w| (w, places));
        let works: Vec<(&Work, &[Place])> =
            of(WORKS, &PLACES).chain(of(TLS_WORKS, &TLS_PLACES)).chain(of(RING_WORKS, &RING_PLACES)).collect();
        if works.is_empty() {
            continue;
        }
        say(&format!("two hosts with their disks {}", if store == Store::Disk { "on this machine's disk" } else { "in memory" }));
        let site = Site::start(store)?;
        if choice.hold {
            let dirs: Vec<&str> = PLACES.iter().map(|p| p.dir).collect();
            say(&format!("held until the input ends; on host n1: {}", dirs.join(" ")));
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            // Whoever measured by hand is told as well if it was not what it seemed.
            site.check()?;
            continue;
        }
        for (work, places) in works {
            put(site.measure(work, if is_quick { 1 } else { RUNS }, places)?)?;
        }
    }
    Ok(())
}

/// Touches what is free of this machine's memory once. A virtual machine gets it from its host page by page when it is first
/// used: without this, whoever works early in a run pays for the caches of all the others.
fn touch_memory() -> Result<()> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).context("/proc/meminfo has no MemAvailable")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("/proc/meminfo says {line}"))?;
    let mut pages = vec![0_u8; usize::try_from((kib / 1024).saturating_sub(LEFT_ALONE_MIB) << 20)?];
    pages.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&pages);
    Ok(())
}

/// The hosts, everything started.
struct Site {
    pair: Files,
}

impl Site {
    fn start(store: Store) -> Result<Site> {
        let in_memory = store == Store::Memory;
        let disk_bytes = if in_memory { MEMORY_DISK_BYTES } else { DISK_BYTES };
        if in_memory {
            touch_memory()?;
        }
        let env = [("TSUGI_TEST_NO_TLS", PLAIN_MODULE), ("TSUGI_TEST_DEVICE", DEVICE_MODULE)];
        let env = env.map(|(name, module)| (name.to_owned(), module.to_owned())).into();
        let pair = Files::start_with("b-repl", Plan { disk_bytes, in_memory, env, ..Plan::default() }, |c| c)?;
        let site = Site { pair };
        if in_memory {
            for host in ["n1", "n2"] {
                let free = site.pair.lab.sh(host, "df -BM --output=avail /srv/host | tail -n 1")?;
                let free: u64 = free.trim().trim_end_matches('M').parse().with_context(|| format!("df said {free}"))?;
                let count = free.saturating_sub(LEFT_FREE_MIB);
                site.pair.lab.sh(
                    host,
                    &format!("cd /srv/host && dd if=/dev/zero of=fill bs=1M count={count} conv=fsync status=none && rm fill && sync -f ."),
                )?;
            }
        }
        site.start_alone()?;
        site.start_others()?;
        site.start_gluster()?;
        site.prepare()?;
        site.check()?;
        Ok(site)
    }

    fn sh(&self, line: &str) -> Result<String> {
        self.pair.lab.sh("n1", line)
    }

    /// A second module, which only one node serves.
    fn start_alone(&self) -> Result<()> {
        const MODULE: &str = "alone";
        let (lab, api) = (&self.pair.lab, &self.pair.api);
        let dir = PLACES[1].dir;
        for host in ["n1", "n2"] {
            lab.sh(host, &format!("mkdir -p {dir}"))?;
        }
        setup::apply_module(api, MODULE, &["n1", "n2"], &without_address(dir)?)?;
        api.action(CLUSTER, MODULE, "prim", Some("n1"))?;
        api.wait_module(CLUSTER, MODULE, "n1 serves", START_BOUND, |v| v.state("n1") == crate::api::ALONE).map(drop)
    }

    /// A third and a fourth one, replicated as the first but for one thing.
    fn start_others(&self) -> Result<()> {
        self.start_other(PLAIN_MODULE, TLS_PLACES[1].dir)?;
        self.start_other(DEVICE_MODULE, RING_PLACES[1].dir)?;
        for host in ["n1", "n2"] {
            let log = std::fs::read_to_string(self.pair.lab.places().host(host).join("agent.log"))?;
            ensure!(log.contains("TSUGI_TEST_NO_TLS"), "on {host} the module {PLAIN_MODULE} is enciphered: there is nothing to compare");
        }
        let is_ring = |module: &str| anyhow::Ok(self.sh(&format!("tsugi rfs status -m {module} --json"))?.contains("\"io_uring\""));
        ensure!(!is_ring(DEVICE_MODULE)?, "on n1 the module {DEVICE_MODULE} is not over the device: there is nothing to compare");
        if !is_ring(crate::files::MODULE)? {
            say("the kernel of this machine does not offer io_uring to FUSE: its rows compare a thing with itself");
        }
        Ok(())
    }

    fn start_other(&self, module: &str, dir: &str) -> Result<()> {
        let (lab, api) = (&self.pair.lab, &self.pair.api);
        for host in ["n1", "n2"] {
            lab.sh(host, &format!("mkdir -p {dir} && sync {dir}"))?;
        }
        setup::apply_module(api, module, &["n1", "n2"], &without_address(dir)?)?;
        api.action(CLUSTER, module, "prim", Some("n1"))?;
        api.wait_module(CLUSTER, module, "n1 serves", START_BOUND, |v| v.state("n1") == crate::api::ALONE)?;
        api.action(CLUSTER, module, "start", Some("n2"))?;
        let is_replicated = |v: &crate::api::ModuleView| v.state("n1") == crate::api::PRIM && v.state("n2") == crate::api::SECOND;
        api.wait_module(CLUSTER, module, "it is replicated", START_BOUND, is_replicated).map(drop)
    }

    /// Two daemons, one volume with two replicas, mounted where the work is done.
    fn start_gluster(&self) -> Result<()> {
        let lab = &self.pair.lab;
        let address = |host| anyhow::Ok(Network::Private.addr(number_of(host)?).to_string());
        let (one, two) = (address("n1")?, address("n2")?);
        for host in ["n1", "n2"] {
            lab.sh(host, "mkdir -p /srv/host/brick /srv/gluster /var/log/glusterfs /var/lib/glusterd && rm -f /var/lib/glusterd/glusterd.info && glusterd")?;
        }
        let gluster = |line: &str| lab.sh("n1", &format!("gluster --mode=script {line}"));
        wait_for("the daemons to know each other", START_BOUND, || {
            gluster(&format!("peer probe {two}")).ok()?;
            gluster("peer status").ok()?.contains("Peer in Cluster (Connected)").then_some(())
        })?;
        gluster(&format!("volume create bench replica 2 {one}:/srv/host/brick {two}:/srv/host/brick force"))?;
        gluster("volume start bench")?;
        wait_for("the volume", START_BOUND, || lab.sh("n1", &format!("mount -t glusterfs {one}:/bench /srv/gluster")).ok())?;
        // Both replicas take part from the first write on.
        lab.sh("n1", "echo there >/srv/gluster/there && sync -f /srv/gluster/there")?;
        wait_for("the second replica", START_BOUND, || lab.sh("n2", "test -s /srv/host/brick/there").ok()).map(drop)
    }

    /// What the works need: a tree, an archive of it, a repository of it, statements.
    fn prepare(&self) -> Result<()> {
        self.sh("mkdir -p /run/bench && tsugi-lab work tree /run/bench/tree && cd /run/bench && tar -cf tree.tar tree")?;
        self.sh("cd /run/bench && rm -rf src && cp -r tree src && cd src && git init -q && git add . && git -c user.name=b -c user.email=b@b commit -qm all && git clone -q --bare . ../repo.git && rm -rf ../src")?;
        let insert = |count: usize, pragma: &str| {
            let mut text = format!("{pragma}\n");
            (0..count).for_each(|n| {
                text += &format!(
                    "INSERT INTO t VALUES ({n}, 'a row of about a hundred bytes, as many applications write them, one in a transaction');\n"
                )
            });
            text
        };
        let put = |name: &str, text: String| anyhow::Ok(std::fs::write(self.pair.lab.path_in("n1", &format!("/run/bench/{name}"))?, text)?);
        put("wal.sql", insert(1000, "PRAGMA synchronous=NORMAL;"))?;
        put("journal.sql", insert(200, "PRAGMA synchronous=FULL;"))
    }

    /// Every place is what it is taken for, and has its peer. Without this a directory that is not mounted would look fast.
    fn check(&self) -> Result<()> {
        for place in PLACES.iter().chain(&TLS_PLACES[1..]).chain(&RING_PLACES[1..]) {
            let kind = self.sh(&format!("findmnt -n -o FSTYPE -T {}", place.dir))?;
            ensure!(kind == place.kind, "{} is on {kind}, not on {}: nothing can be measured", place.dir, place.kind);
        }
        let view = self.pair.api.module(CLUSTER, crate::files::MODULE)?;
        ensure!(
            view.state("n1") == crate::api::PRIM && view.state("n2") == crate::api::SECOND,
            "the module is not replicated any more: {}",
            view.line()
        );
        let status = self.sh("gluster --mode=script volume status bench")?;
        ensure!(status.lines().filter(|l| l.starts_with("Brick") && l.contains(" Y ")).count() == 2, "a brick is not online: {status}");
        Ok(())
    }

    fn measure(&self, work: &Work, runs: usize, places: &[Place]) -> Result<Row> {
        let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        if let How::Fio { file, args, is_fresh: false, .. } = &work.how {
            for place in places {
                self.lay_out(place, file, args)?;
            }
        }
        if let How::Pgbench = work.how {
            for (number, place) in places.iter().enumerate() {
                self.init_database(place, number)?;
            }
        }
        for turn in 0..runs {
            for step in 0..places.len() {
                let number = (turn + step) % places.len();
                let place = &places[number];
                // What the one before left unwritten is not to be paid for by the next.
                for host in ["n1", "n2"] {
                    self.pair.lab.sh(host, "sync -f /srv/host")?;
                }
                let rate = match &work.how {
                    How::Fio { file, args, is_cold, is_fresh, bytes } => self.fio(place, file, args, *is_cold, *is_fresh, *bytes)?,
                    How::Line { before, line, count } => count / self.line(place, before, line)?,
                    How::Pgbench => self.pgbench(place, number)?,
                };
                rates.entry(place.name).or_default().push(rate);
            }
            let now = |name| rates.get(name).and_then(|r| r.last()).copied().unwrap_or(f64::NAN);
            let all: Vec<String> = places.iter().map(|p| format!("{} {:.1}", p.name, now(p.name))).collect();
            say(&format!("{} {}/{runs}: {}", work.row, turn + 1, all.join(" · ")));
        }
        if let How::Pgbench = work.how {
            places.iter().try_for_each(|place| self.sh(&format!("rm -rf {}/pg", place.dir)).map(drop))?;
        }
        self.check()?;
        let ours = rates.remove(OURS).context("ours was not measured")?;
        let peers: BTreeMap<String, Vec<f64>> = rates.into_iter().map(|(name, runs)| (name.to_owned(), runs)).collect();
        let other =
            peers.get(GLUSTER).or_else(|| peers.get(PLAIN)).or_else(|| peers.get(DEVICE)).context("nothing was measured beside ours")?;
        let to_other = median(&ours) / median(other);
        let name = format!("{}, {}", work.row, if work.store == Store::Disk { "disk" } else { "memory" });
        let mut row = Row::at_most(BENCH, &name, work.unit, work.to_gluster, ours).beside(&peers);
        row.better = "higher";
        row.worst = row.runs.iter().copied().fold(f64::NAN, f64::min);
        row.ratio = Some(to_other);
        row.holds = to_other >= work.to_gluster;
        if row.peers.contains_key(GLUSTER) {
            row.bars.insert(GLUSTER.to_owned(), work.to_gluster);
        }
        row.bar = None;
        if let Some(bar) = work.to_native {
            row.bars.insert(NATIVE.to_owned(), bar);
        }
        Ok(row)
    }

    /// The file that is written in places or read.
    fn lay_out(&self, place: &Place, file: &str, args: &str) -> Result<()> {
        let size = args.split(' ').find_map(|a| a.strip_prefix("--size=")).unwrap_or(FILE);
        let line = format!(
            "fio --name=lay --filename={}/{file} --rw=write --bs=1m --size={size} --fallocate=none --end_fsync=1 --output-format=json",
            place.dir
        );
        self.sh(&format!("test -e {0}/{file} || {line} >/dev/null", place.dir)).map(drop)
    }

    fn fio(&self, place: &Place, file: &str, args: &str, is_cold: bool, is_fresh: bool, bytes: bool) -> Result<f64> {
        let path = format!("{}/{file}", place.dir);
        // Jobs with files of their own say so themselves. (`fio` takes a job's name for a file's if there is such a file.)
        let name = if args.contains("--filename_format=") { format!("--directory={}", place.dir) } else { format!("--filename={path}") };
        let size = if args.contains("--size=") { String::new() } else { format!("--size={FILE}") };
        // A file that is written from its beginning is written once; the others as long as the time is.
        let time = if is_fresh || args.contains("--size=") { "" } else { "--time_based" };
        if is_fresh {
            self.sh(&format!("rm -f {path}"))?;
        }
        if is_cold {
            self.sh("sync; echo 3 >/proc/sys/vm/drop_caches")?;
        } else if args.contains("read") {
            // What is read is in memory because it was read, in every place: pages that were written one by one lie scattered.
            self.sh(&format!("sync; echo 3 >/proc/sys/vm/drop_caches; cat {path} >/dev/null"))?;
        }
        let out = self.sh(&format!(
            "fio --name=tsugi-bench {name} '{}' {size} --runtime={SECONDS} {time} --ioengine=psync --fallocate=none \
             --invalidate=0 --group_reporting --output-format=json",
            args.replace(' ', "' '")
        ))?;
        if is_fresh {
            self.sh(&format!("rm -f {path}"))?;
        }
        let out: serde_json::Value = serde_json::from_str(&out[out.find('{').context("fio printed no figures")?..])?;
        let job = &out["jobs"][0];
        let side = if args.contains("read") { &job["read"] } else { &job["write"] };
        // With the time of the flush at the end.
        let seconds = side["runtime"].as_f64().unwrap_or(0.0) / 1000.0;
        let (done, moved) = (side["total_ios"].as_f64().unwrap_or(0.0), side["io_bytes"].as_f64().unwrap_or(0.0));
        ensure!(seconds > 0.0 && done > 0.0, "fio measured nothing in {}: {job}", place.dir);
        Ok(if bytes { moved / 1e6 / seconds } else { done / seconds })
    }

    /// Seconds of a line in an empty directory.
    fn line(&self, place: &Place, before: &str, line: &str) -> Result<f64> {
        let before = if before.is_empty() { ":" } else { before };
        let out = self.sh(&format!(
            "D={}/work; export D; rm -rf $D && mkdir $D && {{ {before}; }} >/dev/null && sync -f $D; \
             a=$(date +%s%N); {line} || exit 1; b=$(date +%s%N); rm -rf $D; echo ns $((b-a))",
            place.dir
        ))?;
        let Some((_, ns)) = out.rsplit_once("ns ") else { bail!("`{line}` in {} printed {out}", place.dir) };
        Ok(ns.trim().parse::<f64>()? / 1e9)
    }

    fn init_database(&self, place: &Place, number: usize) -> Result<()> {
        self.sh(&format!("install -d -o postgres -g postgres -m 700 {}/pg", place.dir))?;
        self.postgres(&format!("initdb -D {}/pg --no-sync >/dev/null", place.dir))?;
        self.with_database(place, number, &format!("pgbench -h /run/postgresql -p {} -i -q -s 10 postgres 2>/dev/null", port(number)))
            .map(drop)
    }

    fn postgres(&self, line: &str) -> Result<String> {
        self.sh(&format!("cd / && PATH=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1):$PATH && export PATH && runuser -u postgres -- sh -c '{line}'"))
    }

    fn with_database(&self, place: &Place, number: usize, line: &str) -> Result<String> {
        let options = format!("-c listen_addresses= -c port={} -c unix_socket_directories=/run/postgresql", port(number));
        self.postgres(&format!(
            "pg_ctl -w -s -D {0}/pg -o \"{options}\" -l /tmp/pg{number}.log start && {line}; code=$?; pg_ctl -s -D {0}/pg -m fast stop; exit $code",
            place.dir
        ))
    }

    fn pgbench(&self, place: &Place, number: usize) -> Result<f64> {
        let line = format!("pgbench -h /run/postgresql -p {} -c 4 -j 2 -T 10 postgres 2>/dev/null", port(number));
        let out = self.with_database(place, number, &line)?;
        let tps = out.lines().find_map(|l| l.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.with_context(|| format!("pgbench said {out}"))
    }
}

/// The shipped module for this directory, without its virtual address.
fn without_address(dir: &str) -> Result<setup::ModuleFiles> {
    let mut files = setup::read_module(&modules_dir().join(crate::files::MODULE), &[("DIR", dir), ("VIP", &VIP.to_string())])?;
    let (before, rest) = files.userconfig.split_once("<vip>").context("the module has no virtual address")?;
    let (_, after) = rest.split_once("</vip>").context("the module's virtual address does not end")?;
    files.userconfig = format!("{before}{after}");
    Ok(files)
}

fn port(number: usize) -> usize {
    5500 + number
}
