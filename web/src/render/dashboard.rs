//! `/`: is everything up, is it protected, what to do next.

use super::parts::{Card, action_href, module_href, since, verb_icon, with_dots};
use super::{out, ui};
use crate::fleet::{Approval, ClusterView, Contact, HealthView, ModuleView};
use crate::live_ids::Block;
use crate::say::{self, Mark};
use crate::text::{self as p, Lang};
use crate::view::{Chrome, DashboardView};
use crate::{both, fmt};
use askama::Template;
use tsugi_core::command::Verb;

/// Rows of "needs attention"; the rest is a number. More than a screen is not read.
const ROWS_MAX: usize = 7;

#[derive(Template)]
#[template(path = "pages/dashboard.html", blocks = ["count", "first", "tiles", "attention"])]
struct Page<'a> {
    c: &'a Chrome,
    count: String,
    clusters_is_empty: bool,
    tiles: Vec<Tile>,
    attention: Attention,
    cards: Vec<Card>,
}

struct Tile {
    href: String,
    is_pressed: bool,
    mark: Mark,
    count: usize,
    name: &'static str,
    hint: &'static str,
}

struct Attention {
    count: String,
    rows: Vec<AttentionRow>,
    more: Option<String>,
}

struct AttentionRow {
    mark: Mark,
    href: String,
    text: String,
    consequence: String,
    since: Option<u64>,
    subject: String,
    button: AttentionButton,
    /// For sorting.
    health: HealthView,
}

struct AttentionButton {
    href: String,
    icon: &'static str,
    label: String,
    is_dialog: bool,
}

/// The page.
pub fn dashboard(v: &DashboardView) -> String {
    out(&page(v))
}

/// Its live blocks: `fleet-count`, `tiles`, `attention` and `card-{cluster}` of each cluster; `first-steps` without any.
pub fn dashboard_blocks(v: &DashboardView) -> Vec<Block> {
    let page = page(v);
    let mut blocks = vec![v.chrome.badge_block(), Block { id: "fleet-count".to_owned(), html: out(&page.as_count()) }];
    if page.clusters_is_empty {
        blocks.push(Block { id: "first-steps".to_owned(), html: out(&page.as_first()) });
        return blocks;
    }
    blocks.push(Block { id: "tiles".to_owned(), html: out(&page.as_tiles()) });
    blocks.push(Block { id: "attention".to_owned(), html: out(&page.as_attention()) });
    blocks.extend(page.cards.iter().map(|card| super::card_block(&v.chrome, card)));
    blocks
}

/// How many rows "needs attention" has, for the number in the menu.
pub fn attention_count(clusters: &[ClusterView]) -> usize {
    let modules = clusters.iter().flat_map(|c| &c.modules).filter(|m| say::attention(m.health)).count();
    modules + clusters.iter().flat_map(|c| &c.nodes).filter(|n| matches!(n.approval, Approval::Pending { .. })).count()
}

fn page(v: &DashboardView) -> Page<'_> {
    let c = &v.chrome;
    let modules: usize = v.clusters.iter().map(|c| c.modules.len()).sum();
    let nodes: usize = v.clusters.iter().map(|c| c.nodes.len()).sum();
    let mut cards: Vec<Card> = v
        .clusters
        .iter()
        .filter(|cluster| is_shown(cluster, v.filter))
        .map(|cluster| Card::of(c, cluster, |m| row_is_shown(m, v.filter)))
        .collect();
    // A cluster without modules is the newest work in hand: after those that need attention, before those that do not.
    cards.sort_by_key(|card| (card.worst.unwrap_or(HealthView::InProgress), card.cluster.clone()));
    Page {
        c,
        count: [
            fmt::counted(c.lang, v.clusters.len(), "cluster", "クラスター"),
            fmt::counted(c.lang, nodes, "node", "ノード"),
            fmt::counted(c.lang, modules, "module", "モジュール"),
        ]
        .join(" · "),
        clusters_is_empty: v.clusters.is_empty(),
        tiles: tiles(c.lang, v),
        attention: attention(c, &v.clusters),
        cards,
    }
}

/// The tile a health is counted in. What somebody stopped is down as well; a conflict is the worst of "not ready".
fn tile_of(health: HealthView) -> HealthView {
    match health {
        HealthView::Conflict | HealthView::NotReady | HealthView::Stopped => HealthView::NotReady,
        other => other,
    }
}

fn is_lost(cluster: &ClusterView) -> bool {
    cluster.nodes.iter().any(|n| matches!(n.contact, Contact::Lost { .. }))
}

fn is_shown(cluster: &ClusterView, filter: Option<HealthView>) -> bool {
    match filter {
        None => true,
        Some(HealthView::NoContact) => is_lost(cluster),
        Some(health) => cluster.modules.iter().any(|m| tile_of(m.health) == tile_of(health)),
    }
}

fn row_is_shown(m: &ModuleView, filter: Option<HealthView>) -> bool {
    match filter {
        None | Some(HealthView::NoContact) => true,
        Some(health) => tile_of(m.health) == tile_of(health),
    }
}

fn tiles(lang: Lang, v: &DashboardView) -> Vec<Tile> {
    let order = [HealthView::Protected, HealthView::AtRisk, HealthView::InProgress, HealthView::NotReady, HealthView::NoContact];
    let tile = |health: HealthView| {
        let count = match health {
            HealthView::NoContact => v.clusters.iter().flat_map(|c| &c.nodes).filter(|n| matches!(n.contact, Contact::Lost { .. })).count(),
            _ => v.clusters.iter().flat_map(|c| &c.modules).filter(|m| tile_of(m.health) == health).count(),
        };
        let is_pressed = v.filter.map(tile_of) == Some(health);
        Tile {
            href: if is_pressed { "/".to_owned() } else { format!("/?health={}", health.word()) },
            is_pressed,
            mark: say::health_mark(health),
            count,
            name: say::health_name(lang, health),
            hint: say::health_hint(lang, health),
        }
    };
    order.into_iter().map(tile).collect()
}

fn attention(c: &Chrome, clusters: &[ClusterView]) -> Attention {
    let lang = c.lang;
    let mut rows: Vec<AttentionRow> = Vec::new();
    for cluster in clusters {
        rows.extend(cluster.modules.iter().filter(|m| say::attention(m.health)).map(|m| module_row(c, m)));
        for node in &cluster.nodes {
            if let Approval::Pending { since_unix_ms, .. } = &node.approval {
                let name = &node.node;
                let href = format!("/clusters/{}#cluster-nodes", cluster.cluster);
                rows.push(AttentionRow {
                    mark: Mark::Info,
                    href: href.clone(),
                    text: both!(lang, "{name} waits for your approval", "{name} が承認を待っています"),
                    consequence: format!("{} · {}", cluster.cluster, c.t(p::COMPARE_FINGERPRINT)),
                    since: Some(*since_unix_ms),
                    subject: name.to_string(),
                    button: AttentionButton { href, icon: "", label: c.t(p::INSPECT).to_owned(), is_dialog: false },
                    health: HealthView::InProgress,
                });
            }
        }
    }
    rows.sort_by_key(|row| (row.health, std::cmp::Reverse(row.since)));
    let count = rows.len();
    let more = count.saturating_sub(ROWS_MAX);
    rows.truncate(ROWS_MAX);
    Attention {
        count: both!(lang, "{count}", "{count} 件"),
        rows,
        more: (more > 0).then(|| both!(lang, "and {more} more", "ほか {more} 件")),
    }
}

fn module_row(c: &Chrome, m: &ModuleView) -> AttentionRow {
    let said = say::headline(c.lang, m);
    let href = module_href(&m.cluster, m.module.as_str());
    let offers_start = m.health == HealthView::Stopped && c.can_control();
    let button = if offers_start {
        AttentionButton {
            href: action_href(m, &Verb::Start, None),
            icon: verb_icon(&Verb::Start),
            label: with_dots(c.lang, &Verb::Start),
            is_dialog: true,
        }
    } else {
        AttentionButton { href: href.clone(), icon: "", label: c.t(p::INVESTIGATE).to_owned(), is_dialog: false }
    };
    AttentionRow {
        mark: say::health_mark(m.health),
        href,
        consequence: format!("{} · {}", m.cluster, said.next.as_deref().unwrap_or_default()),
        text: trimmed(&said.text),
        since: since(m),
        subject: m.module.to_string(),
        button,
        health: m.health,
    }
}

/// A sentence as a heading: without its full stop.
fn trimmed(text: &str) -> String {
    text.trim_end_matches(['.', '。']).to_owned()
}
