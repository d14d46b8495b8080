"""Occlusion, invariance and correspondence: batched equals one by one, plain loops, and Captum."""

import itertools
import math

import captum.attr as captum_attr
import pytest
import torch
from interpret_networks import NETWORKS, images, lenet5, small_batches  # noqa: F401 - a fixture
from torch import nn

from interpret.chain import feature_vectors
from interpret.correspondence import LAYERS, PARTS, correspondence
from interpret.invariance import invariance, transform
from interpret.occlusion import occlusion, square_positions


def test_square_positions_end_at_the_border():
    assert square_positions(32, 8, 2).tolist() == list(range(0, 25, 2))
    assert square_positions(10, 3, 3).tolist() == [0, 3, 6, 7]
    assert square_positions(5, 5, 1).tolist() == [0]


@pytest.mark.parametrize("network", NETWORKS)
def test_occlusion_equals_one_square_at_a_time(network):
    model, pictures = NETWORKS[network]()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    maps = occlusion(model, pictures, labels, size=5, stride=4, value=0.3)
    model.eval()
    last = model.get_submodule(maps.layer)
    assert isinstance(last, nn.ReLU)
    kept = []
    hook = last.register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))

    def answer(picture, label, number=None):
        with torch.no_grad():
            probabilities = model(picture[None]).softmax(dim=1)[0]
        features = kept.pop()[0]
        number = int(features.flatten(1).max(dim=1).values.argmax()) if number is None else number
        return float(probabilities[label]), int(probabilities.argmax()), float(features[number].sum()), number

    for i in range(len(pictures)):
        probability, predicted, activation, number = answer(pictures[i], labels[i])
        assert maps.clean_probability[i] == pytest.approx(probability, rel=1e-4)
        assert (maps.clean_predicted[i], maps.strongest_map[i]) == (predicted, number)
        assert maps.clean_activation[i] == pytest.approx(activation, rel=1e-4)
        for row, top in enumerate(maps.rows):
            for column, left in enumerate(maps.columns):
                hidden = pictures[i].clone()
                hidden[:, top : top + 5, left : left + 5] = 0.3
                probability, predicted, activation, _ = answer(hidden, labels[i], number)
                assert maps.probability[i, row, column] == pytest.approx(probability, rel=1e-4)
                assert maps.predicted[i, row, column] == predicted
                assert maps.activation[i, row, column] == pytest.approx(activation, rel=1e-4, abs=1e-6)
    hook.remove()


@pytest.mark.parametrize("network", ["gray LeNet5", "another network"])
def test_probability_lost_equals_captums_occlusion(network):
    """With squares that do not overlap, Captum gives every pixel the difference that hiding its square makes."""
    model, pictures = NETWORKS[network]()
    pictures = pictures[:, :, :16, :16] if network == "gray LeNet5" else pictures
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    size = 2
    model.eval()
    maps = occlusion(model, pictures, labels, size=size, stride=size)
    window = (pictures.shape[1], size, size)
    theirs = captum_attr.Occlusion(lambda batch: model(batch).softmax(dim=1)).attribute(
        pictures, window, strides=window, target=labels, baselines=0.0
    )
    lost = maps.clean_probability[:, None, None] - maps.probability
    ours = lost.repeat_interleave(size, 1).repeat_interleave(size, 2)
    torch.testing.assert_close(ours, theirs[:, 0].float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["translation", "scale", "rotation"])
def test_identity_changes_nothing(kind):
    for network in NETWORKS.values():
        model, pictures = network()
        still = 1.0 if kind == "scale" else 0.0
        labels = torch.tensor([0, 1, 2, 3, 0, 1])
        curves = invariance(model, pictures, labels, kind, [still, still + 0.5], fill=0.7)
        assert not curves.first[0].any() and not curves.last_hidden[0].any()
        assert (curves.first[1] > 0).all() and (curves.last_hidden[1] > 0).all()
        torch.testing.assert_close(transform(pictures, kind, still, fill=0.7), pictures)


def test_whole_pixels_and_quarter_turns_move_exactly():
    picture = images(2, 3, 6, 6)
    down = transform(picture, "translation", 2, fill=-1.0)
    assert (down[:, :, :2] == -1).all()
    torch.testing.assert_close(down[:, :, 2:], picture[:, :, :-2])
    up = transform(picture, "translation", -1)
    assert (up[:, :, -1] == 0).all()
    torch.testing.assert_close(up[:, :, :-1], picture[:, :, 1:])
    torch.testing.assert_close(transform(picture, "rotation", 90, fill=0.4), picture.rot90(1, (2, 3)))
    torch.testing.assert_close(transform(picture, "rotation", -180), picture.flip(2, 3))


def test_scale_two_shows_the_middle_half():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(transform(ramp, "scale", 2)[0, 0, 3], torch.arange(8.0) / 2 + 1.75)
    half = transform(torch.ones(1, 1, 8, 8), "scale", 0.5, fill=-1.0)
    assert (half[0, 0, 2:6, 2:6] == 1).all() and (half[0, 0, :2] == -1).all()


def test_rotation_keeps_an_oblong_images_proportions():
    """A 3×3 dot off the centre of a 40 × 60 image turns about it by 90° in pixels, not in shares of the sides."""
    picture = torch.zeros(1, 1, 40, 60)
    picture[0, 0, 19:21, 39:41] = 1  # ten pixels right of the centre
    turned = transform(picture, "rotation", 90)  # anticlockwise: ten above it
    expected = torch.zeros(1, 1, 40, 60)
    expected[0, 0, 9:11, 29:31] = 1
    torch.testing.assert_close(turned, expected, atol=1e-6, rtol=0)


def test_invariance_is_the_distance_of_feature_vectors():
    model, pictures = lenet5()
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    curves = invariance(model, pictures, labels, "rotation", [0, 30, 90])
    for k, angle in enumerate((0, 30, 90)):
        for i in range(6):
            both = torch.cat([pictures[i : i + 1], transform(pictures[i : i + 1], "rotation", angle)])
            features = feature_vectors(model, both)
            first, hidden = (math.dist(*values.tolist()) for values in (features.first, features.last_hidden))
            assert curves.first[k, i] == pytest.approx(first, rel=1e-4, abs=1e-5)
            assert curves.last_hidden[k, i] == pytest.approx(hidden, rel=1e-4, abs=1e-5)
            assert curves.probability[k, i] == pytest.approx(float(features.logits[1].softmax(0)[i]), rel=1e-4)
    assert curves.first_norm[0] == pytest.approx(float(feature_vectors(model, pictures).first[0].norm()), rel=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_correspondence_equals_a_plain_loop(network):
    model, pictures = NETWORKS[network]()
    labels = torch.tensor([2, 0, 2, 0, 0, 2])
    size, stride, value = 4, 3, 0.1
    table = correspondence(model, pictures, labels, size=size, stride=stride, value=value, seed=7)
    assert [(cell.part, cell.layer) for cell in table] == list(itertools.product(PARTS, LAYERS))
    model.eval()
    rows, columns = (square_positions(side, size, stride).tolist() for side in pictures.shape[2:])
    cells = list(itertools.product(rows, columns))

    def hide(i, cell):
        hidden = pictures[i : i + 1].clone()
        hidden[:, :, cell[0] : cell[0] + size, cell[1] : cell[1] + size] = value
        return hidden

    def lost(i, cell):
        with torch.no_grad():
            clean, hidden = model(torch.cat([pictures[i : i + 1], hide(i, cell)])).softmax(dim=1)[:, labels[i]]
        return float(clean - hidden)

    costs = [[lost(i, cell) for cell in cells] for i in range(6)]
    by_class = {label: [i for i in range(6) if labels[i] == label] for label in (0, 2)}
    chosen = {part: {} for part in PARTS}
    for members in by_class.values():
        total = [sum(costs[i][c] for i in members) for c in range(len(cells))]
        for i in members:
            chosen[PARTS[0]][i] = cells[total.index(max(total))]
            chosen[PARTS[2]][i] = cells[costs[i].index(max(costs[i]))]
    for cell in table:
        if cell.part not in (PARTS[0], PARTS[2]):
            continue
        signs = []
        for i in range(6):
            both = feature_vectors(model, torch.cat([pictures[i : i + 1], hide(i, chosen[cell.part][i])]))
            clean, hidden = getattr(both, cell.layer).tolist()
            signs.append([(a > b) - (a < b) for a, b in zip(clean, hidden, strict=True)])
        means, everything = [], []
        for members in by_class.values():
            pairs = [
                sum(a != b for a, b in zip(signs[i], signs[j], strict=True)) / len(signs[i])
                for i, j in itertools.combinations(members, 2)
            ]
            means.append(sum(pairs) / len(pairs))
            everything += pairs
        mean = sum(everything) / len(everything)
        assert cell.mean == pytest.approx(mean, abs=1e-3)
        assert cell.std == pytest.approx(
            math.sqrt(sum((x - mean) ** 2 for x in everything) / len(everything)), abs=1e-3
        )
        assert cell.by_class.tolist() == pytest.approx(means, abs=1e-3)


def test_correspondence_is_perfect_among_copies_of_an_image():
    """Hiding the same cell of the same image changes the same features; hiding random ones does not."""
    model, pictures = lenet5()
    copies = pictures[:1].repeat(8, 1, 1, 1)
    table = {
        (cell.part, cell.layer): cell.mean
        for cell in correspondence(model, copies, torch.zeros(8).long(), size=8, stride=4)
    }
    for layer in LAYERS:
        assert table["class's critical cell", layer] == table["own critical cell", layer] == 0
        assert table["same random cell", layer] == 0 < table["random cells", layer]


def test_correspondence_draws_the_same_random_cells_from_a_seed():
    model, pictures = lenet5()
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    runs = [correspondence(model, pictures, labels, size=8, stride=4, seed=seed) for seed in (1, 1, 2)]
    means = [[cell.mean for cell in table] for table in runs]
    assert means[0] == means[1] != means[2]
