//! The demo application: a ledger over HTTP that commits each entry to disk before it answers.
//!
//! `POST /entries {client, seq, text}` answers 201 only after a commit of SQLite with `synchronous=FULL`, or after an
//! fsync of a plain file ([`Store`]): an entry that was answered is on disk. The same (client, seq) again is answered with the id it has, so a client that lost the
//! answer may simply ask again.

use anyhow::{Context, Result, bail};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqliteConnection};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

mod raw;

use raw::Raw;

/// A virtual address may appear a moment after the application is started.
const BIND_BOUND: Duration = Duration::from_secs(5);
/// Requests whose commit is awaited; more wait in the network.
const WAITING_MAX: usize = 256;
/// Largest page of `GET /entries`.
pub const PAGE_MAX: i64 = 5000;
const TEXT_CHARS_MAX: usize = 1000;
/// Entries shown on the page.
const SHOWN: i64 = 20;
/// Requests under way get this long to end when the application is stopped.
const STOP_BOUND: Duration = Duration::from_secs(3);

/// An entry as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEntry {
    /// Who writes.
    pub client: String,
    /// The writer's own count.
    pub seq: i64,
    /// What.
    pub text: String,
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in this ledger.
    pub id: i64,
    /// Who wrote it.
    pub client: String,
    /// The writer's own count.
    pub seq: i64,
    /// What.
    pub text: String,
}

#[derive(Debug, Clone, Serialize)]
struct Refused {
    error: String,
}

struct Failed(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        eprintln!("tsugi-ledger: {:#}", self.0);
        (StatusCode::INTERNAL_SERVER_ERROR, Json(Refused { error: format!("{:#}", self.0) })).into_response()
    }
}

/// How the entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// SQLite with a write-ahead log.
    Wal,
    /// SQLite with a rollback journal, which is made and deleted for each entry.
    Journal,
    /// A plain file, a line and an fsync per entry.
    Raw,
}

type Waiting = (NewEntry, oneshot::Sender<Result<i64, String>>);

struct App {
    kept: Kept,
    writer: mpsc::Sender<Waiting>,
}

/// What is kept, for those who read.
#[derive(Clone)]
enum Kept {
    Sql(SqlitePool),
    Raw(Arc<Mutex<Raw>>),
}

/// And for the one that writes.
enum Writer {
    Sql(SqliteConnection),
    Raw(Arc<Mutex<Raw>>),
}

impl Writer {
    async fn write(&mut self, entry: NewEntry) -> Result<i64> {
        match self {
            Writer::Sql(connection) => write(connection, &entry).await,
            Writer::Raw(raw) => {
                let raw = raw.clone();
                tokio::task::spawn_blocking(move || lock(&raw).write(&entry)).await?
            }
        }
    }
}

fn lock(raw: &Mutex<Raw>) -> MutexGuard<'_, Raw> {
    raw.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the ledger in `dir`, which must exist: an empty directory made here would hide that the data is missing.
async fn open(dir: &Path, store: Store) -> Result<(Kept, Writer)> {
    if !dir.is_dir() {
        bail!("{} is missing: it is the directory to protect, so it is not made here; create it on both nodes", dir.display());
    }
    let mode = match store {
        Store::Wal => SqliteJournalMode::Wal,
        Store::Journal => SqliteJournalMode::Delete,
        Store::Raw => {
            let raw = Arc::new(Mutex::new(Raw::open(dir)?));
            return Ok((Kept::Raw(raw.clone()), Writer::Raw(raw)));
        }
    };
    let options = SqliteConnectOptions::new()
        .filename(dir.join("ledger.db"))
        .create_if_missing(true)
        .journal_mode(mode)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10));
    let pool = SqlitePoolOptions::new().max_connections(5).connect_with(options).await.context("the ledger's file cannot be opened")?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY AUTOINCREMENT, client TEXT NOT NULL, seq INTEGER NOT NULL,
         text TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, UNIQUE (client, seq))",
    )
    .execute(&pool)
    .await?;
    let connection = pool.acquire().await?.detach();
    Ok((Kept::Sql(pool), Writer::Sql(connection)))
}

/// Runs the ledger until it is told to stop (SIGTERM, SIGINT).
pub async fn serve(dir: &Path, listen: SocketAddr, store: Store) -> Result<()> {
    let (kept, disk) = open(dir, store).await?;
    let (writer, orders) = mpsc::channel(WAITING_MAX);
    let writing = tokio::spawn(write_all(disk, orders));
    let app = Arc::new(App { kept: kept.clone(), writer });
    let router = Router::new()
        .route("/", get(page))
        .route("/entries", post(add).get(list))
        .route("/form", post(add_by_form))
        .route("/count", get(count))
        .with_state(app);
    let listener = bind(listen).await?;
    println!("tsugi-ledger: {} on {}", dir.display(), listener.local_addr()?);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let graceful = {
        let mut stopped = stopped.clone();
        async move {
            let _ = stopped.wait_for(|s| *s).await;
        }
    };
    let server = tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(graceful).into_future());
    wait_for_stop().await?;
    let _ = stop.send(true);
    // Idle keep-alive connections of clients would hold the stop up for ever.
    let _ = tokio::time::timeout(STOP_BOUND, server).await;
    let _ = tokio::time::timeout(STOP_BOUND, writing).await;
    if let Kept::Sql(pool) = kept {
        pool.close().await;
    }
    Ok(())
}

async fn wait_for_stop() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Ok(())
}

async fn bind(listen: SocketAddr) -> Result<tokio::net::TcpListener> {
    let until = tokio::time::Instant::now() + BIND_BOUND;
    loop {
        match tokio::net::TcpListener::bind(listen).await {
            Ok(listener) => return Ok(listener),
            Err(error) if tokio::time::Instant::now() >= until => {
                return Err(error).with_context(|| format!("{listen} cannot be listened on: is the address on this host?"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The one writer. One transaction, one sync, one answer per entry: an application that is as hard on
/// replication as can be.
async fn write_all(mut disk: Writer, mut orders: mpsc::Receiver<Waiting>) {
    while let Some((entry, answer)) = orders.recv().await {
        let result = disk.write(entry).await.map_err(|error| format!("{error:#}"));
        let _ = answer.send(result);
    }
}

async fn write(connection: &mut SqliteConnection, entry: &NewEntry) -> Result<i64> {
    // Carried out to its end, which is the commit: asked for a row of it, the driver takes the row and drops the commit's
    // error.
    let made = sqlx::query("INSERT INTO entry (client, seq, text) VALUES (?, ?, ?) ON CONFLICT (client, seq) DO NOTHING")
        .bind(&entry.client)
        .bind(entry.seq)
        .bind(&entry.text)
        .execute(&mut *connection)
        .await?;
    if made.rows_affected() > 0 {
        return Ok(made.last_insert_rowid());
    }
    let row = sqlx::query("SELECT id, text FROM entry WHERE client = ? AND seq = ?")
        .bind(&entry.client)
        .bind(entry.seq)
        .fetch_one(connection)
        .await?;
    if row.get::<String, _>(1) != entry.text {
        bail!("entry {} of {} exists with another text", entry.seq, entry.client);
    }
    Ok(row.get(0))
}

impl App {
    async fn commit(&self, entry: NewEntry) -> Result<i64, Failed> {
        if entry.client.is_empty() || entry.text.chars().count() > TEXT_CHARS_MAX {
            return Err(anyhow::anyhow!("an entry needs a client and at most {TEXT_CHARS_MAX} characters of text").into());
        }
        let (answer, answered) = oneshot::channel();
        self.writer.send((entry, answer)).await.map_err(|_| anyhow::anyhow!("the ledger is being stopped"))?;
        let result = answered.await.context("the ledger is being stopped")?;
        Ok(result.map_err(anyhow::Error::msg)?)
    }

    async fn last(&self, count: i64) -> Result<Vec<Entry>, Failed> {
        match &self.kept {
            Kept::Sql(pool) => {
                let query = sqlx::query("SELECT id, client, seq, text FROM entry ORDER BY id DESC LIMIT ?").bind(count);
                Ok(query.fetch_all(pool).await?.iter().map(entry_of).collect())
            }
            Kept::Raw(raw) => Ok(lock(raw).entries().iter().rev().take(usize::try_from(count)?).cloned().collect()),
        }
    }

    async fn count(&self) -> Result<i64, Failed> {
        match &self.kept {
            Kept::Sql(pool) => Ok(sqlx::query("SELECT count(*) FROM entry").fetch_one(pool).await?.get(0)),
            Kept::Raw(raw) => Ok(i64::try_from(lock(raw).entries().len())?),
        }
    }

    async fn after(&self, range: Range) -> Result<Vec<Entry>, Failed> {
        match &self.kept {
            Kept::Sql(pool) => {
                let query = "SELECT id, client, seq, text FROM entry WHERE id > ?1 AND (?2 IS NULL OR client = ?2) ORDER BY id LIMIT ?3";
                let rows = sqlx::query(query).bind(range.after).bind(&range.client).bind(PAGE_MAX).fetch_all(pool).await?;
                Ok(rows.iter().map(entry_of).collect())
            }
            Kept::Raw(raw) => {
                let is_wanted = |e: &&Entry| range.client.as_ref().is_none_or(|c| *c == e.client);
                let raw = lock(raw);
                // Their numbers are their places.
                let behind = raw.entries().iter().skip(usize::try_from(range.after).unwrap_or(0));
                Ok(behind.filter(is_wanted).take(usize::try_from(PAGE_MAX)?).cloned().collect())
            }
        }
    }
}

fn entry_of(row: &sqlx::sqlite::SqliteRow) -> Entry {
    Entry { id: row.get(0), client: row.get(1), seq: row.get(2), text: row.get(3) }
}

async fn add(State(app): State<Arc<App>>, Json(entry): Json<NewEntry>) -> Result<Response, Failed> {
    let id = app.commit(entry).await?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "id": id }))).into_response())
}

#[derive(Debug, Deserialize)]
struct Range {
    client: Option<String>,
    #[serde(default)]
    after: i64,
}

/// Entries after id `after`, oldest first, of one client or of all, at most [`PAGE_MAX`].
async fn list(State(app): State<Arc<App>>, Query(range): Query<Range>) -> Result<Json<Vec<Entry>>, Failed> {
    Ok(Json(app.after(range).await?))
}

async fn count(State(app): State<Arc<App>>) -> Result<Json<serde_json::Value>, Failed> {
    Ok(Json(serde_json::json!({ "count": app.count().await?, "host": host_name() })))
}

#[derive(Debug, Deserialize)]
struct Written {
    text: String,
}

async fn add_by_form(State(app): State<Arc<App>>, Form(written): Form<Written>) -> Result<Response, Failed> {
    // Only its difference from earlier ones matters.
    let seq = app.count().await? + 1;
    let text = written.text.chars().take(TEXT_CHARS_MAX).collect();
    app.commit(NewEntry { client: "browser".into(), seq, text }).await?;
    Ok(Redirect::to("/").into_response())
}

async fn page(State(app): State<Arc<App>>) -> Result<Response, Failed> {
    let mut rows = String::new();
    for entry in app.last(SHOWN).await? {
        rows.push_str(&format!("<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n", entry.id, escape(&entry.client), escape(&entry.text)));
    }
    let html = include_str!("ledger.html")
        .replace("{host}", &escape(&host_name()))
        .replace("{count}", &app.count().await?.to_string())
        .replace("{rows}", &rows);
    Ok(([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Every entry of a copy of a ledger's directory (file and log or journal), as SQLite recovers it.
pub async fn read_copy(dir: &Path) -> Result<Vec<Entry>> {
    if dir.join(raw::FILE).exists() {
        return raw::read_copy(dir);
    }
    let options = SqliteConnectOptions::new().filename(dir.join("ledger.db"));
    let pool =
        SqlitePoolOptions::new().max_connections(1).connect_with(options).await.context("the copy of the ledger cannot be opened")?;
    let health: String = sqlx::query("PRAGMA integrity_check").fetch_one(&pool).await?.get(0);
    if health != "ok" {
        bail!("the copy of the ledger is damaged: {health}");
    }
    let rows = sqlx::query("SELECT id, client, seq, text FROM entry ORDER BY id").fetch_all(&pool).await?;
    pool.close().await;
    Ok(rows.iter().map(entry_of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: i64, text: &str) -> NewEntry {
        NewEntry { client: "t".into(), seq, text: text.into() }
    }

    #[tokio::test]
    async fn a_missing_directory_is_refused_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = open(&missing, Store::Wal).await.err().unwrap().to_string();
        assert!(error.contains("is missing"), "{error}");
        assert!(!missing.exists());
    }

    #[tokio::test]
    async fn the_same_entry_again_keeps_its_id_and_another_text_is_refused() {
        for store in [Store::Wal, Store::Journal, Store::Raw] {
            let dir = tempfile::tempdir().unwrap();
            let (kept, mut disk) = open(dir.path(), store).await.unwrap();
            let first = disk.write(entry(1, "a")).await.unwrap();
            assert_eq!(disk.write(entry(1, "a")).await.unwrap(), first);
            assert!(disk.write(entry(1, "b")).await.is_err());
            let second = disk.write(entry(2, "b")).await.unwrap();
            assert!(second > first);
            let texts = |all: &[Entry]| all.iter().map(|e| (e.seq, e.text.clone())).collect::<Vec<_>>();
            let both = [(1, "a".to_owned()), (2, "b".to_owned())];
            assert_eq!(texts(&read_copy(dir.path()).await.unwrap()), both, "{store:?}");
            let app = App { kept, writer: mpsc::channel(1).0 };
            let all = app.after(Range { client: Some("t".into()), after: 0 }).await.unwrap_or_default();
            assert_eq!(texts(&all), both, "{store:?}");
            let behind = app.after(Range { client: None, after: first }).await.unwrap_or_default();
            assert_eq!(texts(&behind), both[1..], "{store:?}");
            assert_eq!(app.count().await.unwrap_or_default(), 2);
            let last = app.last(1).await.unwrap_or_default();
            assert_eq!(texts(&last), both[1..], "{store:?}");
        }
    }
}
