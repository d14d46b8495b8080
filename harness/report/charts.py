"""The report's charts as SVG, one file for light and dark ground, the same bytes for the same numbers.

Matplotlib draws for a light ground; a style sheet put into the file replaces each color by its twin where the reader's
system is dark. That works in an <img> of a README as in a page, and every other viewer sees the light picture.
`figures` says which numbers go into which chart.
"""

import io
import itertools
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.pictures import PLAIN

INK, FAINT, GRID, GROUND = "#1b1f24", "#59636e", "#d9dfe5", "#ffffff"
TRAIN, TEST, THIRD, FOURTH, FIFTH = "#3a62c9", "#d95319", "#00875a", "#8a4fbf", "#a87b00"
SERIES = (TEST, TRAIN, THIRD, FOURTH, FIFTH, FAINT)  # distinct to the color-blind; line styles help
DARK = {
    INK: "#e6edf3",
    FAINT: "#9198a1",
    GRID: "#2f353d",
    GROUND: "#0d1117",
    TRAIN: "#7d9cf0",
    TEST: "#ff8c5a",
    THIRD: "#3fc08f",
    FOURTH: "#c297ef",
    FIFTH: "#dcb13c",
}
_LINE_STYLES, _MARKERS = ("-", "--", "-.", ":"), "os^Dv*"
WIDTH = 8.6  # inches
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
    "axes.titlesize": 9.0,
    "xtick.major.size": 0.0,  # the grid lines are enough
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
in_style = matplotlib.rc_context(PLAIN | STYLE)  # decorates what draws


@dataclass(frozen=True)
class Curve:
    """A metric over epochs (from 1), a list a run; several runs become their mean and a band of ± 1 sd."""

    label: str
    color: str
    runs: tuple[tuple[float, ...], ...]
    style: str = "-"
    reference: float | None = None  # a dotted line: what the original printed


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
    color: str = TRAIN
    strong: bool = False


@dataclass(frozen=True)
class DotPanel:
    """`scale`: "accuracy" (logarithmic in the share of errors), "loss" or "drop" (logarithmic; 0 has a place) or ""."""

    title: str
    lines: tuple[Dots, ...]
    xlabel: str
    scale: str = ""
    names: dict[str, str] = field(default_factory=dict)  # what dots, bar and diamond are, for the legend


# -- whole charts ------------------------------------------------------------------------------------------------------


@in_style
def curve_chart(title: str, panels: Sequence[Panel]) -> bytes:
    """Panels side by side, with one legend above them."""
    figure = Figure(figsize=(WIDTH, 3.1), dpi=DPI)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    figure.subplots_adjust(left=0.07, right=0.985, top=0.8, bottom=0.15, wspace=0.2)
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, panel)
        axes.set_xlabel("epoch")
    _title(figure, title)
    _curve_legend(figure, [curve for panel in panels for curve in panel.curves], y=0.865)
    return svg(figure)


@in_style
def small_multiples(title: str, rows: Sequence[str], columns: Sequence[str], panels: dict) -> bytes:
    """A grid of panels with the same axes; `panels` maps (row, column) to a Panel, and a place may be empty."""
    width, height = max(WIDTH, 1.05 + 1.9 * len(columns)), 1.2 + 1.65 * len(rows)
    figure = Figure(figsize=(width, height), dpi=DPI)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    left, right, top, bottom = 0.95 / width, 1 - 0.12 / width, 1 - 0.8 / height, 0.45 / height
    figure.subplots_adjust(left=left, right=right, top=top, bottom=bottom, wspace=0.07, hspace=0.1)
    some = next(iter(panels.values()))
    for (row, name), axes in zip(itertools.product(rows, columns), grid.ravel(), strict=True):
        panel = panels.get((row, name))
        if panel and any(curve.runs for curve in panel.curves):
            _draw_panel(axes, Panel("", panel.curves, "", panel.log), most_points=3)
        else:
            text = "no run yet" if panel else "not in the grid"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(_cut(name, 30))
    for axes, row in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(f"{_cut(row, 20)}\n{some.ylabel}")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    curves = [curve for panel in panels.values() for curve in panel.curves]
    if some.log:
        for axes in grid.ravel():
            _scale(axes, some.log, [value for curve in curves for run in curve.runs for value in run])
    _title(figure, title, 110)
    _curve_legend(figure, curves, y=1 - 0.4 / height)
    return svg(figure)


@in_style
def dot_chart(title: str, panels: Sequence[DotPanel]) -> bytes:
    """Panels below one another, a line of dots for each of their lines."""
    height = 0.65 + sum(0.85 + 0.23 * len(panel.lines) for panel in panels)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    longest = max(len(_cut(line.label, 44)) for panel in panels for line in panel.lines)
    left, top = min(0.42, 0.03 + 0.0098 * longest), height - 0.6
    for panel in panels:
        tall = 0.23 * len(panel.lines) + 0.05
        axes = figure.add_axes((left, (top - 0.25 - tall) / height, 0.98 - left, tall / height))
        _draw_dots(axes, panel)
        top -= 0.8 + tall
    colors = [line.color for panel in panels for line in panel.lines if line.interval]
    looks = {
        "values": {"color": TRAIN, "marker": "o", "ls": "", "ms": 4},
        "mean": {"color": INK, "marker": "|", "ls": "", "ms": 9, "mew": 1.6},
        "interval": {"color": next(iter(colors), TRAIN), "lw": 5, "alpha": 0.3},
        "reference": _DIAMOND,
    }
    handles = [Line2D([], [], label=label, **looks[what]) for what, label in panels[0].names.items()]
    figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.985, 1 - 0.32 / height), ncols=4)
    _title(figure, title)
    return svg(figure)


@in_style
def lines_chart(title: str, xlabel: str, ylabel: str, lines: Sequence[tuple[str, Sequence, Sequence]]) -> bytes:
    """Lines (label, x, y), each named at its end, y from 0 to 1."""
    figure = Figure(figsize=(WIDTH, 4.0), dpi=DPI)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.08, right=0.8, top=0.88, bottom=0.13)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.02))
    ends = spread_out([y[-1] for _, _, y in lines], 0.055)
    for index, ((label, x, y), place) in enumerate(zip(lines, ends, strict=True)):
        color = SERIES[index % len(SERIES)]
        axes.plot(x, y, ms=3.5, color=color, ls=_LINE_STYLES[index % 4], marker=_MARKERS[index % 6])
        axes.annotate(
            _cut(label, 26),
            (x[-1], y[-1]),
            (1.03, place),
            textcoords=("axes fraction", "data"),
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6},
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _title(figure, title)
    return svg(figure)


# -- parts of a chart --------------------------------------------------------------------------------------------------

_DOTTED = {"ls": (0, (2, 2)), "lw": 0.9}
_DIAMOND = {"color": TEST, "marker": "D", "ls": "", "ms": 5, "mfc": "none", "mew": 1.4}


def _title(figure: Figure, title: str, length: int = 92) -> None:
    width, height = figure.get_size_inches()
    place = 0.086 / width, 1 - 0.16 / height
    figure.text(*place, _cut(title, length), fontsize=9.5, weight="bold", va="center")


def mean_and_sd(runs: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and sample standard deviation at each epoch that all runs have; the deviation is 0 for one run."""
    values = np.array(list(zip(*runs, strict=False)), dtype=float)  # (epochs, runs)
    deviations = values.std(axis=1, ddof=1) if len(runs) > 1 else np.zeros(len(values))
    return values.mean(axis=1).tolist(), deviations.tolist()


def _draw_panel(axes: Axes, panel: Panel, most_points: int = 25) -> None:
    """Curves of more epochs than `most_points` are drawn without points."""
    longest = 0
    for curve in panel.curves:
        if not curve.runs or not curve.runs[0]:
            continue
        means, deviations = map(np.array, mean_and_sd(curve.runs))
        epochs = range(1, len(means) + 1)
        longest = max(longest, len(means))
        marker = {"marker": ".", "ms": 5} if len(means) <= most_points else {}
        axes.plot(epochs, _on_scale(means, panel.log), color=curve.color, ls=curve.style, **marker)
        if len(curve.runs) > 1:
            low, high = (_on_scale(means + sign * deviations, panel.log) for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=curve.color, alpha=0.2, lw=0)
        if curve.reference is not None:
            axes.axhline(_on_scale(curve.reference, panel.log), color=curve.color, **_DOTTED)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8) if longest > 1 else FixedLocator([1]))
    if panel.log:
        _scale(axes, panel.log, [value for curve in panel.curves for run in curve.runs for value in run])


_ERRORS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001)
_SMALLEST = 1e-4  # share of errors or drop of accuracy: one image of ten thousand


def _on_scale(values: float | Sequence[float], log: str) -> np.ndarray:
    """Where values stand on their axis: accuracy as minus the logarithm of its share of errors, loss as its own."""
    values = np.asarray(values, dtype=float)
    values = np.where(np.isfinite(values), values, np.nan)
    if log == "accuracy":
        return -np.log10(np.clip(1 - values, _SMALLEST, 1))
    return np.log10(np.maximum(values, _SMALLEST)) if log else values


def _scale(axes: Axes, log: str, values: Sequence[float], *, horizontal: bool = False) -> None:
    """Ticks that name accuracies, losses or drops on an axis that holds their logarithms."""
    if log == "accuracy":
        ticks = [1 - error for error in _ERRORS]
    else:
        ticks = [factor * 10.0**power for power in range(-4, 39) for factor in (1, 2, 5)]
    shown = [place for place in _on_scale(values, log).tolist() if math.isfinite(place)] or [0.0, 1.0]
    margin = max(0.06 * (max(shown) - min(shown)), 0.03)
    low, high = min(shown) - margin, max(shown) + margin
    places = [(place, tick) for tick in ticks if low <= (place := float(_on_scale(tick, log))) <= high]
    room, kept = (high - low) / (12 if horizontal else 9), []
    for place, tick in sorted(places, reverse=log == "accuracy"):  # from the end where the good ones are
        if not kept or abs(place - kept[-1][0]) >= room:
            kept.append((place, tick))
    if len(kept) < 2:  # the values lie closer together than those ticks
        ends = [1 - 10**-end if log == "accuracy" else 10**end for end in (low, high)]
        inner = [(float(_on_scale(tick, log)), tick) for tick in MaxNLocator(4).tick_values(*ends)]
        kept = [(place, tick) for place, tick in inner if low <= place <= high]
    names = {round(place, 9): f"{tick:,.10g}" if tick < 1e7 else f"{tick:.0e}" for place, tick in kept}
    if log == "drop":
        names[round(math.log10(_SMALLEST), 9)] = "≤ 0.0001"
    axis = axes.xaxis if horizontal else axes.yaxis
    axis.set_major_locator(FixedLocator([place for place, _ in kept]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: names.get(round(value, 9), "")))
    axis.set_minor_locator(NullLocator())
    (axes.set_xlim if horizontal else axes.set_ylim)(low, high)


def _draw_dots(axes: Axes, panel: DotPanel) -> None:
    everything = []
    for place, line in enumerate(panel.lines):
        if line.interval:
            ends = _on_scale(line.interval, panel.scale)
            axes.plot(ends, [place] * 2, color=line.color, lw=6, alpha=0.3, solid_capstyle="butt")
        shown = _on_scale(line.values, panel.scale)
        axes.plot(shown, [place] * len(shown), color=line.color, marker="o", ls="", ms=3.6)
        if line.mean is not None:
            axes.plot([_on_scale(line.mean, panel.scale)], [place], color=INK, marker="|", ls="", ms=9, mew=1.6)
        if line.reference is not None:
            axes.add_line(Line2D([_on_scale(line.reference, panel.scale)], [place], **_DIAMOND))
        here = [*line.values, *(value for value in (line.mean, line.reference) if value is not None)]
        if not here and line.interval is None:
            axes.text(0.01, place, "no complete run", transform=axes.get_yaxis_transform(), va="center", color=FAINT)
        everything += here
    axes.set_yticks(range(len(panel.lines)), [_cut(line.label, 44) for line in panel.lines])
    for label, line in zip(axes.get_yticklabels(), panel.lines, strict=True):
        label.set_weight("bold" if line.strong else "normal")
    axes.set_ylim(len(panel.lines) - 0.4, -0.6)  # the first line is the uppermost
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.xlabel)
    if panel.scale:
        _scale(axes, panel.scale, everything, horizontal=True)


def _curve_legend(figure: Figure, curves: Sequence[Curve], y: float) -> None:
    first = {curve.label: curve for curve in reversed(curves) if curve.runs}
    handles = [
        Line2D([], [], color=curve.color, ls=curve.style, label=_cut(curve.label, 40))
        for curve in curves
        if first.get(curve.label) is curve
    ]
    if any(curve.reference is not None for curve in curves):
        handles.append(Line2D([], [], color=FAINT, label="the original's best", **_DOTTED))
    if any(len(curve.runs) > 1 for curve in curves):
        handles.append(Line2D([], [], color=FAINT, lw=6, alpha=0.3, label="± 1 sd over seeds"))
    inches = sum(0.5 + 0.075 * len(handle.get_label()) for handle in handles)
    columns = len(handles) if inches < 0.97 * figure.get_figwidth() else math.ceil(len(handles) / 2)
    if handles:
        figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.99, y), ncols=columns, handlelength=2)


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


# -- SVG ---------------------------------------------------------------------------------------------------------------


def svg(figure: Figure) -> bytes:
    """The figure as SVG whose colors follow a dark page; the same bytes for the same figure."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a row may be called "$^$"
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the viewer's font will have it
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata)
    drawing = buffer.getvalue().decode()
    # Smaller: two decimals in place of six, one in paths without curves; no names of groups, no turns by nothing, no
    # line breaks; short names of what is referred to.
    drawing = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda part: re.sub(r"(\.\d\d)\d+", r"\1", part[0]), drawing)
    drawing = re.sub(r' d="M[^C"]*"', lambda part: re.sub(r"(\.\d)\d", r"\1", part[0]), drawing)
    drawing = re.sub(r' transform="rotate\(-0 [^"]*"|<g id="\w+"/>|(?<=>)\s+(?=<)|\s*\n', "", drawing)
    drawing = re.sub(r'<g id="\w+">', "<g>", drawing).replace("font-family: 'DejaVu Sans'; ", "")
    names: dict[str, str] = {}
    drawing = re.sub(r'((?:#|id=")[mp])[0-9a-f]{10}', lambda part: part[1] + _name(part[0][-10:], names), drawing)
    # A class for each style, whose rule stands once in the style sheet, and again with its colors for a dark ground.
    styles: dict[str, str] = {}
    drawing = re.sub(r'(<[^>]*) style="([^"]*)"', lambda tag: f'{tag[1]} class="c{_name(tag[2], styles)}"', drawing)
    rules = [f".c{name}{{{style}}}" for style, name in styles.items()]
    twins = [re.sub("|".join(DARK), lambda color: DARK[color[0]], rule) for rule in rules]
    dark = "".join(twin for twin, rule in zip(twins, rules, strict=True) if twin != rule)
    fonts = "text{font-family:'DejaVu Sans',Verdana,sans-serif}"
    # `screen`, because paper is white for everybody.
    sheet = f"{fonts}{''.join(rules)}@media screen and (prefers-color-scheme:dark){{{dark}}}</style>"
    return drawing.replace("</style>", sheet, 1).encode()


def _name(thing: str, names: dict[str, str]) -> str:
    return names.setdefault(thing, str(len(names)))
