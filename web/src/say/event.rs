//! Events, as one sentence each.

use super::{Mark, Said, action, gloss, reason, refusal, resource_health, script, verb_done};
use crate::both;
use crate::fmt;
use crate::text::{Lang, Text};
use tsugi_core::copies::VerifyEnd;
use tsugi_core::event::{Event, GuardAct, Level};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::state::{Health, Readiness, State};

/// Words an event of `module` on `node`.
pub fn event(lang: Lang, event: &Event, module: &ModuleName, node: &NodeName) -> Said {
    match event {
        Event::AgentWentOn => Said::only(both!(
            lang,
            "The agent on {node} was started again; the module goes on as it was.",
            "{node} のエージェントが再起動しましたが、モジュールはそのまま動作を続けています。"
        )),
        Event::AgentStarted => Said::only(both!(lang, "The agent on {node} started.", "{node} のエージェントが起動しました。")),
        Event::Entered { to, readiness, reason: why, .. } => {
            let (word, gloss) = (to.word(), gloss(lang, *to, *readiness, why.as_ref()));
            let text = both!(lang, "{module} on {node} is now {word} ({gloss}).", "{node} の {module} が {word}（{gloss}）になりました。");
            let why = why.as_ref().map(|r| reason(lang, r, module, node));
            Said {
                text,
                next: why.as_ref().map(|w| w.text.clone()),
                remedy: why.as_ref().and_then(|w| w.remedy.clone()),
                command: why.as_ref().and_then(|w| w.command.clone()),
                on: why.and_then(|w| w.on),
            }
        }
        Event::Ordered { verb, by, reason: why } => {
            let verb = verb_done(lang, verb);
            let said = Said::only(both!(
                lang,
                "{by} ordered “{verb}” for {module} on {node}.",
                "{by} が {node} の {module} に「{verb}」を指示しました。"
            ));
            match why {
                Some(why) => said.then(both!(lang, "Reason: {why}", "理由：{why}")),
                None => said,
            }
        }
        Event::Refused { verb, by, refusal: why } => {
            let verb = verb_done(lang, verb);
            let why = refusal(lang, why, module, node);
            Said {
                text: both!(
                    lang,
                    "The order “{verb}” by {by} for {module} on {node} was not carried out.",
                    "{by} が {node} の {module} に指示した「{verb}」は実行しませんでした。"
                ),
                next: Some(why.text),
                remedy: why.remedy,
                command: why.command,
                on: why.on,
            }
        }
        Event::RuleFired { label, action } => {
            let word = action.word();
            Said::only(both!(
                lang,
                "The rule {label} of {module} on {node} asks for {word}.",
                "{node} の {module} で、ルール {label} により {word} を実行します。"
            ))
        }
        Event::Reseeded { epoch } => Said::only(both!(
            lang,
            "{node} wrote the arbiter's record of {module} anew (version {epoch}), because the arbiter's former store is gone.",
            "アービターの以前の記録が失われたため、{node} が {module} の記録を書き直しました（版 {epoch}）。"
        )),
        Event::SetBack { known, record } => Said::only(both!(
            lang,
            "The disk of {node} was set back to an earlier time: {node} knows {module} up to version {known}, the arbiter's record is at version {record}. Its copy counts as older and is not served.",
            "{node} のディスクは過去の状態に戻されています。{node} が知る {module} は版 {known} まで、アービターの記録は版 {record} です。このコピーは古いものとして扱い、サービスに使いません。"
        )),
        Event::CopyReplaced { by } => Said::only(both!(
            lang,
            "By the word of {by}, the directories of {module} on {node} were replaced. What is in them counts as an older copy.",
            "{by} の指示により、{node} にある {module} のディレクトリは置き換えられたものとして、古いコピーとして扱います。"
        )),
        Event::Maintenance { minutes: 0 } => Said::only(both!(
            lang,
            "Maintenance of {module} on {node} is over; automatic actions are on again.",
            "{node} の {module} の保守モードが終わり、自動処理が有効に戻りました。"
        )),
        Event::Maintenance { minutes } => Said::only(both!(
            lang,
            "{module} on {node} is under maintenance for at most {minutes} min: no automatic restart or failover.",
            "{node} の {module} は最長 {minutes} 分間の保守モードです。自動の再起動と切り替えは行いません。"
        )),
        Event::Hosting { peer } => Said::only(both!(
            lang,
            "{module} does not start on {node}; its data is brought to {peer}, which takes over.",
            "{node} で {module} を起動できないため、データを {peer} に渡して引き継がせます。"
        )),
        Event::Unkillable { detail } => Said::only(both!(
            lang,
            "Processes of {module} on {node} cannot be ended: {detail}.",
            "{node} で {module} のプロセスを終了できません：{detail}"
        )),
        Event::PeerSeen { peer } => {
            Said::only(both!(lang, "{node} is in contact with {peer} again.", "{node} と {peer} の通信が戻りました。"))
        }
        Event::PeerLost { peer } => Said::only(both!(
            lang,
            "{node} hears nothing from {peer} on any heartbeat network.",
            "{node} は、どのハートビート経路でも {peer} と通信できなくなりました。"
        )),
        Event::PeerLeft { peer } => {
            Said::only(both!(lang, "{peer} stopped {module} in order.", "{peer} の {module} が正常に停止しました。"))
        }
        Event::SessionLost { detail, .. } => {
            let detail = super::lost_session(lang, detail);
            Said::only(both!(
                lang,
                "The replication connection of {module} on {node} broke: {detail}.",
                "{node} で {module} の複製の接続が切れました：{detail}"
            ))
        }
        Event::ClaimAsked { .. } => Said::only(both!(
            lang,
            "{node} asked the arbiter for the right to serve {module} alone.",
            "{node} が、{module} を単独で動かす権利をアービターに求めました。"
        )),
        Event::ClaimAccepted { .. } => Said::only(both!(
            lang,
            "The arbiter gave {node} the right to serve {module} alone.",
            "アービターは {node} が {module} を単独で動かすことを認めました。"
        )),
        Event::ClaimRejected { owner: Some(owner), .. } => Said::only(both!(
            lang,
            "The arbiter did not let {node} serve {module}: {owner} holds that right.",
            "アービターは {node} での {module} のサービスを認めませんでした（権利は {owner} にあります）。"
        )),
        Event::ClaimRejected { owner: None, .. } => Said::only(both!(
            lang,
            "The arbiter did not let {node} serve {module}.",
            "アービターは {node} での {module} のサービスを認めませんでした。"
        )),
        Event::Grown { .. } => Said::only(both!(
            lang,
            "Both nodes hold the same data of {module}: it is protected.",
            "{module} のデータが両ノードで一致しました。保護されています。"
        )),
        Event::Forced { by, .. } => Said::only(both!(
            lang,
            "{by} decided that {node} holds the valid data of {module}.",
            "{by} が、{module} の有効なデータは {node} にあると指定しました。"
        )),
        Event::ArbiterLost => Said::only(both!(
            lang,
            "{node} cannot reach the arbiter: automatic failover of {module} is off.",
            "{node} からアービターに通信できません。{module} の自動フェイルオーバーは無効です。"
        )),
        Event::ArbiterSeen => Said::only(both!(
            lang,
            "{node} reaches the arbiter again: automatic failover of {module} is on.",
            "{node} とアービターの通信が戻りました。{module} の自動フェイルオーバーは有効です。"
        )),
        Event::Frozen => Said::only(both!(
            lang,
            "Writes of {module} on {node} are waiting: neither the other node nor the arbiter answers.",
            "{node} の {module} は書き込みを待たせています。もう一方のノードにもアービターにも通信できません。"
        )),
        Event::Thawed => Said::only(both!(lang, "Writes of {module} on {node} go on.", "{node} の {module} は書き込みを再開しました。")),
        Event::ScriptDone { script: name, code: Some(0), millis } => {
            let (file, took) = (script(lang, *name), fmt::duration(lang, *millis));
            Said::only(both!(
                lang,
                "{module} on {node}: {file} finished in {took}.",
                "{node} の {module}：{file} が {took}で完了しました。"
            ))
        }
        Event::ScriptDone { script: name, code: Some(code), millis } => {
            let (file, took) = (script(lang, *name), fmt::duration(lang, *millis));
            Said::only(both!(
                lang,
                "{module} on {node}: {file} ended with exit code {code} after {took}.",
                "{node} の {module}：{file} が {took}後に終了コード {code} で終わりました。"
            ))
        }
        Event::ScriptDone { script: name, code: None, millis } => {
            let (file, took) = (script(lang, *name), fmt::duration(lang, *millis));
            Said::only(both!(
                lang,
                "{module} on {node}: {file} did not finish within {took} and was ended.",
                "{node} の {module}：{file} が {took}以内に終わらなかったため、打ち切りました。"
            ))
        }
        Event::ScriptSaid { script: name, text } => {
            let file = script(lang, *name);
            Said::only(both!(lang, "{module} on {node}, {file}: {text}", "{node} の {module}、{file}：{text}"))
        }
        Event::Printed { script: Some(name), text, .. } => {
            let file = script(lang, *name);
            Said::only(both!(lang, "{module} on {node}, {file}: {text}", "{node} の {module}、{file}：{text}"))
        }
        Event::Printed { script: None, text, .. } => Said::only(both!(lang, "{module} on {node}: {text}", "{node} の {module}：{text}")),
        Event::Guard { act, acted_unix_ms } => guard(lang, *act, *acted_unix_ms, module, node),
        Event::DataServed { millis } => {
            let took = fmt::duration(lang, *millis);
            Said::only(both!(
                lang,
                "{module} on {node}: the replicated directories are served from here ({took}).",
                "{node} の {module}：複製ディレクトリーをこのノードから提供し始めました（{took}）。"
            ))
        }
        Event::VipRaised { addr } => {
            Said::only(both!(lang, "{node} holds the virtual IP address {addr}.", "{node} に仮想 IP アドレス {addr} を設定しました。"))
        }
        Event::VipDropped { addr } => {
            Said::only(both!(lang, "{node} released the virtual IP address {addr}.", "{node} から仮想 IP アドレス {addr} を外しました。"))
        }
        Event::VipFailed { detail } => Said::only(both!(
            lang,
            "The virtual IP address of {module} could not be set on {node}: {detail}.",
            "{node} に {module} の仮想 IP アドレスを設定できませんでした：{detail}"
        )),
        Event::ResyncStarted { .. } => {
            Said::only(both!(lang, "{module} on {node}: resync started.", "{node} で {module} の再同期が始まりました。"))
        }
        // Without figures, which a node may not have, none are told.
        Event::ResyncDone { bytes_copied: 0, files: 0, millis: 0, .. } => {
            Said::only(both!(lang, "{module} on {node}: resync finished.", "{node} で {module} の再同期が完了しました。"))
        }
        Event::ResyncDone { bytes_copied, files, millis, .. } => {
            let (bytes, took) = (fmt::bytes(*bytes_copied), fmt::duration(lang, *millis));
            Said::only(both!(
                lang,
                "{module} on {node}: resync finished after {took}; {bytes} copied, {files} files compared.",
                "{node} で {module} の再同期が {took}で完了しました（コピー {bytes}、照合 {files} ファイル）。"
            ))
        }
        Event::Opened { by } => Said::only(both!(
            lang,
            "{by} opened the replicated directories of {module} on {node} for changes until it is started.",
            "{by} が {node} の {module} の複製ディレクトリーを、次の起動まで書き込み可能にしました。"
        ))
        .then(both!(lang, "The other copy is then compared as a whole.", "次の再同期では、相手のコピー全体を照合します。")),
        Event::Verified { done, millis, first, end } => super::verified(lang, (module, node), done, *millis, first, end),
        Event::Resource { name, health, detail } => {
            let (_, word) = resource_health(lang, *health);
            let said = Said::only(both!(
                lang,
                "{module} on {node}: checker {name} is {word}.",
                "{node} の {module}：チェッカー {name} は「{word}」です。"
            ));
            if detail.is_empty() { said } else { said.then(super::detail(lang, detail)) }
        }
        Event::CheckAction { resource, action: what } => {
            let what = action(lang, *what);
            Said::only(both!(
                lang,
                "{module} on {node}: because of checker {resource}: {what}.",
                "{node} の {module}：チェッカー {resource} の異常により「{what}」を実行します。"
            ))
        }
        Event::DataFailed { detail } => Said::only(both!(
            lang,
            "The replicated data of {module} cannot be used on {node}: {detail}.",
            "{node} で {module} の複製データを使用できません：{detail}"
        )),
        Event::LoopLimit { count } => Said::only(both!(
            lang,
            "{module} was restarted automatically {count} times on {node} and is stopped now.",
            "{node} で {module} の自動再起動が {count} 回に達したため停止しました。"
        )),
        // The generation counts deployments; people know versions, which the page shows.
        Event::Configured { .. } => Said::only(both!(
            lang,
            "A configuration of {module} was put in force on {node}.",
            "{node} で {module} の設定が有効になりました。"
        )),
        Event::Unexpected { what } => Said::only(both!(
            lang,
            "{module} on {node} noted something unexpected: {what}",
            "{node} の {module} が想定外の状況を記録しました：{what}"
        )),
    }
}

/// What a guard did while the agent could not tell.
fn guard(lang: Lang, act: GuardAct, at_unix_ms: u64, module: &ModuleName, node: &NodeName) -> Said {
    let at = fmt::rfc3339(at_unix_ms);
    match act {
        GuardAct::Froze { late_ms } => Said::only(both!(
            lang,
            "The guard of {node} froze {module} and removed its virtual IP addresses at {at}, {late_ms} ms after its right to serve ended: \
             the agent did not react.",
            "{node} のガードが {module} を凍結し、仮想 IP アドレスを外しました（{at}、サービスの権利が切れてから {late_ms} ms 後）。エージェントが反応しなかったためです。"
        )),
        GuardAct::Thawed => Said::only(both!(
            lang,
            "The guard of {node} let {module} go on at {at}: its right to serve was renewed.",
            "{node} のガードが {module} の凍結を解除しました（{at}）。サービスの権利が更新されたためです。"
        )),
        GuardAct::Killed { count } => Said::only(both!(
            lang,
            "The guard of {node} ended {module} at {at} (processes: {count}): it had been frozen too long.",
            "{node} のガードが {module} を終了しました（{at}、プロセス数 {count}）。凍結が長く続いたためです。"
        )),
        GuardAct::Failed => Said::only(both!(
            lang,
            "The guard of {node} could not stop {module} wholly at {at}.",
            "{node} のガードは {module} を完全には停止できませんでした（{at}）。"
        ))
        .then(both!(
            lang,
            "If this node still answers for {module}, switch it off.",
            "このノードがまだ {module} として応答する場合は、電源を切ってください。"
        )),
        GuardAct::Starves => Said::only(both!(
            lang,
            "The guard of {node} let the watchdog restart the machine at {at}: {module} had lost its right to serve and could not be stopped.",
            "{node} のガードがウォッチドッグによりマシンを再起動させました（{at}）。サービスの権利を失った {module} を停止できなかったためです。"
        )),
    }
}

/// The word of a level, for filters.
pub fn level(lang: Lang, level: Level) -> &'static str {
    let text = match level {
        Level::Info => Text { en: "Information", ja: "情報" },
        Level::Notice => Text { en: "Change", ja: "変化" },
        Level::Warning => Text { en: "Warning", ja: "注意" },
        Level::Critical => Text { en: "Critical", ja: "重大" },
    };
    text.in_(lang)
}

/// The shape beside an event.
pub fn event_mark(event: &Event) -> Mark {
    match event {
        Event::Entered { readiness: Readiness::NotReady, to: State::Stop, .. } if event.level() < Level::Critical => Mark::Stopped,
        Event::Entered { readiness: Readiness::Ready, to: State::Alone, .. } => Mark::Warning,
        Event::Entered { readiness: Readiness::Ready, .. } | Event::Grown { .. } | Event::ResyncDone { .. } => Mark::Ready,
        Event::Verified { done, end: VerifyEnd::Whole, .. } if done.differences == 0 => Mark::Ready,
        Event::Resource { health: Health::Up, .. } => Mark::Ready,
        Event::Entered { readiness: Readiness::Transient, .. } | Event::ResyncStarted { .. } => Mark::Transient,
        other => match other.level() {
            Level::Info | Level::Notice => Mark::Info,
            Level::Warning => Mark::Warning,
            Level::Critical => Mark::NotReady,
        },
    }
}
