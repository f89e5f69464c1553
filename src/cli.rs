//! The command line: what the program is asked to do, and the exit code it leaves with. Must not hold any rule about messages.

mod admin;
mod demo;
mod remote;
mod run;
mod tail;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config;
use crate::telemetry::logging::{LogFormat, LogSettings};

/// Something failed while running.
const EXIT_FAILURE: u8 = 1;
/// The configuration cannot be used (`EX_CONFIG` of sysexits.h). clap itself exits with 2 on a usage error.
const EXIT_CONFIG: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  holdfast demo                                 try it: a chat in the browser, nothing else installed
  holdfast check config/holdfast.yaml           name every problem of a configuration
  holdfast config diff old.yaml new.yaml        what would change
  holdfast run --config config/holdfast.yaml    serve
  holdfast connections                          who is connected, of a running one
  holdfast push --group room:1 hello            send, by the admin API
  holdfast tail --user ann                      live messages, and what becomes of them
  kill -HUP PID                                 reload the configuration; no socket notices
  kill -TERM PID                                drain: close connections at a pace, finish what is in flight, exit

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 the configuration cannot be used.";

/// A sidecar that owns WebSocket connections so that the application beside it can stay stateless.
#[derive(Parser)]
#[command(name = "holdfast", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the connections of a configuration
    #[command(after_help = "Example:\n  holdfast run --config config/holdfast.yaml")]
    Run {
        /// The configuration file (YAML)
        #[arg(long, short, env = "HOLDFAST_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Name every problem of a configuration; runs the same code as start-up
    #[command(after_help = "Example:\n  holdfast check config/holdfast.yaml")]
    Check {
        /// The configuration file (YAML)
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Compare configurations
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the JSON Schema of the configuration, for editors
    #[command(after_help = "Example:\n  holdfast schema > holdfast.schema.json")]
    Schema,
    /// Try it: Holdfast, a small chat application and its page, with nothing else installed
    #[command(after_help = "Examples:\n  holdfast demo\n  holdfast demo --check")]
    Demo(demo::DemoArguments),
    #[command(flatten)]
    Remote(remote::RemoteCommand),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  holdfast completions bash > /usr/share/bash-completion/completions/holdfast")]
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    #[command(after_help = "Example:\n  holdfast man | man -l -")]
    Man,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what would route, check or limit otherwise; both must be valid
    #[command(
        after_help = "Examples:\n  holdfast config diff running.yaml new.yaml\n  holdfast config diff --json a.yaml b.yaml\n\n\
                      Exit codes: 0 they mean the same, 1 they differ, 78 one of them cannot be used."
    )]
    Diff {
        /// The old configuration file
        #[arg(value_name = "A")]
        old: PathBuf,
        /// The new one
        #[arg(value_name = "B")]
        new: PathBuf,
        /// The changes as JSON, as GET /v1/config gives them under `last_diff`
        #[arg(long)]
        json: bool,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Start(#[from] crate::app::StartError),
    #[error("log: {0}")]
    Log(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Admin(String),
    #[error("demo: {0}")]
    Demo(String),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config: Some(path) } => run::run(path),
        Command::Run { config: None } => {
            eprintln!("holdfast run needs a configuration: `holdfast run --config FILE` (try `holdfast demo` first)");
            return ExitCode::from(2);
        }
        Command::Check { config } => return check(&config),
        Command::Config(ConfigCommand::Diff { old, new, json }) => return diff(&old, &new, json),
        Command::Schema => return print_schema(),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Remote(command) => remote_command(command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => manual(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("holdfast: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn remote_command(command: remote::RemoteCommand) -> Result<ExitCode, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(remote::run(command))
}

/// The page of the program, and behind it those of its commands.
fn manual() -> Result<ExitCode, CliError> {
    let mut command = Cli::command();
    // So that a command's page is named after the whole of it.
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
        clap_mangen::Man::new(part.clone()).render(&mut page)?;
    }
    std::io::Write::write_all(&mut std::io::stdout(), &page)?;
    Ok(ExitCode::SUCCESS)
}

fn check(path: &std::path::Path) -> ExitCode {
    match config::load(path) {
        Ok(loaded) => {
            let (endpoints, upstreams) = (loaded.draft.endpoints.len(), loaded.draft.upstreams.len());
            println!("{}: ok ({endpoints} endpoints, {upstreams} upstreams)", path.display());
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}

fn diff(old: &std::path::Path, new: &std::path::Path, json: bool) -> ExitCode {
    let (old, new) = match (config::load(old), config::load(new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(problems), _) | (_, Err(problems)) => return refuse(&problems),
    };
    let changes = config::diff(&old.outline, &new.outline);
    match json {
        // A JSON value always prints.
        true => println!("{}", serde_json::to_string_pretty(&changes).unwrap_or_default()),
        false => changes.iter().for_each(|change| println!("{change}")),
    }
    if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) }
}

fn print_schema() -> ExitCode {
    // A JSON value always prints.
    println!("{}", serde_json::to_string_pretty(&config::json_schema()).unwrap_or_default());
    ExitCode::SUCCESS
}

fn refuse(problems: &config::Problems) -> ExitCode {
    let lines = problems.lines();
    lines.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("{} problem{}", lines.len(), if lines.len() == 1 { "" } else { "s" });
    ExitCode::from(EXIT_CONFIG)
}

/// The log of commands that read no configuration.
fn default_log(level: &str) -> LogSettings {
    LogSettings { level: level.to_owned(), format: LogFormat::Text }
}

#[cfg(test)]
mod tests;
