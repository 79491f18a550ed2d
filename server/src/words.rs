//! A sentence in both languages, made where the facts are and chosen where the answer is written.

use serde::{Deserialize, Serialize};
pub use tsugi_web::say::{problem_message, problem_remedy};
pub use tsugi_web::text::Lang;

/// A sentence, in English and Japanese.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Words {
    /// English.
    pub en: String,
    /// Japanese.
    pub ja: String,
}

impl Words {
    /// Both languages, English first.
    pub fn new(en: impl Into<String>, ja: impl Into<String>) -> Words {
        Words { en: en.into(), ja: ja.into() }
    }
    /// Text that is the same in both (names, words of another program).
    pub fn same(text: impl Into<String>) -> Words {
        let text = text.into();
        Words { en: text.clone(), ja: text }
    }
    /// What `say` says in each language.
    pub fn both(say: impl Fn(Lang) -> String) -> Words {
        Words { en: say(Lang::En), ja: say(Lang::Ja) }
    }
    /// In `lang`.
    pub fn of(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Ja => &self.ja,
        }
    }
}
