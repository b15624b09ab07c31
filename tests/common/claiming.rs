//! A device that claims to be of another kind, so that ops choose what they would choose there.

use std::sync::Arc;
use std::time::Duration;

use ellesmere::Result;
use ellesmere::backend::{
    Backend, Buffer, CopyRegion, Launch, LaunchLimit, Program, ProgramSource, Timer,
};
use ellesmere::info::DeviceInfo;

/// A backend under another description.
#[derive(Debug)]
pub struct Claiming {
    inner: Arc<dyn Backend>,
    info: DeviceInfo,
}

impl Claiming {
    /// `inner`, described as `info`.
    pub fn new(inner: Arc<dyn Backend>, info: DeviceInfo) -> Self {
        Self { inner, info }
    }
}

impl Backend for Claiming {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        self.inner.allocate(bytes)
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        self.inner.part(whole, offset, bytes)
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.inner.write(target, offset, data)
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        self.inner.read(source, offset, data)
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        self.inner.copy(region)
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        self.inner.build(source)
    }

    fn binary(&self, _program: &Program) -> Option<Vec<u8>> {
        None
    }

    fn load(&self, source: &ProgramSource, binary: &[u8]) -> Result<Program> {
        self.inner.load(source, binary)
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        self.inner.launch(program, launch)
    }

    fn launch_limit(&self) -> Option<Duration> {
        self.inner.launch_limit()
    }

    fn limited(&self, limit: LaunchLimit) -> Option<Arc<dyn Backend>> {
        let inner = self.inner.limited(limit)?;
        Some(Arc::new(Self { inner, info: self.info.clone() }))
    }

    fn finish(&self) -> Result<()> {
        self.inner.finish()
    }
}
