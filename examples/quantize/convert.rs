//! Writes a plan, some rows at a time.

use std::path::Path;
use std::time::Instant;

use ellesmere::io::gguf::{self, TensorData};
use ellesmere::io::tensors::StoredType;
use ellesmere::models::checkpoint::StoredTensor;
use ellesmere::nn::TensorSource as _;
use ellesmere::{Error, Result, quant};
use half::{bf16, f16};
use indicatif::{ProgressBar, ProgressStyle};

use crate::assign::{Plan, Planned};
use crate::stop;

/// How many values are in memory at a time, and as many again where their order changes.
const PIECE: usize = 1 << 20;

/// Writes the file; answers with the seconds that it took.
pub fn write(path: &Path, plan: &Plan) -> Result<f64> {
    let weights: usize = plan.tensors.iter().map(count).sum();
    let style =
        ProgressStyle::with_template("{wide_bar} {percent:>3} % {elapsed} left {eta} {msg}");
    let style = style.expect("the template is well-formed");
    let bar = ProgressBar::new(weights as u64).with_style(style);
    let start = Instant::now();
    let targets: Vec<_> = plan.tensors.iter().map(|planned| planned.target.clone()).collect();
    let written = gguf::write(path, &plan.values, &targets, |index, data| {
        let planned = &plan.tensors[index];
        bar.set_message(planned.target.name.clone());
        write_tensor(planned, data, &bar)
    });
    bar.finish_and_clear();
    written.map(|()| start.elapsed().as_secs_f64())
}

pub fn count(planned: &Planned) -> usize {
    planned.shape.iter().product()
}

fn write_tensor(planned: &Planned, data: &mut TensorData<'_>, bar: &ProgressBar) -> Result<()> {
    let Planned { weights, name, shape, target, channels_last, .. } = planned;
    // Blocks that are already as they should be are not rounded again.
    if let (StoredType::Blocks(wanted), Some((format, blocks))) =
        (target.stored, weights.stored(name))
        && wanted == format
        && (shape.len() == 2 || *channels_last)
    {
        bar.inc(count(planned) as u64);
        return data.write(blocks);
    }
    let tensor = weights.tensor(name, shape)?;
    let outputs = if shape.len() > 1 { shape[0] } else { 1 };
    let size = count(planned) / outputs.max(1);
    let step = (PIECE / size.max(1)).max(1);
    for first in (0..outputs).step_by(step) {
        if stop::is_asked_for() {
            return Err(Error::Cancelled);
        }
        let range = first * size..(first + step).min(outputs) * size;
        let mut values = vec![0.0; range.len()];
        tensor.read_f32(range.clone(), &mut values);
        if let (true, &[_, inputs, rows, columns]) = (channels_last, &shape[..]) {
            values = with_channels_last(&values, inputs, rows * columns);
        }
        data.write(&stored(&tensor, weights.path(), target.stored, &values)?)?;
        bar.inc(range.len() as u64);
    }
    Ok(())
}

/// `[O, I, kH, kW]` as `[O, kH, kW, I]`.
pub fn with_channels_last(values: &[f32], inputs: usize, pixels: usize) -> Vec<f32> {
    let mut sorted = Vec::with_capacity(values.len());
    for output in values.chunks_exact(inputs * pixels) {
        for pixel in 0..pixels {
            sorted.extend(output[pixel..].iter().step_by(pixels));
        }
    }
    sorted
}

fn stored(
    tensor: &StoredTensor<'_>,
    path: &Path,
    stored: StoredType,
    values: &[f32],
) -> Result<Vec<u8>> {
    let refuse = |detail: String| {
        let (path, tensor) = (path.to_path_buf(), tensor.name().to_string());
        Err(Error::Tensor { path, tensor, detail })
    };
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return refuse(format!("expected finite values, got {value}"));
    }
    Ok(match stored {
        StoredType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        StoredType::F16 => {
            let most = f16::MAX.to_f32();
            if let Some(value) = values.iter().find(|value| value.abs() > most) {
                return refuse(format!("expected values of at most {most} for f16, got {value}"));
            }
            values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
        }
        StoredType::BF16 => {
            values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
        }
        StoredType::Blocks(format) => {
            let mut blocks = vec![0; quant::bytes(format, values.len())?];
            quant::encode(format, values, &mut blocks)?;
            blocks
        }
        other => unreachable!("GGUF has no {other}"),
    })
}
