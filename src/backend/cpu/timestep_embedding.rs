//! See `kernels/timestep_embedding.cl`.

use super::Arguments;

pub fn definition(arguments: &Arguments) {
    let (timesteps, frequencies) = (arguments.floats("timesteps"), arguments.floats("frequencies"));
    let (samples, width) = (arguments.size("samples"), arguments.size("width"));
    let flip = arguments.size("flip_sin_to_cos") != 0;
    let mut y = arguments.reals_out("y");
    let half = width / 2;
    for (sample, timestep) in timesteps[..samples].iter().enumerate() {
        for column in 0..width {
            let value = if column == 2 * half {
                0.0
            } else {
                // Rounded to f32, as the contract has it.
                let angle = f64::from(timestep * frequencies[column % half]);
                if (column < half) == flip { angle.cos() } else { angle.sin() }
            };
            y.set(sample * width + column, value);
        }
    }
}
