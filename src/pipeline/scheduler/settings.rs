//! The fields of a configuration that schedulers use, with each class's defaults, checked.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::config::{SchedulerConfig, shortened};
use super::kind::SchedulerKind;
use super::prediction::PredictionType;
use crate::Result;

/// How betas grow from `beta_start` to `beta_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BetaSchedule {
    Linear,
    /// Linear in the square root.
    ScaledLinear,
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// How timesteps are picked from those of training; names after table 2 of Lin et al.,
/// "Common Diffusion Noise Schedules and Sample Steps are Flawed".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimestepSpacing {
    Linspace,
    Leading,
    Trailing,
}

/// The sigma after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinalSigmas {
    Zero,
    SigmaMin,
}

/// The variants of DPM-Solver++ (the first two) and UniPC, and one of neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SolverType {
    Midpoint,
    Heun,
    Bh1,
    Bh2,
    Logrho,
}

/// What timesteps of the Euler scheduler count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimestepType {
    Discrete,
    Continuous,
}

/// Every field, under its name in the file; a class leaves those that it lacks at rest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    pub trained_betas: Option<Vec<f32>>,
    pub prediction_type: PredictionType,
    pub timestep_spacing: TimestepSpacing,
    pub steps_offset: usize,
    pub rescale_betas_zero_snr: bool,
    pub set_alpha_to_one: bool,
    pub clip_sample: bool,
    pub clip_sample_range: f64,
    pub skip_prk_steps: bool,
    pub use_karras_sigmas: bool,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub final_sigmas_type: FinalSigmas,
    pub timestep_type: TimestepType,
    pub solver_order: usize,
    pub solver_type: SolverType,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    pub lambda_min_clipped: f64,
    pub disable_corrector: Vec<usize>,
    pub original_inference_steps: usize,
    pub timestep_scaling: f64,
    /// No field of the file: an argument of DDIM's step.
    pub eta: f64,
}

/// The fields that every class knows.
const COMMON: [&str; 8] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
];

/// The further fields that a class knows, or refuses unless they have the one value that it can
/// follow.
///
/// `sigma_min` and `sigma_max` are no arguments of DPM-Solver++ and Heun, but diffusers looks for
/// them in the configuration, where other classes' fields stay.
fn further_fields(kind: SchedulerKind) -> &'static [&'static str] {
    match kind {
        SchedulerKind::Ddim => &[
            "clip_sample",
            "clip_sample_range",
            "set_alpha_to_one",
            "thresholding",
            "rescale_betas_zero_snr",
        ],
        SchedulerKind::Pndm => &["skip_prk_steps", "set_alpha_to_one"],
        SchedulerKind::Euler => &[
            "interpolation_type",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "sigma_min",
            "sigma_max",
            "timestep_type",
            "rescale_betas_zero_snr",
            "final_sigmas_type",
        ],
        SchedulerKind::EulerAncestral => &["rescale_betas_zero_snr"],
        SchedulerKind::DpmMultistep | SchedulerKind::DpmMultistepKarras => &[
            "solver_order",
            "thresholding",
            "algorithm_type",
            "solver_type",
            "lower_order_final",
            "euler_at_final",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "use_flow_sigmas",
            "sigma_min",
            "sigma_max",
            "final_sigmas_type",
            "lambda_min_clipped",
            "variance_type",
            "rescale_betas_zero_snr",
            "use_dynamic_shifting",
        ],
        SchedulerKind::Heun => &[
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "sigma_min",
            "sigma_max",
            "clip_sample",
            "clip_sample_range",
        ],
        SchedulerKind::Lcm => &[
            "original_inference_steps",
            "clip_sample",
            "clip_sample_range",
            "set_alpha_to_one",
            "thresholding",
            "timestep_scaling",
            "rescale_betas_zero_snr",
        ],
        SchedulerKind::UniPc => &[
            "solver_order",
            "thresholding",
            "predict_x0",
            "solver_type",
            "lower_order_final",
            "disable_corrector",
            "solver_p",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
            "sigma_min",
            "sigma_max",
            "shift_terminal",
            "final_sigmas_type",
            "rescale_betas_zero_snr",
        ],
    }
}

impl Settings {
    /// What a class uses where the file is silent.
    fn defaults(kind: SchedulerKind) -> Self {
        let base = Settings {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            set_alpha_to_one: false,
            clip_sample: false,
            clip_sample_range: 1.0,
            skip_prk_steps: false,
            use_karras_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            final_sigmas_type: FinalSigmas::Zero,
            timestep_type: TimestepType::Discrete,
            solver_order: 2,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: f64::NEG_INFINITY,
            disable_corrector: Vec::new(),
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            eta: 0.0,
        };
        let timestep_spacing = TimestepSpacing::Leading;
        match kind {
            SchedulerKind::Ddim => {
                Settings { timestep_spacing, clip_sample: true, set_alpha_to_one: true, ..base }
            }
            SchedulerKind::Pndm => Settings { timestep_spacing, ..base },
            SchedulerKind::Heun => Settings { beta_start: 0.00085, beta_end: 0.012, ..base },
            SchedulerKind::Lcm => Settings {
                timestep_spacing,
                beta_start: 0.00085,
                beta_end: 0.012,
                beta_schedule: BetaSchedule::ScaledLinear,
                set_alpha_to_one: true,
                ..base
            },
            SchedulerKind::UniPc => Settings { solver_type: SolverType::Bh2, ..base },
            SchedulerKind::Euler
            | SchedulerKind::EulerAncestral
            | SchedulerKind::DpmMultistep
            | SchedulerKind::DpmMultistepKarras => base,
        }
    }

    /// The settings that the configuration's class makes of it.
    ///
    /// # Errors
    ///
    /// About the field that is of the wrong type, out of range or asks for what is not here.
    pub(super) fn read(config: &SchedulerConfig) -> Result<Self> {
        let kind = config.kind()?;
        let reader = Reader { config, further: further_fields(kind) };
        reader.refuse_what_is_missing_here()?;
        let mut settings = Settings::defaults(kind);
        let s = &mut settings;
        reader.read("num_train_timesteps", &mut s.num_train_timesteps)?;
        reader.read("beta_start", &mut s.beta_start)?;
        reader.read("beta_end", &mut s.beta_end)?;
        reader.read("beta_schedule", &mut s.beta_schedule)?;
        reader.read("trained_betas", &mut s.trained_betas)?;
        reader.read("prediction_type", &mut s.prediction_type)?;
        reader.read("timestep_spacing", &mut s.timestep_spacing)?;
        reader.read("steps_offset", &mut s.steps_offset)?;
        reader.read("rescale_betas_zero_snr", &mut s.rescale_betas_zero_snr)?;
        reader.read("set_alpha_to_one", &mut s.set_alpha_to_one)?;
        reader.read("clip_sample", &mut s.clip_sample)?;
        reader.read("clip_sample_range", &mut s.clip_sample_range)?;
        reader.read("skip_prk_steps", &mut s.skip_prk_steps)?;
        reader.read("use_karras_sigmas", &mut s.use_karras_sigmas)?;
        reader.read("sigma_min", &mut s.sigma_min)?;
        reader.read("sigma_max", &mut s.sigma_max)?;
        reader.read("final_sigmas_type", &mut s.final_sigmas_type)?;
        reader.read("timestep_type", &mut s.timestep_type)?;
        reader.read("solver_order", &mut s.solver_order)?;
        reader.read("solver_type", &mut s.solver_type)?;
        reader.read("lower_order_final", &mut s.lower_order_final)?;
        reader.read("euler_at_final", &mut s.euler_at_final)?;
        reader.read("lambda_min_clipped", &mut s.lambda_min_clipped)?;
        reader.read("disable_corrector", &mut s.disable_corrector)?;
        reader.read("original_inference_steps", &mut s.original_inference_steps)?;
        reader.read("timestep_scaling", &mut s.timestep_scaling)?;
        s.eta = config.eta();
        if kind == SchedulerKind::DpmMultistepKarras {
            s.use_karras_sigmas = true;
        }
        s.solver_type = match (kind, s.solver_type) {
            // Each class has its own default for the types of the other.
            (SchedulerKind::UniPc, SolverType::Bh1) => SolverType::Bh1,
            (SchedulerKind::UniPc, _) => SolverType::Bh2,
            (_, SolverType::Heun) => SolverType::Heun,
            (_, _) => SolverType::Midpoint,
        };
        s.check(kind, config)?;
        Ok(settings)
    }

    /// The largest magnitude that an original sample may have.
    pub(super) fn clip(&self) -> f32 {
        if self.clip_sample { self.clip_sample_range as f32 } else { f32::INFINITY }
    }

    fn check(&self, kind: SchedulerKind, config: &SchedulerConfig) -> Result<()> {
        let is_beta = |beta: f64| beta > 0.0 && beta < 1.0;
        let is_positive = |number: f64| number > 0.0 && number.is_finite();
        let in_range = |field: &str, holds: bool, expected: &str| {
            if holds {
                return Ok(());
            }
            let got = config.value(field).map_or("its default".into(), shortened);
            Err(config.error(field, format!("expected {expected}, got {got}")))
        };
        let positive = "a positive number";
        let beta = "a number between 0 and 1";
        let train = self.num_train_timesteps;
        in_range("num_train_timesteps", (2..=100_000).contains(&train), "2 to 100000")?;
        in_range("beta_start", is_beta(self.beta_start), beta)?;
        in_range("beta_end", is_beta(self.beta_end), beta)?;
        if let Some(betas) = &self.trained_betas {
            let holds = betas.len() == train && betas.iter().all(|&beta| is_beta(beta.into()));
            in_range("trained_betas", holds, &format!("{train} numbers between 0 and 1"))?;
        }
        let takes_samples = !matches!(kind, SchedulerKind::Pndm | SchedulerKind::EulerAncestral);
        let is_known = takes_samples || self.prediction_type != PredictionType::Sample;
        in_range("prediction_type", is_known, "epsilon or v_prediction")?;
        in_range("steps_offset", self.steps_offset < train, &format!("less than {train}"))?;
        in_range("clip_sample_range", is_positive(self.clip_sample_range), positive)?;
        in_range("sigma_min", self.sigma_min.is_none_or(is_positive), positive)?;
        let above = self.sigma_max.is_none_or(|most| {
            is_positive(most) && self.sigma_min.is_none_or(|least| least < most)
        });
        in_range("sigma_max", above, "a positive number above sigma_min")?;
        in_range("solver_order", (1..=3).contains(&self.solver_order), "1 to 3")?;
        in_range("timestep_scaling", is_positive(self.timestep_scaling), positive)?;
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(config.error("eta", format!("expected 0 to 1, got {}", self.eta)));
        }
        let original = self.original_inference_steps;
        let is_possible = kind != SchedulerKind::Lcm || (1..=train).contains(&original);
        in_range("original_inference_steps", is_possible, &format!("1 to {train}"))
    }
}

/// Reads fields of one class.
struct Reader<'a> {
    config: &'a SchedulerConfig,
    further: &'static [&'static str],
}

impl Reader<'_> {
    fn value(&self, field: &str) -> Option<&Value> {
        let known = COMMON.contains(&field) || self.further.contains(&field);
        self.config.value(field).filter(|_| known)
    }

    /// Overwrites `target` with the field, if the class knows it and the file has it.
    fn read<T: DeserializeOwned>(&self, field: &str, target: &mut T) -> Result<()> {
        if let Some(value) = self.value(field) {
            *target = T::deserialize(value).map_err(|error| self.config.error(field, error))?;
        }
        Ok(())
    }

    fn refuse_what_is_missing_here(&self) -> Result<()> {
        let no = || vec![json!(false)];
        self.expect("thresholding", no())?;
        self.expect("use_exponential_sigmas", no())?;
        self.expect("use_beta_sigmas", no())?;
        self.expect("use_lu_lambdas", no())?;
        self.expect("use_flow_sigmas", no())?;
        self.expect("use_dynamic_shifting", no())?;
        self.expect("variance_type", vec![Value::Null])?;
        self.expect("solver_p", vec![Value::Null])?;
        self.expect("shift_terminal", vec![Value::Null])?;
        self.expect("predict_x0", vec![json!(true)])?;
        self.expect("interpolation_type", vec![json!("linear")])?;
        // diffusers, too, takes another class's "deis" for its own "dpmsolver++".
        self.expect("algorithm_type", vec![json!("dpmsolver++"), json!("deis")])
    }

    fn expect(&self, field: &str, supported: Vec<Value>) -> Result<()> {
        match self.value(field) {
            Some(value) if !supported.contains(value) => {
                let expected = supported[0].to_string();
                let got = shortened(value);
                let detail = format!("only {expected} is supported, got {got}");
                Err(self.config.error(field, detail))
            }
            _ => Ok(()),
        }
    }
}
