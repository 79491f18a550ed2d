//! Names and numbers as types: a node is not a module, an epoch is not a session.
//!
//! Names are checked when they are made, so nobody checks them again. Numbers that only make sense against
//! one another ([`Epoch`], [`Session`], [`Lsn`]) cannot be mixed up.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Why a name was refused. The text says the rule, so that it can be shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid name: 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, beginning with a letter or digit")]
pub struct BadName {
    /// The text that was refused.
    pub text: String,
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let first_ok = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    first_ok && text.len() <= 63 && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(String);

        impl $name {
            /// 1 to 63 of `a-z A-Z 0-9 - _ .`, beginning with a letter or digit.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                if is_name(&text) { Ok(Self(text)) } else { Err(BadName { text }) }
            }
            /// The name as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> { Self::new(text) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// A machine with an agent; unique in its cluster.
    NodeName
}
name_type! {
    /// An application made available; unique in its cluster.
    ModuleName
}
name_type! {
    /// A set of nodes that know each other.
    ClusterName
}
name_type! {
    /// A keeper of records for modules; unique in its cluster.
    ArbiterName
}

impl ArbiterName {
    /// The console, which every cluster has.
    pub fn console() -> ArbiterName {
        ArbiterName("console".to_owned())
    }
    /// Whether this is the console.
    pub fn is_console(&self) -> bool {
        self.0 == "console"
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);
        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self { Self(self.0 + 1) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    };
}

number_type! {
    /// Version of the arbiter's record; the larger one is newer. 0 = the record does not exist yet.
    Epoch
}
number_type! {
    /// Number of a replication session, raised durably on both nodes before it starts. 0 = none yet.
    Session
}
number_type! {
    /// Number of an operation in a session's stream; the first is 1.
    Lsn
}
number_type! {
    /// A piece of long work the engine started. Never used twice by one engine.
    JobId
}

macro_rules! random_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:x}", self.0) }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                // JSON readers lose digits past 2^53: hexadecimal text there, the plain number on the wire.
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u128(self.0) }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = String::deserialize(d)?;
                    u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
                } else {
                    u128::deserialize(d).map(Self)
                }
            }
        }
    };
}

random_type! {
    /// Random id of a data history. Compared for equality and ancestry, never by size.
    Gen
}
random_type! {
    /// Random id of one life of an agent, of a data process, or of an arbiter's store.
    LifeId
}
