//! Test bench of Tsugi: hosts made of namespaces, an application to protect, clients that keep count, and the
//! checks that need all of it. Nothing of the product depends on this crate.
//!
//! | module | what |
//! | --- | --- |
//! | [`lab`] | hosts, networks, power switches; [`lab::Lab`] is the handle the suites use |
//! | [`api`] | the console's REST API, as an administrator's program would use it |
//! | [`setup`] | from bare hosts to a cluster, as the installation manual says |
//! | [`ledger`] | the demo application: an HTTP ledger on SQLite |
//! | [`load`] | a client that writes at full speed and remembers every acknowledged entry |
//! | [`sql`] | the same against a real PostgreSQL |
//! | [`check`] | the main job from set-up to verification, one line per step |
//! | [`rough`] | a pair on networks that are all bad at once |
//! | [`events`] | the nodes' own event logs |
//! | [`bench`] | figures as rows |
//! | [`files`] | a pair that replicates a directory, without an application |
//! | [`trees`] | two trees are equal: what differs, in words |
//! | [`vips`] | who holds the virtual address, sampled in every host and asked for on the network |
//! | [`sim`] | the engine in virtual time under every fault, from a seed |
//! | [`world`] | two nodes and an arbiter as one value, to explore every order of events |
//! | [`cli`] | command line of `tsugi-lab` |

pub mod api;
pub mod bench;
pub mod check;
pub mod cli;
pub mod events;
pub mod files;
pub mod lab;
pub mod ledger;
pub mod load;
pub mod rough;
pub mod setup;
pub mod sim;
pub mod sql;
pub mod trees;
pub mod vips;
pub mod world;
