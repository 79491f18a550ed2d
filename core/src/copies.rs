//! The two copies of a module's data, compared: how much, how far, and what came of it.

use serde::{Deserialize, Serialize};

/// How far a verification is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Verifying {
    /// Files compared so far.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Parts that were compared again with the application held for some milliseconds, because it changed them meanwhile.
    pub held: u64,
    /// Objects that differ.
    pub differences: u64,
}

/// How a verification ended: both copies compared object by object while the application goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Verified {
    /// How far it came.
    pub done: Verifying,
    /// How long it took.
    pub millis: u64,
    /// The first [`DIFFERENCES_LISTED_MAX`] of what differs.
    pub listed: Vec<Difference>,
    /// How it ended.
    pub end: VerifyEnd,
}

/// As many differences are listed by name.
pub const DIFFERENCES_LISTED_MAX: usize = 100;

/// See [`Verified`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum VerifyEnd {
    /// Everything was compared.
    Whole,
    /// Differences were found, and repaired before the rest was looked at: it should be begun again.
    Early,
    /// It could not go on; English.
    Failed {
        /// Why.
        detail: String,
    },
}

/// An object that is not the same on the two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Difference {
    /// Its path, with that of the replicated directory; what is not UTF-8 is shown by replacement characters.
    pub path: String,
    /// What differs, seen from the node that serves.
    pub kind: DifferenceKind,
}

/// See [`Difference`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "differs", rename_all = "snake_case")]
pub enum DifferenceKind {
    /// Contents, in so many bytes' worth of blocks at most.
    Contents {
        /// Of blocks that differ.
        bytes: u64,
    },
    /// Owner, permissions, size, extended attributes or access lists, the target of a link, or its kind.
    Attributes,
    /// The secondary does not have it.
    Missing,
    /// Only the secondary has it.
    Extra,
    /// The secondary cannot read it; English.
    Unreadable {
        /// Why.
        detail: String,
    },
}

impl DifferenceKind {
    /// For programs and tables.
    pub fn word(&self) -> &'static str {
        match self {
            DifferenceKind::Contents { .. } => "contents",
            DifferenceKind::Attributes => "attributes",
            DifferenceKind::Missing => "missing",
            DifferenceKind::Extra => "extra",
            DifferenceKind::Unreadable { .. } => "unreadable",
        }
    }
}

/// How much a resynchronisation compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Everything: nothing is known of the other copy.
    Whole,
    /// What was noted as changed: but for that the other copy is this one.
    Noted,
    /// That, and what the other node has in its activity log.
    Logged,
    /// Everything but the contents that are there since an earlier session, which was interrupted.
    Rest,
}
