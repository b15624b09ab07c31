//! See `kernels/group_norm_statistics.cl`.

use super::Arguments;

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
