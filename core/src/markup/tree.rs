//! Elements with positions.
