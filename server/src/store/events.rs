//! Events the agents reported.

use super::{Result, Store, from_json, name, now_ms, to_json};
use sqlx::Row;
use tsugi_core::event::EventRecord;
use tsugi_core::ids::ClusterName;

/// Events kept; older ones make room. At a few hundred bytes each this bounds the file to some hundred MB.
const EVENTS_MAX: i64 = 500_000;

/// An event with its number in the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Console-wide number, in the order of arrival.
    pub id: i64,
    /// Cluster.
    pub cluster: ClusterName,
    /// What the agent said.
    pub record: EventRecord,
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventFilter<'a> {
    /// Only of this cluster.
    pub cluster: Option<&'a str>,
    /// Only of this module.
    pub module: Option<&'a str>,
    /// Only of these levels or louder: `info`, `notice`, `warning`, `critical`.
    pub level: Option<&'a str>,
    /// Only after this number.
    pub after: Option<i64>,
    /// Only before this number.
    pub before: Option<i64>,
    /// At most so many: the first ones after `after`, else the newest.
    pub limit: u32,
}

impl Store {
    /// Stores what is new of a node's events and says which ones that were; a repeated event is not stored twice.
    pub async fn add_events(&self, enrolment: i64, cluster: &ClusterName, records: &[EventRecord]) -> Result<Vec<StoredEvent>> {
        let now = now_ms();
        let mut new = Vec::new();
        let mut tx = self.write().await?;
        for record in records {
            let row = sqlx::query(
                "INSERT INTO event (enrolment, seq, cluster, module, node, level, at_ms, received_ms, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
            )
            .bind(enrolment)
            .bind(record.seq as i64)
            .bind(cluster.as_str())
            .bind(record.module.as_str())
            .bind(record.node.as_str())
            .bind(level_word(record.event.level()))
            .bind(record.at_unix_ms as i64)
            .bind(now)
            .bind(to_json(record))
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(row) = row {
                new.push(StoredEvent { id: row.try_get(0)?, cluster: cluster.clone(), record: record.clone() });
            }
        }
        // Now and then is enough, and it must not cost a scan each time.
        if let Some(last) = new.last().filter(|e| e.id % 1000 == 0 || new.len() > 500) {
            sqlx::query("DELETE FROM event WHERE id <= ?").bind(last.id - EVENTS_MAX).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(new)
    }

    /// Events by filter, oldest first.
    pub async fn events(&self, filter: &EventFilter<'_>) -> Result<Vec<StoredEvent>> {
        let newest_first = filter.after.is_none();
        let order = if newest_first { "DESC" } else { "ASC" };
        let levels = match filter.level {
            Some("critical") => "('critical')",
            Some("warning") => "('critical','warning')",
            Some("notice") => "('critical','warning','notice')",
            _ => "('critical','warning','notice','info')",
        };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT id, cluster, body FROM event WHERE (?1 IS NULL OR cluster = ?1) AND (?2 IS NULL OR module = ?2)
             AND (?3 IS NULL OR id > ?3) AND (?4 IS NULL OR id < ?4) AND level IN {levels} ORDER BY id {order} LIMIT ?5"
        )))
        .bind(filter.cluster)
        .bind(filter.module)
        .bind(filter.after)
        .bind(filter.before)
        .bind(filter.limit)
        .fetch_all(self.read())
        .await?;
        let mut events = rows
            .iter()
            .map(|r| {
                Ok(StoredEvent {
                    id: r.try_get("id")?,
                    cluster: name(r.try_get("cluster")?)?,
                    record: from_json("event", r.try_get("body")?)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        if newest_first {
            events.reverse();
        }
        Ok(events)
    }
}

/// Word of a level in API and database.
pub fn level_word(level: tsugi_core::event::Level) -> &'static str {
    use tsugi_core::event::Level;
    match level {
        Level::Info => "info",
        Level::Notice => "notice",
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}
