//! See `kernels/peak_launch.cl`.

use super::Arguments;

pub fn definition(arguments: &Arguments) {
    arguments.floats_out("y")[0] = arguments.float("value");
}
