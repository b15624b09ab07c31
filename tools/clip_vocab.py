"""Vocabularies in the form of CLIP's: bytes, bytes at a word's end, merges, two special tokens.

The published vocabulary is not needed to test a tokenizer or a loader; one of the same form is.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path

from sd_configs import BOS, EOS, tokenizer_config

Pair = tuple[str, str]
WORD_END = "</w>"

# Words that the learned merges can spell; the rest of a prompt falls apart into bytes.
WORDS = (
    "a an the of on in at with and photo painting picture cat dog house horse astronaut riding moon "
    "forest river mountain sky sunset red green blue black white small large old detailed blurry low "
    "quality high best worst masterpiece watercolor oil canvas portrait city street night light 's "
    "café naïve straße über 東京 ... !! , --"
).split()


def byte_symbols() -> dict[int, str]:
    """The printable character that stands for each byte, in CLIP's order: `!` is token 0."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    return symbols | {byte: chr(256 + index) for index, byte in enumerate(others)}


def spell(word: str, ranks: dict[Pair, int]) -> list[str]:
    """`word` as symbols after the merges in `ranks`, lowest rank first."""
    symbols = byte_symbols()
    parts = [symbols[byte] for byte in word.encode()]
    parts[-1] += WORD_END
    while True:
        pairs = [pair for pair in itertools.pairwise(parts) if pair in ranks]
        if not pairs:
            return parts
        best = min(pairs, key=ranks.__getitem__)
        merged, index = [], 0
        while index < len(parts):
            found = tuple(parts[index : index + 2]) == best
            merged.append("".join(best) if found else parts[index])
            index += 2 if found else 1
        parts = merged


def word_merges(words: list[str]) -> list[Pair]:
    """Merges with which each of `words` becomes one token, joined from its start."""
    ranks: dict[Pair, int] = {}
    for word in words:
        while len(parts := spell(word, ranks)) > 1:
            ranks[(parts[0], parts[1])] = len(ranks)
    return list(ranks)


def filler_merges() -> Iterator[Pair]:
    """Every pair of letters, every triple, and so on."""
    letters = string.ascii_lowercase
    for length in itertools.count(2):
        for head in itertools.product(letters, repeat=length - 1):
            for last in letters:
                yield "".join(head), last
                yield "".join(head), last + WORD_END


def build(size: int | None = None) -> tuple[dict[str, int], list[Pair]]:
    """Vocabulary and merges; filled up to `size` entries where one is given."""
    symbols = list(byte_symbols().values())
    tokens = dict.fromkeys(symbols + [symbol + WORD_END for symbol in symbols])
    merges = []
    for pair in itertools.chain(word_merges(WORDS), filler_merges() if size else ()):
        if size and len(tokens) + 2 == size:
            break
        if "".join(pair) not in tokens:
            tokens["".join(pair)] = None
            merges.append(pair)
    vocabulary = {token: index for index, token in enumerate([*tokens, BOS, EOS])}
    return vocabulary, merges


def write(folder: Path, kind: str, size: int | None = None) -> int:
    """Writes the four files of a diffusers `tokenizer/` folder; the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = build(size)
    text = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(text + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, contents in tokenizer_config(kind).items():
        (folder / name).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    return len(vocabulary)
