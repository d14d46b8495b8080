"""The report: from the runs of a grid to README.md, a self-contained index.html and figures/, without any training.

`write_report` says what is in it and in which order; `measures` reads figures off runs, `statistics` compares them,
`rows`, `conclusions`, `inside` and `comparison` make the sections, `charts` draws, `document` is what the
two renderers, `markdown` and `page`, are given.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.files import check_writable, make_folder, nearest_folder, write_atomically
from harness.grid.runs import Problem, RowRuns
from harness.report.comparison import precision_agreement, settings_tried, versus_cnn
from harness.report.conclusions import best_setting, stability
from harness.report.document import Block, Bullets, Code, Figure, Heading, Link, Text, paragraph
from harness.report.inside import paper, visualization
from harness.report.markdown import render_markdown
from harness.report.names import Names
from harness.report.page import render_page
from harness.report.results import CELLS, CNN, RECURRENT, cell_name, counted, dataset, listed, setting
from harness.report.rows import (
    agreement,
    data_title,
    multiples,
    overview_figure,
    overview_table,
    parameters_table,
    row_section,
)

MARKER = "written by report.py: every number here is computed from the run folders; edits are lost"
_SETTINGS_PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "original-settings.md"


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
    network's size from its run's config; `on_mnist` is the CNN to compare the recurrent networks with. Pictures are
    written before the pages that show them, and those of an earlier report that no page shows any more are deleted.
    Raises UserError if `out` holds a README.md or index.html that is no report, or if something cannot be read or
    written.
    """
    earlier = _earlier_figures(out)
    blocks = compose(
        results,
        problems=problems,
        grid=grid,
        runs_dir=runs_dir,
        out=out,
        precision=precision,
        data=data,
        command=command,
        count_parameters=count_parameters,
        on_mnist=on_mnist,
    )
    figures = {block.name: block.content for block in blocks if isinstance(block, Figure)}
    pages = {"README.md": render_markdown(blocks, MARKER), "index.html": render_page(blocks, MARKER)}
    make_folder(out / "figures")
    for name, content in figures.items():
        write_atomically(out / "figures" / name, content)
    for name, text in pages.items():
        write_atomically(out / name, text.encode("utf-8", errors="backslashreplace"))
    for name in earlier - set(figures):
        try:
            (out / "figures" / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {out / 'figures' / name}: {error.strerror}") from error


def compose(
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
    on_mnist: RowRuns | None,
) -> list[Block]:
    """The whole report as blocks, in the original's order."""
    synthetic = data == "synthetic" or (bool(results) and all(dataset(row) == "synthetic" for row in results))
    names = Names(results, synthetic=synthetic)
    cnn = [row for row in results if row.row.script == CNN]
    recurrent = [row for row in results if row.row.script == RECURRENT]
    families = [(f"{name} with {data_title(rows)}", rows) for name, rows in (("CNN", cnn), ("RNN", recurrent)) if rows]
    printed = any(row.row.printed for row in results)
    blocks: list[Block] = [Heading(1, names.marked(_title(families, printed=printed)), "top")]
    blocks += _how_made(results, problems, names, grid=grid, precision=precision, command=command)
    if families:
        blocks += [
            Heading(2, "Overview", "overview"),
            overview_figure(families, names),
            overview_table(results, names),
        ]
    if cnn:
        blocks += [Heading(2, families[0][0], "cnn"), paragraph("These settings were tried:"), parameters_table(cnn)]
        blocks.append(best_setting(cnn, names))
        for row in cnn:
            blocks += row_section(row, problems, names, 3)
        blocks += _side_by_side(multiples(families[0][0], cnn, names), "cnn")
        looked, shown = visualization(cnn, names)
        blocks += [*looked, *paper(shown)]
    if recurrent:
        title = families[-1][0]
        blocks += [Heading(2, title, "rnn"), paragraph("These settings were tried with each cell:")]
        blocks += [parameters_table(recurrent), *stability(recurrent, names), best_setting(recurrent, names)]
        for cell, rows in _cells(recurrent):
            blocks.append(Heading(3, cell, f"cell-{cell.lower().replace(' ', '-')}"))
            for row in rows:
                blocks += row_section(row, problems, names, 4)
        blocks += _side_by_side(multiples(title, recurrent, names), "rnn")
        blocks += versus_cnn(recurrent, on_mnist, names, count_parameters)
    blocks += agreement(families, names)
    blocks += precision_agreement(results, runs_dir, names)
    if printed:
        blocks += [Heading(2, "What was tried", "tried"), paragraph(*_tried(out))]
        blocks += settings_tried(results, runs_dir, names)
    return blocks


def _title(families: Sequence[tuple[str, Sequence[RowRuns]]], *, printed: bool) -> str:
    title = listed([name for name, _ in families]) or "A grid without rows"
    return f"Assignment 2, regenerated: {title}" if printed else title


def _cells(rows: Sequence[RowRuns]) -> list[tuple[str, list[RowRuns]]]:
    """The rows by their cell, in the original's order: (name, rows)."""
    found = {str(cell): cell for cell in (setting(row, "cell") for row in rows)}
    order = [*(cell for cell in CELLS if cell in found), *sorted(set(found) - set(CELLS))]
    return [(cell_name(found[cell]), [row for row in rows if str(setting(row, "cell")) == cell]) for cell in order]


def _side_by_side(figures: Sequence[Figure], family: str) -> list[Block]:
    return [Heading(3, "Side by side", f"{family}-side-by-side"), *figures] if figures else []


def _how_made(
    results: Sequence[RowRuns],
    problems: Sequence[Problem],
    names: Names,
    *,
    grid: Path,
    precision: str,
    command: str,
) -> list[Block]:
    """How the report came about: command, grid, runs, machine; and how its figures are to be taken."""
    complete = [run for row in results for run in row.complete]
    wanted = sum(len(row.seeds) for row in results)
    done = sum(1 for row in results for run in row.complete if run.seed in row.seeds)
    items: list[Text] = [("Written by ", Code(command), " from the grid ", Code(grid.as_posix()), ".")]
    counts = sorted({len(row.complete) for row in results})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"
    seeds = f"{each} complete {'seed' if each == '1' else 'seeds'} a row"
    items.append((f"{counted(len(results), 'row')}, {done} of {counted(wanted, 'run')} complete; {seeds}.",))
    items.append((f"Precision asked for: {precision}; {_precisions(results)}.",))
    if complete:
        items.append((_machine(complete),))
    if names.synthetic:
        items.append(("The images are synthetic, drawn by the program: nothing here is a result on a real data set.",))
    blocks: list[Block] = [Bullets(tuple(items))]
    lost = [row for row in results if len(row.complete) < len(row.seeds)]
    if lost or problems:
        by_kind = [
            f"{counted(number, 'run')} {kind}"
            for kind in ("missing", "failed", "diverged")
            if (number := sum(1 for problem in problems if problem.status == kind))
        ]
        parts: list = ["Not everything is there" + (f" ({listed(by_kind)})" if by_kind else "") + ". See "]
        concerned = {problem.row for problem in problems}
        rows = [row for row in results if row in lost or row.row.name in concerned]
        for index, row in enumerate(rows):
            parts += [", " if index else "", Link(row.row.name, f"#{names.slug(row)}")]
        blocks.append(paragraph(*parts, "."))
    blocks.append(
        paragraph(
            "Train figures are running means over the epoch while the weights change, test figures are of the whole "
            "test set after it; loss is mean cross-entropy. ",
            "Best is the best over the epochs, each figure by itself, as in the original's tables. An epoch chosen by "
            "its test figures makes them optimistic, so the last epoch stands beside it. Ours are mean ± standard "
            "deviation over seeds (n − 1 in the denominator). The original's figures are of single runs: each is held "
            "against the interval in which one more run of ours would lie with 95 % probability, mean ± t(n − 1) · s · "
            "√(1 + 1/n), which takes runs to be normally distributed; shown cut off where no such figure can lie.",
        )
    )
    return blocks


def _precisions(results: Sequence[RowRuns]) -> str:
    """`CNN rows ran in bf16, RNN rows in fp32`."""
    found = []
    for name, script in (("CNN", CNN), ("RNN", RECURRENT)):
        runs = [run for row in results if row.row.script == script for run in row.complete]
        values = sorted({str(run.config["flags"].get("precision")) for run in runs})
        if values:
            found.append(f"{name} rows {'in' if found else 'ran in'} {listed(values)}")
    return ", ".join(found) or "no run is complete yet"


def _machine(runs: Sequence) -> str:
    def of(key: str) -> str:
        return listed(sorted({str(run.config.get(key)) for run in runs}))

    minutes = sum(epoch.seconds for run in runs for epoch in run.history) / 60
    added_up = f"{minutes:.1f} minutes" if minutes < 59.95 else f"{minutes / 60:.1f} hours"  # never 60.0 minutes
    return (
        f"Device {of('device')}, threads a run: {of('threads')}, PyTorch {of('torch')}, Python {of('python')}. The "
        f"epochs of the complete runs add up to {added_up}, on a machine that may have had other work."
    )


def _tried(out: Path) -> Text:
    page: Link | Code = Code("docs/original-settings.md")
    if _SETTINGS_PAGE.is_file():
        try:
            target = Path(os.path.relpath(_SETTINGS_PAGE, out.resolve())).as_posix()
        except ValueError:  # on another drive of Windows
            target = ""
        if target and re.fullmatch(r"[\w./-]+", target):
            page = Link("docs/original-settings.md", target)
    return (
        "The original names neither its batch size nor whether its images are gray, nor how they are normalised. ",
        page,
        " says what was tried and where the defaults come from.",
    )


def check_folder(out: Path) -> None:
    """UserError, before anything is trained, if the report could not be written to this folder afterwards."""
    folders = [nearest_folder(each, "--out") for each in (out, out / "figures")]
    _earlier_figures(out)
    for folder in folders:
        check_writable(folder)


def _earlier_figures(out: Path) -> set[str]:
    """The pictures of an earlier report in `out`; UserError if a page there is none of ours."""
    names: set[str] = set()
    for page in ("README.md", "index.html"):
        path = out / page
        if not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if f"<!-- {MARKER} -->" not in text[:400]:
            raise UserError(f"{path} was not written by report.py and would be replaced; choose another --out")
        if page == "README.md":
            names = set(re.findall(r"\]\(figures/([\w.-]+\.(?:svg|png))\)", text))
    return names
