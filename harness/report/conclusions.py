"""What the report concludes from the runs, as small data: which setting is best, which cell trains more steadily, …

The sentences are in templates/, which choose them by these numbers; nothing here presumes how the numbers come out.
"""

import csv
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from harness.analyses.first_rows import FILE as FIRST_ROWS
from harness.files import read_file
from harness.flags import RESULT_FLAGS, flag_label
from harness.grid.runs import FINISHED, RowRuns, Run, complete_runs
from harness.metrics import METRICS, EpochMetrics
from harness.report import results
from harness.report.results import PART, bests, distances, guessing_loss, lasts, learned, setting, worst_drops
from harness.report.statistics import (
    LEVEL,
    Estimate,
    Sample,
    difference_of_shares,
    number,
    plainly_not_normal,
    prediction_interval,
    sign_test,
    span,
    weighted_sum,
)

# -- agreement with the original ---------------------------------------------------------------------------------------


MARKS = {"agrees": "✓", "differs": "✗", "cannot tell": "?"}


@dataclass(frozen=True)
class Comparison:
    """A metric of a row beside what the original printed of it; what is not there is None, as one seed's `interval`.

    `extent` is the empirical range, lowest … highest, where one more run would plainly not be normally distributed:
    some of the row's runs learn and others do not, or Shapiro and Wilk's test says so.
    """

    row: RowRuns
    metric: str
    printed: float | None
    ours: Sample | None  # of the complete runs
    interval: tuple[float, float] | None  # of one more run, with 95 % probability
    extent: tuple[float, float] | None
    verdict: str | None = None  # a key of MARKS, where both are there

    @property
    def mark(self) -> str:
        return MARKS.get(self.verdict, "")

    @property
    def ends(self) -> str:
        return span(self.interval, self.ours.decimals if self.ours else 0)

    @property
    def distance(self) -> str | None:
        """From our mean to the printed value, in our standard deviations."""
        known = self.printed is not None and self.ours and self.ours.sd
        return number((self.printed - self.ours.mean) / self.ours.sd, 1, "+") if known else None


def compare(row: RowRuns, metric: str) -> Comparison:
    """A metric of a row beside the original's. The verdict is found here and nowhere else.

    *differs*: outside the prediction interval, and outside the empirical range where that stands beside it. *agrees*:
    inside what is judged by (the range where there is one), and that is no wider than PART of the metric's range.
    Else *cannot tell*. A value is inside if a number that is rounded to it is.
    """
    printed, ours = row.row.printed.get(metric), bests(row.complete, metric)
    interval, extent = prediction_interval(ours), None
    if interval and (0 < learned(row)[0] < learned(row)[1] or plainly_not_normal(ours)):
        extent = min(ours.values), max(ours.values)
    found = Comparison(row, metric, printed, ours, interval, extent)
    if printed is None or ours is None:
        return found
    if interval is None:
        return replace(found, verdict="cannot tell")
    # Half a unit of the last digit, of which the original prints four that count; more if more are given.
    digits = Decimal(repr(printed)).normalize()
    rounding = 0.5 * 10.0 ** (digits.adjusted() + 1 - max(4, len(digits.as_tuple().digits)))

    def inside(ends: tuple[float, float]) -> bool:
        return ends[0] - rounding <= printed <= ends[1] + rounding

    low, high = judged = extent or interval
    widest = PART * (1 if metric.endswith("accuracy") else guessing_loss(row))
    if inside(judged):
        return replace(found, verdict="agrees" if high - low <= widest else "cannot tell")
    return replace(found, verdict="cannot tell" if inside(interval) else "differs")


def compare_all(row: RowRuns) -> list[Comparison]:
    return [compare(row, metric) for metric in METRICS]


def comparisons(rows: Iterable[RowRuns]) -> list[Comparison]:
    """Every printed metric of the rows beside ours, where there is a complete run."""
    return [found for row in rows for found in compare_all(row) if found.verdict]


def verdict_counts(rows: Iterable[RowRuns]) -> dict[str, int]:
    """How many printed values have each verdict."""
    verdicts = [each.verdict for each in comparisons(rows)]
    return {verdict: verdicts.count(verdict) for verdict in MARKS}


def verdict(found: Comparison) -> str:
    """`✓ agrees`; empty where there is nothing to judge."""
    return f"{found.mark} {found.verdict}" if found.verdict else ""


def by_chance(count: int) -> str:
    """`3 to 4`: how many of so many values lie outside their intervals though nothing differs."""
    expected = (1 - LEVEL) * count
    return f"{math.floor(expected)} to {math.ceil(expected)}"


def direction(rows: Iterable[RowRuns]) -> tuple[int, int, float] | None:
    """In how many rows the original's test accuracy is above our mean, of how many, and the sign test's p."""
    sides = [each.printed > each.ours.mean for each in comparisons(rows) if each.metric == "test_accuracy"]
    return (sum(sides), len(sides), sign_test(sum(sides), len(sides))) if sides else None


# -- the best setting --------------------------------------------------------------------------------------------------


def best_setting(rows: Sequence[RowRuns]) -> dict | None:
    """The row with the best mean test accuracy, and how sure that is; None if no run is complete."""
    ranked = sorted((r for r in rows if r.complete), key=lambda row: -bests(row.complete, "test_accuracy").mean)
    if not ranked:
        return None
    first, second = (*ranked, None)[:2]
    same_runs, difference = False, None
    if second:  # if it is the beginning of the best, the last epochs are compared instead
        same_runs = _is_beginning_of(second, first)
        accuracy = lasts if same_runs else bests
        difference = weighted_sum([accuracy(row.complete, "test_accuracy") for row in (first, second)], [1, -1])
    printed = [row for row in rows if "test_accuracy" in row.row.printed]
    return {
        "row": first,
        "lowest_loss": min(ranked, key=lambda row: (bests(row.complete, "test_loss").mean, row.row.name)),
        "next_best": second,
        "same_runs": same_runs,
        "difference": difference,  # of the mean accuracies of the two: an Estimate
        "original": max(printed, key=lambda row: row.row.printed["test_accuracy"], default=None),  # the original's best
    }


def _is_beginning_of(shorter: RowRuns, longer: RowRuns) -> bool:
    """Whether the runs of one row are, number for number, how those of the other began, seed by seed."""
    short, long = ({run.seed: _without_seconds(run) for run in row.complete} for row in (shorter, longer))
    return short.keys() == long.keys() and all(
        len(epochs) < len(long[seed]) and epochs == long[seed][: len(epochs)] for seed, epochs in short.items()
    )


def _without_seconds(run: Run) -> list[EpochMetrics]:
    return [epoch._replace(seconds=0) for epoch in run.history]


def same_bits(run: Run, other: Run) -> bool:
    """Whether all metrics of all epochs are equal."""
    return _without_seconds(run) == _without_seconds(other)


# -- stability ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellDrop:
    """A cell in the settings that all cells share; `drop` is the mean over these settings of the mean worst drop."""

    cell: str
    rows: list[RowRuns]
    drop: Estimate
    typical_sd: float | None  # of the best test accuracy over seeds: the root of the rows' mean square
    failed: tuple[int, int]  # runs that did not learn, of all finished ones

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the drop, which is never below 0."""
        return self.drop.interval and (max(self.drop.interval[0], 0.0), self.drop.interval[1])


def drops_by_cell(rows: Sequence[RowRuns]) -> list[CellDrop]:
    """How steadily each cell trains, in the original's order; empty if the cells share no setting."""
    measured = [row for row in rows if worst_drops(row)]
    flags = results.varied_flags(measured)
    by_setting = {
        cell: {tuple(setting(row, flag) for flag in flags): row for row in of_cell}
        for cell, of_cell in results.by_cell(measured).items()
    }
    shared = sorted(set.intersection(*map(set, by_setting.values()))) if by_setting else []
    cells = []
    for cell, of_setting in by_setting.items() if shared else ():
        of_cell = [of_setting[key] for key in shared]
        deviations = [sd for row in of_cell if (sd := bests(row.complete, "test_accuracy").sd) is not None]
        typical = math.hypot(*deviations) / math.sqrt(len(deviations)) if deviations else None
        well, finished = map(sum, zip(*map(learned, of_cell), strict=True))
        cells.append(CellDrop(cell, of_cell, mean_drop(of_cell), typical, (finished - well, finished)))
    return cells


def mean_drop(
    rows: Sequence[RowRuns], less: Sequence[RowRuns] = (), measure: Callable[[RowRuns], Sample] = worst_drops
) -> Estimate:
    """The rows' mean worst drop, or another measure, or by how much it is larger than that of the rows `less`."""
    weights = [1 / len(rows)] * len(rows) + [-1 / len(less) for _ in less]
    return weighted_sum([measure(row) for row in (*rows, *less)], weights)


@dataclass(frozen=True)
class Contest:
    """Whether a cell is more stable than another by one measure, which is the smaller the more stable."""

    cell: str
    other: str
    measure: str
    difference: Estimate  # the cell's less the other's
    verdict: str  # a key of MARKS: whether "it is more stable" agrees with the runs


def contests(rows: Sequence[RowRuns]) -> list[Contest]:
    """Each cell against those before it, by three measures. What diverged has no drop: then two cannot tell."""
    verdicts, diverged = {-1: "agrees", 1: "differs", 0: "cannot tell"}, diverged_cells(rows)
    found = []
    for other, cell in itertools.combinations(drops_by_cell(rows), 2):
        by_measure = {
            "worst drop": mean_drop(cell.rows, other.rows),
            "spread over seeds": mean_drop(cell.rows, other.rows, distances),
            "share of runs that fail": difference_of_shares(cell.failed, other.failed),
        }
        for measure, difference in by_measure.items():
            known = not diverged or measure == "share of runs that fail"
            verdict = verdicts[difference.sign if known else 0]
            found.append(Contest(cell.cell, other.cell, measure, difference, verdict))
    return found


def gated_against_rnn(rows: Sequence[RowRuns]) -> list[Contest]:
    """LSTM and GRU against RNN by the worst drop: the original speaks of oscillating curves."""
    return [each for each in contests(rows) if each.other == "rnn" and each.measure == "worst drop"]


def diverged_cells(rows: Sequence[RowRuns]) -> list[tuple[str, int, int]]:
    """(cell, diverged, finished runs) of each cell with a run that diverged."""
    found = []
    for cell, of_cell in results.by_cell(rows).items():
        statuses = [run.status for row in of_cell for run in row.runs.values() if run.status in FINISHED]
        if "diverged" in statuses:
            found.append((results.cell_name(cell), statuses.count("diverged"), len(statuses)))
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


def networks_on_mnist(
    recurrent: Sequence[RowRuns], on_mnist: RowRuns | None, count_parameters: Callable[[dict], int]
) -> list[Network]:
    """The CNN, then each cell in its largest hidden size at the CNN's optimizer, lr and epochs; complete runs only."""

    def tested(row: RowRuns) -> list[Run]:
        """The runs of which report.py has kept how much of an image they need."""
        return [run for run in row.complete if (run.path / FIRST_ROWS).is_file()]

    def alike(row: RowRuns) -> list:
        return [setting(row, flag) for flag in ALIKE]

    found = [("CNN", on_mnist)] if on_mnist and on_mnist.complete else []
    for cell, rows in results.by_cell(recurrent).items():
        rows = [row for row in rows if row.complete and (alike(row) == alike(on_mnist) if found else tested(row))]
        if rows:
            row = max(rows, key=lambda row: (bool(tested(row)), setting(row, "hidden_size"), len(row.runs)))
            size = flag_label("hidden_size", setting(row, "hidden_size"), short=True)
            found.append((f"{results.cell_name(cell)}, {size}", row))
    networks = []
    for label, row in found:
        run = next(iter(tested(row)), None)
        first_rows = _read_first_rows(run.path / FIRST_ROWS) if run else None
        size = count_parameters(row.complete[0].config)
        networks.append(Network(label, row.complete, size, first_rows, run and run.seed))
    return networks


def _read_first_rows(path: Path) -> tuple[list[int], list[float]] | None:
    """How many rows of an image were seen, and the test accuracy. None, and a note, if the file does not hold that."""
    try:
        lines = list(csv.DictReader(read_file(path).decode().splitlines()))
        counts, accuracies = zip(*((int(line["rows"]), float(line["accuracy"])) for line in lines), strict=True)
        if 1 <= min(counts) <= max(counts) <= 10_000 and 0 <= min(accuracies) <= max(accuracies) <= 1:
            return counts, accuracies
    except (ValueError, KeyError, TypeError, csv.Error):
        pass
    print(f"note: {path} does not hold the columns rows and accuracy; delete it and run report.py", file=sys.stderr)
    return None


# -- other runs in the runs folder, found by their config --------------------------------------------------------------

# What makes no other row of the original: the flags for which it gives no value.
_UNNAMED = {*RESULT_FLAGS} - {"seed", "data", "classes", "cell", *results.ORIGINAL_FLAGS}

Kept = tuple[
    RowRuns, dict[str, str], list[Run]
]  # a row, the flags that differ from it, the runs with these, one a seed


def kept_runs(rows: Sequence[RowRuns]) -> list[Kept]:
    """Complete runs in the rows' folders that differ from a row in what the original does not name, and are no row."""

    def settings(run: Run) -> dict[str, str]:
        return {flag: str(run.config["flags"].get(flag)) for flag in RESULT_FLAGS if flag != "seed"}

    def in_any_precision(run: Run) -> frozenset:
        return frozenset((settings(run) | {"precision": ""}).items())

    own = [run for row in rows for run in row.complete]
    folders = {folder: complete_runs(folder) for folder in {run.path.parent for run in own}}
    own_settings, found = {in_any_precision(run) for run in own}, []
    for row in (row for row in rows if row.complete):
        base, by_changes = row.complete[0], {}
        for run in folders[base.path.parent]:
            changes = settings(run).items() - settings(base).items()
            changed = {flag for flag, _ in changes}
            if changed == {"precision"} or (changed <= _UNNAMED and in_any_precision(run) not in own_settings):
                by_changes.setdefault(frozenset(changes), {}).setdefault(run.seed, run)  # the first of a seed
        found += [(row, dict(sorted(changes)), [*runs.values()]) for changes, runs in by_changes.items()]
    return found


def other_precisions(kept: Sequence[Kept]) -> list[dict]:
    """Rows that were also run in another precision, their test metrics side by side."""
    pairs = []
    for row, changes, runs in kept:
        for metric in ("test_accuracy", "test_loss") if changes.keys() == {"precision"} else ():
            ours, theirs = bests(row.complete, metric), bests(runs, metric)
            pair = {"row": row, "metric": metric, "ours": ours, "theirs": theirs, **changes}
            pairs.append(pair | {"difference": weighted_sum([ours, theirs], [1, -1])})
    return pairs


# -- which code and versions made the runs -----------------------------------------------------------------------------


def made_by(run: Run) -> str:
    """`commit 1a3788b with changes, PyTorch 2.14.1`; config.json names no machine."""
    commit = str(run.config.get("git_commit") or "unknown")
    changes = " with changes" * commit.endswith("-dirty")
    return f"commit {commit[:7]}{changes}, PyTorch {run.config['torch'].split('+')[0]}"


def by_maker(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by what made them, the most first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(made_by(run), []).append(run)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def named(rows: Sequence[RowRuns], runs: Sequence[Run]) -> str:
    """Which runs of the rows these are: `seed 3 of all 19 rows; seeds 0 and 1 of gru-a`."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        if seeds := tuple(run.seed for run in row.complete if run in runs):
            by_seeds.setdefault(seeds, []).append(row.row.name)
    return "; ".join(
        f"seed{'s' * (len(seeds) > 1)} {results.listed(seeds)} of "
        + (f"all {len(names)} rows" if 1 < len(names) == len(rows) else results.listed(names))
        for seeds, names in by_seeds.items()
    )


def repeats(rows: Sequence[RowRuns]) -> list[tuple[RowRuns, Run, Run]]:
    """Runs of the rows that lie there a second time, of the same settings and seed: (row, the row's run, the other)."""
    folders = functools.cache(complete_runs)  # each is read once

    def settings(run: Run) -> list:
        return [run.config["flags"].get(flag) for flag in RESULT_FLAGS]

    return [
        (row, run, other)
        for row in rows
        for run in row.complete
        for other in folders(run.path.parent)
        if other.path != run.path and settings(other) == settings(run)
    ]


def variants(kept: Sequence[Kept]) -> list[tuple[RowRuns, dict[str, list[Run]]]]:
    """Rows with printed metrics and their kept runs by what is different, as in `rgb`."""
    found: dict[str, tuple[RowRuns, dict[str, list[Run]]]] = {}
    for row, changes, runs in kept:
        if row.row.printed and changes.keys() != {"precision"}:
            label = ", ".join(flag_label(flag, value, short=True) for flag, value in changes.items())
            found.setdefault(row.row.name, (row, {}))[1][label] = runs
    return [*found.values()]
