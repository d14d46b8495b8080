"""The report's sections on single rows, and the tables and pictures that set a family of rows side by side.

A family is all rows of one script: the CNN's or the recurrent networks'.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.grid.runs import Problem, RowRuns
from harness.metrics import METRICS
from harness.report import charts
from harness.report.document import Block, Code, Figure, Heading, Link, Strong, Table, Text, paragraph, remark, table
from harness.report.names import Names
from harness.report.results import (
    CELLS,
    CNN,
    DATA_NAMES,
    FIGURE_NAMES,
    FLAG_NAMES,
    ORIGINAL_FLAGS,
    bests,
    cell_name,
    column,
    compare,
    counted,
    dataset,
    described,
    interval_text,
    lasts,
    listed,
    seconds_an_epoch,
    setting,
    short_setting,
    sort_key,
    spread,
    values_of,
    varied_flags,
)
from harness.report.statistics import prediction_interval

OVERLAID = 3  # rows in one panel
COLUMNS = 8  # of panels side by side


def parameters_table(rows: Sequence[RowRuns]) -> Table:
    """The settings that were tried, as the original's table has them: a line a flag, a column a value."""
    flags = varied_flags(rows)
    flags += [flag for flag in ORIGINAL_FLAGS if flag not in flags and values_of(rows, flag) not in ([], [None])]
    lines = [
        [FLAG_NAMES.get(flag, flag.replace("_", " ")), *(described(flag, value) for value in values_of(rows, flag))]
        for flag in flags
    ]
    width = max((len(line) for line in lines), default=1)
    header = ("parameter", *(f"value {index}" for index in range(1, width)))
    return table(header, [(*line, *[""] * (width - len(line))) for line in lines])


def row_section(row: RowRuns, problems: Sequence[Problem], names: Names, level: int) -> list[Block]:
    """One row: note, state, curves, and the original's table with ours beside it."""
    blocks: list[Block] = [Heading(level, names.title(row), names.slug(row))]
    blocks.append(paragraph(Code(row.row.name), ". ", *_state(row)))
    if row.row.note.strip():
        blocks.append(remark("Note: ", row.row.note))
    sentences = problem_sentences(row, problems)
    if sentences:
        blocks.append(remark(" ".join(sentences)))
    figure = _curves(row, names)
    if figure:
        blocks.append(figure)
    if row.complete or row.row.printed:
        blocks.append(_row_table(row))
    return blocks


def _state(row: RowRuns) -> list:
    seeds = [str(run.seed) for run in row.complete]
    if not seeds:
        return [f"No complete run of the {counted(len(row.seeds), 'seed')} asked for."]
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {listed(seeds)}"
    if len(seeds) > 4 and seeds == [str(row.complete[0].seed + index) for index in range(len(seeds))]:
        which = f"seeds {seeds[0]} to {seeds[-1]}"
    seconds = seconds_an_epoch(row.complete)
    took = f"; {seconds:.1f} s an epoch (median)" if math.isfinite(seconds) else ""
    return [f"{counted(len(seeds), 'complete run')} ({which}){took}."]


def problem_sentences(row: RowRuns, problems: Sequence[Problem]) -> list[str]:
    """What is not as it should be with the row's runs, a sentence each."""
    sentences = []
    for problem in problems:
        if problem.row == row.row.name:
            text = problem.text.strip().rstrip(".")
            what = {"missing": "is missing", "failed": "failed", "diverged": "diverged"}.get(
                problem.status, problem.status
            )
            sentences.append(f"Seed {problem.seed} {what}{': ' + text if text else ''}.")
    told = {problem.seed for problem in problems if problem.row == row.row.name}
    for run in row.runs.values():
        if run.status != "complete" and run.seed not in told:
            sentences.append(f"Seed {run.seed} is not complete: its status is {run.status}.")
    incomplete = [run for run in row.runs.values() if run.status != "complete" and run.history]
    if incomplete and row.complete:
        sentences.append("Mean and standard deviation are over the complete runs only.")
    elif incomplete:
        sentences.append("The curves are those of what there is; no figure is taken from them.")
    return sentences


def _curves(row: RowRuns, names: Names) -> Figure | None:
    """Train and test loss, train and test accuracy over the epochs; None if no epoch was finished."""
    runs = row.complete or [run for run in row.runs.values() if run.history]
    if not runs:
        return None
    panels = []
    for quantity, label in (("loss", "cross-entropy"), ("accuracy", "accuracy")):
        curves = []
        for split, colour, style in (("train", charts.TRAIN, "--"), ("test", charts.TEST, "-")):
            figure = f"{split}_{quantity}"
            values = [tuple(column(run, figure)) for run in runs]
            if row.complete:
                curves.append(charts.Curve(split, colour, tuple(values), style, row.row.printed.get(figure)))
            else:  # of different lengths: each run by itself
                curves += [charts.Curve(split, colour, (each,), style, row.row.printed.get(figure)) for each in values]
        panels.append(charts.Panel("", tuple(curves), label))
    title = names.title(row)
    count = len(row.complete)
    if count > 1:
        how = f"Mean over {count} seeds; the band is ± one standard deviation."
    else:
        how = "A single run." if row.complete or len(runs) == 1 else "Unfinished runs, each by itself."
    if row.row.printed:
        how += " The thin dotted lines are the original's best figures."
    description = f"Loss and accuracy over epochs, train and test: {title}"
    return Figure(f"{names.slug(row)}.svg", charts.curve_chart(title, panels), description, (how,), 826)


def _row_table(row: RowRuns) -> Table:
    """The original's Best Loss and Best Accuracy beside ours."""
    count = len(row.complete)
    ours = f"ours, best ({'mean ± sd, ' if count > 1 else ''}n = {count})"
    header = ("", "original", ours, "ours, last epoch", "95 % prediction interval", "verdict")
    lines: list[tuple] = []
    for figure in METRICS:
        printed, comparison, sample = row.row.printed.get(figure), compare(row, figure), bests(row, figure)
        interval = prediction_interval(sample) if sample else None
        lines.append(
            (
                FIGURE_NAMES[figure],
                "–" if printed is None else described(figure, printed),
                spread(sample, figure),
                spread(lasts(row, figure), figure),
                interval_text(interval, figure),
                comparison.verdict if comparison else "–",
            )
        )
    return table(header, lines, left=(0, 5))


def overview_table(rows: Sequence[RowRuns], names: Names) -> Table:
    """A line a row: test figures, and how many of the printed ones agree."""
    header = (
        *("row", "complete", "test accuracy, best", "original", "test accuracy, last", "test loss, best", "original"),
        *("printed figures inside", "s/epoch"),
    )
    lines = []
    for row in rows:
        judged = [comparison for figure in METRICS if (comparison := compare(row, figure))]
        inside = [comparison for comparison in judged if comparison.inside]
        verdict = f"{len(inside)} of {len(judged)}" if judged and judged[0].inside is not None else "–"
        seconds = seconds_an_epoch(row.complete)
        lines.append(
            (
                Link(row.row.name, f"#{names.slug(row)}"),
                f"{len(row.complete)} of {len({*row.seeds, *(run.seed for run in row.complete)})}",
                spread(bests(row, "test_accuracy"), "test_accuracy"),
                _printed(row, "test_accuracy"),
                spread(lasts(row, "test_accuracy"), "test_accuracy"),
                spread(bests(row, "test_loss"), "test_loss"),
                _printed(row, "test_loss"),
                verdict,
                f"{seconds:.1f}" if math.isfinite(seconds) else "–",
            )
        )
    return table(header, lines)


def _printed(row: RowRuns, figure: str) -> str:
    return described(figure, row.row.printed[figure]) if figure in row.row.printed else "–"


def overview_figure(families: Sequence[tuple[str, Sequence[RowRuns]]], names: Names) -> Figure:
    """Every row's best test accuracy beside the original's, a panel a family."""
    panels, several = [], False
    for title, rows in families:
        lines = []
        for row in rows:
            sample, printed = bests(row, "test_accuracy"), row.row.printed.get("test_accuracy")
            interval = prediction_interval(sample) if sample else None
            several |= interval is not None
            if interval:
                interval = max(interval[0], 0.0), min(interval[1], 1.0)
            mean = sample.mean if sample and sample.n > 1 else None
            lines.append(charts.Dots(row.row.name, sample.values if sample else (), mean, interval, printed))
        scale = accuracy_scale(rows)
        label = "best test accuracy" + (" (axis logarithmic in the share of errors)" if scale else "")
        panels.append(charts.DotPanel(title, tuple(lines), label, scale))
    legend = {"values": "a run of ours"}
    if several:
        legend |= {"mean": "mean", "interval": "95 % prediction interval"}
    if any(row.row.printed.get("test_accuracy") is not None for _, rows in families for row in rows):
        legend["reference"] = "original"
    panels[0] = replace(panels[0], names=legend)
    title = names.marked("Best test accuracy of every row")
    parts = ["Each dot is a run, its best test accuracy over the epochs"]
    if several:
        parts.append(
            "; the pale bar is where one further run would lie with 95 % probability if runs were normally distributed "
            "(cut off at the ends of the axis)"
        )
    if "reference" in legend:
        parts.append("; the diamond is what the original printed for its single run")
    caption: Text = ("".join(parts) + ".",)
    return Figure("overview.svg", charts.dot_chart(title, panels), title, caption, 826)


def accuracy_scale(rows: Sequence[RowRuns]) -> str:
    """ "accuracy", an axis logarithmic in the share of errors, where accuracies crowd near 1; else "", linear."""
    top = max((sample.mean for row in rows if (sample := bests(row, "test_accuracy"))), default=0.0)
    return "accuracy" if top > 0.95 else ""


def multiples(family: str, rows: Sequence[RowRuns], names: Names) -> list[Figure]:
    """Small multiples of accuracy and of loss: optimizers against the other settings, or cells against settings."""
    of_cells = rows[0].row.script != CNN
    down = "cell" if of_cells else "optimizer"
    across = [flag for flag in varied_flags(rows) if flag not in (down, "epochs")]
    order = {cell: index for index, cell in enumerate(CELLS)}

    def row_name(row: RowRuns) -> str:
        value = setting(row, down)
        return cell_name(value) if of_cells else described(down, value)

    def column_name(row: RowRuns) -> str:
        first = sorted(across, key=lambda flag: flag != "optimizer")
        texts = [short_setting(flag, setting(row, flag)) for flag in first]
        return ", ".join(texts) or "all rows"

    def place(row: RowRuns) -> tuple:
        value = setting(row, down)
        first = (order.get(value, len(order)), "") if of_cells else (0, str(value))
        return (*first, *(sort_key(setting(row, flag)) for flag in across))

    ordered = sorted(rows, key=place)
    ordered, left_out = _longest(ordered, lambda row: (row_name(row), column_name(row)))
    down_names = list(dict.fromkeys(row_name(row) for row in ordered))
    column_of = {tuple(sort_key(setting(row, flag)) for flag in across): column_name(row) for row in rows}
    across_names = list(dict.fromkeys(column_of[key] for key in sorted(column_of)))
    if len(across_names) > COLUMNS:
        return []
    figures = []
    for quantity, ylabel in (("accuracy", "accuracy"), ("loss", "cross-entropy")):
        log = "loss" if quantity == "loss" else accuracy_scale(rows)
        panels: dict[tuple[str, str], charts.Panel] = {}
        for row in ordered:
            key = row_name(row), column_name(row)
            before = panels[key].curves if key in panels else ()
            curves = []
            for split, colour in (("train", charts.TRAIN), ("test", charts.TEST)):
                runs = tuple(tuple(column(run, f"{split}_{quantity}")) for run in row.complete)
                repeated = sum(1 for curve in before if curve.colour == colour)
                style = ("-" if split == "test" else "--", ":", "-.")[min(repeated, 2)]
                label = split
                if _overlaid(rows, row_name, column_name):
                    epochs = setting(row, "epochs")
                    label = f"{split}, {epochs} epochs" if epochs is not None else f"{split}, {row.row.name}"
                curves.append(charts.Curve(label, colour, runs, style))
            panels[key] = charts.Panel("", (*before, *curves), ylabel, log)
        if not any(curve.runs for panel in panels.values() for curve in panel.curves):
            return []
        title = names.marked(f"{family}: {quantity} over epochs")
        scale = {"accuracy": "; the axis is logarithmic in the share of errors", "loss": "; the axis is logarithmic"}
        several = any(len(row.complete) > 1 for row in rows)
        caption = (
            f"{'Optimizers' if not of_cells else 'Cells'} from top to bottom, other settings from left to right, all "
            f"panels on the same axes{scale.get(log, '')}."
            + (" h is the hidden size." if "hidden_size" in across else "")
            + (f" Of rows that differ in epochs alone the {OVERLAID} longest are drawn." if left_out else "")
            + (" Mean over seeds; the band is ± one standard deviation." if several else "")
        )
        svg = charts.small_multiples(title, down_names, across_names, panels)
        name = f"{'recurrent' if of_cells else 'cnn'}-{quantity}.svg"
        figures.append(Figure(name, svg, title, (caption,), 826))
    return figures


def _longest(rows: Sequence[RowRuns], place: Callable) -> tuple[list[RowRuns], bool]:
    """The rows without those that are the shortest in their panel if more than OVERLAID share it, and if any are."""
    kept = []
    for row in rows:
        longer = [other for other in rows if place(other) == place(row) and _epochs(other) > _epochs(row)]
        if len(longer) < OVERLAID:
            kept.append(row)
    return kept, len(kept) < len(rows)


def _epochs(row: RowRuns) -> int:
    epochs = setting(row, "epochs")
    return epochs if isinstance(epochs, int) else 0


def _overlaid(rows: Sequence[RowRuns], row_name: Callable, column_name: Callable) -> bool:
    """Whether two rows share a panel."""
    return len({(row_name(row), column_name(row)) for row in rows}) < len(rows)


def data_title(rows: Sequence[RowRuns]) -> str:
    """Which images a family saw: `CIFAR10`, `MNIST and synthetic images`."""
    return listed(list(dict.fromkeys(DATA_NAMES.get(dataset(row), dataset(row)) for row in rows)))


def agreement(families: Sequence[tuple[str, Sequence[RowRuns]]], names: Names) -> list[Block]:
    """Every printed figure beside ours, and how many lie in the prediction interval."""
    judged = [
        (family, row, comparison)
        for family, rows in families
        for row in rows
        for figure in METRICS
        if (comparison := compare(row, figure))
    ]
    printed = sum(len(row.row.printed) for _, rows in families for row in rows)
    if not printed:
        return []
    blocks: list[Block] = [Heading(2, "Where it agrees, and where not", "agreement")]
    with_interval = [each for each in judged if each[2].inside is not None]
    inside = [each for each in with_interval if each[2].inside]
    if with_interval:
        blocks.append(
            paragraph(
                Strong(f"{len(inside)} of {counted(len(with_interval), 'printed figure')} lie in the interval"),
                " in which one more run of ours would lie with 95 % probability. If the original had been made with "
                "just our code and settings, about 95 of 100 would; the four figures of a row come from the same run, "
                "and the runs of all rows from the same few seeds, so they agree or disagree together. With few seeds "
                "the intervals are wide, and being inside says little, and still less where a setting was chosen "
                "because it comes near these very figures. A printed figure is inside if a number rounded to it is.",
            )
        )
        for family, rows in families:
            of_family = [each for each in with_interval if each[1] in rows]
            if of_family and len(families) > 1:
                number = sum(1 for each in of_family if each[2].inside)
                outside = list(dict.fromkeys(each[1].row.name for each in of_family if not each[2].inside))
                text = f"{family}: {number} of {len(of_family)} inside."
                blocks.append(paragraph(text, *((" Outside in: " + ", ".join(outside) + ".",) if outside else ())))
    alone = len(judged) - len(with_interval)
    if alone:
        blocks.append(
            paragraph(f"{counted(alone, 'figure')} can only be subtracted: a single seed of ours has no spread.")
        )
    if printed > len(judged):
        waiting = counted(printed - len(judged), "printed figure")
        blocks.append(paragraph(f"Without a complete run of ours beside it yet: {waiting}."))
    lines = [
        (
            Link(row.row.name, f"#{names.slug(row)}"),
            FIGURE_NAMES[comparison.figure],
            described("", comparison.printed),
            spread(comparison.ours, comparison.figure),
            str(comparison.ours.n),
            interval_text(comparison.interval, comparison.figure),
            comparison.verdict,
        )
        for _, row, comparison in judged
    ]
    header = ("row", "figure", "original", "ours, best", "n", "95 % prediction interval", "verdict")
    if lines:
        blocks.append(table(header, lines, left=(0, 1, 6)))
    return blocks
