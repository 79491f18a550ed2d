//! Enrolled nodes.

use super::{Result, Store, name, now_ms};
use sqlx::Row;
use tsugi_core::ids::{ClusterName, NodeName};

/// A node as enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of the enrolment; the node's events are counted per enrolment.
    pub id: i64,
    /// Cluster.
    pub cluster: ClusterName,
    /// Name.
    pub name: NodeName,
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
    /// Address it enrolled from.
    pub address: String,
    /// When.
    pub enrolled_ms: i64,
    /// When an administrator approved it; absent = pending.
    pub approved_ms: Option<i64>,
    /// As it last said.
    pub agent_version: Option<String>,
    /// As it last said.
    pub os: Option<String>,
    /// When it last said hello.
    pub seen_ms: Option<i64>,
}

/// Outcome of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// The node is pending now.
    Pending,
    /// The token was used or ran out meanwhile.
    TokenGone,
    /// An approved node of that name exists; it must be removed first.
    NameTaken,
}

const COLUMNS: &str = "SELECT id, cluster, name, fingerprint, address, enrolled_ms, approved_ms, agent_version, os, seen_ms FROM node";

impl Store {
    /// Uses the token up and makes the node pending, both or neither.
    pub async fn enroll(
        &self,
        secret_hash: &[u8],
        cluster: &ClusterName,
        node: &NodeName,
        fingerprint: &str,
        address: &str,
    ) -> Result<Enrolment> {
        let now = now_ms();
        let mut tx = self.write().await?;
        let used =
            sqlx::query("UPDATE join_token SET used_ms = ?, used_by = ? WHERE secret_hash = ? AND used_ms IS NULL AND expires_ms > ?")
                .bind(now)
                .bind(node.as_str())
                .bind(secret_hash)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        if used.rows_affected() != 1 {
            return Ok(Enrolment::TokenGone);
        }
        sqlx::query("DELETE FROM node WHERE cluster = ? AND name = ? AND approved_ms IS NULL")
            .bind(cluster.as_str())
            .bind(node.as_str())
            .execute(&mut *tx)
            .await?;
        let done = sqlx::query(
            "INSERT INTO node (cluster, name, fingerprint, address, enrolled_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(cluster.as_str())
        .bind(node.as_str())
        .bind(fingerprint)
        .bind(address)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Ok(Enrolment::NameTaken);
        }
        tx.commit().await?;
        Ok(Enrolment::Pending)
    }

    /// Nodes of a cluster, by name.
    pub async fn nodes(&self, cluster: &ClusterName) -> Result<Vec<Node>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE cluster = ? ORDER BY name")))
            .bind(cluster.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(node_of).collect()
    }

    /// One node.
    pub async fn node(&self, cluster: &ClusterName, node: &NodeName) -> Result<Option<Node>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE cluster = ? AND name = ?")))
            .bind(cluster.as_str())
            .bind(node.as_str())
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(node_of).transpose()
    }

    /// Approves a pending node; false if there is none.
    pub async fn approve_node(&self, cluster: &ClusterName, node: &NodeName, by: &str) -> Result<bool> {
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE node SET approved_ms = ?, approved_by = ? WHERE cluster = ? AND name = ? AND approved_ms IS NULL")
            .bind(now_ms())
            .bind(by)
            .bind(cluster.as_str())
            .bind(node.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a node; its certificate is worth nothing from then on. False if there is none.
    pub async fn remove_node(&self, cluster: &ClusterName, node: &NodeName) -> Result<bool> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM node WHERE cluster = ? AND name = ?")
            .bind(cluster.as_str())
            .bind(node.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// What the node said of itself in its hello.
    pub async fn node_said_hello(&self, id: i64, agent_version: &str, os: &str) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE node SET agent_version = ?, os = ?, seen_ms = ? WHERE id = ?")
            .bind(agent_version)
            .bind(os)
            .bind(now_ms())
            .bind(id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn node_of(row: &sqlx::sqlite::SqliteRow) -> Result<Node> {
    Ok(Node {
        id: row.try_get("id")?,
        cluster: name(row.try_get("cluster")?)?,
        name: name(row.try_get("name")?)?,
        fingerprint: row.try_get("fingerprint")?,
        address: row.try_get("address")?,
        enrolled_ms: row.try_get("enrolled_ms")?,
        approved_ms: row.try_get("approved_ms")?,
        agent_version: row.try_get("agent_version")?,
        os: row.try_get("os")?,
        seen_ms: row.try_get("seen_ms")?,
    })
}
