//! Asking for the right to serve.
//!
//! Who grants it is the module's configuration: the console, a witness, an etcd cluster, or the node itself with a proof
//! ([`Local`]). The engine does not know which; the words are the same.
//!
//! Every request has a connection to itself while it is under way: a claim never waits behind anything else, not
//! even behind another module's claim.
//!
//! A request that gets no answer has an *unknown* outcome: it may have been carried out, or may still be.

mod etcd;
mod http;
mod local;
mod pool;

pub use etcd::EtcdClient;
pub use http::ArbiterClient;
pub use local::{Local, Place};

use crate::config::Identity;
use crate::tls::TlsError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tsugi_core::cluster::{ArbiterKind, ClusterDef};
use tsugi_core::engine::Saved;
use tsugi_core::ids::{ArbiterName, ModuleName};
use tsugi_core::module::{Authority, ModuleDef};
use tsugi_core::state::AuthorityView;
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};
use tsugi_core::wire::peer::Status;

/// A request has an answer within this time, or none. Room for a connection made anew where a round trip takes a second
/// and packets are lost; in good days an answer takes a round trip.
pub const ASK_TIME_MAX: Duration = Duration::from_secs(8);
/// A reference address is asked this often whether it is there, and an arbiter about each module, so that a loss is seen
/// before it matters.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// An arbiter is asked this often by a node, whatever the number of its modules: its loss is seen, and the connection on
/// which a claim will go stays open.
const WARM_EVERY: Duration = Duration::from_secs(5);
/// Of the modules' loops the first one that is due asks; an answer a little younger than [`WARM_EVERY`] must not count for
/// the next turn of the same loop.
const WARM_FOR: Duration = Duration::from_millis(4500);
/// A fencing device takes seconds and has few sessions.
const LOOK_AT_DEVICE_EVERY: Duration = Duration::from_secs(60);

/// Why there is no answer to act upon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArbiterError {
    /// No answer. The outcome is unknown: the request may have been carried out.
    #[error("the arbiter does not answer ({detail})")]
    NotReachable {
        /// Where it ended; English.
        detail: String,
    },
    /// An answer, but not to the request: the node is not approved, the module does not live on it, …
    /// Nothing was carried out.
    #[error("the arbiter refuses the request ({status}): {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
}

fn not_reachable(detail: String) -> ArbiterError {
    ArbiterError::NotReachable { detail }
}

/// The sentence in an error body (`{"error", "message"}`), or the body as it is.
pub(crate) fn said(body: &[u8]) -> String {
    /// Enough for a sentence; a page of HTML from a proxy is of no use.
    const TEXT_CHARS_MAX: usize = 500;
    let message = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|v| v.get("message")?.as_str().map(str::to_owned));
    message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().chars().take(TEXT_CHARS_MAX).collect())
}

/// The arbiters of the cluster. They are looked up at each request, so that a changed address counts at once.
pub struct Arbiters {
    identity: Identity,
    console: ArbiterClient,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    kinds: BTreeMap<ArbiterName, ArbiterKind>,
    clients: BTreeMap<ArbiterName, Client>,
    /// When it last answered, about any module.
    answered: BTreeMap<ArbiterName, Instant>,
}

#[derive(Clone)]
enum Client {
    Http(ArbiterClient),
    Etcd(EtcdClient),
}

impl Arbiters {
    /// Knows the console; the others come with the cluster's definition.
    pub fn new(identity: &Identity) -> Result<Arbiters, TlsError> {
        Ok(Arbiters { identity: identity.clone(), console: ArbiterClient::new(identity)?, known: Mutex::default() })
    }

    /// The cluster is this now.
    pub fn set_cluster(&self, cluster: &ClusterDef) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds: BTreeMap<_, _> = cluster.arbiters.iter().map(|a| (a.name.clone(), a.kind.clone())).collect();
        if kinds != known.kinds {
            *known = Known { kinds, ..Known::default() };
        }
    }

    fn client(&self, name: &ArbiterName) -> Result<Client, ArbiterError> {
        if name.is_console() {
            return Ok(Client::Http(self.console.clone()));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.clients.get(name) {
            return Ok(client.clone());
        }
        let client = match known.kinds.get(name) {
            None => return Err(not_reachable(format!("cluster.xml has no arbiter {name}"))),
            Some(ArbiterKind::Witness { addr, .. }) => {
                Client::Http(ArbiterClient::witness(&self.identity, name, *addr).map_err(|e| not_reachable(e.to_string()))?)
            }
            Some(ArbiterKind::Etcd(def)) => Client::Etcd(EtcdClient::new(def, &self.identity.cluster, &self.identity.node)),
        };
        known.clients.insert(name.clone(), client.clone());
        Ok(client)
    }

    async fn ask(&self, name: &ArbiterName, module: &ModuleName, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        let answer = match self.client(name)? {
            Client::Http(client) => client.ask(module, request).await,
            Client::Etcd(client) => client.ask(module, request).await,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(_) => known.answered.insert(name.clone(), Instant::now()),
            Err(_) => known.answered.remove(name),
        };
        answer
    }

    /// It has just answered another module's question.
    fn is_warm(&self, name: &ArbiterName) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.answered.get(name).is_some_and(|at| at.elapsed() < WARM_FOR)
    }
}

/// Who lets a module's node go on without its peer. Clones are the same.
#[derive(Clone)]
pub struct Arbiter {
    module: ModuleName,
    view: AuthorityView,
    by: By,
    /// When an arbiter last answered about this module.
    looked: Arc<Mutex<Option<Instant>>>,
}

#[derive(Clone)]
enum By {
    Record(Arc<Arbiters>),
    Own(Arc<Local>),
}

impl Arbiter {
    /// As the module is configured. `saved` is its record on disk.
    pub fn new(arbiters: &Arc<Arbiters>, def: &ModuleDef, place: Place, saved: Saved) -> Arbiter {
        let module = place.module.clone();
        let by = match def.authority {
            Authority::Arbiter => By::Record(arbiters.clone()),
            Authority::Fence | Authority::Manual | Authority::Ping | Authority::None => By::Own(Arc::new(Local::new(def, place, saved))),
        };
        Arbiter { module, view: AuthorityView { kind: def.authority, arbiter: def.arbiter.clone() }, by, looked: Arc::default() }
    }

    /// Whom it is.
    pub fn view(&self) -> &AuthorityView {
        &self.view
    }

    /// Asks. How long it takes at most depends on who answers: [`ASK_TIME_MAX`], or as long as a proof takes.
    pub async fn ask(&self, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        match &self.by {
            By::Record(arbiters) => arbiters.ask(&self.view.arbiter, &self.module, request).await,
            By::Own(local) => local.ask(request).await,
        }
    }

    /// The module's record on disk is this one now.
    pub fn saved(&self, saved: &Saved) {
        if let By::Own(local) = &self.by {
            local.saved(saved);
        }
    }

    /// The peer was heard.
    pub fn heard(&self, status: &Status) {
        if let By::Own(local) = &self.by {
            local.heard(status);
        }
    }

    /// Whether it would answer now; `None` where nobody has to.
    pub async fn is_ready(&self) -> Option<bool> {
        match &self.by {
            By::Record(arbiters) => Some(self.look(arbiters).await),
            By::Own(local) => local.is_ready().await,
        }
    }

    /// Asks about this module every [`LOOK_EVERY`]; in between any module's answer will do.
    async fn look(&self, arbiters: &Arbiters) -> bool {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) && arbiters.is_warm(&self.view.arbiter) {
            return true;
        }
        let is_ok = arbiters.ask(&self.view.arbiter, &self.module, &ArbiterRequest::Read).await.is_ok();
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = is_ok.then(Instant::now);
        is_ok
    }

    /// How long to wait between two looks.
    pub fn look_every(&self) -> Duration {
        match self.view.kind {
            Authority::Fence => LOOK_AT_DEVICE_EVERY,
            Authority::Arbiter => WARM_EVERY,
            Authority::Manual | Authority::Ping | Authority::None => LOOK_EVERY,
        }
    }
}
