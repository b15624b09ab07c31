//! Register tiles: some packed rows times a panel.

use std::ops::Range;

use super::{Output, Product, Rows, Scratch, Task, run_task};
use crate::backend::cpu::rows::fetch_line;
use crate::backend::cpu::vector_math::{Level, level};

/// A register tile of one instruction set.
pub trait Tile {
    /// Its most rows.
    const ROWS: usize;

    /// `sums[rows][PANEL] = [sums +] left[rows][..] * terms[depth of all runs][PANEL]`, at least in
    /// the first `columns`. What is `ahead`, if anything, is fetched meanwhile.
    fn multiply(
        left: Left,
        terms: &[f32],
        columns: usize,
        sums: &mut [f32],
        add: bool,
        ahead: Option<Ahead>,
    );
}

/// What a processor fetches while it multiplies: a line at each term of a run, so many bytes further
/// every time. A hint, of any address.
#[derive(Clone, Copy)]
pub struct Ahead {
    start: *const u8,
    step: usize,
}

impl Ahead {
    /// In place of nothing, the first of the `terms` that are multiplied: a processor would look long
    /// for a page that is not there.
    #[inline(always)]
    fn nothing(terms: &[f32]) -> Self {
        Self { start: terms.as_ptr().cast(), step: 0 }
    }

    /// Of `bytes` that are shared out over `parts` runs of `depth` terms, the part of one of them.
    #[inline(always)]
    pub fn part(bytes: &Range<*const u8>, index: usize, parts: usize, depth: usize) -> Self {
        let step = (bytes.end.addr() - bytes.start.addr()).div_ceil(parts * depth);
        Self { start: bytes.start.wrapping_add(index * depth * step), step }
    }

    #[inline(always)]
    fn fetch(self, term: usize) {
        fetch_line(self.start.wrapping_add(term * self.step));
    }
}

/// Rows of the left side, from the first of the terms on: runs of terms that lie together. Rows may
/// overlap, as windows of neighbouring pixels do.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub values: &'a [f32],
    /// Floats from one row to the next.
    pub stride: usize,
    /// Runs of a row, all of one length.
    pub runs: usize,
    /// Floats from one run to the next.
    pub run_stride: usize,
}

impl<'a> Left<'a> {
    /// Rows whose terms all lie together.
    pub fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride, runs: 1, run_stride: 0 }
    }
}

/// What is compiled once for every instruction set.
pub trait Work {
    /// The work by one kind of tile; to be inlined.
    fn run<T: Tile>(self);
}

/// Does `work` with the instructions of this host.
pub fn with_best(work: impl Work) {
    match level() {
        // SAFETY: the host has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::with_avx512(work) },
        // SAFETY: the host has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::with_avx2(work) },
        _ => work.run::<Portable>(),
    }
}

/// The most rows of a tile for `level`.
pub fn tile_rows(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => x86::Avx512::ROWS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => x86::Avx2::ROWS,
        _ => Portable::ROWS,
    }
}

/// Runs a task with the instructions of `level`, which this host has.
pub fn run(
    level: Level,
    product: &Product,
    source: &impl Rows,
    y: &Output,
    task: &Task,
    scratch: &mut Scratch,
) {
    assert!(has(level), "a level is one of this host's");
    match level {
        // SAFETY: the host has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(product, source, y, task, scratch) },
        // SAFETY: the host has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(product, source, y, task, scratch) },
        _ => run_task::<Portable>(product, source, y, task, scratch),
    }
}

/// Whether this host runs the instructions of `wanted`: its own level or one below.
pub fn has(wanted: Level) -> bool {
    match level() {
        Level::Avx512 => true,
        Level::Avx2 => wanted != Level::Avx512,
        Level::Portable => wanted == Level::Portable,
    }
}

/// Plain Rust: a row of a panel in whatever vectors the compiler has.
pub struct Portable;

impl Tile for Portable {
    const ROWS: usize = 4;

    fn multiply(
        left: Left,
        terms: &[f32],
        _columns: usize,
        sums: &mut [f32],
        add: bool,
        _ahead: Option<Ahead>,
    ) {
        use super::PANEL;
        let terms = terms.as_chunks::<PANEL>().0;
        let depth = terms.len() / left.runs;
        for (row, sums) in sums.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
            let mut sum = if add { *sums } else { [0.0; PANEL] };
            for (run, terms) in terms.chunks_exact(depth).enumerate() {
                let start = row * left.stride + run * left.run_stride;
                for (&a, terms) in left.values[start..start + depth].iter().zip(terms) {
                    for (sum, b) in sum.iter_mut().zip(terms) {
                        *sum += a * b;
                    }
                }
            }
            *sums = sum;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::{PANEL, STRIDE};
    use super::*;

    /// A tile of a fixed number of rows: left rows, terms, the depth of a run, sums, whether to
    /// add, what is ahead.
    type Fixed = unsafe fn(Left, *const f32, usize, *mut f32, bool, Ahead);

    /// 12 rows by a panel: 24 sums of 32 registers.
    pub struct Avx512;

    /// 6 rows by half a panel: 12 sums of 16 registers.
    pub struct Avx2;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
    pub fn with_avx512(work: impl Work) {
        work.run::<Avx512>();
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn with_avx2(work: impl Work) {
        work.run::<Avx2>();
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
    pub fn run_avx512(
        product: &Product,
        source: &impl Rows,
        y: &Output,
        task: &Task,
        scratch: &mut Scratch,
    ) {
        run_task::<Avx512>(product, source, y, task, scratch);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn run_avx2(
        product: &Product,
        source: &impl Rows,
        y: &Output,
        task: &Task,
        scratch: &mut Scratch,
    ) {
        run_task::<Avx2>(product, source, y, task, scratch);
    }

    /// The tile's contract that the pointers of a [`Fixed`] rest on.
    #[inline(always)]
    fn check(left: Left, terms: &[f32], sums: &[f32], most_rows: usize) -> (usize, usize) {
        let (rows, depth) = (sums.len() / PANEL, terms.len() / PANEL / left.runs);
        assert!(rows >= 1 && rows <= most_rows);
        let last = (rows - 1) * left.stride + (left.runs - 1) * left.run_stride;
        assert!(left.values.len() >= last + depth);
        (rows, depth)
    }

    impl Tile for Avx512 {
        const ROWS: usize = 12;

        #[inline(always)]
        fn multiply(
            left: Left,
            terms: &[f32],
            columns: usize,
            sums: &mut [f32],
            add: bool,
            ahead: Option<Ahead>,
        ) {
            let (rows, depth) = check(left, terms, sums, Self::ROWS);
            let ahead = ahead.unwrap_or(Ahead::nothing(terms));
            let tile = if columns > 16 { AVX512_WIDE[rows - 1] } else { AVX512_NARROW[rows - 1] };
            // SAFETY: `check` has seen that the slices are as long as the tile's rows and depth
            // say; only `run_avx512` and `with_avx512` name this tile, and their
            // callers have seen that the host has the instructions.
            unsafe {
                tile(left, terms.as_ptr(), depth, sums.as_mut_ptr(), add, ahead);
            }
        }
    }

    impl Tile for Avx2 {
        const ROWS: usize = 6;

        #[inline(always)]
        fn multiply(
            left: Left,
            terms: &[f32],
            columns: usize,
            sums: &mut [f32],
            add: bool,
            ahead: Option<Ahead>,
        ) {
            let (rows, depth) = check(left, terms, sums, Self::ROWS);
            let nothing = Ahead::nothing(terms);
            let tile = AVX2[rows - 1];
            // SAFETY: as for AVX-512; the second half of a panel begins 16 columns on.
            unsafe {
                tile(left, terms.as_ptr(), depth, sums.as_mut_ptr(), add, ahead.unwrap_or(nothing));
                if columns > 16 {
                    let (terms, sums) = (terms.as_ptr().add(16), sums.as_mut_ptr().add(16));
                    tile(left, terms, depth, sums, add, nothing);
                }
            }
        }
    }

    /// The addresses of a run of every third row: the two after it are one and two strides on, which an
    /// instruction can add, so that few registers address all rows.
    #[inline(always)]
    fn thirds(left: Left, run: usize) -> [*const f32; 4] {
        let start = left.values.as_ptr().wrapping_add(run * left.run_stride);
        std::array::from_fn(|third| start.wrapping_add(3 * third * left.stride))
    }

    const AVX512_WIDE: [Fixed; 12] = [
        avx512::<1, 2>,
        avx512::<2, 2>,
        avx512::<3, 2>,
        avx512::<4, 2>,
        avx512::<5, 2>,
        avx512::<6, 2>,
        avx512::<7, 2>,
        avx512::<8, 2>,
        avx512::<9, 2>,
        avx512::<10, 2>,
        avx512::<11, 2>,
        avx512::<12, 2>,
    ];

    const AVX512_NARROW: [Fixed; 12] = [
        avx512::<1, 1>,
        avx512::<2, 1>,
        avx512::<3, 1>,
        avx512::<4, 1>,
        avx512::<5, 1>,
        avx512::<6, 1>,
        avx512::<7, 1>,
        avx512::<8, 1>,
        avx512::<9, 1>,
        avx512::<10, 1>,
        avx512::<11, 1>,
        avx512::<12, 1>,
    ];

    const AVX2: [Fixed; 6] = [avx2::<1>, avx2::<2>, avx2::<3>, avx2::<4>, avx2::<5>, avx2::<6>];

    /// sum += the k-th term of rows by that of a panel.
    ///
    /// # Safety
    ///
    /// The host has AVX-512; every row and the panel have a k-th term.
    #[inline(always)]
    unsafe fn avx512_term<const ROWS: usize, const VECTORS: usize>(
        rows: [*const f32; 4],
        stride: usize,
        terms: *const f32,
        k: usize,
        sum: &mut [[__m512; VECTORS]; ROWS],
    ) {
        // SAFETY: the caller vouches for it.
        unsafe {
            let mut b = [_mm512_setzero_ps(); VECTORS];
            for (vector, b) in b.iter_mut().enumerate() {
                *b = _mm512_loadu_ps(terms.add(k * PANEL + vector * 16));
            }
            for (row, sum) in sum.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*rows[row / 3].add(row % 3 * stride + k));
                for (sum, b) in sum.iter_mut().zip(b) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
        }
    }

    /// `ROWS` rows by `VECTORS` vectors of a panel.
    ///
    /// # Safety
    ///
    /// `left` has `ROWS` rows of runs of `depth` floats; `terms` has as many rows for each run, and
    /// `sums` has `ROWS` rows of `VECTORS * 16` floats, `PANEL` apart.
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const ROWS: usize, const VECTORS: usize>(
        left: Left,
        mut terms: *const f32,
        depth: usize,
        sums: *mut f32,
        add: bool,
        ahead: Ahead,
    ) {
        let mut sum = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        // SAFETY: every offset is one of those that the caller vouches for.
        unsafe {
            if add {
                for (row, sum) in sum.iter_mut().enumerate() {
                    for (vector, sum) in sum.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(sums.add(row * PANEL + vector * 16));
                    }
                }
            }
            for run in 0..left.runs {
                let rows = thirds(left, run);
                let mut done = 0;
                if left.stride == STRIDE {
                    // The loop's own instructions take ports that multiply: four terms share them.
                    // A stride that is constant is part of an instruction; of another, addresses
                    // would leave no registers for four terms.
                    for quad in 0..depth / 4 {
                        for k in 4 * quad..4 * quad + 4 {
                            ahead.fetch(k);
                            avx512_term(rows, STRIDE, terms, k, &mut sum);
                        }
                    }
                    done = depth / 4 * 4;
                }
                for k in done..depth {
                    avx512_term(rows, left.stride, terms, k, &mut sum);
                }
                terms = terms.wrapping_add(depth * PANEL);
            }
            for (row, sum) in sum.iter().enumerate() {
                for (vector, sum) in sum.iter().enumerate() {
                    _mm512_storeu_ps(sums.add(row * PANEL + vector * 16), *sum);
                }
            }
        }
    }

    /// `ROWS` rows by 16 columns.
    ///
    /// # Safety
    ///
    /// As for [`avx512`] with one vector.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const ROWS: usize>(
        left: Left,
        mut terms: *const f32,
        depth: usize,
        sums: *mut f32,
        add: bool,
        ahead: Ahead,
    ) {
        let mut sum = [[_mm256_setzero_ps(); 2]; ROWS];
        // SAFETY: every offset is one of those that the caller vouches for.
        unsafe {
            if add {
                for (row, sum) in sum.iter_mut().enumerate() {
                    for (vector, sum) in sum.iter_mut().enumerate() {
                        *sum = _mm256_loadu_ps(sums.add(row * PANEL + vector * 8));
                    }
                }
            }
            for run in 0..left.runs {
                let (rows, stride) = (thirds(left, run), left.stride);
                for k in 0..depth {
                    ahead.fetch(k);
                    let b = [
                        _mm256_loadu_ps(terms.add(k * PANEL)),
                        _mm256_loadu_ps(terms.add(k * PANEL + 8)),
                    ];
                    for (row, sum) in sum.iter_mut().enumerate() {
                        let a = _mm256_set1_ps(*rows[row / 3].add(row % 3 * stride + k));
                        for (sum, b) in sum.iter_mut().zip(b) {
                            *sum = _mm256_fmadd_ps(a, b, *sum);
                        }
                    }
                }
                terms = terms.wrapping_add(depth * PANEL);
            }
            for (row, sum) in sum.iter().enumerate() {
                for (vector, sum) in sum.iter().enumerate() {
                    _mm256_storeu_ps(sums.add(row * PANEL + vector * 8), *sum);
                }
            }
        }
    }
}
