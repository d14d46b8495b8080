"""The hidden state of a recurrent network as it reads: each unit after each row, in the order in which units switch."""

from collections.abc import Sequence

import numpy as np
import torch

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import Drawing, both, for_tiles, titled_figure
from interpret.recurrent import final_from, hidden_states

NEEDS = ("images", "steps")
COUNTED = 2000  # random test images

TEXT = """\
{found} Each unit of the hidden state (a column, red above zero and blue below) after each row of the image at its \
left. A unit switches where it takes the sign that it keeps to the end; each image's units stand in the order in which \
they switch, those that end above zero first among units of the same row."""


def analyze(subject: Subject) -> Findings:
    shown, counted = subject.shown, subject.order[:COUNTED]
    states = hidden_states(subject.model, subject.inputs[torch.cat([shown, counted])])  # (rows, images, hidden)
    positive = states > 0
    switches = final_from(positive)  # (images, hidden)
    sorted_states = []
    for number in range(len(shown)):
        order = np.lexsort((~positive[-1, number].numpy(), switches[number].numpy()))
        sorted_states.append(states[:, number, order].numpy())
    title = f"Hidden state, {subject.network}: {subject.source}"
    tiles = subject.images.test.images[shown, 0].numpy()
    picture = Picture("hidden_state", draw(tiles, sorted_states, subject.captions(shown.tolist()), title), title)
    rows, units = len(states), states.shape[2]
    switches, changes = switches[len(shown) :], positive[:, len(shown) :].diff(dim=0).sum(dim=0)  # (counted, hidden)
    by_unit = list(
        zip(range(units), switches.double().mean(dim=0).tolist(), changes.double().mean(dim=0).tolist(), strict=True)
    )
    table_title = f"When each unit switches, mean over {len(counted):,} test images, {subject.source}"
    table = Table("hidden_state", table_title, ("unit", "switches at row", "changes of sign"), by_unit)
    half, most = (int(torch.sort(switches.flatten()).values[int(share * switches.numel())]) for share in (0.5, 0.9))
    found = (
        f"In this {subject.network} half of the {units} units have their final sign from row {half} on and nine in ten "
        f"from row {most} on, of {rows}; a unit changes its sign {changes.double().mean():.1f} times an image "
        f"({len(counted):,} test images)."
    )
    return Findings("Hidden state", TEXT.format(found=found), [picture], [table])


def draw(tiles: Sequence[np.ndarray], states: Sequence[np.ndarray], captions: Sequence[str], title: str) -> Drawing:
    """Each image (height, width) beside its `states` (rows, hidden), row by row."""
    figure = titled_figure(title, 8, 1.3 * len(tiles) + 1)
    grid = figure.subplots(len(tiles), 2, squeeze=False, width_ratios=(1, 5.4))
    for (picture, heat), tile, values, caption in zip(grid, tiles, states, captions, strict=True):
        picture.imshow(tile, cmap="gray", vmin=0, vmax=255, interpolation="none")
        picture.set_ylabel(caption)
        shown = heat.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none", aspect="auto")
        for_tiles(picture)
        for_tiles(heat)
    heat.set_xlabel(f"the {values.shape[1]} units, in the order in which they switch")
    figure.colorbar(shown, ax=grid[:, 1], location="bottom", shrink=0.5, aspect=30, label="hidden state")
    return both(figure)
