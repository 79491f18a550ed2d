//! `tsugi-server`: the central console.

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tsugi_server::Config;

#[derive(Parser)]
#[command(name = "tsugi-server", version, about = "Central console of Tsugi: inventory, configuration, orders, states, arbiter")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the console in the foreground.
    Run {
        /// Directory of everything the console keeps: database, arbiter's record, certificate authority.
        #[arg(long, env = "TSUGI_DATA", default_value = "/var/lib/tsugi-server")]
        data: PathBuf,
        /// Address and port for browsers and the REST API (HTTPS).
        #[arg(long, env = "TSUGI_LISTEN", default_value = "0.0.0.0:9453")]
        listen: SocketAddr,
        /// Address and port for agents (mutual TLS).
        #[arg(long, env = "TSUGI_AGENTS", default_value = "0.0.0.0:9454")]
        agents: SocketAddr,
        /// More host names or addresses of this console for its certificate, separated by commas.
        #[arg(long, env = "TSUGI_NAME", value_delimiter = ',')]
        name: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // Colours for a person, plain text for the journal.
    let is_person = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_person).with_writer(std::io::stderr).init();
    let Task::Run { data, listen, agents, name } = Cli::parse().command;
    // A name may be given with its port, as it stands in the address bar; the certificate holds only the host.
    let names = name.iter().flat_map(|n| hosts_of(n)).collect();
    tsugi_server::run(Config { data, listen, agents, names }).await
}

/// Names of `console.example.com`, `console.example.com:9453`, `[::1]:9453`, `console:192.0.2.10` without ports.
fn hosts_of(name: &str) -> Vec<String> {
    if let Ok(addr) = name.parse::<SocketAddr>() {
        return vec![addr.ip().to_string()];
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return vec![bare.to_owned()];
    }
    let (host, rest) = name.split_once(':').unwrap_or((name, ""));
    let address = rest.parse::<IpAddr>().ok().map(|a| a.to_string());
    std::iter::once(host.to_owned()).chain(address).collect()
}

#[cfg(test)]
mod tests {
    use super::hosts_of;

    #[test]
    fn a_name_is_taken_with_or_without_its_port() {
        assert_eq!(hosts_of("console.example.com:9453"), ["console.example.com"]);
        assert_eq!(hosts_of("console"), ["console"]);
        assert_eq!(hosts_of("console:192.0.2.10"), ["console", "192.0.2.10"]);
        assert_eq!(hosts_of("10.0.0.1:9453"), ["10.0.0.1"]);
        assert_eq!(hosts_of("[::1]:9453"), ["::1"]);
        assert_eq!(hosts_of("::1"), ["::1"]);
    }
}
