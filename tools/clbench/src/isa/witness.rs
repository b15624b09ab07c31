//! A device that runs every kernel's definition and keeps what each launch read and wrote.

use std::sync::{Arc, Mutex};

use ellesmere::Result;
use ellesmere::backend::cpu::Cpu;
use ellesmere::backend::{
    Backend, Buffer, CopyRegion, Launch, Program, ProgramSource, Timer, Value,
};
use ellesmere::info::DeviceInfo;

/// See the [module](self).
#[derive(Debug)]
pub struct Witness {
    definitions: Cpu,
    launches: Mutex<Vec<Launched>>,
}

/// One launch, with all that it read and wrote.
#[derive(Clone, Debug)]
pub struct Launched {
    pub source: ProgramSource,
    pub groups: [usize; 3],
    pub local: [usize; 3],
    /// In the kernel's order, by the kernel's names.
    pub arguments: Vec<(&'static str, Passed)>,
}

/// What was passed.
#[derive(Clone, Debug, PartialEq)]
pub enum Passed {
    /// A buffer that was read, with its bytes.
    Read(Vec<u8>),
    /// A buffer that was written, with its bytes before and after.
    Written {
        before: Vec<u8>,
        after: Vec<u8>,
    },
    /// A null pointer.
    Absent,
    U32(u32),
    I32(i32),
    F32(f32),
}

/// A program with what it was compiled from.
#[derive(Debug)]
struct Known {
    source: ProgramSource,
    program: Program,
}

impl Witness {
    /// Ops choose as on the device that `info` describes.
    pub fn new(info: DeviceInfo) -> Self {
        Self { definitions: Cpu::definitions_for(info), launches: Mutex::default() }
    }

    /// The launches since this was asked last.
    pub fn take(&self) -> Vec<Launched> {
        std::mem::take(&mut self.launches.lock().expect("keeping a launch does not panic"))
    }

    fn bytes(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        let mut bytes = vec![0; buffer.bytes() as usize];
        self.definitions.read(buffer, 0, &mut bytes)?;
        Ok(bytes)
    }
}

impl Backend for Witness {
    fn info(&self) -> &DeviceInfo {
        self.definitions.info()
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        self.definitions.allocate(bytes)
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        self.definitions.part(whole, offset, bytes)
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.definitions.write(target, offset, data)
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        self.definitions.read(source, offset, data)
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        self.definitions.copy(region)
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        let program = self.definitions.build(source)?;
        Ok(Program::new(Known { source: source.clone(), program }))
    }

    fn binary(&self, _program: &Program) -> Option<Vec<u8>> {
        None
    }

    fn load(&self, source: &ProgramSource, _binary: &[u8]) -> Result<Program> {
        self.build(source)
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        let Known { source, program } = program.handle();
        let passed = |value: &Value| {
            Ok(match *value {
                Value::Input(buffer) => Passed::Read(self.bytes(buffer)?),
                Value::Output(buffer) => {
                    Passed::Written { before: self.bytes(buffer)?, after: Vec::new() }
                }
                Value::Absent => Passed::Absent,
                Value::U32(value) => Passed::U32(value),
                Value::I32(value) => Passed::I32(value),
                Value::F32(value) => Passed::F32(value),
            })
        };
        let arguments = launch.arguments.iter();
        let arguments = arguments.map(|one| Ok((one.name, passed(&one.value)?)));
        let mut arguments = arguments.collect::<Result<Vec<_>>>()?;
        let timer = self.definitions.launch(program, launch)?;
        for (one, (_, kept)) in launch.arguments.iter().zip(&mut arguments) {
            if let (Value::Output(buffer), Passed::Written { after, .. }) = (&one.value, kept) {
                *after = self.bytes(buffer)?;
            }
        }
        let Launch { groups, local, .. } = *launch;
        let launched = Launched { source: source.clone(), groups, local, arguments };
        self.launches.lock().expect("keeping a launch does not panic").push(launched);
        Ok(timer)
    }

    fn finish(&self) -> Result<()> {
        self.definitions.finish()
    }
}
