//! What a loop could reach: the share of a chip's peak that its instructions leave room for.
//!
//! The model is simple and says so. Per iteration of the loop and per wave:
//!
//! - **Issue.** A SIMD issues one vector instruction in as many cycles as a wave's lanes take (on
//!   gfx803 64 lanes in 4 cycles). Quarter-rate instructions (square roots, exponentials, 32-bit
//!   integer products) count four times, f64 ones sixteen times. Scalar, memory and local-memory
//!   instructions issue beside them, from other waves; one wave issues at most one instruction in
//!   that time, so `w` waves take at least a `w`th of the time of all instructions together.
//! - **Local memory.** All SIMDs of a compute unit share it. Each access costs the bytes that it
//!   moves into or out of registers, lane by lane, also where lanes read one address; bank
//!   conflicts are not seen.
//! - **Global memory.** Likewise through the first cache, as if every load hit it; an instruction
//!   takes at least a cycle for 16 lanes.
//!
//! - **Matrix units.** An instruction for them takes as long as its products do at their peak. On
//!   gfx90a and gfx942 other vector instructions issue beside them, from other waves; on gfx1100 and
//!   gfx1201 they do not.
//!
//! The slowest of the four binds. The bound is the time of the multiply-adds alone over that
//! time; the peak is one multiply-add a lane and instruction, so packed and paired instructions
//! may reach twice that. Of a loop with instructions for matrix units, it is their time over that
//! time, a share of their peak. Every block of a loop counts once: code that is only sometimes executed
//! makes the bound lower than it is, never higher. Latency, barriers and caches are not in it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::isa::Target;
use crate::isa::assembly::Assembly;

/// A loop's instructions, and what follows from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HotLoop {
    /// All instructions of an iteration.
    pub instructions: u32,
    /// Vector instructions.
    pub vector: u32,
    /// Multiply-adds of f32.
    pub fma: u32,
    /// Instructions for matrix units.
    pub matrix: u32,
    /// Multiply-adds among vector instructions.
    pub fma_share: f64,
    /// Local loads by their width in bytes.
    pub local_loads: BTreeMap<u32, u32>,
    /// Local stores likewise.
    pub local_stores: BTreeMap<u32, u32>,
    /// Global loads likewise.
    pub global_loads: BTreeMap<u32, u32>,
    /// Global stores likewise.
    pub global_stores: BTreeMap<u32, u32>,
    /// The share of peak that the loop could reach.
    pub bound: f64,
    /// What binds: `issue`, `local`, `global` or `matrix`.
    pub binds: &'static str,
}

enum Kind {
    /// What it counts in vector instructions' time, and its multiply-adds.
    Vector(u32, u32),
    /// A matrix unit's, with the multiply-adds of a wave.
    Matrix(u32),
    LocalLoad(u32),
    LocalStore(u32),
    GlobalLoad(u32),
    GlobalStore(u32),
    Other,
}

impl HotLoop {
    pub(super) fn new(target: &Target, assembly: &Assembly, blocks: &[usize], waves: u32) -> Self {
        let mut hot = Self::default();
        let (mut vector_time, mut products) = (0, 0);
        let instructions = blocks.iter().flat_map(|&block| &assembly.blocks[block].instructions);
        for instruction in instructions {
            hot.instructions += 1;
            let mut count = |list: fn(&mut Self) -> &mut BTreeMap<u32, u32>, bytes| {
                *list(&mut hot).entry(bytes).or_insert(0) += 1;
            };
            match kind(instruction) {
                Kind::Vector(time, fma) => {
                    vector_time += time;
                    hot.vector += 1;
                    hot.fma += fma;
                }
                Kind::Matrix(fma) => {
                    products += fma;
                    hot.vector += 1;
                    hot.matrix += 1;
                }
                Kind::LocalLoad(bytes) => count(|hot| &mut hot.local_loads, bytes),
                Kind::LocalStore(bytes) => count(|hot| &mut hot.local_stores, bytes),
                Kind::GlobalLoad(bytes) => count(|hot| &mut hot.global_loads, bytes),
                Kind::GlobalStore(bytes) => count(|hot| &mut hot.global_stores, bytes),
                Kind::Other => (),
            }
        }
        if hot.vector > 0 {
            hot.fma_share = f64::from(hot.fma) / f64::from(hot.vector);
        }
        hot.bind(target, vector_time, products, waves);
        hot
    }

    /// Cycles of a SIMD, by each limit; the largest binds.
    fn bind(&mut self, target: &Target, vector_time: u32, products: u32, waves: u32) {
        let cycles = f64::from(target.cycles);
        let in_turn = f64::from(self.instructions) / f64::from(waves.max(1));
        let matrix = f64::from(products) / f64::from(target.matrix_rate.max(1));
        let beside = if target.matrix_beside_vector { 0.0 } else { matrix };
        let issue = (cycles * f64::from(vector_time) + beside).max(cycles * in_turn);
        let bytes = |lists: [&BTreeMap<u32, u32>; 2]| {
            let sum = lists.into_iter().flatten().map(|(bytes, count)| bytes * count);
            f64::from(sum.sum::<u32>()) * f64::from(target.wave)
        };
        let simds = f64::from(target.simds);
        let local = simds * bytes([&self.local_loads, &self.local_stores])
            / f64::from(target.local_bytes_per_cycle);
        let global = simds * bytes([&self.global_loads, &self.global_stores])
            / f64::from(target.global_bytes_per_cycle);
        let limits = [("issue", issue), ("local", local), ("global", global), ("matrix", matrix)];
        let (binds, slowest) =
            limits.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are four");
        self.binds = binds;
        if slowest > 0.0 {
            let work = if products > 0 { matrix } else { cycles * f64::from(self.fma) };
            self.bound = work / slowest;
        }
    }
}

fn kind(instruction: &str) -> Kind {
    if instruction.starts_with("v_wmma_") || instruction.starts_with("v_mfma_") {
        return Kind::Matrix(products(instruction));
    }
    if instruction.starts_with("v_") {
        let fma = instruction.split("::").map(|part| fmas(part.trim())).sum();
        return Kind::Vector(time(instruction), fma);
    }
    let Some((space, operation)) = instruction.split_once('_') else { return Kind::Other };
    let bytes = width(operation);
    let loads = operation.contains("load") || operation.starts_with("read");
    match space {
        "ds" if loads => Kind::LocalLoad(bytes),
        "ds" if operation.contains("store") || operation.starts_with("write") => {
            Kind::LocalStore(bytes)
        }
        // Permutations and atomics take local memory's ways as well.
        "ds" => Kind::LocalLoad(bytes),
        "flat" | "global" | "buffer" | "scratch" if loads => Kind::GlobalLoad(bytes),
        "flat" | "global" | "buffer" | "scratch" if operation.contains("store") => {
            Kind::GlobalStore(bytes)
        }
        _ => Kind::Other,
    }
}

/// Multiply-adds of a wave by an instruction such as `v_mfma_f32_16x16x16f16`.
fn products(instruction: &str) -> u32 {
    let sizes = instruction.split('_').find(|part| part.split('x').count() == 3).unwrap_or("");
    let size = |part: &str| {
        part.bytes()
            .take_while(u8::is_ascii_digit)
            .fold(0u32, |size, digit| size * 10 + u32::from(digit - b'0'))
    };
    sizes.split('x').map(size).product()
}

/// Multiply-adds of f32 that a lane gets from one instruction.
fn fmas(instruction: &str) -> u32 {
    let name = instruction.split_whitespace().next().unwrap_or("");
    let name = name.trim_start_matches("v_dual_").trim_start_matches("v_");
    let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    match () {
        () if starts(&["pk_fma_f32"]) => 2,
        () if starts(&[
            "mac_f32",
            "mad_f32",
            "fma_f32",
            "fmac_f32",
            "fma_mix_f32",
            "mad_mix_f32",
        ]) =>
        {
            1
        }
        () if starts(&["fmaak_f32", "fmamk_f32", "madak_f32", "madmk_f32"]) => 1,
        () => 0,
    }
}

/// In vector instructions' time.
fn time(instruction: &str) -> u32 {
    let name = instruction.trim_start_matches("v_");
    let quarter = [
        "rcp_",
        "rsq_",
        "sqrt_",
        "exp_",
        "log_",
        "sin_",
        "cos_",
        "mul_lo_u32",
        "mul_lo_i32",
        "mul_hi_u32",
        "mul_hi_i32",
        "mad_u64",
        "mad_i64",
        "lshlrev_b64",
        "lshrrev_b64",
        "ashrrev_i64",
    ];
    if quarter.iter().any(|word| name.starts_with(word)) {
        4
    } else if name.contains("_f64") {
        16
    } else {
        1
    }
}

/// Bytes of a lane: `dwordx4`, `b128`, `2addr_b64`, `read2_b32`; at least 4.
fn width(operation: &str) -> u32 {
    let pair = ["read2", "write2", "load_2addr", "store_2addr"];
    let twice = 1 + u32::from(pair.iter().any(|word| operation.starts_with(word)));
    let numbers = [("dwordx", 4), ("_b", 8)];
    for (word, scale) in numbers {
        let after = operation.split(word).nth(1).unwrap_or("");
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if let Ok(number) = after[..digits].parse::<u32>() {
            let bytes = if scale == 8 { number / 8 } else { number * scale };
            return twice * bytes.clamp(4, 64);
        }
    }
    4 * twice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::assembly::tests::SMALL;
    use crate::isa::loops::innermost;

    #[test]
    fn the_inner_loop_of_a_small_kernel_is_bound_by_local_memory() {
        let assembly = Assembly::parse(SMALL, "small").unwrap();
        let loops = innermost(&assembly.blocks);
        assert_eq!(loops, [[2]]);
        let target = Target::find("gfx803").unwrap();
        let hot = HotLoop::new(target, &assembly, &loops[0], 2);
        assert_eq!((hot.instructions, hot.vector, hot.fma), (8, 4, 3));
        assert_eq!(hot.local_loads, BTreeMap::from([(16, 2)]));
        // Local memory: 32 bytes of 64 lanes of four waves, 128 in a cycle. Four vector
        // instructions would take 16 cycles, as would the eight of all kinds by two waves.
        assert_eq!((hot.binds, hot.bound), ("local", 12.0 / 64.0));
    }

    #[test]
    fn issue_binds_where_few_waves_take_turns() {
        let text = SMALL.replace("\tds_read_b128 v[0:3], v4\n", "\ts_nop 0\n");
        let text = text.replace("\tds_read2_b64 v[8:11], v5 offset1:1\n", "\ts_nop 0\n");
        let assembly = Assembly::parse(&text, "small").unwrap();
        let bound = |waves| {
            let hot = HotLoop::new(Target::find("gfx803").unwrap(), &assembly, &[2], waves);
            assert_eq!(hot.binds, "issue");
            hot.bound
        };
        assert_eq!([1, 2, 3].map(bound), [3.0 / 8.0, 3.0 / 4.0, 3.0 / 4.0]);
    }

    #[test]
    fn matrix_units_bind_where_the_rest_issues_beside_them() {
        let text = SMALL.replace("\tv_mac_f32_e32", "\tv_mfma_f32_16x16x16_f16");
        let assembly = Assembly::parse(&text, "small").unwrap();
        let hot = |target: Target| HotLoop::new(&target, &assembly, &[2], 2);
        let chip = *Target::find("gfx90a").unwrap();
        let beside = hot(chip);
        let cycles = f64::from(beside.matrix) * 32.0;
        assert!(beside.matrix > 0);
        // Local memory takes 64 cycles, as of multiply-adds.
        assert_eq!((beside.binds, beside.bound), ("matrix", 1.0));
        let mut other = chip;
        other.matrix_beside_vector = false;
        let alone = hot(other);
        let vector = f64::from(4 * (alone.vector - alone.matrix));
        assert_eq!((alone.binds, alone.bound), ("issue", cycles / (cycles + vector)));
    }

    #[test]
    fn instructions_count_as_what_they_are() {
        let vector = |instruction| match kind(instruction) {
            Kind::Vector(time, fma) => (time, fma),
            _ => panic!("{instruction} is no vector instruction"),
        };
        assert_eq!(vector("v_mac_f32_e32"), (1, 1));
        assert_eq!(vector("v_fma_f32"), (1, 1));
        assert_eq!(vector("v_pk_fma_f32"), (1, 2));
        assert_eq!(vector("v_dual_fmac_f32 v0, v1, v2 :: v_dual_fmac_f32 v3, v4, v5"), (1, 2));
        assert_eq!(vector("v_dual_fmac_f32 v0, v1, v2 :: v_dual_mul_f32 v3, v4, v5"), (1, 1));
        assert_eq!(vector("v_mul_lo_u32"), (4, 0));
        for (instruction, expected) in [
            ("v_wmma_f32_16x16x16_f16", 4096),
            ("v_mfma_f32_16x16x16f16", 4096),
            ("v_mfma_f32_32x32x8_f16", 8192),
        ] {
            assert!(matches!(kind(instruction), Kind::Matrix(got) if got == expected));
        }
        assert_eq!(vector("v_fma_f64"), (16, 0));
        let bytes = [
            ("ds_read_b32", 4),
            ("ds_read2_b32", 8),
            ("ds_read2st64_b32", 8),
            ("ds_read_b128", 16),
            ("ds_read2_b64", 16),
            ("ds_load_b128", 16),
            ("ds_load_2addr_b64", 16),
            ("ds_read_u16", 4),
            ("flat_load_dwordx4", 16),
            ("flat_load_dword", 4),
            ("flat_load_ushort", 4),
            ("global_load_b128", 16),
            ("buffer_load_dwordx2", 8),
            ("global_load_u16", 4),
            ("ds_write2_b64", 16),
            ("ds_store_b64", 8),
        ];
        for (instruction, expected) in bytes {
            let got = match kind(instruction) {
                Kind::LocalLoad(bytes) | Kind::GlobalLoad(bytes) | Kind::LocalStore(bytes) => bytes,
                _ => 0,
            };
            assert_eq!(got, expected, "{instruction}");
        }
    }
}
