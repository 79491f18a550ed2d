//! .
pub mod rfs;
