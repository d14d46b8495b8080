"""What is read off a row's runs: best and last metrics, drops of accuracy, settings, and how the report names them.

A metric is one of `harness.metrics.METRICS`. Statistics are over a row's complete runs: a run that is not complete is
drawn, but counts in no mean. `conclusions` compares rows by what is here.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.flags import FLAGS, RESULT_FLAGS, flag_label, training_command
from harness.grid.runs import FINISHED, RowRuns, Run
from harness.image_sets import CNN, IMAGE_SETS, RNN, sets_for
from harness.metrics import METRICS, EpochMetrics, best_values
from harness.report.statistics import Sample

CELLS = tuple(FLAGS["cell"].choices)  # in the original's order

_NAMES = ("train loss", "train accuracy", "test loss", "test accuracy")
METRIC_NAMES = dict(zip(METRICS, _NAMES, strict=True))
PART = 0.1  # of a metric's range: 0 … 1 of an accuracy, 0 … that of guessing of a loss
ORIGINAL_FLAGS = ("lr", "hidden_size", "optimizer", "epochs")  # these first, as the original's tables have them
FIRST_FILTER_FLAGS = ("kernel_size", "stride", "max_filter_rms")  # what shapes LeNet5's first filters


# -- metrics -----------------------------------------------------------------------------------------------------------


def over_epochs(run: Run, metric: str) -> tuple[float, ...]:
    return tuple(getattr(epoch, metric) for epoch in run.history)


def best(run: Run, metric: str) -> float:
    """The best over the epochs, the smallest loss or the largest accuracy."""
    return getattr(best_values(run.history), metric)


def worst_drop(run: Run) -> float:
    """By how much test accuracy fell from one epoch to the next, at worst; 0 if it never fell."""
    accuracy = over_epochs(run, "test_accuracy")
    return max([0.0, *(before - after for before, after in itertools.pairwise(accuracy))])


def bests(runs: Sequence[Run], metric: str) -> Sample | None:
    return _sample(runs, metric, lambda run: best(run, metric))


def bests_of(runs: Sequence[Run]) -> list[Sample | None]:
    return [bests(runs, metric) for metric in METRICS]


def printed_of(row: RowRuns) -> list[float | None]:
    return [row.row.printed.get(metric) for metric in METRICS]


def lasts(runs: Sequence[Run], metric: str) -> Sample | None:
    return _sample(runs, metric, lambda run: over_epochs(run, metric)[-1])


def measured_beside(row: RowRuns) -> dict[str, Sample]:
    """The accuracies that some flags add, of the last epoch, by their names; those that every complete run has."""
    words = {"validation": "held out", "average": "averaged weights", "tta": "test-time augmentation"}
    lines = [run.history[-1].measured for run in row.complete]
    fields = [field for field in EpochMetrics._fields[6:] if field.endswith("accuracy") and lines]
    fields = [field for field in fields if all(field in line for line in lines)]
    return {
        ", ".join(["accuracy", *(words[part] for part in field.split("_")[:-1])]): lasts(row.complete, field)
        for field in fields
    }


def augmented(row: RowRuns) -> Sample | None:
    """The last epoch's accuracy with test-time augmentation."""
    return measured_beside(row).get("accuracy, test-time augmentation")


def any_augmented(rows: Iterable[RowRuns]) -> bool:
    return any(map(augmented, rows))


def cost(row: RowRuns, count_parameters: Callable[[dict], int]) -> str:
    """How large the row's network is and how long a run takes; `12,345 parameters, 0.55 PFLOP, 13.2 minutes a run`."""
    config = row.complete[0].config
    flops = config.get("training_flops")  # older runs do not say
    counted_flops = f", {flops / 1e15:.2g} PFLOP" if type(flops) is int else ""
    minutes = duration(statistics.median(total_seconds([run]) for run in row.complete))
    return f"{counted(count_parameters(config), 'parameter')}{counted_flops}, {minutes} a run"


def again(row: RowRuns) -> str:
    """The script's command that trains the first of the row's runs again."""
    return training_command(row.row.script, row.complete[0].config["flags"])


def worst_drops(row: RowRuns) -> Sample | None:
    """Of each complete run; None without one, or if the runs are of a single epoch."""
    return _sample([run for run in row.complete if len(run.history) > 1], "drop", worst_drop)


def distances(row: RowRuns) -> Sample | None:
    """Of each complete run's best test accuracy from their median: their mean is a spread, as Brown & Forsythe's.

    Two are always as far from it as each other, which tells nothing of how that varies: they count as one.
    """
    sample = bests(row.complete, "test_accuracy")
    middle = statistics.median(sample.values) if sample else 0.0
    runs = row.complete[:1] if len(row.complete) == 2 else row.complete
    return _sample(runs, "drop", lambda run: abs(best(run, "test_accuracy") - middle))


def _sample(runs: Sequence[Run], metric: str, value: Callable[[Run], float]) -> Sample | None:
    """The value of each run, with its seed; None without a run."""
    return Sample(tuple(map(value, runs)), tuple(run.seed for run in runs), metric) if runs else None


def guessing_loss(row: RowRuns) -> float:
    """The loss of a network that gives every class the same probability: ln(classes)."""
    data, some = images_of(row)
    return math.log(len(some.split(",")) if some else IMAGE_SETS[sets_for(row.row.script)[data]].class_count)


def learned(row: RowRuns) -> tuple[int, int]:
    """How many of the row's finished runs learned, and how many there are.

    A run learned if it did not diverge and its best test loss is at least PART below that of guessing.
    """
    finished = [run for run in row.runs.values() if run.status in FINISHED]
    enough = (1 - PART) * guessing_loss(row)
    return sum(best(run, "test_loss") <= enough for run in row.complete), len(finished)


def epoch_seconds(runs: Sequence[Run]) -> float:
    """The median over all epochs of these runs; nan if there is none."""
    values = [epoch.seconds for run in runs for epoch in run.history]
    return statistics.median(values) if values else math.nan


def total_seconds(runs: Sequence[Run]) -> float:
    """The time of all epochs of these runs."""
    return sum(epoch.seconds for run in runs for epoch in run.history)


def seconds_a_seed(rows: Sequence[RowRuns]) -> float:
    """The time of one run of each row, by the mean over its complete runs."""
    return sum(total_seconds(row.complete) / len(row.complete) for row in rows)


def wanted(row: RowRuns) -> int:
    """How many runs there should be: one for each seed asked for, and those that are there besides."""
    return len({*row.seeds, *(run.seed for run in row.complete)})


# -- settings ----------------------------------------------------------------------------------------------------------


def setting(row: RowRuns, flag: str) -> object:
    """A flag's value: as the row's runs recorded it, else as the row gives it, else the script's default."""
    of_run = next((run.config["flags"] for run in row.runs.values()), {})
    default = FLAGS[flag].default
    default = default.get(row.row.script) if isinstance(default, dict) else default
    return of_run.get(flag, row.row.flags.get(flag, default))


def dataset(row: RowRuns) -> str:
    """What --data was: "cifar10", "mnist" or "synthetic"."""
    return setting(row, "data") or row.row.data or next(iter(sets_for(row.row.script)))


def images_of(row: RowRuns) -> tuple[str, str]:
    """The image set and, as --classes has them, the classes of it; none named: all of them."""
    return dataset(row), setting(row, "classes")


@dataclass(frozen=True)
class Family:
    """All rows of one script and of the same images."""

    kind: str  # "CNN" or "RNN"
    rows: list[RowRuns]
    name: str  # of its anchors and figures

    @property
    def title(self) -> str:
        data, classes = images_of(self.rows[0])
        return f"{self.kind} with {flag_label('data', data)}" + f", {classes.count(',') + 1} classes" * bool(classes)

    @property
    def complete(self) -> list[Run]:
        return [run for row in self.rows for run in row.complete]


def families_of(rows: Sequence[RowRuns]) -> list[Family]:
    """The rows by script and images; the first images of a script give its family no longer name: "cnn", "rnn"."""
    found: list[Family] = []
    for kind, script in (("CNN", CNN), ("RNN", RNN)):
        of_script = [row for row in rows if row.row.script == script]
        for number, images in enumerate(dict.fromkeys(map(images_of, of_script))):
            name = "-".join([kind.lower(), *filter(None, images)][: None if number else 1]).replace(",", ".")
            found.append(Family(kind, [row for row in of_script if images_of(row) == images], name))
    return found


def varied_flags(rows: Sequence[RowRuns]) -> list[str]:
    """The result-changing flags in which the rows differ, the original's own first."""
    left_out = ("seed", "precision", "cell", "data", "classes")  # said elsewhere
    ordered = dict.fromkeys((*ORIGINAL_FLAGS, *RESULT_FLAGS))
    return [flag for flag in ordered if flag not in left_out and len(values_of(rows, flag)) > 1]


def values_of(rows: Sequence[RowRuns], flag: str) -> list:
    """A flag's values in these rows, sorted."""
    return sorted({setting(row, flag) for row in rows}, key=in_order)


def in_order(value: object) -> tuple:
    """Sorts a flag's values, which may be of several kinds: nothing, numbers and switches, words."""
    return value is not None, isinstance(value, str), value


def first_filters_compared(rows: Sequence[RowRuns]) -> list[RowRuns]:
    """The first row with each kind of first filters; none if they are of one kind in all rows."""
    kinds: dict[tuple, RowRuns] = {}
    for row in rows:
        kinds.setdefault(tuple(setting(row, flag) for flag in FIRST_FILTER_FLAGS), row)
    return list(kinds.values()) if len(kinds) > 1 else []


def tried_settings(rows: Sequence[RowRuns]) -> list[list[str]]:
    """The settings that were tried, as the original's table has them: a header, and a line a flag with its values."""
    flags = varied_flags(rows)
    flags += [flag for flag in ORIGINAL_FLAGS if flag not in flags and values_of(rows, flag) != [None]]
    lines = [[flag_label(flag), *(flag_label(flag, value) for value in values_of(rows, flag))] for flag in flags]
    header = ["<parameter", *(f"value {number}" for number in range(1, max(map(len, lines))))]
    return [header, *(line + [""] * (len(header) - len(line)) for line in lines)]


def by_cell(rows: Sequence[RowRuns]) -> dict[str, list[RowRuns]]:
    """The rows of each cell, in the original's order."""
    found = {cell: [row for row in rows if setting(row, "cell") == cell] for cell in CELLS}
    return {cell: of_cell for cell, of_cell in found.items() if of_cell}


def cell_name(cell: str) -> str:
    return flag_label("cell", cell)


# -- words -------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} minutes" if minutes < 59.95 else f"{minutes / 60:.1f} hours"  # never 60.0 minutes


def recorded(runs: Sequence[Run], key: str) -> str:
    """What the runs' configs, or the flags in them, have under a name: `cpu`, `cpu and cuda`."""
    return listed(sorted({str(run.config.get(key, run.config["flags"].get(key))) for run in runs}))


def counted(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(words: Sequence[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = map(str, words or [""])
    return f"{', '.join(others)} and {last}" if others else last
