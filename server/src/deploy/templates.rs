//! The module templates shipped with the console, part of the binary.

use crate::words::Words;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A template: the files of a module, and what it is called.
#[derive(Debug, Clone)]
pub struct Template {
    /// Word in URLs.
    pub id: String,
    /// Title for people.
    pub title: Words,
    /// `conf/userconfig.xml`.
    pub userconfig: &'static str,
    /// File name under `bin/` → text.
    pub scripts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    name: String,
    title: Title,
}

#[derive(Deserialize)]
struct Title {
    en: String,
    ja: String,
}

macro_rules! template {
    ($dir:literal, [$($file:literal),*]) => {
        (
            include_str!(concat!("../../../modules/", $dir, "/manifest.json")),
            include_str!(concat!("../../../modules/", $dir, "/conf/userconfig.xml")),
            &[$(($file, include_str!(concat!("../../../modules/", $dir, "/bin/", $file)))),*],
        )
    };
}

type Files = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const SHIPPED: [Files; 4] = [
    template!("mirror", ["common.sh", "prestart", "start_prim", "stop_prim"]),
    template!("postgresql", ["common.sh", "prestart", "start_prim", "stop_prim"]),
    template!("ledger", ["common.sh", "prestart", "start_prim", "stop_prim"]),
    template!("light", ["common.sh", "prestart", "start_both", "stop_both"]),
];

/// Every template, the general one first.
pub fn all() -> Vec<Template> {
    SHIPPED
        .iter()
        .map(|(manifest, userconfig, scripts)| {
            let manifest: Manifest = serde_json::from_str(manifest).expect("the shipped manifests are read by a test");
            Template {
                id: manifest.name,
                title: Words::new(manifest.title.en, manifest.title.ja),
                userconfig,
                scripts: scripts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shipped_template_is_readable_and_has_its_scripts() {
        let all = super::all();
        assert_eq!(all.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["mirror", "postgresql", "ledger", "light"]);
        assert!(all.iter().all(|t| t.scripts.keys().any(|s| s == "start_prim" || s == "start_both") && t.userconfig.contains("<safe>")));
    }
}
