//! `tsugi`: the command line of a node. It asks the agent of the same machine over its local socket.

mod files;
mod order;
mod rfs;
mod show;
mod watched;
mod words;

use clap::{Args, Parser, Subcommand};
use std::io::{ErrorKind, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tsugi_agent::config::{RUN_DIR, socket_in};
use tsugi_agent::local::Client;
use tsugi_core::command::Verb;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::state::{Snapshot, State};
use tsugi_core::wire::local::{Reply, Request};
use tsugi_web::both;
use tsugi_web::text::Lang;

/// The agent answers from memory; longer means that it hangs.
const REPLY_TIME_MAX: Duration = Duration::from_secs(10);

/// Exit codes but for `state -q`.
mod exit {
    pub const REFUSED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_REACHED: u8 = 3;
    pub const NO_AGENT: u8 = 4;
    /// `state -q`: 0 to 4 are states there.
    pub const QUIET_FAILED: u8 = 100;
}

/// Shows and orders the modules of this node.
///
/// Exit codes: 0 done; 1 refused; 2 wrong usage; 3 target state not reached in time; 4 agent not reachable.
#[derive(Debug, Parser)]
#[command(name = "tsugi", version, max_term_width = 110)]
struct Cli {
    /// Directory with the agent's socket.
    #[arg(long, env = "TSUGI_RUN", default_value = RUN_DIR, value_name = "DIR", global = true)]
    run: PathBuf,
    /// Language of the texts, en or ja; otherwise that of the environment.
    #[arg(long, global = true, value_name = "LANG", value_parser = words::lang_of)]
    lang: Option<Lang>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows the modules of this node: state, why it is not green, and what to do.
    State {
        /// Only this module.
        module: Option<ModuleName>,
        /// As `MODULE`, for scripts written elsewhere.
        #[arg(short = 'm', hide = true, conflicts_with = "module", value_name = "MODULE")]
        named: Option<ModuleName>,
        /// Accepted with `-q` (`-lq`) for scripts written elsewhere.
        #[arg(short = 'l', hide = true)]
        _l: bool,
        /// Also networks, checked resources, possible orders and the protocol's numbers.
        #[arg(short, long)]
        verbose: bool,
        /// For programs: an array of snapshots.
        #[arg(long, conflicts_with = "verbose")]
        json: bool,
        /// Says nothing; exit code STOP 0, WAIT 1, ALONE or UP 2, PRIM 3, SECOND 4, and 100 when not known.
        #[arg(short, long, conflicts_with_all = ["json", "verbose"])]
        quiet: bool,
    },
    /// Starts the module; the protocol chooses its role.
    Start(OrderArgs),
    /// Stops the module; a ready secondary takes over at once.
    Stop(OrderArgs),
    /// Stops and starts the application in place; the role is kept.
    Restart(OrderArgs),
    /// Exchanges the roles. On the node that serves.
    Swap(OrderArgs),
    /// Stops the module whole, then starts it.
    Stopstart(OrderArgs),
    /// Compares the two copies while the application goes on, on the node that serves; what differs is copied again.
    Verify(OrderArgs),
    /// Starts as primary although the protocol would not choose so.
    Prim {
        /// This node's copy may be older than the other's: what is only there is discarded.
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Starts as primary on a half-resynchronised copy. The data may be inconsistent.
    Primforce(OrderArgs),
    /// Starts as secondary.
    Second {
        /// Gives this node's copy up and takes the source's whole.
        #[arg(long)]
        full_sync: bool,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// After a split brain: the data of one node goes on, the other node gives its copy up. On both nodes.
    Resolve {
        /// The node whose data is kept.
        #[arg(long, value_name = "NODE")]
        keep: NodeName,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Switches automatic restart and failover of the module off, for a bounded time, or on again.
    Maintenance {
        /// Which module.
        module: ModuleName,
        /// `on` or `off`.
        #[arg(value_enum)]
        switch: Switch,
        /// How long at most, 1 to 1440 minutes.
        #[arg(long, value_name = "MINUTES", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Says what the order would do, and does nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Shows what happened on this node, oldest first.
    Events {
        /// Only this module.
        module: Option<ModuleName>,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
        count: u32,
        /// For programs: one event a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows each change of state as it happens, until interrupted.
    Watch {
        /// Only this module.
        module: Option<ModuleName>,
    },
    /// Waits until the module is in one of the states, and nothing is under way in it.
    WaitState {
        /// Which module.
        module: ModuleName,
        /// STOP, WAIT, ALONE, PRIM, SECOND or UP; several: any of them.
        #[arg(required = true, value_name = "STATE", value_parser = words::state_of)]
        states: Vec<State>,
        /// Longest wait; exit code 3 when it is over.
        #[arg(long, value_name = "SECONDS", default_value_t = order::WAIT_SECONDS)]
        seconds: u64,
    },
    /// Checks a userconfig.xml, without an agent: every problem with its place and remedy.
    Confcheck {
        /// The file.
        file: PathBuf,
    },
    /// Shows what the scripts of a module printed: the files, or the newest one of a script.
    Log {
        /// Which module.
        module: ModuleName,
        /// Which script, such as start_prim; without it the files are listed, the newest last.
        script: Option<String>,
    },
    /// Sets a resource of a custom checker. For checkers and scripts.
    Set(watched::SetArgs),
    /// Shows a resource: `up`, `down`, `init`, or `off` while it is not tested.
    Get(watched::GetArgs),
    /// Process monitoring: on and off (over restarts), or one class of processes until the module stops.
    Errd(watched::ErrdArgs),
    /// The other checkers: on and off (over restarts), or a list.
    Checker(watched::CheckerArgs),
    /// The count of automatic actions, for scripts that act by themselves: exit code 1 when the limit is reached.
    Loop(watched::LoopArgs),
    /// The replicated directories of a module.
    Rfs(rfs::RfsArgs),
    /// Shows the rules of a module, how their resources stand, and which of them fire.
    Rules(watched::RulesArgs),
    /// Shows who this node is and whether its console is connected.
    About,
    /// For scripts: puts a line into the module's events.
    Printi(PrintArgs),
    /// For scripts: puts a warning into the module's events.
    Printe(PrintArgs),
}

#[derive(Debug, Args)]
struct PrintArgs {
    /// Which module; in a script it is known.
    #[arg(short, long, env = "SAFEMODULE")]
    module: ModuleName,
    /// Name of the script; in a script it is known.
    #[arg(long, env = "TSUGI_SCRIPT")]
    script: Option<String>,
    /// The line.
    #[arg(required = true)]
    text: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
struct OrderArgs {
    /// Which module.
    module: ModuleName,
    /// Longest wait for the target state, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = order::WAIT_SECONDS, default_missing_value = "120", num_args = 0..=1, require_equals = true)]
    wait: u64,
    /// Says what the order would do if nothing fails, and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// Returns as soon as the order is accepted.
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// For checkers and scripts: NAME decided so, no person. A restart or stopstart then counts in maxloop.
    #[arg(short = 'i', long, value_name = "NAME")]
    by: Option<String>,
}

/// What ends the program early: a text for people, and the exit code.
#[derive(Debug)]
struct Stop {
    text: String,
    code: u8,
}

fn main() -> ExitCode {
    reset_sigpipe();
    let cli = Cli::parse();
    let lang = cli.lang.unwrap_or_else(words::lang_of_environment);
    let is_quiet = matches!(cli.what, What::State { quiet: true, .. });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tsugi: {error}");
            return ExitCode::from(exit::REFUSED);
        }
    };
    let code = match runtime.block_on(run(cli.what, lang, &Agent { socket: socket_in(&cli.run), lang })) {
        Ok(code) => code,
        // 0 to 4 are states there, so that a script cannot take "not known" for one.
        Err(stop) if is_quiet && stop.code != exit::USAGE => exit::QUIET_FAILED,
        Err(stop) => {
            eprintln!("{}", stop.text);
            stop.code
        }
    };
    ExitCode::from(code)
}

async fn run(what: What, lang: Lang, agent: &Agent) -> Result<u8, Stop> {
    let order = |verb, args| order::run(agent, verb, args);
    match what {
        What::State { module, named, verbose, json, quiet, .. } => {
            let module = module.or(named);
            if quiet && module.is_none() {
                let text = both!(
                    lang,
                    "`-q` needs the module: tsugi state -q MODULE",
                    "`-q` にはモジュールの指定が必要です: tsugi state -q MODULE"
                );
                return Err(Stop { text, code: exit::USAGE });
            }
            let snapshots = agent.state(module.as_ref()).await?;
            if quiet {
                return Ok(snapshots.first().map_or(exit::QUIET_FAILED, |s| quiet_code(s.state)));
            }
            if json {
                println!("{}", to_json(&snapshots, true)?);
            } else {
                print!("{}", show::state(lang, &snapshots, verbose, std::io::stdout().is_terminal()));
            }
        }
        What::Start(args) => return order(Verb::Start, args).await,
        What::Stop(args) => return order(Verb::Stop, args).await,
        What::Restart(args) => return order(Verb::Restart, args).await,
        What::Swap(args) => return order(Verb::Swap, args).await,
        What::Stopstart(args) => return order(Verb::StopStart, args).await,
        What::Verify(args) if args.dry_run || args.no_wait => return order(Verb::Verify, args).await,
        What::Verify(args) => return rfs::verify(agent, args).await,
        What::Prim { accept_loss, order: args } => return order(Verb::Prim { accept_loss }, args).await,
        What::Primforce(args) => return order(Verb::PrimForce, args).await,
        What::Second { full_sync, order: args } => return order(Verb::Second { full_sync }, args).await,
        What::Resolve { keep, order: args } => return order(Verb::Resolve { keep }, args).await,
        What::Maintenance { module, switch, minutes, reason, dry_run } => {
            let minutes = if switch == Switch::On { minutes } else { 0 };
            let args = OrderArgs { module, wait: 0, dry_run, no_wait: true, reason, by: None };
            return order(Verb::Maintenance { minutes }, args).await;
        }
        What::Events { module, count, json } => match agent.ask(&Request::Events { module, count }).await? {
            Reply::Events { events } if json => {
                for event in &events {
                    println!("{}", to_json(event, false)?);
                }
            }
            Reply::Events { events } => events.iter().for_each(|e| println!("{}", show::event(lang, e))),
            other => return Err(agent.unexpected(&other)),
        },
        What::Set(args) => return watched::set(agent, args).await,
        What::Get(args) => return watched::get(agent, args).await,
        What::Errd(args) => return watched::errd(agent, args).await,
        What::Checker(args) => return watched::checker(agent, args).await,
        What::Loop(args) => return watched::loops(agent, args).await,
        What::Rfs(args) => return rfs::rfs(agent, args).await,
        What::Rules(args) => return watched::rules(agent, args).await,
        What::WaitState { module, states, seconds } => {
            return order::wait_state(agent, &module, &states, Duration::from_secs(seconds)).await;
        }
        What::Confcheck { file } => return files::confcheck(lang, &file),
        What::Log { module, script } => return files::log(agent, module, script).await,
        What::Watch { module } => watch(agent, module).await?,
        What::Printi(args) => print(agent, args, false).await?,
        What::Printe(args) => print(agent, args, true).await?,
        What::About => match agent.ask(&Request::About).await? {
            Reply::About { node, version, console, is_console_connected, cluster } => {
                print!("{}", show::about(lang, &node, &version, console.as_deref(), is_console_connected, cluster.as_deref()));
            }
            other => return Err(agent.unexpected(&other)),
        },
    }
    Ok(0)
}

async fn print(agent: &Agent, args: PrintArgs, is_error: bool) -> Result<(), Stop> {
    let text = args.text.join(" ");
    match agent.ask(&Request::Print { module: args.module.clone(), script: args.script, text, is_error }).await? {
        Reply::Command { refusal: None } => Ok(()),
        Reply::Command { .. } => Err(agent.no_module(&args.module)),
        other => Err(agent.unexpected(&other)),
    }
}

/// Prints a line for each module whose appearance changed.
async fn watch(agent: &Agent, module: Option<ModuleName>) -> Result<(), Stop> {
    let mut client = agent.connect(&Request::Watch { module }).await?;
    let mut shown = std::collections::BTreeMap::new();
    loop {
        match client.next().await.map_err(|e| agent.not_reachable(&e))? {
            Some(Reply::State { snapshots }) => {
                for snapshot in &snapshots {
                    let line = show::line(agent.lang, snapshot);
                    if shown.insert(snapshot.module.clone(), line.clone()).as_ref() != Some(&line) {
                        println!("{} {line}", show::now());
                    }
                }
            }
            Some(other) => return Err(agent.unexpected(&other)),
            None => return Err(agent.gone()),
        }
    }
}

fn quiet_code(state: State) -> u8 {
    match state {
        State::Stop => 0,
        State::Wait => 1,
        State::Alone | State::Up => 2,
        State::Prim => 3,
        State::Second => 4,
    }
}

fn to_json<T: serde::Serialize>(value: &T, is_pretty: bool) -> Result<String, Stop> {
    let text = if is_pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|e| Stop { text: e.to_string(), code: exit::REFUSED })
}

/// A closed pipe (`tsugi events | head`) ends the program as it ends every other.
fn reset_sigpipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// The agent of this node.
struct Agent {
    socket: PathBuf,
    lang: Lang,
}

impl Agent {
    async fn connect(&self, request: &Request) -> Result<Client, Stop> {
        Client::ask(&self.socket, request).await.map_err(|e| self.not_reachable(&e))
    }

    /// One request, one reply. A reply in words ends the program.
    async fn ask(&self, request: &Request) -> Result<Reply, Stop> {
        let exchange = async { self.connect(request).await?.next().await.map_err(|e| self.not_reachable(&e)) };
        match tokio::time::timeout(REPLY_TIME_MAX, exchange).await {
            Ok(Ok(Some(Reply::Error { message }))) => Err(Stop { text: message, code: exit::REFUSED }),
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Ok(None)) => Err(self.gone()),
            Ok(Err(stop)) => Err(stop),
            Err(_) => Err(self.not_reachable(&ErrorKind::TimedOut.into())),
        }
    }

    /// Snapshots; a module asked for by name must exist.
    async fn state(&self, module: Option<&ModuleName>) -> Result<Vec<Snapshot>, Stop> {
        match self.ask(&Request::State { module: module.cloned() }).await? {
            Reply::State { snapshots } => match module {
                Some(module) if snapshots.is_empty() => Err(self.no_module(module)),
                _ => Ok(snapshots),
            },
            other => Err(self.unexpected(&other)),
        }
    }

    fn no_module(&self, module: &ModuleName) -> Stop {
        let text = both!(
            self.lang,
            "{module} is not configured on this node. Remedy: `tsugi state` lists what is; apply the module from the console.",
            "{module} はこのノードに設定されていません。`tsugi state` で一覧を確認するか、コンソールからモジュールを適用してください。"
        );
        Stop { text, code: exit::REFUSED }
    }

    fn not_reachable(&self, error: &std::io::Error) -> Stop {
        let (lang, socket) = (self.lang, self.socket.display());
        let text = match error.kind() {
            ErrorKind::PermissionDenied => both!(
                lang,
                "You may not use the agent ({socket}: permission denied). Remedy: run as root, or add the user to group tsugi: usermod -aG tsugi USER",
                "エージェントを使う権限がありません（{socket}）。root で実行するか、ユーザーを tsugi グループに追加してください: usermod -aG tsugi USER"
            ),
            ErrorKind::TimedOut => both!(
                lang,
                "The agent of this node does not answer ({socket}). Remedy: journalctl -u tsugi-agent, then systemctl restart tsugi-agent",
                "このノードのエージェントが応答しません（{socket}）。journalctl -u tsugi-agent を確認し、systemctl restart tsugi-agent を実行してください。"
            ),
            _ => both!(
                lang,
                "The agent of this node does not run ({socket}: {error}). Remedy: systemctl start tsugi-agent",
                "このノードのエージェントが動いていません（{socket}: {error}）。systemctl start tsugi-agent を実行してください。"
            ),
        };
        Stop { text, code: exit::NO_AGENT }
    }

    fn gone(&self) -> Stop {
        self.not_reachable(&ErrorKind::ConnectionReset.into())
    }

    fn unexpected(&self, reply: &Reply) -> Stop {
        let text = match reply {
            Reply::Error { message } => message.clone(),
            _ => both!(
                self.lang,
                "The agent's answer is not understood. Remedy: install the same version of tsugi and tsugi-agent.",
                "エージェントの応答を解釈できません。tsugi と tsugi-agent を同じ版にしてください。"
            ),
        };
        Stop { text, code: exit::REFUSED }
    }
}
