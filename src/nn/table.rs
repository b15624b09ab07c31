//! A table of vectors.

use std::sync::Arc;

use super::{Loader, Reader};
use crate::device::{Device, OffloadTo};
use crate::memory::HostBlock;
use crate::tensor::{Tensor, from_bytes, to_bytes};
use crate::{DType, Result};

/// Rows of which few are wanted at a time, such as a vocabulary's.
///
/// It is on the device; or on the host or in its file, from where the rows that are wanted are copied,
/// if weights are [offloaded](Device::offload_weights) or it is over the device's largest allocation.
#[derive(Debug)]
pub struct Table {
    place: Place,
    columns: usize,
    dtype: DType,
}

#[derive(Debug)]
enum Place {
    Resident(Tensor),
    /// On the host; or in its file, if there is a reader.
    Offloaded(Device, HostBlock, Option<Reader>),
}

impl Table {
    /// `name` `[rows, columns]`, stored in the model's element type.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, name: &str, shape: [usize; 2]) -> Result<Self> {
        let (device, dtype, [rows, columns]) = (loader.device(), loader.dtype(), shape);
        let bytes = (rows * columns * dtype.size()) as u64;
        let fits = bytes <= device.memory().max_allocation_bytes();
        let to = if fits { device.offloads(bytes) } else { Some(OffloadTo::Host) };
        let reader = loader.reader(name, &shape)?;
        let place = match (to, reader) {
            (None, _) => Place::Resident(loader.table(name, shape)?),
            (Some(OffloadTo::File), Some(reader)) => {
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
        Ok(Self { place, columns, dtype })
    }

    /// A table `[.., columns]` with the rows of `ids`, each of them a row of this one, and where
    /// in it each is.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Device`](crate::Error::Device).
    pub fn rows(&self, ids: &[u32]) -> Result<(Tensor, Vec<u32>)> {
        let columns = self.columns;
        let (device, held, reader) = match &self.place {
            Place::Resident(table) => return Ok((table.clone(), ids.to_vec())),
            Place::Offloaded(device, held, reader) => (device, held, reader),
        };
        let row_bytes = columns * self.dtype.size();
        let row = |id: &u32| {
            let row = *id as usize;
            match reader {
                _ if !device.executes() => Ok(vec![0.0; columns]),
                Some(reader) => reader.read(row * columns..(row + 1) * columns),
                None => {
                    let bytes = &held.data()[row * row_bytes..][..row_bytes];
                    Ok(from_bytes(bytes, self.dtype))
                }
            }
        };
        let rows = ids.iter().map(row).collect::<Result<Vec<_>>>()?.concat();
        let table = Tensor::from_slice(device, &[ids.len(), self.columns], self.dtype, &rows)?;
        Ok((table, (0..ids.len() as u32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceOptions;
    use crate::nn::TensorSource;

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

    #[test]
    fn rows_are_the_same_wherever_the_table_is() {
        let ids = [29, 0, 7, 7];
        for dtype in DType::ALL {
            // 30 rows of 8: exact in f16 as well.
            let bytes = (30 * 8 * dtype.size()) as u64;
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
                let table = Table::load(&loader, "weight", [30, 8]).unwrap();
                drop(offloading);
                let stats = device.memory_stats();
                let expected = if resident { [bytes, 0] } else { [0, bytes] };
                assert_eq!([stats.held_bytes, stats.host_bytes], expected, "{why}");
                let (rows, places) = table.rows(&ids).unwrap();
                let values = rows.to_vec().unwrap();
                for (id, place) in ids.iter().zip(places) {
                    let row = &values[place as usize * 8..][..8];
                    let expected: Vec<f32> = (0..8).map(|c| (id * 8 + c) as f32).collect();
                    assert_eq!(row, expected, "{why}, {dtype}");
                }
            }
        }
    }
}
