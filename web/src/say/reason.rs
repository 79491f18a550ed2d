//! Why a module is not green on a node, what follows, and the way out.

use super::verb::command_line;
use super::{Said, script};
use crate::both;
use crate::text::{Lang, Text};
use tsugi_core::command::{BY_AGENT, BY_SHUTDOWN, Verb, checker_of};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::Authority;
use tsugi_core::state::{AuthorityView, Reason, Snapshot};

/// Words a reason given by `node` for `module`.
pub fn reason(lang: Lang, reason: &Reason, module: &ModuleName, node: &NodeName) -> Said {
    let start = || command_line(&Verb::Start, module);
    let by_itself =
        || Text { en: "This ends by itself; there is nothing to do.", ja: "自動で完了します。操作は不要です。" }.in_(lang).to_owned();
    let left_the_role = || {
        both!(
            lang,
            "{node} does not serve until the module is started again; a secondary that is up to date takes over.",
            "起動し直すまで {node} ではサービスを提供しません。最新のセカンダリがあれば引き継ぎます。"
        )
    };
    match reason {
        Reason::NeverStarted => {
            Said::only(both!(lang, "{module} has not been started on {node} yet.", "{node} では {module} をまだ起動していません。"))
                .then(both!(lang, "Before its first start it does not start by itself.", "一度起動するまで、自動では起動しません。"))
                .remedy(both!(lang, "Start it on {node}.", "{node} で起動してください。"))
                .command_on(node, start())
        }
        Reason::StoppedBy { by } => stopped_by(lang, by, module, node).command_on(node, start()),
        Reason::Starting => {
            Said::only(both!(lang, "{module} is starting on {node}.", "{node} で {module} の起動処理をしています。")).then(by_itself())
        }
        Reason::Stopping => {
            Said::only(both!(lang, "{module} is stopping on {node}.", "{node} で {module} の停止処理をしています。")).then(by_itself())
        }
        Reason::FirstStart => Said::only(both!(
            lang,
            "It is not decided yet which node holds the good data of {module}.",
            "{module} の正しいデータがどのノードにあるか、まだ決まっていません。"
        ))
        .then(both!(
            lang,
            "The node you choose starts as primary, and its data overwrites the other copy.",
            "選んだノードがプライマリになり、そのデータがもう一方のデータを上書きします。"
        ))
        .remedy(both!(
            lang,
            "Force primary on the node with the good data.",
            "正しいデータがあるノードで、プライマリとして強制起動してください。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: false }, module)),
        Reason::DataOlder { newer: Some(newer), .. } => Said::only(both!(
            lang,
            "The data of {module} on {node} is older than the data on {newer}.",
            "{node} にある {module} のデータは、{newer} のデータより古いものです。"
        ))
        .then(both!(
            lang,
            "{node} waits, and is brought up to date by itself once {newer} serves.",
            "{node} は待機し、{newer} のサービスが動き始めると自動で最新になります。"
        ))
        .remedy(both!(
            lang,
            "Start {newer}. Only if it is lost for good: force primary on {node} and accept that the newer data is discarded.",
            "{newer} を起動してください。復旧できない場合に限り、新しいデータを失うことを承知のうえで {node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::DataOlder { newer: None, .. } => Said::only(both!(
            lang,
            "The data of {module} on {node} may be older than on a node that is not in contact.",
            "{node} にある {module} のデータは、通信できないノードのデータより古い可能性があります。"
        ))
        .then(both!(
            lang,
            "{node} waits, so that newer data is not overwritten.",
            "新しいデータを上書きしないよう、{node} は待機しています。"
        ))
        .remedy(both!(
            lang,
            "Start the other node. Only if it is lost for good: force primary on {node} and accept the loss.",
            "もう一方のノードを起動してください。復旧できない場合に限り、損失を承知のうえで {node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::HalfSynced => Said::only(both!(
            lang,
            "The copy of {module} on {node} is incomplete: its resync was interrupted.",
            "{node} の {module} のデータは、再同期が途中で切れたため不完全です。"
        ))
        .then(both!(
            lang,
            "It is not served. The resync continues by itself once the other node serves.",
            "このデータではサービスを始めません。もう一方のノードが動き始めると、再同期が自動で続きます。"
        ))
        .remedy(both!(
            lang,
            "Start the other node. Only if it is lost for good: force this copy; files in it may be damaged.",
            "もう一方のノードを起動してください。復旧できない場合に限り、このデータで強制起動できます。ファイルが壊れていることがあります。"
        ))
        .command_on(node, command_line(&Verb::PrimForce, module)),
        Reason::Quarantine => Said::only(both!(
            lang,
            "{node} has just restarted and waits before it may take over {module}.",
            "{node} は再起動した直後のため、{module} を引き継ぐ前に一定時間待っています。"
        ))
        .then(by_itself()),
        Reason::PeerFirst { peer } => Said::only(both!(
            lang,
            "Both nodes are idle, and {peer} has the better right to start {module}.",
            "両ノードとも待機中で、{module} を先に起動すべきノードは {peer} です。"
        ))
        .then(both!(lang, "{node} becomes the secondary once {peer} serves.", "{peer} のサービスが動き始めると、{node} はセカンダリになります。"))
        .remedy(both!(lang, "If {peer} does not start by itself, start it.", "{peer} が自動で起動しない場合は、{peer} を起動してください。"))
        .command_on(peer, start()),
        Reason::NoArbiter => Said::only(both!(
            lang,
            "No arbiter answers {node}, so it may not take over {module}.",
            "{node} からアービターに通信できないため、{module} を引き継げません。"
        ))
        .then(both!(lang, "It asks again by itself until one answers.", "応答があるまで、自動で問い合わせを続けます。"))
        .remedy(both!(
            lang,
            "Check the arbiter (the console, unless the configuration names another one), and the network between {node} and it.",
            "アービター（設定で指定していなければコンソール）と、{node} との間のネットワークを確認してください。"
        )),
        Reason::ClaimRejected { owner: Some(owner) } => Said::only(both!(
            lang,
            "The arbiter did not let {node} serve {module}: {owner} holds that right.",
            "アービターは {node} での {module} のサービスを認めませんでした。権利は {owner} が持っています。"
        ))
        .then(both!(
            lang,
            "{node} waits and follows {owner} once they are in contact again.",
            "{node} は待機し、{owner} との通信が戻るとセカンダリになります。"
        ))
        .remedy(both!(
            lang,
            "Restore the network between the nodes, or start {owner}.",
            "ノード間のネットワークを復旧するか、{owner} を起動してください。"
        ))
        .command_on(owner, start()),
        Reason::ClaimRejected { owner: None } => Said::only(both!(
            lang,
            "The arbiter did not let {node} serve {module}: this copy is not known to hold every write.",
            "アービターは {node} での {module} のサービスを認めませんでした。すべての書き込みを持つデータとは確認できないためです。"
        ))
        .then(both!(lang, "{node} waits for the other node.", "{node} はもう一方のノードを待っています。"))
        .remedy(both!(lang, "Start the other node.", "もう一方のノードを起動してください。"))
        .command(start()),
        Reason::ArbiterReplaced => Said::only(both!(
            lang,
            "The arbiter's store is not the one {node} knows: it was restored or replaced.",
            "アービターの記録が {node} の知っているものと異なります（復元または交換された可能性があります）。"
        ))
        .then(both!(
            lang,
            "A running service goes on, but nothing takes over automatically until you decide.",
            "動いているサービスは続きますが、判断するまで自動では引き継ぎません。"
        ))
        .remedy(both!(
            lang,
            "If a node serves: stop its secondary and start it again; the record is then written anew. If none does: force primary on the node with the newest data, and accept that what only the other one has is given up.",
            "サービスが動いている場合は、セカンダリを停止して再び起動すると、記録が作り直されます。どのノードでも動いていない場合は、もう一方だけにあるデータを失うことを承知のうえで、最新データのあるノードをプライマリとして強制起動してください。"
        ))
        .command(command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::SplitBrain { peer } => Said::only(both!(
            lang,
            "{node} and {peer} have each written data of {module} that the other does not have.",
            "{node} と {peer} の両方に、相手にはない {module} の書き込みがあります（スプリットブレイン）。"
        ))
        .then(both!(
            lang,
            "They are not merged: one side's writes must be given up.",
            "自動では統合できません。どちらか一方の書き込みを破棄する必要があります。"
        ))
        .remedy(both!(
            lang,
            "Save what you need, decide whose data goes on, and order so on both nodes. The command here keeps that of {node}.",
            "必要なデータを退避してから、残す側を決め、両方のノードで同じ指定を実行してください。次のコマンドは {node} を残す場合です。"
        ))
        .command(command_line(&Verb::Resolve { keep: node.clone() }, module)),
        Reason::Frozen => Said::only(both!(
            lang,
            "Writes of {module} on {node} are waiting: neither the other node nor the arbiter answers.",
            "{node} の {module} は書き込みを待たせています。もう一方のノードにもアービターにも通信できません。"
        ))
        .then(both!(
            lang,
            "The service goes on by itself as soon as the arbiter answers. After 30 s without an answer the application is stopped.",
            "アービターと通信が戻ると、自動でサービスを再開します。30 秒たっても戻らない場合はアプリケーションを停止します。"
        ))
        .remedy(both!(lang, "Check the network of {node}.", "{node} のネットワークを確認してください。")),
        Reason::Resyncing => Said::only(both!(
            lang,
            "The data of {module} is being copied to {node}.",
            "{module} のデータを {node} へ再同期しています。"
        ))
        .then(both!(
            lang,
            "Failover to {node} is possible once it is finished.",
            "完了すると {node} へのフェイルオーバーができるようになります。"
        )),
        Reason::WaitingForSource { source } => Said::only(both!(
            lang,
            "{node} waits for {source} to send the data of {module}.",
            "{node} は、{source} から {module} のデータが送られるのを待っています。"
        ))
        .then(by_itself()),
        Reason::ScriptFailed { script: name, code: Some(code) } => {
            let file = script(lang, *name);
            Said::only(both!(
                lang,
                "{module} on {node}: {file} ended with exit code {code}.",
                "{node} の {module}：{file} が終了コード {code} で終わりました。"
            ))
            .then(left_the_role())
            .remedy(both!(
                lang,
                "Read the script's output in the module's log on {node}, correct the cause, then start the module.",
                "{node} のモジュールログでスクリプトの出力を確認し、原因を直してから起動してください。"
            ))
            .command_on(node, start())
        }
        Reason::ScriptFailed { script: name, code: None } => {
            let file = script(lang, *name);
            Said::only(both!(
                lang,
                "{module} on {node}: {file} did not finish in time and was ended.",
                "{node} の {module}：{file} が制限時間内に終わらなかったため、打ち切りました。"
            ))
            .then(left_the_role())
            .remedy(both!(
                lang,
                "Read the script's output in the module's log on {node}; raise the time-out if it needs longer.",
                "{node} のモジュールログでスクリプトの出力を確認してください。時間が必要な処理であれば制限時間を延ばしてください。"
            ))
            .command_on(node, start())
        }
        Reason::CheckFailed { resource, detail } if resource.starts_with("module.") => {
            let detail = super::detail(lang, detail);
            Said::only(both!(
                lang,
                "{module} waits on {node} for a module it depends on ({resource}): {detail}.",
                "{node} の {module} は、依存するモジュール（{resource}）を待っています：{detail}"
            ))
            .then(both!(
                lang,
                "It starts by itself as soon as that module is in the state it needs.",
                "そのモジュールが必要な状態になると、自動で起動します。"
            ))
            .remedy(both!(
                lang,
                "Start that module on {node}, or see on its page why it is not in that state.",
                "{node} でそのモジュールを起動するか、その状態にならない理由をモジュールのページで確認してください。"
            ))
        }
        Reason::CheckFailed { resource, detail } => {
            let detail = super::detail(lang, detail);
            Said::only(both!(
                lang,
                "The checker {resource} of {module} reports a problem on {node}: {detail}.",
                "{node} で {module} のチェッカー {resource} が異常を検出しました：{detail}"
            ))
            .then(both!(
                lang,
                "If the module is waiting, it goes on by itself once the check succeeds.",
                "待機中であれば、検査が正常に戻ると自動で再開します。"
            ))
            .remedy(both!(lang, "Correct what {resource} checks on {node}.", "{node} で {resource} の検査対象を確認してください。"))
        }
        Reason::CheckPending { resource } if resource == tsugi_core::state::USABLE => Said::only(both!(
            lang,
            "{module} waits on {node} until its replicated directories have been looked at.",
            "{node} の {module} は、複製するディレクトリの確認を待っています。"
        ))
        .then(both!(lang, "It starts by itself as soon as they are found good.", "問題がなければ、自動で起動します。"))
        .remedy(both!(
            lang,
            "If this lasts, their disk on {node} does not answer: see dmesg.",
            "長く続く場合は、{node} のディスクが応答していません。dmesg で確認してください。"
        ))
        .command_on(node, format!("tsugi state -v {module}")),
        Reason::CheckPending { resource } => Said::only(both!(
            lang,
            "{module} waits on {node} for the first result of the checker {resource}.",
            "{node} の {module} は、チェッカー {resource} の最初の結果を待っています。"
        ))
        .then(both!(lang, "It starts by itself as soon as the check succeeds.", "検査が成功すると、自動で起動します。"))
        .remedy(both!(
            lang,
            "If this lasts, see what {resource} does on {node}.",
            "長く続く場合は、{node} で {resource} の動作を確認してください。"
        ))
        .command_on(node, format!("tsugi checker list -m {module}")),
        Reason::LoopLimit { count } => Said::only(both!(
            lang,
            "{module} was restarted automatically {count} times on {node} and is stopped now, so that it does not go on for ever.",
            "{node} で {module} の自動再起動が {count} 回に達したため、繰り返しを止めるために停止しました。"
        ))
        .then(both!(lang, "It stays stopped until you start it.", "起動するまで停止したままです。"))
        .remedy(both!(
            lang,
            "Find the cause in the events, correct it, then start the module; that resets the count.",
            "イベントで原因を確認して直してから起動してください。起動すると回数は元に戻ります。"
        ))
        .command_on(node, start()),
        Reason::DataUnusable { detail } => {
            let detail = super::detail(lang, detail);
            Said::only(both!(
                lang,
                "The replicated directory of {module} cannot be used on {node}: {detail}.",
                "{node} で {module} の複製するディレクトリを使用できません：{detail}"
            ))
            .then(both!(
                lang,
                "{node} tries again by itself, half a minute later at the latest; a secondary that is up to date takes over.",
                "{node} は遅くとも 30 秒後までに自動で再試行します。最新のセカンダリがあれば引き継ぎます。"
            ))
            .remedy(both!(lang, "Check the disk and the directory on {node}.", "{node} のディスクとディレクトリを確認してください。"))
        }
        Reason::VipFailed { detail } => Said::only(both!(
            lang,
            "The virtual IP address of {module} could not be set on {node}: {detail}.",
            "{node} に {module} の仮想 IP アドレスを設定できませんでした：{detail}"
        ))
        .then(left_the_role())
        .remedy(both!(
            lang,
            "Check the network interface, and that no other machine uses the address.",
            "ネットワークインターフェイスと、同じアドレスを他の機器が使っていないことを確認してください。"
        ))
        .command_on(node, start()),
        Reason::FailoverOff => Said::only(both!(
            lang,
            "The primary of {module} is gone, and automatic failover is switched off in the configuration.",
            "{module} のプライマリがなくなりましたが、設定で自動フェイルオーバーが無効になっています。"
        ))
        .then(both!(lang, "{node} waits for your decision.", "{node} は判断を待っています。"))
        .remedy(both!(
            lang,
            "Start the former primary. If it is certainly off: force primary on {node}.",
            "元のプライマリを起動してください。確実に停止している場合は、{node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: false }, module)),
        Reason::RecordUnusable { detail } => Said::only(both!(
            lang,
            "{node} cannot read or write its own record of {module}: {detail}.",
            "{node} が {module} の状態記録を読み書きできません：{detail}"
        ))
        .then(both!(
            lang,
            "Without the record {node} does not know whether its data is current, so it does not serve.",
            "記録がないとデータが最新か判断できないため、{node} ではサービスを始めません。"
        ))
        .remedy(both!(
            lang,
            "Check the disk with the agent's state directory (by default /var/lib/tsugi) on {node}.",
            "{node} でエージェントの状態ディレクトリ（既定は /var/lib/tsugi）があるディスクを確認してください。"
        )),
        Reason::RecordLost { peer } => Said::only(both!(
            lang,
            "The record of {module} on {node} was damaged, so nothing is known of the copy on {node}.",
            "{node} にある {module} の状態記録が壊れていたため、{node} のデータの新旧が分かりません。"
        ))
        .then(both!(
            lang,
            "{node} waits, and is brought up to date by itself once {peer} serves.",
            "{node} は待機し、{peer} のサービスが動き始めると自動で最新になります。"
        ))
        .remedy(both!(
            lang,
            "Start {peer}. Only if it is lost for good: force primary on {node} and accept that newer data may be lost.",
            "{peer} を起動してください。復旧できない場合に限り、新しいデータを失う可能性を承知のうえで {node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::HandOver { to } => Said::only(both!(
            lang,
            "{node} is handing {module} over to {to}.",
            "{node} から {to} へ {module} を切り替えています。"
        ))
        .then(both!(
            lang,
            "If {to} does not take it in time, {node} takes it back by itself.",
            "{to} が時間内に引き継がない場合は、{node} が自動で引き取ります。"
        )),
        Reason::WaitingForPeer { peer } => Said::only(both!(
            lang,
            "{module} has no arbiter, so {node} cannot know whether {peer} went on without it.",
            "{module} にはアービターがないため、{peer} が単独で動き続けていたかどうかを {node} は判断できません。"
        ))
        .then(both!(lang, "{node} starts by itself when {peer} is there.", "{peer} が起動すると、{node} も自動で起動します。"))
        .remedy(both!(
            lang,
            "Start {peer}. Only if it is lost for good: force primary on {node} and accept that newer data on {peer} is discarded.",
            "{peer} を起動してください。復旧できない場合に限り、{peer} の新しいデータを失うことを承知のうえで {node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::ManualTakeover { peer } => Said::only(both!(
            lang,
            "{peer} is gone, and for {module} a person decides who goes on (authority manual).",
            "{peer} と通信できません。{module} の引き継ぎは管理者が判断する設定です（authority manual）。"
        ))
        .then(both!(lang, "{node} waits for your decision.", "{node} は判断を待っています。"))
        .remedy(both!(
            lang,
            "Start {peer} again. If {peer} is certainly off: force primary on {node}.",
            "{peer} を再び起動してください。{peer} が確実に停止している場合は、{node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::NoWitness => Said::only(both!(
            lang,
            "{node} reaches none of the reference addresses of {module}, so it does not go on without the other node.",
            "{node} から {module} の確認用アドレスのどれにも届かないため、単独では動作を続けません。"
        ))
        .then(both!(
            lang,
            "It goes on by itself when an address answers or the other node is back.",
            "アドレスの応答かもう一方のノードが戻れば、自動で続行します。"
        ))
        .remedy(both!(
            lang,
            "Check the network of {node} and the addresses in the splitbrain checker.",
            "{node} のネットワークと、splitbrain チェッカーのアドレスを確認してください。"
        )),
        Reason::NotFenced { peer } => Said::only(both!(
            lang,
            "Nothing confirms that {peer} is powered off, so {node} does not take {module}.",
            "{peer} の電源断を確認できないため、{node} は {module} を引き継ぎません。"
        ))
        .then(both!(lang, "{node} tries again by itself.", "{node} は自動で再試行します。"))
        .remedy(both!(
            lang,
            "Check the fencing device. If {peer} is certainly off: force primary on {node}.",
            "フェンシング装置を確認してください。{peer} が確実に停止している場合は、{node} をプライマリとして強制起動できます。"
        ))
        .command_on(node, command_line(&Verb::Prim { accept_loss: true }, module)),
        Reason::Maintenance => Said::only(both!(
            lang,
            "{module} on {node} is under maintenance: it takes no action by itself.",
            "{node} の {module} は保守モードのため、自動処理を行いません。"
        ))
        .then(both!(
            lang,
            "It acts again by itself when the maintenance time is over.",
            "保守時間が過ぎると自動処理に戻ります。"
        ))
        .remedy(both!(lang, "To let it act now, end the maintenance.", "すぐに戻すには、保守モードを終了してください。"))
        .command_on(node, command_line(&Verb::Maintenance { minutes: 0 }, module)),
        Reason::TimesDiffer { peer, here_ms, there_ms } => Said::only(both!(
            lang,
            "{node} and {peer} have different heartbeat times in force for {module} (take-over after {here_ms} ms and {there_ms} ms), so they form no pair: {module} is not protected.",
            "{node} と {peer} で {module} のハートビート時間が異なるため（引き継ぎまで {here_ms} ms と {there_ms} ms）、ペアを構成しません。{module} は保護されていません。"
        ))
        .then(both!(
            lang,
            "They form a pair by themselves once both have the same configuration.",
            "両方のノードの構成が同じになると、自動でペアを構成します。"
        ))
        .remedy(both!(
            lang,
            "Stop {module} on the node that does not serve, and apply the newest configuration; if that is not enough, on the other node too.",
            "稼働していない側のノードで {module} を停止し、最新の構成を適用してください。それでも解消しない場合は、もう一方のノードでも行ってください。"
        )),
        Reason::Unkillable { detail } => Said::only(both!(
            lang,
            "Processes of {module} on {node} cannot be ended: {detail}.",
            "{node} で {module} のプロセスを終了できません：{detail}"
        ))
        .then(both!(
            lang,
            "{node} keeps trying and does not give the role away before they are gone.",
            "{node} は終了を試み続け、プロセスがなくなるまで役割を渡しません。"
        ))
        .remedy(both!(
            lang,
            "End these processes. If they hang in the kernel, only a restart of {node} helps.",
            "該当するプロセスを終了してください。カーネル内で止まっている場合は {node} の再起動が必要です。"
        )),
    }
}

/// The reason a node gives for itself, with what only it knows: which arbiter it asks.
pub fn reason_of(lang: Lang, s: &Snapshot) -> Option<Said> {
    let why = s.reason.as_ref()?;
    let said = reason(lang, why, &s.module, &s.node);
    if *why != Reason::NoArbiter {
        return Some(said);
    }
    Some(said.remedy(check_arbiter(lang, &s.authority, s.node.as_str())))
}

/// What to look at when the arbiter, or what stands for it, does not answer `node`.
pub(super) fn check_arbiter(lang: Lang, authority: &AuthorityView, node: &str) -> String {
    let arbiter = &authority.arbiter;
    match authority.kind {
        Authority::Fence => {
            both!(lang, "Check the fencing device, and whether {node} reaches it.", "電源制御装置と、{node} からの通信を確認してください。")
        }
        Authority::Ping => both!(
            lang,
            "Check the network of {node} and the addresses in the splitbrain checker.",
            "{node} のネットワークと、splitbrain チェッカーのアドレスを確認してください。"
        ),
        Authority::Arbiter if !arbiter.is_console() => both!(
            lang,
            "Check the arbiter {arbiter}, and the network between {node} and it.",
            "アービター {arbiter} と、{node} との間のネットワークを確認してください。"
        ),
        Authority::Arbiter | Authority::Manual | Authority::None => both!(
            lang,
            "Check the console, and the network between {node} and it.",
            "コンソールと、{node} との間のネットワークを確認してください。"
        ),
    }
}

/// Who stopped it: a person, a checker or rule, or the agent itself.
fn stopped_by(lang: Lang, by: &str, module: &ModuleName, node: &NodeName) -> Said {
    if let Some(checker) = checker_of(by) {
        return Said::only(both!(
            lang,
            "{module} was stopped on {node} because of {checker}: a checker or rule asked for it, nobody ordered it.",
            "{checker} のため、{node} の {module} は自動で停止しました（チェッカーまたはルールによる停止です）。"
        ))
        .then(both!(lang, "It stays stopped until someone starts it.", "次に起動するまで停止したままです。"))
        .remedy(both!(
            lang,
            "Correct what {checker} stands for on {node}, then start the module.",
            "{node} で {checker} の原因を直してから起動してください。"
        ));
    }
    match by {
        BY_AGENT => Said::only(both!(
            lang,
            "{module} was not started on {node} when its agent started.",
            "{node} のエージェントの起動時に、{module} は起動されていません。"
        ))
        .then(both!(
            lang,
            "It is not started by itself: it was not running before, or its configuration says so (boot).",
            "以前動いていなかったか、設定（boot）により、自動では起動しません。"
        )),
        BY_SHUTDOWN => Said::only(both!(
            lang,
            "{module} was stopped because {node} or its agent was shut down.",
            "{node} またはそのエージェントの終了に伴い、{module} は停止しました。"
        ))
        .then(both!(
            lang,
            "It starts by itself with the agent, unless its configuration says otherwise (boot).",
            "設定（boot）で無効にしていなければ、エージェントの起動時に自動で起動します。"
        )),
        by => Said::only(both!(lang, "{by} stopped {module} on {node}.", "{by} が {node} の {module} を停止しました。")).then(both!(
            lang,
            "It stays stopped until someone starts it.",
            "次に起動するまで停止したままです。"
        )),
    }
    .remedy(both!(lang, "Start it when it is to run.", "必要なときに起動してください。"))
}

/// The reason in a few words, for the narrow cell of a grid. `None` where the pill's gloss says it already.
pub fn reason_short(lang: Lang, reason: &Reason) -> Option<String> {
    let text = match reason {
        Reason::Starting | Reason::Stopping | Reason::Resyncing => return None,
        Reason::StoppedBy { by } => match (checker_of(by), by.as_str()) {
            (Some(checker), _) => return Some(both!(lang, "because of {checker}", "{checker} のため停止")),
            (None, BY_AGENT) => Text { en: "not started", ja: "未起動" },
            (None, BY_SHUTDOWN) => Text { en: "node shut down", ja: "ノード終了" },
            (None, by) => return Some(both!(lang, "by {by}", "{by} が停止")),
        },
        Reason::ScriptFailed { script, .. } => {
            let file = script.file();
            return Some(both!(lang, "{file} failed", "{file} が異常終了"));
        }
        Reason::CheckFailed { resource, .. } if resource.starts_with("module.") => {
            return Some(both!(lang, "waits for {resource}", "{resource} を待機中"));
        }
        Reason::CheckFailed { resource, .. } => return Some(both!(lang, "{resource} down", "{resource} 異常")),
        Reason::CheckPending { resource } => return Some(both!(lang, "waits for {resource}", "{resource} を待機中")),
        Reason::WaitingForSource { source } => return Some(both!(lang, "waits for {source}", "{source} を待機中")),
        Reason::HandOver { to } => return Some(both!(lang, "to {to}", "{to} へ切り替え中")),
        Reason::PeerFirst { peer } => return Some(both!(lang, "{peer} first", "{peer} が先に起動")),
        Reason::NeverStarted => Text { en: "never started", ja: "未起動" },
        Reason::FirstStart => Text { en: "choose the good data", ja: "正しいデータを選択" },
        Reason::DataOlder { .. } => Text { en: "older data", ja: "データが古い" },
        Reason::HalfSynced => Text { en: "incomplete data", ja: "データが不完全" },
        Reason::Quarantine => Text { en: "just restarted", ja: "再起動直後" },
        Reason::NoArbiter => Text { en: "no arbiter", ja: "アービター応答なし" },
        Reason::ClaimRejected { .. } => Text { en: "other node has the right", ja: "権利は他のノード" },
        Reason::ArbiterReplaced => Text { en: "arbiter replaced", ja: "アービターの記録が変化" },
        Reason::SplitBrain { .. } => Text { en: "split brain", ja: "スプリットブレイン" },
        Reason::Frozen => Text { en: "writes waiting", ja: "書き込み待ち" },
        Reason::LoopLimit { .. } => Text { en: "restart limit", ja: "再起動の上限" },
        Reason::DataUnusable { .. } => Text { en: "data unusable", ja: "データ使用不可" },
        Reason::VipFailed { .. } => Text { en: "virtual IP not set", ja: "仮想 IP 設定不可" },
        Reason::FailoverOff => Text { en: "failover off", ja: "自動切替 無効" },
        Reason::WaitingForPeer { peer } => return Some(both!(lang, "waits for {peer}", "{peer} を待機中")),
        Reason::ManualTakeover { .. } => Text { en: "your decision", ja: "管理者の判断待ち" },
        Reason::NoWitness => Text { en: "no witness", ja: "確認用アドレス応答なし" },
        Reason::NotFenced { peer } => return Some(both!(lang, "{peer} not fenced", "{peer} の停止 未確認")),
        Reason::Maintenance => Text { en: "maintenance", ja: "保守モード" },
        Reason::TimesDiffer { .. } => Text { en: "times differ", ja: "時間設定の不一致" },
        Reason::Unkillable { .. } => Text { en: "processes hang", ja: "プロセス終了不可" },
        Reason::RecordUnusable { .. } => Text { en: "state record unusable", ja: "状態記録 使用不可" },
        Reason::RecordLost { .. } => Text { en: "state record lost", ja: "状態記録 破損" },
    };
    Some(text.in_(lang).to_owned())
}
