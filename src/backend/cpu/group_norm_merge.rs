//! See `kernels/group_norm_merge.cl`.

use super::{Arguments, parallel};

pub fn definition(arguments: &Arguments) {
    let partials = arguments.floats("partials");
    let gamma = arguments.floats("gamma");
    let (channels, groups) = (arguments.size("channels"), arguments.size("groups"));
    let (chunks, chunk) = (arguments.size("chunks"), arguments.size("chunk"));
    let (pixels, band_pixels) = (arguments.size("pixels"), arguments.size("band_pixels"));
    let eps = f64::from(arguments.float("eps"));
    let factors = arguments.floats_out("factors");
    // The pixels of a chunk: bands begin a new one, so a band's last may be short.
    let band_chunks = band_pixels.div_ceil(chunk);
    let count = |index: usize| {
        let band = index / band_chunks;
        let start = band * band_pixels + index % band_chunks * chunk;
        (chunk.min(pixels.min((band + 1) * band_pixels) - start)) as f64
    };
    let per_group = channels / groups;
    let total = (pixels * per_group) as f64;
    for sample in 0..arguments.size("samples") {
        for group in 0..groups {
            let members = || {
                let of_chunk = |index: usize| {
                    let start = (sample * chunks + index) * 2 * channels + group * per_group;
                    (start..start + per_group).map(move |at| (index, at))
                };
                (0..chunks).flat_map(of_chunk)
            };
            let mean_of = |at: usize| f64::from(partials[at]);
            let mean = members().map(|(index, at)| count(index) * mean_of(at)).sum::<f64>() / total;
            let squares_of = |(index, at): (usize, usize)| {
                let within = f64::from(partials[at + channels]);
                within + count(index) * (mean_of(at) - mean).powi(2)
            };
            let variance = members().map(squares_of).sum::<f64>() / total;
            for channel in group * per_group..(group + 1) * per_group {
                let scale = f64::from(gamma[channel]) / (variance + eps).sqrt();
                factors[2 * sample * channels + channel] = mean as f32;
                factors[(2 * sample + 1) * channels + channel] = scale as f32;
            }
        }
    }
}

pub fn fast(arguments: &Arguments) {
    let (partials, gamma) = (arguments.floats("partials"), arguments.floats("gamma"));
    let (channels, groups) = (arguments.size("channels"), arguments.size("groups"));
    let (chunks, chunk) = (arguments.size("chunks"), arguments.size("chunk"));
    let (pixels, band_pixels) = (arguments.size("pixels"), arguments.size("band_pixels"));
    let eps = f64::from(arguments.float("eps"));
    let band_chunks = band_pixels.div_ceil(chunk);
    let counts: Vec<f64> = (0..chunks)
        .map(|index| {
            let band = index / band_chunks;
            let start = band * band_pixels + index % band_chunks * chunk;
            chunk.min(pixels.min((band + 1) * band_pixels) - start) as f64
        })
        .collect();
    let width = channels / groups;
    let total = (pixels * width) as f64;
    let samples = arguments.size("samples");
    let mut statistics = vec![(0.0, 0.0); samples * groups];
    parallel::for_each_piece(&mut statistics, 1, |index, statistics| {
        let (sample, group) = (index / groups, index % groups);
        let chunk_of = |index: usize| {
            let start = (sample * chunks + index) * 2 * channels + group * width;
            (&partials[start..start + width], &partials[start + channels..][..width])
        };
        let mut sum = 0.0;
        for (index, count) in counts.iter().enumerate() {
            sum += count * chunk_of(index).0.iter().map(|mean| f64::from(*mean)).sum::<f64>();
        }
        let mean = sum / total;
        let mut squares = 0.0;
        for (index, count) in counts.iter().enumerate() {
            let (means, within) = chunk_of(index);
            for (other, within) in means.iter().zip(within) {
                squares += f64::from(*within) + count * (f64::from(*other) - mean).powi(2);
            }
        }
        statistics[0] = (mean, 1.0 / (squares / total + eps).sqrt());
    });
    let factors = arguments.floats_out("factors");
    for (sample, factors) in factors.chunks_exact_mut(2 * channels).take(samples).enumerate() {
        let (means, scales) = factors.split_at_mut(channels);
        for channel in 0..channels {
            let (mean, normal) = statistics[sample * groups + channel / width];
            means[channel] = mean as f32;
            scales[channel] = (f64::from(gamma[channel]) * normal) as f32;
        }
    }
}
