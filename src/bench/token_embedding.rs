use super::{Case, Inputs, Run};
use crate::{Result, ops};

/// The text encoder of SD 1.5, of a smaller vocabulary. `format` is that of the vocabulary, by its
/// number; 0 where it is stored as positions are.
pub const CASE: Case = Case {
    op: "token_embedding",
    kernels: &["token_embedding"],
    sizes: &[
        ("samples", 2),
        ("length", 77),
        ("channels", 768),
        ("vocabulary", 1024),
        ("format", 0),
    ],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let [samples, length, channels, vocabulary] =
        ["samples", "length", "channels", "vocabulary"].map(|name| inputs.size(name));
    let tokens = inputs.vocabulary([vocabulary, channels])?;
    let positions = inputs.tensor(&[length, channels])?;
    let ids: Vec<u32> = (0..samples * length).map(|i| (i * 997 % vocabulary) as u32).collect();
    Ok(Box::new(move || ops::token_embedding(&ids, length, &tokens, &positions)))
}
