"""The runs of a grid: found in the run folders by their config, never by a folder's name, and what is not complete.

schedule.py trains what is missing here; harness/report turns what is there into the report.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint import check_training_state, load_checkpoint
from harness.data import published_checksum
from harness.errors import UserError
from harness.flags import complete_record
from harness.grid.rows import Parsers, Row, experiment_of, wanted_flags
from harness.metrics import EpochMetrics, read_metrics
from harness.run import read_config

FINISHED = ("complete", "diverged")  # a run of this status is not trained on
STATUSES = (*FINISHED, "running", "interrupted")

_PROBLEMS_SHOWN = 12


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


@dataclass(frozen=True)
class Problem:
    """A wanted run that is not complete, and why."""

    row: str  # the row's name
    seed: int
    status: str  # "missing", "failed" or "diverged"
    text: str


def find_runs(
    rows: Iterable[Row],
    runs_dir: Path,
    parsers: Parsers,
    *,
    seeds: Iterable[int],
    precision: str,
    data: str | None,
    quiet: bool = False,
) -> list[RowRuns]:
    """The runs of each row under `runs_dir`, whatever their folders are called.

    A run belongs to a row if all its result-changing flags and its images are the row's. Of several with one seed the
    complete one counts, else one that diverged, else the longest. Seeds beyond `seeds` are there if they are finished:
    a report uses all there is. What cannot be read is left out, with a note on standard error unless `quiet`.
    """
    seeds, rows = tuple(seeds), tuple(rows)
    experiments = {experiment_of(row, parsers, data) for row in rows}
    configs = {experiment: _read_configs(runs_dir / experiment, quiet) for experiment in experiments}
    results = []
    for row in rows:
        wanted = wanted_flags(row, parsers, seed=0, precision=precision, data=data)
        del wanted["seed"]
        added_later = complete_record({}, parsers[row.script])  # the defaults of flags that an older run lacks
        runs: dict[int, Run] = {}
        for folder, config in configs[experiment_of(row, parsers, data)]:
            if not wanted.items() <= (added_later | config["flags"]).items():
                continue
            with _left_out_if_damaged(quiet):
                run = _read_run(folder, config, wanted["data"], quiet)
                if run.seed in seeds or run.status in FINISHED:
                    runs[run.seed] = max(runs.get(run.seed, run), run, key=_progress)
        results.append(RowRuns(row, dict(sorted(runs.items())), seeds))
    return results


def complete_runs(folder: Path) -> list[Run]:
    """All complete runs in an experiment's folder, in the order of their seeds; the rest is passed over in silence."""
    runs = []
    for path, config in _read_configs(folder, quiet=True):
        if config["status"] == "complete":
            with _left_out_if_damaged(quiet=True):
                runs.append(_read_run(path, config, str(config["flags"].get("data")), quiet=True))
    return sorted(runs, key=lambda run: (run.seed, run.path.name))


def problems_of(results: Iterable[RowRuns], failures: Mapping[tuple[str, int], str]) -> list[Problem]:
    """The wanted runs that are not complete; `failures` maps (row, seed) to what training it ended with."""
    problems = []
    for result in results:
        for seed in result.seeds:
            run, key = result.runs.get(seed), (result.row.name, seed)
            if run and run.status == "complete":
                continue
            if run and run.status == "diverged":
                epoch = f" in epoch {len(run.history)}" if run.history else ""
                problems.append(Problem(*key, "diverged", f"the loss became NaN or infinite{epoch}"))
            elif key in failures:
                problems.append(Problem(*key, "failed", failures[key]))
            else:
                epochs = f"{len(run.history)} of {run.config['flags']['epochs']} epochs" if run else "not"
                problems.append(Problem(*key, "missing", f"{epochs} trained"))
    return problems


def print_problems(problems: list[Problem], *, wanted: int) -> None:
    """Say, a line each, which of the wanted runs are not complete."""
    if not problems:
        print(f"all {wanted} runs are complete" if wanted > 1 else "the run is complete")
        return
    are = f"{len(problems)} of {wanted} runs {'is' if len(problems) == 1 else 'are'}" if wanted > 1 else "the run is"
    print(f"{are} not complete:", file=sys.stderr)
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(f"  {problem.row}, seed {problem.seed}: {problem.status}: {problem.text}", file=sys.stderr)
    if len(problems) > _PROBLEMS_SHOWN:
        print(f"  … and {len(problems) - _PROBLEMS_SHOWN} more; the report lists them all", file=sys.stderr)


def _progress(run: Run) -> tuple[bool, bool, int]:
    """What orders runs of one row and seed; max() keeps the first of equals."""
    return run.status == "complete", run.status == "diverged", len(run.history)


def _read_configs(folder: Path, quiet: bool) -> list[tuple[Path, dict]]:
    """Each run in an experiment's folder with its config. UserError if the folder is there and cannot be read."""
    if not os.path.lexists(folder):
        return []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    configs = []
    for path in paths:
        with _left_out_if_damaged(quiet):
            if path.is_dir() and any((path / name).exists() for name in ("config.json", "last.pt")):
                config = _read_config(path, quiet)
                if config.get("experiment") != folder.name or config.get("status") not in STATUSES:
                    raise UserError(f"{path / 'config.json'} is not of a run of {folder.name}")
                configs.append((path, config))
    return configs


@contextlib.contextmanager
def _left_out_if_damaged(quiet: bool) -> Iterator[None]:
    """Turn what is wrong with a run folder into a note: one damaged run is no reason to have no report."""
    try:
        yield
    except (UserError, OSError) as error:  # OSError: a folder that one may not look into
        _note(f"{str(error).partition(';')[0]}; the folder is left out", quiet)


def _read_config(folder: Path, quiet: bool) -> dict:
    """A run's config.json or, if that cannot be read, what last.pt has of it."""
    try:
        return read_config(folder)
    except UserError:
        if not (folder / "last.pt").exists():
            raise
    _note(f"{folder / 'config.json'} is missing or damaged; the run's script writes it again from last.pt", quiet)
    return load_checkpoint(folder / "last.pt")["config"]


def _read_run(folder: Path, config: dict, data: str, quiet: bool) -> Run:
    """The run in a folder. UserError if it is damaged or saw other images than today's of this name."""
    seed, epochs = config["flags"].get("seed"), config["flags"].get("epochs")
    if type(seed) is not int or seed < 0 or type(epochs) is not int:
        raise UserError(f"{folder / 'config.json'} has no seed, or no number of epochs")
    if not _is_dataset(config.get("dataset"), data):
        raise UserError(f"{folder} was trained on other images than today's {data}")
    return Run(folder, seed, config["status"], config, _read_history(folder, config["status"], epochs, quiet))


def _is_dataset(dataset: object, data: str) -> bool:
    """Whether the recorded data set is what --data `data` means today; of a synthetic set the name says enough."""
    if not isinstance(dataset, dict):
        return False
    if data == "synthetic":
        return str(dataset.get("name")).startswith("synthetic-")
    return dataset.get("name") == data and dataset.get("checksum") == published_checksum(data)


def _read_history(folder: Path, status: str, epochs: int, quiet: bool) -> list[EpochMetrics]:
    """The epochs of a run: those of metrics.csv or, if that is damaged, of last.pt. UserError if neither fits."""
    file, last = folder / "metrics.csv", folder / "last.pt"
    if status not in FINISHED and not file.exists() and not last.exists():  # it may have been killed in its first epoch
        return []
    try:
        history = read_metrics(file)
        _check_history(history, file, status, epochs)
    except UserError:
        if not last.exists():
            raise
        content = load_checkpoint(last)
        check_training_state(content, last)
        history = [EpochMetrics(*row) for row in content["history"]]
        _check_history(history, last, status, epochs)
        _note(f"{file} is missing or damaged; its epochs are taken from last.pt (--resume writes it again)", quiet)
    return history


def _check_history(history: list[EpochMetrics], file: Path, status: str, epochs: int) -> None:
    """UserError unless a run of this status may have these epochs."""
    whole = len(history) == epochs and all(metrics.finite for metrics in history)
    if len(history) > epochs or (status == "complete" and not whole):
        raise UserError(f"{file} does not hold the {epochs} epochs of a {status} run")


def _note(text: str, quiet: bool) -> None:
    if not quiet:
        print(f"note: {text}", file=sys.stderr)
