"""What a gray square slid over the image does to the answer and to the strongest map (figure 7)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import TEST, Drawing, both, image_tile, opaque_tile, signed_tile, titled_figure
from interpret.deconvnet import reconstruct
from interpret.occlusion import OcclusionMaps, occlusion

NEEDS = ("images",)

TEXT = """\
Zeiler & Fergus, section 4.2 and figure 7: a gray square of {size} × {size} pixels slid over the image pixel by \
pixel; each point of a map, which lies over the image, stands for the square centered there: the redder, the less is \
left. Where it drops the network was looking; if that is beside the object, it answers from the surroundings. The \
frame in the image is the square that costs most. The strongest map of the last convolution is the one with the \
largest activation in the whole image; its total activation is relative to the largest in the row."""


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
    pixels = draw(tiles, maps, subject.captions(shown.tolist()), classes, subject.asked_class, title)
    picture = Picture("occlusion", pixels, title)
    ids = [subject.image_name(image) for image in shown.tolist()]
    header = (
        *(subject.image_column, "class", "p as it is", "lowest p", "top", "left", "share right"),
        *("map", "its activation", "lowest"),
    )
    columns = "top and left: where it costs most; share right: of the places that leave the answer right"
    table = Table("occlusion", f"{title}; {columns}", header, occlusion_rows(maps, ids, labels, classes))
    return Findings("Occlusion", TEXT.format(size=size), [picture], [table])


def occlusion_rows(
    maps: OcclusionMaps, ids: Sequence[int | str], labels: Sequence[int], classes: Sequence[str]
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
    tiles: Sequence[tuple], maps: OcclusionMaps, captions: Sequence[str], classes: Sequence[str], asked: str, title: str
) -> Drawing:
    """A row an image: the image, total activation, projection, p(the class `asked` for), answer.

    `tiles` holds each image and its projection. The maps lie over the image where the square's center was.
    """
    count, (height, width, _) = len(tiles), tiles[0][0].shape
    figure = titled_figure(title, 8, 1.5 * count + 2)
    grid = figure.subplots(count, 5, squeeze=False)
    down, across = ((starts + maps.size / 2).tolist() for starts in (maps.rows, maps.columns))  # the squares' centers
    steps = [(places[-1] - places[0]) / max(1, len(places) - 1) / 2 for places in (down, across)]
    extent = (across[0] - steps[1], across[-1] + steps[1], down[-1] + steps[0], down[0] - steps[0])
    over = {"extent": extent, "interpolation": "none"}
    colors = colormaps["tab10"] if len(classes) <= 10 else colormaps["nipy_spectral"].resampled(len(classes))
    norm = BoundaryNorm(np.arange(len(classes) + 1) - 0.5, len(classes))
    # Transparent where the square costs nothing, so that the image is seen there.
    scale = {"cmap": LinearSegmentedColormap.from_list("cost", ["#d62728e6", "#d6272800"]), "vmin": 0, "vmax": 1}
    # The largest total activation of each row, which the square may well raise; 1 if there is none.
    largest = maps.activation.amax(dim=(1, 2)).maximum(maps.clean_activation)
    answered: set[int] = set()
    shares = maps.activation / largest.where(largest > 0, 1)[:, None, None]
    for row, (axes, (image, projection)) in enumerate(zip(grid, tiles, strict=True)):
        gray = opaque_tile(image[:, :, :3].mean(axis=2)[None])
        for each, tile in zip(axes, (image, gray, projection, gray, gray), strict=True):
            each.imshow(tile, interpolation="none", extent=(0, width, height, 0))
        strength = axes[1].imshow(shares[row].numpy(), **scale, **over)
        probability = axes[3].imshow(maps.probability[row].numpy(), **scale, **over)
        other = np.ma.masked_equal(maps.predicted[row].numpy(), int(maps.clean_predicted[row]))
        axes[4].imshow(other, cmap=colors, norm=norm, alpha=0.75, **over)
        answered |= {*other.compressed().tolist()}
        worst = divmod(int(maps.probability[row].argmin()), len(across))
        corner = float(maps.columns[worst[1]]), float(maps.rows[worst[0]])
        axes[0].add_patch(Rectangle(corner, maps.size, maps.size, fill=False, edgecolor=TEST, linewidth=1.6))
        for each in axes:
            each.set(xlim=(0, width), ylim=(height, 0), anchor="N")  # else a color bar moves its column
            each.set_axis_off()
        caption = captions[row].replace(": ", "\n")  # an own picture's name stands above its class
        axes[0].set_title(f"{caption}, p = {maps.clean_probability[row]:.2f}", pad=3)
        axes[1].set_title(f"map {int(maps.strongest_map[row])}", pad=3)
    strongest = "total activation of\nthe strongest map"
    headings = ("image", strongest, "its reconstruction", f"p({asked})", "answer,\nwhere it changes")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(f"{heading}\n{axes.get_title()}".strip(), pad=4)
    # All rows share one scale, so that any of them stands for the color bar.
    for shown, column, form in ((strength, 1, PercentFormatter(1)), (probability, 3, None)):
        figure.colorbar(shown, ax=grid[:, column], location="bottom", shrink=0.9, aspect=12, format=form)
    swatches = [Patch(color=colors(norm(index)), alpha=0.75, label=classes[index]) for index in sorted(answered)]
    if swatches:
        figure.legend(handles=swatches, loc="outside lower center", ncols=5)
    return both(figure)
