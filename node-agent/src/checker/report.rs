//! From results to health: a checker believes what it has seen often enough, and tells only changes.

use super::CheckerEvent;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;
use tsugi_core::module::{Check, Probe};
use tsugi_core::state::Health;

/// Shortest interval between two tests: a typing error in a configuration must not become a busy loop.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Shortest time to a test that confirms.
const RETRY_MIN: Duration = Duration::from_millis(10);

/// Nobody listens any more.
pub struct Unheard;

/// Passes on what is new.
pub struct Reporter {
    /// Resource.
    pub name: String,
    tx: mpsc::Sender<CheckerEvent>,
    run: u64,
    rise: u32,
    fall: u32,
    /// Of the very first results.
    first_fall: u32,
    interval: Duration,
    retry: Duration,
    shown: Option<Health>,
    /// Results in a row that contradict what is shown.
    against: u32,
}

impl Reporter {
    /// For a check that has just begun; `run` is the number of this beginning.
    pub fn new(check: &Check, run: u64, tx: mpsc::Sender<CheckerEvent>) -> Reporter {
        Reporter {
            name: check.name.clone(),
            tx,
            run,
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            // A process that is not there yet is none that has ended: a start script may return a moment too early.
            first_fall: check.fall.max(if matches!(check.probe, Probe::Proc { .. } | Probe::Service { .. }) { 2 } else { 1 }),
            interval: check.interval.max(INTERVAL_MIN),
            retry: check.retry.max(RETRY_MIN),
            shown: None,
            against: 0,
        }
    }

    /// What is shown now.
    pub fn shown(&self) -> Option<Health> {
        self.shown
    }
    /// Time between two tests when nothing is in doubt.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// A result. Gives the time to the next test.
    pub async fn report(&mut self, health: Health, detail: String) -> Result<Duration, Unheard> {
        if self.shown == Some(health) {
            self.against = 0;
            return Ok(self.interval);
        }
        self.against += 1;
        // Where nothing is shown yet, a good result counts at once: a start must not wait for a second one.
        let needed = match (health, self.shown) {
            (Health::Down, None) => self.first_fall,
            (Health::Down, _) => self.fall,
            (_, None) => 1,
            _ => self.rise,
        };
        if self.against < needed {
            tracing::debug!(resource = self.name, against = self.against, needed, "{detail}: to be confirmed");
            return Ok(self.retry.min(self.interval));
        }
        self.against = 0;
        self.shown = Some(health);
        self.tell(self.name.clone(), health, detail).await?;
        Ok(self.interval)
    }

    /// Tells something of another resource that this check knows of.
    pub async fn tell(&self, name: String, health: Health, detail: String) -> Result<(), Unheard> {
        let event = CheckerEvent { name, health, detail, run: self.run };
        self.tx.send(event).await.map_err(|_| Unheard)
    }
}

/// Tests for ever. A test that gives nothing says nothing, and the next one decides.
pub async fn poll<F: Future<Output = Option<(Health, String)>>>(mut reporter: Reporter, mut test: impl FnMut() -> F) {
    loop {
        let wait = match test().await {
            Some((health, detail)) => reporter.report(health, detail).await,
            None => Ok(reporter.interval()),
        };
        let Ok(wait) = wait else { return };
        tokio::time::sleep(wait).await;
    }
}

/// `Up` for a sentence about what is right, `Down` for one about what is not.
pub fn judged(result: Result<String, String>) -> (Health, String) {
    match result {
        Ok(detail) => (Health::Up, detail),
        Err(detail) => (Health::Down, detail),
    }
}
