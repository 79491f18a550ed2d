//! `/events`.

use super::parts::EventRow;
use super::{out, ui};
use crate::live_ids::Block;
use crate::say::{self, Mark};
use crate::text as p;
use crate::view::{Chrome, EventsView};
use askama::Template;
use tsugi_core::event::Level;

#[derive(Template)]
#[template(path = "pages/events.html", blocks = ["list"])]
struct Page<'a> {
    c: &'a Chrome,
    clusters: Vec<Choice>,
    modules: Vec<Choice>,
    levels: Vec<Choice>,
    events: Vec<EventRow>,
    older: Option<String>,
}

struct Choice {
    value: String,
    label: String,
    is_on: bool,
}

/// Word of a level in `?level=`.
pub fn level_word(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Notice => "notice",
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}

/// The page.
pub fn events(v: &EventsView) -> String {
    out(&page(v))
}

/// Its live block; send it only while no filter is set and the newest page is shown.
pub fn events_blocks(v: &EventsView) -> Vec<Block> {
    vec![v.chrome.badge_block(), Block { id: "events-list".to_owned(), html: out(&page(v).as_list()) }]
}

fn page(v: &EventsView) -> Page<'_> {
    let (c, f) = (&v.chrome, &v.filter);
    let choice = |value: &str, is_on| Choice { value: value.to_owned(), label: value.to_owned(), is_on };
    let mut modules: Vec<&str> = v
        .clusters
        .iter()
        .filter(|(cluster, _)| f.cluster.as_ref().is_none_or(|on| on == cluster))
        .flat_map(|(_, modules)| modules.iter().map(|m| m.as_str()))
        .collect();
    modules.sort_unstable();
    modules.dedup();
    let mut query = String::new();
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            query.push_str(&format!("{name}={value}&"));
        }
    };
    add("cluster", f.cluster.as_ref().map(|c| c.as_str()));
    add("module", f.module.as_ref().map(|m| m.as_str()));
    add("level", f.level.map(level_word));
    Page {
        c,
        clusters: v.clusters.iter().map(|(name, _)| choice(name.as_str(), f.cluster.as_ref() == Some(name))).collect(),
        modules: modules.into_iter().map(|m| choice(m, f.module.as_ref().is_some_and(|on| on.as_str() == m))).collect(),
        levels: [Level::Notice, Level::Warning, Level::Critical]
            .into_iter()
            .map(|level| Choice {
                value: level_word(level).to_owned(),
                label: if level == Level::Critical {
                    say::level(c.lang, level).to_owned()
                } else {
                    format!("{}{}", say::level(c.lang, level), c.t(p::AND_LOUDER))
                },
                is_on: f.level == Some(level),
            })
            .collect(),
        events: v.events.iter().map(|e| EventRow::of(c, e)).collect(),
        older: v.older.as_ref().map(|before| format!("/events?{query}before={before}")),
    }
}
