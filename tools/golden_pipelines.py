"""Goldens of whole pictures: text to image and image to image, for every model and scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import golden_models
import golden_schedulers
import numpy as np
import sd_configs
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from golden_formula import image
from golden_models import Golden

PROMPT = "a detailed photo of a cat on the moon, café at night!"
NEGATIVE_PROMPT = "blurry, low quality, worst"
STEPS = {"lcm": 4, "heun": 4}
INPUT_IMAGE = "input.pipeline.image"


def _own_scheduler(kind: str) -> str:
    return "ddim" if kind == "sd21" else "pndm"


def _cases(kind: str) -> Iterator[dict[str, Any]]:
    """The pictures of one model: its own scheduler; for sd15 also the others and some options."""
    common = {"model": kind, "prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}
    common |= {"guidance_scale": 5.0, "seed": 42, "images": 1}

    def case(name: str, scheduler: str, size: tuple[int, int], **changes: Any) -> dict[str, Any]:
        facts = {"name": f"{kind}/{name}", "scheduler": scheduler, "steps": STEPS.get(scheduler, 5)}
        return facts | {"height": size[0], "width": size[1]} | common | changes

    own = _own_scheduler(kind)
    yield case("text", own, (64, 64))
    yield case("image", own, (64, 64), strength=0.6)
    if kind != "sd15":
        return
    # 48 rows make 6 rows of latents: 6, 3, 2, 1 down the UNet, so nothing halves evenly.
    for scheduler in golden_schedulers.SCHEDULERS:
        yield case(f"text/{scheduler}", scheduler, (48, 64))
        yield case(f"image/{scheduler}", scheduler, (48, 64), strength=0.6)
    yield case("text/no-guidance", own, (48, 64), guidance_scale=1.0)
    yield case("text/no-negative-prompt", own, (48, 64), negative_prompt=None)
    yield case("text/two-images", own, (48, 64), images=2)
    yield case("text/ddim-eta", "ddim", (48, 64), eta=0.5)


def _run(case: dict[str, Any], models: dict[str, Any]) -> dict[str, np.ndarray]:
    """The latents before the first call and after each, and the image in [0, 1]."""
    config = golden_models.configs_of(case["model"])["scheduler"]
    pipeline_class = (
        StableDiffusionImg2ImgPipeline if "strength" in case else StableDiffusionPipeline
    )
    pipeline = pipeline_class(
        **models,
        tokenizer=golden_models.load_tokenizer(case["model"]),
        scheduler=golden_schedulers.make(case["scheduler"], config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    recorded: dict[str, Any] = {"latents": []}

    prepare_latents = pipeline.prepare_latents

    def record_start(*arguments: Any, **named: Any) -> torch.Tensor:
        recorded["start"] = prepare_latents(*arguments, **named)
        return recorded["start"]

    def record_step(_pipeline: Any, _step: int, _timestep: Any, state: dict[str, Any]) -> Any:
        recorded["latents"].append(state["latents"].numpy().copy())
        return state

    pipeline.prepare_latents = record_start
    size = (case["height"], case["width"])
    if "strength" in case:
        source = torch.from_numpy(image(INPUT_IMAGE, (1, 3, *size)))
        special = {"image": source, "strength": case["strength"]}
    else:
        special = {"height": size[0], "width": size[1]}
    pictures = pipeline(
        prompt=case["prompt"],
        negative_prompt=case["negative_prompt"],
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"],
        num_images_per_prompt=case["images"],
        eta=case.get("eta", 0.0),
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        output_type="pt",
        callback_on_step_end=record_step,
        **special,
    ).images
    return {
        "start": recorded["start"].numpy(),
        "latents": np.stack(recorded["latents"]),
        "image": pictures.numpy(),
    }


def _other_arithmetic(case: dict[str, Any], models: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same picture with oneDNN and fused attention: other sums of the same f32 values."""

    def use(mkldnn: bool, processor: Any) -> None:
        torch.backends.mkldnn.enabled = mkldnn
        models["unet"].set_attn_processor(processor)
        models["vae"].set_attn_processor(processor)

    use(True, AttnProcessor2_0())
    try:
        return _run(case, models)
    finally:
        use(False, AttnProcessor())


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Of images in [0, 1]; two equal ones have 200 dB."""
    mean = float(np.square(one.astype(np.float64) - other).mean())
    return 200.0 if mean == 0.0 else float(-10.0 * np.log10(mean))


def pipelines() -> Iterator[Golden]:
    described = []
    for kind in sd_configs.KINDS:
        arrays: dict[str, np.ndarray] = {}
        models = golden_models.load(kind)
        for case in _cases(kind):
            results = _run(case, models)
            arrays |= {f"{case['name']}/{what}": array for what, array in results.items()}
            again = _other_arithmetic(case, models)
            psnr = psnr_db(results["image"], again["image"])
            described.append(case | {"f32_psnr_db": round(psnr, 1)})
        yield f"pipelines/{kind}.safetensors", arrays
    yield "pipelines/cases.json", described
