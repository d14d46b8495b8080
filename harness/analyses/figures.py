"""The figures of visualize.py: what interpret/ computed, as pixels uint8 (height, width, 3).

Pictures within a figure are tiles: float RGBA (height, width, 4) in [0, 1], made by `image_tile` and `signed_tile` and
put together by `mosaic`. Where a result object of interpret/ is asked for, only its named fields are used.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from harness.pictures import in_plain_style, render

DPI = 110
TINT = "#dde6f4"  # of the ground behind tiles, which may be white themselves
IMAGE_COLOURS = [colormaps["tab10"](index) for index in range(10)]  # of the curves of single images
PART_COLOURS = ("#4269d0", "#97bbf5", "#e4572e", "#bdbdbd")


def image_tile(pixels: np.ndarray) -> np.ndarray:
    """An image uint8 (1 or 3 channels, height, width) as a tile."""
    return _opaque(np.asarray(pixels, dtype=np.float32) / 255)


def signed_tile(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Signed values (1 or 3 channels, height, width) as a tile: 0 is mid-gray, ±limit (the largest) white and black."""
    values = np.asarray(values, dtype=np.float32)
    limit = float(np.abs(values).max()) if limit is None else limit
    return _opaque((0.5 + values / (2 * limit or 1.0)).clip(0, 1))


def blank_tile(size: tuple[int, int]) -> np.ndarray:
    """Nothing to be seen: a transparent tile (height, width)."""
    return np.zeros((*size, 4), dtype=np.float32)


def framed(tile: np.ndarray, colour: tuple) -> np.ndarray:
    """The tile within a line of one pixel of `colour` (RGBA)."""
    height, width, _ = tile.shape
    frame = np.broadcast_to(np.asarray(colour, dtype=np.float32), (height + 2, width + 2, 4)).copy()
    frame[1:-1, 1:-1] = tile
    return frame


def padded(tile: np.ndarray, size: tuple[int, int], *, top: bool, left: bool) -> np.ndarray:
    """The tile in a transparent one of `size` (height, width); `top` and `left` say where the room is added."""
    height, width = tile.shape[0], tile.shape[1]
    rows, columns = max(0, size[0] - height), max(0, size[1] - width)
    return np.pad(tile, ((rows, 0) if top else (0, rows), (columns, 0) if left else (0, columns), (0, 0)))


def mosaic(tiles: Sequence[np.ndarray], columns: int, *, zoom: int = 4, gap: int = 2) -> np.ndarray:
    """Tiles of one size, row by row, each pixel `zoom` pixels wide, with transparent gaps of `gap` pixels."""
    height, width = tiles[0].shape[0] * zoom, tiles[0].shape[1] * zoom
    rows = math.ceil(len(tiles) / columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.float32)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return sheet


@in_plain_style
def filters_figure(pictures: np.ndarray, limit: np.ndarray, title: str) -> np.ndarray:
    """Filters (maps, channels, height, width) in [0, 1], 0.5 for weight zero, under their numbers, with a scale.

    `limit` is the absolute weight that black and white stand for: one number, or one for each map. One or three
    channels make a picture a filter; other numbers, a sheet with a column for each map and a row for each input.
    """
    pictures, limit = np.asarray(pictures), np.asarray(limit)
    if pictures.shape[1] in (1, 3):
        return _filters_grid(pictures, limit, title)
    return _filters_sheet(pictures, limit, title)


def _filters_grid(pictures: np.ndarray, limit: np.ndarray, title: str) -> np.ndarray:
    columns, zoom, gap = 8, 12, 22  # the gap leaves room for the number
    side = pictures.shape[3] * zoom + gap
    sheet = mosaic([_opaque(picture) for picture in pictures], columns, zoom=zoom, gap=gap)
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
    _weight_bar(figure, limit, label, ax=axes, fraction=0.03, pad=0.02, shrink=0.9)
    return render(figure)


def _filters_sheet(pictures: np.ndarray, limit: np.ndarray, title: str) -> np.ndarray:
    maps, inputs, height, width = pictures.shape
    zoom = max(1, 1152 // (maps * (width + 1)))
    tiles = [_opaque(picture[None]) for of_input in pictures.swapaxes(0, 1) for picture in of_input]
    sheet = mosaic(tiles, maps, zoom=zoom, gap=zoom)
    # The axes have as many pixels as the sheet, so that each weight is equally large.
    left, bottom, above, right = 70, 60, 50, 130
    size = left + sheet.shape[1] + right, bottom + sheet.shape[0] + above
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    axes = figure.add_axes(
        (left / size[0], bottom / size[1], sheet.shape[1] / size[0], sheet.shape[0] / size[1]), frameon=False
    )
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    _number(axes.xaxis, maps, zoom * (width + 1))
    _number(axes.yaxis, inputs, zoom * (height + 1))
    axes.set_title(title, fontsize=11)
    axes.set(xlabel="feature map", ylabel="input map")
    axes.tick_params(length=0, labelsize=8)
    beside = (1 - (right - 20) / size[0], bottom / size[1], 16 / size[0], sheet.shape[0] / size[1])
    _weight_bar(figure, limit, "weight", cax=figure.add_axes(beside))
    return render(figure)


def _number(axis: object, count: int, step: int) -> None:
    """Label every few tiles of a sheet with their numbers."""
    every = 1 if count <= 16 else 4
    axis.set_ticks([(number + 0.5) * step for number in range(0, count, every)], range(0, count, every))


def _weight_bar(figure: Figure, limit: np.ndarray, label: str, **place: object) -> None:
    if limit.ndim:  # every filter has its own scale
        bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "gray"), **place)
        bar.set_ticks([-1, 0, 1], labels=["−limit", "0", "+limit"])
        bar.set_label(f"{label}, each filter's own limit")
    else:
        largest = float(limit) or 1.0
        bar = figure.colorbar(ScalarMappable(Normalize(-largest, largest), "gray"), **place)
        bar.set_label(label)


@in_plain_style
def activations_figure(layers: Sequence, title: str) -> np.ndarray:
    """For each LayerStatistics, mean and standard deviation of each map, and the histogram of all outputs."""
    figure = Figure(figsize=(9.4, 2.9 * len(layers) + 0.4), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(layers), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), layer in zip(grid, layers, strict=True):
        numbers = np.arange(len(layer.map_mean))
        left.bar(numbers, np.asarray(layer.map_std), color="#c6d4f0", width=0.9, label="standard deviation")
        left.bar(numbers, np.asarray(layer.map_mean), color="#4269d0", width=0.5, label="mean")
        if layer.dead:
            left.plot(layer.dead, np.zeros(len(layer.dead)), "x", color="#c62828", label="dead", clip_on=False)
        if not 1e-3 < np.asarray(layer.map_std).max() < 1e4:
            left.yaxis.set_major_formatter("{x:g}")  # a common factor would stand where the legend does
        left.set(xlabel="feature map", ylabel=f"activation, {layer.layer.rpartition('.')[2]}")
        left.set_xlim(-1, len(numbers))
        left.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 0.99), borderaxespad=0)
        # Not the first bin: it holds all that is smaller still.
        edges, counts = np.asarray(layer.histogram_edges)[1:], np.asarray(layer.histogram_counts, dtype=float)[1:]
        right.stairs(counts / np.log2(edges[1:] / edges[:-1]), edges, fill=True, color="#4269d0")
        if counts.any():
            right.set(xscale="log", yscale="log", xlabel="activation above zero", ylabel="how many per factor of 2")
        else:  # the whole layer is dead
            right.clear()
            right.set_axis_off()
            right.text(0.5, 0.5, "no activation above zero", transform=right.transAxes, ha="center", fontsize=9)
            left.set_ylim(0, 1)
        right.set_title(f"{layer.zeros:.1%} of all are zero", fontsize=9)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
    return render(figure)


@in_plain_style
def deconvnet_figure(entries: Sequence[tuple[str, list, list]], title: str, *, columns: int = 4) -> np.ndarray:
    """The paper's figure 2: for each map its reconstructions (left) and the image patches they come from (right).

    `entries` holds (heading, reconstruction tiles, patch tiles) a map, all tiles of one size.
    """
    columns = min(columns, len(entries))
    rows = math.ceil(len(entries) / columns)
    width = 2.5 * columns + 0.1
    lines = _wrapped(title, width)
    figure = Figure(figsize=(width, 1.42 * rows + 0.3 + 0.2 * len(lines)), dpi=DPI)
    figure.suptitle("\n".join(lines), fontsize=11, y=1 - 0.1 / figure.get_figheight(), va="top")
    figure.set_facecolor(TINT)
    _margins(figure, top=0.35 + 0.2 * len(lines), bottom=0.08, left=0.08, right=0.08)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.16})
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, (heading, reconstructions, patches) in zip(grid.ravel(), entries, strict=False):
        left, right = mosaic(reconstructions, 3), mosaic(patches, 3)
        gutter = np.zeros((len(left), 8, 4), dtype=np.float32)
        axes.imshow(np.concatenate([left, gutter, right], axis=1), interpolation="nearest")
        axes.set_title(heading, fontsize=8.5, pad=3)
    return render(figure)


@in_plain_style
def evolution_figure(
    epochs: Sequence[int], entries: Sequence[tuple[str, list, list]], title: str, *, patches: str
) -> np.ndarray:
    """The paper's figure 4: a row a map, a column an epoch; each the reconstruction and, right of it, its patch.

    `entries` holds (heading, reconstruction tiles, patch tiles) a map, a tile an epoch; `patches` says what they are.
    """
    columns, rows = len(epochs), len(entries)
    figure = Figure(figsize=(max(6.5, 1.55 * columns + 0.9), 0.82 * rows + 0.95), dpi=DPI)
    figure.suptitle(title, fontsize=11, y=1 - 0.1 / figure.get_figheight(), va="top")
    figure.set_facecolor(TINT)
    _margins(figure, top=0.8, bottom=0.08, left=0.85, right=0.06)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row, (heading, reconstructions, images) in zip(grid, entries, strict=True):
        for axes, left, right in zip(row, reconstructions, images, strict=True):
            axes.imshow(mosaic([left, right], 2), interpolation="nearest")
            if not left.any():
                axes.text(0.5, 0.5, "not active", transform=axes.transAxes, ha="center", va="center", fontsize=8.5)
            axes.set(xticks=[], yticks=[], facecolor=TINT)
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(heading, rotation=0, ha="right", va="center", fontsize=8.5)
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}", fontsize=9)
    figure.text(0.5, 1 - 0.42 / figure.get_figheight(), patches, fontsize=8.5, ha="center", va="center")
    return render(figure)


def shares(distances: object, lengths: object) -> np.ndarray:
    """Distances (amounts, images) over the lengths (images,) of the vectors; nan where one is of length 0."""
    distances, lengths = np.asarray(distances), np.asarray(lengths)
    return np.divide(distances, lengths, out=np.full(distances.shape, np.nan), where=lengths > 0)


def mean_over_images(curves: np.ndarray) -> np.ndarray:
    """The mean of curves (amounts, images) at each amount, over the images whose curve is finite; nan without any."""
    there = np.isfinite(curves).all(axis=0)
    return curves[:, there].mean(axis=1) if there.any() else np.full(len(curves), np.nan)


@in_plain_style
def invariance_figure(
    results: Sequence, examples: Sequence[np.ndarray], names: Sequence[str], title: str
) -> np.ndarray:
    """The paper's figure 5: a row a transformation; examples, distance at two depths, the true class's probability.

    `results` are Invariance objects: a thin line for each of the first images, which `names` labels, and a thick one
    for the mean of all the others. `examples` is a picture (RGBA) for each.
    """
    shown = len(names)
    figure = Figure(figsize=(10.2, 2.55 * len(results) + 1.0), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(results), 4, squeeze=False, width_ratios=(1.0, 1.35, 1.35, 1.35))
    units = {"translation": "pixels down", "scale": "factor", "rotation": "degrees anticlockwise"}
    for (picture, *plots), result, example in zip(grid, results, examples, strict=True):
        picture.imshow(example, interpolation="nearest")
        picture.set_axis_off()
        amounts = np.asarray(result.amounts)
        curves = (
            shares(result.first, result.first_norm),
            shares(result.last_hidden, result.last_hidden_norm),
            np.asarray(result.probability),
        )
        for axes, values in zip(plots, curves, strict=True):
            if not np.isfinite(values).any():
                axes.text(0.5, 0.5, "not active", transform=axes.transAxes, ha="center", fontsize=9)
                axes.set_axis_off()
                continue
            for image in range(shown):
                axes.plot(amounts, values[:, image], color=IMAGE_COLOURS[image], linewidth=1, alpha=0.85)
            axes.plot(amounts, mean_over_images(values[:, shown:]), color="black", linewidth=2.4)
            axes.set_xlabel(f"{result.kind}, {units[result.kind]}", fontsize=8.5)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
            if result.kind == "rotation":
                axes.set_xticks(range(0, 361, 90))
        plots[2].set_ylim(0, 1.02)
    headings = ("examples", "first layer:\ndistance / length", "last hidden layer:\ndistance / length", "p(true class)")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=9.5)
    lines = [Patch(color=IMAGE_COLOURS[index]) for index in range(shown)] + [Patch(color="black")]
    labels = [*names, f"mean of {np.asarray(results[0].first).shape[1] - shown} images"]
    figure.legend(lines, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    return render(figure)


@in_plain_style
def occlusion_figure(
    images: Sequence[np.ndarray],
    reconstructions: Sequence[np.ndarray],
    maps: object,
    labels: Sequence[int],
    classes: Sequence[str],
    title: str,
) -> np.ndarray:
    """The paper's figure 7, a row an image: the image, total activation, reconstruction, p(true class), answer.

    `images` and `reconstructions` are tiles, `maps` is an OcclusionMaps. The maps are drawn where the square's centre
    was, on axes as large as the image.
    """
    count, side = len(images), images[0].shape[:2]
    figure = Figure(figsize=(10.2, 1.95 * count + 1.35), dpi=DPI, layout="constrained")
    figure.suptitle(title + "\n" * (count == 1), fontsize=11)  # else the layout puts a heading into it
    grid = figure.subplots(count, 5, squeeze=False)
    down, across = _edges(np.asarray(maps.rows) + maps.size / 2), _edges(np.asarray(maps.columns) + maps.size / 2)
    answers = np.asarray(maps.predicted)
    answered = sorted(set(answers.ravel().tolist()) | set(labels))
    colours = colormaps["tab10"] if len(classes) <= 10 else colormaps["nipy_spectral"].resampled(len(classes))
    strength = None
    for row, axes in enumerate(grid):
        _place(axes[0], images[row], f"{classes[labels[row]]}, p = {maps.clean_probability[row]:.2f}")
        top = max(float(maps.activation[row].max()), float(maps.clean_activation[row])) or 1.0
        strength = axes[1].pcolormesh(
            across, down, np.asarray(maps.activation[row]) / top, cmap="viridis", vmin=0, vmax=1
        )
        axes[1].set_title(f"map {int(maps.strongest_map[row])}", fontsize=8.5, pad=3)
        _place(axes[2], reconstructions[row], "")
        probability = axes[3].pcolormesh(
            across, down, np.asarray(maps.probability[row]), cmap="viridis", vmin=0, vmax=1
        )
        norm = BoundaryNorm(np.arange(len(classes) + 1) - 0.5, len(classes))
        axes[4].pcolormesh(across, down, answers[row], cmap=colours, norm=norm)
        for each in (axes[1], axes[3], axes[4]):
            each.set(xlim=(0, side[1]), ylim=(side[0], 0), aspect="equal", xticks=[], yticks=[])
            each.spines[:].set_color("#b0b0b0")
    headings = (
        "image",
        "total activation of\nthe strongest map",
        "its reconstruction",
        "p(true class)",
        "most probable class",
    )
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title("\n".join(part for part in (heading, axes.get_title()) if part), fontsize=9.5, pad=4)
    figure.colorbar(strength, ax=grid[:, 1], location="bottom", shrink=0.85, aspect=14, format=PercentFormatter(1))
    figure.colorbar(probability, ax=grid[:, 3], location="bottom", shrink=0.85, aspect=14)
    swatches = [Patch(color=colours(norm(index))) for index in answered]
    figure.legend(
        swatches,
        [classes[index] for index in answered],
        loc="outside lower center",
        ncols=10,
        frameon=False,
        fontsize=8,
    )
    return render(figure)


@in_plain_style
def correspondence_figure(cells: Sequence, parts: Sequence[str], layers: Sequence[str], title: str) -> np.ndarray:
    """Table 1 as bars: for each layer the mean Δ of each kind of part, and a dot for each class.

    `cells` are Consistency objects; `parts` and `layers` are their values in the order to be drawn.
    """
    figure = Figure(figsize=(8.6, 3.9), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(parts)
    for index, part in enumerate(parts):
        of_part = {cell.layer: cell for cell in cells if cell.part == part}
        places = np.arange(len(layers)) + (index - (len(parts) - 1) / 2) * width
        colour = PART_COLOURS[index % len(PART_COLOURS)]
        axes.bar(places, [of_part[layer].mean for layer in layers], width * 0.92, color=colour, label=part)
        for place, layer in zip(places, layers, strict=True):
            by_class = np.asarray(of_part[layer].by_class)
            spread = np.linspace(-0.28, 0.28, len(by_class)) * width
            axes.plot(place + spread, by_class, ".", color="black", markersize=3.5, alpha=0.7)
    axes.set_xticks(range(len(layers)), [layer.replace("_", " ") + " layer" for layer in layers])
    axes.set_ylabel("Δ, mean Hamming distance")
    axes.set_title(title, fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return render(figure)


def _opaque(picture: np.ndarray) -> np.ndarray:
    """(channels, height, width) in [0, 1] to RGBA (height, width, 4); but for three channels, their mean as gray."""
    if picture.shape[0] != 3:
        picture = picture.mean(axis=0, keepdims=True).repeat(3, axis=0)
    return np.concatenate([picture.transpose(1, 2, 0), np.ones((*picture.shape[1:], 1), dtype=picture.dtype)], axis=2)


def _wrapped(title: str, width: float) -> list[str]:
    """A figure's title in lines that fit its width (inches) in the font size of titles."""
    return textwrap.wrap(title, max(12, int(width / 0.105)))


def _place(axes: Axes, tile: np.ndarray, heading: str) -> None:
    axes.imshow(tile, interpolation="nearest", extent=(0, tile.shape[1], tile.shape[0], 0))
    axes.set_axis_off()
    axes.set_title(heading, fontsize=8.5, pad=3)


def _edges(centres: np.ndarray) -> np.ndarray:
    """Cell borders half-way between rising centres, the outer ones as far out as the next."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _margins(figure: Figure, *, top: float, bottom: float, left: float, right: float) -> None:
    """Margins in inches, for figures of many small axes, which an automatic layout would take seconds for."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(top=1 - top / height, bottom=bottom / height, left=left / width, right=1 - right / width)
