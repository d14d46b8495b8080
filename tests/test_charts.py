"""The report's charts: their lines, bars, dots and words, and the SVG that they are written as."""

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from harness import pictures
from harness.report import charts

TWO_RUNS = charts.Curve("test", charts.TEST, ((0.5, 0.25), (0.3, 0.35)), reference=0.2)
ONE_RUN = charts.Curve("train", charts.TRAIN, ((0.75, 0.5),))


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """The Figure that a function draws, laid out but not yet SVG: draw(charts.curve_chart, …)."""
    drawn = []

    def call(function: Callable, *arguments: object) -> Figure:
        with monkeypatch.context() as patch:
            patch.setattr(charts, "svg", drawn.append)
            function(*arguments)
        figure = drawn.pop()
        figure.draw_without_rendering()
        return figure

    return call


def curves(axes: object) -> list[tuple[list, list]]:
    return [tuple(np.asarray(values).tolist() for values in line.get_data()) for line in axes.lines]


def test_curves_of_the_report_are_means_with_a_band_and_the_originals_metric(draw) -> None:
    figure = draw(charts.curve_chart, "title", "loss", (ONE_RUN, TWO_RUNS))
    (axes,) = figure.axes
    train, test, original = curves(axes)
    assert (train, test) == (([1, 2], [0.75, 0.5]), ([1, 2], pytest.approx([0.4, 0.3])))
    assert original[1] == [0.2, 0.2]
    (band,) = axes.collections  # of the curve with two runs
    ends = band.get_paths()[0].vertices[:, 1]
    deviation = np.std([0.5, 0.3], ddof=1)
    assert (ends.min(), ends.max()) == pytest.approx((0.3 - np.std([0.25, 0.35], ddof=1), 0.4 + deviation))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["train", "test", "original, best", "± 1 sd"]


def test_only_what_the_original_printed_is_dotted(draw) -> None:
    axes = draw(charts.curve_chart, "title", "loss", (dataclasses.replace(ONE_RUN, style="--"), TWO_RUNS)).axes[0]
    *own, original = axes.lines
    assert [line.get_linestyle() for line in own] == ["--", "-"]
    assert original._dash_pattern[1] == [2 * original.get_linewidth()] * 2


def test_legend_of_single_runs_speaks_of_no_band(draw) -> None:
    figure = draw(charts.curve_chart, "title", "loss", (ONE_RUN,))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train"]
    assert not figure.axes[0].collections


def test_a_panel_has_axes_of_its_own(draw) -> None:
    low = charts.Curve("test", charts.TEST, ((0.01, 0.02),))
    (axes,) = draw(charts.curve_chart, "title", "loss", (low,), "loss").axes
    assert curves(axes) == [([1, 2], [0.01, 0.02])] and axes.get_yscale() == "log"
    assert 0.005 < axes.get_ylim()[0] < 0.01 and 0.02 < axes.get_ylim()[1] < 0.04
    empty = draw(charts.curve_chart, "title", "loss", (charts.Curve("test", charts.TEST, ()),)).axes[0]
    assert [text.get_text() for text in empty.texts] == ["no run yet"]


def test_legends_and_titles_stay_within_a_panel_that_fits_a_phone(draw) -> None:
    many = [charts.Curve(f"a cell, {n} epochs", charts.TEST, ((0.5, 0.6), (0.4, 0.5))) for n in range(6)]
    names = {"values": "a run of ours", "mean": "mean", "interval": "95 % interval", "reference": "original"}
    dots = charts.Dots("a-row-of-a-long-name-h128", (0.5, 0.75), 0.625, (0.25, 1.0), 0.9, mark="✗")
    for figure in (
        draw(charts.curve_chart, "t" * 90, "loss", many),
        draw(charts.dot_chart, "title", [dots], "best test accuracy (log axis)", "accuracy", names),
    ):
        width, height = figure.get_size_inches() * figure.dpi
        assert width == 4.3 * 72
        parts = [*figure.texts, *figure.legends, *figure.axes, figure.axes[0].xaxis.label, *figure.axes[0].texts]
        for part in parts:
            box = part.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, part


def test_a_line_of_dots_has_its_runs_mean_interval_the_original_and_a_mark(draw) -> None:
    full = charts.Dots("gru", (0.5, 0.75), 0.625, (0.25, 1.0), 0.9, strong=True, mark="✓")
    bare = charts.Dots("rnn", (), None)
    names = {"values": "a run", "mean": "mean", "interval": "where", "reference": "the original"}
    figure = draw(charts.dot_chart, "title", (full, bare), "accuracy", "", names)
    (axes,) = figure.axes
    interval, runs, mean, original = curves(axes)[:4]
    assert interval == ([0.25, 1.0], [0, 0]) and runs == ([0.5, 0.75], [0, 0])
    assert mean == ([0.625], [0]) and original == ([0.9], [0])
    assert [(text.get_text(), text.get_weight()) for text in axes.get_yticklabels()] == [
        ("gru", "bold"),
        ("rnn", "normal"),
    ]
    assert [text.get_text() for text in axes.texts] == ["✓", "no complete run"]
    assert axes.get_xlabel() == "accuracy"
    assert axes.get_ylim()[0] > 1 > 0 > axes.get_ylim()[1]  # the first line is the uppermost
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names.values())


def test_lines_have_their_points_and_their_names_in_the_same_order(draw) -> None:
    lines = [("CNN", [1, 2], [0.5, 0.90]), ("GRU", [1, 2], [0.4, 0.91])]
    figure = draw(charts.lines_chart, "title", "rows", "accuracy", lines)
    (axes,) = figure.axes
    assert curves(axes) == [([1, 2], [0.5, 0.9]), ([1, 2], [0.4, 0.91])]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()) == ("rows", "accuracy", (0, 1.02))
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert heights["GRU"] - heights["CNN"] >= 0.07 - 1e-9
    assert len({line.get_color() for line in axes.lines}) == 2


def test_places_that_are_far_enough_apart_stay() -> None:
    assert charts.spread_out([0.1, 0.5, 0.9], 0.3) == [0.1, 0.5, 0.9]
    assert charts.spread_out([0.5, 0.4], 0.2) == pytest.approx([0.55, 0.35])


def test_a_curve_ends_where_not_all_runs_go_on(draw) -> None:
    ragged = charts.Curve("test", charts.TEST, ((1.0, 2.0, 9.0), (3.0, 5.0)))
    (axes,) = draw(charts.curve_chart, "title", "loss", (ragged,)).axes
    assert curves(axes) == [([1, 2], [2, 3.5])]


def test_pictures_keep_their_text_and_have_colors_for_dark_ground():
    curve = charts.Curve("test", charts.TEST, ((0.5, 0.25), (0.5, 0.5)), reference=0.123456789)
    svg = charts.curve_chart("lr 0.00123456 $x$", "loss", (curve,)).decode()
    assert ">lr 0.00123456 $x$<" in svg  # not taken for a formula, its digits not cut
    light, dark = re.search(r"<style[^>]*>(.*)@media[^{]*{(.*)}</style>", svg).groups()
    rules, twins = (dict(re.findall(r"\.(c\d+){([^}]*)}", sheet)) for sheet in (light, dark))
    colored = {name: re.findall("([a-z-]+):#", style) for name, style in rules.items() if "#" in style}
    assert {name: re.findall("([a-z-]+):#[0-9a-f]{6}", style) for name, style in twins.items()} == colored
    assert not set(re.findall("#[0-9a-f]{6}", light)) & set(re.findall("#[0-9a-f]{6}", dark))


def test_svg_shows_all_that_matplotlib_drew():
    """Element by element: the same texts, and the same shapes to a tenth of a pixel; what is referred to is there."""

    def drawn(svg: bytes) -> tuple[list[str], list[float]]:
        elements = [(each.tag.rpartition("}")[2], each) for each in ElementTree.fromstring(svg).iter()]
        where = [each.get(name, "") for kind, each in elements if kind in ("path", "use") for name in ("d", "x", "y")]
        texts = [each.text for kind, each in elements if kind == "text"]
        return texts, [float(number) for number in re.findall(r"-?\d+\.?\d*", " ".join(where))]

    file = io.BytesIO()
    with matplotlib.rc_context(pictures.STYLE):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1, 2], [0.3, 0.12345678, 0.2], "o--", color=charts.TEST)
        axes.fill_between([0, 1, 2], [0.1, 0.1, 0.1], [0.3, 0.2, 0.4], color=charts.TRAIN, alpha=0.2)
        axes.set_title('a < b & style="c", 0.123456 rotate(-0 1)')
        figure.savefig(file, format="svg")
        svg = charts.svg(figure)
    (texts, places), (small_texts, small_places) = map(drawn, (file.getvalue(), svg))
    assert small_texts == texts and len(texts) > 10
    assert small_places == pytest.approx(places, abs=0.1) and len(places) > 30
    text = svg.decode()
    assert len(svg) < 0.7 * len(file.getvalue())
    assert not svg.startswith(b"<?xml")  # it may stand within a page
    assert set(re.findall(r'(?:#|href="#)([mp]\d+)', text)) <= set(re.findall(r'id="(\w+)"', text))
    assert set(re.findall(r'class="(\w+)"', text)) == set(re.findall(r"\.(c\d+){", text))


def test_svg_holds_an_images_own_pixels_at_its_place():
    """However large it is shown; a gray one without colors."""
    gray, red = np.full((2, 3, 4), 0.5), np.tile((1.0, 0, 0, 1), (4, 4, 1))
    with matplotlib.rc_context(pictures.STYLE):
        figure = Figure(figsize=(4, 2))
        for axes, image in zip(figure.subplots(1, 2), (gray, red), strict=True):
            axes.imshow(image, interpolation="none", extent=(0, 1, 0, 1))
            axes.set(xlim=(0, 3), ylim=(0, 3))
        text = pictures.svg(figure).decode()
    found = [Image.open(io.BytesIO(base64.b64decode(each))) for each in re.findall(r"base64,([^\"]*)", text)]
    assert [(image.size, image.mode) for image in found] == [((3, 2), "LA"), ((4, 4), "RGBA")]
    width = 0.5 * 4 * 72 * 0.775 / 1.1 / 3  # of an axes, a third of it: Matplotlib's own margins
    scales = [float(each) for each in re.findall(r"<image[^>]*matrix\(([\d.]+) ", text)]
    assert scales == pytest.approx([width / 3, width / 4], rel=0.01)


def test_every_chart_is_drawn_the_same_each_time_with_its_labels_in_it():
    curve = charts.Curve("test", charts.TEST, ((0.5, 0.25), (0.4, 0.5)))
    dots = charts.Dots("a row", (0.97, 0.98), 0.975, (0.9, 1.0), 0.99)

    def draw() -> list[bytes]:
        return [
            charts.curve_chart("one", "loss", (curve,)),
            charts.dot_chart("three", (dots,), "x", "accuracy", {"values": "a run"}),
            charts.lines_chart("four", "k", "y", [("CNN", [1, 2], [0.5, 0.9]), ("GRU", [1, 2], [0.4, 0.9])]),
        ]

    first = draw()
    assert draw() == first
    labels = (
        ("one", "test"),
        ("three", "a row", "a run"),
        ("CNN", "GRU"),
    )
    for svg, wanted in zip(first, labels, strict=True):
        texts = {text for text in ElementTree.fromstring(svg).itertext() if text.strip()}
        assert all(any(label in text for text in texts) for label in wanted)
    ends = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>(?:CNN|GRU)<', first[2].decode())]
    assert abs(ends[0] - ends[1]) >= 10  # two lines that end in one place are named one above the other


def test_one_epoch_is_a_tick_of_its_own():
    curve = charts.Curve("test", charts.TEST, ((0.5,), (0.6,)))
    svg = charts.curve_chart("x", "loss", (curve,)).decode()
    assert [text for text in re.findall(r">([\d.]+)</text>", svg) if 0.9 < float(text) < 1.1] == ["1"]


@pytest.mark.parametrize(
    ("scale", "values"), [("accuracy", (0.967, 0.969)), ("loss", (1.31, 1.34)), ("drop", (0.0221, 0.0223))]
)
def test_logarithmic_axis_has_ticks_however_close_the_values_lie(scale, values):
    dots = charts.Dots("GRU", values, sum(values) / 2)
    svg = charts.dot_chart("x", (dots,), "x", scale, {}).decode()
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", svg)]
    assert 2 <= len(ticks) <= 10
    assert all(0.9 * values[0] < tick < 1.1 * values[1] for tick in ticks)


def test_a_line_of_a_mean_alone_is_not_called_empty():
    for dots, empty in ((charts.Dots("GRU", (), 0.2), False), (charts.Dots("GRU", (), None), True)):
        svg = charts.dot_chart("one seed", (dots,), "x", "accuracy", {"values": "a run"})
        assert (b"no complete run" in svg) == empty


def test_a_users_own_matplotlibrc_changes_nothing() -> None:
    """It may ask for LaTeX, which may not be there."""

    def chart() -> bytes:
        return charts.curve_chart("a_title", "loss", (ONE_RUN, TWO_RUNS))

    usual = chart()
    with matplotlib.rc_context({"text.usetex": True, "axes.titlelocation": "left", "lines.markersize": 20}):
        assert chart() == usual
    drawing = [charts.curve_chart, charts.dot_chart, charts.lines_chart]
    assert all(hasattr(function, "__wrapped__") for function in drawing)  # in the report's own style
