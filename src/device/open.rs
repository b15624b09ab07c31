//! Choosing and opening a device.

use std::sync::Arc;

use super::{Device, DeviceOptions};
use crate::backend::cpu::Cpu;
use crate::backend::{Argument, Backend, Launch, ProgramSource, Value};
use crate::hardware::{DeviceEntry, FreeMemory, Wanted, detect, free_memory, memory_fraction};
use crate::kernel::{Configuration, Kernel};
use crate::{DType, Error, Result, knob};

impl Device {
    /// Opens the device that `wanted` names: `auto`, or the id of one of
    /// [`detect`]'s entries.
    ///
    /// `auto` is the best GPU on which a small kernel gives the right result, and the host where
    /// there is none: a driver that is there but does not work is passed over with a warning and
    /// a line in [`Device::notes`].
    ///
    /// Compiled programs are kept in [`DeviceOptions::cache_dir`], or where
    /// [`knob::cache_dir`] says; tuned configurations in [`DeviceOptions::tuning`], or where
    /// [`knob::tuning`] says.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `wanted` is no such name, or if a knob is malformed;
    /// [`Error::NoDevice`] if there is no such device or it cannot be used; [`Error::Device`] if
    /// its driver fails.
    pub fn open(wanted: &str, options: &DeviceOptions) -> Result<Self> {
        knob::cpu_lanes()?;
        let id = match Wanted::parse(wanted)? {
            Wanted::Id(id) => id,
            Wanted::Auto => return Self::open_best(options),
        };
        // The host needs no search for drivers.
        match id.as_str() {
            "cpu" => Ok(Self::opened(Arc::new(Cpu::new()), options.clone())),
            id => Self::open_entry(detect().get(id)?, options),
        }
    }

    /// Opens one of [`detect`]'s entries.
    ///
    /// # Errors
    ///
    /// As [`Device::open`].
    pub fn open_entry(entry: &DeviceEntry, options: &DeviceOptions) -> Result<Self> {
        knob::cpu_lanes()?;
        let mut options = options.clone();
        if options.cache_dir.is_none() {
            options.cache_dir = knob::cache_dir()?;
        }
        if options.tuning.is_none() {
            options.tuning = knob::tuning(options.cache_dir.as_deref())?;
        }
        Ok(Self::opened(entry.open()?, options))
    }

    /// A device whose budget, if none is given, is what its memory has left.
    fn opened(backend: Arc<dyn Backend>, mut options: DeviceOptions) -> Self {
        let info = backend.info();
        let mut notes = Vec::new();
        match options.budget_bytes {
            Some(budget) if budget > info.memory_bytes => {
                let (name, all) = (&info.name, info.memory_bytes);
                let note = format!("the budget of {budget} B is more than the {all} B of {name}");
                tracing::warn!("{note}");
                notes.push(note);
            }
            Some(_) => {}
            None => {
                let free = free_memory(info, backend.free_memory_bytes());
                let share = |free: FreeMemory| (free.bytes as f64 * memory_fraction(info)) as u64;
                options.budget_bytes = free.map(share);
            }
        }
        Self::new(backend, &options).with_notes(notes)
    }

    fn open_best(options: &DeviceOptions) -> Result<Self> {
        let mut notes = Vec::new();
        for entry in detect().gpus() {
            let opened = Self::open_entry(entry, options);
            let probed = opened.and_then(|device| device.probe().map(|()| device));
            match probed {
                Ok(device) => return Ok(device.with_notes(notes)),
                Err(error @ Error::Argument { .. }) => return Err(error),
                Err(error) => {
                    let name = &entry.info.name;
                    let note = format!("{} ({name}) is not used: {error}", entry.id);
                    tracing::warn!("{note}");
                    notes.push(note);
                }
            }
        }
        Ok(Self::opened(Arc::new(Cpu::new()), options.clone()).with_notes(notes))
    }

    /// What went wrong on the way to this device, a line each: GPUs that were passed over, a budget
    /// over the device's memory, a launch limit where there is none, tuned configurations that are of
    /// no use or cannot be kept.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.to_vec();
        notes.extend(self.tuning().notes());
        notes.extend(self.inner.timings.notes());
        notes
    }

    fn with_notes(mut self, mut notes: Vec<String>) -> Self {
        notes.extend_from_slice(&self.notes);
        self.notes = Arc::new(notes);
        self
    }

    /// Runs a small kernel with local memory and barriers and compares its result with the
    /// definition's.
    ///
    /// # Errors
    ///
    /// [`Error::Build`] or [`Error::Device`] if the driver fails, the latter also if the result is
    /// wrong.
    pub fn probe(&self) -> Result<()> {
        let kernel = Kernel::find("layer_norm").expect("layer_norm is in the catalogue");
        let source = ProgramSource {
            kernel: kernel.name,
            dtype: DType::F32,
            parameters: Configuration::defaults(kernel.parameters).values().to_vec(),
            source: kernel.source,
        };
        let actual = run_probe(self.backend(), &source, |source| {
            self.inner.programs.get(self.backend(), source.clone())
        })?;
        let definitions = Cpu::definitions();
        let expected =
            run_probe(&definitions, &source, |source| definitions.build(source).map(Arc::new))?;
        let close = |(actual, expected): (&f32, &f32)| (actual - expected).abs() < 1e-3;
        if actual.iter().zip(&expected).all(close) {
            return Ok(());
        }
        let detail = "layer_norm gives a wrong result".to_owned();
        Err(Error::Device { call: "the probe", detail })
    }
}

/// layer_norm of a few rows.
fn run_probe(
    backend: &dyn Backend,
    source: &ProgramSource,
    program: impl FnOnce(&ProgramSource) -> Result<Arc<crate::backend::Program>>,
) -> Result<Vec<f32>> {
    const ROWS: usize = 3;
    const CHANNELS: usize = 100;
    let upload = |values: &mut dyn Iterator<Item = f32>| {
        let bytes: Vec<u8> = values.flat_map(f32::to_ne_bytes).collect();
        let buffer = backend.allocate(bytes.len() as u64)?;
        backend.write(&buffer, 0, &bytes)?;
        Ok::<_, Error>(buffer)
    };
    let x = upload(&mut (0..ROWS * CHANNELS).map(|i| (i * 37 % 101) as f32 / 50.0))?;
    let gamma = upload(&mut (0..CHANNELS).map(|i| 1.0 + i as f32 / 100.0))?;
    let beta = upload(&mut (0..CHANNELS).map(|i| i as f32 / 10.0))?;
    let y = upload(&mut std::iter::repeat_n(f32::NAN, ROWS * CHANNELS))?;
    let arguments = super::arguments! {
        x: &x,
        gamma: &gamma,
        beta: &beta,
        y: Value::Output(&y),
        rows: ROWS as u32,
        channels: CHANNELS as u32,
        eps: 1e-5f32,
    };
    let arguments: &[Argument] = &arguments;
    let local = [source.parameters[0].1 as usize, 1, 1];
    backend.launch(&*program(source)?, &Launch { arguments, groups: [ROWS, 1, 1], local })?;
    let mut bytes = vec![0; ROWS * CHANNELS * size_of::<f32>()];
    backend.read(&y, 0, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|chunk| f32::from_ne_bytes(*chunk)).collect())
}
