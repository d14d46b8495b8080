"""Which numbers each figure of the report shows; `charts` draws them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.flags import flag_label
from harness.grid.runs import RowRuns
from harness.image_sets import CNN
from harness.pictures import SERIES, TEST, THIRD, TRAIN
from harness.report import charts, results
from harness.report.charts import Curve, Dots
from harness.report.conclusions import CellDrop, Network, compare
from harness.report.results import bests, over_epochs, setting
from harness.report.statistics import Sample, interval_width

PANELS = 8  # of one comparison
LINES = 6  # in one panel: SERIES has as many colors
SPLITS = (("train", TRAIN, "--"), ("test", TEST, "-"))
YLABELS = {"loss": "cross-entropy", "accuracy": "accuracy"}


class Figure(NamedTuple):
    """An SVG, what it shows in words, and its width in CSS pixels at full size; by default a chart of ours."""

    description: str
    content: bytes
    width: int = 413
    chart: bool = True


def row_curves(row: RowRuns, mark: str) -> dict[str, Figure]:
    """Train and test loss, train and test accuracy over the epochs; empty if no epoch was finished."""
    runs = row.complete or [run for run in row.runs.values() if run.history]
    found = {}
    for quantity, ylabel in YLABELS.items() if runs else ():
        curves = []
        for split, color, style in SPLITS:
            metric = f"{split}_{quantity}"
            values = tuple(over_epochs(run, metric) for run in runs)
            # Unfinished runs are of different lengths: each by itself.
            for together in [values] if row.complete else [(each,) for each in values]:
                curves.append(Curve(split, color, together, style, row.row.printed.get(metric)))
        title = f"{row.row.name}: {quantity}{mark}"
        found[quantity] = Figure(f"{title} over epochs, train and test", charts.curve_chart(title, ylabel, curves))
    return found


def overview(family: results.Family, mark: str) -> Figure:
    """Every row's best test accuracy beside the original's, with the verdict at the line's end."""
    legend, lines = {"values": "a run"}, []
    for row in family.rows:
        found = compare(row, "test_accuracy")
        lines.append(_dots(row.row.name, found.ours, found.interval, found.printed, found.mark))
    if any(line.interval for line in lines):
        legend |= {"mean": "mean", "interval": "95 % interval"}
    if any(line.reference is not None for line in lines):
        legend |= {"values": "a run of ours", "reference": "original"}
    scale = accuracy_scale(family.rows)
    title = f"{family.title}: best test accuracy{mark}"
    return Figure(title, charts.dot_chart(title, lines, _accuracy_label(scale), scale, legend))


def _accuracy_label(scale: str) -> str:
    return "best test accuracy" + (" (log axis)" if scale else "")


def _dots(
    label: str,
    sample: Sample | None,
    interval: tuple[float, float] | None = None,
    reference: float | None = None,
    mark: str = "",
) -> Dots:
    """A line with a row's values, and their mean where there are several."""
    mean = sample.mean if sample and sample.n > 1 else None
    return Dots(label, sample.values if sample else (), mean, interval, reference, mark=mark)


def accuracy_scale(rows: Sequence[RowRuns]) -> str:
    """ "accuracy", an axis logarithmic in the share of errors, where accuracies crowd near 1; else "", linear."""
    top = max((bests(row.complete, "test_accuracy").mean for row in rows if row.complete), default=0.0)
    return "accuracy" if top > 0.95 else ""


def _loss_scale(curves: Sequence[Curve]) -> str:
    """ "loss", a logarithmic axis, where the largest is many times the smallest; else "", linear."""
    values = [value for curve in curves for run in curve.runs for value in run if math.isfinite(value)]
    return "loss" if values and max(values) > 5 * min(values) else ""


def side_by_side(rows: Sequence[RowRuns], mark: str) -> dict[str, Figure]:
    """Optimizers or cells in one panel, a panel for each of the other settings: test accuracy, then test loss.

    Every panel has axes of its own, so that one setting that diverges does not flatten the others. Empty where there
    is nothing to compare, or too much.
    """
    within = ("optimizer" if rows[0].row.script == CNN else "cell", "epochs")
    across = [flag for flag in results.varied_flags(rows) if flag not in within]
    within = [flag for flag in within if len(results.values_of(rows, flag)) > 1]

    def key(row: RowRuns) -> tuple:
        return tuple(setting(row, flag) for flag in across)

    keys = sorted({key(row) for row in rows}, key=lambda values: [*map(results.in_order, values)])
    panels = {at: [row for row in rows if key(row) == at] for at in keys}
    found = {}
    if len(panels) > PANELS or not any(len(panel) > 1 for panel in panels.values()):
        return found
    colors = list(dict.fromkeys(tuple(setting(row, flag) for flag in within) for row in rows))
    for quantity, metric in (("accuracy", "test_accuracy"), ("loss", "test_loss")):
        for number, panel in enumerate(panels.values(), 1):
            shown = [row for row in panel if row.complete][-LINES:]
            curves = []
            for row in shown:
                alike = tuple(setting(row, flag) for flag in within)
                names = (flag_label(f, value, short=f == "epochs") for f, value in zip(within, alike, strict=True))
                runs = tuple(over_epochs(run, metric) for run in row.complete)
                curves.append(Curve(", ".join(names), SERIES[colors.index(alike) % LINES], runs))
            settings = ", ".join(flag_label(flag, setting(panel[0], flag), short=True) for flag in across)
            title = f"{settings or 'All rows'}: test {quantity}{mark}"
            scale = accuracy_scale(shown) if quantity == "accuracy" else _loss_scale(curves)
            content = charts.curve_chart(title, YLABELS[quantity], curves, scale)
            found[f"{quantity}-{number}"] = Figure(f"{title} over epochs", content)
    return found


def stability(rows: Sequence[RowRuns], cells: Sequence[CellDrop], mark: str) -> dict[str, Figure]:
    """Each row's worst drops, and below them each cell's mean; and each row's spread over seeds."""
    lines = [_dots(row.row.name, found) for row in rows if (found := results.worst_drops(row))]
    legend = {"values": "a run", "mean": "mean"}
    for each in cells:
        label = results.cell_name(each.cell)
        lines.append(Dots(label, (), each.drop.value, each.interval, color=THIRD, strong=True))
        if each.interval:
            legend["interval"] = "95 % interval of the mean"
    title = f"Worst drop of test accuracy{mark}"
    found = {"drops": Figure(title, charts.dot_chart(title, lines, "drop (log axis)", "drop", legend))}
    deviations = [(row.row.name, sample.sd) for row in rows if (sample := bests(row.complete, "test_accuracy"))]
    lines = [Dots(name, (sd,)) for name, sd in deviations if sd is not None]
    lines += [
        Dots(results.cell_name(each.cell), (each.typical_sd,), color=THIRD, strong=True)
        for each in cells
        if each.typical_sd is not None
    ]
    if lines:
        title = f"Spread over seeds{mark}"
        label = "sd of best test accuracy (log axis)"
        found["spread"] = Figure(title, charts.dot_chart(title, lines, label, "drop", {}))
    return found


def first_rows(networks: Sequence[Network]) -> Figure:
    """Test accuracy against how many rows of an image were seen."""
    lines = [(each.label, *each.first_rows) for each in networks if each.first_rows]
    title = "From the first k rows of each image"
    return Figure(title, charts.lines_chart(title, "rows seen, k", "test accuracy", lines))


def interval_widths() -> Figure:
    """How the intervals become narrower with the number of seeds, whatever the row."""
    seeds = range(3, 21)
    lines = [
        ("one more run", seeds, [interval_width(n) for n in seeds]),
        ("the mean", seeds, [interval_width(n, of_mean=True) for n in seeds]),
    ]
    title = "Width of the 95 % intervals"
    return Figure(title, charts.lines_chart(title, "seeds", "standard deviations", lines, 10))


def costs(networks: Sequence[Network]) -> dict[str, Figure]:
    """Accuracy, parameters and time of each network at equal epochs."""
    accuracies, sizes, times = [], [], []
    for each in networks:
        accuracies.append(_dots(each.label, bests(each.runs, "test_accuracy")))
        sizes.append(Dots(each.label, (each.parameters,)))
        times.append(_dots(each.label, Sample(tuple(results.epoch_seconds([run]) for run in each.runs))))
    legend = {"values": "a run"} | ({"mean": "mean"} if any(len(each.runs) > 1 for each in networks) else {})
    panels = {
        "accuracy": ("Best test accuracy", accuracies, _accuracy_label("accuracy"), "accuracy", legend),
        "size": ("Size", sizes, "parameters (log axis)", "loss", {}),
        "time": ("Time", times, "seconds an epoch, with test (log axis)", "loss", legend),
    }
    return {name: Figure(panel[0], charts.dot_chart(*panel)) for name, panel in panels.items()}
