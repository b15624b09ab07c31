//! Attention with its projections.

use super::{Linear, Loader};
use crate::Result;
use crate::ops::{self, Columns};
use crate::tensor::Tensor;

/// How many heads, and how wide each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads.
    pub count: usize,
    /// Channels of each.
    pub width: usize,
}

impl Heads {
    /// `count` heads that share `channels`.
    pub fn of(count: usize, channels: usize) -> Self {
        Self { count, width: channels / count }
    }

    /// Channels of all heads together.
    pub fn channels(self) -> usize {
        self.count * self.width
    }

    fn params(self, causal: bool) -> ops::Attention {
        let scale = (self.width as f32).sqrt().recip();
        ops::Attention { heads: self.count, head_width: self.width, scale, causal }
    }
}

/// Attention of a sequence to itself: one product for queries, keys and values.
#[derive(Debug)]
pub struct SelfAttention {
    qkv: Linear,
    out: Linear,
    heads: Heads,
    causal: bool,
}

impl SelfAttention {
    /// Projections under `names`: queries, keys, values, and the one after attention, which
    /// always has a bias; the others have one if `has_bias`. If `causal`, a position sees itself
    /// and those before it.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(
        loader: &Loader,
        names: [&str; 4],
        heads: Heads,
        has_bias: bool,
        causal: bool,
    ) -> Result<Self> {
        let channels = heads.channels();
        let [q, k, v, out] = names;
        let qkv = Linear::load_fused(loader, &[q, k, v], channels, channels, has_bias)?;
        let out = Linear::load(&loader.at(out), channels, channels)?;
        Ok(Self { qkv, out, heads, causal })
    }

    /// `x` `[N, L, channels]`; the result is added to `residual` of the same shape.
    ///
    /// # Errors
    ///
    /// Those of [`ops::gemm()`] and [`ops::attention()`].
    pub fn forward(&self, x: Tensor, residual: &Tensor) -> Result<Tensor> {
        let channels = self.heads.channels();
        let qkv = self.qkv.forward(&x)?;
        drop(x);
        let part = |index| Columns { tensor: &qkv, start: index * channels };
        let attended = ops::attention(part(0), part(1), part(2), &self.heads.params(self.causal))?;
        drop(qkv);
        self.out.added_to(&attended, residual)
    }
}

/// Attention of a sequence to another: queries from the one, one product for keys and values of
/// the other.
#[derive(Debug)]
pub struct CrossAttention {
    q: Linear,
    kv: Linear,
    out: Linear,
    heads: Heads,
}

impl CrossAttention {
    /// As [`SelfAttention::load`], without biases but the last; keys and values are made from
    /// `context_channels` channels.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(
        loader: &Loader,
        names: [&str; 4],
        heads: Heads,
        context_channels: usize,
    ) -> Result<Self> {
        let channels = heads.channels();
        let [q, k, v, out] = names;
        Ok(Self {
            q: Linear::load_fused(loader, &[q], channels, channels, false)?,
            kv: Linear::load_fused(loader, &[k, v], context_channels, channels, false)?,
            out: Linear::load(&loader.at(out), channels, channels)?,
            heads,
        })
    }

    /// `x` `[N, L, channels]`, `context` `[N, tokens, context_channels]`; the result is added to
    /// `residual` of the shape of `x`.
    ///
    /// # Errors
    ///
    /// Those of [`ops::gemm()`] and [`ops::attention()`].
    pub fn forward(&self, x: Tensor, context: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let q = self.q.forward(&x)?;
        drop(x);
        let kv = self.kv.forward(context)?;
        let attended = ops::attention(
            Columns { tensor: &q, start: 0 },
            Columns { tensor: &kv, start: 0 },
            Columns { tensor: &kv, start: self.heads.channels() },
            &self.heads.params(false),
        )?;
        drop((q, kv));
        self.out.added_to(&attended, residual)
    }
}
