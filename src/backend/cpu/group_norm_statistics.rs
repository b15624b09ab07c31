//! See `kernels/group_norm_statistics.cl`.

use super::vector_math::vectorised;
use super::{Arguments, Reals, parallel, rows};

pub fn definition(arguments: &Arguments) {
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let (pixels, channels) = (arguments.size("pixels"), arguments.size("channels"));
    let x_channels = arguments.size("x_channels");
    let (chunk, chunks) = (arguments.size("chunk"), arguments.size("chunks"));
    let (first_chunk, first_sample) =
        (arguments.size("first_chunk"), arguments.size("first_sample"));
    let partials = arguments.floats_out("partials");
    for sample in 0..arguments.size("samples") {
        let value = |pixel: usize, channel: usize| {
            let pixel = sample * pixels + pixel;
            f64::from(match x2 {
                Some(x2) if channel >= x_channels => {
                    x2.get(pixel * (channels - x_channels) + channel - x_channels)
                }
                _ => x.get(pixel * x_channels + channel),
            })
        };
        for start in (0..pixels).step_by(chunk) {
            let end = pixels.min(start + chunk);
            let count = (end - start) as f64;
            let index = (first_sample + sample) * chunks + first_chunk + start / chunk;
            for channel in 0..channels {
                let mean = (start..end).map(|pixel| value(pixel, channel)).sum::<f64>() / count;
                let squares: f64 =
                    (start..end).map(|pixel| (value(pixel, channel) - mean).powi(2)).sum();
                partials[2 * index * channels + channel] = mean as f32;
                partials[(2 * index + 1) * channels + channel] = squares as f32;
            }
        }
    }
}

pub fn fast(arguments: &Arguments) {
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let (pixels, channels) = (arguments.size("pixels"), arguments.size("channels"));
    let x_channels = arguments.size("x_channels");
    let (chunk, chunks) = (arguments.size("chunk"), arguments.size("chunks"));
    let samples = arguments.size("samples");
    let own_chunks = pixels.div_ceil(chunk);
    assert!(samples == 1 || own_chunks == chunks, "only whole samples come together");
    let first = arguments.size("first_sample") * chunks + arguments.size("first_chunk");
    let partials = &mut arguments.floats_out("partials")[2 * first * channels..];
    let partials = &mut partials[..2 * samples * own_chunks * channels];
    parallel::for_each_piece_init(partials, 2 * channels, Vec::new, |scratch, index, partial| {
        let (sample, start) = (index / own_chunks, index % own_chunks * chunk);
        let count = chunk.min(pixels - start);
        let pixel = sample * pixels + start;
        let (means, squares) = partial.split_at_mut(channels);
        let mut part = |x: &Reals, width: usize, means: &mut [f32], squares: &mut [f32]| {
            let values = match x {
                Reals::F32(x) => &x[pixel * width..][..count * width],
                Reals::F16(_) => {
                    scratch.resize(count * width, 0.0);
                    rows::read(x, pixel * width, scratch);
                    &scratch[..]
                }
            };
            statistics(values, means, squares);
        };
        part(&x, x_channels, &mut means[..x_channels], &mut squares[..x_channels]);
        if let Some(x2) = &x2 {
            let width = channels - x_channels;
            part(x2, width, &mut means[x_channels..], &mut squares[x_channels..]);
        }
    });
}

vectorised! {
    /// Of each column of `values`, whose rows are as long as `means` and `squares`.
    fn statistics<FMA>(values: &[f32], means: &mut [f32], squares: &mut [f32]) {
        let width = means.len();
        let count = (values.len() / width) as f32;
        means.fill(0.0);
        for row in values.chunks_exact(width) {
            for (sum, value) in means.iter_mut().zip(row) {
                *sum += value;
            }
        }
        for mean in means.iter_mut() {
            *mean /= count;
        }
        squares.fill(0.0);
        for row in values.chunks_exact(width) {
            for ((square, value), mean) in squares.iter_mut().zip(row).zip(&*means) {
                *square += (value - mean) * (value - mean);
            }
        }
    }
}
