//! Launches: arguments as the code object has them, and grids that are cut where launches are limited.

use std::ptr;
use std::sync::Arc;

use super::code_object::{Grid, Layout};
use super::driver::Pointer;
use super::handle::{Event, HipTimer, Module};
use super::{Hip, address};
use crate::backend::Launch;
use crate::backend::parts::{Paces, Parts};
use crate::{Error, Result};

/// A compiled kernel.
pub struct Compiled {
    function: Function,
    layout: Layout,
    pub image: Vec<u8>,
    /// Whether its work-groups know where they are when a grid is cut.
    in_parts: bool,
    paces: Paces<HipTimer>,
    // After what comes from it.
    _module: Module,
}

/// A kernel of a module, which lives as long as that does.
pub struct Function(Pointer);

// SAFETY: the driver's calls take a function from any thread, and launching changes nothing of it.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Compiled {
    /// A kernel of `module`.
    pub fn new(
        function: Function,
        layout: Layout,
        image: Vec<u8>,
        module: Module,
        in_parts: bool,
    ) -> Self {
        Self { function, layout, image, in_parts, paces: Paces::default(), _module: module }
    }
}

impl Function {
    pub fn new(raw: Pointer) -> Self {
        Self(raw)
    }
}

impl Hip {
    /// Queues a kernel, in parts where launches are limited and it would take longer.
    pub fn launch_all(&self, compiled: &Compiled, launch: &Launch) -> Result<Vec<HipTimer>> {
        let queue = Launching { device: self, compiled, launch };
        match &self.limit {
            Some(limit) if compiled.in_parts => compiled.paces.launch(&queue, launch, limit),
            _ => Ok(vec![queue.enqueue([0; 3], launch.groups)?]),
        }
    }
}

/// A kernel and what it is launched with.
struct Launching<'a> {
    device: &'a Hip,
    compiled: &'a Compiled,
    launch: &'a Launch<'a>,
}

impl Parts for Launching<'_> {
    type Part = HipTimer;

    fn enqueue(&self, start: [usize; 3], groups: [usize; 3]) -> Result<HipTimer> {
        let Self { device, compiled, launch } = self;
        let refused = |detail| Error::Device { call: "packing arguments", detail };
        let Launch { arguments, local, .. } = **launch;
        let grid = Grid { start, groups, local };
        let mut packed = compiled.layout.pack(arguments, address, &grid).map_err(refused)?;
        let numbers = |sizes: [usize; 3]| -> Result<[u32; 3]> {
            let [x, y, z] = sizes.map(u32::try_from);
            let too_large = |_| refused(format!("a grid of {groups:?} is too large"));
            Ok([x.map_err(too_large)?, y.map_err(too_large)?, z.map_err(too_large)?])
        };
        let (groups, local) = (numbers(groups)?, numbers(local)?);
        let mut bytes = compiled.layout.bytes;
        // HIP_LAUNCH_PARAM_BUFFER_POINTER, .._BUFFER_SIZE and .._END.
        let mut extra: [Pointer; 5] = [
            ptr::without_provenance_mut(1),
            packed.as_mut_ptr().cast(),
            ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            ptr::without_provenance_mut(3),
        ];
        let (card, stream) = (&device.card, &device.stream);
        let begin = Event::record(card, stream)?;
        let driver = card.driver()?;
        let function = compiled.function.0;
        // SAFETY: the buffer has all arguments as the code object says, and is copied by the call;
        // the driver waits for launches before it lets go of memory that they use.
        let code =
            unsafe { driver.launch(function, groups, local, stream.raw(), extra.as_mut_ptr()) };
        driver.check("hipModuleLaunchKernel", code)?;
        let end = Arc::new(Event::record(card, stream)?);
        Ok(HipTimer::new(Arc::clone(&device.origin), begin, end))
    }

    /// The driver begins by itself.
    fn submit(&self, _is_of_several: bool) -> Result<()> {
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        self.device.stream.synchronize()
    }
}
