#!/usr/bin/env python3
"""Writes a Stable Diffusion model of full size with random weights, in the diffusers layout.

What it draws is noise, but a loader, a planner and a clock see the published model: the same
configurations, tensor names, shapes and files. The weights are scaled so that activations keep
their size from layer to layer and stay finite in f16.

    make_random_model.py bk-small /tmp/bk-small
    make_random_model.py sd15 /tmp/sd15 --variant fp16    # model.fp16.safetensors and so on
    make_random_model.py sd21 /tmp/sd21 --dtype f32 --shard-size 1000
    make_random_model.py sd15 /tmp/sd15.safetensors --single-file

Needs numpy and nothing else: the shapes come from a table of the architecture (sd_shapes.py), with
which `golden.py` fills diffusers' models, none left over. Tensors are drawn and written one by one,
in some 300 MB of memory. The vocabulary has CLIP's form and size (49408 tokens, the special ones at
49406 and 49407), not its words.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clip_vocab
import ldm_names
import numpy as np
import sd_configs
import sd_shapes
from golden_formula import fnv1a64, spread

DTYPES = {"f16": ("F16", np.float16), "f32": ("F32", np.float32)}
VOCAB_SIZE = 49408
POSITION_IDS = "text_model.embeddings.position_ids"


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file to be written; `name` is the one there, `key` seeds its values."""

    key: str
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * {"F16": 2, "F32": 4, "I64": 8}[self.dtype]

    def values(self, seed: int) -> np.ndarray:
        if self.dtype == "I64":
            return np.arange(math.prod(self.shape), dtype=np.int64).reshape(self.shape)
        generator = np.random.default_rng([seed, fnv1a64(self.key)])
        drawn = generator.random(self.shape, dtype=np.float32)
        drawn *= 2.0
        drawn -= 1.0
        scale, offset = spread(self.key, self.shape)
        drawn *= np.float32(scale)
        drawn += np.float32(offset)
        return drawn.astype(np.float16) if self.dtype == "F16" else drawn


def write_safetensors(path: Path, tensors: list[Tensor], seed: int) -> None:
    """One file, its tensors drawn as they are written."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors:
            file.write(tensor.values(seed).tobytes())
    print(f"{path}: {len(tensors)} tensors, {offset / 1e6:.1f} MB")


def shards(tensors: list[Tensor], limit_bytes: int) -> list[list[Tensor]]:
    """Consecutive tensors of at most `limit_bytes` together; a larger one stands alone."""
    parts: list[list[Tensor]] = [[]]
    held = 0
    for tensor in tensors:
        if parts[-1] and held + tensor.size_bytes > limit_bytes:
            parts.append([])
            held = 0
        parts[-1].append(tensor)
        held += tensor.size_bytes
    return parts


def write_component(
    folder: Path, stem: str, tensors: list[Tensor], variant: str | None, shard_mb: int, seed: int
) -> None:
    """The weights of a component, whole or in shards with an index, named as diffusers does."""
    infix = f".{variant}" if variant else ""
    parts = shards(tensors, shard_mb * 10**6) if shard_mb else [tensors]
    if len(parts) == 1:
        write_safetensors(folder / f"{stem}{infix}.safetensors", tensors, seed)
        return
    weight_map = {}
    for index, part in enumerate(parts, start=1):
        name = f"{stem}{infix}-{index:05}-of-{len(parts):05}.safetensors"
        write_safetensors(folder / name, part, seed)
        weight_map |= {tensor.name: name for tensor in part}
    total = sum(tensor.size_bytes for tensor in tensors)
    write_json(
        folder / f"{stem}.safetensors.index{infix}.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def write_json(path: Path, contents: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def component_tensors(kind: str, configs: dict[str, Any], dtype: str) -> dict[str, list[Tensor]]:
    """`{component: tensors}` under diffusers' names."""
    stored = DTYPES[dtype][0]
    shapes = sd_shapes.components(configs, sd_configs.has_old_attention_names(kind))
    tensors = {
        component: [Tensor(name, name, shape, stored) for name, shape in named.items()]
        for component, named in shapes.items()
    }
    # Published text encoders carry this table of integers; a loader has to pass over it.
    tensors["text_encoder"].append(Tensor(POSITION_IDS, POSITION_IDS, (1, 77), "I64"))
    return tensors


def write_folder(kind: str, folder: Path, arguments: argparse.Namespace) -> None:
    configs = sd_configs.full(kind)
    write_json(folder / "model_index.json", sd_configs.model_index(configs))
    write_json(folder / "scheduler" / "scheduler_config.json", configs["scheduler"])
    clip_vocab.write(folder / "tokenizer", kind, VOCAB_SIZE)
    for component, tensors in component_tensors(kind, configs, arguments.dtype).items():
        write_json(folder / component / "config.json", configs[component])
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        write_component(
            folder / component,
            stem,
            tensors,
            arguments.variant,
            arguments.shard_size,
            arguments.seed,
        )


def write_single_file(kind: str, path: Path, arguments: argparse.Namespace) -> None:
    configs = sd_configs.full(kind)
    tensors = [
        Tensor(
            tensor.key,
            ldm_names.ldm_name(component, tensor.name, configs),
            ldm_names.ldm_shape(component, tensor.name, tensor.shape),
            tensor.dtype,
        )
        for component, named in component_tensors(kind, configs, arguments.dtype).items()
        for tensor in named
    ]
    write_safetensors(path, tensors, arguments.seed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = sd_configs.KINDS
    parser.add_argument("kind", metavar="KIND", choices=kinds, help=", ".join(kinds))
    parser.add_argument(
        "target", metavar="DIR", type=Path, help="folder, or file with --single-file"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f16", help="default: f16")
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="put a variant into the file names, as in model.fp16.safetensors",
    )
    parser.add_argument(
        "--shard-size",
        metavar="MB",
        type=int,
        default=0,
        help="cut each component into files of at most MB megabytes with an index; default: whole",
    )
    parser.add_argument(
        "--single-file",
        action="store_true",
        help="one .safetensors with the names of the original SD1.x layout; KIND must be sd15",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights; default: 0")
    arguments = parser.parse_args()
    if arguments.shard_size < 0:
        parser.error(f"--shard-size must be positive, got {arguments.shard_size}")
    if arguments.single_file:
        if arguments.kind != "sd15":
            parser.error(f"--single-file is for sd15, got {arguments.kind}")
        if arguments.variant or arguments.shard_size:
            parser.error("--single-file takes neither --variant nor --shard-size")
        write_single_file(arguments.kind, arguments.target, arguments)
    else:
        write_folder(arguments.kind, arguments.target, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
