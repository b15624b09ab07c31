//! Overlapping tiles, each encoded or decoded by itself, blended where they overlap.

use std::ops::Range;

use crate::{Error, Result};

/// How diffusers' `enable_tiling` cuts pictures and latents: square tiles that overlap by a
/// quarter of their side.
///
/// No tile knows of the others, and norms and attention see one tile alone: the picture differs
/// from that of [`Device::tile`](crate::Device::tile), which is the untiled one, but the device
/// needs no more than a tile takes, and the host is not asked for more than rows of tiles.
///
/// Reference: `tiled_decode`, `_tiled_encode`, `blend_v` and `blend_h` of `AutoencoderKL` in
/// diffusers' `models/autoencoders/autoencoder_kl.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blend {
    /// Pixels on a side.
    tile: usize,
    /// Latents on a side.
    latent_tile: usize,
}

impl Blend {
    /// Tiles of `tile` pixels on a side, for an autoencoder whose latents are `downscale` times
    /// as small as its pictures.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if a quarter of the side is no whole number of latents: tiles would not
    /// meet where they are cut.
    pub fn new(tile: usize, downscale: usize) -> Result<Self> {
        let step = 4 * downscale;
        if tile == 0 || !tile.is_multiple_of(step) {
            let detail = format!("expected a multiple of {step} for blended tiles, got {tile}");
            return Err(Error::argument("vae tile", detail));
        }
        Ok(Self { tile, latent_tile: tile / downscale })
    }

    /// Pixels on a side of a tile.
    pub fn tile(&self) -> usize {
        self.tile
    }

    /// How many tiles a picture of `size`, height and width in pixels, is cut into; 1 where it is
    /// no larger than a tile.
    pub fn count(&self, size: [usize; 2]) -> usize {
        match size.iter().all(|&side| side <= self.tile) {
            true => 1,
            false => size.map(|side| side.div_ceil(self.tile - self.tile / 4)).iter().product(),
        }
    }

    /// The picture of `latent`, `[h, w, C]` with `size` its height and width: row by row, channels
    /// last, as `decode` gives it of each tile.
    ///
    /// # Errors
    ///
    /// Those of `decode`; [`Error::Shape`] if `latent` is not of that size.
    pub fn decode(
        &self,
        latent: &[f32],
        size: [usize; 2],
        decode: impl FnMut(&[f32], [usize; 2]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        Cut { from: self.latent_tile, to: self.tile }.run(latent, size, decode)
    }

    /// The moments of a `picture`, `[H, W, C]` with `size` its height and width, as `encode` gives
    /// them of each tile.
    ///
    /// # Errors
    ///
    /// Those of `encode`; [`Error::Shape`] if `picture` is not of that size.
    pub fn encode(
        &self,
        picture: &[f32],
        size: [usize; 2],
        encode: impl FnMut(&[f32], [usize; 2]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        Cut { from: self.tile, to: self.latent_tile }.run(picture, size, encode)
    }
}

/// The sides of a tile before and after it is computed.
#[derive(Clone, Copy)]
struct Cut {
    from: usize,
    to: usize,
}

/// `[height, width, channels]`.
struct Tile {
    values: Vec<f32>,
    size: [usize; 2],
    channels: usize,
}

impl Cut {
    fn run(
        self,
        input: &[f32],
        [height, width]: [usize; 2],
        mut compute: impl FnMut(&[f32], [usize; 2]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        if height * width == 0 || !input.len().is_multiple_of(height * width) {
            let got = input.len();
            let detail = format!("{height} by {width} does not hold {got} values");
            return Err(Error::shape("blended tiles", detail));
        }
        if height <= self.from && width <= self.from {
            return compute(input, [height, width]);
        }
        let input = Tile {
            values: input.to_vec(),
            size: [height, width],
            channels: input.len() / (height * width),
        };
        let (step, overlap) = (self.from - self.from / 4, self.to / 4);
        let mut result = Tile {
            values: Vec::new(),
            size: [height, width].map(|side| self.scaled(side)),
            channels: 0,
        };
        let mut above: Vec<Tile> = Vec::new();
        for top in (0..height).step_by(step) {
            let mut row: Vec<Tile> = Vec::new();
            for left in (0..width).step_by(step) {
                let rows = top..height.min(top + self.from);
                let columns = left..width.min(left + self.from);
                let size = [rows.len(), columns.len()];
                let values = compute(&input.part(rows, columns).values, size)?;
                let mut tile = Tile::new(values, size.map(|side| self.scaled(side)));
                // Of the tiles above and to the left, as they have become by their own blends.
                if let Some(above) = above.get(row.len()) {
                    tile.blend_rows(above, overlap);
                }
                if let Some(left) = row.last() {
                    tile.blend_columns(left, overlap);
                }
                result.put(&tile, [top, left].map(|start| self.scaled(start)), self.to - overlap);
                row.push(tile);
            }
            above = row;
        }
        Ok(result.values)
    }

    fn scaled(self, side: usize) -> usize {
        side * self.to / self.from
    }
}

impl Tile {
    fn new(values: Vec<f32>, size: [usize; 2]) -> Self {
        let channels = values.len() / size.iter().product::<usize>();
        Self { values, size, channels }
    }

    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Tile {
        let size = [rows.len(), columns.len()];
        let row = |row| &self.values[self.index(row, columns.start)..self.index(row, columns.end)];
        let values = rows.flat_map(row).copied().collect();
        Tile { values, size, channels: self.channels }
    }

    fn index(&self, row: usize, column: usize) -> usize {
        (row * self.size[1] + column) * self.channels
    }

    /// The first rows become those of the last rows of `above`, less so the further down.
    fn blend_rows(&mut self, above: &Tile, overlap: usize) {
        let overlap = overlap.min(self.size[0]).min(above.size[0]);
        let length = self.size[1] * self.channels;
        for row in 0..overlap {
            let from = above.index(above.size[0] - overlap + row, 0);
            let at = self.index(row, 0);
            blend(&mut self.values[at..at + length], &above.values[from..], row, overlap);
        }
    }

    /// The first columns become those of the last columns of `left`, less so the further right.
    fn blend_columns(&mut self, left: &Tile, overlap: usize) {
        let overlap = overlap.min(self.size[1]).min(left.size[1]);
        for row in 0..self.size[0] {
            for column in 0..overlap {
                let from = left.index(row, left.size[1] - overlap + column);
                let at = self.index(row, column);
                let end = at + self.channels;
                blend(&mut self.values[at..end], &left.values[from..], column, overlap);
            }
        }
    }

    /// Writes the first `most` rows and columns of `tile` to a place.
    fn put(&mut self, tile: &Tile, [top, left]: [usize; 2], most: usize) {
        self.channels = tile.channels;
        self.values.resize(self.size.iter().product::<usize>() * self.channels, 0.0);
        let length = most.min(tile.size[1]) * tile.channels;
        for row in 0..most.min(tile.size[0]) {
            let (from, at) = (tile.index(row, 0), self.index(top + row, left));
            self.values[at..at + length].copy_from_slice(&tile.values[from..from + length]);
        }
    }
}

/// `values` at `place` of `overlap`, where `other` ends.
fn blend(values: &mut [f32], other: &[f32], place: usize, overlap: usize) {
    let share = place as f64 / overlap as f64;
    let [share, rest] = [share as f32, (1.0 - share) as f32];
    for (value, other) in values.iter_mut().zip(other) {
        *value = other * rest + *value * share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_that_agree_give_the_whole() {
        // Each "latent" is two pixels wide, and both pixels have its value.
        let [height, width] = [13, 9];
        let latent: Vec<f32> = (0..height * width).map(|value| value as f32).collect();
        let double = |values: &[f32], [height, width]: [usize; 2]| {
            let at =
                |pixel: usize| values[pixel / (2 * width) / 2 * width + pixel % (2 * width) / 2];
            Ok((0..4 * height * width).map(at).collect::<Vec<f32>>())
        };
        let blend = Blend::new(16, 2).unwrap();
        let mut sizes = Vec::new();
        let got = blend.decode(&latent, [height, width], |values, size| {
            sizes.push(size);
            double(values, size)
        });
        let expected = double(&latent, [height, width]).unwrap();
        let off = |(a, b): (&f32, &f32)| (a - b).abs();
        let most = got.unwrap().iter().zip(&expected).map(off).fold(0.0, f32::max);
        // A value of up to 128, blended with itself: three roundings.
        assert!(most <= 3.0 * 128.0 * f32::EPSILON, "{most}");
        assert_eq!(sizes, [[8, 8], [8, 3], [7, 8], [7, 3], [1, 8], [1, 3]]);
        assert_eq!(blend.count([2 * height, 2 * width]), sizes.len());
    }

    #[test]
    fn what_fits_a_tile_is_not_cut() {
        let blend = Blend::new(64, 8).unwrap();
        assert_eq!(blend.count([64, 64]), 1);
        let picture = vec![0.5; 64 * 64 * 3];
        let got = blend.encode(&picture, [64, 64], |values, size| {
            assert_eq!((values.len(), size), (picture.len(), [64, 64]));
            Ok(vec![1.0])
        });
        assert_eq!(got.unwrap(), [1.0]);
    }

    #[test]
    fn tiles_that_would_not_meet_are_refused() {
        for tile in [0, 8, 100, 200] {
            let error = Blend::new(tile, 8).unwrap_err().to_string();
            let expected = "vae tile: expected a multiple of 32 for blended tiles, got ";
            assert_eq!(error, format!("{expected}{tile}"));
        }
    }
}
