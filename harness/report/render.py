"""The report, written once as Markdown by the templates and converted: README.md, index.html and figures/.

`write_report` gathers what the templates need and writes the files. The prose is in templates/report.md.j2 and the
templates that it includes; page.html.j2 and page.css are the page around it.
"""

import base64
import functools
import os
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markdown
from markupsafe import Markup

from harness.cli import command_line, typed_path
from harness.errors import UserError
from harness.files import check_writable, make_folder, nearest_folder, os_errors_as, read_file, write_atomically
from harness.flags import flag_label
from harness.grid.runs import Problem, RowRuns, Run
from harness.report import conclusions, figures, statistics
from harness.report import results as metrics
from harness.report.figures import Figure
from harness.report.inside import look_inside
from harness.report.results import CNN, RECURRENT, dataset, listed

MARKER = "written by report.py: every number here is computed from the run folders; edits are lost"
PAGE_CSS = Path(__file__).with_name("page.css")  # the look of all of the project's pages
SETTINGS_PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "original-settings.md"


@dataclass(frozen=True)
class Family:
    """All rows of one script."""

    kind: str  # "CNN" or "RNN"
    rows: list[RowRuns]

    @property
    def title(self) -> str:
        names = dict.fromkeys(flag_label("data", dataset(row)) for row in self.rows)
        return f"{self.kind} with {listed([*names])}"

    @property
    def complete(self) -> list[Run]:
        return [run for row in self.rows for run in row.complete]


def write_report(
    results: Sequence[RowRuns],
    *,
    problems: Sequence[Problem],
    grid: Path,
    runs_dir: Path,
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
    synthetic = data == "synthetic" or (bool(results) and all(dataset(row) == "synthetic" for row in results))
    mark = " (synthetic)" if synthetic else ""
    families = [Family("CNN", [row for row in results if row.row.script == CNN])]
    families += [Family("RNN", [row for row in results if row.row.script == RECURRENT])]
    families = [family for family in families if family.rows]
    rows = {family.kind: family.rows for family in families}
    measured = not synthetic and rows.get("RNN", [])  # synthetic images are not the same for both scripts
    networks = conclusions.networks_on_mnist(measured or [], on_mnist if measured else None, count_parameters)

    concerned = {problem.row for problem in problems}
    titles = {row.row.name: _title(row, synthetic) for row in results}
    slugs = _slugs([row.row.name for row in results])
    context = {
        "results": results,
        "problems": problems,
        "families": families,
        "complete": [run for row in results for run in row.complete],
        "done": sum(run.seed in row.seeds for row in results for run in row.complete),
        "lacking": [row for row in results if len(row.complete) < len(row.seeds) or row.row.name in concerned],
        "problem_counts": [
            f"{metrics.counted(number, 'run')} {status}"
            for status in ("missing", "failed", "diverged")
            if (number := sum(problem.status == status for problem in problems))
        ],
        "printed": any(row.row.printed for row in results),
        "several_seeds": any(len(row.complete) > 1 for row in results),
        "synthetic": synthetic,
        "mark": mark,
        "inside": look_inside(rows.get("CNN", [])),
        "stability": conclusions.stability(rows.get("RNN", [])),
        "networks": networks,
        "on_mnist": on_mnist,
        "precisions": conclusions.other_precisions(results, runs_dir),
        "variants": conclusions.variants(results, runs_dir),
        "multiples": {family.kind: figures.side_by_side(family.rows, family.title, mark) for family in families},
        "asked_precision": precision,
        "command": command,
        "grid": grid.as_posix(),
        "visualize": _visualize_command,
        "settings_page": _settings_page(out),
        "title": lambda row: titles[row.row.name],
        "slug": lambda row: slugs[row.row.name],
        "link": lambda row: Markup(f"[{escape(row.row.name)}](#{slugs[row.row.name]})"),
    }
    drawn = _draw(context, titles, slugs)
    text = _environment("md").get_template("report.md.j2").render(context, figures=drawn, MARKER=MARKER)
    text = unwrap(text)
    drawn = {name: figure for name, figure in drawn.items() if f"(figures/{name})" in text}
    make_folder(out / "figures")
    for name, figure in drawn.items():
        write_atomically(out / "figures" / name, figure.content)
    for name, page in (("README.md", text), ("index.html", page_of(text, drawn))):
        write_atomically(out / name, page.encode("utf-8", errors="backslashreplace"))
    for name in earlier - set(drawn):
        delete(out / "figures" / name)


def _draw(context: dict, titles: dict[str, str], slugs: dict[str, str]) -> dict[str, Figure]:
    """The figures of the report by file name, as far as there is something to be seen in them."""
    families, mark, networks = context["families"], context["mark"], context["networks"]
    drawn: dict[str, Figure | None] = {}
    if families:
        panels = [(family.title, family.rows) for family in families]
        drawn["overview.svg"] = figures.overview(panels, f"Best test accuracy of every row{mark}")
    for family in families:
        drawn |= {f"{slugs[row.row.name]}.svg": figures.row_curves(row, titles[row.row.name]) for row in family.rows}
        if multiples := context["multiples"][family.kind]:
            prefix = "cnn" if family.kind == "CNN" else "recurrent"
            drawn |= {f"{prefix}-{metric}.svg": figure for metric, figure in multiples.figures.items()}
        if family.kind == "RNN" and context["stability"]:
            title = f"Worst drop of test accuracy from one epoch to the next{mark}"
            drawn["stability.svg"] = figures.drops(family.rows, context["stability"], title)
    if any(each.first_rows for each in networks):
        title = "Test accuracy from the first k rows of each MNIST image"
        drawn["first-rows.svg"] = figures.first_rows(networks, title)
    if context["on_mnist"] and context["on_mnist"].complete and networks:
        drawn["versus-cnn.svg"] = figures.costs(networks, f"What accuracy on MNIST costs: {_alike(networks)}")
    inside = context["inside"]
    for name in inside.figures if inside else ():  # inside.md.j2 describes them
        drawn[f"inside-{name.replace('_', '-')}.png"] = Figure("", *inside.picture(name))
    return {name: figure for name, figure in drawn.items() if figure}


def _alike(networks: Sequence[conclusions.Network]) -> str:
    flags = networks[0].runs[0].config["flags"]
    names = ("optimizer", "lr", "epochs")
    return ", ".join(flag_label(flag, flags[flag], short=True) for flag in names if flag in flags)


def _visualize_command(run: Run) -> str:
    return command_line(["python", "visualize.py", typed_path((run.path / "best.pt").as_posix())], windows=False)


def _settings_page(out: Path) -> str:
    """Where docs/original-settings.md lies, seen from `out`; empty if it is not there, or no link can hold its path."""
    if not SETTINGS_PAGE.is_file() or SETTINGS_PAGE.drive != out.resolve().drive:
        return ""
    target = Path(os.path.relpath(SETTINGS_PAGE, out.resolve())).as_posix()
    return target if re.fullmatch(r"[\w./-]+", target) else ""


# -- names -------------------------------------------------------------------------------------------------------------


def _title(row: RowRuns, synthetic: bool) -> str:
    """A row's heading, with a mark if its images are synthetic."""
    title = row.row.title.strip() or row.row.name
    return f"{title} (synthetic)" if synthetic or dataset(row) == "synthetic" else title


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """For each name one that is fit for a file and an address, no two alike; no others in the report begin so."""
    slugs: dict[str, str] = {}
    for name in names:
        plain = slug = "row-" + (re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "row")
        number = 1
        while slug in slugs.values():
            number += 1
            slug = f"{plain}-{number}"
        slugs[name] = slug
    return slugs


# -- Markdown ----------------------------------------------------------------------------------------------------------


def escape(value: object) -> Markup:
    """Plain text in one line, of which nothing is taken for markup, an HTML tag, an entity or a formula."""
    if isinstance(value, Markup):
        return value
    text = re.sub(r"\s+", " ", str(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(re.sub(r"([\\`*_\[\]|~$]|#(?=#*$))", r"\\\1", text))


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


@functools.cache
def _environment(kind: str) -> jinja2.Environment:
    """Templates for Markdown ("md"), where everything that is put in is escaped for it, or for HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=True,
        finalize=escape if kind == "md" else None,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    for module in (conclusions, statistics, metrics):  # a template may use what these compute
        environment.globals |= {name: value for name, value in vars(module).items() if not name.startswith("_")}
    environment.globals |= {"code": code, "line": line, "head": head, "alike": _alike, "OVERLAID": figures.OVERLAID}
    return environment


def unwrap(text: str) -> str:
    """A paragraph in one line, however the template breaks it; one empty line between blocks."""
    text = re.sub(r"(?<=\S) *\n *(?=[^\s|>#<-])", " ", text)
    text = text.replace("\n</sub>", "</sub>")
    text = re.sub(r"(?<=\S)  +", " ", text)
    return re.sub(r"\n\s*\n", "\n\n", text).strip() + "\n"


# -- the page ----------------------------------------------------------------------------------------------------------


def page_of(text: str, drawn: dict[str, Figure]) -> str:
    """The Markdown as an HTML page that needs no other file: every figure is in it, nothing is fetched or run."""
    converter = markdown.Markdown(extensions=["tables", "sane_lists"], output_format="html")
    converter.ESCAPED_CHARS += ["~", "$"]
    body = converter.convert(text.partition("-->")[2].strip())
    body = re.sub(r'<p><a id="([^"]+)"></a></p>\n<h(\d)>', r'<h\2 id="\1">', body)
    body = body.replace(' style="text-align: right;"', "").replace(' style="text-align: left;"', ' class="text"')
    body = body.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")

    def embedded(image: re.Match) -> str:
        figure = drawn[image[2]]
        return f'<div class="figure"><img {image[1]} width="{figure.width}" src="{_address(image[2], figure)}"></div>'

    body = re.sub(r'<p><img (alt="[^"]*") src="figures/([^"]+)"></p>', embedded, body)
    return (
        _environment("html")
        .get_template("page.html.j2")
        .render(
            marker=Markup(MARKER),
            css=Markup(PAGE_CSS.read_text(encoding="utf-8")),
            title=Markup(re.search(r"<h1[^>]*>(.*?)</h1>", body)[1]),
            sections=[(anchor, Markup(title)) for anchor, title in re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body)],
            body=Markup(body),
        )
    )


def _address(name: str, figure: Figure) -> str:
    """The figure itself as a data: address; an SVG as text, which is shorter than base64."""
    if name.endswith(".png"):
        return f"data:image/png;base64,{base64.b64encode(figure.content).decode()}"
    svg = re.sub(r"<[^>']*>", lambda tag: tag[0].replace('"', "'"), figure.content.decode())
    return "data:image/svg+xml," + urllib.parse.quote(svg, safe=" !'()*+,/:;<=>?@[]^`{|}")


# -- the folder --------------------------------------------------------------------------------------------------------


def check_folder(out: Path) -> None:
    """UserError, before anything is trained, if the report could not be written to this folder afterwards."""
    folders = [nearest_folder(each, "--out") for each in (out, out / "figures")]
    _earlier_figures(out)
    for folder in folders:
        check_writable(folder)


def _earlier_figures(out: Path) -> set[str]:
    """The figures of an earlier report in `out`; UserError if a page there is none of ours."""
    names: set[str] = set()
    for page in ("README.md", "index.html"):
        path = out / page
        if not path.exists():
            continue
        text = read_file(path).decode(errors="replace")
        if f"<!-- {MARKER} -->" not in text[:400]:
            raise UserError(f"{path} was not written by report.py and would be replaced; choose another --out")
        if page == "README.md":
            names = set(re.findall(r"\]\(figures/([\w.-]+\.(?:svg|png))\)", text))
    return names


def delete(path: Path) -> None:
    with os_errors_as(f"cannot delete {path}"):
        path.unlink(missing_ok=True)
