"""The deconvnet by hand, and against Captum's on the same networks; evolution."""

import copy

import captum.attr as captum_attr
import pytest
import torch
from interpret_networks import NETWORKS, images, lenet5, small_batches  # noqa: F401 - a fixture
from torch import nn

from interpret.chain import trace
from interpret.deconvnet import receptive_fields, reconstruct, strongest_activations
from interpret.evolution import evolution


def two_layers(kernel_1, kernel_2):
    """Conv 1×2, ReLU, MaxPool 1×2, Conv 1×1 of two maps: small enough to go through with pencil and paper."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, (1, 2)), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Conv2d(2, 1, 1, bias=False), nn.ReLU()
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(kernel_1).view(2, 1, 1, 2))
        model[0].bias.fill_(0.5)
        model[3].weight.copy_(torch.tensor(kernel_2).view(1, 2, 1, 1))
    return model


def test_two_layers_by_hand():
    """Image 1 3 -2 0 4. Map 0 = x0 - x1 + .5: -1.5 5.5 -1.5 -3.5, rectified 0 5.5 0 0; pooled 5.5 (from 1), 0 (from 2).
    Map 1 = 2 x1 + .5: 6.5 -3.5 .5 8.5, rectified 6.5 0 .5 8.5; pooled 6.5 (from 0), 8.5 (from 3).
    Layer 2 = -map 0 + 3 map 1: 14, 25.5. The activation 25.5 at column 1 goes back as -25.5 in map 0, rectified away,
    and as 76.5 in map 1 at place 3, whose filter (0, 2) lays 153 on pixel 4; bias and forward signs play no part."""
    model = two_layers([1.0, -1.0, 0.0, 2.0], [-1.0, 3.0])
    image = torch.tensor([1.0, 3.0, -2.0, 0.0, 4.0]).view(1, 1, 1, 5)
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert reconstruct(model, image, "4", zero, zero, one).flatten().tolist() == [0, 0, 0, 0, 153]
    # Column 0: 14 goes back as 42 in map 1 at place 0, whose filter lays 84 on pixel 1.
    assert reconstruct(model, image, "4", zero, zero, zero).flatten().tolist() == [0, 84, 0, 0, 0]
    assert reconstruct(model, image, "4", zero).flatten().tolist() == [0, 84, 0, 0, 153]
    # Of layer 1 itself: 5.5 at place 1 of map 0 lays 5.5 and -5.5; from the pooled map, the switch says so.
    for layer, column in (("1", one), ("2", zero)):
        assert reconstruct(model, image, layer, zero, zero, column).flatten().tolist() == [0, 5.5, -5.5, 0, 0]
    # A negative value goes back from before the ReLU, not from behind it.
    assert reconstruct(model, image, "0", zero, zero, zero).flatten().tolist() == [-1.5, 1.5, 0, 0, 0]
    assert not reconstruct(model, image, "1", zero, zero, zero).any()


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU", "ignore:Input Tensor 0 did not already require")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("network", NETWORKS)
def test_deconvnet_equals_captum(network, memory_format):
    """Captum projects an activation of 1; a deconvnet is in proportion to a positive one, so it is multiplied by it."""
    model, pictures = NETWORKS[network]()
    model = model.to(memory_format=memory_format).eval()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # Captum's hooks refuse it
    compared = 0
    for layer in (layer for layer in trace(model, pictures) if isinstance(layer.module, nn.Conv2d)):
        theirs = captum_attr.NeuronDeconvolution(model, layer.module)
        found = strongest_activations(model, pictures, [layer.name], count=3)[layer.name]
        every = max(1, len(found.images) // 6)
        maps = torch.arange(len(found.images))[::every].repeat_interleave(3)
        index, rows, columns, values = (
            each[::every].flatten() for each in (found.images, found.rows, found.columns, found.values)
        )
        ours = reconstruct(model, pictures[index], layer.name, maps, rows, columns)
        for i in (values > 0).nonzero().flatten():
            neuron = (int(maps[i]), int(rows[i]), int(columns[i]))
            unit = theirs.attribute(pictures[index[i] : index[i] + 1], neuron)[0].detach()
            assert unit.any()
            torch.testing.assert_close(ours[i], values[i] * unit, rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared >= 30


@pytest.mark.parametrize("network", NETWORKS)
def test_reconstruction_lies_in_the_receptive_field(network):
    model, pictures = NETWORKS[network]()
    name = trace(model, pictures)[-1].name
    strongest = strongest_activations(model, pictures, [name], count=1)[name]
    index, rows, columns = strongest.images[:, 0], strongest.rows[:, 0], strongest.columns[:, 0]
    pixels = reconstruct(model, pictures[index], name, torch.arange(len(index)), rows, columns)
    assert pixels.any()
    boxes = receptive_fields(model, pictures, name, zip(rows.tolist(), columns.tolist(), strict=True))
    for i in range(len(index)):
        box = boxes[int(rows[i]), int(columns[i])]
        pixels[i, :, box.top : box.bottom, box.left : box.right] = 0
    assert not pixels.any()


@pytest.mark.parametrize("network", NETWORKS)
def test_whole_map_of_a_first_layer_is_the_sum_of_its_positions(network):
    """Before any rectification on the way down the projection is linear."""
    model, pictures = NETWORKS[network]()
    name = trace(model, pictures)[0].name
    _, height, width = trace(model, pictures)[0].output_size
    rows, columns = (each.flatten() for each in torch.meshgrid(*map(torch.arange, (height, width)), indexing="ij"))
    one = pictures[:1].expand(len(rows), -1, -1, -1)
    singles = reconstruct(model, one, name, torch.full_like(rows, 2), rows, columns).sum(dim=0)
    whole = reconstruct(model, pictures[:1], name, torch.tensor([2]))[0]
    torch.testing.assert_close(whole, singles, rtol=1e-4, atol=1e-4)


def test_evolution_is_the_strongest_reconstruction_under_each_weights():
    model, _ = lenet5(channels=3)
    pictures = images(9, 3, 16, 16)
    model.features.conv1.bias.data.fill_(0.1)  # stays as the model has it: the snapshots hold weights only
    before = copy.deepcopy(model.state_dict())
    generator = torch.Generator().manual_seed(3)
    names = ("features.conv1.weight", "features.conv2.weight")
    weights = {
        epoch: {name: torch.randn(before[name].shape, generator=generator) for name in names} for epoch in (10, 1, 2)
    }
    stages = evolution(model, pictures, {"features.relu1": [1], "features.relu2": [5, 60, 5]}, weights)[
        "features.relu2"
    ]
    assert list(stages) == [1, 2, 10]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for epoch, stage in stages.items():
        model.load_state_dict(weights[epoch], strict=False)
        with torch.no_grad():
            maps = model.features[:5](pictures)
        for i, number in enumerate([5, 60, 5]):
            assert stage.values[i] == pytest.approx(float(maps[:, number].max()), rel=1e-4)
            at = maps[stage.images[i], number, stage.rows[i], stage.columns[i]]
            assert at == maps[:, number].max()
            expected = reconstruct(
                model,
                pictures[stage.images[i] : stage.images[i] + 1],
                "features.relu2",
                torch.tensor([number]),
                stage.rows[i : i + 1],
                stage.columns[i : i + 1],
            )
            torch.testing.assert_close(stage.pixels[i], expected[0], rtol=1e-3, atol=1e-3)
