//! What an order would do (`--dry-run`), a line per step.

use super::gloss;
use crate::both;
use crate::text::Lang;
use tsugi_core::ids::NodeName;
use tsugi_core::rehearsal::Rehearsed;

/// Words one step of a rehearsal.
pub fn rehearsed(lang: Lang, step: &Rehearsed) -> String {
    match step {
        Rehearsed::Script { script: name, forced } => {
            let file = name.file();
            match forced {
                true => {
                    both!(lang, "run the script {file} again, with the argument force", "スクリプト {file} を引数 force でもう一度実行")
                }
                false => both!(lang, "run the script {file}", "スクリプト {file} を実行"),
            }
        }
        Rehearsed::Kill => both!(lang, "end what is left of the application", "残っているアプリケーションのプロセスを終了"),
        Rehearsed::RaiseVips => both!(lang, "set the virtual IP addresses", "仮想 IP アドレスを設定"),
        Rehearsed::DropVips => both!(lang, "remove the virtual IP addresses", "仮想 IP アドレスを解除"),
        Rehearsed::Serve => both!(lang, "open the replicated directories for writing", "複製するディレクトリを書き込み可能にする"),
        Rehearsed::Release => both!(
            lang,
            "write everything out, close the directories and give the role to the other node",
            "すべて書き出してディレクトリを閉じ、もう一方のノードに役割を渡す"
        ),
        Rehearsed::Abandon => both!(
            lang,
            "close the directories at once; writes that are not confirmed fail",
            "ディレクトリをすぐに閉じる（未確定の書き込みは失敗する）"
        ),
        Rehearsed::CloseSession => both!(lang, "end the replication", "レプリケーションを終了"),
        Rehearsed::Follow => both!(
            lang,
            "take the data of the other node; what is only here is discarded",
            "もう一方のノードのデータを取り込む（このノードだけにあるデータは破棄）"
        ),
        Rehearsed::Claim => both!(lang, "ask the arbiter for the right to serve", "アービターに稼働の権利を要求"),
        Rehearsed::Force => both!(lang, "override the arbiter's record", "アービターの記録を上書き"),
        Rehearsed::Enter { state, readiness, reason } => {
            let (word, gloss) = (state.word(), gloss(lang, *state, *readiness, reason.as_ref()));
            both!(lang, "→ {word} ({gloss})", "→ {word}（{gloss}）")
        }
    }
}

/// A node did not say in time what it would do.
pub fn not_rehearsed(lang: Lang, node: &NodeName) -> String {
    both!(
        lang,
        "{node} did not say in time what it would do; it decides when it gets the order.",
        "{node} から実行内容の回答がありませんでした。可否は操作を受け取った時点で判断されます。"
    )
}
