//! `tsugi-agent`: the daemon of a node.

use clap::{Parser, Subcommand};
use tsugi_agent::config::AgentConfig;
use tsugi_core::ids::NodeName;
use tsugi_core::wire::console::JoinToken;

/// The agent of a node: runs the modules, replicates their data, takes over.
#[derive(Parser)]
#[command(name = "tsugi-agent", version)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run the agent in the foreground (systemd starts it so).
    Run {
        #[command(flatten)]
        config: AgentConfig,
    },
    /// Join a cluster with a token from the console's page "Add a node".
    Enroll {
        #[command(flatten)]
        config: AgentConfig,
        /// Address of the console's port for agents, for example https://console.example:9454
        #[arg(long)]
        console: String,
        /// The token, whole: tsugi1.….…
        #[arg(long)]
        token: JoinToken,
        /// Name of this node in the cluster's configuration.
        #[arg(long)]
        name: NodeName,
        /// Replace an identity that this node has already.
        #[arg(long)]
        force: bool,
    },
    /// Let nobody write to copies that are not served; run once at boot, before anything that might.
    Hold {
        #[command(flatten)]
        config: AgentConfig,
    },
    /// Keep the arbiter's record on a third machine, for nodes that must not depend on the console for it.
    Witness {
        #[command(flatten)]
        config: tsugi_agent::witness::WitnessConfig,
    },
    /// The data process of a module; started by the agent only.
    #[command(hide = true)]
    Data,
    /// The guard of this node; started by the agent only.
    #[command(hide = true)]
    Guard,
}

/// Without `RUST_LOG`. The kernel takes no answer to an interrupted request where requests come over io_uring, and the library
/// for the device makes an error of each.
const LOGGED: &str = "info,fuser::reply=off";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| LOGGED.into()))
        .with_writer(std::io::stderr)
        .init();
    if let What::Data = args.what {
        return tsugi_agent::rfs::process::data_main();
    }
    if let What::Hold { config } = args.what {
        return tsugi_agent::rfs::hold::at_boot(&config.state_dir);
    }
    if let What::Guard = args.what {
        return tsugi_agent::guard::guard_main();
    }
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("the TLS provider was set twice"))?;
    // Two workers: one may wait for the record's disk while the other keeps the beats going.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match args.what {
            What::Run { config } => tsugi_agent::agent::run(config).await,
            What::Enroll { config, console, token, name, force } => {
                let existing = if force { tsugi_agent::enroll::Existing::Replace } else { tsugi_agent::enroll::Existing::Keep };
                let answer = tsugi_agent::enroll::enroll(&console, &token, &name, &config.state_dir, existing).await?;
                println!("{name} has joined cluster {} of {console}.", answer.cluster);
                println!("Certificate fingerprint (SHA-256), to compare when the node is approved in the console:\n{}", answer.fingerprint);
                println!("Next: systemctl enable --now tsugi-agent, then approve the node in the console.");
                Ok(())
            }
            What::Witness { config } => tsugi_agent::witness::run(config).await,
            What::Data | What::Guard | What::Hold { .. } => Ok(()),
        }
    })
}
