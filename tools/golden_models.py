"""Goldens of single modules: text encoder, UNet and VAE of every small model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clip_vocab
import ldm_names
import numpy as np
import sd_configs
import sd_shapes
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.models.attention_processor import AttnProcessor
from golden_formula import image, normal_like, weight
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

# What a part of the goldens yields: a path under tests/golden and what belongs there, by suffix:
# .safetensors {name: array}, .json anything, else text.
Golden = tuple[str, Any]

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
PROMPTS = (
    "a photo of a cat",
    "A large, detailed oil painting of an astronaut riding a horse on the moon, " * 6,
)
UNET_CASES = (
    {"name": "square", "latent": [2, 4, 8, 8], "timestep": 981, "tokens": 77},
    {"name": "wide", "latent": [1, 4, 16, 24], "timestep": 1, "tokens": 77},
    # Sizes that do not halve evenly: the upsamplers must take the size of the skip connection.
    {"name": "odd", "latent": [1, 4, 10, 13], "timestep": 500.25, "tokens": 9},
)
ENCODE_CASES = (
    {"name": "square", "image": [1, 3, 32, 32]},
    {"name": "wide", "image": [1, 3, 24, 40]},
)
DECODE_CASES = (
    {"name": "square", "latent": [2, 4, 4, 4]},
    {"name": "wide", "latent": [1, 4, 5, 8]},
)

# Not multiples of the tiles' step of 6 latents, so that the last tiles are short.
TILED_LATENT = (1, 4, 13, 10)
TILED_IMAGE = (1, 3, 104, 80)


def vocab_size() -> int:
    return len(clip_vocab.build()[0])


def configs_of(kind: str) -> dict[str, sd_configs.Config]:
    return sd_configs.small(kind, vocab_size())


def _fill(model: torch.nn.Module, shapes: sd_shapes.Shapes, rename: Any) -> torch.nn.Module:
    state = {rename(name): torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def _rename_vae(name: str) -> str:
    for old, new in OLD_ATTENTION.items():
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name


def load_tokenizer(kind: str) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        clip_vocab.write(Path(folder), kind)
        return CLIPTokenizer.from_pretrained(folder)


def load(kind: str) -> dict[str, torch.nn.Module]:
    """The small model with formula weights and plain attention, by component."""
    configs = configs_of(kind)
    shapes = sd_shapes.components(configs, sd_configs.has_old_attention_names(kind))
    clip = CLIPTextConfig(**configs["text_encoder"], attn_implementation="eager")
    unet = UNet2DConditionModel.from_config(configs["unet"])
    vae = AutoencoderKL.from_config(configs["vae"])
    unet.set_attn_processor(AttnProcessor())
    vae.set_attn_processor(AttnProcessor())
    # transformers 5 dropped the prefix that every published file has.
    models = {
        "text_encoder": _fill(
            CLIPTextModel(clip),
            shapes["text_encoder"],
            lambda name: name.removeprefix("text_model."),
        ),
        "unet": _fill(unet, shapes["unet"], str),
        "vae": _fill(vae, shapes["vae"], _rename_vae),
    }
    return models


def layout(kind: str) -> Iterator[Golden]:
    """The diffusers folder: every file but the weights, and what the weights are called."""
    folder = f"models/{kind}"
    configs = configs_of(kind)
    yield f"{folder}/model_index.json", sd_configs.model_index(configs)
    yield f"{folder}/scheduler/scheduler_config.json", configs["scheduler"]
    old_attention = sd_configs.has_old_attention_names(kind)
    for component, shapes in sd_shapes.components(configs, old_attention).items():
        yield f"{folder}/{component}/config.json", configs[component]
        manifest = {name: list(shape) for name, shape in shapes.items()}
        yield f"{folder}/{component}/manifest.json", manifest
    with tempfile.TemporaryDirectory() as temporary:
        clip_vocab.write(Path(temporary), kind)
        for path in sorted(Path(temporary).iterdir()):
            text = path.read_text(encoding="utf-8")
            is_vocabulary = path.name in ("vocab.json", "merges.txt")
            yield f"{folder}/tokenizer/{path.name}", text if is_vocabulary else json.loads(text)


def _first(output: Any) -> torch.Tensor:
    """The tensor that a module answers with, whatever it is wrapped in."""
    if isinstance(output, torch.Tensor):
        return output
    return output[0]


def _trace(model: torch.nn.Module, names: list[str], into: dict[str, Any]) -> list[Any]:
    """Hooks that write the shape, moments and first values of each named module's output."""

    def watch(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            value = _first(output).double()
            moments = [value.mean().item(), value.square().mean().sqrt().item()]
            into[name] = {
                "shape": list(value.shape),
                "mean_rms": [float(f"{moment:.7g}") for moment in moments],
                "first": [float(f"{v:.7g}") for v in value.flatten()[:4].tolist()],
            }

        return hook

    return [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]


def _stages(model: torch.nn.Module) -> list[str]:
    """Modules worth a line in a trace: resnets, attentions, samplers, embeddings, the ends."""
    wanted = ("resnets", "attentions", "downsamplers", "upsamplers", "layers")
    lone = ("embeddings", "time_embedding", "conv_in", "conv_norm_out", "quant_conv")
    lone = (*lone, "post_quant_conv", "final_layer_norm")
    names = []
    for name, _ in model.named_modules():
        parts = name.split(".")
        if len(parts) >= 2 and parts[-2] in wanted or parts[-1] in lone:
            names.append(name)
    return names


def _runs(kind: str, models: dict[str, torch.nn.Module]) -> dict[str, tuple[str, Any]]:
    """`{output name: (component, function of an element type)}` for every case."""
    context_size = configs_of(kind)["unet"]["cross_attention_dim"]
    runs: dict[str, tuple[str, Any]] = {}

    def formula(make: Any, name: str, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(make(name, tuple(shape))).to(dtype)

    def text(_dtype: torch.dtype) -> torch.Tensor:
        return models["text_encoder"](token_ids(kind)).last_hidden_state

    runs["text.output"] = "text_encoder", text
    for case in UNET_CASES:
        stem, batch = f"unet.{case['name']}", case["latent"][0]
        context = [batch, case["tokens"], context_size]

        def denoise(dtype: torch.dtype, stem=stem, case=case, context=context) -> torch.Tensor:
            return models["unet"](
                formula(normal_like, f"input.{stem}.latent", case["latent"], dtype),
                torch.tensor(case["timestep"]),
                formula(normal_like, f"input.{stem}.context", context, dtype),
            ).sample

        runs[f"{stem}.output"] = "unet", denoise
    for case in ENCODE_CASES:
        stem = f"vae.encode.{case['name']}"

        def encode(dtype: torch.dtype, stem=stem, case=case) -> torch.Tensor:
            pixels = 2.0 * formula(image, f"input.{stem}.image", case["image"], dtype) - 1.0
            return models["vae"].encode(pixels).latent_dist.parameters

        runs[f"{stem}.moments"] = "vae", encode
    for case in DECODE_CASES:
        stem = f"vae.decode.{case['name']}"

        def decode(dtype: torch.dtype, stem=stem, case=case) -> torch.Tensor:
            latent = formula(normal_like, f"input.{stem}.latent", case["latent"], dtype)
            return models["vae"].decode(latent).sample

        runs[f"{stem}.image"] = "vae", decode
    return runs


def token_ids(kind: str) -> torch.Tensor:
    """Two rows: a short prompt with padding, a long one that is cut."""
    tokenizer = load_tokenizer(kind)
    encoded = tokenizer(
        list(PROMPTS), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def modules(kind: str) -> Iterator[Golden]:
    """Outputs in f32, the distance to the same in f64, and a trace of the first case of each."""
    models = load(kind)
    runs = _runs(kind, models)
    arrays: dict[str, np.ndarray] = {"text.ids": token_ids(kind).to(torch.int32).numpy()}
    traces: dict[str, Any] = {}
    outputs: dict[str, torch.Tensor] = {}
    for name, (component, run) in runs.items():
        is_first = name.startswith("text") or ".square" in name
        trace: dict[str, Any] = {}
        model = models[component]
        hooks = _trace(model, _stages(model), trace) if is_first else []
        outputs[name] = run(torch.float32)
        for hook in hooks:
            hook.remove()
        if is_first:
            traces[name] = trace
        arrays[name] = outputs[name].contiguous().numpy()
    errors = {}
    for model in models.values():
        model.double()
    for name, (_, run) in runs.items():
        error = (run(torch.float64) - outputs[name].double()).abs().max().item()
        rms = outputs[name].double().square().mean().sqrt().item()
        errors[name] = {"rms": float(f"{rms:.3g}"), "f32_error": float(f"{error:.1g}")}
    yield f"modules/{kind}.safetensors", arrays
    yield f"modules/{kind}.trace.json", traces
    yield f"modules/{kind}.errors.json", errors


def single_file() -> Iterator[Golden]:
    """The names and shapes of sd15 in one file of the original layout, and whose tensors they are.

    diffusers' own conversion has to find its names in them again.
    """
    configs = configs_of("sd15")
    shapes = sd_shapes.components(configs, old_attention=True)
    entries = {}
    for component, named in shapes.items():
        for name, shape in named.items():
            entries[ldm_names.ldm_name(component, name, configs)] = {
                "component": component,
                "name": name,
                "shape": ldm_names.ldm_shape(component, name, shape),
            }
    tensors = {name: torch.zeros(entry["shape"]) for name, entry in entries.items()}
    converted = {
        "text_encoder": convert_ldm_clip_checkpoint(dict(tensors)),
        "unet": convert_ldm_unet_checkpoint(dict(tensors), configs["unet"]),
        "vae": convert_ldm_vae_checkpoint(dict(tensors), configs["vae"]),
    }
    for component, found in sd_shapes.components(configs, old_attention=False).items():
        if {name: tuple(t.shape) for name, t in converted[component].items()} != found:
            raise ValueError(f"{component}: diffusers converts the single file to other tensors")
    yield "models/sd15/single_file.json", entries


def tiling() -> Iterator[Golden]:
    """The VAE of sd15 with diffusers' blended tiles: 64 pixels, a quarter overlapping."""
    vae = load("sd15")["vae"]
    vae.enable_tiling()
    latent = torch.from_numpy(normal_like("input.tiling.latent", TILED_LATENT))
    pixels = torch.from_numpy(image("input.tiling.image", TILED_IMAGE))
    arrays = {
        "decode.image": vae.decode(latent).sample.numpy(),
        "encode.moments": vae.encode(2.0 * pixels - 1.0).latent_dist.parameters.numpy(),
    }
    yield "modules/tiling.safetensors", arrays


def cases() -> Iterator[Golden]:
    yield (
        "modules/cases.json",
        {"unet": UNET_CASES, "vae.encode": ENCODE_CASES, "vae.decode": DECODE_CASES},
    )
