"""What is read off a row's runs: best and last metrics, drops of accuracy, settings, and how the report writes them.

A metric is one of `harness.metrics.METRICS`. Statistics are over a row's complete runs: a run that is not complete is
drawn, but counts in no mean. `conclusions` compares rows by what is here.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.flags import FLAGS, RESULT_FLAGS, flag_label
from harness.grid.runs import RowRuns, Run
from harness.metrics import METRICS
from harness.report.statistics import Estimate, Sample, prediction_interval

CNN, RECURRENT = "cnn_cifar10", "rnn_mnist"  # a row's `script`
CELLS = tuple(FLAGS["cell"].choices)  # in the original's order

_NAMES = ("Train, best loss", "Train, best accuracy", "Test, best loss", "Test, best accuracy")
METRIC_NAMES = dict(zip(METRICS, _NAMES, strict=True))
ORIGINAL_FLAGS = ("lr", "hidden_size", "optimizer", "epochs")  # these first, as the original's tables have them
NOTHING = "–"  # in a table's cell


# -- metrics of one run ------------------------------------------------------------------------------------------------


def over_epochs(run: Run, metric: str) -> tuple[float, ...]:
    return tuple(getattr(epoch, metric) for epoch in run.history)


def best(run: Run, metric: str) -> float:
    """The best over the epochs, the smallest loss or the largest accuracy; nan without an epoch."""
    return (max if metric.endswith("accuracy") else min)(over_epochs(run, metric), default=math.nan)


def last(run: Run, metric: str) -> float:
    return over_epochs(run, metric)[-1]


def worst_drop(run: Run) -> float:
    """By how much test accuracy fell from one epoch to the next, at worst; 0 if it never fell."""
    accuracy = over_epochs(run, "test_accuracy")
    return max([0.0, *(before - after for before, after in itertools.pairwise(accuracy))])


def epoch_seconds(runs: Sequence[Run]) -> float:
    """The median over all epochs of these runs; nan if there is none."""
    values = [epoch.seconds for run in runs for epoch in run.history]
    return statistics.median(values) if values else math.nan


# -- metrics of a row --------------------------------------------------------------------------------------------------


def sample(runs: Sequence[Run], value: Callable[..., float], *arguments: object) -> Sample | None:
    """value(run, *arguments) of each run, with its seed; None without a run."""
    return Sample(tuple(value(run, *arguments) for run in runs), tuple(run.seed for run in runs)) if runs else None


def bests(row: RowRuns, metric: str) -> Sample | None:
    return sample(row.complete, best, metric)


def lasts(row: RowRuns, metric: str) -> Sample | None:
    return sample(row.complete, last, metric)


def worst_drops(row: RowRuns) -> Sample | None:
    """Of each complete run; None without one, or if the runs are of a single epoch."""
    return sample([run for run in row.complete if len(run.history) > 1], worst_drop)


def wanted(row: RowRuns) -> int:
    """How many runs there should be: one for each seed asked for, and those that are there besides."""
    return len({*row.seeds, *(run.seed for run in row.complete)})


@dataclass(frozen=True)
class Comparison:
    """A metric that the original printed, beside ours. With a single seed `interval` and `inside` are None."""

    metric: str
    ours: Sample
    interval: tuple[float, float] | None
    inside: bool | None  # whether a number that is rounded to the printed one lies in the interval
    verdict: str


def compare(row: RowRuns, metric: str) -> Comparison | None:
    """None where the original printed nothing, or nothing of ours is complete."""
    printed, ours = row.row.printed.get(metric), bests(row, metric)
    if printed is None or ours is None:
        return None
    interval = prediction_interval(ours)
    if interval is None:
        difference = signed(ours.mean - printed, metric, printed)
        return Comparison(metric, ours, None, None, f"ours − original: {difference}")
    # Half a unit of the last digit, of which the original prints four that count; more if more are given.
    number = Decimal(repr(printed)).normalize()
    rounding = 0.5 * 10.0 ** (number.adjusted() + 1 - max(4, len(number.as_tuple().digits)))
    inside = interval[0] - rounding <= printed <= interval[1] + rounding
    verdict = "inside" if inside else f"outside: original {'lower' if printed < ours.mean else 'higher'}"
    return Comparison(metric, ours, interval, inside, verdict)


# -- settings ----------------------------------------------------------------------------------------------------------


def setting(row: RowRuns, flag: str) -> object:
    """A flag's value: as the row's runs recorded it, else as the row gives it; None if neither says."""
    recorded = (run.config["flags"] for run in row.runs.values())
    return next((flags[flag] for flags in recorded if flag in flags), row.row.flags.get(flag))


def dataset(row: RowRuns) -> str:
    """What --data was: "cifar10", "mnist" or "synthetic"."""
    return str(setting(row, "data") or ("cifar10" if row.row.script == CNN else "mnist"))


@dataclass(frozen=True)
class Family:
    """All rows of one script."""

    kind: str  # "CNN" or "RNN"
    rows: list[RowRuns]

    @property
    def title(self) -> str:
        names = dict.fromkeys(flag_label("data", dataset(row)) for row in self.rows)
        return f"{self.kind} with {listed([*names])}"

    @property
    def complete(self) -> list[Run]:
        return [run for row in self.rows for run in row.complete]


def varied_flags(rows: Sequence[RowRuns]) -> list[str]:
    """The result-changing flags in which the rows differ, the original's own first."""
    ordered = [*ORIGINAL_FLAGS, *(flag for flag in RESULT_FLAGS if flag not in ORIGINAL_FLAGS)]
    left_out = ("seed", "precision", "cell", "data")  # said elsewhere
    return [flag for flag in ordered if flag not in left_out and len(values_of(rows, flag)) > 1]


def values_of(rows: Sequence[RowRuns], flag: str) -> list:
    """A flag's values in these rows, sorted; None stands for the script's default where no run tells what that is."""
    values = {str(value): value for row in rows if (value := setting(row, flag)) is not None}
    silent = [row for row in rows if flag not in row.row.flags]
    if silent and all(setting(row, flag) is None for row in silent):
        values["None"] = None
    return sorted(values.values(), key=sort_key)


def tried_settings(rows: Sequence[RowRuns]) -> list[list[str]]:
    """The settings that were tried, as the original's table has them: a header, and a line a flag with its values."""
    flags = varied_flags(rows)
    flags += [flag for flag in ORIGINAL_FLAGS if flag not in flags and values_of(rows, flag) not in ([], [None])]
    lines = [[flag_label(flag), *(flag_label(flag, value) for value in values_of(rows, flag))] for flag in flags]
    width = max((len(line) for line in lines), default=1)
    header = ["<parameter", *(f"value {number}" for number in range(1, width))]
    return [header, *(line + [""] * (width - len(line)) for line in lines)]


def by_cell(rows: Sequence[RowRuns]) -> dict[object, list[RowRuns]]:
    """The rows of each cell, in the original's order; None is that of rows that do not say."""
    found = {cell: [row for row in rows if setting(row, "cell") == cell] for cell in (*CELLS, None)}
    return {cell: of_cell for cell, of_cell in found.items() if of_cell}


def sort_key(value: object) -> tuple:
    """For values of one flag that may be missing, numbers or words."""
    return value is None, isinstance(value, str), value or 0


def cell_name(cell: object) -> str:
    return "default cell" if cell is None else flag_label("cell", cell)


# -- numbers as text ---------------------------------------------------------------------------------------------------


def decimals(value: float | None, count: int) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.4g}" if abs(value) >= 1e6 else f"{value:.{count}f}"


def _decimals(size: float, metric: str) -> int:
    """Metrics of this size have four decimals, a loss near zero has five."""
    return 5 if metric.endswith("loss") and abs(size) < 0.1 else 4


def signed(value: float, metric: str, size: float) -> str:
    """A difference of two metrics of about this size, with as many decimals as these have; never -0."""
    text = f"{value:+.{_decimals(size, metric)}f}"
    return (text if float(text) else text.replace("-", "+")).replace("-", "−")


def signed_interval(estimate: Estimate, metric: str, size: float) -> str:
    """The interval of a difference of two metrics of about this size."""
    if estimate.interval is None:
        return "no interval with a single seed"
    return " … ".join(signed(end, metric, size) for end in estimate.interval)


def spread(sample: Sample | None, metric: str) -> str:
    """`mean ± standard deviation`, or the single value; a deviation that would round to 0 gets one decimal more."""
    if sample is None:
        return NOTHING
    count = _decimals(sample.mean, metric)
    mean, sd = decimals(sample.mean, count), sample.sd
    return mean if sd is None else f"{mean} ± {decimals(sd, count + (0 < sd < 0.5 * 10**-count))}"


def interval_text(interval: tuple[float, float] | None, metric: str) -> str:
    """`low … high`, with a decimal more than the metrics have, so that one at the very end is seen on its side.

    Cut off where no such metric can lie: below 0, or an accuracy above 1.
    """
    if interval is None:
        return NOTHING
    low, high = max(interval[0], 0.0), min(interval[1], 1.0 if metric.endswith("accuracy") else math.inf)
    return " … ".join(decimals(end, _decimals((low + high) / 2, metric) + 1) for end in (low, high))


def best_text(row: RowRuns, metric: str) -> str:
    return spread(bests(row, metric), metric)


def best_texts(runs: Sequence[Run]) -> list[str]:
    return [spread(sample(runs, best, metric), metric) for metric in METRICS]


def printed_text(row: RowRuns, metric: str) -> str:
    """What the original printed of a row, as short as it can be."""
    return f"{row.row.printed[metric]:.10g}" if metric in row.row.printed else NOTHING


def printed_texts(row: RowRuns) -> list[str]:
    return [printed_text(row, metric) for metric in METRICS]


def duration(runs: Sequence[Run]) -> str:
    """The time of all epochs of these runs."""
    minutes = sum(epoch.seconds for run in runs for epoch in run.history) / 60
    return f"{minutes:.1f} minutes" if minutes < 59.95 else f"{minutes / 60:.1f} hours"  # never 60.0 minutes


def recorded(runs: Sequence[Run], key: str) -> str:
    """What the runs' configs, or the flags in them, have under a name: `cpu`, `cpu and cuda`."""
    return listed(sorted({str(run.config.get(key, run.config["flags"].get(key))) for run in runs}))


def counted(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(words: Sequence[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = [str(word) for word in words]
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
