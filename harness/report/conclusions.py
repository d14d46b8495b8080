"""What the report concludes from the runs, as small data: which setting is best, which cell trains more steadily, …

The sentences are in templates/, which choose them by these numbers; nothing here presumes how the numbers come out.
"""

import csv
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analyses.first_rows import FILE as FIRST_ROWS
from harness.errors import UserError
from harness.files import read_file
from harness.flags import RESULT_FLAGS, flag_label
from harness.grid.runs import FINISHED, RowRuns, Run, complete_runs
from harness.metrics import METRICS
from harness.report.results import (
    ORIGINAL_FLAGS,
    Comparison,
    best,
    bests,
    by_cell,
    cell_name,
    compare,
    lasts,
    sample,
    setting,
    sort_key,
    varied_flags,
    worst_drops,
)
from harness.report.statistics import Estimate, Sample, weighted_sum

# -- the best setting --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The row with the best mean test accuracy, and how sure that is."""

    row: RowRuns
    lowest_loss: RowRuns
    next_best: RowRuns | None
    same_runs: bool  # the next best is the beginning of the best: the last epochs are compared instead
    difference: Estimate | None  # of the mean accuracies of the two
    original: RowRuns | None  # the row that the original's printed accuracies make the best


def best_setting(rows: Sequence[RowRuns]) -> Best | None:
    """None if no run is complete."""
    ranked = sorted((row for row in rows if row.complete), key=lambda row: -bests(row, "test_accuracy").mean)
    if not ranked:
        return None
    first, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    lowest_loss = min(ranked, key=lambda row: (bests(row, "test_loss").mean, row.row.name))
    same_runs, difference = second is not None and _is_beginning_of(second, first), None
    if second:
        accuracy = lasts if same_runs else bests
        difference = weighted_sum([accuracy(row, "test_accuracy") for row in (first, second)], [1, -1])
    printed = [row for row in rows if "test_accuracy" in row.row.printed]
    original = max(printed, key=lambda row: row.row.printed["test_accuracy"], default=None)
    return Best(first, lowest_loss, second, same_runs, difference, original)


def _is_beginning_of(shorter: RowRuns, longer: RowRuns) -> bool:
    """Whether the runs of one row are, number for number, how those of the other began, seed by seed."""

    def metrics(row: RowRuns, seed: int) -> list[tuple]:
        return [epoch._replace(seconds=0) for epoch in row.runs[seed].history]

    seeds = {run.seed for run in shorter.complete}
    return seeds == {run.seed for run in longer.complete} and all(
        len(metrics(shorter, seed)) < len(metrics(longer, seed))
        and metrics(longer, seed)[: len(metrics(shorter, seed))] == metrics(shorter, seed)
        for seed in seeds
    )


# -- agreement with the original ---------------------------------------------------------------------------------------


def comparisons(rows: Iterable[RowRuns]) -> list[tuple[RowRuns, Comparison]]:
    """Every printed metric of the rows beside ours, where there is a complete run."""
    return [(row, comparison) for row in rows for metric in METRICS if (comparison := compare(row, metric))]


# -- stability ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellDrop:
    """A cell in the settings that all cells share; `drop` is the mean over these settings of the mean worst drop."""

    cell: str
    rows: list[RowRuns]
    drop: Estimate
    typical_sd: float | None  # of the best test accuracy over seeds: the root of the rows' mean square


@dataclass(frozen=True)
class Stability:
    """How steadily each cell trains."""

    cells: list[CellDrop]
    ranked: list[CellDrop]  # the smallest drop first
    differences: list[tuple[str, str, Estimate]]  # (larger drop, smaller drop, difference) for each two cells
    surely_least: bool  # the last of `ranked` drops more than the first, by more than chance
    claims: list[tuple[str, Estimate]]  # the original's: how much larger RNN's drop is than the cell's
    diverged: list[tuple[str, int, int]]  # (cell, diverged, finished runs): with any there is no verdict


def stability_of(rows: Sequence[RowRuns]) -> Stability | None:
    """None if no row has a complete run of several epochs."""
    measured = [row for row in rows if worst_drops(row)]
    if not measured:
        return None
    flags = varied_flags(measured)
    by_setting = {
        cell: {tuple(sort_key(setting(row, flag)) for flag in flags): row for row in of_cell}
        for cell, of_cell in by_cell(measured).items()
        if cell is not None
    }
    shared = sorted(set.intersection(*map(set, by_setting.values()))) if by_setting else []
    cells = []
    for cell, settings in by_setting.items() if shared else ():
        of_cell = [settings[key] for key in shared]
        drop = weighted_sum([worst_drops(row) for row in of_cell], [1 / len(of_cell)] * len(of_cell))
        deviations = [sd for row in of_cell if (sd := bests(row, "test_accuracy").sd) is not None]
        typical = math.sqrt(math.fsum(sd**2 for sd in deviations) / len(deviations)) if deviations else None
        cells.append(CellDrop(str(cell), of_cell, drop, typical))
    ranked = sorted(cells, key=lambda each: each.drop.value)
    differences = [(more.cell, less.cell, _difference(more, less)) for less, more in itertools.combinations(ranked, 2)]
    named = {each.cell: each for each in cells}
    claims = [(cell, _difference(named["rnn"], named[cell])) for cell in ("lstm", "gru") if {"rnn", cell} <= {*named}]
    surely = len(ranked) > 1 and _difference(ranked[-1], ranked[0]).sign != 0
    return Stability(cells, ranked, differences, surely, claims, _diverged(rows))


def _difference(more: CellDrop, less: CellDrop) -> Estimate:
    samples = [worst_drops(row) for row in (*more.rows, *less.rows)]
    return weighted_sum(samples, [1 / len(more.rows)] * len(more.rows) + [-1 / len(less.rows)] * len(less.rows))


def _diverged(rows: Sequence[RowRuns]) -> list[tuple[str, int, int]]:
    found = []
    for cell, of_cell in by_cell(rows).items():
        statuses = [run.status for row in of_cell for run in row.runs.values() if run.status in FINISHED]
        if "diverged" in statuses:
            found.append((cell_name(cell), statuses.count("diverged"), len(statuses)))
    return found


# -- the CNN on MNIST --------------------------------------------------------------------------------------------------


ALIKE = ("optimizer", "lr", "epochs")  # flags that the compared networks have in common


@dataclass(frozen=True)
class Network:
    """One of the networks that are compared on MNIST. Accuracy by the first rows of an image is of one run, if any."""

    label: str
    runs: list[Run]
    parameters: int
    first_rows: tuple[list[int], list[float]] | None  # how many rows were seen, and the test accuracy
    seed: int | None  # of the run with first_rows

    @property
    def settings(self) -> str:
        """What the compared networks have in common."""
        flags = self.runs[0].config["flags"]
        return ", ".join(flag_label(flag, flags[flag], short=True) for flag in ALIKE)

    def rows_needed(self, accuracy: float) -> int | None:
        """The fewest rows of an image that this test accuracy takes; None if it is never reached."""
        return next((rows for rows, reached in zip(*self.first_rows, strict=True) if reached >= accuracy), None)

    @property
    def accuracy(self) -> Sample:
        return sample(self.runs, best, "test_accuracy")


def networks_on_mnist(
    recurrent: Sequence[RowRuns], on_mnist: RowRuns | None, count_parameters: Callable[[dict], int]
) -> list[Network]:
    """The CNN, then each cell in its largest hidden size at the CNN's optimizer, lr and epochs; complete runs only."""
    cnn = on_mnist.complete if on_mnist else []
    found = [("CNN", cnn)] if cnn else []
    for cell, rows in by_cell(recurrent).items():
        if cnn:
            alike = [cnn[0].config["flags"].get(flag) for flag in ALIKE]
            rows = [row for row in rows if [setting(row, flag) for flag in ALIKE] == alike]
        else:
            rows = [row for row in rows if _first_rows(row.complete)]
        rows = [row for row in rows if row.complete]
        if rows:
            row = max(
                rows, key=lambda row: (bool(_first_rows(row.complete)), setting(row, "hidden_size") or 0, len(row.runs))
            )
            size = setting(row, "hidden_size")
            label = cell_name(cell) + (f", {flag_label('hidden_size', size, short=True)}" if size is not None else "")
            found.append((label, row.complete))
    networks = []
    for label, runs in found:
        tested = next(iter(_first_rows(runs)), None)
        first_rows = _read_first_rows(tested.path / FIRST_ROWS) if tested else None
        networks.append(Network(label, runs, count_parameters(runs[0].config), first_rows, tested and tested.seed))
    return networks


def _first_rows(runs: Sequence[Run]) -> list[Run]:
    """The runs of which report.py has kept how much of an image they need."""
    return [run for run in runs if (run.path / FIRST_ROWS).is_file()]


def _read_first_rows(path: Path) -> tuple[list[int], list[float]]:
    """How many rows of an image were seen, and the test accuracy. UserError if the file does not hold that."""
    try:
        lines = list(csv.DictReader(read_file(path).decode().splitlines()))
        counts, accuracies = [int(line["rows"]) for line in lines], [float(line["accuracy"]) for line in lines]
        if not lines:
            raise ValueError("no lines")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} does not hold the columns rows and accuracy; delete it and run report.py") from error
    return counts, accuracies


# -- other runs in the runs folder, found by their config --------------------------------------------------------------

# What makes no other row of the original: the seed, and the flags for which it gives no value.
_UNNAMED = ("seed", *(flag for flag in RESULT_FLAGS if flag not in ("seed", "data", "cell", *ORIGINAL_FLAGS)))


def _signature(run: Run, *without: str) -> tuple:
    """What makes two runs the same but for the flags left out."""
    flags = run.config["flags"]
    return run.config.get("experiment"), *(str(flags.get(flag)) for flag in RESULT_FLAGS if flag not in without)


def _runs_beside(rows: Sequence[RowRuns], runs_dir: Path) -> Iterator[Run]:
    """All complete runs in the folders of these rows' runs."""
    for folder in sorted({run.path.parent.name for row in rows for run in row.complete}):
        yield from complete_runs(runs_dir / folder)


@dataclass(frozen=True)
class PrecisionPair:
    """A row's best metric in two precisions."""

    row: RowRuns
    metric: str
    ours: Sample
    precision: str
    theirs: Sample
    difference: Estimate


def other_precisions(rows: Sequence[RowRuns], runs_dir: Path) -> list[PrecisionPair]:
    """Rows that were also run in another precision, their test metrics side by side."""
    elsewhere: dict[tuple, list[Run]] = {}
    for run in _runs_beside(rows, runs_dir):
        elsewhere.setdefault(_signature(run, "seed", "precision"), []).append(run)
    pairs = []
    for row in (row for row in rows if row.complete):
        by_precision: dict[str, list[Run]] = {}
        for run in elsewhere.get(_signature(row.complete[0], "seed", "precision"), []):
            by_precision.setdefault(str(run.config["flags"].get("precision")), []).append(run)
        for precision in sorted(by_precision.keys() - {str(setting(row, "precision"))}):
            for metric in ("test_accuracy", "test_loss"):
                ours, theirs = bests(row, metric), sample(_one_a_seed(by_precision[precision]), best, metric)
                difference = weighted_sum([ours, theirs], [1, -1])
                pairs.append(PrecisionPair(row, metric, ours, precision, theirs, difference))
    return pairs


def variants(rows: Sequence[RowRuns], runs_dir: Path) -> list[tuple[RowRuns, dict[str, list[Run]]]]:
    """Rows with printed metrics and the kept runs that differ from them in settings that the original does not name.

    The runs, one a seed, are by what is different, as in `rgb`.
    """
    own = {_signature(run, "seed", "precision") for row in rows for run in row.complete}
    others = [run for run in _runs_beside(rows, runs_dir) if _signature(run, "seed", "precision") not in own]
    found = []
    for row in (row for row in rows if row.complete and row.row.printed):
        base, by_change = row.complete[0], {}
        for run in others:
            if _signature(run, *_UNNAMED) == _signature(base, *_UNNAMED):
                flags, before = run.config["flags"], base.config["flags"]
                changed = [flag for flag in _UNNAMED[1:] if str(flags.get(flag)) != str(before.get(flag))]
                change = ", ".join(flag_label(flag, flags.get(flag), short=True) for flag in changed)
                by_change.setdefault(change, []).append(run)
        if by_change:
            found.append((row, {change: _one_a_seed(runs) for change, runs in sorted(by_change.items())}))
    return found


def _one_a_seed(runs: Iterable[Run]) -> list[Run]:
    first: dict[int, Run] = {}
    for run in runs:
        first.setdefault(run.seed, run)
    return [run for _, run in sorted(first.items())]
