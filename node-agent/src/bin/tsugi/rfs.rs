//! Replicated directories: how they stand, what differs, comparing the two copies.

use crate::watched::{Of, done};
use crate::{Agent, OrderArgs, Stop, exit, order, show, to_json, words};
use clap::{Args, Subcommand};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::copies::{Difference, VerifyEnd};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::state::{LastVerification, Replication, Snapshot};
use tsugi_core::wire::local::{Reply, Request, RfsView};
use tsugi_web::{both, say};

#[derive(Debug, Args)]
pub struct RfsArgs {
    #[command(subcommand)]
    what: Rfs,
}

#[derive(Debug, Subcommand)]
enum Rfs {
    /// How replication stands: what a resynchronisation compares, what waits for the other node, how the last comparison
    /// of the copies ended.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Files that are not the same on the two nodes, as far as that is known, on the node that serves: while the other one is
    /// away, what changed since (some thousand at most); while both are level, what a comparison found and is not repaired
    /// yet. Exit code 1: there are any.
    Diff(Of),
    /// Compares the two copies while the application goes on, and waits for the end. On the node that serves. What differs
    /// is copied again from there. Exit code 1: something differs, or not everything could be compared.
    Verify(Of),
    /// What is in the directories of this stopped module was replaced on purpose (a new disk, a restored backup): take
    /// it, as an older copy. It serves only by `prim --accept-loss`, or once it has been brought level.
    Adopt(Of),
    /// Let others write to the directories of this stopped module until it is started: to fill them, to restore a backup. The
    /// other node's copy is then compared as a whole.
    Open(Of),
}

pub async fn rfs(agent: &Agent, args: RfsArgs) -> Result<u8, Stop> {
    let by = "root".to_owned();
    match args.what {
        Rfs::Status { json, of } => status(agent, of.module, json).await,
        Rfs::Diff(of) => diff(agent, of.module).await,
        Rfs::Verify(of) => {
            let (module, wait) = (of.module, u64::MAX);
            verify(agent, OrderArgs { module, wait, dry_run: false, no_wait: false, reason: None, by: None }).await
        }
        Rfs::Adopt(of) => done(agent, Request::Adopt { module: of.module, by }).await,
        Rfs::Open(of) => done(agent, Request::Open { module: of.module, by }).await,
    }
}

async fn view(agent: &Agent, module: ModuleName) -> Result<RfsView, Stop> {
    match agent.ask(&Request::Rfs { module }).await? {
        Reply::Rfs { view } => Ok(*view),
        other => Err(agent.unexpected(&other)),
    }
}

async fn status(agent: &Agent, module: ModuleName, json: bool) -> Result<u8, Stop> {
    let view = view(agent, module).await?;
    if json {
        println!("{}", to_json(&view, true)?);
    } else {
        print!("{}", show::rfs(agent.lang, &view));
    }
    Ok(0)
}

async fn diff(agent: &Agent, module: ModuleName) -> Result<u8, Stop> {
    let lang = agent.lang;
    let RfsView { snapshot, .. } = view(agent, module.clone()).await?;
    if !snapshot.state.is_serving() {
        let said = say::refusal(lang, &Refusal::NotServing, &module, &snapshot.node);
        return Err(Stop { text: show::refusal(lang, &said), code: exit::REFUSED });
    }
    match snapshot.replication {
        Replication::Synchronous if snapshot.verification.unrepaired > 0 => {
            print_differences(agent, snapshot.verification.last.iter().flat_map(|last| &last.verified.listed));
            return Ok(exit::REFUSED);
        }
        Replication::Synchronous => {
            eprintln!("{}", words::LEVEL.in_(lang));
            return Ok(0);
        }
        Replication::Resync => {
            eprintln!("{}", words::BEING_LEVELLED.in_(lang));
            return Ok(exit::REFUSED);
        }
        _ => {}
    }
    match agent.ask(&Request::Noted { module }).await? {
        Reply::Noted { paths: Some(paths) } => {
            paths.iter().for_each(|path| println!("{path}"));
            Ok(if paths.is_empty() { 0 } else { exit::REFUSED })
        }
        Reply::Noted { paths: None } => {
            eprintln!("{}", words::EVERYTHING_COMPARED.in_(lang));
            Ok(exit::REFUSED)
        }
        other => Err(agent.unexpected(&other)),
    }
}

fn print_differences<'a>(agent: &Agent, differences: impl IntoIterator<Item = &'a Difference>) {
    differences.into_iter().for_each(|d| println!("{}", say::difference(agent.lang, d)));
}

/// Begins one, and waits for its end as long as is said.
pub async fn verify(agent: &Agent, args: OrderArgs) -> Result<u8, Stop> {
    let (module, bound) = (args.module.clone(), Duration::from_secs(args.wait));
    let before = agent.state(Some(&module)).await?.swap_remove(0);
    order::run(agent, Verb::Verify, OrderArgs { no_wait: true, ..args }).await?;
    let mut client = agent.connect(&Request::Watch { module: Some(module.clone()) }).await?;
    let mut progress = order::Progress::new();
    let begun = Instant::now();
    loop {
        let snapshot: Snapshot = match timeout(bound.saturating_sub(begun.elapsed()), client.next()).await {
            Ok(Ok(Some(Reply::State { mut snapshots }))) => match snapshots.pop() {
                Some(snapshot) => snapshot,
                None => return Err(agent.no_module(&module)),
            },
            Ok(Ok(Some(other))) => return Err(agent.unexpected(&other)),
            Ok(Ok(None)) => return Err(agent.gone()),
            Ok(Err(error)) => return Err(agent.not_reachable(&error)),
            Err(_) => {
                progress.clear();
                let text = both!(
                    agent.lang,
                    "The comparison goes on. How far it is: tsugi rfs status -m {module}",
                    "照合は続いています。進み具合：tsugi rfs status -m {module}"
                );
                return Err(Stop { text, code: exit::NOT_REACHED });
            }
        };
        if let Some(last) = snapshot.verification.last.filter(|last| before.verification.last.as_ref() != Some(last)) {
            progress.clear();
            return Ok(ended(agent, (&module, &snapshot.node), &last));
        }
        if let Some(running) = &snapshot.verification.running {
            let compared = say::compared(agent.lang, running);
            progress.show(&both!(agent.lang, "comparing: {compared}", "照合中：{compared}"), begun);
        }
    }
}

fn ended(agent: &Agent, of: (&ModuleName, &NodeName), last: &LastVerification) -> u8 {
    let verified = &last.verified;
    let said = say::verified(agent.lang, of, &verified.done, verified.millis, &[], &verified.end);
    println!("{}", said.text);
    print_differences(agent, &verified.listed);
    if let Some(remedy) = said.remedy {
        println!("{remedy}");
    }
    if verified.end == VerifyEnd::Whole && verified.done.differences == 0 { 0 } else { exit::REFUSED }
}
