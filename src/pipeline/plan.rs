//! What a picture will take, by a dry run.

use std::fmt;
use std::ops::ControlFlow;

use serde::Serialize;

use super::ladder::RungTaken;
use super::rungs::Ways;
use super::time::{PlanTimes, Recording};
use super::{Component, LoadOptions, Pipeline, Progress, Request, Rung};
use crate::backend::ProgramSource;
use crate::device::Device;
use crate::memory::MemoryStats;
use crate::models::ModelFiles;
use crate::ops::Products;
use crate::profile::Work;
use crate::{DType, Result};

/// What drawing a request takes on a device, known before anything is allocated there.
///
/// The dry run takes the same decisions under the same budget as the real run, so the peak is that
/// of the real run to the byte, unless others take the device's memory meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The device.
    pub device: String,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// How weights and activations are stored.
    pub dtype: String,
    /// Whether matrices in blocks are multiplied in bytes.
    pub int8_products: bool,
    /// Calls of the UNet.
    pub calls: usize,
    /// The side in pixels of the VAE decoder's tiles, if it works in tiles.
    pub vae_tile: Option<usize>,
    /// Whether these tiles are blended.
    pub vae_blended: bool,
    /// The format that weights are held in for want of memory, if they are:
    /// [`LoadOptions::fitted_in_fewer_bits`].
    pub fewer_bits: Option<String>,
    /// What is done for want of memory, in this order.
    pub rungs: Vec<Rung>,
    /// What the model's weights hold on the device, in bytes.
    pub weight_bytes: u64,
    /// Components whose weights are on the host, or those of them that have no room.
    pub offloaded: Vec<Component>,
    /// What they hold there, in bytes; of weights that are left in files, those on their way.
    pub host_bytes: u64,
    /// What is left in files until it is used, in bytes.
    pub file_bytes: u64,
    /// Bytes of weights that are copied to the device while the picture is drawn.
    pub copied_bytes: u64,
    /// The most that is held at once, weights and activations, in bytes.
    pub peak_bytes: u64,
    /// The most of pictures that is parked on the host at once, in bytes.
    pub parked_bytes: u64,
    /// The largest single allocation, in bytes.
    pub largest_allocation_bytes: u64,
    /// Kernel launches.
    pub launches: u64,
    /// Floating-point operations and bytes read and written by kernels.
    pub work: Work,
    /// What the programs are compiled from, for [`Device::prepare`].
    #[serde(skip)]
    pub programs: Vec<ProgramSource>,
    /// Memory by label.
    pub memory: MemoryStats,
    /// How long it takes, once [`Plan::time`] or [`Plan::estimate`] has predicted it.
    pub times: Option<PlanTimes>,
    /// What is done to need less memory and what each of it gives and takes, once [`Plan::time`] has
    /// predicted it.
    pub ladder: Vec<RungTaken>,
    #[serde(skip)]
    pub(super) recording: Recording,
}

/// A plan on a dry run.
pub(super) fn plan(
    dry: &Device,
    files: &ModelFiles,
    dtype: DType,
    options: &LoadOptions,
    request: &Request,
    ways: Ways,
) -> Result<Plan> {
    let pipeline = Pipeline::load(dry, files, dtype, options)?;
    let weight_bytes = dry.memory_stats().held_bytes;
    let (mut calls, mut rungs, mut vae_tile, mut vae_blended) = (0, Vec::new(), None, false);
    let pictures = pipeline.generate_from(request, ways, &mut |progress| {
        match progress {
            Progress::Step { done, .. } => calls = *done,
            Progress::LowMemory { rung, .. } => rungs.push(*rung),
            // The encoder's come before this.
            Progress::Decoding => (vae_tile, vae_blended) = (None, false),
            Progress::VaeTiled { tile } => vae_tile = Some(*tile),
            Progress::VaeBlended { tile } => (vae_tile, vae_blended) = (Some(*tile), true),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    let recorded = dry.recorded().expect("a dry run records");
    let (launches, stages) = dry.recorded_stages().expect("a dry run records");
    let memory = dry.memory_stats();
    Ok(Plan {
        device: dry.info().name.clone(),
        size: pictures.first().map_or([0, 0], |picture| [picture.width, picture.height]),
        dtype: dtype.name().to_owned(),
        int8_products: files.products() == Products::Int8,
        calls,
        vae_tile,
        vae_blended,
        fewer_bits: None,
        rungs,
        weight_bytes,
        offloaded: options.offload.iter().copied().collect(),
        host_bytes: memory.peak_host_bytes,
        file_bytes: memory.file_bytes,
        copied_bytes: memory.copied_bytes,
        peak_bytes: memory.peak_held_bytes,
        parked_bytes: memory.peak_parked_bytes,
        largest_allocation_bytes: recorded.largest_allocation_bytes,
        launches: recorded.launches,
        work: dry.work(),
        programs: dry.recorded_programs().expect("a dry run records"),
        memory,
        times: None,
        recording: Recording {
            launches,
            stages,
            options: options.clone(),
            request: request.clone(),
        },
        ladder: Vec::new(),
    })
}

impl Plan {
    /// Whether it does the same for want of memory, but for where weights are.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let done = |plan: &Self| (plan.rungs.clone(), plan.vae_tile, plan.vae_blended);
        done(self) == done(other)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let [width, height] = self.size;
        writeln!(f, "device            {}", self.device)?;
        writeln!(f, "picture           {width}x{height}, {}", self.dtype)?;
        if let Some(format) = &self.fewer_bits {
            writeln!(f, "less memory       weights in {format}")?;
        }
        if self.int8_products {
            writeln!(f, "products          in bytes")?;
        }
        for rung in &self.rungs {
            writeln!(f, "less memory       {rung}")?;
        }
        if let Some(tile) = self.vae_tile {
            let blended = if self.vae_blended { ", blended" } else { "" };
            writeln!(f, "vae tiles         {tile} pixels{blended}")?;
        }
        writeln!(f, "unet calls        {}", self.calls)?;
        writeln!(f, "kernel launches   {}", self.launches)?;
        writeln!(f, "work              {:.3} TFLOP", self.work.flop as f64 / 1e12)?;
        writeln!(f, "weights           {:.3} GB", gb(self.weight_bytes))?;
        if !self.offloaded.is_empty() {
            let names: Vec<&str> = self.offloaded.iter().map(|part| part.name()).collect();
            writeln!(
                f,
                "on the host       {:.3} GB ({}), {:.3} GB copied while drawing",
                gb(self.host_bytes),
                names.join(", "),
                gb(self.copied_bytes)
            )?;
            if self.file_bytes > 0 {
                writeln!(f, "left in files     {:.3} GB", gb(self.file_bytes))?;
            }
        }
        writeln!(f, "peak memory       {:.3} GB", gb(self.peak_bytes))?;
        if self.parked_bytes > 0 {
            writeln!(f, "parked on host    {:.3} GB at most", gb(self.parked_bytes))?;
        }
        writeln!(f, "largest block     {:.3} GB", gb(self.largest_allocation_bytes))?;
        if let Some(times) = &self.times {
            write!(f, "{times}")?;
        }
        for rung in &self.ladder {
            writeln!(f, "for want of room  {rung}")?;
        }
        write!(f, "\n{}", self.memory)
    }
}
