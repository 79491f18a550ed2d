//! The console in a real browser, over a real pair: what an operator sees when a server dies, comes back, and when
//! the roles are exchanged; in both languages, light and dark, with and without scripts.
//!
//! One lab and one Chromium for all of it, in the order of a day's work. Pictures are kept in `target/browser/`.
//! Needs root.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

#[path = "src/browser.rs"]
mod browser;

use browser::Browser;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::state::{Readiness, State};
use tsugi_tests::check::{App, Pair};
use tsugi_tests::setup::{CLUSTER, wait_for};

const USER: &str = "sato";
const PASSWORD: &str = "seven lamps along the quay";
const MODULE_PAGE: &str = "/clusters/lab/modules/ledger";

/// A page and what belongs to it.
const PAGE_BOUND: Duration = Duration::from_secs(20);
/// A node misses the other, asks the arbiter, starts the application.
const TAKEOVER_BOUND: Duration = Duration::from_secs(60);
/// A node boots, waits its quarantine and is brought level.
const REJOIN_BOUND: Duration = Duration::from_secs(120);
/// What a page may lag behind the agent's own change.
const SEEN_WITHIN_MS: i64 = 2000;

const WIDE: (u32, u32) = (1440, 900);
const MANUAL_WIDTH: u32 = 1440;

/// Notes when each node's pill first says something, and marks the page so that a reload is noticed.
const WATCH: &str = r#"
  window.tsugiSeen = {};
  window.tsugiMark = "not reloaded";
  const look = () => {
    for (const pill of document.querySelectorAll("td[data-node] .pill, .node-list .pill")) {
      const place = pill.closest("[data-node]") || pill.closest("li");
      const node = place.dataset.node || place.id.replace("on-", "");
      const key = node + " " + pill.querySelector("b").textContent + " " + pill.querySelector(".gloss").textContent;
      if (!(key in window.tsugiSeen)) window.tsugiSeen[key] = Date.now();
    }
  };
  look();
  window.tsugiSeen = {};
  new MutationObserver(look).observe(document.getElementById("main"), { subtree: true, childList: true, characterData: true, attributes: true });
"#;

/// Visible texts of the page (commands and names in `code` aside) that are in the wrong language.
const FOREIGN: &str = r#"
  const isJa = document.documentElement.lang === "ja", found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), at = walk.currentNode.parentElement;
    if (!text || at.closest("code,script,style,textarea,[lang]:not(html),#announce")) continue;
    const isForeign = isJa ? /[A-Za-z]{2,} [a-z]{2,}|^[A-Z][a-z]{3,}( |$)/.test(text) && !/^(Tsugi|Debian|Ubuntu)\b/.test(text) && !/\(os error \d+\)/.test(text) : /[\u3040-\u30ff\u4e00-\u9fff]/.test(text);
    if (isForeign) found.push(text);
  }
  for (const el of document.querySelectorAll("[title],[aria-label],[placeholder]")) {
    if (el.closest("[lang]:not(html)")) continue;
    for (const name of ["title", "aria-label", "placeholder"]) {
      const text = el.getAttribute(name) || "";
      if (isJa ? /[A-Za-z]{2,} [a-z]{2,}/.test(text) : /[\u3040-\u30ff\u4e00-\u9fff]/.test(text)) found.push(name + ": " + text);
    }
  }
  return found;
"#;

struct Desk {
    browser: Browser,
    pair: Pair,
    pictures: PathBuf,
    /// Texts in the wrong language, with their page: told together at the end.
    foreign: RefCell<BTreeSet<String>>,
}

type Step = fn(&Desk);

/// The cell of the grid shows this state.
fn cell(node: &str, word: &str, gloss: &str) -> String {
    format!(
        "[...document.querySelectorAll('#row-{CLUSTER}-ledger td[data-node=\"{node}\"] .pill')].some(p => \
         p.querySelector('b').textContent === '{word}' && p.querySelector('.gloss').textContent === '{gloss}')"
    )
}

/// The row of the module's page shows this state.
fn row(node: &str, word: &str) -> String {
    format!("(document.querySelector('#on-{node} .pill.c-ready b') || {{}}).textContent === '{word}'")
}

impl Desk {
    fn open(&self, path: &str) {
        self.browser.open(path).unwrap();
    }
    fn wait(&self, what: &str, bound: Duration, expression: &str) -> Value {
        self.browser.wait(what, bound, expression).unwrap()
    }
    fn wait_live(&self) {
        self.wait("the live stream", PAGE_BOUND, "document.querySelector('#live-pill[data-state=on]')");
    }
    /// A picture for the manual: only the part of the page that a reader needs.
    fn shoot_for_the_manual(&self, name: &str, height: u32) {
        self.browser.resize(MANUAL_WIDTH, height).unwrap();
        self.browser.shoot(&self.pictures.join("manual"), name).unwrap();
        self.browser.resize(WIDE.0, WIDE.1).unwrap();
    }
    fn shoot(&self, name: &str) {
        let height = self.browser.js("return document.querySelector('main').getBoundingClientRect().bottom + scrollY", Vec::new()).unwrap();
        let height = (height.as_f64().unwrap_or_default().ceil() as u32).clamp(WIDE.1, 3000);
        self.browser.resize(WIDE.0, height).unwrap();
        self.browser.shoot(&self.pictures, name).unwrap();
        self.browser.resize(WIDE.0, WIDE.1).unwrap();
    }
    /// Clicks what leads to another page.
    fn click_away(&self, css: &str) {
        self.browser.click_away(css, PAGE_BOUND).unwrap();
    }
    fn language(&self, code: &str) {
        self.click_away(&format!("form.seg button[value={code}]"));
        assert_eq!(self.browser.attr("html", "lang").unwrap(), code);
    }
    fn theme(&self, word: &str) {
        self.browser.click("#menu-theme summary").unwrap();
        self.click_away(&format!("#menu-theme button[value={word}]"));
        assert_eq!(self.browser.attr("html", "data-theme").unwrap(), word);
    }
    fn look_at_language(&self, place: &str) {
        let found = self.browser.js(FOREIGN, Vec::new()).unwrap();
        let lang = self.browser.attr("html", "lang").unwrap();
        for text in found.as_array().unwrap() {
            self.foreign.borrow_mut().insert(format!("{place} ({lang}): {text}"));
        }
    }
    /// How bright the page's ground is: 0 to 255.
    fn brightness(&self) -> f64 {
        let colour = self.browser.js("return getComputedStyle(document.body).backgroundColor", Vec::new()).unwrap();
        let parts: Vec<f64> = colour.as_str().unwrap().split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
        parts.iter().take(3).sum::<f64>() / 3.0
    }
    /// Opens the dialog of a swap.
    fn ask_for_swap(&self) {
        self.browser.click(".actions a[href$='/actions/swap']").unwrap();
        self.wait("the dialog", PAGE_BOUND, "document.querySelector('dialog[open] #action-form')");
    }
    fn sign_in(&self) {
        self.browser.type_into("#user", USER).unwrap();
        self.browser.type_into("#password", PASSWORD).unwrap();
        self.click_away("form[action='/login'] button.primary");
    }
    /// Nobody complained, and nobody asked elsewhere.
    fn assert_clean(&self, place: &str, expected: &[&str]) {
        let complaints = self.browser.complaints().unwrap();
        let unexpected: Vec<&String> = complaints.iter().filter(|c| !expected.iter().any(|e| c.contains(e))).collect();
        assert!(unexpected.is_empty(), "the browser complains after {place}: {unexpected:#?}");
        let site = site(&self.pair);
        let host = site.trim_start_matches("https://");
        for url in self.browser.requested().unwrap() {
            let is_own = url.starts_with(&format!("https://{host}/")) || url.starts_with(&format!("wss://{host}/"));
            let is_of_the_browser = ["data:", "blob:", "about:", "chrome:", "chrome-untrusted:", "chrome-extension:"]
                .iter()
                .any(|scheme| url.starts_with(scheme));
            assert!(is_own || is_of_the_browser, "{place} asks elsewhere: {url}");
        }
    }
}

fn note(pair: &Pair, key: &str) -> String {
    pair.lab.info().unwrap().notes[key].as_str().unwrap().to_owned()
}

fn site(pair: &Pair) -> String {
    note(pair, "console_url")
}

/// When a node itself, by its own log, last entered a state.
fn entered(pair: &Pair, host: &str, wanted: State) -> i64 {
    let log = pair.lab.sh(host, "cat /var/lib/tsugi/events.jsonl").unwrap();
    let mut records = log.lines().rev().filter_map(|line| serde_json::from_str::<EventRecord>(line).ok());
    let is_it = |r: &EventRecord| matches!(r.event, Event::Entered { to, readiness: Readiness::Ready, .. } if to == wanted);
    records.find(is_it).unwrap_or_else(|| panic!("{host} never entered {wanted:?}")).at_unix_ms as i64
}

#[test]
fn an_operator_at_a_browser() {
    let begin = Instant::now();
    let pair = Pair::start("browser", App::Ledger, BTreeMap::new(), false).unwrap();
    pair.api.must(Method::POST, "/api/v1/users", Some(&json!({"name": USER, "password": PASSWORD, "role": "admin"}))).unwrap();
    let browser = Browser::start(&site(&pair)).unwrap();
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let desk = Desk { browser, pair, pictures: target.join("browser"), foreign: RefCell::default() };
    let steps: &[(&str, Step)] = &[
        ("signs in and sees the grid", signs_in),
        ("sees the pages in both languages, light and dark", looks_around),
        ("sees a server die and come back without reloading", sees_a_server_die),
        ("swaps after reading what happens", swaps),
        ("switches maintenance on and off", maintains),
        ("has the copies compared", compares),
        ("is told what is wrong with a configuration", uploads_nonsense),
        ("is not tricked by another site", is_not_tricked),
        ("does the same without scripts", works_without_scripts),
        ("would have been told of complaints", complaints_are_heard),
    ];
    for (name, step) in steps {
        step(&desk);
        desk.pair.say(&format!("an operator {name}"));
    }
    assert_eq!(desk.foreign.take(), BTreeSet::new(), "texts in the wrong language");
    println!("took {:.0} s", begin.elapsed().as_secs_f64());
}

fn signs_in(desk: &Desk) {
    desk.browser.resize(WIDE.0, WIDE.1).unwrap();
    desk.open("/");
    assert!(desk.browser.path().unwrap().starts_with("/login"), "a stranger sees {}", desk.browser.path().unwrap());
    desk.shoot("sign-in-en");
    desk.browser.type_into("#user", USER).unwrap();
    desk.browser.type_into("#password", "not the password").unwrap();
    desk.click_away("form[action='/login'] button.primary");
    desk.wait("the refusal", PAGE_BOUND, "document.querySelector('.form-error')");
    assert_eq!(desk.browser.text(".form-error").unwrap(), "The name or the password is not right.");
    desk.assert_clean("a wrong password", &["the server responded with a status of 422"]);
    desk.sign_in();
    desk.wait("the grid", PAGE_BOUND, &cell("n1", "PRIM", "primary"));
    desk.wait("the secondary", PAGE_BOUND, &cell("n2", "SECOND", "secondary"));
    desk.wait_live();
    assert_eq!(desk.browser.path().unwrap(), "/");
    assert_eq!(desk.browser.text("h1").unwrap(), "Dashboard");
    assert!(desk.browser.text("#attention").unwrap().contains("Nothing needs your attention."));
    desk.assert_clean("sign-in", &[]);
}

fn looks_around(desk: &Desk) {
    for theme in ["light", "dark"] {
        desk.open("/");
        desk.theme(theme);
        let brightness = desk.brightness();
        assert!(if theme == "light" { brightness > 200.0 } else { brightness < 60.0 }, "{theme}: the ground has {brightness}");
        for (code, dashboard, glosses, question) in [
            ("en", "Dashboard", ["primary", "secondary"], "Swap ledger to n2?"),
            ("ja", "ダッシュボード", ["プライマリ", "セカンダリ"], "ledger を n2 に切り替えますか？"),
        ] {
            desk.open("/");
            desk.language(code);
            desk.wait_live();
            assert_eq!(desk.browser.text("h1").unwrap(), dashboard);
            desk.wait("the primary's gloss", PAGE_BOUND, &cell("n1", "PRIM", glosses[0]));
            desk.wait("the secondary's gloss", PAGE_BOUND, &cell("n2", "SECOND", glosses[1]));
            desk.look_at_language("the dashboard");
            desk.shoot(&format!("dashboard-{code}-{theme}"));
            desk.shoot_for_the_manual(&format!("console-{code}-{theme}"), 540);

            desk.click_away(&format!("#row-{CLUSTER}-ledger th a"));
            desk.wait("the module's page", PAGE_BOUND, "document.getElementById('module-headline')");
            desk.wait_live();
            assert_eq!(desk.browser.attr("html", "lang").unwrap(), code);
            let headline = desk.browser.text("#module-headline .lead").unwrap();
            let expected = match code {
                "en" => "ledger runs on n1, and n2 holds the same data.",
                _ => "ledger は n1 で稼働し、n2 に同じデータがあります。",
            };
            assert_eq!(headline, expected);
            desk.look_at_language("the module's page");
            desk.shoot(&format!("module-{code}-{theme}"));
            desk.shoot_for_the_manual(&format!("module-{code}-{theme}"), 800);

            desk.ask_for_swap();
            assert_eq!(desk.browser.text("#action-title").unwrap(), question);
            desk.look_at_language("the swap's dialog");
            desk.browser.shoot(&desk.pictures, &format!("swap-{code}-{theme}")).unwrap();
            desk.shoot_for_the_manual(&format!("swap-{code}-{theme}"), 760);
            desk.browser.click("dialog [data-close]").unwrap();
            desk.wait("the dialog's end", PAGE_BOUND, "!document.querySelector('dialog')");
            for (name, path) in [
                ("cluster", "/clusters/lab"),
                ("clusters", "/clusters"),
                ("events", "/events"),
                ("config", "/clusters/lab/modules/ledger/config"),
            ] {
                desk.open(path);
                desk.look_at_language(path);
                desk.shoot(&format!("{name}-{code}-{theme}"));
            }
        }
    }
    desk.open("/");
    desk.theme("light");
    desk.language("en");
    desk.assert_clean("looking around", &[]);
}

fn sees_a_server_die(desk: &Desk) {
    desk.open("/");
    desk.wait_live();
    desk.browser.js(WATCH, Vec::new()).unwrap();
    desk.pair.lab.kill("n1").unwrap();
    desk.wait("ALONE in the grid", TAKEOVER_BOUND, "window.tsugiSeen['n2 ALONE no backup']");
    let seen = desk.browser.js("return window.tsugiSeen", Vec::new()).unwrap();
    let shown = seen["n2 ALONE no backup"].as_i64().unwrap();
    let late = shown - entered(&desk.pair, "n2", State::Alone);
    desk.pair.say(&format!("the page showed ALONE {late} ms after the agent's own change; seen: {seen}"));
    assert!((-50..=SEEN_WITHIN_MS).contains(&late), "the page showed ALONE {late} ms after the agent's change");
    desk.wait("the row of what needs attention", PAGE_BOUND, "document.querySelectorAll('#attention .attention li').length === 1");
    desk.wait("the number in the menu", PAGE_BOUND, "document.querySelector('#menu-badge')?.textContent.trim().startsWith('1')");
    let what = desk.browser.text("#attention .what").unwrap();
    assert!(what.contains("ledger runs on one node only (n2)"), "{what}");
    desk.wait("the lost node", TAKEOVER_BOUND, &cell("n1", "Unknown", "no contact"));
    desk.shoot("dashboard-alone-en-light");
    assert_eq!(desk.browser.js("return window.tsugiMark", Vec::new()).unwrap(), "not reloaded");

    desk.language("ja");
    desk.wait("ALONE in Japanese", PAGE_BOUND, &cell("n2", "ALONE", "単独"));
    for (name, path) in [("dashboard", "/"), ("module", MODULE_PAGE), ("events", "/events")] {
        desk.open(path);
        desk.look_at_language(&format!("{path} while one is away"));
        desk.shoot(&format!("{name}-alone-ja-light"));
    }
    desk.language("en");
    desk.open(MODULE_PAGE);
    desk.shoot("module-alone-en-light");

    desk.open("/");
    desk.wait_live();
    desk.browser.js(WATCH, Vec::new()).unwrap();
    desk.pair.lab.boot("n1").unwrap();
    desk.wait("the pair again", REJOIN_BOUND, &format!("{} && {}", cell("n2", "PRIM", "primary"), cell("n1", "SECOND", "secondary")));
    desk.wait("nothing to do", PAGE_BOUND, "document.querySelector('#attention .all-good')");
    assert_eq!(desk.browser.js("return window.tsugiMark", Vec::new()).unwrap(), "not reloaded");
    desk.assert_clean("a server's death", &[]);
}

fn swaps(desk: &Desk) {
    desk.click_away(&format!("#row-{CLUSTER}-ledger th a"));
    desk.wait("the module's page", PAGE_BOUND, "document.getElementById('module-headline')");
    desk.wait_live();
    desk.ask_for_swap();
    assert_eq!(desk.browser.text("#action-title").unwrap(), "Swap ledger to n1?");
    let numbered = desk.browser.texts("dialog ol.effects > li").unwrap();
    assert!(numbered.len() >= 4, "{numbered:?}");
    assert!(numbered[0].contains("Stop the application of ledger on n2"), "{numbered:?}");
    assert!(numbered.iter().any(|e| e.contains("198.18.0.100") && e.contains("n1")), "the address's move is missing: {numbered:?}");
    assert!(numbered.iter().any(|e| e.contains("Start the application of ledger on n1")), "{numbered:?}");
    let steps = desk.browser.texts("dialog ol.rehearsal > li").unwrap();
    assert!(steps[0].starts_with('1') && steps.len() >= 4, "what n2 says it would do: {steps:?}");
    assert!(steps.iter().any(|s| s.contains("stop_prim")), "the scripts are named: {steps:?}");
    desk.shoot("swap-steps-en-light");
    assert!(desk.browser.text("dialog .amber").unwrap().contains("interrupt"), "the interruption is missing");
    assert_eq!(desk.browser.text("dialog .cli code").unwrap(), "tsugi swap ledger");
    // Saying no changes nothing.
    desk.browser.click("dialog [data-close]").unwrap();
    desk.wait("the dialog's end", PAGE_BOUND, "!document.querySelector('dialog')");
    assert!(desk.browser.wait("the roles as before", PAGE_BOUND, &row("n2", "PRIM")).is_ok());
    desk.ask_for_swap();
    desk.browser.type_into("dialog #why", "n2: RAM 16 → 32").unwrap();
    desk.click_away("dialog .sheet-foot button.primary");
    desk.wait(
        "the module's page after the order",
        PAGE_BOUND,
        "!document.querySelector('dialog') && document.getElementById('module-headline')",
    );
    desk.wait_live();
    desk.browser.js(WATCH, Vec::new()).unwrap();
    desk.wait("the roles exchanged", TAKEOVER_BOUND, &format!("{} && {}", row("n1", "PRIM"), row("n2", "SECOND")));
    let expected = "ledger runs on n1, and n2 holds the same data.";
    desk.wait("the headline", PAGE_BOUND, &format!("document.querySelector('#module-headline .lead').textContent === '{expected}'"));
    assert_eq!(desk.browser.js("return window.tsugiMark", Vec::new()).unwrap(), "not reloaded");
    desk.shoot("module-swapped-en-light");
    desk.click_away("#module-events .card-side");
    desk.wait("who did it and why", PAGE_BOUND, "document.querySelector('.events')?.innerText.includes('n2: RAM 16 → 32')");
    desk.pair.wait_pair("n1", "n2", PAGE_BOUND).unwrap();
    desk.language("ja");
    desk.open("/events");
    desk.look_at_language("the events of the day");
    desk.shoot("events-day-ja-light");
    desk.open(MODULE_PAGE);
    desk.look_at_language("the module's page after the swap");
    desk.language("en");
    desk.assert_clean("the swap", &[]);
}

fn maintains(desk: &Desk) {
    let ask = |minutes: &str| {
        desk.wait("the button", PAGE_BOUND, &format!("document.querySelector(\".actions a[href$='minutes={minutes}']\")"));
        desk.browser.click(&format!(".actions a[href$='minutes={minutes}']")).unwrap();
        desk.wait("the dialog", PAGE_BOUND, "document.querySelector('dialog[open] #action-form')");
    };
    desk.open(MODULE_PAGE);
    desk.wait_live();
    ask("30");
    desk.shoot("maintenance-en-light");
    desk.browser.js("document.querySelector('#minutes').value = ''", Vec::new()).unwrap();
    desk.browser.type_into("dialog #minutes", "12").unwrap();
    desk.click_away("dialog .sheet-foot button.primary");
    desk.wait("the end is shown", PAGE_BOUND, "document.querySelector('#maintenance')?.innerText.includes('about 12 min left')");
    desk.wait(
        "what it means",
        PAGE_BOUND,
        "document.querySelector('#module-headline').innerText.includes('does not take over until the maintenance ends')",
    );
    desk.language("ja");
    desk.wait("the end is shown", PAGE_BOUND, "document.querySelector('#maintenance')?.innerText.includes('残り約 12 分')");
    desk.look_at_language("the module's page under maintenance");
    desk.shoot("maintenance-on-ja-light");
    ask("0");
    desk.look_at_language("the end of a maintenance");
    desk.shoot("maintenance-end-ja-light");
    desk.click_away("dialog .sheet-foot button.primary");
    desk.wait(
        "the maintenance is over",
        PAGE_BOUND,
        "document.querySelector('#module-operation') && !document.querySelector('#maintenance')",
    );
    desk.open("/clusters/lab/modules/ledger/actions/swap");
    desk.look_at_language("the swap's page");
    desk.shoot("swap-steps-ja-light");
    desk.open(MODULE_PAGE);
    desk.language("en");
    desk.assert_clean("the maintenance", &[]);
}

fn compares(desk: &Desk) {
    desk.open(MODULE_PAGE);
    desk.wait_live();
    let link = "document.querySelector('.node-actions a[href*=\"/actions/verify\"]')";
    desk.wait("the order, where the module serves", PAGE_BOUND, link);
    let serving = desk.browser.js(&format!("return {link}.closest('details').id"), Vec::new()).unwrap();
    desk.browser.click(&format!("#{} summary", serving.as_str().unwrap())).unwrap();
    desk.browser.click(".node-actions a[href*='/actions/verify']").unwrap();
    desk.wait("the dialog", PAGE_BOUND, "document.querySelector('dialog[open] #action-form')");
    assert_eq!(desk.browser.text("#action-title").unwrap(), "Compare the two copies of ledger while it runs?");
    desk.shoot("verify-en-light");
    desk.click_away("dialog .sheet-foot button.primary");
    desk.wait("what came of it", PAGE_BOUND, "document.querySelector('main').innerText.includes('no differences')");
    desk.language("ja");
    desk.wait("what came of it", PAGE_BOUND, "document.querySelector('main').innerText.includes('違いなし')");
    desk.look_at_language("the module's page after a comparison");
    desk.shoot("verified-ja-light");
    desk.open("/clusters/lab/modules/ledger/actions/verify");
    desk.look_at_language("the comparison's page");
    desk.shoot("verify-ja-light");
    desk.open(MODULE_PAGE);
    desk.language("en");
    desk.assert_clean("the comparison", &[]);
}

/// An element nobody knows on line 3, a unit nobody knows on line 4.
const NONSENSE: &str =
    "<safe>\n  <service mode=\"mirror\">\n    <hart profile=\"normal\"/>\n    <user starttimeout=\"30parsecs\"/>\n  </service>\n</safe>";

fn uploads_nonsense(desk: &Desk) {
    desk.open("/clusters/lab/modules/new");
    desk.browser.type_into("#name", "broken").unwrap();
    for node in ["n1", "n2"] {
        desk.browser.click(&format!("input[name=node][value={node}]")).unwrap();
    }
    desk.browser.type_into("#userconfig", NONSENSE).unwrap();
    let assert_said = |how: &str| {
        let said = desk.browser.texts("#problems .problems li").unwrap();
        let has = |words: &[&str]| said.iter().any(|row| words.iter().all(|w| row.contains(w)));
        assert!(has(&["conf/userconfig.xml 3:5", "hart", "`heart`"]), "{how}: place, element and remedy: {said:#?}");
        assert!(has(&["conf/userconfig.xml 4:25", "user starttimeout", "30parsecs", "`s`"]), "{how}: {said:#?}");
    };
    desk.browser.click("button[name=do][value=check]").unwrap();
    desk.wait("the check", PAGE_BOUND, "document.querySelectorAll('#problems .problems li').length >= 2");
    assert_said("check");
    desk.shoot("upload-en-light");
    desk.click_away("button[name=do][value=apply]");
    desk.wait("the answer", PAGE_BOUND, "document.querySelectorAll('#problems .problems li').length >= 2");
    assert_said("save and apply");
    assert_eq!(
        desk.browser.js("return document.getElementById('userconfig').value", Vec::new()).unwrap(),
        NONSENSE,
        "what was typed is lost"
    );
    assert_eq!(desk.browser.js("return document.getElementById('name').value", Vec::new()).unwrap(), "broken");
    desk.click_away("form.seg button[value=ja]");
    desk.wait("the form in Japanese", PAGE_BOUND, "document.documentElement.lang === 'ja' && document.getElementById('userconfig')");
    desk.language("en");
    // Nothing is stored, on the console or on a node.
    let (status, _) = desk.pair.api.call(Method::GET, "/api/v1/clusters/lab/modules/broken", None).unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
    for node in ["n1", "n2"] {
        let modules = desk.pair.lab.sh(node, "ls /var/lib/tsugi/modules").unwrap();
        assert_eq!(modules.trim(), "ledger", "on {node}");
    }
    desk.assert_clean("nonsense", &["the server responded with a status of 422"]);
}

fn is_not_tricked(desk: &Desk) {
    let site = site(&desk.pair);
    let cookie = format!("__Host-tsugi={}", desk.browser.cookie("__Host-tsugi").unwrap());
    let ca = reqwest::Certificate::from_pem(&std::fs::read(note(&desk.pair, "ca_file")).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).http1_only().no_proxy().timeout(PAGE_BOUND);
    let client = client.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = |origin: Option<&str>, cookie: &str| {
        let mut request = client
            .get(format!("{site}/ws/live?scope=all"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("cookie", cookie);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        runtime.block_on(async { request.send().await.unwrap().status() })
    };
    assert_eq!(socket(Some(&site), &cookie), StatusCode::SWITCHING_PROTOCOLS, "the console's own page");
    assert_eq!(socket(Some("https://evil.example"), &cookie), StatusCode::FORBIDDEN, "a page of another site");
    assert_eq!(socket(Some("null"), &cookie), StatusCode::FORBIDDEN, "a page of nowhere");
    assert_eq!(socket(Some(&site), "__Host-tsugi=guessed"), StatusCode::UNAUTHORIZED, "a stranger");

    let post = |headers: &[(&str, &str)]| {
        let mut request = client.post(format!("{site}{MODULE_PAGE}/actions/stop")).header("cookie", &cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        runtime.block_on(async { request.form(&[("reason", "evil")]).send().await.unwrap().status() })
    };
    assert_eq!(post(&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]), StatusCode::FORBIDDEN);
    assert_eq!(post(&[("origin", "https://evil.example")]), StatusCode::FORBIDDEN, "an old browser");
    assert_eq!(post(&[("origin", "https://evil.example"), ("sec-fetch-site", "same-site")]), StatusCode::FORBIDDEN);
    let events = desk.pair.api.must(Method::GET, "/api/v1/events?cluster=lab&module=ledger", None).unwrap().to_string();
    assert!(!events.contains("evil"), "another site's order was carried out");
    desk.pair.wait_pair("n1", "n2", PAGE_BOUND).unwrap();
}

fn works_without_scripts(desk: &Desk) {
    desk.open("/");
    desk.browser.click("#menu-user summary").unwrap();
    desk.click_away("form[action='/logout'] button");
    desk.wait("the end of the session", PAGE_BOUND, "location.pathname === '/login'");
    desk.browser.set_scripts(false).unwrap();
    desk.open(MODULE_PAGE);
    assert!(desk.browser.path().unwrap().starts_with("/login"), "signed out, and sees {}", desk.browser.path().unwrap());
    desk.sign_in();
    assert_eq!(desk.browser.path().unwrap(), MODULE_PAGE, "after signing in one is where one wanted to go");
    assert_eq!(desk.browser.attr("#live-pill", "data-state").unwrap(), "off", "scripts run");
    desk.click_away(".actions a[href$='/actions/swap']");
    assert_eq!(desk.browser.text("h1").unwrap(), "Swap ledger to n2?");
    assert!(desk.browser.texts("ol.effects > li").unwrap().len() >= 4);
    desk.shoot("swap-page-en-light");
    desk.click_away(".sheet-foot button.primary");
    assert_eq!(desk.browser.path().unwrap(), MODULE_PAGE);
    wait_for("the roles exchanged, by asking again", TAKEOVER_BOUND, || {
        desk.browser.open(MODULE_PAGE).ok()?;
        let shown = |node: &str| desk.browser.text(&format!("#on-{node} .pill b")).unwrap_or_default();
        (shown("n2") == "PRIM" && shown("n1") == "SECOND").then_some(())
    })
    .unwrap();
    desk.browser.set_scripts(true).unwrap();
    desk.assert_clean("pages without scripts", &[]);
}

/// The negative control of [`Desk::assert_clean`]: a refused script and a request elsewhere are noticed.
fn complaints_are_heard(desk: &Desk) {
    desk.open("/");
    desk.browser
        .js("const s = document.createElement('script'); s.textContent = 'window.evil = 1'; document.body.append(s);", Vec::new())
        .unwrap();
    desk.browser.js("return fetch('https://evil.example/').catch(() => 0)", Vec::new()).unwrap();
    assert_eq!(desk.browser.js("return window.evil || 0", Vec::new()).unwrap(), 0, "the page's policy lets scripts in");
    let complaints = desk.browser.complaints().unwrap();
    assert!(complaints.iter().any(|c| c.contains("Content Security Policy")), "{complaints:?}");
    assert!(desk.browser.requested().unwrap().iter().any(|url| url.starts_with("https://127.0.0.1")), "requests are not seen");
}
