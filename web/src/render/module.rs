//! `/clusters/{c}/modules/{m}`.

use super::operation::OperationM;
use super::parts::{Button, EventRow, PillM, action_href, kind, module_verbs, verb_icon, with_dots};
use super::topology::Topology;
use super::{out, ui};
use crate::fleet::{HealthView, ModuleView, NodeCell};
use crate::live_ids::Block;
use crate::say::{self, Interruption, Mark, Said, Target};
use crate::text as p;
use crate::view::{Chrome, ModulePageView, VersionView};
use crate::{both, fmt};
use askama::Template;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::copies::VerifyEnd;
use tsugi_core::ids::{ClusterName, ModuleName};
use tsugi_core::module::{Async, Authority, Mode};
use tsugi_core::state::{ArbiterView, Readiness, State};

#[derive(Template)]
#[template(
    path = "pages/module.html",
    blocks = ["actions", "headline", "operation", "topology", "data", "nodes", "checks", "events", "versions"]
)]
struct Page<'a> {
    c: &'a Chrome,
    cluster: &'a ClusterName,
    name: &'a ModuleName,
    base: String,
    kind: String,
    version: Option<String>,
    actions: Vec<ActionButton>,
    mark: Mark,
    is_loss: bool,
    said: Said,
    rest: String,
    /// Whose data to keep, where a person must say so.
    keeps: Vec<Button>,
    maintenance: Option<MaintenanceM>,
    operation: Option<OperationM>,
    topo: Topology,
    data: Data,
    nodes: Vec<NodeRow>,
    checks: Checks,
    events: Vec<EventRow>,
    versions: &'a [VersionView],
}

/// A maintenance that lasts.
struct MaintenanceM {
    until: u64,
    left: String,
}

struct ActionButton {
    href: String,
    icon: &'static str,
    label: String,
    word: &'static str,
    /// Why it is greyed.
    why: Option<String>,
}

struct Data {
    title: &'static str,
    chip: String,
    resync: Option<ResyncM>,
    facts: Vec<Fact>,
    warnings: Vec<String>,
}

struct ResyncM {
    percent: u64,
    left: String,
    done_at: Option<u64>,
    is_still: bool,
}

struct Fact {
    name: String,
    value: String,
    tone: Option<&'static str>,
}

struct NodeRow {
    name: String,
    addr: String,
    pill: PillM,
    since: Option<u64>,
    said: Option<Said>,
    rest: String,
    calm: &'static str,
    main: Vec<Button>,
    more: Vec<Button>,
}

struct Checks {
    nodes: Vec<String>,
    rows: Vec<CheckRow>,
}

struct CheckRow {
    name: String,
    cells: Vec<Option<(Mark, &'static str, String)>>,
    action: &'static str,
}

/// The page.
pub fn module(v: &ModulePageView) -> String {
    out(&page(v))
}

/// Its live blocks; ids in [`crate::live_ids`].
pub fn module_blocks(v: &ModulePageView) -> Vec<Block> {
    let page = page(v);
    let block = |id: &str, html: String| Block { id: id.to_owned(), html };
    vec![
        v.chrome.badge_block(),
        block("module-actions", out(&page.as_actions())),
        block("module-headline", out(&page.as_headline())),
        block("module-operation", out(&page.as_operation())),
        block("module-topology", out(&page.as_topology())),
        block("module-data", out(&page.as_data())),
        block("module-nodes", out(&page.as_nodes())),
        block("module-checks", out(&page.as_checks())),
        block("module-events", out(&page.as_events())),
        block("module-versions", out(&page.as_versions())),
    ]
}

fn page(v: &ModulePageView) -> Page<'_> {
    let (c, m) = (&v.chrome, &v.module);
    let said = say::headline(c.lang, m);
    let number = m.version;
    Page {
        c,
        cluster: &m.cluster,
        name: &m.module,
        base: super::parts::module_href(&m.cluster, m.module.as_str()),
        kind: kind(c.lang, m),
        version: (number > 0).then(|| both!(c.lang, "version {number}", "第 {number} 版")),
        actions: actions(c, m),
        mark: say::health_mark(m.health),
        is_loss: matches!(m.health, HealthView::Conflict | HealthView::NotReady),
        rest: said.rest(),
        said,
        keeps: keeps(c, m),
        maintenance: maintenance(c, m),
        operation: v.operation.as_ref().map(|op| OperationM::of(c, op)),
        topo: Topology::of(c, m),
        data: data(c, m),
        nodes: m.cells.iter().map(|cell| node_row(c, m, cell)).collect(),
        checks: checks(c, m),
        events: v.events.iter().map(|e| EventRow::of(c, e)).collect(),
        versions: &v.versions,
    }
}

fn actions(c: &Chrome, m: &ModuleView) -> Vec<ActionButton> {
    let button = |verb: Verb| ActionButton {
        href: action_href(m, &verb, None),
        icon: verb_icon(&verb),
        label: with_dots(c.lang, &verb),
        word: verb.word(),
        why: say::plan(c.lang, m, &verb, &Target::Module, &Interruption::None).blocked,
    };
    let mut verbs = module_verbs(m);
    if m.mode() != Mode::Farm {
        let minutes = if m.maintenance_until().is_some() { 0 } else { MAINTENANCE_MINUTES };
        verbs.push(Verb::Maintenance { minutes });
    }
    verbs.into_iter().map(button).collect()
}

/// Minutes a maintenance is offered with; the form changes them.
const MAINTENANCE_MINUTES: u32 = 30;

fn maintenance(c: &Chrome, m: &ModuleView) -> Option<MaintenanceM> {
    let until = m.maintenance_until()?;
    Some(MaintenanceM { until, left: fmt::time_left(c.lang, until.saturating_sub(c.now_unix_ms) / 1000) })
}

/// Two copies of which a person must choose one: the way on for each of the nodes.
fn keeps(c: &Chrome, m: &ModuleView) -> Vec<Button> {
    let button = |cell: &NodeCell| {
        let node = &cell.node;
        let (verb, on, label) = if m.is_split() {
            (Verb::Resolve { keep: node.clone() }, None, both!(c.lang, "Keep {node}…", "{node} を残す…"))
        } else {
            let label = both!(c.lang, "Use the data of {node} (overwrites the other copy)…", "{node} のデータを使う（もう一方を上書き）…");
            (Verb::Prim { accept_loss: false }, Some(node.as_str()), label)
        };
        Button { href: action_href(m, &verb, on), icon: verb_icon(&verb), label }
    };
    let is_choice = m.is_split() || m.is_undecided() && m.health == HealthView::NotReady;
    m.cells.iter().filter(|_| is_choice).map(button).collect()
}

fn data(c: &Chrome, m: &ModuleView) -> Data {
    let lang = c.lang;
    let serving = m.serving().and_then(NodeCell::now);
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String, tone| facts.push(Fact { name: name.to_owned(), value, tone });
    let resyncing = m.resyncing().and_then(|cell| Some((cell, cell.now()?.resync.as_ref()?)));
    let mut resync = None;
    if let Some((cell, r)) = resyncing {
        let bytes_left = r.bytes_total.saturating_sub(r.bytes_done);
        let left = fmt::left(lang, bytes_left, r.rate);
        let is_still = cell.resync_still_ms.is_some();
        let done_at = bytes_left.checked_div(r.rate).filter(|_| !is_still).map(|s| c.now_unix_ms + s * 1000);
        resync = Some(ResyncM {
            percent: fmt::percent(r.bytes_done, r.bytes_total),
            left: left.filter(|_| !is_still).unwrap_or_else(|| c.t(p::CALCULATING).to_owned()),
            done_at,
            is_still,
        });
        fact(c.t(p::COMPARED_TOTAL), fmt::bytes_of(r.bytes_done, r.bytes_total), None);
        fact(c.t(p::BYTES_COPIED), fmt::bytes(r.bytes_copied), None);
        fact(c.t(p::SPEED), fmt::rate(r.rate), None);
        fact(c.t(p::FILES_CHECKED), format!("{} / {}", fmt::count(r.files_done), fmt::count(r.files_total)), None);
        fact(c.t(p::TO_NODE), cell.node.to_string(), None);
    } else {
        for cell in m.cells.iter().filter(|_| m.mode() == Mode::Mirror && !m.dirs().is_empty()) {
            let node = &cell.node;
            let name = both!(lang, "Data on {node}", "{node} のデータ");
            match cell.now() {
                None => fact(&name, c.t(p::APP_UNKNOWN).to_owned(), None),
                Some(s) => fact(&name, say::flag(lang, s.flag).to_owned(), Some(if s.is_up_to_date { "c-ready" } else { "c-warn" })),
            }
        }
        for dir in m.dirs() {
            fact(c.t(p::REPLICATED_DIR), dir.to_owned(), None);
        }
    }
    if let Some(traffic) = serving.and_then(|s| s.traffic.as_ref()).filter(|_| resyncing.is_none()) {
        fact(c.t(p::TRAFFIC), say::traffic(lang, traffic), say::is_waiting(traffic).then_some("c-warn"));
    }
    let verifications = || m.cells.iter().filter_map(NodeCell::now).map(|s| &s.verification);
    if let Some(running) = verifications().find_map(|v| v.running.as_ref()) {
        let tone = (running.differences > 0).then_some("c-warn");
        fact(c.t(p::VERIFYING), say::compared(lang, running), tone);
    } else if let Some(last) = verifications().filter_map(|v| v.last.as_ref()).max_by_key(|l| l.at_unix_ms) {
        let is_good = last.verified.end == VerifyEnd::Whole && last.verified.done.differences == 0;
        fact(c.t(p::VERIFIED), say::last_verification(lang, last, c.now_unix_ms), Some(if is_good { "c-ready" } else { "c-warn" }));
    }
    if let Some(rfs) = m.def.as_ref().and_then(|d| d.rfs.as_ref()) {
        let ack = if rfs.ack == Async::None { p::ACK_DISKS } else { p::ACK_MEMORY };
        fact(c.t(p::CONFIRMS), c.t(ack).to_owned(), None);
    }
    for addr in m.vips() {
        let holders = m.cells.iter().filter(|cell| cell.now().is_some_and(|s| s.vips_held.contains(&addr)));
        let on = holders.map(|cell| cell.node.to_string()).collect::<Vec<_>>().join(", ");
        let on = if on.is_empty() { c.t(p::VIP_NOT_HELD).to_owned() } else { on };
        fact(c.t(p::VIP), format!("{addr} → {on}"), None);
    }
    let arbiters: Vec<_> = m.cells.iter().filter_map(NodeCell::now).map(|s| &s.arbiter).collect();
    let is_lost = arbiters.contains(&&ArbiterView::Unreachable);
    let is_there = arbiters.contains(&&ArbiterView::Reachable) && !is_lost;
    let mut warnings = Vec::new();
    if let Some(authority) = m.cells.iter().find_map(NodeCell::now).map(|s| &s.authority) {
        let who = say::authority(lang, authority);
        match authority.kind {
            Authority::Arbiter if is_there => fact(c.t(p::ARBITER), format!("{who}: {}", c.t(p::REACHABLE)), Some("c-ready")),
            Authority::Arbiter => {}
            _ => fact(c.t(p::GOES_ON_BY), who, is_there.then_some("c-ready")),
        }
        let now = if is_lost { ArbiterView::Unreachable } else { ArbiterView::Unknown };
        warnings.extend(say::authority_warnings(lang, authority, &now));
    }
    for said in m.cells.iter().filter_map(NodeCell::now).filter_map(|s| say::unrepaired(lang, s)) {
        let command = said.command.as_ref().map(|command| format!("{} {command}", said.command_label(lang)));
        warnings.extend([format!("{} {}", said.text, said.rest())].into_iter().chain(command));
    }
    Data {
        title: if resync.is_some() { c.t(p::DATA_RESYNC) } else { c.t(p::DATA) },
        chip: serving.map_or("—".to_owned(), |s| say::replication(lang, s.replication).to_owned()),
        resync,
        facts,
        warnings,
    }
}

fn node_row(c: &Chrome, m: &ModuleView, cell: &NodeCell) -> NodeRow {
    let s = cell.now();
    let said = say::why(c.lang, &m.module, cell);
    let calm = match s.map(|s| (s.state, s.readiness)) {
        Some((State::Second, Readiness::Ready)) if cell.is_maintained() => c.t(p::CALM_MAINTAINED),
        Some((State::Second, Readiness::Ready)) => c.t(p::CALM_SECOND),
        Some((State::Alone, Readiness::Ready)) => c.t(p::CALM_ALONE),
        Some((state, Readiness::Ready)) if state.is_serving() => c.t(p::CALM_SERVING),
        _ => "",
    };
    let node = cell.node.as_str();
    let target = Target::Node(cell.node.clone());
    let possible = |verb: Verb| {
        let is_possible = say::plan(c.lang, m, &verb, &target, &Interruption::None).blocked.is_none();
        is_possible.then(|| Button { href: action_href(m, &verb, Some(node)), icon: verb_icon(&verb), label: with_dots(c.lang, &verb) })
    };
    let is_mirror = m.mode() == Mode::Mirror;
    let mut more = vec![Verb::StopStart];
    if !m.dirs().is_empty() {
        more.push(Verb::Verify);
    }
    if is_mirror {
        more.extend([
            Verb::Prim { accept_loss: false },
            Verb::Prim { accept_loss: true },
            Verb::PrimForce,
            Verb::Second { full_sync: false },
            Verb::Second { full_sync: true },
        ]);
    }
    // The consent is asked for only where the plain order is refused for the want of it.
    let needs_consent = s.and_then(|s| s.refusal(&Verb::Prim { accept_loss: false })) == Some(&Refusal::NeedsAcceptLoss);
    more.retain(|verb| *verb != Verb::Prim { accept_loss: true } || needs_consent);
    NodeRow {
        name: cell.node.to_string(),
        addr: cell.addr.map(|a| a.to_string()).unwrap_or_default(),
        pill: PillM::of(c, &m.module, cell),
        since: s.map(|s| s.since_unix_ms),
        rest: said.as_ref().map(Said::rest).unwrap_or_default(),
        said,
        calm,
        main: [Verb::Start, Verb::Stop].into_iter().filter_map(possible).collect(),
        more: more.into_iter().filter_map(possible).collect(),
    }
}

fn checks(c: &Chrome, m: &ModuleView) -> Checks {
    let mut names: Vec<(String, tsugi_core::module::Action)> = Vec::new();
    for r in m.cells.iter().filter_map(NodeCell::now).flat_map(|s| &s.resources) {
        if !names.iter().any(|(name, _)| *name == r.name) {
            names.push((r.name.clone(), r.action));
        }
    }
    let rows = names
        .into_iter()
        .map(|(name, action)| CheckRow {
            cells: m
                .cells
                .iter()
                .map(|cell| {
                    let r = cell.now()?.resources.iter().find(|r| r.name == name)?;
                    let (mark, word) = say::resource_health(c.lang, r.health);
                    Some((mark, word, say::detail(c.lang, &r.detail)))
                })
                .collect(),
            name,
            action: say::action(c.lang, action),
        })
        .collect();
    Checks { nodes: m.cells.iter().map(|cell| cell.node.to_string()).collect(), rows }
}
