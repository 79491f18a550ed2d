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
        pub const ALL: &[(&str, Text)] = &[$((stringify!($name), $name)),*];
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
        for (name, text) in ALL {
            assert!(!text.en.is_empty() && !text.ja.is_empty(), "{name}");
            assert!(!is_japanese(text.en), "{name}: the English text is Japanese: {}", text.en);
            assert!(is_japanese(text.ja), "{name}: the Japanese text has no Japanese: {}", text.ja);
            assert!(!text.en.contains('!') && !text.ja.contains(['!', '！']), "{name}: no exclamation marks");
        }
    }

    #[test]
    fn both_languages_have_the_same_blanks() {
        for (name, text) in ALL {
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
