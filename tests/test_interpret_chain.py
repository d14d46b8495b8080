"""The chain from image to map: found where there is one, refused by the layer's name where there is none."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from interpret_networks import NETWORKS, images, lenet5, other, small_batches  # noqa: F401 - a fixture
from torch import nn

from interpret.chain import convolutions, feature_vectors, trace
from interpret.deconvnet import receptive_fields
from interpret.filters import aliased_energy, filter_pictures, rms, strongest_filters


def test_chain_of_lenet5_names_its_modules_and_sizes():
    model, pictures = lenet5()
    chain = trace(model, pictures)
    assert [layer.name for layer in chain] == [
        f"features.{kind}{number}" for number in (1, 2) for kind in ("conv", "relu", "pool")
    ]
    assert chain[0].input_size == (1, 16, 16) and chain[0].output_size == (32, 16, 16)
    assert chain[-1].input_size == (64, 8, 8) and chain[-1].output_size == (64, 4, 4)
    assert convolutions(model) == ["features.conv1", "features.conv2"]
    assert trace(model, pictures, "features.relu1") == chain[:2]


class _Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

    def forward(self, pictures):
        maps = self.first(pictures)
        return self.third(maps + self.second(maps))


class _Functional(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.first, self.second, self.in_place = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), in_place

    def forward(self, pictures):
        maps = self.first(pictures)
        return self.second(maps.sin_() if self.in_place else maps.sin())


def _two(middle):
    return nn.Sequential(OrderedDict(first=nn.Conv2d(2, 2, 3), middle=middle, last=nn.Conv2d(2, 2, 3)))


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (_two(nn.BatchNorm2d(2)), "middle is a BatchNorm2d"),
        (_two(nn.AvgPool2d(2)), "middle is a AvgPool2d"),
        (_two(nn.Sequential(nn.Tanh())), "middle.0 is a Tanh"),
        (_two(nn.Conv2d(2, 2, 3, groups=2)), "middle has groups 2"),
        (_two(nn.Conv2d(2, 2, 3, dilation=2)), "middle has groups 1 and dilation"),
        (_two(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "middle pads"),
        (_two(nn.Conv2d(2, 2, 3, padding="same")), "middle pads"),
        (_Branch(), "third is not fed with the output of second"),
        (_Functional(in_place=False), "second is not fed with the output of first"),
        (_Functional(in_place=True), "second is not fed with the output of first"),
        (nn.Sequential(*[nn.Conv2d(2, 2, 3)] * 2), "0 is used more than once"),
        (nn.Sequential(nn.Flatten(), nn.Linear(288, 2)), "has no Conv2d"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(model, layer):
    with pytest.raises(ValueError, match=layer):
        trace(model, images(1, 2, 12, 12))


def test_feature_vectors_need_a_linear_module_that_is_used():
    class Unused(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(2, 2, 3))
            self.head = nn.Linear(1, 1)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self[0](pictures)

    with pytest.raises(ValueError, match="Sequential uses no Linear module"):
        feature_vectors(nn.Sequential(nn.Conv2d(2, 2, 3)), images(1, 2, 12, 12))
    with pytest.raises(ValueError, match="Unused uses no Linear module"):
        feature_vectors(Unused(), images(1, 2, 12, 12))


def test_unknown_layer_is_refused_with_the_known_ones():
    model, pictures = lenet5()
    with pytest.raises(ValueError, match=r"no layer features\.conv3; the layers are features\.conv1, "):
        trace(model, pictures, "features.conv3")


def test_model_is_left_as_it_was():
    model, pictures = other()
    model.train()
    model[9].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    feature_vectors(model, pictures)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_feature_vectors_are_the_layers_of_the_network():
    model, pictures = lenet5()
    features = feature_vectors(model, pictures)
    with torch.no_grad():
        first = model.features[:3](pictures)
        last = model.features[3:](first)
        hidden = model.classifier[:3](last)
        logits = model.classifier[3](hidden)
    for ours, expected in zip(features, (first, last, hidden, logits), strict=True):
        torch.testing.assert_close(ours, expected.flatten(1), rtol=1e-4, atol=1e-6)


def test_feature_vectors_of_a_network_that_works_in_place():
    model, pictures = other()
    features = feature_vectors(model, pictures)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(features.first, model[:3](pictures).flatten(1))
        torch.testing.assert_close(features.last_convolution, model[:8](pictures).flatten(1))
        torch.testing.assert_close(features.last_hidden, model[:12](pictures))


@pytest.mark.parametrize("network", NETWORKS)
def test_receptive_field_is_where_the_gradient_reaches(network):
    """Convolutions with positive weights on average-pooled maps: the gradient is zero exactly outside the field."""
    model, pictures = NETWORKS[network]()
    chain = trace(model, pictures)
    maps = torch.ones_like(pictures[:1]).requires_grad_()
    pixels = maps
    for layer in chain:
        module = layer.module
        if isinstance(module, nn.Conv2d):
            weight = torch.ones_like(module.weight)
            maps = nn.functional.conv2d(maps, weight, stride=module.stride, padding=module.padding)
        elif isinstance(module, nn.MaxPool2d):
            maps = nn.functional.avg_pool2d(maps, module.kernel_size, module.stride, module.padding, module.ceil_mode)
        assert maps.shape[2:] == layer.output_size[1:]
        _, _, height, width = maps.shape
        for row in {0, 1, height // 2, height - 1} & {*range(height)}:
            for column in {0, 1, width // 2, width - 1} & {*range(width)}:
                (gradient,) = torch.autograd.grad(maps[0, 0, row, column], pixels, retain_graph=True)
                rows, columns = gradient[0, 0].nonzero(as_tuple=True)
                box = receptive_fields(model, pictures, layer.name, [(row, column)])[row, column]
                assert box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


def test_filter_pictures_share_one_scale_with_zero_in_the_middle():
    weights = torch.tensor([[[[-2.0, 0.0, 1.0]]], [[[0.5, 0.0, -0.5]]], [[[0.0, 0.0, 0.0]]]])
    pictures, limit = filter_pictures(weights)
    assert limit == 2
    assert pictures.flatten().tolist() == [0, 0.5, 0.75, 0.625, 0.5, 0.375, 0.5, 0.5, 0.5]
    pictures, limit = filter_pictures(weights, per_filter=True)
    assert limit.tolist() == [2, 0.5, 0]
    assert pictures.flatten().tolist() == [0, 0.5, 0.75, 1, 0.5, 0, 0.5, 0.5, 0.5]


def test_strongest_filters_are_the_maps_and_inputs_with_the_largest_weights() -> None:
    weights = torch.zeros(3, 4, 1, 2)
    weights[0, 2], weights[1, 3], weights[1, 0], weights[2, 1] = 1.0, -5.0, 2.0, 3.0
    maps, inputs = strongest_filters(weights, 2, 2)
    assert maps.tolist() == [1, 2]  # by size, whatever the sign
    assert inputs[0].tolist() == [3, 0] and inputs[1, 0] == 1
    assert [part.shape for part in strongest_filters(weights, 9, 9)] == [(3,), (3, 4)]


def test_aliasing_is_energy_that_a_sampled_map_cannot_show():
    flat, checks = torch.ones(1, 2, 8, 8), (torch.arange(8)[:, None] + torch.arange(8)).remainder(2) * 2.0 - 1
    assert aliased_energy(flat, 1).item() == 0 and aliased_energy(flat, 2).item() < 0.1
    assert aliased_energy(checks.expand(1, 2, 8, 8), 2).item() > 0.9
    assert aliased_energy(torch.zeros(1, 1, 3, 3), 2).item() == 0
    weights = np.random.default_rng(0).normal(size=(4, 3, 5, 7))
    spectrum = (np.abs(np.fft.fft2(weights, s=(1024, 1024))) ** 2).sum(axis=1)
    low = np.abs(np.fft.fftfreq(1024)) < 1 / 6
    expected = 1 - (spectrum * np.outer(low, low)).sum(axis=(1, 2)) / spectrum.sum(axis=(1, 2))
    np.testing.assert_allclose(aliased_energy(torch.tensor(weights), 3), expected, atol=2e-3)
    torch.testing.assert_close(rms(torch.tensor([[[[3.0, 4.0]]], [[[0.0, 2.0]]]])), torch.tensor([12.5, 2.0]).sqrt())
