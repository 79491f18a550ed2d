//! Browser and API port: routes and the layers around them.
//!
//! Only this module sees `tsugi-web`; no SQL here. API and pages share the functions that do the work, so that a
//! button and a script meet the same checks.

mod api_actions;
mod api_auth;
mod api_clusters;
mod api_modules;
mod clusters;
pub mod error;
pub mod extract;
pub mod guard;
mod layers;
pub mod live;
mod page;
mod pages;
mod pages_module;
mod sign;
pub mod state;
mod views;
mod words;

use crate::app::App;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Largest body of most requests.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest body with a module's files: the checked limit, percent-encoded by a form in the worst case.
const MODULE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Longest answer; the longest poll waits 25 s.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// What the document says besides its paths.
#[derive(OpenApi)]
#[openapi(
    info(title = "Tsugi console", description = "Clusters, modules, orders and their outcome. Errors: {\"error\": code, \"message\": sentence} in the language of Accept-Language."),
    modifiers(&Bearer),
    security(("token" = []), ("session" = []))
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(guard::COOKIE))));
    }
}

/// The API's routes and their document. Paths are written whole, so that the two cannot differ.
fn api() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let large = OpenApiRouter::new()
        .routes(routes!(api_modules::list, api_modules::add))
        .routes(routes!(api_modules::versions, api_modules::add_version))
        .routes(routes!(api_modules::check))
        .layer(DefaultBodyLimit::max(MODULE_BYTES_MAX));
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(api_auth::setup))
        .routes(routes!(api_auth::login))
        .routes(routes!(api_auth::logout))
        .routes(routes!(api_auth::me))
        .routes(routes!(api_auth::tokens, api_auth::add_token))
        .routes(routes!(api_auth::remove_token))
        .routes(routes!(api_auth::change_user))
        .routes(routes!(api_auth::users, api_auth::add_user))
        .routes(routes!(api_auth::audit_log))
        .routes(routes!(api_clusters::list, api_clusters::add))
        .routes(routes!(api_clusters::one))
        .routes(routes!(api_clusters::configure))
        .routes(routes!(api_clusters::join))
        .routes(routes!(api_clusters::nodes))
        .routes(routes!(api_clusters::approve))
        .routes(routes!(api_clusters::remove))
        .routes(routes!(api_modules::one, api_modules::remove))
        .routes(routes!(api_modules::apply))
        .routes(routes!(api_actions::act))
        .routes(routes!(api_actions::operation))
        .routes(routes!(api_actions::operations))
        .routes(routes!(api_actions::events))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(large)
        .split_for_parts()
}

/// Pages and what belongs to them.
fn site() -> Router<Arc<App>> {
    let large = Router::new()
        .route("/clusters/{c}/modules", post(pages_module::add_module))
        .route("/clusters/{c}/modules/{m}/config", get(pages_module::module_config).post(pages_module::set_module_config))
        .layer(DefaultBodyLimit::max(MODULE_BYTES_MAX));
    Router::new()
        .route("/assets/{name}", get(pages::asset))
        .route("/setup", get(pages::setup_form).post(pages::setup))
        .route("/login", get(pages::login_form).post(pages::login))
        .route("/logout", post(pages::logout))
        .route("/prefs", post(pages::prefs))
        .route("/", get(pages::dashboard))
        .route("/clusters", get(pages::clusters).post(pages::add_cluster))
        .route("/clusters/new", get(pages::new_cluster))
        .route("/clusters/{c}", get(pages::cluster))
        .route("/clusters/{c}/config", get(pages::cluster_config).post(pages::set_cluster_config))
        .route("/clusters/{c}/join", post(pages::join))
        .route("/clusters/{c}/nodes/{n}/approve", post(pages::approve))
        .route("/clusters/{c}/nodes/{n}/remove", post(pages::remove))
        .route("/clusters/{c}/modules/new", get(pages_module::new_module))
        .route("/clusters/{c}/modules/{m}", get(pages_module::module))
        .route("/clusters/{c}/modules/{m}/versions/{v}/apply", post(pages_module::apply_version))
        .route("/clusters/{c}/modules/{m}/actions/{verb}", get(pages_module::action_form).post(pages_module::action))
        .route("/events", get(pages::events))
        .route("/operations/{id}", get(pages::operation))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(large)
}

/// Routes of the browser and API port.
pub fn router(app: Arc<App>) -> Router {
    let (api, document) = api();
    let document = serde_json::to_string(&document).expect("the document is plain data");
    Router::new()
        .merge(api)
        .route("/api/openapi.json", get(move || async move { ([("content-type", "application/json")], document) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/live/snapshot", get(live::snapshot))
        .route("/live/deltas", get(live::deltas))
        .route("/ws/live", get(live::socket))
        .merge(site())
        .route_layer(from_fn_with_state(app.clone(), guard::guard))
        .fallback(|| async { error::Failure::not_found() })
        .method_not_allowed_fallback(|| async {
            error::Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This address does not take that method.",
                "この URL ではその操作を行えません。",
            )
        })
        .layer(CsrfLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_MAX))
        .layer(CatchPanicLayer::new())
        .layer(from_fn_with_state(app.clone(), layers::present))
        .layer(CompressionLayer::new().gzip(true))
        .layer(from_fn(layers::secure))
        .layer(from_fn(layers::trace))
        .with_state(app)
}

/// Ready when the database and the arbiter's file answer.
async fn readyz(State(app): State<Arc<App>>) -> impl IntoResponse {
    match (app.store.ping().await, app.arbiter.ping().await) {
        (Ok(()), Ok(())) => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the database or the arbiter's file does not answer; see the console's log\n"),
    }
}
