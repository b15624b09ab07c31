//! How elementwise kernels share out their elements.

use std::sync::Arc;

use crate::DType;
use crate::device::{Device, Grid};
use crate::kernel::{Configuration, Kernel};
use crate::tune::Class;

/// The shape of a launch over a run of elements: each work-item takes `rounds` vectors, those of
/// a work-group's items side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// What the kernel is specialised by.
    pub configuration: Arc<Configuration>,
    /// Work-items in a work-group.
    pub items: usize,
    /// Elements of a vector.
    pub vector: usize,
    /// Vectors of a work-item; 1 where the kernel has no such parameter.
    pub rounds: usize,
}

impl Spread {
    /// Work-items are the lanes on a GPU; one work-item with wide vectors has a long run on a CPU.
    ///
    /// `given` are values that the problem decides, or that suit it better than these.
    pub fn new(
        device: &Device,
        kernel: &'static str,
        dtype: DType,
        class: &Class,
        given: &[(&'static str, u32)],
    ) -> Self {
        let wide = device.info().prefers_register_tiles();
        let has_rounds = Kernel::find(kernel).is_some_and(|kernel| {
            kernel.parameters.iter().any(|parameter| parameter.name == "ROUNDS")
        });
        let (items, vector, rounds) = if wide { (1, 16, 64) } else { (64, 4, 4) };
        let mut suggested = given.to_vec();
        suggested.extend([("WG_SIZE", items), ("VECTOR", vector)]);
        if has_rounds && !given.iter().any(|(name, _)| *name == "ROUNDS") {
            suggested.push(("ROUNDS", rounds));
        }
        Self::of(device.configuration(kernel, dtype, class, &suggested))
    }

    /// The shape that a configuration leads to.
    fn of(configuration: Arc<Configuration>) -> Self {
        let [items, vector] = ["WG_SIZE", "VECTOR"].map(|name| configuration.size(name));
        let has_rounds = configuration.values().iter().any(|(name, _)| *name == "ROUNDS");
        let rounds = if has_rounds { configuration.size("ROUNDS") } else { 1 };
        Self { configuration, items, vector, rounds }
    }

    /// The launch that another configuration would lead to, with so many work-groups.
    pub fn grid(configuration: &Configuration, groups: impl Fn(&Self) -> [usize; 3]) -> Grid {
        let spread = Self::of(Arc::new(configuration.clone()));
        Grid { groups: groups(&spread), local: spread.local() }
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
