//! What can go wrong, and whose it is to fix.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `Shape`, `Argument`, `File` and `Tensor` are the caller's to fix and are found before
/// anything reaches a device. `OutOfMemory`, `Build` and `Device` come from the device and leave
/// existing tensors valid: the next call works.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes or element types that do not agree.
    #[error("{op}: {detail}")]
    Shape {
        /// The op that found it.
        op: &'static str,
        /// What was expected and what came.
        detail: String,
    },
    /// A flag, a field of a settings struct or a knob with a value that it cannot take.
    #[error("{name}: {detail}")]
    Argument {
        /// The flag or field.
        name: String,
        /// What was expected and what came.
        detail: String,
    },
    /// A file that cannot be opened, read, written or understood.
    #[error("{}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        detail: String,
    },
    /// A tensor in a file that is missing or is not what the model needs.
    #[error("{}: tensor {tensor}: {detail}", path.display())]
    Tensor {
        /// The file, or the folder that was searched.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What was expected and what came.
        detail: String,
    },
    /// The budget, or the device itself, has no room.
    #[error(
        "device out of memory: {requested_bytes} B requested, {held_bytes} B of {budget_bytes} B held"
    )]
    OutOfMemory {
        /// The size of the allocation that failed.
        requested_bytes: u64,
        /// What counted against the budget at that moment: what the memory manager held, and what
        /// was registered with it.
        held_bytes: u64,
        /// What it may hold.
        budget_bytes: u64,
    },
    /// What needs one block of memory that is over the device's largest allocation, and cannot be
    /// split.
    #[error(
        "{what}: {requested_bytes} B in one block, but the largest allocation is \
         {max_allocation_bytes} B"
    )]
    Allocation {
        /// The tensor, or the stage of the work.
        what: String,
        /// The size of the block.
        requested_bytes: u64,
        /// The largest that the device allocates, or was opened to.
        max_allocation_bytes: u64,
    },
    /// A budget in which a picture cannot be drawn, whatever stays on the host.
    #[error("a budget of {budget_bytes} B is too small: {least_bytes} B would do")]
    Budget {
        /// What the device may hold.
        budget_bytes: u64,
        /// The least with which a plan fits, to 1 %.
        least_bytes: u64,
    },
    /// The device's compiler refused a kernel.
    #[error("kernel {kernel} does not build on {device}: {log}")]
    Build {
        /// The kernel.
        kernel: String,
        /// The device's name.
        device: String,
        /// The compiler's log.
        log: String,
    },
    /// A kernel wrote outside its buffers: found where memory is guarded, see
    /// [`DeviceOptions::guards`](crate::DeviceOptions::guards).
    #[error("{kernel} wrote outside its buffers: {detail}")]
    Guard {
        /// The kernel.
        kernel: String,
        /// Which buffer, and how far outside.
        detail: String,
    },
    /// A driver call failed.
    #[error("{call} failed: {detail}")]
    Device {
        /// The driver's function.
        call: &'static str,
        /// The code, by name and number.
        detail: String,
    },
    /// No device answers to the name that was asked for.
    #[error("no device {wanted}: {detail}")]
    NoDevice {
        /// As the caller wrote it.
        wanted: String,
        /// Which devices there are, or why there are none.
        detail: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// [`Error::File`], from a path and whatever says what is wrong with it.
    pub fn file(path: impl AsRef<Path>, detail: impl ToString) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), detail: detail.to_string() }
    }

    /// [`Error::Argument`], from a name and whatever says what is wrong with its value.
    pub fn argument(name: impl Into<String>, detail: impl ToString) -> Self {
        Error::Argument { name: name.into(), detail: detail.to_string() }
    }

    /// [`Error::Shape`], from an op and whatever says what does not agree.
    pub fn shape(op: &'static str, detail: impl ToString) -> Self {
        Error::Shape { op, detail: detail.to_string() }
    }
}
