//! Pages and their live blocks: view struct in, HTML out.
//!
//! Each page is one askama template; a live block is a named block of it, rendered alone by the same struct, so that
//! a page and its update cannot differ.

mod action;
mod chrome;
mod cluster;
mod clusters;
mod dashboard;
mod editor;
mod events;
mod module;
mod operation;
mod parts;
mod simple;
mod topology;
mod ui;

pub use action::{action, action_dialog};
pub use cluster::{cluster, cluster_blocks, cluster_config};
pub use clusters::{clusters, clusters_blocks};
pub use dashboard::{attention_count, dashboard, dashboard_blocks};
pub use editor::{module_config, module_config_problems};
pub use events::{events, events_blocks, level_word};
pub use module::{module, module_blocks};
pub use operation::{operation, operation_blocks};
pub use simple::{error, login, setup};

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
