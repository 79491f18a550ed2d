//! Do enough processes of a kind run? Looks through `/proc`, and is woken by the kernel when one that was found ends.

use super::Surroundings;
use super::program::Program;
use super::report::{Reporter, Unheard};
use crate::procfs::{self, Process};
use futures_util::future::select_all;
use regex::Regex;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tsugi_core::state::Health;

/// Processes whose end is waited for, the oldest first: a server with hundreds of workers is no better watched by all.
const WATCHED_MAX: usize = 64;
/// Workers may come and go all the time: looks caused by ends are at least this far apart.
const LOOK_APART: Duration = Duration::from_millis(50);
/// What a handler did is looked at so soon; it is run again at the interval.
const AFTER_REPAIR: Duration = Duration::from_secs(1);
/// Bytes the kernel keeps of a command name.
const COMM_BYTES: usize = 15;

/// Which processes, and how many.
pub struct Wanted {
    /// What does not compile is kept as text and reported.
    matcher: Result<Matcher, String>,
    /// For people: `postgres`, `java with arguments like -Dx`.
    words: String,
    at_least: u32,
    at_most: Option<u32>,
}

struct Matcher {
    command: Option<String>,
    name: Option<Regex>,
    arguments: Option<Regex>,
}

impl Wanted {
    /// `command` is compared with the command name (15 bytes, like the kernel's), `name_regex` searched in it, and
    /// `arg_regex` in the whole command line. All that are given must fit.
    pub fn new(command: Option<&str>, name_regex: Option<&str>, arg_regex: Option<&str>, at_least: u32, at_most: Option<u32>) -> Wanted {
        let compile = |pattern: Option<&str>| {
            pattern.map(|p| Regex::new(p).map_err(|e| format!("the pattern `{p}` cannot be used: {e}"))).transpose()
        };
        let matcher = compile(name_regex).and_then(|name| {
            let command = command.map(|c| {
                c.chars()
                    .scan(0, |n, c| {
                        *n += c.len_utf8();
                        (*n <= COMM_BYTES).then_some(c)
                    })
                    .collect()
            });
            compile(arg_regex).map(|arguments| Matcher { command, name, arguments })
        });
        let mut words = command.or(name_regex).unwrap_or("any process").to_owned();
        if let Some(pattern) = arg_regex {
            words = format!("{words} with arguments like `{pattern}`");
        }
        Wanted { matcher, words, at_least, at_most }
    }

    fn judge(&self, count: usize) -> (Health, String) {
        if let Err(why) = &self.matcher {
            return (Health::Down, why.clone());
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let (is_few, is_many) = (count < self.at_least, self.at_most.is_some_and(|most| count > most));
        let expected = match (is_few, is_many) {
            (true, _) => format!(" (at least {} expected)", self.at_least),
            (_, true) => format!(" (at most {} expected)", self.at_most.unwrap_or_default()),
            _ => String::new(),
        };
        let health = if is_few || is_many { Health::Down } else { Health::Up };
        (health, format!("{count} running: {}{expected}", self.words))
    }

    /// Every process that fits, oldest first.
    fn find(&self) -> Vec<Process> {
        let Ok(matcher) = &self.matcher else { return Vec::new() };
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let mut found: Vec<Process> = procfs::all().into_iter().filter(|p| p.pid != own && !p.is_zombie && matcher.fits(p)).collect();
        found.sort_by_key(|p| p.start);
        found
    }
}

impl Matcher {
    fn fits(&self, process: &Process) -> bool {
        self.command.as_ref().is_none_or(|c| *c == process.comm)
            && self.name.as_ref().is_none_or(|r| r.is_match(&process.comm))
            && self.arguments.as_ref().is_none_or(|r| r.is_match(&procfs::command_line(process.pid)))
    }
}

/// The script that is run while a process is down, in place of an action of the module.
pub struct Repair {
    /// `handler.IDENT`: down when the script failed.
    resource: String,
    /// The script; arguments are the module and the resource.
    program: Program,
    /// When it last ended, while the process has been down.
    last: Option<Instant>,
}

impl Repair {
    /// Not run yet.
    pub fn new(resource: String, program: Program) -> Repair {
        Repair { resource, program, last: None }
    }

    /// To be called after each look: runs it when the process is down and it has not just been run. Gives the time to the
    /// next look, if that is to be soon.
    pub async fn tend(&mut self, reporter: &Reporter, around: &Surroundings) -> Result<Option<Duration>, Unheard> {
        if reporter.shown() != Some(Health::Down) {
            self.last = None;
            return Ok(None);
        }
        if self.last.is_none_or(|at| at.elapsed() >= reporter.interval()) {
            let result = self.program.test(around, around.handler_timeout).await;
            if let Err(why) = &result {
                tracing::warn!(resource = reporter.name, "the handler failed: {why}");
            }
            let (health, detail) = super::report::judged(result);
            reporter.tell(self.resource.clone(), health, detail).await?;
            self.last = Some(Instant::now());
        }
        Ok(Some(AFTER_REPAIR.min(reporter.interval())))
    }
}

/// Tests for ever.
pub async fn watch(mut reporter: Reporter, wanted: Wanted, around: &Surroundings, mut repair: Option<Repair>) {
    let wanted = Arc::new(wanted);
    loop {
        let looked = Instant::now();
        let (count, ends) = {
            let wanted = Arc::clone(&wanted);
            match tokio::task::spawn_blocking(move || look(&wanted)).await {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::error!(resource = reporter.name, %error, "looking for processes failed");
                    tokio::time::sleep(reporter.interval()).await;
                    continue;
                }
            }
        };
        let (health, detail) = wanted.judge(count);
        let Ok(wait) = reporter.report(health, detail).await else { return };
        let mut wait = wait;
        if let Some(repair) = &mut repair {
            match repair.tend(&reporter, around).await {
                Ok(soon) => wait = soon.unwrap_or(wait),
                Err(Unheard) => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(looked + wait) => {}
            () = any_end(ends) => tokio::time::sleep_until(looked + LOOK_APART).await,
        }
    }
}

/// How many there are, and something to wait on for those that were there.
fn look(wanted: &Wanted) -> (usize, Vec<OwnedFd>) {
    let found = wanted.find();
    let mut ends = Vec::new();
    let mut gone = 0;
    for process in found.iter().take(WATCHED_MAX) {
        match procfs::open_pidfd(process) {
            Ok(Some(fd)) => ends.push(fd),
            Ok(None) => gone += 1, // ended while we looked
            Err(error) => tracing::debug!(pid = process.pid, %error, "the end of a process cannot be waited for"),
        }
    }
    (found.len() - gone, ends)
}

/// Returns when one of them has ended; never, when there is nothing to wait for.
pub async fn any_end(ends: Vec<OwnedFd>) {
    let ends: Vec<AsyncFd<OwnedFd>> = ends
        .into_iter()
        .filter_map(|fd| {
            // SAFETY: an owned descriptor, which stays the same and open as long as the registration holds it.
            unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }.ok()
        })
        .collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    // Ready or broken, the next look tells.
    let _ = select_all(ends.iter().map(|end| Box::pin(end.readable()))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_the_kernel_keeps_them() {
        let process = |comm: &str| Process { pid: 1 << 30, ppid: 1, pgrp: 1, session: 1, comm: comm.into(), is_zombie: false, start: 0 };
        let fits = |wanted: &Wanted, comm| wanted.matcher.as_ref().unwrap().fits(&process(comm));
        let long = Wanted::new(Some("a-very-long-command-name"), None, None, 1, None);
        assert!(fits(&long, "a-very-long-com") && !fits(&long, "a-very-long"));
        let pattern = Wanted::new(None, Some("^pg(sql|bouncer)$"), None, 1, None);
        assert!(fits(&pattern, "pgbouncer") && !fits(&pattern, "pgbouncer2"));
    }

    #[test]
    fn counts_are_judged_against_both_limits() {
        let wanted = Wanted::new(Some("x"), None, None, 1, Some(2));
        assert_eq!(wanted.judge(0), (Health::Down, "0 running: x (at least 1 expected)".into()));
        assert_eq!(wanted.judge(2).0, Health::Up);
        assert_eq!(wanted.judge(3), (Health::Down, "3 running: x (at most 2 expected)".into()));
        let never = Wanted::new(Some("x"), None, None, 0, Some(0));
        assert_eq!((never.judge(0).0, never.judge(1).0), (Health::Up, Health::Down));
        let wrong = Wanted::new(None, Some("("), None, 1, None);
        assert!(matches!(wrong.judge(1), (Health::Down, why) if why.contains("`(`")));
    }
}
