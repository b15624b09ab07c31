//! What a code object says of itself: for which chip it is, and where its kernel's arguments lie.
//!
//! A code object is an ELF file. A note in it has a MessagePack document with the kernels, each
//! with its arguments: those of its source, and hidden ones that the driver fills in.

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{ElfFile, ProgramHeader};
use rmpv::Value as Pack;

use crate::backend::{Argument, Value};

/// `NT_AMDGPU_METADATA`
const METADATA: u32 = 32;

/// A kernel's arguments, as the compiler has laid them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of all arguments together.
    pub bytes: usize,
    /// Those of the source, in its order.
    pub explicit: Vec<Slot>,
    /// What the driver would fill in.
    pub hidden: Vec<Slot>,
}

/// An argument's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// As the source spells it; empty for hidden ones.
    pub name: String,
    /// Such as `global_buffer`, `by_value` or `hidden_global_offset_x`.
    pub kind: String,
    pub offset: usize,
    pub bytes: usize,
}

/// The work-groups that are launched.
pub struct Grid {
    /// The first of them, of a larger grid.
    pub start: [usize; 3],
    /// How many.
    pub groups: [usize; 3],
    /// Work-items of each.
    pub local: [usize; 3],
}

/// Reads the layout of a kernel for an architecture such as `gfx906:sramecc+:xnack-`.
///
/// # Errors
///
/// What is wrong with the code object, in one line.
pub fn layout(image: &[u8], kernel: &str, architecture: &str) -> Result<Layout, String> {
    let metadata = metadata(image)?;
    if let Some(target) = get(&metadata, "amdhsa.target").and_then(Pack::as_str) {
        let chip = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
        let built_for = target.rsplit("--").next().unwrap_or_default();
        if chip(built_for) != chip(architecture) {
            return Err(format!("it is for {built_for}, and the device is {architecture}"));
        }
    }
    let kernels = get(&metadata, "amdhsa.kernels").and_then(Pack::as_array);
    let kernels = kernels.ok_or("its metadata names no kernels")?;
    let found = kernels.iter().find(|one| text(one, ".name") == Some(kernel));
    let found = found.ok_or_else(|| format!("it has no kernel {kernel}"))?;
    let bytes = number(found, ".kernarg_segment_size")?;
    let mut layout = Layout { bytes, explicit: Vec::new(), hidden: Vec::new() };
    for one in get(found, ".args").and_then(Pack::as_array).into_iter().flatten() {
        let kind = text(one, ".value_kind").ok_or("an argument has no kind")?.to_owned();
        let name = text(one, ".name").unwrap_or_default().to_owned();
        let (offset, bytes) = (number(one, ".offset")?, number(one, ".size")?);
        if offset.checked_add(bytes).is_none_or(|end| end > layout.bytes) {
            return Err(format!("argument {name:?} lies outside the {} B of all", layout.bytes));
        }
        let is_hidden = kind.starts_with("hidden_");
        let slot = Slot { name, kind, offset, bytes };
        if is_hidden { &mut layout.hidden } else { &mut layout.explicit }.push(slot);
    }
    Ok(layout)
}

/// The note's document.
fn metadata(image: &[u8]) -> Result<Pack, String> {
    let broken = |error: &dyn std::fmt::Display| format!("it is no code object: {error}");
    let elf = ElfFile::<FileHeader64<Endianness>>::parse(image).map_err(|error| broken(&error))?;
    let endian = elf.endian();
    // A driver is given an address alone: it cannot find that a file was cut.
    for segment in elf.elf_program_headers() {
        segment.data(endian, image).map_err(|()| "it is no code object: it was cut".to_owned())?;
    }
    for segment in elf.elf_program_headers() {
        let Some(mut notes) = segment.notes(endian, image).map_err(|error| broken(&error))? else {
            continue;
        };
        while let Some(note) = notes.next().map_err(|error| broken(&error))? {
            if note.n_type(endian) == METADATA && note.name() == b"AMDGPU" {
                return rmpv::decode::read_value(&mut note.desc()).map_err(|error| broken(&error));
            }
        }
    }
    Err("it has no metadata".to_owned())
}

fn get<'a>(map: &'a Pack, key: &str) -> Option<&'a Pack> {
    let entries = map.as_map()?;
    entries.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
}

fn text<'a>(map: &'a Pack, key: &str) -> Option<&'a str> {
    get(map, key)?.as_str()
}

/// A size or an offset, no larger than arguments are.
fn number(map: &Pack, key: &str) -> Result<usize, String> {
    const MOST: u64 = 1 << 16;
    let number = get(map, key).and_then(Pack::as_u64).filter(|number| *number <= MOST);
    number.map(|number| number as usize).ok_or_else(|| format!("its metadata has no {key}"))
}

impl Layout {
    /// The bytes of all arguments of a launch, as the kernel reads them.
    ///
    /// # Errors
    ///
    /// Which argument the code object has otherwise, in one line.
    pub fn pack(
        &self,
        arguments: &[Argument],
        address: impl Fn(&crate::backend::Buffer) -> u64,
        grid: &Grid,
    ) -> Result<Vec<u64>, String> {
        if arguments.len() != self.explicit.len() {
            let (given, wanted) = (arguments.len(), self.explicit.len());
            return Err(format!("expected {wanted} arguments, got {given}"));
        }
        // Of words, so that the start is aligned.
        let mut words = vec![0; self.bytes.div_ceil(8)];
        let mut put = |slot: &Slot, value: u64| {
            for (byte, at) in value.to_le_bytes().into_iter().zip(slot.offset..).take(slot.bytes) {
                words[at / 8] |= u64::from(byte) << (at % 8 * 8);
            }
        };
        for (index, (slot, argument)) in self.explicit.iter().zip(arguments).enumerate() {
            let Argument { name, value } = argument;
            let (word, length, is_buffer) = match *value {
                Value::Input(buffer) | Value::Output(buffer) => (address(buffer), 8, true),
                Value::Absent => (0, 8, true),
                Value::U32(number) => (number.into(), 4, false),
                Value::I32(number) => ((number as u32).into(), 4, false),
                Value::F32(number) => (number.to_bits().into(), 4, false),
            };
            let kind = if is_buffer { "global_buffer" } else { "by_value" };
            // A compiler may leave names out.
            let agrees = slot.name.is_empty() || slot.name == *name;
            if !agrees || slot.kind != kind || slot.bytes != length {
                return Err(format!(
                    "argument {index} is {:?} ({}, {} B) in the code object, expected {name:?} \
                     ({kind}, {length} B)",
                    slot.name, slot.kind, slot.bytes
                ));
            }
            put(slot, word);
        }
        for slot in &self.hidden {
            let axis = match slot.kind.as_bytes().last() {
                Some(axis @ b'x'..=b'z') => usize::from(axis - b'x'),
                _ => 0,
            };
            let value = match slot.kind.trim_end_matches(['x', 'y', 'z']) {
                "hidden_block_count_" => grid.groups[axis],
                "hidden_group_size_" => grid.local[axis],
                "hidden_global_offset_" => grid.start[axis] * grid.local[axis],
                "hidden_grid_dims" => 3,
                // Grids are whole work-groups: remainders are 0, and what else there is, for
                // printing and queues on the device, no kernel uses.
                _ => 0,
            };
            put(slot, value as u64);
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, kind: &str, offset: usize, bytes: usize) -> Slot {
        Slot { name: name.to_owned(), kind: kind.to_owned(), offset, bytes }
    }

    #[test]
    fn arguments_lie_where_the_code_object_says() {
        let layout = Layout {
            bytes: 44,
            explicit: vec![
                slot("x", "global_buffer", 0, 8),
                slot("count", "by_value", 8, 4),
                slot("shift", "by_value", 12, 4),
                slot("scale", "by_value", 16, 4),
            ],
            hidden: vec![
                slot("", "hidden_block_count_x", 20, 4),
                slot("", "hidden_block_count_z", 24, 4),
                slot("", "hidden_group_size_x", 28, 2),
                slot("", "hidden_group_size_y", 30, 2),
                slot("", "hidden_grid_dims", 32, 2),
                slot("", "hidden_global_offset_x", 36, 8),
            ],
        };
        let arguments = [
            Argument { name: "x", value: Value::Absent },
            Argument { name: "count", value: Value::U32(7) },
            Argument { name: "shift", value: Value::I32(-2) },
            Argument { name: "scale", value: Value::F32(1.5) },
        ];
        let grid = Grid { start: [2, 0, 0], groups: [5, 6, 9], local: [64, 2, 1] };
        let words = layout.pack(&arguments, |_| 0, &grid).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected = [
            [0; 8].as_slice(),
            &7u32.to_le_bytes(),
            &(-2i32).to_le_bytes(),
            &1.5f32.to_le_bytes(),
            &5u32.to_le_bytes(),
            &9u32.to_le_bytes(),
            &64u16.to_le_bytes(),
            &2u16.to_le_bytes(),
            &3u16.to_le_bytes(),
            &[0; 2],
            &128u64.to_le_bytes(),
            &[0; 4],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_no_code_object_is_said() {
        let error = |image: &[u8]| layout(image, "k", "gfx906").unwrap_err();
        assert!(error(b"").starts_with("it is no code object: "));
        let mut header = vec![0; 64];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        assert_eq!(error(&header), "it has no metadata");
    }
}
