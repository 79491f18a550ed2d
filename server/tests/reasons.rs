//! One reason, one remedy, whoever asks: what API and page show of each blocked state is what `tsugi_web::say` says.
//! `node-agent/tests/cli.rs` holds the command line to the same.

#![allow(clippy::unwrap_used)]

mod common;

use common::Console;
use reqwest::header;
use serde_json::{Value, json};
use tsugi_core::ids::NodeName;
use tsugi_core::state::{Readiness, Reason, Snapshot, State};
use tsugi_web::say;
use tsugi_web::text::Lang;

const API: &str = "/api/v1/clusters/c1/modules/files";
const PAGE: &str = "/clusters/c1/modules/files";

async fn text(console: &Console, path: &str, lang: &str) -> String {
    let request = console.client.get(console.url(path)).bearer_auth(&console.token).header(header::ACCEPT_LANGUAGE, lang);
    request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// What a reader sees of a piece of HTML.
fn plain(html: &str) -> String {
    let mut out = String::new();
    let mut is_tag = false;
    for c in html.chars() {
        match c {
            '<' => is_tag = true,
            '>' => is_tag = false,
            c if !is_tag => out.push(c),
            _ => {}
        }
    }
    [("&#39;", "'"), ("&#34;", "\""), ("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")]
        .iter()
        .fold(out, |text, (from, to)| text.replace(from, to))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_and_page_show_the_same_reason_and_remedy_in_both_languages() {
    let console = Console::start().await;
    let (mut n1, mut n2) = console.cluster().await;
    console.module([&mut n1, &mut n2]).await;
    for reason in Reason::each(&NodeName::new("n2").unwrap()) {
        n1.show_but(State::Wait, Readiness::NotReady, |s| s.reason = Some(reason.clone())).await;
        let typed = serde_json::to_value(&reason).unwrap();
        console.wait(API, |m| m["nodes"][0]["snapshot"]["reason"] == typed).await;
        for (code, lang) in [("en", Lang::En), ("ja", Lang::Ja)] {
            let answer: Value = serde_json::from_str(&text(&console, API, code).await).unwrap();
            let snapshot: Snapshot = serde_json::from_value(answer["nodes"][0]["snapshot"].clone()).unwrap();
            let said = say::reason_of(lang, &snapshot).unwrap();
            let wanted = json!({
                "text": said.text, "next": said.next, "remedy": said.remedy,
                "command": said.command, "on": said.on, "is_last_resort": said.is_last_resort(),
            });
            assert_eq!(answer["nodes"][0]["why"], wanted, "{reason:?}");

            let page = text(&console, PAGE, code).await;
            let row = page.split("id=\"on-n1\"").nth(1).unwrap().split("id=\"on-n2\"").next().unwrap();
            let row = plain(row);
            let command = said.command.as_ref().map(|c| format!("{} {c}", said.command_label(lang)));
            for wanted in [Some(said.text.clone()), Some(said.rest()), command].into_iter().flatten() {
                assert!(row.contains(wanted.trim_start()), "{reason:?}: {wanted} is missing in: {row}");
            }
        }
    }
    // A node that is silent is explained too, with the words of its page.
    drop(n2);
    console.wait(API, |m| m["nodes"][1]["connected"] == false).await;
    let answer: Value = serde_json::from_str(&text(&console, API, "en").await).unwrap();
    let said = say::no_contact(Lang::En, &NodeName::new("n2").unwrap());
    assert_eq!((&answer["nodes"][1]["why"]["text"], &answer["nodes"][1]["why"]["remedy"]), (&json!(said.text), &json!(said.remedy)));
    console.running.stop().await;
}
