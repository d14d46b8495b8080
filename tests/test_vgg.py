"""The strong CNN: its folded form, its start, its quick convolutions; trained, resumed and looked into."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.analyses.lengths import taken_lengths
from harness.checkpoint import FORMAT, load_trained
from harness.errors import UserError
from harness.flops import flops_per_image
from models import build_model
from models.convolution import Convolution
from models.vgg import BIAS_GAIN, FALL, cosine_patterns


def description(**changes: object) -> dict:
    return {"model": {"name": "VGG", "channels": 3, "image_size": 20, "classes": 10} | changes}


def random_images(count: int, size: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def trained_a_little(**changes: object) -> nn.Module:
    """A network whose statistics and biases are no longer those of the start; in evaluation mode."""
    model = build_model(description(**changes), seed=0).train()
    images = random_images(24, changes.get("image_size", 20))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        F.cross_entropy(model(images), torch.arange(24) % 10).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("size", [18, 28, 32])
def test_folded_network_is_a_plain_chain_that_computes_the_same(size: int) -> None:
    model = trained_a_little(image_size=size)
    folded, images = model.folded(), random_images(6, size, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), atol=1e-5, rtol=1e-4)
    kinds = [type(layer) for layer in folded.features]
    block, pooled = [nn.Conv2d, nn.ReLU], [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*block, *pooled, *block, *pooled, *block, *pooled, *block, nn.MaxPool2d]
    assert not folded.training and model.features.norm1.bias is not None  # the network itself is as it was


def test_block_is_convolution_normalization_relu_and_then_pooling() -> None:
    """By hand: the second block in evaluation mode, in the order in which it is usually written."""
    model = trained_a_little()
    maps = torch.randn(4, 32, 10, 10, generator=torch.Generator().manual_seed(0))
    conv, norm = model.features.conv2, model.features.norm2
    values = F.conv2d(maps, conv.weight, padding=1)
    mean, variance, bias = (each[:, None, None] for each in (norm.running_mean, norm.running_var, norm.bias))
    expected = F.max_pool2d(((values - mean) / (variance + norm.eps).sqrt() + BIAS_GAIN * bias).clamp(min=0), 2)
    with torch.no_grad():
        for layer in (conv, model.features.pool2, norm, model.features.relu2):
            maps = layer(maps)
    torch.testing.assert_close(maps, expected.detach(), atol=1e-5, rtol=1e-4)


def test_strangers_statistics_that_cannot_be_folded_are_refused(tmp_path: Path) -> None:
    model = build_model(description(), seed=0)
    model.features.norm3.running_var[0] = -1.0
    config = description() | {"flags": {}, "dataset": {"name": "cifar10"}}
    content = {"format": FORMAT, "config": config, "model": model.state_dict(), "epoch": 1}
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(UserError, match="weights that are not finite"):
        load_trained(tmp_path / "best.pt", build_model)


def test_seed_alone_decides_the_first_values_and_no_memory_is_left_unset() -> None:
    first, again, other = (build_model(description(), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.conv4.weight"], other["features.conv4.weight"])
    for number in range(1, 8):
        norm = {name: first[f"features.norm{number}.{name}"] for name in ("bias", "running_mean", "running_var")}
        assert not norm["bias"].any() and not norm["running_mean"].any() and (norm["running_var"] == 1).all()
        assert not first[f"features.norm{number}.num_batches_tracked"]


def test_first_maps_of_a_convolution_start_as_those_that_it_reads() -> None:
    model = build_model(description(), seed=0)
    maps = random_images(2, 8)[:, :1].expand(2, 64, 8, 8) * torch.arange(64)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model.features.conv4(maps)[:, :64], maps)


def test_first_filters_are_patterns_each_with_its_negative() -> None:
    patterns = cosine_patterns(3, 3)
    lengths = patterns.flatten(1).norm(dim=1)
    torch.testing.assert_close(
        lengths, FALL ** torch.tensor([0.0] + 3 * [1] + 6 * [2] + 7 * [3] + 6 * [4] + 3 * [5] + [6])
    )
    directions = patterns.flatten(1) / lengths[:, None]
    torch.testing.assert_close(directions @ directions.t(), torch.eye(27), atol=1e-6, rtol=0)
    assert (patterns[0] - patterns[0, 0, 0, 0]).abs().max() < 1e-6  # the first one is brightness
    filters = build_model(description(), seed=0).features.conv1.filters().detach()
    torch.testing.assert_close(filters[::2], patterns[:16])
    torch.testing.assert_close(filters[1::2], -patterns[:16])


def test_first_filters_learn_in_patterns() -> None:
    """The weights' gradient is the filters' one, asked how much of each pattern it holds."""
    first, images = build_model(description(), seed=0).features.conv1, random_images(4)
    answers = torch.randn(4, 32, 18, 18, generator=torch.Generator().manual_seed(2))
    first(images).backward(answers)
    filters = first.filters().detach().requires_grad_()
    F.conv2d(images, filters).backward(answers)
    expected = torch.einsum("mxyz,pxyz->mp", filters.grad, cosine_patterns(3, 3))
    torch.testing.assert_close(first.weight.grad.flatten(1), expected, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("batch", [32, 5])
@pytest.mark.parametrize("side", [3, 7])
def test_convolution_of_short_rows_has_the_gradients_of_pytorchs(side: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = Convolution(6, 4, padding=1)
    nn.init.uniform_(ours.weight, -0.2, 0.2, generator=generator)
    maps = torch.randn(batch, 6, side, side, generator=generator).to(torch.bfloat16)
    d_output = torch.randn(batch, 4, side, side, generator=generator).to(torch.bfloat16)
    results = []
    for convolution in (ours, lambda maps: F.conv2d(maps, ours.weight.to(maps.dtype), padding=1)):
        ours.weight.grad, given = None, maps.clone().requires_grad_()
        output = convolution(given)
        output.backward(d_output)
        results.append((output, given.grad, ours.weight.grad))
    assert type(results[0][0].grad_fn).__name__ == "_OfShortRowsBackward"
    for mine, pytorchs in zip(*results, strict=True):
        torch.testing.assert_close(mine.float(), pytorchs.float(), atol=0.02, rtol=0.02)  # bf16: 8 significant bits


def test_flops_are_those_of_the_products_counted_by_hand() -> None:
    model = build_model(description(image_size=32), seed=0)
    products = 900 * 27 * 32 + 900 * 288 * 64 + 225 * 576 * (64 + 256) + 49 * 2304 * (256 + 256) + 9 * 2304 * 256
    assert flops_per_image(model, torch.zeros(1, 3, 32, 32)) == 6 * (products + 256 * 10)
    config = {"name": "RecurrentClassifier", "cell": "lstm", "input_size": 28, "hidden_size": 8, "classes": 10}
    model = build_model({"model": config | {"layers": 2, "bidirectional": True, "dropout": 0.0}}, seed=0)
    products = 28 * 2 * 4 * 8 * ((28 + 8) + (16 + 8)) + 16 * 10  # steps · directions · gates · hidden · (inputs + own)
    assert flops_per_image(model, torch.zeros(1, 1, 28, 28)) == 6 * products


def test_it_takes_images_of_more_lengths_than_lenet5() -> None:
    """Of 26 rows or more, two left out and the rest halved thrice, the last pooling has the 3 rows that it needs."""
    digit = torch.zeros(1, 1, 28, 28)
    model = build_model(description(channels=1, image_size=28), seed=0).eval().folded()
    assert taken_lengths(model, digit) == [*range(26, 41, 2)]
    lenet5 = {"name": "LeNet5", "channels": 1, "image_size": 28, "classes": 10, "fc_activation": "tanh"}
    assert taken_lengths(build_model({"model": lenet5}, seed=0), digit) == [28, 30]  # 7 rows after two poolings
