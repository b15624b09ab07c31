//! See `kernels/cast.cl`.

use super::vector_math::narrow;
use super::{Arguments, Reals, RealsMut, parallel, rows};
use crate::DType;

/// Elements that a task converts.
const TASK: usize = 8192;

pub fn definition(arguments: &Arguments) {
    let target = if arguments.parameter("TARGET_F16") != 0 { DType::F16 } else { DType::F32 };
    let x = arguments.reals("x");
    let mut y = arguments.reals_out_as("y", target);
    for index in 0..arguments.size("elements") {
        y.set(index, f64::from(x.get(index)));
    }
}

pub fn fast(arguments: &Arguments) {
    let target = if arguments.parameter("TARGET_F16") != 0 { DType::F16 } else { DType::F32 };
    let (x, elements) = (arguments.reals("x"), arguments.size("elements"));
    let y = arguments.reals_out_as("y", target);
    match (x, y) {
        (Reals::F32(x), RealsMut::F16(y)) => {
            let y = &mut y[..elements];
            parallel::for_each_piece(y, TASK, |index, y| {
                narrow(&x[index * TASK..][..y.len()], y);
            });
        }
        (x, y) => rows::write(y, elements, 1, |start, values| rows::read(&x, start, values)),
    }
}
