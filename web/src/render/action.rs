//! An action before it is ordered: as a page, and as the same form in a dialog.

use super::out;
use super::parts::{action_href, module_href, verb_icon};
use super::ui::{self, Html};
use crate::both;
use crate::say::{self, Grade, Mark, Plan, StepMark, Target};
use crate::text as p;
use crate::view::{ActionError, ActionView, Chrome};
use askama::Template;
use tsugi_core::command::{MAINTENANCE_MINUTES_MAX, Verb};
use tsugi_core::ids::NodeName;
use tsugi_core::rehearsal::Rehearsal;

#[derive(Template)]
#[template(path = "pages/action.html", blocks = ["form"])]
struct Page<'a> {
    c: &'a Chrome,
    cluster: String,
    module: String,
    back: String,
    action: String,
    mark: Mark,
    icon: Html,
    plan: Plan,
    steps: Vec<StepM>,
    is_danger: bool,
    is_dialog: bool,
    has_reason: bool,
    hidden: Vec<(&'static str, String)>,
    /// Length of a maintenance, to be changed.
    minutes: Option<u32>,
    minutes_max: u32,
    rehearsals: Vec<RehearsalM>,
    type_name: String,
    reason: &'a str,
    error: Option<String>,
    cli_on: String,
}

struct StepM {
    tone: &'static str,
    icon: Html,
    text: String,
}

/// What one node says it would do.
struct RehearsalM {
    title: String,
    /// In place of steps.
    message: Option<String>,
    steps: Vec<(usize, String)>,
}

#[derive(Template)]
#[template(path = "parts/dialog.html")]
struct Dialog {
    form: String,
}

/// The page; it works without scripts.
pub fn action(v: &ActionView) -> String {
    out(&page(v, false))
}

/// The dialog, for requests with `HX-Request`.
pub fn action_dialog(v: &ActionView) -> String {
    out(&Dialog { form: out(&page(v, true).as_form()) })
}

fn page(v: &ActionView, is_dialog: bool) -> Page<'_> {
    let (c, m) = (&v.chrome, &v.module);
    let plan = say::plan(c.lang, m, &v.verb, &v.target, &v.interruption);
    let is_danger = plan.grade == Grade::Danger;
    let mut hidden = vec![("plan", v.plan_hash.clone())];
    if let Target::Node(node) = &v.target {
        hidden.push(("node", node.to_string()));
    }
    match v.verb {
        Verb::Prim { accept_loss: true } => hidden.push(("accept_loss", "1".to_owned())),
        Verb::Second { full_sync: true } => hidden.push(("full_sync", "1".to_owned())),
        Verb::Resolve { ref keep } => hidden.push(("keep", keep.to_string())),
        Verb::Maintenance { minutes: 0 } => hidden.push(("minutes", "0".to_owned())),
        _ => {}
    }
    let steps = plan.steps.iter().map(|s| StepM { tone: step(s.mark).1, icon: step(s.mark).0, text: s.text.clone() }).collect();
    let module = &m.module;
    Page {
        c,
        cluster: m.cluster.to_string(),
        module: module.to_string(),
        back: module_href(&m.cluster, module.as_str()),
        action: action_href(m, &v.verb, None).split('?').next().unwrap_or_default().to_owned(),
        mark: if plan.grade == Grade::Simple { Mark::Info } else { Mark::Warning },
        icon: ui::icon(verb_icon(&v.verb)),
        steps,
        is_danger,
        is_dialog,
        has_reason: plan.grade >= Grade::Impact,
        hidden,
        minutes: match v.verb {
            Verb::Maintenance { minutes } if minutes > 0 => Some(minutes),
            _ => None,
        },
        minutes_max: MAINTENANCE_MINUTES_MAX,
        rehearsals: v.rehearsals.iter().map(|(node, said)| rehearsal(c, v, node, said.as_ref())).collect(),
        type_name: both!(c.lang, "Type the module's name ({module}) to confirm", "確認のため、モジュール名（{module}）を入力してください"),
        reason: &v.reason,
        error: v.error.as_ref().map(|e| error(c, v, e)),
        cli_on: match &v.target {
            Target::Node(node) => both!(c.lang, "On {node}:", "{node} 上では："),
            Target::Module => both!(c.lang, "On a node:", "ノード上では："),
        },
        plan,
    }
}

fn rehearsal(c: &Chrome, v: &ActionView, node: &NodeName, said: Option<&Rehearsal>) -> RehearsalM {
    let refused = |r: &Rehearsal| r.refusal.as_ref().map(|refusal| say::refusal(c.lang, refusal, &v.module.module, node).text);
    let message = match said {
        None => Some(say::not_rehearsed(c.lang, node)),
        Some(r) if r.refusal.is_none() && r.steps.is_empty() => Some(c.t(p::REHEARSED_NOTHING).to_owned()),
        Some(r) => refused(r),
    };
    RehearsalM {
        title: both!(c.lang, "Step by step on {node}", "{node} での手順"),
        message,
        steps: (1..).zip(said.iter().flat_map(|r| &r.steps).map(|step| say::rehearsed(c.lang, step))).collect(),
    }
}

fn step(mark: StepMark) -> (Html, &'static str) {
    match mark {
        StepMark::Stop => (ui::icon("i-stop"), "c-notready"),
        StepMark::Move => (ui::icon("i-swap"), "c-trans"),
        StepMark::Start => (ui::icon("i-play"), "c-ready"),
        StepMark::Good => (Mark::Ready.svg("s16"), "c-ready"),
        StepMark::Warn => (Mark::Warning.svg("s16"), "c-warn"),
    }
}

fn error(c: &Chrome, v: &ActionView, error: &ActionError) -> String {
    match error {
        ActionError::Refused { node, refusal } => {
            let said = say::refusal(c.lang, refusal, &v.module.module, node);
            let rest = said.rest();
            let gap = if c.is_ja() { "" } else { " " };
            if rest.is_empty() { said.text } else { format!("{}{gap}{rest}", said.text) }
        }
        ActionError::Changed => c.t(p::STATE_CHANGED).to_owned(),
        ActionError::NameDiffers => c.t(p::NAME_DIFFERS).to_owned(),
        ActionError::ReasonMissing => c.t(p::REASON_MISSING).to_owned(),
        ActionError::NotAllowed => c.t(p::NOT_ALLOWED_ACTION).to_owned(),
        ActionError::Running { .. } => c.t(p::ACTION_RUNNING).to_owned(),
    }
}
