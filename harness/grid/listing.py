"""`report.py --list`: a table of all runs in a folder, of any script and grid, for the terminal.

Each experiment has a table. A run's name says its settings; where some have other names, the settings that differ get
columns. Unlike runs.py, which finds the runs of a grid, this shows whatever it can read.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness.errors import UserError, one_line
from harness.files import is_locked
from harness.flags import FLAGS, RESULT_FLAGS, run_name
from harness.grid.rows import SCRIPT_WORDS, parser_of
from harness.metrics import EpochMetrics, aligned, best_values, read_metrics

LONG = 40  # letters of a name, with which there is no room beside it
MORE_ACCURACIES = ("average_accuracy", "tta_accuracy", "average_tta_accuracy")  # shown where a run has them
SORTED_BY = ("run", "status", "epoch", "test/accuracy", "test/loss")


@dataclass(frozen=True)
class ListedRun:
    """A run folder: its config, and the epochs that it has."""

    folder: Path
    config: dict
    history: list[EpochMetrics]

    @property
    def status(self) -> str:
        """As in config.json; but a run that was killed could not write there that it no longer runs."""
        status = str(self.config.get("status"))
        return "interrupted" if status == "running" and not is_locked(self.folder) else status

    def setting(self, flag: str) -> str:
        """A flag's value; of a run that was made before there was the flag, its default."""
        return str(self.config["flags"].get(flag, FLAGS[flag].default if FLAGS[flag].added_later else "–"))

    @property
    def is_named_after_its_settings(self) -> bool:
        script = SCRIPT_WORDS.get(self.folder.parent.name.partition("_")[0])
        if not script:  # somebody's own
            return False
        flags = argparse.Namespace(**self.config["flags"] | {"parser": parser_of(script)})
        return self.folder.name.startswith(run_name(flags))

    def metrics(self) -> list[float]:
        """The best and the last test accuracy, the best and the last test loss; nan before the first epoch."""
        if not self.history:
            return [math.nan] * 4
        best, last = best_values(self.history), self.history[-1]
        return [best.test_accuracy, last.test_accuracy, best.test_loss, last.test_loss]

    def rank(self, column: str) -> tuple:
        """What sorts runs by a column, the best first; those without a value come last."""
        accuracy, _, loss, _ = self.metrics()
        values = {"epoch": -len(self.history), "test/accuracy": -accuracy, "test/loss": loss}
        value = values.get(column, self.status if column == "status" else 0)
        return value != value, value, self.folder.name  # only nan differs from itself


def print_runs(runs_dir: Path, sorted_by: str) -> None:
    """Print the runs in `runs_dir`/<experiment>/, sorted by one of SORTED_BY within each experiment."""
    runs = find_all_runs(runs_dir)
    if not runs:
        print(f"no runs in {runs_dir}")
    for folder, group in groupby(runs, key=lambda run: run.folder.parent):
        of_experiment = sorted(group, key=lambda run: run.rank(sorted_by))
        print(f"\n{one_line(str(folder))}: {len(of_experiment)} run{'s' * (len(of_experiment) != 1)}\n")
        print("\n".join(table_of(of_experiment)))


def find_all_runs(runs_dir: Path) -> list[ListedRun]:
    """The runs of every experiment; a folder that cannot be read is left out with a note on standard error."""
    from harness.run import read_config  # imports PyTorch

    runs = []
    for folder in sorted(runs_dir.glob("*/*")):
        try:
            if any((folder / name).exists() for name in ("config.json", "last.pt", "metrics.csv")):
                metrics = folder / "metrics.csv"
                runs.append(ListedRun(folder, read_config(folder), read_metrics(metrics) if metrics.exists() else []))
        except (UserError, OSError) as error:  # OSError: a folder that one may not look into
            print(f"note: {str(error).partition(';')[0]}; left out", file=sys.stderr)
    return runs


def table_of(runs: list[ListedRun]) -> list[str]:
    """The lines of a table, of 80 columns unless settings differ that no name says; a long name has its own line."""
    named = all(run.is_named_after_its_settings for run in runs)
    differ = [flag for flag in RESULT_FLAGS if flag != "epochs" and len({run.setting(flag) for run in runs}) > 1]
    settings = [] if named else differ
    texts = ["run", *(flag.replace("_", "-") for flag in settings), "status"]  # aligned to the left
    lasts = [run.history[-1].measured if run.history else {} for run in runs]
    more = [field for field in MORE_ACCURACIES if any(field in last for last in lasts)]
    names = [field.removesuffix("_accuracy").replace("_", "+") for field in more]
    rows = [[*texts, "epoch", "best", "last", *names, "best", "last"]]
    for run, last in zip(runs, lasts, strict=True):
        epoch = f"{len(run.history)}/{run.config['flags'].get('epochs', '?')}"
        best, at_last, *losses = run.metrics() if run.history else [None] * 4
        metrics = (best, at_last, *map(last.get, more), *losses)
        cells = ["–" if value is None else aligned(value, 7).strip() for value in metrics]
        rows.append([run.folder.name, *map(run.setting, settings), run.status, epoch, *cells])
    columns = []
    for number, column in enumerate(zip(*rows, strict=True)):
        cells = [one_line(str(cell)) for cell in column]
        width = max(map(len, cells))
        gap = " " if column[0] in ("epoch", "last") else "  " * (number > 0)
        columns.append([gap + (cell.ljust(width) if number < len(texts) else cell.rjust(width)) for cell in cells])
    names = columns.pop(0)[1:] if len(columns[0][0]) > LONG else []
    header, *lines = ("".join(cells) for cells in zip(*columns, strict=True))
    if names:
        lines = [f"{name.rstrip()}\n{line}" for name, line in zip(names, lines, strict=True)]
    loss = len(columns[-1][0] + columns[-2][0])
    return [f"{'test/accuracy':>{len(header) - loss}}{'test/loss':>{loss}}", header, *lines]
