"""The report's figures as SVG, one file for light and dark ground, the same bytes for the same numbers.

Matplotlib draws for a light ground; a style sheet put into the file replaces each colour by its twin where the reader's
system is dark. That works in an <img> of a README as in a page, and every other viewer sees the light picture.
"""

import io
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.pictures import PLAIN
from harness.report.svg import smaller

INK, FAINT, GRID, GROUND = "#1b1f24", "#59636e", "#d9dfe5", "#ffffff"
TRAIN, TEST, THIRD, FOURTH = "#3a62c9", "#d95319", "#00875a", "#8a4fbf"
SERIES = (TEST, TRAIN, THIRD, FOURTH, "#a87b00", "#59636e")  # distinct to the colour-blind; line styles help
_DARK = {
    INK: "#e6edf3",
    FAINT: "#9198a1",
    GRID: "#2f353d",
    GROUND: "#0d1117",
    TRAIN: "#7d9cf0",
    TEST: "#ff8c5a",
    THIRD: "#3fc08f",
    FOURTH: "#c297ef",
    "#a87b00": "#dcb13c",
}
_STYLES = ("-", "--", "-.", ":")
_MARKERS = "os^Dv*"
DPI = 72  # points are pixels in SVG

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": GROUND,
    "figure.facecolor": GROUND,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.size": 0.0,  # the grid lines are enough
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}
in_style = matplotlib.rc_context(PLAIN | STYLE)  # decorates what draws


@dataclass(frozen=True)
class Curve:
    """A quantity over epochs (from 1), a list a run; several runs become their mean and a band of ± 1 sd."""

    label: str
    colour: str
    runs: tuple[tuple[float, ...], ...]
    style: str = "-"
    reference: float | None = None  # a dotted line: the figure that the original printed


@dataclass(frozen=True)
class Panel:
    """Curves in one pair of axes. `log`: "loss" for a logarithmic axis, "accuracy" for one in the share of errors."""

    title: str
    curves: tuple[Curve, ...]
    ylabel: str = ""
    log: str = ""


@dataclass(frozen=True)
class Dots:
    """A line of a dot chart: `values` as dots, `mean` as a tick, `interval` as a bar, `reference` as a diamond."""

    label: str
    values: tuple[float, ...]
    mean: float | None = None
    interval: tuple[float, float] | None = None
    reference: float | None = None
    colour: str = TRAIN
    strong: bool = False


@dataclass(frozen=True)
class DotPanel:
    """`scale`: "accuracy" (logarithmic in the share of errors), "loss" or "drop" (logarithmic; 0 has a place) or ""."""

    title: str
    lines: tuple[Dots, ...]
    xlabel: str
    scale: str = ""
    names: dict[str, str] = field(default_factory=dict)  # what dots, bar and diamond are, for the legend


@in_style
def curve_chart(title: str, panels: Sequence[Panel]) -> bytes:
    """Panels side by side, with one legend above them."""
    figure = Figure(figsize=(8.6, 3.1), dpi=DPI)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    figure.subplots_adjust(left=0.07, right=0.985, top=0.8, bottom=0.15, wspace=0.2)
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, panel)
        axes.set_xlabel("epoch")
    figure.text(0.01, 0.95, _cut(title, 92), fontsize=9.5, weight="bold", va="center")
    _legend(figure, [curve for panel in panels for curve in panel.curves])
    return svg(figure)


@in_style
def small_multiples(title: str, rows: Sequence[str], columns: Sequence[str], panels: dict) -> bytes:
    """A grid of panels with the same axes; `panels` maps (row, column) to a Panel, and a place may be empty."""
    width, height = max(8.6, 1.05 + 1.9 * len(columns)), 1.2 + 1.65 * len(rows)
    figure = Figure(figsize=(width, height), dpi=DPI)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=0.95 / width,
        right=1 - 0.12 / width,
        top=1 - 0.8 / height,
        bottom=0.45 / height,
        wspace=0.07,
        hspace=0.1,
    )
    some = next(iter(panels.values()))
    for i, row in enumerate(rows):
        for j, name in enumerate(columns):
            axes, panel = grid[i, j], panels.get((row, name))
            if panel is None:
                axes.text(0.5, 0.5, "not in the grid", transform=axes.transAxes, ha="center", color=FAINT)
            elif not any(curve.runs for curve in panel.curves):
                axes.text(0.5, 0.5, "no run yet", transform=axes.transAxes, ha="center", color=FAINT)
            else:
                _draw_panel(axes, Panel("", panel.curves, "", panel.log))
            if i == 0:
                axes.set_title(_cut(name, 30), fontsize=9)
            if j == 0:
                axes.set_ylabel(f"{_cut(row, 20)}\n{some.ylabel}")
            if i == len(rows) - 1:
                axes.set_xlabel("epoch")
    _same_range(grid.ravel(), list(panels.values()), some.log)
    figure.text(0.08 / width, 1 - 0.17 / height, _cut(title, 110), fontsize=9.5, weight="bold", va="center")
    _legend(figure, [curve for panel in panels.values() for curve in panel.curves], y=1 - 0.4 / height)
    return svg(figure)


@in_style
def dot_chart(title: str, panels: Sequence[DotPanel]) -> bytes:
    """Panels below one another, a line of dots for each of their lines."""
    counts = [len(panel.lines) for panel in panels]
    height = 0.65 + sum(0.85 + 0.23 * count for count in counts)
    figure = Figure(figsize=(8.6, height), dpi=DPI)
    longest = max(len(_cut(line.label, 44)) for panel in panels for line in panel.lines)
    left, top = min(0.42, 0.03 + 0.0098 * longest), height - 0.6
    figure.text(0.01, 1 - 0.17 / height, _cut(title, 92), fontsize=9.5, weight="bold", va="center")
    for panel, count in zip(panels, counts, strict=True):
        tall = 0.23 * count + 0.05
        axes = figure.add_axes((left, (top - 0.25 - tall) / height, 0.98 - left, tall / height))
        _draw_dots(axes, panel)
        top -= 0.85 + 0.23 * count
    names = panels[0].names
    handles = []
    if "values" in names:
        handles.append(Line2D([], [], color=TRAIN, marker="o", ls="", ms=4, label=names["values"]))
    if "mean" in names:
        handles.append(Line2D([], [], color=INK, marker="|", ls="", ms=9, mew=1.6, label=names["mean"]))
    if "interval" in names:
        colour = next((line.colour for panel in panels for line in panel.lines if line.interval), TRAIN)
        handles.append(Line2D([], [], color=colour, lw=5, alpha=0.3, label=names["interval"]))
    if "reference" in names:
        handles.append(_diamond(names["reference"]))
    anchor = (0.985, 1 - 0.32 / height)
    figure.legend(handles=handles, loc="center right", bbox_to_anchor=anchor, ncols=4, fontsize=8.5)
    return svg(figure)


@in_style
def lines_chart(title: str, xlabel: str, ylabel: str, lines: Sequence[tuple[str, Sequence, Sequence]]) -> bytes:
    """Lines (label, x, y), each named at its end, y from 0 to 1."""
    figure = Figure(figsize=(8.6, 4.0), dpi=DPI)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.08, right=0.8, top=0.88, bottom=0.13)
    for index, (_, x, y) in enumerate(lines):
        look = {"color": SERIES[index % len(SERIES)], "ls": _STYLES[index % 4], "marker": _MARKERS[index % 6]}
        axes.plot(x, y, ms=3.5, **look)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.02))
    ends = spread_out([line[2][-1] for line in lines], 0.055)
    for index, ((label, x, y), place) in enumerate(zip(lines, ends, strict=True)):
        axes.annotate(
            _cut(label, 26),
            (x[-1], y[-1]),
            (1.03, place),
            textcoords=("axes fraction", "data"),
            color=SERIES[index % len(SERIES)],
            va="center",
            arrowprops={"arrowstyle": "-", "color": SERIES[index % len(SERIES)], "lw": 0.6},
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.text(0.01, 0.95, _cut(title, 92), fontsize=9.5, weight="bold", va="center")
    return svg(figure)


# -- parts of a figure -------------------------------------------------------------------------------------------------


def mean_and_sd(runs: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and sample standard deviation at each epoch that all runs have; the deviation is 0 for one run."""
    epochs = list(zip(*runs, strict=False))
    means = [math.fsum(values) / len(values) for values in epochs]
    if len(runs) < 2:
        return means, [0.0] * len(means)
    return means, [
        math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        for values, mean in zip(epochs, means, strict=True)
    ]


def _draw_panel(axes: Axes, panel: Panel) -> None:
    several = False  # epochs
    for curve in panel.curves:
        if not curve.runs or not curve.runs[0]:
            continue
        means, deviations = mean_and_sd(curve.runs)
        epochs = range(1, len(means) + 1)
        several |= len(means) > 1
        marker = {"marker": ".", "ms": 5} if len(means) <= 25 else {}
        axes.plot(epochs, [_on_scale(mean, panel.log) for mean in means], color=curve.colour, ls=curve.style, **marker)
        if len(curve.runs) > 1:
            low, high = (
                [_on_scale(mean + sign * sd, panel.log) for mean, sd in zip(means, deviations, strict=True)]
                for sign in (-1, 1)
            )
            axes.fill_between(epochs, low, high, color=curve.colour, alpha=0.2, lw=0)
        if curve.reference is not None:
            axes.axhline(_on_scale(curve.reference, panel.log), color=curve.colour, ls=(0, (2, 2)), lw=0.9)
    axes.set_title(panel.title, fontsize=9)
    axes.set_ylabel(panel.ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8) if several else FixedLocator([1]))
    if panel.log:
        values = [value for curve in panel.curves for run in curve.runs for value in run]
        _scale(axes, panel.log, values)


_ERRORS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001)
_SMALLEST = 1e-4  # share of errors or drop of accuracy: one image of ten thousand


def _on_scale(value: float, log: str) -> float:
    """Where a value stands on its axis: accuracy as minus the logarithm of its share of errors, loss as its own."""
    if log == "accuracy":
        return -math.log10(min(1.0, max(1 - value, _SMALLEST))) if math.isfinite(value) else math.nan
    if log in ("loss", "drop"):
        return math.log10(max(value, _SMALLEST)) if math.isfinite(value) else math.nan
    return value


def _scale(axes: Axes, log: str, values: Sequence[float], *, horizontal: bool = False) -> None:
    """Ticks that name accuracies, losses or drops on an axis that holds their logarithms."""
    if log == "accuracy":
        ticks = [1 - error for error in _ERRORS]
    else:
        ticks = [factor * 10.0**power for power in range(-4, 39) for factor in (1, 2, 5)]
    shown = [_on_scale(value, log) for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(shown), max(shown)
    margin = max(0.06 * (high - low), 0.03)
    low, high = low - margin, high + margin
    places = [(place, tick) for tick in ticks if low <= (place := _on_scale(tick, log)) <= high]
    room, kept = (high - low) / (12 if horizontal else 9), []
    for place, tick in sorted(places, reverse=log == "accuracy"):  # from the end where the good ones are
        if not kept or abs(place - kept[-1][0]) >= room:
            kept.append((place, tick))
    if len(kept) < 2:  # the values lie closer together than those ticks
        ends = [1 - 10**-end if log == "accuracy" else 10**end for end in (low, high)]
        inner = [tick for tick in MaxNLocator(4).tick_values(*ends) if low <= _on_scale(tick, log) <= high]
        kept = [(_on_scale(tick, log), tick) for tick in inner]
    places = kept
    axis = axes.xaxis if horizontal else axes.yaxis
    axis.set_major_locator(FixedLocator([place for place, _ in places]))
    names = {round(place, 9): f"{tick:,.10g}" if tick < 1e7 else f"{tick:.0e}" for place, tick in places}
    if log == "drop":
        names[round(math.log10(_SMALLEST), 9)] = "≤ 0.0001"
    axis.set_major_formatter(FuncFormatter(lambda value, _: names.get(round(value, 9), "")))
    axis.set_minor_locator(NullLocator())
    (axes.set_xlim if horizontal else axes.set_ylim)(low, high)


def _same_range(grid: Sequence[Axes], panels: Sequence[Panel], log: str) -> None:
    values = [value for panel in panels for curve in panel.curves for run in curve.runs for value in run]
    if log:
        for axes in grid:
            _scale(axes, log, values)


def _draw_dots(axes: Axes, panel: DotPanel) -> None:
    everything = []
    for place, line in enumerate(panel.lines):
        everything += [*line.values, *([line.reference] if line.reference is not None else [])]
        if line.interval:
            low, high = (_on_scale(value, panel.scale) for value in line.interval)
            axes.plot([low, high], [place] * 2, color=line.colour, lw=6, alpha=0.3, solid_capstyle="butt")
        shown = [_on_scale(value, panel.scale) for value in line.values]
        axes.plot(shown, [place] * len(shown), color=line.colour, marker="o", ls="", ms=3.6)
        if line.mean is not None:
            axes.plot([_on_scale(line.mean, panel.scale)], [place], color=INK, marker="|", ls="", ms=9, mew=1.6)
            everything.append(line.mean)
        if line.reference is not None:
            mark = _diamond("")
            mark.set_data([_on_scale(line.reference, panel.scale)], [place])
            axes.add_line(mark)
        if not line.values and line.mean is None and line.reference is None and line.interval is None:
            axes.text(0.01, place, "no complete run", transform=axes.get_yaxis_transform(), va="center", color=FAINT)
    labels = [_cut(line.label, 44) for line in panel.lines]
    axes.set_yticks(range(len(labels)), labels)
    for label, line in zip(axes.get_yticklabels(), panel.lines, strict=True):
        label.set_weight("bold" if line.strong else "normal")
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel(panel.xlabel)
    if panel.scale:
        _scale(axes, panel.scale, everything, horizontal=True)


def _diamond(label: str) -> Line2D:
    return Line2D([], [], color=TEST, marker="D", ls="", ms=5, mfc="none", mew=1.4, label=label)


def _legend(figure: Figure, curves: Sequence[Curve], y: float = 0.865) -> None:
    handles, seen = [], set()
    for curve in curves:
        if curve.label not in seen and curve.runs:
            seen.add(curve.label)
            handles.append(Line2D([], [], color=curve.colour, ls=curve.style, label=_cut(curve.label, 40)))
    if any(curve.reference is not None for curve in curves):
        handles.append(Line2D([], [], color=FAINT, ls=(0, (2, 2)), lw=0.9, label="the original's best"))
    if any(len(curve.runs) > 1 for curve in curves):
        handles.append(Line2D([], [], color=FAINT, lw=6, alpha=0.3, label="± 1 sd over seeds"))
    if handles:
        inches = sum(0.5 + 0.075 * len(handle.get_label()) for handle in handles)
        figure.legend(
            handles=handles,
            loc="center right",
            bbox_to_anchor=(0.99, y),
            ncols=len(handles) if inches < 0.97 * figure.get_figwidth() else math.ceil(len(handles) / 2),
            fontsize=8.5,
            handlelength=2,
        )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved so that none is nearer to another than `gap`, in the same order and around the same middle."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for _ in range(200):
        for lower, upper in itertools.pairwise(order):
            short = gap - (moved[upper] - moved[lower])
            if short > 1e-9:
                moved[lower] -= short / 2
                moved[upper] += short / 2
    return moved


def _cut(text: str, length: int) -> str:
    """One line of at most this many characters that a font has a picture for."""
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def svg(figure: Figure) -> bytes:
    """The figure as a small SVG, the same bytes for the same figure, whose colours follow a dark page."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a row may be called "$^$"
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the viewer's font will have it
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return smaller(buffer.getvalue(), _DARK)
