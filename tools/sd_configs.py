"""The configuration files of the Stable Diffusion models that are tested, at full size and small.

The full ones hold the keys of the published repositories that matter to a loader, in the form in
which they are published: what is absent there is absent here (`scaling_factor`, `mid_block_type`).
"""

from __future__ import annotations

import copy
from typing import Any

Config = dict[str, Any]

KINDS = ("sd15", "sd21-base", "sd21", "bk-base", "bk-small", "bk-tiny")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"

UNET: Config = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
SD2_UNET: Config = UNET | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "use_linear_projection": True,
}
UNETS: dict[str, Config] = {
    "sd15": UNET,
    "sd21-base": SD2_UNET,
    "sd21": SD2_UNET | {"sample_size": 96, "upcast_attention": True},
    "bk-base": UNET | {"layers_per_block": 1},
    "bk-small": UNET | {"layers_per_block": 1, "mid_block_type": None},
    "bk-tiny": UNET
    | {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 1,
        "mid_block_type": None,
    },
}
VAE: Config = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
CLIP: Config = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
SD2_CLIP: Config = CLIP | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
SCHEDULER: Config = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def is_sd2(kind: str) -> bool:
    return kind.startswith("sd2")


def has_old_attention_names(kind: str) -> bool:
    """SD1.5's VAE was published before its projections were renamed `to_q` and so on."""
    return kind == "sd15"


def full(kind: str) -> dict[str, Config]:
    """`{component: config}` of the published model."""
    scheduler = copy.deepcopy(SCHEDULER)
    if kind == "sd21-base":
        scheduler |= {"prediction_type": "epsilon"}
    elif kind == "sd21":
        scheduler |= {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    return {
        "scheduler": scheduler,
        "text_encoder": copy.deepcopy(SD2_CLIP if is_sd2(kind) else CLIP),
        "unet": copy.deepcopy(UNETS[kind]),
        "vae": VAE | {"sample_size": 768} if is_sd2(kind) else copy.deepcopy(VAE),
    }


def small(kind: str, vocab_size: int) -> dict[str, Config]:
    """The model with every distinguishing mark and few channels.

    The channels are unequal, and 32 groups over 96 + 64 = 160 channels put 5 in a group: one
    group straddles the border of a skip connection, as in the real model.
    """
    configs = full(kind)
    hidden, heads, layers = (80, 5, 3) if is_sd2(kind) else (64, 4, 2)
    configs["text_encoder"] |= {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab_size,
    }
    unet = configs["unet"]
    unet |= {
        "block_out_channels": [32, 64, 96, 96][: len(unet["block_out_channels"])],
        "cross_attention_dim": hidden,
        "sample_size": 12 if kind == "sd21" else 8,
    }
    if is_sd2(kind):
        unet["attention_head_dim"] = [2, 4, 6, 6]
    # The published VAEs of SD2 say 768 where the UNet makes 512; so does this one, in proportion.
    configs["vae"] |= {
        "block_out_channels": [32, 64, 96, 96],
        "sample_size": 96 if is_sd2(kind) else 64,
    }
    return configs


def model_index(configs: dict[str, Config]) -> Config:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", configs["scheduler"]["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def tokenizer_config(kind: str) -> dict[str, Config]:
    """`{file name: contents}` of the two small JSON files beside the vocabulary.

    SD2 names `!` as the pad token in `special_tokens_map.json` alone; its `tokenizer_config.json`
    still says end-of-text. transformers lets the former win.
    """

    def added(content: str) -> Config:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"content": content} | flags

    special = {"bos_token": added(BOS), "eos_token": added(EOS), "unk_token": added(EOS)}
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": EOS,
        "tokenizer_class": "CLIPTokenizer",
    } | {name: {"__type": "AddedToken"} | token for name, token in special.items()}
    return {
        "special_tokens_map.json": special | {"pad_token": "!" if is_sd2(kind) else EOS},
        "tokenizer_config.json": config,
    }
