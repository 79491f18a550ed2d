//! What every page must be: well formed, without inline script or style, named for screen readers, in one language,
//! and made of exactly the blocks that its live updates send.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use scraper::{ElementRef, Html, Selector};
use std::collections::{BTreeMap, BTreeSet};
use tsugi_core::state::{Readiness, Reason, State};
use tsugi_web::fleet::HealthView;
use tsugi_web::live_ids::{Block, Scope};
use tsugi_web::text::Lang;
use tsugi_web::view::*;
use tsugi_web::{assets, render};

fn all() -> Vec<(String, Html, String)> {
    let mut out = Vec::new();
    for lang in Lang::ALL {
        let mut list = pages(lang, Theme::Light);
        let dialog = render::action_dialog(&swap(chrome(lang, Theme::Light, "/", None)));
        let with_dialog = list[0].1.replace("<div id=\"dialog-slot\">", &format!("<div id=\"dialog-slot\">{dialog}"));
        list.push(("dialog", with_dialog));
        for (name, html) in list {
            out.push((format!("{name} ({})", lang.code()), Html::parse_document(&html), html));
        }
    }
    out
}

fn select(css: &str) -> Selector {
    Selector::parse(css).unwrap()
}

fn text(e: ElementRef<'_>) -> String {
    e.text().collect::<String>().trim().to_owned()
}

#[test]
fn pages_are_well_formed() {
    for (name, doc, _) in all() {
        let errors: Vec<_> = doc.errors.iter().filter(|e| !e.contains("foster-parenting")).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

#[test]
fn ids_are_unique_and_references_lead_somewhere() {
    for (name, doc, _) in all() {
        let mut seen = BTreeMap::new();
        for e in doc.select(&select("[id]")) {
            *seen.entry(e.attr("id").unwrap().to_owned()).or_insert(0) += 1;
        }
        let twice: Vec<_> = seen.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "{name}: {twice:?}");
        for attribute in ["aria-labelledby", "aria-describedby", "for"] {
            for e in doc.select(&select(&format!("[{attribute}]"))) {
                for id in e.attr(attribute).unwrap().split_whitespace() {
                    assert!(seen.contains_key(id), "{name}: {attribute}={id}");
                }
            }
        }
        for e in doc.select(&select("[href^='#']")) {
            let id = &e.attr("href").unwrap()[1..];
            assert!(seen.contains_key(id), "{name}: href=#{id}");
        }
    }
}

#[test]
fn nothing_inline() {
    for (name, doc, _) in all() {
        for e in doc.select(&select("*")) {
            for (attribute, _) in e.value().attrs() {
                let is_handler = attribute.starts_with("on") || attribute.starts_with("hx-on");
                assert!(attribute != "style" && !is_handler, "{name}: {attribute} at <{}>", e.value().name());
            }
        }
        assert_eq!(doc.select(&select("style")).count(), 0, "{name}");
        for script in doc.select(&select("script")) {
            assert!(script.attr("src").is_some_and(|src| src.starts_with(assets::BASE)), "{name}");
            assert!(script.attr("integrity").is_some_and(|i| i.starts_with("sha384-")), "{name}");
            assert_eq!(text(script), "", "{name}");
        }
        for e in doc.select(&select("[src],link[href],form[action]")) {
            let url = e.attr("src").or(e.attr("href")).or(e.attr("action")).unwrap();
            assert!(url.starts_with('/'), "{name}: a request to another host: {url}");
        }
    }
}

#[test]
fn everything_that_can_be_operated_has_a_name() {
    for (name, doc, _) in all() {
        for e in doc.select(&select("a,button,summary")) {
            let named = !text(e).is_empty() || e.attr("aria-label").is_some_and(|l| !l.is_empty());
            assert!(named, "{name}: {}", e.html());
        }
        for e in doc.select(&select("input:not([type=hidden]),select,textarea")) {
            let labelled = e.attr("id").is_some_and(|id| doc.select(&select(&format!("label[for='{id}']"))).any(|l| !text(l).is_empty()));
            let wrapped = e.ancestors().filter_map(ElementRef::wrap).any(|a| a.value().name() == "label" && !text(a).is_empty());
            assert!(labelled || wrapped, "{name}: {}", e.html());
        }
        for e in doc.select(&select("table")) {
            assert!(e.select(&select("caption")).any(|c| !text(c).is_empty()), "{name}: a table without caption");
            assert!(e.select(&select("thead th[scope=col]")).count() > 0, "{name}: a table without column heads");
            assert!(e.select(&select("tbody tr")).all(|r| r.select(&select("th[scope=row]")).count() == 1), "{name}: a row without head");
        }
        for e in doc.select(&select("svg")) {
            let is_quiet = e.attr("aria-hidden") == Some("true") || e.attr("role") == Some("img");
            let is_inside = e.ancestors().filter_map(ElementRef::wrap).any(|a| a.value().name() == "svg");
            assert!(is_quiet || is_inside, "{name}: {}", e.html());
        }
        assert_eq!(doc.select(&select("h1")).count(), 1, "{name}: one h1");
        assert_eq!(doc.select(&select("main")).count(), 1, "{name}: one main");
    }
}

#[test]
fn the_page_is_in_its_language() {
    // Names and words people typed, and the other language's name on its switch.
    let typed = ["日本語", "メモリ交換", "チェッカーの間隔を 10 秒に変更", "基幹データベース"];
    let is_japanese = |c: char| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}');
    for (name, _, html) in all() {
        if name.ends_with("(en)") {
            let mut rest = html.clone();
            for word in typed {
                rest = rest.replace(word, "");
            }
            let at = rest.find(is_japanese).map(|i| rest[i..].chars().take(30).collect::<String>());
            assert_eq!(at, None, "{name}");
            assert!(html.contains("<html lang=\"en\""), "{name}");
        } else {
            assert!(html.contains("<html lang=\"ja\""), "{name}");
            assert!(!html.contains("、 ") && !html.contains("。 ") && !html.contains('｡'), "{name}: full-width marks take no space");
        }
    }
}

#[test]
fn english_sentences_do_not_run_into_japanese_pages() {
    for (name, doc, _) in all().into_iter().filter(|(n, ..)| n.ends_with("(ja)")) {
        for e in doc.select(&select("h1,h2,h3,p,small,label,th,td,dt,dd,button")) {
            let text = text(e);
            // Four English words in a row are a sentence nobody translated; commands and what programs say are code.
            let is_code = text.contains("tsugi") || text.contains("connect ") || text.contains("Ubuntu") || text.contains("add the audit");
            let words = text.split(' ').collect::<Vec<_>>();
            let is_word = |w: &&str| w.len() > 1 && w.chars().all(|c| c.is_ascii_lowercase());
            let run = words.windows(4).any(|w| w.iter().all(is_word));
            assert!(is_code || !run, "{name}: {text}");
        }
    }
}

fn blocks_of(lang: Lang) -> Vec<(&'static str, String, Vec<Block>)> {
    let c = |path: &str, scope| chrome(lang, Theme::Light, path, Some(scope));
    let mut out = Vec::new();
    let dashboard = DashboardView { chrome: c("/", Scope::All), filter: None, clusters: fleet() };
    out.push(("dashboard", render::dashboard(&dashboard), render::dashboard_blocks(&dashboard)));
    let none = DashboardView { chrome: c("/", Scope::All), filter: None, clusters: vec![] };
    out.push(("dashboard-empty", render::dashboard(&none), render::dashboard_blocks(&none)));
    let clusters = ClustersView { chrome: c("/clusters", Scope::Clusters), clusters: fleet(), query: String::new() };
    out.push(("clusters", render::clusters(&clusters), render::clusters_blocks(&clusters)));
    let one = ClusterPageView {
        chrome: c("/clusters/osaka", Scope::Cluster(cluster("osaka"))),
        cluster: fleet().swap_remove(1),
        join: None,
        events: events("osaka", "files-osaka", "osaka-1", "osaka-2"),
    };
    out.push(("cluster", render::cluster(&one), render::cluster_blocks(&one)));
    for m in [resyncing(), alone_without_contact(), stopped(), blocked(), farm()] {
        let mut page = module_page(c("/x", Scope::Module(m.cluster.clone(), m.module.clone())), m.clone());
        page.operation = Some(operation(&m, OperationState::Running));
        out.push(("module", render::module(&page), render::module_blocks(&page)));
    }
    let events = EventsView {
        chrome: c("/events", Scope::Events),
        filter: EventFilter::default(),
        clusters: vec![],
        events: events("osaka", "files-osaka", "osaka-1", "osaka-2"),
        older: None,
    };
    out.push(("events", render::events(&events), render::events_blocks(&events)));
    let op = OperationPageView {
        chrome: c("/o", Scope::Operation("1".to_owned())),
        operation: operation(&resyncing(), OperationState::Unknown),
    };
    out.push(("operation", render::operation(&op), render::operation_blocks(&op)));
    out
}

#[test]
fn a_live_block_is_a_part_of_its_page_byte_for_byte() {
    for lang in Lang::ALL {
        for (name, page, blocks) in blocks_of(lang) {
            assert!(!blocks.is_empty(), "{name}");
            for block in blocks {
                assert!(page.contains(&block.html), "{name}: {} is not in the page:\n{}", block.id, block.html);
                let doc = Html::parse_fragment(&block.html);
                let roots: Vec<_> = doc.root_element().child_elements().collect();
                assert_eq!(roots.len(), 1, "{name}: {} is not one element:\n{}", block.id, block.html);
                assert_eq!(roots[0].attr("id"), Some(block.id.as_str()), "{name}");
            }
        }
    }
}

#[test]
fn a_monitor_is_offered_nothing_he_may_not_do() {
    for (name, role) in [("monitor", Role::Monitor), ("control", Role::Control)] {
        let mut c = chrome(Lang::En, Theme::Light, "/", Some(Scope::All));
        c.user = Some(UserView { name: "guest".to_owned(), role });
        let html = render::dashboard(&DashboardView { chrome: c.clone(), filter: None, clusters: fleet() })
            + &render::module(&module_page(c.clone(), resyncing()))
            + &render::cluster(&ClusterPageView { chrome: c, cluster: fleet().pop().unwrap(), join: None, events: vec![] });
        assert_eq!(html.contains("/actions/"), role >= Role::Control, "{name}");
        for admin_only in ["/approve", "/config", "/join", "/clusters/new", "/modules/new", "/versions/"] {
            assert!(!html.contains(admin_only), "{name}: {admin_only}");
        }
    }
}

#[test]
fn a_greyed_action_says_why_and_is_not_a_dialog() {
    let doc = Html::parse_document(&render::module(&module_page(chrome(Lang::En, Theme::Light, "/", None), resyncing())));
    let greyed: Vec<_> = doc.select(&select("#module-actions a[aria-disabled=true]")).collect();
    assert_eq!(greyed.iter().map(|e| text(*e)).collect::<Vec<_>>(), ["Start…", "Swap…"]);
    for e in greyed {
        let why = doc.select(&select(&format!("#{}", e.attr("aria-describedby").unwrap()))).next().unwrap();
        assert!(text(why).ends_with('.'), "{}", text(why));
        assert_eq!(e.attr("hx-get"), None);
    }
}

#[test]
fn a_light_module_shows_where_it_runs_and_offers_no_orders_of_roles() {
    let waits = Reason::CheckFailed { resource: "module.db".to_owned(), detail: "module db is SECOND".to_owned() };
    let calm = light(HealthView::Protected, (State::Wait, Readiness::NotReady), waits);
    for (lang, said) in [(Lang::En, "batch runs on app-1."), (Lang::Ja, "batch は app-1 で稼働しています。")] {
        let html = render::module(&module_page(chrome(lang, Theme::Light, "/", None), calm.clone()));
        assert!(html.contains(said) && html.contains("UP"), "{html}");
        for verb in ["swap", "prim", "primforce", "second"] {
            assert!(!html.contains(&format!("/{verb}?")) && !html.contains(&format!("/{verb}\"")), "{verb}");
        }
        assert!(html.contains("/restart"), "what is possible is offered");
    }
    let failed = Reason::LoopLimit { count: 3 };
    let half = light(HealthView::AtRisk, (State::Stop, Readiness::NotReady), failed);
    for (lang, said) in [(Lang::En, "not on every node where it should"), (Lang::Ja, "一部で動いていません")] {
        let html = render::module(&module_page(chrome(lang, Theme::Light, "/", None), half.clone()));
        assert!(html.contains(said), "{html}");
    }
}

#[test]
fn what_loses_data_asks_for_name_and_reason() {
    let doc = Html::parse_document(&render::action(&force(chrome(Lang::Ja, Theme::Light, "/", None))));
    assert_eq!(doc.select(&select("input[name=name][required]")).count(), 1);
    assert_eq!(doc.select(&select("input[name=reason][required]")).count(), 1);
    assert_eq!(doc.select(&select("input[name=accept_loss][value='1']")).count(), 1);
    assert_eq!(doc.select(&select("button.danger")).count(), 1);
    let doc = Html::parse_document(&render::action(&swap(chrome(Lang::Ja, Theme::Light, "/", None))));
    assert_eq!(doc.select(&select("input[name=name],button.danger")).count(), 0);
    assert_eq!(text(doc.select(&select(".sheet-foot a[autofocus]")).next().unwrap()), "キャンセル");
}

#[test]
fn states_are_told_by_word_and_shape_and_fill() {
    let html = render::dashboard(&DashboardView { chrome: chrome(Lang::En, Theme::Light, "/", None), filter: None, clusters: fleet() });
    let doc = Html::parse_document(&html);
    let mut looks: BTreeMap<String, BTreeSet<(bool, String)>> = BTreeMap::new();
    for pill in doc.select(&select(".pill")) {
        let word = text(pill.select(&select("b")).next().unwrap());
        let shape = pill.select(&select("use")).next().unwrap().attr("href").unwrap().to_owned();
        let is_solid = pill.value().classes().any(|c| c == "solid");
        looks.entry(word).or_default().insert((is_solid, shape));
    }
    let look = |word: &str| looks[word].iter().map(|(solid, shape)| (*solid, shape.as_str())).collect::<Vec<_>>();
    assert_eq!(look("PRIM"), [(true, "#s-ready")]);
    assert_eq!(look("ALONE"), [(true, "#s-ready")]);
    assert_eq!(look("SECOND"), [(false, "#s-standby"), (false, "#s-trans")]);
    assert_eq!(look("WAIT"), [(false, "#s-notready")]);
    assert_eq!(look("STOP"), [(false, "#s-stopped")]);
    assert_eq!(look("Unknown"), [(false, "#s-unk")]);
    assert!(doc.select(&select(".pill .chip-warn")).count() > 0, "ALONE carries the amber triangle");
}

#[test]
fn text_of_others_cannot_become_markup() {
    let mut m = resyncing();
    if let Some(s) = m.cells[1].snapshot.as_mut() {
        s.reason = Some(tsugi_core::state::Reason::DataUnusable { detail: "<script>alert(1)</script>\" onmouseover=\"x".to_owned() });
        s.resources[0].detail = "<b>\"'".to_owned();
    }
    let html = render::module(&module_page(chrome(Lang::En, Theme::Light, "/\"><script>", None), m));
    let doc = Html::parse_document(&html);
    assert_eq!(doc.select(&select("script:not([src])")).count(), 0);
    assert_eq!(doc.select(&select("[onmouseover]")).count(), 0);
    assert_eq!(doc.select(&select("input[name=back]")).next().unwrap().attr("value"), Some("/\"><script>"));
}

#[test]
fn problems_lead_to_their_line() {
    let doc = Html::parse_document(&render::module_config(&config(chrome(Lang::Ja, Theme::Light, "/", None), false)));
    let link = doc.select(&select(".problems a")).next().unwrap();
    assert_eq!((link.attr("href"), link.attr("data-line"), link.attr("data-column")), (Some("#userconfig"), Some("20"), Some("23")));
    let bad: Vec<_> = doc.select(&select(".gutter .bad")).map(text).collect();
    assert_eq!(bad, ["20"]);
    let area = doc.select(&select("#userconfig")).next().unwrap();
    assert_eq!(area.text().collect::<String>(), USERCONFIG, "the text comes back as it was");
}

/// Relative luminance contrast of WCAG 2.
fn contrast(a: &str, b: &str) -> f64 {
    let light = |hex: &str| {
        let hex = hex.trim_start_matches('#');
        let full: String = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.to_owned() };
        let channel = |i: usize| {
            let v = f64::from(u8::from_str_radix(&full[i..i + 2], 16).unwrap()) / 255.0;
            if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
    };
    let (x, y) = (light(a), light(b));
    (x.max(y) + 0.05) / (x.min(y) + 0.05)
}

#[test]
fn colours_can_be_read() {
    let css = include_str!("../static/console.css");
    let token = |name: &str| {
        let start = css.find(&format!("--{name}:light-dark(")).unwrap_or_else(|| panic!("{name}")) + name.len() + 14;
        let pair = &css[start..start + css[start..].find(')').unwrap()];
        let (light, dark) = pair.split_once(',').unwrap();
        [light.to_owned(), dark.to_owned()]
    };
    let mut wanted: Vec<(String, String, f64)> = Vec::new();
    let mut want = |a: &str, b: &str, least: f64| wanted.push((a.to_owned(), b.to_owned(), least));
    for state in ["ready", "trans", "notready", "warn", "unk"] {
        want(state, "surface", 5.3);
        want(state, &format!("{state}-bg"), 4.8);
        want("text", &format!("{state}-bg"), 7.0);
    }
    for state in ["ready", "trans", "notready"] {
        want("on-state", state, 5.3);
    }
    for ground in ["bg", "surface", "surface2", "sunken"] {
        want("text", ground, 7.0);
        want("text2", ground, 4.8);
        want("text3", ground, 4.5);
        want("control", ground, 3.0);
    }
    want("accent", "surface", 4.5);
    want("on-accent", "accent", 4.5);
    want("side-text", "side", 4.5);
    for (a, b, least) in wanted {
        for mode in [0, 1] {
            let found = contrast(&token(&a)[mode], &token(&b)[mode]);
            assert!(found >= least, "{a} on {b}, {}: {found:.2} < {least}", ["light", "dark"][mode]);
        }
    }
}

#[test]
fn the_steps_a_node_would_do_are_numbered_in_both_languages() {
    for lang in [Lang::En, Lang::Ja] {
        for html in [
            render::action(&swap(chrome(lang, Theme::Light, "/", None))),
            render::action_dialog(&swap(chrome(lang, Theme::Light, "/", None))),
        ] {
            let doc = Html::parse_fragment(&html);
            let shown: Vec<String> =
                doc.select(&select(".rehearsal li")).map(|li| li.text().map(str::trim).collect::<Vec<_>>().join(" ")).collect();
            let wanted: Vec<String> =
                (1..).zip(&rehearsal().steps).map(|(n, step): (u32, _)| format!("{n} {}", tsugi_web::say::rehearsed(lang, step))).collect();
            assert_eq!(shown, wanted);
        }
        let silent = render::action(&force(chrome(lang, Theme::Light, "/", None)));
        assert!(silent.contains(&tsugi_web::say::not_rehearsed(lang, &node("hq-db1"))), "{silent}");
    }
}

#[test]
fn a_split_brain_shows_both_sides_and_a_button_for_each() {
    for lang in [Lang::En, Lang::Ja] {
        let c = |path: &str| chrome(lang, Theme::Light, path, None);
        let doc = Html::parse_document(&render::module(&module_page(c("/"), split())));
        let buttons: Vec<&str> = doc.select(&select("#keeps a")).map(|a| a.attr("href").unwrap()).collect();
        let path = "/clusters/hq-core/modules/ledger/actions/resolve";
        assert_eq!(buttons, [format!("{path}?keep=hq-db1"), format!("{path}?keep=hq-db2")]);
        for (on, other) in [("hq-db1", "hq-db2"), ("hq-db2", "hq-db1")] {
            let said = tsugi_web::say::reason(lang, &Reason::SplitBrain { peer: node(other) }, &module("ledger"), &node(on));
            assert!(text(doc.select(&select(&format!("#on-{on} .node-why p"))).next().unwrap()).contains(&said.text));
        }
        // Before it is ordered: what is lost, the name and a reason.
        let doc = Html::parse_document(&render::action(&resolve(c(path))));
        let effects: Vec<String> = doc.select(&select("ol.effects li")).map(text).collect();
        assert!(
            effects.iter().any(|e| e.contains("hq-db1") && (e.contains("lost for good") || e.contains("完全に失われる"))),
            "{effects:?}"
        );
        assert_eq!(
            doc.select(&select("input[name=keep][value='hq-db2'],input[name=name][required],input[name=reason][required]")).count(),
            3
        );
        assert_eq!(doc.select(&select("#blocked")).count(), 0);
    }
}

#[test]
fn a_first_start_proposes_neither_node_and_has_a_button_for_each() {
    let doc = Html::parse_document(&render::module(&module_page(chrome(Lang::En, Theme::Light, "/", None), undecided())));
    let buttons: Vec<&str> = doc.select(&select("#keeps a")).map(|a| a.attr("href").unwrap()).collect();
    let path = "/clusters/hq-core/modules/ledger/actions/prim";
    assert_eq!(buttons, [format!("{path}?node=hq-db1"), format!("{path}?node=hq-db2")]);
    let banner = text(doc.select(&select("#module-headline")).next().unwrap());
    assert!(!banner.contains("tsugi prim") && banner.contains("overwrites the other copy"), "{banner}");
}
