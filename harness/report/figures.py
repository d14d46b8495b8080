"""Which numbers each figure of the report shows; `charts` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.flags import flag_label
from harness.grid.runs import RowRuns
from harness.report import charts
from harness.report.conclusions import Network, Stability
from harness.report.results import (
    CELLS,
    CNN,
    Family,
    bests,
    cell_name,
    epoch_seconds,
    over_epochs,
    row_interval,
    setting,
    sort_key,
    varied_flags,
    worst_drops,
)

OVERLAID = 3  # rows in one panel
COLUMNS = 8  # of panels side by side


class Figure(NamedTuple):
    """An SVG or PNG, what it shows in words, and its width in CSS pixels at full size."""

    description: str
    content: bytes
    width: int = 826


def row_curves(row: RowRuns, title: str) -> Figure | None:
    """Train and test loss, train and test accuracy over the epochs; None if no epoch was finished."""
    runs = row.complete or [run for run in row.runs.values() if run.history]
    if not runs:
        return None
    panels = []
    for quantity, label in (("loss", "cross-entropy"), ("accuracy", "accuracy")):
        curves = []
        for split, color, style in (("train", charts.TRAIN, "--"), ("test", charts.TEST, "-")):
            metric = f"{split}_{quantity}"
            values = tuple(over_epochs(run, metric) for run in runs)
            # Unfinished runs are of different lengths: each by itself.
            for of_curve in [values] if row.complete else [(each,) for each in values]:
                curves.append(charts.Curve(split, color, of_curve, style, row.row.printed.get(metric)))
        panels.append(charts.Panel("", tuple(curves), label))
    return Figure(f"Loss and accuracy over epochs, train and test: {title}", charts.curve_chart(title, panels))


def overview(families: Sequence[Family], title: str) -> Figure:
    """Every row's best test accuracy beside the original's, a panel a family."""
    panels, everything = [], [row for family in families for row in family.rows]
    for family in families:
        lines = []
        for row in family.rows:
            ours, interval = bests(row, "test_accuracy"), row_interval(row, "test_accuracy")
            if interval:
                interval = max(interval[0], 0.0), min(interval[1], 1.0)
            mean = ours.mean if ours and ours.n > 1 else None
            printed = row.row.printed.get("test_accuracy")
            lines.append(charts.Dots(row.row.name, ours.values if ours else (), mean, interval, printed))
        scale = accuracy_scale(family.rows)
        label = "best test accuracy" + (" (axis logarithmic in the share of errors)" if scale else "")
        panels.append(charts.DotPanel(family.title, tuple(lines), label, scale))
    printed = any("test_accuracy" in row.row.printed for row in everything)
    legend = {"values": "a run of ours" if printed else "a run"}
    if any(len(row.complete) > 1 for row in everything):
        legend |= {"mean": "mean", "interval": "95 % prediction interval"}
    if printed:
        legend["reference"] = "original"
    panels[0] = replace(panels[0], names=legend)
    return Figure(title, charts.dot_chart(title, panels))


def accuracy_scale(rows: Sequence[RowRuns]) -> str:
    """ "accuracy", an axis logarithmic in the share of errors, where accuracies crowd near 1; else "", linear."""
    top = max((ours.mean for row in rows if (ours := bests(row, "test_accuracy"))), default=0.0)
    return "accuracy" if top > 0.95 else ""


@dataclass(frozen=True)
class SideBySide:
    """Small multiples of all rows of a family: one of accuracy, one of loss."""

    figures: dict[str, Figure]  # by metric
    scales: dict[str, str]  # of their axes, as in charts.Panel.log
    hidden_size: bool  # whether that is among what differs from left to right
    left_out: bool  # whether more than OVERLAID rows share a panel, of which the longest are drawn


def side_by_side(rows: Sequence[RowRuns], family: str, mark: str) -> SideBySide | None:
    """Optimizers or cells down, other settings across; None for a single row, or for too many settings."""
    down = "optimizer" if rows[0].row.script == CNN else "cell"
    across = [flag for flag in varied_flags(rows) if flag not in (down, "epochs")]

    def place(row: RowRuns) -> tuple[str, str]:
        first = sorted(across, key=lambda flag: flag != "optimizer")
        texts = [flag_label(flag, setting(row, flag), short=True) for flag in first]
        value = setting(row, down)
        return cell_name(value) if down == "cell" else flag_label(down, value), ", ".join(texts) or "all rows"

    def epochs(row: RowRuns) -> int:
        return setting(row, "epochs") or 0

    def order(row: RowRuns) -> tuple:
        value = setting(row, down)
        return CELLS.index(value) if value in CELLS else len(CELLS), str(value) if down == "optimizer" else "", key(row)

    def key(row: RowRuns) -> tuple:
        return tuple(sort_key(setting(row, flag)) for flag in across)

    longer = {id(row): sum(place(o) == place(row) and epochs(o) > epochs(row) for o in rows) for row in rows}
    shown = sorted((row for row in rows if longer[id(row)] < OVERLAID), key=order)
    overlaid = len({place(row) for row in rows}) < len(rows)
    columns = list(dict.fromkeys(place(row)[1] for row in sorted(rows, key=key)))
    if len(rows) < 2 or len(columns) > COLUMNS or not any(run.history for row in shown for run in row.complete):
        return None
    figures, scales = {}, {"accuracy": accuracy_scale(rows), "loss": "loss"}
    for metric, ylabel in (("accuracy", "accuracy"), ("loss", "cross-entropy")):
        panels: dict[tuple[str, str], charts.Panel] = {}
        for row in shown:
            before = panels[place(row)].curves if place(row) in panels else ()
            curves = []
            for split, color in (("train", charts.TRAIN), ("test", charts.TEST)):
                runs = tuple(over_epochs(run, f"{split}_{metric}") for run in row.complete)
                style = ("-" if split == "test" else "--", ":", "-.")[min(len(before) // 2, 2)]
                label = f"{split}, {epochs(row)} epochs" if overlaid and epochs(row) else split
                label += f", {row.row.name}" if overlaid and not epochs(row) else ""
                curves.append(charts.Curve(label, color, runs, style))
            panels[place(row)] = charts.Panel("", (*before, *curves), ylabel, scales[metric])
        title = f"{family}: {metric} over epochs{mark}"
        names = list(dict.fromkeys(place(row)[0] for row in shown))
        figures[metric] = Figure(title, charts.small_multiples(title, names, columns, panels))
    return SideBySide(figures, scales, "hidden_size" in across, len(shown) < len(rows))


def drops(rows: Sequence[RowRuns], stability: Stability, title: str) -> Figure:
    """Each row's worst drops, and below them each cell's mean."""
    lines = []
    for row in rows:
        if found := worst_drops(row):
            lines.append(charts.Dots(row.row.name, found.values, found.mean if found.n > 1 else None))
    for each in stability.cells:
        interval = each.drop.interval and (max(each.drop.interval[0], 0.0), each.drop.interval[1])
        label = cell_name(each.cell)
        lines.append(charts.Dots(label, (), each.drop.value, interval, color=charts.THIRD, strong=True))
    legend = {"values": "a run", "mean": "mean"}
    if any(each.drop.interval for each in stability.cells):
        legend["interval"] = "95 % interval of the mean"
    panel = charts.DotPanel("", tuple(lines), "worst drop (logarithmic axis)", "drop", legend)
    return Figure(title, charts.dot_chart(title, [panel]))


def first_rows(networks: Sequence[Network], title: str) -> Figure:
    """Test accuracy against how many rows of an image were seen."""
    lines = [(each.label, *each.first_rows) for each in networks if each.first_rows]
    return Figure(title, charts.lines_chart(title, "rows seen, k", "test accuracy", lines))


def costs(networks: Sequence[Network], title: str) -> Figure:
    """Accuracy, parameters and time of each network at equal epochs."""

    def dots(label: str, values: tuple[float, ...]) -> charts.Dots:
        return charts.Dots(label, values, sum(values) / len(values) if len(values) > 1 else None)

    accuracy = tuple(dots(each.label, each.accuracy.values) for each in networks)
    sizes = tuple(dots(each.label, (float(each.parameters),)) for each in networks)
    times = tuple(dots(each.label, tuple(epoch_seconds([run]) for run in each.runs)) for each in networks)
    legend = {"values": "a run"} | ({"mean": "mean"} if any(len(each.runs) > 1 for each in networks) else {})
    label = "test accuracy (axis logarithmic in the share of errors)"
    panels = (
        charts.DotPanel("Best test accuracy", accuracy, label, "accuracy", legend),
        charts.DotPanel("Size", sizes, "parameters (logarithmic axis)", "loss"),
        charts.DotPanel("Time", times, "seconds an epoch, training and test (logarithmic axis)", "loss"),
    )
    return Figure(title, charts.dot_chart(title, panels))
