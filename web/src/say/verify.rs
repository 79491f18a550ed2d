//! Comparison of the two copies, worded.

use super::Said;
use crate::both;
use crate::fmt;
use crate::text::{Lang, Text};
use tsugi_core::command::Verb;
use tsugi_core::copies::{Difference, DifferenceKind, VerifyEnd, Verifying};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::state::{LastVerification, RepairWait, Snapshot};

/// How a comparison of `module`, begun on `node`, ended. `first`: of what differs.
pub fn verified(
    lang: Lang,
    (module, node): (&ModuleName, &NodeName),
    done: &Verifying,
    millis: u64,
    first: &[Difference],
    end: &VerifyEnd,
) -> Said {
    let (took, n) = (fmt::duration(lang, millis), fmt::count(done.differences));
    let compared = compared(lang, done);
    let names = first.iter().map(|d| difference(lang, d)).collect::<Vec<_>>().join(", ");
    let repaired = || {
        both!(
            lang,
            "They are copied again from the node that serves, as soon as it may be without the other one for a moment: {names}.",
            "サービス中のノードが一時的に単独になれる状態であれば、そのデータで再同期します：{names}。"
        )
    };
    match end {
        VerifyEnd::Whole if done.differences == 0 => Said::only(both!(
            lang,
            "{module} on {node}: the two copies are the same ({compared}, {took}).",
            "{node} の {module}：2 つのコピーは一致しています（{compared}、{took}）。"
        )),
        VerifyEnd::Whole => Said::only(both!(
            lang,
            "{module} on {node}: differences between the two copies: {n} ({compared}, {took}).",
            "{node} の {module}：2 つのコピーに {n} 件の違いがあります（{compared}、{took}）。"
        ))
        .then(repaired()),
        VerifyEnd::Early => Said::only(both!(
            lang,
            "{module} on {node}: differences between the two copies so far: {n}; not everything was compared yet ({compared}).",
            "{node} の {module}：2 つのコピーに {n} 件の違いがあります。照合は途中です（{compared}）。"
        ))
        .then(repaired())
        .remedy(both!(lang, "Verify again once the secondary is level.", "再同期が終わったら、もう一度照合してください。")),
        VerifyEnd::Failed { detail } => {
            let said = Said::only(both!(
                lang,
                "{module} on {node}: the comparison of the two copies ended early: {detail} ({compared}).",
                "{node} の {module}：2 つのコピーの照合が途中で終わりました：{detail}（{compared}）。"
            ));
            if done.differences == 0 { said } else { said.then(repaired()) }
        }
    }
}

/// Of a node that serves and knows of differences: how many, when they are repaired, and what a person can do.
pub fn unrepaired(lang: Lang, s: &Snapshot) -> Option<Said> {
    let (module, n) = (&s.module, fmt::count(s.verification.unrepaired));
    if s.verification.unrepaired == 0 || s.verification.running.is_some() {
        return None;
    }
    let said = Said::only(both!(
        lang,
        "Differences between the two copies of {module} that are not repaired yet: {n}.",
        "{module} の 2 つのコピーに、まだ修復していない違いが {n} 件あります。"
    ));
    let next = match s.repair_wait() {
        None => {
            Text { en: "They are copied again from this node now.", ja: "このノードのデータで再同期するところです。" }
        }
        Some(RepairWait::Peer) => Text {
            en: "They are copied again when the secondary is brought level.",
            ja: "セカンダリの再同期で修復します。",
        },
        Some(RepairWait::Maintenance) => Text {
            en: "They are copied again when the maintenance is over. Do not swap until then.",
            ja: "保守モードが終わると修復します。それまでは切り替えないでください。",
        },
        Some(RepairWait::Arbiter) => Text {
            en: "They are copied again once the arbiter answers. Do not swap until then.",
            ja: "アービターが応答すると修復します。それまでは切り替えないでください。",
        },
        Some(RepairWait::Person) => Text {
            en: "They are copied again when the secondary is restarted. Do not swap until then.",
            ja: "セカンダリを再起動すると修復します。それまでは切り替えないでください。",
        },
    };
    let said = said.then(next.in_(lang));
    let is_for_a_person = s.repair_wait() == Some(RepairWait::Person);
    Some(match s.peer.node.as_ref().filter(|_| is_for_a_person) {
        Some(peer) => said.command_on(peer, super::command_line(&Verb::StopStart, module)),
        None => said,
    })
}

/// How far it came.
pub fn compared(lang: Lang, done: &Verifying) -> String {
    let (files, bytes) = (fmt::count(done.files), fmt::bytes(done.bytes));
    both!(lang, "{files} files, {bytes}", "{files} ファイル、{bytes}")
}

/// A path, and what of it differs.
pub fn difference(lang: Lang, difference: &Difference) -> String {
    let (path, what) = (&difference.path, kind(lang, &difference.kind));
    both!(lang, "{path} ({what})", "{path}（{what}）")
}

/// What differs.
pub fn kind(lang: Lang, kind: &DifferenceKind) -> String {
    let text = match kind {
        DifferenceKind::Contents { bytes } => {
            let bytes = fmt::bytes(*bytes);
            return both!(lang, "contents, up to {bytes}", "内容、最大 {bytes}");
        }
        DifferenceKind::Attributes => Text { en: "attributes or size", ja: "属性またはサイズ" },
        DifferenceKind::Missing => Text { en: "missing on the secondary", ja: "セカンダリにない" },
        DifferenceKind::Extra => Text { en: "only on the secondary", ja: "セカンダリにだけある" },
        DifferenceKind::Unreadable { detail } => {
            return both!(lang, "cannot be read on the secondary: {detail}", "セカンダリで読み取れない：{detail}");
        }
    };
    text.in_(lang).to_owned()
}

/// The last one in a few words, as of now.
pub fn last(lang: Lang, last: &LastVerification, now_unix_ms: u64) -> String {
    let (ago, n) = (fmt::ago(lang, last.at_unix_ms, now_unix_ms), fmt::count(last.verified.done.differences));
    match (&last.verified.end, last.verified.done.differences) {
        (VerifyEnd::Whole, 0) => both!(lang, "no differences, {ago}", "違いなし、{ago}"),
        (VerifyEnd::Failed { .. }, 0) => both!(lang, "did not finish, {ago}", "未完了、{ago}"),
        _ => both!(lang, "differences found: {n}, {ago}", "{n} 件の違いを検出、{ago}"),
    }
}
