"""The demo model's parts: what they are made of, and how they are written to a folder."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

VAE_CHANNELS = (32, 64, 96, 96)
UNET_CHANNELS = (64, 96, 128)
TEXT_WIDTH = 128
TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def build_vae() -> AutoencoderKL:
    levels = len(VAE_CHANNELS)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        sample_size=128,
    )


def build_unet() -> UNet2DConditionModel:
    """As in SD 1.x: cross attention at all levels but the lowest; `attention_head_dim` is
    the number of heads."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        norm_num_groups=32,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        steps_offset=1,
        timestep_spacing="leading",
    )


# --- the tokenizer -----------------------------------------------------------------


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte, in CLIP's order of ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until each word is one token."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for parts in pieces.values() for pair in zip(parts, parts[1:]))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            pieces[word] = joined


def build_tokenizer(folder: Path, words: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which `words` are one token each, and any text has tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(words)
    characters = byte_characters()
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True}
    config |= {"add_prefix_space": False, "errors": "replace", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, [texts, 77]."""
    options = {"padding": "max_length", "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
    return tokenizer(texts, **options).input_ids


# --- export ------------------------------------------------------------------------


def make_pipeline(vae, unet, text_encoder, tokenizer) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(folder: Path, vae, unet, text_encoder, words: list[str]) -> None:
    """Writes the model in diffusers' layout, weights in f16."""
    tokenizer = build_tokenizer(folder / "tokenizer", words)
    parts = [copy.deepcopy(module).to("cpu", torch.float16) for module in (vae, unet, text_encoder)]
    make_pipeline(*parts, tokenizer).save_pretrained(folder, safe_serialization=True)
    # The four files that every reader of CLIP tokenizers knows, whatever this version adds.
    for extra in (folder / "tokenizer").iterdir():
        extra.unlink()
    build_tokenizer(folder / "tokenizer", words)
    # JSON has no -Infinity, which diffusers writes for this default.
    written = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(written.read_text())
    settings.pop("lambda_min_clipped", None)
    written.write_text(json.dumps(settings, indent=2) + "\n")
