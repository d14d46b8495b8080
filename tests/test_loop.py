"""The training loop against NumPy, its bits from run to run, and what a run prints."""

import contextlib
import csv
import importlib
import json
import math
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from conftest import PROJECT
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import harness.evaluate
import harness.train
import rnn_mnist
from harness.augmentation import views
from harness.data import EpochOrder, ImageSet, Split
from harness.device import _product_seconds
from harness.evaluate import evaluate
from harness.flags import augmentations
from harness.metrics import COLUMNS, EpochMetrics, aligned, best_values
from harness.optimizers import OPTIMIZERS, learning_rates, make_optimizer, quick_steps, scheduled, state_template
from harness.progress import ProgressBar
from harness.ranks import ALONE
from harness.tensorboard import BEST_TAGS, CONFUSION_TAG, CURVES, EPOCH_TAGS, EPOCHS_TAG, FILTERS_TAG, MISTAKES_TAG
from harness.train import train_epoch

CPU = torch.device("cpu")
SHORT = ("--data", "synthetic", "--hidden-size", 6, "--batch-size", 32)  # of rnn_mnist.py


def flags(**changes: object) -> Namespace:
    usual = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "clip_grad_norm": 0.0}
    later = {"nesterov": False, "schedule": "constant", "warmup": 0.0, "label_smoothing": 0.0, "epochs": 2}
    return Namespace(**usual | later | {"batch_size": 2, "precision": "fp32"} | changes)


# -- one epoch, in NumPy -----------------------------------------------------------------------------------------------

CLASSES, PIXELS = 3, 4


@pytest.fixture
def five_images() -> ImageSet:
    """Five train and seven test images of 2×2 pixels in three classes."""
    draw = np.random.default_rng(1)

    def split(count: int) -> Split:
        images = torch.from_numpy(draw.integers(0, 256, (count, 1, 2, 2), dtype=np.uint8))
        return Split(images, torch.from_numpy(draw.integers(0, CLASSES, count)))

    return ImageSet("five", "checksum", ("a", "b", "c"), 0.4, 0.2, split(5), split(7))


def linear_model() -> nn.Module:
    """Flatten, then one linear layer with fixed weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES))
    draw = np.random.default_rng(2)
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(draw.normal(size=(CLASSES, PIXELS))))
        model[1].bias.copy_(torch.from_numpy(draw.normal(size=CLASSES)))
    return model


def normalized(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, pixels) in float64 and labels (n,): pixels to [0, 1], minus the mean 0.4, over 0.2."""
    return (split.images.numpy().reshape(len(split), -1) / 255 - 0.4) / 0.2, split.labels.numpy()


def cross_entropy(
    parameters: np.ndarray, inputs: np.ndarray, labels: np.ndarray, smoothing: float = 0.0
) -> tuple[np.ndarray, ...]:
    """Each image's loss, whether it is right, and the gradient of the mean loss; parameters (classes, pixels + 1)."""
    extended = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)  # the last column meets the bias
    logits = extended @ parameters.T
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES  # Szegedy et al. (2016), section 7
    losses = -(targets * np.log(shares)).sum(axis=1)
    gradient = (shares - targets).T @ extended / len(labels)
    return losses, logits.argmax(axis=1) == labels, gradient


def numpy_epoch(images: ImageSet, order: list[int], f: Namespace) -> tuple[float, float, np.ndarray]:
    """Loss, accuracy and parameters (classes, pixels + 1) after one epoch, by the update rules of PyTorch's manual."""
    model = linear_model()
    p = np.concatenate([model[1].weight.detach().numpy(), model[1].bias.detach().numpy()[:, None]], axis=1)
    p = p.astype(np.float64)
    inputs, labels = normalized(images.train)
    losses, right = [], []
    first, second = np.zeros_like(p), np.zeros_like(p)
    for step, start in enumerate(range(0, len(order), f.batch_size), start=1):
        chosen = order[start : start + f.batch_size]
        batch_losses, batch_right, g = cross_entropy(p, inputs[chosen], labels[chosen], f.label_smoothing)
        losses, right = [*losses, *batch_losses], [*right, *batch_right]
        if f.clip_grad_norm:
            g = g * min(1.0, f.clip_grad_norm / np.sqrt((g**2).sum()))
        if f.optimizer == "adamw":  # Loshchilov & Hutter: the decay stands apart from the gradient
            p = p * (1 - f.lr * f.weight_decay)
        else:
            g = g + f.weight_decay * p
        if f.optimizer == "sgd":
            first = f.momentum * first + g
            p = p - f.lr * (g + f.momentum * first if f.nesterov else first)
        elif f.optimizer == "adagrad":
            second = second + g**2
            p = p - f.lr * g / (np.sqrt(second) + 1e-10)
        else:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            p = p - f.lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return float(np.mean(losses)), float(np.mean(right)), p


SETTINGS = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.3},
    {"clip_grad_norm": 0.5},
    {"momentum": 0.5, "weight_decay": 0.2, "clip_grad_norm": 0.3, "batch_size": 1},
    {"momentum": 0.5, "nesterov": True},
    {"label_smoothing": 0.3},
    {"batch_size": 5},
    {"batch_size": 1000},
    {"optimizer": "adagrad"},
    {"optimizer": "adagrad", "weight_decay": 0.3},
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 0.3, "clip_grad_norm": 0.2},
    {"optimizer": "adamw"},
    {"optimizer": "adamw", "weight_decay": 0.3},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_epoch_equals_numpy(changes: dict, five_images: ImageSet) -> None:
    """With batches of 2 the last holds one image: the epoch's loss is a mean over images, not over batches."""
    order, settings = [3, 0, 4, 1, 2], flags(**changes)
    model, shown = linear_model(), []
    loss, accuracy = train_epoch(
        model,
        make_optimizer(settings, model, CPU),
        five_images,
        EpochOrder(torch.tensor(order)),
        settings,
        lambda count, totals: shown.append((count, *totals.tolist())),
    )
    expected_loss, expected_accuracy, expected = numpy_epoch(five_images, order, settings)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert accuracy == pytest.approx(expected_accuracy)
    np.testing.assert_allclose(model[1].weight.detach().numpy(), expected[:, :-1], atol=2e-5)
    np.testing.assert_allclose(model[1].bias.detach().numpy(), expected[:, -1], atol=2e-5)
    assert [count for count, *_ in shown] == [
        len(order[i : i + settings.batch_size]) for i in range(0, 5, settings.batch_size)
    ]
    assert shown[-1][1:] == pytest.approx((5 * expected_loss, 5 * expected_accuracy), rel=1e-5)


def test_host_reads_nothing_from_the_device_before_an_epoch_ends(
    five_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's meta device has no data: to read a number there is an error where a GPU would have the host wait."""
    monkeypatch.setattr("harness.device.autocast", lambda *_: contextlib.nullcontext())  # which knows no such device
    meta = torch.device("meta")
    model = linear_model().to(meta)
    optimizer = torch.optim.Adam(model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    sizes = augmentations("mirror,shift:1,reflect:1,cutout:1,rotate,scale,shear")
    order = EpochOrder.draw(5, torch.Generator(), sizes).to(meta)
    images, settings, shown = replace(five_images.to(meta), mirrored=True), flags(label_smoothing=0.1), []
    rates = learning_rates(flags(schedule="cosine"), 1, 3)
    with pytest.raises(NotImplementedError, match="no data"):  # by the end's reading of loss and accuracy
        train_epoch(model, optimizer, images, order, settings, lambda n, _: shown.append(n), ALONE, rates, average)
    assert shown == [2, 2, 1]


def test_every_setting_of_the_optimizer_leads_elsewhere(five_images: ImageSet) -> None:
    """Guards the comparison above: no two of its settings may come to the same weights."""
    ends = [numpy_epoch(five_images, [3, 0, 4, 1, 2], flags(**changes)) for changes in SETTINGS]
    distinct = {tuple(np.round(parameters, 4).ravel()) for _, _, parameters in ends}
    assert len(distinct) == len(SETTINGS) - 2  # 1000 images a batch are 5; adamw without decay is adam


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_optimizer_has_the_settings_of_the_flags_and_is_fused_where_pytorch_can(name: str) -> None:
    settings = flags(optimizer=name, lr=0.25, weight_decay=0.125, momentum=0.5)
    made = make_optimizer(settings, linear_model(), CPU)
    assert type(made).__name__.lower() == name
    assert (made.defaults["lr"], made.defaults["weight_decay"], made.defaults["fused"]) == (0.25, 0.125, True)
    assert made.defaults.get("momentum") == (0.5 if name == "sgd" else None)
    on_gpu = make_optimizer(settings, linear_model(), torch.device("cuda"))
    assert bool(on_gpu.defaults["fused"]) == (name != "adagrad")


def test_an_optimizer_is_one_entry_which_flags_and_report_take_without_importing_torch() -> None:
    from harness.flags import flag_label

    parser = rnn_mnist.make_parser()
    (choices,) = (action.choices for action in parser._actions if action.dest == "optimizer")
    assert list(choices) == list(OPTIMIZERS)
    assert [flag_label("optimizer", name) for name in OPTIMIZERS] == [entry.title for entry in OPTIMIZERS.values()]
    code = "import sys, harness.flags; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.9}, *({"optimizer": o} for o in OPTIMIZERS)])
def test_state_of_an_optimizer_looks_as_its_template_says(changes: dict) -> None:
    """The template is learnt from a small parameter; here is the model's own, after a step."""
    settings, model = flags(**changes), linear_model()
    optimizer = make_optimizer(settings, model, CPU)
    model(torch.zeros(2, 1, 2, 2)).sum().backward()
    optimizer.step()
    looks = [
        {number: {name: (v.shape, v.dtype) for name, v in each.items()} for number, each in states.items()}
        for states in (state_template(settings, model), optimizer.state_dict()["state"])
    ]
    assert looks[0] == {number: each for number, each in looks[1].items() if each}


SGDS = ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True})


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("changes", [*SGDS, *({"optimizer": o} for o in ("adagrad", "adam", "adamw"))])
def test_a_quick_step_is_the_optimizers_own_to_the_bit(changes: dict, schedule: str) -> None:
    """Over two epochs of three steps, with weight decay; the states that a checkpoint holds are the same, too."""
    settings = flags(weight_decay=0.1, schedule=schedule, **changes)
    models = [linear_model(), linear_model()]
    quick, usual = (make_optimizer(settings, model, CPU) for model in models)
    draw = torch.Generator().manual_seed(3)
    if schedule == "cosine":
        pytorchs = torch.optim.lr_scheduler.LambdaLR(usual, lambda step: (1 + math.cos(math.pi * step / 6)) / 2)
    for epoch in (1, 2):
        steps = quick_steps(quick, learning_rates(settings, epoch, 3) if schedule == "cosine" else ())
        for step in range(3):
            for own, other in zip(*(model.parameters() for model in models), strict=True):
                own.grad = torch.randn(own.shape, generator=draw)
                other.grad = own.grad.clone()
            next(steps)
            usual.step()
            if schedule == "cosine":
                pytorchs.step()
            for own, other in zip(*(model.parameters() for model in models), strict=True):
                assert torch.equal(own, other), f"step {step}"
    states, expected = quick.state_dict()["state"], usual.state_dict()["state"]
    assert states.keys() == expected.keys()
    for number, state in expected.items():
        assert states[number].keys() == state.keys()
        assert all(value is None or torch.equal(states[number][name], value) for name, value in state.items())


def pytorchs_rates(steps: int, scheduler: Callable) -> list[float]:
    """The learning rates by one of PyTorch's schedulers, of an optimizer with the rate 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler, rates = scheduler(optimizer), []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_pytorchs_and_comes_after_the_warmup() -> None:
    pytorchs = pytorchs_rates(12, lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12))
    assert [scheduled(step, 12, "cosine") for step in range(12)] == pytest.approx(pytorchs)
    with_warmup = [scheduled(step, 16, "cosine", warmup=4) for step in range(16)]
    assert with_warmup == pytest.approx([0.25, 0.5, 0.75, 1.0, *pytorchs])


@pytest.mark.parametrize(
    ("schedule", "steps", "warmup", "rates"),
    [
        ("constant", 3, 0, [1, 1, 1]),
        ("constant", 4, 2, [0.5, 1, 1, 1]),
        ("triangle", 10, 0, [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),  # a fifth of them rises
        ("triangle", 6, 4, [0.25, 0.5, 0.75, 1, 1, 0.5]),
        ("triangle", 4, 1.5, [1 / 1.5, 1 - 0.0, 1 - 0.5 / 2.5, 1 - 1.5 / 2.5]),  # not a whole number of steps
        ("cosine", 1, 0, [1]),
        ("triangle", 2, 10, [0.1, 0.2]),  # a dry run is shorter than the warmup
    ],
)
def test_schedule_equals_values_by_hand(schedule: str, steps: int, warmup: float, rates: list[float]) -> None:
    assert [scheduled(step, steps, schedule, warmup) for step in range(steps)] == pytest.approx(rates)


def test_schedule_runs_through_the_epochs_step_by_step() -> None:
    settings = flags(schedule="triangle", warmup=0.5, epochs=3, lr=0.4)
    rates = [rate for epoch in (1, 2, 3) for rate in learning_rates(settings, epoch, 4)]
    assert rates == pytest.approx([0.4 * scheduled(step, 12, "triangle", 2) for step in range(12)])
    assert learning_rates(flags(), 2, 3) == [0.1] * 3


def test_each_step_of_an_epoch_has_its_own_rate(five_images: ImageSet) -> None:
    """Plain SGD, so that an epoch of two rates is two epochs of one: batches of 3 and 2."""
    models = [linear_model(), linear_model()]
    settings = flags(batch_size=3)
    order = EpochOrder(torch.arange(5))
    optimizer = make_optimizer(settings, models[0], CPU)
    train_epoch(models[0], optimizer, five_images, order, settings, lambda *_: None, ALONE, [0.25, 0.5])
    for rate, here in ((0.25, slice(0, 3)), (0.5, slice(3, 5))):
        images = replace(five_images, train=five_images.train.part(here))
        settings = flags(batch_size=3, lr=rate)
        order = EpochOrder(torch.arange(len(images.train)))
        train_epoch(models[1], make_optimizer(settings, models[1], CPU), images, order, settings, lambda *_: None)
    assert all(equal(*(model.state_dict() for model in models)))


def test_average_of_the_weights_equals_a_plain_loop_after_each_step(five_images: ImageSet) -> None:
    """And so does that of batch normalization's running mean; its count of batches is rounded to whole ones."""
    model = nn.Sequential(nn.BatchNorm2d(1), linear_model())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    settings, seen = flags(batch_size=2, lr=0.5), []

    def show(*_: object) -> None:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    order = EpochOrder(torch.arange(5))
    for _ in range(2):
        optimizer = make_optimizer(settings, model, CPU)
        train_epoch(model, optimizer, five_images, order, settings, show, ALONE, (), average)
    assert len(seen) == 6
    expected = seen[0]
    for later in seen[1:]:
        expected = {name: 0.75 * value + 0.25 * later[name] for name, value in expected.items()}
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
            assert not torch.allclose(value, seen[-1][name])


@pytest.mark.parametrize("mirrored", [True, False])
def test_augmented_evaluation_is_that_of_the_mean_logits_of_all_views(five_images: ImageSet, mirrored: bool) -> None:
    images, model = replace(five_images, mirrored=mirrored), linear_model()
    total = torch.zeros(7, CLASSES)
    for weight, view in views(images.test.images, mirrored=mirrored):
        total += weight * model((view / 255 - 0.4) / 0.2)
    expected = (total.argmax(dim=1) == images.test.labels).double().mean().item()
    loss, accuracy = evaluate(model, images, "fp32", augmented=True)
    assert accuracy == pytest.approx(expected)
    assert loss == pytest.approx(nn.functional.cross_entropy(total, images.test.labels).item(), rel=1e-5)
    assert loss != pytest.approx(evaluate(model, images, "fp32")[0], rel=1e-3)


def test_evaluation_equals_numpy_and_ignores_its_batch_size(
    five_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = linear_model()
    parameters = torch.cat([model[1].weight, model[1].bias[:, None]], dim=1).detach().double().numpy()
    losses, right, _ = cross_entropy(parameters, *normalized(five_images.test))
    assert 0 < right.sum() < 7
    for batch in (500, 3):
        monkeypatch.setattr("harness.evaluate.TEST_BATCH", batch)
        loss, accuracy = evaluate(model, five_images, "fp32")
        assert loss == pytest.approx(losses.mean(), rel=1e-5)
        assert accuracy == pytest.approx(right.mean())


def test_convolutions_are_evaluated_in_smaller_batches(five_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = harness.evaluate.test_batches
    monkeypatch.setattr("harness.evaluate.test_batches", lambda images, size: asked.append(size) or real(images, size))
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), linear_model())
    linear = linear_model()[1]
    convolution[1][1] = nn.Linear(2 * linear.in_features, linear.out_features)
    for model in (linear_model(), convolution):
        evaluate(model, five_images, "fp32")
    assert asked == [harness.evaluate.TEST_BATCH, harness.evaluate.TEST_BATCH_OF_CONVOLUTIONS]


class Recorder(nn.Module):
    """A linear model that notes in which mode, and in which precision of its linear layer, it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = linear_model(), []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.linear(images)
        self.calls.append((self.training, logits.dtype, torch.is_grad_enabled()))
        return logits


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_training_and_evaluation_use_their_mode_and_the_precision_asked_for(
    precision: str, dtype: torch.dtype, five_images: ImageSet
) -> None:
    model, settings = Recorder(), flags(precision=precision, batch_size=5)
    evaluate(model, five_images, precision)
    order = EpochOrder(torch.arange(5))
    train_epoch(model, make_optimizer(settings, model, CPU), five_images, order, settings, lambda *_: None)
    evaluate(model, five_images, precision)
    assert model.calls == [(False, dtype, False), (True, dtype, True), (False, dtype, False)]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


# -- whole runs --------------------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def model_in(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True)["model"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[bool]:
    return [torch.equal(one[name], other[name]) for name in one]


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_same_flags_give_the_same_bits_and_another_seed_gives_others(run_main: Callable, in_project: Path) -> None:
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        torch.manual_seed(len(name) + seed)  # whatever state the process is in
        code, _, err = run_main("rnn_mnist", *SHORT, "--epochs", 2, "--seed", seed, "--name", name)
        assert (code, err) == (0, "")
    runs = in_project / "runs" / "rnn_synthetic"
    assert all(equal(model_in(runs / "first"), model_in(runs / "again")))
    assert not any(equal(model_in(runs / "first"), model_in(runs / "other")))
    first, again, other = (
        [list(row.values())[:-1] for row in rows_of(runs / name)] for name in ("first", "again", "other")
    )
    assert first == again != other


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
@pytest.mark.parametrize(
    ("script", "argv", "kinds", "mirrored"),
    [
        ("rnn_mnist", SHORT, [], False),
        ("rnn_mnist", (*SHORT, "--augment"), ["mirror", "shift"], False),  # a mirrored 2 is no 2
        ("rnn_mnist", (*SHORT, "--augment", "rotate,shift:2"), ["shift", "rotate"], False),
        ("rnn_mnist", (*SHORT, "--augment", "alternate"), ["mirror"], True),  # but whoever asks for it gets it
        ("cnn_cifar10", ("--data", "synthetic"), [], True),
        ("cnn_cifar10", ("--data", "synthetic", "--augment"), ["mirror", "shift"], True),
    ],
)
def test_images_are_augmented_if_asked_and_only_then(
    script: str,
    argv: tuple,
    kinds: list[str],
    mirrored: bool,
    run_main: Callable,
    in_project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    real = harness.train.train_epoch

    def train_epoch(model: nn.Module, optimizer: object, images: ImageSet, order: EpochOrder, *rest: object) -> tuple:
        seen.append((list(order.choices), images.mirrored))
        return real(model, optimizer, images, order, *rest)

    monkeypatch.setattr(harness.train, "train_epoch", train_epoch)
    assert run_main(script, *argv, "--dry-run")[0] == 0
    assert seen == [(kinds, mirrored)]


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_training_leaves_the_processes_own_random_numbers_alone(run_main: Callable, in_project: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    for script, own in (("rnn_mnist", SHORT), ("cnn_cifar10", ("--data", "synthetic", "--augment"))):
        assert run_main(script, *own, "--dry-run")[0] == 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(one, other) for one, other in zip(np.random.get_state(), before[2], strict=True))


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_synthetic_training_needs_neither_network_nor_gpu(
    run_main: Callable, in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    code, _, err = run_main("rnn_mnist", *SHORT, "--epochs", 1, "--name", "here")
    assert (code, err) == (0, "")
    config = json.loads((in_project / "runs/rnn_synthetic/here/config.json").read_text())
    assert (config["device"], config["status"]) == ("cpu", "complete")
    assert [entry.name for entry in in_project.iterdir()] == ["runs"]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_is_not_there_is_one_sentence_and_exit_code_2(
    device: str, run_main: Callable, in_project: Path, monkeypatch: pytest.MonkeyPatch, tiny_synthetic: tuple
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    code, out, err = run_main("rnn_mnist", *SHORT, "--device", device)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: --device {device}: ") and err.count("\n") == 1
    assert list(in_project.iterdir()) == []


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    ("has_bf16", "seconds", "warning"),
    [
        (True, 1, ""),
        (True, 2.5, "warning: this CPU multiplies in bf16 at 40% of its fp32 speed; --precision fp32 is faster\n"),
        (False, 1, "warning: this CPU has no bf16 arithmetic, which will be slow; --precision fp32 is faster\n"),
    ],
)
def test_bf16_warns_where_it_is_slower(
    has_bf16: bool,
    seconds: float,
    warning: str,
    run_main: Callable,
    in_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_synthetic: tuple,
) -> None:
    monkeypatch.setattr("harness.device.cpu_has_bf16", lambda: has_bf16)
    product_seconds = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr("harness.device._product_seconds", product_seconds.get)
    code, out, err = run_main("rnn_mnist", *SHORT, "--precision", "bf16", "--device", "cpu", "--dry-run")
    assert code == 0
    assert " cpu, bf16, " in out.splitlines()[0]
    assert err == warning


def test_products_are_timed_in_the_precision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied, real = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda first, second: multiplied.append(first.dtype) or real(first, second))
    assert _product_seconds(torch.bfloat16) > 0
    assert set(multiplied) == {torch.bfloat16}


@pytest.mark.parametrize("script", ["cnn_cifar10", "rnn_mnist"])
def test_dry_run_leaves_nothing_behind(
    script: str, run_main: Callable, in_project: Path, monkeypatch: pytest.MonkeyPatch, tiny_synthetic: tuple
) -> None:
    temporary = in_project / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    code, out, err = run_main(script, "--data", "synthetic", "--dry-run", "--epochs", 50, "--batch-size", 16)
    assert (code, err) == (0, "")
    assert "(32 train and 32 test images)" in out  # a couple of batches
    assert "epoch 1/1 " in out and "dry run: nothing was kept" in out
    assert "run folder" not in out and str(temporary) not in out
    assert [entry.name for entry in in_project.iterdir()] == ["temporary"]
    assert [entry.name for entry in temporary.iterdir() if not entry.name.startswith("torchinductor")] == []


@pytest.mark.usefixtures("quick_figures")
def test_run_prints_an_aligned_line_an_epoch_and_a_table_that_its_metrics_bear_out(
    run_main: Callable, in_project: Path, tiny_synthetic: tuple
) -> None:
    code, out, err = run_main("rnn_mnist", *SHORT, "--epochs", 10, "--lr", 0.1, "--name", "run")
    assert (code, err) == (0, "")  # no progress bar, as this is no terminal
    rows = rows_of(in_project / "runs/rnn_synthetic/run")
    assert [row["epoch"] for row in rows] == list(range(1, 11))

    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    pattern = r"epoch +(\d+)/10 +(\d+\.\d{4})  (\d\.\d{4}) +(\d+\.\d{4})  (\d\.\d{4}) ([* ]) +(\d+\.\d) +(\d\d:\d\d)"
    shown = [re.fullmatch(pattern, line) for line in lines]
    assert len(shown) == 10 and all(shown)
    (head,) = (line for line in out.splitlines() if re.fullmatch(" +train +test +seconds +left", line))
    assert {len(line) for line in lines} == {len(head)}
    columns = ("epoch", "train/loss", "train/accuracy", "test/loss", "test/accuracy")
    best = 0.0
    for match, row, number in zip(shown, rows, range(1, 11), strict=True):
        assert [float(text) for text in match.groups()[:5]] == pytest.approx([row[c] for c in columns], abs=5.1e-5)
        assert match[6] == ("*" if row["test/accuracy"] > best else " ")
        best = max(best, row["test/accuracy"])
        assert abs(float(match[7]) - row["seconds"]) <= 0.051
        last = [row["seconds"] for row in rows[max(0, number - 3) : number]]
        assert match[8] == f"00:{int(sum(last) / len(last) * (10 - number)):02}"

    head, train, test = (line.split() for line in out.splitlines() if re.match(r" +best|Train|Test", line))
    assert " ".join(head) == "best loss best accuracy last loss last accuracy"
    for name, line in (("train", train), ("test", test)):
        losses, accuracies = [row[f"{name}/loss"] for row in rows], [row[f"{name}/accuracy"] for row in rows]
        expected = [min(losses), max(accuracies), losses[-1], accuracies[-1]]
        assert line == [name.capitalize(), *(f"{value:.4f}" for value in expected)]
    assert str(Path("runs/rnn_synthetic/run")) in out and "tensorboard --logdir runs\n" in out
    assert out.endswith(f"\n  http://localhost:6006/{CURVES}\n") and max(map(len, out.splitlines())) <= 80


def test_address_of_the_curves_shows_them_and_no_other_tag() -> None:
    query = parse_qs(urlsplit(f"http://localhost:6006/{CURVES}").query)
    others = (*BEST_TAGS, EPOCHS_TAG, CONFUSION_TAG, MISTAKES_TAG, FILTERS_TAG, "visualize/deconvnet_conv2")
    curves = [tag for tag in COLUMNS.values() if "/" in tag]
    shown = [tag for tag in (*curves, *others) if re.search(query["tagFilter"][0], tag)]
    assert shown == curves and shown[:4] == [*EPOCH_TAGS] and query["smoothing"] == ["0"]


@pytest.mark.usefixtures("quick_figures", "tiny_synthetic")
def test_loss_far_above_guessing_is_said_once_and_the_columns_hold(run_main: Callable, in_project: Path) -> None:
    line = ("--optimizer", "sgd", "--lr", 1e30, "--epochs", 3)
    code, out, err = run_main("rnn_mnist", *SHORT, *line)
    assert code == 0
    warning = "the loss of epoch 1 is far above 2.30, which is guessing; a smaller --lr may help"  # the log of 10
    assert err == f"warning: {warning}\n"
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert re.match(r"epoch 2/3 +\d\.\de\+\d\d  0\.\d{4} ", lines[1])
    head, train, test = (line for line in out.splitlines() if re.match(r" +best|Train|Test", line))
    assert len(head) == len(train) == len(test)

    _, out, err = run_main("rnn_mnist", *SHORT, "--epochs", 3)
    assert err == ""
    usual = [line for line in out.splitlines() if line.startswith("epoch")]
    assert len({len(line) for line in (*lines, *usual)}) == 1


@pytest.mark.parametrize("value", [0.0, 2.30258, 999.99994, 1000.0, 1e30, 1.04e308, float("inf"), float("nan")])
def test_every_number_fits_its_column(value: float) -> None:
    for width, decimals in ((7, ".1f"), (7, ",.0f"), (8, ".4f"), (10, ".4f")):
        text = aligned(value, width, decimals)
        assert len(text) == width
        assert not math.isfinite(value) or float(text.replace(",", "")) == pytest.approx(value, rel=0.1, abs=0.5)


@pytest.mark.usefixtures("quick_figures", "tiny_synthetic")
def test_main_that_a_notebook_calls_and_interrupts_leaves_its_threads_alone(
    in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        assert torch.get_num_threads() == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.train, "train_epoch", interrupted)
    assert torch.get_num_threads() == 1
    with pytest.raises(KeyboardInterrupt):
        rnn_mnist.main([*map(str, SHORT), "--threads", "2", "--name", "run"])
    assert torch.get_num_threads() == 1
    config = json.loads((in_project / "runs/rnn_synthetic/run/config.json").read_text())
    assert config["status"] == "interrupted"


def test_best_figures_are_taken_each_from_its_own_epoch() -> None:
    history = [
        EpochMetrics(1, 0.9, 0.70, 0.4, 0.60, 1.0),
        EpochMetrics(2, 0.3, 0.65, 0.5, 0.62, 2.0),
        EpochMetrics(3, 0.5, 0.80, 0.6, 0.75, 4.0),
        EpochMetrics(4, 0.4, 0.75, 0.7, 0.55, 8.0),
    ]
    assert best_values(history)[:6] == (4, 0.3, 0.80, 0.4, 0.75, 15.0)


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("script", ["rnn_mnist", "cnn_cifar10"])
def test_loss_that_is_not_finite_ends_the_run_as_diverged(script: str, run_main: Callable, in_project: Path) -> None:
    line = ("--data", "synthetic", "--batch-size", 32, "--epochs", 5, "--optimizer", "sgd", "--lr", 1e38)
    code, _, err = run_main(script, *line, "--name", "run")
    assert code == 3
    assert err == "diverged: the loss of epoch 1 is not finite; the run stops here\n"
    folder = in_project / f"runs/{script.split('_')[0]}_synthetic/run"
    assert json.loads((folder / "config.json").read_text())["status"] == "diverged"
    [row] = rows_of(folder)
    assert not np.isfinite(row["test/loss"])


# -- progress ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, for the progress of an epoch on a terminal."""
    now = [0.0]
    monkeypatch.setattr("harness.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    return now


def test_progress_shows_the_running_loss_and_accuracy_five_times_a_second(clock: list[float]) -> None:
    with ProgressBar("epoch 1/2", 100) as progress:
        progress.update(20, torch.tensor([50.0, 5.0]))
        assert progress.bar.n == 0  # too early
        clock[0] = 0.25
        progress.update(20, torch.tensor([50.0, 30.0]))
        assert (progress.bar.desc, progress.bar.n) == ("epoch 1/2    1.2500  0.7500", 40)
        clock[0] = 0.4
        progress.update(40, torch.tensor([60.0, 60.0]))
        assert progress.bar.n == 40
        clock[0] = 0.5
        progress.update(20, torch.tensor([100.0, 90.0]))
        assert (progress.bar.desc, progress.bar.n) == ("epoch 1/2    1.0000  0.9000", 100)


def test_progress_on_a_gpu_shows_what_has_arrived_and_waits_for_nothing(clock: list[float], monkeypatch) -> None:
    """Sums on a device that says `cuda`, copies that are there once their event is over."""

    class Sums:
        device, dtype = torch.device("cuda"), torch.float64

        def __init__(self, *values: float) -> None:
            self.values = values

    class Arrived(Sums):
        def copy_(self, sums: Sums, *, non_blocking: bool) -> None:
            assert non_blocking
            self.values = sums.values

        def tolist(self) -> list[float]:
            return list(self.values)

    class Event:
        over = True

        def query(self) -> bool:
            return Event.over

        def record(self) -> None:
            pass

    monkeypatch.setattr(torch, "empty", lambda *_, dtype, pin_memory: Arrived())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with ProgressBar("epoch 1/2", 100) as progress:
        shown = []
        for step, over in enumerate((True, True, False, True), 1):
            clock[0], Event.over = step, over
            progress.update(20, Sums(20.0 * step, 2.5 * step**2))
            shown.append((progress.bar.desc.partition("  ")[2], progress.bar.n))
    first, second = "  1.0000  0.1250", "  1.0000  0.2500"
    assert shown == [("", 0), (first, 20), (first, 20), (second, 40)]


# -- the compiled step -------------------------------------------------------------------------------------------------


FILTERS = "--data synthetic --epochs 1 --batch-size 16 --max-filter-rms 0.05 --kernel-size 3 --threads 1 --name r"


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_filters_are_scaled_down_to_the_largest_rms_after_each_step(run_main: Callable, in_project: Path) -> None:
    code, _, err = run_main("cnn_cifar10", *FILTERS.split())
    assert (code, err) == (0, "")
    weights = torch.load(in_project / "runs" / "cnn_synthetic" / "r" / "last.pt")["model"]["features.conv1.weight"]
    rms = weights.square().mean(dim=(1, 2, 3)).sqrt()
    assert rms.max() == pytest.approx(0.05) and rms.min() < 0.05  # PyTorch begins at about 0.19
    assert weights.shape[2:] == (3, 3)


def test_filter_within_the_radius_stays_as_it_is() -> None:
    drawn = torch.Generator().manual_seed(0)
    filters = torch.randn(3, 2, 5, 5, generator=drawn) * torch.tensor([0.01, 1.0, 3.0]).view(3, 1, 1, 1)
    limited = filters.clone()
    harness.train.limit_filters([limited], 0.5)
    assert torch.equal(limited[0], filters[0])
    torch.testing.assert_close(limited[1:].square().mean(dim=(1, 2, 3)).sqrt(), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(limited[2] / limited[2].norm(), filters[2] / filters[2].norm())


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_compiling_leaves_recurrent_networks_as_they_are(run_main: Callable, in_project: Path) -> None:
    code, out, err = run_main("rnn_mnist", *SHORT, "--compile", "--dry-run")
    assert (code, err) == (0, "") and "note: --compile leaves a recurrent network as it is\n" in out


def small_convolution(config: dict, *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 5, stride=9), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 4 * 4, 10))


@pytest.mark.skipif(not shutil.which("g++"), reason="PyTorch compiles for a CPU by g++, which is not installed")
def test_compiled_run_equals_the_eager_one_to_rounding_and_resumes_to_the_same_bits(
    run_main: Callable, in_project: Path, monkeypatch: pytest.MonkeyPatch, tiny_synthetic: tuple, quick_figures: None
) -> None:
    # g++ takes seconds a kernel: few kernels, without optimization, and no trials of which vectors this CPU has.
    monkeypatch.setattr("models.build_model", small_convolution)
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    config = importlib.import_module("torch._inductor.config")
    monkeypatch.setattr(config.cpp, "vec_isa_ok", False)
    if hasattr(config, "cpp_cache_precompile_headers"):  # PyTorch 2.6 does not have it
        monkeypatch.setattr(config, "cpp_cache_precompile_headers", False)

    def metrics(name: str) -> np.ndarray:
        path = in_project / "runs" / "cnn_synthetic" / name / "metrics.csv"
        return np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:5]

    short = ("--data", "synthetic", "--batch-size", 80, "--optimizer", "sgd")  # one shape to compile
    for name, *more in (("eager", "--epochs", 2), ("compiled", "--compile", "--epochs", 2)):
        assert run_main("cnn_cifar10", *short, *more, "--name", name)[0] == 0
    np.testing.assert_allclose(metrics("compiled"), metrics("eager"), rtol=1e-4)

    assert run_main("cnn_cifar10", *short, "--compile", "--epochs", 1, "--name", "continued")[0] == 0
    assert run_main("cnn_cifar10", "--data", "synthetic", "--epochs", 2, "--name", "continued", "--resume")[0] == 0
    np.testing.assert_array_equal(metrics("continued"), metrics("compiled"))


@pytest.mark.usefixtures("tiny_synthetic")
def test_compiling_without_a_compiler_is_one_sentence_and_nothing_written(
    run_main: Callable, in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = importlib.import_module("torch._inductor.config")
    monkeypatch.setattr(config.cpp, "cxx", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(in_project / "cache"))  # which has nothing compiled before
    torch.compiler.reset()
    code, _, err = run_main("cnn_cifar10", "--data", "synthetic", "--compile")
    assert code == 2
    assert err == "error: --compile: PyTorch finds no working compiler on this machine; train without it\n"
    assert not Path("runs").exists()
