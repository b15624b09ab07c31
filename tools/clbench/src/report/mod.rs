use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ellesmere::bench::Peaks;
use ellesmere::io::atomic;
use ellesmere::{DType, Device, DeviceOptions, Error, Result, knob};

use crate::results::{CaseResult, DeviceFacts, LaunchResult, Results, date, median};
use crate::{peak, run, table};

mod plot;

/// Write one self-contained HTML page: roofline plot, tables, spread, device facts
///
/// The page needs no network and reads at any width, in light and dark. Without FILES every case is
/// measured first at its default sizes, which takes about 10 seconds.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clbench report --output report.html                       measure the default device, then write
  clbench run all --save gpu.json; clbench run all --device cpu --save cpu.json
  clbench report gpu.json cpu.json --output report.html     a section for each file")]
pub struct Arguments {
    /// Files of `clbench run --save`
    files: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What to measure where no files are given: auto, cpu or an id of `clbench devices`
    #[arg(long, conflicts_with = "files")]
    device: Option<String>,
    /// How elements are stored, where no files are given
    #[arg(long, default_value = "f32", conflicts_with = "files")]
    dtype: String,
}

/// For how long each case is repeated.
const TIME: Duration = Duration::from_millis(500);

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    atomic::check_writable(&arguments.output)?;
    let all = match arguments.files.as_slice() {
        [] => vec![measure(arguments)?],
        files => files.iter().map(|file| Results::read(file)).collect::<Result<_>>()?,
    };
    if all.iter().all(|results| results.cases.is_empty()) {
        return Err(Error::argument("files", "expected at least one case, got none"));
    }
    let page = page(&all);
    atomic::write(&arguments.output, |file| file.write_all(page.as_bytes()))?;
    println!("{}", arguments.output.display());
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments) -> Result<Results> {
    let dtype: DType = arguments.dtype.parse()?;
    let name = match &arguments.device {
        Some(name) => name.clone(),
        None => knob::device()?,
    };
    let device = Device::open(&name, &DeviceOptions::default())?;
    device.notes().iter().for_each(|note| eprintln!("clbench: {note}"));
    let peaks = peak::kept_or_measured(&device)?;
    let count = run::model_cases().count();
    let mut cases = Vec::new();
    for (index, case) in run::model_cases().enumerate() {
        eprintln!("clbench: {} of {count}: {} {dtype}", index + 1, case.op);
        let measured = case.measure(&device, dtype, &case.sizes(&[])?, TIME)?;
        cases.push(CaseResult::new(case.op, dtype.name(), &measured, Some(&peaks)));
    }
    Ok(Results::new(device.info(), Some(peaks), cases))
}

/// Text as it may stand in HTML, in attributes too.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

fn page(all: &[Results]) -> String {
    let style = include_str!("style.css");
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>clbench report</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n\
         <h1>clbench report</h1>\n"
    );
    if all.len() > 1 {
        html.push_str("<nav aria-label=\"Devices\"><ul>\n");
        for (index, results) in all.iter().enumerate() {
            let name = escaped(&title(results));
            let _ = writeln!(html, "<li><a href=\"#device-{index}\">{name}</a></li>");
        }
        html.push_str("</ul></nav>\n");
    }
    for (index, results) in all.iter().enumerate() {
        section(&mut html, index, results);
    }
    html.push_str(HOW_TO_READ);
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

const HOW_TO_READ: &str = "<section>\n<h2>How to read this</h2>\n<ul>\n\
<li>A time is the median run's. The spread shows nine of ten runs, without the slowest and the \
quickest; the middle half is thick, the median a tick, the ends half and twice the median.</li>\n\
<li>What binds is the limit that asks for the most time: arithmetic, memory, local memory, or that \
each launch takes time. % of peak is the time that this limit alone asks for over the time that was \
taken.</li>\n\
<li>More than 100 % of memory means that the data stay in a cache between runs.</li>\n\
<li>Work is counted as the least that must be computed, read and written.</li>\n</ul>\n</section>\n";

/// A device, by what tells it from others.
fn title(results: &Results) -> String {
    let platform = results.device.platform.split(',').next().unwrap_or_default();
    format!("{} ({platform})", results.device.name)
}

fn section(html: &mut String, index: usize, results: &Results) {
    let _ =
        writeln!(html, "<section id=\"device-{index}\">\n<h2>{}</h2>", escaped(&title(results)));
    facts(html, &results.device, results);
    if let Some(peaks) = &results.peaks {
        plot::roofline(html, peaks, &results.cases);
    } else {
        html.push_str("<p>No peaks were measured: there is no roofline and no % of peak.</p>\n");
    }
    cases(html, results);
    if let Some(peaks) = &results.peaks {
        limits(html, peaks);
    }
    html.push_str("</section>\n");
}

fn facts(html: &mut String, device: &DeviceFacts, results: &Results) {
    html.push_str("<dl class=\"facts\">\n");
    for (name, value) in [
        ("Platform", device.platform.clone()),
        ("Driver", device.driver.clone()),
        ("Compute units", device.compute_units.to_string()),
        ("Lanes of a vector", device.vector_width.to_string()),
        ("Memory", table::bytes(device.memory_bytes)),
        ("Local memory", table::bytes(device.local_memory_bytes)),
        ("Measured", results.date.clone()),
        ("By", format!("clbench {}", results.version)),
    ] {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value));
    }
    html.push_str("</dl>\n");
}

/// The head of a table whose cells carry their column's name, for narrow pages.
fn table_head(html: &mut String, caption: &str, class: &str, columns: &[&str]) {
    let _ = writeln!(
        html,
        "<table role=\"table\" class=\"{class}\">\n<caption>{caption}</caption>\n\
         <thead role=\"rowgroup\"><tr role=\"row\">"
    );
    for column in columns {
        let _ = write!(html, "<th role=\"columnheader\" scope=\"col\">{column}</th>");
    }
    html.push_str("</tr></thead>\n<tbody role=\"rowgroup\">\n");
}

fn cell(html: &mut String, column: &str, class: &str, content: &str) {
    let _ = write!(
        html,
        "<td role=\"cell\" class=\"{class}\" data-column=\"{column}\"><span>{content}</span></td>"
    );
}

fn cases(html: &mut String, results: &Results) {
    const COLUMNS: [&str; 9] = [
        "No.",
        "Case",
        "Time, ms",
        "GFLOP/s",
        "GB/s",
        "% of peak",
        "Binds",
        "Spread",
        "Kernels and configuration",
    ];
    table_head(html, "Cases", "cases", &COLUMNS);
    for (index, case) in results.cases.iter().enumerate() {
        html.push_str("<tr role=\"row\">");
        cell(html, COLUMNS[0], "number", &(index + 1).to_string());
        let _ = write!(
            html,
            "<th role=\"rowheader\" scope=\"row\"><span>{} {} <small>{}</small></span></th>",
            escaped(&case.op),
            escaped(&case.dtype),
            escaped(&case.sizes_text().replace(',', ", "))
        );
        cell(html, COLUMNS[2], "number", &digits(case.median_ns() / 1e6));
        let arithmetic = if case.flop == 0 { "-".to_owned() } else { digits(case.gflop_s()) };
        cell(html, COLUMNS[3], "number", &arithmetic);
        cell(html, COLUMNS[4], "number", &digits(case.gb_s()));
        cell(html, COLUMNS[5], "number", &share(case.percent_of_peak));
        cell(html, COLUMNS[6], "", case.binds.map_or("-", |binds| binds.name()));
        cell(html, COLUMNS[7], "", &spread(case));
        cell(html, COLUMNS[8], "wide", &launches(&case.launches));
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n");
}

/// A number with a bar of its length.
fn share(percent: Option<f64>) -> String {
    let Some(percent) = percent else { return "-".to_owned() };
    let width = percent.clamp(0.0, 100.0);
    format!(
        "{percent:.0} %<svg class=\"bar\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" \
         aria-hidden=\"true\"><rect class=\"rail\" width=\"100\" height=\"6\"/>\
         <rect class=\"fill\" width=\"{width:.1}\" height=\"6\"/></svg>"
    )
}

/// Nine of ten runs, the slowest and the quickest left out, on a scale from half to twice the median.
fn spread(case: &CaseResult) -> String {
    let mut times = case.times_ns.clone();
    times.sort_unstable();
    let middle = median(&times);
    let at = |quantile: f64| times[((times.len() - 1) as f64 * quantile).round() as usize] as f64;
    let x = |time: f64| 60.0 + 60.0 * (time / middle).log2().clamp(-1.0, 1.0);
    let percent = |time: f64| 100.0 * (time / middle - 1.0);
    let (low, high) = (percent(at(0.05)), percent(at(0.95)));
    let text = format!("{low:+.0} to {high:+.0} %");
    format!(
        "<svg class=\"spread\" viewBox=\"-2 0 124 14\" role=\"img\" aria-label=\"{} runs, {text} of \
         the median\"><line class=\"rail\" x1=\"0\" x2=\"120\" y1=\"7\" y2=\"7\"/>\
         <line class=\"range\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"7\" y2=\"7\"/>\
         <line class=\"half\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"7\" y2=\"7\"/>\
         <line class=\"tick\" x1=\"60\" x2=\"60\" y1=\"1\" y2=\"13\"/></svg> \
         <small>{text}, {} runs</small>",
        times.len(),
        x(at(0.05)),
        x(at(0.95)),
        x(at(0.25)),
        x(at(0.75)),
        times.len()
    )
}

fn launches(launches: &[LaunchResult]) -> String {
    let mut texts: Vec<(String, usize)> = Vec::new();
    for one in launches {
        let values = one.configuration.iter().map(|(name, value)| format!("{name}={value}"));
        let values = values.collect::<Vec<_>>().join(" ");
        let text = format!(
            "<span class=\"launch\"><b>{}</b> <code>{}</code>",
            escaped(&one.kernel),
            escaped(&values)
        );
        match texts.last_mut() {
            Some((last, count)) if *last == text => *count += 1,
            _ => texts.push((text, 1)),
        }
    }
    let times = |count| if count > 1 { format!(" x {count}") } else { String::new() };
    texts.into_iter().map(|(text, count)| format!("{text}{}</span>", times(count))).collect()
}

fn limits(html: &mut String, peaks: &Peaks) {
    const COLUMNS: [&str; 6] = ["Limit", "Best run", "Median run", "Unit", "Expected", "How"];
    let measured = date(peaks.measured_at);
    let caption = match &peaks.preset {
        Some(facts) => format!("Peaks, measured {measured}; expected from {}", escaped(facts)),
        None => format!("Peaks, measured {measured}; no data sheet is known for this device"),
    };
    table_head(html, &caption, "limits", &COLUMNS);
    for (name, peak) in peaks.rows() {
        let _ = write!(
            html,
            "<tr role=\"row\"><th role=\"rowheader\" scope=\"row\"><span>{name}</span></th>"
        );
        cell(html, COLUMNS[1], "number", &digits(peak.value));
        cell(html, COLUMNS[2], "number", &digits(peak.median));
        cell(html, COLUMNS[3], "", &escaped(&peak.unit));
        let expected = peak.expected.map_or("-".to_owned(), digits);
        cell(html, COLUMNS[4], "number", &expected);
        cell(html, COLUMNS[5], "wide", &escaped(&peak.how));
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n");
    if peaks.f16.is_none() {
        html.push_str("<p>f16 is storage only here: the device has no arithmetic in it.</p>\n");
    }
}

/// Four digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
