//! What a host, a network, a disk, a script or a clock may do to a pair, one fault at a time, and what must come of it.
//!
//! A client writes all the time, the virtual address is watched in every host and on the network, and in the end every
//! entry that was acknowledged must be in the files of the nodes that should have it. The table of faults is in
//! docs/TESTING.md. Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

mod bench;
mod clock;
mod disk;
mod network;
mod process;
mod record;
mod script;
