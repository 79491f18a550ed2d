//! States, readiness, data, replication, arbiter: the words beside the shapes.

use super::Mark;
use crate::both;
use crate::fleet::{Contact, NodeCell};
use crate::text::{Lang, Text};
use tsugi_core::module::{Action, Mode, ScriptName};
use tsugi_core::state::{ArbiterView, Flag, Health, Readiness, Reason, Replication, Snapshot, State};

/// `Mirror` / `ミラー`.
pub fn mode(lang: Lang, mode: Mode) -> &'static str {
    let text = match mode {
        Mode::Mirror => Text { en: "Mirror", ja: "ミラー" },
        Mode::Farm => Text { en: "Farm", ja: "ファーム" },
        Mode::Light => Text { en: "Light", ja: "ライト" },
    };
    text.in_(lang)
}

/// The word beside the state's capitals (`PRIM` primary, `SECOND` resync).
pub fn gloss(lang: Lang, state: State, readiness: Readiness, reason: Option<&Reason>) -> &'static str {
    let text = match (state, readiness) {
        (State::Prim, Readiness::Ready) => Text { en: "primary", ja: "プライマリ" },
        (State::Second, Readiness::Ready) => Text { en: "secondary", ja: "セカンダリ" },
        (State::Alone, Readiness::Ready) => Text { en: "no backup", ja: "単独" },
        (State::Up, Readiness::Ready) => Text { en: "active", ja: "稼働" },
        (State::Second, Readiness::Transient) => match reason {
            Some(Reason::Starting | Reason::NoArbiter) => Text { en: "taking over", ja: "引き継ぎ処理中" },
            _ => Text { en: "resync", ja: "再同期" },
        },
        (State::Prim | State::Alone | State::Up, Readiness::Transient) => match reason {
            Some(Reason::Stopping) => Text { en: "stopping", ja: "停止処理中" },
            Some(Reason::HandOver { .. }) => Text { en: "handing over", ja: "切り替え中" },
            _ => Text { en: "starting", ja: "起動処理中" },
        },
        (State::Wait, Readiness::Transient) => match reason {
            Some(Reason::Stopping) => Text { en: "stopping", ja: "停止中" },
            _ => Text { en: "starting", ja: "起動中" },
        },
        (State::Wait, _) => Text { en: "blocked", ja: "待機（要対応）" },
        (State::Stop, Readiness::Transient) => Text { en: "stopping", ja: "停止中" },
        (State::Stop, _) => Text { en: "stopped", ja: "停止" },
        (State::Prim | State::Alone | State::Up, Readiness::NotReady) => Text { en: "not serving", ja: "サービス停止" },
        (State::Second, Readiness::NotReady) => Text { en: "not following", ja: "複製停止" },
    };
    text.in_(lang)
}

/// Green, magenta, red as a word, for legends and for readers of text.
pub fn readiness(lang: Lang, readiness: Readiness) -> &'static str {
    let text = match readiness {
        Readiness::Ready => Text { en: "Ready", ja: "正常" },
        Readiness::Transient => Text { en: "In progress", ja: "処理中" },
        Readiness::NotReady => Text { en: "Not ready", ja: "停止・要対応" },
    };
    text.in_(lang)
}

/// The shape of a state.
pub fn mark(state: State, readiness: Readiness) -> Mark {
    match (state, readiness) {
        (_, Readiness::Transient) => Mark::Transient,
        (State::Second, Readiness::Ready) => Mark::Standby,
        (_, Readiness::Ready) => Mark::Ready,
        (State::Stop, Readiness::NotReady) => Mark::Stopped,
        (_, Readiness::NotReady) => Mark::NotReady,
    }
}

/// A state as it is shown: shape, word, fill, gloss, chips. Solid = the application runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pill {
    /// Shape.
    pub mark: Mark,
    /// `PRIM`, …; the word for "unknown" when the node is not heard; a dash when not set up.
    pub word: String,
    /// Gloss beside it.
    pub gloss: String,
    /// Filled with the state's colour: the application runs here.
    pub is_solid: bool,
    /// Amber triangle: runs without a backup.
    pub is_unprotected: bool,
    /// Red chip: writes go to this node only although it has a secondary.
    pub degraded: Option<String>,
    /// The module is not set up on this node: a dash instead of a pill.
    pub is_absent: bool,
}

/// The pill of a module on a node.
pub fn pill(lang: Lang, cell: &NodeCell) -> Pill {
    match (&cell.snapshot, cell.contact) {
        (_, Contact::Lost { .. } | Contact::Never) => Pill {
            mark: Mark::Unknown,
            word: Text { en: "Unknown", ja: "不明" }.in_(lang).to_owned(),
            gloss: match cell.contact {
                Contact::Never => Text { en: "never connected", ja: "未接続" }.in_(lang).to_owned(),
                _ => Text { en: "no contact", ja: "通信なし" }.in_(lang).to_owned(),
            },
            is_solid: false,
            is_unprotected: false,
            degraded: None,
            is_absent: false,
        },
        (None, Contact::Connected) => Pill {
            mark: Mark::Unknown,
            word: "—".to_owned(),
            gloss: Text { en: "not set up", ja: "未設定" }.in_(lang).to_owned(),
            is_solid: false,
            is_unprotected: false,
            degraded: None,
            is_absent: true,
        },
        (Some(s), Contact::Connected) => {
            let is_ready = s.readiness == Readiness::Ready;
            Pill {
                mark: mark(s.state, s.readiness),
                word: s.state.word().to_owned(),
                gloss: gloss(lang, s.state, s.readiness, s.reason.as_ref()).to_owned(),
                is_solid: is_ready && s.state.is_serving(),
                is_unprotected: is_ready && s.state == State::Alone,
                degraded: is_degraded(s).then(|| Text { en: "not replicating", ja: "複製停止" }.in_(lang).to_owned()),
                is_absent: false,
            }
        }
    }
}

/// A primary whose writes do not reach its secondary.
fn is_degraded(s: &Snapshot) -> bool {
    s.state == State::Prim && s.readiness == Readiness::Ready && matches!(s.replication, Replication::Off | Replication::Stalled)
}

/// What a node knows of its own copy.
pub fn flag(lang: Lang, flag: Flag) -> &'static str {
    let text = match flag {
        Flag::Unknown => Text { en: "never synchronised", ja: "未同期" },
        Flag::Inconsistent => Text { en: "incomplete until a resync is done", ja: "不完全（再同期が完了するまで）" },
        Flag::Stale => Text { en: "outdated", ja: "古いデータ" },
        Flag::Volatile => Text { en: "up to date (in memory)", ja: "最新（メモリ上）" },
        Flag::UpToDate => Text { en: "up to date", ja: "最新" },
    };
    text.in_(lang)
}

/// How writes travel now.
pub fn replication(lang: Lang, replication: Replication) -> &'static str {
    let text = match replication {
        Replication::None => Text { en: "nothing is replicated", ja: "複製なし" },
        Replication::Off => Text { en: "writes go to one node only", ja: "1 台だけに書き込み中" },
        Replication::Resync => Text { en: "resync in progress", ja: "再同期中" },
        Replication::Synchronous => Text { en: "synchronous", ja: "同期レプリケーション" },
        Replication::Stalled => Text { en: "writes are waiting", ja: "書き込み待ち" },
    };
    text.in_(lang)
}

/// The arbiter as one node sees it. `None` when there is nothing to say.
pub fn arbiter(lang: Lang, view: &ArbiterView) -> Option<&'static str> {
    let text = match view {
        ArbiterView::NotNeeded => return None,
        ArbiterView::Unknown => Text { en: "arbiter not asked yet", ja: "アービターには未確認です" },
        ArbiterView::Reachable => Text { en: "arbiter reachable", ja: "アービターと通信できます" },
        ArbiterView::Unreachable => Text {
            en: "no arbiter reachable: automatic failover is off",
            ja: "アービターと通信できません：自動フェイルオーバーは無効です",
        },
    };
    Some(text.in_(lang))
}

/// A resource's health, with the shape beside it.
pub fn resource_health(lang: Lang, health: Health) -> (Mark, &'static str) {
    let (mark, text) = match health {
        Health::Init => (Mark::Unknown, Text { en: "not known yet", ja: "未確認" }),
        Health::Up => (Mark::Ready, Text { en: "OK", ja: "正常" }),
        Health::Down => (Mark::NotReady, Text { en: "down", ja: "異常" }),
        Health::Off => (Mark::Stopped, Text { en: "not checked here", ja: "対象外" }),
    };
    (mark, text.in_(lang))
}

/// What happens when a resource goes down.
pub fn action(lang: Lang, action: Action) -> &'static str {
    let text = match action {
        Action::NoAction => Text { en: "shown only", ja: "表示のみ" },
        Action::Wait => Text { en: "module waits", ja: "復旧まで待機" },
        Action::Restart => Text { en: "restart in place", ja: "その場で再起動" },
        Action::StopStart => Text { en: "fail over (stop and start)", ja: "フェイルオーバー（停止して起動）" },
        Action::Stop => Text { en: "module stops", ja: "モジュールを停止" },
    };
    text.in_(lang)
}

/// A script with its file name.
pub fn script(lang: Lang, script: ScriptName) -> String {
    let file = script.file();
    both!(lang, "script {file}", "スクリプト {file}")
}
