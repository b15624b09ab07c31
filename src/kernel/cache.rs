//! Compiled programs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::Result;
use crate::backend::{Backend, Program, ProgramSource};

/// Programs by what they were compiled from.
#[derive(Debug, Default)]
pub struct ProgramCache {
    programs: Mutex<HashMap<ProgramSource, Arc<Program>>>,
}

impl ProgramCache {
    /// The program of `source`, compiled at most once.
    ///
    /// # Errors
    ///
    /// As [`Backend::build`].
    pub fn get(&self, backend: &dyn Backend, source: ProgramSource) -> Result<Arc<Program>> {
        let mut programs = self.programs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(program) = programs.get(&source) {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new(backend.build(&source)?);
        programs.insert(source, Arc::clone(&program));
        Ok(program)
    }
}
