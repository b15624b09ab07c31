"""The names that tensors of SD1.x have in a single file of the original (LDM) layout."""

from __future__ import annotations

import re
from typing import Any

Config = dict[str, Any]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
VAE_ATTENTION = {
    "group_norm": "norm",
    **dict.fromkeys(("query", "to_q"), "q"),
    **dict.fromkeys(("key", "to_k"), "k"),
    **dict.fromkeys(("value", "to_v"), "v"),
    **dict.fromkeys(("proj_attn", "to_out.0"), "proj_out"),
}


def _renamed(table: dict[str, str], rest: str) -> str:
    """`rest` with the module at its start renamed."""
    module, leaf = rest.rsplit(".", 1)
    return f"{table.get(module, module)}.{leaf}"


def unet(name: str, config: Config) -> str:
    layers = config["layers_per_block"]
    if found := re.fullmatch(r"mid_block\.(\w+\.\d)\.(.*)", name):
        module, rest = found.groups()
        return f"middle_block.{MIDDLE[module]}.{_renamed(RESNET, rest)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
    if not found:
        return _renamed(UNET, name)
    side, module, rest = found[1], found[3], found[5]
    level, layer = int(found[2]), int(found[4])
    first, blocks = (1, "input_blocks") if side == "down" else (0, "output_blocks")
    block = first + level * (layers + 1) + layer
    match module:
        case "resnets":
            return f"{blocks}.{block}.0.{_renamed(RESNET, rest)}"
        case "attentions":
            return f"{blocks}.{block}.1.{rest}"
        case "downsamplers":
            return f"{blocks}.{block + layers}.0.{rest.replace('conv', 'op')}"
        case _:
            has_attention = config["up_block_types"][level].startswith("CrossAttn")
            return f"{blocks}.{block + layers}.{2 if has_attention else 1}.{rest}"


def vae(name: str, config: Config) -> str:
    last = len(config["block_out_channels"]) - 1
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if found := re.fullmatch(r"(\w+)\.mid_block\.resnets\.(\d)\.(.*)", name):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.*)", name):
        return f"{found[1]}.mid.attn_1.{_renamed(VAE_ATTENTION, found[2])}"
    if found := re.fullmatch(r"(\w+)\.(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
        side, level = found[2], int(found[3])
        block = f"{found[1]}.{side}.{level if side == 'down' else last - level}"
        if found[4] == "resnets":
            return f"{block}.block.{found[5]}.{found[6]}"
        return f"{block}.{side}sample.{found[6]}"
    return name


def ldm_name(component: str, name: str, configs: dict[str, Config]) -> str:
    """The name in the single file of the tensor `name` of a diffusers component."""
    match component:
        case "text_encoder":
            return f"cond_stage_model.transformer.{name}"
        case "unet":
            return f"model.diffusion_model.{unet(name, configs['unet'])}"
        case _:
            return f"first_stage_model.{vae(name, configs['vae'])}"


def ldm_shape(component: str, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Its shape there: the VAE's attention has 1x1 convolutions in place of linear layers."""
    is_projection = component == "vae" and "mid_block.attentions" in name and len(shape) == 2
    return (*shape, 1, 1) if is_projection else shape
