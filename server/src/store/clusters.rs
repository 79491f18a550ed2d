//! Clusters and the counter of configuration generations.

use super::{Result, Store, from_json, name, now_ms, to_json};
use sqlx::{Row, Sqlite, Transaction};
use tsugi_core::cluster::ClusterDef;
use tsugi_core::ids::ClusterName;
use tsugi_core::wire::console::Secret;

/// A cluster as stored.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name.
    pub name: ClusterName,
    /// `cluster.xml` as given.
    pub xml: String,
    /// … and as read.
    pub def: ClusterDef,
    /// Generation; raised also when a module comes or goes, because the agents learn the module ids with it.
    pub generation: u64,
    /// Key of the heartbeats between the nodes.
    pub heartbeat_key: Secret,
}

/// The next generation, larger than any given before.
pub(super) async fn next_generation(tx: &mut Transaction<'static, Sqlite>) -> Result<u64> {
    let row = sqlx::query("UPDATE counter SET value = value + 1 WHERE name = 'generation' RETURNING value").fetch_one(&mut **tx).await?;
    Ok(row.try_get::<i64, _>(0)? as u64)
}

/// Gives `cluster` a new generation.
pub(super) async fn touch_cluster(tx: &mut Transaction<'static, Sqlite>, cluster: &ClusterName) -> Result<()> {
    let generation = next_generation(tx).await?;
    sqlx::query("UPDATE cluster SET generation = ? WHERE name = ?")
        .bind(generation as i64)
        .bind(cluster.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Adds a cluster; false if the name is taken.
    pub async fn add_cluster(&self, def: &ClusterDef, xml: &str, key: &Secret) -> Result<bool> {
        let mut tx = self.write().await?;
        let generation = next_generation(&mut tx).await?;
        let done = sqlx::query(
            "INSERT INTO cluster (name, xml, def, generation, heartbeat_key, created_ms) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(def.name.as_str())
        .bind(xml)
        .bind(to_json(def))
        .bind(generation as i64)
        .bind(to_json(key))
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Replaces a cluster's definition.
    pub async fn set_cluster(&self, def: &ClusterDef, xml: &str) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE cluster SET xml = ?, def = ? WHERE name = ?")
            .bind(xml)
            .bind(to_json(def))
            .bind(def.name.as_str())
            .execute(&mut *tx)
            .await?;
        touch_cluster(&mut tx, &def.name).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every cluster, by name.
    pub async fn clusters(&self) -> Result<Vec<Cluster>> {
        let rows =
            sqlx::query("SELECT name, xml, def, generation, heartbeat_key FROM cluster ORDER BY name").fetch_all(self.read()).await?;
        rows.iter().map(cluster_of).collect()
    }

    /// One cluster.
    pub async fn cluster(&self, cluster: &ClusterName) -> Result<Option<Cluster>> {
        let row = sqlx::query("SELECT name, xml, def, generation, heartbeat_key FROM cluster WHERE name = ?")
            .bind(cluster.as_str())
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(cluster_of).transpose()
    }

    /// A node reports a generation this console never gave (the console was restored from an older copy): every
    /// generation from now on is larger.
    pub async fn raise_generation(&self, at_least: u64) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE counter SET value = max(value, ?) WHERE name = 'generation'").bind(at_least as i64).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The newest generation given out.
    pub async fn newest_generation(&self) -> Result<u64> {
        let row = sqlx::query("SELECT value FROM counter WHERE name = 'generation'").fetch_one(self.read()).await?;
        Ok(row.try_get::<i64, _>(0)? as u64)
    }

    /// Gives a cluster a generation larger than any before (see [`Store::raise_generation`]).
    pub async fn renew_cluster(&self, cluster: &ClusterName) -> Result<()> {
        let mut tx = self.write().await?;
        touch_cluster(&mut tx, cluster).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn cluster_of(row: &sqlx::sqlite::SqliteRow) -> Result<Cluster> {
    Ok(Cluster {
        name: name(row.try_get("name")?)?,
        xml: row.try_get("xml")?,
        def: from_json("cluster definition", row.try_get("def")?)?,
        generation: row.try_get::<i64, _>("generation")? as u64,
        heartbeat_key: from_json("heartbeat key", row.try_get("heartbeat_key")?)?,
    })
}
