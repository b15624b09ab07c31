#!/usr/bin/env python3
"""Writes CLIP's vocabulary for the tokenizer of single-file checkpoints.

    pip download --no-deps open_clip_torch==3.3.0
    tools/clip_merges.py open_clip_torch-3.3.0-py3-none-any.whl src/models/tokenizer/clip_merges.bin

CLIP's vocabulary is 256 bytes, the same 256 at the end of a word, then one entry a merge, then the
two special tokens. So the merges say it all: 48,894 pairs of token numbers, 16 bits each, little-endian.
The source is OpenAI's bpe_simple_vocab_16e6.txt.gz (MIT licence), as open_clip ships it.
"""

import gzip
import struct
import sys
import zipfile

MERGES = 49152 - 256 - 2


def unicode_of_bytes():
    """The printable stand-in of each byte, in CLIP's order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index in range(len(others))]


def main(wheel, target):
    with zipfile.ZipFile(wheel) as files:
        text = gzip.decompress(files.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode("utf-8")
    merges = [tuple(line.split()) for line in text.split("\n")[1 : 1 + MERGES]]
    letters = unicode_of_bytes()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    number = {token: index for index, token in enumerate(tokens)}
    assert len(number) == len(tokens) == 49406, "every token is there once"
    with open(target, "wb") as file:
        for left, right in merges:
            file.write(struct.pack("<HH", number[left], number[right]))


if __name__ == "__main__":
    main(*sys.argv[1:])
