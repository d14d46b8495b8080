"""Two drawn image sets for a machine without a network: colored shapes (like CIFAR-10) and digits (like MNIST).

Both are made in a second or two from a fixed seed, each with ten classes that a person can name on sight. They are for
demonstrations and tests; nothing learned on them is a result.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

TRAIN_COUNT, TEST_COUNT = 10_000, 2_000

SHAPES = ("disc", "ring", "square", "frame", "triangle", "cross", "stripes", "checker", "crescent", "star")
DIGITS = tuple("0123456789")

Splits = tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[str, ...]]


def draw_shapes(size: int = 32, seed: int = 0) -> Splits:
    """Draw the ten SHAPES, each with its own place, size, turn, colors and texture.

    Returns ((train images, train labels, test images, test labels), class names): images uint8 (n, 3, size, size),
    labels int64 (n,), as many of each class, in random order.
    """
    random = np.random.default_rng(seed)
    count = TRAIN_COUNT + TEST_COUNT
    labels = random.permutation(np.arange(count) % len(SHAPES))
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    for label, name in enumerate(SHAPES):
        members = np.flatnonzero(labels == label)
        images[members] = _draw_shape(_INSIDE[name], len(members), size, random)
    return (images[:TRAIN_COUNT], labels[:TRAIN_COUNT], images[TRAIN_COUNT:], labels[TRAIN_COUNT:]), SHAPES


def _draw_shape(inside: Callable, count: int, size: int, random: np.random.Generator) -> np.ndarray:
    def draw(low: float, high: float) -> np.ndarray:  # one number an image, for all its pixels
        return random.uniform(low, high, (count, 1, 1)).astype(np.float32)

    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1  # pixel centers in [-1, 1]
    x, y = axis[None, None, :] - draw(-0.15, 0.15), axis[None, :, None] - draw(-0.15, 0.15)
    turn, radius = draw(-0.35, 0.35), draw(0.55, 0.8)
    u = (np.cos(turn) * x + np.sin(turn) * y) / radius  # the shape's own coordinates, its outline about ±1
    v = (np.cos(turn) * y - np.sin(turn) * x) / radius
    edge = np.float32(2.0 / size) / radius  # a pixel, for an edge that is not jagged
    mask = np.clip(0.5 - inside(u, v) / edge, 0, 1)[:, None]  # (count, 1, size, size): 1 within the shape
    texture = 0.12 * np.sin(draw(4, 12) * x + draw(4, 12) * y + draw(0, 6))[:, None]  # faint waves
    # Light on dark, each with tints of its own; the mean of all images is about mid-gray, as photographs have it.
    front, back = (
        lightness + random.uniform(-0.2, 0.2, (count, 3, 1, 1)).astype(np.float32) for lightness in (0.80, 0.35)
    )
    front, back = front + texture, back - texture
    noise = random.normal(0, 0.03, (count, 3, size, size)).astype(np.float32)
    return np.rint(np.clip(mask * front + (1 - mask) * back + noise, 0, 1) * 255).astype(np.uint8)


# Each function is negative inside its shape and about the distance to the outline, in the shape's coordinates.
def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _disc(u: np.ndarray, v: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - radius


_INSIDE = {
    "disc": lambda u, v: _disc(u, v, 0.95),
    "ring": lambda u, v: np.abs(_disc(u, v, 0.75)) - 0.2,
    "square": lambda u, v: _box(u, v, 0.85, 0.85),
    "frame": lambda u, v: np.abs(_box(u, v, 0.72, 0.72)) - 0.18,
    "triangle": lambda u, v: np.maximum(0.87 * np.abs(u) + 0.5 * -v - 0.5, v - 0.7),
    "cross": lambda u, v: np.minimum(_box(u, v, 1.0, 0.28), _box(u, v, 0.28, 1.0)),
    "stripes": lambda u, v: np.maximum(_box(u, v, 1.0, 1.0), np.abs((v + 1) % 0.8 - 0.4) - 0.2),
    "checker": lambda u, v: np.maximum(_box(u, v, 1.0, 1.0), 0.3 * np.sign(u) * np.sign(v)),
    "crescent": lambda u, v: np.maximum(_disc(u, v, 0.95), 0.75 - np.sqrt((u - 0.45) ** 2 + v * v)),
    "star": lambda u, v: _disc(u, v, 0.72 + 0.38 * np.cos(5 * np.arctan2(u, -v))),
}


def draw_digits(size: int = 28, seed: int = 0) -> Splits:
    """Draw the ten digits in the fonts that Matplotlib ships, each moved, turned, sheared, scaled and blurred.

    Returns ((train images, train labels, test images, test labels), class names): images uint8 (n, 1, size, size),
    light on black as in MNIST, labels int64 (n,), as many of each class, in random order.
    """
    glyphs = _glyphs()  # (fonts, 10, height, width) in [0, 1]
    random = np.random.default_rng(seed)
    count = TRAIN_COUNT + TEST_COUNT
    labels = random.permutation(np.arange(count) % 10)
    fonts = random.integers(len(glyphs), size=count)
    images = np.empty((count, 1, size, size), dtype=np.uint8)
    for start in range(0, count, 2000):  # in parts, to need less memory
        here = slice(start, min(start + 2000, count))
        images[here, 0] = _place(glyphs[fonts[here], labels[here]], size, random)
    return (images[:TRAIN_COUNT], labels[:TRAIN_COUNT], images[TRAIN_COUNT:], labels[TRAIN_COUNT:]), DIGITS


def _glyphs(box: int = 40) -> np.ndarray:
    """The ten digits in each font, (fonts, 10, box, box) float32 in [0, 1], 28 pixels high and centered."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = [f"DejaVu{family}{style}" for family in ("Sans", "SansMono") for style in ("", "-Bold", "-Oblique")]
    names += ["DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "cmr10"]
    glyphs = np.zeros((len(names), 10, box, box), dtype=np.float32)
    for row, name in zip(glyphs, names, strict=True):
        font = ImageFont.truetype(folder / f"{name}.ttf", size=36)
        for digit in range(10):
            page = Image.new("L", (100, 100))
            ImageDraw.Draw(page).text((30, 30), str(digit), fill=255, font=font)
            glyph = page.crop(page.getbbox())
            width = max(1, round(glyph.width * 28 / glyph.height))
            top, left = (box - 28) // 2, (box - width) // 2
            row[digit, top : top + 28, left : left + width] = np.asarray(glyph.resize((width, 28))) / np.float32(255)
    return glyphs


def _place(glyphs: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Each glyph (n, box, box) through its own affine map, read off bilinearly: uint8 (n, size, size)."""
    count, box, _ = glyphs.shape

    def draw(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, (count, 1, 1)).astype(np.float32)

    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    x, y = axis[None, None, :] - draw(-2.5, 2.5), axis[None, :, None] - draw(-2.5, 2.5)
    turn, shear, scale = draw(-0.25, 0.25), draw(-0.2, 0.2), draw(1.25, 1.6)  # glyphs are 28 high: 17 to 22 after this
    u = scale * (np.cos(turn) * x + np.sin(turn) * y)
    v = scale * (np.cos(turn) * y - np.sin(turn) * x)
    u = np.clip(u + shear * v + (box - 1) / 2, 0, box - 1.001)
    v = np.clip(v + (box - 1) / 2, 0, box - 1.001)
    left, top = u.astype(np.int64), v.astype(np.int64)
    right_share, lower_share = u - left, v - top
    image = np.arange(count)[:, None, None]
    upper = glyphs[image, top, left] * (1 - right_share) + glyphs[image, top, left + 1] * right_share
    lower = glyphs[image, top + 1, left] * (1 - right_share) + glyphs[image, top + 1, left + 1] * right_share
    drawn = upper * (1 - lower_share) + lower * lower_share
    padded = np.pad(drawn, ((0, 0), (1, 1), (1, 1)))
    blurred = sum(
        weight * padded[:, 1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size]
        for dy, dx, weight in [(0, 0, 0.4), (-1, 0, 0.15), (1, 0, 0.15), (0, -1, 0.15), (0, 1, 0.15)]
    )
    noise = random.normal(0, 0.02, blurred.shape).astype(np.float32)
    return np.rint(np.clip(blurred * draw(0.8, 1.15) + noise, 0, 1) * 255).astype(np.uint8)
