//! See `kernels/cast.cl`.

use super::Arguments;
use crate::DType;

pub fn definition(arguments: &Arguments) {
    let target = if arguments.parameter("TARGET_F16") != 0 { DType::F16 } else { DType::F32 };
    let x = arguments.reals("x");
    let mut y = arguments.reals_out_as("y", target);
    for index in 0..arguments.size("elements") {
        y.set(index, f64::from(x.get(index)));
    }
}
