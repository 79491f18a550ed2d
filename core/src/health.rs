//! A module's health over all its nodes: one word for lists and tiles, and why.
//!
//! Pure: from what the nodes last said and whether the console still hears them. "No contact" of one node does
//! not change the health by itself: it follows what the nodes in contact report. Two questions stay apart
//! here: does the service run, and would it survive the loss of a node now.

use crate::command::checker_of;
use crate::ids::NodeName;
use crate::module::{Authority, Mode};
use crate::state::{ArbiterView, Readiness, Reason, Replication, Snapshot, State};
use serde::{Deserialize, Serialize};

/// Health of a module; the order is that of lists, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleHealth {
    /// Two nodes serve, or their data histories have parted.
    Conflict,
    /// The service does not run, and nobody ordered that.
    NotReady,
    /// No node that could tell is in contact with the console.
    NoContact,
    /// The service runs and would not survive the loss of a node now.
    AtRisk,
    /// Something is under way that ends by itself.
    InProgress,
    /// Stopped by an administrator (or never started).
    Stopped,
    /// The service runs and would survive the loss of a node.
    Protected,
}

impl ModuleHealth {
    /// Each once, the most urgent first.
    pub fn each() -> [ModuleHealth; 7] {
        use ModuleHealth::*;
        [Conflict, NotReady, NoContact, AtRisk, InProgress, Stopped, Protected]
    }
    /// Word in the API and in URLs.
    pub fn word(self) -> &'static str {
        match self {
            ModuleHealth::Conflict => "conflict",
            ModuleHealth::NotReady => "not_ready",
            ModuleHealth::NoContact => "no_contact",
            ModuleHealth::AtRisk => "at_risk",
            ModuleHealth::InProgress => "in_progress",
            ModuleHealth::Stopped => "stopped",
            ModuleHealth::Protected => "protected",
        }
    }
}

/// Why a module is at risk although it serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "risk", rename_all = "snake_case")]
pub enum Risk {
    /// Only `serving` runs; `missing` would have to take over and cannot.
    Alone { serving: NodeName, missing: Option<NodeName> },
    /// Writes are not on both nodes.
    NotReplicating,
    /// No arbiter answers: automatic failover is off until one does.
    NoArbiter,
    /// `failover="off"`: a person must order the takeover.
    FailoverOff,
    /// `authority="manual"`: a person decides who goes on.
    ManualTakeover,
    /// Under maintenance: `node` takes no action by itself.
    Maintenance { node: NodeName },
    /// `authority` is `ping` or `none`: both nodes may serve at once, and confirmed writes can be lost.
    MaySplit,
    /// A heartbeat network is silent.
    NetworkDown { lan: String },
    /// Writes wait for the arbiter.
    Frozen { node: NodeName },
    /// Some nodes of a farm, or of a light module, do not serve and should.
    FewerNodes { serving: u32, of: u32 },
}

/// What the console knows of one node of a module.
#[derive(Debug, Clone, Copy)]
pub struct NodeReport<'a> {
    /// Which node.
    pub node: &'a NodeName,
    /// The console hears its agent now.
    pub is_connected: bool,
    /// What it last said of the module, whatever its age.
    pub snapshot: Option<&'a Snapshot>,
}

/// Health with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Verdict {
    /// The word.
    pub health: ModuleHealth,
    /// What is amiss, for [`ModuleHealth::AtRisk`]; the gravest first.
    pub risks: Vec<Risk>,
    /// Nodes the console does not hear.
    pub no_contact: Vec<NodeName>,
}

/// Health of a module of type `mode` on `nodes`. `is_failover_on`: of its configuration (`failover=`).
pub fn module_health(mode: Mode, is_failover_on: bool, nodes: &[NodeReport<'_>]) -> Verdict {
    let no_contact: Vec<NodeName> = nodes.iter().filter(|n| !n.is_connected).map(|n| n.node.clone()).collect();
    let heard: Vec<&Snapshot> = nodes.iter().filter(|n| n.is_connected).filter_map(|n| n.snapshot).collect();
    let mut risks = Vec::new();
    let health = if is_conflict(mode, &heard) {
        ModuleHealth::Conflict
    } else {
        let serving: Vec<&Snapshot> = heard.iter().copied().filter(|s| s.state.is_serving() && s.readiness == Readiness::Ready).collect();
        match serving.first() {
            Some(server) => {
                match mode {
                    Mode::Mirror => risks = mirror_risks(server, is_failover_on, &heard, nodes),
                    Mode::Farm if serving.len() < nodes.len() => {
                        risks.push(Risk::FewerNodes { serving: serving.len() as u32, of: nodes.len() as u32 });
                    }
                    Mode::Farm => {}
                    Mode::Light => {
                        // Each node for itself: who was stopped, and who waits for another module, is as it should be.
                        let failed = heard.iter().filter(|s| is_failed(s)).count();
                        if failed > 0 {
                            let serving = serving.len() as u32;
                            risks.push(Risk::FewerNodes { serving, of: serving + failed as u32 });
                        }
                    }
                }
                let maintained = heard.iter().filter(|s| s.maintenance_until_unix_ms.is_some());
                risks.extend(maintained.map(|s| Risk::Maintenance { node: s.node.clone() }));
                let is_moving = heard.iter().any(|s| s.readiness == Readiness::Transient);
                // A follower being brought level explains "alone" and "not replicating"; other risks stay visible
                // in `risks`, but the word for people is that something is under way.
                if is_moving {
                    ModuleHealth::InProgress
                } else if risks.is_empty() {
                    ModuleHealth::Protected
                } else {
                    ModuleHealth::AtRisk
                }
            }
            None => without_service(&heard, nodes),
        }
    };
    Verdict { health, risks, no_contact }
}

/// Two nodes that serve, both settled (a role that is being handed over is not a conflict), or parted histories.
fn is_conflict(mode: Mode, heard: &[&Snapshot]) -> bool {
    if mode != Mode::Mirror {
        return false;
    }
    let settled = heard.iter().filter(|s| matches!(s.state, State::Prim | State::Alone) && s.readiness == Readiness::Ready).count();
    settled > 1 || heard.iter().any(|s| matches!(s.reason, Some(Reason::SplitBrain { .. })))
}

fn mirror_risks(server: &Snapshot, is_failover_on: bool, heard: &[&Snapshot], nodes: &[NodeReport<'_>]) -> Vec<Risk> {
    let mut risks = Vec::new();
    if matches!(server.reason, Some(Reason::Frozen)) {
        risks.push(Risk::Frozen { node: server.node.clone() });
    }
    let follower = heard.iter().copied().find(|s| s.node != server.node);
    // A follower the console does not hear is judged by the primary, which does.
    let is_followed = server.state == State::Prim
        && follower.is_none_or(|f| f.state == State::Second && f.readiness == Readiness::Ready && f.is_up_to_date);
    if !is_followed {
        let missing = nodes.iter().map(|n| n.node).find(|n| **n != server.node).cloned();
        risks.push(Risk::Alone { serving: server.node.clone(), missing });
    } else if !matches!(server.replication, Replication::None | Replication::Synchronous) {
        risks.push(Risk::NotReplicating);
    }
    if heard.iter().any(|s| s.arbiter == ArbiterView::Unreachable) {
        risks.push(Risk::NoArbiter);
    }
    if !is_failover_on || heard.iter().any(|s| matches!(s.reason, Some(Reason::FailoverOff))) {
        risks.push(Risk::FailoverOff);
    }
    if heard.iter().any(|s| s.authority.kind == Authority::Manual || matches!(s.reason, Some(Reason::ManualTakeover { .. }))) {
        risks.push(Risk::ManualTakeover);
    }
    if heard.iter().any(|s| s.authority.kind.may_split()) {
        risks.push(Risk::MaySplit);
    }
    if is_followed {
        for network in server.peer.networks.iter().filter(|n| !n.is_up) {
            risks.push(Risk::NetworkDown { lan: network.lan.clone() });
        }
    }
    risks
}

/// No node in contact serves.
fn without_service(heard: &[&Snapshot], nodes: &[NodeReport<'_>]) -> ModuleHealth {
    if heard.iter().any(|s| s.readiness == Readiness::Transient) {
        return ModuleHealth::InProgress;
    }
    // A node out of contact that served when last heard may well still do so.
    let may_serve = nodes.iter().any(|n| !n.is_connected && n.snapshot.is_some_and(|s| s.state.is_serving()));
    if heard.is_empty() || may_serve {
        return ModuleHealth::NoContact;
    }
    if heard.iter().all(|s| is_stopped_by_order(s)) { ModuleHealth::Stopped } else { ModuleHealth::NotReady }
}

/// Not running, and not because something failed: what a checker or a rule stopped is an outage.
fn is_stopped_by_order(s: &Snapshot) -> bool {
    let is_ordered = match &s.reason {
        None | Some(Reason::NeverStarted) => true,
        Some(Reason::StoppedBy { by }) => checker_of(by).is_none(),
        Some(_) => false,
    };
    s.state == State::Stop && is_ordered
}

/// It should run on its node and does not.
fn is_failed(s: &Snapshot) -> bool {
    s.readiness == Readiness::NotReady && !is_stopped_by_order(s) && !s.reason.as_ref().is_some_and(Reason::waits_for_module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Gen, ModuleName, Session};
    use crate::state::{Flag, NetworkView, PeerView};
    use std::collections::BTreeSet;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn snapshot(name: &str, state: State, readiness: Readiness) -> Snapshot {
        Snapshot {
            module: ModuleName::new("files").unwrap(),
            node: node(name),
            config_generation: 1,
            state,
            readiness,
            reason: None,
            since_unix_ms: 0,
            maintenance_until_unix_ms: None,
            traffic: None,
            verification: Default::default(),
            flag: Flag::UpToDate,
            is_up_to_date: true,
            epoch: Epoch(3),
            gen_id: Gen(1),
            session: Session(1),
            in_sync: BTreeSet::new(),
            vips_held: Vec::new(),
            replication: Replication::Synchronous,
            resync: None,
            peer: PeerView { node: None, in_contact: true, state: None, networks: Vec::new() },
            arbiter: ArbiterView::Reachable,
            authority: Default::default(),
            resources: Vec::new(),
            allowed: Vec::new(),
        }
    }

    /// Health of a mirror on n1 and n2; `None` = the console does not hear the node.
    fn mirror(n1: Option<&Snapshot>, n2: Option<&Snapshot>) -> Verdict {
        let (a, b) = (node("n1"), node("n2"));
        let reports = [
            NodeReport { node: &a, is_connected: n1.is_some(), snapshot: n1 },
            NodeReport { node: &b, is_connected: n2.is_some(), snapshot: n2 },
        ];
        module_health(Mode::Mirror, true, &reports)
    }

    fn with(mut s: Snapshot, change: impl FnOnce(&mut Snapshot)) -> Snapshot {
        change(&mut s);
        s
    }

    use Readiness::{NotReady, Ready, Transient};

    #[test]
    fn a_pair_in_step_is_protected() {
        let v = mirror(Some(&snapshot("n1", State::Prim, Ready)), Some(&snapshot("n2", State::Second, Ready)));
        assert_eq!(v, Verdict { health: ModuleHealth::Protected, risks: vec![], no_contact: vec![] });
    }

    #[test]
    fn two_settled_servers_are_a_conflict_and_a_hand_over_is_not() {
        let (a, b) = (snapshot("n1", State::Prim, Ready), snapshot("n2", State::Alone, Ready));
        assert_eq!(mirror(Some(&a), Some(&b)).health, ModuleHealth::Conflict);
        let leaving = snapshot("n1", State::Prim, Transient);
        assert_eq!(mirror(Some(&leaving), Some(&b)).health, ModuleHealth::InProgress);
    }

    #[test]
    fn parted_histories_are_a_conflict_although_one_node_serves() {
        let split = with(snapshot("n2", State::Wait, NotReady), |s| s.reason = Some(Reason::SplitBrain { peer: node("n1") }));
        assert_eq!(mirror(Some(&snapshot("n1", State::Alone, Ready)), Some(&split)).health, ModuleHealth::Conflict);
    }

    #[test]
    fn alone_beside_a_stopped_node_is_at_risk_and_beside_a_resync_in_progress() {
        let alone = with(snapshot("n1", State::Alone, Ready), |s| s.replication = Replication::Off);
        let v = mirror(Some(&alone), Some(&snapshot("n2", State::Stop, NotReady)));
        assert_eq!(v.health, ModuleHealth::AtRisk);
        assert_eq!(v.risks, vec![Risk::Alone { serving: node("n1"), missing: Some(node("n2")) }]);
        let v = mirror(Some(&alone), Some(&snapshot("n2", State::Second, Transient)));
        assert_eq!(v.health, ModuleHealth::InProgress);
    }

    #[test]
    fn an_unreachable_arbiter_a_dead_network_and_failover_off_are_risks_of_a_pair_in_step() {
        let prim = with(snapshot("n1", State::Prim, Ready), |s| {
            s.arbiter = ArbiterView::Unreachable;
            s.peer.networks = vec![
                NetworkView { lan: "a".into(), is_up: true, rtt_us: None },
                NetworkView { lan: "b".into(), is_up: false, rtt_us: None },
            ];
        });
        let second = snapshot("n2", State::Second, Ready);
        let v = mirror(Some(&prim), Some(&second));
        assert_eq!((v.health, v.risks), (ModuleHealth::AtRisk, vec![Risk::NoArbiter, Risk::NetworkDown { lan: "b".into() }]));
        let (a, b) = (node("n1"), node("n2"));
        let good = snapshot("n1", State::Prim, Ready);
        let reports = [
            NodeReport { node: &a, is_connected: true, snapshot: Some(&good) },
            NodeReport { node: &b, is_connected: true, snapshot: Some(&second) },
        ];
        let v = module_health(Mode::Mirror, false, &reports);
        assert_eq!((v.health, v.risks), (ModuleHealth::AtRisk, vec![Risk::FailoverOff]));
    }

    #[test]
    fn a_takeover_that_waits_for_a_person_and_one_that_may_split_are_risks_of_a_pair_in_step() {
        let pair = |change: &dyn Fn(&mut Snapshot)| {
            let (prim, second) = (snapshot("n1", State::Prim, Ready), snapshot("n2", State::Second, Ready));
            let v = mirror(Some(&with(prim, change)), Some(&with(second, change)));
            (v.health, v.risks)
        };
        let of = |kind| pair(&move |s| s.authority.kind = kind);
        assert_eq!(of(Authority::Manual), (ModuleHealth::AtRisk, vec![Risk::ManualTakeover]));
        assert_eq!(of(Authority::Ping), (ModuleHealth::AtRisk, vec![Risk::MaySplit]));
        assert_eq!(of(Authority::Fence), (ModuleHealth::Protected, vec![]));
        let maintained = pair(&|s| s.maintenance_until_unix_ms = (s.state == State::Second).then_some(9));
        assert_eq!(maintained, (ModuleHealth::AtRisk, vec![Risk::Maintenance { node: node("n2") }]));
    }

    #[test]
    fn a_stop_by_a_checker_is_an_outage_that_nobody_ordered() {
        let by = |n: &str, by: &str| with(snapshot(n, State::Stop, NotReady), |s| s.reason = Some(Reason::StoppedBy { by: by.into() }));
        assert_eq!(mirror(Some(&by("n1", "checker: tcp.web")), Some(&by("n2", "root"))).health, ModuleHealth::NotReady);
        assert_eq!(mirror(Some(&by("n1", "agent")), Some(&by("n2", "shutdown"))).health, ModuleHealth::Stopped);
    }

    #[test]
    fn a_node_out_of_contact_is_counted_and_the_primary_is_believed() {
        let v = mirror(Some(&snapshot("n1", State::Prim, Ready)), None);
        assert_eq!(v, Verdict { health: ModuleHealth::Protected, risks: vec![], no_contact: vec![node("n2")] });
        assert_eq!(mirror(None, None).health, ModuleHealth::NoContact);
    }

    #[test]
    fn a_stop_by_order_is_not_an_incident_and_a_blocked_node_is() {
        let stopped = |n: &str| with(snapshot(n, State::Stop, NotReady), |s| s.reason = Some(Reason::StoppedBy { by: "root".into() }));
        assert_eq!(mirror(Some(&stopped("n1")), Some(&stopped("n2"))).health, ModuleHealth::Stopped);
        let blocked = with(snapshot("n2", State::Wait, NotReady), |s| s.reason = Some(Reason::NoArbiter));
        assert_eq!(mirror(Some(&stopped("n1")), Some(&blocked)).health, ModuleHealth::NotReady);
        let failed = with(snapshot("n2", State::Stop, NotReady), |s| s.reason = Some(Reason::LoopLimit { count: 3 }));
        assert_eq!(mirror(Some(&stopped("n1")), Some(&failed)).health, ModuleHealth::NotReady);
    }

    #[test]
    fn a_silent_node_that_served_may_still_serve() {
        let (a, b) = (node("n1"), node("n2"));
        let (served, stopped) = (snapshot("n1", State::Alone, Ready), snapshot("n2", State::Stop, NotReady));
        let reports = [
            NodeReport { node: &a, is_connected: false, snapshot: Some(&served) },
            NodeReport { node: &b, is_connected: true, snapshot: Some(&stopped) },
        ];
        assert_eq!(module_health(Mode::Mirror, true, &reports).health, ModuleHealth::NoContact);
    }

    #[test]
    fn a_farm_counts_its_serving_nodes() {
        let (a, b) = (node("n1"), node("n2"));
        let (up, stop) = (snapshot("n1", State::Up, Ready), snapshot("n2", State::Stop, NotReady));
        let reports = [
            NodeReport { node: &a, is_connected: true, snapshot: Some(&up) },
            NodeReport { node: &b, is_connected: true, snapshot: Some(&stop) },
        ];
        let v = module_health(Mode::Farm, true, &reports);
        assert_eq!((v.health, v.risks), (ModuleHealth::AtRisk, vec![Risk::FewerNodes { serving: 1, of: 2 }]));
        assert_eq!(module_health(Mode::Farm, true, &reports[..1]).health, ModuleHealth::Protected);
    }

    #[test]
    fn a_light_module_is_judged_on_each_node_for_itself() {
        let (a, b) = (node("n1"), node("n2"));
        let up = snapshot("n1", State::Up, Ready);
        let beside = |other: Snapshot| {
            let reports = [
                NodeReport { node: &a, is_connected: true, snapshot: Some(&up) },
                NodeReport { node: &b, is_connected: true, snapshot: Some(&other) },
            ];
            let v = module_health(Mode::Light, true, &reports);
            (v.health, v.risks)
        };
        let because = |state, reason| with(snapshot("n2", state, NotReady), |s| s.reason = Some(reason));
        let waits = |resource: &str| Reason::CheckFailed { resource: resource.into(), detail: String::new() };
        assert_eq!(beside(because(State::Wait, waits("module.db"))), (ModuleHealth::Protected, vec![]), "its leader is elsewhere");
        assert_eq!(beside(because(State::Stop, Reason::StoppedBy { by: "root".into() })), (ModuleHealth::Protected, vec![]));
        let fewer = vec![Risk::FewerNodes { serving: 1, of: 2 }];
        assert_eq!(beside(because(State::Wait, waits("ping.router"))), (ModuleHealth::AtRisk, fewer.clone()));
        assert_eq!(beside(because(State::Stop, Reason::LoopLimit { count: 3 })), (ModuleHealth::AtRisk, fewer));
    }
}
