//! Reads the text that compilers write for a kernel: its metadata, and its instructions in blocks.

use std::collections::HashMap;

/// Larger texts are refused: ours are a few hundred kilobytes.
const MOST_BYTES: usize = 64 << 20;

/// What the metadata says of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub vgprs: u32,
    pub sgprs: u32,
    pub vgpr_spills: u32,
    pub sgpr_spills: u32,
    pub scratch_bytes: u32,
    pub local_bytes: u32,
    pub work_group: u32,
    /// Work-items of a wave.
    pub wave: u32,
}

/// Instructions that are entered at the first and left at the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block<'a> {
    /// Each without its operands, but both halves of a pair: `v_dual_fmac_f32 :: v_dual_mul_f32`.
    pub instructions: Vec<&'a str>,
    /// Blocks that may follow, by index.
    pub next: Vec<usize>,
}

/// A kernel's assembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly<'a> {
    pub facts: Facts,
    pub blocks: Vec<Block<'a>>,
}

impl<'a> Assembly<'a> {
    /// Reads the text that holds `kernel` and no other.
    pub fn parse(text: &'a str, kernel: &str) -> Result<Self, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("assembly of {} B, expected at most {MOST_BYTES}", text.len()));
        }
        let facts = facts(text)?;
        let start = text
            .lines()
            .position(|line| line.split(':').next() == Some(kernel) && line.contains(':'))
            .ok_or_else(|| format!("the assembly has no label {kernel}"))?;
        let body = text.lines().skip(start + 1).take_while(|line| !line.starts_with(".Lfunc_end"));
        Ok(Self { facts, blocks: blocks(body)? })
    }
}

/// The metadata's numbers, each of which one kernel has once.
fn facts(text: &str) -> Result<Facts, String> {
    let mut values: HashMap<&str, u32> = HashMap::new();
    let keys = [
        ".vgpr_count",
        ".sgpr_count",
        ".vgpr_spill_count",
        ".sgpr_spill_count",
        ".private_segment_fixed_size",
        ".group_segment_fixed_size",
        ".max_flat_workgroup_size",
        ".wavefront_size",
    ];
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let key = key.trim().trim_start_matches("- ");
        if let Some(known) = keys.iter().find(|known| **known == key) {
            let number = value.trim().parse().map_err(|_| format!("{key} is {value:?}"))?;
            if values.insert(known, number).is_some() {
                return Err(format!("{key} is there twice: expected one kernel"));
            }
        }
    }
    let get = |key: &str| values.get(key).copied().ok_or_else(|| format!("no {key} in metadata"));
    Ok(Facts {
        vgprs: get(".vgpr_count")?,
        sgprs: get(".sgpr_count")?,
        // The two that older compilers leave out where they are 0.
        vgpr_spills: get(".vgpr_spill_count").unwrap_or(0),
        sgpr_spills: get(".sgpr_spill_count").unwrap_or(0),
        scratch_bytes: get(".private_segment_fixed_size")?,
        local_bytes: get(".group_segment_fixed_size")?,
        work_group: get(".max_flat_workgroup_size")?,
        wave: get(".wavefront_size")?,
    })
}

fn blocks<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Block<'a>>, String> {
    let mut blocks = vec![Block::default()];
    let mut labels: HashMap<&str, usize> = HashMap::new();
    // From a block to a label, and from a block to the one below it.
    let mut jumps: Vec<(usize, &str)> = Vec::new();
    let mut falls = vec![true];
    // Whether the last instruction was a branch.
    let mut ended = false;
    for line in lines {
        let code = line.split(';').next().unwrap_or("");
        let word = code.split_whitespace().next().unwrap_or("");
        if let Some(label) = word.strip_suffix(':') {
            ended = false;
            if !blocks[blocks.len() - 1].instructions.is_empty() {
                blocks.push(Block::default());
                falls.push(true);
            }
            labels.insert(label, blocks.len() - 1);
            continue;
        }
        if !word.starts_with(|c: char| c.is_ascii_lowercase()) {
            continue;
        }
        if ended {
            blocks.push(Block::default());
            falls.push(true);
        }
        let last = blocks.len() - 1;
        blocks[last].instructions.push(match code.contains("::") {
            true => code.trim(),
            false => word,
        });
        if word.starts_with("s_branch") || word.starts_with("s_cbranch") {
            let label = code.split_whitespace().nth(1).ok_or("a branch to nowhere")?;
            jumps.push((last, label));
        }
        if ["s_branch", "s_endpgm", "s_setpc_b64"].contains(&word) {
            falls[last] = false;
        }
        ended = word.starts_with("s_branch")
            || word.starts_with("s_cbranch")
            || ["s_endpgm", "s_setpc_b64"].contains(&word);
    }
    for (block, label) in jumps {
        let target = labels.get(label).ok_or_else(|| format!("no label {label}"))?;
        blocks[block].next.push(*target);
    }
    for block in 0..blocks.len() - 1 {
        if falls[block] && !blocks[block].next.contains(&(block + 1)) {
            blocks[block].next.push(block + 1);
        }
    }
    Ok(blocks)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What clang 15 writes for a small kernel, shortened.
    pub const SMALL: &str = "\
\t.text
\t.globl\tsmall
small:                                  ; @small
; %bb.0:
\ts_load_dwordx2 s[0:1], s[4:5], 0x0
\ts_cbranch_scc1 .LBB0_4
.LBB0_1:                                ; %outer
\ts_mov_b32 m0, -1
.LBB0_2:                                ; %inner
\tds_read_b128 v[0:3], v4
\tds_read2_b64 v[8:11], v5 offset1:1
\ts_waitcnt lgkmcnt(0)
\tv_mac_f32_e32 v12, v0, v8
\tv_mac_f32_e32 v13, v1, v9
\tv_fma_f32 v14, v2, v10, v14
\tv_add_u32_e32 v4, vcc, 16, v4
\ts_cbranch_scc0 .LBB0_2
; %bb.3:
\tflat_load_dwordx4 v[0:3], v[6:7]
\ts_cbranch_vccnz .LBB0_1
.LBB0_4:
\ts_endpgm
.Lfunc_end0:
\t.size\tsmall, .Lfunc_end0-small
\t.amdgpu_metadata
---
amdhsa.kernels:
  - .args:
      - .name:           x
        .size:           8
    .group_segment_fixed_size: 8448
    .max_flat_workgroup_size: 128
    .name:           small
    .private_segment_fixed_size: 16
    .sgpr_count:     49
    .sgpr_spill_count: 1
    .vgpr_count:     85
    .vgpr_spill_count: 2
    .wavefront_size: 64
...
\t.end_amdgpu_metadata
";

    #[test]
    fn metadata_and_blocks_are_read() {
        let assembly = Assembly::parse(SMALL, "small").unwrap();
        let expected = Facts {
            vgprs: 85,
            sgprs: 49,
            vgpr_spills: 2,
            sgpr_spills: 1,
            scratch_bytes: 16,
            local_bytes: 8448,
            work_group: 128,
            wave: 64,
        };
        assert_eq!(assembly.facts, expected);
        let next: Vec<_> = assembly.blocks.iter().map(|block| block.next.as_slice()).collect();
        assert_eq!(next, [&[4, 1][..], &[2], &[2, 3], &[1, 4], &[]]);
        assert_eq!(assembly.blocks[2].instructions.len(), 8);
    }

    #[test]
    fn what_is_no_such_assembly_is_refused_in_a_line() {
        let refused = |text: &str, kernel| Assembly::parse(text, kernel).unwrap_err();
        assert_eq!(refused("", "small"), "no .vgpr_count in metadata");
        assert_eq!(refused(SMALL, "other"), "the assembly has no label other");
        let twice = format!("{SMALL}{SMALL}");
        assert_eq!(
            refused(&twice, "small"),
            ".group_segment_fixed_size is there twice: expected one kernel"
        );
        let odd = SMALL.replace(".vgpr_count:     85", ".vgpr_count: -1");
        assert_eq!(refused(&odd, "small"), ".vgpr_count is \" -1\"");
        let lost = SMALL.replace("vccnz .LBB0_1", "vccnz .LBB0_9");
        assert_eq!(refused(&lost, "small"), "no label .LBB0_9");
        // Any prefix is refused or read, without a panic.
        for end in 0..SMALL.len() {
            let _ = Assembly::parse(&SMALL[..end], "small");
        }
    }
}
