//! Sentences of the domain in both languages at once, by way of `tsugi_web::say`.

use crate::actions::{Note, Operation, Progress};
use crate::words::{Lang, Words};
use tsugi_core::command::Refusal;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_web::say::{self, Said};

fn both(said: impl Fn(Lang) -> Said) -> Words {
    let whole = |lang| {
        let said = said(lang);
        let rest = said.rest();
        let gap = if rest.is_empty() || lang == Lang::Ja { "" } else { " " };
        format!("{}{gap}{rest}", said.text)
    };
    Words::new(whole(Lang::En), whole(Lang::Ja))
}

/// Why a node refuses an order.
pub fn refusal(refusal: &Refusal, module: &ModuleName, node: &NodeName) -> Words {
    both(|lang| say::refusal(lang, refusal, module, node))
}

/// Why a node's part of an operation ended as it did.
pub fn note(note: &Note, module: &ModuleName, node: &NodeName) -> Words {
    match note {
        Note::Refused { refusal: why } => refusal(why, module, node),
        Note::Blocked { reason: Some(reason) } => both(|lang| say::reason(lang, reason, module, node)),
        Note::Blocked { reason: None } => {
            Words::new(format!("{module} does not get on on {node}."), format!("{node} の {module} が進みません。"))
        }
        Note::NoContact => refusal(&Refusal::NoContact, module, node),
        Note::Later => Words::new(
            format!("{node} is not in contact; this reaches it when it returns."),
            format!("{node} と通信できません。復帰したときに反映されます。"),
        ),
        Note::TooLong => Words::new(
            format!("{node} did not get there in time; look at the module's events."),
            format!("{node} が時間内に完了しませんでした。モジュールのイベントを確認してください。"),
        ),
        Note::ConsoleRestarted => Words::new(
            "The console restarted meanwhile, so the end was not observed; look at the module's state.",
            "途中でコンソールが再起動したため、結果を確認できていません。モジュールの状態を確認してください。",
        ),
        Note::NotBegun => Words::new(
            format!("Not begun on {node}, because an earlier step failed or the console ended before it."),
            format!("前の手順が失敗したか、コンソールが先に終了したため、{node} では始めていません。"),
        ),
        Note::NotEverywhere => Words::new(
            format!("Nothing was changed on {node}: the nodes take a version together or not at all."),
            format!("{node} では何も変更していません。バージョンは、すべてのノードが受け入れられる場合にだけ反映します。"),
        ),
    }
}

/// How an operation stands, in one sentence.
pub fn operation(operation: &Operation) -> Words {
    let (module, verb) = (&operation.module, &operation.verb);
    let why = operation.nodes.iter().find_map(|n| n.why.as_ref().map(|why| note(why, module, &n.node)));
    let problem = operation.nodes.iter().find_map(|n| n.problems.first().map(|p| format!("{}: {p}", n.node)));
    // What is wrong on one node says more than what the others therefore did not do.
    let detail = problem.map(Words::same).or(why);
    let base = match operation.state {
        Progress::Queued => Words::new(format!("{verb} of {module} waits."), format!("{module} の {verb} は開始待ちです。")),
        Progress::Running => Words::new(format!("{verb} of {module} is running."), format!("{module} の {verb} を実行中です。")),
        Progress::Succeeded => Words::new(format!("{verb} of {module} is done."), format!("{module} の {verb} が完了しました。")),
        Progress::Failed => {
            Words::new(format!("{verb} of {module} did not succeed."), format!("{module} の {verb} は完了しませんでした。"))
        }
        Progress::Unknown => Words::new(
            format!("The end of {verb} of {module} is not known yet."),
            format!("{module} の {verb} の結果はまだ確認できていません。"),
        ),
    };
    match detail.filter(|_| operation.state.is_over()) {
        Some(detail) => Words::new(format!("{} {}", base.en, detail.en), format!("{}{}", base.ja, detail.ja)),
        None => base,
    }
}
