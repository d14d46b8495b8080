"""What the figures of visualize.py, of TensorBoard and of the report show: their lines, bars, maps and words."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PROJECT
from matplotlib import rc_context
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness import pictures
from harness.analyses import (
    activations,
    correspondence,
    deconvnet,
    depth,
    evolution,
    filters,
    invariance,
    occlusion,
)

TILE = np.full((4, 6, 4), 0.5, dtype=np.float32)
CLASSES = ("cat", "dog", "owl")
ANALYSES = (filters, activations, deconvnet, evolution, invariance, occlusion, correspondence, depth)


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """The Figure that a function draws, laid out but not yet pixels: draw(pictures.confusion_figure, …)."""
    drawn = []
    for module in ANALYSES:
        monkeypatch.setattr(module, "both", drawn.append)
    monkeypatch.setattr(pictures, "render", lambda figure, **_: drawn.append(figure))

    def call(function: Callable, *arguments: object, **options: object) -> Figure:
        pictures.in_style(function)(*arguments, **options)
        figure = drawn.pop()
        figure.draw_without_rendering()
        return figure

    return call


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()}


def curves(axes: object) -> list[tuple[list, list]]:
    return [tuple(np.asarray(values).tolist() for values in line.get_data()) for line in axes.lines]


# -- visualize.py ------------------------------------------------------------------------------------------------------


def test_filters_have_their_labels_and_a_scale(draw) -> None:
    labels = [*map(str, range(9))]
    figure = draw(filters.draw, [np.full((1, 5, 5), 0.5)] * 9, labels, [], np.array(0.25), "title")
    assert {"title", "weight", *labels} <= words(figure)
    assert figure.axes[1].get_ylim() == (-0.25, 0.25)
    places = [text.get_position() for text in figure.axes[0].texts]  # eight in a row, the ninth below the first
    assert [across for across, _ in places[:8]] == sorted({across for across, _ in places})
    assert len({down for _, down in places[:8]}) == 1 and places[8][0] == places[0][0] and places[8][1] > places[0][1]
    own = draw(filters.draw, [np.full((3, 5, 5), 0.5)] * 2, ["0", "1"], [], np.array([0.25, 2.0]), "title")
    assert {"−limit", "+limit", "weight of each color, each filter's own limit"} <= words(own)


def test_filters_of_many_inputs_stand_in_a_row_for_each_map_under_the_inputs_number(draw) -> None:
    shown = np.zeros((4, 1, 3, 3))
    shown[3] = 1.0  # the only white filter
    figure = draw(filters.draw, list(shown), ["5", "7", "1", "5"], ["map 9", "map 2"], np.array(0.5), "title")
    sheet, bar = figure.axes
    places = {text.get_text(): text.get_position() for text in sheet.texts}
    white = np.argwhere(sheet.images[0].get_array()[:, :, :3].min(axis=2) == 1.0)
    assert places["map 2"][1] == pytest.approx(white[:, 0].mean(), abs=1) and places["map 2"][0] < 0
    assert places["map 9"][1] < places["map 2"][1]
    assert [text.get_text() for text in sheet.texts[:4]] == ["5", "7", "1", "5"]
    assert sheet.texts[3].get_position() == (white[:, 1].min(), white[:, 0].min() - 3)
    assert bar.get_ylim() == (-0.5, 0.5)


def activation_statistics(**changes: object) -> SimpleNamespace:
    fields = {
        "layer": "features.relu1",
        "map_mean": torch.tensor([1.0, 0.0]),
        "map_std": torch.tensor([2.0, 0.0]),
        "dead": (1,),
        "zeros": 0.625,
        "histogram_edges": torch.tensor([0.0, 1.0, 2.0, 8.0]),
        "histogram_counts": torch.tensor([99, 10, 30]),
    }
    return SimpleNamespace(**(fields | changes))


def test_activations_of_each_map_stand_beside_their_histogram(draw) -> None:
    left, right = draw(activations.draw, [activation_statistics()], "title").axes
    mean, deviation = (steps.get_data() for steps in left.patches)
    assert (mean.values.tolist(), deviation.values.tolist()) == ([1.0, 0.0], [2.0, 0.0])
    assert mean.edges.tolist() == deviation.edges.tolist() == [-0.5, 0.5, 1.5]
    assert curves(left) == [([1], [0.0])]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["mean", "standard deviation", "dead"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("feature map", "activation, relu1")
    assert (right.get_xlabel(), right.get_ylabel()) == ("activation above zero", "how many per factor of 2")
    assert right.get_title() == "62.5% of all are zero"
    stairs = right.patches[0].get_data()  # 30 from 2 to 8, two factors of 2; without what lies below the first edge
    assert (stairs.values.tolist(), stairs.edges.tolist()) == ([10, 15], [1, 2, 8])
    assert (right.get_xscale(), right.get_yscale()) == ("log", "log")


def test_layer_without_any_activation_says_so(draw) -> None:
    dead = activation_statistics(
        map_mean=torch.zeros(2), map_std=torch.zeros(2), dead=(0, 1), histogram_counts=torch.zeros(3)
    )
    figure = draw(activations.draw, [dead], "title")
    assert "no activation above zero" in words(figure)
    assert figure.axes[0].get_ylim() == (0, 1)


def test_deconvnet_shows_a_maps_reconstructions_left_of_their_patches(draw) -> None:
    dark, light = TILE * 0.5, TILE * 1.5
    entries = [(f"map {number}", [dark] * 9, [light] * 9) for number in range(5)]
    figure = draw(deconvnet.draw, entries, "title")
    assert {"title", *(f"map {number}" for number in range(5))} <= words(figure)
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3
    shown = figure.axes[0].images[0].get_array()
    middle = shown.shape[1] // 2
    assert shown[:, :middle, 0].max() == 0.25 and shown[:, middle:, 0].max() == 0.75
    assert not figure.axes[5].images
    labels = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert set(labels) == {"reconstruction", "image"} and labels["reconstruction"] < middle < labels["image"]


def test_evolution_has_a_row_a_map_and_a_column_an_epoch(draw) -> None:
    entries = [("map 3", [TILE * 0.5, np.zeros((4, 6, 4))], [TILE * 1.5, TILE])]
    figure = draw(evolution.draw, [1, 20], entries, "title")
    shown = figure.axes[0].images[0].get_array()
    middle = shown.shape[1] // 2
    assert shown[:, :middle, 0].max() == 0.25 and shown[:, middle:, 0].max() == 0.75
    assert {"title", "epoch 1", "epoch 20"} <= words(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["map 3", ""]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], ["not active"]]


@pytest.mark.filterwarnings("error")
def test_invariance_has_a_line_an_image_and_a_thick_one_for_the_mean_of_the_others(draw) -> None:
    result = SimpleNamespace(
        kind="rotation",
        amounts=torch.tensor([0.0, 90.0]),
        first=torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 6.0, 9.0]]),
        first_norm=torch.tensor([2.0, 4.0, 8.0, 0.0]),  # the last is silent: it has no share
        last_hidden=torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 3.0]]),
        last_hidden_norm=torch.tensor([1.0, 1.0, 4.0, 4.0]),
        probability=torch.tensor([[1.0, 0.5, 0.5, 0.25], [0.25, 0.25, 0.5, 0.75]]),
    )
    figure = draw(invariance.draw, [result], [TILE], ["cat"], "p(true class)", "title")
    example, first, last, probability = figure.axes
    assert len(example.images) == 1 and not len(example.get_xticks())
    assert curves(first) == [([0, 90], [0, 0.5]), ([0, 90], [0, 0.625])]
    assert curves(last) == [([0, 90], [0, 1]), ([0, 90], [0, 0.75])] and len(last.lines) == 2
    assert curves(probability)[1][1] == pytest.approx([1.25 / 3, 0.5])
    assert [axes.get_xlabel() for axes in (first, last, probability)] == ["rotation, degrees anticlockwise"] * 3
    assert first.get_title() == "first layer:\ndistance / length" and probability.get_ylim() == (0, 1.02)
    assert first.get_ylim()[0] == 0 and first.get_xticks().tolist() == [0, 90, 180, 270, 360]
    assert {"title", "cat", "mean of 3 images"} <= words(figure)
    legend = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    assert legend == [to_rgba(line.get_color()) for line in first.lines]
    silent = SimpleNamespace(**vars(result) | {"first": result.first * 0, "first_norm": torch.zeros(4)})
    axes = draw(invariance.draw, [silent], [TILE], ["cat"], "p", "title").axes[1]
    assert [text.get_text() for text in axes.texts] == ["not active"] and not axes.lines
    alone = draw(invariance.draw, [result], [TILE], ["a", "b", "c", "d"], "p(first answer)", "title")
    assert len(alone.axes[1].lines) == 4 and not any(word.startswith("mean") for word in words(alone))
    assert alone.axes[3].get_title() == "p(first answer)"


def test_occlusion_lays_its_maps_over_the_image_where_the_squares_center_was(draw) -> None:
    maps = SimpleNamespace(
        size=2,
        rows=torch.tensor([0, 2]),
        columns=torch.tensor([0, 2, 4]),
        probability=torch.tensor([[[0.9, 0.8, 0.7], [0.6, 0.25, 0.5]], torch.full((2, 3), 0.125)]),
        predicted=torch.tensor([[[1, 1, 1], [0, 0, 1]], torch.zeros(2, 3, dtype=int)]),
        activation=torch.tensor([[[2.0, 3.0, 4.0], [1.5, 2.5, 3.5]], torch.full((2, 3), 8.0)]),
        clean_probability=torch.tensor([0.75, 0.5]),
        clean_predicted=torch.tensor([1, 0]),
        clean_activation=torch.tensor([5.0, 4.0]),
        strongest_map=torch.tensor([3, 4]),
    )
    figure = draw(occlusion.draw, [(TILE, TILE)] * 2, maps, ["dog", "cat"], CLASSES, "true class", "title")
    image, activation, reconstruction, probability, answer, *second, of_activation, of_probability = figure.axes
    np.testing.assert_allclose(second[1].images[1].get_array(), 1)  # of the largest in its row
    assert second[4].images[1].get_array().mask.all()  # the answer stays
    assert second[0].get_title() == "cat, p = 0.50" and second[1].get_title() == "map 4"
    changed = answer.images[1].get_array()
    assert changed.mask.tolist() == [[True] * 3, [False, False, True]]
    (swatch,) = figure.legends[0].get_patches()  # of the only answer that is new
    assert np.allclose(swatch.get_facecolor()[:3], answer.images[1].to_rgba(changed)[1, 0, :3])
    for axes, values in ((activation, maps.activation / 5), (probability, maps.probability)):
        under, over = axes.images
        np.testing.assert_allclose(over.get_array(), values[0])
        assert over.get_extent() == [0, 6, 4, 0] == under.get_extent()  # centers at 1, 3, 5 and 1, 3
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 6), (4, 0))
        opaque, clear = over.to_rgba(np.array([[0.0, 1.0]]))[0, :, 3]
        assert opaque > 0.8 and clear == 0  # where the square costs nothing, the image is seen
    (frame,) = image.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((2, 2), 2, 2)  # around the lowest probability
    assert len(image.images) == len(reconstruction.images) == 1
    assert image.get_title() == "image\ndog, p = 0.75" and probability.get_title() == "p(true class)"
    assert activation.get_title() == "total activation of\nthe strongest map\nmap 3"
    assert (of_activation.get_xlim(), of_probability.get_xlim()) == ((0, 1), (0, 1))
    assert {"100%", "cat", "answer,\nwhere it changes"} <= words(figure) and not {"dog", "owl"} & words(figure)


def test_correspondence_has_a_bar_for_each_part_and_layer_and_a_dot_for_each_class(draw, monkeypatch) -> None:
    parts, layers = ["random", "critical"], ["first", "last_hidden"]
    monkeypatch.setattr(correspondence, "PARTS", parts)
    monkeypatch.setattr(correspondence, "LAYERS", layers)
    cells = [
        SimpleNamespace(part=part, layer=layer, mean=mean, by_class=torch.tensor([mean - 0.1, mean + 0.1]))
        for mean, part, layer in ((0.5, "random", "first"), (0.4, "random", "last_hidden"))
    ]
    cells += [SimpleNamespace(part="critical", layer=cell.layer, mean=0.25, by_class=[0.25]) for cell in cells]
    figure = draw(correspondence.draw, cells, "title")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.4, 0.25, 0.25]
    assert [values for _, values in curves(axes)] == [
        pytest.approx([0.4, 0.6]),
        pytest.approx([0.3, 0.5]),
        [0.25],
        [0.25],
    ]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["first layer", "last hidden layer"]
    assert axes.get_ylabel() == "Δ, mean Hamming distance"
    assert {"title", *parts} <= words(figure)


def test_depth_has_a_line_of_each_network_with_its_intervals(draw) -> None:
    rows = [("images", "trained", 4, 0.3, 0.2, 0.5), ("conv1", "trained", 9, 0.6, 0.5, 0.7)]
    rows += [("images", "untrained", 4, 0.3, 0.2, 0.5), ("conv1", "untrained", 9, 0.4, 0.3, 0.5)]
    figure = draw(depth.draw, rows, "title")
    (axes,) = figure.axes
    assert [0.3, 0.6] in [values for _, values in curves(axes)]
    bars = [[end[1] for end in segment] for each in axes.collections for segment in each.get_segments()]
    assert bars == [pytest.approx(each) for each in ([0.2, 0.5], [0.5, 0.7], [0.2, 0.5], [0.3, 0.5])]
    assert {"title", "trained", "untrained", "features after"} <= words(figure)


# -- TensorBoard and the README ----------------------------------------------------------------------------------------


def test_confusion_matrix_has_its_counts_and_class_names(draw) -> None:
    figure = draw(pictures.confusion_figure, np.array([[5, 2], [1, 7]]), ("cat", "dog"), "title")
    axes = figure.axes[0]
    assert {text.get_text(): text.get_position() for text in axes.texts} == {
        "5": (0, 0),
        "2": (1, 0),
        "1": (0, 1),
        "7": (1, 1),
    }
    names = [[text.get_text() for text in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())]
    assert names == [["cat", "dog"], ["cat  71%", "dog  88%"]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("classified as", "true class and its accuracy")
    assert {"title", "share of the true class"} <= words(figure)
    np.testing.assert_allclose(axes.images[0].get_array(), [[5 / 7, 2 / 7], [1 / 8, 7 / 8]])


def test_confusion_matrix_of_a_hundred_classes_is_colors_alone(draw) -> None:
    names = [f"class {number}" for number in range(100)]
    figure = draw(pictures.confusion_figure, np.eye(100, dtype=int), names, "title")
    assert not figure.axes[0].texts and len(figure.axes[0].get_yticklabels()) == 100


def test_worst_images_have_class_answer_and_probability_under_them(draw) -> None:
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    figure = draw(pictures.worst_figure, images, [0, 1], [2, 1], [1e-6, 0.25], CLASSES, "title")
    assert [axes.texts[0].get_text() for axes in figure.axes[:2]] == ["cat, not owl\np = 1e-06", "dog\np = 0.2"]
    assert not any(axes.axison for axes in figure.axes) and "title" in words(figure)


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw_some",
    [
        lambda: pictures.confusion_figure(np.array([[5, 2], [1, 7]]), ("cat", "50 % dog_"), "a title"),
        lambda: pictures.worst_figure(np.zeros((1, 1, 4, 4)), [0], [1], [0.5], ("cat", "50 % dog_"), "a title"),
    ],
)
def test_a_users_own_matplotlibrc_changes_nothing(draw_some: Callable) -> None:
    """It may ask for LaTeX, which may not be there."""
    usual = draw_some()
    with rc_context({"text.usetex": True, "axes.titlelocation": "left", "xtick.labelsize": 20, "lines.markersize": 20}):
        assert np.array_equal(draw_some(), usual)


def test_drawing_reads_no_styles_of_a_user() -> None:
    """matplotlib.style, and pyplot with it, reads all of them on import, and fails if one is no text."""
    program = """
import sys
import numpy as np
from harness import pictures
pictures.confusion_figure(np.eye(2), ("a", "b"), "title")
print({"matplotlib.style", "matplotlib.pyplot"} & {*sys.modules})
"""
    for module in ANALYSES:  # which import PyTorch besides, for seconds
        assert "pyplot" not in Path(module.__file__).read_text() and "style" not in vars(module)
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
