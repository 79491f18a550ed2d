//! Small pieces of markup used in the templates. Everything here is already escaped.

use crate::say::{Mark, Said};
use crate::view::Chrome;
use crate::{assets, fmt};
use askama::filters::HtmlSafe;
use std::fmt::{Display, Formatter, Result};

/// Markup that the template writes as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Display for Html {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(&self.0)
    }
}
impl HtmlSafe for Html {}

impl Html {
    /// Of text that is escaped already, or needs no escaping.
    pub(crate) fn ready(text: String) -> Html {
        Html(text)
    }
}

impl Mark {
    pub(crate) fn is_stopped(&self) -> bool {
        *self == Mark::Stopped
    }
    pub(crate) fn is_red(&self) -> bool {
        *self == Mark::NotReady
    }
    /// The shape, in its colour. Always beside a word, therefore hidden from screen readers.
    pub(crate) fn svg(self, size: &str) -> Html {
        Html(format!(
            "<svg class=\"sh {size} {}\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><use href=\"#{}\"/></svg>",
            self.tone(),
            self.shape()
        ))
    }
}

/// An icon of the sprite.
pub(crate) fn icon(id: &str) -> Html {
    Html(format!("<svg class=\"ic\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><use href=\"#{id}\"/></svg>"))
}

/// The product's mark: two pieces of a joint.
pub(crate) fn logo() -> Html {
    Html(
        "<svg class=\"logo\" viewBox=\"0 0 32 32\" aria-hidden=\"true\"><rect width=\"32\" height=\"32\" rx=\"8\" fill=\"#1f5fd0\"/>\
         <path d=\"M6 8h13v5.2h-4.6V24H9.8V13.2H6z\" fill=\"#fff\"/><path d=\"M26 24H16.2v-5.2h3.9V8H26z\" fill=\"#8fc0ff\"/></svg>"
            .to_owned(),
    )
}

/// URL of an asset.
pub(crate) fn asset(file: &str) -> String {
    format!("{}{}", assets::BASE, assets::of(file).name)
}

/// `integrity=` of an asset.
pub(crate) fn integrity(file: &str) -> &'static str {
    &assets::of(file).integrity
}

/// Settings of htmx: no evaluation, no injected styles, own host only, no page history in browser storage.
pub(crate) fn htmx_config() -> Html {
    Html(
        concat!(
            r#"{"allowEval":false,"allowScriptTags":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"#,
            r#""historyCacheSize":0,"historyRestoreAsHxRequest":false,"timeout":15000,"responseHandling":["#,
            r#"{"code":"204","swap":false},{"code":"[23]..","swap":true},{"code":"(409|422)","swap":true},"#,
            r#"{"code":"[45]..","swap":false,"error":true}]}"#
        )
        .to_owned(),
    )
}

/// First letter of a name, for the round button.
pub(crate) fn initial(name: &str) -> String {
    name.chars().next().map(|c| c.to_uppercase().collect()).unwrap_or_default()
}

/// `<time>` with its text; `kind` says to `live.js` how to keep it current (`clock`, `date`, `ago`).
pub(crate) fn time(unix_ms: u64, kind: &str, text: &str) -> Html {
    Html(format!("<time datetime=\"{}\" data-{kind}>{text}</time>", fmt::rfc3339(unix_ms)))
}

/// The square with a hole without its alarm: something that is rightly off here.
pub(crate) fn plain_stopped() -> Html {
    Html("<svg class=\"sh s16 c-unk\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><use href=\"#s-stopped\"/></svg>".to_owned())
}

/// Where a command is to be run, and whether it is the last resort.
pub(crate) fn command_label(c: &Chrome, said: &Said) -> String {
    said.command_label(c.lang)
}
