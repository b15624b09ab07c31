#!/usr/bin/env python3
"""Writes CLIP's vocabulary for the tokenizer of single-file checkpoints, and what it should answer.

    pip download --no-deps open_clip_torch==3.3.0
    tools/clip_merges.py open_clip_torch-3.3.0-py3-none-any.whl

CLIP's vocabulary is 256 bytes, the same 256 at the end of a word, then one entry a merge, then the
two special tokens. So the merges say it all: 48,894 pairs of token numbers, 16 bits each,
little-endian, in src/models/tokenizer/clip_merges.bin. The source is OpenAI's
bpe_simple_vocab_16e6.txt.gz (MIT licence), as open_clip ships it.

tests/golden/clip_tokenizer.json has what transformers 5.23.0 makes of some texts with it, as token
numbers without the padding at the end.
"""

import gzip
import json
import random
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MERGES = 49152 - 256 - 2
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    "masterpiece best quality trending on artstation by greg rutkowski hyperrealistic 8k uhd octane render, cinematic "
    "lighting; bokeh f/1.8 35mm (photorealistic:1.4) it's we've 1girl --ar 16:9 café naïve !! <lora:x:1> don't"
).split()
SCRIPTS = [(0x21, 0x17F), (0x370, 0x52F), (0x600, 0x6FF), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF)]
SCRIPTS += [(0xAC00, 0xD7A3), (0x1F300, 0x1F6FF), (0x300, 0x36F), (0xE000, 0xE010)]


def unicode_of_bytes():
    """The printable stand-in of each byte, in CLIP's order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index in range(len(others))]


def texts(count):
    """Prompts of common words, of letters drawn at random and of other scripts."""
    draw = random.Random(1)

    def word():
        if draw.random() < 0.5:
            return draw.choice(WORDS)
        first, last = draw.choice([(0x41, 0x5A), (0x61, 0x7A), *SCRIPTS])
        return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 8)))

    fixed = ["", "a photo of a cat", "a photo of a cat!", f"{BOS} a cat {EOS} a dog", "a " * 76]
    return fixed + [draw.choice(" \t,").join(word() for _ in range(draw.randint(1, 30))) for _ in range(count)]


def golden(tokens, merges, count):
    from transformers import CLIPTokenizer

    cases = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
        lines = "\n".join(" ".join(pair) for pair in merges)
        Path(folder, "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
        for pad in (EOS, "!"):
            config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad}
            Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            for text in texts(count):
                ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
                while ids[-1] == tokens[pad]:
                    ids.pop()
                cases.append({"pad": pad, "text": text, "ids": ids})
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"


def main(wheel, count=40):
    with zipfile.ZipFile(wheel) as files:
        text = gzip.decompress(files.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode("utf-8")
    merges = [tuple(line.split()) for line in text.split("\n")[1 : 1 + MERGES]]
    letters = unicode_of_bytes()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens = {token: number for number, token in enumerate([*tokens, BOS, EOS])}
    assert len(tokens) == 49408, "every token is there once"
    with open(ROOT / "src/models/tokenizer/clip_merges.bin", "wb") as file:
        for left, right in merges:
            file.write(struct.pack("<HH", tokens[left], tokens[right]))
    (ROOT / "tests/golden/clip_tokenizer.json").write_text(golden(tokens, merges, int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
