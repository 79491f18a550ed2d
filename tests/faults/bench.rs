//! A pair under load and under watch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tsugi_core::event::EventRecord;
use tsugi_core::state::{Readiness, Snapshot, State};
use tsugi_tests::api::{Api, ModuleView};
use tsugi_tests::check::{App, Pair};
use tsugi_tests::lab::{Lab, disk};
use tsugi_tests::load::{Acked, Load};
use tsugi_tests::setup::{CLUSTER, ModuleFiles, wait_for};
use tsugi_tests::{events, load};

/// Anything that must come about. Far longer than it takes: other suites may run on the same machine.
pub const BOUND: Duration = Duration::from_secs(120);
/// The client is at work.
const AT_WORK: usize = 100;
/// Labs at a time: a pair leaves a machine of two processors idle most of the time.
const AT_A_TIME: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// One of the places for a lab.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= AT_A_TIME {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A pair with its client; the pair itself watches the virtual address. n1 is PRIM and n2 SECOND at the start.
pub struct Bench {
    pub pair: Pair,
    load: Option<Load>,
    /// Acknowledged by clients that have ended.
    acked: Vec<Acked>,
    _turn: Turn,
}

impl Bench {
    /// The ledger as it is shipped.
    pub fn start(lab: &str) -> Bench {
        Bench::start_with(lab, |_, _, _| Ok(()))
    }

    /// `prepare` does what is wanted before the module is applied, and may change its files.
    pub fn start_with(lab: &str, prepare: impl FnOnce(&Lab, &Api, &mut ModuleFiles) -> anyhow::Result<()>) -> Bench {
        let turn = Turn::take();
        let pair = Pair::start_with(lab, App::Ledger, BTreeMap::new(), true, prepare).unwrap_or_else(|e| panic!("{lab}: {e:#}"));
        let mut bench = Bench { pair, load: None, acked: Vec::new(), _turn: turn };
        bench.begin_load();
        bench
    }

    pub fn lab(&self) -> &Lab {
        &self.pair.lab
    }

    pub fn sh(&self, host: &str, line: &str) -> String {
        self.lab().sh(host, line).unwrap()
    }

    /// A client writes from now on.
    pub fn begin_load(&mut self) {
        self.load = Some(self.pair.load().unwrap());
        self.goes_on();
    }

    /// Ends the client; nobody writes now.
    pub fn end_load(&mut self) {
        if let Some(load) = self.load.take() {
            self.acked.extend(load.stop().unwrap());
        }
    }

    /// Waits until the client has got more acknowledgements.
    pub fn goes_on(&self) {
        let load = self.load.as_ref().expect("a client");
        load.wait_for_more(AT_WORK, BOUND).unwrap_or_else(|e| panic!("{e:#}; {}", self.now()));
    }

    /// Longest time without an acknowledgement since then, in seconds.
    pub fn gap_since(&self, since: Instant) -> f64 {
        self.load.as_ref().expect("a client").longest_gap_since(since).seconds
    }

    /// Requests of the client that failed.
    pub fn failures(&self) -> usize {
        self.load.as_ref().expect("a client").failures()
    }

    /// How the pair stands, for messages.
    pub fn now(&self) -> String {
        self.pair.api.module(CLUSTER, &self.pair.module).map_or_else(|e| format!("{e:#}"), |view| view.line())
    }

    pub fn wait(&self, what: &str, is_so: impl Fn(&ModuleView) -> bool) -> ModuleView {
        self.pair.wait(what, BOUND, is_so).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// The one PRIM and the other SECOND, whichever.
    pub fn wait_pair(&self) -> &'static str {
        let view = self.wait("a pair again", |v| prim_of(v).is_some());
        prim_of(&view).unwrap()
    }

    pub fn wait_roles(&self, prim: &str, second: &str) {
        self.pair.wait_pair(prim, second, BOUND).unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Waits until something holds on a host that is asked by a shell line.
    pub fn wait_sh(&self, host: &str, line: &str, wanted: &str) {
        let said = || self.lab().sh(host, line).unwrap_or_else(|e| format!("{e:#}"));
        wait_for(wanted, BOUND, || said().contains(wanted).then_some(()))
            .unwrap_or_else(|e| panic!("{e:#}\n{host}: {line}:\n{}\n{}", said(), self.now()));
    }

    /// What the node itself says, without the console.
    pub fn snapshot(&self, host: &str) -> Option<Snapshot> {
        let text = self.lab().sh(host, "tsugi state ledger --json").ok()?;
        serde_json::from_str::<Vec<Snapshot>>(&text).ok()?.pop()
    }

    /// Waits until the node itself is in this state, and says what it then says.
    pub fn wait_said(&self, host: &str, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let seen = || self.snapshot(host).filter(|s| is_so(s));
        wait_for(what, BOUND, seen).unwrap_or_else(|e| panic!("{e:#}: {host}: {:?}; {}", self.snapshot(host), self.now()))
    }

    /// The node's own events from `since` (milliseconds of its clock) on.
    pub fn events(&self, host: &str, since: u64) -> Vec<EventRecord> {
        events::of(self.lab(), host, since).unwrap()
    }

    /// A file system of `bytes` of its own, mounted at `/srv/host/NAME`. It may be filled, and shut down, without harm
    /// to the rest of the host.
    fn own_disk(lab: &Lab, host: &str, name: &str, bytes: u64) -> anyhow::Result<()> {
        let image = lab.places().dir.join(format!("{host}-{name}.img"));
        disk::format(&image, bytes)?;
        Self::mount_own(lab, host, name, &image, "ext4")
    }

    fn mount_own(lab: &Lab, host: &str, name: &str, image: &Path, kind: &str) -> anyhow::Result<()> {
        let device = disk::attach(image)?;
        let (path, number) = (device.path.display().to_string(), device.number());
        // The device goes with its last mount, which goes with the host.
        lab.sh(host, &format!("[ -e {path} ] || mknod {path} b 7 {number}"))?;
        lab.sh(host, &format!("mkdir -p /srv/host/{name} && mount -t {kind} {path} /srv/host/{name}"))?;
        Ok(())
    }

    /// The replicated directory on a file system of its own, mounted at `/srv/host/own`. Before the module is applied.
    pub fn own_data(lab: &Lab, host: &str, bytes: u64) -> anyhow::Result<()> {
        Self::own_disk(lab, host, "own", bytes)?;
        lab.sh(host, "mkdir -p /srv/host/own/ledger")?;
        Self::bind_own_data(lab, host)
    }

    fn bind_own_data(lab: &Lab, host: &str) -> anyhow::Result<()> {
        lab.sh(host, "for dir in /srv/host/data /srv/data; do mount --bind /srv/host/own/ledger $dir/ledger || exit 1; done").map(drop)
    }

    /// The replicated directory on a file system of its own, where [`Bench::set_quota`] limits it. Before the module is
    /// applied.
    pub fn own_data_with_quota(lab: &Lab, host: &str) -> anyhow::Result<()> {
        let image = lab.places().dir.join(format!("{host}-own.img"));
        disk::format_with_quotas(&image, 256 << 20)?;
        Self::mount_own(lab, host, "own", &image, "btrfs")?;
        lab.sh(host, "btrfs --quiet subvolume create /srv/host/own/ledger && btrfs quota enable /srv/host/own")?;
        Self::bind_own_data(lab, host)
    }

    /// What the replicated directory may take: `none`, or as much as it has already.
    pub fn set_quota(&self, host: &str, limit: &str) {
        let line =
            format!("cd /srv/host/own && id=$(btrfs inspect-internal rootid ledger) && btrfs qgroup limit {limit} 0/$id . && sync -f .");
        self.sh(host, &line);
    }

    /// What the agent keeps (records, logs, configurations) on a file system of its own, mounted at `/srv/host/store`.
    pub fn own_store(lab: &Lab, host: &str, bytes: u64) -> anyhow::Result<()> {
        lab.set_service(host, "agent", false)?;
        wait_for("the agent's end", BOUND, || lab.sh(host, "! pgrep -x tsugi-agent").ok())?;
        Self::own_disk(lab, host, "store", bytes)?;
        lab.sh(host, "cp -a /var/lib/tsugi/. /srv/host/store && mount --bind /srv/host/store /var/lib/tsugi")?;
        lab.set_service(host, "agent", true)?;
        wait_for("the agent", BOUND, || lab.sh(host, "tsugi state").ok()).map(drop)
    }

    /// Takes the last byte of the file system at this place; [`Bench::empty`] gives it back.
    pub fn fill(&self, host: &str, place: &str) {
        // What others write or give back meanwhile is taken too, until there is nothing left twice in a row.
        let line = format!(
            "left() {{ head -c 512 /dev/zero >>{place}/ballast.$1 2>/dev/null && sync {place}/ballast.$1 2>/dev/null; }}
             n=0; while left $n || left $n.again; do n=$((n + 1)); [ $n -lt 100 ] || exit 1; cat /dev/zero >{place}/ballast.$n 2>/dev/null; done; true"
        );
        self.sh(host, &line);
    }

    pub fn empty(&self, host: &str, place: &str) {
        self.sh(host, &format!("rm -f {place}/ballast.*"));
    }

    /// Shuts the file system at this place of the host down: from now on every write ends with an I/O error.
    pub fn break_disk(&self, host: &str, place: &str) {
        disk::power_off(Path::new(&self.lab().path_in(host, place).unwrap())).unwrap();
    }

    /// Ends client and pair: nothing acknowledged is missing behind the virtual address and in the files of `hosts`,
    /// and the address was never in two places (`Pair` asserts it).
    pub fn finish(mut self, hosts: &[&str]) {
        self.end_load();
        let lost = self.pair.verify(&self.acked, hosts);
        assert!(lost.is_empty(), "{} of {} lost: {:?}", lost.len(), self.acked.len(), &lost[..lost.len().min(5)]);
        println!("{} entries acknowledged", self.acked.len());
    }

    /// What of everything acknowledged is not in the file of `host`.
    pub fn missing_on(&self, host: &str) -> Vec<String> {
        load::lost(&self.acked, &self.pair.read_file(host).unwrap())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.pair.keep_logs();
        }
    }
}

fn prim_of(view: &ModuleView) -> Option<&'static str> {
    let is = |prim: &str, second: &str| {
        view.state(prim) == Some((State::Prim, Readiness::Ready)) && view.state(second) == Some((State::Second, Readiness::Ready))
    };
    if is("n1", "n2") {
        Some("n1")
    } else if is("n2", "n1") {
        Some("n2")
    } else {
        None
    }
}

/// The other node of the pair.
pub fn other(host: &str) -> &'static str {
    if host == "n1" { "n2" } else { "n1" }
}
