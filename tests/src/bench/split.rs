//! Where the time of a takeover goes: the nodes' own event logs laid beside what the client saw.

use std::collections::BTreeMap;
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::module::ScriptName;
use tsugi_core::state::{Readiness, Reason, State};

/// Name of a part of the time, and the event that ends it.
pub type Milestone = (&'static str, Who, fn(&Event) -> bool);

/// On which of the two nodes the event is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The node that served before.
    Former,
    /// The node that serves afterwards.
    Next,
}

/// Name of the last part: from the application's readiness to the first answer.
pub const FIRST_ANSWER: &str = "first answer";

fn promise_over(event: &Event) -> bool {
    let taking_over = Some(Reason::Starting);
    matches!(event, Event::Entered { to: State::Second, readiness: Readiness::Transient, reason, .. } if *reason == taking_over)
}
fn session_closed(event: &Event) -> bool {
    matches!(event, Event::ClaimAsked { .. })
}
fn claimed(event: &Event) -> bool {
    matches!(event, Event::ClaimAccepted { .. })
}
fn data_served(event: &Event) -> bool {
    matches!(event, Event::DataServed { .. })
}
fn vip_raised(event: &Event) -> bool {
    matches!(event, Event::VipRaised { .. })
}
fn vip_dropped(event: &Event) -> bool {
    matches!(event, Event::VipDropped { .. })
}
fn started(event: &Event) -> bool {
    matches!(event, Event::ScriptDone { script: ScriptName::StartPrim, .. })
}
fn stopped(event: &Event) -> bool {
    matches!(event, Event::ScriptDone { script: ScriptName::StopPrim, .. })
}
fn missed(event: &Event) -> bool {
    matches!(event, Event::Resource { .. })
}

/// The primary is gone without a word.
pub const TAKEOVER: &[Milestone] = &[
    ("detection", Who::Next, promise_over),
    ("close of replication", Who::Next, session_closed),
    ("arbiter", Who::Next, claimed),
    ("data served", Who::Next, data_served),
    ("virtual address", Who::Next, vip_raised),
    ("start script", Who::Next, started),
];

/// The primary hands over.
pub const HANDOVER: &[Milestone] = &[
    ("stop script", Who::Former, stopped),
    ("address dropped", Who::Former, vip_dropped),
    ("release", Who::Next, promise_over),
    ("close of replication", Who::Next, session_closed),
    ("arbiter", Who::Next, claimed),
    ("data served", Who::Next, data_served),
    ("virtual address", Who::Next, vip_raised),
    ("start script", Who::Next, started),
];

/// The application alone is gone.
pub const RESTART: &[Milestone] =
    &[("detection", Who::Next, missed), ("stop script", Who::Next, stopped), ("start script", Who::Next, started)];

/// Milliseconds of each part between the last answer and the first one after it. A milestone that is not in the logs
/// is left out, and its time counts for the next one.
pub fn split(milestones: &[Milestone], former: &[EventRecord], next: &[EventRecord], from: u64, to: u64) -> BTreeMap<String, f64> {
    let mut parts = BTreeMap::new();
    let mut last = from;
    for (name, who, is_it) in milestones {
        let log = if *who == Who::Former { former } else { next };
        let Some(at) = log.iter().find(|r| r.at_unix_ms >= last && is_it(&r.event)).map(|r| r.at_unix_ms) else { continue };
        parts.insert((*name).to_owned(), at.saturating_sub(last) as f64);
        last = at;
    }
    parts.insert(FIRST_ANSWER.to_owned(), to as f64 - last as f64);
    parts
}

/// Order of parts for people: as they follow one another.
pub fn order(name: &str) -> usize {
    let all =
        ["detection", "stop script", "address dropped", "release", "close of replication", "arbiter", "data served", "virtual address"];
    all.iter().position(|n| *n == name).unwrap_or(if name == FIRST_ANSWER { 99 } else { 50 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::{Epoch, ModuleName, NodeName};

    #[test]
    fn every_millisecond_belongs_to_one_part() {
        let record = |at_unix_ms, event| EventRecord {
            seq: at_unix_ms,
            at_unix_ms,
            node: NodeName::new("n2").unwrap(),
            module: ModuleName::new("ledger").unwrap(),
            event,
        };
        let log = [
            record(1500, Event::ClaimAsked { expected: Epoch(1) }),
            record(1510, Event::ClaimAccepted { epoch: Epoch(2) }),
            record(1540, Event::DataServed { millis: 30 }),
            record(1600, Event::ScriptDone { script: ScriptName::StartPrim, code: Some(0), millis: 50 }),
        ];
        let parts = split(TAKEOVER, &[], &log, 1000, 1620);
        assert_eq!(parts["close of replication"], 500.0, "detection is not in this log: its time counts for the next part");
        assert_eq!((parts["arbiter"], parts["data served"], parts["start script"], parts[FIRST_ANSWER]), (10.0, 30.0, 60.0, 20.0));
        assert_eq!(parts.values().sum::<f64>(), 620.0);
    }
}
