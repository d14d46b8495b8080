"""Which run the report looks into, and which of the analyses that visualize.py kept in its figures/ it can show.

A person can have drawn other figures there, by `visualize.py last.pt` or `--data synthetic`: what is shown is of the
run's own images and of one epoch. Headings, words and tables are those that visualize.py recorded.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.analyses import OF_REPORT, ON_REQUEST, read_analyses
from harness.analyses.findings import rounded, text_columns
from harness.files import read_file
from harness.grid.runs import RowRuns, Run
from harness.metrics import best_epoch
from harness.pictures import confusion_svg
from harness.report.figures import Figure
from harness.report.results import best, by_cell, families_of, first_filters_compared

EVOLUTION = "evolution"  # of all epochs, where the run kept snapshots
FIRST_FILTER_ANALYSES = ("filters", "activations")  # of each row whose first filters are compared
FIRST_FILTER_COLUMNS = (
    "filters",
    "dead maps",
    "maps active in every image",
    "largest RMS",
    "median RMS",
    "share aliased",
)
WIDTH = 880  # CSS pixels that a figure is shown at


@dataclass(frozen=True)
class Inside:
    """What is shown of one run."""

    row: RowRuns
    run: Run
    epoch: int  # of the model
    at_best: bool  # that epoch has the best test accuracy
    analyses: dict[str, dict]  # their records
    left_out: list[str]  # analyses that are of another epoch or of other images, or not whole

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

    def confusion_figure(self) -> Figure:
        classes, counts = self.confusion
        title = f"{self.run.config['dataset']['name']}, test images, epoch {len(self.run.history)}"
        return Figure("Confusion matrix", confusion_svg(counts, classes, title), WIDTH, chart=False)

    def figures(self, name: str) -> Iterator[tuple[str, Figure]]:
        """The file names and figures of an analysis."""
        for drawn in self.analyses[name]["figures"]:
            content = read_file(self.run.path / "figures" / drawn["svg"])
            figure = Figure(str(drawn.get("title", name)), content, WIDTH, chart=False)
            yield drawn["svg"].replace("_", "-"), figure

    def table(self, name: str) -> list[list[str]]:
        """The first table of an analysis: a header, in which a < begins a column of words, and the rows."""
        table = self.analyses[name]["tables"][0]
        words = text_columns(table["header"], table["rows"])
        header = [f"{'<' * is_words}{head}" for head, is_words in zip(table["header"], words, strict=True)]
        return [header, *([rounded(value) for value in row] for row in table["rows"])]


def to_look_into(results: Sequence[RowRuns]) -> list[tuple[Run, Sequence[str]]]:
    """The runs that a report of these rows looks into, each with the names of the analyses to show.

    For each set of images one CNN and one run of each cell: the first seed of the row with the best runs. Of rows whose
    first filters differ in kind their filters and activations.
    """
    found = {}
    for family in families_of(results):
        for row in first_filters_compared(family.rows):
            found |= {run.path: (run, FIRST_FILTER_ANALYSES) for run in row.complete[:1]}
        for rows in list(by_cell(family.rows).values()) or [family.rows]:
            best_run = max((row.complete[0] for row in rows if row.complete), key=rank, default=None)
            found |= {best_run.path: (best_run, OF_REPORT)} if best_run else {}
    return list(found.values())


def look_inside(rows: Sequence[RowRuns]) -> Inside | None:
    """Of the run with the most analyses to show, of several the first by `rank`; None where there are none.

    What not every run can have does not count: an evolution without snapshots, and what is made on request only.
    """
    found = [inside for row in rows for run in row.runs.values() if (inside := _look_into(row, run))]
    return max(
        found, key=lambda each: (len(each.analyses.keys() - {EVOLUTION, *ON_REQUEST}), rank(each.run)), default=None
    )


def first_filters(rows: Sequence[RowRuns]) -> list[tuple[RowRuns, list[str], tuple[str, Figure]]]:
    """Of rows whose first filters differ in kind, each one's first run: cells below FIRST_FILTER_COLUMNS, a figure."""
    found = []
    for row in first_filters_compared(rows):
        inside = _look_into(row, row.complete[0]) if row.complete else None
        if inside and {*FIRST_FILTER_ANALYSES} <= inside.analyses.keys() and inside.analyses["filters"]["figures"]:
            tables = [table for name in FIRST_FILTER_ANALYSES for table in inside.analyses[name]["tables"]]
            first_rows = [
                dict(zip(table["header"], table["rows"][0], strict=True)) for table in tables if table["rows"]
            ]
            values = {column: value for each in first_rows for column, value in each.items()}  # of the first layer
            cells = [rounded(values.get(column)) for column in FIRST_FILTER_COLUMNS]
            found.append((row, cells, next(inside.figures("filters"))))
    return found


def rank(run: Run) -> tuple:
    """Which of several runs is shown: the one with the largest of these."""
    return best(run, "test_accuracy"), -run.seed


def _look_into(row: RowRuns, run: Run) -> Inside | None:
    """The analyses of the model with the best test accuracy, of those epochs that were drawn with the run's images."""
    folder, images = run.path / "figures", run.config["dataset"]
    accuracies = {metrics.epoch: metrics.test_accuracy for metrics in run.history}
    own = {
        name: record
        for name, record in read_analyses(folder).items()
        if name in OF_REPORT
        and all(record["dataset"].get(key) == images.get(key) for key in ("name", "checksum"))
        and (name == EVOLUTION or record["epoch"] in accuracies)
    }
    if not run.history or not own:
        return None
    epochs = {record["epoch"] for name, record in own.items() if name != EVOLUTION}
    shown = max(sorted(epochs or {best_epoch(run.history).epoch}), key=accuracies.__getitem__)
    analyses = {name: record for name, record in own.items() if name == EVOLUTION or record["epoch"] == shown}
    left_out = [name for name in OF_REPORT if name not in analyses and any(folder.glob(f"{name}[._]*"))]
    at_best = accuracies[shown] == best(run, "test_accuracy")
    return Inside(row, run, shown, at_best, analyses, left_out)
