//! Register tiles: some quantised rows times a part of a panel, in bytes.

use super::Panel;
use crate::backend::cpu::PANEL;
use crate::backend::cpu::quantize_rows::{BLOCK, Quantized};
use crate::backend::cpu::vector_math::{Level, level};

/// A tile of one instruction set.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Its most rows.
    pub rows: usize,
    /// `sums[rows][PANEL] = [sums +] left[rows][..] * panel`.
    pub multiply: fn(&Left, &Panel, &mut [f32], bool),
}

/// The rows of a tile, from a part of K on.
pub struct Left<'a> {
    pub x: Quantized<'a>,
    /// The first row.
    pub row: usize,
    /// The first term.
    pub first: usize,
    /// Of these rows, `[rows][groups]`: what sums of integers begin with, if levels had signs.
    pub starts: Option<&'a [i32]>,
    /// Of these rows, `[rows][blocks]`: sums of the blocks, if weights have least values.
    pub sums_x: Option<&'a [f32]>,
}

impl Left<'_> {
    /// The scales of a row from the part on.
    fn scales(&self, row: usize) -> &[f32] {
        &self.x.scales[((self.row + row) * self.x.inputs + self.first) / BLOCK..]
    }

    /// The levels of a row from the part on.
    fn levels(&self, row: usize) -> &[i8] {
        &self.x.levels[(self.row + row) * self.x.inputs + self.first..]
    }
}

/// The best tile that this host runs.
pub fn best() -> Tile {
    #[cfg(target_arch = "x86_64")]
    match level() {
        Level::Avx512 if is_x86_feature_detected!("avx512vnni") => return x86::VNNI,
        Level::Avx512 | Level::Avx2 => return x86::AVX2,
        Level::Portable => {}
    }
    PORTABLE
}

/// Every tile that this host runs.
#[cfg(test)]
pub fn all() -> Vec<Tile> {
    let mut tiles = vec![PORTABLE];
    #[cfg(target_arch = "x86_64")]
    {
        if level() != Level::Portable {
            tiles.push(x86::AVX2);
        }
        if level() == Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
            tiles.push(x86::VNNI);
        }
    }
    tiles
}

/// Plain Rust.
pub const PORTABLE: Tile = Tile { rows: 4, multiply: portable };

fn portable(left: &Left, panel: &Panel, sums: &mut [f32], add: bool) {
    let (groups, terms) = (panel.groups(), panel.group_terms);
    for (row, sums) in sums.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        if !add {
            *sums = [0.0; PANEL];
        }
        for group in 0..groups {
            let levels = &left.levels(row)[group * terms..(group + 1) * terms];
            let start = left.starts.filter(|starts| !starts.is_empty());
            let mut products = [start.map_or(0, |starts| starts[row * groups + group]); PANEL];
            let first = group * terms * PANEL / 64;
            for (lines, x) in panel.levels[first..].chunks(2).zip(levels.as_chunks::<4>().0) {
                for (n, product) in products.iter_mut().enumerate() {
                    let quad = &lines[n / 16].0[4 * (n % 16)..][..4];
                    for (level, x) in quad.iter().zip(x) {
                        *product += i32::from(*level) * i32::from(*x);
                    }
                }
            }
            let block = group * terms / BLOCK;
            let scale_x = left.scales(row)[block];
            for (n, sum) in sums.iter_mut().enumerate() {
                let scale = panel.scales[2 * group + n / 16].0[n % 16];
                *sum += products[n] as f32 * scale_x * scale;
                if let (Some(line), Some(sums_x)) =
                    (panel.least.get(2 * group + n / 16), left.sums_x)
                {
                    *sum += line.0[n % 16] * sums_x[row * (groups * terms / BLOCK) + block];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// 6 rows by a panel: 12 sums of integers and 12 of floats, of 32 registers.
    pub const VNNI: Tile = Tile { rows: 6, multiply: vnni };

    /// 2 rows by a panel.
    pub const AVX2: Tile = Tile { rows: 2, multiply: avx2 };

    /// What a tile reads by pointers.
    struct Pointers<const ROWS: usize> {
        levels: [*const i8; ROWS],
        scales: [*const f32; ROWS],
        starts: *const i32,
        sums_x: *const f32,
        groups: usize,
        blocks: usize,
    }

    impl<const ROWS: usize> Pointers<ROWS> {
        /// Checks that everything is there that a tile of this panel reads.
        #[inline(always)]
        fn new(left: &Left, panel: &Panel, sums: &[f32]) -> Self {
            let groups = panel.groups();
            let depth = groups * panel.group_terms;
            assert_eq!(sums.len(), ROWS * PANEL);
            assert_eq!(panel.levels.len(), depth * PANEL / 64);
            let starts = left.starts.unwrap_or_default();
            let sums_x = left.sums_x.unwrap_or_default();
            match panel.least.len() {
                0 => assert!(starts.len() >= ROWS * groups),
                least => {
                    assert!(least == 2 * groups && sums_x.len() >= ROWS * (depth / BLOCK));
                }
            }
            Self {
                levels: std::array::from_fn(|row| left.levels(row)[..depth].as_ptr()),
                scales: std::array::from_fn(|row| left.scales(row)[..depth / BLOCK].as_ptr()),
                starts: starts.as_ptr(),
                sums_x: sums_x.as_ptr(),
                groups,
                blocks: depth / BLOCK,
            }
        }
    }

    fn vnni(left: &Left, panel: &Panel, sums: &mut [f32], add: bool) {
        // SAFETY: `best` gives this tile to hosts with the instructions alone.
        unsafe {
            match sums.len() / PANEL {
                1 => vnni_rows::<1>(left, panel, sums, add),
                2 => vnni_rows::<2>(left, panel, sums, add),
                3 => vnni_rows::<3>(left, panel, sums, add),
                4 => vnni_rows::<4>(left, panel, sums, add),
                5 => vnni_rows::<5>(left, panel, sums, add),
                _ => vnni_rows::<6>(left, panel, sums, add),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn vnni_rows<const ROWS: usize>(left: &Left, panel: &Panel, sums: &mut [f32], add: bool) {
        match (panel.group_terms, panel.least.is_empty()) {
            (BLOCK, true) => vnni_groups::<ROWS, 8, false>(left, panel, sums, add),
            (BLOCK, false) => vnni_groups::<ROWS, 8, true>(left, panel, sums, add),
            _ => vnni_groups::<ROWS, 4, false>(left, panel, sums, add),
        }
    }

    /// Groups of so many times four terms.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn vnni_groups<const ROWS: usize, const QUADS: usize, const LEAST: bool>(
        left: &Left,
        panel: &Panel,
        sums: &mut [f32],
        add: bool,
    ) {
        let p = Pointers::<ROWS>::new(left, panel, sums);
        let mut sum = [[_mm512_setzero_ps(); 2]; ROWS];
        // SAFETY: `Pointers::new` has seen that everything is as long as this reads.
        unsafe {
            let target = sums.as_mut_ptr();
            if add {
                for (row, sum) in sum.iter_mut().enumerate() {
                    for (half, sum) in sum.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(target.add(row * PANEL + half * 16));
                    }
                }
            }
            let mut levels = panel.levels.as_ptr().cast::<__m512i>();
            for group in 0..p.groups {
                let block = group * QUADS / 8;
                let mut product = [[_mm512_setzero_si512(); 2]; ROWS];
                if !LEAST {
                    for (row, product) in product.iter_mut().enumerate() {
                        let start = *p.starts.add(row * p.groups + group);
                        *product = [_mm512_set1_epi32(start); 2];
                    }
                }
                for quad in 0..QUADS {
                    let b = [_mm512_load_si512(levels), _mm512_load_si512(levels.add(1))];
                    levels = levels.add(2);
                    for (row, product) in product.iter_mut().enumerate() {
                        let x = p.levels[row].add((group * QUADS + quad) * 4).cast::<i32>();
                        let x = _mm512_set1_epi32(x.read_unaligned());
                        for (product, b) in product.iter_mut().zip(b) {
                            *product = _mm512_dpbusd_epi32(*product, b, x);
                        }
                    }
                }
                for half in 0..2 {
                    let scale = _mm512_loadu_ps(panel.scales.as_ptr().add(2 * group + half).cast());
                    let least = match LEAST {
                        true => _mm512_loadu_ps(panel.least.as_ptr().add(2 * group + half).cast()),
                        false => _mm512_setzero_ps(),
                    };
                    for (row, sum) in sum.iter_mut().enumerate() {
                        let scale_x = _mm512_set1_ps(*p.scales[row].add(block));
                        let product = _mm512_cvtepi32_ps(product[row][half]);
                        let scaled = _mm512_mul_ps(product, scale_x);
                        sum[half] = _mm512_fmadd_ps(scaled, scale, sum[half]);
                        if LEAST {
                            let sum_x = _mm512_set1_ps(*p.sums_x.add(row * p.blocks + block));
                            sum[half] = _mm512_fmadd_ps(least, sum_x, sum[half]);
                        }
                    }
                }
            }
            for (row, sum) in sum.iter().enumerate() {
                for (half, sum) in sum.iter().enumerate() {
                    _mm512_storeu_ps(target.add(row * PANEL + half * 16), *sum);
                }
            }
        }
    }

    fn avx2(left: &Left, panel: &Panel, sums: &mut [f32], add: bool) {
        // SAFETY: `best` gives this tile to hosts with the instructions alone.
        unsafe {
            match sums.len() / PANEL {
                1 => avx2_rows::<1>(left, panel, sums, add),
                _ => avx2_rows::<2>(left, panel, sums, add),
            }
        }
    }

    /// Even and odd bytes widened to shorts, whose products one instruction adds in pairs: an
    /// instruction that multiplies bytes would cut the sums of two to 16 bits.
    #[target_feature(enable = "avx2,fma")]
    fn avx2_rows<const ROWS: usize>(left: &Left, panel: &Panel, sums: &mut [f32], add: bool) {
        let p = Pointers::<ROWS>::new(left, panel, sums);
        let (quads, has_least) = (panel.group_terms / 4, !panel.least.is_empty());
        let low = _mm256_set1_epi16(0xff);
        // SAFETY: `Pointers::new` has seen that everything is as long as this reads.
        unsafe {
            let levels = panel.levels.as_ptr().cast::<__m256i>();
            for group in 0..p.groups {
                let block = group * quads / 8;
                let mut product = [[_mm256_setzero_si256(); 4]; ROWS];
                if !has_least {
                    for (row, product) in product.iter_mut().enumerate() {
                        let start = *p.starts.add(row * p.groups + group);
                        *product = [_mm256_set1_epi32(start); 4];
                    }
                }
                for quad in group * quads..(group + 1) * quads {
                    for part in 0..4 {
                        let b = _mm256_load_si256(levels.add(quad * 4 + part));
                        let (even, odd) = (_mm256_and_si256(b, low), _mm256_srli_epi16::<8>(b));
                        for (row, product) in product.iter_mut().enumerate() {
                            let x = p.levels[row].add(quad * 4).cast::<i32>().read_unaligned();
                            let x = _mm256_set1_epi32(x);
                            let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                            let x_odd = _mm256_srai_epi16::<8>(x);
                            let two = _mm256_madd_epi16(even, x_even);
                            product[part] = _mm256_add_epi32(product[part], two);
                            let two = _mm256_madd_epi16(odd, x_odd);
                            product[part] = _mm256_add_epi32(product[part], two);
                        }
                    }
                }
                for part in 0..4 {
                    let scales = panel.scales.as_ptr().cast::<f32>();
                    let scale = _mm256_loadu_ps(scales.add(group * PANEL + part * 8));
                    for (row, product) in product.iter().enumerate() {
                        let target = sums.as_mut_ptr().add(row * PANEL + part * 8);
                        let mut sum = match add || group > 0 {
                            true => _mm256_loadu_ps(target),
                            false => _mm256_setzero_ps(),
                        };
                        let scale_x = _mm256_set1_ps(*p.scales[row].add(block));
                        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(product[part]), scale_x);
                        sum = _mm256_fmadd_ps(scaled, scale, sum);
                        if has_least {
                            let least = panel.least.as_ptr().cast::<f32>();
                            let least = _mm256_loadu_ps(least.add(group * PANEL + part * 8));
                            let sum_x = _mm256_set1_ps(*p.sums_x.add(row * p.blocks + block));
                            sum = _mm256_fmadd_ps(least, sum_x, sum);
                        }
                        _mm256_storeu_ps(target, sum);
                    }
                }
            }
        }
    }
}
