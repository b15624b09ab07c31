//! What is this device, and does every kernel agree with its definition there?
//!
//! Results go to stdout, diagnostics to stderr; the exit status is 0 for done, 1 for failed and 2
//! for misused.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ellesmere::Error;

mod devices;
mod isa;
mod list;
mod run;
mod table;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the devices of this machine, best first
    Devices(devices::Arguments),
    /// Report what a compiler makes of the kernels for a chip that need not be here
    Isa(isa::Arguments),
    /// List the kernels with their parameters
    List(list::Arguments),
    /// Run one kernel and compare it with its definition
    Run(run::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Isa(arguments) => isa::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
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
