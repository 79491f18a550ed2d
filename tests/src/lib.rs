//! Harness of the suites: worlds to explore, test hosts, clients.

pub mod world;
