//! Schedulers: which timesteps a picture passes through, and each step between them.
//!
//! Semantics, names and rounding are those of diffusers, so that a picture made here is the one
//! that diffusers makes. Latents are small and live on the host: a step is plain Rust on slices.
//!
//! ```
//! use std::slice::from_mut;
//!
//! use ellesmere::pipeline::noise::Generator;
//! use ellesmere::pipeline::scheduler::{Scheduler, SchedulerConfig, SchedulerKind};
//!
//! let config = SchedulerConfig::new(SchedulerKind::EulerAncestral);
//! let mut scheduler = Scheduler::new(&config, 20)?;
//! let mut generator = Generator::new(42);
//! let mut sample = generator.normal(4 * 8 * 8);
//! scheduler.scale_initial_noise(&mut sample);
//! for index in 0..scheduler.timesteps().len() {
//!     let input = scheduler.scale_model_input(&sample, index)?;
//!     let output = input; // what the model says of `input` at `scheduler.timesteps()[index]`
//!     scheduler.step(&output, &mut sample, from_mut(&mut generator))?;
//! }
//! # Ok::<(), ellesmere::Error>(())
//! ```

mod config;
mod ddim;
mod dpm_multistep;
mod euler;
mod euler_ancestral;
mod heun;
mod kind;
mod lcm;
mod pndm;
mod prediction;
mod settings;
mod tables;
mod unipc;

pub use config::SchedulerConfig;
pub use kind::SchedulerKind;
pub use prediction::PredictionType;

use crate::pipeline::noise::{Generator, normal_batch};
use crate::{Error, Result};

/// What distinguishes the schedulers. All indices count from the start of the full schedule.
trait Solver: std::fmt::Debug + Send + Sync {
    /// One for each call of the model.
    fn timesteps(&self) -> &[f32];

    /// The deviation of the noise that the first step expects.
    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    /// Model calls per step of the schedule.
    fn order(&self) -> usize {
        1
    }

    /// What the sample is divided by before the model sees it.
    fn input_divisor(&self, _index: usize) -> f32 {
        1.0
    }

    /// The factors of original and noise in the sample at a timestep.
    fn mix(&self, index: usize) -> (f32, f32);

    /// Takes `sample` to the next timestep.
    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], noise: &mut Noise<'_>);

    /// Forgets the steps taken.
    fn reset(&mut self) {}
}

/// The noise of one step, drawn only by schedulers that add some.
struct Noise<'a> {
    generators: &'a mut [Generator],
    count: usize,
}

impl Noise<'_> {
    fn draw(&mut self) -> Vec<f32> {
        normal_batch(self.generators, self.count).expect("step checked that parts are equal")
    }
}

/// A scheduler at work: its timesteps, and how far a picture has come.
///
/// One scheduler steps one picture, or a batch of pictures as one sample, `[N, C, H, W]` one after
/// the other; [`reset`](Scheduler::reset) makes it ready for the next.
#[derive(Debug)]
pub struct Scheduler {
    kind: SchedulerKind,
    solver: Box<dyn Solver>,
    steps: usize,
    begin: usize,
    taken: usize,
    /// How many values the pictures under way have.
    count: Option<usize>,
}

impl Scheduler {
    /// A scheduler of `steps` steps from noise to picture.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `steps` is not 1 to the number of training timesteps or does not
    /// suit the scheduler, or if a field of the configuration is of the wrong type, out of range
    /// or asks for what is not supported; [`Error::File`] if the configuration came from a file.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let kind = config.kind()?;
        let settings = config.settings()?;
        let most = settings.num_train_timesteps;
        if !(1..=most).contains(&steps) {
            return Err(Error::argument("steps", format!("expected 1 to {most}, got {steps}")));
        }
        let solver: Box<dyn Solver> = match kind {
            SchedulerKind::Ddim => Box::new(ddim::Ddim::new(settings, steps)?),
            SchedulerKind::Pndm => Box::new(pndm::Pndm::new(settings, steps)?),
            SchedulerKind::Euler => Box::new(euler::Euler::new(&settings, steps)?),
            SchedulerKind::EulerAncestral => {
                Box::new(euler_ancestral::EulerAncestral::new(&settings, steps)?)
            }
            SchedulerKind::DpmMultistep | SchedulerKind::DpmMultistepKarras => {
                Box::new(dpm_multistep::DpmMultistep::new(settings, steps)?)
            }
            SchedulerKind::Heun => Box::new(heun::Heun::new(&settings, steps)?),
            SchedulerKind::Lcm => Box::new(lcm::Lcm::new(settings, steps)?),
            SchedulerKind::UniPc => Box::new(unipc::UniPc::new(settings, steps)?),
        };
        Ok(Scheduler { kind, solver, steps, begin: 0, taken: 0, count: None })
    }

    /// Which scheduler this is.
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }

    /// The timesteps to call the model with, one for each call, from noise to picture.
    ///
    /// PNDM calls once more than it has steps, Heun twice a step but for the last; whole numbers
    /// are the timesteps of training, and some schedulers ask for those between.
    pub fn timesteps(&self) -> &[f32] {
        &self.solver.timesteps()[self.begin..]
    }

    /// The deviation of the noise that a picture starts from.
    pub fn init_noise_sigma(&self) -> f32 {
        self.solver.init_noise_sigma()
    }

    /// Makes noise of deviation 1 the sample that a picture starts from.
    pub fn scale_initial_noise(&self, noise: &mut [f32]) {
        let sigma = self.init_noise_sigma();
        noise.iter_mut().for_each(|value| *value *= sigma);
    }

    /// Leaves out the first steps, to start from a picture with noise on it instead of noise: the
    /// greater `strength`, the more steps are left, all of them at 1.
    ///
    /// The picture then goes through [`add_noise`](Scheduler::add_noise).
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `strength` is not from 0 to 1, is so small that no step is left, or
    /// a picture is under way.
    pub fn start_from_strength(&mut self, strength: f64) -> Result<()> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::argument("strength", format!("expected 0 to 1, got {strength}")));
        }
        if self.count.is_some() {
            return Err(Error::argument("strength", "expected before the first step, got after"));
        }
        let left = (self.steps as f64 * strength) as usize;
        let begin = (self.steps - left) * self.solver.order();
        if left == 0 || begin >= self.solver.timesteps().len() {
            let steps = self.steps;
            let detail = format!("expected at least {}, got {strength}", 1.0 / steps as f64);
            return Err(Error::argument("strength", format!("{detail}: no step of {steps} left")));
        }
        self.begin = begin;
        Ok(())
    }

    /// A picture with the noise of the first timestep on it: the sample to start from after
    /// [`start_from_strength`](Scheduler::start_from_strength).
    ///
    /// `noise` has deviation 1; the result is as long as both.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `original` and `noise` are not of the same length.
    pub fn add_noise(&self, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        if original.len() != noise.len() {
            let (expected, got) = (original.len(), noise.len());
            let detail = format!("noise must have {expected} values, got {got}");
            return Err(Error::shape("scheduler add_noise", detail));
        }
        let (signal, sigma) = self.solver.mix(self.begin);
        Ok(original
            .iter()
            .zip(noise)
            .map(|(value, noise)| signal * value + sigma * noise)
            .collect())
    }

    /// What the model is given for `sample` at `timesteps()[index]`, as long as the sample.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if there is no timestep `index`.
    pub fn scale_model_input(&self, sample: &[f32], index: usize) -> Result<Vec<f32>> {
        let timesteps = self.timesteps().len();
        if index >= timesteps {
            let detail = format!("expected less than {timesteps}, got {index}");
            return Err(Error::argument("timestep index", detail));
        }
        let divisor = self.solver.input_divisor(self.begin + index);
        Ok(sample.iter().map(|value| value / divisor).collect())
    }

    /// Takes `sample` to the next timestep, with what the model said of it at this one.
    ///
    /// Schedulers that add noise draw it from `generators`: one for all the pictures of the
    /// sample, or one for each, as diffusers' pipelines do with a list of generators.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `output` and `sample` are not of the same length, or not of that of
    /// earlier steps; [`Error::Argument`] if all timesteps are done, or the sample cannot be shared
    /// out equally among the generators. The sample and the scheduler are then as they were.
    pub fn step(
        &mut self,
        output: &[f32],
        sample: &mut [f32],
        generators: &mut [Generator],
    ) -> Result<()> {
        let shape_error = |detail| Err(Error::shape("scheduler step", detail));
        let (count, timesteps) = (sample.len(), self.timesteps().len());
        if output.len() != count {
            let got = output.len();
            return shape_error(format!("model output must have {count} values, got {got}"));
        }
        if let Some(expected) = self.count.filter(|&expected| expected != count) {
            return shape_error(format!("sample must have {expected} values, got {count}"));
        }
        if self.taken == timesteps {
            let detail = format!("expected at most {timesteps} steps, got one more");
            return Err(Error::argument("scheduler step", detail));
        }
        if generators.is_empty() || !count.is_multiple_of(generators.len()) {
            let got = generators.len();
            let detail = format!("expected a number that divides {count} values, got {got}");
            return Err(Error::argument("generators", detail));
        }
        let mut noise = Noise { generators, count };
        self.solver.step(self.begin + self.taken, output, sample, &mut noise);
        self.count = Some(count);
        self.taken += 1;
        Ok(())
    }

    /// Ready for the next picture, with the same timesteps and from the same one on.
    pub fn reset(&mut self) {
        self.solver.reset();
        self.taken = 0;
        self.count = None;
    }
}

#[cfg(test)]
mod tests;
