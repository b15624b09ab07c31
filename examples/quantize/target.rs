//! The fewest bytes by which pictures stay as near as is asked for.

use std::collections::BTreeMap;

use ellesmere::io::tensors::StoredType;
use ellesmere::{Error, Format, Result, quant};
use half::f16;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::assign::{self, Plan, Planned};
use crate::convert::with_channels_last;
use crate::gallery::{Effect, Gallery, psnr_db};
use crate::layers::Layer;
use crate::report::{self, Row, finite};
use crate::stop;

/// What layers are stored as, fewest bits first.
const LADDER: [StoredType; 6] = [
    StoredType::Blocks(Format::Q4_0),
    StoredType::Blocks(Format::Q4K),
    StoredType::Blocks(Format::Q5_0),
    StoredType::Blocks(Format::Q6K),
    StoredType::Blocks(Format::Q8_0),
    StoredType::F16,
];

/// How many mixed assignments are drawn at most.
const ROUNDS: usize = 8;

/// A type for each tensor that has a choice, by the place in the plan.
type Assignment = BTreeMap<usize, StoredType>;

/// An assignment and what it makes of the pictures.
#[derive(Clone)]
struct Candidate {
    name: String,
    assignment: Assignment,
    bytes: usize,
    effect: Effect,
}

/// What was found.
pub struct Found {
    /// Each layer in its fewest bits, worst first.
    pub rows: Vec<Row>,
    /// The types by tensors' names.
    pub stored: Vec<(String, StoredType)>,
    target_db: f64,
    chosen: Candidate,
    /// One type for all, and the mixtures.
    drawn: Vec<Candidate>,
}

/// What a layer can be stored as.
struct Choice {
    stored: Vec<StoredType>,
    bytes: usize,
    /// The squared error of the weights.
    squares: f64,
    /// What it is expected to add to the mean squared error of pixels.
    mean_square: f64,
}

/// One choice less for a layer: what it saves, and what it costs.
struct Step {
    layer: usize,
    choice: usize,
    mean_square: f64,
    per_byte: f64,
}

/// Measures the layers of `plan` that have a choice, those in which it has blocks, and finds a type for
/// each so that the pictures are within `target_db` of what they were.
///
/// Errors of layers add up: what each does in its fewest bits is measured by pictures, what it does in
/// more follows from the error of its weights. What comes of that is drawn, and with the error that
/// is seen chosen again, until the fewest bytes are found which hold what was asked for.
pub fn find(gallery: &mut Gallery, plan: &Plan, target_db: f64) -> Result<Found> {
    let layers = Layer::all(plan, |planned| {
        !planned.decided && matches!(planned.target.stored, StoredType::Blocks(_))
    });
    let bar = report::progress(layers.len() + LADDER.len() + ROUNDS, gallery.seconds);
    let result = Search { gallery, plan, layers, bar: &bar, drawn: Vec::new() }.run(target_db);
    bar.finish_and_clear();
    result
}

struct Search<'a> {
    gallery: &'a mut Gallery,
    plan: &'a Plan,
    layers: Vec<Layer>,
    bar: &'a ProgressBar,
    drawn: Vec<Candidate>,
}

impl Search<'_> {
    fn run(mut self, target_db: f64) -> Result<Found> {
        let limit = 10.0_f64.powf(-target_db / 10.0);
        // What has the most bits first: if that is not near enough, nothing is.
        for stored in LADDER.into_iter().rev() {
            self.draw(stored.name().to_string(), self.all_as(stored))?;
            let most = self.drawn[0].effect;
            if most.mean_square > limit {
                let detail = format!(
                    "expected at most {:.1}, which f16 has here, got {target_db}",
                    (most.psnr_db() * 10.0).floor() / 10.0
                );
                return Err(Error::argument("--target-psnr", detail));
            }
        }
        for planned in &self.plan.tensors {
            self.gallery.hold_as(&planned.target.name, None)?;
        }
        let (mut rows, mut choices) = (Vec::new(), Vec::new());
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            self.bar.set_message(layer.name.clone());
            let mut of_layer = choices_of(self.plan, layer)?;
            let stored: BTreeMap<&str, StoredType> = layer
                .of(self.plan)
                .map(|planned| planned.target.name.as_str())
                .zip(of_layer[0].stored.iter().copied())
                .collect();
            let stored = |planned: &Planned| stored[planned.target.name.as_str()];
            let row = report::measure_one(self.gallery, self.plan, layer, stored)?;
            let measured = row.effect.mean_square / of_layer[0].squares.max(f64::MIN_POSITIVE);
            for choice in &mut of_layer {
                choice.mean_square = measured * choice.squares;
            }
            choices.push(of_layer);
            rows.push(row);
            self.bar.inc(1);
        }
        rows.sort_by(|a, b| b.effect.mean_square.total_cmp(&a.effect.mean_square));
        self.mix(&choices, limit)?;
        let near = self.drawn.iter().filter(|candidate| candidate.effect.mean_square <= limit);
        let chosen = near.min_by_key(|candidate| candidate.bytes).expect("f16 is near").clone();
        let stored = chosen
            .assignment
            .iter()
            .map(|(&index, &stored)| (self.plan.tensors[index].target.name.clone(), stored))
            .collect();
        Ok(Found { rows, stored, target_db, chosen, drawn: self.drawn })
    }

    /// Draws mixtures until the fewest bytes are known that hold `limit`, about.
    fn mix(&mut self, choices: &[Vec<Choice>], limit: f64) -> Result<()> {
        // What the sum of layers' errors may be: somewhere between what is near and what is not.
        let (mut near, mut far): (Option<f64>, Option<f64>) = (None, None);
        let mut allowed = limit;
        for round in 1..=ROUNDS {
            let assignment = self.choose(choices, allowed);
            let known = self.drawn.iter().find(|other| other.assignment == assignment);
            let mean_square = match known {
                Some(known) => known.effect.mean_square,
                None => {
                    self.draw(format!("mixed {round}"), assignment)?;
                    self.drawn.last().expect("it was drawn").effect.mean_square
                }
            };
            let over = (limit / mean_square.max(f64::MIN_POSITIVE)).sqrt();
            *(if mean_square <= limit { &mut near } else { &mut far }) = Some(allowed);
            allowed = match (near, far) {
                (Some(near), Some(far)) if far / near < 1.02 => break,
                (Some(near), Some(far)) => (near * far).sqrt(),
                (Some(near), None) => near * over.clamp(1.1, 10.0),
                (None, Some(far)) => far * over.clamp(0.1, 0.9),
                (None, None) => unreachable!("one of them was set"),
            };
        }
        Ok(())
    }

    /// Every layer in its most bits, but for those steps to fewer that cost least for what they save.
    fn choose(&self, choices: &[Vec<Choice>], allowed: f64) -> Assignment {
        let mut picked: Vec<usize> = choices.iter().map(|of_layer| of_layer.len() - 1).collect();
        let of = |layer: usize, choice: usize| &choices[layer][choice];
        let mut sum: f64 = picked.iter().enumerate().map(|(l, c)| of(l, *c).mean_square).sum();
        let mut steps: Vec<Step> = choices
            .iter()
            .enumerate()
            .flat_map(|(layer, of_layer)| steps(layer, of_layer))
            .collect();
        steps.sort_by(|a, b| a.per_byte.total_cmp(&b.per_byte));
        let mut ended = vec![false; choices.len()];
        for step in steps {
            if ended[step.layer] || sum + step.mean_square > allowed {
                ended[step.layer] = true;
                continue;
            }
            sum += step.mean_square;
            picked[step.layer] = step.choice;
        }
        let mut assignment = Assignment::new();
        for (layer, (index, choices)) in self.layers.iter().zip(picked.iter().zip(choices)) {
            assignment.extend(layer.tensors.iter().copied().zip(choices[*index].stored.clone()));
        }
        assignment
    }

    /// Everything that has a choice in one type.
    fn all_as(&self, stored: StoredType) -> Assignment {
        let tensors = self.layers.iter().flat_map(|layer| &layer.tensors);
        let of = |&index: &usize| {
            (index, assign::possible(stored, &self.plan.tensors[index].target.shape))
        };
        tensors.map(of).collect()
    }

    /// Draws the pictures with an assignment, and all else as the plan has it. It stays so.
    fn draw(&mut self, name: String, assignment: Assignment) -> Result<()> {
        self.bar.set_message(name.clone());
        let mut bytes = 0;
        for (index, planned) in self.plan.tensors.iter().enumerate() {
            let stored = assignment.get(&index).copied().unwrap_or(planned.target.stored);
            bytes += planned.bytes_as(stored);
            self.gallery.hold_as(&planned.target.name, Some(stored))?;
        }
        let effect = self.gallery.compare(false)?;
        self.drawn.push(Candidate { name, assignment, bytes, effect });
        self.bar.inc(1);
        Ok(())
    }
}

/// The types of [`LADDER`] that a layer can have, fewest bytes first, each with a smaller error of the
/// weights than those before it.
fn choices_of(plan: &Plan, layer: &Layer) -> Result<Vec<Choice>> {
    let mut choices: Vec<Choice> = Vec::new();
    for wanted in LADDER {
        let stored: Vec<StoredType> =
            layer.of(plan).map(|planned| assign::possible(wanted, &planned.target.shape)).collect();
        if choices.iter().any(|other| other.stored == stored) {
            continue;
        }
        let (mut bytes, mut squares) = (0, 0.0);
        for (planned, &stored) in layer.of(plan).zip(&stored) {
            if stop::is_asked_for() {
                return Err(Error::Cancelled);
            }
            bytes += planned.bytes_as(stored);
            squares += squared_error(planned, stored)?;
        }
        choices.push(Choice { stored, bytes, squares, mean_square: 0.0 });
    }
    choices.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.squares.total_cmp(&b.squares)));
    let mut least = f64::INFINITY;
    choices.retain(|choice| {
        let better = choice.squares < least;
        least = least.min(choice.squares);
        better
    });
    Ok(choices)
}

/// The sum of the squares of what rounding to a type changes.
fn squared_error(planned: &Planned, stored: StoredType) -> Result<f64> {
    let tensor = planned.weights.tensor(&planned.name, &planned.shape)?;
    let mut values = tensor.to_f32();
    if let (true, &[_, inputs, rows, columns]) = (planned.channels_last, &planned.shape[..]) {
        values = with_channels_last(&values, inputs, rows * columns);
    }
    let mut rounded = vec![0.0; values.len()];
    match stored {
        StoredType::Blocks(format) => {
            let mut blocks = vec![0; quant::bytes(format, values.len())?];
            quant::encode(format, &values, &mut blocks)?;
            quant::decode(format, &blocks, &mut rounded)?;
        }
        _ => {
            for (rounded, value) in rounded.iter_mut().zip(&values) {
                *rounded = f16::from_f32(*value).to_f32();
            }
        }
    }
    Ok(values.iter().zip(&rounded).map(|(a, b)| f64::from(a - b).powi(2)).sum())
}

/// The steps from a layer's most bits to its fewest that are worth taking, in this order: each saves
/// less for what it costs than the one before it.
fn steps(layer: usize, choices: &[Choice]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut from = choices.len() - 1;
    while from > 0 {
        let to = |choice: usize| {
            let mean_square = choices[choice].mean_square - choices[from].mean_square;
            let saved = (choices[from].bytes - choices[choice].bytes).max(1);
            Step { layer, choice, mean_square, per_byte: mean_square / saved as f64 }
        };
        let best = (0..from).map(to).min_by(|a, b| a.per_byte.total_cmp(&b.per_byte));
        let best = best.expect("there is a choice below");
        from = best.choice;
        steps.push(best);
    }
    steps
}

impl Found {
    /// What was chosen, and what one type for all would be.
    pub fn table(&self) -> String {
        let mut text = "storage     PSNR, dB     worst         MB\n".to_string();
        for candidate in &self.drawn {
            let mark = if candidate.name == self.chosen.name { " <--" } else { "" };
            text += &format!(
                "{:10} {:9.1} {:9.1} {:10.3}{mark}\n",
                candidate.name,
                candidate.effect.psnr_db(),
                candidate.effect.worst_db(),
                candidate.bytes as f64 / 1e6
            );
        }
        text
    }

    /// The same facts for programs.
    pub fn json(&self) -> Value {
        let facts = |candidate: &Candidate| {
            json!({
                "name": candidate.name,
                "psnr_db": finite(candidate.effect.psnr_db()),
                "worst_psnr_db": finite(candidate.effect.worst_db()),
                "bytes": candidate.bytes,
            })
        };
        let types: BTreeMap<&str, &str> =
            self.stored.iter().map(|(name, stored)| (name.as_str(), stored.name())).collect();
        let drawn: Vec<Value> = self.drawn.iter().map(facts).collect();
        json!({
            "target_db": self.target_db,
            "chosen": facts(&self.chosen),
            "drawn": drawn,
            "types": types,
        })
    }

    /// What a file of rules says of it.
    pub fn headline(&self) -> String {
        let effect = self.chosen.effect;
        format!(
            "{:.1} dB (asked for: {}), the worst picture {:.1} dB",
            effect.psnr_db(),
            self.target_db,
            psnr_db(effect.worst)
        )
    }
}
