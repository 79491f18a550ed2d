//! Writes every page with made-up facts into a folder, in both languages and both colour schemes, to be looked at.
//!
//! `cargo run -p tsugi-web --example gallery -- /tmp/gallery`

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;
use tsugi_web::text::Lang;
use tsugi_web::view::Theme;
use tsugi_web::{assets, render};

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "gallery".to_owned()));
    std::fs::create_dir_all(dir.join("assets"))?;
    for asset in assets::all() {
        std::fs::write(dir.join("assets").join(&asset.name), asset.bytes)?;
    }
    for lang in Lang::ALL {
        for theme in [Theme::Light, Theme::Dark] {
            let name = |page: &str| format!("{page}-{}-{}.html", lang.code(), theme.word());
            let mut pages = common::pages(lang, theme);
            let dashboard = pages[0].1.clone();
            let dialog = render::action_dialog(&common::swap(common::chrome(lang, theme, "/", None)));
            // Only for the picture: an open dialog without scripts.
            let dialog = dialog.replace("<dialog ", "<dialog open ");
            pages.push(("dialog", dashboard.replace("<div id=\"dialog-slot\"></div>", &format!("<div id=\"dialog-slot\">{dialog}</div>"))));
            for (page, html) in pages {
                // Files instead of a server: paths become relative; integrity cannot be checked for files.
                let html = html.replace("\"/assets/", "\"assets/").replace("integrity=", "data-integrity=");
                std::fs::write(dir.join(name(page)), html)?;
            }
        }
    }
    println!("pages are in {}", dir.display());
    Ok(())
}
