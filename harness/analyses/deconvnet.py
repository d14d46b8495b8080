"""The strongest activations of some maps, each projected to pixels, with the image patches they see (figure 2)."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from harness.analyses.base import Subject, short
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import DPI, image_tile, mosaic, padded, render, signed_tile
from interpret.deconvnet import Activations, receptive_fields, reconstruct

NEEDS = ("images",)
MAPS_SHOWN = 12  # of each convolution, if --maps names none
TINT = "#dde6f4"  # of the ground behind tiles, which may be white themselves

TEXT = """\
Zeiler & Fergus, section 2.1 and figure 2. For each feature map, its strongest activations over the test set, at most \
one an image: left what the deconvnet projects back to the pixels (each on its own scale, mid-gray is zero), right the \
part of the image that the activation depends on. The number is the strongest activation. Maps are those of --maps, or \
drawn at random from those that respond."""


def analyze(subject: Subject) -> Findings:
    pictures, rows = [], []
    for convolution, layer in subject.layers.items():
        strongest, maps = subject.strongest[layer], subject.chosen_maps(convolution, MAPS_SHOWN)
        count = strongest.values.shape[1]
        numbers = torch.tensor(maps).repeat_interleave(count)  # (maps * count,)
        images, *places, values = (field[maps].flatten() for field in strongest)
        pixels = reconstruct(subject.model, subject.inputs[images], layer, numbers, *places).cpu()
        found = Activations(images, *places, values, pixels)
        projected, patches = activation_tiles(subject, layer, found)
        entries = []
        for index, number in enumerate(maps):
            value, here = float(strongest.values[number, 0]), slice(index * count, (index + 1) * count)
            heading = f"map {number}: {value:.3g}" if value > 0 else f"map {number}: dead"
            entries.append((heading, projected[here], patches[here]))
        title = f"Strongest activations of {short(convolution)}, projected to pixels: {subject.source}"
        pictures.append(Picture(f"deconvnet_{short(convolution)}", draw(entries, title), title))
        rows += activation_rows(subject, layer, numbers.tolist(), [*range(1, count + 1)] * len(maps), found)
    header = ("layer", "map", "rank", "test image", "class", "row", "column", "activation")
    table = Table("deconvnet", f"Strongest activations over the test set, {subject.source}", header, rows)
    return Findings("Deconvnet", TEXT, pictures, [table])


def activation_rows(
    subject: Subject, layer: str, maps: Sequence[int], orders: Sequence[int], found: Activations
) -> list[tuple]:
    """A row of the deconvnet's and the evolution's table for each activation; `orders` are ranks or epochs."""
    images, *columns = (field.tolist() for field in found[:4])  # image, row, column and value
    classes = [subject.images.classes[subject.images.test.labels[image]] for image in images]
    return [(layer, *row) for row in zip(maps, orders, images, classes, *columns, strict=True)]


def activation_tiles(subject: Subject, layer: str, found: Activations) -> tuple[list, list]:
    """Each activation's projection and image patch as tiles of one size; blank where a map has no more activations.

    Both are cropped to the activation's receptive field. One that the border cuts off is filled up on that side.
    """
    places = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    boxes = receptive_fields(subject.model, subject.inputs, layer, places)
    size = max(box.bottom - box.top for box in boxes.values()), max(box.right - box.left for box in boxes.values())
    projected, patches = [], []
    for pixels, image, place, value in zip(found.pixels, found.images, places, found.values, strict=True):
        top, left, bottom, right = boxes[place]
        here = np.s_[:, top:bottom, left:right]
        tiles = signed_tile(pixels[here].numpy()), image_tile(subject.images.test.images[image][here].numpy())
        for kind, tile in zip((projected, patches), tiles, strict=True):
            kind.append(padded(tile, size, top=top == 0, left=left == 0) * float(value > 0))
    return projected, patches


def draw(entries: Sequence[tuple[str, list, list]], title: str) -> np.ndarray:
    """For each map its projections (left) and the image patches that they come from (right), four maps in a row.

    `entries` holds (heading, projection tiles, patch tiles) a map, all tiles of one size.
    """
    columns = min(4, len(entries))
    rows = math.ceil(len(entries) / columns)
    width = 2.5 * columns + 0.1
    lines = textwrap.wrap(title, max(12, int(width / 0.105)))  # a letter of a title takes 0.105 inches
    figure = Figure(figsize=(width, 1.42 * rows + 0.3 + 0.2 * len(lines)), dpi=DPI, facecolor=TINT)
    figure.suptitle("\n".join(lines), fontsize=11, y=1 - 0.1 / figure.get_figheight(), va="top")
    set_margins(figure, top=0.35 + 0.2 * len(lines), bottom=0.08, left=0.08, right=0.08)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.16}).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (heading, projections, patches) in zip(grid, entries, strict=False):
        left, right = mosaic(projections, 3), mosaic(patches, 3)
        gutter = np.zeros((len(left), 8, 4), dtype=np.float32)
        axes.imshow(np.concatenate([left, gutter, right], axis=1), interpolation="nearest")
        axes.set_title(heading, fontsize=8.5, pad=3)
    return render(figure)


def set_margins(figure: Figure, *, top: float, bottom: float, left: float, right: float) -> None:
    """Margins in inches, for figures of many small axes, which an automatic layout would take seconds for."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(top=1 - top / height, bottom=bottom / height, left=left / width, right=1 - right / width)
