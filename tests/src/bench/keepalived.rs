//! keepalived: an address that moves by VRRP, and a script that starts the ledger where it is. No data, and nobody watches
//! the application.

use super::peer::{Peer, PeerLab, PeerRuns, app_script, put, row};
use super::say;
use crate::lab::Lab;
use crate::lab::names::{Network, VIP};
use anyhow::Result;

/// How often the master advertises itself.
#[derive(Debug, Clone, Copy)]
struct Settings {
    name: &'static str,
    globals: &'static str,
    instance: &'static str,
}

const DEFAULT: Settings = Settings { name: "keepalived", globals: "", instance: "" };
/// Parts of a second need version 3 of the protocol.
const FAST: Settings = Settings { name: "keepalived advert_int 0.1", globals: "    vrrp_version 3\n", instance: "    advert_int 0.1\n" };

struct Keepalived(Settings);

impl Peer for Keepalived {
    fn boot(&self, lab: &Lab, host: &str) -> Result<()> {
        let priority = if host == "n1" { 150 } else { 100 };
        let interface = Network::Client.interface();
        let config = format!(
            "global_defs {{\n    router_id {host}\n    script_user root\n    enable_script_security\n{}}}\n\
             vrrp_instance WEB {{\n    state BACKUP\n    nopreempt\n    interface {interface}\n    virtual_router_id 51\n    priority {priority}\n{}\
             \x20   virtual_ipaddress {{\n        {VIP}/24 dev {interface}\n    }}\n\
             \x20   notify_master \"/etc/keepalived/app start\"\n    notify_backup \"/etc/keepalived/app stop\"\n\
             \x20   notify_fault \"/etc/keepalived/app stop\"\n    notify_stop \"/etc/keepalived/app stop\"\n}}\n",
            self.0.globals, self.0.instance
        );
        put(lab, host, "/etc/keepalived/keepalived.conf", "644", &config)?;
        put(lab, host, "/etc/keepalived/app", "755", &app_script())?;
        lab.sh(host, "setsid keepalived -n -P -D -l -f /etc/keepalived/keepalived.conf >/var/log/keepalived.log 2>&1 </dev/null & exit 0")
            .map(drop)
    }

    fn is_whole(&self, lab: &Lab) -> bool {
        let states: Vec<String> = ["n1", "n2"]
            .iter()
            .filter_map(|host| {
                let said = lab
                    .sh(host, "pgrep -x keepalived >/dev/null && grep -o 'Entering [A-Z]* STATE' /var/log/keepalived.log | tail -1")
                    .ok()?;
                said.split(' ').nth(1).map(str::to_owned)
            })
            .collect();
        states.len() == 2 && states.iter().any(|s| s == "MASTER") && states.iter().any(|s| s == "BACKUP")
    }
}

/// Every row this peer has a figure for among `wanted`, `runs` runs each.
pub fn measure(lab: &str, wanted: &[&str], runs: usize, into: &mut PeerRuns) -> Result<()> {
    for settings in [DEFAULT, FAST] {
        let is_default = settings.name == DEFAULT.name;
        let is_wanted = wanted.contains(&row::POWER_OFF) || is_default && wanted.contains(&row::STOP);
        if !is_wanted {
            continue;
        }
        super::peer::need(&["keepalived"])?;
        say(&format!("{}: two nodes are started", settings.name));
        let pair = PeerLab::start(lab, Keepalived(settings))?;
        let mut note = |kind: &'static str, run: &dyn Fn() -> Result<f64>| -> Result<()> {
            if !wanted.contains(&kind) {
                return Ok(());
            }
            for turn in 1..=runs {
                let seconds = run()?;
                say(&format!("{}: {kind} {turn}/{runs}: {seconds:.2} s", settings.name));
                into.entry(kind).or_default().entry(settings.name.to_owned()).or_default().push(seconds);
            }
            Ok(())
        };
        note(row::POWER_OFF, &|| pair.power_off())?;
        if is_default {
            note(row::STOP, &|| {
                let mut node = "";
                let seconds = pair.measure(true, |this, holder| {
                    node = holder;
                    this.lab.sh(holder, "kill $(pgrep -o -x keepalived)").map(drop)
                })?;
                // Its own stop goes on after the address has moved.
                pair.lab.sh(node, "while pgrep -x keepalived >/dev/null; do sleep 0.05; done")?;
                Keepalived(settings).boot(&pair.lab, node)?;
                Ok(seconds)
            })?;
        }
    }
    Ok(())
}
