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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from harness.pictures import PLAIN

INK, FAINT, GRID, GROUND = "#1b1f24", "#59636e", "#d9dfe5", "#ffffff"
TRAIN, TEST, THIRD, FOURTH, FIFTH = "#3a62c9", "#d95319", "#00875a", "#8a4fbf", "#a87b00"
DARK = {INK: "#e6edf3", FAINT: "#9198a1", GRID: "#2f353d", GROUND: "#0d1117"}
DARK |= {TRAIN: "#7d9cf0", TEST: "#ff8c5a", THIRD: "#3fc08f", FOURTH: "#c297ef", FIFTH: "#dcb13c"}
SERIES = (TEST, TRAIN, THIRD, FOURTH, FIFTH, FAINT)  # distinct to the color-blind; line styles help
_LINE_STYLES, _MARKERS = ("-", "--", "-.", ":"), "os^Dv*"
WIDTH = 8.6  # inches
DPI = 72  # points are pixels in SVG

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a row may be called "$^$"
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": GROUND,
    "figure.facecolor": GROUND,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
for _ticks in ("xtick", "ytick"):  # without marks: the grid lines are enough
    STYLE |= {f"{_ticks}.color": FAINT, f"{_ticks}.labelcolor": INK, f"{_ticks}.major.size": 0.0}
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
    """Lines of dots above one axis; for `scale` see `_on_scale`."""

    title: str
    lines: Sequence[Dots]
    xlabel: str
    scale: str = ""


# -- whole charts ------------------------------------------------------------------------------------------------------


@in_style
def curve_chart(title: str, panels: Mapping[str, Sequence[Curve]]) -> bytes:
    """Panels side by side, by what is on their y axes, with one legend above them."""
    figure = _titled(title, 3.1)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    figure.subplots_adjust(left=0.07, right=0.985, top=0.8, bottom=0.15, wspace=0.2)
    for axes, (ylabel, curves) in zip(grid, panels.items(), strict=True):
        _draw_curves(axes, curves)
        axes.set(xlabel="epoch", ylabel=ylabel)
    _curve_legend(figure, list(itertools.chain(*panels.values())), y=0.865)
    return svg(figure)


@in_style
def small_multiples(
    title: str, columns: Sequence[str], panels: Mapping[tuple[str, str], Sequence[Curve]], ylabel: str, scale: str
) -> bytes:
    """A grid of panels, by row and column, with the same axes; a place may be empty. For `scale` see `_on_scale`."""
    rows = list(dict.fromkeys(row for row, _ in panels))
    width, height = max(WIDTH, 1.05 + 1.9 * len(columns)), 1.2 + 1.65 * len(rows)
    figure = _titled(title, height, width)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    left, right, top, bottom = 0.95 / width, 1 - 0.12 / width, 1 - 0.8 / height, 0.45 / height
    figure.subplots_adjust(left=left, right=right, top=top, bottom=bottom, wspace=0.07, hspace=0.1)
    for place, axes in zip(itertools.product(rows, columns), grid.ravel(), strict=True):
        if any(curve.runs for curve in panels.get(place, ())):
            _draw_curves(axes, panels[place], scale, most_points=3)
        else:
            text = "no run yet" if place in panels else "not in the grid"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(_cut(name, 30))
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(f"{_cut(name, 20)}\n{ylabel}")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    curves = list(itertools.chain(*panels.values()))
    _set_scale(grid[0, 0].yaxis, scale, [value for curve in curves for run in curve.runs for value in run])
    _curve_legend(figure, curves, y=1 - 0.4 / height)
    return svg(figure)


@in_style
def dot_chart(title: str, panels: Sequence[DotPanel], legend: Mapping[str, str]) -> bytes:
    """Panels below one another, a line of dots for each of their lines; `legend` names what there is in Dots."""
    height = 0.65 + sum(0.85 + 0.23 * len(panel.lines) for panel in panels)
    figure = _titled(title, height)
    lines = [line for panel in panels for line in panel.lines]
    left, top = min(0.42, 0.03 + 0.0098 * max(len(_cut(line.label, 44)) for line in lines)), height - 0.6
    for panel in panels:
        tall = 0.23 * len(panel.lines) + 0.05
        axes = figure.add_axes((left, (top - 0.25 - tall) / height, 0.98 - left, tall / height))
        _draw_dots(axes, panel)
        top -= 0.8 + tall
    handles = []
    for what, label in legend.items():
        color = next((line.color for line in lines if getattr(line, what)), TRAIN)
        handles.append(Line2D([], [], label=label, **{"color": color} | _DOT_LOOKS[what]))
    figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.985, 1 - 0.32 / height), ncols=4)
    return svg(figure)


@in_style
def lines_chart(title: str, xlabel: str, ylabel: str, lines: Sequence[tuple[str, Sequence, Sequence]]) -> bytes:
    """Lines (label, x, y), each named at its end, y from 0 to 1."""
    figure = _titled(title, 4.0)
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
    return svg(figure)


# -- parts of a chart --------------------------------------------------------------------------------------------------

_DOTTED = {"ls": (0, (2, 2)), "lw": 0.9}
_DOT_LOOKS = {  # of what there is in Dots, from the lowest to the uppermost
    "interval": {"lw": 6, "alpha": 0.3, "solid_capstyle": "butt"},
    "values": {"marker": "o", "ls": "", "ms": 3.6},
    "mean": {"color": INK, "marker": "|", "ls": "", "ms": 9, "mew": 1.6},
    "reference": {"color": TEST, "marker": "D", "ls": "", "ms": 5, "mfc": "none", "mew": 1.4},
}


def _titled(title: str, height: float, width: float = WIDTH) -> Figure:
    """An empty figure of this size in inches, with its title at the top."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.text(0.086 / width, 1 - 0.16 / height, _cut(title, 92), fontsize=9.5, weight="bold", va="center")
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve], scale: str = "", most_points: int = 25) -> None:
    """Curves of more epochs than `most_points` are drawn without points."""
    longest = 0
    for curve in curves:
        values = np.array(list(zip(*curve.runs, strict=False)))  # (epochs that all runs have, runs)
        if not len(values):
            continue
        means, epochs = values.mean(axis=1), range(1, len(values) + 1)
        longest = max(longest, len(values))
        marker = {"marker": ".", "ms": 5} if len(values) <= most_points else {}
        axes.plot(epochs, _on_scale(means, scale), color=curve.color, ls=curve.style, **marker)
        if len(curve.runs) > 1:
            sd = values.std(axis=1, ddof=1)
            band = _on_scale(means - sd, scale), _on_scale(means + sd, scale)
            axes.fill_between(epochs, *band, color=curve.color, alpha=0.2, lw=0)
        if curve.reference is not None:
            axes.axhline(_on_scale(curve.reference, scale), color=curve.color, **_DOTTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8) if longest > 1 else FixedLocator([1]))


SMALLEST = 1e-4  # share of errors or drop of accuracy: one image of ten thousand


def _on_scale(values: float | Sequence[float], scale: str) -> np.ndarray:
    """What is drawn on an axis of this scale: the share of errors for "accuracy", else the value, but never zero."""
    values = np.asarray(values, dtype=float)
    return np.maximum(1 - values if scale == "accuracy" else values, SMALLEST) if scale else values


def _set_scale(axis: Axis, scale: str, values: Sequence[float]) -> None:
    """Make the axis logarithmic, high accuracies to the right or up; without a scale it stays as it is."""
    if not scale:
        return
    shown = _on_scale([value for value in values if math.isfinite(value)] or [0.1, 0.9], scale)
    margin = max(np.ptp(np.log10(shown)) * 0.06, 0.03)
    ends = shown.min() / 10**margin, shown.max() * 10**margin

    def name(tick: float, _: int) -> str:
        if scale == "accuracy":
            return f"{1 - tick:.10g}"
        smallest = scale == "drop" and math.isclose(tick, SMALLEST)
        return "≤ 0.0001" if smallest else f"{tick:,.10g}" if tick < 1e7 else f"{tick:.0e}"

    which = axis.axis_name
    axis.axes.set(**{f"{which}scale": "log", f"{which}lim": ends[::-1] if scale == "accuracy" else ends})
    axis.set(minor_locator=NullLocator(), major_formatter=name)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] < 1e4 * ends[0] else (1,)))


def _draw_dots(axes: Axes, panel: DotPanel) -> None:
    values: list[float] = []
    for place, line in enumerate(panel.lines):
        for what, look in _DOT_LOOKS.items():
            if (given := getattr(line, what)) is not None:
                shown = np.atleast_1d(_on_scale(given, panel.scale))
                axes.plot(shown, [place] * len(shown), **{"color": line.color} | look)
        here = [*line.values, *(value for value in (line.mean, line.reference) if value is not None)]
        if not here:
            axes.text(0.01, place, "no complete run", transform=axes.get_yaxis_transform(), va="center", color=FAINT)
        values += here
    axes.set_yticks(range(len(panel.lines)), [_cut(line.label, 44) for line in panel.lines])
    for label, line in zip(axes.get_yticklabels(), panel.lines, strict=True):
        label.set_weight("bold" if line.strong else "normal")
    axes.set(ylim=(len(panel.lines) - 0.4, -0.6), xlabel=panel.xlabel)  # the first line is the uppermost
    axes.set_title(panel.title, loc="left")
    _set_scale(axes.xaxis, panel.scale, values)


def _curve_legend(figure: Figure, curves: Sequence[Curve], y: float) -> None:
    looks: dict[str, dict] = {}
    for curve in curves:
        if curve.runs:
            looks.setdefault(curve.label, {"color": curve.color, "ls": curve.style})
    handles = [Line2D([], [], label=_cut(label, 40), **look) for label, look in looks.items()]
    if any(curve.reference is not None for curve in curves):
        handles.append(Line2D([], [], color=FAINT, label="the original's best", **_DOTTED))
    if any(len(curve.runs) > 1 for curve in curves):
        handles.append(Line2D([], [], color=FAINT, lw=6, alpha=0.3, label="± 1 sd over seeds"))
    inches = sum(0.5 + 0.075 * len(handle.get_label()) for handle in handles)
    columns = len(handles) if inches < 0.97 * figure.get_figwidth() else math.ceil(len(handles) / 2)
    figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.99, y), ncols=columns, handlelength=2)


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved by as little as can be so that none is nearer to another than `gap`, in the same order."""
    from scipy.optimize import isotonic_regression  # takes a moment to import

    order, steps = np.argsort(places), gap * np.arange(len(places))
    moved = np.empty(len(places))
    moved[order] = isotonic_regression(np.asarray(places)[order] - steps).x + steps
    return moved.tolist()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# -- SVG ---------------------------------------------------------------------------------------------------------------


def svg(figure: Figure) -> bytes:
    """The figure as SVG whose colors follow a dark page; the same bytes for the same figure."""
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
    numbers: dict[str, int] = defaultdict(lambda: len(numbers))
    drawing = re.sub(r'((?:#|id=")[mp])([0-9a-f]{10})', lambda part: f"{part[1]}{numbers[part[2]]}", drawing)
    # A class for each style, whose rule stands once in the style sheet, and again with its colors for a dark ground.
    styles: dict[str, int] = defaultdict(lambda: len(styles))
    drawing = re.sub(r'(<[^>]*) style="([^"]*)"', lambda tag: f'{tag[1]} class="c{styles[tag[2]]}"', drawing)
    rules = "".join(f".c{number}{{{style}}}" for style, number in styles.items())
    dark = "".join(f".c{number}{{{style}}}" for style, number in styles.items() if "#" in style)
    dark = re.sub("|".join(DARK), lambda color: DARK[color[0]], dark)
    fonts = "text{font-family:'DejaVu Sans',Verdana,sans-serif}"
    # `screen`, because paper is white for everybody.
    sheet = f"{fonts}{rules}@media screen and (prefers-color-scheme:dark){{{dark}}}</style>"
    return drawing.replace("</style>", sheet, 1).encode()
