//! Weights in fewer bits where there is no room for them as they are, if that is allowed.

use super::{LoadOptions, Plan, Request};
use crate::device::Device;
use crate::models::ModelFiles;
use crate::{DType, Error, Format, Result};

/// What is tried, the most bits first. All have blocks of 32, which every layer's inputs are.
const FORMATS: [Format; 3] = [Format::Q8_0, Format::Q5_0, Format::Q4_0];

/// Fewer bits must make drawing shorter than more bits do by this factor: what is gained by less is
/// within what a prediction is off by, and what is lost is certain.
const WORTH: f64 = 0.95;

/// A format, if any, and what fits in it.
struct Chosen {
    format: Option<Format>,
    options: LoadOptions,
    plan: Plan,
    /// Of drawing.
    seconds: f64,
}

impl LoadOptions {
    /// As [`LoadOptions::fitted`], in fewer bits ([`ModelFiles::quantize`]) where that is quicker than
    /// leaving weights on the host: q8_0, q5_0 or q4_0, each only if it makes drawing at least a
    /// twentieth shorter than more bits do. The picture is then another one, somewhat;
    /// [`Plan::fewer_bits`] says so. `files` are left in what was chosen.
    ///
    /// # Errors
    ///
    /// As [`LoadOptions::fitting`]; `files` are then as they are stored.
    pub fn fitted_in_fewer_bits(
        &self,
        device: &Device,
        files: &mut ModelFiles,
        dtype: DType,
        request: &Request,
    ) -> Result<(Self, Plan)> {
        let chosen = self.choose_bits(device, files, dtype, request);
        // As they are stored, where none is chosen.
        files.quantize(chosen.as_ref().ok().and_then(|chosen| chosen.format));
        let Chosen { format, options, mut plan, .. } = chosen?;
        plan.fewer_bits = format.map(|format| format.name().to_owned());
        Ok((options, plan))
    }

    /// Leaves `files` in what was tried last.
    fn choose_bits(
        &self,
        device: &Device,
        files: &mut ModelFiles,
        dtype: DType,
        request: &Request,
    ) -> Result<Chosen> {
        let (mut best, mut too_small): (Option<Chosen>, _) = (None, None);
        for format in std::iter::once(None).chain(FORMATS.map(Some)) {
            files.quantize(format);
            let (options, mut plan) = match self.fitted(device, files, dtype, request) {
                Err(error @ Error::Budget { .. }) => {
                    too_small = Some(error);
                    continue;
                }
                fitted => fitted?,
            };
            let has_room = plan.copied_bytes == 0;
            let seconds = plan.estimate(device).drawing_seconds;
            if best.as_ref().is_none_or(|best| seconds < WORTH * best.seconds) {
                best = Some(Chosen { format, options, plan, seconds });
            }
            // Even fewer bits would bring no more.
            if has_room {
                break;
            }
        }
        best.ok_or_else(|| too_small.expect("it fits or it does not"))
    }
}
