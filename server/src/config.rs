//! Settings of the console's process.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What `tsugi-server run` was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of everything the console keeps.
    pub data: PathBuf,
    /// Address of the browser and API port.
    pub listen: SocketAddr,
    /// Address of the agents' port.
    pub agents: SocketAddr,
    /// More names and addresses under which people reach this console.
    pub names: Vec<String>,
}
