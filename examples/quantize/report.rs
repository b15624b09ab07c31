//! Each layer's own effect on pictures.

use std::fmt::Write as _;
use std::time::Duration;

use ellesmere::Result;
use ellesmere::io::tensors::StoredType;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::assign::{Plan, Planned};
use crate::gallery::{Effect, Gallery};
use crate::layers::{Layer, names};

/// A layer in another type, all others as they are.
pub struct Row {
    pub layer: String,
    /// How it is in the model, and how it was for this.
    pub types: [String; 2],
    /// What it takes less than in the model.
    pub saved_bytes: i64,
    pub effect: Effect,
}

/// Measures every layer that would be stored in fewer bits than it is, worst first.
pub fn measure(gallery: &mut Gallery, plan: &Plan) -> Result<Vec<Row>> {
    let layers = Layer::all(plan, |planned| loses(planned, planned.target.stored));
    let bar = progress(layers.len(), gallery.seconds);
    let mut rows = Vec::new();
    for layer in &layers {
        bar.set_message(layer.name.clone());
        rows.push(measure_one(gallery, plan, layer, |planned| planned.target.stored)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    rows.sort_by(|a, b| b.effect.mean_square.total_cmp(&a.effect.mean_square));
    Ok(rows)
}

/// Measures a layer in the types that `stored` gives its tensors.
pub fn measure_one(
    gallery: &mut Gallery,
    plan: &Plan,
    layer: &Layer,
    stored: impl Fn(&Planned) -> StoredType,
) -> Result<Row> {
    let (mut before, mut after) = (0, 0);
    let mut only_encodes = true;
    for planned in layer.of(plan) {
        let name = &planned.target.name;
        gallery.hold_as(name, Some(stored(planned)))?;
        before += planned.bytes_as(planned.source);
        after += planned.bytes_as(stored(planned));
        only_encodes &= gallery.only_encodes(name);
    }
    let effect = gallery.compare(only_encodes)?;
    for planned in layer.of(plan) {
        gallery.hold_as(&planned.target.name, None)?;
    }
    let from = names(layer.of(plan).map(|planned| planned.source));
    let to = names(layer.of(plan).map(stored));
    let saved_bytes = before as i64 - after as i64;
    Ok(Row { layer: layer.name.clone(), types: [from, to], saved_bytes, effect })
}

/// Whether values of a tensor are rounded where it is stored so.
fn loses(planned: &Planned, stored: StoredType) -> bool {
    stored != planned.source && stored != StoredType::F32
}

/// A bar over so many draws of all pictures, and a line that says how long they will take.
pub fn progress(draws: usize, seconds: f64) -> ProgressBar {
    eprintln!("note: {draws} times all pictures: about {}", Seconds(draws as f64 * seconds));
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} left {eta} {msg}");
    let bar = ProgressBar::new(draws as u64);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar.with_style(style.expect("the template is well-formed"))
}

/// A time as people say it.
struct Seconds(f64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            seconds if seconds < 90.0 => write!(f, "{seconds:.0} s"),
            seconds if seconds < 5400.0 => write!(f, "{:.0} min", seconds / 60.0),
            seconds => write!(f, "{:.1} h", seconds / 3600.0),
        }
    }
}

/// The ranking as a table.
pub fn table(rows: &[Row]) -> String {
    let mut text = " rank  PSNR, dB  latents, %  saved, MB  type          layer\n".to_string();
    for (index, row) in rows.iter().enumerate() {
        let [from, to] = &row.types;
        let _ = writeln!(
            text,
            "{:5} {:9.1} {:11.3} {:10.3}  {:12}  {}",
            index + 1,
            row.effect.psnr_db(),
            100.0 * row.effect.latents,
            row.saved_bytes as f64 / 1e6,
            format!("{from}>{to}"),
            row.layer
        );
    }
    text
}

/// The same facts for programs; the PSNR of what is the same is null.
pub fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "layer": row.layer,
            "from": row.types[0],
            "type": row.types[1],
            "saved_bytes": row.saved_bytes,
            "latents_error": row.effect.latents,
            "psnr_db": finite(row.effect.psnr_db()),
            "worst_psnr_db": finite(row.effect.worst_db()),
        })
    };
    rows.iter().map(row).collect()
}

/// What JSON can say.
pub fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
