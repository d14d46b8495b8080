"""What is measured after each epoch: the metrics of a run, their CSV file, and which epoch is the best.

`train.py` makes the numbers; `run.py` keeps them in the run folder.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import UserError
from harness.files import read_file

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
METRICS_HEADER = ("epoch", "train/loss", "train/accuracy", "test/loss", "test/accuracy", "seconds")


class EpochMetrics(NamedTuple):
    """One row of metrics.csv: mean cross-entropy a sample, accuracy in [0, 1], seconds for train and test pass."""

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.train_loss) and math.isfinite(self.test_loss)


def best_epoch(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """The epoch whose model best.pt holds: of the largest test accuracy with finite losses, the first of several."""
    return max((row for row in history if row.finite), key=lambda row: row.test_accuracy, default=history[0])


def best_values(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """The best of each metric over the epochs, each by itself: smallest loss, largest accuracy; seconds summed up."""
    return EpochMetrics(
        len(history),
        min(row.train_loss for row in history),
        max(row.train_accuracy for row in history),
        min(row.test_loss for row in history),
        max(row.test_accuracy for row in history),
        sum(row.seconds for row in history),
    )


def accuracy_at(history: Sequence[EpochMetrics], epoch: int) -> float:
    """The test accuracy of an epoch; -1 for one that is not there."""
    return history[epoch - 1].test_accuracy if 1 <= epoch <= len(history) else -1.0


def metrics_csv(history: Sequence[EpochMetrics]) -> bytes:
    """metrics.csv: floats as Python prints them, so that they are read back to the bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(METRICS_HEADER)
    writer.writerows(history)
    return text.getvalue().encode()


def read_metrics(file: Path) -> list[EpochMetrics]:
    """The epochs of a metrics.csv, from 1 on without a gap. UserError if it cannot be read or is something else."""
    try:
        header, *lines = csv.reader(read_file(file).decode().splitlines())
        rows = [[int(line[0]), *map(float, line[1:])] for line in lines]
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{file} is not the metrics of a run") from error
    if tuple(header) != METRICS_HEADER or not all(is_metrics(row, epoch) for epoch, row in enumerate(rows, start=1)):
        raise UserError(f"{file} is not the metrics of a run")
    return [EpochMetrics(*row) for row in rows]


def is_metrics(row: object, epoch: int) -> bool:
    """Whether it is a list of what EpochMetrics holds, of this epoch; a damaged file may have anything instead."""
    if not isinstance(row, list) or len(row) != len(METRICS_HEADER) or type(row[0]) is not int:
        return False
    if not all(type(value) is float for value in row[1:]):
        return False
    metrics = EpochMetrics(*row)
    accuracies = (metrics.train_accuracy, metrics.test_accuracy)
    return metrics.epoch == epoch and all(0 <= accuracy <= 1 for accuracy in accuracies) and metrics.seconds >= 0
