//! How elementwise kernels share out their elements.

use crate::info::DeviceInfo;

/// The shape of a launch over a run of elements: each work-item takes `rounds` vectors, those of
/// a work-group's items side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Work-items in a work-group.
    pub items: usize,
    /// Elements of a vector.
    pub vector: usize,
    /// Vectors of a work-item.
    pub rounds: usize,
}

impl Spread {
    /// Work-items are the lanes on a GPU; one work-item with wide vectors has a long run on a CPU.
    pub fn of(info: &DeviceInfo) -> Self {
        if info.prefers_register_tiles() {
            Self { items: 1, vector: 16, rounds: 64 }
        } else {
            Self { items: 64, vector: 4, rounds: 4 }
        }
    }

    /// As the kernels' parameters are called.
    pub fn parameters(&self) -> [(&'static str, u32); 3] {
        let Self { items, vector, rounds } = *self;
        [("WG_SIZE", items as u32), ("VECTOR", vector as u32), ("ROUNDS", rounds as u32)]
    }

    /// Work-groups for so many elements.
    pub fn groups(&self, elements: usize) -> usize {
        elements.div_ceil(self.items * self.vector * self.rounds)
    }

    /// The work-items of a group.
    pub fn local(&self) -> [usize; 3] {
        [self.items, 1, 1]
    }
}
