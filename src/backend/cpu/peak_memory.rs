//! See `kernels/peak_memory.cl`.

use rayon::prelude::*;

use super::Arguments;
use super::vector_math::vectorised;

const READ: u32 = 0;
const WRITE: u32 = 1;

pub fn definition(arguments: &Arguments) {
    let (y, elements) = (arguments.floats_out("y"), arguments.size("elements"));
    match arguments.parameter("ACTION") {
        READ => {
            let x = arguments.floats("x");
            let [items, vector, rounds] =
                ["WG_SIZE", "VECTOR", "ROUNDS"].map(|name| arguments.parameter(name) as usize);
            let mut sums = vec![0.0; y.len()];
            for (index, x) in x[..elements].iter().enumerate() {
                let vector = index / vector;
                let (group, item) = (vector / (rounds * items), vector % items);
                sums[group * items + item] += f64::from(*x);
            }
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum as f32);
        }
        WRITE => y[..elements].fill(arguments.float("value")),
        _ => y[..elements].copy_from_slice(&arguments.floats("x")[..elements]),
    }
}

/// Elements that a task writes.
const TASK: usize = 1 << 16;

pub fn fast(arguments: &Arguments) {
    let elements = arguments.size("elements");
    let [items, vector, rounds] =
        ["WG_SIZE", "VECTOR", "ROUNDS"].map(|name| arguments.parameter(name) as usize);
    match arguments.parameter("ACTION") {
        // The elements of one work-item lie in a row.
        READ if items == 1 => {
            let x = &arguments.floats("x")[..elements];
            let parts = x.par_chunks(vector * rounds);
            parts.zip(arguments.floats_out("y").par_iter_mut()).for_each(|(x, y)| add(x, y));
        }
        READ => definition(arguments),
        WRITE => {
            let (y, value) = (arguments.floats_out("y"), arguments.float("value"));
            y[..elements].par_chunks_mut(TASK).for_each(|y| y.fill(value));
        }
        _ => {
            let (x, y) = (arguments.floats("x"), arguments.floats_out("y"));
            let parts = x[..elements].par_chunks(TASK).zip(y[..elements].par_chunks_mut(TASK));
            parts.for_each(|(x, y)| y.copy_from_slice(x));
        }
    }
}

vectorised! {
    /// The sum of `x`, in 64 parts that do not wait for each other.
    fn add<FMA>(x: &[f32], y: &mut f32) {
        let mut sums = [0.0; 64];
        let (blocks, rest) = x.as_chunks::<64>();
        for block in blocks {
            sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
        }
        sums.iter_mut().zip(rest).for_each(|(sum, value)| *sum += value);
        *y = sums.iter().sum();
    }
}
