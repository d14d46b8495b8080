"""The filters of every convolution as pictures, on one scale or on each filter's own (the paper's figure 6)."""

from collections.abc import Sequence
from statistics import fmean, median

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from harness.analyses.base import Subject, short
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import Drawing, both, for_tiles, mosaic, opaque_tile, titled_figure
from interpret.chain import convolutions
from interpret.filters import aliased_energy, filter_pictures, rms, strongest_filters

NEEDS = ()

TEXT = """\
{found} Mid-gray is weight zero; black and white are the largest absolute weight, {scale}. A filter of a later \
convolution has a picture for each map that it reads: shown are the {maps} feature maps with the largest weights, \
strongest first, and of each the {inputs} pictures with the largest weights, under the number of the map that they \
read."""
HEADER_BY_LAYER = ("layer", "filters", "largest RMS", "median RMS", "one row kept in", "share aliased")
FOUND = """\
The paper's section 4.1 in numbers: the largest of the {count} first filters' root mean squares is {largest:.2g}, the \
median {middle:.2g}; {sampling}. How many maps are dead is a number of the activations."""
KEPT = """\
stride and pooling keep one in {step} rows and columns of a map, and {aliased:.0%} of the filters' energy is at \
frequencies too high for that (aliasing)"""
MAPS_SHOWN, INPUTS_SHOWN = 8, 12  # of a convolution that reads many maps


def analyze(subject: Subject) -> Findings:
    pictures, rows, by_layer = [], [], []
    steps = sampling_steps(subject.model)
    for number, layer in enumerate(convolutions(subject.model), start=1):
        weights = subject.model.get_submodule(layer).weight.detach().cpu()
        if layer in subject.shown_convolutions:
            pictures.append(picture(subject, number, layer, weights))
        own_rms, aliased = rms(weights).tolist(), aliased_energy(weights, steps[layer]).tolist()
        by_layer.append((layer, len(weights), max(own_rms), median(own_rms), steps[layer], fmean(aliased)))
        for index, row in enumerate(weights.double().flatten(1).numpy()):  # (channels * height * width,) each
            values = row.mean(), row.std(), np.linalg.norm(row), np.abs(row).max(), own_rms[index], aliased[index]
            rows.append((layer, index, *map(float, values)))
    header = ("layer", "map", "mean", "std", "norm", "largest", "RMS", "share aliased")
    tables = [
        Table("filters", f"Weights of each filter, {subject.source}", header, rows),
        Table("filters_by_layer", f"Filters of each convolution, {subject.source}", HEADER_BY_LAYER, by_layer),
    ]
    _, count, largest, middle, step, aliased = by_layer[0]
    sampling = KEPT.format(step=step, aliased=aliased) if step > 1 else "every row and column of a map is kept"
    found = FOUND.format(count=count, largest=largest, middle=middle, sampling=sampling)
    scale = "each filter's own" if subject.per_filter else "one scale for all filters of a layer"
    text = TEXT.format(found=found, scale=scale, maps=MAPS_SHOWN, inputs=INPUTS_SHOWN)
    return Findings("Filters", text + subject.not_shown, pictures, tables)


def picture(subject: Subject, number: int, layer: str, weights: Tensor) -> Picture:
    """The filters of one convolution, (maps, channels, height, width), or the strongest of those that are many."""
    drawn, limit = filter_pictures(weights, per_filter=subject.per_filter)
    title = f"Filters of convolution {number}: {subject.source}"
    own = [f"  ±{each:.2g}" for each in limit.tolist()] if limit.ndim else [""] * len(weights)
    if weights.shape[1] in (1, 3):
        labels, heads, shown = [f"{index}{each}" for index, each in enumerate(own)], (), list(drawn)
    else:
        maps, inputs = strongest_filters(weights, MAPS_SHOWN, INPUTS_SHOWN)
        heads = [f"map {index}{own[index]}" for index in maps.tolist()]
        labels = list(map(str, inputs.flatten().tolist()))
        shown = list(drawn[maps[:, None], inputs].flatten(0, 1)[:, None])
    drawing = draw([each.numpy() for each in shown], labels, heads, limit.numpy(), title)
    return Picture(f"filters_{short(layer)}", drawing, title)


def sampling_steps(model: nn.Module) -> dict[str, int]:
    """Of each convolution every how manieth position of its map is kept, by its stride and the poolings behind it."""
    steps, convolution = {}, ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            convolution, steps[name] = name, module.stride[0]
        elif isinstance(module, nn.MaxPool2d) and convolution:
            steps[convolution] *= module.stride if isinstance(module.stride, int) else module.stride[0]
    return steps


def draw(
    pictures: Sequence[np.ndarray], labels: Sequence[str], heads: Sequence[str], limit: np.ndarray, title: str
) -> Drawing:
    """Filters (1 or 3 channels, height, width) in [0, 1], 0.5 for weight zero, under their labels, with a scale.

    Eight in a row; with `heads`, which stand before the rows, as many as share out evenly. `limit` is the absolute
    weight that black and white stand for: one number, or one for each map.
    """
    columns = len(pictures) // len(heads) if heads else 8
    zoom, gap = 60 // pictures[0].shape[1], 22  # the gap leaves room for the label
    height, width = (side * zoom + gap for side in pictures[0].shape[1:])
    sheet = mosaic([opaque_tile(picture) for picture in pictures], columns, zoom=zoom, gap=gap, margin=gap)
    figure = titled_figure(title, 8, 6.9 * sheet.shape[0] / sheet.shape[1] + 0.75)
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="none")
    for_tiles(axes)
    for number, label in enumerate(labels):
        axes.text(gap + number % columns * width, gap + number // columns * height - 3, label, va="bottom")
    for number, head in enumerate(heads):
        axes.text(-gap / 2, (number + 0.5) * height + gap / 2, head, ha="right", va="center")
    label = "weight of each color" if len(pictures[0]) == 3 else "weight"
    _draw_scale(figure, limit, label, ax=axes, fraction=0.03, pad=0.02, shrink=0.9)
    return both(figure)


def _draw_scale(figure: Figure, limit: np.ndarray, label: str, **place: object) -> None:
    """What black and white stand for, as a bar."""
    largest = 1.0 if limit.ndim else float(limit) or 1.0
    bar = figure.colorbar(ScalarMappable(Normalize(-largest, largest), "gray"), **place)
    if limit.ndim:
        bar.set_ticks([-1, 0, 1], labels=["−limit", "0", "+limit"])
    bar.set_label(f"{label}, each filter's own limit" if limit.ndim else label)
