"""The report's charts as SVG, in the style of harness/pictures.py, the same bytes for the same numbers.

Each chart is one panel, narrow enough for a phone; a page has as many in a line as there is room for.
`figures` says which numbers go into which chart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from harness.pictures import FAINT, INK, SERIES, TEST, TRAIN, in_style, svg

_MARKERS = "os^Dv*"
WIDTH = 4.3  # inches of a panel: two fill a page, one a phone


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
    """A line of a dot chart: `values` as dots, `mean` as a tick, `interval` as a bar, `reference` as a diamond.

    `mark` stands at the line's end.
    """

    label: str
    values: tuple[float, ...]
    mean: float | None = None
    interval: tuple[float, float] | None = None
    reference: float | None = None
    color: str = TRAIN
    strong: bool = False
    mark: str = ""


# -- whole charts ------------------------------------------------------------------------------------------------------


@in_style
def curve_chart(title: str, ylabel: str, curves: Sequence[Curve], scale: str = "") -> bytes:
    """Curves over epochs; for `scale` see `_on_scale`."""
    figure, axes = _panel(title, 2.1, _curve_legend(curves))
    if any(curve.runs for curve in curves):
        _draw_curves(axes, curves, scale)
    else:
        axes.text(0.5, 0.5, "no run yet", transform=axes.transAxes, ha="center", color=FAINT)
    axes.set(xlabel="epoch", ylabel=ylabel)
    _set_scale(axes.yaxis, scale, [value for curve in curves for run in curve.runs for value in run])
    return svg(figure)


@in_style
def dot_chart(title: str, lines: Sequence[Dots], xlabel: str, scale: str, legend: Mapping[str, str]) -> bytes:
    """A line of dots for each of the lines; `legend` names what there is in Dots. For `scale` see `_on_scale`."""
    handles = []
    for what, label in legend.items():
        color = next((line.color for line in lines if getattr(line, what)), TRAIN)
        handles.append(Line2D([], [], label=label, **{"color": color} | _DOT_LOOKS[what]))
    left = 0.15 + 0.078 * max(len(_cut(line.label, 24)) for line in lines)
    right = 0.28 if any(line.mark for line in lines) else 0.14
    figure, axes = _panel(title, 0.23 * len(lines) + 0.05, handles, left, right)
    _draw_dots(axes, lines, xlabel, scale)
    return svg(figure)


@in_style
def lines_chart(
    title: str, xlabel: str, ylabel: str, lines: Sequence[tuple[str, Sequence, Sequence]], top: float = 1
) -> bytes:
    """Lines (label, x, y), each named at its end, y from 0 to `top`."""
    figure, axes = _panel(title, 2.6, right=0.95)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.02 * top))
    ends = spread_out([y[-1] for _, _, y in lines], 0.07 * top)
    for index, ((label, x, y), place) in enumerate(zip(lines, ends, strict=True)):
        color = SERIES[index % len(SERIES)]
        axes.plot(x, y, ms=3, lw=1.2, color=color, marker=_MARKERS[index % 6])
        axes.annotate(
            _cut(label, 14),
            (x[-1], y[-1]),
            (1.04, place),
            textcoords=("axes fraction", "data"),
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6},
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg(figure)


# -- parts of a chart --------------------------------------------------------------------------------------------------

_LEGEND = {"handlelength": 1.6, "handletextpad": 0.6, "columnspacing": 1.2, "labelspacing": 0.25}
_DOTTED = {"ls": (0, (2, 2)), "lw": 0.9}
_DOT_LOOKS = {  # of what there is in Dots, from the lowest to the uppermost
    "interval": {"lw": 6, "alpha": 0.3, "solid_capstyle": "butt"},
    "values": {"marker": "o", "ls": "", "ms": 3.6},
    "mean": {"color": INK, "marker": "|", "ls": "", "ms": 9, "mew": 1.6},
    "reference": {"color": TEST, "marker": "D", "ls": "", "ms": 5, "mfc": "none", "mew": 1.4},
}


def _panel(
    title: str, height: float, handles: Sequence[Line2D] = (), left: float = 0.62, right: float = 0.1
) -> tuple[Figure, Axes]:
    """A figure and its axes of this height, below the title and the legend; all in inches."""
    entries = [0.4 + 0.068 * len(handle.get_label()) for handle in handles]
    fit = (n for n in range(len(handles), 1, -1) if sum(map(max, np.array_split(entries, n))) < WIDTH)
    columns = next(fit, 1)
    top = 0.36 + 0.17 * math.ceil(len(handles) / columns)
    total = top + height + 0.45
    figure = Figure(figsize=(WIDTH, total))
    figure.text(0.1 / WIDTH, 1 - 0.16 / total, _cut(title, 52), fontsize=9.5, weight="bold", va="center")
    axes = figure.add_axes((left / WIDTH, 0.45 / total, 1 - (left + right) / WIDTH, height / total))
    if handles:
        place = {"loc": "upper left", "bbox_to_anchor": (0.06 / WIDTH, 1 - 0.27 / total), "borderaxespad": 0}
        figure.legend(handles=handles, ncols=columns, **place, **_LEGEND)
    return figure, axes


def _draw_curves(axes: Axes, curves: Sequence[Curve], scale: str) -> None:
    longest = 0
    for curve in curves:
        values = np.array(list(zip(*curve.runs, strict=False)))  # (epochs that all runs have, runs)
        if not len(values):
            continue
        means, epochs = values.mean(axis=1), range(1, len(values) + 1)
        longest = max(longest, len(values))
        marker = {"marker": ".", "ms": 5} if len(values) <= 25 else {}
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
    few = 100 if scale == "accuracy" else 30  # within these many times the smallest, 2 and 5 are named, too
    times = ends[1] / ends[0]
    axis.set_major_locator(MaxNLocator(3) if times < 3 else LogLocator(subs=(1, 2, 5) if times < few else (1,)))


def _draw_dots(axes: Axes, lines: Sequence[Dots], xlabel: str, scale: str) -> None:
    values: list[float] = []
    for place, line in enumerate(lines):
        for what, look in _DOT_LOOKS.items():
            if (given := getattr(line, what)) is not None:
                shown = np.atleast_1d(_on_scale(given, scale))
                axes.plot(shown, [place] * len(shown), **{"color": line.color} | look)
        here = [*line.values, *(value for value in (line.mean, line.reference) if value is not None)]
        if not here:
            axes.text(0.01, place, "no complete run", transform=axes.get_yaxis_transform(), va="center", color=FAINT)
        if line.mark:
            axes.text(1.03, place, line.mark, transform=axes.get_yaxis_transform(), va="center")
        values += here
    axes.set_yticks(range(len(lines)), [_cut(line.label, 24) for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_weight("bold" if line.strong else "normal")
    axes.set(ylim=(len(lines) - 0.4, -0.6), xlabel=xlabel)  # the first line is the uppermost
    _set_scale(axes.xaxis, scale, values)


def _curve_legend(curves: Sequence[Curve]) -> list[Line2D]:
    looks: dict[str, dict] = {}
    for curve in curves:
        if curve.runs:
            looks.setdefault(curve.label, {"color": curve.color, "ls": curve.style})
    handles = [Line2D([], [], label=_cut(label, 24), **look) for label, look in looks.items()]
    if any(curve.reference is not None for curve in curves):
        handles.append(Line2D([], [], color=FAINT, label="original, best", **_DOTTED))
    if any(len(curve.runs) > 1 for curve in curves):
        handles.append(Line2D([], [], color=FAINT, label="± 1 sd", **_DOT_LOOKS["interval"]))
    return handles


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved by as little as can be so that none is nearer to another than `gap`, in the same order."""
    from scipy.optimize import isotonic_regression  # takes a moment to import

    order, steps = np.argsort(places), gap * np.arange(len(places))
    moved = np.empty(len(places))
    moved[order] = isotonic_regression(np.asarray(places)[order] - steps).x + steps
    return moved.tolist()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
