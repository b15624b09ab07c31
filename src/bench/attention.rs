use super::{Case, Inputs, Run};
use crate::Result;
use crate::ops::{self, Attention};

/// Self-attention of SD 1.5's UNet, of fewer tokens.
pub const CASE: Case = Case {
    op: "attention",
    kernels: &["attention_amx", "attention_local", "attention_matrix", "attention_register"],
    sizes: &[("samples", 1), ("queries", 512), ("keys", 512), ("heads", 8), ("head_width", 40)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let [samples, queries, keys] = ["samples", "queries", "keys"].map(|name| inputs.size(name));
    let [heads, head_width] = ["heads", "head_width"].map(|name| inputs.size(name));
    let tensor = |length| inputs.tensor(&[samples, length, heads * head_width]);
    let (q, k, v) = (tensor(queries)?, tensor(keys)?, tensor(keys)?);
    let scale = 1.0 / (head_width as f32).sqrt();
    let params = Attention { heads, head_width, scale, causal: false };
    Ok(Box::new(move || ops::attention((&q).into(), (&k).into(), (&v).into(), &params)))
}
