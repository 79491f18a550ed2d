//! The console's memory: SQLite in WAL mode, one file per subject, no HTTP in here.
//!
//! One writer connection, so that writes queue in the process and never meet `SQLITE_BUSY`; readers have a small
//! pool of their own. `synchronous=FULL`: what was answered "stored" is stored.

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::path::Path;
use std::time::Duration;

pub mod audit;
pub mod clusters;
pub mod events;
pub mod modules;
pub mod nodes;
pub mod operations;
pub mod sessions;
pub mod tokens;
pub mod users;

/// Readers at once: pages and API read briefly, and two cores serve no more than this at a time.
const READERS_MAX: u32 = 4;
/// Longest wait for a connection of the pool before the request is answered with an error.
const ACQUIRE_MAX: Duration = Duration::from_secs(10);

/// Something the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("the console's database failed")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the console's database could not be brought to this version")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what this version cannot read.
    #[error("the console's database holds a {what} this version cannot read")]
    Unreadable {
        /// Which kind of row.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// Result of every call into the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Handle to the database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    readers: SqlitePool,
    writer: SqlitePool,
}

impl Store {
    /// Opens (and creates) `tsugi.db` in `dir` and brings its schema up to date.
    pub async fn open(dir: &Path) -> Result<Store> {
        let options = SqliteConnectOptions::new()
            .filename(dir.join("tsugi.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_MAX).connect_with(options.clone()).await?;
        sqlx::migrate!("../migrations").run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(ACQUIRE_MAX)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Store { readers, writer })
    }

    /// For `SELECT`s.
    fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// A write transaction; it holds the only writer, so it must be short.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The database answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(self.read()).await?;
        Ok(())
    }

    /// Closes the files; pending writes are finished first.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Milliseconds since 1970 by the wall clock.
pub fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|source| StoreError::Unreadable { what, source })
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("types of the store have only string keys, so they always become JSON")
}

/// A name out of the database, where only checked names are put.
fn name<T: std::str::FromStr<Err = tsugi_core::ids::BadName>>(text: String) -> Result<T> {
    text.parse().map_err(|bad: tsugi_core::ids::BadName| StoreError::Database(sqlx::Error::Decode(Box::new(bad))))
}
