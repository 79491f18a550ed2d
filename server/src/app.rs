//! One bag of handles, shared by every task.

use crate::arbiter::Arbiter;
use crate::auth::{Passwords, SignInBrake};
use crate::fleet::Fleet;
use crate::pki::Ca;
use crate::store::Store;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tsugi_core::ids::{ClusterName, ModuleName};

/// Agents that may say hello and be brought up to date at once, after a restart of the console.
const HELLOS_MAX: usize = 64;
/// States are written to the store this often; they matter only to a restarted console.
const SAVE_EVERY: Duration = Duration::from_secs(3);
/// Silent nodes are looked for this often.
const SILENCE_EVERY: Duration = Duration::from_secs(1);

/// The console's handles.
#[derive(Debug)]
pub struct App {
    /// Directory of everything the console keeps.
    pub dir: PathBuf,
    /// The database.
    pub store: Store,
    /// The arbiter's record.
    pub arbiter: Arbiter,
    /// What is known now.
    pub fleet: Fleet,
    /// Certificate authority.
    pub ca: Ca,
    /// Password hashing.
    pub passwords: Passwords,
    /// Slows guessing down.
    pub brake: SignInBrake,
    /// One-time code of the set-up, until it is used.
    pub setup_code: Mutex<Option<String>>,
    /// Modules with a running operation, and its id.
    pub running: Mutex<BTreeMap<(ClusterName, ModuleName), String>>,
    /// See [`HELLOS_MAX`].
    pub hellos: Semaphore,
    /// Live connections per user.
    pub live_users: Mutex<BTreeMap<String, u32>>,
    /// Live pages rendered for the newest change.
    pub rendered: crate::rendered::RenderedPages,
    /// Port of the agents, as bound; part of join commands.
    pub agents_port: AtomicU16,
    /// Port of browsers and API, as bound.
    pub browser_port: AtomicU16,
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// Work that is finished before the files are closed.
    pub tasks: TaskTracker,
}

impl App {
    /// Opens what is kept in `dir`, making it at the first start, and begins the console's own small work.
    pub async fn open(dir: &Path) -> Result<Arc<App>> {
        // May be set already, by a test or by whoever embeds the console.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if !dir.exists() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            // Keys and hashes live here.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).with_context(|| format!("cannot protect {}", dir.display()))?;
        }
        let store = Store::open(dir).await.with_context(|| format!("cannot open the database in {}", dir.display()))?;
        let arbiter =
            Arbiter::open(&dir.join("arbiter.db")).await.with_context(|| format!("cannot open the arbiter's file in {}", dir.display()))?;
        let ca = Ca::open(dir)?;
        let setup_code = setup_code(dir, store.is_fresh().await?)?;
        let fleet = Fleet::new();
        for (cluster, snapshot, at_ms) in store.kept_snapshots().await? {
            fleet.remember(cluster, snapshot, at_ms);
        }
        let app = Arc::new(App {
            dir: dir.to_owned(),
            store,
            arbiter,
            fleet,
            ca,
            passwords: Passwords::new(),
            brake: SignInBrake::default(),
            setup_code: Mutex::new(setup_code),
            running: Mutex::default(),
            hellos: Semaphore::new(HELLOS_MAX),
            live_users: Mutex::default(),
            rendered: crate::rendered::RenderedPages::default(),
            agents_port: AtomicU16::new(0),
            browser_port: AtomicU16::new(0),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        crate::actions::close_open(&app).await?;
        app.tasks.spawn(save_states(app.clone()));
        app.tasks.spawn(watch_silence(app.clone()));
        Ok(app)
    }

    /// The set-up was done: its code is worth nothing any more.
    pub fn setup_done(&self) {
        *self.setup_code.lock().expect("nobody panics while holding this lock") = None;
        if let Err(error) = fs::remove_file(self.dir.join("setup-code")) {
            tracing::warn!(%error, "The used set-up code's file could not be removed; it is of no use any more.");
        }
    }

    /// Ends every task, writes what is unsaved and closes the files.
    pub async fn close(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
        self.arbiter.close().await;
    }
}

/// The code that proves that whoever does the set-up may read the console's log or files.
fn setup_code(dir: &Path, is_fresh: bool) -> Result<Option<String>> {
    let file = dir.join("setup-code");
    if !is_fresh {
        return Ok(None);
    }
    if let Ok(code) = fs::read_to_string(&file) {
        return Ok(Some(code.trim().to_owned()));
    }
    // Twelve characters without those that look alike: 60 bits, typed once.
    const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let random: [u8; 12] = rand::random();
    let text: String = random.iter().map(|b| ALPHABET[(b % 32) as usize] as char).collect();
    let code = format!("{}-{}-{}", &text[..4], &text[4..8], &text[8..]);
    crate::pki::write_file(&file, &format!("{code}\n"), 0o600)?;
    Ok(Some(code))
}

async fn save_states(app: Arc<App>) {
    loop {
        let is_last = tokio::select! {
            () = app.shutdown.cancelled() => true,
            () = tokio::time::sleep(SAVE_EVERY) => false,
        };
        let unsaved = app.fleet.take_unsaved();
        if !unsaved.is_empty()
            && let Err(error) = app.store.keep_snapshots(&unsaved).await
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "The last states could not be kept; a restarted console would show older ones."
            );
        }
        if is_last {
            return;
        }
    }
}

async fn watch_silence(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(SILENCE_EVERY) => app.fleet.mark_silent(),
        }
    }
}
