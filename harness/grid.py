"""A grid of experiments: its rows, read from a TOML file such as experiments.toml, and their runs, found by config.

`report.py` trains what a grid lacks and writes the report from what it finds. A row is one setting, a run one row with
one seed.
"""

from dataclasses import dataclass, field
from pathlib import Path

from harness.run_folder import EpochMetrics

FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")  # what a row may have `printed`


@dataclass(frozen=True)
class Row:
    """One setting of a grid; `flags` holds the script's flags by their argparse names, defaults left out."""

    name: str
    script: str  # "cnn_cifar10" or "rnn_mnist"
    flags: dict
    title: str
    printed: dict[str, float] = field(default_factory=dict)  # of FIGURES; empty where the original printed none
    note: str = ""


@dataclass(frozen=True)
class Run:
    """A run folder that belongs to a row."""

    path: Path
    seed: int
    status: str  # "complete", "running", "diverged" or "interrupted", as in config.json
    config: dict
    history: list[EpochMetrics]  # one an epoch; empty before the first is finished


@dataclass(frozen=True)
class RowRuns:
    """A row with the runs found for it: by seed, in ascending order, each seed once; and the seeds that were wanted."""

    row: Row
    runs: dict[int, Run]
    seeds: tuple[int, ...]

    @property
    def complete(self) -> list[Run]:
        return [run for run in self.runs.values() if run.status == "complete"]
