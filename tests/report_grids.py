"""Grids of invented runs for the tests of the report: made in memory, or as run folders where files are looked for."""

import json
import math
import random
from pathlib import Path

from harness.data import published_checksum
from harness.flags import recorded_flags
from harness.grid.rows import Row, parser_of
from harness.grid.runs import RowRuns, Run
from harness.metrics import EpochMetrics, metrics_csv


def history(seed: int, epochs: int = 3, *, level: float = 0.9) -> list[EpochMetrics]:
    """Noisy curves that rise to about `level`; other numbers for every seed."""
    noise = random.Random(seed * 1000 + epochs)
    rows = []
    for epoch in range(1, epochs + 1):
        train, test = (level * (1 - math.exp(-epoch)) + noise.uniform(-0.02, 0.02) for _ in range(2))
        rows.append(EpochMetrics(epoch, 1 - train, train, 1.02 - test, test, 1.0 + noise.random()))
    return rows


def run(
    row: Row,
    seed: int,
    folder: Path,
    *,
    status: str = "complete",
    epochs: list[EpochMetrics] | None = None,
    **flags: object,
) -> Run:
    """A run of a row; nothing is written."""
    defaults = recorded_flags(parser_of(row.script).parse_args(["--batch-size=64"]))
    recorded = {**defaults, "optimizer": "adam", "lr": 0.001, "epochs": 3, **row.flags, "seed": seed, **flags}
    experiment = f"{row.script.split('_')[0]}_{recorded['data']}"
    config = {
        "experiment": experiment,
        "flags": recorded,
        "dataset": {"name": recorded["data"], "checksum": published_checksum(recorded["data"])},
        "model": {"name": "a network"},
        "device": "cpu",
        "threads": 1,
        "torch": "2.0",
        "python": "3.11",
        "status": status,
    }
    return Run(
        folder / experiment / f"{row.name}-s{seed}", seed, status, config, history(seed) if epochs is None else epochs
    )


def write_run(made: Run) -> None:
    """The run as a folder: config.json and metrics.csv."""
    made.path.mkdir(parents=True)
    (made.path / "config.json").write_text(json.dumps(made.config), encoding="utf-8")
    (made.path / "metrics.csv").write_bytes(metrics_csv(made.history))


def row_runs(row: Row, seeds: tuple[int, ...], folder: Path, **options: object) -> RowRuns:
    """The row with a complete run for each seed."""
    return RowRuns(row, {seed: run(row, seed, folder, **options) for seed in seeds}, seeds)


def cnn_row(name: str = "cnn-a", **changes: object) -> Row:
    fields = {
        "flags": {"optimizer": "adam", "lr": 0.001},
        "title": f"the row {name}",
        "printed": {},
        "note": "",
    } | changes
    return Row(name=name, script="cnn_cifar10", **fields)


def cell_row(cell: str, name: str | None = None, **changes: object) -> Row:
    flags = {"cell": cell, "hidden_size": 128, "optimizer": "adam", "lr": 0.001}
    fields = {"flags": flags, "title": f"{cell}: a title", "printed": {}, "note": ""} | changes
    return Row(name=name or f"{cell}-a", script="rnn_mnist", **fields)
