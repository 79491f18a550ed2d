//! An etcd cluster as arbiter, by the JSON gateway of its API v3.
//!
//! One key for each module, `/tsugi/CLUSTER/MODULE`, with the record as JSON, changed by transactions that compare the
//! key's revision: no locks, no leases, nothing that a clock decides. Reads are parts of transactions, so they are
//! linearizable. `/tsugi/CLUSTER/.instance` is made once and is the life of the store; every change compares it too, so
//! that no request meets a store other than the one it was decided on.
//!
//! etcd knows nothing of nodes and modules: that a node asks in its own name only is a matter of who holds a
//! certificate that etcd accepts. An etcd that was restored from a backup is the same store with an old record, which no
//! node can see: it must be given new keys (`docs/manual/en/arbiters.md`).

use super::pool::{Dialer, Pool};
use super::{ASK_TIME_MAX, ArbiterError, not_reachable, said};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use tsugi_core::cluster::EtcdDef;
use tsugi_core::ids::{ClusterName, LifeId, ModuleName, NodeName};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};

/// A member that has not answered for this long may be gone: the next one is asked beside it.
const NEXT_MEMBER_AFTER: Duration = Duration::from_millis(1500);

/// Asks an etcd cluster. Clones share the connections.
#[derive(Clone)]
pub struct EtcdClient {
    node: NodeName,
    prefix: String,
    members: Arc<Vec<Pool>>,
    /// The member that answered last.
    preferred: Arc<AtomicUsize>,
}

/// A key with its value, as the gateway sends it: bytes in base64, numbers as text, zeros left out.
#[derive(Debug, Clone, Deserialize)]
struct KeyValue {
    mod_revision: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Default, Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
struct Response {
    #[serde(default)]
    response_range: Option<Range>,
}

#[derive(Debug, Deserialize)]
struct TxnAnswer {
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

/// What the two keys hold.
struct Seen {
    /// Life of the store as written, for the comparison.
    instance_text: String,
    record: Record,
    /// Revision of the record's last change; 0 = there is no record.
    revision: String,
}

impl EtcdClient {
    /// A client for the records of `cluster`, asking as `node`.
    pub fn new(def: &EtcdDef, cluster: &ClusterName, node: &NodeName) -> EtcdClient {
        let members = def.endpoints.iter().map(|addr| Pool::new(Dialer::Etcd { addr: *addr, def: def.clone() })).collect();
        EtcdClient {
            node: node.clone(),
            prefix: format!("/tsugi/{cluster}/"),
            members: Arc::new(members),
            preferred: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Carries `request` out and waits at most [`ASK_TIME_MAX`].
    pub async fn ask(&self, module: &ModuleName, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        match timeout(ASK_TIME_MAX, self.decide(module, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(not_reachable(format!("no answer within {} s", ASK_TIME_MAX.as_secs()))),
        }
    }

    async fn decide(&self, module: &ModuleName, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        let (instance_key, record_key) = (self.key(".instance"), self.key(module.as_str()));
        let seen = self.read(&instance_key, &record_key).await?;
        let Some(next) = seen.record.apply(&self.node, request) else {
            return Ok(ArbiterAnswer { is_accepted: matches!(request, ArbiterRequest::Read), record: seen.record });
        };
        let body = serde_json::to_vec(&next).map_err(|e| not_reachable(format!("the record cannot be written: {e}")))?;
        let txn = json!({
            "compare": [
                { "key": instance_key, "target": "VALUE", "result": "EQUAL", "value": BASE64.encode(&seen.instance_text) },
                { "key": record_key, "target": "MOD", "result": "EQUAL", "mod_revision": seen.revision },
            ],
            "success": [{ "request_put": { "key": record_key, "value": BASE64.encode(&body) } }],
            "failure": [{ "request_range": { "key": instance_key } }, { "request_range": { "key": record_key } }],
        });
        let answer = self.txn(&txn).await?;
        if answer.succeeded {
            return Ok(ArbiterAnswer { is_accepted: true, record: next });
        }
        // Somebody was faster; or this very request was, by way of a member whose answer was lost.
        let now = understood(&answer.responses)?.ok_or_else(|| not_reachable("the store was emptied meanwhile".to_owned()))?;
        Ok(ArbiterAnswer { is_accepted: now.record == next, record: now.record })
    }

    /// Both keys, at one revision of the store. Makes the instance if there is none.
    async fn read(&self, instance_key: &str, record_key: &str) -> Result<Seen, ArbiterError> {
        let both = json!([{ "request_range": { "key": instance_key } }, { "request_range": { "key": record_key } }]);
        if let Some(seen) = understood(&self.txn(&json!({ "success": both })).await?.responses)? {
            return Ok(seen);
        }
        let minted = LifeId(rand::random()).to_string();
        let make = json!({
            "compare": [{ "key": instance_key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
            "success": [{ "request_put": { "key": instance_key, "value": BASE64.encode(&minted) } }],
        });
        self.txn(&make).await?;
        understood(&self.txn(&json!({ "success": both })).await?.responses)?
            .ok_or_else(|| not_reachable("the store does not keep what is written".to_owned()))
    }

    fn key(&self, name: &str) -> String {
        BASE64.encode(format!("{}{name}", self.prefix))
    }

    /// A transaction, by the first member that answers: each of the others is asked too when those before it have not
    /// answered for [`NEXT_MEMBER_AFTER`]. Sending one again is harmless: what it compares has changed as soon as it was
    /// carried out.
    async fn txn(&self, txn: &Value) -> Result<TxnAnswer, ArbiterError> {
        let body = serde_json::to_vec(txn).map_err(|e| not_reachable(format!("the request cannot be written: {e}")))?;
        let count = self.members.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut left = (0..count).map(|i| (first + i) % count).filter_map(|at| Some((at, self.members.get(at)?)));
        let mut asked = FuturesUnordered::new();
        let mut why = "etcd has no members".to_owned();
        loop {
            let next = left.next();
            let is_last = next.is_none();
            if let Some((at, member)) = next {
                let body = &body;
                asked.push(async move { (at, member.post("/v3/kv/txn", body).await) });
            }
            // With nobody left to ask, those who were asked have the rest of the time.
            let pause = if is_last { ASK_TIME_MAX } else { NEXT_MEMBER_AFTER };
            let Ok(answer) = timeout(pause, asked.next()).await else { continue };
            let Some((at, answer)) = answer else { return Err(not_reachable(why)) };
            why = match answer {
                Err(error) => error.0,
                Ok((StatusCode::OK, body)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return serde_json::from_slice(&body).map_err(|e| not_reachable(format!("the answer is not understood: {e}")));
                }
                Ok((status, body)) => format!("{status}: {}", said(&body)),
            };
            tracing::debug!(member = at + 1, %why, "a member of etcd gave no answer");
        }
    }
}

/// Reads the two ranges. `None`: the store was never used.
fn understood(responses: &[Response]) -> Result<Option<Seen>, ArbiterError> {
    let damaged = |what: &str| not_reachable(format!("{what}; see the manual, \"arbiters\", about a damaged store"));
    let mut ranges = responses.iter().map(|r| r.response_range.as_ref().and_then(|range| range.kvs.first()));
    let (Some(instance), Some(record), None) = (ranges.next(), ranges.next(), ranges.next()) else {
        return Err(not_reachable("the answer has not the parts that were asked for".to_owned()));
    };
    let text = |kv: &KeyValue| BASE64.decode(&kv.value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(instance) = instance else {
        return if record.is_none() { Ok(None) } else { Err(damaged("there is a record, but the key .instance is gone")) };
    };
    let instance_text = text(instance).ok_or_else(|| damaged("the key .instance cannot be read"))?;
    let instance: LifeId =
        serde_json::from_value(Value::String(instance_text.clone())).map_err(|_| damaged("the key .instance cannot be read"))?;
    let Some(kv) = record else {
        return Ok(Some(Seen { instance_text, record: Record::empty(instance), revision: "0".to_owned() }));
    };
    let record: Record =
        text(kv).and_then(|t| serde_json::from_str(&t).ok()).ok_or_else(|| damaged("the key of the module holds no record"))?;
    if record.instance != instance {
        return Err(damaged("the record is of another life of the store"));
    }
    Ok(Some(Seen { instance_text, record, revision: kv.mod_revision.clone() }))
}
