//! Pages: set-up, sign-in, dashboard, clusters, nodes, events, operations, assets.

use super::clusters as work;
use super::error::{Failure, Result};
use super::extract::{Names, Query};
use super::guard::From;
use super::page::{Ctx, Fields, chrome, frame, go, html, ok, own_path};
use super::sign::{self, NotSigned};
use super::views;
use crate::app::App;
use crate::auth::PASSWORD_CHARS_MIN;
use crate::deploy::{ConfigProblem, NotKept};
use crate::store::events::EventFilter as Filter;
use crate::words::Lang;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use tsugi_core::event::Level;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_web::fleet::HealthView;
use tsugi_web::live_ids::Scope;
use tsugi_web::view::{
    ClusterConfigView, ClusterPageView, ClustersView, DashboardView, EventFilter, EventView, EventsView, JoinView, LoginError, LoginView,
    OperationPageView, ProblemView, SetupError, SetupView,
};
use tsugi_web::{assets, render};

/// Events on a cluster's or module's page.
pub const EVENTS_SHOWN: u32 = 20;
/// Events on the events' page.
const EVENTS_PAGE: u32 = 100;
/// Events on a page and for one more, which tells whether there are older ones.
const EVENTS_ASKED: u32 = EVENTS_PAGE + 1;

/// `GET /assets/{name}`: names carry a hash of the contents, so they may be kept for ever.
pub async fn asset(Names(name): Names<String>) -> Result<Response> {
    let asset = assets::get(&name).ok_or_else(Failure::not_found)?;
    let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Ok((headers, asset.bytes).into_response())
}

fn is_fresh(app: &App) -> bool {
    app.setup_code.lock().expect("nobody panics while holding this lock").is_some()
}

/// `GET /setup`.
pub async fn setup_form(State(app): State<Arc<App>>, ctx: Ctx) -> Response {
    if !is_fresh(&app) {
        return go(&ctx, "/login");
    }
    ok(render::setup(&SetupView { chrome: frame(&ctx, 0, None), code: String::new(), user: String::new(), error: None }))
}

/// `POST /setup`.
pub async fn setup(State(app): State<Arc<App>>, ctx: Ctx, From(address): From, form: Fields) -> Result<Response> {
    let (code, user, password) = (form.text("code"), form.text("user").trim(), form.text("password"));
    let error = if password != form.text("password2") {
        SetupError::PasswordsDiffer
    } else {
        match sign::setup(&app, code, user, password.to_owned(), address).await {
            Ok(()) => {
                let id = sign::sign_in(&app, user, password.to_owned(), address).await?;
                return Ok(with_cookie(go(&ctx, "/"), &sign::set_cookie(Some(&id))));
            }
            Err(NotSigned::Wrong) => SetupError::WrongCode,
            Err(NotSigned::WeakPassword) => SetupError::WeakPassword { chars_min: PASSWORD_CHARS_MIN },
            Err(NotSigned::BadUser) => SetupError::BadUser,
            Err(NotSigned::AlreadyDone) => return Ok(go(&ctx, "/login")),
            Err(other) => return Err(other.into()),
        }
    };
    let view = SetupView { chrome: frame(&ctx, 0, None), code: code.to_owned(), user: user.to_owned(), error: Some(error) };
    Ok(html(StatusCode::UNPROCESSABLE_ENTITY, render::setup(&view)))
}

/// Where to go after signing in.
#[derive(Debug, Deserialize)]
pub struct NextQuery {
    #[serde(default)]
    next: String,
    #[serde(default)]
    expired: Option<String>,
}

/// `GET /login`.
pub async fn login_form(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<NextQuery>) -> Response {
    if is_fresh(&app) {
        return go(&ctx, "/setup");
    }
    let error = query.expired.map(|_| LoginError::Expired);
    ok(render::login(&LoginView { chrome: frame(&ctx, 0, None), user: String::new(), next: own_path(&query.next).to_owned(), error }))
}

/// `POST /login`.
pub async fn login(State(app): State<Arc<App>>, ctx: Ctx, From(address): From, form: Fields) -> Result<Response> {
    let (user, next) = (form.text("user").trim(), own_path(form.text("next")));
    let (status, error) = match sign::sign_in(&app, user, form.text("password").to_owned(), address).await {
        Ok(id) => return Ok(with_cookie(go(&ctx, next), &sign::set_cookie(Some(&id)))),
        Err(NotSigned::Wrong) => (StatusCode::UNPROCESSABLE_ENTITY, LoginError::Wrong),
        Err(NotSigned::Throttled(wait)) => (StatusCode::TOO_MANY_REQUESTS, LoginError::Throttled { seconds: wait.as_secs() }),
        Err(other) => return Err(other.into()),
    };
    let view = LoginView { chrome: frame(&ctx, 0, None), user: user.to_owned(), next: next.to_owned(), error: Some(error) };
    Ok(html(status, render::login(&view)))
}

/// `POST /logout`.
pub async fn logout(State(app): State<Arc<App>>, ctx: Ctx, headers: HeaderMap) -> Result<Response> {
    sign::sign_out(&app, &headers).await?;
    Ok(with_cookie(go(&ctx, "/login"), &sign::set_cookie(None)))
}

/// `POST /prefs`: language and theme, kept in the browser.
pub async fn prefs(ctx: Ctx, form: Fields) -> Response {
    let mut response = go(&ctx, own_path(form.text("back")));
    let year = 365 * 24 * 3600;
    if let Some(lang) = Lang::from_code(form.text("lang")) {
        response = with_cookie(response, &format!("lang={}; Path=/; Secure; SameSite=Lax; Max-Age={year}", lang.code()));
    }
    if matches!(form.text("theme"), "auto" | "light" | "dark") {
        response = with_cookie(response, &format!("theme={}; Path=/; Secure; SameSite=Lax; Max-Age={year}", form.text("theme")));
    }
    response
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(value) = cookie.parse() {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// Pressed tile.
#[derive(Debug, Deserialize)]
pub struct DashboardQuery {
    #[serde(default)]
    health: String,
}

/// `GET /`.
pub async fn dashboard(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<DashboardQuery>) -> Result<Response> {
    Ok(ok(render::dashboard(&dashboard_view(&app, &ctx, HealthView::from_word(&query.health)).await?)))
}

/// The dashboard's facts.
pub async fn dashboard_view(app: &App, ctx: &Ctx, filter: Option<HealthView>) -> Result<DashboardView> {
    let chrome = chrome(app, ctx, Some(Scope::All)).await?;
    Ok(DashboardView { chrome, filter, clusters: views::fleet(app).await? })
}

/// Search box.
#[derive(Debug, Deserialize)]
pub struct SearchQuery {
    #[serde(default)]
    q: String,
}

/// `GET /clusters`.
pub async fn clusters(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<SearchQuery>) -> Result<Response> {
    Ok(ok(render::clusters(&clusters_view(&app, &ctx, query.q).await?)))
}

/// The list's facts.
pub async fn clusters_view(app: &App, ctx: &Ctx, query: String) -> Result<ClustersView> {
    let chrome = chrome(app, ctx, Some(Scope::Clusters)).await?;
    Ok(ClustersView { chrome, clusters: views::fleet(app).await?, query })
}

/// Problems as the pages show them.
pub fn problem_views(problems: &[ConfigProblem], lang: Lang) -> Vec<ProblemView> {
    let one = |p: &ConfigProblem| ProblemView {
        file: p.file.clone(),
        line: p.line,
        column: p.column,
        element: p.element.clone(),
        message: p.message.of(lang).to_owned(),
        remedy: Some(p.remedy.of(lang).to_owned()).filter(|r| !r.is_empty()),
        is_warning: p.is_warning,
    };
    problems.iter().map(one).collect()
}

/// A problem that has no place in a file.
pub fn problem(message: String) -> ProblemView {
    ProblemView { file: String::new(), line: 0, column: 0, element: String::new(), message, remedy: None, is_warning: false }
}

async fn cluster_config_page(
    app: &App,
    ctx: &Ctx,
    cluster: Option<ClusterName>,
    name: String,
    xml: String,
    problems: Vec<ProblemView>,
) -> Result<Response> {
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let chrome = chrome(app, ctx, None).await?;
    Ok(html(status, render::cluster_config(&ClusterConfigView { chrome, cluster, name, xml, problems })))
}

/// A definition to begin with.
const NEW_CLUSTER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<cluster>
  <lans>
    <lan name="default" command="on">
      <node name="n1" addr="192.0.2.11"/>
      <node name="n2" addr="192.0.2.12"/>
    </lan>
  </lans>
</cluster>
"#;

/// `GET /clusters/new`.
pub async fn new_cluster(State(app): State<Arc<App>>, ctx: Ctx) -> Result<Response> {
    cluster_config_page(&app, &ctx, None, String::new(), NEW_CLUSTER.to_owned(), Vec::new()).await
}

/// Problems to show beside a form, or an error that has no place there.
fn shown(error: NotKept, lang: Lang) -> Result<Vec<ProblemView>> {
    match error {
        NotKept::Problems(problems) => Ok(problem_views(&problems, lang)),
        NotKept::NameTaken => {
            let failure = super::error::Error::from(NotKept::NameTaken);
            Ok(vec![problem(failure.words.of(lang).to_owned())])
        }
        other => Err(other.into()),
    }
}

/// `POST /clusters`.
pub async fn add_cluster(State(app): State<Arc<App>>, mut ctx: Ctx, form: Fields) -> Result<Response> {
    // The switches of the page lead back to the form, not to this POST.
    "/clusters/new".clone_into(&mut ctx.path);
    let (typed, xml) = (form.text("name").trim().to_owned(), form.text("xml").to_owned());
    let problems = match ClusterName::new(typed.clone()) {
        Err(bad) => vec![problem(bad.to_string())],
        Ok(name) => match work::add(&app, ctx.caller()?, &name, &xml).await {
            Ok(()) => return Ok(go(&ctx, &format!("/clusters/{name}"))),
            Err(error) => shown(error, ctx.lang)?,
        },
    };
    cluster_config_page(&app, &ctx, None, typed, xml, problems).await
}

/// `GET /clusters/{c}/config`.
pub async fn cluster_config(State(app): State<Arc<App>>, ctx: Ctx, Names(name): Names<ClusterName>) -> Result<Response> {
    let cluster = work::cluster(&app, &name).await?;
    cluster_config_page(&app, &ctx, Some(name.clone()), name.to_string(), cluster.xml, Vec::new()).await
}

/// `POST /clusters/{c}/config`.
pub async fn set_cluster_config(State(app): State<Arc<App>>, ctx: Ctx, Names(name): Names<ClusterName>, form: Fields) -> Result<Response> {
    let xml = form.text("xml").to_owned();
    match work::configure(&app, ctx.caller()?, &name, &xml).await {
        Ok(()) => Ok(go(&ctx, &format!("/clusters/{name}"))),
        Err(error) => {
            let problems = shown(error, ctx.lang)?;
            cluster_config_page(&app, &ctx, Some(name.clone()), name.to_string(), xml, problems).await
        }
    }
}

/// The newest events of a cluster or module, newest first.
pub async fn newest(app: &App, cluster: &ClusterName, module: Option<&ModuleName>) -> Result<Vec<EventView>> {
    let filter =
        Filter { cluster: Some(cluster.as_str()), module: module.map(ModuleName::as_str), limit: EVENTS_SHOWN, ..Filter::default() };
    Ok(app.store.events(&filter).await?.into_iter().rev().map(views::event).collect())
}

/// A cluster's facts.
pub async fn cluster_view(app: &App, ctx: &Ctx, name: &ClusterName, join: Option<JoinView>) -> Result<ClusterPageView> {
    let chrome = chrome(app, ctx, Some(Scope::Cluster(name.clone()))).await?;
    Ok(ClusterPageView { chrome, cluster: views::cluster(app, name).await?, join, events: newest(app, name, None).await? })
}

/// `GET /clusters/{c}`.
pub async fn cluster(State(app): State<Arc<App>>, ctx: Ctx, Names(name): Names<ClusterName>) -> Result<Response> {
    Ok(ok(render::cluster(&cluster_view(&app, &ctx, &name, None).await?)))
}

/// `POST /clusters/{c}/join`: the token is shown in the answer and never again.
pub async fn join(
    State(app): State<Arc<App>>,
    mut ctx: Ctx,
    Names(name): Names<ClusterName>,
    headers: HeaderMap,
    _form: Fields,
) -> Result<Response> {
    let join = work::join(&app, ctx.caller()?, &name, None, &headers).await?;
    // The switches of the page lead back to the page, not to this POST.
    ctx.path = format!("/clusters/{name}");
    let join = JoinView { command: join.command, expires_unix_ms: join.expires_unix_ms.max(0) as u64 };
    Ok(ok(render::cluster(&cluster_view(&app, &ctx, &name, Some(join)).await?)))
}

/// `POST /clusters/{c}/nodes/{n}/approve`.
pub async fn approve(State(app): State<Arc<App>>, ctx: Ctx, Names((name, node)): Names<(ClusterName, NodeName)>) -> Result<Response> {
    work::approve(&app, ctx.caller()?, &name, &node).await?;
    Ok(go(&ctx, &format!("/clusters/{name}")))
}

/// `POST /clusters/{c}/nodes/{n}/remove`.
pub async fn remove(State(app): State<Arc<App>>, ctx: Ctx, Names((name, node)): Names<(ClusterName, NodeName)>) -> Result<Response> {
    work::remove(&app, ctx.caller()?, &name, &node).await?;
    Ok(go(&ctx, &format!("/clusters/{name}")))
}

/// Filter of the events' page.
#[derive(Debug, Default, Deserialize)]
pub struct EventsQuery {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    module: String,
    #[serde(default)]
    level: String,
    #[serde(default)]
    before: String,
}

/// `GET /events`.
pub async fn events(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<EventsQuery>) -> Result<Response> {
    Ok(ok(render::events(&events_view(&app, &ctx, &query).await?)))
}

/// The events' facts.
pub async fn events_view(app: &App, ctx: &Ctx, query: &EventsQuery) -> Result<EventsView> {
    let level = [Level::Info, Level::Notice, Level::Warning, Level::Critical]
        .into_iter()
        .find(|l| crate::store::events::level_word(*l) == query.level);
    let filter = EventFilter { cluster: query.cluster.parse().ok(), module: query.module.parse().ok(), level };
    let before = query.before.parse().ok();
    // Live only where new events belong at the top of what is shown.
    let is_plain = filter == EventFilter::default() && before.is_none();
    let chrome = chrome(app, ctx, is_plain.then_some(Scope::Events)).await?;
    let asked = Filter {
        cluster: filter.cluster.as_ref().map(ClusterName::as_str),
        module: filter.module.as_ref().map(ModuleName::as_str),
        level: level.map(crate::store::events::level_word),
        before,
        after: None,
        limit: EVENTS_ASKED,
    };
    let mut events = app.store.events(&asked).await?;
    let has_older = events.len() > EVENTS_PAGE as usize;
    if has_older {
        events.remove(0);
    }
    let older = events.first().filter(|_| has_older).map(|e| e.id.to_string());
    let mut clusters = Vec::new();
    for cluster in app.store.clusters().await? {
        let modules = app.store.modules(&cluster.name).await?.into_iter().map(|m| m.name).collect();
        clusters.push((cluster.name, modules));
    }
    Ok(EventsView { chrome, filter, clusters, events: events.into_iter().rev().map(views::event).collect(), older })
}

/// `GET /operations/{id}`.
pub async fn operation(State(app): State<Arc<App>>, ctx: Ctx, Names(id): Names<String>) -> Result<Response> {
    Ok(ok(render::operation(&operation_view(&app, &ctx, &id).await?)))
}

/// An operation's facts.
pub async fn operation_view(app: &App, ctx: &Ctx, id: &str) -> Result<OperationPageView> {
    let chrome = chrome(app, ctx, Some(Scope::Operation(id.to_owned()))).await?;
    let operation = app.store.operation(id).await?.ok_or_else(Failure::not_found)?;
    Ok(OperationPageView { chrome, operation: views::operation(&operation, ctx.lang) })
}
