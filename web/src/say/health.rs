//! Health of a module as a sentence: is the service up, is it protected, what to do next.

use super::reason::check_arbiter;
use super::{Mark, Said, reason, reason_of, refusal};
use crate::both;
use crate::fleet::{Contact, HealthView, ModuleView, NodeCell};
use crate::fmt;
use crate::text::{Lang, Text};
use tsugi_core::command::{Refusal, checker_of};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::{Authority, Mode};
use tsugi_core::state::{ArbiterView, Readiness, Reason, Replication, State};

/// `Protected` / `保護中`.
pub fn health_name(lang: Lang, health: HealthView) -> &'static str {
    let text = match health {
        HealthView::Conflict => Text { en: "Split brain", ja: "スプリットブレイン" },
        HealthView::NotReady => Text { en: "Not ready", ja: "停止・異常" },
        HealthView::NoContact => Text { en: "No contact", ja: "通信なし" },
        HealthView::AtRisk => Text { en: "At risk", ja: "冗長性低下" },
        HealthView::InProgress => Text { en: "In progress", ja: "処理中" },
        HealthView::Stopped => Text { en: "Stopped", ja: "停止" },
        HealthView::Protected => Text { en: "Protected", ja: "保護中" },
    };
    text.in_(lang)
}

/// What it means, in a few words.
pub fn health_hint(lang: Lang, health: HealthView) -> &'static str {
    let text = match health {
        HealthView::Conflict => Text { en: "Two nodes serve, or two histories", ja: "同時稼働、またはデータの分岐" },
        HealthView::NotReady => Text { en: "Service is down", ja: "サービスは止まっています" },
        HealthView::NoContact => Text { en: "Last known state", ja: "最後に分かった状態" },
        HealthView::AtRisk => Text { en: "Running, backup missing", ja: "稼働中・予備が不足" },
        HealthView::InProgress => Text { en: "Will finish by itself", ja: "自動で完了します" },
        HealthView::Stopped => Text { en: "Stopped by an administrator", ja: "管理者が停止" },
        HealthView::Protected => Text { en: "Failover is possible", ja: "自動で切り替えできます" },
    };
    text.in_(lang)
}

/// The word for a module: one without a second node is not protected when all is well, it runs.
pub fn module_health(lang: Lang, m: &ModuleView) -> &'static str {
    match (m.mode(), m.health) {
        (Mode::Light, HealthView::Protected) => Text { en: "Running", ja: "稼働中" }.in_(lang),
        (_, health) => health_name(lang, health),
    }
}

/// Its shape.
pub fn health_mark(health: HealthView) -> Mark {
    match health {
        HealthView::Conflict | HealthView::NotReady => Mark::NotReady,
        HealthView::NoContact => Mark::Unknown,
        HealthView::AtRisk => Mark::Warning,
        HealthView::InProgress => Mark::Transient,
        HealthView::Stopped => Mark::Stopped,
        HealthView::Protected => Mark::Ready,
    }
}

/// The sentence of a module: what is true, the consequence, the next step.
pub fn headline(lang: Lang, m: &ModuleView) -> Said {
    let said = by_health(lang, m);
    // Of the commands, one for each side, none is the module's own.
    let remedy = if m.is_split() {
        both!(
            lang,
            "Save what you need, then choose the node whose data goes on.",
            "必要なデータを退避してから、データを残すノードを選んでください。"
        )
    } else if m.is_undecided() && m.health == HealthView::NotReady {
        both!(
            lang,
            "Choose the node with the good data: it starts as primary, and its data overwrites the other copy.",
            "正しいデータがあるノードを選んでください。そのノードがプライマリになり、もう一方のデータを上書きします。"
        )
    } else {
        return said;
    };
    Said { command: None, on: None, ..said }.remedy(remedy)
}

fn by_health(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    match m.health {
        HealthView::Conflict => conflict(lang, m),
        HealthView::NotReady => not_ready(lang, m),
        HealthView::NoContact => out_of_contact(lang, m),
        HealthView::AtRisk if m.mode() == Mode::Mirror => mirror_at_risk(lang, m),
        HealthView::AtRisk if m.mode() == Mode::Light => {
            let up = up_nodes(lang, m);
            let is_failed = |c: &NodeCell| {
                let why = c.now().filter(|s| s.readiness == Readiness::NotReady).and_then(|s| s.reason.as_ref());
                why.is_some_and(|r| !r.waits_for_module() && !is_ordered(r))
            };
            if m.maintenance_until().is_some() && !m.cells.iter().any(is_failed) {
                let nodes: Vec<&str> = m.cells.iter().filter(|c| c.is_maintained()).map(|c| c.node.as_str()).collect();
                let nodes = nodes.join(Text { en: " and ", ja: " と " }.in_(lang));
                let said = Said::only(both!(lang, "{module} runs on {up}.", "{module} は {up} で稼働しています。")).then(both!(
                    lang,
                    "Under maintenance on {nodes}: it is not restarted by itself there.",
                    "{nodes} で保守モード中です。自動の再起動は行われません。"
                ));
                return with_maintenance_end(lang, m, said);
            }
            let said = Said::only(both!(
                lang,
                "{module} runs on {up}, and not on every node where it should.",
                "{module} は {up} で稼働していますが、動くべきノードの一部で動いていません。"
            ));
            match first_reason(lang, m) {
                Some(why) => Said { remedy: why.remedy.or(why.next), command: why.command, on: why.on, ..said.then(why.text) },
                None => said,
            }
        }
        HealthView::AtRisk => {
            let (up, all) = up_of(m);
            Said::only(both!(lang, "{module} runs on {up} of {all} nodes.", "{module} は {all} 台中 {up} 台で稼働しています。")).then(
                first_reason(lang, m).map_or_else(
                    || both!(lang, "The load is spread over the nodes that are left.", "負荷は残りのノードに分散されています。"),
                    |r| r.text,
                ),
            )
        }
        HealthView::InProgress => in_progress(lang, m),
        HealthView::Stopped => {
            let said = Said::only(both!(lang, "{module} is stopped on every node.", "{module} はすべてのノードで停止しています。"))
                .then(Text { en: "The service is not available.", ja: "サービスは利用できません。" }.in_(lang));
            match first_reason(lang, m) {
                Some(why) => said.remedy(why.text),
                None => said,
            }
        }
        HealthView::Protected => protected(lang, m),
    }
}

/// Why the module is not green on a node, as far as the console knows; absent where it is. The node's own line on the page
/// of the module, and its part in the API.
pub fn why(lang: Lang, module: &ModuleName, cell: &NodeCell) -> Option<Said> {
    match (cell.now(), cell.contact) {
        (Some(s), _) => reason_of(lang, s),
        (None, Contact::Connected) => Some(refusal(lang, &Refusal::NotConfigured, module, &cell.node)),
        (None, Contact::Lost { .. }) => Some(no_contact(lang, &cell.node)),
        (None, Contact::Never) => Some(never_connected(lang, &cell.node)),
    }
}

/// A node of `module` that the console does not hear.
pub fn no_contact(lang: Lang, node: &NodeName) -> Said {
    Said::only(both!(
        lang,
        "The console has no contact with {node}. What is shown is its last known state.",
        "{node} と通信できません。表示は最後に分かった状態です。"
    ))
    .then(both!(
        lang,
        "The service does not depend on the console and may well be running there.",
        "サービスはコンソールがなくても動き続けるため、稼働している可能性があります。"
    ))
    .remedy(both!(
        lang,
        "Check {node}, its agent, and the network to the console.",
        "{node} とそのエージェント、コンソールまでのネットワークを確認してください。"
    ))
}

/// A node that never connected to the console.
pub fn never_connected(lang: Lang, node: &NodeName) -> Said {
    Said::only(both!(lang, "{node} has not connected to the console yet.", "{node} はまだコンソールに接続していません。"))
        .then(both!(lang, "The configuration reaches it when it connects.", "接続すると、設定が自動で配布されます。"))
        .remedy(both!(
            lang,
            "Install its agent, enrol it and approve it on the cluster's page.",
            "エージェントを導入して登録し、クラスターのページで承認してください。"
        ))
}

/// Whether the service runs cannot be told: nobody who could is heard.
fn out_of_contact(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    if m.cells.iter().all(|c| c.contact == Contact::Never) {
        return Said::only(both!(lang, "No node of {module} has connected yet.", "{module} のノードはまだ 1 台も接続していません。"))
            .then(both!(lang, "The configuration reaches each node when it connects.", "ノードが接続すると、設定が自動で配布されます。"))
            .remedy(both!(
                lang,
                "Install the agents, enrol them and approve the nodes on the cluster's page.",
                "エージェントを導入して登録し、クラスターのページで承認してください。"
            ));
    }
    let lost: Vec<&str> = m.cells.iter().filter(|c| !c.contact.is_connected()).map(|c| c.node.as_str()).collect();
    let nodes = lost.join(Text { en: " and ", ja: " と " }.in_(lang));
    let last = m.cells.iter().find(|c| !c.contact.is_connected() && c.is_serving()).map(|c| &c.node);
    let text = if lost.len() == m.cells.len() {
        both!(lang, "The console has no contact with any node of {module}.", "{module} のどのノードとも通信できません。")
    } else {
        both!(
            lang,
            "Whether {module} is being served is not known: there is no contact with {nodes}.",
            "{nodes} と通信できないため、{module} のサービスが動いているか確認できません。"
        )
    };
    let next = match last {
        Some(node) => both!(
            lang,
            "When last heard, {node} was serving, and it goes on without the console.",
            "最後の報告では {node} でサービスが動いていました。コンソールがなくても動き続けます。"
        ),
        None => Text {
            en: "The service may well be running: it does not depend on the console.",
            ja: "サービスはコンソールがなくても動き続けるため、稼働している可能性があります。",
        }
        .in_(lang)
        .to_owned(),
    };
    Said::only(text).then(next).remedy(both!(
        lang,
        "Check {nodes}, and the network to the console.",
        "{nodes} と、コンソールまでのネットワークを確認してください。"
    ))
}

fn conflict(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    let nodes: Vec<&str> = m.cells.iter().filter(|c| c.is_serving()).map(|c| c.node.as_str()).collect();
    if nodes.len() < 2 {
        return parted(lang, m, nodes.first().copied());
    }
    let nodes = nodes.join(Text { en: " and ", ja: " と " }.in_(lang));
    Said::only(both!(lang, "{module} is serving on {nodes} at the same time.", "{module} のサービスが {nodes} で同時に動いています。"))
        .then(both!(
            lang,
            "Each node takes writes the other does not have; they cannot be merged later.",
            "それぞれに別の書き込みが入っており、後から統合することはできません。"
        ))
        .remedy(both!(
            lang,
            "Stop {module} on the node whose data you give up.",
            "データを破棄する側のノードで {module} を停止してください。"
        ))
}

/// Two histories of the data, of which one node at most serves its own.
fn parted(lang: Lang, m: &ModuleView, serving: Option<&str>) -> Said {
    let module = &m.module;
    let nodes: Vec<&str> = m.cells.iter().map(|c| c.node.as_str()).collect();
    let nodes = nodes.join(Text { en: " and ", ja: " と " }.in_(lang));
    let next = match serving {
        Some(node) => both!(
            lang,
            "{node} serves its own copy, without a backup; they are not merged, and one side's writes must be given up.",
            "{node} は自分のデータで、予備なしで稼働しています。自動では統合できず、どちらかの書き込みを破棄する必要があります。"
        ),
        None => both!(
            lang,
            "No node serves; they are not merged, and one side's writes must be given up.",
            "どのノードでもサービスは動いていません。自動では統合できず、どちらかの書き込みを破棄する必要があります。"
        ),
    };
    Said::only(both!(
        lang,
        "The data of {module} has parted: {nodes} have each written what the other does not have.",
        "{module} のデータが分かれています。{nodes} のそれぞれに、相手にはない書き込みがあります。"
    ))
    .then(next)
}

fn not_ready(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    let why = first_reason(lang, m);
    let mut said = Said::only(both!(lang, "{module} is not serving on any node.", "{module} のサービスはどのノードでも動いていません。"));
    match why {
        Some(why) => {
            said.next = Some(why.text);
            said.remedy = why.remedy.or(why.next);
            said.command = why.command;
            said.on = why.on;
        }
        None => said.next = Some(Text { en: "The service is not available.", ja: "サービスは利用できません。" }.in_(lang).to_owned()),
    }
    said
}

fn mirror_at_risk(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    let Some(serving) = m.serving() else { return not_ready(lang, m) };
    let node = &serving.node;
    let consequence = both!(lang, "If {node} stops now, the service stops too.", "今 {node} が止まるとサービスも止まります。");
    let state = serving.snapshot.as_ref();
    if state.is_some_and(|s| s.state == State::Prim && s.replication == Replication::Stalled) {
        return Said::only(both!(lang, "Writes of {module} on {node} are waiting.", "{node} の {module} は書き込みを待たせています。"))
            .then(both!(
                lang,
                "The other node does not answer; they go on once the arbiter has decided.",
                "もう一方のノードと通信できません。アービターの判断後に自動で再開します。"
            ));
    }
    if state.is_some_and(|s| s.state == State::Prim) && state.is_some_and(|s| s.arbiter == ArbiterView::Unreachable) {
        return Said::only(both!(
            lang,
            "{module} runs on {node}; its data is on both nodes, but no arbiter is reachable.",
            "{module} は {node} で稼働し、データは両ノードにありますが、アービターと通信できません。"
        ))
        .then(both!(
            lang,
            "Automatic failover is off until an arbiter is reachable again.",
            "通信が戻るまで、自動フェイルオーバーは無効です。"
        ))
        .remedy(check_arbiter(lang, &state.map(|s| s.authority.clone()).unwrap_or_default(), node.as_str()));
    }
    if state.is_some_and(|s| s.state == State::Prim) {
        let said = Said::only(both!(
            lang,
            "{module} runs on {node} with a backup, but its protection is reduced.",
            "{module} は予備つきで {node} で稼働していますが、保護が弱まっています。"
        ))
        .then(weakness(lang, m, serving));
        return with_maintenance_end(lang, m, said);
    }
    let text = both!(lang, "{module} runs on one node only ({node}).", "{module} は 1 台だけで稼働しています（{node}）。");
    let said = Said::only(text).then(consequence);
    match m.other_than(node) {
        Some(other) => said.remedy(missing_backup(lang, m, other)),
        None => said,
    }
}

/// What ends a maintenance before its time, where there is one.
fn with_maintenance_end(lang: Lang, m: &ModuleView, said: Said) -> Said {
    if m.maintenance_until().is_none() {
        return said;
    }
    said.remedy(both!(
        lang,
        "The maintenance ends by itself; to let the module act now, end it.",
        "保守モードは自動で終わります。すぐに戻すには、保守モードを終了してください。"
    ))
}

/// Why a PRIM with its SECOND is yet at risk.
fn weakness(lang: Lang, m: &ModuleView, serving: &NodeCell) -> String {
    let lost = m.cells.iter().filter_map(|c| c.now()).flat_map(|s| &s.peer.networks).find(|n| !n.is_up);
    if m.def.as_ref().is_some_and(|d| !d.is_failover_on) {
        return Text {
            en: "Automatic failover is switched off in the configuration.",
            ja: "設定で自動フェイルオーバーが無効になっています。",
        }
        .in_(lang)
        .to_owned();
    }
    let kind = m.cells.iter().find_map(NodeCell::now).map(|s| s.authority.kind);
    if kind == Some(Authority::Manual) {
        let node = &serving.node;
        return both!(
            lang,
            "If {node} stops, nothing takes over until a person decides (authority manual).",
            "{node} が止まっても、管理者が判断するまで引き継ぎは行われません（authority manual）。"
        );
    }
    if let Some(maintenance) = maintenance(lang, m, serving) {
        return maintenance;
    }
    match lost {
        Some(network) => {
            let lan = &network.lan;
            both!(lang, "The heartbeat network {lan} is down.", "ハートビート経路 {lan} が切れています。")
        }
        None if kind.is_some_and(Authority::may_split) => Text {
            en: "Without an arbiter both nodes may serve at once, and confirmed writes can be lost.",
            ja: "アービターがないため、両方のノードが同時にサービスを提供し、完了した書き込みが失われることがあります。",
        }
        .in_(lang)
        .to_owned(),
        None => Text {
            en: "Writes do not reach the other node at the moment.", ja: "現在、書き込みがもう一方のノードに届いていません。"
        }
        .in_(lang)
        .to_owned(),
    }
}

/// What the maintenance of a pair keeps from happening: it is each node's own, and that of the follower is what holds a
/// takeover back.
fn maintenance(lang: Lang, m: &ModuleView, serving: &NodeCell) -> Option<String> {
    let prim = &serving.node;
    if let Some(second) = m.other_than(prim).filter(|c| c.is_maintained()) {
        let second = &second.node;
        return Some(both!(
            lang,
            "Under maintenance: if {prim} stops, {second} does not take over until the maintenance ends.",
            "保守モード中です。{prim} が止まっても、保守が終わるまで {second} は引き継ぎません。"
        ));
    }
    serving.is_maintained().then(|| {
        both!(
            lang,
            "{prim} is under maintenance: it restarts nothing by itself; if it stops, the other node still takes over.",
            "{prim} は保守モード中で、自動の再起動を行いません。{prim} が止まった場合は、もう一方のノードが引き継ぎます。"
        )
    })
}

/// Why the backup of an ALONE node is missing, and the way to get it back.
fn missing_backup(lang: Lang, m: &ModuleView, other: &NodeCell) -> String {
    let node = &other.node;
    match (&other.contact, &other.snapshot) {
        (Contact::Lost { .. } | Contact::Never, _) => {
            both!(
                lang,
                "There is no contact with {node}: start it, or repair its network. It is brought up to date by itself.",
                "{node} と通信できません。起動するかネットワークを復旧すると、データは自動で最新になります。"
            )
        }
        (Contact::Connected, Some(s)) if s.state == State::Stop => {
            both!(lang, "Start {node}: it is brought up to date by itself.", "{node} を起動してください。データは自動で最新になります。")
        }
        (Contact::Connected, Some(s)) => match &s.reason {
            Some(why) => reason(lang, why, &m.module, node).text,
            None => both!(lang, "{node} is not following yet.", "{node} はまだセカンダリになっていません。"),
        },
        (Contact::Connected, None) => {
            both!(lang, "The module is not set up on {node} yet.", "{node} にはまだモジュールが設定されていません。")
        }
    }
}

fn in_progress(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    if let (Some(target), Some(serving)) = (m.resyncing(), m.serving()) {
        let (to, from) = (&target.node, &serving.node);
        if let Some(r) = target.snapshot.as_ref().and_then(|s| s.resync.as_ref()) {
            let percent = fmt::percent(r.bytes_done, r.bytes_total);
            let left = fmt::left(lang, r.bytes_total.saturating_sub(r.bytes_done), r.rate);
            let next = match left {
                Some(left) => both!(
                    lang,
                    "Automatic failover is not possible until this finishes. Nothing to do — {left}.",
                    "完了するまで自動フェイルオーバーはできません。操作は不要です（{left}）。"
                ),
                None => both!(
                    lang,
                    "Automatic failover is not possible until this finishes. Nothing to do.",
                    "完了するまで自動フェイルオーバーはできません。操作は不要です。"
                ),
            };
            return Said::only(both!(
                lang,
                "{module} runs on {from}. Data is being copied to {to} ({percent}%).",
                "{module} は {from} で稼働中です。{to} へデータを再同期しています（{percent}%）。"
            ))
            .then(next);
        }
    }
    let why = m.cells.iter().find_map(|c| {
        let s = c.now().filter(|s| s.readiness == Readiness::Transient)?;
        Some((c, s))
    });
    match why {
        Some((cell, s)) => match &s.reason {
            Some(r) => reason(lang, r, module, &cell.node),
            None => {
                let node = &cell.node;
                Said::only(both!(lang, "{module} is changing its state on {node}.", "{node} で {module} の状態を切り替えています。"))
                    .then(Text { en: "This ends by itself.", ja: "自動で完了します。" }.in_(lang))
            }
        },
        None => Said::only(both!(lang, "A change of {module} is under way.", "{module} の処理を進めています。"))
            .then(Text { en: "This ends by itself.", ja: "自動で完了します。" }.in_(lang)),
    }
}

fn protected(lang: Lang, m: &ModuleView) -> Said {
    let module = &m.module;
    match m.mode() {
        Mode::Mirror => {
            let prim = m.serving().map_or("—", |c| c.node.as_str());
            let second = m.cells.iter().find(|c| c.node.as_str() != prim).map_or("—", |c| c.node.as_str());
            Said::only(both!(
                lang,
                "{module} runs on {prim}, and {second} holds the same data.",
                "{module} は {prim} で稼働し、{second} に同じデータがあります。"
            ))
            .then(m.serving().and_then(|c| maintenance(lang, m, c)).unwrap_or_else(|| {
                both!(lang, "If {prim} stops, {second} takes over by itself.", "{prim} が止まると、{second} が自動で引き継ぎます。")
            }))
        }
        Mode::Farm => {
            let (up, _) = up_of(m);
            Said::only(both!(lang, "{module} runs on all {up} nodes.", "{module} は {up} 台すべてで稼働しています。")).then(both!(
                lang,
                "If one stops, the others share its load.",
                "1 台が止まっても、残りのノードが負荷を引き受けます。"
            ))
        }
        Mode::Light => {
            let up = up_nodes(lang, m);
            Said::only(both!(lang, "{module} runs on {up}.", "{module} は {up} で稼働しています。")).then(both!(
                lang,
                "If it fails, it is restarted in place; no other node takes a light module over.",
                "異常があればその場で再起動します。ライトモジュールは他のノードに引き継がれません。"
            ))
        }
    }
}

/// It is down because somebody wanted it so.
fn is_ordered(reason: &Reason) -> bool {
    match reason {
        Reason::NeverStarted => true,
        Reason::StoppedBy { by } => checker_of(by).is_none(),
        _ => false,
    }
}

/// Nodes on which it is up: `n1 and n2`.
fn up_nodes(lang: Lang, m: &ModuleView) -> String {
    let up: Vec<&str> = m.cells.iter().filter(|c| c.is(State::Up, Readiness::Ready)).map(|c| c.node.as_str()).collect();
    if up.is_empty() { "—".to_owned() } else { up.join(Text { en: " and ", ja: " と " }.in_(lang)) }
}

fn up_of(m: &ModuleView) -> (usize, usize) {
    (m.cells.iter().filter(|c| c.is(State::Up, Readiness::Ready)).count(), m.cells.len())
}

/// The first reason a red node gives; a node that is blocked before one that was stopped.
fn first_reason(lang: Lang, m: &ModuleView) -> Option<Said> {
    let said = |c: &NodeCell| {
        let s = c.now()?;
        (s.readiness == Readiness::NotReady).then_some(())?;
        reason_of(lang, s)
    };
    // A light module that waits for another one is as it should be: that one may serve elsewhere.
    let is_calm = |c: &&NodeCell| m.mode() == Mode::Light && c.now().and_then(|s| s.reason.as_ref()).is_some_and(Reason::waits_for_module);
    let is_down = |c: &&NodeCell| c.now().is_some_and(|s| s.state != State::Stop || s.reason.as_ref().is_some_and(|r| !is_ordered(r)));
    let blocked = m.cells.iter().filter(|c| !is_calm(c) && is_down(c)).find_map(said);
    blocked.or_else(|| m.cells.iter().find_map(said))
}

/// Whether a module belongs on the list of what needs a person.
pub fn attention(health: HealthView) -> bool {
    !matches!(health, HealthView::Protected | HealthView::InProgress)
}
