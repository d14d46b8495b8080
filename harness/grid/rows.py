"""A grid of experiments: the rows of a TOML file such as experiments.toml. Which of their runs there are says runs.py.

A row is one setting, a run one row with one seed.
"""

import functools
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import UserError
from harness.files import read_file
from harness.flags import ROW_FLAGS, did_you_mean, is_new_folder_name, parse_row_flags, training_parser
from harness.image_sets import CNN, IMAGE_SETS, RNN, sets_for
from harness.metrics import METRICS

AUTO_PRECISION = {CNN: "bf16", RNN: "fp32"}  # what --precision auto means for a script's rows
SCRIPT_WORDS = {"cnn": CNN, "rnn": RNN}  # what --only calls all rows of a script, and how its experiments begin

_ROW_KEYS = {"name": str, "script": str, "flags": dict, "title": str, "data": str, "printed": dict, "note": str}

parser_of = functools.cache(functools.partial(training_parser, description=""))  # by the script's name


@dataclass(frozen=True)
class Row:
    """One setting of a grid; `flags` holds the script's flags by their argparse names, defaults left out."""

    name: str
    script: str  # "cnn_cifar10" or "rnn_mnist"
    flags: dict
    title: str
    data: str | None = None  # what --data is, where that is not the script's default
    printed: dict[str, float] = field(default_factory=dict)  # of METRICS; empty where the original printed none
    note: str = ""


def load_grid(path: Path) -> tuple[list[Row], Row | None]:
    """The rows of a grid file in order, and the CNN that is trained on MNIST for comparison, if it asks for one.

    Each row is checked by its script's own parser. Raises UserError, in one sentence that names the file and the row,
    for anything that is not as experiments.toml describes it: what could not be trained must be said before hours of
    training, not after.
    """
    try:
        content = tomllib.loads(read_file(path).decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    tables = content.get("row")
    if content.keys() - {"row", "comparison"} or not isinstance(tables, list) or not tables:
        raise UserError(f"{path} must consist of [[row]] tables, at least one, and perhaps one [comparison]")
    rows: dict[str, Row] = {}  # by their names as a system reads them that ignores case
    settings: dict[tuple, str] = {}  # the names of the rows so far
    comparison, place = None, ""
    try:
        for number, table in enumerate(tables, start=1):
            name = table.get("name") if isinstance(table, dict) else None
            place = f"row {name!r}" if isinstance(name, str) else f"row {number}"
            row = _read_row(table)
            if rows.setdefault(row.name.casefold(), row) is not row:
                raise UserError("another row has the same name; each row needs its own")
            setting = wanted_flags(row, precision="fp32", data=None).items()
            if (same := settings.setdefault((row.script, *setting), row.name)) != row.name:
                raise UserError(f"it is the same setting as row {same!r}; drop one of the two")
        if "comparison" in content:
            table, place = content["comparison"], "comparison"
            if not isinstance(table, dict) or table.keys() != {"flags"}:
                raise UserError("it must be a table with one key, flags")
            own = {"name": "cnn-mnist", "script": SCRIPT_WORDS["cnn"], "title": "the CNN on MNIST"}
            comparison = _read_row(own | {"data": "mnist"} | table)
    except UserError as error:
        raise UserError(f"{path}, {place}: {error}") from error
    return list(rows.values()), comparison


def chosen_rows(rows: list[Row], only: str | None, grid: Path) -> list[Row]:
    """The rows that --only names, in the order of the grid, a file. UserError if a word names none."""
    if only is None:
        return rows
    words = [word.strip() for word in only.split(",")]
    for word in words:
        if not any(word == row.name or SCRIPT_WORDS.get(word) == row.script for row in rows):
            names = [row.name for row in rows]
            raise UserError(
                f"--only {word}: {grid} has no such row; it has {', '.join(names)}{did_you_mean(word, names)}"
            )
    scripts = [SCRIPT_WORDS.get(word) for word in words]
    return [row for row in rows if row.name in words or row.script in scripts]


def wanted_flags(row: Row, *, precision: str, data: str | None) -> dict:
    """The value of each of the script's result-changing flags but the seed in a run of this row.

    `precision` is what --precision says; `data` what --data does, None being the row's own images.
    """
    if precision == "auto":
        precision = AUTO_PRECISION[row.script]
    known = vars(parser_of(row.script).parse_args([]))
    wanted = {name: known[name] for name in ROW_FLAGS if name in known} | row.flags
    return wanted | {"data": data or row.data or known["data"], "precision": precision}


def experiment_of(row: Row, flags: Mapping[str, object]) -> str:
    """The folder of runs/ that the row's runs with these flags lie in, for example `cnn_cifar10`."""
    return f"{row.script.partition('_')[0]}_{flags['data']}"


def _read_row(table: object) -> Row:
    if not isinstance(table, dict):
        raise UserError("it must be a table, under a line [[row]]")
    for key, value in table.items():
        if key not in _ROW_KEYS:
            raise UserError(f"unknown key {key!r}; a row has {', '.join(_ROW_KEYS)}")
        if not isinstance(value, _ROW_KEYS[key]):
            kind = "text in quotes" if _ROW_KEYS[key] is str else "a table such as { … }"
            raise UserError(f"{key} must be {kind}, not {value!r:.60}")
    for key in ("name", "script", "flags"):
        if key not in table:
            raise UserError(f"it has no {key}")
    row = Row(**{"title": table["name"]} | table)
    # Every system can have a folder of this name, and --only can name it among others.
    at_ends, too_long = row.name != row.name.strip().rstrip("."), len(row.name.encode()) > 200
    if not is_new_folder_name(row.name) or at_ends or too_long or "," in row.name:
        raise UserError("name must be short and fit for a folder, without a comma, and no space or dot at its end")
    if row.name in SCRIPT_WORDS:
        raise UserError(f"--only {row.name} already means all rows of {SCRIPT_WORDS[row.name]}; choose another name")
    if row.script not in (CNN, RNN):
        raise UserError(f"script must be one of {CNN}, {RNN}, not {row.script!r:.60}")
    if row.data not in (None, *sets_for(row.script)):
        raise UserError(f"data must be one of {', '.join(sets_for(row.script))}, not {row.data!r:.60}")
    if not row.title.strip() or not row.title.isprintable():
        raise UserError("title must be one line of text")
    for metric, value in row.printed.items():
        if metric not in METRICS:
            raise UserError(f"unknown key {metric!r} in printed; it may have {', '.join(METRICS)}")
        most = 1 if metric.endswith("accuracy") else sys.float_info.max
        if type(value) not in (int, float) or not 0 <= value <= most:  # nor is NaN
            raise UserError(f"printed {metric} must be a loss of at least 0, or an accuracy up to 1, not {value!r:.60}")
    flags = parse_row_flags(parser_of(row.script), row.flags)
    sets = sets_for(row.script)
    images = IMAGE_SETS[sets[row.data or next(iter(sets))]]
    if flags.get("channels") == "rgb" and images.channels == 1:
        raise UserError(f"channels rgb needs color images, and {row.data} has none")
    if flags.get("classes") and int(flags["classes"].split(",")[-1]) >= images.class_count:
        raise UserError(
            f"{images.title} has the classes 0 to {images.class_count - 1}, and not all of {flags['classes']}"
        )
    return replace(row, flags=flags, printed={metric: float(value) for metric, value in row.printed.items()})
