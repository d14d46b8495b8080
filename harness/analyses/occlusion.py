"""What a gray square slid over the image does to the answer and to the strongest map (figure 7)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import DPI, image_tile, render, signed_tile
from interpret.deconvnet import reconstruct
from interpret.occlusion import OcclusionMaps, occlusion

NEEDS = ("images",)

TEXT = """\
Zeiler & Fergus, section 4.2 and figure 7: a gray square of {size} × {size} pixels slid over the image pixel by \
pixel; each point of a map stands for the square centered there. The strongest map of the last convolution is the one \
with the largest activation in the whole image; its total activation is relative to the largest in the row. In the \
table, top and left say where the square lowers the probability most, and share right at which share of the places the \
answer stays right."""


def analyze(subject: Subject) -> Findings:
    shown = subject.shown
    inputs, labels, classes = subject.inputs[shown], subject.labels[shown], subject.images.classes
    size = subject.inputs.shape[-1] // 4
    maps = occlusion(subject.model, inputs, labels, size=size, value=subject.images.mid_gray)
    projected = reconstruct(subject.model, inputs, maps.layer, maps.strongest_map).cpu().numpy()
    labels = labels.tolist()
    images = subject.images.test.images[shown].numpy()
    tiles = [(image_tile(image), signed_tile(values)) for image, values in zip(images, projected, strict=True)]
    title = f"Occlusion by a square of {size} pixels: {subject.source}"
    picture = Picture("occlusion", draw(tiles, maps, labels, classes, title), title)
    header = (
        *("test image", "class", "p as it is", "lowest p", "top", "left", "share right"),
        *("map", "its activation", "lowest"),
    )
    table = Table("occlusion", title, header, occlusion_rows(maps, shown.tolist(), labels, classes))
    return Findings("Occlusion", TEXT.format(size=size), [picture], [table])


def occlusion_rows(
    maps: OcclusionMaps, ids: Sequence[int], labels: Sequence[int], classes: Sequence[str]
) -> list[tuple]:
    """A row an image: what the square costs at its worst place, and how often the answer stays right."""
    rows = []
    for index, (image, label) in enumerate(zip(ids, labels, strict=True)):
        probability, activation = maps.probability[index], maps.activation[index]
        down, across = divmod(int(probability.argmin()), len(maps.columns))
        answer = float(maps.clean_probability[index]), float(probability.min())
        place = int(maps.rows[down]), int(maps.columns[across])
        right = float((maps.predicted[index] == label).double().mean())
        strongest = int(maps.strongest_map[index]), float(maps.clean_activation[index]), float(activation.min())
        rows.append((image, classes[label], *answer, *place, right, *strongest))
    return rows


def draw(
    tiles: Sequence[tuple], maps: OcclusionMaps, labels: Sequence[int], classes: Sequence[str], title: str
) -> np.ndarray:
    """A row an image: the image, total activation, projection, p(true class), answer.

    `tiles` holds each image and its projection. The maps are drawn where the square's center was, on axes as large as
    the image.
    """
    count, (height, width, _) = len(tiles), tiles[0][0].shape
    figure = Figure(figsize=(10.2, 1.95 * count + 1.35), dpi=DPI, layout="constrained")
    figure.suptitle(title + "\n" * (count == 1), fontsize=11)  # else the layout puts a heading into it
    grid = figure.subplots(count, 5, squeeze=False)
    down, across = ((starts + maps.size / 2).numpy() for starts in (maps.rows, maps.columns))  # the squares' centers
    colors = colormaps["tab10"] if len(classes) <= 10 else colormaps["nipy_spectral"].resampled(len(classes))
    norm = BoundaryNorm(np.arange(len(classes) + 1) - 0.5, len(classes))
    scale = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    # The largest total activation of each row, which the square may well raise; 1 if there is none.
    largest = maps.activation.amax(dim=(1, 2)).maximum(maps.clean_activation)
    shares = maps.activation / largest.where(largest > 0, 1)[:, None, None]
    for row, (axes, (image, projection)) in enumerate(zip(grid, tiles, strict=True)):
        for place, tile in ((axes[0], image), (axes[2], projection)):
            place.imshow(tile, interpolation="nearest", extent=(0, width, height, 0))
            place.set_axis_off()
        strength = axes[1].pcolormesh(across, down, shares[row].numpy(), **scale)
        probability = axes[3].pcolormesh(across, down, maps.probability[row].numpy(), **scale)
        axes[4].pcolormesh(across, down, maps.predicted[row].numpy(), cmap=colors, norm=norm)
        for each in (axes[1], axes[3], axes[4]):
            each.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
            each.spines[:].set_color("#b0b0b0")
        axes[0].set_title(f"{classes[labels[row]]}, p = {maps.clean_probability[row]:.2f}", fontsize=8.5, pad=3)
        axes[1].set_title(f"map {int(maps.strongest_map[row])}", fontsize=8.5, pad=3)
    strongest = "total activation of\nthe strongest map"
    headings = ("image", strongest, "its reconstruction", "p(true class)", "most probable class")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(f"{heading}\n{axes.get_title()}".strip(), fontsize=9.5, pad=4)
    # All rows share one scale, so that any of them stands for the color bar.
    figure.colorbar(strength, ax=grid[:, 1], location="bottom", shrink=0.85, aspect=14, format=PercentFormatter(1))
    figure.colorbar(probability, ax=grid[:, 3], location="bottom", shrink=0.85, aspect=14)
    answered = sorted({*maps.predicted.flatten().tolist(), *labels})
    swatches, names = [Patch(color=colors(norm(index))) for index in answered], [classes[index] for index in answered]
    figure.legend(swatches, names, loc="outside lower center", ncols=10, frameon=False, fontsize=8)
    return render(figure)
