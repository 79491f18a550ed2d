//! People who may sign in.

use super::{Result, Store, now_ms};
use crate::auth::Role;
use sqlx::Row;

/// A user as listed; the password's hash stays in this file and [`Store::password_of`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Sign-in name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// May not sign in.
    pub is_disabled: bool,
    /// Last sign-in.
    pub signed_in_ms: Option<i64>,
}

impl Store {
    /// No user exists: the set-up has not been done.
    pub async fn is_fresh(&self) -> Result<bool> {
        Ok(sqlx::query("SELECT 1 FROM user LIMIT 1").fetch_optional(self.read()).await?.is_none())
    }

    /// Adds a user; false if the name is taken. `only_first`: only if no user exists at all (set-up).
    pub async fn add_user(&self, name: &str, password_hash: &str, role: Role, only_first: bool) -> Result<bool> {
        let mut tx = self.write().await?;
        if only_first && sqlx::query("SELECT 1 FROM user LIMIT 1").fetch_optional(&mut *tx).await?.is_some() {
            return Ok(false);
        }
        let done = sqlx::query("INSERT INTO user (name, password, role, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(password_hash)
            .bind(role.word())
            .bind(now_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Changes what is given, and ends the user's sessions; false if there is no such user, or if nobody but them
    /// could administer the console.
    pub async fn change_user(
        &self,
        name: &str,
        password_hash: Option<&str>,
        role: Option<Role>,
        is_disabled: Option<bool>,
    ) -> Result<bool> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE user SET password = coalesce(?, password), role = coalesce(?, role), is_disabled = coalesce(?, is_disabled) WHERE name = ?",
        )
        .bind(password_hash)
        .bind(role.map(Role::word))
        .bind(is_disabled.map(i64::from))
        .bind(name)
        .execute(&mut *tx)
        .await?;
        let admins = sqlx::query("SELECT 1 FROM user WHERE role = 'admin' AND is_disabled = 0 LIMIT 1").fetch_optional(&mut *tx).await?;
        if done.rows_affected() != 1 || admins.is_none() {
            return Ok(false);
        }
        sqlx::query("DELETE FROM session WHERE user = ?").bind(name).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Everybody, by name.
    pub async fn users(&self) -> Result<Vec<User>> {
        let rows = sqlx::query("SELECT name, role, is_disabled, signed_in_ms FROM user ORDER BY name").fetch_all(self.read()).await?;
        rows.iter().map(user_of).collect()
    }

    /// Hash of the password of a user who may sign in.
    pub async fn password_of(&self, name: &str) -> Result<Option<(User, String)>> {
        let row = sqlx::query("SELECT name, role, is_disabled, signed_in_ms, password FROM user WHERE name = ? AND is_disabled = 0")
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.map(|r| Ok((user_of(&r)?, r.try_get("password")?))).transpose()
    }
}

fn user_of(row: &sqlx::sqlite::SqliteRow) -> Result<User> {
    Ok(User {
        name: row.try_get("name")?,
        role: Role::of_word(row.try_get("role")?),
        is_disabled: row.try_get::<i64, _>("is_disabled")? != 0,
        signed_in_ms: row.try_get("signed_in_ms")?,
    })
}
