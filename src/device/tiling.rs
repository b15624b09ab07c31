//! Pictures in bands that are parked on the host.

use std::sync::{MutexGuard, PoisonError};

use super::Device;
use crate::{Error, Result};

/// Rows that bands begin at multiples of, so that the tiles of Winograd's algorithm lie where they
/// lie in the whole picture.
const ROW_STEP: usize = 4;

/// How tensors of a picture are cut: see [`Device::tile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of the picture.
    height: usize,
    /// Rows up to which a tensor stays whole.
    whole_rows: usize,
    /// Rows of the picture in a band.
    band_rows: usize,
}

impl Tiling {
    /// The least side of a tile in pixels.
    pub const LEAST_TILE: usize = 64;

    /// Bands for a picture of `size` (height and width in pixels) that have as many pixels as a
    /// square tile of side `tile`, or fewer; `None` where all of the picture fits one.
    ///
    /// A band is whole rows, so that what a convolution reads beside it lies above and below
    /// alone. It has 4 rows at least where the picture is `downscale` times as small; tensors that
    /// are as small as that stay whole, on the device.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `tile` is less than 64 or no multiple of 8.
    pub fn new(size: [usize; 2], downscale: usize, tile: usize) -> Result<Option<Self>> {
        if tile < Self::LEAST_TILE || !tile.is_multiple_of(8) {
            let least = Self::LEAST_TILE;
            let detail = format!("expected a multiple of 8 of at least {least}, got {tile}");
            return Err(Error::argument("vae tile", detail));
        }
        let [height, width] = size;
        let step = ROW_STEP * downscale;
        let most_rows = ((tile.saturating_mul(tile) / width.max(1)) / step * step).max(step);
        if height <= most_rows {
            return Ok(None);
        }
        let bands = height.div_ceil(most_rows);
        let band_rows = height.div_ceil(bands).next_multiple_of(step);
        Ok(Some(Self { height, whole_rows: height / downscale, band_rows }))
    }

    /// Rows of a band of a tensor with these sizes; `None` if it stays whole.
    fn rows_per_band(&self, shape: &[usize]) -> Option<usize> {
        let &[_, rows, _, _] = shape else { return None };
        if rows <= self.whole_rows {
            return None;
        }
        let band_rows = self.band_rows * rows / self.height;
        let band_rows = (band_rows / ROW_STEP * ROW_STEP).max(ROW_STEP);
        (band_rows < rows).then_some(band_rows)
    }
}

/// Pictures are tiled until this is dropped: see [`Device::tile`].
#[derive(Debug)]
#[must_use = "tiling ends when its guard is dropped"]
pub struct Tiled {
    device: Device,
}

impl Drop for Tiled {
    fn drop(&mut self) {
        self.device.tilings().pop();
    }
}

impl Device {
    /// Tiles pictures: until the guard is dropped, tensors of four axes with more rows than
    /// `tiling` leaves whole are cut into bands, and each band is parked on the host but for the
    /// launches that write or read it. Results are the same: a convolution reads the rows that it
    /// needs of the bands above and below, a norm takes its statistics of all bands.
    ///
    /// For all threads that use the device. Parked bytes are counted in
    /// [`MemoryStats::parked_bytes`](crate::memory::MemoryStats::parked_bytes), on a dry run too.
    pub fn tile(&self, tiling: Tiling) -> Tiled {
        self.tilings().push(tiling);
        Tiled { device: self.clone() }
    }

    /// Rows of a parked band of a tensor with these sizes; `None` if it is not parked.
    pub(crate) fn parked_rows(&self, shape: &[usize]) -> Option<usize> {
        self.tilings().last()?.rows_per_band(shape)
    }

    fn tilings(&self) -> MutexGuard<'_, Vec<Tiling>> {
        // A push or a pop is complete before anything can panic.
        self.inner.tilings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_have_no_more_pixels_than_a_tile_and_begin_where_winograds_tiles_do() {
        for (why, size, tile, rows) in [
            ("as large as a tile", [512, 512], 512, None),
            ("a quarter of it", [512, 512], 256, Some(128)),
            ("even bands", [512, 512], 384, Some(256)),
            ("no power of two", [512, 512], 200, Some(64)),
            ("large", [2048, 2048], 512, Some(128)),
            ("low and wide", [512, 2048], 512, Some(128)),
            ("high and narrow", [2048, 512], 512, Some(512)),
            ("the least rows, though more pixels than the tile", [512, 8192], 64, Some(32)),
        ] {
            let tiling = Tiling::new(size, 8, tile).unwrap();
            assert_eq!(tiling.map(|tiling| tiling.band_rows), rows, "{why}");
        }
        let tiling = Tiling::new([2048, 2048], 8, 512).unwrap().unwrap();
        for (why, shape, rows) in [
            ("the picture", &[1, 2048, 2048, 128][..], Some(128)),
            ("half of it", &[1, 1024, 1024, 512], Some(64)),
            ("the latent", &[1, 256, 256, 512], None),
            ("tokens", &[1, 65536, 512], None),
        ] {
            assert_eq!(tiling.rows_per_band(shape), rows, "{why}");
        }
    }

    #[test]
    fn tiles_that_are_too_small_or_odd_are_refused() {
        for tile in [0, 56, 63, 100] {
            let error = Tiling::new([512, 512], 8, tile).unwrap_err().to_string();
            let expected = "vae tile: expected a multiple of 8 of at least 64, got ";
            assert_eq!(error, format!("{expected}{tile}"));
        }
    }
}
