//! What a checker saw, which the agent writes in English, in the reader's language.
//!
//! Only the agent's own sentences are known here; what an operating system or an application said stays as it was said.

use crate::text::Lang;

/// The detail of a checker's result.
pub fn detail(lang: Lang, text: &str) -> String {
    match lang {
        Lang::En => text.to_owned(),
        Lang::Ja => japanese(text).unwrap_or_else(|| text.to_owned()),
    }
}

fn japanese(text: &str) -> Option<String> {
    if let Some(addr) = text.strip_suffix(" is on no interface of this node") {
        return Some(format!("{addr} はこのノードのどのインターフェイスにもありません"));
    }
    if let Some((addr, interface)) = text.split_once(" is on ")
        && addr.parse::<std::net::IpAddr>().is_ok()
    {
        return Some(format!("{addr} は {interface} に設定されています"));
    }
    if let Some((count, what)) = text.split_once(" running: ") {
        return Some(running(count, what));
    }
    if let Some(to) = text.strip_prefix("connect ") {
        if let Some(at) = to.strip_suffix(": open") {
            return Some(format!("{at} に接続できます"));
        }
        let (at, why) = to.split_once(": ")?;
        return Some(format!("{at} に接続できません（{}）", not_connected(why)));
    }
    copy(text).or_else(|| asked(text)).or_else(|| measured(text)).or_else(|| interface(text)).or_else(|| module_or_program(text))
}

/// Resources without a checker: the copy of the data, heartbeats, the witness.
fn copy(text: &str) -> Option<String> {
    const ADOPT: &str = "意図して置き換えた場合は、このノードでモジュールを停止し、tsugi rfs adopt -m モジュール名 を実行してください（以後は古いコピーとして扱います）";
    if let Some((dir, _)) = text.split_once(" is not the directory this node replicated last") {
        return Some(format!(
            "{dir} は、このノードが最後に複製したディレクトリではありません。ディスクがマウントされていない可能性があります。マウントしてください。{ADOPT}"
        ));
    }
    if let Some((dir, _)) = text.split_once(" is a copy that this node's record does not speak of") {
        return Some(format!("{dir} は、このノードの記録にあるコピーではありません。{ADOPT}"));
    }
    if let Some((dir, _)) = text.strip_prefix("cannot open the replicated directory ").and_then(|rest| rest.split_once("; ")) {
        return Some(format!("複製するディレクトリ {dir} を開けません。作成するか、そのファイルシステムをマウントしてください"));
    }
    Some(
        match text {
            "no heartbeat of the other node on this network" => "このネットワークでは相手ノードのハートビートが届いていません",
            "this copy is not current" => "自ノードのデータは最新ではありません",
            "as it should be: replication is not degraded" => "正常（レプリケーションは低下していません）",
            "no witness answers" => "確認用アドレスの応答がありません",
            _ => return None,
        }
        .to_owned(),
    )
}

/// `ping`, `http`: what was asked and what came back.
fn asked(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix("ping ") {
        let (at, why) = rest.split_once(": ")?;
        return Some(match why.strip_prefix("answer in ") {
            Some(took) => format!("ping {at}：{took} で応答"),
            None => format!("ping {at}：応答がありません（{}）", not_connected(why)),
        });
    }
    let (url, answer) = text.strip_prefix("GET ")?.split_once(": ")?;
    if let Some(bound) = answer.strip_prefix("no whole answer within ") {
        return Some(format!("GET {url}：{bound} 以内に応答が完了せず"));
    }
    if let Some((status, pattern)) = answer.strip_prefix("status ").and_then(|a| a.split_once(", but `")) {
        let pattern = pattern.strip_suffix("` is not in the answer")?;
        return Some(format!("GET {url}：ステータス {status}、応答に `{pattern}` がありません"));
    }
    if let Some((status, expected)) = answer.strip_prefix("status ").and_then(|a| a.split_once(", not ")) {
        return Some(format!("GET {url}：ステータス {status}（期待値 {expected}）"));
    }
    let (status, took) = answer.split_once(" in ")?;
    let (took, limit) = bounded(took);
    Some(format!("GET {url}：ステータス {status}、{took} で応答{limit}"))
}

/// A value, and the limit it went beyond: `12 ms, more than 10 ms`.
fn bounded(text: &str) -> (&str, String) {
    if let Some((value, limit)) = text.rsplit_once(", more than ") {
        return (value, format!("（上限 {limit}）"));
    }
    match text.rsplit_once(", less than ") {
        Some((value, limit)) => (value, format!("（下限 {limit}）")),
        None => (text, String::new()),
    }
}

/// `load`, `memory`, `disk`.
fn measured(text: &str) -> Option<String> {
    let (value, limit) = bounded(text);
    if let Some((percent, what)) = value.strip_suffix(')').and_then(|v| v.split_once(" % (")) {
        let what = if let Some((load, cores)) = what.strip_prefix("load average ").and_then(|w| w.split_once(" on ")) {
            let cores = cores.strip_suffix(" processors")?;
            format!("ロードアベレージ {load}、プロセッサー {cores} 個")
        } else if what == "processors are busy" {
            "プロセッサー使用率".to_owned()
        } else if what == "of the last 10 s some task waited for a processor" {
            "直近 10 秒でプロセッサーを待った時間".to_owned()
        } else {
            return None;
        };
        return Some(format!("{percent} %（{what}）{limit}"));
    }
    let (memory, waited) = match value.split_once("; for ") {
        Some((memory, waited)) => {
            let percent = waited.strip_suffix(" of the last 10 s some task waited for memory")?;
            (memory, format!("、直近 10 秒でメモリーを待った時間 {percent}"))
        }
        None => (value, String::new()),
    };
    if let Some(free) = memory.strip_suffix(" of memory available") {
        return Some(format!("使用可能なメモリー {free}{waited}{limit}"));
    }
    if let Some((path, free)) = value.strip_suffix(" of the inodes free").and_then(|v| v.rsplit_once(": ")) {
        return Some(format!("{path}：空き inode {free}{limit}"));
    }
    if let Some((path, free)) = value.strip_suffix(" free").and_then(|v| v.rsplit_once(": ")) {
        return Some(format!("{path}：空き容量 {free}{limit}"));
    }
    let (path, bound) = text.split_once(" does not answer within ")?;
    Some(format!("{path} が {bound} 以内に応答しません"))
}

/// `intf`.
fn interface(text: &str) -> Option<String> {
    if let Some(name) = text.strip_prefix("there is no interface ") {
        return Some(format!("インターフェイス {name} がありません"));
    }
    if let Some(addr) = text.strip_prefix("no interface of this node has the address ") {
        return Some(format!("アドレス {addr} を持つインターフェイスがありません"));
    }
    if let Some(addr) = text.strip_prefix("no interface of this node has an address in the network of ") {
        return Some(format!("{addr} と同じネットワークのインターフェイスがありません"));
    }
    if let Some(name) = text.strip_suffix(" is switched off") {
        return Some(format!("{name} は無効です"));
    }
    if let Some(name) = text.strip_suffix(" has no carrier: cable or switch") {
        return Some(format!("{name} のリンクが切れています（ケーブルまたはスイッチ）"));
    }
    let name = text.strip_suffix(" is up").filter(|name| !name.contains(' '))?;
    Some(format!("{name} は正常です"))
}

/// `module`, `exec`, and what somebody set by hand.
fn module_or_program(text: &str) -> Option<String> {
    if let Some((name, state)) = text.strip_prefix("module ").and_then(|t| t.split_once(" is ")) {
        let state = state.strip_suffix(", as far as this node knows").unwrap_or(state);
        let is_word = |state: &str| state.starts_with(|c: char| c.is_ascii_uppercase());
        return match state.strip_prefix("not on ") {
            Some("this node") => Some(format!("モジュール {name} はこのノードにありません")),
            Some(node) => Some(format!("モジュール {name} は {node} にありません")),
            None if !is_word(state) => None,
            None => Some(match state.split_once(" on ") {
                Some((state, node)) => format!("モジュール {name} は {node} で {state} です"),
                None => {
                    let state = state.replace(", under way", "（処理中）").replace(", not ready", "（要対応）");
                    format!("モジュール {name} は {state} です")
                }
            }),
        };
    }
    if let Some(path) = text.strip_prefix("there is no program ") {
        return Some(format!("プログラム {path} がありません"));
    }
    if let Some(path) = text.strip_suffix(" is not executable") {
        return Some(format!("{path} に実行権限がありません"));
    }
    if let Some((exec, bound)) = text.split_once(": not ended within ") {
        return Some(format!("{exec}：{bound} 以内に終わりません"));
    }
    if let Some((exec, rest)) = text.split_once(" ended with ") {
        let (code, said) = rest.split_once(": ").map_or((rest, String::new()), |(code, said)| (code, format!("：{said}")));
        return code.parse::<i32>().ok().map(|code| format!("{exec} が終了コード {code} で終わりました{said}"));
    }
    None
}

fn running(count: &str, what: &str) -> String {
    let (what, expected) = match what.strip_suffix(" expected)").and_then(|w| w.rsplit_once(" (at ")) {
        Some((what, bound)) => (what, bound.split_once(' ')),
        None => (what, None),
    };
    let what = match what.split_once(" with arguments like ") {
        Some((name, pattern)) => format!("{name}（引数 {pattern}）"),
        None if what == "any process" => "任意のプロセス".to_owned(),
        None => what.to_owned(),
    };
    match expected {
        Some(("least", n)) => format!("動作中 {count} 個（{n} 個以上必要）：{what}"),
        Some((_, n)) => format!("動作中 {count} 個（{n} 個まで）：{what}"),
        None => format!("動作中 {count} 個：{what}"),
    }
}

fn not_connected(why: &str) -> String {
    if let Some(bound) = why.strip_prefix("no answer within ") {
        return format!("{bound} 以内に応答なし");
    }
    if let Some(bound) = why.strip_prefix("the name was not resolved within ") {
        return format!("{bound} 以内に名前を解決できず");
    }
    if let Some(error) = why.strip_prefix("the name cannot be resolved: ") {
        return format!("名前を解決できません：{error}");
    }
    match why {
        "refused" => "拒否されました".to_owned(),
        "the name has no address" => "名前にアドレスがありません".to_owned(),
        other => other.to_owned(),
    }
}

/// Why a replication connection ended, as the data process says it.
pub fn lost_session(lang: Lang, text: &str) -> String {
    // That it broke is said by the sentence around it.
    let text = text.strip_prefix("the connection broke: ").unwrap_or(text);
    if lang == Lang::En {
        return text.to_owned();
    }
    // As the follower tells it.
    let text = text.strip_prefix("the serving node ended the session: ").filter(|why| why.starts_with("what differs")).unwrap_or(text);
    if let Some(silence) = text.strip_prefix("the peer said nothing for ") {
        return format!("相手ノードから {silence} 応答がありません");
    }
    let ja = match text {
        "the serving node released the directories" => "稼働側のノードがディレクトリを解放しました",
        "the session ended" => "接続が終了しました",
        "the peer closed the session" => "相手ノードが接続を閉じました",
        "what differs between the two copies is copied again" => "2 つのコピーの違いを再同期します",
        "the connection broke during the resynchronisation" => "再同期の途中で切れました",
        other => other,
    };
    ja.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_checkers_say_is_said_in_japanese() {
        for (en, ja) in [
            ("198.18.0.100 is on eth0", "198.18.0.100 は eth0 に設定されています"),
            ("no witness answers", "確認用アドレスの応答がありません"),
            (
                "cannot open the replicated directory /srv/data; create it (or mount its file system) on this node and start the module again: No such file or directory (os error 2)",
                "複製するディレクトリ /srv/data を開けません。作成するか、そのファイルシステムをマウントしてください",
            ),
            ("198.18.0.100 is on no interface of this node", "198.18.0.100 はこのノードのどのインターフェイスにもありません"),
            ("1 running: nginx", "動作中 1 個：nginx"),
            ("0 running: db with arguments like `-D /x` (at least 1 expected)", "動作中 0 個（1 個以上必要）：db（引数 `-D /x`）"),
            ("9 running: any process (at most 2 expected)", "動作中 9 個（2 個まで）：任意のプロセス"),
            ("connect 10.0.0.1:80: open", "10.0.0.1:80 に接続できます"),
            ("connect web:80: refused", "web:80 に接続できません（拒否されました）"),
            ("connect web:80: no answer within 2s", "web:80 に接続できません（2s 以内に応答なし）"),
            ("ping 10.0.0.1: answer in 1.5 ms", "ping 10.0.0.1：1.5 ms で応答"),
            ("ping gw: no answer within 2s", "ping gw：応答がありません（2s 以内に応答なし）"),
            ("GET http://a/: 200 in 12 ms", "GET http://a/：ステータス 200、12 ms で応答"),
            ("GET http://a/: 200 in 12 ms, more than 10 ms", "GET http://a/：ステータス 200、12 ms で応答（上限 10 ms）"),
            ("GET http://a/: status 500, not 200-299", "GET http://a/：ステータス 500（期待値 200-299）"),
            ("GET http://a/: status 200, but `ok` is not in the answer", "GET http://a/：ステータス 200、応答に `ok` がありません"),
            ("90 % (load average 1.8 on 2 processors), more than 80 %", "90 %（ロードアベレージ 1.8、プロセッサー 2 個）（上限 80 %）"),
            ("12 MB (3 %) of memory available, less than 5 %", "使用可能なメモリー 12 MB (3 %)（下限 5 %）"),
            ("/srv: 7 MB (1 %) free, less than 100 MB", "/srv：空き容量 7 MB (1 %)（下限 100 MB）"),
            ("/srv: 1 % of the inodes free, less than 5 %", "/srv：空き inode 1 %（下限 5 %）"),
            ("eth0 is up", "eth0 は正常です"),
            ("eth0 has no carrier: cable or switch", "eth0 のリンクが切れています（ケーブルまたはスイッチ）"),
            ("module db is SECOND", "モジュール db は SECOND です"),
            ("module db is SECOND on n2", "モジュール db は n2 で SECOND です"),
            ("module db is PRIM, not ready", "モジュール db は PRIM（要対応） です"),
            ("module db is not on this node", "モジュール db はこのノードにありません"),
            ("/opt/check ended with 2: no space", "/opt/check が終了コード 2 で終わりました：no space"),
            ("the disk is on fire", "the disk is on fire"),
        ] {
            assert_eq!(detail(Lang::En, en), en);
            assert_eq!(detail(Lang::Ja, en), ja);
        }
    }

    #[test]
    fn why_a_session_was_lost_is_said_once_and_in_japanese() {
        let broken = "the connection broke: Broken pipe (os error 32)";
        assert_eq!(lost_session(Lang::En, broken), "Broken pipe (os error 32)");
        assert_eq!(lost_session(Lang::Ja, broken), "Broken pipe (os error 32)");
        assert_eq!(lost_session(Lang::Ja, "the peer said nothing for 2000 ms"), "相手ノードから 2000 ms 応答がありません");
    }
}
