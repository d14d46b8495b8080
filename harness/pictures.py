"""How every figure looks, how it becomes PNG or SVG, the tiles of images, and what a training shows in TensorBoard.

A picture is uint8 (height, width, 3), or (height, width) in gray. A tile is float RGBA (height, width, 4) in [0, 1];
the gaps between tiles are transparent. harness/analyses/ and harness/report/charts.py draw the figures.

Matplotlib draws for a light ground; a style sheet put into an SVG replaces each color by its twin where the reader's
system is dark. That works in an <img> of a README as in a page, and every other viewer sees the light picture.
"""

import base64
import io
import math
import re
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK, FAINT, GRID, GROUND = "#1b1f24", "#59636e", "#d9dfe5", "#ffffff"
TINT = "#dde6f4"  # behind tiles, so that white and black ones are both seen
TRAIN, TEST, THIRD, FOURTH, FIFTH = "#3a62c9", "#d95319", "#00875a", "#8a4fbf", "#a87b00"
DARK = {INK: "#e6edf3", FAINT: "#9198a1", GRID: "#2f353d", GROUND: "#0d1117", TINT: "#2b3442"}
DARK |= {TRAIN: "#7d9cf0", TEST: "#ff8c5a", THIRD: "#3fc08f", FOURTH: "#c297ef", FIFTH: "#dcb13c"}
SERIES = (TEST, TRAIN, THIRD, FOURTH, FIFTH, FAINT)  # distinct to the color-blind; line styles help

# Matplotlib's own defaults first: a user's matplotlibrc may ask for LaTeX or for sizes that fit nowhere. Without the
# backend, since looking at that entry imports all of pyplot.
STYLE = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"} | {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "image.composite_image": False,  # each image in an SVG keeps its own pixels
    "figure.dpi": 72,  # points are pixels in SVG
    "figure.facecolor": GROUND,
    "figure.titlesize": 9.5,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a row may be called "$^$"
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": GROUND,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
for _ticks in ("xtick", "ytick"):  # without marks: the grid lines are enough
    STYLE |= {f"{_ticks}.color": FAINT, f"{_ticks}.labelcolor": INK}
    STYLE |= {f"{_ticks}.major.size": 0.0, f"{_ticks}.minor.size": 0.0}
in_style = matplotlib.rc_context(STYLE)  # decorates what draws

SHARPNESS = 2  # pixels of a PNG for one of a page: as many as a screen of high density shows
DPI = SHARPNESS * 110  # of the PNGs of a look inside: 8 inches are the 880 pixels of a README's text


class Drawing(NamedTuple):
    """A figure as pixels, uint8 (height, width, 3), for a light ground, and as SVG for both."""

    pixels: np.ndarray
    svg: bytes


def both(figure: Figure) -> Drawing:
    return Drawing(render(figure), svg(figure))


def title_lines(title: str, width: float) -> list[str]:
    """The title broken into lines of at most `width` inches."""
    return textwrap.wrap(title, max(12, int(width / 0.085)))  # a letter takes 0.085 inches


def titled_figure(title: str, width: float, height: float, layout: str | None = "constrained") -> Figure:
    """A figure of so many inches with the title at its upper left."""
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle("\n".join(title_lines(title, width)), x=0.1 / width, ha="left")
    return figure


def for_tiles(axes: Axes) -> None:
    """Make it the ground of tiles, without ticks, frame and grid."""
    axes.set(xticks=[], yticks=[], facecolor=TINT)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def png_bytes(pixels: np.ndarray, *, colors: int | None = 256) -> bytes:
    """Encode uint8 (height, width) or (height, width, 3) as PNG, with at most `colors` colors: so it is smaller."""
    picture, content = Image.fromarray(pixels), io.BytesIO()
    if pixels.ndim == 3 and colors:
        picture = picture.quantize(colors, dither=Image.Dither.NONE)
    picture.save(content, format="PNG", optimize=True)
    return content.getvalue()


def render(figure: Figure, dpi: int = DPI) -> np.ndarray:
    """The figure as pixels, uint8 (height, width, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def svg(figure: Figure) -> bytes:
    """The figure as SVG whose colors follow a dark page; the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the viewer's font will have it
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata)
    drawing = buffer.getvalue().decode()
    # Smaller: one decimal in place of six, two in curves; no names of groups, no groups of nothing else, no turns by
    # nothing, no line breaks; short names of what is referred to.
    places = r' (?:d|x|y|transform)="(?!matrix|[^"]*C)[^"]*"'
    drawing = re.sub(places, lambda part: re.sub(r"(\.\d)\d+", r"\1", part[0]), drawing)
    drawing = re.sub(r' d="[^"]*C[^"]*"', lambda part: re.sub(r"(\.\d\d)\d+", r"\1", part[0]), drawing)
    drawing = re.sub(r' transform="rotate\(-0 [^"]*"|(?<=>)\s+(?=<)|\s*\n', "", drawing)
    drawing = drawing[drawing.index("<svg") :].replace("font-family: 'DejaVu Sans'; ", "")
    drawing = re.sub(r'(?<=base64,)[^"]*', lambda content: _smaller_png(content[0]), drawing)
    drawing = re.sub(r'<g id="[\w.]+"', "<g", drawing)
    for _ in range(4):  # from within
        drawing = re.sub(r"<g/>|<g>((?:(?!</?g\b).)*)</g>", r"\1", drawing)
    numbers: dict[str, int] = defaultdict(lambda: len(numbers))
    drawing = re.sub(r'((?:#|id=")[mp])([0-9a-f]{10})', lambda part: f"{part[1]}{numbers[part[2]]}", drawing)
    # A class for each style, whose rule stands once in the style sheet, and again with its colors for a dark ground.
    styles: dict[str, int] = defaultdict(lambda: len(styles))
    drawing = re.sub(r'(<[^>]*) style="([^"]*)"', lambda tag: f'{tag[1]} class="c{styles[tag[2]]}"', drawing)
    rules = "".join(f".c{number}{{{re.sub(r'(?<=[:;]) ', '', style)}}}" for style, number in styles.items())
    colors = ((number, re.findall(r"(\S+): (#\w+)", style)) for style, number in styles.items())
    dark = "".join(
        f".c{number}{{{';'.join(f'{what}:{DARK.get(color, color)}' for what, color in found)}}}"
        for number, found in colors
        if found
    )
    fonts = "text{font-family:'DejaVu Sans',Verdana,sans-serif}"
    # `screen`, because paper is white for everybody.
    sheet = f"{fonts}{rules}@media screen and (prefers-color-scheme:dark){{{dark}}}</style>"
    return drawing.replace("</style>", sheet, 1).encode()


def _smaller_png(base64_content: str) -> str:
    """The same picture in fewer bytes: gray ones without colors."""
    picture, content = Image.open(io.BytesIO(base64.b64decode(base64_content))), io.BytesIO()
    red, green, blue, alpha = picture.convert("RGBA").split()
    gray = red == green == blue
    (Image.merge("LA", (red, alpha)) if gray else picture).save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


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


@in_style
def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str) -> np.ndarray:
    """The confusion matrix and each class's accuracy. `counts` (classes, classes): row true class, column answer."""
    return render(_draw_confusion(counts, classes, title), dpi=SHARPNESS * 80)


@in_style
def confusion_svg(counts: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    return svg(_draw_confusion(counts, classes, title))


def _draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    counts = np.asarray(counts)
    few = len(classes) <= 20  # else there is no room for numbers in the cells
    figure = titled_figure(title, 8, 6.6)
    axes = figure.subplots()
    for_tiles(axes)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    for (row, column), count in np.ndenumerate(counts) if few else ():
        color = "#f7fbff" if shares[row, column] > 0.55 else "#08306b"  # the ends of the color scale, in both themes
        axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}  # words would run into each other
    axes.set_xticks(range(len(classes)), classes, **slanted if max(map(len, classes)) > 2 else {})
    shares_right = shares.diagonal()
    axes.set_yticks(range(len(classes)), [f"{n}  {share:.0%}" for n, share in zip(classes, shares_right, strict=True)])
    axes.tick_params(labelsize=9 if few else 4)
    axes.set(xlabel="classified as", ylabel="true class and its accuracy")
    figure.colorbar(shown, label="share of the true class", shrink=0.8)
    return figure


@in_style
def worst_figure(
    images: np.ndarray, labels: Sequence, answers: Sequence, probabilities: Sequence, classes: Sequence[str], title: str
) -> np.ndarray:
    """A sheet of the test images with the largest loss, worst first.

    `images` (n, channels, height, width) uint8; under each picture stand the true class, the network's answer (numbers
    of classes) and the probability that it gave the true class.
    """
    rows = max(1, math.ceil(len(images) / 6))
    figure = titled_figure(title, 8.2, 1.7 * rows + 0.4)
    grid = figure.subplots(rows, 6, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, answer, probability in zip(grid, images, labels, answers, probabilities, strict=False):
        shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="none")
        answered = classes[label] + (f", not {classes[answer]}" if answer != label else "")
        text = f"{answered}\np = {probability:.1g}"
        axes.text(0.5, -0.05, text, transform=axes.transAxes, fontsize=7, ha="center", va="top")
    return render(figure, dpi=90)
