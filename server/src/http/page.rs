//! What every page needs: its frame, its answer as page or fragment, forms, and moving on after a POST.

use super::error::{Error, Failure, Result};
use super::extract::lang;
use super::guard::{Caller, cookie};
use super::views;
use crate::app::App;
use crate::auth::Role;
use crate::words::Lang;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::fmt::Display;
use std::str::FromStr;
use tsugi_web::live_ids::Scope;
use tsugi_web::render;
use tsugi_web::view::{Chrome, LiveStart, Theme, UserView};

/// Who looks, in which language and theme, at which address, and in which form the answer is wanted.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Language.
    pub lang: Lang,
    /// Look.
    pub theme: Theme,
    /// Path and query.
    pub path: String,
    /// Who, if signed in.
    pub caller: Option<Caller>,
    /// htmx asked: a fragment is wanted.
    pub is_fragment: bool,
}

impl Ctx {
    /// Of a request's parts.
    pub fn of(parts: &Parts) -> Ctx {
        Ctx {
            lang: lang(&parts.headers),
            theme: Theme::from_word(cookie(&parts.headers, "theme").unwrap_or_default()),
            path: parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            caller: parts.extensions.get::<Caller>().cloned(),
            is_fragment: parts.headers.contains_key("hx-request"),
        }
    }
    /// The caller, who must be there: routes with pages for signed-in people are guarded.
    pub fn caller(&self) -> Result<&Caller> {
        self.caller.as_ref().ok_or_else(Failure::not_signed_in)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Self::Rejection> {
        Ok(Ctx::of(parts))
    }
}

/// Role as the pages know it.
pub fn role(role: Role) -> tsugi_web::view::Role {
    match role {
        Role::Monitor => tsugi_web::view::Role::Monitor,
        Role::Control => tsugi_web::view::Role::Control,
        Role::Admin => tsugi_web::view::Role::Admin,
    }
}

/// The frame of a page. `scope`: it is live; then the page must be filled *after* this, so that nothing that
/// happens in between is missed.
pub async fn chrome(app: &App, ctx: &Ctx, scope: Option<Scope>) -> Result<Chrome> {
    let live = scope.map(|scope| LiveStart { epoch: app.fleet.epoch.clone(), seq: app.fleet.seq(), scope: scope.to_string() });
    let attention = if ctx.caller.is_some() { render::attention_count(&views::fleet(app).await?) } else { 0 };
    Ok(frame(ctx, attention, live))
}

/// The frame without looking at anything.
pub fn frame(ctx: &Ctx, attention: usize, live: Option<LiveStart>) -> Chrome {
    Chrome {
        lang: ctx.lang,
        theme: ctx.theme,
        user: ctx.caller.as_ref().map(|c| UserView { name: c.name.clone(), role: role(c.role) }),
        path: ctx.path.clone(),
        console: host_name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_unix_ms: crate::store::now_ms().max(0) as u64,
        tz_offset_minutes: jiff::Zoned::now().offset().seconds() / 60,
        attention,
        live,
        toast: None,
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// HTML with a status.
pub fn html(status: StatusCode, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::VARY, "HX-Request, Accept-Language, Cookie")];
    (status, headers, text).into_response()
}

/// 200 with HTML.
pub fn ok(text: String) -> Response {
    html(StatusCode::OK, text)
}

/// After a POST: 303, or for htmx a header that makes it go there.
pub fn go(ctx: &Ctx, to: &str) -> Response {
    if ctx.is_fragment {
        return (StatusCode::OK, [("hx-redirect", to.to_owned())]).into_response();
    }
    (StatusCode::SEE_OTHER, [(header::LOCATION, to.to_owned())]).into_response()
}

/// A path of this console, whatever was typed: never another site.
pub fn own_path(text: &str) -> &str {
    let is_own = text.starts_with('/') && !text.starts_with("//") && !text.contains('\\') && !text.chars().any(char::is_control);
    if is_own { text } else { "/" }
}

/// A form's fields in order; names may repeat. Line ends are `\n`, whatever the browser sent.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// First value of that name; empty if absent.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
    /// … without space around; `None` if empty.
    pub fn some(&self, name: &str) -> Option<String> {
        let text = self.text(name).trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
    /// … read as a name or number; `None` if absent or empty. What cannot be read is an error: to leave it out would widen
    /// an order from a node to the whole module.
    pub fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>> {
        parse(name, self.text(name))
    }
    /// Nothing but fields of these names.
    pub fn only(self, known: &[&str]) -> Result<Fields> {
        match self.0.iter().find(|(n, _)| !known.contains(&n.as_str())) {
            None => Ok(self),
            Some((unknown, _)) => {
                let known = known.join(", ");
                Err(Failure::bad_request(
                    format!("The form has an unknown field `{unknown}`; known are {known}."),
                    format!("フォームに未知の項目「{unknown}」があります。使える項目：{known}"),
                ))
            }
        }
    }
    /// A box that is ticked.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.text(name), "1" | "on" | "true")
    }
    /// Every value of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// The value of a field or parameter; `None` if empty.
pub fn parse<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<Option<T>> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|why: T::Err| {
        Failure::bad_request(format!("`{name}` cannot be `{text}`: {why}."), format!("「{name}」に「{text}」は指定できません：{why}"))
    })
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Error;
    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let form = axum::Form::<Vec<(String, String)>>::from_request(request, state)
            .await
            .map_err(|e| Failure::bad_request(format!("The form cannot be read: {e}"), format!("フォームを読み取れません：{e}")))?;
        Ok(Fields(form.0.into_iter().map(|(n, v)| (n, v.replace("\r\n", "\n"))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::own_path;

    #[test]
    fn after_sign_in_nobody_is_sent_elsewhere() {
        assert_eq!(own_path("/clusters/c1?x=1"), "/clusters/c1?x=1");
        for evil in ["//evil.example", "https://evil.example", "", "javascript:alert(1)", "/\\evil.example"] {
            assert_eq!(own_path(evil), "/", "{evil}");
        }
    }
}
