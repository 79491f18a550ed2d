//! # tsugi-core: decides and does nothing
//!
//! The domain of Tsugi without any I/O: no clock, file, socket, thread or randomness. Whatever needs one of
//! them is an input from, or an effect for, the crate that drives this one.
//!
//! | module | holds |
//! | --- | --- |
//! | [`ids`] | names and numbers as types |
//! | [`markup`] | configuration text → tree with positions → every problem with line and column |
//! | [`rules`] | the language of `<failover>`: what is done when resources go up and down |
//! | [`cluster`] | which nodes, on which networks |
//! | [`module`] | what a module is; `userconfig.xml` → definition and every problem with line and column |
//! | [`state`] [`event`] [`command`] [`rehearsal`] | what a node says of a module, what happened, what may be ordered, what an order would do |
//! | [`copies`] | the two copies of the data compared: how much, how far, and what came of it |
//! | [`health`] | one word for a module over all its nodes |
//! | [`wire`] | messages between agents, and between agent and console |
//! | [`engine`] | the state machines: `Engine::step(input, effects)` |
//! | [`replica`] | orders and notes between engine and data process; the stream's format |
//!
//! Order of imports, top may import below: engine, replica → command, event, rehearsal, state, wire → module → cluster → rules → markup → copies, ids.

pub mod cluster;
pub mod command;
pub mod copies;
pub mod engine;
pub mod event;
pub mod health;
pub mod ids;
pub mod markup;
pub mod module;
pub mod rehearsal;
pub mod replica;
pub mod rules;
pub mod state;
pub mod wire;
