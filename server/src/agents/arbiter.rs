//! `POST /arbiter/v1/{module}`: the right to serve alone. The sender is whom the certificate names.

use super::{Denied, node_of};
use crate::app::App;
use crate::net::Peer;
use crate::store::audit::Audit;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use std::sync::Arc;
use tsugi_core::ids::ModuleName;
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};

pub(super) async fn decide(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(module): Path<String>,
    request: Result<Json<ArbiterRequest>, JsonRejection>,
) -> Result<Json<ArbiterAnswer>, Denied> {
    let (identity, node) = node_of(&app, &peer).await?;
    if node.approved_ms.is_none() {
        return Err(Denied::forbidden(format!("Node {} is not approved yet; an administrator approves it on the console.", node.name)));
    }
    let module = ModuleName::new(module).map_err(|e| Denied(StatusCode::BAD_REQUEST, "bad_request", e.to_string()))?;
    let known = app.store.module(&identity.cluster, &module).await.map_err(|e| Denied::internal(&e))?;
    if !known.is_some_and(|m| m.nodes.contains(&identity.node)) {
        return Err(Denied::forbidden(format!("Module {module} does not live on node {} of cluster {}.", identity.node, identity.cluster)));
    }
    let Json(request) = request.map_err(|e| Denied(StatusCode::BAD_REQUEST, "bad_request", e.body_text()))?;
    let answer = app.arbiter.decide(&identity.cluster, &module, &identity.node, &request).await.map_err(|e| Denied::internal(&e))?;
    if request == ArbiterRequest::Read {
        return Ok(Json(answer));
    }
    tracing::info!(
        cluster.name = %identity.cluster, module.name = %module, node.name = %identity.node, arbiter.accepted = answer.is_accepted,
        arbiter.version = answer.record.version.0, ?request, "The arbiter decided."
    );
    // The arbiter's own file already holds the entry that counts; this one is for the console's list, and the node
    // does not wait for it.
    if answer.is_accepted {
        let (app, record) = (app.clone(), answer.record.clone());
        let (who, address, object) = (identity.node.to_string(), peer.addr.ip().to_string(), format!("{}/{module}", identity.cluster));
        app.tasks.clone().spawn(async move {
            let entry = Audit {
                who: &who,
                address: &address,
                via: "agent",
                action: "arbiter",
                object: &object,
                detail: serde_json::json!({ "request": request, "record": record }),
                reason: None,
                result: "ok",
            };
            if let Err(error) = app.store.audit(entry).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "A decision of the arbiter could not be listed; the arbiter's own file has it."
                );
            }
        });
    }
    Ok(Json(answer))
}
