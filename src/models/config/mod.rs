//! What a model is: the `config.json` of each component, checked.
//!
//! A key that changes the computation is either understood or refused with its name, what was
//! expected and what came. A picture that is quietly wrong is worse than a model that is not run.

use std::path::Path;

use crate::Result;

mod clip;
mod fields;
mod index;
mod unet;
mod vae;

pub use clip::{Activation, TextEncoderConfig};
pub use index::PipelineIndex;
pub use unet::{BlockKind, UNetConfig};
pub use vae::VaeConfig;

/// A configuration that is read from a JSON file.
pub trait FromJson: Sized {
    /// Reads `text`; `path` names the file in messages.
    ///
    /// # Errors
    ///
    /// [`crate::Error::File`] with the key, what was expected and what came.
    fn from_json(path: &Path, text: &str) -> Result<Self>;
}
