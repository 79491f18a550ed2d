//! What travels between processes. No sockets here.
//!
//! | module | between | encoding |
//! | --- | --- | --- |
//! | [`console`] | agent and console, WebSocket over mutual TLS | JSON text frames |
//! | [`arbiter`] | agent and arbiter, HTTPS with the node's certificate | JSON bodies |
//! | [`peer`] | agent and agent, authenticated datagrams | postcard |
//! | [`local`] | command line and agent, UNIX socket | one JSON line each way |

pub mod arbiter;
pub mod console;
pub mod kept;
pub mod local;
pub mod peer;
