"""Draw the loss and accuracy curves of finished runs side by side, for a document or a talk.

    python benchmarks/curves.py RUN… --out FILE.png

Each RUN is a run folder and gets a column, train and test in the same panel. TensorBoard shows the same curves live.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from matplotlib.figure import Figure

from harness.cli import run_script
from harness.errors import UserError
from harness.files import write_atomically
from harness.metrics import EpochMetrics, read_metrics
from harness.pictures import in_style, png_bytes, render

TRAIN_COLOR, TEST_COLOR = "#4269d0", "#e4572e"


@in_style
def curves_figure(runs: Sequence[tuple[str, Sequence[EpochMetrics]]]) -> np.ndarray:
    """Loss and accuracy over epochs, a column a run: `runs` holds (title, history)."""
    figure = Figure(figsize=(4.6 * len(runs), 5.6), layout="constrained")
    grid = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for (upper, lower), (title, history) in zip(grid.T, runs, strict=True):
        for axes, metric, label in ((upper, "loss", "cross-entropy"), (lower, "accuracy", "accuracy")):
            for split, color in (("train", TRAIN_COLOR), ("test", TEST_COLOR)):
                values = [getattr(row, f"{split}_{metric}") for row in history]
                axes.plot([row.epoch for row in history], values, color=color, label=split, marker=".")
            axes.set_ylabel(label)
        upper.set_title(title)
        upper.legend()
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
    return render(figure, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the curves of finished runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    flags = parser.parse_args(argv)
    runs = [(f"{run.parent.name}\n{run.name}", read_metrics(run / "metrics.csv")) for run in flags.runs]
    for run, (_, history) in zip(flags.runs, runs, strict=True):
        if not history:
            raise UserError(f"{run / 'metrics.csv'} holds no epoch yet")
    write_atomically(flags.out, png_bytes(curves_figure(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
