//! See `kernels/gaussian_sample.cl`.

use super::Arguments;

pub fn definition(arguments: &Arguments) {
    let (moments, noise) = (arguments.reals("moments"), arguments.floats("noise"));
    let (pixels, channels) = (arguments.size("pixels"), arguments.size("channels"));
    let scale = f64::from(arguments.float("scale"));
    let y = arguments.floats_out("y");
    for pixel in 0..pixels {
        for channel in 0..channels {
            let mean = f64::from(moments.get(pixel * 2 * channels + channel));
            let log_variance = f64::from(moments.get((pixel * 2 + 1) * channels + channel));
            let deviation = (0.5 * log_variance.clamp(-30.0, 20.0)).exp();
            let index = pixel * channels + channel;
            y[index] = ((mean + deviation * f64::from(noise[index])) * scale) as f32;
        }
    }
}
