//! What all pages share: menu, switches, times.

use super::ui::{self, Html};
use crate::fmt;
use crate::live_ids::Block;
use crate::text::{self as p, Lang, Text};
use crate::view::{Chrome, Role, Theme};
use std::borrow::Borrow;

/// Id of the number in the menu.
const BADGE: &str = "menu-badge";

/// An entry of the menu.
pub(crate) struct MenuItem {
    pub href: &'static str,
    pub icon: &'static str,
    pub label: Text,
    pub is_here: bool,
    /// Has the number of what needs attention.
    pub has_badge: bool,
}

/// An entry of the theme menu.
pub(crate) struct ThemeItem {
    pub word: &'static str,
    pub label: Text,
    pub is_on: bool,
}

impl Chrome {
    pub(crate) fn t(&self, text: impl Borrow<Text>) -> &'static str {
        text.borrow().in_(self.lang)
    }
    pub(crate) fn is_ja(&self) -> bool {
        self.lang == Lang::Ja
    }
    pub(crate) fn is_admin(&self) -> bool {
        self.role() >= Role::Admin
    }
    pub(crate) fn can_control(&self) -> bool {
        self.role() >= Role::Control
    }
    pub(crate) fn role_name(&self) -> &'static str {
        self.t(match self.role() {
            Role::Monitor => p::ROLE_MONITOR,
            Role::Control => p::ROLE_CONTROL,
            Role::Admin => p::ROLE_ADMIN,
        })
    }
    pub(crate) fn clock(&self, unix_ms: &u64) -> Html {
        ui::time(*unix_ms, "clock", &fmt::clock(*unix_ms, self.tz_offset_minutes))
    }
    pub(crate) fn date(&self, unix_ms: &u64) -> Html {
        ui::time(*unix_ms, "date", &fmt::date_clock(*unix_ms, self.tz_offset_minutes))
    }
    /// The clock alone today, month and day before it on other days.
    pub(crate) fn when(&self, unix_ms: &u64) -> Html {
        let (at, now) = (fmt::date_clock(*unix_ms, self.tz_offset_minutes), fmt::date_clock(self.now_unix_ms, self.tz_offset_minutes));
        let text = if at[..10] == now[..10] { &at[11..] } else { &at[5..16] };
        ui::time(*unix_ms, "when", text)
    }
    pub(crate) fn ago(&self, unix_ms: &u64) -> Html {
        ui::time(*unix_ms, "ago", &fmt::ago(self.lang, *unix_ms, self.now_unix_ms))
    }
    pub(crate) fn menu(&self) -> Vec<MenuItem> {
        let path = self.path.split('?').next().unwrap_or("/");
        let item = |href, icon, label, is_here, has_badge| MenuItem { href, icon, label, is_here, has_badge };
        let mut items = vec![
            item("/", "i-dash", p::DASHBOARD, path == "/", true),
            item("/clusters", "i-clusters", p::CLUSTERS, path.starts_with("/clusters") && path != "/clusters/new", false),
            item("/events", "i-events", p::EVENTS, path.starts_with("/events"), false),
        ];
        if self.is_admin() {
            items.push(item("/clusters/new", "i-plus", p::ADD_CLUSTER, path == "/clusters/new", false));
        }
        items
    }
    /// The number beside the dashboard's entry: what needs attention, live on every page that is.
    pub(crate) fn badge(&self) -> Html {
        let hidden = if self.attention == 0 { " hidden" } else { "" };
        let (count, what) = (self.attention, self.t(p::NEED_ATTENTION_SR));
        Html::ready(format!("<b class=\"badge\" id=\"{BADGE}\"{hidden}>{count}<span class=\"sr\"> {what}</span></b>"))
    }
    /// … as a block.
    pub(crate) fn badge_block(&self) -> Block {
        Block { id: BADGE.to_owned(), html: self.badge().to_string() }
    }
    pub(crate) fn themes(&self) -> [ThemeItem; 3] {
        let item = |theme: Theme, label| ThemeItem { word: theme.word(), label, is_on: self.theme == theme };
        [item(Theme::Auto, p::THEME_AUTO), item(Theme::Light, p::THEME_LIGHT), item(Theme::Dark, p::THEME_DARK)]
    }
}
