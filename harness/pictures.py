"""Pixels: the one PNG encoder, the one maker of tile sheets, and what a training shows in TensorBoard.

A picture is uint8 (height, width, 3), or (height, width) in gray. The pictures of a look inside a network are drawn in
harness/analyses/, with the tiles made here: float RGBA (height, width, 4) in [0, 1], whose gaps are transparent.
"""

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Matplotlib's own defaults, for whatever draws: a user's matplotlibrc may ask for LaTeX or for sizes that fit nowhere.
# Without the backend, since looking at that entry imports all of pyplot.
PLAIN = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
in_plain_style = matplotlib.rc_context(PLAIN)

SHARPNESS = 2  # pixels of a PNG for one of a page: as many as a screen of high density shows
DPI = SHARPNESS * 110  # of the figures of a look inside: 8 inches are the 880 pixels of a README's text


def png_bytes(pixels: np.ndarray, *, colors: int | None = 256) -> bytes:
    """Encode uint8 (height, width) or (height, width, 3) as PNG, with at most `colors` colors: so it is smaller."""
    picture, content = Image.fromarray(pixels), io.BytesIO()
    if pixels.ndim == 3 and colors:
        picture = picture.quantize(colors, dither=Image.Dither.NONE)
    picture.save(content, format="PNG", optimize=True)
    return content.getvalue()


def render(figure: Figure) -> np.ndarray:
    """The figure as pixels, uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


# -- tiles -------------------------------------------------------------------------------------------------------------


def opaque_tile(values: np.ndarray) -> np.ndarray:
    """Values (channels, height, width) in [0, 1] as a tile: three channels in color, others their mean in gray."""
    if values.shape[0] != 3:
        values = values.mean(axis=0, keepdims=True).repeat(3, axis=0)
    return np.pad(values.transpose(1, 2, 0), ((0, 0), (0, 0), (0, 1)), constant_values=1)  # (height, width, 4)


def image_tile(pixels: np.ndarray) -> np.ndarray:
    """An image uint8 (1 or 3 channels, height, width) as a tile."""
    return opaque_tile(pixels.astype(np.float32) / 255)


def signed_tile(values: np.ndarray) -> np.ndarray:
    """Signed values (channels, height, width) as a tile: 0 is mid-gray, the largest absolute value white or black."""
    limit = 2 * np.abs(values).max() or 1.0
    return opaque_tile((0.5 + values / limit).clip(0, 1))


def framed(tile: np.ndarray, color: tuple) -> np.ndarray:
    """The tile within a line of one pixel of `color` (RGBA)."""
    height, width, _ = tile.shape
    frame = np.full((height + 2, width + 2, 4), color, dtype=np.float32)
    frame[1:-1, 1:-1] = tile
    return frame


def padded(tile: np.ndarray, size: tuple[int, int], *, top: bool, left: bool) -> np.ndarray:
    """The tile in a transparent one of `size` (height, width); `top` and `left` say where the room is added."""
    rows, columns = max(0, size[0] - tile.shape[0]), max(0, size[1] - tile.shape[1])
    return np.pad(tile, ((rows, 0) if top else (0, rows), (columns, 0) if left else (0, columns), (0, 0)))


def mosaic(
    tiles: Sequence[np.ndarray], columns: int, *, zoom: int = 4, gap: int = 2, margin: int = 0, ground: float = 0
) -> np.ndarray:
    """Tiles (height, width, channels) of one size as a sheet, row by row, each pixel `zoom` pixels wide.

    Between the tiles are `gap` pixels of the value `ground`, around them all `margin`.
    """
    tiles = [tile.repeat(zoom, axis=0).repeat(zoom, axis=1) for tile in tiles]
    height, width, channels = tiles[0].shape
    rows = math.ceil(len(tiles) / columns)
    size = rows * (height + gap) - gap + 2 * margin, columns * (width + gap) - gap + 2 * margin
    sheet = np.full((*size, channels), ground, dtype=tiles[0].dtype)
    for index, tile in enumerate(tiles):
        top, left = margin + index // columns * (height + gap), margin + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def filters_grid(weights: np.ndarray, zoom: int = 8) -> np.ndarray:
    """Convolution filters (n, channels, height, width) as one sheet, 8 in a row, gray or, with three channels, color.

    One scale for all: mid-gray is zero, black and white are the largest absolute weight.
    """
    if weights.shape[1] != 3:
        weights = weights.mean(axis=1, keepdims=True)
    largest = np.abs(weights).max() or 1.0
    pixels = np.rint(127.5 + 127.5 * weights / largest).clip(0, 255).astype(np.uint8)
    # (height, width) in gray
    return mosaic(list(pixels.transpose(0, 2, 3, 1)), 8, zoom=zoom, gap=4, margin=4, ground=255).squeeze()


@in_plain_style
def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str) -> np.ndarray:
    """The confusion matrix and each class's accuracy. `counts` (classes, classes): row true class, column answer."""
    counts = np.asarray(counts)
    few = len(classes) <= 20  # else there is no room for numbers in the cells
    figure = Figure(figsize=(7.4, 6.6), dpi=SHARPNESS * 80, layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts) if few else ():
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=8)
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}  # words would run into each other
    axes.set_xticks(range(len(classes)), classes, **slanted if max(map(len, classes)) > 2 else {})
    shares_right = shares.diagonal()
    axes.set_yticks(range(len(classes)), [f"{n}  {share:.0%}" for n, share in zip(classes, shares_right, strict=True)])
    axes.tick_params(labelsize=10 if few else 4)
    axes.set(xlabel="classified as", ylabel="true class and its accuracy", title=title)
    figure.colorbar(shown, label="share of the true class", shrink=0.8)
    return render(figure)


@in_plain_style
def worst_figure(
    images: np.ndarray, labels: Sequence, answers: Sequence, probabilities: Sequence, classes: Sequence[str], title: str
) -> np.ndarray:
    """A sheet of the test images with the largest loss, worst first.

    `images` (n, channels, height, width) uint8; under each picture stand the true class, the network's answer (numbers
    of classes) and the probability that it gave the true class.
    """
    rows = max(1, math.ceil(len(images) / 6))
    figure = Figure(figsize=(8.2, 1.7 * rows + 0.4), dpi=90, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, 6, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, answer, probability in zip(grid, images, labels, answers, probabilities, strict=False):
        shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        answered = classes[label] + (f", not {classes[answer]}" if answer != label else "")
        text = f"{answered}\np = {probability:.1g}"
        axes.text(0.5, -0.05, text, transform=axes.transAxes, fontsize=7, ha="center", va="top")
    return render(figure)
