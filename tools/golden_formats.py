#!/usr/bin/env python3
"""Writes tests/golden/formats.safetensors, formats.json and *.gguf: what ggml makes of blocks.

`gguf` is the judge of what blocks stand for. The errors to beat are those of ggml's own encoders; for
the formats with blocks of 256 these are in C alone, so a shared library of ggml is asked for: the one
that comes with a program that uses it, or built from ggml's `src/ggml-quants.c`.

    pip install gguf==0.19.0 torch==2.15.0 safetensors==0.8.0
    python tools/golden_formats.py --ggml libggml-base.so

The float types of 8 bits are torch's, by all of their 256 values.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from golden_formula import uniform
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {
    "q8_0": Type.Q8_0,
    "q4_0": Type.Q4_0,
    "q4_1": Type.Q4_1,
    "q5_0": Type.Q5_0,
    "q5_1": Type.Q5_1,
    "q4_k": Type.Q4_K,
    "q5_k": Type.Q5_K,
    "q6_k": Type.Q6_K,
}
# Where a block has its numbers of 16 bits.
HALVES = {"q4_1": [0, 2], "q5_1": [0, 2], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208]}
COUNT = 8192
DEMO = {
    "attention": "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "feed-forward": "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
}


def rows() -> dict[str, np.ndarray]:
    """Values like those of weights, and unlike them; `tests/golden/README.md` says how."""

    def r(name: str) -> np.ndarray:
        return uniform(f"rows.{name}", (COUNT,))

    spikes = np.where(np.arange(COUNT) % 64 == 5, 20.0, 1.0)
    made = {
        "uniform": r("uniform"),
        "small": 0.02 * r("small"),
        "tiny": 1e-6 * r("tiny"),
        "heavy": r("heavy") ** 2 * r("heavy"),
        "norm": 1.0 + 0.1 * r("norm"),
        "negative": -0.5 - 0.5 * r("negative"),
        "spikes": 0.1 * r("spikes") * spikes,
        "bell": (r("bell.0") + r("bell.1") + r("bell.2") + r("bell.3")) / 2.0,
    }
    made = {name: values.astype(np.float32) for name, values in made.items()}
    demo = load_file(ROOT / "examples/assets/demo/unet/diffusion_pytorch_model.safetensors")
    for name, tensor in DEMO.items():
        values = demo[tensor].astype(np.float32).ravel()
        made[name] = values[: len(values) // 256 * 256]
    return made


def encoded(format: str, values: np.ndarray, ggml: ctypes.CDLL) -> np.ndarray:
    """The blocks that ggml's encoder makes."""
    block, size = gguf.GGML_QUANT_SIZES[FORMATS[format]]
    blocks = np.zeros(len(values) // block * size, np.uint8)
    encode = getattr(ggml, f"quantize_row_{format[:-1] + format[-1].upper()}_ref")
    pointer = ctypes.POINTER(ctypes.c_float)
    encode(
        np.ascontiguousarray(values).ctypes.data_as(pointer),
        blocks.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(len(values)),
    )
    return blocks


def random_blocks(format: str) -> np.ndarray:
    """Any levels; scales that are numbers: of all sizes, negative, subnormal, zero."""
    block, size = gguf.GGML_QUANT_SIZES[FORMATS[format]]
    count = 48 if block == 32 else 10
    random = np.random.default_rng(5)
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES.get(format, [0]):
        scales = random.integers(0, 1 << 16, count, dtype=np.uint16)
        scales[(scales & 0x7C00) == 0x7C00] ^= 0x4000
        scales[:6] = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xBC00]
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    return blocks


def write_files(arrays: dict[str, np.ndarray], golden: Path) -> None:
    """A file with a tensor of each type, and one with a value of each type."""
    writer = gguf.GGUFWriter(golden / "tensors.gguf", "diffusion")
    writer.add_string("general.name", "tensors")
    writer.add_uint32("general.quantization_version", 2)
    for format, kind in FORMATS.items():
        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = arrays[f"{format}.blocks"][-2 * size :].reshape(2, size)
        writer.add_tensor(f"{format}.weight", blocks, raw_dtype=kind)
    halves = np.array([[1.5, -2.0, 0.0], [65504.0, 6e-8, 3.0]], np.float16)
    writer.add_tensor("f16.weight", halves.reshape(1, 2, 3, 1))
    writer.add_tensor("f32.bias", halves.astype(np.float32).ravel())
    brain = (halves.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("bf16.weight", brain.view(np.uint8), raw_dtype=Type.BF16)
    writer.add_tensor("ids", np.arange(5, dtype=np.int64))
    finish(writer)

    writer = gguf.GGUFWriter(golden / "values.gguf", "diffusion")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 4000000000)
    writer.add_int32("a.i32", -2000000000)
    writer.add_float32("a.f32", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "größer\nals")
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.texts", ["one", "", "drei"])
    writer.add_uint64("a.u64", 1 << 63)
    writer.add_int64("a.i64", -1 << 62)
    writer.add_float64("a.f64", 0.1)
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ggml", type=ctypes.CDLL, required=True, help="a shared library of ggml")
    ggml = parser.parse_args().ggml
    arrays: dict[str, np.ndarray] = {}
    errors: dict[str, dict[str, float]] = {}
    made = rows()
    for format, kind in FORMATS.items():
        errors[format] = {}
        for name, values in made.items():
            decoded = gguf.dequantize(encoded(format, values, ggml), kind)
            difference = decoded.astype(np.float64) - values.astype(np.float64)
            errors[format][name] = float(np.square(difference).mean())
        own = encoded(format, made["bell"][:512], ggml)
        blocks = np.concatenate([random_blocks(format).ravel(), own])
        arrays[f"{format}.blocks"] = blocks
        with np.errstate(over="ignore"):
            arrays[f"{format}.values"] = gguf.dequantize(blocks, kind)
    every = torch.arange(256, dtype=torch.uint8)
    for name, element in [("f8_e4m3", torch.float8_e4m3fn), ("f8_e5m2", torch.float8_e5m2)]:
        arrays[name] = every.view(element).to(torch.float32).numpy()
    golden = ROOT / "tests" / "golden"
    save_file(arrays, golden / "formats.safetensors")
    write_files(arrays, golden)
    lines = [f'"{name}": {json.dumps(of)}' for name, of in errors.items()]
    (golden / "formats.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
