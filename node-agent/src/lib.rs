//! .

pub mod checker;
pub mod clock;
pub mod link;
pub mod procfs;
pub mod script;
pub mod vip;
