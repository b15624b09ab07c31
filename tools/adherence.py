#!/usr/bin/env python3
"""Asks a model for 60 fixed prompts with 2 seeds each, and counts what the pictures show.

    python tools/adherence.py --diffusers examples/assets/demo
    python tools/adherence.py --sd target/release/examples/sd --device cpu

The judge is tools/scene_statistics.py, which has no learned part. Sky and land must agree
in 90 % of the pictures, object and colour in 80 %; the exit status is 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scene_captions import LAND_NAMES, LAND_WHERE, SKY_NAMES, SKY_WHEN, caption
from scene_statistics import classify
from scenes import COLOURS, LANDS, SKIES, Scene, contact_sheet

BARS = {"sky": 0.9, "land": 0.9, "object": 0.8, "colour": 0.8}
SEEDS = (1, 2)


def fixed_prompts() -> list[tuple[str, Scene]]:
    """Two for each sky and land: 54 with an object, 6 without; the same in every run."""
    rng = np.random.default_rng(2024)
    colours = list(COLOURS)
    prompts = []
    for i in range(60):
        sky, land = SKIES[i % 5], LANDS[(i // 5) % 6]
        things = ("boat", "boat", "boat", "tower", "house", "tree") if land == "sea" else ("tree", "house", "tower")
        thing = things[(i * 7 + i // 30) % len(things)]
        colour = colours[(i * 5 + i // 6) % len(colours)]
        scene = Scene(sky, land, "none", "none", 0) if i % 10 == 3 else Scene(sky, land, thing, colour, 0)
        text = ""
        # A short caption leaves an attribute out: it cannot be judged.
        while not text or not names_everything(text, scene):
            text = caption(scene, rng)
        prompts.append((text, scene))
    return prompts


def names_everything(text: str, scene: Scene) -> bool:
    mentions = lambda *tables: any(words in text for table in tables for words in table)
    return mentions(SKY_NAMES[scene.sky], SKY_WHEN[scene.sky]) and mentions(
        LAND_NAMES[scene.land], LAND_WHERE[scene.land]
    )


Generator = Callable[[str, int], np.ndarray]


def with_diffusers(folder: Path, steps: int, guidance: float) -> Generator:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def generate(prompt: str, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        result = pipeline(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator)
        return np.asarray(result.images[0].convert("RGB"))

    return generate


def with_program(program: Path, steps: int, guidance: float, more: list[str]) -> Generator:
    def generate(prompt: str, seed: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "picture.png"
            options = ["--seed", str(seed), "--steps", str(steps), "--guidance", str(guidance), "--output", str(output)]
            done = subprocess.run([program, prompt, *options, *more], capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{program} failed for {prompt!r} (status {done.returncode}):\n{done.stderr}")
            return np.asarray(Image.open(output).convert("RGB"))

    return generate


def judge(generate: Generator) -> tuple[list[dict], list[np.ndarray]]:
    rows, pictures, started = [], [], time.time()
    prompts = [(prompt, scene, seed) for seed in SEEDS for prompt, scene in fixed_prompts()]
    for i, (prompt, scene, seed) in enumerate(prompts):
        picture = generate(prompt, seed)
        pictures.append(picture)
        rows.append({"prompt": prompt, "seed": seed, "wanted": scene.attributes(), "seen": classify(picture)})
        left = (time.time() - started) / (i + 1) * (len(prompts) - i - 1)
        print(f"\r{i + 1} of {len(prompts)}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows, pictures


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--diffusers", type=Path, metavar="DIR", help="generate through diffusers from this folder")
    source.add_argument(
        "--sd",
        type=Path,
        metavar="PROGRAM",
        help="generate through this program; options that "
        "this script does not know (--device D, --model DIR, ...) are passed on to it",
    )
    parser.add_argument("--steps", type=int, default=20, help="default %(default)s")
    parser.add_argument("--guidance", type=float, default=4.0, help="guidance scale (default %(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write all pictures to one contact sheet")
    parser.add_argument("--json", action="store_true", help="print every judgement as JSON instead of the table")
    arguments, more = parser.parse_known_args()
    if more and not arguments.sd:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    return arguments, more


def main() -> int:
    arguments, more = parse()
    if arguments.sd:
        generate = with_program(arguments.sd, arguments.steps, arguments.guidance, more)
    else:
        generate = with_diffusers(arguments.diffusers, arguments.steps, arguments.guidance)
    rows, pictures = judge(generate)
    if arguments.sheet:
        contact_sheet(pictures, columns=15).save(arguments.sheet)
    shares = {key: sum(row["wanted"][key] == row["seen"][key] for row in rows) / len(rows) for key in BARS}
    passed = all(shares[key] >= bar for key, bar in BARS.items())
    if arguments.json:
        print(json.dumps({"agreement": shares, "bars": BARS, "passed": passed, "pictures": rows}, indent=1))
        return 0 if passed else 1
    print(f"{'attribute':<10} {'agreement':>9} {'bar':>6}")
    for key, bar in BARS.items():
        print(f"{key:<10} {shares[key]:>9.1%} {bar:>6.0%}  {'' if shares[key] >= bar else 'missed'}".rstrip())
    for row in rows:
        wrong = [
            f"{key} {row['wanted'][key]} seen as {row['seen'][key]}"
            for key in BARS
            if row["wanted"][key] != row["seen"][key]
        ]
        if wrong:
            print(f"  {row['prompt']!r} seed {row['seed']}: {', '.join(wrong)}")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
