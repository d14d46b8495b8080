"""The strongest activations of some maps, each projected to pixels, beside the image's part that it sees (figure 2)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from harness.analyses.base import STRONGEST, Subject, short
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import (
    FAINT,
    Drawing,
    both,
    for_tiles,
    image_tile,
    mosaic,
    padded,
    signed_tile,
    title_lines,
    titled_figure,
)
from interpret.deconvnet import Activations, receptive_fields, reconstruct, strongest_activations

NEEDS = ("images",)
MAPS_SHOWN = 12  # of each convolution, if --maps names none

TEXT = """\
Zeiler & Fergus, section 2.1 and figure 2. {what} Left what the deconvnet projects back to the pixels (each on its own \
scale, mid-gray is zero), right the part of the image that the activation depends on."""
OF_MAPS = """\
For each feature map, its strongest activations over {images}, at most one an image; the number is the strongest. \
Maps are those of --maps, or those with the largest activations."""
OF_PICTURES = "For each picture, the feature maps with the largest activations in it, the strongest first."


def analyze(subject: Subject) -> Findings:
    pictures, rows = [], []
    for convolution, layer in subject.layers.items():
        headings, maps, *where = by_picture(subject, layer) if subject.own else by_map(subject, convolution, layer)
        pixels = reconstruct(subject.model, subject.inputs[where[0]], layer, maps, *where[1:3]).cpu()
        found = Activations(*where, pixels)
        projected, patches = activation_tiles(subject, layer, found)
        count = len(maps) // len(headings)
        groups = [slice(start, start + count) for start in range(0, len(maps), count)]
        entries = [(heading, projected[here], patches[here]) for heading, here in zip(headings, groups, strict=True)]
        title = f"Strongest activations of {short(convolution)}, projected to pixels: {subject.source}"
        pictures.append(Picture(f"deconvnet_{short(convolution)}", draw(entries, title), title))
        rows += activation_rows(subject, layer, maps.tolist(), [*range(1, count + 1)] * len(headings), found)
    header = ("layer", "map", "rank", subject.image_column, "class", "row", "column", "activation")
    table = Table("deconvnet", f"Strongest activations, {subject.source}", header, rows)
    what = OF_PICTURES if subject.own else OF_MAPS.format(images=subject.searched_images)
    text = TEXT.format(what=what) + subject.not_shown
    return Findings("Deconvnet", text, pictures, [table])


def by_map(subject: Subject, convolution: str, layer: str) -> tuple:
    """A heading for each chosen map; and of its strongest activations map, image, row, column and value, (n,) each."""
    strongest, maps = subject.strongest[layer], subject.chosen_maps(convolution, MAPS_SHOWN)
    peaks = [float(strongest.values[number, 0]) for number in maps]
    headings = [
        f"map {number}: " + (f"{peak:.3g}" if peak > 0 else "dead") for number, peak in zip(maps, peaks, strict=True)
    ]
    numbers = torch.tensor(maps).repeat_interleave(strongest.values.shape[1])
    return headings, numbers, *(field[maps].flatten() for field in strongest)


def by_picture(subject: Subject, layer: str) -> tuple:
    """The same of each own picture: the maps that respond to it most, each at its strongest position."""
    headings, parts = [], []
    for index, name in enumerate(subject.own):
        found = strongest_activations(subject.model, subject.inputs[index : index + 1], [layer], count=1)[layer]
        maps = found.values[:, 0].topk(min(STRONGEST, len(found.values))).indices
        headings.append(f"{name}\nmaps {' '.join(map(str, maps.tolist()))}")
        places = (field[maps, 0] for field in (found.rows, found.columns, found.values))
        parts.append((maps, torch.full_like(maps, index), *places))
    return headings, *map(torch.cat, zip(*parts, strict=True))


def activation_rows(
    subject: Subject, layer: str, maps: Sequence[int], orders: Sequence[int], found: Activations
) -> list[tuple]:
    """A row of the deconvnet's and the evolution's table for each activation; `orders` are ranks or epochs."""
    images, *columns = (field.tolist() for field in found[:4])  # image, row, column and value
    classes = [subject.images.classes[subject.images.test.labels[image]] for image in images]
    names = map(subject.image_name, images)
    return [(layer, *row) for row in zip(maps, orders, names, classes, *columns, strict=True)]


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


def draw(entries: Sequence[tuple[str, list, list]], title: str) -> Drawing:
    """For each map its projections (left) and the image patches that they come from (right), four in a row.

    `entries` holds (heading, projection tiles, patch tiles) a map or picture, all tiles of one size.
    """
    columns = min(4, len(entries))
    rows, headroom = math.ceil(len(entries) / columns), 0.36 + 0.14 * ("\n" in entries[0][0])  # inches above each
    width = 1.98 * columns + 0.08
    top = 0.15 + 0.2 * len(title_lines(title, width)) + headroom
    figure = titled_figure(title, width, rows * 0.93 + (rows - 1) * headroom + top + 0.08, layout=None)
    set_margins(figure, top=top, bottom=0.08, left=0.08, right=0.08)
    gaps = {"wspace": 0.05, "hspace": headroom / 0.93}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=gaps).ravel()
    for axes in grid[len(entries) :]:
        axes.set_axis_off()
    for axes, (heading, projections, patches) in zip(grid, entries, strict=False):
        left, right = mosaic(projections, 3, margin=2), mosaic(patches, 3, margin=2)
        gutter = np.zeros((len(left), 8, 4), dtype=np.float32)
        axes.imshow(np.concatenate([left, gutter, right], axis=1), interpolation="none")
        for_tiles(axes)
        axes.set_title(heading, pad=12)
        for label, middle in (("reconstruction", left.shape[1] / 2), ("image", left.shape[1] * 1.5 + 8)):
            axes.text(middle, -3, label, fontsize=8, ha="center", va="bottom", color=FAINT)
    return both(figure)


def set_margins(figure: Figure, *, top: float, bottom: float, left: float, right: float) -> None:
    """Margins in inches, for figures of many small axes, which an automatic layout would take seconds for."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(top=1 - top / height, bottom=bottom / height, left=left / width, right=1 - right / width)
