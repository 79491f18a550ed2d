//! The arbiter's store: one record per module, changed by compare-and-set, durable before it is answered.
//!
//! A file of its own (`arbiter.db`) with one connection and `synchronous=FULL`, so that a slow report or a page
//! never stands before a claim, and so that no backup of the console holds an old record: restoring one would
//! bring a dead in-sync set back to life. The file's `instance` is minted when the file is made; the nodes notice
//! a new one and do not trust it blindly. The rule itself is [`Record::apply`]; there are no timers here.

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, Sqlite, SqlitePool, Transaction};
use std::path::Path;
use std::time::Duration;
use tsugi_core::ids::{ClusterName, LifeId, ModuleName, NodeName};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};

/// Longest wait for the only connection; an agent gives an unanswered request up and asks again.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The arbiter cannot answer. Nothing was promised.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// SQLite said no.
    #[error("the arbiter's file failed")]
    Database(#[from] sqlx::Error),
    /// A record cannot be read.
    #[error("the arbiter's file holds a record this version cannot read")]
    Unreadable(#[from] serde_json::Error),
}

/// Handle to the arbiter's file.
#[derive(Debug, Clone)]
pub struct Arbiter {
    writer: SqlitePool,
    instance: LifeId,
}

impl Arbiter {
    /// Opens `file`, making it, and with it a new instance, if it is not there.
    pub async fn open(file: &Path) -> Result<Arbiter, ArbiterError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(WAIT_MAX);
        let writer = SqlitePoolOptions::new().max_connections(1).acquire_timeout(WAIT_MAX).connect_with(options).await?;
        for statement in [
            "CREATE TABLE IF NOT EXISTS instance (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), id TEXT NOT NULL) STRICT",
            "CREATE TABLE IF NOT EXISTS record (cluster TEXT NOT NULL, module TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
               PRIMARY KEY (cluster, module)) STRICT",
            "CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, cluster TEXT NOT NULL,
               module TEXT NOT NULL, sender TEXT NOT NULL, request TEXT NOT NULL, record TEXT NOT NULL) STRICT",
        ] {
            sqlx::query(statement).execute(&writer).await?;
        }
        let minted = LifeId(rand::random());
        sqlx::query("INSERT INTO instance (only_row, id) VALUES (1, ?) ON CONFLICT DO NOTHING")
            .bind(minted.to_string())
            .execute(&writer)
            .await?;
        let row = sqlx::query("SELECT id FROM instance").fetch_one(&writer).await?;
        let instance = serde_json::from_value(serde_json::Value::String(row.try_get(0)?))?;
        Ok(Arbiter { writer, instance })
    }

    /// Life of this store.
    pub fn instance(&self) -> LifeId {
        self.instance
    }

    /// Decides `request` of `sender`. A change, and its audit entry, are on disk when this returns.
    pub async fn decide(
        &self,
        cluster: &ClusterName,
        module: &ModuleName,
        sender: &NodeName,
        request: &ArbiterRequest,
    ) -> Result<ArbiterAnswer, ArbiterError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let record = read(&mut tx, cluster, module).await?.unwrap_or_else(|| Record::empty(self.instance));
        let Some(next) = record.apply(sender, request) else {
            let is_accepted = matches!(request, ArbiterRequest::Read);
            return Ok(ArbiterAnswer { is_accepted, record });
        };
        let body = serde_json::to_string(&next)?;
        sqlx::query("INSERT OR REPLACE INTO record (cluster, module, version, body) VALUES (?, ?, ?, ?)")
            .bind(cluster.as_str())
            .bind(module.as_str())
            .bind(next.version.0 as i64)
            .bind(&body)
            .execute(&mut *tx)
            .await?;
        audit(&mut tx, cluster, module, sender.as_str(), &serde_json::to_string(request)?, &body).await?;
        tx.commit().await?;
        Ok(ArbiterAnswer { is_accepted: true, record: next })
    }

    /// The record as it is; `None` = never written.
    pub async fn record(&self, cluster: &ClusterName, module: &ModuleName) -> Result<Option<Record>, ArbiterError> {
        let mut tx = self.writer.begin().await?;
        read(&mut tx, cluster, module).await
    }

    /// Forgets the record of a module an administrator removed, so that a new module of that name begins anew.
    pub async fn forget(&self, cluster: &ClusterName, module: &ModuleName, by: &str) -> Result<(), ArbiterError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query("DELETE FROM record WHERE cluster = ? AND module = ?")
            .bind(cluster.as_str())
            .bind(module.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 1 {
            audit(&mut tx, cluster, module, by, r#"{"op":"forget"}"#, "null").await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Changes kept in the file, for tests and for support.
    pub async fn changes(&self) -> Result<u64, ArbiterError> {
        let row = sqlx::query("SELECT count(*) FROM audit").fetch_one(&self.writer).await?;
        Ok(row.try_get::<i64, _>(0)? as u64)
    }

    /// The file answers.
    pub async fn ping(&self) -> Result<(), ArbiterError> {
        sqlx::query("SELECT 1").execute(&self.writer).await?;
        Ok(())
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

async fn read(tx: &mut Transaction<'static, Sqlite>, cluster: &ClusterName, module: &ModuleName) -> Result<Option<Record>, ArbiterError> {
    let row = sqlx::query("SELECT body FROM record WHERE cluster = ? AND module = ?")
        .bind(cluster.as_str())
        .bind(module.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|r| r.try_get::<String, _>(0)).transpose()?.map(|body| serde_json::from_str(&body)).transpose()?)
}

async fn audit(
    tx: &mut Transaction<'static, Sqlite>,
    cluster: &ClusterName,
    module: &ModuleName,
    sender: &str,
    request: &str,
    record: &str,
) -> Result<(), ArbiterError> {
    sqlx::query("INSERT INTO audit (at_ms, cluster, module, sender, request, record) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(crate::store::now_ms())
        .bind(cluster.as_str())
        .bind(module.as_str())
        .bind(sender)
        .bind(request)
        .bind(record)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tsugi_core::ids::{Epoch, Gen};

    fn names() -> (ClusterName, ModuleName, NodeName, NodeName) {
        let node = |n: &str| NodeName::new(n).unwrap();
        (ClusterName::new("c1").unwrap(), ModuleName::new("files").unwrap(), node("n1"), node("n2"))
    }

    fn claim(expected: u64, history: u128) -> ArbiterRequest {
        ArbiterRequest::Claim { store: LifeId(0), expected: Epoch(expected), gen_id: Gen(history) }
    }

    #[tokio::test]
    async fn of_concurrent_claims_at_one_version_exactly_one_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::open(&dir.path().join("arbiter.db")).await.unwrap();
        let (c, m, n1, n2) = names();
        let first = arbiter
            .decide(
                &c,
                &m,
                &n1,
                &ArbiterRequest::Force { store: LifeId(0), floor: Epoch(0), expected: Epoch(0), gen_id: Gen(1), by: "root".into() },
            )
            .await
            .unwrap();
        assert!(first.is_accepted);
        let both =
            arbiter.decide(&c, &m, &n1, &ArbiterRequest::Grow { store: LifeId(0), expected: Epoch(1), with: n2.clone() }).await.unwrap();
        assert_eq!(both.record.in_sync, BTreeSet::from([n1.clone(), n2.clone()]));
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..40u128 {
            let (arbiter, c, m) = (arbiter.clone(), c.clone(), m.clone());
            let sender = if i % 2 == 0 { n1.clone() } else { n2.clone() };
            tasks.spawn(async move { (sender.clone(), arbiter.decide(&c, &m, &sender, &claim(2, 100 + i)).await.unwrap()) });
        }
        let answers = tasks.join_all().await;
        let winners: Vec<_> = answers.iter().filter(|(_, a)| a.is_accepted).collect();
        assert_eq!(winners.len(), 1);
        let (winner, record) = (&winners[0].0, &winners[0].1.record);
        assert_eq!((record.version, record.owner.as_ref(), &record.in_sync), (Epoch(3), Some(winner), &BTreeSet::from([winner.clone()])));
        assert!(answers.iter().all(|(_, a)| &a.record == record), "every loser is told the outcome");
        assert_eq!(arbiter.changes().await.unwrap(), 3, "an audit entry for each change, none for a refusal");
    }

    #[tokio::test]
    async fn the_record_and_the_instance_survive_a_reopen_and_a_new_file_is_a_new_instance() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("arbiter.db");
        let (c, m, n1, _) = names();
        let arbiter = Arbiter::open(&file).await.unwrap();
        let answer = arbiter
            .decide(
                &c,
                &m,
                &n1,
                &ArbiterRequest::Force { store: LifeId(0), floor: Epoch(0), expected: Epoch(0), gen_id: Gen(7), by: "root".into() },
            )
            .await
            .unwrap();
        let instance = arbiter.instance();
        // Not closed: as after a kill, the next life finds only what is in the files.
        std::mem::forget(arbiter);
        let again = Arbiter::open(&file).await.unwrap();
        assert_eq!(again.instance(), instance);
        assert_eq!(again.record(&c, &m).await.unwrap(), Some(answer.record));
        let other = Arbiter::open(&dir.path().join("other.db")).await.unwrap();
        assert_ne!(other.instance(), instance);
        let read = other.decide(&c, &m, &n1, &ArbiterRequest::Read).await.unwrap();
        assert_eq!((read.is_accepted, read.record), (true, Record::empty(other.instance())));
    }

    #[tokio::test]
    async fn a_node_that_is_not_in_sync_may_not_claim() {
        let dir = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::open(&dir.path().join("arbiter.db")).await.unwrap();
        let (c, m, n1, n2) = names();
        arbiter
            .decide(
                &c,
                &m,
                &n1,
                &ArbiterRequest::Force { store: LifeId(0), floor: Epoch(0), expected: Epoch(0), gen_id: Gen(1), by: "root".into() },
            )
            .await
            .unwrap();
        let answer = arbiter.decide(&c, &m, &n2, &claim(1, 2)).await.unwrap();
        assert!(!answer.is_accepted);
        assert_eq!(answer.record.owner, Some(n1));
    }

    #[tokio::test]
    async fn a_removed_module_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::open(&dir.path().join("arbiter.db")).await.unwrap();
        let (c, m, n1, _) = names();
        arbiter
            .decide(
                &c,
                &m,
                &n1,
                &ArbiterRequest::Force { store: LifeId(0), floor: Epoch(0), expected: Epoch(0), gen_id: Gen(1), by: "root".into() },
            )
            .await
            .unwrap();
        arbiter.forget(&c, &m, "root").await.unwrap();
        assert_eq!(arbiter.record(&c, &m).await.unwrap(), None);
    }
}
