//! `POST /agent/v1/enroll`: a join token becomes a certificate; the node is pending until approved.

use super::Denied;
use crate::app::App;
use crate::auth::sha256;
use crate::fleet::Topic;
use crate::net::Peer;
use crate::store::audit::Audit;
use crate::store::nodes::Enrolment;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use std::sync::Arc;
use tsugi_core::wire::console::{EnrollAnswer, EnrollRequest, JoinToken};

pub(super) async fn enroll(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<EnrollRequest>, JsonRejection>,
) -> Result<Json<EnrollAnswer>, Denied> {
    let address = peer.addr.ip();
    // Counted per address only: somebody's wrong tokens must not keep other machines from enrolling.
    let brake_account = format!("\0join:{address}");
    if app.brake.wait(&brake_account, address).is_some() {
        return Err(Denied(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_tries",
            "Too many wrong join tokens from this address; wait a minute.".into(),
        ));
    }
    let Json(request) = request.map_err(|e| Denied(StatusCode::BAD_REQUEST, "bad_request", e.body_text()))?;
    // The whole token is accepted too: people copy it as it is.
    let secret = request.token.parse::<JoinToken>().map_or_else(|_| request.token.clone(), |t| t.secret);
    let hash = sha256(secret.as_bytes());
    let gone = || {
        Denied(
            StatusCode::FORBIDDEN,
            "bad_token",
            "The join token is not valid: it was used, is older than an hour, or was mistyped. Make a new one on the cluster's page."
                .into(),
        )
    };
    let Some(cluster) = app.store.join_token(&hash).await.map_err(|e| Denied::internal(&e))? else {
        app.brake.failed(&brake_account, address);
        return Err(gone());
    };
    let (certificate_pem, fingerprint) = app
        .ca
        .sign_node(&request.csr_pem, &request.node, &cluster)
        .map_err(|e| Denied(StatusCode::BAD_REQUEST, "bad_request", format!("{e:#}")))?;
    let address = address.to_string();
    let done = app.store.enroll(&hash, &cluster, &request.node, &fingerprint, &address).await.map_err(|e| Denied::internal(&e))?;
    match done {
        Enrolment::Pending => {}
        Enrolment::TokenGone => return Err(gone()),
        Enrolment::NameTaken => {
            return Err(Denied(
                StatusCode::CONFLICT,
                "name_taken",
                format!(
                    "Cluster {cluster} has an approved node {} already. Remove it on the cluster's page first, or choose another name.",
                    request.node
                ),
            ));
        }
    }
    let entry = Audit {
        who: request.node.as_str(),
        address: &address,
        via: "agent",
        action: "node.enroll",
        object: &format!("{cluster}/{}", request.node),
        detail: serde_json::json!({ "fingerprint": fingerprint }),
        reason: None,
        result: "ok",
    };
    app.store.audit(entry).await.map_err(|e| Denied::internal(&e))?;
    app.fleet.changed(Topic::Node { cluster: cluster.clone(), node: request.node.clone() });
    tracing::info!(cluster.name = %cluster, node.name = %request.node, node.fingerprint = fingerprint, "A node enrolled and waits for approval.");
    Ok(Json(EnrollAnswer { certificate_pem, ca_pem: app.ca.certificate_pem.clone(), cluster: cluster.to_string(), fingerprint }))
}
