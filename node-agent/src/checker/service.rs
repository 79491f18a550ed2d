//! Is a systemd unit active? Asks `systemctl`, and is woken by the kernel when the unit's main process ends.

use super::Surroundings;
use super::process::{Repair, any_end};
use super::program::Program;
use super::report::Reporter;
use crate::procfs;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::time::Instant;
use tsugi_core::state::Health;

/// systemd answers in milliseconds; a machine under load may need longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A unit that is on its way is looked at again so soon.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// A unit whose process ended may be started again by systemd itself: looks are at least this far apart.
const LOOK_APART: Duration = Duration::from_millis(50);

/// What `systemctl show` says.
struct Seen {
    /// `None`: on its way up or down.
    health: Option<Health>,
    detail: String,
    main: Option<OwnedFd>,
}

/// Tests for ever.
pub async fn watch(mut reporter: Reporter, unit: String, around: &Surroundings, mut repair: Option<Repair>) {
    let args = ["show", "--property=ActiveState,SubState,MainPID", "--", &unit].map(str::to_owned).to_vec();
    let systemctl = Program { exec: around.systemctl.to_string_lossy().into_owned(), args, stands_for: None };
    loop {
        let looked = Instant::now();
        let mut wait = reporter.interval();
        let mut ends = Vec::new();
        match look(&systemctl, &unit, around).await {
            Ok(Seen { health: Some(health), detail, main }) => {
                ends.extend(main);
                wait = match reporter.report(health, detail).await {
                    Ok(wait) => wait,
                    Err(_) => return,
                };
                if let Some(repair) = &mut repair {
                    match repair.tend(&reporter, around).await {
                        Ok(soon) => wait = soon.unwrap_or(wait),
                        Err(_) => return,
                    }
                }
            }
            Ok(Seen { health: None, .. }) => wait = wait.min(ON_ITS_WAY),
            // Not knowing is not "down": what was known stays, and the next look decides.
            Err(why) => tracing::warn!(resource = reporter.name, "{why}"),
        }
        tokio::select! {
            () = tokio::time::sleep_until(looked + wait) => {}
            () = any_end(ends) => tokio::time::sleep_until(looked + LOOK_APART).await,
        }
    }
}

async fn look(systemctl: &Program, unit: &str, around: &Surroundings) -> Result<Seen, String> {
    let (code, text) = systemctl.output(around, ANSWER_MAX).await?;
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().trim();
    let (state, sub) = (value("ActiveState"), value("SubState"));
    if code != Some(0) || state.is_empty() {
        let said = text.lines().last().unwrap_or_default();
        return Err(format!("systemctl does not say how {unit} is ({said}): does systemd run here?"));
    }
    let health = match state {
        "active" | "reloading" | "refreshing" => Some(Health::Up),
        "activating" => None,
        _ => Some(Health::Down),
    };
    let main = value("MainPID").parse::<i32>().ok().filter(|pid| *pid > 0).and_then(procfs::read);
    let main = main.and_then(|process| procfs::open_pidfd(&process).ok().flatten());
    Ok(Seen { health, detail: format!("{unit} is {state} ({sub})"), main })
}
