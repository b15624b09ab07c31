//! What a code object tells: its target, and where the arguments of a kernel lie.

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{ElfFile, ProgramHeader};
use rmpv::Value;

/// Where a kernel's arguments lie.
pub struct Places {
    /// Those that the source has, in its order.
    pub explicit: Vec<Place>,
    /// Where the first work-item's place along each axis is, and its bytes, where the kernel asks.
    pub offsets: [Option<(usize, usize)>; 3],
    /// Bytes of all together.
    pub bytes: usize,
}

/// An argument that the source has.
pub struct Place {
    pub offset: usize,
    pub bytes: usize,
    pub is_pointer: bool,
}

pub struct Metadata(Value);

impl Metadata {
    pub fn read(elf: &[u8]) -> Option<Self> {
        let file = ElfFile::<FileHeader64<Endianness>>::parse(elf).ok()?;
        for segment in file.elf_program_headers() {
            let Ok(Some(mut notes)) = segment.notes(file.endian(), elf) else { continue };
            while let Ok(Some(note)) = notes.next() {
                if note.n_type(file.endian()) == 32 && note.name() == b"AMDGPU" {
                    return rmpv::decode::read_value(&mut note.desc()).ok().map(Self);
                }
            }
        }
        None
    }

    /// Such as `gfx906:sramecc+:xnack-`.
    pub fn target(&self) -> Option<&str> {
        get(&self.0, "amdhsa.target")?.as_str()?.rsplit("--").next()
    }

    pub fn kernels(&self) -> Vec<&str> {
        let kernels = get(&self.0, "amdhsa.kernels").and_then(Value::as_array);
        let name = |kernel| get(kernel, ".name")?.as_str();
        kernels.into_iter().flatten().filter_map(name).collect()
    }

    /// The arguments of a kernel.
    pub fn arguments(&self, kernel: &str) -> Option<Places> {
        let kernels = get(&self.0, "amdhsa.kernels")?.as_array()?;
        let found =
            kernels.iter().find(|one| get(one, ".name").and_then(Value::as_str) == Some(kernel))?;
        let number = |map, key| get(map, key)?.as_u64().map(|number| number as usize);
        let bytes = number(found, ".kernarg_segment_size")?;
        let mut places = Places { explicit: Vec::new(), offsets: [None; 3], bytes };
        for one in get(found, ".args")?.as_array()? {
            let kind = get(one, ".value_kind")?.as_str()?;
            let (offset, bytes) = (number(one, ".offset")?, number(one, ".size")?);
            match kind.strip_prefix("hidden_") {
                Some("global_offset_x") => places.offsets[0] = Some((offset, bytes)),
                Some("global_offset_y") => places.offsets[1] = Some((offset, bytes)),
                Some("global_offset_z") => places.offsets[2] = Some((offset, bytes)),
                Some(_) => {}
                None => {
                    let is_pointer = kind == "global_buffer";
                    places.explicit.push(Place { offset, bytes, is_pointer });
                }
            }
        }
        Some(places)
    }
}

fn get<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    let entries = map.as_map()?;
    entries.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
}
