//! The nodes' own event logs, read from their disks. Hosts of a lab share the machine's wall clock, so that the logs of two
//! nodes and the client's times can be laid beside each other.

use crate::lab::Lab;
use anyhow::{Context, Result};
use std::time::{SystemTime, UNIX_EPOCH};
use tsugi_core::event::EventRecord;

/// Wall clock in milliseconds.
pub fn unix_ms_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A node's events from `since_unix_ms` on, oldest first. None for a host that is off.
pub fn of(lab: &Lab, host: &str, since_unix_ms: u64) -> Result<Vec<EventRecord>> {
    let Ok(path) = lab.path_in(host, "/var/lib/tsugi/events.jsonl") else { return Ok(Vec::new()) };
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    // The last line may be in the middle of being written.
    for line in text.lines().filter(|line| line.ends_with('}')) {
        let record: EventRecord = serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))?;
        if record.at_unix_ms >= since_unix_ms {
            found.push(record);
        }
    }
    Ok(found)
}
