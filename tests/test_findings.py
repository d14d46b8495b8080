"""The tables that visualize.py writes, from results made by hand, without the figures."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.analyses import activations, deconvnet, filters, invariance, occlusion
from harness.analyses.base import Subject
from harness.data import ImageSet, Split
from harness.pictures import image_tile
from interpret.deconvnet import Activations, Box

PIXEL = np.zeros((1, 1, 3), dtype=np.uint8)


def test_filters_have_the_metrics_of_their_weights(monkeypatch) -> None:
    monkeypatch.setattr(filters, "draw", lambda *_: PIXEL)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, (1, 2), stride=2))
    model[0].weight.data = torch.tensor([[[[3.0, -4.0]]], [[[0.5, 0.5]]]])
    table, by_layer = filters.analyze(Subject(SimpleNamespace(model=model, source=lambda images: "cifar10"))).tables
    assert table.rows == [
        ("0", 0, -0.5, 3.5, 5.0, 4.0, pytest.approx(12.5**0.5), pytest.approx(0.75 + 12 / 25 / math.pi)),
        ("0", 1, 0.5, 0.0, pytest.approx(0.5**0.5), 0.5, 0.5, pytest.approx(0.75 - 0.5 / math.pi)),
    ]
    in_all = (12.5**0.5, (12.5**0.5 + 0.5) / 2, 2, 0.75 - 0.01 / math.pi)
    assert by_layer.rows == [("0", 2, *map(pytest.approx, in_all))]


def test_filters_say_what_black_and_white_are(monkeypatch) -> None:
    monkeypatch.setattr(filters, "draw", lambda *_: PIXEL)
    trained = SimpleNamespace(model=torch.nn.Conv2d(1, 2, 3), source=lambda images: "cifar10")
    assert "one scale for all filters" in filters.analyze(Subject(trained)).text
    assert "each filter's own" in filters.analyze(Subject(trained, per_filter=True)).text


def test_activations_of_each_map_and_the_histogram_with_its_zeros() -> None:
    layer = SimpleNamespace(
        mean=1.0,
        std=2.0,
        zeros=0.5,
        dead=[],
        active_in_all=[1],
        map_mean=torch.tensor([0.25, 2.0]),
        map_std=torch.tensor([0.5, 1.0]),
        map_zeros=torch.tensor([0.75, 0.0]),
        map_images=torch.tensor([0.5, 1.0]),
        map_max=torch.tensor([4.0, 8.0]),
        histogram_edges=torch.tensor([0.0, 1.0, 3.0]),
        histogram_counts=torch.tensor([5, 6]),
        zero_count=7,
    )
    tables = activations.make_tables([layer] * 2, "cifar10, 1,200 test images")
    assert tables[0].header[-2:] == ("dead maps", "maps active in every image")
    assert tables[0].rows == [
        ("ReLU1", 1.0, 2.0, 0.0657, 0.1373, 0.5, 0, 1),  # the original's numbers
        ("ReLU2", 1.0, 2.0, 0.1000, 0.3112, 0.5, 0, 1),
    ]
    other = activations.make_tables([layer] * 3, "cifar10, 1,200 test images")[0].rows  # of another network
    assert other[2] == ("ReLU3", 1.0, 2.0, None, None, 0.5, 0, 1) and other[0][3:5] == (None, None)
    assert tables[1].rows[2:4] == [("ReLU2", 0, 0.25, 0.5, 0.75, 0.5, 4.0), ("ReLU2", 1, 2.0, 1.0, 0.0, 1.0, 8.0)]
    assert tables[2].rows[:3] == [("ReLU1", None, None, 7), ("ReLU1", 0.0, 1.0, 5), ("ReLU1", 1.0, 3.0, 6)]
    assert "1,200 test images" in tables[0].title
    printed = activations.printed_table([tables[0].rows[1], other[2]], "cifar10").splitlines()
    assert printed[-2:] == [
        "  ReLU2         1.0000   2.0000      0.1000   0.3112    50.0%     0              1",
        "  ReLU3         1.0000   2.0000                         50.0%     0              1",
    ]


def test_invariance_is_the_distance_as_a_share_of_the_features_length() -> None:
    """Two images shown, then two that are averaged, one of which the first layer answers only once it is turned."""
    result = SimpleNamespace(
        kind="rotation",
        amounts=torch.tensor([0.1, 90.0], dtype=torch.float64),
        first=torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 2.0, 9.0]]),
        first_norm=torch.tensor([2.0, 4.0, 8.0, 0.0]),
        last_hidden=torch.tensor([[0.0, 0.0, 1.0, 2.0], [5.0, 6.0, 4.0, 2.0]]),
        last_hidden_norm=torch.tensor([10.0, 8.0, 4.0, 2.0]),
        probability=torch.tensor([[1.0, 0.5, 0.5, 0.25], [0.125, 0.25, 0.5, 0.75]]),
    )
    assert invariance.curve_rows(result, ["7", "11"], ["cat", "dog"]) == [
        ("rotation", "7", "cat", 0.1, 0.0, 0.0, 1.0),
        ("rotation", "7", "cat", 90.0, 0.5, 0.5, 0.125),
        ("rotation", "11", "dog", 0.1, 0.0, 0.0, 0.5),
        ("rotation", "11", "dog", 90.0, 0.75, 0.75, 0.25),
        ("rotation", "mean of 2", "", 0.1, 0.0, 0.625, 0.375),
        ("rotation", "mean of 2", "", 90.0, 0.25, 1.0, 0.625),
    ]


def test_invariance_of_silent_images_is_not_a_number_and_not_in_the_mean() -> None:
    """The image shown has no activation in the first layer, none of the others in the last hidden one."""
    result = SimpleNamespace(
        kind="scale",
        amounts=torch.tensor([1.0]),
        first=torch.tensor([[3.0, 1.0, 2.0]]),
        first_norm=torch.tensor([0.0, 4.0, 4.0]),
        last_hidden=torch.tensor([[1.0, 3.0, 0.0]]),
        last_hidden_norm=torch.tensor([4.0, 0.0, 0.0]),
        probability=torch.tensor([[0.5, 0.25, 0.75]]),
    )
    shown, mean = invariance.curve_rows(result, ["7"], ["cat"])
    assert shown == ("scale", "7", "cat", 1.0, pytest.approx(math.nan, nan_ok=True), 0.25, 0.5)
    assert mean == ("scale", "mean of 2", "", 1.0, 0.375, pytest.approx(math.nan, nan_ok=True), 0.5)


def test_occlusion_names_the_place_that_costs_most_and_how_often_the_answer_stays_right() -> None:
    maps = SimpleNamespace(
        size=8,
        rows=torch.tensor([0, 4]),
        columns=torch.tensor([1, 5, 9]),
        probability=torch.tensor([[[0.9, 0.8, 0.7], [0.6, 0.25, 0.5]]]),
        predicted=torch.tensor([[[1, 1, 1], [0, 0, 1]]]),
        activation=torch.tensor([[[2.0, 3.0, 4.0], [1.5, 2.5, 3.5]]]),
        clean_probability=torch.tensor([0.75]),
        clean_activation=torch.tensor([5.0]),
        strongest_map=torch.tensor([3]),
    )
    (row,) = occlusion.occlusion_rows(maps, [42], [1], ["cat", "dog"])
    assert row == (42, "dog", 0.75, 0.25, 4, 5, pytest.approx(4 / 6), 3, 5.0, 1.5)


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4)
    split = Split(pixels, torch.tensor([1, 0]))
    return ImageSet("synthetic", "0", ("cat", "dog"), 0.5, 0.5, train=split, test=split)


def test_invariance_says_that_its_mean_leaves_out_silent_images(images: ImageSet, monkeypatch) -> None:
    subject = Subject(SimpleNamespace(model=None, source=lambda images: "cifar10"), images=images)
    subject.inputs, subject.labels, subject.shown = torch.zeros(2, 1, 4, 4), images.test.labels, torch.tensor([1])
    norms = torch.ones(3)
    distances = {"first": torch.zeros(1, 3), "last_hidden": torch.zeros(1, 3), "probability": torch.zeros(1, 3)}
    result = SimpleNamespace(kind="scale", amounts=torch.ones(1), **distances, first_norm=norms, last_hidden_norm=norms)
    monkeypatch.setattr(invariance, "invariance", lambda *_, **options: result)
    monkeypatch.setattr(invariance, "draw", lambda *_: PIXEL)
    assert "the mean of 2 random test images. What" in invariance.analyze(subject).text
    norms[0] = 0.0  # of the image shown
    assert "the mean of 2 random test images. What" in invariance.analyze(subject).text
    norms[2] = 0.0
    silent = "images; a layer's distance leaves out those that it does not respond to. What"
    assert silent in invariance.analyze(subject).text


def two_found(value: float) -> Activations:
    places = (torch.tensor([1, 0]), torch.tensor([2, 3]), torch.tensor([0, 1]))
    return Activations(*places, torch.tensor([0.5, value]), torch.zeros(2, 1, 4, 4))


def test_row_of_an_activation_names_its_map_order_image_class_and_place(images: ImageSet) -> None:
    subject = Subject(SimpleNamespace(model=None), images=images)
    assert deconvnet.activation_rows(subject, "conv1", [5, 6], [1, 2], two_found(0.25)) == [
        ("conv1", 5, 1, 1, "cat", 2, 0, 0.5),
        ("conv1", 6, 2, 0, "dog", 3, 1, 0.25),
    ]


def test_tile_of_an_activation_is_its_receptive_field_of_its_image_and_of_none_blank(images, monkeypatch) -> None:
    """The second activation is zero: such a map has no more activations."""
    box = Box(top=1, left=1, bottom=3, right=4)
    monkeypatch.setattr(deconvnet, "receptive_fields", lambda *_: {(2, 0): box, (3, 1): box})
    subject = Subject(SimpleNamespace(model=None), images=images)
    projected, patches = deconvnet.activation_tiles(subject, "conv1", two_found(0.0))
    np.testing.assert_array_equal(patches[0], image_tile(images.test.images[1].numpy()[:, 1:3, 1:4]))
    assert projected[0].shape == (2, 3, 4)  # red, green, blue, alpha
    for blank in (projected[1], patches[1]):
        np.testing.assert_array_equal(blank, np.zeros((2, 3, 4)))
