//! `scheduler_config.json`, and what a scheduler makes of it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::kind::SchedulerKind;
use super::settings::Settings;
use crate::{Error, Result};

/// The contents of a diffusers `scheduler_config.json`, to be read by any scheduler.
///
/// As with diffusers' `from_config`, a scheduler takes the fields that its class knows, whichever
/// class wrote them, ignores the others, and has its own class's default for what is absent or
/// listed in `_use_default_values`.
///
/// ```
/// use ellesmere::pipeline::scheduler::{Scheduler, SchedulerConfig, SchedulerKind};
///
/// let text = r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": true, "steps_offset": 1}"#;
/// let config = SchedulerConfig::from_json(text)?;
/// assert_eq!(config.kind()?, SchedulerKind::Pndm);
/// let scheduler = Scheduler::new(&config.with_kind(SchedulerKind::Ddim), 4)?;
/// assert_eq!(scheduler.timesteps(), [751.0, 501.0, 251.0, 1.0]);
/// # Ok::<(), ellesmere::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Whose mistakes they are, for messages.
    origin: Option<PathBuf>,
    /// Set when the caller chose; else the file's `_class_name` decides.
    chosen: Option<SchedulerKind>,
    values: Map<String, Value>,
    eta: f64,
}

impl SchedulerConfig {
    /// The defaults of a class.
    pub fn new(kind: SchedulerKind) -> Self {
        SchedulerConfig { origin: None, chosen: Some(kind), values: Map::new(), eta: 0.0 }
    }

    /// From the text of a `scheduler_config.json`.
    ///
    /// Python writes infinities as `-Infinity`, which is no JSON but is read here.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the text is not a JSON object. The fields are checked by
    /// [`Scheduler::new`](super::Scheduler::new), which knows the class that reads them.
    pub fn from_json(text: &str) -> Result<Self> {
        match serde_json::from_str(&without_infinities(text)) {
            Ok(Value::Object(values)) => {
                Ok(SchedulerConfig { origin: None, chosen: None, values, eta: 0.0 })
            }
            Ok(other) => {
                let detail = format!("expected a JSON object, got {}", shortened(&other));
                Err(Error::argument("scheduler configuration", detail))
            }
            Err(error) => {
                let detail = format!("expected a JSON object: {error}");
                Err(Error::argument("scheduler configuration", detail))
            }
        }
    }

    /// From the text of the file at `path`: what is found wrong then and later names the file.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the text is not a JSON object.
    pub fn from_file(path: impl AsRef<Path>, text: &str) -> Result<Self> {
        let path = path.as_ref();
        let config = SchedulerConfig::from_json(text).map_err(|error| in_file(path, error))?;
        Ok(SchedulerConfig { origin: Some(path.to_path_buf()), ..config })
    }

    /// Which scheduler this makes.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`], or [`Error::File`] for a file, if `_class_name` is missing or is not
    /// the class of a [`SchedulerKind`], and none was chosen by
    /// [`with_kind`](SchedulerConfig::with_kind).
    pub fn kind(&self) -> Result<SchedulerKind> {
        if let Some(kind) = self.chosen {
            return Ok(kind);
        }
        let class = self.values.get("_class_name").unwrap_or(&Value::Null);
        class.as_str().and_then(SchedulerKind::from_class_name).ok_or_else(|| {
            let classes = SchedulerKind::ALL
                .into_iter()
                .filter(|&kind| kind != SchedulerKind::DpmMultistepKarras)
                .map(SchedulerKind::class_name)
                .collect::<Vec<_>>()
                .join(", ");
            let got = if class.is_null() { "nothing".into() } else { shortened(class) };
            self.error("_class_name", format!("expected one of {classes}, got {got}"))
        })
    }

    /// The same fields read by another scheduler, as `Class.from_config(config)`.
    pub fn with_kind(self, kind: SchedulerKind) -> Self {
        SchedulerConfig { chosen: Some(kind), ..self }
    }

    /// One field set to `value`, as `Class.from_config(config, field=value)`.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.values.insert(field.to_owned(), value.into());
        if let Some(Value::Array(unset)) = self.values.get_mut("_use_default_values") {
            unset.retain(|name| name != field);
        }
        self
    }

    /// DDIM with new noise at every step: none at 0, as much as DDPM's at 1. Other schedulers have
    /// no such thing and ignore it.
    pub fn with_eta(self, eta: f64) -> Self {
        SchedulerConfig { eta, ..self }
    }

    /// What diffusers' Stable Diffusion pipelines set in the configuration they are made with:
    /// `steps_offset` 1 and `clip_sample` false, whatever the file says.
    ///
    /// A scheduler that replaces a finished pipeline's own is not changed so.
    pub fn for_stable_diffusion(self) -> Self {
        self.with("steps_offset", 1).with("clip_sample", false)
    }

    /// What [`kind`](SchedulerConfig::kind)'s class makes of the fields, checked.
    pub(super) fn settings(&self) -> Result<Settings> {
        Settings::read(self)
    }

    pub(super) fn eta(&self) -> f64 {
        self.eta
    }

    /// The value of a field, unless it only repeats its own class's default.
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        let unset = self.values.get("_use_default_values").and_then(Value::as_array);
        let is_unset = unset.is_some_and(|names| names.iter().any(|name| name == field));
        self.values.get(field).filter(|_| !is_unset)
    }

    /// An error about a field, naming the file if there is one.
    pub(super) fn error(&self, field: &str, detail: impl ToString) -> Error {
        let error = Error::argument(field, detail);
        match &self.origin {
            Some(path) => in_file(path, error),
            None => error,
        }
    }
}

fn in_file(path: &Path, error: Error) -> Error {
    Error::file(path, error)
}

/// A value as an error message quotes it.
pub(super) fn shortened(value: &Value) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// Replaces the infinities that Python writes and JSON lacks by the largest number that it has.
///
/// `NaN` stays: nothing can be made of it, and the JSON reader says where it is.
fn without_infinities(text: &str) -> String {
    const WORD: &str = "Infinity";
    let mut result = String::with_capacity(text.len());
    let mut is_string = false;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let mut length = next.len_utf8();
        match next {
            // With what it escapes, which may be the mark that would end a string.
            '\\' => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            '"' => is_string = !is_string,
            _ => {}
        }
        if !is_string && rest.starts_with(WORD) {
            result.push_str("1.7976931348623157e308");
            length = WORD.len();
        } else {
            result.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PNDM: &str = r#"{
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "trained_betas": null, "clip_sample": false
    }"#;

    #[test]
    fn another_class_takes_the_fields_that_it_knows_and_its_own_defaults() {
        let config = SchedulerConfig::from_json(PNDM).unwrap();
        assert_eq!(config.kind().unwrap(), SchedulerKind::Pndm);
        assert!(config.settings().unwrap().skip_prk_steps);
        let euler = config.with_kind(SchedulerKind::Euler).settings().unwrap();
        let defaults = SchedulerConfig::new(SchedulerKind::Euler).settings().unwrap();
        assert_eq!((euler.steps_offset, euler.beta_end), (1, 0.012));
        assert_eq!(euler.timestep_spacing, defaults.timestep_spacing);
        // No argument of Euler's class.
        assert!(!euler.skip_prk_steps);
    }

    #[test]
    fn defaults_that_a_file_lists_as_such_are_not_taken_over() {
        let text = r#"{"_class_name": "PNDMScheduler", "timestep_spacing": "leading",
            "steps_offset": 1, "_use_default_values": ["timestep_spacing"]}"#;
        let config = SchedulerConfig::from_json(text).unwrap().with_kind(SchedulerKind::Euler);
        let settings = config.settings().unwrap();
        assert_eq!(settings.timestep_spacing, super::super::settings::TimestepSpacing::Linspace);
        assert_eq!(settings.steps_offset, 1);
        let settings = config.with("timestep_spacing", "leading").settings().unwrap();
        assert_eq!(settings.timestep_spacing, super::super::settings::TimestepSpacing::Leading);
    }

    #[test]
    fn pipelines_set_two_fields() {
        let config = SchedulerConfig::new(SchedulerKind::Ddim);
        let settings = config.clone().settings().unwrap();
        assert_eq!((settings.steps_offset, settings.clip_sample), (0, true));
        let settings = config.for_stable_diffusion().settings().unwrap();
        assert_eq!((settings.steps_offset, settings.clip_sample), (1, false));
    }

    #[test]
    fn infinities_of_python_are_read_outside_strings_only() {
        let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "note": "\\\"Infinity\\",
            "lambda_min_clipped": -Infinity, "other": [Infinity, 1]}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        assert_eq!(config.values["note"], json!("\\\"Infinity\\"));
        assert_eq!(config.settings().unwrap().lambda_min_clipped, f64::MIN);
    }

    #[test]
    fn an_unusable_field_is_named_with_what_was_expected_and_what_came() {
        let cases = [
            ("num_train_timesteps", json!(0), "expected 2 to 100000, got 0"),
            ("num_train_timesteps", json!("x"), "invalid type: string \"x\", expected usize"),
            ("beta_start", json!(1.5), "expected a number between 0 and 1, got 1.5"),
            ("beta_schedule", json!("x"), "unknown variant `x`, expected one of `linear`, "),
            ("trained_betas", json!([0.1]), "expected 1000 numbers between 0 and 1, got [0.1]"),
            ("steps_offset", json!(-1), "invalid value: integer `-1`, expected usize"),
            ("steps_offset", json!(1000), "expected less than 1000, got 1000"),
            ("thresholding", json!(true), "only false is supported, got true"),
            ("algorithm_type", json!("dpmsolver"), "only \"dpmsolver++\" is supported, got "),
            ("solver_order", json!(4), "expected 1 to 3, got 4"),
            ("variance_type", json!("learned"), "only null is supported, got \"learned\""),
            ("sigma_max", json!(-1), "expected a positive number above sigma_min, got -1"),
        ];
        for (field, value, expected) in cases {
            let config = SchedulerConfig::new(SchedulerKind::DpmMultistep).with(field, value);
            let error = config.settings().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: {expected}")), "{error}");
        }
        let config = SchedulerConfig::new(SchedulerKind::Ddim).with_eta(1.5);
        assert_eq!(config.settings().unwrap_err().to_string(), "eta: expected 0 to 1, got 1.5");
    }

    #[test]
    fn an_unknown_class_is_named_unless_another_is_chosen() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "LMSDiscreteScheduler"}"#);
        let config = config.unwrap();
        let error = config.kind().unwrap_err().to_string();
        assert!(error.starts_with("_class_name: expected one of DDIMScheduler, "), "{error}");
        assert!(error.ends_with("got \"LMSDiscreteScheduler\""), "{error}");
        assert_eq!(config.with_kind(SchedulerKind::Euler).kind().unwrap(), SchedulerKind::Euler);
        let error = SchedulerConfig::from_json("{}").unwrap().kind().unwrap_err().to_string();
        assert!(error.ends_with("got nothing"), "{error}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "{", "[1]", "{\"beta_end\": NaN}"] {
            let error = SchedulerConfig::from_json(text).unwrap_err().to_string();
            let expected = "scheduler configuration: expected a JSON object";
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn errors_name_the_file() {
        let path = Path::new("scheduler/scheduler_config.json");
        let error = SchedulerConfig::from_file(path, "").unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        let text = PNDM.replace("0.012", "12");
        let error = SchedulerConfig::from_file(path, &text).unwrap().settings().unwrap_err();
        let expected = "beta_end: expected a number between 0 and 1, got 12";
        assert_eq!(error.to_string(), format!("{}: {expected}", path.display()));
    }
}
