#!/usr/bin/env python3
"""Measures what fewer bits make of the demo model's pictures: the table of the README.

    python tools/quality.py --sd target/release/examples/sd --device cpu
    python tools/quality.py --sd target/release/examples/sd --formats f32,q8_0 --prompts 10
    python tools/quality.py --sd target/release/examples/sd --formats mixed=mixed.gguf

Each storage draws the same prompts with the same seeds as tools/adherence.py; +int8 multiplies in
bytes. PSNR and SSIM (Wang et al., "Image Quality Assessment", 2004; windows of 7 by 7 of the luma)
are against the pictures of f32: the mean over pictures, and the worst PSNR. Adherence is the share
of attributes that the judge of tools/adherence.py sees as asked for. Seconds are the least of all
pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from adherence import BARS, SEEDS, fixed_prompts
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scene_statistics import classify

STORAGES = ["f32", "f16", "q8_0", "q8_0+int8", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", "q4_0+int8"]


@dataclass
class Run:
    """What one storage gave."""

    pictures: list[np.ndarray]
    adherence: float
    weight_bytes: int
    peak_bytes: int
    seconds: float


def options_of(storage: str) -> list[str]:
    """A name is a type of all weights; NAME=FILE is a model of its own."""
    if storage in ("f32", "f16"):
        return ["--dtype", storage]
    _, _, file = storage.partition("=")
    name, _, products = storage.partition("+")
    how = ["--model", file] if file else ["--quantize", name]
    return ["--dtype", "f32", *how, *([f"--{products}-products"] if products and not file else [])]


def draw(program: Path, storage: str, prompts: list, more: list[str]) -> Run:
    dtype = options_of(storage)
    pictures, agreed, seconds, facts = [], 0, [], {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "picture.png"
        for index, (prompt, scene, seed) in enumerate(prompts):
            options = ["--seed", str(seed), "--guidance", "4", "--json", "--output", str(output)]
            done = subprocess.run([program, prompt, *options, *dtype, *more], capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{program} failed for {prompt!r} (status {done.returncode}):\n{done.stderr}")
            facts = json.loads(done.stdout)
            seconds.append(facts["pictures"][0]["seconds"])
            pictures.append(np.asarray(Image.open(output).convert("RGB"), float))
            wanted, seen = scene.attributes(), classify(pictures[-1].astype(np.uint8))
            agreed += sum(wanted[key] == seen[key] for key in BARS)
            print(f"\r{storage}: {index + 1} of {len(prompts)} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    share = agreed / len(prompts) / len(BARS)
    return Run(pictures, share, facts["plan"]["weight_bytes"], facts["peak_bytes"], min(seconds))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    luma = np.array([0.299, 0.587, 0.114])
    windows = [sliding_window_view(picture @ luma, (7, 7)).reshape(-1, 49) for picture in (a, b)]
    mean_a, mean_b = (window.mean(axis=1) for window in windows)
    variance_a, variance_b = (window.var(axis=1) for window in windows)
    covariance = (windows[0] * windows[1]).mean(axis=1) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sd",
        type=Path,
        required=True,
        metavar="PROGRAM",
        help="the program; options that this script does not know (--device D, --model DIR, ...) are passed on to it",
    )
    parser.add_argument("--formats", default=",".join(STORAGES), help="what to compare, NAME=FILE for a model of its own; f32 is always first (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=120, metavar="N", help="so many of 120 pictures (default %(default)s)")
    arguments, more = parser.parse_known_args()
    prompts = [(prompt, scene, seed) for seed in SEEDS for prompt, scene in fixed_prompts()][: arguments.prompts]
    exact = draw(arguments.sd, "f32", prompts, more)
    print("| storage | PSNR, dB | worst | SSIM | adherence | weights, MB | peak, MB | s |")
    print("|---|---|---|---|---|---|---|---|")
    for storage in ["f32", *(name for name in arguments.formats.split(",") if name != "f32")]:
        run = exact if storage == "f32" else draw(arguments.sd, storage, prompts, more)
        pairs = list(zip(run.pictures, exact.pictures))
        near = [psnr(a, b) for a, b in pairs]
        likeness = np.mean([ssim(a, b) for a, b in pairs])
        distance = "" if storage == "f32" else f"{np.mean(near):.1f}"
        worst = "" if storage == "f32" else f"{min(near):.1f}"
        sizes = f"{run.weight_bytes / 1e6:.1f} | {run.peak_bytes / 1e6:.1f}"
        print(f"| {storage.partition('=')[0]} | {distance} | {worst} | {likeness:.4f} | {run.adherence:.1%} | {sizes} | {run.seconds:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
