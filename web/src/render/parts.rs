//! Parts that several pages show: pill, grid card, buttons of actions, rows of events.

use crate::fleet::{ClusterView, Contact, HealthView, ModuleView, NodeCell};
use crate::say::{self, Mark, Pill};
use crate::text::{self as p, Lang};
use crate::view::{Chrome, EventView};
use crate::{both, fmt};
use tsugi_core::command::Verb;
use tsugi_core::ids::ClusterName;
use tsugi_core::module::Mode;
use tsugi_core::state::{Readiness, State};

/// A pill with what stands under it.
pub(crate) struct PillM {
    pub p: Pill,
    /// The whole reason, as a tooltip; the module's page has it as text.
    pub hint: Option<String>,
    pub bar: Option<Bar>,
    pub under: Option<String>,
    /// When the last known state was heard.
    pub last_at: Option<u64>,
}

/// Progress under a pill.
pub(crate) struct Bar {
    pub percent: u64,
    pub left: Option<String>,
}

impl PillM {
    pub(crate) fn of(c: &Chrome, module: &tsugi_core::ids::ModuleName, cell: &NodeCell) -> PillM {
        let lang = c.lang;
        let snapshot = cell.now();
        let bar = snapshot.and_then(|s| s.resync.as_ref()).map(|r| Bar {
            percent: fmt::percent(r.bytes_done, r.bytes_total),
            left: match cell.resync_still_ms {
                Some(_) => Some(c.t(p::STALLED).to_owned()),
                None => fmt::left_short(lang, r.bytes_total.saturating_sub(r.bytes_done), r.rate),
            },
        });
        let mut last_at = None;
        let under = match (&cell.snapshot, cell.contact) {
            (Some(s), Contact::Lost { since_unix_ms }) => {
                last_at = Some(since_unix_ms);
                let word = s.state.word();
                Some(both!(lang, "last: {word}", "最終: {word}"))
            }
            (Some(s), Contact::Connected) => s.reason.as_ref().and_then(|r| say::reason_short(lang, r)),
            _ => None,
        };
        let hint = snapshot.and_then(|s| s.reason.as_ref()).map(|r| say::reason(lang, r, module, &cell.node).text);
        PillM { p: say::pill(lang, cell), hint, bar, under, last_at }
    }
    pub(crate) fn is_unknown(&self) -> bool {
        self.p.mark == Mark::Unknown
    }
    pub(crate) fn is_red(&self) -> bool {
        self.p.mark == Mark::NotReady
    }
}

/// A link to an action.
pub(crate) struct Button {
    pub href: String,
    pub icon: &'static str,
    pub label: String,
}

/// Icon of an order.
pub(crate) fn verb_icon(verb: &Verb) -> &'static str {
    match verb {
        Verb::Start | Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. } => "i-play",
        Verb::Stop => "i-stop",
        Verb::Restart | Verb::StopStart => "i-restart",
        Verb::Resolve { .. } => "i-right",
        Verb::Maintenance { .. } => "i-gear",
        Verb::Swap => "i-swap",
        Verb::Verify => "i-search",
    }
}

/// Page of an action. `node` absent = the module.
pub(crate) fn action_href(m: &ModuleView, verb: &Verb, node: Option<&str>) -> String {
    let mut href = format!("/clusters/{}/modules/{}/actions/{}", m.cluster, m.module, verb.word());
    let mut mark = '?';
    let mut add = |part: &str| {
        href.push(mark);
        href.push_str(part);
        mark = '&';
    };
    if let Some(node) = node {
        add(&format!("node={node}"));
    }
    match verb {
        Verb::Prim { accept_loss: true } => add("accept_loss=1"),
        Verb::Second { full_sync: true } => add("full_sync=1"),
        Verb::Resolve { keep } => add(&format!("keep={keep}")),
        Verb::Maintenance { minutes } => add(&format!("minutes={minutes}")),
        _ => {}
    }
    href
}

/// A label that says a dialog follows.
pub(crate) fn with_dots(lang: Lang, verb: &Verb) -> String {
    format!("{}…", say::verb_name(lang, verb))
}

/// A cluster's card: module × node.
pub(crate) struct Card {
    pub cluster: String,
    pub chip: Option<Chip>,
    pub count: String,
    pub caption: String,
    pub nodes: Vec<NodeHead>,
    pub rows: Vec<Row>,
    /// For sorting.
    pub worst: Option<HealthView>,
}

/// Shape and word.
pub(crate) struct Chip {
    pub mark: Mark,
    pub word: String,
}

/// Head of a column.
pub(crate) struct NodeHead {
    pub name: String,
    pub mark: Mark,
    pub hint: &'static str,
}

/// A module in the grid.
pub(crate) struct Row {
    pub module: String,
    pub href: String,
    pub kind: String,
    pub cells: Vec<Cell>,
    pub buttons: Vec<Button>,
}

/// A module on a node; no pill = it does not live there.
pub(crate) struct Cell {
    pub node: String,
    pub pill: Option<PillM>,
}

/// Shape and word of a node's contact.
pub(crate) fn contact(c: &Chrome, contact: Contact) -> (Mark, &'static str) {
    match contact {
        Contact::Connected => (Mark::Ready, c.t(p::CONNECTED)),
        Contact::Lost { .. } => (Mark::Unknown, c.t(p::NO_CONTACT)),
        Contact::Never => (Mark::Unknown, c.t(p::NEVER_SEEN)),
    }
}

/// `Mirror · 192.168.10.50`.
pub(crate) fn kind(lang: Lang, m: &ModuleView) -> String {
    let mode = say::mode(lang, m.mode());
    match m.vips().first() {
        Some(addr) => format!("{mode} · {addr}"),
        None => mode.to_owned(),
    }
}

/// The actions that are possible now for the module as a whole.
fn possible(c: &Chrome, m: &ModuleView) -> Vec<Button> {
    if !c.can_control() {
        return Vec::new();
    }
    module_verbs(m)
        .into_iter()
        .filter(|verb| say::plan(c.lang, m, verb, &say::Target::Module, &say::Interruption::None).blocked.is_none())
        .map(|verb| Button { href: action_href(m, &verb, None), icon: verb_icon(&verb), label: with_dots(c.lang, &verb) })
        .collect()
}

/// Orders that concern a module as a whole.
pub(crate) fn module_verbs(m: &ModuleView) -> Vec<Verb> {
    match m.mode() {
        Mode::Mirror => vec![Verb::Start, Verb::Stop, Verb::Swap, Verb::Restart],
        Mode::Farm | Mode::Light => vec![Verb::Start, Verb::Stop, Verb::Restart],
    }
}

impl Card {
    pub(crate) fn of(c: &Chrome, cluster: &ClusterView, shows: impl Fn(&ModuleView) -> bool) -> Card {
        let lang = c.lang;
        let count = cluster.nodes.len();
        let name = &cluster.cluster;
        let mut modules: Vec<&ModuleView> = cluster.modules.iter().filter(|m| shows(m)).collect();
        modules.sort_by(|a, b| a.health.cmp(&b.health).then_with(|| a.module.cmp(&b.module)));
        Card {
            cluster: name.to_string(),
            chip: cluster.worst().map(|health| Chip {
                mark: say::health_mark(health),
                word: if health == HealthView::Protected {
                    c.t(p::ALL_PROTECTED).to_owned()
                } else {
                    say::health_name(lang, health).to_owned()
                },
            }),
            count: fmt::counted(lang, count, "node", "ノード"),
            caption: both!(lang, "Modules of {name} on their nodes", "{name} のモジュールとノードの状態"),
            nodes: cluster
                .nodes
                .iter()
                .map(|n| {
                    let (mark, hint) = contact(c, n.contact);
                    NodeHead { name: n.node.to_string(), mark, hint }
                })
                .collect(),
            rows: modules
                .iter()
                .map(|m| Row {
                    module: m.module.to_string(),
                    href: module_href(&m.cluster, m.module.as_str()),
                    kind: kind(lang, m),
                    cells: cluster
                        .nodes
                        .iter()
                        .map(|n| Cell { node: n.node.to_string(), pill: m.cell(&n.node).map(|cell| PillM::of(c, &m.module, cell)) })
                        .collect(),
                    buttons: possible(c, m),
                })
                .collect(),
            worst: cluster.worst(),
        }
    }
}

/// Page of a module.
pub(crate) fn module_href(cluster: &ClusterName, module: &str) -> String {
    format!("/clusters/{cluster}/modules/{module}")
}

/// An event in a list.
pub(crate) struct EventRow {
    pub mark: Mark,
    pub level: &'static str,
    pub at: u64,
    pub cluster: String,
    pub module: String,
    pub node: String,
    pub href: String,
    pub text: String,
    pub rest: String,
    pub command: Option<String>,
    pub label: String,
    pub key: String,
}

impl EventRow {
    pub(crate) fn of(c: &Chrome, view: &EventView) -> EventRow {
        let r = &view.record;
        let said = say::event(c.lang, &r.event, &r.module, &r.node);
        EventRow {
            mark: say::event_mark(&r.event),
            level: say::level(c.lang, r.event.level()),
            at: r.at_unix_ms,
            cluster: view.cluster.to_string(),
            module: r.module.to_string(),
            node: r.node.to_string(),
            href: module_href(&view.cluster, r.module.as_str()),
            rest: said.rest(),
            label: super::ui::command_label(c, &said),
            text: said.text,
            command: said.command,
            key: format!("{}-{}-{}", view.cluster, r.node, r.seq),
        }
    }
}

/// When the state that made a module need attention began.
pub(crate) fn since(m: &ModuleView) -> Option<u64> {
    let lost = m.cells.iter().filter_map(|c| match c.contact {
        Contact::Lost { since_unix_ms } => Some(since_unix_ms),
        Contact::Connected | Contact::Never => None,
    });
    let changed = m.cells.iter().filter_map(|c| c.now()).filter(|s| s.readiness != Readiness::Ready || s.state == State::Alone);
    lost.chain(changed.map(|s| s.since_unix_ms)).max()
}
