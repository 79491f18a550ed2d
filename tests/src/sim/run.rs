//! Seeds, reports, replay.

use super::check::{Figures, Violation};
use super::{Plan, Profile, World};
use std::time::{Duration, Instant};
use tsugi_core::engine::Mutant;

/// Events printed before a violation.
const EVENTS_PRINTED: usize = 60;

/// How a seed ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was seen.
    pub figures: Figures,
    /// Fingerprint of everything that happened.
    pub hash: u64,
    /// The first rule broken.
    pub violation: Option<Violation>,
}

/// Runs a seed.
pub fn run(plan: Plan) -> Ended {
    let mut world = World::new(plan);
    world.run();
    Ended { figures: world.figures, hash: world.hash, violation: world.violation }
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
    /// Seeds that failed, with how.
    pub failed: Vec<(Plan, Ended)>,
    /// Real time.
    pub took: Duration,
}

/// Runs `seeds` from `first` on; ends after `failures_max` failures or when `time_max` is spent.
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
    let mut summary = Summary { figures: Figures::default(), failed: Vec::new(), took: Duration::ZERO };
    for seed in first..first.saturating_add(seeds) {
        let plan = Plan { seed, profile, minutes, mutant, is_traced: false };
        let ended = run(plan);
        summary.figures.add(&ended.figures);
        if ended.violation.is_some() {
            summary.failed.push((plan, ended));
            if summary.failed.len() >= failures_max {
                break;
            }
        }
        if begin.elapsed() > time_max {
            break;
        }
    }
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
            "{} seeds, {hours:.1} virtual hours in {:.1} s ({rate:.0} x real time), {} events; {} take-overs, {} orders, {} crashes, {} pauses, \
             {} cuts, {} other faults; {} resynchronisations, {} changes of the record, {} by force; {} writes and {} fsyncs acknowledged; \
             {} times two addresses; slowest recovery {} s; {} wait for a person; violations {}",
            f.seeds,
            self.took.as_secs_f64(),
            f.events,
            f.takeovers,
            f.orders,
            f.crashes,
            f.pauses,
            f.cuts,
            f.other_faults,
            f.resyncs,
            f.record_changes,
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
