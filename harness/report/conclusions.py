"""What the report concludes, computed from the runs: which setting is best, and which cell trains more steadily.

Each sentence is chosen by the numbers; none of them presumes how they come out.
"""

import itertools
import math
from collections.abc import Sequence

from harness.grid.runs import FINISHED, RowRuns
from harness.report import charts
from harness.report.document import Block, Figure, Link, Paragraph, Strong, paragraph, table
from harness.report.names import Names
from harness.report.results import (
    CELLS,
    bests,
    cell_name,
    counted,
    described,
    interval_of,
    lasts,
    listed,
    setting,
    signed,
    sort_key,
    spread,
    varied_flags,
    worst_drops,
)
from harness.report.statistics import Estimate, Sample, weighted_sum


def best_setting(rows: Sequence[RowRuns], names: Names) -> Paragraph:
    """Which row has the best mean test accuracy, and whether that is more than chance."""
    ranked = sorted(
        ((sample, row) for row in rows if (sample := bests(row, "test_accuracy"))), key=lambda each: -each[0].mean
    )
    if not ranked:
        return paragraph("No run is complete yet, so no setting can be called the best.")
    accuracy, first = ranked[0]
    loss = bests(first, "test_loss")
    parts = [
        "The best setting is ",
        Strong(names.title(first)),
        f": testing loss {spread(loss, 'test_loss')} and testing accuracy {spread(accuracy, 'test_accuracy')}",
        f" (best over the epochs, {counted(accuracy.n, 'run')}).",
    ]
    lowest = min((bests(row, "test_loss").mean, row.row.name) for _, row in ranked)
    if lowest[1] != first.row.name:
        other = next(row for _, row in ranked if row.row.name == lowest[1])
        its_loss = spread(bests(other, "test_loss"), "test_loss")
        parts.append(f" By testing loss it is {names.title(other)} instead, with {its_loss}.")
    if len(ranked) > 1:
        parts += _runner_up(ranked[0], ranked[1], names)
    parts += _originals_best(rows, first, names)
    absent = [row.row.name for row in rows if not row.complete]
    if absent:
        parts.append(f" Not judged, for want of a complete run: {listed(absent)}.")
    return paragraph(*parts)


def _runner_up(best: tuple[Sample, RowRuns], next_best: tuple[Sample, RowRuns], names: Names) -> list[str]:
    """The second best row, and whether the difference is more than chance."""
    (accuracy, first), (second, runner_up) = best, next_best
    parts = [f" The next by accuracy, {names.title(runner_up)}, has {spread(second, 'test_accuracy')}"]
    if _are_beginnings(runner_up, first):
        epochs = len(runner_up.complete[0].history)
        accuracy, second = lasts(first, "test_accuracy"), lasts(runner_up, "test_accuracy")
        parts.append(
            f"; these are the same runs, ended after {counted(epochs, 'epoch')}, and the best of more epochs is never "
            "less. By the last epoch"
        )
    else:
        parts.append(":")
    difference = weighted_sum([accuracy, second], [1, -1])
    parts.append(f" a difference of {difference.value:.4f}".replace("-", "−"))
    if difference.interval is None:
        return [*parts, "; a single seed of either cannot tell that from chance."]
    told = "cannot explain" if difference.sign else "can explain"
    interval = interval_of(difference, "test_accuracy", accuracy.mean)
    return [*parts, f" (95 % interval {interval}{_paired(difference)}), which the spread over seeds {told}."]


def _are_beginnings(shorter: RowRuns, longer: RowRuns) -> bool:
    """Whether the runs of one row are, number for number, how those of the other began, seed by seed."""

    def metrics(row: RowRuns, seed: int) -> list[tuple]:
        return [epoch._replace(seconds=0) for epoch in row.runs[seed].history]

    seeds = {run.seed for run in shorter.complete}
    return seeds == {run.seed for run in longer.complete} and all(
        len(metrics(shorter, seed)) < len(metrics(longer, seed))
        and metrics(longer, seed)[: len(metrics(shorter, seed))] == metrics(shorter, seed)
        for seed in seeds
    )


def _paired(difference: Estimate) -> str:
    return ", seed by seed" if difference.paired else ""


def _originals_best(rows: Sequence[RowRuns], ours: RowRuns, names: Names) -> list[str]:
    """Which row the original's printed test accuracies make the best; nothing if it printed none."""
    printed = [row for row in rows if "test_accuracy" in row.row.printed]
    if not printed:
        return []
    theirs = max(printed, key=lambda row: row.row.printed["test_accuracy"])
    figures = [
        f"{name} {described('', theirs.row.printed[figure])}"
        for name, figure in (("testing loss", "test_loss"), ("testing accuracy", "test_accuracy"))
        if figure in theirs.row.printed
    ]
    which = "the same one" if theirs is ours else f"another, {names.title(theirs)}"
    return [f" The original's best is {which}: {listed(figures)}."]


def stability(rows: Sequence[RowRuns], names: Names) -> list[Block]:
    """How steadily each cell trains: spread over seeds and the worst drop of test accuracy from epoch to epoch."""
    measured = [row for row in rows if worst_drops(row)]
    if not measured:
        return []
    diverged = _diverged(rows)
    blocks: list[Block] = [
        paragraph(
            "How stable is training? Two numbers a row: the standard deviation over seeds of the best test accuracy, "
            "and the worst drop, by how much test accuracy fell from one epoch to the next at worst (mean over the "
            "row's runs, and the largest of them)."
        )
    ]
    lines = []
    for row in rows:
        accuracy, drops = bests(row, "test_accuracy"), worst_drops(row)
        lost = sum(1 for run in row.runs.values() if run.status == "diverged")
        if drops is None:
            lines += [(Link(row.row.name, f"#{names.slug(row)}"), "0", "–", "–", "–", str(lost))] if lost else []
            continue
        lines.append(
            (
                Link(row.row.name, f"#{names.slug(row)}"),
                str(drops.n),
                "–" if accuracy.sd is None else f"{accuracy.sd:.4f}",
                spread(drops, "drop"),
                f"{max(drops.values):.4f}",
                str(lost),
            )
        )
    header = ("row", "runs", "sd of best test accuracy", "worst drop, mean ± sd", "largest drop", "diverged")
    blocks.append(table(header, lines))
    cells = _by_cell(measured)
    shared = _shared_settings(measured, cells)
    estimates = {cell: _cell_drop(shared[cell]) for cell in cells if shared.get(cell)}
    blocks.append(_figure(measured, estimates, names))
    blocks += _verdict(shared, estimates, diverged)
    return blocks


def _by_cell(rows: Sequence[RowRuns]) -> list[str]:
    found = {str(setting(row, "cell")) for row in rows if setting(row, "cell") is not None}
    return [*(cell for cell in CELLS if cell in found), *sorted(found - set(CELLS))]


def _shared_settings(rows: Sequence[RowRuns], cells: Sequence[str]) -> dict[str, list[RowRuns]]:
    """Each cell's rows in the settings that every cell has, in the same order; all its rows if there is one cell."""
    flags = varied_flags(rows)
    by_cell: dict[str, dict[tuple, RowRuns]] = {cell: {} for cell in cells}
    for row in rows:
        if str(setting(row, "cell")) in by_cell:
            by_cell[str(setting(row, "cell"))][tuple(sort_key(setting(row, flag)) for flag in flags)] = row
    common = set.intersection(*(set(settings) for settings in by_cell.values())) if by_cell else set()
    return {cell: [settings[key] for key in sorted(common)] for cell, settings in by_cell.items()}


def _cell_drop(rows: Sequence[RowRuns]) -> Estimate:
    """The mean over settings of the mean worst drop; chance is that of the seeds alone."""
    return weighted_sum([worst_drops(row) for row in rows], [1 / len(rows)] * len(rows))


def _figure(rows: Sequence[RowRuns], estimates: dict[str, Estimate], names: Names) -> Figure:
    lines = []
    for row in rows:
        drops = worst_drops(row)
        lines.append(charts.Dots(row.row.name, drops.values, drops.mean if drops.n > 1 else None))
    for cell, estimate in estimates.items():
        interval = estimate.interval and (max(estimate.interval[0], 0.0), estimate.interval[1])
        lines.append(charts.Dots(cell_name(cell), (), estimate.value, interval, colour=charts.THIRD, strong=True))
    title = names.marked("Worst drop of test accuracy from one epoch to the next")
    legend = {"values": "a run", "mean": "mean"}
    caption = "Each dot is a run; to the right is less stable."
    if estimates:
        legend |= {"interval": "95 % interval of the mean"} if any(each.interval for each in estimates.values()) else {}
        caption += (
            " In bold: the mean over the settings that all cells share, with its 95 % interval where there is one."
        )
    panel = charts.DotPanel("", tuple(lines), "worst drop (logarithmic axis)", "drop", legend)
    return Figure("stability.svg", charts.dot_chart(title, [panel]), title, (caption,), 826)


def _verdict(shared: dict[str, list[RowRuns]], estimates: dict[str, Estimate], diverged: Sequence[str]) -> list[Block]:
    """The original's claim as numbers: each cell's mean worst drop, and the differences between the cells.

    `diverged` tells of diverged runs, whose drops are not known: with any there is no verdict.
    """
    if not estimates:
        return [paragraph("No setting was run with every cell, so the cells are not compared.")]
    lines = []
    for cell, estimate in estimates.items():
        runs = sum(len(row.complete) for row in shared[cell])
        interval = (
            "–" if estimate.interval is None else f"{max(0, estimate.interval[0]):.4f} … {estimate.interval[1]:.4f}"
        )
        deviations = [accuracy.sd for row in shared[cell] if (accuracy := bests(row, "test_accuracy")).sd is not None]
        typical = math.sqrt(math.fsum(sd**2 for sd in deviations) / len(deviations)) if deviations else None
        lines.append(
            (
                cell_name(cell),
                str(len(shared[cell])),
                str(runs),
                f"{estimate.value:.4f}",
                interval,
                "–" if typical is None else f"{typical:.4f}",
            )
        )
    header = ("cell", "settings", "runs", "worst drop, mean", "95 % interval", "sd over seeds, root mean square")
    blocks: list[Block] = [table(header, lines)]
    if len(estimates) < 2:
        return blocks
    ranked = sorted(estimates, key=lambda cell: estimates[cell].value)
    order = ", ".join(f"{cell_name(cell)} {estimates[cell].value:.4f}" for cell in ranked)
    if diverged:
        judged = [Strong("No cell is called the most stable, as runs diverged"), f": {listed(diverged)}. "]
        judged += ["The others' mean worst drop is "]
    else:
        most, least = ranked[0], ranked[-1]
        judged = [f"By the mean worst drop {cell_name(most)} is the most stable and {cell_name(least)} the least"]
        if _difference(shared[least], shared[most]).sign == 0:
            judged += [", but ", Strong("these seeds cannot tell that from chance")]
        judged += [": "]
    blocks.append(
        paragraph(
            *judged,
            f"{order} ({counted(len(shared[ranked[0]]), 'setting')} that all cells share). The settings are taken as "
            "fixed and the seeds as the only source of chance: intervals are Student's, of a mean for each seed"
            + ("" if all(each.paired for each in estimates.values()) else ", or Welch's where the seeds differ")
            + ".",
        )
    )
    sentences = []
    for less, more in itertools.combinations(ranked, 2):
        difference = _difference(shared[more], shared[less])
        name = f"{cell_name(more)} − {cell_name(less)}: {signed(difference.value, 'drop', difference.value)}"
        if difference.interval is None:
            sentences.append(f"{name}; a single seed gives no interval.")
            continue
        interval = interval_of(difference, "drop", difference.value)
        told = "larger by more than chance" if difference.sign > 0 else "not to be told from chance with these seeds"
        sentences.append(f"{name} ({interval}), {told}.")
    blocks.append(paragraph("Differences of the mean worst drop, with their 95 % intervals: ", " ".join(sentences)))
    return blocks if diverged else [*blocks, *_original_claim(shared)]


def _diverged(rows: Sequence[RowRuns]) -> list[str]:
    """How many runs of each cell diverged, in words; nothing of a cell without any."""
    found = []
    for cell in _by_cell(rows):
        of_cell = [row for row in rows if str(setting(row, "cell")) == cell]
        runs = [run for row in of_cell for run in row.runs.values() if run.status in FINISHED]
        lost = sum(run.status == "diverged" for run in runs)
        if lost:
            found.append(f"{lost} of {counted(len(runs), 'run')} of {cell_name(cell)}")
    return found


def _difference(more: Sequence[RowRuns], less: Sequence[RowRuns]) -> Estimate:
    samples: list[Sample] = [worst_drops(row) for row in (*more, *less)]
    return weighted_sum(samples, [1 / len(more)] * len(more) + [-1 / len(less)] * len(less))


def _original_claim(shared: dict[str, list[RowRuns]]) -> list[Block]:
    if not shared.get("rnn"):
        return []
    verdicts = {1: "holds", -1: "is contradicted", 0: "is neither confirmed nor refuted"}
    parts = []
    for cell in ("lstm", "gru"):
        if shared.get(cell):
            difference = _difference(shared["rnn"], shared[cell])
            if difference.interval is None:
                verdict = f"{'fits' if difference.value > 0 else 'does not fit'} our runs, too few for an interval"
            else:
                verdict = verdicts[difference.sign]
                if difference.sign == 0 and difference.value != 0:
                    verdict += f" (our means point {'its way' if difference.value > 0 else 'the other way'})"
            parts.append(f"for {cell_name(cell)} it {verdict}")
    if not parts:
        return []
    claim = "The original says that LSTM and GRU are more stable than RNN. By the worst drop, "
    return [paragraph(claim, Strong(listed(parts)), ".")]
