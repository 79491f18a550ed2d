//! Operations: what was ordered, how far it is, and how it ended.

use super::{Result, Store, from_json, now_ms, to_json};
use crate::actions::{Operation, RequestKey};
use sqlx::{Row, Sqlite, Transaction};
use tsugi_core::ids::{ClusterName, ModuleName};

/// A retried request finds its first answer for this long.
const IDEMPOTENCY_MS: i64 = 24 * 60 * 60 * 1000;

impl Store {
    /// Adds an operation together with the request that made it, so that neither is there without the other. False, and
    /// nothing was added: that key made an operation before.
    pub async fn add_operation(&self, operation: &Operation, key: Option<&RequestKey>) -> Result<bool> {
        let now = now_ms();
        let mut tx = self.write().await?;
        if let Some(RequestKey { key, hash }) = key {
            sqlx::query("DELETE FROM idempotency WHERE created_ms < ?").bind(now - IDEMPOTENCY_MS).execute(&mut *tx).await?;
            let done = sqlx::query(
                "INSERT INTO idempotency (who, key, request_hash, operation, created_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(&operation.by)
            .bind(key)
            .bind(hash)
            .bind(&operation.id)
            .bind(now)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() != 1 {
                return Ok(false);
            }
        }
        write(&mut tx, operation).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Replaces an operation by how it stands now.
    pub async fn put_operation(&self, operation: &Operation) -> Result<()> {
        let mut tx = self.write().await?;
        write(&mut tx, operation).await?;
        tx.commit().await?;
        Ok(())
    }

    /// One operation.
    pub async fn operation(&self, id: &str) -> Result<Option<Operation>> {
        let row = sqlx::query("SELECT body FROM operation WHERE id = ?").bind(id).fetch_optional(self.read()).await?;
        row.map(|r| from_json("operation", r.try_get("body")?)).transpose()
    }

    /// The last `limit` operations of a module (of all modules if absent), newest first.
    pub async fn operations(&self, of: Option<(&ClusterName, &ModuleName)>, limit: u32) -> Result<Vec<Operation>> {
        let rows = sqlx::query("SELECT body FROM operation WHERE (?1 IS NULL OR (cluster = ?1 AND module = ?2)) ORDER BY id DESC LIMIT ?3")
            .bind(of.map(|o| o.0.as_str()))
            .bind(of.map(|o| o.1.as_str()))
            .bind(limit)
            .fetch_all(self.read())
            .await?;
        rows.iter().map(|r| from_json("operation", r.try_get("body")?)).collect()
    }

    /// Operations that had not ended: of an earlier life of the console.
    pub async fn open_operations(&self) -> Result<Vec<Operation>> {
        let rows = sqlx::query("SELECT body FROM operation WHERE state IN ('queued', 'running')").fetch_all(self.read()).await?;
        rows.iter().map(|r| from_json("operation", r.try_get("body")?)).collect()
    }

    /// The operation `who`'s request with that key made, and the hash of that request.
    pub async fn idempotent(&self, who: &str, key: &str) -> Result<Option<(Vec<u8>, String)>> {
        let row = sqlx::query("SELECT request_hash, operation FROM idempotency WHERE who = ? AND key = ? AND created_ms >= ?")
            .bind(who)
            .bind(key)
            .bind(now_ms() - IDEMPOTENCY_MS)
            .fetch_optional(self.read())
            .await?;
        row.map(|r| Ok((r.try_get("request_hash")?, r.try_get("operation")?))).transpose()
    }
}

async fn write(tx: &mut Transaction<'static, Sqlite>, operation: &Operation) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO operation (id, cluster, module, verb, state, by, body, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&operation.id)
    .bind(operation.cluster.as_str())
    .bind(operation.module.as_str())
    .bind(&operation.verb)
    .bind(operation.state.word())
    .bind(&operation.by)
    .bind(to_json(operation))
    .bind(operation.created_unix_ms as i64)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
