"""What an analysis found, as files: figures (PNG and SVG), tables (CSV and Markdown), and a record of both (JSON).

The record, `<name>.json`, also holds how to read them and where they come from: network, epoch, image sets, command.
`index.html` and the report are made from the records alone. See __init__.py for who writes and reads them.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from harness.files import os_errors_as, read_file, write_atomically
from harness.pictures import SHARPNESS, Drawing, png_bytes


@dataclass(frozen=True)
class Picture:
    """A figure to be written as `name`.png, for a slide, and `name`.svg, for a page; and in words what it shows."""

    name: str
    drawing: Drawing
    title: str


@dataclass(frozen=True)
class Table:
    """A table to be written as `name`.csv, all digits kept, and `name`.md, rounded. Values: str, int, float or None."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple]

    def as_csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    def as_markdown(self) -> str:
        """A pipe table under its title, numbers to the right."""
        lines = [self.header, ["---" if is_text else "---:" for is_text in text_columns(self.header, self.rows)]]
        lines += [[rounded(value).replace("|", "\\|") for value in row] for row in self.rows]
        return "\n".join([self.title, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


@dataclass(frozen=True)
class Findings:
    """What one analysis found: its heading, how to read it, figures, tables, and what the terminal is to show."""

    heading: str
    text: str
    pictures: list[Picture]
    tables: list[Table]
    printed: str = ""


def write_findings(folder: Path, name: str, findings: Findings, provenance: dict) -> None:
    """Write the figures and tables of the analysis `name` into an existing folder, and then its record.

    `provenance` joins the record: plain values that say from what, of which epoch and by which command. UserError if a
    file cannot be written.
    """
    record_file = folder / f"{name}.json"
    with os_errors_as(f"cannot delete {record_file}"):
        # It describes the old files: a kill among the new ones leaves no false record.
        record_file.unlink(missing_ok=True)
    record = {"name": name, "heading": findings.heading, "text": findings.text, **provenance}
    record |= {"figures": [], "tables": []}
    for picture in findings.pictures:
        files = {"file": f"{picture.name}.png", "svg": f"{picture.name}.svg"}
        height, width = (side // SHARPNESS for side in picture.drawing.pixels.shape[:2])
        write_atomically(folder / files["file"], png_bytes(picture.drawing.pixels, colors=None))
        write_atomically(folder / files["svg"], picture.drawing.svg)
        record["figures"].append({**files, "title": picture.title, "width": width, "height": height})
    for table in findings.tables:
        files = {"file": f"{table.name}.csv", "markdown": f"{table.name}.md"}
        write_atomically(folder / files["file"], table.as_csv().encode())
        write_atomically(folder / files["markdown"], table.as_markdown().encode())
        rows = [
            [None if isinstance(value, float) and not math.isfinite(value) else value for value in row]
            for row in table.rows  # JSON has no nan
        ]
        record["tables"].append({**files, "title": table.title, "header": table.header, "rows": rows})
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())  # a field a line
    write_atomically(record_file, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_record(folder: Path, name: str) -> dict | None:
    """The record of an analysis, if it is one and all its files are there, the PNGs whole; else None."""
    try:
        record = json.loads(read_file(folder / f"{name}.json"))
        whole = isinstance(record["epoch"], int) and isinstance(record["dataset"], dict)
        whole = whole and isinstance(record["heading"], str) and isinstance(record["text"], str)
        for table in record["tables"]:
            whole = whole and all(len(row) == len(table["header"]) for row in table["rows"])
        drawn = [figure["file"] for figure in record["figures"]]
        whole = whole and len({*drawn}) == len(drawn)
        whole = whole and all(re.fullmatch(rf"{name}(_\w+)?\.png", file, re.ASCII) for file in drawn)
        drawn += [figure["svg"] for figure in record["figures"]]  # earlier versions drew none: then it is not whole
        for name_of_file in (*drawn, *(table["file"] for table in record["tables"])):
            file = folder / name_of_file
            whole = whole and file.parent == folder and file.is_file()  # beside the record only
            if file.suffix == ".png":
                with Image.open(file) as picture:
                    picture.load()
    except Exception:  # missing, damaged or somebody else's: JSON and Pillow can fail in many ways
        return None
    return record | {"name": name} if whole else None


def write_page(folder: Path, records: Iterable[dict], title: str) -> None:
    """Write index.html, which shows these records' figures and tables one below the other."""
    here = Path(__file__).parent
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=FileSystemLoader(here), **options)
    environment.globals.update(rounded=rounded, text_columns=text_columns)
    style = (here.parent / "report" / "page.css").read_text(encoding="utf-8")
    page = environment.get_template("page.html.j2").render(title=title, records=list(records), style=style)
    write_atomically(folder / "index.html", page.encode(errors="backslashreplace"))  # a path may be no text


def rounded(value: object) -> str:
    """A table's value for people: four digits of a float, nothing for None."""
    if value is None:
        return ""
    return f"{value:#.4g}".removesuffix(".") if isinstance(value, float) else str(value)


def text_columns(header: Sequence[str], rows: Sequence[Sequence]) -> list[bool]:
    """Of each column whether it holds words, which stand to the left."""
    return [any(isinstance(row[index], str) for row in rows) for index in range(len(header))]
