//! `tsugi-server`: the central console.

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Task::Run { data, listen, agents, name } = Cli::parse().command;
    // A name may be given with its port, as it stands in the address bar; the certificate holds only the host.
    let names = name.iter().map(|n| host_of(n)).collect();
    tsugi_server::run(Config { data, listen, agents, names }).await
}

/// `console.example.com:9453` → `console.example.com`; `[::1]:9453` → `::1`.
fn host_of(name: &str) -> String {
    if let Ok(addr) = name.parse::<SocketAddr>() {
        return addr.ip().to_string();
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return bare.to_owned();
    }
    name.split(':').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn a_name_is_taken_with_or_without_its_port() {
        assert_eq!(host_of("console.example.com:9453"), "console.example.com");
        assert_eq!(host_of("console"), "console");
        assert_eq!(host_of("10.0.0.1:9453"), "10.0.0.1");
        assert_eq!(host_of("[::1]:9453"), "::1");
        assert_eq!(host_of("::1"), "::1");
    }
}
