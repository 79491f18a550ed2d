//! Who did what, when, from where, and what came of it.

use super::{Result, Store, now_ms};
use sqlx::Row;

/// An entry to write.
#[derive(Debug, Clone, Default)]
pub struct Audit<'a> {
    /// User, token or node.
    pub who: &'a str,
    /// Address.
    pub address: &'a str,
    /// `ui`, `api`, `agent` or `console`.
    pub via: &'a str,
    /// What was done: `node.approve`, `module.swap`.
    pub action: &'a str,
    /// On what: `c1/files`.
    pub object: &'a str,
    /// More, for machines.
    pub detail: serde_json::Value,
    /// Why, in that person's words.
    pub reason: Option<&'a str>,
    /// `ok`, `refused`, `failed`, …
    pub result: &'a str,
}

/// An entry as read.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// Number.
    pub id: i64,
    /// When.
    pub at_unix_ms: i64,
    /// User, token or node.
    pub who: String,
    /// Address.
    pub address: String,
    /// `ui`, `api`, `agent` or `console`.
    pub via: String,
    /// What was done.
    pub action: String,
    /// On what.
    pub object: String,
    /// Why.
    pub reason: Option<String>,
    /// What came of it.
    pub result: String,
}

impl Store {
    /// Writes an entry.
    pub async fn audit(&self, entry: Audit<'_>) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO audit (at_ms, who, address, via, action, object, detail, reason, result) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(now_ms())
        .bind(entry.who)
        .bind(entry.address)
        .bind(entry.via)
        .bind(entry.action)
        .bind(entry.object)
        .bind(entry.detail.to_string())
        .bind(entry.reason)
        .bind(entry.result)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The newest entries before `before`, newest first.
    pub async fn audit_entries(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditEntry>> {
        let rows = sqlx::query(
            "SELECT id, at_ms, who, address, via, action, object, reason, result FROM audit WHERE (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2",
        )
        .bind(before)
        .bind(limit)
        .fetch_all(self.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(AuditEntry {
                    id: r.try_get("id")?,
                    at_unix_ms: r.try_get("at_ms")?,
                    who: r.try_get("who")?,
                    address: r.try_get("address")?,
                    via: r.try_get("via")?,
                    action: r.try_get("action")?,
                    object: r.try_get("object")?,
                    reason: r.try_get("reason")?,
                    result: r.try_get("result")?,
                })
            })
            .collect()
    }
}
