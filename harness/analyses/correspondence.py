"""Whether hiding the same part changes different images' features alike (table 1), adapted to these images."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import FAINT, INK, TEST, TRAIN, Drawing, both, titled_figure
from interpret.correspondence import LAYERS, PARTS, Consistency, correspondence

NEEDS = ("images",)
PER_CLASS = 10  # images compared
LOOKS = ((TRAIN, 1.0), (TRAIN, 0.45), (TEST, 1.0), (FAINT, 0.45))  # of the parts: color and opacity

TEXT = """\
Zeiler & Fergus, section 4.3 and table 1: hide the same part in different images of a class, and compare the signs of \
the change of the feature vector by their Hamming distance (0 alike). These images have no part annotations: parts are \
cells of the image, the class's critical cell being the one whose occlusion costs the class most. If the network \
related parts, that bar would be lower than that of the same random cell, and the bar of each image's own critical \
cell lower than that of random cells. The reverse does not follow: random cells lie anywhere, also at the border; and \
at the last hidden layer choosing each image's own cell by probability makes the changes more alike even in a network \
that was never trained."""


def analyze(subject: Subject) -> Findings:
    labels = subject.labels.cpu()[subject.order]
    classes = range(len(subject.images.classes))
    chosen = torch.cat([subject.order[labels == label][:PER_CLASS] for label in classes])  # (classes * PER_CLASS,)
    size = subject.inputs.shape[-1] // 4
    square = {"size": size, "stride": max(1, size // 2), "value": subject.images.mid_gray}
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    cells = correspondence(subject.model, inputs, labels, **square, seed=subject.seed)
    title = f"Correspondence: {subject.source}"
    rows = [(cell.part, cell.layer.replace("_", " "), cell.mean, cell.std) for cell in cells]
    table_title = f"Consistency Δ, {subject.source}; smaller is more consistent"
    table = Table("correspondence", table_title, ("part hidden", "layer", "mean", "std"), rows)
    picture = Picture("correspondence", draw(cells, title), title)
    return Findings("Correspondence", TEXT, [picture], [table])


def draw(cells: Sequence[Consistency], title: str) -> Drawing:
    """Table 1 as bars: for each layer the mean Δ of each kind of part, and a dot for each class."""
    figure = titled_figure(title, 8, 3.8)
    axes = figure.subplots()
    width = 0.8 / len(PARTS)
    for index, (part, (color, alpha)) in enumerate(zip(PARTS, LOOKS, strict=False)):
        bars = [cell for cell in cells if cell.part == part]  # one a layer, in the order of LAYERS
        places = np.arange(len(LAYERS)) + (index - (len(PARTS) - 1) / 2) * width
        axes.bar(places, [cell.mean for cell in bars], width * 0.92, color=color, alpha=alpha, label=part)
        for place, cell in zip(places, bars, strict=True):
            spread = np.linspace(-0.28, 0.28, len(cell.by_class)) * width
            axes.plot(place + spread, cell.by_class, ".", color=INK, markersize=3.5)
    axes.set_xticks(range(len(LAYERS)), [layer.replace("_", " ") + " layer" for layer in LAYERS])
    axes.set_ylabel("Δ, mean Hamming distance")
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    figure.legend(loc="outside lower center", ncols=4)
    return both(figure)
