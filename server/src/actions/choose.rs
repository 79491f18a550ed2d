//! Pure: which nodes an order goes to, whether it is possible now, and when it is over.

use super::Note;
use crate::fleet::Report;
use std::time::Duration;
use tsugi_core::command::{MAINTENANCE_MINUTES_MAX, Refusal, Verb};
use tsugi_core::ids::NodeName;
use tsugi_core::module::ModuleDef;
use tsugi_core::state::{Readiness, Reason, Snapshot, State};

/// An order that is not possible now, with the node that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    /// Which node.
    pub node: NodeName,
    /// Why.
    pub refusal: Refusal,
}

/// What an order says beside its word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `prim`: this copy may be older.
    pub accept_loss: bool,
    /// `second`: give this copy up.
    pub full_sync: bool,
    /// `resolve`: whose data goes on.
    pub keep: Option<NodeName>,
    /// `maintenance`: how long; 0 ends it.
    pub minutes: Option<u32>,
}

/// Minutes of a maintenance where none are said, as on the command line.
pub const MAINTENANCE_MINUTES: u32 = 30;

/// Why there is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoVerb {
    /// There is no order of that word.
    Unknown,
    /// `resolve` must name the node whose data is kept.
    KeepMissing,
}

/// The order of a word in a URL.
pub fn verb_of(word: &str, options: Options) -> Result<Verb, NoVerb> {
    let Options { accept_loss, full_sync, keep, minutes } = options;
    let verb = match word {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "restart" => Verb::Restart,
        "swap" => Verb::Swap,
        "stopstart" => Verb::StopStart,
        "prim" => Verb::Prim { accept_loss },
        "primforce" => Verb::PrimForce,
        "second" => Verb::Second { full_sync },
        "resolve" => Verb::Resolve { keep: keep.ok_or(NoVerb::KeepMissing)? },
        "verify" => Verb::Verify,
        "maintenance" => Verb::Maintenance { minutes: minutes.unwrap_or(MAINTENANCE_MINUTES) },
        _ => return Err(NoVerb::Unknown),
    };
    Ok(verb)
}

/// The order needs its node named: guessing would decide which copy of the data counts.
pub fn needs_node(verb: &Verb) -> bool {
    matches!(verb, Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. } | Verb::StopStart)
}

/// The nodes `verb` goes to, in the order in which they are to do it, if it is possible now.
/// `node` absent: start → every stopped node, stop → all, those that serve last; resolve and maintenance → all; others →
/// the node that serves.
pub fn targets(verb: &Verb, node: Option<&NodeName>, reports: &[Report]) -> Result<Vec<NodeName>, Impossible> {
    let chosen: Vec<&Report> = match (node, verb) {
        (Some(node), _) => reports.iter().filter(|r| r.node == *node).collect(),
        (None, Verb::Start) => reports.iter().filter(|r| r.now().is_none_or(|s| s.state == State::Stop)).collect(),
        (None, Verb::Stop) => {
            let mut all: Vec<&Report> = reports.iter().filter(|r| r.now().is_none_or(|s| s.state != State::Stop)).collect();
            all.sort_by_key(|r| r.now().is_some_and(|s| s.state.is_serving()));
            all
        }
        // Both must be told, or the copy that is not kept would go on claiming to be one.
        (None, Verb::Resolve { .. }) if !reports.iter().filter_map(Report::now).any(is_split) => {
            let Some(first) = reports.iter().find(|r| r.now().is_none()).or(reports.first()) else { return Ok(Vec::new()) };
            let refusal = if first.now().is_none() { Refusal::NoContact } else { Refusal::NoSplitBrain };
            return Err(Impossible { node: first.node.clone(), refusal });
        }
        (None, Verb::Resolve { .. } | Verb::Maintenance { .. }) => reports.iter().collect(),
        (None, _) => {
            let serving = |r: &&Report| r.now().is_some_and(|s| s.state.is_serving());
            let serving: Vec<&Report> = reports.iter().filter(serving).collect();
            if serving.is_empty() {
                let lost = reports.iter().find(|r| r.now().is_none() && r.snapshot().is_some_and(|s| s.state.is_serving()));
                let first = lost.or(reports.first());
                let refusal = if lost.is_some() { Refusal::NoContact } else { Refusal::NotServing };
                return match first {
                    Some(r) => Err(Impossible { node: r.node.clone(), refusal }),
                    None => Ok(Vec::new()),
                };
            }
            serving
        }
    };
    // Orders to a whole module go to the nodes that can take them: a node out of contact does not keep the
    // others from starting, as long as there is one that can.
    let is_whole = node.is_none() && matches!(verb, Verb::Start | Verb::Stop | Verb::Maintenance { .. });
    let mut out = Vec::new();
    let mut impossible = None;
    for report in chosen {
        match possible(verb, report) {
            Ok(()) => out.push(report.node.clone()),
            Err(refusal) => {
                let why = Impossible { node: report.node.clone(), refusal };
                if !is_whole {
                    return Err(why);
                }
                impossible.get_or_insert(why);
            }
        }
    }
    if !out.is_empty() {
        return Ok(out);
    }
    let refusal = if *verb == Verb::Start { Refusal::AlreadyStarted } else { Refusal::AlreadyStopped };
    match (impossible, reports.first()) {
        (Some(why), _) => Err(why),
        (None, Some(first)) => Err(Impossible {
            node: node.unwrap_or(&first.node).clone(),
            refusal: if node.is_some() { Refusal::NotConfigured } else { refusal },
        }),
        (None, None) => Ok(out),
    }
}

/// The node waits for a person to say whose data goes on.
fn is_split(snapshot: &Snapshot) -> bool {
    matches!(snapshot.reason, Some(Reason::SplitBrain { .. }))
}

/// Whether the node would accept the order, as far as its last word tells.
fn possible(verb: &Verb, report: &Report) -> Result<(), Refusal> {
    if !report.contact.is_connected {
        return Err(Refusal::NoContact);
    }
    let Some(snapshot) = report.snapshot() else { return Err(Refusal::NotConfigured) };
    match verb {
        Verb::Maintenance { minutes } if *minutes > MAINTENANCE_MINUTES_MAX => return Err(Refusal::BadDuration { minutes: *minutes }),
        Verb::Resolve { keep } if *keep != snapshot.node && Some(keep) != snapshot.peer.node.as_ref() => {
            return Err(Refusal::NoSuchNode { node: keep.clone() });
        }
        _ => {}
    }
    match snapshot.refusal(verb) {
        // The table answers for the order without the consent; with it the node decides anew.
        Some(Refusal::NeedsAcceptLoss) if *verb == (Verb::Prim { accept_loss: true }) => Ok(()),
        Some(refusal) => Err(refusal.clone()),
        None => Ok(()),
    }
}

/// A node that is blocked for this long will not get on by itself; shorter ones pass by during a start.
pub const BLOCKED_AFTER: Duration = Duration::from_secs(10);

/// How an order stands on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Not yet decided.
    GoingOn,
    /// The node is where the order leads to.
    There,
    /// The node rests somewhere else; if it stays so for [`BLOCKED_AFTER`] the order has failed.
    Stuck(Note),
}

/// Judges an order by what is observed. `before`: the node's snapshot when it was ordered.
pub fn observe(verb: &Verb, before: Option<&Snapshot>, node: &NodeName, reports: &[Report]) -> Seen {
    let Some(now) = reports.iter().find(|r| r.node == *node).and_then(Report::now) else { return Seen::GoingOn };
    let is_ready = now.readiness == Readiness::Ready;
    let serves = now.state.is_serving() && is_ready;
    let follows = now.state == State::Second;
    // "since" is the node's own clock, compared only with itself.
    let has_moved = before.is_none_or(|b| b.since_unix_ms != now.since_unix_ms || b.state != now.state || b.readiness != now.readiness);
    let is_there = match verb {
        // A module without a role is started once it waits for the module it depends on: that may be on another node.
        Verb::Start => serves || follows || now.peer.node.is_none() && now.reason.as_ref().is_some_and(Reason::waits_for_module),
        Verb::Stop => now.state == State::Stop,
        Verb::Restart => serves && has_moved,
        Verb::StopStart => (serves || follows) && has_moved,
        Verb::Prim { .. } | Verb::PrimForce => serves,
        Verb::Second { .. } => follows,
        Verb::Resolve { keep } if *keep == *node => serves,
        Verb::Resolve { .. } => follows,
        Verb::Maintenance { .. } => true,
        // That it has begun: it may take hours.
        Verb::Verify => now.verification.running.is_some() || before.is_some_and(|b| b.verification.last != now.verification.last),
        Verb::Swap => {
            let other_serves = reports
                .iter()
                .filter(|r| r.node != *node)
                .filter_map(Report::now)
                .any(|s| s.state.is_serving() && s.readiness == Readiness::Ready);
            other_serves && follows
        }
    };
    if is_there {
        return Seen::There;
    }
    let rests = now.readiness == Readiness::NotReady || (*verb == Verb::Swap && serves);
    if rests && has_moved { Seen::Stuck(Note::Blocked { reason: now.reason.clone() }) } else { Seen::GoingOn }
}

/// A node serves, settled.
pub fn is_served(reports: &[Report]) -> bool {
    reports.iter().filter_map(Report::now).any(|s| s.state.is_serving() && s.readiness == Readiness::Ready)
}

/// Least and most time an order is watched.
const WATCH_MIN: Duration = Duration::from_secs(120);
const WATCH_MAX: Duration = Duration::from_secs(3600);

/// How long an order is watched before its end counts as not observed: the scripts' own time-outs with room.
pub fn watch_for(def: Option<&ModuleDef>) -> Duration {
    let scripts = def.and_then(|d| d.user.as_ref()).map_or(Duration::ZERO, |u| (u.start_timeout + u.stop_timeout + u.force_timeout) * 2);
    (WATCH_MIN + scripts).min(WATCH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Contact, Seen as Last};
    use std::sync::Arc;
    use tsugi_core::ids::{Epoch, Gen, ModuleName, Session};
    use tsugi_core::state::{Allowed, ArbiterView, Flag, PeerView, Replication};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn snapshot(name: &str, state: State, readiness: Readiness) -> Snapshot {
        Snapshot {
            module: ModuleName::new("m").unwrap(),
            node: node(name),
            config_generation: 1,
            state,
            readiness,
            reason: None,
            since_unix_ms: 1,
            maintenance_until_unix_ms: None,
            traffic: None,
            verification: Default::default(),
            flag: Flag::UpToDate,
            is_up_to_date: true,
            epoch: Epoch(1),
            gen_id: Gen(1),
            session: Session(1),
            in_sync: Default::default(),
            vips_held: vec![],
            replication: Replication::Synchronous,
            resync: None,
            peer: PeerView::default(),
            arbiter: ArbiterView::Reachable,
            authority: Default::default(),
            resources: vec![],
            allowed: vec![],
        }
    }

    fn report(snapshot: Snapshot, is_connected: bool) -> Report {
        Report {
            node: snapshot.node.clone(),
            contact: Contact { is_connected, heard_ms: Some(0) },
            seen: Some(Last { snapshot: Arc::new(snapshot), at_ms: 0, resync_still_since: None, claimed: None }),
        }
    }

    fn pair() -> Vec<Report> {
        vec![report(snapshot("n1", State::Prim, Readiness::Ready), true), report(snapshot("n2", State::Second, Readiness::Ready), true)]
    }

    #[test]
    fn stop_goes_to_the_follower_first_and_swap_to_the_node_that_serves() {
        assert_eq!(targets(&Verb::Stop, None, &pair()), Ok(vec![node("n2"), node("n1")]));
        assert_eq!(targets(&Verb::Swap, None, &pair()), Ok(vec![node("n1")]));
        assert_eq!(targets(&Verb::Start, None, &pair()), Err(Impossible { node: node("n1"), refusal: Refusal::AlreadyStarted }));
    }

    #[test]
    fn a_node_out_of_contact_does_not_keep_the_other_from_starting() {
        let reports = vec![
            report(snapshot("n1", State::Stop, Readiness::NotReady), true),
            report(snapshot("n2", State::Stop, Readiness::NotReady), false),
        ];
        assert_eq!(targets(&Verb::Start, None, &reports), Ok(vec![node("n1")]));
        assert_eq!(targets(&Verb::Start, Some(&node("n2")), &reports), Err(Impossible { node: node("n2"), refusal: Refusal::NoContact }));
    }

    #[test]
    fn the_nodes_own_table_decides_and_consent_answers_its_question() {
        let mut stopped = snapshot("n1", State::Stop, Readiness::NotReady);
        stopped.allowed = vec![Allowed { verb: Verb::Prim { accept_loss: false }, refusal: Some(Refusal::NeedsAcceptLoss) }];
        let reports = vec![report(stopped, true)];
        let n1 = node("n1");
        assert_eq!(
            targets(&Verb::Prim { accept_loss: false }, Some(&n1), &reports),
            Err(Impossible { node: n1.clone(), refusal: Refusal::NeedsAcceptLoss })
        );
        assert_eq!(targets(&Verb::Prim { accept_loss: true }, Some(&n1), &reports), Ok(vec![n1]));
    }

    #[test]
    fn a_restart_is_over_only_when_the_node_is_ready_anew() {
        let before = snapshot("n1", State::Alone, Readiness::Ready);
        let see = |s: Snapshot| observe(&Verb::Restart, Some(&before), &node("n1"), &[report(s, true)]);
        assert_eq!(see(before.clone()), Seen::GoingOn, "nothing has happened yet");
        assert_eq!(see(snapshot("n1", State::Alone, Readiness::Transient)), Seen::GoingOn);
        let mut again = before.clone();
        again.since_unix_ms = 9;
        assert_eq!(see(again), Seen::There);
        let mut failed = snapshot("n1", State::Stop, Readiness::NotReady);
        failed.reason = Some(Reason::LoopLimit { count: 3 });
        assert_eq!(see(failed.clone()), Seen::Stuck(Note::Blocked { reason: failed.reason }));
    }

    #[test]
    fn a_light_module_that_waits_for_its_leader_is_started() {
        let stopped = snapshot("n1", State::Stop, Readiness::NotReady);
        let waits = |resource: &str| {
            let mut now = snapshot("n1", State::Wait, Readiness::NotReady);
            now.reason = Some(Reason::CheckFailed { resource: resource.into(), detail: "module db is SECOND".into() });
            now
        };
        let see = |now: Snapshot| observe(&Verb::Start, Some(&stopped), &node("n1"), &[report(now, true)]);
        assert_eq!(see(waits("module.db")), Seen::There);
        assert!(matches!(see(waits("ping.router")), Seen::Stuck(_)));
    }

    #[test]
    fn a_swap_is_over_when_the_other_serves_and_this_one_follows() {
        let before = snapshot("n1", State::Prim, Readiness::Ready);
        let see = |a: Snapshot, b: Snapshot| observe(&Verb::Swap, Some(&before), &node("n1"), &[report(a, true), report(b, true)]);
        let (prim, second) = (|n| snapshot(n, State::Prim, Readiness::Ready), |n| snapshot(n, State::Second, Readiness::Transient));
        assert_eq!(see(before.clone(), snapshot("n2", State::Second, Readiness::Ready)), Seen::GoingOn);
        assert_eq!(see(second("n1"), prim("n2")), Seen::There);
        let mut back = before.clone();
        back.since_unix_ms = 9;
        assert!(matches!(see(back, snapshot("n2", State::Second, Readiness::Ready)), Seen::Stuck(_)), "taken back");
    }
}
