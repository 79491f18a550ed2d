//! A sentence in both languages, made where the facts are and chosen where the answer is written.

use serde::{Deserialize, Serialize};

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
    /// In `lang`.
    pub fn of(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Ja => &self.ja,
        }
    }
}

/// A language of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Japanese.
    Ja,
}

impl Lang {
    /// The language an `Accept-Language` header asks for first among ours; English if it names neither.
    pub fn accepted(header: &str) -> Lang {
        let mut best = (0.0_f32, Lang::En);
        for part in header.split(',') {
            let mut fields = part.trim().split(';');
            let tag = fields.next().unwrap_or_default().trim().to_ascii_lowercase();
            let lang = match tag.get(..2) {
                Some("en") => Lang::En,
                Some("ja") => Lang::Ja,
                _ => continue,
            };
            let weight = fields.find_map(|f| f.trim().strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, lang);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_chooses_the_language_it_prefers() {
        assert_eq!(Lang::accepted("ja-JP,ja;q=0.9,en;q=0.8"), Lang::Ja);
        assert_eq!(Lang::accepted("de,en;q=0.5,ja;q=0.4"), Lang::En);
        assert_eq!(Lang::accepted(""), Lang::En);
    }
}
