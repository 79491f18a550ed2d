//! `/clusters/{c}` and its cluster.xml.

use super::editor::{CLUSTER_FIELD, Gutter, Problems};
use super::parts::{Card, EventRow, contact};
use super::{card_block, out, ui};
use crate::both;
use crate::fleet::{Approval, ClusterView, Contact, HealthView, NodeView};
use crate::live_ids::Block;
use crate::say::{self, Mark};
use crate::text as p;
use crate::view::{Chrome, ClusterConfigView, ClusterPageView, JoinView};
use askama::Template;
use std::net::IpAddr;

#[derive(Template)]
#[template(path = "pages/cluster.html", blocks = ["headline", "nodes", "events"])]
struct Page<'a> {
    c: &'a Chrome,
    name: String,
    mark: Mark,
    lead: String,
    rest: String,
    card: Card,
    nodes: Vec<NodeRow<'a>>,
    join: Option<&'a JoinView>,
    events: Vec<EventRow>,
}

struct NodeRow<'a> {
    name: String,
    mark: Mark,
    hint: &'static str,
    since: Option<u64>,
    addresses: &'a [(String, IpAddr)],
    agent: Option<&'a str>,
    os: Option<&'a str>,
    approval: &'static str,
    fingerprint: Option<String>,
    is_pending: bool,
    compare: String,
}

/// The page.
pub fn cluster(v: &ClusterPageView) -> String {
    out(&page(v))
}

/// Its live blocks.
pub fn cluster_blocks(v: &ClusterPageView) -> Vec<Block> {
    let page = page(v);
    vec![
        v.chrome.badge_block(),
        Block { id: "cluster-headline".to_owned(), html: out(&page.as_headline()) },
        card_block(&v.chrome, &page.card),
        Block { id: "cluster-nodes".to_owned(), html: out(&page.as_nodes()) },
        Block { id: "cluster-events".to_owned(), html: out(&page.as_events()) },
    ]
}

fn page(v: &ClusterPageView) -> Page<'_> {
    let c = &v.chrome;
    let (mark, lead, rest) = headline(c, &v.cluster);
    Page {
        c,
        name: v.cluster.cluster.to_string(),
        mark,
        lead,
        rest,
        card: Card::of(c, &v.cluster, |_| true),
        nodes: v.cluster.nodes.iter().map(|n| node_row(c, n)).collect(),
        join: v.join.as_ref(),
        events: v.events.iter().map(|e| EventRow::of(c, e)).collect(),
    }
}

/// The sentence of a cluster: that of its worst module, or what is still to be set up.
fn headline(c: &Chrome, cluster: &ClusterView) -> (Mark, String, String) {
    let worst = cluster.modules.iter().min_by_key(|m| m.health);
    match worst {
        None => (Mark::Info, c.t(p::CLUSTER_EMPTY).to_owned(), c.t(p::CLUSTER_EMPTY_NEXT).to_owned()),
        Some(m) if m.health == HealthView::Protected => {
            let count = cluster.modules.len();
            let lead = match count {
                1 => both!(c.lang, "Its module is protected.", "モジュールは保護されています。"),
                _ => both!(c.lang, "All {count} modules are protected.", "{count} 個のモジュールはすべて保護されています。"),
            };
            (Mark::Ready, lead, c.t(p::CLUSTER_PROTECTED).to_owned())
        }
        Some(m) => {
            let said = say::headline(c.lang, m);
            let rest = said.rest();
            (say::health_mark(m.health), said.text, rest)
        }
    }
}

fn node_row<'a>(c: &Chrome, n: &'a NodeView) -> NodeRow<'a> {
    let (mark, hint) = match n.approval {
        Approval::NotEnrolled => (Mark::Unknown, c.t(p::NOT_ENROLLED)),
        Approval::Pending { .. } => (Mark::Info, c.t(p::WAITS_FOR_APPROVAL)),
        Approval::Approved { .. } => contact(c, n.contact),
    };
    let (approval, fingerprint) = match &n.approval {
        Approval::NotEnrolled => (c.t(p::ENROLL_FIRST), None),
        Approval::Pending { fingerprint, .. } => (c.t(p::WAITS_FOR_APPROVAL), Some(grouped(fingerprint))),
        Approval::Approved { fingerprint } => (c.t(p::APPROVED), Some(grouped(fingerprint))),
    };
    let name = &n.node;
    NodeRow {
        name: name.to_string(),
        mark,
        hint,
        since: match (n.contact, &n.approval) {
            (_, Approval::Pending { since_unix_ms, .. }) => Some(*since_unix_ms),
            (Contact::Lost { since_unix_ms }, _) => Some(since_unix_ms),
            _ => None,
        },
        addresses: &n.addresses,
        agent: n.agent_version.as_deref(),
        os: n.os.as_deref(),
        approval,
        fingerprint,
        is_pending: matches!(n.approval, Approval::Pending { .. }),
        compare: both!(
            c.lang,
            "Compare it with what “tsugi-agent enroll” printed on {name}. Approve only if they are equal.",
            "{name} で「tsugi-agent enroll」が表示した値と照合し、一致する場合だけ承認してください。"
        ),
    }
}

/// A fingerprint in groups of four, which people can compare.
fn grouped(hex: &str) -> String {
    let chars: Vec<char> = hex.chars().collect();
    chars.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

#[derive(Template)]
#[template(path = "pages/cluster_config.html")]
struct ConfigPage<'a> {
    c: &'a Chrome,
    title: &'static str,
    action: String,
    cluster: Option<String>,
    name: &'a str,
    xml: &'a str,
    gutter: Gutter,
    problems: Problems,
}

/// `/clusters/new` and `/clusters/{c}/config`.
pub fn cluster_config(v: &ClusterConfigView) -> String {
    let c = &v.chrome;
    let cluster = v.cluster.as_ref().map(ToString::to_string);
    let problems = if v.problems.is_empty() { None } else { Some(v.problems.as_slice()) };
    out(&ConfigPage {
        c,
        title: c.t(if cluster.is_some() { p::NETWORKS } else { p::ADD_CLUSTER }),
        action: cluster.as_ref().map_or("/clusters".to_owned(), |name| format!("/clusters/{name}/config")),
        cluster,
        name: &v.name,
        xml: &v.xml,
        gutter: Gutter::of(&v.xml, &v.problems),
        problems: Problems::of(c, problems, CLUSTER_FIELD),
    })
}
