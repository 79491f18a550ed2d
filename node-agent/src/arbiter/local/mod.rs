//! The node itself in the arbiter's place, for modules with `authority="none"`, `ping`, `manual` or `fence`.
//!
//! What may be granted is `tsugi_core::engine::authority`'s to say; here are the proofs: an address that answers, a
//! device that says OFF.

mod fence;
mod ping;

use super::ArbiterError;
use fence::Fencer;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tsugi_core::engine::Saved;
use tsugi_core::engine::authority::{PeerWord, Proof, answer, proof_needed};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::{Authority, ModuleDef};
use tsugi_core::state::Readiness;
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest};
use tsugi_core::wire::peer::Status;

/// What a secondary waits before it asks the reference address: a primary that reaches it too has gone on by then.
const PING_DELAY: Duration = Duration::from_secs(2);

/// Longest wait for what a peer in contact is about: flushing its disk, its scripts.
const HEAR_OUT_MAX: Duration = Duration::from_secs(10);
/// Beats after which what it says counts: the first may have been under way.
const BEATS_HEARD: u64 = 2;
const HEAR_POLL: Duration = Duration::from_millis(20);

/// Answers for one module out of the node's own record.
pub struct Local {
    authority: Authority,
    me: NodeName,
    peer: NodeName,
    witnesses: Vec<IpAddr>,
    fencer: Option<Fencer>,
    /// A word of the peer that is older was not heard from a node in contact.
    contact: Duration,
    book: Mutex<Book>,
}

/// What the module's loop knows, kept for the moment of a request.
struct Book {
    saved: Saved,
    peer: Option<Status>,
    /// Beats of the peer so far, and when the last one came.
    heard: u64,
    heard_at: Option<Instant>,
}

/// Where the module's things are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The module.
    pub module: ModuleName,
    /// This node.
    pub me: NodeName,
    /// The other one.
    pub peer: NodeName,
    /// Its scripts.
    pub bin_dir: PathBuf,
    /// Their logs.
    pub log_dir: PathBuf,
}

impl Local {
    /// For a module whose record on disk is `saved`.
    pub fn new(def: &ModuleDef, place: Place, saved: Saved) -> Local {
        let Place { module, me, peer, bin_dir, log_dir } = place;
        let fencer = def.fence.clone().map(|fence| Fencer { module, me: me.clone(), fence, bin_dir, log_dir });
        Local {
            authority: def.authority,
            me,
            peer,
            witnesses: def.witnesses.clone(),
            fencer,
            contact: def.heart.timing.silence,
            book: Mutex::new(Book { saved, peer: None, heard: 0, heard_at: None }),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record on disk is this one now.
    pub fn saved(&self, saved: &Saved) {
        self.book().saved = saved.clone();
    }

    /// The peer was heard.
    pub fn heard(&self, status: &Status) {
        let mut book = self.book();
        book.heard += 1;
        book.heard_at = Some(Instant::now());
        book.peer = Some(status.clone());
    }

    /// Answers, with the proof where one is needed. No answer means that nothing may be concluded: the same may be
    /// asked again.
    pub async fn ask(&self, request: &ArbiterRequest) -> Result<ArbiterAnswer, ArbiterError> {
        let (mut proof, heard, is_owner) = {
            let book = self.book();
            (self.proof(&book, request), book.heard, book.saved.is_owner)
        };
        if proof == Some(Proof::Fenced) {
            self.hear_out(request).await;
            proof = self.proof(&self.book(), request);
        }
        match proof {
            None => {}
            Some(Proof::Person) => {
                return Err(unproven(
                    "this node has not heard the other one since it started, so it fences nobody; a person decides: `tsugi prim --accept-loss`",
                ));
            }
            Some(Proof::Witness) => {
                self.wait(PING_DELAY, is_owner, heard).await?;
                if !ping::any_answers(&self.witnesses).await {
                    return Err(unproven("no reference address answers, so this node may be the one that is cut off"));
                }
            }
            Some(Proof::Fenced) => {
                let Some(fencer) = &self.fencer else { return Err(unproven("no way to fence is configured")) };
                self.wait(fencer.fence.delay, is_owner, heard).await?;
                fencer.off(&self.peer).await.map_err(|why| ArbiterError::NotReachable { detail: why })?;
            }
        }
        Ok(answer(&self.book().saved, &self.me, &self.peer, request))
    }

    fn proof(&self, book: &Book, request: &ArbiterRequest) -> Option<Proof> {
        let word = PeerWord::of(book.peer.as_ref(), self.is_in_contact(book), &book.saved);
        proof_needed(self.authority, &book.saved, &self.me, &self.peer, word, request)
    }

    fn is_in_contact(&self, book: &Book) -> bool {
        book.heard_at.is_some_and(|at| at.elapsed() < self.contact)
    }

    /// Nobody's power is cut who is just saying that he leaves: that the replication ended is known before the beat that says
    /// why. Waits while the peer is in contact and between two states, or has not said anything since; waiting is always safe.
    async fn hear_out(&self, request: &ArbiterRequest) {
        let (begun, heard) = (Instant::now(), self.book().heard);
        while begun.elapsed() < HEAR_OUT_MAX {
            {
                let book = self.book();
                let is_changing = book.peer.as_ref().is_some_and(|peer| peer.readiness == Readiness::Transient);
                let is_clear = book.heard >= heard + BEATS_HEARD && !is_changing;
                if !self.is_in_contact(&book) || is_clear || self.proof(&book, request) != Some(Proof::Fenced) {
                    return;
                }
            }
            sleep(HEAR_POLL).await;
        }
    }

    /// The secondary's handicap. A peer that is heard meanwhile, or a module that is stopped, needs no proof any more.
    async fn wait(&self, delay: Duration, is_owner: bool, heard: u64) -> Result<(), ArbiterError> {
        if is_owner {
            return Ok(());
        }
        sleep(delay).await;
        let book = self.book();
        if book.heard != heard {
            return Err(unproven("the other node was heard again"));
        }
        if !book.saved.is_started {
            return Err(unproven("the module was stopped"));
        }
        Ok(())
    }

    /// Whether a proof could be had now; `None` where none is ever needed, or only a person gives it.
    pub async fn is_ready(&self) -> Option<bool> {
        match (self.authority, &self.fencer) {
            (Authority::Ping, _) => Some(ping::any_answers(&self.witnesses).await),
            (Authority::Fence, Some(fencer)) => Some(fencer.is_ready(&self.peer).await),
            _ => None,
        }
    }
}

fn unproven(detail: &str) -> ArbiterError {
    ArbiterError::NotReachable { detail: detail.to_owned() }
}

#[cfg(test)]
mod tests;
