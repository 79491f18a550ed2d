//! `tsugi-agent witness`: the arbiter's record on a third machine that is not the console.
//!
//! The same requests and the same rule as the console's arbiter; what it adds is in `tsugi_core::wire::kept`: it has no
//! configuration, so it remembers who asked. Its identity is that of an enrolled node: the certificate must name what
//! `cluster.xml` calls the witness. It needs nothing of the console after that.

mod serve;
mod store;

pub use store::{Change, ModuleFile, StoreError, WitnessStore};

use crate::config::Identity;
use anyhow::Context;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tsugi_core::ids::ModuleName;

/// Default of `--state` of a witness, so that it may live beside an agent.
pub const WITNESS_STATE_DIR: &str = "/var/lib/tsugi-witness";
/// Default of `--listen`: every address, the port that `cluster.xml` takes when it names none.
pub const WITNESS_LISTEN: &str = "[::]:9455";

/// Command line of a witness.
#[derive(Debug, Clone, Args)]
pub struct WitnessConfig {
    /// Directory of its identity (see `enroll`) and its records.
    #[arg(long = "state", env = "TSUGI_STATE", default_value = WITNESS_STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Address and port to listen on.
    #[arg(long, env = "TSUGI_WITNESS_LISTEN", default_value = WITNESS_LISTEN, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// List the modules and their records, and end. The witness must not run.
    #[arg(long, conflicts_with = "forget")]
    pub list: bool,
    /// Forget the record of a module that was removed or has moved to other nodes, and end. The witness must not run.
    #[arg(long, value_name = "MODULE")]
    pub forget: Option<ModuleName>,
}

/// Runs the witness until SIGTERM or SIGINT, or carries out `--list` or `--forget`.
pub async fn run(config: WitnessConfig) -> anyhow::Result<()> {
    let store = WitnessStore::open(&config.state_dir)?;
    if config.list {
        for ModuleFile { kept, change } in store.modules() {
            let names = |set: &std::collections::BTreeSet<_>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            println!(
                "{} version={} owner={} in_sync={} nodes={}",
                change.module,
                kept.record.version.0,
                kept.record.owner.as_ref().map_or("-", |n| n.as_str()),
                names(&kept.record.in_sync),
                names(&kept.pair)
            );
        }
        return Ok(());
    }
    if let Some(module) = &config.forget {
        anyhow::ensure!(store.forget(module, "root")?, "this witness has no module {module}");
        println!(
            "The record of module {module} is forgotten. Its next start begins with `tsugi prim {module}` on the node with the good data."
        );
        return Ok(());
    }
    let identity = Identity::load(&config.state_dir).with_context(|| {
        format!(
            "the witness has no identity. Remedy: `tsugi-agent enroll --state {} --console … --token … --name NAME`",
            config.state_dir.display()
        )
    })?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}. Remedy: choose another --listen, or end what uses the port (`ss -tlnp`)", config.listen)
    })?;
    tracing::info!(
        node.name = %identity.node, cluster.name = %identity.cluster, arbiter.instance = %store.instance(),
        "witness {} of cluster {} listens on {}", identity.node, identity.cluster, listener.local_addr()?
    );
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let serving = serve::serve(listener, &identity, Arc::new(store))?;
    tokio::select! {
        ended = serving => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
