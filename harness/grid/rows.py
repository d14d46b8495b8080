"""A grid of experiments: the rows of a TOML file such as experiments.toml. Which of their runs there are says runs.py.

A row is one setting, a run one row with one seed. `parsers`, which most functions of harness/grid take, maps the name
of each script to its argparse parser.
"""

import argparse
import contextlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UserError
from harness.files import read_file
from harness.flags import ROW_FLAGS, is_new_folder_name, parse_row_flags
from harness.metrics import METRICS

AUTO_PRECISION = {"cnn_cifar10": "bf16", "rnn_mnist": "fp32"}  # what --precision auto means for a script's rows
SCRIPT_WORDS = {"cnn": "cnn_cifar10", "rnn": "rnn_mnist"}  # what --only calls all rows of a script

_ROW_KEYS = {"name": str, "script": str, "flags": dict, "title": str, "printed": dict, "note": str}
_REQUIRED = ("name", "script", "flags")

Parsers = Mapping[str, argparse.ArgumentParser]


@dataclass(frozen=True)
class Row:
    """One setting of a grid; `flags` holds the script's flags by their argparse names, defaults left out."""

    name: str
    script: str  # "cnn_cifar10" or "rnn_mnist"
    flags: dict
    title: str
    printed: dict[str, float] = field(default_factory=dict)  # of METRICS; empty where the original printed none
    note: str = ""


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
        content = tomllib.loads(read_file(path).decode())
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
    names: dict[str, int] = {}  # of the rows so far, for a system that ignores case: their numbers
    settings: dict[tuple, str] = {}  # and their names
    for number, table in enumerate(tables, start=1):
        name = table.get("name")
        with _named(path, f"row {name!r}" if isinstance(name, str) and name else f"row {number}"):
            row = _read_row(table, parsers)
            if (first := names.setdefault(row.name.casefold(), number)) != number:
                raise UserError(f"row {first} has the same name; each row needs its own")
            setting = wanted_flags(row, parsers, seed=0, precision="fp32", data=None).items()
            if (same := settings.setdefault((row.script, *setting), row.name)) != row.name:
                raise UserError(f"it is the same setting as row {same!r}; drop one of the two")
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
        if not any(word == row.name or SCRIPT_WORDS.get(word) == row.script for row in rows):
            raise UserError(f"--only {word}: {grid} has no such row; it has {', '.join(row.name for row in rows)}")
    scripts = [SCRIPT_WORDS.get(word) for word in words]
    return [row for row in rows if row.name in words or row.script in scripts]


def wanted_flags(row: Row, parsers: Parsers, *, seed: int, precision: str, data: str | None) -> dict:
    """The value of each of the script's result-changing flags in a run of this row and seed.

    `precision` is what --precision says; `data` what --data does, None being the script's own default, the real set.
    """
    parser = parsers[row.script]
    if precision == "auto":
        precision = AUTO_PRECISION[row.script]
    known = vars(parser.parse_args([]))
    wanted = {name: known[name] for name in ROW_FLAGS if name in known} | row.flags
    return wanted | {"data": data or known["data"], "precision": precision, "seed": seed}


def experiment_of(row: Row, parsers: Parsers, data: str | None) -> str:
    """The folder of runs/ that the row's runs lie in, as the scripts call it: for example `cnn_cifar10`."""
    return f"{row.script.partition('_')[0]}_{data or parsers[row.script].get_default('data')}"


@contextlib.contextmanager
def _named(path: Path, label: str) -> Iterator[None]:
    """Put the file and the row before what is wrong with it."""
    try:
        yield
    except (UserError, ValueError) as error:  # ValueError: Python prints no whole number of thousands of digits
        raise UserError(f"{path}, {label}: {error}") from error


def _read_comparison(table: object, parsers: Parsers) -> Row:
    if not isinstance(table, dict) or table.keys() != {"flags"} or not isinstance(table["flags"], dict):
        raise UserError("it must be a table with one key, flags")
    script = SCRIPT_WORDS["cnn"]
    flags = parse_row_flags(parsers[script], table["flags"])
    if flags.get("channels") == "rgb":
        raise UserError("channels rgb needs color images, and MNIST has none")
    return Row("cnn-mnist", script, flags, "the CNN on MNIST")


def _read_row(table: dict, parsers: Parsers) -> Row:
    for key, value in table.items():
        if key not in _ROW_KEYS:
            raise UserError(f"unknown key {key!r}; a row has {', '.join(_ROW_KEYS)}")
        if not isinstance(value, _ROW_KEYS[key]):
            kind = "text in quotes" if _ROW_KEYS[key] is str else "a table such as { … }"
            raise UserError(f"{key} must be {kind}, not {value!r:.60}")
    for key in _REQUIRED:
        if key not in table:
            raise UserError(f"it has no {key}")
    name, script = table["name"], table["script"]
    _check_name(name)
    if script not in parsers:
        raise UserError(f"script must be one of {', '.join(parsers)}, not {script!r:.60}")
    title = table.get("title", name)
    if not title.strip() or not title.isprintable():
        raise UserError("title must be one line of text")
    flags = parse_row_flags(parsers[script], table["flags"])
    return Row(name, script, flags, title, _read_printed(table.get("printed", {})), table.get("note", ""))


def _check_name(name: str) -> None:
    """UserError unless every system takes the name for a folder, and --only can name it too."""
    if not is_new_folder_name(name):
        raise UserError(f"name {name!r} cannot be the name of a folder")
    if name != name.strip() or name[-1] == "." or "," in name or len(name.encode()) > 200:
        raise UserError("name must be short, without commas, and without a space or dot at its end")
    if name in SCRIPT_WORDS:
        raise UserError(f"--only {name} already means all rows of {SCRIPT_WORDS[name]}; choose another name")


def _read_printed(printed: dict) -> dict[str, float]:
    for metric, value in printed.items():
        if metric not in METRICS:
            raise UserError(f"unknown key {metric!r} in printed; it may have {', '.join(METRICS)}")
        # A comparison with NaN is never true; what is larger than every float would become infinite.
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise UserError(f"printed {metric} must be a finite number, not {value!r:.60}")
        if value < 0 or (metric.endswith("accuracy") and value > 1):
            raise UserError(f"printed {metric} cannot be {value}: a loss is at least 0, an accuracy from 0 to 1")
    return {metric: float(value) for metric, value in printed.items()}
