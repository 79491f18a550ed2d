//! Comparison of the two copies: when it is due, how it ended, and what is told of replication.

use super::{Runner, unix_ms};
use crate::disk;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tsugi_core::command::{BY_AGENT, Verb};
use tsugi_core::copies::{Verified, VerifyEnd, Verifying};
use tsugi_core::event::Event;
use tsugi_core::state::LastVerification;
use tsugi_core::wire::local::{Reply, RfsView};

/// One that could not go on is tried again after this, or after the configured time if that is shorter.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// One that was ended for a repair is begun again after this: what no repair puts right must not end one session after
/// the other.
const AFTER_EARLY: Duration = Duration::from_secs(600);
/// Between two that this node begins by itself, whatever becomes of them.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// Paths of changed files are looked up within this; there may be many.
const NOTED_MAX: Duration = Duration::from_secs(10);
/// And figures.
const FIGURES_MAX: Duration = Duration::from_secs(1);
/// Differences told with the event; the rest is in `tsugi rfs status`.
const TOLD_MAX: usize = 5;

/// What is remembered of comparisons, over restarts of the agent.
pub(super) struct Verifications {
    path: PathBuf,
    /// The last one that ended.
    pub last: Option<LastVerification>,
    begun: Option<Instant>,
    /// Begun, and its end not heard of.
    is_running: bool,
}

impl Verifications {
    /// What was kept in `modules/M/verified.json`. A file that makes no sense is like none: it is only about when to
    /// compare again.
    pub fn load(path: PathBuf) -> Verifications {
        let read = disk::read_if_there(&path).ok().flatten();
        let last = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Verifications { path, last, begun: None, is_running: false }
    }

    /// Takes how one ended; what is returned keeps that on disk.
    fn ended(&mut self, verified: Verified) -> impl FnOnce() + Send + use<> {
        let last = LastVerification { at_unix_ms: unix_ms(), verified };
        self.last = Some(last.clone());
        let path = self.path.clone();
        move || {
            let kept = serde_json::to_vec(&last).map_err(std::io::Error::other);
            if let Err(error) = kept.and_then(|bytes| disk::write_atomically(&path, &bytes, disk::PRIVATE)) {
                tracing::warn!(path = %path.display(), %error, "how the comparison ended is forgotten with this agent");
            }
        }
    }

    /// Whether one is due at this time of the wall clock.
    fn is_due(&self, every: Duration, now_unix_ms: u64) -> bool {
        if self.begun.is_some_and(|begun| begun.elapsed() < PAUSE_MIN) {
            return false;
        }
        let Some(last) = &self.last else { return true };
        let after = match last.verified.end {
            VerifyEnd::Whole => every,
            VerifyEnd::Early => every.min(AFTER_EARLY),
            VerifyEnd::Failed { .. } => every.min(AGAIN_AFTER),
        };
        // A clock that was set back must not put it off for ever.
        last.at_unix_ms > now_unix_ms || u128::from(now_unix_ms - last.at_unix_ms) >= after.as_millis()
    }
}

impl Runner {
    /// Begins one.
    pub(super) fn verify(&mut self) {
        self.verifications.begun = Some(Instant::now());
        self.verifications.is_running = self.hands.verify();
        if !self.verifications.is_running {
            self.verification_failed("this module replicates nothing, or its data process does not run");
        }
    }

    fn verification_failed(&mut self, why: &str) {
        let end = VerifyEnd::Failed { detail: why.to_owned() };
        self.on_verified(Verified { done: Verifying::default(), millis: 0, listed: Vec::new(), end });
    }

    /// The data process is gone, and with it what it had begun.
    pub(super) fn verification_died(&mut self) {
        if self.verifications.is_running {
            self.verification_failed("the data process ended");
        }
    }

    /// Has what differs repaired as soon as it may be. The next session repairs it in any case, whatever that is begun for.
    pub(super) fn repair_if_possible(&self) {
        let is_found = self.figures.as_ref().is_some_and(|f| f.unrepaired > 0 && f.verifying.is_none());
        let may = || self.snapshot.borrow().as_ref().is_some_and(|now| now.repair_wait().is_none());
        if is_found && may() {
            self.hands.repair();
        }
    }

    /// One has ended.
    pub(super) fn on_verified(&mut self, what: Verified) {
        self.verifications.is_running = false;
        let Verified { done, millis, listed, end } = what.clone();
        let first = listed.into_iter().take(TOLD_MAX).collect();
        // The disk is busy just now, and the loop waits for nobody.
        tokio::task::spawn_blocking(self.verifications.ended(what));
        self.report(Event::Verified { done, millis, first, end });
        if let Some(figures) = &mut self.figures {
            figures.verifying = None;
        }
        self.publish();
    }

    /// Begins one if the configuration asks for it.
    pub(super) async fn verify_if_due(&mut self) {
        let every = self.hands.setting().def.rfs.as_ref().and_then(|rfs| rfs.verify_every);
        let Some(every) = every else { return };
        let is_running = self.figures.as_ref().is_some_and(|f| f.verifying.is_some());
        // Under maintenance nothing begins by itself that may leave the module without a backup for a moment.
        let is_maintained = self.maintenance_until_unix_ms.is_some();
        if !is_running && !is_maintained && self.verifications.is_due(every, unix_ms()) && self.engine.refusal(&Verb::Verify).is_none() {
            self.order_myself(Verb::Verify, BY_AGENT).await;
        }
    }

    /// How replication stands. The loop does not wait for the figures.
    pub(super) fn rfs_view(&self, answer: oneshot::Sender<Reply>) {
        let error = |message: &str| Reply::Error { message: message.to_owned() };
        let (data, snapshot) = (self.hands.setting().data.as_ref(), self.snapshot.borrow().clone());
        let (dirs, mut snapshot): (Vec<_>, _) = match (data, snapshot) {
            (Some(data), Some(snapshot)) => (data.dirs.iter().map(|d| d.dir.clone()).collect(), snapshot),
            // Whoever asked may have gone, here and below.
            (None, _) => return drop(answer.send(error("this module replicates nothing"))),
            (_, None) => return drop(answer.send(error("the module is being taken up; try again"))),
        };
        let asked = self.hands.ask_figures();
        tokio::spawn(async move {
            let figures = match asked {
                Some(asked) => timeout(FIGURES_MAX, asked).await.ok().and_then(Result::ok),
                None => None,
            };
            if let Some(figures) = &figures {
                snapshot.verification.running = figures.verifying.clone();
                snapshot.verification.unrepaired = figures.unrepaired;
            }
            let _ = answer.send(Reply::Rfs { view: Box::new(RfsView { snapshot, dirs, figures }) });
        });
    }

    /// Which files are noted as changed. The loop does not wait for the answer.
    pub(super) fn noted(&self, answer: oneshot::Sender<Reply>) {
        let asked = self.hands.noted();
        tokio::spawn(async move {
            let paths = match asked {
                Some(asked) => timeout(NOTED_MAX, asked).await.ok().and_then(Result::ok),
                None => None,
            };
            let none = || Reply::Error { message: "no data process of this module runs here, or it does not answer".to_owned() };
            // Whoever asked may have gone.
            let _ = answer.send(paths.map_or_else(none, |paths| Reply::Noted { paths }));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(at_unix_ms: u64, end: VerifyEnd) -> LastVerification {
        LastVerification { at_unix_ms, verified: Verified { done: Verifying::default(), millis: 1, listed: Vec::new(), end } }
    }

    #[test]
    fn a_comparison_is_due_after_its_time_and_sooner_when_the_last_one_did_not_see_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("verified.json");
        let week = Duration::from_secs(7 * 24 * 3600);
        let (now, hour) = (10_000_000_000, 3_600_000);
        let of = |last| Verifications { path: path.clone(), last, begun: None, is_running: false };
        assert!(of(None).is_due(week, now));
        for (at, end, is_due) in [
            (now - 7 * 24 * hour, VerifyEnd::Whole, true),
            (now - 6 * 24 * hour, VerifyEnd::Whole, false),
            (now - hour / 6, VerifyEnd::Early, true),
            (now - 1, VerifyEnd::Early, false),
            (now - hour, VerifyEnd::Failed { detail: String::new() }, true),
            (now - hour / 2, VerifyEnd::Failed { detail: String::new() }, false),
            // The clock was set back.
            (now + hour, VerifyEnd::Whole, true),
        ] {
            assert_eq!(of(Some(last(at, end.clone()))).is_due(week, now), is_due, "{at} {end:?}");
        }
        let mut kept = of(None);
        kept.begun = Some(Instant::now());
        assert!(!kept.is_due(week, now), "it has just begun");
        kept.ended(last(0, VerifyEnd::Whole).verified)();
        assert_eq!(Verifications::load(path.clone()).last, kept.last);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Verifications::load(path).last, None);
    }
}
