//! What is not on a device, and copied there for each use.

use std::fmt;
use std::sync::Arc;

use super::MemoryManager;
use crate::Result;

/// Bytes that are counted with a device's memory until this is dropped: on the host, or made anew
/// of what a file has.
#[derive(Debug)]
pub struct HostBlock {
    index: u64,
    bytes: u64,
    content: Content,
    manager: Arc<MemoryManager>,
}

/// Where the bytes are.
#[derive(Clone)]
pub(super) enum Content {
    /// None on a dry run.
    Held(Arc<Vec<u8>>),
    Produced(Arc<Producer>),
}

/// Makes the bytes of a block of what a file has.
pub type Producer = dyn Fn() -> Result<Vec<u8>> + Send + Sync;

impl Content {
    /// The bytes, for as long as a copy of them runs.
    pub fn data(&self, executes: bool) -> Result<Arc<Vec<u8>>> {
        match self {
            Content::Held(data) => Ok(Arc::clone(data)),
            Content::Produced(produce) if executes => produce().map(Arc::new),
            Content::Produced(_) => Ok(Arc::default()),
        }
    }

    /// How many of so many bytes are on the host only while they are copied.
    pub fn passing(&self, bytes: u64) -> u64 {
        match self {
            Content::Held(_) => 0,
            Content::Produced(_) => bytes,
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::Held(_) => "Held",
            Content::Produced(_) => "Produced",
        })
    }
}

impl HostBlock {
    /// How many of them its device has had before.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes on the host; none on a dry run, and none of what is in a file.
    pub fn data(&self) -> &[u8] {
        match &self.content {
            Content::Held(data) => data,
            Content::Produced(_) => &[],
        }
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }
}

impl MemoryManager {
    /// Counts `data` as held on the host for this device until it is dropped: `bytes` of it, which
    /// a dry run counts without having them.
    pub fn hold_on_host(self: &Arc<Self>, data: Vec<u8>, bytes: u64) -> HostBlock {
        self.state().stats.held_on_host(bytes);
        self.hold(Content::Held(Arc::new(data)), bytes)
    }

    /// Counts `bytes` bytes as left in a file for this device until what is given is dropped.
    /// `produce` makes them for each copy, during which they are counted as held on the host; a dry
    /// run does not call it.
    pub fn leave_in_file(self: &Arc<Self>, produce: Arc<Producer>, bytes: u64) -> HostBlock {
        self.state().stats.file_bytes += bytes;
        self.hold(Content::Produced(produce), bytes)
    }

    fn hold(self: &Arc<Self>, content: Content, bytes: u64) -> HostBlock {
        let index = self.state().stream.hold(&content, bytes);
        HostBlock { index, bytes, content, manager: Arc::clone(self) }
    }
}

impl Drop for HostBlock {
    fn drop(&mut self) {
        let ahead = {
            let mut state = self.manager.state();
            match self.content {
                Content::Held(_) => state.stats.host_bytes -= self.bytes,
                Content::Produced(_) => state.stats.file_bytes -= self.bytes,
            }
            state.stream.let_go(self.index)
        };
        if let Some(ahead) = ahead {
            // A driver that fails here fails again at the next call, which can return the error.
            let _ = self.manager.discard(ahead);
        }
    }
}
