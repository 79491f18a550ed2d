//! Where the agent keeps its things, and who it is.
//!
//! [`AgentConfig`] is the two directories of the command line; [`Identity`] is what enrolment left in the state
//! directory. An identity that exists as a value is complete: files present, key and certificate readable.

use clap::{Args, ValueEnum};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tsugi_core::ids::{ClusterName, NodeName};

/// Default of `--state`.
pub const STATE_DIR: &str = "/var/lib/tsugi";
/// Default of `--run`.
pub const RUN_DIR: &str = "/run/tsugi";
/// Port of the console on which it listens for agents, when the address names none.
pub const AGENTS_PORT: u16 = 9454;

/// How requests of the kernel reach the data process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Over io_uring where the kernel offers it and is known to do it well, otherwise over /dev/fuse.
    #[default]
    Auto,
    /// Over /dev/fuse.
    Device,
}

/// Directories of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AgentConfig {
    /// Directory for what must survive a reboot: identity, modules, records, events.
    #[arg(long = "state", env = "TSUGI_STATE", default_value = STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Directory for what need not: the socket of the command line.
    #[arg(long = "run", env = "TSUGI_RUN", default_value = RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Watchdog that restarts the machine if a module that may not serve can be neither frozen nor ended, for example
    /// /dev/watchdog. Off when not given. All modules of the node fall with it.
    #[arg(long, env = "TSUGI_WATCHDOG", value_name = "DEVICE")]
    pub watchdog: Option<PathBuf>,
    /// Seconds after which the watchdog restarts the machine.
    #[arg(long, env = "TSUGI_WATCHDOG_TIMEOUT", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=600))]
    pub watchdog_timeout: u64,
    /// How the kernel hands requests for replicated files to the data process. For io_uring (6.18.44 and newer of Linux 6.18,
    /// and 7.1.4 and newer) the agent switches on the FUSE module's parameter enable_uring.
    #[arg(long, env = "TSUGI_FUSE_TRANSPORT", value_enum, default_value_t, value_name = "HOW")]
    pub fuse_transport: Transport,
}

impl AgentConfig {
    /// Socket on which the command line reaches the agent.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.run_dir)
    }
}

/// Socket of the agent whose run directory is `run_dir`.
pub fn socket_in(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// Address of the console's port for agents. Text form `https://HOST:PORT`; `wss://` and a missing scheme or
/// port are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleAddr {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The text is not an address of a console.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of a console: give https://HOST:{AGENTS_PORT}, as shown on the console's page \"Add a node\"")]
pub struct BadConsoleAddr {
    text: String,
}

impl FromStr for ConsoleAddr {
    type Err = BadConsoleAddr;
    fn from_str(text: &str) -> Result<Self, BadConsoleAddr> {
        let bad = || BadConsoleAddr { text: text.to_owned() };
        let rest = match text.trim().split_once("://") {
            Some(("https" | "wss", rest)) => rest,
            Some(_) => return Err(bad()),
            None => text.trim(),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(bad)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(bad()),
                }
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_host_char) {
            return Err(bad());
        }
        let port = match port {
            Some(text) => text.parse().ok().filter(|p| *p != 0).ok_or_else(bad)?,
            None => AGENTS_PORT,
        };
        Ok(ConsoleAddr { host: host.to_owned(), port })
    }
}

impl ConsoleAddr {
    /// `host:port`, with brackets where needed: the authority of a URL.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for ConsoleAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// Contents of `agent.json`: written last by enrolment, so that it exists only with a complete identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFile {
    /// This node.
    pub node: NodeName,
    /// Address of the console's port for agents, `https://HOST:PORT`.
    pub console: String,
    /// Cluster the node belongs to.
    pub cluster: ClusterName,
}

/// Who this agent is. The key is not printed by `Debug`.
#[derive(Clone)]
pub struct Identity {
    /// This node.
    pub node: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Where the console listens for agents.
    pub console: ConsoleAddr,
    /// The node's certificate, PEM.
    pub cert_pem: String,
    /// The node's private key, PEM.
    pub key_pem: String,
    /// The console's CA, PEM.
    pub ca_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .field("console", &self.console)
            .finish_non_exhaustive()
    }
}

/// Why there is no identity. Each text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node was never enrolled.
    #[error(
        "this node is not enrolled: {} does not exist. Remedy: make a join token on the console's page \"Add a node\" and run \
         `tsugi-agent enroll --console https://CONSOLE:{AGENTS_PORT} --token TOKEN --name NODE`",
        path.display()
    )]
    NotEnrolled {
        /// `agent.json`.
        path: PathBuf,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {}: {source}. Remedy: check its owner and mode (root, 0600 for the key)", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file can be read but makes no sense.
    #[error(
        "{} is damaged ({detail}). Remedy: enrol the node again with a new token: `tsugi-agent enroll --force --console … --token … --name …`",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// Paths of an identity in the state directory.
pub(crate) struct IdentityFiles {
    pub dir: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    pub agent: PathBuf,
}

impl IdentityFiles {
    pub(crate) fn in_state(state_dir: &Path) -> IdentityFiles {
        let dir = state_dir.join("identity");
        IdentityFiles {
            cert: dir.join("node.crt"),
            key: dir.join("node.key"),
            ca: dir.join("ca.crt"),
            agent: state_dir.join("agent.json"),
            dir,
        }
    }
}

impl Identity {
    /// Reads what enrolment stored.
    pub fn load(state_dir: &Path) -> Result<Identity, IdentityError> {
        let files = IdentityFiles::in_state(state_dir);
        let read = |path: &Path| match std::fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path == files.agent => {
                Err(IdentityError::NotEnrolled { path: path.to_owned() })
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData) => {
                Err(IdentityError::Damaged { path: path.to_owned(), detail: e.to_string() })
            }
            Err(source) => Err(IdentityError::Unreadable { path: path.to_owned(), source }),
        };
        let damaged = |path: &Path, detail: String| IdentityError::Damaged { path: path.to_owned(), detail };

        let agent: AgentFile = serde_json::from_str(&read(&files.agent)?).map_err(|e| damaged(&files.agent, e.to_string()))?;
        let console = agent.console.parse().map_err(|e: BadConsoleAddr| damaged(&files.agent, e.to_string()))?;
        let identity = Identity {
            node: agent.node,
            cluster: agent.cluster,
            console,
            cert_pem: read(&files.cert)?,
            key_pem: read(&files.key)?,
            ca_pem: read(&files.ca)?,
        };
        identity.certificates().map_err(|d| damaged(&files.cert, d))?;
        identity.key().map_err(|d| damaged(&files.key, d))?;
        identity.ca().map_err(|d| damaged(&files.ca, d))?;
        Ok(identity)
    }

    /// The node's chain, DER.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        certificates_of(&self.cert_pem)
    }
    /// The node's private key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| format!("no private key in it: {e}"))
    }
    /// The pinned CA, DER.
    pub fn ca(&self) -> Result<CertificateDer<'static>, String> {
        certificates_of(&self.ca_pem).map(|mut all| all.swap_remove(0))
    }
}

/// Every certificate of a PEM text, at least one.
pub(crate) fn certificates_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| format!("no certificate in it: {e}"))?;
    if all.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_addresses_are_read_in_every_usual_form() {
        let addr = |text: &str| text.parse::<ConsoleAddr>().map(|a| a.to_string()).map_err(|_| ());
        assert_eq!(addr("https://console:9454"), Ok("https://console:9454".into()));
        assert_eq!(addr("wss://10.0.0.1:99/"), Ok("https://10.0.0.1:99".into()));
        assert_eq!(addr("console.example"), Ok("https://console.example:9454".into()));
        assert_eq!(addr("https://[fd00::1]"), Ok("https://[fd00::1]:9454".into()));
        assert_eq!(addr("[fd00::1]:7"), Ok("https://[fd00::1]:7".into()));
        for wrong in
            ["", "http://console", "https://", "https://a b:1", "https://c:0", "https://c:70000", "https://c/path", "[fd00::1", "a@b"]
        {
            assert_eq!(addr(wrong), Err(()), "{wrong}");
        }
    }

    #[test]
    fn missing_identity_names_file_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let text = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(text.contains("agent.json") && text.contains("tsugi-agent enroll"), "{text}");
    }

    #[test]
    fn half_an_identity_is_damaged_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent.json"), r#"{"node":"n1","console":"https://c:1","cluster":"tokyo"}"#).unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("node.crt") && error.to_string().contains("--force"), "{error}");
    }
}
