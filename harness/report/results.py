"""What is read off a row's runs: best and last figures, drops of accuracy, settings, and how the report writes them.

A figure is one of `harness.metrics.METRICS`. Statistics are over a row's complete runs; a run that is not complete is
drawn, but counts in no mean.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.flags import RESULT_FLAGS
from harness.grid.runs import RowRuns, Run
from harness.report.statistics import Estimate, Sample, prediction_interval

CNN, RECURRENT = "cnn_cifar10", "rnn_mnist"  # a row's `script`
CELLS = ("rnn", "lstm", "gru")  # in the original's order

FIGURE_NAMES = {
    "train_loss": "Train, best loss",
    "train_accuracy": "Train, best accuracy",
    "test_loss": "Test, best loss",
    "test_accuracy": "Test, best accuracy",
}
FLAG_NAMES = {
    "lr": "learning rate",
    "hidden_size": "hidden size",
    "fc_activation": "activation between the linear layers",
    "batch_size": "batch size",
    "weight_decay": "weight decay",
    "clip_grad_norm": "largest gradient norm",
    "augment": "augmentation",
}
OPTIMIZERS = {"adam": "Adam", "adagrad": "Adagrad", "adamw": "AdamW", "sgd": "SGD"}
DATA_NAMES = {"cifar10": "CIFAR10", "mnist": "MNIST", "synthetic": "synthetic images"}
_DATA = {CNN: "cifar10", RECURRENT: "mnist"}  # of a script without --data
ORIGINAL_FLAGS = ("lr", "hidden_size", "optimizer", "epochs")  # these first, as the original's tables have them


def column(run: Run, figure: str) -> list[float]:
    """A figure of each epoch."""
    return [getattr(epoch, figure) for epoch in run.history]


def best(run: Run, figure: str) -> float:
    """The best over the epochs, the smallest loss or the largest accuracy; nan if there is none."""
    values = [value for value in column(run, figure) if math.isfinite(value)]
    if not values:
        return math.nan
    return max(values) if figure.endswith("accuracy") else min(values)


def last(run: Run, figure: str) -> float:
    """The last epoch's; nan if there is none."""
    return column(run, figure)[-1] if run.history else math.nan


def worst_drop(run: Run) -> float:
    """By how much test accuracy fell from one epoch to the next, at worst; 0 if it never fell."""
    accuracy = column(run, "test_accuracy")
    return max([0.0, *(before - after for before, after in itertools.pairwise(accuracy))])


def bests(row: RowRuns, figure: str) -> Sample | None:
    """The complete runs' best; None if there is no complete run."""
    return sample(row.complete, lambda run: best(run, figure))


def lasts(row: RowRuns, figure: str) -> Sample | None:
    return sample(row.complete, lambda run: last(run, figure))


def worst_drops(row: RowRuns) -> Sample | None:
    """Of each complete run; None without one, or if the runs are of a single epoch."""
    return sample([run for run in row.complete if len(run.history) > 1], worst_drop)


def sample(runs: Sequence[Run], value: Callable[[Run], float]) -> Sample | None:
    """A value of each run, with its seed; None without a run."""
    return Sample(tuple(map(value, runs)), tuple(run.seed for run in runs)) if runs else None


def seconds_an_epoch(runs: Sequence[Run]) -> float:
    """The median over all epochs of these runs; nan if there is none."""
    values = [epoch.seconds for run in runs for epoch in run.history]
    return statistics.median(values) if values else math.nan


@dataclass(frozen=True)
class Comparison:
    """A printed figure beside ours. `interval` and `inside` are None where a single seed allows none.

    Inside is a printed figure for which a number that is rounded to it lies in the interval.
    """

    figure: str
    printed: float
    ours: Sample
    interval: tuple[float, float] | None
    inside: bool | None

    @property
    def verdict(self) -> str:
        difference = self.printed - self.ours.mean
        if self.inside is None:
            return f"ours − original: {signed(-difference, self.figure, self.printed)}"
        if self.inside:
            return "inside"
        return f"outside: original {'lower' if difference < 0 else 'higher'}"


def compare(row: RowRuns, figure: str) -> Comparison | None:
    """None where the original printed nothing, or nothing of ours is complete."""
    printed, ours = row.row.printed.get(figure), bests(row, figure)
    if printed is None or ours is None:
        return None
    interval = prediction_interval(ours)
    rounding = _half_a_digit(printed)
    inside = None if interval is None else interval[0] - rounding <= printed <= interval[1] + rounding
    return Comparison(figure, printed, ours, interval, inside)


def _half_a_digit(printed: float) -> float:
    """Half a unit of the last digit, of which the original prints four that count; more if more are given."""
    exponent = Decimal(repr(printed)).adjusted()
    given = len(Decimal(repr(printed)).normalize().as_tuple().digits)
    return 0.5 * 10.0 ** (exponent + 1 - max(4, given))


# -- settings ----------------------------------------------------------------------------------------------------------


def setting(row: RowRuns, flag: str) -> object:
    """A flag's value: as the row's runs recorded it, else as the row gives it; None if neither says."""
    for run in row.runs.values():
        if flag in run.config.get("flags", {}):
            return run.config["flags"][flag]
    return row.row.flags.get(flag)


def dataset(row: RowRuns) -> str:
    """What --data was: "cifar10", "mnist" or "synthetic"."""
    return str(setting(row, "data") or _DATA.get(row.row.script, "?"))


def varied_flags(rows: Sequence[RowRuns]) -> list[str]:
    """The result-changing flags in which the rows differ, the original's own first."""
    ordered = [*ORIGINAL_FLAGS, *(flag for flag in RESULT_FLAGS if flag not in ORIGINAL_FLAGS)]
    return [
        flag for flag in ordered if flag not in ("seed", "precision", "cell", "data") and len(values_of(rows, flag)) > 1
    ]


def values_of(rows: Sequence[RowRuns], flag: str) -> list:
    """A flag's values in these rows, sorted; None, which stands for the script's default, where no run tells that."""
    values = {str(value): value for row in rows if (value := setting(row, flag)) is not None}
    silent = [row for row in rows if flag not in row.row.flags]
    if silent and all(setting(row, flag) is None for row in silent):
        values["None"] = None
    return sorted(values.values(), key=sort_key)


def described(flag: str, value: object) -> str:
    """A flag's value as the report writes it."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if flag == "optimizer":
        return OPTIMIZERS.get(str(value), str(value))
    return cell_name(value) if flag == "cell" else number(value) if isinstance(value, int | float) else str(value)


def short_setting(flag: str, value: object) -> str:
    """A flag and its value in a few letters, for a figure: `lr 0.01`, `h128`, `Adam`."""
    if flag == "epochs" and value == 1:
        return "1 epoch"
    text = described(flag, value)
    forms = {"optimizer": "{}", "channels": "{}", "lr": "lr {}", "hidden_size": "h{}", "epochs": "{} epochs"}
    return forms.get(flag, FLAG_NAMES.get(flag, flag).replace("{", "(") + " {}").format(text)


def cell_name(cell: object) -> str:
    return "default cell" if cell is None else str(cell).upper()


def sort_key(value: object) -> tuple:
    """For values of one flag that may be missing, numbers or words."""
    return (value is None, isinstance(value, str), value if isinstance(value, int | float | str) else 0)


# -- numbers as text ---------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """As short as it can be: 0.001, 20."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def rounded(value: float, figure: str) -> str:
    """With four decimals, a loss near zero with five."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1e6:
        return f"{value:.4g}"
    return f"{value:.{_decimals(value, figure)}f}"


def _decimals(size: float, figure: str) -> int:
    return 5 if figure.endswith("loss") and abs(size) < 0.1 else 4


def signed(value: float, figure: str, size: float) -> str:
    """A difference of two figures of about this size, with as many decimals as these have; never -0."""
    text = f"{value:+.{_decimals(size, figure)}f}"
    return (text if float(text) else text.replace("-", "+")).replace("-", "−")


def interval_of(estimate: Estimate, figure: str, size: float) -> str:
    """The interval of a difference of two figures of about this size."""
    low, high = estimate.interval
    return f"{signed(low, figure, size)} … {signed(high, figure, size)}"


def spread(sample: Sample | None, figure: str) -> str:
    """`mean ± standard deviation`, or the single value; a deviation that would round to 0 gets one decimal more."""
    if sample is None:
        return "–"
    mean = rounded(sample.mean, figure)
    if sample.sd is None or not math.isfinite(sample.sd):
        return mean
    decimals = _decimals(sample.mean, figure)
    if sample.sd >= 1e6:
        return f"{mean} ± {sample.sd:.4g}"
    return f"{mean} ± {sample.sd:.{decimals + (0 < sample.sd < 0.5 * 10**-decimals)}f}"


def interval_text(interval: tuple[float, float] | None, figure: str) -> str:
    """`low … high`, with a decimal more than the figures have, so that one at the very end is seen on its side.

    Cut off where no such figure can lie: below 0, or an accuracy above 1.
    """
    if interval is None:
        return "–"
    low, high = max(interval[0], 0.0), interval[1]
    if figure.endswith("accuracy"):
        high = min(high, 1.0)
    if high >= 1e6:
        return f"{low:.4g} … {high:.4g}"
    decimals = _decimals((low + high) / 2, figure) + 1
    return f"{low:.{decimals}f} … {high:.{decimals}f}"


def counted(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
