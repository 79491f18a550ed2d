//! Modules, their immutable versions, and what the nodes answered to deployments.

use super::clusters::{next_generation, touch_cluster};
use super::{Result, Store, from_json, name, now_ms, to_json};
use sqlx::Row;
use std::collections::BTreeMap;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::module::ModuleDef;
use tsugi_core::state::Snapshot;

/// A module as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Cluster.
    pub cluster: ClusterName,
    /// Name.
    pub name: ModuleName,
    /// Number that fixes its ports.
    pub module_id: u16,
    /// Nodes, configured order.
    pub nodes: Vec<NodeName>,
    /// Version last applied; absent = none yet.
    pub applied_version: Option<u64>,
    /// Generation of that apply; 0 = none yet.
    pub generation: u64,
}

/// A version as given; never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleVersion {
    /// Number, 1….
    pub version: u64,
    /// `conf/userconfig.xml`.
    pub userconfig: String,
    /// File name under `bin/` → text.
    pub scripts: BTreeMap<String, String>,
    /// As read.
    pub def: ModuleDef,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub created_ms: i64,
}

/// What is new about a version.
#[derive(Debug, Clone)]
pub struct NewVersion<'a> {
    /// `conf/userconfig.xml`.
    pub userconfig: &'a str,
    /// File name under `bin/` → text.
    pub scripts: &'a BTreeMap<String, String>,
    /// As read.
    pub def: &'a ModuleDef,
    /// Who.
    pub by: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
}

/// A node's answer to a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployResult {
    /// Which node.
    pub node: NodeName,
    /// Generation it answers.
    pub generation: u64,
    /// Problems in the agent's words (English); empty = in force.
    pub problems: Vec<String>,
}

const MODULE: &str = "SELECT cluster, name, module_id, nodes, applied_version, generation FROM module";
const VERSION: &str = "SELECT version, userconfig, scripts, def, by, reason, created_ms FROM module_version";

impl Store {
    /// Adds a module with its version 1 on `nodes`, under the smallest free module id; false if the name is taken.
    pub async fn add_module(
        &self,
        cluster: &ClusterName,
        module: &ModuleName,
        nodes: &[NodeName],
        version: &NewVersion<'_>,
    ) -> Result<bool> {
        let mut tx = self.write().await?;
        let taken = sqlx::query("SELECT module_id FROM module WHERE cluster = ? ORDER BY module_id")
            .bind(cluster.as_str())
            .fetch_all(&mut *tx)
            .await?;
        let mut id = 1i64;
        for row in &taken {
            if row.try_get::<i64, _>(0)? == id {
                id += 1;
            }
        }
        let done =
            sqlx::query("INSERT INTO module (cluster, name, module_id, nodes, created_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(cluster.as_str())
                .bind(module.as_str())
                .bind(id)
                .bind(to_json(&nodes))
                .bind(now_ms())
                .execute(&mut *tx)
                .await?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        insert_version(&mut tx, cluster, module, 1, version).await?;
        touch_cluster(&mut tx, cluster).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Adds the next version; its number.
    pub async fn add_version(&self, cluster: &ClusterName, module: &ModuleName, version: &NewVersion<'_>) -> Result<u64> {
        let mut tx = self.write().await?;
        let row = sqlx::query("SELECT coalesce(max(version), 0) + 1 FROM module_version WHERE cluster = ? AND module = ?")
            .bind(cluster.as_str())
            .bind(module.as_str())
            .fetch_one(&mut *tx)
            .await?;
        let number = row.try_get::<i64, _>(0)? as u64;
        insert_version(&mut tx, cluster, module, number, version).await?;
        tx.commit().await?;
        Ok(number)
    }

    /// Modules of a cluster, by name.
    pub async fn modules(&self, cluster: &ClusterName) -> Result<Vec<Module>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{MODULE} WHERE cluster = ? ORDER BY name")))
            .bind(cluster.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(module_of).collect()
    }

    /// One module.
    pub async fn module(&self, cluster: &ClusterName, module: &ModuleName) -> Result<Option<Module>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{MODULE} WHERE cluster = ? AND name = ?")))
            .bind(cluster.as_str())
            .bind(module.as_str())
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(module_of).transpose()
    }

    /// Every version of a module, newest first.
    pub async fn versions(&self, cluster: &ClusterName, module: &ModuleName) -> Result<Vec<ModuleVersion>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{VERSION} WHERE cluster = ? AND module = ? ORDER BY version DESC")))
            .bind(cluster.as_str())
            .bind(module.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(version_of).collect()
    }

    /// One version; `None` = the newest.
    pub async fn version(&self, cluster: &ClusterName, module: &ModuleName, version: Option<u64>) -> Result<Option<ModuleVersion>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{VERSION} WHERE cluster = ?1 AND module = ?2 AND (?3 IS NULL OR version = ?3) ORDER BY version DESC LIMIT 1"
        )))
        .bind(cluster.as_str())
        .bind(module.as_str())
        .bind(version.map(|v| v as i64))
        .fetch_optional(self.read())
        .await?;
        row.as_ref().map(version_of).transpose()
    }

    /// Makes `version` the one every node must have; the generation it gets.
    pub async fn apply_version(&self, cluster: &ClusterName, module: &ModuleName, version: u64) -> Result<u64> {
        let mut tx = self.write().await?;
        let generation = next_generation(&mut tx).await?;
        sqlx::query("UPDATE module SET applied_version = ?, generation = ? WHERE cluster = ? AND name = ?")
            .bind(version as i64)
            .bind(generation as i64)
            .bind(cluster.as_str())
            .bind(module.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(generation)
    }

    /// Forgets a module with its versions; false if there is none.
    pub async fn remove_module(&self, cluster: &ClusterName, module: &ModuleName) -> Result<bool> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM module WHERE cluster = ? AND name = ?")
            .bind(cluster.as_str())
            .bind(module.as_str())
            .execute(&mut *tx)
            .await?;
        touch_cluster(&mut tx, cluster).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps a node's answer to a deployment.
    pub async fn set_deploy_result(&self, cluster: &ClusterName, module: &ModuleName, result: &DeployResult) -> Result<()> {
        let mut tx = self.write().await?;
        // The module may be gone by the time the agent answers: then there is nothing to keep.
        sqlx::query(
            "INSERT OR REPLACE INTO deploy_result (cluster, module, node, generation, problems, at_ms)
             SELECT cluster, name, ?, ?, ?, ? FROM module WHERE cluster = ? AND name = ?",
        )
        .bind(result.node.as_str())
        .bind(result.generation as i64)
        .bind(to_json(&result.problems))
        .bind(now_ms())
        .bind(cluster.as_str())
        .bind(module.as_str())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The last answer of each node to a deployment of `module`.
    pub async fn deploy_results(&self, cluster: &ClusterName, module: &ModuleName) -> Result<Vec<DeployResult>> {
        let rows = sqlx::query("SELECT node, generation, problems FROM deploy_result WHERE cluster = ? AND module = ?")
            .bind(cluster.as_str())
            .bind(module.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter()
            .map(|r| {
                Ok(DeployResult {
                    node: name(r.try_get("node")?)?,
                    generation: r.try_get::<i64, _>("generation")? as u64,
                    problems: from_json("deployment answer", r.try_get("problems")?)?,
                })
            })
            .collect()
    }

    /// Keeps last states, so that a restarted console shows them with their age. One transaction for all.
    pub async fn keep_snapshots(&self, snapshots: &[(ClusterName, std::sync::Arc<Snapshot>, i64)]) -> Result<()> {
        let mut tx = self.write().await?;
        for (cluster, snapshot, received_ms) in snapshots {
            sqlx::query(
                "INSERT OR REPLACE INTO last_snapshot (cluster, module, node, snapshot, received_ms)
                 SELECT cluster, name, ?, ?, ? FROM module WHERE cluster = ? AND name = ?",
            )
            .bind(snapshot.node.as_str())
            .bind(to_json(snapshot.as_ref()))
            .bind(received_ms)
            .bind(cluster.as_str())
            .bind(snapshot.module.as_str())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Last states as kept. What this version cannot read is left out: the agents will say it again.
    pub async fn kept_snapshots(&self) -> Result<Vec<(ClusterName, Snapshot, i64)>> {
        let rows = sqlx::query("SELECT cluster, snapshot, received_ms FROM last_snapshot").fetch_all(self.read()).await?;
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            let Ok(snapshot) = serde_json::from_str(row.try_get("snapshot")?) else { continue };
            out.push((name(row.try_get("cluster")?)?, snapshot, row.try_get("received_ms")?));
        }
        Ok(out)
    }
}

async fn insert_version(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    cluster: &ClusterName,
    module: &ModuleName,
    number: u64,
    version: &NewVersion<'_>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO module_version (cluster, module, version, userconfig, scripts, def, by, reason, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(cluster.as_str())
    .bind(module.as_str())
    .bind(number as i64)
    .bind(version.userconfig)
    .bind(to_json(version.scripts))
    .bind(to_json(version.def))
    .bind(version.by)
    .bind(version.reason)
    .bind(now_ms())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn module_of(row: &sqlx::sqlite::SqliteRow) -> Result<Module> {
    Ok(Module {
        cluster: name(row.try_get("cluster")?)?,
        name: name(row.try_get("name")?)?,
        module_id: row.try_get::<i64, _>("module_id")? as u16,
        nodes: from_json("list of nodes", row.try_get("nodes")?)?,
        applied_version: row.try_get::<Option<i64>, _>("applied_version")?.map(|v| v as u64),
        generation: row.try_get::<i64, _>("generation")? as u64,
    })
}

fn version_of(row: &sqlx::sqlite::SqliteRow) -> Result<ModuleVersion> {
    Ok(ModuleVersion {
        version: row.try_get::<i64, _>("version")? as u64,
        userconfig: row.try_get("userconfig")?,
        scripts: from_json("set of scripts", row.try_get("scripts")?)?,
        def: from_json("module definition", row.try_get("def")?)?,
        by: row.try_get("by")?,
        reason: row.try_get("reason")?,
        created_ms: row.try_get("created_ms")?,
    })
}
