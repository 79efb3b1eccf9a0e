//! The command line: one file for each command that is more than a few lines.

mod check;
mod demo;
mod log;
mod passwd;
mod run;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// A command failed.
const FAILED: u8 = 1;

/// The configuration is wrong (`EX_CONFIG` of sysexits.h).
const BAD_CONFIG: u8 = 78;

/// What `--help` says about exit codes and the configuration's place.
const AFTER_HELP: &str = "\
The configuration is the file of --config, else ./config.yaml, else /etc/pinhook/config.yaml.
Exit codes: 0 all is well, 1 it failed, 2 wrong usage, 78 the configuration is wrong.";

/// MQTT bridge daemon: a pin write becomes an HTTP request, and the response comes back to the device.
#[derive(Debug, Parser)]
#[command(name = "pinhook", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (also without a command)
    Run,
    /// Check the configuration and say everything that is wrong with it
    Check {
        /// The configuration, instead of --config
        file: Option<PathBuf>,
        /// Print the problems as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a new random token for a device
    Token,
    /// Read a password and print its hash for `users.NAME.password`
    Passwd,
    /// Show the ring turning, with a service and a device inside this process
    Demo,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let Arguments { command, config } = Arguments::parse();
    let command = command.unwrap_or(Command::Run);
    if let (Some(_), Command::Token | Command::Passwd | Command::Demo) = (&config, &command) {
        let wrong = "--config says nothing to this command: it reads no configuration";
        Arguments::command()
            .error(clap::error::ErrorKind::ArgumentConflict, wrong)
            .exit();
    }
    match command {
        Command::Run => run::run(config.as_deref()),
        Command::Check { file, json } => check::check(file.or(config).as_deref(), json),
        Command::Token => {
            print_line(new_token());
            ExitCode::SUCCESS
        }
        Command::Passwd => passwd::passwd(),
        Command::Demo => demo::demo(),
    }
}

/// A token of 32 characters, 190 bits of chance.
fn new_token() -> String {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const LENGTH: usize = 32;
    let draw = |_| char::from(CHARACTERS[rand::random_range(0..CHARACTERS.len())]);
    (0..LENGTH).map(draw).collect()
}

/// `1 device`, `2 devices`.
fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Prints a line, if anybody still reads them.
fn print_line(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Says on standard error what went wrong.
fn fail(what: impl std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "pinhook: {what}");
    ExitCode::from(FAILED)
}

/// Threads for what blocks: names that are looked up, which may take long and be
/// many, and besides them passwords and a reload, which must not wait for those.
const BLOCKING_THREADS: usize = 16 + 8;

/// The runtime of every command that needs one. One thread: the network is what
/// takes time, and a second one makes each webhook dearer and later, since its
/// tasks then wake each other across cores (tests/bench: CPU by a quarter, write
/// to response by a half). Passwords are checked on threads of their own.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
}
