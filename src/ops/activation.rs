//! Activations, applied where a kernel writes its result.

/// A function applied to every element of a result before it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Activation {
    /// x
    #[default]
    None = 0,
    /// x * sigmoid(x)
    Silu = 1,
    /// x * Phi(x), by the error function.
    Gelu = 2,
    /// The tanh approximation of GELU.
    GeluTanh = 3,
    /// x * sigmoid(1.702 x), as CLIP has it.
    QuickGelu = 4,
}
