"""Which CNN run the report looks into, and which of the analyses that visualize.py kept in its figures/ it can show.

A person can have drawn other figures there, by `visualize.py last.pt` or `--data synthetic`: what is shown is of the
run's own images and of one epoch. The words around them are in templates/inside.md.j2.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.files import is_outdated
from harness.grid.runs import RowRuns, Run
from harness.metrics import accuracy_at, best_epoch
from harness.pictures import png_bytes
from harness.report.results import best, read_table

ANALYSES = {  # the figures of each that are shown
    "filters": ("filters_conv1",),
    "activations": ("activations",),
    "deconvnet": ("deconvnet_conv1", "deconvnet_conv2"),
    "evolution": ("evolution_conv1", "evolution_conv2"),
    "invariance": ("invariance",),
    "occlusion": ("occlusion",),
    "correspondence": ("correspondence",),
}
EVOLUTION = "evolution"  # of all epochs, where the run kept snapshots


@dataclass(frozen=True)
class Inside:
    """What is shown of one run."""

    row: RowRuns
    run: Run
    epoch: int  # of the model
    at_best: bool  # that epoch has the best test accuracy
    analyses: list[str]
    left_out: list[str]  # analyses that are of another epoch or of other images, or not whole

    @property
    def figures(self) -> list[str]:
        return [figure for name in self.analyses for figure in ANALYSES[name]]

    def activations(self) -> list[list]:
        """A line a layer: its name, mean and std (original, ours, original, ours), share of zeros, dead maps."""
        number, maybe = float, lambda text: float(text) if text else None
        columns = {"activations": str, "report mean": maybe, "mean": number, "report std": maybe, "std": number}
        path = self.run.path / "figures" / "activations.csv"
        return read_table(path, columns | {"share of zeros": number, "dead maps": str})


def analyses_of(run: Run) -> dict[str, dict]:
    """What visualize.py recorded of the analyses in the run's figures/, by name, without those that are not whole."""
    recorded = read_analyses(run.path / "figures")
    return {name: entry for name, entry in recorded.items() if all(map(_is_whole, _figures(run, name)))}


def read_analyses(folder: Path) -> dict[str, dict]:  # stands in for harness.analyses.read_analyses
    found = {}
    for name in ANALYSES:
        file = folder / f"{name}.json"
        if file.is_file():
            entry = json.loads(file.read_bytes())
            if all((folder / each["file"]).is_file() for each in (*entry["figures"], *entry["tables"])):
                found[name] = entry
    return found


def look_inside(rows: Sequence[RowRuns]) -> Inside | None:
    """Of the run with the most analyses to show, of several the first by `rank`; None where there are none.

    Whether there is an evolution does not count: a run without snapshots never has one.
    """
    found = [inside for row in rows for run in row.runs.values() if (inside := _look_into(row, run))]
    return max(found, key=lambda each: (len({*each.analyses} - {EVOLUTION}), rank(each.run)), default=None)


def rank(run: Run) -> tuple:
    """Which of several runs is shown: the one with the largest of these. Most epochs, then the best test accuracy."""
    accuracy = best(run, "test_accuracy")
    return len(run.history), -1.0 if math.isnan(accuracy) else accuracy, -run.seed


def _look_into(row: RowRuns, run: Run) -> Inside | None:
    """The analyses of the model with the best test accuracy, of those epochs that were drawn."""
    own = {name: epoch for name, epoch in _epochs(run).items() if name == EVOLUTION or epoch in _trained(run)}
    if not run.history or not own:
        return None
    epochs = sorted({epoch for name, epoch in own.items() if name != EVOLUTION}) or [best_epoch(run.history).epoch]
    shown = max(epochs, key=lambda epoch: accuracy_at(run.history, epoch))
    analyses = [name for name in ANALYSES if name in own and (name == EVOLUTION or own[name] == shown)]
    folder = run.path / "figures"
    left_out = [name for name in ANALYSES if name not in analyses and any(folder.glob(f"{name}[._]*"))]
    at_best = accuracy_at(run.history, shown) == best_epoch(run.history).test_accuracy
    return Inside(row, run, shown, at_best, analyses, left_out)


def _trained(run: Run) -> range:
    return range(1, len(run.history) + 1)


def _epochs(run: Run) -> dict[str, int | None]:
    """The model's epoch of each analysis that is of the run's own images."""
    own = [run.config["dataset"].get(key) for key in ("name", "checksum")]
    found = analyses_of(run).items()
    return {name: entry["epoch"] for name, entry in found if [*map(entry["dataset"].get, ("name", "checksum"))] == own}


def _figures(run: Run, name: str) -> list[Path]:
    return [run.path / "figures" / f"{figure}.png" for figure in ANALYSES[name]]


def _is_whole(picture: Path) -> bool:
    try:
        with Image.open(picture) as opened:
            opened.load()
    except Exception:  # a damaged file can make Pillow fail in many ways
        return False
    return True


def read_figure(path: Path) -> tuple[bytes, int]:
    """A figure, known to be whole, as a smaller PNG of 256 colors; and its width."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return png_bytes(pixels), pixels.shape[1]


def outdated_analyses(run: Run) -> set[str]:
    """Those that are lacking for the model in best.pt, or were made before it; none if there is no best.pt.

    UserError if best.pt, from which they would be made, cannot be read.
    """
    checkpoint = run.path / "best.pt"
    if not checkpoint.exists():
        return set()
    snapshots, recorded = [*(run.path / "snapshots").glob("epoch-*.pt")], _epochs(run)
    wanted = {name for name in ANALYSES if name != EVOLUTION or snapshots}
    lacking = wanted - set(recorded)
    for name in wanted:  # the record of an analysis is written after its figures
        sources = [checkpoint, *_figures(run, name), *(snapshots if name == EVOLUTION else ())]
        if any(is_outdated(run.path / "figures" / f"{name}.json", source) for source in sources):
            lacking.add(name)
    try:
        epoch = load_checkpoint(checkpoint).get("epoch")
    except UserError:
        if lacking:
            raise
        return set()
    return lacking | {name for name in wanted - {EVOLUTION} if recorded.get(name) != epoch}
