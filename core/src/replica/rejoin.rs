//! Rejoin: may a broken connection be replaced by a new one without the session ending, and what is to be sent again?
//!
//! While the connection of an armed session is broken nothing is acknowledged to the application: every
//! acknowledgement needs the target. So the only question is whether both processes are still the ones that
//! spoke before the break. If they are, the target has every operation it ever acknowledged (in its memory at
//! least), the source has every operation it ever sent and never got an acknowledgement for, and the stream goes
//! on where it stopped. A target that was restarted may have lost what it had only in memory: sending it the
//! operations in flight again would not bring that back, so it has to be compared whole, in a new session.
//!
//! The data process of the source asks [`rejoin`] about each new connection; nothing else decides this.

use crate::ids::{Epoch, LifeId, Lsn, Session};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the source keeps of a session whose connection broke.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kept {
    /// Epoch under which the session was offered.
    pub epoch: Epoch,
    /// The session.
    pub session: Session,
    /// Life of the source's data process.
    pub source: LifeId,
    /// Life of the target's data process: the one that acknowledged.
    pub target: LifeId,
    /// The barrier at the end of the resynchronisation is passed: the target's acknowledgement is required.
    pub is_armed: bool,
    /// Ended by order, or given up.
    pub is_over: bool,
    /// The target has acknowledged everything up to this operation as applied.
    pub acked: Lsn,
    /// The last operation made; all after `acked` are kept.
    pub sent: Lsn,
    /// Operations that are to be on the target's disk and were not acknowledged as flushed.
    pub unflushed: BTreeSet<Lsn>,
    /// The target's newest try that was granted; 0 = none yet.
    pub attempt: u64,
}

/// What the target says of itself on a new connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asks {
    /// Epoch of the session it follows.
    pub epoch: Epoch,
    /// The session it follows.
    pub session: Session,
    /// Life of the data process it followed in this session.
    pub source: LifeId,
    /// Life of its own data process.
    pub target: LifeId,
    /// Number of this try in the session, counted by the target from 1: connections may overtake one another.
    pub attempt: u64,
    /// The last operation it has applied.
    pub applied: Lsn,
}

/// How the stream goes on: first the target's answers, then the operations, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resend {
    /// Everything up to here is applied, whether or not its acknowledgement ever arrived.
    pub acked: Lsn,
    /// Applied operations whose flush the target has to confirm again.
    pub unflushed: BTreeSet<Lsn>,
    /// The first operation to send again; larger than `last` if there is none.
    pub first: Lsn,
    /// The last operation to send again.
    pub last: Lsn,
}

/// Why a connection does not continue the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A claim or a grow of another epoch lies between.
    #[error("the session is of epoch {kept}, the peer follows one of epoch {asked}")]
    OtherEpoch { kept: Epoch, asked: Epoch },
    /// Another session was offered meanwhile.
    #[error("this is session {kept}, the peer follows session {asked}")]
    OtherSession { kept: Session, asked: Session },
    /// The source cannot know what its former life sent.
    #[error("the serving data process was restarted; what was in flight is not known any more")]
    SourceRestarted,
    /// The target may have lost what it acknowledged.
    #[error("the following data process was restarted; it may have lost what it had in memory only")]
    TargetRestarted,
    /// The resynchronisation was not over: it begins anew.
    #[error("the resynchronisation was not finished when the connection broke")]
    NotArmed,
    /// Ended by order, or given up.
    #[error("the session has been ended")]
    Over,
    /// The target has applied less than it acknowledged, or more than was ever sent.
    #[error("the peer says it has applied operation {applied}; it acknowledged {acked} and was sent {sent}")]
    Impossible { applied: Lsn, acked: Lsn, sent: Lsn },
    /// A newer connection of the same target was granted before: this one is given up already at its other end.
    #[error("a newer connection of the peer continues the session")]
    Overtaken,
}

impl Refusal {
    /// Whether the session has no future, so that its loss is told at once instead of after the patience: the peer
    /// is another one than it was, or has moved on. False for a late try from the past: the session goes on without it.
    pub fn is_final(self) -> bool {
        match self {
            Self::OtherEpoch { kept, asked } => asked > kept,
            Self::OtherSession { kept, asked } => asked > kept,
            Self::Overtaken => false,
            Self::SourceRestarted | Self::TargetRestarted | Self::NotArmed | Self::Over | Self::Impossible { .. } => true,
        }
    }
}

/// Whether a new connection continues the session, and with what.
///
/// The epoch is that of the offer on both sides. It does not change while the session lasts: a claim ends the
/// session on the node that claims before the claim leaves, and on the other node at the latest when it learns
/// of it.
pub fn rejoin(kept: &Kept, asks: &Asks) -> Result<Resend, Refusal> {
    if asks.epoch != kept.epoch {
        return Err(Refusal::OtherEpoch { kept: kept.epoch, asked: asks.epoch });
    }
    if asks.session != kept.session {
        return Err(Refusal::OtherSession { kept: kept.session, asked: asks.session });
    }
    if asks.source != kept.source {
        return Err(Refusal::SourceRestarted);
    }
    if asks.target != kept.target {
        return Err(Refusal::TargetRestarted);
    }
    if kept.is_over {
        return Err(Refusal::Over);
    }
    if !kept.is_armed {
        return Err(Refusal::NotArmed);
    }
    if asks.attempt <= kept.attempt {
        return Err(Refusal::Overtaken);
    }
    if asks.applied < kept.acked || asks.applied > kept.sent {
        return Err(Refusal::Impossible { applied: asks.applied, acked: kept.acked, sent: kept.sent });
    }
    Ok(Resend {
        acked: asks.applied,
        unflushed: kept.unflushed.iter().copied().take_while(|lsn| *lsn <= asks.applied).collect(),
        first: asks.applied.next(),
        last: kept.sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: LifeId = LifeId(0xa);
    const TARGET: LifeId = LifeId(0xb);

    fn kept() -> Kept {
        Kept {
            epoch: Epoch(4),
            session: Session(7),
            source: SOURCE,
            target: TARGET,
            is_armed: true,
            is_over: false,
            acked: Lsn(10),
            sent: Lsn(15),
            unflushed: [Lsn(8), Lsn(12), Lsn(14)].into(),
            attempt: 2,
        }
    }

    fn asks(applied: u64) -> Asks {
        Asks { epoch: Epoch(4), session: Session(7), source: SOURCE, target: TARGET, attempt: 3, applied: Lsn(applied) }
    }

    #[test]
    fn what_was_not_applied_is_sent_again_and_what_was_not_flushed_is_asked_again() {
        let resend = Resend { acked: Lsn(12), unflushed: [Lsn(8), Lsn(12)].into(), first: Lsn(13), last: Lsn(15) };
        assert_eq!(rejoin(&kept(), &asks(12)), Ok(resend));
    }

    #[test]
    fn with_nothing_in_flight_nothing_is_sent_again() {
        let kept = Kept { acked: Lsn(15), unflushed: BTreeSet::new(), ..kept() };
        let resend = rejoin(&kept, &asks(15)).unwrap();
        assert_eq!(resend, Resend { acked: Lsn(15), unflushed: BTreeSet::new(), first: Lsn(16), last: Lsn(15) });
        assert!(resend.first > resend.last);
    }

    #[test]
    fn nothing_sent_at_all_is_no_reason_against_it() {
        let kept = Kept { acked: Lsn(0), sent: Lsn(0), unflushed: BTreeSet::new(), ..kept() };
        assert_eq!(rejoin(&kept, &asks(0)).unwrap().first, Lsn(1));
    }

    #[test]
    fn whoever_is_not_the_one_that_acknowledged_is_refused() {
        let at = |change: fn(&mut Asks)| {
            let mut asks = asks(12);
            change(&mut asks);
            rejoin(&kept(), &asks).unwrap_err()
        };
        assert_eq!(at(|a| a.epoch = Epoch(5)), Refusal::OtherEpoch { kept: Epoch(4), asked: Epoch(5) });
        assert_eq!(at(|a| a.session = Session(8)), Refusal::OtherSession { kept: Session(7), asked: Session(8) });
        assert_eq!(at(|a| a.source = LifeId(1)), Refusal::SourceRestarted);
        assert_eq!(at(|a| a.target = LifeId(1)), Refusal::TargetRestarted);
        assert_eq!(at(|a| a.applied = Lsn(9)), Refusal::Impossible { applied: Lsn(9), acked: Lsn(10), sent: Lsn(15) });
        assert_eq!(at(|a| a.applied = Lsn(16)), Refusal::Impossible { applied: Lsn(16), acked: Lsn(10), sent: Lsn(15) });
    }

    #[test]
    fn a_session_that_is_not_armed_or_is_over_is_not_resumed() {
        assert_eq!(rejoin(&Kept { is_armed: false, ..kept() }, &asks(12)), Err(Refusal::NotArmed));
        assert_eq!(rejoin(&Kept { is_over: true, ..kept() }, &asks(12)), Err(Refusal::Over));
    }

    #[test]
    fn a_connection_that_was_overtaken_changes_nothing() {
        // It carries an older number of applied operations, too, and that is no contradiction.
        let late = Asks { attempt: 2, ..asks(5) };
        assert_eq!(rejoin(&kept(), &late), Err(Refusal::Overtaken));
    }

    #[test]
    fn only_a_late_try_from_the_past_is_no_news() {
        assert!(!Refusal::Overtaken.is_final());
        let late = Refusal::OtherSession { kept: Session(7), asked: Session(6) };
        assert!(!late.is_final() && !Refusal::OtherEpoch { kept: Epoch(4), asked: Epoch(3) }.is_final());
        assert!(Refusal::OtherSession { kept: Session(7), asked: Session(8) }.is_final());
        assert!(Refusal::TargetRestarted.is_final());
    }
}
