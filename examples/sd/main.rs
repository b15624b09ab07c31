//! From a prompt to a picture: `sd --help`.

#![forbid(unsafe_code)]

mod arguments;
mod demo;
mod draw;
mod progress;

use std::process::ExitCode;

use clap::Parser;
use ellesmere::Error;
use ellesmere::hardware::detect;

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let result = if arguments.list_devices {
        list_devices();
        Ok(())
    } else {
        draw::draw(&arguments)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            eprintln!("stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}{}", advice(&error));
            ExitCode::from(if matches!(error, Error::Argument { .. }) { 2 } else { 1 })
        }
    }
}

/// What to do about an error that does not say so itself.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::OutOfMemory { .. } => {
            "; a smaller --size, --dtype f16 or a larger --memory-budget would help"
        }
        Error::Allocation { .. } => {
            "; a smaller --size, --dtype f16 or a larger --max-allocation would help"
        }
        _ => "",
    }
}

fn list_devices() {
    let detected = detect();
    for entry in &detected.entries {
        let info = &entry.info;
        let memory_gb = info.memory_bytes as f64 / 1e9;
        let note = entry.note.as_ref().map_or(String::new(), |note| format!("; {note}"));
        println!("{:10} {} ({}), {memory_gb:.1} GB{note}", entry.id, info.name, info.platform);
    }
    detected.notes.iter().for_each(|note| println!("note: {note}"));
}
