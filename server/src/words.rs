//! A sentence in both languages, made where the facts are and chosen where the answer is written.

use serde::{Deserialize, Serialize};
use tsugi_core::module::xml::Problem;
use tsugi_web::say::{problem_message, problem_remedy};
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
    /// What is wrong with a configuration.
    pub fn of_problem(problem: &Problem) -> Words {
        Words { en: problem_message(Lang::En, problem), ja: problem_message(Lang::Ja, problem) }
    }
    /// What to do about it.
    pub fn of_remedy(problem: &Problem) -> Words {
        Words { en: problem_remedy(Lang::En, problem), ja: problem_remedy(Lang::Ja, problem) }
    }
    /// In `lang`.
    pub fn of(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Ja => &self.ja,
        }
    }
}
