//! The model that comes with the examples.

use std::path::{Path, PathBuf};

use ellesmere::models::{ModelFiles, Variant};

/// Its folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/assets/demo")
}

/// Its files, opened.
pub fn files() -> ModelFiles {
    ModelFiles::open(&folder(), Variant::Any).unwrap()
}
