//! What an order would do now: the question, the steps, the interruption, the pre-flight ticks, the grade.
//!
//! One function for the dialog, for the page without scripts and for `?dry_run=true`.

use super::Mark;
use super::verb::{command_line, refusal, verb_name};
use crate::both;
use crate::fleet::{HealthView, ModuleView, NodeCell};
use crate::fmt;
use crate::text::{Lang, Text};
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::ids::NodeName;
use tsugi_core::module::Mode;
use tsugi_core::state::{Health, State};

/// What an order is aimed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The module; the console picks the nodes (start: every stopped one; stop: all, secondary first; restart and swap: the serving one).
    Module,
    /// One node.
    Node(NodeName),
}

/// How much confirmation an order needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// A sentence and a button that names the action.
    Simple,
    /// The service is interrupted or its protection reduced: effects are listed first.
    Impact,
    /// Data can be lost: red button, the module's name typed, a reason required.
    Danger,
}

/// Shape beside a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepMark {
    /// Something stops.
    Stop,
    /// Something moves.
    Move,
    /// Something starts.
    Start,
    /// State afterwards, protected.
    Good,
    /// State afterwards, not protected; or data is given up.
    Warn,
}

/// One effect, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Shape.
    pub mark: StepMark,
    /// Sentence without a full stop.
    pub text: String,
}

/// A pre-flight check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// It holds.
    pub is_ok: bool,
    /// Shape: check or cross.
    pub mark: Mark,
    /// What was checked.
    pub text: String,
}

/// Expected interruption of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interruption {
    /// The service goes on.
    None,
    /// Milliseconds of earlier such actions of this module: median, least, most, how many.
    Measured { median_ms: u64, least_ms: u64, most_ms: u64, count: u32 },
    /// No measurement yet: at most the configured script time-outs.
    Configured { most_ms: u64 },
    /// Until someone starts the module again.
    UntilStarted,
}

/// An order, worded before it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// "Swap ledger to n2?"
    pub question: String,
    /// The line under it: "cluster · primary n1 → n2".
    pub subject: String,
    /// The button's word.
    pub verb: String,
    /// Effects in order.
    pub steps: Vec<Step>,
    /// Amber box: title and detail; absent when the service goes on.
    pub interruption: Option<(String, String)>,
    /// Pre-flight checks.
    pub ticks: Vec<Tick>,
    /// Confirmation needed.
    pub grade: Grade,
    /// The equal command line, and the node to run it on.
    pub command: String,
    /// Why it cannot be done now; the button is greyed and says this.
    pub blocked: Option<String>,
}

/// How much confirmation `verb` needs. Forcing a copy that is known to be current only takes the role; forcing any
/// other one decides which writes are kept.
fn grade(verb: &Verb, node: Option<&NodeCell>) -> Grade {
    let is_current = node.and_then(NodeCell::now).is_some_and(|s| s.is_up_to_date);
    match verb {
        Verb::Start | Verb::Verify => Grade::Simple,
        Verb::Maintenance { minutes: 0 } => Grade::Simple,
        Verb::Maintenance { .. } => Grade::Impact,
        Verb::Resolve { .. } => Grade::Danger,
        Verb::Stop | Verb::Restart | Verb::Swap | Verb::StopStart | Verb::Second { full_sync: false } => Grade::Impact,
        Verb::Prim { accept_loss: false } if is_current => Grade::Impact,
        Verb::Prim { .. } | Verb::PrimForce | Verb::Second { full_sync: true } => Grade::Danger,
    }
}

/// "Until it is started again" holds only where nobody takes over.
fn fitting<'a>(m: &ModuleView, verb: &Verb, target: &Target, expected: &'a Interruption) -> &'a Interruption {
    let is_one_of_more = *verb == Verb::Stop && *target != Target::Module && m.cells.len() > 1;
    let is_taken_over = m.mode() != Mode::Mirror || m.health == HealthView::Protected;
    match expected {
        Interruption::UntilStarted if is_one_of_more && is_taken_over => &Interruption::None,
        other => other,
    }
}

/// Words what `verb` at `target` would do to `m` as it is now.
pub fn plan(lang: Lang, m: &ModuleView, verb: &Verb, target: &Target, interruption: &Interruption) -> Plan {
    let module = &m.module;
    let node = node_of(m, verb, target);
    let name = verb_name(lang, verb);
    let on = node.map_or("—", |c| c.node.as_str());
    let other = node.and_then(|c| m.other_than(&c.node));
    let to = other.map_or("—", |c| c.node.as_str());
    let question = match (verb, target) {
        (Verb::Swap, _) => both!(lang, "Swap {module} to {to}?", "{module} を {to} に切り替えますか？"),
        (Verb::Start | Verb::Stop, Target::Module) => {
            both!(lang, "{name} {module} on every node?", "すべてのノードで {module} を{name}しますか？")
        }
        (Verb::Restart, Target::Module) if m.cells.iter().filter(|c| c.is_serving()).count() > 1 => {
            both!(lang, "{name} {module} on every node where it runs?", "稼働中のすべてのノードで {module} を{name}しますか？")
        }
        (Verb::Start | Verb::Stop | Verb::Restart, _) => {
            both!(lang, "{name} {module} on {on}?", "{on} の {module} を{name}しますか？")
        }
        (Verb::StopStart, _) => both!(lang, "Stop and start {module} on {on}?", "{on} の {module} を停止して起動しますか？"),
        (Verb::Prim { .. }, _) => {
            both!(lang, "Force {module} to start as primary on {on}?", "{on} の {module} をプライマリとして強制起動しますか？")
        }
        (Verb::PrimForce, _) => {
            both!(lang, "Serve {module} from the incomplete data on {on}?", "{on} の不完全なデータで {module} を強制起動しますか？")
        }
        (Verb::Resolve { keep }, _) => both!(
            lang,
            "Keep the data of {module} on {keep} and discard the other copy?",
            "{module} は {keep} のデータを残し、もう一方のデータを破棄しますか？"
        ),
        (Verb::Maintenance { minutes: 0 }, Target::Module) => {
            both!(lang, "End the maintenance of {module}?", "{module} の保守モードを終了しますか？")
        }
        (Verb::Maintenance { .. }, Target::Module) => {
            both!(lang, "Switch automatic actions of {module} off for a time?", "{module} の自動処理を一定時間止めますか？")
        }
        (Verb::Maintenance { minutes: 0 }, _) => {
            both!(lang, "End the maintenance of {module} on {on}?", "{on} の {module} の保守モードを終了しますか？")
        }
        (Verb::Maintenance { minutes }, _) => both!(
            lang,
            "Switch automatic actions of {module} on {on} off for {minutes} min?",
            "{on} の {module} の自動処理を {minutes} 分間止めますか？"
        ),
        (Verb::Verify, _) => {
            both!(lang, "Compare the two copies of {module} while it runs?", "{module} の 2 つのコピーを、稼働したまま照合しますか？")
        }
        (Verb::Second { .. }, _) => {
            both!(lang, "Force {module} to start as secondary on {on}?", "{on} の {module} をセカンダリとして強制起動しますか？")
        }
    };
    let cluster = &m.cluster;
    let subject = match verb {
        Verb::Swap => both!(lang, "{cluster} · primary {on} → {to}", "{cluster} · プライマリ {on} → {to}"),
        _ => format!("{cluster} · {module}"),
    };
    let grade = grade(verb, node);
    Plan {
        question,
        subject,
        verb: name.to_owned(),
        steps: super::steps::steps(lang, m, verb, target, node),
        interruption: interrupts(m, verb, target, node).then(|| worded(lang, verb, fitting(m, verb, target, interruption))),
        ticks: ticks(lang, m, verb, node),
        grade,
        command: command_line(verb, module),
        blocked: blocked(lang, m, verb, target, node),
    }
}

/// The node an order is carried out on; for orders to the whole module the one that decides whether it is possible.
fn node_of<'a>(m: &'a ModuleView, verb: &Verb, target: &Target) -> Option<&'a NodeCell> {
    match (target, verb) {
        (Target::Node(node), _) => m.cell(node),
        (Target::Module, Verb::Resolve { keep }) => m.cell(keep),
        (Target::Module, Verb::Maintenance { .. }) => m.cells.iter().find(|c| c.now().is_some()),
        (Target::Module, Verb::Start) => m.cells.iter().find(|c| c.now().is_some_and(|s| s.state == State::Stop)),
        (Target::Module, _) => {
            let heard = |is_wanted: fn(State) -> bool| m.cells.iter().find(move |c| c.now().is_some_and(|s| is_wanted(s.state)));
            let serving = heard(State::is_serving);
            match verb {
                Verb::Stop => serving.or_else(|| heard(|state| state != State::Stop)),
                _ => serving.or_else(|| m.serving()),
            }
        }
    }
}

fn blocked(lang: Lang, m: &ModuleView, verb: &Verb, target: &Target, node: Option<&NodeCell>) -> Option<String> {
    let module = &m.module;
    let any = m.cells.first()?;
    let why = match node {
        Some(cell) => match cell.now() {
            None if cell.snapshot.is_none() && cell.contact.is_connected() => {
                Some(refusal(lang, &Refusal::NotConfigured, module, &cell.node))
            }
            None => Some(refusal(lang, &Refusal::NoContact, module, &cell.node)),
            Some(s) => s.refusal(verb).filter(|r| !answered(verb, r)).map(|r| refusal(lang, r, module, &cell.node)),
        },
        None if m.cells.iter().all(|c| c.now().is_none()) => Some(refusal(lang, &Refusal::NoContact, module, &any.node)),
        None => match (verb, target) {
            (Verb::Start, Target::Module) => return Some(both!(lang, "{module} is already running.", "{module} は起動済みです。")),
            (Verb::Stop, Target::Module) => return Some(both!(lang, "{module} is already stopped.", "{module} は停止済みです。")),
            _ => Some(refusal(lang, &Refusal::NotServing, module, &any.node)),
        },
    };
    why.map(|said| said.next.as_ref().map_or_else(|| said.text.clone(), |n| join(lang, &said.text, n)))
}

/// A node answers "needs accept_loss" for the plain order; the order that carries the consent is not refused for it.
fn answered(verb: &Verb, refusal: &Refusal) -> bool {
    matches!((verb, refusal), (Verb::Prim { accept_loss: true }, Refusal::NeedsAcceptLoss))
}

fn join(lang: Lang, a: &str, b: &str) -> String {
    match lang {
        Lang::En => format!("{a} {b}"),
        Lang::Ja => format!("{a}{b}"),
    }
}

/// Whether the service is interrupted.
fn interrupts(m: &ModuleView, verb: &Verb, target: &Target, node: Option<&NodeCell>) -> bool {
    let serves = node.is_some_and(NodeCell::is_serving);
    match verb {
        Verb::Start | Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. } | Verb::Maintenance { .. } | Verb::Verify => false,
        Verb::Resolve { keep } => m.serving().is_some_and(|c| c.node != *keep),
        Verb::Swap => true,
        Verb::Stop if *target == Target::Module => m.serving().is_some(),
        Verb::Stop | Verb::Restart | Verb::StopStart => serves,
    }
}

fn worded(lang: Lang, verb: &Verb, interruption: &Interruption) -> (String, String) {
    match interruption {
        Interruption::UntilStarted => (
            Text {
                en: "The service is interrupted until it is started again", ja: "次に起動するまでサービスは停止します"
            }
            .in_(lang)
            .to_owned(),
            Text { en: "Open connections are cut.", ja: "接続中の通信は切断されます。" }.in_(lang).to_owned(),
        ),
        Interruption::Measured { median_ms, count: 1, .. } => {
            let (about, what) = (fmt::duration(lang, *median_ms), verb_name(lang, verb).to_lowercase());
            (
                both!(lang, "About {about} of service interruption", "サービスが約 {about}中断します"),
                both!(
                    lang,
                    "Last time ({what}): {about}. Open connections are cut.",
                    "前回の{what}：{about}。接続中の通信は切断されます。"
                ),
            )
        }
        Interruption::Measured { median_ms, least_ms, most_ms, count } => {
            let (about, least, most) = (fmt::duration(lang, *median_ms), fmt::duration(lang, *least_ms), fmt::duration(lang, *most_ms));
            let what = verb_name(lang, verb).to_lowercase();
            (
                both!(lang, "About {about} of service interruption", "サービスが約 {about}中断します"),
                both!(
                    lang,
                    "Last {count} times ({what}): {least}–{most}. Open connections are cut.",
                    "直近 {count} 回の{what}：{least}～{most}。接続中の通信は切断されます。"
                ),
            )
        }
        Interruption::Configured { most_ms } => {
            let most = fmt::duration(lang, *most_ms);
            (
                Text { en: "The service is interrupted briefly", ja: "サービスが一時的に中断します" }.in_(lang).to_owned(),
                both!(
                    lang,
                    "Not measured yet; by the scripts' time-outs at most {most}. Open connections are cut.",
                    "まだ実績がありません。スクリプトの制限時間では最長 {most}です。接続中の通信は切断されます。"
                ),
            )
        }
        Interruption::None => (
            Text { en: "The service may be interrupted briefly", ja: "サービスが一時的に中断することがあります" }.in_(lang).to_owned(),
            Text { en: "Open connections are cut.", ja: "接続中の通信は切断されます。" }.in_(lang).to_owned(),
        ),
    }
}

fn ticks(lang: Lang, m: &ModuleView, verb: &Verb, node: Option<&NodeCell>) -> Vec<Tick> {
    let Some(cell) = node else { return Vec::new() };
    let mut out = Vec::new();
    let mut tick = |is_ok: bool, text: String| out.push(Tick { is_ok, mark: if is_ok { Mark::Ready } else { Mark::NotReady }, text });
    let on = &cell.node;
    tick(cell.contact.is_connected(), both!(lang, "{on} is in contact", "{on} と通信できる"));
    if let (Verb::Swap, Some(to)) = (verb, m.other_than(&cell.node)) {
        let other = &to.node;
        let s = to.now();
        tick(s.is_some_and(|s| s.is_up_to_date), Text { en: "Data identical on both", ja: "両ノードのデータが一致" }.in_(lang).to_owned());
        if let Some(s) = s {
            let checked: Vec<_> = s.resources.iter().filter(|r| matches!(r.health, Health::Up | Health::Down)).collect();
            let (up, all) = (checked.iter().filter(|r| r.health == Health::Up).count(), checked.len());
            if all > 0 {
                tick(up == all, both!(lang, "{up}/{all} checkers OK on {other}", "{other} のチェッカー {up}/{all} 正常"));
            }
        } else {
            tick(false, both!(lang, "{other} is in contact", "{other} と通信できる"));
        }
    }
    let is_idle = cell.now().is_some_and(|s| s.refusal(verb) != Some(&Refusal::Busy));
    tick(is_idle, Text { en: "No other action running", ja: "他の処理は動いていない" }.in_(lang).to_owned());
    out
}
