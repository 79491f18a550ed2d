//! API: set-up, sign-in, users, tokens, audit log.

use super::error::{Failure, Result};
use super::extract::{Body, Names, Query};
use super::guard::{Caller, From};
use super::sign;
use crate::app::App;
use crate::auth::{Role, new_secret, sha256};
use crate::store::audit::{Audit, AuditEntry};
use crate::store::tokens::ApiToken;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Body of the set-up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupBody {
    /// One-time code of the console's log.
    code: String,
    /// Name of the first administrator.
    user: String,
    /// Their password.
    password: String,
}

/// A token; shown once.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenAnswer {
    /// To be sent as `Authorization: Bearer TOKEN`.
    token: String,
}

/// Makes the first administrator and an API token for them.
#[utoipa::path(post, path = "/api/v1/setup", request_body = SetupBody, tag = "auth", security(()),
    responses((status = 201, body = TokenAnswer), (status = 401), (status = 403, description = "done already"), (status = 422)))]
pub async fn setup(
    State(app): State<Arc<App>>,
    From(address): From,
    Body(body): Body<SetupBody>,
) -> Result<(StatusCode, Json<TokenAnswer>)> {
    sign::setup(&app, &body.code, &body.user, body.password, address).await?;
    let token = new_secret();
    app.store.add_api_token(&sha256(token.as_bytes()), &body.user, Role::Admin, &body.user).await?;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token })))
}

/// Body of a sign-in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginBody {
    /// User name.
    user: String,
    /// Password.
    password: String,
}

/// Opens a session; the answer sets the cookie `__Host-tsugi`.
#[utoipa::path(post, path = "/api/v1/login", request_body = LoginBody, tag = "auth", security(()),
    responses((status = 204), (status = 401), (status = 429)))]
pub async fn login(State(app): State<Arc<App>>, From(address): From, Body(body): Body<LoginBody>) -> Result<Response> {
    let id = sign::sign_in(&app, &body.user, body.password, address).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, sign::set_cookie(Some(&id)))]).into_response())
}

/// Ends the session.
#[utoipa::path(post, path = "/api/v1/logout", tag = "auth", security(()), responses((status = 204)))]
pub async fn logout(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response> {
    sign::sign_out(&app, &headers).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, sign::set_cookie(None))]).into_response())
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// User or token name.
    name: String,
    /// What they may do.
    role: Role,
}

/// Who the caller is.
#[utoipa::path(get, path = "/api/v1/me", tag = "auth", responses((status = 200, body = Me)))]
pub async fn me(caller: Caller) -> Json<Me> {
    Json(Me { name: caller.name, role: caller.role })
}

/// Body of a new token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// Name, shown in the audit log.
    name: String,
    /// What its bearer may do.
    role: Role,
}

/// Makes an API token.
#[utoipa::path(post, path = "/api/v1/tokens", request_body = TokenBody, tag = "auth", responses((status = 201, body = TokenAnswer)))]
pub async fn add_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body<TokenBody>,
) -> Result<(StatusCode, Json<TokenAnswer>)> {
    if !sign::is_user_name(&body.name) {
        return Err(sign::NotSigned::BadUser.into());
    }
    let token = new_secret();
    app.store.add_api_token(&sha256(token.as_bytes()), &body.name, body.role, &caller.name).await?;
    audit(&app, &caller, "token.add", &body.name).await?;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token })))
}

/// API tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokens {
    /// Newest first.
    tokens: Vec<ApiToken>,
}

/// Every API token, without its secret.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "auth", responses((status = 200, body = Tokens)))]
pub async fn tokens(State(app): State<Arc<App>>) -> Result<Json<Tokens>> {
    Ok(Json(Tokens { tokens: app.store.api_tokens().await? }))
}

/// Revokes an API token.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", params(("id" = String, Path)), tag = "auth", responses((status = 204), (status = 404)))]
pub async fn remove_token(State(app): State<Arc<App>>, caller: Caller, Names(id): Names<String>) -> Result<StatusCode> {
    let name = app.store.remove_api_token(&id).await?.ok_or_else(Failure::not_found)?;
    audit(&app, &caller, "token.remove", &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What to change of a user; absent = as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// Password.
    #[serde(default)]
    password: Option<String>,
    /// What they may do.
    #[serde(default)]
    role: Option<Role>,
    /// May not sign in.
    #[serde(default)]
    disabled: Option<bool>,
}

/// Changes a user and ends their sessions.
#[utoipa::path(put, path = "/api/v1/users/{name}", params(("name" = String, Path)), request_body = UserChange, tag = "auth",
    responses((status = 204), (status = 404), (status = 409, description = "the last administrator")))]
pub async fn change_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    Names(name): Names<String>,
    Body(body): Body<UserChange>,
) -> Result<StatusCode> {
    if !app.store.users().await?.iter().any(|u| u.name == name) {
        return Err(Failure::not_found());
    }
    let hash = match body.password {
        Some(password) if !sign::is_password(&password) => return Err(sign::NotSigned::WeakPassword.into()),
        Some(password) => Some(app.passwords.hash(password).await.map_err(|e| Failure::internal(e.as_ref()))?),
        None => None,
    };
    if !app.store.change_user(&name, hash.as_deref(), body.role, body.disabled).await? {
        return Err(Failure::conflict(
            "last_admin",
            "Nobody could administer the console any more; make another administrator first.",
            "管理者がいなくなります。先に別の管理者を作成してください。",
        ));
    }
    let detail = serde_json::json!({ "role": body.role, "disabled": body.disabled, "password": hash.is_some() });
    audit_with(&app, &caller, "user.change", &name, None, detail).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserOut {
    /// Sign-in name.
    name: String,
    /// What they may do.
    role: Role,
    /// May not sign in.
    disabled: bool,
    /// Last sign-in.
    signed_in_unix_ms: Option<i64>,
}

/// Users.
#[derive(Debug, Serialize, ToSchema)]
pub struct Users {
    /// By name.
    users: Vec<UserOut>,
}

/// Every user.
#[utoipa::path(get, path = "/api/v1/users", tag = "auth", responses((status = 200, body = Users)))]
pub async fn users(State(app): State<Arc<App>>) -> Result<Json<Users>> {
    let users = app.store.users().await?;
    let out =
        |u: crate::store::users::User| UserOut { name: u.name, role: u.role, disabled: u.is_disabled, signed_in_unix_ms: u.signed_in_ms };
    Ok(Json(Users { users: users.into_iter().map(out).collect() }))
}

/// Body of a new user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// Sign-in name.
    name: String,
    /// Password.
    password: String,
    /// What they may do.
    role: Role,
}

/// Adds a user.
#[utoipa::path(post, path = "/api/v1/users", request_body = UserBody, tag = "auth", responses((status = 201), (status = 409), (status = 422)))]
pub async fn add_user(State(app): State<Arc<App>>, caller: Caller, Body(body): Body<UserBody>) -> Result<StatusCode> {
    if !sign::is_user_name(&body.name) {
        return Err(sign::NotSigned::BadUser.into());
    }
    if !sign::is_password(&body.password) {
        return Err(sign::NotSigned::WeakPassword.into());
    }
    let hash = app.passwords.hash(body.password).await.map_err(|e| Failure::internal(e.as_ref()))?;
    if !app.store.add_user(&body.name, &hash, body.role, false).await? {
        return Err(Failure::conflict("name_taken", "A user of that name exists.", "その名前のユーザーはすでに存在します。"));
    }
    audit(&app, &caller, "user.add", &body.name).await?;
    Ok(StatusCode::CREATED)
}

/// Which entries.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only older than this number.
    before: Option<i64>,
    /// At most so many (1 to 1000, default 100).
    limit: Option<u32>,
}

/// Entries of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditAnswer {
    /// Newest first.
    entries: Vec<AuditEntry>,
}

/// Who did what.
#[utoipa::path(get, path = "/api/v1/audit", params(AuditQuery), tag = "auth", responses((status = 200, body = AuditAnswer)))]
pub async fn audit_log(State(app): State<Arc<App>>, Query(query): Query<AuditQuery>) -> Result<Json<AuditAnswer>> {
    let entries = app.store.audit_entries(query.before, query.limit.unwrap_or(100).clamp(1, 1000)).await?;
    Ok(Json(AuditAnswer { entries }))
}

/// Writes an entry for something the caller did.
pub async fn audit(app: &App, caller: &Caller, action: &str, object: &str) -> Result<()> {
    audit_with(app, caller, action, object, None, serde_json::Value::Null).await
}

/// … with its reason and more detail.
pub async fn audit_with(
    app: &App,
    caller: &Caller,
    action: &str,
    object: &str,
    reason: Option<&str>,
    detail: serde_json::Value,
) -> Result<()> {
    let address = caller.address.to_string();
    let entry = Audit { who: &caller.name, address: &address, via: caller.via(), action, object, detail, reason, result: "ok" };
    Ok(app.store.audit(entry).await?)
}
