"""Activation statistics and strongest activations, against NumPy over hooked activations."""

import numpy as np
import pytest
import torch
from interpret_networks import NETWORKS, images, lenet5, small_batches  # noqa: F401 - a fixture
from torch import nn

from interpret.activations import activation_statistics
from interpret.chain import trace
from interpret.deconvnet import strongest_activations


def hooked(model, pictures, layers):
    """The named layers' outputs over all images as float64 arrays, from one plain forward pass."""
    kept = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: kept.update({name: output.detach().double().numpy().copy()})
        )
        for name in layers
    ]
    model.eval()
    model(pictures)
    for hook in hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("network", NETWORKS)
def test_statistics_equal_a_numpy_pass(network):
    model, pictures = NETWORKS[network]()
    statistics = activation_statistics(model, pictures)
    relus = [layer.name for layer in trace(model, pictures) if isinstance(layer.module, nn.ReLU)]
    assert [each.layer for each in statistics] == relus
    for each, maps in zip(statistics, hooked(model, pictures, relus).values(), strict=True):
        assert each.images == 6
        assert each.mean == pytest.approx(maps.mean(), rel=1e-6)  # activations themselves are float32
        assert each.std == pytest.approx(maps.std(), rel=1e-6)
        assert each.zeros == (maps == 0).mean()
        assert each.zero_count == (maps == 0).sum()
        np.testing.assert_allclose(each.map_mean, maps.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(each.map_std, maps.std(axis=(0, 2, 3)), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(each.map_zeros, (maps == 0).mean(axis=(0, 2, 3)))
        np.testing.assert_allclose(each.map_images, (maps > 0).any(axis=(2, 3)).mean(axis=0))
        np.testing.assert_allclose(each.map_max, maps.max(axis=(0, 2, 3)), rtol=1e-5)
        edges = each.histogram_edges.numpy().copy()
        assert edges[0] == 2**-16 and edges[4] == 2**-15 and edges[1] == 1.25 * 2**-16
        edges[0] = np.nextafter(0, 1)
        counts, _ = np.histogram(maps, edges)
        moved = np.abs(counts - each.histogram_counts.numpy()).sum()  # a value on an edge may round to its other side
        assert moved <= 2 and each.histogram_counts.sum() == (maps > 0).sum()


def test_statistics_of_general_numbers():
    model, pictures = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()), 5 * images(300, 1, 30, 30).exp()
    nn.init.ones_(model[0].weight)
    (statistics,) = activation_statistics(model, pictures)
    exact = pictures.double().numpy()
    assert (statistics.mean, statistics.std) == pytest.approx((exact.mean(), exact.std()), rel=1e-7)


def test_statistics_lose_nothing_where_the_spread_is_a_millionth_of_the_mean():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    nn.init.ones_(model[0].weight)
    pictures = 3 + 1e-6 * images(40, 1, 8, 8)
    (statistics,) = activation_statistics(model, pictures)
    exact = pictures.double().numpy()
    assert statistics.mean == pytest.approx(exact.mean(), rel=1e-15)
    assert statistics.std == pytest.approx(exact.std(), rel=1e-12)
    assert statistics.active_in_all == [0] and statistics.dead == []


def test_dead_and_active_in_all_maps():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([-1.0, 0.0, -9.0]))
    pictures = torch.tensor([[1.0, -1.0], [2.0, -2.0], [10.0, 3.0]]).view(3, 1, 1, 2)
    (statistics,) = activation_statistics(model, pictures)
    assert statistics.dead == [0] and statistics.active_in_all == [1]
    assert statistics.map_images.tolist() == pytest.approx([0, 1, 1 / 3])
    assert statistics.map_max.tolist() == [0, 10, 1]


@pytest.mark.parametrize("network", NETWORKS)
def test_strongest_activations_equal_a_numpy_sort(network):
    model, _ = NETWORKS[network]()
    pictures = images(23, *NETWORKS[network]()[1].shape[1:], seed=5)
    names = [layer.name for layer in trace(model, pictures) if isinstance(layer.module, nn.ReLU)]
    found = strongest_activations(model, pictures, names, count=4)
    for name, maps in hooked(model, pictures, names).items():
        peaks = maps.max(axis=(2, 3))  # (images, maps)
        strongest = found[name]
        np.testing.assert_allclose(strongest.values.numpy(), np.sort(peaks, axis=0)[::-1][:4].T, rtol=1e-4, atol=1e-6)
        for number in range(maps.shape[1]):
            assert len(set(strongest.images[number].tolist())) == 4
            at = maps[strongest.images[number], number, strongest.rows[number], strongest.columns[number]]
            np.testing.assert_allclose(strongest.values[number], at, rtol=1e-4, atol=1e-6)


def test_fewer_images_than_asked_for():
    model, pictures = lenet5()
    assert strongest_activations(model, pictures, ["features.conv2"], count=9)["features.conv2"].values.shape == (64, 6)
