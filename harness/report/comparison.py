"""The report's comparisons beyond the grid's own rows: the CNN on MNIST, the other precision, other unstated settings.

Their runs are found in the runs folder by config, never by name.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.flags import RESULT_FLAGS
from harness.grid.runs import RowRuns, Run, complete_runs
from harness.metrics import METRICS
from harness.report import charts
from harness.report.document import Block, Code, Figure, Heading, Link, paragraph, table
from harness.report.names import Names
from harness.report.results import (
    CELLS,
    FIGURE_NAMES,
    ORIGINAL_FLAGS,
    best,
    bests,
    cell_name,
    counted,
    described,
    interval_of,
    last,
    listed,
    sample,
    seconds_an_epoch,
    setting,
    short_setting,
    signed,
    spread,
)
from harness.report.statistics import Estimate, weighted_sum

FIRST_ROWS = "first_rows.csv"
# What makes no other row of the original: the seed, and the flags for which it gives no value.
_UNNAMED = ("seed", *(flag for flag in RESULT_FLAGS if flag not in ("seed", "data", "cell", *ORIGINAL_FLAGS)))


def _signature(run: Run, *without: str) -> tuple:
    """What makes two runs the same but for the flags left out."""
    flags = run.config["flags"]
    settings = tuple((flag, str(flags.get(flag))) for flag in RESULT_FLAGS if flag not in without)
    return run.config.get("experiment"), settings


# -- the CNN on MNIST --------------------------------------------------------------------------------------------------


def versus_cnn(
    recurrent: Sequence[RowRuns], on_mnist: RowRuns | None, names: Names, count_parameters: Callable[[dict], int]
) -> list[Block]:
    """Measured where the original only asserts: the CNN and the three cells on the same images.

    `on_mnist` is the CNN of the grid's [comparison], None where it has none.
    """
    blocks: list[Block] = [Heading(2, "Comparison with the CNN", "comparison")]
    if names.synthetic:
        blocks.append(paragraph("Not measured on synthetic images: there the two scripts see different ones."))
        return blocks
    blocks.append(
        paragraph(
            "The original lists similarities and differences of the two kinds of network. Two of them can be measured "
            "on MNIST: what either does with an image of which only a part is known, and what accuracy costs."
        )
    )
    cnn = on_mnist.complete if on_mnist else []
    networks = _networks(cnn, recurrent)
    if on_mnist and not cnn:
        blocks.append(_how_to("The CNN has not been trained on MNIST yet."))
    if on_mnist or any(map(_csv_runs, recurrent)):
        blocks += _first_rows(networks)
    if cnn:
        blocks += _costs(networks, count_parameters)
    blocks.append(
        paragraph(
            "What the original says besides, in short. Both are trained by gradient descent on the same loss, and both "
            "serve in many fields, such as the recognition of objects. A convolutional network with linear layers at "
            "its end takes images of one size, a recurrent one takes sequences of any length. The CNN shares its "
            "weights over places and captures what is spatial, the recurrent network over time steps and captures what "
            "is temporal: images suit the one, text and time series the other. Here an image's rows stand in for time."
        )
    )
    return blocks


def _how_to(what: str) -> Block:
    return paragraph(what, " ", Code("python report.py"), " does it, once, after the grid's runs are complete.")


def _matching(cnn: Run, recurrent: Sequence[RowRuns]) -> list[RowRuns]:
    """The rows with the CNN run's optimizer, rate and epochs."""
    flags = cnn.config["flags"]
    return [
        row for row in recurrent if all(setting(row, flag) == flags.get(flag) for flag in ("optimizer", "lr", "epochs"))
    ]


def _networks(cnn: Sequence[Run], recurrent: Sequence[RowRuns]) -> list[tuple[str, Sequence[Run]]]:
    """(label, complete runs): the CNN, then each cell in its largest hidden size at the CNN's other settings."""
    networks: list[tuple[str, Sequence[Run]]] = [("CNN", cnn)] if cnn else []
    rows = _matching(cnn[0], recurrent) if cnn else [row for row in recurrent if _csv_runs(row)]
    found = {str(setting(row, "cell")) for row in rows}
    for cell in (*CELLS, *sorted(found - set(CELLS))):
        of_cell = [row for row in rows if str(setting(row, "cell")) == cell and row.complete]
        if of_cell:
            row = max(of_cell, key=lambda row: (bool(_csv_runs(row)), _size(row), len(row.complete)))
            size = setting(row, "hidden_size")
            label = cell_name(cell) + (f", {short_setting('hidden_size', size)}" if size is not None else "")
            networks.append((label, row.complete))
    return networks


def _size(row: RowRuns) -> int:
    size = setting(row, "hidden_size")
    return size if isinstance(size, int) else 0


def _csv_runs(row: RowRuns) -> list[Run]:
    return [run for run in row.complete if (run.path / "figures" / FIRST_ROWS).is_file()]


def _first_rows(networks: Sequence[tuple[str, Sequence[Run]]]) -> list[Block]:
    lines, seeds = [], set()
    for label, runs in networks:
        run = next((run for run in runs if (run.path / "figures" / FIRST_ROWS).is_file()), None)
        if run:
            counts, accuracies = read_first_rows(run.path / "figures" / FIRST_ROWS)
            lines.append((label, counts, accuracies))
            seeds.add(run.seed)
    if not lines:
        return [_how_to("The test on the first rows of each image has not been made yet.")]
    title = "Test accuracy from the first k rows of each MNIST image"
    caption = (
        "Trained on whole images. A recurrent network reads only the first k rows as its k steps; the CNN sees black "
        f"below row k. One run each, seed {listed([str(seed) for seed in sorted(seeds)])}."
    )
    svg = charts.lines_chart(title, "rows seen, k", "test accuracy", lines)
    blocks: list[Block] = [Figure("first-rows.svg", svg, title, (caption,), 826)]
    level = 0.9
    reached = []
    for label, counts, accuracies in lines:
        enough = [count for count, accuracy in zip(counts, accuracies, strict=True) if accuracy >= level]
        reached.append(f"{label}: {enough[0] if enough else 'never'}")
    blocks.append(paragraph(f"Rows needed for a test accuracy of {level:g}: {'; '.join(reached)}."))
    return blocks


def read_first_rows(path: Path) -> tuple[list[int], list[float]]:
    """Columns `rows` and `accuracy`; UserError if they are not there."""
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        counts, accuracies = [int(line["rows"]) for line in lines], [float(line["accuracy"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} does not hold the columns rows and accuracy; delete it and run report.py") from error
    if not lines:
        raise UserError(f"{path} is empty; delete it and run report.py")
    return counts, accuracies


def _costs(networks: Sequence[tuple[str, Sequence[Run]]], count_parameters: Callable[[dict], int]) -> list[Block]:
    """Accuracy, parameters and time of each network at equal epochs, as a picture and as a table."""
    sizes = [_parameters(runs[0], count_parameters) for _, runs in networks]
    lines = []
    for (label, runs), size in zip(networks, sizes, strict=True):
        seconds = seconds_an_epoch(runs)
        lines.append(
            (
                label,
                str(len(runs)),
                spread(sample(runs, lambda run: best(run, "test_accuracy")), "test_accuracy"),
                spread(sample(runs, lambda run: last(run, "test_accuracy")), "test_accuracy"),
                "–" if size is None else f"{size:,}",
                f"{seconds:.1f}" if math.isfinite(seconds) else "–",
                str(runs[0].config["flags"].get("precision", "–")),
                f"{runs[0].config.get('threads', '–')}",
            )
        )
    header = ("network", "runs", "test accuracy, best", "last", "parameters", "s/epoch", "precision", "threads")
    flags = networks[0][1][0].config["flags"]
    same = ", ".join(short_setting(flag, flags[flag]) for flag in ("optimizer", "lr", "epochs") if flag in flags)
    return [
        paragraph(f"The same images, the same number of epochs ({same}); seconds are the median over all epochs."),
        _costs_figure(networks, sizes, same),
        table(header, lines),
    ]


def _parameters(run: Run, count_parameters: Callable[[dict], int]) -> int | None:
    try:
        return count_parameters(run.config)
    except ValueError:  # a config that describes no network
        return None


def _costs_figure(networks: Sequence[tuple[str, Sequence[Run]]], sizes: Sequence[int | None], same: str) -> Figure:
    accuracy, parameters, time = [], [], []
    for (label, runs), size in zip(networks, sizes, strict=True):
        accuracies = sample(runs, lambda run: best(run, "test_accuracy"))
        seconds = sample(runs, lambda run: seconds_an_epoch([run]))
        accuracy.append(charts.Dots(label, accuracies.values, accuracies.mean if accuracies.n > 1 else None))
        parameters.append(charts.Dots(label, () if size is None else (float(size),)))
        time.append(charts.Dots(label, seconds.values, seconds.mean if seconds.n > 1 else None))
    several = any(len(runs) > 1 for _, runs in networks)
    legend = {"values": "a run"} | ({"mean": "mean"} if several else {})
    panels = (
        charts.DotPanel(
            "Best test accuracy",
            tuple(accuracy),
            "test accuracy (axis logarithmic in the share of errors)",
            "accuracy",
            legend,
        ),
        charts.DotPanel("Size", tuple(parameters), "parameters (logarithmic axis)", "loss"),
        charts.DotPanel("Time", tuple(time), "seconds an epoch, training and test (logarithmic axis)", "loss"),
    )
    title = f"What accuracy on MNIST costs: {same}"
    caption = "Each dot is a run. Precision and threads are in the table; the machine may have had other work."
    return Figure("versus-cnn.svg", charts.dot_chart(title, panels), title, (caption,), 826)


# -- precision ---------------------------------------------------------------------------------------------------------


def precision_agreement(rows: Sequence[RowRuns], runs_dir: Path, names: Names) -> list[Block]:
    """Rows that were also run in another precision: means side by side. Nothing if there are none."""
    lines, differences = [], []
    for row, precision, runs in _in_other_precisions(rows, runs_dir):
        for figure in ("test_accuracy", "test_loss"):
            ours, theirs = bests(row, figure), sample(runs, lambda run, figure=figure: best(run, figure))
            difference = weighted_sum([ours, theirs], [1, -1])
            what = figure.replace("_", " ")
            differences.append((f"{row.row.name} ({what})", difference))
            lines.append(
                (
                    row.row.name,
                    what,
                    f"{setting(row, 'precision')}: {spread(ours, figure)} (n = {ours.n})",
                    f"{precision}: {spread(theirs, figure)} (n = {theirs.n})",
                    signed(difference.value, figure, ours.mean),
                    interval_of(difference, figure, ours.mean) if difference.interval else "one seed: no interval",
                )
            )
    if not lines:
        return []
    header = ("row", "figure", "this report", "the other precision", "difference", "95 % interval")
    text = "Rows that were run in both precisions; best figures, mean ± standard deviation over seeds. "
    return [
        Heading(2, names.marked("Precision"), "precision"),
        paragraph(text, _told(differences)),
        table(header, lines, left=(0, 1)),
    ]


def _in_other_precisions(rows: Sequence[RowRuns], runs_dir: Path) -> Iterator[tuple[RowRuns, str, list[Run]]]:
    """Each row with the complete runs of its settings in another precision, one a seed."""
    elsewhere: dict[tuple, list[Run]] = {}
    for folder in sorted({run.path.parent.name for row in rows for run in row.complete}):
        for run in complete_runs(runs_dir / folder):
            elsewhere.setdefault(_signature(run, "seed", "precision"), []).append(run)
    for row in rows:
        of_row = elsewhere.get(_signature(row.complete[0], "seed", "precision"), []) if row.complete else []
        precisions = {str(run.config["flags"].get("precision")) for run in of_row}
        for precision in sorted(precisions - {str(setting(row, "precision"))}):
            yield row, precision, _one_a_seed(run for run in of_row if run.config["flags"]["precision"] == precision)


def _told(differences: Sequence[tuple[str, Estimate]]) -> str:
    """How many of the differences, each with what it is of, are more than chance."""
    judged = [each for _, each in differences if each.interval]
    if not judged:
        return "With a single seed nothing can be said about the spread."
    paired = all(each.paired for each in judged)
    contains = f"the 95 % interval {'of the differences seed by seed' if paired else 'of the difference'} contains 0"
    differ = [name for name, each in differences if each.sign]
    if not differ:
        count = counted(len(judged), "difference")
        told = f"None of the {count} of means can be told from chance: {contains}"
        return f"{told}. A true one as large as an end of its interval is not excluded."
    return (
        f"{len(judged) - len(differ)} of {counted(len(judged), 'difference')} cannot be told from chance "
        f"({contains}); not so {listed(differ)}."
    )


def _one_a_seed(runs: Iterable[Run]) -> list[Run]:
    first: dict[int, Run] = {}
    for run in runs:
        first.setdefault(run.seed, run)
    return [run for _, run in sorted(first.items())]


# -- settings that the original does not name --------------------------------------------------------------------------


def settings_tried(rows: Sequence[RowRuns], runs_dir: Path, names: Names) -> list[Block]:
    """Complete runs that have a row's printed settings and differ in one that the original does not name.

    A line each, below what is printed and what the row gives. Nothing if there are none.
    """
    folders = {run.path.parent.name for row in rows for run in row.complete}
    own = {_signature(run, "seed", "precision") for row in rows for run in row.complete}
    others = [
        run
        for folder in sorted(folders)
        for run in complete_runs(runs_dir / folder)
        if _signature(run, "seed", "precision") not in own
    ]
    lines: list[tuple] = []
    for row in rows:
        variants = _variants(row.complete[0], others) if row.complete and row.row.printed else {}
        if variants:
            link = Link(row.row.name, f"#{names.slug(row)}")
            printed = [described("", row.row.printed[each]) if each in row.row.printed else "–" for each in METRICS]
            lines.append((link, "the original", "1", *printed))
            lines.append((link, "this report", *_figures(row.complete)))
            lines += [(link, what, *_figures(_one_a_seed(runs))) for what, runs in sorted(variants.items())]
    if not lines:
        return []
    return [
        paragraph("Of the settings that the original does not name, these were changed in runs that are kept:"),
        table(("row", "setting", "runs", *(FIGURE_NAMES[figure] for figure in METRICS)), lines, left=(0, 1)),
    ]


def _variants(base: Run, others: Sequence[Run]) -> dict[str, list[Run]]:
    """Of the other runs those that differ from `base` in unnamed settings alone, by what is different: `rgb`."""
    variants: dict[str, list[Run]] = {}
    for run in others:
        if _signature(run, *_UNNAMED) == _signature(base, *_UNNAMED):
            flags, before = run.config["flags"], base.config["flags"]
            changed = [flag for flag in _UNNAMED if flag != "seed" and str(flags.get(flag)) != str(before.get(flag))]
            variants.setdefault(", ".join(short_setting(flag, flags.get(flag)) for flag in changed), []).append(run)
    return variants


def _figures(runs: Sequence[Run]) -> list[str]:
    """How many runs there are, and the mean ± standard deviation of each best figure."""
    return [str(len(runs)), *(spread(sample(runs, lambda run, each=each: best(run, each)), each) for each in METRICS)]
