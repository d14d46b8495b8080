"""How open the gates of an LSTM or a GRU are at each row (Karpathy et al. 2015)."""

from collections.abc import Mapping

import numpy as np

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import FAINT, TEST, TRAIN, Drawing, both, titled_figure
from interpret.recurrent import CLOSED, OPEN, GateStatistics, gate_statistics

NEEDS = ("images", "steps", "gates")

TEXT = """\
{found} Karpathy et al. (2015, arXiv 1506.02078), "gate activation statistics": a gate multiplies what it lets \
through by a number from 0 (closed) to 1 (open). Above, its mean over all units and test images after each row, and \
one standard deviation around it. In the middle, how many are saturated: below {closed} or above {open}. Below, each \
unit is a dot: at which share of all rows and images it is saturated; a dot at the right end is a gate that is hardly \
ever anything but open. {roles}"""
ROLES = {
    "LSTM": "The forget gate keeps the cell state when open, the input gate writes to it, the output gate shows it.",
    "GRU": "The update gate keeps the old state when open and takes the new one when closed (as PyTorch defines it); "
    "the reset gate lets the old state into the new one.",
}


def analyze(subject: Subject) -> Findings:
    gates = gate_statistics(subject.model, subject.inputs)
    title = f"Gates, {subject.network}: {subject.source}"
    rows = [
        (name, row + 1, *(float(each[row]) for each in (gate.mean, gate.std, gate.closed, gate.open)))
        for name, gate in gates.items()
        for row in range(len(gate.mean))
    ]
    saturated = f"share below {CLOSED}", f"share above {OPEN}"
    header = ("gate", "row", "mean", "std", *saturated)
    by_row = Table("gates", f"Gates at each row, {subject.source}", header, rows)
    units = [
        (name, unit, float(closed), float(opened))
        for name, gate in gates.items()
        for unit, (closed, opened) in enumerate(zip(gate.unit_closed, gate.unit_open, strict=True))
    ]
    by_unit = Table("gates_units", f"Gates of each unit, {subject.source}", ("gate", "unit", *saturated), units)
    means = "; ".join(
        f"the {name} gate is {gate.mean.mean():.2f} open on average, above {OPEN} in {gate.open.mean():.0%} and below "
        f"{CLOSED} in {gate.closed.mean():.0%} of all cases"
        for name, gate in gates.items()
    )
    found = f"In this {subject.network} {means}."
    text = TEXT.format(found=found, closed=CLOSED, open=OPEN, roles=ROLES[subject.network])
    return Findings("Gates", text, [Picture("gates", draw(gates, title), title)], [by_row, by_unit])


def draw(gates: Mapping[str, GateStatistics], title: str) -> Drawing:
    """A column a gate: mean and deviation over the rows, saturated shares over the rows, and those of each unit."""
    figure = titled_figure(title, 8, 6.6)
    grid = figure.subplots(3, len(gates), squeeze=False)
    for (over, saturated, units), (name, gate) in zip(grid.T, gates.items(), strict=True):
        rows = np.arange(1, len(gate.mean) + 1)
        mean, std = gate.mean.numpy(), gate.std.numpy()
        over.fill_between(rows, mean - std, mean + std, color=TRAIN, alpha=0.2, linewidth=0)
        over.plot(rows, mean, color=TRAIN)
        over.set_title(f"{name} gate")
        saturated.plot(rows, gate.open.numpy(), color=TEST, label=f"above {OPEN}")
        saturated.plot(rows, gate.closed.numpy(), color=TRAIN, linestyle="--", label=f"below {CLOSED}")
        for axes in (over, saturated):
            axes.set(xlim=(1, len(rows)), ylim=(0, 1), xlabel="row")
        units.plot([0, 1], [1, 0], color=FAINT, linewidth=0.8)  # no unit can be above
        units.plot(gate.unit_open.numpy(), gate.unit_closed.numpy(), "o", color=TRAIN, markersize=3.5, alpha=0.5)
        units.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"share above {OPEN}")
    for axes, label in zip(grid[:, 0], ("how open", "share saturated", f"share below {CLOSED}"), strict=True):
        axes.set_ylabel(label)
    grid[1, 0].legend()
    return both(figure)
