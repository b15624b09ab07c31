//! What a pipeline does when the device has no room: the same picture with less memory.
//!
//! A [`Part`] of the work that runs out of memory is repeated after each rung that it can go down,
//! in the order of [`Rung::ALL`], until it works or no rung is left. What a rung changes stays
//! changed until the pictures of the request are done: the next step would run out again. Weights
//! that have moved to the host stay there.

use std::fmt;

use serde::Serialize;

use super::residency::Residency;
use super::{Component, Observer, Progress, tell};
use crate::device::Device;
use crate::{Error, Result};

/// A part of the work that is repeated as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Prompts to what the UNet attends to.
    TextEncoding,
    /// An init image to latents.
    Encoding,
    /// One call of the UNet, or one for each half of guidance.
    #[serde(rename = "unet")]
    UNet,
    /// The latents of one picture to its pixels.
    Decoding,
}

/// A way to need less memory. All give the same picture, to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rung {
    /// Nothing changes but that all memory which is not in use was given back: helps where another
    /// program took the device's memory for a moment, so it is tried once for each part, and only
    /// if it was the device that had no room and not the budget.
    Again,
    /// The halves of guidance go through the UNet one after the other: half the activations.
    GuidanceInTurn,
    /// What the UNet's way down leaves for its way up waits on the host.
    ParkSkips,
    /// The VAE works in the next smaller tiles that are not blended, or in tiles at all. Where the
    /// request leaves tiling to the pipeline.
    SmallerTiles,
    /// The weights of components that the part does not use move from the device to the host, where
    /// they stay for as long as the pipeline lives: each is copied for its use. Where others took
    /// the memory: how to draw within a budget is better known before a model is loaded
    /// ([`LoadOptions::fitting`](super::LoadOptions::fitting)).
    OffloadOthers,
    /// The part's own weights do the same.
    OffloadOwn,
}

/// How the parts run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Whether each half of guidance is a call of its own.
    pub guidance_in_turn: bool,
    /// Whether the UNet's skips are parked on the host.
    pub park_skips: bool,
    /// How many times the tiles of a half of the VAE became smaller.
    pub smaller_tiles: usize,
}

impl Rung {
    /// In the order in which they are tried: what costs least comes first.
    pub const ALL: [Self; 6] = [
        Self::Again,
        Self::GuidanceInTurn,
        Self::ParkSkips,
        Self::SmallerTiles,
        Self::OffloadOthers,
        Self::OffloadOwn,
    ];

    /// Whether `part` would need less memory after this rung than it does now.
    fn helps(self, part: Part, ways: &Ways, room: &Room<'_>) -> bool {
        match self {
            Self::Again => true,
            Self::GuidanceInTurn => part == Part::UNet && room.is_guided && !ways.guidance_in_turn,
            Self::ParkSkips => part == Part::UNet && !ways.park_skips,
            Self::SmallerTiles => {
                let is_vae = matches!(part, Part::Encoding | Part::Decoding);
                is_vae && ways.smaller_tiles < room.smaller_tiles
            }
            Self::OffloadOthers | Self::OffloadOwn => {
                room.weights.resident_bytes(&self.offloads(part)) > 0
            }
        }
    }

    /// The components whose weights move to the host.
    fn offloads(self, part: Part) -> Vec<Component> {
        let all = Component::ALL.into_iter();
        match self {
            Self::OffloadOthers => all.filter(|other| *other != part.component()).collect(),
            Self::OffloadOwn => vec![part.component()],
            _ => Vec::new(),
        }
    }

    /// Changes how parts run.
    pub(super) fn take(self, ways: &mut Ways) {
        match self {
            Self::Again | Self::OffloadOthers | Self::OffloadOwn => {}
            Self::GuidanceInTurn => ways.guidance_in_turn = true,
            Self::ParkSkips => ways.park_skips = true,
            Self::SmallerTiles => ways.smaller_tiles += 1,
        }
    }
}

/// What is done, as a part of a sentence.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Again => "all unused memory was given back, once more",
            Self::GuidanceInTurn => "the halves of guidance one after the other from now on",
            Self::ParkSkips => "the UNet's skip connections wait on the host from now on",
            Self::SmallerTiles => "smaller tiles from now on",
            Self::OffloadOthers => "the weights of all else wait on the host from now on",
            Self::OffloadOwn => "its own weights wait on the host, too, from now on",
        })
    }
}

impl Part {
    /// Whose weights it uses.
    fn component(self) -> Component {
        match self {
            Self::TextEncoding => Component::TextEncoder,
            Self::UNet => Component::UNet,
            Self::Encoding | Self::Decoding => Component::Vae,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TextEncoding => "the text encoder",
            Self::Encoding => "the VAE's encoder",
            Self::UNet => "the UNet",
            Self::Decoding => "the VAE's decoder",
        })
    }
}

/// What a request, its sizes and the pipeline leave to be done with less.
#[derive(Clone, Copy, Debug)]
struct Room<'a> {
    is_guided: bool,
    /// How many times the tiles of the VAE can become smaller.
    smaller_tiles: usize,
    weights: &'a Residency,
}

/// The rungs that one request has gone down.
pub(super) struct Ladder<'a> {
    device: &'a Device,
    room: Room<'a>,
    ways: Ways,
}

impl<'a> Ladder<'a> {
    pub fn new(device: &'a Device, weights: &'a Residency, is_guided: bool, ways: Ways) -> Self {
        Self { device, room: Room { is_guided, smaller_tiles: 0, weights }, ways }
    }

    /// Begins with a half of the VAE, whose tiles can become smaller so many times.
    pub fn begin_tiles(&mut self, smaller: usize) {
        (self.room.smaller_tiles, self.ways.smaller_tiles) = (smaller, 0);
    }

    /// Runs `part`, again after each rung that helps for as long as there is no room. `work` must
    /// be what can be repeated: it may not draw noise or tell the observer anything.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`Error::OutOfMemory`] where no rung is left; [`Error::Cancelled`].
    pub fn run<T>(
        &mut self,
        part: Part,
        observer: &mut Observer,
        mut work: impl FnMut(Ways) -> Result<T>,
    ) -> Result<T> {
        let mut was_repeated = false;
        loop {
            let error = match work(self.ways) {
                Err(error @ Error::OutOfMemory { .. }) => error,
                done => return done,
            };
            let &Error::OutOfMemory { requested_bytes, .. } = &error else { unreachable!() };
            let helps = |rung: &Rung| {
                let useful = match rung {
                    Rung::Again => !was_repeated && refused_by_device(&error),
                    Rung::OffloadOthers | Rung::OffloadOwn => {
                        refused_by_device(&error) || self.others_hold_more()
                    }
                    _ => true,
                };
                useful && rung.helps(part, &self.ways, &self.room)
            };
            let Some(rung) = Rung::ALL.into_iter().find(helps) else { return Err(error) };
            was_repeated = true;
            rung.take(&mut self.ways);
            // What is still queued may hold memory that was dropped, and may use weights.
            self.device.finish()?;
            self.room.weights.move_to_host(&rung.offloads(part))?;
            self.device.memory().trim();
            tell(observer, &Progress::LowMemory { part, rung, requested_bytes })?;
        }
    }

    /// Whether others have registered more since the weights were loaded: then the budget's word is
    /// as good as the device's that someone took the memory.
    fn others_hold_more(&self) -> bool {
        self.device.memory_stats().registered_bytes() > self.room.weights.registered_bytes()
    }
}

/// Whether there was room in the budget, so that another program has the memory.
fn refused_by_device(error: &Error) -> bool {
    match *error {
        Error::OutOfMemory { requested_bytes, held_bytes, budget_bytes } => {
            held_bytes.saturating_add(requested_bytes) <= budget_bytes || budget_bytes == 0
        }
        _ => false,
    }
}
