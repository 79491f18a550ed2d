//! Every phrase of the console, once, in both languages side by side: a missing translation does not compile.
//!
//! Phrases with names or numbers are functions, because the two languages order them differently. What words the
//! *domain* (states, reasons, events) is in [`crate::say`]; this file words the furniture of the pages.

/// Language of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Japanese.
    Ja,
}

impl Lang {
    /// Both, for tests and for menus.
    pub const ALL: [Lang; 2] = [Lang::En, Lang::Ja];

    /// Value of `<html lang>`, of the cookie and of `--lang`.
    pub fn code(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Ja => "ja",
        }
    }

    /// `en`, `ja`, `ja_JP.UTF-8`, …; anything else is `None`.
    pub fn from_code(code: &str) -> Option<Lang> {
        match code.get(..2)?.to_ascii_lowercase().as_str() {
            "en" => Some(Lang::En),
            "ja" => Some(Lang::Ja),
            _ => None,
        }
    }

    /// The language an `Accept-Language` header asks for first among ours; English if it names neither.
    pub fn accepted(header: &str) -> Lang {
        let mut best = (0.0_f32, Lang::En);
        for part in header.split(',') {
            let mut fields = part.trim().split(';');
            let Some(lang) = fields.next().and_then(|tag| Lang::from_code(tag.trim())) else { continue };
            let weight = fields.find_map(|f| f.trim().strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, lang);
            }
        }
        best.1
    }
}

/// A phrase in both languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text {
    /// English.
    pub en: &'static str,
    /// Japanese.
    pub ja: &'static str,
}

impl Text {
    /// The phrase in `lang`.
    pub const fn in_(&self, lang: Lang) -> &'static str {
        match lang {
            Lang::En => self.en,
            Lang::Ja => self.ja,
        }
    }
}

/// Formats the same arguments in the language asked for; both templates must compile.
#[macro_export]
macro_rules! both {
    ($lang:expr, $en:literal, $ja:literal $(,)?) => {
        match $lang {
            $crate::text::Lang::En => format!($en),
            $crate::text::Lang::Ja => format!($ja),
        }
    };
}

const fn t(en: &'static str, ja: &'static str) -> Text {
    Text { en, ja }
}

/// Declares the phrases and, for the test that looks at each, a list of them all.
macro_rules! phrases {
    ($($(#[$doc:meta])* $name:ident = $en:literal, $ja:literal;)*) => {
        $($(#[$doc])* pub const $name: Text = t($en, $ja);)*
        /// Every phrase with its name.
        pub const PHRASES: &[(&str, Text)] = &[$((stringify!($name), $name)),*];
    };
}

phrases! {
    // Frame of every page
    SKIP = "Skip to the content", "本文へ移動";
    MENU = "Menu", "メニュー";
    DASHBOARD = "Dashboard", "ダッシュボード";
    CLUSTERS = "Clusters", "クラスター";
    EVENTS = "Events", "イベント";
    ADD_CLUSTER = "Add a cluster", "クラスターを追加";
    ADD_MODULE = "Add a module", "モジュールを追加";
    NEED_ATTENTION_SR = "need attention", "件の対応が必要";
    SEARCH = "Search clusters, nodes, modules", "クラスター・ノード・モジュールを検索";
    LANGUAGE = "Language", "言語";
    THEME = "Colours", "表示色";
    THEME_AUTO = "As the system", "システムに合わせる";
    THEME_LIGHT = "Light", "ライト";
    THEME_DARK = "Dark", "ダーク";
    ACCOUNT = "Account", "アカウント";
    SIGN_OUT = "Sign out", "サインアウト";
    ROLE_MONITOR = "Monitor: may read", "監視：閲覧のみ";
    ROLE_CONTROL = "Control: may operate modules", "操作：モジュールを操作できます";
    ROLE_ADMIN = "Administrator", "管理者";
    RETRY = "Retry", "再試行";

    // Live stream; {n}, {time} are filled in by the browser
    LIVE_ON = "Live", "ライブ更新中";
    LIVE_OFF = "As of", "取得時刻";
    LIVE_SLOW = "Live (slow)", "ライブ（低速）";
    LIVE_RECONNECTING = "Reconnecting…", "再接続中…";
    STALE = "The connection is cut. What you see is as of {time}.", "接続が切れています。{time} 時点の内容です。";
    LIVE_BACK = "Connected again. Everything is current.", "接続が戻りました。最新の内容です。";
    AGO_JUST = "just now", "たった今";
    AGO_MIN = "{n} min ago", "{n} 分前";
    AGO_HOUR = "{n} h ago", "{n} 時間前";
    AGO_DAY = "{n} days ago", "{n} 日前";
    LEFT_ONE = "less than 1 min left", "残り 1 分未満";
    LEFT_MIN = "about {n} min left", "残り約 {n} 分";
    COPIED = "Copied", "コピーしました";
    REQUEST_FAILED = "The console did not answer. Check the connection and try again.", "コンソールから応答がありません。接続を確認してもう一度実行してください。";

    // Dashboard
    NEEDS_ATTENTION = "Needs attention", "対応が必要です";
    NOTHING_TO_DO = "Nothing needs your attention.", "対応が必要なものはありません。";
    COMPARE_FINGERPRINT = "compare the fingerprint before you approve", "フィンガープリントを照合してから承認してください";
    INVESTIGATE = "Investigate", "調べる";
    INSPECT = "Inspect", "確認する";
    ALL_PROTECTED = "All protected", "すべて保護中";
    MODULE = "Module", "モジュール";
    ACTIONS = "Actions", "操作";
    OPEN = "Open", "開く";
    NOT_HERE = "does not live here", "このノードには配置されていません";
    NO_MODULES_HERE = "No modules in this cluster yet.", "このクラスターにはまだモジュールがありません。";
    NONE_MATCH = "No cluster matches.", "該当するクラスターはありません。";
    SHOW_ALL = "Show all", "すべて表示";
    CONNECTED = "in contact", "通信中";
    NO_CONTACT = "no contact", "通信なし";
    NEVER_SEEN = "never connected", "未接続";
    STALLED = "stalled", "停滞しています";
    FIRST_STEPS = "Three steps to a protected service", "3 つの手順でサービスを保護できます";
    FIRST_STEPS_WHAT = "Nothing is set up yet. Begin with a cluster: two servers that stand in for each other.", "まだ何も設定されていません。まず、互いに予備となる 2 台のサーバーでクラスターを作成します。";
    STEP_CLUSTER = "Create a cluster", "クラスターを作成";
    STEP_CLUSTER_WHAT = "Name the nodes and their addresses.", "ノードの名前とアドレスを登録します。";
    STEP_NODES = "Install the agent and approve the nodes", "エージェントを導入し、ノードを承認";
    STEP_NODES_WHAT = "The cluster's page makes the command for you; run it as root on each node.", "クラスターのページに表示されるコマンドを、各ノードで root として実行します。";
    STEP_MODULE = "Add a module", "モジュールを追加";
    STEP_MODULE_WHAT = "Choose a template, enter the virtual IP address and the directories to replicate.", "テンプレートを選び、仮想 IP アドレスと複製するディレクトリを入力します。";
    // Clusters and nodes
    BREADCRUMB = "Where you are", "現在の場所";
    NAME = "Name", "名前";
    HEALTH = "Health", "状態";
    NODE = "Node", "ノード";
    NODES = "Nodes", "ノード";
    MODULES = "Modules", "モジュール";
    CLUSTER = "Cluster", "クラスター";
    NO_MODULES = "no modules", "モジュールなし";
    NO_CLUSTERS = "No clusters yet.", "クラスターはまだありません。";
    NETWORKS = "Nodes and networks", "ノードとネットワーク";
    CLUSTER_EMPTY = "This cluster has no modules yet.", "このクラスターにはまだモジュールがありません。";
    CLUSTER_EMPTY_NEXT = "Enrol and approve its nodes, then add a module.", "ノードを登録・承認してから、モジュールを追加してください。";
    CLUSTER_PROTECTED = "The loss of one server stops no service for long: failover is automatic.", "サーバーが 1 台止まっても、自動フェイルオーバーで継続します。";
    ADDRESSES = "Addresses", "アドレス";
    AGENT = "Agent", "エージェント";
    APPROVAL = "Approval", "承認";
    APPROVED = "approved", "承認済み";
    APPROVE = "Approve", "承認";
    REJECT = "Reject", "拒否";
    NOT_ENROLLED = "not enrolled", "未登録";
    ENROLL_FIRST = "no agent has enrolled yet", "エージェントの登録を待っています";
    WAITS_FOR_APPROVAL = "waits for approval", "承認待ち";
    FINGERPRINT = "Fingerprint", "フィンガープリント";
    ADD_NODE = "Add a node", "ノードを追加";
    JOIN_WHAT = "A join command lets one agent enrol in this cluster. You approve the node afterwards.", "参加コマンドを使うと、エージェント 1 台をこのクラスターに登録できます。登録後に承認が必要です。";
    JOIN_MAKE = "Create a join command", "参加コマンドを作成";
    JOIN_RUN = "Run this as root on the new node:", "新しいノードで root として実行してください：";
    JOIN_ONCE = "It works once and is not shown again.", "1 回だけ使用でき、再表示できません。";
    VALID_UNTIL = "Valid until", "有効期限：";
    RECENT_EVENTS = "Recent events", "最近のイベント";
    ALL_EVENTS = "All events", "すべてのイベント";
    NO_EVENTS = "No events.", "イベントはありません。";
    CLUSTER_XML_WHAT = "Each network lists its nodes with their addresses. With two networks, one cable may fail without losing contact.", "ネットワークごとに、ノードとそのアドレスを書きます。経路を 2 つ用意すると、1 本が切れても通信を保てます。";
    CLUSTER_NAME = "Name of the cluster", "クラスター名";
    NAME_RULE = "1 to 63 letters a–z, A–Z, digits, - _ .", "半角英数字と - _ . で 1〜63 文字";
    CREATE = "Create", "作成";
    CANCEL = "Cancel", "キャンセル";

    // Configuration
    MODULE_NAME = "Name of the module", "モジュール名";
    MODULE_NODES = "Nodes", "配置するノード";
    MODULE_NODES_WHAT = "A mirror needs exactly two.", "ミラーには 2 台のノードが必要です。";
    TEMPLATE = "Template", "テンプレート";
    SCRIPTS = "Scripts", "スクリプト";
    SCRIPTS_WHAT = "They start and stop the application. An empty one is not stored.", "アプリケーションを起動・停止します。空のスクリプトは保存されません。";
    CHANGE_REASON = "Reason for the change", "変更理由";
    APPLY_RUNNING = "The module is running. Applying may restart its application on the nodes.", "モジュールは動作中です。適用するとアプリケーションが再起動することがあります。";
    CHECK_NOW = "Check", "検査";
    SAVE_ONLY = "Save without applying", "適用せずに保存";
    SAVE_APPLY = "Save and apply", "保存して適用";
    CHECK_RESULT = "Check", "検査結果";
    NO_PROBLEMS = "No problems found.", "問題は見つかりませんでした。";
    NOT_CHECKED = "Not checked yet.", "まだ検査していません。";
    NOTHING_CHANGED = "Nothing has been changed yet.", "まだ何も変更していません。";
    NOTHING_CHANGED_WHAT = "Nodes receive it only when it is applied; every version is kept.", "ノードへの配布は適用時に行います。すべての版が保存され、前の版に戻せます。";

    CHECKED_ON_SAVE = "It is checked when you save.", "保存するときに検査します。";
    CHECKED_ON_SAVE_WHAT = "A text with problems is not stored, and nothing changes.", "問題がある場合は保存されず、何も変わりません。";

    // Module
    CONFIGURATION = "Configuration", "設定";
    MORE = "More", "その他";
    COPY = "Copy the command", "コマンドをコピー";
    TOPOLOGY = "Topology", "構成図";
    CLIENTS = "Clients", "利用者";
    VIP_SHARED = "virtual IP, shared", "仮想 IP（共有）";
    VIP_NOT_HELD = "not set on any node", "どのノードにもなし";
    APPLICATION = "Application", "アプリケーション";
    APP_UNKNOWN = "unknown", "不明";
    APP_RUNNING = "running", "動作中";
    APP_CHANGING = "starting or stopping", "起動・停止中";
    APP_DOWN = "not running", "停止";
    APP_STOPPED = "stopped", "停止";
    APP_STOPPED_OK = "stopped (ok)", "待機（正常）";
    PATH_READY = "takes over by itself", "自動で引き継ぎ可能";
    PATH_MAINTAINED = "after the maintenance", "保守モードの終了後に引き継ぎ可能";
    PATH_AFTER_RESYNC = "failover path (after resync)", "再同期後に引き継ぎ可能";
    PATH_NONE = "cannot take over now", "現在は引き継ぎ不可";
    REPL_SYNC = "synchronous", "同期";
    REPL_SYNC_WHAT = "every write on both nodes", "書き込みは常に両ノードへ";
    REPL_OFF = "not replicating", "複製停止";
    DATA = "Data", "データ";
    DATA_RESYNC = "Data resync", "データの再同期";
    CALCULATING = "calculating", "計算中";
    DONE_AT = "done about", "完了予定";
    RESYNC_STILL = "Stalled: nothing has been copied for a while.", "停滞しています：しばらくデータが進んでいません。";
    COMPARED_TOTAL = "Compared / total", "照合済み / 全体";
    BYTES_COPIED = "Copied", "コピー済み";
    SPEED = "Speed", "速度";
    TRAFFIC = "Replication now", "現在のレプリケーション";
    FILES_CHECKED = "Files compared", "照合済みファイル";
    TO_NODE = "To", "コピー先";
    VERIFYING = "Copies being compared", "コピーを照合中";
    VERIFIED = "Copies last compared", "前回のコピーの照合";
    REPLICATED_DIR = "Replicated directory", "複製するディレクトリ";
    CONFIRMS = "A write is confirmed", "書き込みの完了";
    ACK_DISKS = "when it is on both disks", "両ノードのディスクに書いた時点";
    ACK_MEMORY = "when the secondary has received it", "セカンダリが受け取った時点";
    VIP = "Virtual IP", "仮想 IP アドレス";
    ARBITER = "Arbiter", "アービター";
    GOES_ON_BY = "Goes on without the other node if", "相手なしで続行する条件";
    REACHABLE = "reachable", "通信できます";
    CALM_SECOND = "Follows; takes over by itself if the primary stops.", "セカンダリとして待機中です。プライマリが止まると自動で引き継ぎます。";
    CALM_MAINTAINED = "Follows; takes over only after the maintenance.", "セカンダリとして待機中です。保守モードの間は引き継ぎません。";
    CALM_ALONE = "Serves without a backup.", "予備なしでサービスを提供しています。";
    CALM_SERVING = "Serves.", "サービスを提供しています。";
    MAINTENANCE_UNTIL = "Maintenance: nothing restarts or fails over by itself until", "保守モード：自動の再起動と切り替えは行いません。終了時刻";
    CHECKERS = "Checkers and resources", "チェッカーとリソース";
    NO_CHECKERS = "No checker reports.", "チェッカーの結果はありません。";
    ON_FAILURE = "On failure", "異常時の動作";
    VERSION = "Version", "版";
    VERSIONS = "Versions of the configuration", "設定の版";
    NO_VERSIONS = "No configuration stored.", "保存された設定はありません。";
    SAVED_AT = "Saved", "保存日時";
    SAVED_BY = "By", "保存者";
    IN_FORCE = "in force", "適用中";
    SHOW = "Show", "表示";
    APPLY = "Apply", "適用";
    EDIT = "Edit", "編集";

    // Actions
    WHAT_HAPPENS = "What will happen", "実行される処理";
    REHEARSED_NOTHING = "Nothing is run or moved there.", "このノードで実行・移動するものはありません。";
    MINUTES = "For how many minutes (1 to 1440)", "保守時間（1～1440 分）";
    CHECKED_BEFORE = "Checked just now", "事前の確認";
    NOT_MET = "not met", "満たしていません";
    DATA_CAN_BE_LOST = "Data can be lost for good", "データが完全に失われることがあります";
    DATA_CAN_BE_LOST_WHAT = "This decides which copy of the data is kept. It cannot be undone.", "どちらのデータを残すかを決める操作です。元に戻すことはできません。";
    REASON_OPTIONAL = "Reason (optional, kept in the events)", "理由（任意・イベントに記録されます）";
    REASON_REQUIRED = "Reason (required, kept in the events)", "理由（必須・イベントに記録されます）";
    STATE_CHANGED = "The state has changed since this was opened. Read the steps again, then confirm.", "表示後に状態が変わりました。内容をもう一度確認してから実行してください。";
    NAME_DIFFERS = "The typed name is not the module's name.", "入力した名前がモジュール名と一致しません。";
    REASON_MISSING = "A reason is required for this action.", "この操作には理由の入力が必要です。";
    NOT_ALLOWED_ACTION = "Your role does not allow this action. Ask an administrator.", "この操作を行う権限がありません。管理者に依頼してください。";
    ACTION_RUNNING = "Another action on this module is running. Wait until it has finished.", "このモジュールでは別の操作が進行中です。完了を待ってください。";

    // Operations
    OPERATION = "Operation", "実行状況";
    OP_QUEUED = "Waiting to be sent", "送信待ち";
    OP_RUNNING = "Running", "実行中";
    OP_SUCCEEDED = "Finished", "完了しました";
    OP_FAILED = "Did not complete", "完了しませんでした";
    OP_UNKNOWN = "Unknown: there is no contact; it is decided when the node connects", "不明：通信できません。ノードの接続時に判定します";
    TO_MODULE = "To the module", "モジュールへ";

    // Events
    FILTER = "Filter", "絞り込み";
    LEVEL = "Level", "レベル";
    ALL = "All", "すべて";
    AND_LOUDER = " and above", "以上";
    OLDER = "Older", "さらに前";

    // Set-up and sign-in
    SETUP = "Set up this console", "コンソールの初期設定";
    SETUP_WHAT = "Create the first administrator. This is possible only once.", "最初の管理者を作成します。この設定は 1 回だけ行えます。";
    SETUP_CODE = "Set-up code", "セットアップコード";
    SETUP_CODE_WHERE = "Printed in the console's log at its first start, and in the file setup-code of its data directory.", "コンソールの初回起動時のログと、データディレクトリの setup-code ファイルに書かれています。";
    SETUP_DO = "Create the administrator", "管理者を作成";
    SETUP_WRONG_CODE = "That is not the set-up code. Copy it from the console's log.", "セットアップコードが違います。コンソールのログからコピーしてください。";
    ADMIN_USER = "Administrator's name", "管理者の名前";
    USER = "User", "ユーザー名";
    PASSWORD = "Password", "パスワード";
    PASSWORD_AGAIN = "Password again", "パスワード（確認）";
    PASSWORD_RULE = "A long one is better than a complicated one.", "複雑さより長さを重視してください。";
    PASSWORDS_DIFFER = "The two passwords are not the same.", "2 つのパスワードが一致しません。";
    BAD_USER = "The name may have 1 to 63 letters a–z, A–Z, digits, - _ .", "名前は半角英数字と - _ . で 1〜63 文字にしてください。";
    SIGN_IN = "Sign in", "サインイン";
    LOGIN_WRONG = "The name or the password is not right.", "ユーザー名またはパスワードが違います。";
    LOGIN_EXPIRED = "Your session has ended. Sign in again.", "セッションが終了しました。もう一度サインインしてください。";

    // What cannot be shown
    TO_DASHBOARD = "To the dashboard", "ダッシュボードへ";
    ERR_NOT_FOUND = "This page does not exist", "ページが見つかりません";
    ERR_NOT_FOUND_DO = "The cluster, node or module may have been removed or renamed.", "クラスター・ノード・モジュールが削除されたか、名前が変わった可能性があります。";
    ERR_NOT_ALLOWED = "Your role does not allow this", "この操作を行う権限がありません";
    ERR_NOT_ALLOWED_DO = "Ask an administrator for the role you need.", "必要な権限を管理者に依頼してください。";
    ERR_BAD_REQUEST = "The request could not be understood", "要求の内容を解釈できません";
    ERR_INTERNAL = "The console could not do this", "コンソールで処理できませんでした";
    ERR_UNAVAILABLE = "The console is busy or just starting", "コンソールが混雑しているか、起動中です";
    ERR_UNAVAILABLE_DO = "Try again in a few seconds. Modules are not affected.", "数秒後にもう一度実行してください。モジュールの動作には影響ありません。";
    ASK_ADMIN = "An administrator must do this.", "この操作には管理者の権限が必要です。";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hiragana, katakana or kanji.
    fn is_japanese(text: &str) -> bool {
        text.chars().any(|c| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}'))
    }

    #[test]
    fn every_phrase_is_written_in_both_languages() {
        for (name, text) in PHRASES {
            assert!(!text.en.is_empty() && !text.ja.is_empty(), "{name}");
            assert!(!is_japanese(text.en), "{name}: the English text is Japanese: {}", text.en);
            assert!(is_japanese(text.ja), "{name}: the Japanese text has no Japanese: {}", text.ja);
            assert!(!text.en.contains('!') && !text.ja.contains(['!', '！']), "{name}: no exclamation marks");
        }
    }

    #[test]
    fn both_languages_have_the_same_blanks() {
        for (name, text) in PHRASES {
            for blank in ["{n}", "{time}"] {
                assert_eq!(text.en.contains(blank), text.ja.contains(blank), "{name}: {blank}");
            }
        }
    }

    #[test]
    fn the_browser_s_wish_is_followed() {
        assert_eq!(Lang::accepted("ja,en-US;q=0.9,en;q=0.8"), Lang::Ja);
        assert_eq!(Lang::accepted("en-GB,ja;q=0.5"), Lang::En);
        assert_eq!(Lang::accepted("fr-FR,fr;q=0.9,ja;q=0.2"), Lang::Ja);
        assert_eq!(Lang::accepted("fr"), Lang::En);
        assert_eq!(Lang::accepted(""), Lang::En);
    }
}
