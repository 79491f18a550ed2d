//! Extractors whose refusals are this console's errors.

use super::error::{Error, Failure};
use crate::words::Lang;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

/// Names out of the path; a malformed one is not found.
#[derive(Debug, Clone)]
pub struct Names<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await.map_err(|_| Failure::not_found())?;
        Ok(Names(path.0))
    }
}

/// Query parameters.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|e| Failure::bad_request(format!("The query is not right: {e}"), format!("クエリに誤りがあります：{e}")))?;
        Ok(Query(query.0))
    }
}

/// No query: a parameter that nobody reads would be taken for one that was heeded.
#[derive(Debug, Clone, Copy)]
pub struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        match parts.uri.query().filter(|q| !q.is_empty()) {
            None => Ok(NoQuery),
            Some(query) => Err(Failure::bad_request(
                format!("This address takes no query (`{query}`); options belong into the body."),
                format!("この URL にクエリ（{query}）は指定できません。オプションは本文で指定してください。"),
            )),
        }
    }
}

/// A JSON body.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;
    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(json) => Ok(Body(json.0)),
            Err(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
            Err(e) => {
                let why = e.body_text();
                Err(Failure::bad_request(format!("The JSON body is not right: {why}"), format!("JSON の本文に誤りがあります：{why}")))
            }
        }
    }
}

/// A JSON body that may be absent altogether: then everything in it has its default.
#[derive(Debug, Clone)]
pub struct MaybeBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeBody<T> {
    type Rejection = Error;
    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(|_| too_large())?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(MaybeBody(T::default()));
        }
        serde_json::from_slice(&bytes)
            .map(MaybeBody)
            .map_err(|e| Failure::bad_request(format!("The JSON body is not right: {e}"), format!("JSON の本文に誤りがあります：{e}")))
    }
}

fn too_large() -> Error {
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large.", "リクエストが大きすぎます。")
}

/// Language of the answer: the page's own choice (cookie), else what the client accepts.
#[derive(Debug, Clone, Copy)]
pub struct Tongue(pub Lang);

impl<S: Send + Sync> FromRequestParts<S> for Tongue {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Tongue(lang(&parts.headers)))
    }
}

/// Language for a request with these headers.
pub fn lang(headers: &HeaderMap) -> Lang {
    if let Some(chosen) = super::guard::cookie(headers, "lang").and_then(Lang::from_code) {
        return chosen;
    }
    headers.get(header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok()).map_or(Lang::En, Lang::accepted)
}
