//! Pacemaker with Corosync: two nodes, virtual address and the ledger as a group, no fencing, no data.

use super::peer::{Peer, PeerLab, PeerRuns, app_script, put, row};
use super::say;
use crate::lab::Lab;
use crate::lab::names::{Network, VIP, number_of};
use anyhow::Result;

/// Token and consensus of Corosync.
#[derive(Debug, Clone, Copy)]
struct Settings {
    /// In the rows.
    name: &'static str,
    /// Lines of `totem`.
    totem: &'static str,
}

/// As Debian ships it: token 3000 ms, consensus 1.2 × token.
const DEFAULT: Settings = Settings { name: "pacemaker", totem: "" };
/// As fast as its manual allows two nodes to be.
const TUNED: Settings = Settings { name: "pacemaker token 1000 consensus 200", totem: "    token: 1000\n    consensus: 200\n" };

/// Whose median is the ordinary bar.
pub const DEFAULT_NAME: &str = DEFAULT.name;
/// Whose median at least one explicit setting must be below.
pub const TUNED_NAME: &str = TUNED.name;

struct Pacemaker(Settings);

impl Peer for Pacemaker {
    fn boot(&self, lab: &Lab, host: &str) -> Result<()> {
        let mut nodes = String::new();
        let mut hosts = String::from("127.0.0.1 localhost\n");
        for (id, name) in [(1, "n1"), (2, "n2")] {
            let addr = Network::Private.addr(number_of(name)?);
            nodes += &format!("    node {{\n        name: {name}\n        nodeid: {id}\n        ring0_addr: {addr}\n    }}\n");
            hosts += &format!("{addr} {name}\n");
        }
        let corosync = format!(
            "totem {{\n    version: 2\n    cluster_name: lab\n    transport: knet\n    crypto_cipher: none\n    crypto_hash: none\n{}}}\n\
             logging {{\n    to_stderr: no\n    to_syslog: no\n    to_logfile: yes\n    logfile: /var/log/cluster/corosync.log\n    timestamp: hires\n}}\n\
             quorum {{\n    provider: corosync_votequorum\n    two_node: 1\n}}\nnodelist {{\n{nodes}}}\n",
            self.0.totem
        );
        put(lab, host, "/etc/hosts", "644", &hosts)?;
        put(lab, host, "/etc/corosync/corosync.conf", "644", &corosync)?;
        put(lab, host, "/usr/lib/ocf/resource.d/lab/ledger", "755", &agent())?;
        // The ring buffers of its processes and its sockets are in /dev/shm and /run, which every host has for itself.
        lab.sh(
            host,
            "mkdir -p /run/lock /run/resource-agents /run/cluster /var/log/cluster /var/log/pacemaker /var/log/crmsh /var/lib/corosync
             chown hacluster:haclient /var/log/pacemaker
             setsid corosync -f >/var/log/corosync.out 2>&1 </dev/null &
             for i in $(seq 100); do corosync-cfgtool -s >/dev/null 2>&1 && break; sleep 0.1; done
             PCMK_logfile=/var/log/pacemaker/pacemaker.log setsid pacemakerd >/var/log/pacemakerd.out 2>&1 </dev/null &
             exit 0",
        )
        .map(drop)
    }

    fn is_whole(&self, lab: &Lab) -> bool {
        ["n1", "n2"].iter().all(|host| {
            lab.sh(host, "crm_mon -1 2>/dev/null").is_ok_and(|said| said.contains("Online: [ n1 n2 ]") && said.contains("Current DC: n"))
        })
    }
}

/// An agent of our own: faster than the generic `anything`, which starts a login shell each time.
fn agent() -> String {
    let meta = r#"#!/bin/sh
: ${OCF_FUNCTIONS_DIR=${OCF_ROOT}/lib/heartbeat}
. ${OCF_FUNCTIONS_DIR}/ocf-shellfuncs
if [ "$1" = meta-data ]; then
cat <<X
<?xml version="1.0"?><!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="ledger" version="1.0"><version>1.0</version><longdesc lang="en">bench</longdesc><shortdesc lang="en">bench</shortdesc>
<parameters/><actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/><action name="monitor" timeout="20s" interval="10s" depth="0"/><action name="meta-data" timeout="5s"/></actions></resource-agent>
X
exit 0
fi
"#;
    // Pacemaker's own search path is not the host's.
    format!("{meta}PATH=$PATH:/usr/bin\n{}", app_script().trim_start_matches("#!/bin/sh\n"))
}

fn resources() -> String {
    let bounds = "op start timeout=20s interval=0 op stop timeout=20s interval=0";
    format!(
        "property stonith-enabled=false no-quorum-policy=ignore
rsc_defaults resource-stickiness=100
primitive vip ocf:heartbeat:IPaddr2 params ip={VIP} cidr_netmask=24 nic={} op monitor interval=10s {bounds}
primitive app ocf:lab:ledger op monitor interval=10s timeout=20s {bounds}
group web vip app
",
        Network::Client.interface()
    )
}

fn start(lab: &str, settings: Settings) -> Result<PeerLab<Pacemaker>> {
    super::peer::need(&["corosync", "pacemakerd", "crm", "cibadmin"])?;
    say(&format!("{}: two nodes are formed (about half a minute)", settings.name));
    let cluster = PeerLab::start(lab, Pacemaker(settings))?;
    crate::setup::wait_for("Pacemaker's two nodes", std::time::Duration::from_secs(120), || {
        Pacemaker(settings).is_whole(&cluster.lab).then_some(())
    })?;
    put(&cluster.lab, "n1", "/run/resources.crm", "644", &resources())?;
    cluster.lab.sh("n1", "crm configure load update /run/resources.crm")?;
    cluster.wait_whole()?;
    Ok(cluster)
}

/// Every row this peer has a figure for among `wanted`, `runs` runs each.
pub fn measure(lab: &str, wanted: &[&str], runs: usize, into: &mut PeerRuns) -> Result<()> {
    for settings in [DEFAULT, TUNED] {
        let is_default = settings.name == DEFAULT.name;
        if !wanted.contains(&row::POWER_OFF) && !is_default {
            continue;
        }
        let cluster = start(lab, settings)?;
        let mut note = |kind: &'static str, name: String, run: &dyn Fn() -> Result<f64>| -> Result<()> {
            if !wanted.contains(&kind) {
                return Ok(());
            }
            for turn in 1..=runs {
                let seconds = run()?;
                say(&format!("{name}: {kind} {turn}/{runs}: {seconds:.2} s"));
                into.entry(kind).or_default().entry(name.clone()).or_default().push(seconds);
            }
            Ok(())
        };
        note(row::POWER_OFF, settings.name.to_owned(), &|| cluster.power_off())?;
        if !is_default {
            continue;
        }
        note(row::STOP, format!("{} standby", settings.name), &|| {
            let mut node = "";
            let seconds = cluster.measure(true, |this, holder| {
                node = holder;
                this.lab.sh(holder, "crm_standby -v on").map(drop)
            })?;
            cluster.lab.sh(node, "crm_standby -D")?;
            Ok(seconds)
        })?;
        note(row::MOVE, format!("{} move", settings.name), &|| {
            let seconds = cluster.measure(true, |this, holder| {
                this.lab.sh(holder, &format!("crm_resource --move -r web -N {}", this.other(holder))).map(drop)
            })?;
            cluster.lab.sh("n1", "crm_resource --clear -r web")?;
            Ok(seconds)
        })?;
        for (interval, name) in [("10s", "pacemaker monitor 10 s"), ("1s", "pacemaker monitor 1 s")] {
            if !wanted.contains(&row::APP_KILLED) {
                break;
            }
            cluster.lab.sh("n1", &format!("cibadmin --modify --xml-text '<op id=\"app-monitor-10s\" interval=\"{interval}\"/>'"))?;
            note(row::APP_KILLED, name.to_owned(), &|| {
                let seconds = cluster.app_killed()?;
                cluster.lab.sh("n1", "crm_resource --cleanup -r app >/dev/null 2>&1; crm_resource --wait --timeout=60")?;
                Ok(seconds)
            })?;
        }
    }
    Ok(())
}
