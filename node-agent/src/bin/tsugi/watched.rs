//! What is watched and what follows: resources, monitoring of processes, checkers, rules.

use crate::{Agent, Stop, exit, show, to_json, words};
use clap::{Args, Subcommand, ValueEnum};
use tsugi_core::command::LoopChange;
use tsugi_core::ids::ModuleName;
use tsugi_core::state::Health;
use tsugi_core::wire::local::{Reply, Request};
use tsugi_web::text::Text;

/// Which module: scripts and checkers know theirs.
#[derive(Debug, Args)]
pub struct Of {
    /// Which module; in scripts and checkers their own.
    #[arg(short = 'm', long = "module", env = "TSUGI_MODULE", value_name = "MODULE")]
    pub module: ModuleName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Value {
    Up,
    Down,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Resource: custom.IDENT.
    #[arg(short, long, value_name = "RESOURCE")]
    resource: String,
    /// Its state.
    #[arg(short, long)]
    value: Value,
    /// Who found it out, for the record.
    #[arg(short = 'i', long = "by", value_name = "NAME")]
    by: Option<String>,
    /// Accepted for scripts written elsewhere; nothing else is done.
    #[arg(short = 'n', hide = true)]
    _n: bool,
    /// As `-n`.
    #[arg(short = 'l', hide = true)]
    _l: bool,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// Resource, such as tcp.web.
    #[arg(short, long, value_name = "RESOURCE")]
    resource: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct ErrdArgs {
    #[command(subcommand)]
    what: Errd,
}

#[derive(Debug, Subcommand)]
enum Errd {
    /// Watch processes again.
    On(Of),
    /// Watch no process, whatever ends. Holds over restarts.
    Off(Of),
    /// Watch the processes of a class.
    Enable {
        /// As in the configuration: proc class="…".
        class: String,
        #[command(flatten)]
        of: Of,
    },
    /// Do not watch the processes of a class until the module stops.
    Disable {
        /// As in the configuration: proc class="…".
        class: String,
        #[command(flatten)]
        of: Of,
    },
    /// Shows the watched processes.
    List(Of),
}

#[derive(Debug, Args)]
pub struct CheckerArgs {
    #[command(subcommand)]
    what: Checker,
}

#[derive(Debug, Subcommand)]
enum Checker {
    /// Run the checkers again.
    On(Of),
    /// Run no checker, whatever fails. Holds over restarts.
    Off(Of),
    /// Shows the checkers.
    List(Of),
}

#[derive(Debug, Args)]
pub struct LoopArgs {
    #[command(subcommand)]
    what: Loop,
}

#[derive(Debug, Subcommand)]
enum Loop {
    /// Counts one more action, as a rule's or a checker's. Exit code 1: that was one too many.
    Inc(LoopOf),
    /// Begins the count afresh.
    Reset(LoopOf),
    /// Shows the count. Exit code 1: the limit is reached.
    Check(LoopOf),
}

#[derive(Debug, Args)]
struct LoopOf {
    /// Accepted for scripts written elsewhere; nothing else is done.
    #[arg(short = 'i', hide = true, value_name = "NAME")]
    _by: Option<String>,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct RulesArgs {
    /// For programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
}

pub async fn done(agent: &Agent, request: Request) -> Result<u8, Stop> {
    match agent.ask(&request).await? {
        Reply::Done => Ok(0),
        other => Err(agent.unexpected(&other)),
    }
}

pub async fn set(agent: &Agent, args: SetArgs) -> Result<u8, Stop> {
    let value = match args.value {
        Value::Up => Health::Up,
        Value::Down => Health::Down,
    };
    done(agent, Request::Set { module: args.of.module, resource: args.resource, value, by: args.by }).await
}

pub async fn get(agent: &Agent, args: GetArgs) -> Result<u8, Stop> {
    let Reply::Watched { checks, .. } = agent.ask(&Request::Watched { module: args.of.module }).await? else {
        return Err(agent.unexpected(&Reply::Done));
    };
    match checks.iter().find(|c| c.name == args.resource) {
        Some(check) => {
            println!("{}", word(check.health));
            Ok(0)
        }
        None => {
            let known: Vec<&str> = checks.iter().map(|c| c.name.as_str()).collect();
            let text = format!("{} {}: {}", words::NO_RESOURCE.in_(agent.lang), args.resource, known.join(" "));
            Err(Stop { text, code: exit::REFUSED })
        }
    }
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Init => "init",
        Health::Up => "up",
        Health::Down => "down",
        Health::Off => "off",
    }
}

pub async fn errd(agent: &Agent, args: ErrdArgs) -> Result<u8, Stop> {
    let (of, class, is_on) = match args.what {
        Errd::On(of) => (of, None, true),
        Errd::Off(of) => (of, None, false),
        Errd::Enable { class, of } => (of, Some(class), true),
        Errd::Disable { class, of } => (of, Some(class), false),
        Errd::List(of) => return list(agent, of, true).await,
    };
    done(agent, Request::Errd { module: of.module, class, is_on }).await
}

pub async fn checker(agent: &Agent, args: CheckerArgs) -> Result<u8, Stop> {
    let (of, is_on) = match args.what {
        Checker::On(of) => (of, true),
        Checker::Off(of) => (of, false),
        Checker::List(of) => return list(agent, of, false).await,
    };
    done(agent, Request::Checkers { module: of.module, is_on }).await
}

async fn list(agent: &Agent, of: Of, is_errd: bool) -> Result<u8, Stop> {
    let Reply::Watched { is_errd_on, is_checker_on, classes, checks } = agent.ask(&Request::Watched { module: of.module }).await? else {
        return Err(agent.unexpected(&Reply::Done));
    };
    let is_on = if is_errd { is_errd_on } else { is_checker_on };
    let switch: Text = if is_on { words::SWITCHED_ON } else { words::SWITCHED_OFF };
    println!("{}", switch.in_(agent.lang));
    for check in checks.iter().filter(|c| c.class.is_some() == is_errd) {
        let class = check.class.as_ref().map(|class| {
            let switched = classes.get(class).map_or("", |on| if *on { " enabled" } else { " disabled" });
            format!(" [{class}{switched}]")
        });
        println!("{}", show::checked(agent.lang, check.health, &check.name, &check.detail, &class.unwrap_or_default()));
    }
    Ok(0)
}

pub async fn loops(agent: &Agent, args: LoopArgs) -> Result<u8, Stop> {
    let (of, change) = match args.what {
        Loop::Inc(of) => (of, Some(LoopChange::Add)),
        Loop::Reset(of) => (of, Some(LoopChange::Forget)),
        Loop::Check(of) => (of, None),
    };
    match agent.ask(&Request::Loops { module: of.of.module, change }).await? {
        Reply::Loops { count, max } => {
            println!("{count}/{max}");
            Ok(if count > max { exit::REFUSED } else { 0 })
        }
        other => Err(agent.unexpected(&other)),
    }
}

pub async fn rules(agent: &Agent, args: RulesArgs) -> Result<u8, Stop> {
    let Reply::Rules { handle_time_ms, rules } = agent.ask(&Request::Rules { module: args.of.module }).await? else {
        return Err(agent.unexpected(&Reply::Done));
    };
    if args.json {
        println!("{}", to_json(&rules, true)?);
        return Ok(0);
    }
    for rule in &rules {
        let mark = if rule.is_firing { "▲" } else { "·" };
        println!("{mark} {}", rule.text);
        let states: Vec<String> = rule.resources.iter().map(|(name, value)| format!("{name} {}", value.word())).collect();
        let source = if rule.rule.is_generated { words::GENERATED } else { words::WRITTEN };
        let wait = if rule.rule.is_hard { 0 } else { handle_time_ms };
        println!(
            "    {}; {} {}.{:03} s; {}",
            states.join(", "),
            words::AFTER.in_(agent.lang),
            wait / 1000,
            wait % 1000,
            source.in_(agent.lang)
        );
    }
    println!("· {}", words::WAKEUP.in_(agent.lang));
    Ok(0)
}
