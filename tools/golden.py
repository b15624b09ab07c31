#!/usr/bin/env python3
"""Writes the goldens under tests/golden, or checks that those there are what diffusers computes.

The Rust tests read them; nothing else needs Python. Written with Python 3.11, torch 2.15.0,
diffusers 0.42.1, transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6:

    pip install torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 safetensors==0.8.0
    python tools/golden.py                  # write everything
    python tools/golden.py --check          # recompute and compare, exit 1 if anything differs
    python tools/golden.py models noise     # only these parts

Everything runs on the CPU in f32 on one thread, with plain attention and without oneDNN.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import golden_models
import golden_pipelines
import golden_schedulers
import numpy as np
import sd_configs
import torch
from golden_models import Golden
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent / "tests" / "golden"
# Between machines f32 sums differ in order, and five steps of guidance amplify that.
RELATIVE_TOLERANCE = 1e-3


def models() -> Iterator[Golden]:
    for kind in sd_configs.KINDS:
        yield from golden_models.layout(kind)
    yield from golden_models.single_file()


def modules() -> Iterator[Golden]:
    yield from golden_models.cases()
    for kind in sd_configs.KINDS:
        yield from golden_models.modules(kind)
    yield from golden_models.tiling()


PARTS: dict[str, Callable[[], Iterator[Golden]]] = {
    "models": models,
    "modules": modules,
    "tokenizer": golden_schedulers.tokenizer,
    "noise": golden_schedulers.noise,
    "schedulers": golden_schedulers.schedulers,
    "pipelines": golden_pipelines.pipelines,
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in content.items()}, path)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        path.write_text(json_lines(content), encoding="utf-8")


def json_lines(content: Any) -> str:
    """JSON with one line for each entry of the outermost object or array."""

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    if isinstance(content, dict):
        rows = [f"{dump(key)}: {dump(value)}" for key, value in content.items()]
        return "{\n" + ",\n".join(rows) + "\n}\n"
    return "[\n" + ",\n".join(map(dump, content)) + "\n]\n"


def difference(path: Path, content: Any) -> str | None:
    """What tells the file from `content`, or None."""
    if not path.exists():
        return "missing"
    if path.suffix == ".safetensors":
        return _array_difference(load_file(path), content)
    text = path.read_text(encoding="utf-8")
    if isinstance(content, str):
        return None if text == content else "text differs"
    return _json_difference(json.loads(text), json.loads(json_lines(content)), "")


def _array_difference(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> str | None:
    if found.keys() != wanted.keys():
        return f"names differ: {sorted(found.keys() ^ wanted.keys())}"
    for name, array in wanted.items():
        if found[name].shape != array.shape:
            return f"{name}: shape {found[name].shape}, computed {array.shape}"
        scale = max(float(np.abs(array).max(initial=0.0)), 1e-30)
        error = float(np.abs(found[name].astype(np.float64) - array).max(initial=0.0)) / scale
        if not error <= RELATIVE_TOLERANCE:
            return f"{name}: differs by {error:.2e} of its largest value"
    return None


def _json_difference(found: Any, wanted: Any, where: str) -> str | None:
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        # Figures that are themselves an error are compared by size only.
        loose = where.endswith(("f32_error", "f32_psnr_db"))
        close = loose or np.isclose(found, wanted, rtol=RELATIVE_TOLERANCE, atol=1e-5)
        return None if close else f"{where}: {found}, computed {wanted}"
    if type(found) is not type(wanted):
        return f"{where}: {found!r}, computed {wanted!r}"
    if isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{where}: keys differ: {sorted(found.keys() ^ wanted.keys())}"
        pairs = [(found[key], wanted[key], f"{where}.{key}") for key in wanted]
    elif isinstance(wanted, list):
        if len(found) != len(wanted):
            return f"{where}: {len(found)} entries, computed {len(wanted)}"
        pairs = [(f, w, f"{where}[{i}]") for i, (f, w) in enumerate(zip(found, wanted))]
    else:
        return None if found == wanted else f"{where}: {found!r}, computed {wanted!r}"
    return next((d for pair in pairs if (d := _json_difference(*pair))), None)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare and report what differs"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT, metavar="DIR", help="another folder than tests/golden"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.mkldnn.enabled = False
    torch.set_grad_enabled(False)
    for noisy in ("transformers", "diffusers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

    failures = 0
    for part in arguments.parts or PARTS:
        count = 0
        for relative, content in PARTS[part]():
            count += 1
            path = arguments.output / relative
            if not arguments.check:
                write(path, content)
            elif found := difference(path, content):
                failures += 1
                print(f"{relative}: {found}")
        print(f"{part}: {count} files {'checked' if arguments.check else 'written'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
