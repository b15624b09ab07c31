//! A table of vectors.

use std::sync::Arc;

use super::{Loader, Reader};
use crate::Result;
use crate::device::{Device, OffloadTo};
use crate::memory::{HostBlock, Lifetime};
use crate::ops::{Storage, Vocabulary};
use crate::tensor::{from_bytes, to_bytes};

/// Rows of which few are wanted at a time, such as a vocabulary's.
///
/// It is on the device; or on the host or in its file, from where the rows that are wanted are copied,
/// if weights are [offloaded](Device::offload_weights) or it is over the device's largest allocation.
#[derive(Debug)]
pub struct Table {
    place: Place,
    columns: usize,
    storage: Storage,
}

#[derive(Debug)]
enum Place {
    Resident(Vocabulary),
    /// On the host; or in its file, if there is a reader.
    Offloaded(Device, HostBlock, Option<Reader>),
}

impl Table {
    /// `name` `[rows, columns]`, stored in the model's element type, or in blocks if the source has it
    /// in blocks.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, name: &str, shape: [usize; 2]) -> Result<Self> {
        let (device, [rows, columns]) = (loader.device(), shape);
        let storage = loader.table_storage(name);
        let on_device = Vocabulary::bytes_of(storage, shape) as u64;
        let fits = on_device <= device.memory().max_allocation_bytes();
        let to = if fits { device.offloads(on_device) } else { Some(OffloadTo::Host) };
        let bytes = (rows * row_bytes(storage, columns)) as u64;
        let reader = match storage {
            Storage::Values(dtype) => loader.reader(name, &shape)?.map(|reader| (reader, dtype)),
            Storage::Blocks(_) => None,
        };
        let place = match (to, reader) {
            (None, _) => Place::Resident(loader.vocabulary(name, shape)?),
            (Some(OffloadTo::File), Some((reader, dtype))) => {
                let all = reader.clone();
                let produce = move || Ok(to_bytes(&all.read(0..rows * columns)?, dtype));
                let left = device.memory().leave_in_file(Arc::new(produce), bytes);
                Place::Offloaded(device.clone(), left, Some(reader))
            }
            (Some(_), _) => {
                let stored = loader.stored(name, shape)?;
                let held = device.memory().hold_on_host(stored, bytes);
                Place::Offloaded(device.clone(), held, None)
            }
        };
        Ok(Self { place, columns, storage })
    }

    /// A table `[.., columns]` with the rows of `ids`, each of them a row of this one, and where
    /// in it each is.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Device`](crate::Error::Device).
    pub fn rows(&self, ids: &[u32]) -> Result<(Vocabulary, Vec<u32>)> {
        let columns = self.columns;
        let (device, held, reader) = match &self.place {
            Place::Resident(table) => return Ok((table.clone(), ids.to_vec())),
            Place::Offloaded(device, held, reader) => (device, held, reader),
        };
        let (shape, row_bytes) = ([ids.len(), columns], row_bytes(self.storage, columns));
        let on_host = |id: &u32| &held.data()[*id as usize * row_bytes..][..row_bytes];
        let table = match self.storage {
            Storage::Values(dtype) => {
                let row = |id: &u32| match reader {
                    Some(reader) => {
                        reader.read(*id as usize * columns..(*id as usize + 1) * columns)
                    }
                    None => Ok(from_bytes(on_host(id), dtype)),
                };
                Vocabulary::values(device, Lifetime::Transient, dtype, shape, || {
                    Ok(ids.iter().map(row).collect::<Result<Vec<_>>>()?.concat())
                })
            }
            Storage::Blocks(format) => {
                Vocabulary::blocks(device, Lifetime::Transient, format, shape, || {
                    Ok(ids.iter().map(on_host).collect::<Vec<_>>().concat())
                })
            }
        };
        Ok((table?, (0..ids.len() as u32).collect()))
    }
}

/// Of a row on the host.
fn row_bytes(storage: Storage, columns: usize) -> usize {
    match storage {
        Storage::Values(dtype) => columns * dtype.size(),
        Storage::Blocks(format) => columns / format.block_values() * format.block_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::TensorSource;
    use crate::tensor::Tensor;
    use crate::{DType, DeviceOptions, Format, ops};

    /// Every value is its place.
    struct Counting;

    impl TensorSource for Counting {
        fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
            Ok(())
        }

        fn read(&self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            Ok((0..shape.iter().product()).map(|index: usize| index as f32).collect())
        }
    }

    /// The same in blocks, whose scales are powers of two: the last of 32 values is 127 times its row.
    struct InBlocks;

    impl TensorSource for InBlocks {
        fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
            Ok(())
        }

        fn read(&self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            let value = |at: usize| (at / 32 * if at % 32 == 31 { 127 } else { at % 32 }) as f32;
            Ok((0..shape.iter().product()).map(value).collect())
        }

        fn table_format(&self, _name: &str) -> Option<Format> {
            Some(Format::Q8_0)
        }
    }

    #[test]
    fn rows_in_blocks_stay_so_wherever_the_table_is() {
        let ids = [39, 0, 7, 7];
        for offloads in [false, true] {
            let device = Device::cpu();
            let offloading = offloads.then(|| device.offload_weights());
            let loader = Loader::new(&device, DType::F32, &InBlocks);
            let table = Table::load(&loader, "weight", [40, 32]).unwrap();
            drop(offloading);
            let stats = device.memory_stats();
            // On the device panels of 32 rows are whole.
            let expected = if offloads { [0, 40 * 34] } else { [64 * 34, 0] };
            assert_eq!([stats.held_bytes, stats.host_bytes], expected);
            let (rows, places) = table.rows(&ids).unwrap();
            assert_eq!(rows.storage(), Storage::Blocks(Format::Q8_0));
            let expected = InBlocks.read("", &[40, 32]).unwrap();
            let expected: Vec<f32> =
                ids.iter().flat_map(|id| expected[*id as usize * 32..][..32].to_vec()).collect();
            assert_eq!(values(&rows, &places), expected);
        }
    }

    /// Rows of a table, as embeddings without places.
    fn values(table: &Vocabulary, places: &[u32]) -> Vec<f32> {
        let dtype = match table.storage() {
            Storage::Values(dtype) => dtype,
            Storage::Blocks(_) => DType::F32,
        };
        let columns = table.shape()[1];
        let nothing = vec![0.0; places.len() * columns];
        let nothing =
            Tensor::from_slice(&Device::cpu(), &[places.len(), columns], dtype, &nothing).unwrap();
        let rows = ops::token_embedding(places, places.len(), table, &nothing).unwrap();
        rows.to_vec().unwrap()
    }

    #[test]
    fn rows_are_the_same_wherever_the_table_is() {
        let ids = [59, 0, 7, 7];
        for dtype in DType::ALL {
            // 60 rows of 8: exact in f16 as well. On the device panels of 32 rows are whole.
            let (bytes, on_host) = ((64 * 8 * dtype.size()) as u64, (60 * 8 * dtype.size()) as u64);
            for (why, most_bytes, offloads, resident) in [
                ("it fits", bytes, false, true),
                ("over the largest allocation", bytes - 1, false, false),
                ("offloaded", bytes, true, false),
            ] {
                let max_allocation_bytes = Some(most_bytes);
                let options = DeviceOptions { max_allocation_bytes, ..Default::default() };
                let device = Device::cpu_with(&options);
                let offloading = offloads.then(|| device.offload_weights());
                let loader = Loader::new(&device, dtype, &Counting);
                let table = Table::load(&loader, "weight", [60, 8]).unwrap();
                drop(offloading);
                let stats = device.memory_stats();
                let expected = if resident { [bytes, 0] } else { [0, on_host] };
                assert_eq!([stats.held_bytes, stats.host_bytes], expected, "{why}");
                let (rows, places) = table.rows(&ids).unwrap();
                let expected: Vec<f32> =
                    ids.iter().flat_map(|id| (0..8).map(move |c| (id * 8 + c) as f32)).collect();
                assert_eq!(values(&rows, &places), expected, "{why}, {dtype}");
            }
        }
    }
}
