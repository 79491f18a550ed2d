//! One of each reason, for tables over all of them.

use super::Reason;
use crate::ids::NodeName;
use crate::module::ScriptName;

impl Reason {
    /// Every variant, more than once where it is worded in several ways; `peer` is the other node.
    pub fn each(peer: &NodeName) -> Vec<Reason> {
        let peer = || peer.clone();
        let why = || "why".to_owned();
        vec![
            Reason::NeverStarted,
            Reason::StoppedBy { by: "sato".to_owned() },
            Reason::Starting,
            Reason::Stopping,
            Reason::FirstStart,
            Reason::DataOlder { newer: Some(peer()), since_unix_ms: None },
            Reason::DataOlder { newer: None, since_unix_ms: Some(1) },
            Reason::HalfSynced,
            Reason::Quarantine,
            Reason::PeerFirst { peer: peer() },
            Reason::NoArbiter,
            Reason::ClaimRejected { owner: Some(peer()) },
            Reason::ClaimRejected { owner: None },
            Reason::ArbiterReplaced,
            Reason::SplitBrain { peer: peer() },
            Reason::Frozen,
            Reason::Resyncing,
            Reason::WaitingForSource { source: peer() },
            Reason::ScriptFailed { script: ScriptName::StartPrim, code: Some(3) },
            Reason::ScriptFailed { script: ScriptName::StopPrim, code: None },
            Reason::CheckFailed { resource: "tcp.web".to_owned(), detail: why() },
            Reason::CheckFailed { resource: "module.db".to_owned(), detail: why() },
            Reason::CheckPending { resource: "ping.gateway".to_owned() },
            Reason::CheckPending { resource: super::USABLE.to_owned() },
            Reason::LoopLimit { count: 4 },
            Reason::DataUnusable { detail: why() },
            Reason::VipFailed { detail: why() },
            Reason::FailoverOff,
            Reason::RecordUnusable { detail: why() },
            Reason::RecordLost { peer: peer() },
            Reason::HandOver { to: peer() },
            Reason::WaitingForPeer { peer: peer() },
            Reason::ManualTakeover { peer: peer() },
            Reason::NoWitness,
            Reason::NotFenced { peer: peer() },
            Reason::Maintenance,
            Reason::Unkillable { detail: why() },
            Reason::TimesDiffer { peer: peer(), here_ms: 5055, there_ms: 2553 },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new variant does not compile before it has its place here, and fails before it has its example above.
    fn place(reason: &Reason) -> usize {
        match reason {
            Reason::NeverStarted => 0,
            Reason::StoppedBy { .. } => 1,
            Reason::Starting => 2,
            Reason::Stopping => 3,
            Reason::FirstStart => 4,
            Reason::DataOlder { .. } => 5,
            Reason::HalfSynced => 6,
            Reason::Quarantine => 7,
            Reason::PeerFirst { .. } => 8,
            Reason::NoArbiter => 9,
            Reason::ClaimRejected { .. } => 10,
            Reason::ArbiterReplaced => 11,
            Reason::SplitBrain { .. } => 12,
            Reason::Frozen => 13,
            Reason::Resyncing => 14,
            Reason::WaitingForSource { .. } => 15,
            Reason::ScriptFailed { .. } => 16,
            Reason::CheckFailed { .. } => 17,
            Reason::LoopLimit { .. } => 18,
            Reason::DataUnusable { .. } => 19,
            Reason::VipFailed { .. } => 20,
            Reason::FailoverOff => 21,
            Reason::RecordUnusable { .. } => 22,
            Reason::HandOver { .. } => 23,
            Reason::WaitingForPeer { .. } => 24,
            Reason::ManualTakeover { .. } => 25,
            Reason::NoWitness => 26,
            Reason::NotFenced { .. } => 27,
            Reason::Maintenance => 28,
            Reason::Unkillable { .. } => 29,
            Reason::RecordLost { .. } => 30,
            Reason::TimesDiffer { .. } => 31,
            Reason::CheckPending { .. } => 32,
        }
    }
    /// One more than the last place.
    const COUNT: usize = 33;

    #[test]
    fn no_reason_is_missing() {
        let each = Reason::each(&NodeName::new("n2").unwrap());
        let places: std::collections::BTreeSet<usize> = each.iter().map(place).collect();
        assert_eq!(places, (0..COUNT).collect());
    }
}
