//! Pages: a module, its configuration, and the actions on it.

use super::api_auth::audit_with;
use super::api_modules::do_apply;
use super::clusters as work;
use super::error::{Failure, Result};
use super::extract::{Names, Query};
use super::page::{Ctx, Fields, chrome, go, html, ok, parse};
use super::pages::{newest, problem, problem_views};
use super::{api_actions, state, views};
use crate::actions::{self, choose};
use crate::app::App;
use crate::deploy::{self, Author, Draft, NotKept, templates};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tsugi_core::command::Verb;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::state::State as NodeRole;
use tsugi_web::live_ids::Scope;
use tsugi_web::render;
use tsugi_web::say::{Grade, plan};
use tsugi_web::view::{ActionError, ActionView, ModuleConfigView, ModulePageView, ProblemView};

/// A module's facts.
pub async fn module_view(app: &App, ctx: &Ctx, cluster: &ClusterName, name: &ModuleName) -> Result<ModulePageView> {
    let chrome = chrome(app, ctx, Some(Scope::Module(cluster.clone(), name.clone()))).await?;
    let stored = work::cluster(app, cluster).await?;
    let state = state::module(app, cluster, name).await?;
    let versions = app.store.versions(cluster, name).await?;
    // The one that runs; one that just ended is shown once more, so that its outcome is seen.
    let last = app.store.operations(Some((cluster, name)), 1).await?.into_iter().next();
    let now = crate::store::now_ms().max(0) as u64;
    let is_shown = |o: &crate::actions::Operation| o.ended_unix_ms.is_none_or(|ended| now.saturating_sub(ended) < OUTCOME_SHOWN_MS);
    Ok(ModulePageView {
        chrome,
        module: views::module(&stored, &state),
        events: newest(app, cluster, Some(name)).await?,
        versions: versions.iter().map(|v| views::version(v, &state)).collect(),
        operation: last.filter(is_shown).map(|o| views::operation(&o, ctx.lang)),
    })
}

/// An ended operation stays on its module's page for this long.
const OUTCOME_SHOWN_MS: u64 = 60_000;

/// `GET /clusters/{c}/modules/{m}`.
pub async fn module(State(app): State<Arc<App>>, ctx: Ctx, Names((cluster, name)): Names<(ClusterName, ModuleName)>) -> Result<Response> {
    Ok(ok(render::module(&module_view(&app, &ctx, &cluster, &name).await?)))
}

// --- configuration ------------------------------------------------------------------------------------------------

/// A configuration as typed.
struct Typed {
    userconfig: String,
    scripts: Vec<(String, String)>,
    reason: String,
}

impl Typed {
    fn of(form: &Fields) -> Typed {
        // Script fields that are offered and left empty are no files.
        let scripts = form.all("script_file").into_iter().zip(form.all("script_text"));
        let scripts = scripts.filter(|(_, text)| !text.trim().is_empty()).map(|(f, t)| (f.to_owned(), t.to_owned())).collect();
        Typed { userconfig: form.text("userconfig").to_owned(), scripts, reason: form.text("reason").trim().to_owned() }
    }
    fn files(&self) -> BTreeMap<String, String> {
        self.scripts.iter().cloned().collect()
    }
    fn reason(&self) -> Option<String> {
        Some(self.reason.clone()).filter(|r| !r.is_empty())
    }
}

/// Which template.
#[derive(Debug, Deserialize)]
pub struct TemplateQuery {
    #[serde(default)]
    template: String,
}

struct Editor {
    cluster: ClusterName,
    module: Option<ModuleName>,
    name: String,
    nodes: Vec<NodeName>,
    typed: Typed,
    problems: Option<Vec<ProblemView>>,
    version: u64,
    is_running: bool,
    template: Option<String>,
}

async fn editor(app: &App, ctx: &Ctx, e: Editor) -> Result<Response> {
    let stored = work::cluster(app, &e.cluster).await?;
    let has_errors = e.problems.iter().flatten().any(|p| !p.is_warning);
    let nodes = stored.def.nodes().into_iter().map(|n| (n.clone(), e.nodes.contains(&n))).collect();
    let view = ModuleConfigView {
        chrome: chrome(app, ctx, None).await?,
        cluster: e.cluster,
        module: e.module,
        name: e.name,
        nodes,
        userconfig: e.typed.userconfig,
        scripts: e.typed.scripts,
        problems: e.problems,
        reason: e.typed.reason,
        version: e.version,
        is_running: e.is_running,
        templates: templates::all().into_iter().map(|t| (t.id, t.title.of(ctx.lang).to_owned())).collect(),
        template: e.template,
    };
    if ctx.is_fragment {
        return Ok(ok(render::module_config_problems(&view)));
    }
    let status = if has_errors { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(html(status, render::module_config(&view)))
}

/// `GET /clusters/{c}/modules/new`.
pub async fn new_module(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Names(cluster): Names<ClusterName>,
    Query(query): Query<TemplateQuery>,
) -> Result<Response> {
    let stored = work::cluster(&app, &cluster).await?;
    let all = templates::all();
    let chosen = all.iter().find(|t| t.id == query.template).or(all.first()).ok_or_else(Failure::not_found)?;
    let typed =
        Typed { userconfig: chosen.userconfig.to_owned(), scripts: chosen.scripts.clone().into_iter().collect(), reason: String::new() };
    // A cluster of two leaves no choice; otherwise it is the administrator's.
    let nodes = Some(stored.def.nodes()).filter(|n| n.len() == 2).unwrap_or_default();
    let template = Some(chosen.id.clone());
    editor(
        &app,
        &ctx,
        Editor { cluster, module: None, name: String::new(), nodes, typed, problems: None, version: 0, is_running: false, template },
    )
    .await
}

/// Problems to show beside the form, or an error that has no place there.
fn shown(error: NotKept, ctx: &Ctx) -> Result<Vec<ProblemView>> {
    match error {
        NotKept::Problems(problems) => Ok(problem_views(&problems, ctx.lang)),
        NotKept::NameTaken => {
            let failure = super::error::Error::from(NotKept::NameTaken);
            Ok(vec![problem(failure.words.of(ctx.lang).to_owned())])
        }
        other => Err(other.into()),
    }
}

/// `POST /clusters/{c}/modules`.
pub async fn add_module(State(app): State<Arc<App>>, mut ctx: Ctx, Names(cluster): Names<ClusterName>, form: Fields) -> Result<Response> {
    // The switches of the page lead back to the form, not to this POST.
    ctx.path = format!("/clusters/{cluster}/modules/new");
    let caller = ctx.caller()?;
    let (typed, name) = (Typed::of(&form), form.text("name").trim().to_owned());
    let nodes: Vec<NodeName> = form.all("node").into_iter().filter_map(|n| n.parse().ok()).collect();
    let files = typed.files();
    // A check needs no name yet; one that cannot be taken is said in any case.
    let wanted = if name.is_empty() && form.text("do") == "check" { ModuleName::new("new") } else { ModuleName::new(name.clone()) };
    let problems = match wanted {
        Err(bad) => vec![problem(bad.to_string())],
        Ok(module) => {
            let draft = Draft { module: &module, nodes: &nodes, userconfig: &typed.userconfig, scripts: &files };
            if form.text("do") == "check" {
                match deploy::check_draft(&app, &cluster, draft).await {
                    Ok(checked) => problem_views(&checked.problems, ctx.lang),
                    Err(error) => shown(error, &ctx)?,
                }
            } else {
                let reason = typed.reason();
                match deploy::add_module(&app, &cluster, draft, Author { by: &caller.name, reason: reason.as_deref() }).await {
                    Ok(_) => {
                        let object = format!("{cluster}/{module}");
                        audit_with(&app, caller, "module.add", &object, reason.as_deref(), json!({ "nodes": nodes })).await?;
                        do_apply(&app, caller, &cluster, &module, Some(1), reason).await?;
                        return Ok(go(&ctx, &format!("/clusters/{cluster}/modules/{module}")));
                    }
                    Err(error) => shown(error, &ctx)?,
                }
            }
        }
    };
    editor(
        &app,
        &ctx,
        Editor { cluster, module: None, name, nodes, typed, problems: Some(problems), version: 0, is_running: false, template: None },
    )
    .await
}

fn is_running(state: &state::ModuleState) -> bool {
    state.reports.iter().any(|r| r.now().is_some_and(|s| s.state != NodeRole::Stop))
}

/// `GET /clusters/{c}/modules/{m}/config`.
pub async fn module_config(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Names((cluster, name)): Names<(ClusterName, ModuleName)>,
) -> Result<Response> {
    let state = state::module(&app, &cluster, &name).await?;
    let newest = app.store.version(&cluster, &name, None).await?.ok_or_else(Failure::not_found)?;
    let typed = Typed { userconfig: newest.userconfig, scripts: newest.scripts.into_iter().collect(), reason: String::new() };
    let e = Editor {
        cluster,
        module: Some(name.clone()),
        name: name.to_string(),
        nodes: state.module.nodes.clone(),
        typed,
        problems: None,
        version: newest.version,
        is_running: is_running(&state),
        template: None,
    };
    editor(&app, &ctx, e).await
}

/// `POST /clusters/{c}/modules/{m}/config`.
pub async fn set_module_config(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Names((cluster, name)): Names<(ClusterName, ModuleName)>,
    form: Fields,
) -> Result<Response> {
    let caller = ctx.caller()?;
    let state = state::module(&app, &cluster, &name).await?;
    let typed = Typed::of(&form);
    let files = typed.files();
    let problems = if form.text("do") == "check" {
        let draft = Draft { module: &name, nodes: &state.module.nodes, userconfig: &typed.userconfig, scripts: &files };
        match deploy::check_draft(&app, &cluster, draft).await {
            Ok(checked) => problem_views(&checked.problems, ctx.lang),
            Err(error) => shown(error, &ctx)?,
        }
    } else {
        let reason = typed.reason();
        let author = Author { by: &caller.name, reason: reason.as_deref() };
        match deploy::add_version(&app, &state.module, &typed.userconfig, &files, author).await {
            Ok((version, _)) => {
                let object = format!("{cluster}/{name}");
                audit_with(&app, caller, "module.version", &object, reason.as_deref(), json!({ "version": version })).await?;
                if form.text("do") == "apply" {
                    do_apply(&app, caller, &cluster, &name, Some(version), reason).await?;
                }
                return Ok(go(&ctx, &format!("/clusters/{cluster}/modules/{name}")));
            }
            Err(error) => shown(error, &ctx)?,
        }
    };
    let version = app.store.version(&cluster, &name, None).await?.map_or(0, |v| v.version);
    let e = Editor {
        cluster,
        module: Some(name.clone()),
        name: name.to_string(),
        nodes: state.module.nodes.clone(),
        is_running: is_running(&state),
        typed,
        problems: Some(problems),
        version,
        template: None,
    };
    editor(&app, &ctx, e).await
}

/// `POST /clusters/{c}/modules/{m}/versions/{v}/apply`.
pub async fn apply_version(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Names((cluster, name, version)): Names<(ClusterName, ModuleName, u64)>,
) -> Result<Response> {
    do_apply(&app, ctx.caller()?, &cluster, &name, Some(version), None).await?;
    Ok(go(&ctx, &format!("/clusters/{cluster}/modules/{name}")))
}

// --- actions ------------------------------------------------------------------------------------------------------

/// What an action page is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionQuery {
    #[serde(default)]
    node: String,
    #[serde(default)]
    accept_loss: String,
    #[serde(default)]
    full_sync: String,
    #[serde(default)]
    keep: String,
    #[serde(default)]
    minutes: String,
}

/// Options of an order as a form or a link carries them.
fn options(accept_loss: bool, full_sync: bool, keep: &str, minutes: &str) -> Result<choose::Options> {
    Ok(choose::Options { accept_loss, full_sync, keep: parse("keep", keep)?, minutes: parse("minutes", minutes)? })
}

fn is_on(text: &str) -> bool {
    matches!(text, "1" | "on" | "true")
}

/// An order to be confirmed.
struct Asked {
    cluster: ClusterName,
    name: ModuleName,
    verb: Verb,
    node: Option<NodeName>,
}

async fn action_view(app: &App, ctx: &Ctx, asked: &Asked, reason: String, error: Option<ActionError>) -> Result<ActionView> {
    let chrome = chrome(app, ctx, None).await?;
    let stored = work::cluster(app, &asked.cluster).await?;
    let state = state::module(app, &asked.cluster, &asked.name).await?;
    let error = error.or_else(|| state::running(app, &asked.cluster, &asked.name).map(|operation| ActionError::Running { operation }));
    Ok(ActionView {
        chrome,
        module: views::module(&stored, &state),
        verb: asked.verb.clone(),
        target: views::target(asked.node.as_ref()),
        interruption: views::interruption(app, &asked.verb, &state).await?,
        rehearsals: Vec::new(),
        reason,
        error,
        plan_hash: views::plan_hash(&state, &asked.verb, asked.node.as_ref()),
    })
}

fn answer(ctx: &Ctx, status: StatusCode, view: &ActionView) -> Response {
    html(status, if ctx.is_fragment { render::action_dialog(view) } else { render::action(view) })
}

/// `GET …/actions/{verb}`: what would happen, as a page or for htmx as a dialog.
pub async fn action_form(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Names((cluster, name, verb)): Names<(ClusterName, ModuleName, String)>,
    Query(query): Query<ActionQuery>,
) -> Result<Response> {
    let options = options(is_on(&query.accept_loss), is_on(&query.full_sync), &query.keep, &query.minutes)?;
    let asked = Asked { cluster, name, verb: api_actions::verb_of(&verb, options)?, node: parse("node", &query.node)? };
    let mut view = action_view(&app, &ctx, &asked, String::new(), None).await?;
    let state = state::module(&app, &asked.cluster, &asked.name).await?;
    let targets = choose::targets(&asked.verb, asked.node.as_ref(), &state.reports).unwrap_or_default();
    let rehearsals = actions::rehearse(&app, &state.module, &asked.verb, &targets, &ctx.caller()?.name).await;
    view.rehearsals = rehearsals.into_iter().map(|r| (r.node, r.rehearsal)).collect();
    Ok(answer(&ctx, StatusCode::OK, &view))
}

/// `POST …/actions/{verb}`: orders it.
pub async fn action(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Names((cluster, name, verb)): Names<(ClusterName, ModuleName, String)>,
    form: Fields,
) -> Result<Response> {
    let form = form.only(&["node", "accept_loss", "full_sync", "keep", "minutes", "reason", "name", "plan"])?;
    let options = options(form.is_on("accept_loss"), form.is_on("full_sync"), form.text("keep"), form.text("minutes"))?;
    let asked = Asked { cluster, name, verb: api_actions::verb_of(&verb, options)?, node: form.parse("node")? };
    let reason = form.some("reason");
    let typed_reason = reason.clone().unwrap_or_default();
    let again = async |error: ActionError| -> Result<Response> {
        let view = action_view(&app, &ctx, &asked, typed_reason.clone(), Some(error)).await?;
        Ok(answer(&ctx, StatusCode::CONFLICT, &view))
    };
    // Orders that can lose data: the name is typed and a reason given.
    let view = action_view(&app, &ctx, &asked, String::new(), None).await?;
    let is_danger = plan(ctx.lang, &view.module, &asked.verb, &view.target, &view.interruption).grade == Grade::Danger;
    if is_danger && form.text("name").trim() != asked.name.as_str() {
        return again(ActionError::NameDiffers).await;
    }
    if is_danger && reason.is_none() {
        return again(ActionError::ReasonMissing).await;
    }
    let plan_hash = Some(form.text("plan")).filter(|p| !p.is_empty());
    let caller = ctx.caller()?;
    let ordered =
        api_actions::order(&app, caller, &asked.cluster, &asked.name, asked.verb.clone(), asked.node.clone(), reason, plan_hash, None)
            .await;
    match ordered {
        Ok(_) => Ok(go(&ctx, &format!("/clusters/{}/modules/{}", asked.cluster, asked.name))),
        Err(failure) => match failure.code {
            "plan_stale" => again(ActionError::Changed).await,
            "operation_running" => {
                let operation = failure.more.get("operation").and_then(|o| o.as_str()).unwrap_or_default().to_owned();
                again(ActionError::Running { operation }).await
            }
            "refused" => {
                let state = state::module(&app, &asked.cluster, &asked.name).await?;
                match choose::targets(&asked.verb, asked.node.as_ref(), &state.reports) {
                    Err(why) => again(ActionError::Refused { node: why.node, refusal: why.refusal }).await,
                    Ok(_) => again(ActionError::Changed).await,
                }
            }
            _ => Err(failure),
        },
    }
}
