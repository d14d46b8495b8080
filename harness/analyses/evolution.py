"""The strongest activation of some maps at each snapshot of the run, projected to pixels (figure 4)."""

from collections.abc import Sequence

import numpy as np
import torch

from harness.analyses.base import Subject, short
from harness.analyses.deconvnet import activation_rows, activation_tiles, set_margins
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import Drawing, both, for_tiles, mosaic, titled_figure
from interpret.deconvnet import Activations
from interpret.evolution import evolution

NEEDS = ("images", "snapshots")
MAPS_SHOWN = 6  # of each convolution, if --maps names none
STAGES = 12  # snapshots shown of a run with more

TEXT = """\
Zeiler & Fergus, figure 4: the same maps at epochs of the run's snapshots, each with the image that excites it most \
among {images}. Each picture is on its own scale. What a snapshot does not hold, such as the linear layers, \
is the checkpoint's. A jump from one epoch to the next mostly means that another image has become the \
strongest."""


def analyze(subject: Subject) -> Findings:
    epochs, printed = sorted(subject.snapshots), ""
    if len(epochs) > STAGES:
        printed = f"note: evolution at {STAGES} of the run's {len(epochs)} snapshots, evenly chosen"
        last = len(epochs) - 1
        epochs = [epochs[round(stage * last / (STAGES - 1))] for stage in range(STAGES)]
    snapshots = {epoch: subject.snapshots[epoch] for epoch in epochs}
    source = subject.trained.source(subject.images, all_epochs=True)
    chosen = {layer: subject.chosen_maps(name, MAPS_SHOWN) for name, layer in subject.layers.items()}
    stages = evolution(subject.model, subject.inputs[subject.searched], chosen, snapshots)
    pictures, rows = [], []
    for convolution, layer in subject.layers.items():
        maps = chosen[layer]
        found = Activations(*map(torch.cat, zip(*stages[layer].values(), strict=True)))  # by epoch, then by map
        found = found._replace(images=subject.searched[found.images])
        projected, patches = activation_tiles(subject, layer, found)
        each = [slice(index, None, len(maps)) for index in range(len(maps))]
        entries = [(f"map {n}", projected[here], patches[here]) for n, here in zip(maps, each, strict=True)]
        title = f"Evolution of {short(convolution)}: {source}"
        pictures.append(Picture(f"evolution_{short(convolution)}", draw(epochs, entries, title), title))
        rows += activation_rows(subject, layer, maps * len(epochs), np.repeat(epochs, len(maps)).tolist(), found)
    header = ("layer", "map", "epoch", "test image", "class", "row", "column", "activation")
    table = Table("evolution", f"Strongest activation at each snapshot, {source}", header, rows)
    text = TEXT.format(images=subject.searched_images) + subject.not_shown
    return Findings("Evolution", text, pictures, [table], printed)


def draw(epochs: Sequence[int], entries: Sequence[tuple[str, list, list]], title: str) -> Drawing:
    """A row a map, a column an epoch; each the projection and, right of it, its image patch.

    `entries` holds (heading, projection tiles, patch tiles) a map, a tile an epoch.
    """
    column = min(1.55, max(1.2, 7.1 / len(epochs)))  # inches: five columns are as wide as a page
    width, height = max(6.5, column * len(epochs) + 0.9), 0.53 * column * len(entries) + 0.95
    figure = titled_figure(title, width, height, layout=None)
    halves = "left: reconstruction of the map's strongest activation over the test images; right: its image"
    figure.text(0.1 / width, 1 - 0.42 / height, halves, va="center")
    set_margins(figure, top=0.8, bottom=0.08, left=0.85, right=0.06)
    grid = figure.subplots(len(entries), len(epochs), squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row, (heading, projections, images) in zip(grid, entries, strict=True):
        for axes, left, right in zip(row, projections, images, strict=True):
            axes.imshow(mosaic([left, right], 2, margin=2), interpolation="none")
            if not left.any():
                axes.text(0.5, 0.5, "not active", transform=axes.transAxes, ha="center", va="center")
            for_tiles(axes)
        row[0].set_ylabel(heading, rotation=0, ha="right", va="center")
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}")
    return both(figure)
