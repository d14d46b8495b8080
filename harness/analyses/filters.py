"""The filters of every convolution as pictures, on one scale or on each filter's own (the paper's figure 6)."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from harness.analyses.base import Subject, short
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import DPI, mosaic, opaque_tile, render
from interpret.chain import convolutions
from interpret.filters import filter_pictures

NEEDS = ()

TEXT = """\
Mid-gray is weight zero; black and white are the largest absolute weight, {scale}. A filter of a later convolution has \
a picture for each map that it reads."""


def analyze(subject: Subject) -> Findings:
    pictures, rows = [], []
    for number, layer in enumerate(convolutions(subject.model), start=1):
        weights = subject.model.get_submodule(layer).weight.detach().cpu()
        drawn, limit = filter_pictures(weights, per_filter=subject.per_filter)
        title = f"Filters of convolution {number}: {subject.source}"
        pictures.append(Picture(f"filters_{short(layer)}", draw(drawn.numpy(), limit.numpy(), title), title))
        for index, row in enumerate(weights.double().flatten(1).numpy()):  # (channels * height * width,) each
            rows.append((layer, index, *map(float, (row.mean(), row.std(), np.linalg.norm(row), np.abs(row).max()))))
    header = ("layer", "map", "mean", "std", "norm", "largest")
    scale = "each filter's own" if subject.per_filter else "one scale for all filters of a layer"
    table = Table("filters", f"Weights of each filter, {subject.source}", header, rows)
    return Findings("Filters", TEXT.format(scale=scale), pictures, [table])


def draw(pictures: np.ndarray, limit: np.ndarray, title: str) -> np.ndarray:
    """Filters (maps, channels, height, width) in [0, 1], 0.5 for weight zero, under their numbers, with a scale.

    `limit` is the absolute weight that black and white stand for: one number, or one for each map. One or three
    channels make a picture a filter; other numbers, a sheet with a column for each map and a row for each input.
    """
    return (_draw_grid if pictures.shape[1] in (1, 3) else _draw_sheet)(pictures, limit, title)


def _draw_grid(pictures: np.ndarray, limit: np.ndarray, title: str) -> np.ndarray:
    columns, zoom, gap = 8, 12, 22  # the gap leaves room for the number
    side = pictures.shape[3] * zoom + gap
    sheet = mosaic([opaque_tile(picture) for picture in pictures], columns, zoom=zoom, gap=gap)
    figure = Figure(figsize=(8.6, 7.4 * sheet.shape[0] / sheet.shape[1] + 0.9), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    for number in range(len(pictures)):
        own = f"  ±{limit[number]:.2g}" if limit.ndim else ""
        left, top = number % columns * side, number // columns * (pictures.shape[2] * zoom + gap)
        axes.text(left, top - 3, f"{number}{own}", fontsize=8, va="bottom")
    axes.set_title(title, fontsize=11, pad=20)
    label = "weight of each colour" if pictures.shape[1] == 3 else "weight"
    _draw_scale(figure, limit, label, ax=axes, fraction=0.03, pad=0.02, shrink=0.9)
    return render(figure)


def _draw_sheet(pictures: np.ndarray, limit: np.ndarray, title: str) -> np.ndarray:
    maps, inputs, height, width = pictures.shape
    zoom = max(1, 1152 // (maps * (width + 1)))
    tiles = [opaque_tile(picture[None]) for by_map in pictures.swapaxes(0, 1) for picture in by_map]
    sheet = mosaic(tiles, maps, zoom=zoom, gap=zoom)
    # The axes have as many pixels as the sheet, so that each weight is equally large.
    left, bottom, above, right = 70, 60, 50, 130
    size = np.array([left + sheet.shape[1] + right, bottom + sheet.shape[0] + above])  # width and height in pixels
    figure = Figure(figsize=size / DPI, dpi=DPI)
    axes = figure.add_axes((*(left, bottom) / size, *sheet.shape[1::-1] / size), frameon=False)
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    for axis, count, step in ((axes.xaxis, maps, zoom * (width + 1)), (axes.yaxis, inputs, zoom * (height + 1))):
        numbered = range(0, count, 1 if count <= 16 else 4)
        axis.set_ticks([(number + 0.5) * step for number in numbered], numbered)
    axes.set_title(title, fontsize=11)
    axes.set(xlabel="feature map", ylabel="input map")
    axes.tick_params(length=0, labelsize=8)
    beside = figure.add_axes((1 - (right - 20) / size[0], bottom / size[1], 16 / size[0], sheet.shape[0] / size[1]))
    _draw_scale(figure, limit, "weight", cax=beside)
    return render(figure)


def _draw_scale(figure: Figure, limit: np.ndarray, label: str, **place: object) -> None:
    """What black and white stand for, as a bar."""
    largest = 1.0 if limit.ndim else float(limit) or 1.0
    bar = figure.colorbar(ScalarMappable(Normalize(-largest, largest), "gray"), **place)
    if limit.ndim:
        bar.set_ticks([-1, 0, 1], labels=["−limit", "0", "+limit"])
    bar.set_label(f"{label}, each filter's own limit" if limit.ndim else label)
