//! `/clusters`: all of them in a table, filtered by the search box.

use super::parts::{Chip, contact, module_href};
use super::{out, ui};
use crate::both;
use crate::fleet::{ClusterView, HealthView};
use crate::live_ids::Block;
use crate::say::{self, Mark};
use crate::text as p;
use crate::view::ClustersView;
use askama::Template;

#[derive(Template)]
#[template(path = "pages/clusters.html", blocks = ["table"])]
struct Page<'a> {
    c: &'a crate::view::Chrome,
    query: &'a str,
    found: String,
    rows: Vec<RowM>,
}

struct RowM {
    name: String,
    chip: Option<Chip>,
    nodes: Vec<Named>,
    modules: Vec<Named>,
}

struct Named {
    mark: Mark,
    name: String,
    hint: &'static str,
    href: String,
}

/// The page.
pub fn clusters(v: &ClustersView) -> String {
    out(&page(v))
}

/// Its live block.
pub fn clusters_blocks(v: &ClustersView) -> Vec<Block> {
    vec![v.chrome.badge_block(), Block { id: "clusters-table".to_owned(), html: out(&page(v).as_table()) }]
}

/// Whether the search box's text occurs in the name of the cluster, a node, a module, or in an address.
fn matches(cluster: &ClusterView, query: &str) -> bool {
    let query = query.trim().to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&query);
    has(cluster.cluster.as_str())
        || cluster.nodes.iter().any(|n| has(n.node.as_str()) || n.addresses.iter().any(|(_, a)| has(&a.to_string())))
        || cluster.modules.iter().any(|m| has(m.module.as_str()) || m.vips().iter().any(|a| has(&a.to_string())))
}

fn page(v: &ClustersView) -> Page<'_> {
    let c = &v.chrome;
    let mut found: Vec<&ClusterView> = v.clusters.iter().filter(|cluster| matches(cluster, &v.query)).collect();
    found.sort_by_key(|cluster| (cluster.worst().unwrap_or(HealthView::InProgress), cluster.cluster.clone()));
    let (count, query) = (found.len(), &v.query);
    let row = |cluster: &&ClusterView| RowM {
        name: cluster.cluster.to_string(),
        chip: cluster.worst().map(|h| Chip { mark: say::health_mark(h), word: say::health_name(c.lang, h).to_owned() }),
        nodes: cluster
            .nodes
            .iter()
            .map(|n| {
                let (mark, hint) = contact(c, n.contact);
                Named { mark, name: n.node.to_string(), hint, href: String::new() }
            })
            .collect(),
        modules: cluster
            .modules
            .iter()
            .map(|m| Named {
                mark: say::health_mark(m.health),
                name: m.module.to_string(),
                hint: say::module_health(c.lang, m),
                href: module_href(&m.cluster, m.module.as_str()),
            })
            .collect(),
    };
    Page {
        c,
        query: &v.query,
        found: both!(c.lang, "{count} found for “{query}”", "「{query}」に一致：{count} 件"),
        rows: found.iter().map(row).collect(),
    }
}
