//! Pages and their live blocks: view struct in, HTML out.
//!
//! Each page is one askama template; a live block is a named block of it, rendered alone by the same struct, so that
//! a page and its update cannot differ.

mod chrome;
mod dashboard;
mod parts;
mod ui;

pub use dashboard::{attention_count, dashboard, dashboard_blocks};

use crate::live_ids::Block;
use crate::say::Mark;
use crate::text as p;
use crate::view::Chrome;
use askama::Template;
use std::fmt::Display;

/// Renders a template. Surrounding white space of a block goes: a live frame holds the element and nothing else.
fn out(template: &impl Display) -> String {
    template.to_string().trim().to_owned()
}

#[derive(Template)]
#[template(path = "parts/card.html")]
struct CardPart<'a> {
    c: &'a Chrome,
    card: &'a parts::Card,
}

fn card_block(c: &Chrome, card: &parts::Card) -> Block {
    Block { id: format!("card-{}", card.cluster), html: out(&CardPart { c, card }) }
}
