use std::process::ExitCode;

use ellesmere::hardware::{DeviceEntry, detect};
use ellesmere::info::DeviceKind;
use ellesmere::{Device, DeviceOptions, Result};
use serde_json::json;

use crate::{print_json, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Open every device and compare a small kernel with its definition
    #[arg(long)]
    probe: bool,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut detected = detect();
    let mut broken = 0;
    if arguments.probe {
        for entry in detected.entries.iter_mut().filter(|entry| entry.unusable().is_none()) {
            let opened = Device::open_entry(entry, &DeviceOptions::default());
            let outcome = match opened.and_then(|device| device.probe()) {
                Ok(()) => "works".to_owned(),
                Err(error) => {
                    broken += 1;
                    format!("broken: {error}")
                }
            };
            let note = entry.note.take();
            entry.note = Some(note.map_or(outcome.clone(), |note| format!("{outcome}; {note}")));
        }
    }
    if arguments.json {
        let mut document = json!(detected);
        for (index, entry) in detected.entries.iter().enumerate() {
            document["entries"][index]["free_memory"] = json!(entry.free_memory());
        }
        print_json(&document);
    } else {
        let head = [
            "id",
            "kind",
            "name",
            "platform",
            "driver",
            "units",
            "memory",
            "free",
            "largest",
            "local",
            "vector",
            "sub-group",
            "architecture",
            "PCI",
            "note",
        ];
        let rows: Vec<_> = detected.entries.iter().map(row).collect();
        table::print(head, &rows);
        detected.notes.iter().for_each(|note| println!("{note}"));
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(entry: &DeviceEntry) -> [String; 15] {
    let info = &entry.info;
    let kind = match info.kind {
        DeviceKind::Gpu => "GPU",
        DeviceKind::Cpu => "CPU",
    };
    let own = if info.local_memory_is_fast { "" } else { " (cache)" };
    [
        entry.id.clone(),
        kind.to_owned(),
        info.name.clone(),
        shortened(&info.platform, 40),
        info.driver.clone(),
        info.compute_units.to_string(),
        table::bytes(info.memory_bytes),
        entry.free_memory().map_or("unknown".to_owned(), |free| table::bytes(free.bytes)),
        table::bytes(info.max_allocation_bytes),
        format!("{}{own}", table::bytes(info.local_memory_bytes)),
        info.vector_width.to_string(),
        info.sub_group.map(|size| size.to_string()).unwrap_or_default(),
        info.architecture.clone().unwrap_or_default(),
        info.pci_address.clone().unwrap_or_default(),
        entry.note.clone().unwrap_or_default(),
    ]
}

/// Some platforms list the options that they were built with.
fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}..", text[..end].trim_end()),
        None => text.to_owned(),
    }
}
