//! Set-up, sign-in and sign-out, shared by API and pages.

use super::error::{Error, Failure, Result};
use super::guard::{COOKIE, session_id};
use crate::app::App;
use crate::auth::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, Role, new_secret, sha256};
use crate::store::audit::Audit;
use axum::http::{HeaderMap, StatusCode};
use std::net::IpAddr;
use std::time::Duration;

/// Account under which wrong set-up codes are counted.
const SETUP_ACCOUNT: &str = "\0setup";

/// Why a sign-in or set-up did not go through.
#[derive(Debug)]
pub enum NotSigned {
    /// Name, password or code.
    Wrong,
    /// Too many tries.
    Throttled(Duration),
    /// Too short, too long.
    WeakPassword,
    /// Not a name.
    BadUser,
    /// The set-up was done already.
    AlreadyDone,
    /// Something failed.
    Failed(Error),
}

impl From<NotSigned> for Error {
    fn from(why: NotSigned) -> Error {
        match why {
            NotSigned::Wrong => Failure::new(
                StatusCode::UNAUTHORIZED,
                "wrong_credentials",
                "User name, password or code is not right.",
                "ユーザー名、パスワード、またはコードが正しくありません。",
            ),
            NotSigned::Throttled(wait) => {
                let s = wait.as_secs();
                Failure::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too_many_tries",
                    format!("Too many wrong tries; wait {s} seconds."),
                    format!("失敗が続いています。{s} 秒待ってください。"),
                )
            }
            NotSigned::WeakPassword => Failure::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "weak_password",
                format!("A password has at least {PASSWORD_CHARS_MIN} characters (and at most {PASSWORD_BYTES_MAX} bytes)."),
                format!("パスワードは {PASSWORD_CHARS_MIN} 文字以上（{PASSWORD_BYTES_MAX} バイト以下）にしてください。"),
            ),
            NotSigned::BadUser => Failure::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "bad_user",
                "A user name has 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, `@`, beginning with a letter or digit.",
                "ユーザー名は英数字で始まる 1～63 文字で、a-z、A-Z、0-9、-、_、.、@ を使えます。",
            ),
            NotSigned::AlreadyDone => Failure::new(
                StatusCode::FORBIDDEN,
                "setup_done",
                "The set-up was done already; sign in.",
                "初期設定は完了しています。サインインしてください。",
            ),
            NotSigned::Failed(error) => error,
        }
    }
}

impl<E: Into<Error>> From<E> for NotSigned
where
    E: std::error::Error,
{
    fn from(error: E) -> Self {
        NotSigned::Failed(error.into())
    }
}

fn failed(error: anyhow::Error) -> NotSigned {
    NotSigned::Failed(Failure::internal(error.as_ref()))
}

/// Whether `name` may be a user's.
pub fn is_user_name(name: &str) -> bool {
    let first_ok = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    first_ok && name.len() <= 63 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@'))
}

/// Whether `password` is long enough, and not too long.
pub fn is_password(password: &str) -> bool {
    password.chars().count() >= PASSWORD_CHARS_MIN && password.len() <= PASSWORD_BYTES_MAX
}

/// Makes the first administrator. Once, and only with the code of the console's log.
pub async fn setup(app: &App, code: &str, user: &str, password: String, address: IpAddr) -> std::result::Result<(), NotSigned> {
    let right = app.setup_code.lock().expect("nobody panics while holding this lock").clone().ok_or(NotSigned::AlreadyDone)?;
    if let Some(wait) = app.brake.wait(SETUP_ACCOUNT, address) {
        return Err(NotSigned::Throttled(wait));
    }
    // Compared as hashes, so that the time tells nothing about the code.
    if sha256(code.trim().to_ascii_uppercase().as_bytes()) != sha256(right.as_bytes()) {
        app.brake.failed(SETUP_ACCOUNT, address);
        return Err(NotSigned::Wrong);
    }
    if !is_user_name(user) {
        return Err(NotSigned::BadUser);
    }
    if !is_password(&password) {
        return Err(NotSigned::WeakPassword);
    }
    let hash = app.passwords.hash(password).await.map_err(failed)?;
    if !app.store.add_user(user, &hash, Role::Admin, true).await? {
        return Err(NotSigned::AlreadyDone);
    }
    app.setup_done();
    audit(app, user, address, "setup", "ok").await?;
    Ok(())
}

/// Checks a password and opens a session; the value of the cookie.
pub async fn sign_in(app: &App, user: &str, password: String, address: IpAddr) -> std::result::Result<String, NotSigned> {
    if let Some(wait) = app.brake.wait(user, address) {
        return Err(NotSigned::Throttled(wait));
    }
    let known = if is_user_name(user) && password.len() <= PASSWORD_BYTES_MAX { app.store.password_of(user).await? } else { None };
    let password = if password.len() <= PASSWORD_BYTES_MAX { password } else { String::new() };
    if !app.passwords.verify(password, known.map(|(_, hash)| hash)).await.map_err(failed)? {
        app.brake.failed(user, address);
        // The name is not written as it is: people type their password into the wrong field.
        let shown = if is_user_name(user) { user } else { "?" };
        audit(app, shown, address, "sign_in", "refused").await?;
        return Err(NotSigned::Wrong);
    }
    app.brake.succeeded(user);
    // Always a new id: one planted before the sign-in is worth nothing.
    let id = new_secret();
    app.store.open_session(&sha256(id.as_bytes()), user, &address.to_string()).await?;
    audit(app, user, address, "sign_in", "ok").await?;
    Ok(id)
}

/// Ends the session of these headers.
pub async fn sign_out(app: &App, headers: &HeaderMap) -> Result<()> {
    if let Some(id) = session_id(headers) {
        app.store.close_session(&sha256(id.as_bytes())).await?;
    }
    Ok(())
}

/// `Set-Cookie` of a session; `None` ends it.
pub fn set_cookie(id: Option<&str>) -> String {
    match id {
        Some(id) => format!("{COOKIE}={id}; Path=/; Secure; HttpOnly; SameSite=Lax"),
        None => format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"),
    }
}

async fn audit(app: &App, who: &str, address: IpAddr, action: &str, result: &str) -> std::result::Result<(), NotSigned> {
    let address = address.to_string();
    Ok(app.store.audit(Audit { who, address: &address, via: "console", action, object: who, result, ..Audit::default() }).await?)
}
