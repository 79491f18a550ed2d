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

/// A node's events from `since_unix_ms` on, oldest first. A host that is off has none; a log that cannot be read is an
/// error, for a test that finds no event in it would have looked at nothing.
pub fn of(lab: &Lab, host: &str, since_unix_ms: u64) -> Result<Vec<EventRecord>> {
    let host_info = lab.info()?.hosts.remove(host).with_context(|| format!("the lab has no host {host}"))?;
    if host_info.init.is_none() {
        return Ok(Vec::new());
    }
    let path = lab.path_in(host, "/var/lib/tsugi/events.jsonl")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("the event log of {host}: {}", path.display()))?;
    of_text(&text, since_unix_ms).with_context(|| format!("{}", path.display()))
}

fn of_text(text: &str, since_unix_ms: u64) -> Result<Vec<EventRecord>> {
    let mut found = Vec::new();
    // The last line may be in the middle of being written; no other.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let record: EventRecord = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if record.at_unix_ms >= since_unix_ms {
            found.push(record);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_silence() {
        let line = r#"{"seq":1,"at_unix_ms":5,"node":"n1","module":"m","event":"frozen"}"#;
        assert_eq!(of_text(&format!("{line}\n{line}\n{{\"seq\":"), 5).unwrap().len(), 2, "the last line is being written");
        assert_eq!(of_text(&format!("{line}\n"), 6).unwrap().len(), 0);
        assert!(of_text(&format!("{line}\nrubbish\n{line}\n"), 0).is_err());
    }
}
