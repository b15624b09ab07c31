"""Names and shapes of every tensor of a Stable Diffusion model, from its configuration.

`golden.py` fills the models of diffusers and transformers from these tables, none left over.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


class _Table:
    """Collects shapes under dotted prefixes."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}

    def linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self.shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            self.shapes[f"{name}.bias"] = (outputs,)

    def conv(self, name: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        self.shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        self.shapes[f"{name}.bias"] = (outputs,)

    def norm(self, name: str, channels: int) -> None:
        self.shapes[f"{name}.weight"] = (channels,)
        self.shapes[f"{name}.bias"] = (channels,)

    def resnet(self, name: str, inputs: int, outputs: int, time: int | None) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs)
        if time is not None:
            self.linear(f"{name}.time_emb_proj", time, outputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.conv_shortcut", inputs, outputs, kernel=1)

    def transformer(self, name: str, channels: int, context: int, linear: bool) -> None:
        """A spatial transformer with one block: self-attention, cross-attention, GEGLU."""
        self.norm(f"{name}.norm", channels)
        for projection in ("proj_in", "proj_out"):
            if linear:
                self.linear(f"{name}.{projection}", channels, channels)
            else:
                self.conv(f"{name}.{projection}", channels, channels, kernel=1)
        block = f"{name}.transformer_blocks.0"
        for attention, width in (("attn1", channels), ("attn2", context)):
            self.linear(f"{block}.{attention}.to_q", channels, channels, bias=False)
            self.linear(f"{block}.{attention}.to_k", width, channels, bias=False)
            self.linear(f"{block}.{attention}.to_v", width, channels, bias=False)
            self.linear(f"{block}.{attention}.to_out.0", channels, channels)
        for norm in ("norm1", "norm2", "norm3"):
            self.norm(f"{block}.{norm}", channels)
        self.linear(f"{block}.ff.net.0.proj", channels, 8 * channels)
        self.linear(f"{block}.ff.net.2", 4 * channels, channels)

    def vae_mid(self, name: str, channels: int, old_attention: bool) -> None:
        attention = f"{name}.attentions.0"
        old, new = ("query", "key", "value", "proj_attn"), ("to_q", "to_k", "to_v", "to_out.0")
        self.norm(f"{attention}.group_norm", channels)
        for projection in old if old_attention else new:
            self.linear(f"{attention}.{projection}", channels, channels)
        for index in range(2):
            self.resnet(f"{name}.resnets.{index}", channels, channels, None)


def unet(config: Config) -> Shapes:
    table = _Table()
    channels, context = config["block_out_channels"], config["cross_attention_dim"]
    layers, linear = config["layers_per_block"], config.get("use_linear_projection", False)
    time = 4 * channels[0]

    table.conv("conv_in", config["in_channels"], channels[0])
    table.linear("time_embedding.linear_1", channels[0], time)
    table.linear("time_embedding.linear_2", time, time)

    skips = [channels[0]]
    width = channels[0]
    for level, kind in enumerate(config["down_block_types"]):
        block = f"down_blocks.{level}"
        for layer in range(layers):
            table.resnet(f"{block}.resnets.{layer}", width, channels[level], time)
            width = channels[level]
            if kind.startswith("CrossAttn"):
                table.transformer(f"{block}.attentions.{layer}", width, context, linear)
            skips.append(width)
        if level + 1 < len(channels):
            table.conv(f"{block}.downsamplers.0.conv", width, width)
            skips.append(width)

    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None:
        table.resnet("mid_block.resnets.0", width, width, time)
        table.transformer("mid_block.attentions.0", width, context, linear)
        table.resnet("mid_block.resnets.1", width, width, time)

    for level, kind in enumerate(config["up_block_types"]):
        block, outputs = f"up_blocks.{level}", channels[-1 - level]
        for layer in range(layers + 1):
            table.resnet(f"{block}.resnets.{layer}", width + skips.pop(), outputs, time)
            width = outputs
            if kind.startswith("CrossAttn"):
                table.transformer(f"{block}.attentions.{layer}", width, context, linear)
        if level + 1 < len(channels):
            table.conv(f"{block}.upsamplers.0.conv", width, width)

    table.norm("conv_norm_out", width)
    table.conv("conv_out", width, config["out_channels"])
    return table.shapes


def vae(config: Config, old_attention: bool) -> Shapes:
    """`old_attention` calls the projections `query`, `key`, `value`, `proj_attn`."""
    table = _Table()
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    latent = config["latent_channels"]

    width = channels[0]
    table.conv("encoder.conv_in", config["in_channels"], width)
    for level, outputs in enumerate(channels):
        block = f"encoder.down_blocks.{level}"
        for layer in range(layers):
            table.resnet(f"{block}.resnets.{layer}", width, outputs, None)
            width = outputs
        if level + 1 < len(channels):
            table.conv(f"{block}.downsamplers.0.conv", width, width)
    table.vae_mid("encoder.mid_block", width, old_attention)
    table.norm("encoder.conv_norm_out", width)
    table.conv("encoder.conv_out", width, 2 * latent)

    table.conv("decoder.conv_in", latent, width)
    table.vae_mid("decoder.mid_block", width, old_attention)
    for level, outputs in enumerate(reversed(channels)):
        block = f"decoder.up_blocks.{level}"
        for layer in range(layers + 1):
            table.resnet(f"{block}.resnets.{layer}", width, outputs, None)
            width = outputs
        if level + 1 < len(channels):
            table.conv(f"{block}.upsamplers.0.conv", width, width)
    table.norm("decoder.conv_norm_out", width)
    table.conv("decoder.conv_out", width, config["out_channels"])

    table.conv("quant_conv", 2 * latent, 2 * latent, kernel=1)
    table.conv("post_quant_conv", latent, latent, kernel=1)
    return table.shapes


def text_encoder(config: Config) -> Shapes:
    table = _Table()
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    embeddings = "text_model.embeddings"
    table.shapes[f"{embeddings}.token_embedding.weight"] = (config["vocab_size"], hidden)
    positions = config["max_position_embeddings"]
    table.shapes[f"{embeddings}.position_embedding.weight"] = (positions, hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{index}"
        table.norm(f"{layer}.layer_norm1", hidden)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            table.linear(f"{layer}.self_attn.{projection}", hidden, hidden)
        table.norm(f"{layer}.layer_norm2", hidden)
        table.linear(f"{layer}.mlp.fc1", hidden, mlp)
        table.linear(f"{layer}.mlp.fc2", mlp, hidden)
    table.norm("text_model.final_layer_norm", hidden)
    return table.shapes


def components(configs: dict[str, Config], old_attention: bool) -> dict[str, Shapes]:
    """`{component: {tensor: shape}}` for the components that have weights."""
    return {
        "text_encoder": text_encoder(configs["text_encoder"]),
        "unet": unet(configs["unet"]),
        "vae": vae(configs["vae"], old_attention),
    }
