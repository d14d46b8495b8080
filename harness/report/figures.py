"""Which numbers each figure of the report shows; `charts` draws them."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.flags import flag_label
from harness.grid.runs import RowRuns
from harness.image_sets import CNN
from harness.report import charts, results
from harness.report.charts import Curve, DotPanel, Dots
from harness.report.conclusions import CellDrop, Network, compare
from harness.report.results import bests, over_epochs, setting
from harness.report.statistics import Sample

OVERLAID = 3  # rows in one panel
COLUMNS = 8  # of panels side by side
SPLITS = (("train", charts.TRAIN, "--"), ("test", charts.TEST, "-"))
YLABELS = {"loss": "cross-entropy", "accuracy": "accuracy"}


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
    panels: dict[str, list[Curve]] = {}
    for quantity, ylabel in YLABELS.items():
        for split, color, style in SPLITS:
            metric = f"{split}_{quantity}"
            values = tuple(over_epochs(run, metric) for run in runs)
            # Unfinished runs are of different lengths: each by itself.
            for together in [values] if row.complete else [(each,) for each in values]:
                curve = Curve(split, color, together, style, row.row.printed.get(metric))
                panels.setdefault(ylabel, []).append(curve)
    return Figure(f"Loss and accuracy over epochs, train and test: {title}", charts.curve_chart(title, panels))


def overview(families: Sequence[results.Family], title: str) -> Figure:
    """Every row's best test accuracy beside the original's, a panel a family."""
    panels, legend = [], {"values": "a run"}
    for family in families:
        lines = []
        for row in family.rows:
            found = compare(row, "test_accuracy")
            lines.append(_dots(row.row.name, found.ours, found.interval, found.printed))
        if any(line.interval for line in lines):
            legend |= {"mean": "mean", "interval": "95 % prediction interval"}
        if any(line.reference is not None for line in lines):
            legend |= {"values": "a run of ours", "reference": "original"}
        scale = accuracy_scale(family.rows)
        label = "best test accuracy" + (" (axis logarithmic in the share of errors)" if scale else "")
        panels.append(DotPanel(family.title, lines, label, scale))
    return Figure(title, charts.dot_chart(title, panels, legend))


def _dots(
    label: str, sample: Sample | None, interval: tuple[float, float] | None = None, reference: float | None = None
) -> Dots:
    """A line with a row's values, and their mean where there are several."""
    mean = sample.mean if sample and sample.n > 1 else None
    return Dots(label, sample.values if sample else (), mean, interval, reference)


def accuracy_scale(rows: Sequence[RowRuns]) -> str:
    """ "accuracy", an axis logarithmic in the share of errors, where accuracies crowd near 1; else "", linear."""
    top = max((bests(row.complete, "test_accuracy").mean for row in rows if row.complete), default=0.0)
    return "accuracy" if top > 0.95 else ""


def side_by_side(rows: Sequence[RowRuns], family: str, mark: str) -> dict | None:
    """Small multiples, one of accuracy and one of loss: optimizers or cells down, other settings across.

    None for a single row, or for too many settings.
    """
    down = "optimizer" if rows[0].row.script == CNN else "cell"
    across = [flag for flag in results.varied_flags(rows) if flag not in (down, "epochs")]

    def place(row: RowRuns) -> tuple[str, str]:
        """The panel of a row."""
        first = sorted(across, key=lambda flag: flag != "optimizer")
        texts = [flag_label(flag, setting(row, flag), short=True) for flag in first]
        return flag_label(down, setting(row, down)), ", ".join(texts) or "all rows"

    def key(row: RowRuns) -> tuple:
        return tuple(setting(row, flag) for flag in across)

    def is_shown(row: RowRuns) -> bool:
        longer = [o for o in rows if place(o) == place(row) and setting(o, "epochs") > setting(row, "epochs")]
        return len(longer) < OVERLAID

    order = results.values_of(rows, down) if down == "optimizer" else results.CELLS
    shown = sorted(filter(is_shown, rows), key=lambda row: (order.index(setting(row, down)), key(row)))
    overlaid = len({place(row) for row in rows}) < len(rows)
    columns = list(dict.fromkeys(place(row)[1] for row in sorted(rows, key=key)))
    if len(rows) < 2 or len(columns) > COLUMNS or not any(row.complete for row in shown):
        return None
    figures, scales = {}, {"accuracy": accuracy_scale(rows), "loss": "loss"}
    for quantity, scale in scales.items():
        panels: dict[tuple[str, str], list[Curve]] = {}
        for row in shown:
            panel = panels.setdefault(place(row), [])
            overlay = min(len(panel) // 2, 2)  # how many rows are in this panel already
            name = f", {flag_label('epochs', setting(row, 'epochs'), short=True)}"
            for split, color, style in SPLITS:
                runs = tuple(over_epochs(run, f"{split}_{quantity}") for run in row.complete)
                panel.append(Curve(split + name * overlaid, color, runs, (style, ":", "-.")[overlay]))
        title = f"{family}: {quantity} over epochs{mark}"
        figures[quantity] = Figure(title, charts.small_multiples(title, columns, panels, YLABELS[quantity], scale))
    return {
        "figures": figures,  # by metric
        "scales": scales,  # of their axes, as in charts
        "hidden_size": "hidden_size" in across,
        "left_out": len(shown) < len(rows),  # whether more than OVERLAID rows share a panel
    }


def drops(rows: Sequence[RowRuns], cells: Sequence[CellDrop], title: str) -> Figure:
    """Each row's worst drops, and below them each cell's mean."""
    lines = [_dots(row.row.name, found) for row in rows if (found := results.worst_drops(row))]
    legend = {"values": "a run", "mean": "mean"}
    for each in cells:
        label = results.cell_name(each.cell)
        lines.append(Dots(label, (), each.drop.value, each.interval, color=charts.THIRD, strong=True))
        if each.interval:
            legend["interval"] = "95 % interval of the mean"
    panel = DotPanel("", lines, "worst drop (logarithmic axis)", "drop")
    return Figure(title, charts.dot_chart(title, [panel], legend))


def first_rows(networks: Sequence[Network], title: str) -> Figure:
    """Test accuracy against how many rows of an image were seen."""
    lines = [(each.label, *each.first_rows) for each in networks if each.first_rows]
    return Figure(title, charts.lines_chart(title, "rows seen, k", "test accuracy", lines))


def costs(networks: Sequence[Network], title: str) -> Figure:
    """Accuracy, parameters and time of each network at equal epochs."""
    accuracies, sizes, times = [], [], []
    for each in networks:
        accuracies.append(_dots(each.label, bests(each.runs, "test_accuracy")))
        sizes.append(Dots(each.label, (each.parameters,)))
        times.append(_dots(each.label, Sample(tuple(results.epoch_seconds([run]) for run in each.runs))))
    legend = {"values": "a run"} | ({"mean": "mean"} if any(len(each.runs) > 1 for each in networks) else {})
    label = "test accuracy (axis logarithmic in the share of errors)"
    panels = (
        DotPanel("Best test accuracy", accuracies, label, "accuracy"),
        DotPanel("Size", sizes, "parameters (logarithmic axis)", "loss"),
        DotPanel("Time", times, "seconds an epoch, training and test (logarithmic axis)", "loss"),
    )
    return Figure(title, charts.dot_chart(title, panels, legend))
