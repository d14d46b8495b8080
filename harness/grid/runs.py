"""The runs of a grid: found in the run folders by their config, never by a folder's name, and what is not complete.

schedule.py trains what is missing here; harness/report turns what is there into the report.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness.checkpoint import check_training_state, load_checkpoint
from harness.errors import UserError
from harness.files import os_errors_as
from harness.flags import typed_record
from harness.grid.rows import SCRIPT_WORDS, Row, experiment_of, parser_of, wanted_flags
from harness.image_sets import published_checksum
from harness.metrics import EpochMetrics, read_metrics
from harness.run import read_config

FINISHED = ("complete", "diverged")  # a run of this status is not trained on
_STATUSES = (*FINISHED, "running", "interrupted")
_USED = {"dataset": dict, "model": dict, "device": str, "threads": int, "torch": str, "python": str}  # beside flags
_PROBLEMS_SHOWN = 12


@dataclass(frozen=True)
class Run:
    """A run folder that can be read."""

    path: Path
    seed: int
    status: str  # complete, diverged, running or interrupted, as in config.json
    config: dict
    history: list[EpochMetrics]  # one an epoch; empty before the first is finished

    def progress(self) -> tuple[bool, bool, int]:
        """Of several runs of one row and seed that with the largest counts."""
        return self.status == "complete", self.status == "diverged", len(self.history)


@dataclass(frozen=True)
class RowRuns:
    """A row with the runs found for it: by seed, in ascending order, each seed once; and the seeds that were wanted."""

    row: Row
    runs: dict[int, Run]
    seeds: tuple[int, ...]
    flags: dict = field(default_factory=dict)  # of its runs: all that change the result, but the seed

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
    *,
    seeds: Iterable[int],
    precision: str,
    data: str | None,
    build_model: Callable[[dict], object] | None = None,
) -> list[RowRuns]:
    """The runs of each row under `runs_dir`, whatever their folders are called.

    A run belongs to a row if all its result-changing flags and its images are the row's. Of several with one seed the
    complete one counts, else one that diverged, else the longest. Seeds beyond `seeds` are there if they are finished:
    a report uses all there is. What cannot be read is left out, with a note on standard error; so is a run of whose
    config `build_model`, if given, can make no network.
    """
    seeds, read_runs, results = tuple(seeds), functools.cache(_read_runs), []  # each folder is read once
    # Each network is made once: that takes milliseconds, and there may be 10,000 runs.
    check_model = functools.cache(lambda model: build_model({"model": dict(model)}) and None) if build_model else None
    for row in rows:
        wanted = wanted_flags(row, precision=precision, data=data)
        runs: dict[int, Run] = {}
        for run in read_runs(runs_dir / experiment_of(row, wanted), check_model):
            of_row = wanted.items() <= run.config["flags"].items()
            if of_row and (run.seed in seeds or run.status in FINISHED):
                runs[run.seed] = max(runs.get(run.seed, run), run, key=Run.progress)
        results.append(RowRuns(row, dict(sorted(runs.items())), seeds, wanted))
    return results


def complete_runs(folder: Path) -> list[Run]:
    """All complete runs in an experiment's folder, in the order of their seeds."""
    runs = [run for run in _read_runs(folder) if run.status == "complete"]
    return sorted(runs, key=lambda run: (run.seed, run.path.name))


def problems_of(results: Iterable[RowRuns], failures: dict[tuple[str, int], str]) -> list[Problem]:
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
    print(f"runs complete: {wanted - len(problems)} of {wanted}", file=sys.stderr if problems else sys.stdout)
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(f"  {problem.row}, seed {problem.seed}: {problem.status}: {problem.text}", file=sys.stderr)
    if len(problems) > _PROBLEMS_SHOWN:
        print(f"  … and {len(problems) - _PROBLEMS_SHOWN} more; the report lists them all", file=sys.stderr)


def _read_runs(folder: Path, check_model: Callable[[tuple], None] | None = None) -> list[Run]:
    """The runs in an experiment's folder. UserError if the folder is there and cannot be read."""
    if not folder.exists():
        return []
    with os_errors_as(f"cannot read {folder}"):
        paths = sorted(folder.iterdir())
    runs = []
    for path in paths:
        try:
            if path.is_dir() and any((path / name).exists() for name in ("config.json", "last.pt")):
                runs.append(_read_run(path, check_model))
        except (UserError, OSError) as error:  # OSError: a folder that one may not look into
            _note(f"{str(error).partition(';')[0]}; the folder is left out")  # no reason to have no report
    return runs


def _read_run(folder: Path, check_model: Callable[[tuple], None] | None) -> Run:
    """The run in a folder. UserError if it is damaged or saw other images than today's of this name."""
    file, metrics = folder / "config.json", folder / "metrics.csv"

    def check_config(config: dict) -> dict:
        try:
            return _checked(config, folder.parent.name, check_model)
        except (UserError, ValueError) as error:  # ValueError: of check_model
            raise UserError(f"{file}: {error}") from error

    config = _read_part(file, lambda file: read_config(file.parent), "config", check_config)
    status, seed, epochs = config["status"], config["flags"]["seed"], config["flags"]["epochs"]

    def check_history(rows: list) -> list[EpochMetrics]:
        history = [EpochMetrics(*row) for row in rows]
        whole = len(history) == epochs and all(row.finite for row in history)
        if len(history) > epochs or (status == "complete" and not whole):
            raise UserError(f"{metrics} does not hold the {epochs} epochs of a {status} run")
        return history

    if status not in FINISHED and not metrics.exists() and not (folder / "last.pt").exists():
        return Run(folder, seed, status, config, [])  # it was killed in its first epoch
    return Run(folder, seed, status, config, _read_part(metrics, read_metrics, "history", check_history))


def _checked(config: dict, experiment: str, check_model: Callable[[tuple], None] | None) -> dict:
    """A config of which all that is used has its type, its flags as the script reads them.

    UserError if it is no run's of this experiment on today's images, ValueError if it describes no network.
    """
    if config.get("experiment") != experiment or config.get("status") not in _STATUSES:
        raise UserError(f"it is not of a run of {experiment}")
    for name, kind in _USED.items():
        if type(config.get(name)) is not kind or not config[name]:
            raise UserError(f"it does not say the {name} of the run")
    flags = typed_record(config["flags"], parser_of(SCRIPT_WORDS[experiment.partition("_")[0]]))
    name, checksum = str(config["dataset"].get("name")), config["dataset"].get("checksum")
    drawn = flags["data"] == "synthetic" and name.startswith("synthetic-")  # of a drawn set the name says enough
    if not drawn and (name != flags["data"] or checksum is None or checksum != published_checksum(name)):
        raise UserError(f"the run was trained on other images than today's {flags['data']}")
    if check_model:
        check_model(tuple(config["model"].items()))
    return config | {"flags": config["flags"] | flags}


def _read_part(file: Path, read: Callable[[Path], object], part: str, check: Callable) -> object:
    """What `read` makes of a file of a run folder or, if it is missing or damaged, what last.pt has of it; checked."""
    last = file.with_name("last.pt")
    try:
        return check(read(file))
    except UserError:
        if not last.exists():
            raise
    content = load_checkpoint(last)
    check_training_state(content, last)
    checked = check(content[part])
    _note(f"{file} is missing or damaged: taken from last.pt, from which --resume writes it again")
    return checked


@functools.cache  # once, though the folders are read before and after training
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
