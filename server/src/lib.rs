//! # tsugi-server: remembers and shows
//!
//! The central console: inventory, configurations, orders and their outcome, what every node last said, the pages
//! and the REST API, and the arbiter. It is never in the path of a write, and a running service does not need it.
//!
//! | module | does |
//! | --- | --- |
//! | [`app`] [`config`] [`auth`] [`pki`] [`net`] | one bag of handles; settings; passwords and roles; certificates; TLS ports |
//! | [`store`] | the database, a file per subject |
//! | [`arbiter`] | the record of who may serve, in a file of its own |
//! | [`fleet`] | what is known now, and the feed of changes |
//! | [`agents`] | enrolment, agents' WebSocket, arbiter requests |
//! | [`actions`] [`deploy`] | orders and deployments as operations; checks before a version is stored |
//! | [`http`] | REST API, pages, live stream |

pub mod actions;
pub mod agents;
pub mod app;
pub mod arbiter;
pub mod auth;
pub mod config;
pub mod deploy;
pub mod fleet;
pub mod http;
pub mod net;
pub mod pki;
pub mod rendered;
pub mod store;
pub mod words;

pub use app::App;
pub use config::Config;

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A console with both ports open.
#[derive(Debug)]
pub struct Running {
    /// Its handles.
    pub app: Arc<App>,
    /// Address of the browser and API port, as bound.
    pub browser: SocketAddr,
    /// Address of the agents' port, as bound.
    pub agents: SocketAddr,
    ports: Vec<JoinHandle<()>>,
}

impl Running {
    /// Opens the data directory and both ports.
    pub async fn start(config: &Config) -> Result<Running> {
        let app = App::open(&config.data).await?;
        let bind = |addr: SocketAddr| async move { TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}")) };
        let (browser, agents) = (bind(config.listen).await?, bind(config.agents).await?);
        let (browser_at, agents_at) = (browser.local_addr()?, agents.local_addr()?);
        app.agents_port.store(agents_at.port(), Ordering::Relaxed);
        app.browser_port.store(browser_at.port(), Ordering::Relaxed);
        let browser_tls = app.ca.browser_tls(&config.data, &pki::server_names(&config.names))?;
        let agents_tls = app.ca.agents_tls()?;
        let ports = vec![
            tokio::spawn(net::serve(browser, browser_tls, http::router(app.clone()), app.shutdown.clone())),
            tokio::spawn(net::serve(agents, agents_tls, agents::router(app.clone()), app.shutdown.clone())),
        ];
        Ok(Running { app, browser: browser_at, agents: agents_at, ports })
    }

    /// Ends in order: no new connections, requests under way finish, files are closed.
    pub async fn stop(self) {
        self.app.shutdown.cancel();
        for port in self.ports {
            let _ = port.await;
        }
        self.app.close().await;
    }
}

/// Runs a console until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<()> {
    let console = Running::start(&config).await?;
    tracing::info!(browser = %console.browser, agents = %console.agents, data = %config.data.display(), "The console is ready.");
    let code = console.app.setup_code.lock().expect("nobody panics while holding this lock").clone();
    if let Some(code) = code {
        // On a line of its own, so that a person and a script find it; it opens nothing once the set-up is done.
        println!("Set-up code: {code}");
        tracing::info!(
            "No user exists yet: open the console's address in a browser and enter the set-up code, which is also in {}.",
            config.data.join("setup-code").display()
        );
    }
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("The console ends.");
    console.stop().await;
    Ok(())
}
