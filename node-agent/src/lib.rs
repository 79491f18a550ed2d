//! # tsugi-agent: hands and eyes of one node
//!
//! Does and decides nothing: every decision about a module is made by `tsugi_core::engine`.
//!
//! | module | does |
//! | --- | --- |
//! | [`agent`] | the set of modules: keep, stop, start; console and command line |
//! | [`runner`] | the loop of one module: input → step → effects, in order |
//! | [`hands`] | carries effects out with the doers below |
//! | [`kept`] | what an agent that dies leaves of its modules to its next life |
//! | [`rfs`] | data process: file system, replication stream, resynchronisation |
//! | [`link`] | heartbeats between the agents of a mirror |
//! | [`script`] [`vip`] [`checker`] | scripts, virtual addresses, checkers |
//! | [`cgroup`] | control groups: what a module started, as a whole |
//! | [`guard`] [`watchdog`] | the process that acts when this one cannot, and the machine's own timer |
//! | [`store`] | state directory: record, configurations, events |
//! | [`console`] [`arbiter`] [`local`] [`enroll`] | console connection, arbiters, command line's socket, enrolment |
//! | [`witness`] | a program of its own: the arbiter's record on a third machine |
//!
//! Order of imports, top may import below: main → agent, local, console → runner → hands → doers; the doers do
//! not know one another.

pub mod agent;
pub mod arbiter;
pub mod cgroup;
pub mod checker;
pub mod clock;
pub mod commands;
pub mod config;
pub mod console;
pub(crate) mod disk;
pub mod enroll;
pub mod guard;
pub mod hands;
pub mod kept;
pub mod link;
pub mod local;
pub mod procfs;
pub mod rfs;
pub mod runner;
pub mod script;
pub mod store;
pub mod tls;
pub mod vip;
pub mod watchdog;
pub mod witness;
