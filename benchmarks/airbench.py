"""cifar10-airbench94 as published (Jordan 2024, arXiv 2404.00498), on this machine: what recipes.toml is to be beside.

    python benchmarks/airbench.py --seeds 3
    python benchmarks/airbench.py --activation relu
    python benchmarks/airbench.py --steps 5 --out benchmarks/airbench.md

Its network, first weights, optimizer, schedule and augmentation, written after the paper for our batches; not its data
path and not `torch.compile`. bf16 in place of the GPU's fp16. A line for each seed, then the means: test accuracy
plain and with test-time augmentation, seconds of training, and PFLOP as harness/flops.py counts them.

With `--steps` instead the seconds of single training steps: of its network, of ours, and of ResNet-18 (He et al. 2016)
as one trains it on CIFAR-10, with a first convolution of 3x3 and no pooling behind it. The steps are interleaved, and
the limit is the fastest large matrix product of the same rounds.
"""

import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import argument_parser, machine, table, time_of, write_page
from peers import prepare_peak
from torch import Tensor, nn
from torchvision.models import resnet18

from harness.data import EpochOrder, ImageSet, load_images, train_batches
from harness.device import autocast, keep_freed_memory
from harness.evaluate import evaluate
from harness.flops import flops_per_image
from models import build_model

BATCH, EPOCHS, WHITENED_FROM, WHITENING_BIAS_EPOCHS = 1024, 9.9, 5000, 3
LR, MOMENTUM, WEIGHT_DECAY, BIAS_GAIN, SMOOTHING = 11.5, 0.85, 0.0153, 64, 0.2  # rate and decay for 1024 examples
STEP_BATCH = 256
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--activation", choices=("gelu", "relu"), default="gelu", help="the published one is gelu")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="passes over the training images")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of the products")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--images", type=int, help="use the first so many only, to try this script")
    parser.add_argument("--steps", type=int, default=0, help="time so many single steps instead")
    parser.add_argument("--out", type=Path, help="a page to write, with --steps")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.steps:
        lines = ["# A training step of strong networks", "", *machine(), "", *step_table(arguments)]
        write_page(arguments.out, lines) if arguments.out else print("\n".join(lines))
        return
    images = load_images("cifar10", data_dir=arguments.data_dir, channels="rgb")
    images = images.first(arguments.images) if arguments.images else images
    results = []
    for seed in range(arguments.seeds):
        results.append(train(images, seed, arguments))
        plain, augmented, seconds, flops = results[-1]
        print(
            f"seed {seed}: {plain:.4f}, augmented {augmented:.4f}, {seconds:.0f} s, {flops / 1e15:.2f} PFLOP",
            flush=True,
        )
    plain, augmented, seconds, flops = map(statistics.fmean, zip(*results, strict=True))
    row = [f"{arguments.activation}, {arguments.epochs:g} epochs", f"{plain:.4f}", f"{augmented:.4f}"]
    row += [f"{seconds:.0f}", f"{flops / 1e15:.2f}", arguments.seeds]
    header = ["recipe", "test accuracy", "with test-time augmentation", "seconds", "PFLOP", "runs"]
    print("\n".join([*machine(), "", *table(header, [row])]))


def train(images: ImageSet, seed: int, arguments: Namespace) -> tuple[float, float, float, int]:
    """Train one network: (test accuracy, the same with test-time augmentation, seconds of training, FLOPs)."""
    torch.manual_seed(seed)
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(seed)
    model = network(arguments.activation).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    whitening = model[1]
    whiten(whitening, model[0](images.normalize(images.train.images[:WHITENED_FROM])))
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if name.endswith("weight") and p.requires_grad]
    rate = LR / (BATCH * (1 + 1 / (1 - MOMENTUM)))  # of a sum of losses, as in the paper
    decay = WEIGHT_DECAY / (1 + 1 / (1 - MOMENTUM))
    groups = [
        {"params": values, "lr": gain * rate, "weight_decay": decay / (gain * rate)}
        for values, gain in ((biases, BIAS_GAIN), (weights, 1))
    ]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
    first_rates = [group["lr"] for group in groups]
    whole = max(1, len(images.train) // BATCH)  # batches an epoch; the last incomplete one is dropped
    steps = math.ceil(arguments.epochs * whole)
    slow = [value.clone() for value in model.state_dict().values()]  # of lookahead
    sizes, step = {"alternate": 0, "reflect": 2}, 0
    for epoch in range(1, math.ceil(arguments.epochs) + 1):
        model.train()
        whitening.bias.requires_grad_(epoch <= WHITENING_BIAS_EPOCHS)
        order = EpochOrder.draw(len(images.train), generator, sizes, seed=seed, epoch=epoch)
        for number, (inputs, labels) in enumerate(train_batches(images, order, BATCH)):
            if number == whole or step == steps:
                break
            for group, first in zip(optimizer.param_groups, first_rates, strict=True):
                group["lr"] = first * triangle(step / steps)
            with autocast(device, arguments.precision):
                logits = model(inputs)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels, label_smoothing=SMOOTHING, reduction="sum").backward()
            optimizer.step()
            step += 1
            if step % 5 == 0 or step == steps:
                kept = 1.0 if step == steps else 0.95**5 * (step / steps) ** 3
                look_ahead(model, slow, kept)
    seconds = time.perf_counter() - started
    flops = flops_per_image(model, images.normalize(images.test.images[:1])) * steps * min(BATCH, len(images.train))
    accuracies = [evaluate(model, images, arguments.precision, augmented=augmented)[1] for augmented in (False, True)]
    return *accuracies, seconds, flops


def network(activation: str) -> nn.Sequential:
    """Whitening 2x2, three groups of two convolutions, the maximum of each map, a linear layer: images to logits."""

    class Normalize(nn.Module):  # from our (pixel - 0.5) / 0.5 to each channel's mean and deviation
        def forward(self, images: Tensor) -> Tensor:
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
            return (images * 0.5 + 0.5 - mean) / std

    class Scale(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return logits / 9

    def convolution(inputs: int, maps: int) -> nn.Conv2d:
        layer = nn.Conv2d(inputs, maps, 3, padding="same", bias=False)
        nn.init.dirac_(layer.weight.data[:inputs])
        return layer

    def norm(maps: int) -> nn.BatchNorm2d:
        layer = nn.BatchNorm2d(maps, eps=1e-12, momentum=0.4)
        layer.weight.requires_grad_(False)
        return layer

    act = {"gelu": nn.GELU, "relu": nn.ReLU}[activation]
    layers = [Normalize(), nn.Conv2d(3, 24, 2), act()]
    layers[1].weight.requires_grad_(False)
    for inputs, maps in ((24, 64), (64, 256), (256, 256)):
        layers += [convolution(inputs, maps), nn.MaxPool2d(2), norm(maps), act()]
        layers += [convolution(maps, maps), norm(maps), act()]
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10, bias=False), Scale())


def whiten(layer: nn.Conv2d, images: Tensor) -> None:
    """Set the filters to the principal components of the images' 2x2 patches, of variance 1, and their negatives."""
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)  # (patches, 3 · 2 · 2)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(-1, 3, 2, 2)
    layer.weight.data = torch.cat([filters, -filters])
    layer.bias.data.zero_()


def triangle(done: float) -> float:
    """The share of the learning rate: from 0.2 to 1 over 23 % of the steps, then to 0.07."""
    return 0.2 + 0.8 * done / 0.23 if done < 0.23 else 1 - 0.93 * (done - 0.23) / 0.77


def look_ahead(model: nn.Module, slow: list[Tensor], kept: float) -> None:
    """Lookahead (Zhang et al. 2019): the slow weights keep this share of themselves; the model goes on from there."""
    for average, value in zip(slow, model.state_dict().values(), strict=True):
        if value.is_floating_point():
            average.lerp_(value, 1 - kept)
            value.copy_(average)


def step_table(arguments: Namespace) -> list[str]:
    """The seconds of a training step of each network, a row each; medians over the rounds."""
    ours = build_model({"model": {"name": "VGG", "channels": 3, "image_size": 32, "classes": 10}}, seed=0)
    resnet = resnet18(num_classes=10)
    resnet.conv1, resnet.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    models = {"airbench94, GELU": network("gelu"), "airbench94, ReLU": network("relu"), "ours, VGG": ours}
    models = {
        name: model.to(memory_format=torch.channels_last) for name, model in (models | {"ResNet-18": resnet}).items()
    }
    flops = {name: STEP_BATCH * flops_per_image(model, torch.zeros(1, 3, 32, 32)) for name, model in models.items()}
    steps = {name: training_step(model, arguments.precision) for name, model in models.items()}
    peak = prepare_peak(arguments.precision)
    for step in steps.values():
        step()
    rounds = [({name: time_of(step) for name, step in steps.items()}, peak()) for _ in range(arguments.steps)]
    rows = []
    for name in models:
        seconds = statistics.median(times[name] for times, _ in rounds)
        longer = statistics.median(times[name] / times["ours, VGG"] for times, _ in rounds)
        share = statistics.median(flops[name] / times[name] / limit for times, limit in rounds)
        rate = f"{flops[name] / seconds / 1e9:.0f}"
        rows.append([name, f"{flops[name] / 1e12:.2f}", f"{seconds:.2f}", f"{longer:.2f}", rate, f"{share:.0%}"])
    limit = statistics.median(limit for _, limit in rounds) / 1e9
    command = f"python benchmarks/airbench.py --steps {arguments.steps} --precision {arguments.precision}"
    return [
        f"Written by `{command} --threads {arguments.threads}`. A step on {STEP_BATCH} images: forward, backward and "
        f"SGD, in {arguments.precision}. Medians of {arguments.steps} interleaved rounds. The fastest large matrix "
        f"product reaches {limit:.0f} GFLOP/s.",
        "",
        *table(["network", "TFLOP a step", "seconds", "times ours", "GFLOP/s", "of the limit"], rows),
    ]


def training_step(model: nn.Module, precision: str) -> Callable[[], None]:
    """A function that trains the model on one batch, always the same."""
    images = torch.randn(STEP_BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (STEP_BATCH,))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=MOMENTUM, nesterov=True, fused=True)
    model.train()

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            logits = model(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
