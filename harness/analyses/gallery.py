"""What an analysis found, as files: PNG figures, a CSV and a Markdown table a statistic, and one page that shows all.

`write_findings` writes one analysis into a folder; `index.html` there gets its section, and keeps the sections of other
analyses as long as their files are there. The page needs nothing but the files beside it.
"""

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from harness.errors import UserError
from harness.files import write_atomically
from harness.pages import STYLE

PAGE = "index.html"
_LONG = 24  # rows; a longer table is folded up on the page


@dataclass(frozen=True)
class Picture:
    """A figure to be written as `name`.png: pixels uint8 (height, width, 3), and in words what it shows."""

    name: str
    pixels: np.ndarray
    description: str


@dataclass(frozen=True)
class Table:
    """A table to be written as `name`.csv, all digits kept, and `name`.md, rounded. Values: str, int, float or None."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple]

    def as_csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.header, *self.rows])
        return text.getvalue()

    def as_markdown(self) -> str:
        """A pipe table under its title, numbers to the right."""
        numeric = [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.header))]
        lines = [self.header, ["---:" if right else "---" for right in numeric]]
        lines += [[_rounded(value) for value in row] for row in self.rows]
        return "\n".join([self.title, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


@dataclass(frozen=True)
class Findings:
    """What one analysis found: its heading, what is to be seen and how to read it, and the figures and tables."""

    heading: str
    text: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def write_findings(
    folder: Path, name: str, findings: Findings, *, page_title: str, made: str, order: Sequence[str]
) -> None:
    """Write the figures and tables of the analysis `name` into an existing folder, and its section into the page.

    `made` says from what and by which command; `order` is the order of all analyses' names on the page. UserError if a
    file cannot be written; whichever files were replaced by then are whole.
    """
    files = {f"{picture.name}.png": _png(picture.pixels) for picture in findings.pictures}
    for table in findings.tables:
        files[f"{table.name}.csv"] = table.as_csv().encode()
        files[f"{table.name}.md"] = table.as_markdown().encode()
    for file, content in files.items():
        write_atomically(folder / file, content)
    sections = _sections(folder) | {name: _section(findings, made)}
    in_order = {each: sections[each] for each in order if each in sections}
    write_atomically(folder / PAGE, _page(page_title, in_order).encode(errors="backslashreplace"))


def _rounded(value: object) -> str:
    if value is None:
        return ""
    return f"{value:#.4g}".removesuffix(".") if isinstance(value, float) else str(value).replace("|", "\\|")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _sections(folder: Path) -> dict[str, str]:
    """The sections of the page that is there, by analysis, but for those whose files are not there any more."""
    try:
        page = (folder / PAGE).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {folder / PAGE}: {error.strerror}") from error
    found = dict(re.findall(r'(?s)<section id="(\w+)">(.*?)</section>', page))
    return {
        name: section
        for name, section in found.items()
        if all((folder / file).is_file() for file in re.findall(r'(?:src|href)="([^"#]+)"', section))
    }


def _section(findings: Findings, made: str) -> str:
    parts = [f"<h2>{html.escape(findings.heading)}</h2>", f"<p>{html.escape(findings.text)}</p>"]
    for picture in findings.pictures:
        height, width = picture.pixels.shape[:2]
        parts.append(
            f'<a class="figure" href="{picture.name}.png"><img src="{picture.name}.png" width="{width}" '
            f'height="{height}" loading="lazy" alt="{html.escape(picture.description)}"></a>'
        )
    parts += [_html_table(table) for table in findings.tables]
    parts.append(f'<p class="made">{html.escape(made)}</p>')
    return "\n".join(parts)


def _html_table(table: Table) -> str:
    text = [any(isinstance(row[index], str) for row in table.rows) for index in range(len(table.header))]

    def row(values: Sequence, tag: str) -> str:
        opening = [f'<{tag} class="text">' if is_text else f"<{tag}>" for is_text in text]
        cells = (f"{start}{html.escape(_rounded(value))}</{tag}>" for start, value in zip(opening, values, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    links = f'<a href="{table.name}.csv">CSV</a>, <a href="{table.name}.md">Markdown</a>'
    body = "\n".join(row(values, "td") for values in table.rows)
    grid = f'<div class="scroll"><table>\n{row(table.header, "th")}\n{body}\n</table></div>'
    unfolded = " open" if len(table.rows) <= _LONG else ""
    title = f"{html.escape(table.title)} <small>{len(table.rows)} rows</small>"
    return f"<details{unfolded}><summary>{title}</summary>\n<p>{links}</p>\n{grid}\n</details>"


def _page(title: str, sections: dict[str, str]) -> str:
    links = " · ".join(f'<a href="#{name}">{name}</a>' for name in sections)
    body = "\n".join(f'<section id="{name}">\n{section.strip()}\n</section>' for name, section in sections.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


_STYLE = """
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; }
small, .made { color: var(--faint); font-weight: normal; }
.made { font-size: .875rem; overflow-wrap: anywhere; }
"""
