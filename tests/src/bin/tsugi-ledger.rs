//! The demo application. See [`tsugi_tests::ledger`].

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use tsugi_tests::ledger::Store;

/// A ledger over HTTP that commits each entry to disk before it answers.
#[derive(Debug, Parser)]
#[command(name = "tsugi-ledger", version)]
struct Cli {
    /// Directory of the ledger's file. Must exist.
    #[arg(long)]
    dir: PathBuf,
    /// Address and port to listen on, for example the module's virtual address.
    #[arg(long)]
    listen: SocketAddr,
    /// How the entries are kept.
    #[arg(long, value_enum, default_value = "wal")]
    store: Store,
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(tsugi_tests::ledger::serve(&cli.dir, cli.listen, cli.store)));
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tsugi-ledger: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
