"""Goldens of the schedulers, of torch's CPU noise and of the tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import sd_configs
import torch
from golden_formula import normal_like
from golden_models import Golden, load_tokenizer

SHAPE = (1, 4, 4, 4)
NOISE_SEED = 7
STRENGTH = 0.6
# name: class, what is added to the repository's configuration
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
# LCM knows one spacing only.
SPACINGS = {name: ("leading", "linspace", "trailing") for name in SCHEDULERS if name != "lcm"}


def make(name: str, config: dict[str, Any]) -> Any:
    """The scheduler as an application makes it: the class, `from_config` of the file's contents."""
    class_name, changes = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(config | changes)


def _step_arguments(scheduler: Any, eta: float) -> dict[str, Any]:
    """`eta` and the generator where `step` takes them, as the pipelines pass them."""
    accepted = inspect.signature(scheduler.step).parameters
    offered = {"eta": eta, "generator": torch.Generator("cpu").manual_seed(NOISE_SEED)}
    return {key: value for key, value in offered.items() if key in accepted}


def _trajectory(
    scheduler: Any, timesteps: torch.Tensor, sample: torch.Tensor, eta: float
) -> tuple[np.ndarray, np.ndarray]:
    """What the model would be given and what each step answers, `[calls, 1, 4, 4, 4]` both."""
    arguments = _step_arguments(scheduler, eta)
    inputs, samples = [], []
    for call, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(sample, timestep)
        drift = torch.from_numpy(normal_like(f"scheduler.model_output.{call}", SHAPE))
        output = 0.5 * scaled + 0.1 * drift
        sample = scheduler.step(output, timestep, sample, return_dict=False, **arguments)[0]
        inputs.append(scaled.numpy())
        samples.append(sample.numpy())
    return np.stack(inputs), np.stack(samples)


def _variants() -> Iterator[dict[str, Any]]:
    """Every case: its name, scheduler, configuration, steps, and what else differs."""
    for name in SCHEDULERS:
        for prediction in ("epsilon", "v_prediction"):
            config = sd_configs.SCHEDULER | {"prediction_type": prediction}
            common = {"scheduler": name, "config": config | SCHEDULERS[name][1]}
            for steps in (1, 2, 4, 8) if name == "lcm" else (1, 2, 5, 20):
                case = f"{name}/{prediction}/{steps}"
                yield common | {"name": case, "steps": steps}
            steps = 8 if name == "lcm" else 5
            case = f"{name}/{prediction}/{steps}/strength"
            yield common | {"name": case, "steps": steps, "strength": STRENGTH}
        for spacing in SPACINGS.get(name, ()):
            config = sd_configs.SCHEDULER | SCHEDULERS[name][1] | {"timestep_spacing": spacing}
            case = f"{name}/{spacing}/5"
            yield {"name": case, "scheduler": name, "config": config, "steps": 5}
    config = sd_configs.SCHEDULER
    yield {"name": "ddim/eta/5", "scheduler": "ddim", "config": config, "steps": 5, "eta": 0.5}


def schedulers() -> Iterator[Golden]:
    described, arrays = [], {}
    for case in _variants():
        name = case["name"]
        scheduler = make(case["scheduler"], case["config"])
        scheduler.set_timesteps(case["steps"])
        timesteps = scheduler.timesteps
        facts: dict[str, Any] = {"init_noise_sigma": float(scheduler.init_noise_sigma)}
        if "strength" in case:
            # As StableDiffusionImg2ImgPipeline: get_timesteps, then add_noise at the first one.
            kept = min(int(case["steps"] * case["strength"]), case["steps"])
            begin = max(case["steps"] - kept, 0) * scheduler.order
            timesteps = timesteps[begin:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin)
            image, noise = (
                torch.from_numpy(normal_like(f"scheduler.{what}", SHAPE))
                for what in ("image", "noise")
            )
            sample = scheduler.add_noise(image, noise, timesteps[:1])
            facts["begin_index"] = begin
            arrays[f"{name}/noised"] = sample.numpy()
        else:
            sample = torch.from_numpy(normal_like("scheduler.sample", SHAPE))
            sample = sample * scheduler.init_noise_sigma
        facts["timesteps"] = timesteps.tolist()
        if hasattr(scheduler, "sigmas"):
            facts["sigmas"] = scheduler.sigmas.tolist()
        inputs, samples = _trajectory(scheduler, timesteps, sample, case.get("eta", 0.0))
        arrays |= {f"{name}/inputs": inputs, f"{name}/samples": samples}
        described.append(case | facts)
    yield "schedulers/cases.json", described
    yield "schedulers/trajectories.safetensors", arrays


SEEDS = (0, 1, 42, 5, 2**32 + 5, 2**63 + 11)
DRAWS = (
    *([size] for size in (1, 5, 15, 16, 17, 31, 33, 100, 256)),
    # Fewer than 16 values come in pairs, and the odd one is kept for the next small draw.
    [1, 1],
    [5, 5],
    [5, 16, 5],
    [17, 3, 33, 15],
)
WHOLE = 40


def noise() -> Iterator[Golden]:
    """`torch.randn` draw by draw from one generator; of long draws both ends and two sums."""

    def describe(values: torch.Tensor) -> dict[str, Any]:
        listed = values.tolist()
        if len(listed) <= WHOLE:
            return {"size": len(listed), "values": listed}
        wide = values.double()
        sums = {"sum": wide.sum().item(), "sum_of_squares": wide.square().sum().item()}
        return {"size": len(listed), "first": listed[:20], "last": listed[-20:]} | sums

    cases = []
    for seed in SEEDS:
        for sizes in DRAWS:
            generator = torch.Generator("cpu").manual_seed(seed)
            draws = [describe(torch.randn(size, generator=generator)) for size in sizes]
            # As text: JSON numbers lose whole values above 2^53 in many readers.
            cases.append({"seed": str(seed), "draws": draws})
    yield "noise.json", cases


TEXTS = (
    "",
    "a photo of a cat",
    "A PHOTO of a Cat",
    "  many   spaces\tand\n\nlines  ",
    "a cat, a dog... and a horse!!",
    "wow!! really?! (yes) [no] {1.5} a-b_c #tag @you 50% $3",
    "!",
    "it's the cat's house; we've they'll I'd don't 'tis",
    "year 2024 is 12 months",
    "café naïve straße über",
    "cafe\u0301 decomposed accents compose",
    "ΟΔΟΣ and İstanbul: lower case letter by letter",
    "東京の夜 mixed文字 text",
    "emoji 🐈 family 👩‍👩‍👧 flag 🇫🇷",
    "no\u00a0break, ideographic\u3000space, zero\u200bwidth, next\u0085line",
    "control \x00\x01\x7f characters",
    "ligature ﬁne ½ ² Ⅷ ٣",
    "<|startoftext|> a cat <|endoftext|> a dog",
    "<|ENDOFTEXT|> in capitals",
    "astronautriding blueblueblue moonlightly",
    "a " * 74,
    "a " * 75,
    "a " * 76,
    "a large photo of the old house at night, " * 12,
    "🐈" * 30,
)


def tokenizer() -> Iterator[Golden]:
    """Ids of each text, cut and padded to 77, for the tokenizer folder of each model named."""
    cases = []
    for kind in ("sd15", "sd21-base"):
        reference = load_tokenizer(kind)
        for text in TEXTS:
            ids = reference(text, padding="max_length", max_length=77, truncation=True).input_ids
            cases.append({"model": kind, "text": text, "ids": ids})
    yield "tokenizer.json", cases

