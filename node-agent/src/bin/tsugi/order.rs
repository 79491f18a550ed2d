//! Giving an order and waiting until it has done what it should.
//!
//! An accepted order is not a done one: only a snapshot says that the module is where the order was to bring it.

use crate::{Agent, OrderArgs, Stop, exit, show};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tsugi_core::command::{Command, Verb};
use tsugi_core::ids::ModuleName;
use tsugi_core::state::{Readiness, Snapshot, State};
use tsugi_core::wire::local::{Reply, Request};
use tsugi_web::{both, say};

/// Default bound on the wait for the target state.
pub const WAIT_SECONDS: u64 = 120;
/// A module that is red for this long without a change needs a person: waiting longer shows nothing new.
const RED_MAX: Duration = Duration::from_secs(5);
/// While waiting: how often time is looked at when no snapshot comes.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Gives the order; with a wait, returns when it is done or can no longer be expected to be.
pub async fn run(agent: &Agent, verb: Verb, args: OrderArgs) -> Result<u8, Stop> {
    let before = agent.state(Some(&args.module)).await?.swap_remove(0);
    let (id, is_automatic) = (uuid::Uuid::new_v4().to_string(), args.by.is_some());
    let command = Command { id, verb: verb.clone(), by: args.by.unwrap_or_default(), reason: args.reason, is_automatic };
    if args.dry_run {
        return rehearse(agent, args.module, command, &before).await;
    }
    match agent.ask(&Request::Command { module: args.module.clone(), command }).await? {
        Reply::Command { refusal: None } => {}
        Reply::Command { refusal: Some(refusal) } => {
            let said = say::refusal(agent.lang, &refusal, &args.module, &before.node);
            return Err(Stop { text: show::refusal(agent.lang, &said), code: exit::REFUSED });
        }
        other => return Err(agent.unexpected(&other)),
    }
    if args.no_wait {
        return Ok(0);
    }
    wait(agent, &verb, &before, Duration::from_secs(args.wait)).await
}

/// What the order would do: a line per step.
async fn rehearse(agent: &Agent, module: ModuleName, command: Command, before: &Snapshot) -> Result<u8, Stop> {
    match agent.ask(&Request::Rehearse { module: module.clone(), command }).await? {
        Reply::Rehearsal { rehearsal } => {
            if let Some(refusal) = rehearsal.refusal {
                let said = say::refusal(agent.lang, &refusal, &module, &before.node);
                return Err(Stop { text: show::refusal(agent.lang, &said), code: exit::REFUSED });
            }
            for (number, step) in rehearsal.steps.iter().enumerate() {
                println!("{:>3}. {}", number + 1, say::rehearsed(agent.lang, step));
            }
            if rehearsal.steps.is_empty() {
                println!("{}", tsugi_web::text::REHEARSED_NOTHING.in_(agent.lang));
            }
            Ok(0)
        }
        other => Err(agent.unexpected(&other)),
    }
}

async fn wait(agent: &Agent, verb: &Verb, before: &Snapshot, bound: Duration) -> Result<u8, Stop> {
    let begin = Instant::now();
    let mut client = agent.connect(&Request::Watch { module: Some(before.module.clone()) }).await?;
    let mut progress = Progress::new();
    let mut last: Option<Snapshot> = None;
    let mut red_since: Option<Instant> = None;
    loop {
        let left = bound.saturating_sub(begin.elapsed());
        match timeout(left.min(LOOK_PERIOD), client.next()).await {
            Ok(Ok(Some(Reply::State { mut snapshots }))) => {
                let Some(snapshot) = snapshots.pop() else {
                    progress.clear();
                    return Err(agent.no_module(&before.module));
                };
                progress.show(&show::line(agent.lang, &snapshot), begin);
                if is_reached(verb, before, &snapshot) {
                    progress.clear();
                    println!("{}", show::line(agent.lang, &snapshot));
                    return Ok(0);
                }
                if last.as_ref().is_none_or(|l| (l.state, &l.reason) != (snapshot.state, &snapshot.reason)) {
                    red_since = None;
                }
                if snapshot.readiness == Readiness::NotReady {
                    red_since.get_or_insert_with(Instant::now);
                } else {
                    red_since = None;
                }
                last = Some(snapshot);
            }
            Ok(Ok(Some(other))) => return Err(agent.unexpected(&other)),
            Ok(Ok(None)) => return Err(agent.gone()),
            Ok(Err(error)) => return Err(agent.not_reachable(&error)),
            Err(_) => {}
        }
        let is_over = begin.elapsed() >= bound;
        if is_over || red_since.is_some_and(|since| since.elapsed() >= RED_MAX) {
            progress.clear();
            return Err(not_reached(agent, verb, before, last.as_ref(), begin.elapsed()));
        }
    }
}

/// Returns when the module is in one of `states` with nothing under way, or the time is over.
pub async fn wait_state(agent: &Agent, module: &ModuleName, states: &[State], bound: Duration) -> Result<u8, Stop> {
    let begin = Instant::now();
    let mut client = agent.connect(&Request::Watch { module: Some(module.clone()) }).await?;
    let mut last = None;
    loop {
        match timeout(bound.saturating_sub(begin.elapsed()), client.next()).await {
            Ok(Ok(Some(Reply::State { mut snapshots }))) => {
                let Some(snapshot) = snapshots.pop() else { return Err(agent.no_module(module)) };
                let line = show::line(agent.lang, &snapshot);
                if states.contains(&snapshot.state) && snapshot.readiness != Readiness::Transient {
                    println!("{line}");
                    return Ok(0);
                }
                last = Some(line);
            }
            Ok(Ok(Some(other))) => return Err(agent.unexpected(&other)),
            Ok(Ok(None)) => return Err(agent.gone()),
            Ok(Err(error)) => return Err(agent.not_reachable(&error)),
            Err(_) => {
                let (seconds, now) = (bound.as_secs(), last.unwrap_or_default());
                let text =
                    both!(agent.lang, "Not reached after {seconds} s. {now}", "{seconds} 秒たっても目的の状態になっていません。{now}");
                return Err(Stop { text, code: exit::NOT_REACHED });
            }
        }
    }
}

/// Whether the order has brought the module where it should. `before` is the state when the order was given: orders
/// that end where they began are done only after a change.
fn is_reached(verb: &Verb, before: &Snapshot, now: &Snapshot) -> bool {
    let is_ready = now.readiness == Readiness::Ready;
    let has_moved = now.since_unix_ms != before.since_unix_ms || now.state != before.state;
    match verb {
        Verb::Start => now.state != State::Stop && is_ready,
        Verb::Stop => now.state == State::Stop && now.readiness != Readiness::Transient,
        Verb::Restart => now.state.is_serving() && is_ready && has_moved,
        Verb::StopStart => now.state != State::Stop && is_ready && has_moved,
        Verb::Swap | Verb::Second { .. } => now.state == State::Second && is_ready,
        Verb::Prim { .. } | Verb::PrimForce => now.state.is_serving() && is_ready,
        Verb::Resolve { .. } => now.state != State::Stop && is_ready,
        Verb::Maintenance { .. } => true,
        // That it has begun: it may take hours.
        Verb::Verify => now.verification.running.is_some() || now.verification.last != before.verification.last,
    }
}

fn not_reached(agent: &Agent, verb: &Verb, before: &Snapshot, last: Option<&Snapshot>, waited: Duration) -> Stop {
    let (lang, word, seconds) = (agent.lang, verb.word(), waited.as_secs());
    let module = &before.module;
    let mut text = both!(
        lang,
        "The order was accepted, but {module} has not reached its target ({word}) after {seconds} s. It goes on by itself as far as it can.",
        "指示は受け付けられましたが、{seconds} 秒たっても {module} は目的の状態になっていません（{word}）。処理は可能な範囲で続きます。"
    );
    if let Some(last) = last {
        text.push('\n');
        text.push_str(show::state(lang, std::slice::from_ref(last), false, false).trim_end());
    }
    Stop { text, code: exit::NOT_REACHED }
}

/// One line on the terminal that is overwritten; nothing when the output goes elsewhere.
pub struct Progress {
    is_terminal: bool,
    is_shown: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { is_terminal: std::io::stderr().is_terminal(), is_shown: false }
    }
    pub fn show(&mut self, line: &str, begin: Instant) {
        if self.is_terminal {
            // Progress is for the eye: a terminal that has gone away must not end the wait.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line} … {} s", begin.elapsed().as_secs());
            let _ = std::io::stderr().flush();
            self.is_shown = true;
        }
    }
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
