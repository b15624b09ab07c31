"""Reads sky, land, object and colour from a picture, by statistics and templates alone.

Nothing here is learned by gradient: the object is found by correlating maps of "how near is
this pixel to red" with the drawn outlines of the objects, and the sky and land are the
class whose average statistics (colours of bands, edges), over scenes drawn once, are nearest.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter
from scenes import COLOURS, LANDS, SKIES, Canvas, Scene, draw, object_parts

GRID = 64  # templates are matched at this resolution
# How far, in RGB, a pixel may stand from a colour and still count in part.
REACH = 90.0
# An object must fill this share of its template, surroundings subtracted.
FOUND = 0.42
HEIGHTS = {
    "tree": (0.38, 0.42, 0.46),
    "house": (0.34, 0.37, 0.40),
    "boat": (0.38, 0.42, 0.46),
    "tower": (0.46, 0.50, 0.54),
}


def shrink(picture: np.ndarray) -> np.ndarray:
    """[GRID, GRID, 3] f32 from any square RGB picture."""
    image = Image.fromarray(picture).resize((2 * GRID, 2 * GRID), Image.Resampling.BOX)
    return np.asarray(image, np.float32).reshape(GRID, 2, GRID, 2, 3).mean((1, 3))


# --- the object --------------------------------------------------------------------


@lru_cache(maxsize=None)
def templates() -> tuple[list[tuple[str, float]], np.ndarray, np.ndarray, np.ndarray]:
    """For each object and height, centred on the grid: what it is, its body (sum 1), its
    surroundings (sum 1), as spectra, and its whole silhouette."""
    names, bodies, rings, wholes = [], [], [], []
    for thing, heights in HEIGHTS.items():
        for height in heights:
            layers = {}
            for part, grow in (("body", 0.0), ("hole", 0.012), ("all", 0.012), ("ring", 0.075)):
                canvas = Canvas(GRID)
                for kind, shape, points in object_parts(thing):
                    wanted = {"body": kind in ("body", "shine"), "hole": kind not in ("body", "shine")}.get(part, True)
                    if not wanted:
                        continue
                    if shape == "ellipse":
                        x, y, rx, ry = points
                        canvas.ellipse(
                            0.5 + x * height, 0.75 - y * height, rx * height, ry * height, (1, 1, 1), grow=grow
                        )
                    else:
                        canvas.polygon([(0.5 + x * height, 0.75 - y * height) for x, y in points], (1, 1, 1), grow=grow)
                layers[part] = canvas.rgb[..., 0]
            body = layers["body"] * (1 - layers["hole"]) if thing != "boat" else layers["body"]
            ring = np.clip(layers["ring"] - layers["all"], 0, 1)
            names.append((thing, height))
            bodies.append(body / body.sum())
            rings.append(ring / ring.sum())
            wholes.append(layers["all"])
    spectra = lambda images: np.conj(np.fft.rfft2(np.stack(images)))
    return names, spectra(bodies), spectra(rings), np.stack(wholes)


def find_object(small: np.ndarray) -> tuple[str, str, np.ndarray]:
    """Object, colour and silhouette of the best match, or "none" where nothing matches."""
    names, bodies, rings, wholes = templates()
    palette = np.array(list(COLOURS.values()), np.float32)
    distance = np.sqrt(((small[None] - palette[:, None, None]) ** 2).sum(-1))
    near = np.clip(1 - distance / REACH, 0, 1)
    near = np.minimum(near * 1.6, 1.0)
    spectrum = np.fft.rfft2(near)[:, None]
    inside = np.fft.irfft2(spectrum * bodies[None], s=(GRID, GRID))
    around = np.fft.irfft2(spectrum * rings[None], s=(GRID, GRID))
    score = inside - around
    # Objects stand on the ground, near the middle: shifts from the template's place.
    allowed = np.full((GRID, GRID), False)
    for dy in range(int(0.02 * GRID), int(0.2 * GRID)):
        allowed[dy, np.arange(-int(0.28 * GRID), int(0.28 * GRID) + 1)] = True
    score = np.where(allowed, score, -1)
    colour, template, dy, dx = np.unravel_index(np.argmax(score), score.shape)
    if score[colour, template, dy, dx] < FOUND:
        return "none", "none", np.zeros((GRID, GRID), np.float32)
    silhouette = np.roll(wholes[template], (dy, dx), (0, 1))
    return names[template][0], list(COLOURS)[colour], silhouette


# --- sky and land ------------------------------------------------------------------


def band_statistics(small: np.ndarray, silhouette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of the sky and of the land, the object's pixels left out."""
    free = silhouette < 0.1
    middle = lambda rows: np.median(small[rows][free[rows]], axis=0)
    sky = [middle(slice(a, b)) for a, b in ((0, 6), (6, 14), (14, 22), (22, 30))]
    land = [middle(slice(a, b)) for a, b in ((32, 38), (40, 46), (46, 52), (52, 58), (58, 64))]
    grey = small.mean(-1)
    both = free[:, 1:] & free[:, :-1]
    steps = np.abs(np.diff(grey, axis=1))
    edges = [steps[a:b][both[a:b]].mean() * 3 for a, b in ((24, 34), (34, 44), (44, 54))]
    spread = [small[a:b][free[a:b]].std(0).mean() for a, b in ((24, 34), (34, 44), (48, 62))]
    return np.concatenate(sky), np.concatenate([*land, edges, spread])


@lru_cache(maxsize=None)
def averages() -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Mean and deviation of both statistics for each sky and land, over scenes drawn here."""
    result = {}
    for i, sky in enumerate(SKIES):
        for j, land in enumerate(LANDS):
            drawn = []
            for k in range(8):
                small = shrink(draw(Scene(sky, land, "none", "none", 10**9 + i * 1000 + j * 100 + k)))
                drawn.append(band_statistics(small, np.zeros((GRID, GRID), np.float32)))
            skies, lands = (np.stack(part) for part in zip(*drawn))
            result[sky, land] = (skies.mean(0), skies.std(0) + 9, lands.mean(0), lands.std(0) + 7)
    return result


def classify(picture: np.ndarray) -> dict[str, str]:
    """Sky, land, object and colour of an RGB picture, [size, size, 3] u8."""
    small = shrink(picture)
    thing, colour, silhouette = find_object(small)
    sky_seen, land_seen = band_statistics(small, silhouette)

    def misfit(seen: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> float:
        # A statistic that is far off says "different", not "how different".
        return float(np.minimum(((seen - mean) / deviation) ** 2, 16.0).mean())

    best = min(averages().items(), key=lambda item: misfit(sky_seen, *item[1][:2]) + misfit(land_seen, *item[1][2:]))
    sky, land = best[0]
    return {"sky": sky, "land": land, "object": thing, "colour": colour}


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))
