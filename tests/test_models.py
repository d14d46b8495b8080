"""The networks against arithmetic done by hand, by NumPy and by torch.nn.functional; and what build_model refuses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models import MAX_PARAMETERS, build_model, initialize


def lenet(**changes: object) -> dict:
    sizes = {"name": "LeNet5", "channels": 1, "image_size": 32, "classes": 10, "fc_activation": "tanh"}
    return {"model": sizes | changes}


def recurrent(**changes: object) -> dict:
    sizes = {"name": "RecurrentClassifier", "cell": "gru", "input_size": 28, "hidden_size": 128, "classes": 10}
    return {"model": sizes | changes}


def vgg(**changes: object) -> dict:
    return {"model": {"name": "VGG", "channels": 3, "image_size": 32, "classes": 10} | changes}


class AllocatedOnCpu(TorchDispatchMode):
    """Counts the elements of every tensor that is made on the CPU meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "cpu":
            self.elements += result.numel()
        return result


# -- shapes and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "size", "classes"), [(1, 32, 10), (3, 32, 10), (1, 28, 10), (2, 4, 3), (1, 30, 7)]
)
def test_lenet_gives_one_logit_a_class_for_any_channels_and_size(channels: int, size: int, classes: int) -> None:
    model = build_model(lenet(channels=channels, image_size=size, classes=classes), seed=0)
    assert model(torch.zeros(5, channels, size, size)).shape == (5, classes)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_classifier_gives_one_logit_a_class_for_any_number_of_rows(cell: str) -> None:
    model = build_model(recurrent(cell=cell, input_size=6, hidden_size=5, classes=4), seed=0)
    for rows in (1, 9):
        assert model(torch.zeros(3, 1, rows, 6)).shape == (3, 4)


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Weights + biases, layer by layer: conv1, conv2, fc1 (after two poolings), fc2.
LENET_COUNTS = {
    "gray": (lenet(), (25 * 1 * 32 + 32) + (25 * 32 * 64 + 64) + (64 * 8 * 8 * 1024 + 1024) + (1024 * 10 + 10)),
    "rgb": (lenet(channels=3), (25 * 3 * 32 + 32) + (25 * 32 * 64 + 64) + (4096 * 1024 + 1024) + (1024 * 10 + 10)),
    "mnist": (lenet(image_size=28), (25 * 32 + 32) + (25 * 32 * 64 + 64) + (64 * 7 * 7 * 1024 + 1024) + (10240 + 10)),
}


@pytest.mark.parametrize("case", LENET_COUNTS)
def test_lenet_has_the_parameters_of_the_layers_as_published(case: str) -> None:
    config, expected = LENET_COUNTS[case]
    assert parameter_count(build_model(config)) == expected
    assert LENET_COUNTS["gray"][1] == 4_257_674


@pytest.mark.parametrize("hidden", [32, 128])
@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_recurrent_layer_has_a_matrix_pair_and_two_biases_a_gate(cell: str, gates: int, hidden: int) -> None:
    expected = gates * (hidden * 28 + hidden * hidden + 2 * hidden) + hidden * 10 + 10
    assert parameter_count(build_model(recurrent(cell=cell, hidden_size=hidden))) == expected


# -- first weights -----------------------------------------------------------------------------------------------------

FIRST_WEIGHT_BOUNDS = {  # 1/√fan_in; for gated recurrent layers 1/√hidden_size
    "features.conv1": 1 / math.sqrt(5 * 5 * 3),
    "features.conv2": 1 / math.sqrt(5 * 5 * 32),
    "classifier.fc1": 1 / 64,
    "classifier.fc2": 1 / 32,
    "recurrent": 1 / math.sqrt(100),
    "fc": 1 / math.sqrt(100),
}


@pytest.mark.parametrize("config", [lenet(channels=3), *(recurrent(cell=c, hidden_size=100) for c in ("lstm", "gru"))])
def test_first_weights_are_uniform_up_to_pytorchs_bound(config: dict) -> None:
    parameters = dict(build_model(config, seed=3).named_parameters())
    for name, values in parameters.items():
        bound = FIRST_WEIGHT_BOUNDS[name.rpartition(".")[0]]
        values = values.detach().double()
        assert values.abs().max() <= bound, name
        if values.numel() > 500:  # enough of them to fill the range and have a uniform distribution's moments
            assert values.max() > 0.97 * bound and values.min() < -0.97 * bound, name
            standard_error = bound / math.sqrt(3 * values.numel())
            assert abs(values.mean()) < 5 * standard_error, name
            assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06), name


def test_plain_rnn_starts_orthogonal_from_step_to_step_and_xavier_from_the_input() -> None:
    hidden = 96
    layer = build_model(recurrent(cell="rnn", hidden_size=hidden), seed=4).recurrent
    step = layer.weight_hh_l0.detach().numpy().astype(np.float64)
    assert np.abs(step @ step.T - np.eye(hidden)).max() < 1e-5
    bound = math.sqrt(6 / (28 + hidden))
    from_input = layer.weight_ih_l0.detach().numpy()
    assert 0.98 * bound < np.abs(from_input).max() <= bound
    assert from_input.std() == pytest.approx(bound / math.sqrt(3), rel=0.06)
    assert not layer.bias_ih_l0.any() and not layer.bias_hh_l0.any()
    every = dict(build_model(recurrent(cell="rnn", layers=2, bidirectional=True), seed=4).recurrent.named_parameters())
    assert len(every) == 16 and not any(every[name].any() for name in every if name.startswith("bias"))
    step = every["weight_hh_l1_reverse"].detach()
    torch.testing.assert_close(step @ step.T, torch.eye(128), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [lenet(), recurrent(cell="lstm")])
def test_seed_alone_decides_the_first_weights(config: dict) -> None:
    torch.manual_seed(1)
    state_before = torch.get_rng_state()
    first = build_model(config, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state_before)
    torch.manual_seed(2)
    again, other = build_model(config, seed=5).state_dict(), build_model(config, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_layer_without_rule_for_its_first_weights_is_no_network_of_unset_memory() -> None:
    with pytest.raises(NotImplementedError, match="GroupNorm"):
        initialize(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.GroupNorm(1, 2)), torch.Generator())


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "no config": (None, "no `model` entry"),
    "no model": ({"flags": {}}, "no `model` entry"),
    "model no dict": ({"model": "LeNet5"}, "no `model` entry"),
    "unknown network": (lenet(name="os.system"), "'os.system' is none of LeNet5, VGG, RecurrentClassifier"),
    "name no text": (lenet(name=["LeNet5"]), "is none of"),
    "missing size": ({"model": {"name": "LeNet5", "channels": 1}}, "LeNet5 takes channels, image_size"),
    "unknown size": (lenet(depth=3), "depth"),
    "size of the other network": (recurrent(channels=1), "RecurrentClassifier takes cell"),
    "zero": (lenet(channels=0), "channels 0 is not a whole number from 1 to 64"),
    "negative": (recurrent(hidden_size=-1), "hidden_size -1"),
    "too small to pool twice": (lenet(image_size=3), "image_size 3"),
    "one class": (lenet(classes=1), "classes 1"),
    "fraction": (recurrent(hidden_size=12.0), "hidden_size 12.0"),
    "boolean": (lenet(channels=True), "channels True"),
    "text": (lenet(image_size="32"), "image_size '32'"),
    "tensor": (lenet(channels=torch.tensor(3)), "channels tensor"),
    "absurd": (recurrent(hidden_size=10**15), "hidden_size 1000000000000000"),
    "unknown activation": (lenet(fc_activation="sigmoid"), "'sigmoid' is none of tanh, relu"),
    "even filters": (lenet(kernel_size=4), "kernel_size 4 is none of 1, 3, 5, 7, 9, 11, 13, 15"),
    "unknown cell": (recurrent(cell=["gru"]), "is none of rnn, lstm, gru"),
    "too small to pool thrice": (vgg(image_size=17), "image_size 17 is not a whole number from 18 to 1,024"),
    "no layer": (recurrent(layers=0), "layers 0"),
    "absurdly many layers": (recurrent(layers=10**9), "layers 1000000000"),
    "number for a truth": (recurrent(bidirectional=1), "bidirectional 1 is none of False, True"),
    "dropout of everything and more": (recurrent(dropout=1.5), "dropout 1.5 is not a number from 0.0 to 1.0"),
    "dropout no number": (recurrent(dropout=math.nan), "dropout nan"),
    "many layers": (recurrent(hidden_size=4096, layers=100), "parameters; the limit is"),
    "stride leaves no pixel": (lenet(image_size=4, stride=8), "stride 8 leaves nothing of 4 pixels a side"),
    "absurdly many maps": (lenet(conv1_maps=10**9), "conv1_maps 1000000000"),
    "large together": (lenet(image_size=1024), "would have 4,295,0"),  # fc1 alone: 64·256² · 1024 = 4,294,967,296
    "large together, recurrent": (recurrent(cell="lstm", hidden_size=16_384), "would have 1,0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_build_model_refuses_before_it_allocates(case: str) -> None:
    config, message = REFUSED[case]
    with AllocatedOnCpu() as allocated, pytest.raises(ValueError) as refusal:
        build_model(config, seed=0)
    assert message in str(refusal.value)
    assert allocated.elements < 100


def test_largest_network_allowed_is_counted_as_a_whole() -> None:
    """hidden 8160 with 28 inputs, rnn: 8160·(8160 + 28 + 2) + 8160·10 + 10 = 66.9 million; as gru three times that."""
    expected = 3 * 8160 * 8190 + 81_610
    assert expected > MAX_PARAMETERS
    with AllocatedOnCpu() as allocated, pytest.raises(ValueError, match=f"{expected:,} parameters"):
        build_model(recurrent(cell="gru", hidden_size=8160))
    assert allocated.elements == 0
    with AllocatedOnCpu() as allocated:  # the counter does see a network that is built
        build_model(recurrent(cell="gru", hidden_size=16))
    assert allocated.elements >= 3 * 16 * (16 + 28 + 2) + 170


# -- forward passes ----------------------------------------------------------------------------------------------------


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def hidden_after(cell: str, rows: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray, b_hh: np.ndarray):
    """The hidden state (batch, hidden) after all rows (batch, rows, pixels), by the equations of nn.RNN, LSTM, GRU."""
    h = c = np.zeros((len(rows), w_hh.shape[1]))
    for step in range(rows.shape[1]):
        from_input, from_hidden = rows[:, step] @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if cell == "rnn":
            h = np.tanh(from_input + from_hidden)
        elif cell == "lstm":
            i, f, g, o = np.split(from_input + from_hidden, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (ir, iz, inew), (hr, hz, hnew) = np.split(from_input, 3, axis=1), np.split(from_hidden, 3, axis=1)
            r, z = sigmoid(ir + hr), sigmoid(iz + hz)
            h = (1 - z) * np.tanh(inew + r * hnew) + z * h
    return h


def test_recurrent_classifier_computes_its_last_layer_in_fp32_under_bf16_too() -> None:
    model = build_model(recurrent(cell="gru"), seed=7)
    hidden = []
    model.fc.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model.fc(hidden[0]).detach())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_classifier_reads_rows_in_order_and_classifies_the_last_output(cell: str) -> None:
    model = build_model(recurrent(cell=cell, input_size=3, hidden_size=4, classes=2), seed=7)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    images = np.random.default_rng(0).normal(size=(2, 1, 5, 3))  # 5 rows of 3 pixels
    layer = (weights[f"recurrent.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    expected = hidden_after(cell, images[:, 0], *layer) @ weights["fc.weight"].T + weights["fc.bias"]
    with torch.no_grad():
        logits = model(torch.from_numpy(images).float())
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-6)


def test_config_without_the_later_sizes_is_the_network_that_it_was() -> None:
    later = {"layers": 1, "bidirectional": False, "dropout": 0.0}
    old, new = (build_model(recurrent(**more), seed=3).state_dict() for more in ({}, later))
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_bidirectional_classifier_reads_the_rows_from_both_ends(cell: str) -> None:
    sizes = {"cell": cell, "input_size": 3, "hidden_size": 4, "classes": 2}
    model = build_model(recurrent(**sizes, bidirectional=True), seed=7)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    images = np.random.default_rng(0).normal(size=(2, 1, 5, 3))
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    downwards = hidden_after(cell, images[:, 0], *(weights[f"recurrent.{kind}_l0"] for kind in kinds))
    upwards = hidden_after(cell, images[:, 0, ::-1], *(weights[f"recurrent.{kind}_l0_reverse"] for kind in kinds))
    expected = np.concatenate([downwards, upwards], axis=1) @ weights["fc.weight"].T + weights["fc.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(images).float()).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_second_layer_reads_the_states_of_the_first(cell: str) -> None:
    """PyTorch's own single layers, one after the other."""
    model = build_model(recurrent(cell=cell, input_size=3, hidden_size=4, classes=2, layers=2), seed=7)
    images = torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    rows = images.squeeze(1).transpose(0, 1)
    with torch.no_grad():
        for number, inputs in enumerate((3, 4)):
            layer = type(model.recurrent)(inputs, 4)
            own = ((name, getattr(model.recurrent, name.replace("_l0", f"_l{number}"))) for name in layer.state_dict())
            layer.load_state_dict(dict(own))
            rows, _ = layer(rows)
        torch.testing.assert_close(model(images), model.fc(rows[-1]), atol=1e-6, rtol=1e-5)


def test_dropout_is_between_layers_and_before_the_linear_one_and_only_in_training() -> None:
    sizes = {"cell": "lstm", "input_size": 3, "hidden_size": 400, "classes": 2}
    plain, dropping = (build_model(recurrent(**sizes, dropout=share), seed=1) for share in (0.0, 0.25))
    given = []
    dropping.fc.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    images = torch.randn(8, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(dropping.eval()(images), plain(images))
        torch.manual_seed(0)
        dropping.train()(images)
    (whole, dropped), kept = given, given[1] != 0
    assert 0.7 < kept.double().mean() < 0.8
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    assert build_model(recurrent(**sizes, layers=2, dropout=0.25)).recurrent.dropout == 0.25


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_lenet_is_the_composition_of_its_published_layers(activation: str) -> None:
    model = build_model(lenet(channels=2, image_size=8, classes=3, fc_activation=activation), seed=1)
    w = model.state_dict()
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = F.conv2d(F.pad(images, (2, 2, 2, 2)), w["features.conv1.weight"], w["features.conv1.bias"])
    maps = F.max_pool2d(maps.clamp(min=0), kernel_size=2, stride=2)  # (3, 32, 4, 4)
    maps = F.conv2d(F.pad(maps, (2, 2, 2, 2)), w["features.conv2.weight"], w["features.conv2.bias"])
    maps = F.max_pool2d(maps.clamp(min=0), kernel_size=2, stride=2)  # (3, 64, 2, 2)
    hidden = maps.reshape(3, 64 * 2 * 2) @ w["classifier.fc1.weight"].T + w["classifier.fc1.bias"]
    hidden = torch.tanh(hidden) if activation == "tanh" else hidden.clamp(min=0)
    expected = hidden @ w["classifier.fc2.weight"].T + w["classifier.fc2.bias"]
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "names", "values"),  # values that the last linear layer reads, of images of 16 pixels a side
    [
        ({}, ["features.conv1", "features.conv2", "classifier.fc1", "classifier.fc2"], 1024),
        (
            {"kernel_size": 9, "stride": 2},
            ["features.conv1", "features.conv2", "classifier.fc1", "classifier.fc2"],
            1024,
        ),
        ({"conv1_maps": 0, "fc_units": 0}, ["features.conv2", "classifier.fc2"], 64 * 8 * 8),
        ({"conv2_maps": 0, "fc_units": 7}, ["features.conv1", "classifier.fc1", "classifier.fc2"], 7),
        ({"conv1_maps": 0, "conv2_maps": 0, "fc_units": 0}, ["classifier.fc2"], 3 * 16 * 16),
    ],
)
def test_lenet_without_a_layer_is_a_chain_of_the_others(sizes: dict, names: list[str], values: int) -> None:
    model = build_model(lenet(channels=3, image_size=16, **sizes), seed=0)
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict())) == names
    assert model.classifier.fc2.in_features == values
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.train()(images), model.eval()(images))
    if first := getattr(model.features, "conv1", None):
        assert first.kernel_size[0] == sizes.get("kernel_size", 5) and first.stride[0] == sizes.get("stride", 1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pooling_before_the_relu_in_training_changes_no_bit(precision: torch.dtype) -> None:
    model = build_model(lenet(image_size=12), seed=5)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(20, 1, 12, 12, generator=generator), torch.arange(20) % 10
    images[:5] = 0.0  # windows without a single largest value
    results = []
    for training in (True, False):
        model.train(training).zero_grad()
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        results.append([logits, *(parameter.grad.clone() for parameter in model.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_convolution_is_a_sum_of_shifted_pixels() -> None:
    """One pixel of the first feature map of a single-pixel image, by hand: the filter, mirrored about that pixel."""
    model = build_model(lenet(image_size=8), seed=2)
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 2.0
    with torch.no_grad():
        maps = model.features.conv1(image)
    weight, bias = model.features.conv1.weight[9, 0], model.features.conv1.bias[9]
    # Output (row, column) sees input (3, 4) through filter place (3 - row + 2, 4 - column + 2).
    assert maps[0, 9, 2, 5].item() == pytest.approx((2 * weight[3, 1] + bias).item(), abs=1e-6)
    assert maps[0, 9, 3, 4].item() == pytest.approx((2 * weight[2, 2] + bias).item(), abs=1e-6)
    assert maps[0, 9, 7, 7].item() == pytest.approx(bias.item(), abs=1e-6)
