"""What is measured after each epoch: the metrics of a run, their CSV file, and which epoch is the best.

`train.py` and `evaluate.py` make the numbers, `publish.py` keeps them in the run folder.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import UserError
from harness.files import read_file

MOST_SECONDS = 1e9  # of an epoch, 32 years: sums of more could be infinite
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


class EpochMetrics(NamedTuple):
    """One row of metrics.csv: mean cross-entropy a sample, accuracy in [0, 1], seconds for all passes over the images.

    Every run has the first six. What only some flags measure is None without them; a further pair costs two fields
    here, and its measurement in evaluate.py: its columns and its curves in TensorBoard follow.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    # Of the test images, by averaged weights (--average-weights) and by --test-time-augmentation, in the last epoch.
    average_loss: float | None = None
    average_accuracy: float | None = None
    tta_accuracy: float | None = None
    average_tta_accuracy: float | None = None
    # The same of the images held out, so that a recipe can be chosen without a look at the test images.
    validation_average_loss: float | None = None
    validation_average_accuracy: float | None = None
    validation_tta_accuracy: float | None = None
    validation_average_tta_accuracy: float | None = None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.train_loss) and math.isfinite(self.test_loss)

    @property
    def measured(self) -> dict[str, float]:
        """The fields that were measured."""
        return {field: value for field, value in self._asdict().items() if value is not None}

    @property
    def curves(self) -> dict[str, float]:
        """The losses and accuracies, by their tags in TensorBoard."""
        return {COLUMNS[field]: value for field, value in self.measured.items() if field not in ("epoch", "seconds")}

    @property
    def choice_accuracy(self) -> float:
        """What best.pt is chosen by: the validation accuracy; without a validation split the test accuracy."""
        return self.test_accuracy if self.validation_accuracy is None else self.validation_accuracy


# A field's column in metrics.csv, and its tag in TensorBoard: `train/loss` of train_loss.
COLUMNS = {field: "/".join(field.rsplit("_", 1)) for field in EpochMetrics._fields}
METRICS_HEADER = tuple(COLUMNS.values())[:6]  # of every run


def best_epoch(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """The epoch whose model best.pt holds: of the largest choice_accuracy with finite losses, the first of several."""
    return max((row for row in history if row.finite), key=lambda row: row.choice_accuracy, default=history[0])


def best_values(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """The best of each metric over the epochs, each by itself: smallest loss, largest accuracy; seconds summed up."""
    best = {"epoch": len, "loss": min, "accuracy": max, "seconds": sum}
    measured = {f: [getattr(row, f) for row in history if f in row.measured] for f in EpochMetrics._fields}
    return EpochMetrics(**{f: best[f.rpartition("_")[2]](values) for f, values in measured.items() if values})


def aligned(value: float, width: int, decimals: str = ".4f") -> str:
    """A number for a printed column of at least 7 characters; in powers of ten where `decimals` would not fit it."""
    text = f"{value:{width}{decimals}}"
    return text if len(text) <= width else f"{value:{width}.{width - 7}e}"


def metrics_csv(history: Sequence[EpochMetrics]) -> bytes:
    """metrics.csv: floats as Python prints them, so that they are read back to the bit; empty what was not measured."""
    more = [field for field in EpochMetrics._fields[6:] if any(field in row.measured for row in history)]
    fields = [*EpochMetrics._fields[:6], *more]
    rows = ([row.measured.get(field, "") for field in fields] for row in history)
    lines = [[COLUMNS[field] for field in fields], *rows]
    return "".join(",".join(map(str, line)) + "\n" for line in lines).encode()


def read_metrics(file: Path) -> list[EpochMetrics]:
    """The epochs of a metrics.csv, from 1 on without a gap. UserError if it cannot be read or is something else."""
    try:
        header, *lines = (line.split(",") for line in read_file(file).decode().splitlines())
        numbers = ([int(epoch), *(float(value) if value else None for value in values)] for epoch, *values in lines)
        cells = [dict(zip(header, row, strict=True)) for row in numbers]
        rows = [[row.get(column) for column in COLUMNS.values()] for row in cells]
        known = tuple(header[:6]) == METRICS_HEADER and {*header} <= {*COLUMNS.values()}
        if not known or not all(is_metrics(row, epoch) for epoch, row in enumerate(rows, start=1)):
            raise ValueError("another header, or rows that are no metrics")
    except ValueError as error:
        raise UserError(f"{file} is not the metrics of a run") from error
    return [EpochMetrics(*row) for row in rows]


def is_metrics(row: object, epoch: int) -> bool:
    """Whether it is a list of what EpochMetrics holds, of this epoch; a damaged file may have anything instead."""
    kinds = [type(value) for value in row] if isinstance(row, list) else []
    if kinds[:6] != [int, *[float] * 5] or not {*kinds[6:]} <= {float, type(None)} or len(row) > len(COLUMNS):
        return False
    metrics = EpochMetrics(*row)
    accuracies = [value for field, value in metrics.measured.items() if field.endswith("accuracy")]
    is_time = 0 <= metrics.seconds < MOST_SECONDS
    return metrics.epoch == epoch and is_time and all(0 <= accuracy <= 1 for accuracy in accuracies)
