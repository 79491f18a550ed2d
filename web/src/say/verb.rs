//! Orders and refusals.

use super::Said;
use crate::both;
use crate::text::{Lang, Text};
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::ids::{ModuleName, NodeName};

/// Name of an order, as on a button: a verb in English, a noun in Japanese.
pub fn verb_name(lang: Lang, verb: &Verb) -> &'static str {
    let text = match verb {
        Verb::Start => Text { en: "Start", ja: "起動" },
        Verb::Stop => Text { en: "Stop", ja: "停止" },
        Verb::Restart => Text { en: "Restart", ja: "再起動" },
        Verb::Swap => Text { en: "Swap", ja: "切り替え" },
        Verb::StopStart => Text { en: "Stop and start", ja: "停止して起動" },
        Verb::Prim { accept_loss: false } => Text { en: "Force primary", ja: "プライマリとして強制起動" },
        Verb::Prim { accept_loss: true } => {
            Text { en: "Force primary, accept loss", ja: "データ損失を承知でプライマリとして強制起動" }
        }
        Verb::PrimForce => {
            Text { en: "Force primary on incomplete data", ja: "不完全なデータでプライマリとして強制起動" }
        }
        Verb::Second { full_sync: false } => Text { en: "Force secondary", ja: "セカンダリとして強制起動" },
        Verb::Second { full_sync: true } => {
            Text { en: "Force secondary, full copy", ja: "セカンダリとして強制起動（全体コピー）" }
        }
        Verb::Resolve { .. } => Text { en: "Resolve split brain", ja: "スプリットブレインの解決" },
        Verb::Maintenance { minutes: 0 } => Text { en: "End maintenance", ja: "保守モードの終了" },
        Verb::Maintenance { .. } => Text { en: "Maintenance", ja: "保守モード" },
        Verb::Verify => Text { en: "Verify", ja: "データの照合" },
    };
    text.in_(lang)
}

/// "start", as the object of a sentence about an order that was given ("sato ordered …").
pub fn verb_done(lang: Lang, verb: &Verb) -> String {
    match lang {
        Lang::En => verb_name(lang, verb).to_lowercase(),
        Lang::Ja => verb_name(lang, verb).to_owned(),
    }
}

/// The order as an exact command line, to be run on the node it concerns.
pub fn command_line(verb: &Verb, module: &ModuleName) -> String {
    let option = match verb {
        Verb::Prim { accept_loss: true } => " --accept-loss".to_owned(),
        Verb::Second { full_sync: true } => " --full-sync".to_owned(),
        Verb::Resolve { keep } => format!(" --keep {keep}"),
        Verb::Maintenance { minutes: 0 } => " off".to_owned(),
        Verb::Maintenance { minutes } => format!(" on --minutes {minutes}"),
        _ => String::new(),
    };
    format!("tsugi {} {module}{option}", verb.word())
}

/// Why an order is not carried out now, and what would make it possible.
pub fn refusal(lang: Lang, refusal: &Refusal, module: &ModuleName, node: &NodeName) -> Said {
    match refusal {
        Refusal::AlreadyStarted => Said::only(both!(lang, "{module} is already running on {node}.", "{module} は {node} ですでに動いています。")),
        Refusal::AlreadyStopped => Said::only(both!(lang, "{module} is already stopped on {node}.", "{module} は {node} ですでに停止しています。")),
        Refusal::Busy => Said::only(both!(
            lang,
            "Another change of {module} is under way on {node}.",
            "{node} では {module} の別の処理が進んでいます。"
        ))
        .then(both!(lang, "Try again when it has finished.", "終わってからもう一度実行してください。")),
        Refusal::NotServing => Said::only(both!(lang, "{module} is not serving on {node}.", "{node} では {module} のサービスが動いていません。"))
            .remedy(both!(lang, "Give this order to the node that serves.", "サービスが動いているノードに対して実行してください。")),
        Refusal::NotProtected => Said::only(both!(
            lang,
            "{module} has no secondary that is up to date.",
            "{module} には最新データを持つセカンダリがありません。"
        ))
        .then(both!(
            lang,
            "It becomes possible when the secondary is running and its resync has finished.",
            "セカンダリが動いていて再同期が終わると、実行できます。"
        )),
        Refusal::PeerServes { peer } => {
            Said::only(both!(lang, "{peer} is already serving {module}.", "{module} のサービスはすでに {peer} で動いています。"))
                .remedy(both!(
                    lang,
                    "Start {module} on {node} as usual: it becomes the secondary. To move the service, swap.",
                    "{node} では通常どおり起動してください（セカンダリになります）。サービスを移すには「切り替え」を使ってください。"
                ))
                .command_on(node, command_line(&Verb::Start, module))
        }
        Refusal::PeerDoesNotServe => Said::only(both!(
            lang,
            "The other node is not serving {module}, so there is nothing to copy from.",
            "もう一方のノードで {module} のサービスが動いていないため、コピー元がありません。"
        ))
        .remedy(both!(lang, "Start the other node first.", "先にもう一方のノードを起動してください。"))
        .command(command_line(&Verb::Start, module)),
        Refusal::NeedsAcceptLoss => Said::only(both!(
            lang,
            "The data of {module} on {node} is not known to be the newest.",
            "{node} にある {module} のデータが最新かどうか分かりません。"
        ))
        .then(both!(
            lang,
            "Serving it may discard what was written on the other node since.",
            "このまま起動すると、その後にもう一方のノードへ書き込まれたデータを失うことがあります。"
        ))
        .remedy(both!(lang, "Start the other node, or accept the loss.", "もう一方のノードを起動するか、損失を承知のうえで実行してください。"))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Refusal::HalfSynced => Said::only(both!(
            lang,
            "The copy of {module} on {node} is incomplete: its resync did not finish.",
            "{node} の {module} のデータは再同期が途中で止まっていて、不完全です。"
        ))
        .then(both!(lang, "It is not served unless you force it.", "強制しないかぎり、このデータでは起動しません。"))
        .remedy(both!(
            lang,
            "Start the node it was copied from. Only if that node is lost for good, force this copy; files may be damaged.",
            "コピー元のノードを起動してください。そのノードを復旧できない場合に限り、このデータで強制起動できます。ファイルが壊れていることがあります。"
        ))
        .command_on(node, command_line(&Verb::PrimForce, module)),
        Refusal::NoSuchRole => Said::only(both!(
            lang,
            "{module} has no primary or secondary: only mirror modules do.",
            "{module} にはプライマリとセカンダリの役割がありません（ミラーモジュールだけの操作です）。"
        )),
        Refusal::NotConfigured => Said::only(both!(lang, "{module} is not set up on {node}.", "{node} には {module} が設定されていません。"))
            .remedy(both!(lang, "Apply the module's configuration first.", "先にモジュールの設定を適用してください。")),
        Refusal::MustBeStopped => Said::only(both!(
            lang,
            "{module} must be stopped on {node} before this order.",
            "この操作の前に、{node} の {module} を停止してください。"
        ))
        .command_on(node, command_line(&Verb::Stop, module)),
        Refusal::NoSplitBrain => Said::only(both!(
            lang,
            "There is no split brain of {module} to resolve on {node}.",
            "{node} の {module} には、解決すべきスプリットブレインがありません。"
        )),
        Refusal::NoSuchNode { node: named } => Said::only(both!(
            lang,
            "{named} is not a node of {module}.",
            "{named} は {module} のノードではありません。"
        ))
        .remedy(both!(lang, "Name one of the two nodes of {module}.", "{module} の 2 台のノードのどちらかを指定してください。")),
        Refusal::BadDuration { minutes } => Said::only(both!(
            lang,
            "{minutes} min is too long for a maintenance.",
            "保守モードに {minutes} 分は長すぎます。"
        ))
        .remedy(both!(lang, "Give 1 to 1440 minutes (a day).", "1～1440 分（1 日）で指定してください。")),
        Refusal::Maintained => Said::only(both!(
            lang,
            "{module} on {node} is under maintenance: no checker or script restarts it.",
            "{node} の {module} は保守モードのため、チェッカーやスクリプトによる再起動は行いません。"
        ))
        .then(both!(
            lang,
            "It becomes possible when the maintenance time is over.",
            "保守時間が過ぎると可能になります。"
        )),
        Refusal::NoContact => Said::only(both!(
            lang,
            "The console has no contact with {node}, so the order cannot be delivered.",
            "コンソールが {node} と通信できないため、操作を伝えられません。"
        ))
        .then(both!(
            lang,
            "The service itself does not depend on the console.",
            "サービス自体はコンソールがなくても動き続けます。"
        ))
        .remedy(both!(
            lang,
            "Check the node and its agent, or run the command on {node} itself.",
            "ノードとそのエージェントを確認するか、{node} 上で直接コマンドを実行してください。"
        )),
    }
}
