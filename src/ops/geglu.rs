//! The gated activation of a transformer's feed-forward layer.

use super::elementwise::Spread;
use crate::device::{Call, Tunable, arguments};
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{Error, Result};

/// The first half of each row times the GELU, by the error function, of the second.
///
/// # Shapes
///
/// - `x`: `[.., 2C]`, at least two axes
/// - result: `[.., C]` of the element type of `x`
///
/// # Errors
///
/// [`Error::Shape`] if the last axis is not even; [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// f32 for every element type, rounded once.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let error = |detail| Err(Error::shape("geglu", detail));
    let width = match *x.shape() {
        // Tensors are cut along their second axis, which must not be the one that is halved.
        [rows, width] if width.is_multiple_of(2) => {
            return geglu(&x.reshape(&[1, rows, width])?)?.reshape(&[rows, width / 2]);
        }
        [_, _, .., width] if width.is_multiple_of(2) => width,
        ref got => return error(format!("x must be [.., 2C], at least two axes, got {got:?}")),
    };
    let channels = width / 2;
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has three axes") = channels;
    let y = Tensor::empty_like(x, &shape, x.dtype())?;
    for band in y.bands() {
        let rows = y.elements(&band) / channels;
        let x_band = x.band(&band)?;
        let class = Class(vec![("rows", rows), ("channels", channels)]);
        let groups = |spread: &Spread| [spread.groups(channels), rows, 1];
        let spread = Spread::new(x.device(), "geglu", x.dtype(), &class, &[]);
        let y_band = y.output(&band)?;
        x.device().run_tuned(
            &Call {
                kernel: "geglu",
                dtype: x.dtype(),
                configuration: &spread.configuration,
                arguments: &arguments! {
                    x: &*x_band,
                    y: Output(&y_band),
                    rows: rows as u32,
                    channels: channels as u32,
                },
                groups: groups(&spread),
                local: spread.local(),
                flop: 20 * (rows * channels) as u64,
                bytes: (3 * rows * channels * x.dtype().size()) as u64,
            },
            &Tunable {
                class: &class,
                output: x.dtype(),
                grid: &|configuration| Spread::grid(configuration, groups),
            },
        )?;
        y_band.keep()?;
    }
    Ok(y)
}
