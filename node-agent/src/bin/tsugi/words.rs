//! Furniture of the command line's texts. What words the domain is in `tsugi_web::say`.

use tsugi_core::state::State;
use tsugi_web::text::{Lang, Text};

pub const DATA: Text = Text { en: "data", ja: "データ" };
pub const MAINTENANCE: Text = Text { en: "maintenance to", ja: "保守の終了" };
pub const PEER: Text = Text { en: "other node", ja: "相手ノード" };
pub const REPLICATION: Text = Text { en: "replication", ja: "複製" };
pub const RESYNC: Text = Text { en: "resync", ja: "再同期" };
pub const DIRECTORY: Text = Text { en: "directory", ja: "ディレクトリ" };
pub const REACH: Text = Text { en: "last resync", ja: "前回の再同期" };
pub const REACH_WHOLE: Text = Text { en: "compared everything", ja: "すべてを照合" };
pub const REACH_NOTED: Text = Text { en: "compared what was noted as changed", ja: "変更の記録があるものだけを照合" };
pub const REACH_LOGGED: Text = Text {
    en: "compared what either node had noted or logged as changed",
    ja: "両ノードで変更の記録があるものだけを照合",
};
pub const REACH_REST: Text = Text { en: "went on where the one before was interrupted", ja: "中断した前回の続きから実行" };
pub const TRAFFIC: Text = Text { en: "speed now", ja: "現在の速度" };
pub const TRANSPORT: Text = Text { en: "requests", ja: "要求" };
pub const OVER_IO_URING: Text = Text { en: "over io_uring", ja: "io_uring 経由" };
pub const OVER_DEVICE: Text = Text { en: "over /dev/fuse", ja: "/dev/fuse 経由" };
pub const STREAM: Text = Text { en: "operations", ja: "操作" };
pub const WAITING: Text = Text { en: "waiting", ja: "応答待ち" };
pub const COMPARISON: Text = Text { en: "comparison", ja: "照合" };
pub const DIFFERS: Text = Text { en: "differed", ja: "違い" };
pub const NEVER_COMPARED: Text = Text { en: "never", ja: "未実施" };
pub const LEVEL: Text = Text {
    en: "Both copies are level; `tsugi rfs verify` compares them.",
    ja: "両方のコピーは一致しているはずです。`tsugi rfs verify` で照合できます。",
};
pub const BEING_LEVELLED: Text =
    Text { en: "The other node is being brought level just now.", ja: "相手ノードを再同期しているところです。" };
pub const EVERYTHING_COMPARED: Text = Text {
    en: "It is not known what differs: everything will be compared when the other node returns.",
    ja: "違いは分かりません。相手ノードが戻ったときに、すべてを照合します。",
};
pub const VIP: Text = Text { en: "address", ja: "仮想 IP" };
pub const ARBITER: Text = Text { en: "arbiter", ja: "アービター" };
pub const GOES_ON_BY: Text = Text { en: "goes on by", ja: "続行の条件" };
pub const SINCE: Text = Text { en: "since", ja: "開始時刻" };
pub const RUN: Text = Text { en: "to do", ja: "実行" };
pub const NETWORK: Text = Text { en: "network", ja: "ネットワーク" };
pub const RESOURCE: Text = Text { en: "resource", ja: "リソース" };
pub const ORDERS: Text = Text { en: "possible", ja: "実行可能" };
pub const RECORD: Text = Text { en: "record", ja: "記録" };
pub const CONFIGURATION: Text = Text { en: "configuration", ja: "構成" };
pub const IN_CONTACT: Text = Text { en: "in contact", ja: "通信中" };
pub const NO_CONTACT: Text = Text { en: "no contact", ja: "通信なし" };
pub const NOTHING: Text = Text {
    en: "No module is configured on this node. Remedy: create one on the console and apply it.",
    ja: "このノードにはモジュールがありません。コンソールで作成して適用してください。",
};
pub const NO_RESOURCE: Text = Text { en: "This module has no resource", ja: "このモジュールにリソースがありません：" };
pub const SWITCHED_ON: Text = Text { en: "on", ja: "有効" };
pub const SWITCHED_OFF: Text = Text { en: "off: nothing of this is watched", ja: "無効：監視していません" };
pub const GENERATED: Text = Text { en: "of the checker", ja: "チェッカーのルール" };
pub const WRITTEN: Text = Text { en: "of the configuration", ja: "構成に書かれたルール" };
pub const AFTER: Text = Text { en: "done after", ja: "実行までの時間" };
pub const WAKEUP: Text = Text {
    en: "wakeup (implicit): when no rule with wait() fires any more, the module goes on",
    ja: "wakeup（暗黙）：wait() のルールがどれも成立しなくなると、モジュールは再開します",
};
pub const NODE: Text = Text { en: "node", ja: "ノード" };
pub const CLUSTER: Text = Text { en: "cluster", ja: "クラスター" };
pub const VERSION: Text = Text { en: "version", ja: "バージョン" };
pub const CONSOLE: Text = Text { en: "console", ja: "コンソール" };
pub const CONNECTED: Text = Text { en: "connected", ja: "接続中" };
pub const NOT_CONNECTED: Text = Text {
    en: "not connected (modules go on; the agent keeps trying)",
    ja: "未接続（モジュールは稼働を続けます。自動で再接続します）",
};
pub const NOT_ENROLLED: Text = Text { en: "not enrolled", ja: "未登録" };

/// For clap: a state, in large or small letters.
pub fn state_of(word: &str) -> Result<State, String> {
    let all = [State::Stop, State::Wait, State::Alone, State::Prim, State::Second, State::Up];
    all.into_iter().find(|s| s.word().eq_ignore_ascii_case(word)).ok_or_else(|| "STOP, WAIT, ALONE, PRIM, SECOND or UP".to_owned())
}

/// For clap: `en` or `ja`.
pub fn lang_of(code: &str) -> Result<Lang, String> {
    Lang::from_code(code).ok_or_else(|| "en or ja".to_owned())
}

/// Language of the environment, as every program finds it.
pub fn lang_of_environment() -> Lang {
    let first = ["LC_ALL", "LC_MESSAGES", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    first.and_then(|code| Lang::from_code(&code)).unwrap_or_default()
}
