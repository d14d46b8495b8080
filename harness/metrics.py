"""What is measured after each epoch: the metrics of a run, their CSV file, and which epoch is the best.

`train.py` makes the numbers and keeps them in the run folder.
"""

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
    _, train_losses, train_accuracies, test_losses, test_accuracies, seconds = zip(*history, strict=True)
    bests = min(train_losses), max(train_accuracies), min(test_losses), max(test_accuracies)
    return EpochMetrics(len(history), *bests, sum(seconds))


def accuracy_at(history: Sequence[EpochMetrics], epoch: int) -> float:
    """The test accuracy of an epoch; -1 for one that is not there."""
    return history[epoch - 1].test_accuracy if 1 <= epoch <= len(history) else -1.0


def aligned(value: float, width: int, decimals: str = ".4f") -> str:
    """A number for a printed column of at least 7 characters; in powers of ten where `decimals` would not fit it."""
    text = f"{value:{width}{decimals}}"
    return text if len(text) <= width else f"{value:{width}.{width - 7}e}"


def metrics_csv(history: Sequence[EpochMetrics]) -> bytes:
    """metrics.csv: floats as Python prints them, so that they are read back to the bit."""
    return "".join(",".join(map(str, line)) + "\n" for line in (METRICS_HEADER, *history)).encode()


def read_metrics(file: Path) -> list[EpochMetrics]:
    """The epochs of a metrics.csv, from 1 on without a gap. UserError if it cannot be read or is something else."""
    try:
        header, *lines = (line.split(",") for line in read_file(file).decode().splitlines())
        rows = [[int(epoch), *map(float, values)] for epoch, *values in lines]
        if tuple(header) != METRICS_HEADER or not all(
            is_metrics(row, epoch) for epoch, row in enumerate(rows, start=1)
        ):
            raise ValueError("another header, or rows that are no metrics")
    except ValueError as error:
        raise UserError(f"{file} is not the metrics of a run") from error
    return [EpochMetrics(*row) for row in rows]


def is_metrics(row: object, epoch: int) -> bool:
    """Whether it is a list of what EpochMetrics holds, of this epoch; a damaged file may have anything instead."""
    if not isinstance(row, list) or [type(value) for value in row] != [int, float, float, float, float, float]:
        return False
    metrics = EpochMetrics(*row)
    accuracies = (metrics.train_accuracy, metrics.test_accuracy)
    return metrics.epoch == epoch and all(0 <= accuracy <= 1 for accuracy in accuracies) and metrics.seconds >= 0
