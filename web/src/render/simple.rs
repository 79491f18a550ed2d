//! Pages before sign-in, and the page for what cannot be shown.

use super::{out, ui};
use crate::both;
use crate::say::{Mark, Said};
use crate::text as p;
use crate::view::{Chrome, ErrorView, LoginError, LoginView, PageError, SetupError, SetupView};
use askama::Template;

#[derive(Template)]
#[template(path = "pages/setup.html")]
struct Setup<'a> {
    c: &'a Chrome,
    v: &'a SetupView,
    error: Option<String>,
}

/// `/setup`.
pub fn setup(v: &SetupView) -> String {
    let c = &v.chrome;
    let error = v.error.map(|e| match e {
        SetupError::WrongCode => c.t(p::SETUP_WRONG_CODE).to_owned(),
        SetupError::WeakPassword { chars_min } => {
            both!(c.lang, "The password needs at least {chars_min} characters.", "パスワードは {chars_min} 文字以上にしてください。")
        }
        SetupError::PasswordsDiffer => c.t(p::PASSWORDS_DIFFER).to_owned(),
        SetupError::BadUser => c.t(p::BAD_USER).to_owned(),
    });
    out(&Setup { c, v, error })
}

#[derive(Template)]
#[template(path = "pages/login.html")]
struct Login<'a> {
    c: &'a Chrome,
    v: &'a LoginView,
    error: Option<String>,
}

/// `/login`.
pub fn login(v: &LoginView) -> String {
    let c = &v.chrome;
    let error = v.error.map(|e| match e {
        LoginError::Wrong => c.t(p::LOGIN_WRONG).to_owned(),
        LoginError::Throttled { seconds } => both!(
            c.lang,
            "Too many tries. Wait {seconds} seconds, then try again.",
            "試行回数が多すぎます。{seconds} 秒待ってからもう一度実行してください。"
        ),
        LoginError::Expired => c.t(p::LOGIN_EXPIRED).to_owned(),
    });
    out(&Login { c, v, error })
}

#[derive(Template)]
#[template(path = "pages/error.html")]
struct Error<'a> {
    c: &'a Chrome,
    said: Said,
}

/// The page of a request that cannot be answered; also its words for the API.
pub fn error(v: &ErrorView) -> String {
    let c = &v.chrome;
    let said = match &v.error {
        PageError::NotFound => Said::only(c.t(p::ERR_NOT_FOUND)).remedy(c.t(p::ERR_NOT_FOUND_DO)),
        PageError::NotAllowed => Said::only(c.t(p::ERR_NOT_ALLOWED)).remedy(c.t(p::ERR_NOT_ALLOWED_DO)),
        PageError::BadRequest(why) => Said::only(c.t(p::ERR_BAD_REQUEST)).then(why.clone()),
        PageError::Internal { code } => Said::only(c.t(p::ERR_INTERNAL)).then(both!(
            c.lang,
            "Modules are not affected. Code for the console's log: {code}.",
            "モジュールの動作には影響ありません。コンソールのログで確認するコード：{code}"
        )),
        PageError::Unavailable => Said::only(c.t(p::ERR_UNAVAILABLE)).then(c.t(p::ERR_UNAVAILABLE_DO)),
    };
    out(&Error { c, said })
}
