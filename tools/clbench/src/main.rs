//! What is this device, how fast can it go, and does every kernel agree with its definition there?
//!
//! Results go to stdout, diagnostics to stderr; the exit status is 0 for done, 1 for failed and 2
//! for misused.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ellesmere::Error;

mod check;
mod compare;
mod devices;
mod explain;
mod isa;
mod list;
mod peak;
mod report;
mod results;
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
    /// Measure everything that was tuned on this machine again, and fail where it has become slow
    Check(check::Arguments),
    /// List the devices of this machine, best first
    Devices(devices::Arguments),
    /// Say which configuration a kernel gets for a problem, and why
    Explain(explain::Arguments),
    /// Report what a compiler makes of the kernels for a chip that need not be here
    Isa(isa::Arguments),
    /// List the kernels with their parameters
    List(list::Arguments),
    Run(run::Arguments),
    Peak(peak::Arguments),
    Compare(compare::Arguments),
    Report(report::Arguments),
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
        Command::Isa(arguments) => isa::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Peak(arguments) => peak::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
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
