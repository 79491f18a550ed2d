//! Values with units.

use serde::{Deserialize, Serialize};

/// A unit of time as it is written after a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    /// `us`
    Us,
    /// `ms`
    Ms,
    /// `s`
    S,
    /// `m`
    M,
    /// `h`
    H,
    /// `d`
    D,
}
