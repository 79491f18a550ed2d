//! Who asks, and whether they may: one table for every route.
//!
//! A route that is not in the table answers nobody: [`guard`] refuses what it does not know, and a test holds the
//! table against the router and the API's document.

use super::error::{Failure, Result};
use crate::app::App;
use crate::auth::{Role, sha256};
use crate::net::Peer;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Name of the session cookie; the prefix makes browsers insist on `Secure`, `Path=/` and no `Domain`.
pub const COOKIE: &str = "__Host-tsugi";

/// What a route asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Anyone,
    /// At least this role.
    Role(Role),
}

const ANYONE: Need = Need::Anyone;
const MONITOR: Need = Need::Role(Role::Monitor);
const CONTROL: Need = Need::Role(Role::Control);
const ADMIN: Need = Need::Role(Role::Admin);

/// Every route with what it asks.
pub const TABLE: &[(&str, &str, Need)] = &[
    // API
    ("POST", "/api/v1/setup", ANYONE),
    ("POST", "/api/v1/login", ANYONE),
    ("POST", "/api/v1/logout", ANYONE),
    ("GET", "/api/v1/me", MONITOR),
    ("GET", "/api/v1/tokens", ADMIN),
    ("POST", "/api/v1/tokens", ADMIN),
    ("DELETE", "/api/v1/tokens/{id}", ADMIN),
    ("GET", "/api/v1/users", ADMIN),
    ("POST", "/api/v1/users", ADMIN),
    ("PUT", "/api/v1/users/{name}", ADMIN),
    ("GET", "/api/v1/audit", ADMIN),
    ("GET", "/api/v1/clusters", MONITOR),
    ("POST", "/api/v1/clusters", ADMIN),
    ("GET", "/api/v1/clusters/{c}", MONITOR),
    ("PUT", "/api/v1/clusters/{c}/config", ADMIN),
    ("POST", "/api/v1/clusters/{c}/join-tokens", ADMIN),
    ("GET", "/api/v1/clusters/{c}/nodes", MONITOR),
    ("POST", "/api/v1/clusters/{c}/nodes/{n}/approve", ADMIN),
    ("DELETE", "/api/v1/clusters/{c}/nodes/{n}", ADMIN),
    ("GET", "/api/v1/clusters/{c}/modules", MONITOR),
    ("POST", "/api/v1/clusters/{c}/modules", ADMIN),
    ("GET", "/api/v1/clusters/{c}/modules/{m}", MONITOR),
    ("DELETE", "/api/v1/clusters/{c}/modules/{m}", ADMIN),
    ("GET", "/api/v1/clusters/{c}/modules/{m}/versions", MONITOR),
    ("POST", "/api/v1/clusters/{c}/modules/{m}/versions", ADMIN),
    ("POST", "/api/v1/clusters/{c}/modules/{m}/check", MONITOR),
    ("POST", "/api/v1/clusters/{c}/modules/{m}/apply", ADMIN),
    ("POST", "/api/v1/clusters/{c}/modules/{m}/actions/{verb}", CONTROL),
    ("GET", "/api/v1/operations", MONITOR),
    ("GET", "/api/v1/operations/{id}", MONITOR),
    ("GET", "/api/v1/events", MONITOR),
    ("GET", "/api/openapi.json", ANYONE),
    // Machines
    ("GET", "/healthz", ANYONE),
    ("GET", "/readyz", ANYONE),
    ("GET", "/live/deltas", MONITOR),
    ("GET", "/live/snapshot", MONITOR),
    ("GET", "/ws/live", MONITOR),
    // Pages
    ("GET", "/assets/{name}", ANYONE),
    ("GET", "/setup", ANYONE),
    ("POST", "/setup", ANYONE),
    ("GET", "/login", ANYONE),
    ("POST", "/login", ANYONE),
    ("POST", "/logout", ANYONE),
    ("POST", "/prefs", ANYONE),
    ("GET", "/", MONITOR),
    ("GET", "/clusters", MONITOR),
    ("GET", "/clusters/new", ADMIN),
    ("POST", "/clusters", ADMIN),
    ("GET", "/clusters/{c}", MONITOR),
    ("GET", "/clusters/{c}/config", ADMIN),
    ("POST", "/clusters/{c}/config", ADMIN),
    ("POST", "/clusters/{c}/join", ADMIN),
    ("POST", "/clusters/{c}/nodes/{n}/approve", ADMIN),
    ("POST", "/clusters/{c}/nodes/{n}/remove", ADMIN),
    ("GET", "/clusters/{c}/modules/new", ADMIN),
    ("POST", "/clusters/{c}/modules", ADMIN),
    ("GET", "/clusters/{c}/modules/{m}", MONITOR),
    ("GET", "/clusters/{c}/modules/{m}/config", MONITOR),
    ("POST", "/clusters/{c}/modules/{m}/config", ADMIN),
    ("POST", "/clusters/{c}/modules/{m}/versions/{v}/apply", ADMIN),
    ("GET", "/clusters/{c}/modules/{m}/actions/{verb}", CONTROL),
    ("POST", "/clusters/{c}/modules/{m}/actions/{verb}", CONTROL),
    ("GET", "/events", MONITOR),
    ("GET", "/operations/{id}", MONITOR),
];

/// What `method` on `path` (as routed) asks; `None` = not in the table.
pub fn need(method: &Method, path: &str) -> Option<Need> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    TABLE.iter().find(|(m, p, _)| *m == method && *p == path).map(|(_, _, need)| *need)
}

/// How somebody proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A browser's cookie: hash of the session's id.
    Session([u8; 32]),
    /// `Authorization: Bearer`.
    Token,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User name, or name of the token.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they proved it.
    pub proof: Proof,
    /// From where.
    pub address: IpAddr,
}

impl Caller {
    /// `ui` or `api`, for the audit log.
    pub fn via(&self) -> &'static str {
        match self.proof {
            Proof::Session(_) => "ui",
            Proof::Token => "api",
        }
    }
}

/// Id in the session cookie.
pub fn session_id(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Value of another cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// Who the headers prove to be. `touch`: this is a person's own doing and keeps the session alive.
pub async fn caller(app: &App, headers: &HeaderMap, address: IpAddr, touch: bool) -> Result<Option<Caller>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|v| v.strip_prefix("Bearer ")).map(str::trim);
        let Some(token) = token else { return Ok(None) };
        let found = app.store.api_token(&sha256(token.as_bytes())).await?;
        return Ok(found.map(|(name, role)| Caller { name, role, proof: Proof::Token, address }));
    }
    let Some(id) = session_id(headers) else { return Ok(None) };
    let hash = sha256(id.as_bytes());
    let found = app.store.session(&hash, touch).await?;
    Ok(found.map(|(name, role)| Caller { name, role, proof: Proof::Session(hash), address }))
}

/// Lets a request through to its handler, or not. Must be a `route_layer`, so that the matched path is known.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned()).unwrap_or_default();
    let Some(need) = need(request.method(), &path) else { return Failure::not_found().into_response() };
    let address = address(request.extensions());
    let is_live = path.starts_with("/live/") || path.starts_with("/ws/");
    // A page left open must not keep its session alive by itself.
    let found = match caller(&app, request.headers(), address, !is_live).await {
        Ok(found) => found,
        Err(error) => return error.into_response(),
    };
    if let Need::Role(role) = need {
        match &found {
            None => return ask_to_sign_in(&app, &request),
            Some(caller) if caller.role < role => return Failure::not_allowed().into_response(),
            Some(_) => {}
        }
    }
    if let Some(caller) = found {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

/// A person is led to the sign-in page and back; a program is told.
fn ask_to_sign_in(app: &App, request: &Request) -> Response {
    let path = request.uri().path();
    let is_program = path.starts_with("/api/") || path.starts_with("/live/") || path.starts_with("/ws/");
    if is_program || request.headers().contains_key(header::AUTHORIZATION) {
        return Failure::not_signed_in().into_response();
    }
    let is_fresh = app.setup_code.lock().expect("nobody panics while holding this lock").is_some();
    let target = if is_fresh {
        "/setup".to_owned()
    } else {
        let next = if *request.method() == Method::GET { request.uri().path_and_query().map_or("/", |p| p.as_str()) } else { "/" };
        format!("/login?next={}", encode(next))
    };
    if request.headers().contains_key("hx-request") {
        let mut response = axum::http::StatusCode::UNAUTHORIZED.into_response();
        if let Ok(value) = target.parse() {
            response.headers_mut().insert("hx-redirect", value);
        }
        return response;
    }
    Redirect::to(&target).into_response()
}

/// Percent-encodes everything but what is harmless in a query value.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~') {
            out.push(b as char);
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// Address of the other end.
pub fn address(extensions: &axum::http::Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |p| p.addr.ip())
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = super::error::Error;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(Failure::not_signed_in)
    }
}

/// Address of the other end, as an extractor.
#[derive(Debug, Clone, Copy)]
pub struct From(pub IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for From {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Self::Rejection> {
        Ok(From(address(&parts.extensions)))
    }
}

/// The request comes from a page of this console (or from a program, which sends no `Origin`).
///
/// For WebSocket upgrades: they are GETs, which the cross-site layer lets pass, and browsers send cookies with them.
#[derive(Debug, Clone, Copy)]
pub struct SameOrigin;

impl<S: Send + Sync> FromRequestParts<S> for SameOrigin {
    type Rejection = super::error::Error;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let text = |name: header::HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let is_same = match (text(header::ORIGIN), text(header::HOST)) {
            (Some(origin), Some(host)) => origin.strip_prefix("https://").is_some_and(|o| o.eq_ignore_ascii_case(host)),
            // No browser: it would have sent an origin. A cookie without one is not trusted all the same.
            (None, _) => parts.headers.contains_key(header::AUTHORIZATION),
            (Some(_), None) => false,
        };
        if is_same {
            return Ok(SameOrigin);
        }
        Err(Failure::new(
            axum::http::StatusCode::FORBIDDEN,
            "foreign_origin",
            "This connection may only be opened by the console's own pages, or by a program with an API token.",
            "この接続は、コンソール自身のページか API トークンを持つプログラムだけが開けます。",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_table_once() {
        for (n, (method, path, _)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..n].iter().any(|(m, p, _)| m == method && p == path), "{method} {path} twice");
        }
    }

    #[test]
    fn nothing_that_changes_something_is_open_to_a_monitor() {
        for (method, path, need) in TABLE {
            let is_open = ["/login", "/logout", "/setup", "/prefs", "/check"].iter().any(|s| path.ends_with(s));
            if *method != "GET" && !is_open {
                assert!(matches!(need, Need::Role(Role::Control | Role::Admin)), "{method} {path}");
            }
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "theme=dark; __Host-tsugi=abc; lang=ja".parse().unwrap());
        assert_eq!(session_id(&headers), Some("abc"));
        assert_eq!(cookie(&headers, "lang"), Some("ja"));
        assert_eq!(cookie(&headers, "la"), None);
    }
}
