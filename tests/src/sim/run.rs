//! Seeds, reports, replay.

use super::check::{Figures, Violation};
use super::turns::Turn;
use super::{Plan, Profile, World};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tsugi_core::engine::Mutant;

/// Events printed before a violation.
const EVENTS_PRINTED: usize = 60;

/// How a seed ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was seen.
    pub figures: Figures,
    /// Changes of state.
    pub turns: BTreeSet<Turn>,
    /// Fingerprint of everything that happened.
    pub hash: u64,
    /// The first rule broken.
    pub violation: Option<Violation>,
}

/// Runs a seed.
pub fn run(plan: Plan) -> Ended {
    let mut world = World::new(plan);
    world.run();
    Ended { figures: world.figures, turns: world.turns, hash: world.hash, violation: world.violation }
}

/// The report of a seed that failed: the rule, the last events of the module, and the command that repeats it.
pub fn report(plan: Plan, ended: &Ended) -> String {
    let Some(violation) = &ended.violation else { return String::new() };
    let mut world = World::new(Plan { is_traced: true, ..plan });
    world.run();
    let count = std::env::var("TSUGI_SIM_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(EVENTS_PRINTED);
    let mut lines = world.last_events(violation.module, count);
    lines.push(format!(
        "{} broken in module {} at {:.6} s: {}",
        violation.rule,
        violation.module,
        violation.at as f64 / 1e9,
        violation.detail
    ));
    if world.hash != ended.hash {
        lines.push("THE SECOND RUN OF THIS SEED WAS ANOTHER ONE: the simulator is not deterministic".into());
    }
    lines.push(format!("again: {}", command(plan)));
    lines.join("\n")
}

/// The command that repeats a run.
pub fn command(plan: Plan) -> String {
    let mut text = format!("./dev sim --seed {} --minutes {}", plan.seed, plan.minutes);
    if plan.profile != Profile::Normal {
        text += &format!(" --profile {}", profile_word(plan.profile));
    }
    if let Some(mutant) = plan.mutant {
        text += &format!(" --mutant {mutant:?}");
    }
    text
}

fn profile_word(profile: Profile) -> &'static str {
    match profile {
        Profile::Normal => "normal",
        Profile::Drift => "drift",
        Profile::Consent => "consent",
        Profile::Rollback => "rollback",
    }
}

/// What many seeds amount to.
#[derive(Debug)]
pub struct Summary {
    /// Sums.
    pub figures: Figures,
    /// Changes of state, all seeds together.
    pub turns: BTreeSet<Turn>,
    /// Seeds that failed, with how.
    pub failed: Vec<(Plan, Ended)>,
    /// Real time.
    pub took: Duration,
}

/// Runs `seeds` from `first` on, one on each core of the machine; ends after `failures_max` failures or when `time_max` is
/// spent. Failures in the order of their seeds.
pub fn many(
    first: u64,
    seeds: u64,
    minutes: u64,
    profile: Profile,
    mutant: Option<Mutant>,
    failures_max: usize,
    time_max: Duration,
) -> Summary {
    let begin = Instant::now();
    let (next, is_enough, end) = (AtomicU64::new(first), AtomicBool::new(false), first.saturating_add(seeds));
    let work = || {
        let mut part = Summary { figures: Figures::default(), turns: BTreeSet::new(), failed: Vec::new(), took: Duration::ZERO };
        while !is_enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let plan = Plan { seed, profile, minutes, mutant, is_traced: false };
            let mut ended = run(plan);
            part.figures.add(&ended.figures);
            part.turns.append(&mut ended.turns);
            if ended.violation.is_some() {
                part.failed.push((plan, ended));
            }
            if part.failed.len() >= failures_max || begin.elapsed() > time_max {
                is_enough.store(true, Ordering::Relaxed);
            }
        }
        part
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<Summary> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|w| w.join().expect("a simulator's thread")).collect()
    });
    let mut parts = parts.into_iter();
    let mut summary = parts.next().expect("at least one thread");
    for mut part in parts {
        summary.figures.join(&part.figures);
        summary.turns.append(&mut part.turns);
        summary.failed.append(&mut part.failed);
    }
    summary.failed.sort_by_key(|(plan, _)| plan.seed);
    summary.failed.truncate(failures_max.max(1));
    summary.took = begin.elapsed();
    summary
}

impl Summary {
    /// The figures in one line.
    pub fn line(&self) -> String {
        let f = &self.figures;
        let hours = f.virtual_ns as f64 / 3.6e12;
        let rate = f.virtual_ns as f64 / 1e9 / self.took.as_secs_f64().max(0.001);
        format!(
            "{} seeds, {hours:.1} virtual hours in {:.1} s ({rate:.0} x real time), {} events; {} take-overs, {} orders, {} crashes ({} of agents that went on), {} pauses, \
             {} cuts, {} other faults; {} resynchronisations, {} changes of the record, {} requests twice, {} by force; {} writes and {} fsyncs acknowledged; \
             {} times two addresses; slowest recovery {} s; {} wait for a person; violations {}",
            f.seeds,
            self.took.as_secs_f64(),
            f.events,
            f.takeovers,
            f.orders,
            f.crashes,
            f.went_on,
            f.pauses,
            f.cuts,
            f.other_faults,
            f.resyncs,
            f.record_changes,
            f.asked_twice,
            f.forced,
            f.acked_writes,
            f.acked_fsyncs,
            f.two_vips,
            f.heal_worst / 1_000_000_000,
            f.persons,
            self.failed.len()
        )
    }
}

/// `tsugi-lab sim`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimArgs {
    /// Virtual minutes with faults per seed.
    #[arg(long, default_value_t = 10)]
    pub minutes: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    pub seeds: u64,
    /// The first seed; alone it is the only one.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Kind of world.
    #[arg(long, value_enum, default_value = "normal")]
    pub profile: Profile,
    /// Leave a rule of the engine out (its name in `engine::Mutant`).
    #[arg(long)]
    pub mutant: Option<String>,
    /// Go on after this many failures.
    #[arg(long, default_value_t = 1)]
    pub failures: usize,
}

/// Rules that can be left out and must be missed here.
pub const MUTANTS: &[Mutant] = &[
    Mutant::AloneBeforeClaim,
    Mutant::NoQuarantine,
    Mutant::StopKeepsFlag,
    Mutant::UpToDateEarly,
    Mutant::VolatileAsUpToDate,
    Mutant::NoPromise,
    Mutant::PromiseWithIntent,
    Mutant::IntentInMemory,
];

/// Carries `tsugi-lab sim` out; the error is what failed.
pub fn main(args: &SimArgs) -> anyhow::Result<()> {
    let mutant = match &args.mutant {
        None => None,
        Some(name) => Some(
            *MUTANTS
                .iter()
                .find(|m| format!("{m:?}") == *name)
                .ok_or_else(|| anyhow::anyhow!("no rule is called {name}; there are {MUTANTS:?}"))?,
        ),
    };
    let (first, seeds) = args.seed.map_or((1, args.seeds), |seed| (seed, 1));
    let summary = many(first, seeds, args.minutes, args.profile, mutant, args.failures, Duration::MAX);
    for (plan, ended) in &summary.failed {
        println!("seed {}:\n{}\n", plan.seed, report(*plan, ended));
    }
    println!("{}", summary.line());
    anyhow::ensure!(summary.failed.is_empty(), "{} seeds failed", summary.failed.len());
    Ok(())
}
