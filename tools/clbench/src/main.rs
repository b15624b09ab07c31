//! What is this device, and does every kernel agree with its definition there?
//!
//! Results go to stdout, diagnostics to stderr; the exit status is 0 for done, 1 for failed and 2
//! for misused.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ellesmere::Error;

mod check;
mod devices;
mod explain;
mod list;
mod run;
mod table;
mod tune;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure every pick of the tuning database again, and fail where one has become slow
    Check(check::Arguments),
    /// List the devices of this machine, best first
    Devices(devices::Arguments),
    /// Say which configuration a kernel gets for a problem, and why
    Explain(explain::Arguments),
    /// List the kernels with their parameters
    List(list::Arguments),
    /// Run one kernel and compare it with its definition
    Run(run::Arguments),
    /// Find the best configuration of a kernel on a device
    Tune(Box<tune::Arguments>),
    /// What `tune` runs candidates in
    #[command(hide = true)]
    TuneWorker,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::TuneWorker => tune::worker::run(),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            eprintln!("clbench: {error}");
            match error {
                Error::Argument { .. } | Error::Shape { .. } => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints the facts of a command for programs.
fn print_json(facts: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(facts).expect("facts are numbers, texts and lists");
    println!("{text}");
}
