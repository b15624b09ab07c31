//! Element types changed.

use super::elementwise::Spread;
use crate::device::{Call, Tunable, arguments};
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{DType, Result};

/// The same values stored as `dtype`; the same memory where they already are.
///
/// # Shapes
///
/// - result: the shape of `x`
///
/// # Errors
///
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Device`](crate::Error::Device).
///
/// # Precision
///
/// Rounded to the nearest, ties to even. What is too large for f16 becomes infinite.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let y = Tensor::empty_like(x, x.shape(), dtype)?;
    let target = ("TARGET_F16", u32::from(dtype == DType::F16));
    for band in y.bands() {
        let elements = y.elements(&band);
        let x_band = x.band(&band)?;
        let class = Class(vec![("elements", elements)]);
        let groups = |spread: &Spread| [spread.groups(elements), 1, 1];
        let spread = Spread::new(x.device(), "cast", x.dtype(), &class, &[target]);
        let y_band = y.output(&band)?;
        x.device().run_tuned(
            &Call {
                kernel: "cast",
                dtype: x.dtype(),
                configuration: &spread.configuration,
                arguments: &arguments! {
                    x: &*x_band,
                    y: Output(&y_band),
                    elements: elements as u32,
                },
                groups: groups(&spread),
                local: spread.local(),
                flop: 0,
                bytes: (elements * (x.dtype().size() + dtype.size())) as u64,
            },
            &Tunable {
                class: &class,
                output: dtype,
                grid: &|configuration| Spread::grid(configuration, groups),
            },
        )?;
        y_band.keep()?;
    }
    Ok(y)
}
