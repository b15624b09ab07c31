use super::{Case, Inputs, Run};
use crate::{Result, ops};

/// The text encoder of SD 1.5, of a smaller vocabulary.
pub const CASE: Case = Case {
    op: "token_embedding",
    kernels: &["token_embedding"],
    sizes: &[("samples", 2), ("length", 77), ("channels", 768), ("vocabulary", 1024)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let [samples, length, channels, vocabulary] =
        ["samples", "length", "channels", "vocabulary"].map(|name| inputs.size(name));
    let tokens = inputs.tensor(&[vocabulary, channels])?;
    let positions = inputs.tensor(&[length, channels])?;
    let ids: Vec<u32> = (0..samples * length).map(|i| (i * 997 % vocabulary) as u32).collect();
    Ok(Box::new(move || ops::token_embedding(&ids, length, &tokens, &positions)))
}
