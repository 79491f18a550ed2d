//! API tokens (for programs) and join tokens (for agents). Only hashes are kept.

use super::{Result, Store, name, now_ms};
use crate::auth::Role;
use sqlx::Row;
use tsugi_core::ids::ClusterName;

/// Life of a join token: long enough to walk to the machine, short enough not to lie about.
pub const JOIN_TOKEN_MS: i64 = 60 * 60 * 1000;

/// An API token as listed.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct ApiToken {
    /// Number, to revoke it.
    pub id: String,
    /// Name, as in the audit log.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// Who made it.
    pub by: String,
    /// When.
    pub created_unix_ms: i64,
}

impl Store {
    /// Keeps an API token's hash.
    pub async fn add_api_token(&self, secret_hash: &[u8], token_name: &str, role: Role, by: &str) -> Result<String> {
        let id = uuid::Uuid::now_v7().to_string();
        let mut tx = self.write().await?;
        sqlx::query("INSERT INTO api_token (id, secret_hash, name, role, by, created_ms) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(&id)
            .bind(secret_hash)
            .bind(token_name)
            .bind(role.word())
            .bind(by)
            .bind(now_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// API tokens without their secrets, newest first.
    pub async fn api_tokens(&self) -> Result<Vec<ApiToken>> {
        let rows = sqlx::query("SELECT id, name, role, by, created_ms FROM api_token ORDER BY id DESC").fetch_all(self.read()).await?;
        let one = |r: &sqlx::sqlite::SqliteRow| {
            Ok(ApiToken {
                id: r.try_get("id")?,
                name: r.try_get("name")?,
                role: Role::of_word(r.try_get("role")?),
                by: r.try_get("by")?,
                created_unix_ms: r.try_get("created_ms")?,
            })
        };
        rows.iter().map(one).collect()
    }

    /// Revokes an API token; its name, if there was one.
    pub async fn remove_api_token(&self, id: &str) -> Result<Option<String>> {
        let mut tx = self.write().await?;
        let row = sqlx::query("DELETE FROM api_token WHERE id = ? RETURNING name").bind(id).fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        Ok(row.map(|r| r.try_get(0)).transpose()?)
    }

    /// Name and role of an API token.
    pub async fn api_token(&self, secret_hash: &[u8]) -> Result<Option<(String, Role)>> {
        let row =
            sqlx::query("SELECT name, role FROM api_token WHERE secret_hash = ?").bind(secret_hash).fetch_optional(self.read()).await?;
        row.map(|r| Ok((r.try_get("name")?, Role::of_word(r.try_get("role")?)))).transpose()
    }

    /// Keeps a join token's hash for [`JOIN_TOKEN_MS`].
    pub async fn add_join_token(&self, secret_hash: &[u8], cluster: &ClusterName, by: &str) -> Result<()> {
        let now = now_ms();
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM join_token WHERE expires_ms < ?").bind(now).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO join_token (secret_hash, cluster, by, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(secret_hash)
            .bind(cluster.as_str())
            .bind(by)
            .bind(now)
            .bind(now + JOIN_TOKEN_MS)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The cluster an unused, unexpired join token is for. It is used up only by [`Store::enroll`].
    pub async fn join_token(&self, secret_hash: &[u8]) -> Result<Option<ClusterName>> {
        let row = sqlx::query("SELECT cluster FROM join_token WHERE secret_hash = ? AND used_ms IS NULL AND expires_ms > ?")
            .bind(secret_hash)
            .bind(now_ms())
            .fetch_optional(self.read())
            .await?;
        row.map(|r| name(r.try_get("cluster")?)).transpose()
    }
}
