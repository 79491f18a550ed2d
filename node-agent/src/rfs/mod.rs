//! Replication of files: the data process of a mirror module, and the agent's handle on it.
//!
//! On the serving node a FUSE file system covers each replicated directory ([`fuse`] and [`ring`] translate, [`fs`]
//! does the work); on the following node a read-only view covers it and an applier writes below. One ordered stream runs
//! between them ([`link`], [`frame`]): first a resynchronisation ([`sync`], [`sync_target`]) while the application
//! goes on, then every operation as it happens ([`ship`], [`apply`]). A connection that breaks then is replaced
//! without the session ending ([`stream`], [`session`]).
//!
//! The promise: while the peer is required, no operation is answered to the application before the peer has
//! applied it (an fsync: before both disks have it), nor after the agent's deadline.

pub mod acks;
pub mod activity;
pub mod apply;
pub mod compress;
pub mod control;
pub mod deadline;
pub mod dirty;
pub mod excluded;
pub mod follow;
pub mod frame;
pub mod fs;
pub mod fuse;
pub mod handle;
pub mod hold;
pub mod identity;
pub mod level;
pub mod link;
pub mod look;
pub mod mounts;
pub mod process;
pub mod ring;
pub mod room;
pub mod serve;
pub mod session;
pub mod ship;
pub mod stream;
pub mod sync;
pub mod sync_target;
pub mod table;
pub mod tls;
pub mod verify;
pub mod volume;

pub use handle::{DataConfig, DataEvent, DataProcess};

#[cfg(test)]
mod tests;
