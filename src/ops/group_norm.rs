//! Normalization of groups of channels.

use super::Activation;
use super::elementwise::Spread;
use crate::backend::Buffer;
use crate::device::{Call, Grid, Tunable, arguments};
use crate::kernel::Configuration;
use crate::memory::{Block, Lifetime};
use crate::tensor::{Band, BandBuffer, BandOutput, Tensor};
use crate::tune::Class;
use crate::{DType, Error, Result};

/// How [`group_norm`] normalizes, and what follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Applied to the result.
    pub activation: Activation,
}

/// Pixels whose statistics one work-item takes: few enough to be read again from a cache, and to
/// give every work-item of a large device its share. More where an image has very many.
const CHUNK: usize = 64;
/// Chunks of a sample, beyond which merging them would take its time, but for those that bands cut
/// short.
const MOST_CHUNKS: usize = 4096;

/// Normalizes each group of channels of `x` and `x2` side by side to mean 0 and variance 1, then
/// scales by `gamma`, shifts by `beta` and applies an activation.
///
/// The two inputs are read as one without a copy; a group may straddle their border.
///
/// # Shapes
///
/// - `x`: `[N, .., C1]`, `x2`: `[N, .., C2]`, with `C = C1 + C2` a multiple of `groups`; at least
///   three axes
/// - `gamma`, `beta`: `[C]`, f32
/// - result: `[N, .., C]` of the element type of `x`
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above; [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// Statistics are f32 for every element type: mean first, then squares, for every channel of a
/// chunk of pixels; chunks are merged in a fixed order. The error grows with the mean that is
/// subtracted, not with its square.
pub fn group_norm(
    x: &Tensor,
    x2: Option<&Tensor>,
    gamma: &Tensor,
    beta: &Tensor,
    params: &GroupNorm,
) -> Result<Tensor> {
    let input = Input::check(x, x2, gamma, beta, params.groups)?;
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has three axes") = input.channels;
    let y = Tensor::empty_like(x, &shape, x.dtype())?;
    let factors = input.factors(&y.bands(), gamma, params)?;
    let normed = Normed { input, factors, beta, activation: params.activation };
    normed.store(y)
}

/// A tensor that is normalized wherever its rows are read, for an op that reads each once: what is
/// parked on the host is neither written there nor read back.
pub(crate) struct Normed<'a> {
    input: Input<'a>,
    factors: Block,
    beta: &'a Tensor,
    activation: Activation,
}

impl<'a> Normed<'a> {
    /// As [`group_norm`] of `x`, whose statistics are taken now.
    pub fn new(
        x: &'a Tensor,
        gamma: &Tensor,
        beta: &'a Tensor,
        params: &GroupNorm,
    ) -> Result<Self> {
        let input = Input::check(x, None, gamma, beta, params.groups)?;
        let factors = input.factors(&x.bands(), gamma, params)?;
        Ok(Self { input, factors, beta, activation: params.activation })
    }

    /// What is normalized, of the same shape.
    pub fn input(&self) -> &'a Tensor {
        self.input.x
    }

    /// All of it.
    pub fn whole(&self) -> Result<Tensor> {
        let x = self.input.x;
        self.store(Tensor::empty_like(x, x.shape(), x.dtype())?)
    }

    fn store(&self, y: Tensor) -> Result<Tensor> {
        for band in y.bands() {
            let y_band = y.output(&band)?;
            self.apply(&band, &y_band)?;
            y_band.keep()?;
        }
        Ok(y)
    }

    /// Some rows.
    pub fn band(&self, band: &Band) -> Result<BandBuffer<'a>> {
        let x = self.input.x;
        let bytes = (x.elements(band) * x.dtype().size()) as u64;
        let rows = x.device().memory().allocate(bytes, Lifetime::Transient)?;
        self.apply(band, rows.buffer())?;
        Ok(BandBuffer::Gathered(rows))
    }

    fn apply(&self, band: &Band, y: &Buffer) -> Result<()> {
        let input = &self.input;
        let (x_band, x2_band) = input.band(band)?;
        let pixels = band.rows.len() * input.pixels_per_row;
        let elements = band.samples.len() * pixels * input.channels;
        let (class, dtype) = (input.class(pixels), input.x.dtype());
        let spread = input.spread("group_norm_apply", &class);
        let grid = |configuration: &Configuration| {
            Spread::grid(configuration, |spread| input.grid(spread, band))
        };
        input.x.device().run_tuned(
            &Call {
                kernel: "group_norm_apply",
                dtype,
                configuration: &spread.configuration,
                arguments: &arguments! {
                    x: &*x_band,
                    x2: x2_band.as_deref(),
                    factors: self.factors.buffer(),
                    beta: self.beta.buffer(),
                    y: Output(y),
                    pixels: pixels as u32,
                    channels: input.channels as u32,
                    x_channels: input.x_channels as u32,
                    chunk: input.chunk as u32,
                    first_sample: band.samples.start as u32,
                    samples: band.samples.len() as u32,
                    activation: self.activation as u32,
                },
                groups: input.grid(&spread, band),
                local: spread.local(),
                flop: 4 * elements as u64,
                bytes: (2 * elements * dtype.size()) as u64,
            },
            &Tunable { class: &class, output: dtype, grid: &grid },
        )
    }
}

/// Keeps the bands of an op's result, a picture. Of one that is parked it takes the statistics while
/// each band is on the device, for the norm that reads it next: it need not be read back for them.
pub(crate) struct Kept {
    y: Tensor,
    partials: Option<Block>,
}

impl Kept {
    /// Of a result that nothing is written to yet.
    pub fn new(y: Tensor) -> Result<Self> {
        let input = Input::new(&y, None);
        let partials = y.is_parked().then(|| input.partials(input.chunks_of_all(&y.bands())));
        Ok(Self { partials: partials.transpose()?, y })
    }

    /// The result.
    pub fn tensor(&self) -> &Tensor {
        &self.y
    }

    /// Keeps what was written of a band.
    pub fn keep(&self, band: &Band, output: BandOutput) -> Result<()> {
        if let Some(partials) = &self.partials {
            let (input, bands) = (Input::new(&self.y, None), self.y.bands());
            input.statistics(band, &bands, (&output, None), partials)?;
        }
        output.keep()
    }

    /// The result, of which every band was kept.
    pub fn whole(self) -> Tensor {
        match self.partials {
            Some(partials) => self.y.with_statistics(partials),
            None => self.y,
        }
    }
}

/// One or two tensors read as one.
struct Input<'a> {
    x: &'a Tensor,
    x2: Option<&'a Tensor>,
    /// Of both.
    channels: usize,
    /// Of `x` alone.
    x_channels: usize,
    /// Pixels of a step along the second axis, by which tensors are cut into bands.
    pixels_per_row: usize,
    /// Pixels of a chunk.
    chunk: usize,
}

impl<'a> Input<'a> {
    fn check(
        x: &'a Tensor,
        x2: Option<&'a Tensor>,
        gamma: &Tensor,
        beta: &Tensor,
        groups: usize,
    ) -> Result<Self> {
        let error = |detail: String| Err(Error::shape("group_norm", detail));
        let &[_, _, .., mut channels] = x.shape() else {
            return error(format!("x must be [N, .., C] of at least 3 axes, got {:?}", x.shape()));
        };
        if let Some(x2) = x2 {
            let (axes, got) = (x.shape().len(), x2.shape());
            if got.len() != axes || got[..axes - 1] != x.shape()[..axes - 1] {
                return error(format!("x2 must be {:?} but for C, got {got:?}", x.shape()));
            }
            if x2.dtype() != x.dtype() {
                return error(format!("x2 must be {} as x is, got {}", x.dtype(), x2.dtype()));
            }
            channels += got[axes - 1];
        }
        if groups == 0 || !channels.is_multiple_of(groups) {
            return error(format!("expected groups that divide {channels} channels, got {groups}"));
        }
        for (name, tensor) in [("gamma", gamma), ("beta", beta)] {
            if tensor.shape() != [channels] || tensor.dtype() != DType::F32 {
                let (shape, dtype) = (tensor.shape(), tensor.dtype());
                return error(format!("{name} must be [{channels}] f32, got {shape:?} {dtype}"));
            }
        }
        Ok(Self::new(x, x2))
    }

    /// Of tensors that have three axes and agree.
    fn new(x: &'a Tensor, x2: Option<&'a Tensor>) -> Self {
        let channels_of = |tensor: &Tensor| tensor.shape()[tensor.shape().len() - 1];
        let x_channels = channels_of(x);
        let pixels_per_row: usize = x.shape()[2..x.shape().len() - 1].iter().product();
        let chunk = CHUNK.max((x.shape()[1] * pixels_per_row).div_ceil(MOST_CHUNKS));
        let channels = x_channels + x2.map_or(0, channels_of);
        Self { x, x2, channels, x_channels, pixels_per_row, chunk }
    }

    fn band(&self, band: &Band) -> Result<(BandBuffer<'a>, Option<BandBuffer<'a>>)> {
        Ok((self.x.band(band)?, self.x2.map(|x2| x2.band(band)).transpose()?))
    }

    fn chunks(&self, band: &Band) -> usize {
        (band.rows.len() * self.pixels_per_row).div_ceil(self.chunk)
    }

    /// Of a sample that is cut into these bands.
    fn chunks_of_all(&self, bands: &[Band]) -> usize {
        let of_first = bands.iter().filter(|band| band.samples.contains(&0));
        of_first.map(|band| self.chunks(band)).sum()
    }

    fn floats(&self, count: usize) -> Result<Block> {
        let bytes = (count * size_of::<f32>()) as u64;
        self.x.device().memory().allocate(bytes, Lifetime::Transient)
    }

    /// Room for the statistics of every channel of so many chunks of each sample.
    fn partials(&self, chunks: usize) -> Result<Block> {
        self.floats(self.x.shape()[0] * chunks * 2 * self.channels)
    }

    fn class(&self, pixels: usize) -> Class {
        Class(vec![("pixels", pixels), ("channels", self.channels)])
    }

    fn spread(&self, kernel: &'static str, class: &Class) -> Spread {
        // A processor foresees memory in its order: all channels of a pixel, then the next pixel's.
        let rounds = if self.x.device().info().prefers_register_tiles() { 64 } else { 1 };
        Spread::new(self.x.device(), kernel, self.x.dtype(), class, &[("ROUNDS", rounds)])
    }

    /// Work-groups over (chunk, vector of channels) and samples.
    fn grid(&self, spread: &Spread, band: &Band) -> [usize; 3] {
        let of_item = spread.vector * spread.rounds;
        let items = self.chunks(band) * self.channels.div_ceil(of_item);
        [items.div_ceil(spread.items), band.samples.len(), 1]
    }

    /// What is subtracted from each channel of each sample, and what multiplies it: `[N, 2, C]`.
    /// The statistics are taken of some bands that make up the whole.
    fn factors(&self, bands: &[Band], gamma: &Tensor, params: &GroupNorm) -> Result<Block> {
        let device = self.x.device();
        let samples = self.x.shape()[0];
        let chunks = self.chunks_of_all(bands);
        let taken;
        let partials = match self.x.statistics() {
            Some(known) if self.x2.is_none() && self.x.bands() == bands => known,
            _ => {
                taken = self.partials(chunks)?;
                for band in bands {
                    let (x, x2) = self.band(band)?;
                    self.statistics(band, bands, (&x, x2.as_deref()), &taken)?;
                }
                &taken
            }
        };
        let factors = self.floats(samples * 2 * self.channels)?;
        let pixels_per_band = match bands.len() {
            1 => self.x.shape()[1] * self.pixels_per_row,
            _ => bands[0].rows.len() * self.pixels_per_row,
        };
        let class = Class(vec![("chunks", chunks), ("channels", self.channels)]);
        let configuration = device.configuration("group_norm_merge", DType::F32, &class, &[]);
        let grid = |configuration: &Configuration| Grid {
            groups: [params.groups, samples, 1],
            local: [configuration.size("WG_SIZE"), 1, 1],
        };
        let Grid { groups, local } = grid(&configuration);
        device.run_tuned(
            &Call {
                kernel: "group_norm_merge",
                dtype: DType::F32,
                configuration: &configuration,
                arguments: &arguments! {
                    partials: partials.buffer(),
                    gamma: gamma.buffer(),
                    factors: Output(factors.buffer()),
                    samples: samples as u32,
                    groups: params.groups as u32,
                    channels: self.channels as u32,
                    chunks: chunks as u32,
                    chunk: self.chunk as u32,
                    pixels: (self.x.shape()[1] * self.pixels_per_row) as u32,
                    band_pixels: pixels_per_band as u32,
                    eps: params.eps,
                },
                groups,
                local,
                flop: 10 * (samples * chunks * self.channels) as u64,
                bytes: (samples * chunks * 2 * self.channels * size_of::<f32>()) as u64,
            },
            &Tunable { class: &class, output: DType::F32, grid: &grid },
        )?;
        Ok(factors)
    }

    /// Of one of `bands`, which lies in `x` and `x2`.
    fn statistics(
        &self,
        band: &Band,
        bands: &[Band],
        (x, x2): (&Buffer, Option<&Buffer>),
        partials: &Block,
    ) -> Result<()> {
        let above = bands
            .iter()
            .filter(|other| other.samples == band.samples && other.rows.start < band.rows.start);
        let first_chunk: usize = above.map(|band| self.chunks(band)).sum();
        let chunks = self.chunks_of_all(bands);
        let pixels = band.rows.len() * self.pixels_per_row;
        let elements = band.samples.len() * pixels * self.channels;
        let class = self.class(pixels);
        let spread = self.spread("group_norm_statistics", &class);
        let grid = |configuration: &Configuration| {
            Spread::grid(configuration, |spread| self.grid(spread, band))
        };
        self.x.device().run_tuned(
            &Call {
                kernel: "group_norm_statistics",
                dtype: self.x.dtype(),
                configuration: &spread.configuration,
                arguments: &arguments! {
                    x: x,
                    x2: x2,
                    partials: Output(partials.buffer()),
                    pixels: pixels as u32,
                    channels: self.channels as u32,
                    x_channels: self.x_channels as u32,
                    chunk: self.chunk as u32,
                    chunks: chunks as u32,
                    first_chunk: first_chunk as u32,
                    first_sample: band.samples.start as u32,
                    samples: band.samples.len() as u32,
                },
                groups: self.grid(&spread, band),
                local: spread.local(),
                flop: 4 * elements as u64,
                bytes: (elements * self.x.dtype().size()) as u64,
            },
            &Tunable { class: &class, output: DType::F32, grid: &grid },
        )
    }
}
