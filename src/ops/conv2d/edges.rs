//! The first and the last convolution of a model: few channels in, or few out.

use crate::DType;
use crate::device::{Device, Grid};
use crate::info::DeviceInfo;
use crate::ops::conv2d::Problem;
use crate::ops::tiles::{Tiling, suggested_register_tiles};
use crate::tune::Class;

/// How an edge is computed: a kernel with the arguments of `conv2d_register`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// `conv2d_few_inputs`: windows are read where neighbours overlap.
    FewInputs,
    /// `conv2d_few_outputs`: all taps of a window at once.
    FewOutputs,
}

/// The channels up to which gathering windows would take as long as multiplying them.
const FEW_INPUTS: usize = 8;
/// The outputs up to which most of a panel would be empty.
const FEW_OUTPUTS: usize = 8;
/// The most channels whose taps are held at once.
const MOST_CHANNELS: usize = 1280;
/// The least columns of an image to few outputs: the kernel reads whole tiles of a row.
const FEW_OUTPUTS_WIDTH: usize = 16;
/// Pixels for a work-item: rows that it shares with a neighbour are few beside its own.
const ITEM_PIXELS: usize = 512;

/// Whether a convolution is an edge, on a device whose work-items hold large tiles in registers.
pub fn edge(problem: &Problem, info: &DeviceInfo) -> Option<Edge> {
    let params = &problem.params;
    if !info.prefers_register_tiles() || !params.is_3x3_of_stride_1() || params.upsample {
        return None;
    }
    if problem.outputs <= FEW_OUTPUTS
        && (FEW_INPUTS + 1..=MOST_CHANNELS).contains(&problem.channels)
        && params.read_size(problem.input)[1] >= FEW_OUTPUTS_WIDTH
    {
        Some(Edge::FewOutputs)
    } else if problem.channels <= FEW_INPUTS && problem.outputs > FEW_OUTPUTS {
        Some(Edge::FewInputs)
    } else {
        None
    }
}

impl Edge {
    /// The kernel's name.
    pub fn kernel(self) -> &'static str {
        match self {
            Edge::FewInputs => "conv2d_few_inputs",
            Edge::FewOutputs => "conv2d_few_outputs",
        }
    }
}

/// How an edge's kernel is launched, by the class that every convolution has: rows, outputs,
/// channels.
pub(super) fn edge_tiling(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
) -> Tiling {
    let [outputs, channels] = [1, 2].map(|index| class.0[index].1);
    let [vector, tile_rows, tiles, ..] = suggested_register_tiles(device.info(), class.0[0].1);
    let mut suggested = vec![("CHANNELS", channels as u32), vector];
    if kernel == Edge::FewOutputs.kernel() {
        suggested.push(("OUTPUTS", outputs as u32));
    }
    suggested.extend(match (vector.1, kernel == Edge::FewOutputs.kernel()) {
        // As many rows as there are registers for: strips whose ring stays in a first cache, and
        // rows of 64 pixels in five tiles.
        (16, true) => [("TILE_M", 14), ("TILES", 4)],
        (16, false) => [("TILE_M", 13), ("TILES", 8)],
        _ => [tile_rows, tiles],
    });
    let configuration = device.configuration(kernel, dtype, class, &suggested);
    Tiling::new(device, class, configuration, |info, class, _| {
        // Several for each core, so that the last ones end together.
        let items = (class.0[0].1 / ITEM_PIXELS).clamp(1, 4 * info.compute_units as usize);
        Grid { groups: [items, 1, 1], local: [1, 1, 1] }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Padding;
    use crate::ops::conv2d::Conv2d;
    use crate::ops::tiles::tests::{cpu, gpu};

    #[test]
    fn the_first_and_last_convolutions_are_edges() {
        let padding = Padding::same(1);
        let same = Conv2d { kernel: [3, 3], stride: 1, padding, upsample: false, crop: [0, 0] };
        let layer = |channels, outputs, side, params| Problem {
            samples: 1,
            input: [side, side],
            channels,
            output: [side, side],
            outputs,
            params,
            sample_bias: false,
        };
        let strided = Conv2d { stride: 2, ..same };
        for (name, problem, expected) in [
            ("unet's first", layer(4, 320, 64, same), Some(Edge::FewInputs)),
            ("vae encoder's first", layer(3, 128, 512, same), Some(Edge::FewInputs)),
            ("unet's last", layer(320, 4, 64, same), Some(Edge::FewOutputs)),
            ("vae decoder's last", layer(128, 3, 512, same), Some(Edge::FewOutputs)),
            ("vae encoder's last", layer(512, 8, 64, same), Some(Edge::FewOutputs)),
            ("a resnet", layer(320, 320, 64, same), None),
            ("the last of a narrow image", layer(320, 4, 15, same), None),
            ("few of both", layer(4, 4, 64, same), None),
            ("strided", layer(4, 320, 64, strided), None),
        ] {
            assert_eq!(edge(&problem, &cpu(16)), expected, "{name}");
            assert_eq!(edge(&problem, &gpu()), None, "{name}: a GPU takes local tiles");
        }
    }
}
