"""Measure how this project's training loop scales; writes a table, the raw numbers and a figure.

    python benchmarks/scaling.py --rounds 3

It answers four questions: how an epoch's time grows with the batch size, with the hidden size and with the threads, and
how many epochs a minute several runs side by side come to. The networks and the loop are those of common.py. A point
with several runs is measured by as many processes: all start at once and do the same number of steps, and the end of
the last one counts. The rounds are interleaved: each measures every point once.
Needs the real image sets and an otherwise idle machine; takes some five minutes on two cores.
"""

import argparse
import csv
import functools
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from common import (
    BATCH_SIZE,
    NETWORKS,
    PROJECT,
    Network,
    Worker,
    answer,
    argument_parser,
    count_of,
    machine,
    our_loop,
    table,
    time_of,
    workers,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from harness.cli import run_script
from harness.data import load_images
from harness.files import make_folder, write_atomically
from harness.report import charts

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024)
HIDDEN_SIZES = (32, 64, 128, 256, 512)
RUNS = (1, 2, 4)  # side by side
WARM_UP_STEPS = 3

COLORS = dict(zip(("cnn", "gru", "lstm", "rnn"), charts.SERIES, strict=False))
STYLES = {"fp32": "-", "bf16": "--"}
# Of the panels in the figure: left, bottom, width, height.
PLACES = ((0.07, 0.58, 0.33, 0.32), (0.575, 0.58, 0.34, 0.32), (0.07, 0.08, 0.33, 0.32), (0.68, 0.08, 0.3, 0.32))


@dataclass(frozen=True)
class Point:
    """What is measured: `runs` processes that train the same network at once, each with `threads` threads."""

    network: str  # of common.NETWORKS
    precision: str
    threads: int
    runs: int = 1
    batch_size: int = BATCH_SIZE
    hidden_size: int = 128  # the CNN has none

    def description(self) -> Network:
        network = NETWORKS[self.network]
        if self.network == "cnn":
            return network
        return replace(network, model=network.model | {"hidden_size": self.hidden_size})

    def epochs_a_minute(self, seconds: float) -> float:
        """Of all runs together, if an epoch of each takes this long."""
        return self.runs * 60 / seconds


Seconds = dict[Point, list[float]]  # for one epoch's training pass, extrapolated; one number a round


@dataclass(frozen=True)
class Panel:
    """A question: its lines by their labels, each a Point for every value of x (numbers, or words for bars)."""

    title: str
    xlabel: str
    lines: dict[str, dict[int | str, Point]]
    in_epochs: bool = False  # in epochs a minute instead of seconds an epoch


def panels(cores: int) -> list[Panel]:
    """All that is measured on a machine with so many cores. A Point may stand in several panels."""
    threads = sorted({cores, *(2**power for power in range(cores.bit_length()))})
    sides = [(runs, 1) for runs in RUNS] + [(1, cores), (2, cores)]
    report = {"CNN, bf16": ("cnn", "bf16"), "GRU, fp32": ("gru", "fp32")}  # as the report trains them
    networks = {"CNN, fp32": ("cnn", "fp32")} | report | {"LSTM, fp32": ("lstm", "fp32"), "RNN, fp32": ("rnn", "fp32")}
    both = {f"{name.upper()}, {precision}": (name, precision) for name in ("cnn", "gru") for precision in STYLES}
    return [
        Panel(
            "Batch size",
            f"images a step; {count_of(cores, 'thread')}",
            {
                label: {size: Point(*which, cores, batch_size=size) for size in BATCH_SIZES}
                for label, which in both.items()
            },
        ),
        Panel(
            "Hidden size",
            f"hidden units; batch {BATCH_SIZE}, fp32, {count_of(cores, 'thread')}",
            {
                cell.upper(): {size: Point(cell, "fp32", cores, hidden_size=size) for size in HIDDEN_SIZES}
                for cell in ("lstm", "gru", "rnn")
            },
        ),
        Panel(
            "Threads",
            f"threads; batch {BATCH_SIZE}, 128 hidden units",
            {label: {count: Point(*which, count) for count in threads} for label, which in networks.items()},
        ),
        Panel(
            "Runs side by side",
            "epochs a minute, all together",
            {
                label: {_side(runs, count): Point(*which, count, runs=runs) for runs, count in sides}
                for label, which in report.items()
            },
            in_epochs=True,
        ),
    ]


def _side(runs: int, threads: int) -> str:
    return f"{count_of(runs, 'run')}, {count_of(threads, 'thread')}{' each' * (runs != 1)}"


def _points(questions: Iterable[Panel]) -> list[Point]:
    """The points of all panels, each once, in the panels' order."""
    return list(dict.fromkeys(point for panel in questions for line in panel.lines.values() for point in line.values()))


def main() -> int:
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments.serve, arguments.data_dir)
        return 0
    make_folder(arguments.out)
    seconds = measure(_points(panels(os.cpu_count() or 1)), arguments)
    write_csv(arguments.out / "scaling.csv", seconds)
    write_atomically(arguments.out / "scaling.md", page(arguments, seconds).encode())
    write_atomically(arguments.out / "scaling.svg", draw(seconds))
    print(f"written to {arguments.out}: scaling.*")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each point is measured")
    parser.add_argument("--seconds", type=float, default=1.5, help="that measuring a point once takes, about")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks", help="folder of scaling.md, .csv and .svg")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not 0 < arguments.seconds < math.inf:
        parser.error("--rounds is at least 1, --seconds above 0")
    return arguments


# -- measuring ---------------------------------------------------------------------------------------------------------


def serve(threads: int, data_dir: Path) -> None:
    """In a process of its own: train for each line on standard input, which holds a Point and a number of steps."""
    import torch

    torch.set_num_threads(threads)
    images = {name: load_images(name, data_dir=data_dir) for name in ("cifar10", "mnist")}

    @functools.cache
    def trainer(point: Point) -> Callable[[int], None]:
        network = point.description()
        return our_loop(network, images[network.images], point.precision, point.batch_size).train

    def train(line: str) -> str:
        point, steps = json.loads(line)
        trainer(Point(**point))(steps)
        return "done"

    answer(train)


def measure(points: list[Point], arguments: argparse.Namespace) -> Seconds:
    """Start the processes, find out how many steps of each point take `--seconds`, then time them, round by round."""
    # Loaded here and first, so that files that are missing are reported once, not by every process.
    images = {name: len(load_images(name, data_dir=arguments.data_dir).train) for name in ("cifar10", "mnist")}
    seconds: Seconds = {point: [] for point in points}
    runs = {point.threads: 0 for point in points}  # the most at once with so many threads
    for point in points:
        runs[point.threads] = max(runs[point.threads], point.runs)
    commands = {
        (threads, number): [sys.executable, __file__, "--serve", threads, f"--data-dir={arguments.data_dir}"]
        for threads, count in runs.items()
        for number in range(count)
    }
    with workers(commands) as started:

        def seconds_of(point: Point, steps: int) -> float:
            return train_at_once([started[point.threads, number] for number in range(point.runs)], point, steps)

        steps = {}
        for point in points:
            seconds_of(point, WARM_UP_STEPS)
            one_step = seconds_of(point, WARM_UP_STEPS) / WARM_UP_STEPS
            whole_batches = images[NETWORKS[point.network].images] // point.batch_size
            steps[point] = min(max(1, round(arguments.seconds / one_step)), whole_batches)
        for number in range(1, arguments.rounds + 1):
            for point in points:
                steps_an_epoch = math.ceil(images[NETWORKS[point.network].images] / point.batch_size)
                taken = seconds_of(point, steps[point])
                seconds[point].append(round(taken * steps_an_epoch / steps[point], 3))
                print(f"round {number}/{arguments.rounds}  {seconds[point][-1]:8.2f} s an epoch  {point}", flush=True)
    return seconds


def train_at_once(chosen: list[Worker], point: Point, steps: int) -> float:
    """Seconds that the processes take for so many steps each, from the start of all to the end of the last."""
    order = json.dumps([asdict(point), steps])

    def train() -> None:
        for worker in chosen:
            worker.send(order)
        for worker in chosen:
            worker.receive()

    return time_of(train)


# -- the files ---------------------------------------------------------------------------------------------------------


def write_csv(path: Path, seconds: Seconds) -> None:
    """One line for each point and round; `seconds` is for an epoch of each run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Point)), "round", "seconds"])
    for point, values in seconds.items():
        for number, value in enumerate(values, start=1):
            writer.writerow([*asdict(point).values(), number, value])
    write_atomically(path, text.getvalue().encode())


def _cores(seconds: Seconds) -> int:
    return max(point.threads for point in seconds)


def page(arguments: argparse.Namespace, seconds: Seconds) -> str:
    """The Markdown page: the machine, then a table for each panel."""
    lines = [
        "# How the training loop scales",
        "",
        f"Written by `benchmarks/scaling.py --rounds {arguments.rounds} --seconds {arguments.seconds:g}`, which says "
        "what is measured; every number is in [scaling.csv](scaling.csv).",
        "",
        *machine(),
        "",
        f"Seconds are for the training pass of one epoch, **extrapolated** from about {arguments.seconds:g} s of it "
        f"(whole batches): the median of {arguments.rounds} interleaved rounds (smallest to largest). Epochs a minute "
        "are of all runs together.",
        "",
        "![Four panels: an epoch's seconds over batch size, hidden size and threads; epochs a minute of several runs]"
        "(scaling.svg)",
    ]
    for panel in panels(_cores(seconds)):
        lines += ["", f"## {panel.title}", "", *_panel_table(panel, seconds)]
    return "\n".join(lines) + "\n"


def _panel_table(panel: Panel, seconds: Seconds) -> list[str]:
    caption = panel.xlabel if panel.in_epochs else f"seconds an epoch over {panel.xlabel}"
    rows = []
    for x in next(iter(panel.lines.values())):
        spreads = [map(_short, _spread(panel, line[x], seconds)) for line in panel.lines.values()]
        rows.append([x, *(f"{median} ({low} to {high})" for low, median, high in spreads)])
    return [f"{caption[0].upper()}{caption[1:]}.", "", *table(["", *panel.lines], rows)]


def _spread(panel: Panel, point: Point, seconds: Seconds) -> tuple[float, float, float]:
    """The smallest, the median and the largest over the rounds, in the panel's unit."""
    values = [point.epochs_a_minute(each) if panel.in_epochs else each for each in seconds[point]]
    return min(values), statistics.median(values), max(values)


def _short(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# -- the figure --------------------------------------------------------------------------------------------------------


@charts.in_style
def draw(seconds: Seconds) -> bytes:
    """The panels as SVG in the report's style, light and dark. Vertical bars go from the smallest to the largest."""
    cores = _cores(seconds)
    figure = Figure(figsize=(8.6, 6.2))
    figure.text(0.01, 0.965, f"An epoch's training pass on {count_of(cores, 'core')}", fontsize=9.5, weight="bold")
    for place, panel in zip(PLACES, panels(cores), strict=True):
        axes = figure.add_axes(place)
        (_draw_bars if panel.in_epochs else _draw_lines)(axes, panel, seconds)
        axes.set_title(panel.title, fontsize=9, weight="bold")
        axes.set_xlabel(panel.xlabel)
    return charts.svg(figure)


def _look(line: dict[int | str, Point]) -> tuple[str, str]:
    """Color and precision of a line's points."""
    point = next(iter(line.values()))
    return COLORS[point.network], point.precision


def _draw_lines(axes: Axes, panel: Panel, seconds: Seconds) -> None:
    ends = {}
    for label, line in panel.lines.items():
        color, precision = _look(line)
        lows, medians, highs = zip(*(_spread(panel, point, seconds) for point in line.values()), strict=True)
        axes.vlines(list(line), lows, highs, color=color, lw=4, alpha=0.35)
        axes.plot(list(line), medians, color=color, ls=STYLES[precision], marker="o", ms=3.5)
        ends[label] = (color, medians[-1])
    axes.set(xscale="log", yscale="log", ylabel="seconds an epoch")
    axes.xaxis.set(major_locator=FixedLocator(list(line)), minor_locator=NullLocator())
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: dict[str, tuple[str, float]]) -> None:
    """Each line's label to the right of its end, moved up or down where two would touch."""
    low, high = axes.get_ylim()
    heights = [math.log(y / low) / math.log(high / low) for _, y in ends.values()]
    for (label, (color, _)), height, place in zip(
        ends.items(), heights, charts.spread_out(heights, 0.085), strict=True
    ):
        axes.annotate(
            label,
            (0.96, height),
            (1.02, place),
            xycoords="axes fraction",
            color=color,
            va="center",
            annotation_clip=False,
        )


def _draw_bars(axes: Axes, panel: Panel, seconds: Seconds) -> None:
    thick = 0.8 / len(panel.lines)
    for number, (label, line) in enumerate(panel.lines.items()):
        color, _ = _look(line)
        lows, medians, highs = zip(*(_spread(panel, point, seconds) for point in line.values()), strict=True)
        places = [place + (number - (len(panel.lines) - 1) / 2) * thick for place in range(len(line))]
        axes.barh(places, medians, height=0.9 * thick, color=color, alpha=0.8)
        axes.hlines(places, lows, highs, color=charts.INK, lw=1)
        for place, median, high in zip(places, medians, highs, strict=True):
            name = f"  {label}" if place == places[0] else ""
            axes.annotate(
                f"{_short(median)}{name}", (high, place), (3, 0), textcoords="offset points", va="center", color=color
            )
    axes.set_yticks(range(len(line)), list(line))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])  # room for the longest bar's number


if __name__ == "__main__":
    sys.exit(run_script(main))
