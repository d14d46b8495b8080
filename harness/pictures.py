"""Pictures of a run: its curves, the confusion matrix, the worst-classified images, the first layer's filters.

Each function returns pixels, uint8 (height, width, 3) or (height, width); `python -m harness.pictures RUN… --out
FILE.png` draws the curves of finished runs side by side, as at the top of the README.
"""

import argparse
import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from harness.cli import run_script
from harness.errors import UserError
from harness.files import write_atomically

CURVES = ("epoch", "train/loss", "train/accuracy", "test/loss", "test/accuracy")  # columns of metrics.csv
TRAIN_COLOUR, TEST_COLOUR = "#4269d0", "#e4572e"

# Decorates what draws: a user's matplotlibrc may ask for LaTeX, which may not be there, or for sizes that fit nowhere.
# Without the backend, which is not drawn with: to look at it imports all of pyplot and the user's own styles.
PLAIN = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
in_plain_style = matplotlib.rc_context(PLAIN)


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode uint8 (height, width) or (height, width, 3) as a small PNG (at most 256 colours)."""
    picture = Image.fromarray(pixels)
    if pixels.ndim == 3:
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


@in_plain_style
def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str) -> np.ndarray:
    """The confusion matrix as a picture. `counts` (classes, classes): rows are the true class, columns the answer."""
    counts = np.asarray(counts)
    figure = Figure(figsize=(7.4, 6.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes)
    if max(map(len, classes)) > 2:  # words would run into each other
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="classified as", ylabel="true class", title=title)
    figure.colorbar(shown, label="share of the true class", shrink=0.8)
    return render(figure)


@in_plain_style
def worst_figure(
    images: np.ndarray,
    labels: Sequence[int],
    answers: Sequence[int],
    probabilities: Sequence[float],
    classes: Sequence[str],
    title: str,
) -> np.ndarray:
    """A sheet of the test images with the largest loss, worst first.

    `images` (n, channels, height, width) uint8; under each picture stand the true class, the network's answer and the
    probability that it gave the true class.
    """
    columns = 6
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(8.2, 1.7 * rows + 0.4), dpi=90, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, answer, probability in zip(grid, images, labels, answers, probabilities, strict=False):
        axes.imshow(_show(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        text = f"{classes[label]}, not {classes[answer]}" if label != answer else f"{classes[label]}"
        axes.text(
            0.5, -0.05, f"{text}\np = {probability:.1g}", transform=axes.transAxes, fontsize=7, ha="center", va="top"
        )
    return render(figure)


def filters_grid(weights: np.ndarray, zoom: int = 8) -> np.ndarray:
    """Convolution filters (n, channels, height, width) as one sheet, 8 in a row, gray or, with three channels, colour.

    One scale for all: mid-gray is zero, black and white are the largest absolute weight.
    """
    weights = np.asarray(weights, dtype=np.float32)
    if weights.shape[1] != 3:
        weights = weights.mean(axis=1, keepdims=True)
    largest = float(np.abs(weights).max())
    scaled = np.rint(127.5 + 127.5 * weights / (largest or 1.0)).clip(0, 255).astype(np.uint8)
    tiles = scaled.repeat(zoom, axis=2).repeat(zoom, axis=3).transpose(0, 2, 3, 1)  # (n, height, width, channels)
    count, height, width, channels = tiles.shape
    columns, gap = 8, 4
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet[:, :, 0] if channels == 1 else sheet


@in_plain_style
def curves_figure(runs: Sequence[tuple[str, dict[str, list[float]]]]) -> np.ndarray:
    """Loss and accuracy over epochs, a column a run: `runs` holds (title, columns of its metrics.csv)."""
    figure = Figure(figsize=(4.6 * len(runs), 5.6), dpi=110, layout="constrained")
    grid = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, (title, metrics) in enumerate(runs):
        for row, quantity in enumerate(("loss", "accuracy")):
            axes = grid[row, column]
            for split, colour in (("train", TRAIN_COLOUR), ("test", TEST_COLOUR)):
                axes.plot(metrics["epoch"], metrics[f"{split}/{quantity}"], color=colour, label=split, marker=".")
            axes.set_ylabel("cross-entropy" if quantity == "loss" else "accuracy")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        grid[0, column].set_title(title, fontsize=11, parse_math=False)  # a run may be named "$^$"
        grid[1, column].set_xlabel("epoch")
        grid[1, column].xaxis.get_major_locator().set_params(integer=True)
        grid[0, column].legend(frameon=False)
    return render(figure)


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns of a metrics.csv by their names. UserError if it cannot be read or holds no epoch."""
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        columns = {name: [float(row[name]) for row in rows] for name in CURVES}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not the metrics of a run: one needs numbers under {', '.join(CURVES)}") from error
    if not rows:
        raise UserError(f"{path} holds no epoch yet")
    return columns


def _show(image: np.ndarray) -> np.ndarray:
    return image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)


def render(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the curves of finished runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args()
    runs = [(f"{run.parent.name}\n{run.name}", read_metrics(run / "metrics.csv")) for run in arguments.runs]
    write_atomically(arguments.out, png_bytes(curves_figure(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
