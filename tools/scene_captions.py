"""Captions for drawn scenes, in several wordings, from a small vocabulary."""

from __future__ import annotations

import numpy as np
from scenes import Scene

# As a thing ("sunset over the sea") and as a time or weather ("the sea at sunset").
SKY_NAMES = {
    "dawn": ("dawn", "sunrise", "dawn", "early morning"),
    "day": ("day", "a sunny day", "daylight", "a clear day", "blue sky"),
    "sunset": ("sunset", "sunset", "evening", "dusk"),
    "night": ("night", "a starry night", "moonlight", "night sky"),
    "storm": ("storm", "a storm", "thunderstorm", "stormy weather"),
}
SKY_WHEN = {
    "dawn": ("at dawn", "at dawn", "at sunrise", "in the early morning"),
    "day": ("by day", "on a sunny day", "in daylight", "on a clear day", "during the day"),
    "sunset": ("at sunset", "at sunset", "in the evening", "at dusk"),
    "night": ("at night", "at night", "on a starry night", "in the moonlight"),
    "storm": ("in a storm", "during a storm", "in a thunderstorm", "in stormy weather", "under storm clouds"),
}
LAND_NAMES = {
    "mountains": ("the mountains", "mountains", "high mountains", "a mountain valley"),
    "hills": ("the hills", "hills", "rolling hills", "a hill", "the meadows"),
    "desert": ("the desert", "a desert", "desert", "sand dunes"),
    "sea": ("the sea", "the sea", "the ocean", "sea"),
    "city": ("the city", "a city", "city", "a town"),
    "snow": ("the snow", "snow", "a snowy field", "a snowy landscape"),
}
LAND_WHERE = {
    "mountains": ("in the mountains", "in front of mountains", "near the mountains"),
    "hills": ("in the hills", "on a hill", "on rolling hills", "in the meadows"),
    "desert": ("in the desert", "in a desert", "on sand dunes", "among the dunes"),
    "sea": ("on the sea", "at sea", "on the ocean", "in the sea", "by the sea"),
    "city": ("in the city", "in a city", "in a town", "in front of a city"),
    "snow": ("in the snow", "on a snowy field", "in a snowy landscape", "on snow"),
}
OBJECT_NAMES = {
    "tree": ("tree",),
    "house": ("house", "house", "cottage", "home"),
    "boat": ("boat", "boat", "sailboat", "ship"),
    "tower": ("tower", "tower", "castle tower", "castle"),
}
COLOUR_NAMES = {
    "red": ("red", "red", "scarlet"),
    "white": ("white",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "green": ("green",),
    "black": ("black",),
}
WITH_OBJECT = (
    "{sky} over {land} with a {thing}",
    "{sky} over {land}, a {thing}",
    "a {thing} {where} {when}",
    "a {thing} {where}, {sky}",
    "{sky}, a {thing} {where}",
    "a {thing} {when} {where}",
    "a {thing}, {land}, {sky}",
    "{land} {when} with a {thing}",
    "{thing}, {land}, {sky}",
    "{where} {when}, a {thing}",
)
WITHOUT_OBJECT = ("{sky} over {land}", "{land} {when}", "{land}, {sky}", "{sky}, {land}", "empty {land} {when}")
# What a short prompt leaves out is free: the model learns to choose it.
SHORT = ("a {thing} {where}", "a {thing} {when}", "a {thing}, {sky}", "{land} with a {thing}", "a {thing}")
OPENINGS = ("a picture of ", "a painting of ", "an image of ")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the scene's many captions."""
    pick = lambda words: str(words[rng.integers(len(words))])
    words = {
        "sky": pick(SKY_NAMES[scene.sky]),
        "when": pick(SKY_WHEN[scene.sky]),
        "land": pick(LAND_NAMES[scene.land]),
        "where": pick(LAND_WHERE[scene.land]),
    }
    if scene.object == "none":
        form = pick(WITHOUT_OBJECT)
    else:
        words["thing"] = f"{pick(COLOUR_NAMES[scene.colour])} {pick(OBJECT_NAMES[scene.object])}"
        form = pick(SHORT) if rng.random() < 0.08 else pick(WITH_OBJECT)
    text = form.format(**words)
    return pick(OPENINGS) + text if rng.random() < 0.08 else text


def all_words() -> list[str]:
    """Every word that a caption can hold, in a fixed order."""
    tables = (SKY_NAMES, SKY_WHEN, LAND_NAMES, LAND_WHERE, OBJECT_NAMES, COLOUR_NAMES)
    texts = [text for table in tables for words in table.values() for text in words]
    texts += [*WITH_OBJECT, *WITHOUT_OBJECT, *SHORT, *OPENINGS]
    words = (word.strip(",") for text in texts for word in text.split())
    return sorted({word for word in words if word and "{" not in word})
