//! Names, addresses and places of a lab: everything follows from the lab's name and a host's number.
//!
//! Addresses are of 198.18.0.0/15, which is set aside for benchmarks and routed nowhere (RFC 2544), so a lab
//! can never be mistaken for a network the machine is on.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Name of the console's host.
pub const CONSOLE: &str = "console";
/// Name of the namespace clients run in; it has no disk and no processes of its own.
pub const CLIENT: &str = "client";
/// Address that modules of a lab protect, outside of every host's range.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);
/// Where the ledger listens on the virtual address.
pub const LEDGER_PORT: u16 = 8080;
/// Where a browser reaches the console.
pub const CONSOLE_PORT: u16 = 9453;
/// Where agents reach the console.
pub const AGENTS_PORT: u16 = 9454;
/// Hosts n1…n89 have addresses .11….99.
pub const HOSTS_MAX: u8 = 89;
/// Inside a host: where the binaries under test are, first in `PATH`.
pub const BIN_IN_HOST: &str = "/run/tsugi-lab/bin";

/// One of the two switches of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Clients and virtual addresses: 198.18.0.0/24, `eth0` of every host.
    Client,
    /// Between the nodes: 198.18.1.0/24, `eth1` of every host.
    Private,
}

impl Network {
    /// Both.
    pub const ALL: [Network; 2] = [Network::Client, Network::Private];

    /// Word on the command line; also the name of the LAN in `cluster.xml` and of the bridge.
    pub fn word(self) -> &'static str {
        match self {
            Network::Client => "client",
            Network::Private => "private",
        }
    }
    fn index(self) -> u8 {
        match self {
            Network::Client => 0,
            Network::Private => 1,
        }
    }
    /// Interface inside a host.
    pub fn interface(self) -> &'static str {
        match self {
            Network::Client => "eth0",
            Network::Private => "eth1",
        }
    }
    /// Address of the host with this number.
    pub fn addr(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.index(), number)
    }
    /// Hardware address of the host with this number: the same at every boot, as a real card's.
    pub fn mac(self, number: u8) -> String {
        format!("02:54:53:55:{:02x}:{number:02x}", self.index())
    }
    /// Interface of the switch that `host` is plugged into.
    pub fn port(self, host: &str) -> String {
        format!("{host}-{}", &self.word()[..1])
    }
}

impl FromStr for Network {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "client" => Ok(Network::Client),
            "private" => Ok(Network::Private),
            _ => bail!("there is no network `{text}`: `client` and `private` are the two networks of a lab"),
        }
    }
}

/// Last byte of the addresses of a host: n1 → 11, the console → 10, the client → 1.
pub fn number_of(host: &str) -> Result<u8> {
    if host == CONSOLE {
        return Ok(10);
    }
    if host == CLIENT {
        return Ok(1);
    }
    let number = host.strip_prefix('n').and_then(|n| n.parse::<u8>().ok()).filter(|n| (1..=HOSTS_MAX).contains(n));
    number
        .map(|n| n + 10)
        .with_context(|| format!("there is no host `{host}`: hosts are n1 … n{HOSTS_MAX}, `{CONSOLE}`, and `{CLIENT}` for cuts"))
}

/// Where a lab keeps what outlives its commands.
#[derive(Debug, Clone)]
pub struct Places {
    /// Name of the lab.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
}

impl Places {
    /// Of the lab called `name`, below `TSUGI_LAB_DIR` (default `/var/lib/tsugi-lab`).
    pub fn of(name: &str) -> Result<Places> {
        let is_good = !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !is_good {
            bail!("`{name}` cannot be the name of a lab: 1 to 32 letters, digits, `-`, `_` (TSUGI_LAB_NAME)");
        }
        let base = std::env::var_os("TSUGI_LAB_DIR").map_or_else(|| PathBuf::from("/var/lib/tsugi-lab"), PathBuf::from);
        Ok(Places { name: name.to_owned(), dir: base.join(name) })
    }
    /// Of the lab named by `TSUGI_LAB_NAME`, else `default`.
    pub fn from_env() -> Result<Places> {
        Self::of(&std::env::var("TSUGI_LAB_NAME").unwrap_or_else(|_| "default".to_owned()))
    }
    /// Where the keeper listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("keeper.sock")
    }
    /// What the lab was told and made: written by the keeper, read by `lab info` and after a crash.
    pub fn state(&self) -> PathBuf {
        self.dir.join("lab.json")
    }
    /// Files of one host.
    pub fn host(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host)
    }
}

/// Directory of the binaries under test: `TSUGI_BIN_DIR`, else where this program lies.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("TSUGI_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let own = std::env::current_exe().context("the path of this program cannot be read")?;
    let mut dir = own.parent().context("this program has no directory")?.to_owned();
    if dir.ends_with("deps") {
        dir.pop(); // a test suite: cargo puts those one level below the binaries
    }
    Ok(dir)
}

/// Path of one binary under test, with the remedy when it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    if !Path::new(&path).exists() {
        bail!("{} is missing: `cargo build --workspace` makes it (./dev does so by itself)", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_the_name() {
        assert_eq!(Network::Private.addr(number_of("n1").unwrap()).to_string(), "198.18.1.11");
        assert_eq!(Network::Client.addr(number_of("console").unwrap()).to_string(), "198.18.0.10");
        assert_eq!(Network::Client.mac(11), "02:54:53:55:00:0b");
        assert_eq!(Network::Private.port("n2"), "n2-p");
        assert!(number_of("n90").is_err() && number_of("n0").is_err() && number_of("web").is_err());
    }

    #[test]
    fn a_name_that_could_leave_the_directory_is_refused() {
        assert!(Places::of("../x").is_err() && Places::of("").is_err());
    }
}
