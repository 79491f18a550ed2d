//! Files: a configuration that is checked where it lies, and what scripts printed.

use crate::{Agent, Stop, exit};
use std::path::Path;
use tsugi_agent::rfs::excluded;
use tsugi_core::ids::ModuleName;
use tsugi_core::module::xml::{self, ParseContext};
use tsugi_core::wire::local::{Reply, Request};
use tsugi_web::text::Lang;
use tsugi_web::{both, say};

/// Every problem of a userconfig.xml, one a line. What depends on cluster and nodes is checked when it is uploaded.
pub fn confcheck(lang: Lang, file: &Path) -> Result<u8, Stop> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        let text = both!(
            lang,
            "{name} cannot be read: {error}. Remedy: give the path of a userconfig.xml.",
            "{name} を読めません：{error}。userconfig.xml のパスを指定してください。"
        );
        Stop { text, code: exit::USAGE }
    })?;
    let parsed = xml::parse(&text, &ParseContext::default());
    // What the reader leaves to whoever uses it.
    let unusable = parsed.def.as_ref().map(excluded::problems).unwrap_or_default();
    for problem in parsed.problems.iter().chain(&unusable) {
        let p = say::problem(lang, &name.to_string(), problem);
        let warning = if p.is_warning { both!(lang, " (warning)", "（警告）") } else { String::new() };
        println!("{name}:{}:{} {}{warning}: {} {}", p.line, p.column, p.element, p.message, p.remedy.unwrap_or_default());
    }
    Ok(if parsed.def.is_some() && unusable.is_empty() { 0 } else { exit::REFUSED })
}

/// The output files of a module's scripts, or what is in the newest one of `script`.
pub async fn log(agent: &Agent, module: ModuleName, script: Option<String>) -> Result<u8, Stop> {
    match agent.ask(&Request::ScriptLog { module, script }).await? {
        Reply::ScriptLog { files, text } => {
            match text {
                Some(text) => print!("{text}"),
                None => files.iter().for_each(|file| println!("{file}")),
            }
            Ok(0)
        }
        other => Err(agent.unexpected(&other)),
    }
}
