"""The report, written once as Markdown by the templates and converted: README.md, index.html and figures/.

`write_report` gathers what the templates need and writes the files. The prose is in templates/report.md.j2 and the
templates that it includes; page.html.j2 and page.css are the page around it.
"""

import html
import itertools
import os
import re
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import markdown
from markupsafe import Markup

from harness.cli import command_line, typed_path
from harness.errors import UserError
from harness.files import check_writable, make_folder, nearest_folder, os_errors_as, read_file, write_atomically
from harness.grid.runs import Problem, RowRuns, Run
from harness.report import conclusions, figures, results, statistics
from harness.report.figures import Figure
from harness.report.inside import FIRST_FILTER_COLUMNS, first_filters, look_inside
from harness.report.results import dataset

MARKER = "written by report.py: every number here is computed from the run folders; edits are lost"
PAGE_CSS = Path(__file__).with_name("page.css")  # the look of all of the project's pages
SETTINGS_PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "original-settings.md"


def write_report(
    rows: Sequence[RowRuns],
    *,
    problems: Sequence[Problem],
    grid: Path,
    out: Path,
    precision: str,
    data: str,
    command: str,
    count_parameters: Callable[[dict], int],
    on_mnist: RowRuns | None = None,
) -> None:
    """Write README.md, index.html and figures/ into `out`; the same runs give the same bytes.

    `precision` and `data` are what report.py was asked for, `command` how it was called; `count_parameters` tells a
    network's size from its run's config; `on_mnist` is the CNN to compare the recurrent networks with. Figures are
    written before the pages that show them, and those of an earlier report that no page shows any more are deleted.
    Raises UserError if `out` holds a README.md or index.html that is no report, or if something cannot be read or
    written.
    """
    earlier = _earlier_figures(out)
    synthetic = data == "synthetic" or (bool(rows) and all(dataset(row) == "synthetic" for row in rows))
    slugs = _slugs([row.row.name for row in rows])
    shown: dict[str, Figure] = {}
    headings: list[tuple[int, str, Markup]] = []

    def heading(level: int, anchor: str, text: str) -> Markup:
        """A heading with an anchor in it, to which links can lead here as on GitHub."""
        headings.append((level, anchor, Markup(html.escape(text))))
        return Markup(f'{"#" * level} <a id="{anchor}"></a>{escape(text)}')

    def show(name: str, figure: Figure) -> Markup:
        """The figure in the text, which is to be written as figures/`name`."""
        shown[str(name)] = figure
        return Markup(f"![{escape(figure.description)}](figures/{name})")

    def show_all(prefix: str, pictures: dict[str, Figure]) -> Markup:
        """The figures in one paragraph, as many in a line as there is room for."""
        return Markup(" ").join(show(f"{prefix}-{name}.svg", figure) for name, figure in pictures.items())

    def link(row: RowRuns, text: str = "") -> Markup:
        return Markup(f"[{escape(text or row.row.name)}](#{slugs[row.row.name]})")

    def title(row: RowRuns) -> str:
        mark = " (synthetic)" if synthetic or dataset(row) == "synthetic" else ""
        return (row.row.title.strip() or row.row.name) + mark

    context = {
        "results": rows,
        "families": results.families_of(rows),
        "complete": [run for row in rows for run in row.complete],
        "done": sum(run.seed in row.seeds for row in rows for run in row.complete),
        "problems": problems,
        "printed": any(row.row.printed for row in rows),
        "several_seeds": any(len(row.complete) > 1 for row in rows),
        "synthetic": synthetic,
        "mark": " (synthetic)" if synthetic else "",
        "on_mnist": on_mnist,
        "count_parameters": count_parameters,
        "asked_precision": precision,
        "command": command,
        "grid": grid.as_posix(),
        "settings_page": _settings_page(out),
        "title": title,
        "slug": lambda row: slugs[row.row.name],
        "link": link,
        "heading": heading,
        "show": show,
        "show_all": show_all,
    }
    text = unwrap(_TEMPLATES.get_template("report.md.j2").render(context))
    make_folder(out / "figures")
    for name, figure in shown.items():
        write_atomically(out / "figures" / name, figure.content)
    for name, page in (("README.md", text), ("index.html", page_of(text, shown, headings))):
        write_atomically(out / name, page.encode("utf-8", errors="backslashreplace"))
    for path in (out / "figures" / name for name in earlier - set(shown)):
        with os_errors_as(f"cannot delete {path}"):
            path.unlink(missing_ok=True)


def visualize_command(run: Run) -> str:
    return command_line(["python", "visualize.py", typed_path((run.path / "best.pt").as_posix())], windows=False)


def _settings_page(out: Path) -> str:
    """The link from `out` to docs/original-settings.md; empty if that is not there, or on another drive."""
    if not SETTINGS_PAGE.is_file() or SETTINGS_PAGE.drive != out.resolve().drive:
        return ""
    return urllib.parse.quote(Path(os.path.relpath(SETTINGS_PAGE, out.resolve())).as_posix())


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """For each name one that is fit for a file and an address, no two alike; no others in the report begin so."""
    slugs: dict[str, str] = {}
    for name in names:
        plain = "row-" + (re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "row")
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        slugs[name] = next(slug for slug in itertools.chain([plain], numbered) if slug not in slugs.values())
    return slugs


# -- Markdown ----------------------------------------------------------------------------------------------------------


def escape(value: object) -> Markup:
    """Plain text in one line, of which nothing is taken for markup, an HTML tag, an entity or a formula; – of None."""
    if isinstance(value, Markup):
        return value
    text = html.escape(re.sub(r"\s+", " ", statistics.NOTHING if value is None else str(value)), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~$]|#(?=#*$))", r"\\\1", text))


def plain(text: str) -> Markup:
    """Plain text in one line within HTML, where Markdown is not read."""
    return Markup(html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> Markup:
    """A code span: fenced by more backticks than stand in it."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def line(*cells: object) -> Markup:
    """A line of a table; a cell that is False is left out with its column."""
    return Markup("| " + " | ".join(escape(cell) for cell in cells if cell is not False) + " |")


def head(*names: str | bool) -> Markup:
    """The first two lines of a table. Numbers stand to the right, what is in a column named with a < to the left."""
    names = [name for name in names if name is not False]
    rules = [":---" if name.startswith("<") else "---:" for name in names]
    return line(*(name.removeprefix("<") for name in names)) + "\n" + line(*rules)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("harness.report"),
    autoescape=True,
    finalize=escape,  # whatever is put in; what is markup already stays as it is
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
for _module in (conclusions, statistics, results):  # a template may use what these compute
    _TEMPLATES.globals |= {name: value for name, value in vars(_module).items() if not name.startswith("_")}
_TEMPLATES.globals |= {
    "code": code,
    "plain": plain,
    "line": line,
    "head": head,
    "draw": figures,
    "look_inside": look_inside,
    "first_filters": first_filters,
    "FIRST_FILTER_COLUMNS": FIRST_FILTER_COLUMNS,
}
_TEMPLATES.globals |= {"visualize": visualize_command, "MARKER": MARKER}


def unwrap(text: str) -> str:
    """A paragraph in one line, however the template breaks it; one empty line between blocks."""
    text = re.sub(r"(?<=\S) *\n *(?=[^\s|>#<-])", " ", text)
    text = text.replace("\n</sub>", "</sub>")
    text = re.sub(r"(?<=\S)  +", " ", text)
    return re.sub(r"\n\s*\n", "\n\n", text).strip() + "\n"


def page_of(text: str, shown: dict[str, Figure], headings: Sequence[tuple[int, str, Markup]]) -> str:
    """The Markdown as an HTML page that needs no other file: every figure is in it, nothing is fetched or run."""
    converter = markdown.Markdown(extensions=["tables", "sane_lists", "md_in_html"], output_format="html")
    converter.ESCAPED_CHARS += ["~", "$"]
    body = converter.convert(text)  # in which no < or > is left of what was text
    body = re.sub(r"<table>.*?</table>", _table, body, flags=re.DOTALL)
    body = body.replace("<p><img ", '<p class="figure"><img ')
    for number, (name, figure) in enumerate(shown.items()):
        before, alt, after = re.split(rf'<img alt="([^"]*)" src="figures/{re.escape(name)}">', body)
        body = before + (_chart(figure, number, alt) if figure.chart else _image(figure, alt)) + after
    css = PAGE_CSS.read_text(encoding="utf-8")
    return _TEMPLATES.get_template("page.html.j2").render(css=Markup(css), headings=headings, body=Markup(body))


def _table(found: re.Match) -> str:
    """The table in a box that scrolls; a wide one, with its column's head at each cell, is a list on a phone."""
    table, heads = found[0], re.findall(r"<th\b[^>]*>(.*?)</th>", found[0])
    if len(heads) > 4:
        names = itertools.cycle(re.sub("<[^>]*>", "", head).replace('"', "&quot;") for head in heads)
        table = re.sub("<td", lambda _: f'<td data-head="{next(names)}"', table)
        table = table.replace("<table>", '<table class="list">', 1)
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _chart(figure: Figure, number: int, alt: str) -> str:
    """The chart as part of the page: what is numbered in it, styles and shapes, gets the chart's number, too."""
    sheet, end, shapes = figure.content.decode().partition("</style>")
    sheet = re.sub(r"(?<=\.c)(?=\d+{)", f"{number}-", sheet)
    shapes = re.sub(r"<[^>]*>", lambda tag: re.sub(r'(?<=[#"][cmp])(?=\d)', f"{number}-", tag[0]), shapes)
    return sheet.replace("<svg", f'<svg role="img" aria-label="{alt}"', 1) + end + shapes


def _image(figure: Figure, alt: str) -> str:
    """A figure of a run's folder as an address that holds it: there no script of a stranger is run."""
    address = "data:image/svg+xml," + urllib.parse.quote(figure.content, safe=" '()*+,-./:;=@_{}!~")
    return f'<img alt="{alt}" width="{figure.width}" src="{address}">'


# -- the folder --------------------------------------------------------------------------------------------------------


def check_folder(out: Path) -> None:
    """UserError, before anything is trained, if the report could not be written to this folder afterwards."""
    folders = [nearest_folder(each, "--out") for each in (out, out / "figures")]
    _earlier_figures(out)
    for folder in folders:
        check_writable(folder)


def _earlier_figures(out: Path) -> set[str]:
    """The figures of an earlier report in `out`; UserError if a page there is none of ours."""
    pages = [out / name for name in ("index.html", "README.md") if (out / name).exists()]
    text = ""
    for page in pages:
        text = read_file(page).decode(errors="replace")
        if f"<!-- {MARKER} -->" not in text[:400]:
            raise UserError(f"{page} was not written by report.py and would be replaced; choose another --out")
    return set(re.findall(r"\]\(figures/([\w.-]+\.(?:svg|png))\)", text))
