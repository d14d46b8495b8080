"""How far back the gradient of a recurrent network's answer reaches, trained and untrained (Pascanu et al. 2013)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import FAINT, TEST, TRAIN, Drawing, both, titled_figure
from interpret.recurrent import gradient_norms

NEEDS = ("images", "steps")
COUNTED = 500  # random test images
QUANTILES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
COLORS = {"trained": TRAIN, "untrained": TEST}

TEXT = """\
{found} Pascanu et al. (2013, arXiv 1211.5063): the norm of the gradient of the largest logit with respect to the \
state some rows before the end, as a multiple of that at the end. A line that falls is a gradient that vanishes: the \
answer hardly depends on a small change of the state so long ago, and training has little to learn from there. The \
line is the median of {counted} test images, the band eight in ten of them. Untrained is the same network with the \
first values of seed 0. {cell}Black rows at the end count, too: what was read must last through them."""
CELL = "An LSTM carries its memory in the cell state, which changes only by what forget and input gate let through. "


def analyze(subject: Subject) -> Findings:
    images = subject.inputs[subject.order[:COUNTED]]
    lines: dict[str, dict[str, Tensor]] = {}  # of each state, of each network: (3 quantiles, rows before the end)
    for network, model in (("trained", subject.model), ("untrained", subject.untrained)):
        for state, norms in gradient_norms(model, images).items():
            back = norms.double().flip(0)  # (rows, n), the last row first
            shares = back / back[0].clamp(min=1e-30)
            lines.setdefault(state, {})[network] = shares.quantile(QUANTILES, dim=1)
    title = f"Memory, {subject.network}: {subject.source}"
    rows = [
        (state, network, before, *line[:, before].tolist())
        for state, of_networks in lines.items()
        for network, line in of_networks.items()
        for before in range(line.shape[1])
    ]
    header = ("state", "network", "rows before the end", "lowest tenth", "median", "highest tenth")
    table = Table("memory", f"Norm of the gradient relative to the last row, {subject.source}", header, rows)
    trained, untrained = (lines["hidden state"][network][1] for network in COLORS)
    before = len(trained) - 1
    found = (
        f"{before} rows before the end, the gradient of this {subject.network}'s hidden state has {trained[-1]:.2g} of "
        f"its norm at the end; before any training it has {untrained[-1]:.2g}"
    )
    if "cell state" in lines:
        trained, untrained = (lines["cell state"][network][1] for network in COLORS)
        found += f". That of the cell state has {trained[-1]:.2g}, and before any training {untrained[-1]:.2g}"
    text = TEXT.format(found=f"{found}.", counted=len(images), cell=CELL if "cell state" in lines else "")
    return Findings("Memory", text, [Picture("memory", draw(lines, title), title)], [table])


def draw(lines: Mapping[str, Mapping[str, Tensor]], title: str) -> Drawing:
    """A plot a state: over the rows before the end the quantiles of each network's gradient, on a log scale."""
    figure = titled_figure(title, 8, 3.4)
    grid = figure.subplots(1, len(lines), squeeze=False, sharey=True)
    for axes, (state, of_networks) in zip(grid[0], lines.items(), strict=True):
        for network, line in of_networks.items():
            low, median, high = line.clamp(min=1e-30).numpy()
            before = np.arange(len(median))
            style = "-" if network == "trained" else "--"
            axes.fill_between(before, low, high, color=COLORS[network], alpha=0.2, linewidth=0)
            axes.plot(before, median, style, color=COLORS[network], label=network)
        axes.axhline(1, color=FAINT, linewidth=0.8)
        axes.set(yscale="log", xlabel="rows before the end", xlim=(0, len(median) - 1))
        axes.set_title(state)
        axes.yaxis.set_major_formatter("{x:g}")
    grid[0, 0].set_ylabel("norm of the gradient,\nrelative to the last row")
    grid[0, 0].legend()
    return both(figure)
