//! Scopes of the live stream and ids of the blocks in it.
//!
//! A page prints where it stands (`epoch`, `seq`, `scope` on `<body>`); `live.js` connects to
//! `GET /ws/live?scope=…&epoch=…&since=…` and gets `{"t":"delta","seq":…,"at":…,"items":[{"id":…,"html":…}]}`.
//! `id` is that of an element of the page, `html` the whole element as the page's own template renders it. An id the page
//! does not have, or a `reset`, makes `live.js` fetch the page again and morph its `<main>`.
//!
//! What `live.js` counts on:
//!
//! * the subprotocol `tsugi.live.v1+html` is answered; a frame of any kind at least every 10 s (`{"t":"mark","seq":…}`), since
//!   20 s of silence make the page say that it is old;
//! * `{"t":"reset"}` for a cursor that is too old or of another life; close codes 4401 (signed out) and 4403 (role changed) load
//!   the page again;
//! * where WebSockets are cut, `GET /live/deltas?scope=…&epoch=…&since=…&wait=10` answers `{"epoch":…,"seq":…,"items":[…]}` after
//!   the next change or `wait` seconds, 410 for a cursor that is too old, 401 for a session that ended.
//!
//! Every scope also has `menu-badge`, the number beside the dashboard's entry in the menu.
//!
//! | scope | page | blocks |
//! | --- | --- | --- |
//! | `all` | `/` | `tiles`, `attention`, `card-{cluster}` for each cluster, `fleet-count`; without clusters `first-steps` |
//! | `clusters` | `/clusters` | `clusters-table` |
//! | `cluster:{c}` | `/clusters/{c}` | `cluster-headline`, `card-{cluster}`, `cluster-nodes`, `cluster-events` |
//! | `module:{c}/{m}` | `/clusters/{c}/modules/{m}` | `module-actions`, `module-headline`, `module-operation`, `module-topology`, `module-data`, `module-nodes`, `module-checks`, `module-events`, `module-versions` |
//! | `events` | `/events` | `events-list` (only when no filter is set and no older page is shown) |
//! | `op:{id}` | `/operations/{id}` | `operation` |

use tsugi_core::ids::{ClusterName, ModuleName};

/// What a live page wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The dashboard.
    All,
    /// The list of clusters.
    Clusters,
    /// One cluster.
    Cluster(ClusterName),
    /// One module.
    Module(ClusterName, ModuleName),
    /// The events.
    Events,
    /// One operation.
    Operation(String),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scope::All => f.write_str("all"),
            Scope::Clusters => f.write_str("clusters"),
            Scope::Cluster(c) => write!(f, "cluster:{c}"),
            Scope::Module(c, m) => write!(f, "module:{c}/{m}"),
            Scope::Events => f.write_str("events"),
            Scope::Operation(id) => write!(f, "op:{id}"),
        }
    }
}

/// Why a text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadScope;

impl std::str::FromStr for Scope {
    type Err = BadScope;
    fn from_str(text: &str) -> Result<Self, BadScope> {
        let name = |text: &str| ClusterName::new(text).map_err(|_| BadScope);
        match text.split_once(':') {
            None => match text {
                "all" => Ok(Scope::All),
                "clusters" => Ok(Scope::Clusters),
                "events" => Ok(Scope::Events),
                _ => Err(BadScope),
            },
            Some(("cluster", c)) => Ok(Scope::Cluster(name(c)?)),
            Some(("module", rest)) => {
                let (c, m) = rest.split_once('/').ok_or(BadScope)?;
                Ok(Scope::Module(name(c)?, ModuleName::new(m).map_err(|_| BadScope)?))
            }
            Some(("op", id)) if !id.is_empty() && id.len() <= 64 => Ok(Scope::Operation(id.to_owned())),
            Some(_) => Err(BadScope),
        }
    }
}

/// A piece of a page: the whole element with that id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Id of the element.
    pub id: String,
    /// The element.
    pub html: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_what_they_write() {
        for text in ["all", "clusters", "events", "cluster:hq", "module:hq/ledger", "op:0192"] {
            assert_eq!(text.parse::<Scope>().map(|s| s.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "module:hq", "cluster:", "cluster:a b", "op:", "what:x"] {
            assert_eq!(text.parse::<Scope>(), Err(BadScope), "{text}");
        }
    }
}
