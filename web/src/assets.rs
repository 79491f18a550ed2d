//! Files the browser fetches, embedded in the binary. Names carry a hash of the contents, so that they may be cached
//! for ever and a new console never runs with an old script.

use base64::Engine as _;
use std::sync::LazyLock;

/// Value of `Cache-Control` for every asset.
pub const CACHE_CONTROL: &str = "public, max-age=31536000, immutable";
/// Path under which the server gives assets: `/assets/{name}`.
pub const BASE: &str = "/assets/";

/// One embedded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Name as written in the templates (`console.css`).
    pub file: &'static str,
    /// Name with the hash (`console.3f2a….css`): the last part of its URL.
    pub name: String,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `sha384-…` for `integrity=`.
    pub integrity: String,
    /// The contents.
    pub bytes: &'static [u8],
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    const JS: &str = "text/javascript; charset=utf-8";
    vec![
        asset("console.css", "text/css; charset=utf-8", include_bytes!("../static/console.css")),
        asset("live.js", JS, include_bytes!("../static/live.js")),
        asset("htmx-2.0.11.min.js", JS, include_bytes!("../static/htmx-2.0.11.min.js")),
        asset("idiomorph-0.7.4.min.js", JS, include_bytes!("../static/idiomorph-0.7.4.min.js")),
        asset("logo.svg", "image/svg+xml", include_bytes!("../static/logo.svg")),
    ]
});

fn asset(file: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    let short: String = ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()[..6].iter().map(|b| format!("{b:02x}")).collect();
    let sum = ring::digest::digest(&ring::digest::SHA384, bytes);
    let integrity = format!("sha384-{}", base64::engine::general_purpose::STANDARD.encode(sum.as_ref()));
    let (stem, ending) = file.rsplit_once('.').unwrap_or((file, "bin"));
    Asset { file, name: format!("{stem}.{short}.{ending}"), content_type, integrity, bytes }
}

/// Every asset.
pub fn all() -> &'static [Asset] {
    &ASSETS
}

/// The asset of a hashed name, as asked for by `GET /assets/{name}`.
pub fn get(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|a| a.name == name)
}

/// The asset of a plain name, for the templates.
pub(crate) fn of(file: &str) -> &'static Asset {
    ASSETS.iter().find(|a| a.file == file).expect("templates name only files of the table above; a test renders them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_names_find_their_file() {
        for asset in all() {
            assert_eq!(get(&asset.name).map(|a| a.file), Some(asset.file));
            assert_ne!(asset.name, asset.file);
            assert!(!asset.bytes.is_empty(), "{}", asset.file);
        }
        assert_eq!(get("console.css"), None, "an unhashed name must not be cached for ever");
    }

    #[test]
    fn vendored_files_are_those_of_the_table() {
        let table = include_str!("../static/VENDORED.md");
        for asset in all().iter().filter(|a| a.file.contains(".min.")) {
            let sum: String =
                ring::digest::digest(&ring::digest::SHA256, asset.bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
            assert!(table.contains(&format!("| {} ", asset.file)) && table.contains(&sum), "{} {sum}", asset.file);
        }
    }

    #[test]
    fn budgets_hold() {
        let size = |file: &str| of(file).bytes.len();
        assert!(size("console.css") <= 25 * 1024, "console.css {}", size("console.css"));
        let scripts: usize = all().iter().filter(|a| a.file.ends_with(".js")).map(|a| a.bytes.len()).sum();
        assert!(scripts <= 80 * 1024, "scripts {scripts}");
    }
}
