//! Blocks of live pages, kept for whoever else watches the same. Knows nothing of what is in them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OnceCell;

/// A block, rendered.
#[derive(Debug)]
pub struct Rendered {
    /// Element id.
    pub id: String,
    /// The element.
    pub html: String,
    /// SHA-256 of it.
    pub hash: [u8; 32],
}

/// Scope, language and role: what decides how a block looks.
pub type Look = (String, &'static str, &'static str);
/// Rendered once, awaited by everybody who wants the same.
pub type Cell = Arc<OnceCell<Arc<Vec<Rendered>>>>;
/// Pages rendered for the newest change that are kept for other viewers; more looks than that are rendered anew.
const LOOKS_MAX: usize = 64;

/// Blocks of live pages as of the newest change, shared by all their viewers: two hundred dashboards cost one.
#[derive(Debug, Default)]
pub struct RenderedPages(Mutex<BTreeMap<Look, (u64, Cell)>>);

impl RenderedPages {
    /// The place of a page as of change `seq`; an older one gives way.
    pub fn cell(&self, look: Look, seq: u64) -> Cell {
        let mut pages = self.0.lock().expect("nobody panics while holding this lock");
        if pages.len() >= LOOKS_MAX && !pages.contains_key(&look) {
            pages.clear();
        }
        let (at, cell) = pages.entry(look).or_insert_with(|| (seq, Cell::default()));
        if *at < seq {
            (*at, *cell) = (seq, Cell::default());
        }
        cell.clone()
    }
}
