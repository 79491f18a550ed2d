//! Replication of files: the data process of a mirror module.
pub mod deadline;
pub mod dirty;
pub mod frame;
pub mod fs;
pub mod fuse;
pub mod link;
pub mod ship;
pub mod table;
pub mod tls;
pub mod volume;
