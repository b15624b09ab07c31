use std::process::ExitCode;

use ellesmere::backend::cpu::has_fast_path;
use ellesmere::bench::Case;
use ellesmere::kernel::{KERNELS, Kernel, Parameter};
use ellesmere::{DType, Result};
use serde::Serialize;

use crate::{print_json, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    dtypes: Vec<&'static str>,
    /// Whether `clbench run` takes it.
    runs: bool,
    definition: bool,
    fast_path: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let rows: Vec<Row> = KERNELS.iter().map(row).collect();
    if arguments.json {
        print_json(&rows);
        return Ok(ExitCode::SUCCESS);
    }
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let cells = |row: &Row| {
        let parameters = row
            .parameters
            .iter()
            .map(|parameter| format!("{}={}", parameter.name, parameter.default));
        [
            row.name.to_owned(),
            parameters.collect::<Vec<_>>().join(" "),
            row.dtypes.join(" "),
            yes_no(row.definition),
            yes_no(row.fast_path),
            yes_no(row.runs),
            row.summary.to_owned(),
        ]
    };
    let head = ["kernel", "parameters", "dtypes", "definition", "fast path", "runs", "summary"];
    table::print(head, &rows.iter().map(cells).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

fn row(kernel: &Kernel) -> Row {
    let fast_path = has_fast_path(kernel.name);
    Row {
        name: kernel.name,
        summary: kernel.summary,
        parameters: kernel.parameters,
        dtypes: DType::ALL.iter().map(|dtype| dtype.name()).collect(),
        runs: Case::find(kernel.name).is_some(),
        definition: fast_path.is_some(),
        fast_path: fast_path.unwrap_or(false),
    }
}
