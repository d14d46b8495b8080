"""A grid of experiments: its rows, read from a TOML file such as experiments.toml, and their runs, found by config.

`report.py` trains what a grid lacks and writes the report from what it finds. A row is one setting, a run one row with
one seed. `parsers`, which most functions here take, maps the name of each script to its argparse parser.
"""

import argparse
import contextlib
import csv
import math
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.data import published_checksum
from harness.errors import UserError
from harness.flags import RESULT_FLAGS, folder_name, option, parse_flags
from harness.run_folder import (
    METRICS_HEADER,
    EpochMetrics,
    check_training_state,
    is_metrics,
    load_checkpoint,
    read_config,
)

FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")  # what a row may have `printed`

FINISHED = ("complete", "diverged")  # a run of this status is not trained on
STATUSES = (*FINISHED, "running", "interrupted")
AUTO_PRECISION = {"cnn_cifar10": "bf16", "rnn_mnist": "fp32"}  # what --precision auto means for a script's rows
SCRIPT_WORDS = {"cnn": "cnn_cifar10", "rnn": "rnn_mnist"}  # what --only calls all rows of a script

_PROBLEMS_SHOWN = 12

_ROW_KEYS = {"name": str, "script": str, "flags": dict, "title": str, "printed": dict, "note": str}
_REQUIRED = ("name", "script", "flags")
_OF_THE_REPORT = ("data", "precision", "seed")  # these change a run's result too, but are flags of report.py
ROW_FLAGS = tuple(name for name in RESULT_FLAGS if name not in _OF_THE_REPORT)

Parsers = Mapping[str, argparse.ArgumentParser]


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


@dataclass(frozen=True)
class Problem:
    """A wanted run that is not complete, and why."""

    row: str  # the row's name
    seed: int
    status: str  # "missing", "failed" or "diverged"
    text: str


@dataclass(frozen=True)
class Grid:
    """What a grid file holds: its rows in order, and the CNN that is trained on MNIST for comparison, if it asks."""

    rows: list[Row]
    comparison: Row | None


def load_grid(path: Path, parsers: Parsers) -> Grid:
    """The content of a grid file, each row checked by its script's own parser.

    Raises UserError, in one sentence that names the file and the row, for anything that is not as experiments.toml
    describes it: what could not be trained must be said before hours of training, not after.
    """
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    for key in content:
        if key not in ("row", "comparison"):
            raise UserError(f"{path}: unknown key {key!r}; a grid consists of [[row]] tables and one [comparison]")
    tables = content.get("row", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path}: 'row' must be tables, each under a line [[row]]")
    if not tables:
        raise UserError(f"{path} has no row; each stands under a line [[row]]")
    rows: list[Row] = []
    for number, table in enumerate(tables, start=1):
        name = table.get("name")
        label = f"row {name!r}" if isinstance(name, str) and name else f"row {number}"
        with _named(path, label):
            row = _read_row(table, parsers)
            _check_new(row, rows, parsers)
        rows.append(row)
    comparison = None
    if "comparison" in content:
        with _named(path, "comparison"):
            comparison = _read_comparison(content["comparison"], parsers)
    return Grid(rows, comparison)


def chosen_rows(rows: list[Row], only: str | None, grid: Path) -> list[Row]:
    """The rows that --only names, in the order of the grid, a file. UserError if a word names none."""
    if only is None:
        return rows
    words = [word.strip() for word in only.split(",")]
    for word in words:
        if not any(word in (row.name, _word_of(row)) for row in rows):
            raise UserError(f"--only {word}: {grid} has no such row; it has {', '.join(row.name for row in rows)}")
    return [row for row in rows if row.name in words or _word_of(row) in words]


def _word_of(row: Row) -> str:
    return next(word for word, script in SCRIPT_WORDS.items() if script == row.script)


@contextlib.contextmanager
def _named(path: Path, label: str) -> Iterator[None]:
    """Put the file and the row before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}, {label}: {error}") from error
    except ValueError as error:  # Python refuses to print a whole number of thousands of digits
        raise UserError(f"{path}, {label}: a number in it is absurdly long") from error


def _read_comparison(table: object, parsers: Parsers) -> Row:
    if not isinstance(table, dict) or table.keys() != {"flags"} or not isinstance(table["flags"], dict):
        raise UserError("it must be a table with one key, flags")
    script = SCRIPT_WORDS["cnn"]
    flags = _read_flags(table["flags"], script, parsers[script])
    if flags.get("channels") == "rgb":
        raise UserError("channels rgb needs colour images, and MNIST has none")
    return Row("cnn-mnist", script, flags, "the CNN on MNIST")


def _read_row(table: dict, parsers: Parsers) -> Row:
    for key, value in table.items():
        if key not in _ROW_KEYS:
            raise UserError(f"unknown key {key!r}; a row has {', '.join(_ROW_KEYS)}")
        if not isinstance(value, _ROW_KEYS[key]):
            kind = "text in quotes" if _ROW_KEYS[key] is str else "a table such as { … }"
            raise UserError(f"{key} must be {kind}, not {_shown(value)}")
    for key in _REQUIRED:
        if key not in table:
            raise UserError(f"it has no {key}")
    name, script = table["name"], table["script"]
    _check_name(name)
    if script not in parsers:
        raise UserError(f"script must be one of {', '.join(parsers)}, not {_shown(script)}")
    title = table.get("title", name)
    if not title.strip() or not title.isprintable():
        raise UserError("title must be one line of text")
    flags = _read_flags(table["flags"], script, parsers[script])
    return Row(name, script, flags, title, _read_printed(table.get("printed", {})), table.get("note", ""))


def _check_name(name: str) -> None:
    """UserError unless every system takes the name for a folder, and --only can name it too."""
    try:
        folder_name(name)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"name {error}") from error
    if name != name.strip() or name[-1] == "." or "," in name or len(name.encode()) > 200:
        raise UserError("name must be short, without commas, and without a space or dot at its end")
    if name in SCRIPT_WORDS:
        raise UserError(f"--only {name} already means all rows of {SCRIPT_WORDS[name]}; choose another name")


def _read_flags(given: dict, script: str, parser: argparse.ArgumentParser) -> dict:
    """The row's flags as the script's parser reads them. UserError for a flag or value that is not a row's."""
    known = vars(parser.parse_args([]))
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{script}.py has no flag {name!r}")
        if name not in ROW_FLAGS:
            raise UserError(f"{name} is not a row's business; a row may set {', '.join(_row_flags(parser))}")
        default = known[name]
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}
            raise UserError(f"{name} must be {kinds[type(default)]}, not {_shown(value)}")
    try:
        read = parse_flags(parser, flag_words(given))
    except UserError as error:
        raise UserError(str(error).removesuffix(" (--help lists every flag)")) from error
    return {name: getattr(read, name) for name in given}


def flag_words(flags: dict) -> list[str]:
    """Flags by their argparse names as words of a command line."""
    words = [option(name) if value is True else f"{option(name)}={value}" for name, value in flags.items()]
    return [word for word, value in zip(words, flags.values(), strict=True) if value is not False]


def _read_printed(printed: dict) -> dict[str, float]:
    for figure, value in printed.items():
        if figure not in FIGURES:
            raise UserError(f"unknown key {figure!r} in printed; it may have {', '.join(FIGURES)}")
        if type(value) not in (int, float) or math.isnan(value) or abs(value) > sys.float_info.max:
            raise UserError(f"printed {figure} must be a finite number, not {_shown(value)}")
        if value < 0 or (figure.endswith("accuracy") and value > 1):
            raise UserError(f"printed {figure} cannot be {value}: a loss is at least 0, an accuracy from 0 to 1")
    return {figure: float(value) for figure, value in printed.items()}


def _check_new(row: Row, rows: list[Row], parsers: Parsers) -> None:
    """UserError if an earlier row has the same name (for a system that ignores case) or the same setting."""
    setting = _setting(row, parsers)
    for number, other in enumerate(rows, start=1):
        if other.name.casefold() == row.name.casefold():
            raise UserError(f"row {number} has the same name; each row needs its own")
        if other.script == row.script and _setting(other, parsers) == setting:
            raise UserError(f"it is the same setting as row {other.name!r}; drop one of the two")


def _setting(row: Row, parsers: Parsers) -> dict:
    return wanted_flags(row, parsers, seed=0, precision="fp32", data=None)


def _row_flags(parser: argparse.ArgumentParser) -> list[str]:
    known = vars(parser.parse_args([]))
    return [name for name in ROW_FLAGS if name in known]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def wanted_flags(row: Row, parsers: Parsers, *, seed: int, precision: str, data: str | None) -> dict:
    """The value of each of the script's result-changing flags in a run of this row and seed.

    `precision` is what --precision says; `data` what --data does, None being the script's own default, the real set.
    """
    parser = parsers[row.script]
    if precision == "auto":
        precision = AUTO_PRECISION[row.script]
    wanted = {name: parser.get_default(name) for name in _row_flags(parser)} | row.flags
    return wanted | {"data": data or parser.get_default("data"), "precision": precision, "seed": seed}


def experiment_of(row: Row, parsers: Parsers, data: str | None) -> str:
    """The folder of runs/ that the row's runs lie in, as the scripts call it: for example `cnn_cifar10`."""
    return f"{row.script.partition('_')[0]}_{data or parsers[row.script].get_default('data')}"


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
        history = read_history(file)
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


def read_history(file: Path) -> list[EpochMetrics]:
    """The epochs of a metrics.csv, from 1 on without a gap. UserError if it cannot be read or is something else."""
    try:
        header, *lines = csv.reader(file.read_text(encoding="utf-8").splitlines())
        rows = [[int(line[0]), *map(float, line[1:])] for line in lines]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{file} is not the metrics of a run") from error
    if tuple(header) != METRICS_HEADER or not all(is_metrics(row, epoch) for epoch, row in enumerate(rows, start=1)):
        raise UserError(f"{file} is not the metrics of a run")
    return [EpochMetrics(*row) for row in rows]


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
