"""The runs of a grid: found in the run folders by their config, and what is not complete."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint import check_training_state, load_checkpoint
from harness.data import published_checksum
from harness.errors import UserError
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
    found: dict[str, list[tuple[Path, dict]]] = {}  # experiment -> folder and config of each of its runs
    read: dict[Path, Run | None] = {}
    results = []
    for row in rows:
        experiment = experiment_of(row, parsers, data)
        if experiment not in found:
            found[experiment] = _read_configs(runs_dir / experiment, quiet)
        wanted = wanted_flags(row, parsers, seed=0, precision=precision, data=data)
        del wanted["seed"]
        runs: dict[int, Run] = {}
        for folder, config in found[experiment]:
            if any(name not in config["flags"] or config["flags"][name] != value for name, value in wanted.items()):
                continue
            if folder not in read:
                read[folder] = _read_run(folder, config, wanted["data"], quiet)
            run = read[folder]
            if run and (run.seed in seeds or run.status in FINISHED):
                runs[run.seed] = max(runs.get(run.seed, run), run, key=_rank)  # the first of equals
        results.append(RowRuns(row, dict(sorted(runs.items())), seeds))
    return results


def complete_runs(folder: Path) -> list[Run]:
    """All complete runs in an experiment's folder, in the order of their seeds; the rest is passed over in silence."""
    runs = []
    for path, config in _read_configs(folder, quiet=True):
        if config["status"] == "complete":
            runs.append(_read_run(path, config, str(config["flags"].get("data")), quiet=True))
    return sorted((run for run in runs if run and run.status == "complete"), key=lambda run: (run.seed, run.path.name))


def _rank(run: Run) -> tuple[bool, bool, int]:
    return run.status == "complete", run.status == "diverged", len(run.history)


def _read_configs(folder: Path, quiet: bool) -> list[tuple[Path, dict]]:
    configs = []
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    for run in paths:
        try:
            if not _is_run(run):
                continue
            config = _config_of(run, quiet)
        except (UserError, RecursionError) as error:
            _note(f"{str(error).partition(';')[0]}; the folder is left out", quiet)
            continue
        if config.get("experiment") != folder.name or config.get("status") not in STATUSES:
            _note(f"{run / 'config.json'} is not of a run of {folder.name}; the folder is left out", quiet)
            continue
        configs.append((run, config))
    return configs


def _is_run(path: Path) -> bool:
    try:
        return path.is_dir() and any((path / name).exists() for name in ("config.json", "last.pt"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _config_of(run: Path, quiet: bool) -> dict:
    """A run folder's config.json, or what last.pt has of it. UserError if neither can be read."""
    try:
        return read_config(run)
    except UserError:
        if not (run / "last.pt").exists():
            raise
    config = load_checkpoint(run / "last.pt")["config"]
    _note(f"{run / 'config.json'} is missing or damaged; the run's script writes it again from last.pt", quiet)
    return config


def _read_run(folder: Path, config: dict, data: str, quiet: bool) -> Run | None:
    """The run in a folder, or None, with a note, if it is damaged or saw other images than today's of this name."""
    seed, epochs = config["flags"].get("seed"), config["flags"].get("epochs")
    status, dataset = config["status"], config.get("dataset")
    try:
        if type(seed) is not int or seed < 0:
            raise UserError(f"{folder / 'config.json'} has no seed")
        if type(epochs) is not int:
            raise UserError(f"{folder / 'config.json'} has no number of epochs")
        if not isinstance(dataset, dict) or not _is_dataset(dataset, data):
            raise UserError(f"{folder} was trained on other images than today's {data}")
        history = _history_of(folder, status, epochs, quiet)
    except UserError as error:
        _note(f"{error}; the folder is left out", quiet)
        return None
    return Run(folder, seed, status, config, history)


def _history_of(folder: Path, status: str, epochs: int, quiet: bool) -> list[EpochMetrics]:
    """The epochs of a run of this status: of metrics.csv, or of last.pt if that is damaged. UserError if of neither."""
    file, last = folder / "metrics.csv", folder / "last.pt"
    if status not in FINISHED and not file.exists() and not last.exists():  # it may have been killed in its first epoch
        return []
    try:
        history = read_metrics(file)
        whole = len(history) == epochs and all(metrics.finite for metrics in history)
        if len(history) > epochs or (status == "complete" and not whole):
            raise UserError(f"{file} does not hold the {epochs} epochs of a {status} run")
    except UserError:
        if not last.exists():
            raise
        content = load_checkpoint(last)
        check_training_state(content, last)
        history = [EpochMetrics(*row) for row in content["history"]]
        if len(history) > epochs or (status == "complete" and len(history) < epochs):
            raise
        _note(f"{file} is missing or damaged; its epochs are taken from last.pt (--resume writes it again)", quiet)
    return history


def _is_dataset(dataset: dict, data: str) -> bool:
    """Whether the recorded data set is what --data `data` means today; of a synthetic set the name says enough."""
    if data == "synthetic":
        return str(dataset.get("name")).startswith("synthetic-")
    return dataset.get("name") == data and dataset.get("checksum") == published_checksum(data)


def _note(text: str, quiet: bool) -> None:
    if not quiet:
        print(f"note: {text}", file=sys.stderr)


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


def tell_problems(problems: list[Problem], *, wanted: int) -> None:
    """Say, a line each, which runs are not complete."""
    if not problems:
        print(f"all {wanted} runs are complete" if wanted > 1 else "the run is complete")
        return
    of = f"{len(problems)} of {wanted} runs {'is' if len(problems) == 1 else 'are'}" if wanted > 1 else "the run is"
    print(f"{of} not complete:", file=sys.stderr)
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(f"  {problem.row}, seed {problem.seed}: {problem.status}: {problem.text}", file=sys.stderr)
    if len(problems) > _PROBLEMS_SHOWN:
        print(f"  … and {len(problems) - _PROBLEMS_SHOWN} more; the report lists them all", file=sys.stderr)
