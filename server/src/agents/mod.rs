//! The agents' port: enrolment, the agents' WebSocket, and the arbiter.
//!
//! A client certificate is optional in TLS and demanded here: only enrolment does without. What a certificate is
//! worth is decided at each request by the node's row in the store, so that removing a node revokes it at once.

mod arbiter;
mod enroll;
mod socket;

use crate::app::App;
use crate::net::Peer;
use crate::pki::Identity;
use crate::store::nodes::Node;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;

/// Largest body of a request on this port: a signing request or a line of the arbiter.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Routes of the agents' port.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/agent/v1/enroll", post(enroll::enroll))
        .route("/agent/v1/ws", get(socket::upgrade))
        .route("/arbiter/v1/{module}", post(arbiter::decide))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(app)
}

/// A refusal in the same shape as the API's, always in English: a program or its log reads it.
#[derive(Debug)]
pub(crate) struct Denied(pub StatusCode, pub &'static str, pub String);

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1, "message": self.2 }))).into_response()
    }
}

impl Denied {
    fn forbidden(message: impl Into<String>) -> Denied {
        Denied(StatusCode::FORBIDDEN, "forbidden", message.into())
    }
    fn internal(error: &(dyn std::error::Error + 'static)) -> Denied {
        tracing::error!(error, "A request of an agent could not be answered.");
        Denied(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The console could not answer; the cause is in its log. Try again.".into())
    }
}

/// The enrolled node behind a certificate, approved or not.
async fn node_of<'a>(app: &App, peer: &'a Peer) -> Result<(&'a Identity, Node), Denied> {
    let Some(identity) = &peer.identity else {
        return Err(Denied::forbidden("This path needs the node's certificate; enrol the node with `tsugi-agent enroll`."));
    };
    let node = app.store.node(&identity.cluster, &identity.node).await.map_err(|e| Denied::internal(&e))?;
    match node {
        Some(node) if node.fingerprint == identity.fingerprint => Ok((identity, node)),
        _ => Err(Denied::forbidden(format!(
            "The console does not know this certificate of node {} in cluster {}: it was removed or enrolled anew. Enrol it again with a new join token.",
            identity.node, identity.cluster
        ))),
    }
}
