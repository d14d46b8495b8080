"""Which CNN run the report looks into, and which of the analyses that visualize.py kept in its figures/ it can show.

A person can have drawn other figures there, by `visualize.py last.pt` or `--data synthetic`: what is shown is of the
run's own images and of one epoch. The words around them are in templates/inside.md.j2.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from harness.analyses import ANALYSES, read_analyses
from harness.files import read_file
from harness.grid.runs import RowRuns, Run
from harness.metrics import accuracy_at, best_epoch
from harness.pictures import confusion_svg, png_bytes
from harness.report.figures import Figure
from harness.report.results import best

EVOLUTION = "evolution"  # of all epochs, where the run kept snapshots
WIDTH = 880  # CSS pixels that a figure is shown at
STATISTICS = {
    "mean",
    "std",
    "report mean",
    "report std",
    "share of zeros",
    "dead maps",
}  # columns that the report shows


@dataclass(frozen=True)
class Inside:
    """What is shown of one run."""

    row: RowRuns
    run: Run
    epoch: int  # of the model
    at_best: bool  # that epoch has the best test accuracy
    analyses: dict[str, dict]  # their records
    left_out: list[str]  # analyses that are of another epoch or of other images, or not whole

    @property
    def figures(self) -> list[str]:
        """The names of the files, without their suffixes; `confusion` is the training's own."""
        names = [Path(figure["file"]).stem for record in self.analyses.values() for figure in record["figures"]]
        return names + ["confusion"] * (self.confusion is not None)

    @cached_property
    def confusion(self) -> tuple[list[str], np.ndarray] | None:
        """The classes and, a row a true class, how many test images got which answer after the last epoch."""
        try:
            text = read_file(self.run.path / "figures" / "confusion.csv").decode()
            (_, *classes, _), *rows = csv.reader(text.splitlines())
            counts = np.array([row[1:-1] for row in rows], dtype=np.uint32)
        except Exception:  # missing, damaged or of another version: csv and NumPy can fail in many ways
            return None
        return (classes, counts) if counts.shape == (len(classes), len(classes)) else None

    @property
    def class_accuracies(self) -> list[tuple[str, float]]:
        """Each class and its accuracy in percent, the highest first."""
        classes, counts = self.confusion
        accuracies = 100 * counts.diagonal() / counts.sum(axis=1).clip(min=1)
        return sorted(zip(classes, accuracies.tolist(), strict=True), key=lambda each: -each[1])

    @property
    def activations(self) -> list[dict]:
        """Statistics of the activations of each layer, by the columns of activations.csv."""
        table = self.analyses["activations"]["tables"][0]
        return [dict(zip(table["header"], row, strict=True)) for row in table["rows"]]

    def figure(self, name: str, description: str) -> Figure:
        """One of them as SVG or, if an earlier version drew it, as a PNG of 256 colors."""
        file = self.run.path / "figures" / name
        if name == "confusion":
            classes, counts = self.confusion
            title = f"{self.run.config['dataset']['name']}, test images, epoch {len(self.run.history)}"
            content = confusion_svg(counts, classes, title)
        elif file.with_suffix(".svg").is_file():
            content = read_file(file.with_suffix(".svg"))
        else:
            content = png_bytes(np.asarray(Image.open(file.with_suffix(".png")).convert("RGB")))
        return Figure(description, content, WIDTH, chart=False)


def look_inside(rows: Sequence[RowRuns]) -> Inside | None:
    """Of the run with the most analyses to show, of several the first by `rank`; None where there are none.

    Whether there is an evolution does not count: a run without snapshots never has one.
    """
    found = [inside for row in rows for run in row.runs.values() if (inside := _look_into(row, run))]
    return max(found, key=lambda each: (len(each.analyses.keys() - {EVOLUTION}), rank(each.run)), default=None)


def rank(run: Run) -> tuple:
    """Which of several runs is shown: the one with the largest of these. Most epochs, then the best test accuracy."""
    return len(run.history), best(run, "test_accuracy"), -run.seed


def _holds_statistics(tables: list[dict]) -> bool:
    """Whether the first is the table of `Inside.activations`, all numbers; another version may have written another."""
    if not tables or not {"activations", *STATISTICS} <= {*map(str, tables[0]["header"])}:
        return False
    values = (value for row in tables[0]["rows"] for value in row[1:])
    return all(value is None or (type(value) in (int, float) and abs(value) < 1e30) for value in values)


def _look_into(row: RowRuns, run: Run) -> Inside | None:
    """The analyses of the model with the best test accuracy, of those epochs that were drawn with the run's images."""
    folder, trained, images = run.path / "figures", range(1, len(run.history) + 1), run.config["dataset"]
    own = {
        name: record
        for name, record in read_analyses(folder).items()
        if all(record["dataset"].get(key) == images.get(key) for key in ("name", "checksum"))
        and (name == EVOLUTION or record["epoch"] in trained)
        and (name != "activations" or _holds_statistics(record["tables"]))
    }
    if not run.history or not own:
        return None
    best_one = best_epoch(run.history)
    epochs = {record["epoch"] for name, record in own.items() if name != EVOLUTION} or {best_one.epoch}
    shown = max(sorted(epochs), key=lambda epoch: accuracy_at(run.history, epoch))
    analyses = {name: record for name, record in own.items() if name == EVOLUTION or record["epoch"] == shown}
    left_out = [name for name in ANALYSES if name not in analyses and any(folder.glob(f"{name}[._]*"))]
    at_best = accuracy_at(run.history, shown) == best(run, "test_accuracy")
    return Inside(row, run, shown, at_best, analyses, left_out)
