//! Sessions of signed-in browsers. The id is only in the browser; here is its hash.

use super::{Result, Store, now_ms};
use crate::auth::Role;
use sqlx::Row;

/// Ends a session nobody used for this long: an unattended screen in a control room.
pub const IDLE_MS_MAX: i64 = 30 * 60 * 1000;
/// Ends every session: a working day.
pub const AGE_MS_MAX: i64 = 12 * 60 * 60 * 1000;
/// `used_ms` is written at most this often, so that a page with many requests does not write for each.
const TOUCH_MS: i64 = 60 * 1000;

impl Store {
    /// A new session of `user`; also throws away what has run out.
    pub async fn open_session(&self, id_hash: &[u8], user: &str, address: &str) -> Result<()> {
        let now = now_ms();
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM session WHERE used_ms < ? OR created_ms < ?")
            .bind(now - IDLE_MS_MAX)
            .bind(now - AGE_MS_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO session (id_hash, user, address, created_ms, used_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(id_hash)
            .bind(user)
            .bind(address)
            .bind(now)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE user SET signed_in_ms = ? WHERE name = ?").bind(now).bind(user).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Who a live session belongs to. `touch`: this is the user's own doing and keeps the session alive.
    pub async fn session(&self, id_hash: &[u8], touch: bool) -> Result<Option<(String, Role)>> {
        let now = now_ms();
        let row = sqlx::query(
            "SELECT s.user, s.used_ms, u.role FROM session s JOIN user u ON u.name = s.user
             WHERE s.id_hash = ? AND s.used_ms > ? AND s.created_ms > ? AND u.is_disabled = 0",
        )
        .bind(id_hash)
        .bind(now - IDLE_MS_MAX)
        .bind(now - AGE_MS_MAX)
        .fetch_optional(self.read())
        .await?;
        let Some(row) = row else { return Ok(None) };
        if touch && row.try_get::<i64, _>("used_ms")? < now - TOUCH_MS {
            let mut tx = self.write().await?;
            sqlx::query("UPDATE session SET used_ms = ? WHERE id_hash = ?").bind(now).bind(id_hash).execute(&mut *tx).await?;
            tx.commit().await?;
        }
        Ok(Some((row.try_get("user")?, Role::of_word(row.try_get("role")?))))
    }

    /// Signs a browser out.
    pub async fn close_session(&self, id_hash: &[u8]) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM session WHERE id_hash = ?").bind(id_hash).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
