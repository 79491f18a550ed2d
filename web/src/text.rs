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
    DASHBOARD = "Dashboard", "ダッシュボード";
    CLUSTERS = "Clusters", "クラスター";
    EVENTS = "Events", "イベント";
}
