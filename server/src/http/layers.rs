//! What every request passes: an id and a log line, security headers, errors in the form that was asked for.

use super::error::Failure;
use super::extract::lang;
use super::guard::{address, caller};
use super::page::{self, Ctx};
use crate::app::App;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument;
use tsugi_web::render;
use tsugi_web::view::{ErrorView, PageError};

/// No inline script or style, nothing from elsewhere, no frames.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Id of a request: in its log lines, in the answer's header, and on the page that says that it failed.
#[derive(Debug, Clone)]
struct RequestId(String);

/// Gives a request its id, and logs how it ended.
pub async fn trace(mut request: Request, next: Next) -> Response {
    let id = uuid::Uuid::now_v7().simple().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let span = tracing::info_span!("request", request.id = id);
    let mut response = next.run(request).instrument(span.clone()).await;
    let _in = span.enter();
    let (status, millis) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    if status >= 500 {
        tracing::warn!(%method, path, status, millis, "A request failed.");
    } else {
        tracing::debug!(%method, path, status, millis, "A request was answered.");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    response
}

/// Headers that keep browsers from helping an attacker.
pub async fn secure(request: Request, next: Next) -> Response {
    let is_asset = request.uri().path().starts_with("/assets/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &'static str| {
        headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    };
    set("content-security-policy", CSP);
    set("x-content-type-options", "nosniff");
    set("referrer-policy", "same-origin");
    set("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()");
    set("cross-origin-opener-policy", "same-origin");
    set("x-frame-options", "DENY");
    set("strict-transport-security", "max-age=31536000");
    if !is_asset {
        // Pages and states of a signed-in user stay out of shared and stored caches.
        set("cache-control", "no-store");
    }
    response
}

/// Whether a program asked (and is answered in JSON), or a browser.
fn is_program(path: &str) -> bool {
    path.starts_with("/api/") || path.starts_with("/live/") || path.starts_with("/ws/") || path == "/readyz"
}

/// Writes an error anew, in the language and form that were asked for.
pub async fn present(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (mut ctx, headers, path) = (Ctx::of(&parts), parts.headers.clone(), parts.uri.path().to_owned());
    let id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let address = address(&parts.extensions);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if response.status() == StatusCode::FORBIDDEN && response.extensions().get::<tower_http::csrf::ProtectionError>().is_some() {
        response = Failure::new(
            StatusCode::FORBIDDEN,
            "cross_site",
            "This request came from another site's page and was refused; send it from the console's own pages or with an API token.",
            "別のサイトのページから送られたため拒否しました。コンソール自身のページか API トークンで送信してください。",
        )
        .into_response();
    }
    let Some(failure) = response.extensions_mut().remove::<Box<Failure>>() else { return response };
    let lang = lang(&headers);
    if is_program(&path) {
        let mut again = (failure.status, Json(failure.body(lang))).into_response();
        if let Some(value) = response.headers().get(header::WWW_AUTHENTICATE) {
            again.headers_mut().insert(header::WWW_AUTHENTICATE, value.clone());
        }
        return again;
    }
    if ctx.is_fragment {
        let text = escape(failure.words.of(lang));
        return page::html(failure.status, format!("<p class=\"form-error\" role=\"alert\">{text}</p>"));
    }
    // The guard's finding stayed with the request; looked up anew for this page only.
    ctx.caller = caller(&app, &headers, address, false).await.ok().flatten();
    let error = match failure.status {
        StatusCode::NOT_FOUND => PageError::NotFound,
        StatusCode::FORBIDDEN if failure.code == "not_allowed" => PageError::NotAllowed,
        StatusCode::SERVICE_UNAVAILABLE => PageError::Unavailable,
        status if status.is_server_error() => PageError::Internal { code: id },
        _ => PageError::BadRequest(failure.words.of(lang).to_owned()),
    };
    page::html(failure.status, render::error(&ErrorView { chrome: page::frame(&ctx, 0, None), error }))
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
