"""Weights and inputs from a formula that Python and Rust compute bit for bit.

`tests/golden/README.md` states it in full; the two must say the same.
"""

from __future__ import annotations

import math

import numpy as np

Shape = tuple[int, ...]

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x00000100000001B3
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def fnv1a64(name: str) -> int:
    """The 64-bit FNV-1a hash of the UTF-8 bytes of `name`."""
    state = FNV_OFFSET
    for byte in name.encode():
        state = ((state ^ byte) * FNV_PRIME) & MASK
    return state


def uniform(name: str, shape: Shape) -> np.ndarray:
    """f64 values in [-1, 1): element `i` is splitmix64 at `fnv1a64(name) + (i + 1) * gamma`."""
    index = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    z = np.uint64(fnv1a64(name)) + index * np.uint64(GOLDEN_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (2.0 * unit - 1.0).reshape(shape)


def spread(name: str, shape: Shape) -> tuple[float, float]:
    """Scale and offset of `r` for a weight: variance 1 / fan_in, norms about 1, small biases."""
    if name.endswith("_embedding.weight"):
        return 0.5, 0.0
    if len(shape) >= 2:
        return math.sqrt(3.0 / math.prod(shape[1:])), 0.0
    return (0.1, 1.0) if name.endswith(".weight") else (0.05, 0.0)


def weight(name: str, shape: Shape) -> np.ndarray:
    """The f32 weight called `name`."""
    scale, offset = spread(name, shape)
    return (offset + scale * uniform(name, shape)).astype(np.float32)


def normal_like(name: str, shape: Shape) -> np.ndarray:
    """An f32 input of variance 1: `r * sqrt(3)`. Latents, contexts, noise."""
    return (uniform(name, shape) * math.sqrt(3.0)).astype(np.float32)


def image(name: str, shape: Shape) -> np.ndarray:
    """An f32 image in [0, 1): `(r + 1) / 2`, in the order of `shape` (NCHW)."""
    return ((uniform(name, shape) + 1.0) / 2.0).astype(np.float32)
