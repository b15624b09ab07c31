//! A launch's arguments by name, as slices.

use std::cell::Cell;
use std::ops::Range;

use half::f16;

use super::{HostMemory, Terms};
use crate::backend::{Argument, Buffer, ProgramSource, Value};
use crate::{DType, Format};

/// What a kernel in Rust is called with.
///
/// # Panics
///
/// Every method panics if the argument is missing or of another type: the op and the kernel
/// disagree, which is a bug of this crate.
pub struct Arguments<'a> {
    arguments: &'a [Argument<'a>],
    source: &'a ProgramSource,
    outputs_taken: Cell<u32>,
}

/// Elements of the program's `REAL`, read as f32.
#[derive(Clone, Copy)]
pub enum Reals<'a> {
    /// Stored as f32.
    F32(&'a [f32]),
    /// Stored as f16.
    F16(&'a [f16]),
}

impl<'a> Reals<'a> {
    /// The element at `index`.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Reals::F32(values) => values[index],
            Reals::F16(values) => values[index].to_f32(),
        }
    }

    /// Where so many elements from `start` on lie; those that are not there are none.
    pub fn bytes(&self, start: usize, count: usize) -> Range<*const u8> {
        match self {
            Reals::F32(values) => addresses(values, start..start + count),
            Reals::F16(values) => addresses(values, start..start + count),
        }
    }
}

/// Where the values of a range lie that are there.
pub(super) fn addresses<T>(values: &[T], range: Range<usize>) -> Range<*const u8> {
    let end = range.end.min(values.len());
    let Range { start, end } = values[range.start.min(end)..end].as_ptr_range();
    start.cast()..end.cast()
}

/// Elements of the program's `REAL`, written from f32 with one rounding.
pub enum RealsMut<'a> {
    /// Stored as f32.
    F32(&'a mut [f32]),
    /// Stored as f16.
    F16(&'a mut [f16]),
}

impl RealsMut<'_> {
    /// Stores `value`, rounded to the nearest.
    pub fn set(&mut self, index: usize, value: f64) {
        match self {
            RealsMut::F32(values) => values[index] = value as f32,
            RealsMut::F16(values) => values[index] = f16::from_f64(value),
        }
    }
}

/// Types that any bytes are a value of.
trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for f16 {}
impl Plain for u32 {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for i16 {}

impl<'a> Arguments<'a> {
    pub(super) fn new(arguments: &'a [Argument<'a>], source: &'a ProgramSource) -> Self {
        Self { arguments, source, outputs_taken: Cell::new(0) }
    }

    /// What `REAL` is in this program.
    pub fn dtype(&self) -> DType {
        self.source.dtype
    }

    /// The value of one of the program's parameters.
    pub fn parameter(&self, name: &str) -> u32 {
        let found = self.source.parameters.iter().find(|(parameter, _)| *parameter == name);
        found.unwrap_or_else(|| panic!("{} has no parameter {name}", self.source.kernel)).1
    }

    /// A `uint` as an index.
    pub fn size(&self, name: &str) -> usize {
        match self.value(name).1 {
            Value::U32(value) => value as usize,
            ref other => panic!("{} is no uint: {other:?}", name),
        }
    }

    /// An `int`.
    pub fn int(&self, name: &str) -> i32 {
        match self.value(name).1 {
            Value::I32(value) => value,
            ref other => panic!("{name} is no int: {other:?}"),
        }
    }

    /// A `float`.
    pub fn float(&self, name: &str) -> f32 {
        match self.value(name).1 {
            Value::F32(value) => value,
            ref other => panic!("{name} is no float: {other:?}"),
        }
    }

    /// An input of `REAL`.
    pub fn reals(&self, name: &str) -> Reals<'a> {
        self.optional_reals(name).unwrap_or_else(|| panic!("{name} is absent"))
    }

    /// An input of `REAL` that may be absent.
    pub fn optional_reals(&self, name: &str) -> Option<Reals<'a>> {
        let buffer = self.input(name)?;
        Some(match self.source.dtype {
            DType::F32 => Reals::F32(slice(buffer)),
            DType::F16 => Reals::F16(slice(buffer)),
        })
    }

    /// Weights, stored as `FORMAT` says, or as `REAL` if the kernel has no such parameter.
    pub fn weights(&self, name: &str) -> Terms<'a> {
        let format = self.source.parameters.iter().find(|(name, _)| *name == "FORMAT");
        match format.and_then(|(_, number)| Format::from_number(*number)) {
            None => Terms::Reals(self.reals(name)),
            Some(format) => {
                let bytes = self.input(name).unwrap_or_else(|| panic!("{name} is absent"));
                Terms::Blocks(format, slice(bytes))
            }
        }
    }

    /// An input of `float`.
    pub fn floats(&self, name: &str) -> &'a [f32] {
        self.optional_floats(name).unwrap_or_else(|| panic!("{name} is absent"))
    }

    /// An input of `float` that may be absent.
    pub fn optional_floats(&self, name: &str) -> Option<&'a [f32]> {
        self.input(name).map(slice)
    }

    /// An input of `uint`.
    pub fn uints(&self, name: &str) -> &'a [u32] {
        slice(self.input(name).unwrap_or_else(|| panic!("{name} is absent")))
    }

    /// An input of `char`.
    pub fn signed_bytes(&self, name: &str) -> &'a [i8] {
        slice(self.input(name).unwrap_or_else(|| panic!("{name} is absent")))
    }

    /// An input of `short`.
    pub fn shorts(&self, name: &str) -> &'a [i16] {
        slice(self.input(name).unwrap_or_else(|| panic!("{name} is absent")))
    }

    /// An output of `char`; to be taken once.
    pub fn signed_bytes_out(&self, name: &str) -> &'a mut [i8] {
        slice_mut(self.output(name))
    }

    /// An output of `short`; to be taken once.
    pub fn shorts_out(&self, name: &str) -> &'a mut [i16] {
        slice_mut(self.output(name))
    }

    /// An output of `REAL`; to be taken once.
    pub fn reals_out(&self, name: &str) -> RealsMut<'a> {
        self.reals_out_as(name, self.source.dtype)
    }

    /// An output of `REAL` as if that were `dtype`; to be taken once.
    pub fn reals_out_as(&self, name: &str, dtype: DType) -> RealsMut<'a> {
        let buffer = self.output(name);
        match dtype {
            DType::F32 => RealsMut::F32(slice_mut(buffer)),
            DType::F16 => RealsMut::F16(slice_mut(buffer)),
        }
    }

    /// An output of `float`; to be taken once.
    pub fn floats_out(&self, name: &str) -> &'a mut [f32] {
        slice_mut(self.output(name))
    }

    fn value(&self, name: &str) -> (usize, Value<'a>) {
        let found = self.arguments.iter().position(|argument| argument.name == name);
        let index = found.unwrap_or_else(|| panic!("{} has no {name}", self.source.kernel));
        (index, self.arguments[index].value)
    }

    fn input(&self, name: &str) -> Option<&'a Buffer> {
        match self.value(name).1 {
            Value::Input(buffer) => Some(buffer),
            Value::Absent => None,
            ref other => panic!("{name} is no input: {other:?}"),
        }
    }

    fn output(&self, name: &str) -> &'a Buffer {
        let (index, value) = self.value(name);
        let taken = self.outputs_taken.get();
        assert_eq!(taken & (1 << index), 0, "{name} is taken once");
        self.outputs_taken.set(taken | (1 << index));
        match value {
            Value::Output(buffer) => buffer,
            ref other => panic!("{name} is no output: {other:?}"),
        }
    }
}

fn slice<T: Plain>(buffer: &Buffer) -> &[T] {
    let memory: &HostMemory = buffer.handle();
    let count = buffer.bytes() as usize / size_of::<T>();
    // SAFETY: the memory is aligned to 64 bytes and initialised, any bytes are a `T`, and
    // `check_outputs` has seen that no output of this launch is the same buffer.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), count) }
}

#[allow(clippy::mut_from_ref)]
fn slice_mut<T: Plain>(buffer: &Buffer) -> &mut [T] {
    let memory: &HostMemory = buffer.handle();
    let count = buffer.bytes() as usize / size_of::<T>();
    // SAFETY: as in `slice`; besides, each output is taken once (`Arguments::output`), so this
    // is the only slice of it.
    unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast(), count) }
}
